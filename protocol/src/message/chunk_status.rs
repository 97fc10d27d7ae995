//! `ChunkStatus` (`spec/messages.md` section 11).

use super::shared::ChunkState;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, Serial};
use crate::ticket::Ticket;

/// Asks what a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkStatus {
    /// The right to read it.
    pub ticket: Ticket,
    /// Which.
    pub handle: ChunkHandle,
}

impl Message for ChunkStatus {
    const KIND: Kind = Kind::ChunkStatus;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.ticket).put(&self.handle);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            ticket: input.take()?,
            handle: input.take()?,
        })
    }
}

/// What it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkStatusReply {
    /// Its version.
    pub version: ChunkVersion,
    /// The last mutation that it has.
    pub serial: Serial,
    /// Bytes.
    pub length: u32,
    /// Of a sealed chunk.
    pub crc32: u32,
    /// Pending, open or sealed.
    pub state: ChunkState,
}

impl Message for ChunkStatusReply {
    const KIND: Kind = Kind::ChunkStatusReply;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.version)
            .put(&self.serial)
            .put(&self.length)
            .put(&self.crc32)
            .put(&self.state);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            version: input.take()?,
            serial: input.take()?,
            length: input.take()?,
            crc32: input.take()?,
            state: input.take()?,
        })
    }
}
