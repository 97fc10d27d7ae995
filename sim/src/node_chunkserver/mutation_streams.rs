//! Mutation streams that come in, and the way on to the next hop: what
//! `chunkd/src/net/members/{stream,hop}.rs` do, over simulated connections.
//!
//! A stream of which the machine wants nothing at the moment keeps its frames, as a socket would that
//! nobody reads.

use std::collections::VecDeque;

use bytes::Bytes;
use sarsen_chunkd::core::mutation::{self, Reply, StreamId};
use sarsen_chunkd::core::tickets;
use sarsen_chunkd::net::members::frames::{Came, FromNext, onward_frame, reply_frame};
use sarsen_protocol::deframe::{Frame, error_frame, frame};
use sarsen_protocol::id::{ChunkHandle, ChunkVersion};
use sarsen_protocol::message::{ErrorBody, Hop, Kind, Plane, WriteOpen};
use sarsen_protocol::status::Status;

use super::{Process, is_server};
use crate::net::{ConnId, DialError, Hello};
use crate::world::World;

/// The number of the one stream that a connection to a next hop carries.
const NEXT_REQUEST: u64 = 1;

/// A stream that came in.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) conn: ConnId,
    request_id: u64,
    /// Else it is the hop before.
    pub(super) from_client: bool,
    is_wanted: bool,
    /// Frames that wait until they are wanted.
    held: VecDeque<Frame>,
}

/// The way to the next hop.
#[derive(Debug)]
pub(super) struct Onward {
    pub(super) conn: ConnId,
    version: ChunkVersion,
    hop: Hop,
    is_up: bool,
    /// What is to be sent once it is reached.
    waiting: Vec<(Bytes, Bytes)>,
}

impl Process {
    // Streams that come in.

    /// A peer opens a mutation stream.
    pub(super) fn open_incoming(
        &mut self,
        world: &World,
        conn: ConnId,
        request_id: u64,
        open: WriteOpen,
    ) {
        let keys = self.server.ticket_keys();
        if let Err(error) = keys.check_write(&open, self.server.me(), world.unix_ms()) {
            let status = tickets::status_of(error);
            return self.refuse_incoming(world, conn, request_id, status, &error.to_string());
        }
        let now = self.elapsed(world);
        self.last_stream += 1;
        let stream = StreamId(self.last_stream);
        let handle = open.handle;
        let Ok(one) = self.open_one(handle, None) else {
            let text = format!("no chunk {handle} is here");
            return self.refuse_incoming(world, conn, request_id, Status::ChunkUnknown, &text);
        };
        let incoming = Incoming {
            conn,
            request_id,
            from_client: open.position == 0,
            is_wanted: true,
            held: VecDeque::new(),
        };
        one.streams.insert(stream, incoming);
        one.worker.machine().handle_open(now, stream, open);
        self.open.streams.insert(conn, (handle, stream));
        world.count("path: mutation stream opened");
        self.stir(world, handle);
    }

    fn refuse_incoming(
        &mut self,
        world: &World,
        conn: ConnId,
        request_id: u64,
        status: Status,
        text: &str,
    ) {
        let error = ErrorBody {
            server: self.server.me(),
            ..ErrorBody::new(text)
        };
        let refusal = error_frame(Kind::WriteOpened, request_id, status, &error);
        world.send(self.node, conn, refusal);
        self.drop_accepted(world, conn);
    }

    /// A frame comes over a connection that carries a stream.
    pub(super) fn incoming_says(&mut self, world: &World, conn: ConnId, frame: Frame) {
        let Some(&(handle, stream)) = self.open.streams.get(&conn) else {
            return;
        };
        let one = self.open.chunks.get_mut(&handle);
        if let Some(incoming) = one.and_then(|one| one.streams.get_mut(&stream)) {
            incoming.held.push_back(frame);
        }
        self.hand_over(world, handle, stream);
    }

    /// The machine wants more of a stream, or nothing for now.
    pub(super) fn take_from(
        &mut self,
        world: &World,
        handle: ChunkHandle,
        stream: StreamId,
        is_wanted: bool,
    ) {
        let one = self.open.chunks.get_mut(&handle);
        if let Some(incoming) = one.and_then(|one| one.streams.get_mut(&stream)) {
            incoming.is_wanted = is_wanted;
        }
        self.hand_over(world, handle, stream);
    }

    /// Tells the machine what waits, for as long as it wants it.
    fn hand_over(&mut self, world: &World, handle: ChunkHandle, stream: StreamId) {
        let now = self.elapsed(world);
        let Some(one) = self.open.chunks.get_mut(&handle) else {
            return;
        };
        let mut has_told = false;
        while let Some(incoming) = one.streams.get_mut(&stream)
            && incoming.is_wanted
            && let Some(frame) = incoming.held.pop_front()
        {
            let conn = incoming.conn;
            match Came::decode(&frame, incoming.request_id, incoming.from_client) {
                Ok(came) => came.tell(one.worker.machine(), now, stream),
                Err(error) => {
                    world
                        .line(|| format!("{:?}: {conn:?} breaks the protocol: {error}", self.node));
                    return self.drop_accepted(world, conn);
                }
            }
            has_told = true;
        }
        if has_told {
            self.stir(world, handle);
        }
    }

    /// Sends a frame back over a stream.
    pub(super) fn reply_to(
        &self,
        world: &World,
        handle: ChunkHandle,
        stream: StreamId,
        reply: &Reply,
    ) {
        let one = self.open.chunks.get(&handle);
        if let Some(incoming) = one.and_then(|one| one.streams.get(&stream)) {
            let frame = reply_frame(reply, incoming.request_id);
            world.send(self.node, incoming.conn, frame);
        }
    }

    /// The machine ends a stream, behind what was sent.
    pub(super) fn end_incoming(&mut self, world: &World, handle: ChunkHandle, stream: StreamId) {
        let one = self.open.chunks.get_mut(&handle);
        if let Some(incoming) = one.and_then(|one| one.streams.remove(&stream)) {
            self.open.streams.remove(&incoming.conn);
            self.drop_accepted(world, incoming.conn);
        }
    }

    /// The connection of a stream has ended.
    pub(super) fn incoming_gone(&mut self, world: &World, conn: ConnId) {
        let now = self.elapsed(world);
        let Some((handle, stream)) = self.open.streams.remove(&conn) else {
            return;
        };
        if let Some(one) = self.open.chunks.get_mut(&handle) {
            one.streams.remove(&stream);
            one.worker.machine().handle_stream_gone(now, stream);
            self.stir(world, handle);
        }
    }

    // The next hop.

    pub(super) fn dial_onward(
        &mut self,
        world: &World,
        handle: ChunkHandle,
        hop: Hop,
        open: &WriteOpen,
    ) {
        let idle = self.idle_hops.take(world, self.node, &hop.data_addr);
        let is_up = idle.is_some();
        let time_max = self.server.suspect_after();
        let dial = || {
            world.dial(
                self.node,
                &hop.data_addr,
                Plane::Data,
                self.hello(),
                time_max,
            )
        };
        let conn = idle.unwrap_or_else(dial);
        let opening: Bytes = frame(open, NEXT_REQUEST).into();
        let mut next = Onward {
            conn,
            version: open.version,
            hop,
            is_up,
            waiting: Vec::new(),
        };
        match is_up {
            true => world.send_with(self.node, conn, opening, Bytes::new()),
            false => next.waiting.push((opening, Bytes::new())),
        }
        self.open.onward.insert(conn, handle);
        let Some(one) = self.open.chunks.get_mut(&handle) else {
            return;
        };
        if let Some(before) = one.next.replace(next) {
            self.open.onward.remove(&before.conn);
            world.close(self.node, before.conn);
        }
    }

    pub(super) fn send_onward(
        &mut self,
        world: &World,
        handle: ChunkHandle,
        frame: &mutation::Frame,
    ) {
        let one = self.open.chunks.get_mut(&handle);
        let Some(next) = one.and_then(|one| one.next.as_mut()) else {
            return;
        };
        let (head, payload) = onward_frame(frame, NEXT_REQUEST);
        let (head, payload) = (Bytes::from(head), Bytes::from(payload.concat()));
        match next.is_up {
            true => world.send_with(self.node, next.conn, head, payload),
            false => next.waiting.push((head, payload)),
        }
    }

    pub(super) fn close_onward(
        &mut self,
        world: &World,
        handle: ChunkHandle,
        version: ChunkVersion,
    ) {
        let one = self.open.chunks.get_mut(&handle);
        let closed = one.and_then(|one| one.next.take_if(|next| next.version == version));
        if let Some(next) = closed {
            self.open.onward.remove(&next.conn);
            world.close(self.node, next.conn);
        }
    }

    pub(super) fn onward_dialled(
        &mut self,
        world: &World,
        conn: ConnId,
        result: Result<Hello, DialError>,
    ) {
        let one = self.open.onward.get(&conn);
        let one = one.and_then(|handle| self.open.chunks.get_mut(handle));
        let Some(next) = one.and_then(|one| one.next.as_mut()) else {
            return;
        };
        match result {
            Ok(hello) if is_server(&hello, next.hop.server) => {
                next.is_up = true;
                for (head, payload) in std::mem::take(&mut next.waiting) {
                    world.send_with(self.node, conn, head, payload);
                }
                self.next_says(world, conn, FromNext::Reached);
            }
            _ => self.onward_gone(world, conn, "it can't be reached"),
        }
    }

    pub(super) fn onward_says(&mut self, world: &World, conn: ConnId, frame: &Frame) {
        match FromNext::decode(frame, NEXT_REQUEST) {
            Ok(FromNext::Gone(text)) => self.onward_gone(world, conn, &text),
            Ok(said) => {
                let is_over = matches!(said, FromNext::Failed(..));
                self.next_says(world, conn, said);
                if is_over {
                    self.onward_gone(world, conn, "it has failed");
                }
            }
            Err(error) => self.onward_gone(world, conn, &error.to_string()),
        }
    }

    /// The next hop's connection is of no use any more.
    pub(super) fn onward_gone(&mut self, world: &World, conn: ConnId, text: &str) {
        world.close(self.node, conn);
        self.next_says(world, conn, FromNext::Gone(text.to_owned()));
        let handle = self.open.onward.remove(&conn);
        if let Some(one) = handle.and_then(|handle| self.open.chunks.get_mut(&handle)) {
            one.next.take_if(|next| next.conn == conn);
        }
    }

    fn next_says(&mut self, world: &World, conn: ConnId, said: FromNext) {
        let now = self.elapsed(world);
        let Some(&handle) = self.open.onward.get(&conn) else {
            return;
        };
        let Some(one) = self.open.chunks.get_mut(&handle) else {
            return;
        };
        let Some(version) = one.next.as_ref().map(|next| next.version) else {
            return;
        };
        said.tell(one.worker.machine(), now, version);
        self.stir(world, handle);
    }
}
