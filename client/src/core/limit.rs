//! How many bytes a second a command may move, over all its streams: a token bucket.
//!
//! Bytes are paid for before they are moved, so that no moment of the command has seen more than
//! the rate allows. [`Limit::take`] books them behind all that was booked before, and says when
//! they are paid: the streams take turns in the order in which they ask, and none can starve. What
//! was allowed and not used is kept for [`SAVED_MAX`], so that a timer which is late costs nothing;
//! in any time `t` no more than `rate * (t + SAVED_MAX)` bytes are moved, and since the first were
//! asked for no more than `rate * t`.
//!
//! Frames and reads are cut so that every stream has its turn within about a second, however low
//! the rate is: what is asked for is received as fast as it comes, and nothing is held up in the
//! middle, where a peer would have to wait, with memory, for the rest of it.

use std::num::NonZeroU64;
use std::time::Duration;

use sarsen_protocol::size::{BLOCK_LEN, PAYLOAD_LEN_MAX};

/// Lower rates move nothing that is of use, and would leave peers to wait for minutes.
pub const RATE_MIN: u64 = 1024;

/// How long what was not used may be used later; so much of a second is also moved at a time.
pub const SAVED_MAX: Duration = Duration::from_millis(125);

/// Bytes that one `Read` asks for at the most, under a limit.
const READ_LEN_MAX: u32 = 16 * 1024 * 1024;

/// The limit of one command.
#[derive(Clone, Debug)]
pub struct Limit {
    /// Bytes a second.
    rate: NonZeroU64,
    /// When all that was booked is paid; `None` before the first.
    paid_at: Option<Duration>,
}

impl Limit {
    /// At most `rate` bytes a second; `None` below [`RATE_MIN`].
    #[must_use]
    pub fn new(rate: u64) -> Option<Self> {
        let rate = NonZeroU64::new(rate).filter(|rate| rate.get() >= RATE_MIN)?;
        let paid_at = None;
        Some(Self { rate, paid_at })
    }

    /// Books `bytes`; when they may be moved.
    pub fn take(&mut self, now: Duration, bytes: u32) -> Duration {
        let begin = self.paid_at.unwrap_or(now);
        let begin = begin.max(now.saturating_sub(SAVED_MAX));
        let nanos = (u128::from(bytes) * 1_000_000_000).div_ceil(self.rate.get().into());
        // At most 2^32 bytes at a kibibyte a second, which is far below 2^64 nanoseconds.
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let paid_at = begin.saturating_add(takes);
        self.paid_at = Some(paid_at);
        paid_at.max(now)
    }

    /// Bytes of a frame that goes up: whole blocks, where it may be as much.
    #[must_use]
    pub fn write_len(&self) -> u32 {
        whole_blocks(self.an_eighth().min(PAYLOAD_LEN_MAX))
    }

    /// Bytes that one `Read` asks for: whole blocks.
    #[must_use]
    pub fn read_len(&self) -> u32 {
        whole_blocks(self.an_eighth().clamp(BLOCK_LEN, READ_LEN_MAX))
    }

    /// Streams that may go up at a time.
    #[must_use]
    pub fn write_streams_max(&self) -> usize {
        self.turns(self.write_len())
    }

    /// Streams that may come down at a time.
    #[must_use]
    pub fn read_streams_max(&self) -> usize {
        self.turns(self.read_len())
    }

    /// Bytes of an eighth of a second.
    fn an_eighth(&self) -> u32 {
        u32::try_from(self.rate.get() / 8).unwrap_or(u32::MAX)
    }

    /// How many times `len` bytes can be moved in a second; at least once.
    fn turns(&self, len: u32) -> usize {
        let turns = self.rate.get() / u64::from(len.max(1));
        usize::try_from(turns).unwrap_or(usize::MAX).max(1)
    }
}

/// `len` without what of it is no whole block; all of it, if it is less than one.
const fn whole_blocks(len: u32) -> u32 {
    match len < BLOCK_LEN {
        true => len,
        false => len - len % BLOCK_LEN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u32 = 1024 * 1024;

    fn limit(rate: u64) -> Limit {
        Limit::new(rate).expect("not below the least")
    }

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn bytes_are_paid_for_before_they_are_moved_and_in_turn() {
        let mut limit = limit(1_000_000);
        // Two streams ask at the same time, one of them asks again at once.
        assert_eq!(limit.take(ms(50), 100_000), ms(150));
        assert_eq!(limit.take(ms(50), 200_000), ms(350));
        assert_eq!(limit.take(ms(150), 100_000), ms(450));
        assert_eq!(limit.take(ms(350), 0), ms(450), "behind what was booked");
    }

    #[test]
    fn a_timer_that_is_late_costs_nothing_and_a_pause_saves_no_more_than_an_eighth() {
        let mut limit = limit(1_000_000);
        assert_eq!(limit.take(ms(0), 100_000), ms(100));
        // Woken 100 ms late.
        assert_eq!(limit.take(ms(200), 100_000), ms(200));
        assert_eq!(limit.take(ms(200), 100_000), ms(300));
        // Nothing for ten seconds: an eighth of a second is moved at once, the rest is paid for.
        assert_eq!(limit.take(ms(10_300), 125_000), ms(10_300));
        assert_eq!(limit.take(ms(10_300), 1_000), ms(10_301));
    }

    /// At every moment, whoever asks when and for how much.
    #[test]
    fn no_moment_has_seen_more_than_the_rate_allows() {
        let rate = 3_333_333;
        let mut limit = limit(rate);
        let (mut now, mut moved, mut random) = (ms(7), 0_u128, 1_u64);
        for _ in 0..10_000 {
            random = crate::core::retry::split_mix(random);
            let bytes = u32::try_from(random % 1_000_000).unwrap();
            now = limit.take(now, bytes) + Duration::from_nanos(random % 400_000_000);
            moved += u128::from(bytes);
            let allowed = u128::from(rate) * (now - ms(7)).as_nanos() / 1_000_000_000;
            assert!(moved <= allowed, "{moved} of {allowed} by {now:?}");
        }
    }

    #[test]
    fn the_whole_rate_is_used_by_who_asks_again_at_once() {
        let mut limit = limit(10_000_001);
        let mut now = ms(0);
        for _ in 0..1_000 {
            // Timers of a millisecond.
            now = ms(u64::try_from(limit.take(now, MIB).as_millis()).unwrap() + 1);
        }
        let ideal = Duration::from_nanos(1_000 * u64::from(MIB) * 1_000_000_000 / 10_000_001);
        assert!(
            now >= ideal && now - ideal <= ms(2),
            "{now:?} for {ideal:?}"
        );
    }

    #[test]
    fn every_stream_has_its_turn_within_a_second() {
        for (rate, write_len, read_len) in [
            (RATE_MIN, 128, BLOCK_LEN),
            (100 * 1024, 12_800, BLOCK_LEN),
            (1 << 20, 2 * BLOCK_LEN, 2 * BLOCK_LEN),
            (8_000_000, 15 * BLOCK_LEN, 15 * BLOCK_LEN),
            (100_000_000, MIB, 190 * BLOCK_LEN),
            (u64::MAX, MIB, 16 * MIB),
        ] {
            let limit = limit(rate);
            assert_eq!((limit.write_len(), limit.read_len()), (write_len, read_len));
            assert!(limit.write_streams_max() >= 8, "{rate}");
            assert!(limit.write_streams_max() as u64 * u64::from(write_len) <= rate);
            let reads = limit.read_streams_max();
            assert!(reads == 1 || reads as u64 * u64::from(read_len) <= rate);
        }
        assert_eq!(limit(RATE_MIN).read_streams_max(), 1);
        assert!(Limit::new(RATE_MIN - 1).is_none() && Limit::new(0).is_none());
    }
}
