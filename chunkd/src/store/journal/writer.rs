//! Group commit: the thread that owns a directory's journal (`spec/journal.md` section 5.3).
//!
//! [`JournalWriter::append`] hands an entry over and gives its sequence at once; what has gathered
//! meanwhile is the next batch: one write, one sync. When a batch is stable, the caller's function
//! hears how far the journal reaches; acks, promises and seals up to there may go out.
//!
//! A batch begins when the one before is stable and somebody waits for what is in the next
//! ([`Log::hurry`], or what is no mutation); else mutations are gathered for [`GATHER_TIME`], or
//! [`GATHERED_MAX`] bytes.
//!
//! No call waits for the disk. Memory is bounded: a mutation finds [`AppendError::Full`] while
//! [`QUEUE_LEN_MAX`] bytes wait, and may be handed over again after the next
//! [`JournalEvent::Stable`]. What ends mutations (a promise, a beginning, a seal) is always taken,
//! so it goes with the next commit, however many mutations there are: it is small, and there is one
//! a chunk. Mutations find it full too while the journal has more than [`SEGMENTS_MAX`] segments, or
//! the disk no room for another one. Where the last is full too, all waits until it is seen that there is
//! room ([`Log::look_for_room`]).
//!
//! A failure is told once, and nothing is written after it: the directory is poisoned.

use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use thiserror::Error;

use super::append::Appender;
use super::entry::Entry;
use super::error::{FormatError, JournalError};
use super::summary::Summary;

/// Bytes of entries that may wait before mutations are held back.
pub const QUEUE_LEN_MAX: usize = 8 * 1024 * 1024;

/// How long mutations are gathered that nobody waits for: a batch is a write and a sync, and a thread
/// that wakes up for it.
pub const GATHER_TIME: Duration = Duration::from_millis(50);

/// Bytes of them that are not gathered any longer.
pub const GATHERED_MAX: usize = 1024 * 1024;

/// Segments of a journal with more than which it takes no mutation, until the oldest is gone: the one
/// that is reserved is for what ends mutations (`spec/journal.md` sections 2 and 8). What waited when it
/// was begun, at most a queue, is in it too.
pub const SEGMENTS_MAX: usize = 16;

/// What the writer's thread tells.
#[derive(Debug)]
pub enum JournalEvent {
    /// Everything up to this sequence is stable.
    Stable(u64),
    /// A write or sync failed. The directory is poisoned; this is the last event.
    Failed(JournalError),
}

/// Whether an entry may be held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A mutation: it waits its turn.
    Mutation,
    /// All else.
    Control,
}

/// Why an entry was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AppendError {
    /// Our caller made an entry that the journal can't hold.
    #[error("the journal can't hold this entry: {0}")]
    Invalid(#[from] FormatError),
    /// Too much waits to be written.
    #[error("the journal has too much to write")]
    Full,
    /// The journal has failed, as [`JournalEvent::Failed`] has told or is about to.
    #[error("the journal has failed")]
    Failed,
}

/// An entry that was not taken, given back.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub error: AppendError,
    /// The entry, to be offered again.
    pub entry: Entry,
}

/// Where entries go: the seam that lets tests say when a batch is written.
pub trait Log: Send + Sync + fmt::Debug {
    /// Hands an entry over and gives its sequence. It is stable when whoever made the log is told
    /// that everything up to that is.
    ///
    /// # Errors
    /// See [`AppendError`]; the entry took no sequence then.
    fn offer(&self, entry: Entry, class: Class) -> Result<u64, Refused>;

    /// Has mutations written at once that were handed over: somebody waits until they are stable.
    fn hurry(&self);

    /// How far the journal reaches, and which segments it has.
    fn extent(&self) -> Extent;

    /// Has the oldest segment removed, if it still is the one with this first sequence: nobody needs
    /// its entries any more. It is gone some time later.
    fn remove_oldest(&self, first_sequence: u64);

    /// Has it seen, if the disk had no room for another segment, whether it has by now. To be called now
    /// and then.
    fn look_for_room(&self);

    /// Bytes of entries of all chunks that have yet to be handed over, where they are counted.
    fn backlog(&self) -> usize {
        0
    }

    /// So much more waits to be handed over, or no longer does.
    fn count_backlog(&self, _more: usize, _less: usize) {}
}

/// A journal from its first segment to what is stable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// First sequences of the segments, rising; the last one is being written.
    pub segments: Vec<u64>,
    /// What the oldest says, if this start wrote it, and another one follows.
    pub oldest: Option<Arc<Summary>>,
    /// Everything up to this sequence is stable.
    pub stable: u64,
    /// Room for another segment is set apart.
    pub has_reserve: bool,
    /// Bytes of a segment.
    pub segment_len: u64,
}

impl Extent {
    /// Of an appender's journal.
    #[must_use]
    pub fn of(appender: &Appender) -> Self {
        Self {
            segments: appender.segments().collect(),
            oldest: appender.oldest_summary(),
            stable: appender.stable(),
            has_reserve: appender.has_reserve(),
            segment_len: appender.segment_len(),
        }
    }
}

/// Takes entries from any thread. Should the writer's own thread panic, appending fails and what
/// `notify` holds is dropped, but no event tells. Dropping it writes what waits and ends its thread.
#[derive(Debug)]
pub struct JournalWriter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<JournalQueue>,
    /// Something to write, or the end.
    work: Condvar,
}

/// What waits for a journal's next batch, and what may be taken meanwhile: the writer without its
/// thread, for whoever has another way to drive it.
#[derive(Debug)]
pub struct JournalQueue {
    entries: Vec<Entry>,
    /// Bytes that they take.
    len: usize,
    /// The last sequence that was given out.
    last_sequence: u64,
    /// What is on the disk, as of the last batch.
    extent: Extent,
    /// The segment to be removed.
    remove: Option<u64>,
    /// Somebody waits for what is in it.
    is_urgent: bool,
    /// There was no room to write it.
    is_stuck: bool,
    /// It is to be seen whether there is room.
    looks_for_room: bool,
    closed: bool,
    failed: bool,
}

impl JournalQueue {
    /// An empty one, of a journal that is written with this appender.
    #[must_use]
    pub fn new(appender: &Appender) -> Self {
        Self {
            entries: Vec::new(),
            len: 0,
            last_sequence: appender.stable(),
            extent: Extent::of(appender),
            remove: None,
            is_urgent: false,
            is_stuck: false,
            looks_for_room: false,
            closed: false,
            failed: false,
        }
    }

    /// As [`Log::offer`].
    ///
    /// # Errors
    /// As [`Log::offer`].
    pub fn offer(&mut self, entry: Entry, class: Class) -> Result<u64, Refused> {
        let refused = |error| move |entry| Err(Refused { error, entry });
        if let Err(invalid) = entry.check() {
            return refused(invalid.into())(entry);
        }
        let len = entry.encoded_len();
        if self.failed {
            return refused(AppendError::Failed)(entry);
        }
        // One that is longer than the queue is taken when nothing else waits.
        let has_room = (self.len == 0 || self.len + len <= QUEUE_LEN_MAX)
            && self.extent.segments.len() <= SEGMENTS_MAX
            && self.extent.has_reserve;
        if class == Class::Mutation && !has_room {
            return refused(AppendError::Full)(entry);
        }
        self.last_sequence += 1;
        self.len += len;
        self.is_urgent |= class == Class::Control;
        self.entries.push(entry);
        Ok(self.last_sequence)
    }

    /// As [`Log::extent`].
    #[must_use]
    pub const fn extent(&self) -> &Extent {
        &self.extent
    }

    /// As [`Log::remove_oldest`].
    pub const fn remove_oldest(&mut self, first_sequence: u64) {
        self.remove = Some(first_sequence);
    }

    /// As [`Log::look_for_room`].
    pub const fn look_for_room(&mut self) {
        self.looks_for_room |= !self.extent.has_reserve;
    }

    /// As [`Log::hurry`]; whether something waits.
    pub const fn hurry(&mut self) -> bool {
        self.is_urgent |= !self.entries.is_empty();
        self.is_urgent
    }

    /// Whether what there is to do is to be done at once.
    #[must_use]
    pub const fn is_due(&self) -> bool {
        self.is_urgent
            || self.len >= GATHERED_MAX
            || self.remove.is_some()
            || self.looks_for_room
            || self.closed
    }

    /// Whether there is something to write, to remove, or to see.
    #[must_use]
    pub const fn has_work(&self) -> bool {
        let can_be_written = !self.entries.is_empty() && !self.is_stuck;
        can_be_written || self.remove.is_some() || self.looks_for_room
    }

    /// Removes the segment that is to go, then writes what waits as one batch and syncs it; the sequence
    /// that all is stable up to then. None when nothing could be written: then a mark stands behind the
    /// last batch. Blocks on the disk, not on those who offer meanwhile.
    ///
    /// # Errors
    /// Those of [`Appender::append`]. Nothing is to be written any more.
    pub fn write_next(
        queue: &Mutex<Self>,
        appender: &mut Appender,
    ) -> Result<Option<u64>, JournalError> {
        // First: where something always waits, nothing would ever come behind it.
        let wanted = lock(queue).remove.take();
        if wanted.is_some() {
            if appender.segments().next() == wanted {
                appender.remove_oldest()?;
            }
            appender.reserve()?;
            lock(queue).see(appender);
        }
        let batch = lock(queue).take();
        if !batch.is_empty() {
            let before = appender.stable();
            let found_room = match appender.append(&batch) {
                Ok(_) => true,
                Err(JournalError::NoRoom) => false,
                Err(error) => return Err(error),
            };
            let stable = appender.stable();
            let mut queue = lock(queue);
            queue.extent = Extent::of(appender);
            if !found_room {
                let written = usize::try_from(stable - before).unwrap_or(usize::MAX);
                queue.put_back(batch.into_iter().skip(written));
            }
            if stable > before {
                return Ok(Some(stable));
            }
        }
        appender.mark()?;
        let looks_for_room = std::mem::take(&mut lock(queue).looks_for_room);
        if looks_for_room {
            appender.reserve()?;
        }
        lock(queue).see(appender);
        Ok(None)
    }

    /// How far the journal is, and whether there is room again.
    fn see(&mut self, appender: &Appender) {
        self.extent = Extent::of(appender);
        self.is_stuck &= !self.extent.has_reserve;
    }

    /// What waits and can be written, or nothing.
    fn take(&mut self) -> Vec<Entry> {
        if self.is_stuck {
            return Vec::new();
        }
        self.len = 0;
        self.is_urgent = false;
        std::mem::take(&mut self.entries)
    }

    /// These found no room.
    fn put_back(&mut self, entries: impl Iterator<Item = Entry>) {
        let behind = std::mem::take(&mut self.entries);
        self.entries = entries.collect();
        self.len += self.entries.iter().map(Entry::encoded_len).sum::<usize>();
        self.entries.extend(behind);
        self.is_urgent = true;
        self.is_stuck = true;
    }

    /// Nothing is written any more.
    pub const fn fail(&mut self) {
        self.failed = true;
    }
}

impl JournalWriter {
    /// Starts the thread. `notify` runs on it and should only pass the event on.
    ///
    /// # Errors
    /// The system can't start a thread.
    pub fn start(
        appender: Appender,
        notify: impl FnMut(JournalEvent) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(JournalQueue::new(&appender)),
            work: Condvar::new(),
        });
        let thread = thread::Builder::new().name("journal".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || run(&shared, appender, notify)
        })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Hands an entry over and gives its sequence: it is stable when a [`JournalEvent::Stable`]
    /// reaches that.
    ///
    /// # Errors
    /// See [`AppendError`]; the entry took no sequence then.
    pub fn append(&self, entry: Entry, class: Class) -> Result<u64, AppendError> {
        self.offer(entry, class).map_err(|refused| refused.error)
    }
}

impl Log for JournalWriter {
    fn offer(&self, entry: Entry, class: Class) -> Result<u64, Refused> {
        let mut queue = self.shared.lock();
        let (was_empty, was_due) = (!queue.has_work(), queue.is_due());
        let offered = queue.offer(entry, class);
        // Else the thread is at work, or knows when it is to begin.
        let is_news = was_empty || (queue.is_due() && !was_due);
        drop(queue);
        if offered.is_ok() && is_news {
            self.shared.work.notify_one();
        }
        offered
    }

    fn hurry(&self) {
        let mut queue = self.shared.lock();
        let was_due = queue.is_due();
        if queue.hurry() && !was_due {
            drop(queue);
            self.shared.work.notify_one();
        }
    }

    fn extent(&self) -> Extent {
        self.shared.lock().extent().clone()
    }

    fn remove_oldest(&self, first_sequence: u64) {
        self.shared.lock().remove_oldest(first_sequence);
        self.shared.work.notify_one();
    }

    fn look_for_room(&self) {
        let mut queue = self.shared.lock();
        queue.look_for_room();
        if queue.has_work() {
            drop(queue);
            self.shared.work.notify_one();
        }
    }
}

impl Drop for JournalWriter {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed by it; there is nothing to add here.
            let _ = thread.join();
        }
    }
}

/// No code panics while it holds the lock with the queue half changed.
fn lock(queue: &Mutex<JournalQueue>) -> MutexGuard<'_, JournalQueue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, JournalQueue> {
        lock(&self.queue)
    }

    /// Waits until there is something to be written, or to remove; false when there never will be. What
    /// nobody waits for is gathered for [`GATHER_TIME`].
    fn wait(&self) -> bool {
        let idle = |queue: &mut JournalQueue| !queue.has_work() && !queue.closed;
        let queue = self
            .work
            .wait_while(self.lock(), idle)
            .unwrap_or_else(PoisonError::into_inner);
        let gathers = |queue: &mut JournalQueue| !queue.is_due();
        let (queue, _) = self
            .work
            .wait_timeout_while(queue, GATHER_TIME, gathers)
            .unwrap_or_else(PoisonError::into_inner);
        queue.has_work()
    }

    /// Whether nothing waits that could be written, so that a mark may be.
    fn is_idle(&self) -> bool {
        let queue = self.lock();
        queue.entries.is_empty() || queue.is_stuck
    }
}

fn run(shared: &Shared, mut appender: Appender, mut notify: impl FnMut(JournalEvent)) {
    let ended = Ended(shared);
    let done = write_until_closed(shared, &mut appender, &mut notify);
    drop(ended);
    if let Err(error) = done {
        notify(JournalEvent::Failed(error));
    }
}

/// However the thread ends, by a panic too, no entry is taken any more.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.lock().fail();
    }
}

fn write_until_closed(
    shared: &Shared,
    appender: &mut Appender,
    notify: &mut impl FnMut(JournalEvent),
) -> Result<(), JournalError> {
    while shared.wait() {
        let written = JournalQueue::write_next(&shared.queue, appender)?;
        if let Some(stable) = written {
            notify(JournalEvent::Stable(stable));
            if shared.is_idle() {
                // Unless something came this moment, the mark.
                let written = JournalQueue::write_next(&shared.queue, appender)?;
                written
                    .into_iter()
                    .for_each(|stable| notify(JournalEvent::Stable(stable)));
            }
        }
    }
    Ok(())
}
