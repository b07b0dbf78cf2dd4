//! The numbers and ids of the domain; no bare `u64` crosses a room.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::LOCK_ID_LEN_MAX;

/// An id that is not of its form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}")]
pub struct ParseIdError {
    expected: &'static str,
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The number after this one.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                text.parse().map(Self).map_err(|_| ParseIdError { expected: "a number" })
            }
        }
    };
}

number! {
    /// The number of one record of the journal; the first is 1.
    Seq
}
number! {
    /// The number of one immutable content of a state: dense from 1; a removal has one too.
    Version
}
number! {
    /// One start of the daemon; always grows, also after a restore of an old directory.
    Epoch
}
number! {
    /// The number of a keyring; the first is 1.
    Generation
}
number! {
    /// Wall-clock time in milliseconds since 1970-01-01T00:00:00Z.
    Timestamp
}

impl Epoch {
    /// The low half follows the wall clock, the high half counts restores.
    const SECONDS: u64 = 1 << 32;

    /// The epoch of a start that follows this one, at so many seconds of wall-clock time.
    ///
    /// A start takes one above the last that it knows. The clock is for what it does not know: the starts that came after
    /// a copy was made which was put back since.
    #[must_use]
    pub fn of_start(self, wall_s: u64) -> Self {
        self.next().max(Self(self.0 / Self::SECONDS * Self::SECONDS + wall_s))
    }

    /// An epoch above any that may have been given since this one, whatever the clock said then: for a restore.
    #[must_use]
    pub fn of_restore(self, wall_s: u64) -> Self {
        Self((self.0 / Self::SECONDS + 1) * Self::SECONDS + wall_s % Self::SECONDS)
    }
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $len:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut digits = [0; $len * 2];
                f.write_str(hex(&self.0, &mut digits))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let mut bytes = [0; $len];
                hex_into(text, &mut bytes).ok_or(ParseIdError { expected: $expected })?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
                } else {
                    <[u8; $len]>::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

hex_id! {
    /// One client connection and its resumptions; drawn by the client.
    SessionId, 16, "32 lower-case hexadecimal digits"
}
hex_id! {
    /// The repository that a state directory holds; drawn at its first start.
    RepositoryId, 16, "32 lower-case hexadecimal digits"
}
hex_id! {
    /// A payload that is a file of its own; drawn by the daemon.
    BlobName, 16, "32 lower-case hexadecimal digits"
}
hex_id! {
    /// A SHA-256 digest or an HMAC-SHA-256 tag.
    Digest, 32, "64 lower-case hexadecimal digits"
}

impl Digest {
    /// The chain's value before the first record.
    pub const ZERO: Self = Self([0; 32]);
}

/// Two digits a byte. By hand: ids are written with every event, and the formatter takes a microsecond for each.
fn hex<'a>(bytes: &[u8], digits: &'a mut [u8]) -> &'a str {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(digits.chunks_exact_mut(2)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 0xf)];
    }
    str::from_utf8(digits).expect("digits are ASCII")
}

/// Lower-case only: every id has one spelling.
fn hex_into(text: &str, bytes: &mut [u8]) -> Option<()> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let text = text.as_bytes();
    if text.len() != bytes.len() * 2 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(())
}

/// A fencing token, valid by equality with the live grant's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fence {
    /// The daemon's start that granted it.
    pub epoch: Epoch,
    /// Which grant of that start.
    pub n: u64,
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.n)
    }
}

impl FromStr for Fence {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        const EXPECTED: ParseIdError = ParseIdError { expected: "a fence such as 1764000000.7" };
        let (epoch, n) = text.split_once('.').ok_or(EXPECTED)?;
        Ok(Self { epoch: epoch.parse().map_err(|_| EXPECTED)?, n: n.parse().map_err(|_| EXPECTED)? })
    }
}

/// The ID of a grant: the requester's own (Terraform draws UUIDs) or one that the daemon drew.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockId(String);

/// A text that cannot be a lock ID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a lock ID is 1 to {LOCK_ID_LEN_MAX} printable ASCII characters without spaces")]
pub struct LockIdError;

impl LockId {
    /// Checks the form: 1 to [`LOCK_ID_LEN_MAX`] graphic ASCII characters.
    pub fn parse(text: &str) -> Result<Self, LockIdError> {
        let fits = (1..=LOCK_ID_LEN_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if fits { Ok(Self(text.to_owned())) } else { Err(LockIdError) }
    }

    /// A version 4 UUID of these random bytes.
    pub fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex = SessionId(bytes).to_string();
        Self(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
    }

    /// The ID as it is printed.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LockId({})", self.0)
    }
}

impl FromStr for LockId {
    type Err = LockIdError;
    fn from_str(text: &str) -> Result<Self, LockIdError> {
        Self::parse(text)
    }
}

impl Serialize for LockId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for LockId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id: SessionId = "00112233445566778899aabbccddeeff".parse().unwrap();
        assert_eq!(id.to_string(), "00112233445566778899aabbccddeeff");
        assert!("00112233445566778899AABBCCDDEEFF".parse::<SessionId>().is_err());
        assert!("0011".parse::<SessionId>().is_err());
    }

    #[test]
    fn a_drawn_lock_id_is_a_version_4_uuid() {
        assert_eq!(LockId::from_random([0xff; 16]).as_str(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }

    #[test]
    fn an_epoch_follows_the_clock_and_never_goes_back() {
        let now = 1_764_000_000;
        assert_eq!(Epoch(0).of_start(now), Epoch(now));
        assert_eq!(Epoch(now).of_start(now), Epoch(now + 1));
        assert_eq!(Epoch(now).of_start(7), Epoch(now + 1), "a clock that went back");
        let restored = Epoch(now).of_restore(7);
        // Ten years of starts that nobody knows of.
        assert!(restored > Epoch(now).of_start(now + 10 * 366 * 86_400));
        assert_eq!(restored.of_start(now), Epoch((1 << 32) + now), "it follows the clock again");
        assert!(Epoch(now).of_restore(now + 1) > Epoch(now).of_restore(now), "two restores of one backup");
        assert!(restored.of_restore(0) > restored.of_start(now));
        // The clock has more seconds than fit some day.
        let late = Epoch(1 << 32).of_start((1 << 32) + 5);
        assert!(late.of_start((1 << 32) + 5) > late && late.of_restore((1 << 32) + 5) > late);
    }

    #[test]
    fn a_fence_reads_back() {
        let fence = Fence { epoch: Epoch(1_764_000_000), n: 7 };
        assert_eq!(fence.to_string().parse(), Ok(fence));
        assert!("7".parse::<Fence>().is_err());
    }
}
