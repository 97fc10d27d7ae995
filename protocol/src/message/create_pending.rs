//! `CreatePending`: an upload begins (`spec/messages.md` section 6).

use super::allocate_chunks::Allocation;
use super::shared::Level;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::{FileId, RequestId};
use crate::size::{ALLOCATE_COUNT_MAX, PATH_LEN_MAX, REPLICAS_MAX};

/// Begins a file that no reader sees until it is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatePending {
    /// Makes the request be done once.
    pub request: RequestId,
    /// What it will be published as.
    pub path: String,
    /// Copies wanted; 0 for the cluster's default.
    pub replicas: u8,
    /// The level that its acks will have.
    pub level: Level,
    /// An existing file will be replaced.
    pub force: bool,
    /// Missing folders above will be made at publication.
    pub parents: bool,
    /// Chunks to allocate at once, at most [`ALLOCATE_COUNT_MAX`].
    pub count: u16,
}

impl Message for CreatePending {
    const KIND: Kind = Kind::CreatePending;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.request)
            .string(&self.path)
            .put(&self.replicas)
            .put(&self.level)
            .put(&self.force)
            .put(&self.parents)
            .put(&self.count);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let message = Self {
            request: input.take()?,
            path: input.string(PATH_LEN_MAX)?.to_owned(),
            replicas: input.take()?,
            level: input.take()?,
            force: input.take()?,
            parents: input.take()?,
            count: input.take()?,
        };
        let in_bounds =
            usize::from(message.replicas) <= REPLICAS_MAX && message.count <= ALLOCATE_COUNT_MAX;
        match in_bounds {
            true => Ok(message),
            false => Err(BodyError::OutOfBounds),
        }
    }
}

/// The pending file, durably.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingCreated {
    /// Its id, and the file's later.
    pub file_id: FileId,
    /// Bytes of a whole chunk.
    pub chunk_size: u32,
    /// Copies wanted of each chunk.
    pub replicas: u8,
    /// The first chunks, if they could be given at once.
    pub chunks: Vec<Allocation>,
}

impl Message for PendingCreated {
    const KIND: Kind = Kind::PendingCreated;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.file_id)
            .put(&self.chunk_size)
            .put(&self.replicas)
            .list(&self.chunks);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            file_id: input.take()?,
            chunk_size: input.take()?,
            replicas: input.take()?,
            chunks: input.list(usize::from(ALLOCATE_COUNT_MAX))?,
        })
    }
}
