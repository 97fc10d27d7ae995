//! The master killed at any moment: what was acknowledged stays, and nothing is done twice.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::chance::told;
use crate::harness::{Cluster, noise};

/// How often the master is killed, unless the variable `SARSEN_TEST_KILLS` says otherwise.
const KILLS: u64 = 6;

/// The longest time between two kills: several commands, each of which may be cut anywhere.
const KILL_INTERVAL_MAX_MS: u64 = 600;

fn kills() -> u64 {
    told("SARSEN_TEST_KILLS", KILLS)
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart() {
    let mut cluster = Cluster::start(3);
    let bytes = noise(1 << 20, 1);
    cluster.put(&bytes, "/kept");
    assert_eq!(cluster.sarsen(&["mkdir", "/folder"]).code, Some(0));
    cluster.kill_master();
    cluster.start_master();
    cluster.wait(3);
    assert!(cluster.bytes("/kept") == bytes);
    assert_eq!(cluster.sarsen(&["mkdir", "/folder"]).code, Some(4));
    cluster.until_healthy();
}

/// A client goes on through kills: each of its commands succeeds, and does what it says once.
#[test]
fn commands_go_on_through_kills_of_the_master() {
    let mut cluster = Cluster::start(3);
    let done = AtomicBool::new(false);
    let control = cluster.control.clone();
    let runtime = cluster.path("");
    let run = |args: &[&str], input: &[u8]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sarsen"));
        command
            .env("XDG_RUNTIME_DIR", &runtime)
            .args(["--master", &control, "--timeout", "60s"]);
        command.args(args);
        crate::harness::run(command, input)
    };
    let expected = thread::scope(|scope| {
        let commands = scope.spawn(|| {
            let mut expected = BTreeSet::new();
            let ok = |args: &[&str], input: &[u8]| {
                let done = run(args, input);
                assert_eq!(done.code, Some(0), "{args:?}: {}", done.stderr);
            };
            for number in 0_u64.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                ok(&["mkdir", &format!("/d{number}")], b"");
                ok(
                    &["put", "-", &format!("/d{number}/f")],
                    &number.to_le_bytes(),
                );
                ok(
                    &["mv", &format!("/d{number}/f"), &format!("/f{number}")],
                    b"",
                );
                ok(&["rm", "-r", &format!("/d{number}")], b"");
                expected.insert(format!("f{number}"));
            }
            expected
        });
        for kill in 0..kills() {
            let moments = noise(8, u64::from(std::process::id()) + kill);
            let wait = u64::from(u16::from_le_bytes([moments[0], moments[1]]));
            thread::sleep(Duration::from_millis(wait % KILL_INTERVAL_MAX_MS));
            cluster.kill_master();
            cluster.start_master();
        }
        done.store(true, Ordering::Relaxed);
        commands.join().expect("every command succeeded")
    });
    let commands = 4 * expected.len();
    println!(
        "{} kills under {commands} commands, each done once",
        kills()
    );
    cluster.wait(3);
    let list = cluster.sarsen(&["--json", "ls", "/"]).json();
    let names: BTreeSet<String> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, expected);
    for name in &expected {
        let number: u64 = name[1..].parse().unwrap();
        assert_eq!(cluster.bytes(&format!("/{name}")), number.to_le_bytes());
    }
    cluster.until_healthy();
}

/// The master dies before an upload asks for more chunks, and again when it is to publish: the
/// upload waits, and is done once.
#[test]
fn an_upload_waits_for_a_master_that_restarts_between_its_steps() {
    let mut cluster = Cluster::start(3);
    let bytes = noise(40 << 20, 7);
    let mut command = cluster.command();
    command.args(["--master", &cluster.control, "--timeout", "60s"]);
    command.args(["put", "-", "/file"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut stdin = child.stdin.take().expect("piped");
    let (first, rest) = bytes.split_at(3 << 19);
    stdin.write_all(first).expect("taken");
    // It has its pending file, and chunks for a beginning.
    cluster.until("the upload has begun", |cluster| {
        (!cluster.chunk_files(0).is_empty()).then_some(())
    });
    cluster.kill_master();
    let (almost, last) = rest.split_at(rest.len() - 1);
    thread::scope(|scope| {
        let feeding = scope.spawn(|| stdin.write_all(almost));
        cluster.start_master();
        feeding.join().expect("fed").expect("taken");
    });
    cluster.kill_master();
    stdin.write_all(last).expect("taken");
    drop(stdin);
    cluster.start_master();
    let done = child.wait_with_output().expect("a child");
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(0), "{told}");
    cluster.wait(3);
    assert!(cluster.bytes("/file") == bytes);
}

#[test]
fn a_drained_cluster_comes_back_whole() {
    let mut cluster = Cluster::start(3);
    let bytes = noise(3 << 20, 4);
    cluster.put(&bytes, "/file");
    for number in 0..3 {
        let chunkserver = cluster.chunkservers[number].take().unwrap();
        assert_eq!(chunkserver.terminate(), Some(0));
    }
    assert_eq!(cluster.master.take().unwrap().terminate(), Some(0));
    cluster.start_master();
    for number in 0..3 {
        cluster.start_chunkserver(number);
    }
    cluster.wait(3);
    assert!(cluster.bytes("/file") == bytes);
}
