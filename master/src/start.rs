//! From a directory to a state: opens the log, takes the checkpoint, and applies the entries behind
//! it (`spec/oplog.md`, `spec/oplog-entries.md`).
//!
//! Appends nothing: the machine begins its epoch, and a cluster if the log is empty, by itself.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use sarsen_edge::exit::{Exit, Explain};
use sarsen_edge::random;
use sarsen_edge::settings::CHUNK_SIZE_DEFAULT;
use sarsen_protocol::id::ClusterId;
use sarsen_protocol::key::SecretKey;
use thiserror::Error;

use crate::core::apply::apply;
use crate::core::checkpoint::{self, CheckpointError};
use crate::core::command::cluster::TicketKey;
use crate::core::command::{Command, CommandError, Entry, Genesis};
use crate::core::state::State;
use crate::oplog::{self, Appender, Directory, Folder, LogOptions, OplogError, Recovery};

/// The id of the first ticket key of a cluster.
const FIRST_TICKET_KEY: u32 = 1;

/// Why a master can't start from its directory.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The log can't be opened or read.
    #[error(transparent)]
    Oplog(#[from] OplogError),
    /// A checkpoint can't be read as a state.
    #[error("the checkpoint can't be used")]
    Checkpoint(#[from] CheckpointError),
    /// A checkpoint's bytes can't be read.
    #[error("the checkpoint can't be read")]
    CheckpointRead(#[source] std::io::Error),
    /// A checkpoint is that of another entry than its name and header tell.
    #[error("the checkpoint of entry {named} holds the state after entry {within}")]
    CheckpointIndex {
        /// What its header tells.
        named: u64,
        /// What its body tells.
        within: u64,
    },
    /// An entry is none of this version's commands.
    #[error("entry {index} of the operation log can't be used: {cause}")]
    Entry {
        /// Its index.
        index: u64,
        /// What is wrong.
        cause: CommandError,
    },
    /// The cluster was started with another chunk size.
    #[error("chunk_size is {asked}, but this cluster was first started with {fixed}")]
    ChunkSize {
        /// What was asked for.
        asked: u32,
        /// What it is.
        fixed: u32,
    },
}

impl Explain for StartError {
    fn exit(&self) -> Exit {
        match self {
            Self::Oplog(OplogError::NoSpace { .. }) => Exit::NoSpace,
            Self::ChunkSize { .. } => Exit::Usage,
            _ => Exit::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Oplog(error) => error.advice().to_owned(),
            Self::Checkpoint(_) | Self::CheckpointRead(_) | Self::CheckpointIndex { .. } => {
                "put the checkpoint back from a copy of --dir, or start from a whole copy".into()
            }
            Self::Entry { .. } => {
                "a newer master may have written it: start that one, or a whole copy of --dir"
                    .into()
            }
            Self::ChunkSize { .. } => {
                "leave chunk_size out, or start a new cluster in another --dir".into()
            }
        })
    }
}

/// What a log that is yet to be begun is given; random, but for those who repeat a run.
pub struct Fresh {
    /// The cluster's id.
    pub cluster: ClusterId,
    /// Signs its tickets.
    pub ticket_key: SecretKey,
}

/// A log that is open, and the state that it comes to.
pub struct Started {
    /// Holds the directory's lock.
    pub folder: Arc<dyn Folder>,
    /// The end of the log.
    pub appender: Appender,
    /// Whose log it is.
    pub cluster: ClusterId,
    /// What the cluster becomes if the log is empty.
    pub genesis: Genesis,
    /// What all of the log adds up to.
    pub state: State,
    /// The last entry that is in the checkpoint; 0 without one.
    pub checkpoint_index: u64,
    /// A crash had left something unfinished behind the last entry, which was cut off.
    pub was_torn: bool,
}

/// Takes `dir` into use. `chunk_size` is what was asked for, if anything was.
pub(crate) fn start(dir: Directory, chunk_size: Option<u32>) -> Result<Started, StartError> {
    let options = LogOptions::default();
    let fresh = Fresh {
        cluster: ClusterId(random()),
        ticket_key: SecretKey::new(random()),
    };
    replay(Arc::new(dir), options, fresh, chunk_size)
}

/// Reads the log in `folder`, and begins one if there is none. `chunk_size` is what was asked
/// for, if anything was.
///
/// # Errors
/// See [`StartError`]; nothing is changed then but for what a crash left unfinished.
pub fn replay(
    folder: Arc<dyn Folder>,
    options: LogOptions,
    fresh: Fresh,
    chunk_size: Option<u32>,
) -> Result<Started, StartError> {
    let mut recovery = Recovery::begin(folder.clone(), options, fresh.cluster)?;
    let cluster = recovery.cluster();
    for damaged in recovery.damaged_checkpoints() {
        tracing::error!(
            ?damaged,
            "a checkpoint is damaged; an older one and the log serve"
        );
    }
    let mut state = match recovery.checkpoint()? {
        Some(mut reader) => {
            let mut body = Vec::new();
            reader
                .read_to_end(&mut body)
                .map_err(StartError::CheckpointRead)?;
            let (state, named) = (checkpoint::decode(&body)?, reader.header().position.index);
            if state.index != named {
                let within = state.index;
                return Err(StartError::CheckpointIndex { named, within });
            }
            state
        }
        None => State::default(),
    };
    let checkpoint_index = state.index;
    let mut replayed = 0_u64;
    while let Some(recovered) = recovery.next_entry()? {
        let index = recovered.index;
        let entry =
            from_log(index, recovered.entry).map_err(|cause| StartError::Entry { index, cause })?;
        apply(&mut state, &entry);
        replayed += 1;
    }
    let recovered = recovery.finish()?;
    if let Some(torn) = &recovered.torn_tail {
        tracing::warn!(
            ?torn,
            "cut off what a crash left unfinished; none of it was acknowledged"
        );
    }
    tracing::info!(replayed, index = state.index, "the operation log is read");
    let fixed = (state.index > 0).then_some(state.cluster.chunk_size);
    if let (Some(asked), Some(fixed)) = (chunk_size, fixed)
        && asked != fixed
    {
        return Err(StartError::ChunkSize { asked, fixed });
    }
    let genesis = Genesis {
        cluster,
        chunk_size: chunk_size.unwrap_or(CHUNK_SIZE_DEFAULT),
        ticket_key: TicketKey {
            id: FIRST_TICKET_KEY,
            key: fresh.ticket_key,
        },
    };
    Ok(Started {
        folder,
        appender: recovered.appender,
        cluster,
        genesis,
        state,
        checkpoint_index,
        was_torn: recovered.torn_tail.is_some(),
    })
}

/// Opens the directory, which locks it.
pub(crate) fn open(dir: &Path) -> Result<Directory, StartError> {
    Ok(Directory::open(dir)?)
}

/// An entry as the log frames it.
#[must_use]
pub fn to_log(entry: &Entry) -> oplog::Entry {
    oplog::Entry {
        kind: entry.command.kind(),
        term: entry.term,
        time_ms: entry.time_ms,
        request: entry.request,
        body: entry.command.encode_body(),
    }
}

/// An entry as the log gives it back.
fn from_log(index: u64, entry: oplog::Entry) -> Result<Entry, CommandError> {
    Ok(Entry {
        term: entry.term,
        index,
        time_ms: entry.time_ms,
        request: entry.request,
        command: Command::decode(entry.kind, &entry.body)?,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::oplog::CheckpointWriter;

    /// Opens the directory and logs what a first start would.
    fn found(dir: &Path, chunk_size: Option<u32>) -> Result<State, StartError> {
        let mut started = start(open(dir)?, chunk_size)?;
        if started.state.index == 0 {
            let entry = Entry {
                term: 1,
                index: 1,
                time_ms: 1,
                request: None,
                command: started.genesis.into(),
            };
            started.appender.append(&[to_log(&entry)])?;
            apply(&mut started.state, &entry);
        }
        Ok(started.state)
    }

    #[test]
    fn the_log_gives_the_same_state_again() {
        let dir = tempfile::tempdir().unwrap();
        let first = found(dir.path(), Some(1 << 20)).unwrap();
        assert_eq!(first.cluster.chunk_size, 1 << 20);
        assert_eq!(found(dir.path(), None).unwrap(), first);
    }

    #[test]
    fn the_chunk_size_is_fixed_at_the_first_start() {
        let dir = tempfile::tempdir().unwrap();
        found(dir.path(), None).unwrap();
        let refused = found(dir.path(), Some(1 << 20)).unwrap_err();
        assert!(matches!(
            refused,
            StartError::ChunkSize {
                asked: 0x10_0000,
                fixed: 0x400_0000
            }
        ));
        assert_eq!(refused.exit(), Exit::Usage);
    }

    #[test]
    fn a_directory_in_use_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _first = open(dir.path()).unwrap();
        let refused = open(dir.path()).err().unwrap();
        assert!(matches!(
            refused,
            StartError::Oplog(OplogError::Locked { .. })
        ));
    }

    /// Whole by every checksum, and yet of another entry: replaying the log on it would have been
    /// a panic at best.
    #[test]
    fn a_checkpoint_of_another_entry_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = found(dir.path(), None).unwrap();
        let started = start(open(dir.path()).unwrap(), None).unwrap();
        let (position, cluster) = (started.appender.position(), started.cluster);
        let mut writer =
            CheckpointWriter::begin(started.folder.clone(), cluster, position, 1).unwrap();
        state.index = 9;
        writer.write_all(&checkpoint::encode(&state)).unwrap();
        writer.finish().unwrap();
        drop(started);
        let refused = start(open(dir.path()).unwrap(), None).err().unwrap();
        let is_told = matches!(
            refused,
            StartError::CheckpointIndex {
                named: 1,
                within: 9
            }
        );
        assert!(is_told, "{refused}");
    }

    #[test]
    fn an_entry_of_a_newer_master_is_refused_by_its_index() {
        let dir = tempfile::tempdir().unwrap();
        let mut started = start(open(dir.path()).unwrap(), None).unwrap();
        let unknown = oplog::Entry {
            kind: 999,
            term: 1,
            time_ms: 1,
            request: None,
            body: vec![],
        };
        started.appender.append(&[unknown]).unwrap();
        drop(started);
        let refused = start(open(dir.path()).unwrap(), None).err().unwrap();
        assert!(matches!(refused, StartError::Entry { index: 1, .. }));
    }
}
