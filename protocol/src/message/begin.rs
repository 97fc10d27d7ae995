//! `Begin`: an order to step into a version (`spec/messages.md` section 14.3).

use super::shared::MemberState;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder, Field};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, DirectoryId, Epoch, FileId, Serial, StartNumber};
use crate::size::{CHUNK_LEN_MAX, CHUNK_LEN_MIN};

/// Has a member forget what lies above a serial and take part in a version from there on
/// (`spec/replication.md` section 3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Of the master that orders.
    pub epoch: Epoch,
    /// Which chunk.
    pub handle: ChunkHandle,
    /// The version that was promised.
    pub version: ChunkVersion,
    /// Where it begins.
    pub serial: Serial,
    /// The start that the member answered its promise in.
    pub start_number: StartNumber,
    /// Where the chunk is, or is to be made.
    pub directory_id: DirectoryId,
    /// Whether acks at `memory` are allowed.
    pub memory: bool,
    /// What is to be made, where the chunk is new and nothing was promised.
    pub create: Option<NewChunk>,
}

/// A chunk that does not exist yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewChunk {
    /// The file that it belongs to.
    pub file_id: FileId,
    /// Its place in that file.
    pub index: u32,
    /// Bytes of a whole chunk in this cluster.
    pub chunk_size: u32,
    /// What it begins with; nothing for an empty one.
    pub clone: Option<CloneSource>,
}

/// A sealed chunk of the same server that a new one is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloneSource {
    /// Which chunk.
    pub handle: ChunkHandle,
    /// The version that it is sealed in.
    pub version: ChunkVersion,
    /// Its bytes.
    pub length: u32,
}

/// Bytes of a [`NewChunk`], and of what it is cloned from.
const NEW_CHUNK_LEN: usize = 8 + 4 + 4 + CLONE_LEN;
const CLONE_LEN: usize = 8 + 8 + 4;

impl Message for Begin {
    const KIND: Kind = Kind::Begin;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.epoch)
            .put(&self.handle)
            .put(&self.version)
            .put(&self.serial)
            .put(&self.start_number)
            .put(&self.directory_id)
            .put(&self.memory)
            .put(&self.create.is_some());
        match &self.create {
            Some(new) => out.put(new),
            None => out.reserved(NEW_CHUNK_LEN),
        };
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            epoch: input.take()?,
            handle: input.take()?,
            version: input.take()?,
            serial: input.take()?,
            start_number: input.take()?,
            directory_id: input.take()?,
            memory: input.take()?,
            create: match input.take()? {
                true => Some(input.take()?),
                false => {
                    nothing::<NEW_CHUNK_LEN>(input)?;
                    None
                }
            },
        })
    }
}

/// Takes fields that say nothing here.
fn nothing<const LEN: usize>(input: &mut Decoder<'_>) -> Result<(), BodyError> {
    match input.array::<LEN>()? == [0; LEN] {
        true => Ok(()),
        false => Err(BodyError::OutOfBounds),
    }
}

impl Field for NewChunk {
    const LEN_MIN: usize = NEW_CHUNK_LEN;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.file_id)
            .put(&self.index)
            .put(&self.chunk_size);
        match &self.clone {
            Some(source) => out
                .put(&source.handle)
                .put(&source.version)
                .put(&source.length),
            None => out.reserved(CLONE_LEN),
        };
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let file_id = input.take()?;
        let index = input.take()?;
        let chunk_size: u32 = input.take()?;
        let source = CloneSource {
            handle: input.take()?,
            version: input.take()?,
            length: input.take()?,
        };
        let clone = match source.handle.is_some() {
            true => Some(source),
            false if source.version.is_some() || source.length > 0 => {
                return Err(BodyError::OutOfBounds);
            }
            false => None,
        };
        let is_a_chunk_size =
            chunk_size.is_power_of_two() && (CHUNK_LEN_MIN..=CHUNK_LEN_MAX).contains(&chunk_size);
        match is_a_chunk_size && source.length <= chunk_size {
            true => Ok(Self {
                file_id,
                index,
                chunk_size,
                clone,
            }),
            false => Err(BodyError::OutOfBounds),
        }
    }
}

/// The member has begun, durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Where it began.
    pub serial: Serial,
    /// Bytes of the chunk there.
    pub length: u32,
    /// Who answers, and in which start.
    pub member: MemberState,
}

impl Message for Begun {
    const KIND: Kind = Kind::Begun;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.serial).put(&self.length).put(&self.member);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            serial: input.take()?,
            length: input.take()?,
            member: input.take()?,
        })
    }
}
