//! Two chunks whose chains have no server in common don't wait for each other: there is no order
//! between them, at a client, a chunkserver or the master (`spec/replication.md` section 6).

use std::collections::BTreeSet;

use crate::appender::Appender;
use crate::harness::Cluster;

/// A server that hangs is waited for, for longer than the test takes.
const SETTINGS: &[&str] = &[
    "heartbeat=200ms",
    "suspect_after=2m",
    "dead_after=4m",
    "lease=5m",
    "safe_mode_max=5s",
];

/// The servers that hold a file's last chunk: their numbers among the chunkservers.
fn members(cluster: &Cluster, path: &str) -> BTreeSet<usize> {
    let located = cluster.sarsen(&["--json", "locate", path]).json();
    let chunks = located["chunks"].as_array().expect("chunks");
    let replicas = chunks.last().expect("one")["replicas"].as_array();
    let replicas = replicas.expect("replicas").iter();
    let addresses = replicas.map(|replica| replica["data_addr"].as_str().expect("an address"));
    let numbers = addresses.map(|addr| {
        let mut servers = cluster.chunkservers.iter();
        servers.position(|server| {
            let server = server.as_ref().expect("all run");
            server.data.as_deref() == Some(addr)
        })
    });
    numbers.map(|number| number.expect("a server")).collect()
}

/// Records are appended to two files whose chunks have no server in common: who does, and a server of
/// the first.
fn two_apart(cluster: &Cluster) -> (Appender, Appender, usize) {
    let mut all: Vec<(Appender, BTreeSet<usize>)> = Vec::new();
    for number in 0..100 {
        let path = format!("/log-{number}");
        assert_eq!(cluster.sarsen(&["touch", &path]).code, Some(0));
        let appender = Appender::start(cluster, &path, &[]);
        appender.until_more(cluster, 1);
        let its = members(cluster, &path);
        if let Some(at) = all.iter().position(|(_, them)| them.is_disjoint(&its)) {
            let victim = *its.first().expect("a member");
            return (appender, all.swap_remove(at).0, victim);
        }
        all.push((appender, its));
    }
    panic!(
        "every two files share a server: {:?}",
        all.iter().map(|it| &it.1).collect::<Vec<_>>()
    );
}

#[test]
fn two_chunks_on_two_chains_do_not_wait_for_each_other() {
    let cluster = Cluster::start_with(6, SETTINGS);
    let (stuck, free, victim) = two_apart(&cluster);
    stuck.until_more(&cluster, 20);
    free.until_more(&cluster, 20);
    let daemon = cluster.chunkservers[victim].as_ref().expect("it runs");
    daemon.signal("STOP");
    // What was on its way comes to its end meanwhile.
    free.until_more(&cluster, 50);
    let (stuck_had, free_had) = (stuck.acknowledged(), free.acknowledged());
    free.until_more(&cluster, 200);
    let (stuck_got, free_got) = (
        stuck.acknowledged() - stuck_had,
        free.acknowledged() - free_had,
    );
    daemon.signal("CONT");
    println!("{free_got} records acknowledged on one chain, {stuck_got} on the one that hung");
    assert!(stuck_got <= free_got / 10, "the chain did not hang");
    stuck.until_more(&cluster, 20);
    stuck.finish(&cluster);
    free.finish(&cluster);
}
