//! Whether a configuration uses the aws provider, which shares its environment variables with the `s3` backend.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::tokens::{Token, tokens};
use super::{is_configuration, json_strings};

/// Providers that take their endpoint and keys from the variables of the AWS SDK.
const NAMES: [&str; 2] = ["aws", "awscc"];
/// Module directories that are looked at; a configuration with more counts as one that uses the provider.
const DIRECTORIES_MAX: usize = 256;

/// Whether the configuration of the directory, a local module of it, or its lock file names the provider.
///
/// A module from elsewhere may use any provider, and what it uses is only known once there is a lock file.
pub fn names_aws(directory: &Path) -> bool {
    let lock = fs::read_to_string(directory.join(".terraform.lock.hcl")).ok();
    if lock.as_deref().is_some_and(|lock| tokens(lock).iter().any(is_aws_source)) {
        return true;
    }
    let mut seen = BTreeSet::new();
    let mut left = vec![directory.to_owned()];
    while let Some(next) = left.pop() {
        let Ok(next) = next.canonicalize() else { continue };
        if !seen.insert(next.clone()) {
            continue;
        }
        let found = Found::read(&next);
        if found.names_aws || seen.len() > DIRECTORIES_MAX || (found.has_foreign_module && lock.is_none()) {
            return true;
        }
        left.extend(found.modules);
    }
    false
}

/// `"registry.terraform.io/hashicorp/aws"` and the like.
fn is_aws_source(token: &Token) -> bool {
    matches!(token, Token::Text(text) if is_source_of_aws(text))
}

fn is_source_of_aws(text: &str) -> bool {
    text.rsplit_once('/').is_some_and(|(_, name)| NAMES.contains(&name))
}

/// `aws_instance` and the like.
fn is_type_of_aws(text: &str) -> bool {
    text.split_once('_').is_some_and(|(name, _)| NAMES.contains(&name))
}

/// What one directory's files name.
#[derive(Default)]
struct Found {
    names_aws: bool,
    has_foreign_module: bool,
    modules: Vec<PathBuf>,
}

impl Found {
    fn read(directory: &Path) -> Self {
        let mut found = Self::default();
        let entries = fs::read_dir(directory).into_iter().flatten();
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let Some(is_json) = is_configuration(&path) else { continue };
            let text = fs::read_to_string(&path).unwrap_or_default();
            if is_json {
                // In JSON a block is an object by its name: `{"provider": {"aws": …}}`.
                let words = json_strings(&text);
                found.names_aws |= words
                    .iter()
                    .any(|word| NAMES.contains(&word.as_str()) || is_type_of_aws(word) || is_source_of_aws(word));
                found.has_foreign_module |= words.iter().any(|word| word == "module");
            } else {
                found.take(directory, &tokens(&text));
            }
        }
        found
    }

    fn take(&mut self, directory: &Path, tokens: &[Token]) {
        // The blocks that are open, by their first word.
        let mut blocks: Vec<&str> = Vec::new();
        for (index, token) in tokens.iter().enumerate() {
            let before = &tokens[..index];
            match token {
                Token::Open => {
                    let name = before.iter().rev().find_map(|token| match token {
                        Token::Word(word) => Some(Some(word.as_str())),
                        Token::Open | Token::Close | Token::Other => Some(None),
                        Token::Text(_) => None,
                    });
                    blocks.push(name.flatten().unwrap_or_default());
                }
                Token::Close => drop(blocks.pop()),
                Token::Text(text) => match before.last() {
                    Some(Token::Word(word)) if word == "provider" => self.names_aws |= NAMES.contains(&text.as_str()),
                    Some(Token::Word(word)) if ["resource", "data", "ephemeral"].contains(&word.as_str()) => {
                        self.names_aws |= is_type_of_aws(text);
                    }
                    Some(Token::Other) if blocks.contains(&"required_providers") => {
                        self.names_aws |= is_source_of_aws(text);
                    }
                    Some(Token::Other) if blocks == ["module"] => {
                        if matches!(before, [.., Token::Word(word), _] if word == "source") {
                            match text.starts_with("./") || text.starts_with("../") {
                                true => self.modules.push(directory.join(text)),
                                false => self.has_foreign_module = true,
                            }
                        }
                    }
                    _ => {}
                },
                Token::Word(word) if blocks.last() == Some(&"required_providers") => {
                    self.names_aws |= NAMES.contains(&word.as_str());
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(files: &[(&str, &str)]) -> tempfile::TempDir {
        let room = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = room.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        room
    }

    #[test]
    fn the_provider_is_found_wherever_it_is_named() {
        for text in [
            "provider \"aws\" { region = \"x\" }",
            "terraform { required_providers { aws = { source = \"hashicorp/aws\" } } }",
            "terraform { required_providers { mine = { source = \"hashicorp/awscc\" } } }",
            "terraform { required_providers { aws = \"~> 5.0\" } }",
            "resource \"aws_instance\" \"x\" {}",
            "data \"aws_caller_identity\" \"x\" {}",
            "module \"vpc\" { source = \"terraform-aws-modules/vpc/aws\" }",
        ] {
            assert!(names_aws(room(&[("main.tf", text)]).path()), "{text}");
        }
        assert!(names_aws(room(&[("a.tf.json", r#"{"provider": {"aws": {}}}"#)]).path()));
        let local = [("main.tf", "module \"m\" { source = \"./m\" }"), ("m/x.tf", "resource \"aws_vpc\" \"x\" {}")];
        assert!(names_aws(room(&local).path()), "a module of the same repository counts");
        let locked = [("main.tf", ""), (".terraform.lock.hcl", "provider \"registry.terraform.io/hashicorp/aws\" {}")];
        assert!(names_aws(room(&locked).path()));
    }

    #[test]
    fn what_only_looks_like_it_is_not() {
        for text in [
            "",
            "# provider \"aws\" {}",
            "locals { aws = 1 }",
            "resource \"terraform_data\" \"aws_x\" { input = \"hashicorp/aws\" }",
            "terraform { backend \"s3\" { bucket = \"aws\" } }",
            "module \"m\" { source = \"./m\" }",
        ] {
            assert!(!names_aws(room(&[("main.tf", text), ("m/x.tf", "")]).path()), "{text}");
        }
        let foreign = "module \"m\" { source = \"example/m/null\" }";
        let locked =
            [("main.tf", foreign), (".terraform.lock.hcl", "provider \"registry.terraform.io/hashicorp/null\" {}")];
        assert!(names_aws(room(&[("main.tf", foreign)]).path()), "it may use anything");
        assert!(!names_aws(room(&locked).path()), "the lock file says what it uses");
    }
}
