//! `sarsen up`: a whole cluster on this machine with one command.
//!
//! Prints the master's `ready` line when every chunkserver is registered and safe mode is left,
//! then waits to be told to end, and ends the daemons with it. With `--dir` the data stays, and
//! the next `up` on the same folder goes on with it. With `--key-file` the daemons hold that key, and who
//! uses the cluster needs it too; without it they make one and leave it where this user's programs look.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Args;
use sarsen_edge::daemon::Drain;
use sarsen_edge::exit::{self, Exit};
use sarsen_edge::key;
use sarsen_edge::settings::Settings;

use crate::args::Globals;
use crate::cluster::{ClusterError, Daemon, file, sarsen, take_signals};

/// Time between two looks at whether the daemons live.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// What `sarsen up` is told.
#[derive(Args, Clone, Debug)]
pub(crate) struct UpArgs {
    /// How many chunkservers to start
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    chunkservers: u16,

    /// Keep everything in this folder; without it a temporary one, removed at the end
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Where the master's control port listens
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7400")]
    listen: String,

    /// Where the master's HTTP port listens
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7480")]
    http: String,

    /// Set one key for all daemons; may be given often
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// A cluster's folder: given, or made for the time of one run.
enum Place {
    Given(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Place {
    fn path(&self) -> &std::path::Path {
        match self {
            Self::Given(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }
}

/// Runs the verb to its end.
pub(crate) fn run(args: &UpArgs, globals: &Globals) -> ExitCode {
    match up(args, globals) {
        // Asked to end before all servers were there, it ends no less well.
        Ok(()) | Err(ClusterError::Interrupted) => Exit::Done.into(),
        Err(error) => exit::report("sarsen: up", &error),
    }
}

fn up(args: &UpArgs, globals: &Globals) -> Result<(), ClusterError> {
    let drain = take_signals("sarsen up")?;
    // The daemons would say it too, but in their logs.
    let settings = Settings::load(None, std::env::vars_os(), &args.set)?;
    for warning in settings.warnings().iter().filter(|_| !globals.quiet) {
        // With stderr closed there is nobody left to tell.
        let _ = writeln!(std::io::stderr(), "sarsen: up: {warning}");
    }
    let mut key_args = Vec::new();
    if let Some(file) = &globals.key_file {
        key::load(file)?;
        key_args = vec![OsStr::new("--key-file"), file.as_os_str()];
    }
    let place = match &args.dir {
        Some(dir) => {
            fs::create_dir_all(dir).map_err(file("making the folder", dir))?;
            Place::Given(dir.clone())
        }
        None => {
            let made = tempfile::Builder::new().prefix("sarsen-up-").tempdir();
            Place::Temporary(made.map_err(file("making a folder in", &std::env::temp_dir()))?)
        }
    };
    let mut for_all = key_args.clone();
    for set in &args.set {
        for_all.extend([OsStr::new("--set"), OsStr::new(set)]);
    }
    let mut master_args = vec![
        OsStr::new("--listen"),
        OsStr::new(&args.listen),
        OsStr::new("--http"),
        OsStr::new(&args.http),
    ];
    master_args.extend(&for_all);
    let mut master = Daemon::master(&place.path().join("master"), &master_args, &drain)?;
    let control = master.ready.control.clone();
    let mut chunkservers = Vec::new();
    for number in 1..=usize::from(args.chunkservers) {
        let dir = place.path().join(format!("chunkserver-{number}"));
        let chunkserver = Daemon::chunkserver(number, &control, &dir, &for_all, &drain)?;
        chunkservers.push(chunkserver);
    }
    let count = args.chunkservers.to_string();
    let mut wait = key_args;
    wait.extend(["wait", "--chunkservers", &count, "--timeout", "120s"].map(OsStr::new));
    sarsen(&control, &wait, &drain)?;
    say(&master.ready.line);
    watch(&drain, &mut master, &mut chunkservers)?;
    chunkservers.into_iter().for_each(Daemon::stop);
    master.stop();
    Ok(())
}

/// Returns when we are asked to end; an error when the master has ended by itself.
fn watch(
    drain: &Drain,
    master: &mut Daemon,
    chunkservers: &mut Vec<Daemon>,
) -> Result<(), ClusterError> {
    while !drain.is_asked() {
        master.check()?;
        // A chunkserver that is gone is a case that the cluster is made for.
        chunkservers.retain_mut(|chunkserver| match chunkserver.check() {
            Ok(()) => true,
            Err(error) => {
                eprintln!("sarsen: up: {error}");
                false
            }
        });
        thread::sleep(WATCH_INTERVAL);
    }
    Ok(())
}

/// One line on stdout, flushed; who started us may not listen any more.
fn say(line: impl fmt::Display) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}
