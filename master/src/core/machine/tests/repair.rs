//! Repair: who is ordered to copy what, when, and what is deleted afterwards.

use super::*;
use crate::core::diagnosis::Tried;
use crate::core::event::{OrderFailure, OrderId};

/// Settings under which a server is waited for 5 s after it was silent for 10 s.
fn settings() -> Config {
    Config {
        repair_grace: seconds(5),
        replicas: 3,
        ..config()
    }
}

/// A cluster of so many servers, and a file of one chunk that the first three hold.
fn with_chunk(servers: u8) -> (Rig, HeldChunk) {
    let mut rig = Rig::with(settings());
    rig.servers(3);
    let (_, chunk) = rig.upload("/f", 3);
    (1..=3).for_each(|n| {
        assert_eq!(rig.hold(n, 2, &[chunk]), []);
    });
    (4..=servers).for_each(|n| {
        rig.server(n);
    });
    (rig, chunk)
}

/// The orders to copy among actions: to whom, from whom.
fn copies(actions: &[Action]) -> Vec<(u64, u64, Vec<u64>)> {
    let copy = |action: &Action| match action {
        Action::Order {
            connection,
            order,
            message: AnyMessage::CopyChunk(copy),
        } => {
            let sources = copy.sources.iter().map(|hop| hop.server.0);
            Some((order.0, connection.0, sources.collect()))
        }
        _ => None,
    };
    actions.iter().filter_map(copy).collect()
}

fn copied(chunk: &HeldChunk, server: u8) -> ChunkCopied {
    ChunkCopied {
        directory_id: DirectoryId([server; 16]),
        length: chunk.length,
        crc32: chunk.crc32,
        suspects: Vec::new(),
    }
}

fn answer(
    rig: &mut Rig,
    server: u64,
    order: u64,
    reply: Result<AnyMessage, OrderFailure>,
) -> Vec<Action> {
    rig.machine
        .handle_order_reply(ConnectionId(server), OrderId(order), reply, rig.now);
    rig.settle()
}

/// Waits in steps of a second, in which these servers beat; everything that was done.
fn live_on(rig: &mut Rig, time: u64, servers: &[u8]) -> Vec<Action> {
    let mut done = Vec::new();
    for _ in 0..time {
        servers.iter().for_each(|&n| {
            let (reply, others) = rig.exchange(ConnectionId(u64::from(n)), heartbeat(n));
            assert!(reply.is_ok(), "{reply:?}");
            done.extend(others);
        });
        done.extend(rig.wait(seconds(1)));
    }
    done
}

fn corrupt(rig: &mut Rig, server: u8, chunk: &HeldChunk) -> Vec<Action> {
    let mut beat = heartbeat(server);
    beat.corrupt = vec![CorruptChunk {
        handle: chunk.handle,
        version: chunk.version,
        directory_id: DirectoryId([server; 16]),
    }];
    rig.exchange(ConnectionId(u64::from(server)), beat).1
}

fn deletions(actions: &[Action]) -> Vec<(u64, u64, ChunkVersion)> {
    let deletion = |action: &Action| match action {
        Action::Order {
            connection,
            order,
            message: AnyMessage::DeleteChunk(delete),
        } => Some((order.0, connection.0, delete.version)),
        _ => None,
    };
    actions.iter().filter_map(deletion).collect()
}

fn is_healthy(rig: &mut Rig) -> bool {
    rig.get(fsck()).findings.is_empty()
}

#[test]
fn what_a_dead_server_held_is_copied_after_the_grace_and_not_before() {
    let (mut rig, chunk) = with_chunk(4);
    assert_eq!(
        live_on(&mut rig, 14, &[1, 2, 4]),
        [],
        "dead, and waited for"
    );
    assert!(!is_healthy(&mut rig));
    let mut orders = live_on(&mut rig, 2, &[1, 2, 4]);
    assert_eq!(orders.len(), 1, "{orders:?}");
    let Some(Action::Order {
        connection: ConnectionId(4),
        order: OrderId(1),
        message: AnyMessage::CopyChunk(order),
    }) = orders.pop()
    else {
        panic!("not an order to the fourth server")
    };
    assert_eq!(
        (order.epoch.number, order.handle, order.version),
        (1, chunk.handle, chunk.version)
    );
    assert_eq!(
        (order.length, order.crc32, order.file_id, order.index),
        (chunk.length, chunk.crc32, chunk.file_id, chunk.index)
    );
    let mut sources: Vec<u64> = order.sources.iter().map(|hop| hop.server.0).collect();
    sources.sort_unstable();
    assert_eq!(sources, [1, 2]);
    let claims = order.ticket.unverified_claims();
    assert!(claims.rights.allow(sarsen_protocol::ticket::Rights::COPY));
    assert_eq!(rig.get(Report).repairs.running, 1);

    assert_eq!(live_on(&mut rig, 5, &[1, 2, 4]), [], "one order");
    let reply = Ok(copied(&chunk, 4).into());
    assert_eq!(answer(&mut rig, 4, 1, reply), []);
    assert!(is_healthy(&mut rig), "the answer is enough");
    let expected = sarsen_protocol::message::Repairs {
        waiting: 0,
        running: 0,
        done: 1,
        failed: 0,
    };
    assert_eq!(rig.get(Report).repairs, expected);
}

/// A replica that had promised a version of an attempt that was given up refused each copy for ever: the
/// order did not say that no such version can come to anything any more.
#[test]
fn an_order_to_copy_names_the_highest_version_that_was_given_out() {
    let (mut rig, chunk) = with_chunk(4);
    let (_, last) = rig.upload("/g", 3);
    assert!(last.version > chunk.version);
    live_on(&mut rig, 14, &[1, 2, 4]);
    let orders = live_on(&mut rig, 2, &[1, 2, 4]);
    let void_up_to = orders.iter().find_map(|action| match action {
        Action::Order {
            message: AnyMessage::CopyChunk(copy),
            ..
        } if copy.handle == chunk.handle => Some(copy.void_up_to),
        _ => None,
    });
    assert_eq!(void_up_to, Some(last.version));
}

#[test]
fn a_server_that_returns_in_time_costs_nothing_and_one_that_returns_late_is_relieved() {
    let (mut rig, chunk) = with_chunk(4);
    assert_eq!(live_on(&mut rig, 13, &[1, 2, 4]), []);
    assert_eq!(live_on(&mut rig, 20, &[1, 2, 3, 4]), [], "back in time");

    let orders = live_on(&mut rig, 16, &[1, 2, 4]);
    assert_eq!(copies(&orders).len(), 1);
    answer(&mut rig, 4, 1, Ok(copied(&chunk, 4).into()));
    assert!(is_healthy(&mut rig));
    // Its copy is one too many: all are in one rack and as full, so the last one goes.
    let orders = live_on(&mut rig, 2, &[1, 2, 3, 4]);
    assert_eq!(deletions(&orders), [(2, 4, chunk.version)]);
    assert_eq!(live_on(&mut rig, 5, &[1, 2, 3, 4]), [], "one at a time");
    assert_eq!(answer(&mut rig, 4, 2, Ok(ChunkDeleted.into())), []);
    assert_eq!(live_on(&mut rig, 5, &[1, 2, 3, 4]), []);
    assert!(is_healthy(&mut rig));
}

#[test]
fn a_corrupt_replica_is_replaced_at_once_where_it_lies_if_there_is_nowhere_else() {
    let (mut rig, chunk) = with_chunk(3);
    let orders = corrupt(&mut rig, 2, &chunk);
    let [(1, 2, sources)] = &copies(&orders)[..] else {
        panic!("{orders:?}")
    };
    assert_eq!(sources.len(), 2);
    assert!(!sources.contains(&2));
    assert_eq!(answer(&mut rig, 2, 1, Ok(copied(&chunk, 2).into())), []);
    assert!(is_healthy(&mut rig));
}

/// The server looked, had the answer ready, and was ordered the copy because its inventory told of
/// what it had found; the answer came last, and made a corrupt one of the copy.
#[test]
fn what_was_found_of_a_replica_says_nothing_of_the_copy_in_its_place() {
    let (mut rig, chunk) = with_chunk(3);
    let complaint = ReportReplica {
        handle: chunk.handle,
        version: chunk.version,
        server: ServerId(2),
        fault: ReplicaFault::CrcMismatch,
    };
    let (reply, orders) = rig.exchange(CLIENT, complaint);
    assert!(reply.is_ok());
    assert!(
        matches!(
            orders[..],
            [Action::Order {
                order: OrderId(1),
                message: AnyMessage::VerifyChunk(_),
                ..
            }]
        ),
        "{orders:?}"
    );
    let orders = corrupt(&mut rig, 2, &chunk);
    assert!(matches!(&copies(&orders)[..], [(2, 2, _)]), "{orders:?}");
    assert_eq!(answer(&mut rig, 2, 2, Ok(copied(&chunk, 2).into())), []);
    assert!(is_healthy(&mut rig));
    let bad = ChunkVerified {
        good: false,
        length: chunk.length,
        crc32: chunk.crc32,
    };
    assert_eq!(answer(&mut rig, 2, 1, Ok(bad.into())), []);
    assert!(is_healthy(&mut rig));
}

#[test]
fn a_corrupt_replica_is_replaced_elsewhere_first_and_then_deleted() {
    let (mut rig, chunk) = with_chunk(4);
    let orders = corrupt(&mut rig, 2, &chunk);
    assert!(matches!(&copies(&orders)[..], [(1, 4, _)]), "{orders:?}");
    assert_eq!(
        live_on(&mut rig, 3, &[1, 2, 3, 4]),
        [],
        "it stays until then"
    );
    let orders = answer(&mut rig, 4, 1, Ok(copied(&chunk, 4).into()));
    assert_eq!(deletions(&orders), [(2, 2, chunk.version)]);
    assert_eq!(answer(&mut rig, 2, 2, Ok(ChunkDeleted.into())), []);
    assert!(is_healthy(&mut rig));
}

/// What an answer says is compared with the log: nothing counts that isn't the chunk.
#[test]
fn a_copy_counts_only_if_it_is_what_the_log_has() {
    let (mut rig, chunk) = with_chunk(3);
    let orders = corrupt(&mut rig, 2, &chunk);
    assert_eq!(copies(&orders).len(), 1);
    let other = ChunkCopied {
        crc32: chunk.crc32 ^ 1,
        ..copied(&chunk, 2)
    };
    assert_eq!(answer(&mut rig, 2, 1, Ok(other.into())), []);
    assert!(!is_healthy(&mut rig));
    assert_eq!(rig.get(Report).repairs.failed, 1);
    // And a directory that nobody has told of holds nothing that counts.
    let orders = live_on(&mut rig, 1, &[1, 2, 3]);
    assert_eq!(copies(&orders).len(), 1);
    let nowhere = copied(&chunk, 99);
    assert_eq!(answer(&mut rig, 2, 2, Ok(nowhere.into())), []);
    assert!(!is_healthy(&mut rig));
    // The inventory is as good as the answer.
    rig.hold(2, 3, &[chunk]);
    assert!(is_healthy(&mut rig));
}

#[test]
fn failures_are_tried_elsewhere_after_a_growing_pause() {
    let (mut rig, chunk) = with_chunk(5);
    let orders = corrupt(&mut rig, 1, &chunk);
    let [(1, first, _)] = copies(&orders)[..] else {
        panic!("{orders:?}")
    };
    let no_space = |server| {
        Err(OrderFailure {
            status: Status::NoSpace,
            server: ServerId(server),
        })
    };
    assert_eq!(
        answer(&mut rig, first, 1, no_space(first)),
        [],
        "no hot loop"
    );
    let orders = live_on(&mut rig, 1, &[1, 2, 3, 4, 5]);
    let [(2, second, _)] = copies(&orders)[..] else {
        panic!("{orders:?}")
    };
    assert_ne!(first, second);
    assert!([4, 5].contains(&first) && [4, 5].contains(&second));
    assert_eq!(answer(&mut rig, second, 2, no_space(second)), []);
    assert_eq!(
        live_on(&mut rig, 1, &[1, 2, 3, 4, 5]),
        [],
        "the pause doubles"
    );
    let orders = live_on(&mut rig, 1, &[1, 2, 3, 4, 5]);
    assert!(
        matches!(&copies(&orders)[..], [(3, 1, _)]),
        "those that have room failed; the rotten one's own place is left: {orders:?}"
    );
}

#[test]
fn a_source_whose_bytes_do_not_match_has_to_look_for_itself() {
    let (mut rig, chunk) = with_chunk(4);
    let orders = corrupt(&mut rig, 1, &chunk);
    let (order, target, sources) = copies(&orders).remove(0);
    let bad = sources[0];
    let failure = OrderFailure {
        status: Status::DamagedInTransit,
        server: ServerId(bad),
    };
    let orders = answer(&mut rig, target, order, Err(failure));
    assert!(
        matches!(&orders[..], [Action::Order { connection, message: AnyMessage::VerifyChunk(_), .. }]
            if connection.0 == bad),
        "{orders:?}"
    );
    // It is asked last from then on.
    let orders = live_on(&mut rig, 1, &[1, 2, 3, 4]);
    let (order, target, sources) = copies(&orders).remove(0);
    assert_eq!(sources.last(), Some(&bad));
    // A copy that succeeds may have met one too.
    let suspects = ChunkCopied {
        suspects: vec![ServerId(sources[0])],
        ..copied(&chunk, 4)
    };
    let orders = answer(&mut rig, target, order, Ok(suspects.into()));
    let verified = orders.iter().any(|action| {
        matches!(action, Action::Order { connection, message: AnyMessage::VerifyChunk(_), .. }
            if connection.0 == sources[0])
    });
    assert!(verified, "{orders:?}");
}

#[test]
fn a_chunk_that_was_published_with_fewer_copies_gets_the_others() {
    let mut rig = Rig::with(settings());
    rig.servers(3);
    let file = rig.begin("/f", 3);
    let mut allocation = rig.allocate(file, 1).remove(0);
    let left_out = allocation.chain.pop().expect("three").server.0;
    let request = publish(rig.request(), file, "/f", &[&allocation]);
    let (reply, orders) = rig.exchange(CLIENT, request);
    assert!(reply.is_ok());
    let [(order, target, _)] = copies(&orders)[..] else {
        panic!("{orders:?}")
    };
    assert_eq!(target, left_out);
    let chunk = held(file, &allocation);
    let n = u8::try_from(target).unwrap();
    answer(&mut rig, target, order, Ok(copied(&chunk, n).into()));
    assert!(is_healthy(&mut rig));
}

#[test]
fn those_with_the_fewest_good_replicas_come_first_and_limits_are_kept() {
    let mut rig = Rig::with(Config {
        repair_streams_per_server: 1,
        ..settings()
    });
    rig.servers(3);
    let chunks: Vec<HeldChunk> = (0..4).map(|n| rig.upload(&format!("/{n}"), 3).1).collect();
    (1..=3).for_each(|n| {
        rig.hold(n, 2, &chunks);
    });
    // The first two lose one replica, the last two lose two: all of it is told in one breath.
    let lose = |chunk: &HeldChunk, lost: bool| HeldChunk {
        flags: if lost {
            HeldFlags::CORRUPT
        } else {
            HeldFlags::NONE
        },
        ..*chunk
    };
    let told: Vec<HeldChunk> = chunks.iter().map(|chunk| lose(chunk, true)).collect();
    let first = rig.hold(3, 3, &told);
    assert_eq!(copies(&first).len(), 1, "one stream a server: {first:?}");
    let (order, target, sources) = copies(&first).remove(0);
    assert_eq!(target, 3);
    let other = if sources[0] == 1 { 2 } else { 1 };
    let told: Vec<HeldChunk> = (0..)
        .zip(&chunks)
        .map(|(at, chunk)| lose(chunk, at >= 2))
        .collect();
    let n = u8::try_from(other).unwrap();
    assert_eq!(copies(&rig.hold(n, 3, &told)), []);
    assert_eq!(rig.get(Report).repairs.waiting, 3);
    let orders = answer(&mut rig, target, order, Ok(copied(&chunks[0], 3).into()));
    // Chunks 2 and 3 have one good replica each, on the first source: only one of them can go.
    let [
        Action::Order {
            message: AnyMessage::CopyChunk(next),
            ..
        },
    ] = &orders[..]
    else {
        panic!("{orders:?}")
    };
    assert_eq!(next.handle, chunks[2].handle);
    assert_eq!(next.sources.len(), 1);
    assert_eq!(next.sources[0].server.0, sources[0]);
}

#[test]
fn nothing_is_copied_or_deleted_in_safe_mode_nor_when_the_log_is_damaged() {
    let (mut rig, chunk) = with_chunk(4);
    live_on(&mut rig, 14, &[1, 2, 4]);
    let mut rig = rig.restarted(Config {
        safe_mode_fraction: 1.0,
        ..settings()
    });
    (1..=2).for_each(|n| {
        rig.registered(n);
    });
    rig.registered(4);
    assert_eq!(rig.hold(1, 1, &[chunk]), []);
    assert_eq!(rig.hold(4, 1, &[]), []);
    assert!(rig.machine.is_safe_mode());
    assert_eq!(live_on(&mut rig, 20, &[1, 2, 4]), []);
    // Safe mode ends: what is short is found, and everybody was heard of long enough.
    let orders = rig.hold(2, 1, &[chunk]);
    assert!(!rig.machine.is_safe_mode());
    assert!(matches!(&copies(&orders)[..], [(_, 4, _)]), "{orders:?}");

    let (mut rig, chunk) = with_chunk(4);
    let above = HeldChunk {
        handle: ChunkHandle(1 << 40),
        ..chunk
    };
    let alarms = rig.hold(4, 2, &[above]);
    assert!(matches!(&alarms[..], [Action::Alarm(_)]), "{alarms:?}");
    assert_eq!(corrupt(&mut rig, 1, &chunk), []);
    assert_eq!(live_on(&mut rig, 30, &[1, 2, 4]), []);
}

/// After a restart of the master a server that is slow to come back still holds its chunks.
#[test]
fn after_a_restart_those_that_were_not_heard_yet_are_waited_for() {
    let (rig, chunk) = with_chunk(4);
    let mut rig = rig.restarted(settings());
    for n in [1, 2, 4] {
        rig.registered(n);
    }
    rig.hold(1, 1, &[chunk]);
    rig.hold(2, 1, &[chunk]);
    assert!(!rig.machine.is_safe_mode());
    // The fourth may be about to tell of one.
    assert_eq!(live_on(&mut rig, 3, &[1, 2, 4]), []);
    assert_eq!(rig.hold(4, 1, &[]), []);
    assert_eq!(
        live_on(&mut rig, 10, &[1, 2, 4]),
        [],
        "the third is not here yet"
    );
    let orders = live_on(&mut rig, 4, &[1, 2, 4]);
    assert!(matches!(&copies(&orders)[..], [(1, 4, _)]), "{orders:?}");
}

/// `spec/replication.md` section 8. A chunk that one member had sealed was not copied before
/// `dead_after` and `repair_grace` were over, because servers were away that might have had it. A
/// master that never lived so long never copied it, and each start was in safe mode to its end.
#[test]
fn after_a_restart_a_chunk_with_too_few_replicas_is_waited_for_without_the_grace() {
    let (rig, chunk) = with_chunk(5);
    let mut rig = rig.restarted(Config {
        safe_mode_max: seconds(6),
        ..settings()
    });
    for n in [1, 2, 4] {
        rig.registered(n);
    }
    let stale = HeldChunk {
        version: ChunkVersion(chunk.version.0 - 1),
        ..chunk
    };
    rig.hold(1, 1, &[chunk]);
    rig.hold(2, 1, &[stale]);
    rig.hold(4, 1, &[]);
    assert_eq!(live_on(&mut rig, 9, &[1, 2, 4]), []);
    assert!(!rig.machine.is_safe_mode());
    let orders = live_on(&mut rig, 1, &[1, 2, 4]);
    assert!(matches!(&copies(&orders)[..], [(1, 4, _)]), "{orders:?}");
    // Then it has as many as it must, and the third and the fifth are waited for as always.
    let answered = answer(&mut rig, 4, 1, Ok(copied(&chunk, 4).into()));
    assert_eq!(answered, []);
    assert_eq!(live_on(&mut rig, 4, &[1, 2, 4]), []);
    let orders = live_on(&mut rig, 1, &[1, 2, 4]);
    assert!(matches!(&copies(&orders)[..], [(2, 2, _)]), "{orders:?}");
}

/// `spec/replication.md` section 8. All were there and had told that one had a good replica; safe
/// mode waited for another to its end, and nothing is copied in safe mode. The one rotted meanwhile.
#[test]
fn after_a_restart_a_chunk_with_too_few_replicas_is_copied_once_all_have_told() {
    let (rig, chunk) = with_chunk(4);
    let mut rig = rig.restarted(settings());
    (1..=4).for_each(|n| {
        rig.registered(n);
    });
    let stale = HeldChunk {
        version: ChunkVersion(chunk.version.0 - 1),
        ..chunk
    };
    let prepared = HeldChunk {
        state: ChunkState::Open,
        flags: HeldFlags::PREPARED,
        ..chunk
    };
    rig.hold(1, 1, &[chunk]);
    rig.hold(2, 1, &[stale]);
    rig.hold(3, 1, &[prepared]);
    assert_eq!(rig.hold(4, 1, &[]), []);
    assert!(rig.machine.is_safe_mode(), "the third is to settle its own");
    let orders = rig.hold(3, 2, &[]);
    assert!(!rig.machine.is_safe_mode());
    assert!(
        matches!(&copies(&orders)[..], [(_, 4, from)] if from == &[1]),
        "{orders:?}"
    );
}

#[test]
fn nothing_goes_as_long_as_too_few_have_confirmed_themselves() {
    let (mut rig, chunk) = with_chunk(4);
    // A fourth replica, and the first three are as good; but one is not synced.
    let unsynced = HeldChunk {
        flags: HeldFlags::UNSYNCED,
        ..chunk
    };
    rig.hold(2, 3, &[unsynced]);
    assert_eq!(rig.hold(4, 2, &[chunk]), []);
    assert_eq!(live_on(&mut rig, 5, &[1, 2, 3, 4]), []);
    // One of them is silent, though not dead yet.
    rig.hold(2, 4, &[chunk]);
    let (mut rig, chunk) = with_chunk(4);
    live_on(&mut rig, 4, &[1, 2, 4]);
    assert_eq!(rig.hold(4, 2, &[chunk]), []);
    assert_eq!(live_on(&mut rig, 2, &[1, 2, 4]), []);
    let orders = live_on(&mut rig, 4, &[1, 2, 3, 4]);
    assert_eq!(deletions(&orders).len(), 1, "it is heard again: {orders:?}");
}

#[test]
fn the_extra_replica_goes_from_the_rack_that_has_most() {
    let mut rig = Rig::with(settings());
    for (n, rack) in [(1, "a"), (2, "b"), (3, "b"), (4, "c")] {
        let connection = ConnectionId(n);
        rig.machine.handle_connected(connection, Role::Chunkserver);
        let n = u8::try_from(n).unwrap();
        let register = Register {
            rack: rack.to_owned(),
            ..register(n)
        };
        let (reply, _) = rig.exchange(connection, register);
        assert!(reply.is_ok());
        rig.hold(n, 1, &[]);
    }
    let (_, chunk) = rig.upload("/f", 3);
    for n in 1..=3 {
        rig.hold(n, 2, &[chunk]);
    }
    let orders = rig.hold(4, 2, &[chunk]);
    assert_eq!(deletions(&orders), [(1, 3, chunk.version)]);
}

#[test]
fn a_stale_replica_is_listed_while_the_chunk_is_short_and_deleted_when_it_is_not() {
    let (mut rig, chunk) = with_chunk(4);
    let left = HeldChunk {
        state: ChunkState::Pending,
        length: 0,
        crc32: 0,
        ..chunk
    };
    let orders = rig.hold(4, 2, &[left]);
    assert_eq!(deletions(&orders), [(1, 4, chunk.version)]);
    // A refusal is not asked again at once.
    let refused = Err(Status::Moved.into());
    assert_eq!(answer(&mut rig, 4, 1, refused), []);
    let orders = live_on(&mut rig, 1, &[1, 2, 3, 4]);
    assert_eq!(deletions(&orders).len(), 1);
}

/// The order's connection is lost with the target: another one is asked, and what the first one
/// made all the same is told by its inventory.
#[test]
fn a_copy_whose_target_is_gone_is_ordered_elsewhere() {
    let (mut rig, chunk) = with_chunk(5);
    let orders = corrupt(&mut rig, 1, &chunk);
    let (_, first, _) = copies(&orders).remove(0);
    rig.machine
        .handle_disconnected(ConnectionId(first), rig.now);
    assert_eq!(rig.settle(), []);
    let others: Vec<u8> = (1..=5).filter(|&n| u64::from(n) != first).collect();
    let orders = live_on(&mut rig, 1, &others);
    let (order, second, _) = copies(&orders).remove(0);
    assert_ne!(first, second);
    let n = u8::try_from(second).unwrap();
    let orders = answer(&mut rig, second, order, Ok(copied(&chunk, n).into()));
    assert_eq!(deletions(&orders).len(), 1, "the rotten one");
    let n = u8::try_from(first).unwrap();
    rig.registered(n);
    rig.hold(n, 1, &[chunk]);
    assert!(is_healthy(&mut rig) || !deletions(&orders).is_empty());
}

#[test]
fn a_copy_that_lands_after_its_chunk_was_purged_is_garbage() {
    let (mut rig, chunk) = with_chunk(4);
    let orders = corrupt(&mut rig, 1, &chunk);
    let (order, target, _) = copies(&orders).remove(0);
    let request = rig.remove("/f", true);
    rig.get(request);
    assert_eq!(target, 4);
    assert_eq!(answer(&mut rig, 4, order, Ok(copied(&chunk, 4).into())), []);
    (1..=3).for_each(|n| {
        rig.hold(n, 3, &[]);
    });
    rig.hold(4, 2, &[chunk]);
    let orders = live_on(&mut rig, 6, &[1, 2, 3, 4]);
    assert_eq!(deletions(&orders), [(2, 4, chunk.version)]);
    assert_eq!(rig.get(Report).repairs, Default::default());
}

/// Nobody could make a copy; then a server comes.
#[test]
fn a_chunk_that_nobody_can_copy_is_remembered_and_not_asked_for_all_the_time() {
    let (mut rig, chunk) = with_chunk(3);
    let orders = live_on(&mut rig, 40, &[1, 2]);
    assert_eq!(orders, []);
    assert_eq!(rig.get(Report).repairs.waiting, 1);
    rig.registered(4);
    let orders = rig.hold(4, 1, &[]);
    assert!(matches!(&copies(&orders)[..], [(1, 4, _)]), "{orders:?}");
    answer(&mut rig, 4, 1, Ok(copied(&chunk, 4).into()));
    assert!(is_healthy(&mut rig));
}

/// Every look at a chunk ends: what is due is due later than now.
#[test]
fn what_is_due_is_never_due_for_ever() {
    let (mut rig, chunk) = with_chunk(3);
    corrupt(&mut rig, 1, &chunk);
    for _ in 0..100 {
        rig.machine.handle_timeout(rig.now);
        rig.settle();
        let due = rig.machine.next_timeout();
        assert!(due > rig.now.elapsed);
        rig.now.elapsed = due;
    }
    assert_eq!(rig.machine.repairs.tried(chunk.handle), Tried::default());
}

/// A target that never answers keeps its streams for a while, not for ever.
#[test]
fn a_copy_that_takes_too_long_is_given_up_and_counts_if_it_ends_all_the_same() {
    let (mut rig, chunk) = with_chunk(5);
    let orders = corrupt(&mut rig, 1, &chunk);
    let (order, first, _) = copies(&orders).remove(0);
    let orders = live_on(&mut rig, 599, &[1, 2, 3, 4, 5]);
    assert_eq!(orders, []);
    let orders = live_on(&mut rig, 3, &[1, 2, 3, 4, 5]);
    let (_, second, _) = copies(&orders).remove(0);
    assert_ne!(first, second);
    let n = u8::try_from(first).unwrap();
    let orders = answer(&mut rig, first, order, Ok(copied(&chunk, n).into()));
    assert_eq!(deletions(&orders), [], "the second copy is under way");
    assert_eq!(rig.get(Report).repairs.done, 1);
}

/// The copy had come to its end when its place was to be deleted, and was deleted; then it was told.
#[test]
fn a_copy_that_was_given_up_counts_no_more_when_its_place_was_ordered_to_be_deleted() {
    let (mut rig, chunk) = with_chunk(3);
    let orders = corrupt(&mut rig, 2, &chunk);
    assert!(matches!(&copies(&orders)[..], [(1, 2, _)]), "{orders:?}");
    assert_eq!(live_on(&mut rig, 599, &[1, 2, 3]), []);
    rig.server(4);
    let orders = live_on(&mut rig, 3, &[1, 2, 3, 4]);
    let (second, target, _) = copies(&orders).remove(0);
    assert_eq!(target, 4);
    let orders = answer(&mut rig, 4, second, Ok(copied(&chunk, 4).into()));
    let &[(delete, 2, _)] = &deletions(&orders)[..] else {
        panic!("{orders:?}")
    };
    assert_eq!(rig.hold(2, 3, &[]), [], "it is gone");
    let orders = answer(&mut rig, 2, 1, Ok(copied(&chunk, 2).into()));
    assert_eq!(deletions(&orders), []);
    assert_eq!(live_on(&mut rig, 5, &[1, 2, 3, 4]), []);
    assert_eq!(answer(&mut rig, 2, delete, Ok(ChunkDeleted.into())), []);
    assert!(is_healthy(&mut rig));
}
