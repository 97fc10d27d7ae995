//! From the command line to ports that are bound and directories that are open.

use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;

use sarsen_edge::address::HostPort;
use sarsen_edge::daemon::{Drain, Ready, Starting, raise_descriptors};
use sarsen_edge::exit::{Exit, Explain};
use sarsen_edge::key::KeyError;
use sarsen_edge::listen::ListenError;
use sarsen_edge::log::{self, LogError};
use sarsen_edge::settings::SettingsError;
use sarsen_edge::{key, random, random_u64};
use sarsen_protocol::id::{DirectoryId, StartNonce};
use sarsen_protocol::key::SecretKey;
use thiserror::Error;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::config::{DIRS_MAX, Options};
use crate::core::action::StopReason;
use crate::io::pool::BUFFERS_DEFAULT;
use crate::io::{Mode, UringForbidden};
use crate::net::{Chunkserver, DataPlane, Notice, PlaneConfig};
use crate::store::{Directory, Start, StoreError};

/// Chunks kept open for reading, where descriptors allow it.
const OPEN_CHUNKS_MAX: u64 = 4096;

/// Threads that read headers at the start of a directory.
const SCAN_THREADS: usize = 8;

/// Why the program ended, or never began.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting is wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// There is no log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// io_uring was demanded and is forbidden.
    #[error(transparent)]
    Uring(#[from] UringForbidden),
    /// A port can't be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The key file can't be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A directory can't be used.
    #[error("--dir {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: StoreError,
    },
    /// More directories than a registration can name.
    #[error("{count} times --dir: a chunkserver has at most {DIRS_MAX} directories")]
    TooManyDirectories {
        /// How many there are.
        count: usize,
    },
    /// The master does not take this server.
    #[error("{}", told(reason))]
    Stopped {
        /// Why.
        reason: StopReason,
    },
    /// The system refused something that always works.
    #[error("the system gives no {what}")]
    System {
        /// What.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
}

fn told(reason: &StopReason) -> &str {
    match reason {
        StopReason::NotWelcome(text) | StopReason::Foreign(text) => text,
        StopReason::NothingToServe => {
            "the master lets no directory count: each is a copy, or was rolled back"
        }
    }
}

impl Explain for StartError {
    fn exit(&self) -> Exit {
        match self {
            Self::Settings(error) => error.exit(),
            Self::Log(error) => error.exit(),
            Self::Uring(error) => error.exit(),
            Self::Listen(error) => error.exit(),
            Self::Key(error) => error.exit(),
            Self::Directory {
                source: StoreError::NoSpace { .. },
                ..
            } => Exit::NoSpace,
            Self::TooManyDirectories { .. } => Exit::Usage,
            Self::Directory { .. } | Self::Stopped { .. } | Self::System { .. } => Exit::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Settings(error) => error.hint(),
            Self::Log(error) => error.hint(),
            Self::Uring(error) => error.hint(),
            Self::Listen(error) => error.hint(),
            Self::Key(error) => error.hint(),
            Self::Directory { source, .. } => directory_hint(source).map(str::to_owned),
            Self::Stopped { reason } => Some(stop_hint(reason).to_owned()),
            Self::TooManyDirectories { .. } => {
                Some("start another chunkd for the rest of them".to_owned())
            }
            Self::System { .. } => None,
        }
    }
}

/// What can be done where the error itself doesn't say so.
fn directory_hint(error: &StoreError) -> Option<&'static str> {
    match error {
        StoreError::NoSpace { .. } => Some("make room on that disk, or give another --dir"),
        _ if error.is_short_of_means() => {
            Some("allow it more open files (ulimit -n) or memory, and start it again")
        }
        StoreError::Io { .. } => {
            Some("check that the folder's disk is there and that this user may write to it")
        }
        _ => None,
    }
}

fn stop_hint(reason: &StopReason) -> &'static str {
    match reason {
        StopReason::NotWelcome(_) => {
            "check --master, and give the key of that cluster with --key-file"
        }
        StopReason::Foreign(_) => {
            "point --master at the directory's own cluster, or give --dir an empty folder"
        }
        StopReason::NothingToServe => {
            "start the server that has the newest state, or give --dir an empty folder"
        }
    }
}

/// Everything that a start makes.
pub(super) struct Server {
    pub(super) masters: Vec<HostPort>,
    pub(super) rack: String,
    /// Whether the key was given; else it is looked for again until a master is reached.
    pub(super) has_key_file: bool,
    pub(super) control: TcpListener,
    pub(super) http: TcpListener,
    pub(super) ready: Ready,
    pub(super) mode: Mode,
    pub(super) chunkserver: Arc<Chunkserver>,
    pub(super) notices: UnboundedReceiver<Notice>,
    pub(super) plane: DataPlane,
}

/// Does what can fail before there is a runtime, in an order in which a wrong command line has
/// touched no disk and a taken port has raised no start number. A signal ends it at once, and drains what
/// it returns.
pub(super) fn start(options: &Options) -> Result<(Server, Drain), StartError> {
    // Before all else, so that none of it is ended by a signal's default action.
    let starting = Starting::on_signals().map_err(|source| StartError::System {
        what: "signals",
        source,
    })?;
    let settings = options.daemon.settings()?;
    if options.dirs.len() > DIRS_MAX {
        return Err(StartError::TooManyDirectories {
            count: options.dirs.len(),
        });
    }
    log::start(options.daemon.log_format)?;
    for warning in settings.warnings() {
        tracing::warn!("{warning}");
    }
    let mode = options.io.probe()?;
    let given_key = options
        .daemon
        .key_file
        .as_deref()
        .map(key::load)
        .transpose()?;
    let exposure = options.daemon.exposure();
    let control = exposure.open("--listen", &options.listen)?;
    let data = exposure.open("--data-listen", &options.data_listen)?;
    let http = exposure.open("--http", &options.http)?;
    let announced = |listener: &TcpListener| {
        let bound = listener.local_addr();
        let bound = bound.map_err(|source| StartError::System {
            what: "port",
            source,
        })?;
        Ok::<_, StartError>(exposure.announced(bound))
    };
    let ready = Ready {
        control: announced(&control)?,
        data: Some(announced(&data)?),
        http: announced(&http)?,
    };
    let directories = open_directories(&options.dirs)?;
    let has_key_file = given_key.is_some();
    // Nobody holds a random key: until a master was reached nobody is let in.
    let key = given_key.unwrap_or_else(|| SecretKey::new(random()));
    let (chunkserver, notices) = Chunkserver::new(key, directories);
    let chunkserver = Arc::new(chunkserver);
    let cores = available_parallelism().map_or(1, usize::from);
    let config = PlaneConfig {
        mode,
        threads: settings.io_threads.map_or(cores, usize::from),
        buffers: BUFFERS_DEFAULT,
    };
    let plane =
        DataPlane::start(config, data, &chunkserver).map_err(|source| StartError::System {
            what: "thread for the data plane",
            source,
        })?;
    let server = Server {
        masters: options.master.clone(),
        rack: options.rack.clone(),
        has_key_file,
        control,
        http,
        ready,
        mode,
        chunkserver,
        notices,
        plane,
    };
    Ok((server, starting.serve()))
}

fn open_directories(dirs: &[PathBuf]) -> Result<Vec<Arc<Directory>>, StartError> {
    let descriptors = raise_descriptors();
    let share = (descriptors / 4).min(OPEN_CHUNKS_MAX) / dirs.len() as u64;
    let mut opened: Vec<Arc<Directory>> = Vec::new();
    let mut left_out = None;
    for path in dirs {
        let wrong = |source| StartError::Directory {
            path: path.clone(),
            source,
        };
        let start = Start {
            nonce: StartNonce(random_u64()),
            new_directory_id: DirectoryId(random()),
            scan_threads: SCAN_THREADS,
            open_chunks_max: usize::try_from(share.max(16)).unwrap_or(usize::MAX),
        };
        // Absolute, since the master tells the path to people on other machines.
        let root = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let directory = match Directory::open(&root, &start) {
            Err(error) if is_of_the_disk(&error) => {
                tracing::error!(dir = %path.display(), %error,
                    "A DIRECTORY IS LEFT OUT: it can't be opened; none of its chunks is served");
                left_out.get_or_insert(wrong(error));
                continue;
            }
            opened => opened.map_err(wrong)?,
        };
        check_same_owner(&opened, &directory).map_err(wrong)?;
        let (chunks, _, _) = directory.extent();
        let problems = directory.problems();
        for problem in &problems {
            tracing::warn!(dir = %path.display(), file = problem.path, kind = ?problem.kind,
                "a file is not in order; it is left as it is");
        }
        tell_not_recovered(path, &directory);
        tracing::info!(dir = %path.display(), chunks, problems = problems.len(),
            start = %directory.identity().start_number, "a directory is open");
        opened.push(Arc::new(directory));
    }
    match left_out {
        Some(error) if opened.is_empty() => Err(error),
        _ => Ok(opened),
    }
}

/// Says which open chunks take no part, why, and what to do.
fn tell_not_recovered(path: &Path, directory: &Directory) {
    let dir = path.display();
    let not_recovered = directory.not_recovered();
    match &not_recovered.journal {
        Some(fault) => {
            tracing::error!(%dir, why = %fault, "A DIRECTORY IS POISONED: what its journal \
            says can't be believed, so none of its open chunks takes part any more; {POISONED_HINT}")
        }
        None if directory.is_poisoned() => {
            tracing::error!(%dir, why = "an earlier start marked it: a write or sync of its journal, \
            or a sync of a folder, had failed, or its journal was damaged", "A DIRECTORY IS POISONED: it takes \
            nothing new, and its open chunks take no part any more; {POISONED_HINT}")
        }
        None => {}
    }
    for (handle, fault) in &not_recovered.chunks {
        tracing::warn!(%dir, %handle, why = %fault,
            "an open chunk takes no part any more; the master goes on with its other members");
    }
}

/// What can be done about a poisoned directory.
const POISONED_HINT: &str = "its sealed chunks are still read, and copied elsewhere. Check the disk, \
    keep chunkd running until `sarsen fsck` lists nothing, then give --dir an empty folder in its place";

/// Whether a directory can't be opened for what its disk does, and not for what somebody typed.
fn is_of_the_disk(error: &StoreError) -> bool {
    use io::ErrorKind;
    match error {
        StoreError::NoSpace { .. } | StoreError::IdentityDamaged { .. } => true,
        // Nor for what this machine has no more of: its replicas would be made anew elsewhere.
        _ if error.is_short_of_means() => false,
        StoreError::Io { source, .. } => !matches!(
            source.kind(),
            ErrorKind::NotFound
                | ErrorKind::NotADirectory
                | ErrorKind::AlreadyExists
                | ErrorKind::PermissionDenied
        ),
        _ => false,
    }
}

/// Directories of one server belong to the same cluster and server, or to none yet.
fn check_same_owner(opened: &[Arc<Directory>], new: &Directory) -> Result<(), StoreError> {
    let mut owners = opened
        .iter()
        .filter_map(|directory| directory.identity().adoption);
    let (Some(asked), Some(held)) = (owners.next(), new.identity().adoption) else {
        return Ok(());
    };
    new.check_cluster(asked.cluster_id)?;
    match held.server_id == asked.server_id {
        true => Ok(()),
        false => Err(StoreError::OtherServer {
            path: new.root().to_owned(),
            held: held.server_id,
            asked: asked.server_id,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Operation;

    /// A chunkserver with too few descriptors started without a directory of which nothing was wrong, and
    /// all its replicas were made anew elsewhere.
    #[test]
    fn what_this_machine_is_short_of_leaves_no_directory_out() {
        let error = |errno: rustix::io::Errno| {
            StoreError::io(Operation::Open, PathBuf::from("a"), errno.into())
        };
        use rustix::io::Errno;
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
            assert!(!is_of_the_disk(&error(errno)), "{errno}");
            let hint = directory_hint(&error(errno)).expect("a hint");
            assert!(hint.contains("ulimit"), "{hint}");
        }
        assert!(is_of_the_disk(&error(Errno::IO)));
    }
}
