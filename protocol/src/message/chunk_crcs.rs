//! `ChunkCrcs`: stored CRCs without the bytes (`spec/messages.md` section 11).

use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion};
use crate::size::BLOCKS_PER_CHUNK_MAX;
use crate::ticket::Ticket;

/// Asks for a range of the CRC table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkCrcs {
    /// The right to read it.
    pub ticket: Ticket,
    /// Which.
    pub handle: ChunkHandle,
    /// Which version.
    pub version: ChunkVersion,
    /// Blocks from here on.
    pub first_block: u32,
    /// How many, 1 to 1,024.
    pub count: u32,
}

impl Message for ChunkCrcs {
    const KIND: Kind = Kind::ChunkCrcs;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.ticket)
            .put(&self.handle)
            .put(&self.version)
            .put(&self.first_block)
            .put(&self.count);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let message = Self {
            ticket: input.take()?,
            handle: input.take()?,
            version: input.take()?,
            first_block: input.take()?,
            count: input.take()?,
        };
        match (1..=BLOCKS_PER_CHUNK_MAX).contains(&message.count) {
            true => Ok(message),
            false => Err(BodyError::OutOfBounds),
        }
    }
}

/// The range, as far as the chunk goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkCrcsReply {
    /// Bytes of the chunk.
    pub length: u32,
    /// One a block.
    pub crcs: Vec<u32>,
}

impl Message for ChunkCrcsReply {
    const KIND: Kind = Kind::ChunkCrcsReply;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.length).list(&self.crcs);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            length: input.take()?,
            crcs: input.list(BLOCKS_PER_CHUNK_MAX as usize)?,
        })
    }
}
