//! Registration: whom the machine dials, whom it obeys, and what is on disk before it serves.

use super::*;
use crate::core::action::{StopReason, ToKeep};
use crate::core::machine::registration::{BACK_OFF_MAX, BACK_OFF_MIN};

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
        dead_after: seconds(10),
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
        let mut machine = dialled();
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
    let mut machine = dialled();
    let actions = answered(&mut machine, welcome(EPOCH, [Status::StaleStart; 2]));
    assert_eq!(
        actions.last(),
        Some(&Action::Stop(StopReason::NothingToServe))
    );
    let mut machine = dialled();
    let statuses = [Status::StaleStart, Status::ForeignDirectory];
    let actions = answered(&mut machine, welcome(EPOCH, statuses));
    assert!(matches!(
        actions.last(),
        Some(Action::Stop(StopReason::Foreign(_)))
    ));

    let mut machine = dialled();
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
