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
    /// Where its HTTP port does.
    pub(crate) http: String,
}

/// Its command, without a key.
pub(crate) fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sarsen-master"));
    command
        .args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
        .arg("--dir")
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

impl Process {
    /// Starts one on free ports and waits until it is ready.
    pub(crate) fn start(dir: &Path, key_file: &Path) -> Self {
        Self::start_logging(dir, key_file, Stdio::null())
    }

    /// The same, with its log there.
    pub(crate) fn start_logging(dir: &Path, key_file: &Path, log: Stdio) -> Self {
        let mut child = command(dir)
            .arg("--key-file")
            .arg(key_file)
            .stderr(log)
            .spawn()
            .expect("starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let address = |name| {
            let mut words = line.split_whitespace();
            let address = words.find_map(|word| word.strip_prefix(name));
            address.unwrap_or_else(|| panic!("no ready line: {line}"))
        };
        Self {
            child,
            control: address("control=").to_owned(),
            http: address("http=").to_owned(),
        }
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
