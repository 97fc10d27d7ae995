use sarsen_protocol::id::{ChunkHandle, ChunkVersion, FileId, SessionId};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::ticket::{Claims, Rights, Ticket, chain_crc};

use super::*;

const HANDLE: ChunkHandle = ChunkHandle(9);
const VERSION: ChunkVersion = ChunkVersion(3);
const LEN: u32 = 65_536;

fn open(position: u8, members: u64) -> WriteOpen {
    let hop = |server| Hop {
        server: ServerId(server),
        data_addr: format!("127.0.0.1:{server}"),
    };
    let chain: Vec<Hop> = (1..=members).map(hop).collect();
    let claims = Claims {
        rights: Rights::WRITE,
        key_id: 1,
        handle: HANDLE,
        version: VERSION,
        expiry: u64::MAX,
        file_id: FileId(1),
        session: SessionId(1),
        epoch: 1,
        chain_crc: chain_crc(&chain),
    };
    WriteOpen {
        ticket: Ticket::sign(claims, &SecretKey::new([0; 32])),
        handle: HANDLE,
        version: VERSION,
        file_id: FileId(1),
        index: 0,
        room: 0,
        begin_serial: Serial::NONE,
        lock_token: 0,
        level: Level::Disk,
        position,
        chain,
    }
}

/// The stream of the member at `position`, past its opening.
fn opened(position: u8, members: u64) -> ReplicaStream {
    let mut stream = ReplicaStream::new(ServerId(u64::from(position) + 1), open(position, members));
    stream.handle_prepared();
    if stream.next_hop().is_some() {
        stream.handle_next_opened();
    }
    actions(&mut stream);
    stream
}

fn actions(stream: &mut ReplicaStream) -> Vec<Action> {
    std::iter::from_fn(|| stream.poll_action()).collect()
}

fn data(serial: u64, offset: u32) -> WriteData {
    WriteData {
        handle: HANDLE,
        version: VERSION,
        serial: Serial(serial),
        commit_mark: Serial::NONE,
        request: None,
        offset,
        level: Level::Disk,
        crcs: crcs(),
    }
}

fn crcs() -> Crcs {
    Crcs::new(&[7]).expect("one")
}

fn store(serial: u64, offset: u32) -> Action {
    Action::Store {
        serial: Serial(serial),
        offset,
        len: LEN,
        crcs: crcs(),
    }
}

fn ack(serial: u64, commit_mark: u64, copies: u8) -> WriteAck {
    WriteAck {
        serial: Serial(serial),
        commit_mark: Serial(commit_mark),
        level: Level::Memory,
        copies,
    }
}

fn seal(length: u32) -> WriteSeal {
    WriteSeal {
        handle: HANDLE,
        version: VERSION,
        length,
        crc32: 5,
        level: Level::Disk,
    }
}

fn sealed(length: u32, servers: &[u64]) -> WriteSealed {
    let member = |&server| MemberLevel {
        server: ServerId(server),
        level: Level::Disk,
    };
    WriteSealed {
        length,
        crc32: 5,
        members: servers.iter().map(member).collect(),
    }
}

fn failure(stream: &mut ReplicaStream) -> (Kind, Status, u64) {
    match actions(stream).as_slice() {
        [Action::Fail(failure)] => (failure.kind, failure.status, failure.error.server.0),
        other => panic!("not one failure: {other:?}"),
    }
}

#[test]
fn the_opening_is_answered_when_this_and_all_behind_are_ready() {
    let mut stream = ReplicaStream::new(ServerId(1), open(0, 2));
    assert_eq!(
        actions(&mut stream),
        [Action::Prepare, Action::OpenNext(open(1, 2))]
    );
    stream.handle_prepared();
    assert_eq!(actions(&mut stream), []);
    stream.handle_next_opened();
    assert_eq!(actions(&mut stream), [Action::AnswerOpened]);

    let mut last = ReplicaStream::new(ServerId(2), open(1, 2));
    assert_eq!(actions(&mut last), [Action::Prepare]);
    last.handle_prepared();
    assert_eq!(actions(&mut last), [Action::AnswerOpened]);
}

#[test]
fn data_may_come_before_the_opening_is_answered_and_is_acknowledged_after() {
    let mut stream = ReplicaStream::new(ServerId(1), open(0, 2));
    actions(&mut stream);
    stream.handle_data(&data(1, 0), LEN);
    assert_eq!(
        actions(&mut stream),
        [Action::Forward(Serial(1)), store(1, 0)]
    );
    stream.handle_prepared();
    stream.handle_stored(Serial(1));
    assert_eq!(actions(&mut stream), []);
    stream.handle_next_opened();
    assert_eq!(actions(&mut stream), [Action::AnswerOpened]);
    stream.handle_next_ack(&ack(1, 0, 1));
    assert_eq!(actions(&mut stream), [Action::AnswerAck(ack(1, 1, 2))]);
}

#[test]
fn an_ack_waits_for_the_own_write_and_for_the_next_hop() {
    let mut stream = opened(0, 3);
    for (serial, offset) in [(1, 0), (2, LEN), (3, 2 * LEN)] {
        stream.handle_data(&data(serial, offset), LEN);
    }
    assert_eq!(actions(&mut stream).len(), 6);
    stream.handle_stored(Serial(3));
    assert_eq!(actions(&mut stream), [], "the next hop has nothing yet");
    stream.handle_next_ack(&ack(2, 0, 2));
    assert_eq!(
        actions(&mut stream),
        [Action::AnswerAck(ack(2, 2, 3))],
        "cumulative"
    );
    stream.handle_next_ack(&ack(3, 0, 2));
    assert_eq!(actions(&mut stream), [Action::AnswerAck(ack(3, 3, 3))]);

    let mut middle = opened(1, 3);
    middle.handle_data(&data(1, 0), LEN);
    actions(&mut middle);
    middle.handle_next_ack(&ack(1, 0, 1));
    assert_eq!(actions(&mut middle), [], "not written here");
    middle.handle_stored(Serial(1));
    assert_eq!(actions(&mut middle), [Action::AnswerAck(ack(1, 0, 2))]);
}

#[test]
fn the_seal_follows_the_writes_and_names_every_member() {
    let mut stream = opened(0, 3);
    stream.handle_data(&data(1, 0), LEN);
    actions(&mut stream);
    stream.handle_seal(&seal(LEN));
    assert_eq!(
        actions(&mut stream),
        [Action::ForwardSeal(seal(LEN)), Action::Seal(seal(LEN))]
    );
    stream.handle_stored(Serial(1));
    assert_eq!(actions(&mut stream), []);
    stream.handle_sealed(Level::Disk);
    assert_eq!(actions(&mut stream), []);
    assert_eq!(stream.due(), Due::NextHop);
    // The next hop's seal acknowledges its data too.
    stream.handle_next_sealed(&sealed(LEN, &[2, 3]));
    assert_eq!(
        actions(&mut stream),
        [
            Action::AnswerAck(ack(1, 1, 3)),
            Action::AnswerSealed(sealed(LEN, &[1, 2, 3]))
        ]
    );
    assert!(stream.is_over());
    assert_eq!(stream.due(), Due::Nothing);
}

/// All that is to be done was wanted one after the other, each with a hand-over to another thread.
#[test]
fn a_small_chunk_is_wanted_whole_and_answered_when_the_next_hop_has_it() {
    let mut stream = ReplicaStream::new(ServerId(1), open(0, 2));
    stream.handle_data(&data(1, 0), LEN);
    stream.handle_seal(&seal(LEN));
    let wanted = actions(&mut stream);
    let of_the_store = wanted.iter().filter(|action| {
        matches!(
            action,
            Action::Prepare | Action::Store { .. } | Action::Seal(_)
        )
    });
    assert_eq!(of_the_store.count(), 3, "{wanted:?}");
    assert_eq!(wanted.len(), 6, "and the next hop gets all of it");
    stream.handle_prepared();
    stream.handle_stored(Serial(1));
    stream.handle_sealed(Level::Disk);
    assert_eq!(actions(&mut stream), [], "the next hop has not opened");
    stream.handle_next_opened();
    assert_eq!(actions(&mut stream), [Action::AnswerOpened]);
    stream.handle_next_sealed(&sealed(LEN, &[2]));
    assert_eq!(
        actions(&mut stream),
        [
            Action::AnswerAck(ack(1, 1, 2)),
            Action::AnswerSealed(sealed(LEN, &[1, 2]))
        ]
    );
}

#[test]
fn an_empty_chunk_is_sealed_at_once() {
    let mut stream = opened(0, 1);
    stream.handle_seal(&seal(0));
    assert_eq!(actions(&mut stream), [Action::Seal(seal(0))]);
    stream.handle_sealed(Level::Disk);
    assert_eq!(
        actions(&mut stream),
        [Action::AnswerSealed(sealed(0, &[1]))]
    );
}

#[test]
fn what_does_not_follow_is_out_of_order() {
    let cases: [fn(&mut ReplicaStream); 5] = [
        |stream| stream.handle_data(&data(3, LEN), LEN),
        |stream| stream.handle_data(&data(1, LEN), LEN),
        |stream| stream.handle_data(&data(2, 2 * LEN), LEN),
        |stream| stream.handle_data(&data(2, 0), LEN),
        |stream| {
            stream.handle_seal(&seal(LEN));
            stream.handle_data(&data(2, LEN), LEN);
        },
    ];
    for (n, case) in cases.into_iter().enumerate() {
        let mut stream = opened(0, 1);
        stream.handle_data(&data(1, 0), LEN);
        actions(&mut stream);
        case(&mut stream);
        assert_eq!(
            failure(&mut stream),
            (Kind::WriteAck, Status::OutOfOrder, 1),
            "case {n}"
        );
        stream.handle_stored(Serial(1));
        stream.handle_data(&data(2, LEN), LEN);
        assert_eq!(actions(&mut stream), [], "nothing after a failure");
    }
}

#[test]
fn another_chunk_or_a_higher_level_is_not_what_the_stream_is_open_for() {
    let mut wrong = data(1, 0);
    wrong.version = ChunkVersion(4);
    let mut stream = opened(0, 1);
    stream.handle_data(&wrong, LEN);
    assert_eq!(
        failure(&mut stream),
        (Kind::WriteAck, Status::InvalidArgument, 1)
    );

    let mut memory_only = open(0, 1);
    memory_only.level = Level::Memory;
    let mut stream = ReplicaStream::new(ServerId(1), memory_only);
    stream.handle_prepared();
    actions(&mut stream);
    stream.handle_seal(&seal(0));
    assert_eq!(
        failure(&mut stream),
        (Kind::WriteAck, Status::InvalidArgument, 1)
    );
}

#[test]
fn a_seal_of_another_length_is_a_mismatch_and_is_not_forwarded() {
    let mut stream = opened(0, 2);
    stream.handle_seal(&seal(1));
    assert_eq!(
        failure(&mut stream),
        (Kind::WriteAck, Status::SealMismatch, 1)
    );
}

#[test]
fn failures_carry_the_kind_that_is_due_and_the_one_to_blame() {
    // While opening: the chunk can't be made here.
    let mut stream = ReplicaStream::new(ServerId(1), open(0, 2));
    actions(&mut stream);
    stream.handle_own_failure(Status::NoSpace, "full");
    assert_eq!(
        failure(&mut stream),
        (Kind::WriteOpened, Status::NoSpace, 1)
    );

    // With data on its way: passed up from further down, unchanged.
    let mut stream = opened(0, 3);
    stream.handle_data(&data(1, 0), LEN);
    actions(&mut stream);
    let told = ErrorBody {
        server: ServerId(3),
        ..ErrorBody::new("rotten")
    };
    stream.handle_next_failure(Status::MediumFailed, told.clone());
    assert_eq!(
        actions(&mut stream),
        [Action::Fail(Failure {
            kind: Kind::WriteAck,
            status: Status::MediumFailed,
            error: told
        })]
    );

    // With everything acknowledged and the seal out: the next hop is gone without a word.
    let mut stream = opened(0, 2);
    stream.handle_seal(&seal(0));
    actions(&mut stream);
    stream.handle_next_gone("closed");
    assert_eq!(
        failure(&mut stream),
        (Kind::WriteSealed, Status::ChainBroken, 2)
    );
    stream.handle_own_failure(Status::NoSpace, "later");
    assert_eq!(
        actions(&mut stream),
        [],
        "the first failure is the one that is told"
    );
}

#[test]
fn a_next_hop_that_says_what_can_not_be_is_blamed() {
    let cases: [fn(&mut ReplicaStream); 7] = [
        |stream| stream.handle_next_opened(),
        |stream| stream.handle_next_ack(&ack(2, 0, 1)),
        |stream| stream.handle_next_ack(&ack(1, 0, 2)),
        |stream| {
            stream.handle_next_ack(&ack(1, 0, 1));
            stream.handle_next_ack(&ack(0, 0, 1));
        },
        |stream| stream.handle_next_sealed(&sealed(LEN, &[2])),
        |stream| {
            stream.handle_seal(&seal(LEN));
            actions(stream);
            stream.handle_next_sealed(&sealed(LEN, &[3]));
        },
        |stream| {
            stream.handle_seal(&seal(LEN));
            actions(stream);
            let mut lower = sealed(LEN, &[2]);
            lower.members[0].level = Level::Memory;
            stream.handle_next_sealed(&lower);
        },
    ];
    for (n, case) in cases.into_iter().enumerate() {
        let mut stream = opened(0, 2);
        stream.handle_data(&data(1, 0), LEN);
        actions(&mut stream);
        case(&mut stream);
        let (_, status, server) = failure(&mut stream);
        assert_eq!((status, server), (Status::ChainBroken, 2), "case {n}");
    }
}

/// A frame is forwarded before it is checked here, so a member behind may be the first to tell of
/// damage that it only passed on: the client would then have avoided an innocent server.
#[test]
fn damage_is_blamed_on_the_first_member_that_has_it() {
    let told = |stream: &mut ReplicaStream| {
        let error = ErrorBody {
            server: ServerId(2),
            ..ErrorBody::new("a piece does not match")
        };
        stream.handle_next_failure(Status::DamagedInTransit, error);
    };
    let mut stream = opened(0, 2);
    stream.handle_data(&data(1, 0), LEN);
    actions(&mut stream);
    told(&mut stream);
    assert_eq!(actions(&mut stream), [], "its own check is still to come");
    stream.handle_own_failure(Status::DamagedInTransit, "a piece does not match");
    let blamed = (Kind::WriteAck, Status::DamagedInTransit, 1);
    assert_eq!(failure(&mut stream), blamed);

    let mut stream = opened(0, 2);
    stream.handle_data(&data(1, 0), LEN);
    actions(&mut stream);
    told(&mut stream);
    stream.handle_stored(Serial(1));
    let blamed = (Kind::WriteAck, Status::DamagedInTransit, 2);
    assert_eq!(failure(&mut stream), blamed, "it was good when it was here");
}

#[test]
fn a_keep_alive_repeats_the_last_ack_and_acknowledges_nothing() {
    let mut stream = ReplicaStream::new(ServerId(1), open(0, 3));
    actions(&mut stream);
    assert_eq!(stream.keep_alive(), Some(ack(0, 0, 3)), "before it is open");
    stream.handle_next_ack(&ack(0, 0, 2));
    assert_eq!(
        actions(&mut stream),
        [],
        "the next hop is not open yet either"
    );
    stream.handle_prepared();
    stream.handle_next_opened();
    assert_eq!(actions(&mut stream), [Action::AnswerOpened]);
    stream.handle_data(&data(1, 0), LEN);
    stream.handle_stored(Serial(1));
    actions(&mut stream);
    stream.handle_next_ack(&ack(0, 0, 2));
    assert_eq!(actions(&mut stream), []);
    stream.handle_next_ack(&ack(1, 0, 2));
    assert_eq!(actions(&mut stream), [Action::AnswerAck(ack(1, 1, 3))]);
    stream.handle_next_ack(&ack(1, 0, 2));
    assert_eq!(actions(&mut stream), []);
    assert_eq!(stream.keep_alive(), Some(ack(1, 1, 3)));
    stream.handle_next_ack(&ack(0, 0, 2));
    let actions = actions(&mut stream);
    assert!(
        matches!(&actions[..], [Action::Fail(_)]),
        "acks never go back"
    );
    assert_eq!(stream.keep_alive(), None);
}
