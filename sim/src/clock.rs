//! The virtual clock: what is to happen, in the order of its time.
//!
//! Time goes from one event to the next; between two of them nothing happens. Events of the same
//! time come in the order in which they were planned.

use std::collections::BTreeMap;
use std::time::Duration;

/// Milliseconds since 1970 at which every run begins.
const BEGINS_UNIX_MS: u64 = 1_700_000_000_000;

/// What is still to happen.
#[derive(Debug)]
pub struct Agenda<E> {
    now: Duration,
    planned: u64,
    events: BTreeMap<(Duration, u64), E>,
}

impl<E> Default for Agenda<E> {
    fn default() -> Self {
        Self {
            now: Duration::ZERO,
            planned: 0,
            events: BTreeMap::new(),
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
        self.events.insert((at.max(self.now), self.planned), event);
    }

    /// The next event; its time is now.
    #[expect(clippy::should_implement_trait, reason = "the clock moves with it")]
    pub fn next(&mut self) -> Option<E> {
        let ((at, _), event) = self.events.pop_first()?;
        self.now = at;
        Some(event)
    }
}

/// The wall clock at a time of the run.
#[must_use]
pub fn unix_ms(now: Duration) -> u64 {
    BEGINS_UNIX_MS + u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
