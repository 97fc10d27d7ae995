//! One member's side of a write stream to a pending chunk (`spec/wire.md` section 12.1).
//!
//! ```text
//!            prepared, next opened           seal                  sealed, next sealed
//!  Opening ───────────────────────► Open ────────► Sealing ─────────────────────────► Done
//!     └───────────────────────────────┴───────────────┴── any failure ──► Failed
//! ```
//!
//! Who drives it: frames and outcomes go in through `handle_*` in the order in which they came,
//! and after each call [`ReplicaStream::poll_action`] is emptied. Data may come in `Opening`: the
//! sender need not wait. `Store` and `Seal` are carried out in the order of their yielding, after
//! `Prepare`, and none after one that failed; `Forward` and `ForwardSeal` in theirs, after
//! `OpenNext`. The two orders are independent: a frame is forwarded while it is stored. All of a
//! small chunk may be wanted before anything of it is done, and be done at once.
//!
//! Invariants: a mutation is acknowledged only when its own write is done **and** the next hop
//! has acknowledged it; acknowledgements never go back; after a failure nothing is yielded but
//! that failure, once. What went wrong first is what is told.
//!
//! Left out on purpose: tickets are checked before a stream is made ([`super::tickets`]), and
//! the bytes themselves are compared with their CRCs by whoever stores them.

use std::collections::VecDeque;

use sarsen_protocol::id::{Serial, ServerId};
use sarsen_protocol::message::{
    Crcs, ErrorBody, Hop, Kind, Level, MemberLevel, WriteAck, WriteData, WriteOpen, WriteSeal,
    WriteSealed,
};
use sarsen_protocol::status::Status;

/// What is to be done for a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make the pending chunk; answer with [`ReplicaStream::handle_prepared`].
    Prepare,
    /// Open the stream to the next hop with this body.
    OpenNext(WriteOpen),
    /// Send the data frame of this serial on, as it came.
    Forward(Serial),
    /// Compare the payload with its CRCs and write it; answer with
    /// [`ReplicaStream::handle_stored`].
    Store {
        /// Of the mutation.
        serial: Serial,
        /// In the chunk.
        offset: u32,
        /// Bytes.
        len: u32,
        /// One a piece.
        crcs: Crcs,
    },
    /// Send the seal on.
    ForwardSeal(WriteSeal),
    /// Compare and seal; answer with [`ReplicaStream::handle_sealed`].
    Seal(WriteSeal),
    /// Answer the stream's opening.
    AnswerOpened,
    /// Answer data.
    AnswerAck(WriteAck),
    /// Answer the seal; the stream is over, and its connections are free for another.
    AnswerSealed(WriteSealed),
    /// Answer with a failure and close; the stream is over.
    Fail(Failure),
}

/// The frame that ends a stream which failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The answer that was due.
    pub kind: Kind,
    /// What went wrong.
    pub status: Status,
    /// Particulars, the blamed server among them.
    pub error: ErrorBody,
}

/// Whom a stream waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nobody: there is no next hop, or it has sealed.
    Nothing,
    /// The next hop: its silence is a failure.
    NextHop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Opening,
    Open,
    Sealing,
    Done,
    Failed,
}

/// One member's side of a write stream.
#[derive(Debug)]
pub struct ReplicaStream {
    me: ServerId,
    open: WriteOpen,
    phase: Phase,
    is_prepared: bool,
    next_is_open: bool,
    /// The last mutation that came, and where its bytes end in the chunk.
    received: Serial,
    length: u32,
    /// The highest commit mark that came with data.
    commit_mark: Serial,
    /// Every mutation up to here is written here, is acknowledged by the next hop, was
    /// acknowledged by us.
    stored: Serial,
    next_acked: Serial,
    acked: Serial,
    seal: Option<WriteSeal>,
    own_level: Option<Level>,
    next_members: Option<Vec<MemberLevel>>,
    /// Damage that a member behind found, and the mutation up to which it may have been ours to
    /// find.
    damage_behind: Option<(Serial, ErrorBody)>,
    actions: VecDeque<Action>,
}

impl ReplicaStream {
    /// Begins the stream that `open` asks of the server `me`, which is the chain's member at the
    /// position that `open` names: who checks tickets has compared that.
    #[must_use]
    pub fn new(me: ServerId, open: WriteOpen) -> Self {
        let begin = open.begin_serial;
        let mut stream = Self {
            me,
            phase: Phase::Opening,
            is_prepared: false,
            next_is_open: false,
            received: begin,
            length: 0,
            commit_mark: begin,
            stored: begin,
            next_acked: begin,
            acked: begin,
            seal: None,
            own_level: None,
            next_members: None,
            damage_behind: None,
            actions: VecDeque::from([Action::Prepare]),
            open,
        };
        if stream.next_hop().is_some() {
            let mut onward = stream.open.clone();
            onward.position += 1;
            stream.actions.push_back(Action::OpenNext(onward));
        }
        stream
    }

    /// The member behind this one, if there is one.
    #[must_use]
    pub fn next_hop(&self) -> Option<&Hop> {
        self.open.chain.get(usize::from(self.open.position) + 1)
    }

    /// How many members there are behind this one.
    #[must_use]
    pub fn members_behind(&self) -> usize {
        self.open
            .chain
            .len()
            .saturating_sub(usize::from(self.open.position) + 1)
    }

    /// Whether the stream is over, well or not.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Done | Phase::Failed)
    }

    /// Whom something must be heard from: an answer, or at least a keep-alive.
    #[must_use]
    pub fn due(&self) -> Due {
        let is_due = self.next_hop().is_some() && self.next_members.is_none() && !self.is_over();
        match is_due {
            true => Due::NextHop,
            false => Due::Nothing,
        }
    }

    /// What to send upstream when nothing else was due for a while: it acknowledges nothing.
    /// `None` once the stream is over.
    #[must_use]
    pub fn keep_alive(&self) -> Option<WriteAck> {
        (!self.is_over()).then(|| self.ack(self.acked))
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The pending chunk is there.
    pub fn handle_prepared(&mut self) {
        self.is_prepared = true;
        self.advance();
    }

    /// The next hop and all behind it are ready.
    pub fn handle_next_opened(&mut self) {
        match self.next_is_open {
            false => self.next_is_open = true,
            true => self.blame_next("the next hop opened twice"),
        }
        self.advance();
    }

    /// A data frame came, of `payload_len` bytes.
    pub fn handle_data(&mut self, data: &WriteData, payload_len: u32) {
        if self.is_over() {
            return;
        }
        if self.seal.is_some() {
            return self.fail_own(Status::OutOfOrder, "data behind the seal");
        }
        if (data.handle, data.version) != (self.open.handle, self.open.version)
            || data.level > self.open.level
        {
            return self.fail_own(
                Status::InvalidArgument,
                "data that the stream is not open for",
            );
        }
        if data.serial.0 != self.received.0.saturating_add(1) || data.offset != self.length {
            let text = format!(
                "mutation {} at {} does not follow {} which ends at {}",
                data.serial, data.offset, self.received, self.length
            );
            return self.fail_own(Status::OutOfOrder, text);
        }
        self.received = data.serial;
        self.length = self.length.saturating_add(payload_len);
        self.commit_mark = self.commit_mark.max(data.commit_mark);
        if self.next_hop().is_some() {
            self.actions.push_back(Action::Forward(data.serial));
        }
        self.actions.push_back(Action::Store {
            serial: data.serial,
            offset: data.offset,
            len: payload_len,
            crcs: data.crcs,
        });
    }

    /// The write of `serial`, and of all before it, is done.
    pub fn handle_stored(&mut self, serial: Serial) {
        self.stored = self.stored.max(serial.min(self.received));
        match self.damage_behind.take() {
            Some((until, error)) if self.stored >= until => {
                self.fail(Status::DamagedInTransit, error);
            }
            waiting => {
                self.damage_behind = waiting;
                self.advance();
            }
        }
    }

    /// The next hop acknowledged, or repeated what it acknowledged last to show that it works.
    pub fn handle_next_ack(&mut self, ack: &WriteAck) {
        let could_be = ack.serial >= self.next_acked && ack.serial <= self.received;
        let is_early = !self.next_is_open && ack.serial > self.next_acked;
        if !could_be || is_early || usize::from(ack.copies) != self.members_behind() {
            return self.blame_next("the next hop acknowledged what it could not have");
        }
        self.next_acked = ack.serial;
        self.advance();
    }

    /// The seal came.
    pub fn handle_seal(&mut self, seal: &WriteSeal) {
        if self.is_over() {
            return;
        }
        if self.seal.is_some() {
            return self.fail_own(Status::OutOfOrder, "a second seal");
        }
        if (seal.handle, seal.version) != (self.open.handle, self.open.version)
            || seal.level > self.open.level
        {
            return self.fail_own(
                Status::InvalidArgument,
                "a seal that the stream is not open for",
            );
        }
        if seal.length != self.length {
            let text = format!(
                "{} bytes came, and the seal says {}",
                self.length, seal.length
            );
            return self.fail_own(Status::SealMismatch, text);
        }
        if self.next_hop().is_some() {
            self.actions.push_back(Action::ForwardSeal(*seal));
        }
        // Behind the stores, which it is carried out after: nobody else is waited for.
        self.actions.push_back(Action::Seal(*seal));
        self.seal = Some(*seal);
        self.advance();
    }

    /// The chunk is sealed here, at this level.
    pub fn handle_sealed(&mut self, level: Level) {
        self.own_level = Some(level);
        self.advance();
    }

    /// The next hop and all behind it have sealed.
    pub fn handle_next_sealed(&mut self, sealed: &WriteSealed) {
        let Some(seal) = self.seal else {
            return self.blame_next("the next hop sealed what nobody asked it to");
        };
        let behind = self
            .open
            .chain
            .iter()
            .skip(usize::from(self.open.position) + 1);
        let agrees = (sealed.length, sealed.crc32) == (seal.length, seal.crc32)
            && sealed
                .members
                .iter()
                .map(|member| member.server)
                .eq(behind.map(|hop| hop.server))
            && sealed
                .members
                .iter()
                .all(|member| member.level >= seal.level);
        if !agrees || self.next_members.is_some() {
            return self.blame_next("the next hop answered the seal with something else");
        }
        // Whoever sealed has everything: its seal acknowledges all data too.
        self.next_acked = self.received;
        self.next_members = Some(sealed.members.clone());
        self.advance();
    }

    /// Something failed here: the medium, or what came does not match.
    pub fn handle_own_failure(&mut self, status: Status, text: &str) {
        self.fail_own(status, text);
    }

    /// The next hop told of a failure, its own or from further down.
    ///
    /// Damage is believed only when this member has checked as much itself: a frame is forwarded
    /// before it is checked, and what came here damaged must not be blamed on those behind.
    pub fn handle_next_failure(&mut self, status: Status, error: ErrorBody) {
        if status == Status::DamagedInTransit && self.stored < self.received {
            self.damage_behind.get_or_insert((self.received, error));
        } else {
            self.fail(status, error);
        }
    }

    /// The next hop can't be reached, is gone, fell silent, or broke the protocol.
    pub fn handle_next_gone(&mut self, text: &str) {
        self.blame_next(text);
    }

    /// Yields what has become due.
    fn advance(&mut self) {
        let is_last = self.next_hop().is_none();
        if self.phase == Phase::Opening && self.is_prepared && (is_last || self.next_is_open) {
            self.phase = Phase::Open;
            self.actions.push_back(Action::AnswerOpened);
        }
        // Before the opening was answered no other answer may go out.
        if !matches!(self.phase, Phase::Open | Phase::Sealing) {
            return;
        }
        self.advance_acks(is_last);
        self.advance_seal(is_last);
    }

    fn advance_acks(&mut self, is_last: bool) {
        let reached = match is_last {
            true => self.stored,
            false => self.stored.min(self.next_acked),
        };
        if reached <= self.acked {
            return;
        }
        self.acked = reached;
        if self.open.position == 0 {
            self.commit_mark = self.commit_mark.max(reached);
        }
        self.actions.push_back(Action::AnswerAck(self.ack(reached)));
    }

    fn ack(&self, serial: Serial) -> WriteAck {
        let copies = self.members_behind() + 1;
        WriteAck {
            serial,
            commit_mark: self.commit_mark,
            // A pending chunk is made stable by its seal, not before.
            level: Level::Memory,
            copies: u8::try_from(copies).unwrap_or(u8::MAX),
        }
    }

    fn advance_seal(&mut self, is_last: bool) {
        let Some(seal) = self.seal else { return };
        self.phase = Phase::Sealing;
        let Some(level) = self.own_level else { return };
        if !is_last && self.next_members.is_none() {
            return;
        }
        let mut members = vec![MemberLevel {
            server: self.me,
            level,
        }];
        members.extend(self.next_members.take().unwrap_or_default());
        self.phase = Phase::Done;
        let WriteSeal { length, crc32, .. } = seal;
        self.actions.push_back(Action::AnswerSealed(WriteSealed {
            length,
            crc32,
            members,
        }));
    }

    fn blame_next(&mut self, text: &str) {
        let server = self.next_hop().map(|hop| hop.server).unwrap_or_default();
        let error = ErrorBody {
            server,
            ..ErrorBody::new(text)
        };
        self.fail(Status::ChainBroken, error);
    }

    fn fail_own(&mut self, status: Status, text: impl Into<String>) {
        self.fail(
            status,
            ErrorBody {
                server: self.me,
                ..ErrorBody::new(text)
            },
        );
    }

    fn fail(&mut self, status: Status, error: ErrorBody) {
        if self.is_over() {
            return;
        }
        let kind = match self.phase {
            Phase::Opening => Kind::WriteOpened,
            _ if self.acked == self.received && self.seal.is_some() => Kind::WriteSealed,
            _ => Kind::WriteAck,
        };
        self.phase = Phase::Failed;
        // What was still to be done is of no use to anybody.
        self.actions.clear();
        self.actions.push_back(Action::Fail(Failure {
            kind,
            status,
            error,
        }));
    }
}

#[cfg(test)]
mod tests;
