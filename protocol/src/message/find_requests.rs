//! `FindRequests`: which mutations a sealed chunk has (`spec/messages.md` section 14.4).

use super::shared::enumeration;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder, Field};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, SessionId};
use crate::size::{CHUNK_LEN_MAX, FIND_MAX};
use crate::ticket::Ticket;

/// Asks for what became of mutations that are in doubt (`spec/replication.md` section 11.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FindRequests {
    /// The right to read or to write.
    pub ticket: Ticket,
    /// Which chunk.
    pub handle: ChunkHandle,
    /// Exactly the version that it is sealed in.
    pub version: ChunkVersion,
    /// Whose mutations they are.
    pub session: SessionId,
    /// Their numbers.
    pub numbers: Vec<u64>,
}

impl Message for FindRequests {
    const KIND: Kind = Kind::FindRequests;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.ticket)
            .put(&self.handle)
            .put(&self.version)
            .put(&self.session)
            .list(&self.numbers);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            ticket: input.take()?,
            handle: input.take()?,
            version: input.take()?,
            session: input.take()?,
            numbers: input.list(FIND_MAX)?,
        })
    }
}

/// Those that the chunk has, or had. What isn't in it was never seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestsFound {
    /// One a number.
    pub found: Vec<FoundRequest>,
}

impl Message for RequestsFound {
    const KIND: Kind = Kind::RequestsFound;

    fn encode(&self, out: &mut Encoder) {
        out.list(&self.found);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            found: input.list(FIND_MAX)?,
        })
    }
}

enumeration! {
    /// What a chunk's id table says of a request.
    FoundKind {
        /// It wrote at an offset.
        Write = 1 "write",
        /// It appended.
        Append = 2 "append",
        /// It lies below its session's floor: its answer was given, and is forgotten.
        Floor = 3 "floor",
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundRequest {
    /// Its number.
    pub number: u64,
    /// What it did.
    pub kind: FoundKind,
    /// Where its bytes begin in the chunk; 0 for a floor.
    pub offset: u32,
    /// How many they are; 0 for a floor.
    pub length: u32,
}

impl Field for FoundRequest {
    const LEN_MIN: usize = 8 + FoundKind::LEN_MIN + 4 + 4;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.number)
            .put(&self.kind)
            .put(&self.offset)
            .put(&self.length);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let found = Self {
            number: input.take()?,
            kind: input.take()?,
            offset: input.take()?,
            length: input.take()?,
        };
        let fits = match found.kind {
            FoundKind::Floor => found.offset == 0 && found.length == 0,
            FoundKind::Write | FoundKind::Append => {
                u64::from(found.offset) + u64::from(found.length) <= u64::from(CHUNK_LEN_MAX)
            }
        };
        match fits {
            true => Ok(found),
            false => Err(BodyError::OutOfBounds),
        }
    }
}
