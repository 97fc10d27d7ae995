//! The roles that a benchmark's program plays when it starts itself again.
//!
//! The first argument says which: a daemon of a cluster, with its command line behind it, or a
//! [`Role`] as JSON. A party is ready when its sockets are, begins when it is told `go` or when a
//! peer connects, and ends by telling what it did ([`Done`]):
//!
//! ```text
//!  start ──► ready ──► (go) ──► done {bytes, elapsed, cpu}
//! ```

mod chain;
mod client;
mod files;
mod records;
mod replies;

use std::env;
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

pub use chain::{FRAME_LEN, Hop, Sender};
pub use client::{Begun, Client, Errand, Operation, connect};
pub use files::{FileServer, Reader};
pub use records::{RecordHop, RecordSender};
pub use replies::{Asker, Replies};

use crate::cpu;

/// The first argument of a party.
const PARTY: &str = "role:party";

/// The first argument of a master.
pub(crate) const MASTER: &str = "role:sarsen-master";

/// The first argument of a chunkserver.
pub(crate) const CHUNKD: &str = "role:chunkd";

/// What a party does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Role {
    /// Sends down a chain.
    Sender(Sender),
    /// Takes bytes, and passes them on.
    Hop(Hop),
    /// Sends from a file.
    FileServer(FileServer),
    /// Takes what a file server sends.
    Reader(Reader),
    /// Answers requests.
    Replies(Replies),
    /// Makes requests.
    Asker(Asker),
    /// Passes records on.
    RecordHop(RecordHop),
    /// Sends records.
    RecordSender(RecordSender),
    /// Uses a cluster.
    Client(Client),
}

/// What a party did.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Done {
    /// Bytes or operations.
    pub amount: u64,
    /// How long it took, where the party knows better than who waits for it.
    pub elapsed: Option<Duration>,
    /// The median time of one operation.
    pub p50: Option<Duration>,
    /// Its processor time, from its readiness on.
    pub cpu: Duration,
}

/// Plays a role if this process was started for one. To be called first in `main`.
#[must_use]
pub fn play_if_asked() -> Option<ExitCode> {
    let mut args = env::args_os().skip(1);
    let role = args.next()?;
    let rest: Vec<OsString> = args.collect();
    let daemon: fn(Vec<OsString>) -> ExitCode = match role.to_str()? {
        PARTY => return Some(play(&rest)),
        MASTER => sarsen_master::server::run,
        CHUNKD => sarsen_chunkd::server::run,
        _ => return None,
    };
    // Without it a process would only outlive a benchmark that was killed.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    Some(daemon([vec![role], rest].concat()))
}

fn play(args: &[OsString]) -> ExitCode {
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    let played = (|| -> anyhow::Result<()> {
        let role = args.first().and_then(|it| it.to_str()).context("no role")?;
        let done = match serde_json::from_str(role)? {
            Role::Sender(sender) => sender.play(),
            Role::Hop(hop) => hop.play(),
            Role::FileServer(server) => server.play(),
            Role::Reader(reader) => reader.play(),
            Role::Replies(replies) => replies.play(),
            Role::Asker(asker) => asker.play(),
            Role::RecordHop(hop) => hop.play(),
            Role::RecordSender(sender) => sender.play(),
            Role::Client(client) => client.play(),
        };
        say(&serde_json::to_string(&done?)?)
    })();
    match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(
                "{}: {error:#}",
                args.first().map_or("".into(), |it| it.to_string_lossy())
            );
            ExitCode::FAILURE
        }
    }
}

/// Prints a line for who started us.
fn say(line: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    Ok(stdout.flush()?)
}

/// The party's sockets are ready: its processor time counts from here on.
struct Started {
    cpu: Duration,
}

impl Started {
    /// Says that a peer may connect.
    fn serving() -> anyhow::Result<Self> {
        say("ready")?;
        Ok(Self { cpu: cpu::own() })
    }

    /// Says that the party can begin, and waits until it is told to.
    fn go() -> anyhow::Result<Self> {
        let started = Self::serving()?;
        let mut line = String::new();
        std::io::stdin().read_line(&mut line)?;
        anyhow::ensure!(line == "go\n", "called off");
        Ok(started)
    }

    fn done(&self, amount: u64) -> Done {
        Done {
            amount,
            cpu: cpu::own().saturating_sub(self.cpu),
            ..Done::default()
        }
    }
}

/// The listener that who started us gave as our stdin.
fn listener_on_stdin() -> anyhow::Result<TcpListener> {
    let stdin = std::io::stdin();
    let owned = stdin.as_fd().try_clone_to_owned();
    Ok(TcpListener::from(owned.context("the listener on stdin")?))
}

/// A process that plays a role; ended when dropped.
#[derive(Debug)]
pub struct Party {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Party {
    /// Starts a party that is told when to go, and returns when it could.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn start(role: &Role) -> anyhow::Result<Self> {
        Self::start_from(&env::current_exe()?, role)
    }

    /// The same, of another build of the program.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn start_from(program: &Path, role: &Role) -> anyhow::Result<Self> {
        Self::spawn(program, role, Stdio::piped())
    }

    /// Starts a party that serves on `listener`.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn serve(role: &Role, listener: TcpListener) -> anyhow::Result<Self> {
        Self::spawn(&env::current_exe()?, role, OwnedFd::from(listener).into())
    }

    fn spawn(program: &Path, role: &Role, stdin: Stdio) -> anyhow::Result<Self> {
        let mut child = Command::new(program)
            .args([PARTY, &serde_json::to_string(role)?])
            .stdin(stdin)
            .stdout(Stdio::piped())
            .spawn()
            .context("starting a party")?;
        let stdout = child.stdout.take().context("no stdout")?;
        let mut party = Self {
            child,
            lines: BufReader::new(stdout),
        };
        let line = party.line()?;
        anyhow::ensure!(line == "ready\n", "a party said `{line}`");
        Ok(party)
    }

    /// Has it begin.
    ///
    /// # Errors
    /// When it is gone.
    pub fn go(&mut self) -> anyhow::Result<()> {
        let stdin = self.child.stdin.as_mut().context("a party that serves")?;
        Ok(stdin.write_all(b"go\n")?)
    }

    /// Waits for it to tell what it did.
    ///
    /// # Errors
    /// When it fails.
    pub fn done(&mut self) -> anyhow::Result<Done> {
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("a party said `{line}`"))
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        anyhow::ensure!(!line.is_empty(), "a party failed");
        Ok(line)
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
