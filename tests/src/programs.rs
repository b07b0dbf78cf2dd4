//! The programs under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::{BUILD_LIMIT, run_within};

/// The directory that holds `stated` and `statectl` as they are built from these sources.
///
/// Cargo tells an integration test where the programs of its own package are (`CARGO_BIN_EXE_…`), and builds no other
/// package's. These are of other packages, so they are built here, once a process, with this test's own profile and
/// target directory: `cargo test` is all that one has to type, and nobody tests a program of yesterday.
pub fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| {
        let test = std::env::current_exe().expect("the test has a path");
        // target/<profile>/deps/<test>, or a program of this package: target/<profile>/<program>
        let directory = test.parent().expect("a program lies in a directory");
        let directory = match directory.parent() {
            Some(profile) if directory.ends_with("deps") => profile,
            _ => directory,
        };
        let target = directory.parent().expect("a profile's directory lies below the target directory");
        let profile = match directory.file_name().and_then(|name| name.to_str()) {
            Some("debug") => "dev",
            Some(name) => name,
            None => panic!("the profile's directory has no name"),
        };
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
        let mut build = Command::new(cargo);
        build
            .args(["build", "--quiet", "--bins"])
            // This package too: with other features than the test's own build has, dependencies would be built once more.
            .args(["stated", "stated-client", "stated-tests"].map(|package| ["--package", package]).concat())
            .args(["--profile", profile, "--target-dir"])
            .arg(target)
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        let built = run_within(build, BUILD_LIMIT);
        (built.code == 0).then(|| directory.to_owned()).ok_or_else(|| format!("cargo build: {}", built.stderr))
    });
    directory.as_ref().unwrap_or_else(|why| panic!("{why}"))
}

/// The daemon.
pub(crate) fn stated() -> PathBuf {
    directory().join("stated")
}

/// The client.
pub(crate) fn statectl() -> PathBuf {
    directory().join("statectl")
}
