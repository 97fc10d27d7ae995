mod attacks;

use super::*;
use sarsen_protocol::id::{DirectoryId, FileId, ServerId, SessionId};
use sarsen_protocol::message::NewChunk;

const HANDLE: ChunkHandle = ChunkHandle(0xbeef);
const EPOCH: Epoch = Epoch {
    number: 3,
    incarnation: 33,
};
const START: StartNumber = StartNumber(5);
const BASE: Sealed = Sealed {
    version: ChunkVersion(1),
    length: 4000,
    crc32: 0x1234,
};
/// What every length and number of ids is told as: they are the store's.
const LENGTH: u32 = 7000;
const IDS: u32 = 9;

fn me(server: u64) -> MemberState {
    MemberState {
        server: ServerId(server),
        directory_id: DirectoryId([7; 16]),
        start_number: START,
    }
}

/// A member that is sealed in version 1, with serial 4.
fn sealed(server: u64) -> Member {
    let found = Found {
        promised: ChunkVersion(1),
        version: ChunkVersion(1),
        serial: Serial(4),
        commit_mark: Serial(4),
        base: BASE,
        ..Found::default()
    };
    Member::recovered(HANDLE, me(server), &found)
}

fn promise(version: u64) -> Order {
    Order::Promise(Promise {
        epoch: EPOCH,
        handle: HANDLE,
        version: ChunkVersion(version),
    })
}

fn keep_promise(version: u64) -> Action {
    Action::KeepPromise {
        version: ChunkVersion(version),
        epoch: EPOCH,
    }
}

const fn apply(serial: Serial) -> Action {
    Action::Apply {
        first: serial,
        last: serial,
    }
}

fn begin_in(version: u64, serial: u64, start_number: StartNumber) -> Begin {
    Begin {
        epoch: EPOCH,
        handle: HANDLE,
        version: ChunkVersion(version),
        serial: Serial(serial),
        start_number,
        directory_id: DirectoryId([7; 16]),
        memory: false,
        create: None,
    }
}

fn begin(version: u64, serial: u64) -> Order {
    Order::Begin(begin_in(version, serial, START))
}

fn create(version: u64) -> Order {
    Order::Begin(Begin {
        create: Some(NEW),
        ..begin_in(version, 0, START)
    })
}

const NEW: NewChunk = NewChunk {
    file_id: FileId(8),
    index: 2,
    chunk_size: 1 << 20,
    clone: None,
};

fn prepare(version: u64, serial: u64) -> Order {
    Order::PrepareSeal(PrepareSeal {
        epoch: EPOCH,
        handle: HANDLE,
        version: ChunkVersion(version),
        serial: Serial(serial),
        start_number: START,
        length: None,
        sessions_end: SessionId(2),
    })
}

fn settle(version: u64, crc32: u32) -> Order {
    Order::Settle(Settle {
        epoch: EPOCH,
        handle: HANDLE,
        version: ChunkVersion(version),
        length: LENGTH,
        crc32,
    })
}

fn prepared_seal(version: u64, serial: u64) -> PreparedSeal {
    PreparedSeal {
        version: ChunkVersion(version),
        serial: Serial(serial),
        length: LENGTH,
        crc32: 0x77,
        id_table_length: 32,
        id_table_crc32: 0x88,
    }
}

fn actions(member: &mut Member) -> Vec<Action> {
    std::iter::from_fn(|| member.poll_action()).collect()
}

/// Gives an order, lets the disk do what it asks for at once, and tells the answer.
fn order(member: &mut Member, order: Order) -> Result<Answer, Status> {
    member.handle_order(1, order);
    let mut answered = None;
    while let Some(action) = member.poll_action() {
        match action {
            Action::Apply { last, .. } => member.handle_applied(last),
            Action::EndStream => {}
            Action::KeepPromise { .. } => member.handle_done(Done::PromiseKept {
                length: LENGTH,
                ids: IDS,
            }),
            Action::Make { .. } | Action::Begin { .. } => {
                member.handle_done(Done::Begun { length: LENGTH });
            }
            Action::Prepare { version, .. } => {
                let (_, serial) = member.has();
                member.handle_done(Done::Prepared(prepared_seal(version.0, serial.0)));
            }
            Action::Settle(_) => member.handle_done(Done::Settled),
            Action::Answer { to, answer } => {
                assert_eq!(to, 1);
                let answer = answer.map_err(|(status, _)| status);
                assert_eq!(answered.replace(answer), None, "answered twice");
            }
        }
    }
    answered.expect("an answer")
}

fn serial_promised(answer: Result<Answer, Status>) -> u64 {
    match answer {
        Ok(Answer::Promised(promised)) => promised.serial.0,
        other => panic!("{other:?}"),
    }
}

/// Lets a mutation come, and be applied.
fn mutate(member: &mut Member, version: u64, serial: u64) -> Result<(), Status> {
    member
        .handle_mutations(ChunkVersion(version), Serial(serial), Serial(serial))
        .map_err(|(status, _)| status)?;
    assert_eq!(actions(member), [apply(Serial(serial))]);
    member.handle_applied(Serial(serial));
    Ok(())
}

fn open(member: &mut Member, version: u64, serial: u64) -> Result<(), Status> {
    let opened = member.handle_open(ChunkVersion(version), Serial(serial));
    opened.map_err(|(status, _)| status)
}

/// A member that is active in version 2, from serial 4 on, with mutations up to `serial`.
fn active(server: u64, serial: u64) -> Member {
    let mut member = sealed(server);
    assert_eq!(serial_promised(order(&mut member, promise(2))), 4);
    assert!(order(&mut member, begin(2, 4)).is_ok());
    open(&mut member, 2, 4).expect("opens");
    for serial in 5..=serial {
        mutate(&mut member, 2, serial).expect("applies");
    }
    member
}

/// The same after its process was killed and started again: what was applied is there.
fn restarted(member: &Member, server: u64) -> Member {
    let found = Found {
        promised: member.promised,
        version: member.version,
        begin_serial: member.begin_serial,
        serial: member.applied,
        commit_mark: member.commit_mark,
        base: member.base,
        is_open: !member.is_still_base,
        prepared: member.prepared,
    };
    let me = MemberState {
        start_number: StartNumber(START.0 + 1),
        ..me(server)
    };
    Member::recovered(HANDLE, me, &found)
}

#[test]
fn from_sealed_to_active_step_by_step() {
    let mut member = sealed(1);
    member.handle_order(1, promise(2));
    assert_eq!(actions(&mut member), [keep_promise(2)]);
    member.handle_done(Done::PromiseKept {
        length: 4000,
        ids: IDS,
    });
    let promised = Promised {
        version: ChunkVersion(1),
        begin_serial: Serial::NONE,
        serial: Serial(4),
        commit_mark: Serial(4),
        length: 4000,
        ids: IDS,
        state: ChunkState::Sealed,
        flags: HeldFlags::NONE,
        member: me(1),
        base_version: BASE.version,
        base_length: BASE.length,
        base_crc32: BASE.crc32,
        prepared: PreparedSeal::NONE,
    };
    let answer = |to, answer| Action::Answer {
        to,
        answer: Box::new(Ok(answer)),
    };
    let kept = answer(1, Answer::Promised(promised));
    assert_eq!(actions(&mut member), [kept]);

    // It takes the serial of a holder that has the same bytes and a higher one.
    member.handle_order(2, begin(2, 6));
    let begin = Action::Begin {
        version: ChunkVersion(2),
        serial: Serial(6),
        memory: false,
    };
    assert_eq!(actions(&mut member), [begin]);
    member.handle_done(Done::Begun { length: 4000 });
    let begun = Begun {
        serial: Serial(6),
        length: 4000,
        member: me(1),
    };
    assert_eq!(actions(&mut member), [answer(2, Answer::Begun(begun))]);
    assert_eq!(member.state(), State::Begun);
    assert_eq!(
        member.sealed(),
        Some(BASE),
        "until it is known to be active"
    );
    assert_eq!(mutate(&mut member, 2, 7), Err(Status::PromiseRefused));

    open(&mut member, 2, 6).expect("opens");
    assert_eq!((member.state(), member.sealed()), (State::Active, None));
    assert_eq!(member.commit_mark(), Serial(6));
    mutate(&mut member, 2, 7).expect("applies");
    assert_eq!(member.has(), (ChunkVersion(2), Serial(7)));
}

#[test]
fn a_seal_is_prepared_beside_and_settled_once_it_is_logged() {
    let mut member = active(1, 6);
    order(&mut member, promise(3)).expect("promises");
    assert_eq!(member.state(), State::Idle);
    member.handle_order(2, prepare(3, 6));
    let begin = Action::Begin {
        version: ChunkVersion(3),
        serial: Serial(6),
        memory: false,
    };
    assert_eq!(actions(&mut member), [begin]);
    member.handle_done(Done::Begun { length: LENGTH });
    let seal = Action::Prepare {
        version: ChunkVersion(3),
        length: None,
        sessions_end: SessionId(2),
    };
    assert_eq!(actions(&mut member), [seal]);
    member.handle_done(Done::Prepared(prepared_seal(3, 6)));
    assert_eq!(actions(&mut member).len(), 1);
    assert_eq!((member.state(), member.sealed()), (State::Prepared, None));

    // Asked again it answers again, and writes nothing.
    member.handle_order(3, prepare(3, 6));
    let prepared = SealPrepared {
        prepared: prepared_seal(3, 6),
        member: me(1),
    };
    let again = Action::Answer {
        to: 3,
        answer: Box::new(Ok(Answer::Prepared(prepared))),
    };
    assert_eq!(actions(&mut member), [again]);

    assert_eq!(
        order(&mut member, settle(3, 0x78)),
        Err(Status::SealMismatch)
    );
    assert_eq!(order(&mut member, settle(4, 0x77)), Err(Status::Moved));
    assert_eq!(order(&mut member, settle(3, 0x77)), Ok(Answer::Settled));
    assert_eq!(member.state(), State::Sealed);
    assert_eq!(order(&mut member, settle(3, 0x77)), Ok(Answer::Settled));
    assert_eq!(
        order(&mut member, settle(3, 0x78)),
        Err(Status::SealMismatch)
    );
}

#[test]
fn a_begin_of_a_newer_version_voids_a_preparation() {
    let mut member = active(1, 6);
    order(&mut member, promise(3)).expect("promises");
    order(&mut member, prepare(3, 6)).expect("prepares");
    let told = order(&mut member, promise(4));
    assert!(matches!(told, Ok(Answer::Promised(promised))
        if promised.prepared == prepared_seal(3, 6)
        && promised.flags == HeldFlags::PREPARED
        && promised.state == ChunkState::Open));
    order(&mut member, begin(4, 6)).expect("begins");
    assert_eq!(member.state(), State::Begun);
    // The seal of an attempt that was given up settles nothing.
    assert_eq!(order(&mut member, settle(3, 0x77)), Err(Status::Moved));
}

#[test]
fn a_restart_finds_a_preparation_and_settles_it() {
    let mut member = active(1, 6);
    order(&mut member, promise(3)).expect("promises");
    order(&mut member, prepare(3, 6)).expect("prepares");
    let mut member = restarted(&member, 1);
    assert_eq!(member.state(), State::Prepared);
    assert_eq!(order(&mut member, settle(3, 0x77)), Ok(Answer::Settled));
}

#[test]
fn a_chunk_that_is_not_here_is_made_by_a_begin_and_by_nothing_else() {
    let mut member = Member::absent(HANDLE, me(1));
    assert_eq!(order(&mut member, promise(2)), Err(Status::ChunkUnknown));
    assert_eq!(order(&mut member, begin(2, 0)), Err(Status::ChunkUnknown));
    assert_eq!(order(&mut member, settle(2, 0)), Err(Status::Moved));
    let elsewhen = Begin {
        create: Some(NEW),
        ..begin_in(2, 0, StartNumber(4))
    };
    assert_eq!(
        order(&mut member, Order::Begin(elsewhen)),
        Err(Status::StaleStart)
    );
    member.handle_order(1, create(2));
    let make = Action::Make {
        version: ChunkVersion(2),
        serial: Serial::NONE,
        memory: false,
        chunk: NEW,
    };
    assert_eq!(actions(&mut member), [make]);
    member.handle_done(Done::Begun { length: 0 });
    actions(&mut member);
    assert!(order(&mut member, create(2)).is_ok(), "asked again");
    assert_eq!(order(&mut member, create(3)), Err(Status::ChunkExists));
    open(&mut member, 2, 0).expect("opens");
    mutate(&mut member, 2, 1).expect("applies");
}

#[test]
fn a_promise_is_refused_below_another_and_answered_again_as_before() {
    let mut member = active(1, 6);
    let first = order(&mut member, promise(5));
    assert_eq!(order(&mut member, promise(5)), first);
    assert_eq!(order(&mut member, promise(4)), Err(Status::PromiseRefused));
    let other_epoch = Order::Promise(Promise {
        epoch: Epoch {
            number: 4,
            incarnation: 44,
        },
        handle: HANDLE,
        version: ChunkVersion(5),
    });
    assert_eq!(order(&mut member, other_epoch), Err(Status::PromiseRefused));
    member.handle_order(9, promise(4));
    let [Action::Answer { to: 9, answer }] = &actions(&mut member)[..] else {
        panic!("one answer");
    };
    let (_, error) = answer.as_ref().as_ref().expect_err("refused");
    assert_eq!((error.version, error.serial), member.has(), "what it has");
    order(&mut member, begin(5, 6)).expect("begins");
    assert_eq!(order(&mut member, promise(5)), Err(Status::PromiseRefused));
}

#[test]
fn a_begin_wants_the_version_promised_the_start_and_the_serials() {
    let mut member = active(1, 6);
    assert_eq!(order(&mut member, begin(3, 6)), Err(Status::PromiseRefused));
    order(&mut member, promise(3)).expect("promises");
    assert_eq!(order(&mut member, begin(4, 6)), Err(Status::PromiseRefused));
    assert_eq!(
        order(&mut member, prepare(4, 6)),
        Err(Status::PromiseRefused)
    );
    let elsewhen = Order::Begin(begin_in(3, 6, StartNumber(4)));
    assert_eq!(order(&mut member, elsewhen), Err(Status::StaleStart));
    assert_eq!(order(&mut member, begin(3, 7)), Err(Status::Behind));
    assert_eq!(order(&mut member, prepare(3, 7)), Err(Status::Behind));
    assert_eq!(
        member.has(),
        (ChunkVersion(2), Serial(6)),
        "nothing changed"
    );
    order(&mut member, begin(3, 5)).expect("begins");
    assert_eq!(member.has(), (ChunkVersion(3), Serial(5)));
}

#[test]
fn a_promise_waits_for_the_writes_that_are_under_way_and_orders_for_the_promise() {
    let mut member = active(1, 5);
    let (six, seven) = (Serial(6), Serial(7));
    for serial in [six, seven] {
        let came = member.handle_mutations(ChunkVersion(2), serial, serial);
        assert_eq!(came, Ok(()));
    }
    member.handle_order(1, promise(3));
    member.handle_order(2, begin(3, 7));
    let expected = [apply(six), apply(seven), Action::EndStream];
    assert_eq!(actions(&mut member), expected);
    let late = member.handle_mutations(ChunkVersion(2), Serial(8), Serial(8));
    assert_eq!(
        late.map_err(|(status, _)| status),
        Err(Status::PromiseRefused)
    );
    member.handle_applied(six);
    assert_eq!(actions(&mut member), []);
    member.handle_applied(seven);
    assert_eq!(actions(&mut member), [keep_promise(3)]);
    member.handle_done(Done::PromiseKept {
        length: LENGTH,
        ids: IDS,
    });
    let [Action::Answer { to: 1, .. }, Action::Begin { .. }] = actions(&mut member)[..] else {
        panic!("the answer, then the order that waited");
    };
}

/// Else a promise would wait for ever for what never comes.
#[test]
fn what_can_not_be_applied_ends_the_stream_and_holds_up_no_promise() {
    let mut member = active(1, 5);
    let come = |member: &mut Member, serial| {
        let came = member.handle_mutations(ChunkVersion(2), Serial(serial), Serial(serial));
        assert_eq!(came, Ok(()));
    };
    come(&mut member, 6);
    come(&mut member, 7);
    assert_eq!(actions(&mut member).len(), 2);
    come(&mut member, 8);
    member.handle_not_applied(Serial(7));
    assert_eq!(
        actions(&mut member),
        [Action::EndStream],
        "8 is not applied"
    );
    member.handle_order(1, promise(3));
    assert_eq!(actions(&mut member), [], "6 is under way still");
    member.handle_applied(Serial(6));
    assert_eq!(actions(&mut member), [keep_promise(3)]);
    assert_eq!(member.has(), (ChunkVersion(2), Serial(6)));
}

#[test]
fn what_fails_in_doubt_poisons_for_good() {
    let mut member = active(1, 6);
    member.handle_order(1, promise(3));
    actions(&mut member);
    member.handle_failed(Status::MediumFailed, "the sync failed", true);
    let [Action::Answer { to: 1, answer }] = &actions(&mut member)[..] else {
        panic!("one answer");
    };
    assert!(matches!(**answer, Err((Status::MediumFailed, _))));
    for refused in [promise(4), begin(3, 6), prepare(3, 6), settle(3, 0x77)] {
        assert_eq!(order(&mut member, refused), Err(Status::Poisoned));
    }
    assert_eq!(open(&mut member, 3, 6), Err(Status::Poisoned));
    assert_eq!(member.sealed(), None);
}

/// A full disk, or no descriptor. The master asks the same again, and nobody else can answer for it.
#[test]
fn a_promise_that_could_not_be_kept_is_made_when_it_is_asked_again() {
    let mut member = active(1, 6);
    for _ in 0..2 {
        member.handle_order(1, promise(3));
        assert_eq!(actions(&mut member).last(), Some(&keep_promise(3)));
        member.handle_failed(Status::NoSpace, "no room", false);
        let [Action::Answer { to: 1, answer }] = &actions(&mut member)[..] else {
            panic!("one answer");
        };
        assert!(matches!(**answer, Err((Status::NoSpace, _))));
        assert_eq!(order(&mut member, promise(2)), Err(Status::PromiseRefused));
        assert_eq!(order(&mut member, begin(3, 6)), Err(Status::PromiseRefused));
    }
    assert_eq!(serial_promised(order(&mut member, promise(3))), 6);
    assert_eq!(
        serial_promised(order(&mut member, promise(3))),
        6,
        "as before"
    );
    assert!(order(&mut member, begin(3, 6)).is_ok());
    assert_eq!(order(&mut member, promise(3)), Err(Status::PromiseRefused));
}

/// A promise, and a beginning, change nothing of what was sealed.
#[test]
fn a_sealed_chunk_whose_directory_fails_is_read_and_takes_no_order() {
    for is_begun in [false, true] {
        let mut member = sealed(1);
        if is_begun {
            order(&mut member, promise(2)).expect("promises");
            member.handle_order(1, begin(2, 4));
        } else {
            member.handle_order(1, promise(2));
        }
        actions(&mut member);
        member.handle_failed(Status::Poisoned, "the journal has failed", true);
        actions(&mut member);
        assert_eq!(member.sealed(), Some(BASE));
        assert_eq!(order(&mut member, promise(3)), Err(Status::Poisoned));
        assert_eq!(member.sealed(), Some(BASE));
    }
}

#[test]
fn a_seal_that_finds_no_room_leaves_the_chunk_and_can_be_asked_for_again() {
    let mut member = active(1, 6);
    order(&mut member, promise(3)).expect("promises");
    member.handle_order(1, prepare(3, 6));
    member.handle_done(Done::Begun { length: LENGTH });
    actions(&mut member);
    member.handle_failed(Status::NoSpace, "no room", false);
    actions(&mut member);
    assert_eq!(member.state(), State::Begun);
    assert!(order(&mut member, prepare(3, 6)).is_ok());
    assert_eq!(member.state(), State::Prepared);
}

#[test]
fn a_gap_in_the_serials_ends_the_stream() {
    let mut member = active(1, 6);
    assert_eq!(mutate(&mut member, 2, 8), Err(Status::OutOfOrder));
    assert_eq!(actions(&mut member), [Action::EndStream]);
    assert_eq!(mutate(&mut member, 2, 7), Err(Status::PromiseRefused));
}

#[test]
fn a_commit_mark_never_passes_what_the_member_has() {
    let mut member = active(1, 6);
    member.handle_commit_mark(ChunkVersion(2), Serial(9));
    assert_eq!(member.commit_mark(), Serial(6));
    member.handle_commit_mark(ChunkVersion(1), Serial(4));
    assert_eq!(member.commit_mark(), Serial(6));
}
