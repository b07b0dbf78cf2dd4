//! What `terraform init` left in a directory: the backend that it was initialised for.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::NamedBackend;

/// The backend of `terraform.tfstate` in the data directory (`.terraform`), and the workspace that is selected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Initialized {
    /// The backend, where one was initialised; settings that are null are left out.
    pub backend: Option<NamedBackend>,
    /// The workspace, where it is not the default one.
    pub workspace: Option<String>,
}

impl Initialized {
    /// Reads the data directory; what cannot be read counts as not there.
    pub fn read(data_dir: &Path) -> Self {
        let backend = fs::read(data_dir.join("terraform.tfstate")).ok().and_then(|bytes| {
            let document: Value = serde_json::from_slice(&bytes).ok()?;
            let backend = document.get("backend")?;
            let mut named = NamedBackend::new(backend.get("type")?.as_str()?);
            let config = backend.get("config").and_then(Value::as_object).into_iter().flatten();
            let set = config.filter(|(_, value)| !value.is_null());
            named.settings = set.map(|(name, value)| (name.clone(), value.as_str().map(str::to_owned))).collect();
            Some(named)
        });
        let workspace = fs::read_to_string(data_dir.join("environment")).ok();
        let workspace =
            workspace.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty() && name != "default");
        Self { backend, workspace }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_backend_is_read() {
        let room = tempfile::tempdir().unwrap();
        assert_eq!(Initialized::read(room.path()), Initialized::default());
        let recorded = r#"{"version": 3, "backend": {"type": "s3", "config": {"bucket": "b-1", "acl": null, "encrypt": true}, "hash": 1}}"#;
        fs::write(room.path().join("terraform.tfstate"), recorded).unwrap();
        fs::write(room.path().join("environment"), "dev").unwrap();
        let found = Initialized::read(room.path());
        let backend = found.backend.unwrap();
        assert_eq!((backend.kind.as_str(), backend.setting("bucket")), ("s3", Some("b-1")));
        assert_eq!(backend.settings.keys().collect::<Vec<_>>(), ["bucket", "encrypt"]);
        assert_eq!(found.workspace.as_deref(), Some("dev"));
        fs::write(room.path().join("terraform.tfstate"), "{").unwrap();
        assert_eq!(Initialized::read(room.path()).backend, None);
    }
}
