//! What the neighbours of a member in its chain say (`spec/replication.md` sections 6 and 7).
//!
//! A member blames the hop behind it, or whoever an error frame names. When the hop before is gone,
//! this member closes too. Either way it tells the master and takes no more part in the version.

use std::time::Duration;

use bytes::Bytes;
use sarsen_protocol::id::{ChunkVersion, Serial, ServerId};
use sarsen_protocol::message::{
    ChainTrouble, ErrorBody, Kind, Level, Mark, Marked, WriteAck, WriteBatch, WriteOpen,
};
use sarsen_protocol::status::Status;

use super::assembly::{self, OutOfOrder};
use super::chain::{Chain, Next};
use super::words::{Action, Frame, Reply, StreamId};
use super::{Replica, timers};

impl Replica {
    /// A stream begins: of the hop before, or of a client (position 0). Ticket, file and chain were
    /// compared, and that this server has the position. Answered by [`Reply::Opened`], for the hop
    /// before when all behind are open, or [`Reply::Failed`].
    pub fn handle_open(&mut self, now: Duration, stream: StreamId, open: WriteOpen) {
        if open.position == 0 {
            self.open_client(now, stream, &open);
            return;
        }
        let mark = self.member.commit_mark();
        if let Err((status, error)) = self.member.handle_open(open.version, open.begin_serial) {
            self.fail_stream(stream, Kind::WriteOpened, status, error);
            return;
        }
        self.heard = Some(now);
        self.note_commit(mark);
        let beat = timers::beat(&self.config);
        let chain = Chain::new(now, open, self.memory, Some(stream), beat);
        self.begin_chain(chain);
    }

    /// Goes on to the next hop, or is the last.
    pub(super) fn begin_chain(&mut self, mut chain: Chain) {
        if let Some(hop) = chain.next_hop().cloned() {
            let mut open = Box::new(chain.open.clone());
            open.position += 1;
            self.actions.push_back(Action::DialNext { hop, open });
        } else if let Some(stream) = chain.up {
            chain.is_opened = true;
            chain.up_was_sent = true;
            let reply = Reply::Opened;
            self.actions.push_back(Action::Send { stream, reply });
        }
        self.chain = Some(chain);
    }

    /// Mutations of the hop before. Their lengths were compared with the payload's.
    pub fn handle_batch(
        &mut self,
        now: Duration,
        stream: StreamId,
        batch: WriteBatch,
        payload: Bytes,
    ) {
        if !self.hear_before(now, stream) {
            return;
        }
        if batch.handle != self.member.handle() || self.version() != Some(batch.version) {
            self.blame_before(Status::OutOfOrder, "a frame of another chunk or version");
            return;
        }
        if !assembly::is_undamaged(&batch, &payload) {
            let text = "a piece is not as it was sent";
            self.fail_here(Status::DamagedInTransit, text, false);
            return;
        }
        let (level, mark, version) = (batch.level, batch.commit_mark, batch.version);
        let after = self.member.received();
        let Some(chain) = &mut self.chain else { return };
        let onward =
            (chain.next != Next::None).then(|| Frame::Batch(batch.clone(), vec![payload.clone()]));
        let whole = match assembly::take(&mut chain.assembly, after, batch, payload) {
            Ok(whole) => whole,
            Err(OutOfOrder) => {
                self.blame_before(Status::OutOfOrder, "a serial or a part that doesn't follow");
                return;
            }
        };
        if let Some(mutations) = whole {
            let (first, last) = (mutations.first, mutations.last());
            if let Err((status, error)) = self.member.handle_mutations(version, first, last) {
                self.end_chain(status, error);
                return;
            }
            chain.sent = last;
            if chain.level_of(level) == Level::Disk {
                self.flush_wanted = self.flush_wanted.max(last);
            }
            self.actions.push_back(Action::Apply(mutations));
        }
        if let Some(frame) = onward {
            chain.told = chain.told.max(mark);
            chain.next_was_sent = true;
            self.actions.push_back(Action::SendNext(frame));
        }
        self.take_commit_mark(version, mark);
        self.follow_member(now);
    }

    /// A commit mark of the hop before.
    pub fn handle_mark(&mut self, now: Duration, stream: StreamId, mark: &Mark) {
        if !self.hear_before(now, stream) {
            return;
        }
        let Mark {
            version,
            commit_mark,
            number,
            ..
        } = *mark;
        if mark.handle != self.member.handle() || self.version() != Some(version) {
            self.blame_before(Status::OutOfOrder, "a mark of another chunk or version");
            return;
        }
        self.take_commit_mark(version, commit_mark);
        let Some(chain) = &mut self.chain else { return };
        if chain.next == Next::None {
            if number > 0 {
                self.confirm_up(version, number);
            }
        } else if number > 0 || commit_mark > chain.told {
            if number > 0 {
                chain.marks.push_back(number);
            }
            chain.told = chain.told.max(commit_mark);
            chain.next_was_sent = true;
            let frame = Frame::Mark(chain.mark(commit_mark, number));
            self.actions.push_back(Action::SendNext(frame));
        }
    }

    /// A stream was closed, or what came over it broke the protocol.
    pub fn handle_stream_gone(&mut self, _now: Duration, stream: StreamId) {
        if self.clients.remove(&stream).is_some() {
            self.long.retain(|waits| *waits != stream);
            return;
        }
        if let Some(chain) = &mut self.chain
            && chain.up == Some(stream)
        {
            chain.up = None;
            self.lose_before(ServerId::NONE);
        }
    }

    /// The next hop said hello: it has its time to answer from now on, and is not heard of the chain yet.
    pub fn handle_next_reached(&mut self, now: Duration, version: ChunkVersion) {
        if self.has_next(version)
            && let Some(chain) = &mut self.chain
        {
            chain.next_heard = now;
        }
    }

    /// All behind the next hop are open too.
    pub fn handle_next_opened(&mut self, now: Duration, version: ChunkVersion) {
        if !self.hear_next(now, version) {
            return;
        }
        let Some(chain) = &mut self.chain else { return };
        if chain.next == Next::Opening {
            chain.next = Next::Open;
            if let Some(stream) = chain.up {
                chain.is_opened = true;
                chain.up_was_sent = true;
                let reply = Reply::Opened;
                self.actions.push_back(Action::Send { stream, reply });
            }
            self.chain_is_open();
        }
    }

    /// The next hop has something at a level, and so have all behind it.
    pub fn handle_next_ack(&mut self, now: Duration, version: ChunkVersion, ack: &WriteAck) {
        if !self.hear_next(now, version) {
            return;
        }
        let Some(chain) = &mut self.chain else { return };
        if ack.serial > chain.sent {
            self.lose_next(
                Status::ProtocolError,
                "it acknowledged what it was not sent",
            );
            return;
        }
        chain.next_acked.raise(ack.level, ack.serial);
    }

    /// The next hop and all behind it have promised nothing newer.
    pub fn handle_next_marked(&mut self, now: Duration, version: ChunkVersion, marked: &Marked) {
        if !self.hear_next(now, version) {
            return;
        }
        let number = marked.number;
        let Some(chain) = &mut self.chain else { return };
        if chain.up.is_none() {
            self.confirmed(number);
        } else if chain.marks.front() == Some(&number) {
            chain.marks.pop_front();
            self.confirm_up(version, number);
        }
    }

    /// A frame with a status came from the next hop: what failed is there, or behind it.
    pub fn handle_next_failed(
        &mut self,
        _now: Duration,
        version: ChunkVersion,
        status: Status,
        error: ErrorBody,
    ) {
        if !self.has_next(version) {
            return;
        }
        let next = self
            .chain
            .as_ref()
            .map_or(ServerId::NONE, Chain::next_server);
        match status {
            // Nobody's fault: the master asked for it.
            Status::PromiseRefused => {
                self.report(ChainTrouble::PromiseRefused, ServerId::NONE, status);
            }
            _ => {
                let named = Some(error.server).filter(|server| server.is_some());
                self.report(ChainTrouble::HopFailed, named.unwrap_or(next), status);
            }
        }
        self.end_chain(status, error);
    }

    /// The next hop was not reached, closed, or broke the protocol.
    pub fn handle_next_gone(&mut self, _now: Duration, version: ChunkVersion) {
        if self.has_next(version) {
            self.lose_next(Status::ChainBroken, "the next hop is gone");
        }
    }

    pub(super) fn lose_next(&mut self, status: Status, text: &str) {
        let Some(chain) = &self.chain else { return };
        let next = chain.next_server();
        self.report(ChainTrouble::HopFailed, next, status);
        let (status, mut error) = self.refusal(Status::ChainBroken, text);
        error.server = next;
        self.end_chain(status, error);
    }

    /// The hop before is gone: the one to blame, if it is known that it is its fault.
    pub(super) fn lose_before(&mut self, blamed: ServerId) {
        self.report(ChainTrouble::HopFailed, blamed, Status::ChainBroken);
        let (status, mut error) = self.refusal(Status::ChainBroken, "the hop before is gone");
        error.server = blamed;
        self.end_chain(status, error);
    }

    /// The hop before broke the protocol.
    fn blame_before(&mut self, status: Status, text: &str) {
        let Some(chain) = &self.chain else { return };
        let before = chain.server_before();
        self.report(ChainTrouble::HopFailed, before, status);
        let (status, mut error) = self.refusal(status, text);
        error.server = before;
        self.end_chain(status, error);
    }

    /// Answers a numbered mark, if nothing newer was promised **now**.
    fn confirm_up(&mut self, version: ChunkVersion, number: u64) {
        let confirmed = self.member.handle_mark(version).is_ok();
        let Some(chain) = &mut self.chain else { return };
        if let (true, Some(stream)) = (confirmed, chain.up) {
            chain.up_was_sent = true;
            let reply = Reply::Marked(Marked {
                handle: chain.open.handle,
                version,
                number,
            });
            self.actions.push_back(Action::Send { stream, reply });
        }
    }

    fn take_commit_mark(&mut self, version: ChunkVersion, mark: Serial) {
        let before = self.member.commit_mark();
        self.member.handle_commit_mark(version, mark);
        self.note_commit(before);
    }

    /// Tells the store of a commit mark that rose.
    pub(super) fn note_commit(&mut self, before: Serial) {
        let mark = self.member.commit_mark();
        if mark > before {
            self.actions.push_back(Action::Commit(mark));
        }
    }

    /// The version that is active here.
    pub(super) fn version(&self) -> Option<ChunkVersion> {
        self.chain.as_ref().map(Chain::version)
    }

    /// Whether a stream is that of the hop before, of which something was heard then.
    fn hear_before(&mut self, now: Duration, stream: StreamId) -> bool {
        match &mut self.chain {
            Some(chain) if chain.up == Some(stream) => {
                chain.up_heard = now;
                self.heard = Some(now);
                true
            }
            _ => false,
        }
    }

    fn has_next(&self, version: ChunkVersion) -> bool {
        let has_it = |chain: &Chain| chain.version() == version && chain.next != Next::None;
        self.chain.as_ref().is_some_and(has_it)
    }

    /// Whether a version's next hop is there, of which something was heard then.
    fn hear_next(&mut self, now: Duration, version: ChunkVersion) -> bool {
        let has_it = self.has_next(version);
        if let (true, Some(chain)) = (has_it, &mut self.chain) {
            chain.next_heard = now;
            self.heard = Some(now);
        }
        has_it
    }
}
