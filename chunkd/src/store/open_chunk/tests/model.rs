//! An open chunk's bookkeeping beside plain bytes: every state that may be asked for, gone back to
//! or rebuilt is whole on a disk of which everything else is garbage (`spec/journal.md` section 4).

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use sarsen_protocol::crc::crc32;
use sarsen_protocol::id::{ChunkVersion, RequestId, Serial, SessionId};
use sarsen_protocol::id_row::{IdRow, IdRowKind};
use sarsen_protocol::size::{BLOCK_LEN, piece_lens};

use super::super::super::journal::body::{Block, Mutation, MutationKind, Place};
use super::super::{Content, IdTable, Incoming, Plan, Resting, State, Way};

pub(super) const BLOCK: usize = BLOCK_LEN as usize;

/// Five blocks: what a chunk is on a disk is the same in all of them.
pub(super) const CHUNK_SIZE: u32 = 5 * BLOCK_LEN;

/// The chunk's file and its patch file.
#[derive(Clone)]
pub(super) struct Disk {
    rooms: Vec<u8>,
    pub(super) slots: BTreeMap<u32, Vec<u8>>,
}

impl Disk {
    pub(super) fn new() -> Self {
        Self {
            rooms: vec![0xee; CHUNK_SIZE as usize],
            slots: BTreeMap::new(),
        }
    }

    fn place(&mut self, place: Place, index: usize) -> &mut [u8] {
        match place {
            Place::OwnRoom => &mut self.rooms[index * BLOCK..][..BLOCK],
            Place::Slot(slot) => self.slots.entry(slot).or_insert_with(|| vec![0xdd; BLOCK]),
        }
    }

    /// Does what a plan says, and gives the CRCs of the patched blocks.
    pub(super) fn carry_out(&mut self, plan: &Plan, bytes: &[u8]) -> Vec<u32> {
        let mut crcs = Vec::new();
        for block in &plan.blocks {
            let [zeros, to] =
                [&block.zeros, &block.bytes].map(|range| range.start as usize..range.end as usize);
            let from = &bytes[block.source.min(u32::try_from(bytes.len()).unwrap()) as usize..];
            let from = &from[..to.len()];
            match block.way {
                Way::Behind { .. } => {
                    let room = self.place(block.place, block.index);
                    room[zeros].fill(0);
                    room[to].copy_from_slice(from);
                }
                Way::Patched { old, old_len } => {
                    let mut built = self.place(old.place, block.index).to_vec();
                    built.truncate(old_len as usize);
                    assert_eq!(crc32(&built), old.crc32, "the old block is whole");
                    built.resize(block.len as usize, 0);
                    built[to].copy_from_slice(from);
                    crcs.push(crc32(&built));
                    self.place(block.place, block.index)[..built.len()].copy_from_slice(&built);
                }
            }
        }
        crcs
    }

    /// The bytes of a state, each block of which has its CRC.
    fn read(&mut self, content: &Content) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (index, block) in content.blocks().iter().enumerate() {
            let len = (content.length() as usize - index * BLOCK).min(BLOCK);
            let found = &self.place(block.place, index)[..len];
            assert_eq!(crc32(found), block.crc32, "block {index}");
            bytes.extend_from_slice(found);
        }
        assert_eq!(crc32(&bytes), content.data_crc32());
        bytes
    }

    /// What a power cut leaves, if this was stable once and `newest` was written since: of each
    /// sector the one or the other.
    fn mixed_with(&self, newest: &Self, seed: u64) -> Self {
        let mut mixed = self.clone();
        let mut state = seed | 1;
        let mut mix = |old: &mut [u8], new: &[u8]| {
            for (old, new) in old.chunks_mut(512).zip(new.chunks(512)) {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(11);
                if state >> 63 == 1 {
                    old.copy_from_slice(new);
                }
            }
        };
        mix(&mut mixed.rooms, &newest.rooms);
        for (slot, new) in &newest.slots {
            let old = mixed
                .slots
                .entry(*slot)
                .or_insert_with(|| vec![0xcc; BLOCK]);
            mix(old, new);
        }
        mixed
    }
}

/// What the journal would hold behind the last checkpoint.
#[derive(Clone)]
enum Logged {
    Applied(Serial, Mutation, Vec<u8>),
    Begun(Serial),
}

/// A chunk on a disk, and what it ought to be.
struct Model {
    state: State,
    disk: Disk,
    /// Bytes, ids and places at each serial from the last stable checkpoint on.
    history: BTreeMap<u64, (Vec<u8>, IdTable, Content)>,
    /// The last stable checkpoint: its state, and the disk then.
    checkpoint: (State, Disk),
    logged: Vec<Logged>,
    /// Reads under way, and what they have to see.
    reads: Vec<(Content, Vec<u8>)>,
    next_number: [u64; 3],
    garbage: u8,
}

/// Where a mutation's bytes begin.
#[derive(Clone, Copy, Debug)]
enum At {
    /// At the end, as an append.
    Append,
    /// So many bytes behind three before the end.
    NearTheEnd(u32),
    Offset(u32),
}

#[derive(Clone, Debug)]
enum Step {
    Mutate {
        at: At,
        len: u32,
        session: usize,
        waits_for: u64,
    },
    Commit(u8),
    Begin(u8),
    BegunIsStable,
    Checkpoint,
    BeginRead,
    EndRead,
    PowerCut(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let len = prop_oneof![
        4 => 1_u32..300,
        2 => 1_u32..70_000,
        1 => Just(BLOCK_LEN),
        1 => 1_u32..200_000,
    ];
    let at = prop_oneof![
        4 => Just(At::Append),
        2 => (0_u32..7).prop_map(At::NearTheEnd),
        3 => (0..CHUNK_SIZE).prop_map(At::Offset),
        2 => (0..2 * BLOCK_LEN).prop_map(At::Offset),
        1 => (0_u32..5).prop_map(|block| At::Offset(block * BLOCK_LEN)),
    ];
    let mutate =
        (at, len, 0_usize..4, 0_u64..4).prop_map(|(at, len, session, waits_for)| Step::Mutate {
            at,
            len,
            session,
            waits_for,
        });
    let step = prop_oneof![
        12 => mutate,
        3 => any::<u8>().prop_map(Step::Commit),
        2 => any::<u8>().prop_map(Step::Begin),
        1 => Just(Step::BegunIsStable),
        3 => Just(Step::Checkpoint),
        1 => Just(Step::BeginRead),
        1 => Just(Step::EndRead),
        2 => any::<u64>().prop_map(Step::PowerCut),
    ];
    prop::collection::vec(step, 1..50)
}

impl Model {
    fn new() -> Self {
        let state = State::at_rest(CHUNK_SIZE, ChunkVersion(1), Serial(0), Resting::default());
        let disk = Disk::new();
        let history = [(0, (Vec::new(), IdTable::default(), Content::default()))];
        Self {
            checkpoint: (state.clone(), disk.clone()),
            state,
            disk,
            history: history.into(),
            logged: Vec::new(),
            reads: Vec::new(),
            next_number: [1; 3],
            garbage: 0,
        }
    }

    fn newest(&self) -> &(Vec<u8>, IdTable, Content) {
        &self.history[&self.state.serial().0]
    }

    fn do_step(&mut self, step: &Step) {
        match step {
            Step::Mutate {
                at,
                len,
                session,
                waits_for,
            } => self.mutate(*at, *len, *session, *waits_for),
            Step::Commit(part) => {
                let mark = self.between_mark_and_newest(*part);
                self.state.commit_to(mark).unwrap();
                assert_eq!(self.state.commit_mark(), mark);
            }
            Step::Begin(part) => self.begin(*part),
            Step::BegunIsStable => self.state.begun_is_stable(self.state.version()),
            Step::Checkpoint => self.take_checkpoint(),
            Step::BeginRead => {
                let content = self.state.committed().clone();
                self.state.begin_read(&content);
                let bytes = self.disk.read(&content);
                self.reads.push((content, bytes));
            }
            Step::EndRead => {
                if let Some((content, _)) = self.reads.pop() {
                    self.state.end_read(&content);
                }
            }
            Step::PowerCut(seed) => self.rebuild(*seed),
        }
    }

    fn between_mark_and_newest(&self, part: u8) -> Serial {
        let (mark, newest) = (self.state.commit_mark().0, self.state.serial().0);
        Serial(mark + (newest - mark) * u64::from(part) / 255)
    }

    fn request(&mut self, session: usize, waits_for: u64) -> Option<RequestId> {
        let number = self.next_number.get_mut(session)?;
        *number += 1;
        Some(RequestId {
            session: SessionId(session as u64 + 1),
            number: *number - 1,
            lowest_outstanding: (*number - 1).saturating_sub(waits_for).max(1),
        })
    }

    fn mutate(&mut self, at: At, len: u32, session: usize, waits_for: u64) {
        let (mut content, mut ids, _) = self.newest().clone();
        let length = u32::try_from(content.len()).unwrap();
        let offset = match at {
            At::Append => length,
            At::NearTheEnd(more) => (length.saturating_sub(3) + more).min(CHUNK_SIZE),
            At::Offset(offset) => offset,
        };
        let len = len.min(CHUNK_SIZE - offset);
        if len == 0 {
            return;
        }
        self.garbage = self.garbage.wrapping_add(37);
        let bytes: Vec<u8> = (0..len)
            .map(|at| at.to_le_bytes()[0].wrapping_mul(3) ^ self.garbage)
            .collect();
        let pieces = pieces_of(offset, &bytes);
        let request = self.request(session, waits_for);
        let plan = self.state.plan(&Incoming {
            request,
            kind: match at {
                At::Append => MutationKind::Append,
                At::NearTheEnd(_) | At::Offset(_) => MutationKind::Write,
            },
            offset,
            length: len,
            pieces: &pieces,
        });
        let plan = plan.unwrap();
        let crcs = self.disk.carry_out(&plan, &bytes);
        let mutation = plan.mutation(&crcs, true).unwrap();
        let serial = Serial(self.state.serial().0 + 1);
        self.state.apply(serial, &mutation).unwrap();

        let end = offset as usize + bytes.len();
        content.resize(content.len().max(end), 0);
        content[offset as usize..end].copy_from_slice(&bytes);
        assert_eq!(mutation.crc32, crc32(&bytes));
        if let Some(request) = request {
            ids = expected_ids(&ids, &request, &mutation);
        }
        let places = self.state.applied().clone();
        self.history.insert(serial.0, (content, ids, places));
        self.logged.push(Logged::Applied(serial, mutation, bytes));
    }

    fn begin(&mut self, part: u8) {
        let serial = self.between_mark_and_newest(part);
        let version = ChunkVersion(self.state.version().0 + 1);
        self.state.begin(version, serial).unwrap();
        self.history.split_off(&(serial.0 + 1));
        self.logged.push(Logged::Begun(serial));
        // What lies behind the length is nobody's.
        let length = self.state.applied().length() as usize;
        self.disk.rooms[length..].fill(self.garbage);
    }

    /// The committed state is stable in its places, and the journal says so.
    fn take_checkpoint(&mut self) {
        let mark = self.state.commit_mark();
        let resting = Resting {
            begin_serial: Serial(0),
            content: self.state.committed().clone(),
            ids: self.state.ids_at(mark).unwrap(),
        };
        // The version of the oldest entry that stands behind it is not lower.
        let base = State::at_rest(CHUNK_SIZE, ChunkVersion(1), mark, resting);
        self.checkpoint = (base, self.disk.clone());
        self.history = self.history.split_off(&mark.0);
        self.state.checkpoint_is_stable(mark).unwrap();
    }

    /// Which entries count behind the checkpoint: those above it that no beginning forgot.
    fn standing(&self) -> Vec<(Serial, &Mutation, &[u8])> {
        let from = self.checkpoint.0.serial();
        let mut standing: Vec<(Serial, &Mutation, &[u8])> = Vec::new();
        for logged in &self.logged {
            match logged {
                Logged::Applied(serial, mutation, bytes) if *serial > from => {
                    standing.push((*serial, mutation, bytes));
                }
                Logged::Begun(at) => standing.retain(|(serial, ..)| serial <= at),
                Logged::Applied(..) => {}
            }
        }
        standing
    }

    /// A power cut, and a start: from the checkpoint, the journal, and whatever of the data was
    /// written back.
    fn rebuild(&self, seed: u64) {
        let (mut state, stable) = self.checkpoint.clone();
        let mut disk = stable.mixed_with(&self.disk, seed);
        for (serial, mutation, bytes) in self.standing() {
            let plan = state.plan_again(mutation).unwrap();
            let crcs = disk.carry_out(&plan, bytes);
            assert_eq!(plan.mutation(&crcs, true).as_ref(), Some(mutation));
            state.apply(serial, mutation).unwrap();
        }
        assert_eq!(state.serial(), self.state.serial());
        assert_eq!(state.applied(), self.state.applied());
        assert_eq!(state.ids(), self.state.ids());
        assert_eq!(disk.read(state.applied()), self.newest().0);
    }

    /// Fills what is free with garbage, and looks at every state that may be needed.
    fn check(&mut self) {
        self.garbage = self.garbage.wrapping_add(1);
        for (&slot, bytes) in &mut self.disk.slots {
            if self.state.slot_is_free(slot) {
                bytes.fill(self.garbage);
            }
        }
        let mark = self.state.commit_mark();
        for (&serial, (bytes, ids, places)) in &self.history {
            assert_eq!(&self.disk.read(places), bytes, "serial {serial}");
            if serial >= mark.0 {
                assert_eq!(self.state.content_at(Serial(serial)).as_ref(), Some(places));
                assert_eq!(self.state.ids_at(Serial(serial)).as_ref(), Some(ids));
            }
        }
        let row = |(index, block, len): (usize, Block, u32)| (index, block.place, block.crc32, len);
        let asked_for = self.history.range(mark.0..);
        let expected: BTreeSet<_> = asked_for
            .flat_map(|(_, (bytes, _, places))| {
                let blocks = places.blocks().iter().copied().enumerate();
                let len = |index: usize| {
                    let left = bytes.len() - index * BLOCK;
                    u32::try_from(left.min(BLOCK)).unwrap()
                };
                blocks.map(move |(index, block)| row((index, block, len(index))))
            })
            .collect();
        let all: BTreeSet<_> = self.state.blocks_of_all().map(row).collect();
        assert_eq!(all, expected);
        assert_eq!(self.state.committed(), &self.history[&mark.0].2);
        assert_eq!(
            IdTable::from_rows(&self.state.ids().rows()).as_ref(),
            Ok(self.state.ids())
        );
        for (content, bytes) in &self.reads {
            assert_eq!(&self.disk.read(content), bytes, "a read under way");
        }
    }
}

pub(super) fn pieces_of(offset: u32, bytes: &[u8]) -> Vec<u32> {
    let mut rest = bytes;
    piece_lens(offset, u32::try_from(bytes.len()).unwrap())
        .map(|len| {
            let (piece, after) = rest.split_at(len as usize);
            rest = after;
            crc32(piece)
        })
        .collect()
}

/// The table as `spec/replication.md` section 11.1 says it, by rows.
fn expected_ids(before: &IdTable, request: &RequestId, mutation: &Mutation) -> IdTable {
    let session = request.session;
    let mut rows = before.rows();
    let is_floor = |row: &IdRow| row.session == session && row.kind == IdRowKind::Floor;
    let floor = rows
        .iter()
        .find(|row| is_floor(row))
        .map_or(1, |row| row.number);
    let floor = floor.max(request.lowest_outstanding);
    rows.retain(|row| !is_floor(row) && (row.session != session || row.number >= floor));
    let row = |number, kind, (offset, length, crc32)| IdRow {
        session,
        number,
        kind,
        offset,
        length,
        crc32,
    };
    if floor > 1 {
        rows.push(row(floor, IdRowKind::Floor, (0, 0, 0)));
    }
    let kind = match mutation.kind {
        MutationKind::Write => IdRowKind::Write,
        MutationKind::Append => IdRowKind::Append,
    };
    let bytes = (mutation.offset, mutation.length, mutation.crc32);
    rows.push(row(request.number, kind, bytes));
    IdTable::from_rows(&rows).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn every_state_that_may_be_needed_is_whole(steps in steps()) {
        let mut model = Model::new();
        for step in &steps {
            model.do_step(step);
            model.check();
        }
        model.rebuild(1);
    }
}
