//! What a directory's Terraform configuration says of its backend.
//!
//! Not a parser of HCL: it knows comments, strings, here-documents and braces, which is enough to find the block.

use std::fs;
use std::iter::Peekable;
use std::path::Path;
use std::str::Chars;

use serde_json::Value;

/// A backend as a configuration names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedBackend {
    /// `http`, `s3` …; `cloud` for a cloud block.
    pub kind: String,
    /// Whether the block holds an address of its own, which counts more than the environment.
    pub has_address: bool,
}

/// What was found in a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Configuration {
    /// Whether there is any.
    pub exists: bool,
    /// Its backend, where it names one.
    pub backend: Option<NamedBackend>,
}

impl Configuration {
    /// Reads the directory's configuration files; what cannot be read counts as not there.
    pub fn read(directory: &Path) -> Self {
        let mut found = Self::default();
        let Ok(entries) = fs::read_dir(directory) else { return found };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let is_json = name.ends_with(".tf.json") || name.ends_with(".tofu.json");
            if !is_json && !name.ends_with(".tf") && !name.ends_with(".tofu") {
                continue;
            }
            found.exists = true;
            let text = fs::read_to_string(&path).unwrap_or_default();
            let backend = if is_json { backend_of_json(&text) } else { backend_of_hcl(&text) };
            found.backend = found.backend.or(backend);
        }
        found
    }
}

fn backend_of_json(text: &str) -> Option<NamedBackend> {
    fn blocks(value: &Value) -> &[Value] {
        match value {
            Value::Array(blocks) => blocks,
            block => std::slice::from_ref(block),
        }
    }
    let document: Value = serde_json::from_str(text).ok()?;
    let terraform = blocks(document.get("terraform")?);
    let backends = terraform.iter().filter_map(|block| block.get("backend")).flat_map(blocks);
    let named = backends.filter_map(Value::as_object).flatten().next().map(|(kind, body)| NamedBackend {
        kind: kind.clone(),
        has_address: blocks(body).iter().any(|body| body.get("address").is_some()),
    });
    let cloud = || terraform.iter().any(|block| block.get("cloud").is_some()).then(cloud);
    named.or_else(cloud)
}

fn cloud() -> NamedBackend {
    NamedBackend { kind: "cloud".to_owned(), has_address: false }
}

fn backend_of_hcl(text: &str) -> Option<NamedBackend> {
    let tokens = tokens(text);
    let mut depth = 0_usize;
    let mut in_terraform = false;
    let mut backend: Option<NamedBackend> = None;
    for (index, token) in tokens.iter().enumerate() {
        match token {
            Token::Open => {
                depth += 1;
                let before = &tokens[..index];
                match (depth, before) {
                    (1, [.., Token::Word(word)]) => in_terraform = word == "terraform",
                    (2, [.., Token::Word(word), Token::Text(kind) | Token::Word(kind)])
                        if in_terraform && word == "backend" =>
                    {
                        backend = Some(NamedBackend { kind: kind.clone(), has_address: false });
                    }
                    (2, [.., Token::Word(word)]) if in_terraform && word == "cloud" => return Some(cloud()),
                    _ => {}
                }
            }
            Token::Close => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    in_terraform = false;
                }
                if depth < 2 && backend.is_some() {
                    return backend;
                }
            }
            Token::Word(word) if depth == 2 && word == "address" => {
                if let Some(backend) = &mut backend {
                    backend.has_address = true;
                }
            }
            _ => {}
        }
    }
    backend
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Open,
    Close,
    Other,
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '#' => skip_line(&mut rest),
            '/' if rest.peek() == Some(&'/') => skip_line(&mut rest),
            '/' if rest.peek() == Some(&'*') => {
                let mut last = ' ';
                rest.next();
                rest.by_ref().find(|&c| std::mem::replace(&mut last, c) == '*' && c == '/');
            }
            '<' if rest.peek() == Some(&'<') => {
                rest.next();
                skip_heredoc(&mut rest);
            }
            '"' => tokens.push(Token::Text(string(&mut rest))),
            '{' => tokens.push(Token::Open),
            '}' => tokens.push(Token::Close),
            c if c.is_alphanumeric() || c == '_' => {
                let mut word = String::from(c);
                while let Some(c) = rest.next_if(|&c| c.is_alphanumeric() || c == '_' || c == '-') {
                    word.push(c);
                }
                tokens.push(Token::Word(word));
            }
            c if c.is_whitespace() => {}
            _ => tokens.push(Token::Other),
        }
    }
    tokens
}

fn skip_line(rest: &mut Peekable<Chars<'_>>) {
    rest.by_ref().find(|&c| c == '\n');
}

/// Reads to the closing quote; a template may hold strings of its own.
fn string(rest: &mut Peekable<Chars<'_>>) -> String {
    let mut text = String::new();
    // What is open: a string or, within one, the braces of a template.
    let mut open = vec!['"'];
    while let Some(c) = rest.next() {
        let in_string = open.last() == Some(&'"');
        match c {
            '\\' if in_string => {
                rest.next();
            }
            '"' if in_string => {
                open.pop();
                if open.is_empty() {
                    break;
                }
            }
            '"' => open.push('"'),
            '$' | '%' if in_string && rest.peek() == Some(&'{') => {
                rest.next();
                open.push('{');
            }
            '{' if !in_string => open.push('{'),
            '}' if !in_string => {
                open.pop();
            }
            c if open.len() == 1 => text.push(c),
            _ => {}
        }
    }
    text
}

fn skip_heredoc(rest: &mut Peekable<Chars<'_>>) {
    let line = |rest: &mut Peekable<Chars<'_>>| -> Option<String> {
        rest.peek()?;
        Some(rest.by_ref().take_while(|&c| c != '\n').collect())
    };
    let Some(first) = line(rest) else { return };
    let end = first.trim_start_matches('-').trim().to_owned();
    while let Some(line) = line(rest) {
        if line.trim() == end {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(text: &str) -> Option<(String, bool)> {
        backend_of_hcl(text).map(|backend| (backend.kind, backend.has_address))
    }

    #[test]
    fn the_block_is_found() {
        let empty = "terraform {\n  required_version = \">= 1.1\"\n  backend \"http\" {}\n}\n";
        assert_eq!(backend(empty), Some(("http".into(), false)));
        let full = "terraform {\n  backend \"http\" {\n    address = \"http://x\"\n  }\n}";
        assert_eq!(backend(full), Some(("http".into(), true)));
        assert_eq!(backend("terraform { cloud { } }"), Some(("cloud".into(), false)));
        assert_eq!(
            backend("terraform {\n backend \"s3\" {\n lock = { address = 1 }\n }\n}"),
            Some(("s3".into(), false))
        );
    }

    #[test]
    fn what_only_looks_like_it_is_not() {
        for text in [
            "",
            "# terraform { backend \"http\" {} }",
            "// terraform { backend \"http\" {} }",
            "/* terraform { backend \"http\" {} } **/",
            "terraform {\n # backend \"http\" {}\n}",
            "resource \"x\" \"y\" { backend \"http\" {} }",
            "terraform { a { backend \"http\" {} } }",
            "x = \"${f(\"}\")} terraform { backend \\\"http\\\" {} }\"",
            "x = <<-EOT\n terraform { backend \"http\" {} }\n EOT\n",
        ] {
            assert_eq!(backend(text), None, "{text}");
        }
    }

    #[test]
    fn strings_and_here_documents_end() {
        for before in ["x = \"}${{a = \"{\"}}\"\n", "x = <<EOT\n{{\nEOT\n", "x = \"\\\"{\"\n", "/***/ /* { */"] {
            let text = format!("{before}terraform {{ backend \"http\" {{}} }}");
            assert_eq!(backend(&text), Some(("http".into(), false)), "{text}");
        }
    }

    #[test]
    fn a_directory_is_read_with_its_json() {
        let room = tempfile::tempdir().unwrap();
        assert_eq!(Configuration::read(room.path()), Configuration::default());
        fs::write(room.path().join("main.tf"), "output \"x\" { value = 1 }").unwrap();
        assert_eq!(Configuration::read(room.path()), Configuration { exists: true, backend: None });
        let json = r#"{"terraform": [{"backend": {"http": {"address": "http://x"}}}]}"#;
        fs::write(room.path().join("backend.tf.json"), json).unwrap();
        let found = NamedBackend { kind: "http".into(), has_address: true };
        assert_eq!(Configuration::read(room.path()).backend, Some(found));
    }
}
