//! `man`: the manual's pages, from the definition of the command line.

use std::io;
use std::path::PathBuf;

use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};
use stated_shared::Failure;

use super::{Cli, Context, failure};

/// Print the manual page, or write a page for each command
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl man | man -l -
  statectl man ~/.local/share/man/man1        then: man statectl-put")]
pub(super) struct Manual {
    /// Write statectl.1 and statectl-VERB.1 into this directory, which is made where it is missing
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

impl Manual {
    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let mut root = Cli::command();
        root.build();
        let cannot = |error: io::Error| failure::local("write the manual", &error);
        let Some(directory) = self.directory else {
            context.output.print_bytes(&page(&root).map_err(cannot)?)?;
            return Ok(0);
        };
        std::fs::create_dir_all(&directory).map_err(|error| failure::file("make", &directory, &error))?;
        for command in std::iter::once(&root).chain(root.get_subcommands()) {
            let path = directory.join(format!("{}.1", name(command)));
            let page = page(command).map_err(cannot)?;
            std::fs::write(&path, page).map_err(|error| failure::file("write", &path, &error))?;
        }
        Ok(0)
    }
}

/// `statectl` or `statectl-put`.
fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn page(command: &Command) -> io::Result<Vec<u8>> {
    let is_root = name(command) == "statectl";
    let man =
        Man::new(command.clone()).source(concat!("stated ", env!("CARGO_PKG_VERSION"))).manual("The state daemon");
    // A verb of several has one page for all of them.
    let nested = command.get_subcommands().filter(|_| !is_root);
    let after: Vec<String> =
        std::iter::once(command).chain(nested).filter_map(Command::get_after_help).map(ToString::to_string).collect();
    let after = after.join("\n\n");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    let mut roff = Roff::new();
    paragraphs(&mut roff, &after);
    page.extend(roff.to_roff().into_bytes());
    man.render_options_section(&mut page)?;
    let mut roff = Roff::new();
    if is_root {
        commands(&mut roff, command);
    } else {
        nested_commands(&mut roff, command);
    }
    examples(&mut roff, &after);
    items(&mut roff, "EXIT STATUS", EXIT_STATUS);
    items(&mut roff, "ENVIRONMENT", ENVIRONMENT);
    if is_root {
        items(&mut roff, "FILES", FILES);
    }
    see_also(&mut roff, command);
    page.extend(roff.to_roff().into_bytes());
    Ok(ascii(&String::from_utf8_lossy(&page)).into_bytes())
}

/// Other characters by their number: not every roff reads UTF-8.
fn ascii(page: &str) -> String {
    let mut text = String::with_capacity(page.len());
    for c in page.chars() {
        if c.is_ascii() { text.push(c) } else { text.push_str(&format!("\\[u{:04X}]", u32::from(c))) }
    }
    text
}

/// What the help says in whole sentences, besides the examples.
fn paragraphs(roff: &mut Roff, after: &str) {
    for paragraph in after.split("\n\n").filter(|text| !is_examples(text) && !text.starts_with("Exit codes:")) {
        roff.control("PP", []);
        if paragraph.starts_with(' ') {
            literal(roff, paragraph.lines());
        } else {
            roff.text([roman(paragraph.replace('\n', " "))]);
        }
    }
}

fn examples(roff: &mut Roff, after: &str) {
    for (at, block) in after.split("\n\n").filter(|text| is_examples(text)).enumerate() {
        if at == 0 {
            roff.control("SH", ["EXAMPLES"]);
        }
        literal(roff, block.lines().skip(1));
    }
}

fn is_examples(block: &str) -> bool {
    block.starts_with("Examples:\n")
}

/// Lines that stay as they are.
fn literal<'a>(roff: &mut Roff, lines: impl Iterator<Item = &'a str>) {
    roff.control("nf", []);
    for line in lines {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
}

fn commands(roff: &mut Roff, root: &Command) {
    roff.control("SH", ["COMMANDS"]);
    for command in root.get_subcommands() {
        roff.control("TP", []);
        roff.text([bold(name(command)), roman("(1)")]);
        roff.text([roman(command.get_about().map(ToString::to_string).unwrap_or_default())]);
    }
}

/// `key add RECIPIENT…`, with what is its own of flags.
fn nested_commands(roff: &mut Roff, verb: &Command) {
    if verb.has_subcommands() {
        roff.control("SH", ["COMMANDS"]);
    }
    for command in verb.get_subcommands() {
        let usage = command.clone().render_usage().to_string();
        roff.control("TP", []);
        roff.text([bold(usage.trim_start_matches("Usage: "))]);
        roff.text([roman(command.get_about().map(ToString::to_string).unwrap_or_default())]);
        roff.control("RS", []);
        for argument in command.get_arguments().filter(|of| !of.is_hide_set() && !of.is_global_set()) {
            if let Some(help) = argument.get_help().filter(|_| argument.get_id() != "help") {
                roff.control("TP", []);
                roff.text([bold(argument.to_string())]);
                roff.text([roman(help.to_string())]);
            }
        }
        roff.control("RE", []);
    }
}

fn items(roff: &mut Roff, heading: &str, items: &[(&str, &str)]) {
    roff.control("SH", [heading]);
    for (item, text) in items {
        roff.control("TP", []);
        roff.text([bold(*item)]);
        roff.text([roman(*text)]);
    }
}

fn see_also(roff: &mut Roff, command: &Command) {
    roff.control("SH", ["SEE ALSO"]);
    if name(command) == "statectl" {
        let pages: Vec<String> = command.get_subcommands().map(|verb| format!("{}(1)", name(verb))).collect();
        roff.text([italic(pages.join(", "))]);
    } else {
        roff.text([italic("statectl(1)")]);
    }
}

const EXIT_STATUS: &[(&str, &str)] = &[
    ("0", "Done."),
    ("1", "Another failure; what diff --exit-code compared differs; doctor found something that is broken."),
    ("2", "Usage, or a name that may not be."),
    ("65", "A version, serial or lineage conflict, or bad content."),
    ("66", "No such state, version or lock."),
    ("69", "The daemon is not reachable, or the outcome is unknown."),
    ("70", "A bug of stated."),
    ("74", "The storage failed or is damaged."),
    ("75", "A lock is busy or timed out, or refuses the commit."),
    ("76", "The protocol versions do not match."),
    ("77", "Denied."),
    ("78", "The configuration is wrong, or a key opens nothing."),
    ("126", "The command of lock or exec is not runnable."),
    ("127", "The command of lock or exec was not found."),
    ("130", "Interrupted. The command of lock and exec passes its own code through; 128+n is signal n."),
];

const ENVIRONMENT: &[(&str, &str)] = &[
    ("STATED_SOCKET", "The daemon's socket, where --socket names none."),
    ("STATED_STATE_DIR", "The state directory of a daemon that is started; the user's own where it is not set."),
    ("STATED_NO_AUTOSTART", "Set and not empty: start no daemon, as --no-autostart."),
    (
        "STATED_LOCK_ID",
        "The lock that commits rely on, where --lock names none; lock and exec set it for their command.",
    ),
    (
        "STATED_PAGER, PAGER",
        "What long output is shown with on a terminal; less where neither is set, no pager where empty or cat.",
    ),
    ("VISUAL, EDITOR", "What edit runs; vi where neither is set."),
    ("NO_COLOR", "Set and not empty: no colour, unless --color says always."),
    ("XDG_RUNTIME_DIR, XDG_STATE_HOME, XDG_CONFIG_HOME", "Where socket, data and configuration are."),
];

const FILES: &[(&str, &str)] = &[
    (
        "$XDG_RUNTIME_DIR/stated/stated.sock",
        "The socket of the user's daemon; without XDG_RUNTIME_DIR it is $XDG_STATE_HOME/stated/run/stated.sock.",
    ),
    ("/run/stated/stated.sock", "The socket of the system's daemon."),
    ("~/.local/state/stated, /var/lib/stated", "The state directory of the user's and of the system's daemon."),
    ("~/.config/stated/config.toml, /etc/stated/config.toml", "The configuration."),
    (
        "~/.config/stated/identity.txt",
        "The key that opens every state, made at the first start. Back it up, apart from the data.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn text(command: &Command) -> String {
        String::from_utf8(page(command).unwrap()).unwrap().replace("\\-", "-")
    }

    #[test]
    fn every_command_has_a_page_and_every_flag_is_in_it() {
        let mut root = Cli::command();
        root.build();
        let main = text(&root);
        assert!(root.get_subcommands().count() > 15);
        for verb in root.get_subcommands() {
            assert!(!verb.is_hide_set(), "{}: a page would tell of it", verb.get_name());
            assert!(main.contains(&format!("statectl-{}", verb.get_name())), "{}", verb.get_name());
            let page = text(verb);
            assert!(page.is_ascii() && page.contains(".SH EXAMPLES\n"), "{}", verb.get_name());
            for flag in verb.get_arguments().filter(|flag| !flag.is_hide_set()).filter_map(|flag| flag.get_long()) {
                assert!(page.contains(&format!("--{flag}")), "{} --{flag}", verb.get_name());
            }
            for nested in verb.get_subcommands() {
                let usage = format!("statectl {} {}", verb.get_name(), nested.get_name());
                assert!(page.contains(&usage), "{usage}:\n{page}");
            }
        }
    }

    #[test]
    fn examples_keep_their_lines_and_sentences_do_not() {
        let command = Command::new("x").after_help("Examples:\n  .a   b\n  c\n\nOne\nsentence.");
        let page = text(&command);
        assert!(page.contains(".SH EXAMPLES\n.nf\n  .a   b\n  c\n.fi\n"), "{page}");
        assert!(page.contains(".PP\nOne sentence.\n"), "{page}");
    }
}
