//! The machine driven as its server would: an event, then the actions that it asks for.

mod orders;
mod registration;

use sarsen_protocol::id::{
    ChunkHandle, ChunkVersion, FileId, Serial, SessionId, StartNonce, StartNumber,
};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{
    ChunkCopied, ChunkState, ChunkVerified, CopyChunk, CorruptChunk, Disk, DiskState, HeldFlags,
    TicketKey, Verdict,
};
use sarsen_protocol::ticket::{Claims, Rights, Ticket};

use super::*;
use crate::core::action::DeleteOrder;

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

/// A machine that has asked to be registered over connection 1.
fn dialled() -> Machine {
    let mut machine = machine();
    after(&mut machine, Duration::ZERO, Event::Tick);
    let dialled = Event::Dialled {
        connection: 1,
        cluster_id: CLUSTER,
    };
    after(&mut machine, Duration::ZERO, dialled);
    machine
}

/// A machine that is registered over connection 1, with its full reports begun.
fn registered() -> Machine {
    let mut machine = dialled();
    answered(&mut machine, welcome(EPOCH, [Status::Ok; 2]));
    after(&mut machine, Duration::ZERO, Event::Kept { connection: 1 });
    machine
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

/// The first disk that told how it is sent a heartbeat that was due, with what the others had told
/// before the last one.
#[test]
fn a_heartbeat_waits_for_every_disk_to_tell() {
    let mut machine = registered();
    for directory_id in [DIRECTORY, OTHER] {
        let mut disk = report(directory_id).disk;
        disk.free = 1;
        let beat = DiskBeat { disk, beat_age: 7 };
        let actions = after(&mut machine, seconds(1), Event::DiskBeat(beat));
        assert_eq!(actions, []);
    }
    let actions = after(&mut machine, seconds(1), Event::Tick);
    let told = actions.iter().find_map(|action| match action {
        Action::SendHeartbeat { heartbeat, .. } => {
            let disks = heartbeat.disks.iter();
            Some(disks.map(|it| (it.disk.free, it.beat_age)).collect())
        }
        _ => None,
    });
    assert_eq!(told, Some(vec![(1, 7); 2]));
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
