//! The orders of version changes as messages, and their answers as words
//! (`spec/messages.md` section 14.3).

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, DirectoryId, ServerId, SessionId};
use sarsen_protocol::message::{
    AnyMessage, Begin, GrantLease, HeldFlags, Hop, MemberState, NewChunk, PrepareSeal, Promise,
    RevokeLease, Settle, VerifyChunk,
};
use sarsen_protocol::status::Status;
use sarsen_protocol::ticket::{Claims, Rights, Ticket, chain_crc};

use super::{Machine, Open, Subject, Which};
use crate::core::action::Action as Do;
use crate::core::chunk_table::Sealed;
use crate::core::command::Member;
use crate::core::command::chunks::Configuration;
use crate::core::event::OrderFailure;
use crate::core::machine::millis;
use crate::core::replica::{Replica, Standing};
use crate::core::version_change::words::{Answer, Fault, Order, Prepared, Promised, Step};

/// Which order of a version change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::core::machine) enum ChangeStep {
    /// One whose answer its attempt waits for.
    Of(Step),
    Grant,
    /// Of a preparation in this directory.
    Settle(DirectoryId),
}

impl Machine {
    /// Gives an order of an attempt, if its server is connected. If it isn't, the attempt waits no
    /// longer for it than for any, and the order is given again when it registers.
    pub(super) fn order_change(
        &mut self,
        subject: Subject,
        which: Which,
        server: ServerId,
        order: &Order,
    ) {
        let Some(work) = self.open_chunks.works.get_mut(&subject) else {
            return;
        };
        let Some(attempt) = work.attempt(which) else {
            return;
        };
        let plan = attempt.plan();
        let (handle, version) = (plan.handle, plan.version);
        let (step, message) = self.translate_order(handle, version, server, order);
        self.send_change(server, handle, version, step, message);
    }

    /// Sends an order about an open chunk over its server's connection.
    pub(super) fn send_change(
        &mut self,
        server: ServerId,
        handle: ChunkHandle,
        version: ChunkVersion,
        step: ChangeStep,
        message: AnyMessage,
    ) {
        let connection = self.servers.server(server).and_then(|it| it.connection);
        let Some(connection) = connection else {
            return;
        };
        let order = self
            .orders
            .insert_change(connection, server, handle, version, step);
        self.actions.push_back(Do::Order {
            connection,
            order,
            message,
        });
    }

    fn translate_order(
        &self,
        handle: ChunkHandle,
        version: ChunkVersion,
        server: ServerId,
        order: &Order,
    ) -> (ChangeStep, AnyMessage) {
        let epoch = self.epoch;
        match order {
            Order::Revoke { version } => {
                let message = RevokeLease {
                    epoch,
                    handle,
                    version: *version,
                };
                (ChangeStep::Of(Step::Revoke), message.into())
            }
            Order::Promise => {
                let message = Promise {
                    epoch,
                    handle,
                    version,
                };
                (ChangeStep::Of(Step::Promise), message.into())
            }
            Order::Begin(begin) => {
                let message = Begin {
                    epoch,
                    handle,
                    version,
                    serial: begin.serial,
                    start_number: begin.member.start_number,
                    directory_id: begin.member.directory,
                    memory: begin.memory_allowed,
                    create: begin.create.map(|create| NewChunk {
                        file_id: create.file,
                        index: create.index,
                        chunk_size: create.chunk_size,
                        clone: None,
                    }),
                };
                (ChangeStep::Of(Step::Begin), message.into())
            }
            Order::PrepareSeal(prepare) => {
                let message = PrepareSeal {
                    epoch,
                    handle,
                    version,
                    serial: prepare.serial,
                    start_number: prepare.member.start_number,
                    length: prepare.len,
                    sessions_end: prepare.sessions_end,
                };
                (ChangeStep::Of(Step::PrepareSeal), message.into())
            }
            Order::ReadBack => {
                let message = VerifyChunk {
                    epoch,
                    handle,
                    version,
                };
                (ChangeStep::Of(Step::ReadBack), message.into())
            }
            Order::Grant(active) => {
                debug_assert_eq!(active.primary, server);
                let message = self.grant_of(handle, active);
                (ChangeStep::Grant, message.into())
            }
            Order::Settle {
                directory,
                len,
                crc,
            } => {
                let message = Settle {
                    epoch,
                    handle,
                    version,
                    length: *len,
                    crc32: *crc,
                };
                (ChangeStep::Settle(*directory), message.into())
            }
        }
    }

    fn grant_of(&self, handle: ChunkHandle, active: &Configuration) -> GrantLease {
        let chain = self.chain_of(active);
        let record = self.state.chunks.record(handle);
        let ticket = self.mutation_ticket(handle, active, &chain, SessionId::NONE, Rights::WRITE);
        let open = self.open_chunks.open.get(&handle);
        let is_closed = open.is_some_and(Open::is_closed);
        GrantLease {
            epoch: self.epoch,
            handle,
            version: active.version,
            begin_serial: active.serial,
            memory: active.memory_allowed,
            closed: is_closed || !self.is_last(handle),
            lease: millis(self.config.lease),
            ticket,
            chain,
            file_id: record.map(|record| record.file).unwrap_or_default(),
            index: record.map_or(0, |record| record.index),
            lock_token: 0,
        }
    }

    /// Orders a chunk's primary once more to take its lease.
    pub(super) fn grant_again(&mut self, handle: ChunkHandle) {
        let Some(active) = self.active(handle).cloned() else {
            return;
        };
        let (now, primary, version) = (self.now.elapsed, active.primary, active.version);
        let by = now.saturating_add(self.config.suspect_after);
        self.open_chunks.leases.grant_again(handle, version, now);
        let open = self
            .open_chunks
            .open
            .get_or_insert_with(handle, Open::default);
        open.is_granted = false;
        open.granted_by.get_or_insert(by);
        let message = self.grant_of(handle, &active).into();
        self.send_change(primary, handle, version, ChangeStep::Grant, message);
    }

    pub(super) fn chain_of(&self, active: &Configuration) -> Vec<Hop> {
        let members = active.members.iter();
        members
            .filter_map(|member| self.hop(member.server))
            .collect()
    }

    /// The right to a version of an open chunk, bound to its chain.
    pub(super) fn mutation_ticket(
        &self,
        handle: ChunkHandle,
        active: &Configuration,
        chain: &[Hop],
        session: SessionId,
        rights: Rights,
    ) -> Ticket {
        // A chain's stream is opened once, and a client asks anew within the lease.
        let life = self.config.lease.saturating_mul(2).max(super::HOLD_MAX);
        let expiry = self.now.unix_ms.saturating_add(u64::from(millis(life)));
        let record = self.state.chunks.record(handle);
        let claims = Claims {
            rights,
            key_id: self.state.cluster.ticket_key.id,
            handle,
            version: active.version,
            expiry,
            file_id: record.map(|record| record.file).unwrap_or_default(),
            session,
            epoch: self.epoch.number,
            chain_crc: chain_crc(chain),
        };
        Ticket::sign(claims, &self.state.cluster.ticket_key.key)
    }

    /// A server has answered an order of a version change.
    pub(in crate::core::machine) fn change_answered(
        &mut self,
        server: ServerId,
        handle: ChunkHandle,
        version: ChunkVersion,
        step: ChangeStep,
        reply: Result<AnyMessage, OrderFailure>,
    ) {
        match step {
            ChangeStep::Grant => self.grant_answered(server, handle, version, reply.is_ok()),
            ChangeStep::Settle(directory) if reply.is_ok() => {
                self.settled(server, directory, handle, version);
            }
            // Nothing is wrong with the replica, and no report tells of it once more.
            ChangeStep::Settle(directory) if is_passing(&reply) => {
                let unsettled = &mut self.open_chunks.unsettled;
                unsettled.insert((server, handle), directory);
            }
            // One that is not done is asked for again when it is reported as prepared.
            ChangeStep::Settle(_) => {}
            ChangeStep::Of(step) => {
                if let (Step::Promise | Step::Begin, Err(failure)) = (step, &reply) {
                    self.note_damage(server, handle, failure.status);
                }
                let now_ms = self.now_ms();
                let Some((subject, which, work)) = self.open_chunks.work_of(handle) else {
                    return;
                };
                let Some(attempt) = work.attempt(which) else {
                    return;
                };
                let Some(answer) = answer_of(step, reply) else {
                    return;
                };
                let actions = attempt.handle_answer(server, version, answer, now_ms);
                self.act_on(subject, which, actions);
            }
        }
    }

    /// A holder of a sealed chunk says of its replica that it is damaged, which it need not have reported: it
    /// is replaced, if another is good. What is left of the last one may still be read.
    fn note_damage(&mut self, server: ServerId, handle: ChunkHandle, status: Status) {
        if !Fault::Refused(status).is_of_the_replica() {
            return;
        }
        let record = self.state.chunks.record(handle);
        let Some((record, sealed)) = record.and_then(|it| Some((it, it.at_rest()?))) else {
            return;
        };
        let (now, dead_after) = (self.now.elapsed, self.config.dead_after);
        let is_other = |it: &Replica| it.server != server && it.standing(record) == Standing::Good;
        let is_other_good = self
            .servers
            .live_replicas(handle, now, dead_after)
            .any(is_other);
        if is_other_good {
            self.servers.mark_corrupt(handle, sealed.version, server);
        }
    }

    /// A server beats: what it could not settle for want of something is asked of it again.
    pub(in crate::core::machine) fn settle_again(&mut self, server: ServerId) {
        let unsettled = &self.open_chunks.unsettled;
        let its = unsettled.range((server, ChunkHandle::NONE)..);
        let its = its.take_while(|((it, _), _)| *it == server);
        let its: Vec<_> = its
            .map(|((_, handle), &directory)| (*handle, directory))
            .collect();
        for (handle, directory) in its {
            self.open_chunks.unsettled.remove(&(server, handle));
            self.order_settle(server, directory, handle);
        }
    }

    /// A server's connection is gone.
    pub(in crate::core::machine) fn changes_disconnected(&mut self, server: ServerId) {
        let now_ms = self.now_ms();
        let subjects: Vec<Subject> = self.open_chunks.works.keys().copied().collect();
        for subject in subjects {
            let Some(work) = self.open_chunks.works.get_mut(&subject) else {
                continue;
            };
            work.lost.insert(server, now_ms);
            for which in [Which::Next, Which::Own] {
                if let Some(attempt) = work.attempt(which) {
                    attempt.handle_lost(server, now_ms);
                }
            }
        }
    }

    /// A server has registered: what it was ordered over its last connection may be lost.
    pub(in crate::core::machine) fn changes_connected(&mut self, server: ServerId) {
        // What it has it tells anew.
        self.open_chunks.bad_copies.retain(|_, servers| {
            servers.remove(&server);
            !servers.is_empty()
        });
        if !self.is_serving() {
            return;
        }
        let now_ms = self.now_ms();
        let subjects: Vec<Subject> = self.open_chunks.works.keys().copied().collect();
        for subject in subjects {
            if let Some(work) = self.open_chunks.works.get_mut(&subject) {
                work.lost.remove(&server);
            }
            for which in [Which::Next, Which::Own] {
                let work = self.open_chunks.works.get_mut(&subject);
                if let Some(attempt) = work.and_then(|work| work.attempt(which)) {
                    let actions = attempt.handle_connected(server, now_ms);
                    self.act_on(subject, which, actions);
                }
            }
        }
        let is_its = |active: &Configuration| active.primary == server;
        let handles: Vec<ChunkHandle> = self
            .open_chunks
            .open
            .keys()
            .copied()
            .filter(|handle| self.active(*handle).is_some_and(is_its))
            .collect();
        for handle in handles {
            match self.is_in_its_start(handle, server) {
                true => self.grant_again(handle),
                // One that has started anew is no primary any more.
                false => self.go_on_without_primary(handle),
            }
        }
        self.try_unavailable(server);
    }

    /// A server has beaten: if it was taken for dead its chunks are asked for again.
    pub(in crate::core::machine) fn changes_heard(&mut self, server: ServerId, was_live: bool) {
        if !was_live && self.is_serving() {
            self.try_unavailable(server);
        }
    }

    /// Chunks that nobody could be heard of are asked for again when one of their members is back.
    fn try_unavailable(&mut self, server: ServerId) {
        let is_member = |handle: &ChunkHandle| {
            let members = self.active(*handle).map(|active| &active.members);
            members.is_some_and(|members| members.iter().any(|it| it.server == server))
        };
        let unavailable = self.open_chunks.unavailable.iter().copied();
        let back: Vec<ChunkHandle> = unavailable.filter(is_member).collect();
        for handle in back {
            self.open_chunks.set_unavailable(handle, false);
            self.go_on_without_primary(handle);
        }
        self.hasten_what_is_left_on(server);
    }

    /// Whether a member's directory is in the start that the log's active entry names.
    pub(super) fn is_in_its_start(&self, handle: ChunkHandle, server: ServerId) -> bool {
        let active = self.active(handle);
        let members = active.map(|active| active.members.iter());
        let mut members = members.into_iter().flatten();
        members.any(|member| {
            let directory = self.state.servers.directories.get(&member.directory);
            member.server == server
                && directory.is_some_and(|it| it.start_number == member.start_number)
        })
    }
}

/// Whether an order was refused for want of something that may be there in a moment.
fn is_passing(reply: &Result<AnyMessage, OrderFailure>) -> bool {
    let status = reply.as_ref().map_err(|failure| failure.status);
    matches!(status, Err(Status::Overloaded | Status::NoSpace))
}

/// An answer in the words of an attempt; none for one that fits no order.
fn answer_of(step: Step, reply: Result<AnyMessage, OrderFailure>) -> Option<Answer> {
    let message = match reply {
        // A read back that finds damage says so by its status.
        Err(failure) if step == Step::ReadBack && failure.status == Status::Corrupt => {
            return Some(Answer::ReadBack { is_sound: false });
        }
        Err(failure) => return Some(Answer::Refused(step, failure.status)),
        Ok(message) => message,
    };
    Some(match (step, message) {
        (Step::Revoke, AnyMessage::LeaseRevoked(_)) => Answer::Revoked,
        (Step::Promise, AnyMessage::Promised(told)) => Answer::Promised(Promised {
            member: member_of(&told.member),
            version: told.version,
            begin_serial: told.begin_serial,
            serial: told.serial,
            commit_mark: told.commit_mark,
            sealed: told.base_version.is_some().then_some(Sealed {
                version: told.base_version,
                len: told.base_length,
                crc: told.base_crc32,
            }),
            is_poisoned: told.flags.has(HeldFlags::POISONED),
            is_corrupt: told.flags.has(HeldFlags::CORRUPT),
        }),
        (Step::Begin, AnyMessage::Begun(told)) => Answer::Begun {
            serial: told.serial,
            member: member_of(&told.member),
        },
        (Step::PrepareSeal, AnyMessage::SealPrepared(told)) => Answer::SealPrepared {
            serial: told.prepared.serial,
            prepared: Prepared {
                len: told.prepared.length,
                crc: told.prepared.crc32,
                id_table_len: told.prepared.id_table_length,
                id_table_crc: told.prepared.id_table_crc32,
            },
            member: member_of(&told.member),
        },
        (Step::ReadBack, AnyMessage::ChunkVerified(found)) => Answer::ReadBack {
            is_sound: found.good,
        },
        _ => return None,
    })
}

const fn member_of(told: &MemberState) -> Member {
    Member {
        server: told.server,
        directory: told.directory_id,
        start_number: told.start_number,
    }
}
