//! Repair: chunks that are short of good replicas are copied, and what is too much of the others
//! is deleted (`spec/messages.md` section 10).
//!
//! What a chunk needs is [`diagnosis`](crate::core::diagnosis)'s to say, which chunks are to be
//! looked at [`repair`](crate::core::repair)'s to remember; here both meet orders and time. After
//! every event that may have changed something of replicas, some chunks are looked at and some
//! copies begun; the rest waits for the next event or for [`Machine::next_repair`], so that a dead
//! server with a million chunks does not stop everything else.
//!
//! In safe mode, and when the log was lost in part, nothing is done and nothing is remembered:
//! when it is over, all chunks are looked at once.

use std::collections::BTreeSet;
use std::time::Duration;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Serial, ServerId, SessionId};
use sarsen_protocol::message::{
    AnyMessage, ChunkCopied, ChunkState, CopyChunk, DiskState, HeldChunk, HeldFlags, Hop,
    Repairs as RepairsReport, ReplicaFault, ReportReplica,
};
use sarsen_protocol::sabotage::{Check, is_in_force};
use sarsen_protocol::status::Status;
use sarsen_protocol::ticket::{Claims, Rights, Ticket};

use super::{Machine, millis};
use crate::core::action::Action;
use crate::core::chunk_table::{ChunkRecord, Sealed};
use crate::core::diagnosis::{Examiner, Need, NoPlan, Plan};
use crate::core::event::{OrderFailure, OrderId};
use crate::core::repair::{COPY_TIME_MAX, Running};
use crate::core::replica::Replica;

/// Chunks that are looked at after one event.
const LOOKS_MAX: usize = 1024;

/// Chunks for which somebody to copy them is looked for after one event.
const STARTS_MAX: usize = 64;

/// How many others, of those that are less urgent, in a tick.
const OTHERS_MAX: usize = 256;

/// The longest time between two looks at servers that were given up.
const TICK_MAX: Duration = Duration::from_secs(1);

impl Machine {
    /// Looks at what changed, and gives the orders that follow.
    pub(super) fn advance_repairs(&mut self) {
        let changed = self.servers.take_changed();
        if !self.may_repair() {
            return self.repairs.clear();
        }
        for handle in changed {
            self.repairs.touch(handle);
        }
        if !self.repairs.has_swept() {
            self.repairs.sweep(&self.state.chunks);
        }
        self.examine_dirty();
        self.start_copies();
    }

    fn may_repair(&self) -> bool {
        self.is_serving() && self.check_writable().is_ok()
    }

    /// When [`Self::look_after_repairs`] and [`Self::advance_repairs`] are to be called next.
    pub(super) fn next_repair(&self) -> Option<Duration> {
        let due = self.repairs.due(self.now.elapsed);
        self.may_repair()
            .then(|| due.map_or(self.next_repair, |due| due.min(self.next_repair)))
    }

    /// What time alone brings about: servers and disks are given up or come back, copies take too
    /// long, the sweep goes on.
    pub(super) fn look_after_repairs(&mut self) {
        let now = self.now.elapsed;
        if now < self.next_repair || !self.may_repair() {
            return;
        }
        self.next_repair = now.saturating_add(self.config.heartbeat.min(TICK_MAX));
        self.look_for_given_up();
        for (handle, Running { order, target, .. }) in self.repairs.overdue(now) {
            self.repairs.end(handle, order);
            self.copy_failed(handle, Some(target), None);
        }
        self.repairs.look_for_free();
        self.repairs.sweep(&self.state.chunks);
        self.repairs.forget_old_troubles(now);
    }

    /// A server has told of all that a directory holds. If that was the last that was to tell, what
    /// waited for it is looked at.
    pub(super) fn report_completed(&mut self) {
        if self.examiner().in_doubt().is_empty() {
            self.repairs.wake();
        }
    }

    /// Makes dirty what lies in directories that were given up since the last look, or are back.
    fn look_for_given_up(&mut self) {
        let (now, patience) = (self.now.elapsed, self.examiner().patience());
        let mut given_up = BTreeSet::new();
        for (id, server) in self.servers.servers() {
            for (&directory_id, directory) in &server.directories {
                let heard = server.last_heard.min(directory.last_beat);
                let is_failed = directory.disk.state == DiskState::Failed;
                let is_given_up = is_failed || now.saturating_sub(heard) >= patience;
                if is_given_up {
                    given_up.insert((id, directory_id));
                }
                if is_given_up != self.given_up.contains(&(id, directory_id)) {
                    directory
                        .held()
                        .for_each(|handle| self.repairs.touch(handle));
                    self.repairs.unstick();
                }
            }
        }
        self.given_up = given_up;
    }

    pub(super) fn examiner(&self) -> Examiner<'_> {
        Examiner {
            state: &self.state,
            servers: &self.servers,
            config: &self.config,
            now: self.now.elapsed,
            began: self.began,
        }
    }

    /// Looks at chunks that something was heard of.
    fn examine_dirty(&mut self) {
        let now = self.now.elapsed;
        let dirty = self.repairs.take_dirty(now, LOOKS_MAX);
        if dirty.is_empty() {
            return;
        }
        let in_doubt = self.examiner().in_doubt();
        for handle in dirty {
            let record = self.state.chunks.record(handle);
            let need = record.map_or(Need::Beyond, |record| match self.changing_until(handle) {
                Some(until) => Need::Wait(until),
                None => self.examiner().need(handle, record, &in_doubt),
            });
            let is_running = self.repairs.running(handle).is_some();
            match (need, self.repairs.held_back(handle, now)) {
                // Its end makes the chunk dirty again.
                (Need::UnderWay, _) => {}
                (Need::Copy { .. } | Need::Tidy { .. }, _) if is_running => {}
                (Need::Copy { .. } | Need::Tidy { .. }, Some(until)) => {
                    self.repairs.put_later(handle, until);
                }
                (Need::Copy { good }, None) => self.repairs.put_short(handle, good),
                (Need::Tidy { server, version }, None) => self.tidy(server, handle, version),
                (Need::Wait(until), _) => {
                    let soon = now.saturating_add(Duration::from_millis(1));
                    self.repairs.put_later(handle, until.max(soon));
                }
                (Need::Nothing | Need::Beyond, _) => self.repairs.forget(handle),
            }
        }
    }

    /// Whether a chunk is short of replicas and there is somebody who could make one, now or as soon
    /// as a stream is free; a moment after its seal that is not known yet.
    pub(super) fn may_be_copied_now(&self, handle: ChunkHandle) -> bool {
        let Some(record) = self.state.chunks.record(handle) else {
            return false;
        };
        if self.changing_until(handle).is_some() {
            return true;
        }
        let examiner = self.examiner();
        let need = examiner.need(handle, record, &examiner.in_doubt());
        let is_held_back = self.repairs.held_back(handle, self.now.elapsed).is_some();
        if !matches!(need, Need::Copy { .. }) || is_held_back {
            return false;
        }
        let (streams, tried) = (self.repairs.streams(), self.repairs.tried(handle));
        let plan = examiner.plan(handle, record, streams, &tried);
        !matches!(plan, Err(NoPlan::Nobody))
    }

    /// Orders the deletion of a replica that is not wanted.
    fn tidy(&mut self, server: ServerId, handle: ChunkHandle, version: ChunkVersion) {
        if !self.order_deletion(server, handle, version) {
            // It has its hands full.
            let soon = self.now.elapsed.saturating_add(self.config.heartbeat);
            self.repairs.put_later(handle, soon);
        }
    }

    /// A replica could not be deleted.
    pub(super) fn deletion_failed(&mut self, handle: ChunkHandle) {
        if self.state.chunks.record(handle).is_some() {
            let (now, pause) = (self.now.elapsed, self.config.heartbeat);
            self.repairs.hold_back(handle, now, pause);
        }
    }

    /// Begins the most urgent copies, as far as there is somebody free for them.
    fn start_copies(&mut self) {
        if !self.repairs.take_startable() {
            return;
        }
        let mut looked_at = self.repairs.most_urgent(STARTS_MAX);
        looked_at.extend(self.repairs.others(OTHERS_MAX));
        for handle in looked_at {
            // It may be among both.
            if self.repairs.running(handle).is_some() {
                continue;
            }
            let Some(record) = self.state.chunks.record(handle) else {
                self.repairs.forget(handle);
                continue;
            };
            let at_rest = match is_in_force(Check::CopyAtRest) {
                true => record.at_rest(),
                false => record.sealed,
            };
            let Some(sealed) = at_rest else {
                self.repairs.forget(handle);
                continue;
            };
            if let Some(until) = self.changing_until(handle) {
                self.repairs.put_later(handle, until);
                continue;
            }
            let tried = self.repairs.tried(handle);
            let plan = self
                .examiner()
                .plan(handle, record, self.repairs.streams(), &tried);
            match plan {
                Ok(plan) => {
                    let order = self.copy_order(handle, record, sealed, &plan);
                    self.give_copy(&plan, order);
                }
                Err(NoPlan::Busy) => {}
                Err(NoPlan::Nobody) => self.repairs.put_stuck(handle),
            }
        }
    }

    fn copy_order(
        &self,
        handle: ChunkHandle,
        record: &ChunkRecord,
        sealed: Sealed,
        plan: &Plan,
    ) -> CopyChunk {
        let key = &self.state.cluster.ticket_key;
        let life = u64::from(millis(COPY_TIME_MAX));
        let claims = Claims {
            rights: Rights::COPY,
            key_id: key.id,
            handle,
            version: sealed.version,
            expiry: self.now.unix_ms.saturating_add(life),
            file_id: record.file,
            session: SessionId::NONE,
            epoch: self.epoch.number,
            chain_crc: 0,
        };
        let hops = plan.sources.iter().filter_map(|&source| self.hop(source));
        CopyChunk {
            epoch: self.epoch,
            handle,
            version: sealed.version,
            // No attempt for the chunk runs, and those to come draw higher ones.
            void_up_to: self.allocations.last_version().max(sealed.version),
            file_id: record.file,
            index: record.index,
            length: sealed.len,
            crc32: sealed.crc,
            ticket: Ticket::sign(claims, &key.key),
            sources: hops.collect::<Vec<Hop>>(),
        }
    }

    fn give_copy(&mut self, plan: &Plan, message: CopyChunk) {
        let (handle, version, target) = (message.handle, message.version, plan.target);
        let server = self.servers.server(target);
        let connection = server.and_then(|server| server.connection);
        let (Some(connection), Some(&source)) = (connection, plan.sources.first()) else {
            return self.repairs.put_stuck(handle);
        };
        let order = self.orders.insert_copy(connection, target, handle, version);
        let running = Running {
            order,
            target,
            source,
            until: self.now.elapsed.saturating_add(COPY_TIME_MAX),
        };
        self.repairs.begin(handle, running);
        self.servers.count_placement(target);
        self.actions.push_back(Action::Order {
            connection,
            order,
            message: message.into(),
        });
    }

    /// A chunkserver has answered an order to copy.
    pub(super) fn copy_ended(
        &mut self,
        order: OrderId,
        target: ServerId,
        handle: ChunkHandle,
        version: ChunkVersion,
        reply: Result<AnyMessage, OrderFailure>,
    ) {
        let is_awaited = self.repairs.end(handle, order);
        match reply {
            Ok(AnyMessage::ChunkCopied(copied)) => {
                for &suspect in &copied.suspects {
                    self.suspect(handle, version, suspect);
                }
                // Its file may have been purged meanwhile. Then the inventory tells of the copy, and
                // it is garbage.
                if self.state.chunks.record(handle).is_some() {
                    match self.count_copy(target, handle, version, &copied) {
                        true => {
                            self.orders.void_verifies(target, handle);
                            self.repairs.succeeded(handle);
                        }
                        false => self.copy_failed(handle, Some(target), None),
                    }
                }
            }
            // It was given up, and counted as failed then.
            _ if !is_awaited => {}
            Ok(_) => self.copy_failed(handle, Some(target), None),
            Err(OrderFailure { status, server }) => {
                let is_targets = !server.is_some() || server == target;
                if is_targets {
                    return self.copy_failed(handle, Some(target), None);
                }
                if is_about_the_chunk(status) {
                    self.suspect(handle, version, server);
                }
                self.copy_failed(handle, None, Some(server));
            }
        }
    }

    /// The connection that an order to copy went over is gone. The copy may come to its end all the
    /// same, which an inventory tells then.
    pub(super) fn copy_lost(&mut self, order: OrderId, target: ServerId, handle: ChunkHandle) {
        if self.repairs.end(handle, order) {
            self.copy_failed(handle, Some(target), None);
        }
    }

    fn copy_failed(
        &mut self,
        handle: ChunkHandle,
        target: Option<ServerId>,
        source: Option<ServerId>,
    ) {
        let (now, pause) = (self.now.elapsed, self.config.heartbeat);
        self.repairs.failed(handle, target, source, now, pause);
    }

    /// Counts a replica that a server has made, if it is what the log has of its chunk.
    fn count_copy(
        &mut self,
        server: ServerId,
        handle: ChunkHandle,
        version: ChunkVersion,
        copied: &ChunkCopied,
    ) -> bool {
        let Some(record) = self.state.chunks.record(handle) else {
            return false;
        };
        let found = Sealed {
            version,
            len: copied.length,
            crc: copied.crc32,
        };
        if record.at_rest() != Some(found) {
            return false;
        }
        let held = HeldChunk {
            handle,
            version,
            serial: Serial::NONE,
            length: copied.length,
            crc32: copied.crc32,
            state: ChunkState::Sealed,
            flags: HeldFlags::NONE,
            file_id: record.file,
            index: record.index,
        };
        let replica = Replica::reported(server, copied.directory_id, &held);
        self.servers.copied(handle, replica)
    }

    /// A server's bytes did not match when they were copied: it is to look for itself.
    fn suspect(&mut self, handle: ChunkHandle, version: ChunkVersion, server: ServerId) {
        self.verify_replica(&ReportReplica {
            handle,
            version,
            server,
            fault: ReplicaFault::CrcMismatch,
        });
    }

    /// How the repairs go, for whoever watches.
    pub(super) fn repairs_report(&self) -> RepairsReport {
        RepairsReport {
            waiting: self.repairs.waiting_count() as u64,
            running: u32::try_from(self.repairs.running_count()).unwrap_or(u32::MAX),
            done: self.repairs.done,
            failed: self.repairs.failed,
        }
    }
}

/// Whether what a source answered is about its replica, and not about the way to it.
fn is_about_the_chunk(status: Status) -> bool {
    matches!(
        status,
        Status::DamagedInTransit
            | Status::Corrupt
            | Status::MediumFailed
            | Status::Poisoned
            | Status::ChunkUnknown
            | Status::Moved
            | Status::ChunkOpen
    )
}
