//! Which state an object is: `bucket/key`, percent-encoded where a name may not hold it.

use stated_shared::StateName;

use super::super::percent;

/// Longest key, in bytes of UTF-8, as S3 has it.
pub const KEY_LEN_MAX: usize = 1024;
/// What an empty part of a key becomes: no other part encodes to this.
const EMPTY_PART: &str = "%";

/// Why an object cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// Not a bucket's name as S3 has it.
    #[error("a bucket's name has 3 to 63 lower-case letters, digits, dots and hyphens")]
    Bucket,
    /// Over [`KEY_LEN_MAX`], or empty.
    #[error("a key has 1 to {KEY_LEN_MAX} bytes of UTF-8")]
    Key,
}

/// An object's place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// The state that it is.
    pub state: StateName,
}

impl Place {
    /// The place of this bucket and key.
    pub fn new(bucket: &str, key: &str) -> Result<Self, PlaceError> {
        check_bucket(bucket)?;
        if !(1..=KEY_LEN_MAX).contains(&key.len()) {
            return Err(PlaceError::Key);
        }
        let parts: Vec<String> = key.split('/').map(encode_part).collect();
        let state = StateName::parse(&format!("{bucket}/{}", parts.join("/"))).map_err(|_| PlaceError::Key)?;
        Ok(Self { bucket: bucket.to_owned(), key: key.to_owned(), state })
    }

    /// The place of `bucket/key`, as DynamoDB's items name it.
    pub fn of_path(path: &str) -> Result<Self, PlaceError> {
        let (bucket, key) = path.split_once('/').ok_or(PlaceError::Key)?;
        Self::new(bucket, key)
    }

    /// The place that is this state, where one is.
    pub fn of_state(state: &StateName) -> Option<Self> {
        let (bucket, parts) = state.as_str().split_once('/')?;
        let parts: Option<Vec<String>> = parts.split('/').map(decode_part).collect();
        // One state has one key: a name that only looks encoded, or not as it would be here, has none.
        Self::new(bucket, &parts?.join("/")).ok().filter(|place| place.state == *state)
    }
}

/// Whether a bucket may be called so.
pub fn check_bucket(name: &str) -> Result<(), PlaceError> {
    let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b));
    let ends = [name.bytes().next(), name.bytes().last()].into_iter().flatten().all(|b| b.is_ascii_alphanumeric());
    if (3..=63).contains(&name.len()) && letters && ends && !name.contains("..") {
        Ok(())
    } else {
        Err(PlaceError::Bucket)
    }
}

fn encode_part(part: &str) -> String {
    if part.is_empty() { EMPTY_PART.to_owned() } else { percent::name_part(part.as_bytes()) }
}

fn decode_part(part: &str) -> Option<String> {
    if part == EMPTY_PART { Some(String::new()) } else { percent::decode(part) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_one_state_and_back() {
        for (key, state) in [
            ("terraform/state.tfstate", "b-1/terraform/state.tfstate"),
            ("env:/dev/terraform/state.tfstate", "b-1/env:/dev/terraform/state.tfstate"),
            ("a b/ü", "b-1/a b/ü"),
            ("a@b", "b-1/a%40b"),
            ("100%", "b-1/100%25"),
            ("a//b/", "b-1/a/%/b/%"),
            ("../.", "b-1/%2E%2E/%2E"),
            ("/", "b-1/%/%"),
            ("%", "b-1/%25"),
            ("line\nbreak", "b-1/line%0Abreak"),
        ] {
            let place = Place::new("b-1", key).unwrap();
            assert_eq!(place.state.as_str(), state);
            assert_eq!(Place::of_state(&place.state), Some(place.clone()));
            assert_eq!(Place::of_path(&format!("b-1/{key}")), Ok(place));
        }
    }

    #[test]
    fn a_state_that_no_key_encodes_to_is_no_object() {
        for state in ["bucket", "bucket/a%41", "bucket/%zz", "bucket/a%2e", "BUCKET/x", "ab/x"] {
            assert_eq!(Place::of_state(&StateName::parse(state).unwrap()), None, "{state}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for bucket in ["", "ab", "Abc", "a_c", "-bc", "bc.", "a..b", "v1", &"a".repeat(64)] {
            assert_eq!(Place::new(bucket, "k"), Err(PlaceError::Bucket), "{bucket}");
        }
        assert_eq!(Place::new("bucket", ""), Err(PlaceError::Key));
        assert_eq!(Place::new("bucket", &"k".repeat(1025)), Err(PlaceError::Key));
        assert_eq!(Place::of_path("bucket"), Err(PlaceError::Key));
    }
}
