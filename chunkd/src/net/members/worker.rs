//! An open chunk's machine and its way to the store, without a runtime: what is done with what the
//! machine wants of the disk, and what it is told of that (`spec/replication.md` sections 3 and 6).
//!
//! ```text
//!   what came ──► machine ──► actions for peers and the master ──► whoever drives it
//!                    ▲  └───► the lane: one action after the other ──┐
//!                    │        the flush: at most one at a time ──────┤ blocking, on threads that
//!                    └──── outcomes, how far the journal is stable ◄─┘ whoever drives it has
//! ```
//!
//! Two drive it: the actor of the program ([`super::actor`]) on its threads, and the simulator on its
//! virtual clock. In this order: any number of `handle_*` and of the machine's own, through
//! [`Worker::machine`]; [`Worker::take_turn`]; [`Worker::poll_action`] until it has nothing;
//! [`Worker::start_lane`] and [`Worker::start_flush`]. Once more while [`Worker::is_stirred`]; else
//! when something comes, when the journal has come further and [`Worker::waits_for_journal`], or at
//! [`Worker::deadline`].
//!
//! Invariants: the lane's actions are done in the order in which the machine wants them, each once or
//! told to have failed; one that found no place is tried again before those behind it; behind one
//! that was not applied nothing of its version is applied. Commit marks are told to the store at once:
//! that takes a lock which is never held over I/O, and a read that was let in finds at least what the
//! machine knows to be committed, be it since the last turn.
//!
//! Left out on purpose: connections, queues, threads; who waits for an answer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Serial};
use sarsen_protocol::message::{BatchRow, ErrorBody, MemberState, MutationKind};
use sarsen_protocol::status::Status;

use super::super::chunkserver::Chunkserver;
use super::lane::{self, Failure, Lane, Outcome, Wants};
use crate::core::member::{Done, Member, Refusal, State};
use crate::core::mutation::{Action, Config, Replica};
use crate::store::open_chunk::{OpenChunk, Snapshot};
use crate::store::{Directory, StoreError};

/// How long what is not in the journal may wait for its sync when nobody asks for it.
const FLUSH_DELAY: Duration = Duration::from_millis(500);

/// Bytes that may wait for a sync which nobody has asked for.
const UNSYNCED_BYTES_MAX: u64 = 8 << 20;

/// When a flush is tried again that the journal had no room for, and an action that found no place.
const RETRY_DELAY: Duration = Duration::from_millis(5);

/// One open chunk at work.
#[derive(Debug)]
pub struct Worker {
    handle: ChunkHandle,
    directory: Arc<Directory>,
    replica: Replica,
    chunk: Option<Arc<OpenChunk>>,
    /// What is to be done by whoever drives it.
    actions: VecDeque<Action>,
    work: Work,
    flush: Flush,
    /// What inventories were told last.
    told: (State, ChunkVersion, bool),
    /// The machine was told something since its last turn.
    is_stirred: bool,
    /// Something of the chunk has changed in its directory, perhaps by another hand.
    looks_again: bool,
    is_overtaken: bool,
}

/// The lane, and what waits for it.
#[derive(Debug)]
struct Work {
    /// None while somebody carries out what waited.
    lane: Option<Lane>,
    queue: VecDeque<Action>,
    /// A step that is done when the journal has come so far.
    awaiting: Option<(u64, Done)>,
    /// The first action of the queue found no place: when it is tried again.
    again: Option<Again>,
    /// Since when none was applied for want of a place.
    stuck_since: Option<Duration>,
    /// How long that may last before only a seal helps.
    suspect_after: Duration,
    /// How far the journal was when it was looked at last.
    seen: u64,
}

/// An action that found no place is tried again, when the journal has come so far, if that is still to
/// come; at the latest, and else, when it is due.
#[derive(Debug)]
struct Again {
    sequence: Option<u64>,
    due: Duration,
}

/// What has to be synced before the journal may have it.
#[derive(Debug, Default)]
struct Flush {
    is_running: bool,
    is_wanted: bool,
    /// Something is applied that waits for a flush, and so many bytes of mutations since then.
    is_needed: bool,
    bytes: u64,
    due: Option<Duration>,
    /// The journal had no room: it is not asked again before.
    not_before: Duration,
    /// The last mutation that went to the lane.
    ordered: Serial,
    /// The machine wants to hear when this is stable. It may be ahead of what is applied.
    goal: Option<Serial>,
}

/// What a read is served from.
#[derive(Debug)]
pub enum Readable {
    /// The sealed chunk that the file still is.
    Sealed,
    /// The committed state of an open chunk.
    Open(Snapshot),
}

impl Worker {
    /// What drives a chunk that is in this directory, or is to be made there, from what the store has
    /// of it.
    #[must_use]
    pub fn new(
        chunkserver: &Chunkserver,
        directory: Arc<Directory>,
        handle: ChunkHandle,
        dead_after: Duration,
    ) -> Self {
        let identity = directory.identity();
        let me = MemberState {
            server: chunkserver.me(),
            directory_id: identity.directory_id,
            start_number: identity.start_number,
        };
        let chunk_size = identity.adoption.map_or(0, |adoption| adoption.chunk_size);
        let config = Config::new(chunkserver.suspect_after(), dead_after, chunk_size);
        let found = lane::found(&directory, handle);
        let replica = Replica::new(Member::recovered(handle, me, &found), config);
        let chunk = directory.open_chunk(handle);
        let told = told_of(&replica, chunk.as_deref());
        Self {
            handle,
            replica,
            chunk,
            actions: VecDeque::new(),
            work: Work {
                lane: Some(Lane::new(Arc::clone(&directory), handle)),
                queue: VecDeque::new(),
                awaiting: None,
                again: None,
                stuck_since: None,
                suspect_after: chunkserver.suspect_after(),
                seen: 0,
            },
            directory,
            flush: Flush::default(),
            told,
            is_stirred: true,
            looks_again: false,
            is_overtaken: false,
        }
    }

    /// Where the chunk is.
    #[must_use]
    pub const fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// The machine, for whoever wants to know something.
    #[must_use]
    pub const fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The machine, to be told something; a turn is due then.
    pub const fn machine(&mut self) -> &mut Replica {
        self.is_stirred = true;
        &mut self.replica
    }

    /// Whether the machine was told something since its last turn.
    #[must_use]
    pub const fn is_stirred(&self) -> bool {
        self.is_stirred
    }

    /// The chunk is not read as a sealed one.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let member = self.replica.member();
        member.state() != State::Absent && member.sealed().is_none()
    }

    /// Lets a plain read of at least this state in. The machine may know of more that is committed than the
    /// store was told: of what came since the last turn.
    ///
    /// # Errors
    /// Those of [`Replica::check_read`]; `behind` if the store does not have what it is let in for.
    pub fn read(
        &self,
        now: Duration,
        version: ChunkVersion,
        serial: Serial,
    ) -> Result<Readable, Refusal> {
        if self.replica.member().sealed().is_some() {
            return Ok(Readable::Sealed);
        }
        let (_, mark) = self.replica.check_read(now, version, serial)?;
        let Some(chunk) = &self.chunk else {
            return Ok(Readable::Sealed);
        };
        chunk.commit_to(mark).map_err(|error| {
            let failure = Failure::from(&error);
            (failure.status, ErrorBody::new(failure.text))
        })?;
        Ok(Readable::Open(chunk.snapshot()))
    }

    // Turns.

    /// Has the machine take its turn. What it wants of the store is begun by [`Self::start_lane`] and
    /// [`Self::start_flush`], all else is told by [`Self::poll_action`].
    pub fn take_turn(&mut self, now: Duration) {
        if self.replica.poll_timeout().is_some_and(|due| due <= now) {
            self.replica.handle_timeout(now);
        }
        self.is_stirred = false;
        match &self.chunk {
            Some(chunk) => self.replica.take_turn(now, &**chunk),
            None => self.replica.take_turn(now, &()),
        }
        while let Some(action) = self.replica.poll_action() {
            match action {
                Action::Commit(mark) => self.commit(now, mark),
                Action::Flush => self.want_flush(now),
                Action::Apply(mutations) => {
                    let len: usize = mutations.payload.iter().map(Bytes::len).sum();
                    self.flush.bytes += len as u64;
                    self.flush.ordered = mutations.last();
                    self.work.queue.push_back(Action::Apply(mutations));
                }
                store if store.is_for_store() => self.work.queue.push_back(store),
                other => self.actions.push_back(other),
            }
        }
    }

    /// The next thing to do that is not the store's.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Readers see it from now on.
    fn commit(&mut self, now: Duration, mark: Serial) {
        if let Some(again) = &mut self.work.again {
            // A checkpoint of more sets more places free.
            again.due = now;
        }
        let committed = self.chunk.as_ref().map(|chunk| chunk.commit_to(mark));
        if let Some(Err(error)) = committed {
            self.handle_failed(now, &Failure::from(&error));
        }
    }

    /// What waits for the lane, if nobody is at it: to be carried out by a thread that may wait for
    /// the disk, and told by [`Self::handle_lane_done`].
    pub fn start_lane(&mut self, now: Duration) -> Option<LaneWork> {
        let again = self.work.again.as_ref();
        let is_held = again.is_some_and(|again| again.is_held(now, self.work.seen));
        if is_held || self.work.queue.is_empty() {
            return None;
        }
        let lane = self.work.lane.take()?;
        self.work.again = None;
        Some(LaneWork {
            lane,
            queue: std::mem::take(&mut self.work.queue),
            outcomes: Vec::new(),
        })
    }

    /// Whether [`lane::flush`] is to be called now, by a thread that may wait for the disk, and told by
    /// [`Self::handle_flushed`]; then one is taken to be under way.
    pub fn start_flush(&mut self, now: Duration) -> bool {
        self.flush.start(now)
    }

    /// When it is to be driven again at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let again = self.work.again.as_ref().map(|again| again.due);
        let again = again.filter(|_| self.work.lane.is_some());
        [self.replica.poll_timeout(), self.flush.deadline(), again]
            .into_iter()
            .flatten()
            .min()
    }

    // What the store did.

    /// What waited for the lane is done, or was tried.
    pub fn handle_lane_done(&mut self, now: Duration, done: LaneDone) {
        self.is_stirred = true;
        // What a chunk is may be another thing now: it was made, begun or settled.
        self.chunk = self.directory.open_chunk(self.handle);
        for action in done.rest.into_iter().rev() {
            self.work.queue.push_front(action);
        }
        for outcome in done.outcomes {
            self.heard(now, outcome);
        }
        self.work.lane = done.lane;
        if self.work.lane.is_none() {
            let lane = Lane::new(Arc::clone(&self.directory), self.handle);
            self.work.lane = Some(lane);
            self.handle_failed(now, &Failure::internal("the store has panicked"));
        }
        self.hurry();
    }

    /// Has the journal write at once what it may keep for a while, if somebody waits for that.
    fn hurry(&self) {
        if let Some(chunk) = &self.chunk
            && (self.flush.goal.is_some() || self.replica.awaits_disk())
        {
            chunk.hurry();
        }
    }

    /// A flush is over.
    pub fn handle_flushed(&mut self, now: Duration, outcome: Outcome) {
        self.is_stirred = true;
        self.flush.is_running = false;
        match outcome {
            Outcome::Flushed { needs_flush: true } => {
                self.flush.handle_no_room(now);
            }
            Outcome::Failed(failure) => self.handle_failed(now, &failure),
            _ => {}
        }
    }

    /// The directory's journal is stable up to this sequence.
    pub fn handle_journal(&mut self, now: Duration, stable: u64) {
        if stable == self.work.seen {
            return;
        }
        self.work.seen = stable;
        if let Some(chunk) = &self.chunk {
            chunk.stable_to(stable);
        }
        self.end_step(now);
        self.tell_stable(now);
    }

    /// The directory's journal has failed.
    pub fn handle_journal_failed(&mut self, now: Duration) {
        let failure = Failure {
            status: Status::Poisoned,
            ..Failure::internal("the journal of the directory has failed")
        };
        self.handle_failed(now, &failure);
    }

    fn handle_failed(&mut self, now: Duration, failure: &Failure) {
        tracing::warn!(handle = %self.handle, status = %failure.status, text = failure.text,
            "an open chunk's work has failed");
        let Failure {
            status,
            text,
            is_in_doubt,
        } = failure;
        self.machine()
            .handle_failed(now, *status, text, *is_in_doubt);
        self.tell_doubt();
    }

    /// Of what the machine does not believe any more the store tells the same, and so the inventory.
    fn tell_doubt(&self) {
        if let (State::Poisoned, Some(chunk)) = (self.replica.member().state(), &self.chunk) {
            chunk.doubt();
        }
    }

    fn heard(&mut self, now: Duration, outcome: Outcome) {
        match outcome {
            Outcome::Nothing | Outcome::Flushed { .. } => {}
            Outcome::Reserved(end) => self.replica.handle_reserved(now, end),
            Outcome::NotReserved(failure) => {
                self.replica
                    .handle_not_reserved(failure.status, &failure.text);
            }
            Outcome::Applied {
                version,
                serial,
                needs_flush,
            } => {
                self.work.stuck_since = None;
                self.replica.handle_applied(now, version, serial);
                if needs_flush {
                    self.flush.need(now);
                }
            }
            Outcome::NotApplied {
                version,
                serial,
                failure,
            } => {
                let Failure {
                    status,
                    text,
                    is_in_doubt,
                } = &failure;
                tracing::warn!(handle = %self.handle, %status, text, "a mutation is not applied");
                self.work
                    .queue
                    .retain(|action| !is_apply_of(action, version));
                let before = Serial(serial.0.saturating_sub(1));
                self.heard_applied_up_to(now, version, before);
                self.replica
                    .handle_not_applied(now, version, serial, *status, text, *is_in_doubt);
                self.tell_doubt();
            }
            Outcome::WhenStable { sequence, done } => {
                self.work.awaiting = Some((sequence, done));
                self.end_step(now);
            }
            Outcome::Again {
                action,
                wants,
                applied: (version, serial),
            } => {
                self.heard_applied_up_to(now, version, serial);
                if self.replica.member().state() != State::Active {
                    return self.give_up_places(now, version, serial);
                }
                self.work.queue.push_front(action);
                let sequence = match wants {
                    Wants::Place { sequence } => Some(sequence).filter(|it| *it > self.work.seen),
                    Wants::Journal => None,
                };
                self.work.again = Some(Again {
                    sequence,
                    due: now + RETRY_DELAY,
                });
                if wants == Wants::Journal {
                    // A seal would only give it more to write.
                    return self.flush.need_now(now);
                }
                let since = *self.work.stuck_since.get_or_insert(now);
                if now.saturating_sub(since) >= self.work.suspect_after {
                    self.work.stuck_since = Some(now);
                    self.replica.handle_no_place();
                }
            }
            Outcome::Failed(failure) => self.handle_failed(now, &failure),
        }
    }

    /// A batch stopped behind this mutation. What of it is applied is said here alone, and a promise waits
    /// for it.
    fn heard_applied_up_to(&mut self, now: Duration, version: ChunkVersion, applied: Serial) {
        // Only what comes further shows that the disk works.
        if applied > self.replica.member().has().1 {
            self.replica.handle_applied(now, version, applied);
            self.work.stuck_since = None;
            // Of what stands before the one that was not applied some may wait for a sync.
            self.flush.need(now);
        }
    }

    /// Mutations that found no place are over with their version: none becomes free any more, and a
    /// promise would wait for them for ever.
    fn give_up_places(&mut self, now: Duration, version: ChunkVersion, applied: Serial) {
        self.work
            .queue
            .retain(|action| !is_apply_of(action, version));
        let first = Serial(applied.0.saturating_add(1));
        let text = "a mutation found no free place, or the journal behind, until its version ended";
        self.replica
            .handle_not_applied(now, version, first, Status::Overloaded, text, false);
    }

    fn want_flush(&mut self, now: Duration) {
        self.flush.is_wanted = true;
        if let Some(chunk) = &self.chunk {
            // In the order of the lane: what is to be applied before counts.
            self.flush.goal = Some(chunk.told().serial.max(self.flush.ordered));
            if self.work.lane.is_some() && self.work.queue.is_empty() {
                // Else what is being applied, or waits to be, goes along.
                chunk.hurry();
            }
        }
        self.tell_stable(now);
    }

    /// Tells the machine how far all is stable, if it wants to know.
    fn tell_stable(&mut self, now: Duration) {
        let (Some(goal), Some(chunk)) = (self.flush.goal, &self.chunk) else {
            return;
        };
        let (version, serial) = chunk.stable();
        if serial >= goal {
            self.flush.goal = None;
            self.flush.is_wanted = false;
        }
        self.machine().handle_stable(now, version, serial);
    }

    /// Tells the machine of a step that is stable.
    fn end_step(&mut self, now: Duration) {
        if let Some((_, done)) = self.work.awaiting.take_if(|(at, _)| *at <= self.work.seen) {
            if self.looks_again && self.work.lane.is_some() && self.differs() {
                // It was done to a chunk that is no more.
                self.is_overtaken = true;
                return;
            }
            // What was waited for in the version before is in the step, or forgotten.
            self.flush.goal = None;
            self.flush.is_wanted = false;
            self.flush.ordered = Serial::NONE;
            self.machine().handle_done(now, done);
        }
    }

    // How it stands.

    /// Whether what inventories tell of the chunk is another thing than at the last call.
    pub fn has_changed(&mut self) -> bool {
        let told = told_of(&self.replica, self.chunk.as_deref());
        std::mem::replace(&mut self.told, told) != told
    }

    /// Whether it is to be driven when the journal has come further.
    #[must_use]
    pub const fn waits_for_journal(&self) -> bool {
        self.work.awaiting.is_some() || self.work.again.is_some() || self.flush.goal.is_some()
    }

    /// Whether the journal, stable up to here, has something for it by now.
    #[must_use]
    pub const fn has_more_to_see(&self, stable: u64) -> bool {
        let waits = self.work.awaiting.is_some() || self.flush.goal.is_some();
        waits && stable != self.work.seen
    }

    /// Something of the chunk has changed in its directory, perhaps by another hand.
    pub const fn handle_changed(&mut self) {
        self.is_stirred = true;
        self.looks_again = true;
    }

    /// Whether the directory has something else under the handle than the machine speaks of: another
    /// hand deleted or replaced it, and this has come to its end. While a step of the machine's own is
    /// under way that may be so for a moment; it is looked at when that is over.
    pub fn is_overtaken(&mut self) -> bool {
        let work = &self.work;
        let is_busy = work.lane.is_none() || work.awaiting.is_some() || !work.queue.is_empty();
        if self.looks_again && !is_busy {
            self.looks_again = false;
            self.is_overtaken |= self.differs();
        }
        self.is_overtaken
    }

    /// Whether the directory has something else than the machine speaks of. To be asked while nothing is
    /// being carried out.
    fn differs(&self) -> bool {
        let member = self.replica.member();
        match (self.directory.open_chunk(self.handle), &self.chunk) {
            (Some(now), Some(held)) => !Arc::ptr_eq(&now, held),
            (None, None) => {
                let entry = self.directory.entry(self.handle);
                let same = entry.filter(|entry| entry.version == member.has().0);
                match member.state() {
                    State::Sealed => same.is_none(),
                    // A good copy is one that has no mark.
                    State::Poisoned => same.is_none_or(|it| !it.is_marked()),
                    _ => false,
                }
            }
            // What the lane itself has begun or settled it has said.
            _ => true,
        }
    }

    /// The chunk is as if nobody had ever asked for it; whoever drives it may forget it if nobody waits
    /// for an answer or has a stream to it.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        let is_idle = self.replica.is_at_rest()
            && self.actions.is_empty()
            && self.work.queue.is_empty()
            && self.work.lane.is_some()
            && self.work.awaiting.is_none()
            && !self.flush.is_running;
        let is_plain = match self.replica.member().state() {
            State::Absent => true,
            State::Sealed => {
                self.directory.open_chunk(self.handle).is_none()
                    && self.directory.promised_version(self.handle).is_none()
            }
            _ => false,
        };
        is_idle && is_plain
    }
}

impl Again {
    fn is_held(&self, now: Duration, seen: u64) -> bool {
        now < self.due && self.sequence.is_none_or(|sequence| seen < sequence)
    }
}

impl Flush {
    /// Whether one is to begin now; then it is taken to be under way.
    fn start(&mut self, now: Duration) -> bool {
        let is_due = self.due.is_some_and(|due| due <= now) || self.bytes >= UNSYNCED_BYTES_MAX;
        let is_asked = self.is_needed && (self.is_wanted || is_due);
        let starts = is_asked && !self.is_running && now >= self.not_before;
        if starts {
            // Who waits for what is not applied yet waits for another one.
            self.is_running = true;
            self.is_needed = false;
            self.bytes = 0;
            self.due = None;
        }
        starts
    }

    /// Something was applied that may wait for one.
    fn need(&mut self, now: Duration) {
        self.is_needed = true;
        self.due.get_or_insert(now + FLUSH_DELAY);
    }

    /// Nothing goes on without one.
    fn need_now(&mut self, now: Duration) {
        self.is_needed = true;
        self.due = Some(now);
    }

    /// The one that is over left entries that the journal had no room for.
    fn handle_no_room(&mut self, now: Duration) {
        self.is_needed = true;
        self.not_before = now + RETRY_DELAY;
        self.due = Some(self.not_before);
    }

    /// When one is to begin at the latest, as far as that is known.
    fn deadline(&self) -> Option<Duration> {
        match self.is_needed && self.is_wanted {
            _ if self.is_running => None,
            true => Some(self.not_before),
            false => self.due.map(|due| due.max(self.not_before)),
        }
    }
}

/// What changes an inventory's entry.
fn told_of(replica: &Replica, chunk: Option<&OpenChunk>) -> (State, ChunkVersion, bool) {
    let (member, was_changed) = (replica.member(), chunk.is_some_and(OpenChunk::was_changed));
    (member.state(), member.has().0, was_changed)
}

/// Actions that waited for the lane, with it.
#[derive(Debug)]
pub struct LaneWork {
    lane: Lane,
    queue: VecDeque<Action>,
    outcomes: Vec<Outcome>,
}

/// What became of them.
#[derive(Debug)]
pub struct LaneDone {
    /// Given back; none if the work panicked.
    lane: Option<Lane>,
    outcomes: Vec<Outcome>,
    /// What was not begun.
    rest: VecDeque<Action>,
}

impl LaneWork {
    /// Bytes and records, if nothing else is to be done than to put appends behind what is there, for which
    /// there is room: that reads nothing, waits for no sync, and asks nothing of the disk but one write to
    /// the page cache.
    #[must_use]
    pub fn appended(&self) -> Option<(usize, usize)> {
        let (mut bytes, mut rows) = (0, 0);
        for action in &self.queue {
            let Action::Apply(mutations) = action else {
                return None;
            };
            let is_append = |row: &BatchRow| row.kind == MutationKind::Append;
            if !mutations.rows.iter().all(is_append) {
                return None;
            }
            bytes += mutations.payload.iter().map(Bytes::len).sum::<usize>();
            rows += mutations.rows.len();
        }
        self.lane.is_ready_for(bytes, rows).then_some((bytes, rows))
    }

    /// Carries out all, on a thread that must not wait for the disk; whether something failed, which
    /// [`lane::mark_failed`] is to be told then.
    pub fn append(&mut self) -> bool {
        self.lane.mark_later(true);
        // Appends begin no journal.
        while self.step(|| Ok(())) {}
        self.lane.mark_later(false);
        let is_failure =
            |it: &Outcome| matches!(it, Outcome::NotApplied { .. } | Outcome::Failed(_));
        self.outcomes.iter().any(is_failure)
    }

    /// Carries out the next action, for which `begin_journal` is called first if it needs the journal;
    /// false if it is the last one, be it that it has to be tried again. Blocks.
    pub fn step(&mut self, begin_journal: impl FnOnce() -> Result<(), StoreError>) -> bool {
        let Some(action) = self.queue.pop_front() else {
            return false;
        };
        let begun = match lane::needs_journal(&action) {
            true => begin_journal(),
            false => Ok(()),
        };
        let outcome = match begun {
            Ok(()) => self.lane.carry_out(action),
            Err(error) => Outcome::Failed(Failure::from(&error.into())),
        };
        let is_stuck = matches!(outcome, Outcome::Again { .. });
        if let Outcome::NotApplied { version, .. } = outcome {
            // A serial is never skipped.
            self.queue.retain(|action| !is_apply_of(action, version));
        }
        self.outcomes.push(outcome);
        !is_stuck && !self.queue.is_empty()
    }

    /// What is to be told, be it that something was not begun.
    #[must_use]
    pub fn done(self) -> LaneDone {
        LaneDone {
            lane: Some(self.lane),
            outcomes: self.outcomes,
            rest: self.queue,
        }
    }
}

impl LaneDone {
    /// What is to be told of work that has panicked.
    #[must_use]
    pub const fn panicked() -> Self {
        Self {
            lane: None,
            outcomes: Vec::new(),
            rest: VecDeque::new(),
        }
    }
}

fn is_apply_of(action: &Action, version: ChunkVersion) -> bool {
    matches!(action, Action::Apply(mutations) if mutations.version == version)
}

#[cfg(test)]
mod tests;
