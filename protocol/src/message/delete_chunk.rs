//! `DeleteChunk`: an order (`spec/messages.md` section 10).

use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, Epoch};

/// Moves a replica to the holding folder. All three fields are checked when the order runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeleteChunk {
    /// Of the master that orders.
    pub epoch: Epoch,
    /// Which chunk.
    pub handle: ChunkHandle,
    /// Which version of it.
    pub version: ChunkVersion,
}

impl Message for DeleteChunk {
    const KIND: Kind = Kind::DeleteChunk;

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

/// The replica is gone, durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkDeleted;

impl Message for ChunkDeleted {
    const KIND: Kind = Kind::ChunkDeleted;

    fn encode(&self, _: &mut Encoder) {}

    fn decode(_: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self)
    }
}
