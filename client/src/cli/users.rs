//! The system's user database, asked by way of `getent`.
//!
//! Its sources are libraries that the C library loads (nsswitch.conf), which a statically linked program may not be able
//! to do.

use std::process::{Command, Stdio};

/// The uid of the user of this name.
pub(super) fn uid_of(name: &str) -> Option<u32> {
    passwd(name)?.split(':').nth(2)?.parse().ok()
}

/// The name of the user of this uid.
pub(super) fn name_of(uid: u32) -> Option<String> {
    passwd(&uid.to_string())?.split(':').next().map(str::to_owned)
}

/// The line of passwd(5) of a user, by name or uid.
fn passwd(key: &str) -> Option<String> {
    let output = Command::new("getent").args(["--", "passwd", key]).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8(output.stdout).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_known_by_name_and_by_uid() {
        assert_eq!(uid_of("root"), Some(0));
        assert_eq!(name_of(0).as_deref(), Some("root"));
        assert_eq!(uid_of("no-such-user"), None);
        assert_eq!(name_of(u32::MAX - 7), None);
        // An option would be one to getent.
        assert_eq!(uid_of("--help"), None);
    }
}
