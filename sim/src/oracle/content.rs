//! The bytes of files, made from a number so that no two files share a block.

use bytes::Bytes;

use crate::random::Random;

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    bytes: Bytes,
}

impl Content {
    /// So many bytes from a number.
    #[must_use]
    pub fn new(number: u64, len: usize) -> Self {
        let mut random = Random::new(number ^ 0x5eed);
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&random.next().to_le_bytes());
        }
        bytes.truncate(len);
        Self {
            bytes: bytes.into(),
        }
    }

    /// All of it.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How much it is.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Whether it is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}
