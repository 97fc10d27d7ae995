//! Signals end a daemon in two steps. A process of its own is needed to see that: the test runs
//! its own program again, and that one takes the daemon's part.

use std::env;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sarsen_edge::daemon::{Drain, Ready, Starting};

const ROLE: &str = "SARSEN_EDGE_TEST_ROLE";

/// A daemon that drains at once, or never, or never serves, as its role says.
fn be_a_daemon(role: &str) {
    if role == "starts" {
        let starting = Starting::on_signals().expect("takes the signals");
        println!("starting");
        std::thread::sleep(Duration::from_mins(10));
        let _ = starting.serve();
        std::process::exit(1);
    }
    let mut drain = Drain::on_signals().expect("takes the signals");
    let ready = Ready {
        control: "127.0.0.1:1".parse().expect("an address"),
        data: None,
        http: "127.0.0.1:2".parse().expect("an address"),
    };
    ready.print().expect("prints");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(drain.asked());
    assert!(drain.is_asked());
    println!("draining");
    if role == "stuck" {
        // Blocks the thread, as a runtime that hangs would.
        loop {
            std::thread::park();
        }
    }
    std::process::exit(0);
}

struct Daemon {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Daemon {
    fn start(role: &str) -> Self {
        let mut child = Command::new(env::current_exe().expect("has a name"))
            .args([
                "--exact",
                "the_first_signal_drains_and_the_second_ends",
                "--nocapture",
            ])
            .env(ROLE, role)
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, stdout }
    }

    /// Reads on to a line, past those of the test program itself.
    fn wait_for(&mut self, wanted: &str) {
        let mut line = String::new();
        while !line.ends_with(&format!("{wanted}\n")) {
            line.clear();
            assert_ne!(
                self.stdout.read_line(&mut line).expect("reads"),
                0,
                "no {wanted}"
            );
        }
    }

    fn kill(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process"), signal).expect("lives");
    }

    fn exit_code(mut self) -> Option<i32> {
        let code = self.child.wait().expect("ends").code();
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("reads");
        assert_eq!(rest, "", "lines after the last");
        code
    }
}

#[test]
fn the_first_signal_drains_and_the_second_ends() {
    if let Ok(role) = env::var(ROLE) {
        return be_a_daemon(&role);
    }
    for signal in [Signal::TERM, Signal::INT] {
        let mut daemon = Daemon::start("drains");
        daemon.wait_for("ready control=127.0.0.1:1 http=127.0.0.1:2");
        daemon.kill(signal);
        daemon.wait_for("draining");
        assert_eq!(daemon.exit_code(), Some(0));

        let mut daemon = Daemon::start("stuck");
        daemon.wait_for("ready control=127.0.0.1:1 http=127.0.0.1:2");
        daemon.kill(Signal::TERM);
        daemon.wait_for("draining");
        daemon.kill(signal);
        assert_eq!(daemon.exit_code(), Some(128 + signal.as_raw()));

        // There is nothing to drain.
        let mut daemon = Daemon::start("starts");
        daemon.wait_for("starting");
        daemon.kill(signal);
        assert_eq!(daemon.exit_code(), Some(0));
    }
}
