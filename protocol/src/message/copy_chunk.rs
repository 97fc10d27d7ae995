//! `CopyChunk`: an order (`spec/messages.md` section 10).

use super::shared::Hop;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, DirectoryId, Epoch, FileId, ServerId};
use crate::size::{CHUNK_LEN_MAX, REPLICAS_MAX};
use crate::ticket::Ticket;

/// Has a replica of a sealed chunk made, by pull from another chunkserver. Epoch, handle and
/// version are checked when the order runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyChunk {
    /// Of the master that orders.
    pub epoch: Epoch,
    /// Which chunk.
    pub handle: ChunkHandle,
    /// The version that it is sealed in.
    pub version: ChunkVersion,
    /// What the receiver's replica has promised or begun up to this version came to nothing: it is the
    /// highest that the master has given to an attempt; at least [`Self::version`].
    pub void_up_to: ChunkVersion,
    /// The file that it was made for.
    pub file_id: FileId,
    /// Its place in that file.
    pub index: u32,
    /// Its bytes.
    pub length: u32,
    /// Their CRC.
    pub crc32: u32,
    /// The right to copy, good at every source.
    pub ticket: Ticket,
    /// Whom to copy from, in the order in which they are tried; at least one.
    pub sources: Vec<Hop>,
}

impl Message for CopyChunk {
    const KIND: Kind = Kind::CopyChunk;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.epoch)
            .put(&self.handle)
            .put(&self.version)
            .put(&self.void_up_to)
            .put(&self.file_id)
            .put(&self.index)
            .put(&self.length)
            .put(&self.crc32)
            .put(&self.ticket)
            .list(&self.sources);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let message = Self {
            epoch: input.take()?,
            handle: input.take()?,
            version: input.take()?,
            void_up_to: input.take()?,
            file_id: input.take()?,
            index: input.take()?,
            length: input.take()?,
            crc32: input.take()?,
            ticket: input.take()?,
            sources: input.list(REPLICAS_MAX)?,
        };
        let is_in_bounds = message.length <= CHUNK_LEN_MAX
            && !message.sources.is_empty()
            && message.void_up_to >= message.version;
        match is_in_bounds {
            true => Ok(message),
            false => Err(BodyError::OutOfBounds),
        }
    }
}

/// The replica is there, durably, and was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkCopied {
    /// Where it lies.
    pub directory_id: DirectoryId,
    /// Bytes read back.
    pub length: u32,
    /// Of the bytes read back.
    pub crc32: u32,
    /// Sources whose bytes did not match.
    pub suspects: Vec<ServerId>,
}

impl Message for ChunkCopied {
    const KIND: Kind = Kind::ChunkCopied;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.directory_id)
            .put(&self.length)
            .put(&self.crc32)
            .list(&self.suspects);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            directory_id: input.take()?,
            length: input.take()?,
            crc32: input.take()?,
            suspects: input.list(REPLICAS_MAX)?,
        })
    }
}
