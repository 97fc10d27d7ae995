//! A member in the chain: what it passes on, acknowledges, and refuses.

use std::time::Duration;

use sarsen_protocol::id::{ChunkVersion, Serial};
use sarsen_protocol::message::{ChainTrouble, Kind, Level, Marked};
use sarsen_protocol::status::Status;

use super::super::super::member::Done;
use super::super::{Action, Frame, Reply};
use super::harness::config;
use super::script::*;

fn sent_up(reply: Reply) -> Action {
    Action::Send { stream: UP, reply }
}

#[test]
fn a_member_acks_what_it_and_all_behind_have() {
    let mut replica = middle(true);
    let two = batch(5, 4, Level::Disk, &[1, 2]);
    replica.handle_batch(NOW, UP, two.clone(), payload(2));
    assert_eq!(
        actions(&mut replica),
        [applied_of(&two), sent_on(&two), Action::Flush]
    );
    replica.handle_applied(NOW, V, Serial(5));
    assert_eq!(actions(&mut replica), []);
    replica.handle_next_ack(NOW, V, &ack(6, 4, Level::Memory, 1));
    let first = sent_up(Reply::Ack(ack(5, 4, Level::Memory, 2)));
    assert_eq!(actions(&mut replica), [first]);
    replica.handle_applied(NOW, V, Serial(6));
    replica.handle_next_ack(NOW, V, &ack(6, 4, Level::Disk, 1));
    let second = sent_up(Reply::Ack(ack(6, 4, Level::Memory, 2)));
    assert_eq!(actions(&mut replica), [second]);
    replica.handle_stable(NOW, V, Serial(6));
    let third = sent_up(Reply::Ack(ack(6, 4, Level::Disk, 2)));
    assert_eq!(actions(&mut replica), [third]);
    // A mark goes down with frames, and alone if it is new.
    replica.handle_mark(NOW, UP, &mark(6, 0));
    let on = Action::SendNext(Frame::Mark(mark(6, 0)));
    assert_eq!(actions(&mut replica), [Action::Commit(Serial(6)), on]);
    replica.handle_mark(NOW, UP, &mark(6, 0));
    assert_eq!(actions(&mut replica), []);
}

#[test]
fn a_version_without_memory_acks_sends_none_up() {
    let mut replica = middle(false);
    let one = batch(5, 4, Level::Memory, &[1]);
    replica.handle_batch(NOW, UP, one.clone(), payload(1));
    assert_eq!(
        actions(&mut replica),
        [applied_of(&one), sent_on(&one), Action::Flush]
    );
    replica.handle_applied(NOW, V, Serial(5));
    replica.handle_next_ack(NOW, V, &ack(5, 4, Level::Memory, 1));
    assert_eq!(actions(&mut replica), []);
    replica.handle_stable(NOW, V, Serial(5));
    assert_eq!(actions(&mut replica), []);
    replica.handle_next_ack(NOW, V, &ack(5, 4, Level::Disk, 1));
    let disk = sent_up(Reply::Ack(ack(5, 4, Level::Disk, 2)));
    assert_eq!(actions(&mut replica), [disk]);
}

#[test]
fn a_promise_ends_the_stream_and_waits_for_what_is_under_way() {
    let mut replica = middle(true);
    let one = batch(5, 4, Level::Memory, &[1]);
    replica.handle_batch(NOW, UP, one, payload(1));
    let _ = actions(&mut replica);
    replica.handle_order(NOW, 8, promise(3));
    let all = actions(&mut replica);
    assert_eq!(all[0], Action::CloseNext(V));
    assert_eq!(failures(&all), [(UP, Status::PromiseRefused)]);
    assert_eq!(all.last(), Some(&Action::EndStream(UP)));
    let late = batch(6, 4, Level::Memory, &[2]);
    replica.handle_batch(NOW, UP, late, payload(1));
    replica.handle_mark(NOW, UP, &mark(4, 7));
    assert_eq!(actions(&mut replica), []);
    replica.handle_applied(NOW, V, Serial(5));
    let keep = Action::KeepPromise {
        version: ChunkVersion(3),
        epoch: super::harness::EPOCH,
    };
    assert_eq!(actions(&mut replica), [keep]);
}

#[test]
fn a_numbered_mark_is_answered_when_all_behind_have_answered() {
    let mut replica = middle(true);
    replica.handle_mark(NOW, UP, &mark(4, 9));
    assert_eq!(
        actions(&mut replica),
        [Action::SendNext(Frame::Mark(mark(4, 9)))]
    );
    let marked = Marked {
        handle: super::harness::HANDLE,
        version: V,
        number: 9,
    };
    replica.handle_next_marked(NOW, V, &marked);
    assert_eq!(actions(&mut replica), [sent_up(Reply::Marked(marked))]);
}

/// Breaks a rule; what the member says then, and whom it blames.
type Break = fn(&mut super::super::Replica) -> (Status, u64);

#[test]
fn frames_that_do_not_follow_or_are_damaged_apply_nothing_and_go_nowhere() {
    let gap = |replica: &mut super::super::Replica| {
        replica.handle_batch(NOW, UP, batch(6, 4, Level::Memory, &[1]), payload(1));
        (Status::OutOfOrder, 1)
    };
    let damaged = |replica: &mut super::super::Replica| {
        let bad = bytes::Bytes::from_static(b"abd");
        replica.handle_batch(NOW, UP, batch(5, 4, Level::Memory, &[1]), bad);
        (Status::DamagedInTransit, 2)
    };
    let other = |replica: &mut super::super::Replica| {
        let mut of_another = batch(5, 4, Level::Memory, &[1]);
        of_another.version = ChunkVersion(3);
        replica.handle_batch(NOW, UP, of_another, payload(1));
        (Status::OutOfOrder, 1)
    };
    let breaks: [Break; 3] = [gap, damaged, other];
    for breaks_it in breaks {
        let mut replica = middle(true);
        let (status, blamed) = breaks_it(&mut replica);
        let all = actions(&mut replica);
        assert_eq!(
            all[0],
            report(&replica, ChainTrouble::HopFailed, blamed, status)
        );
        assert_eq!(failures(&all), [(UP, status)]);
        let touches = |a: &Action| matches!(a, Action::Apply(_) | Action::SendNext(_));
        assert!(!all.iter().any(touches), "{all:?}");
    }
}

#[test]
fn what_can_not_be_applied_fails_the_hop_and_skips_no_serial() {
    let mut replica = middle(true);
    replica.handle_batch(NOW, UP, batch(5, 4, Level::Memory, &[1, 2, 3]), payload(3));
    let _ = actions(&mut replica);
    replica.handle_applied(NOW, V, Serial(5));
    replica.handle_not_applied(NOW, V, Serial(6), Status::NoSpace, "full", false);
    let all = actions(&mut replica);
    assert_eq!(
        all[0],
        report(&replica, ChainTrouble::HopFailed, 2, Status::NoSpace)
    );
    assert_eq!(failures(&all), [(UP, Status::NoSpace)]);
    // A promise isn't held up by what will never be applied.
    replica.handle_order(NOW, 8, promise(3));
    let all = actions(&mut replica);
    assert!(matches!(all[..], [Action::KeepPromise { .. }]), "{all:?}");
    assert_eq!(replica.member().has(), (V, Serial(5)));
}

#[test]
fn a_poisoned_member_takes_no_more_part() {
    let mut replica = middle(true);
    replica.handle_failed(NOW, Status::MediumFailed, "a sync failed", true);
    let all = actions(&mut replica);
    // Its promise would not count anyway; that it is bad the master has to know too.
    let corrupt = report(&replica, ChainTrouble::Corrupt, 2, Status::MediumFailed);
    assert!(all.contains(&corrupt), "{all:?}");
    assert_eq!(failures(&all), [(UP, Status::MediumFailed)]);
    replica.handle_order(NOW, 8, promise(3));
    assert_eq!(
        answers(&actions(&mut replica)),
        [(8, Err(Status::Poisoned))]
    );
    let read = replica.check_read(NOW, V, Serial(4));
    assert_eq!(read.map_err(|(status, _)| status), Err(Status::Poisoned));
}

/// A medium that failed under a read of an open chunk was told to the reader alone: the next reader met
/// it again, and so did the seal.
#[test]
fn a_read_that_fails_is_told_once_a_version_and_the_member_goes_on() {
    let mut replica = middle(true);
    replica.handle_read_failed(Status::MediumFailed);
    replica.handle_read_failed(Status::MediumFailed);
    let corrupt = report(&replica, ChainTrouble::Corrupt, 2, Status::MediumFailed);
    assert_eq!(actions(&mut replica), [corrupt]);
    assert!(replica.check_read(NOW, V, Serial(4)).is_ok());
}

#[test]
fn silence_of_a_neighbour_fails_its_hop() {
    let late = NOW + config().suspect_after;
    let before = late - Duration::from_millis(1);
    let mut replica = middle(true);
    replica.handle_mark(before, UP, &mark(4, 0));
    replica.handle_timeout(late);
    let all = turn_at(&mut replica, late);
    assert_eq!(
        all[0],
        report(&replica, ChainTrouble::HopFailed, 3, Status::ChainBroken)
    );
    assert_eq!(failures(&all), [(UP, Status::ChainBroken)]);

    let mut replica = middle(true);
    replica.handle_next_ack(before, V, &ack(4, 4, Level::Memory, 1));
    replica.handle_timeout(late);
    let all = turn_at(&mut replica, late);
    assert_eq!(
        all[0],
        report(&replica, ChainTrouble::HopFailed, 1, Status::ChainBroken)
    );
    assert_eq!(all[1], Action::CloseNext(V));
}

/// A next hop that took its time to be reached had what was left of `suspect_after` to answer, and was blamed
/// though it was quick then.
#[test]
fn a_next_hop_has_its_time_from_when_it_was_reached() {
    let mut replica = begun(1, true);
    replica.handle_open(NOW, UP, chain_open(1, 3, true));
    let _ = actions(&mut replica);
    let suspect_after = config().suspect_after;
    let reached = NOW + suspect_after - Duration::from_millis(1);
    replica.handle_mark(reached, UP, &mark(4, 0));
    replica.handle_next_reached(reached, V);
    let told_all = |actions: Vec<Action>| {
        let keep_alive = sent_up(Reply::Ack(ack(4, 4, Level::Memory, 2)));
        let down = Action::SendNext(Frame::Mark(mark(4, 0)));
        actions.iter().all(|it| *it == keep_alive || *it == down)
    };
    replica.handle_timeout(NOW + suspect_after);
    assert!(told_all(turn_at(&mut replica, NOW + suspect_after)));
    // A hello says nothing of the chain.
    let late = reached + suspect_after;
    replica.handle_mark(late, UP, &mark(4, 0));
    replica.handle_timeout(late);
    let all = turn_at(&mut replica, late);
    let told = report(&replica, ChainTrouble::HopFailed, 3, Status::ChainBroken);
    assert_eq!(all[0], told);
}

#[test]
fn everybody_is_told_something_in_every_third_of_suspect_after() {
    let mut replica = middle(true);
    let third = config().suspect_after / 3;
    let (mut now, mut last_up, mut last_down) = (NOW, NOW, NOW);
    while now < NOW + 10 * third {
        now = replica.poll_timeout().unwrap();
        // Both neighbours are heard all the time.
        replica.handle_mark(now, UP, &mark(4, 0));
        replica.handle_next_ack(now, V, &ack(4, 4, Level::Memory, 1));
        replica.handle_timeout(now);
        for action in turn_at(&mut replica, now) {
            match action {
                Action::SendNext(Frame::Mark(told)) if told == mark(4, 0) => last_down = now,
                action if action == sent_up(Reply::Ack(ack(4, 4, Level::Memory, 2))) => {
                    last_up = now;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(now - last_up <= third && now - last_down <= third);
    }
}

#[test]
fn a_hop_is_opened_once_and_only_as_it_was_begun() {
    let mut replica = begun(1, true);
    let mut other = chain_open(1, 3, true);
    other.begin_serial = Serial(3);
    replica.handle_open(NOW, UP, other);
    let all = actions(&mut replica);
    assert_eq!(failures(&all), [(UP, Status::Behind)]);
    let Action::Send {
        reply: Reply::Failed { kind, .. },
        ..
    } = &all[0]
    else {
        panic!("{all:?}");
    };
    assert_eq!(*kind, Kind::WriteOpened);
    let mut replica = middle(true);
    replica.handle_stream_gone(NOW, UP);
    let all = actions(&mut replica);
    let told = report(&replica, ChainTrouble::HopFailed, 0, Status::ChainBroken);
    assert_eq!(all, [told, Action::CloseNext(V)]);
    replica.handle_open(NOW, UP, chain_open(1, 3, true));
    assert_eq!(
        failures(&actions(&mut replica)),
        [(UP, Status::PromiseRefused)]
    );
}

#[test]
fn a_member_serves_its_committed_state_and_only_while_it_hears_its_chain() {
    let mut replica = middle(true);
    replica.handle_batch(NOW, UP, batch(5, 4, Level::Memory, &[1]), payload(1));
    replica.handle_applied(NOW, V, Serial(5));
    let read = |replica: &super::super::Replica, at, serial| {
        replica
            .check_read(at, V, Serial(serial))
            .map_err(|(status, _)| status)
    };
    assert_eq!(read(&replica, NOW, 4), Ok((V, Serial(4))));
    assert_eq!(
        read(&replica, NOW, 5),
        Err(Status::Behind),
        "it isn't known to be committed"
    );
    replica.handle_mark(NOW, UP, &mark(5, 0));
    assert_eq!(read(&replica, NOW, 5), Ok((V, Serial(5))));
    let stale = NOW + config().dead_after;
    assert_eq!(read(&replica, stale, 4), Err(Status::Behind));
}

/// A promise that was asked for long ago came to a member that was left out since, and it served again
/// what had been committed before that (found by the simulator).
#[test]
fn a_promise_lets_a_member_serve_on_but_not_again() {
    let read = |replica: &super::super::Replica, at| {
        let read = replica.check_read(at, V, Serial(4));
        read.map_err(|(status, _)| status)
    };
    let silence = config().dead_after;
    let almost = NOW + silence - config().suspect_after / 2;
    let mut replica = middle(true);
    replica.handle_order(almost, 8, promise(V.0 + 1));
    assert_eq!(read(&replica, NOW + silence), Ok((V, Serial(4))));
    let mut replica = middle(true);
    replica.handle_order(NOW + silence, 8, promise(V.0 + 1));
    assert_eq!(read(&replica, NOW + silence), Err(Status::Behind));
}

/// A client had written serial 5 and was answered by the primary. Another member had not heard that
/// it is committed when a new version began there, and served serial 4 as that version's: newer than
/// what the client had seen, by its name (found by the simulator).
#[test]
fn what_was_begun_is_no_newer_than_what_it_has() {
    let mut replica = middle(true);
    replica.handle_batch(NOW, UP, batch(5, 4, Level::Memory, &[1]), payload(1));
    replica.handle_applied(NOW, V, Serial(5));
    let newer = ChunkVersion(V.0 + 1);
    replica.handle_order(NOW, 8, promise(newer.0));
    replica.handle_done(NOW, Done::PromiseKept { length: 3, ids: 1 });
    replica.handle_order(NOW, 9, begin_at(newer, Serial(5), true));
    replica.handle_done(NOW, Done::Begun { length: 3 });
    let read = |replica: &super::super::Replica, version, serial| {
        let read = replica.check_read(NOW, version, Serial(serial));
        read.map_err(|(status, _)| status)
    };
    assert_eq!(read(&replica, V, 4), Ok((newer, Serial(4))));
    assert_eq!(read(&replica, V, 5), Err(Status::Behind));
    assert_eq!(read(&replica, newer, 0), Err(Status::Behind));
    let mut open = chain_open(1, 3, true);
    (open.version, open.begin_serial) = (newer, Serial(5));
    replica.handle_open(NOW, UP, open);
    assert_eq!(read(&replica, V, 9), Ok((newer, Serial(5))));
    assert_eq!(read(&replica, newer, 0), Ok((newer, Serial(5))));
}

/// A client had an ack of serial 5, of which this member knew only that 4 is committed. The next version
/// was begun on all, and active elsewhere: its opening never came here. When the one behind that was begun
/// here too, who asked for the active one was served serial 4, and did not see its own write.
#[test]
fn what_was_active_elsewhere_is_not_served_from_what_is_older() {
    let mut replica = middle(true);
    replica.handle_batch(NOW, UP, batch(5, 4, Level::Memory, &[1]), payload(1));
    replica.handle_applied(NOW, V, Serial(5));
    let [active, next] = [1, 2].map(|more| ChunkVersion(V.0 + more));
    let begins = |replica: &mut super::super::Replica, version: ChunkVersion| {
        replica.handle_order(NOW, 8, promise(version.0));
        replica.handle_done(NOW, Done::PromiseKept { length: 3, ids: 1 });
        replica.handle_order(NOW, 9, begin_at(version, Serial(5), true));
        replica.handle_done(NOW, Done::Begun { length: 3 });
    };
    let read = |replica: &super::super::Replica, version, serial| {
        let read = replica.check_read(NOW, version, Serial(serial));
        read.map_err(|(status, _)| status)
    };
    begins(&mut replica, active);
    assert_eq!(read(&replica, active, 0), Err(Status::Behind));
    begins(&mut replica, next);
    assert_eq!(read(&replica, active, 0), Err(Status::Behind));
    assert_eq!(read(&replica, active, 4), Err(Status::Behind));
    // Of what was active here it knows enough.
    assert_eq!(read(&replica, V, 4), Ok((next, Serial(4))));
    assert_eq!(read(&replica, V, 5), Err(Status::Behind));
    // What begins has all that was acknowledged before.
    let mut open = chain_open(1, 3, true);
    (open.version, open.begin_serial) = (next, Serial(5));
    replica.handle_open(NOW, UP, open);
    assert_eq!(read(&replica, active, 9), Ok((next, Serial(5))));
}

#[test]
fn what_nobody_waits_for_is_flushed_all_the_same() {
    let mut replica = middle(true);
    replica.handle_batch(NOW, UP, batch(5, 4, Level::Memory, &[1]), payload(1));
    replica.handle_applied(NOW, V, Serial(5));
    assert!(!actions(&mut replica).contains(&Action::Flush));
    let due = NOW + config().suspect_after / 3;
    replica.handle_timeout(due);
    assert!(turn_at(&mut replica, due).contains(&Action::Flush));
}
