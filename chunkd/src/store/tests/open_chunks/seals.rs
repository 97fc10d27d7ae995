//! Open chunks are sealed and opened again, at every crash (`spec/journal.md` sections 7 and 10).

use std::sync::Arc;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, RequestId, Serial, SessionId};
use sarsen_protocol::message::{ChunkState, Level};

use super::super::super::Directory;
use super::super::super::journal::body::MutationKind;
use super::super::super::layout::{chunk_path, patch_path, sealing_path};
use super::super::super::open_chunk::{Incoming, OpenChunkError, Ordered};
use super::super::super::region::{FileTree, Tree};
use super::super::super::{BeginOrder, ReadFrom, StoreError};
use super::super::faulty::{Faults, FaultyTree, Survives};
use super::super::heap::HeapTree;
use super::super::scenario::{START, piece_crcs};
use super::member::{EPOCH, Marks, Member, Model, Op};
use super::{BASE, KIB, MADE, Models, bytes, prepared, reopen, run_start, told_of};

/// Appended to only: the file as it is becomes the sealed one. Twice, so that the second time there
/// are ids that settling writes over.
fn in_place() -> Vec<(ChunkHandle, Op)> {
    let base = BASE.handle;
    let once = |seed| {
        [
            Op::Append(bytes(seed, 900)),
            Op::Append(bytes(seed + 1, 40 * KIB)),
            Op::Sync,
            Op::Commit(1),
            Op::Append(bytes(seed + 2, 70)),
            Op::Prepare(None),
        ]
    };
    let mut ops: Vec<Op> = once(1).into();
    ops.extend([Op::Settle, Op::Reopen]);
    ops.extend(once(5));
    // Void, and made again.
    ops.extend([Op::Prepare(None), Op::Settle]);
    let made = [Op::Append(bytes(9, 3000)), Op::Prepare(None), Op::Settle];
    let ops = ops.into_iter().map(|op| (base, op));
    ops.chain(made.map(|op| (MADE, op))).collect()
}

/// Patched, and cut off; void and gone on with; opened again and sealed without a mutation.
fn beside() -> Vec<(ChunkHandle, Op)> {
    let base = [
        Op::Write(100, bytes(1, 300)),
        Op::Sync,
        Op::Commit(0),
        Op::Prepare(Some(70_000)),
        Op::Change(0),
        Op::Append(bytes(2, 500)),
        Op::Write(140_000, bytes(3, 34 * KIB)),
        Op::Sync,
        Op::Prepare(None),
        Op::Settle,
        Op::Reopen,
        Op::Prepare(None),
        Op::Settle,
    ];
    let made = [
        Op::Append(bytes(4, 70 * KIB)),
        Op::Sync,
        Op::Prepare(Some(66_000)),
        Op::Settle,
        Op::Reopen,
        Op::Append(bytes(5, 100)),
        Op::Sync,
    ];
    let base = base.map(|op| (BASE.handle, op)).into_iter();
    base.chain(made.map(|op| (MADE, op))).collect()
}

fn run(tree: &Arc<dyn Tree>, ops: &[(ChunkHandle, Op)]) -> (Models, bool) {
    let mut models = Models::default();
    let is_whole = run_start(tree, ops, &mut models).is_some();
    (models, is_whole)
}

/// What was found prepared is settled by another start when that is ordered.
fn settle_found(tree: &Arc<dyn Tree>, models: &Models, story: &str) {
    let mut models = models.clone();
    let member = Member::start(tree).unwrap_or_else(|| panic!("{story}: no start"));
    for handle in [BASE.handle, MADE] {
        let Some(chunk) = member.directory.open_chunk(handle) else {
            continue;
        };
        let told = chunk.told();
        if told.prepared.is_some() {
            let model = models.of(handle);
            (model.version, model.serial) = (told.version, told.serial);
            let settled = member.settle(handle, model);
            assert!(settled.is_some(), "{story}: {handle} can't be settled");
            model.told_begun = told.version;
        }
    }
    models.check(&member.directory, Marks::None, story);
    drop(member);
    let directory = Directory::open_tree(Arc::clone(tree), &START).unwrap();
    models.check(&directory, Marks::None, story);
    for handle in [BASE.handle, MADE] {
        if directory.open_chunk(handle).is_none() {
            assert!(tree.open(&patch_path(handle)).is_err(), "{story}");
            assert!(tree.open(&sealing_path(handle)).is_err(), "{story}");
        }
    }
}

pub(super) fn stop_everywhere(ops: &[(ChunkHandle, Op)]) {
    let start = prepared();
    let whole = Arc::new(start.going_wrong(Faults::default()));
    let (models, is_whole) = run(&(whole.clone() as Arc<dyn Tree>), ops);
    let steps = whole.counts().steps;
    assert!(is_whole && steps > 80, "{steps}");
    let (_, directory) = reopen(whole.after_kill(), "whole");
    models.check(&directory, Marks::None, "whole");
    drop(directory);
    for stop in 0..steps {
        let faulty = Arc::new(start.going_wrong(Faults {
            stop_at: Some(stop),
            ..Faults::default()
        }));
        let (models, _) = run(&(faulty.clone() as Arc<dyn Tree>), ops);
        let seeds = (stop as u64 * 8..).take(2);
        let cuts = [Survives::Nothing, Survives::Everything].into_iter();
        for survives in cuts.chain(seeds.map(|seed| Survives::Sectors { seed })) {
            let story = format!("power cut at {stop}, {survives:?}");
            let (tree, directory) = reopen(faulty.after_power_cut(survives), &story);
            models.check(&directory, Marks::None, &story);
            let told = told_of(&directory);
            drop(directory);
            let story = format!("{story}, and another");
            let (tree, directory) = reopen(tree.after_power_cut(Survives::Nothing), &story);
            models.check(&directory, Marks::None, &story);
            assert_eq!(told_of(&directory), told, "{story}");
            drop(directory);
            settle_found(&(tree as Arc<dyn Tree>), &models, &story);
        }
        let story = format!("killed at {stop}");
        let (tree, directory) = reopen(faulty.after_kill(), &story);
        models.check(&directory, Marks::None, &story);
        drop(directory);
        settle_found(&(tree as Arc<dyn Tree>), &models, &story);
    }
}

/// Settling in place wrote the id table over the base's before the header was the new one: a crash in
/// between left an open chunk whose base had no ids to replay from, and it was corrupt on every member
/// that was settling.
#[test]
fn a_seal_in_place_is_found_at_every_crash() {
    stop_everywhere(&in_place());
}

#[test]
fn a_seal_beside_the_chunk_is_found_at_every_crash() {
    stop_everywhere(&beside());
}

#[test]
fn a_failed_sync_of_a_seal_marks_and_never_lies() {
    let start = prepared();
    for ops in [in_place(), beside()] {
        let whole = Arc::new(start.going_wrong(Faults::default()));
        run(&(whole.clone() as Arc<dyn Tree>), &ops);
        for fail in 0..whole.counts().syncs {
            let faulty = Arc::new(start.going_wrong(Faults {
                fail_sync: Some(fail),
                ..Faults::default()
            }));
            let (models, _) = run(&(faulty.clone() as Arc<dyn Tree>), &ops);
            for survives in [Survives::Nothing, Survives::Sectors { seed: fail as u64 }] {
                let story = format!("sync {fail} failed, power cut, {survives:?}");
                let (_, directory) = reopen(faulty.after_power_cut(survives), &story);
                models.check(&directory, Marks::Allowed, &story);
            }
            let story = format!("sync {fail} failed, killed");
            let (_, directory) = reopen(faulty.after_kill(), &story);
            models.check(&directory, Marks::Allowed, &story);
        }
    }
}

#[test]
fn a_seal_is_the_same_over_every_tree() {
    let folder = tempfile::tempdir().unwrap();
    for (name, ops) in [("in place", in_place()), ("beside", beside())] {
        let trees: [Arc<dyn Tree>; 3] = [
            Arc::new(HeapTree::new()),
            Arc::new(FaultyTree::new()),
            Arc::new(FileTree::lock(&folder.path().join(name)).unwrap()),
        ];
        for tree in trees {
            let directory = super::super::scenario::open(&tree).unwrap();
            BASE.store(&directory, Level::Disk).unwrap();
            drop(directory);
            let (models, is_whole) = run(&tree, &ops);
            assert!(is_whole, "{name}");
            let directory = Directory::open_tree(Arc::clone(&tree), &START).unwrap();
            models.check(&directory, Marks::None, name);
        }
    }
}

/// A tree on the heap with a chunk that was made, with some bytes, and what its seal is.
fn with_preparation() -> (Arc<dyn Tree>, Member, Models) {
    let tree: Arc<dyn Tree> = Arc::new(HeapTree::new());
    let directory = super::super::scenario::open(&tree).unwrap();
    BASE.store(&directory, Level::Disk).unwrap();
    drop(directory);
    let member = Member::start(&tree).unwrap();
    let mut models = Models::default();
    member.open(MADE, &mut models.made, 2000, None).unwrap();
    for op in [Op::Append(bytes(1, 90_000)), Op::Sync, Op::Prepare(None)] {
        member.run(MADE, &mut models.made, &op).unwrap();
    }
    (tree, member, models)
}

/// Another version, length or CRC settles nothing, and a preparation is void when a version begins.
#[test]
fn what_was_not_prepared_is_not_settled() {
    let (_tree, member, mut models) = with_preparation();
    let directory = &member.directory;
    let chunk = directory.open_chunk(MADE).unwrap();
    let prepared = chunk.told().prepared;
    let settle = |version, length, crc32| directory.settle(MADE, version, length, crc32);
    let other_crc = settle(prepared.version, prepared.length, !prepared.crc32);
    let other_length = settle(prepared.version, 1, prepared.crc32);
    for refused in [other_crc, other_length] {
        assert!(
            matches!(
                refused,
                Err(OpenChunkError::Store(StoreError::SealMismatch { .. }))
            ),
            "{refused:?}"
        );
    }
    let other = settle(ChunkVersion(77), prepared.length, prepared.crc32);
    assert!(matches!(other, Err(OpenChunkError::NotPrepared { .. })));
    let mutated = chunk.apply(prepared.version, Serial(prepared.serial.0 + 1), &[]);
    assert!(
        matches!(mutated, Err(OpenChunkError::NotActive { .. })),
        "no mutations behind a seal: {mutated:?}"
    );

    member.run(MADE, &mut models.made, &Op::Change(0)).unwrap();
    let void = settle(prepared.version, prepared.length, prepared.crc32);
    assert!(matches!(void, Err(OpenChunkError::NotPrepared { .. })));
    assert!(!directory.entry(MADE).unwrap().is_prepared);
    let late = chunk.prepare_seal(prepared.version, None, SessionId(3));
    assert!(matches!(late, Err(OpenChunkError::Promised { .. })));
}

/// Whoever still has the chunk gets nothing done once it is settled: an entry behind `settled` would
/// make it an open chunk again at the next start. What was promised above the sealed version binds on.
#[test]
fn a_settled_chunk_is_open_no_more_and_keeps_its_promise() {
    let (tree, member, mut models) = with_preparation();
    let directory = &member.directory;
    let chunk = directory.open_chunk(MADE).unwrap();
    let reader = chunk.snapshot();
    let promised = ChunkVersion(models.made.version.0 + 1);
    directory.promise(MADE, promised, EPOCH).unwrap();
    member.settle(MADE, &mut models.made).unwrap();
    assert!(directory.open_chunk(MADE).is_none());
    for refused in [
        chunk.checkpoint().err(),
        chunk.flush().err(),
        chunk.promise(ChunkVersion(9000), EPOCH).err(),
        chunk.begin(promised, Serial(8), false).err(),
    ] {
        assert!(
            matches!(refused, Some(OpenChunkError::Closed)),
            "{refused:?}"
        );
    }
    // What was being read stays readable.
    let expected = &models.made.preparations[&models.made.version].bytes;
    assert!(reader.length() == 0 || reader.read_block(0).unwrap() == expected[..64 * KIB]);
    drop((reader, chunk));
    let refused = directory.promise(MADE, promised, EPOCH);
    assert!(matches!(refused, Err(OpenChunkError::Promised { .. })));
    drop(member);
    for _ in 0..2 {
        let member = Member::start(&tree).unwrap();
        let refused = member.directory.promise(MADE, promised, EPOCH);
        assert!(
            matches!(refused, Err(OpenChunkError::Promised { .. })),
            "after a restart: {refused:?}"
        );
    }
}

/// A snapshot reads as a sealed chunk does, from the chunk file and from slots.
#[test]
fn a_snapshot_reads_like_a_sealed_chunk() {
    let (_tree, member, mut models) = with_preparation();
    for op in [
        Op::Change(0),
        Op::Write(10, bytes(2, 100)),
        Op::Append(bytes(3, 70_000)),
        Op::Sync,
        Op::Commit(0),
        Op::Append(bytes(4, 10)),
    ] {
        member.run(MADE, &mut models.made, &op).unwrap();
    }
    let chunk = member.directory.open_chunk(MADE).unwrap();
    let snapshot = chunk.snapshot();
    let model = &models.made;
    let expected = &model.chains[&model.version][&snapshot.serial];
    assert_eq!(snapshot.serial.0 + 1, model.serial.0, "what is committed");
    assert_eq!(snapshot.length() as usize, expected.len());
    assert!(!snapshot.is_in_chunk_file(0) && snapshot.is_in_chunk_file(1));
    for (offset, len) in [(0, 160_010), (65_530, 20), (5, 64 * KIB), (159_990, 500)] {
        let mut read = vec![0; len];
        let count = snapshot.read_at(&mut read, offset).unwrap();
        let from = offset as usize;
        let there = &expected[from..expected.len().min(from + len)];
        assert!(read[..count] == *there, "{offset} {len}");
    }
    let crcs = expected.chunks(64 * KIB).map(sarsen_protocol::crc::crc32);
    let told = (0..3).map(|index| snapshot.block_crc(index).unwrap());
    assert!(told.eq(crcs));
    assert_eq!(snapshot.block_crc(3), None);
}

/// Room for the sealed form was made when there was room: a full disk refuses mutations, and no seal.
#[test]
fn a_full_disk_refuses_no_seal() {
    for patch in [false, true] {
        let faulty = Arc::new(FaultyTree::new());
        let tree: Arc<dyn Tree> = faulty.clone();
        drop(super::super::scenario::open(&tree).unwrap());
        let member = Member::start(&tree).unwrap();
        let mut model = super::member::Model::default();
        member.open(MADE, &mut model, 2000, None).unwrap();
        let mut ops = vec![Op::Append(bytes(1, 90_000))];
        ops.extend(patch.then(|| Op::Write(10, bytes(2, 100))));
        ops.push(Op::Sync);
        for op in &ops {
            member.run(MADE, &mut model, op).unwrap();
        }
        faulty.fill();
        for op in [Op::Prepare(None), Op::Settle] {
            member.run(MADE, &mut model, &op).unwrap();
        }
        let entry = member.directory.entry(MADE).unwrap();
        assert_eq!(entry.state, ChunkState::Sealed, "patched: {patch}");
    }
}

/// Room was made for the rows that mutations add, and not for the one that a seal does: where they filled it
/// to the last, a full disk refused the seal.
#[test]
fn a_full_disk_has_room_for_the_row_that_a_seal_adds() {
    for patch in [false, true] {
        let faulty = Arc::new(FaultyTree::new());
        let tree: Arc<dyn Tree> = faulty.clone();
        let member = Member::start(&tree).unwrap();
        let mut model = Model::default();
        member.open(MADE, &mut model, 2000, None).unwrap();
        let first = Op::Append(bytes(1, 70_000));
        let second = match patch {
            true => Op::Write(10, bytes(2, 100)),
            false => Op::Append(bytes(2, 100)),
        };
        for op in [first, second] {
            member.run(MADE, &mut model, &op).unwrap();
        }
        let chunk = member.directory.open_chunk(MADE).unwrap();
        // Room is made for 64 KiB at a time. Each is a session's first, with a row and a floor.
        while chunk.told().ids < 2048 {
            let told = chunk.told();
            let pieces = piece_crcs(told.length, &[7]);
            let request = RequestId {
                session: SessionId(told.serial.0),
                number: 5,
                lowest_outstanding: 5,
            };
            let incoming = Incoming {
                request: Some(request),
                kind: MutationKind::Append,
                offset: told.length,
                length: 1,
                pieces: &pieces,
            };
            let append = [Ordered {
                incoming,
                bytes: &[7],
            }];
            let serial = Serial(told.serial.0 + 1);
            chunk.apply(told.version, serial, &append).unwrap();
        }
        assert_eq!(chunk.told().ids, 2048);
        let next = ChunkVersion(3000);
        chunk.promise(next, EPOCH).unwrap();
        chunk.begin(next, chunk.told().serial, false).unwrap();
        assert!(member.write());
        faulty.fill();
        let (prepared, _) = chunk.prepare_seal(next, None, SessionId(3)).unwrap();
        let rows = prepared.id_table_length / 32;
        assert_eq!(rows, 2049, "patched: {patch}");
    }
}

/// A sealed chunk was being read back when it was opened and appended to, which reads none of its old
/// blocks. That one had rotted was marked in its header, and the open chunk was not told: settled in place
/// it got a header without the mark, and counted as good.
#[test]
fn a_mark_that_comes_while_a_chunk_is_opened_stays() {
    for is_begun_first in [false, true] {
        let tree: Arc<dyn Tree> = Arc::new(prepared());
        let member = Member::start(&tree).unwrap();
        let directory = &member.directory;
        let mut model = Model::default();
        let seen = directory.table.held(BASE.handle).unwrap();
        let open = |model: &mut Model| member.open(BASE.handle, model, 1000, Some(&BASE));
        if is_begun_first {
            open(&mut model).unwrap();
            let append = [Op::Append(bytes(1, 900)), Op::Sync, Op::Prepare(None)];
            for op in append {
                member.run(BASE.handle, &mut model, &op).unwrap();
            }
        }
        directory.mark_corrupt(&seen).unwrap();
        let settled = match is_begun_first {
            true => member.settle(BASE.handle, &mut model),
            false => open(&mut model),
        };
        assert_eq!(settled, None);
        let is_told = |directory: &Directory| {
            let flags = directory.entry(BASE.handle).unwrap().flags;
            (flags.corrupt, flags.poisoned)
        };
        assert_eq!(is_told(directory), (true, is_begun_first));
        drop(member);
        let directory = Directory::open_tree(tree, &START).unwrap();
        assert!(directory.entry(BASE.handle).unwrap().flags.corrupt);
        assert!(directory.open_chunk(BASE.handle).is_none());
    }
}

/// The file and the table's entry were made before the journal took the beginning. When it refused,
/// asking again found the chunk to exist already, until a restart, which called it corrupt.
#[test]
fn a_chunk_that_the_journal_did_not_take_can_be_made_again() {
    let tree: Arc<dyn Tree> = Arc::new(HeapTree::new());
    drop(super::super::scenario::open(&tree).unwrap());
    let member = Member::start(&tree).unwrap();
    let order = BeginOrder {
        handle: MADE,
        version: ChunkVersion(2000),
        serial: Serial(1),
        memory: false,
        create: Some((sarsen_protocol::id::FileId(5), 2)),
    };
    member.log.refuse(true);
    let refused = member.directory.begin(&order);
    assert!(
        matches!(refused, Err(OpenChunkError::Journal(_))),
        "{refused:?}"
    );
    assert_eq!(member.directory.entry(MADE), None);
    member.log.refuse(false);
    member.directory.begin(&order).unwrap();
    assert!(member.write());
    drop(member);
    let directory = Directory::open_tree(tree, &START).unwrap();
    assert!(directory.open_chunk(MADE).is_some());
}

/// A chunk that was made open could not be read back at all, and of one that was opened the sealed chunk
/// was that it had been: members that differed at a seal all said that they could not tell, or that all
/// was well, and a reader's complaint about an open chunk came to nothing.
#[test]
fn an_open_chunk_is_read_back_as_what_it_is() {
    type Spoil = (&'static str, fn(&str) -> bool, u64);
    let is_chunk = |path: &str| path == chunk_path(MADE);
    let spoils: [Spoil; 3] = [
        ("nothing", |_| false, 0),
        ("a block in its own room", is_chunk, 8192 + 70_000),
        ("a slot", |path| path == patch_path(MADE), 4096 + 20),
    ];
    for from in [ReadFrom::Cache, ReadFrom::Medium] {
        for (story, is_spoiled, at) in spoils {
            for is_prepared in [false, true] {
                let (tree, member, mut models) = with_preparation();
                for op in [
                    Op::Change(0),
                    Op::Write(10, bytes(2, 100)),
                    Op::Sync,
                    Op::Commit(0),
                ] {
                    member.run(MADE, &mut models.made, &op).unwrap();
                }
                let story = format!("{story}, {from:?}, prepared: {is_prepared}");
                let directory = &member.directory;
                let good = directory.verify(MADE, from, 7).unwrap();
                let newest = models.made.chains[&models.made.version].values().last();
                let newest = newest.unwrap();
                let expected = (newest.len(), sarsen_protocol::crc::crc32(newest));
                assert_eq!((good.length as usize, good.crc32), expected, "{story}");
                assert!(good.is_good(), "{story}");
                if is_prepared {
                    let prepare = [Op::Change(0), Op::Prepare(None)];
                    for op in prepare {
                        member.run(MADE, &mut models.made, &op).unwrap();
                    }
                }
                for path in [chunk_path(MADE), patch_path(MADE)] {
                    if is_spoiled(&path) {
                        let region = tree.open(&path).unwrap();
                        region.write_at(&[0xee], at).unwrap();
                        region.sync().unwrap();
                    }
                }
                let is_good = story.starts_with("nothing");
                let found = directory.verify(MADE, from, 8).unwrap();
                assert_eq!(found.is_good(), is_good, "{story}");
                let entry = directory.entry(MADE).unwrap();
                assert_eq!(entry.flags.poisoned, !is_good, "{story}");
                let promised = directory.promise(MADE, ChunkVersion(9_999_999), EPOCH);
                assert_eq!(promised.is_ok(), is_good, "{story}: {promised:?}");
            }
        }
    }
}

/// What is settled is the form beside the chunk: it has to be what was prepared.
#[test]
fn a_prepared_form_is_read_back_too() {
    let (tree, member, mut models) = with_preparation();
    for op in [
        Op::Change(0),
        Op::Write(10, bytes(2, 100)),
        Op::Sync,
        Op::Commit(0),
        Op::Change(0),
        Op::Prepare(None),
    ] {
        member.run(MADE, &mut models.made, &op).unwrap();
    }
    let directory = &member.directory;
    assert!(
        directory
            .verify(MADE, ReadFrom::Medium, 7)
            .unwrap()
            .is_good()
    );
    let form = tree.open(&sealing_path(MADE)).unwrap();
    form.write_at(&[0xee], 8192 + 5).unwrap();
    form.sync().unwrap();
    assert!(
        !directory
            .verify(MADE, ReadFrom::Medium, 8)
            .unwrap()
            .is_good()
    );
    assert!(directory.entry(MADE).unwrap().flags.poisoned);
}

/// What could not be read for want of memory poisoned the chunk.
#[test]
fn want_of_memory_poisons_no_open_chunk() {
    let faulty = Arc::new(prepared());
    let tree: Arc<dyn Tree> = faulty.clone();
    let member = Member::start(&tree).unwrap();
    let mut model = Model::default();
    member.open(MADE, &mut model, 2000, None).unwrap();
    let bytes = Op::Append(bytes(1, 100 * KIB));
    for ops in [&[bytes, Op::Sync, Op::Commit(0)][..], &[Op::Prepare(None)]] {
        for op in ops {
            member.run(MADE, &mut model, op).unwrap();
        }
        faulty.be_short_of_memory(Some(0));
        let found = member.directory.verify(MADE, ReadFrom::Medium, 1);
        assert!(found.is_err(), "{found:?}");
        faulty.be_short_of_memory(None);
        assert!(!member.directory.open_chunk(MADE).unwrap().told().poisoned);
        let found = member.directory.verify(MADE, ReadFrom::Medium, 2);
        assert!(found.unwrap().is_good());
    }
}
