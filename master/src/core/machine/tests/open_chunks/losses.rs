//! A person goes on with an old copy of a chunk whose good ones are gone (`spec/replication.md` section 8).

use sarsen_protocol::message::Finding;

use super::*;
use crate::core::machine::millis;

impl Play {
    /// A server has a chunk as it was sealed before: in that version, with that length.
    fn hold_old(
        &mut self,
        server: u64,
        handle: ChunkHandle,
        was: (ChunkVersion, u32),
        serial: u64,
    ) {
        let (version, length) = was;
        let copy = Replica {
            version,
            serial: Serial(serial),
            begin: Serial(serial),
            length,
            sealed: Some((version, length, 4711 + length)),
            ..Replica::default()
        };
        self.servers.replicas.insert((server, handle), copy);
    }

    /// A server has prepared such a copy, for a loss that was accepted and not logged.
    pub(super) fn hold_prepared(
        &mut self,
        server: u64,
        handle: ChunkHandle,
        was: (ChunkVersion, u32),
        prepared: ChunkVersion,
    ) {
        self.hold_old(server, handle, was, 9);
        let copy = self.servers.replicas.get_mut(&(server, handle)).unwrap();
        (copy.version, copy.promised) = (prepared, prepared);
        copy.prepared = Some((prepared, was.1, 4711 + was.1));
    }

    /// A chunk at rest of which one server alone has an old copy, which it had prepared for a loss that was
    /// accepted when the master ended: the chunk, the server, what its copy was, the log's version.
    fn cut_short(&mut self) -> (ChunkHandle, u64, (ChunkVersion, u32), ChunkVersion) {
        let (handle, _) = self.sealed_file("/f");
        let old = self.sealed(handle).expect("it is sealed");
        let file = self.rig.machine.state.chunks.record(handle).unwrap().file;
        let open = self.open(self.last(file));
        self.mutate(handle, 20, 1500);
        self.send(SealFile {
            path: "/f".to_owned(),
        });
        let (newest, _) = self.sealed(handle).expect("it is sealed again");
        let members = [0, 1, 2].map(|at| open.chain[at].server.0);
        let other = (1..=4).find(|n| !members.contains(n)).unwrap();
        for n in members {
            self.servers.replicas.remove(&(n, handle));
        }
        self.hold_old(other, handle, old, 7);
        self.report_held(3, &[1, 2, 3, 4]);
        self.wait(settings().dead_after + seconds(1));
        self.servers.deaf.insert(other);
        self.unanswered.clear();
        let accept = self.acceptance(handle);
        self.send(accept);
        let promise = std::mem::take(&mut self.unanswered);
        self.answer_late(promise);
        let (_, _, prepare) = self.unanswered.remove(0);
        self.servers.deaf.clear();
        let prepared = self.servers.obey(other, &prepare);
        assert!(matches!(prepared, Some(Ok(AnyMessage::SealPrepared(_)))));
        self.restart();
        assert_eq!(self.sealed(handle).map(|it| it.0), Some(newest));
        (handle, other, old, newest)
    }

    /// A chunk at rest of which two servers have old copies, and nobody any other: the chunk, who has the
    /// better one, and who the other.
    fn two_old_copies(&mut self) -> (ChunkHandle, u64, u64) {
        let (handle, [best, other, third]) = self.sealed_file("/f");
        let (version, len) = self.sealed(handle).expect("it is sealed");
        let old = |by: u64| (ChunkVersion(version.0 - by), len);
        self.servers.replicas.remove(&(third, handle));
        self.hold_old(best, handle, old(1), 7);
        self.hold_old(other, handle, old(2), 9);
        self.report_held(3, &[1, 2, 3, 4]);
        self.wait(settings().dead_after + seconds(1));
        (handle, best, other)
    }

    /// Whose copy is taken.
    fn accept(&mut self, handle: ChunkHandle) -> u64 {
        let accept = self.acceptance(handle);
        match self.ask(accept) {
            Some(Ok(AnyMessage::LossAccepted(accepted))) => accepted.server.0,
            other => panic!("{other:?}"),
        }
    }

    /// The word of a person, once.
    pub(super) fn acceptance(&mut self, handle: ChunkHandle) -> AcceptLoss {
        AcceptLoss {
            request: self.rig.request(),
            handle,
        }
    }
}

#[test]
fn a_loss_is_accepted_when_no_lease_can_run_and_the_best_copy_is_taken_once() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    let handle = first.handle;
    play.mutate(handle, 9, 900);
    play.send(SealFile {
        path: "/f".to_owned(),
    });
    let (old, len) = play.sealed(handle).expect("it is sealed");
    let open = play.open(play.last(file));
    let members: Vec<u64> = open.chain.iter().map(|hop| hop.server.0).collect();
    let other = (1..=4).find(|n| !members.contains(n)).unwrap();
    let early = play.acceptance(handle);
    assert_eq!(play.refused(early), Status::InvalidArgument);
    play.servers.silent.extend(&members);
    play.report(members[0], &open, ChainTrouble::HopFailed, members[1]);
    play.wait(seconds(15));
    let accept = AcceptLoss {
        request: RequestId {
            lowest_outstanding: early.request.number,
            ..play.rig.request()
        },
        handle,
    };
    assert_eq!(play.refused(accept), Status::Overloaded);
    play.wait(seconds(60));
    // Before there was any loss a person was told that there is none: that word is not used now.
    assert_eq!(play.refused(early), Status::InvalidArgument);
    assert_eq!(play.refused(accept), Status::Unavailable, "no copy");
    // A server that was away has the chunk as it was before.
    play.hold_old(other, handle, (old, len), 9);
    play.tell(handle, file);
    let reply = play.ask(accept);
    let Some(Ok(AnyMessage::LossAccepted(accepted))) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!((accepted.length, accepted.server.0), (900, other));
    let (version, _) = play.sealed(handle).expect("it is sealed");
    assert_eq!(accepted.version, version);
    assert!(version > open.version);
    let record = play.rig.machine.state.chunks.record(handle).unwrap();
    assert_eq!(record.losses.len(), 1);
    let again = play.ask(accept);
    assert_eq!(again, Some(Ok(AnyMessage::LossAccepted(accepted))));
}

/// It was for unavailable chunks only: what lay stale of a chunk at rest was kept for nothing.
#[test]
fn a_loss_is_accepted_of_a_chunk_at_rest_that_nobody_can_give_a_copy_of() {
    let mut play = Play::new();
    let (handle, _) = play.sealed_file("/f");
    let (old, len) = play.sealed(handle).expect("it is sealed");
    let file = play.rig.machine.state.chunks.record(handle).unwrap().file;
    let open = play.open(play.last(file));
    play.mutate(handle, 20, 1500);
    play.send(SealFile {
        path: "/f".to_owned(),
    });
    let (newest, _) = play.sealed(handle).expect("it is sealed again");
    let members = [0, 1, 2].map(|at| open.chain[at].server.0);
    let other = (1..=4).find(|n| !members.contains(n)).unwrap();
    let early = play.acceptance(handle);
    play.servers.silent.extend(&members);
    assert_eq!(
        play.refused(early),
        Status::InvalidArgument,
        "all are there"
    );
    play.wait(settings().dead_after + seconds(1));
    let accept = play.acceptance(handle);
    assert_eq!(play.refused(accept), Status::Unavailable, "no copy");
    play.hold_old(other, handle, (old, len), 7);
    play.report_held(3, &[other]);
    let reply = play.ask(accept);
    let Some(Ok(AnyMessage::LossAccepted(accepted))) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!((accepted.length, accepted.server.0), (len, other));
    assert_eq!(play.sealed(handle), Some((accepted.version, len)));
    assert!(accepted.version > newest);
    let record = play.rig.machine.state.chunks.record(handle).unwrap();
    assert_eq!(record.losses.len(), 1);
    assert_eq!(record.losses[0].version, newest);
    // What comes back later is stale: nobody is sent there.
    play.servers.silent.clear();
    play.report_held(4, &members);
    assert_eq!(play.readers_are_sent_to(file), BTreeSet::from([other]));
}

/// That it is tried again is no reason to refuse a person who goes on without.
#[test]
fn a_loss_can_be_accepted_while_nobody_answers() {
    let mut play = Play::new();
    let (handle, members) = play.sealed_file("/f");
    let (old, len) = play.sealed(handle).unwrap();
    play.report_held(2, &members);
    play.wait(seconds(1));
    let file = play.rig.get(stat("/f")).node.file_id;
    let open = play.open(play.last(file));
    play.servers.deaf.extend(members);
    play.report(members[0], &open, ChainTrouble::HopFailed, members[1]);
    play.wait(settings().lease + 2 * settings().dead_after);
    for _ in 0..200 {
        if play.promises() > 0 {
            break;
        }
        play.wait(seconds(1));
    }
    let other = (1..=4).find(|n| !members.contains(n)).unwrap();
    play.hold_old(other, handle, (old, len), 7);
    play.report_held(3, &[other]);
    let accept = play.acceptance(handle);
    let reply = play.ask(accept);
    assert!(
        matches!(reply, Some(Ok(AnyMessage::LossAccepted(_)))),
        "{reply:?}"
    );
}

/// A number that a truncation had, still waiting for a seal or being cut, was taken for that of a loss to
/// be accepted: the second request was told `Truncated`, which is no answer to it, and the connection's
/// check of that ended the master.
#[test]
fn an_acceptance_does_not_take_the_answer_of_a_truncation() {
    for rounds in 0..4 {
        let mut play = Play::new();
        let file = play.touch("/f");
        let open = play.open(play.last(file));
        play.mutate(open.handle, 7, 1000);
        play.servers.deaf.extend(1..=4);
        let truncate = Truncate {
            request: play.rig.request(),
            path: "/f".to_owned(),
            size: 400,
        };
        let cuts = play.send(truncate.clone());
        for _ in 0..rounds {
            let unanswered = std::mem::take(&mut play.unanswered);
            play.answer_late(unanswered);
            play.wait(Duration::from_millis(100));
        }
        assert_eq!(play.replies.get(&cuts), None);
        let accept = AcceptLoss {
            request: truncate.request,
            handle: open.handle,
        };
        assert_eq!(play.refused(accept), Status::InvalidArgument);
        play.servers.deaf.clear();
        let unanswered = std::mem::take(&mut play.unanswered);
        play.answer_late(unanswered);
        play.wait(seconds(2));
        let told = play.replies.remove(&cuts);
        assert!(
            matches!(told, Some(Ok(AnyMessage::Truncated(_)))),
            "{told:?}"
        );
        // Not even the word that it was refused is kept for it.
        let again = play.ask(truncate);
        assert!(
            matches!(again, Some(Ok(AnyMessage::Truncated(_)))),
            "{again:?}"
        );
    }
}

/// On its way to the log the first one answered the second, too.
#[test]
fn an_acceptance_does_not_take_the_answer_of_what_is_on_its_way_to_the_log() {
    let mut play = Play::new();
    let (handle, _) = play.sealed_file("/f");
    let truncate = Truncate {
        request: play.rig.request(),
        path: "/f".to_owned(),
        size: 2000,
    };
    let accept = AcceptLoss {
        request: truncate.request,
        handle,
    };
    let cuts = play.rig.send(CLIENT, truncate);
    let accepts = play.rig.send(CLIENT, accept);
    let actions = play.rig.settle();
    play.run(actions);
    let told = play.replies.remove(&cuts);
    assert!(
        matches!(told, Some(Ok(AnyMessage::Truncated(_)))),
        "{told:?}"
    );
    let told = play.replies.remove(&accepts).unwrap();
    assert_eq!(told.map_err(|it| it.status), Err(Status::InvalidArgument));
}

/// The server that had the best copy prepared it in a version above the log's, and the master ended before
/// its entry was logged. What is prepared was to be sealed again first, for which that server never counts,
/// since its copy is older than the log's: no loss could be accepted any more.
#[test]
fn an_acceptance_that_was_cut_short_can_be_given_again() {
    let mut play = Play::new();
    let (handle, other, (_, len), newest) = play.cut_short();
    let early = play.acceptance(handle);
    assert_eq!(play.refused(early), Status::Overloaded, "it is tried first");
    play.wait(4 * settings().dead_after);
    assert_eq!(play.sealed(handle).map(|it| it.0), Some(newest));
    let accept = play.acceptance(handle);
    let reply = play.ask(accept);
    let Some(Ok(AnyMessage::LossAccepted(accepted))) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!((accepted.length, accepted.server.0), (len, other));
    assert_eq!(play.sealed(handle), Some((accepted.version, len)));
    let replica = play.servers.replicas[&(other, handle)];
    assert_eq!(replica.sealed.map(|it| it.0), Some(accepted.version));
}

/// The one server that a person's word was given to did not answer, and the chunk was said to be unavailable,
/// which nothing takes back of a chunk at rest: when its holders were back they were read, and not opened.
#[test]
fn an_acceptance_that_fails_leaves_a_chunk_at_rest_as_it_was() {
    let mut play = Play::new();
    let (handle, members) = play.sealed_file("/f");
    let (old, len) = play.sealed(handle).expect("it is sealed");
    let file = play.rig.machine.state.chunks.record(handle).unwrap().file;
    let other = (1..=4).find(|n| !members.contains(n)).unwrap();
    play.servers.silent.extend(members);
    play.wait(settings().dead_after + seconds(1));
    let older = ChunkVersion(old.0 - 1);
    play.hold_old(other, handle, (older, len), 7);
    play.report_held(3, &[other]);
    play.servers.deaf.insert(other);
    let accept = play.acceptance(handle);
    let accepts = play.send(accept);
    play.wait(settings().dead_after + seconds(1));
    let refused = play.replies.remove(&accepts).unwrap().unwrap_err();
    assert_eq!(refused.status, Status::Unavailable);
    play.servers.silent.clear();
    play.report_held(4, &members);
    play.wait(seconds(1));
    assert_eq!(play.open(play.last(file)).handle, handle);
}

/// The other way round: that the server could not prepare was taken for a sign of the members.
#[test]
fn an_acceptance_that_fails_leaves_a_chunk_unavailable() {
    let mut play = Play::new();
    let (handle, members) = play.sealed_file("/f");
    let (old, len) = play.sealed(handle).unwrap();
    play.report_held(2, &members);
    play.wait(seconds(1));
    let file = play.rig.get(stat("/f")).node.file_id;
    let open = play.open(play.last(file));
    play.servers.silent.extend(members);
    play.report(members[0], &open, ChainTrouble::HopFailed, members[1]);
    play.wait(settings().lease + 2 * settings().dead_after);
    let other = (1..=4).find(|n| !members.contains(n)).unwrap();
    play.hold_old(other, handle, (old, len), 7);
    play.report_held(3, &[other]);
    play.servers.unable.insert(other);
    let accept = play.acceptance(handle);
    assert_eq!(play.refused(accept), Status::Unavailable);
    play.servers.unable.clear();
    let accept = play.acceptance(handle);
    let reply = play.ask(accept);
    assert!(
        matches!(reply, Some(Ok(AnyMessage::LossAccepted(_)))),
        "{reply:?}"
    );
}

/// It was for an open one only. At rest all were left prepared, so that none could give a copy; they were
/// not sealed again, since they differ; a person was told that there is a copy to go on with, and `fsck` told
/// of none that is corrupt. Then any of them was taken, also the one that does not have the log's bytes.
#[test]
fn a_loss_is_accepted_of_a_chunk_at_rest_whose_holders_differ() {
    let mut play = Play::new();
    let (handle, members) = play.sealed_file("/f");
    let file = play.rig.machine.state.chunks.record(handle).unwrap().file;
    play.report_held(2, &members);
    play.wait(seconds(1));
    let differs = members.into_iter().max().unwrap();
    play.servers.differing.insert(differs);
    let truncate = Truncate {
        request: play.rig.request(),
        path: "/f".to_owned(),
        size: 400,
    };
    assert_eq!(play.refused(truncate), Status::Corrupt);
    play.report_held(3, &members);
    play.servers.orders.clear();
    play.wait(4 * settings().dead_after);
    assert_eq!(play.promises(), 0, "nothing comes of it");
    assert_eq!(play.refused(play.last(file)), Status::Corrupt);
    let findings = play.rig.get(fsck()).findings.into_iter();
    let corrupt = findings.filter(|it| it.finding == Finding::Corrupt);
    let corrupt: BTreeSet<u64> = corrupt.map(|it| it.server.0).collect();
    assert_eq!(corrupt, BTreeSet::from(members));
    let accept = play.acceptance(handle);
    assert_eq!(play.refused(accept), Status::Unavailable);
    let taken = play.accept(handle);
    assert_ne!(taken, differs);
    let record = play.rig.machine.state.chunks.record(handle).unwrap();
    let sealed = record.at_rest().map(|it| (it.len, it.crc));
    assert_eq!(sealed, Some((1000, 5711)));
    assert_eq!(play.readers_are_sent_to(file), BTreeSet::from([taken]));
}

/// The highest copy lay in a directory that serves reads only, or whose disk hangs. It was asked each time,
/// and in vain each time, while another server had one to go on with.
#[test]
fn a_copy_in_a_directory_that_takes_no_changes_is_not_gone_on_with() {
    for is_hung in [false, true] {
        let mut play = Play::new();
        let (handle, best, other) = play.two_old_copies();
        let mut beat = heartbeat(u8::try_from(best).unwrap());
        match is_hung {
            true => beat.disks[0].beat_age = millis(settings().dead_after),
            false => beat.disks[0].disk.state = DiskState::Failed,
        }
        let (reply, _) = play.rig.exchange(ConnectionId(best), beat);
        assert!(reply.is_ok(), "{reply:?}");
        assert_eq!(play.accept(handle), other);
    }
}

/// The server with the best copy had prepared it for a loss that was accepted when the master ended. Its
/// version was that of the preparation from then on, and went before that of a newer copy on a server that was
/// back meanwhile.
#[test]
fn an_acceptance_given_again_takes_no_older_copy() {
    let mut play = Play::new();
    let (handle, other, (old, len), newest) = play.cut_short();
    let back = (1..=4).find(|n| *n != other).unwrap();
    let newer = ChunkVersion(old.0 + 1);
    assert!(newer < newest);
    play.hold_old(back, handle, (newer, len + 5), 5);
    play.report_held(2, &[back]);
    play.wait(4 * settings().dead_after);
    assert_eq!(play.accept(handle), back);
    assert_eq!(play.sealed(handle).map(|it| it.1), Some(len + 5));
}

/// A sector of the best copy could not be read. It was found out when that was sealed, and it was chosen again
/// each time, while another server had one to go on with.
#[test]
fn a_copy_that_cannot_be_read_is_not_taken_again() {
    let mut play = Play::new();
    let (handle, best, other) = play.two_old_copies();
    // What passes is no reason to take an older one.
    play.servers.unable.insert(best);
    for _ in 0..2 {
        let accept = play.acceptance(handle);
        assert_eq!(play.refused(accept), Status::Unavailable);
    }
    play.servers.unable.clear();
    play.servers.damaged.insert(best);
    let accept = play.acceptance(handle);
    assert_eq!(play.refused(accept), Status::Unavailable);
    assert_eq!(play.accept(handle), other);
}

/// A copy whose server had lost its connection a moment ago was left out.
#[test]
fn a_lost_connection_is_no_reason_to_take_an_older_copy() {
    let mut play = Play::new();
    let (handle, best, other) = play.two_old_copies();
    play.disconnect(best);
    let accept = play.acceptance(handle);
    let accepts = play.send(accept);
    play.wait(settings().suspect_after + seconds(1));
    assert_eq!(play.replies.get(&accepts), None);
    play.connect(u8::try_from(best).unwrap());
    let reply = play.replies.remove(&accepts);
    let Some(Ok(AnyMessage::LossAccepted(accepted))) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(accepted.server.0, best);
    // When it is dead it is not waited for.
    let mut play = Play::new();
    let (handle, best, _) = play.two_old_copies();
    play.disconnect(best);
    play.wait(settings().dead_after);
    assert_eq!(play.accept(handle), other);
}

/// Each request to open it began a work that waits a moment for holders: a client that asks again and again
/// had the person refused, most of the time.
#[test]
fn who_wants_to_open_a_chunk_keeps_no_acceptance_out() {
    let mut play = Play::new();
    let (handle, best, _) = play.two_old_copies();
    let file = play.rig.machine.state.chunks.record(handle).unwrap().file;
    let opens = play.send(play.last(file));
    assert_eq!(play.replies.get(&opens), None);
    assert_eq!(play.accept(handle), best);
    let told = play.replies.remove(&opens).unwrap();
    assert_eq!(told.map_err(|it| it.status), Err(Status::Overloaded));
}

/// One of the servers that the log knows was gone. It was waited for as long as repair waits before what was
/// prepared was sealed again with one holder, which was tried less and less often, and a person had to wait for
/// that.
#[test]
fn a_person_waits_no_longer_than_for_who_is_silent() {
    let mut play = Play::new();
    let (handle, other, ..) = play.cut_short();
    let gone = (1..=4_u8).find(|n| u64::from(*n) != other).unwrap();
    let config = Config {
        safe_mode_fraction: 0.0,
        ..settings()
    };
    play.rig = play.rig.restarted(config);
    play.servers.silent.insert(gone.into());
    for n in (1..=4).filter(|n| *n != gone) {
        play.connect(n);
    }
    let mut waited = Duration::ZERO;
    let taken = loop {
        let accept = play.acceptance(handle);
        match play.ask(accept) {
            Some(Ok(AnyMessage::LossAccepted(accepted))) => break accepted.server.0,
            Some(Err(failure)) if failure.status == Status::Overloaded => {}
            other => panic!("{other:?}"),
        }
        play.wait(seconds(1));
        waited += seconds(1);
    };
    assert_eq!(taken, other);
    let dead_after = settings().dead_after;
    assert!(
        waited >= dead_after && waited <= dead_after + seconds(3),
        "{waited:?}"
    );
}
