//! The grants of session locks, kept where a killed daemon's successor finds them.
//!
//! A small file beside the socket, written and never synced: the page cache survives the daemon, and a power loss ends
//! the holders together with the file's last bytes. The file is
//!
//! ```text
//! header   "stated grants 2\n", boot ID (16 bytes), salt (16 bytes)
//! entry    length of the rest (4 bytes, big-endian), AES-256-GCM of the body
//! body     kind (0 opened, 1 put, 2 removed), seq (8), length of the key (2), the key, the entry's bytes
//! ```
//!
//! The entries' key is derived from the table's key and the salt, so a counter is a good nonce: entry n opens with n
//! only, and none can be dropped, doubled or moved but at the end, where the journal's seq tells. The header is every
//! entry's associated data. The first entry says `opened`, so that a header alone is never believed.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use hkdf::Hkdf;
use rustix::fs::OFlags;
use sha2::Sha256;
use stated_shared::Seq;
use zeroize::Zeroizing;

use super::clock::BootId;
use super::entropy::fill_random;

const MAGIC: &[u8; 16] = b"stated grants 2\n";
const HEADER_LEN: usize = 48;
/// Longest body of one entry, in bytes: the names of one lock and its documents stay far below.
const BODY_LEN_MAX: usize = 1 << 20;
/// Bytes of the seal's tag.
const TAG_LEN: usize = 16;
/// Bytes of a body before its key.
const BODY_HEAD_LEN: usize = 11;
/// The file is rewritten when at least this much of it, and more than half, is dead.
const DEAD_LEN_MIN: u64 = 1 << 20;

/// Entries that a rewriting writes at once.
const REWRITE_ENTRIES_MAX: usize = 256;

/// The table, while the daemon serves.
pub struct GrantTable {
    path: PathBuf,
    key: Zeroizing<[u8; 32]>,
    boot: BootId,
    /// Absent until [`Self::begin`], and after a write that failed: what the file ends in is not known then.
    file: Option<Sealed>,
    live: HashMap<String, (Seq, Vec<u8>)>,
    live_len: u64,
    seq_max: Seq,
    /// What is in the file's place does not verify, and so may tell somebody something.
    damaged: bool,
}

/// What a table holds when it is opened.
#[derive(Debug)]
pub struct Loaded {
    /// The live entries by key; empty unless the origin is the same boot.
    pub entries: Vec<(String, Vec<u8>)>,
    /// The newest seq that the table saw, whatever its boot: a journal that ends before it has lost records.
    pub seq_max: Seq,
    /// Where they come from.
    pub origin: Origin,
}

/// What the file was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Written in this boot: exactly these grants were held.
    SameBoot,
    /// Written before a reboot, which ended the holders.
    OtherBoot,
    /// There is none.
    Missing,
    /// It does not verify; the entries up to there are given up too.
    Damaged {
        /// How.
        what: String,
    },
}

/// Why the table could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum GrantTableError {
    /// Nothing of the kind is written.
    #[error("grant of {len} bytes is over the limit of {BODY_LEN_MAX}")]
    TooLarge {
        /// Its length.
        len: usize,
    },
    /// The grant must not be acknowledged: a successor would not know it. The next call writes the file anew.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Opened,
    Put,
    Removed,
}

/// One file and the state of its cipher.
struct Sealed {
    file: File,
    cipher: Aes256Gcm,
    header: [u8; HEADER_LEN],
    entries: u64,
    len: u64,
}

impl GrantTable {
    /// Reads the table; the disk is not changed before [`Self::begin`].
    ///
    /// The keys are 32 random bytes of the repository's, for this use alone: the one that is in use from [`Self::begin`] on,
    /// and those that a table of before a rotation may be sealed with.
    pub fn open(path: &Path, keys: &[Zeroizing<[u8; 32]>], boot: BootId) -> Result<(Self, Loaded), GrantTableError> {
        let (present, former) = keys.split_first().expect("a table has a key");
        let mut table = Self {
            path: path.to_owned(),
            key: present.clone(),
            boot,
            file: None,
            live: HashMap::new(),
            live_len: 0,
            seq_max: Seq(0),
            damaged: false,
        };
        let mut origin = table.load_with(present)?;
        for key in former {
            if !matches!(origin, Origin::Damaged { .. }) {
                break;
            }
            origin = table.load_with(key)?;
        }
        if matches!(origin, Origin::Damaged { .. }) {
            // What is said of it is said of the key that it should have.
            origin = table.load_with(present)?;
        }
        table.damaged = matches!(origin, Origin::Damaged { .. });
        if origin != Origin::SameBoot {
            table.live.clear();
            table.live_len = 0;
        }
        let mut entries: Vec<_> =
            table.live.iter().map(|(id, (seq, entry))| (*seq, id.clone(), entry.clone())).collect();
        entries.sort();
        let entries = entries.into_iter().map(|(_, id, entry)| (id, entry)).collect();
        let seq_max = table.seq_max;
        Ok((table, Loaded { entries, seq_max, origin }))
    }

    /// Writes the file anew with the live entries, and so forgets what [`Loaded`] said of the old one.
    ///
    /// To be called once the start is decided, before the first lock is granted: an unclean stop then leaves a table.
    /// A damaged one is kept beside it. What the next start must know besides grants is an entry like any other.
    pub fn begin(&mut self) -> Result<(), GrantTableError> {
        self.rewrite()
    }

    /// Forgets that the journal was further once: its end is lost, and that was accepted. To be called before
    /// [`Self::begin`].
    pub fn go_back(&mut self, last: Seq) {
        self.seq_max = self.seq_max.min(last);
        self.live.values_mut().for_each(|(seq, _)| *seq = (*seq).min(last));
    }

    /// Forgets every entry, and how far the journal was: it was restored, and what is told here is of before. To be called
    /// before [`Self::begin`].
    pub fn start_over(&mut self, last: Seq) {
        self.seq_max = last;
        self.live.clear();
        self.live_len = 0;
    }

    /// Adds or replaces an entry, before the grant is answered. `Err`: it may or may not be found by a successor.
    pub fn put(&mut self, id: &str, seq: Seq, entry: &[u8]) -> Result<(), GrantTableError> {
        let body = self.keep(id, seq, entry)?;
        self.append(&[body])
    }

    /// As [`Self::put`] and [`Self::remove`] of another entry, in one write.
    pub fn put_and_remove(&mut self, id: &str, seq: Seq, entry: &[u8], other: &str) -> Result<(), GrantTableError> {
        let removed = body_of(Kind::Removed, seq, other, &[])?;
        let body = self.keep(id, seq, entry)?;
        self.forget(other);
        self.append(&[body, removed])
    }

    /// Makes an entry a live one; gives its body.
    fn keep(&mut self, id: &str, seq: Seq, entry: &[u8]) -> Result<Vec<u8>, GrantTableError> {
        let body = body_of(Kind::Put, seq, id, entry)?;
        self.seq_max = self.seq_max.max(seq);
        self.forget(id);
        self.live_len += entry_len(body.len());
        self.live.insert(id.to_owned(), (seq, entry.to_vec()));
        Ok(body)
    }

    /// Removes an entry. `Err`: a successor may hold it again, until its process or its time is over.
    pub fn remove(&mut self, id: &str, seq: Seq) -> Result<(), GrantTableError> {
        let body = body_of(Kind::Removed, seq, id, &[])?;
        self.seq_max = self.seq_max.max(seq);
        self.forget(id);
        self.append(&[body])
    }

    fn forget(&mut self, id: &str) {
        if let Some((_, entry)) = self.live.remove(id) {
            self.live_len -= entry_len(BODY_HEAD_LEN + id.len() + entry.len());
        }
    }

    /// Seals and writes entries that `live` tells of already, in one write.
    fn append(&mut self, bodies: &[Vec<u8>]) -> Result<(), GrantTableError> {
        let Some(mut sealed) = self.file.take() else { return self.rewrite() };
        // On an error `sealed` is dropped: a part of the entry may be in the file, and its nonce must not come again.
        sealed.append(bodies).map_err(self.failed("write"))?;
        let dead = sealed.len.saturating_sub(self.live_len);
        if dead >= DEAD_LEN_MIN && dead > sealed.len / 2 {
            return self.rewrite();
        }
        self.file = Some(sealed);
        Ok(())
    }

    fn rewrite(&mut self) -> Result<(), GrantTableError> {
        self.file = None;
        let beside = |suffix: &str| {
            let mut name = self.path.clone().into_os_string();
            name.push(suffix);
            PathBuf::from(name)
        };
        let (new, damaged) = (beside(".new"), beside(".damaged"));
        match fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(self.failed("replace")(error)),
            _ => {}
        }
        let file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .mode(0o600)
            .open(&new)
            .map_err(self.failed("write beside"))?;
        let mut header = [0; HEADER_LEN];
        header[..16].copy_from_slice(MAGIC);
        header[16..32].copy_from_slice(&self.boot.0);
        fill_random(&mut header[32..]).map_err(self.failed("draw a salt for"))?;
        let mut sealed = Sealed { file, cipher: cipher_of(&self.key, &header), header, entries: 0, len: 0 };
        sealed.write(&header).map_err(self.failed("write"))?;
        let mut bodies = vec![body_of(Kind::Opened, self.seq_max, "", &[])?];
        for (id, (seq, entry)) in &self.live {
            bodies.push(body_of(Kind::Put, *seq, id, entry)?);
            if bodies.len() == REWRITE_ENTRIES_MAX {
                sealed.append(&bodies).map_err(self.failed("write"))?;
                bodies.clear();
            }
        }
        sealed.append(&bodies).map_err(self.failed("write"))?;
        if self.damaged {
            fs::rename(&self.path, &damaged).map_err(self.failed("keep the damaged"))?;
            self.damaged = false;
        }
        fs::rename(&new, &self.path).map_err(self.failed("replace"))?;
        self.file = Some(sealed);
        Ok(())
    }

    fn load_with(&mut self, key: &[u8; 32]) -> Result<Origin, GrantTableError> {
        self.live.clear();
        (self.live_len, self.seq_max) = (0, Seq(0));
        let opened = OpenOptions::new().read(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(&self.path);
        let origin = match opened {
            Ok(file) => self.load(file, key),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Origin::Missing),
            Err(error) => return Err(self.failed("open")(error)),
        };
        Ok(origin.unwrap_or_else(|what| Origin::Damaged { what }))
    }

    /// Reads what the file holds into `live` and `seq_max`. `Err` says what does not verify.
    fn load(&mut self, file: File, key: &[u8; 32]) -> Result<Origin, String> {
        let mut reader = BufReader::new(file);
        let mut header = [0; HEADER_LEN];
        reader.read_exact(&mut header).map_err(|error| format!("the header cannot be read: {error}"))?;
        if &header[..16] != MAGIC {
            return Err("the header is of another format".to_owned());
        }
        let cipher = cipher_of(key, &header);
        for n in 0.. {
            let Some(sealed) = next_entry(&mut reader).map_err(|what| format!("entry {n} {what}"))? else {
                return match n {
                    0 => Err("it has no entry".to_owned()),
                    _ if header[16..32] == self.boot.0 => Ok(Origin::SameBoot),
                    _ => Ok(Origin::OtherBoot),
                };
            };
            let body = cipher
                .decrypt(&nonce(n), Payload { msg: &sealed, aad: &header })
                .map_err(|_| format!("entry {n} does not verify"))?;
            let (kind, seq, id, entry) = parse_body(&body).ok_or_else(|| format!("entry {n} does not parse"))?;
            if (n == 0) != (kind == Kind::Opened) {
                return Err(format!("entry {n} is out of place"));
            }
            self.seq_max = self.seq_max.max(seq);
            self.forget(id);
            if kind == Kind::Put {
                self.live_len += entry_len(body.len());
                self.live.insert(id.to_owned(), (seq, entry.to_vec()));
            }
        }
        unreachable!("the loop ends with the file")
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> GrantTableError + use<> {
        let path = self.path.clone();
        move |source| GrantTableError::Io { action, path, source }
    }
}

fn cipher_of(table_key: &[u8; 32], header: &[u8; HEADER_LEN]) -> Aes256Gcm {
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(Some(&header[32..]), table_key)
        .expand(b"stated grant table", key.as_mut_slice())
        .expect("32 bytes are within what HKDF can give");
    Aes256Gcm::new(key.as_slice().into())
}

impl std::fmt::Debug for GrantTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GrantTable({}, {} live)", self.path.display(), self.live.len())
    }
}

impl Sealed {
    fn append(&mut self, bodies: &[Vec<u8>]) -> io::Result<()> {
        let mut entries = Vec::with_capacity(bodies.iter().map(|body| entry_len(body.len()) as usize).sum());
        for (n, body) in (self.entries..).zip(bodies) {
            let ciphertext = self
                .cipher
                .encrypt(&nonce(n), Payload { msg: body, aad: &self.header })
                .map_err(|_| io::Error::other("cannot seal"))?;
            entries.extend_from_slice(&(ciphertext.len() as u32).to_be_bytes());
            entries.extend_from_slice(&ciphertext);
        }
        self.write(&entries)?;
        self.entries += bodies.len() as u64;
        Ok(())
    }

    /// One write: a process that is killed before or after it leaves no part of an entry.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.len += bytes.len() as u64;
        Ok(())
    }
}

fn nonce(n: u64) -> Nonce<U12> {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&n.to_be_bytes());
    nonce.into()
}

/// The bytes of the file that an entry with such a body takes.
fn entry_len(body_len: usize) -> u64 {
    (4 + body_len + TAG_LEN) as u64
}

fn body_of(kind: Kind, seq: Seq, id: &str, entry: &[u8]) -> Result<Vec<u8>, GrantTableError> {
    let len = BODY_HEAD_LEN + id.len() + entry.len();
    let (Ok(id_len), true) = (u16::try_from(id.len()), len <= BODY_LEN_MAX) else {
        return Err(GrantTableError::TooLarge { len });
    };
    let mut body = Vec::with_capacity(len);
    body.push(match kind {
        Kind::Opened => 0,
        Kind::Put => 1,
        Kind::Removed => 2,
    });
    body.extend_from_slice(&seq.0.to_be_bytes());
    body.extend_from_slice(&id_len.to_be_bytes());
    body.extend_from_slice(id.as_bytes());
    body.extend_from_slice(entry);
    Ok(body)
}

fn parse_body(body: &[u8]) -> Option<(Kind, Seq, &str, &[u8])> {
    let (kind, rest) = body.split_first()?;
    let kind = match kind {
        0 => Kind::Opened,
        1 => Kind::Put,
        2 => Kind::Removed,
        _ => return None,
    };
    let (seq, rest) = rest.split_first_chunk::<8>()?;
    let (id_len, rest) = rest.split_first_chunk::<2>()?;
    let (id, entry) = rest.split_at_checked(u16::from_be_bytes(*id_len).into())?;
    Some((kind, Seq(u64::from_be_bytes(*seq)), std::str::from_utf8(id).ok()?, entry))
}

/// The next sealed body; `None` at the end.
///
/// A last entry that is not whole was never acknowledged, since its write had not returned: it counts as the end.
fn next_entry(reader: &mut impl Read) -> Result<Option<Vec<u8>>, String> {
    let mut read = |buffer: &mut [u8]| match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(format!("cannot be read: {error}")),
    };
    let mut len = [0; 4];
    if !read(&mut len)? {
        return Ok(None);
    }
    let len = u32::from_be_bytes(len) as usize;
    if !(BODY_HEAD_LEN + TAG_LEN..=BODY_LEN_MAX + TAG_LEN).contains(&len) {
        return Err(format!("has a length of {len}"));
    }
    let mut sealed = vec![0; len];
    Ok(read(&mut sealed)?.then_some(sealed))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [7; 32];
    const BOOT: BootId = BootId([1; 16]);

    fn open(path: &Path) -> (GrantTable, Loaded) {
        GrantTable::open(path, &[Zeroizing::new(KEY)], BOOT).unwrap()
    }

    fn ids(loaded: &Loaded) -> Vec<&str> {
        loaded.entries.iter().map(|(id, _)| id.as_str()).collect()
    }

    #[test]
    fn what_was_put_and_not_removed_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grants");
        let (mut table, loaded) = open(&path);
        assert_eq!((loaded.origin, loaded.seq_max), (Origin::Missing, Seq(0)));
        assert!(!path.exists(), "opening changes nothing");
        table.begin().unwrap();
        table.put("a", Seq(1), b"one").unwrap();
        table.put("b", Seq(2), b"two").unwrap();
        table.put("a", Seq(3), b"three").unwrap();
        table.remove("b", Seq(9)).unwrap();
        // Killed: nothing is closed in order.
        std::mem::forget(table);
        let (mut table, loaded) = open(&path);
        assert_eq!((&loaded.origin, loaded.seq_max), (&Origin::SameBoot, Seq(9)));
        assert_eq!(loaded.entries, [("a".to_owned(), b"three".to_vec())]);
        // And from a table that was opened twice without serving, and written by the second.
        table.put("c", Seq(4), b"").unwrap();
        let (_, loaded) = open(&path);
        assert_eq!((ids(&loaded), loaded.seq_max), (vec!["a", "c"], Seq(9)));
    }

    #[test]
    fn another_boot_has_ended_the_holders_and_still_knows_the_seq() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grants");
        let (mut table, _) = open(&path);
        table.put("a", Seq(5), b"one").unwrap();
        let (mut table, loaded) = GrantTable::open(&path, &[Zeroizing::new(KEY)], BootId([2; 16])).unwrap();
        assert_eq!((ids(&loaded), loaded.seq_max, &loaded.origin), (vec![], Seq(5), &Origin::OtherBoot));
        table.begin().unwrap();
        let (_, loaded) = GrantTable::open(&path, &[Zeroizing::new(KEY)], BootId([2; 16])).unwrap();
        assert_eq!((loaded.seq_max, loaded.origin), (Seq(5), Origin::SameBoot));
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grants");
        let (mut table, _) = open(&path);
        table.put("a", Seq(1), b"one").unwrap();
        table.remove("a", Seq(2)).unwrap();
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            let (_, loaded) = open(&path);
            // A length that reaches past the end looks like a torn end; the journal's seq tells then.
            let noticed = matches!(loaded.origin, Origin::Damaged { .. }) || loaded.seq_max < Seq(2);
            assert!(noticed, "byte {at}: {loaded:?}");
            assert!(ids(&loaded).is_empty() || loaded.seq_max < Seq(2));
        }
        fs::write(&path, &good).unwrap();
        let (_, loaded) = GrantTable::open(&path, &[Zeroizing::new([8; 32])], BOOT).unwrap();
        assert!(matches!(loaded.origin, Origin::Damaged { .. }), "another key: {loaded:?}");
    }

    #[test]
    fn a_torn_end_was_never_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grants");
        let (mut table, _) = open(&path);
        table.put("a", Seq(1), b"one").unwrap();
        let whole = fs::metadata(&path).unwrap().len();
        table.put("b", Seq(2), b"two").unwrap();
        let good = fs::read(&path).unwrap();
        for len in whole as usize..good.len() {
            fs::write(&path, &good[..len]).unwrap();
            let (mut table, loaded) = open(&path);
            assert_eq!((ids(&loaded), &loaded.origin), (vec!["a"], &Origin::SameBoot), "{len} bytes");
            table.put("c", Seq(3), b"").unwrap();
            assert_eq!(ids(&open(&path).1), ["a", "c"]);
        }
    }

    #[test]
    fn damage_stays_known_until_the_start_is_decided_and_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grants");
        fs::write(&path, "something else, and long enough to hold a header of it").unwrap();
        for _ in 0..2 {
            assert!(matches!(open(&path).1.origin, Origin::Damaged { .. }));
        }
        open(&path).0.begin().unwrap();
        assert_eq!(open(&path).1.origin, Origin::SameBoot);
        assert!(fs::read(dir.path().join("grants.damaged")).unwrap().starts_with(b"something else"));
    }

    #[test]
    fn the_file_stays_small() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grants");
        let (mut table, _) = open(&path);
        table.put("keep", Seq(1), b"kept").unwrap();
        for n in 0..200 {
            table.put("a", Seq(n), &[0; 32 << 10]).unwrap();
            table.remove("a", Seq(n)).unwrap();
            assert!(fs::metadata(&path).unwrap().len() < DEAD_LEN_MIN + (64 << 10));
        }
        let (_, loaded) = open(&path);
        assert_eq!((ids(&loaded), loaded.seq_max), (vec!["keep"], Seq(199)));
        assert!(matches!(table.put("b", Seq(200), &vec![0; BODY_LEN_MAX]), Err(GrantTableError::TooLarge { .. })));
    }

    #[test]
    fn a_failed_write_refuses_and_the_next_one_starts_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/grants");
        fs::create_dir(dir.path().join("run")).unwrap();
        let (mut table, _) = open(&path);
        table.put("a", Seq(1), b"one").unwrap();
        // A device that takes nothing, in the place of the file.
        table.file.as_mut().unwrap().file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert!(matches!(table.put("b", Seq(2), b"two"), Err(GrantTableError::Io { .. })));
        table.remove("b", Seq(2)).unwrap();
        let (_, loaded) = open(&path);
        assert_eq!((ids(&loaded), loaded.seq_max), (vec!["a"], Seq(2)));
    }

    #[test]
    fn one_entry_takes_anothers_place_in_one_write() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grants");
        let (mut table, _) = open(&path);
        table.put("a", Seq(1), b"one").unwrap();
        let before = fs::metadata(&path).unwrap().len();
        table.put_and_remove("b", Seq(2), b"two", "a").unwrap();
        let (_, loaded) = open(&path);
        assert_eq!((ids(&loaded), loaded.seq_max), (vec!["b"], Seq(2)));
        // What a kill within the write would leave is the first of the two at most.
        let cut = fs::read(&path).unwrap();
        let first = before as usize + entry_len(BODY_HEAD_LEN + 4) as usize;
        fs::write(&path, &cut[..first]).unwrap();
        assert_eq!(ids(&open(&path).1), ["a", "b"]);
    }

    #[test]
    fn a_table_of_many_is_written_anew_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grants");
        let (mut table, _) = open(&path);
        for n in 0..2 * REWRITE_ENTRIES_MAX + 1 {
            table.put(&n.to_string(), Seq(1), b"x").unwrap();
        }
        table.begin().unwrap();
        assert_eq!(open(&path).1.entries.len(), 2 * REWRITE_ENTRIES_MAX + 1);
    }

    #[test]
    fn secrets_are_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grants");
        let (mut table, _) = open(&path);
        table.put("an-id-in-clear", Seq(1), b"a name in clear").unwrap();
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        assert!(!text.contains("in-clear") && !text.contains("in clear"));
    }
}
