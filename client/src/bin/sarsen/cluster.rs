//! A whole cluster as child processes of this one, for `sarsen up` and `sarsen demo`.
//!
//! The daemons are this very binary, executed again with a first argument that no person types
//! ([`run_as_daemon`]), so one file serves. Each child is in a process group of its own, so that a
//! Ctrl-C on the terminal reaches it only through us, and asks the kernel for a SIGTERM if we die
//! without ending it. Its log goes to a file beside its data. Whatever is waited for here is left when we
//! are asked to end: with [`ClusterError::Interrupted`], so that all children end on the way out.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use sarsen_edge::daemon::Drain;
use sarsen_edge::exit::{Exit, Explain};
use sarsen_edge::key::KeyError;
use sarsen_edge::settings::SettingsError;
use thiserror::Error;

/// How long a daemon may take until it is ready.
const READY_TIME_MAX: Duration = Duration::from_secs(60);

/// How long a daemon may drain before it is killed.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(30);

/// Time between two looks at a child, and at whether we are asked to end.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Lines of a daemon's log that are told when it fails.
const LOG_LINES_TOLD: usize = 5;

const MASTER: &str = "daemon:sarsen-master";
const CHUNKD: &str = "daemon:chunkd";

/// Runs a daemon if that is what this process was executed for.
pub(crate) fn run_as_daemon() -> Option<ExitCode> {
    let mut args = env::args_os();
    let _program = args.next()?;
    let daemon = args.next()?;
    let (name, run): (&str, fn(Vec<OsString>) -> ExitCode) = match daemon.to_str()? {
        MASTER => ("sarsen-master", sarsen_master::server::run),
        CHUNKD => ("chunkd", sarsen_chunkd::server::run),
        _ => return None,
    };
    // Without it a child would only outlive a parent that was killed.
    let _ = set_parent_process_death_signal(Some(Signal::TERM));
    let line = std::iter::once(OsString::from(name)).chain(args).collect();
    Some(run(line))
}

/// Why a cluster of child processes does not run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum ClusterError {
    /// A folder or file of ours can't be made or read.
    #[error("{what} {}", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The system can't start a process, or tell of it.
    #[error("{what} {name}")]
    Process {
        what: &'static str,
        name: String,
        source: io::Error,
    },
    /// A daemon ended before it was ready.
    #[error("{name} ended before it was ready ({status}): {log}")]
    EndedEarly {
        name: String,
        status: ExitStatus,
        log: String,
    },
    /// A daemon is not ready in time.
    #[error("{name} is not ready after {READY_TIME_MAX:?}: {log}")]
    NotReady { name: String, log: String },
    /// A daemon said something else than that it is ready.
    #[error("{name} said `{line}` instead of that it is ready")]
    NotUnderstood { name: String, line: String },
    /// The master ended by itself.
    #[error("{name} ended by itself ({status}): {log}")]
    Ended {
        name: String,
        status: ExitStatus,
        log: String,
    },
    /// A command of `sarsen` itself failed.
    #[error("`sarsen {command}` failed ({status}): {text}")]
    Command {
        command: String,
        status: ExitStatus,
        text: String,
    },
    /// The key file can't be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A setting for the daemons is wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// We are asked to end.
    #[error("ended by a signal")]
    Interrupted,
}

impl Explain for ClusterError {
    fn exit(&self) -> Exit {
        match self {
            Self::File { source, .. } => Exit::of_io(source),
            Self::EndedEarly { status, .. } if status.code() == Some(7) => Exit::NoSpace,
            Self::EndedEarly { status, .. } if status.code() == Some(2) => Exit::Usage,
            Self::Key(error) => error.exit(),
            Self::Settings(error) => error.exit(),
            Self::Interrupted => Exit::Interrupted,
            _ => Exit::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Key(error) => error.hint(),
            Self::Settings(error) => error.hint(),
            Self::NotReady { .. } | Self::Ended { .. } => {
                Some("the daemons' logs lie beside their data; keep them with --dir".into())
            }
            _ => None,
        }
    }
}

/// Takes over the signals by which `name` is asked to end.
pub(crate) fn take_signals(name: &str) -> Result<Drain, ClusterError> {
    Drain::on_signals().map_err(process("taking the signals of", name))
}

/// An error when we are asked to end.
pub(crate) fn go_on(drain: &Drain) -> Result<(), ClusterError> {
    match drain.is_asked() {
        true => Err(ClusterError::Interrupted),
        false => Ok(()),
    }
}

/// What a daemon's `ready` line says.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    /// The whole line.
    pub(crate) line: String,
    /// Its control address.
    pub(crate) control: String,
}

/// A daemon as a child process.
#[derive(Debug)]
pub(crate) struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
    /// Where it serves.
    pub(crate) ready: Ready,
}

impl Daemon {
    /// Starts a master on `dir`, and returns when its ports serve.
    pub(crate) fn master(dir: &Path, args: &[&OsStr], drain: &Drain) -> Result<Self, ClusterError> {
        Self::start("sarsen-master", MASTER, dir, args, drain)
    }

    /// Starts a chunkserver on `dir`, and returns when it is registered.
    pub(crate) fn chunkserver(
        number: usize,
        master: &str,
        dir: &Path,
        args: &[&OsStr],
        drain: &Drain,
    ) -> Result<Self, ClusterError> {
        let mut all = vec![OsStr::new("--master"), OsStr::new(master)];
        all.extend(args);
        let name = format!("chunkserver {number}");
        Self::start(&name, CHUNKD, dir, &all, drain)
    }

    fn start(
        name: &str,
        daemon: &str,
        dir: &Path,
        args: &[&OsStr],
        drain: &Drain,
    ) -> Result<Self, ClusterError> {
        fs::create_dir_all(dir).map_err(file("making the folder", dir))?;
        let log = dir.with_extension("log");
        let stderr = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(file("opening the log", &log))?;
        let program = env::current_exe().map_err(process("finding the program of", name))?;
        let mut child = Command::new(program)
            .arg(daemon)
            .arg("--dir")
            .arg(dir)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .process_group(0)
            .spawn()
            .map_err(process("starting", name))?;
        let line = first_line(&mut child, drain);
        // From here on, dropping ends the child.
        let mut daemon = Self {
            name: name.to_owned(),
            child,
            log,
            ready: Ready {
                line: String::new(),
                control: String::new(),
            },
        };
        daemon.ready = daemon.understand(line?)?;
        Ok(daemon)
    }

    /// Takes the `ready` line apart.
    fn understand(&mut self, line: Option<String>) -> Result<Ready, ClusterError> {
        let name = self.name.clone();
        let line = match line {
            Some(line) if !line.is_empty() => line,
            Some(_) => {
                let status = self.child.wait().map_err(process("waiting for", &name))?;
                return Err(ClusterError::EndedEarly {
                    name,
                    status,
                    log: self.log_end(),
                });
            }
            None => {
                return Err(ClusterError::NotReady {
                    name,
                    log: self.log_end(),
                });
            }
        };
        let line = line.trim_end().to_owned();
        let control = line
            .strip_prefix("ready ")
            .and_then(|fields| {
                fields
                    .split(' ')
                    .find_map(|field| field.strip_prefix("control="))
            })
            .map(str::to_owned);
        match control {
            Some(control) => Ok(Ready { line, control }),
            None => Err(ClusterError::NotUnderstood { name, line }),
        }
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it is called.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// An error if it has ended by itself.
    pub(crate) fn check(&mut self) -> Result<(), ClusterError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                let (name, log) = (self.name.clone(), self.log_end());
                Err(ClusterError::Ended { name, status, log })
            }
            Err(source) => Err(process("waiting for", &self.name)(source)),
        }
    }

    /// Ends it as a power cut would, and waits until it is gone.
    pub(crate) fn kill(mut self) -> Result<(), ClusterError> {
        self.child.kill().map_err(process("killing", &self.name))?;
        self.child
            .wait()
            .map_err(process("waiting for", &self.name))?;
        Ok(())
    }

    /// Has it drain, and waits until it is gone; kills it if it takes too long.
    pub(crate) fn stop(mut self) {
        end(&mut self.child);
    }

    /// The last lines of its log, as one.
    fn log_end(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_TOLD)..].join(" | ")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Has a child drain, and waits until it is gone; kills it if it takes too long.
fn end(child: &mut Child) {
    if !matches!(child.try_wait(), Ok(None)) {
        return;
    }
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may end by itself in this moment.
        let _ = kill_process(pid, Signal::TERM);
    }
    let began = Instant::now();
    while began.elapsed() < DRAIN_TIME_MAX && matches!(child.try_wait(), Ok(None)) {
        thread::sleep(POLL_INTERVAL);
    }
    // No harm if it is gone, and nothing is left to be done if it can't be killed.
    let _ = child.kill();
    let _ = child.wait();
}

/// The first line that a child prints; empty if it ended without one, `None` if none comes in time.
///
/// The rest of its output is read and thrown away, so that it never waits for us.
fn first_line(child: &mut Child, drain: &Drain) -> Result<Option<String>, ClusterError> {
    let Some(stdout) = child.stdout.take() else {
        return Ok(None);
    };
    let (told, line) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut first = String::new();
        // A line that can't be read is as good as none.
        let _ = reader.read_line(&mut first);
        let _ = told.send(first);
        let _ = io::copy(&mut reader, &mut io::sink());
    });
    let began = Instant::now();
    loop {
        go_on(drain)?;
        match line.recv_timeout(POLL_INTERVAL) {
            Ok(line) => return Ok(Some(line)),
            Err(RecvTimeoutError::Timeout) if began.elapsed() < READY_TIME_MAX => {}
            Err(_) => return Ok(None),
        }
    }
}

/// Runs one command of `sarsen` as a person would, and returns what it printed.
pub(crate) fn sarsen(master: &str, args: &[&OsStr], drain: &Drain) -> Result<String, ClusterError> {
    let program = env::current_exe().map_err(process("finding the program of", "sarsen"))?;
    let mut child = Command::new(program)
        .args(["--master", master])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(process("starting", "sarsen"))?;
    let stdout = read_all(child.stdout.take());
    let stderr = read_all(child.stderr.take());
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if drain.is_asked() => {
                end(&mut child);
                return Err(ClusterError::Interrupted);
            }
            Ok(None) => thread::sleep(POLL_INTERVAL),
            Err(source) => return Err(process("waiting for", "sarsen")(source)),
        }
    };
    go_on(drain)?;
    // A reader that panicked has read nothing.
    let (stdout, stderr) = (
        stdout.join().unwrap_or_default(),
        stderr.join().unwrap_or_default(),
    );
    match status.success() {
        true => Ok(stdout),
        // A Ctrl-C on the terminal reaches it too, and it may be faster than we are.
        false if status.code() == Some(Exit::Interrupted.code().into()) => {
            Err(ClusterError::Interrupted)
        }
        false => Err(ClusterError::Command {
            command: args.join(OsStr::new(" ")).to_string_lossy().into_owned(),
            status,
            text: stderr.trim().replace('\n', "; "),
        }),
    }
}

/// Reads a child's output as text, on a thread of its own, so that the child never waits for us.
fn read_all(output: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut output) = output {
            // What can't be read any more is missed by whoever looks for it.
            let _ = output.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A closure that says which file an I/O error was about.
pub(crate) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ClusterError {
    let path = path.to_owned();
    move |source| ClusterError::File { what, path, source }
}

fn process(what: &'static str, name: &str) -> impl FnOnce(io::Error) -> ClusterError {
    let name = name.to_owned();
    move |source| ClusterError::Process { what, name, source }
}
