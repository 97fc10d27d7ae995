//! `AllocateChunks`: handles, chains and tickets for an upload (`spec/messages.md` section 6).

use super::shared::Hop;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder, Field};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, FileId, ServerId, SessionId};
use crate::size::{ALLOCATE_COUNT_MAX, EXCLUDE_MAX, REPLICAS_MAX};
use crate::ticket::Ticket;

/// Asks for fresh chunks. Not logged: an answer that is lost costs skipped numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllocateChunks {
    /// Who asks.
    pub session: SessionId,
    /// The pending file.
    pub file_id: FileId,
    /// Index of the first.
    pub first_index: u32,
    /// How many, 1 to [`ALLOCATE_COUNT_MAX`].
    pub count: u16,
    /// The fewest replicas that will do; 0 for as many as the file wants.
    pub fewest: u8,
    /// Servers that failed this client.
    pub exclude: Vec<ServerId>,
}

impl Message for AllocateChunks {
    const KIND: Kind = Kind::AllocateChunks;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.session)
            .put(&self.file_id)
            .put(&self.first_index)
            .put(&self.count)
            .put(&self.fewest)
            .list(&self.exclude);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let message = Self {
            session: input.take()?,
            file_id: input.take()?,
            first_index: input.take()?,
            count: input.take()?,
            fewest: input.take()?,
            exclude: input.list(EXCLUDE_MAX)?,
        };
        match (1..=ALLOCATE_COUNT_MAX).contains(&message.count) {
            true => Ok(message),
            false => Err(BodyError::OutOfBounds),
        }
    }
}

/// The chunks, in the order of their indexes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunksAllocated {
    /// One an index.
    pub chunks: Vec<Allocation>,
}

impl Message for ChunksAllocated {
    const KIND: Kind = Kind::ChunksAllocated;

    fn encode(&self, out: &mut Encoder) {
        out.list(&self.chunks);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            chunks: input.list(usize::from(ALLOCATE_COUNT_MAX))?,
        })
    }
}

/// A fresh chunk and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Its place in the file.
    pub index: u32,
    /// Never used before.
    pub handle: ChunkHandle,
    /// Never used before.
    pub version: ChunkVersion,
    /// The right to write it, bound to the chain.
    pub ticket: Ticket,
    /// Its members in order.
    pub chain: Vec<Hop>,
}

impl Field for Allocation {
    const LEN_MIN: usize =
        u32::LEN_MIN + ChunkHandle::LEN_MIN + ChunkVersion::LEN_MIN + Ticket::LEN_MIN + 4;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.index)
            .put(&self.handle)
            .put(&self.version)
            .put(&self.ticket)
            .list(&self.chain);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            index: input.take()?,
            handle: input.take()?,
            version: input.take()?,
            ticket: input.take()?,
            chain: input.list(REPLICAS_MAX)?,
        })
    }
}
