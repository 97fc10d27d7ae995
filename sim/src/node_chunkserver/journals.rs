//! The journals of a chunkserver's directories: what `chunkd/src/net/members/journal.rs` and the
//! journal's thread do, with the shipped queue and appender.
//!
//! What was offered while a batch was being written is the next one; a batch is written and synced
//! whole at one moment, or cut by the process's death inside of it. A process that ends writes nothing
//! more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sarsen_chunkd::store::journal::{
    Appender, Class, Entry, Extent, JournalLimits, JournalQueue, Log, Refused,
};
use sarsen_chunkd::store::{Directory, StoreError, Trim};
use sarsen_protocol::id::DirectoryId;

use super::{ChunkserverEvent, Process};
use crate::world::World;

/// Small segments, so that there are many.
const LIMITS: JournalLimits = JournalLimits {
    segment_len: 128 * 1024,
    grow_step: 8 * 1024,
};

/// Segments beyond which a journal is trimmed.
const SEGMENTS_KEPT: usize = 2;

/// How often it is looked whether a journal is to be trimmed, and how long what trimming wrote has to
/// become stable.
const TRIM_INTERVAL: Duration = Duration::from_secs(1);
const TRIM_PAUSE: Duration = Duration::from_millis(20);

/// What a directory's entries go to.
#[derive(Debug)]
struct SimLog {
    queue: Mutex<JournalQueue>,
    appender: Mutex<Appender>,
}

/// Takes a lock, also after a panic elsewhere.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log for SimLog {
    fn offer(&self, entry: Entry, class: Class) -> Result<u64, Refused> {
        lock(&self.queue).offer(entry, class)
    }

    // A batch is begun a moment after the one before, be it waited for or not.
    fn hurry(&self) {
        lock(&self.queue).hurry();
    }

    fn extent(&self) -> Extent {
        lock(&self.queue).extent().clone()
    }

    fn remove_oldest(&self, first_sequence: u64) {
        lock(&self.queue).remove_oldest(first_sequence);
    }

    fn look_for_room(&self) {
        lock(&self.queue).look_for_room();
    }
}

/// The journals that were begun in this start.
#[derive(Debug, Default)]
pub(super) struct Journals(BTreeMap<DirectoryId, Journal>);

#[derive(Debug)]
struct Journal {
    log: Arc<SimLog>,
    /// Everything up to this sequence is stable.
    stable: u64,
    is_writing: bool,
    is_trimming: bool,
}

impl Journals {
    /// Begins a directory's journal, if that was not done.
    ///
    /// # Errors
    /// Those of [`Directory::start_journal`].
    pub(super) fn begin(&mut self, directory: &Directory) -> Result<(), StoreError> {
        let mut begun = None;
        directory.start_journal(LIMITS, |appender| {
            let log = Arc::new(SimLog {
                queue: Mutex::new(JournalQueue::new(&appender)),
                appender: Mutex::new(appender),
            });
            begun = Some(Arc::clone(&log));
            Ok(log)
        })?;
        if let Some(log) = begun {
            let journal = Journal {
                log,
                stable: 0,
                is_writing: false,
                is_trimming: false,
            };
            self.0.insert(directory.identity().directory_id, journal);
        }
        Ok(())
    }

    /// How far a directory's journal is stable.
    pub(super) fn stable(&self, id: DirectoryId) -> u64 {
        self.0.get(&id).map_or(0, |journal| journal.stable)
    }
}

impl Process {
    /// Has the journals' threads begin, if they have something to do.
    pub(super) fn start_journals(&mut self, world: &World) {
        let (mut write, mut trim) = (Vec::new(), Vec::new());
        for (&id, journal) in &mut self.open.journals.0 {
            if lock(&journal.log.queue).has_work() && !journal.is_writing {
                journal.is_writing = true;
                write.push(id);
            }
            if !std::mem::replace(&mut journal.is_trimming, true) {
                trim.push(id);
            }
        }
        for id in write {
            self.plan_disk(world, ChunkserverEvent::Journal(id), 100, 3_000);
        }
        for id in trim {
            self.plan(world, TRIM_INTERVAL, ChunkserverEvent::Trim(id));
        }
    }

    /// A batch is on the disk, or there was none any more.
    pub(super) fn journal_due(&mut self, world: &World, id: DirectoryId) {
        let Some(journal) = self.open.journals.0.get_mut(&id) else {
            return;
        };
        let log = Arc::clone(&journal.log);
        let written = JournalQueue::write_next(&log.queue, &mut lock(&log.appender));
        if self.is_dead() {
            return;
        }
        let Some(journal) = self.open.journals.0.get_mut(&id) else {
            return;
        };
        match written {
            Ok(Some(stable)) => {
                journal.stable = stable;
                world.count("path: journal batch synced");
                self.plan_disk(world, ChunkserverEvent::Journal(id), 20, 200);
                self.stir_waiting(world, id);
            }
            Ok(None) => journal.is_writing = false,
            Err(error) => {
                world.line(|| format!("{:?}: a journal has failed: {error}", self.node));
                world.count("path: journal failed");
                lock(&log.queue).fail();
                if let Some(place) = self.place(id) {
                    let error = place.directory.journal_failed(error);
                    world.line(|| format!("the directory of a journal: {error}"));
                }
                self.journal_has_failed(world, id);
            }
        }
    }

    /// A step of trimming.
    pub(super) fn trim_due(&mut self, world: &World, id: DirectoryId) {
        let Some(place) = self.place(id) else {
            return;
        };
        place.directory.look_for_journal_room();
        let trimmed = place.directory.trim(SEGMENTS_KEPT);
        if self.is_dead() {
            return;
        }
        let pause = match trimmed {
            Ok(Trim::Nothing) => TRIM_INTERVAL,
            Ok(Trim::GoOn | Trim::Waits) => {
                world.count("path: journal trimmed a step");
                TRIM_PAUSE
            }
            Err(error) => {
                world.line(|| format!("{:?}: a journal can't be trimmed: {error}", self.node));
                TRIM_INTERVAL
            }
        };
        self.plan(world, pause, ChunkserverEvent::Trim(id));
    }
}
