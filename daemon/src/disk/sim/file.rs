//! What a simulated file holds: what everybody reads, what is durable, and what may have become so.

use std::collections::BTreeMap;

use super::random::Random;

/// What a disk writes whole or not at all, in bytes.
pub const SECTOR_LEN: usize = 512;

type Sector = [u8; SECTOR_LEN];

/// How much of what was not synced lands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landing {
    /// Nothing.
    Nothing,
    /// Everything.
    Everything,
    /// Each sector and each length by itself, in any of the forms that it had since the last sync.
    Some,
}

impl Landing {
    pub fn drawn(random: &mut Random) -> Self {
        *random.pick(&[Self::Nothing, Self::Everything, Self::Some, Self::Some])
    }

    /// Which of `forms` forms of something lands; 0 is the durable one.
    fn form(self, forms: usize, random: &mut Random) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Everything => forms - 1,
            Self::Some => random.below(forms as u64) as usize,
        }
    }
}

#[derive(Default)]
pub struct FileNode {
    /// The page cache.
    cache: Vec<u8>,
    durable: Vec<u8>,
    /// Bytes may have landed beyond it.
    durable_len: usize,
    /// What each sector was after each write since the last sync.
    dirty: BTreeMap<usize, Vec<Sector>>,
    /// What the length was after each change of it since the last sync that went well.
    lens: Vec<usize>,
}

impl FileNode {
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    pub fn read_at(&self, buffer: &mut [u8], at: usize) -> usize {
        let rest = self.cache.get(at..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        len
    }

    pub fn write_at(&mut self, bytes: &[u8], at: usize) {
        let end = at + bytes.len();
        if end > self.cache.len() {
            self.cache.resize(end, 0);
            self.lens.push(end);
        }
        self.cache[at..end].copy_from_slice(bytes);
        self.touch(at, end);
    }

    pub fn set_len(&mut self, len: usize) {
        let old = self.cache.len();
        if len == old {
            return;
        }
        self.cache.resize(len, 0);
        self.lens.push(len);
        // Should it grow again, what was cut off reads as zeros.
        self.touch(len.min(old), old);
    }

    fn touch(&mut self, from: usize, to: usize) {
        for index in from / SECTOR_LEN..to.div_ceil(SECTOR_LEN) {
            let sector = sector(&self.cache, index);
            self.dirty.entry(index).or_default().push(sector);
        }
    }

    /// A sync that went well.
    pub fn sync(&mut self) {
        self.land(|forms| forms - 1);
        self.durable_len = self.cache.len();
        self.lens.clear();
    }

    /// A sync that failed: the kernel takes the pages for clean although only some of them landed. The length is the
    /// file system's own affair, and stays to be written.
    pub fn lose(&mut self, landing: Landing, random: &mut Random) {
        self.land(|forms| landing.form(forms, random));
    }

    /// The power went out: what landed is all there is.
    pub fn crash(&mut self, landing: Landing, random: &mut Random) {
        let mut lens = vec![self.durable_len];
        lens.append(&mut self.lens);
        self.durable_len = lens[landing.form(lens.len(), random)];
        self.land(|forms| landing.form(forms, random));
        self.durable.resize(self.durable_len, 0);
        self.cache = self.durable.clone();
    }

    /// Chooses for each dirty sector which of its forms is durable; 0 is the one that was.
    fn land(&mut self, mut choose: impl FnMut(usize) -> usize) {
        for (index, forms) in std::mem::take(&mut self.dirty) {
            let Some(chosen) = choose(forms.len() + 1).checked_sub(1) else { continue };
            let start = index * SECTOR_LEN;
            if self.durable.len() < start + SECTOR_LEN {
                self.durable.resize(start + SECTOR_LEN, 0);
            }
            self.durable[start..start + SECTOR_LEN].copy_from_slice(&forms[chosen]);
        }
    }
}

fn sector(bytes: &[u8], index: usize) -> Sector {
    let mut sector = [0; SECTOR_LEN];
    let start = (index * SECTOR_LEN).min(bytes.len());
    let end = (start + SECTOR_LEN).min(bytes.len());
    sector[..end - start].copy_from_slice(&bytes[start..end]);
    sector
}
