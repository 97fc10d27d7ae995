//! Losses that a person accepted: which copy is gone on with (`spec/replication.md` section 8).

use super::seal::{SAME, has_prepared, prepare};
use super::*;
use crate::core::command::LossCause;

/// A copy as it was reported.
fn reported(n: u8, version: u64, serial: u64) -> OldCopy {
    OldCopy {
        member: member(n),
        version: ChunkVersion(version),
        serial: Serial(serial),
        is_member: false,
    }
}

/// A copy by its own word: sealed in `base`, or opened from that and begun in `version` since.
fn is(n: u8, base: u64, version: u64, serial: u64) -> Promised {
    let sealed = Sealed {
        version: ChunkVersion(base),
        len: 700,
        crc: 5,
    };
    Promised {
        version: ChunkVersion(version),
        begin_serial: Serial(serial),
        commit_mark: Serial(serial),
        sealed: (base > 0).then_some(sealed),
        ..has(n, serial)
    }
}

fn accepting(sealed: Option<Sealed>, copies: Vec<OldCopy>) -> VersionChange {
    let servers: Vec<u8> = copies.iter().map(|it| it.member.directory.0[0]).collect();
    let accepted = Accepted {
        version: U,
        sealed,
        copies,
    };
    let plan = Plan {
        base: Base::Accepted(accepted),
        ..sealing()
    };
    let (attempt, asked) = VersionChange::start(plan, 0);
    assert_eq!(asked, promise_of(&servers));
    attempt
}

/// Whose copy is taken when all answer, in whichever order.
fn taken(copies: &[OldCopy], answers: &[Promised]) -> ServerId {
    let taken = |answers: &mut dyn Iterator<Item = &Promised>| {
        let mut attempt = accepting(None, copies.to_vec());
        let mut actions = Vec::new();
        for answer in answers {
            actions.extend(tell(&mut attempt, answer.clone(), 10));
        }
        match actions.as_slice() {
            [
                Action::Order {
                    server,
                    order: Order::PrepareSeal(_),
                },
            ] => *server,
            other => panic!("{other:?}"),
        }
    };
    let first = taken(&mut answers.iter());
    assert_eq!(taken(&mut answers.iter().rev()), first);
    first
}

#[test]
fn one_copy_alone_is_sealed_and_the_loss_is_logged() {
    let mut attempt = accepting(None, vec![reported(4, 3, 8)]);
    let old = is(4, 0, 3, 8);
    let mut bad = attempt.clone();
    let poisoned = Promised {
        is_poisoned: true,
        ..old.clone()
    };
    assert_eq!(
        tell(&mut bad, poisoned, 10),
        [Action::GivenUp(Failure::Unavailable)]
    );
    assert_eq!(tell(&mut attempt, old, 10), [prepare(8, member(4), None)]);
    let sealed = Sealed {
        version: V,
        len: 700,
        crc: 5,
    };
    let loss = Loss {
        version: U,
        serial: Serial(8),
        cause: LossCause::Accepted,
    };
    let decision = Decision {
        loss: Some(loss),
        outcome: Outcome::Sealed {
            sealed,
            members: vec![member(4)],
        },
    };
    assert_eq!(
        say(&mut attempt, 4, has_prepared(4, SAME)),
        [Action::Log(decision)]
    );
}

/// A copy that was prepared for a loss accepted before, whose entry was never logged, was taken for one of
/// that version: it went before newer ones.
#[test]
fn a_copy_is_as_old_as_its_bytes() {
    let copies = [reported(1, 15, 9), reported(2, 5, 8)];
    assert_eq!(
        taken(&copies, &[is(1, 3, 15, 9), is(2, 5, 5, 8)]),
        server(2)
    );
    // Opened from the same seal: who has more.
    let copies = [reported(1, 15, 12), reported(2, 5, 11)];
    assert_eq!(
        taken(&copies, &[is(1, 3, 15, 12), is(2, 3, 5, 11)]),
        server(1)
    );
    assert_eq!(
        taken(&copies, &[is(1, 3, 15, 10), is(2, 3, 5, 11)]),
        server(2)
    );
    // Of versions that the log knew the later one: behind what was left out there may be more.
    let copies = [reported(1, 4, 15), reported(2, 5, 12)];
    assert_eq!(
        taken(&copies, &[is(1, 3, 4, 15), is(2, 3, 5, 12)]),
        server(2)
    );
}

/// What an attempt has begun on a member is the log's version, as far as it got.
#[test]
fn of_members_who_has_more_is_taken() {
    let of = |n, version, serial| OldCopy {
        is_member: true,
        ..reported(n, version, serial)
    };
    let copies = [of(1, 15, 8), of(2, 10, 9), reported(3, 9, 20)];
    let answers = [is(1, 3, 15, 8), is(2, 3, 10, 9), is(3, 3, 9, 20)];
    assert_eq!(taken(&copies, &answers), server(2));
}

#[test]
fn a_server_that_is_silent_is_waited_for_if_it_may_have_a_better_copy() {
    let copies = vec![reported(1, 5, 8), reported(2, 4, 20), reported(3, 6, 1)];
    let mut attempt = accepting(None, copies);
    assert_eq!(tell(&mut attempt, is(1, 5, 5, 8), 10), []);
    // What passes is no answer.
    let busy = Answer::Refused(Step::Promise, Status::Overloaded);
    assert_eq!(say(&mut attempt, 3, busy), []);
    assert_eq!(attempt.handle_timeout(SUSPECT_MS), promise_of(&[2, 3]));
    let mut late = attempt.clone();
    assert_eq!(
        tell(&mut attempt, is(3, 6, 6, 1), 4_000),
        [prepare(1, member(3), None)]
    );
    let mut now_ms = SUSPECT_MS;
    let mut actions = Vec::new();
    while let Some(due_ms) = late.poll_timeout() {
        assert!(due_ms > now_ms);
        now_ms = due_ms;
        actions = late.handle_timeout(now_ms);
    }
    assert_eq!((now_ms, actions), (DEAD_MS, failed(&[(3, Fault::Silent)])));
}

#[test]
fn a_copy_that_is_bad_by_its_servers_word_is_none() {
    let mut attempt = accepting(None, vec![reported(1, 5, 8), reported(2, 4, 7)]);
    assert_eq!(tell(&mut attempt, is(2, 4, 4, 7), 10), []);
    let poisoned = Answer::Refused(Step::Promise, Status::Poisoned);
    assert_eq!(
        say(&mut attempt, 1, poisoned),
        [prepare(7, member(2), None)]
    );
}

/// The directory that was reported first was expected to answer: where the server took the other one, the
/// attempt came to nothing.
#[test]
fn a_server_with_two_copies_speaks_for_the_one_that_it_takes() {
    let mut attempt = accepting(None, vec![reported(4, 5, 8)]);
    let other = Member {
        directory: DirectoryId([9; 16]),
        ..member(4)
    };
    let answer = Promised {
        member: other.clone(),
        ..is(4, 3, 3, 8)
    };
    assert_eq!(
        tell(&mut attempt, answer, 10),
        [prepare(8, other.clone(), None)]
    );
    let prepared = Answer::SealPrepared {
        serial: Serial(8),
        prepared: SAME,
        member: other.clone(),
    };
    let logged = say(&mut attempt, 4, prepared);
    assert!(matches!(logged[..], [Action::Log(_)]), "{logged:?}");
    let settle = Order::Settle {
        directory: other.directory,
        len: 700,
        crc: 5,
    };
    assert_eq!(
        attempt.handle_log(true),
        [order_to(4, settle), Action::Done]
    );
}

/// Of holders that differ one was taken without a look at what the log says of a chunk at rest.
#[test]
fn what_is_prepared_from_the_logs_bytes_has_to_be_the_logs() {
    let sealed = Sealed {
        version: U,
        len: 700,
        crc: 5,
    };
    let logged = |n, version| Promised {
        sealed: Some(sealed),
        ..is(n, 10, version, 8)
    };
    let copies = vec![reported(1, 15, 8), reported(2, 10, 8), reported(3, 9, 30)];
    let mut attempt = accepting(Some(sealed), copies);
    assert_eq!(tell(&mut attempt, is(3, 9, 9, 30), 10), []);
    assert_eq!(tell(&mut attempt, logged(2, 10), 10), []);
    // Both hold what the log says: it is the one that no attempt has changed.
    assert_eq!(
        tell(&mut attempt, logged(1, 15), 10),
        [prepare(8, member(2), None)]
    );
    let other = Prepared { crc: 9, ..SAME };
    assert_eq!(
        say(&mut attempt, 2, has_prepared(2, other)),
        [Action::GivenUp(Failure::Damaged(vec![server(2)]))]
    );
}
