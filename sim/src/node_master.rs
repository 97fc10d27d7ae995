//! The master's process: the shipped machine and log, and what `master/src/driver.rs` does around
//! them.
//!
//! The log's thread is an event: what was appended meanwhile is one batch and one sync. What
//! the machine wants done it gets in the order in which it wants it.

mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sarsen_master::core::action::{Action, Failure};
use sarsen_master::core::command::{Command, Entry};
use sarsen_master::core::config::Config;
use sarsen_master::core::event::{ConnectionId, Now, OrderFailure, OrderId, Token};
use sarsen_master::core::machine::{Machine, Startup};
use sarsen_master::oplog::{self, Appender, CheckpointWriter, Folder, LogOptions, Position, prune};
use sarsen_master::start::{Fresh, StartError, replay, to_log};
use sarsen_protocol::deframe::{Frame, any_frame, error_frame};
use sarsen_protocol::id::{ChunkHandle, ClusterId, DirectoryId, RequestId, ServerId, SessionId};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{
    AnyMessage, ErrorBody, HeldChunk, Kind, Plane, PrepareSeal, Promise, Role,
};
use sarsen_protocol::sabotage::{self, Check};
use sarsen_protocol::status::{Retry, Status};

use crate::disk::folder::SimFolder;
use crate::disk::{Disk, NamesKept};
use crate::net::{ConnId, Hello, Input, Node};
use crate::observation::Observation;
use crate::world::{Event, World};

use self::told::Told;

/// Where the master listens.
pub const ADDRESS: &str = "master:7400";

/// Bytes of a segment: small, so that there are many.
const SEGMENT_LEN: u64 = 64 * 1024;

/// Bytes that a segment grows by.
const GROW_STEP: u64 = 8 * 1024;

/// What is planned for a master process.
#[derive(Debug)]
pub enum MasterEvent {
    /// The log's thread has written and synced a batch.
    Flush(Vec<oplog::Entry>),
    /// The machine's time has come.
    Tick,
    /// A checkpoint is written.
    Save(u64, Vec<u8>, Position),
}

/// The master's machine and, while it runs, its process.
#[derive(Debug)]
pub struct MasterNode {
    /// Where its log is.
    pub disk: Disk,
    config: Config,
    chunk_size: u32,
    boots: u64,
    process: Option<Process>,
    /// How many times slower the disk is than usual.
    pub slowness: u32,
}

struct Process {
    boot: u64,
    machine: Machine,
    appender: Appender,
    folder: Arc<dyn Folder>,
    cluster: ClusterId,
    began: Duration,
    flushed: Position,
    /// Handed to the log, and not taken by its thread.
    queue: Vec<oplog::Entry>,
    is_flushing: bool,
    is_saving: bool,
    /// Appended and not yet applied.
    entries: BTreeMap<u64, Entry>,
    asked: BTreeMap<Token, AnyMessage>,
    /// Requests that were refused for good, and of which the log knows nothing.
    refused: BTreeSet<(SessionId, u64)>,
    roles: BTreeMap<ConnId, Role>,
    /// Who registered over which connection.
    servers: BTreeMap<ConnId, ServerId>,
    told: Told,
    /// Orders that are not answered, by connection and number.
    orders: BTreeMap<(ConnId, u64), OrderId>,
    /// Of which chunks those are that promise or prepare something.
    members_asked: BTreeMap<(ConnId, u64), ChunkHandle>,
    next_tick: Option<Duration>,
    was_safe_mode: bool,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "master process {}", self.boot)
    }
}

/// How the process is after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It goes on.
    Runs,
    /// It has ended by itself, or died inside an operation.
    Ended,
    /// The master lets none of its directories count, or did so before.
    Refused,
}

impl MasterNode {
    /// A machine with an empty disk.
    #[must_use]
    pub fn new(config: Config, chunk_size: u32) -> Self {
        Self {
            disk: Disk::new(NamesKept::Subset),
            config,
            chunk_size,
            boots: 0,
            process: None,
            slowness: 1,
        }
    }

    /// Whether the process runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// The machine of the process, for whoever looks from outside.
    #[must_use]
    pub fn machine(&self) -> Option<&Machine> {
        self.process.as_ref().map(|process| &process.machine)
    }

    /// What it was told of the replicas of a chunk, by servers and disks that it heard of just now.
    #[must_use]
    pub fn told(
        &self,
        handle: ChunkHandle,
        now: Duration,
    ) -> Vec<(ServerId, DirectoryId, HeldChunk)> {
        let process = self.process.as_ref();
        process.map_or_else(Vec::new, |process| process.told.copies(handle, now))
    }

    /// Ends the process.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Starts the process.
    pub fn start(&mut self, world: &World) -> Health {
        self.boots += 1;
        self.disk.restart();
        let fresh = world.chance(|random| Fresh {
            cluster: ClusterId(random.bytes16()),
            ticket_key: SecretKey::new(random.bytes32()),
        });
        let folder: Arc<dyn Folder> = Arc::new(SimFolder(self.disk.clone()));
        let options = LogOptions {
            segment_len: SEGMENT_LEN,
            grow_step: GROW_STEP,
        };
        let started = replay(folder, options, fresh, Some(self.chunk_size));
        world.count_fired(&self.disk);
        let started = match started {
            Ok(started) => started,
            Err(error) => {
                world.line(|| format!("the master can't start: {error}"));
                // What the medium refuses for now it may give later; the log itself is never wrong.
                let is_medium = matches!(
                    &error,
                    StartError::Oplog(
                        oplog::OplogError::Io { .. } | oplog::OplogError::NoSpace { .. }
                    )
                );
                if !is_medium && !self.disk.is_dead() {
                    world.fail(format!("the master refuses its own log: {error}"));
                }
                return Health::Ended;
            }
        };
        if started.state.index > 0 {
            world.count("path: master replayed a log");
        }
        if started.was_torn {
            world.count("path: torn tail cut off");
        }
        if started.checkpoint_index > 0 {
            world.count("path: state from a checkpoint");
        }
        world.observe(&Observation::MasterStarted {
            state: &started.state,
        });
        let (incarnation, seed) = world.chance(|random| (random.next(), random.next()));
        let startup = Startup {
            genesis: started.genesis,
            incarnation,
            seed,
            checkpoint_index: started.checkpoint_index,
        };
        let now = Now {
            elapsed: Duration::ZERO,
            unix_ms: world.unix_ms(),
        };
        let flushed = started.appender.position();
        let machine = Machine::new(self.config.clone(), started.state, startup, now);
        let process = Process {
            boot: self.boots,
            was_safe_mode: machine.is_safe_mode(),
            machine,
            appender: started.appender,
            folder: started.folder,
            cluster: started.cluster,
            began: world.now(),
            flushed,
            queue: Vec::new(),
            is_flushing: false,
            is_saving: false,
            entries: BTreeMap::new(),
            asked: BTreeMap::new(),
            refused: BTreeSet::new(),
            roles: BTreeMap::new(),
            servers: BTreeMap::new(),
            told: Told::default(),
            orders: BTreeMap::new(),
            members_asked: BTreeMap::new(),
            next_tick: None,
        };
        let hello = Hello {
            role: Role::Master,
            cluster: process.cluster,
            server: ServerId::NONE,
        };
        world.with_net(|net, _| {
            net.start(Node::Master, self.boots);
            net.listen(Node::Master, ADDRESS, Plane::Control, hello);
        });
        world.line(|| format!("the master starts: boot {}", self.boots));
        self.process = Some(process);
        self.after(world)
    }

    /// Something arrives.
    pub fn handle(&mut self, world: &World, input: Input) -> Health {
        if let Some(process) = &mut self.process {
            process.handle(world, input);
        }
        self.after(world)
    }

    /// Something planned is due.
    pub fn happen(&mut self, world: &World, boot: u64, event: MasterEvent) -> Health {
        let Some(process) = self.process.as_mut().filter(|process| process.boot == boot) else {
            return Health::Runs;
        };
        let health = match event {
            MasterEvent::Flush(batch) => process.flush(world, &batch, self.disk.is_dead()),
            MasterEvent::Tick => {
                process.next_tick = None;
                let now = process.now(world);
                if now.elapsed >= process.machine.next_timeout() {
                    process.machine.handle_timeout(now);
                }
                Health::Runs
            }
            MasterEvent::Save(index, body, position) => {
                process.save(world, index, &body, position);
                Health::Runs
            }
        };
        world.count_fired(&self.disk);
        match health != Health::Runs || self.disk.is_dead() {
            true => Health::Ended,
            false => self.after(world),
        }
    }

    /// Carries out what the machine wants, and plans what comes by time.
    fn after(&mut self, world: &World) -> Health {
        let slowness = self.slowness;
        let Some(process) = &mut self.process else {
            return Health::Runs;
        };
        while let Some(action) = process.machine.poll_action() {
            process.act(world, action, slowness);
        }
        process.write_log(world, slowness);
        let is_safe_mode = process.machine.is_safe_mode();
        if process.was_safe_mode && !is_safe_mode {
            world.count("path: safe mode left");
        }
        process.was_safe_mode = is_safe_mode;
        let due = process.began + process.machine.next_timeout();
        if process.next_tick.is_none_or(|planned| due < planned) {
            process.next_tick = Some(due);
            world.plan(due, Event::Master(process.boot, MasterEvent::Tick));
        }
        Health::Runs
    }
}

impl Process {
    fn now(&self, world: &World) -> Now {
        Now {
            elapsed: world.now().saturating_sub(self.began),
            unix_ms: world.unix_ms(),
        }
    }

    fn handle(&mut self, world: &World, input: Input) {
        let now = self.now(world);
        match input {
            Input::Accepted(conn, _, hello) => {
                self.roles.insert(conn, hello.role);
                self.machine
                    .handle_connected(ConnectionId(conn.0), hello.role);
            }
            Input::Ended(conn) => self.forget(world, conn),
            Input::Frame(conn, frame) if self.roles.contains_key(&conn) => {
                self.frame(world, conn, &frame, now);
            }
            Input::Frame(..) | Input::Dialled(..) => {}
        }
    }

    fn forget(&mut self, world: &World, conn: ConnId) {
        let now = self.now(world);
        self.roles.remove(&conn);
        self.servers.remove(&conn);
        if let Some(server) = self.told.forget(conn) {
            world.observe(&Observation::ChunkserverLeft { server });
        }
        let id = ConnectionId(conn.0);
        self.asked.retain(|token, _| token.connection != id);
        self.orders.retain(|(of, _), _| *of != conn);
        self.members_asked.retain(|(of, _), _| *of != conn);
        self.machine.handle_disconnected(id, now);
    }

    fn frame(&mut self, world: &World, conn: ConnId, frame: &Frame, now: Now) {
        let header = &frame.header;
        world.line(|| {
            format!(
                "master <- {conn:?} {} #{}",
                header.kind.name(),
                header.request_id
            )
        });
        if header.kind.is_reply() {
            let Some(order) = self.orders.remove(&(conn, header.request_id)) else {
                return;
            };
            let answer = match header.status.is_ok() {
                true => frame.any_message().map_err(|_| Status::Internal.into()),
                false => Err(OrderFailure {
                    status: header.status,
                    server: frame.error().map(|error| error.server).unwrap_or_default(),
                }),
            };
            let connection = ConnectionId(conn.0);
            let asked = self.members_asked.remove(&(conn, header.request_id));
            if let (Some(handle), Some(&server)) = (asked, self.servers.get(&conn)) {
                let is_done = header.status.is_ok();
                world.observe(&Observation::MemberAnswered {
                    server,
                    handle,
                    is_done,
                });
            }
            return self
                .machine
                .handle_order_reply(connection, order, answer, now);
        }
        let token = Token {
            connection: ConnectionId(conn.0),
            request: header.request_id,
        };
        match frame.any_message() {
            Ok(message) if !self.asked.contains_key(&token) => {
                let is_repeated = |request| self.machine.state().sessions.answer(request).is_some();
                if request_of(&message).is_some_and(is_repeated) {
                    world.count("path: answer given again");
                }
                let is_refused = |it: RequestId| self.refused.contains(&(it.session, it.number));
                if request_of(&message).is_some_and(is_refused) {
                    world.count("path: refused request came again");
                }
                self.told.heard(conn, &message, world.now());
                self.asked.insert(token, message.clone());
                self.machine.handle_request(token, message, now);
            }
            _ => self.close(world, conn, Status::ProtocolError, "not a request"),
        }
    }

    fn act(&mut self, world: &World, action: Action, slowness: u32) {
        match action {
            Action::Append(entry) => {
                world.observe(&Observation::Appended { entry: &entry });
                self.queue.push(to_log(&entry));
                let index = entry.index;
                self.entries.insert(index, entry);
                if !sabotage::is_in_force(Check::ReplyAfterFlush) {
                    self.apply(world, index);
                }
            }
            Action::Reply { to, reply } => self.reply(world, to, reply),
            Action::Order {
                connection,
                order,
                message,
            } => {
                let conn = ConnId(connection.0);
                if !self.roles.contains_key(&conn) {
                    return;
                }
                self.observe_order(world, conn, &message);
                self.orders.insert((conn, order.0), order);
                if let AnyMessage::Promise(Promise { handle, .. })
                | AnyMessage::PrepareSeal(PrepareSeal { handle, .. }) = &message
                {
                    self.members_asked.insert((conn, order.0), *handle);
                }
                if let Ok(frame) = any_frame(&message, order.0) {
                    world.send(Node::Master, conn, frame);
                }
            }
            Action::Close {
                connection,
                failure,
            } => {
                self.close(world, ConnId(connection.0), failure.status, &failure.text);
            }
            Action::TakeCheckpoint { index, body } => {
                if !self.is_saving && index == self.flushed.index {
                    self.is_saving = true;
                    let position = self.flushed;
                    let takes = world.chance(|random| random.micros(500, 5_000)) * slowness;
                    let event = MasterEvent::Save(index, body, position);
                    world.plan_in(takes, Event::Master(self.boot, event));
                }
            }
            Action::Alarm(alarm) => {
                world.fail(format!("the master takes its log for damaged: {alarm:?}"));
            }
        }
    }

    fn observe_order(&self, world: &World, conn: ConnId, order: &AnyMessage) {
        world.line(|| format!("master orders {order:?}"));
        if let AnyMessage::DeleteChunk(order) = order
            && self.machine.state().chunks.record(order.handle).is_some()
        {
            world.count("path: replica deleted that was bad or too many");
        }
        world.observe(&Observation::Ordered {
            server: self.servers.get(&conn).copied().unwrap_or_default(),
            order,
            state: self.machine.state(),
            is_safe_mode: self.machine.is_safe_mode(),
        });
    }

    fn reply(&mut self, world: &World, to: Token, reply: Result<AnyMessage, Failure>) {
        let Some(question) = self.asked.remove(&to) else {
            return;
        };
        if matches!(&reply, Err(failure) if failure.status == Status::SafeMode) {
            world.count("path: request refused in safe mode");
        }
        self.observe_reply(world, to, &question, &reply);
        self.note_refusal(&question, &reply);
        let conn = ConnId(to.connection.0);
        let kind = reply_kind(question.kind());
        if let Ok(message) = &reply
            && message.kind() != kind
        {
            return world.fail(format!(
                "the master answers {} with {}",
                question.kind().name(),
                message.kind().name()
            ));
        }
        let failed = |status, body: &ErrorBody| error_frame(kind, to.request, status, body);
        let frame = match &reply {
            Ok(message) => any_frame(message, to.request).unwrap_or_else(|error| {
                failed(Status::TooLarge, &ErrorBody::new(error.to_string()))
            }),
            Err(failure) => failed(failure.status, &failure.to_body()),
        };
        world.line(|| match &reply {
            Ok(message) => format!(
                "master -> {conn:?} {} #{}",
                message.kind().name(),
                to.request
            ),
            Err(failure) => format!(
                "master -> {conn:?} {} #{}: {} {}",
                kind.name(),
                to.request,
                failure.status,
                failure.text
            ),
        });
        world.send_with(Node::Master, conn, frame.into(), Bytes::new());
    }

    fn observe_reply(
        &mut self,
        world: &World,
        to: Token,
        question: &AnyMessage,
        reply: &Result<AnyMessage, Failure>,
    ) {
        match (question, reply) {
            (
                AnyMessage::Stat(_)
                | AnyMessage::List(_)
                | AnyMessage::Locate(_)
                | AnyMessage::ListTrash(_),
                reply,
            ) => world.observe(&Observation::Answered {
                question,
                answer: reply.as_ref().map_err(|failure| failure.status),
            }),
            (AnyMessage::AllocateChunks(_) | AnyMessage::CreatePending(_), Ok(answer)) => {
                world.observe(&Observation::Allocated { answer });
            }
            (AnyMessage::Register(register), Ok(AnyMessage::Registered(registered))) => {
                let stale = Status::StaleStart.number();
                if registered.directories.iter().any(|one| one.status == stale) {
                    world.count("path: stale start refused");
                }
                let conn = ConnId(to.connection.0);
                self.servers.insert(conn, registered.server_id);
                (self.told).registered(conn, registered.server_id, world.now());
                world.observe(&Observation::Registered {
                    register,
                    registered,
                });
            }
            (AnyMessage::AcceptLoss(asked), reply) => world.observe(&Observation::LossAnswered {
                request: asked.request,
                is_accepted: reply.is_ok(),
            }),
            _ => {}
        }
    }

    /// Notes what the master has to keep by itself.
    fn note_refusal(&mut self, question: &AnyMessage, reply: &Result<AnyMessage, Failure>) {
        let (Some(request), Err(failure)) = (request_of(question), reply) else {
            return;
        };
        let may_pass = matches!(failure.status.retry(), Retry::Wait | Retry::Reconnect);
        let is_of_id = matches!(
            failure.status,
            Status::SessionUnknown | Status::RequestForgotten
        );
        let is_logged = self.machine.state().sessions.answer(request).is_some();
        if !may_pass && !is_of_id && !is_logged {
            self.refused.insert((request.session, request.number));
        }
    }

    fn close(&mut self, world: &World, conn: ConnId, status: Status, text: &str) {
        let goodbye = error_frame(Kind::Goodbye, 0, status, &ErrorBody::new(text));
        world.line(|| format!("master -> {conn:?} Goodbye {status} {text}"));
        world.send(Node::Master, conn, goodbye);
        world.close(Node::Master, conn);
        self.forget(world, conn);
    }

    // The log.

    /// Gives the log's thread what waits, if it has nothing to do.
    fn write_log(&mut self, world: &World, slowness: u32) {
        if self.is_flushing || self.queue.is_empty() {
            return;
        }
        self.is_flushing = true;
        let batch = std::mem::take(&mut self.queue);
        let takes = world.chance(|random| random.micros(80, 1_500)) * slowness;
        world.plan_in(takes, Event::Master(self.boot, MasterEvent::Flush(batch)));
    }

    fn flush(&mut self, world: &World, batch: &[oplog::Entry], is_dead: bool) -> Health {
        self.is_flushing = false;
        match self.appender.append(batch) {
            Ok(position) if !is_dead => {
                self.flushed = position;
                self.apply(world, position.index);
                if self.queue.is_empty() && self.appender.mark().is_err() {
                    return Health::Ended;
                }
                Health::Runs
            }
            // Nothing that it would still say could be relied on.
            Ok(_) => Health::Ended,
            Err(error) => {
                world.line(|| format!("the log failed: {error}"));
                Health::Ended
            }
        }
    }

    /// Entries up to here are stable: the machine applies them, and those who watch see each.
    fn apply(&mut self, world: &World, index: u64) {
        let now = self.now(world);
        if index > self.machine.state().index {
            self.machine.handle_flushed(index, now);
        }
        let left = self.entries.split_off(&(index + 1));
        for entry in std::mem::replace(&mut self.entries, left).into_values() {
            world.line(|| format!("entry {}: {:?}", entry.index, entry.command));
            match &entry.command {
                Command::TrashExpired(_) => world.count("path: trash expired"),
                // Clients here never close one themselves.
                Command::SessionsClosed(_) => world.count("path: session expired"),
                _ => {}
            }
            let state = self.machine.state();
            world.observe(&Observation::EntryApplied {
                entry: &entry,
                state,
            });
        }
    }

    fn save(&mut self, world: &World, index: u64, body: &[u8], position: Position) {
        self.is_saving = false;
        let saved = (|| {
            let unix_ms = world.unix_ms();
            let folder = Arc::clone(&self.folder);
            let mut writer = CheckpointWriter::begin(folder, self.cluster, position, unix_ms)?;
            writer
                .write_all(body)
                .map_err(|source| oplog::OplogError::Io {
                    name: "checkpoint".into(),
                    operation: "writing",
                    source,
                })?;
            writer.finish()?;
            prune(&*self.folder)
        })();
        match saved {
            Ok(removed) => {
                world.count("path: checkpoint written");
                if removed > 0 {
                    world.count("path: segments pruned");
                }
                world.line(|| format!("a checkpoint at {index}, {removed} files removed"));
            }
            Err(error) => world.line(|| format!("no checkpoint at {index}: {error}")),
        }
    }
}

/// The id of a request that changes something in a session.
const fn request_of(message: &AnyMessage) -> Option<RequestId> {
    Some(match message {
        AnyMessage::MakeFolder(it) => it.request,
        AnyMessage::MakeFile(it) => it.request,
        AnyMessage::CreatePending(it) => it.request,
        AnyMessage::Publish(it) => it.request,
        AnyMessage::AbortPending(it) => it.request,
        AnyMessage::Rename(it) => it.request,
        AnyMessage::Remove(it) => it.request,
        AnyMessage::RestoreTrash(it) => it.request,
        AnyMessage::EmptyTrash(it) => it.request,
        AnyMessage::Truncate(it) => it.request,
        AnyMessage::AcceptLoss(it) => it.request,
        _ => return None,
    })
}

/// The kind of the reply to a request.
#[must_use]
pub fn reply_kind(request: Kind) -> Kind {
    Kind::from_number(request.number() + 1).unwrap_or(Kind::Goodbye)
}
