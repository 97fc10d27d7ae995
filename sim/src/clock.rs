//! The virtual clock: what is to happen, in the order of its time.
//!
//! Time goes from one event to the next; between two of them nothing happens. Events of the same
//! time come in the order in which they were planned.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Milliseconds since 1970 at which every run begins.
const BEGINS_UNIX_MS: u64 = 1_700_000_000_000;

/// What is still to happen.
#[derive(Debug)]
pub struct Agenda<E> {
    now: Duration,
    planned: u64,
    /// When each event comes, its number in the order of planning, and its place in `events`.
    order: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    /// Apart from the heap, which would move them about: they are large.
    events: Vec<Option<E>>,
    /// Places that hold none.
    free: Vec<usize>,
}

impl<E> Default for Agenda<E> {
    fn default() -> Self {
        Self {
            now: Duration::ZERO,
            planned: 0,
            order: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<E> Agenda<E> {
    /// The time since the run began.
    #[must_use]
    pub const fn now(&self) -> Duration {
        self.now
    }

    /// Plans an event; one whose time is over comes next.
    pub fn plan(&mut self, at: Duration, event: E) {
        self.planned += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[place] = Some(event);
        let key = (at.max(self.now), self.planned, place);
        self.order.push(Reverse(key));
    }

    /// The next event; its time is now.
    #[expect(clippy::should_implement_trait, reason = "the clock moves with it")]
    pub fn next(&mut self) -> Option<E> {
        let Reverse((at, _, place)) = self.order.pop()?;
        self.now = at;
        self.free.push(place);
        self.events[place].take()
    }
}

/// The wall clock at a time of the run.
#[must_use]
pub fn unix_ms(now: Duration) -> u64 {
    BEGINS_UNIX_MS + u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
