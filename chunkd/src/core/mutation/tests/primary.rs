//! A primary: what it orders, when it answers, how it stops.

use std::time::Duration;

use sarsen_protocol::crc::crc32;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Serial, SessionId};
use sarsen_protocol::id_row::{IdRow, IdRowKind};
use sarsen_protocol::message::{
    ChainTrouble, Crcs, ErrorBody, LeaseRevoked, Level, Newest, NewestReply, WriteData, WriteOpen,
};
use sarsen_protocol::status::Status;

use super::super::{Action, Answer, Frame, Ids, Known, Order, Reply, StreamId};
use super::harness::{CHUNK, HANDLE, client_open, config, hop, request, ticket};
use super::script::*;

fn next_acks(replica: &mut super::super::Replica, serial: u64, level: Level) {
    replica.handle_next_ack(NOW, V, &ack(serial, BASE, level, 2));
}

const BASE: u64 = super::toy::BASE;

#[test]
fn a_grant_opens_the_chain_and_orders_only_when_it_is_open() {
    let mut replica = begun(0, true);
    replica.handle_order(NOW, 9, grant(3, true));
    let mut dial = chain_open(1, 3, true);
    dial.room = 0;
    let dial = Action::DialNext {
        hop: hop(1),
        open: Box::new(dial),
    };
    let granted = Action::Answer {
        to: 9,
        answer: Box::new(Ok(Answer::Granted)),
    };
    assert_eq!(actions(&mut replica), [dial, granted]);
    open_client(&mut replica, 1);
    ask(&mut replica, Level::Memory, &[(1, b"abc")]);
    assert_eq!(actions(&mut replica), []);
    replica.handle_next_opened(NOW, V);
    let reserve = Action::Reserve {
        end: 3 + (256 << 10),
    };
    assert_eq!(
        actions(&mut replica),
        [reserve],
        "nothing is ordered without room"
    );
    replica.handle_reserved(NOW, 3 + (256 << 10));
    let one = batch(5, 4, Level::Memory, &[1]);
    assert_eq!(actions(&mut replica), [sent_on(&one), applied_of(&one)]);
}

#[test]
fn a_memory_ack_needs_every_member_and_a_disk_ack_all_of_their_disks() {
    let mut replica = primary(3, true);
    ask(&mut replica, Level::Memory, &[(1, b"abc")]);
    ask(&mut replica, Level::Disk, &[(2, b"abc")]);
    let both = batch(5, 4, Level::Disk, &[1, 2]);
    // Two frames of a client lie in two places.
    let ordered = actions(&mut replica);
    let [
        Action::SendNext(Frame::Batch(sent, bytes)),
        Action::Apply(_),
        Action::Flush,
    ] = &ordered[..]
    else {
        panic!("{ordered:?}");
    };
    assert_eq!((sent, bytes.len()), (&both, 2));
    next_acks(&mut replica, 6, Level::Memory);
    assert_eq!(actions(&mut replica), [], "it doesn't have it itself");
    replica.handle_applied(NOW, V, Serial(6));
    let of_memory = answered(1, &[done(1, 5, Level::Memory, 3)]);
    assert_eq!(
        actions(&mut replica),
        [Action::Commit(Serial(6)), of_memory]
    );
    replica.handle_stable(NOW, V, Serial(6));
    next_acks(&mut replica, 5, Level::Disk);
    assert_eq!(actions(&mut replica), []);
    next_acks(&mut replica, 6, Level::Disk);
    assert_eq!(
        actions(&mut replica),
        [answered(1, &[done(2, 6, Level::Disk, 3)])]
    );
}

#[test]
fn a_version_without_memory_acks_knows_only_the_disk() {
    let mut replica = primary(2, false);
    ask(&mut replica, Level::Memory, &[(1, b"abc")]);
    let one = batch(5, 4, Level::Disk, &[1]);
    let expected = [sent_on(&one), applied_of(&one), Action::Flush];
    assert_eq!(actions(&mut replica), expected);
    replica.handle_applied(NOW, V, Serial(5));
    replica.handle_next_ack(NOW, V, &ack(5, 4, Level::Memory, 1));
    assert_eq!(actions(&mut replica), [], "memory commits nothing here");
    replica.handle_stable(NOW, V, Serial(5));
    assert_eq!(actions(&mut replica), []);
    replica.handle_next_ack(NOW, V, &ack(5, 4, Level::Disk, 1));
    let told = answered(1, &[done(1, 5, Level::Disk, 2)]);
    assert_eq!(actions(&mut replica), [Action::Commit(Serial(5)), told]);
}

#[test]
fn what_stable_of_an_older_version_says_counts_for_nothing() {
    let mut replica = primary(1, false);
    ask(&mut replica, Level::Disk, &[(1, b"abc")]);
    let _ = actions(&mut replica);
    replica.handle_applied(NOW, V, Serial(5));
    replica.handle_stable(NOW, sarsen_protocol::id::ChunkVersion(1), Serial(90));
    assert_eq!(actions(&mut replica), []);
    replica.handle_stable(NOW, V, Serial(5));
    let told = answered(1, &[done(1, 5, Level::Disk, 1)]);
    assert_eq!(actions(&mut replica), [Action::Commit(Serial(5)), told]);
}

/// A record that is there.
fn appended() -> IdRow {
    IdRow {
        session: SessionId(5),
        number: 7,
        kind: IdRowKind::Append,
        offset: 90,
        length: 3,
        crc32: crc32(b"abc"),
    }
}

/// A table with one row, and a floor.
struct Table(IdRow, u64);

impl Ids for Table {
    fn find(&self, session: SessionId, number: u64) -> Known {
        match number {
            _ if session.0 < 2 => Known::SessionEnded,
            number if number < self.1 => Known::Forgotten,
            number if (session, number) == (self.0.session, self.0.number) => Known::Row(self.0),
            _ => Known::Unknown,
        }
    }

    fn rows(&self) -> usize {
        2
    }
}

#[test]
fn an_id_is_answered_as_the_table_of_section_11_2_says() {
    let mut replica = primary(2, true);
    let table = Table(appended(), 4);
    ask(
        &mut replica,
        Level::Memory,
        &[(3, b"abc"), (7, b"abc"), (9, b"abc")],
    );
    ask(&mut replica, Level::Memory, &[(7, b"abd")]);
    ask(&mut replica, Level::Memory, &[(9, b"abc")]);
    ask(&mut replica, Level::Memory, &[(9, b"abcd")]);
    replica.take_turn(NOW, &table);
    let all: Vec<Action> = std::iter::from_fn(|| replica.poll_action()).collect();
    let one = batch(5, 4, Level::Memory, &[9]);
    let mut found = done(7, 5, Level::Disk, 2);
    (found.offset, found.serial) = (90, Serial(4));
    let results = [
        refused(3, Status::RequestForgotten, Level::Memory),
        refused(7, Status::InvalidArgument, Level::Memory),
        refused(9, Status::InvalidArgument, Level::Memory),
        found,
    ];
    let [
        Action::SendNext(Frame::Batch(sent, _)),
        Action::Apply(_),
        told,
    ] = &all[..]
    else {
        panic!("{all:?}");
    };
    assert_eq!((sent, told), (&one, &answered(1, &results)));
    // 9 waits twice, for one serial.
    replica.handle_applied(NOW, V, Serial(5));
    next_acks(&mut replica, 5, Level::Memory);
    let twice = [done(9, 5, Level::Memory, 2), done(9, 5, Level::Memory, 2)];
    assert_eq!(
        actions(&mut replica),
        [Action::Commit(Serial(5)), answered(1, &twice)]
    );
}

#[test]
fn a_floor_that_is_ordered_forgets_before_it_is_applied() {
    let mut replica = primary(2, true);
    let (ahead, payload) = append(Level::Memory, 8, &[(8, b"abc")]);
    replica.handle_append(NOW, StreamId(1), ahead, payload);
    ask(&mut replica, Level::Memory, &[(3, b"abc")]);
    let all = actions(&mut replica);
    let forgotten = answered(1, &[refused(3, Status::RequestForgotten, Level::Memory)]);
    assert_eq!(all.last(), Some(&forgotten));
}

#[test]
fn a_record_that_does_not_fit_closes_the_chunk_for_appends_of_any_size() {
    let mut replica = primary(1, true);
    let quarter = vec![7; CHUNK as usize / 4];
    let too_large = vec![7; CHUNK as usize / 4 + 1];
    let part = |offset: usize, whole: &[u8]| {
        let bytes = &whole[offset..whole.len().min(offset + (1 << 20))];
        let (mut append, payload) = append(Level::Memory, 1, &[(1 + offset as u64 / 9999, bytes)]);
        append.items[0].number = 1000;
        append.part = Some(sarsen_protocol::message::Part {
            offset: u32::try_from(offset).unwrap(),
            whole_length: u32::try_from(whole.len()).unwrap(),
        });
        (append, payload)
    };
    for offset in (0..too_large.len()).step_by(1 << 20) {
        let (append, payload) = part(offset, &too_large);
        replica.handle_append(NOW, StreamId(1), append, payload);
    }
    let large = refused(1000, Status::RecordTooLarge, Level::Memory);
    assert_eq!(actions(&mut replica), [answered(1, &[large])]);
    for number in 1..=3_u64 {
        for offset in (0..quarter.len()).step_by(1 << 20) {
            let (mut append, payload) = part(offset, &quarter);
            append.items[0].number = number;
            replica.handle_append(NOW, StreamId(1), append, payload);
        }
        let all = actions(&mut replica);
        let is_nearly_full =
            all.contains(&report(&replica, ChainTrouble::NearlyFull, 1, Status::Ok));
        assert_eq!(is_nearly_full, number == 3, "{number}");
        let at = Serial(BASE + number);
        replica.handle_applied(NOW, V, at);
        let _ = actions(&mut replica);
    }
    // A quarter and one byte are left over: the next quarter doesn't fit behind a byte.
    ask(&mut replica, Level::Memory, &[(4, b"x")]);
    let _ = actions(&mut replica);
    for offset in (0..quarter.len()).step_by(1 << 20) {
        let (mut append, payload) = part(offset, &quarter);
        append.items[0].number = 5;
        replica.handle_append(NOW, StreamId(1), append, payload);
    }
    ask(&mut replica, Level::Memory, &[(6, b"x")]);
    let full = [5, 6].map(|number| refused(number, Status::ChunkFull, Level::Memory));
    let told = report(&replica, ChainTrouble::Full, 1, Status::Ok);
    let all = actions(&mut replica);
    assert!(
        all.contains(&answered(1, &full)) && all.contains(&told),
        "{all:?}"
    );
}

#[test]
fn a_full_chunk_says_so_while_it_drains_too() {
    let mut replica = primary(2, true);
    ask(&mut replica, Level::Memory, &[(1, b"abc")]);
    let mut again = grant(2, true);
    if let Order::Grant(again) = &mut again {
        again.closed = true;
    }
    let _ = actions(&mut replica);
    replica.handle_order(NOW, 9, again);
    replica.handle_order(NOW, 10, revoke());
    let _ = actions(&mut replica);
    ask(&mut replica, Level::Memory, &[(2, b"abc")]);
    let full = refused(2, Status::ChunkFull, Level::Memory);
    assert_eq!(actions(&mut replica), [answered(1, &[full])]);
}

/// `spec/replication.md` section 9: only the last chunk takes records.
#[test]
fn a_closed_chunk_takes_no_record_and_answers_for_those_that_are_there() {
    let mut replica = primary(1, true);
    let mut again = grant(1, true);
    if let Order::Grant(again) = &mut again {
        again.closed = true;
    }
    replica.handle_order(NOW, 9, again);
    let _ = actions(&mut replica);
    ask(&mut replica, Level::Memory, &[(7, b"abc"), (8, b"x")]);
    replica.take_turn(NOW, &Table(appended(), 4));
    let all: Vec<Action> = std::iter::from_fn(|| replica.poll_action()).collect();
    let mut there = done(7, 5, Level::Disk, 1);
    (there.offset, there.serial) = (90, Serial(4));
    let full = refused(8, Status::ChunkFull, Level::Memory);
    let told = report(&replica, ChainTrouble::Full, 1, Status::Ok);
    assert!(all.contains(&told), "{all:?}");
    assert!(all.contains(&answered(1, &[full, there])), "{all:?}");
}

fn write(count: u64, number: u64, offset: u32) -> WriteData {
    WriteData {
        handle: HANDLE,
        version: V,
        serial: Serial(count),
        commit_mark: Serial(0),
        request: Some(request(5, number, 1)),
        offset,
        level: Level::Memory,
        crcs: Crcs::new(&[crc32(b"abc")]).unwrap(),
    }
}

#[test]
fn writes_are_acknowledged_in_the_streams_own_count() {
    let mut replica = primary(1, true);
    replica.handle_write(NOW, StreamId(1), write(1, 1, 100), payload(1));
    replica.handle_write(NOW, StreamId(1), write(2, 2, 50), payload(1));
    let ordered = actions(&mut replica);
    let [Action::Apply(mutations)] = &ordered[..] else {
        panic!("{ordered:?}");
    };
    assert_eq!((mutations.first, mutations.last()), (Serial(5), Serial(6)));
    replica.handle_applied(NOW, V, Serial(6));
    let told = Action::Send {
        stream: StreamId(1),
        reply: Reply::Ack(ack(2, 6, Level::Memory, 1)),
    };
    assert_eq!(actions(&mut replica), [Action::Commit(Serial(6)), told]);
    // A record is appended behind the furthest write.
    ask(&mut replica, Level::Memory, &[(3, b"abc")]);
    let ordered = actions(&mut replica);
    let [Action::Apply(mutations)] = &ordered[..] else {
        panic!("{ordered:?}");
    };
    assert_eq!(mutations.rows[0].offset, 103);
    replica.handle_write(NOW, StreamId(1), write(4, 4, 50), payload(1));
    assert_eq!(
        failures(&actions(&mut replica)),
        [(StreamId(1), Status::OutOfOrder)]
    );
}

/// `spec/messages.md` sections 12 and 14: a stream is for the chunk and the version that it was opened for.
#[test]
fn a_frame_of_another_chunk_or_version_is_none_that_came_late() {
    let foreign = [
        WriteData {
            handle: ChunkHandle(HANDLE.0 + 1),
            ..write(1, 1, 100)
        },
        WriteData {
            version: ChunkVersion(V.0 + 1),
            ..write(1, 1, 100)
        },
    ];
    for write in foreign {
        let mut replica = primary(1, true);
        replica.handle_write(NOW, StreamId(1), write, payload(1));
        let all = actions(&mut replica);
        assert_eq!(failures(&all), [(StreamId(1), Status::InvalidArgument)]);
        assert!(!all.iter().any(|it| matches!(it, Action::Apply(_))));
    }
}

#[test]
fn bytes_that_are_not_those_of_the_clients_crc_get_no_serial() {
    let mut replica = primary(1, true);
    let (append, _) = append(Level::Memory, 1, &[(1, b"abc"), (2, b"abc")]);
    let damaged = bytes::Bytes::from_static(b"abcabd");
    replica.handle_append(NOW, StreamId(1), append, damaged);
    let all = actions(&mut replica);
    assert_eq!(failures(&all), [(StreamId(1), Status::DamagedInTransit)]);
    let [Action::Apply(mutations), ..] = &all[..] else {
        panic!("{all:?}");
    };
    assert_eq!(
        mutations.rows,
        [row(1, 0, 3)],
        "the first was good, and is done"
    );
}

#[test]
fn a_lease_that_is_over_ends_clients_at_once_and_the_chain_later() {
    let mut replica = primary(2, true);
    let over = NOW + Duration::from_millis(u64::from(LEASE));
    let early = over - Duration::from_millis(1);
    let before = Duration::from_secs(1);
    replica.handle_next_ack(early, V, &ack(4, 4, Level::Memory, 1));
    let _ = turn_at(&mut replica, early);
    ask(&mut replica, Level::Memory, &[(1, b"abc")]);
    let all = turn_at(&mut replica, over);
    assert_eq!(failures(&all), [(StreamId(1), Status::PromiseRefused)]);
    assert!(!all.iter().any(|action| matches!(action, Action::Apply(_))));
    replica.handle_lease_extended(over, V, over + before);
    replica.handle_order(over, 8, grant(2, true));
    assert_eq!(
        answers(&turn_at(&mut replica, over)),
        [(8, Err(Status::PromiseRefused))]
    );
    let end = over + config().suspect_after;
    let all = turn_at(&mut replica, end);
    assert_eq!(all, [Action::CloseNext(V)]);
}

#[test]
fn a_revoked_primary_drains_and_answers_then() {
    let mut replica = primary(2, true);
    ask(&mut replica, Level::Memory, &[(1, b"abc")]);
    let _ = actions(&mut replica);
    replica.handle_order(NOW, 8, revoke());
    ask(&mut replica, Level::Memory, &[(2, b"abc")]);
    let late = refused(2, Status::PromiseRefused, Level::Memory);
    let all = actions(&mut replica);
    assert_eq!(all, [answered(1, &[late]), Action::Flush]);
    replica.handle_applied(NOW, V, Serial(5));
    next_acks(&mut replica, 5, Level::Memory);
    let all = actions(&mut replica);
    assert!(all.contains(&answered(1, &[done(1, 5, Level::Memory, 2)])));
    let revoked = LeaseRevoked {
        serial: Serial(5),
        commit_mark: Serial(5),
    };
    assert_eq!(answers(&all), [(8, Ok(Answer::Revoked(revoked)))]);
    assert_eq!(failures(&all), [(StreamId(1), Status::PromiseRefused)]);
    // It never orders again in this version.
    replica.handle_open(NOW, StreamId(2), client_open(2, vec![hop(0)]));
    assert_eq!(
        failures(&actions(&mut replica)),
        [(StreamId(2), Status::PromiseRefused)]
    );
}

#[test]
fn a_failed_hop_is_blamed_and_ends_the_primary() {
    let mut replica = primary(3, true);
    ask(&mut replica, Level::Memory, &[(1, b"abc")]);
    let _ = actions(&mut replica);
    let mut error = ErrorBody::new("full");
    error.server = sarsen_protocol::id::ServerId(3);
    replica.handle_next_failed(NOW, V, Status::NoSpace, error);
    let all = actions(&mut replica);
    assert_eq!(
        all[0],
        report(&replica, ChainTrouble::HopFailed, 3, Status::NoSpace)
    );
    assert_eq!(all[1], Action::CloseNext(V));
    assert_eq!(failures(&all), [(StreamId(1), Status::ChainBroken)]);
    // What comes of that hop later is nobody's any more.
    next_acks(&mut replica, 5, Level::Memory);
    replica.handle_applied(NOW, V, Serial(5));
    assert_eq!(actions(&mut replica), []);
    replica.handle_order(NOW, 8, grant(3, true));
    assert_eq!(
        answers(&actions(&mut replica)),
        [(8, Err(Status::PromiseRefused))]
    );
}

#[test]
fn an_ack_of_what_was_not_sent_is_the_hops_fault() {
    let mut replica = primary(2, true);
    next_acks(&mut replica, 5, Level::Memory);
    let told = report(&replica, ChainTrouble::HopFailed, 2, Status::ProtocolError);
    assert_eq!(actions(&mut replica)[0], told);
}

#[test]
fn newest_is_what_all_members_confirm_after_the_question() {
    let newest = Newest {
        ticket: ticket(),
        handle: HANDLE,
        version: V,
    };
    let mut replica = primary(2, true);
    replica.handle_newest(NOW, 3, &newest);
    replica.handle_newest(NOW, 4, &newest);
    assert_eq!(
        actions(&mut replica),
        [Action::SendNext(Frame::Mark(mark(4, 1)))]
    );
    // Who asks later isn't answered by what was asked before.
    replica.handle_newest(NOW, 5, &newest);
    assert_eq!(actions(&mut replica), []);
    let marked = |number| sarsen_protocol::message::Marked {
        handle: HANDLE,
        version: V,
        number,
    };
    replica.handle_next_marked(NOW, V, &marked(1));
    let reply = Ok(Answer::Newest(NewestReply {
        version: V,
        serial: Serial(4),
        length: 0,
    }));
    let all = actions(&mut replica);
    assert_eq!(answers(&all), [(3, reply), (4, reply)]);
    assert_eq!(all[2], Action::SendNext(Frame::Mark(mark(4, 2))));
    replica.handle_next_marked(NOW, V, &marked(1));
    assert_eq!(actions(&mut replica), []);
    replica.handle_order(NOW, 9, promise(3));
    let all = actions(&mut replica);
    assert_eq!(answers(&all), [(5, Err(Status::PromiseRefused))]);
    replica.handle_next_marked(NOW, V, &marked(2));
    assert_eq!(actions(&mut replica), []);
}

#[test]
fn streams_take_turns_by_bytes() {
    let mut replica = primary(2, true);
    open_client(&mut replica, 2);
    let large = vec![1; 1 << 20];
    for number in 1..=3 {
        let (append, payload) = append(Level::Memory, 1, &[(number, &large)]);
        replica.handle_append(NOW, StreamId(1), append, payload);
    }
    let (small, payload) = append(Level::Memory, 1, &[(9, b"abc")]);
    replica.handle_append(NOW, StreamId(2), small, payload);
    let all = actions(&mut replica);
    let Some(Action::SendNext(Frame::Batch(first, _))) = all.first() else {
        panic!("{all:?}");
    };
    assert_eq!(
        first.rows,
        [row(9, 0, 3)],
        "the small one is not behind the large ones"
    );
    // The window holds three megabytes: what is behind waits for acks.
    let sent = all
        .iter()
        .filter(|a| matches!(a, Action::SendNext(_)))
        .count();
    assert_eq!(sent, 3);
    replica.handle_applied(NOW, V, Serial(7));
    next_acks(&mut replica, 6, Level::Memory);
    let all = actions(&mut replica);
    assert!(
        all.iter()
            .any(|action| matches!(action, Action::SendNext(Frame::Batch(..))))
    );
}

#[test]
fn a_client_that_sends_more_than_its_share_is_left_in_its_socket() {
    let mut replica = primary(2, true);
    let large = vec![1; 1 << 20];
    let mut told = Vec::new();
    for number in 1..=8 {
        let (append, payload) = append(Level::Memory, 1, &[(number, &large)]);
        replica.handle_append(NOW, StreamId(1), append, payload);
        told.extend(actions(&mut replica));
    }
    let take = |is_wanted| Action::Take {
        stream: StreamId(1),
        is_wanted,
    };
    let takes = |actions: &[Action]| -> Vec<Action> {
        let is_take = |action: &&Action| matches!(action, Action::Take { .. });
        actions.iter().filter(is_take).cloned().collect()
    };
    assert_eq!(takes(&told), [take(false)]);
    told.clear();
    for serial in 5..=12 {
        replica.handle_applied(NOW, V, Serial(serial));
        next_acks(&mut replica, serial, Level::Memory);
        told.extend(actions(&mut replica));
    }
    assert_eq!(takes(&told), [take(true)]);
}

/// A stream that waited with the first part of its record, since others had the places, was ended as
/// stalled as soon as a place was free: the time that it had waited was counted.
#[test]
fn a_record_that_waited_for_its_place_has_all_its_time_to_come() {
    let mut replica = primary(2, true);
    let bytes = vec![1; 1 << 20];
    let part = Some(sarsen_protocol::message::Part {
        offset: 0,
        whole_length: 2 << 20,
    });
    for stream in 1..=5 {
        if stream > 1 {
            open_client(&mut replica, stream);
        }
        let (mut append, payload) = append(Level::Memory, 1, &[(stream, &bytes)]);
        append.part = part;
        replica.handle_append(NOW, StreamId(stream), append, payload);
    }
    let take = |is_wanted| Action::Take {
        stream: StreamId(5),
        is_wanted,
    };
    assert_eq!(actions(&mut replica), [take(false)]);
    let late = NOW + config().suspect_after;
    replica.handle_next_ack(late, V, &ack(4, 4, Level::Memory, 1));
    replica.handle_stream_gone(late, StreamId(1));
    replica.handle_timeout(late);
    let all = turn_at(&mut replica, late);
    let stalled = [2, 3, 4].map(|stream| (StreamId(stream), Status::Overloaded));
    assert_eq!(failures(&all), stalled);
    assert_eq!(all.last(), Some(&take(true)));
    let soon = late + config().suspect_after - Duration::from_millis(1);
    replica.handle_next_ack(soon, V, &ack(4, 4, Level::Memory, 1));
    replica.handle_timeout(soon);
    assert_eq!(failures(&turn_at(&mut replica, soon)), []);
}

/// The server itself did not read the next part, as long as others held all room, and ended the stream for it.
#[test]
fn a_part_that_is_not_read_for_want_of_room_is_not_its_clients_silence() {
    let mut replica = primary(2, true);
    let (mut append, payload) = append(Level::Memory, 1, &[(1, &vec![1; 1 << 20])]);
    append.part = Some(sarsen_protocol::message::Part {
        offset: 0,
        whole_length: 2 << 20,
    });
    let stream = StreamId(1);
    replica.handle_append(NOW, stream, append, payload);
    replica.handle_room_wait(NOW, stream, true);
    let mut failed_at = |late| {
        replica.handle_next_ack(late, V, &ack(4, 4, Level::Memory, 1));
        replica.handle_timeout(late);
        failures(&turn_at(&mut replica, late))
    };
    let late = NOW + config().suspect_after;
    assert_eq!(failed_at(late), []);
    replica.handle_room_wait(late, stream, false);
    let mut failed_at = |late| {
        replica.handle_next_ack(late, V, &ack(4, 4, Level::Memory, 1));
        replica.handle_timeout(late);
        failures(&turn_at(&mut replica, late))
    };
    let soon = late + config().suspect_after - Duration::from_millis(1);
    assert_eq!(failed_at(soon), []);
    let silent = late + config().suspect_after;
    assert_eq!(failed_at(silent), [(stream, Status::Overloaded)]);
}

/// A member whose mutations found no place tried them for ever; nobody asked for the seal that sets places
/// free. Then a primary did, while a secondary whose readers were slow held up the chain for as long as a
/// disk may take, and blamed its own.
#[test]
fn a_member_without_places_asks_for_a_seal() {
    let mut replica = primary(3, true);
    replica.handle_no_place();
    let wants = report(&replica, ChainTrouble::WantsSeal, 1, Status::Overloaded);
    assert_eq!(actions(&mut replica), [wants]);
    let mut secondary = middle(true);
    secondary.handle_no_place();
    let wants = report(&secondary, ChainTrouble::WantsSeal, 2, Status::Overloaded);
    assert_eq!(actions(&mut secondary), [wants]);
    secondary.handle_stream_gone(NOW, UP);
    let _ = actions(&mut secondary);
    secondary.handle_no_place();
    assert_eq!(actions(&mut secondary), [], "the version is over here");
}

/// What a stream's opening said to be the highest level was not held to: a client that had asked for `memory`
/// had everybody's syncs hurried.
#[test]
fn a_level_above_that_of_its_stream_is_refused() {
    let write = WriteData {
        handle: HANDLE,
        version: V,
        serial: Serial(1),
        commit_mark: Serial::NONE,
        request: Some(request(5, 1, 1)),
        offset: 0,
        level: Level::Disk,
        crcs: Crcs::new(&[crc32(b"abc")]).unwrap(),
    };
    let (append, payload) = append(Level::Disk, 1, &[(1, b"abc")]);
    for is_append in [false, true] {
        let mut replica = primary(3, true);
        let open = WriteOpen {
            level: Level::Memory,
            ..client_open(2, vec![hop(0)])
        };
        replica.handle_open(NOW, StreamId(2), open);
        let _ = actions(&mut replica);
        match is_append {
            false => replica.handle_write(NOW, StreamId(2), write, payload.clone()),
            true => replica.handle_append(NOW, StreamId(2), append.clone(), payload.clone()),
        }
        let all = actions(&mut replica);
        assert_eq!(failures(&all), [(StreamId(2), Status::InvalidArgument)]);
        assert_eq!(all.len(), 2, "nothing is ordered: {all:?}");
        assert_eq!(all.last(), Some(&Action::EndStream(StreamId(2))));
    }
}
