//! Chunkservers: registration, heartbeats, inventories (`spec/messages.md` section 9).
//!
//! A registration takes up to two rounds through the log: first the server (its id, addresses,
//! rack), then the start of each directory. Only when all of it is durable does the server
//! count. One whose directories are all copies or rolled back changes nothing: it may be the
//! copy of a server that is well.

use std::collections::{BTreeMap, BTreeSet};

use sarsen_protocol::id::{ChunkVersion, DirectoryId, Epoch, ServerId, StartNumber};
use sarsen_protocol::message::{
    DirectoryReport, Heartbeat, HeartbeatReply, HeldChunk, Inventory, InventoryTaken, Register,
    Registered, TicketKey, Verdict,
};
use sarsen_protocol::sabotage::{Check, is_in_force};
use sarsen_protocol::status::Status;

use super::{Machine, Waiter, millis};
use crate::core::action::{Action, Alarm, Failure};
use crate::core::command::cluster::Addresses;
use crate::core::command::{Command, DirectoryStarted, ServerRegistered};
use crate::core::event::{ConnectionId, Token};
use crate::core::refusal::Refusal;
use crate::core::session::Answer;
use crate::core::state::{DirectoryRecord, ServerRecord, StartKind};

/// A registration on its way through the log.
#[derive(Clone, Debug)]
pub(super) struct Registration {
    to: Token,
    register: Register,
    server: ServerId,
    /// Directories whose entries are on their way.
    waiting: BTreeSet<DirectoryId>,
    refused: BTreeMap<DirectoryId, Refusal>,
}

impl Machine {
    /// A chunkserver begins.
    pub(super) fn register(&mut self, to: Token, register: Register) {
        if self.registrations.contains_key(&to.connection)
            || self.servers.server_of(to.connection).is_some()
        {
            let text = "this connection has registered already";
            return self.refuse(to, Failure::new(Status::InvalidArgument, text));
        }
        if let Err(failure) = check_starts(&register.directories) {
            return self.refuse(to, failure);
        }
        let server = self.known_server(&register);
        let checked = self
            .check_log_covers(server, &register)
            .and_then(|()| self.check_one_at_a_time(server, &register));
        if let Err(failure) = checked {
            return self.refuse(to, failure);
        }
        let refused = self.refused_starts(server, &register.directories);
        let all_refused = !refused.is_empty() && refused.len() == register.directories.len();
        let registration = Registration {
            to,
            register,
            server,
            waiting: BTreeSet::new(),
            refused,
        };
        if all_refused {
            let reply = self.registered(&registration);
            return self.reply(to, reply);
        }
        let logged = self.state.servers.servers.get(&server);
        let record = server_record(&registration.register);
        let is_logged = logged == Some(&record);
        self.registrations.insert(to.connection, registration);
        if is_logged {
            return self.start_directories(to.connection);
        }
        let ServerRecord { addresses, rack } = record;
        let command = ServerRegistered {
            server,
            addresses,
            rack,
        };
        self.append_for(command.into(), None, vec![Waiter::Server(to.connection)]);
    }

    /// Whose registration it is: by its word; or by whom its directories, or its addresses before
    /// there were any, were registered before an answer got lost; none for a new server.
    fn known_server(&self, register: &Register) -> ServerId {
        if register.server_id.is_some() {
            return register.server_id;
        }
        let servers = &self.state.servers;
        let directories = register.directories.iter();
        let mut known =
            directories.filter_map(|report| servers.directories.get(&report.directory_id));
        if let Some(directory) = known.next() {
            return directory.server;
        }
        let record = server_record(register);
        let mut same = servers
            .servers
            .iter()
            .filter(|(_, known)| **known == record);
        let unused = same.find(|(id, _)| servers.directories.values().all(|it| it.server != **id));
        unused.map_or(ServerId::NONE, |(&id, _)| id)
    }

    /// A directory starts anew only when nobody has it any more, and two registrations don't
    /// overtake each other on their way into the log (`spec/messages.md` section 9).
    fn check_one_at_a_time(&self, server: ServerId, register: &Register) -> Result<(), Failure> {
        let record = server_record(register);
        let is_on_its_way = self.in_flight.values().any(|one| match &one.entry.command {
            Command::DirectoryStarted(body) => {
                let mut reports = register.directories.iter();
                reports.any(|report| report.directory_id == body.directory)
            }
            Command::ServerRegistered(body) => {
                !server.is_some() && body.addresses == record.addresses
            }
            _ => false,
        });
        if is_on_its_way {
            return Err(self.starting());
        }
        let starts_anew = |report: &DirectoryReport| {
            let last = self.state.servers.directories.get(&report.directory_id);
            last.is_some_and(|last| {
                last.server == server && report.start_number > last.start_number
            })
        };
        if self.is_usable(server) && register.directories.iter().any(starts_anew) {
            let text = format!(
                "server {server} is connected and was heard a moment ago: if this is not the same \
                 process started again, it runs on a copy of that server's directory"
            );
            let wait = millis(self.config.heartbeat);
            return Err(Failure::new(Status::Overloaded, text).retry_after(wait));
        }
        Ok(())
    }

    /// Whether this master's log covers all that a server has seen.
    fn check_log_covers(&mut self, server: ServerId, register: &Register) -> Result<(), Failure> {
        let theirs = register.epoch;
        let is_other = |ours: Epoch| theirs.number == ours.number && theirs != ours;
        if theirs.number > self.epoch.number || is_other(self.epoch) || is_other(self.found_epoch) {
            self.raise(Alarm::EpochAboveLog {
                server,
                epoch: theirs,
            });
            let text = format!(
                "the server has obeyed epoch {} of incarnation {:016x}, which this master's log, \
                 now at {}, never had: it is older than the cluster's",
                theirs.number, theirs.incarnation, self.epoch.number
            );
            return Err(Failure::new(Status::StaleEpoch, text));
        }
        if server.is_some() && !self.state.servers.servers.contains_key(&server) {
            self.raise(Alarm::ServerAboveLog { server });
            let text = format!("this master's log has no server {server}");
            return Err(Failure::new(Status::ForeignDirectory, text));
        }
        for report in &register.directories {
            self.check_start_covered(server, report)?;
            let (handle, version) = (report.highest_handle, report.highest_version);
            if !self.allocations.covers(handle, version) {
                self.raise(Alarm::ChunkAboveLog {
                    server,
                    handle,
                    version,
                });
            }
        }
        Ok(())
    }

    /// Raises the alarm if a chunk's handle, version or file was never given out by this log
    /// (`spec/messages.md` section 9).
    ///
    /// A chunk of no version is a file whose header can't be read: its name proves nothing.
    fn check_given_out(&mut self, server: ServerId, held: &HeldChunk) {
        let &HeldChunk {
            handle,
            version,
            file_id: file,
            ..
        } = held;
        if version == ChunkVersion::NONE {
            return;
        }
        if !self.allocations.covers(handle, version) {
            self.raise(Alarm::ChunkAboveLog {
                server,
                handle,
                version,
            });
        } else if file >= self.state.namespace.next_file()
            || !self.allocations.covers_file(handle, file)
        {
            self.raise(Alarm::FileAboveLog {
                server,
                handle,
                file,
            });
        }
    }

    /// A start that a master is known to have registered is in every whole log.
    fn check_start_covered(
        &mut self,
        server: ServerId,
        report: &DirectoryReport,
    ) -> Result<(), Failure> {
        let last = self.state.servers.directories.get(&report.directory_id);
        let last = last.map(|last| last.start_number).unwrap_or_default();
        if report.registered_number <= last {
            return Ok(());
        }
        self.raise(Alarm::StartAboveLog {
            server,
            directory: report.directory_id,
            start_number: report.registered_number,
        });
        let text = format!(
            "directory {} was registered at start {}, this master's log has {last}: it is older \
             than the cluster's",
            report.directory_id, report.registered_number
        );
        Err(Failure::new(Status::StaleEpoch, text))
    }

    /// Whether a directory's start is sound: by its number, and by what it knows of the last one
    /// (`spec/messages.md` section 9).
    fn admit_start(
        &self,
        server: ServerId,
        report: &DirectoryReport,
    ) -> Result<StartKind, Refusal> {
        let start = start_of(server, report);
        let kind = self
            .state
            .servers
            .admit_start(report.directory_id, &start)?;
        let last = self.state.servers.directories.get(&report.directory_id);
        match (kind, last) {
            (StartKind::New, Some(last)) => {
                let registered = (report.registered_number, report.registered_nonce);
                let is_known = registered == (last.start_number, last.start_nonce)
                    || report.offered.contains(&last.start_nonce)
                    || !is_in_force(Check::StartNumber);
                is_known.then_some(kind).ok_or(Refusal::StaleStart)
            }
            _ => Ok(kind),
        }
    }

    fn refused_starts(
        &self,
        server: ServerId,
        directories: &[DirectoryReport],
    ) -> BTreeMap<DirectoryId, Refusal> {
        if !server.is_some() {
            return BTreeMap::new();
        }
        let refused = directories.iter().filter_map(|report| {
            let verdict = self.admit_start(server, report);
            Some((report.directory_id, verdict.err()?))
        });
        refused.collect()
    }

    /// The entry of a registration's server is applied.
    pub(super) fn server_logged(&mut self, connection: ConnectionId, answer: &Answer) {
        match answer {
            Answer::Id(id) => {
                if let Some(registration) = self.registrations.get_mut(&connection) {
                    registration.server = ServerId(*id);
                    self.start_directories(connection);
                }
            }
            Answer::Refused(refusal) => {
                if let Some(registration) = self.registrations.remove(&connection) {
                    self.refuse(registration.to, refusal.status().into());
                }
            }
            _ => {}
        }
    }

    /// Appends the starts that the log doesn't have.
    fn start_directories(&mut self, connection: ConnectionId) {
        let Some(mut registration) = self.registrations.remove(&connection) else {
            return;
        };
        let server = registration.server;
        registration.refused = self.refused_starts(server, &registration.register.directories);
        for report in &registration.register.directories {
            let id = report.directory_id;
            let start = start_of(server, report);
            if self.admit_start(server, report) == Ok(StartKind::New) {
                let command = DirectoryStarted {
                    directory: id,
                    server,
                    start_number: start.start_number,
                    start_nonce: start.start_nonce,
                };
                let waiter = Waiter::Directory(connection, id);
                self.append_for(command.into(), None, vec![waiter]);
                registration.waiting.insert(id);
            }
        }
        self.registrations.insert(connection, registration);
        self.finish_if_logged(connection);
    }

    /// The entry of one of a registration's directories is applied.
    pub(super) fn directory_logged(
        &mut self,
        connection: ConnectionId,
        directory: DirectoryId,
        answer: &Answer,
    ) {
        let Some(registration) = self.registrations.get_mut(&connection) else {
            return;
        };
        registration.waiting.remove(&directory);
        if let Answer::Refused(refusal) = answer {
            registration.refused.insert(directory, *refusal);
        }
        self.finish_if_logged(connection);
    }

    fn finish_if_logged(&mut self, connection: ConnectionId) {
        if self
            .registrations
            .get(&connection)
            .is_none_or(|one| !one.waiting.is_empty())
        {
            return;
        }
        let Some(registration) = self.registrations.remove(&connection) else {
            return;
        };
        let accepted = registration.register.directories.iter();
        let accepted = accepted
            .filter(|report| !registration.refused.contains_key(&report.directory_id))
            .map(|report| report.disk.clone())
            .collect();
        let (server, now) = (registration.server, self.now.elapsed);
        if let Some(before) = self.servers.register(server, connection, accepted, now) {
            self.drop_orders(before);
            let text = format!("server {server} has registered over another connection");
            let failure = Failure::new(Status::StaleEpoch, text);
            self.actions.push_back(Action::Close {
                connection: before,
                failure,
            });
        }
        let reply = self.registered(&registration);
        self.reply(registration.to, reply);
        self.repairs.unstick();
        self.changes_connected(server);
    }

    fn registered(&self, registration: &Registration) -> Registered {
        let key = &self.state.cluster.ticket_key;
        let verdict = |report: &DirectoryReport| Verdict {
            directory_id: report.directory_id,
            status: match registration.refused.get(&report.directory_id) {
                Some(refusal) => refusal.status().number(),
                None => Status::Ok.number(),
            },
        };
        Registered {
            server_id: registration.server,
            epoch: self.epoch,
            chunk_size: self.state.cluster.chunk_size,
            heartbeat: millis(self.config.heartbeat),
            suspect_after: millis(self.config.suspect_after),
            dead_after: millis(self.config.dead_after),
            lease: millis(self.config.lease),
            ticket_keys: vec![TicketKey {
                key_id: key.id,
                key: *key.key.bytes(),
            }],
            directories: registration
                .register
                .directories
                .iter()
                .map(verdict)
                .collect(),
            repair_streams: self.config.repair_streams_per_server,
        }
    }

    /// A chunkserver tells how it is.
    pub(super) fn heartbeat(
        &mut self,
        connection: ConnectionId,
        beat: Heartbeat,
    ) -> Result<HeartbeatReply, Failure> {
        let server = self.registered_server(connection)?;
        if beat.server_id != server {
            let text = format!("this connection is server {server}'s");
            return Err(Failure::new(Status::InvalidArgument, text));
        }
        for corrupt in &beat.corrupt {
            self.servers
                .mark_corrupt(corrupt.handle, corrupt.version, server);
        }
        let was_live = self.is_live(server);
        self.servers.beat(server, beat.disks, self.now.elapsed);
        self.changes_heard(server, was_live);
        self.settle_again(server);
        Ok(HeartbeatReply { epoch: self.epoch })
    }

    /// A chunkserver tells what a directory holds.
    pub(super) fn inventory(
        &mut self,
        connection: ConnectionId,
        inventory: &Inventory,
    ) -> Result<InventoryTaken, Failure> {
        let server = self.registered_server(connection)?;
        let taken = self.servers.take_inventory(server, inventory);
        for held in &inventory.held {
            self.check_given_out(server, held);
            self.settle_if_logged(server, inventory.directory_id, held);
            if self.state.chunks.record(held.handle).is_none() {
                self.garbage.suspect(held.handle, self.now.elapsed);
            }
        }
        if taken.completed {
            self.leave_safe_mode_if_due();
            self.report_completed();
        }
        Ok(InventoryTaken {
            resend: taken.resend,
        })
    }

    pub(super) fn registered_server(&self, connection: ConnectionId) -> Result<ServerId, Failure> {
        self.servers.server_of(connection).ok_or_else(|| {
            Failure::new(
                Status::StaleEpoch,
                "this connection is not registered: register anew",
            )
        })
    }
}

/// Refuses what no entry can hold: a directory without an id, a start without a number.
fn check_starts(directories: &[DirectoryReport]) -> Result<(), Failure> {
    let is_nameless = |report: &DirectoryReport| {
        report.directory_id == DirectoryId::NONE || report.start_number == StartNumber::default()
    };
    match directories.iter().any(is_nameless) {
        true => {
            let text = "a directory has an id and a start number, neither of them 0";
            Err(Failure::new(Status::InvalidArgument, text))
        }
        false => Ok(()),
    }
}

fn server_record(register: &Register) -> ServerRecord {
    let addresses = Addresses {
        control: register.control_addr.clone(),
        data: register.data_addr.clone(),
        http: register.http_addr.clone(),
    };
    ServerRecord {
        addresses,
        rack: register.rack.clone(),
    }
}

fn start_of(server: ServerId, report: &DirectoryReport) -> DirectoryRecord {
    DirectoryRecord {
        server,
        start_number: report.start_number,
        start_nonce: report.start_nonce,
    }
}
