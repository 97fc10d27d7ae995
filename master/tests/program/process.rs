//! One `sarsen-master` as a process of its own.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// A running master; killed on drop, if it still runs.
pub(crate) struct Process {
    child: Child,
    /// Where its control port listens.
    pub(crate) control: String,
}

impl Process {
    /// Starts one on free ports and waits until it is ready.
    pub(crate) fn start(dir: &Path, key_file: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sarsen-master"))
            .args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .arg("--key-file")
            .arg(key_file)
            .arg("--dir")
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let control = line
            .split_whitespace()
            .find_map(|word| word.strip_prefix("control="))
            .unwrap_or_else(|| panic!("no ready line: {line}"))
            .to_owned();
        Self { child, control }
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("runs");
    }

    /// Waits for its end; the exit code.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        self.child.wait().expect("ends").code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
