//! What the journal has of a chunk from before it was replaced means nothing, also when segments go and only
//! some of it is left (`spec/journal.md` sections 8 and 9).

use std::sync::Arc;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, SessionId};
use sarsen_protocol::message::{ChunkState, Level};

use super::super::super::journal::Log as _;
use super::super::super::region::Tree;
use super::super::super::{Directory, Trim};
use super::super::conformance::flip;
use super::super::heap::HeapTree;
use super::super::scenario::{self, START, Sample};
use super::member::{EPOCH, Member, Model, Op};
use super::trimming::fill;
use super::{BASE, bytes};

/// A chunk that fills the journal.
const BUSY: ChunkHandle = ChunkHandle(99);

const PROMISED: ChunkVersion = ChunkVersion(9000);

/// What an earlier start of a directory left.
struct Left {
    tree: Arc<dyn Tree>,
    busy: Model,
}

/// A start opens the chunk in version 1000, in the journal's first segment; `later` has more written of it into
/// the second one.
fn left(later: impl FnOnce(&Member, &mut Model)) -> Left {
    let tree: Arc<dyn Tree> = Arc::new(HeapTree::new());
    let directory = scenario::open(&tree).unwrap();
    BASE.store(&directory, Level::Disk).unwrap();
    drop(directory);
    let member = Member::start(&tree).unwrap();
    let (mut chunk, mut busy) = (Model::default(), Model::default());
    member
        .open(BASE.handle, &mut chunk, 1000, Some(&BASE))
        .unwrap();
    member.open(BUSY, &mut busy, 2000, None).unwrap();
    fill(&member, BUSY, &mut busy);
    later(&member, &mut chunk);
    assert!(member.write());
    Left { tree, busy }
}

/// The next start promises a version of the copy that it has made, and its oldest segment goes; then another
/// start finds the copy.
fn check_found(left: Left, copy: &Sample, replace: impl FnOnce(&Directory)) {
    let Left { tree, mut busy } = left;
    let member = Member::start(&tree).unwrap();
    let directory = &member.directory;
    replace(directory);
    copy.copy(directory).unwrap();
    directory.promise(copy.handle, PROMISED, EPOCH).unwrap();
    member.run(BUSY, &mut busy, &Op::Change(0)).unwrap();
    fill(&member, BUSY, &mut busy);
    let segments = member.log.extent().segments;
    while member.log.extent().segments[0] == segments[0] {
        assert_ne!(directory.trim(1).unwrap(), Trim::Nothing);
        assert!(member.write());
    }
    assert_eq!(member.log.extent().segments[0], segments[1]);
    drop(member);
    let directory = Directory::open_tree(tree, &START).unwrap();
    assert!(!directory.is_poisoned(), "{:?}", directory.not_recovered());
    let entry = directory.entry(copy.handle).unwrap();
    let told = (entry.state, entry.version, entry.flags.bits());
    assert_eq!(told, (ChunkState::Sealed, copy.version, 0));
    assert_eq!(directory.promised_version(copy.handle), Some(PROMISED));
    assert_eq!(copy.read(&directory).unwrap(), copy.bytes);
}

/// An open chunk's header rotted, it was deleted as damaged, and a copy was made and promised a version. Of a
/// chunk at rest with a promise the promise alone was copied forward: when the segment with the old beginning
/// had gone, a start took the mutations in the next one for a history with a hole, and every open chunk of the
/// directory was poisoned.
#[test]
fn a_chunk_that_was_deleted_as_damaged_and_copied_is_not_what_it_was() {
    let left = left(|member, chunk| {
        for op in [Op::Append(bytes(7, 100)), Op::Sync] {
            member.run(BASE.handle, chunk, &op).unwrap();
        }
    });
    for slot in [0, 2048] {
        flip(&*left.tree, &BASE, slot + 100);
    }
    let copy = Sample {
        version: ChunkVersion(5000),
        ..Sample::new(BASE.handle.0, 70_000)
    };
    check_found(left, &copy, |directory| {
        directory.delete_damaged(BASE.handle).unwrap();
    });
}

/// A sealed chunk with a seal prepared was found to be rotten, and a copy of what the others had settled took
/// its place: nothing in the journal said so, and the same came of it.
#[test]
fn a_rotten_chunk_that_was_prepared_and_copied_is_not_what_it_was() {
    let version = ChunkVersion(1000);
    let left = left(|member, _| {
        let chunk = member.directory.open_chunk(BASE.handle).unwrap();
        chunk.prepare_seal(version, None, SessionId(3)).unwrap();
        let seen = member.directory.table.held(BASE.handle).unwrap();
        member.directory.mark_corrupt(&seen).unwrap();
    });
    let copy = Sample {
        version,
        ..BASE.clone()
    };
    check_found(left, &copy, |directory| {
        assert!(directory.entry(BASE.handle).unwrap().flags.corrupt);
    });
}
