//! Secrets of 32 bytes, and the one thing that is done with them: HMAC-SHA-256.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// A cluster key or a ticket key. Its bytes are never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey([u8; 32]);

impl SecretKey {
    /// A key of these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret itself, for whoever stores or sends it.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// HMAC over `parts`, one after the other.
    #[must_use]
    pub fn sign(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.mac(parts).finalize().into_bytes().into()
    }

    /// Whether `proof` is the HMAC over `parts`, compared in constant time.
    #[must_use]
    pub fn verify(&self, parts: &[&[u8]], proof: &[u8; 32]) -> bool {
        self.mac(parts).verify_slice(proof).is_ok()
    }

    fn mac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        parts.iter().for_each(|part| mac.update(part));
        mac
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_its_bytes_only() {
        let key = SecretKey::new([7; 32]);
        let proof = key.sign(&[b"label", b"body"]);
        assert!(key.verify(&[b"labelbody"], &proof), "parts are only joined");
        assert!(!key.verify(&[b"label", b"bodY"], &proof));
        assert!(!SecretKey::new([8; 32]).verify(&[b"label", b"body"], &proof));
        assert_eq!(format!("{key:?}"), "SecretKey(..)");
    }
}
