use sarsen_protocol::id::{FileId, ServerId, SessionId};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{AppendResult, ChunkState, FoundKind, FoundRequest, Hop};
use sarsen_protocol::ticket::{Claims, Rights};

use super::*;

const HANDLE: ChunkHandle = ChunkHandle(70);
const NEXT: ChunkHandle = ChunkHandle(80);
const MIB: u32 = 1024 * 1024;
const FIRST: StreamId = StreamId(1);
const SECOND: StreamId = StreamId(2);

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn plan() -> Plan {
    Plan {
        level: Level::Disk,
        ordered: false,
        patience: at(30_000),
        suspect_after: at(3_000),
        seed: 1,
    }
}

fn ticket() -> Ticket {
    let claims = Claims {
        rights: Rights::WRITE,
        key_id: 1,
        handle: HANDLE,
        version: ChunkVersion(1),
        expiry: u64::MAX,
        file_id: FileId(1),
        session: SessionId::NONE,
        epoch: 1,
        chain_crc: 0,
    };
    Ticket::sign(claims, &SecretKey::new([1; 32]))
}

fn opened(index: u32, handle: ChunkHandle, version: u64) -> ChunkOpened {
    ChunkOpened {
        index,
        handle,
        version: ChunkVersion(version),
        begin_serial: Serial(0),
        memory: false,
        sealed_version: ChunkVersion::NONE,
        ticket: ticket(),
        chain: vec![Hop {
            server: ServerId(4),
            data_addr: "a:1".into(),
        }],
        lease: 60_000,
    }
}

fn replica(server: u64) -> Replica {
    Replica {
        server: ServerId(server),
        control_addr: format!("c:{server}"),
        data_addr: format!("d:{server}"),
    }
}

fn located(handle: ChunkHandle, version: u64, state: ChunkState) -> Option<LocatedChunk> {
    Some(LocatedChunk {
        index: 0,
        handle,
        version: ChunkVersion(version),
        length: 0,
        crc32: 0,
        state,
        primary: ServerId::NONE,
        ticket: ticket(),
        replicas: vec![replica(4), replica(5)],
    })
}

fn append(len: u32) -> What {
    What::Append { len }
}

fn write(index: u32, offset: u32) -> What {
    let len = 10;
    What::Write { index, offset, len }
}

fn last(after: ChunkHandle) -> Slot {
    Slot::Last { after }
}

const TAIL: Slot = Slot::Last {
    after: ChunkHandle::NONE,
};

fn open(slot: Slot, failed: u64) -> Action {
    Action::Open {
        slot,
        failed: ChunkVersion(failed),
    }
}

fn connect(stream: StreamId, opened: &ChunkOpened) -> Action {
    Action::Connect {
        stream,
        opened: Box::new(opened.clone()),
    }
}

fn sends(stream: StreamId, numbers: &[u64]) -> Action {
    Action::Append {
        stream,
        numbers: numbers.to_vec(),
    }
}

fn writes(stream: StreamId, number: u64, serial: u64) -> Action {
    Action::Write {
        stream,
        number,
        serial: Serial(serial),
    }
}

fn find(id: u64, version: u64, server: u64, numbers: &[u64]) -> Action {
    Action::Find(Box::new(Find {
        id: FindId(id),
        handle: HANDLE,
        version: ChunkVersion(version),
        ticket: ticket(),
        replica: replica(server),
        numbers: numbers.to_vec(),
    }))
}

fn ended(number: u64, outcome: Outcome) -> Action {
    Action::End { number, outcome }
}

/// A record that was appended in version 1.
fn done(number: u64, index: u32, handle: ChunkHandle, offset: u32) -> Action {
    acked(number, index, (handle, 1), offset, 1)
}

fn acked(
    number: u64,
    index: u32,
    (handle, version): (ChunkHandle, u64),
    offset: u32,
    serial: u64,
) -> Action {
    ended(
        number,
        Outcome::Done(Done {
            index,
            handle,
            version: ChunkVersion(version),
            serial: Serial(serial),
            offset,
            level: Level::Disk,
            copies: 3,
        }),
    )
}

fn result(number: u64, status: Status, offset: u32, length: u32) -> AppendResult {
    let is_ok = status == Status::Ok;
    AppendResult {
        number,
        status: status as u16,
        level: Level::Disk,
        copies: if is_ok { 3 } else { 0 },
        offset,
        length,
        serial: Serial(u64::from(is_ok)),
    }
}

fn appended(version: u64, results: Vec<AppendResult>) -> Appended {
    Appended {
        version: ChunkVersion(version),
        results,
    }
}

fn ack(serial: u64) -> WriteAck {
    WriteAck {
        serial: Serial(serial),
        commit_mark: Serial(50),
        level: Level::Disk,
        copies: 3,
    }
}

fn found(requests: &[(u64, FoundKind, u32, u32)]) -> RequestsFound {
    let found = requests
        .iter()
        .map(|&(number, kind, offset, length)| FoundRequest {
            number,
            kind,
            offset,
            length,
        });
    RequestsFound {
        found: found.collect(),
    }
}

/// All that is to be done by now.
fn all(machine: &mut Mutations, now: Duration) -> Vec<Action> {
    std::iter::from_fn(|| machine.poll(now)).collect()
}

/// Records 1 to `count`, of ten bytes each, on their way to chunk 0 in version 1.
fn appending(plan: Plan, count: u64) -> Mutations {
    let mut machine = Mutations::new(plan);
    for number in 1..=count {
        machine.add(number, append(10));
    }
    assert_eq!(all(&mut machine, at(0)), [open(TAIL, 0)]);
    let chunk = opened(0, HANDLE, 1);
    machine.handle_opened(at(0), TAIL, chunk.clone());
    assert_eq!(all(&mut machine, at(0)), [connect(FIRST, &chunk)]);
    machine.handle_stream_opened(at(0), FIRST).unwrap();
    let numbers: Vec<u64> = (1..=count).collect();
    assert_eq!(all(&mut machine, at(0)), [sends(FIRST, &numbers)]);
    machine
}

/// The same, and the stream was lost before any answer came.
fn in_doubt(plan: Plan, count: u64) -> Mutations {
    let mut machine = appending(plan, count);
    machine.handle_stream_ended(at(100), FIRST, None, Duration::ZERO);
    let close = Action::Close { stream: FIRST };
    let locate = Action::Locate { index: 0 };
    assert_eq!(all(&mut machine, at(100)), [close, locate]);
    machine
}

#[test]
fn records_that_wait_share_a_frame_and_are_answered_one_by_one() {
    let mut machine = appending(plan(), 3);
    let two = vec![result(3, Status::Ok, 20, 10), result(1, Status::Ok, 0, 10)];
    machine
        .handle_appended(at(1), FIRST, &appended(1, two))
        .unwrap();
    let dones = [done(3, 0, HANDLE, 20), done(1, 0, HANDLE, 0)];
    assert_eq!(all(&mut machine, at(1)), dones);
    machine.add(4, append(10));
    assert_eq!(
        all(&mut machine, at(1)),
        [sends(FIRST, &[4])],
        "no question"
    );
    assert!(!machine.is_idle());
}

#[test]
fn a_frame_holds_no_more_than_its_limits() {
    let mut machine = appending(plan(), 1);
    // A record in parts goes alone, and others as far as payload, CRCs and items allow.
    machine.add(2, append(MIB + 1));
    machine.add(3, append(MIB - 5));
    machine.add(4, append(5));
    machine.add(5, append(1));
    assert_eq!(
        all(&mut machine, at(1)),
        [
            sends(FIRST, &[2]),
            sends(FIRST, &[3, 4]),
            sends(FIRST, &[5])
        ]
    );
    for number in 10..10 + 250 {
        machine.add(number, append(1));
    }
    let sent = all(&mut machine, at(1));
    let counts: Vec<usize> = sent
        .iter()
        .map(|it| match it {
            Action::Append { numbers, .. } => numbers.len(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(counts, [240, 10]);
}

#[test]
fn writes_go_to_their_chunks_and_are_acknowledged_in_order() {
    let mut machine = Mutations::new(plan());
    machine.add(1, write(0, 7));
    machine.add(2, write(3, 9));
    machine.add(3, write(0, 20));
    let slots = [open(Slot::At(0), 0), open(Slot::At(3), 0)];
    assert_eq!(all(&mut machine, at(0)), slots);
    let (zero, three) = (opened(0, HANDLE, 1), opened(3, NEXT, 2));
    machine.handle_opened(at(0), Slot::At(3), three.clone());
    assert_eq!(all(&mut machine, at(0)), [connect(FIRST, &three)]);
    machine.handle_opened(at(0), Slot::At(0), zero.clone());
    assert_eq!(all(&mut machine, at(0)), [connect(SECOND, &zero)]);
    machine.handle_stream_opened(at(1), SECOND).unwrap();
    machine.handle_stream_opened(at(1), FIRST).unwrap();
    assert_eq!(
        all(&mut machine, at(1)),
        [
            writes(SECOND, 1, 1),
            writes(SECOND, 3, 2),
            writes(FIRST, 2, 1)
        ]
    );
    machine.handle_ack(at(2), SECOND, &ack(2)).unwrap();
    machine.handle_ack(at(2), FIRST, &ack(1)).unwrap();
    assert_eq!(
        all(&mut machine, at(2)),
        [
            acked(1, 0, (HANDLE, 1), 7, 50),
            acked(3, 0, (HANDLE, 1), 20, 50),
            acked(2, 3, (NEXT, 2), 9, 50)
        ]
    );
    assert!(machine.is_idle());
}

#[test]
fn what_is_in_doubt_in_an_open_chunk_is_sent_there_again_under_the_new_version() {
    let mut machine = in_doubt(plan(), 2);
    machine.add(3, append(10));
    machine.handle_located(at(101), 0, located(HANDLE, 1, ChunkState::Open));
    // The record that waits is not sent before it is known what becomes of the older ones.
    assert_eq!(all(&mut machine, at(101)), [open(Slot::At(0), 1)]);
    let chunk = opened(0, HANDLE, 2);
    machine.handle_opened(at(150), Slot::At(0), chunk.clone());
    assert_eq!(all(&mut machine, at(150)), [connect(SECOND, &chunk)]);
    machine.handle_stream_opened(at(151), SECOND).unwrap();
    assert_eq!(
        all(&mut machine, at(151)),
        [sends(SECOND, &[1, 2]), open(TAIL, 1)]
    );
    machine.handle_opened(at(152), TAIL, chunk);
    assert_eq!(all(&mut machine, at(152)), [sends(SECOND, &[3])]);
}

#[test]
fn a_chunk_that_was_sealed_since_is_asked_and_what_it_never_saw_goes_to_the_last() {
    let mut machine = in_doubt(plan(), 3);
    machine.handle_located(at(101), 0, located(HANDLE, 2, ChunkState::Sealed));
    assert_eq!(all(&mut machine, at(101)), [find(1, 2, 4, &[1, 2, 3])]);
    // A stale holder says that it moved; the next knows.
    machine.handle_find_failed(at(102), FindId(1), Some(Status::Moved));
    assert_eq!(all(&mut machine, at(102)), [find(2, 2, 5, &[1, 2, 3])]);
    let table = [(1, FoundKind::Append, 40, 10), (3, FoundKind::Floor, 0, 0)];
    machine.handle_found(at(103), FindId(2), &found(&table));
    let found_one = ended(
        1,
        Outcome::Done(Done {
            index: 0,
            handle: HANDLE,
            version: ChunkVersion(2),
            serial: Serial::NONE,
            offset: 40,
            level: Level::Disk,
            copies: 2,
        }),
    );
    // Whoever is told that it was not done does it again.
    let forgotten = ended(3, Outcome::InDoubt);
    assert_eq!(
        all(&mut machine, at(103)),
        [found_one, forgotten, open(TAIL, 1)]
    );
    let next = opened(1, NEXT, 9);
    machine.handle_opened(at(104), TAIL, next.clone());
    assert_eq!(all(&mut machine, at(104)), [connect(SECOND, &next)]);
    machine.handle_stream_opened(at(105), SECOND).unwrap();
    assert_eq!(all(&mut machine, at(105)), [sends(SECOND, &[2])]);
}

/// A slow holder answered for a seal after which the record was sent again, when the next seal was asked about: what
/// the first never saw counted as not done, and was appended twice.
#[test]
fn an_answer_to_a_question_before_is_none_to_the_present_one() {
    let mut machine = appending(plan(), 2);
    let full = vec![result(2, Status::ChunkFull, 0, 0)];
    machine
        .handle_appended(at(1), FIRST, &appended(1, full))
        .unwrap();
    assert_eq!(all(&mut machine, at(1)), [open(last(HANDLE), 0)]);
    machine.handle_stream_ended(at(2), FIRST, None, Duration::ZERO);
    let close = |stream| Action::Close { stream };
    let locate = Action::Locate { index: 0 };
    assert_eq!(all(&mut machine, at(2)), [close(FIRST), locate.clone()]);
    machine.handle_located(at(3), 0, located(HANDLE, 2, ChunkState::Sealed));
    assert_eq!(all(&mut machine, at(3)), [find(1, 2, 4, &[1])]);
    // The chunk is opened again before the holder has answered.
    let chunk = opened(0, HANDLE, 3);
    machine.handle_opened(at(4), last(HANDLE), chunk.clone());
    let now = machine.wake_at(at(4)).unwrap();
    assert_eq!(all(&mut machine, now), [connect(SECOND, &chunk)]);
    machine.handle_stream_opened(now, SECOND).unwrap();
    let sent = [sends(SECOND, &[1]), sends(SECOND, &[2])];
    assert_eq!(all(&mut machine, now), sent);
    machine.handle_stream_ended(now, SECOND, None, Duration::ZERO);
    assert_eq!(all(&mut machine, now), [close(SECOND)]);
    let now = machine.wake_at(now).unwrap();
    assert_eq!(all(&mut machine, now), [locate]);
    machine.handle_located(now, 0, located(HANDLE, 4, ChunkState::Sealed));
    assert_eq!(all(&mut machine, now), [find(2, 4, 4, &[1, 2])]);
    machine.handle_found(now, FindId(1), &found(&[]));
    machine.handle_find_failed(now, FindId(1), Some(Status::Moved));
    assert_eq!(all(&mut machine, now), []);
    let table = [1, 2].map(|number| (number, FoundKind::Append, 40, 10));
    machine.handle_found(now, FindId(2), &found(&table));
    let ends = all(&mut machine, now);
    let is_done = |it: &Action| {
        let outcome = |outcome: &Outcome| matches!(outcome, Outcome::Done(_));
        matches!(it, Action::End { outcome: it, .. } if outcome(it))
    };
    assert!(ends.len() == 2 && ends.iter().all(is_done), "{ends:?}");
}

/// What was found under an id was taken for the mutation, whatever it was.
#[test]
fn what_is_found_is_compared_with_what_was_sent() {
    use FoundKind::{Append, Write};
    for (row, is_it) in [
        ((1, Append, 40, 10), true),
        ((1, Append, 40, 11), false),
        ((1, Write, 40, 10), false),
    ] {
        let mut machine = in_doubt(plan(), 1);
        machine.handle_located(at(101), 0, located(HANDLE, 2, ChunkState::Sealed));
        assert_eq!(all(&mut machine, at(101)), [find(1, 2, 4, &[1])]);
        machine.handle_found(at(102), FindId(1), &found(&[row]));
        let ends = all(&mut machine, at(102));
        let is_done = matches!(
            ends[..],
            [Action::End {
                outcome: Outcome::Done(_),
                ..
            }]
        );
        assert_eq!(is_done, is_it, "{row:?}: {ends:?}");
        let refused = ended(1, Outcome::Refused(Status::InvalidArgument));
        assert!(is_it || ends == [refused], "{row:?}: {ends:?}");
    }
}

#[test]
fn a_write_that_a_sealed_chunk_never_saw_goes_to_it_again_when_it_is_open() {
    let mut machine = Mutations::new(plan());
    machine.add(1, write(0, 7));
    all(&mut machine, at(0));
    machine.handle_opened(at(0), Slot::At(0), opened(0, HANDLE, 1));
    all(&mut machine, at(0));
    machine.handle_stream_opened(at(0), FIRST).unwrap();
    all(&mut machine, at(0));
    machine.handle_stream_ended(at(1), FIRST, None, Duration::ZERO);
    all(&mut machine, at(1));
    machine.handle_located(at(2), 0, located(HANDLE, 2, ChunkState::Sealed));
    assert_eq!(all(&mut machine, at(2)), [find(1, 2, 4, &[1])]);
    machine.handle_found(at(3), FindId(1), &found(&[]));
    assert_eq!(all(&mut machine, at(3)), [open(Slot::At(0), 1)]);
}

/// The seal that the master tells of may be the one that the chunk was opened from.
#[test]
fn a_seal_that_is_older_than_the_mutation_says_nothing_of_it() {
    for sealed in [1, 2] {
        let mut machine = in_doubt(plan(), 1);
        machine.handle_located(at(101), 0, located(HANDLE, 1, ChunkState::Open));
        all(&mut machine, at(101));
        let chunk = opened(0, HANDLE, 2);
        machine.handle_opened(at(102), Slot::At(0), chunk);
        all(&mut machine, at(102));
        machine.handle_stream_opened(at(102), SECOND).unwrap();
        assert_eq!(all(&mut machine, at(102)), [sends(SECOND, &[1])]);
        machine.handle_stream_ended(at(103), SECOND, None, Duration::ZERO);
        all(&mut machine, at(200));
        // It was sent in version 2 by now: not even that seal is above.
        machine.handle_located(at(201), 0, located(HANDLE, sealed, ChunkState::Sealed));
        assert_eq!(all(&mut machine, at(201)), [open(Slot::At(0), 2)]);
    }
}

#[test]
fn what_is_in_doubt_in_a_chunk_that_is_gone_can_not_be_told() {
    for chunk in [None, located(NEXT, 5, ChunkState::Open)] {
        let mut machine = in_doubt(plan(), 1);
        machine.add(2, append(10));
        machine.handle_located(at(101), 0, chunk);
        assert_eq!(
            all(&mut machine, at(101)),
            [ended(1, Outcome::ChunkGone), open(TAIL, 1)]
        );
    }
    // The same where only the answer to `OpenChunk` shows it.
    let mut machine = in_doubt(plan(), 1);
    machine.handle_located(at(101), 0, located(HANDLE, 1, ChunkState::Open));
    all(&mut machine, at(101));
    machine.handle_opened(at(102), Slot::At(0), opened(0, NEXT, 5));
    assert_eq!(all(&mut machine, at(102)), [ended(1, Outcome::ChunkGone)]);
}

#[test]
fn a_full_chunk_is_followed_by_the_next_and_what_is_on_its_way_is_waited_for() {
    for ordered in [false, true] {
        let mut plan = plan();
        plan.ordered = ordered;
        let mut machine = appending(plan, 3);
        let full = vec![result(2, Status::ChunkFull, 0, 0)];
        machine
            .handle_appended(at(1), FIRST, &appended(1, full))
            .unwrap();
        assert_eq!(all(&mut machine, at(1)), [open(last(HANDLE), 0)]);
        let next = opened(1, NEXT, 9);
        machine.handle_opened(at(2), last(HANDLE), next.clone());
        let goes_on = |machine: &mut Mutations, now| {
            assert_eq!(all(machine, now), [connect(SECOND, &next)]);
            machine.handle_stream_opened(now, SECOND).unwrap();
            all(machine, now)
        };
        let rest = vec![
            result(1, Status::Ok, 0, 10),
            result(3, Status::ChunkFull, 0, 0),
        ];
        if ordered {
            assert_eq!(all(&mut machine, at(2)), [], "1 may still be before 2");
            machine
                .handle_appended(at(3), FIRST, &appended(1, rest))
                .unwrap();
            assert_eq!(all(&mut machine, at(3))[..1], [done(1, 0, HANDLE, 0)]);
            continue;
        }
        assert_eq!(goes_on(&mut machine, at(2)), [sends(SECOND, &[2])]);
        machine
            .handle_appended(at(3), FIRST, &appended(1, rest))
            .unwrap();
        assert_eq!(
            all(&mut machine, at(3)),
            [done(1, 0, HANDLE, 0), sends(SECOND, &[3])]
        );
    }
}

#[test]
fn a_master_that_has_not_heard_that_a_chunk_is_full_is_asked_again_after_a_while() {
    let mut machine = appending(plan(), 1);
    let full = vec![result(1, Status::ChunkFull, 0, 0)];
    machine
        .handle_appended(at(1), FIRST, &appended(1, full))
        .unwrap();
    assert_eq!(all(&mut machine, at(1)), [open(last(HANDLE), 0)]);
    machine.handle_opened(at(2), last(HANDLE), opened(0, HANDLE, 1));
    assert_eq!(all(&mut machine, at(2)), [], "not at once");
    let wake_at = machine.wake_at(at(2)).unwrap();
    assert!(wake_at > at(2) && wake_at < at(1_000));
    assert_eq!(all(&mut machine, wake_at), [sends(FIRST, &[1])]);
}

/// Two clients write with one id: their primary refuses the second, and not what is beside it.
#[test]
fn a_refused_mutation_is_found_among_those_that_were_on_their_way() {
    let mut machine = Mutations::new(plan());
    (1..=3).for_each(|number| machine.add(number, write(0, 7)));
    all(&mut machine, at(0));
    machine.handle_opened(at(0), Slot::At(0), opened(0, HANDLE, 1));
    all(&mut machine, at(0));
    machine.handle_stream_opened(at(0), FIRST).unwrap();
    all(&mut machine, at(0));
    let refused = Some(Status::InvalidArgument);
    machine.handle_stream_ended(at(1), FIRST, refused, Duration::ZERO);
    let locate = Action::Locate { index: 0 };
    assert_eq!(
        all(&mut machine, at(1)),
        [Action::Close { stream: FIRST }, locate.clone()]
    );
    let reopen = |machine: &mut Mutations, now, stream| {
        let chunk = opened(0, HANDLE, 1);
        machine.handle_located(now, 0, located(HANDLE, 1, ChunkState::Open));
        assert_eq!(all(machine, now), [open(Slot::At(0), 1)]);
        machine.handle_opened(now, Slot::At(0), chunk.clone());
        assert_eq!(all(machine, now), [connect(stream, &chunk)]);
        machine.handle_stream_opened(now, stream).unwrap();
    };
    reopen(&mut machine, at(2), SECOND);
    assert_eq!(all(&mut machine, at(2)), [writes(SECOND, 1, 1)], "alone");
    machine.handle_ack(at(3), SECOND, &ack(1)).unwrap();
    let next = [acked(1, 0, (HANDLE, 1), 7, 50), writes(SECOND, 2, 2)];
    assert_eq!(all(&mut machine, at(3)), next);
    machine.handle_stream_ended(at(4), SECOND, refused, Duration::ZERO);
    let close = Action::Close { stream: SECOND };
    let two = ended(2, Outcome::Refused(Status::InvalidArgument));
    assert_eq!(all(&mut machine, at(4)), [close, two, locate]);
    reopen(&mut machine, at(5), StreamId(3));
    assert_eq!(all(&mut machine, at(5)), [writes(StreamId(3), 3, 1)]);
}

#[test]
fn a_refused_record_ends_by_itself() {
    let mut machine = appending(plan(), 2);
    let refused = vec![result(1, Status::RecordTooLarge, 0, 0)];
    machine
        .handle_appended(at(1), FIRST, &appended(1, refused))
        .unwrap();
    let outcome = Outcome::Refused(Status::RecordTooLarge);
    assert_eq!(all(&mut machine, at(1)), [ended(1, outcome)]);
}

#[test]
fn a_primary_that_has_promised_another_gets_no_more() {
    let mut machine = appending(plan(), 2);
    machine.add(3, append(10));
    assert_eq!(all(&mut machine, at(0)), [sends(FIRST, &[3])]);
    let refused = vec![result(2, Status::PromiseRefused, 0, 0)];
    machine
        .handle_appended(at(1), FIRST, &appended(1, refused))
        .unwrap();
    machine.add(4, append(10));
    assert_eq!(all(&mut machine, at(1)), [], "what it has is waited for");
    let rest = vec![
        result(1, Status::Ok, 0, 10),
        result(3, Status::PromiseRefused, 0, 0),
    ];
    machine
        .handle_appended(at(2), FIRST, &appended(1, rest))
        .unwrap();
    assert_eq!(
        all(&mut machine, at(2)),
        [
            done(1, 0, HANDLE, 0),
            Action::Close { stream: FIRST },
            open(TAIL, 1)
        ],
        "what was refused at its first sending is not in doubt"
    );
    let next = opened(1, NEXT, 9);
    machine.handle_opened(at(3), TAIL, next.clone());
    assert_eq!(all(&mut machine, at(3)), [connect(SECOND, &next)]);
    machine.handle_stream_opened(at(3), SECOND).unwrap();
    assert_eq!(all(&mut machine, at(3)), [sends(SECOND, &[2, 3, 4])]);
}

#[test]
fn what_is_refused_at_its_second_sending_is_in_doubt_as_before() {
    let mut machine = in_doubt(plan(), 2);
    machine.handle_located(at(101), 0, located(HANDLE, 1, ChunkState::Open));
    all(&mut machine, at(101));
    machine.handle_opened(at(150), Slot::At(0), opened(0, HANDLE, 2));
    all(&mut machine, at(150));
    machine.handle_stream_opened(at(151), SECOND).unwrap();
    assert_eq!(all(&mut machine, at(151)), [sends(SECOND, &[1, 2])]);
    let refused = [1, 2].map(|number| result(number, Status::PromiseRefused, 0, 0));
    machine
        .handle_appended(at(152), SECOND, &appended(2, refused.to_vec()))
        .unwrap();
    let close = Action::Close { stream: SECOND };
    let locate = Action::Locate { index: 0 };
    assert_eq!(all(&mut machine, at(152)), [close, locate]);
}

/// The master does not open again what was sealed since, for who does not know of it.
#[test]
fn a_chunk_that_was_sealed_since_its_stream_failed_is_located_anew() {
    let mut machine = in_doubt(plan(), 1);
    machine.handle_located(at(101), 0, located(HANDLE, 1, ChunkState::Open));
    assert_eq!(all(&mut machine, at(101)), [open(Slot::At(0), 1)]);
    let sealed = Some(Status::ChunkSealed);
    machine.handle_open_failed(at(160), Slot::At(0), sealed, Duration::ZERO);
    let wake_at = machine.wake_at(at(160)).unwrap_or(at(160));
    assert!(wake_at < at(1_000), "{wake_at:?}");
    assert_eq!(all(&mut machine, wake_at), [Action::Locate { index: 0 }]);
    machine.handle_located(wake_at, 0, located(HANDLE, 2, ChunkState::Sealed));
    assert_eq!(all(&mut machine, wake_at), [find(1, 2, 4, &[1])]);
}

#[test]
fn a_chunk_that_was_sealed_since_is_opened_for_writes_that_wait() {
    let mut machine = Mutations::new(plan());
    machine.add(1, write(0, 7));
    all(&mut machine, at(0));
    machine.handle_opened(at(0), Slot::At(0), opened(0, HANDLE, 1));
    all(&mut machine, at(0));
    let refused = Some(Status::NotPrimary);
    machine.handle_stream_ended(at(1), FIRST, refused, Duration::ZERO);
    let close = Action::Close { stream: FIRST };
    assert_eq!(all(&mut machine, at(1)), [close, open(Slot::At(0), 1)]);
    let sealed = Some(Status::ChunkSealed);
    machine.handle_open_failed(at(2), Slot::At(0), sealed, Duration::ZERO);
    let wake_at = machine.wake_at(at(2)).unwrap_or(at(2));
    assert!(wake_at < at(1_000), "{wake_at:?}");
    assert_eq!(all(&mut machine, wake_at), [open(Slot::At(0), 0)]);
}

#[test]
fn a_primary_that_refuses_the_stream_leaves_nothing_in_doubt() {
    let mut machine = Mutations::new(plan());
    machine.add(1, append(10));
    all(&mut machine, at(0));
    machine.handle_opened(at(0), TAIL, opened(0, HANDLE, 1));
    all(&mut machine, at(0));
    let refused = Some(Status::NotPrimary);
    machine.handle_stream_ended(at(1), FIRST, refused, Duration::ZERO);
    let close = Action::Close { stream: FIRST };
    assert_eq!(all(&mut machine, at(1)), [close, open(TAIL, 1)]);
}

#[test]
fn a_silent_primary_is_left_after_suspect_after() {
    let mut machine = appending(plan(), 1);
    assert_eq!(machine.wake_at(at(0)), Some(at(3_000)));
    machine.handle_ack(at(2_000), FIRST, &ack(0)).unwrap();
    assert_eq!(all(&mut machine, at(4_999)), []);
    let locate = Action::Locate { index: 0 };
    assert_eq!(
        all(&mut machine, at(5_000)),
        [Action::Close { stream: FIRST }, locate]
    );
}

#[test]
fn a_primary_that_answers_nonsense_is_left() {
    let mut machine = appending(plan(), 1);
    let nonsense = vec![result(7, Status::Ok, 0, 10)];
    let fault = machine.handle_appended(at(1), FIRST, &appended(1, nonsense));
    assert_eq!(fault, Err(FlowFault::UnknownRecord { number: 7 }));
    let locate = Action::Locate { index: 0 };
    assert_eq!(
        all(&mut machine, at(1)),
        [Action::Close { stream: FIRST }, locate]
    );
}

#[test]
fn a_lease_is_used_while_it_lasts_and_a_stream_longer() {
    let mut machine = appending(plan(), 1);
    let answer = vec![result(1, Status::Ok, 0, 10)];
    machine
        .handle_appended(at(1), FIRST, &appended(1, answer))
        .unwrap();
    all(&mut machine, at(1));
    for now in [50_000, 59_000, 61_000, 62_000] {
        machine.handle_ack(at(now), FIRST, &ack(0)).unwrap();
    }
    machine.add(2, append(10));
    assert_eq!(all(&mut machine, at(62_000)), [sends(FIRST, &[2])]);
    // A chunk that is only known is asked for again.
    let mut machine = Mutations::new(plan());
    machine.add(1, write(0, 7));
    all(&mut machine, at(0));
    machine.handle_opened(at(61_000), Slot::At(0), opened(0, HANDLE, 1));
    let asked_at_zero = all(&mut machine, at(61_000));
    assert_eq!(asked_at_zero, [open(Slot::At(0), 0)]);
}

#[test]
fn a_quiet_stream_may_end_without_a_failure() {
    let mut machine = appending(plan(), 1);
    let answer = vec![result(1, Status::Ok, 0, 10)];
    machine
        .handle_appended(at(1), FIRST, &appended(1, answer))
        .unwrap();
    all(&mut machine, at(1));
    machine.handle_stream_ended(at(500), FIRST, None, Duration::ZERO);
    let close = Action::Close { stream: FIRST };
    assert_eq!(all(&mut machine, at(500)), [close]);
    machine.add(2, append(10));
    assert_eq!(all(&mut machine, at(501)), [open(TAIL, 1)], "at once");
}

#[test]
fn a_session_that_is_over_ends_all_and_tells_what_was_sent() {
    let over = |sent| Outcome::SessionOver { sent };
    let mut machine = in_doubt(plan(), 1);
    machine.add(2, append(10));
    machine.handle_located(at(101), 0, located(HANDLE, 1, ChunkState::Open));
    all(&mut machine, at(101));
    let unknown = Some(Status::SessionUnknown);
    machine.handle_open_failed(at(102), Slot::At(0), unknown, Duration::ZERO);
    let both = [ended(1, over(true)), ended(2, over(false))];
    assert_eq!(all(&mut machine, at(102)), both);
    assert!(machine.is_idle());
    // A holder may be the one that tells.
    let mut machine = in_doubt(plan(), 1);
    machine.handle_located(at(101), 0, located(HANDLE, 2, ChunkState::Sealed));
    all(&mut machine, at(101));
    machine.handle_find_failed(at(102), FindId(1), unknown);
    assert_eq!(all(&mut machine, at(102)), [ended(1, over(true))]);
}

/// A stream of the session before ended all that had gone under the next one.
#[test]
fn a_stream_of_a_session_before_says_nothing_of_this_one() {
    let mut machine = appending(plan(), 2);
    let unknown = Some(Status::SessionUnknown);
    let other = StreamId(FIRST.0 + 77);
    machine.handle_stream_ended(at(1), other, unknown, Duration::ZERO);
    assert_eq!(all(&mut machine, at(1)), []);
    machine.handle_stream_ended(at(1), FIRST, unknown, Duration::ZERO);
    let over = Outcome::SessionOver { sent: true };
    let ends = all(&mut machine, at(1));
    assert!(
        ends.contains(&ended(1, over)) && ends.contains(&ended(2, over)),
        "{ends:?}"
    );
}

#[test]
fn what_may_pass_is_asked_again_until_the_patience_is_over() {
    let mut machine = in_doubt(plan(), 1);
    machine.add(2, append(10));
    let mut now = at(101);
    let mut asked = 0;
    let ends = loop {
        machine.handle_locate_failed(now, 0, Duration::ZERO);
        let actions = all(&mut machine, now);
        match actions.first() {
            Some(Action::Locate { index: 0 }) => asked += 1,
            Some(_) => break actions,
            None => now = machine.wake_at(now).unwrap(),
        }
        assert!(now < at(32_000));
    };
    assert!(asked > 20, "{asked}");
    // The one that waits was held up by it, and has its own time.
    assert_eq!(ends, [ended(1, Outcome::InDoubt), open(TAIL, 1)]);
    let ends = loop {
        let busy = Some(Status::TooFewServers);
        machine.handle_open_failed(now, TAIL, busy, Duration::ZERO);
        let actions = all(&mut machine, now);
        match actions.first() {
            Some(Action::Open { .. }) => {}
            Some(_) => break actions,
            None => now = machine.wake_at(now).unwrap(),
        }
    };
    assert_eq!(ends, [ended(2, Outcome::NotNow)]);
    assert_eq!(machine.wake_at(now), None);
}

#[test]
fn a_final_refusal_ends_what_was_not_sent_and_nothing_else() {
    // A file in the trash is not opened, and its open chunk is sealed in the end.
    let mut machine = in_doubt(plan(), 1);
    machine.handle_located(at(101), 0, located(HANDLE, 1, ChunkState::Open));
    all(&mut machine, at(101));
    machine.handle_open_failed(at(102), Slot::At(0), Some(Status::NotFound), Duration::ZERO);
    let now = machine.wake_at(at(102)).unwrap();
    assert_eq!(all(&mut machine, now), [Action::Locate { index: 0 }]);
    machine.handle_located(now, 0, located(HANDLE, 2, ChunkState::Sealed));
    assert_eq!(all(&mut machine, now), [find(1, 2, 4, &[1])]);
    machine.handle_found(now, FindId(1), &found(&[]));
    assert_eq!(all(&mut machine, now), [open(TAIL, 1)]);
    machine.handle_open_failed(now, TAIL, Some(Status::NotFound), Duration::ZERO);
    let outcome = Outcome::Refused(Status::NotFound);
    assert_eq!(all(&mut machine, now), [ended(1, outcome)]);
}

/// A change failed for a while and was refused then, or its chunk went. The next one, much later, was refused without
/// a question: it had been "waited for" since the first failure.
#[test]
fn what_nobody_waits_for_has_not_failed_the_next() {
    let (busy, no_space) = (Some(Status::TooFewServers), Some(Status::NoSpace));
    let refused = Outcome::Refused(Status::NoSpace);
    let slot = Slot::At(0);
    for (what, slot) in [(write(0, 7), slot), (append(10), TAIL)] {
        let mut machine = Mutations::new(plan());
        machine.add(1, what);
        assert_eq!(all(&mut machine, at(0)), [open(slot, 0)]);
        machine.handle_open_failed(at(1), slot, busy, Duration::ZERO);
        assert_eq!(all(&mut machine, at(1)), [open(slot, 0)]);
        machine.handle_open_failed(at(2), slot, no_space, Duration::ZERO);
        assert_eq!(all(&mut machine, at(2)), [ended(1, refused)]);
        machine.add(2, what);
        assert_eq!(all(&mut machine, at(40_000)), [open(slot, 0)], "{what:?}");
    }
    let mut machine = Mutations::new(plan());
    machine.add(1, write(0, 7));
    all(&mut machine, at(0));
    machine.handle_opened(at(0), slot, opened(0, HANDLE, 1));
    all(&mut machine, at(0));
    machine.handle_stream_opened(at(0), FIRST).unwrap();
    all(&mut machine, at(0));
    machine.handle_stream_ended(at(1), FIRST, None, Duration::ZERO);
    all(&mut machine, at(1));
    machine.handle_located(at(2), 0, None);
    assert_eq!(all(&mut machine, at(2)), [ended(1, Outcome::ChunkGone)]);
    machine.add(2, write(0, 7));
    assert_eq!(all(&mut machine, at(40_000)), [open(slot, 1)]);
}

/// A chunk that was called full took records again, as one does that was cut: when its primary was lost long
/// after, what waited was refused without a question.
#[test]
fn a_record_that_the_last_chunk_takes_ends_the_wait_for_the_next() {
    let mut machine = appending(plan(), 1);
    let full = vec![result(1, Status::ChunkFull, 0, 0)];
    machine
        .handle_appended(at(1), FIRST, &appended(1, full))
        .unwrap();
    all(&mut machine, at(1));
    machine.handle_opened(at(2), last(HANDLE), opened(0, HANDLE, 1));
    let now = machine.wake_at(at(2)).unwrap();
    machine.add(2, append(10));
    assert_eq!(all(&mut machine, now), [sends(FIRST, &[1, 2])]);
    let one = vec![result(1, Status::Ok, 0, 10)];
    machine
        .handle_appended(at(1_000), FIRST, &appended(1, one))
        .unwrap();
    let two = vec![result(2, Status::PromiseRefused, 0, 0)];
    machine
        .handle_appended(at(40_000), FIRST, &appended(1, two))
        .unwrap();
    let close = Action::Close { stream: FIRST };
    let first = done(1, 0, HANDLE, 0);
    let reopen = open(last(HANDLE), 1);
    assert_eq!(all(&mut machine, at(40_000)), [first, close, reopen]);
}

#[test]
fn streams_that_nothing_waits_for_are_few() {
    let mut machine = Mutations::new(plan());
    for index in 0..5 {
        let chunk = opened(index, ChunkHandle(100 + u64::from(index)), 1);
        let number = u64::from(index) + 1;
        machine.add(number, write(index, 0));
        all(&mut machine, at(0));
        machine.handle_opened(at(0), Slot::At(index), chunk.clone());
        let stream = StreamId(number);
        let mut expected = vec![connect(stream, &chunk)];
        if index >= 3 {
            let stream = StreamId(number - 3);
            expected.insert(0, Action::Close { stream });
        }
        assert_eq!(all(&mut machine, at(0)), expected);
        machine.handle_stream_opened(at(0), stream).unwrap();
        all(&mut machine, at(0));
        machine.handle_ack(at(0), stream, &ack(1)).unwrap();
        all(&mut machine, at(0));
    }
}
