//! The primary of a chunk dies or hangs while records are appended (`spec/replication.md` sections
//! 5 and 7): nothing that was acknowledged is lost, nothing is there twice, and appends go on.
//!
//! For the record, with the times of daily life, and the longest gap printed:
//!
//! ```text
//! SARSEN_TEST_ROUNDS=5 SARSEN_TEST_TIMES=daily \
//!     cargo test --release -p sarsen-client --test cluster failover:: -- --nocapture
//! ```

use std::thread;
use std::time::Duration;

use crate::appender::{Appender, primary};
use crate::chance::told;
use crate::harness::Cluster;

/// Times of the tests, but for `SARSEN_TEST_TIMES=daily`.
const SHORT: &[&str] = &[
    "chunk_size=1MiB",
    "heartbeat=200ms",
    "suspect_after=1s",
    "dead_after=2s",
    "lease=3s",
    "repair_grace=500ms",
    "gc_interval=500ms",
    "safe_mode_max=5s",
];

/// The defaults of `suspect_after` and `dead_after`, with a lease that a test can outlast.
const DAILY: &[&str] = &["lease=12s"];

/// How long a primary is stopped: longer than `dead_after` and than the lease.
const STOPPED: Duration = Duration::from_secs(5);
const STOPPED_DAILY: Duration = Duration::from_secs(16);

fn is_daily() -> bool {
    std::env::var("SARSEN_TEST_TIMES").is_ok_and(|times| times == "daily")
}

fn cluster(servers: usize) -> Cluster {
    let settings = if is_daily() { DAILY } else { SHORT };
    let cluster = Cluster::start_with(servers, settings);
    assert_eq!(cluster.sarsen(&["touch", "/log"]).code, Some(0));
    cluster
}

#[test]
fn appends_go_on_when_their_primary_is_killed() {
    let mut cluster = cluster(4);
    let appender = Appender::start(&cluster, "/log", &[]);
    for _ in 0..told("SARSEN_TEST_ROUNDS", 1) {
        appender.until_more(&cluster, 50);
        let victim = primary(&cluster, "/log");
        cluster.kill_chunkserver(victim);
        appender.until_more(&cluster, 50);
        cluster.start_chunkserver(victim);
    }
    let gap = appender.finish(&cluster);
    println!("kill -9 of the primary: appends waited for at most {gap:?}");
    cluster.until_healthy();
}

#[test]
fn a_primary_that_slept_through_its_lease_changes_nothing_any_more() {
    let cluster = cluster(4);
    let appender = Appender::start(&cluster, "/log", &[]);
    for _ in 0..told("SARSEN_TEST_ROUNDS", 1) {
        appender.until_more(&cluster, 50);
        let victim = primary(&cluster, "/log");
        let daemon = cluster.chunkservers[victim].as_ref().expect("it runs");
        daemon.signal("STOP");
        appender.until_more(&cluster, 50);
        thread::sleep(if is_daily() { STOPPED_DAILY } else { STOPPED });
        daemon.signal("CONT");
        appender.until_more(&cluster, 50);
    }
    let gap = appender.finish(&cluster);
    println!("SIGSTOP of the primary: appends waited for at most {gap:?}");
    cluster.until_healthy();
}
