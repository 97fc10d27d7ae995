//! `OpenChunk`: which chunk to mutate, and through whom (`spec/messages.md` section 14.1).

use super::shared::Hop;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder, Field};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, FileId, Serial, SessionId};
use crate::size::REPLICAS_MAX;
use crate::ticket::Ticket;

/// Asks for a chunk of a file to be open. Asked again it gives the same chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenChunk {
    /// The client's session.
    pub session: SessionId,
    /// Which file.
    pub file_id: FileId,
    /// Which of its chunks.
    pub slot: Slot,
    /// A version whose chain failed this client, or none.
    pub failed: ChunkVersion,
    /// Acks at `memory` will be asked for.
    pub memory: bool,
    /// Fencing token of a file lock; 0 for none.
    pub lock_token: u64,
}

/// The place in a file that a mutation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The chunk at this index, to write to.
    At(u32),
    /// The last chunk, to append to.
    Last {
        /// The chunk that was too full for this client, or none.
        after: ChunkHandle,
    },
}

/// The index that stands for the last chunk.
const LAST: u32 = u32::MAX;

impl Field for Slot {
    const LEN_MIN: usize = u32::LEN_MIN + ChunkHandle::LEN_MIN;

    /// # Panics
    /// If the index is 2^32 - 1: no file has so many chunks.
    fn encode(&self, out: &mut Encoder) {
        match self {
            Self::At(index) => {
                assert!(*index != LAST, "an index beyond every file");
                out.put(index).put(&ChunkHandle::NONE)
            }
            Self::Last { after } => out.put(&LAST).put(after),
        };
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let (index, after): (u32, ChunkHandle) = (input.take()?, input.take()?);
        match index {
            LAST => Ok(Self::Last { after }),
            _ if after.is_some() => Err(BodyError::OutOfBounds),
            index => Ok(Self::At(index)),
        }
    }
}

impl Message for OpenChunk {
    const KIND: Kind = Kind::OpenChunk;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.session)
            .put(&self.file_id)
            .put(&self.slot)
            .put(&self.failed)
            .put(&self.memory)
            .put(&self.lock_token);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            session: input.take()?,
            file_id: input.take()?,
            slot: input.take()?,
            failed: input.take()?,
            memory: input.take()?,
            lock_token: input.take()?,
        })
    }
}

/// The chunk is open, and its primary has a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkOpened {
    /// Its place in the file.
    pub index: u32,
    /// Its name.
    pub handle: ChunkHandle,
    /// The active version.
    pub version: ChunkVersion,
    /// Where that version began.
    pub begin_serial: Serial,
    /// Whether acks at `memory` are allowed.
    pub memory: bool,
    /// The version of the last seal, or none.
    pub sealed_version: ChunkVersion,
    /// The right to write and to read, bound to the chain.
    pub ticket: Ticket,
    /// All members, the primary first.
    pub chain: Vec<Hop>,
    /// Milliseconds that this may be used for.
    pub lease: u32,
}

impl Message for ChunkOpened {
    const KIND: Kind = Kind::ChunkOpened;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.index)
            .put(&self.handle)
            .put(&self.version)
            .put(&self.begin_serial)
            .put(&self.memory)
            .put(&self.sealed_version)
            .put(&self.ticket)
            .list(&self.chain)
            .put(&self.lease);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let message = Self {
            index: input.take()?,
            handle: input.take()?,
            version: input.take()?,
            begin_serial: input.take()?,
            memory: input.take()?,
            sealed_version: input.take()?,
            ticket: input.take()?,
            chain: input.list(REPLICAS_MAX)?,
            lease: input.take()?,
        };
        match message.chain.is_empty() {
            true => Err(BodyError::OutOfBounds),
            false => Ok(message),
        }
    }
}
