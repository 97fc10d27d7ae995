//! `--limit-rate`: no command is faster than it was told, by its own report and whichever way the
//! bytes go, and none that is slow is given up.
//!
//! That a report's bytes never pass the rate times its seconds holds however busy the machine is:
//! bytes are paid for before they move, and a timer is late and never early.

use std::fs;
use std::os::unix::fs::FileExt as _;

use serde_json::Value;

use crate::harness::{Cluster, noise};
use crate::http::ask;

/// Far below a frame's size in the time after which a silent peer is given up, here 900 ms.
const RATE: u64 = 200 * 1024;

/// And as it is asked for.
const SLOW: &[&str] = &["--limit-rate", "200K"];

fn check_rate(told: &Value, bytes: usize) {
    assert_eq!(told["bytes"], bytes);
    let seconds = told["seconds"].as_f64().unwrap();
    assert!(bytes as f64 <= RATE as f64 * seconds, "{told}");
}

/// Nobody gave up anybody.
fn check_all_went_well(cluster: &Cluster) {
    for server in cluster.chunkservers.iter().flatten() {
        let metrics = ask(&server.http, "/metrics").1;
        for name in ["write_failures", "read_failures"] {
            let line = format!("sarsen_chunkd_{name}_total 0");
            assert!(metrics.lines().any(|it| it == line), "{metrics}");
        }
    }
    cluster.until_healthy();
}

#[test]
fn a_file_goes_up_and_comes_down_no_faster_than_it_may() {
    let cluster = Cluster::start(3);
    // Two chunks, the second of them not whole blocks.
    let bytes = noise((1 << 20) + 100_001, 1);
    let source = cluster.local("source", &bytes);
    let source = source.to_str().unwrap();
    let put = |args: &[&str]| cluster.sarsen(&[&["--json", "-v", "put"], SLOW, args].concat());
    let done = put(&[source, "/file"]);
    assert!(!done.stderr.contains("sent again"), "{}", done.stderr);
    check_rate(&done.json(), bytes.len());
    assert!(cluster.bytes("/file") == bytes);

    let target = cluster.path("target");
    let name = target.to_str().unwrap();
    let get = |args: &[&str]| cluster.sarsen(&[&["--json", "-v", "get"], SLOW, args].concat());
    let done = get(&["/file", name]);
    assert!(!done.stderr.contains("another replica"), "{}", done.stderr);
    check_rate(&done.json(), bytes.len());
    assert!(fs::read(&target).unwrap() == bytes);

    // What lies beside the target comes no second time, and counts for nothing.
    let done = get(&["--resume", "/file", name]).json();
    assert_eq!(done["resumed"], bytes.len());
    fs::File::options()
        .write(true)
        .open(&target)
        .unwrap()
        .write_all_at(&[!bytes[5]], 5)
        .unwrap();
    check_rate(&get(&["--resume", "/file", name]).json(), bytes.len());
    assert!(fs::read(&target).unwrap() == bytes);
    check_all_went_well(&cluster);
}

#[test]
fn pipes_and_folders_obey_it_too() {
    let cluster = Cluster::start(2);
    let bytes = noise(300_000, 2);
    let limited = |verb: &'static str| [&["--json", verb], SLOW].concat();
    let put = [&limited("put")[..], &["--replicas", "2", "-", "/pipe"]].concat();
    check_rate(&cluster.sarsen_with_input(&put, &bytes).json(), bytes.len());
    let cat = [
        "cat",
        "--limit-rate",
        "200KiB",
        "--offset",
        "70000",
        "/pipe",
    ];
    let done = cluster.sarsen(&cat);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stdout == bytes[70_000..]);

    // All files of a tree share the one limit.
    let tree = cluster.path("tree");
    fs::create_dir(&tree).unwrap();
    for number in 0..40 {
        fs::write(tree.join(number.to_string()), noise(9_000, number)).unwrap();
    }
    let source = tree.to_str().unwrap();
    let more = ["--replicas", "2", "-r", source, "/tree"];
    let told = cluster
        .sarsen(&[&limited("put")[..], &more].concat())
        .json();
    assert_eq!(told["files"], 40);
    check_rate(&told, 360_000);
    let back = cluster.path("back");
    let more = ["-r", "/tree", back.to_str().unwrap()];
    let told = cluster
        .sarsen(&[&limited("get")[..], &more].concat())
        .json();
    assert_eq!(told["files"], 40);
    check_rate(&told, 360_000);
    for number in 0..40 {
        let name = number.to_string();
        assert!(fs::read(back.join(&name)).unwrap() == fs::read(tree.join(name)).unwrap());
    }
    check_all_went_well(&cluster);
}

#[test]
fn a_rate_that_means_nothing_is_refused_with_what_to_do() {
    let cluster = Cluster::start(1);
    for verb in [
        &["put", "/dev/null", "/a"][..],
        &["get", "/a", "-"],
        &["cat", "/a"],
    ] {
        for (rate, tip) in [
            ("0", "give at least 1024"),
            ("-5M", "as in 100M"),
            ("fast", "as in 100M"),
            ("", "as in 100M"),
        ] {
            let args = [&verb[..1], &["--limit-rate", rate], &verb[1..]].concat();
            let done = cluster.sarsen(&args);
            assert_eq!(done.code, Some(2), "{args:?}: {}", done.stderr);
            assert!(done.stderr.contains("--limit-rate"), "{}", done.stderr);
            assert!(done.stderr.contains(tip), "{}", done.stderr);
        }
    }
}
