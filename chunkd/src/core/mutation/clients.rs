//! Clients' streams to a primary (`spec/wire.md` section 12.3).

use std::time::Duration;

use bytes::Bytes;
use sarsen_protocol::id::ChunkVersion;
use sarsen_protocol::message::{
    Append, AppendResult, Appended, ChainTrouble, ErrorBody, Kind, Level, WriteAck, WriteData,
    WriteOpen,
};
use sarsen_protocol::size::{APPEND_RESULTS_MAX, PAYLOAD_LEN_MAX};
use sarsen_protocol::status::Status;

use super::Replica;
use super::assembly::OutOfOrder;
use super::chain::Reached;
use super::client_stream::{AppendDone, ClientStream};
use super::words::{Action, Reply, StreamId};

/// Records that may be coming in parts at a time: each is held until it is whole.
const LONG_MAX: usize = 4;

impl Replica {
    /// A client opens a stream. It opens nothing else: the chain is there, or is being opened.
    pub(super) fn open_client(&mut self, now: Duration, stream: StreamId, open: &WriteOpen) {
        if let Some((status, text)) = self.unfit_client(open) {
            let (status, error) = self.refusal(status, text);
            self.fail_stream(stream, Kind::WriteOpened, status, error);
            return;
        }
        let Some(chain) = &self.chain else { return };
        let (floor, wants_memory) = (chain.floor(), open.level == Level::Memory);
        if wants_memory && floor == Level::Disk {
            let me = self.member.me().server;
            self.report(ChainTrouble::WantsMemory, me, Status::Ok);
        }
        let client = ClientStream::new(self.member.commit_mark(), floor, open.level, now);
        self.clients.insert(stream, client);
        let reply = Reply::Opened;
        self.actions.push_back(Action::Send { stream, reply });
    }

    /// Why a client's stream is not taken.
    fn unfit_client(&self, open: &WriteOpen) -> Option<(Status, &'static str)> {
        let (version, _) = self.member.has();
        if self.member.promised() > open.version {
            return Some((Status::PromiseRefused, "a newer version was promised"));
        }
        if version != open.version {
            return Some((Status::Moved, "the version was not begun"));
        }
        match &self.primary {
            None => Some((
                Status::NotPrimary,
                "this member does not order the mutations",
            )),
            Some(primary) if !primary.is_open() => {
                Some((Status::PromiseRefused, "the primary has stopped"))
            }
            Some(primary) if open.lock_token < primary.lock_token => {
                Some((Status::LockTokenStale, "the lock's token is newer"))
            }
            Some(_) => None,
        }
    }

    /// A write of a client. Its pieces were counted.
    pub fn handle_write(
        &mut self,
        _now: Duration,
        stream: StreamId,
        write: WriteData,
        payload: Bytes,
    ) {
        if self.is_for_here(stream, write.handle, write.version, write.level)
            && let Some(client) = self.clients.get_mut(&stream)
        {
            let taken = client.take_write(write, payload);
            self.taken(stream, taken);
        }
    }

    /// Records of a client, or a part of one. Lengths were compared with the payload's.
    pub fn handle_append(
        &mut self,
        now: Duration,
        stream: StreamId,
        append: Append,
        payload: Bytes,
    ) {
        if self.is_for_here(stream, append.handle, append.version, append.level)
            && let Some(client) = self.clients.get_mut(&stream)
        {
            let was_coming = client.is_coming();
            let taken = client.take_append(now, append, payload);
            let is_coming = client.is_coming();
            if is_coming && !was_coming {
                self.long.push_back(stream);
            } else if was_coming && !is_coming {
                self.long.retain(|waits| *waits != stream);
            }
            self.taken(stream, taken);
        }
    }

    /// A frame of a client is here, and the edge does not read it for want of room, or does again. The client
    /// has all its time from then on.
    pub fn handle_room_wait(&mut self, now: Duration, stream: StreamId, waits: bool) {
        if let Some(client) = self.clients.get_mut(&stream) {
            client.waits_for_room = waits;
            client.part_came = now;
        }
    }

    fn taken(&mut self, stream: StreamId, taken: Result<(), OutOfOrder>) {
        match (taken, self.clients.get_mut(&stream), &mut self.primary) {
            (Ok(()), Some(client), Some(primary))
                if !client.asked.is_empty() && !client.has_turn =>
            {
                client.has_turn = true;
                primary.turns.push_back(stream);
            }
            (Err(_), Some(_), _) => {
                self.fail_client(stream, Status::OutOfOrder, "a frame that doesn't follow");
            }
            _ => {}
        }
    }

    /// Whether a frame is one that its stream may bring; the stream fails if not.
    fn is_for_here(
        &mut self,
        stream: StreamId,
        handle: sarsen_protocol::id::ChunkHandle,
        version: ChunkVersion,
        level: Level,
    ) -> bool {
        let Some(client) = self.clients.get(&stream) else {
            return false;
        };
        let is_it = handle == self.member.handle() && self.version() == Some(version);
        let text = match is_it {
            true if level <= client.level_max => return true,
            true => "a level above the one that the stream was opened with",
            false => "a frame of another chunk or version",
        };
        self.fail_client(stream, Status::InvalidArgument, text);
        false
    }

    /// A client's stream ends for its own fault. What of it is ordered is done all the same.
    pub(super) fn fail_client(&mut self, stream: StreamId, status: Status, text: &str) {
        if self.clients.remove(&stream).is_some() {
            self.long.retain(|waits| *waits != stream);
            let (status, error) = self.refusal(status, text);
            self.fail_stream(stream, Kind::WriteAck, status, error);
        }
    }

    /// All clients' streams end: what is answered goes first.
    pub(super) fn end_clients(&mut self, status: Status, error: &ErrorBody) {
        self.send_results();
        self.long.clear();
        for (stream, _) in std::mem::take(&mut self.clients) {
            self.fail_stream(stream, Kind::WriteAck, status, error.clone());
        }
        if let Some(primary) = &mut self.primary {
            primary.turns.clear();
        }
    }

    /// Answers what has reached its level on all members.
    pub(super) fn answer_clients(&mut self, reached: Reached) {
        let Some(chain) = &self.chain else { return };
        let copies = chain.copies();
        for (&stream, client) in &mut self.clients {
            let ClientStream {
                appends_at_memory,
                appends_at_disk,
                results,
                ..
            } = client;
            for (waiting, level) in [
                (appends_at_memory, Level::Memory),
                (appends_at_disk, Level::Disk),
            ] {
                let is_there = |done: &mut AppendDone| done.serial <= reached.at(level);
                while let Some(done) = waiting.pop_front_if(is_there) {
                    results.push(AppendResult {
                        number: done.number,
                        status: Status::Ok.number(),
                        level: level_reached(reached, done.serial),
                        copies,
                        offset: done.offset,
                        length: done.length,
                        serial: done.serial,
                    });
                }
            }
            answer_writes(stream, client, reached, copies, &mut self.actions);
        }
    }

    /// Sends what became of appends, as many in one frame as go into it.
    pub(super) fn send_results(&mut self) {
        let (version, _) = self.member.has();
        for (&stream, client) in &mut self.clients {
            while !client.results.is_empty() {
                let rest = match client.results.len() > APPEND_RESULTS_MAX {
                    true => client.results.split_off(APPEND_RESULTS_MAX),
                    false => Vec::new(),
                };
                let results = std::mem::replace(&mut client.results, rest);
                client.was_sent = true;
                let reply = Reply::Appended(Appended { version, results });
                self.actions.push_back(Action::Send { stream, reply });
            }
        }
    }

    /// Has the edge take frames of those streams that hold less than their share.
    pub(super) fn share_memory(&mut self, now: Duration) {
        let streams = self.clients.len().max(1) as u64;
        let share = (self.config.client_bytes / streams).max(u64::from(PAYLOAD_LEN_MAX));
        for (&stream, client) in &mut self.clients {
            let is_wanted = match client.is_coming() {
                // It has to come to its end, in its turn.
                true => self.long.iter().take(LONG_MAX).any(|long| *long == stream),
                false if client.is_taken => client.held < share,
                false => client.held <= share / 2,
            };
            if is_wanted != client.is_taken {
                client.is_taken = is_wanted;
                if is_wanted {
                    client.part_came = now;
                }
                self.actions.push_back(Action::Take { stream, is_wanted });
            }
        }
    }

    /// Clients that were allowed to send a record and sent nothing of it for too long.
    pub(super) fn end_stalled(&mut self, now: Duration) {
        let patience = self.config.suspect_after;
        let is_stalled = |stream: &&StreamId| {
            let client = self.clients.get(stream);
            // One that was not told yet that it may go on has all its time before it.
            client.is_some_and(|client| {
                client.is_awaited() && now.saturating_sub(client.part_came) >= patience
            })
        };
        let stalled: Vec<StreamId> = self
            .long
            .iter()
            .take(LONG_MAX)
            .filter(is_stalled)
            .copied()
            .collect();
        for stream in stalled {
            self.fail_client(
                stream,
                Status::Overloaded,
                "the rest of a record did not come",
            );
        }
    }

    /// When the first of them is one.
    pub(super) fn stalled_at(&self) -> Option<Duration> {
        let came = |stream: &StreamId| {
            let client = self
                .clients
                .get(stream)
                .filter(|client| client.is_awaited());
            client.map(|client| client.part_came)
        };
        let first = self.long.iter().take(LONG_MAX).filter_map(came).min();
        first.map(|came| came + self.config.suspect_after)
    }
}

/// The highest level that everything up to a serial has.
fn level_reached(reached: Reached, serial: sarsen_protocol::id::Serial) -> Level {
    match serial <= reached.disk {
        true => Level::Disk,
        false => Level::Memory,
    }
}

/// Acks of writes are cumulative in the stream's count: one that asked for the disk holds up the acks
/// of those behind it, and an ack says the level that the last one it covers has.
fn answer_writes(
    stream: StreamId,
    client: &mut ClientStream,
    reached: Reached,
    copies: u8,
    actions: &mut std::collections::VecDeque<Action>,
) {
    let mut ack: Option<WriteAck> = None;
    while let Some(done) = client
        .writes_done
        .pop_front_if(|done| done.serial <= reached.at(done.level))
    {
        let next = WriteAck {
            serial: sarsen_protocol::id::Serial(done.count),
            commit_mark: done.serial,
            level: level_reached(reached, done.serial),
            copies,
        };
        if let Some(before) = ack.replace(next)
            && before.level != next.level
        {
            let reply = Reply::Ack(before);
            actions.push_back(Action::Send { stream, reply });
        }
    }
    if let Some(ack) = ack {
        client.acked_writes = ack.serial;
        client.acked_serial = client.acked_serial.max(ack.commit_mark);
        client.acked_level = ack.level;
        client.was_sent = true;
        let reply = Reply::Ack(ack);
        actions.push_back(Action::Send { stream, reply });
    }
}
