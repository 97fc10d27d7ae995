//! `Mark`: the commit mark down a chain that has nothing else to say (`spec/messages.md` section 14.4).

use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, Serial};

/// Tells how far everything is committed, and may ask whether all members still take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Which chunk.
    pub handle: ChunkHandle,
    /// Which version.
    pub version: ChunkVersion,
    /// Every serial up to here is on all members.
    pub commit_mark: Serial,
    /// What the answer repeats; 0 asks for none.
    pub number: u64,
}

impl Message for Mark {
    const KIND: Kind = Kind::Mark;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.handle)
            .put(&self.version)
            .put(&self.commit_mark)
            .put(&self.number);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            handle: input.take()?,
            version: input.take()?,
            commit_mark: input.take()?,
            number: input.take()?,
        })
    }
}

/// The receiver and all behind it have promised nothing newer by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marked {
    /// Which chunk.
    pub handle: ChunkHandle,
    /// Which version.
    pub version: ChunkVersion,
    /// That of the mark.
    pub number: u64,
}

impl Message for Marked {
    const KIND: Kind = Kind::Marked;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.handle).put(&self.version).put(&self.number);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let message = Self {
            handle: input.take()?,
            version: input.take()?,
            number: input.take()?,
        };
        match message.number > 0 {
            true => Ok(message),
            false => Err(BodyError::OutOfBounds),
        }
    }
}
