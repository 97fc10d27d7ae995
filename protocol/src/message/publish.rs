//! `Publish`: a pending file becomes a file (`spec/messages.md` section 6).

use super::shared::Node;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder, Field};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, FileId, RequestId, ServerId};
use crate::size::{PATH_LEN_MAX, PUBLISH_CHUNKS_MAX, REPLICAS_MAX};

/// Names all that the file consists of; one entry in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Makes the request be done once.
    pub request: RequestId,
    /// The pending file.
    pub file_id: FileId,
    /// The file's path.
    pub path: String,
    /// Replace a file that is there.
    pub force: bool,
    /// The replaced file goes for good, not into the trash.
    pub purge: bool,
    /// Make missing folders above.
    pub parents: bool,
    /// Bytes: the sum of the lengths.
    pub size: u64,
    /// Every chunk, in the order of the indexes.
    pub chunks: Vec<SealedChunk>,
}

impl Message for Publish {
    const KIND: Kind = Kind::Publish;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.request)
            .put(&self.file_id)
            .string(&self.path)
            .put(&self.force)
            .put(&self.purge)
            .put(&self.parents)
            .put(&self.size)
            .list(&self.chunks);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            request: input.take()?,
            file_id: input.take()?,
            path: input.string(PATH_LEN_MAX)?.to_owned(),
            force: input.take()?,
            purge: input.take()?,
            parents: input.take()?,
            size: input.take()?,
            chunks: input.list(PUBLISH_CHUNKS_MAX)?,
        })
    }
}

/// The file is there for all to see, durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// What it is.
    pub node: Node,
}

impl Message for Published {
    const KIND: Kind = Kind::Published;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.node);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            node: input.take()?,
        })
    }
}

/// A chunk that every member of its chain has sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedChunk {
    /// Its place in the file.
    pub index: u32,
    /// As allocated.
    pub handle: ChunkHandle,
    /// As allocated.
    pub version: ChunkVersion,
    /// Bytes.
    pub length: u32,
    /// Of its bytes.
    pub crc32: u32,
    /// Who acknowledged the seal.
    pub servers: Vec<ServerId>,
}

impl Field for SealedChunk {
    const LEN_MIN: usize = u32::LEN_MIN
        + ChunkHandle::LEN_MIN
        + ChunkVersion::LEN_MIN
        + u32::LEN_MIN
        + u32::LEN_MIN
        + 4;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.index)
            .put(&self.handle)
            .put(&self.version)
            .put(&self.length)
            .put(&self.crc32)
            .list(&self.servers);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            index: input.take()?,
            handle: input.take()?,
            version: input.take()?,
            length: input.take()?,
            crc32: input.take()?,
            servers: input.list(REPLICAS_MAX)?,
        })
    }
}
