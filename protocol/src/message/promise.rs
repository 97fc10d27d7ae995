//! `Promise`: an order to refuse everything older than a version (`spec/messages.md` section 14.3).

use super::shared::{ChunkState, HeldFlags, MemberState, PreparedSeal};
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, Epoch, Serial};

/// Asks for the promise with which a version change begins (`spec/replication.md` section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// Of the master that orders.
    pub epoch: Epoch,
    /// Which chunk.
    pub handle: ChunkHandle,
    /// The attempt: everything below it is refused from now on.
    pub version: ChunkVersion,
}

impl Message for Promise {
    const KIND: Kind = Kind::Promise;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.epoch).put(&self.handle).put(&self.version);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            epoch: input.take()?,
            handle: input.take()?,
            version: input.take()?,
        })
    }
}

/// The promise, and everything that the member has applied, are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promised {
    /// The version that it last began.
    pub version: ChunkVersion,
    /// Where that one began.
    pub begin_serial: Serial,
    /// The last mutation that it has.
    pub serial: Serial,
    /// Up to here it knows every member to have everything.
    pub commit_mark: Serial,
    /// Bytes of the chunk.
    pub length: u32,
    /// Rows of its id table.
    pub ids: u32,
    /// What the chunk is here.
    pub state: ChunkState,
    /// Marks, as an inventory tells them.
    pub flags: HeldFlags,
    /// Who answers, and in which start.
    pub member: MemberState,
    /// The sealed state that it was opened from, or is.
    pub base_version: ChunkVersion,
    /// Bytes of that state.
    pub base_length: u32,
    /// Their CRC.
    pub base_crc32: u32,
    /// The seal that it has prepared, or [`PreparedSeal::NONE`].
    pub prepared: PreparedSeal,
}

impl Message for Promised {
    const KIND: Kind = Kind::Promised;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.version)
            .put(&self.begin_serial)
            .put(&self.serial)
            .put(&self.commit_mark)
            .put(&self.length)
            .put(&self.ids)
            .put(&self.state)
            .put(&self.flags)
            .put(&self.member)
            .put(&self.base_version)
            .put(&self.base_length)
            .put(&self.base_crc32)
            .put(&self.prepared);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            version: input.take()?,
            begin_serial: input.take()?,
            serial: input.take()?,
            commit_mark: input.take()?,
            length: input.take()?,
            ids: input.take()?,
            state: input.take()?,
            flags: input.take()?,
            member: input.take()?,
            base_version: input.take()?,
            base_length: input.take()?,
            base_crc32: input.take()?,
            prepared: input.take()?,
        })
    }
}
