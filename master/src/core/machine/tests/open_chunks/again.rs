//! Chunks that nobody asks for: what is left of a seal that was given up, and members that could not
//! answer for a while.

use super::*;

impl Play {
    /// A file with one sealed chunk of 1000 bytes, whose members are as given.
    pub(super) fn sealed_file(&mut self, path: &str) -> (ChunkHandle, [u64; 3]) {
        let file = self.touch(path);
        let open = self.open(self.last(file));
        self.mutate(open.handle, 7, 1000);
        self.send(SealFile {
            path: path.to_owned(),
        });
        assert_eq!(self.sealed(open.handle).map(|it| it.1), Some(1000));
        (open.handle, [0, 1, 2].map(|at| open.chain[at].server.0))
    }

    /// These servers report all that they hold.
    pub(super) fn report_held(&mut self, sequence: u64, servers: &[u64]) {
        for n in servers.iter().map(|n| u8::try_from(*n).unwrap()) {
            let held = self.held_by(n);
            let actions = self.rig.hold(n, sequence, &held);
            self.run(actions);
        }
    }

    /// A sealed chunk, whose first holder has prepared a cut, and the version in which it is sealed.
    fn prepared_by_the_first(&mut self) -> (ChunkHandle, [u64; 3], ChunkVersion) {
        let (handle, members) = self.sealed_file("/f");
        let (sealed, _) = self.sealed(handle).unwrap();
        // Versions are drawn for the cut, too.
        self.sealed_file("/g");
        self.prepare_in_vain(handle, &members[..1]);
        (handle, members, sealed)
    }

    /// Members of a chunk have prepared a cut that no log will know.
    fn prepare_in_vain(&mut self, handle: ChunkHandle, members: &[u64]) {
        for n in members {
            let replica = self.servers.replicas.get_mut(&(*n, handle)).unwrap();
            let version = ChunkVersion(replica.version.0 + 1);
            (replica.version, replica.promised) = (version, version);
            replica.begin = replica.serial;
            replica.prepared = Some((version, 400, 4711 + 400));
        }
    }

    /// How often servers were ordered to promise since the last time.
    pub(super) fn promises(&mut self) -> usize {
        let orders = std::mem::take(&mut self.servers.orders);
        orders.iter().filter(|(_, name)| *name == "Promise").count()
    }

    /// An open chunk whose members beat, and answer nothing until nobody waits for them any more.
    fn unheard(&mut self, path: &str) -> (FileId, ChunkOpened) {
        let file = self.touch(path);
        let open = self.open(self.last(file));
        self.mutate(open.handle, 5, 500);
        let [first, second, third] = [0, 1, 2].map(|at| open.chain[at].server.0);
        self.servers.deaf.extend([first, second, third]);
        self.report(first, &open, ChainTrouble::HopFailed, second);
        (file, open)
    }

    /// A sealed chunk that wants two copies and has them, and its file.
    fn two_holders(&mut self) -> (ChunkHandle, FileId) {
        let file = self.rig.begin("/f", 2);
        let publish = publish(self.rig.request(), file, "/f", &[]);
        let file = self.rig.get(publish).node.file_id;
        let open = self.open(self.last(file));
        self.mutate(open.handle, 7, 1000);
        self.send(SealFile {
            path: "/f".to_owned(),
        });
        self.report_held(2, &[1, 2, 3, 4]);
        self.wait(seconds(5));
        (open.handle, file)
    }

    fn copies_ordered(&self) -> usize {
        let orders = self.servers.orders.iter();
        orders.filter(|it| it.1 == "CopyChunk").count()
    }

    /// A sealed chunk that wants two copies. These servers have the log's, and one has prepared an older one for
    /// a loss that was accepted and not logged. With its version in the log, and its file.
    fn left_prepared_beside(
        &mut self,
        left: u64,
        good: &[u64],
    ) -> (ChunkHandle, ChunkVersion, FileId) {
        let file = self.rig.begin("/f", 2);
        let publish = publish(self.rig.request(), file, "/f", &[]);
        let file = self.rig.get(publish).node.file_id;
        let open = self.open(self.last(file));
        self.mutate(open.handle, 7, 1000);
        self.send(SealFile {
            path: "/f".to_owned(),
        });
        let handle = open.handle;
        let (version, len) = self.sealed(handle).unwrap();
        let copy = self.servers.replicas[&(open.chain[0].server.0, handle)];
        self.servers.replicas.clear();
        for n in good {
            self.servers.replicas.insert((*n, handle), copy);
        }
        self.report_held(2, &[1, 2, 3, 4]);
        // Versions are drawn for the preparation, too.
        for n in 0..4 {
            self.sealed_file(&format!("/{n}"));
        }
        let older = (ChunkVersion(version.0 - 1), len);
        self.hold_prepared(left, handle, older, ChunkVersion(version.0 + 5));
        self.report_held(3, &[left]);
        (handle, version, file)
    }

    fn is_unavailable(&self, handle: ChunkHandle) -> bool {
        self.rig.machine.open_chunks.is_unavailable(handle)
    }
}

/// Members told what they had prepared while the cut was still on its way; its entry was refused since
/// the client had given the request up. Nobody told anything afterwards, and no good replica was left.
#[test]
fn what_was_prepared_for_an_entry_that_is_refused_is_sealed_again() {
    let mut play = Play::new();
    let (handle, members) = play.sealed_file("/f");
    let (old, _) = play.sealed(handle).unwrap();
    play.report_held(2, &members);
    play.servers.deaf.extend(members);
    let truncate = Truncate {
        request: play.rig.request(),
        path: "/f".to_owned(),
        size: 400,
    };
    let cuts = play.send(truncate);
    // They promise.
    let orders = std::mem::take(&mut play.unanswered);
    play.answer_late(orders);
    let mut orders = std::mem::take(&mut play.unanswered);
    assert_eq!(orders.len(), 3);
    let last = orders.split_off(2);
    play.answer_late(orders);
    play.report_held(3, &members);
    let folder = play.rig.make_folder("/other");
    assert!(matches!(play.ask(folder), Some(Ok(_))));
    play.servers.deaf.clear();
    let prepared = play.servers.replicas[&(members[0], handle)].version;
    assert!(prepared > old);
    play.answer_late(last);
    play.wait(seconds(1));
    assert!(matches!(play.replies.remove(&cuts), Some(Err(_))));
    let (version, len) = play.sealed(handle).unwrap();
    assert!(version > prepared, "the preparations are void");
    assert_eq!(len, 1000, "nothing was cut");
    let replicas = members.map(|n| play.servers.replicas[&(n, handle)].sealed);
    assert_eq!(replicas, [Some((version, 1000, 5711)); 3]);
}

/// One of the holders had prepared, and the disks of the others were replaced: what was left was no good
/// replica to be read or copied, and one holder is too few for anything else.
#[test]
fn the_only_holder_is_enough_to_seal_again_what_it_prepared() {
    let mut play = Play::new();
    let (handle, members, old) = play.prepared_by_the_first();
    let [first, second, third] = members;
    // The others have good copies, and answer no more until these are gone.
    play.servers.silent.extend([second, third]);
    play.report_held(2, &members);
    for n in [second, third] {
        play.servers.replicas.remove(&(n, handle));
    }
    let dead_after = settings().dead_after;
    play.wait(dead_after / 2);
    assert_eq!(play.sealed(handle).map(|it| it.0), Some(old));
    play.servers.silent.clear();
    play.report_held(3, &[second, third]);
    play.wait(dead_after / 4);
    assert_eq!(play.sealed(handle).map(|it| it.0), Some(old));
    play.wait(4 * dead_after);
    let (version, len) = play.sealed(handle).unwrap();
    assert!(version > old);
    assert_eq!(len, 1000);
    let replica = play.servers.replicas[&(first, handle)];
    assert_eq!(replica.sealed, Some((version, 1000, 5711)));
}

/// The other way round: as long as somebody has a good copy, few are not enough to make it stale.
#[test]
fn a_good_copy_that_can_be_read_is_not_made_stale_by_what_is_prepared() {
    let mut play = Play::new();
    let (handle, members, old) = play.prepared_by_the_first();
    let [_, second, third] = members;
    play.servers.replicas.remove(&(third, handle));
    // It has a good copy, and does not answer orders.
    play.servers.deaf.insert(second);
    play.report_held(2, &members);
    play.wait(20 * settings().dead_after);
    assert_eq!(play.sealed(handle).map(|it| it.0), Some(old));
    play.servers.deaf.clear();
    play.wait(20 * settings().dead_after);
    let (version, _) = play.sealed(handle).unwrap();
    assert!(version > old);
}

/// However many there are when a server comes back, few begin at a time, and all have their turn.
#[test]
fn of_many_that_are_left_prepared_few_begin_at_a_time() {
    let mut play = Play::new();
    let files: Vec<(ChunkHandle, [u64; 3])> = (0..40)
        .map(|n| play.sealed_file(&format!("/f{n}")))
        .collect();
    play.report_held(2, &[1, 2, 3, 4]);
    play.wait(seconds(5));
    let before: Vec<_> = files.iter().map(|(it, _)| play.sealed(*it)).collect();
    for (handle, members) in &files {
        play.prepare_in_vain(*handle, members);
    }
    let changed = |play: &Play| {
        let all = files.iter().zip(&before);
        all.filter(|((handle, _), before)| play.sealed(*handle) != **before)
            .count()
    };
    play.report_held(3, &[1, 2, 3, 4]);
    assert_eq!(changed(&play), 16);
    play.wait(settings().heartbeat);
    assert_eq!(changed(&play), 32);
    play.wait(3 * settings().heartbeat);
    assert_eq!(changed(&play), 40);
}

/// What differs comes right by a person's word only. It had its turn all the same, again and again, and others
/// waited for theirs.
#[test]
fn what_differs_takes_no_turn_from_others() {
    let mut play = Play::new();
    for n in 0..16 {
        let path = format!("/{n}");
        let (_, members) = play.sealed_file(&path);
        play.servers.differing.insert(members[0]);
        let truncate = Truncate {
            request: play.rig.request(),
            path,
            size: 400,
        };
        assert_eq!(play.refused(truncate), Status::Corrupt);
        play.servers.differing.clear();
    }
    let (handle, members) = play.sealed_file("/last");
    // Versions are drawn for what is prepared, too.
    play.sealed_file("/more");
    play.report_held(2, &[1, 2, 3, 4]);
    play.wait(seconds(5));
    let old = play.sealed(handle);
    play.prepare_in_vain(handle, &members);
    play.report_held(3, &[1, 2, 3, 4]);
    assert_ne!(play.sealed(handle), old);
}

/// Members beat all the time and were too slow to promise for a while. Of a file that is only read nobody
/// else asked, and they were never asked again.
#[test]
fn members_of_an_unavailable_chunk_that_can_be_heard_are_asked_again() {
    let mut play = Play::new();
    let (_, open) = play.unheard("/f");
    play.wait(3 * settings().dead_after);
    assert!(play.is_unavailable(open.handle), "it stays so meanwhile");
    play.servers.deaf.clear();
    play.wait(6 * settings().dead_after);
    assert!(!play.is_unavailable(open.handle));
    let record = play.rig.machine.state.chunks.record(open.handle).unwrap();
    assert!(record.version() > open.version);
    assert_eq!(record.losses.len(), 0);
}

#[test]
fn who_never_answers_is_asked_less_and_less_often() {
    let mut play = Play::new();
    let (_, open) = play.unheard("/f");
    play.wait(2 * settings().dead_after);
    assert!(play.is_unavailable(open.handle));
    play.promises();
    let counts = [(); 6].map(|()| {
        play.wait(32 * settings().dead_after);
        assert!(play.is_unavailable(open.handle));
        play.promises()
    });
    // An attempt asks three members, and again each `suspect_after` until `dead_after` is over.
    let one = 3 * 4;
    assert!(counts[0] > 2 * one, "{counts:?}");
    assert!(
        counts[2..].iter().all(|&it| 0 < it && it <= 3 * one),
        "{counts:?}"
    );
}

/// A copy that is older than the log's had been prepared for a loss that was accepted and not logged. It was
/// as good a holder as any there, and one of the good ones was left out for it: too few counted, each time.
#[test]
fn who_was_left_prepared_takes_no_good_holders_place() {
    for left in 1..=3 {
        let mut play = Play::new();
        let good: Vec<u64> = (1..=3).filter(|n| *n != left).collect();
        let (handle, old, file) = play.left_prepared_beside(left, &good);
        play.wait(seconds(1));
        let (version, len) = play.sealed(handle).unwrap();
        assert!(version.0 > old.0 + 5, "the preparation is void");
        assert_eq!(len, 1000);
        assert_eq!(play.open(play.last(file)).chain.len(), 2);
    }
}

/// With one good holder left and no other server the chunk could be neither opened nor copied: what was left
/// prepared is above the log's version, and no copy takes its place.
#[test]
fn one_holder_is_enough_if_nobody_else_can_take_a_copy() {
    let mut play = Play::new();
    let (handle, old, _) = play.left_prepared_beside(2, &[1]);
    play.servers.silent.extend([3, 4]);
    play.wait(settings().dead_after / 2);
    assert_eq!(play.sealed(handle).map(|it| it.0), Some(old));
    play.wait(20 * settings().dead_after);
    let (version, len) = play.sealed(handle).unwrap();
    assert!(version.0 > old.0 + 5, "the preparation is void");
    assert_eq!(len, 1000);
}

/// The CRC page of one of two replicas had rotted. Nothing but a beginning reads it, which was refused as often as
/// it was tried, some twelve times a second, and nobody made another copy (found by the simulator).
#[test]
fn a_holder_whose_replica_turns_out_to_be_damaged_when_it_is_to_begin_is_replaced() {
    let mut play = Play::new();
    let (_, file) = play.two_holders();
    let bad = *play.readers_are_sent_to(file).first().unwrap();
    play.servers.unbegun.insert(bad);
    play.servers.orders.clear();
    play.send(play.last(file));
    play.wait(seconds(8));
    assert_eq!(play.copies_ordered(), 1);
}

/// A write had failed in one of two replicas while the chunk was open, and its server reported the sealed form as
/// before. It refused each promise, one was too few to open the chunk, and nobody made another.
#[test]
fn a_holder_that_promises_nothing_for_good_is_replaced() {
    let mut play = Play::new();
    let (_, file) = play.two_holders();
    let holders = play.readers_are_sent_to(file);
    let bad = *holders.first().unwrap();
    play.servers.poisoned.insert(bad);
    play.servers.orders.clear();
    assert_eq!(play.refused(play.last(file)), Status::TooFewServers);
    play.wait(seconds(1));
    assert_eq!(play.copies_ordered(), 1);
    // Where nobody has a good one they are read as long as they can be.
    let mut play = Play::new();
    let (handle, file) = play.two_holders();
    let holders = play.readers_are_sent_to(file);
    play.servers.poisoned.extend(&holders);
    assert_eq!(play.refused(play.last(file)), Status::TooFewServers);
    assert!(!play.readers_are_sent_to(file).is_empty());
    assert!(play.sealed(handle).is_some());
}
