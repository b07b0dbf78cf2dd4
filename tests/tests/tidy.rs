//! The rules of the house that a compiler does not check: which room may use what, what prose may name, how long a
//! file may be. Each rule is tested on a sample that breaks it, so that a rule which catches nothing is noticed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use stated_tests::run_to_end;

/// Longest architecture page, in lines.
const ARCHITECTURE_LINES_MAX: usize = 300;
/// Longest source file without its tests, in lines.
const SOURCE_LINES_MAX: usize = 600;

// ---------------------------------------------------------------------------------------------------------- rules

/// What the files below a path may use.
struct Rule {
    /// The path from the top of the repository; a file or a directory.
    place: &'static str,
    /// Rooms of the same crate that it may use, besides itself; any where absent.
    rooms: Option<&'static [&'static str]>,
    /// Crates that it may use; any where absent.
    crates: Option<&'static [&'static str]>,
    /// Modules of std that it may not use.
    not_std: &'static [&'static str],
}

const IO: &[&str] = &["fs", "io", "net", "os", "process", "thread", "time", "env"];

const RULES: &[Rule] = &[
    Rule {
        place: "daemon/src/machine",
        rooms: Some(&[]),
        // The last two are how it packs what is old, in memory.
        crates: Some(&["serde", "std", "stated_shared", "thiserror", "serde_json", "zstd"]),
        not_std: IO,
    },
    Rule { place: "daemon/src/disk", rooms: Some(&[]), crates: None, not_std: &["net", "process", "thread", "time"] },
    // What it writes goes through the disk that it is given, so that a test can let that fail.
    Rule {
        place: "daemon/src/journal",
        rooms: Some(&["disk"]),
        crates: None,
        not_std: &["fs", "net", "os", "process", "thread"],
    },
    Rule {
        place: "daemon/src/vault",
        rooms: Some(&["disk", "host"]),
        crates: None,
        not_std: &["net", "process", "thread"],
    },
    Rule { place: "daemon/src/host", rooms: Some(&[]), crates: None, not_std: &[] },
    // Where its text comes from, and when it counts, is the boot's business.
    Rule {
        place: "daemon/src/policy",
        rooms: Some(&[]),
        crates: Some(&["globset", "std", "stated_shared", "toml"]),
        not_std: IO,
    },
    Rule {
        place: "daemon/src/session",
        rooms: Some(&["engine", "host", "policy"]),
        crates: None,
        not_std: &["fs", "thread"],
    },
    Rule {
        place: "daemon/src/engine",
        rooms: Some(&["host", "journal", "machine", "vault"]),
        crates: None,
        not_std: &["net"],
    },
    Rule {
        place: "shared/src",
        rooms: None,
        crates: Some(&["bincode", "serde", "std", "stated_shared", "thiserror"]),
        not_std: &["fs", "io", "net", "os", "process", "thread", "time"],
    },
];

/// Crates that one place only may use.
const OWNED_CRATES: &[(&str, &str)] = &[
    ("age", "daemon/src/vault"),
    ("bincode", "shared/src/wire.rs"),
    ("clap", "client/src/cli"),
    ("clap_complete", "client/src/cli"),
    ("clap_mangen", "client/src/cli"),
    ("comfy_table", "client/src/cli"),
    ("hyper", "client/src/gateway"),
    ("indicatif", "client/src/cli"),
    ("hyper_util", "client/src/gateway"),
    ("notify", "daemon/src/host"),
];
/// Exceptions to [`OWNED_CRATES`]: a program's own command line.
const OWNED_CRATES_BUT: &[(&str, &str)] = &[("clap", "daemon/src/main.rs")];

/// What a session may know of the engine: its port.
const ENGINE_PORT: &[&str] = &[
    "Access",
    "ConnectionId",
    "ContentBudget",
    "ContentPermit",
    "Denied",
    "FetchedContent",
    "Opened",
    "Outbox",
    "Service",
    "Submission",
];

/// Crates that parse what the daemon does not speak.
const FOREIGN_PROTOCOLS: &[&str] = &["http", "httparse", "hyper", "axum", "reqwest", "quick_xml", "tiny_http"];

/// What a file breaks.
fn violations(path: &str, source: &str) -> Vec<String> {
    let uses = Uses::of(path, &tokens_without_tests(source));
    let mut found = Vec::new();
    let mut break_rule = |what: String| found.push(format!("{path}: {what}"));
    for rule in RULES.iter().filter(|rule| is_in(path, rule.place)) {
        let own = rule.place.rsplit('/').next().unwrap_or_default();
        for room in rule.rooms.iter().flat_map(|rooms| uses.rooms.keys().filter(|room| !rooms.contains(&room.as_str())))
        {
            if room != own {
                break_rule(format!("{} may not use the room {room}", rule.place));
            }
        }
        for name in rule.crates.iter().flat_map(|crates| uses.crates.iter().filter(|c| !crates.contains(&c.as_str()))) {
            break_rule(format!("{} may not use the crate {name}", rule.place));
        }
        for module in uses.std_modules.iter().filter(|module| rule.not_std.contains(&module.as_str())) {
            break_rule(format!("{} may not use std::{module}", rule.place));
        }
        if rule.rooms.is_some() && uses.leaves_by_super {
            break_rule("it leaves its room by super::super".to_owned());
        }
    }
    if is_in(path, "daemon/src/session") {
        for item in uses.rooms.get("engine").into_iter().flatten().filter(|item| !ENGINE_PORT.contains(&item.as_str()))
        {
            break_rule(format!("a session may not use engine::{item}"));
        }
    }
    for (name, place) in OWNED_CRATES {
        let excepted = OWNED_CRATES_BUT.iter().any(|(other, place)| other == name && is_in(path, place));
        if uses.crates.contains(*name) && !is_in(path, place) && !excepted {
            break_rule(format!("only {place} may use {name}"));
        }
    }
    if is_in(path, "daemon") {
        for name in uses.crates.iter().filter(|name| FOREIGN_PROTOCOLS.contains(&name.as_str())) {
            break_rule(format!("the daemon speaks no foreign protocol: {name}"));
        }
    }
    found
}

fn is_in(path: &str, place: &str) -> bool {
    path == place || path.strip_prefix(place).is_some_and(|rest| rest.starts_with('/'))
}

#[test]
fn no_room_uses_what_it_may_not_know() {
    let found: Vec<String> = sources().into_iter().flat_map(|source| violations(&source.path, &source.text)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_forbidden_use_is_caught() {
    let bad = [
        ("daemon/src/machine/x.rs", "use tokio::time::sleep;"),
        ("daemon/src/machine/x.rs", "use std::{collections::BTreeMap, fs};"),
        ("daemon/src/machine/x.rs", "fn f() { let _ = std::time::SystemTime::now(); }"),
        ("daemon/src/machine/x.rs", "use crate::{engine, machine::Grant};"),
        ("daemon/src/machine/x.rs", "fn f() { super::super::host::fill_random(&mut []); }"),
        ("daemon/src/machine/mod.rs", "use super::engine::Engine;"),
        ("daemon/src/machine/x.rs", "#[cfg(test)] mod tests {} use crate::vault::Vault;"),
        ("daemon/src/journal/local/x.rs", "use crate::machine::event::Event;"),
        ("daemon/src/journal/local/x.rs", "use super::super::super::vault::Vault;"),
        ("daemon/src/journal/x.rs", "pub use crate::vault;"),
        ("daemon/src/journal/local/x.rs", "use std::fs::File;"),
        ("daemon/src/disk/x.rs", "use crate::journal::Journal;"),
        ("daemon/src/session/x.rs", "use crate::journal::Journal;"),
        ("daemon/src/session/x.rs", "use crate::engine::{Outbox, Replay};"),
        ("daemon/src/session/x.rs", "fn f() -> crate::engine::Halt { todo!() }"),
        ("daemon/src/host/x.rs", "use crate::session::Rules;"),
        ("daemon/src/policy/x.rs", "use crate::host::GuardedFile;"),
        ("daemon/src/policy/x.rs", "use std::fs;"),
        ("daemon/src/engine/x.rs", "use crate::policy::Policies;"),
        ("daemon/src/boot/x.rs", "use notify::Watcher;"),
        ("daemon/src/vault/x.rs", "use crate::journal::Journal;"),
        ("daemon/src/engine/x.rs", "use crate::session;"),
        ("daemon/src/engine/x.rs", "use age::Identity;"),
        ("daemon/src/boot.rs", "use hyper::server;"),
        ("daemon/src/boot.rs", "use ::age as a;"),
        ("shared/src/x.rs", "use std::net::TcpStream;"),
        ("shared/src/x.rs", "use tokio as t;"),
        ("shared/src/request.rs", "fn f() { bincode::encode(); }"),
        ("client/src/client/x.rs", "use clap::Parser;"),
    ];
    for (path, source) in bad {
        assert!(!violations(path, source).is_empty(), "{path}: {source}");
    }
    let good = [
        ("daemon/src/machine/x.rs", "// use tokio::time;\n/* crate::engine */ const S: &str = \"crate::vault::x\";"),
        ("daemon/src/machine/x.rs", "/// [`crate::engine::Outbox`]\nuse super::event::Event;"),
        (
            "daemon/src/machine/x.rs",
            "#[cfg(test)]\nmod tests { use proptest::prelude::*; use crate::journal::Journal; }",
        ),
        ("daemon/src/machine/x.rs", "#[cfg(test)]\nuse crate::journal::Journal;\nuse crate::machine::Grant;"),
        ("daemon/src/session/x.rs", "use crate::engine::{Outbox, Service as S};"),
        ("daemon/src/journal/local/x.rs", "use crate::disk::Disk;"),
        (
            "daemon/src/journal/local/x.rs",
            "use super::super::limits; const C: char = '\"'; const D: &str = r#\"age::x\"#;",
        ),
        ("shared/src/wire.rs", "fn f<'a>(x: &'a str) { bincode::serde::encode(x); }"),
    ];
    for (path, source) in good {
        assert_eq!(violations(path, source), Vec::<String>::new(), "{path}: {source}");
    }
}

#[test]
fn the_daemon_depends_on_no_foreign_protocol() {
    let manifest = read("daemon/Cargo.toml");
    for name in FOREIGN_PROTOCOLS {
        let name = name.replace('_', "-");
        assert!(!manifest.lines().any(|line| line.starts_with(&format!("{name}."))), "daemon/Cargo.toml names {name}");
    }
}

// ---------------------------------------------------------------------------------------------------------- prose

#[test]
fn the_architecture_names_what_exists() {
    let tree = Tree::read();
    let text = read("ARCHITECTURE.md");
    assert!(text.lines().count() <= ARCHITECTURE_LINES_MAX, "ARCHITECTURE.md has {} lines", text.lines().count());
    let names = quoted(&text);
    assert!(names.len() > 50, "only {} names were found in ARCHITECTURE.md", names.len());
    let missing: Vec<&String> = names.iter().filter(|name| tree.lacks(name)).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md names what does not exist: {missing:?}");
    // Every page of docs/ is in its index.
    for page in files().iter().filter(|path| path.starts_with("docs/") && path.ends_with(".md")) {
        assert!(text.contains(page.as_str()), "ARCHITECTURE.md does not mention {page}");
    }
}

#[test]
fn a_name_that_does_not_exist_is_caught() {
    let tree = Tree::read();
    for name in ["NoSuchThing", "Machine::no_such_thing", "no_such_room/", "daemon/src/nothing.rs", "Journal::decide"] {
        assert!(tree.lacks(name), "{name}");
    }
    for name in ["Machine", "Machine::decide", "Journal::append", "daemon/src/engine/", "shared/src/wire.rs", "cargo x"]
    {
        assert!(!tree.lacks(name), "{name}");
    }
    assert_eq!(quoted("a `b` c\n```\n`d`\n```\n`e::f`"), ["b", "e::f"]);
}

/// Pages other than the architecture quote commands and values too, so only paths of Rust and of files are looked up.
#[test]
fn every_page_names_what_exists() {
    let tree = Tree::read();
    for page in files().iter().filter(|path| path.ends_with(".md")) {
        let names = quoted(&read(page));
        let missing: Vec<&String> = names
            .iter()
            .filter(|name| name.contains("::") || name.ends_with(".rs"))
            .filter(|n| tree.lacks(n))
            .collect();
        assert!(missing.is_empty(), "{page} names what does not exist: {missing:?}");
    }
}

#[test]
fn links_between_pages_resolve() {
    for page in files().iter().filter(|path| path.ends_with(".md")) {
        let text = read(page);
        for link in links(&text).iter().filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            let (target, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match target {
                "" => PathBuf::from(page),
                _ => Path::new(page).parent().unwrap().join(target),
            };
            assert!(root().join(&target).exists(), "{page} links to {link}, which does not exist");
            if !anchor.is_empty() {
                let headings = fs::read_to_string(root().join(&target)).unwrap();
                let mut headings = headings.lines().filter_map(|line| line.strip_prefix('#')).map(slug);
                assert!(
                    headings.any(|heading| heading == anchor),
                    "{page} links to {link}, and there is no such heading"
                );
            }
        }
    }
}

#[test]
fn pages_that_comments_point_to_exist() {
    for source in sources() {
        for word in source.text.split(|c: char| c.is_whitespace() || "()`\",;".contains(c)) {
            let word = word.trim_end_matches(['.', ':']);
            if word.starts_with("docs/") && word.len() > 5 {
                assert!(root().join(word).exists(), "{} points to {word}, which does not exist", source.path);
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------------------- files

#[test]
fn files_are_short_and_have_names_that_say_something() {
    for source in sources() {
        let lines = source.text.lines().count() - test_lines(&source.text);
        assert!(lines <= SOURCE_LINES_MAX, "{} has {lines} lines without its tests", source.path);
        for part in source.path.split('/') {
            let name = part.trim_end_matches(".rs");
            assert!(!["util", "utils", "common", "helper", "helpers", "misc"].contains(&name), "{}", source.path);
        }
    }
}

#[test]
fn nothing_is_left_to_be_done_later() {
    // Put together, so that this file does not name what it forbids.
    let later = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["X", "XX:"].concat()];
    for path in files().iter().filter(|path| path.ends_with(".rs") || path.ends_with(".md") || path.ends_with(".sh")) {
        let text = read(path);
        let found = later.iter().find(|word| text.contains(word.as_str()));
        assert_eq!(found, None, "{path}");
    }
}

// --------------------------------------------------------------------------------------------------------- proofs

/// Promises of the project, by number.
const PROMISES: u32 = 12;
const MUTATIONS_MIN: usize = 25;

/// The cells of a page's table rows whose first cell this accepts.
fn rows(text: &str, is_meant: impl Fn(&str) -> bool) -> Vec<Vec<String>> {
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    text.lines().filter(|line| line.starts_with("| ")).map(cells).filter(|cells| is_meant(&cells[0])).collect()
}

/// Every function of the sources, tests included.
fn functions() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in files().iter().filter(|path| path.ends_with(".rs")) {
        let tokens = tokens(&read(path));
        found.extend(tokens.windows(2).filter(|pair| pair[0].text == "fn").map(|pair| pair[1].text.clone()));
    }
    found
}

#[test]
fn each_promise_has_tests_of_its_name() {
    let functions = functions();
    let rows = rows(&read("docs/reliability.md"), |first| first.parse::<u32>().is_ok());
    let numbers: Vec<u32> = rows.iter().map(|row| row[0].parse().unwrap()).collect();
    assert_eq!(numbers, (1..=PROMISES).collect::<Vec<_>>(), "docs/reliability.md has a row for each promise");
    for (number, row) in numbers.into_iter().zip(rows) {
        let named: BTreeSet<String> = quoted(row.last().unwrap()).into_iter().collect();
        let missing: Vec<&String> = named.difference(&functions).collect();
        assert!(missing.is_empty(), "promise {number} names tests that do not exist: {missing:?}");
        let prefix = format!("promise_{number}_");
        let of_its_name: BTreeSet<&String> = functions.iter().filter(|name| name.starts_with(&prefix)).collect();
        assert!(!of_its_name.is_empty(), "no test is called {prefix} and what it promises");
        let untold: Vec<_> = of_its_name.into_iter().filter(|name| !named.contains(*name)).collect();
        assert!(untold.is_empty(), "the row of promise {number} does not name {untold:?}");
    }
}

#[test]
fn each_mutation_applies_and_its_test_exists() {
    let functions = functions();
    let page = read("docs/reliability.md");
    let patches: Vec<String> = files().into_iter().filter(|path| path.ends_with(".patch")).collect();
    assert!(patches.len() >= MUTATIONS_MIN, "only {} mutations", patches.len());
    let applies = |patch: &str, more: &[&str]| {
        let mut command = Command::new("git");
        command.args(["apply", "--check"]).args(more).arg(patch).current_dir(root());
        let output = run_to_end(command);
        (output.code == 0, output.stderr)
    };
    assert!(!applies(&patches[0], &["--reverse"]).0, "what does not apply is not noticed");
    let mut told = Vec::new();
    for patch in &patches {
        let (ok, why) = applies(patch, &[]);
        assert!(ok, "{patch} breaks nothing any more, so it is to be made anew: {why}");
        let text = read(patch);
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        let (what, test) = (field("what: ").expect("what it breaks"), field("test: ").expect("its test"));
        let function = test.rsplit("::").next().unwrap().rsplit(' ').next().unwrap().to_owned();
        assert!(functions.contains(&function), "{patch}: there is no test {function}");
        let name = Path::new(patch).file_stem().unwrap().to_str().unwrap();
        told.push([format!("`{name}`"), what, format!("`{function}`")]);
    }
    let rows = rows(&page, |first| {
        patches.iter().any(|patch| patch.ends_with(&format!("/{}.patch", first.trim_matches('`'))))
    });
    let rows: Vec<_> = rows.iter().map(|row| [row[0].clone(), row[1].clone(), row[2].clone()]).collect();
    assert_eq!(rows, told, "docs/reliability.md has a row for each patch of tests/mutations, in their order");
}

// ----------------------------------------------------------------------------------------------------- repository

struct Source {
    path: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file of the repository, as paths from its top.
fn files() -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![root()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && name != ".git" && name != "fixtures" {
                    left.push(path);
                }
            } else {
                found.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Every source file but those that are tests as a whole.
fn sources() -> Vec<Source> {
    let all: Vec<Source> = files()
        .into_iter()
        .filter(|path| path.ends_with(".rs"))
        .map(|path| Source { text: read(&path), path })
        .collect();
    let tests: Vec<String> = all.iter().flat_map(|source| test_modules(&source.path, &source.text)).collect();
    let is_test = |path: &str| {
        let beside = tests.iter().any(|test| path == format!("{test}.rs") || is_in(path, test));
        beside || path.split('/').any(|part| part == "tests" || part == "benches" || part == "fuzz")
    };
    let found: Vec<Source> = all.into_iter().filter(|source| !is_test(&source.path)).collect();
    assert!(found.len() > 80, "only {} sources were found", found.len());
    found
}

/// Modules that a file declares for tests only, as paths without `.rs`.
fn test_modules(path: &str, text: &str) -> Vec<String> {
    let directory = match path.strip_suffix("/mod.rs").or_else(|| path.strip_suffix("/lib.rs")) {
        Some(directory) => directory.to_owned(),
        None => path.trim_end_matches(".rs").to_owned(),
    };
    let tokens = tokens(text);
    let end = std::iter::repeat_n("", 8);
    let words: Vec<&str> = tokens.iter().map(|token| token.text.as_str()).chain(end).collect();
    let attribute = ["#", "[", "cfg", "(", "test", ")", "]"];
    let declared = words.windows(attribute.len() + 4).filter(|window| window.starts_with(&attribute)).filter_map(|w| {
        let item: Vec<&&str> = w[attribute.len()..].iter().skip_while(|word| **word == "pub").collect();
        (*item[0] == "mod" && *item[2] == ";").then(|| format!("{directory}/{}", item[1]))
    });
    declared.collect()
}

// ----------------------------------------------------------------------------------------------------- Rust, a bit

#[derive(Clone)]
struct Token {
    text: String,
    line: usize,
}

/// Identifiers and single punctuation characters; comments, strings and lifetimes are left out.
fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let start = at;
        let rest = &chars[at..];
        let is = |text: &str| rest.iter().copied().take(text.len()).eq(text.chars());
        if is("//") {
            at += rest.iter().position(|c| *c == '\n').unwrap_or(rest.len());
        } else if is("/*") {
            at += end_of(rest, "*/");
        } else if let Some(len) = raw_string(rest) {
            at += len;
        } else if rest[0] == '"' {
            at += quoted_len(rest, '"');
        } else if rest[0] == '\'' && (rest.get(1) == Some(&'\\') || rest.get(2) == Some(&'\'')) {
            at += quoted_len(rest, '\'');
        } else if rest[0].is_alphanumeric() || rest[0] == '_' {
            at += rest.iter().position(|c| !c.is_alphanumeric() && *c != '_').unwrap_or(rest.len());
            found.push(Token { text: chars[start..at].iter().collect(), line });
        } else {
            at += 1;
            if !rest[0].is_whitespace() {
                found.push(Token { text: rest[0].to_string(), line });
            }
        }
        line += chars[start..at].iter().filter(|c| **c == '\n').count();
    }
    found
}

fn end_of(rest: &[char], end: &str) -> usize {
    let end: Vec<char> = end.chars().collect();
    rest.windows(end.len()).position(|window| window == end).map_or(rest.len(), |position| position + end.len())
}

fn quoted_len(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn raw_string(rest: &[char]) -> Option<usize> {
    let start = usize::from(rest.first() == Some(&'b'));
    (rest.get(start) == Some(&'r')).then_some(())?;
    let hashes = rest[start + 1..].iter().take_while(|c| **c == '#').count();
    (rest.get(start + 1 + hashes) == Some(&'"')).then_some(())?;
    let end = format!("\"{}", "#".repeat(hashes));
    let body = start + hashes + 2;
    Some(body + end_of(&rest[body..], &end))
}

/// The tokens, without items under `#[cfg(test)]`.
fn tokens_without_tests(source: &str) -> Vec<Token> {
    let all = tokens(source);
    let mut kept = Vec::new();
    let mut at = 0;
    while at < all.len() {
        match test_item(&all[at..]) {
            Some(len) => at += len,
            None => {
                kept.push(all[at].clone());
                at += 1;
            }
        }
    }
    kept
}

/// The length of an item under `#[cfg(test)]` that begins here, in tokens.
fn test_item(tokens: &[Token]) -> Option<usize> {
    let attribute = ["#", "[", "cfg", "(", "test", ")", "]"];
    let begins = tokens.iter().take(attribute.len()).map(|token| token.text.as_str()).eq(attribute);
    begins.then_some(())?;
    let mut depth = 0;
    for (position, token) in tokens.iter().enumerate().skip(attribute.len()) {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" if depth == 1 => return Some(position + 1),
            "}" => depth -= 1,
            ";" if depth == 0 => return Some(position + 1),
            _ => {}
        }
    }
    Some(tokens.len())
}

/// Lines of items under `#[cfg(test)]`.
fn test_lines(source: &str) -> usize {
    let all = tokens(source);
    let (mut at, mut lines) = (0, 0);
    while at < all.len() {
        match test_item(&all[at..]) {
            Some(len) => {
                lines += all[at + len - 1].line - all[at].line + 1;
                at += len;
            }
            None => at += 1,
        }
    }
    lines
}

/// What the code of a file uses.
#[derive(Default)]
struct Uses {
    /// Rooms of its own crate, and what it takes from them.
    rooms: BTreeMap<String, BTreeSet<String>>,
    crates: BTreeSet<String>,
    std_modules: BTreeSet<String>,
    leaves_by_super: bool,
}

impl Uses {
    fn of(path: &str, tokens: &[Token]) -> Self {
        let mut uses = Self::default();
        let words: Vec<&str> = tokens.iter().map(|token| token.text.as_str()).collect();
        let known = dependencies();
        for at in 0..words.len() {
            if !begins_path(&words, at) {
                continue;
            }
            match words[at] {
                "crate" => {
                    for (room, start) in branches(&words, at + 3) {
                        let items = if follows(&words, start) { branches(&words, start + 3) } else { Vec::new() };
                        let taken = uses.rooms.entry(room).or_default();
                        taken.extend(items.into_iter().map(|(item, _)| item));
                    }
                }
                "std" | "core" | "alloc" => {
                    uses.crates.insert("std".to_owned());
                    uses.std_modules.extend(branches(&words, at + 3).into_iter().map(|(module, _)| module));
                }
                "super" => {
                    let supers = (0..).take_while(|n| words.get(at + n * 3) == Some(&"super")).count();
                    uses.leaves_by_super |= supers > depth_in_room(path);
                }
                name if known.contains(name) => {
                    uses.crates.insert(name.to_owned());
                }
                _ => {}
            }
        }
        uses
    }
}

/// Whether a path of several parts, or what a `use` imports, begins at this word.
fn begins_path(words: &[&str], at: usize) -> bool {
    let before = |back: usize| at.checked_sub(back).map_or("", |at| words[at]);
    let is_name = |word: &str| word == ">" || word.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    if before(1) == ":" && before(2) == ":" {
        // A leading `::` begins a path; any other goes on with one.
        return before(3) == "use" || !is_name(before(3));
    }
    follows(words, at) || ["use", "crate"].contains(&before(1))
}

/// Whether a path goes on after this word.
fn follows(words: &[&str], at: usize) -> bool {
    words.get(at + 1) == Some(&":") && words.get(at + 2) == Some(&":")
}

/// The first names of a path's rest that starts here: one, or as many as a group in braces has.
fn branches(words: &[&str], at: usize) -> Vec<(String, usize)> {
    if words.get(at) != Some(&"{") {
        return words.get(at).map(|word| ((*word).to_owned(), at)).into_iter().collect();
    }
    let (mut found, mut depth) = (Vec::new(), 0);
    for (position, word) in words.iter().enumerate().skip(at) {
        match *word {
            "{" => depth += 1,
            "}" if depth == 1 => break,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 1 && ["{", ","].contains(word) && words.get(position + 1).is_some_and(|next| *next != "}") {
            found.push((words[position + 1].to_owned(), position + 1));
        }
    }
    found
}

/// How many modules deep a file is in its room, the room's own module being 0.
fn depth_in_room(path: &str) -> usize {
    let Some(rest) = RULES.iter().find_map(|rule| path.strip_prefix(rule.place)?.strip_prefix('/')) else {
        return usize::MAX;
    };
    let modules = rest.split('/').count();
    if rest.ends_with("mod.rs") { modules - 1 } else { modules }
}

/// Every crate that the workspace names, and the C libraries' usual suspects that it must not.
fn dependencies() -> BTreeSet<String> {
    let manifest = read("Cargo.toml");
    let section = manifest.split("[workspace.dependencies]").nth(1).unwrap();
    let section = section.split("\n[").next().unwrap();
    let named = section.lines().filter_map(|line| line.split_once(" =")).map(|(name, _)| name.replace('-', "_"));
    let mut names: BTreeSet<String> = named.collect();
    names.extend(FOREIGN_PROTOCOLS.iter().map(|name| (*name).to_owned()));
    assert!(names.contains("tokio") && names.contains("age"), "{names:?}");
    names
}

// ------------------------------------------------------------------------------------------------- names and links

/// What is declared where.
struct Tree {
    files: Vec<String>,
    /// The words of each file that declares a name, or has an `impl` of it.
    homes: BTreeMap<String, BTreeSet<String>>,
}

impl Tree {
    fn read() -> Self {
        let mut homes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let files = files();
        for path in files.iter().filter(|path| path.ends_with(".rs")) {
            let tokens = tokens(&read(path));
            let words: Vec<&str> = tokens.iter().map(|token| token.text.as_str()).collect();
            let all: BTreeSet<String> = words.iter().map(|word| (*word).to_owned()).collect();
            let module = path.trim_end_matches(".rs").trim_end_matches("/mod").rsplit('/').next().unwrap_or_default();
            homes.entry(module.to_owned()).or_default().extend(all.iter().cloned());
            let declares = ["fn", "struct", "enum", "trait", "mod", "const", "static", "type", "impl", "for", "number"];
            for pair in words.windows(2).filter(|pair| declares.contains(&pair[0])) {
                homes.entry(pair[1].to_owned()).or_default().extend(all.iter().cloned());
            }
            // What the macros of the ids declare: `number! { /// … Seq }`, `hex_id! { /// … Digest, 32, … }`.
            for window in words.windows(4).filter(|w| ["number", "hex_id"].contains(&w[0]) && w[1] == "!") {
                homes.entry(window[3].to_owned()).or_default().extend(all.iter().cloned());
            }
        }
        Self { files, homes }
    }

    /// Whether a quoted name looks like code or a file and does not exist.
    fn lacks(&self, name: &str) -> bool {
        let is_path = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "_-./".contains(c));
        if name.contains('/') || [".rs", ".md", ".toml", ".sh"].iter().any(|end| name.ends_with(end)) {
            return is_path(name)
                && !self.files.iter().any(|path| path == name || is_in(path, name.trim_end_matches('/')));
        }
        let name = name.trim_end_matches("()");
        let parts: Vec<&str> = name.split("::").collect();
        let is_identifier = |part: &&str| {
            part.starts_with(|c: char| c.is_alphabetic() || c == '_')
                && part.chars().all(|c| c.is_alphanumeric() || c == '_')
        };
        if !parts.iter().all(is_identifier) {
            return false;
        }
        if dependencies().contains(parts[0]) || ["std", "statectl", "stated", "stated_client"].contains(&parts[0]) {
            return false;
        }
        let Some(home) = self.homes.get(parts[0]) else { return true };
        !parts[1..].iter().all(|part| home.contains(*part))
    }
}

/// What a page has in single backticks, outside of fenced blocks.
fn quoted(text: &str) -> Vec<String> {
    let mut fenced = false;
    let prose = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    prose.flat_map(|line| line.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// The targets of a page's links.
fn links(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        fenced ^= line.trim_start().starts_with("```");
        if !fenced {
            let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
            found.extend(targets.map(str::to_owned));
        }
    }
    found
}

/// A heading as links name it.
fn slug(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    heading
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}
