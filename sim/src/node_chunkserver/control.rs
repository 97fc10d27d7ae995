//! The control loop: what `chunkd/src/server/{control,master_link}.rs` do. What comes due of it is in
//! [`due`](super::due).

use std::collections::BTreeMap;
use std::time::Duration;

use sarsen_chunkd::core::action::{Action, DeleteOrder, StopReason};
use sarsen_chunkd::core::event::Event as CoreEvent;
use sarsen_chunkd::core::tickets::TicketKeys;
use sarsen_chunkd::net::chunkserver::Notice;
use sarsen_chunkd::server::inventory;
use sarsen_chunkd::server::orders::{Deletes, order_of};
use sarsen_protocol::deframe::{Frame, any_frame, error_frame, frame};
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, DirectoryId, Epoch};
use sarsen_protocol::message::{
    AnyMessage, ErrorBody, ExtendLeases, HeartbeatReply, Inventory, InventoryTaken, Kind,
    LeasesExtended, Message, Plane, Registered, ReportChain,
};
use sarsen_protocol::size::HEAT_MAX;
use sarsen_protocol::status::Status;

use super::{ChunkserverEvent, Process};
use crate::net::{ConnId, DIAL_MAX, DialError, Hello};
use crate::node_master::{ADDRESS, Health, reply_kind};
use crate::world::World;

/// How long a master may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// How long after a seal at `memory` its sync begins.
const SYNC_DELAY: Duration = Duration::from_secs(1);

/// How long after an order to delete the holding folder is emptied.
const HOLD: Duration = Duration::from_secs(2);

/// The connection to the master.
#[derive(Debug)]
pub(super) struct MasterLink {
    pub(super) conn: ConnId,
    is_up: bool,
    last_request: u64,
    asked: BTreeMap<u64, Asked>,
    /// The epochs of orders that wait or run, by number.
    pub(super) epochs: BTreeMap<u64, Epoch>,
}

/// What an answer is to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    Register,
    Heartbeat(u64),
    Inventory(DirectoryId),
    /// Leases, asked for at this time of the process.
    Leases(Duration),
    Report(ReportChain),
}

impl Process {
    pub(super) fn tell(&mut self, world: &World, event: CoreEvent) {
        self.machine.handle(self.elapsed(world), event);
    }

    // The connection.

    pub(super) fn master_dialled(
        &mut self,
        world: &World,
        conn: ConnId,
        result: Result<Hello, DialError>,
    ) {
        if self
            .master
            .as_ref()
            .is_none_or(|master| master.conn != conn)
        {
            return;
        }
        let event = match result {
            Ok(hello) => {
                if let Some(master) = &mut self.master {
                    master.is_up = true;
                }
                CoreEvent::Dialled {
                    connection: conn.0,
                    cluster_id: hello.cluster,
                }
            }
            Err(error) => {
                self.master = None;
                let text = format!("{error:?}");
                CoreEvent::DialFailed {
                    text,
                    is_passing: true,
                }
            }
        };
        self.tell(world, event);
    }

    pub(super) fn master_ended(&mut self, world: &World, conn: ConnId) {
        self.master = None;
        self.tell(world, CoreEvent::Disconnected { connection: conn.0 });
    }

    fn close_master(&mut self, world: &World, conn: ConnId) {
        if self
            .master
            .as_ref()
            .is_some_and(|master| master.conn == conn)
        {
            world.close(self.node, conn);
            self.master_ended(world, conn);
        }
    }

    /// A master that has not answered by now is given up.
    pub(super) fn answer_due(&mut self, world: &World, conn: ConnId, id: u64) {
        let is_waiting = self
            .master
            .as_ref()
            .is_some_and(|master| master.conn == conn && master.asked.contains_key(&id));
        if is_waiting {
            self.close_master(world, conn);
        }
    }

    /// Asks the master, if the connection is still the one that was meant.
    fn ask<M: Message>(&mut self, world: &World, connection: u64, asked: Asked, message: &M) {
        let node = self.node;
        let Some(master) = self
            .master
            .as_mut()
            .filter(|it| it.conn.0 == connection && it.is_up)
        else {
            return;
        };
        master.last_request += 1;
        let (conn, id) = (master.conn, master.last_request);
        master.asked.insert(id, asked);
        world.send(node, conn, frame(message, id));
        // Heartbeats are many, and an answer that is late for one of them is late for the rest.
        self.plan(world, ANSWER_MAX, ChunkserverEvent::AnswerDue(conn, id));
    }

    pub(super) fn master_says(&mut self, world: &World, frame: &Frame) {
        let Some(master) = &mut self.master else {
            return;
        };
        let (conn, id) = (master.conn, frame.header.request_id);
        if frame.header.kind == Kind::Goodbye {
            return self.close_master(world, conn);
        }
        if !frame.header.kind.is_reply() {
            return self.ordered(world, conn, frame);
        }
        let Some(asked) = master.asked.remove(&id) else {
            return;
        };
        if let Asked::Leases(sent) = asked {
            if let Ok(answer) = frame.message::<LeasesExtended>() {
                self.leases_extended(world, sent, &answer);
            }
            // A lease that is not extended ends by itself.
            return;
        }
        match answered(conn, asked, frame) {
            Some(event) => self.tell(world, event),
            None => self.close_master(world, conn),
        }
    }

    fn ordered(&mut self, world: &World, conn: ConnId, frame: &Frame) {
        let request_id = frame.header.request_id;
        let message = frame.any_message();
        let order = message.as_ref().ok().and_then(order_of);
        let Some((epoch, order)) = order else {
            // The master may ask what everybody may ask.
            return self.asked(world, conn, frame);
        };
        if let Some(master) = &mut self.master {
            master.epochs.insert(request_id, epoch);
        }
        let event = CoreEvent::Ordered {
            connection: conn.0,
            request_id,
            epoch,
            order,
        };
        self.tell(world, event);
    }

    // What the machine wants.

    pub(super) fn after(&mut self, world: &World) -> Health {
        loop {
            let mut was_idle = true;
            while let Some(action) = self.machine.poll_action() {
                was_idle = false;
                if let Action::Stop(reason) = action {
                    world.line(|| format!("{:?} stops: {reason:?}", self.node));
                    return match reason {
                        StopReason::NothingToServe | StopReason::Foreign(_) => Health::Refused,
                        StopReason::NotWelcome(text) => {
                            world.fail(format!("a chunkserver is not welcome: {text}"));
                            Health::Ended
                        }
                    };
                }
                self.act(world, action);
            }
            while let Some(notice) = (self.notices)() {
                was_idle = false;
                self.noticed(world, notice);
            }
            if was_idle {
                break;
            }
        }
        self.start_journals(world);
        if let Some(due) = self.machine.deadline() {
            let due = self.began + due;
            if self.next_tick.is_none_or(|planned| due < planned) {
                self.next_tick = Some(due);
                let after = due.saturating_sub(world.now());
                self.plan(world, after, ChunkserverEvent::Tick);
            }
        }
        Health::Runs
    }

    fn act(&mut self, world: &World, action: Action) {
        match action {
            Action::Dial { .. } => self.dial_master(world),
            Action::Close { connection } => self.close_master(world, ConnId(connection)),
            Action::Register {
                connection,
                register,
            } => self.ask(world, connection, Asked::Register, &register),
            Action::Keep { connection, keep } => {
                let event = ChunkserverEvent::Keep(ConnId(connection), keep);
                self.plan_disk(world, event, 300, 3_000);
            }
            Action::Serve {
                ticket_keys,
                directories,
                heartbeat,
                suspect_after,
                dead_after,
            } => {
                let keys = TicketKeys::new(&ticket_keys);
                self.server.register(keys, &directories, suspect_after);
                self.heartbeat = heartbeat;
                self.open.dead_after = dead_after;
                self.listen(world);
            }
            Action::SendHeartbeat {
                connection,
                mut heartbeat,
            } => {
                let streams = self.streams.len() + self.open.streams.len() + self.readings.len();
                heartbeat.load = u32::try_from(streams).unwrap_or(u32::MAX);
                heartbeat.heat = self.server.take_heat(HEAT_MAX);
                let asked = Asked::Heartbeat(heartbeat.sequence);
                self.ask(world, connection, asked, &heartbeat);
                self.extend_leases(world, connection);
            }
            Action::ReadSlice {
                connection,
                directory_id,
                after,
            } => {
                let event = ChunkserverEvent::Slice(ConnId(connection), directory_id, after);
                self.plan(world, Duration::from_micros(10), event);
            }
            Action::SendInventory {
                connection,
                inventory,
            } => {
                let asked = Asked::Inventory(inventory.directory_id);
                world.line(|| self.describe(&inventory));
                self.ask(world, connection, asked, &inventory);
            }
            Action::Delete(batch) => self.plan_delete(world, batch),
            Action::Verify {
                connection,
                request_id,
                handle,
                version,
            } => self.plan_verify(world, (ConnId(connection), request_id), handle, version),
            Action::Copy {
                connection,
                request_id,
                order,
                silence_max,
            } => self.begin_copying(world, (ConnId(connection), request_id), *order, silence_max),
            Action::Answer {
                connection,
                request_id,
                asked,
                answer,
            } => self.answer_order(world, ConnId(connection), request_id, asked, answer),
            Action::OrderChunk {
                connection,
                request_id,
                order,
            } => self.order_chunk(world, (ConnId(connection), request_id), *order),
            Action::ReportChain { connection, report } => {
                self.ask(world, connection, Asked::Report(report), &report);
            }
            Action::Unserved {
                directory_id,
                status,
            } => self.unserved(world, directory_id, status),
            Action::Warn(text) => world.line(|| format!("{:?}: {text}", self.node)),
            Action::Stop(_) => {}
        }
    }

    /// Behind each heartbeat, while there is work.
    fn extend_leases(&mut self, world: &World, connection: u64) {
        let leases = self.wanted_leases();
        if !leases.is_empty() {
            let request = ExtendLeases {
                epoch: self.machine.epoch(),
                leases,
            };
            let asked = Asked::Leases(self.elapsed(world));
            self.ask(world, connection, asked, &request);
        }
    }

    fn dial_master(&mut self, world: &World) {
        let conn = world.dial(self.node, ADDRESS, Plane::Control, self.hello(), DIAL_MAX);
        self.master = Some(MasterLink {
            conn,
            is_up: false,
            last_request: 0,
            asked: BTreeMap::new(),
            epochs: BTreeMap::new(),
        });
    }

    fn describe(&self, inventory: &Inventory) -> String {
        let held = inventory
            .held
            .iter()
            .map(|it| (it.handle.0, it.state, it.flags.number()));
        let held: Vec<_> = held.collect();
        let (node, full, gone) = (self.node, inventory.full, &inventory.gone);
        format!("{node:?} tells, full {full}: {held:?}, gone: {gone:?}")
    }

    fn plan_delete(&mut self, world: &World, batch: Vec<DeleteOrder>) {
        self.observe_deletes(world, &batch);
        let touched = |place: &super::Place| {
            batch
                .iter()
                .any(|order| place.directory.entry(order.handle).is_some())
        };
        let ids: Vec<DirectoryId> = self
            .places
            .iter_mut()
            .filter(|place| touched(place) && !place.is_emptying)
            .map(|place| {
                place.is_emptying = true;
                place.directory.identity().directory_id
            })
            .collect();
        for id in ids {
            self.plan(world, HOLD, ChunkserverEvent::Empty(id));
        }
        let deletes = Deletes::announce(&self.server, batch);
        self.plan_disk(world, ChunkserverEvent::Delete(deletes), 100, 3_000);
    }

    fn plan_verify(
        &mut self,
        world: &World,
        order: (ConnId, u64),
        handle: ChunkHandle,
        version: ChunkVersion,
    ) {
        let holds = |place: &&super::Place| place.directory.entry(handle).is_some();
        // Where nobody holds it, the first says so.
        let Some(place) = self.places.iter().find(holds).or(self.places.first()) else {
            return;
        };
        let id = place.directory.identity().directory_id;
        let event = ChunkserverEvent::Verify(id, handle, version, Some(order));
        self.plan_disk(world, event, 300, 6_000);
    }

    fn unserved(&mut self, world: &World, directory_id: DirectoryId, status: Status) {
        world.line(|| format!("{:?}: {directory_id} is not served: {status}", self.node));
        if status == Status::StaleStart
            && let Some(place) = self.place(directory_id)
        {
            // If the mark can't be written, the next start is refused as this one was.
            let _ = place.directory.mark_stale();
        }
    }

    fn answer_order(
        &mut self,
        world: &World,
        conn: ConnId,
        request_id: u64,
        asked: Kind,
        answer: Result<AnyMessage, (Status, ErrorBody)>,
    ) {
        let Some(master) = self.master.as_mut().filter(|master| master.conn == conn) else {
            return;
        };
        master.epochs.remove(&request_id);
        let kind = reply_kind(asked);
        let reply = match &answer {
            Ok(message) => any_frame(message, request_id).unwrap_or_default(),
            Err((status, error)) => {
                if *status == Status::StaleEpoch {
                    world.count("path: order refused for its epoch");
                }
                error_frame(kind, request_id, *status, error)
            }
        };
        world.send(self.node, conn, reply);
    }

    /// The data plane or the upkeep changed something, or doubts it.
    fn noticed(&mut self, world: &World, notice: Notice) {
        match notice {
            Notice::Changed {
                directory: directory_id,
                handle,
            } => {
                let Some(place) = self.place(directory_id) else {
                    return;
                };
                let entry = place.directory.told(handle);
                if entry.as_ref().is_some_and(|entry| entry.flags.poisoned) {
                    world.count("path: chunk poisoned");
                }
                let settles = entry.as_ref().is_some_and(|entry| entry.flags.unsynced)
                    && !std::mem::replace(&mut place.is_settling, true);
                if settles {
                    self.plan(world, SYNC_DELAY, ChunkserverEvent::Settle(directory_id));
                }
                let held = entry.as_ref().map(inventory::held_chunk);
                let event = CoreEvent::ChunkChanged {
                    directory_id,
                    handle,
                    held,
                };
                self.tell(world, event);
                self.look_again(world, handle);
            }
            Notice::ChainTrouble(report) => {
                world.count("path: trouble of a chain told");
                self.tell(world, CoreEvent::ChainTrouble(report));
            }
            Notice::Doubtful {
                directory,
                handle,
                version,
            } => {
                let event = ChunkserverEvent::Verify(directory, handle, version, None);
                self.plan_disk(world, event, 300, 6_000);
            }
        }
    }
}

/// What an answer tells the machine; `None` if it breaks the protocol.
fn answered(conn: ConnId, asked: Asked, frame: &Frame) -> Option<CoreEvent> {
    let connection = conn.0;
    let failed = match frame.header.status.is_ok() {
        true => None,
        false => Some((frame.header.status, frame.error().ok()?)),
    };
    Some(match asked {
        Asked::Register => CoreEvent::Registered {
            connection,
            answer: match failed {
                Some(failed) => Err(failed),
                None => Ok(frame.message::<Registered>().ok()?),
            },
        },
        Asked::Heartbeat(sequence) => CoreEvent::HeartbeatAnswered {
            connection,
            sequence,
            answer: match failed {
                Some((status, _)) => Err(status),
                None => Ok(frame.message::<HeartbeatReply>().ok()?.epoch),
            },
        },
        Asked::Inventory(directory_id) => CoreEvent::InventoryAnswered {
            connection,
            directory_id,
            answer: match failed {
                Some((status, _)) => Err(status),
                None => Ok(frame.message::<InventoryTaken>().ok()?.resend),
            },
        },
        Asked::Report(report) => CoreEvent::ChainReported { connection, report },
        // They are for the chunks.
        Asked::Leases(_) => return None,
    })
}
