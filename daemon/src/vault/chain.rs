//! The chain: one keyed digest a record, each over the one before.

use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::{Digest as _, Sha256};
use stated_shared::{Digest, Seq};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Precedes every label in the HKDF's info, so that no other use of the chain key can meet one of ours.
const LABEL_PREFIX: &[u8] = b"stated1 ";

/// The SHA-256 of these bytes.
pub fn sha256(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// Whether two digests are equal, in a time that does not tell where they differ.
#[must_use]
pub fn same(a: &Digest, b: &Digest) -> bool {
    a.0.ct_eq(&b.0).into()
}

/// `HMAC-SHA256(key, prev ‖ seq as u64 big-endian ‖ SHA-256(metadata))`, the metadata given in pieces.
pub(super) fn link(key: &[u8; 32], prev: Digest, seq: Seq, metadata: &[&[u8]]) -> Digest {
    let mut hash = Sha256::new();
    metadata.iter().for_each(|piece| hash.update(piece));
    link_over(key, prev, seq, &Digest(hash.finalize().into()))
}

/// As [`link`], where the SHA-256 of the metadata is all that is left of it.
pub(super) fn link_over(key: &[u8; 32], prev: Digest, seq: Seq, metadata: &Digest) -> Digest {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(&prev.0);
    mac.update(&seq.0.to_be_bytes());
    mac.update(&metadata.0);
    Digest(mac.finalize().into_bytes().into())
}

/// `HMAC-SHA256(key, bytes)`.
pub(super) fn tag(key: &[u8; 32], bytes: &[u8]) -> Digest {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(bytes);
    Digest(mac.finalize().into_bytes().into())
}

/// `HKDF-SHA256` of the chain key without salt, its info being `stated1 ` and the label.
pub(super) fn derive(key: &[u8; 32], label: &str) -> Zeroizing<[u8; 32]> {
    let mut derived = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(None, key)
        .expand_multi_info(&[LABEL_PREFIX, label.as_bytes()], derived.as_mut())
        .expect("32 bytes are far below HKDF's limit");
    derived
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with Python's hmac and hashlib: a change here breaks every directory there is.
    #[test]
    fn the_chain_is_the_documented_one() {
        let mac = link(&[7; 32], Digest::ZERO, Seq(1), &[b"{}\n"]);
        assert_eq!(mac.to_string(), "0438cd80612582a489a4ccc6b38504968ed83139734873877585e31894f78e1b");
        assert_eq!(
            link(&[7; 32], mac, Seq(2), &[b""]).to_string(),
            "bcbee1003cd4b45fa53af75d008a56e383572e58a767fa2db07bd0936cde2cf2"
        );
    }

    #[test]
    fn pieces_do_not_count() {
        let whole = link(&[7; 32], Digest::ZERO, Seq(1), &[b"one two"]);
        assert_eq!(whole, link(&[7; 32], Digest::ZERO, Seq(1), &[b"one ", b"", b"two"]));
    }

    #[test]
    fn the_derivation_is_the_documented_one() {
        let key = derive(&[7; 32], "snapshot");
        assert_eq!(Digest(*key).to_string(), "8aadfd0a118a47b4a9e8f25a2cec247251ab1c2ac6a60a6c35d3a665a5ac26b7");
        assert_ne!(*key, *derive(&[7; 32], "grants"));
    }

    #[test]
    fn every_input_of_the_chain_counts() {
        let mac = link(&[7; 32], Digest::ZERO, Seq(1), &[b"a"]);
        assert!(same(&mac, &link(&[7; 32], Digest::ZERO, Seq(1), &[b"a"])));
        assert!(!same(&mac, &link(&[8; 32], Digest::ZERO, Seq(1), &[b"a"])));
        assert!(!same(&mac, &link(&[7; 32], Digest([1; 32]), Seq(1), &[b"a"])));
        assert!(!same(&mac, &link(&[7; 32], Digest::ZERO, Seq(2), &[b"a"])));
        assert!(!same(&mac, &link(&[7; 32], Digest::ZERO, Seq(1), &[b"b"])));
    }
}
