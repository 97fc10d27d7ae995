//! The control loop: one event after the other into the core's machine, and its actions out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sarsen_edge::connection::Connection;
use sarsen_edge::daemon::Drain;
use sarsen_edge::random_u64;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, DirectoryId};
use sarsen_protocol::message::{
    ChunkVerified, CopyChunk, DirectoryReport, ErrorBody, ExtendLeases, Heartbeat,
};
use sarsen_protocol::size::{HEAT_MAX, LEASES_MAX};
use sarsen_protocol::status::Status;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{sleep, timeout};

use super::disk::{DiskThreads, Job, VerifyDone};
use super::master_link::{self, Input, Inputs, tell};
use super::orders::Deletes;
use super::start::{Server, StartError};
use super::{inventory, keep, leases, orders, pull, questions};
use crate::core::action::{Action, DeleteOrder, StopReason, ToKeep};
use crate::core::event::{ConnectionId, Event, Refusal};
use crate::core::machine::{Machine, MachineConfig};
use crate::core::tickets::TicketKeys;
use crate::http;
use crate::net::chunkserver::disk_hangs;
use crate::net::{Chunkserver, DataPlane, Notice};
use crate::store::Directory;

/// How long streams have to come to their end when the server drains.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// How long the disks have to make durable what is sealed when the server drains.
const FINISH_MAX: Duration = Duration::from_secs(30);

/// How long the loop rests when the machine waits for an answer.
const NO_DEADLINE: Duration = Duration::from_secs(3600);

/// Runs the server until it is told to drain, or can't go on.
pub(super) async fn run(server: Server, drain: Drain) -> Result<(), StartError> {
    let is_ready = Arc::new(AtomicBool::new(false));
    let no_port = |source| StartError::System {
        what: "port",
        source,
    };
    let http_listener = TcpListener::from_std(server.http.try_clone().map_err(no_port)?);
    let control_listener = TcpListener::from_std(server.control.try_clone().map_err(no_port)?);
    let chunkserver = Arc::clone(&server.chunkserver);
    let state = http::HttpState {
        chunkserver: Arc::clone(&chunkserver),
        mode: server.mode,
        is_ready: Arc::clone(&is_ready),
    };
    tokio::spawn(http::serve(http_listener.map_err(no_port)?, state));
    tokio::spawn(questions::serve(
        control_listener.map_err(no_port)?,
        chunkserver,
    ));
    Control::new(server, is_ready)?.run(drain).await
}

/// The loop's state.
struct Control {
    server: Server,
    machine: Machine,
    began: Instant,
    inputs: Inputs,
    arrived: mpsc::UnboundedReceiver<Input>,
    /// The connection to the master, if there is one.
    master: Option<Connection>,
    disks: Vec<DiskThreads>,
    is_ready: Arc<AtomicBool>,
}

impl Control {
    fn new(server: Server, is_ready: Arc<AtomicBool>) -> Result<Self, StartError> {
        let chunkserver = &server.chunkserver;
        let disks = chunkserver
            .directories()
            .map(|directory| DiskThreads::start(directory, chunkserver))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| StartError::System {
                what: "thread for a disk",
                source,
            })?;
        let epochs = chunkserver
            .directories()
            .map(|directory| directory.identity().epoch);
        let data_addr = server.ready.data.as_ref().map(ToString::to_string);
        let config = MachineConfig {
            masters: server.masters.len(),
            control_addr: server.ready.control.to_string(),
            data_addr: data_addr.unwrap_or_default(),
            http_addr: server.ready.http.to_string(),
            rack: server.rack.clone(),
            server_id: chunkserver.me(),
            epoch: epochs.max_by_key(|epoch| epoch.number).unwrap_or_default(),
            seed: random_u64(),
        };
        let machine = Machine::new(config, disks.iter().map(report).collect());
        let (inputs, arrived) = mpsc::unbounded_channel();
        let began = Instant::now();
        Ok(Self {
            server,
            machine,
            began,
            inputs,
            arrived,
            master: None,
            disks,
            is_ready,
        })
    }

    async fn run(mut self, mut drain: Drain) -> Result<(), StartError> {
        loop {
            let now = self.began.elapsed();
            let due = self.machine.deadline();
            let wait = due.map_or(NO_DEADLINE, |due| due.saturating_sub(now));
            tokio::select! {
                biased;
                () = drain.asked() => break,
                Some(input) = self.arrived.recv() => self.take(input),
                Some(notice) = self.server.notices.recv() => self.noticed(notice),
                () = sleep(wait) => self.handle(Event::Tick),
            }
            if let Err(reason) = self.act_all() {
                self.finish(Duration::ZERO).await;
                return Err(StartError::Stopped { reason });
            }
        }
        tracing::info!("draining");
        self.finish(DRAIN_MAX).await;
        Ok(())
    }

    /// Ends what runs: streams first, then what is sealed is made durable.
    async fn finish(self, grace: Duration) {
        self.is_ready.store(false, Ordering::Relaxed);
        if let Some(master) = &self.master {
            master.goodbye(Status::ShuttingDown, "the chunkserver is told to end");
        }
        let plane: DataPlane = self.server.plane;
        let disks = self.disks;
        let ending = tokio::task::spawn_blocking(move || {
            plane.drain(grace);
            disks.into_iter().for_each(DiskThreads::finish);
        });
        if timeout(grace + FINISH_MAX, ending).await.is_err() {
            tracing::warn!("ended before every seal at `memory` was synced: a disk hangs");
        }
    }

    /// Whatever comes brings a heartbeat on its way that is due. How the disks are comes first, so that
    /// it tells the newest.
    fn handle(&mut self, event: Event) {
        let now = self.began.elapsed();
        if self.machine.deadline().is_some_and(|due| due <= now) {
            for disk in &self.disks {
                self.machine.handle(now, Event::DiskBeat(disk.beat()));
            }
        }
        self.machine.handle(now, event);
    }

    /// What has changed until now is told before what came in is acted on: a chunk that is being deleted
    /// is noticed as gone before its order is answered, and no inventory tells it as held behind that.
    fn take_notices(&mut self) {
        for _ in 0..self.server.notices.len() {
            if let Ok(notice) = self.server.notices.try_recv() {
                self.noticed(notice);
            }
        }
    }

    fn take(&mut self, input: Input) {
        self.take_notices();
        match input {
            Input::Event(event) => self.handle(event),
            Input::Connected(connection, incoming) => {
                let cluster_id = connection.peer().identity.cluster_id;
                self.master = Some(connection.clone());
                let (chunkserver, inputs) = (self.chunkserver(), self.inputs.clone());
                let id = connection.id();
                tokio::spawn(master_link::listen(
                    connection,
                    incoming,
                    chunkserver,
                    inputs,
                ));
                self.handle(Event::Dialled {
                    connection: id,
                    cluster_id,
                });
            }
        }
    }

    /// The data plane or the upkeep changed something, or doubts it.
    fn noticed(&mut self, notice: Notice) {
        match notice {
            Notice::Changed {
                directory: directory_id,
                handle,
            } => {
                let Some(disk) = self.disk(directory_id) else {
                    return;
                };
                let entry = disk.directory().told(handle);
                if entry.as_ref().is_some_and(|entry| entry.flags.unsynced) {
                    disk.do_later(Job::Sync);
                }
                let held = entry.as_ref().map(inventory::held_chunk);
                self.handle(Event::ChunkChanged {
                    directory_id,
                    handle,
                    held,
                });
            }
            Notice::Doubtful {
                directory: directory_id,
                handle,
                version,
            } => {
                let Some(disk) = self.disk(directory_id) else {
                    return;
                };
                // What comes of it is told as a change of the chunk.
                disk.doubt(handle, version, VerifyDone(Box::new(drop)));
            }
            Notice::ChainTrouble(report) => self.handle(Event::ChainTrouble(report)),
        }
    }

    /// Does what the machine wants done.
    ///
    /// # Errors
    /// Why the server is to end.
    fn act_all(&mut self) -> Result<(), StopReason> {
        while let Some(action) = self.machine.poll_action() {
            if let Action::Stop(reason) = action {
                return Err(reason);
            }
            self.act(action);
        }
        Ok(())
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Dial { master } => self.dial(master),
            Action::Close { connection } => {
                if let Some(connection) = self.connection(connection) {
                    connection.close();
                }
            }
            Action::Register {
                connection,
                register,
            } => {
                self.over(connection, |link, inputs| {
                    master_link::register(link, &register, inputs)
                });
            }
            Action::Keep { connection, keep } => self.keep(connection, keep),
            Action::Serve {
                ticket_keys,
                directories,
                heartbeat,
                suspect_after,
                dead_after,
            } => {
                let keys = TicketKeys::new(&ticket_keys);
                let chunkserver = &self.server.chunkserver;
                chunkserver.register(keys, &directories, suspect_after);
                chunkserver.members.set_dead_after(dead_after);
                for disk in &self.disks {
                    disk.beat_every(heartbeat);
                }
                self.say_ready();
            }
            Action::SendHeartbeat {
                connection,
                heartbeat,
            } => {
                let heartbeat = self.filled(heartbeat);
                self.over(connection, |link, inputs| {
                    master_link::heartbeat(link, &heartbeat, inputs)
                });
                self.extend_leases(connection);
            }
            Action::ReadSlice {
                connection,
                directory_id,
                after,
            } => {
                if let Some(disk) = self.disk(directory_id) {
                    let slice = Event::SliceRead {
                        connection,
                        directory_id,
                        held: inventory::slice(disk.directory(), after),
                    };
                    tell(&self.inputs, slice);
                }
            }
            Action::SendInventory {
                connection,
                inventory,
            } => {
                self.over(connection, |link, inputs| {
                    master_link::inventory(link, &inventory, inputs)
                });
            }
            Action::Delete(batch) => self.delete(batch),
            Action::Verify {
                connection,
                request_id,
                handle,
                version,
            } => {
                let verified = move |answer| Event::Verified {
                    connection,
                    request_id,
                    answer,
                };
                self.verify(handle, version, verified);
            }
            Action::Copy {
                connection,
                request_id,
                order,
                silence_max,
            } => self.copy(connection, request_id, *order, silence_max),
            Action::Answer {
                connection,
                request_id,
                asked,
                answer,
            } => {
                if let Some(connection) = self.connection(connection) {
                    connection.reply(request_id, asked, answer);
                }
            }
            Action::OrderChunk {
                connection,
                request_id,
                order,
            } => leases::order(
                &self.server.chunkserver,
                &self.inputs,
                (connection, request_id),
                *order,
            ),
            Action::ReportChain { connection, report } => {
                self.over(connection, |link, inputs| {
                    leases::report(link, report, inputs)
                });
            }
            Action::Unserved {
                directory_id,
                status,
            } => self.unserved(directory_id, status),
            Action::Warn(text) => tracing::warn!("not registered, trying again: {text}"),
            Action::Stop(_) => unreachable!("the loop has taken it out"),
        }
    }

    /// Behind each heartbeat, while there is work.
    fn extend_leases(&self, connection: ConnectionId) {
        let wanted = self.server.chunkserver.members.wanted_leases();
        for some in wanted.chunks(LEASES_MAX) {
            let request = ExtendLeases {
                epoch: self.machine.epoch(),
                leases: some.to_vec(),
            };
            let chunkserver = self.chunkserver();
            self.over(connection, |link, _| {
                leases::extend(link, &request, chunkserver)
            });
        }
    }

    /// A directory that the master does not count; whoever runs the server is to see it.
    fn unserved(&self, directory_id: DirectoryId, status: Status) {
        let disk = self.disk(directory_id);
        let dir = disk.map(|disk| disk.directory().root().display().to_string());
        let dir = dir.unwrap_or_default();
        tracing::error!(dir, %status,
            "THE MASTER DOES NOT COUNT THIS DIRECTORY: {}; none of its chunks is served",
            status.meaning());
        if status == Status::StaleStart
            && let Some(disk) = disk
            && let Err(error) = disk.directory().mark_stale()
        {
            tracing::error!(dir, %error, "could not mark the directory as stale");
        }
    }

    fn dial(&self, master: usize) {
        if let Some(address) = self.server.masters.get(master) {
            let find_key = !self.server.has_key_file && !self.is_ready.load(Ordering::Relaxed);
            let (chunkserver, inputs) = (self.chunkserver(), self.inputs.clone());
            tokio::spawn(master_link::dial(
                address.clone(),
                find_key,
                chunkserver,
                inputs,
            ));
        }
    }

    /// Asks something over a connection, if it is still the master's, and starts a task that waits for
    /// the answer. It is in the connection's queue when this returns, in order with answers.
    fn over<F: Future<Output = ()> + Send + 'static>(
        &self,
        connection: ConnectionId,
        start: impl FnOnce(Connection, Inputs) -> F,
    ) {
        if let Some(connection) = self.connection(connection) {
            tokio::spawn(start(connection.clone(), self.inputs.clone()));
        }
    }

    /// Makes durable what the machine wants kept.
    fn keep(&self, connection: ConnectionId, keep: ToKeep) {
        tokio::spawn(keep::run(
            self.chunkserver(),
            self.inputs.clone(),
            connection,
            keep,
        ));
    }

    fn delete(&self, batch: Vec<DeleteOrder>) {
        let (chunkserver, inputs) = (self.chunkserver(), self.inputs.clone());
        // All of them: a damaged file is in no directory's table.
        self.disks.iter().for_each(|disk| disk.do_later(Job::Empty));
        let mut parts: BTreeMap<_, Vec<DeleteOrder>> = BTreeMap::new();
        for order in batch {
            let holder = orders::holder(&chunkserver, &order);
            parts.entry(holder).or_default().push(order);
        }
        let parts = parts.into_iter().map(|(holder, part)| {
            let hangs = self.disks.iter().any(|disk| {
                holder == Some(disk.directory().identity().directory_id) && disk.hangs()
            });
            // Before anything else happens: a report must not tell of what is about to go.
            let deletes = Deletes::announce(&chunkserver, part);
            tokio::spawn(delete_part(
                Arc::clone(&chunkserver),
                holder,
                hangs,
                deletes,
            ))
        });
        let parts: Vec<_> = parts.collect();
        tokio::spawn(async move {
            let mut answers = Vec::new();
            for part in parts {
                // It does not panic itself, and answers for what does below it.
                answers.extend(part.await.unwrap_or_default());
            }
            tell(&inputs, Event::Deleted(answers));
        });
    }

    /// Has a chunk read back, and the outcome told; or that its disk doesn't answer.
    fn verify(
        &self,
        handle: ChunkHandle,
        version: ChunkVersion,
        verified: impl FnOnce(Result<ChunkVerified, Refusal>) -> Event + Send + 'static,
    ) {
        let holds = |disk: &&DiskThreads| disk.directory().entry(handle).is_some();
        // Where nobody holds it, the first says so.
        let Some(disk) = self.disks.iter().find(holds).or(self.disks.first()) else {
            return;
        };
        if disk.hangs() {
            return tell(&self.inputs, verified(Err(disk_hangs())));
        }
        let (answer, answered) = oneshot::channel();
        let done = VerifyDone(Box::new(move |found| {
            // Nobody waits any more for a disk that hung.
            let _ = answer.send(found);
        }));
        let directory_id = disk.directory().identity().directory_id;
        disk.do_later(Job::Verify {
            handle,
            version,
            done,
        });
        let (chunkserver, inputs) = (self.chunkserver(), self.inputs.clone());
        tokio::spawn(async move {
            let answer = tokio::select! {
                answer = answered => answer.unwrap_or_else(|_| Err(unanswered())),
                () = chunkserver.hung(Some(directory_id)) => Err(disk_hangs()),
            };
            tell(&inputs, verified(answer));
        });
    }

    /// Copies a chunk, on a thread that nobody waits for.
    fn copy(
        &self,
        connection: ConnectionId,
        request_id: u64,
        order: CopyChunk,
        silence_max: Duration,
    ) {
        let (chunkserver, inputs) = (self.chunkserver(), self.inputs.clone());
        let handle = order.handle;
        let copying =
            tokio::task::spawn_blocking(move || pull::run(&chunkserver, &order, silence_max));
        tokio::spawn(async move {
            let answer = copying.await.unwrap_or_else(|error| Err(panicked(error)));
            let copied = Event::Copied {
                connection,
                request_id,
                handle,
                answer,
            };
            tell(&inputs, copied);
        });
    }

    fn say_ready(&self) {
        if !self.is_ready.swap(true, Ordering::Relaxed) {
            tracing::info!(server = %self.server.chunkserver.me(), "registered");
            if let Err(error) = self.server.ready.print() {
                tracing::debug!(%error, "nobody reads the ready line");
            }
        } else {
            tracing::info!("registered again");
        }
    }

    /// Adds what only the data plane counts.
    fn filled(&self, mut heartbeat: Heartbeat) -> Heartbeat {
        let counters = &self.server.chunkserver.counters;
        let load = counters.write_streams.value() + counters.read_streams.value();
        heartbeat.load = u32::try_from(load).unwrap_or(u32::MAX);
        heartbeat.heat = self.server.chunkserver.take_heat(HEAT_MAX);
        heartbeat
    }

    fn connection(&self, id: ConnectionId) -> Option<&Connection> {
        self.master.as_ref().filter(|master| master.id() == id)
    }

    fn disk(&self, id: DirectoryId) -> Option<&DiskThreads> {
        self.disks
            .iter()
            .find(|disk| disk.directory().identity().directory_id == id)
    }

    fn chunkserver(&self) -> Arc<Chunkserver> {
        Arc::clone(&self.server.chunkserver)
    }
}

/// Deletes what one directory holds, or nobody does; answers by itself if the disk hangs, so that the
/// others' orders go on.
async fn delete_part(
    chunkserver: Arc<Chunkserver>,
    holder: Option<DirectoryId>,
    hangs: bool,
    deletes: Deletes,
) -> Vec<(ConnectionId, u64, Result<(), Refusal>)> {
    let orders = deletes.orders().to_vec();
    let all = |refusal: Refusal| vec![Err(refusal); orders.len()];
    let results = match hangs {
        true => all(disk_hangs()),
        false => {
            let deleting = tokio::task::spawn_blocking(move || deletes.run());
            let hangs = async {
                match holder {
                    Some(holder) => chunkserver.hung(Some(holder)).await,
                    None => std::future::pending().await,
                }
            };
            outcome(deleting, hangs).await.unwrap_or_else(all)
        }
    };
    let answered = orders.iter().zip(results);
    answered
        .map(|(order, result)| (order.connection, order.request_id, result))
        .collect()
}

/// What comes of work on a disk; a refusal if the disk hangs, or the work panics.
async fn outcome<T>(working: JoinHandle<T>, hangs: impl Future<Output = ()>) -> Result<T, Refusal> {
    tokio::select! {
        done = working => done.map_err(panicked),
        () = hangs => Err(disk_hangs()),
    }
}

/// The work ended without a word: it has panicked.
fn unanswered() -> Refusal {
    let text = "the work on the disk ended without an answer";
    (Status::Internal, ErrorBody::new(text))
}

fn panicked(error: JoinError) -> Refusal {
    (Status::Internal, ErrorBody::new(error.to_string()))
}

/// What a registration tells of a directory.
fn report(disk: &DiskThreads) -> DirectoryReport {
    let directory: &Directory = disk.directory();
    let identity = directory.identity();
    let (_, highest_handle, highest_version) = directory.extent();
    let registered = identity.known_starts.registered.unwrap_or_default();
    DirectoryReport {
        registered_number: registered.0,
        registered_nonce: registered.1,
        offered: identity.known_starts.offered,
        directory_id: identity.directory_id,
        start_number: identity.start_number,
        start_nonce: identity.start_nonce,
        disk: disk.beat().disk,
        highest_handle,
        highest_version,
    }
}

#[cfg(test)]
mod tests;
