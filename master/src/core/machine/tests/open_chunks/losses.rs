//! A person goes on with an old copy of a chunk whose good ones are gone (`spec/replication.md` section 8).

use sarsen_protocol::message::Finding;

use super::*;

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
    for n in members {
        play.servers.replicas.remove(&(n, handle));
    }
    play.hold_old(other, handle, (old, len), 7);
    play.report_held(3, &[1, 2, 3, 4]);
    play.wait(settings().dead_after + seconds(1));
    play.servers.deaf.insert(other);
    play.unanswered.clear();
    let accept = play.acceptance(handle);
    play.send(accept);
    let promise = std::mem::take(&mut play.unanswered);
    play.answer_late(promise);
    let (_, _, prepare) = play.unanswered.remove(0);
    play.servers.deaf.clear();
    let prepared = play.servers.obey(other, &prepare);
    assert!(matches!(prepared, Some(Ok(AnyMessage::SealPrepared(_)))));
    play.restart();
    assert_eq!(play.sealed(handle).map(|it| it.0), Some(newest));
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
/// not sealed again, since they differ; and a person was told that there is a copy to go on with.
#[test]
fn a_loss_is_accepted_of_a_chunk_at_rest_whose_holders_differ() {
    let mut play = Play::new();
    let (handle, members) = play.sealed_file("/f");
    let file = play.rig.machine.state.chunks.record(handle).unwrap().file;
    play.report_held(2, &members);
    play.wait(seconds(1));
    play.servers.differing.insert(members[0]);
    let truncate = Truncate {
        request: play.rig.request(),
        path: "/f".to_owned(),
        size: 400,
    };
    assert_eq!(play.refused(truncate), Status::Corrupt);
    play.report_held(3, &members);
    play.servers.differing.clear();
    play.wait(4 * settings().dead_after);
    assert_eq!(play.refused(play.last(file)), Status::Corrupt);
    let findings = play.rig.get(fsck()).findings.into_iter();
    let corrupt = findings.filter(|it| it.finding == Finding::Corrupt);
    let corrupt: BTreeSet<u64> = corrupt.map(|it| it.server.0).collect();
    assert_eq!(corrupt, BTreeSet::from(members));
    let accept = play.acceptance(handle);
    let reply = play.ask(accept);
    let Some(Ok(AnyMessage::LossAccepted(accepted))) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(play.sealed(handle), Some((accepted.version, 1000)));
    assert_eq!(
        play.readers_are_sent_to(file),
        BTreeSet::from([accepted.server.0])
    );
}

/// The highest copy lay in a directory that serves reads only. It was asked each time, and refused each time,
/// while another server had one to go on with.
#[test]
fn a_copy_in_a_directory_that_has_failed_is_not_gone_on_with() {
    let mut play = Play::new();
    let (handle, members) = play.sealed_file("/f");
    let (old, len) = play.sealed(handle).expect("it is sealed");
    let file = play.rig.get(stat("/f")).node.file_id;
    let open = play.open(play.last(file));
    play.mutate(handle, 20, 1500);
    play.send(SealFile {
        path: "/f".to_owned(),
    });
    assert!(play.sealed(handle).is_some(), "it is sealed again");
    let chain = [0, 1, 2].map(|at| open.chain[at].server.0);
    for n in chain {
        play.servers.replicas.remove(&(n, handle));
    }
    let [failed, good] = [chain[0], chain[1]];
    play.hold_old(failed, handle, (old, len), 7);
    play.hold_old(good, handle, (ChunkVersion(old.0 - 1), len), 6);
    play.report_held(3, &members);
    play.wait(settings().dead_after + seconds(1));
    let mut beat = heartbeat(u8::try_from(failed).unwrap());
    beat.disks[0].disk.state = DiskState::Failed;
    let (reply, _) = play.rig.exchange(ConnectionId(failed), beat);
    assert!(reply.is_ok(), "{reply:?}");
    let accept = play.acceptance(handle);
    let reply = play.ask(accept);
    let Some(Ok(AnyMessage::LossAccepted(accepted))) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(accepted.server.0, good);
}
