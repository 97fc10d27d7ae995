//! Two chunks on two chains don't wait for each other. Times are those of the virtual clock.

use sarsen_sim::cluster::apart::{Apart, run};

/// A server of one chain is cut off for 700 ms: no record of that one is acknowledged meanwhile but
/// what was on its way, and the other chain's take no longer than they do anyway.
#[test]
fn a_chain_that_waits_holds_no_other_up() {
    for seed in 0..5 {
        let Apart { held_up, free } = run(seed).expect("nothing is broken");
        println!("seed {seed}: held up {held_up:?}, free {free:?}");
        assert!(held_up.longest.1 > 10 * held_up.longest.0, "{held_up:?}");
        assert!(
            free.records.1 > 10 * held_up.records.1.max(1),
            "{held_up:?}, {free:?}"
        );
        assert!(free.longest.1 <= 2 * free.longest.0, "{free:?}");
    }
}
