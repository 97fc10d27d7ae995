//! Traces over the members of a chunk, whose messages come late, twice or never.

use super::*;

/// Begins and opens a version on these, as their master has it decided and logged.
fn change(members: &mut [&mut Member], version: u64, serial: u64) {
    for member in members {
        order(member, begin(version, serial)).expect("begins");
        open(member, version, serial).expect("opens");
    }
}

/// The primary pauses for longer than its lease, and goes on.
#[test]
fn a_primary_that_was_paused_meets_a_promise_at_its_next_mutation() {
    let (mut a, mut b, mut c) = (active(1, 11), active(2, 11), active(3, 10));
    let answers = [&mut b, &mut c].map(|member| serial_promised(order(member, promise(3))));
    assert_eq!(answers, [11, 10]);
    change(&mut [&mut b, &mut c], 3, 10);
    // The client's retry of what was 11 is done as 11 of the new version, on both.
    for member in [&mut b, &mut c] {
        assert_eq!(member.has(), (ChunkVersion(3), Serial(10)));
        mutate(member, 3, 11).expect("applies");
    }
    mutate(&mut a, 2, 12).expect("alone with its clock");
    for member in [&mut b, &mut c] {
        assert_eq!(mutate(member, 2, 12), Err(Status::PromiseRefused));
        let marked = member.handle_mark(ChunkVersion(2));
        assert_eq!(
            marked.map_err(|(status, _)| status),
            Err(Status::PromiseRefused)
        );
        assert_eq!(member.has(), (ChunkVersion(3), Serial(11)));
    }
}

/// The promise reaches one member, and the master dies.
#[test]
fn one_promise_ends_a_version_and_the_next_attempt_has_all() {
    let (mut a, mut b, mut c) = (active(1, 6), active(2, 6), active(3, 6));
    order(&mut b, promise(3)).expect("promises");
    mutate(&mut a, 2, 7).expect("applies");
    assert_eq!(mutate(&mut b, 2, 7), Err(Status::PromiseRefused));
    let mut members = [&mut a, &mut b, &mut c];
    let answers = members
        .each_mut()
        .map(|member| serial_promised(order(member, promise(4))));
    assert_eq!(answers, [7, 6, 6]);
    change(&mut members, 4, 6);
    assert!(
        members
            .iter()
            .all(|member| member.has() == (ChunkVersion(4), Serial(6)))
    );
    assert_eq!(order(&mut b, begin(3, 6)), Err(Status::PromiseRefused));
}

/// A restart between an ack from memory and the change.
#[test]
fn a_member_that_restarted_tells_its_new_start_and_begins_in_no_other() {
    let a = active(1, 7);
    let mut b = restarted(&active(2, 7), 2);
    assert_eq!(b.state(), State::Idle);
    let Ok(Answer::Promised(promised)) = order(&mut b, promise(3)) else {
        panic!("promises");
    };
    assert_ne!(promised.member.start_number, a.me.start_number);
    assert_eq!(
        promised.serial,
        Serial(7),
        "its process died, its disk did not"
    );
    // An order that names the start before the restart.
    assert_eq!(order(&mut b, begin(3, 7)), Err(Status::StaleStart));
    let now = Order::Begin(begin_in(3, 7, StartNumber(START.0 + 1)));
    assert!(order(&mut b, now).is_ok());
}

/// The promise, and with it an ack at `disk`, covers what asked for `memory` before.
#[test]
fn a_promise_is_kept_only_behind_everything_that_came_before_it() {
    let mut member = active(1, 6);
    for serial in [7, 8] {
        let came = member.handle_mutations(ChunkVersion(2), Serial(serial), Serial(serial));
        assert_eq!(came, Ok(()));
    }
    member.handle_applied(Serial(7));
    member.handle_order(1, promise(3));
    assert!(!actions(&mut member).contains(&keep_promise(3)));
    member.handle_applied(Serial(8));
    assert_eq!(actions(&mut member), [keep_promise(3)]);
}

/// What a change forgets is forgotten by name, so that a retry is done.
#[test]
fn a_begin_names_the_serial_that_everybody_goes_back_to() {
    let (mut a, mut b, mut c) = (active(1, 11), active(2, 11), active(3, 10));
    for member in [&mut a, &mut b, &mut c] {
        order(member, promise(3)).expect("promises");
        member.handle_order(1, begin(3, 10));
        let forget = Action::Begin {
            version: ChunkVersion(3),
            serial: Serial(10),
            memory: false,
        };
        assert_eq!(actions(member), [forget]);
        member.handle_done(Done::Begun { length: LENGTH });
        open(member, 3, 10).expect("opens");
        actions(member);
        mutate(member, 3, 11).expect("the retry is the next serial");
    }
}

/// A stream is opened once a version, and by nobody after a restart.
#[test]
fn a_version_is_opened_once_and_only_in_the_start_that_began_it() {
    let mut member = active(1, 6);
    assert_eq!(open(&mut member, 2, 4), Err(Status::PromiseRefused));
    member.handle_stream_ended(ChunkVersion(2));
    assert_eq!(open(&mut member, 2, 4), Err(Status::PromiseRefused));
    assert_eq!(member.state(), State::Idle);
    let mut member = restarted(&member, 1);
    assert_eq!(open(&mut member, 2, 4), Err(Status::PromiseRefused));

    // Begun, and never opened before the restart.
    let mut begun = sealed(1);
    order(&mut begun, promise(2)).expect("promises");
    order(&mut begun, begin(2, 4)).expect("begins");
    assert_eq!(open(&mut begun, 2, 3), Err(Status::Behind));
    assert_eq!(open(&mut begun, 1, 4), Err(Status::PromiseRefused));
    let mut begun = restarted(&begun, 1);
    assert_eq!(begun.sealed(), Some(BASE));
    assert_eq!(open(&mut begun, 2, 4), Err(Status::PromiseRefused));
}

/// A primary that restarted would give the same serials to other mutations.
#[test]
fn a_primary_that_restarted_orders_nothing_in_its_version() {
    let mut a = restarted(&active(1, 6), 1);
    assert_eq!(
        open(&mut a, 2, 4),
        Err(Status::PromiseRefused),
        "the lease again"
    );
    assert_eq!(mutate(&mut a, 2, 7), Err(Status::PromiseRefused));
}

/// The stream of a version comes when a newer one was promised.
#[test]
fn a_stream_that_comes_behind_a_newer_promise_is_refused() {
    let mut member = sealed(1);
    order(&mut member, promise(2)).expect("promises");
    order(&mut member, begin(2, 4)).expect("begins");
    order(&mut member, promise(3)).expect("promises");
    assert_eq!(open(&mut member, 2, 4), Err(Status::PromiseRefused));
    assert_eq!(member.sealed(), Some(BASE));
}

/// An old order to begin comes again when mutations of the version are applied.
#[test]
fn a_begin_that_is_asked_again_cuts_nothing() {
    let mut member = active(1, 9);
    member.handle_order(1, begin(2, 4));
    let begun = Begun {
        serial: Serial(4),
        length: LENGTH,
        member: me(1),
    };
    let answer = Action::Answer {
        to: 1,
        answer: Box::new(Ok(Answer::Begun(begun))),
    };
    assert_eq!(actions(&mut member), [answer]);
    assert_eq!(member.has(), (ChunkVersion(2), Serial(9)));
    mutate(&mut member, 2, 10).expect("goes on");
}
