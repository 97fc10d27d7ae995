//! Group commit: the thread that owns the log's end (`spec/oplog.md` section 6).
//!
//! [`LogWriter::append`] hands an entry over and gives its index at once; what has gathered while
//! one batch was being synced is the next batch: one write, one sync. When a batch is on stable
//! storage, the caller's function hears how far the log reaches; entries may be applied and
//! acknowledged up to there.
//!
//! Memory is bounded: at most [`QUEUE_LEN_MAX`] bytes wait (or one longer entry), as much again is
//! being written; `append` blocks while the queue is full. A failure is told once, nothing is
//! written after it, and the master must end.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use thiserror::Error;

use super::append::Appender;
use super::entry::{Entry, Position};
use super::error::{FormatError, OplogError};

/// Bytes of entries that may wait to be written.
pub const QUEUE_LEN_MAX: usize = 8 * 1024 * 1024;

/// What the writer's thread tells.
#[derive(Debug)]
pub enum LogEvent {
    /// Everything up to this entry is on stable storage. A checkpoint may be taken at this
    /// position, once everything up to it is applied.
    Flushed(Position),
    /// A write or sync failed. The master must end; this is the last event.
    Failed(OplogError),
}

/// Why an entry was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AppendError {
    /// Our caller made an entry that the log can't hold.
    #[error("the log can't hold this entry: {0}")]
    Invalid(#[from] FormatError),
    /// Our caller made an entry of a lower term than the one before.
    #[error("the entry's term is lower than that of the one before it")]
    TermLower,
    /// The log has failed, as [`LogEvent::Failed`] has told or is about to.
    #[error("the log has failed")]
    Failed,
}

/// Takes entries from any thread. Should the writer's own thread panic, appending fails and what
/// `notify` holds is dropped, but no event tells. Dropping it writes what waits and ends its thread.
pub struct LogWriter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    queue: Mutex<Queue>,
    /// Something to write, or the end.
    work: Condvar,
    /// Room in the queue, or a failure.
    room: Condvar,
}

struct Queue {
    entries: Vec<Entry>,
    /// Bytes that they take.
    len: usize,
    /// The last index that was given out.
    last_index: u64,
    last_term: u64,
    closed: bool,
    failed: bool,
}

impl LogWriter {
    /// Starts the thread. `notify` runs on it and should only pass the event on.
    ///
    /// # Errors
    /// The system can't start a thread.
    pub fn start(
        appender: Appender,
        notify: impl FnMut(LogEvent) + Send + 'static,
    ) -> io::Result<Self> {
        let Position {
            index: last_index,
            term: last_term,
            ..
        } = appender.position();
        let queue = Queue {
            entries: Vec::new(),
            len: 0,
            last_index,
            last_term,
            closed: false,
            failed: false,
        };
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            work: Condvar::new(),
            room: Condvar::new(),
        });
        let thread = thread::Builder::new().name("oplog".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || run(&shared, appender, notify)
        })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Hands an entry over and gives its index. Blocks while the queue is full.
    ///
    /// The entry is on stable storage when a [`LogEvent::Flushed`] reaches its index.
    ///
    /// # Errors
    /// See [`AppendError`]; the entry took no index then.
    pub fn append(&self, entry: Entry) -> Result<u64, AppendError> {
        entry.check()?;
        let len = entry.encoded_len();
        let has_room = |queue: &Queue| queue.len == 0 || queue.len + len <= QUEUE_LEN_MAX;
        let mut queue = self.shared.lock();
        while !queue.failed && !has_room(&queue) {
            queue = self
                .shared
                .room
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if queue.failed {
            return Err(AppendError::Failed);
        }
        if entry.term < queue.last_term {
            return Err(AppendError::TermLower);
        }
        queue.last_term = entry.term;
        queue.last_index += 1;
        queue.len += len;
        queue.entries.push(entry);
        self.shared.work.notify_one();
        Ok(queue.last_index)
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed by it; there is nothing to add here.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// No code panics while it holds the lock with the queue half changed.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What waits, or nothing.
    fn take(&self) -> Vec<Entry> {
        let mut queue = self.lock();
        queue.len = 0;
        self.room.notify_all();
        std::mem::take(&mut queue.entries)
    }

    /// Waits until there is something to take; false when there never will be.
    fn wait(&self) -> bool {
        let idle = |queue: &mut Queue| queue.entries.is_empty() && !queue.closed;
        let queue = self
            .work
            .wait_while(self.lock(), idle)
            .unwrap_or_else(PoisonError::into_inner);
        !queue.entries.is_empty()
    }
}

fn run(shared: &Shared, mut appender: Appender, mut notify: impl FnMut(LogEvent)) {
    let ended = Ended(shared);
    let done = write_until_closed(shared, &mut appender, &mut notify);
    drop(ended);
    if let Err(error) = done {
        notify(LogEvent::Failed(error));
    }
}

/// However the thread ends, by a panic too, nobody waits for it any more.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.lock().failed = true;
        self.0.room.notify_all();
    }
}

fn write_until_closed(
    shared: &Shared,
    appender: &mut Appender,
    notify: &mut impl FnMut(LogEvent),
) -> Result<(), OplogError> {
    while shared.wait() {
        loop {
            let batch = shared.take();
            if batch.is_empty() {
                break;
            }
            notify(LogEvent::Flushed(appender.append(&batch)?));
        }
        appender.mark()?;
    }
    Ok(())
}
