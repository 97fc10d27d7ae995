//! Open chunks at work (`spec/replication.md`, `spec/wire.md` section 12.3): each has one machine,
//! [`crate::core::mutation::Replica`], and one [`actor`] that drives it.
//!
//! Without a runtime, for the actor as for the simulator:
//!
//! - [`worker`]: the machine and its way to the store; [`lane`]: one action of the machine's on the disk;
//! - [`frames`]: frames of mutation streams, as the machine is told;
//!
//! and with one:
//!
//! - [`actor`]: the task of a chunk, on a thread of the data plane; [`inbox`]: its queues;
//! - [`stream`]: mutation streams that come in; [`hop`]: the way on to the next member;
//! - [`journal`]: a directory's journal and its thread;
//! - [`reading`]: reads of the committed state.
//!
//! Nothing about one chunk is decided in two places. A chunk has its thread, and what is told to it
//! over streams is received there. Two chunks don't wait for each other, but where a brief append
//! ([`crate::core::brief_work`]) hangs on its disk: then the chunks of that one thread do.
//!
//! An actor is made when something is told to a chunk that this server has, or is to make, and goes
//! when the chunk is sealed and at rest. Where its thread has panicked, the next one begins from what
//! the store has, as after a restart: it takes no mutation of the version that it was in.

mod actor;
pub mod frames;
mod hop;
mod inbox;
mod journal;
pub mod lane;
pub mod reading;
mod room;
pub(super) mod stream;
pub mod worker;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, DirectoryId, Serial};
use sarsen_protocol::message::{HeldLease, Newest, WriteOpen};
use sarsen_protocol::status::Status;
use tokio::sync::{mpsc, oneshot};

use self::actor::Actor;
use self::inbox::{Inbox, Input, ReadAsked, lock};
use self::journal::Journal;
use self::room::Room;
use self::worker::{Readable, Worker};
use super::chunkserver::Chunkserver;
use crate::core::brief_work::is_one_left;
use crate::core::member::Refusal;
use crate::core::mutation::{Answer, Order, StreamId, WantedLease};
use crate::store::Directory;

/// Milliseconds of silence after which a member serves no reads, until the master has told its own.
const DEAD_AFTER_DEFAULT: u64 = 10_000;

/// The open chunks of a chunkserver.
#[derive(Debug)]
pub struct Members {
    began: Instant,
    places: Mutex<HashMap<ChunkHandle, Arc<Place>>>,
    /// The data plane's threads, which run actors and serve the streams to their chunks.
    hosts: Mutex<Vec<mpsc::UnboundedSender<Hosted>>>,
    /// Threads that are at brief work.
    busy: Arc<AtomicUsize>,
    /// What frames of reads take.
    room: Room,
    journals: Mutex<HashMap<DirectoryId, Arc<Journal>>>,
    last_stream: AtomicU64,
    /// In milliseconds, as the master told it.
    dead_after: AtomicU64,
}

/// A thread that is at brief work.
struct Busy(Arc<AtomicUsize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What is on the thread of a chunk.
pub(super) enum Hosted {
    Actor(Box<Actor>),
    Stream(stream::Handed),
}

/// What others see of a chunk's actor.
#[derive(Debug)]
struct Place {
    inbox: Arc<Inbox>,
    journal: Arc<Journal>,
    /// The chunk is not read as a sealed one.
    is_open: AtomicBool,
    lease: Mutex<Option<WantedLease>>,
}

impl Members {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            places: Mutex::default(),
            hosts: Mutex::default(),
            busy: Arc::default(),
            room: Room::default(),
            journals: Mutex::default(),
            last_stream: AtomicU64::new(0),
            dead_after: AtomicU64::new(DEAD_AFTER_DEFAULT),
        }
    }

    /// Silence of a chain after which its members serve no reads (`spec/replication.md` section 12).
    pub fn set_dead_after(&self, dead_after: Duration) {
        let millis = u64::try_from(dead_after.as_millis()).unwrap_or(u64::MAX);
        self.dead_after.store(millis.max(1), Ordering::Relaxed);
    }

    /// A thread that runs actors and serves streams from now on, until it drops the other end.
    pub(super) fn host(&self) -> mpsc::UnboundedReceiver<Hosted> {
        let (host, hosted) = mpsc::unbounded_channel();
        lock(&self.hosts).push(host);
        hosted
    }

    /// A thread is to do brief work, if one is left for all else.
    fn enter_brief(&self) -> Option<Busy> {
        let threads = {
            let mut hosts = lock(&self.hosts);
            // One that has panicked does nothing else meanwhile.
            hosts.retain(|host| !host.is_closed());
            hosts.len()
        };
        let more = |busy| is_one_left(busy, threads).then_some(busy + 1);
        let entered = self
            .busy
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        entered.ok().map(|_| Busy(Arc::clone(&self.busy)))
    }

    /// Hands an order of the master to its chunk, whose epoch and connection were compared. `answer` is
    /// called once, on a thread that must not wait.
    ///
    /// # Errors
    /// [`Untold`]; then it is not called.
    pub fn order(
        &self,
        chunkserver: &Chunkserver,
        order: Order,
        answer: impl FnOnce(Result<Answer, Refusal>) + Send + 'static,
    ) -> Result<(), Untold> {
        let (handle, directory) = whose(&order);
        let input = Input::Order(order, Box::new(answer));
        self.tell(chunkserver, handle, directory, input).map(drop)
    }

    /// Which state of a chunk is the newest. The ticket was compared.
    ///
    /// # Errors
    /// [`Untold`].
    pub fn newest(
        &self,
        chunkserver: &Chunkserver,
        newest: Newest,
        answer: impl FnOnce(Result<Answer, Refusal>) + Send + 'static,
    ) -> Result<(), Untold> {
        let handle = newest.handle;
        let input = Input::Newest(newest, Box::new(answer));
        self.tell(chunkserver, handle, None, input).map(drop)
    }

    /// The leases that are to go on: of primaries with work.
    #[must_use]
    pub fn wanted_leases(&self) -> Vec<HeldLease> {
        let places = lock(&self.places);
        let wanted = places.iter().filter_map(|(&handle, place)| {
            let lease = (*lock(&place.lease))?;
            Some(HeldLease {
                handle,
                version: lease.version,
                length: lease.length,
                serial: lease.serial,
            })
        });
        wanted.collect()
    }

    /// A lease goes on until so long after [`Self::now`] was 0.
    pub fn lease_extended(&self, handle: ChunkHandle, version: ChunkVersion, until: Duration) {
        if let Some(place) = self.find(handle) {
            // An actor that has ended orders nothing.
            let _ = place.inbox.push(Input::LeaseExtended(version, until));
        }
    }

    /// What the machines measure time by.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Something of a chunk has changed in its directory: a copy may have taken its place, or it was
    /// deleted.
    pub(crate) fn look_again(&self, handle: ChunkHandle) {
        if let Some(place) = self.find(handle) {
            // One that has ended begins from what is there now.
            let _ = place.inbox.push(Input::LookAgain);
        }
    }

    /// The medium failed so under a read of an open chunk.
    pub(crate) fn read_failed(&self, handle: ChunkHandle, status: Status) {
        if let Some(place) = self.find(handle) {
            // One that has ended is no member of anything.
            let _ = place.inbox.push(Input::ReadFailed(status));
        }
    }

    /// Whether a chunk is not read as a sealed one.
    #[must_use]
    pub fn is_open(&self, chunkserver: &Chunkserver, handle: ChunkHandle) -> bool {
        if let Some(place) = self.find(handle) {
            return place.is_open.load(Ordering::Acquire);
        }
        // One that a start found open, and that nobody has asked for yet.
        let directory = chunkserver.directory_of(handle);
        let chunk = directory.and_then(|directory| directory.open_chunk(handle));
        chunk.is_some_and(|chunk| chunk.was_changed())
    }

    /// Whether a stream is one of mutations: a pending chunk begins at serial 0, and is not here yet.
    #[must_use]
    pub fn takes(&self, chunkserver: &Chunkserver, open: &WriteOpen) -> bool {
        let handle = open.handle;
        let is_open_here = || {
            let directory = chunkserver.directory_of(handle);
            directory.is_some_and(|directory| directory.open_chunk(handle).is_some())
        };
        open.begin_serial.is_some() || open.lock_token != 0 || is_open_here()
    }

    /// Lets a plain read of at least this state in.
    async fn read(
        &self,
        chunkserver: &Chunkserver,
        handle: ChunkHandle,
        version: ChunkVersion,
        serial: Serial,
    ) -> Result<Result<Readable, Refusal>, Untold> {
        let (answer, answered) = oneshot::channel();
        let asked = ReadAsked {
            version,
            serial,
            answer,
        };
        self.tell(chunkserver, handle, None, Input::Read(Box::new(asked)))?;
        // An actor that ends drops what it has not answered.
        answered.await.map_err(|_| UnknownChunk.into())
    }

    pub(super) fn next_stream(&self) -> StreamId {
        StreamId(self.last_stream.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Tells a chunk's actor, which is made if the chunk is here, or is to be made in `directory`.
    fn tell(
        &self,
        chunkserver: &Chunkserver,
        handle: ChunkHandle,
        directory: Option<DirectoryId>,
        mut input: Input,
    ) -> Result<Arc<Inbox>, Untold> {
        loop {
            let place = self.place(chunkserver, handle, directory)?;
            match place.inbox.push(input) {
                Ok(()) => return Ok(Arc::clone(&place.inbox)),
                Err(given_back) => {
                    // It has ended this moment.
                    self.forget(handle, &place);
                    input = given_back;
                }
            }
        }
    }

    fn find(&self, handle: ChunkHandle) -> Option<Arc<Place>> {
        lock(&self.places).get(&handle).cloned()
    }

    /// Takes an actor that has ended from the books.
    fn forget(&self, handle: ChunkHandle, ended: &Arc<Place>) {
        let mut places = lock(&self.places);
        if places
            .get(&handle)
            .is_some_and(|place| Arc::ptr_eq(place, ended))
        {
            places.remove(&handle);
        }
    }

    fn place(
        &self,
        chunkserver: &Chunkserver,
        handle: ChunkHandle,
        directory: Option<DirectoryId>,
    ) -> Result<Arc<Place>, Untold> {
        let mut places = lock(&self.places);
        if let Some(place) = places.get(&handle) {
            return Ok(Arc::clone(place));
        }
        let holder = holder(chunkserver, handle, directory)?;
        let journal = self.journal(holder.identity().directory_id);
        let dead_after = Duration::from_millis(self.dead_after.load(Ordering::Relaxed));
        let worker = Worker::new(chunkserver, holder, handle, dead_after);
        let place = Arc::new(Place {
            inbox: Arc::default(),
            journal,
            is_open: AtomicBool::new(worker.is_open()),
            lease: Mutex::default(),
        });
        place.journal.listen(&place.inbox);
        let actor = Actor::new(handle, Arc::clone(&place), worker, self.began);
        let actor = Hosted::Actor(Box::new(actor));
        self.give_to_host(handle, actor)
            .map_err(|_| Untold::NoThread)?;
        places.insert(handle, Arc::clone(&place));
        Ok(place)
    }

    fn journal(&self, id: DirectoryId) -> Arc<Journal> {
        Arc::clone(lock(&self.journals).entry(id).or_default())
    }

    /// Gives something of a chunk to its thread; back if there is no thread.
    fn give_to_host(&self, handle: ChunkHandle, mut hosted: Hosted) -> Result<(), Hosted> {
        let mut hosts = lock(&self.hosts);
        loop {
            let count = hosts.len() as u64;
            let index = handle.0.checked_rem(count).unwrap_or(0);
            let index = usize::try_from(index).unwrap_or(0);
            let Some(host) = hosts.get(index) else {
                return Err(hosted);
            };
            match host.send(hosted) {
                Ok(()) => return Ok(()),
                Err(given_back) => {
                    // The thread has ended, and begins anew as another host.
                    hosts.remove(index);
                    hosted = given_back.0;
                }
            }
        }
    }
}

/// Nothing of the chunk is here, or nobody may work at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such chunk is here")]
pub struct UnknownChunk;

/// Why a chunk is told nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Untold {
    /// It is not here.
    #[error(transparent)]
    Unknown(#[from] UnknownChunk),
    /// Every thread of the data plane begins anew, or it comes to its end.
    #[error("no thread is there to work at the chunk; ask again")]
    NoThread,
}

impl Untold {
    /// What the peer is told. Only the first says something of the replica.
    #[must_use]
    pub const fn status(self) -> Status {
        match self {
            Self::Unknown(_) => Status::ChunkUnknown,
            Self::NoThread => Status::Overloaded,
        }
    }
}

/// The served directory that has a chunk, or is to have it when it is made.
///
/// # Errors
/// There is none.
pub fn holder(
    chunkserver: &Chunkserver,
    handle: ChunkHandle,
    made_in: Option<DirectoryId>,
) -> Result<Arc<Directory>, UnknownChunk> {
    let is_it = |it: &&Arc<Directory>| Some(it.identity().directory_id) == made_in;
    let holder = chunkserver.directory_of(handle);
    let holder = holder.or_else(|| chunkserver.served().find(is_it));
    holder.map(Arc::clone).ok_or(UnknownChunk)
}

/// Which chunk an order is for, and where that is to be made.
#[must_use]
pub fn whose(order: &Order) -> (ChunkHandle, Option<DirectoryId>) {
    use crate::core::member::Order as Change;
    match order {
        Order::Change(Change::Promise(order)) => (order.handle, None),
        Order::Change(Change::Begin(order)) => {
            let is_new = order.create.is_some();
            (order.handle, is_new.then_some(order.directory_id))
        }
        Order::Change(Change::PrepareSeal(order)) => (order.handle, None),
        Order::Change(Change::Settle(order)) => (order.handle, None),
        Order::Grant(order) => (order.handle, None),
        Order::Revoke(order) => (order.handle, None),
    }
}

#[cfg(test)]
mod tests {
    use sarsen_protocol::id::Epoch;
    use sarsen_protocol::key::SecretKey;
    use sarsen_protocol::message::{Level, Promise};

    use super::*;
    use crate::core::action::DeleteOrder;
    use crate::core::member;
    use crate::core::tickets::TicketKeys;
    use crate::server::orders::Deletes;
    use crate::store::tests::scenario::{ADOPTION, START, Sample};

    /// A chunkserver that serves a directory with a sealed chunk.
    fn served() -> (tempfile::TempDir, Arc<Chunkserver>, Sample) {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = Directory::open(&folder.path().join("d"), &START).expect("opens");
        directory.adopt(ADOPTION).expect("adopts");
        let sample = Sample::new(1, 100);
        sample.store(&directory, Level::Disk).expect("sealed");
        let id = directory.identity().directory_id;
        let key = SecretKey::new([0; 32]);
        let (server, _notices) = Chunkserver::new(key, vec![Arc::new(directory)]);
        server.register(TicketKeys::new(&[]), &[id], Duration::from_secs(3));
        (folder, Arc::new(server), sample)
    }

    fn promise(sample: &Sample) -> Order {
        Order::Change(member::Order::Promise(Promise {
            epoch: Epoch::NONE,
            handle: sample.handle,
            version: ChunkVersion(sample.version.0 + 5),
        }))
    }

    /// What an actor had not come to yet when it ended was dropped, and its connection waited.
    #[test]
    fn who_waits_for_an_actor_that_ends_is_answered() {
        let (_folder, server, sample) = served();
        let hosted = server.members.host();
        let (tell, told) = std::sync::mpsc::channel();
        let answer = move |answer| tell.send(answer).expect("somebody hears it");
        let ordered = server.members.order(&server, promise(&sample), answer);
        ordered.expect("it is here");
        // Its thread ends before it came to the chunk.
        drop(hosted);
        let answer = told.try_recv().expect("an answer");
        assert!(matches!(answer, Err((Status::Internal, _))), "{answer:?}");
    }

    /// An order that came while every thread began anew was answered as if nothing of the chunk were here: the
    /// master believed that, and left the member out.
    #[test]
    fn that_nobody_can_work_at_it_says_nothing_of_a_chunk() {
        let (_folder, server, mut sample) = served();
        let order = |sample: &Sample| server.members.order(&server, promise(sample), drop);
        let untold = order(&sample).expect_err("there is no thread");
        assert_eq!(
            (untold, untold.status()),
            (Untold::NoThread, Status::Overloaded)
        );
        sample.handle.0 += 1;
        let untold = order(&sample).expect_err("it is not here");
        assert_eq!(untold.status(), Status::ChunkUnknown);
    }

    /// A thread that had panicked was counted as the one that is left for all else.
    #[test]
    fn a_thread_that_has_ended_is_left_for_nothing() {
        let (server, _notices) = Chunkserver::new(SecretKey::new([0; 32]), vec![]);
        let (one, _other) = (server.members.host(), server.members.host());
        let busy = server.members.enter_brief();
        assert!(busy.is_some() && server.members.enter_brief().is_none());
        drop(one);
        let _third = server.members.host();
        assert!(server.members.enter_brief().is_none());
    }

    /// An actor looked again when a deletion was announced, and found nothing changed; of the deletion
    /// itself it was told nothing, and went on promising and serving what was gone.
    #[test]
    fn an_actor_hears_that_its_chunk_was_deleted() {
        let (_folder, server, sample) = served();
        let _hosted = server.members.host();
        let ordered = server.members.order(&server, promise(&sample), drop);
        ordered.expect("it is here");
        let deletes = Deletes::announce(
            &server,
            vec![DeleteOrder {
                connection: 1,
                request_id: 1,
                handle: sample.handle,
                version: sample.version,
            }],
        );
        let inbox = Arc::clone(&server.members.find(sample.handle).expect("works").inbox);
        let mut inputs = Vec::new();
        inbox.take(&mut inputs);
        inputs.clear();
        assert!(deletes.run().iter().all(Result::is_ok));
        inbox.take(&mut inputs);
        assert!(matches!(inputs[..], [Input::LookAgain]));
    }
}
