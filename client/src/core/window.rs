//! How many bytes of write streams may be on their way: as many as fill the chains, and half as
//! many again.
//!
//! Fewer leave them idle. More wait in queues, where nothing is won: they take memory in every
//! member, and grow cold in the processors' caches before they are copied again.
//!
//! ```text
//! when an ack comes, of a whole payload that was sent at `sent_at`, when `acked_before` had been acked:
//!   round_trip = now - sent_at
//!   shortest   = the shortest round trip over this chain, of all of the client's streams
//!   fill       = (acked - acked_before) * shortest / round_trip    # the stream's rate * shortest
//!   window     = 3/2 * the largest of the stream's last FILLS
//!                within WINDOW_MIN and this stream's part of WINDOWS_MAX
//! ```
//!
//! A chain that is not full has round trips close to the shortest, so the window grows with each
//! until it is; one with a queue has longer ones, and the window stays or falls. The rates of all
//! streams add up to the client's, and so the windows to what fills its link, however many streams
//! share it. That needs a shortest round trip without a queue, also of the streams beside, which
//! no chunk sees by itself: its first piece waits until the chunk is made, the others for one another.
//! So the client's streams share what they know of a chain ([`Windows`]), and a new one begins with
//! the window that the last had. A way may become longer for good, so all that is known is
//! forgotten every [`KNOWN_FOR`]: for two round trips each stream then has one payload on its way, the queues
//! run empty, and the shortest is found anew.

use std::collections::BTreeMap;
use std::time::Duration;

use sarsen_protocol::id::ServerId;
use sarsen_protocol::size::PAYLOAD_LEN_MAX;

/// Bytes that a stream may have on their way at the least: one payload.
pub const WINDOW_MIN: u32 = PAYLOAD_LEN_MAX;

/// Bytes that a stream may have on their way at first, before anything is known.
pub const WINDOW_FIRST: u32 = 2 * PAYLOAD_LEN_MAX;

/// Bytes that all streams of a client may have on their way: half as many again as fill 10 Gbit/s
/// over 50 ms.
pub const WINDOWS_MAX: u32 = 96 * PAYLOAD_LEN_MAX;

/// How long a shortest round trip counts.
pub const KNOWN_FOR: Duration = Duration::from_secs(10);

/// The longest round trip for which two are waited while queues run empty.
const ROUND_TRIP_MAX: Duration = Duration::from_millis(500);

/// Acks whose fills are remembered.
const FILLS: usize = 8;

/// What the streams of one client know together.
#[derive(Clone, Debug, Default)]
pub struct Windows {
    streams: u32,
    /// The shortest round trip of a whole payload, by the members of the chain.
    shortest: BTreeMap<Box<[ServerId]>, Duration>,
    /// What a stream that begins takes for its fill.
    fill: Option<u32>,
    /// When all this is to be found anew.
    known_until: Duration,
    /// Until then queues run empty.
    quiet_until: Duration,
}

/// What one stream knows beside that.
#[derive(Clone, Debug, Default)]
pub struct Window {
    fills: [Option<u32>; FILLS],
    /// The place of the next.
    next: usize,
}

/// What an ack shows.
#[derive(Clone, Copy, Debug)]
pub struct Acked {
    /// How long it took to come, after the last piece was sent that it acknowledges.
    pub round_trip: Duration,
    /// The length of that piece.
    pub len: u32,
    /// Bytes that were acknowledged in that time, those of the piece too.
    pub bytes: u32,
}

impl Windows {
    /// A stream begins; [`Self::end`] is to be called when it is over.
    pub fn begin(&mut self, now: Duration) -> Window {
        if self.streams == 0 && now >= self.known_until {
            self.shortest.clear();
            self.fill = None;
            self.known_until = now.saturating_add(KNOWN_FOR);
        }
        self.streams += 1;
        let mut window = Window::default();
        window.push(self.fill);
        window
    }

    /// A stream is over.
    pub fn end(&mut self) {
        self.streams = self.streams.saturating_sub(1);
    }

    /// Bytes that a stream may have on their way: a piece may follow while there are fewer.
    #[must_use]
    pub fn bytes(&self, now: Duration, window: &Window) -> u32 {
        if now < self.quiet_until {
            return WINDOW_MIN;
        }
        let max = (WINDOWS_MAX / self.streams.max(1)).max(WINDOW_MIN);
        let wanted = window
            .fill()
            .map_or(WINDOW_FIRST, |fill| fill.saturating_add(fill / 2));
        wanted.clamp(WINDOW_MIN, max)
    }

    /// An ack came over a chain of these members, to the stream whose window this is.
    pub fn handle_ack(
        &mut self,
        now: Duration,
        window: &mut Window,
        chain: &[ServerId],
        acked: Acked,
    ) {
        // A shorter piece takes less time, and says nothing of how long a whole one takes.
        if acked.len < PAYLOAD_LEN_MAX {
            return;
        }
        // Two events may have the same time.
        let round_trip = acked.round_trip.max(Duration::from_nanos(1));
        if now >= self.known_until {
            self.shortest.clear();
            self.known_until = now.saturating_add(KNOWN_FOR);
            self.quiet_until = now.saturating_add(2 * round_trip.min(ROUND_TRIP_MAX));
        }
        let shortest = match self.shortest.get_mut(chain) {
            Some(shortest) => {
                *shortest = round_trip.min(*shortest);
                *shortest
            }
            None => {
                self.shortest.insert(chain.into(), round_trip);
                round_trip
            }
        };
        // What came with queues that ran empty is not what the chain can take.
        if now < self.quiet_until {
            return;
        }
        let fill = u128::from(acked.bytes) * shortest.as_nanos() / round_trip.as_nanos();
        window.push(Some(u32::try_from(fill).unwrap_or(WINDOWS_MAX)));
        self.fill = window.fill();
    }
}

impl Window {
    fn push(&mut self, fill: Option<u32>) {
        if let Some(place) = self.fills.get_mut(self.next) {
            *place = fill;
        }
        self.next = (self.next + 1) % FILLS;
    }

    fn fill(&self) -> Option<u32> {
        self.fills.iter().copied().flatten().max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u32 = 1024 * 1024;
    const CHAIN: [ServerId; 2] = [ServerId(4), ServerId(5)];
    const OTHER: [ServerId; 2] = [ServerId(5), ServerId(4)];

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn acked(round_trip: u64, bytes: u32) -> Acked {
        Acked {
            round_trip: millis(round_trip),
            len: MIB,
            bytes,
        }
    }

    /// Streams over one link that takes `rate` bytes a millisecond and has `delay`, in rounds in
    /// which each has its whole window on its way, after one piece alone: the windows that they
    /// come to.
    fn settled(streams: usize, rate: u32, delay: u64) -> Vec<u32> {
        let mut windows = Windows::default();
        let mut now = millis(0);
        let mut all: Vec<_> = (0..streams).map(|_| windows.begin(now)).collect();
        let alone = delay.max(u64::from(MIB / rate));
        windows.handle_ack(now, &mut all[0], &CHAIN, acked(alone, MIB));
        for _ in 0..60 {
            let sizes: Vec<u32> = all.iter().map(|it| windows.bytes(now, it)).collect();
            let total: u32 = sizes.iter().sum();
            let round_trip = delay.max(u64::from(total / rate));
            now += millis(round_trip);
            for (window, bytes) in all.iter_mut().zip(sizes) {
                windows.handle_ack(now, window, &CHAIN, acked(round_trip, bytes));
            }
        }
        all.iter().map(|it| windows.bytes(now, it)).collect()
    }

    #[test]
    fn a_stream_begins_small_and_grows_until_the_chain_is_full() {
        let mut windows = Windows::default();
        let window = windows.begin(millis(0));
        assert_eq!(windows.bytes(millis(0), &window), WINDOW_FIRST);
        // 1 GB/s over 4 ms holds 4 MB.
        let full = settled(1, 1_000_000, 4);
        assert!((4_000_000..8_000_000).contains(&full[0]), "{full:?}");
        // 10 Gbit/s over 50 ms holds 62.5 MB.
        let full = settled(1, 1_250_000, 50);
        assert!((62_500_000..=WINDOWS_MAX).contains(&full[0]), "{full:?}");
    }

    /// Each stream had a window of its own that began with two payloads and never had fewer, so
    /// that twice as many streams had twice as much in queues.
    #[test]
    fn streams_that_share_a_link_share_what_fills_it() {
        for streams in [2, 4, 8] {
            let all = settled(streams, 1_250_000, 50);
            let total: u32 = all.iter().sum();
            assert!((62_500_000..=WINDOWS_MAX).contains(&total), "{all:?}");
        }
    }

    #[test]
    fn a_queue_does_not_widen_it() {
        // 100 MB/s over 1 ms holds 0.1 MB.
        assert!(settled(1, 100_000, 1)[0] <= WINDOW_FIRST);
        let mut windows = Windows::default();
        let mut window = windows.begin(millis(0));
        windows.handle_ack(millis(1), &mut window, &CHAIN, acked(1, 4 * MIB));
        assert_eq!(windows.bytes(millis(1), &window), 6 * MIB);
        for _ in 0..FILLS {
            windows.handle_ack(millis(2), &mut window, &CHAIN, acked(3, 6 * MIB));
        }
        assert_eq!(windows.bytes(millis(2), &window), 3 * MIB);
    }

    #[test]
    fn a_stream_knows_what_those_before_it_found_of_its_chain() {
        let mut windows = Windows::default();
        let mut first = windows.begin(millis(0));
        windows.handle_ack(millis(2), &mut first, &CHAIN, acked(2, 8 * MIB));
        windows.end();
        let mut second = windows.begin(millis(3));
        assert_eq!(windows.bytes(millis(3), &second), 12 * MIB);
        // Its first piece waited for its chunk to be made: that is no delay of the chain.
        for _ in 0..FILLS {
            windows.handle_ack(millis(9), &mut second, &CHAIN, acked(4, 8 * MIB));
        }
        assert_eq!(windows.bytes(millis(9), &second), 6 * MIB);
        // Another chain is another way.
        windows.handle_ack(millis(9), &mut second, &OTHER, acked(4, 8 * MIB));
        assert_eq!(windows.bytes(millis(9), &second), 12 * MIB);
    }

    #[test]
    fn a_short_piece_says_nothing_of_whole_ones() {
        let mut windows = Windows::default();
        let mut window = windows.begin(millis(0));
        windows.handle_ack(millis(10), &mut window, &CHAIN, acked(10, 4 * MIB));
        let short = Acked {
            len: 4096,
            ..acked(1, 4096)
        };
        windows.handle_ack(millis(11), &mut window, &CHAIN, short);
        windows.handle_ack(millis(12), &mut window, &CHAIN, acked(10, 4 * MIB));
        assert_eq!(windows.bytes(millis(12), &window), 6 * MIB);
    }

    /// A way that had become longer for good looked like a queue, and the window fell to its least.
    #[test]
    fn what_is_known_is_found_anew_with_empty_queues() {
        let mut windows = Windows::default();
        let mut window = windows.begin(millis(0));
        windows.handle_ack(millis(10), &mut window, &CHAIN, acked(10, 40 * MIB));
        let now = KNOWN_FOR;
        windows.handle_ack(now, &mut window, &CHAIN, acked(30, 40 * MIB));
        assert_eq!(windows.bytes(now, &window), WINDOW_MIN);
        windows.handle_ack(now + millis(50), &mut window, &CHAIN, acked(20, MIB));
        let now = now + millis(60);
        assert_eq!(windows.bytes(now, &window), 60 * MIB, "as it was before");
        for _ in 0..FILLS {
            windows.handle_ack(now, &mut window, &CHAIN, acked(20, 40 * MIB));
        }
        assert_eq!(
            windows.bytes(now, &window),
            60 * MIB,
            "and with the new way"
        );
    }

    #[test]
    fn a_client_that_rested_knows_nothing() {
        let mut windows = Windows::default();
        let mut window = windows.begin(millis(0));
        windows.handle_ack(millis(10), &mut window, &CHAIN, acked(10, 40 * MIB));
        windows.end();
        let now = 2 * KNOWN_FOR;
        let window = windows.begin(now);
        assert_eq!(windows.bytes(now, &window), WINDOW_FIRST);
    }

    #[test]
    fn times_that_are_equal_are_no_division_by_zero() {
        let mut windows = Windows::default();
        let mut window = windows.begin(millis(0));
        windows.handle_ack(millis(0), &mut window, &CHAIN, acked(0, u32::MAX));
        assert_eq!(windows.bytes(millis(0), &window), WINDOWS_MAX);
    }
}
