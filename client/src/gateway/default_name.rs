//! The name of a directory's state where the user gave none.
//!
//! The origin remote's host and path, then the directory within the repository: the same name for every clone,
//! and a readable one. Without a remote it is the absolute path. The repository's own config file is read instead
//! of asking git, so that the name does not depend on whether git is installed or on one user's `insteadOf`.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use stated_shared::{NameError, StateName};

use super::percent;

/// A git repository around a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// Its top directory.
    pub root: PathBuf,
    /// The URL of its remote `origin`.
    pub origin: Option<String>,
}

impl Repository {
    /// Finds the repository that holds the directory, which is absolute and free of links.
    pub fn find(directory: &Path) -> Option<Self> {
        let root = directory.ancestors().find(|ancestor| ancestor.join(".git").exists())?;
        let config = fs::read_to_string(common_directory(root)?.join("config")).unwrap_or_default();
        Some(Self { root: root.to_owned(), origin: origin_url(&config) })
    }
}

/// Where the config lies: in `.git`, or, for a worktree, in the directory that its repository shares.
fn common_directory(root: &Path) -> Option<PathBuf> {
    let git = root.join(".git");
    if git.is_dir() {
        return Some(git);
    }
    let pointer = fs::read_to_string(&git).ok()?;
    let own = root.join(pointer.strip_prefix("gitdir:")?.trim());
    match fs::read_to_string(own.join("commondir")) {
        Ok(common) => Some(own.join(common.trim())),
        // A submodule's directory has a config of its own.
        Err(_) => Some(own),
    }
}

/// The first `url` of `[remote "origin"]` in a git config file.
fn origin_url(config: &str) -> Option<String> {
    let mut in_origin = false;
    for line in config.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            let section = header.split(']').next().unwrap_or_default();
            let (name, remote) = section.split_once(char::is_whitespace).unwrap_or((section, ""));
            in_origin = name.eq_ignore_ascii_case("remote") && remote.trim() == "\"origin\"";
        } else if in_origin
            && let Some((key, value)) = line.split_once('=')
            && key.trim().eq_ignore_ascii_case("url")
        {
            let value = value.trim();
            let plain = match value.strip_prefix('"') {
                Some(quoted) => quoted.split('"').next().unwrap_or_default(),
                // Git starts a comment at either character where the value is not quoted.
                None => value.split(['#', ';']).next().unwrap_or_default().trim_end(),
            };
            return (!plain.is_empty()).then(|| plain.to_owned());
        }
    }
    None
}

/// Names the state of a directory, which is absolute and free of links.
///
/// `Err` where the name would be too long, or the directory is `/`; the caller asks for `--state` then.
pub fn default_name(directory: &Path, repository: Option<&Repository>) -> Result<StateName, NameError> {
    let origin = repository.and_then(|repository| {
        let parts = origin_parts(repository.origin.as_deref()?)?;
        Some((parts, directory.strip_prefix(&repository.root).ok()?))
    });
    let (mut parts, below) = origin.unwrap_or((Vec::new(), directory));
    for component in below.components() {
        if let Component::Normal(part) = component {
            parts.push(percent::name_part(part.as_bytes()));
        }
    }
    StateName::parse(&parts.join("/"))
}

/// Host and path of a remote's URL, as parts of a name; `None` for a path that only means something here.
fn origin_parts(url: &str) -> Option<Vec<String>> {
    let (host, path) = match url.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            if authority.is_empty() && !scheme.eq_ignore_ascii_case("file") {
                return None;
            }
            let path = percent::decode(path).unwrap_or_else(|| path.to_owned());
            (host_of(authority), path)
        }
        None => match url.split_once(':') {
            // git takes `host:path` for a remote only where no slash comes before the colon.
            Some((host, path)) if !host.contains('/') => (host_of_scp(host), path.to_owned()),
            _ if url.starts_with('/') => (String::new(), url.to_owned()),
            _ => return None,
        },
    };
    let path = path.trim_end_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    let mut parts: Vec<_> =
        path.split('/').filter(|part| !part.is_empty()).map(|p| percent::name_part(p.as_bytes())).collect();
    if parts.is_empty() {
        return None;
    }
    if !host.is_empty() {
        parts.insert(0, percent::name_part(host.as_bytes()));
    }
    Some(parts)
}

/// The host of an authority: without credentials, without port, in lower case.
fn host_of(authority: &str) -> String {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or_default(),
    };
    host.to_ascii_lowercase()
}

fn host_of_scp(host: &str) -> String {
    host.rsplit_once('@').map_or(host, |(_, host)| host).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn named(url: &str, below: &str) -> String {
        let repository = Repository { root: "/home/alice/infra".into(), origin: Some(url.to_owned()) };
        let directory = repository.root.join(below);
        default_name(&directory, Some(&repository)).unwrap().to_string()
    }

    #[test]
    fn every_spelling_of_one_remote_gives_one_name() {
        for url in [
            "https://github.com/org/infra.git",
            "https://github.com/org/infra/",
            "https://alice:s3cret@GitHub.com:443/org/infra.git",
            "ssh://git@github.com:22/org/infra.git",
            "git@github.com:org/infra.git",
            "github.com:/org/infra",
            "git://github.com//org/infra.git/",
        ] {
            assert_eq!(named(url, "network/prod"), "github.com/org/infra/network/prod", "{url}");
        }
        assert_eq!(named("https://github.com/org/infra.git", ""), "github.com/org/infra");
    }

    #[test]
    fn unusual_remotes() {
        assert_eq!(named("file:///srv/git/infra.git", "a"), "srv/git/infra/a");
        assert_eq!(named("/srv/git/infra.git", "a"), "srv/git/infra/a");
        assert_eq!(named("ssh://[2001:db8::1]:22/x", ""), "2001:db8::1/x");
        assert_eq!(
            named("https://dev.azure.com/org/My%20Project/_git/repo", ""),
            "dev.azure.com/org/My Project/_git/repo"
        );
        assert_eq!(named("https://host/a/../b@c", ""), "host/a/%2E%2E/b%40c");
        // A relative remote means nothing elsewhere, so the path counts.
        assert_eq!(named("../infra.git", "a"), "home/alice/infra/a");
        assert_eq!(named("https://host", "a"), "home/alice/infra/a");
    }

    #[test]
    fn without_a_remote_the_absolute_path_counts() {
        let name = |path: &OsStr| default_name(Path::new(path), None).map(|name| name.to_string());
        assert_eq!(name(OsStr::new("/srv/infra/network")).unwrap(), "srv/infra/network");
        assert_eq!(name(OsStr::new("/srv/a@b/100%/c\nd/\u{202e}")).unwrap(), "srv/a%40b/100%25/c%0Ad/%E2%80%AE");
        assert_eq!(name(OsStr::from_bytes(b"/srv/\xff")).unwrap(), "srv/%FF");
        assert_eq!(name(OsStr::new("/")), Err(NameError::Empty));
    }

    #[test]
    fn the_config_is_read_as_git_reads_it() {
        let config = "[core]\n\turl = no\n[remote \"upstream\"]\n\turl = no\n[Remote \"origin\"] # ours\n\t; note\n\tfetch = +x\n\tURL = git@h:p.git # why\n\turl = second\n";
        assert_eq!(origin_url(config).as_deref(), Some("git@h:p.git"));
        assert_eq!(origin_url("[remote \"origin\"]\nurl = \"a;b\"\n").as_deref(), Some("a;b"));
        assert_eq!(origin_url("[remote \"Origin\"]\nurl = x\n"), None);
        assert_eq!(origin_url(""), None);
    }

    #[test]
    fn a_worktree_and_a_plain_clone_find_their_remote() {
        let room = tempfile::tempdir().unwrap();
        let root = room.path().canonicalize().unwrap();
        let config = "[remote \"origin\"]\n\turl = git@h:org/infra.git\n";
        fs::create_dir_all(root.join("main/.git/worktrees/fix")).unwrap();
        fs::create_dir_all(root.join("main/network")).unwrap();
        fs::write(root.join("main/.git/config"), config).unwrap();
        fs::write(root.join("main/.git/worktrees/fix/commondir"), "../..\n").unwrap();
        fs::create_dir_all(root.join("fix/network")).unwrap();
        fs::write(root.join("fix/.git"), format!("gitdir: {}\n", root.join("main/.git/worktrees/fix").display()))
            .unwrap();

        for clone in ["main", "fix"] {
            let directory = root.join(clone).join("network");
            let repository = Repository::find(&directory).unwrap();
            assert_eq!(repository.root, root.join(clone));
            assert_eq!(default_name(&directory, Some(&repository)).unwrap().as_str(), "h/org/infra/network");
        }
    }
}
