//! Which thread gives way to which.

use std::io;

use super::system_call;

/// Lets the calling thread run only where a core has nothing else to do. `Err` where the system forbids it: then it
/// runs as any other.
pub fn run_when_idle() -> io::Result<()> {
    system_call::schedule_when_idle()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_can_give_way() {
        let given_way = std::thread::scope(|scope| scope.spawn(run_when_idle).join().unwrap());
        assert!(given_way.is_ok() || given_way.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied));
    }
}
