//! Orders: which ones run, when, and how many at a time.

use super::*;
use crate::core::{member, mutation};
use sarsen_protocol::message::{ChainTrouble, Promise, ReportChain};

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
    let mut machine = dialled();
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
        void_up_to: ChunkVersion(1),
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

fn promise(handle: u64) -> Promise {
    Promise {
        epoch: EPOCH,
        handle: ChunkHandle(handle),
        version: ChunkVersion(2),
    }
}

fn chunk_order(handle: u64) -> Order {
    let order = mutation::Order::Change(member::Order::Promise(promise(handle)));
    Order::Chunk(Box::new(order))
}

#[test]
fn orders_to_open_chunks_go_there_at_once_and_are_compared_as_all_are() {
    let mut machine = registered();
    let old = Epoch {
        number: 4,
        incarnation: 40,
    };
    let actions = after(&mut machine, Duration::ZERO, order(6, old, chunk_order(1)));
    let is_refusal = |action: &Action| {
        matches!(action, Action::Answer { request_id: 6, asked: Kind::Promise, answer: Err((status, _)), .. }
            if *status == Status::StaleEpoch)
    };
    assert!(
        actions.iter().all(is_refusal) && actions.len() == 1,
        "{actions:?}"
    );
    for request_id in 7..10 {
        let ordered = order(request_id, EPOCH, chunk_order(1));
        let passed_on = Action::OrderChunk {
            connection: 1,
            request_id,
            order: Box::new(mutation::Order::Change(member::Order::Promise(promise(1)))),
        };
        assert_eq!(after(&mut machine, Duration::ZERO, ordered), [passed_on]);
    }
    let answered = |connection| Event::ChunkOrderAnswered {
        connection,
        request_id: 8,
        asked: Kind::RevokeLease,
        answer: Box::new(Ok(ChunkDeleted.into())),
    };
    let answer = Action::Answer {
        connection: 1,
        request_id: 8,
        asked: Kind::RevokeLease,
        answer: Ok(ChunkDeleted.into()),
    };
    assert_eq!(after(&mut machine, Duration::ZERO, answered(1)), [answer]);
    let late = after(&mut machine, Duration::ZERO, answered(7));
    assert_eq!(late, [], "it came over a connection that is gone");
}

#[test]
fn what_a_chain_tells_is_kept_until_a_master_has_it() {
    let mut machine = registered();
    let report = |version| ReportChain {
        handle: ChunkHandle(1),
        version: ChunkVersion(version),
        serial: Serial(3),
        what: ChainTrouble::HopFailed,
        blamed: ServerId(2),
        status: 0,
    };
    let told = |report| Action::ReportChain {
        connection: 1,
        report,
    };
    let tell =
        |machine: &mut Machine, report| after(machine, Duration::ZERO, Event::ChainTrouble(report));
    assert_eq!(tell(&mut machine, report(1)), [told(report(1))]);
    assert_eq!(tell(&mut machine, report(1)), [], "it is on its way");
    assert_eq!(tell(&mut machine, report(2)), [told(report(2))]);
    let answered = Event::ChainReported {
        connection: 1,
        report: report(1),
    };
    assert_eq!(after(&mut machine, Duration::ZERO, answered), []);
    // The second was not answered when the master went away.
    let gone = Event::Disconnected { connection: 1 };
    after(&mut machine, Duration::ZERO, gone);
    assert_eq!(tell(&mut machine, report(3)), []);
    after(&mut machine, seconds(60), Event::Tick);
    let dialled = Event::Dialled {
        connection: 2,
        cluster_id: CLUSTER,
    };
    after(&mut machine, seconds(60), dialled);
    let welcomed = Event::Registered {
        connection: 2,
        answer: Ok(welcome(EPOCH, [Status::Ok; 2])),
    };
    after(&mut machine, seconds(60), welcomed);
    let kept = after(&mut machine, seconds(60), Event::Kept { connection: 2 });
    let told_again: Vec<_> = kept
        .iter()
        .filter_map(|action| match action {
            Action::ReportChain {
                connection: 2,
                report,
            } => Some(report.version.0),
            _ => None,
        })
        .collect();
    assert_eq!(told_again, [2, 3]);
}
