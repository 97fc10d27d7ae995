//! `WriteSeal`: a write stream ends (`spec/messages.md` section 12).

use super::shared::Level;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder, Field};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, ServerId};
use crate::size::{CHUNK_LEN_MAX, REPLICAS_MAX};

/// Has every member compare and seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteSeal {
    /// Which chunk.
    pub handle: ChunkHandle,
    /// Which version.
    pub version: ChunkVersion,
    /// Bytes that the origin sent.
    pub length: u32,
    /// Of the bytes that the origin sent.
    pub crc32: u32,
    /// Asked for.
    pub level: Level,
}

impl Message for WriteSeal {
    const KIND: Kind = Kind::WriteSeal;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.handle)
            .put(&self.version)
            .put(&self.length)
            .put(&self.crc32)
            .put(&self.level);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let message = Self {
            handle: input.take()?,
            version: input.take()?,
            length: input.take()?,
            crc32: input.take()?,
            level: input.take()?,
        };
        match message.length <= CHUNK_LEN_MAX {
            true => Ok(message),
            false => Err(BodyError::OutOfBounds),
        }
    }
}

/// Sealed on every member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteSealed {
    /// Bytes.
    pub length: u32,
    /// Of the bytes.
    pub crc32: u32,
    /// The receiver first, then those behind it.
    pub members: Vec<MemberLevel>,
}

impl Message for WriteSealed {
    const KIND: Kind = Kind::WriteSealed;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.length).put(&self.crc32).list(&self.members);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            length: input.take()?,
            crc32: input.take()?,
            members: input.list(REPLICAS_MAX)?,
        })
    }
}

/// A member and the level that it reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberLevel {
    /// Who.
    pub server: ServerId,
    /// How safe.
    pub level: Level,
}

impl Field for MemberLevel {
    const LEN_MIN: usize = ServerId::LEN_MIN + Level::LEN_MIN;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.server).put(&self.level);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            server: input.take()?,
            level: input.take()?,
        })
    }
}
