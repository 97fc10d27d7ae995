//! Files and pending files (`spec/oplog-entries.md` section 3.2).
//!
//! A file is a list of slots and a size; which slot holds which bytes follows from the chunk size
//! that the file was made with. What the chunks are is the chunk table's business.

use sarsen_protocol::crc;
use sarsen_protocol::id::{ChunkHandle, SessionId};
use sarsen_protocol::message::Level;

use super::chunk_table::{ChunkTable, Sealed};
use super::path::Path;

/// What the namespace keeps of a file, beside its name and place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Bytes; no sum of lengths.
    pub size: u64,
    /// Bytes of a slot.
    pub chunk_size: u32,
    /// Copies wanted of each chunk.
    pub replicas: u8,
    /// Of all bytes, exactly if every chunk named is sealed.
    pub crc: Option<u32>,
    /// A handle a slot; [`ChunkHandle::NONE`] is a hole.
    pub slots: Vec<ChunkHandle>,
}

impl File {
    /// The chunks named, with their slots.
    pub fn chunks(&self) -> impl Iterator<Item = (u32, ChunkHandle)> + '_ {
        (0..)
            .zip(self.slots.iter().copied())
            .filter(|(_, handle)| handle.is_some())
    }

    /// The last of them.
    #[must_use]
    pub fn last_chunk(&self) -> Option<(u32, ChunkHandle)> {
        let at = self.slots.iter().rposition(|handle| handle.is_some())?;
        Some((u32::try_from(at).ok()?, *self.slots.get(at)?))
    }

    /// How many chunks are named, holes not counted.
    #[must_use]
    pub fn chunk_count(&self) -> u32 {
        self.chunks().fold(0, |count, _| count + 1)
    }

    /// Offset of the first byte of slot `index`.
    #[must_use]
    pub fn slot_offset(&self, index: u32) -> u64 {
        u64::from(index) * u64::from(self.chunk_size)
    }

    /// Slots that the size reaches into.
    #[must_use]
    pub fn slots_of_size(&self) -> u64 {
        self.size.div_ceil(u64::from(self.chunk_size))
    }

    /// The chunk that slot `index` names, if it names one.
    #[must_use]
    pub fn slot(&self, index: u32) -> Option<ChunkHandle> {
        self.slots
            .get(index as usize)
            .copied()
            .filter(|handle| handle.is_some())
    }

    /// CRC of all bytes, zeros where no chunk holds any; `None` while a chunk is open.
    #[must_use]
    pub fn combined_crc(&self, chunks: &ChunkTable) -> Option<u32> {
        let (mut whole, mut at) = (0, 0);
        for (index, handle) in self.chunks() {
            let Sealed { len, crc, .. } = chunks.record(handle)?.at_rest()?;
            whole = pad_with_zeros(whole, at, self.slot_offset(index));
            whole = crc::combine(whole, crc, u64::from(len));
            at = self.slot_offset(index) + u64::from(len);
        }
        // A chunk that reaches beyond the size would make the sum of parts more than the whole.
        (at <= self.size).then(|| pad_with_zeros(whole, at, self.size))
    }
}

/// Extends a CRC that covers bytes up to `at` by zeros up to `end`.
fn pad_with_zeros(crc: u32, at: u64, end: u64) -> u32 {
    match end.checked_sub(at) {
        None | Some(0) => crc,
        Some(gap) => crc::combine(crc, crc::zeros(gap), gap),
    }
}

/// A file under construction that no reader sees.
///
/// Its chunks are not here: the publication names them all at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingFile {
    /// The session that makes it, and with which it goes.
    pub session: SessionId,
    /// Copies wanted of each chunk.
    pub replicas: u8,
    /// What its acks will be.
    pub level: Level,
    /// Bytes of a slot.
    pub chunk_size: u32,
    /// When it was begun.
    pub created_ms: u64,
    /// Where it is to appear; the publication names the path anew.
    pub path: Path,
}
