//! The oldest segments of the journal go (`spec/journal.md` section 8), and whatever a start needs of
//! them is found all the same, after a crash at any step too.

use std::sync::Arc;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Serial};
use sarsen_protocol::message::{ChunkState, Level};

use super::super::super::journal::Log as _;
use super::super::super::region::Tree;
use super::super::super::{Directory, Trim};
use super::super::heap::HeapTree;
use super::super::scenario::{self, START, Sample};
use super::member::{EPOCH, Marks, Member, Model, Op, check};
use super::{BASE, KIB, MADE, bytes, seals, stop_everywhere};

/// Some segments of small mutations, trimmed in between: with mutations that are not committed, with
/// forgotten ones, after a change of versions.
fn trimmed() -> Vec<(ChunkHandle, Op)> {
    let base = BASE.handle;
    let ops = [
        (MADE, Op::Append(bytes(1, 30 * KIB))),
        (base, Op::Write(100, bytes(2, 40))),
        (base, Op::Sync),
        (MADE, Op::Append(bytes(3, 30 * KIB))),
        (MADE, Op::Sync),
        (MADE, Op::Commit(1)),
        (base, Op::Append(bytes(4, 30 * KIB))),
        (base, Op::Sync),
        (MADE, Op::Trim),
        (MADE, Op::Change(1)),
        (MADE, Op::Append(bytes(5, 31 * KIB))),
        (base, Op::Write(65_500, bytes(6, 31 * KIB))),
        (base, Op::Sync),
        (base, Op::Commit(1)),
        (base, Op::Trim),
        (base, Op::Change(1)),
        (base, Op::Write(120, bytes(7, 20 * KIB))),
        (MADE, Op::Append(bytes(8, 32 * KIB))),
        (MADE, Op::Sync),
        (base, Op::Sync),
        (MADE, Op::Commit(0)),
        (MADE, Op::Trim),
        (base, Op::Sync),
    ];
    ops.into_iter().collect()
}

#[test]
fn a_trimmed_journal_holds_all_that_counts_after_a_crash_at_any_step() {
    stop_everywhere(&trimmed());
}

/// Trimmed before and behind each step of a seal, and when the chunk is open again.
fn sealed() -> Vec<(ChunkHandle, Op)> {
    let base = BASE.handle;
    let fill = |seed| {
        [
            (MADE, Op::Append(bytes(seed, 31 * KIB))),
            (MADE, Op::Sync),
            (MADE, Op::Append(bytes(seed + 1, 31 * KIB))),
            (MADE, Op::Sync),
            (MADE, Op::Commit(0)),
        ]
    };
    let mut ops = vec![
        (base, Op::Write(100, bytes(1, 300))),
        (base, Op::Append(bytes(2, 900))),
        (base, Op::Sync),
    ];
    ops.extend(fill(10));
    ops.extend([(base, Op::Trim), (base, Op::Prepare(None))]);
    ops.extend(fill(20));
    ops.extend([(base, Op::Trim), (base, Op::Settle)]);
    ops.extend(fill(30));
    ops.extend([(base, Op::Trim), (base, Op::Reopen)]);
    ops.extend(fill(40));
    ops.extend([
        (base, Op::Trim),
        (base, Op::Append(bytes(3, 70))),
        (base, Op::Sync),
        (MADE, Op::Prepare(None)),
        (MADE, Op::Settle),
        (base, Op::Trim),
    ]);
    ops
}

#[test]
fn seals_and_trims_in_turn_leave_what_counts_after_a_crash_at_any_step() {
    seals::stop_everywhere(&sealed());
}

/// What the chunks of the next test are.
struct Chunks {
    stuck: Model,
    busy: Model,
}

fn open_all(member: &Member, unchanged: &Sample, promised: &Sample) -> Chunks {
    let mut chunks = Chunks {
        stuck: Model::default(),
        busy: Model::default(),
    };
    let busy = BASE.handle;
    member
        .open(busy, &mut chunks.busy, 1000, Some(&BASE))
        .unwrap();
    member.open(MADE, &mut chunks.stuck, 2000, None).unwrap();
    // Its chain is broken: what it has is stable and will not be committed.
    for op in [
        Op::Append(bytes(1, 3 * KIB)),
        Op::Sync,
        Op::Commit(0),
        Op::Append(bytes(2, 5 * KIB)),
        Op::Write(10, bytes(3, 100)),
        Op::Sync,
    ] {
        member.run(MADE, &mut chunks.stuck, &op).unwrap();
    }
    // One that forgot all that it had.
    let mut forgets = Model::default();
    let handle = unchanged.handle;
    member
        .open(handle, &mut forgets, 3000, Some(unchanged))
        .unwrap();
    for op in [Op::Append(bytes(4, 100)), Op::Sync, Op::Change(9)] {
        member.run(handle, &mut forgets, &op).unwrap();
    }
    let version = ChunkVersion(4000);
    member
        .directory
        .promise(promised.handle, version, EPOCH)
        .unwrap();
    assert!(member.write());
    chunks
}

/// Nothing was ever removed: a chunk that was written to filled the disk with its journal, and one
/// that was stuck would have kept all the others' entries.
#[test]
fn a_journal_stays_short_whatever_a_stuck_chunk_does() {
    let tree: Arc<dyn Tree> = Arc::new(HeapTree::new());
    let (unchanged, promised) = (Sample::new(11, 70_000), Sample::new(12, 500));
    let directory = scenario::open(&tree).unwrap();
    for sample in [&*BASE, &unchanged, &promised] {
        sample.store(&directory, Level::Disk).unwrap();
    }
    drop(directory);
    let member = Member::start(&tree).unwrap();
    let mut chunks = open_all(&member, &unchanged, &promised);
    // A start finds the one that forgot all as the sealed chunk that it was, its older beginning says.
    drop(member);
    let member = Member::start(&tree).unwrap();
    let change = Op::Change(0);
    member.run(BASE.handle, &mut chunks.busy, &change).unwrap();
    let busy = BASE.handle;
    let mut longest = 0;
    for round in 0..40_u32 {
        for op in [
            Op::Write(round * 7, bytes(round as usize, 20 * KIB)),
            Op::Sync,
            Op::Commit(0),
        ] {
            member.run(busy, &mut chunks.busy, &op).unwrap();
        }
        while member.directory.trim(2).unwrap() != Trim::Nothing {
            assert!(member.write());
        }
        longest = longest.max(member.log.extent().segments.len());
    }
    assert!(longest <= 3, "{longest} segments");
    let first = member.log.extent().segments[0];
    assert!(first > 40, "nothing went: the first entry is {first}");
    drop(member);

    let directory = Directory::open_tree(Arc::clone(&tree), &START).unwrap();
    assert!(!directory.is_poisoned());
    check(
        &directory,
        busy,
        &chunks.busy,
        Some(&BASE),
        Marks::None,
        "busy",
    );
    check(&directory, MADE, &chunks.stuck, None, Marks::None, "stuck");
    let told = directory.open_chunk(MADE).unwrap().told();
    assert_eq!(told.serial, chunks.stuck.serial);
    assert_eq!(told.commit_mark, Serial(told.serial.0 - 2));
    // The promise stands.
    drop(directory);
    let member = Member::start(&tree).unwrap();
    let lower = member
        .directory
        .promise(promised.handle, ChunkVersion(3999), EPOCH);
    assert!(lower.is_err());
    // And what was begun and came to nothing is still the sealed chunk that it was.
    let entry = member.directory.entry(unchanged.handle).unwrap();
    assert_eq!(entry.state, ChunkState::Sealed);
    assert_eq!(unchanged.read(&member.directory).unwrap(), unchanged.bytes);
}

/// Each segment that went cost a checkpoint of all open chunks with anything in it, be it a checkpoint
/// alone: where these were longer than what was kept, trimming wrote without an end.
#[test]
fn trimming_ends_also_where_checkpoints_are_longer_than_segments() {
    let tree: Arc<dyn Tree> = Arc::new(HeapTree::new());
    let directory = scenario::open(&tree).unwrap();
    BASE.store(&directory, Level::Disk).unwrap();
    drop(directory);
    let member = Member::start(&tree).unwrap();
    let mut busy = Model::default();
    busy.outstanding = 1_000_000;
    member
        .open(BASE.handle, &mut busy, 1000, Some(&BASE))
        .unwrap();
    let rows = |rounds: usize, busy: &mut Model| {
        for _ in 0..rounds {
            let small = vec![vec![7; 10]; 150];
            for op in [Op::Appends(small), Op::Sync, Op::Commit(0)] {
                member.run(BASE.handle, busy, &op).unwrap();
            }
            // All that is asked for is the newest.
            let (version, serial) = (busy.version, busy.serial);
            let ids = busy.ids.get_mut(&version).unwrap();
            ids.retain(|it, _| *it == serial);
            let chain = busy.chains.get_mut(&version).unwrap();
            chain.retain(|it, _| *it == serial);
        }
    };
    let trim = || {
        for round in 0..50 {
            match member.directory.trim(2).unwrap() {
                Trim::Nothing => return round,
                _ => assert!(member.write()),
            }
        }
        panic!("it writes without an end")
    };
    rows(18, &mut busy);
    trim();
    let checkpoint = member.directory.open_chunk(BASE.handle).unwrap();
    let checkpoint = checkpoint.last_checkpoint().expect("taken").len;
    let segment = member.log.extent().segment_len;
    assert!(checkpoint > segment, "{checkpoint}");
    let before = member.log.extent().segments;
    // It goes on as more comes, however often there is nothing to trim.
    let has_gone = (0..60).any(|_| {
        rows(1, &mut busy);
        trim();
        member.log.extent().segments.first() > before.first()
    });
    assert!(has_gone, "nothing goes");
    // It says what is committed, and of older states nothing was kept to compare with.
    for op in [Op::Checkpoint, Op::Journal] {
        member.run(BASE.handle, &mut busy, &op).unwrap();
    }
    drop(member);
    let directory = Directory::open_tree(Arc::clone(&tree), &START).unwrap();
    check(
        &directory,
        BASE.handle,
        &busy,
        Some(&BASE),
        Marks::None,
        "trimmed",
    );
}

/// Writes to a chunk until the journal has another segment.
pub(super) fn fill(member: &Member, handle: ChunkHandle, busy: &mut Model) {
    let segments = member.log.extent().segments.len();
    for seed in 0.. {
        let write = Op::Write(0, bytes(seed, 20 * KIB));
        for op in [write, Op::Sync, Op::Commit(0)] {
            member.run(handle, busy, &op).unwrap();
        }
        if member.log.extent().segments.len() > segments {
            return;
        }
    }
}

/// A segment with a checkpoint of a chunk went with another checkpoint of it, though it had been sealed
/// since and opened again: a start took it for changed, and it was not the sealed chunk any more that it
/// was to readers and to the master (found by the simulator).
#[test]
fn a_checkpoint_from_before_a_seal_does_not_count_as_a_change() {
    let tree: Arc<dyn Tree> = Arc::new(HeapTree::new());
    let member = Member::start(&tree).unwrap();
    let (mut sealed, mut busy) = (Model::default(), Model::default());
    let (first, second) = (ChunkHandle(MADE.0 + 1), ChunkHandle(MADE.0 + 2));
    member.open(first, &mut busy, 1000, None).unwrap();
    member.open(second, &mut sealed, 2000, None).unwrap();
    let bytes = bytes(7, 100);
    for op in [
        Op::Append(bytes.clone()),
        Op::Sync,
        Op::Commit(0),
        Op::Checkpoint,
    ] {
        member.run(second, &mut sealed, &op).unwrap();
    }
    fill(&member, first, &mut busy);
    for op in [Op::Prepare(None), Op::Settle, Op::Reopen] {
        member.run(second, &mut sealed, &op).unwrap();
    }
    let oldest = member.log.extent().segments[0];
    while member.log.extent().segments[0] == oldest {
        fill(&member, first, &mut busy);
        while member.directory.trim(2).unwrap() != Trim::Nothing {
            assert!(member.write());
        }
    }
    drop(member);
    let directory = Directory::open_tree(Arc::clone(&tree), &START).unwrap();
    let entry = directory.entry(second).unwrap();
    assert_eq!(entry.state, ChunkState::Sealed);
    assert_eq!(entry.length, 100);
}

/// Of a chunk that was sealed and opened again, the beginning from before the seal was copied forward behind
/// it, with the one that counts: the next start took the journal for damaged (found by the simulator).
#[test]
fn a_beginning_from_before_a_seal_does_not_come_back() {
    let tree: Arc<dyn Tree> = Arc::new(HeapTree::new());
    let member = Member::start(&tree).unwrap();
    let (mut opened, mut busy) = (Model::default(), Model::default());
    let (first, second) = (ChunkHandle(MADE.0 + 1), ChunkHandle(MADE.0 + 2));
    member.open(first, &mut busy, 1000, None).unwrap();
    member.open(second, &mut opened, 2000, None).unwrap();
    let append = Op::Append(bytes(7, 100));
    // Sealed and opened again, twice.
    for _ in 0..2 {
        for op in [
            append.clone(),
            Op::Sync,
            Op::Commit(0),
            Op::Prepare(None),
            Op::Settle,
            Op::Reopen,
        ] {
            member.run(second, &mut opened, &op).unwrap();
        }
        fill(&member, first, &mut busy);
    }
    // Changed, and rolled back by another version.
    for op in [append, Op::Sync, Op::Change(1), Op::Sync] {
        member.run(second, &mut opened, &op).unwrap();
    }
    let kept = *member.log.extent().segments.last().unwrap();
    drop(member);
    // Since it was opened by a start nothing was applied to it.
    let member = Member::start(&tree).unwrap();
    while member.log.extent().segments[0] < kept {
        assert_ne!(member.directory.trim(1).unwrap(), Trim::Nothing);
        assert!(member.write());
    }
    drop(member);
    let directory = Directory::open_tree(Arc::clone(&tree), &START).unwrap();
    assert!(directory.not_recovered().journal.is_none());
    let entry = directory.entry(second).unwrap();
    assert_eq!((entry.state, entry.length), (ChunkState::Sealed, 200));
}

/// A replica that was open was replaced by a copy that a loss had been accepted for, with lower serials than
/// its own. When that was opened and changed, mutations of the replica were copied forward behind what it was
/// then, as if they were not committed yet: a start took the journal for damaged, and the directory was
/// poisoned (found by the simulator).
#[test]
fn what_a_replica_was_before_a_copy_took_its_place_does_not_come_back() {
    let tree: Arc<dyn Tree> = Arc::new(HeapTree::new());
    let older = Sample::new(12, 500);
    let newer = Sample {
        version: ChunkVersion(5000),
        ..Sample::new(12, 700)
    };
    let directory = scenario::open(&tree).unwrap();
    older.store(&directory, Level::Disk).unwrap();
    drop(directory);
    let member = Member::start(&tree).unwrap();
    let (mut replaced, mut opened, mut busy) = <(Model, Model, Model)>::default();
    member.open(MADE, &mut busy, 1000, None).unwrap();
    member
        .open(older.handle, &mut replaced, 2000, Some(&older))
        .unwrap();
    let append = [Op::Append(bytes(7, 100)), Op::Sync, Op::Commit(0)];
    for op in append.iter().cycle().take(4 * append.len()) {
        member.run(older.handle, &mut replaced, op).unwrap();
    }
    fill(&member, MADE, &mut busy);
    newer.copy(&member.directory).unwrap();
    member
        .open(newer.handle, &mut opened, 6000, Some(&newer))
        .unwrap();
    for op in &append {
        member.run(newer.handle, &mut opened, op).unwrap();
    }
    fill(&member, MADE, &mut busy);
    let oldest = member.log.extent().segments[0];
    while member.log.extent().segments[0] == oldest {
        assert_ne!(member.directory.trim(1).unwrap(), Trim::Nothing);
        assert!(member.write());
    }
    drop(member);
    let directory = Directory::open_tree(tree, &START).unwrap();
    assert!(!directory.is_poisoned(), "{:?}", directory.not_recovered());
    let told = directory.open_chunk(newer.handle).unwrap().told();
    assert_eq!((told.version, told.length), (ChunkVersion(6000), 800));
}

/// Whether a segment can go was found out while it was written what has to stand elsewhere: a checkpoint
/// of each chunk before the one that held it up, and copies of what fitted, at each look, once a second.
#[test]
fn nothing_is_written_for_a_segment_that_can_not_go() {
    const ROOM: usize = 20 * 1024;
    let tree: Arc<dyn Tree> = Arc::new(HeapTree::new());
    let member = Member::start(&tree).unwrap();
    let (mut stuck, mut busy) = (Model::default(), Model::default());
    let (first, second) = (ChunkHandle(MADE.0 + 1), ChunkHandle(MADE.0 + 2));
    member.open(first, &mut busy, 1000, None).unwrap();
    member.open(second, &mut stuck, 2000, None).unwrap();
    // Stable, and not committed: more than may be copied.
    for seed in 0..3 {
        for op in [Op::Append(bytes(seed, 30 * KIB)), Op::Sync] {
            member.run(second, &mut stuck, &op).unwrap();
        }
    }
    for round in 0..20 {
        let write = Op::Write(round, bytes(round as usize, 20 * KIB));
        for op in [write, Op::Sync, Op::Commit(0)] {
            member.run(first, &mut busy, &op).unwrap();
        }
    }
    assert!(member.log.extent().segments.len() > 3);

    let offered = member.log.offered();
    for _ in 0..3 {
        let trim = member.directory.trim_within(2, ROOM).unwrap();
        assert_eq!(trim, Trim::Nothing);
    }
    assert_eq!(member.log.offered(), offered);

    // It is looked at again when it may have become another thing.
    member.run(second, &mut stuck, &Op::Commit(0)).unwrap();
    let trim = member.directory.trim_within(2, ROOM).unwrap();
    assert_eq!(trim, Trim::GoOn);
    while member.directory.trim_within(2, ROOM).unwrap() != Trim::Nothing {
        assert!(member.write());
    }
    assert!(member.log.extent().segments.len() <= 2);
}

/// What a sealed chunk had promised outlived its deletion: it was copied forward from segment to segment,
/// for a chunk that was nobody's any more.
#[test]
fn a_promise_goes_with_its_chunk() {
    let tree: Arc<dyn Tree> = Arc::new(HeapTree::new());
    let sample = Sample::new(12, 500);
    let directory = scenario::open(&tree).unwrap();
    sample.store(&directory, Level::Disk).unwrap();
    drop(directory);
    let member = Member::start(&tree).unwrap();
    let (handle, promised) = (sample.handle, ChunkVersion(4000));
    member.directory.promise(handle, promised, EPOCH).unwrap();
    assert!(member.write());
    let deleted = member.directory.delete(&[(handle, sample.version)]);
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    assert_eq!(member.directory.promised_version(handle), None);
    assert!(member.write());
    drop(member);
    let directory = Directory::open_tree(tree, &START).unwrap();
    assert_eq!(directory.promised_version(handle), None);
}

/// A promise took the place of an older one that had been answered, and was not stable yet: nothing of the
/// oldest segment was needed any more, and it went. A power cut left neither.
#[test]
fn a_promise_stays_until_the_one_that_supersedes_it_is_stable() {
    let tree: Arc<dyn Tree> = Arc::new(HeapTree::new());
    let sample = Sample::new(12, 500);
    let directory = scenario::open(&tree).unwrap();
    sample.store(&directory, Level::Disk).unwrap();
    drop(directory);
    let promised = |directory: &Directory| directory.promised_version(sample.handle);
    let member = Member::start(&tree).unwrap();
    let mut busy = Model::default();
    member.open(MADE, &mut busy, 1000, None).unwrap();
    let versions = [4000, 5000].map(ChunkVersion);
    for version in versions {
        let promise = member.directory.promise(sample.handle, version, EPOCH);
        promise.unwrap();
        if version == versions[0] {
            assert!(member.write());
            fill_and_rest(&member, MADE, &mut busy);
        }
    }
    for _ in 0..3 {
        member.directory.trim(2).unwrap();
    }
    // What was offered and not written goes with the power.
    drop(member);
    let directory = Directory::open_tree(Arc::clone(&tree), &START).unwrap();
    assert_eq!(promised(&directory), Some(versions[0]));
    drop(directory);

    let member = Member::start(&tree).unwrap();
    let promise = member.directory.promise(sample.handle, versions[1], EPOCH);
    promise.unwrap();
    let oldest = member.log.extent().segments[0];
    while member.directory.trim(2).unwrap() != Trim::Nothing {
        assert!(member.write());
    }
    assert!(member.log.extent().segments[0] > oldest, "it goes then");
    drop(member);
    let directory = Directory::open_tree(tree, &START).unwrap();
    assert_eq!(promised(&directory), Some(versions[1]));
}

/// A chunk was settled and had a promise above that, both not stable yet: the segment that told what its
/// mutations were applied to went. After a power cut the rest of them stood alone, the start took the journal
/// for damaged, and the directory was poisoned.
#[test]
fn what_a_chunk_was_stays_until_its_end_is_stable() {
    let tree: Arc<dyn Tree> = Arc::new(HeapTree::new());
    let member = Member::start(&tree).unwrap();
    let (first, second) = (ChunkHandle(MADE.0 + 1), ChunkHandle(MADE.0 + 2));
    let (mut sealed, mut busy) = (Model::default(), Model::default());
    member.open(first, &mut busy, 1000, None).unwrap();
    member.open(second, &mut sealed, 2000, None).unwrap();
    let append = [Op::Append(bytes(7, 100)), Op::Sync];
    for op in &append {
        member.run(second, &mut sealed, op).unwrap();
    }
    fill(&member, first, &mut busy);
    // Cut off, so that no checkpoint says what it is.
    for op in append.iter().chain(&[Op::Prepare(Some(150))]) {
        member.run(second, &mut sealed, op).unwrap();
    }
    fill_and_rest(&member, first, &mut busy);
    let directory = &member.directory;
    let prepared = directory.open_chunk(second).unwrap().told().prepared;
    let promised = ChunkVersion(9000);
    directory.promise(second, promised, EPOCH).unwrap();
    assert!(member.write());
    let settled = directory.settle(second, prepared.version, prepared.length, prepared.crc32);
    settled.unwrap();
    for _ in 0..3 {
        directory.trim(2).unwrap();
    }
    drop(member);
    let directory = Directory::open_tree(tree, &START).unwrap();
    assert!(!directory.is_poisoned(), "{:?}", directory.not_recovered());
    assert_eq!(directory.entry(second).unwrap().length, 150);
    assert_eq!(directory.promised_version(second), Some(promised));
}

/// A chunk was settled, found to be rotten, and its settling stood in the segment that was being written: what
/// it was before that was copied forward behind it, and came back. When the replica had been replaced by a good
/// one, a start took the journal for damaged, and the directory was poisoned (found by the simulator).
#[test]
fn what_a_rotten_chunk_was_before_its_seal_does_not_come_back() {
    let tree: Arc<dyn Tree> = Arc::new(HeapTree::new());
    let member = Member::start(&tree).unwrap();
    let (first, second) = (ChunkHandle(MADE.0 + 1), ChunkHandle(MADE.0 + 2));
    let (mut sealed, mut busy) = (Model::default(), Model::default());
    member.open(first, &mut busy, 1000, None).unwrap();
    member.open(second, &mut sealed, 2000, None).unwrap();
    let append = [Op::Append(bytes(7, 100)), Op::Sync, Op::Commit(0)];
    for op in &append {
        member.run(second, &mut sealed, op).unwrap();
    }
    fill(&member, first, &mut busy);
    // What the version begins with stands in a checkpoint, once the oldest segment has gone.
    for op in [Op::Change(0), Op::Sync].iter().chain(&append) {
        member.run(second, &mut sealed, op).unwrap();
    }
    fill(&member, first, &mut busy);
    let directory = &member.directory;
    let trim = || {
        while member.log.extent().segments.len() > 2 {
            assert_ne!(directory.trim(2).unwrap(), Trim::Nothing);
            assert!(member.write());
        }
    };
    trim();
    fill(&member, first, &mut busy);
    for op in [Op::Prepare(None), Op::Settle] {
        member.run(second, &mut sealed, &op).unwrap();
    }
    let seen = directory.table.held(second).unwrap();
    directory.mark_corrupt(&seen).unwrap();
    trim();
    drop(member);
    let directory = Directory::open_tree(tree, &START).unwrap();
    assert!(!directory.is_poisoned(), "{:?}", directory.not_recovered());
    let entry = directory.entry(second).unwrap();
    assert_eq!((entry.state, entry.length), (ChunkState::Sealed, 200));
}

/// Writes to a chunk until the journal has two more segments, so that nothing of it in older ones counts.
fn fill_and_rest(member: &Member, handle: ChunkHandle, busy: &mut Model) {
    for _ in 0..2 {
        fill(member, handle, busy);
    }
    for op in [Op::Commit(0), Op::Checkpoint] {
        member.run(handle, busy, &op).unwrap();
    }
}
