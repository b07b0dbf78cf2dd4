//! Keeps the keys in this process's memory.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// Forbids core dumps and, to other processes of the same user, ptrace and `/proc/PID/mem`.
///
/// To be called before a key is read. Of the programs that the daemon runs none dumps core either; who may trace them is
/// their own business.
pub fn harden() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

/// Raises the soft limit of open descriptors to the hard one: connections and held processes need one each.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::process::dumpable_behavior;

    use super::*;
    use crate::host::Process;

    /// Changes the whole test process, which is the state that every other room has to work in.
    #[test]
    fn a_hardened_process_still_knows_pidfds() {
        harden().unwrap();
        raise_descriptor_limit().unwrap();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        assert_eq!(getrlimit(Resource::Core).maximum, Some(0));
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        let own = Process::own().unwrap();
        let pidfd = rustix::io::fcntl_dupfd_cloexec(&own, 0).unwrap();
        assert_eq!(Process::from_descriptor(pidfd).unwrap().pid(), Some(std::process::id()));
    }
}
