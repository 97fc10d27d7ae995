//! Write streams: what `chunkd/src/net/write_stream` does around `ReplicaStream`.
//!
//! A frame that came is passed on as it came, while it is compared and stored here. Jobs for the
//! disk are done one after the other; a seal that has begun is done also when its stream has
//! ended meanwhile.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sarsen_chunkd::core::pieces::first_damaged;
use sarsen_chunkd::core::replica_stream::{Action, Due, ReplicaStream};
use sarsen_chunkd::core::tickets;
use sarsen_chunkd::net::chunkserver::status_of;
use sarsen_chunkd::store::{Directory, NewChunk, PendingChunk, SealClaim, StoreError};
use sarsen_protocol::deframe::{Frame, error_frame, frame};
use sarsen_protocol::header::Header;
use sarsen_protocol::id::Serial;
use sarsen_protocol::message::{
    Crcs, ErrorBody, Hop, Kind, Level, Plane, WriteAck, WriteData, WriteOpen, WriteOpened,
    WriteSeal, WriteSealed,
};
use sarsen_protocol::status::Status;

use super::is_server;
use super::{ChunkserverEvent, Process};
use crate::net::{ConnId, DialError, Hello, Node};
use crate::observation::Observation;
use crate::world::World;

/// How long an idle connection to a next hop is kept, and how many to one address.
const KEEP_MAX: Duration = Duration::from_secs(30);
const KEPT_PER_SERVER_MAX: usize = 8;

/// A write stream of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId(u64);

/// A job of a stream for the disk.
#[derive(Debug)]
pub enum StoreJob {
    /// Make the chunk.
    Prepare(NewChunk),
    /// Compare and write.
    Data {
        /// Of the mutation.
        serial: Serial,
        /// In the chunk.
        offset: u32,
        /// One a piece.
        crcs: Crcs,
        /// The bytes.
        payload: Bytes,
    },
    /// Seal: the chunk as it is being made, and its last mutation.
    Seal(WriteSeal, Option<Made>, Serial),
}

/// A chunk while it is written; given up on drop, which changes nothing once it is sealed.
#[derive(Debug)]
pub struct Made {
    directory: Arc<Directory>,
    pending: Arc<PendingChunk>,
}

impl Drop for Made {
    fn drop(&mut self) {
        self.directory.abandon(&self.pending);
    }
}

/// The way to the next hop.
#[derive(Debug)]
struct NextHop {
    conn: ConnId,
    hop: Hop,
    is_up: bool,
    /// What is to be sent once it is reached.
    waiting: Vec<(Bytes, Bytes)>,
    has_sealed: bool,
}

/// A write stream.
#[derive(Debug)]
pub(super) struct Stream {
    core: ReplicaStream,
    new: NewChunk,
    upstream: ConnId,
    request_id: u64,
    next: Option<NextHop>,
    jobs: VecDeque<StoreJob>,
    is_storing: bool,
    last: Serial,
    made: Option<Made>,
    /// When the next hop was last heard from; none until it is reached.
    heard: Option<Duration>,
    /// When upstream was last sent something.
    answered: Duration,
}

/// Connections to next hops whose streams are over.
#[derive(Debug, Default)]
pub(super) struct IdleHops(BTreeMap<String, Vec<(ConnId, Duration)>>);

impl IdleHops {
    pub(super) fn take(&mut self, world: &World, node: Node, address: &str) -> Option<ConnId> {
        let kept = self.0.get_mut(address)?;
        while let Some((conn, since)) = kept.pop() {
            if world.is_open(node, conn) && world.now() - since < KEEP_MAX {
                return Some(conn);
            }
            world.close(node, conn);
        }
        None
    }

    fn keep(&mut self, world: &World, node: Node, address: &str, conn: ConnId) {
        let kept = self.0.entry(address.to_owned()).or_default();
        match kept.len() < KEPT_PER_SERVER_MAX && world.is_open(node, conn) {
            true => kept.push((conn, world.now())),
            false => world.close(node, conn),
        }
    }

    /// Whether a connection was idle, and is no more.
    pub(super) fn forget(&mut self, conn: ConnId) -> bool {
        for kept in self.0.values_mut() {
            if let Some(at) = kept.iter().position(|(idle, _)| *idle == conn) {
                kept.remove(at);
                return true;
            }
        }
        false
    }

    /// Drops what was idle for too long.
    pub(super) fn sweep(&mut self, world: &World, node: Node) {
        for kept in self.0.values_mut() {
            kept.retain(|(conn, since)| {
                let is_good = world.now() - *since < KEEP_MAX;
                if !is_good {
                    world.close(node, *conn);
                }
                is_good
            });
        }
    }
}

impl Process {
    /// A peer opens a write stream.
    pub(super) fn open_stream(
        &mut self,
        world: &World,
        conn: ConnId,
        request_id: u64,
        open: WriteOpen,
    ) {
        if let Err((status, text)) = self.admit(world, &open) {
            let error = ErrorBody {
                server: self.server.me(),
                ..ErrorBody::new(text)
            };
            let refusal = error_frame(Kind::WriteOpened, request_id, status, &error);
            world.send(self.node, conn, refusal);
            return self.drop_accepted(world, conn);
        }
        self.last_stream += 1;
        let id = StreamId(self.last_stream);
        world.line(|| {
            format!(
                "{:?}: a stream to {} of {}",
                self.node, open.handle, open.file_id
            )
        });
        let new = NewChunk {
            handle: open.handle,
            version: open.version,
            file_id: open.file_id,
            index: open.index,
            room: open.room,
        };
        let core = ReplicaStream::new(self.server.me(), open);
        let next = core
            .next_hop()
            .cloned()
            .map(|hop| self.reach(world, id, hop));
        // An idle connection is one that was reached already.
        let is_reached = next.as_ref().is_some_and(|next| next.is_up);
        let stream = Stream {
            core,
            new,
            upstream: conn,
            request_id,
            next,
            jobs: VecDeque::new(),
            is_storing: false,
            last: Serial::NONE,
            made: None,
            heard: is_reached.then(|| world.now()),
            answered: world.now(),
        };
        self.streams.insert(id, stream);
        self.upstreams.insert(conn, id);
        self.act_for(world, id, None);
        self.watch(world, id);
    }

    fn admit(&self, world: &World, open: &WriteOpen) -> Result<(), (Status, String)> {
        let keys = self.server.ticket_keys();
        keys.check_write(open, self.server.me(), world.unix_ms())
            .map_err(|error| (tickets::status_of(error), error.to_string()))
    }

    fn reach(&mut self, world: &World, id: StreamId, hop: Hop) -> NextHop {
        let idle = self.idle_hops.take(world, self.node, &hop.data_addr);
        let is_up = idle.is_some();
        let conn = idle.unwrap_or_else(|| {
            let time_max = self.server.suspect_after();
            world.dial(
                self.node,
                &hop.data_addr,
                Plane::Data,
                self.hello(),
                time_max,
            )
        });
        self.next_hops.insert(conn, id);
        NextHop {
            conn,
            hop,
            is_up,
            waiting: Vec::new(),
            has_sealed: false,
        }
    }

    pub(super) fn next_hop_dialled(
        &mut self,
        world: &World,
        conn: ConnId,
        result: Result<Hello, DialError>,
    ) {
        let node = self.node;
        let Some(&id) = self.next_hops.get(&conn) else {
            return;
        };
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.heard = Some(world.now());
        let Some(next) = stream.next.as_mut() else {
            return;
        };
        match result {
            Ok(hello) if is_server(&hello, next.hop.server) => {
                next.is_up = true;
                for (head, payload) in std::mem::take(&mut next.waiting) {
                    world.send_with(node, conn, head, payload);
                }
            }
            Ok(_) => self.next_hop_gone(world, conn, "another server answers there"),
            Err(_) => self.next_hop_gone(world, conn, "it can't be reached"),
        }
    }

    /// The next hop's connection is of no use any more.
    pub(super) fn next_hop_gone(&mut self, world: &World, conn: ConnId, text: &str) {
        world.close(self.node, conn);
        let Some(id) = self.next_hops.remove(&conn) else {
            return;
        };
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let had_sealed = stream.next.take().is_some_and(|next| next.has_sealed);
        // Behind its seal a next hop owes nothing.
        if !had_sealed {
            stream.core.handle_next_gone(text);
            self.act_for(world, id, None);
        }
    }

    // What comes.

    pub(super) fn upstream_says(&mut self, world: &World, conn: ConnId, frame: Frame) {
        let Some(&id) = self.upstreams.get(&conn) else {
            return;
        };
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let header = frame.header;
        if header.request_id != stream.request_id {
            return self.drop_accepted(world, conn);
        }
        match header.kind {
            Kind::WriteData => {
                let data = frame.message::<WriteData>().ok();
                let data = data.filter(|data| data.check_payload(header.payload_len).is_ok());
                let Some(data) = data else {
                    return self.drop_accepted(world, conn);
                };
                stream.core.handle_data(&data, header.payload_len);
                self.act_for(world, id, Some(frame));
            }
            Kind::WriteSeal => {
                let Ok(seal) = frame.message::<WriteSeal>() else {
                    return self.drop_accepted(world, conn);
                };
                stream.core.handle_seal(&seal);
                self.act_for(world, id, None);
            }
            _ => self.drop_accepted(world, conn),
        }
    }

    pub(super) fn next_hop_says(&mut self, world: &World, conn: ConnId, frame: &Frame) {
        let Some(&id) = self.next_hops.get(&conn) else {
            return;
        };
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.heard = Some(world.now());
        let (kind, status) = (frame.header.kind, frame.header.status);
        let is_answer = matches!(kind, Kind::WriteOpened | Kind::WriteAck | Kind::WriteSealed);
        if kind == Kind::Goodbye {
            return self.next_hop_gone(world, conn, "the next hop said goodbye");
        }
        if !is_answer || frame.header.request_id != stream.request_id {
            return self.next_hop_gone(world, conn, "the next hop broke the protocol");
        }
        if !status.is_ok() {
            let Ok(error) = frame.error() else {
                return self.next_hop_gone(world, conn, "the next hop broke the protocol");
            };
            stream.next = None;
            self.next_hops.remove(&conn);
            world.close(self.node, conn);
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.core.handle_next_failure(status, error);
            }
            return self.act_for(world, id, None);
        }
        let is_read = match kind {
            Kind::WriteOpened => frame
                .message()
                .map(|WriteOpened| stream.core.handle_next_opened()),
            Kind::WriteAck => frame
                .message()
                .map(|ack: WriteAck| stream.core.handle_next_ack(&ack)),
            _ => frame.message().map(|sealed: WriteSealed| {
                if let Some(next) = &mut stream.next {
                    next.has_sealed = true;
                }
                stream.core.handle_next_sealed(&sealed);
            }),
        };
        if is_read.is_err() {
            return self.next_hop_gone(world, conn, "the next hop broke the protocol");
        }
        self.act_for(world, id, None);
    }

    /// Plans the moment at which a stream has to say that it works, or its next hop has been silent
    /// for too long.
    fn watch(&self, world: &World, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let speak = stream.answered + self.server.suspect_after() / 3;
        let silent = stream.silent_at(self.server.suspect_after());
        let due = silent.map_or(speak, |silent| silent.min(speak));
        let after = due
            .saturating_sub(world.now())
            .max(Duration::from_millis(1));
        self.plan(world, after, ChunkserverEvent::StreamDue(id));
    }

    pub(super) fn stream_due(&mut self, world: &World, id: StreamId) {
        let (now, suspect_after) = (world.now(), self.server.suspect_after());
        let node = self.node;
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream
            .silent_at(suspect_after)
            .is_some_and(|silent| now >= silent)
        {
            stream.core.handle_next_gone("the next hop fell silent");
        } else if now >= stream.answered + suspect_after / 3
            && let Some(ack) = stream.core.keep_alive()
        {
            stream.answer(world, node, frame(&ack, stream.request_id));
        }
        self.act_for(world, id, None);
        self.watch(world, id);
    }

    // What the core wants.

    /// Carries out what a stream's core wants; `frame` is what just came from upstream.
    fn act_for(&mut self, world: &World, id: StreamId, came: Option<Frame>) {
        let node = self.node;
        while let Some(stream) = self.streams.get_mut(&id)
            && let Some(action) = stream.core.poll_action()
        {
            let request = stream.request_id;
            match action {
                Action::Prepare => stream.jobs.push_back(StoreJob::Prepare(stream.new)),
                Action::Store {
                    serial,
                    offset,
                    crcs,
                    ..
                } => {
                    let payload = came.as_ref().map(|frame| frame.payload.clone());
                    stream.jobs.push_back(StoreJob::Data {
                        serial,
                        offset,
                        crcs,
                        payload: payload.unwrap_or_default(),
                    });
                }
                Action::Seal(seal) => {
                    stream
                        .jobs
                        .push_back(StoreJob::Seal(seal, None, Serial::NONE))
                }
                Action::OpenNext(open) => {
                    stream.forward(world, node, frame(&open, request).into(), Bytes::new())
                }
                Action::Forward(_) => {
                    if let Some(frame) = &came {
                        let (head, payload) = as_it_came(frame);
                        stream.forward(world, node, head, payload);
                    }
                }
                Action::ForwardSeal(seal) => {
                    stream.forward(world, node, frame(&seal, request).into(), Bytes::new());
                }
                Action::AnswerOpened => stream.answer(world, node, frame(&WriteOpened, request)),
                Action::AnswerAck(ack) => stream.answer(world, node, frame(&ack, request)),
                Action::AnswerSealed(sealed) => {
                    world.send(node, stream.upstream, frame(&sealed, request));
                    return self.end_stream(world, id);
                }
                Action::Fail(failure) => {
                    world.line(|| {
                        let (status, error) = (failure.status, &failure.error);
                        format!(
                            "{node:?}: a write stream fails: {status} {} blames {}",
                            error.text, error.server
                        )
                    });
                    let told = error_frame(failure.kind, request, failure.status, &failure.error);
                    let upstream = stream.upstream;
                    world.send(node, upstream, told);
                    return self.drop_accepted(world, upstream);
                }
            }
        }
        self.store_next(world, id);
    }

    /// The chunk is sealed everywhere: both connections are free for another stream.
    fn end_stream(&mut self, world: &World, id: StreamId) {
        let Some(stream) = self.streams.remove(&id) else {
            return;
        };
        self.upstreams.remove(&stream.upstream);
        if let Some(next) = stream.next {
            self.next_hops.remove(&next.conn);
            self.idle_hops
                .keep(world, self.node, &next.hop.data_addr, next.conn);
        }
    }

    /// A stream is over before its seal.
    pub(super) fn drop_stream(&mut self, world: &World, id: StreamId) {
        let Some(stream) = self.streams.remove(&id) else {
            return;
        };
        self.upstreams.remove(&stream.upstream);
        if let Some(next) = stream.next {
            self.next_hops.remove(&next.conn);
            world.close(self.node, next.conn);
        }
    }

    // The disk.

    /// Begins a stream's next job, if none is under way.
    fn store_next(&mut self, world: &World, id: StreamId) {
        let Some(stream) = self
            .streams
            .get_mut(&id)
            .filter(|stream| !stream.is_storing)
        else {
            return;
        };
        let Some(mut job) = stream.jobs.pop_front() else {
            return;
        };
        stream.is_storing = true;
        if let StoreJob::Seal(_, made, serial) = &mut job {
            (*made, *serial) = (stream.made.take(), stream.last);
        }
        let (from, to) = match &job {
            StoreJob::Prepare(_) => (50, 600),
            StoreJob::Data { .. } => (20, 400),
            StoreJob::Seal(..) => (300, 6_000),
        };
        self.plan_disk(world, ChunkserverEvent::Store(id, job), from, to);
    }

    pub(super) fn store_job_due(&mut self, world: &World, id: StreamId, job: StoreJob) {
        let done = self.carry_out(world, id, job);
        if self.is_dead() {
            return;
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.is_storing = false;
        match done {
            Ok(Done::Prepared(made)) => {
                stream.made = Some(made);
                stream.core.handle_prepared();
            }
            Ok(Done::Stored(serial)) => {
                stream.last = serial;
                stream.core.handle_stored(serial);
            }
            Ok(Done::Sealed(level)) => stream.core.handle_sealed(level),
            Err((status, text)) => {
                stream.jobs.clear();
                // Nothing more is stored of a stream that failed.
                stream.is_storing = true;
                stream.core.handle_own_failure(status, &text);
            }
        }
        self.act_for(world, id, None);
    }

    fn carry_out(
        &mut self,
        world: &World,
        id: StreamId,
        job: StoreJob,
    ) -> Result<Done, (Status, String)> {
        let told = |error: StoreError| (status_of(&error), error.to_string());
        match job {
            StoreJob::Prepare(new) => {
                let (directory, pending) = self.server.create(&new).map_err(told)?;
                Ok(Done::Prepared(Made { directory, pending }))
            }
            StoreJob::Data {
                serial,
                offset,
                crcs,
                payload,
            } => {
                let made = self
                    .streams
                    .get(&id)
                    .and_then(|stream| stream.made.as_ref());
                let Some(made) = made else {
                    return Err((Status::Internal, "data before its chunk".to_owned()));
                };
                if let Some(at) = first_damaged(offset, &payload, &crcs) {
                    world.count("path: damage found by a member");
                    let text = format!("the piece at {at} does not match its CRC");
                    return Err((Status::DamagedInTransit, text));
                }
                let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
                made.pending.write_at(offset, &payload).map_err(told)?;
                made.pending
                    .commit_pieces(offset, len, crcs.as_slice())
                    .map_err(told)?;
                Ok(Done::Stored(serial))
            }
            StoreJob::Seal(seal, made, serial) => {
                let Some(made) = made else {
                    return Err((Status::Internal, "a seal before its chunk".to_owned()));
                };
                let claim = SealClaim {
                    length: seal.length,
                    crc32: seal.crc32,
                    serial,
                    level: seal.level,
                };
                let outcome = made.directory.seal(seal.handle, seal.version, &claim);
                if self.is_dead() {
                    return Err((Status::Internal, "dead".to_owned()));
                }
                self.server.changed(&made.directory, seal.handle);
                let outcome = outcome.map_err(told)?;
                world.observe(&Observation::Sealed {
                    machine: self.number,
                    directory: made.directory.identity().directory_id,
                    handle: seal.handle,
                    version: outcome.version,
                    length: seal.length,
                    crc32: seal.crc32,
                    level: outcome.level,
                });
                Ok(Done::Sealed(outcome.level))
            }
        }
    }
}

/// What a job came to.
enum Done {
    Prepared(Made),
    Stored(Serial),
    Sealed(Level),
}

impl Stream {
    fn forward(&mut self, world: &World, node: Node, head: Bytes, payload: Bytes) {
        let Some(next) = &mut self.next else {
            return;
        };
        match next.is_up {
            true => world.send_with(node, next.conn, head, payload),
            false => next.waiting.push((head, payload)),
        }
    }

    fn answer(&mut self, world: &World, node: Node, frame: Vec<u8>) {
        self.answered = world.now();
        world.send(node, self.upstream, frame);
    }

    /// When the next hop has been silent for too long, while something must be heard from it.
    fn silent_at(&self, suspect_after: Duration) -> Option<Duration> {
        let heard = self.heard.filter(|_| self.core.due() == Due::NextHop);
        heard.map(|heard| heard + suspect_after)
    }
}

/// A frame's bytes, to be sent on.
fn as_it_came(frame: &Frame) -> (Bytes, Bytes) {
    let header: &Header = &frame.header;
    let mut head = header.encode().to_vec();
    head.extend_from_slice(&frame.body);
    (head.into(), frame.payload.clone())
}
