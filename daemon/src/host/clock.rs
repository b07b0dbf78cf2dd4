//! The clocks that the daemon goes by.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use stated_shared::{SessionId, Timestamp};

/// Where the kernel tells one boot from another.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// One boot of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BootId(pub [u8; 16]);

/// The host's clocks, and the boot that one of them counts from.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    boot: BootId,
    #[cfg(test)]
    held: Option<&'static Held>,
}

/// A time that stands still until a test moves it.
#[cfg(test)]
#[derive(Debug, Default)]
pub struct Held {
    /// The wall clock, in milliseconds.
    pub wall_ms: std::sync::atomic::AtomicU64,
    /// `CLOCK_BOOTTIME`, in milliseconds.
    pub boottime_ms: std::sync::atomic::AtomicU64,
}

impl Clock {
    /// Reads which boot this is. Without it no deadline could be kept over a restart, so the start fails.
    pub fn of_host() -> io::Result<Self> {
        Ok(Self {
            boot: read_boot_id(Path::new(BOOT_ID))?,
            #[cfg(test)]
            held: None,
        })
    }

    /// A clock that a test moves.
    #[cfg(test)]
    pub fn held(boot: BootId, held: &'static Held) -> Self {
        Self { boot, held: Some(held) }
    }

    /// Wall-clock time: what people read. It may jump either way.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    pub fn now(&self) -> Timestamp {
        #[cfg(test)]
        if let Some(held) = self.held {
            return Timestamp(held.wall_ms.load(std::sync::atomic::Ordering::Relaxed));
        }
        // Before 1970 means a host whose clock was never set: the epoch's own rule (last + 1) keeps order then.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// Milliseconds since the boot, suspended time included: what deadlines go by. It never jumps.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads this clock")]
    pub fn boottime_ms(&self) -> u64 {
        #[cfg(test)]
        if let Some(held) = self.held {
            return held.boottime_ms.load(std::sync::atomic::Ordering::Relaxed);
        }
        let time = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
        seconds * 1000 + nanoseconds / 1_000_000
    }

    /// The boot that [`Self::boottime_ms`] counts from.
    pub fn boot_id(&self) -> BootId {
        self.boot
    }
}

fn read_boot_id(path: &Path) -> io::Result<BootId> {
    let text = fs::read_to_string(path)?;
    let digits: String = text.trim_end().chars().filter(|c| *c != '-').collect();
    // The kernel prints a UUID; a session id has the same sixteen bytes in hexadecimal.
    let id: SessionId = digits.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(BootId(id.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clocks_go_forward_in_one_boot() {
        let clock = Clock::of_host().unwrap();
        let before = (clock.now(), clock.boottime_ms());
        assert!(before.0 > Timestamp(1_700_000_000_000));
        assert!(clock.boottime_ms() >= before.1);
        assert_eq!(clock.boot_id(), Clock::of_host().unwrap().boot_id());
        assert_ne!(clock.boot_id(), BootId([0; 16]));
    }

    #[test]
    fn a_boot_id_of_another_form_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("boot_id");
        fs::write(&path, "not a uuid\n").unwrap();
        assert_eq!(read_boot_id(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
