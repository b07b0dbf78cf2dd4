//! What a client saw of a journal, kept so that it notices when the journal goes back.
//!
//! A pin is of one socket: the repository that answered there, the last record seen, and the chain's MAC at it. The
//! next client there asks to be shown that record again. A directory that was put back from an old copy lacks it, or
//! has another in its place; both are told, and neither is believed.
//!
//! A pin is a witness and nothing more: losing one loses no data. So it is written without a sync, and a place where it
//! cannot be written is as good as none.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};
use stated_shared::wire::{Pinned, Welcome};
use stated_shared::{Digest, Failure, FailureKind, RepositoryId, Seq};

const TITLE: &str = "stated pin 1";
/// Longest file that can be a pin: a socket's path has at most 107 bytes.
const PIN_LEN_MAX: u64 = 1024;
/// Pins of one client are written no more often than this, and at its end.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// How often another client's writing is waited for.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// A record that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pin {
    repository: RepositoryId,
    seq: Seq,
    /// The chain's MAC at the record.
    head: Digest,
    /// When it was seen, in seconds since 1970.
    seen_s: u64,
    /// How often somebody accepted here that a journal went back. A client that knows of fewer writes no more.
    accepted: u64,
}

/// What one client saw at one socket, and where that is kept.
#[derive(Debug)]
pub(crate) struct Witness {
    file: Option<PathBuf>,
    pin: Option<Pin>,
    /// The pin was read, so there is a file.
    is_known: bool,
    unsaved: bool,
    saved: Option<Instant>,
}

impl Witness {
    /// What was seen at this socket before, by this user.
    pub(crate) fn of(pins: Option<&Path>, socket: &Path) -> Self {
        let file = pins.filter(|dir| is_own(dir)).map(|dir| dir.join(file_name(socket)));
        let pin = file.as_deref().and_then(read);
        Self { is_known: pin.is_some(), file, pin, unsaved: false, saved: None }
    }

    /// The record to ask for.
    pub(crate) fn seq(&self) -> Option<Seq> {
        self.pin.as_ref().map(|pin| pin.seq)
    }

    /// Compares what a daemon shows with what was seen; `Err` where the journal went back.
    pub(crate) fn check(&self, welcome: &Welcome, socket: &Path) -> Result<(), Failure> {
        let Some(pin) = &self.pin else { return Ok(()) };
        let place = socket.display();
        let seen = format!("record {} of it was seen there {}", pin.seq, Ago(pin.seen_s));
        let what = if welcome.repository != pin.repository {
            format!(
                "another repository is at {place}: {} instead of {} (record {} of that was seen there {})",
                welcome.repository,
                pin.repository,
                pin.seq,
                Ago(pin.seen_s)
            )
        } else {
            match &welcome.pinned {
                Pinned::At(head) if *head == pin.head => return Ok(()),
                Pinned::At(_) => {
                    format!("the journal at {place} is not the one it was: {seen}, and another is in its place")
                }
                Pinned::Beyond => {
                    format!("the journal at {place} went back: {seen}, and it ends with record {}", welcome.seq)
                }
                Pinned::Unreadable(why) => format!("the journal at {place} cannot show what it was: {seen}, and {why}"),
                Pinned::Unasked => {
                    let message = "the daemon did not show the record that it was asked for";
                    return Err(Failure::new(FailureKind::Protocol, message));
                }
            }
        };
        Err(Failure::new(FailureKind::Storage, what).hint(
            "an old copy of the state directory was put back, or a new one made: if that was meant to be, \
             statectl status --accept-rollback",
        ))
    }

    /// Takes note of the journal's end as the daemon just told it.
    pub(crate) fn welcomed(&mut self, welcome: &Welcome) {
        self.note(welcome.repository, welcome.seq, welcome.head);
        // The first meeting is written at once: whoever is killed later has left that.
        if self.saved.is_none() && !self.is_known && self.file.as_deref().is_some_and(|file| !file.exists()) {
            self.save(false);
        }
    }

    /// Takes note of a record of one's own.
    pub(crate) fn committed(&mut self, repository: RepositoryId, seq: Seq, head: Digest) {
        self.note(repository, seq, head);
        if self.saved.is_none_or(|saved| saved.elapsed() >= WRITE_EVERY) {
            self.save(false);
        }
    }

    /// Believes this journal from now on, whatever was seen before.
    pub(crate) fn accept(&mut self, welcome: &Welcome) {
        let accepted = self.pin.take().map_or(0, |pin| pin.accepted) + 1;
        self.note(welcome.repository, welcome.seq, welcome.head);
        if let Some(pin) = &mut self.pin {
            pin.accepted = accepted;
        }
        self.save(true);
    }

    /// Takes over the pin that is kept, where somebody accepted since this one was read that the journal went back.
    ///
    /// `true` where that is so: then the daemon has to be asked for another record, and what it shows be compared anew.
    pub(crate) fn accepted_since(&mut self) -> bool {
        let Some(pin) = &self.pin else { return false };
        let kept = self.file.as_deref().and_then(read).filter(|kept| kept.accepted > pin.accepted);
        let is_later = kept.is_some();
        if is_later {
            self.pin = kept;
            self.unsaved = false;
        }
        is_later
    }

    fn note(&mut self, repository: RepositoryId, seq: Seq, head: Digest) {
        // A daemon that began no record yet has nothing to show later.
        if seq == Seq(0) || self.pin.as_ref().is_some_and(|pin| pin.repository == repository && pin.seq >= seq) {
            return;
        }
        let accepted = self.pin.as_ref().map_or(0, |pin| pin.accepted);
        let seen_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.pin = Some(Pin { repository, seq, head, seen_s, accepted });
        self.unsaved = true;
    }

    /// Writes the pin, unless another client wrote a newer one.
    fn save(&mut self, accepted: bool) {
        let (Some(file), Some(pin)) = (&self.file, &self.pin) else { return };
        // What cannot be written is a lost witness and no failure of what the user asked for.
        let _ = write(file, pin, accepted);
        self.unsaved = false;
        self.saved = Some(Instant::now());
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        if self.unsaved {
            self.save(false);
        }
    }
}

/// How long ago something was, roughly.
struct Ago(u64);

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        match now.saturating_sub(self.0) {
            s @ 0..120 => write!(f, "{s} s ago"),
            s @ 120..7200 => write!(f, "{} min ago", s / 60),
            s @ 7200..172_800 => write!(f, "{} h ago", s / 3600),
            s => write!(f, "{} days ago", s / 86_400),
        }
    }
}

/// Whether pins may be kept there: under sudo the environment still points at the caller's own directories.
fn is_own(dir: &Path) -> bool {
    let metadata = dir.ancestors().find_map(|ancestor| fs::metadata(ancestor).ok());
    metadata.is_some_and(|metadata| metadata.uid() == rustix::process::geteuid().as_raw())
}

/// The socket's path, with what a file's name may not hold written as `%` and two hexadecimal digits.
fn file_name(socket: &Path) -> PathBuf {
    let absolute = std::path::absolute(socket).unwrap_or_else(|_| socket.to_owned());
    let mut name = Vec::new();
    for &byte in absolute.as_os_str().as_bytes() {
        match byte {
            b'/' | b'%' | 0..0x20 | 0x7f => name.extend(format!("%{byte:02X}").bytes()),
            _ => name.push(byte),
        }
    }
    std::ffi::OsString::from_vec(name).into()
}

fn read(file: &Path) -> Option<Pin> {
    let mut text = String::new();
    File::open(file).ok()?.take(PIN_LEN_MAX).read_to_string(&mut text).ok()?;
    parse(&text)
}

/// A text that is no pin is none: the witness is lost.
fn parse(text: &str) -> Option<Pin> {
    let mut lines = text.lines();
    if lines.next()? != TITLE {
        return None;
    }
    let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
    let pin = Pin {
        repository: field("repository")?.parse().ok()?,
        seq: Seq(field("seq")?.parse().ok()?),
        head: field("head")?.parse().ok()?,
        seen_s: field("seen")?.parse().ok()?,
        accepted: field("accepted")?.parse().ok()?,
    };
    (pin.seq > Seq(0)).then_some(pin)
}

fn text(pin: &Pin) -> String {
    let Pin { repository, seq, head, seen_s, accepted } = pin;
    format!("{TITLE}\nrepository {repository}\nseq {}\nhead {head}\nseen {seen_s}\naccepted {accepted}\n", seq.0)
}

/// Replaces the file, where that moves it forward or the user accepted what is there now.
fn write(file: &Path, pin: &Pin, accepted: bool) -> io::Result<()> {
    let dir = file.parent().ok_or(io::ErrorKind::InvalidInput)?;
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    // The directory itself is what clients lock, so that none reads before and writes after another.
    let lock = File::open(dir)?;
    let mut tries = 0;
    while let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        tries += 1;
        if tries >= LOCK_TRIES {
            return Err(error.into());
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    if let Some(there) = read(file)
        && !accepted
        && !moves(&there, pin)
    {
        return Ok(());
    }
    let mut name = file.as_os_str().to_owned();
    name.push(".tmp");
    let tmp = PathBuf::from(name);
    let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&tmp)?;
    out.write_all(text(pin).as_bytes())?;
    drop(out);
    fs::rename(&tmp, file)
}

/// Whether a pin may take another's place unasked.
fn moves(there: &Pin, pin: &Pin) -> bool {
    there.repository == pin.repository && there.accepted == pin.accepted && there.seq < pin.seq
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOCKET: &str = "/run/100% ü/stated.sock";

    fn welcome(seq: u64, pinned: Pinned) -> Welcome {
        Welcome {
            version: String::new(),
            repository: RepositoryId([7; 16]),
            epoch: stated_shared::Epoch(1),
            seq: Seq(seq),
            head: head(seq),
            resumed: false,
            features: Vec::new(),
            pinned,
        }
    }

    fn head(seq: u64) -> Digest {
        Digest([seq as u8; 32])
    }

    fn witness(dir: &Path) -> Witness {
        Witness::of(Some(dir), Path::new(SOCKET))
    }

    fn seen(dir: &Path, seq: u64) {
        witness(dir).welcomed(&welcome(seq, Pinned::Unasked));
    }

    #[test]
    fn a_pin_reads_back_and_moves_forward_only() {
        let dir = tempfile::tempdir().unwrap();
        let pins = dir.path().join("a/pins");
        assert_eq!(witness(&pins).seq(), None);
        seen(&pins, 7);
        assert_eq!(witness(&pins).seq(), Some(Seq(7)));
        // Two that began together: the one that saw more ends first.
        let (mut slow, mut fast) = (witness(&pins), witness(&pins));
        slow.welcomed(&welcome(8, Pinned::At(head(7))));
        fast.welcomed(&welcome(9, Pinned::At(head(7))));
        drop(fast);
        drop(slow);
        assert_eq!(witness(&pins).seq(), Some(Seq(9)));
        let file = pins.join(file_name(Path::new(SOCKET)));
        assert_eq!(file.file_name().unwrap(), "%2Frun%2F100%25 ü%2Fstated.sock");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&pins).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&pins).unwrap().count(), 1);
    }

    #[test]
    fn a_commit_is_pinned_before_the_clients_end() {
        let dir = tempfile::tempdir().unwrap();
        seen(dir.path(), 7);
        let mut client = witness(dir.path());
        client.welcomed(&welcome(7, Pinned::At(head(7))));
        client.committed(RepositoryId([7; 16]), Seq(8), head(8));
        assert_eq!(witness(dir.path()).seq(), Some(Seq(8)));
        client.committed(RepositoryId([7; 16]), Seq(9), head(9));
        drop(client);
        assert_eq!(witness(dir.path()).seq(), Some(Seq(9)));
    }

    #[test]
    fn a_journal_that_went_back_is_refused_and_named() {
        let dir = tempfile::tempdir().unwrap();
        seen(dir.path(), 7);
        let check = |welcome: &Welcome| witness(dir.path()).check(welcome, Path::new(SOCKET));
        assert!(check(&welcome(7, Pinned::At(head(7)))).is_ok());
        assert!(check(&welcome(9, Pinned::At(head(7)))).is_ok());
        let other = Welcome { repository: RepositoryId([8; 16]), ..welcome(9, Pinned::At(head(7))) };
        for (welcome, told) in [
            (welcome(6, Pinned::Beyond), "ends with record 6"),
            (welcome(9, Pinned::At(head(9))), "another is in its place"),
            (welcome(9, Pinned::Unreadable("log/x is damaged".to_owned())), "log/x is damaged"),
            (other, "another repository"),
        ] {
            let failure = check(&welcome).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Storage);
            assert!(failure.message.contains(told) && failure.message.contains("record 7"), "{failure}");
        }
        assert_eq!(check(&welcome(9, Pinned::Unasked)).unwrap_err().kind, FailureKind::Protocol);
    }

    #[test]
    fn what_was_accepted_stays_so_against_clients_of_before() {
        let dir = tempfile::tempdir().unwrap();
        seen(dir.path(), 7);
        let mut before = witness(dir.path());
        before.welcomed(&welcome(8, Pinned::At(head(7))));
        witness(dir.path()).accept(&welcome(3, Pinned::Beyond));
        assert_eq!(witness(dir.path()).seq(), Some(Seq(3)));
        drop(before);
        assert_eq!(witness(dir.path()).seq(), Some(Seq(3)), "what it saw is not there any more");
        seen(dir.path(), 4);
        assert_eq!(witness(dir.path()).seq(), Some(Seq(4)));
    }

    #[test]
    fn a_client_of_before_takes_over_what_was_accepted_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        seen(dir.path(), 7);
        let mut before = witness(dir.path());
        before.welcomed(&welcome(8, Pinned::At(head(7))));
        assert!(!before.accepted_since(), "nobody did");
        seen(dir.path(), 9);
        assert!(!before.accepted_since(), "it has only grown");
        witness(dir.path()).accept(&welcome(3, Pinned::Beyond));
        assert!(before.accepted_since());
        assert_eq!(before.seq(), Some(Seq(3)));
        assert!(before.check(&welcome(4, Pinned::At(head(3))), Path::new(SOCKET)).is_ok());
        assert!(before.check(&welcome(2, Pinned::Beyond), Path::new(SOCKET)).is_err(), "it went back once more");
        assert!(!before.accepted_since());
        before.welcomed(&welcome(4, Pinned::At(head(3))));
        drop(before);
        assert_eq!(witness(dir.path()).seq(), Some(Seq(4)), "its word counts again");
    }

    #[test]
    fn a_damaged_or_foreign_place_is_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        seen(dir.path(), 7);
        let file = dir.path().join(file_name(Path::new(SOCKET)));
        let text = fs::read_to_string(&file).unwrap();
        for bad in ["", &text[..text.len() - 12], &text.replace("seq 7", "seq 0"), &text.replace("pin 1", "pin 2")] {
            fs::write(&file, bad).unwrap();
            assert_eq!(witness(dir.path()).seq(), None, "{bad:?}");
        }
        seen(dir.path(), 2);
        assert_eq!(witness(dir.path()).seq(), Some(Seq(2)));
        // A file where the directory should be.
        let mut nowhere = Witness::of(Some(&file), Path::new(SOCKET));
        nowhere.welcomed(&welcome(9, Pinned::Unasked));
        nowhere.committed(RepositoryId([7; 16]), Seq(10), head(10));
        assert_eq!(nowhere.seq(), Some(Seq(10)), "it is remembered as long as the client lives");
    }
}
