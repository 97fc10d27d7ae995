//! `ReadCut`: bytes of one block of a chunk (`spec/messages.md` section 13).

use super::shared::Want;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, Serial};
use crate::size::{CHUNK_LEN_MAX, pieces_in};
use crate::ticket::Ticket;

/// Asks for exactly some bytes of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadCut {
    /// The right to read.
    pub ticket: Ticket,
    /// Which chunk.
    pub handle: ChunkHandle,
    /// Which version.
    pub version: ChunkVersion,
    /// Of an open chunk: at least this.
    pub serial: Serial,
    /// Which state will do.
    pub want: Want,
    /// In the chunk.
    pub offset: u32,
    /// Bytes wanted, all of one block; what lies beyond the chunk is left out.
    pub length: u32,
}

impl Message for ReadCut {
    const KIND: Kind = Kind::ReadCut;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.ticket)
            .put(&self.handle)
            .put(&self.version)
            .put(&self.serial)
            .put(&self.want)
            .put(&self.offset)
            .put(&self.length);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let message = Self {
            ticket: input.take()?,
            handle: input.take()?,
            version: input.take()?,
            serial: input.take()?,
            want: input.take()?,
            offset: input.take()?,
            length: input.take()?,
        };
        let end = u64::from(message.offset) + u64::from(message.length);
        match pieces_in(message.offset, message.length) == 1 && end <= u64::from(CHUNK_LEN_MAX) {
            true => Ok(message),
            false => Err(BodyError::OutOfBounds),
        }
    }
}
