//! Safe mode, garbage, orphans, and what expires.

use super::*;
use crate::core::event::OrderId;

fn deletion(server: u64, order: u64, epoch: u64, chunk: &HeldChunk) -> Action {
    let epoch = Epoch {
        number: epoch,
        incarnation: 7,
    };
    let message = DeleteChunk {
        epoch,
        handle: chunk.handle,
        version: chunk.version,
    }
    .into();
    Action::Order {
        connection: ConnectionId(server),
        order: OrderId(order),
        message,
    }
}

fn deleted(rig: &mut Rig, server: u64, order: u64) -> Vec<Action> {
    let (connection, order) = (ConnectionId(server), OrderId(order));
    let reply = Ok(ChunkDeleted.into());
    rig.machine
        .handle_order_reply(connection, order, reply, rig.now);
    rig.settle()
}

/// A cluster of two servers with one file on both.
fn with_file(config: Config) -> (Rig, HeldChunk) {
    let mut rig = Rig::with(config);
    rig.servers(2);
    let (_, chunk) = rig.upload("/f", 2);
    rig.hold(1, 2, &[chunk]);
    rig.hold(2, 2, &[chunk]);
    (rig, chunk)
}

#[test]
fn after_a_restart_changes_wait_until_enough_is_reported() {
    let (rig, chunk) = with_file(config());
    let mut rig = rig.restarted(config());
    assert!(rig.machine.is_safe_mode());
    assert_eq!(rig.status(stat("/f")), Status::Ok, "reads are served");
    let request = rig.make_folder("/a");
    let refused = rig.ask(request.clone()).unwrap_err();
    assert_eq!(
        (refused.status, refused.retry_after_ms),
        (Status::SafeMode, 1000)
    );
    rig.registered(1);
    rig.registered(2);
    rig.hold(1, 1, &[chunk]);
    assert_eq!(
        rig.status(request.clone()),
        Status::SafeMode,
        "one copy of two"
    );
    rig.hold(2, 1, &[chunk]);
    assert!(!rig.machine.is_safe_mode());
    assert_eq!(rig.status(request), Status::Ok);
}

/// `spec/replication.md` section 8. A chunk that was lost, of which nobody had more to tell, kept
/// each start in safe mode to its end.
#[test]
fn after_all_have_told_nothing_more_is_waited_for() {
    let (rig, chunk) = with_file(config());
    let mut rig = rig.restarted(config());
    let corrupt = HeldChunk {
        flags: HeldFlags::CORRUPT,
        ..chunk
    };
    rig.registered(1);
    rig.hold(1, 1, &[corrupt]);
    assert!(rig.machine.is_safe_mode(), "the second is not here");
    rig.registered(2);
    assert!(rig.machine.is_safe_mode(), "the second has told nothing");
    rig.hold(2, 1, &[]);
    assert!(!rig.machine.is_safe_mode());
}

/// A server that left one of its directories out at its start has not told what lies there.
#[test]
fn a_directory_that_is_not_here_is_waited_for() {
    let (mut rig, chunk) = with_file(config());
    let mut both = register(1);
    both.directories.extend(register(9).directories);
    let connection = ConnectionId(11);
    rig.machine.handle_connected(connection, Role::Chunkserver);
    let (reply, _) = rig.exchange(connection, both);
    assert!(matches!(reply, Ok(AnyMessage::Registered(_))), "{reply:?}");
    let mut rig = rig.restarted(config());
    let corrupt = HeldChunk {
        flags: HeldFlags::CORRUPT,
        ..chunk
    };
    rig.registered(1);
    rig.registered(2);
    rig.hold(1, 1, &[corrupt]);
    rig.hold(2, 1, &[]);
    assert!(rig.machine.is_safe_mode());
}

/// Who has told all and fell silent since may come back with what is missing.
#[test]
fn who_fell_silent_in_safe_mode_is_waited_for() {
    let (rig, chunk) = with_file(config());
    let mut rig = rig.restarted(config());
    rig.registered(1);
    rig.registered(2);
    rig.hold(1, 1, &[chunk]);
    rig.wait(config().dead_after);
    rig.beat(2);
    rig.hold(2, 1, &[]);
    assert!(rig.machine.is_safe_mode());
    rig.beat(1);
    rig.wait(seconds(5));
    assert!(!rig.machine.is_safe_mode());
}

#[test]
fn safe_mode_ends_in_time_whatever_is_reported() {
    let (rig, _) = with_file(config());
    let mut rig = rig.restarted(config());
    assert_eq!(rig.machine.next_timeout(), seconds(5));
    rig.wait(seconds(59));
    assert!(rig.machine.is_safe_mode());
    assert_eq!(rig.machine.next_timeout(), seconds(60));
    rig.wait(seconds(1));
    assert!(!rig.machine.is_safe_mode());
}

#[test]
fn an_answer_is_given_again_even_in_safe_mode() {
    let (mut rig, _) = with_file(config());
    let request = rig.make_folder("/a");
    let made = rig.ask(request.clone());
    let mut rig = rig.restarted(config());
    assert!(rig.machine.is_safe_mode());
    assert_eq!(rig.ask(request), made);
}

#[test]
fn purged_chunks_are_deleted_at_the_next_sweep() {
    let (mut rig, chunk) = with_file(config());
    let request = rig.remove("/f", true);
    rig.get(request);
    assert_eq!(rig.wait(seconds(4)), [], "lazily");
    assert_eq!(
        rig.wait(seconds(1)),
        [deletion(1, 1, 1, &chunk), deletion(2, 2, 1, &chunk)]
    );
    rig.beat(1);
    rig.beat(2);
    assert_eq!(rig.wait(seconds(5)), [], "the orders are under way");
    assert_eq!(deleted(&mut rig, 1, 1), []);
    rig.machine.handle_order_reply(
        ConnectionId(2),
        OrderId(2),
        Err(Status::MediumFailed.into()),
        rig.now,
    );
    assert_eq!(
        rig.wait(seconds(5)),
        [deletion(2, 3, 1, &chunk)],
        "what failed is ordered again"
    );
}

#[test]
fn trash_keeps_its_chunks() {
    let (mut rig, _) = with_file(config());
    let request = rig.remove("/f", false);
    rig.get(request);
    assert_eq!(rig.wait(seconds(60)), []);
}

#[test]
fn orders_are_void_with_their_connection() {
    let (mut rig, chunk) = with_file(config());
    let request = rig.remove("/f", true);
    rig.get(request);
    rig.wait(seconds(5));
    rig.machine.handle_disconnected(ConnectionId(1), rig.now);
    assert_eq!(rig.wait(seconds(5)), [], "nobody to order");
    rig.registered(1);
    assert_eq!(
        deleted(&mut rig, 1, 1),
        [],
        "an answer to a void order means nothing"
    );
    assert_eq!(rig.wait(seconds(5)), [deletion(1, 3, 1, &chunk)]);
}

/// A purge of many chunks keeps each server busy, not flooded.
#[test]
fn deletions_are_paced_by_their_answers() {
    let mut rig = Rig::new();
    rig.servers(2);
    let file = rig.begin("/f", 2);
    let chunks = rig.allocate(file, 100);
    let all: Vec<&Allocation> = chunks.iter().collect();
    let request = publish(rig.request(), file, "/f", &all);
    rig.get(request);
    let mut held: Vec<HeldChunk> = chunks.iter().map(|chunk| held(file, chunk)).collect();
    held[..99].iter_mut().for_each(|chunk| chunk.length = MIB);
    rig.hold(1, 2, &held);
    let request = rig.remove("/f", true);
    rig.get(request);
    let orders = rig.wait(seconds(5));
    assert_eq!(orders.len(), 64);
    assert_eq!(orders[63], deletion(1, 64, 1, &held[63]));
    assert_eq!(deleted(&mut rig, 1, 1), [deletion(1, 65, 1, &held[64])]);
}

#[test]
fn orphans_are_held_back_for_a_grace_and_not_in_safe_mode() {
    let config = || Config {
        orphan_grace: seconds(30),
        ..config()
    };
    let (mut rig, chunk) = with_file(config());
    let request = rig.remove("/f", true);
    rig.get(request);
    rig.upload("/g", 2);
    // Nobody knows any more why the chunk is not in the table.
    let mut rig = rig.restarted(config());
    rig.registered(1);
    rig.hold(1, 1, &[chunk]);
    assert!(rig.machine.is_safe_mode());
    for _ in 0..5 {
        assert_eq!(rig.wait(seconds(9)), []);
        rig.beat(1);
    }
    assert_eq!(
        rig.wait(seconds(15)),
        [deletion(1, 1, 2, &chunk)],
        "safe mode has ended"
    );
}

#[test]
fn chunks_of_a_pending_file_are_spared_as_long_as_it_is_one() {
    let mut rig = Rig::with(Config {
        orphan_grace: seconds(20),
        ..config()
    });
    rig.servers(2);
    let file = rig.begin("/f", 2);
    let chunk = held(file, &rig.allocate(file, 1).remove(0));
    rig.hold(1, 2, &[chunk]);
    for _ in 0..20 {
        assert_eq!(rig.wait(seconds(5)), []);
        rig.beat(1);
    }
    let request = AbortPending {
        request: rig.request(),
        file_id: file,
    };
    rig.get(request);
    assert_eq!(rig.wait(seconds(5)), [deletion(1, 1, 1, &chunk)]);
}

/// A chunk is reported while its file is pending, then published: it was a suspect, and is none.
#[test]
fn a_chunk_that_was_published_is_no_orphan() {
    let mut rig = Rig::with(Config {
        orphan_grace: seconds(20),
        ..config()
    });
    rig.servers(2);
    let file = rig.begin("/f", 2);
    let allocation = rig.allocate(file, 1).remove(0);
    rig.hold(1, 2, &[held(file, &allocation)]);
    rig.wait(seconds(5));
    let request = publish(rig.request(), file, "/f", &[&allocation]);
    rig.get(request);
    for _ in 0..10 {
        assert_eq!(rig.wait(seconds(5)), []);
        rig.beat(1);
    }
}

#[test]
fn a_chunk_that_was_sent_again_under_another_handle_is_deleted() {
    let mut rig = Rig::new();
    rig.servers(2);
    let file = rig.begin("/f", 2);
    let broken = rig.allocate(file, 1).remove(0);
    let good = rig.allocate(file, 1).remove(0);
    let request = publish(rig.request(), file, "/f", &[&good]);
    rig.get(request);
    rig.hold(1, 2, &[held(file, &broken), held(file, &good)]);
    assert_eq!(
        rig.wait(seconds(5)),
        [deletion(1, 1, 1, &held(file, &broken))]
    );
}

#[test]
fn a_session_that_nobody_keeps_ends_with_its_uploads() {
    let mut rig = Rig::with(Config {
        pending_expiry: seconds(60),
        ..config()
    });
    rig.servers(2);
    let file = rig.begin("/f", 2);
    rig.wait(seconds(50));
    rig.get(KeepSession {
        session: rig.session,
    });
    rig.wait(seconds(50));
    assert!(rig.machine.state().pending.contains_key(&file));
    rig.wait(seconds(10));
    assert!(rig.machine.state().pending.is_empty());
    assert_eq!(
        rig.status(KeepSession {
            session: rig.session
        }),
        Status::SessionUnknown
    );
    let kinds: Vec<&str> = rig.log.iter().map(|entry| entry.command.name()).collect();
    let closed = kinds
        .iter()
        .filter(|kind| **kind == "sessions_closed")
        .count();
    assert_eq!(closed, 1, "{kinds:?}");
}

#[test]
fn trash_goes_for_good_when_its_time_is_over() {
    let mut rig = Rig::with(Config {
        trash_expiry: seconds(20),
        ..config()
    });
    rig.servers(2);
    let (_, chunk) = rig.upload("/f", 2);
    rig.hold(1, 2, &[chunk]);
    let request = rig.remove("/f", false);
    rig.get(request);
    rig.wait(seconds(19));
    assert_eq!(rig.machine.state().namespace.trash().len(), 1);
    rig.wait(seconds(5));
    assert_eq!(rig.machine.state().namespace.trash().len(), 0);
    rig.beat(1);
    assert_eq!(rig.wait(seconds(5)), [deletion(1, 1, 1, &chunk)]);
}

/// The clock is set back by an hour: the log's time stands still, nothing breaks.
#[test]
fn the_logs_time_never_goes_back() {
    let mut rig = Rig::new();
    rig.now.unix_ms -= 3_600_000 / 4;
    let request = rig.make_folder("/a");
    rig.get(request);
    let times: Vec<u64> = rig.log.iter().map(|entry| entry.time_ms).collect();
    assert!(times.is_sorted(), "{times:?}");
}

/// The first flush took longer than safe mode may last. The end of safe mode was due and could not
/// come before the flush, and whoever waited for what is due never got to hear of the flush.
#[test]
fn nothing_is_due_that_cannot_be_done_yet() {
    let mut rig = Rig::unstarted(Config {
        safe_mode_max: Duration::from_millis(50),
        ..config()
    });
    rig.now.elapsed += seconds(2);
    rig.machine.handle_timeout(rig.now);
    assert!(rig.machine.next_timeout() > rig.now.elapsed);
    rig.settle();
    assert!(!rig.machine.is_safe_mode(), "the flush ends it");
}

/// Of ten chunks nine must be reported: the share is of all sealed chunks, not of those looked at.
#[test]
fn safe_mode_ends_at_the_share_that_is_asked_for() {
    let config = Config {
        safe_mode_fraction: 0.9,
        ..config()
    };
    let mut rig = Rig::with(config.clone());
    rig.servers(3);
    let chunks: Vec<HeldChunk> = (0..10).map(|n| rig.upload(&format!("/{n}"), 2).1).collect();
    let mut rig = rig.restarted(config);
    (1..=3).for_each(|n| {
        rig.registered(n);
    });
    rig.hold(1, 1, &chunks);
    rig.hold(2, 1, &chunks[2..]);
    assert!(rig.machine.is_safe_mode(), "eight of ten");
    rig.hold(2, 2, &chunks[..9]);
    assert!(!rig.machine.is_safe_mode(), "nine of ten");
}

/// The session's end was on its way to the disk when the client asked to keep it: the answer said
/// that it was kept, and then it was gone with its uploads.
#[test]
fn a_session_that_is_ending_is_not_kept() {
    let mut rig = Rig::new();
    rig.now.elapsed += seconds(3600);
    rig.machine.handle_timeout(rig.now);
    let session = rig.session;
    let keep = rig.send(CLIENT, KeepSession { session });
    let refused = Action::Reply {
        to: keep,
        reply: Err(Status::SessionUnknown.into()),
    };
    assert!(rig.settle().contains(&refused));
}

/// Trash entries are known by their node's id. One that was restored and removed again while the
/// expiry of the first removal was on its way to the disk went for good at once.
#[test]
fn what_was_removed_a_moment_ago_does_not_expire() {
    let mut rig = Rig::new();
    rig.servers(2);
    let (file, _) = rig.upload("/f", 2);
    let remove = rig.remove("/f", false);
    rig.get(remove);
    rig.now.elapsed += seconds(3 * 24 * 3600);
    rig.now.unix_ms += 3 * 24 * 3600 * 1000;
    // The clients' requests and the sweep meet before the disk answers.
    let restore = RestoreTrash {
        request: rig.request(),
        entry: file.0,
        target: String::new(),
    };
    let remove = rig.remove("/f", false);
    rig.send(CLIENT, restore);
    rig.send(CLIENT, remove);
    rig.machine.handle_timeout(rig.now);
    rig.settle();
    assert!(rig.machine.state.namespace.trash_entry(file).is_some());
}

/// A clock that was set forward for a moment ended all trash for good.
#[test]
fn a_clock_that_is_set_forward_does_not_end_trash() {
    let mut rig = Rig::new();
    rig.servers(2);
    let (file, _) = rig.upload("/f", 2);
    let remove = rig.remove("/f", false);
    rig.get(remove);
    rig.now.unix_ms += 365 * 24 * 3600 * 1000;
    rig.wait(seconds(60));
    assert!(rig.machine.state.namespace.trash_entry(file).is_some());
}

/// `spec/chunk-file.md` section 9. What a server found sealed over a header in doubt, or at `memory`
/// before a power cut, was told like what is not synced yet, and counted: safe mode ended, `fsck`
/// was healthy, and a copy too many could have gone for it.
#[test]
fn what_is_to_be_read_back_does_not_count_yet() {
    let mut rig = Rig::new();
    rig.servers(2);
    let (_, chunk) = rig.upload("/f", 2);
    let mut rig = rig.restarted(config());
    let unsure = HeldChunk {
        flags: HeldFlags::UNSYNCED.with(HeldFlags::READ_BACK),
        ..chunk
    };
    for n in 1..=2 {
        rig.registered(n);
        rig.hold(n, 1, &[unsure]);
    }
    assert!(rig.machine.is_safe_mode());
    assert_eq!(rig.get(fsck()).findings.len(), 1, "it is missing");
    rig.hold(2, 2, &[chunk]);
    let located = rig.get(locate("/f"));
    let servers: Vec<u64> = located.chunks[0]
        .replicas
        .iter()
        .map(|it| it.server.0)
        .collect();
    assert_eq!(
        servers,
        [2, 1],
        "readers are sent to it when nobody else is left"
    );
    rig.hold(1, 2, &[chunk]);
    assert!(!rig.machine.is_safe_mode());
    assert_eq!(rig.get(fsck()).findings, []);
}

/// `spec/chunk-file.md` section 10.5: what a directory holds whose disk failed is still read. One
/// failed sync of a folder on each server, and nobody was sent anywhere: every byte was missing.
#[test]
fn what_a_failed_disk_holds_is_still_read_if_nobody_else_has_it() {
    let mut rig = Rig::new();
    rig.servers(2);
    let (_, chunk) = rig.upload("/f", 2);
    for n in 1..=2 {
        rig.hold(n, 2, &[chunk]);
    }
    for failed in [1, 2] {
        let mut beat = heartbeat(failed);
        beat.disks[0].disk.state = DiskState::Failed;
        let connection = ConnectionId(u64::from(failed));
        rig.exchange(connection, beat).0.unwrap();
        let located = rig.get(locate("/f"));
        let replicas = &located.chunks[0].replicas;
        let servers: Vec<u64> = replicas.iter().map(|it| it.server.0).collect();
        match failed {
            1 => assert_eq!(servers, [2, 1], "behind the good one"),
            _ => assert_eq!(servers.len(), 2),
        }
        assert_eq!(rig.get(fsck()).findings.len(), 1, "and it does not count");
    }
}

/// Nor was it copied from: what was only on failed disks was never safe again.
#[test]
fn what_only_a_failed_disk_holds_is_copied_from_there() {
    let mut rig = Rig::new();
    rig.servers(2);
    let (_, chunk) = rig.upload("/f", 2);
    for n in 1..=2 {
        rig.hold(n, 2, &[chunk]);
    }
    for n in 1..=2 {
        let mut beat = heartbeat(n);
        beat.disks[0].disk.state = DiskState::Failed;
        rig.exchange(ConnectionId(u64::from(n)), beat).0.unwrap();
    }
    rig.registered(3);
    let mut done = rig.hold(3, 1, &[]);
    done.extend(rig.wait(seconds(1)));
    let copied = done.iter().find_map(|one| match one {
        Action::Order {
            connection,
            message: AnyMessage::CopyChunk(copy),
            ..
        } => Some((connection.0, copy.sources.len())),
        _ => None,
    });
    assert_eq!(copied, Some((3, 2)));
}
