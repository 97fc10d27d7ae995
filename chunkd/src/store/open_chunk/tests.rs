//! Named cases of an open chunk's bookkeeping: what went wrong once in thought or design, and what is
//! refused. The states as a whole are looked at in [`model`].

mod history;
mod model;

use sarsen_protocol::id::{ChunkVersion, RequestId, Serial, SessionId};
use sarsen_protocol::id_row::{ID_ROWS_MAX, IdRow, IdRowKind};

use super::super::journal::body::{Block, Mutation, MutationKind, Place};
use super::{ApplyError, IdTable, Incoming, Lookup, Resting, SerialError, State};
use model::{BLOCK, CHUNK_SIZE, Disk, pieces_of};

/// A chunk of some appended bytes, all of it committed and in its place.
fn chunk_of(len: u32) -> (State, Disk) {
    let mut state = State::at_rest(CHUNK_SIZE, ChunkVersion(1), Serial(0), Resting::default());
    let mut disk = Disk::new();
    write(&mut state, &mut disk, 0, &vec![b'a'; len as usize]).unwrap();
    state.commit_to(Serial(1)).unwrap();
    state.checkpoint_is_stable(Serial(1)).unwrap();
    (state, disk)
}

fn write(
    state: &mut State,
    disk: &mut Disk,
    offset: u32,
    bytes: &[u8],
) -> Result<Mutation, ApplyError> {
    let plan = state.plan(&Incoming {
        request: None,
        kind: MutationKind::Write,
        offset,
        length: u32::try_from(bytes.len()).unwrap(),
        pieces: &pieces_of(offset, bytes),
    })?;
    let crcs = disk.carry_out(&plan, bytes);
    let mutation = plan.mutation(&crcs, true).unwrap();
    state.apply(Serial(state.serial().0 + 1), &mutation)?;
    Ok(mutation)
}

fn slots_of(mutation: &Mutation) -> Vec<u32> {
    let slot = |block: &Block| match block.place {
        Place::OwnRoom => None,
        Place::Slot(slot) => Some(slot),
    };
    mutation.blocks.iter().filter_map(slot).collect()
}

/// A small write k patched a block: its bytes were stable in the journal, the new block was only in
/// the page cache, and k was committed. The slot of the old block was used again and written back;
/// a power cut left the journal's bytes and nothing to put them into.
#[test]
fn a_slot_is_used_again_only_behind_a_checkpoint() {
    let (mut state, mut disk) = chunk_of(1000);
    let first = slots_of(&write(&mut state, &mut disk, 10, b"one").unwrap());
    let second = slots_of(&write(&mut state, &mut disk, 20, b"two").unwrap());
    assert_eq!((first, second), (vec![0], vec![1]));
    state.commit_to(Serial(3)).unwrap();
    // Committed, and stable in the journal for all we know.
    let third = slots_of(&write(&mut state, &mut disk, 30, b"three").unwrap());
    assert_eq!(third, [2]);
    // A checkpoint below the mutation that replaced the slot says nothing about it.
    state.checkpoint_is_stable(Serial(2)).unwrap();
    assert!(!state.slot_is_free(0));
    state.checkpoint_is_stable(Serial(3)).unwrap();
    assert!(state.slot_is_free(0) && !state.slot_is_free(1));
    let fourth = slots_of(&write(&mut state, &mut disk, 40, b"four").unwrap());
    assert_eq!(fourth, [0]);
    // What is not committed is no checkpoint: it may yet be gone back from.
    let refused = state.checkpoint_is_stable(Serial(4));
    let committed = Serial(3);
    let asked = Serial(4);
    assert_eq!(refused, Err(SerialError::NotCommitted { committed, asked }));
}

/// A read may leave the machine long after its call has returned; with equal CRCs nobody would
/// notice that the slot holds another block by then.
#[test]
fn a_slot_that_is_read_is_not_used_again() {
    let (mut state, mut disk) = chunk_of(1000);
    write(&mut state, &mut disk, 10, b"one").unwrap();
    state.commit_to(Serial(2)).unwrap();
    let read = state.committed().clone();
    state.begin_read(&read);
    write(&mut state, &mut disk, 20, b"two").unwrap();
    state.commit_to(Serial(3)).unwrap();
    state.checkpoint_is_stable(Serial(3)).unwrap();
    assert!(!state.slot_is_free(0));
    state.end_read(&read);
    assert!(state.slot_is_free(0));
}

/// An order to begin that is sent again must not cut what its version has done since.
#[test]
fn a_version_begins_once_and_never_below_what_is_committed() {
    let (mut state, mut disk) = chunk_of(1000);
    for offset in [10, 20, 30] {
        write(&mut state, &mut disk, offset, b"bytes").unwrap();
    }
    state.commit_to(Serial(2)).unwrap();
    let (committed, asked) = (Serial(2), Serial(1));
    let below = state.begin(ChunkVersion(2), asked);
    assert_eq!(below, Err(SerialError::Committed { committed, asked }));
    let (applied, asked) = (Serial(4), Serial(5));
    let above = state.begin(ChunkVersion(2), asked);
    assert_eq!(above, Err(SerialError::NotApplied { applied, asked }));
    assert_eq!(state.serial(), Serial(4));

    state.begin(ChunkVersion(2), Serial(3)).unwrap();
    assert_eq!(
        (state.version(), state.begin_serial()),
        (ChunkVersion(2), Serial(3))
    );
    // The forgotten block's slot is free when the beginning is stable.
    assert!(!state.slot_is_free(2));
    state.begun_is_stable(ChunkVersion(2));
    assert!(state.slot_is_free(2));
    write(&mut state, &mut disk, 40, b"more").unwrap();
    let again = state.begin(ChunkVersion(2), Serial(3));
    assert_eq!(again, Err(SerialError::OldVersion));
    assert_eq!(state.serial(), Serial(4));
}

#[test]
fn a_patch_file_that_is_full_refuses_before_anything_is_written() {
    let (mut state, mut disk) = chunk_of(1000);
    for _ in 0..4096 {
        let mutation = write(&mut state, &mut disk, 10, b"x").unwrap();
        assert_eq!(slots_of(&mutation).len(), 1);
        disk.slots.clear();
        disk.slots.insert(slots_of(&mutation)[0], {
            let mut block = vec![b'a'; BLOCK];
            block[10] = b'x';
            block
        });
    }
    let serial = state.serial();
    assert_eq!(
        write(&mut state, &mut disk, 10, b"x"),
        Err(ApplyError::NoSlot)
    );
    assert_eq!(state.serial(), serial);
    // Behind its bytes there is no need of one.
    write(&mut state, &mut disk, 1000, b"x").unwrap();
}

#[test]
fn mutations_that_are_none_are_refused_and_change_nothing() {
    let (mut state, mut disk) = chunk_of(1000);
    let good = write(&mut state, &mut disk, 990, b"twenty bytes, really").unwrap();
    let before = (state.applied().clone(), state.ids().clone());
    let block = |place| Block { place, crc32: 1 };
    let with = |change: &dyn Fn(&mut Mutation)| {
        let mut mutation = good.clone();
        change(&mut mutation);
        mutation
    };
    let slot_in_use = good.blocks[0].place;
    let free = Place::Slot(9);
    for (mutation, error) in [
        (with(&|m| m.length = 0), ApplyError::OutOfBounds),
        (with(&|m| m.offset = u32::MAX), ApplyError::OutOfBounds),
        (with(&|m| m.length = CHUNK_SIZE), ApplyError::OutOfBounds),
        (
            with(&|m| m.kind = MutationKind::Append),
            ApplyError::NotAtTheEnd,
        ),
        // In place, over bytes; in a slot that is in use; or in none that there is.
        (
            with(&|m| m.blocks = vec![block(Place::OwnRoom)]),
            ApplyError::OtherBlocks,
        ),
        (
            with(&|m| m.blocks = vec![block(slot_in_use)]),
            ApplyError::OtherBlocks,
        ),
        (
            with(&|m| m.blocks = vec![block(Place::Slot(4096))]),
            ApplyError::OtherBlocks,
        ),
        // Elsewhere, although it follows what is there.
        (
            with(&|m| (m.offset, m.blocks) = (1010, vec![block(free)])),
            ApplyError::OtherBlocks,
        ),
        // A gap that is none, one that is not told, one block too many.
        (with(&|m| m.has_gap = true), ApplyError::OtherBlocks),
        (
            with(&|m| (m.offset, m.blocks) = (2000, vec![block(slot_in_use)])),
            ApplyError::OtherBlocks,
        ),
        (
            with(&|m| m.blocks = vec![block(free), block(Place::Slot(10))]),
            ApplyError::OtherBlocks,
        ),
    ] {
        assert_eq!(
            state.apply(Serial(3), &mutation),
            Err(error),
            "{mutation:?}"
        );
        assert_eq!(state.plan_again(&mutation), Err(error));
    }
    let twice = with(&|m| {
        (m.offset, m.length) = (10, 65_530);
        m.blocks = vec![block(free), block(free)];
    });
    assert_eq!(state.apply(Serial(3), &twice), Err(ApplyError::OtherBlocks));
    for given in [0, 2, 4].map(Serial) {
        let applied = Serial(2);
        let refused = state.apply(given, &good);
        assert_eq!(refused, Err(ApplyError::OtherSerial { applied, given }));
    }
    assert_eq!((state.applied().clone(), state.ids().clone()), before);
}

#[test]
fn the_table_tells_what_was_done_and_what_is_forgotten() {
    let mut ids = IdTable::default();
    let request = |number, lowest_outstanding| RequestId {
        session: SessionId(5),
        number,
        lowest_outstanding,
    };
    let row = |number| IdRow {
        session: SessionId(5),
        number,
        kind: IdRowKind::Append,
        offset: 1,
        length: 2,
        crc32: 3,
    };
    ids.apply(&request(1, 1), row(1)).unwrap();
    ids.apply(&request(2, 1), row(2)).unwrap();
    let before = ids.clone();
    let change = ids.apply(&request(4, 2), row(4)).unwrap();
    let find = |ids: &IdTable, number| ids.find(SessionId(5), number);
    assert_eq!(find(&ids, 1), Lookup::Forgotten);
    assert_eq!(find(&ids, 2), Lookup::Row(row(2)));
    assert_eq!(find(&ids, 3), Lookup::Unknown);
    assert_eq!(ids.find(SessionId(4), 1), Lookup::Unknown);
    for done in [1, 2, 4] {
        assert!(ids.apply(&request(done, 1), row(done)).is_err());
    }
    let sealed = ids.sealed(SessionId(6));
    assert_eq!(find(&sealed, 2), Lookup::SessionEnded);
    assert_eq!(sealed.rows().len(), 1);
    assert_eq!(ids.sealed(SessionId(5)).rows().len(), ids.len() + 1);
    // Ended sessions never come back, whatever a later seal says.
    assert_eq!(sealed.sealed(SessionId(3)), sealed);
    ids.undo(&change);
    assert_eq!(ids, before);
}

/// A table took rows until it was full, and the seal added one: no such table is told, nor read again, so
/// that the chunk was never sealed, and none of its members was heard of it any more.
#[test]
fn a_full_table_has_a_place_for_what_its_seal_adds() {
    let mut ids = IdTable::default();
    let apply = |ids: &mut IdTable, session, number, lowest_outstanding| {
        let session = SessionId(session);
        let row = IdRow {
            session,
            number,
            kind: IdRowKind::Append,
            offset: 0,
            length: 1,
            crc32: 0,
        };
        let request = RequestId {
            session,
            number,
            lowest_outstanding,
        };
        ids.apply(&request, row).is_ok()
    };
    let mut number = 1;
    while apply(&mut ids, 5, number, 1) {
        number += 1;
    }
    // A row and a floor at once.
    for session in 6..9 {
        let _ = apply(&mut ids, session, 2, 2);
    }
    let sealed = ids.sealed(SessionId(1));
    assert_eq!(sealed.len(), ids.len() + 1);
    assert!((ID_ROWS_MAX - 2..=ID_ROWS_MAX).contains(&sealed.len()));
}
