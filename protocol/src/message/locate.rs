//! `Locate`: where a file's chunks are (`spec/messages.md` section 7).

use super::shared::{ChunkState, Node};
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder, Field};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, FileId, ServerId};
use crate::size::{ADDRESS_LEN_MAX, LOCATE_COUNT_MAX, PATH_LEN_MAX, REPLICAS_LISTED_MAX};
use crate::ticket::Ticket;

/// Asks for the replicas of a range of a file's chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locate {
    /// Which file; empty if `file_id` says it.
    pub path: String,
    /// Which file, whatever its path is by now.
    pub file_id: FileId,
    /// Chunks from here on.
    pub first_index: u32,
    /// How many, 1 to [`LOCATE_COUNT_MAX`].
    pub count: u32,
}

impl Message for Locate {
    const KIND: Kind = Kind::Locate;

    fn encode(&self, out: &mut Encoder) {
        out.string(&self.path)
            .put(&self.file_id)
            .put(&self.first_index)
            .put(&self.count);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let message = Self {
            path: input.string(PATH_LEN_MAX)?.to_owned(),
            file_id: input.take()?,
            first_index: input.take()?,
            count: input.take()?,
        };
        match (1..=LOCATE_COUNT_MAX).contains(&(message.count as usize)) {
            true => Ok(message),
            false => Err(BodyError::OutOfBounds),
        }
    }
}

/// The file and the chunks asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocateReply {
    /// The file.
    pub node: Node,
    /// Bytes of a whole chunk.
    pub chunk_size: u32,
    /// Places for chunks, holes too.
    pub slots: u32,
    /// Milliseconds of silence after which a replica is left for another.
    pub suspect_after: u32,
    /// Milliseconds for which a reader may use this, from when it asked.
    pub lease: u32,
    /// Holes are left out.
    pub chunks: Vec<LocatedChunk>,
}

impl Message for LocateReply {
    const KIND: Kind = Kind::LocateReply;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.node)
            .put(&self.chunk_size)
            .put(&self.slots)
            .put(&self.suspect_after)
            .put(&self.lease)
            .list(&self.chunks);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            node: input.take()?,
            chunk_size: input.take()?,
            slots: input.take()?,
            suspect_after: input.take()?,
            lease: input.take()?,
            chunks: input.list(LOCATE_COUNT_MAX)?,
        })
    }
}

/// A chunk and its good replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocatedChunk {
    /// Its place in the file.
    pub index: u32,
    /// Its name.
    pub handle: ChunkHandle,
    /// Its version.
    pub version: ChunkVersion,
    /// Last sealed length.
    pub length: u32,
    /// Last sealed CRC.
    pub crc32: u32,
    /// Open or sealed.
    pub state: ChunkState,
    /// While a lease is out.
    pub primary: ServerId,
    /// The right to read it.
    pub ticket: Ticket,
    /// Live, reported, not known to be bad.
    pub replicas: Vec<Replica>,
}

impl Field for LocatedChunk {
    const LEN_MIN: usize = u32::LEN_MIN
        + ChunkHandle::LEN_MIN
        + ChunkVersion::LEN_MIN
        + u32::LEN_MIN
        + u32::LEN_MIN
        + ChunkState::LEN_MIN
        + ServerId::LEN_MIN
        + Ticket::LEN_MIN
        + 4;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.index)
            .put(&self.handle)
            .put(&self.version)
            .put(&self.length)
            .put(&self.crc32)
            .put(&self.state)
            .put(&self.primary)
            .put(&self.ticket)
            .list(&self.replicas);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            index: input.take()?,
            handle: input.take()?,
            version: input.take()?,
            length: input.take()?,
            crc32: input.take()?,
            state: input.take()?,
            primary: input.take()?,
            ticket: input.take()?,
            replicas: input.list(REPLICAS_LISTED_MAX)?,
        })
    }
}

/// Where a replica is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Its chunkserver.
    pub server: ServerId,
    /// Of its control plane.
    pub control_addr: String,
    /// Of its data plane.
    pub data_addr: String,
}

impl Field for Replica {
    const LEN_MIN: usize = ServerId::LEN_MIN + 2 + 2;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.server)
            .string(&self.control_addr)
            .string(&self.data_addr);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            server: input.take()?,
            control_addr: input.string(ADDRESS_LEN_MAX)?.to_owned(),
            data_addr: input.string(ADDRESS_LEN_MAX)?.to_owned(),
        })
    }
}
