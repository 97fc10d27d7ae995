//! Whether work on a disk is brief enough to be done where it comes up, in place of being handed to
//! another thread and back, which takes longer than most of it.
//!
//! What goes to the page cache takes microseconds as a rule, and now and then as long as the disk
//! takes, be it for ever: the kernel makes a writer wait for what all programs have dirtied, or for a file
//! system's own journal. Nobody can tell before. So a thread that serves others does it only
//!
//! - for so many bytes and records at a time ([`BYTES_MAX`], [`ROWS_MAX`]);
//! - while no other thread is at it on the same disk: one that hangs takes one thread;
//! - while fewer threads are at it than there are but one, on whatever disks: so at least one goes on with
//!   all else. A server with a single thread does nothing so ([`is_one_left`]);
//! - not for a while after work that took long ([`LONG`], the thread's own processor time not counted):
//!   twice as long each time, and [`REST_FACTOR`] times what was lost at the least.
//!
//! The driver: [`BriefWork::begin`] before, [`BriefWork::end`] behind what was done so.

use std::time::Duration;

/// Bytes that are written at a time: what a processor copies in a few tens of microseconds.
pub const BYTES_MAX: usize = 256 * 1024;

/// Records that are applied at a time.
pub const ROWS_MAX: usize = 1024;

/// What no brief work takes. A thread that has to share its processor may take a few milliseconds.
pub const LONG: Duration = Duration::from_millis(8);

/// How long nothing is taken to be brief behind the first that was not.
pub const REST_MIN: Duration = Duration::from_millis(100);

/// The same after many.
pub const REST_MAX: Duration = Duration::from_secs(600);

/// A thread that lost some time is not risked again for so many times as long.
pub const REST_FACTOR: u32 = 50;

/// What is known of one disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct BriefWork {
    is_busy: bool,
    /// Nothing is brief before.
    not_before: Duration,
    /// How long the last rest was.
    rest: Duration,
}

/// Whether a thread is left for all else if one more does brief work.
#[must_use]
pub const fn is_one_left(busy: usize, threads: usize) -> bool {
    busy + 1 < threads
}

impl BriefWork {
    /// Whether so much may be done where it comes up; then it has begun.
    pub fn begin(&mut self, now: Duration, bytes: usize, rows: usize) -> bool {
        let is_brief = bytes <= BYTES_MAX && rows <= ROWS_MAX && now >= self.not_before;
        let begins = is_brief && !self.is_busy;
        self.is_busy |= begins;
        begins
    }

    /// What was begun has ended now, and has waited so long.
    pub fn end(&mut self, now: Duration, waited: Duration) {
        self.is_busy = false;
        if waited > LONG {
            let rest = (self.rest * 2).max(waited.saturating_mul(REST_FACTOR));
            self.rest = rest.clamp(REST_MIN, REST_MAX);
            self.not_before = now.saturating_add(self.rest);
        } else if now.saturating_sub(self.not_before) > self.rest {
            // It was brief for longer than the last rest was: what held it up is over.
            self.rest = Duration::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIEF: Duration = Duration::from_micros(30);

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn much_is_never_brief() {
        let mut work = BriefWork::default();
        assert!(!work.begin(at(0), BYTES_MAX + 1, 1));
        assert!(!work.begin(at(0), 1, ROWS_MAX + 1));
        assert!(work.begin(at(0), BYTES_MAX, ROWS_MAX));
    }

    #[test]
    fn a_disk_that_hangs_has_one_thread_and_no_disks_have_all() {
        let mut work = BriefWork::default();
        assert!(work.begin(at(0), 1, 1));
        assert!(!work.begin(at(1), 1, 1));
        assert!(!work.begin(at(1_000_000), 1, 1), "however long");
        work.end(at(1_000_000), at(1_000_000));
        assert!(!work.begin(at(1_000_001), 1, 1));
        assert!(!is_one_left(0, 1));
        assert!(is_one_left(0, 2) && !is_one_left(1, 2));
    }

    /// The time that is lost counts: a rest of so long was tried again after as long as it had taken.
    #[test]
    fn a_disk_that_is_slow_takes_a_small_part_of_a_thread() {
        for slow in [20, 300, 5_000] {
            let mut work = BriefWork::default();
            let (mut now, mut lost) = (Duration::ZERO, Duration::ZERO);
            while now < Duration::from_secs(3_600) {
                if work.begin(now, 1, 1) {
                    now += at(slow);
                    lost += at(slow);
                    work.end(now, at(slow));
                }
                now += at(10);
            }
            assert!(lost < Duration::from_secs(3_600 / 40), "{slow}: {lost:?}");
        }
    }

    #[test]
    fn a_disk_that_is_quick_again_for_long_enough_is_trusted_again() {
        let mut work = BriefWork::default();
        let mut one = |now, waited| {
            let begun = work.begin(now, 1, 1);
            if begun {
                work.end(now, waited);
            }
            begun
        };
        assert!(one(at(0), at(9)));
        assert!(!one(at(449), BRIEF));
        assert!(one(at(450), at(9)), "fifty times as long");
        assert!(!one(at(450 + 899), BRIEF), "twice as long");
        assert!(one(at(450 + 900), BRIEF));
        assert!(one(at(450 + 900 + 901), BRIEF));
        assert!(one(at(3_000), at(9)));
        assert!(one(at(3_450), BRIEF), "as at first");
    }
}
