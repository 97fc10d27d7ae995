//! A directory's own threads: whether its disk answers, and what is done in the background.
//!
//! Both wait for the disk as long as it takes. That a disk hangs shows in the age of its last
//! beat, which the control plane reads without asking the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sarsen_protocol::id::{ChunkHandle, ChunkVersion};
use sarsen_protocol::message::{Disk, DiskBeat, DiskState};

use super::orders::{self, VerifyOutcome};
use crate::net::Chunkserver;
use crate::net::chunkserver::wall_clock;
use crate::net::health::{FULL_BELOW, Health};
use crate::store::{BeatFile, Directory, Space, StoreError};

/// How long after a seal at `memory` its sync begins, together with those of its neighbours.
const SYNC_DELAY: Duration = Duration::from_secs(1);

/// How long after an order to delete the holding folder is emptied.
const HOLD: Duration = Duration::from_secs(2);

/// Time between two beats before a registration says otherwise.
const BEAT_INTERVAL: Duration = Duration::from_secs(1);

/// A directory with its threads.
#[derive(Debug)]
pub(super) struct DiskThreads {
    directory: Arc<Directory>,
    beats: Arc<Beats>,
    jobs: mpsc::Sender<Job>,
    upkeep: Option<JoinHandle<()>>,
}

/// What is to be done in the background.
#[derive(Debug)]
pub(super) enum Job {
    /// Make durable what was sealed at `memory`, and read back what an earlier start left.
    Sync,
    /// Empty the holding folder, a while later.
    Empty,
    /// Read a chunk back from the medium.
    Verify {
        /// Which.
        handle: ChunkHandle,
        /// Which version of it.
        version: ChunkVersion,
        /// What was found is told here.
        done: VerifyDone,
    },
}

/// Takes the outcome of a [`Job::Verify`].
pub(super) struct VerifyDone(pub(super) Box<dyn FnOnce(VerifyOutcome) + Send>);

impl std::fmt::Debug for VerifyDone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VerifyDone")
    }
}

/// What the beating threads are told, and what they saw last.
#[derive(Debug)]
struct Beats {
    health: Arc<Health>,
    interval_ms: AtomicU64,
    is_ending: AtomicBool,
}

/// What a beating thread does.
type Beating = fn(&Beats, &Directory);

impl DiskThreads {
    /// Starts the threads of a directory.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub(super) fn start(
        directory: &Arc<Directory>,
        chunkserver: &Arc<Chunkserver>,
    ) -> std::io::Result<Self> {
        let health = chunkserver.health(directory.identity().directory_id);
        let health = health.map(Arc::clone).unwrap_or_default();
        health.watch(Instant::now());
        if let Ok(space) = directory.space() {
            health.read(Instant::now(), space);
        }
        let beats = Arc::new(Beats {
            health,
            interval_ms: AtomicU64::new(millis(BEAT_INTERVAL)),
            is_ending: AtomicBool::new(false),
        });
        // Never joined: they may wait for the disk for ever.
        let beatings: [(_, Beating); 2] = [("beat", beat), ("beat-write", beat_by_writing)];
        for (name, beating) in beatings {
            let (beats, directory) = (Arc::clone(&beats), Arc::clone(directory));
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || beating(&beats, &directory))?;
        }
        let (jobs, waiting) = mpsc::channel();
        let (kept, server) = (Arc::clone(directory), Arc::clone(chunkserver));
        let upkeep = std::thread::Builder::new()
            .name("upkeep".to_owned())
            .spawn(move || Upkeep::new(kept, server).run(&waiting))?;
        let upkeep = Some(upkeep);
        Ok(Self {
            directory: Arc::clone(directory),
            beats,
            jobs,
            upkeep,
        })
    }

    /// The directory.
    pub(super) fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// Has something done in the background.
    pub(super) fn do_later(&self, job: Job) {
        // The thread ends only with this.
        let _ = self.jobs.send(job);
    }

    /// How often the disk is to be asked from now on.
    pub(super) fn beat_every(&self, interval: Duration) {
        self.beats
            .interval_ms
            .store(millis(interval).max(10), Ordering::Relaxed);
    }

    /// How the disk is, without asking it.
    pub(super) fn beat(&self) -> DiskBeat {
        let health = &self.beats.health;
        let age = health.beat_age(Instant::now());
        let space = health.space().unwrap_or_default();
        DiskBeat {
            disk: told_of_disk(&self.directory, space, health.has_failed()),
            beat_age: u32::try_from(age.as_millis()).unwrap_or(u32::MAX),
        }
    }

    /// Whether the disk answers nobody any more: what is given to its threads then waits for ever.
    pub(super) fn hangs(&self) -> bool {
        self.beats.health.hangs(Instant::now())
    }

    /// Ends the threads once the upkeep is done with what it has; with what is sealed and not
    /// synced, too.
    pub(super) fn finish(mut self) {
        self.beats.is_ending.store(true, Ordering::Relaxed);
        drop(self.jobs);
        if self
            .upkeep
            .take()
            .is_some_and(|upkeep| upkeep.join().is_err())
        {
            tracing::error!("the upkeep of a directory has panicked");
        }
    }
}

impl Beats {
    fn rest(&self) {
        let interval = self.interval_ms.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(interval));
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A directory as the master is told of it: its disk as it last answered, and whether it failed
/// to answer since.
#[must_use]
pub fn told_of_disk(directory: &Directory, space: Space, has_failed: bool) -> Disk {
    let state = if has_failed || directory.is_poisoned() {
        DiskState::Failed
    } else if space.free < FULL_BELOW {
        DiskState::Full
    } else {
        DiskState::Ok
    };
    let mut path = directory.root().display().to_string();
    path.truncate(path.floor_char_boundary(sarsen_protocol::size::PATH_LEN_MAX));
    Disk {
        directory_id: directory.identity().directory_id,
        path,
        total: space.total,
        free: space.free,
        chunks: directory.chunk_count() as u64,
        state,
    }
}

fn beat(beats: &Beats, directory: &Directory) {
    while !beats.is_ending.load(Ordering::Relaxed) {
        match directory.beat() {
            Ok(space) => beats.health.read(Instant::now(), space),
            // Nothing failed on the disk.
            Err(error) if error.is_out_of_descriptors() => {
                let space = directory.space().unwrap_or_default();
                beats.health.read(Instant::now(), space);
            }
            Err(error) => {
                if beats.health.read_failed() {
                    tracing::error!(dir = %directory.root().display(), %error, "a disk has failed");
                }
            }
        }
        beats.rest();
    }
}

/// A disk whose writes hang still reads, so both are tried; each in a thread of its own, since a
/// write that waits behind many others is no sign that reads do.
fn beat_by_writing(beats: &Beats, directory: &Directory) {
    let mut opened = None;
    while !beats.is_ending.load(Ordering::Relaxed) {
        let written = match &mut opened {
            Some(file) => BeatFile::write(file),
            None => directory
                .open_beat()
                .and_then(|file| opened.insert(file).write()),
        };
        match written {
            // Full, it takes no chunks, but what it has it has.
            Ok(()) | Err(StoreError::NoSpace { .. }) => beats.health.written(Instant::now()),
            Err(error) if error.is_out_of_descriptors() => beats.health.written(Instant::now()),
            Err(error) => {
                if beats.health.write_failed(Instant::now()) {
                    tracing::error!(dir = %directory.root().display(), %error,
                        "a disk has failed: it can't be written to");
                }
            }
        }
        beats.rest();
    }
}

/// The background work of one directory.
struct Upkeep {
    directory: Arc<Directory>,
    chunkserver: Arc<Chunkserver>,
    sync_due: Option<Instant>,
    empty_due: Option<Instant>,
}

impl Upkeep {
    fn new(directory: Arc<Directory>, chunkserver: Arc<Chunkserver>) -> Self {
        // What an earlier start left unsynced or in doubt is read back first of all.
        let sync_due = Some(Instant::now());
        Self {
            directory,
            chunkserver,
            sync_due,
            empty_due: None,
        }
    }

    fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        loop {
            let due = [self.sync_due, self.empty_due].into_iter().flatten().min();
            let job = match due {
                Some(due) => jobs.recv_timeout(due.saturating_duration_since(Instant::now())),
                None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match job {
                Ok(Job::Sync) => _ = self.sync_due.get_or_insert(Instant::now() + SYNC_DELAY),
                Ok(Job::Empty) => _ = self.empty_due.get_or_insert(Instant::now() + HOLD),
                Ok(Job::Verify {
                    handle,
                    version,
                    done,
                }) => {
                    done.0(orders::verify(
                        &self.chunkserver,
                        &self.directory,
                        handle,
                        version,
                        wall_clock(),
                    ));
                }
                Err(RecvTimeoutError::Timeout) => self.do_what_is_due(),
                Err(RecvTimeoutError::Disconnected) => return self.sync(),
            }
        }
    }

    fn do_what_is_due(&mut self) {
        let now = Instant::now();
        if self.sync_due.take_if(|due| *due <= now).is_some() {
            self.sync();
        }
        if self.empty_due.take_if(|due| *due <= now).is_some()
            && let Err(error) = self.directory.empty_deleted()
        {
            tracing::warn!(dir = %self.directory.root().display(), %error,
                "deleted chunks could not be removed");
        }
    }

    fn sync(&self) {
        for (handle, result) in self.directory.sync_unsynced() {
            if let Err(error) = result {
                self.chunkserver.counters.sync_failures.add(1);
                tracing::error!(%handle, %error, "a chunk could not be made durable");
            }
            self.chunkserver.changed(&self.directory, handle);
        }
    }
}
