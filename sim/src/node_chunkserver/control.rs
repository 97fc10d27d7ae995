//! The control loop: what `chunkd/src/server/{control,master_link,disk}.rs` do.

use std::collections::BTreeMap;
use std::time::Duration;

use sarsen_chunkd::core::action::{Action, Order, StopReason, ToKeep};
use sarsen_chunkd::core::event::Event as CoreEvent;
use sarsen_chunkd::core::tickets::TicketKeys;
use sarsen_chunkd::net::chunkserver::Notice;
use sarsen_chunkd::server::{inventory, keep_durably, orders, told_of_disk};
use sarsen_chunkd::store::StoreError;
use sarsen_protocol::deframe::{Frame, any_frame, error_frame, frame};
use sarsen_protocol::id::{DirectoryId, Epoch};
use sarsen_protocol::message::{
    AnyMessage, DiskBeat, ErrorBody, HeartbeatReply, InventoryTaken, Kind, Message, Plane,
    Registered,
};
use sarsen_protocol::size::HEAT_MAX;
use sarsen_protocol::status::Status;

use super::{ChunkserverEvent, Process, is_server};
use crate::net::{ConnId, DIAL_MAX, DialError, Hello};
use crate::node_master::{ADDRESS, Health, reply_kind};
use crate::observation::Observation;
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
    epochs: BTreeMap<u64, Epoch>,
}

/// What an answer is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Register,
    Heartbeat(u64),
    Inventory(DirectoryId),
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
        match answered(conn, asked, frame) {
            Some(event) => self.tell(world, event),
            None => self.close_master(world, conn),
        }
    }

    fn ordered(&mut self, world: &World, conn: ConnId, frame: &Frame) {
        let request_id = frame.header.request_id;
        let (epoch, order) = match frame.any_message() {
            Ok(AnyMessage::DeleteChunk(asked)) => {
                let (handle, version) = (asked.handle, asked.version);
                (asked.epoch, Order::Delete { handle, version })
            }
            Ok(AnyMessage::VerifyChunk(asked)) => {
                let (handle, version) = (asked.handle, asked.version);
                (asked.epoch, Order::Verify { handle, version })
            }
            Ok(AnyMessage::CopyChunk(asked)) => (asked.epoch, Order::Copy(Box::new(asked))),
            _ => {
                let error = ErrorBody::new("a chunkserver does not answer this");
                let kind = reply_kind(frame.header.kind);
                let reply = error_frame(kind, request_id, Status::Unsupported, &error);
                return world.send(self.node, conn, reply);
            }
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
            Action::Dial { .. } => {
                let conn = world.dial(self.node, ADDRESS, Plane::Control, self.hello(), DIAL_MAX);
                self.master = Some(MasterLink {
                    conn,
                    is_up: false,
                    last_request: 0,
                    asked: BTreeMap::new(),
                    epochs: BTreeMap::new(),
                });
            }
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
            } => {
                let keys = TicketKeys::new(&ticket_keys);
                self.server.register(keys, &directories, suspect_after);
                self.heartbeat = heartbeat;
                self.listen(world);
            }
            Action::SendHeartbeat {
                connection,
                mut heartbeat,
            } => {
                let streams = self.streams.len() + self.readings.len();
                heartbeat.load = u32::try_from(streams).unwrap_or(u32::MAX);
                heartbeat.heat = self.server.take_heat(HEAT_MAX);
                let asked = Asked::Heartbeat(heartbeat.sequence);
                self.ask(world, connection, asked, &heartbeat);
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
                world.line(|| {
                    let held = inventory
                        .held
                        .iter()
                        .map(|it| (it.handle.0, it.state, it.flags.number()));
                    let held: Vec<_> = held.collect();
                    let (node, full, gone) = (self.node, inventory.full, &inventory.gone);
                    format!("{node:?} tells, full {full}: {held:?}, gone: {gone:?}")
                });
                self.ask(world, connection, asked, &inventory);
            }
            Action::Delete(batch) => {
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
                self.plan_disk(world, ChunkserverEvent::Delete(batch), 100, 3_000);
            }
            Action::Verify {
                connection,
                request_id,
                handle,
                version,
            } => {
                let holds = |place: &&super::Place| place.directory.entry(handle).is_some();
                let place = self.places.iter().find(holds).or(self.places.first());
                if let Some(place) = place {
                    let id = place.directory.identity().directory_id;
                    let order = Some((ConnId(connection), request_id));
                    let event = ChunkserverEvent::Verify(id, handle, version, order);
                    self.plan_disk(world, event, 300, 6_000);
                }
            }
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
            Action::Unserved {
                directory_id,
                status,
            } => {
                world.line(|| format!("{:?}: {directory_id} is not served: {status}", self.node));
                if status == Status::StaleStart
                    && let Some(place) = self.place(directory_id)
                {
                    // If the mark can't be written, the next start is refused as this one was.
                    let _ = place.directory.mark_stale();
                }
            }
            Action::Warn(text) => world.line(|| format!("{:?}: {text}", self.node)),
            Action::Stop(_) => {}
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
                let entry = place.directory.entry(handle);
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

    // What is due.

    pub(super) fn control_due(&mut self, world: &World, event: ChunkserverEvent) {
        match event {
            ChunkserverEvent::Tick => self.tick(world),
            ChunkserverEvent::AnswerDue(conn, id) => {
                let is_waiting = self
                    .master
                    .as_ref()
                    .is_some_and(|master| master.conn == conn && master.asked.contains_key(&id));
                if is_waiting {
                    self.close_master(world, conn);
                }
            }
            ChunkserverEvent::Keep(conn, keep) => self.keep(world, conn, &keep),
            ChunkserverEvent::Slice(conn, directory_id, after) => {
                let Some(place) = self.place(directory_id) else {
                    return;
                };
                let held = inventory::slice(&place.directory, after);
                let connection = conn.0;
                let event = CoreEvent::SliceRead {
                    connection,
                    directory_id,
                    held,
                };
                self.tell(world, event);
            }
            ChunkserverEvent::Delete(batch) => self.delete(world, &batch),
            ChunkserverEvent::Verify(id, handle, version, order) => {
                self.verify(world, id, handle, version, order);
            }
            ChunkserverEvent::Settle(id) => self.settle(world, id),
            ChunkserverEvent::Empty(id) => {
                if let Some(place) = self.place(id) {
                    place.is_emptying = false;
                    if let Err(error) = place.directory.empty_deleted() {
                        world.line(|| format!("deleted chunks could not be removed: {error}"));
                    }
                }
            }
            ChunkserverEvent::Store(..)
            | ChunkserverEvent::StreamDue(_)
            | ChunkserverEvent::Copy(..)
            | ChunkserverEvent::CopyDue(..)
            | ChunkserverEvent::Part(..) => {}
        }
    }

    /// Time has passed. How the disks are comes first, so that a heartbeat tells the newest.
    fn tick(&mut self, world: &World) {
        self.next_tick = None;
        let now = world.now();
        let mut beats = Vec::new();
        for place in &mut self.places {
            match place.directory.beat() {
                Ok(space) => {
                    (place.last_beat, place.space, place.has_failed) = (now, space, false);
                }
                Err(_) => place.has_failed = true,
            }
            let age = now.saturating_sub(place.last_beat).as_millis();
            beats.push(DiskBeat {
                disk: told_of_disk(&place.directory, place.space, place.has_failed),
                beat_age: u32::try_from(age).unwrap_or(u32::MAX),
            });
        }
        if self.is_dead() {
            return;
        }
        for beat in beats {
            self.tell(world, CoreEvent::DiskBeat(beat));
        }
        self.idle_hops.sweep(world, self.node);
        self.tell(world, CoreEvent::Tick);
    }

    /// Each directory for itself: one whose disk fails is left out.
    fn keep(&mut self, world: &World, conn: ConnId, keep: &ToKeep) {
        let connection = conn.0;
        let (mut kept, mut last_error) = (0, String::new());
        for &directory_id in &keep.directories {
            let one = ToKeep {
                directories: vec![directory_id],
                ..keep.clone()
            };
            let result = keep_durably(&self.server, &one);
            if self.is_dead() {
                return;
            }
            match result {
                Ok(()) => kept += 1,
                Err(error @ (StoreError::Io { .. } | StoreError::NoSpace { .. })) => {
                    last_error = error.to_string();
                    let event = CoreEvent::LeftOut {
                        connection,
                        directory_id,
                    };
                    self.tell(world, event);
                }
                Err(error) => {
                    let event = CoreEvent::KeepFailed {
                        connection,
                        text: error.to_string(),
                        is_foreign: matches!(
                            error,
                            StoreError::OtherCluster { .. }
                                | StoreError::OtherServer { .. }
                                | StoreError::ChunkSize { .. }
                        ),
                    };
                    return self.tell(world, event);
                }
            }
        }
        let event = match kept {
            0 => CoreEvent::KeepFailed {
                connection,
                text: last_error,
                is_foreign: false,
            },
            _ => {
                world.observe(&Observation::Obeys {
                    machine: self.number,
                    epoch: keep.epoch,
                });
                CoreEvent::Kept { connection }
            }
        };
        self.tell(world, event);
    }

    /// Orders begin to run: from here on the disk does what they say.
    fn observe_deletes(&self, world: &World, batch: &[sarsen_chunkd::core::action::DeleteOrder]) {
        let epochs = self
            .places
            .iter()
            .map(|place| place.directory.identity().epoch);
        let obeys = epochs.max_by_key(|epoch| epoch.number).unwrap_or_default();
        for order in batch {
            let master = self
                .master
                .as_ref()
                .filter(|it| it.conn.0 == order.connection);
            world.observe(&Observation::DeleteRuns {
                machine: self.number,
                handle: order.handle,
                ordered_in: master
                    .and_then(|it| it.epochs.get(&order.request_id))
                    .copied(),
                obeys,
                is_of_this_session: master.is_some() && self.machine.is_registered(),
            });
        }
    }

    fn delete(&mut self, world: &World, batch: &[sarsen_chunkd::core::action::DeleteOrder]) {
        let results = orders::delete(&self.server, batch);
        if self.is_dead() {
            return;
        }
        for (order, _) in batch
            .iter()
            .zip(&results)
            .filter(|(_, result)| result.is_ok())
        {
            world.count("path: replica deleted by order");
            world.observe(&Observation::Deleted {
                machine: self.number,
                handle: order.handle,
            });
        }
        let answers = batch.iter().zip(results);
        let answers = answers.map(|(order, result)| (order.connection, order.request_id, result));
        let event = CoreEvent::Deleted(answers.collect());
        self.tell(world, event);
    }

    fn verify(
        &mut self,
        world: &World,
        id: DirectoryId,
        handle: sarsen_protocol::id::ChunkHandle,
        version: sarsen_protocol::id::ChunkVersion,
        order: Option<(ConnId, u64)>,
    ) {
        let Some(place) = self.place(id) else {
            return;
        };
        let directory = std::sync::Arc::clone(&place.directory);
        let now = world.unix_ms();
        let answer = orders::verify(&self.server, &directory, handle, version, now);
        if self.is_dead() {
            return;
        }
        let entry = directory.entry(handle);
        if entry.is_some_and(|entry| entry.flags.corrupt) {
            world.count("path: replica found corrupt");
            world.observe(&Observation::FoundCorrupt {
                machine: self.number,
                handle,
            });
        }
        if let Some((conn, request_id)) = order {
            world.count("path: replica verified by order");
            let event = CoreEvent::Verified {
                connection: conn.0,
                request_id,
                answer,
            };
            self.tell(world, event);
        }
    }

    fn settle(&mut self, world: &World, id: DirectoryId) {
        let Some(place) = self.place(id) else {
            return;
        };
        place.is_settling = false;
        let directory = std::sync::Arc::clone(&place.directory);
        let settled = directory.sync_unsynced();
        if self.is_dead() {
            return;
        }
        for (handle, result) in settled {
            if matches!(result, Err(StoreError::Corrupt { .. })) {
                world.observe(&Observation::FoundCorrupt {
                    machine: self.number,
                    handle,
                });
            }
            self.server.changed(&directory, handle);
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
    })
}

/// Whether the next hop is the server that the chain names.
pub(super) fn is_next_hop(hello: &Hello, server: sarsen_protocol::id::ServerId) -> bool {
    is_server(hello, server)
}
