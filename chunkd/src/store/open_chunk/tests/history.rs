//! What is read of a chunk's entries, beside a member that wrote them, had them copied forward and
//! removed segments (`spec/journal.md` sections 8 and 9).

use proptest::prelude::*;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Epoch, FileId, Serial, SessionId};
use sarsen_protocol::id_row::{IdRow, IdRowKind};

use super::super::super::journal::body::{
    Applied, Base, Begun, Body, Checkpoint, Mutation, MutationKind, Prepared, Promised, SealForm,
};
use super::super::super::journal::{FoundEntry, Location};
use super::super::{ChunkHistory, HistoryError, OpenHistory, Origin, Outcome};

/// A member of one chunk, and its journal.
#[derive(Default)]
struct Member {
    /// Segments that are there, each with its entries.
    segments: Vec<Vec<FoundEntry>>,
    /// Of every entry that ever was its mutations' marks.
    marks: Vec<Vec<u32>>,
    next_mark: u32,
    promised: u64,
    version: u64,
    /// The version of the sealed chunk that it began from.
    sealed: u64,
    begin_serial: u64,
    /// Of each serial from 1 on the version and the mark of its mutation.
    history: Vec<(u64, u32)>,
    /// Where the first version began.
    first: u64,
    commit_mark: u64,
    checkpoint: u64,
    is_prepared: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Apply(u8),
    Commit(u8),
    Promise,
    Begin(u8),
    BeginAgain,
    Prepare,
    Checkpoint { parts: u64, broken_off: bool },
    NewSegment,
    CopyForward { some: u8 },
    RemoveOldest,
    Settle,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let checkpoint = (1_u64..4, any::<bool>())
        .prop_map(|(parts, broken_off)| Step::Checkpoint { parts, broken_off });
    let step = prop_oneof![
        8 => (1_u8..6).prop_map(Step::Apply),
        3 => any::<u8>().prop_map(Step::Commit),
        1 => Just(Step::Promise),
        4 => any::<u8>().prop_map(Step::Begin),
        1 => Just(Step::BeginAgain),
        1 => Just(Step::Prepare),
        2 => checkpoint,
        5 => Just(Step::NewSegment),
        2 => any::<u8>().prop_map(|some| Step::CopyForward { some }),
        4 => Just(Step::RemoveOldest),
        1 => Just(Step::Settle),
    ];
    prop::collection::vec(step, 1..60)
}

impl Member {
    fn new() -> Self {
        let mut member = Self {
            segments: vec![Vec::new()],
            version: 3,
            ..Self::default()
        };
        member.open(10);
        member
    }

    fn serial(&self) -> u64 {
        self.first + self.history.len() as u64
    }

    fn write(&mut self, version: u64, body: Body) {
        let marks = match &body {
            Body::Applied(applied) => applied.mutations.iter().map(|one| one.crc32).collect(),
            _ => Vec::new(),
        };
        let location = Location {
            segment: 1,
            position: self.marks.len() as u64,
        };
        self.marks.push(marks);
        self.segments.last_mut().unwrap().push(FoundEntry {
            sequence: location.position + 1,
            location,
            handle: ChunkHandle(1),
            version: ChunkVersion(version),
            body,
        });
    }

    fn write_begun(&mut self, base: Base) {
        let begun = Begun {
            serial: Serial(self.begin_serial),
            memory: true,
            base,
            file_id: FileId(1),
            index: 0,
        };
        self.write(self.version, Body::Begun(begun));
    }

    const fn base(&self) -> Base {
        Base::Sealed {
            version: ChunkVersion(self.sealed),
            length: 0,
            data_crc32: 0,
        }
    }

    /// Begins from the sealed chunk.
    fn open(&mut self, serial: u64) {
        self.sealed = self.version;
        self.version = self.promised.max(self.version) + 1;
        (self.first, self.begin_serial) = (serial, serial);
        (self.commit_mark, self.checkpoint) = (serial, 0);
        self.history.clear();
        self.write_begun(self.base());
    }

    fn do_step(&mut self, step: &Step) {
        match step {
            Step::Apply(count) if !self.is_prepared && self.promised <= self.version => {
                self.apply(*count);
            }
            Step::Apply(_) => {}
            Step::Commit(part) => {
                let more = self.serial() - self.commit_mark;
                self.commit_mark += more * u64::from(*part) / 255;
            }
            Step::Promise => {
                self.promised = self.promised.max(self.version) + 1;
                let promised = Promised {
                    promised_version: ChunkVersion(self.promised),
                    epoch: Epoch::NONE,
                };
                self.write(self.version, Body::Promised(promised));
            }
            Step::Begin(part) => self.begin(*part),
            // A start may write what is known already.
            Step::BeginAgain if self.version > 0 => self.write_begun(Base::Open),
            Step::BeginAgain => {}
            Step::Prepare => {
                self.is_prepared = true;
                let prepared = Prepared {
                    serial: Serial(self.serial()),
                    length: 0,
                    data_crc32: 0,
                    crc_page_crc32: 0,
                    id_table_length: 0,
                    id_table_crc32: 0,
                    sessions_end: 0,
                    form: SealForm::InPlace,
                };
                self.write(self.version, Body::Prepared(prepared));
            }
            Step::Checkpoint { parts, broken_off } => self.take_checkpoint(*parts, *broken_off),
            Step::NewSegment => self.segments.push(Vec::new()),
            Step::CopyForward { some } => self.copy_forward(usize::from(*some) % 4),
            Step::RemoveOldest if self.segments.len() > 1 => {
                self.copy_forward(usize::MAX);
                self.segments.remove(0);
            }
            Step::RemoveOldest => {}
            Step::Settle => {
                self.write(self.version, Body::Settled);
                self.is_prepared = false;
                let serial = self.serial();
                self.open(serial);
            }
        }
    }

    fn apply(&mut self, count: u8) {
        let first_serial = Serial(self.serial() + 1);
        let mutations = (0..count).map(|_| {
            self.next_mark += 1;
            self.history.push((self.version, self.next_mark));
            Mutation {
                request: None,
                kind: MutationKind::Append,
                has_gap: false,
                has_bytes: false,
                offset: 0,
                length: 1,
                crc32: self.next_mark,
                blocks: Vec::new(),
            }
        });
        let applied = Applied {
            first_serial,
            mutations: mutations.collect(),
            commit_mark: Serial(self.commit_mark),
            bytes: Vec::new(),
        };
        self.write(self.version, Body::Applied(applied));
    }

    fn begin(&mut self, part: u8) {
        let more = self.serial() - self.commit_mark;
        self.begin_serial = self.commit_mark + more * u64::from(part) / 255;
        self.version = self.promised.max(self.version + 1);
        self.history
            .truncate(usize::try_from(self.begin_serial - self.first).unwrap());
        self.is_prepared = false;
        self.write_begun(Base::Open);
    }

    fn take_checkpoint(&mut self, parts: u64, broken_off: bool) {
        for part in 0..parts {
            let more = part + 1 < parts;
            if !more && broken_off {
                return;
            }
            let row = IdRow {
                session: SessionId(1),
                number: part + 1,
                kind: IdRowKind::Append,
                offset: 0,
                length: 0,
                crc32: 0,
            };
            let checkpoint = Checkpoint {
                serial: Serial(self.commit_mark),
                begin_serial: Serial(self.begin_serial),
                promised_version: ChunkVersion(self.promised.max(self.version)),
                memory: true,
                base: self.base(),
                file_id: FileId(1),
                index: 0,
                length: 0,
                blocks: Vec::new(),
                ids: vec![row],
                more,
            };
            self.write(self.version, Body::Checkpoint(checkpoint));
        }
        self.checkpoint = self.commit_mark;
    }

    /// Writes the first `most` entries of the oldest segment again that still count.
    fn copy_forward(&mut self, most: usize) {
        let oldest = self.segments[0].clone();
        let settled = |entry: &&FoundEntry| entry.body == Body::Settled;
        let is_later = |segment: &Vec<FoundEntry>| segment.iter().any(|entry| settled(&entry));
        if self.segments[1..].iter().any(is_later) {
            return;
        }
        let from = oldest.iter().rposition(|entry| settled(&entry));
        let entries = oldest.iter().skip(from.map_or(0, |at| at + 1));
        let counting: Vec<&FoundEntry> = entries.filter(|entry| self.counts(entry)).collect();
        for entry in counting.into_iter().take(most) {
            self.write(entry.version.0, entry.body.clone());
        }
    }

    fn counts(&self, entry: &FoundEntry) -> bool {
        match &entry.body {
            Body::Applied(applied) => {
                let serials = applied.first_serial.0..=applied.last_serial().0;
                let mut stands = serials
                    .zip(&applied.mutations)
                    .filter(|(serial, mutation)| {
                        let at = usize::try_from(serial - self.first - 1).unwrap();
                        let same = (entry.version.0, mutation.crc32);
                        *serial > self.checkpoint && self.history.get(at) == Some(&same)
                    });
                stands.next().is_some()
            }
            // What the chunk was begun from, and what it is now; a checkpoint of older times is
            // harmless.
            Body::Begun(begun) => begun.base == self.base() || entry.version.0 == self.version,
            Body::Prepared(_) => self.is_prepared,
            Body::Promised(_) | Body::Checkpoint(_) => true,
            Body::Settled | Body::Dropped => false,
        }
    }

    fn check(&self) {
        let open = match read(self.segments.iter().flatten()) {
            Ok(Outcome::Open(open)) => open,
            other => panic!("{other:?}"),
        };
        assert_eq!(open.version.0, self.version);
        assert_eq!(open.begin_serial.0, self.begin_serial);
        assert_eq!(open.serial().0, self.serial());
        assert_eq!(open.promised_version.0, self.promised.max(self.version));
        assert_eq!(open.prepared.is_some(), self.is_prepared);
        assert_eq!(open.base, self.base());
        assert!(open.commit_mark.0 <= self.commit_mark);
        assert_eq!(open.origin_serial.0, self.first.max(self.checkpoint));
        let behind = usize::try_from(open.origin_serial.0 - self.first).unwrap();
        let found: Vec<(u64, u32)> = open
            .standing
            .iter()
            .map(|one| {
                let entry = usize::try_from(one.location.position).unwrap();
                (one.version.0, self.marks[entry][one.number])
            })
            .collect();
        assert_eq!(found, self.history[behind..]);
        if let Origin::Checkpoint { ids, .. } = &open.origin {
            let numbers: Vec<u64> = ids.iter().map(|row| row.number).collect();
            assert!(
                numbers
                    .iter()
                    .zip(1..)
                    .all(|(&number, expected)| number == expected)
            );
        }
    }
}

fn read<'a>(entries: impl Iterator<Item = &'a FoundEntry>) -> Result<Outcome, HistoryError> {
    let mut history = ChunkHistory::default();
    entries.for_each(|entry| history.take(entry));
    history.finish()
}

fn read_open(member: &Member) -> OpenHistory {
    match read(member.segments.iter().flatten()) {
        Ok(Outcome::Open(open)) => *open,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

    #[test]
    fn what_is_read_is_what_the_member_was(steps in steps()) {
        let mut member = Member::new();
        for step in &steps {
            member.do_step(step);
            member.check();
        }
    }
}

/// The oldest segment held the beginning of a version whose mutations stood in the next one. Copied
/// forward it came behind them; read in order it forgot them, and they were acknowledged.
#[test]
fn a_beginning_that_was_copied_forward_forgets_nothing_of_its_own() {
    let mut member = Member::new();
    for step in [
        Step::Apply(3),
        Step::Commit(255),
        Step::NewSegment,
        Step::Checkpoint {
            parts: 1,
            broken_off: false,
        },
        Step::RemoveOldest,
        Step::Begin(0),
        Step::NewSegment,
        Step::Apply(2),
        Step::RemoveOldest,
    ] {
        member.do_step(&step);
        member.check();
    }
    assert_eq!(read_open(&member).serial(), Serial(15));
}

/// An entry of five mutations was copied forward for the sake of the two that stand: the other
/// three had been forgotten, and other mutations have their serials.
#[test]
fn what_was_forgotten_does_not_come_back_with_a_copy() {
    let mut member = Member::new();
    for step in [
        Step::Apply(5),
        Step::NewSegment,
        // At the second of the five.
        Step::Begin(120),
        Step::Apply(1),
        Step::CopyForward { some: 3 },
    ] {
        member.do_step(&step);
        member.check();
    }
    let open = read_open(&member);
    assert_eq!(open.standing.len(), 3);
    assert_eq!(open.standing[2].version, open.version);
}

#[test]
fn a_chunk_that_was_only_begun_is_still_the_sealed_one() {
    let mut member = Member::new();
    assert!(read_open(&member).is_still_sealed());
    member.do_step(&Step::Apply(1));
    assert!(!read_open(&member).is_still_sealed());
}

/// A beginning from before a seal was copied forward together with the one that counts, behind the seal's
/// entry and in front: the chunk was taken to have begun where the earlier one did, which contradicted
/// the rest, and the directory with all its open chunks took no part any more (found by the simulator).
#[test]
fn a_beginning_of_an_earlier_life_does_not_come_back() {
    let sealed = |version| Base::Sealed {
        version: ChunkVersion(version),
        length: 7,
        data_crc32: 8,
    };
    let mut member = Member::new();
    member.segments[0].clear();
    let mut begin = |version, serial, base| {
        member.version = version;
        member.begin_serial = serial;
        member.write_begun(base);
    };
    begin(14, 15, Base::Open);
    begin(5, 13, sealed(3));
    begin(13, 15, sealed(12));
    begin(6, 13, sealed(3));
    let open = read_open(&member);
    assert!(open.is_still_sealed());
    assert_eq!(
        (open.version, open.origin_serial),
        (ChunkVersion(14), Serial(15))
    );
    assert_eq!(open.base, sealed(12));
}

/// Mutations and a checkpoint of what the chunk was before it was sealed stand behind its beginning, with
/// higher serials: a loss was accepted in between. They were taken for its own (found by the simulator).
#[test]
fn what_was_done_in_an_earlier_life_does_not_come_back() {
    let mut member = Member::new();
    for step in [Step::Apply(6), Step::Commit(255), Step::Apply(1)] {
        member.do_step(&step);
    }
    member.do_step(&Step::Checkpoint {
        parts: 1,
        broken_off: false,
    });
    let earlier = std::mem::take(&mut member.segments[0]);
    (member.version, member.begin_serial) = (30, 12);
    member.write_begun(Base::Sealed {
        version: ChunkVersion(20),
        length: 7,
        data_crc32: 8,
    });
    let alone = read(member.segments[0].iter());
    assert!(matches!(alone, Ok(Outcome::Open(_))));
    assert!(earlier.len() > 3);
    let behind = member.segments[0].iter().chain(&earlier);
    assert_eq!(read(behind), alone);
}

#[test]
fn promises_and_ends_are_told() {
    let mut member = Member::new();
    member.segments[0].clear();
    assert_eq!(read([].into_iter()), Ok(Outcome::Nothing));
    member.do_step(&Step::Promise);
    let promised = read(member.segments[0].iter());
    assert_eq!(
        promised,
        Ok(Outcome::Promised(ChunkVersion(member.promised)))
    );
    for end in [Body::Settled, Body::Dropped] {
        member.write(1, end);
        assert_eq!(read(member.segments[0].iter()), Ok(Outcome::Nothing));
    }
}

/// Entries without which the rest means nothing: never an older state in silence.
#[test]
fn a_history_with_a_hole_is_refused() {
    let mut whole = Member::new();
    for step in [
        Step::Apply(2),
        Step::Apply(2),
        Step::Commit(255),
        Step::Apply(1),
        Step::Prepare,
    ] {
        whole.do_step(&step);
    }
    let entries = &whole.segments[0];
    assert_eq!(entries.len(), 5);
    let without = |missing: usize| {
        let rest = entries.iter().enumerate().filter(|(at, _)| *at != missing);
        read(rest.map(|(_, entry)| entry))
    };
    for missing in 0..3 {
        assert!(matches!(
            without(missing),
            Err(HistoryError::Missing { .. })
        ));
    }
    // The last mutation is missing: what was prepared is not what there is.
    assert!(matches!(without(3), Err(HistoryError::OtherState { .. })));
    assert!(matches!(without(4), Ok(Outcome::Open(_))));
    let alone = |at: usize| read(entries[at..=at].iter());
    assert!(matches!(alone(1), Err(HistoryError::Missing { .. })));
    assert!(matches!(alone(4), Err(HistoryError::OtherState { .. })));
}
