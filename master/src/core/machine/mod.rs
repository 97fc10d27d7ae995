//! The master as one state machine: requests in, entries, replies and orders out.
//!
//! Whoever drives it does so on one thread, and in this order:
//!
//! 1. [`Machine::new`] with the state that the log and its checkpoint give;
//! 2. whenever something happens, one of [`handle_connected`](Machine::handle_connected),
//!    [`handle_request`](Machine::handle_request),
//!    [`handle_order_reply`](Machine::handle_order_reply),
//!    [`handle_disconnected`](Machine::handle_disconnected),
//!    [`handle_flushed`](Machine::handle_flushed), or, when
//!    [`next_timeout`](Machine::next_timeout) is reached, [`handle_timeout`](Machine::handle_timeout);
//! 3. after each, [`poll_action`](Machine::poll_action) until there is none.
//!
//! A change goes: request → [`Action::Append`] → flushed → applied → [`Action::Reply`]. So every
//! acknowledged change is durable, many can be on their way to the disk at once, and nobody sees
//! a change that a crash could take back. Reads are answered at once from what is applied.
//!
//! Invariants:
//! - the state is changed by [`apply`] alone, in the order of the log;
//! - no handle, version, order or registration before this master's epoch and first range are
//!   durable;
//! - a request id that has its last answer, or is on its way, is never appended again;
//! - no order to delete or to copy in safe mode, nor once the log is known to be damaged.
//!
//! Left out on purpose: rebalancing, replicated masters. What
//! makes a start's log, keys and random numbers is the edge's work.

mod changes;
mod health;
mod open_chunks;
mod orders;
mod reads;
mod refusals;
mod repair;
mod servers;
#[cfg(test)]
mod tests;
mod upkeep;
mod uploads;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use sarsen_protocol::id::{DirectoryId, Epoch, FileId, ServerId, SessionId};
use sarsen_protocol::message::{AnyMessage, Pong, Role};
use sarsen_protocol::size::CONTROL_BODY_LEN_MAX;
use sarsen_protocol::status::Status;

use self::changes::Asked;
use self::open_chunks::{OpenChunks, Subject};
use self::orders::Orders;
use self::refusals::Refusals;
use self::servers::Registration;
use self::uploads::Allocations;
use super::action::{Action, Alarm, Failure};
use super::apply::{Outcome, apply};
use super::checkpoint;
use super::chunkservers::Chunkservers;
use super::command::{Command, Entry, EpochRaised, Genesis};
use super::config::Config;
use super::event::{ConnectionId, Now, Token};
use super::garbage::Garbage;
use super::placement::Chance;
use super::repair::Repairs;
use super::session::Answer;
use super::state::State;

/// However short `gc_interval` is, the machine also does something else.
const SWEEP_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Bytes of rows after which a page ends, whatever was asked for: with one more row it is still
/// far below what a frame can hold (`spec/messages.md` section 7).
const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
const _: () = assert!(PAGE_BYTES_MAX <= CONTROL_BODY_LEN_MAX as usize / 2);

/// What a start brings along that the core can't make.
#[derive(Clone, Debug)]
pub struct Startup {
    /// What the cluster becomes if the log is empty.
    pub genesis: Genesis,
    /// Random, for this master's epoch.
    pub incarnation: u64,
    /// Random, for placement.
    pub seed: u64,
    /// The last entry that is in a checkpoint; 0 without one. What the log holds behind it counts
    /// towards the next, however often the master starts.
    pub checkpoint_index: u64,
}

/// Whom an entry's outcome is for.
#[derive(Clone, Debug, PartialEq)]
enum Waiter {
    /// A request.
    Request(Token, Asked),
    /// The registration on this connection, for its server's id.
    Server(ConnectionId),
    /// The registration on this connection, for a directory.
    Directory(ConnectionId, DirectoryId),
    /// The attempt to change a chunk's version.
    VersionChange(Subject),
}

/// An entry that is on its way to the disk.
#[derive(Clone, Debug)]
struct InFlight {
    entry: Entry,
    waiters: Vec<Waiter>,
}

/// The master's core. See the module's text for how it is driven.
#[derive(Debug)]
pub struct Machine {
    config: Config,
    state: State,
    now: Now,
    /// This master's epoch; in force once the state has it.
    epoch: Epoch,
    /// The last epoch of the log that this master started on.
    found_epoch: Epoch,
    /// When it started, by both clocks.
    started: Now,
    actions: VecDeque<Action>,

    /// Entries appended and not yet flushed, by index.
    in_flight: BTreeMap<u64, InFlight>,
    /// Where the request ids among them are.
    requests_in_flight: BTreeMap<(SessionId, u64), u64>,
    refusals: Refusals,
    last_checkpoint: u64,

    roles: BTreeMap<ConnectionId, Role>,
    servers: Chunkservers,
    registrations: BTreeMap<ConnectionId, Registration>,
    orders: Orders,
    open_chunks: OpenChunks,

    /// When each session was last heard of.
    kept: BTreeMap<SessionId, Duration>,
    allocations: Allocations,
    garbage: Garbage,
    repairs: Repairs,
    /// Directories whose servers or disks were given up, as of the last look.
    given_up: BTreeSet<(ServerId, DirectoryId)>,
    chance: Chance,

    /// When safe mode began, while it lasts.
    safe_mode_since: Option<Duration>,
    /// The log was lost in part: only reading is allowed.
    is_read_only: bool,
    next_sweep: Duration,
    next_repair: Duration,
    /// When this master began: what was not heard since is not known.
    began: Duration,
    /// Trash entries and sessions that entries on their way end.
    expiring_trash: BTreeSet<FileId>,
    expiring_sessions: BTreeSet<SessionId>,
}

impl Machine {
    /// A master at its start: appends what makes it one.
    ///
    /// `state` is what the checkpoint and the log behind it give.
    #[must_use]
    pub fn new(config: Config, state: State, start: Startup, now: Now) -> Self {
        let epoch = Epoch {
            number: state.epoch.number + 1,
            incarnation: start.incarnation,
        };
        let kept = state
            .sessions
            .iter()
            .map(|(id, _)| (id, now.elapsed))
            .collect();
        let mut machine = Self {
            next_sweep: now.elapsed.saturating_add(sweep_interval(&config)),
            allocations: Allocations::new(&state),
            open_chunks: OpenChunks::new(&config, &state, now.elapsed),
            last_checkpoint: start.checkpoint_index,
            chance: Chance::new(start.seed),
            found_epoch: state.epoch,
            started: now,
            safe_mode_since: Some(now.elapsed),
            config,
            state,
            now,
            epoch,
            actions: VecDeque::new(),
            in_flight: BTreeMap::new(),
            requests_in_flight: BTreeMap::new(),
            refusals: Refusals::default(),
            roles: BTreeMap::new(),
            servers: Chunkservers::default(),
            registrations: BTreeMap::new(),
            orders: Orders::default(),
            kept,
            garbage: Garbage::default(),
            repairs: Repairs::default(),
            given_up: BTreeSet::new(),
            next_repair: now.elapsed,
            began: now.elapsed,
            is_read_only: false,
            expiring_trash: BTreeSet::new(),
            expiring_sessions: BTreeSet::new(),
        };
        if machine.state.index == 0 {
            machine.append(start.genesis.into());
        }
        machine.append(EpochRaised { epoch }.into());
        machine
    }

    /// What is durable and applied.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether this master's epoch is durable: it may serve from now on.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.state.epoch == self.epoch
    }

    /// Whether changes still wait for reports.
    #[must_use]
    pub fn is_safe_mode(&self) -> bool {
        self.safe_mode_since.is_some()
    }

    /// Whether the log was found to be lost in part.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// A peer has said hello.
    pub fn handle_connected(&mut self, connection: ConnectionId, role: Role) {
        self.roles.insert(connection, role);
    }

    /// A connection is gone.
    pub fn handle_disconnected(&mut self, connection: ConnectionId, now: Now) {
        self.now = now;
        self.roles.remove(&connection);
        self.registrations.remove(&connection);
        self.drop_orders(connection);
        if let Some(server) = self.servers.disconnect(connection) {
            self.changes_disconnected(server);
        }
        self.advance_repairs();
    }

    /// A peer asks for something.
    pub fn handle_request(&mut self, to: Token, message: AnyMessage, now: Now) {
        self.now = now;
        if let AnyMessage::Ping(_) = message {
            return self.reply(to, Pong);
        }
        if !self.is_serving() {
            return self.refuse(to, self.starting());
        }
        match self.roles.get(&to.connection) {
            Some(Role::Client) => self.handle_client(to, message),
            Some(Role::Chunkserver) => self.handle_chunkserver(to, message),
            Some(Role::Master) | None => self.unsupported(to, &message),
        }
    }

    fn handle_client(&mut self, to: Token, message: AnyMessage) {
        match message {
            AnyMessage::OpenSession(_)
            | AnyMessage::CloseSession(_)
            | AnyMessage::MakeFolder(_)
            | AnyMessage::MakeFile(_)
            | AnyMessage::CreatePending(_)
            | AnyMessage::Publish(_)
            | AnyMessage::AbortPending(_)
            | AnyMessage::Rename(_)
            | AnyMessage::Remove(_)
            | AnyMessage::RestoreTrash(_)
            | AnyMessage::EmptyTrash(_) => self.change(to, message),
            AnyMessage::KeepSession(keep) => {
                let kept = self.keep_session(keep.session);
                self.answer(to, kept.map(|()| sarsen_protocol::message::SessionKept));
            }
            AnyMessage::AllocateChunks(request) => {
                let allocated = self.allocate(&request);
                self.answer(to, allocated);
            }
            AnyMessage::OpenChunk(request) => self.open_chunk(to, request),
            AnyMessage::Truncate(request) => self.truncate(to, &request),
            AnyMessage::SealFile(request) => self.seal_file(to, &request),
            AnyMessage::AcceptLoss(request) => self.accept_loss(to, &request),
            AnyMessage::Stat(request) => self.answer(to, self.stat(&request)),
            AnyMessage::List(request) => self.answer(to, self.list(&request)),
            AnyMessage::Locate(request) => self.answer(to, self.locate(&request)),
            AnyMessage::Usage(request) => self.answer(to, self.usage(&request)),
            AnyMessage::ListTrash(request) => self.reply(to, self.list_trash(&request)),
            AnyMessage::Capacity(_) => self.reply(to, self.capacity()),
            AnyMessage::Fsck(request) => self.answer(to, self.fsck(&request)),
            AnyMessage::Report(_) => self.reply(to, self.report()),
            AnyMessage::ReportReplica(request) => {
                self.verify_replica(&request);
                self.reply(to, sarsen_protocol::message::ReplicaReported);
            }
            other => self.unsupported(to, &other),
        }
    }

    fn handle_chunkserver(&mut self, to: Token, message: AnyMessage) {
        match message {
            AnyMessage::Register(request) => self.register(to, request),
            AnyMessage::Heartbeat(request) => {
                let taken = self.heartbeat(to.connection, request);
                self.answer(to, taken);
            }
            AnyMessage::Inventory(request) => {
                let taken = self.inventory(to.connection, &request);
                self.answer(to, taken);
            }
            AnyMessage::ExtendLeases(request) => {
                let extended = self.extend_leases(to.connection, &request);
                self.answer(to, extended);
            }
            AnyMessage::ReportChain(report) => {
                let reported = self.chain_reported(to.connection, &report);
                self.answer(to, reported);
            }
            other => self.unsupported(to, &other),
        }
        self.advance_repairs();
    }

    /// Entries up to `index` are on stable storage.
    ///
    /// # Panics
    /// If entries are told of that were never appended.
    pub fn handle_flushed(&mut self, index: u64, now: Now) {
        self.now = now;
        let served = self.is_serving();
        while self.state.index < index {
            let next = self.state.index + 1;
            let in_flight = self
                .in_flight
                .remove(&next)
                .expect("only what was appended is flushed");
            if let Some(request) = in_flight.entry.request {
                self.requests_in_flight
                    .remove(&(request.session, request.number));
            }
            let outcome = apply(&mut self.state, &in_flight.entry);
            self.settle(&in_flight.entry.command, &outcome);
            for waiter in in_flight.waiters {
                self.tell(waiter, &outcome);
            }
        }
        if !served {
            // A cluster without chunks has nothing to wait for.
            self.leave_safe_mode_if_due();
        }
        self.advance_repairs();
        if self.state.index - self.last_checkpoint >= self.config.checkpoint_entries {
            self.last_checkpoint = self.state.index;
            let body = checkpoint::encode(&self.state);
            self.actions.push_back(Action::TakeCheckpoint {
                index: self.state.index,
                body,
            });
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due, in time since the process started.
    #[must_use]
    pub fn next_timeout(&mut self) -> Duration {
        // Before this master serves, safe mode can't end; the flush that makes it serve sees to it.
        let safe_mode_end = self
            .safe_mode_since
            .filter(|_| self.is_serving())
            .map(|since| since.saturating_add(self.config.safe_mode_max));
        let next = safe_mode_end.map_or(self.next_sweep, |end| end.min(self.next_sweep));
        let others = [self.next_repair(), self.next_of_open_chunks()];
        others.into_iter().flatten().fold(next, Duration::min)
    }

    /// What is next to be done, if anything is.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What follows from an applied entry outside of the state.
    fn settle(&mut self, command: &Command, outcome: &Outcome) {
        let elapsed = self.now.elapsed;
        for &handle in &outcome.dropped {
            self.garbage.condemn(handle, elapsed);
            self.forget_open(handle);
        }
        for &file in &outcome.ended {
            for handle in self.allocations.end(file) {
                if self.state.chunks.record(handle).is_none() {
                    self.garbage.condemn(handle, elapsed);
                }
            }
        }
        match command {
            Command::RangesReserved(_) => self.allocations.extend(&self.state),
            Command::FilePublished(body) if outcome.ended.contains(&body.file) => {
                self.acknowledge(body);
            }
            Command::ChunkSealed(body) => self.repairs.touch(body.handle),
            Command::SessionOpened(_) => {
                if let Answer::Id(id) = outcome.answer {
                    self.kept.insert(SessionId(id), elapsed);
                }
            }
            Command::SessionsClosed(body) => {
                for session in &body.sessions {
                    self.kept.remove(session);
                    self.refusals.end(*session);
                    self.expiring_sessions.remove(session);
                }
            }
            Command::TrashExpired(body) => {
                body.entries.iter().for_each(|entry| {
                    self.expiring_trash.remove(entry);
                });
            }
            _ => {}
        }
    }

    fn tell(&mut self, waiter: Waiter, outcome: &Outcome) {
        let answer = &outcome.answer;
        match waiter {
            Waiter::Request(to, asked) => {
                let reply = self.reply_to(asked, answer);
                self.actions.push_back(Action::Reply { to, reply });
            }
            Waiter::Server(connection) => self.server_logged(connection, answer),
            Waiter::Directory(connection, directory) => {
                self.directory_logged(connection, directory, answer);
            }
            Waiter::VersionChange(subject) => {
                // An answer of before is not this change's: nothing was done.
                let is_applied = !outcome.repeated && !matches!(answer, Answer::Refused(_));
                self.change_logged(subject, is_applied);
            }
        }
    }

    /// Appends an entry that no request asked for, and gives its index.
    fn append(&mut self, command: Command) -> u64 {
        self.append_for(command, None, Vec::new())
    }

    fn append_for(
        &mut self,
        command: Command,
        request: Option<sarsen_protocol::id::RequestId>,
        waiters: Vec<Waiter>,
    ) -> u64 {
        let last = self.in_flight.last_key_value();
        let (index, time_ms) = last
            .map_or((self.state.index, self.state.time_ms), |(&at, last)| {
                (at, last.entry.time_ms)
            });
        let entry = Entry {
            term: self.state.term.max(1),
            index: index + 1,
            // The clock may be set back; the log's time never goes back.
            time_ms: time_ms.max(self.now.unix_ms),
            request,
            command,
        };
        if let Some(request) = request {
            self.requests_in_flight
                .insert((request.session, request.number), entry.index);
        }
        self.actions.push_back(Action::Append(entry.clone()));
        self.in_flight
            .insert(index + 1, InFlight { entry, waiters });
        index + 1
    }

    fn reply(&mut self, to: Token, message: impl Into<AnyMessage>) {
        self.actions.push_back(Action::Reply {
            to,
            reply: Ok(message.into()),
        });
    }

    fn refuse(&mut self, to: Token, failure: Failure) {
        self.actions.push_back(Action::Reply {
            to,
            reply: Err(failure),
        });
    }

    fn answer(&mut self, to: Token, answer: Result<impl Into<AnyMessage>, Failure>) {
        match answer {
            Ok(message) => self.reply(to, message),
            Err(failure) => self.refuse(to, failure),
        }
    }

    /// A peer asks what no master answers to its role (`spec/wire.md` section 5). A reply that
    /// nobody asked for can't be answered, and ends the connection (section 9).
    fn unsupported(&mut self, to: Token, message: &AnyMessage) {
        let kind = message.kind();
        if kind.is_reply() {
            let text = format!("out_of_turn: {} can't come here", kind.name());
            self.actions.push_back(Action::Close {
                connection: to.connection,
                failure: Failure::new(Status::ProtocolError, text),
            });
        } else {
            let text = format!("a master doesn't answer {} here", kind.name());
            self.refuse(to, Failure::new(Status::Unsupported, text));
        }
    }

    fn starting(&self) -> Failure {
        Failure::from(Status::Overloaded).retry_after(millis(self.config.heartbeat))
    }

    /// The log is not the whole story: from now on nothing is changed or deleted.
    fn raise(&mut self, alarm: Alarm) {
        if !self.is_read_only {
            self.is_read_only = true;
            self.actions.push_back(Action::Alarm(alarm));
        }
    }

    /// Whether a server is connected and was heard of lately: it may be sent new work.
    fn is_usable(&self, server: ServerId) -> bool {
        self.is_connected(server) && self.is_live(server)
    }

    fn is_connected(&self, server: ServerId) -> bool {
        let server = self.servers.server(server);
        server.is_some_and(|server| server.connection.is_some())
    }

    fn is_live(&self, server: ServerId) -> bool {
        self.servers
            .is_live(server, self.now.elapsed, self.config.dead_after)
    }
}

/// A duration as messages carry it.
fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// Twice as often as promised: what misses one sweep makes the next in time.
fn sweep_interval(config: &Config) -> Duration {
    (config.gc_interval / 2).max(SWEEP_INTERVAL_MIN)
}
