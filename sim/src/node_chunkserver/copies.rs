//! Chunks pulled from other chunkservers, as the master ordered: what `chunkd/src/server/pull.rs`
//! does around the shipped copies.
//!
//! One step at a time waits for the disk: the beginning, each frame's write, the end.

use std::collections::VecDeque;
use std::time::Duration;

use sarsen_chunkd::core::event::Event as CoreEvent;
use sarsen_chunkd::server::copies::{self, Begun, CopyFailure, Making};
use sarsen_protocol::deframe::Frame;
use sarsen_protocol::message::{ChunkCopied, CopyChunk, ErrorBody, Hop, Plane};
use sarsen_protocol::status::Status;

use super::{ChunkserverEvent, Process, is_server};
use crate::net::{ConnId, DIAL_MAX, DialError, Hello};
use crate::observation::Observation;
use crate::world::World;

/// A copy of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CopyId(u64);

/// What of a copy waits for the disk.
#[derive(Debug)]
pub enum CopyStep {
    /// Look at what is here, and begin.
    Begin,
    /// Store a frame.
    Take(Frame),
    /// Seal, read back, put in place.
    Finish,
}

/// A copy on its way.
pub(super) struct Copying {
    order: CopyChunk,
    asked: (ConnId, u64),
    silence_max: Duration,
    sources: VecDeque<Hop>,
    source: Option<(ConnId, Hop)>,
    making: Option<Making>,
    /// Frames that came while another is stored.
    came: VecDeque<Frame>,
    is_storing: bool,
    /// When the source was last heard from.
    heard: Duration,
    suspects: Vec<sarsen_protocol::id::ServerId>,
    last: Option<(Status, ErrorBody)>,
}

impl Process {
    pub(super) fn begin_copying(
        &mut self,
        world: &World,
        asked: (ConnId, u64),
        order: CopyChunk,
        silence_max: Duration,
    ) {
        world.line(|| {
            format!(
                "{:?} copies {} from {:?}",
                self.node, order.handle, order.sources
            )
        });
        self.last_stream += 1;
        let id = CopyId(self.last_stream);
        let copying = Copying {
            sources: order.sources.iter().cloned().collect(),
            order,
            asked,
            silence_max,
            source: None,
            making: None,
            came: VecDeque::new(),
            is_storing: true,
            heard: world.now(),
            suspects: Vec::new(),
            last: None,
        };
        self.copyings.insert(id, copying);
        self.try_next_source(world, id);
    }

    fn try_next_source(&mut self, world: &World, id: CopyId) {
        let Some(copying) = self.copyings.get_mut(&id) else {
            return;
        };
        copying.making = None;
        copying.came.clear();
        if copying.sources.is_empty() {
            let nothing = || {
                let error = ErrorBody::new("the order names no source");
                (Status::InvalidArgument, error)
            };
            let last = copying.last.take().unwrap_or_else(nothing);
            return self.end_copying(world, id, Err(last));
        }
        copying.is_storing = true;
        self.plan_disk(world, ChunkserverEvent::Copy(id, CopyStep::Begin), 50, 600);
    }

    pub(super) fn copy_step_due(&mut self, world: &World, id: CopyId, step: CopyStep) {
        let now = world.unix_ms();
        let disks: Vec<crate::disk::Disk> = self.places.iter().map(|it| it.disk.clone()).collect();
        let is_dead = || disks.iter().any(crate::disk::Disk::is_dead);
        let Some(copying) = self.copyings.get_mut(&id) else {
            return;
        };
        copying.is_storing = false;
        match step {
            CopyStep::Begin => {
                let begun = copies::begin(&self.server, &copying.order, now);
                if is_dead() {
                    return;
                }
                match begun {
                    Ok(Begun::Held(copied)) => self.end_copying(world, id, Ok(copied)),
                    Ok(Begun::Making(making)) => self.dial_source(world, id, *making),
                    Err(refusal) => self.end_copying(world, id, Err(refusal)),
                }
            }
            CopyStep::Take(frame) => {
                let Some(making) = &mut copying.making else {
                    return;
                };
                let taken = making.take(&frame);
                let is_over = making.is_over();
                if is_dead() {
                    return;
                }
                match taken {
                    Ok(()) if is_over => {
                        copying.is_storing = true;
                        let step = CopyStep::Finish;
                        self.plan_disk(world, ChunkserverEvent::Copy(id, step), 300, 6_000);
                    }
                    Ok(()) => {
                        self.ask_source(world, id);
                        self.store_next_of_copy(world, id);
                    }
                    Err(failure) => self.copy_fails(world, id, failure),
                }
            }
            CopyStep::Finish => {
                let Some(making) = copying.making.take() else {
                    return;
                };
                let finished = making.finish(now);
                if is_dead() {
                    return;
                }
                match finished {
                    Ok(copied) => {
                        world.count("path: chunk copied");
                        world.observe(&Observation::Copied {
                            machine: self.number,
                            order: &copying.order,
                            directory: copied.directory_id,
                        });
                        self.end_copying(world, id, Ok(copied));
                    }
                    Err(failure) => self.copy_fails(world, id, failure),
                }
            }
        }
    }

    fn dial_source(&mut self, world: &World, id: CopyId, making: Making) {
        let hello = self.hello();
        let node = self.node;
        let Some(copying) = self.copyings.get_mut(&id) else {
            return;
        };
        let Some(hop) = copying.sources.pop_front() else {
            return;
        };
        let conn = world.dial(node, &hop.data_addr, Plane::Data, hello, DIAL_MAX);
        copying.making = Some(making);
        copying.source = Some((conn, hop));
        self.sources.insert(conn, id);
    }

    pub(super) fn source_dialled(
        &mut self,
        world: &World,
        conn: ConnId,
        result: Result<Hello, DialError>,
    ) {
        let copying = self
            .sources
            .get(&conn)
            .and_then(|id| self.copyings.get_mut(id));
        let Some(copying) = copying else {
            return;
        };
        let Some((_, hop)) = &copying.source else {
            return;
        };
        match result {
            Ok(hello) if copying.making.is_some() && is_server(&hello, hop.server) => {
                copying.heard = world.now();
                let due = copying.silence_max;
                if let Some(&id) = self.sources.get(&conn) {
                    self.ask_source(world, id);
                    self.plan(world, due, ChunkserverEvent::CopyDue(id));
                }
            }
            _ => self.source_gone(world, conn, "the source can't be reached"),
        }
    }

    /// Asks for what is due, if nobody has yet.
    fn ask_source(&mut self, world: &World, id: CopyId) {
        let copying = self.copyings.get_mut(&id);
        let Some((making, conn)) = copying.and_then(|copying| {
            let (conn, _) = copying.source.as_ref()?;
            Some((copying.making.as_mut()?, *conn))
        }) else {
            return;
        };
        if let Some(request) = making.next_request() {
            world.send(self.node, conn, request);
        }
    }

    pub(super) fn source_says(&mut self, world: &World, conn: ConnId, frame: Frame) {
        let Some(&id) = self.sources.get(&conn) else {
            return;
        };
        if let Some(copying) = self.copyings.get_mut(&id) {
            copying.heard = world.now();
            copying.came.push_back(frame);
        }
        self.store_next_of_copy(world, id);
    }

    fn store_next_of_copy(&mut self, world: &World, id: CopyId) {
        let Some(copying) = self.copyings.get_mut(&id).filter(|it| !it.is_storing) else {
            return;
        };
        if let Some(frame) = copying.came.pop_front() {
            copying.is_storing = true;
            let step = CopyStep::Take(frame);
            self.plan_disk(world, ChunkserverEvent::Copy(id, step), 20, 400);
        }
    }

    pub(super) fn source_gone(&mut self, world: &World, conn: ConnId, text: &str) {
        let Some(&id) = self.sources.get(&conn) else {
            return;
        };
        let Some(copying) = self.copyings.get(&id) else {
            return;
        };
        // What came before the end may be all there is.
        if copying.is_storing || !copying.came.is_empty() {
            return;
        }
        self.copy_fails(world, id, CopyFailure::broken(text));
    }

    pub(super) fn source_due(&mut self, world: &World, id: CopyId) {
        let Some(copying) = self.copyings.get(&id).filter(|it| it.source.is_some()) else {
            return;
        };
        let due = copying.heard + copying.silence_max;
        if copying.is_storing || world.now() < due {
            let after = due
                .saturating_sub(world.now())
                .max(Duration::from_millis(50));
            self.plan(world, after, ChunkserverEvent::CopyDue(id));
        } else {
            self.copy_fails(world, id, CopyFailure::broken("the source fell silent"));
        }
    }

    fn copy_fails(&mut self, world: &World, id: CopyId, failure: CopyFailure) {
        world.line(|| format!("{:?}: a source is given up: {failure:?}", self.node));
        let node = self.node;
        let Some(copying) = self.copyings.get_mut(&id) else {
            return;
        };
        copying.making = None;
        let source = copying.source.take();
        if let Some((conn, _)) = &source {
            self.sources.remove(conn);
            world.close(node, *conn);
        }
        match failure {
            CopyFailure::Here(refusal) => self.end_copying(world, id, Err(refusal)),
            CopyFailure::Source {
                status,
                text,
                is_suspect,
            } => {
                let server = source.map(|(_, hop)| hop.server).unwrap_or_default();
                if is_suspect {
                    copying.suspects.push(server);
                }
                let error = ErrorBody {
                    server,
                    ..ErrorBody::new(text)
                };
                copying.last = Some((status, error));
                self.try_next_source(world, id);
            }
        }
    }

    fn end_copying(
        &mut self,
        world: &World,
        id: CopyId,
        answer: Result<ChunkCopied, (Status, ErrorBody)>,
    ) {
        let Some(copying) = self.copyings.remove(&id) else {
            return;
        };
        if let Some((conn, _)) = copying.source {
            self.sources.remove(&conn);
            world.close(self.node, conn);
        }
        world.line(|| {
            let how = answer
                .as_ref()
                .map(|_| ())
                .map_err(|(_, error)| &error.text);
            format!(
                "{:?} has copied {}: {how:?}",
                self.node, copying.order.handle
            )
        });
        let suspects = copying.suspects;
        let event = CoreEvent::Copied {
            connection: copying.asked.0.0,
            request_id: copying.asked.1,
            handle: copying.order.handle,
            answer: answer.map(|copied| ChunkCopied { suspects, ..copied }),
        };
        self.tell(world, event);
    }
}
