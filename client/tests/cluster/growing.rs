//! A file is read while others append to it (`spec/replication.md` section 12, `spec/records.md`
//! section 3): every record in order, none twice, and no reader goes back in time.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use sarsen_client::{Client, Error};
use serde_json::Value;

use crate::harness::Cluster;

/// Records that are appended, of about a kilobyte: more than one chunk of a mebibyte takes.
const RECORDS: usize = 2500;

/// Nothing takes so long.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a record says: its number, and enough to fill it.
fn line(number: usize) -> String {
    format!("record {number} {}", "x".repeat(400 + number % 700))
}

/// Lines `from` on, as `append --lines` takes them.
fn lines(from: usize, count: usize) -> String {
    let lines = (from..from + count).map(|number| line(number) + "\n");
    lines.collect()
}

fn append(cluster: &Cluster, from: usize, count: usize) -> Vec<u64> {
    let args = ["append", "--lines", "/log"];
    let done = cluster.sarsen_with_input(&args, lines(from, count).as_bytes());
    let offsets: Vec<u64> = done
        .text()
        .lines()
        .map(|it| it.parse().expect("an offset"))
        .collect();
    assert_eq!(offsets.len(), count);
    offsets
}

/// Ended when it is dropped.
struct Tail(Child);

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Follows a file by the program; the lines that it shows, each when it comes.
fn tail(cluster: &Cluster) -> (Tail, mpsc::Receiver<Vec<u8>>) {
    let mut command = cluster.command();
    command.args([
        "--master",
        &cluster.control,
        "tail",
        "-c",
        "0",
        "-f",
        "/log",
    ]);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let stdout = BufReader::with_capacity(1 << 16, child.stdout.take().expect("piped"));
    let (shown, lines) = mpsc::channel();
    // Records end where the next header begins; what is looked for are their words.
    thread::spawn(move || {
        for part in stdout.split(b' ') {
            let Ok(part) = part else { return };
            if shown.send(part).is_err() {
                return;
            }
        }
    });
    (Tail(child), lines)
}

#[test]
fn tail_sees_every_record_in_order_and_records_each_once() {
    let cluster = Cluster::start(3);
    assert_eq!(cluster.sarsen(&["touch", "/log"]).code, Some(0));
    let (_tail, shown) = tail(&cluster);
    let mut offsets = append(&cluster, 0, RECORDS / 2);
    offsets.extend(append(&cluster, RECORDS / 2, RECORDS - RECORDS / 2));
    assert!(offsets.is_sorted(), "one writer, in order");
    // Of "record N xxx…" the number is the part behind one that ends with "record".
    let mut next = 0;
    let mut is_number = false;
    while next < RECORDS {
        let part = shown
            .recv_timeout(PATIENCE)
            .expect("the next record is shown");
        if is_number {
            assert_eq!(part, next.to_string().as_bytes(), "in order, none left out");
            next += 1;
        }
        is_number = part.ends_with(b"record");
    }
    let done = cluster.sarsen(&["--json", "records", "/log"]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let text = String::from_utf8(done.stdout).expect("text");
    let read: Vec<Value> = text
        .lines()
        .map(|it| serde_json::from_str(it).expect("JSON"))
        .collect();
    let found: Vec<u64> = read
        .iter()
        .map(|it| it["offset"].as_u64().expect("a number"))
        .collect();
    assert_eq!(found, offsets);
    let plain = cluster.sarsen(&["records", "/log"]).text();
    assert_eq!(plain, lines(0, RECORDS));
    let stat = cluster.sarsen(&["--json", "stat", "/log"]).json();
    let end = offsets[RECORDS - 1] + 32 + line(RECORDS - 1).len() as u64;
    assert_eq!(stat["size"], end);
    assert_eq!(cluster.bytes("/log").len() as u64, end);
    let sum = cluster.sarsen(&["--json", "checksum", "/log"]).json();
    let bytes = cluster.bytes("/log");
    let crc = sarsen_protocol::crc::crc32(&bytes);
    assert_eq!(sum["crc32"], format!("{crc:08x}"), "it was sealed first");
    // And opened again.
    let more = append(&cluster, RECORDS, 3);
    assert!(more[0] >= end);
    let plain = cluster.sarsen(&["records", "/log"]).text();
    assert_eq!(plain, lines(0, RECORDS + 3));
}

/// It ended, and the hint was to repeat the download.
#[test]
fn a_file_that_is_truncated_is_followed_from_its_new_end() {
    let cluster = Cluster::start(1);
    cluster.put(b"one\ntwo\nthree\n", "/log");
    let mut command = cluster.command();
    command.args(["--master", &cluster.control, "tail", "-f", "/log"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut tail = Tail(command.spawn().expect("the binary runs"));
    let mut stdout = BufReader::new(tail.0.stdout.take().expect("piped"));
    let mut stderr = BufReader::new(tail.0.stderr.take().expect("piped"));
    let mut line = String::new();
    while line != "one\ntwo\nthree\n" {
        assert_ne!(stdout.read_line(&mut line).expect("a line"), 0, "{line}");
    }
    cluster.sarsen(&["truncate", "--size", "4", "/log"]).text();
    let mut told = String::new();
    stderr.read_line(&mut told).expect("a line");
    let truncated = "sarsen: tail /log: the file was truncated, and is followed from byte 4 on\n";
    assert_eq!(told, truncated);
    let write = ["write", "--offset", "4", "/log"];
    let done = cluster.sarsen_with_input(&write, b"more\n");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    line.clear();
    stdout.read_line(&mut line).expect("a line");
    assert_eq!(line, "more\n");
}

/// Nothing was told of what the follower had no chance to see: from its place on, it went on as if nothing
/// had been cut.
#[test]
fn a_file_that_was_cut_and_has_grown_again_unseen_is_told_to_be_another() {
    let cluster = Cluster::start(1);
    cluster.put(b"one\n", "/log");
    let mut command = cluster.command();
    command.args(["--master", &cluster.control, "tail", "-f", "/log"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut tail = Tail(command.spawn().expect("the binary runs"));
    let mut stdout = BufReader::new(tail.0.stdout.take().expect("piped"));
    let mut stderr = BufReader::new(tail.0.stderr.take().expect("piped"));
    let mut line = String::new();
    stdout.read_line(&mut line).expect("a line");
    assert_eq!(line, "one\n");
    let pid = tail.0.id().to_string();
    let signal = |signal| {
        let status = Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(status.expect("kill").success());
    };
    signal("STOP");
    cluster.sarsen(&["truncate", "--size", "0", "/log"]).text();
    let done = cluster.sarsen_with_input(&["write", "--offset", "0", "/log"], b"anew\nmore\n");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    signal("CONT");
    let mut told = String::new();
    stderr.read_line(&mut told).expect("a line");
    let truncated = "sarsen: tail /log: the file was truncated and written anew, and is followed from byte 4 \
                     on; what is new before it is not shown\n";
    assert_eq!(told, truncated);
}

/// There was no chunk that could be missing where the file had ended, and what was new was open, of no length
/// that the master knew: the follower went on at his place when the file had grown to it.
#[test]
fn a_hole_that_was_cut_away_is_missed() {
    let cluster = Cluster::start(1);
    cluster.put(b"one\n", "/log");
    let truncate = |size| cluster.sarsen(&["truncate", "--size", size, "/log"]).text();
    truncate("0");
    truncate("3145728");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let client = cluster.client().await;
        let mut file = client.follow("/log").await.expect("the file");
        assert_eq!(file.end(), 3 << 20);
        file.seek(file.end());
        truncate("0");
        let write = ["write", "--offset", "0", "/log"];
        let done = cluster.sarsen_with_input(&write, b"anew\n");
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        // More looks than there are in a second, after which the master is asked.
        for _ in 0..20 {
            match file.look().await {
                Ok(is_more) => assert!(!is_more),
                Err(Error::Changed { .. }) => return,
                Err(error) => panic!("{error}"),
            }
        }
        panic!("nothing was told");
    });
}

#[test]
fn tail_gives_scripts_an_object_a_line() {
    let cluster = Cluster::start(1);
    cluster.put(b"one\ntwo\n", "/log");
    let told = cluster
        .sarsen(&["--json", "tail", "-c", "4", "/log"])
        .json();
    let wanted = serde_json::json!({ "offset": 4, "length": 4, "data": "dHdvCg==" });
    assert_eq!(told, wanted);
}

/// Records appear one after the other to whoever looks again and again: never fewer than before,
/// and at least what was acknowledged before the look began.
#[test]
fn a_reader_beside_a_writer_never_goes_back() {
    let cluster = Cluster::start(3);
    assert_eq!(cluster.sarsen(&["touch", "/log"]).code, Some(0));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let client = runtime.block_on(cluster.client());
    thread::scope(|scope| {
        let (acknowledged, told) = mpsc::channel();
        let cluster = &cluster;
        scope.spawn(move || {
            for round in 0..12 {
                append(cluster, round * 20, 20);
                if acknowledged.send((round + 1) * 20).is_err() {
                    return;
                }
            }
        });
        let mut before = 0;
        while before < 240 {
            let at_least = told.try_iter().last().unwrap_or(0).max(before);
            let count = runtime.block_on(count_records(&client));
            assert!(
                count >= at_least,
                "{count} records, and {at_least} were there"
            );
            before = count;
        }
    });
}

async fn count_records(client: &Client) -> usize {
    let mut records = client.records("/log").await.expect("the file");
    let mut count = 0;
    while let Some(record) = records.next().await.expect("a record") {
        assert_eq!(record.payload, line(count).as_bytes());
        count += 1;
    }
    count
}
