//! A client far away fills its link, by what the shipped windows, buffers and requests allow.

use std::time::Duration;

use sarsen_chunkd::io::pool::BUFFERS_DEFAULT;
use sarsen_sim::far::{Outcome, Ways, download, upload};

/// 16 GiB: some 14 s at 10 Gbit/s, in which the windows are found anew once.
const CHUNKS: u32 = 256;

/// Buffers of the client and of a chunkserver stay few, however long the way is.
fn check_memory(outcome: &Outcome, ways: &Ways) {
    assert!(outcome.client_buffers <= 2 * ways.streams, "{outcome:?}");
    assert!(outcome.server_buffers <= BUFFERS_DEFAULT / 2, "{outcome:?}");
}

fn transfer(ways: Ways, chunks: u32) -> (f64, f64) {
    let (up, down) = (upload::run(ways, chunks), download::run(ways, chunks));
    check_memory(&up, &ways);
    check_memory(&down, &ways);
    (up.share, down.share)
}

/// Streams waited for their seals, a round trip and a sync for each 64 MiB, and 4 of them reached 0.89
/// of the link.
#[test]
fn ten_gigabits_a_second_are_filled_at_fifty_milliseconds() {
    let ways = Ways::default();
    let (up, down) = transfer(ways, CHUNKS);
    assert!(up >= 0.95 && down >= 0.9, "{up} up, {down} down");
    let (up, down) = transfer(Ways { streams: 8, ..ways }, CHUNKS);
    assert!(up >= 0.97 && down >= 0.95, "{up} up, {down} down");
}

#[test]
fn nearer_or_slower_ways_are_filled_too() {
    for (rate, round_trip, chunks) in [
        (1_250_000_000, 1, CHUNKS),
        (125_000_000, 50, 32),
        (125_000_000, 10, 32),
    ] {
        let ways = Ways {
            rate,
            round_trip: Duration::from_millis(round_trip),
            ..Ways::default()
        };
        let (up, down) = transfer(ways, chunks);
        assert!(up >= 0.9 && down >= 0.9, "{ways:?}: {up} up, {down} down");
    }
}

/// Why the README has socket buffers raised on such ways: what Linux lets a connection have by
/// itself is less than its part of them.
#[test]
fn the_kernels_own_windows_do_not_fill_it() {
    let ways = Ways {
        tcp_window: 6 * 1024 * 1024,
        ..Ways::default()
    };
    let (up, down) = transfer(ways, 64);
    assert!(up < 0.4 && down < 0.4, "{up} up, {down} down");
}
