//! What must not confuse a master that changes versions: many who ask at once, answers that come too
//! late, its own end in every phase, servers that do only half of what they should.

use super::*;
use crate::core::timed::looks;

impl Play {
    /// Sends without waiting for an answer.
    pub(super) fn send(&mut self, message: impl Into<AnyMessage>) -> Token {
        let token = self.rig.send(CLIENT, message);
        let actions = self.rig.settle();
        self.run(actions);
        token
    }

    /// The orders of a kind that a server has not answered.
    fn given(&self, server: u64, name: &str) -> Vec<(ConnectionId, OrderId, AnyMessage)> {
        let orders = self.unanswered.iter();
        let theirs = orders.filter(|(connection, _, message)| {
            *connection == ConnectionId(server) && message.kind().name() == name
        });
        theirs.cloned().collect()
    }

    /// The master ends and another begins on its log; all servers register with it.
    pub(super) fn restart(&mut self) {
        self.rig = self.rig.restarted(settings());
        self.unanswered.clear();
        self.servers.orders.clear();
        for n in 1..=4 {
            self.connect(n);
        }
    }

    /// A server registers, and tells what it holds.
    pub(super) fn connect(&mut self, n: u8) {
        let connection = ConnectionId(n.into());
        self.servers.silent.remove(&n.into());
        self.rig
            .machine
            .handle_connected(connection, Role::Chunkserver);
        let (reply, actions) = self.rig.exchange(connection, register(n));
        assert!(matches!(reply, Ok(AnyMessage::Registered(_))), "{reply:?}");
        self.run(actions);
        let held = self.held_by(n);
        let (_, actions) = self.rig.exchange(connection, inventory(n, 1, &held));
        self.run(actions);
    }

    /// A server's connection is gone.
    pub(super) fn disconnect(&mut self, server: u64) {
        self.servers.silent.insert(server);
        let now = self.rig.now;
        let lost = ConnectionId(server);
        self.rig.machine.handle_disconnected(lost, now);
        let actions = self.rig.settle();
        self.run(actions);
    }

    /// What a server reports when it has restarted.
    pub(super) fn held_by(&self, n: u8) -> Vec<HeldChunk> {
        let replicas = self.servers.replicas.iter();
        let its = replicas.filter(|((server, _), _)| *server == u64::from(n));
        let held = its.map(|((_, handle), replica)| {
            let is_sealed = replica
                .sealed
                .is_some_and(|sealed| sealed.0 == replica.version);
            let (told, state, flags) = match (replica.prepared, is_sealed) {
                (Some(prepared), _) => (prepared, ChunkState::Open, HeldFlags::PREPARED),
                (None, true) => (replica.sealed.unwrap(), ChunkState::Sealed, HeldFlags::NONE),
                (None, false) => (
                    (replica.version, replica.length, 0),
                    ChunkState::Open,
                    HeldFlags::NONE,
                ),
            };
            HeldChunk {
                handle: *handle,
                version: told.0,
                serial: replica.serial,
                length: told.1,
                crc32: told.2,
                state,
                flags,
                file_id: FileId(2),
                index: 0,
            }
        });
        held.collect()
    }

    fn versions_asked(&self) -> BTreeSet<ChunkVersion> {
        let orders = self.unanswered.iter();
        let versions = orders.filter_map(|(.., message)| match message {
            AnyMessage::Promise(order) => Some(order.version),
            AnyMessage::Begin(order) => Some(order.version),
            AnyMessage::PrepareSeal(order) => Some(order.version),
            _ => None,
        });
        versions.collect()
    }

    pub(super) fn refused(&mut self, asked: impl Into<AnyMessage>) -> Status {
        match self.ask(asked) {
            Some(Err(failure)) => failure.status,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn whoever_asks_while_an_attempt_runs_joins_it() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    let [primary, second, third] = [0, 1, 2].map(|at| first.chain[at].server.0);
    play.servers.deaf.extend([primary, second, third]);
    play.report(primary, &first, ChainTrouble::HopFailed, second);
    let one = play.versions_asked();
    assert_eq!(one.len(), 1);
    play.report(second, &first, ChainTrouble::HopFailed, primary);
    play.report(third, &first, ChainTrouble::PromiseRefused, 0);
    play.report(primary, &first, ChainTrouble::Full, 0);
    play.report(primary, &first, ChainTrouble::WantsSeal, 0);
    play.report(primary, &first, ChainTrouble::WantsMemory, 0);
    let failed = OpenChunk {
        failed: first.version,
        ..play.last(file)
    };
    let waits = play.send(failed);
    let seal = SealFile {
        path: "/f".to_owned(),
    };
    let seals = play.send(seal);
    assert_eq!(play.versions_asked(), one, "two attempts never run at once");
    assert_eq!(play.unanswered.len(), 3, "and each member is asked once");
    play.servers.deaf.clear();
    let orders = std::mem::take(&mut play.unanswered);
    play.answer_late(orders);
    // What was asked for is done one after the other.
    play.wait(seconds(2));
    assert!(matches!(
        play.replies.remove(&waits),
        Some(Ok(AnyMessage::ChunkOpened(_)))
    ));
    assert!(matches!(
        play.replies.remove(&seals),
        Some(Ok(AnyMessage::FileSealed(_)))
    ));
}

#[test]
fn answers_of_an_attempt_that_was_given_up_change_nothing() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    let members: Vec<u64> = first.chain.iter().map(|hop| hop.server.0).collect();
    play.mutate(first.handle, 4, 400);
    play.servers.deaf.extend(&members);
    play.report(members[0], &first, ChainTrouble::HopFailed, members[1]);
    // Nobody promises for long: it is given up, and another is made when somebody asks.
    play.wait(seconds(14));
    let old = std::mem::take(&mut play.unanswered);
    let waits = play.send(play.last(file));
    let new = play.versions_asked();
    assert_eq!(new.len(), 1);
    let orders = play.servers.orders.len();
    play.answer_late(old);
    // The scripted servers obey one order each for the late answers themselves.
    assert_eq!(play.versions_asked(), new);
    let begun = play.servers.orders.iter().skip(orders);
    assert!(
        begun.clone().all(|(_, name)| *name == "Promise"),
        "{begun:?}"
    );
    assert_eq!(play.active(first.handle).version, first.version);
    // Those of the new one do.
    play.servers.deaf.clear();
    let orders = std::mem::take(&mut play.unanswered);
    play.answer_late(orders);
    let Some(Ok(AnyMessage::ChunkOpened(opened))) = play.replies.remove(&waits) else {
        panic!("{:?}", play.replies)
    };
    assert_eq!(BTreeSet::from([opened.version]), new);
    assert_eq!(opened.begin_serial, Serial(4));
}

/// A master that ends at each step of a seal, also with the entry lost: the next one starts from
/// what the log says, and nothing that the members had is gone.
#[test]
fn a_master_may_end_in_every_phase_of_a_seal() {
    for (steps, is_lost) in [(0, false), (1, false), (2, false), (3, false), (3, true)] {
        let mut play = Play::new();
        let file = play.touch("/f");
        let first = play.open(play.last(file));
        play.mutate(first.handle, 5, 500);
        let members = first.chain.iter().map(|hop| hop.server.0);
        play.servers.deaf.extend(members);
        let seal = SealFile {
            path: "/f".to_owned(),
        };
        play.send(seal);
        let mut highest = first.version;
        for _ in 0..steps {
            highest = highest.max(play.versions_asked().last().copied().unwrap_or_default());
            let orders = std::mem::take(&mut play.unanswered);
            play.answer_late(orders);
        }
        let is_sealed = steps == 3 && !is_lost;
        if is_lost {
            play.rig.log.pop();
        }
        play.servers.deaf.clear();
        play.restart();
        assert_eq!(
            play.sealed(first.handle).map(|sealed| sealed.1),
            is_sealed.then_some(500),
            "{steps}"
        );
        let settled = play.servers.orders.iter();
        let settled = settled.filter(|(_, name)| *name == "Settle").count();
        assert_eq!(settled, if is_sealed { 3 } else { 0 }, "{steps} {is_lost}");
        // A work that began in safe mode has its turn a moment later.
        let waits = play.send(play.last(file));
        play.wait(seconds(2));
        let reply = play.replies.remove(&waits);
        let Some(Ok(AnyMessage::ChunkOpened(again))) = reply else {
            panic!("{steps} {is_lost}: {reply:?}")
        };
        assert_eq!(again.handle, first.handle);
        // What nobody was asked to promise goes on as it was.
        let begin = if steps > 1 { 5 } else { 1 };
        assert_eq!(again.begin_serial, Serial(begin), "{steps} {is_lost}");
        assert!(again.version >= highest, "{steps} {is_lost}");
    }
}

/// Truncate looked only at what was open: an activation on its way into the log opened the chunk
/// under it, and the cut was hung onto the work that had done so and never answered.
#[test]
fn a_truncate_waits_for_what_is_being_logged() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    play.mutate(first.handle, 7, 1000);
    play.send(SealFile {
        path: "/f".to_owned(),
    });
    let opens = play.rig.send(CLIENT, play.last(file));
    let mut appended = false;
    while !appended {
        for action in play.rig.actions() {
            match action {
                Action::Order {
                    connection,
                    order,
                    message,
                } => {
                    let reply = play.servers.obey(connection.0, &message).unwrap();
                    let reply = reply.map_err(OrderFailure::from);
                    let now = play.rig.now;
                    play.rig
                        .machine
                        .handle_order_reply(connection, order, reply, now);
                }
                Action::Append(_) => appended = true,
                other => panic!("{other:?}"),
            }
        }
    }
    let truncate = Truncate {
        request: play.rig.request(),
        path: "/f".to_owned(),
        size: 400,
    };
    let cuts = play.send(truncate);
    play.wait(seconds(2));
    let Some(Ok(AnyMessage::Truncated(truncated))) = play.replies.remove(&cuts) else {
        panic!("{:?}", play.replies)
    };
    assert_eq!(truncated.node.size, 400);
    assert_eq!(play.sealed(first.handle).map(|sealed| sealed.1), Some(400));
    assert!(play.replies.remove(&opens).is_some());
}

/// A chunk that was opened while the entry that cuts it off was being logged came to the log behind it,
/// and its bytes were in the file again (found by the simulator).
#[test]
fn nothing_is_opened_while_a_cut_is_being_logged() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    play.mutate(first.handle, 7, 1000);
    play.send(SealFile {
        path: "/f".to_owned(),
    });
    let truncate = Truncate {
        request: play.rig.request(),
        path: "/f".to_owned(),
        size: 0,
    };
    let cuts = play.rig.send(CLIENT, truncate);
    let logging = play.rig.actions();
    assert!(matches!(&logging[..], [Action::Append(_)]), "{logging:?}");
    let early = play.rig.send(CLIENT, play.last(file));
    let refused = play.rig.actions();
    let is_refused = |action: &Action| {
        let Action::Reply { to, reply } = action else {
            return false;
        };
        *to == early && matches!(reply, Err(failure) if failure.status == Status::Overloaded)
    };
    assert!(refused.iter().all(is_refused), "{refused:?}");
    assert_eq!(refused.len(), 1);
    play.wait(seconds(1));
    assert!(matches!(
        play.replies.remove(&cuts),
        Some(Ok(AnyMessage::Truncated(_)))
    ));
    let opened = play.open(play.last(file));
    assert_ne!(opened.handle, first.handle);
    assert_eq!(play.rig.get(stat("/f")).node.size, 0);
}

/// The chunk that is the last one behind a cut may be open, and no new size is taken then.
#[test]
fn a_truncate_waits_for_another_that_is_being_logged() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let at = |play: &Play, index| OpenChunk {
        slot: Slot::At(index),
        ..play.last(file)
    };
    for index in 0..2 {
        let opened = play.open(at(&play, index));
        play.mutate(opened.handle, 7, 1000);
    }
    play.ask(SealFile {
        path: "/f".to_owned(),
    });
    let first = play.open(at(&play, 0));
    let truncate = |play: &mut Play, size| Truncate {
        request: play.rig.request(),
        path: "/f".to_owned(),
        size,
    };
    let cut = truncate(&mut play, u64::from(MIB));
    let cuts = play.rig.send(CLIENT, cut);
    let logging = play.rig.actions();
    assert!(matches!(&logging[..], [Action::Append(_)]), "{logging:?}");
    let longer = truncate(&mut play, u64::from(2 * MIB));
    let early = play.rig.send(CLIENT, longer.clone());
    let refused = play.rig.actions();
    let [
        Action::Reply {
            to,
            reply: Err(failure),
        },
    ] = &refused[..]
    else {
        panic!("{refused:?}");
    };
    assert_eq!((*to, failure.status), (early, Status::Overloaded));
    play.wait(seconds(1));
    let is_cut = |reply| matches!(reply, Some(Ok(AnyMessage::Truncated(_))));
    assert!(is_cut(play.replies.remove(&cuts)));
    assert!(
        play.sealed(first.handle).is_none(),
        "it is the last one now"
    );
    assert!(is_cut(play.ask(longer)));
    assert_eq!(play.rig.get(stat("/f")).node.size, u64::from(2 * MIB));
}

/// Reopening waited for the next inventory of two servers, and the copies that repair made in the
/// meantime were of nobody's use.
#[test]
fn who_has_settled_counts_at_once_and_repair_waits_for_the_others() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    let third = first.chain[2].server.0;
    play.mutate(first.handle, 3, 300);
    play.servers
        .deaf
        .extend(first.chain.iter().map(|hop| hop.server.0));
    play.send(SealFile {
        path: "/f".to_owned(),
    });
    for _ in 0..3 {
        let orders = std::mem::take(&mut play.unanswered);
        play.answer_late(orders);
    }
    assert!(play.sealed(first.handle).is_some());
    let is_late = |order: &(ConnectionId, OrderId, AnyMessage)| order.0.0 == third;
    let (late, others): (Vec<_>, Vec<_>) = std::mem::take(&mut play.unanswered)
        .into_iter()
        .partition(is_late);
    play.answer_late(others);
    play.servers.deaf.clear();
    let copies = |play: &Play| {
        let orders = play.servers.orders.iter();
        orders.filter(|(_, name)| *name == "CopyChunk").count()
    };
    play.wait(seconds(1));
    assert_eq!(copies(&play), 0);
    play.answer_late(late);
    play.wait(seconds(8));
    assert_eq!(copies(&play), 0);
    let again = play.open(play.last(file));
    assert_eq!((again.handle, again.chain.len()), (first.handle, 3));
}

/// A chunk that can't be sealed was due at every moment, and the master woke a hundred times a
/// second for it.
#[test]
fn a_chunk_that_nobody_has_does_not_keep_the_master_awake() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    let members: Vec<u64> = first.chain.iter().map(|hop| hop.server.0).collect();
    play.servers.silent.extend(&members);
    play.wait(seconds(90));
    assert_eq!(play.refused(play.last(file)), Status::Unavailable);
    let now = play.rig.now.elapsed;
    let due = play.rig.machine.next_timeout();
    assert!(due > now + Duration::from_millis(100), "{now:?} {due:?}");
    // Whoever wants it sealed is told at once.
    let seal = SealFile {
        path: "/f".to_owned(),
    };
    assert_eq!(play.refused(seal), Status::Unavailable);
}

/// What a member reported while the master was in safe mode was answered and forgotten.
#[test]
fn trouble_that_is_told_in_safe_mode_is_acted_on_afterwards() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    let [primary, second, third] = [0, 1, 2].map(|at| first.chain[at].server.0);
    play.rig = play.rig.restarted(settings());
    play.servers.orders.clear();
    let silent = (1..=4)
        .find(|n| ![primary, second, third].contains(n))
        .unwrap();
    for n in [primary, second] {
        let connection = ConnectionId(n);
        let n = u8::try_from(n).unwrap();
        play.rig
            .machine
            .handle_connected(connection, Role::Chunkserver);
        let (_, actions) = play.rig.exchange(connection, register(n));
        play.run(actions);
    }
    play.servers.silent.extend([third, silent]);
    if !play.rig.machine.is_safe_mode() {
        return assert!(play.rig.machine.is_serving(), "there was none to test with");
    }
    play.report(primary, &first, ChainTrouble::HopFailed, third);
    assert_eq!(play.active(first.handle).version, first.version);
    play.wait(settings().safe_mode_max + seconds(10));
    assert!(!play.rig.machine.is_safe_mode());
    assert_eq!(
        servers_of(&play.active(first.handle)),
        [primary, second],
        "it goes on without whom nobody hears"
    );
}

/// The primary was asked whether it holds the lease, said so, and was asked again, for as long as
/// the client was held.
#[test]
fn a_client_that_lost_its_way_to_a_good_primary_goes_on_with_it() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    let failed = OpenChunk {
        failed: first.version,
        ..play.last(file)
    };
    let again = play.open(failed);
    assert_eq!((again.handle, again.version), (first.handle, first.version));
}

/// All holders had a seal prepared that no log knew, counted for nothing, and were never asked for
/// anything that would have made it void.
#[test]
fn a_master_that_ends_in_a_cut_leaves_no_chunk_behind_that_nobody_can_read() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    let handle = first.handle;
    play.mutate(handle, 7, 1000);
    play.send(SealFile {
        path: "/f".to_owned(),
    });
    play.wait(seconds(1));
    let (old, _) = play.sealed(handle).expect("it is sealed");
    let members = first.chain.iter().map(|hop| hop.server.0);
    play.servers.deaf.extend(members);
    let truncate = Truncate {
        request: play.rig.request(),
        path: "/f".to_owned(),
        size: 400,
    };
    play.send(truncate);
    // They promise and prepare, and what they say of that comes too late.
    play.unanswered.clear();
    for n in std::mem::take(&mut play.servers.deaf) {
        let replica = play.servers.replicas.get_mut(&(n, handle)).unwrap();
        let version = ChunkVersion(old.0 + 1);
        (replica.version, replica.promised) = (version, version);
        replica.begin = replica.serial;
        replica.prepared = Some((version, 400, 4711 + 400));
    }
    play.restart();
    // Nobody has a good replica: safe mode lasts as long as it may.
    play.wait(settings().safe_mode_max + seconds(5));
    let (new, len) = play.sealed(handle).expect("it is sealed");
    assert!(new > old, "a higher version makes the preparations void");
    assert_eq!(len, 1000, "nothing was cut");
    let again = play.open(play.last(file));
    assert_eq!((again.handle, again.chain.len()), (handle, 3));
}

/// A refusal for now counted as the last word: with another member that had restarted nobody was
/// left who counted, and what was acknowledged from memory was called lost.
#[test]
fn who_has_its_hands_full_is_asked_again() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let asked = OpenChunk {
        memory: true,
        ..play.last(file)
    };
    let first = play.open(asked);
    let [primary, second, third] = [0, 1, 2].map(|at| first.chain[at].server.0);
    play.mutate(first.handle, 5, 500);
    let replica = play.servers.replicas.get_mut(&(second, first.handle));
    let replica = replica.unwrap();
    (replica.serial, replica.length) = (Serial(1), 0);
    play.servers.restarted.insert(second);
    play.servers.silent.insert(third);
    play.servers.busy.insert(primary);
    play.report(primary, &first, ChainTrouble::HopFailed, third);
    play.wait(seconds(5));
    play.servers.busy.clear();
    play.wait(seconds(20));
    let record = play.rig.machine.state.chunks.record(first.handle).unwrap();
    assert_eq!(record.losses.len(), 0);
    assert_eq!(play.sealed(first.handle).map(|it| it.1), Some(500));
}

/// Who had failed first was left out each time, and the other, who could do nothing, was asked for
/// ever.
#[test]
fn of_two_of_whom_one_can_not_begin_the_other_has_its_turn() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    let [primary, second, third] = [0, 1, 2].map(|at| first.chain[at].server.0);
    play.servers.silent.insert(third);
    play.servers.unable.extend([primary, second]);
    play.mutate(first.handle, 3, 300);
    play.report(primary, &first, ChainTrouble::HopFailed, third);
    play.wait(settings().dead_after + seconds(4));
    play.servers.unable.remove(&primary);
    play.wait(seconds(30));
    assert_eq!(play.sealed(first.handle).map(|sealed| sealed.1), Some(300));
}

/// A chunk that was made open can't be read back by its servers, which was taken for damage: all
/// were called corrupt, and one of them was sealed.
#[test]
fn members_that_differ_and_can_not_tell_who_is_wrong_stay_as_they_are() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    play.mutate(first.handle, 3, 300);
    let odd = first.chain[1].server.0;
    let replica = play.servers.replicas.get_mut(&(odd, first.handle)).unwrap();
    replica.length = 299;
    let seal = SealFile {
        path: "/f".to_owned(),
    };
    assert_eq!(play.refused(seal), Status::Corrupt);
    play.wait(seconds(60));
    assert_eq!(play.active(first.handle).version, first.version);
    assert_eq!(play.refused(play.last(file)), Status::Corrupt);
    // Which of them is right nobody but a person can say.
    play.tell(first.handle, file);
    play.wait(settings().lease + settings().dead_after);
    let accept = play.acceptance(first.handle);
    let reply = play.ask(accept);
    let Some(Ok(AnyMessage::LossAccepted(accepted))) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(
        play.sealed(first.handle),
        Some((accepted.version, accepted.length))
    );
    let readers = play.readers_are_sent_to(file);
    assert_eq!(readers, BTreeSet::from([accepted.server.0]));
}

/// A cut that no server could prepare was tried again for ever, and its file stayed closed.
#[test]
fn a_cut_that_can_not_be_made_is_told_and_the_file_opened_again() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    play.mutate(first.handle, 7, 1000);
    play.send(SealFile {
        path: "/f".to_owned(),
    });
    play.wait(seconds(1));
    play.servers.unable.extend(1..=4);
    let truncate = Truncate {
        request: play.rig.request(),
        path: "/f".to_owned(),
        size: 400,
    };
    let cuts = play.send(truncate);
    play.wait(settings().dead_after + seconds(15));
    let reply = play.replies.remove(&cuts);
    assert!(
        matches!(&reply, Some(Err(failure)) if failure.status == Status::TooFewServers),
        "{reply:?}"
    );
    play.servers.unable.clear();
    let again = play.open(play.last(file));
    assert_eq!(again.handle, first.handle);
    assert_eq!(play.sealed(first.handle), None, "it is open");
}

/// As soon as two had settled a chunk was opened again, without the third, which had to be copied
/// then.
#[test]
fn who_settles_a_moment_later_is_waited_for() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    let third = first.chain[2].server.0;
    play.mutate(first.handle, 3, 300);
    let members = first.chain.iter().map(|hop| hop.server.0);
    play.servers.deaf.extend(members);
    play.send(SealFile {
        path: "/f".to_owned(),
    });
    for _ in 0..3 {
        let orders = std::mem::take(&mut play.unanswered);
        play.answer_late(orders);
    }
    let is_late = |order: &(ConnectionId, OrderId, AnyMessage)| order.0.0 == third;
    let (late, others): (Vec<_>, Vec<_>) = std::mem::take(&mut play.unanswered)
        .into_iter()
        .partition(is_late);
    play.answer_late(others);
    play.servers.deaf.clear();
    let opens = play.send(play.last(file));
    play.wait(Duration::from_millis(300));
    play.answer_late(late);
    let Some(Ok(AnyMessage::ChunkOpened(opened))) = play.replies.remove(&opens) else {
        panic!("{:?}", play.replies)
    };
    assert_eq!(opened.chain.len(), 3);
}

/// A member was cut off until a copy had been made in its place, and was then ordered to settle and to
/// delete what it had. It told that the replica was gone, and then answered that it had settled: that
/// counted, and one of the three that there were was deleted as too many.
#[test]
fn who_settled_what_it_was_to_delete_counts_no_more() {
    // The deletion is under way or done when the answer comes; the order to settle was given before
    // the one to delete, or since.
    for (is_done, is_since) in [(false, false), (false, true), (true, false), (true, true)] {
        let (mut play, prepared, third) = with_a_copy_of_what_is_prepared();
        let (n, settles) = (u8::try_from(third).unwrap(), play.given(third, "Settle"));
        let (connection, delete, _) = play.given(third, "DeleteChunk").remove(0);
        // It may have told so before it heard of the order.
        let actions = play.rig.hold(n, 3, &[prepared]);
        play.run(actions);
        let order = match is_since {
            true => play.given(third, "Settle").pop(),
            false => settles.first().cloned(),
        };
        let (_, settle, _) = order.expect("it was ordered");
        let gone = play.rig.hold(n, 4, &[]);
        play.run(gone);
        if is_done {
            let actions = play.answer(connection, delete, Ok(ChunkDeleted.into()));
            play.run(actions);
        }
        let actions = play.answer(connection, settle, Ok(Settled.into()));
        play.run(actions);
        play.wait(seconds(2));
        let orders = play.servers.orders.iter();
        let deletions: Vec<_> = orders.filter(|(_, name)| *name == "DeleteChunk").collect();
        assert_eq!(deletions, [&(third, "DeleteChunk")], "{is_done} {is_since}");
    }
}

/// A sealed chunk that two have settled and another has a copy of, what the third member of it has
/// prepared, and that one: it was ordered to settle and to delete that, and has answered neither.
fn with_a_copy_of_what_is_prepared() -> (Play, HeldChunk, u64) {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    let (handle, third) = (first.handle, first.chain[2].server.0);
    play.mutate(handle, 3, 300);
    let members = first.chain.iter().map(|hop| hop.server.0);
    play.servers.deaf.extend(members);
    play.send(SealFile {
        path: "/f".to_owned(),
    });
    for _ in 0..4 {
        let orders = std::mem::take(&mut play.unanswered);
        let is_left = |order: &(_, _, AnyMessage)| matches!(order, (ConnectionId(n), _, AnyMessage::Settle(_)) if *n == third);
        let (left, others): (Vec<_>, Vec<_>) = orders.into_iter().partition(is_left);
        play.answer_late(others);
        play.unanswered.extend(left);
    }
    let (version, length) = play.sealed(handle).expect("it is sealed");
    let prepared = HeldChunk {
        handle,
        version,
        serial: Serial(3),
        length,
        crc32: 4711 + length,
        state: ChunkState::Open,
        flags: HeldFlags::PREPARED,
        file_id: file,
        index: 0,
    };
    let actions = play.rig.hold(u8::try_from(third).unwrap(), 2, &[prepared]);
    play.run(actions);
    // As long as it is believed to settle it is waited for.
    play.wait(seconds(12));
    let spare = (1..=4).find(|n| first.chain.iter().all(|hop| hop.server.0 != *n));
    let spare = spare.expect("one of four");
    let (connection, copy, _) = play.given(spare, "CopyChunk").remove(0);
    let copied = ChunkCopied {
        directory_id: DirectoryId([u8::try_from(spare).unwrap(); 16]),
        length,
        crc32: 4711 + length,
        suspects: Vec::new(),
    };
    let actions = play.answer(connection, copy, Ok(copied.into()));
    play.run(actions);
    play.wait(seconds(1));
    (play, prepared, third)
}

/// Each look at what comes due, each seal and each chunk that an errand waited for went through all
/// open chunks: sealing a tree took a time that grew with the square of its chunks, and a master with
/// many open chunks did little else.
#[test]
fn a_tree_of_many_open_chunks_is_sealed_like_many_small_ones() {
    const CHUNKS: u32 = 10_000;
    const OF_A_FILE: u32 = 100;
    const LOOKS_MAX: usize = 40 * CHUNKS as usize;
    let mut play = Play::new();
    let mut handles = Vec::new();
    let opening = looks::of(|| {
        for n in 0..CHUNKS / OF_A_FILE {
            let file = play.touch(&format!("/f{n}"));
            for index in 0..OF_A_FILE {
                let slot = Slot::At(index);
                let asked = OpenChunk {
                    slot,
                    ..play.last(file)
                };
                handles.push(play.open(asked).handle);
                // A driver asks at every turn of its loop.
                let _ = play.rig.machine.next_timeout();
            }
        }
    });
    assert!(opening < LOOKS_MAX, "{opening}");
    let seal = SealFile {
        path: "/".to_owned(),
    };
    let sealing = looks::of(|| {
        let token = play.send(seal);
        // More versions are drawn than are logged ahead at once.
        play.wait(seconds(5));
        let reply = play.replies.remove(&token);
        assert!(
            matches!(reply, Some(Ok(AnyMessage::FileSealed(_)))),
            "{reply:?}"
        );
    });
    assert!(sealing < LOOKS_MAX, "{sealing}");
    assert!(handles.iter().all(|handle| play.sealed(*handle).is_some()));
}

/// A file's last chunk was full while somebody wrote behind it: one work made a chunk for the slot, the
/// other the full one's next chunk for the same slot. The log took the first that came and refused the
/// other, with its seal if it was that one: a chunk was made for nothing, and clients were told to wait
/// for nothing. Nothing was lost, but only since the apply of an entry looks at the slot once more.
#[test]
fn one_chunk_is_made_for_a_slot_that_two_want() {
    for is_slot_first in [true, false] {
        let mut play = Play::new();
        let file = play.touch("/f");
        let full = play.open(play.last(file));
        play.mutate(full.handle, 5, 700);
        let behind = OpenChunk {
            slot: Slot::At(1),
            ..play.last(file)
        };
        let after = OpenChunk {
            slot: Slot::Last { after: full.handle },
            ..play.last(file)
        };
        play.servers.deaf.extend(1..=4);
        let mut tokens = Vec::new();
        if is_slot_first {
            tokens.push(play.send(behind));
        }
        play.report(full.chain[0].server.0, &full, ChainTrouble::Full, 0);
        tokens.push(play.send(after));
        if !is_slot_first {
            tokens.push(play.send(behind));
        }
        play.servers.deaf.clear();
        while !play.unanswered.is_empty() {
            let unanswered = std::mem::take(&mut play.unanswered);
            play.answer_late(unanswered);
        }
        play.wait(seconds(1));
        let made = |token| match play.replies.get(token) {
            Some(Ok(AnyMessage::ChunkOpened(opened))) => (opened.index, opened.handle),
            other => panic!("{other:?}"),
        };
        let made: BTreeSet<(u32, ChunkHandle)> = tokens.iter().map(made).collect();
        assert_eq!(made.len(), 1, "{made:?}");
        assert!(play.sealed(full.handle).is_some());
        let begun = play.servers.replicas.keys();
        let handles: BTreeSet<ChunkHandle> = begun.map(|(_, handle)| *handle).collect();
        assert_eq!(handles.len(), 2, "no chunk was made for nothing");
    }
}

/// What a tree waited for may be gone for good before it was sealed.
#[test]
fn a_seal_does_not_wait_for_what_was_removed() {
    let mut play = Play::new();
    let files = [play.touch("/f"), play.touch("/g")];
    for file in files {
        play.open(play.last(file));
    }
    play.servers.deaf.extend(1..=4);
    let token = play.send(SealFile {
        path: "/".to_owned(),
    });
    let remove = play.rig.remove("/f", true);
    let removed = play.ask(remove);
    assert!(matches!(removed, Some(Ok(_))), "{removed:?}");
    assert_eq!(play.replies.get(&token), None, "the other one is open");
    let remove = play.rig.remove("/g", true);
    let removed = play.ask(remove);
    assert!(matches!(removed, Some(Ok(_))), "{removed:?}");
    let reply = play.replies.remove(&token);
    assert!(
        matches!(reply, Some(Ok(AnyMessage::FileSealed(_)))),
        "{reply:?}"
    );
}

/// Two of three members were killed, one a moment after the other, when it had just promised. Each step
/// of each attempt waited for them anew: for the first to promise, for the second to begin, and for
/// both in the next attempt. When that was over the client had just been told to ask once more.
#[test]
fn members_that_are_gone_are_waited_for_once() {
    let mut play = Play::new();
    play.rig.machine.config.min_replicas = 1;
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    let members: Vec<u64> = first.chain.iter().map(|hop| hop.server.0).collect();
    play.disconnect(members[0]);
    play.report(members[2], &first, ChainTrouble::HopFailed, members[0]);
    let promised = (members[1], Kind::Promise.name());
    assert!(play.servers.orders.contains(&promised));
    play.disconnect(members[1]);
    let again = OpenChunk {
        failed: first.version,
        ..play.last(file)
    };
    let token = play.send(again);
    play.wait(settings().suspect_after + settings().heartbeat);
    let Some(Ok(AnyMessage::ChunkOpened(opened))) = play.replies.remove(&token) else {
        panic!("{:?}", play.servers.orders)
    };
    let chain: Vec<u64> = opened.chain.iter().map(|hop| hop.server.0).collect();
    assert_eq!(chain, members[2..]);
}

/// Two members were out of the master's reach for a moment while they prepared a long seal. They were
/// taken for servers whose disks fail, and of three good members one was sealed.
#[test]
fn who_lost_its_connection_once_is_as_good_as_the_others() {
    let mut play = Play::new();
    play.rig.machine.config.min_replicas = 1;
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    let members: Vec<u64> = first.chain.iter().map(|hop| hop.server.0).collect();
    play.mutate(first.handle, 3, 300);
    play.servers.deaf.extend(&members[1..]);
    play.send(SealFile {
        path: "/f".to_owned(),
    });
    for &server in &members[1..] {
        let promises = play.given(server, Kind::Promise.name());
        play.answer_late(promises);
    }
    play.wait(settings().dead_after + seconds(1));
    for &server in &members[1..] {
        assert_eq!(play.given(server, Kind::PrepareSeal.name()).len(), 1);
        play.disconnect(server);
    }
    play.wait(settings().suspect_after);
    play.servers.deaf.clear();
    for &server in &members[1..] {
        play.connect(u8::try_from(server).unwrap());
    }
    play.wait(settings().heartbeat);
    assert_eq!(play.sealed(first.handle).map(|it| it.1), Some(300));
    let members = BTreeSet::from_iter(members);
    assert_eq!(play.readers_are_sent_to(file), members);
}
