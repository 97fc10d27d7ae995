//! What comes due on a chunkserver's disks and clock: what `chunkd/src/server/{keep,orders,disk}.rs` do
//! on threads of their own.
use sarsen_chunkd::core::action::{DeleteOrder, ToKeep};
use sarsen_chunkd::core::event::Event as CoreEvent;
use sarsen_chunkd::server::orders::Deletes;
use sarsen_chunkd::server::{inventory, keep_durably, orders, told_of_disk};
use sarsen_chunkd::store::{InventoryEntry, StoreError};
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, DirectoryId};
use sarsen_protocol::message::DiskBeat;

use super::{ChunkserverEvent, Process};
use crate::net::ConnId;
use crate::observation::{Observation, whole};
use crate::world::World;

impl Process {
    pub(super) fn control_due(&mut self, world: &World, event: ChunkserverEvent) {
        match event {
            ChunkserverEvent::Tick => self.tick(world),
            ChunkserverEvent::AnswerDue(conn, id) => self.answer_due(world, conn, id),
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
            ChunkserverEvent::Delete(deletes) => self.delete(world, &deletes),
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
            | ChunkserverEvent::Part(..)
            | ChunkserverEvent::Turn(_)
            | ChunkserverEvent::Lane(..)
            | ChunkserverEvent::Flush(..)
            | ChunkserverEvent::Journal(_)
            | ChunkserverEvent::Trim(_)
            | ChunkserverEvent::Question(..) => {}
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

    /// Orders were found to be obeyed: they run when their disk comes to it.
    pub(super) fn observe_deletes(&self, world: &World, batch: &[DeleteOrder]) {
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
            world.observe(&Observation::DeleteAnnounced {
                machine: self.number,
                handle: order.handle,
                ordered_in: master
                    .and_then(|it| it.epochs.get(&order.request_id))
                    .copied(),
                obeys,
                is_of_this_session: master.is_some() && self.machine.is_registered(),
                is_there: self.is_there(order),
            });
        }
    }

    /// Whether the version that an order names is there.
    fn is_there(&self, order: &DeleteOrder) -> bool {
        let is_named = |entry: InventoryEntry| entry.version == order.version;
        let mut served = self.server.served();
        served.any(|it| it.entry(order.handle).is_some_and(is_named))
    }

    fn delete(&mut self, world: &World, deletes: &Deletes) {
        let batch = deletes.orders();
        for order in batch.iter().filter(|order| self.is_there(order)) {
            world.observe(&Observation::DeleteRuns {
                machine: self.number,
                handle: order.handle,
            });
        }
        let results = deletes.run();
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
            self.look_again(world, order.handle);
        }
        for order in batch {
            let held = self.server.directories().filter_map(|directory| {
                let entry = directory.entry(order.handle)?;
                whole(directory, &entry)
            });
            if let Some(sealed) = held.max() {
                world.observe(&Observation::Stays {
                    machine: self.number,
                    handle: order.handle,
                    sealed,
                });
            }
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
        handle: ChunkHandle,
        version: ChunkVersion,
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
