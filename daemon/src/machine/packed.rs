//! What is old: packed as a snapshot holds it, and unpacked when somebody asks for it.
//!
//! A frame is one zstd frame of [`Line`]s that refer to nothing outside of it. A snapshot is authenticated as a whole
//! before any of it is believed, so a frame that does not unpack is a bug of ours, and yet it is told and not assumed.

use std::borrow::Cow;
use std::sync::OnceLock;

use stated_shared::{Failure, FailureKind, Seq, Version};

use super::Divergence;
use super::event::Content;
use super::snapshot::{Line, Tables, Writing};
use super::states::VersionEntry;

/// Speed before size: frames are made while commits go on.
const LEVEL: i32 = 1;
/// Longest content of a frame, in bytes.
const LINES_LEN_MAX: u64 = 1 << 30;

/// A part of a snapshot that was believed cannot be read: a bug of ours. The journal still has what it held.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a part of the snapshot that this start used does not read: {0}")]
pub struct Unreadable(pub String);

/// The versions from one on, one after the other.
#[derive(Debug)]
pub(super) struct Run {
    pub first: Version,
    pub len: u64,
    /// The blobs that they need: a start sweeps the others, and unpacks nothing for it.
    pub blobs: Vec<String>,
    rows: Packed<Vec<VersionEntry>>,
}

/// A version with content: where its payload is, and what it is patched from.
pub(super) type Link = (Version, Seq, Content);

/// Some versions with content, the oldest first.
#[derive(Debug)]
pub(super) struct Links(Packed<Vec<Link>>);

/// A frame, and what was made of its lines once somebody asked.
#[derive(Debug)]
pub(super) struct Packed<T> {
    frame: Box<[u8]>,
    unpacked: OnceLock<Result<T, Unreadable>>,
}

impl Run {
    /// Packs versions. Those that soon become part of a longer run are kept unpacked as well.
    pub fn pack(first: Version, rows: Vec<VersionEntry>, is_growing: bool) -> Result<Self, Divergence> {
        let blobs = rows.iter().filter_map(VersionEntry::blob).map(str::to_owned).collect();
        let len = rows.len() as u64;
        let mut lines = Vec::new();
        let mut see = |line: &Line| write(&mut lines, line);
        let mut writing = Writing::new(&mut see);
        rows.iter().for_each(|row| writing.version(row));
        let rows = Packed::of(compress(&lines)?, is_growing.then_some(rows));
        Ok(Self { first, len, blobs, rows })
    }

    /// One that a snapshot holds.
    pub fn of_frame(first: Version, len: u64, blobs: Vec<String>, frame: &[u8]) -> Self {
        Self { first, len, blobs, rows: Packed::of_frame(frame) }
    }

    pub fn rows(&self) -> Result<&[VersionEntry], Unreadable> {
        self.rows.unpacked(|lines| self.read(lines)).map(Vec::as_slice)
    }

    /// As [`Run::rows`], and what was packed stays so.
    pub fn rows_once(&self) -> Result<Cow<'_, [VersionEntry]>, Unreadable> {
        match self.rows.unpacked.get() {
            Some(_) => self.rows().map(Cow::Borrowed),
            None => self.rows.read(|lines| self.read(lines)).map(Cow::Owned),
        }
    }

    fn read(&self, lines: &mut dyn Iterator<Item = Result<Line, Unreadable>>) -> Result<Vec<VersionEntry>, Unreadable> {
        let mut tables = Tables::default();
        let rows = lines.filter_map(|line| line.and_then(|line| tables.take(line).map_err(unreadable)).transpose());
        let rows: Vec<_> = rows.collect::<Result<_, _>>()?;
        let len = rows.len() as u64;
        if len == self.len { Ok(rows) } else { Err(Unreadable(format!("{len} versions for {}", self.len))) }
    }

    pub fn frame(&self) -> &[u8] {
        self.rows.frame()
    }

    pub fn is_unpacked(&self) -> bool {
        self.rows.is_unpacked()
    }
}

impl Links {
    /// Packs links, and keeps them unpacked as well.
    pub fn pack(mut links: Vec<Link>) -> Result<Self, Divergence> {
        links.sort_unstable_by_key(|(version, ..)| *version);
        let lines = links.iter().map(|(version, seq, content)| Line::Link(*version, *seq, content.clone()));
        Ok(Self(Packed::pack(&lines.collect::<Vec<_>>(), Some(links))?))
    }

    pub fn of_frame(frame: &[u8]) -> Self {
        Self(Packed::of_frame(frame))
    }

    pub fn get(&self, version: Version) -> Result<Option<(Seq, &Content)>, Unreadable> {
        let links = self.all()?;
        let found = links.binary_search_by_key(&version, |(version, ..)| *version).ok();
        Ok(found.map(|at| (links[at].1, &links[at].2)))
    }

    pub fn all(&self) -> Result<&Vec<Link>, Unreadable> {
        self.0.unpacked(|lines| {
            let link = |line| match line {
                Line::Link(version, seq, content) => Ok((version, seq, content)),
                _ => Err(Unreadable("no link among links".to_owned())),
            };
            lines.map(|line| line.and_then(link)).collect()
        })
    }

    pub fn frame(&self) -> &[u8] {
        self.0.frame()
    }
}

impl<T> Packed<T> {
    fn of(frame: Box<[u8]>, unpacked: Option<T>) -> Self {
        Self { frame, unpacked: unpacked.map(|unpacked| OnceLock::from(Ok(unpacked))).unwrap_or_default() }
    }

    /// Packs lines; what they say may be kept unpacked as well.
    pub fn pack(lines: &[Line], unpacked: Option<T>) -> Result<Self, Divergence> {
        let mut written = Vec::new();
        lines.iter().for_each(|line| write(&mut written, line));
        Ok(Self::of(compress(&written)?, unpacked))
    }

    pub fn of_frame(frame: &[u8]) -> Self {
        Self::of(frame.into(), None)
    }

    pub fn frame(&self) -> &[u8] {
        &self.frame
    }

    pub fn is_unpacked(&self) -> bool {
        self.unpacked.get().is_some()
    }

    /// What `read` makes of the lines: a pure function of the frame, so that it may be kept.
    pub fn unpacked(
        &self,
        read: impl FnOnce(&mut dyn Iterator<Item = Result<Line, Unreadable>>) -> Result<T, Unreadable>,
    ) -> Result<&T, Unreadable> {
        self.unpacked.get_or_init(|| self.read(read)).as_ref().map_err(Clone::clone)
    }

    /// As [`Packed::unpacked`], for this once.
    fn read(
        &self,
        read: impl FnOnce(&mut dyn Iterator<Item = Result<Line, Unreadable>>) -> Result<T, Unreadable>,
    ) -> Result<T, Unreadable> {
        let lines = decompress(&self.frame)?;
        let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        read(&mut lines.map(|line| serde_json::from_slice(line).map_err(unreadable)))
    }
}

impl VersionEntry {
    /// The blob that it needs.
    pub(super) fn blob(&self) -> Option<&str> {
        self.kept()?.payload.blob()
    }
}

impl From<Unreadable> for Divergence {
    fn from(unreadable: Unreadable) -> Self {
        Self(unreadable.to_string())
    }
}

impl From<Unreadable> for Failure {
    fn from(unreadable: Unreadable) -> Self {
        Self::new(FailureKind::Internal, unreadable.to_string())
            .hint("the log has it: stop stated, move snap/ out of the state directory, then: stated run")
    }
}

/// Cuts the next frame of this length off.
pub(super) fn cut<'a>(frames: &mut &'a [u8], len_bytes: u64) -> Result<&'a [u8], Divergence> {
    let len = usize::try_from(len_bytes).ok();
    let split = len.and_then(|len| frames.split_at_checked(len));
    let (frame, rest) = split.ok_or_else(|| Divergence("a frame of a snapshot is missing".to_owned()))?;
    *frames = rest;
    Ok(frame)
}

fn unreadable(error: impl std::fmt::Display) -> Unreadable {
    Unreadable(error.to_string())
}

fn write(lines: &mut Vec<u8>, line: &Line) {
    serde_json::to_writer(&mut *lines, line).expect("stored types have a JSON form");
    lines.push(b'\n');
}

fn compress(lines: &[u8]) -> Result<Box<[u8]>, Divergence> {
    let frame = zstd::bulk::compress(lines, LEVEL);
    frame.map(Vec::into_boxed_slice).map_err(|error| Divergence(format!("a part of a snapshot is not packed: {error}")))
}

fn decompress(frame: &[u8]) -> Result<Vec<u8>, Unreadable> {
    let len = zstd::zstd_safe::get_frame_content_size(frame).ok().flatten();
    let len = len.filter(|len| *len <= LINES_LEN_MAX).ok_or_else(|| unreadable("a frame without its length"))?;
    zstd::bulk::decompress(frame, len as usize).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_unpack_is_told() {
        let run = Run::of_frame(Version(1), 2, Vec::new(), b"no frame");
        assert!(run.rows().is_err());
        assert!(run.rows().is_err(), "and again");
        let short = Run::of_frame(Version(1), 2, Vec::new(), &compress(b"").unwrap());
        assert_eq!(short.rows().unwrap_err(), Unreadable("0 versions for 2".to_owned()));
        let odd = Links::of_frame(&compress(b"{\"locked_before\":\"a\"}\n").unwrap());
        assert!(odd.get(Version(1)).is_err());
        let failure = Failure::from(odd.all().unwrap_err());
        assert_eq!(failure.kind, FailureKind::Internal);
    }
}
