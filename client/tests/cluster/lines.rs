//! `append --lines` when servers go away: what is told of the lines that were not appended.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::Stdio;

use serde_json::Value;

use crate::appender::records;
use crate::harness::{Cluster, Running};

/// A server that is stopped is waited for longer than a command may take.
const PATIENT: &[&str] = &[
    "chunk_size=1MiB",
    "heartbeat=100ms",
    "suspect_after=10s",
    "dead_after=20s",
    "safe_mode_max=5s",
];

/// Lines that no stream takes at once.
const LINES: usize = 5_000;

fn lines() -> String {
    (0..LINES)
        .map(|number| format!("line {number}\n"))
        .collect()
}

/// They were told with 8,194 lines on stderr.
#[test]
fn lines_that_can_not_be_appended_are_one_error() {
    let mut cluster = Cluster::start(1);
    cluster.put(b"", "/log");
    cluster.kill_chunkserver(0);
    let file = cluster.local("lines", lines().as_bytes());
    let file = file.to_str().expect("a plain name");
    let append = ["--timeout", "1s", "append", "--lines", "/log", file];
    let done = cluster.sarsen(&append);
    assert_eq!((done.code, &done.stdout[..]), (Some(5), &b""[..]));
    let told: Vec<&str> = done.stderr.lines().collect();
    assert_eq!(told.len(), 2, "{}", done.stderr);
    assert!(told[0].starts_with("sarsen: append /log: line 1 was not appended: "));
    assert!(
        told[0].ends_with("; of the lines behind it 4999 were not tried"),
        "{}",
        told[0]
    );
    assert!(!told[0].contains("no master"), "{}", told[0]);
}

/// The master was there, and was said to be not.
#[test]
fn what_is_said_to_be_waited_for_is_the_chunkservers() {
    let cluster = Cluster::start_with(1, PATIENT);
    cluster.put(b"", "/log");
    let server = cluster.chunkservers[0].as_ref().expect("it runs");
    server.signal("STOP");
    for verb in [&["append", "/log"][..], &["write", "--offset", "0", "/log"]] {
        let args = [&["--timeout", "1s"], verb].concat();
        let done = cluster.sarsen_with_input(&args, b"bytes");
        assert_eq!(done.code, Some(5), "{}", done.stderr);
        assert!(
            done.stderr.contains("waits for chunkservers"),
            "{}",
            done.stderr
        );
        assert!(!done.stderr.contains("no master"), "{}", done.stderr);
    }
    server.signal("CONT");
}

/// Lines behind some that had failed were appended, and their offsets stood in the places of those.
#[test]
fn behind_a_line_that_failed_none_is_begun() {
    for json in [false, true] {
        let cluster = Cluster::start_with(1, PATIENT);
        cluster.put(b"", "/log");
        let mut command = cluster.command();
        command.args(["--master", &cluster.control, "--timeout", "2s"]);
        command.args(if json { &["--json"][..] } else { &[] });
        command.args(["append", "--lines", "/log"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = command.stderr(Stdio::piped()).spawn();
        let mut append = Running(child.expect("the binary runs"));
        let mut stdin = append.0.stdin.take().expect("piped");
        let mut stdout = BufReader::new(append.0.stdout.take().expect("piped"));
        let mut told = Vec::new();
        for number in 0..10 {
            writeln!(stdin, "line {number}").expect("it reads");
            let mut line = String::new();
            stdout.read_line(&mut line).expect("an offset");
            told.push(line.trim_end().to_owned());
        }
        let server = cluster.chunkservers[0].as_ref().expect("it runs");
        server.signal("STOP");
        for number in 10..LINES {
            // It ends before it has read all, maybe.
            if writeln!(stdin, "line {number}").is_err() {
                break;
            }
        }
        assert_ne!(append.ended(), Some(0));
        let mut stderr = String::new();
        let mut errors = append.0.stderr.take().expect("piped");
        errors.read_to_string(&mut stderr).expect("text");
        let is_first = stderr.contains("append /log: line 11 is in doubt: ");
        assert!(is_first && stderr.lines().count() <= 2, "{stderr}");
        assert!(stderr.contains("were not tried"), "{stderr}");
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).expect("text");
        assert_eq!(rest, "", "nothing behind it was appended");
        server.signal("CONT");
        let found = cluster.until("it is readable again", |cluster| {
            let read = cluster.sarsen(&["records", "/log"]);
            (read.code == Some(0)).then(|| records(cluster, "/log"))
        });
        for (number, told) in told.iter().enumerate() {
            let offset = match json {
                false => told.parse().ok(),
                true => {
                    let told: Value = serde_json::from_str(told).expect("JSON");
                    assert_eq!(told["line"], number + 1);
                    told["offset"].as_u64()
                }
            };
            assert_eq!(found.get(&format!("line {number}")).copied(), offset);
        }
    }
}
