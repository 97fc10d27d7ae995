//! Orders to chunkservers: deletions, verifications, copies (`spec/messages.md` section 10).
//!
//! An order belongs to the connection that it was sent over: when that is gone the order is void,
//! and may be given again over the next one. The chunkserver compares epoch, handle and version
//! when it runs it, so an order that comes late does no harm. Deletions wait in a queue a server,
//! so that a big purge neither floods a server nor waits for sweep after sweep.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, ServerId};
use sarsen_protocol::message::{AnyMessage, DeleteChunk, ReplicaFault, ReportReplica, VerifyChunk};
use sarsen_protocol::sabotage::{Check, is_in_force};
use sarsen_protocol::status::Status;

use super::Machine;
use super::open_chunks::ChangeStep;
use crate::core::action::Action;
use crate::core::event::{ConnectionId, Now, OrderFailure, OrderId};

/// Orders that one server may have unanswered.
const ORDERS_PER_SERVER_MAX: usize = 64;

/// What an order asks for that names nothing but a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plain {
    Delete,
    Verify,
}

/// What an order asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    Delete,
    Verify,
    Copy,
    Change(ChangeStep),
}

impl Task {
    /// Copies have a limit of their own, and neither they nor what changes a chunk's version wait for
    /// a big purge.
    const fn is_counted(self) -> bool {
        matches!(self, Self::Delete | Self::Verify)
    }

    const fn is_settle(self) -> bool {
        matches!(self, Self::Change(ChangeStep::Settle(_)))
    }
}

/// An order that has not been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outstanding {
    connection: ConnectionId,
    server: ServerId,
    handle: ChunkHandle,
    version: ChunkVersion,
    task: Task,
}

/// Orders under way, and deletions that wait for their turn.
#[derive(Clone, Debug, Default)]
pub(super) struct Orders {
    given: u64,
    outstanding: BTreeMap<OrderId, Outstanding>,
    by_replica: BTreeSet<(ServerId, ChunkHandle, OrderId)>,
    counts: BTreeMap<ServerId, usize>,
    queues: BTreeMap<ServerId, VecDeque<(ChunkHandle, ChunkVersion)>>,
}

impl Orders {
    fn has_room(&self, server: ServerId) -> bool {
        self.counts
            .get(&server)
            .is_none_or(|&count| count < ORDERS_PER_SERVER_MAX)
    }

    /// Notes an order to copy, of which a server has few at a time whatever else it has.
    pub(super) fn insert_copy(
        &mut self,
        connection: ConnectionId,
        server: ServerId,
        handle: ChunkHandle,
        version: ChunkVersion,
    ) -> OrderId {
        self.insert(Outstanding {
            connection,
            server,
            handle,
            version,
            task: Task::Copy,
        })
    }

    /// Notes an order of a version change.
    pub(super) fn insert_change(
        &mut self,
        connection: ConnectionId,
        server: ServerId,
        handle: ChunkHandle,
        version: ChunkVersion,
        step: ChangeStep,
    ) -> OrderId {
        self.insert(Outstanding {
            connection,
            server,
            handle,
            version,
            task: Task::Change(step),
        })
    }

    fn insert(&mut self, order: Outstanding) -> OrderId {
        self.given += 1;
        let id = OrderId(self.given);
        self.outstanding.insert(id, order);
        self.by_replica.insert((order.server, order.handle, id));
        if order.task.is_counted() {
            *self.counts.entry(order.server).or_default() += 1;
        }
        id
    }

    fn remove(&mut self, id: OrderId, connection: ConnectionId) -> Option<Outstanding> {
        let known = self.outstanding.get(&id)?;
        match known.connection == connection {
            true => self.take(id),
            false => None,
        }
    }

    fn take(&mut self, id: OrderId) -> Option<Outstanding> {
        let order = self.outstanding.remove(&id)?;
        self.by_replica.remove(&(order.server, order.handle, id));
        if order.task.is_counted()
            && let Some(count) = self.counts.get_mut(&order.server)
        {
            *count -= 1;
        }
        Some(order)
    }

    /// A server has made a replica anew: what it was ordered to look at before may be the old one.
    pub(super) fn void_verifies(&mut self, server: ServerId, handle: ChunkHandle) {
        self.void(server, handle, |task| task == Task::Verify);
    }

    /// Whether a server has not answered an order to delete a replica.
    pub(super) fn is_deleting(&self, server: ServerId, handle: ChunkHandle) -> bool {
        let mut orders = self.of_replica(server, handle);
        orders.any(|(_, task)| task == Task::Delete)
    }

    /// What is answered to these orders does not count.
    fn void(&mut self, server: ServerId, handle: ChunkHandle, is_void: impl Fn(Task) -> bool) {
        let orders = self.of_replica(server, handle);
        let void: Vec<OrderId> = orders
            .filter_map(|(id, task)| is_void(task).then_some(id))
            .collect();
        for id in void {
            self.take(id);
        }
    }

    fn of_replica(
        &self,
        server: ServerId,
        handle: ChunkHandle,
    ) -> impl Iterator<Item = (OrderId, Task)> {
        let all = (server, handle, OrderId(0))..=(server, handle, OrderId(u64::MAX));
        let ids = self.by_replica.range(all).map(|&(_, _, id)| id);
        ids.filter_map(|id| Some((id, self.outstanding.get(&id)?.task)))
    }
}

impl Machine {
    /// A reader met a bad replica: its server is to look for itself.
    pub(super) fn verify_replica(&mut self, report: &ReportReplica) {
        let replicas = self.servers.replicas(report.handle);
        let is_held = replicas
            .iter()
            .any(|replica| replica.server == report.server && replica.version == report.version);
        let is_asked = self
            .orders
            .of_replica(report.server, report.handle)
            .any(|(_, task)| task == Task::Verify);
        if is_held && !is_asked && report.fault != ReplicaFault::Unreachable {
            self.give_order(report.server, report.handle, report.version, Plain::Verify);
        }
    }

    /// Queues what a sweep found, in place of what an earlier one did, and gives first orders.
    pub(super) fn queue_deletions(&mut self, doomed: Vec<(ServerId, ChunkHandle, ChunkVersion)>) {
        self.orders.queues.clear();
        for (server, handle, version) in doomed {
            self.orders
                .queues
                .entry(server)
                .or_default()
                .push_back((handle, version));
        }
        let servers: Vec<ServerId> = self.orders.queues.keys().copied().collect();
        for server in servers {
            self.give_deletions(server);
        }
    }

    /// Gives a server as many of its deletions as it may have at once.
    fn give_deletions(&mut self, server: ServerId) {
        while self.orders.has_room(server) && self.check_writable().is_ok() {
            let queue = self.orders.queues.get_mut(&server);
            let Some((handle, version)) = queue.and_then(VecDeque::pop_front) else {
                return;
            };
            let is_needed = self.state.chunks.record(handle).is_some();
            if !(is_needed && is_in_force(Check::GarbageInUse))
                && self.give_order(server, handle, version, Plain::Delete)
            {
                self.servers.set_deleting(handle, server, true);
            }
        }
    }

    /// Orders the deletion of one replica of a chunk that no copy is awaited of. False if the server is
    /// not there, or has its hands full.
    pub(super) fn order_deletion(
        &mut self,
        server: ServerId,
        handle: ChunkHandle,
        version: ChunkVersion,
    ) -> bool {
        let is_given = self.give_order(server, handle, version, Plain::Delete);
        if is_given {
            // That it made the replica may be told yet, behind the word that it is gone.
            let makes_it = |task: Task| task == Task::Copy || task.is_settle();
            self.orders.void(server, handle, makes_it);
            self.servers.set_deleting(handle, server, true);
        }
        is_given
    }

    /// Gives an order if the server is there and has room for it.
    fn give_order(
        &mut self,
        server: ServerId,
        handle: ChunkHandle,
        version: ChunkVersion,
        task: Plain,
    ) -> bool {
        let connection = self
            .servers
            .server(server)
            .and_then(|server| server.connection);
        let Some(connection) = connection.filter(|_| self.orders.has_room(server)) else {
            return false;
        };
        let order = Outstanding {
            connection,
            server,
            handle,
            version,
            task: match task {
                Plain::Delete => Task::Delete,
                Plain::Verify => Task::Verify,
            },
        };
        let order = self.orders.insert(order);
        let epoch = self.epoch;
        let message = match task {
            Plain::Delete => DeleteChunk {
                epoch,
                handle,
                version,
            }
            .into(),
            Plain::Verify => VerifyChunk {
                epoch,
                handle,
                version,
            }
            .into(),
        };
        self.actions.push_back(Action::Order {
            connection,
            order,
            message,
        });
        true
    }

    /// A chunkserver has answered an order.
    pub fn handle_order_reply(
        &mut self,
        connection: ConnectionId,
        order: OrderId,
        reply: Result<AnyMessage, OrderFailure>,
        now: Now,
    ) {
        self.now = now;
        let Some(done) = self.orders.remove(order, connection) else {
            return;
        };
        let Outstanding {
            server,
            handle,
            version,
            task,
            ..
        } = done;
        match (task, reply.map_err(|failure| (failure.status, failure))) {
            (Task::Change(step), reply) => {
                let reply = reply.map_err(|(_, failure)| failure);
                self.change_answered(server, handle, version, step, reply);
            }
            (Task::Copy, reply) => {
                let reply = reply.map_err(|(_, failure)| failure);
                self.copy_ended(order, server, handle, version, reply);
            }
            (Task::Delete, Ok(AnyMessage::ChunkDeleted(_)))
            | (_, Err((Status::ChunkUnknown, _))) => {
                self.orders.void(server, handle, Task::is_settle);
                self.servers.forget(handle, server);
            }
            (Task::Delete, _) => {
                self.servers.set_deleting(handle, server, false);
                self.deletion_failed(handle);
            }
            (Task::Verify, Ok(AnyMessage::ChunkVerified(found))) => {
                let sealed = self
                    .state
                    .chunks
                    .record(handle)
                    .and_then(|record| record.at_rest());
                let matches = sealed.is_none_or(|sealed| {
                    sealed.version != version
                        || (sealed.len, sealed.crc) == (found.length, found.crc32)
                });
                if !found.good || !matches {
                    self.found_corrupt(handle, version, server);
                }
            }
            (Task::Verify, Err((Status::Corrupt | Status::MediumFailed | Status::Poisoned, _))) => {
                self.found_corrupt(handle, version, server);
            }
            (Task::Verify, _) => {}
        }
        self.give_deletions(server);
        self.advance_repairs();
    }

    /// A connection's orders are void: what they were about may be ordered again.
    pub(super) fn drop_orders(&mut self, connection: ConnectionId) {
        let of_connection = |order: &&Outstanding| order.connection == connection;
        let void: Vec<OrderId> = self
            .orders
            .outstanding
            .iter()
            .filter(|(_, order)| of_connection(order))
            .map(|(&id, _)| id)
            .collect();
        for id in void {
            let Some(order) = self.orders.remove(id, connection) else {
                continue;
            };
            match order.task {
                Task::Delete => self.servers.set_deleting(order.handle, order.server, false),
                Task::Copy => self.copy_lost(id, order.server, order.handle),
                // An attempt gives its orders again when the server registers.
                Task::Verify | Task::Change(_) => {}
            }
        }
    }
}
