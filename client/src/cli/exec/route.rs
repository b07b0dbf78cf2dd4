//! How the command is led to the gateway: what its directory says, and what its environment becomes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;
use stated_shared::StateName;

use crate::gateway::configuration::{Configuration, Initialized, NamedBackend, names_aws};
use crate::gateway::{Credential, Place, environment};

/// The protocol that the command's backend speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Protocol {
    /// Terraform's http backend.
    Http,
    /// S3, with locks in DynamoDB or in files.
    S3,
}

/// How AWS clients are led here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Route {
    /// By AWS_ENDPOINT_URL and keys of the run: every AWS client of the command comes here.
    Environment,
    /// By what `terraform init` is told of the backend: nothing else comes here, and AWS_* stay as they are.
    Backend,
}

/// What a directory holds that the choice depends on.
pub(super) struct Surroundings {
    pub(super) configuration: Configuration,
    initialized: Initialized,
    directory: PathBuf,
}

impl Surroundings {
    /// Reads the directory that Terraform would work in.
    pub(super) fn read(directory: &Path) -> Self {
        let data_dir = std::env::var_os("TF_DATA_DIR").filter(|dir| !dir.is_empty()).unwrap_or(".terraform".into());
        Self {
            configuration: Configuration::read(directory),
            initialized: Initialized::read(&directory.join(data_dir)),
            directory: directory.to_owned(),
        }
    }

    /// Whether the backend is `s3`.
    pub(super) fn is_s3(&self) -> bool {
        self.configuration.backend.as_ref().is_some_and(|backend| backend.kind == "s3")
    }

    /// How AWS clients are led here, if at all. Where no `s3` backend is seen they are not, unless that is asked for:
    /// they could be meant for AWS.
    pub(super) fn route(&self, protocol: Option<Protocol>, chosen: Option<Route>) -> Option<Route> {
        if protocol == Some(Protocol::Http) {
            return None;
        }
        if chosen.is_some() {
            return chosen;
        }
        if !self.is_s3() {
            return (protocol == Some(Protocol::S3)).then_some(Route::Environment);
        }
        // A provider would follow the variables too; and a directory that was led here so stays so.
        let backend_only = self.is_recorded_here() || names_aws(&self.directory);
        Some(if backend_only { Route::Backend } else { Route::Environment })
    }

    /// The `s3` backend that the directory was initialised for.
    fn recorded(&self) -> Option<&NamedBackend> {
        self.initialized.backend.as_ref().filter(|backend| backend.kind == "s3")
    }

    fn is_recorded_here(&self) -> bool {
        let endpoint = self.recorded().and_then(|backend| backend.setting("endpoint"));
        endpoint == Some(environment::S3_ENDPOINT)
    }

    /// Whether Terraform will want the directory initialised again, since its backend was recorded for the other route.
    pub(super) fn is_stale(&self, route: Route) -> bool {
        self.is_s3() && self.recorded().is_some() && self.is_recorded_here() != (route == Route::Backend)
    }

    /// The state of the selected workspace, where the configuration says which it is.
    pub(super) fn object(&self) -> Option<StateName> {
        let named = self.configuration.backend.as_ref().filter(|backend| backend.kind == "s3")?;
        let setting = |name| named.setting(name).or_else(|| self.recorded()?.setting(name));
        let key = setting("key")?;
        let chosen = std::env::var("TF_WORKSPACE").ok().filter(|name| !name.is_empty());
        let workspace = chosen.or_else(|| self.initialized.workspace.clone()).filter(|name| name != "default");
        let key = match workspace {
            Some(workspace) => format!("{}/{workspace}/{key}", setting("workspace_key_prefix").unwrap_or("env:")),
            None => key.to_owned(),
        };
        Place::new(setting("bucket")?, &key).ok().map(|place| place.state)
    }
}

impl Route {
    /// In a sentence.
    pub(super) fn told(self) -> &'static str {
        match self {
            Self::Environment => {
                "s3 by environment variables: every AWS client of this command comes here (AWS_ENDPOINT_URL)"
            }
            Self::Backend => "s3 for the backend only (TF_CLI_ARGS_init, HTTP_PROXY): AWS_* stay as they are",
        }
    }

    /// Leads the command to the gateway at this address.
    pub(super) fn lead(self, command: &mut Command, gateway: &str, credential: &Credential, keys: &Credential) {
        match self {
            Self::Environment => {
                for name in environment::AWS_CONFLICTS {
                    command.env_remove(name);
                }
                command.envs(environment::for_aws(gateway, keys));
                if ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().all(|name| std::env::var_os(name).is_none()) {
                    command.env("AWS_REGION", environment::AWS_REGION);
                }
            }
            Self::Backend => {
                let mut arguments = std::env::var_os("TF_CLI_ARGS_init").unwrap_or_default();
                for argument in environment::init_arguments() {
                    if !arguments.is_empty() {
                        arguments.push(" ");
                    }
                    arguments.push(argument);
                }
                command.env("TF_CLI_ARGS_init", arguments);
                command.env("HTTP_PROXY", environment::proxy_url(gateway, credential));
                if let Some(others) = Bypassed::read().filtered {
                    command.env("NO_PROXY", others);
                }
            }
        }
    }
}

/// What the user's `NO_PROXY` keeps from proxies.
pub(super) struct Bypassed {
    /// Everything.
    all: bool,
    /// What is left without the entries that would keep the gateway's own hosts from it, where there are any.
    filtered: Option<String>,
}

impl Bypassed {
    fn read() -> Self {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self::of(&set("NO_PROXY").or_else(|| set("no_proxy")).unwrap_or_default())
    }

    fn of(value: &str) -> Self {
        let entries: Vec<&str> = value.split(',').map(str::trim).collect();
        let is_ours = |entry: &&str| {
            let domain = entry.trim_start_matches("*.").trim_start_matches('.');
            *entry == "*"
                || (!domain.is_empty() && format!(".{}", environment::DOMAIN).ends_with(&format!(".{domain}")))
        };
        let others: Vec<&str> = entries.iter().filter(|entry| !is_ours(entry)).copied().collect();
        let all = entries.contains(&"*");
        Self { all, filtered: (others.len() != entries.len()).then(|| others.join(",")) }
    }
}

/// The proxy that the user has for plain http, which requests that are not for the gateway go on to.
pub(super) fn users_proxy() -> Option<String> {
    let set = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
    set("HTTP_PROXY").or_else(|| set("http_proxy")).filter(|_| !Bypassed::read().all)
}

/// Whether this is `terraform init`, and one that Terraform will not refuse for a backend that has changed.
pub(super) fn reconfigures(arguments: &[OsString]) -> bool {
    let mut words = arguments.iter().filter_map(|argument| argument.to_str());
    words.by_ref().find(|word| !word.starts_with('-')) == Some("init")
        && words.any(|word| matches!(word.trim_start_matches('-'), "reconfigure" | "migrate-state"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const BLOCK: &str = "terraform {\n backend \"s3\" {\n bucket = \"b-1\"\n key = \"a/state\"\n }\n}\n";

    fn surroundings(text: &str, recorded: Option<&str>) -> (tempfile::TempDir, Surroundings) {
        let room = tempfile::tempdir().unwrap();
        fs::write(room.path().join("main.tf"), text).unwrap();
        if let Some(config) = recorded {
            fs::create_dir(room.path().join(".terraform")).unwrap();
            let text = format!(r#"{{"backend": {{"type": "s3", "config": {config}}}}}"#);
            fs::write(room.path().join(".terraform/terraform.tfstate"), text).unwrap();
        }
        let surroundings = Surroundings::read(room.path());
        (room, surroundings)
    }

    #[test]
    fn the_route_is_chosen_by_what_the_directory_says() {
        let with_provider = format!("{BLOCK}provider \"aws\" {{}}\n");
        let route = |text: &str, protocol| surroundings(text, None).1.route(protocol, None);
        assert_eq!(route(BLOCK, None), Some(Route::Environment));
        assert_eq!(route(&with_provider, None), Some(Route::Backend));
        assert_eq!(route(&with_provider, Some(Protocol::Http)), None);
        assert_eq!(route("", None), None, "an AWS client could be meant for AWS");
        assert_eq!(route("", Some(Protocol::S3)), Some(Route::Environment));
        assert_eq!(surroundings(BLOCK, None).1.route(None, Some(Route::Backend)), Some(Route::Backend));
    }

    #[test]
    fn a_directory_stays_on_the_route_that_it_was_initialised_by() {
        let here = format!(r#"{{"endpoint": "{}"}}"#, environment::S3_ENDPOINT);
        let (_room, ours) = surroundings(BLOCK, Some(&here));
        assert_eq!(ours.route(None, None), Some(Route::Backend));
        assert!(!ours.is_stale(Route::Backend) && ours.is_stale(Route::Environment));
        let (_room, other) = surroundings(BLOCK, Some("{}"));
        assert_eq!(other.route(None, None), Some(Route::Environment));
        assert!(other.is_stale(Route::Backend) && !other.is_stale(Route::Environment));
        let (_room, fresh) = surroundings(BLOCK, None);
        assert!(!fresh.is_stale(Route::Backend) && !fresh.is_stale(Route::Environment));
    }

    #[test]
    fn the_object_is_named_with_its_workspace() {
        let (room, found) = surroundings(BLOCK, Some("{}"));
        assert_eq!(found.object().unwrap().as_str(), "b-1/a/state");
        fs::write(room.path().join(".terraform/environment"), "dev").unwrap();
        assert_eq!(Surroundings::read(room.path()).object().unwrap().as_str(), "b-1/env:/dev/a/state");
        let (_room, partial) =
            surroundings("terraform {\n backend \"s3\" {}\n}\n", Some(r#"{"bucket": "b-2", "key": "k"}"#));
        assert_eq!(partial.object().unwrap().as_str(), "b-2/k", "the rest was given to init");
    }

    #[test]
    fn nothing_keeps_the_gateways_hosts_from_it() {
        let filtered = |value| Bypassed::of(value).filtered;
        assert_eq!(filtered("localhost,.example.com"), None);
        assert_eq!(filtered(""), None);
        assert_eq!(filtered("localhost,.invalid,stated.invalid"), Some("localhost".into()));
        assert_eq!(filtered("*"), Some(String::new()));
        assert!(Bypassed::of("*").all && !Bypassed::of("localhost").all);
    }

    #[test]
    fn an_init_that_reconfigures_needs_no_hint() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert!(reconfigures(&words("-chdir=x init -reconfigure")));
        assert!(reconfigures(&words("init -input=false --migrate-state")));
        assert!(!reconfigures(&words("init")) && !reconfigures(&words("apply -reconfigure")));
    }
}
