//! `sarsen wait`.

use crate::harness::Cluster;

/// A chunkserver that had fallen silent was waited for as one that is there until it was dead, ten seconds
/// with the defaults.
#[test]
fn a_server_that_fell_silent_is_not_counted() {
    let settings = [
        "chunk_size=1MiB",
        "heartbeat=100ms",
        "suspect_after=900ms",
        // Far behind the end of this test.
        "dead_after=10m",
        "safe_mode_max=5s",
    ];
    let cluster = Cluster::start_with(2, &settings);
    let stopped = cluster.chunkservers[1].as_ref().expect("it runs");
    stopped.signal("STOP");
    let wait =
        |count, timeout| cluster.sarsen(&["wait", "--chunkservers", count, "--timeout", timeout]);
    cluster.until("the silence is noticed", |_| {
        let done = wait("2", "50ms");
        (done.code == Some(5)).then(|| {
            let told = "1 of 2 chunkservers are live after 50ms, 1 more fell silent";
            assert!(done.stderr.contains(told), "{}", done.stderr);
        })
    });
    assert_eq!(wait("1", "60s").code, Some(0));
    stopped.signal("CONT");
    let done = wait("2", "60s");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
}
