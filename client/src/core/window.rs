//! How many bytes of a write stream may be on their way: as many as fill the chain, and half
//! as many again.
//!
//! Fewer leave it idle. More wait in queues, where nothing is won: they take memory in every
//! member, and grow cold in the processors' caches before they are copied again.
//!
//! ```text
//! when an ack comes, of bytes that were sent at `sent_at`, when `acked_before` had been acked:
//!   round_trip = now - sent_at
//!   shortest   = the shortest round trip so far       # one without a queue
//!   fill       = (acked - acked_before) * shortest / round_trip    # rate * shortest
//!   window     = 3/2 * the largest of the last FILLS, within WINDOW_MIN and WINDOW_MAX
//! ```
//!
//! A chain that is not full has round trips close to the shortest, so the window grows with each
//! until it is; one with a queue has longer ones, and the window stays or falls.

use std::time::Duration;

/// Bytes that may be on their way at the least, and at first: two payloads, one of which is
/// received while the other is stored.
pub const WINDOW_MIN: u32 = 2 * 1024 * 1024;

/// Bytes that may be on their way at the most.
pub const WINDOW_MAX: u32 = 8 * 1024 * 1024;

/// Acks whose fills are remembered.
const FILLS: usize = 8;

/// The window of one stream.
#[derive(Clone, Debug, Default)]
pub struct Window {
    shortest: Option<Duration>,
    fills: [u32; FILLS],
    /// The place of the next.
    next: usize,
}

impl Window {
    /// Bytes that may be on their way.
    #[must_use]
    pub fn bytes(&self) -> u32 {
        let fill = self.fills.iter().copied().max().unwrap_or_default();
        fill.saturating_add(fill / 2).clamp(WINDOW_MIN, WINDOW_MAX)
    }

    /// An ack came after `round_trip`, in which `acked` bytes were acknowledged, its own too.
    pub fn handle_ack(&mut self, round_trip: Duration, acked: u32) {
        // Two events may have the same time.
        let round_trip = round_trip.max(Duration::from_nanos(1));
        let shortest = self.shortest.map_or(round_trip, |it| it.min(round_trip));
        self.shortest = Some(shortest);
        let fill = u128::from(acked) * shortest.as_nanos() / round_trip.as_nanos();
        if let Some(place) = self.fills.get_mut(self.next) {
            *place = u32::try_from(fill).unwrap_or(WINDOW_MAX);
        }
        self.next = (self.next + 1) % FILLS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u32 = 1024 * 1024;

    /// A chain that takes `rate` bytes a millisecond, with `delay` for the first of them: what the
    /// window comes to.
    fn settled(rate: u32, delay: u64) -> u32 {
        let mut window = Window::default();
        let mut in_flight = MIB;
        for _ in 0..50 {
            let queued = u64::from(in_flight / rate);
            window.handle_ack(Duration::from_millis(delay.max(queued)), in_flight);
            in_flight = window.bytes();
        }
        window.bytes()
    }

    #[test]
    fn it_begins_small_and_grows_until_the_chain_is_full() {
        assert_eq!(Window::default().bytes(), WINDOW_MIN);
        // 1 GB/s over 4 ms holds 4 MB.
        let full = settled(1_000_000, 4);
        assert!((4_000_000..WINDOW_MAX).contains(&full), "{full}");
        // Over 50 ms it holds more than a stream may have on its way.
        assert_eq!(settled(1_000_000, 50), WINDOW_MAX);
    }

    #[test]
    fn a_queue_does_not_widen_it() {
        // 100 MB/s over 1 ms holds 0.1 MB.
        assert_eq!(settled(100_000, 1), WINDOW_MIN);
        let mut window = Window::default();
        window.handle_ack(Duration::from_millis(1), 4 * MIB);
        assert_eq!(window.bytes(), 6 * MIB);
        for _ in 0..FILLS {
            window.handle_ack(Duration::from_millis(3), 6 * MIB);
        }
        assert_eq!(window.bytes(), 3 * MIB);
    }

    #[test]
    fn times_that_are_equal_are_no_division_by_zero() {
        let mut window = Window::default();
        window.handle_ack(Duration::ZERO, u32::MAX);
        assert_eq!(window.bytes(), WINDOW_MAX);
    }
}
