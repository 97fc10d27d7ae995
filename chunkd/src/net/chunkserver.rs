//! What the planes of one chunkserver share: who it is, its directories, its ticket keys.
//!
//! Nothing is served before [`Chunkserver::register`]: there are no ticket keys until then. What
//! the data plane changes or doubts it tells through [`Notice`]s, for the inventory and for
//! whoever reads chunks back.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sarsen_protocol::handshake::Identity;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, ClusterId, DirectoryId, ServerId};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{ErrorBody, Heat, ReportChain, Role, Start};
use sarsen_protocol::status::Status;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::counters::Counters;
use super::health::{Fitness, Health};
use super::members::Members;
use crate::core::read_stream::Refusal;
use crate::core::tickets::TicketKeys;
use crate::store::{Directory, NewChunk, Operation, PendingChunk, Problem, StoreError};

/// Chunks whose reads are counted at a time; the rest of a wide scan isn't hot.
const HEAT_TRACKED_MAX: usize = 65_536;

/// Milliseconds of silence after which a next hop is given up, until the master has told its own.
const SUSPECT_AFTER_DEFAULT: u64 = 3_000;

/// How often it is looked whether a disk hangs that somebody waits for.
const HANG_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Reads that wait for one directory's disk at a time. A runtime has 512 blocking threads, so a disk that
/// hangs leaves the others theirs.
const WAITS_MAX: usize = 64;

/// What the control plane is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The inventory's entry of a chunk is another one now, or gone.
    Changed {
        /// Where the chunk lies.
        directory: DirectoryId,
        /// Which.
        handle: ChunkHandle,
    },
    /// The medium failed under a read: the chunk should be read back.
    Doubtful {
        /// Where the chunk lies.
        directory: DirectoryId,
        /// Which.
        handle: ChunkHandle,
        /// Its version.
        version: ChunkVersion,
    },
    /// A member of an open chunk has something for the master to act on.
    ChainTrouble(ReportChain),
}

/// A directory, and whether the master lets it count.
#[derive(Debug)]
struct Place {
    directory: Arc<Directory>,
    is_served: AtomicBool,
    health: Arc<Health>,
    /// Turns at its disk.
    waits: Arc<Semaphore>,
}

/// One chunkserver, as its planes share it.
#[derive(Debug)]
pub struct Chunkserver {
    key: RwLock<SecretKey>,
    places: Vec<Place>,
    identity: RwLock<Identity>,
    ticket_keys: RwLock<Arc<TicketKeys>>,
    /// In milliseconds, as the master told it.
    suspect_after: AtomicU64,
    heat: Mutex<HashMap<ChunkHandle, u32>>,
    /// Handles that somebody is making a chunk of, in whichever directory.
    in_the_making: Arc<Mutex<HashSet<ChunkHandle>>>,
    notices: mpsc::UnboundedSender<Notice>,
    /// The open chunks.
    pub members: Members,
    /// What is counted.
    pub counters: Counters,
}

impl Chunkserver {
    /// The chunkserver of these directories, of which there is at least one.
    #[must_use]
    pub fn new(
        key: SecretKey,
        directories: Vec<Arc<Directory>>,
    ) -> (Self, mpsc::UnboundedReceiver<Notice>) {
        let (notices, noticed) = mpsc::unbounded_channel();
        let identity = Identity {
            role: Role::Chunkserver,
            cluster_id: ClusterId::NONE,
            start: directories
                .first()
                .map(|first| start_of(first))
                .unwrap_or_default(),
        };
        let place = |directory| Place {
            directory,
            is_served: AtomicBool::new(false),
            health: Arc::default(),
            waits: Arc::new(Semaphore::new(WAITS_MAX)),
        };
        let chunkserver = Self {
            key: RwLock::new(key),
            places: directories.into_iter().map(place).collect(),
            identity: RwLock::new(identity),
            ticket_keys: RwLock::default(),
            suspect_after: AtomicU64::new(SUSPECT_AFTER_DEFAULT),
            heat: Mutex::default(),
            in_the_making: Arc::default(),
            notices,
            members: Members::new(),
            counters: Counters::default(),
        };
        chunkserver.learn_identity();
        (chunkserver, noticed)
    }

    /// Begins to serve: after the directories were adopted, those that the master lets count.
    pub fn register(&self, keys: TicketKeys, served: &[DirectoryId], suspect_after: Duration) {
        self.learn_identity();
        let millis = u64::try_from(suspect_after.as_millis()).unwrap_or(u64::MAX);
        self.suspect_after.store(millis.max(1), Ordering::Relaxed);
        for place in &self.places {
            let is_served = served.contains(&place.directory.identity().directory_id);
            place.is_served.store(is_served, Ordering::Release);
        }
        *self
            .ticket_keys
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    /// Takes cluster and server id from the first directory that has them.
    fn learn_identity(&self) {
        let mut adoptions = self.directories().filter_map(|it| it.identity().adoption);
        if let Some(adoption) = adoptions.next() {
            let mut identity = self
                .identity
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            identity.cluster_id = adoption.cluster_id;
            identity.start.server_id = adoption.server_id;
        }
    }

    /// What to say of ourselves in a hello.
    #[must_use]
    pub fn identity(&self) -> Identity {
        *self.identity.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Our id; none before the first registration.
    #[must_use]
    pub fn me(&self) -> ServerId {
        self.identity().start.server_id
    }

    /// The cluster's key.
    #[must_use]
    pub fn key(&self) -> SecretKey {
        self.key
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Takes another key: before the first registration the one at hand may be of a master that
    /// is no more.
    pub fn set_key(&self, key: SecretKey) {
        *self.key.write().unwrap_or_else(PoisonError::into_inner) = key;
    }

    /// The keys that tickets are checked with.
    #[must_use]
    pub fn ticket_keys(&self) -> Arc<TicketKeys> {
        Arc::clone(
            &self
                .ticket_keys
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Silence after which the next hop of a stream is given up (`spec/wire.md` section 12.1).
    #[must_use]
    pub fn suspect_after(&self) -> Duration {
        Duration::from_millis(self.suspect_after.load(Ordering::Relaxed))
    }

    /// All directories, in the order of the command line.
    pub fn directories(&self) -> impl Iterator<Item = &Arc<Directory>> {
        self.places.iter().map(|place| &place.directory)
    }

    /// The directory of this id.
    #[must_use]
    pub fn directory(&self, id: DirectoryId) -> Option<&Arc<Directory>> {
        self.directories()
            .find(|it| it.identity().directory_id == id)
    }

    /// The served directory that has the chunk.
    #[must_use]
    pub fn directory_of(&self, handle: ChunkHandle) -> Option<&Arc<Directory>> {
        self.served()
            .find(|directory| directory.entry(handle).is_some())
    }

    /// How a directory's disk is.
    #[must_use]
    pub fn health(&self, id: DirectoryId) -> Option<&Arc<Health>> {
        self.place(id).map(|place| &place.health)
    }

    /// Whether the disk of a directory answers nobody any more.
    #[must_use]
    pub fn hangs(&self, directory: &Directory) -> bool {
        let mut places = self.places.iter();
        let place = places.find(|it| std::ptr::eq(&*it.directory, directory));
        place.is_some_and(|place| place.health.hangs(Instant::now()))
    }

    fn place(&self, id: DirectoryId) -> Option<&Place> {
        let mut places = self.places.iter();
        places.find(|it| it.directory.identity().directory_id == id)
    }

    /// Has something that waits for a directory's disk done on a thread that serves nobody. At most
    /// [`WAITS_MAX`] have one at a time, and each keeps it until the disk answers.
    ///
    /// # Errors
    /// `medium_failed` if the disk answers nobody any more, `internal` if the work panics.
    pub async fn at_disk<T: Send + 'static>(
        &self,
        directory: &Directory,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let id = directory.identity().directory_id;
        if self.hangs(directory) {
            return Err(disk_hangs());
        }
        let waits = self.place(id).map(|place| Arc::clone(&place.waits));
        let working = async {
            let turn = match waits {
                Some(waits) => waits.acquire_owned().await.ok(),
                None => None,
            };
            let working = spawn_blocking(move || {
                let _turn = turn;
                work()
            });
            working.await
        };
        tokio::select! {
            biased;
            done = working => {
                done.map_err(|error| (Status::Internal, ErrorBody::new(error.to_string())))
            }
            () = self.hung(Some(id)) => Err(disk_hangs()),
        }
    }

    /// Waits until the disk of a directory hangs; without a directory, until that of any one does.
    /// Whoever waits for something of that disk then need not go on.
    pub async fn hung(&self, id: Option<DirectoryId>) {
        let is_it =
            |place: &&Place| id.is_none_or(|id| place.directory.identity().directory_id == id);
        loop {
            sleep(HANG_LOOK_INTERVAL).await;
            let now = Instant::now();
            let mut places = self.places.iter().filter(is_it);
            if places.any(|place| place.health.hangs(now)) {
                return;
            }
        }
    }

    /// Makes a chunk in the served directory with the most room whose disk is well. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] if any directory has the handle, those of the directory,
    /// and [`StoreError::NotAdopted`] while none is served.
    pub fn create(
        &self,
        new: &NewChunk,
    ) -> Result<(Arc<Directory>, Arc<PendingChunk>), StoreError> {
        let handle = new.handle;
        // A directory sees to itself; two of them could take the handle at the same moment.
        let claim = self.claim(handle);
        let is_here = |directory: &Arc<Directory>| directory.entry(handle).is_some();
        if claim.is_none() || self.directories().any(is_here) {
            return Err(StoreError::AlreadyExists { handle });
        }
        let fittest = self.fittest()?;
        let pending = fittest.create_pending(new)?;
        self.changed(fittest, handle);
        Ok((Arc::clone(fittest), pending))
    }

    /// The right to make a chunk of this handle, in whichever directory; `None` if somebody has it.
    #[must_use]
    pub fn claim(&self, handle: ChunkHandle) -> Option<Claim> {
        Claim::new(&self.in_the_making, handle)
    }

    /// Where a copy of a chunk goes: into the directory that has something of its handle, be it
    /// only a damaged file; else into the served one with the most room.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] if that directory is not served, [`StoreError::NotAdopted`]
    /// while none is.
    pub fn directory_for_copy(&self, handle: ChunkHandle) -> Result<&Arc<Directory>, StoreError> {
        let has_of_it = |place: &&Place| {
            let is_damaged = |problem: &Problem| problem.handle == Some(handle);
            place.directory.entry(handle).is_some()
                || place.directory.problems().iter().any(is_damaged)
        };
        match self.places.iter().find(has_of_it) {
            Some(place) if place.is_served.load(Ordering::Acquire) => Ok(&place.directory),
            Some(_) => Err(StoreError::AlreadyExists { handle }),
            None => self.fittest(),
        }
    }

    /// The served directory that is to take the next chunk: of those whose disks are well the one
    /// with the most room.
    fn fittest(&self) -> Result<&Arc<Directory>, StoreError> {
        let now = Instant::now();
        let worth = |place: &&Place| {
            let directory = &place.directory;
            let fitness = match directory.is_poisoned() {
                true => Fitness::Unfit,
                false => place.health.fitness(now),
            };
            // Asking a disk that hangs may hang.
            let space = place.health.space().or_else(|| directory.space().ok());
            (fitness, space.unwrap_or_default().free)
        };
        let served = self
            .places
            .iter()
            .filter(|it| it.is_served.load(Ordering::Acquire));
        let fittest = served.max_by_key(worth).ok_or(StoreError::NotAdopted)?;
        match fittest.directory.is_poisoned() || !fittest.health.hangs(now) {
            true => Ok(&fittest.directory),
            false => Err(StoreError::io(
                Operation::Write,
                fittest.directory.root().to_owned(),
                io::ErrorKind::TimedOut.into(),
            )),
        }
    }

    /// The directories that are served: the master lets them count, and they have kept its epoch.
    pub fn served(&self) -> impl Iterator<Item = &Arc<Directory>> {
        let served = self
            .places
            .iter()
            .filter(|it| it.is_served.load(Ordering::Acquire));
        served.map(|place| &place.directory)
    }

    /// Tells that the inventory's entry of a chunk has changed.
    pub fn changed(&self, directory: &Directory, handle: ChunkHandle) {
        self.members.look_again(handle);
        let directory = directory.identity().directory_id;
        self.notify(Notice::Changed { directory, handle });
    }

    /// Tells that the medium failed under a read.
    pub fn doubt(&self, directory: &Directory, handle: ChunkHandle, version: ChunkVersion) {
        self.counters.medium_errors.add(1);
        let directory = directory.identity().directory_id;
        self.notify(Notice::Doubtful {
            directory,
            handle,
            version,
        });
    }

    /// Tells what the master is to act on.
    pub fn chain_trouble(&self, report: ReportChain) {
        self.notify(Notice::ChainTrouble(report));
    }

    fn notify(&self, notice: Notice) {
        // Nobody listens any more when the server is at its end.
        let _ = self.notices.send(notice);
    }

    /// Counts a read, for the heartbeat's heat.
    pub fn count_read(&self, handle: ChunkHandle) {
        let mut heat = self.heat();
        if heat.len() < HEAT_TRACKED_MAX || heat.contains_key(&handle) {
            let reads = heat.entry(handle).or_default();
            *reads = reads.saturating_add(1);
        }
    }

    /// The most read chunks since the last call, at most `max`.
    #[must_use]
    pub fn take_heat(&self, max: usize) -> Vec<Heat> {
        let counted = std::mem::take(&mut *self.heat());
        let heat = counted
            .into_iter()
            .map(|(handle, reads)| Heat { handle, reads });
        let mut heat: Vec<Heat> = heat.collect();
        heat.sort_unstable_by_key(|heat| (std::cmp::Reverse(heat.reads), heat.handle));
        heat.truncate(max);
        heat
    }

    fn heat(&self) -> MutexGuard<'_, HashMap<ChunkHandle, u32>> {
        lock(&self.heat)
    }
}

/// The right to make a chunk of a handle; given back on drop.
#[derive(Debug)]
pub struct Claim {
    claimed: Arc<Mutex<HashSet<ChunkHandle>>>,
    handle: ChunkHandle,
}

impl Claim {
    /// `None` if somebody has it.
    fn new(claimed: &Arc<Mutex<HashSet<ChunkHandle>>>, handle: ChunkHandle) -> Option<Self> {
        let is_free = lock(claimed).insert(handle);
        is_free.then(|| Self {
            claimed: Arc::clone(claimed),
            handle,
        })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.claimed).remove(&self.handle);
    }
}

/// Takes a lock, also after a panic elsewhere: what is under these is whole between calls.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a directory says of its start, without a server id.
fn start_of(directory: &Directory) -> Start {
    let identity = directory.identity();
    Start {
        server_id: ServerId::NONE,
        directory_id: identity.directory_id,
        start_number: identity.start_number,
        start_nonce: identity.start_nonce,
    }
}

/// The wall clock in milliseconds since 1970, which tickets expire by.
#[must_use]
pub fn wall_clock() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What is told to who wants something of a disk that answers nobody any more.
#[must_use]
pub fn disk_hangs() -> Refusal {
    let error = ErrorBody::new("the disk does not answer");
    (Status::MediumFailed, error)
}

/// What a peer is told of an error of the store.
#[must_use]
pub fn status_of(error: &StoreError) -> Status {
    match error {
        StoreError::NotFound { .. } => Status::ChunkUnknown,
        StoreError::AlreadyExists { .. } => Status::ChunkExists,
        StoreError::OtherVersion { .. } => Status::Moved,
        StoreError::OtherState { .. } => Status::ChunkOpen,
        StoreError::Closed { .. } => Status::ChunkSealed,
        StoreError::NotContiguous { .. } => Status::OutOfOrder,
        StoreError::BeyondRoom { .. } | StoreError::PieceCount { .. } => Status::InvalidArgument,
        StoreError::SealMismatch { .. } => Status::SealMismatch,
        StoreError::StaleEpoch { .. } | StoreError::ForkedEpoch { .. } => Status::StaleEpoch,
        StoreError::OtherCluster { .. } | StoreError::OtherServer { .. } => {
            Status::ForeignDirectory
        }
        StoreError::NoSpace { .. } => Status::NoSpace,
        StoreError::Io { .. } if error.is_short_of_means() => Status::Overloaded,
        StoreError::Io { .. } => Status::MediumFailed,
        StoreError::Poisoned { .. } | StoreError::DirectoryPoisoned => Status::Poisoned,
        StoreError::Corrupt { .. }
        | StoreError::HeaderDamaged { .. }
        | StoreError::CrcPageDamaged { .. }
        | StoreError::FileTooShort { .. }
        | StoreError::OtherFile { .. } => Status::Corrupt,
        StoreError::NotAdopted => Status::TicketInvalid,
        _ => Status::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::health::HANG_MAX;
    use crate::store::tests::scenario::{ADOPTION, START};
    use crate::store::{Space, Start as DirectoryStart};
    use sarsen_protocol::id::FileId;

    fn directory(root: &std::path::Path, number: u8) -> Arc<Directory> {
        let start = DirectoryStart {
            new_directory_id: DirectoryId([number; 16]),
            ..START
        };
        let opened = Directory::open(&root.join(number.to_string()), &start).expect("opens");
        opened.adopt(ADOPTION).expect("adopts");
        Arc::new(opened)
    }

    /// The directory with the most room was chosen whatever its disk did: one that hung, or
    /// failed, was chosen again and again, and the others never.
    #[test]
    fn a_chunk_goes_to_a_disk_that_is_well() {
        let root = tempfile::tempdir().expect("a folder");
        let directories = [1, 2].map(|number| directory(root.path(), number));
        let (chunkserver, _noticed) = Chunkserver::new(SecretKey::new([0; 32]), directories.into());
        let ids = [1, 2].map(|number| DirectoryId([number; 16]));
        chunkserver.register(TicketKeys::default(), &ids, Duration::ZERO);
        let [first, second] = ids.map(|id| chunkserver.health(id).expect("known"));
        let (now, room) = (Instant::now(), |free| Space {
            total: 1 << 40,
            free,
        });
        first.read(now, room(1 << 39));
        second.read(now, room(1 << 38));
        let chosen = || {
            let fittest = chunkserver.fittest()?;
            Ok::<_, StoreError>(fittest.identity().directory_id)
        };
        assert_eq!(chosen().expect("one"), ids[0], "the most room");
        first.write_failed(now);
        assert_eq!(chosen().expect("one"), ids[1]);
        first.written(now);
        assert_eq!(chosen().expect("one"), ids[0]);
        let Some(long_ago) = now.checked_sub(HANG_MAX) else {
            return eprintln!("not tested: the machine has only just started");
        };
        first.written(long_ago);
        assert_eq!(chosen().expect("one"), ids[1]);
        second.written(long_ago);
        let refused = chosen();
        assert!(matches!(refused, Err(StoreError::Io { .. })), "{refused:?}");
    }

    /// Each read that waited for a disk that hung kept a blocking thread, until reads of the other disks
    /// found none; and its reader waited for ever.
    #[test]
    fn a_disk_that_hangs_leaves_threads_to_the_others() {
        let root = tempfile::tempdir().expect("a folder");
        let directories = [1, 2].map(|number| directory(root.path(), number));
        let [first, second] = directories.clone();
        let (chunkserver, _noticed) = Chunkserver::new(SecretKey::new([0; 32]), directories.into());
        let chunkserver = Arc::new(chunkserver);
        let health = chunkserver.health(first.identity().directory_id);
        let health = Arc::clone(health.expect("known"));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .max_blocking_threads(WAITS_MAX + 1)
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let (hangs, answers) = std::sync::mpsc::channel::<()>();
            let answers = Arc::new(Mutex::new(answers));
            let read = || {
                let (chunkserver, first) = (Arc::clone(&chunkserver), Arc::clone(&first));
                let answers = Arc::clone(&answers);
                let read = move || answers.lock().expect("not poisoned").recv().is_ok();
                tokio::spawn(async move { chunkserver.at_disk(&first, read).await })
            };
            let reads: Vec<_> = (0..2 * WAITS_MAX).map(|_| read()).collect();
            for _ in 0..2 * WAITS_MAX {
                // Each has asked for its thread by then.
                tokio::task::yield_now().await;
            }
            let other = chunkserver.at_disk(&second, || 5);
            let other = tokio::time::timeout(Duration::from_secs(30), other).await;
            assert_eq!(other, Ok(Ok(5)));
            let Some(long_ago) = Instant::now().checked_sub(HANG_MAX) else {
                return eprintln!("not tested: the machine has only just started");
            };
            health.written(long_ago);
            for read in reads {
                assert_eq!(read.await.expect("no panic"), Err(disk_hangs()));
            }
            drop(hangs);
        });
    }

    /// A server looked for the handle first and chose a directory then: two openings at the same
    /// moment could each take another directory, and so could one beside a directory that the
    /// master doesn't let count. Reads and deletes would have met either of the two.
    #[test]
    fn a_handle_is_in_one_directory_at_most() {
        let root = tempfile::tempdir().expect("a folder");
        let directories = [1, 2].map(|number| directory(root.path(), number));
        let (chunkserver, _noticed) = Chunkserver::new(SecretKey::new([0; 32]), directories.into());
        let [first, second] = [1, 2].map(|number| DirectoryId([number; 16]));
        let new = |handle| NewChunk {
            handle: ChunkHandle(handle),
            version: ChunkVersion(1),
            file_id: FileId(1),
            index: 0,
            room: 0,
        };
        let is_refused = |handle| {
            let refused = chunkserver.create(&new(handle));
            matches!(refused, Err(StoreError::AlreadyExists { .. }))
        };

        chunkserver.register(TicketKeys::default(), &[first], Duration::ZERO);
        let (chosen, _) = chunkserver.create(&new(1)).expect("made");
        assert_eq!(chosen.identity().directory_id, first);
        chunkserver.register(TicketKeys::default(), &[second], Duration::ZERO);
        assert!(is_refused(1), "it lies in the first");

        let other = Claim::new(&chunkserver.in_the_making, ChunkHandle(2));
        assert!(is_refused(2) && is_refused(2), "somebody goes on making it");
        drop(other);
        chunkserver.create(&new(2)).expect("made");
        chunkserver
            .create(&new(3))
            .expect("the claims are given back");
    }
}
