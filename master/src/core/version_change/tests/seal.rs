//! Attempts that end in a seal: `spec/replication.md` sections 3.5 and 8.

use super::*;

pub(super) const SAME: Prepared = Prepared {
    len: 700,
    crc: 5,
    id_table_len: 64,
    id_table_crc: 6,
};

pub(super) fn prepare(serial: u64, member: Member, len: Option<u32>) -> Action {
    Action::Order {
        server: member.server,
        order: Order::PrepareSeal(PrepareSeal {
            serial: Serial(serial),
            member,
            len,
            sessions_end: SessionId(5),
        }),
    }
}

pub(super) fn has_prepared(n: u8, prepared: Prepared) -> Answer {
    Answer::SealPrepared {
        serial: Serial(8),
        prepared,
        member: member(n),
    }
}

/// Three members that prepare at serial 8.
fn preparing() -> VersionChange {
    promised(sealing(), &[has(1, 8), has(2, 9), has(3, 8)]).0
}

/// Three whose preparations differ.
fn differing() -> VersionChange {
    let mut attempt = preparing();
    let _ = say(&mut attempt, 1, has_prepared(1, SAME));
    let _ = say(&mut attempt, 2, has_prepared(2, SAME));
    let other = Prepared { crc: 9, ..SAME };
    let read_back: Vec<Action> = (1..=3).map(|n| order_to(n, Order::ReadBack)).collect();
    assert_eq!(say(&mut attempt, 3, has_prepared(3, other)), read_back);
    attempt
}

#[test]
fn prepared_logged_settled() {
    let (mut attempt, orders) = promised(sealing(), &[has(1, 8), has(2, 9), has(3, 8)]);
    let to_all: Vec<Action> = (1..=3).map(|n| prepare(8, member(n), None)).collect();
    assert_eq!(orders, to_all);
    assert_eq!(attempt.handle_connected(server(2), 100), to_all[1..2]);
    assert_eq!(say(&mut attempt, 2, has_prepared(2, SAME)), []);
    assert_eq!(attempt.handle_connected(server(2), 100), []);
    assert_eq!(say(&mut attempt, 3, has_prepared(3, SAME)), []);
    let sealed = Sealed {
        version: V,
        len: 700,
        crc: 5,
    };
    let members = vec![member(1), member(2), member(3)];
    let decision = Decision {
        loss: None,
        outcome: Outcome::Sealed { sealed, members },
    };
    assert_eq!(
        say(&mut attempt, 1, has_prepared(1, SAME)),
        [Action::Log(decision)]
    );
    let settle = |n| {
        let settle = Order::Settle {
            directory: member(n).directory,
            len: 700,
            crc: 5,
        };
        order_to(n, settle)
    };
    assert_eq!(
        attempt.handle_log(true),
        [settle(1), settle(2), settle(3), Action::Done]
    );
}

#[test]
fn a_cut_is_told_to_all() {
    let cut = Plan {
        end: End::Sealed {
            len: Some(600),
            sessions_end: SessionId(5),
        },
        ..sealing()
    };
    let (_, orders) = promised(cut, &[has(1, 8), has(2, 9), has(3, 8)]);
    let to_all: Vec<Action> = (1..=3).map(|n| prepare(8, member(n), Some(600))).collect();
    assert_eq!(orders, to_all);
}

/// A copy of patched blocks takes its time; a member that is at it says so.
#[test]
fn who_still_prepares_is_waited_for() {
    let mut attempt = preparing();
    let _ = say(&mut attempt, 1, has_prepared(1, SAME));
    attempt.handle_alive(server(2), 9_000);
    attempt.handle_alive(server(9), 9_000);
    let first_ms = 100 + DEAD_MS;
    assert_eq!(attempt.poll_timeout(), Some(first_ms));
    assert_eq!(attempt.clone().handle_timeout(first_ms - 1), []);
    assert_eq!(
        attempt.clone().handle_timeout(first_ms),
        failed(&[(3, Fault::Silent)])
    );
    let _ = say(&mut attempt, 3, has_prepared(3, SAME));
    assert_eq!(attempt.poll_timeout(), Some(9_000 + DEAD_MS));
    assert_eq!(attempt.handle_timeout(first_ms), []);
}

/// Appends wait for the seal of a full chunk: a member that was killed while it prepared held them for
/// `dead_after`.
#[test]
fn who_is_gone_is_not_taken_for_one_that_still_prepares() {
    let mut attempt = preparing();
    attempt.handle_lost(server(3), 1_000);
    let lost_ms = 1_000 + SUSPECT_MS;
    assert_eq!(attempt.poll_timeout(), Some(lost_ms));
    let mut back = attempt.clone();
    assert_eq!(attempt.handle_timeout(lost_ms - 1), []);
    assert_eq!(
        attempt.handle_timeout(lost_ms),
        failed(&[(3, Fault::Silent)])
    );
    assert_eq!(
        back.handle_connected(server(3), 100),
        [prepare(8, member(3), None)]
    );
    assert_eq!(back.poll_timeout(), Some(100 + DEAD_MS));
    // Too few are left, who could do no better: what they have prepared is not thrown away.
    back.handle_lost(server(1), 1_000);
    back.handle_lost(server(2), 1_000);
    assert_eq!(back.poll_timeout(), Some(100 + DEAD_MS));
}

#[test]
fn who_does_not_prepare_has_failed() {
    let corrupt = Answer::Refused(Step::PrepareSeal, Status::Corrupt);
    assert_eq!(
        say(&mut preparing(), 2, corrupt),
        failed(&[(2, Fault::Refused(Status::Corrupt))])
    );
    let of_another_start = Answer::SealPrepared {
        serial: Serial(8),
        prepared: SAME,
        member: restarted(2),
    };
    assert_eq!(
        say(&mut preparing(), 2, of_another_start),
        failed(&[(2, Fault::WrongAnswer)])
    );
}

/// Every one of the four values has to be the same.
#[test]
fn members_that_differ_in_anything_read_back() {
    for other in [
        Prepared { len: 1, ..SAME },
        Prepared { crc: 1, ..SAME },
        Prepared {
            id_table_len: 1,
            ..SAME
        },
        Prepared {
            id_table_crc: 1,
            ..SAME
        },
    ] {
        let mut attempt = preparing();
        let _ = say(&mut attempt, 1, has_prepared(1, SAME));
        let _ = say(&mut attempt, 2, has_prepared(2, other));
        let last = say(&mut attempt, 3, has_prepared(3, SAME));
        assert_eq!(last.len(), 3, "{last:?}");
        assert!(!attempt.is_logging());
    }
}

#[test]
fn who_fails_when_read_back_is_named() {
    let mut attempt = differing();
    assert_eq!(attempt.handle_connected(server(3), 100).len(), 1);
    let sound = |is_sound| Answer::ReadBack { is_sound };
    assert_eq!(say(&mut attempt, 1, sound(true)), []);
    assert_eq!(say(&mut attempt, 3, sound(false)), []);
    assert_eq!(
        say(&mut attempt, 2, sound(true)),
        [Action::GivenUp(Failure::Damaged(vec![server(3)]))]
    );
}

#[test]
fn when_none_fails_the_chunk_is_corrupt() {
    let mut attempt = differing();
    for n in 1..=3 {
        let last = say(&mut attempt, n, Answer::ReadBack { is_sound: true });
        let all = (1..=3).map(server).collect();
        let corrupt = [Action::GivenUp(Failure::Corrupt(all))];
        assert_eq!(last, if n == 3 { &corrupt[..] } else { &[] });
    }
}

#[test]
fn who_is_not_heard_when_read_back_is_no_proof_of_corruption() {
    let mut attempt = differing();
    let _ = say(&mut attempt, 1, Answer::ReadBack { is_sound: true });
    let mut known = attempt.clone();
    let late_ms = 200 + DEAD_MS;
    assert_eq!(
        attempt.handle_timeout(late_ms),
        failed(&[(2, Fault::Silent), (3, Fault::Silent)])
    );
    let _ = say(&mut known, 3, Answer::ReadBack { is_sound: false });
    assert_eq!(
        known.handle_timeout(late_ms),
        [Action::GivenUp(Failure::Damaged(vec![server(3)]))]
    );
}
