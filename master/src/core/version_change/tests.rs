//! An attempt by hand: every step's exact orders, every order lost, every answer late, twice or of
//! another attempt.

mod accepted;
mod decision;
mod seal;

use sarsen_protocol::id::{
    ChunkHandle, ChunkVersion, DirectoryId, FileId, Serial, ServerId, SessionId, StartNumber,
};
use sarsen_protocol::status::Status;

use super::words::*;
use super::*;

const SUSPECT_MS: u64 = 3_000;
const DEAD_MS: u64 = 10_000;
/// The version that the log calls active, and those of attempts since.
const U: ChunkVersion = ChunkVersion(10);
const V: ChunkVersion = ChunkVersion(20);

/// Member `n`: server, directory and first start number are all `n`.
fn member(n: u8) -> Member {
    Member {
        server: ServerId(u64::from(n)),
        directory: DirectoryId([n; 16]),
        start_number: StartNumber(u64::from(n)),
    }
}

fn restarted(n: u8) -> Member {
    Member {
        start_number: StartNumber(100 + u64::from(n)),
        ..member(n)
    }
}

fn server(n: u8) -> ServerId {
    ServerId(u64::from(n))
}

fn active(version: ChunkVersion, serial: u64, members: &[Member]) -> Configuration {
    Configuration {
        version,
        serial: Serial(serial),
        memory_allowed: false,
        primary: members[0].server,
        members: members.to_vec(),
    }
}

/// A, B and C are members of an open chunk; it is to go on.
fn plan() -> Plan {
    Plan {
        handle: ChunkHandle(7),
        version: V,
        base: Base::Open(active(U, 4, &[member(1), member(2), member(3)])),
        end: End::Active {
            memory_allowed: false,
            sessions_end: SessionId(5),
        },
        drain: false,
        blamed: None,
        doubtful: Vec::new(),
        failed: Vec::new(),
        hopeless: Vec::new(),
        min_replicas: 2,
        patience: Patience {
            suspect_after_ms: SUSPECT_MS,
            dead_after_ms: DEAD_MS,
        },
    }
}

fn memory_plan() -> Plan {
    let mut active = active(U, 4, &[member(1), member(2), member(3)]);
    active.memory_allowed = true;
    Plan {
        base: Base::Open(active),
        ..plan()
    }
}

fn sealing() -> Plan {
    Plan {
        end: End::Sealed {
            len: None,
            sessions_end: SessionId(5),
        },
        ..plan()
    }
}

/// An answer of a member of `U`.
fn has(n: u8, serial: u64) -> Promised {
    Promised {
        member: member(n),
        version: U,
        begin_serial: Serial(4),
        serial: Serial(serial),
        commit_mark: Serial(4),
        sealed: None,
        is_poisoned: false,
        is_corrupt: false,
    }
}

fn order_to(n: u8, order: Order) -> Action {
    Action::Order {
        server: server(n),
        order,
    }
}

fn promise_of(members: &[u8]) -> Vec<Action> {
    let to = |&n: &u8| order_to(n, Order::Promise);
    members.iter().map(to).collect()
}

fn begin_at(serial: u64, members: &[Member]) -> Vec<Action> {
    let begin = |member: &Member| Action::Order {
        server: member.server,
        order: Order::Begin(Begin {
            serial: Serial(serial),
            member: member.clone(),
            memory_allowed: false,
            create: None,
        }),
    };
    members.iter().map(begin).collect()
}

fn begun(serial: u64, member: Member) -> Answer {
    Answer::Begun {
        serial: Serial(serial),
        member,
    }
}

fn failed(members: &[(u8, Fault)]) -> Vec<Action> {
    let failed = members.iter().map(|&(n, fault)| (server(n), fault));
    vec![Action::GivenUp(Failure::Members(failed.collect()))]
}

/// Starts an attempt and answers its promises; what comes of it at the last answer.
fn promised(plan: Plan, answers: &[Promised]) -> (VersionChange, Vec<Action>) {
    let (mut attempt, mut last) = VersionChange::start(plan, 0);
    for answer in answers {
        last = tell(&mut attempt, answer.clone(), 100);
    }
    (attempt, last)
}

fn tell(attempt: &mut VersionChange, answer: Promised, now_ms: u64) -> Vec<Action> {
    let server = answer.member.server;
    attempt.handle_answer(server, V, Answer::Promised(answer), now_ms)
}

fn say(attempt: &mut VersionChange, n: u8, answer: Answer) -> Vec<Action> {
    attempt.handle_answer(server(n), V, answer, 200)
}

#[test]
fn asked_decided_begun_logged_granted() {
    let (mut attempt, asked) = VersionChange::start(plan(), 0);
    assert_eq!(asked, promise_of(&[1, 2, 3]));
    assert_eq!(tell(&mut attempt, has(2, 11), 10), []);
    assert_eq!(tell(&mut attempt, has(1, 12), 20), []);
    let members = [member(1), member(2), member(3)];
    assert_eq!(tell(&mut attempt, has(3, 10), 30), begin_at(10, &members));
    assert_eq!(attempt.poll_timeout(), Some(30 + SUSPECT_MS));
    assert_eq!(say(&mut attempt, 3, begun(10, member(3))), []);
    assert_eq!(say(&mut attempt, 1, begun(10, member(1))), []);
    assert!(!attempt.is_logging());
    let now_active = active(V, 10, &members);
    let decision = Decision {
        loss: None,
        outcome: Outcome::Active(now_active.clone()),
    };
    assert_eq!(
        say(&mut attempt, 2, begun(10, member(2))),
        [Action::Log(decision)]
    );
    assert!(attempt.is_logging() && attempt.poll_timeout().is_none());
    assert_eq!(attempt.handle_timeout(1_000_000), []);
    assert_eq!(
        attempt.handle_log(true),
        [order_to(1, Order::Grant(now_active)), Action::Done]
    );
    assert!(attempt.is_over());
    assert_eq!(attempt.handle_log(true), []);
}

#[test]
fn an_entry_that_is_refused_when_applied_gives_the_attempt_up() {
    let (mut attempt, _) = promised(plan(), &[has(1, 5), has(2, 5), has(3, 5)]);
    for n in 1..=3 {
        let _ = say(&mut attempt, n, begun(5, member(n)));
    }
    let given_up = Action::GivenUp(Failure::NotApplied);
    assert_eq!(attempt.handle_log(false), [given_up]);
}

#[test]
fn the_old_primary_drains_before_anybody_promises() {
    let drained = Plan {
        drain: true,
        ..plan()
    };
    let (mut attempt, revoked) = VersionChange::start(drained, 0);
    assert_eq!(revoked, [order_to(1, Order::Revoke { version: U })]);
    assert_eq!(attempt.handle_connected(server(1), 100), revoked);
    assert_eq!(attempt.handle_connected(server(2), 100), []);

    let ask = promise_of(&[1, 2, 3]);
    assert_eq!(say(&mut attempt.clone(), 1, Answer::Revoked), ask);
    assert_eq!(say(&mut attempt.clone(), 2, Answer::Revoked), []);
    let refused = Answer::Refused(Step::Revoke, Status::PromiseRefused);
    assert_eq!(say(&mut attempt.clone(), 1, refused), ask);
    // It doesn't answer: the change goes on without.
    assert_eq!(attempt.clone().handle_timeout(SUSPECT_MS), ask);
}

#[test]
fn a_chunk_that_does_not_exist_is_begun_at_once() {
    let create = Create {
        file: FileId(3),
        index: 2,
        chunk_size: 1 << 20,
    };
    let members = vec![member(2), member(1)];
    let fresh = Plan {
        base: Base::Fresh(Fresh {
            members: members.clone(),
            create,
        }),
        ..plan()
    };
    let (mut attempt, orders) = VersionChange::start(fresh, 0);
    let begin = |n| {
        let begin = Begin {
            serial: Serial(1),
            member: member(n),
            memory_allowed: false,
            create: Some(create),
        };
        order_to(n, Order::Begin(begin))
    };
    assert_eq!(orders, [begin(2), begin(1)]);
    let mut taken = attempt.clone();
    let exists = Answer::Refused(Step::Begin, Status::ChunkExists);
    assert_eq!(
        say(&mut taken, 1, exists),
        failed(&[(1, Fault::Refused(Status::ChunkExists))])
    );
    assert_eq!(say(&mut attempt, 1, begun(1, member(1))), []);
    let outcome = Outcome::Active(active(V, 1, &members));
    let decision = Decision {
        loss: None,
        outcome,
    };
    assert_eq!(
        say(&mut attempt, 2, begun(1, member(2))),
        [Action::Log(decision)]
    );
}

/// Whatever order is lost with a connection is sent again on the next one, once it isn't answered.
#[test]
fn every_order_that_was_lost_is_sent_again() {
    let (mut attempt, _) = VersionChange::start(plan(), 0);
    assert_eq!(attempt.handle_connected(server(3), 100), promise_of(&[3]));
    assert_eq!(attempt.handle_connected(server(9), 100), []);
    let _ = tell(&mut attempt, has(3, 8), 10);
    assert_eq!(attempt.handle_connected(server(3), 100), []);
    let _ = tell(&mut attempt, has(2, 8), 10);
    let begin = tell(&mut attempt, has(1, 8), 10);
    assert_eq!(attempt.handle_connected(server(1), 100), begin[..1]);
    let _ = say(&mut attempt, 1, begun(8, member(1)));
    assert_eq!(attempt.handle_connected(server(1), 100), []);
    assert_eq!(attempt.handle_connected(server(2), 100), begin[1..2]);
}

#[test]
fn a_beginning_that_nobody_answers_is_given_up_with_their_names() {
    let (mut attempt, _) = promised(plan(), &[has(1, 8), has(2, 8), has(3, 8)]);
    let _ = say(&mut attempt, 2, begun(8, member(2)));
    assert_eq!(attempt.handle_timeout(99 + SUSPECT_MS), []);
    assert_eq!(
        attempt.handle_timeout(100 + SUSPECT_MS),
        failed(&[(1, Fault::Silent), (3, Fault::Silent)])
    );
    assert_eq!(say(&mut attempt, 1, begun(8, member(1))), []);
}

/// One replica is enough to go on.
fn alone() -> Plan {
    Plan {
        min_replicas: 1,
        ..plan()
    }
}

/// Who is gone is waited for once: what was waited for a promise is not waited for again while those who
/// promised begin, nor in the next attempt. Who is back is waited for as anybody is.
#[test]
fn who_has_no_connection_is_awaited_since_it_was_lost() {
    let (mut attempt, _) = promised(alone(), &[has(1, 8), has(2, 8)]);
    attempt.handle_lost(server(3), 0);
    attempt.handle_lost(server(2), 200);
    let begin = attempt.handle_timeout(SUSPECT_MS);
    assert_eq!(begin, begin_at(8, &[member(1), member(2)]));
    assert_eq!(attempt.poll_timeout(), Some(200 + SUSPECT_MS));
    let mut back = attempt.clone();
    assert_eq!(back.handle_connected(server(2), 3_100), begin[1..]);
    assert_eq!(back.poll_timeout(), Some(2 * SUSPECT_MS));
    // The other one still has its time to begin, and has not failed.
    assert_eq!(attempt.handle_timeout(199 + SUSPECT_MS), []);
    assert_eq!(
        attempt.handle_timeout(200 + SUSPECT_MS),
        failed(&[(2, Fault::Silent)])
    );

    let (mut next, _) = VersionChange::start(alone(), 3_100);
    next.handle_lost(server(3), 0);
    next.handle_lost(server(2), 200);
    assert_eq!(next.poll_timeout(), Some(3_100 + SUSPECT_MS), "1 is there");
    let mut early = next.clone();
    assert_eq!(tell(&mut early, has(1, 8), 3_150), []);
    let then = begin_at(8, &[member(1)]);
    assert_eq!(early.poll_timeout(), Some(200 + SUSPECT_MS));
    assert_eq!(early.handle_timeout(200 + SUSPECT_MS), then);
    assert_eq!(tell(&mut next.clone(), has(1, 8), 3_200), then);
    assert_eq!(next.handle_connected(server(3), 3_200), promise_of(&[3]));
    assert_eq!(tell(&mut next, has(1, 8), 3_200), []);
    assert_eq!(next.poll_timeout(), Some(3_100 + SUSPECT_MS));
}

/// One that promised, was lost, and was waited for while another was silent: it is not asked to begin.
#[test]
fn who_is_lost_for_long_enough_when_it_is_decided_is_left_out() {
    let two_of_three = [has(1, 8), has(2, 7)];
    let decided = |plan| {
        let (mut attempt, _) = promised(plan, &two_of_three);
        attempt.handle_lost(server(2), 0);
        attempt.handle_timeout(SUSPECT_MS)
    };
    assert_eq!(decided(alone()), begin_at(7, &[member(1)]));
    assert_eq!(decided(plan()), begin_at(7, &[member(1), member(2)]));
}

/// Too few are left to go on with: giving up gains nothing, and those who come back come one by one.
#[test]
fn where_too_few_are_connected_the_others_are_waited_for() {
    let (mut attempt, _) = promised(plan(), &[has(1, 8), has(2, 8), has(3, 8)]);
    for n in 1..=3 {
        attempt.handle_lost(server(n), 50);
    }
    assert_eq!(attempt.poll_timeout(), Some(100 + SUSPECT_MS), "to begin");
    let (mut cut_off, _) = VersionChange::start(plan(), 4_000);
    for n in 1..=3 {
        cut_off.handle_lost(server(n), 0);
    }
    assert_eq!(cut_off.poll_timeout(), Some(4_000 + SUSPECT_MS));
    let _ = cut_off.handle_connected(server(1), 4_100);
    assert_eq!(tell(&mut cut_off, has(1, 8), 4_101), []);
    let _ = cut_off.handle_connected(server(2), 4_110);
    assert_eq!(tell(&mut cut_off, has(2, 8), 4_111), [], "the third comes");
    let _ = cut_off.handle_connected(server(3), 4_120);
    let all = begin_at(8, &[member(1), member(2), member(3)]);
    assert_eq!(tell(&mut cut_off, has(3, 8), 4_121), all);
}

/// Attack 25's other half: what a member begins with is compared, so a member that was begun by
/// another attempt, at another place or in another start is none of this version.
#[test]
fn a_member_that_began_something_else_has_failed() {
    let (attempt, _) = promised(plan(), &[has(1, 8), has(2, 8), has(3, 8)]);
    for wrong in [begun(7, member(2)), begun(8, restarted(2))] {
        assert_eq!(
            say(&mut attempt.clone(), 2, wrong),
            failed(&[(2, Fault::WrongAnswer)])
        );
    }
}

#[test]
fn answers_that_are_late_or_twice_or_of_others_change_nothing() {
    let (mut attempt, _) = VersionChange::start(plan(), 0);
    let _ = tell(&mut attempt, has(2, 9), 10);
    let before = attempt.clone();
    // Twice, and the second time with less: the member answered a repeated order.
    assert_eq!(tell(&mut attempt, has(2, 5), 20), []);
    // Of nobody who was asked, of another attempt, of a step that hasn't come.
    assert_eq!(tell(&mut attempt, has(9, 1), 20), []);
    let other = Answer::Promised(has(1, 1));
    let others = attempt.handle_answer(server(1), ChunkVersion(19), other, 20);
    assert_eq!(others, []);
    assert_eq!(say(&mut attempt, 1, begun(9, member(1))), []);
    assert_eq!(say(&mut attempt, 1, Answer::Revoked), []);
    assert_eq!(attempt, before);

    let _ = tell(&mut attempt, has(3, 9), 30);
    let left_out_one = attempt.handle_timeout(SUSPECT_MS);
    assert_eq!(left_out_one, begin_at(9, &[member(2), member(3)]));
    let before = attempt.clone();
    // The third one's promise is late: it is out.
    assert_eq!(tell(&mut attempt, has(1, 5), SUSPECT_MS + 1), []);
    assert_eq!(say(&mut attempt, 1, begun(9, member(1))), []);
    assert_eq!(attempt, before);
    let _ = say(&mut attempt, 2, begun(9, member(2)));
    let before = attempt.clone();
    assert_eq!(say(&mut attempt, 2, begun(9, member(2))), []);
    assert_eq!(attempt, before);
}

/// The trace of section 3.1, "Without that": the second attempt starts from what was applied, so
/// it asks the members of the version that is active *now*.
#[test]
fn the_next_attempt_asks_who_is_active_by_the_log() {
    let (mut first, _) = VersionChange::start(plan(), 0);
    let _ = tell(&mut first, has(1, 6), 10);
    let _ = tell(&mut first, has(2, 6), 10);
    let _ = first.handle_timeout(SUSPECT_MS);
    let _ = say(&mut first, 1, begun(6, member(1)));
    let logged = say(&mut first, 2, begun(6, member(2)));
    let [Action::Log(Decision { outcome, .. })] = &logged[..] else {
        panic!("{logged:?}");
    };
    let Outcome::Active(applied) = outcome.clone() else {
        panic!("{outcome:?}");
    };
    let _ = first.handle_log(true);

    let next = ChunkVersion(30);
    let second = Plan {
        version: next,
        base: Base::Open(applied),
        ..plan()
    };
    let (mut second, asked) = VersionChange::start(second, 0);
    assert_eq!(asked, promise_of(&[1, 2]));
    // Member 3 has begun nothing since, whatever it says: it isn't asked, and doesn't count.
    let stale = Answer::Promised(has(3, 5));
    assert_eq!(second.handle_answer(server(3), next, stale, 10), []);
}

/// Section 3.7: the log says what it said before, so those that were left out are asked too, and
/// what the attempt made members begin counts.
#[test]
fn after_an_attempt_that_was_given_up_all_are_asked_again() {
    let (mut attempt, _) = promised(plan(), &[has(1, 8), has(2, 9), has(3, 9)]);
    let _ = attempt.handle_timeout(100 + SUSPECT_MS);
    let again = Plan {
        version: ChunkVersion(21),
        failed: vec![server(3)],
        hopeless: Vec::new(),
        ..plan()
    };
    let (mut attempt, asked) = VersionChange::start(again, 0);
    assert_eq!(asked, promise_of(&[1, 2, 3]));
    let began = Promised {
        version: V,
        begin_serial: Serial(8),
        ..has(2, 8)
    };
    for answer in [has(1, 8), began, has(3, 9)] {
        let server = answer.member.server;
        let promised = Answer::Promised(answer);
        let last = attempt.handle_answer(server, ChunkVersion(21), promised, 10);
        if server == self::server(3) {
            assert_eq!(last, begin_at(8, &[member(1), member(2)]));
        }
    }
}
