//! A file's chunks on their way up (`spec/messages.md` section 6).
//!
//! [`Upload`] decides which chunks to ask the master for, which to send next and over how many
//! streams, and what to do when a stream fails: the chunk is dropped and sent again under a new
//! handle, without the server that was blamed. It is driven so:
//!
//! ```text
//!    ┌───────────────────────── handle_failed ◄─────────────────────┬────────────────────┐
//!    ▼                                                              │                    │
//! waiting ─ Allocate, handle_allocated ─► allocated ─ Begin ─► writing ─ handle_sent ─► sealing
//!                                                                   │                    │
//!                                                     handle_sealed └──────► sealed ◄────┘
//! ```
//!
//! A stream whose bytes are all sent waits for its seal, which takes a round trip and the slowest
//! disk's sync. Another is begun at that time, so that as many as may be are always sending; of those
//! that wait for their seals there are no more than of these.
//!
//! When all are sealed and the source has ended, [`Action::Publish`] names them; it is the last.
//!
//! When too few servers are left, it asks for less in steps: fewer copies (down to `fewest`),
//! then also of servers that were blamed, then it waits and begins anew. It gives up when
//! nothing came further than ever before for as long as its patience, counted from a failure, so
//! that a source that is slow is no failure. A server that was blamed is asked again after
//! [`BLAME_TIME`].

use std::collections::VecDeque;
use std::time::Duration;

use sarsen_protocol::id::{ChunkHandle, ServerId};
use sarsen_protocol::message::{Allocation, SealedChunk};
use sarsen_protocol::size::EXCLUDE_MAX;

use super::retry::Backoff;

/// How long a server that failed us is left out.
pub const BLAME_TIME: Duration = Duration::from_secs(30);

/// Chunks allocated before a stream is free for them.
const AHEAD: usize = 4;

/// What is known when an upload begins.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Streams that send at a time, at least one; as many more may wait for their seals.
    pub streams_max: usize,
    /// The fewest copies of a chunk that will do.
    pub fewest: u8,
    /// How long nothing may come further after a failure.
    pub patience: Duration,
    /// For the jitter of waits.
    pub seed: u64,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the master for `count` chunks from `first_index` on.
    Allocate {
        /// Index of the first.
        first_index: u32,
        /// How many.
        count: u16,
        /// The fewest copies that will do; 0 for as many as the file wants.
        fewest: u8,
        /// Servers that failed us.
        exclude: Vec<ServerId>,
    },
    /// Send a chunk over a stream of its own.
    Begin(Box<Allocation>),
    /// All is sealed: publish the file.
    Publish {
        /// Every chunk in order.
        chunks: Vec<SealedChunk>,
    },
    /// The last failure is not going to pass.
    GiveUp,
}

#[derive(Clone, Debug)]
enum State {
    /// Has no handle.
    Waiting,
    /// The master was asked for one, when so many blames had been laid.
    Asked(u64),
    /// Asked for when so many blames had been laid.
    Allocated(u64, Box<Allocation>),
    Writing(ChunkHandle),
    /// All was sent, and the seal is awaited.
    Sealing,
    Sealed(SealedChunk),
}

#[derive(Clone, Debug)]
struct Slot {
    state: State,
    /// The most bytes that any try brought.
    acked_max: u32,
}

/// How much less is asked for, after the master had too few servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Demand {
    AllCopies,
    FewestCopies,
    FewestCopiesOfAnyServer,
}

/// A server that failed us.
#[derive(Clone, Copy, Debug)]
struct Blame {
    server: ServerId,
    /// How many blames were laid before this one.
    number: u64,
    until: Duration,
}

/// The upload of one file.
#[derive(Clone, Debug)]
pub struct Upload {
    plan: Plan,
    slots: Vec<Slot>,
    /// All slots below are sealed.
    first_unsealed: usize,
    source_ended: bool,
    /// Chunks that came with the pending file, and were not needed yet.
    given: Vec<Allocation>,
    asking: bool,
    demand: Demand,
    blamed: VecDeque<Blame>,
    /// Blames laid so far.
    blames: u64,
    backoff: Backoff,
    /// Nothing new is begun before, after a failure.
    not_before: Duration,
    failing_since: Option<Duration>,
    ended: bool,
}

impl Upload {
    /// An upload of which no chunk is known yet.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        Self {
            backoff: Backoff::new(plan.seed),
            plan,
            slots: Vec::new(),
            first_unsealed: 0,
            source_ended: false,
            given: Vec::new(),
            asking: false,
            demand: Demand::AllCopies,
            blamed: VecDeque::new(),
            blames: 0,
            not_before: Duration::ZERO,
            failing_since: None,
            ended: false,
        }
    }

    /// The source has bytes for `chunks` chunks, or had, and has no more if it `ended`.
    pub fn handle_source(&mut self, chunks: u32, ended: bool) {
        let slot = Slot {
            state: State::Waiting,
            acked_max: 0,
        };
        let count = self.slots.len().max(chunks as usize);
        self.slots.resize(count, slot);
        self.source_ended = ended;
        self.take_given();
    }

    /// The master gave chunks before it was asked for any: with the pending file.
    pub fn handle_given(&mut self, allocations: Vec<Allocation>) {
        self.given = allocations;
        self.take_given();
    }

    /// Gives chunks to the slots that are there by now.
    fn take_given(&mut self) {
        let slots = &mut self.slots;
        self.given.retain(|allocation| {
            let Some(slot) = slots.get_mut(allocation.index as usize) else {
                return true;
            };
            if matches!(slot.state, State::Waiting) && !allocation.chain.is_empty() {
                slot.state = State::Allocated(0, Box::new(allocation.clone()));
            }
            false
        });
        self.drop_allocations_that_know_no_better();
    }

    /// The master gave chunks; those that it did not give are asked for again.
    pub fn handle_allocated(&mut self, allocations: Vec<Allocation>) {
        self.demand = Demand::AllCopies;
        for allocation in allocations {
            if let Some(slot) = self.slots.get_mut(allocation.index as usize)
                && let State::Asked(blames) = slot.state
                && !allocation.chain.is_empty()
            {
                slot.state = State::Allocated(blames, Box::new(allocation));
            }
        }
        self.end_asking();
        self.drop_allocations_that_know_no_better();
    }

    /// The master has too few servers for what was asked.
    pub fn handle_too_few_servers(&mut self, now: Duration, retry_after: Duration) {
        self.end_asking();
        self.demand = match self.demand {
            Demand::AllCopies => Demand::FewestCopies,
            Demand::FewestCopies if !self.blamed.is_empty() => Demand::FewestCopiesOfAnyServer,
            _ => {
                self.blamed.clear();
                self.not_before = now + retry_after.max(self.backoff.delay());
                Demand::AllCopies
            }
        };
        self.count_failure(now);
    }

    /// A chunk's stream has brought `acked` bytes to all members.
    pub fn handle_acked(&mut self, index: u32, acked: u32) {
        if let Some(slot) = self.slots.get_mut(index as usize)
            && acked > slot.acked_max
        {
            slot.acked_max = acked;
            self.failing_since = None;
            self.backoff.reset();
        }
    }

    /// All of a chunk was sent under this handle, and the seal is awaited.
    pub fn handle_sent(&mut self, index: u32, handle: ChunkHandle) {
        if let Some(slot) = self.slots.get_mut(index as usize)
            && matches!(slot.state, State::Writing(written) if written == handle)
        {
            slot.state = State::Sealing;
        }
    }

    /// A chunk is sealed.
    pub fn handle_sealed(&mut self, sealed: SealedChunk) {
        if let Some(slot) = self.slots.get_mut(sealed.index as usize) {
            slot.state = State::Sealed(sealed);
            self.failing_since = None;
            self.backoff.reset();
        }
        let is_sealed = |slot: &Slot| matches!(slot.state, State::Sealed(_));
        while self.slots.get(self.first_unsealed).is_some_and(is_sealed) {
            self.first_unsealed += 1;
        }
    }

    /// A chunk's stream failed, by the fault of `blame` if anybody's.
    pub fn handle_failed(&mut self, now: Duration, index: u32, blame: Option<ServerId>) {
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.state = State::Waiting;
        }
        if let Some(server) = blame.filter(|server| server.is_some()) {
            self.handle_suspect(server, now + BLAME_TIME);
        }
        // The first failure may be one server's, and another serves at once.
        if self.failing_since.is_some() {
            self.not_before = now + self.backoff.delay();
        }
        self.count_failure(now);
    }

    /// A server is to be left out until some time: it failed us, or another upload of this client.
    pub fn handle_suspect(&mut self, server: ServerId, until: Duration) {
        self.blamed.retain(|blame| blame.server != server);
        self.blamed.push_back(Blame {
            server,
            number: self.blames,
            until,
        });
        self.blames += 1;
        if self.blamed.len() > EXCLUDE_MAX {
            self.blamed.pop_front();
        }
        self.drop_allocations_that_know_no_better();
    }

    /// When to poll again though nothing happened.
    #[must_use]
    pub fn wake_at(&self, now: Duration) -> Option<Duration> {
        (now < self.not_before && !self.ended).then_some(self.not_before)
    }

    /// The next thing to do, until there is none for now.
    pub fn poll(&mut self, now: Duration) -> Option<Action> {
        if self.ended {
            return None;
        }
        if self.has_no_patience_left(now) {
            self.ended = true;
            return Some(Action::GiveUp);
        }
        if self.source_ended && self.first_unsealed == self.slots.len() {
            self.ended = true;
            return Some(Action::Publish {
                chunks: self.sealed_chunks(),
            });
        }
        if now < self.not_before {
            return None;
        }
        self.begin().or_else(|| self.allocate(now))
    }

    /// Gives up chunks that were asked for before a server of their chain was blamed: they would
    /// find out once more what is known.
    fn drop_allocations_that_know_no_better(&mut self) {
        let blamed = std::mem::take(&mut self.blamed);
        let is_outdated = |blames: u64, allocation: &Allocation| {
            let is_in = |server| allocation.chain.iter().any(|hop| hop.server == server);
            blamed
                .iter()
                .any(|blame| blame.number >= blames && is_in(blame.server))
        };
        for slot in self.window_mut() {
            if let State::Allocated(blames, allocation) = &slot.state
                && is_outdated(*blames, allocation)
            {
                slot.state = State::Waiting;
            }
        }
        self.blamed = blamed;
    }

    fn begin(&mut self) -> Option<Action> {
        let writing = self.count(|state| matches!(state, State::Writing(_)));
        let sealing = self.count(|state| matches!(state, State::Sealing));
        let streams_max = self.plan.streams_max;
        if writing >= streams_max || writing + sealing >= 2 * streams_max {
            return None;
        }
        let slot = self
            .window_mut()
            .iter_mut()
            .find(|slot| matches!(slot.state, State::Allocated(..)))?;
        match std::mem::replace(&mut slot.state, State::Waiting) {
            State::Allocated(_, allocation) => {
                slot.state = State::Writing(allocation.handle);
                Some(Action::Begin(allocation))
            }
            _ => None,
        }
    }

    /// Asks for the first run of chunks that have no handle yet.
    fn allocate(&mut self, now: Duration) -> Option<Action> {
        if self.asking {
            return None;
        }
        let is_waiting = |slot: &Slot| matches!(slot.state, State::Waiting);
        let start = self.window().iter().position(is_waiting)?;
        let first_index = u32::try_from(self.first_unsealed + start).ok()?;
        // What is being sent or is to be sent next; a chunk that is being sealed needs nothing more.
        let busy = self.count(|it| matches!(it, State::Writing(_) | State::Allocated(..)));
        let room = (self.plan.streams_max + AHEAD).saturating_sub(busy);
        let (mut count, blames) = (0, self.blames);
        for slot in self.window_mut().iter_mut().skip(start).take(room) {
            if !is_waiting(slot) {
                break;
            }
            slot.state = State::Asked(blames);
            count += 1;
        }
        if count == 0 {
            return None;
        }
        self.asking = true;
        self.blamed.retain(|blame| blame.until > now);
        let (fewest, exclude) = match self.demand {
            Demand::AllCopies => (0, self.blamed()),
            Demand::FewestCopies => (self.plan.fewest, self.blamed()),
            Demand::FewestCopiesOfAnyServer => (self.plan.fewest, Vec::new()),
        };
        Some(Action::Allocate {
            first_index,
            count,
            fewest,
            exclude,
        })
    }

    fn blamed(&self) -> Vec<ServerId> {
        self.blamed.iter().map(|blame| blame.server).collect()
    }

    /// Where the work is: the first chunk that is not sealed, and some behind it.
    fn window_range(&self) -> std::ops::Range<usize> {
        let len = 2 * self.plan.streams_max + AHEAD;
        self.first_unsealed..self.slots.len().min(self.first_unsealed + len)
    }

    /// Chunks of the window in such a state.
    fn count(&self, is_such: impl Fn(&State) -> bool) -> usize {
        let states = self.window().iter().map(|slot| &slot.state);
        states.filter(|&state| is_such(state)).count()
    }

    fn window(&self) -> &[Slot] {
        self.slots.get(self.window_range()).unwrap_or_default()
    }

    fn window_mut(&mut self) -> &mut [Slot] {
        let range = self.window_range();
        self.slots.get_mut(range).unwrap_or_default()
    }

    fn end_asking(&mut self) {
        self.asking = false;
        for slot in self.window_mut() {
            if matches!(slot.state, State::Asked(_)) {
                slot.state = State::Waiting;
            }
        }
    }

    fn count_failure(&mut self, now: Duration) {
        self.failing_since.get_or_insert(now);
    }

    fn has_no_patience_left(&self, now: Duration) -> bool {
        // Only when a failure is to be followed by another try: what is on its way may arrive.
        let patience = self.plan.patience;
        let under_way = self.count(|it| matches!(it, State::Writing(_) | State::Sealing));
        let idle = !self.asking && under_way == 0;
        idle && self
            .failing_since
            .is_some_and(|since| now >= since.saturating_add(patience))
    }

    fn sealed_chunks(&self) -> Vec<SealedChunk> {
        let sealed = |slot: &Slot| match &slot.state {
            State::Sealed(sealed) => Some(sealed.clone()),
            _ => None,
        };
        self.slots.iter().filter_map(sealed).collect()
    }
}

#[cfg(test)]
mod tests;
