//! Only the last chunk takes records, also while a chunk is made behind it (`spec/replication.md` section 9).

use super::*;

impl Play {
    fn at(&self, file: FileId, index: u32) -> OpenChunk {
        OpenChunk {
            slot: Slot::At(index),
            ..self.last(file)
        }
    }

    /// Everybody answers what they were ordered, and what follows from that.
    fn answer_all(&mut self) {
        self.servers.deaf.clear();
        let unanswered = std::mem::take(&mut self.unanswered);
        self.answer_late(unanswered);
    }

    fn opened(&mut self, token: Token) -> ChunkOpened {
        match self.replies.remove(&token) {
            Some(Ok(AnyMessage::ChunkOpened(opened))) => opened,
            other => panic!("{other:?}"),
        }
    }
}

/// A chunk was open for records when somebody wrote three chunks further on. It went on taking records, and
/// acknowledged them: who read records in order and had gone on to the chunk behind never saw them.
#[test]
fn a_chunk_that_takes_records_is_sealed_before_one_is_made_behind_it() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    play.mutate(first.handle, 5, 700);
    assert_eq!(play.servers.closed, BTreeSet::new());
    let entries = play.rig.log.len();
    let behind = play.open(play.at(file, 3));
    assert_eq!(behind.index, 3);
    assert_eq!(play.sealed(first.handle).map(|it| it.1), Some(700));
    let logged = play.rig.log[entries..].iter().map(|it| &it.command);
    let logged: Vec<&str> = logged
        .map(|command| match command {
            Command::ChunkSealed(body) if body.handle == first.handle => "sealed",
            Command::ChunkActivated(body) if body.handle == behind.handle => "active",
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(logged, ["sealed", "active"]);
    assert_eq!(play.open(play.last(file)).handle, behind.handle);
    // Who wrote in it goes on there, and records find it full.
    play.tell(first.handle, file);
    assert_eq!(play.open(play.at(file, 0)).handle, first.handle);
    assert_eq!(play.servers.closed, BTreeSet::from([first.handle]));
}

/// Whoever wants to append and whoever writes behind want each other's chunk changed: neither is to wait
/// for the other without an end.
#[test]
fn who_appends_while_a_chunk_is_made_behind_goes_on_in_that_one() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.last(file));
    play.mutate(first.handle, 5, 700);
    play.servers.deaf.extend(1..=4);
    let writes = play.send(play.at(file, 3));
    let early = play.send(play.last(file));
    // It drains, promises and prepares.
    for _ in 0..3 {
        let orders = std::mem::take(&mut play.unanswered);
        play.answer_late(orders);
    }
    assert!(play.sealed(first.handle).is_some());
    let late = play.send(play.last(file));
    play.answer_all();
    let behind = play.opened(writes);
    assert_eq!(behind.index, 3);
    for token in [early, late] {
        assert_eq!(play.opened(token).handle, behind.handle);
    }
    assert_eq!(play.servers.closed, BTreeSet::new());
    assert!(play.sealed(first.handle).is_some(), "nobody wants it");
}

/// A writer opens the next chunk ahead of need: that is no reason to seal the one that it writes in.
#[test]
fn who_only_writes_goes_on_in_its_chunk_while_the_next_one_is_made() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.at(file, 0));
    play.mutate(first.handle, 5, 700);
    assert_eq!(play.servers.closed, BTreeSet::from([first.handle]));
    play.servers.orders.clear();
    let second = play.open(play.at(file, 1));
    let orders: Vec<&str> = play.servers.orders.iter().map(|it| it.1).collect();
    assert_eq!(orders, ["Begin", "Begin", "Begin", "GrantLease"]);
    assert_eq!(play.active(first.handle).version, first.version);
    // Trouble changes nothing of that.
    let [primary, blamed] = [0, 1].map(|at| second.chain[at].server.0);
    play.report(primary, &second, ChainTrouble::HopFailed, blamed);
    let closed = BTreeSet::from([first.handle, second.handle]);
    assert_eq!(play.servers.closed, closed);
    // Who appends has it opened for that, once, and it stays so.
    let then = play.active(second.handle).version;
    let for_records = play.open(play.last(file));
    assert_eq!(for_records.handle, second.handle);
    assert!(for_records.version > then);
    assert_eq!(play.servers.closed, BTreeSet::from([first.handle]));
    assert_eq!(play.open(play.last(file)).version, for_records.version);
    play.report(primary, &for_records, ChainTrouble::HopFailed, blamed);
    assert!(play.active(second.handle).version > for_records.version);
    assert_eq!(play.servers.closed, BTreeSet::from([first.handle]));
}

/// Nobody knows what the master before granted.
#[test]
fn what_another_master_opened_may_take_records() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.at(file, 0));
    play.mutate(first.handle, 5, 700);
    play.restart();
    let writes = play.send(play.at(file, 1));
    play.wait(seconds(1));
    let behind = play.opened(writes);
    assert_eq!(play.sealed(first.handle).map(|it| it.1), Some(700));
    assert_eq!(play.open(play.last(file)).handle, behind.handle);
}

/// A primary that takes no records since nobody asked for it to append says that it is full, to whoever comes
/// with one all the same: the chunk was sealed, and the record went to the next one, 64 MiB further on.
#[test]
fn what_never_took_records_is_not_full() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.at(file, 0));
    let primary = first.chain[0].server.0;
    play.report(primary, &first, ChainTrouble::Full, 0);
    assert_eq!(play.active(first.handle).version, first.version);
    let after = OpenChunk {
        slot: Slot::Last {
            after: first.handle,
        },
        ..play.last(file)
    };
    let then = play.open(after);
    assert_eq!(then.handle, first.handle);
    assert!(then.version > first.version);
    assert_eq!(play.servers.closed, BTreeSet::new());
    // Now it is.
    play.report(primary, &then, ChainTrouble::Full, 0);
    assert!(play.sealed(first.handle).is_some());
    assert_ne!(play.open(play.last(file)).handle, first.handle);
}

/// The master that granted it so had ended: the next one could not tell.
#[test]
fn what_another_master_opened_is_full_if_it_says_so_twice() {
    let mut play = Play::new();
    let file = play.touch("/f");
    let first = play.open(play.at(file, 0));
    let primary = first.chain[0].server.0;
    play.restart();
    play.wait(seconds(1));
    play.report(primary, &first, ChainTrouble::Full, 0);
    play.wait(seconds(1));
    assert_eq!(play.sealed(first.handle), None);
    let then = play.open(play.last(file));
    assert_eq!(then.handle, first.handle);
    assert!(then.version > first.version);
    assert_eq!(play.servers.closed, BTreeSet::new());
    play.report(primary, &then, ChainTrouble::Full, 0);
    assert!(play.sealed(first.handle).is_some());
}
