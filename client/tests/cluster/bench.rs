//! `sarsen bench`, and that it leaves nothing behind.

use std::process::{Command, Stdio};

use crate::harness::Cluster;

fn names(cluster: &Cluster) -> String {
    cluster.sarsen(&["ls", "/"]).text()
}

#[test]
fn what_is_measured_is_gone_afterwards() {
    let cluster = Cluster::start(3);
    let crowd = ["--clients", "2", "--in-flight", "3", "--duration", "300ms"];
    for (op, size) in [
        ("put", "100K"),
        ("get", "3M"),
        ("append", "1K"),
        ("read", "4K"),
        ("meta", "0"),
    ] {
        let args = [&["--json", "bench", op, "--size", size][..], &crowd].concat();
        let measured = cluster.sarsen(&args).json();
        assert_eq!(measured["op"], op);
        assert!(measured["ops_per_s"].as_f64() > Some(0.0), "{measured}");
        assert_eq!(measured["bytes"] == 0, op == "meta", "{measured}");
        let servers = &measured["cpu_s_per_gib"]["servers"];
        // Per GiB of nothing there is none.
        assert_eq!(servers.is_null(), op == "meta", "{measured}");
        assert_eq!(names(&cluster), "");
    }
    assert_eq!(
        cluster
            .sarsen(&["trash", "ls"])
            .text()
            .matches("bench")
            .count(),
        0
    );
}

#[test]
fn who_is_interrupted_cleans_up() {
    let cluster = Cluster::start(1);
    let mut command = cluster.command();
    command.args(["--master", &cluster.control, "bench", "put"]);
    command.args(["--replicas", "1", "--duration", "10m"]);
    let mut bench = command.stdout(Stdio::null()).spawn().expect("it runs");
    cluster.until("it has begun", |cluster| {
        names(cluster).contains(".bench-").then_some(())
    });
    let pid = bench.id().to_string();
    let sent = Command::new("kill").args(["-s", "INT", &pid]).status();
    assert!(sent.expect("kill").success());
    assert_eq!(bench.wait().expect("it ends").code(), Some(130));
    assert_eq!(names(&cluster), "");
}

#[test]
fn a_record_that_is_too_long_to_measure_is_told() {
    let cluster = Cluster::start(1);
    let args = ["bench", "append", "--size", "1G", "--replicas", "1"];
    let done = cluster.sarsen(&args);
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.contains("cut it"), "{}", done.stderr);
    assert_eq!(names(&cluster), "");
}
