//! A directory's own threads: whether its disk answers, and what is done in the background.
//!
//! Both wait for the disk as long as it takes. That a disk hangs shows in the age of its last
//! beat, which the control plane reads without asking the disk.

use std::collections::HashSet;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sarsen_protocol::id::{ChunkHandle, ChunkVersion};
use sarsen_protocol::message::{Disk, DiskBeat, DiskState};

use super::orders::{self, Verified};
use crate::net::Chunkserver;
use crate::net::chunkserver::wall_clock;
use crate::net::health::{FULL_BELOW, Health};
use crate::store::{BeatFile, Directory, Space, StoreError, Trim};

/// How long after a seal at `memory` its sync begins, together with those of its neighbours.
const SYNC_DELAY: Duration = Duration::from_secs(1);

/// How long after an order to delete the holding folder is emptied.
const HOLD: Duration = Duration::from_secs(2);

/// How often it is looked whether the journal is to be trimmed.
const TRIM_INTERVAL: Duration = Duration::from_secs(1);

/// How often it is seen whether a full disk has room for the journal again.
const ROOM_INTERVAL: Duration = Duration::from_secs(2);

/// How long what trimming wrote has to become stable.
const TRIM_PAUSE: Duration = Duration::from_millis(20);

/// Segments of a journal beyond which it is trimmed: 256 MiB, which a start reads in a second or so.
const SEGMENTS_KEPT: usize = 4;

/// Time between two beats before a registration says otherwise.
const BEAT_INTERVAL: Duration = Duration::from_secs(1);

/// A directory with its threads.
#[derive(Debug)]
pub(super) struct DiskThreads {
    directory: Arc<Directory>,
    beats: Arc<Beats>,
    jobs: mpsc::Sender<Job>,
    doubted: Doubted,
    /// What runs until `jobs` and `trims` are gone.
    running: Vec<JoinHandle<()>>,
    /// Trimming ends when this goes.
    trims: mpsc::Sender<Infallible>,
}

/// Chunks that are to be read back because a read of them failed, and were not yet.
type Doubted = Arc<Mutex<HashSet<ChunkHandle>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
pub(super) struct VerifyDone(pub(super) Box<dyn FnOnce(Verified) + Send>);

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
        let doubted = Doubted::default();
        let queued = Arc::clone(&doubted);
        let upkeep = std::thread::Builder::new()
            .name("upkeep".to_owned())
            .spawn(move || Upkeep::new(kept, server, queued).run(&waiting))?;
        // Apart: the journal has only so many segments while thousands of files are removed or synced.
        let (trims, ends) = mpsc::channel();
        let trimmed = Arc::clone(directory);
        let trim = std::thread::Builder::new()
            .name("trim".to_owned())
            .spawn(move || Trimming::new(trimmed).run(&ends))?;
        Ok(Self {
            directory: Arc::clone(directory),
            beats,
            jobs,
            doubted,
            running: vec![upkeep, trim],
            trims,
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

    /// Has a chunk read back in the background, of which a read has failed; once, however many
    /// reads fail meanwhile, and not if it is known to be bad.
    pub(super) fn doubt(&self, handle: ChunkHandle, version: ChunkVersion, done: VerifyDone) {
        let entry = self.directory.entry(handle);
        let is_marked = entry.is_none_or(|entry| entry.is_marked());
        if !is_marked && lock(&self.doubted).insert(handle) {
            self.do_later(Job::Verify {
                handle,
                version,
                done,
            });
        }
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
    pub(super) fn finish(self) {
        self.beats.is_ending.store(true, Ordering::Relaxed);
        drop((self.jobs, self.trims));
        for thread in self.running {
            if thread.join().is_err() {
                tracing::error!("the upkeep of a directory has panicked");
            }
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
            Err(error) if error.is_short_of_means() => {
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
            Err(error) if error.is_short_of_means() => beats.health.written(Instant::now()),
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

/// What panics is over; the rest of the directory's work is not.
fn guarded(directory: &Directory, work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        tracing::error!(dir = %directory.root().display(), "work in the background has panicked");
    }
}

/// Keeps one directory's journal short.
struct Trimming {
    directory: Arc<Directory>,
    room_due: Instant,
}

impl Trimming {
    fn new(directory: Arc<Directory>) -> Self {
        Self {
            directory,
            room_due: Instant::now() + ROOM_INTERVAL,
        }
    }

    fn run(mut self, ends: &mpsc::Receiver<Infallible>) {
        let mut pause = TRIM_INTERVAL;
        while ends.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            // What panics is tried again, and not at once.
            pause = TRIM_INTERVAL;
            let directory = Arc::clone(&self.directory);
            guarded(&directory, || pause = self.step());
        }
    }

    /// One step; how long what it wrote has to become stable.
    fn step(&mut self) -> Duration {
        let now = Instant::now();
        if self.room_due <= now {
            self.room_due = now + ROOM_INTERVAL;
            self.directory.look_for_journal_room();
        }
        match self.directory.trim(SEGMENTS_KEPT) {
            Ok(Trim::Nothing) => TRIM_INTERVAL,
            Ok(Trim::GoOn | Trim::Waits) => TRIM_PAUSE,
            Err(error) => {
                tracing::warn!(dir = %self.directory.root().display(), %error,
                    "the journal could not be trimmed");
                TRIM_INTERVAL
            }
        }
    }
}

/// The background work of one directory.
struct Upkeep {
    directory: Arc<Directory>,
    chunkserver: Arc<Chunkserver>,
    doubted: Doubted,
    sync_due: Option<Instant>,
    empty_due: Option<Instant>,
}

impl Upkeep {
    fn new(directory: Arc<Directory>, chunkserver: Arc<Chunkserver>, doubted: Doubted) -> Self {
        // What an earlier start left unsynced or in doubt is read back first of all.
        let sync_due = Some(Instant::now());
        Self {
            directory,
            chunkserver,
            doubted,
            sync_due,
            empty_due: None,
        }
    }

    fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        loop {
            let due = [self.sync_due, self.empty_due].into_iter().flatten().min();
            let received = match due {
                Some(due) => jobs.recv_timeout(due.saturating_duration_since(Instant::now())),
                None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match received {
                Ok(job) => {
                    self.guarded(|upkeep| upkeep.do_job(job));
                    // Jobs that go on coming must not keep from its turn what is due.
                    self.guarded(Self::do_what_is_due);
                }
                Err(RecvTimeoutError::Timeout) => self.guarded(Self::do_what_is_due),
                Err(RecvTimeoutError::Disconnected) => return self.sync(),
            }
        }
    }

    fn guarded(&mut self, work: impl FnOnce(&mut Self)) {
        let directory = Arc::clone(&self.directory);
        guarded(&directory, || work(self));
    }

    fn do_job(&mut self, job: Job) {
        match job {
            Job::Sync => _ = self.sync_due.get_or_insert(Instant::now() + SYNC_DELAY),
            Job::Empty => _ = self.empty_due.get_or_insert(Instant::now() + HOLD),
            Job::Verify {
                handle,
                version,
                done,
            } => {
                lock(&self.doubted).remove(&handle);
                done.0(orders::verify(
                    &self.chunkserver,
                    &self.directory,
                    handle,
                    version,
                    wall_clock(),
                ));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Notice;
    use crate::store::tests::scenario::{ADOPTION, START, Sample};
    use sarsen_protocol::key::SecretKey;
    use sarsen_protocol::message::Level;
    use tokio::sync::mpsc::UnboundedReceiver;

    const CHUNK: ChunkHandle = ChunkHandle(1);
    /// The one that the sample chunk of this number has.
    const VERSION: ChunkVersion = ChunkVersion(11);

    struct Server {
        _folder: tempfile::TempDir,
        directory: Arc<Directory>,
        chunkserver: Arc<Chunkserver>,
        notices: UnboundedReceiver<Notice>,
    }

    /// A server whose one directory has a chunk, sealed at `memory`.
    fn server() -> Server {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = Directory::open(&folder.path().join("d"), &START).expect("opens");
        directory.adopt(ADOPTION).expect("adopts");
        let chunk = Sample::new(CHUNK.0, 3);
        assert_eq!(chunk.version, VERSION);
        chunk.store(&directory, Level::Memory).expect("sealed");
        let directory = Arc::new(directory);
        let key = SecretKey::new([0; 32]);
        let (chunkserver, notices) = Chunkserver::new(key, vec![Arc::clone(&directory)]);
        Server {
            _folder: folder,
            directory,
            chunkserver: Arc::new(chunkserver),
            notices,
        }
    }

    fn verify(done: impl FnOnce(Verified) + Send + 'static) -> Job {
        Job::Verify {
            handle: CHUNK,
            version: VERSION,
            done: VerifyDone(Box::new(done)),
        }
    }

    /// Jobs that waited went before what was due: as long as a sick disk made new ones, nothing
    /// that was sealed at `memory` was synced, and nothing deleted was removed.
    #[test]
    fn what_is_due_is_done_between_jobs() {
        let server = server();
        let (jobs, waiting) = mpsc::channel();
        let (seen, found) = mpsc::channel();
        for _ in 0..3 {
            let (directory, seen) = (Arc::clone(&server.directory), seen.clone());
            let look = move |_| {
                let entry = directory.entry(CHUNK).expect("here");
                seen.send(entry.flags.unsynced).expect("heard");
            };
            jobs.send(verify(look)).expect("taken");
        }
        drop((jobs, seen));
        let upkeep = Upkeep::new(server.directory, server.chunkserver, Doubted::default());
        assert!(upkeep.sync_due.is_some());
        upkeep.run(&waiting);
        assert_eq!(found.iter().collect::<Vec<_>>(), [true, false, false]);
    }

    /// One panic ended all that was ever done for the directory, and its orders were never answered.
    #[test]
    fn a_job_that_panics_ends_no_other() {
        let server = server();
        let (jobs, waiting) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let panics = verify(|_| panic!("as a test wants"));
        let tells = verify(move |found| tell.send(found.is_ok()).expect("heard"));
        jobs.send(panics).expect("taken");
        jobs.send(tells).expect("taken");
        drop(jobs);
        Upkeep::new(server.directory, server.chunkserver, Doubted::default()).run(&waiting);
        assert_eq!(told.try_recv(), Ok(true));
    }

    /// Each failed read asked for a read back of the whole chunk, however many waited already.
    #[test]
    fn a_chunk_in_doubt_is_read_back_once() {
        let server = server();
        let (jobs, waiting) = mpsc::channel();
        let threads = DiskThreads {
            directory: Arc::clone(&server.directory),
            beats: Arc::new(Beats {
                health: Arc::default(),
                interval_ms: AtomicU64::new(1),
                is_ending: AtomicBool::new(false),
            }),
            jobs,
            doubted: Doubted::default(),
            running: vec![],
            trims: mpsc::channel().0,
        };
        let doubt = || threads.doubt(CHUNK, VERSION, VerifyDone(Box::new(|_| {})));
        doubt();
        doubt();
        let mut upkeep = Upkeep::new(
            server.directory,
            server.chunkserver,
            Arc::clone(&threads.doubted),
        );
        upkeep.do_job(waiting.try_recv().expect("the first"));
        assert!(waiting.try_recv().is_err(), "and no second");
        doubt();
        assert!(waiting.try_recv().is_ok(), "it may be doubted again");
    }

    /// A chunk that was poisoned when its time of verification could not be written was not told:
    /// the master was told only of chunks that did not match.
    #[test]
    fn whatever_comes_of_a_read_back_is_told() {
        let mut server = server();
        let (directory, chunkserver) = (&server.directory, &server.chunkserver);
        let outcome = orders::verify(chunkserver, directory, CHUNK, VERSION, 1);
        assert!(outcome.expect("read").good);
        let told = server.notices.try_recv().expect("told");
        let directory = directory.identity().directory_id;
        let handle = CHUNK;
        assert_eq!(told, Notice::Changed { directory, handle });
    }
}
