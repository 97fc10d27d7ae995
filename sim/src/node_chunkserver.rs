//! A chunkserver's process: the shipped machine, store and streams, and what `chunkd/src/server`
//! and `chunkd/src/net` do around them.
//!
//! - [`control`]: the master: registration, heartbeats, inventories, orders, upkeep of the disks;
//! - [`writes`]: write streams; [`reads`]: read streams; [`copies`]: chunks pulled from others;
//! - [`open_chunks`]: open chunks at work, with [`mutation_streams`] and [`journals`];
//! - [`questions`]: the control port.
//!
//! What waits for a disk is an event some time later, and is done whole at that moment, unless
//! the process dies inside of it.

mod control;
mod copies;
mod due;
mod ids;
mod journals;
mod mutation_streams;
mod open_chunks;
mod questions;
mod reads;
mod writes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sarsen_chunkd::core::action::ToKeep;
use sarsen_chunkd::core::machine::{Machine, MachineConfig};
use sarsen_chunkd::net::Chunkserver;
use sarsen_chunkd::net::chunkserver::Notice;
use sarsen_chunkd::server::orders::Deletes;
use sarsen_chunkd::server::told_of_disk;
use sarsen_chunkd::store::{Directory, Space, Start, StoreError};
use sarsen_protocol::deframe::Frame;
use sarsen_protocol::id::{
    ChunkHandle, ChunkVersion, ClusterId, DirectoryId, ServerId, StartNonce,
};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{AnyMessage, DirectoryReport, Kind, Plane, Role, WriteOpen};

use crate::disk::tree::SimTree;
use crate::disk::{Disk, NamesKept};
use crate::net::{ConnId, Hello, Input, Node};
use crate::node_master::Health;
use crate::observation::Observation;
use crate::world::{Event, World};

use self::control::MasterLink;
use self::copies::{CopyId, CopyStep, Copying};
use self::open_chunks::OpenChunks;
use self::reads::Reading;
use self::writes::{IdleHops, StoreJob, Stream, StreamId};

/// Free bytes that a beat finds before the first one was made.
const UNKNOWN_SPACE: Space = Space { total: 0, free: 0 };

/// What is planned for a chunkserver process.
#[derive(Debug)]
pub enum ChunkserverEvent {
    /// The machine's time has come.
    Tick,
    /// What the machine wants kept is written.
    Keep(ConnId, ToKeep),
    /// The master has not answered for long.
    AnswerDue(ConnId, u64),
    /// A slice of an inventory is read.
    Slice(ConnId, DirectoryId, Option<ChunkHandle>),
    /// Orders to delete run.
    Delete(Deletes),
    /// A replica is read back: for an order, or because it is in doubt.
    Verify(
        DirectoryId,
        ChunkHandle,
        ChunkVersion,
        Option<(ConnId, u64)>,
    ),
    /// What was sealed at `memory` is synced, what is in doubt read back.
    Settle(DirectoryId),
    /// The holding folder is emptied.
    Empty(DirectoryId),
    /// A stream's next job is done.
    Store(StreamId, StoreJob),
    /// Has a stream's next hop fallen silent?
    StreamDue(StreamId),
    /// A step of a copy is done by the disk.
    Copy(CopyId, CopyStep),
    /// Has a copy's source fallen silent?
    CopyDue(CopyId),
    /// The next part of a read is sent.
    Part(ConnId, u64),
    /// The turn of an open chunk.
    Turn(ChunkHandle),
    /// The next action of an open chunk's lane; of which life of the chunk in this process.
    Lane(ChunkHandle, u64),
    /// A flush of an open chunk; of which life.
    Flush(ChunkHandle, u64),
    /// A journal's next batch.
    Journal(DirectoryId),
    /// A step of trimming a journal.
    Trim(DirectoryId),
    /// The store answers a question.
    Question(ConnId, u64, Box<AnyMessage>),
}

/// One data directory on its own disk.
#[derive(Debug)]
struct Place {
    directory: Arc<Directory>,
    disk: Disk,
    last_beat: Duration,
    space: Space,
    has_failed: bool,
    is_settling: bool,
    is_emptying: bool,
}

/// A chunkserver's machine and, while it runs, its process.
#[derive(Debug)]
pub struct ChunkserverNode {
    /// Which machine.
    pub machine: u8,
    /// Where its chunks are, a disk each directory.
    pub disks: Vec<Disk>,
    /// How many times slower the disks are than usual.
    pub slowness: u32,
    /// Whether each start listens at another address.
    pub moves: bool,
    boots: u64,
    process: Option<Process>,
}

struct Process {
    node: Node,
    number: u8,
    boot: u64,
    slowness: u32,
    began: Duration,
    machine: Machine,
    server: Arc<Chunkserver>,
    notices: Notices,
    places: Vec<Place>,
    address: String,
    heartbeat: Duration,
    master: Option<MasterLink>,
    next_tick: Option<Duration>,
    // The data plane.
    accepted: BTreeMap<ConnId, Plane>,
    last_stream: u64,
    streams: BTreeMap<StreamId, Stream>,
    upstreams: BTreeMap<ConnId, StreamId>,
    next_hops: BTreeMap<ConnId, StreamId>,
    idle_hops: IdleHops,
    readings: BTreeMap<ConnId, Reading>,
    copyings: BTreeMap<CopyId, Copying>,
    sources: BTreeMap<ConnId, CopyId>,
    open: OpenChunks,
}

/// What the data plane tells the control plane.
type Notices = Box<dyn FnMut() -> Option<Notice>>;

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} process {}", self.node, self.boot)
    }
}

impl ChunkserverNode {
    /// A machine with so many empty disks.
    #[must_use]
    pub fn new(machine: u8, disks: usize, moves: bool) -> Self {
        Self {
            machine,
            disks: (0..disks).map(|_| Disk::new(NamesKept::Prefix)).collect(),
            slowness: 1,
            moves,
            boots: 0,
            process: None,
        }
    }

    /// The machine's name.
    #[must_use]
    pub const fn node(&self) -> Node {
        Node::Chunkserver(self.machine)
    }

    /// How often it was started.
    #[must_use]
    pub const fn boots(&self) -> u64 {
        self.boots
    }

    /// Whether the process runs.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// The directories of the process, for whoever looks from outside.
    #[must_use]
    pub fn server(&self) -> Option<&Chunkserver> {
        self.process.as_ref().map(|process| &*process.server)
    }

    /// Whether the master counts it.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.process
            .as_ref()
            .is_some_and(|process| process.machine.is_registered())
    }

    /// Whether the process has died inside an operation.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.disks.iter().any(Disk::is_dead)
    }

    /// Ends the process.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Starts the process.
    pub fn start(&mut self, world: &World) -> Health {
        self.boots += 1;
        let mut places = Vec::new();
        for disk in &self.disks {
            disk.restart();
            let start = world.chance(|random| Start {
                nonce: StartNonce(random.next() | 1),
                new_directory_id: DirectoryId(random.bytes16()),
                scan_threads: 1,
                open_chunks_max: 16,
            });
            let opened = Directory::open_tree(Arc::new(SimTree(disk.clone())), &start);
            world.count_fired(disk);
            match opened {
                Ok(directory) if !disk.is_dead() => places.push(Place {
                    directory: Arc::new(directory),
                    disk: disk.clone(),
                    last_beat: world.now(),
                    space: UNKNOWN_SPACE,
                    has_failed: false,
                    is_settling: false,
                    is_emptying: false,
                }),
                Ok(_) => return Health::Ended,
                Err(error) => {
                    world.line(|| format!("{:?} can't open its directory: {error}", self.node()));
                    // Who was refused may have died before it said so: it is said at each start.
                    return match error {
                        StoreError::Stale { .. } => Health::Refused,
                        _ => Health::Ended,
                    };
                }
            }
        }
        let process = Process::new(self, places, world);
        world.line(|| format!("{:?} starts: boot {}", self.node(), self.boots));
        world.observe(&Observation::ChunkserverStarted {
            machine: self.machine,
            server: &process.server,
            is_full: self.disks.iter().any(Disk::is_full),
        });
        self.process = Some(process);
        self.after(world)
    }

    /// Something arrives.
    pub fn handle(&mut self, world: &World, input: Input) -> Health {
        if let Some(process) = &mut self.process {
            process.slowness = self.slowness;
            process.handle(world, input);
        }
        self.after(world)
    }

    /// Something planned is due.
    pub fn happen(&mut self, world: &World, boot: u64, event: ChunkserverEvent) -> Health {
        let Some(process) = self.process.as_mut().filter(|process| process.boot == boot) else {
            return Health::Runs;
        };
        process.slowness = self.slowness;
        process.happen(world, event);
        self.after(world)
    }

    fn after(&mut self, world: &World) -> Health {
        self.disks.iter().for_each(|disk| world.count_fired(disk));
        if self.is_dead() {
            return Health::Ended;
        }
        let Some(process) = &mut self.process else {
            return Health::Runs;
        };
        let health = process.after(world);
        self.disks.iter().for_each(|disk| world.count_fired(disk));
        match self.is_dead() {
            true => Health::Ended,
            false => health,
        }
    }
}

impl Process {
    fn new(of: &ChunkserverNode, mut places: Vec<Place>, world: &World) -> Self {
        let directories = places
            .iter()
            .map(|place| Arc::clone(&place.directory))
            .collect();
        let (server, mut noticed) = Chunkserver::new(SecretKey::new([0; 32]), directories);
        for place in &mut places {
            place.space = place.directory.space().unwrap_or_default();
            // What an earlier start left unsynced or in doubt is read back first of all.
            place.is_settling = true;
        }
        let epochs = places.iter().map(|place| place.directory.identity().epoch);
        let host = format!("c{}", of.machine);
        let address = match of.moves {
            true => format!("{host}:{}", 8000 + of.boots),
            false => format!("{host}:8000"),
        };
        let config = MachineConfig {
            masters: 1,
            control_addr: format!("{address}c"),
            data_addr: address.clone(),
            http_addr: format!("{address}h"),
            rack: String::new(),
            server_id: server.me(),
            epoch: epochs.max_by_key(|epoch| epoch.number).unwrap_or_default(),
            seed: world.chance(|random| random.next()),
        };
        let reports = places.iter().map(report).collect();
        let process = Self {
            node: of.node(),
            number: of.machine,
            boot: of.boots,
            slowness: of.slowness,
            began: world.now(),
            machine: Machine::new(config, reports),
            server: Arc::new(server),
            notices: Box::new(move || noticed.try_recv().ok()),
            places,
            address,
            heartbeat: Duration::from_secs(1),
            master: None,
            next_tick: None,
            accepted: BTreeMap::new(),
            last_stream: 0,
            streams: BTreeMap::new(),
            upstreams: BTreeMap::new(),
            next_hops: BTreeMap::new(),
            idle_hops: IdleHops::default(),
            readings: BTreeMap::new(),
            copyings: BTreeMap::new(),
            sources: BTreeMap::new(),
            open: OpenChunks::default(),
        };
        world.with_net(|net, _| net.start(process.node, process.boot));
        process.listen(world);
        for place in &process.places {
            let id = place.directory.identity().directory_id;
            process.plan_disk(world, ChunkserverEvent::Settle(id), 200, 3_000);
        }
        process
    }

    /// Listens, as whoever the directories say by now.
    fn listen(&self, world: &World) {
        let hello = self.hello();
        let control = format!("{}c", self.address);
        world.with_net(|net, _| {
            net.listen(self.node, &self.address, Plane::Data, hello);
            net.listen(self.node, &control, Plane::Control, hello);
        });
    }

    fn hello(&self) -> Hello {
        let identity = self.server.identity();
        Hello {
            role: Role::Chunkserver,
            cluster: identity.cluster_id,
            server: identity.start.server_id,
        }
    }

    fn elapsed(&self, world: &World) -> Duration {
        world.now().saturating_sub(self.began)
    }

    fn plan(&self, world: &World, after: Duration, event: ChunkserverEvent) {
        world.plan_in(after, Event::Chunkserver(self.number, self.boot, event));
    }

    /// Plans what waits for a disk, for so many microseconds.
    fn plan_disk(&self, world: &World, event: ChunkserverEvent, from: u64, to: u64) {
        let takes = world.chance(|random| random.micros(from, to)) * self.slowness;
        self.plan(world, takes, event);
    }

    fn place(&mut self, id: DirectoryId) -> Option<&mut Place> {
        let is_it = |place: &&mut Place| place.directory.identity().directory_id == id;
        self.places.iter_mut().find(is_it)
    }

    /// Whether a disk has died, and the process with it: nothing that it would say counts.
    fn is_dead(&self) -> bool {
        self.places.iter().any(|place| place.disk.is_dead())
    }

    fn handle(&mut self, world: &World, input: Input) {
        match input {
            Input::Accepted(conn, plane, _) => {
                self.accepted.insert(conn, plane);
            }
            Input::Dialled(conn, result) => {
                if self.next_hops.contains_key(&conn) {
                    self.next_hop_dialled(world, conn, result);
                } else if self.open.onward.contains_key(&conn) {
                    self.onward_dialled(world, conn, result);
                } else if self.sources.contains_key(&conn) {
                    self.source_dialled(world, conn, result);
                } else {
                    self.master_dialled(world, conn, result);
                }
            }
            Input::Frame(conn, frame) => self.frame(world, conn, frame),
            Input::Ended(conn) => self.ended(world, conn),
        }
    }

    fn frame(&mut self, world: &World, conn: ConnId, frame: Frame) {
        let kind = frame.header.kind;
        world.line(|| {
            let (id, status) = (frame.header.request_id, frame.header.status);
            format!("{:?} <- {conn:?} {} #{id} {status}", self.node, kind.name())
        });
        if self
            .master
            .as_ref()
            .is_some_and(|master| master.conn == conn)
        {
            self.master_says(world, &frame);
        } else if self.next_hops.contains_key(&conn) {
            self.next_hop_says(world, conn, &frame);
        } else if self.open.onward.contains_key(&conn) {
            self.onward_says(world, conn, &frame);
        } else if self.sources.contains_key(&conn) {
            self.source_says(world, conn, frame);
        } else if self.idle_hops.forget(conn) {
            // An idle connection has nothing to say.
            world.close(self.node, conn);
        } else if self.accepted.get(&conn) == Some(&Plane::Control) {
            self.asked(world, conn, &frame);
        } else if self.accepted.contains_key(&conn) {
            match kind {
                _ if self.upstreams.contains_key(&conn) => self.upstream_says(world, conn, frame),
                _ if self.open.streams.contains_key(&conn) => {
                    self.incoming_says(world, conn, frame);
                }
                Kind::WriteOpen => self.open_some_stream(world, conn, &frame),
                Kind::Read | Kind::ReadCut => self.open_reading(world, conn, &frame),
                Kind::ChunkIds => self.tell_ids(world, conn, &frame),
                _ => self.drop_accepted(world, conn),
            }
        }
    }

    /// A peer opens a stream: of mutations, or of a chunk that it makes.
    fn open_some_stream(&mut self, world: &World, conn: ConnId, frame: &Frame) {
        let Ok(open) = frame.message::<WriteOpen>() else {
            return self.drop_accepted(world, conn);
        };
        match self.server.members.takes(&self.server, &open) {
            true => self.open_incoming(world, conn, frame.header.request_id, open),
            false => self.open_stream(world, conn, frame.header.request_id, open),
        }
    }

    /// Ends a connection that was accepted, with whatever runs over it.
    fn drop_accepted(&mut self, world: &World, conn: ConnId) {
        world.close(self.node, conn);
        self.accepted.remove(&conn);
        self.readings.remove(&conn);
        if let Some(stream) = self.upstreams.get(&conn).copied() {
            self.drop_stream(world, stream);
        }
        self.incoming_gone(world, conn);
    }

    fn ended(&mut self, world: &World, conn: ConnId) {
        world.line(|| format!("{:?}: {conn:?} has ended", self.node));
        if self
            .master
            .as_ref()
            .is_some_and(|master| master.conn == conn)
        {
            self.master_ended(world, conn);
        } else if self.next_hops.contains_key(&conn) {
            self.next_hop_gone(world, conn, "the next hop closed its connection");
        } else if self.open.onward.contains_key(&conn) {
            self.onward_gone(world, conn, "the next hop closed its connection");
        } else if self.sources.contains_key(&conn) {
            self.source_gone(world, conn, "the source closed its connection");
        } else if !self.idle_hops.forget(conn) {
            self.drop_accepted(world, conn);
        }
    }

    fn happen(&mut self, world: &World, event: ChunkserverEvent) {
        match event {
            ChunkserverEvent::Store(stream, job) => self.store_job_due(world, stream, job),
            ChunkserverEvent::StreamDue(stream) => self.stream_due(world, stream),
            ChunkserverEvent::Copy(copy, step) => self.copy_step_due(world, copy, step),
            ChunkserverEvent::CopyDue(copy) => self.source_due(world, copy),
            ChunkserverEvent::Part(conn, turn) => self.part_due(world, conn, turn),
            ChunkserverEvent::Turn(handle) => self.turn_due(world, handle),
            ChunkserverEvent::Lane(handle, life) => self.lane_due(world, handle, life),
            ChunkserverEvent::Flush(handle, life) => self.flush_due(world, handle, life),
            ChunkserverEvent::Journal(id) => self.journal_due(world, id),
            ChunkserverEvent::Trim(id) => self.trim_due(world, id),
            ChunkserverEvent::Question(conn, id, question) => {
                self.question_due(world, conn, id, &question);
            }
            event => self.control_due(world, event),
        }
    }
}

/// What a registration tells of a directory.
fn report(place: &Place) -> DirectoryReport {
    let identity = place.directory.identity();
    let (_, highest_handle, highest_version) = place.directory.extent();
    let registered = identity.known_starts.registered.unwrap_or_default();
    DirectoryReport {
        registered_number: registered.0,
        registered_nonce: registered.1,
        offered: identity.known_starts.offered.clone(),
        directory_id: identity.directory_id,
        start_number: identity.start_number,
        start_nonce: identity.start_nonce,
        disk: told_of_disk(&place.directory, place.space, place.has_failed),
        highest_handle,
        highest_version,
    }
}

/// Who answers a dial is who was meant.
fn is_server(hello: &Hello, server: ServerId) -> bool {
    hello.server == server && hello.cluster != ClusterId::NONE
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process marked its directories, which the master had refused, and died before it said so. Nobody
    /// gave it an empty folder, and it was started again and again.
    #[test]
    fn a_directory_that_was_refused_is_refused_at_each_start() {
        let world = World::new(1, false);
        let mut node = ChunkserverNode::new(0, 1, false);
        assert_eq!(node.start(&world), Health::Runs);
        let directories = node.server().into_iter().flat_map(Chunkserver::directories);
        directories.for_each(|it| it.mark_stale().expect("marked"));
        node.stop();
        for _ in 0..2 {
            assert_eq!(node.start(&world), Health::Refused);
        }
    }
}
