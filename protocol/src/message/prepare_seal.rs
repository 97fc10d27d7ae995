//! `PrepareSeal`: an order to make a sealed form beside an open chunk (`spec/messages.md` section
//! 14.3).

use super::shared::{MemberState, PreparedSeal};
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, Epoch, Serial, SessionId, StartNumber};
use crate::size::CHUNK_LEN_MAX;

/// What stands for all bytes where a length to cut at could stand.
const ALL: u32 = u32::MAX;

/// Has a member begin a version and prepare its seal (`spec/replication.md` section 3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrepareSeal {
    /// Of the master that orders.
    pub epoch: Epoch,
    /// Which chunk.
    pub handle: ChunkHandle,
    /// The version that was promised.
    pub version: ChunkVersion,
    /// Where it begins, and ends.
    pub serial: Serial,
    /// The start that the member answered its promise in.
    pub start_number: StartNumber,
    /// The length at which a truncation cuts; `None` for all bytes.
    pub length: Option<u32>,
    /// A session id below which none is open: their ids go.
    pub sessions_end: SessionId,
}

impl Message for PrepareSeal {
    const KIND: Kind = Kind::PrepareSeal;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.epoch)
            .put(&self.handle)
            .put(&self.version)
            .put(&self.serial)
            .put(&self.start_number)
            .put(&self.length.unwrap_or(ALL))
            .put(&self.sessions_end);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            epoch: input.take()?,
            handle: input.take()?,
            version: input.take()?,
            serial: input.take()?,
            start_number: input.take()?,
            length: match input.take()? {
                ALL => None,
                length @ 0..=CHUNK_LEN_MAX => Some(length),
                _ => return Err(BodyError::OutOfBounds),
            },
            sessions_end: input.take()?,
        })
    }
}

/// The preparation is stable; what the chunk is has not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealPrepared {
    /// What the members and the master compare.
    pub prepared: PreparedSeal,
    /// Who answers, and in which start.
    pub member: MemberState,
}

impl Message for SealPrepared {
    const KIND: Kind = Kind::SealPrepared;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.prepared).put(&self.member);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let message = Self {
            prepared: input.take()?,
            member: input.take()?,
        };
        match message.prepared.is_some() {
            true => Ok(message),
            false => Err(BodyError::OutOfBounds),
        }
    }
}
