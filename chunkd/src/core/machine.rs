//! A chunkserver and its master: registration, heartbeats, inventories, orders
//! (`spec/messages.md` sections 9 and 10).
//!
//! ```text
//!            ┌────────────── failed, refused or lost: back-off ──────────────┐
//!            ▼                                                               │
//!         Waiting ──► Dialling ──► Registering ──► Keeping ──► Registered ───┘
//! ```
//!
//! *Keeping*: before the first word of a master is obeyed, its epoch, and at the first time the
//! cluster and the server's id, are on disk. An epoch that is older than one that was obeyed, or
//! of the same number with another incarnation, is not obeyed at all.
//!
//! Orders wait here until they run. Epoch and connection are compared then, not when the order
//! came; handle and version are compared by whoever has the chunk in hand. What came over a
//! connection that is gone is neither run nor answered; what comes before the registration is kept
//! waits for that.
//!
//! Who drives it: one event at a time through [`Machine::handle`], then [`Machine::poll_action`]
//! until it yields nothing; [`Event::Tick`] at the latest at [`Machine::deadline`]. Time is what
//! has passed since some moment; the seed spreads the back-offs of many servers.
//!
//! Left out on purpose: the data plane, which goes on with the keys that it has while no master
//! is reached; what an open chunk does with an order ([`super::mutation`]), and its lease.

mod chunks;
mod orders;
mod registration;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use sarsen_protocol::id::{ChunkHandle, ClusterId, DirectoryId, Epoch, ServerId};
use sarsen_protocol::message::{
    ChunkDeleted, DirectoryReport, DiskBeat, DiskState, Heartbeat, HeldChunk, Kind, Registered,
};
use sarsen_protocol::status::Status;

use self::chunks::WaitingReport;
use super::action::{Action, Order};
use super::event::{ConnectionId, Event};
use super::findings::{Change, Findings};
use super::inventory::{InventoryReport, Step};

/// Heartbeats that may be unanswered; with as many out, the next one is left out.
const HEARTBEATS_OUT_MAX: u64 = 4;

/// What the machine knows from its start.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// How many masters there are to try.
    pub masters: usize,
    /// Where we are reached.
    pub control_addr: String,
    /// Where our data plane is reached.
    pub data_addr: String,
    /// Where our HTTP port is reached.
    pub http_addr: String,
    /// Empty for none.
    pub rack: String,
    /// Our id, if an earlier registration gave one.
    pub server_id: ServerId,
    /// The highest epoch that was obeyed.
    pub epoch: Epoch,
    /// Random.
    pub seed: u64,
}

#[derive(Debug)]
enum Link {
    Waiting {
        until: Duration,
    },
    Dialling,
    Registering {
        connection: ConnectionId,
        cluster_id: ClusterId,
    },
    Keeping {
        connection: ConnectionId,
        registered: Registered,
    },
    Registered(Session),
}

/// A registration that holds.
#[derive(Debug)]
struct Session {
    connection: ConnectionId,
    heartbeat: Duration,
    next_heartbeat: Duration,
    /// Of the last heartbeat sent, and of the last one answered.
    sent: u64,
    answered: u64,
}

#[derive(Debug)]
struct DirectoryState {
    report: DirectoryReport,
    beat_age: u32,
    is_served: bool,
    /// Its disk could not keep what the registration asks for.
    is_left_out: bool,
    inventory: InventoryReport,
}

impl DirectoryState {
    fn beat(&self) -> DiskBeat {
        let mut disk = self.report.disk.clone();
        if self.is_left_out {
            disk.state = DiskState::Failed;
        }
        DiskBeat {
            disk,
            beat_age: self.beat_age,
        }
    }
}

#[derive(Debug)]
struct WaitingOrder {
    connection: ConnectionId,
    request_id: u64,
    epoch: Epoch,
    order: Order,
}

/// A chunkserver, as far as its master is concerned.
#[derive(Debug)]
pub struct Machine {
    config: MachineConfig,
    now: Duration,
    link: Link,
    /// The master that is tried next.
    next_master: usize,
    failures: u32,
    was_registered: bool,
    directories: Vec<DirectoryState>,
    findings: Findings,
    deletes: VecDeque<WaitingOrder>,
    deletes_run: bool,
    verifies: VecDeque<WaitingOrder>,
    verifies_running: usize,
    copies: VecDeque<WaitingOrder>,
    /// Handles of the copies that run; at most [`Self::copies_max`], and each once.
    copies_running: BTreeSet<ChunkHandle>,
    /// What the master allows at a time.
    copies_max: usize,
    /// Silence after which a source is as good as dead.
    silence_max: Duration,
    /// Orders to members of open chunks.
    chunk_orders: VecDeque<WaitingOrder>,
    /// What members of open chunks told, and the master has not answered.
    reports: VecDeque<WaitingReport>,
    actions: VecDeque<Action>,
}

impl Machine {
    /// A chunkserver that has just started; its first try is due at once.
    #[must_use]
    pub fn new(config: MachineConfig, directories: Vec<DirectoryReport>) -> Self {
        let state = |report: DirectoryReport| DirectoryState {
            inventory: InventoryReport::new(report.directory_id),
            report,
            beat_age: 0,
            is_served: false,
            is_left_out: false,
        };
        Self {
            config,
            now: Duration::ZERO,
            link: Link::Waiting {
                until: Duration::ZERO,
            },
            next_master: 0,
            failures: 0,
            was_registered: false,
            directories: directories.into_iter().map(state).collect(),
            findings: Findings::default(),
            deletes: VecDeque::new(),
            deletes_run: false,
            verifies: VecDeque::new(),
            verifies_running: 0,
            copies: VecDeque::new(),
            copies_running: BTreeSet::new(),
            copies_max: 1,
            silence_max: Duration::ZERO,
            chunk_orders: VecDeque::new(),
            reports: VecDeque::new(),
            actions: VecDeque::new(),
        }
    }

    /// When a tick is due; `None` while an answer is waited for.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        match &self.link {
            Link::Waiting { until } => Some(*until),
            Link::Registered(session) => Some(session.next_heartbeat),
            Link::Dialling | Link::Registering { .. } | Link::Keeping { .. } => None,
        }
    }

    /// Whether a registration holds.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        matches!(self.link, Link::Registered(_))
    }

    /// The epoch that is obeyed.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.config.epoch
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Takes note of what happened at `now`.
    pub fn handle(&mut self, now: Duration, event: Event) {
        self.now = self.now.max(now);
        match event {
            Event::Tick => {}
            Event::Dialled {
                connection,
                cluster_id,
            } => self.dialled(connection, cluster_id),
            Event::DialFailed { text, is_passing } => self.dial_failed(text, is_passing),
            Event::Disconnected { connection } if self.is_current(connection) => {
                self.back_off("the connection to the master was lost".to_owned());
            }
            Event::Disconnected { .. } => {}
            Event::Registered { connection, answer } => self.registered(connection, answer),
            Event::LeftOut {
                connection,
                directory_id,
            } => self.left_out(connection, directory_id),
            Event::KeptLate {
                connection,
                directory_id,
            } => self.kept_late(connection, directory_id),
            Event::Kept { connection } => self.kept(connection),
            Event::KeepFailed {
                connection,
                text,
                is_foreign,
            } => {
                self.keep_failed(connection, text, is_foreign);
            }
            Event::HeartbeatAnswered {
                connection,
                sequence,
                answer,
            } => {
                self.heartbeat_answered(connection, sequence, answer);
            }
            Event::SliceRead {
                connection,
                directory_id,
                held,
            } => {
                self.slice_read(connection, directory_id, held);
            }
            Event::InventoryAnswered {
                connection,
                directory_id,
                answer,
            } => {
                self.inventory_answered(connection, directory_id, answer);
            }
            Event::ChunkChanged {
                directory_id,
                handle,
                held,
            } => {
                if let Some(directory) = self.directory(directory_id) {
                    let highest = &mut directory.report;
                    highest.highest_handle = highest.highest_handle.max(handle);
                    let version = held.map(|held| held.version).unwrap_or_default();
                    highest.highest_version = highest.highest_version.max(version);
                    directory.inventory.handle_change(handle, held);
                }
                self.findings.handle_change(Change {
                    directory_id,
                    handle,
                    chunk: held,
                });
            }
            Event::DiskBeat(DiskBeat { disk, beat_age }) => {
                if let Some(directory) = self.directory(disk.directory_id) {
                    directory.report.disk = disk;
                    directory.beat_age = beat_age;
                }
                // A heartbeat that is due waits for what the other disks tell.
                return;
            }
            Event::Ordered {
                connection,
                request_id,
                epoch,
                order,
            } => {
                let waiting = WaitingOrder {
                    connection,
                    request_id,
                    epoch,
                    order,
                };
                match waiting.order {
                    Order::Delete { .. } => self.deletes.push_back(waiting),
                    Order::Verify { .. } => self.verifies.push_back(waiting),
                    Order::Copy(_) => self.copies.push_back(waiting),
                    Order::Chunk(_) => self.chunk_orders.push_back(waiting),
                }
            }
            Event::Deleted(answers) => {
                self.deletes_run = false;
                for (connection, request_id, answer) in answers {
                    let answer = answer.map(|()| ChunkDeleted.into());
                    self.answer(connection, request_id, Kind::DeleteChunk, answer);
                }
            }
            Event::Verified {
                connection,
                request_id,
                answer,
            } => {
                self.verifies_running = self.verifies_running.saturating_sub(1);
                let answer = answer.map(Into::into);
                self.answer(connection, request_id, Kind::VerifyChunk, answer);
            }
            Event::ChunkOrderAnswered {
                connection,
                request_id,
                asked,
                answer,
            } => self.answer(connection, request_id, asked, *answer),
            Event::ChainTrouble(report) => self.take_report(report),
            Event::ChainReported { connection, report } => {
                self.report_answered(connection, &report);
            }
            Event::Copied {
                connection,
                request_id,
                handle,
                answer,
            } => {
                self.copies_running.remove(&handle);
                let answer = answer.map(Into::into);
                self.answer(connection, request_id, Kind::CopyChunk, answer);
            }
        }
        self.advance();
    }

    /// Does what has become due.
    fn advance(&mut self) {
        match &self.link {
            Link::Waiting { until } if *until <= self.now => {
                let master = self.next_master;
                self.next_master = (master + 1) % self.config.masters.max(1);
                self.link = Link::Dialling;
                self.actions.push_back(Action::Dial { master });
            }
            Link::Registered(session) => {
                let connection = session.connection;
                self.advance_heartbeat();
                self.advance_inventories(connection);
                self.advance_reports();
            }
            _ => {}
        }
        // What a master orders right behind its answer waits until that is kept.
        if !matches!(self.link, Link::Registering { .. } | Link::Keeping { .. }) {
            self.advance_deletes();
            self.advance_verifies();
            self.advance_copies();
            self.advance_chunk_orders();
        }
    }

    fn is_current(&self, connection: ConnectionId) -> bool {
        match &self.link {
            Link::Waiting { .. } | Link::Dialling => false,
            Link::Registering {
                connection: current,
                ..
            }
            | Link::Keeping {
                connection: current,
                ..
            } => *current == connection,
            Link::Registered(session) => session.connection == connection,
        }
    }

    fn directory(&mut self, id: DirectoryId) -> Option<&mut DirectoryState> {
        self.directories
            .iter_mut()
            .find(|it| it.report.directory_id == id)
    }

    // Heartbeats.

    fn advance_heartbeat(&mut self) {
        let Link::Registered(session) = &mut self.link else {
            return;
        };
        if session.next_heartbeat > self.now {
            return;
        }
        session.next_heartbeat = self.now + session.heartbeat;
        if session.sent - session.answered >= HEARTBEATS_OUT_MAX {
            return;
        }
        session.sent += 1;
        let disks = self.directories.iter().map(DirectoryState::beat);
        let heartbeat = Heartbeat {
            server_id: self.config.server_id,
            sequence: session.sent,
            disks: disks.collect(),
            corrupt: self.findings.tell(session.sent),
            heat: Vec::new(),
            load: 0,
        };
        let connection = session.connection;
        self.actions.push_back(Action::SendHeartbeat {
            connection,
            heartbeat,
        });
    }

    fn heartbeat_answered(
        &mut self,
        connection: ConnectionId,
        sequence: u64,
        answer: Result<Epoch, Status>,
    ) {
        let Link::Registered(session) = &mut self.link else {
            return;
        };
        if session.connection != connection {
            return;
        }
        match answer {
            Ok(epoch) if epoch == self.config.epoch => {
                session.answered = session.answered.max(sequence.min(session.sent));
                for change in self.findings.heard(sequence) {
                    if let Some(directory) = self.directory(change.directory_id) {
                        let inventory = &mut directory.inventory;
                        inventory.handle_change(change.handle, change.chunk);
                    }
                }
            }
            Ok(_) => self.hang_up(connection, "the master has another epoch".to_owned()),
            Err(status) => self.hang_up(
                connection,
                format!("the master refused a heartbeat: {status}"),
            ),
        }
    }

    // Inventories.

    fn advance_inventories(&mut self, connection: ConnectionId) {
        for directory in self
            .directories
            .iter_mut()
            .filter(|directory| directory.is_served)
        {
            let directory_id = directory.report.directory_id;
            match directory.inventory.poll() {
                Some(Step::ReadSlice { after }) => {
                    self.actions.push_back(Action::ReadSlice {
                        connection,
                        directory_id,
                        after,
                    });
                }
                Some(Step::Send(inventory)) => {
                    self.actions.push_back(Action::SendInventory {
                        connection,
                        inventory,
                    });
                }
                None => {}
            }
        }
    }

    fn slice_read(
        &mut self,
        connection: ConnectionId,
        directory_id: DirectoryId,
        held: Vec<HeldChunk>,
    ) {
        if !self.is_current(connection) {
            return;
        }
        let Some(directory) = self.directory(directory_id) else {
            return;
        };
        if let Some(inventory) = directory.inventory.handle_slice(held) {
            self.actions.push_back(Action::SendInventory {
                connection,
                inventory,
            });
        }
    }

    fn inventory_answered(
        &mut self,
        connection: ConnectionId,
        directory_id: DirectoryId,
        answer: Result<bool, Status>,
    ) {
        if !self.is_current(connection) {
            return;
        }
        match answer {
            Ok(resend) => {
                if let Some(directory) = self.directory(directory_id) {
                    directory.inventory.handle_taken(resend);
                }
            }
            Err(status) => {
                self.hang_up(
                    connection,
                    format!("the master refused an inventory: {status}"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;
