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

/// A file whose header says nothing that could be believed: corrupt, of no version. An order to
/// delete version 0 of it is carried out as long as it is damaged. (One that ends before its data
/// has a version, and stands among the entries.)
fn damaged_chunk(problem: &Problem) -> Option<HeldChunk> {
    let handle = problem.handle?;
    let is_damage = matches!(problem.kind, ProblemKind::Header(_));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::layout::{DATA_POSITION, chunk_path};
    use crate::store::region::Tree as _;
    use crate::store::tests::faulty::FaultyTree;
    use crate::store::tests::scenario::{ADOPTION, START, Sample};
    use sarsen_protocol::message::Level;
    use std::sync::Arc;

    /// One that ends before its data was told twice, with its version and with none; what the master
    /// kept was the one that came last.
    #[test]
    fn damaged_files_are_told_once() {
        let tree = Arc::new(FaultyTree::new());
        let open = || Directory::open_tree(Arc::clone(&tree) as _, &START).expect("opens");
        let [whole, short, blank] = [1, 2, 3].map(|number| Sample::new(number, 70_000));
        let directory = open();
        directory.adopt(ADOPTION).expect("adopts");
        for sample in [&whole, &short, &blank] {
            sample.store(&directory, Level::Disk).expect("sealed");
        }
        drop(directory);
        for (sample, len) in [(&short, DATA_POSITION + 100), (&blank, 0)] {
            let file = tree.open(&chunk_path(sample.handle)).expect("is there");
            file.set_len(len).expect("is cut");
        }

        let directory = open();
        assert_eq!(directory.problems().len(), 2, "{:?}", directory.problems());
        let told = |after| {
            let held = slice(&directory, after);
            let row = |it: &HeldChunk| (it.handle, it.version, it.flags.has(HeldFlags::CORRUPT));
            held.iter().map(row).collect::<Vec<_>>()
        };
        let behind_the_whole = [
            (short.handle, short.version, true),
            (blank.handle, ChunkVersion::NONE, true),
        ];
        let all: Vec<_> = [(whole.handle, whole.version, false)]
            .into_iter()
            .chain(behind_the_whole)
            .collect();
        assert_eq!(told(None), all);
        assert_eq!(told(Some(whole.handle)), behind_the_whole);
        assert_eq!(told(Some(blank.handle)), []);
    }
}
