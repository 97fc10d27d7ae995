//! On which thread the bytes of a download are written to its file: on the one that received them,
//! or on one that may wait.
//!
//! Who received them has them in its cache, and to hand them over takes two wake-ups. But it is one
//! of the runtime's few threads, which all streams of the client share, and a write to a file may
//! wait: the kernel holds a writer back when too much is dirty, a filesystem waits for its journal,
//! a disk hangs. So writes are done here as long as they take no time:
//!
//! ```text
//! a write is slow   when it took SLOW or longer, wherever it was done; and as soon as one that is
//!                   done here has been taking so long
//! here              no more than `here_max` at a time; and none, after one that was slow, for REST
//!                   times as long as that took
//! elsewhere         all others
//! ```
//!
//! With `here_max` less than the runtime's threads, one of these is always free of files, whatever
//! becomes of them. A file that is held back now and then holds the others up for a small part of the
//! time, and a processor that had something else to do for a moment costs next to nothing. A file that
//! is slow all the time is left to threads that may wait, which tell when it is quick again.

use std::time::Duration;

/// How long no write of a payload takes that goes to memory; ten times what it takes on a machine
/// that is busy with other things too.
pub const SLOW: Duration = Duration::from_millis(10);

/// How many times as long as a slow write took those after it are done elsewhere.
pub const REST: u32 = 10;

/// Where a write is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the thread that has the bytes.
    Here,
    /// On a thread that may wait.
    Elsewhere,
}

/// What one client's writes to files were like.
#[derive(Clone, Debug)]
pub struct LocalWrites {
    here_max: usize,
    /// When those began that are being done here.
    here: Vec<Duration>,
    /// None is done here before.
    rest_until: Duration,
}

impl LocalWrites {
    /// No more than `here_max` are to be done at a time on threads that the client's streams need.
    #[must_use]
    pub const fn new(here_max: usize) -> Self {
        Self {
            here_max,
            here: Vec::new(),
            rest_until: Duration::ZERO,
        }
    }

    /// A write begins, or is given to a thread that may wait: where it is done. [`Self::end`] is to be
    /// called when it is over, well or not.
    pub fn begin(&mut self, now: Duration) -> Place {
        if let Some(&began) = self.here.iter().min() {
            self.look(began, now);
        }
        if self.here.len() >= self.here_max || now < self.rest_until {
            return Place::Elsewhere;
        }
        self.here.push(now);
        Place::Here
    }

    /// A write is over. It `began`, if it was done here, when [`Self::begin`] was told; elsewhere when
    /// there was a thread for it: to wait for one is nothing that a file is to blame for.
    pub fn end(&mut self, place: Place, began: Duration, now: Duration) {
        if place == Place::Here
            && let Some(index) = self.here.iter().position(|&it| it == began)
        {
            self.here.swap_remove(index);
        }
        self.look(began, now);
    }

    /// Looks at how long a write took, or has been taking.
    fn look(&mut self, began: Duration, now: Duration) {
        let took = now.saturating_sub(began);
        if took >= SLOW {
            let rest_until = now.saturating_add(took.saturating_mul(REST));
            self.rest_until = self.rest_until.max(rest_until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Does a write that takes `took`; where it was done.
    fn write(writes: &mut LocalWrites, now: Duration, took: Duration) -> Place {
        let place = writes.begin(now);
        writes.end(place, now, now + took);
        place
    }

    #[test]
    fn quick_writes_are_done_here_and_no_more_than_may_be() {
        let mut writes = LocalWrites::new(2);
        for at in 0..100 {
            assert_eq!(write(&mut writes, ms(at), ms(1)), Place::Here);
        }
        // Two may begin at the same time, and are told apart by nothing.
        assert_eq!(writes.begin(ms(100)), Place::Here);
        assert_eq!(writes.begin(ms(100)), Place::Here);
        assert_eq!(writes.begin(ms(101)), Place::Elsewhere);
        writes.end(Place::Elsewhere, ms(101), ms(102));
        assert_eq!(
            writes.begin(ms(102)),
            Place::Elsewhere,
            "both are there still"
        );
        writes.end(Place::Here, ms(100), ms(103));
        assert_eq!(writes.begin(ms(103)), Place::Here);
        assert_eq!(writes.begin(ms(103)), Place::Elsewhere);
    }

    #[test]
    fn a_runtime_that_has_no_thread_to_spare_writes_nothing() {
        let mut writes = LocalWrites::new(0);
        assert_eq!(write(&mut writes, ms(5), ms(1)), Place::Elsewhere);
    }

    #[test]
    fn after_one_that_was_slow_they_are_done_elsewhere_for_a_while() {
        let mut writes = LocalWrites::new(1);
        assert_eq!(write(&mut writes, ms(0), SLOW - ms(1)), Place::Here);
        assert_eq!(write(&mut writes, SLOW, SLOW), Place::Here);
        let rest_until = 2 * SLOW + REST * SLOW;
        assert_eq!(write(&mut writes, 2 * SLOW, ms(1)), Place::Elsewhere);
        assert_eq!(
            write(&mut writes, rest_until - ms(1), ms(1)),
            Place::Elsewhere
        );
        assert_eq!(write(&mut writes, rest_until, ms(1)), Place::Here);
    }

    /// A disk that is slow all the time is never tried here again: those elsewhere tell.
    #[test]
    fn a_file_that_stays_slow_holds_up_one_write() {
        let mut writes = LocalWrites::new(1);
        let (mut now, mut here) = (ms(0), 0);
        for _ in 0..1_000 {
            here += u32::from(write(&mut writes, now, ms(200)) == Place::Here);
            now += ms(200);
        }
        assert_eq!(here, 1);
        // It is quick again.
        for _ in 0..3_000 {
            here += u32::from(write(&mut writes, now, ms(1)) == Place::Here);
            now += ms(1);
        }
        assert_eq!(here, 1 + 1_000, "but for the first two seconds");
    }

    #[test]
    fn one_that_hangs_takes_no_second_thread() {
        let mut writes = LocalWrites::new(3);
        assert_eq!(writes.begin(ms(0)), Place::Here);
        assert_eq!(
            writes.begin(SLOW - ms(1)),
            Place::Here,
            "it may yet be quick"
        );
        for at in [SLOW, 2 * SLOW, 1_000 * SLOW] {
            assert_eq!(writes.begin(at), Place::Elsewhere);
        }
        writes.end(Place::Here, ms(0), 1_000 * SLOW);
        writes.end(Place::Here, SLOW - ms(1), 1_000 * SLOW);
        assert_eq!(writes.begin(1_001 * SLOW), Place::Elsewhere, "it took long");
        assert_eq!(writes.begin(11_000 * SLOW), Place::Here);
    }
}
