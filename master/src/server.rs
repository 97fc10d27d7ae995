//! `sarsen-master` from its command line to its end.
//!
//! Start: settings, the directory and its log, the key, the ports, the `ready` line; each thing
//! that can be wrong ends the program with a line that says so. Then one thread owns the machine
//! ([`driver`](crate::driver)), one writes the log, and a small runtime carries connections and
//! HTTP, until a signal.

use std::ffi::OsString;
use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use clap::Parser;
use sarsen_edge::address::HostPort;
use sarsen_edge::args::{self, DaemonArgs, Parsed};
use sarsen_edge::daemon::{Drain, Ready, Starting, raise_descriptors};
use sarsen_edge::exit::{self, Exit, Explain};
use sarsen_edge::guest::Guests;
use sarsen_edge::key::{self, KeyFolders, PublishedKey};
use sarsen_edge::settings::Settings;
use sarsen_edge::{log, random_u64};
use sarsen_protocol::handshake::Identity;
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{self, Role};
use thiserror::Error;
use tokio::runtime;
use tokio::sync::mpsc;

use crate::core::config::Config;
use crate::core::machine::{Machine, Startup};
use crate::driver::{Clock, Driver};
use crate::inputs::{self, Questions};
use crate::oplog::{LogWriter, OplogError};
use crate::start::{self, Started};
use crate::{http, net};

const PROGRAM: &str = "sarsen-master";

/// Threads that carry connections and HTTP.
const NET_THREADS: usize = 2;

/// The master of a Sarsen cluster: names, chunk metadata, placement
#[derive(Debug, Parser)]
#[command(name = PROGRAM, version)]
struct Args {
    /// Where the operation log and its checkpoints are kept
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,

    /// Where the control port listens
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7400")]
    listen: HostPort,

    /// Where the HTTP port listens
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7480")]
    http: HostPort,

    #[command(flatten)]
    daemon: DaemonArgs,
}

/// Why the master ends otherwise than by a signal.
#[derive(Debug, Error)]
#[non_exhaustive]
enum ServerError {
    /// A thread, a runtime or a socket can't be had.
    #[error("{what} can't be had: {cause}")]
    System {
        what: &'static str,
        cause: io::Error,
    },
    /// The log failed while the master ran.
    #[error("the operation log failed: {0}")]
    LogFailed(OplogError),
}

impl Explain for ServerError {
    fn exit(&self) -> Exit {
        match self {
            Self::LogFailed(OplogError::NoSpace { .. }) => Exit::NoSpace,
            _ => Exit::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::LogFailed(error) => Some(error.advice().to_owned()),
            Self::System { .. } => None,
        }
    }
}

/// Runs the program with this command line, whose first word is its name.
#[must_use]
pub fn run(line: impl IntoIterator<Item = OsString>) -> ExitCode {
    match args::parse::<Args>(PROGRAM, line) {
        Ok(Parsed::Run(args)) => match serve_until_told(&args) {
            Ok(()) => Exit::Done.into(),
            Err(failed) => failed,
        },
        Ok(Parsed::Show(text)) => {
            print!("{text}");
            Exit::Done.into()
        }
        Err(error) => exit::report(PROGRAM, &error),
    }
}

/// Ends the program with the lines of an error.
fn told(error: impl Explain) -> ExitCode {
    exit::report(PROGRAM, &error)
}

fn serve_until_told(args: &Args) -> Result<(), ExitCode> {
    let system = |what| move |cause| told(ServerError::System { what, cause });
    // Before all else, so that none of it is ended by a signal's default action.
    let starting = Starting::on_signals().map_err(system("the signals"))?;
    log::start(args.daemon.log_format).map_err(told)?;
    let settings = args.daemon.settings().map_err(told)?;
    for warning in settings.warnings() {
        tracing::warn!("{warning}");
    }
    let descriptors = raise_descriptors();
    tracing::debug!(descriptors, "open files and connections at a time");
    let clock = Clock::start();

    let directory = start::open(&args.dir).map_err(told)?;
    // Ports are taken before the log is touched: a typing error costs no epoch.
    let exposure = args.daemon.exposure();
    let control = exposure.open("--listen", &args.listen).map_err(told)?;
    let http = exposure.open("--http", &args.http).map_err(told)?;
    let key = match &args.daemon.key_file {
        Some(path) => key::load(path).map_err(told)?,
        None => key::load_or_generate(&args.dir.join(key::FILE_NAME)).map_err(told)?,
    };
    let started = start::start(directory, settings.chunk_size).map_err(told)?;
    // What is published is taken back at the end.
    let drain = starting.serve();
    let published = publish(args, &control, &key)?;

    let address = |listener: &TcpListener| listener.local_addr().map_err(system("an address"));
    let ready = Ready {
        control: exposure.announced(address(&control)?),
        data: None,
        http: exposure.announced(address(&http)?),
    };
    tracing::info!(
        cluster = %started.cluster,
        control = %ready.control,
        "the master serves"
    );
    let served = serve(
        started,
        &settings,
        clock,
        drain,
        (control, http),
        (key, published),
        &ready,
    );
    served.map_err(told)
}

/// On loopback, leaves the key where this user's other programs look for it.
fn publish(
    args: &Args,
    control: &TcpListener,
    key: &SecretKey,
) -> Result<Option<PublishedKey>, ExitCode> {
    let bound = control.local_addr().map_err(|cause| {
        told(ServerError::System {
            what: "an address",
            cause,
        })
    })?;
    if !bound.ip().is_loopback() || args.daemon.key_file.is_some() {
        return Ok(None);
    }
    KeyFolders::of_this_user()
        .publish(bound, key)
        .map(Some)
        .map_err(told)
}

/// Runs the threads until a signal, or until the log fails.
fn serve(
    started: Started,
    settings: &Settings,
    clock: Clock,
    drain: Drain,
    (control, http): (TcpListener, TcpListener),
    (key, published): (SecretKey, Option<PublishedKey>),
    ready: &Ready,
) -> Result<(), ServerError> {
    let system = |what| move |cause| ServerError::System { what, cause };
    let identity = Identity {
        role: Role::Master,
        cluster_id: started.cluster,
        start: message::Start::default(),
    };
    let (inputs, inputs_taken) = inputs::channel();
    let net = runtime::Builder::new_multi_thread()
        .worker_threads(NET_THREADS)
        .thread_name("net")
        .enable_all()
        .build()
        .map_err(system("a runtime"))?;
    {
        let _inside = net.enter();
        let control = tokio::net::TcpListener::from_std(control).map_err(system("a socket"))?;
        let http = tokio::net::TcpListener::from_std(http).map_err(system("a socket"))?;
        net.spawn(net::serve(control, identity, key, inputs.clone()));
        let router = http::router(Questions(inputs.clone()));
        net.spawn(async move {
            let port = http::Port(Guests::new(http));
            if let Err(error) = axum::serve(port, router).await {
                tracing::error!(%error, "the HTTP port is lost");
            }
        });
    }
    let driver = driver(started, settings, clock).map_err(system("a thread"))?;
    let handle = net.handle().clone();
    let machine = thread::Builder::new()
        .name("machine".to_owned())
        .spawn(move || handle.block_on(driver.run(inputs_taken, drain)))
        .map_err(system("a thread"))?;
    // Nobody may be there to read it.
    let _ = ready.print();
    let ended = machine.join();
    // While the port is still ours: a master that follows at this address leaves its own key.
    drop(published);
    let ended = ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    net.shutdown_timeout(std::time::Duration::from_secs(3));
    ended.map_err(ServerError::LogFailed)
}

/// Puts the machine together with its log.
pub(crate) fn driver(started: Started, settings: &Settings, clock: Clock) -> io::Result<Driver> {
    let Started {
        folder,
        appender,
        cluster,
        genesis,
        state,
        checkpoint_index,
        ..
    } = started;
    let (events, log_events) = mpsc::unbounded_channel();
    let flushed = appender.position();
    // The receiver goes only when the machine's thread ends.
    let log = LogWriter::start(appender, move |event| drop(events.send(event)))?;
    let start = Startup {
        genesis,
        incarnation: random_u64(),
        seed: random_u64(),
        checkpoint_index,
    };
    let machine = Machine::new(config(settings), state, start, clock.now());
    Ok(Driver {
        machine,
        clock,
        log,
        log_events,
        folder,
        cluster,
        flushed,
        appended: flushed.index,
        connections: Default::default(),
        asked: Default::default(),
        questions: Default::default(),
        last_question: 0,
        is_saving: Arc::new(AtomicBool::new(false)),
    })
}

/// The settings as the core needs them.
fn config(settings: &Settings) -> Config {
    Config {
        heartbeat: settings.heartbeat,
        suspect_after: settings.suspect_after,
        dead_after: settings.dead_after,
        lease: settings.lease,
        replicas: settings.replicas,
        min_replicas: settings.min_replicas,
        trash_expiry: settings.trash_expiry,
        gc_interval: settings.gc_interval,
        orphan_grace: settings.orphan_grace,
        pending_expiry: settings.pending_expiry,
        safe_mode_fraction: settings.safe_mode_fraction,
        safe_mode_max: settings.safe_mode_max,
        repair_grace: settings.repair_grace,
        repair_streams_per_server: settings.repair_streams_per_server,
        checkpoint_entries: settings.checkpoint_entries,
    }
}
