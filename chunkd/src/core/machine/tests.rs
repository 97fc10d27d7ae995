use sarsen_protocol::id::{
    ChunkHandle, ChunkVersion, FileId, Serial, SessionId, StartNonce, StartNumber,
};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{
    ChunkCopied, ChunkState, ChunkVerified, CopyChunk, CorruptChunk, Disk, DiskState, HeldFlags,
    TicketKey, Verdict,
};
use sarsen_protocol::ticket::{Claims, Rights, Ticket};

use super::registration::{BACK_OFF_MAX, BACK_OFF_MIN};
use super::*;
use crate::core::action::{DeleteOrder, StopReason, ToKeep};

const DIRECTORY: DirectoryId = DirectoryId([1; 16]);
const OTHER: DirectoryId = DirectoryId([2; 16]);
const CLUSTER: ClusterId = ClusterId([3; 16]);
const KEY: TicketKey = TicketKey {
    key_id: 1,
    key: [4; 32],
};
const EPOCH: Epoch = Epoch {
    number: 5,
    incarnation: 50,
};

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn report(directory_id: DirectoryId) -> DirectoryReport {
    DirectoryReport {
        directory_id,
        start_number: StartNumber(1),
        start_nonce: StartNonce(1),
        disk: Disk {
            directory_id,
            path: "/d".into(),
            total: 100,
            free: 50,
            chunks: 0,
            state: DiskState::Ok,
        },
        highest_handle: ChunkHandle(0),
        highest_version: ChunkVersion(0),
        registered_number: StartNumber::default(),
        registered_nonce: StartNonce::default(),
        offered: vec![StartNonce(1)],
    }
}

fn machine() -> Machine {
    let config = MachineConfig {
        masters: 2,
        control_addr: "h:1".into(),
        data_addr: "h:2".into(),
        http_addr: "h:3".into(),
        rack: String::new(),
        server_id: ServerId::NONE,
        epoch: Epoch {
            number: 4,
            incarnation: 40,
        },
        seed: 1,
    };
    Machine::new(config, vec![report(DIRECTORY), report(OTHER)])
}

fn after(machine: &mut Machine, now: Duration, event: Event) -> Vec<Action> {
    machine.handle(now, event);
    std::iter::from_fn(|| machine.poll_action()).collect()
}

fn welcome(epoch: Epoch, statuses: [Status; 2]) -> Registered {
    let verdict = |(directory_id, status): (_, Status)| Verdict {
        directory_id,
        status: status.number(),
    };
    Registered {
        server_id: ServerId(9),
        epoch,
        chunk_size: 1 << 20,
        heartbeat: 1000,
        suspect_after: 3000,
        dead_after: 10_000,
        lease: 60_000,
        ticket_keys: vec![KEY],
        directories: [DIRECTORY, OTHER]
            .into_iter()
            .zip(statuses)
            .map(verdict)
            .collect(),
        repair_streams: 2,
    }
}

fn answered(machine: &mut Machine, registered: Registered) -> Vec<Action> {
    after(
        machine,
        Duration::ZERO,
        Event::Registered {
            connection: 1,
            answer: Ok(registered),
        },
    )
}

/// A machine that is registered over connection 1, with its full reports begun.
fn registered() -> Machine {
    let mut machine = machine();
    after(&mut machine, Duration::ZERO, Event::Tick);
    after(
        &mut machine,
        Duration::ZERO,
        Event::Dialled {
            connection: 1,
            cluster_id: CLUSTER,
        },
    );
    answered(&mut machine, welcome(EPOCH, [Status::Ok; 2]));
    after(&mut machine, Duration::ZERO, Event::Kept { connection: 1 });
    machine
}

fn order(request_id: u64, epoch: Epoch, order: Order) -> Event {
    Event::Ordered {
        connection: 1,
        request_id,
        epoch,
        order,
    }
}

fn delete(handle: u64) -> Order {
    Order::Delete {
        handle: ChunkHandle(handle),
        version: ChunkVersion(1),
    }
}

fn verify(handle: u64) -> Order {
    Order::Verify {
        handle: ChunkHandle(handle),
        version: ChunkVersion(1),
    }
}

#[test]
fn a_registration_is_kept_durably_before_anything_is_served_or_said() {
    let mut machine = machine();
    assert_eq!(machine.deadline(), Some(Duration::ZERO));
    let actions = after(&mut machine, Duration::ZERO, Event::Tick);
    assert_eq!(actions, [Action::Dial { master: 0 }]);
    let dialled = Event::Dialled {
        connection: 1,
        cluster_id: CLUSTER,
    };
    let actions = after(&mut machine, Duration::ZERO, dialled);
    let [
        Action::Register {
            connection: 1,
            register,
        },
    ] = actions.as_slice()
    else {
        panic!("{actions:?}")
    };
    assert_eq!(register.epoch.number, 4);
    assert_eq!(register.directories.len(), 2);

    let actions = answered(
        &mut machine,
        welcome(EPOCH, [Status::Ok, Status::StaleStart]),
    );
    let keep = ToKeep {
        cluster_id: CLUSTER,
        server_id: ServerId(9),
        chunk_size: 1 << 20,
        epoch: EPOCH,
        directories: vec![DIRECTORY],
    };
    assert_eq!(
        actions,
        [
            Action::Unserved {
                directory_id: OTHER,
                status: Status::StaleStart
            },
            Action::Keep {
                connection: 1,
                keep
            },
        ]
    );
    let actions = after(&mut machine, Duration::ZERO, Event::Kept { connection: 1 });
    let serve = Action::Serve {
        ticket_keys: vec![KEY],
        directories: vec![DIRECTORY],
        heartbeat: seconds(1),
        suspect_after: seconds(3),
    };
    assert_eq!(actions[0], serve);
    assert!(
        matches!(&actions[1], Action::SendHeartbeat { heartbeat, .. } if heartbeat.sequence == 1)
    );
    let read = Action::ReadSlice {
        connection: 1,
        directory_id: DIRECTORY,
        after: None,
    };
    assert_eq!(
        actions[2..],
        [read],
        "nothing is told of a directory that is not served"
    );
}

/// The first directory that could not keep the epoch, be it full or hanging, kept the whole server
/// from being registered, for as long as it could not.
#[test]
fn a_directory_that_can_not_keep_the_epoch_is_left_out_alone() {
    let mut machine = machine();
    let dial = |machine: &mut Machine, connection| {
        let due = machine.deadline().expect("another try");
        after(machine, due, Event::Tick);
        let dialled = Event::Dialled {
            connection,
            cluster_id: CLUSTER,
        };
        after(machine, due, dialled);
        due
    };
    dial(&mut machine, 1);
    answered(&mut machine, welcome(EPOCH, [Status::Ok; 2]));
    let left_out = Event::LeftOut {
        connection: 1,
        directory_id: OTHER,
    };
    assert_eq!(after(&mut machine, Duration::ZERO, left_out), []);
    let actions = after(&mut machine, Duration::ZERO, Event::Kept { connection: 1 });
    assert!(
        matches!(&actions[0], Action::Serve { directories, .. } if *directories == [DIRECTORY])
    );
    let Action::SendHeartbeat { heartbeat, .. } = &actions[1] else {
        panic!("{actions:?}")
    };
    let states = heartbeat.disks.iter().map(|beat| beat.disk.state);
    assert_eq!(
        states.collect::<Vec<_>>(),
        [DiskState::Ok, DiskState::Failed]
    );
    assert_eq!(actions.len(), 3, "one inventory: {actions:?}");

    // Once it can, there is another registration.
    let late = |connection| Event::KeptLate {
        connection,
        directory_id: OTHER,
    };
    let actions = after(&mut machine, Duration::ZERO, late(1));
    assert!(
        matches!(
            &*actions,
            [Action::Close { connection: 1 }, Action::Warn(_)]
        ),
        "{actions:?}"
    );
    let now = dial(&mut machine, 2);
    let again = Event::Registered {
        connection: 2,
        answer: Ok(welcome(EPOCH, [Status::Ok; 2])),
    };
    after(&mut machine, now, again);
    let actions = after(&mut machine, now, Event::Kept { connection: 2 });
    assert!(
        matches!(&actions[0], Action::Serve { directories, .. } if directories.len() == 2),
        "{actions:?}"
    );
    assert_eq!(after(&mut machine, now, late(1)), []);
    assert_eq!(after(&mut machine, now, late(2)), []);
}

#[test]
fn an_older_master_or_another_history_is_not_obeyed() {
    for epoch in [
        Epoch {
            number: 3,
            incarnation: 30,
        },
        Epoch {
            number: 4,
            incarnation: 41,
        },
    ] {
        let mut machine = machine();
        after(&mut machine, Duration::ZERO, Event::Tick);
        let dialled = Event::Dialled {
            connection: 1,
            cluster_id: CLUSTER,
        };
        after(&mut machine, Duration::ZERO, dialled);
        let actions = answered(&mut machine, welcome(epoch, [Status::Ok; 2]));
        assert!(
            matches!(
                actions.as_slice(),
                [Action::Close { connection: 1 }, Action::Warn(_)]
            ),
            "{actions:?}"
        );
        let again = machine.deadline().expect("another try");
        let actions = after(&mut machine, again, Event::Tick);
        assert_eq!(actions, [Action::Dial { master: 1 }]);
    }
}

#[test]
fn tries_go_round_the_masters_with_growing_pauses() {
    let mut machine = machine();
    let mut pauses = Vec::new();
    for n in 0..10 {
        let due = machine.deadline().expect("due");
        let before = machine.now;
        pauses.push(due - before);
        assert_eq!(
            after(&mut machine, due, Event::Tick),
            [Action::Dial { master: n % 2 }]
        );
        let failed = Event::DialFailed {
            text: "refused".into(),
            is_passing: true,
        };
        after(&mut machine, due, failed);
    }
    assert_eq!(pauses[0], Duration::ZERO);
    assert!(pauses[1] >= BACK_OFF_MIN / 2 && pauses[1] <= BACK_OFF_MIN);
    assert!(pauses[9] >= BACK_OFF_MAX / 2 && pauses[9] <= BACK_OFF_MAX);
}

#[test]
fn who_is_not_welcome_stops_but_not_after_having_been_welcome() {
    let failed = Event::DialFailed {
        text: "wrong key".into(),
        is_passing: false,
    };
    let mut fresh = machine();
    after(&mut fresh, Duration::ZERO, Event::Tick);
    let actions = after(&mut fresh, Duration::ZERO, failed.clone());
    assert_eq!(
        actions,
        [Action::Stop(StopReason::NotWelcome("wrong key".into()))]
    );

    let mut machine = registered();
    after(
        &mut machine,
        seconds(1),
        Event::Disconnected { connection: 1 },
    );
    let due = machine.deadline().expect("due");
    after(&mut machine, due, Event::Tick);
    assert!(matches!(
        after(&mut machine, due, failed).as_slice(),
        [Action::Warn(_)]
    ));
}

#[test]
fn a_directory_of_somebody_else_or_none_that_counts_stops_the_server() {
    let mut machine = machine();
    after(&mut machine, Duration::ZERO, Event::Tick);
    let dialled = Event::Dialled {
        connection: 1,
        cluster_id: CLUSTER,
    };
    after(&mut machine, Duration::ZERO, dialled);
    let actions = answered(&mut machine, welcome(EPOCH, [Status::StaleStart; 2]));
    assert_eq!(
        actions.last(),
        Some(&Action::Stop(StopReason::NothingToServe))
    );
    let mut machine = self::machine();
    after(&mut machine, Duration::ZERO, Event::Tick);
    let dialled = Event::Dialled {
        connection: 1,
        cluster_id: CLUSTER,
    };
    after(&mut machine, Duration::ZERO, dialled);
    let statuses = [Status::StaleStart, Status::ForeignDirectory];
    let actions = answered(&mut machine, welcome(EPOCH, statuses));
    assert!(matches!(
        actions.last(),
        Some(Action::Stop(StopReason::Foreign(_)))
    ));

    let mut machine = self::machine();
    after(&mut machine, Duration::ZERO, Event::Tick);
    after(
        &mut machine,
        Duration::ZERO,
        Event::Dialled {
            connection: 1,
            cluster_id: CLUSTER,
        },
    );
    answered(&mut machine, welcome(EPOCH, [Status::Ok; 2]));
    let failed = Event::KeepFailed {
        connection: 1,
        text: "theirs".into(),
        is_foreign: true,
    };
    let actions = after(&mut machine, Duration::ZERO, failed);
    assert_eq!(
        actions,
        [Action::Stop(StopReason::Foreign("theirs".into()))]
    );
}

#[test]
fn a_heartbeat_tells_what_is_marked_corrupt_until_one_was_heard() {
    let mut machine = registered();
    let bad = CorruptChunk {
        handle: ChunkHandle(1),
        version: ChunkVersion(1),
        directory_id: DIRECTORY,
    };
    let changed = |flags| Event::ChunkChanged {
        directory_id: DIRECTORY,
        handle: bad.handle,
        held: Some(HeldChunk {
            handle: bad.handle,
            version: bad.version,
            serial: Serial(0),
            length: 0,
            crc32: 0,
            state: ChunkState::Sealed,
            flags,
            file_id: FileId(1),
            index: 0,
        }),
    };
    let beat = |machine: &mut Machine, now| {
        let actions = after(machine, now, Event::Tick);
        actions.iter().find_map(|action| match action {
            Action::SendHeartbeat { heartbeat, .. } => Some(heartbeat.corrupt.clone()),
            _ => None,
        })
    };
    after(&mut machine, Duration::ZERO, changed(HeldFlags::CORRUPT));
    assert_eq!(machine.deadline(), Some(seconds(1)));
    assert_eq!(beat(&mut machine, seconds(1)), Some(vec![bad]));
    assert_eq!(beat(&mut machine, seconds(2)), Some(vec![]), "on its way");
    let answered = |sequence| Event::HeartbeatAnswered {
        connection: 1,
        sequence,
        answer: Ok(EPOCH),
    };
    after(&mut machine, seconds(2), answered(2));
    assert_eq!(beat(&mut machine, seconds(3)), Some(vec![]), "heard");
    after(&mut machine, seconds(3), changed(HeldFlags::CORRUPT));
    after(&mut machine, seconds(3), changed(HeldFlags::NONE));
    assert_eq!(beat(&mut machine, seconds(4)), Some(vec![]), "mended");
}

#[test]
fn heartbeats_stop_while_too_many_are_unanswered() {
    let mut machine = registered();
    let sent = (1..=10)
        .flat_map(|second| after(&mut machine, seconds(second), Event::Tick))
        .filter(|action| matches!(action, Action::SendHeartbeat { .. }))
        .count();
    assert_eq!(sent, 3, "one went out with the registration");
}

#[test]
fn orders_run_only_in_the_epoch_and_over_the_connection_of_the_registration() {
    let mut machine = registered();
    let old = Epoch {
        number: 4,
        incarnation: 40,
    };
    let forked = Epoch {
        number: 5,
        incarnation: 51,
    };
    for epoch in [old, forked] {
        let actions = after(&mut machine, Duration::ZERO, order(7, epoch, delete(1)));
        let [
            Action::Answer {
                request_id: 7,
                asked: Kind::DeleteChunk,
                answer,
                ..
            },
        ] = actions.as_slice()
        else {
            panic!("{actions:?}")
        };
        assert_eq!(answer.as_ref().expect_err("refused").0, Status::StaleEpoch);
    }
    let run = DeleteOrder {
        connection: 1,
        request_id: 8,
        handle: ChunkHandle(1),
        version: ChunkVersion(1),
    };
    let actions = after(&mut machine, Duration::ZERO, order(8, EPOCH, delete(1)));
    assert_eq!(actions, [Action::Delete(vec![run])]);
    // Those that come meanwhile wait, and then run together.
    assert_eq!(
        after(&mut machine, Duration::ZERO, order(9, EPOCH, delete(2))),
        []
    );
    assert_eq!(
        after(&mut machine, Duration::ZERO, order(10, EPOCH, delete(3))),
        []
    );
    let actions = after(
        &mut machine,
        Duration::ZERO,
        Event::Deleted(vec![(1, 8, Ok(()))]),
    );
    let answer = Action::Answer {
        connection: 1,
        request_id: 8,
        asked: Kind::DeleteChunk,
        answer: Ok(ChunkDeleted.into()),
    };
    assert_eq!(actions[0], answer);
    assert!(matches!(&actions[1], Action::Delete(batch) if batch.len() == 2));

    // An order that waited while its connection was lost is dropped.
    after(&mut machine, Duration::ZERO, order(11, EPOCH, delete(4)));
    after(
        &mut machine,
        Duration::ZERO,
        Event::Disconnected { connection: 1 },
    );
    let answers = vec![(1, 9, Ok(())), (1, 10, Ok(()))];
    assert_eq!(
        after(&mut machine, Duration::ZERO, Event::Deleted(answers)),
        []
    );
}

/// A master may order as soon as it has answered the registration; the epoch that the orders carry
/// is still being written then. They were dropped without an answer, so the master took them for
/// under way for as long as the connection lived: the chunk was never deleted, and its replica
/// did not count. Found by the simulator.
#[test]
fn an_order_that_comes_before_the_registration_is_kept_waits_for_that() {
    let mut machine = machine();
    after(&mut machine, Duration::ZERO, Event::Tick);
    let dialled = Event::Dialled {
        connection: 1,
        cluster_id: CLUSTER,
    };
    after(&mut machine, Duration::ZERO, dialled);
    // Answer and order come by different ways, so that either may be first.
    let early = after(&mut machine, Duration::ZERO, order(7, EPOCH, delete(1)));
    assert_eq!(early, []);
    answered(&mut machine, welcome(EPOCH, [Status::Ok; 2]));
    let early = after(&mut machine, Duration::ZERO, order(8, EPOCH, verify(2)));
    assert_eq!(early, []);
    let actions = after(&mut machine, Duration::ZERO, Event::Kept { connection: 1 });
    let run = DeleteOrder {
        connection: 1,
        request_id: 7,
        handle: ChunkHandle(1),
        version: ChunkVersion(1),
    };
    assert!(actions.contains(&Action::Delete(vec![run])), "{actions:?}");
    let is_verify = |action: &Action| matches!(action, Action::Verify { request_id: 8, .. });
    assert!(actions.iter().any(is_verify), "{actions:?}");
}

#[test]
fn few_orders_to_verify_run_at_a_time() {
    let mut machine = registered();
    for request_id in 1..=3 {
        let actions = after(
            &mut machine,
            Duration::ZERO,
            order(request_id, EPOCH, verify(request_id)),
        );
        assert_eq!(actions.len(), usize::from(request_id <= 2), "{request_id}");
    }
    let found = ChunkVerified {
        good: true,
        length: 1,
        crc32: 2,
    };
    let verified = Event::Verified {
        connection: 1,
        request_id: 1,
        answer: Ok(found),
    };
    let actions = after(&mut machine, Duration::ZERO, verified);
    assert!(matches!(
        actions[0],
        Action::Answer {
            request_id: 1,
            answer: Ok(_),
            ..
        }
    ));
    assert!(matches!(actions[1], Action::Verify { request_id: 3, .. }));
}

fn copy(handle: u64, epoch: Epoch) -> Order {
    let claims = Claims {
        rights: Rights::COPY,
        key_id: KEY.key_id,
        handle: ChunkHandle(handle),
        version: ChunkVersion(1),
        expiry: 1,
        file_id: FileId(1),
        session: SessionId::NONE,
        epoch: epoch.number,
        chain_crc: 0,
    };
    Order::Copy(Box::new(CopyChunk {
        epoch,
        handle: ChunkHandle(handle),
        version: ChunkVersion(1),
        file_id: FileId(1),
        index: 0,
        length: 10,
        crc32: 11,
        ticket: Ticket::sign(claims, &SecretKey::new(KEY.key)),
        sources: Vec::new(),
    }))
}

/// The copies that begin, by their requests.
fn begun(actions: &[Action]) -> Vec<u64> {
    let requests = actions.iter().filter_map(|action| match action {
        Action::Copy { request_id, .. } => Some(*request_id),
        _ => None,
    });
    requests.collect()
}

#[test]
fn copies_keep_to_the_masters_limit_and_a_chunk_is_copied_once_at_a_time() {
    let mut machine = registered();
    let copied = |request_id, handle| Event::Copied {
        connection: 1,
        request_id,
        handle: ChunkHandle(handle),
        answer: Ok(ChunkCopied {
            directory_id: DIRECTORY,
            length: 10,
            crc32: 11,
            suspects: Vec::new(),
        }),
    };
    let mut give = |request_id, epoch, handle| {
        let order = order(request_id, epoch, copy(handle, epoch));
        after(&mut machine, Duration::ZERO, order)
    };
    let old = Epoch {
        number: 4,
        incarnation: 40,
    };
    let stale = give(1, old, 7);
    let [Action::Answer { asked, answer, .. }] = stale.as_slice() else {
        panic!("{stale:?}")
    };
    assert_eq!(*asked, Kind::CopyChunk);
    assert_eq!(answer.as_ref().expect_err("refused").0, Status::StaleEpoch);

    assert_eq!(begun(&give(2, EPOCH, 7)), [2]);
    assert!(begun(&give(3, EPOCH, 7)).is_empty(), "the same chunk waits");
    assert_eq!(begun(&give(4, EPOCH, 8)), [4], "others don't wait for it");
    assert!(begun(&give(5, EPOCH, 9)).is_empty(), "two at a time");
    let actions = after(&mut machine, Duration::ZERO, copied(2, 7));
    assert!(matches!(
        actions[0],
        Action::Answer {
            request_id: 2,
            asked: Kind::CopyChunk,
            answer: Ok(_),
            ..
        }
    ));
    assert_eq!(begun(&actions), [3]);

    // What waits is void with its connection; what runs goes on and is not answered.
    after(
        &mut machine,
        Duration::ZERO,
        Event::Disconnected { connection: 1 },
    );
    assert_eq!(after(&mut machine, Duration::ZERO, copied(3, 7)), []);
    assert_eq!(after(&mut machine, Duration::ZERO, copied(4, 8)), []);
}

#[test]
fn changes_raise_what_the_next_registration_tells_and_reach_the_inventory() {
    let mut machine = registered();
    after(
        &mut machine,
        Duration::ZERO,
        Event::SliceRead {
            connection: 1,
            directory_id: DIRECTORY,
            held: vec![],
        },
    );
    let taken = Event::InventoryAnswered {
        connection: 1,
        directory_id: DIRECTORY,
        answer: Ok(false),
    };
    assert_eq!(after(&mut machine, Duration::ZERO, taken), []);
    let changed = Event::ChunkChanged {
        directory_id: DIRECTORY,
        handle: ChunkHandle(77),
        held: None,
    };
    let actions = after(&mut machine, Duration::ZERO, changed);
    assert!(
        matches!(actions.as_slice(), [Action::SendInventory { inventory, .. }]
            if inventory.gone == [ChunkHandle(77)] && inventory.sequence == 2),
        "{actions:?}"
    );
    after(
        &mut machine,
        Duration::ZERO,
        Event::Disconnected { connection: 1 },
    );
    let due = machine.deadline().expect("due");
    after(&mut machine, due, Event::Tick);
    let dialled = Event::Dialled {
        connection: 2,
        cluster_id: CLUSTER,
    };
    let actions = after(&mut machine, due, dialled);
    let [Action::Register { register, .. }] = actions.as_slice() else {
        panic!("{actions:?}")
    };
    let report = &register.directories[0];
    assert_eq!(report.highest_handle, ChunkHandle(77));
    let registered = (report.registered_number, report.registered_nonce);
    assert_eq!(registered, (StartNumber(1), StartNonce(1)));
    assert_eq!(report.offered, []);
    assert_eq!((register.server_id, register.epoch), (ServerId(9), EPOCH));
}
