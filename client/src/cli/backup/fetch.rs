//! The steps of a backup, as a client asks for them.

use stated_shared::{
    BackupBegun, BackupPart, BackupStep, BlobName, Digest, Failure, FailureKind, Reply, RepositoryId, Request, Seq,
};

use crate::Client;
use crate::cli::failure;

/// What was fetched, for whoever asked.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Fetched {
    /// Records.
    pub(super) records: u64,
    /// Blobs.
    pub(super) blobs: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Blobs that the state directory should have and has not, and that the backup has not either.
    pub(super) missing: u64,
}

/// A backup that is under way.
pub(super) struct Fetch<'a> {
    client: &'a mut Client,
    pub(super) begun: BackupBegun,
    pub(super) fetched: Fetched,
}

impl<'a> Fetch<'a> {
    /// Begins it: from here on the daemon holds what is there.
    pub(super) fn begin(client: &'a mut Client, has: Option<(RepositoryId, Seq, Digest)>) -> Result<Self, Failure> {
        let BackupPart::Begun(begun) = part(client, BackupStep::Begin { has })? else {
            return Err(failure::unexpected());
        };
        // Whoever asks may be root, and write where the daemon must not.
        if let Some((path, _)) = begun.files.iter().find(|(path, _)| !is_small_file(path)) {
            let message = format!("the daemon sends {path:?}, which is no file of a backup");
            return Err(Failure::new(FailureKind::Protocol, message));
        }
        Ok(Self { client, begun, fetched: Fetched::default() })
    }

    /// Shows all blobs with their lengths, in the order of their names.
    pub(super) fn blobs(
        &mut self,
        mut see: impl FnMut(&mut Self, BlobName, Option<u64>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut after = None;
        loop {
            let BackupPart::Blobs { blobs, more } = part(self.client, BackupStep::Blobs { after })? else {
                return Err(failure::unexpected());
            };
            after = blobs.last().map(|(name, _)| *name);
            for (name, len) in blobs {
                see(self, name, len)?;
            }
            if !more || after.is_none() {
                return Ok(());
            }
        }
    }

    /// Shows the bytes of a blob, which must be as many as were announced.
    pub(super) fn blob(
        &mut self,
        name: BlobName,
        len: u64,
        mut take: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut offset_bytes = 0;
        while offset_bytes < len {
            let BackupPart::Blob(bytes) = part(self.client, BackupStep::Blob { name, offset_bytes })? else {
                return Err(failure::unexpected());
            };
            offset_bytes += bytes.0.len() as u64;
            if bytes.0.is_empty() || offset_bytes > len {
                let message = format!("blob {name} is not of its length any more");
                return Err(Failure::new(FailureKind::Storage, message)
                    .hint("see what is damaged with: statectl verify --read-data"));
            }
            take(&bytes.0)?;
        }
        self.fetched.blobs += 1;
        self.fetched.bytes += len;
        Ok(())
    }

    /// Shows the records after this one, as bytes of a log. With each piece comes the record that a new part of the log may
    /// begin with, where it begins with a whole one.
    pub(super) fn records(
        &mut self,
        after: Seq,
        mut take: impl FnMut(Option<Seq>, &[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (mut from, mut offset_bytes) = (after.next(), 0);
        while from <= self.begun.seq {
            let BackupPart::Records { bytes, next } = part(self.client, BackupStep::Records { from, offset_bytes })?
            else {
                return Err(failure::unexpected());
            };
            if bytes.0.is_empty() || next <= (from, offset_bytes) {
                return Err(failure::unexpected());
            }
            take((offset_bytes == 0).then_some(from), &bytes.0)?;
            self.fetched.records += next.0.0 - from.0;
            self.fetched.bytes += bytes.0.len() as u64;
            (from, offset_bytes) = next;
        }
        Ok(())
    }

    /// Lets the daemon go on as it likes.
    pub(super) fn end(self) -> Result<Fetched, Failure> {
        match self.client.call(&Request::Backup(BackupStep::End))? {
            Reply::Done => Ok(self.fetched),
            _ => Err(failure::unexpected()),
        }
    }
}

fn part(client: &mut Client, step: BackupStep) -> Result<BackupPart, Failure> {
    match client.call(&Request::Backup(step))? {
        Reply::Backup(part) => Ok(part),
        _ => Err(failure::unexpected()),
    }
}

fn is_small_file(path: &str) -> bool {
    let generation = path.strip_prefix("keys/").and_then(|name| name.strip_suffix(".age"));
    path == "FORMAT" || generation.is_some_and(|n| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Where a blob lies.
pub(super) fn blob_path(name: BlobName) -> String {
    let name = name.to_string();
    format!("blob/{}/{name}.age", &name[..2])
}

/// The name of a part of the log.
pub(super) fn part_name(first: Seq) -> String {
    format!("{:016x}.log", first.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_writes_nowhere_else() {
        assert!(is_small_file("FORMAT") && is_small_file("keys/12.age"));
        for path in ["keys/../1.age", "/FORMAT", "keys/.age", "keys/1.age/x", "log/1.log", ""] {
            assert!(!is_small_file(path), "{path}");
        }
    }
}
