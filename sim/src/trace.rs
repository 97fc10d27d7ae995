//! What happened, line by line, and one number for all of it.
//!
//! The number covers every event and every byte that was delivered, whether lines are printed or
//! not: two runs of a seed are the same run if it is the same.

use std::time::Duration;

/// The trace of a run.
#[derive(Debug)]
pub struct Trace {
    is_verbose: bool,
    hash: u64,
    events: u64,
}

impl Trace {
    /// An empty trace; verbose ones are printed as they grow.
    #[must_use]
    pub const fn new(is_verbose: bool) -> Self {
        Self {
            is_verbose,
            hash: 0,
            events: 0,
        }
    }

    /// Something happened at `now`.
    pub fn mix(&mut self, now: Duration, numbers: &[u64]) {
        self.events += 1;
        self.mix_one(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX));
        for &number in numbers {
            self.mix_one(number);
        }
    }

    fn mix_one(&mut self, number: u64) {
        self.hash = (self.hash.rotate_left(5) ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    /// A line for whoever reads along.
    pub fn line(&self, now: Duration, text: impl FnOnce() -> String) {
        if self.is_verbose {
            println!("{:>14.6} {}", now.as_secs_f64(), text());
        }
    }

    /// The one number.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// How many things happened.
    #[must_use]
    pub const fn events(&self) -> u64 {
        self.events
    }
}
