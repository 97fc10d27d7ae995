//! The table of `spec/replication.md` section 3.3, row by row, with sections 7 and 8.

use super::*;
use crate::core::command::LossCause;

/// Who begins where, when all have answered.
fn begins(plan: Plan, answers: &[Promised]) -> (u64, Vec<Member>) {
    let (_, actions) = promised(plan, answers);
    let mut at = None;
    let members = actions.into_iter().map(|action| match action {
        Action::Order {
            order: Order::Begin(begin),
            ..
        } => {
            at = Some(begin.serial.0);
            begin.member
        }
        other => panic!("no beginning: {other:?}"),
    });
    let members = members.collect();
    (at.unwrap(), members)
}

fn after_restart(n: u8, serial: u64) -> Promised {
    Promised {
        member: restarted(n),
        ..has(n, serial)
    }
}

fn poisoned(n: u8, serial: u64) -> Promised {
    Promised {
        is_poisoned: true,
        ..has(n, serial)
    }
}

fn all() -> Vec<Member> {
    vec![member(1), member(2), member(3)]
}

#[test]
fn the_lowest_of_those_that_count() {
    let answers = [has(1, 12), has(2, 11), has(3, 10)];
    assert_eq!(begins(plan(), &answers), (10, all()));
}

#[test]
fn poisoned_and_corrupt_ones_neither_count_nor_stay() {
    let corrupt = Promised {
        is_corrupt: true,
        ..has(3, 12)
    };
    for bad in [poisoned(3, 9), poisoned(3, 12), corrupt] {
        let answers = [has(1, 12), has(2, 11), bad];
        assert_eq!(begins(plan(), &answers), (11, vec![member(1), member(2)]));
    }
}

#[test]
fn only_the_active_version_and_attempts_since_count() {
    let of = |version, serial| Promised {
        version,
        ..has(3, serial)
    };
    let since = of(ChunkVersion(15), 9);
    let answers = [has(1, 12), has(2, 11), since];
    assert_eq!(begins(plan(), &answers), (9, all()));
    for other in [of(ChunkVersion(9), 9), of(V, 9), of(ChunkVersion(21), 9)] {
        let answers = [has(1, 12), has(2, 11), other];
        assert_eq!(begins(plan(), &answers), (11, vec![member(1), member(2)]));
    }
}

#[test]
fn another_directory_of_the_server_is_another_replica() {
    let mut elsewhere = has(3, 9);
    elsewhere.member.directory = DirectoryId([33; 16]);
    let answers = [has(1, 12), has(2, 11), elsewhere];
    assert_eq!(begins(plan(), &answers), (11, vec![member(1), member(2)]));
}

#[test]
fn a_restart_does_not_matter_where_all_acks_were_of_the_disk() {
    let answers = [has(1, 12), has(2, 11), after_restart(3, 10)];
    let members = vec![member(1), member(2), restarted(3)];
    assert_eq!(begins(plan(), &answers), (10, members));
}

#[test]
fn where_memory_was_allowed_a_restarted_one_has_no_say_but_stays_if_it_has_enough() {
    let answers = [has(1, 12), has(2, 11), after_restart(3, 10)];
    assert_eq!(
        begins(memory_plan(), &answers),
        (11, vec![member(1), member(2)])
    );
    let answers = [has(1, 12), has(2, 11), after_restart(3, 11)];
    let members = vec![member(1), member(2), restarted(3)];
    assert_eq!(begins(memory_plan(), &answers), (11, members));
}

/// Attack H5: a journal that lost its end without a trace would take from everybody what was
/// acknowledged.
#[test]
fn an_answer_below_what_another_knows_to_be_committed_is_not_believed() {
    let knows = Promised {
        commit_mark: Serial(10),
        ..has(2, 11)
    };
    let answers = [has(1, 12), knows.clone(), has(3, 9)];
    assert_eq!(begins(plan(), &answers), (11, vec![member(1), member(2)]));
    let answers = [has(1, 12), knows, has(3, 10)];
    assert_eq!(begins(plan(), &answers), (10, all()));
    // Its own mark proves nothing about its own serial but that it talks nonsense.
    let nonsense = Promised {
        commit_mark: Serial(40),
        ..has(3, 12)
    };
    let answers = [has(1, 12), has(2, 11), nonsense];
    let (serial, _) = begins(plan(), &answers[..]);
    assert_eq!(serial, 11);
}

#[test]
fn none_counts_and_all_have_answered() {
    let answers = [
        after_restart(1, 9),
        after_restart(2, 10),
        after_restart(3, 10),
    ];
    let (mut attempt, orders) = promised(memory_plan(), &answers);
    let members = [restarted(2), restarted(3)];
    assert_eq!(orders, begin_at(10, &members));
    let _ = say(&mut attempt, 2, begun(10, restarted(2)));
    let loss = Loss {
        version: U,
        serial: Serial(10),
        cause: LossCause::NoMember,
    };
    let decision = Decision {
        loss: Some(loss),
        outcome: Outcome::Active(active(V, 10, &members)),
    };
    assert_eq!(
        say(&mut attempt, 3, begun(10, restarted(3))),
        [Action::Log(decision)]
    );
}

/// Attack H4: the silent one may hold what was acknowledged, so it is asked again until it is dead.
#[test]
fn none_counts_yet_and_somebody_is_silent() {
    let answers = [after_restart(1, 10), after_restart(2, 10)];
    let (mut attempt, _) = promised(memory_plan(), &answers);
    for at_ms in [SUSPECT_MS, 2 * SUSPECT_MS, 3 * SUSPECT_MS] {
        assert_eq!(attempt.handle_timeout(at_ms - 1), []);
        assert_eq!(attempt.handle_timeout(at_ms), promise_of(&[3]));
    }
    let mut heard = attempt.clone();
    assert_eq!(
        tell(&mut heard, has(3, 10), 9_500),
        begin_at(10, &[restarted(1), restarted(2), member(3)])
    );
    let mut heard_above = attempt.clone();
    let _ = tell(&mut heard_above, has(3, 12), 9_500);
    assert_eq!(attempt.poll_timeout(), Some(DEAD_MS));
    assert_eq!(
        attempt.handle_timeout(DEAD_MS),
        begin_at(10, &[restarted(1), restarted(2)])
    );
}

#[test]
fn nobody_answers_and_the_chunk_is_unavailable() {
    let (mut attempt, _) = VersionChange::start(plan(), 0);
    for at_ms in [SUSPECT_MS, 2 * SUSPECT_MS, 3 * SUSPECT_MS] {
        assert_eq!(attempt.handle_timeout(at_ms), promise_of(&[1, 2, 3]));
    }
    assert_eq!(
        attempt.handle_timeout(DEAD_MS),
        [Action::GivenUp(Failure::Unavailable)]
    );
    // Poisoned ones can't lead either.
    let answers = [poisoned(1, 9), poisoned(2, 9), poisoned(3, 9)];
    assert_eq!(
        promised(plan(), &answers).1,
        [Action::GivenUp(Failure::Unavailable)]
    );
}

#[test]
fn who_is_silent_is_left_out_if_enough_stay() {
    let (mut attempt, _) = promised(plan(), &[has(1, 12), has(3, 10)]);
    assert_eq!(
        attempt.handle_timeout(SUSPECT_MS),
        begin_at(10, &[member(1), member(3)])
    );
}

#[test]
fn fewer_than_enough_wait_and_are_sealed_when_the_others_are_dead() {
    let (mut attempt, _) = promised(plan(), &[has(2, 10)]);
    assert_eq!(attempt.handle_timeout(SUSPECT_MS), promise_of(&[1, 3]));
    let mut better = attempt.clone();
    assert_eq!(
        tell(&mut better, has(1, 9), 4_000),
        begin_at(9, &[member(1), member(2)])
    );
    let _ = attempt.handle_timeout(2 * SUSPECT_MS);
    let _ = attempt.handle_timeout(3 * SUSPECT_MS);
    let prepare = PrepareSeal {
        serial: Serial(10),
        member: member(2),
        len: None,
        sessions_end: SessionId(5),
    };
    assert_eq!(
        attempt.handle_timeout(DEAD_MS),
        [order_to(2, Order::PrepareSeal(prepare))]
    );
}

#[test]
fn who_refuses_is_not_waited_for() {
    let (mut attempt, _) = promised(plan(), &[has(1, 12), has(2, 10)]);
    let refused = Answer::Refused(Step::Promise, Status::ChunkUnknown);
    assert_eq!(
        say(&mut attempt, 3, refused),
        begin_at(10, &[member(1), member(2)])
    );
}

#[test]
fn the_one_blamed_goes_last_and_the_second_time_it_goes() {
    let answers = [has(1, 12), has(2, 11), has(3, 10)];
    let blaming = |n, again| Plan {
        blamed: Some(Blamed {
            server: server(n),
            again,
        }),
        ..plan()
    };
    let order = |plan| begins(plan, &answers).1;
    assert_eq!(order(blaming(1, false)), [member(2), member(3), member(1)]);
    assert_eq!(order(blaming(2, false)), [member(1), member(3), member(2)]);
    assert_eq!(order(blaming(1, true)), [member(2), member(3)]);
    assert_eq!(order(blaming(2, true)), [member(1), member(3)]);
    // Not below the fewest that are allowed.
    let fewest = Plan {
        min_replicas: 3,
        ..blaming(1, true)
    };
    assert_eq!(order(fewest), [member(2), member(3), member(1)]);
}

#[test]
fn who_failed_before_is_left_out_if_enough_stay() {
    let answers = [has(1, 12), has(2, 11), has(3, 10)];
    let without = |failed: &[u8]| Plan {
        failed: failed.iter().copied().map(server).collect(),
        ..plan()
    };
    assert_eq!(
        begins(without(&[2]), &answers),
        (10, vec![member(1), member(3)])
    );
    // The second can't go any more.
    assert_eq!(
        begins(without(&[2, 1]), &answers),
        (10, vec![member(1), member(3)])
    );
}

/// Members whose disks were all slow for a while were all left out but one: what had been acknowledged by
/// three was sealed by one, while the others held the same.
#[test]
fn where_all_have_failed_for_long_enough_of_them_stay() {
    let answers = [has(1, 10), has(2, 10), has(3, 10)];
    let without = |failed: &[u8], hopeless: &[u8]| Plan {
        failed: failed.iter().copied().map(server).collect(),
        hopeless: hopeless.iter().copied().map(server).collect(),
        ..plan()
    };
    let (_, orders) = promised(without(&[3, 2], &[3, 2]), &answers);
    let prepare = PrepareSeal {
        serial: Serial(10),
        member: member(1),
        len: None,
        sessions_end: SessionId(5),
    };
    assert_eq!(orders, [order_to(1, Order::PrepareSeal(prepare))]);
    let (_, stay) = begins(without(&[3, 2, 1], &[3, 2, 1]), &answers);
    assert_eq!(stay, [member(1), member(2)]);
    // Who failed a while ago may have got over it.
    let (_, stay) = begins(without(&[3, 2, 1], &[3]), &answers);
    assert_eq!(stay, [member(1), member(2)]);
}

#[test]
fn the_old_primary_stays_and_otherwise_the_first_follows() {
    let mut turned = active(U, 4, &[member(1), member(2), member(3)]);
    turned.primary = server(2);
    let turned = Plan {
        base: Base::Open(turned),
        ..plan()
    };
    let answers = [has(1, 9), has(2, 9), has(3, 9)];
    assert_eq!(
        begins(turned.clone(), &answers).1,
        [member(2), member(1), member(3)]
    );
    let answers = [has(1, 9), poisoned(2, 9), has(3, 9)];
    assert_eq!(begins(turned, &answers).1, [member(1), member(3)]);
}

const SEALED: Sealed = Sealed {
    version: U,
    len: 700,
    crc: 5,
};

fn opening() -> Plan {
    Plan {
        base: Base::Sealed {
            sealed: SEALED,
            holders: all(),
        },
        ..plan()
    }
}

fn holds(n: u8, serial: u64) -> Promised {
    Promised {
        sealed: Some(SEALED),
        commit_mark: Serial(0),
        ..has(n, serial)
    }
}

/// Attack H24: holders of the same bytes may tell different serials; all take the highest.
#[test]
fn holders_of_a_sealed_chunk_begin_at_the_highest() {
    let answers = [holds(1, 3), holds(2, 8), holds(3, 0)];
    assert_eq!(begins(opening(), &answers), (8, all()));
}

#[test]
fn a_holder_counts_by_what_it_holds_and_by_nothing_applied_since() {
    let begun = Promised {
        version: ChunkVersion(15),
        begin_serial: Serial(9),
        ..holds(3, 9)
    };
    let answers = [holds(1, 3), holds(2, 3), begun.clone()];
    assert_eq!(begins(opening(), &answers), (9, all()));
    let applied = Promised {
        serial: Serial(10),
        ..begun
    };
    let other_bytes = Promised {
        sealed: Some(Sealed { crc: 6, ..SEALED }),
        ..holds(3, 9)
    };
    let open = Promised {
        sealed: None,
        ..holds(3, 9)
    };
    for bad in [applied, other_bytes, open] {
        let answers = [holds(1, 3), holds(2, 3), bad];
        assert_eq!(begins(opening(), &answers), (3, vec![member(1), member(2)]));
    }
}

#[test]
fn too_few_holders_open_nothing() {
    let (mut attempt, _) = promised(opening(), &[holds(1, 3)]);
    assert_eq!(attempt.handle_timeout(SUSPECT_MS), promise_of(&[2, 3]));
    let mut all_answered = attempt.clone();
    for n in [2, 3] {
        let refused = Answer::Refused(Step::Promise, Status::ChunkUnknown);
        let last = say(&mut all_answered, n, refused);
        let too_few = [Action::GivenUp(Failure::TooFew)];
        assert_eq!(last, if n == 3 { &too_few[..] } else { &[] });
    }
    let _ = attempt.handle_timeout(2 * SUSPECT_MS);
    let _ = attempt.handle_timeout(3 * SUSPECT_MS);
    assert_eq!(
        attempt.handle_timeout(DEAD_MS),
        [Action::GivenUp(Failure::TooFew)]
    );
}
