//! How a directory's disk is, as those saw it last who ask it all the time: read without waiting.
//!
//! Reads and writes are watched apart. A disk whose reads come and whose writes hang, as that of a
//! frozen file system, looks well to whoever only reads; and a write that waits a second or two
//! behind others is nothing to take a disk's chunks for lost. So the age of the last read is told
//! as it is, and writes count once they hang for [`HANG_MAX`].

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::store::Space;

/// How long a read or a small write with its sync may take on a disk that works.
pub const HANG_MAX: Duration = Duration::from_secs(10);

/// Age of the last write up to which a disk is as good as any.
const FRESH_MAX: Duration = Duration::from_secs(3);

/// Free bytes below which a disk takes no more chunks.
pub const FULL_BELOW: u64 = 16 * 1024 * 1024;

/// What is known of one disk.
#[derive(Debug, Default)]
pub struct Health {
    seen: Mutex<Seen>,
}

/// What was seen last; nothing as long as nobody watches.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    read_at: Option<Instant>,
    written_at: Option<Instant>,
    read_fails: bool,
    write_fails: bool,
    space: Option<Space>,
}

/// How fit a disk is to take a chunk, the best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fitness {
    /// It fails, or hangs: nothing is to be begun on it.
    Unfit,
    /// It has hardly any room, or was slow to answer a moment ago.
    Poor,
    /// Nothing speaks against it.
    Good,
}

impl Health {
    /// The disk is watched from now on.
    pub fn watch(&self, now: Instant) {
        let mut seen = self.seen();
        seen.read_at.get_or_insert(now);
        seen.written_at.get_or_insert(now);
    }

    /// A read came back.
    pub fn read(&self, now: Instant, space: Space) {
        let mut seen = self.seen();
        (seen.read_at, seen.space, seen.read_fails) = (Some(now), Some(space), false);
    }

    /// A write came back and is stable.
    pub fn written(&self, now: Instant) {
        let mut seen = self.seen();
        (seen.written_at, seen.write_fails) = (Some(now), false);
    }

    /// A read failed; whether those before did not.
    pub fn read_failed(&self) -> bool {
        !std::mem::replace(&mut self.seen().read_fails, true)
    }

    /// A write failed; whether those before did not.
    pub fn write_failed(&self, now: Instant) -> bool {
        let mut seen = self.seen();
        // It hangs no longer.
        seen.written_at = Some(now);
        !std::mem::replace(&mut seen.write_fails, true)
    }

    /// Whether the last read or write failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        let seen = self.seen();
        seen.read_fails || seen.write_fails
    }

    /// The room there was at the last read.
    #[must_use]
    pub fn space(&self) -> Option<Space> {
        self.seen().space
    }

    /// How long the disk has not answered.
    #[must_use]
    pub fn beat_age(&self, now: Instant) -> Duration {
        let seen = self.seen();
        let read_age = age(seen.read_at, now);
        match age(seen.written_at, now) {
            hanging if hanging >= HANG_MAX => hanging.max(read_age),
            _ => read_age,
        }
    }

    /// Whether the disk answers nobody any more.
    #[must_use]
    pub fn hangs(&self, now: Instant) -> bool {
        self.beat_age(now) >= HANG_MAX
    }

    /// Whether a chunk should be begun on the disk.
    #[must_use]
    pub fn fitness(&self, now: Instant) -> Fitness {
        let seen = *self.seen();
        if seen.read_fails || seen.write_fails || self.hangs(now) {
            return Fitness::Unfit;
        }
        let is_fresh = age(seen.written_at, now) < FRESH_MAX && age(seen.read_at, now) < FRESH_MAX;
        let has_room = seen.space.is_none_or(|space| space.free >= FULL_BELOW);
        match is_fresh && has_room {
            true => Fitness::Good,
            false => Fitness::Poor,
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// None, where nobody watches.
fn age(last: Option<Instant>, now: Instant) -> Duration {
    last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Space = Space {
        total: 1 << 40,
        free: 1 << 39,
    };

    /// Disks were only read from to see how they are, so one whose writes hung was well for as
    /// long as it hung: the server's chunks all went there, since it had the most room.
    #[test]
    fn a_disk_whose_writes_hang_is_seen_to_hang() {
        let began = Instant::now();
        let later = |seconds| began + Duration::from_secs(seconds);
        let health = Health::default();
        assert_eq!(health.fitness(later(99)), Fitness::Good, "nobody watches");
        health.watch(began);
        for second in 0..20 {
            health.read(later(second), ROOM);
            let expected = match second {
                0..3 => Fitness::Good,
                3..10 => Fitness::Poor,
                _ => Fitness::Unfit,
            };
            let now = later(second);
            assert_eq!(health.fitness(now), expected, "{second}");
            assert_eq!(health.hangs(now), second >= 10);
            let told = if second < 10 { 0 } else { second };
            assert_eq!(health.beat_age(now), Duration::from_secs(told));
        }
        health.written(later(20));
        assert_eq!(health.fitness(later(20)), Fitness::Good);
    }

    #[test]
    fn a_disk_that_fails_takes_nothing_until_it_works_again() {
        let now = Instant::now();
        let health = Health::default();
        health.watch(now);
        assert!(health.write_failed(now) && !health.write_failed(now));
        health.read(now, ROOM);
        assert_eq!(health.fitness(now), Fitness::Unfit);
        health.written(now);
        assert_eq!(health.fitness(now), Fitness::Good);
        let full = Space {
            free: FULL_BELOW - 1,
            ..ROOM
        };
        health.read(now, full);
        assert_eq!(health.fitness(now), Fitness::Poor);
    }
}
