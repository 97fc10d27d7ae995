use std::sync::Mutex;

use sarsen_protocol::crc::crc32;
use sarsen_protocol::id::{Epoch, FileId, RequestId, ServerId, SessionId};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{
    Begin, Hop, Level, Mark, PrepareSeal, Promise, WriteBatch, WriteOpen,
};
use sarsen_protocol::size::piece_lens;
use sarsen_protocol::ticket::{Claims, Rights, Ticket};

use super::*;
use crate::core::member;
use crate::core::mutation::{Answer, Mutations, Order, Reply, StreamId};
use crate::core::tickets::TicketKeys;
use crate::store::journal::body::{self, Applied, Block, Body, Mutation, Place};
use crate::store::journal::{
    AppendError, Appender, Class, Entry, Extent, JournalLimits, JournalQueue, Log, QUEUE_LEN_MAX,
    Refused,
};
use crate::store::tests::faulty::FaultyTree;
use crate::store::tests::scenario::{ADOPTION, START, Sample};

const NOW: Duration = Duration::from_secs(1);

/// The stream of the hop before.
const UP: StreamId = StreamId(7);

/// A journal that writes when the test says so.
#[derive(Debug)]
struct Held(Mutex<JournalQueue>, Mutex<Appender>);

impl Log for Held {
    fn offer(&self, entry: Entry, class: Class) -> Result<u64, Refused> {
        self.0.lock().unwrap().offer(entry, class)
    }

    fn hurry(&self) {
        self.0.lock().unwrap().hurry();
    }

    fn extent(&self) -> Extent {
        self.0.lock().unwrap().extent().clone()
    }

    fn remove_oldest(&self, first_sequence: u64) {
        self.0.lock().unwrap().remove_oldest(first_sequence);
    }

    fn look_for_room(&self) {
        self.0.lock().unwrap().look_for_room();
    }
}

/// A worker of a sealed chunk, its directory, and the journal.
struct Scene {
    _folder: Option<tempfile::TempDir>,
    directory: Arc<Directory>,
    sample: Sample,
    worker: Worker,
    log: Arc<Held>,
}

fn scene() -> Scene {
    let folder = tempfile::tempdir().expect("a folder");
    let directory = Directory::open(&folder.path().join("d"), &START).expect("opens");
    Scene {
        _folder: Some(folder),
        ..scene_of(directory)
    }
}

fn scene_of(directory: Directory) -> Scene {
    directory.adopt(ADOPTION).expect("adopts");
    let sample = Sample::new(1, 100);
    sample.store(&directory, Level::Disk).expect("sealed");
    let mut log = None;
    let begun = directory.start_journal(JournalLimits::default(), |appender| {
        let queue = Mutex::new(JournalQueue::new(&appender));
        let held = Arc::new(Held(queue, Mutex::new(appender)));
        log = Some(Arc::clone(&held));
        Ok(held)
    });
    begun.expect("begun");
    let directory = Arc::new(directory);
    let key = SecretKey::new([0; 32]);
    let (server, _) = Chunkserver::new(key, vec![Arc::clone(&directory)]);
    let id = directory.identity().directory_id;
    server.register(TicketKeys::new(&[]), &[id], Duration::from_secs(3));
    let dead_after = Duration::from_secs(10);
    let worker = Worker::new(&server, Arc::clone(&directory), sample.handle, dead_after);
    Scene {
        _folder: None,
        directory,
        sample,
        worker,
        log: log.expect("made"),
    }
}

/// The chunk is open.
fn opened() -> Scene {
    let mut scene = scene();
    scene.promise();
    scene.sync();
    let _ = scene.turn();
    scene.open();
    scene
}

impl Scene {
    /// Takes a turn, and carries out what the machine wants of the disk; what else it wants.
    fn turn(&mut self) -> Vec<Action> {
        self.worker.take_turn(NOW);
        if let Some(mut work) = self.worker.start_lane(NOW) {
            while work.step(|| Ok(())) {}
            self.worker.handle_lane_done(NOW, work.done());
        }
        std::iter::from_fn(|| self.worker.poll_action()).collect()
    }

    /// Syncs the journal, and tells so.
    fn sync(&mut self) {
        let mut appender = self.log.1.lock().expect("whole");
        let written = JournalQueue::write_next(&self.log.0, &mut appender);
        let stable = written.expect("written").expect("something waited");
        self.worker.handle_journal(NOW, stable);
    }

    fn promise(&mut self) {
        let promised = self.worker.replica().member().promised();
        let promise = Promise {
            epoch: Epoch::NONE,
            handle: self.sample.handle,
            version: ChunkVersion(promised.0 + 5),
        };
        let order = Order::Change(member::Order::Promise(promise));
        self.worker.machine().handle_order(NOW, 1, order);
        assert_eq!(self.turn(), [], "the promise is not stable yet");
    }

    /// Begins what it promised, as the last of two; the hop before opens its stream.
    fn open(&mut self) {
        let member = self.worker.replica().member();
        let (version, serial, me) = (member.promised(), member.has().1, member.me());
        let begin = Begin {
            epoch: Epoch::NONE,
            handle: self.sample.handle,
            version,
            serial,
            start_number: me.start_number,
            directory_id: me.directory_id,
            memory: true,
            create: None,
        };
        let order = Order::Change(member::Order::Begin(begin));
        self.worker.machine().handle_order(NOW, 1, order);
        assert_eq!(self.turn(), [], "it is not stable yet");
        self.sync();
        assert!(matches!(self.turn()[..], [Action::Answer { .. }]));
        let claims = Claims {
            rights: Rights::WRITE,
            key_id: 1,
            handle: self.sample.handle,
            version,
            expiry: u64::MAX,
            file_id: FileId(1),
            session: SessionId::NONE,
            epoch: 0,
            chain_crc: 0,
        };
        let hop = |server| Hop {
            server,
            data_addr: "d:1".to_owned(),
        };
        let open = WriteOpen {
            ticket: Ticket::sign(claims, &SecretKey::new([0; 32])),
            handle: self.sample.handle,
            version,
            file_id: FileId(1),
            index: 0,
            room: 0,
            begin_serial: serial,
            lock_token: 0,
            level: Level::Memory,
            position: 1,
            chain: vec![hop(ServerId(99)), hop(me.server)],
        };
        self.worker.machine().handle_open(NOW, UP, open);
        let opened = Action::Send {
            stream: UP,
            reply: Reply::Opened,
        };
        assert_eq!(self.turn(), [opened]);
    }

    /// Writes of three bytes each, at these offsets, in one frame of the hop before.
    fn write_batch(&mut self, offsets: &[u32]) {
        let member = self.worker.replica().member();
        let ((version, serial), handle) = (member.has(), self.sample.handle);
        let bytes = b"abc";
        let rows = offsets.iter().zip(1..).map(|(&offset, number)| BatchRow {
            request: RequestId {
                session: SessionId(5),
                number,
                lowest_outstanding: 1,
            },
            kind: MutationKind::Write,
            offset,
            length: 3,
        });
        let batch = WriteBatch {
            handle,
            version,
            first_serial: Serial(serial.0 + 1),
            commit_mark: serial,
            part: None,
            level: Level::Memory,
            rows: rows.collect(),
            crcs: vec![crc32(bytes); offsets.len()],
        };
        let payload = Bytes::from(bytes.repeat(offsets.len()));
        let machine = self.worker.machine();
        machine.handle_batch(NOW, UP, batch, payload);
    }
}

#[test]
fn a_promise_is_answered_when_it_is_stable() {
    let mut scene = scene();
    scene.promise();
    scene.sync();
    let answered = scene.turn();
    assert!(
        matches!(&answered[..], [Action::Answer { to: 1, answer }] if answer.is_ok()),
        "{answered:?}"
    );
    scene.worker.handle_changed();
    assert!(!scene.worker.is_overtaken(), "it is what it was");
}

/// Of a batch that stopped half-way nothing was said of what was applied before: the next promise waited
/// for that for ever, and so did every change of the chunk, until the server was started anew.
#[test]
fn a_batch_that_stops_half_way_holds_up_no_promise() {
    let mut scene = opened();
    let (_, begin) = scene.worker.replica().member().has();
    // The third lies behind the chunk.
    scene.write_batch(&[100, 103, ADOPTION.chunk_size, 106]);
    let _ = scene.turn();
    let ended = scene.turn();
    let ends = |action: &Action| *action == Action::EndStream(UP);
    assert!(
        ended.iter().any(ends),
        "a serial is never skipped: {ended:?}"
    );
    scene.promise();
    scene.sync();
    let answered = scene.turn();
    let [Action::Answer { answer, .. }] = &answered[..] else {
        panic!("{answered:?}");
    };
    let Ok(Answer::Change(member::Answer::Promised(promised))) = **answer else {
        panic!("{answer:?}");
    };
    assert_eq!(
        (promised.serial, promised.length),
        (Serial(begin.0 + 2), 106)
    );
}

/// The medium did not give a block that a seal was to be made of. The member answered each promise with
/// `poisoned` from then on, and its inventory told the chunk without a mark, so that nothing came in its place
/// (found by the simulator).
#[test]
fn what_is_not_believed_any_more_is_told_as_poisoned() {
    let tree = Arc::new(FaultyTree::new());
    let opened = Directory::open_tree(Arc::clone(&tree) as _, &START);
    let mut scene = scene_of(opened.expect("opens"));
    scene.promise();
    scene.sync();
    let _ = scene.turn();
    scene.open();
    scene.write_batch(&[100]);
    let _ = scene.turn();
    scene.worker.machine().handle_stream_gone(NOW, UP);
    let _ = scene.turn();
    scene.promise();
    scene.sync();
    let _ = scene.turn();
    let handle = scene.sample.handle;
    let member = scene.worker.replica().member();
    let prepare = PrepareSeal {
        epoch: Epoch::NONE,
        handle,
        version: member.promised(),
        serial: member.has().1,
        start_number: member.me().start_number,
        // Cut off, so that its bytes are copied.
        length: Some(50),
        sessions_end: SessionId(1),
    };
    let order = Order::Change(member::Order::PrepareSeal(prepare));
    scene.worker.machine().handle_order(NOW, 1, order);
    assert_eq!(scene.turn(), [], "it is not begun yet");
    scene.sync();
    assert!(scene.worker.has_changed());
    tree.lose_sector(&format!("chunks/{:02x}/{handle}.chunk", handle.0), 8192);
    let told = |directory: &Directory| directory.entry(handle).expect("held").flags.poisoned;
    assert_eq!(scene.turn(), []);
    let refused = scene.turn();
    assert!(
        matches!(&refused[..], [Action::Answer { answer, .. }]
            if matches!(&**answer, Err((Status::MediumFailed, _)))),
        "{refused:?}"
    );
    assert!(scene.worker.has_changed() && told(&scene.directory));
    // No sync failed: the next start may find the medium better.
    tree.find_sectors();
    let found = Directory::open_tree(Arc::new(tree.after_kill()), &START).expect("opens");
    assert!(!told(&found) && found.open_chunk(handle).is_some());
}

/// A read that came in one batch with a commit mark was let in by what the machine knew, and served what the
/// store did, which heard of the mark in the turn behind: its reader did not see its own write.
#[test]
fn a_read_behind_a_commit_mark_finds_what_it_was_let_in_for() {
    let mut scene = opened();
    let (version, begin) = scene.worker.replica().member().has();
    scene.write_batch(&[100, 103]);
    let _ = scene.turn();
    let mark = Mark {
        handle: scene.sample.handle,
        version,
        commit_mark: Serial(begin.0 + 2),
        number: 0,
    };
    scene.worker.machine().handle_mark(NOW, UP, &mark);
    let read = scene.worker.read(NOW, version, mark.commit_mark);
    let Ok(Readable::Open(snapshot)) = read else {
        panic!("{read:?}");
    };
    assert_eq!(
        (snapshot.serial, snapshot.length()),
        (mark.commit_mark, 106)
    );
}

/// What a batch had applied before one that found no place needed a sync that nobody began: nothing was
/// committed any more, so that no place became free.
#[test]
fn what_stands_before_one_without_a_place_is_flushed() {
    let mut scene = opened();
    let (version, begin) = scene.worker.replica().member().has();
    scene.write_batch(&[100, 103]);
    scene.worker.take_turn(NOW);
    let mut work = scene.worker.start_lane(NOW).expect("a batch");
    let again = Outcome::Again {
        action: work.queue.pop_front().expect("the batch"),
        wants: Wants::Place { sequence: 0 },
        applied: (version, Serial(begin.0 + 1)),
    };
    let done = LaneDone {
        lane: Some(work.lane),
        outcomes: vec![again],
        rest: work.queue,
    };
    scene.worker.handle_lane_done(NOW, done);
    assert!(scene.worker.start_flush(NOW + FLUSH_DELAY));
}

/// That something else was done to the chunk was looked at once, and forgotten if a step waited for the
/// journal at that moment: a chunk that was deleted meanwhile was promised all the same, and one that
/// was open went on being read from what was known of it.
#[test]
fn what_is_deleted_while_its_promise_waits_is_not_promised() {
    let mut scene = scene();
    scene.promise();
    let order = (scene.sample.handle, scene.sample.version);
    let deleted = scene.directory.delete(&[order]);
    assert!(deleted[0].is_ok(), "{deleted:?}");
    scene.worker.handle_changed();
    assert!(!scene.worker.is_overtaken(), "a step is under way");
    scene.sync();
    assert!(scene.worker.is_overtaken());
    assert_eq!(scene.turn(), [], "nothing is told of what is gone");
}

/// A replica at rest of which a write had failed was replaced by a good copy: every change of the chunk was
/// refused as before, until the server was started anew (found by the simulator).
#[test]
fn what_had_failed_is_forgotten_when_a_copy_takes_its_place() {
    let mut scene = scene();
    let machine = scene.worker.machine();
    machine.handle_failed(NOW, Status::Poisoned, "a sector is gone", true);
    assert_eq!(scene.turn(), []);
    let mut newer = Sample::new(scene.sample.handle.0, 100);
    newer.version = ChunkVersion(scene.sample.version.0 + 1);
    newer.copy(&scene.directory).expect("copied");
    scene.worker.handle_changed();
    assert!(scene.worker.is_overtaken());
}

/// While the journal was full, a flush that somebody waited for began again as soon as it was over: a
/// thread of the processor's for nothing, until a segment was free.
#[test]
fn a_flush_that_the_journal_has_no_room_for_is_tried_again_after_a_while() {
    let mut flush = Flush {
        is_needed: true,
        is_wanted: true,
        ..Flush::default()
    };
    assert!(flush.start(NOW) && !flush.start(NOW));
    assert_eq!(flush.deadline(), None);
    flush.is_running = false;
    flush.handle_no_room(NOW);
    flush.bytes = UNSYNCED_BYTES_MAX;
    let again = NOW + RETRY_DELAY;
    assert_eq!(flush.deadline(), Some(again));
    assert!(!flush.start(again - Duration::from_millis(1)));
    assert!(flush.start(again));
    flush.is_running = false;
    assert_eq!(flush.deadline(), None, "nothing is needed");
}

/// A mutation that found no place was tried again at once when the checkpoint was stable that had
/// freed none, and each try took another checkpoint.
#[test]
fn what_found_no_place_waits_for_a_checkpoint_or_for_a_while() {
    let due = NOW + RETRY_DELAY;
    let waits = Again {
        sequence: Some(7),
        due,
    };
    assert!(waits.is_held(NOW, 6) && !waits.is_held(NOW, 7) && !waits.is_held(due, 6));
    let rests = Again {
        sequence: None,
        due,
    };
    assert!(rests.is_held(NOW, 99) && !rests.is_held(due, 6));
}

/// What found no descriptor was taken for a disk that can't be believed: the member took no order any more
/// until its server was started anew, while its replica was told to be good.
#[test]
fn want_of_memory_leaves_no_doubt() {
    let tree = Arc::new(FaultyTree::new());
    let directory = Directory::open_tree(Arc::clone(&tree) as _, &START).expect("opens");
    directory.adopt(ADOPTION).expect("adopts");
    let sample = Sample::new(1, 100);
    sample.store(&directory, Level::Disk).expect("sealed");
    let begun = directory.start_journal(JournalLimits::default(), |appender| {
        let queue = Mutex::new(JournalQueue::new(&appender));
        Ok(Arc::new(Held(queue, Mutex::new(appender))))
    });
    begun.expect("begun");
    let version = ChunkVersion(sample.version.0 + 5);
    let lane = Lane::new(Arc::new(directory), sample.handle);
    let promise = || Action::KeepPromise {
        version,
        epoch: Epoch::NONE,
    };
    let begin = || Action::Begin {
        version,
        serial: Serial(0),
        memory: true,
    };
    assert!(matches!(
        lane.carry_out(promise()),
        Outcome::WhenStable { .. }
    ));
    tree.be_short_of_memory_for(Some("chunks/"));
    let Outcome::Failed(failure) = lane.carry_out(begin()) else {
        panic!("there is no memory");
    };
    assert_eq!(
        (failure.status, failure.is_in_doubt),
        (Status::Overloaded, false)
    );
    tree.be_short_of_memory_for(None);
    assert!(matches!(
        lane.carry_out(begin()),
        Outcome::WhenStable { .. }
    ));
}

/// While the journal was behind, every mutation was kept for it in memory and said to be applied: where
/// acks at `memory` do nothing slowed down who sent them.
#[test]
fn mutations_wait_for_a_journal_that_is_behind() {
    let scene = opened();
    let another = |number: u64| {
        let bytes = vec![0; 30_000];
        let mutation = Mutation {
            request: None,
            kind: body::MutationKind::Append,
            has_gap: false,
            has_bytes: true,
            offset: 0,
            length: 30_000,
            crc32: crc32(&bytes),
            blocks: vec![Block {
                place: Place::OwnRoom,
                crc32: 7,
            }],
        };
        let body = Body::Applied(Applied {
            first_serial: Serial(number),
            commit_mark: Serial::NONE,
            mutations: vec![mutation],
            bytes,
        });
        Entry::new(ChunkHandle(99), ChunkVersion(1), &body)
    };
    let mut others = (1..).map(|number| scene.log.offer(another(number), Class::Mutation));
    let refused = others.find_map(Result::err).expect("it is full in the end");
    assert_eq!(refused.error, AppendError::Full);
    let lane = Lane::new(Arc::clone(&scene.directory), scene.sample.handle);
    let (version, begin) = scene.worker.replica().member().has();
    let (bytes, mut offset) = (vec![7; 30_000], 100);
    let mut append = |serial: Serial| {
        let row = BatchRow {
            request: RequestId {
                session: SessionId(5),
                number: serial.0,
                lowest_outstanding: 1,
            },
            kind: MutationKind::Append,
            offset,
            length: 30_000,
        };
        let lens = piece_lens(offset, 30_000);
        offset += 30_000;
        let mut rest = &bytes[..];
        let crcs = lens.map(|len| {
            let (piece, later) = rest.split_at(len as usize);
            rest = later;
            crc32(piece)
        });
        Action::Apply(Mutations {
            version,
            first: serial,
            rows: vec![row],
            crcs: crcs.collect(),
            payload: vec![Bytes::from(bytes.clone())],
        })
    };
    let mut serial = begin;
    let applied = std::iter::from_fn(|| {
        serial.0 += 1;
        match lane.carry_out(append(serial)) {
            Outcome::Applied { .. } => Some(serial),
            Outcome::Again { applied, .. } => {
                assert_eq!(applied, (version, Serial(serial.0 - 1)));
                None
            }
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(applied.take(30).count(), QUEUE_LEN_MAX / 32 / 30_000 + 1);
}
