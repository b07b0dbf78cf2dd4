//! Byte ranges of RFC 9110, as S3 takes them: one, of bytes.

/// What a `Range` header asks of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// All of it: none was asked for, or none that is understood.
    Whole,
    /// From the first of these bytes up to, but not with, the second.
    Part(usize, usize),
    /// Nothing that is there.
    Unsatisfiable,
}

impl Range {
    /// Reads a header's value against the content's length.
    pub fn read(header: Option<&str>, len: usize) -> Self {
        let Some(spec) = header.and_then(|header| header.strip_prefix("bytes=")) else { return Self::Whole };
        let Some((first, last)) = spec.trim().split_once('-') else { return Self::Whole };
        match (first.trim().parse::<usize>(), last.trim()) {
            (Ok(first), "") if first < len => Self::Part(first, len),
            (Ok(first), last) if first < len => match last.parse::<usize>() {
                Ok(last) if last >= first => Self::Part(first, last.saturating_add(1).min(len)),
                _ => Self::Whole,
            },
            (Ok(_), _) => Self::Unsatisfiable,
            (Err(_), last) if first.trim().is_empty() => match last.parse::<usize>() {
                Ok(0) => Self::Unsatisfiable,
                Ok(_) if len == 0 => Self::Unsatisfiable,
                Ok(count) => Self::Part(len - count.min(len), len),
                Err(_) => Self::Whole,
            },
            _ => Self::Whole,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_they_are_meant() {
        let read = |header| Range::read(Some(header), 10);
        assert_eq!(read("bytes=0-4"), Range::Part(0, 5));
        assert_eq!(read("bytes=0-5242879"), Range::Part(0, 10));
        assert_eq!(read("bytes=7-"), Range::Part(7, 10));
        assert_eq!(read("bytes=-3"), Range::Part(7, 10));
        assert_eq!(read("bytes=-30"), Range::Part(0, 10));
        assert_eq!(read("bytes=9-18446744073709551615"), Range::Part(9, 10));
        for whole in ["bytes=4-2", "bytes=x-2", "bytes=1", "lines=0-4", "bytes=0-1,3-4", "bytes=-"] {
            assert_eq!(read(whole), Range::Whole, "{whole}");
        }
        for none in ["bytes=10-", "bytes=10-12", "bytes=-0"] {
            assert_eq!(read(none), Range::Unsatisfiable, "{none}");
        }
        assert_eq!(Range::read(Some("bytes=0-"), 0), Range::Unsatisfiable);
        assert_eq!(Range::read(None, 10), Range::Whole);
    }
}
