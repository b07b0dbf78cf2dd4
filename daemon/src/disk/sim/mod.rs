//! A disk in memory that loses what was not synced, fails where it is told to, and repeats all of it from a seed.
//!
//! - A file's bytes: when the power is cut, each 512-byte sector that was written since the last sync has any of the
//!   forms that it had since then, each independently of the others: lost, torn and reordered writes.
//! - A file's length: any that it had since the last sync.
//! - Directories: each creation, renaming and removal that was not synced is there or is not; a renaming is never half
//!   there. Syncing a file does not sync its entry.
//! - A failed write has been done up to a page's border.
//! - A failed sync: what was written before it landed or did not, and the kernel takes it for clean. Everybody reads it
//!   still, and no later sync writes it.

mod file;
mod random;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::file::{FileNode, Landing};
pub use self::random::Random;
use super::{Access, DirLock, Disk, DiskFile, Entry, Kind, Stat};

/// An operation that changes something, or makes a change durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Create,
    CreateDir,
    Write,
    SetLen,
    Sync,
    Rename,
    Remove,
    SyncDir,
}

/// What goes wrong in an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The power is cut: nothing works any more, and this operation may have landed.
    Cut,
    /// The process is killed after this operation, or before it where that is a sync; the page cache outlives it.
    Kill,
    /// `EIO`; a write may have been done in part, a sync lost what was written.
    Io,
    /// `ENOSPC`; a write may have been done in part.
    Full,
}

/// Whether a path is meant.
pub type Chosen = fn(&str) -> bool;

/// The disk; clones share it.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

struct State {
    random: Random,
    nodes: Vec<Node>,
    /// What was done to directories and not synced, oldest first.
    unsynced: Vec<Change>,
    done: Vec<(Operation, String)>,
    fault: Option<(usize, Fault)>,
    was_hit: bool,
    /// Syncs that say that they are done and are not.
    lie: Option<Chosen>,
    has_power: bool,
    was_killed: bool,
    locked: BTreeSet<usize>,
    boots: u64,
}

enum Node {
    File(FileNode),
    Dir(DirNode),
}

#[derive(Default)]
struct DirNode {
    now: BTreeMap<OsString, usize>,
    durable: BTreeMap<OsString, usize>,
}

/// A change of the entries of a directory, or of two.
struct Change {
    /// Taken away, if it is this node.
    gone: Option<(usize, OsString, usize)>,
    /// Put there, whatever was there.
    new: Option<(usize, OsString, usize)>,
}

const ROOT: usize = 0;
/// The kernel copies a write page by page, and stops between two where it fails.
const PAGE_LEN: usize = 4096;

impl SimDisk {
    /// An empty disk with these directories, durably.
    pub fn new(seed: u64, dirs: &[&str]) -> Self {
        let state = State {
            random: Random::seeded(seed),
            nodes: vec![Node::Dir(DirNode::default())],
            unsynced: Vec::new(),
            done: Vec::new(),
            fault: None,
            was_hit: false,
            lie: None,
            has_power: true,
            was_killed: false,
            locked: BTreeSet::new(),
            boots: 0,
        };
        let disk = Self(Arc::new(Mutex::new(state)));
        for dir in dirs {
            disk.create_dir(Path::new(dir)).expect("a new directory");
        }
        disk.lock().crash(Some(Landing::Everything));
        disk
    }

    /// What was done so far, with the file or directory.
    pub fn done(&self) -> Vec<(Operation, String)> {
        self.lock().done.clone()
    }

    /// How many operations were done so far.
    pub fn count(&self) -> usize {
        self.lock().done.len()
    }

    /// Lets the operation fail that comes after `after` others; replaces a fault that has not come yet.
    pub fn fail(&self, after: usize, fault: Fault) {
        let mut state = self.lock();
        state.fault = Some((state.done.len() + after, fault));
        state.was_hit = false;
    }

    /// From here on, syncs of files and directories whose path is chosen do nothing and say that all went well.
    pub fn lie(&self, about: Chosen) {
        self.lock().lie = Some(about);
    }

    /// Takes back a fault that has not come.
    pub fn heal(&self) {
        let mut state = self.lock();
        state.fault = None;
        state.was_hit = false;
    }

    /// Whether a fault came since one was last armed.
    pub fn was_hit(&self) -> bool {
        self.lock().was_hit
    }

    /// Whether there is power.
    pub fn has_power(&self) -> bool {
        self.lock().has_power
    }

    /// Cuts the power, and gives it again: what landed is there, nothing fails, nobody holds a lock.
    pub fn reboot(&self) {
        self.lock().crash(None);
    }

    /// After a kill: another process takes over, and finds what the page cache holds. Whether there was a kill.
    pub fn take_over(&self) -> bool {
        let mut state = self.lock();
        let was_killed = std::mem::take(&mut state.was_killed);
        if was_killed {
            state.has_power = true;
            state.fault = None;
            state.locked.clear();
            state.boots += 1;
        }
        was_killed
    }

    /// Every file with its bytes as everybody reads them.
    pub fn image(&self) -> Vec<(String, Vec<u8>)> {
        let state = self.lock();
        let mut found = Vec::new();
        let mut left = vec![(String::new(), ROOT)];
        while let Some((path, node)) = left.pop() {
            match &state.nodes[node] {
                Node::Dir(dir) => {
                    left.extend(dir.now.iter().map(|(name, &node)| (format!("{path}/{}", name.display()), node)))
                }
                Node::File(file) => {
                    let mut bytes = vec![0; file.len()];
                    file.read_at(&mut bytes, 0);
                    found.push((path, bytes));
                }
            }
        }
        found.sort();
        found
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn find(&self, path: &Path) -> io::Result<usize> {
        path.components().try_fold(ROOT, |node, component| match (component, &self.nodes[node]) {
            (Component::RootDir, _) => Ok(ROOT),
            (Component::Normal(name), Node::Dir(dir)) => {
                dir.now.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
            }
            _ => Err(io::ErrorKind::NotADirectory.into()),
        })
    }

    fn parent(&self, path: &Path) -> io::Result<(usize, OsString)> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let node = self.find(parent)?;
        match &self.nodes[node] {
            Node::Dir(_) => Ok((node, name.to_os_string())),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn file(&mut self, node: usize) -> &mut FileNode {
        match &mut self.nodes[node] {
            Node::File(file) => file,
            Node::Dir(_) => panic!("a directory is no file"),
        }
    }

    fn dir(&mut self, node: usize) -> io::Result<&mut DirNode> {
        match &mut self.nodes[node] {
            Node::Dir(dir) => Ok(dir),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn alive(&self) -> io::Result<()> {
        if self.has_power { Ok(()) } else { Err(io::Error::other("the power is cut")) }
    }

    fn lies(&self, path: &Path) -> bool {
        self.lie.is_some_and(|about| about(&path.display().to_string()))
    }

    /// Notes an operation; the fault that it meets, where it meets one.
    fn begin(&mut self, operation: Operation, path: &Path) -> io::Result<Option<Fault>> {
        self.alive()?;
        let at = self.done.len();
        self.done.push((operation, path.display().to_string()));
        let fault = self.fault.take_if(|(due, _)| *due <= at).map(|(_, fault)| fault);
        self.was_hit |= fault.is_some();
        if matches!(fault, Some(Fault::Cut | Fault::Kill)) {
            self.has_power = false;
            self.was_killed = fault == Some(Fault::Kill);
        }
        Ok(fault)
    }

    /// An operation on entries: done, failed and not done, or done and cut.
    fn change(&mut self, operation: Operation, path: &Path, change: Change) -> io::Result<()> {
        match self.begin(operation, path)? {
            Some(fault @ (Fault::Io | Fault::Full)) => return Err(fault.error()),
            Some(Fault::Cut | Fault::Kill) | None => {}
        }
        for (part, node) in [(&change.gone, None), (&change.new, change.new.as_ref().map(|new| new.2))] {
            if let Some((dir, name, _)) = part {
                match node {
                    None => drop(self.dir(*dir)?.now.remove(name)),
                    Some(node) => drop(self.dir(*dir)?.now.insert(name.clone(), node)),
                }
            }
        }
        self.unsynced.push(change);
        self.alive()
    }

    fn apply_durably(&mut self, change: Change) {
        if let Some((dir, name, node)) = change.gone
            && let Node::Dir(dir) = &mut self.nodes[dir]
            && dir.durable.get(&name) == Some(&node)
        {
            dir.durable.remove(&name);
        }
        if let Some((dir, name, node)) = change.new
            && let Node::Dir(dir) = &mut self.nodes[dir]
        {
            dir.durable.insert(name, node);
        }
    }

    fn crash(&mut self, landing: Option<Landing>) {
        let random = &mut self.random;
        for node in &mut self.nodes {
            if let Node::File(file) = node {
                file.crash(landing.unwrap_or_else(|| Landing::drawn(random)), random);
            }
        }
        let all = landing.unwrap_or_else(|| Landing::drawn(random));
        for change in std::mem::take(&mut self.unsynced) {
            let lands = match all {
                Landing::Nothing => false,
                Landing::Everything => true,
                Landing::Some => self.random.one_in(2),
            };
            if lands {
                self.apply_durably(change);
            }
        }
        for node in &mut self.nodes {
            if let Node::Dir(dir) = node {
                dir.now.clone_from(&dir.durable);
            }
        }
        self.has_power = true;
        self.was_killed = false;
        self.fault = None;
        self.locked.clear();
        self.boots += 1;
    }
}

impl Fault {
    fn error(self) -> io::Error {
        match self {
            Self::Cut | Self::Kill => io::Error::other("the power is cut, or the process killed"),
            Self::Io => io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()),
            Self::Full => io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error()),
        }
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        state.alive()?;
        let open = |node| -> io::Result<Arc<dyn DiskFile>> {
            Ok(Arc::new(SimFile { disk: self.clone(), node, path: path.to_path_buf(), boot: state.boots }))
        };
        let node = match (state.find(path), access) {
            (Ok(_), Access::New) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Ok(node), Access::Read | Access::Write) => return open(node),
            (Ok(node), Access::Replace) => {
                let opened = open(node)?;
                drop(state);
                if opened.stat()?.len > 0 {
                    opened.set_len(0)?;
                }
                return Ok(opened);
            }
            (Err(error), Access::Read | Access::Write) => return Err(error),
            (Err(_), Access::New | Access::Replace) => state.nodes.len(),
        };
        let opened = open(node)?;
        let (parent, name) = state.parent(path)?;
        state.nodes.push(Node::File(FileNode::default()));
        state.change(Operation::Create, path, Change { gone: None, new: Some((parent, name, node)) })?;
        Ok(opened)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.alive()?;
        if state.find(path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let (parent, name) = state.parent(path)?;
        let node = state.nodes.len();
        state.nodes.push(Node::Dir(DirNode::default()));
        state.change(Operation::CreateDir, path, Change { gone: None, new: Some((parent, name, node)) })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.alive()?;
        let node = state.find(from)?;
        let ((from_dir, from_name), (to_dir, to_name)) = (state.parent(from)?, state.parent(to)?);
        let change = Change { gone: Some((from_dir, from_name, node)), new: Some((to_dir, to_name, node)) };
        state.change(Operation::Rename, to, change)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        match self.stat(to) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.rename(from, to),
            Err(error) => Err(error),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.alive()?;
        let node = state.find(path)?;
        let (dir, name) = state.parent(path)?;
        state.change(Operation::Remove, path, Change { gone: Some((dir, name, node)), new: None })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut state = self.lock();
        state.alive()?;
        let node = state.find(dir)?;
        let entries = state.dir(node)?.now.clone();
        let kind = |node: usize| match &state.nodes[node] {
            Node::File(_) => Kind::File,
            Node::Dir(_) => Kind::Dir,
        };
        Ok(entries.into_iter().map(|(name, node)| Entry { name, kind: kind(node) }).collect())
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let state = self.lock();
        state.alive()?;
        let node = state.find(path)?;
        let len = match &state.nodes[node] {
            Node::File(file) => file.len() as u64,
            Node::Dir(_) => 0,
        };
        Ok(Stat { id: (0, node as u64), len })
    }

    /// A renaming between two directories is durable when either is synced: no file system writes half of it.
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.alive()?;
        let node = state.find(dir)?;
        if let Some(fault) = state.begin(Operation::SyncDir, dir)? {
            return Err(fault.error());
        }
        if state.lies(dir) {
            return Ok(());
        }
        let touches = |change: &Change| change.gone.iter().chain(&change.new).any(|(dir, ..)| *dir == node);
        let (synced, left) = std::mem::take(&mut state.unsynced).into_iter().partition(touches);
        state.unsynced = left;
        let synced: Vec<Change> = synced;
        for change in synced {
            state.apply_durably(change);
        }
        Ok(())
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<Option<DirLock>> {
        let mut state = self.lock();
        state.alive()?;
        let node = state.find(dir)?;
        let boot = state.boots;
        Ok(state.locked.insert(node).then(|| Box::new(SimLock { disk: self.clone(), node, boot }) as DirLock))
    }
}

struct SimLock {
    disk: SimDisk,
    node: usize,
    boot: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.lock();
        if state.boots == self.boot {
            state.locked.remove(&self.node);
        }
    }
}

struct SimFile {
    disk: SimDisk,
    node: usize,
    path: std::path::PathBuf,
    boot: u64,
}

impl SimFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.lock();
        state.alive()?;
        if state.boots == self.boot { Ok(state) } else { Err(io::Error::other("opened before the power was cut")) }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state()?;
        match state.begin(Operation::Sync, &self.path)? {
            None if state.lies(&self.path) => Ok(()),
            None => {
                state.file(self.node).sync();
                Ok(())
            }
            // What was written may land when the power comes back.
            Some(fault @ (Fault::Cut | Fault::Kill)) => Err(fault.error()),
            Some(fault) => {
                let State { nodes, random, .. } = &mut *state;
                let landing = Landing::drawn(random);
                if let Node::File(file) = &mut nodes[self.node] {
                    file.lose(landing, random);
                }
                Err(fault.error())
            }
        }
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        Ok(self.state()?.file(self.node).read_at(buffer, at as usize))
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut state = self.state()?;
        let fault = state.begin(Operation::Write, &self.path)?;
        let len = match fault {
            None | Some(Fault::Cut | Fault::Kill) => bytes.len(),
            Some(Fault::Io | Fault::Full) => {
                let end = at as usize + state.random.below(bytes.len() as u64 + 1) as usize;
                (end / PAGE_LEN * PAGE_LEN).saturating_sub(at as usize)
            }
        };
        if len > 0 {
            state.file(self.node).write_at(&bytes[..len], at as usize);
        }
        fault.map_or(Ok(()), |fault| Err(fault.error()))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state()?;
        match state.begin(Operation::SetLen, &self.path)? {
            Some(fault @ (Fault::Io | Fault::Full)) => Err(fault.error()),
            fault => {
                state.file(self.node).set_len(len as usize);
                fault.map_or(Ok(()), |fault| Err(fault.error()))
            }
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }

    fn stat(&self) -> io::Result<Stat> {
        let mut state = self.state()?;
        let len = state.file(self.node).len() as u64;
        Ok(Stat { id: (0, self.node as u64), len })
    }
}
