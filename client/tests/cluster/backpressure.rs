//! Crowds of bad peers: memory stays bounded, and an honest client is served.
//!
//! For the record, the throughput of one honest client with the crowd and without, in turn:
//!
//! ```text
//! SARSEN_TEST_ROUNDS=5 cargo test --release -p sarsen-client --test cluster backpressure:: \
//!     -- --nocapture
//! ```

use std::fs;
use std::path::Path;
use std::time::Instant;

use crate::chance::told;
use crate::crowd::{Crowd, Sizes};
use crate::harness::{Cluster, noise};
use crate::http::ask;

const MIB: usize = 1024 * 1024;

/// Anonymous memory that a chunkserver may take.
const CHUNKSERVER_KIB_MAX: u64 = 150 * 1024;

/// Anonymous memory that the master of few files may take.
const MASTER_KIB_MAX: u64 = 100 * 1024;

/// A line of `/metrics`: connections on the data plane.
const HERE: &str = "sarsen_chunkd_data_connections ";

/// And those whose hello failed, or never came.
const THROWN_OUT: &str = "sarsen_chunkd_hello_failures_total ";

fn anonymous_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .expect("a kernel that tells");
    let number = line.trim().trim_end_matches(" kB");
    number.parse().expect("a number")
}

fn check_memory(cluster: &Cluster) -> u64 {
    let mut most = 0;
    for server in cluster.chunkservers.iter().flatten() {
        let taken = anonymous_kib(server.pid());
        assert!(taken < CHUNKSERVER_KIB_MAX, "{taken} KiB");
        most = most.max(taken);
    }
    let taken = anonymous_kib(cluster.master.as_ref().expect("a master").pid());
    assert!(taken < MASTER_KIB_MAX, "the master: {taken} KiB");
    most
}

/// Uploads and downloads once; MB/s of each.
fn transfer(cluster: &Cluster, source: &Path, megabytes: f64) -> (f64, f64) {
    let name = source.to_str().expect("a plain name");
    let began = Instant::now();
    let put = [
        "put",
        "--force",
        "--purge",
        "--durability",
        "memory",
        name,
        "/honest",
    ];
    let done = cluster.sarsen(&put);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let up = megabytes / began.elapsed().as_secs_f64();
    let began = Instant::now();
    let done = cluster.sarsen(&["get", "/honest", "/dev/null"]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    (up, megabytes / began.elapsed().as_secs_f64())
}

#[test]
fn an_honest_client_is_served_beside_a_crowd_and_memory_is_bounded() {
    let cluster = Cluster::start_with(3, &["chunk_size=1MiB"]);
    let bytes = noise(20 * MIB, 1);
    cluster.put(&bytes, "/file");
    let sizes = Sizes {
        idle: 60,
        never_reading: 20,
        byte_a_second: 21,
    };
    let _crowd = Crowd::gather(&cluster, sizes, "/file");
    let source = cluster.local("honest", &bytes);
    for _ in 0..3 {
        transfer(&cluster, &source, 20.0);
        check_memory(&cluster);
    }
    assert!(cluster.bytes("/honest") == bytes);
    assert_eq!(cluster.sarsen(&["ls", "/"]).code, Some(0));
}

/// A number that each chunkserver tells at `/metrics`.
fn metrics(cluster: &Cluster, name: &str) -> Vec<u64> {
    let servers = cluster.chunkservers.iter().flatten();
    let told = servers.map(|server| {
        let (_, all) = ask(&server.http, "/metrics");
        let value = all.lines().find_map(|line| line.strip_prefix(name));
        let value = value.expect("a metric").trim();
        value.parse().expect("a number")
    });
    told.collect()
}

/// Gathers a crowd and waits until it is in, and each server has thrown out some of it again.
fn gather(cluster: &Cluster, sizes: Sizes) -> Crowd {
    let before = metrics(cluster, THROWN_OUT);
    let crowd = Crowd::gather(cluster, sizes, "/file");
    cluster.until("the crowd is in", |cluster| {
        let here = metrics(cluster, HERE);
        let who_stay = (sizes.idle + sizes.never_reading) as u64;
        let is_in = here.iter().all(|&here| here >= who_stay);
        let thrown_out = metrics(cluster, THROWN_OUT);
        let is_fought = thrown_out.iter().zip(&before).all(|(now, then)| now > then);
        (is_in && is_fought).then_some(())
    });
    crowd
}

/// Waits until servers have no connections but the few that they keep to one another.
fn until_gone(cluster: &Cluster) {
    cluster.until("the crowd is gone", |cluster| {
        let here = metrics(cluster, HERE);
        here.iter().all(|&here| here < 20).then_some(())
    });
}

/// For the record: nothing is done unless `SARSEN_TEST_ROUNDS` says how often.
#[test]
fn throughput_beside_a_crowd() {
    let rounds = told("SARSEN_TEST_ROUNDS", 0);
    if rounds == 0 {
        return;
    }
    let cluster = Cluster::start_with(3, &[]);
    let bytes = noise(512 * MIB, 2);
    let megabytes = bytes.len() as f64 / 1e6;
    cluster.put(&bytes, "/file");
    let source = cluster.local("honest", &bytes);
    transfer(&cluster, &source, megabytes);
    let sizes = Sizes {
        idle: 300,
        never_reading: 50,
        byte_a_second: 50,
    };
    // Each of them as [without, with].
    let (mut ups, mut downs) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 0..2 * rounds {
        let with = usize::from(round % 2 == 1);
        until_gone(&cluster);
        let crowd = (with == 1).then(|| gather(&cluster, sizes));
        let (up, down) = transfer(&cluster, &source, megabytes);
        let memory = check_memory(&cluster);
        let who = ["alone", "beside the crowd"][with];
        println!(
            "{who}: up {up:.0} MB/s, down {down:.0} MB/s, {} MiB taken",
            memory / 1024
        );
        ups[with].push(up);
        downs[with].push(down);
        drop(crowd);
    }
    for (what, [mut alone, mut beside]) in [("up", ups), ("down", downs)] {
        let median = |rates: &mut Vec<f64>| {
            rates.sort_by(f64::total_cmp);
            rates[rates.len() / 2]
        };
        let (alone, beside) = (median(&mut alone), median(&mut beside));
        let change = 100.0 * (beside / alone - 1.0);
        println!("{what}: median {alone:.0} MB/s alone, {beside:.0} beside: {change:+.1} %");
    }
}
