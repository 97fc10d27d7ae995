//! What the store holds, in the words of the master's inventory.

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, FileId, Serial};
use sarsen_protocol::message::{ChunkState, HeldChunk, HeldFlags};
use sarsen_protocol::size::HELD_MAX;

use crate::store::{Directory, InventoryEntry, Problem, ProblemKind};

/// A slice of a directory's inventory: what it holds, and the damaged files, by their handles.
#[must_use]
pub fn slice(directory: &Directory, after: Option<ChunkHandle>) -> Vec<HeldChunk> {
    let entries = directory.inventory(after, HELD_MAX);
    let mut held: Vec<HeldChunk> = entries.iter().map(held_chunk).collect();
    let damaged = directory.problems();
    let damaged = damaged.iter().filter_map(damaged_chunk);
    held.extend(damaged.filter(|chunk| Some(chunk.handle) > after));
    held.sort_unstable_by_key(|chunk| chunk.handle);
    // What is cut off here comes again in the next slice.
    held.truncate(HELD_MAX);
    held
}

/// One chunk as the master is told of it.
#[must_use]
pub fn held_chunk(entry: &InventoryEntry) -> HeldChunk {
    let mark = |is_set: bool, flag| if is_set { flag } else { HeldFlags::NONE };
    let flags = mark(entry.flags.unsynced, HeldFlags::UNSYNCED)
        .with(mark(entry.flags.poisoned, HeldFlags::POISONED))
        .with(mark(entry.flags.corrupt, HeldFlags::CORRUPT))
        .with(mark(entry.needs_read_back, HeldFlags::READ_BACK))
        .with(mark(entry.is_prepared, HeldFlags::PREPARED));
    HeldChunk {
        handle: entry.handle,
        version: entry.version,
        serial: entry.serial,
        length: entry.length,
        crc32: entry.crc32,
        state: entry.state,
        flags,
        file_id: entry.file_id,
        index: entry.index,
    }
}

/// A file whose header says nothing that could be believed, or that ends before its data: corrupt,
/// of no version. An order to delete version 0 of it is carried out as long as it is damaged.
fn damaged_chunk(problem: &Problem) -> Option<HeldChunk> {
    let handle = problem.handle?;
    let is_damage = matches!(problem.kind, ProblemKind::Header(_) | ProblemKind::TooShort);
    is_damage.then_some(HeldChunk {
        handle,
        version: ChunkVersion::NONE,
        serial: Serial::NONE,
        length: 0,
        crc32: 0,
        state: ChunkState::Pending,
        flags: HeldFlags::CORRUPT,
        file_id: FileId::NONE,
        index: 0,
    })
}
