//! The journal's promises (`spec/journal.md` sections 5 and 9): what was told to be stable is found
//! again after every crash, and what the medium spoils is never taken for an older state.

use std::sync::{Arc, Mutex, mpsc};

use sarsen_protocol::crc::crc32;
use sarsen_protocol::id::{
    ChunkHandle, ChunkVersion, ClusterId, DirectoryId, Epoch, FileId, Serial, StartNonce,
    StartNumber,
};

use super::super::error::StoreError;
use super::super::journal::body::{
    Applied, Base, Begun, Block, Body, Mutation, MutationKind, Place, Promised,
};
use super::super::journal::entry::{HEADER_LEN, Link, encode_mark};
use super::super::journal::segment::{JOURNAL_FOLDER, SEGMENT_START, segment_path};
use super::super::journal::{
    AppendError, Appender, Author, Class, Entry, GATHERED_MAX, JournalEnd, JournalError,
    JournalEvent, JournalLimits, JournalQueue, JournalReader, JournalWriter, named_chunks, settle,
};
use super::super::region::{FileTree, Tree};
use super::faulty::{Faults, FaultyTree, Survives};
use super::heap::HeapTree;

const CLUSTER: ClusterId = ClusterId([3; 16]);
const DIRECTORY: DirectoryId = DirectoryId([4; 16]);
const SECTOR: usize = 512;

/// So small that a handful of entries fill a segment.
const LIMITS: JournalLimits = JournalLimits {
    segment_len: 32 * 1024,
    grow_step: 8 * 1024,
};

fn author(start: u64) -> Author {
    Author {
        cluster_id: CLUSTER,
        directory_id: DIRECTORY,
        start_number: StartNumber(start),
        start_nonce: StartNonce(0x5eed_0000 + start),
    }
}

fn applied(serial: u64, bytes: Vec<u8>) -> Body {
    let length = u32::try_from(bytes.len()).unwrap();
    Body::Applied(Applied {
        first_serial: Serial(serial),
        commit_mark: Serial(serial - 1),
        mutations: vec![Mutation {
            request: None,
            kind: MutationKind::Append,
            has_gap: false,
            has_bytes: true,
            offset: 0,
            length,
            crc32: crc32(&bytes),
            blocks: vec![Block {
                place: Place::OwnRoom,
                crc32: 7,
            }],
        }],
        bytes,
    })
}

/// The `number`th entry of every workload here: all sizes, so that edges of sectors, pages and
/// segments lie everywhere in entries.
fn sample(number: u64) -> Entry {
    let body = match number % 5 {
        0 => Body::Promised(Promised {
            promised_version: ChunkVersion(number),
            epoch: Epoch::NONE,
        }),
        1 => Body::Begun(Begun {
            serial: Serial(number),
            memory: true,
            base: Base::Made,
            file_id: FileId(1),
            index: 2,
        }),
        _ => {
            let len = [1, 313, 700, 1800, 4096, 5000][usize::try_from(number % 6).unwrap()];
            applied(number, (0..len).map(|at| (at % 251) as u8 ^ 0x55).collect())
        }
    };
    Entry::new(ChunkHandle(number % 3 + 1), ChunkVersion(9), &body)
}

/// What a start finds; settled, with a new segment begun, if `tree` lets it.
struct Opened {
    entries: Vec<Entry>,
    end: JournalEnd,
    appender: Appender,
}

fn read(tree: &dyn Tree) -> Result<(Vec<Entry>, JournalEnd), JournalError> {
    let mut reader = JournalReader::open(tree, CLUSTER, DIRECTORY)?;
    let mut entries = Vec::new();
    let mut last = 0;
    while let Some(found) = reader.next_entry()? {
        assert!(last == 0 || found.sequence == last + 1, "no gaps");
        last = found.sequence;
        entries.push(Entry::new(found.handle, found.version, &found.body));
    }
    Ok((entries, reader.finish()))
}

fn open(tree: &Arc<dyn Tree>, start: u64) -> Result<Opened, JournalError> {
    if tree.make_folder(JOURNAL_FOLDER).is_err() || tree.sync_folder("").is_err() {
        return Err(JournalError::Failed);
    }
    let (entries, end) = read(&**tree)?;
    settle(&**tree, &end)?;
    let appender = Appender::begin(Arc::clone(tree), LIMITS, author(start), &end)?;
    Ok(Opened {
        entries,
        end,
        appender,
    })
}

/// Two starts, each with batches of some entries and a mark here and there. Gives how many entries
/// were told to be stable, be it to whoever wrote them or by a start.
fn run_workload(tree: &Arc<dyn Tree>) -> u64 {
    let mut told = 0;
    for start in 1..=2 {
        let Ok(mut opened) = open(tree, start) else {
            return told;
        };
        told = told.max(opened.appender.stable());
        let mut next = opened.appender.stable() + 1;
        for batch in [1, 3, 2, 7, 4, 1] {
            let entries: Vec<Entry> = (next..next + batch).map(sample).collect();
            next += batch;
            match opened.appender.append(&entries) {
                Ok(stable) => told = stable,
                Err(_) => break,
            }
            if batch % 2 == 1 && opened.appender.mark().is_err() {
                break;
            }
        }
    }
    told
}

/// The journal holds the first entries of the workload, and at least `told` of them.
fn assert_holds(tree: &dyn Tree, told: u64, story: &str) -> u64 {
    let (entries, end) = read(tree).unwrap_or_else(|error| panic!("{story}: {error}"));
    for (number, entry) in (1..).zip(&entries) {
        assert_eq!(entry, &sample(number), "{story}: entry {number}");
    }
    let found = entries.len() as u64;
    assert_eq!(end.last.sequence, found, "{story}");
    assert!(found >= told, "{story}: {found} entries of {told}");
    found
}

#[test]
fn a_journal_comes_back_over_every_tree() {
    let folder = tempfile::tempdir().unwrap();
    let trees: [Arc<dyn Tree>; 3] = [
        Arc::new(HeapTree::new()),
        Arc::new(FaultyTree::new()),
        Arc::new(FileTree::lock(folder.path()).unwrap()),
    ];
    for tree in trees {
        assert_eq!(run_workload(&tree), 36);
        assert_eq!(assert_holds(&*tree, 36, "written"), 36);
        let opened = open(&tree, 3).unwrap();
        assert_eq!((opened.entries.len(), opened.appender.stable()), (36, 36));
        assert_eq!(opened.end.torn_tail, None);
        assert!(opened.appender.has_reserve());
        assert!(opened.appender.segments().count() > 3);
    }
}

#[test]
fn starts_that_write_nothing_leave_one_empty_segment() {
    let tree: Arc<dyn Tree> = Arc::new(HeapTree::new());
    run_workload(&tree);
    let counts = [3, 4, 5].map(|start| open(&tree, start).unwrap().appender.segments().count());
    assert_eq!(counts[0], counts[2]);
    assert_holds(&*tree, 36, "after empty starts");
}

/// One bad sector or page of the medium, wherever it is, is found or takes nothing.
#[test]
fn no_spoiled_sector_makes_an_older_state() {
    let heap = Arc::new(HeapTree::new());
    let tree: Arc<dyn Tree> = heap.clone();
    let told = run_workload(&tree);
    let segments = list(&heap);
    let mut damaged = 0;
    for (&len, segment) in [SECTOR, 4096]
        .iter()
        .flat_map(|len| segments.iter().map(move |segment| (len, segment)))
    {
        let region = heap.find(segment).unwrap();
        let whole = region.bytes.lock().unwrap().clone();
        for at in (0..whole.len()).step_by(len) {
            for content in [0, 0xff] {
                region.bytes.lock().unwrap()[at..at + len].fill(content);
                match read(&*tree) {
                    Ok((entries, _)) => {
                        let story = format!("{segment} at {at}, {len} bytes of {content}");
                        assert_eq!(entries.len() as u64, told, "{story}");
                    }
                    Err(JournalError::Damaged(damage)) => {
                        damaged += 1;
                        assert_eq!(&damage.file, segment);
                    }
                    Err(other) => panic!("{other}"),
                }
                region.bytes.lock().unwrap().clone_from(&whole);
            }
        }
    }
    assert!(damaged > 200, "{damaged}");
}

fn list(heap: &HeapTree) -> Vec<String> {
    let names = heap.list(JOURNAL_FOLDER).unwrap();
    names
        .iter()
        .filter(|name| name.ends_with(".journal"))
        .map(|name| format!("{JOURNAL_FOLDER}/{name}"))
        .collect()
}

/// A segment that is missing in the middle, or that is another directory's, is damage.
#[test]
fn segments_that_do_not_follow_are_damage() {
    let heap = Arc::new(HeapTree::new());
    let tree: Arc<dyn Tree> = heap.clone();
    run_workload(&tree);
    let segments = list(&heap);
    for segment in &segments[1..segments.len() - 1] {
        heap.rename(segment, "away").unwrap();
        assert!(matches!(read(&*tree), Err(JournalError::Damaged(_))));
        heap.rename("away", segment).unwrap();
    }
    let mut reader = JournalReader::open(&*tree, CLUSTER, DirectoryId([5; 16])).unwrap();
    assert!(matches!(reader.next_entry(), Err(JournalError::Damaged(_))));
    // The chunks that it names are known all the same.
    heap.find(&segments[1]).unwrap().bytes.lock().unwrap()[..SECTOR].fill(0);
    let named: Vec<u64> = named_chunks(&*tree, DIRECTORY)
        .unwrap()
        .iter()
        .map(|handle| handle.0)
        .collect();
    assert_eq!(named, [1, 2, 3]);
}

/// Power cuts to try at one place, different ones at each.
fn power_cuts(place: usize) -> impl Iterator<Item = Survives> {
    let seed = place as u64 * 16;
    let sectors = (seed..seed + 4).map(|seed| Survives::Sectors { seed });
    let torn = (seed + 8..seed + 10).map(|seed| Survives::TornSectors { seed });
    [Survives::Nothing, Survives::Everything]
        .into_iter()
        .chain(sectors)
        .chain(torn)
}

/// What a crash leaves: everything told, and it stays so through a start and another crash.
fn assert_survives(after: FaultyTree, told: u64, story: &str) {
    let after = Arc::new(after);
    assert_holds(&*after, told, story);
    let tree: Arc<dyn Tree> = after.clone();
    tree.sync_all().unwrap();
    let told_now = open(&tree, 7)
        .unwrap_or_else(|error| panic!("{story}: {error}"))
        .appender
        .stable();
    assert!(told_now >= told, "{story}");
    let again = after.after_power_cut(Survives::Nothing);
    assert_eq!(assert_holds(&again, told_now, story), told_now, "{story}");
}

#[test]
fn everything_told_is_there_after_a_crash_at_any_step() {
    let whole = Arc::new(FaultyTree::new());
    let tree: Arc<dyn Tree> = whole.clone();
    run_workload(&tree);
    let steps = whole.counts().steps;
    assert!(steps >= 58, "{steps}");
    for stop in 0..=steps {
        let faulty = Arc::new(FaultyTree::with(Faults {
            stop_at: Some(stop),
            ..Faults::default()
        }));
        let tree: Arc<dyn Tree> = faulty.clone();
        let told = run_workload(&tree);
        assert_survives(faulty.after_kill(), told, &format!("killed at {stop}"));
        for survives in power_cuts(stop) {
            let story = format!("power cut at {stop}, {survives:?}");
            assert_survives(faulty.after_power_cut(survives), told, &story);
        }
    }
}

/// After a failed sync the kernel shows pages and calls them clean that never reached the disk. A
/// start that believed them told a serial that the next power cut took back.
#[test]
fn a_failed_sync_takes_nothing_back_that_was_told() {
    let whole = Arc::new(FaultyTree::new());
    let tree: Arc<dyn Tree> = whole.clone();
    run_workload(&tree);
    for fail in 0..whole.counts().syncs {
        let faulty = Arc::new(FaultyTree::with(Faults {
            fail_sync: Some(fail),
            ..Faults::default()
        }));
        let tree: Arc<dyn Tree> = faulty.clone();
        let told = run_workload(&tree);
        assert_survives(
            faulty.after_kill(),
            told,
            &format!("sync {fail} failed, killed"),
        );
        for survives in power_cuts(fail) {
            let story = format!("sync {fail} failed, power cut, {survives:?}");
            assert_survives(faulty.after_power_cut(survives), told, &story);
        }
    }
}

/// An appender that failed writes nothing more, whatever it is given.
#[test]
fn nothing_is_written_after_a_failure() {
    let faulty = Arc::new(FaultyTree::with(Faults {
        fail_sync: Some(5),
        ..Faults::default()
    }));
    let tree: Arc<dyn Tree> = faulty.clone();
    let mut opened = open(&tree, 1).unwrap();
    let mut number = 1;
    while opened.appender.append(&[sample(number)]).is_ok() {
        number += 1;
    }
    let steps = faulty.counts().steps;
    for _ in 0..2 {
        let again = opened.appender.append(&[sample(number)]);
        assert!(matches!(again, Err(JournalError::Failed)));
        assert!(matches!(opened.appender.mark(), Err(JournalError::Failed)));
    }
    assert_eq!(faulty.counts().steps, steps);
}

/// A full disk: the segment whose room was reserved is filled all the same, and the one after it.
#[test]
fn a_full_disk_leaves_a_segment_to_go_on_with() {
    let faulty = Arc::new(FaultyTree::new());
    let tree: Arc<dyn Tree> = faulty.clone();
    let mut opened = open(&tree, 1).unwrap();
    faulty.fill();
    let mut number = 1;
    while opened.appender.has_reserve() {
        opened.appender.append(&[sample(number)]).unwrap();
        number += 1;
    }
    assert_eq!(opened.appender.segments().count(), 2);
    opened.appender.append(&[sample(number)]).unwrap();
    assert_holds(&*tree, number, "on a full disk");
}

/// The room that was set apart for a full disk was given back by the next start, which wanted as much anew
/// and twice: with open chunks and a full disk no version of them could be begun any more.
#[test]
fn a_start_on_a_full_disk_goes_on_in_the_room_that_was_set_apart() {
    let faulty = Arc::new(FaultyTree::new());
    let tree: Arc<dyn Tree> = faulty.clone();
    let mut opened = open(&tree, 1).unwrap();
    opened.appender.append(&[sample(1)]).unwrap();
    drop(opened);
    faulty.fill();
    let mut opened = open(&tree, 2).unwrap();
    assert!(!opened.appender.has_reserve());
    opened.appender.append(&[sample(2)]).unwrap();
    assert_holds(&*tree, 2, "on a full disk");
    drop(opened);
    // Nothing is left for a third.
    let refused = open(&tree, 3).map(|opened| opened.entries);
    assert!(
        matches!(
            refused,
            Err(JournalError::Store(StoreError::NoSpace { .. }))
        ),
        "{refused:?}"
    );
    faulty.empty();
    let opened = open(&tree, 3).unwrap();
    assert!(opened.appender.has_reserve());
    assert_holds(&*tree, 2, "with room again");
}

/// Where that one is full too nothing is written, and nothing is lost: all goes on when there is room.
#[test]
fn what_a_full_disk_has_no_room_for_is_written_when_it_has() {
    let faulty = Arc::new(FaultyTree::new());
    let tree: Arc<dyn Tree> = faulty.clone();
    let mut appender = open(&tree, 1).unwrap().appender;
    let queue = Mutex::new(JournalQueue::new(&appender));
    let offer = |number, class| queue.lock().unwrap().offer(sample(number), class);
    let mut write = || JournalQueue::write_next(&queue, &mut appender).unwrap();
    faulty.fill();

    let (mut offered, mut stable) = (0, 0);
    let mut refused = None;
    // What ends mutations is taken as before, in batches of several so that one is cut.
    while stable == offered {
        for _ in 0..5 {
            let class = match refused {
                None => Class::Mutation,
                Some(_) => Class::Control,
            };
            match offer(offered + 1, class) {
                Ok(sequence) => offered = sequence,
                Err(error) => refused = Some(error.error),
            }
        }
        stable = write().expect("something was written");
    }
    assert_eq!(refused, Some(AppendError::Full));
    assert!(!queue.lock().unwrap().has_work());
    assert_eq!(offer(offered + 1, Class::Control).unwrap(), offered + 1);
    assert_eq!(write(), None);
    queue.lock().unwrap().look_for_room();
    assert!(queue.lock().unwrap().has_work());
    assert_eq!(write(), None, "the disk is full still");
    assert!(!queue.lock().unwrap().has_work());
    assert_holds(&*tree, stable, "on a full disk");

    faulty.empty();
    queue.lock().unwrap().look_for_room();
    assert_eq!(write(), None, "it is seen that there is room");
    assert_eq!(write(), Some(offered + 1));
    assert_eq!(offer(offered + 2, Class::Mutation).unwrap(), offered + 2);
    assert_eq!(write(), Some(offered + 2));
    let (entries, _) = read(&*tree).unwrap();
    let expected: Vec<Entry> = (1..=offered + 2).map(sample).collect();
    assert_eq!(entries, expected);
}

/// What a client writes may look like anything of ours but for the nonce, which it never learns:
/// here a mark that would make damage of a torn tail.
#[test]
fn what_a_client_writes_is_not_taken_for_proof() {
    let heap = Arc::new(HeapTree::new());
    let tree: Arc<dyn Tree> = heap.clone();
    let mut opened = open(&tree, 1).unwrap();
    let link = Link {
        sequence: 1000,
        stable: 999,
        before_crc: 0,
    };
    let forged = encode_mark(&link, &author(2));
    opened.appender.append(&[sample(1)]).unwrap();
    let torn = Entry::new(
        ChunkHandle(1),
        ChunkVersion(1),
        &applied(1, forged.repeat(20)),
    );
    opened.appender.append(&[torn]).unwrap();
    let path = segment_path(1);
    let position = usize::try_from(SEGMENT_START).unwrap()
        + sample(1).body.len().next_multiple_of(8)
        + HEADER_LEN;
    heap.find(&path).unwrap().bytes.lock().unwrap()[position] ^= 1;
    let (entries, end) = read(&*tree).unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(end.torn_tail.unwrap().location.position, position as u64);
    // With the nonce it would be proof.
    let known = encode_mark(&link, &author(1));
    let region = heap.find(&path).unwrap();
    region.bytes.lock().unwrap()[position + 800..][..HEADER_LEN].copy_from_slice(&known);
    assert!(matches!(read(&*tree), Err(JournalError::Damaged(_))));
}

/// An entry whose CRCs are right and whose body is not was never torn.
#[test]
fn a_whole_entry_that_says_nothing_known_is_damage() {
    for (kind, body) in [(8, vec![]), (1, vec![0; 7])] {
        let tree: Arc<dyn Tree> = Arc::new(HeapTree::new());
        let mut opened = open(&tree, 1).unwrap();
        let strange = Entry {
            kind,
            body,
            ..sample(1)
        };
        opened.appender.append(&[sample(1), strange]).unwrap();
        assert!(matches!(read(&*tree), Err(JournalError::Damaged(_))));
    }
}

#[test]
fn the_oldest_segments_go_and_the_rest_is_read() {
    let tree: Arc<dyn Tree> = Arc::new(HeapTree::new());
    run_workload(&tree);
    let mut opened = open(&tree, 3).unwrap();
    let second = opened.appender.segments().nth(1).unwrap();
    opened.appender.remove_oldest().unwrap();
    let (entries, end) = read(&*tree).unwrap();
    assert_eq!(entries.len() as u64, 36 - (second - 1));
    assert_eq!(end.last.sequence, 36);
    // The one that is written stays.
    while opened.appender.segments().count() > 1 {
        opened.appender.remove_oldest().unwrap();
    }
    opened.appender.remove_oldest().unwrap();
    assert_eq!(opened.appender.append(&[sample(37)]).unwrap(), 37);
}

fn start_writer(tree: &Arc<dyn Tree>) -> (JournalWriter, mpsc::Receiver<JournalEvent>) {
    let (told, events) = mpsc::channel();
    let appender = open(tree, 1).unwrap().appender;
    let notify = move |event| drop(told.send(event));
    (JournalWriter::start(appender, notify).unwrap(), events)
}

/// Entries of several threads get sequences in the order in which they are written, and all of
/// them are told to be stable.
#[test]
fn the_thread_commits_what_many_hand_over() {
    let tree: Arc<dyn Tree> = Arc::new(HeapTree::new());
    let (writer, events) = start_writer(&tree);
    let handed_over: Vec<(u64, Entry)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let writer = &writer;
                scope.spawn(move || {
                    let numbers = thread * 50 + 1..=thread * 50 + 50;
                    let append = |number| {
                        let entry = sample(number);
                        let sequence = writer.append(entry.clone(), Class::Mutation).unwrap();
                        (sequence, entry)
                    };
                    numbers.map(append).collect::<Vec<_>>()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    drop(writer);
    let stable: Vec<u64> = events
        .iter()
        .map(|event| match event {
            JournalEvent::Stable(sequence) => sequence,
            JournalEvent::Failed(error) => panic!("{error}"),
        })
        .collect();
    assert!(stable.is_sorted());
    assert_eq!(stable.last(), Some(&200));
    let (entries, _) = read(&*tree).unwrap();
    for (sequence, entry) in handed_over {
        assert_eq!(entries[usize::try_from(sequence).unwrap() - 1], entry);
    }
}

/// A batch is due when somebody waits for what is in it, or when it is long; nothing that is gathered
/// makes a wait of its own due behind it.
#[test]
fn mutations_are_gathered_until_somebody_waits() {
    let tree: Arc<dyn Tree> = Arc::new(HeapTree::new());
    let mut appender = open(&tree, 1).unwrap().appender;
    let queue = Mutex::new(JournalQueue::new(&appender));
    let offer = |entry, class| queue.lock().unwrap().offer(entry, class).unwrap();
    let is_due = || queue.lock().unwrap().is_due();
    let mut write = || JournalQueue::write_next(&queue, &mut appender).unwrap();
    assert!(
        !queue.lock().unwrap().hurry(),
        "there is nothing to wait for"
    );
    assert!(!is_due());

    offer(sample(1), Class::Mutation);
    assert!(!is_due());
    assert!(queue.lock().unwrap().hurry());
    assert!(is_due());
    assert_eq!(write(), Some(1));

    offer(sample(2), Class::Mutation);
    assert!(!is_due(), "who waited has what he waited for");
    offer(sample(3), Class::Control);
    assert!(is_due());
    assert_eq!(write(), Some(3));

    let half = || {
        let body = applied(2, vec![1; GATHERED_MAX / 2]);
        Entry::new(ChunkHandle(1), ChunkVersion(1), &body)
    };
    offer(half(), Class::Mutation);
    assert!(!is_due());
    offer(half(), Class::Mutation);
    assert!(is_due());
    assert_eq!(write(), Some(5));

    queue.lock().unwrap().remove_oldest(1);
    assert!(is_due());
}

#[test]
fn a_failure_is_told_once_and_refuses_what_follows() {
    let tree: Arc<dyn Tree> = Arc::new(FaultyTree::with(Faults {
        fail_sync: Some(4),
        ..Faults::default()
    }));
    let (writer, events) = start_writer(&tree);
    let mut refused = None;
    for number in 1.. {
        match writer.append(sample(number), Class::Control) {
            Ok(_) => {}
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    assert_eq!(refused, Some(AppendError::Failed));
    drop(writer);
    let failures = events
        .iter()
        .filter(|event| matches!(event, JournalEvent::Failed(_)))
        .count();
    assert_eq!(failures, 1);
}

/// A segment went when nothing was to be written: where something always was it never did, until there
/// were too many and mutations were refused.
#[test]
fn a_segment_goes_also_while_something_is_always_to_be_written() {
    let tree: Arc<dyn Tree> = Arc::new(HeapTree::new());
    let mut appender = open(&tree, 1).unwrap().appender;
    let queue = Mutex::new(JournalQueue::new(&appender));
    let mut number = 0;
    let mut write = |queue: &Mutex<JournalQueue>| {
        number += 1;
        let offered = queue.lock().unwrap().offer(sample(number), Class::Mutation);
        assert_eq!(offered.unwrap(), number);
        JournalQueue::write_next(queue, &mut appender).unwrap();
        queue.lock().unwrap().extent().segments.clone()
    };
    let mut segments = write(&queue);
    while segments.len() < 3 {
        segments = write(&queue);
    }
    queue.lock().unwrap().remove_oldest(segments[0]);
    assert_eq!(write(&queue)[0], segments[1]);
}

/// While much waits mutations are held back, and a promise is not: it goes with the next commit.
#[test]
fn a_full_queue_holds_back_mutations_only() {
    let tree: Arc<dyn Tree> = Arc::new(HeapTree::new());
    let appender = open(&tree, 1).unwrap().appender;
    let (go_on, goes_on) = mpsc::channel::<()>();
    let (told, events) = mpsc::channel();
    let notify = move |event| {
        let _ = told.send(event);
        let _ = goes_on.recv();
    };
    let writer = JournalWriter::start(appender, notify).unwrap();
    writer.append(sample(1), Class::Mutation).unwrap();
    // The thread has nothing to do with what follows until it goes on.
    assert!(matches!(events.recv(), Ok(JournalEvent::Stable(1))));
    let large = || {
        let body = applied(2, vec![1; 1024 * 1024]);
        Entry::new(ChunkHandle(1), ChunkVersion(1), &body)
    };
    let taken = (2..)
        .take_while(|&sequence| writer.append(large(), Class::Mutation) == Ok(sequence))
        .count() as u64;
    assert!((7..=8).contains(&taken), "{taken}");
    let full = writer.append(large(), Class::Mutation);
    assert_eq!(full, Err(AppendError::Full));
    assert_eq!(writer.append(sample(5), Class::Control), Ok(taken + 2));
    drop(go_on);
    assert!(matches!(events.recv(), Ok(JournalEvent::Stable(all)) if all == taken + 2));
    assert_eq!(writer.append(large(), Class::Mutation), Ok(taken + 3));
}

/// What the journal can't hold is refused before it has a sequence.
#[test]
fn entries_that_could_not_be_read_again_are_not_taken() {
    let tree: Arc<dyn Tree> = Arc::new(HeapTree::new());
    let (writer, _events) = start_writer(&tree);
    let long = Entry {
        body: vec![0; 2 * 1024 * 1024],
        ..sample(1)
    };
    let nameless = Entry {
        handle: ChunkHandle::NONE,
        ..sample(1)
    };
    let mark = Entry {
        kind: 0,
        ..sample(1)
    };
    for entry in [long, nameless, mark] {
        let taken = writer.append(entry, Class::Control);
        assert!(matches!(taken, Err(AppendError::Invalid(_))));
    }
    assert_eq!(writer.append(sample(1), Class::Control), Ok(1));
}
