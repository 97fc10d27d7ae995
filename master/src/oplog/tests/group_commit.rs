//! The writer's thread, on a real directory.

use std::io;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;

use super::super::append::LogOptions;
use super::super::directory::Directory;
use super::super::entry::{BODY_LEN_MAX, Entry};
use super::super::error::{FormatError, OplogError};
use super::super::faulty::Disk;
use super::super::recover::Recovery;
use super::super::writer::{AppendError, LogEvent, LogWriter, QUEUE_LEN_MAX};
use super::{CLUSTER, entry, start};

fn begin(path: &Path) -> Recovery {
    let directory = Arc::new(Directory::open(path).unwrap());
    let options = LogOptions {
        segment_len: 64 * 1024,
        ..LogOptions::default()
    };
    Recovery::begin(directory, options, CLUSTER).unwrap()
}

fn drain(recovery: &mut Recovery) -> Vec<Entry> {
    std::iter::from_fn(|| recovery.next_entry().unwrap())
        .map(|found| found.entry)
        .collect()
}

#[test]
fn many_threads_append_and_all_of_it_is_found_again() {
    const THREADS: u64 = 8;
    const EACH: u64 = 200;
    let place = tempfile::tempdir().unwrap();
    let mut recovery = begin(place.path());
    assert!(recovery.is_fresh() && drain(&mut recovery).is_empty());
    let (events, heard) = mpsc::channel();
    let appender = recovery.finish().unwrap().appender;
    let writer = LogWriter::start(appender, move |event| events.send(event).unwrap()).unwrap();
    let by_index = thread::scope(|scope| {
        let appending = (0..THREADS).map(|n| {
            let writer = &writer;
            scope.spawn(move || {
                let numbers = n * EACH..(n + 1) * EACH;
                let append = |number| (writer.append(same_term(number)).unwrap(), number);
                numbers.map(append).collect::<Vec<_>>()
            })
        });
        let appending: Vec<_> = appending.collect();
        let mut placed: Vec<_> = appending
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect();
        placed.sort_unstable();
        placed
    });
    drop(writer);
    let flushed: Vec<u64> = heard
        .iter()
        .map(|event| match event {
            LogEvent::Flushed(position) => position.index,
            LogEvent::Failed(error) => panic!("{error}"),
        })
        .collect();
    assert!(flushed.is_sorted());
    assert_eq!(flushed.last(), Some(&(THREADS * EACH)));
    assert!(
        by_index
            .iter()
            .map(|placed| placed.0)
            .eq(1..=THREADS * EACH)
    );

    let mut recovery = begin(place.path());
    assert!(!recovery.is_fresh());
    let found = drain(&mut recovery);
    assert!(
        found
            .into_iter()
            .eq(by_index.iter().map(|placed| same_term(placed.1)))
    );
    assert_eq!(recovery.finish().unwrap().torn_tail, None);
}

fn same_term(number: u64) -> Entry {
    Entry {
        term: 1,
        ..entry(number, 300)
    }
}

#[test]
fn a_failed_sync_is_told_once_and_ends_the_log() {
    let disk = Disk::default();
    let appender = start(&disk).unwrap().appender;
    let (events, heard) = mpsc::channel();
    // The batch's write is the next step, its sync the one after it.
    disk.fail_at(disk.steps() + 1, io::ErrorKind::Other);
    let writer = LogWriter::start(appender, move |event| events.send(event).unwrap()).unwrap();
    assert_eq!(writer.append(entry(1, 10)), Ok(1));
    let event = heard.recv().unwrap();
    assert!(
        matches!(event, LogEvent::Failed(OplogError::Io { .. })),
        "{event:?}"
    );
    assert_eq!(writer.append(entry(2, 10)), Err(AppendError::Failed));
    drop(writer);
    assert!(heard.recv().is_err());
}

#[test]
fn entries_that_the_log_cannot_hold_take_no_index() {
    let (disk, (events, heard)) = (Disk::default(), mpsc::channel());
    let appender = start(&disk).unwrap().appender;
    let writer = LogWriter::start(appender, move |event| events.send(event).unwrap()).unwrap();
    let mut request = entry(10, 0);
    request.request.as_mut().unwrap().lowest_outstanding = 0;
    let bad = [
        (
            entry(30, BODY_LEN_MAX + 1),
            AppendError::Invalid(FormatError::BodyTooLong),
        ),
        (
            Entry {
                kind: 0,
                ..entry(30, 0)
            },
            AppendError::Invalid(FormatError::KindWrong),
        ),
        (request, AppendError::Invalid(FormatError::RequestIdInvalid)),
    ];
    for (entry, error) in bad {
        assert_eq!(writer.append(entry), Err(error));
    }
    assert_eq!(writer.append(entry(30, 0)), Ok(1));
    assert_eq!(writer.append(entry(1, 0)), Err(AppendError::TermLower));
    // One that is longer than the whole queue has its turn, too.
    assert_eq!(writer.append(entry(31, QUEUE_LEN_MAX + 1)), Ok(2));
    assert_eq!(writer.append(entry(32, BODY_LEN_MAX)), Ok(3));
    drop(writer);
    assert!(
        heard
            .iter()
            .all(|event| matches!(event, LogEvent::Flushed(_)))
    );
    let found = start(&disk).unwrap().entries;
    assert_eq!(
        found,
        [
            entry(30, 0),
            entry(31, QUEUE_LEN_MAX + 1),
            entry(32, BODY_LEN_MAX)
        ]
    );
}

/// A thread that panicked told nobody: whoever appended waited for room in the queue for ever.
#[test]
fn a_panic_of_the_writer_fails_whoever_appends() {
    let (disk, (gone, heard)) = (Disk::default(), mpsc::channel::<()>());
    let appender = start(&disk).unwrap().appender;
    let writer = LogWriter::start(appender, move |_| {
        let _ends_with_the_thread = &gone;
        panic!("the test's own");
    })
    .unwrap();
    assert_eq!(writer.append(entry(1, 10)), Ok(1));
    assert!(heard.recv().is_err(), "the thread is gone");
    assert_eq!(writer.append(entry(2, 10)), Err(AppendError::Failed));
}
