//! What a start makes of journals and files that don't go together (`spec/journal.md` section 9),
//! and what is refused.

use std::sync::Arc;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Serial};
use sarsen_protocol::message::{ChunkState, Level};

use super::super::super::journal::segment::{JOURNAL_FOLDER, segment_path};
use super::super::super::journal::{JournalLimits, Log as _};
use super::super::super::layout::{chunk_path, patch_path, sealing_path};
use super::super::super::open_chunk::OpenChunkError;
use super::super::super::region::Tree;
use super::super::super::{BeginOrder, Directory, StoreError};
use super::super::faulty::FaultyTree;
use super::super::heap::HeapTree;
use super::super::scenario::{START, Sample, open as open_directory};
use super::member::{EPOCH, Marks, Member, Model, Op, check};
use super::{BASE, MADE, bytes};

/// A tree on the heap with the sealed chunk, opened, appended to, patched; and one that was made.
fn opened(tree: &Arc<dyn Tree>) -> (Member, Model, Model) {
    let directory = open_directory(tree).unwrap();
    BASE.store(&directory, Level::Disk).unwrap();
    drop(directory);
    let member = Member::start(tree).unwrap();
    let (mut base, mut made) = (Model::default(), Model::default());
    member
        .open(BASE.handle, &mut base, 1000, Some(&BASE))
        .unwrap();
    member.open(MADE, &mut made, 2000, None).unwrap();
    let patch = Op::Write(70_000, bytes(1, 500));
    for op in [Op::Append(bytes(2, 3000)), patch, Op::Sync, Op::Commit(1)] {
        member.run(BASE.handle, &mut base, &op).unwrap();
    }
    for op in [Op::Append(bytes(3, 9000)), Op::Sync] {
        member.run(MADE, &mut made, &op).unwrap();
    }
    member.log.mark();
    (member, base, made)
}

fn reopen(tree: &Arc<dyn Tree>) -> Directory {
    Directory::open_tree(Arc::clone(tree), &START).unwrap()
}

/// Some embedded logs open with half of what they held when a sector in the middle rots, without a
/// word. A member that did so would take acknowledged mutations from all.
#[test]
fn a_spoiled_journal_poisons_and_never_answers_with_an_older_state() {
    let heap = Arc::new(HeapTree::new());
    let tree: Arc<dyn Tree> = heap.clone();
    let (member, base, made) = opened(&tree);
    drop(member);
    let segments = heap.list(JOURNAL_FOLDER).unwrap();
    let segments = segments.iter().filter(|name| name.ends_with(".journal"));
    let mut damaged = 0;
    for segment in segments.map(|name| format!("{JOURNAL_FOLDER}/{name}")) {
        let region = heap.find(&segment).unwrap();
        let whole = region.bytes.lock().unwrap().clone();
        for at in (0..whole.len().min(24 * 1024)).step_by(512) {
            region.bytes.lock().unwrap()[at..at + 512].fill(0);
            let directory = reopen(&tree);
            let story = format!("{segment} at {at}");
            if directory.is_poisoned() {
                damaged += 1;
                let fault = directory.not_recovered().journal.as_ref();
                let why = fault.map(ToString::to_string).unwrap_or_default();
                assert!(
                    why.contains("journal is damaged at byte") && why.contains(&segment),
                    "{story}: {why}"
                );
                for handle in [BASE.handle, MADE] {
                    assert!(directory.open_chunk(handle).is_none(), "{story}");
                    let entry = directory.entry(handle).unwrap();
                    assert!(entry.flags.poisoned, "{story}");
                }
                // Neither the journal nor what may be its chunks' is touched; a restart clears nothing.
                assert!(heap.find(&patch_path(BASE.handle)).is_ok(), "{story}");
                drop(directory);
                let again = reopen(&tree);
                assert!(again.is_poisoned(), "{story}");
                assert!(again.not_recovered().journal.is_some(), "{story}");
                drop(again);
                assert!(Member::start(&tree).is_none(), "{story}");
                unmark(&heap);
            } else {
                check(
                    &directory,
                    BASE.handle,
                    &base,
                    Some(&BASE),
                    Marks::None,
                    &story,
                );
                check(&directory, MADE, &made, None, Marks::None, &story);
            }
            region.bytes.lock().unwrap().clone_from(&whole);
        }
    }
    assert!(damaged > 8, "{damaged}");
}

/// One sector of a segment that could not be read made every start fail, and all sealed chunks of the
/// directory were lost with it; had it been read as zeros, they would have been served.
#[test]
fn a_sector_of_the_journal_that_can_not_be_read_is_damage() {
    let faulty = Arc::new(FaultyTree::new());
    let tree: Arc<dyn Tree> = faulty.clone();
    let (member, ..) = opened(&tree);
    let (sealed, promised) = (Sample::new(7, 3000), Sample::new(8, 2000));
    for sample in [&sealed, &promised] {
        sample.store(&member.directory, Level::Disk).unwrap();
    }
    let version = ChunkVersion(4000);
    member
        .directory
        .promise(promised.handle, version, EPOCH)
        .unwrap();
    assert!(member.write());
    let segment = segment_path(member.log.extent().segments[0]);
    drop(member);
    for at in [0, 4096, 8192] {
        let faulty = Arc::new(faulty.after_kill());
        faulty.lose_sector(&segment, at);
        let tree: Arc<dyn Tree> = faulty;
        for story in [format!("lost at {at}"), format!("lost at {at}, again")] {
            let directory = reopen(&tree);
            assert!(directory.is_poisoned(), "{story}");
            let fault = directory.not_recovered().journal.as_ref();
            let why = fault.map(ToString::to_string).unwrap_or_default();
            assert!(why.contains(&segment), "{story}: {why}");
            assert!(why.contains("does not give it"), "{story}: {why}");
            // The last one is named behind the sector that is lost.
            for handle in [BASE.handle, MADE, promised.handle] {
                assert!(directory.open_chunk(handle).is_none(), "{story}");
                assert!(directory.entry(handle).unwrap().flags.poisoned, "{story}");
            }
            assert!(!directory.entry(sealed.handle).unwrap().flags.poisoned);
            assert_eq!(sealed.read(&directory).unwrap(), sealed.bytes, "{story}");
        }
    }
}

/// Takes the mark off `IDENTITY` that nothing else takes off.
fn unmark(heap: &HeapTree) {
    use super::super::super::identity::Identity;
    use super::super::super::layout::IDENTITY_FILE;
    let region = heap.find(IDENTITY_FILE).unwrap();
    let mut bytes = region.bytes.lock().unwrap();
    let mut identity = Identity::decode(&bytes).unwrap();
    identity.poisoned = false;
    bytes.copy_from_slice(&identity.encode());
}

/// A block that rotted is not built upon, and a patch file that is gone or another's is no block.
#[test]
fn what_does_not_match_is_corrupt() {
    type Spoil = fn(&HeapTree);
    let spoils: [Spoil; 4] = [
        |heap| {
            heap.find(&chunk_path(BASE.handle))
                .unwrap()
                .bytes
                .lock()
                .unwrap()[8192 + 140_000] ^= 1
        },
        |heap| {
            heap.find(&patch_path(BASE.handle))
                .unwrap()
                .bytes
                .lock()
                .unwrap()[20] ^= 1
        },
        |heap| heap.remove(&patch_path(BASE.handle)).unwrap(),
        |heap| {
            let other = heap
                .find(&chunk_path(MADE))
                .unwrap()
                .bytes
                .lock()
                .unwrap()
                .clone();
            *heap
                .find(&patch_path(BASE.handle))
                .unwrap()
                .bytes
                .lock()
                .unwrap() = other;
        },
    ];
    for (number, spoil) in spoils.iter().enumerate() {
        let heap = Arc::new(HeapTree::new());
        let tree: Arc<dyn Tree> = heap.clone();
        let (member, _, made) = opened(&tree);
        drop(member);
        spoil(&heap);
        let directory = reopen(&tree);
        assert!(directory.open_chunk(BASE.handle).is_none(), "{number}");
        let entry = directory.entry(BASE.handle).unwrap();
        assert!(
            entry.flags.corrupt && entry.state == ChunkState::Open,
            "{number}"
        );
        let told = &directory.not_recovered().chunks;
        assert!(told.len() == 1 && told[0].0 == BASE.handle, "{told:?}");
        check(&directory, MADE, &made, None, Marks::None, "the other one");
        assert!(!directory.is_poisoned());
    }
}

/// A copy took the place of an open replica that was stale: from then on the journal's word on it is
/// void, also when the copy is opened in its turn.
#[test]
fn a_sealed_file_that_is_newer_goes_before_the_journal() {
    let heap = Arc::new(HeapTree::new());
    let tree: Arc<dyn Tree> = heap.clone();
    let (member, ..) = opened(&tree);
    drop(member);
    let elsewhere: Arc<dyn Tree> = Arc::new(HeapTree::new());
    let newer = Sample {
        version: ChunkVersion(5000),
        ..Sample::new(BASE.handle.0, 70_000)
    };
    newer
        .store(&open_directory(&elsewhere).unwrap(), Level::Disk)
        .unwrap();
    let copied = elsewhere.open(&chunk_path(newer.handle)).unwrap();
    let mut content = vec![0; usize::try_from(copied.file_len().unwrap()).unwrap()];
    copied.read_at(&mut content, 0).unwrap();
    *heap
        .find(&chunk_path(newer.handle))
        .unwrap()
        .bytes
        .lock()
        .unwrap() = content;

    // Twice: nothing was written the first time, for no journal was begun.
    for _ in 0..2 {
        let directory = reopen(&tree);
        assert!(directory.open_chunk(newer.handle).is_none());
        assert_eq!(newer.read(&directory).unwrap(), newer.bytes);
        assert!(
            heap.find(&patch_path(newer.handle)).is_err(),
            "its patches are of another"
        );
        assert!(heap.find(&sealing_path(newer.handle)).is_err());
    }
    let member = Member::start(&tree).unwrap();
    let mut model = Model::default();
    member
        .open(newer.handle, &mut model, 6000, Some(&newer))
        .unwrap();
    for op in [Op::Write(5, bytes(4, 10)), Op::Sync] {
        member.run(newer.handle, &mut model, &op).unwrap();
    }
    drop(member);
    check(
        &reopen(&tree),
        newer.handle,
        &model,
        Some(&newer),
        Marks::None,
        "opened again",
    );
}

#[test]
fn what_was_deleted_stays_so_and_what_was_never_begun_is_nobodys() {
    let heap = Arc::new(HeapTree::new());
    let tree: Arc<dyn Tree> = heap.clone();
    let (member, ..) = opened(&tree);
    // Made, and the journal's word on it never written.
    let handle = ChunkHandle(3);
    let order = BeginOrder {
        handle,
        version: ChunkVersion(3000),
        serial: Serial(0),
        memory: false,
        create: Some((sarsen_protocol::id::FileId(5), 3)),
    };
    member.directory.begin(&order).unwrap();
    drop(member);
    heap.remove(&chunk_path(MADE)).unwrap();
    for _ in 0..2 {
        let member = Member::start(&tree).unwrap();
        assert_eq!(member.directory.entry(MADE), None);
        let entry = member.directory.entry(handle).unwrap();
        assert!(entry.flags.corrupt && entry.state == ChunkState::Open);
        assert!(member.directory.open_chunk(handle).is_none());
    }
    let directory = reopen(&tree);
    directory.delete(&[(handle, ChunkVersion(3000))])[0]
        .as_ref()
        .unwrap();
}

/// An open chunk is no sealed one, whatever its file's header says; and one that was begun and not
/// changed is.
#[test]
fn a_chunk_is_told_as_what_it_is() {
    let tree: Arc<dyn Tree> = Arc::new(HeapTree::new());
    let (member, mut base, _) = opened(&tree);
    let directory = &member.directory;
    let told = |directory: &Directory| {
        let entry = directory.entry(BASE.handle).unwrap();
        (entry.state, entry.version, entry.serial, entry.length)
    };
    let length = BASE.length() + 3000;
    let expected = (ChunkState::Open, ChunkVersion(1000), Serial(9), length);
    assert_eq!(told(directory), expected);
    assert_eq!(directory.inventory(None, 10)[0].version, ChunkVersion(1000));
    let is_open = |result: Result<(), StoreError>| {
        matches!(
            result,
            Err(StoreError::OtherState {
                state: ChunkState::Open,
                ..
            })
        )
    };
    assert!(is_open(BASE.read(directory).map(|_| ())));
    let refused = directory.delete(&[(BASE.handle, BASE.version)]).remove(0);
    assert!(
        matches!(refused, Err(StoreError::OtherVersion { held, .. }) if held == ChunkVersion(1000)),
        "{refused:?}"
    );
    let copy = Sample {
        version: ChunkVersion(1000),
        ..BASE.clone()
    };
    let begun = directory.begin_copy(&copy.new_copy()).map(|_| ());
    assert!(
        is_open(begun),
        "a copy replaces what is older, and nothing else"
    );

    // What a promise refuses, now and after a restart.
    let chunk = directory.open_chunk(BASE.handle).unwrap();
    chunk.promise(ChunkVersion(1500), EPOCH).unwrap();
    let refused = member.run(BASE.handle, &mut base, &Op::Append(bytes(1, 1)));
    assert_eq!(refused, None);
    assert!(member.write());
    let again = chunk.promise(ChunkVersion(1500), EPOCH).unwrap();
    assert!(again > 0, "asked again it answers again");
    drop(chunk);
    drop(member);
    let directory = reopen(&tree);
    assert_eq!(told(&directory), expected);
    let chunk = directory.open_chunk(BASE.handle).unwrap();
    for version in [1499, 1500].map(ChunkVersion) {
        let refused = chunk.promise(version, EPOCH);
        assert!(
            matches!(refused, Err(OpenChunkError::Promised { .. })),
            "{refused:?}"
        );
    }
}

/// A checkpoint stands for all that was said before it: also for where the version began, by which
/// mutations that it forgot are told from its own.
#[test]
fn a_checkpoint_says_all_that_trimmed_entries_did() {
    let heap = Arc::new(HeapTree::new());
    let tree: Arc<dyn Tree> = heap.clone();
    let (member, _, mut made) = opened(&tree);
    for op in [
        Op::Append(bytes(4, 10)),
        Op::Change(1),
        Op::Append(bytes(5, 20)),
        Op::Write(3, bytes(6, 500)),
        Op::Sync,
        Op::Commit(0),
    ] {
        member.run(MADE, &mut made, &op).unwrap();
    }
    let before = member.directory.open_chunk(MADE).unwrap().told();
    assert!(before.begin_serial < before.serial && before.commit_mark == before.serial);
    drop(member);

    let member = Member::start(&tree).unwrap();
    let chunk = member.directory.open_chunk(MADE).unwrap();
    chunk.commit_to(before.serial).unwrap();
    chunk.checkpoint().unwrap();
    assert!(member.write());
    drop((chunk, member));
    let names = heap.list(JOURNAL_FOLDER).unwrap();
    let mut segments: Vec<_> = names
        .iter()
        .filter(|name| name.ends_with(".journal"))
        .collect();
    segments.sort();
    segments.pop();
    assert!(!segments.is_empty());
    for segment in segments {
        heap.remove(&format!("{JOURNAL_FOLDER}/{segment}")).unwrap();
    }
    let directory = reopen(&tree);
    assert!(!directory.is_poisoned());
    assert_eq!(directory.open_chunk(MADE).unwrap().told(), before);
    check(&directory, MADE, &made, None, Marks::None, "trimmed");
}

/// A full disk refuses the mutation that needs room, the sealed form's too, and changes nothing.
#[test]
fn a_full_disk_refuses_a_mutation_and_changes_nothing() {
    let faulty = Arc::new(FaultyTree::new());
    let tree: Arc<dyn Tree> = faulty.clone();
    let (member, mut base, _) = opened(&tree);
    faulty.fill();
    faulty.refuse_next_reservation();
    let chunk = member.directory.open_chunk(BASE.handle).unwrap();
    let before = chunk.told();
    let mut tried = base.clone();
    assert_eq!(
        member.run(BASE.handle, &mut tried, &Op::Append(bytes(5, 300_000))),
        None
    );
    assert_eq!(chunk.told(), before);
    // There is room for this one.
    for op in [Op::Write(70_100, bytes(6, 10)), Op::Sync] {
        member.run(BASE.handle, &mut base, &op).unwrap();
    }
    assert_eq!(chunk.told().serial, Serial(before.serial.0 + 1));
}

/// A start that wanted memory, or descriptors, told good open replicas as poisoned, left out what it could
/// not open, and gave up its journal; the master has such replicas replaced and deleted.
#[test]
fn a_start_that_wants_memory_fails_and_marks_nothing() {
    let faulty = Arc::new(FaultyTree::new());
    let tree: Arc<dyn Tree> = faulty.clone();
    let (member, mut base, _) = opened(&tree);
    for op in [Op::Write(70_100, bytes(6, 10)), Op::Sync] {
        member.run(BASE.handle, &mut base, &op).unwrap();
    }
    drop(member);
    for part in [".patch", ".chunk", "journal/"] {
        faulty.be_short_of_memory_for(Some(part));
        let opened = Directory::open_tree(Arc::clone(&tree), &START);
        assert!(opened.is_err(), "{part}");
    }
    faulty.be_short_of_memory_for(None);
    let directory = reopen(&tree);
    faulty.be_short_of_memory_for(Some("journal/"));
    assert!(
        directory
            .start_journal(JournalLimits::default(), |_| unreachable!())
            .is_err()
    );
    faulty.be_short_of_memory_for(None);
    assert!(!directory.is_poisoned());
    check(
        &directory,
        BASE.handle,
        &base,
        None,
        Marks::None,
        "afterwards",
    );
    assert!(Member::begin(directory).is_some());
}
