//! What a directory's Terraform configuration says of its backend.
//!
//! Not a parser of HCL: it knows comments, strings, here-documents and braces, which is enough to find the block.

mod initialized;
mod providers;
mod tokens;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

pub use initialized::Initialized;
pub use providers::names_aws;
use tokens::{Token, tokens};

/// A backend as a configuration names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedBackend {
    /// `http`, `s3` …; `cloud` for a cloud block.
    pub kind: String,
    /// What the block sets, with the value where that is a plain string.
    pub settings: BTreeMap<String, Option<String>>,
}

impl NamedBackend {
    fn new(kind: &str) -> Self {
        Self { kind: kind.to_owned(), settings: BTreeMap::new() }
    }

    /// Whether the block holds an address of its own, which counts more than the environment.
    pub fn has_address(&self) -> bool {
        self.settings.contains_key("address")
    }

    /// A plain string that the block sets.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name)?.as_deref()
    }
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
            let Some(is_json) = is_configuration(&path) else { continue };
            found.exists = true;
            let text = fs::read_to_string(&path).unwrap_or_default();
            let backend = if is_json { backend_of_json(&text) } else { backend_of_hcl(&text) };
            found.backend = found.backend.or(backend);
        }
        found
    }
}

/// Whether a file is part of a configuration, and then whether it is JSON.
fn is_configuration(path: &Path) -> Option<bool> {
    let name = path.file_name()?.to_str()?;
    match name.ends_with(".tf.json") || name.ends_with(".tofu.json") {
        true => Some(true),
        false => (name.ends_with(".tf") || name.ends_with(".tofu")).then_some(false),
    }
}

/// Every name and every string of a JSON document.
fn json_strings(text: &str) -> Vec<String> {
    let mut strings = Vec::new();
    let mut left: Vec<Value> = serde_json::from_str(text).into_iter().collect();
    while let Some(value) = left.pop() {
        match value {
            Value::String(text) => strings.push(text),
            Value::Array(values) => left.extend(values),
            Value::Object(fields) => {
                for (name, value) in fields {
                    strings.push(name);
                    left.push(value);
                }
            }
            _ => {}
        }
    }
    strings
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
        settings: blocks(body)
            .iter()
            .filter_map(Value::as_object)
            .flatten()
            .map(|(name, value)| (name.clone(), value.as_str().map(str::to_owned)))
            .collect(),
    });
    let cloud = || terraform.iter().any(|block| block.get("cloud").is_some()).then(cloud);
    named.or_else(cloud)
}

fn cloud() -> NamedBackend {
    NamedBackend::new("cloud")
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
                        backend = Some(NamedBackend::new(kind));
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
            Token::Word(word) if depth == 2 => {
                if let (Some(backend), Some(Token::Other)) = (&mut backend, tokens.get(index + 1)) {
                    let value = match tokens.get(index + 2) {
                        Some(Token::Text(text)) => Some(text.clone()),
                        _ => None,
                    };
                    backend.settings.insert(word.clone(), value);
                }
            }
            _ => {}
        }
    }
    backend
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(text: &str) -> Option<(String, bool)> {
        backend_of_hcl(text).map(|backend| (backend.kind.clone(), backend.has_address()))
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
    fn the_blocks_settings_are_read() {
        let text =
            "terraform {\n backend \"s3\" {\n  bucket = \"b-1\"\n  key = \"a/${x}\" # why\n  encrypt = true\n }\n}";
        let found = backend_of_hcl(text).unwrap();
        assert_eq!((found.setting("bucket"), found.setting("encrypt")), (Some("b-1"), None));
        assert_eq!(found.settings.keys().collect::<Vec<_>>(), ["bucket", "encrypt", "key"]);
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
        let found = Configuration::read(room.path()).backend.unwrap();
        assert_eq!((found.kind.as_str(), found.setting("address")), ("http", Some("http://x")));
    }
}
