//! Which chunks are to be looked at, which are to be copied and in which order, and which copies
//! are under way (GFS section 4.3).
//!
//! A chunk is in at most one of four places: *dirty*, to be looked at as soon as there is time;
//! *short*, to be copied as soon as somebody is free, those with the fewest good replicas first;
//! *later*, to be looked at when a moment has come; *stuck*, to be copied, and there is nobody who
//! could. Whoever hears something of a chunk makes it dirty; nothing here looks at all chunks, but
//! for a slow sweep that is only a net.
//!
//! Nothing of this is logged: after a restart all chunks are looked at once.
//!
//! Invariants: one copy of a chunk at a time; what a server takes part in is counted while its
//! order is out, at the longest for [`COPY_TIME_MAX`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use sarsen_protocol::id::{ChunkHandle, ServerId};

use super::chunk_table::ChunkTable;
use super::diagnosis::Tried;
use super::event::OrderId;

/// A copy that takes longer is given up; if it comes to its end all the same, it counts.
pub const COPY_TIME_MAX: Duration = Duration::from_secs(600);

/// Back-offs double so often.
const DOUBLINGS_MAX: u32 = 6;

/// How long a failure is remembered of a chunk that nothing is to be done for.
const TROUBLE_MEMORY: Duration = Duration::from_secs(3600);

/// Chunks that one step of a sweep makes dirty.
const SWEEP_LEN: usize = 256;

/// The same while everything is looked at for the first time.
const FIRST_SWEEP_LEN: usize = 4096;

/// A copy under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// The order.
    pub order: OrderId,
    /// Who makes it.
    pub target: ServerId,
    /// Who is asked first.
    pub source: ServerId,
    /// When it is given up.
    pub until: Duration,
}

/// What went wrong with a chunk's copies since the last one that went well.
#[derive(Clone, Debug, Default)]
struct Trouble {
    failures: u32,
    tried: Tried,
    not_before: Duration,
}

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Dirty,
    Short(usize),
    Later(Duration),
    Stuck,
}

/// All that is to be repaired.
#[derive(Clone, Debug, Default)]
pub struct Repairs {
    places: BTreeMap<ChunkHandle, Place>,
    dirty: BTreeSet<ChunkHandle>,
    short: BTreeSet<(usize, ChunkHandle)>,
    later: BTreeSet<(Duration, ChunkHandle)>,
    stuck: BTreeSet<ChunkHandle>,
    running: BTreeMap<ChunkHandle, Running>,
    streams: BTreeMap<ServerId, u32>,
    troubles: BTreeMap<ChunkHandle, Trouble>,
    /// Something came that may let a copy begin that could not before.
    is_startable: bool,
    /// Where those are looked at next that are less urgent, if they are to be.
    others: Option<(usize, ChunkHandle)>,
    looks_at_others: bool,
    /// Where the sweep goes on; none before the first.
    swept: Option<ChunkHandle>,
    has_swept: bool,
    /// Copies that counted in the end.
    pub done: u64,
    /// Copies that did not.
    pub failed: u64,
}

impl Repairs {
    /// Something was heard of a chunk.
    pub fn touch(&mut self, handle: ChunkHandle) {
        self.put(handle, Place::Dirty);
    }

    /// A chunk has been looked at and wants another copy; so many good replicas it has.
    pub fn put_short(&mut self, handle: ChunkHandle, good: usize) {
        self.put(handle, Place::Short(good));
        self.is_startable = true;
    }

    /// Whether it is worth while to look for somebody who could begin a copy; asked again, not
    /// before something has come. Looking costs much more than knowing that all are busy.
    pub fn take_startable(&mut self) -> bool {
        std::mem::take(&mut self.is_startable)
    }

    /// Servers may have streams free that they did not have.
    pub fn look_for_free(&mut self) {
        self.is_startable = true;
        self.looks_at_others = true;
    }

    /// Up to `max` chunks that are to be copied, from where the last call ended, once for each
    /// [`Self::look_for_free`]. The most urgent may all have to wait for one server that is slow, while
    /// whoever could copy others has nothing to do.
    pub fn others(&mut self, max: usize) -> Vec<ChunkHandle> {
        if !std::mem::take(&mut self.looks_at_others) {
            return Vec::new();
        }
        let from = match self.others {
            Some(at) => Bound::Excluded(at),
            None => Bound::Unbounded,
        };
        let some = self.short.range((from, Bound::Unbounded)).take(max);
        let some: Vec<_> = some.copied().collect();
        self.others = some.last().copied().filter(|_| some.len() == max);
        some.into_iter().map(|(_, handle)| handle).collect()
    }

    /// A chunk wants another copy, and there is nobody who could make or give it.
    pub fn put_stuck(&mut self, handle: ChunkHandle) {
        self.put(handle, Place::Stuck);
    }

    /// There may be somebody now.
    pub fn unstick(&mut self) {
        for handle in std::mem::take(&mut self.stuck) {
            self.touch(handle);
        }
    }

    /// What was waited for has come: whoever waits for a moment need not.
    pub fn wake(&mut self) {
        for (_, handle) in std::mem::take(&mut self.later) {
            self.touch(handle);
        }
    }

    /// Until when nothing is to be tried with a chunk, because of what went wrong.
    #[must_use]
    pub fn held_back(&self, handle: ChunkHandle, now: Duration) -> Option<Duration> {
        let not_before = self.troubles.get(&handle)?.not_before;
        (not_before > now).then_some(not_before)
    }

    /// A chunk is to be looked at again at a moment.
    pub fn put_later(&mut self, handle: ChunkHandle, at: Duration) {
        self.put(handle, Place::Later(at));
    }

    /// Nothing is to be done for a chunk.
    pub fn forget(&mut self, handle: ChunkHandle) {
        self.leave(handle);
        self.troubles.remove(&handle);
    }

    /// Nothing is to be done for any chunk, until the next sweep finds it: in safe mode nothing is
    /// remembered.
    pub fn clear(&mut self) {
        *self = Self {
            running: std::mem::take(&mut self.running),
            streams: std::mem::take(&mut self.streams),
            done: self.done,
            failed: self.failed,
            ..Self::default()
        };
    }

    /// Makes dirty what is due, and gives up to `max` dirty chunks, which are then in no place.
    pub fn take_dirty(&mut self, now: Duration, max: usize) -> Vec<ChunkHandle> {
        while let Some(&(at, handle)) = self.later.first()
            && at <= now
        {
            self.touch(handle);
        }
        let taken: Vec<ChunkHandle> = self.dirty.iter().take(max).copied().collect();
        for &handle in &taken {
            self.leave(handle);
        }
        taken
    }

    /// Up to `max` chunks that are to be copied, the most urgent first.
    #[must_use]
    pub fn most_urgent(&self, max: usize) -> Vec<ChunkHandle> {
        let not_running = self
            .short
            .iter()
            .map(|&(_, handle)| handle)
            .filter(|handle| !self.running.contains_key(handle));
        not_running.take(max).collect()
    }

    /// When there is something to look at; at once if chunks are dirty, or not all were looked at.
    #[must_use]
    pub fn due(&self, now: Duration) -> Option<Duration> {
        match self.dirty.is_empty() && self.has_swept {
            false => Some(now),
            true => self.later.first().map(|&(at, _)| at),
        }
    }

    /// How many copies a server takes part in.
    #[must_use]
    pub fn streams(&self) -> &BTreeMap<ServerId, u32> {
        &self.streams
    }

    /// What is remembered of earlier tries at a chunk.
    #[must_use]
    pub fn tried(&self, handle: ChunkHandle) -> Tried {
        let trouble = self.troubles.get(&handle);
        trouble
            .map(|trouble| trouble.tried.clone())
            .unwrap_or_default()
    }

    /// The copy of a chunk that is under way.
    #[must_use]
    pub fn running(&self, handle: ChunkHandle) -> Option<&Running> {
        self.running.get(&handle)
    }

    /// How many copies are under way.
    #[must_use]
    pub fn running_count(&self) -> usize {
        self.running.len()
    }

    /// How many chunks are to be copied and are not yet; those that wait after a failure too.
    #[must_use]
    pub fn waiting_count(&self) -> usize {
        let waits = |handle: &&ChunkHandle| {
            !self.running.contains_key(*handle)
                && matches!(self.places.get(*handle), Some(Place::Later(_)))
        };
        self.short.len() + self.stuck.len() + self.troubles.keys().filter(waits).count()
    }

    /// A copy is ordered.
    pub fn begin(&mut self, handle: ChunkHandle, running: Running) {
        self.leave(handle);
        self.running.insert(handle, running);
        for server in [running.target, running.source] {
            *self.streams.entry(server).or_default() += 1;
        }
    }

    /// A copy has ended; false if it was given up before.
    pub fn end(&mut self, handle: ChunkHandle, order: OrderId) -> bool {
        if self.running.get(&handle).is_none_or(|it| it.order != order) {
            return false;
        }
        self.is_startable = true;
        if let Some(running) = self.running.remove(&handle) {
            for server in [running.target, running.source] {
                if let Some(count) = self.streams.get_mut(&server) {
                    *count = count.saturating_sub(1);
                }
            }
            self.streams.retain(|_, count| *count > 0);
        }
        true
    }

    /// A copy counted: what went wrong before is of no matter.
    pub fn succeeded(&mut self, handle: ChunkHandle) {
        self.done += 1;
        self.troubles.remove(&handle);
        self.touch(handle);
    }

    /// A copy did not count. `target` or `source` is to blame, if anybody is; the next try waits
    /// for a back-off that begins with `pause`.
    pub fn failed(
        &mut self,
        handle: ChunkHandle,
        target: Option<ServerId>,
        source: Option<ServerId>,
        now: Duration,
        pause: Duration,
    ) {
        self.failed += 1;
        self.hold_back(handle, now, pause);
        let trouble = self.troubles.entry(handle).or_default();
        trouble.tried.targets.extend(target);
        trouble.tried.sources.extend(source);
    }

    /// Something went wrong with a chunk: the next try waits for a back-off that begins with
    /// `pause`.
    pub fn hold_back(&mut self, handle: ChunkHandle, now: Duration, pause: Duration) {
        let trouble = self.troubles.entry(handle).or_default();
        let doubled = pause.saturating_mul(1 << trouble.failures.min(DOUBLINGS_MAX));
        trouble.failures = trouble.failures.saturating_add(1);
        trouble.not_before = now.saturating_add(doubled);
        self.touch(handle);
    }

    /// The copies that have taken too long.
    #[must_use]
    pub fn overdue(&self, now: Duration) -> Vec<(ChunkHandle, Running)> {
        let overdue = self.running.iter().filter(|(_, it)| it.until <= now);
        overdue
            .map(|(&handle, &running)| (handle, running))
            .collect()
    }

    /// Whether all chunks were looked at.
    #[must_use]
    pub fn has_swept(&self) -> bool {
        self.has_swept
    }

    /// Goes a step on through all chunks.
    pub fn sweep(&mut self, chunks: &ChunkTable) {
        let max = match self.has_swept {
            true => SWEEP_LEN,
            false => FIRST_SWEEP_LEN,
        };
        let after = self.swept.unwrap_or(ChunkHandle::NONE);
        let step: Vec<ChunkHandle> = chunks
            .iter_after(after)
            .take(max)
            .map(|(handle, _)| handle)
            .collect();
        for &handle in &step {
            // What waits for its turn or its moment is known.
            if matches!(self.places.get(&handle), None | Some(Place::Stuck)) {
                self.touch(handle);
            }
        }
        self.swept = step.last().copied();
        if step.len() < max {
            self.has_swept = true;
            self.swept = None;
        }
    }

    /// Forgets troubles that are long over; to be called now and then.
    pub fn forget_old_troubles(&mut self, now: Duration) {
        let is_recent = |trouble: &Trouble| now < trouble.not_before.saturating_add(TROUBLE_MEMORY);
        let places = &self.places;
        self.troubles
            .retain(|handle, trouble| places.contains_key(handle) || is_recent(trouble));
    }

    fn put(&mut self, handle: ChunkHandle, place: Place) {
        self.leave(handle);
        match place {
            Place::Dirty => self.dirty.insert(handle),
            Place::Short(good) => self.short.insert((good, handle)),
            Place::Later(at) => self.later.insert((at, handle)),
            Place::Stuck => self.stuck.insert(handle),
        };
        self.places.insert(handle, place);
    }

    fn leave(&mut self, handle: ChunkHandle) {
        match self.places.remove(&handle) {
            Some(Place::Dirty) => self.dirty.remove(&handle),
            Some(Place::Short(good)) => self.short.remove(&(good, handle)),
            Some(Place::Later(at)) => self.later.remove(&(at, handle)),
            Some(Place::Stuck) => self.stuck.remove(&handle),
            None => false,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handles(numbers: &[u64]) -> Vec<ChunkHandle> {
        numbers.iter().copied().map(ChunkHandle).collect()
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn running(order: u64) -> Running {
        Running {
            order: OrderId(order),
            target: ServerId(1),
            source: ServerId(2),
            until: seconds(10),
        }
    }

    #[test]
    fn fewest_good_replicas_come_first_and_a_chunk_has_one_place() {
        let mut repairs = Repairs::default();
        repairs.sweep(&ChunkTable::default());
        for (handle, good) in [(1, 2), (2, 1), (3, 1), (4, 5)] {
            repairs.touch(ChunkHandle(handle));
            repairs.put_short(ChunkHandle(handle), good);
        }
        assert_eq!(repairs.most_urgent(3), handles(&[2, 3, 1]));
        repairs.put_short(ChunkHandle(4), 0);
        assert_eq!(repairs.most_urgent(9), handles(&[4, 2, 3, 1]));
        repairs.put_later(ChunkHandle(2), seconds(5));
        repairs.forget(ChunkHandle(3));
        assert_eq!(repairs.most_urgent(9), handles(&[4, 1]));
        assert_eq!(repairs.due(seconds(1)), Some(seconds(5)));
        assert!(repairs.take_dirty(seconds(4), 9).is_empty());
        assert_eq!(repairs.take_dirty(seconds(5), 9), handles(&[2]));
        assert_eq!(repairs.most_urgent(9), handles(&[4, 1]));
        assert_eq!(repairs.due(seconds(6)), None);
    }

    #[test]
    fn what_runs_is_counted_until_its_own_order_ends() {
        let mut repairs = Repairs::default();
        let chunk = ChunkHandle(1);
        repairs.put_short(chunk, 1);
        repairs.begin(chunk, running(7));
        let both = BTreeMap::from([(ServerId(1), 1), (ServerId(2), 1)]);
        assert_eq!(repairs.streams(), &both);
        repairs.put_short(chunk, 1);
        assert!(repairs.most_urgent(9).is_empty(), "it is under way");
        assert!(repairs.overdue(seconds(9)).is_empty());
        assert_eq!(repairs.overdue(seconds(10)), [(chunk, running(7))]);
        assert!(!repairs.end(chunk, OrderId(6)));
        assert!(repairs.end(chunk, OrderId(7)));
        assert!(!repairs.end(chunk, OrderId(7)));
        assert!(repairs.streams().is_empty());
    }

    #[test]
    fn failures_double_the_pause_and_success_forgets_them() {
        let mut repairs = Repairs::default();
        repairs.sweep(&ChunkTable::default());
        let chunk = ChunkHandle(1);
        let mut now = seconds(100);
        for pause in [1, 2, 4, 8, 16, 32, 64, 64] {
            repairs.failed(chunk, Some(ServerId(3)), None, now, seconds(1));
            assert_eq!(repairs.take_dirty(now, 9), [chunk]);
            let until = repairs.held_back(chunk, now);
            assert_eq!(until, Some(now + seconds(pause)));
            repairs.put_later(chunk, now + seconds(pause));
            assert_eq!(repairs.waiting_count(), 1);
            assert_eq!(repairs.due(now), until);
            now += seconds(pause);
            assert_eq!(repairs.take_dirty(now, 9), [chunk]);
            assert_eq!(repairs.held_back(chunk, now), None);
        }
        assert_eq!(repairs.tried(chunk).targets, BTreeSet::from([ServerId(3)]));
        repairs.succeeded(chunk);
        assert_eq!(repairs.tried(chunk), Tried::default());
        assert_eq!((repairs.done, repairs.failed), (1, 8));
    }

    /// Where the first 64 all waited for one server that was slow, nobody was looked for to copy the
    /// others: they waited with one replica each, while who had it had nothing to do.
    #[test]
    fn all_that_are_short_have_their_turn_to_be_looked_at() {
        let mut repairs = Repairs::default();
        (1..=1000).for_each(|n| repairs.put_short(ChunkHandle(n), 1));
        let mut seen = BTreeSet::new();
        for _ in 0..5 {
            assert_eq!(repairs.others(256), []);
            repairs.look_for_free();
            seen.extend(repairs.others(256));
        }
        assert_eq!(seen.len(), 1000);
    }
}
