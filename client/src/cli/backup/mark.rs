//! What a backup says of itself: the file BACKUP, a witness of the journal that it was made of.

use stated_shared::{Digest, RepositoryId, Seq};

const TITLE: &str = "stated backup 1";

/// How far a backup goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) repository: RepositoryId,
    /// Its last record.
    pub(super) seq: Seq,
    /// The chain's MAC at that record.
    pub(super) head: Digest,
    /// The first record of the part of the log that ends with it.
    pub(super) part: Seq,
    /// The length of that part.
    pub(super) part_len_bytes: u64,
}

impl Mark {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()? != TITLE {
            return None;
        }
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        Some(Self {
            repository: field("repository")?.parse().ok()?,
            seq: field("seq")?.parse().ok()?,
            head: field("head")?.parse().ok()?,
            part: field("part")?.parse().ok()?,
            part_len_bytes: field("length")?.parse().ok()?,
        })
    }

    pub(super) fn text(&self) -> String {
        let Self { repository, seq, head, part, part_len_bytes } = self;
        format!("{TITLE}\nrepository {repository}\nseq {seq}\nhead {head}\npart {part}\nlength {part_len_bytes}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back() {
        let mark = Mark {
            repository: RepositoryId([7; 16]),
            seq: Seq(12),
            head: Digest([1; 32]),
            part: Seq(3),
            part_len_bytes: 4711,
        };
        assert_eq!(Mark::parse(&mark.text()), Some(mark.clone()));
        assert_eq!(Mark::parse(&mark.text()[1..]), None);
        assert_eq!(Mark::parse(&mark.text()[..40]), None);
    }
}
