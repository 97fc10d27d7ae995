//! `CreatePending`: an upload begins (`spec/messages.md` section 6).

use super::shared::Level;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::{FileId, RequestId};
use crate::size::{PATH_LEN_MAX, REPLICAS_MAX};

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
}

impl Message for CreatePending {
    const KIND: Kind = Kind::CreatePending;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.request)
            .string(&self.path)
            .put(&self.replicas)
            .put(&self.level)
            .put(&self.force)
            .put(&self.parents);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let message = Self {
            request: input.take()?,
            path: input.string(PATH_LEN_MAX)?.to_owned(),
            replicas: input.take()?,
            level: input.take()?,
            force: input.take()?,
            parents: input.take()?,
        };
        match usize::from(message.replicas) <= REPLICAS_MAX {
            true => Ok(message),
            false => Err(BodyError::OutOfBounds),
        }
    }
}

/// The pending file, durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingCreated {
    /// Its id, and the file's later.
    pub file_id: FileId,
    /// Bytes of a whole chunk.
    pub chunk_size: u32,
    /// Copies wanted of each chunk.
    pub replicas: u8,
}

impl Message for PendingCreated {
    const KIND: Kind = Kind::PendingCreated;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.file_id)
            .put(&self.chunk_size)
            .put(&self.replicas);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            file_id: input.take()?,
            chunk_size: input.take()?,
            replicas: input.take()?,
        })
    }
}
