//! One `chunkd` as a process of its own.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// A running `chunkd`; killed on drop, if it still runs.
pub(crate) struct Process {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

/// Its command, without what a test adds.
pub(crate) fn command(master: &str, key_file: &Path, dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chunkd"));
    command
        .args(["--master", master, "--set", "io_threads=1"])
        .arg("--key-file")
        .arg(key_file)
        .arg("--dir")
        .arg(dir)
        .env("SARSEN_LOG", "info")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl Process {
    pub(crate) fn spawn(mut command: Command) -> Self {
        // The log would fill a pipe that nobody empties.
        command.stderr(Stdio::null());
        let mut child = command.spawn().expect("starts");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, stdout }
    }

    /// With its log, in a file.
    pub(crate) fn spawn_logged(mut command: Command, log: &Path) -> Self {
        command.stderr(File::create(log).expect("made"));
        let mut child = command.spawn().expect("starts");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, stdout }
    }

    /// Waits for the line that says it is ready; the addresses by their names.
    pub(crate) fn ready(&mut self) -> Vec<(String, String)> {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("a line");
        let mut words = line.split_whitespace();
        assert_eq!(words.next(), Some("ready"), "{line}");
        let pair = |word: &str| {
            let (name, address) = word.split_once('=').expect("NAME=ADDRESS");
            (name.to_owned(), address.to_owned())
        };
        words.map(pair).collect()
    }

    /// Asks it to end; its exit code, and what else it wrote to stdout.
    pub(crate) fn terminate(&mut self) -> (Option<i32>, String) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).expect("runs");
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("read");
        (self.child.wait().expect("ends").code(), rest)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command that ends by itself; its exit code and the lines on stderr that are not the log.
pub(crate) fn run(mut command: Command) -> (Option<i32>, Vec<String>) {
    let Output { status, stderr, .. } = command.env("SARSEN_LOG", "off").output().expect("runs");
    let text = String::from_utf8(stderr).expect("text");
    (status.code(), text.lines().map(str::to_owned).collect())
}
