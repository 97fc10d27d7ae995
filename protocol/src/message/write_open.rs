//! `WriteOpen`: a write stream begins (`spec/messages.md` section 12).

use super::shared::{Hop, Level};
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, FileId, Serial};
use crate::size::{CHUNK_LEN_MAX, REPLICAS_MAX};
use crate::ticket::Ticket;

/// Names the chunk, the chain, and the receiver's place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteOpen {
    /// The right to write, bound to the chain.
    pub ticket: Ticket,
    /// Which chunk.
    pub handle: ChunkHandle,
    /// Which version.
    pub version: ChunkVersion,
    /// The file that it belongs to.
    pub file_id: FileId,
    /// Its place in that file.
    pub index: u32,
    /// Bytes that are coming, to reserve room for; 0 if not known.
    pub room: u32,
    /// The serial that the first mutation follows.
    pub begin_serial: Serial,
    /// Fencing token of a file lock; 0 for none.
    pub lock_token: u64,
    /// The highest that will be asked for.
    pub level: Level,
    /// The receiver's place in the chain.
    pub position: u8,
    /// All members in order.
    pub chain: Vec<Hop>,
}

impl Message for WriteOpen {
    const KIND: Kind = Kind::WriteOpen;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.ticket)
            .put(&self.handle)
            .put(&self.version)
            .put(&self.file_id)
            .put(&self.index)
            .put(&self.room)
            .put(&self.begin_serial)
            .put(&self.lock_token)
            .put(&self.level)
            .put(&self.position)
            .list(&self.chain);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let message = Self {
            ticket: input.take()?,
            handle: input.take()?,
            version: input.take()?,
            file_id: input.take()?,
            index: input.take()?,
            room: input.take()?,
            begin_serial: input.take()?,
            lock_token: input.take()?,
            level: input.take()?,
            position: input.take()?,
            chain: input.list(REPLICAS_MAX)?,
        };
        match message.room <= CHUNK_LEN_MAX && usize::from(message.position) < message.chain.len() {
            true => Ok(message),
            false => Err(BodyError::OutOfBounds),
        }
    }
}

/// The receiver and all behind it are ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteOpened;

impl Message for WriteOpened {
    const KIND: Kind = Kind::WriteOpened;

    fn encode(&self, _: &mut Encoder) {}

    fn decode(_: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self)
    }
}
