//! `Settle`: an order to make a preparation the chunk (`spec/messages.md` section 14.3).

use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, Epoch};
use crate::size::CHUNK_LEN_MAX;

/// The seal is in the log: the preparation of this version becomes the chunk (`spec/replication.md`
/// section 3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settle {
    /// Of the master that orders.
    pub epoch: Epoch,
    /// Which chunk.
    pub handle: ChunkHandle,
    /// The version that it is sealed in.
    pub version: ChunkVersion,
    /// Bytes, as in the log.
    pub length: u32,
    /// Their CRC, as in the log.
    pub crc32: u32,
}

impl Message for Settle {
    const KIND: Kind = Kind::Settle;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.epoch)
            .put(&self.handle)
            .put(&self.version)
            .put(&self.length)
            .put(&self.crc32);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let message = Self {
            epoch: input.take()?,
            handle: input.take()?,
            version: input.take()?,
            length: input.take()?,
            crc32: input.take()?,
        };
        match message.length <= CHUNK_LEN_MAX {
            true => Ok(message),
            false => Err(BodyError::OutOfBounds),
        }
    }
}

/// The chunk is sealed here, durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled;

impl Message for Settled {
    const KIND: Kind = Kind::Settled;

    fn encode(&self, _: &mut Encoder) {}

    fn decode(_: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self)
    }
}
