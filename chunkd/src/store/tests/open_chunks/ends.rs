//! Open replicas go, by order or because a copy takes their place (`spec/journal.md` sections 6 and 9,
//! `spec/replication.md` section 13).

use std::sync::Arc;

use sarsen_protocol::crc::crc32;
use sarsen_protocol::id::{ChunkVersion, Serial};
use sarsen_protocol::id_row::{ID_ROW_LEN, encode_table};
use sarsen_protocol::message::ChunkState;

use super::super::super::chunk_file::ChunkFile;
use super::super::super::layout::{chunk_path, id_table_position, patch_path, sealing_path};
use super::super::super::open_chunk::{IdTable, OpenChunkError};
use super::super::super::recover::sealed_ids;
use super::super::super::region::Tree;
use super::super::super::{BeginOrder, ChunkCopy, Directory, NewCopy, ReadFrom, StoreError};
use super::super::faulty::{Faults, FaultyTree, Survives};
use super::super::scenario::{ADOPTION, START, Sample};
use super::member::{EPOCH, Marks, Member, Model, Op, check};
use super::{BASE, bytes, prepared, reopen};

/// What the chunk is sealed as elsewhere, while the replica here was away.
fn newer() -> Sample {
    Sample {
        version: ChunkVersion(5000),
        ..Sample::new(BASE.handle.0, 70_000)
    }
}

/// A replica that is open in version 1000, patched and appended to.
fn opened(tree: &Arc<dyn Tree>, model: &mut Model) -> Option<Member> {
    let member = Member::start(tree)?;
    member.open(BASE.handle, model, 1000, Some(&BASE))?;
    for op in [
        Op::Append(bytes(2, 3000)),
        Op::Write(70_000, bytes(1, 500)),
        Op::Sync,
        Op::Commit(1),
    ] {
        member.run(BASE.handle, model, &op)?;
    }
    Some(member)
}

/// How the replica goes, and what is here then.
#[derive(Clone, Copy, Debug)]
enum End {
    Deleted,
    Replaced,
}

impl End {
    fn run(self, tree: &Arc<dyn Tree>, model: &mut Model) -> Option<()> {
        let member = opened(tree, model)?;
        match self {
            Self::Deleted => {
                let order = [(BASE.handle, ChunkVersion(1000))];
                member.directory.delete(&order).remove(0).ok()?;
            }
            Self::Replaced => newer().copy(&member.directory).ok()?,
        }
        // The last word may be stable or not.
        let _ = member.write();
        Some(())
    }

    /// Whether it has come to that.
    fn is_reached(self, directory: &Directory) -> bool {
        let entry = directory.entry(BASE.handle);
        match self {
            Self::Deleted => entry.is_none(),
            Self::Replaced => {
                let is_newer = entry.is_some_and(|entry| entry.version == newer().version);
                is_newer && newer().read(directory).unwrap() == newer().bytes
            }
        }
    }
}

/// Either it is still the open replica, or it is gone for good; and a copy can be opened in its turn.
#[test]
fn an_open_replica_goes_whole_or_not_at_all_at_every_crash() {
    for end in [End::Deleted, End::Replaced] {
        let start = prepared();
        let whole = Arc::new(start.going_wrong(Faults::default()));
        let mut model = Model::default();
        end.run(&(whole.clone() as Arc<dyn Tree>), &mut model)
            .unwrap();
        let steps = whole.counts().steps;
        for stop in 0..steps {
            let faulty = Arc::new(start.going_wrong(Faults {
                stop_at: Some(stop),
                ..Faults::default()
            }));
            let mut model = Model::default();
            let was_done = end.run(&(faulty.clone() as Arc<dyn Tree>), &mut model);
            let cuts = [
                Survives::Nothing,
                Survives::Everything,
                Survives::Sectors { seed: stop as u64 },
            ];
            let left = cuts.map(|cut| {
                (
                    format!("{end:?} {stop} {cut:?}"),
                    faulty.after_power_cut(cut),
                )
            });
            let killed = (format!("{end:?} {stop} killed"), faulty.after_kill());
            for (story, tree) in left.into_iter().chain([killed]) {
                check_left(end, tree, &model, was_done.is_some(), &story);
            }
        }
    }
}

fn check_left(end: End, tree: FaultyTree, model: &Model, was_done: bool, story: &str) {
    let (tree, directory) = reopen(tree, story);
    let is_reached = end.is_reached(&directory);
    assert!(is_reached || !was_done, "{story}: came back");
    if !is_reached {
        check(
            &directory,
            BASE.handle,
            model,
            Some(&BASE),
            Marks::None,
            story,
        );
        return;
    }
    assert!(directory.open_chunk(BASE.handle).is_none(), "{story}");
    drop(directory);
    let tree: Arc<dyn Tree> = tree;
    for path in [patch_path(BASE.handle), sealing_path(BASE.handle)] {
        assert!(tree.open(&path).is_err(), "{story}: {path} is nobody's");
    }
    let member = Member::start(&tree).unwrap();
    open_newer(&member, story);
    drop(member);
    let directory = Directory::open_tree(tree, &START).unwrap();
    assert!(!directory.is_poisoned(), "{story}");
    let chunk = directory.open_chunk(BASE.handle);
    assert_eq!(chunk.unwrap().told().version, ChunkVersion(6000), "{story}");
}

/// The newer chunk is copied here if it is not, opened, and appended to.
fn open_newer(member: &Member, story: &str) {
    let sample = newer();
    if member.directory.entry(sample.handle).is_none() {
        sample.copy(&member.directory).unwrap();
    }
    let mut model = Model::default();
    let opened = member.open(sample.handle, &mut model, 6000, Some(&sample));
    assert!(opened.is_some(), "{story}: can't be opened");
    for op in [Op::Append(bytes(3, 10)), Op::Sync] {
        member.run(sample.handle, &mut model, &op).unwrap();
    }
}

/// In the same start, also of a replica that was poisoned: its entries are void although nothing of
/// it is written any more. They were not once, and what the copy was opened with was taken for a
/// history with a hole, which poisons the directory.
#[test]
fn a_copy_takes_the_place_of_a_poisoned_open_replica() {
    for end in [End::Deleted, End::Replaced] {
        let tree: Arc<dyn Tree> = Arc::new(prepared());
        let mut model = Model::default();
        let member = opened(&tree, &mut model).unwrap();
        let stale = member.directory.open_chunk(BASE.handle).unwrap();
        stale.poison();
        match end {
            End::Deleted => {
                let order = [(BASE.handle, ChunkVersion(1000))];
                member.directory.delete(&order).remove(0).unwrap();
                assert_eq!(member.directory.entry(BASE.handle), None);
            }
            End::Replaced => newer().copy(&member.directory).unwrap(),
        }
        assert!(tree.open(&patch_path(BASE.handle)).is_err());
        assert!(matches!(stale.checkpoint(), Err(OpenChunkError::Closed)));
        open_newer(&member, "in the same start");
        drop((member, stale));
        let directory = Directory::open_tree(tree, &START).unwrap();
        assert!(!directory.is_poisoned(), "{end:?}");
        let entry = directory.entry(BASE.handle).unwrap();
        let told = (entry.state, entry.version, entry.flags.poisoned);
        assert_eq!(told, (ChunkState::Open, ChunkVersion(6000), false));
    }
}

/// A start begins its journal with the first version that it is asked for. What ended before was
/// offered to a journal that was not begun, and the word was lost: when the copy was opened in the
/// same start, the next one took the old mutations for a history with a hole, and poisoned the
/// directory (found by the simulator, after a plain power cut).
#[test]
fn what_ends_before_the_journal_begins_is_its_first_word() {
    for end in [End::Deleted, End::Replaced] {
        let tree: Arc<dyn Tree> = Arc::new(prepared());
        drop(opened(&tree, &mut Model::default()).unwrap());
        let directory = Directory::open_tree(Arc::clone(&tree), &START).unwrap();
        directory.adopt(ADOPTION).unwrap();
        if matches!(end, End::Deleted) {
            let order = [(BASE.handle, ChunkVersion(1000))];
            directory.delete(&order).remove(0).unwrap();
        }
        newer().copy(&directory).unwrap();
        let member = Member::begin(directory).unwrap();
        let version = ChunkVersion(6000);
        member
            .directory
            .promise(BASE.handle, version, EPOCH)
            .unwrap();
        let order = BeginOrder {
            handle: BASE.handle,
            version,
            // Above all that the stale replica had.
            serial: Serial(20),
            memory: false,
            create: None,
        };
        member.directory.begin(&order).unwrap();
        assert!(member.write());
        drop(member);
        let directory = Directory::open_tree(tree, &START).unwrap();
        assert!(!directory.is_poisoned(), "{end:?}");
        let told = directory.open_chunk(BASE.handle).unwrap().told();
        assert_eq!((told.version, told.serial), (version, Serial(20)));
    }
}

/// What promised more than the copy's version may be a member of something newer.
#[test]
fn a_copy_replaces_no_replica_that_may_be_newer() {
    let tree: Arc<dyn Tree> = Arc::new(prepared());
    let mut model = Model::default();
    let member = opened(&tree, &mut model).unwrap();
    let directory = &member.directory;
    let newer_still = ChunkVersion(newer().version.0 + 1);
    directory.promise(BASE.handle, newer_still, EPOCH).unwrap();
    let refused = newer().copy(directory);
    assert!(
        matches!(refused, Err(StoreError::OtherState { .. })),
        "{refused:?}"
    );
    check_still_open(directory);
}

/// One that had promised the version of a seal and missed the seal itself was refused its copy for ever,
/// and the chunk stayed short of a replica (found by the simulator).
#[test]
fn a_copy_replaces_a_replica_that_promised_its_version_and_missed_it() {
    let tree: Arc<dyn Tree> = Arc::new(prepared());
    let mut model = Model::default();
    let member = opened(&tree, &mut model).unwrap();
    let directory = &member.directory;
    directory
        .promise(BASE.handle, newer().version, EPOCH)
        .unwrap();
    newer().copy(directory).unwrap();
    assert!(directory.open_chunk(BASE.handle).is_none());
    open_newer(&member, "in the same start");
    drop(member);
    let directory = Directory::open_tree(tree, &START).unwrap();
    let entry = directory.entry(BASE.handle).unwrap();
    let told = (entry.state, entry.version, entry.flags.poisoned);
    assert_eq!(told, (ChunkState::Open, ChunkVersion(6000), false));
}

/// The copy of the newer chunk, made by a master that had given out versions up to this one.
fn begin_copy(directory: &Directory, void_up_to: ChunkVersion) -> Result<ChunkCopy, StoreError> {
    let new = NewCopy {
        void_up_to,
        ..newer().new_copy()
    };
    let copy = directory.begin_copy(&new)?.expect("it is not here");
    newer().fill(&copy)?;
    Ok(copy)
}

/// A stale replica had promised, or begun, a version of an attempt that was given up when its master died, and
/// the chunk stayed at rest in a lower one: each copy of it was refused for ever, and the chunk stayed short
/// of a replica (found by the simulator).
#[test]
fn a_copy_replaces_a_replica_whose_newer_version_came_to_nothing() {
    let given_up = ChunkVersion(newer().version.0 + 1);
    for (is_begun, is_written) in [(false, true), (true, true), (true, false)] {
        let tree: Arc<dyn Tree> = Arc::new(prepared());
        let member = opened(&tree, &mut Model::default()).unwrap();
        let directory = &member.directory;
        directory.promise(BASE.handle, given_up, EPOCH).unwrap();
        let chunk = directory.open_chunk(BASE.handle).unwrap();
        if is_begun {
            let serial = chunk.told().serial;
            chunk.begin(given_up, serial, false).unwrap();
        }
        assert!(member.write());
        let refused = begin_copy(directory, newer().version);
        assert!(
            matches!(refused, Err(StoreError::OtherState { .. })),
            "{refused:?}"
        );
        let copy = begin_copy(directory, given_up).unwrap();
        directory.finish_copy(copy, Serial(9), 7_000).unwrap();
        assert!(directory.open_chunk(BASE.handle).is_none());
        // A crash may come before the journal says so.
        assert!(!is_written || member.write());
        drop((member, chunk));
        let member = Member::start(&tree).unwrap();
        let directory = &member.directory;
        assert!(!directory.is_poisoned(), "{:?}", directory.not_recovered());
        assert!(End::Replaced.is_reached(directory));
        // What comes late of the attempt is refused, and the next one is not.
        assert_eq!(directory.obeyed_from(BASE.handle), given_up);
        assert_eq!(directory.promised_version(BASE.handle), None);
        let late = directory.promise(BASE.handle, given_up, EPOCH);
        assert!(matches!(late, Err(OpenChunkError::Promised { .. })));
        open_newer(&member, "a version that came to nothing");
    }
}

/// A chunk that was begun, and could not go on, is still the sealed chunk that it was begun from. It is told as
/// poisoned in this start, so that to confirm it as that one would be asked for again and again.
#[test]
fn a_copy_replaces_what_can_not_go_on_also_if_it_is_the_same() {
    let tree: Arc<dyn Tree> = Arc::new(prepared());
    let member = Member::start(&tree).unwrap();
    let opened = member.open(BASE.handle, &mut Model::default(), 1000, Some(&BASE));
    opened.unwrap();
    let directory = &member.directory;
    let new = NewCopy {
        void_up_to: ChunkVersion(1000),
        ..BASE.new_copy()
    };
    assert!(directory.begin_copy(&new).unwrap().is_none(), "it is whole");
    directory.open_chunk(BASE.handle).unwrap().doubt();
    let copy = directory.begin_copy(&new).unwrap().expect("to be made");
    BASE.fill(&copy).unwrap();
    directory.finish_copy(copy, Serial(9), 7_000).unwrap();
    assert!(directory.open_chunk(BASE.handle).is_none());
    let entry = directory.entry(BASE.handle).unwrap();
    let told = (entry.state, entry.version, entry.flags.poisoned);
    assert_eq!(told, (ChunkState::Sealed, BASE.version, false));
}

/// What was promised when the copy was under way is of an attempt that its master did not know of.
#[test]
fn a_copy_is_refused_for_what_was_promised_since_it_was_ordered() {
    let tree: Arc<dyn Tree> = Arc::new(prepared());
    let member = opened(&tree, &mut Model::default()).unwrap();
    let directory = &member.directory;
    let given = ChunkVersion(newer().version.0 + 1);
    let copy = begin_copy(directory, given).unwrap();
    let later = ChunkVersion(given.0 + 1);
    directory.promise(BASE.handle, later, EPOCH).unwrap();
    let refused = directory.finish_copy(copy, Serial(9), 7_000);
    assert!(
        matches!(refused, Err(StoreError::OtherState { .. })),
        "{refused:?}"
    );
    check_still_open(directory);
    // What has begun the copy's version itself may be a member of what sealed it.
    let same = ChunkVersion(later.0 + 1);
    directory.promise(BASE.handle, same, EPOCH).unwrap();
    let chunk = directory.open_chunk(BASE.handle).unwrap();
    chunk.begin(same, chunk.told().serial, false).unwrap();
    let new = NewCopy {
        version: same,
        void_up_to: ChunkVersion(same.0 + 9),
        ..newer().new_copy()
    };
    let refused = directory.begin_copy(&new);
    assert!(
        matches!(refused, Err(StoreError::OtherState { .. })),
        "{refused:?}"
    );
}

/// A copy had taken the open replica's place when the sync of its folder failed. What was told was what had been
/// there, open and in the old version, and that went on with a file that had no name any more.
#[test]
fn a_copy_whose_name_is_not_stable_is_told_as_what_is_here() {
    let mut is_met = false;
    for number in 0.. {
        let tree = Arc::new(prepared());
        let member = opened(&(tree.clone() as Arc<dyn Tree>), &mut Model::default()).unwrap();
        let directory = &member.directory;
        let stale = directory.open_chunk(BASE.handle).unwrap();
        let copy = begin_copy(directory, newer().version).unwrap();
        tree.fail_sync_in(number);
        if directory.finish_copy(copy, Serial(9), 7_000).is_ok() {
            break;
        }
        if directory.is_poisoned() {
            is_met = true;
            assert!(directory.open_chunk(BASE.handle).is_none() && stale.told().poisoned);
            let entry = directory.entry(BASE.handle).unwrap();
            let told = (entry.state, entry.version, entry.flags.poisoned);
            assert_eq!(told, (ChunkState::Sealed, newer().version, false));
        }
    }
    assert!(is_met);
}

fn check_still_open(directory: &Directory) {
    let chunk = directory.open_chunk(BASE.handle).unwrap();
    assert_eq!(chunk.told().version, ChunkVersion(1000));
}

/// The ids that the chunk's file has.
fn ids_of(directory: &Directory) -> IdTable {
    let (tree, owner) = (&*directory.tree, directory.owner());
    let file = ChunkFile::open(tree, BASE.handle, owner, true).unwrap();
    sealed_ids(&file).unwrap()
}

/// A copy without them would call *never seen* what was done, and have it done once more.
#[test]
fn a_copy_brings_the_ids_along() {
    let source: Arc<dyn Tree> = Arc::new(prepared());
    let mut model = Model::default();
    let member = opened(&source, &mut model).unwrap();
    for op in [Op::Prepare(None), Op::Settle] {
        member.run(BASE.handle, &mut model, &op).unwrap();
    }
    let version = model.version;
    let sealed = Sample {
        version,
        bytes: model.preparations[&version].bytes.clone(),
        ..BASE.clone()
    };
    let ids = &model.preparations[&version].ids;
    assert_eq!(ids_of(&member.directory), *ids);

    let table = encode_table(&ids.rows());
    let target: Arc<dyn Tree> = Arc::new(FaultyTree::new());
    let directory = super::super::scenario::open(&target).unwrap();
    let mut copy = directory.begin_copy(&sealed.new_copy()).unwrap().unwrap();
    sealed.fill(&copy).unwrap();
    let refused = copy.put_ids(table.clone(), !crc32(&table));
    assert!(matches!(refused, Err(StoreError::IdTableInvalid { .. })));
    copy.put_ids(table.clone(), crc32(&table)).unwrap();
    directory.finish_copy(copy, Serial(9), 7_000).unwrap();
    assert_eq!(sealed.read(&directory).unwrap(), sealed.bytes);
    assert_eq!(ids_of(&directory), *ids);
    drop(directory);
    let directory = Directory::open_tree(Arc::clone(&target), &START).unwrap();
    assert_eq!(ids_of(&directory), *ids);

    // Told to who copies it on, as much at a time as is asked for.
    let chunk = directory.open_for_read(BASE.handle).unwrap();
    let told = [0, 1].map(|first| directory.read_ids(&chunk, first, 1).unwrap());
    assert_eq!(told.concat().concat(), table[..2 * ID_ROW_LEN]);
    let rest = directory.read_ids(&chunk, 2, 1000).unwrap();
    assert_eq!(rest.concat(), table[2 * ID_ROW_LEN..]);
    assert_eq!(
        directory.read_ids(&chunk, 100_000, 1).unwrap(),
        [[0; 32]; 0]
    );
}

/// A table that rotted was never looked at: the replica was good whenever it was read back, and nobody
/// could copy from it, or open it.
#[test]
fn an_id_table_that_rots_is_found_by_reading_back() {
    for from in [ReadFrom::Cache, ReadFrom::Medium] {
        let tree: Arc<dyn Tree> = Arc::new(prepared());
        let mut model = Model::default();
        let member = opened(&tree, &mut model).unwrap();
        for op in [Op::Prepare(None), Op::Settle] {
            member.run(BASE.handle, &mut model, &op).unwrap();
        }
        let directory = &member.directory;
        let found = directory.verify(BASE.handle, from, 1).unwrap();
        assert!(found.is_good(), "{found:?}");
        let file = tree.open(&chunk_path(BASE.handle)).unwrap();
        let position = id_table_position(ADOPTION.chunk_size) + 9;
        let mut byte = [0];
        file.read_at(&mut byte, position).unwrap();
        file.write_at(&[byte[0] ^ 4], position).unwrap();
        file.sync().unwrap();
        let found = directory.verify(BASE.handle, from, 2).unwrap();
        assert!(found.is_id_table_bad && found.bad_blocks.is_empty());
        assert!(directory.entry(BASE.handle).unwrap().flags.corrupt);
    }
}
