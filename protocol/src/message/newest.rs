//! `Newest`: which state of an open chunk is the newest (`spec/messages.md` section 14.4).

use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, Serial};
use crate::size::CHUNK_LEN_MAX;
use crate::ticket::Ticket;

/// Asks the primary for a state that it confirms with all members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newest {
    /// The right to read or to write.
    pub ticket: Ticket,
    /// Which chunk.
    pub handle: ChunkHandle,
    /// The active version.
    pub version: ChunkVersion,
}

impl Message for Newest {
    const KIND: Kind = Kind::Newest;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.ticket).put(&self.handle).put(&self.version);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            ticket: input.take()?,
            handle: input.take()?,
            version: input.take()?,
        })
    }
}

/// Everything that was acknowledged before the question is in this state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewestReply {
    /// The active version.
    pub version: ChunkVersion,
    /// The last mutation that is committed.
    pub serial: Serial,
    /// Bytes of the chunk then.
    pub length: u32,
}

impl Message for NewestReply {
    const KIND: Kind = Kind::NewestReply;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.version).put(&self.serial).put(&self.length);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let message = Self {
            version: input.take()?,
            serial: input.take()?,
            length: input.take()?,
        };
        match message.length <= CHUNK_LEN_MAX {
            true => Ok(message),
            false => Err(BodyError::OutOfBounds),
        }
    }
}
