//! Mutations of one file, until each has an answer (`spec/replication.md` sections 7, 9, 10 and 11.3).
//!
//! [`Mutations`] decides which chunk each mutation goes to, when the master is asked for its
//! primary, what is sent over which stream, and what becomes of that to which no answer came. Each
//! chunk that is written to is a [`way`], with at most one stream ([`flow`]). For one mutation:
//!
//! ```text
//!              ┌────────── never seen, chunk_full, ... ◄────────────┐
//!              ▼                                                    │
//!   add ──► waiting ── Write, Append ──► sent ── stream lost ──► in doubt ── Locate
//!                                          │  ▲                     │ the chunk is open, or its
//!                                          │  └─ sent there again ──┤ seal is older: OpenChunk
//!                                          ▼                        │ sealed since: Find ─► found
//!                                      End: done                    └ another chunk: End: chunk_gone
//! ```
//!
//! What always holds:
//!
//! - A mutation keeps its number over all tries, and is *in doubt* from when it was sent until its
//!   answer came, or a holder of a chunk that was sealed later said that it never saw it. While it
//!   is in doubt it goes nowhere but to the chunk that it was first sent to.
//! - It is found out about only in a version above the highest that it was sent in.
//! - An answer that says that a mutation was surely not done, and why, ends it; one that may pass
//!   does not, until nothing came further for as long as the patience of the plan, counted from a
//!   failure.
//!
//! What is added is sent in the order of the numbers as long as nothing fails. With
//! [`Plan::ordered`] no record is sent to a next chunk before all of the one that is being closed
//! are answered.
//!
//! Left out on purpose: numbers and the lowest outstanding one, which belong to the whole session
//! (`super::session`), and bytes, which the edge has by number and sends behind the heads that
//! [`frames`] makes. A session that is over ends all
//! that was added; what was not sent may be added again under the next session's numbers.
//!
//! Order of calls: [`Mutations::add`] and the `handle_*` as things happen, then
//! [`Mutations::poll`] until that is `None`; [`Mutations::wake_at`] says when to poll again.

pub mod flow;
pub mod frames;
mod way;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Serial};
use sarsen_protocol::message::{
    Appended, ChunkOpened, Level, LocatedChunk, Replica, RequestsFound, Slot, WriteAck,
};
use sarsen_protocol::status::{Retry, Status};
use sarsen_protocol::ticket::Ticket;

use super::retry::Backoff;
use flow::FlowFault;
use way::{Noted, Way};

/// Streams that are kept though nothing waits for them.
const IDLE_STREAMS_MAX: usize = 2;

/// What is known when the first mutation is added.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How safe a mutation is to be before it counts as done.
    pub level: Level,
    /// Records stay in the order of their numbers, over chunks too.
    pub ordered: bool,
    /// How long nothing may come further after a failure.
    pub patience: Duration,
    /// Silence after which a primary hangs.
    pub suspect_after: Duration,
    /// For the jitter of waits.
    pub seed: u64,
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Bytes to the end of the last chunk.
    Append {
        /// How many, at least one.
        len: u32,
    },
    /// Bytes at an offset, at most a payload of them.
    Write {
        /// The chunk.
        index: u32,
        /// Where in it.
        offset: u32,
        /// How many, at least one.
        len: u32,
    },
}

impl What {
    const fn len(self) -> u32 {
        match self {
            Self::Append { len } | Self::Write { len, .. } => len,
        }
    }
}

/// A stream, counted from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// A question to a holder, counted from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FindId(pub u64);

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the master for a chunk to mutate.
    Open {
        /// Which.
        slot: Slot,
        /// The version that failed us, or none.
        failed: ChunkVersion,
    },
    /// Ask the master what the chunk at this index is by now.
    Locate {
        /// Which.
        index: u32,
    },
    /// Ask a holder of a sealed chunk which of these mutations it has.
    Find(Box<Find>),
    /// Dial the primary and send `WriteOpen`.
    Connect {
        /// The stream that it is from now on.
        stream: StreamId,
        /// The chunk and its chain.
        opened: Box<ChunkOpened>,
    },
    /// Send a `WriteData`.
    Write {
        /// Over which stream.
        stream: StreamId,
        /// Which mutation.
        number: u64,
        /// Its place among the `WriteData` of this stream.
        serial: Serial,
    },
    /// Send records with one `Append`; a record of more than a payload alone, in parts.
    Append {
        /// Over which stream.
        stream: StreamId,
        /// Which, ascending.
        numbers: Vec<u64>,
    },
    /// End a stream.
    Close {
        /// Which.
        stream: StreamId,
    },
    /// A mutation is over.
    End {
        /// Which.
        number: u64,
        /// What became of it.
        outcome: Outcome,
    },
}

/// A question to a holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Find {
    /// Which: its answer is of no use to another one.
    pub id: FindId,
    /// The chunk's name.
    pub handle: ChunkHandle,
    /// The version that it is sealed in.
    pub version: ChunkVersion,
    /// The right to ask.
    pub ticket: Ticket,
    /// Whom.
    pub replica: Replica,
    /// The mutations, ascending.
    pub numbers: Vec<u64>,
}

/// What became of a mutation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done, once.
    Done(Done),
    /// It was not done, for this reason.
    Refused(Status),
    /// It was not done, and nothing came further for too long.
    NotNow,
    /// It was sent, no answer came for too long, and nobody could be asked.
    InDoubt,
    /// It was sent to a chunk that is not in the file any more.
    ChunkGone,
    /// The session is over. If it was sent it may have been done.
    SessionOver {
        /// Whether it was.
        sent: bool,
    },
}

/// Where a mutation's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// The chunk's place in the file.
    pub index: u32,
    /// Its name.
    pub handle: ChunkHandle,
    /// In which version it was acknowledged, or sealed.
    pub version: ChunkVersion,
    /// A serial of that version which covers it; none if it was found in a sealed chunk.
    pub serial: Serial,
    /// Where in it they begin.
    pub offset: u32,
    /// How safe they are.
    pub level: Level,
    /// On how many members.
    pub copies: u8,
}

/// The mutations of one file.
#[derive(Clone, Debug)]
pub struct Mutations {
    ways: BTreeMap<u32, Way>,
    last: Last,
    all: All,
}

/// What every way uses.
#[derive(Clone, Debug)]
struct All {
    plan: Plan,
    mutations: BTreeMap<u64, Mutation>,
    /// Records that surely were not appended.
    appends: BTreeSet<u64>,
    actions: VecDeque<Action>,
    streams: u64,
    finds: u64,
}

#[derive(Clone, Copy, Debug)]
struct Mutation {
    what: What,
    /// Where it was sent to, unless it surely was not done there.
    sent: Option<Sent>,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    handle: ChunkHandle,
    /// The highest version that it was sent in.
    version_max: ChunkVersion,
    /// It was sent before, and that was not answered.
    is_again: bool,
}

impl All {
    fn end(&mut self, number: u64, outcome: Outcome) {
        self.mutations.remove(&number);
        self.actions.push_back(Action::End { number, outcome });
    }

    fn end_all(&mut self, numbers: BTreeSet<u64>, outcome: Outcome) {
        for number in numbers {
            self.end(number, outcome);
        }
    }

    fn is_append(&self, number: u64) -> bool {
        let mutation = self.mutations.get(&number);
        mutation.is_some_and(|it| matches!(it.what, What::Append { .. }))
    }

    /// Whether a record waits, for whatever.
    fn has_appends(&self) -> bool {
        let mut all = self.mutations.values();
        all.any(|it| matches!(it.what, What::Append { .. }))
    }

    fn len(&self, number: u64) -> u32 {
        self.mutations.get(&number).map_or(0, |it| it.what.len())
    }
}

/// How often something failed since it last came further. What nobody waited for any more has not failed
/// whoever comes next.
#[derive(Clone, Debug)]
struct Failing {
    since: Option<Duration>,
    not_before: Duration,
    backoff: Backoff,
}

impl Failing {
    const fn new(seed: u64) -> Self {
        Self {
            since: None,
            not_before: Duration::ZERO,
            backoff: Backoff::new(seed),
        }
    }

    /// It failed: the first failure is tried again at once, unless a time was asked for.
    fn fail(&mut self, now: Duration, retry_after: Duration) {
        self.fail_since(now, now, retry_after);
    }

    /// What was begun at `since` failed.
    fn fail_since(&mut self, since: Duration, now: Duration, retry_after: Duration) {
        let delay = match self.since {
            Some(_) => self.backoff.delay().max(retry_after),
            None => retry_after,
        };
        self.not_before = now.saturating_add(delay);
        self.since.get_or_insert(since);
    }

    fn succeed(&mut self) {
        self.since = None;
        self.backoff.reset();
    }

    const fn has_failed(&self) -> bool {
        self.since.is_some()
    }

    fn is_hopeless(&self, now: Duration, patience: Duration) -> bool {
        self.since
            .is_some_and(|since| now >= since.saturating_add(patience))
    }
}

/// What is known of the last chunk.
#[derive(Clone, Debug)]
struct Last {
    state: LastState,
    /// The chunk that was too full.
    after: ChunkHandle,
    /// The version that failed us.
    failed: ChunkVersion,
    failing: Failing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastState {
    Unknown,
    /// The master was asked, at this time.
    Asked(Duration),
    Known(u32),
}

impl Mutations {
    /// No mutations yet.
    #[must_use]
    pub const fn new(plan: Plan) -> Self {
        Self {
            ways: BTreeMap::new(),
            last: Last {
                state: LastState::Unknown,
                after: ChunkHandle::NONE,
                failed: ChunkVersion::NONE,
                failing: Failing::new(plan.seed),
            },
            all: All {
                plan,
                mutations: BTreeMap::new(),
                appends: BTreeSet::new(),
                actions: VecDeque::new(),
                streams: 0,
                finds: 0,
            },
        }
    }

    /// Whether every mutation has ended.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.all.mutations.is_empty()
    }

    /// A mutation is to be done under this number, which was never used.
    pub fn add(&mut self, number: u64, what: What) {
        match what {
            What::Append { .. } => {
                if self.last.failing.has_failed() && !self.all.has_appends() {
                    self.last.failing.succeed();
                }
                self.all.appends.insert(number);
            }
            What::Write { index, .. } => {
                self.way(index).wait(number);
            }
        }
        let mutation = Mutation { what, sent: None };
        self.all.mutations.insert(number, mutation);
    }

    /// The master's answer to [`Action::Open`].
    pub fn handle_opened(&mut self, now: Duration, slot: Slot, opened: ChunkOpened) {
        let index = opened.index;
        let (asked, is_hasty) = match slot {
            Slot::At(wanted) if wanted != index => {
                return self.handle_open_failed(now, slot, None, Duration::ZERO);
            }
            Slot::At(_) => (self.way(index).opening_since(), false),
            Slot::Last { .. } => {
                let LastState::Asked(asked) = self.last.state else {
                    return;
                };
                self.last.state = LastState::Known(index);
                // Nobody has told the master yet that it is full.
                let is_hasty = opened.handle == self.last.after;
                match is_hasty {
                    true => self.last.failing.fail(now, Duration::ZERO),
                    false => {
                        self.last.after = ChunkHandle::NONE;
                        self.last.failing.succeed();
                    }
                }
                self.last.failed = ChunkVersion::NONE;
                (Some(asked), is_hasty)
            }
        };
        let Some(asked) = asked else {
            return;
        };
        let hold = is_hasty.then(|| self.last.failing.backoff.delay());
        self.way(index);
        if let Some(way) = self.ways.get_mut(&index) {
            way.learn(now, asked, opened, hold, &mut self.all);
        }
        self.close_idle_streams(index);
        self.check_last();
    }

    /// The master refused [`Action::Open`] with `status`, or did not answer.
    pub fn handle_open_failed(
        &mut self,
        now: Duration,
        slot: Slot,
        status: Option<Status>,
        retry_after: Duration,
    ) {
        if status == Some(Status::SessionUnknown) {
            return self.end_session();
        }
        match slot {
            Slot::At(index) => {
                if let Some(way) = self.ways.get_mut(&index) {
                    way.handle_open_failed(now, status, retry_after, &mut self.all);
                }
            }
            Slot::Last { .. } => {
                let LastState::Asked(since) = self.last.state else {
                    return;
                };
                self.last.state = LastState::Unknown;
                match status.filter(|&it| is_final(it)) {
                    Some(status) => {
                        let appends = std::mem::take(&mut self.all.appends);
                        self.all.end_all(appends, Outcome::Refused(status));
                        self.last.failing.succeed();
                    }
                    None => self.last.failing.fail_since(since, now, retry_after),
                }
            }
        }
    }

    /// The master's answer to [`Action::Locate`]: `None` if the file has no chunk there, or is gone.
    pub fn handle_located(&mut self, now: Duration, index: u32, chunk: Option<LocatedChunk>) {
        if let Some(way) = self.ways.get_mut(&index) {
            way.handle_located(now, chunk, &mut self.all);
        }
    }

    /// The master could not say.
    pub fn handle_locate_failed(&mut self, now: Duration, index: u32, retry_after: Duration) {
        if let Some(way) = self.ways.get_mut(&index) {
            way.handle_settling_failed(now, retry_after);
        }
    }

    /// A holder's answer to [`Action::Find`]. One that is not waited for any more is nobody's: what it never
    /// saw may have been sent again since.
    pub fn handle_found(&mut self, now: Duration, id: FindId, found: &RequestsFound) {
        if let Some(way) = self.ways.values_mut().find(|it| it.has_asked(id)) {
            way.handle_found(now, found, &mut self.all);
        }
    }

    /// The holder could not say, for this reason if it gave any.
    pub fn handle_find_failed(&mut self, now: Duration, id: FindId, status: Option<Status>) {
        if status == Some(Status::SessionUnknown) {
            return self.end_session();
        }
        if let Some(way) = self.ways.values_mut().find(|it| it.has_asked(id)) {
            way.handle_find_failed(now, &mut self.all);
        }
    }

    /// `WriteOpened` came.
    ///
    /// # Errors
    /// What the primary could not have said; the stream is over.
    pub fn handle_stream_opened(
        &mut self,
        now: Duration,
        stream: StreamId,
    ) -> Result<(), FlowFault> {
        self.handle_answer(now, stream, |way, _| {
            way.flow_mut()
                .map_or(Ok(()), |flow| flow.handle_opened(now))
        })
    }

    /// `WriteAck` came.
    ///
    /// # Errors
    /// As [`Self::handle_stream_opened`].
    pub fn handle_ack(
        &mut self,
        now: Duration,
        stream: StreamId,
        ack: &WriteAck,
    ) -> Result<(), FlowFault> {
        self.handle_answer(now, stream, |way, all| way.handle_ack(now, ack, all))
    }

    /// `Appended` came.
    ///
    /// # Errors
    /// As [`Self::handle_stream_opened`].
    pub fn handle_appended(
        &mut self,
        now: Duration,
        stream: StreamId,
        appended: &Appended,
    ) -> Result<(), FlowFault> {
        let mut noted = Noted::default();
        let handled = self.handle_answer(now, stream, |way, all| {
            noted = way.handle_appended(now, appended, all)?;
            Ok(())
        });
        if noted
            .grown
            .is_some_and(|index| self.last.state == LastState::Known(index))
        {
            self.last.failing.succeed();
        }
        if let Some((index, handle)) = noted.full {
            // Only what was the last chunk when it became full is not it any more.
            if self.last.state == LastState::Known(index) {
                self.last.state = LastState::Unknown;
            }
            self.last.after = handle;
        }
        if noted.is_session_over {
            self.end_session();
        }
        handled
    }

    /// A stream ended: it could not be opened, its connection broke, or its primary refused
    /// something with `status`.
    pub fn handle_stream_ended(
        &mut self,
        now: Duration,
        stream: StreamId,
        status: Option<Status>,
        retry_after: Duration,
    ) {
        // One of a session before may end behind the beginning of the next.
        let way = self.ways.values_mut().find(|it| it.has_stream(stream));
        if let Some(way) = way {
            if status == Some(Status::SessionUnknown) {
                return self.end_session();
            }
            way.handle_ended(now, status, retry_after, &mut self.all);
        }
        self.check_last();
    }

    /// When to poll again though nothing happened.
    #[must_use]
    pub fn wake_at(&self, now: Duration) -> Option<Duration> {
        let last = &self.last;
        let waits = last.state == LastState::Unknown && !self.all.appends.is_empty();
        let last = waits.then_some(last.failing.not_before);
        let ways = self.ways.values().filter_map(|way| way.wake_at(now));
        ways.chain(last.filter(|&at| at > now)).min()
    }

    /// The next thing to do, until there is none for now.
    pub fn poll(&mut self, now: Duration) -> Option<Action> {
        loop {
            if let Some(action) = self.all.actions.pop_front() {
                return Some(action);
            }
            if !self.step(now) {
                return None;
            }
        }
    }

    /// Makes something out to be done, if there is anything.
    fn step(&mut self, now: Duration) -> bool {
        let may_append = !self.all.appends.is_empty();
        let is_last = |index| self.last.state == LastState::Known(index);
        let mut stepped = false;
        let indexes: Vec<u32> = self.ways.keys().copied().collect();
        for index in indexes {
            let takes_appends = may_append && is_last(index) && !self.must_wait(index);
            if let Some(way) = self.ways.get_mut(&index)
                && way.step(now, takes_appends, &mut self.all)
            {
                stepped = true;
                break;
            }
        }
        self.check_last();
        stepped || self.step_last(now)
    }

    /// Whether records for `index` wait for the answers of those that went to other chunks.
    fn must_wait(&self, index: u32) -> bool {
        let others = self.ways.iter().filter(|&(&other, _)| other != index);
        let mut sent = others.map(|(_, way)| way.appends_sent(&self.all));
        self.all.plan.ordered && sent.any(|count| count > 0)
    }

    /// Asks for the last chunk, if records wait for it.
    fn step_last(&mut self, now: Duration) -> bool {
        let last = &mut self.last;
        let is_due = last.state == LastState::Unknown && !self.all.appends.is_empty();
        if !is_due || now < last.failing.not_before {
            return false;
        }
        // Records in doubt are older than those that wait, and may still be found where they went.
        let all = &self.all;
        if self.ways.values().any(|way| way.has_append_in_doubt(all)) {
            return false;
        }
        if last.failing.is_hopeless(now, all.plan.patience) {
            let appends = std::mem::take(&mut self.all.appends);
            self.all.end_all(appends, Outcome::NotNow);
            last.failing.succeed();
            return true;
        }
        last.state = LastState::Asked(now);
        let slot = Slot::Last { after: last.after };
        let failed = last.failed;
        self.all.actions.push_back(Action::Open { slot, failed });
        true
    }

    /// The last chunk is only known while its primary is.
    fn check_last(&mut self) {
        if let LastState::Known(index) = self.last.state
            && let Some(way) = self.ways.get(&index)
            && !way.is_known()
        {
            self.last.state = LastState::Unknown;
            self.last.failed = way.failed();
        }
    }

    fn handle_answer(
        &mut self,
        now: Duration,
        stream: StreamId,
        handle: impl FnOnce(&mut Way, &mut All) -> Result<(), FlowFault>,
    ) -> Result<(), FlowFault> {
        let way = self.ways.values_mut().find(|it| it.has_stream(stream));
        // What comes behind the end of a stream is nobody's.
        let Some(way) = way else {
            return Ok(());
        };
        let handled = handle(way, &mut self.all);
        if handled.is_err() {
            way.handle_ended(now, None, Duration::ZERO, &mut self.all);
        }
        self.check_last();
        handled
    }

    /// Nothing can be sent under the session's numbers any more.
    fn end_session(&mut self) {
        for way in self.ways.values() {
            if let Some(stream) = way.stream() {
                self.all.actions.push_back(Action::Close { stream });
            }
        }
        self.ways.clear();
        self.all.appends.clear();
        self.last.state = LastState::Unknown;
        self.last.failing.succeed();
        for (number, mutation) in std::mem::take(&mut self.all.mutations) {
            let sent = mutation.sent.is_some();
            let outcome = Outcome::SessionOver { sent };
            self.all.actions.push_back(Action::End { number, outcome });
        }
    }

    fn way(&mut self, index: u32) -> &mut Way {
        let seed = self.all.plan.seed.wrapping_add(u64::from(index));
        let make = || Way::new(index, seed);
        self.ways.entry(index).or_insert_with(make)
    }

    /// A stream is about to be made for `index`: of those that nothing waits for, few are kept.
    fn close_idle_streams(&mut self, index: u32) {
        let is_last = |it: u32| self.last.state == LastState::Known(it);
        let idle = self
            .ways
            .iter()
            .filter(|&(&it, way)| it != index && !is_last(it) && way.is_idle());
        let idle: Vec<u32> = idle.map(|(&it, _)| it).collect();
        let surplus = idle.len().saturating_sub(IDLE_STREAMS_MAX);
        for index in idle.into_iter().take(surplus) {
            if let Some(stream) = self.ways.remove(&index).and_then(|way| way.stream()) {
                self.all.actions.push_back(Action::Close { stream });
            }
        }
    }
}

/// Whether a refusal stays one, whoever is asked and whenever.
const fn is_final(status: Status) -> bool {
    matches!(status.retry(), Retry::Never) || matches!(status, Status::NoSpace)
}

/// Whether a status speaks of the mutation that it answers, and not of the stream or the server.
const fn is_of_the_mutation(status: Status) -> bool {
    matches!(
        status,
        Status::InvalidArgument
            | Status::TooLarge
            | Status::RequestForgotten
            | Status::LockTokenStale
            | Status::RecordTooLarge
            | Status::Unsupported
    )
}

#[cfg(test)]
mod tests;
