//! Open chunks over every tree, at every crash (`spec/journal.md` sections 4, 9 and 10): a start
//! finds each in a state that it had, with all that was told to be stable.

mod earlier_lives;
mod ends;
mod member;
mod seals;
mod starts;
mod trimming;
mod unread;

use std::sync::{Arc, LazyLock, Mutex};

use sarsen_protocol::id::ChunkHandle;
use sarsen_protocol::message::Level;

use super::super::Directory;
use super::super::open_chunk::Told;
use super::super::region::{FileTree, Tree};
use super::faulty::{Faults, FaultyTree, Survives};
use super::heap::HeapTree;
use super::scenario::{START, Sample};
use member::{Marks, Member, Model, Op, RECORD, bytes_at, check, record, records};

const KIB: usize = 1024;

static BASE: LazyLock<Sample> = LazyLock::new(|| Sample::new(1, 150_000));

const MADE: ChunkHandle = ChunkHandle(2);

fn bytes(seed: usize, len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at * 13 + at / 255 + seed * 101).to_le_bytes()[0])
        .collect()
}

fn many(count: usize, len: usize) -> Vec<Vec<u8>> {
    (0..count).map(|seed| bytes(30 + seed, len)).collect()
}

/// A little of everything: on the chunk that was sealed, and on the one that was made.
fn everything() -> Vec<(ChunkHandle, Op)> {
    let base = BASE.handle;
    let ops = [
        (base, Op::Append(bytes(1, 900))),
        (MADE, Op::Append(bytes(2, 3000))),
        (base, Op::Write(100, bytes(3, 40))),
        (base, Op::Sync),
        (MADE, Op::Append(bytes(4, 70 * KIB))),
        (base, Op::Write(65_000, bytes(5, 2000))),
        (base, Op::Append(bytes(6, 40 * KIB))),
        (MADE, Op::Appends(many(40, 300))),
        (MADE, Op::Sync),
        (base, Op::Commit(1)),
        // A tail in a slot is appended to there; a gap; a block patched whole.
        (base, Op::Write(150_500, bytes(7, 100))),
        (base, Op::Append(bytes(8, 50))),
        (base, Op::Appends(many(3, 200))),
        (MADE, Op::Write(140_000, bytes(9, 10))),
        (base, Op::Sync),
        (base, Op::Checkpoint),
        (base, Op::Write(65_536, bytes(10, 64 * KIB))),
        (MADE, Op::Write(10, bytes(11, 34 * KIB))),
        (MADE, Op::Change(1)),
        (MADE, Op::Append(bytes(12, 20))),
        (base, Op::Sync),
        (base, Op::Commit(0)),
        (base, Op::Checkpoint),
        (base, Op::Write(120, bytes(13, 33 * KIB))),
        (base, Op::Change(3)),
        (base, Op::Write(110, bytes(14, 300))),
        (base, Op::Sync),
        (MADE, Op::Sync),
        (MADE, Op::Commit(1)),
        (MADE, Op::Change(0)),
        (MADE, Op::Checkpoint),
        (MADE, Op::Append(bytes(15, 5))),
        (MADE, Op::Sync),
    ];
    ops.into_iter().collect()
}

/// Blocks that all have one CRC, patched over and over by what goes into the journal and what
/// doesn't.
fn equal_crcs() -> Vec<(ChunkHandle, Op)> {
    let block = 64 * KIB / RECORD as usize;
    let mut ops = vec![Op::Append(records(1, block)), Op::Append(records(2, block))];
    for round in 0..4_u32 {
        let seed = u64::from(round) * 10;
        ops.extend([
            Op::Write(0, records(seed + 3, block)),
            Op::Journal,
            Op::Sync,
            Op::Commit(0),
            Op::Write(RECORD * (round + 1), record(seed + 4)),
            Op::Write(65_536 + RECORD * round, record(seed + 5)),
            Op::Sync,
            Op::Commit(u64::from(round % 2)),
        ]);
        if round % 2 == 1 {
            ops.push(Op::Checkpoint);
        }
    }
    ops.push(Op::Change(1));
    ops.push(Op::Write(0, records(77, block)));
    ops.push(Op::Sync);
    ops.into_iter().map(|op| (MADE, op)).collect()
}

/// What is known of both chunks.
#[derive(Clone, Default)]
struct Models {
    base: Model,
    made: Model,
    /// Nothing failed.
    is_whole: bool,
}

impl Models {
    fn of(&mut self, handle: ChunkHandle) -> &mut Model {
        match handle == MADE {
            true => &mut self.made,
            false => &mut self.base,
        }
    }

    fn check(&self, directory: &Directory, marks: Marks, story: &str) {
        check(
            directory,
            BASE.handle,
            &self.base,
            Some(&BASE),
            marks,
            story,
        );
        check(directory, MADE, &self.made, None, marks, story);
    }
}

/// Opens both chunks and does what is told; then another start goes on with new versions.
fn run(tree: &Arc<dyn Tree>, ops: &[(ChunkHandle, Op)]) -> Models {
    let mut models = Models::default();
    let first = run_start(tree, ops, &mut models);
    let second = run_again(tree, ops, &mut models);
    models.is_whole = first.is_some() && second.is_some();
    models
}

fn run_start(tree: &Arc<dyn Tree>, ops: &[(ChunkHandle, Op)], models: &mut Models) -> Option<()> {
    let member = Member::start(tree)?;
    member.open(BASE.handle, &mut models.base, 1000, Some(&BASE))?;
    member.open(MADE, &mut models.made, 2000, None)?;
    ops.iter()
        .try_for_each(|(handle, op)| member.run(*handle, models.of(*handle), op))
}

fn run_again(tree: &Arc<dyn Tree>, ops: &[(ChunkHandle, Op)], models: &mut Models) -> Option<()> {
    let member = Member::start(tree)?;
    for handle in [BASE.handle, MADE] {
        let model = models.of(handle);
        // It goes on from where it was found.
        let told = member.directory.open_chunk(handle)?.told();
        (model.version, model.serial) = (told.version, told.serial);
        member.run(handle, model, &Op::Change(0))?;
    }
    let second = ops
        .iter()
        .take(6)
        .filter(|(_, op)| matches!(op, Op::Append(_) | Op::Sync));
    second
        .clone()
        .try_for_each(|(handle, op)| member.run(*handle, models.of(*handle), op))?;
    [BASE.handle, MADE]
        .into_iter()
        .try_for_each(|handle| member.run(handle, models.of(handle), &Op::Sync))
}

/// A directory with a sealed chunk, in order.
fn prepared() -> FaultyTree {
    let faulty = Arc::new(FaultyTree::new());
    let tree: Arc<dyn Tree> = faulty.clone();
    let directory = super::scenario::open(&tree).unwrap();
    BASE.store(&directory, Level::Disk).unwrap();
    drop(directory);
    tree.sync_all().unwrap();
    faulty.after_kill()
}

fn told_of(directory: &Directory) -> [Option<Told>; 2] {
    [BASE.handle, MADE].map(|handle| directory.open_chunk(handle).map(|chunk| chunk.told()))
}

fn reopen(tree: FaultyTree, story: &str) -> (Arc<FaultyTree>, Directory) {
    let tree = Arc::new(tree);
    let opened = Directory::open_tree(Arc::clone(&tree) as _, &START);
    (
        tree,
        opened.unwrap_or_else(|error| panic!("{story}: {error}")),
    )
}

/// Stops at every step, and looks at what each crash leaves.
fn stop_everywhere(ops: &[(ChunkHandle, Op)]) {
    let start = prepared();
    let whole = Arc::new(start.going_wrong(Faults::default()));
    let models = run(&(whole.clone() as Arc<dyn Tree>), ops);
    let steps = whole.counts().steps;
    let (_, directory) = reopen(whole.after_kill(), "whole");
    models.check(&directory, Marks::None, "whole");
    assert!(models.is_whole && steps > 80, "{steps}");
    for stop in 0..steps {
        let faulty = Arc::new(start.going_wrong(Faults {
            stop_at: Some(stop),
            ..Faults::default()
        }));
        let models = run(&(faulty.clone() as Arc<dyn Tree>), ops);
        let seeds = (stop as u64 * 8..).take(3);
        let cuts = [Survives::Nothing, Survives::Everything].into_iter();
        for survives in cuts.chain(seeds.map(|seed| Survives::Sectors { seed })) {
            let story = format!("power cut at {stop}, {survives:?}");
            let (tree, directory) = reopen(faulty.after_power_cut(survives), &story);
            models.check(&directory, Marks::None, &story);
            // What a start has told stands through another power cut.
            let told = told_of(&directory);
            drop(directory);
            let story = format!("{story}, and another");
            let (_, directory) = reopen(tree.after_power_cut(Survives::Nothing), &story);
            models.check(&directory, Marks::None, &story);
            assert_eq!(told_of(&directory), told, "{story}");
        }
        let story = format!("killed at {stop}");
        let (_, directory) = reopen(faulty.after_kill(), &story);
        models.check(&directory, Marks::None, &story);
    }
}

/// Each record was a write of its own, which cost more than all else that was done for it.
#[test]
fn appends_of_one_batch_are_one_write() {
    let tree = Arc::new(prepared());
    let member = Member::start(&(tree.clone() as Arc<dyn Tree>)).unwrap();
    let mut models = Models::default();
    member.open(MADE, &mut models.made, 2000, None).unwrap();
    let model = &mut models.made;
    member
        .run(MADE, model, &Op::Append(bytes(1, 100 * KIB)))
        .unwrap();
    let chunk = member.directory.open_chunk(MADE).unwrap();
    chunk.reserve(300_000).unwrap();
    let before = tree.counts().steps;
    member
        .run(MADE, model, &Op::Appends(many(100, 1000)))
        .unwrap();
    assert_eq!(tree.counts().steps - before, 1);
    // A place that is not a block's own room.
    member
        .run(MADE, model, &Op::Write(190_000, bytes(2, 20_000)))
        .unwrap();
    member
        .run(MADE, model, &Op::Appends(many(10, 100)))
        .unwrap();
    member.run(MADE, model, &Op::Sync).unwrap();
    let (_, directory) = reopen(tree.after_kill(), "after batches");
    check(
        &directory,
        MADE,
        &models.made,
        None,
        Marks::None,
        "after batches",
    );
}

/// While a sync runs, entries that need none may leave, also some that came after it began. They
/// were counted as if the sync had covered as many others, whose bytes were not stable then.
#[test]
fn a_sync_covers_nothing_that_came_while_it_ran() {
    let tree = Arc::new(prepared());
    let member = Member::start(&(tree.clone() as Arc<dyn Tree>)).unwrap();
    let mut model = Model::default();
    member.open(MADE, &mut model, 2000, None).unwrap();
    let chunk = member.directory.open_chunk(MADE).unwrap();
    // It waits for the journal's room, and for no sync.
    member.log.refuse(true);
    let inline = Op::Append(bytes(1, KIB));
    member.run(MADE, &mut model, &inline).unwrap();
    let member = Arc::new(member);
    let model = Arc::new(Mutex::new(model));
    let (others, applied) = (Arc::clone(&member), Arc::clone(&model));
    tree.during_next_sync(move || {
        let mut model = applied.lock().unwrap();
        others.log.refuse(false);
        for op in [inline, Op::Append(bytes(2, 100 * KIB))] {
            others.run(MADE, &mut model, &op).unwrap();
        }
    });
    let before = member.log.offered();
    let waits = chunk.flush().unwrap();
    assert!(waits, "the last one has no bytes in the journal");
    assert_eq!(member.log.offered(), before + 2);
    assert!(member.write());
    let left = tree.after_power_cut(Survives::Nothing);
    let (_, directory) = reopen(left, "a power cut");
    let mut model = model.lock().unwrap();
    model.told_stable = chunk.stable_serial();
    check(&directory, MADE, &model, None, Marks::None, "a power cut");
}

#[test]
fn a_chunk_comes_back_in_a_state_that_it_had_after_a_crash_at_any_step() {
    stop_everywhere(&everything());
}

/// Bulk bytes and their entry were synced side by side, and compared by CRC after a crash; and a slot
/// was used again as soon as what replaced it was committed and stable. Where all blocks have one CRC,
/// the old block in the slot passed for the new one.
#[test]
fn blocks_of_one_crc_fool_no_recovery() {
    assert_eq!(
        sarsen_protocol::crc::crc32(&records(1, 128)),
        sarsen_protocol::crc::crc32(&records(2, 128))
    );
    stop_everywhere(&equal_crcs());
}

#[test]
fn a_failed_sync_marks_and_never_lies() {
    let start = prepared();
    for ops in [everything(), equal_crcs()] {
        let whole = Arc::new(start.going_wrong(Faults::default()));
        run(&(whole.clone() as Arc<dyn Tree>), &ops);
        for fail in 0..whole.counts().syncs {
            let faulty = Arc::new(start.going_wrong(Faults {
                fail_sync: Some(fail),
                ..Faults::default()
            }));
            let models = run(&(faulty.clone() as Arc<dyn Tree>), &ops);
            let cuts = [Survives::Nothing, Survives::Sectors { seed: fail as u64 }];
            for survives in cuts {
                let story = format!("sync {fail} failed, power cut, {survives:?}");
                let (_, directory) = reopen(faulty.after_power_cut(survives), &story);
                models.check(&directory, Marks::Allowed, &story);
            }
            let story = format!("sync {fail} failed, killed");
            let (tree, directory) = reopen(faulty.after_kill(), &story);
            models.check(&directory, Marks::Allowed, &story);
            let told = told_of(&directory);
            drop(directory);
            // What the kernel called clean and never wrote is not told, or written again.
            let story = format!("{story}, then a power cut");
            let (_, directory) = reopen(tree.after_power_cut(Survives::Nothing), &story);
            models.check(&directory, Marks::Allowed, &story);
            assert_eq!(told_of(&directory), told, "{story}");
        }
    }
}

#[test]
fn an_open_chunk_is_the_same_over_every_tree() {
    let folder = tempfile::tempdir().unwrap();
    let trees: [Arc<dyn Tree>; 3] = [
        Arc::new(HeapTree::new()),
        Arc::new(FaultyTree::new()),
        Arc::new(FileTree::lock(folder.path()).unwrap()),
    ];
    for tree in trees {
        let directory = super::scenario::open(&tree).unwrap();
        BASE.store(&directory, Level::Disk).unwrap();
        drop(directory);
        let models = run(&tree, &everything());
        assert!(models.is_whole);
        let directory = Directory::open_tree(Arc::clone(&tree), &START).unwrap();
        models.check(&directory, Marks::None, "over a tree");
        let chunk = directory.open_chunk(MADE).unwrap();
        let told = chunk.told();
        assert_eq!(told.serial, models.made.serial);
        // Readers are given what is committed, whatever is applied.
        let snapshot = chunk.snapshot();
        assert_eq!(
            (snapshot.version, snapshot.serial),
            (told.version, told.commit_mark)
        );
        let blocks = 0..snapshot.content().blocks().len();
        let read: Vec<u8> = blocks
            .flat_map(|index| snapshot.read_block(index).unwrap())
            .collect();
        assert!(read == bytes_at(&chunk, told.commit_mark));
    }
}
