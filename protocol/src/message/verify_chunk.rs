//! `VerifyChunk`: an order (`spec/messages.md` section 10).

use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, Epoch};

/// Has a replica read back from the medium. All three fields are checked when the order runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyChunk {
    /// Of the master that orders.
    pub epoch: Epoch,
    /// Which chunk.
    pub handle: ChunkHandle,
    /// Which version of it.
    pub version: ChunkVersion,
}

impl Message for VerifyChunk {
    const KIND: Kind = Kind::VerifyChunk;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.epoch).put(&self.handle).put(&self.version);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            epoch: input.take()?,
            handle: input.take()?,
            version: input.take()?,
        })
    }
}

/// What was read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkVerified {
    /// Whether every block matched.
    pub good: bool,
    /// Bytes read.
    pub length: u32,
    /// Of the bytes read.
    pub crc32: u32,
}

impl Message for ChunkVerified {
    const KIND: Kind = Kind::ChunkVerified;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.good).put(&self.length).put(&self.crc32);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            good: input.take()?,
            length: input.take()?,
            crc32: input.take()?,
        })
    }
}
