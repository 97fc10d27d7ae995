//! Output that nobody reads: a pipe that is closed, and one that is full and stays so.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, PipeReader, Write as _};
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::ioctl_fionread;

use crate::harness::{Cluster, Done, PATIENCE, Running};

/// Runs a verb with bytes on stdin, after the reader of its stdout has gone.
fn unread(cluster: &Cluster, args: &[&str], input: &[u8]) -> Done {
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    let input = File::open(cluster.local("input", input)).expect("a local file");
    let mut command = cluster.command();
    command.args(["--master", &cluster.control]).args(args);
    let output = command.stdin(input).stdout(writer).output();
    let output = output.expect("the binary runs");
    Done {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

/// The pipe that is closed was told in place of what failed before: all of these exited with 0.
#[test]
fn what_failed_is_told_though_nobody_reads_the_result() {
    let mut cluster = Cluster::start(1);
    let folder = cluster.path("folder");
    fs::create_dir(&folder).expect("a folder");
    symlink("nowhere", folder.join("link")).expect("a link");
    let source = cluster.local("ok", b"bytes");
    let target = cluster.path("target/");
    let [folder, source, target] = [&folder, &source, &target].map(|path| {
        let text = path.to_str();
        text.expect("a plain name")
    });
    let put = ["put", "--replicas", "1"];
    let verbs: &[(&[&str], i32)] = &[
        (&[&put[..], &["/missing", source, "/d/"]].concat(), 3),
        (&[&put[..], &["-r", folder, "/d/"]].concat(), 1),
        (&["get", "-r", "/no", "/d", target], 3),
        (&["get", "/no", "/d/ok", "-"], 3),
        (&["--json", "rm", "/no", "/d/folder"], 3),
        // And what went well is well.
        (&["stat", "/d/ok"], 0),
    ];
    for (args, code) in verbs {
        let done = unread(&cluster, args, b"");
        assert_eq!(done.code, Some(*code), "{args:?}: {}", done.stderr);
        assert!(!done.stderr.contains("stdout"), "{}", done.stderr);
    }
    cluster.kill_chunkserver(0);
    cluster.until("fsck finds nothing", |cluster| {
        (cluster.sarsen(&["fsck"]).code == Some(1)).then_some(())
    });
    let done = unread(&cluster, &["fsck"], b"");
    assert_eq!((done.code, &done.stderr[..]), (Some(1), ""));
}

/// Once the first offset that could not be told ended it, and what was on its way was not waited for; later
/// all that came was appended, and of what never ends it went on for good.
#[test]
fn no_line_is_begun_when_nobody_reads_the_offsets() {
    let cluster = Cluster::start(1);
    cluster.put(b"", "/log");
    let lines: String = (0..10_000)
        .map(|number| format!("line {number}\n"))
        .collect();
    let done = unread(&cluster, &["append", "--lines", "/log"], lines.as_bytes());
    assert_eq!((done.code, &done.stderr[..]), (Some(0), ""));
    let read = cluster.sarsen(&["records", "/log"]).text();
    assert!(lines.starts_with(&read) && read.len() < lines.len());
}

/// `yes | sarsen append --lines /log | head -1` ran until it was killed; so did one whose next line never came.
#[test]
fn lines_without_an_end_end_with_the_reader_of_the_offsets() {
    let cluster = Cluster::start(1);
    cluster.put(b"", "/log");
    for input in ["y\n", ""] {
        let (reader, writer) = io::pipe().expect("a pipe");
        let mut command = cluster.command();
        command.args(["--master", &cluster.control, "append", "--lines", "/log"]);
        let child = command.stdin(Stdio::piped()).stdout(writer).spawn();
        let mut append = Running(child.expect("the binary runs"));
        // A child has the other end of the pipe as long as the command is there.
        drop(command);
        let mut stdin = append.0.stdin.take().expect("piped");
        stdin.write_all(b"first\n").expect("it reads");
        let mut offsets = BufReader::new(reader);
        let mut offset = String::new();
        offsets.read_line(&mut offset).expect("an offset");
        drop(offsets);
        let feeder = thread::spawn(move || {
            while !input.is_empty() && stdin.write_all(input.as_bytes()).is_ok() {}
            stdin
        });
        assert_eq!(append.ended(), Some(0));
        feeder.join().expect("the feeder");
    }
}

/// Starts a command whose stdout holds `filled` bytes already, and takes no more than a pipe does. Returns when
/// the command is writing more than that.
fn blocked(mut command: Command, filled: usize) -> (Running, PipeReader) {
    let (reader, mut writer) = io::pipe().expect("a pipe");
    writer.write_all(&vec![0; filled]).expect("there is room");
    let child = command.stdin(Stdio::null()).stdout(writer).spawn();
    let running = Running(child.expect("the binary runs"));
    let began = Instant::now();
    while ioctl_fionread(&reader).expect("a pipe") <= filled as u64 {
        assert!(began.elapsed() < PATIENCE, "it writes nothing");
        thread::sleep(Duration::from_millis(5));
    }
    (running, reader)
}

/// The thread that was to hear of the signal stood in the write: neither the first one ended the command
/// nor the second.
#[test]
fn an_interruption_ends_records_that_nobody_reads() {
    let cluster = Cluster::start(1);
    cluster.put(b"", "/log");
    let line = "x".repeat(1023) + "\n";
    let lines = line.repeat(3 * 1024);
    let append = ["append", "--lines", "/log"];
    let done = cluster.sarsen_with_input(&append, lines.as_bytes());
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let mut command = cluster.command();
    command.args(["--master", &cluster.control, "records", "/log"]);
    let (mut records, _reader) = blocked(command, 0);
    records.signal("INT");
    assert_eq!(records.ended(), Some(130));
}

/// The same with what a verb writes at its end, by the thread that runs it.
#[test]
fn an_interruption_ends_a_result_that_nobody_reads() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sarsen"));
    command.args(["completions", "bash"]);
    // What is left of a pipe's 64 KiB is less than the script takes.
    let (mut completions, _reader) = blocked(command, 32 * 1024);
    completions.signal("TERM");
    assert_eq!(completions.ended(), Some(130));
}
