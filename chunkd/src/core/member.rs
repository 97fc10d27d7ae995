//! One chunk on one member: what it promised, which version it takes part in, and how far it is
//! (`spec/replication.md` sections 2 and 3.2 to 3.6).
//!
//! ```text
//!                 Begin v                     WriteOpen of v
//!      sealed ─────────────► begun ─────────────────────────► active
//!        ▲                   ▲  ▲                               │ the stream ends, or a promise
//!        │ Settle v          │  └─────── Begin v' ────────┐     ▼
//!        └──────── prepared ─┘                            └── idle
//!                     ▲ PrepareSeal v, from any of them        │
//!                     └────────────────────────────────────────┘     a failure ──► poisoned
//! ```
//!
//! Who drives it: orders, frames and what became of actions go in through `handle_*`, and after each
//! call [`Member::poll_action`] is emptied. What must be durable is one step at a time: orders that
//! come meanwhile wait, and everything that they name is compared when they are **acted on**. An
//! answer is yielded only when the step that it speaks of is said to be done.
//!
//! Invariants: once a promise is acted on no frame of an older version is applied, in this start or
//! another; a promise is kept only when no write is under way; a version is begun once, however often
//! it is ordered, and opened once.
//!
//! Left out on purpose: the epoch and the connection of an order, which are compared before it comes
//! here; bytes, ids and lengths, which are the store's; acknowledgements and the lease; how long a
//! member that hears nothing may serve reads.
//!
//! A crash leaves what the store made durable: [`Member::recovered`] begins from that. A version that
//! was begun in another start can't be opened in this one.

mod action;

use std::collections::VecDeque;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Epoch, Serial, StartNumber};
use sarsen_protocol::message::{
    Begin, Begun, ChunkState, ErrorBody, HeldFlags, MemberState, PrepareSeal, PreparedSeal,
    Promise, Promised, SealPrepared, Settle,
};
use sarsen_protocol::sabotage::{Check, is_in_force};
use sarsen_protocol::status::Status;

pub use action::{Action, Answer, Done, Order, Refusal, RequestId};

/// A sealed state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sealed {
    /// The version that it was sealed in.
    pub version: ChunkVersion,
    /// Its bytes.
    pub length: u32,
    /// Their CRC.
    pub crc32: u32,
}

/// What a start found of a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The highest version promised.
    pub promised: ChunkVersion,
    /// The last version begun, or sealed.
    pub version: ChunkVersion,
    /// Where it began.
    pub begin_serial: Serial,
    /// The last mutation.
    pub serial: Serial,
    /// As far as it is known that mutations are committed.
    pub commit_mark: Serial,
    /// The sealed state that it is, or was opened from.
    pub base: Sealed,
    /// Whether a version was opened since, so that mutations may lie behind that state.
    pub is_open: bool,
    /// A seal that is prepared, or [`PreparedSeal::NONE`].
    pub prepared: PreparedSeal,
}

/// Where a member stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// There is no such chunk here.
    Absent,
    /// It is sealed.
    Sealed,
    /// In a version of which it does not know that it is active.
    Begun,
    /// Takes mutations.
    Active,
    /// Takes none any more in this version.
    Idle,
    /// Has a sealed form beside it.
    Prepared,
    /// Nothing of it is believed but what it was sealed as, if it was never changed since.
    Poisoned,
}

/// What is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Waits until no write is under way.
    DrainFor(RequestId, Promise),
    Promise(RequestId, Promise),
    Begin(RequestId, Begin),
    BeginForSeal(RequestId, PrepareSeal),
    Prepare(RequestId, PrepareSeal),
    Settle(RequestId, Settle),
}

impl Step {
    const fn request(&self) -> RequestId {
        match self {
            Self::DrainFor(to, _)
            | Self::Promise(to, _)
            | Self::Begin(to, _)
            | Self::BeginForSeal(to, _)
            | Self::Prepare(to, _)
            | Self::Settle(to, _) => *to,
        }
    }
}

/// One chunk on one member.
#[derive(Debug)]
pub struct Member {
    handle: ChunkHandle,
    me: MemberState,
    state: State,
    /// As they are on disk, but for a promise that is acted on: it counts from then.
    promised: ChunkVersion,
    version: ChunkVersion,
    begin_serial: Serial,
    begin_length: u32,
    commit_mark: Serial,
    /// The last version that it knows to have been active here, or that it was sealed in.
    opened: ChunkVersion,
    base: Sealed,
    /// The chunk is `base`, or was begun from it, and no version was opened since.
    is_still_base: bool,
    prepared: PreparedSeal,
    /// The last mutation that came, and the last that is applied.
    received: Serial,
    applied: Serial,
    /// The promise that was answered, which asked again is answered as before.
    kept: Option<(Epoch, Promised)>,
    /// The promise that could not be kept, and left nothing: asked again it is made again.
    unkept: Option<(Epoch, ChunkVersion)>,
    step: Option<Step>,
    orders: VecDeque<(RequestId, Order)>,
    actions: VecDeque<Action>,
}

impl Member {
    /// A chunk that is not here.
    #[must_use]
    pub fn absent(handle: ChunkHandle, me: MemberState) -> Self {
        Self::recovered(handle, me, &Found::default())
    }

    /// A chunk as a start of its directory found it.
    #[must_use]
    pub fn recovered(handle: ChunkHandle, me: MemberState, found: &Found) -> Self {
        let state = match found {
            found if !found.version.is_some() => State::Absent,
            found if found.prepared.is_some() => State::Prepared,
            found if found.is_open => State::Idle,
            _ => State::Sealed,
        };
        Self {
            handle,
            me,
            state,
            promised: found.promised.max(found.version),
            version: found.version,
            begin_serial: found.begin_serial,
            begin_length: found.base.length,
            commit_mark: found.commit_mark,
            // Which were active behind that is not kept.
            opened: found.base.version,
            base: found.base,
            is_still_base: state != State::Absent && !found.is_open,
            prepared: found.prepared,
            received: found.serial,
            applied: found.serial,
            kept: None,
            unkept: None,
            step: None,
            orders: VecDeque::new(),
            actions: VecDeque::new(),
        }
    }

    /// Where it stands.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// The last version that it began, and the last mutation that it has.
    #[must_use]
    pub const fn has(&self) -> (ChunkVersion, Serial) {
        (self.version, self.applied)
    }

    /// Which chunk it is.
    #[must_use]
    pub const fn handle(&self) -> ChunkHandle {
        self.handle
    }

    /// Where it is, and in which start.
    #[must_use]
    pub const fn me(&self) -> MemberState {
        self.me
    }

    /// The highest version that it promised, or began.
    #[must_use]
    pub const fn promised(&self) -> ChunkVersion {
        self.promised
    }

    /// Where the last version began: its serial, and the bytes that the chunk had there.
    #[must_use]
    pub const fn began_at(&self) -> (Serial, u32) {
        (self.begin_serial, self.begin_length)
    }

    /// Whether a step of a version change is under way, or waits until no write is.
    #[must_use]
    pub const fn has_step(&self) -> bool {
        self.step.is_some()
    }

    /// The last mutation that came; it may not be applied yet.
    #[must_use]
    pub const fn received(&self) -> Serial {
        self.received
    }

    /// Up to here it knows that mutations are committed.
    #[must_use]
    pub const fn commit_mark(&self) -> Serial {
        self.commit_mark
    }

    /// The last version that it knows to have been active here, or that it was sealed in: its commit
    /// mark is of that one's history, and not below where that one began.
    #[must_use]
    pub const fn opened(&self) -> ChunkVersion {
        self.opened
    }

    /// The sealed state that it is reported as, if it is one: also that which a version was begun
    /// from, until that is known to be active; be it that a promise or a beginning has failed, which
    /// change none of its bytes: whether these are good the store says.
    #[must_use]
    pub fn sealed(&self) -> Option<Sealed> {
        let is_told = self.state != State::Prepared;
        (is_told && self.is_still_base).then_some(self.base)
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// An order of the master, whose epoch and connection are right.
    pub fn handle_order(&mut self, to: RequestId, order: Order) {
        self.orders.push_back((to, order));
        self.act();
    }

    /// A version is active: the hop before opens its stream, or this member got the lease.
    ///
    /// # Errors
    /// `promise_refused`, `moved`, `behind`: it isn't begun at exactly that in this start, or was
    /// opened before.
    pub fn handle_open(&mut self, version: ChunkVersion, begin: Serial) -> Result<(), Refusal> {
        self.check_unpoisoned()?;
        if self.promised != version {
            return Err(self.refusal(Status::PromiseRefused, "another version was promised"));
        }
        if self.version != version {
            return Err(self.refusal(Status::Moved, "the version was not begun"));
        }
        if self.begin_serial != begin {
            return Err(self.refusal(Status::Behind, "the version was begun at another serial"));
        }
        if self.state != State::Begun || self.step.is_some() {
            let text = "a version is opened once, in the start in which it was begun";
            return Err(self.refusal(Status::PromiseRefused, text));
        }
        self.state = State::Active;
        self.is_still_base = false;
        self.opened = version;
        self.commit_mark = self.commit_mark.max(begin);
        Ok(())
    }

    /// Mutations came over the stream of a version: at least one, of the serials from `first` to
    /// `last`.
    ///
    /// # Errors
    /// `promise_refused` if the version is over here, `out_of_order` over a gap. The stream ends.
    pub fn handle_mutations(
        &mut self,
        version: ChunkVersion,
        first: Serial,
        last: Serial,
    ) -> Result<(), Refusal> {
        self.check_active(version)?;
        if self.received.0.checked_add(1) != Some(first.0) || last < first {
            self.handle_stream_ended(version);
            return Err(self.refusal(Status::OutOfOrder, "a serial that doesn't follow"));
        }
        self.received = last;
        self.actions.push_back(Action::Apply { first, last });
        Ok(())
    }

    /// A mutation is applied, in memory.
    pub fn handle_applied(&mut self, serial: Serial) {
        self.applied = self.applied.max(serial);
        self.drained();
    }

    /// A mutation could not be applied, and left nothing: no room, or damaged on its way. A serial is
    /// never skipped, so those behind it are not applied either, and the stream ends. Those before it may
    /// be under way still.
    pub fn handle_not_applied(&mut self, serial: Serial) {
        self.handle_stream_ended(self.version);
        let before = Serial(serial.0.saturating_sub(1));
        self.received = self.received.min(before);
        self.actions.retain_mut(|action| match action {
            Action::Apply { first, last } => {
                *last = before.min(*last);
                *first <= before
            }
            _ => true,
        });
        self.drained();
    }

    /// A commit mark came. What this member doesn't have can't be committed.
    pub fn handle_commit_mark(&mut self, version: ChunkVersion, mark: Serial) {
        if self.check_active(version).is_ok() {
            self.commit_mark = self.commit_mark.max(mark.min(self.applied));
        }
    }

    /// Whether a numbered mark may be answered: it takes part, and promised nothing newer by now.
    ///
    /// # Errors
    /// `promise_refused`.
    pub fn handle_mark(&mut self, version: ChunkVersion) -> Result<(), Refusal> {
        self.check_active(version)
    }

    /// The stream of a version is over.
    pub fn handle_stream_ended(&mut self, version: ChunkVersion) {
        if self.state == State::Active && self.version == version {
            self.state = State::Idle;
            self.actions.push_back(Action::EndStream);
        }
    }

    /// The step that was under way is done.
    ///
    /// # Panics
    /// If another was.
    pub fn handle_done(&mut self, done: Done) {
        let step = self.step.take().expect("a step is under way");
        match (step, done) {
            (Step::Promise(to, promise), Done::PromiseKept { length, ids }) => {
                let promised = self.promised_answer(length, ids);
                self.kept = Some((promise.epoch, promised));
                self.answer(to, Ok(Answer::Promised(promised)));
            }
            (Step::Begin(to, begin), Done::Begun { length }) => {
                self.begin(begin.version, begin.serial, length);
                self.answer(to, Ok(Answer::Begun(self.begun_answer())));
            }
            (Step::BeginForSeal(to, order), Done::Begun { length }) => {
                self.begin(order.version, order.serial, length);
                self.prepare(to, order);
            }
            (Step::Prepare(to, _), Done::Prepared(prepared)) => {
                self.prepared = prepared;
                self.state = State::Prepared;
                self.answer(to, Ok(Answer::Prepared(self.prepared_answer())));
            }
            (Step::Settle(to, settle), Done::Settled) => {
                self.seal(&settle);
                self.answer(to, Ok(Answer::Settled));
            }
            (step, done) => panic!("{done:?} of {step:?}"),
        }
        self.act();
    }

    /// The step that was under way, or a write, failed. Where it leaves the chunk in doubt nothing of
    /// it is believed from here on.
    pub fn handle_failed(&mut self, status: Status, text: &str, is_in_doubt: bool) {
        if is_in_doubt {
            self.handle_stream_ended(self.version);
            self.state = State::Poisoned;
        }
        if let Some(step) = self.step.take() {
            if let Step::DrainFor(_, promise) | Step::Promise(_, promise) = step {
                self.unkept = Some((promise.epoch, promise.version));
            }
            let refusal = self.refusal(status, text);
            self.answer(step.request(), Err(refusal));
        }
        self.act();
    }

    /// Acts on the orders that wait, as far as nothing is under way.
    fn act(&mut self) {
        while self.step.is_none()
            && let Some((to, order)) = self.orders.pop_front()
        {
            let outcome = match order {
                Order::Promise(promise) => self.act_on_promise(to, promise),
                Order::Begin(begin) => self.act_on_begin(to, begin),
                Order::PrepareSeal(prepare) => self.act_on_prepare(to, prepare),
                Order::Settle(settle) => self.act_on_settle(to, settle),
            };
            if let Err(refusal) = outcome {
                self.answer(to, Err(refusal));
            }
        }
    }

    fn act_on_promise(&mut self, to: RequestId, promise: Promise) -> Result<(), Refusal> {
        self.check_unpoisoned()?;
        if self.state == State::Absent {
            return Err(self.refusal(Status::ChunkUnknown, "there is no such chunk here"));
        }
        if let Some((epoch, kept)) = self.kept
            && (epoch, self.promised) == (promise.epoch, promise.version)
            && self.version < promise.version
        {
            self.answer(to, Ok(Answer::Promised(kept)));
            return Ok(());
        }
        let is_made_again = self.unkept == Some((promise.epoch, promise.version));
        if promise.version <= self.promised && !is_made_again {
            return Err(self.refusal(Status::PromiseRefused, "as new a version was promised"));
        }
        self.promised = promise.version;
        self.kept = None;
        self.unkept = None;
        if is_in_force(Check::PromiseRefuses) {
            self.handle_stream_ended(self.version);
        }
        self.step = Some(Step::DrainFor(to, promise));
        self.drained();
        Ok(())
    }

    /// Goes on with a promise that waits for the last write.
    fn drained(&mut self) {
        if let Some(Step::DrainFor(to, promise)) = self.step
            && self.applied == self.received
        {
            self.step = Some(Step::Promise(to, promise));
            let Promise { version, epoch, .. } = promise;
            self.actions
                .push_back(Action::KeepPromise { version, epoch });
        }
    }

    fn act_on_begin(&mut self, to: RequestId, begin: Begin) -> Result<(), Refusal> {
        self.check_unpoisoned()?;
        if self.has_begun(begin.version, begin.start_number) {
            // Asked again, perhaps after mutations of the version: cutting would take them back.
            self.answer(to, Ok(Answer::Begun(self.begun_answer())));
            return Ok(());
        }
        let Begin {
            version,
            serial,
            memory,
            ..
        } = begin;
        let action = match begin.create {
            Some(_) if self.state != State::Absent => {
                return Err(self.refusal(Status::ChunkExists, "the chunk is here already"));
            }
            Some(_) if self.me.start_number != begin.start_number => {
                return Err(self.refusal(Status::StaleStart, "the directory has started since"));
            }
            Some(chunk) => {
                self.promised = version;
                Action::Make {
                    version,
                    serial,
                    memory,
                    chunk,
                }
            }
            None => {
                self.check_begin(version, serial, begin.start_number)?;
                self.end_what_was_promised_away();
                Action::Begin {
                    version,
                    serial,
                    memory,
                }
            }
        };
        self.step = Some(Step::Begin(to, begin));
        self.actions.push_back(action);
        Ok(())
    }

    fn act_on_prepare(&mut self, to: RequestId, order: PrepareSeal) -> Result<(), Refusal> {
        self.check_unpoisoned()?;
        if self.has_begun(order.version, order.start_number) {
            match self.state {
                State::Prepared => {
                    self.answer(to, Ok(Answer::Prepared(self.prepared_answer())));
                    return Ok(());
                }
                // An earlier one began and could not prepare.
                State::Begun => {
                    self.prepare(to, order);
                    return Ok(());
                }
                _ => {}
            }
        }
        self.check_begin(order.version, order.serial, order.start_number)?;
        self.end_what_was_promised_away();
        self.step = Some(Step::BeginForSeal(to, order));
        self.actions.push_back(Action::Begin {
            version: order.version,
            serial: order.serial,
            memory: false,
        });
        Ok(())
    }

    fn act_on_settle(&mut self, to: RequestId, settle: Settle) -> Result<(), Refusal> {
        self.check_unpoisoned()?;
        let wanted = (settle.length, settle.crc32);
        let (has, is_done) = if self.is_still_base && self.base.version == settle.version {
            ((self.base.length, self.base.crc32), true)
        } else if self.state == State::Prepared && self.prepared.version == settle.version {
            ((self.prepared.length, self.prepared.crc32), false)
        } else {
            return Err(self.refusal(Status::Moved, "no seal of that version is prepared"));
        };
        if has != wanted {
            return Err(self.refusal(Status::SealMismatch, "another length or CRC is prepared"));
        }
        match is_done {
            true => self.answer(to, Ok(Answer::Settled)),
            false => {
                self.step = Some(Step::Settle(to, settle));
                self.actions.push_back(Action::Settle(settle.version));
            }
        }
        Ok(())
    }

    fn prepare(&mut self, to: RequestId, order: PrepareSeal) {
        self.step = Some(Step::Prepare(to, order));
        self.actions.push_back(Action::Prepare {
            version: order.version,
            length: order.length,
            sessions_end: order.sessions_end,
        });
    }

    /// A promise ended the stream, unless it was made to refuse nothing.
    fn end_what_was_promised_away(&mut self) {
        if !is_in_force(Check::PromiseRefuses) {
            self.handle_stream_ended(self.version);
        }
    }

    /// Whether a version was begun already, in this start, and nothing took its place.
    fn has_begun(&self, version: ChunkVersion, start: StartNumber) -> bool {
        let is_it = self.version == version && self.me.start_number == start;
        is_it && !matches!(self.state, State::Absent | State::Sealed)
    }

    /// Whether a version can be begun (`spec/replication.md` section 3.4).
    fn check_begin(
        &self,
        version: ChunkVersion,
        serial: Serial,
        start: StartNumber,
    ) -> Result<(), Refusal> {
        if self.state == State::Absent {
            return Err(self.refusal(Status::ChunkUnknown, "there is no such chunk here"));
        }
        if self.promised != version || self.version >= version {
            return Err(self.refusal(Status::PromiseRefused, "another version was promised"));
        }
        if self.me.start_number != start {
            return Err(self.refusal(Status::StaleStart, "the directory has started since"));
        }
        // What a promise made stable is what the version begins on.
        if self.kept.is_none() {
            return Err(self.refusal(Status::PromiseRefused, "the promise is not kept yet"));
        }
        // Holders of a sealed chunk hold the same bytes, whatever their serials: they take it.
        let is_there = self.applied >= serial || !is_in_force(Check::LowestSerial);
        if !is_there && !self.is_still_base {
            return Err(self.refusal(Status::Behind, "mutations up to that serial are missing"));
        }
        Ok(())
    }

    fn check_active(&self, version: ChunkVersion) -> Result<(), Refusal> {
        self.check_unpoisoned()?;
        let is_newest = self.promised == version || !is_in_force(Check::PromiseRefuses);
        let takes_part = self.version == version && is_newest;
        match takes_part && self.state == State::Active {
            true => Ok(()),
            false => Err(self.refusal(Status::PromiseRefused, "the version is over here")),
        }
    }

    fn check_unpoisoned(&self) -> Result<(), Refusal> {
        match self.state {
            State::Poisoned => Err(self.refusal(Status::Poisoned, "an earlier write failed")),
            _ => Ok(()),
        }
    }

    fn begin(&mut self, version: ChunkVersion, serial: Serial, length: u32) {
        self.state = State::Begun;
        self.version = version;
        self.begin_serial = serial;
        self.begin_length = length;
        self.received = serial;
        self.applied = serial;
        // A mark above what is left was no commit: the rest was on no member that counted.
        self.commit_mark = self.commit_mark.min(serial);
        self.prepared = PreparedSeal::NONE;
    }

    fn seal(&mut self, settle: &Settle) {
        self.state = State::Sealed;
        self.base = Sealed {
            version: settle.version,
            length: settle.length,
            crc32: settle.crc32,
        };
        self.is_still_base = true;
        self.opened = settle.version;
        self.commit_mark = self.applied;
        self.prepared = PreparedSeal::NONE;
    }

    fn promised_answer(&self, length: u32, ids: u32) -> Promised {
        let state = match self.sealed() {
            Some(_) => ChunkState::Sealed,
            None => ChunkState::Open,
        };
        let flags = match self.prepared.is_some() {
            true => HeldFlags::PREPARED,
            false => HeldFlags::NONE,
        };
        Promised {
            version: self.version,
            begin_serial: self.begin_serial,
            serial: self.applied,
            commit_mark: self.commit_mark,
            length,
            ids,
            state,
            flags,
            member: self.me,
            base_version: self.base.version,
            base_length: self.base.length,
            base_crc32: self.base.crc32,
            prepared: self.prepared,
        }
    }

    const fn begun_answer(&self) -> Begun {
        Begun {
            serial: self.begin_serial,
            length: self.begin_length,
            member: self.me,
        }
    }

    const fn prepared_answer(&self) -> SealPrepared {
        SealPrepared {
            prepared: self.prepared,
            member: self.me,
        }
    }

    fn answer(&mut self, to: RequestId, answer: Result<Answer, Refusal>) {
        let answer = Box::new(answer);
        self.actions.push_back(Action::Answer { to, answer });
    }

    /// A refusal that tells what the replica has.
    fn refusal(&self, status: Status, text: &str) -> Refusal {
        let mut error = ErrorBody::new(format!("chunk {}: {text}", self.handle));
        error.server = self.me.server;
        error.version = self.version;
        error.serial = self.applied;
        (status, error)
    }
}

#[cfg(test)]
mod tests;
