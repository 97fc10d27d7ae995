//! Entries about chunks that are open, or were (`spec/oplog-entries.md` sections 4.17 to 4.20).
//!
//! No request of protocol version 1 opens a chunk; the layouts and what they do are here because
//! a log that holds them has to be read by whoever comes later.

use sarsen_protocol::codec::{Decoder, Encoder, Field};
use sarsen_protocol::error::BodyError;
use sarsen_protocol::id::{
    ChunkHandle, ChunkVersion, DirectoryId, FileId, Serial, ServerId, StartNumber,
};
use sarsen_protocol::size::{CHUNK_LEN_MAX, REPLICAS_MAX};

use super::{SLOTS_MAX, flags, take_flags, take_some};

const MEMORY_ALLOWED: u8 = 1;

/// One server that takes part in an open chunk's version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// The server.
    pub server: ServerId,
    /// Its directory that holds the chunk.
    pub directory: DirectoryId,
    /// The directory's start; after another start the member may have forgotten.
    pub start_number: StartNumber,
}

impl Field for Member {
    const LEN_MIN: usize = 32;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.server)
            .put(&self.directory)
            .put(&self.start_number);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            server: input.take()?,
            directory: input.take()?,
            start_number: input.take()?,
        })
    }
}

/// Who may mutate an open chunk, from where on (part of section 4.17).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Configuration {
    /// The version that it is.
    pub version: ChunkVersion,
    /// Where the version begins.
    pub serial: Serial,
    /// Whether mutations may be acknowledged from memory.
    pub memory_allowed: bool,
    /// Who orders the mutations.
    pub primary: ServerId,
    /// All of them, in the order of the chain.
    pub members: Vec<Member>,
}

/// A chunk is opened, or goes on with other members (section 4.17).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activation {
    /// The chunk.
    pub handle: ChunkHandle,
    /// Its file.
    pub file: FileId,
    /// Its slot there.
    pub index: u32,
    /// What becomes active.
    pub configuration: Configuration,
}

impl Field for Activation {
    const LEN_MIN: usize = 49;

    fn encode(&self, out: &mut Encoder) {
        let active = &self.configuration;
        out.put(&self.handle)
            .put(&active.version)
            .put(&active.serial)
            .put(&flags([active.memory_allowed]))
            .put(&self.file)
            .put(&self.index)
            .put(&active.primary)
            .list(&active.members);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let (handle, version, serial) = (take_some(input)?, take_some(input)?, input.take()?);
        let flags = take_flags(input, MEMORY_ALLOWED)?;
        let file = take_some(input)?;
        let index: u32 = input.take()?;
        if index as usize >= SLOTS_MAX {
            return Err(BodyError::OutOfBounds);
        }
        let (primary, members) = take_members(input)?;
        let memory_allowed = flags & MEMORY_ALLOWED != 0;
        let configuration = Configuration {
            version,
            serial,
            memory_allowed,
            primary,
            members,
        };
        Ok(Self {
            handle,
            file,
            index,
            configuration,
        })
    }
}

/// Takes a primary and the members, among which it must be.
fn take_members(input: &mut Decoder<'_>) -> Result<(ServerId, Vec<Member>), BodyError> {
    let primary: ServerId = input.take()?;
    let members: Vec<Member> = input.list(REPLICAS_MAX)?;
    match members.iter().any(|member| member.server == primary) {
        true => Ok((primary, members)),
        false => Err(BodyError::OutOfBounds),
    }
}

impl Field for Configuration {
    const LEN_MIN: usize = 29;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.version)
            .put(&self.serial)
            .put(&flags([self.memory_allowed]))
            .put(&self.primary)
            .list(&self.members);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let (version, serial) = (take_some(input)?, input.take()?);
        let memory_allowed = take_flags(input, MEMORY_ALLOWED)? & MEMORY_ALLOWED != 0;
        let (primary, members) = take_members(input)?;
        Ok(Self {
            version,
            serial,
            memory_allowed,
            primary,
            members,
        })
    }
}

/// A chunk is sealed (section 4.18).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkSealed {
    /// The chunk.
    pub handle: ChunkHandle,
    /// The version that sealed it.
    pub version: ChunkVersion,
    /// Its bytes.
    pub len: u32,
    /// Their CRC.
    pub crc: u32,
    /// What the same entry does to its file.
    pub then: Then,
}

/// What sealing a chunk does to its file besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    Nothing,
    /// The file goes on in a next chunk; this one's rest is padding.
    Next(Activation),
    /// The file ends here.
    Cut {
        /// The file.
        file: FileId,
        /// Its new size.
        size: u64,
    },
}

impl Field for ChunkSealed {
    const LEN_MIN: usize = 25;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.handle)
            .put(&self.version)
            .put(&self.len)
            .put(&self.crc);
        match &self.then {
            Then::Nothing => out.put(&0_u8),
            Then::Next(next) => out.put(&1_u8).put(next),
            Then::Cut { file, size } => out.put(&2_u8).put(file).put(size),
        };
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let (handle, version) = (take_some(input)?, take_some(input)?);
        let len: u32 = input.take()?;
        if len > CHUNK_LEN_MAX {
            return Err(BodyError::OutOfBounds);
        }
        let crc = input.take()?;
        let then = match input.take::<u8>()? {
            0 => Then::Nothing,
            1 => Then::Next(input.take()?),
            2 => Then::Cut {
                file: take_some(input)?,
                size: input.take()?,
            },
            _ => return Err(BodyError::UnknownValue),
        };
        Ok(Self {
            handle,
            version,
            len,
            crc,
            then,
        })
    }
}

/// Why acknowledged bytes may be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LossCause {
    /// No member of the last version counted; one led alone.
    NoMember = 1,
    /// A person accepted the loss.
    Accepted = 2,
}

impl Field for LossCause {
    const LEN_MIN: usize = 1;

    fn encode(&self, out: &mut Encoder) {
        out.put(&(*self as u8));
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        match input.take::<u8>()? {
            1 => Ok(Self::NoMember),
            2 => Ok(Self::Accepted),
            _ => Err(BodyError::UnknownValue),
        }
    }
}

/// Acknowledged bytes of a chunk may be gone (section 4.19).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PossibleLoss {
    /// The chunk.
    pub handle: ChunkHandle,
    /// The last version that may have acknowledged what is gone.
    pub version: ChunkVersion,
    /// What was kept.
    pub serial: Serial,
    /// Why.
    pub cause: LossCause,
}

impl Field for PossibleLoss {
    const LEN_MIN: usize = 25;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.handle)
            .put(&self.version)
            .put(&self.serial)
            .put(&self.cause);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            handle: take_some(input)?,
            version: take_some(input)?,
            serial: input.take()?,
            cause: input.take()?,
        })
    }
}

/// A file is cut where no chunk is, or extended (section 4.20).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileResized {
    /// The file.
    pub file: FileId,
    /// Its size from now on.
    pub size: u64,
}

impl Field for FileResized {
    const LEN_MIN: usize = 16;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.file).put(&self.size);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            file: take_some(input)?,
            size: input.take()?,
        })
    }
}
