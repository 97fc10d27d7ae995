//! The rule of version changes holds in every order of what may happen, and each part of it that
//! is taken out is missed (`spec/replication.md` section 15).

use sarsen_sim::version_model::{Bounds, Fault, explore};

const fn bounds(members: u8, mutations: u8, attempts: u8, restarts: u8) -> Bounds {
    Bounds {
        members,
        mutations,
        attempts,
        restarts,
        memory_allowed: false,
    }
}

const fn with_memory(bounds: Bounds) -> Bounds {
    Bounds {
        memory_allowed: true,
        ..bounds
    }
}

#[track_caller]
fn holds(bounds: Bounds, states_min: usize) {
    let report = explore(bounds, None);
    assert!(report.broken.is_none(), "{report:#?}");
    // A search that goes nowhere would hold as well.
    assert!(report.states >= states_min, "{} states", report.states);
}

#[track_caller]
fn is_missed(bounds: Bounds, fault: Option<Fault>) {
    let report = explore(bounds, fault);
    assert!(report.broken.is_some(), "{} states", report.states);
}

#[test]
fn two_members_and_two_changes() {
    holds(bounds(2, 1, 2, 0), 4_000);
}

#[test]
fn two_mutations_one_change_and_a_restart() {
    holds(bounds(2, 2, 1, 1), 20_000);
}

#[test]
fn acks_from_memory_and_a_restart() {
    holds(with_memory(bounds(2, 1, 2, 1)), 90_000);
}

#[test]
fn three_members() {
    holds(with_memory(bounds(3, 1, 1, 1)), 25_000);
}

#[test]
fn two_attempts_at_once_are_missed() {
    is_missed(bounds(2, 1, 2, 0), Some(Fault::TwoAttempts));
}

#[test]
fn a_promise_that_refuses_nothing_is_missed() {
    is_missed(bounds(2, 1, 1, 0), Some(Fault::NoPromise));
}

#[test]
fn a_promise_without_a_sync_is_missed() {
    is_missed(
        with_memory(bounds(2, 1, 2, 1)),
        Some(Fault::NoSyncAtPromise),
    );
}

#[cfg(debug_assertions)]
#[test]
fn a_beginning_above_the_lowest_serial_is_missed() {
    use sarsen_protocol::sabotage::{Check, remove};
    remove(Some(Check::LowestSerial));
    let report = explore(bounds(2, 1, 2, 0), Some(Fault::BeginAbove));
    remove(None);
    assert!(report.broken.is_some(), "{} states", report.states);
}

#[cfg(debug_assertions)]
#[test]
fn a_restarted_member_that_counts_is_missed() {
    use sarsen_protocol::sabotage::{Check, remove};
    remove(Some(Check::RestartedMember));
    let report = explore(with_memory(bounds(2, 1, 1, 1)), None);
    remove(None);
    assert!(report.broken.is_some(), "{} states", report.states);
}
