//! `Inventory`: what a directory holds (`spec/messages.md` section 9).

use super::shared::{ChunkState, HeldFlags};
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder, Field};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, DirectoryId, FileId, Serial};
use crate::size::HELD_MAX;

/// A slice of a full report, or a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// Which directory.
    pub directory_id: DirectoryId,
    /// Counts slices and changes from 1 at each registration.
    pub sequence: u64,
    /// A slice of a full report.
    pub full: bool,
    /// A full report begins.
    pub first: bool,
    /// A full report ends.
    pub last: bool,
    /// Chunks that are here.
    pub held: Vec<HeldChunk>,
    /// Chunks that are no longer here.
    pub gone: Vec<ChunkHandle>,
}

impl Message for Inventory {
    const KIND: Kind = Kind::Inventory;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.directory_id)
            .put(&self.sequence)
            .put(&self.full)
            .put(&self.first)
            .put(&self.last)
            .list(&self.held)
            .list(&self.gone);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            directory_id: input.take()?,
            sequence: input.take()?,
            full: input.take()?,
            first: input.take()?,
            last: input.take()?,
            held: input.list(HELD_MAX)?,
            gone: input.list(HELD_MAX)?,
        })
    }
}

/// Taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InventoryTaken {
    /// A gap was seen: send a full report.
    pub resend: bool,
}

impl Message for InventoryTaken {
    const KIND: Kind = Kind::InventoryTaken;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.resend);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            resend: input.take()?,
        })
    }
}

/// A replica, as its header tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldChunk {
    /// Its name.
    pub handle: ChunkHandle,
    /// Its version.
    pub version: ChunkVersion,
    /// The last mutation that it has.
    pub serial: Serial,
    /// Bytes.
    pub length: u32,
    /// Of a sealed chunk.
    pub crc32: u32,
    /// Pending, open or sealed.
    pub state: ChunkState,
    /// 1 unsynced, 2 poisoned, 4 corrupt, 8 to be read back, 16 prepared, added up:
    /// [`HeldFlags`].
    pub flags: HeldFlags,
    /// The file that it was made for.
    pub file_id: FileId,
    /// Its place in that file.
    pub index: u32,
}

impl Field for HeldChunk {
    const LEN_MIN: usize = ChunkHandle::LEN_MIN
        + ChunkVersion::LEN_MIN
        + Serial::LEN_MIN
        + u32::LEN_MIN
        + u32::LEN_MIN
        + ChunkState::LEN_MIN
        + HeldFlags::LEN_MIN
        + FileId::LEN_MIN
        + u32::LEN_MIN;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.handle)
            .put(&self.version)
            .put(&self.serial)
            .put(&self.length)
            .put(&self.crc32)
            .put(&self.state)
            .put(&self.flags)
            .put(&self.file_id)
            .put(&self.index);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            handle: input.take()?,
            version: input.take()?,
            serial: input.take()?,
            length: input.take()?,
            crc32: input.take()?,
            state: input.take()?,
            flags: input.take()?,
            file_id: input.take()?,
            index: input.take()?,
        })
    }
}
