//! Why the client could not do what it was asked to, and what a program ends with for it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use sarsen_edge::address::AddressError;
use sarsen_edge::connection::ConnectError;
use sarsen_edge::exit::{Exit, Explain};
use sarsen_edge::key::KeyError;
use sarsen_protocol::error::FrameError;
use sarsen_protocol::id::{ChunkHandle, ServerId};
use sarsen_protocol::message::Slot;
use sarsen_protocol::size::PUBLISH_CHUNKS_MAX;
use sarsen_protocol::status::{Retry, Status};
use thiserror::Error;

use crate::path::PathError;

/// Why the client could not do what it was asked to.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// No master was named.
    #[error("no master is named")]
    NoMasterNamed,
    /// The address of a master is malformed.
    #[error("a master's address is wrong")]
    MasterAddress {
        /// What is wrong with it.
        source: AddressError,
    },
    /// There is no key to say hello with.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// What answers at an address is not the cluster that was meant, or does not trust us.
    #[error(transparent)]
    Hello(ConnectError),
    /// No master could be asked in time.
    #[error("no master answered within {waited:?}: {}", cause.as_ref().map_or_else(|| masters.join(", "), ToString::to_string))]
    NoMaster {
        /// Where they were looked for.
        masters: Vec<String>,
        /// How long.
        waited: Duration,
        /// How the last try ended, if there was no connection.
        cause: Option<Box<Error>>,
    },
    /// The master was there all the time, and what it was asked took longer than it may.
    #[error("the master did not get it done within {waited:?}; it may be waiting for chunkservers")]
    MasterLate {
        /// How long.
        waited: Duration,
    },
    /// A connection could not be made for now.
    #[error(transparent)]
    Connect(ConnectError),
    /// The master refused.
    #[error("{text}")]
    Refused {
        /// Its status.
        status: Status,
        /// Its words.
        text: String,
    },
    /// The master could not do it in time.
    #[error("{text} (waited {waited:?})")]
    NotNow {
        /// Its last status.
        status: Status,
        /// Its words.
        text: String,
        /// How long it was asked.
        waited: Duration,
    },
    /// A change was sent, and its answer can't be had any more, or not be read.
    #[error("no answer came to a change that was sent: it may have been done or not")]
    OutcomeUnknown {
        /// Why it was not asked for once more, if not because the session ended or the time was over.
        source: Option<Box<Error>>,
    },
    /// The master was there all the time, and a change took longer than it may: it may be done yet.
    #[error(
        "the master did not get it done within {waited:?}, and may do it yet, or have done it; it may be waiting for chunkservers"
    )]
    ChangeLate {
        /// How long.
        waited: Duration,
    },
    /// The session of an upload ended before it.
    #[error("the session ended in the middle of the upload")]
    SessionLost,
    /// The master broke the protocol.
    #[error("the master broke the protocol")]
    Protocol(#[from] FrameError),
    /// A path in the cluster is malformed.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A local file could not be used.
    #[error("can't {doing} {}", path.display())]
    Local {
        /// What was being done, as `read`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The caller's reader failed.
    #[error("can't read what is to be uploaded")]
    Source {
        /// What it said.
        source: io::Error,
    },
    /// The caller's writer failed, or the pipe behind it was closed.
    #[error("can't write what was downloaded")]
    Sink {
        /// What it said.
        source: io::Error,
    },
    /// A file that is being uploaded became shorter.
    #[error("the file became shorter while it was read: {wanted} bytes were there at first")]
    SourceShrank {
        /// Its length when the upload began.
        wanted: u64,
    },
    /// A file was written to while it was uploaded: of which state each byte is can't be told.
    #[error("the file was changed while it was uploaded")]
    SourceChanged,
    /// A symbolic link or special file in a tree.
    #[error("{what}, which is skipped")]
    Skipped {
        /// What it is.
        what: &'static str,
    },
    /// A local name that no name in the cluster can be.
    #[error("the name is not UTF-8, as names in the cluster are")]
    NotUtf8,
    /// Something else is where a file or folder is to be written.
    #[error("{} is {found}, and {wanted} is to be written there", path.display())]
    InTheWay {
        /// What is there.
        found: &'static str,
        /// What is to be there.
        wanted: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// A file in a tree whose local name would be that of an unfinished download.
    #[error("a file of this name would be taken for an unfinished download")]
    PartName,
    /// The master listed names that no folder can have.
    #[error("the master listed a name that can't be")]
    BadListing,
    /// A local path was to be a file and is a folder.
    #[error("{} is a folder", path.display())]
    LocalFolder {
        /// Which.
        path: PathBuf,
    },
    /// Another process writes the same target.
    #[error("{} is being downloaded by another process", path.display())]
    TargetBusy {
        /// Which.
        path: PathBuf,
    },
    /// A file was asked for and a folder is there.
    #[error("it is a folder")]
    IsAFolder,
    /// More than one file can have.
    #[error("{bytes} bytes are more than a file can have")]
    TooLarge {
        /// How many.
        bytes: u64,
    },
    /// A change that would make a file longer than any can be.
    #[error(
        "the file would have {bytes} bytes, and one has at most {} ({PUBLISH_CHUNKS_MAX} chunks of {chunk_size})",
        file_len_max(*chunk_size)
    )]
    FileTooLong {
        /// How many.
        bytes: u64,
        /// Of the cluster.
        chunk_size: u32,
    },
    /// A chunk could not be stored.
    #[error("chunk {index} can't be stored: {cause}")]
    ChunkNotStored {
        /// Its place in the file.
        index: u32,
        /// How the last try ended.
        cause: Box<StreamError>,
    },
    /// Every replica of a chunk is corrupt.
    #[error(
        "chunk {index} ({handle}) is corrupt on every replica: {}",
        servers(bad)
    )]
    Corrupt {
        /// Its place in the file.
        index: u32,
        /// Its name.
        handle: ChunkHandle,
        /// Who holds the replicas that were read.
        bad: Vec<ServerId>,
    },
    /// Every chunk is good, and together they are not the file.
    #[error("the file has CRC {found:08x}, and was uploaded with {uploaded:08x}")]
    FileMismatch {
        /// What its chunks have together.
        found: u32,
        /// What the master has.
        uploaded: u32,
    },
    /// No replica of a chunk could be read in time.
    #[error("no replica of chunk {index} ({handle}) can be read: {}", cause.as_ref().map_or_else(|| "no live server has one".into(), ToString::to_string))]
    NoReplica {
        /// Its place in the file.
        index: u32,
        /// Its name.
        handle: ChunkHandle,
        /// How the last try ended, if there was one.
        cause: Option<Box<StreamError>>,
    },
    /// The file was changed while it was read.
    #[error("the file was changed while it was read, at chunk {index}")]
    Changed {
        /// Where.
        index: u32,
    },
    /// There is no file to change.
    #[error("there is no such file")]
    NoSuchFile,
    /// There is no chunk of this name in the cluster.
    #[error("there is no such chunk")]
    NoSuchChunk,
    /// A file's bytes were to be changed, and a folder is there.
    #[error("it is a folder, and has no bytes to change")]
    FolderHasNoBytes,
    /// The file was removed, or another took its place, while it was changed.
    #[error("the file was removed or replaced meanwhile")]
    FileGone,
    /// A record that no chunk would take.
    #[error("a record of {bytes} bytes, where at most {bytes_max} are allowed")]
    RecordTooLarge {
        /// Its bytes.
        bytes: u64,
        /// A quarter of a chunk, without the record's header.
        bytes_max: u64,
    },
    /// A change surely was not made: no primary could be reached in time.
    #[error("it can't be written (waited {waited:?}): {}", cause.as_ref().map_or_else(|| "nobody answered".into(), ToString::to_string))]
    NotWritten {
        /// How long was nothing done.
        waited: Duration,
        /// How the last try ended, if there was one.
        cause: Option<Box<StreamError>>,
    },
    /// A change was sent, and nobody could tell in time what became of it.
    #[error("it was sent, and may have been written or not (waited {waited:?}): {}", cause.as_ref().map_or_else(|| "nobody answered".into(), ToString::to_string))]
    WriteInDoubt {
        /// How long was asked.
        waited: Duration,
        /// How the last try ended, if there was one.
        cause: Option<Box<StreamError>>,
    },
    /// A change was sent to a chunk that has left its file since.
    #[error("it was sent, and may have been written or not: its chunk has left the file")]
    ChunkGone,
    /// A change behind one that failed, where none was to be begun any more; it was not sent.
    #[error("it was not tried, since one before it failed")]
    NotTried,
    /// Some of what was sent since the last flush was not written.
    #[error("{failed} of the writes failed")]
    WritesFailed {
        /// How many.
        failed: u64,
    },
    /// Fewer chunkservers than waited for.
    #[error("{live} of {wanted} chunkservers are live after {waited:?}{}{}", more_silent(*silent), if *safe_mode { ", and the master is in safe mode" } else { "" })]
    StillWaiting {
        /// How many were waited for.
        wanted: u32,
        /// How many are live.
        live: u32,
        /// How many more fell silent and are not dead yet.
        silent: u32,
        /// Whether changes still wait for reports.
        safe_mode: bool,
        /// How long.
        waited: Duration,
    },
    /// A task of the client's own ended before its work.
    #[error("a task of the client broke down")]
    Task(#[from] tokio::task::JoinError),
}

/// Bytes of the longest file.
pub(crate) const fn file_len_max(chunk_size: u32) -> u64 {
    PUBLISH_CHUNKS_MAX as u64 * chunk_size as u64
}

fn slot_name(slot: Slot) -> String {
    match slot {
        Slot::Last { .. } => "the last chunk".into(),
        Slot::At(index) => format!("chunk {index}"),
    }
}

fn more_silent(silent: u32) -> String {
    match silent {
        0 => String::new(),
        silent => format!(", {silent} more fell silent"),
    }
}

fn servers(servers: &[ServerId]) -> String {
    let names = servers.iter().map(|server| format!("server {server}"));
    names.collect::<Vec<_>>().join(", ")
}

/// How a stream with a chunkserver ended.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StreamError {
    /// No connection to it.
    #[error("server {server}: {cause}")]
    Connect {
        /// Which.
        server: ServerId,
        /// Why.
        cause: ConnectError,
    },
    /// The connection broke.
    #[error("server {server} ({addr}): the connection broke: {cause}")]
    Io {
        /// Which.
        server: ServerId,
        /// Its address.
        addr: String,
        /// What the system said.
        cause: io::Error,
    },
    /// It owed an answer for too long.
    #[error("server {server} ({addr}) fell silent")]
    Silent {
        /// Which.
        server: ServerId,
        /// Its address.
        addr: String,
    },
    /// It was slower than others, and left for one of them.
    #[error("server {server} ({addr}) was left, being slow")]
    Late {
        /// Which.
        server: ServerId,
        /// Its address.
        addr: String,
    },
    /// It answered with a failure, of its own or of a server behind it.
    #[error("server {server}: {status}: {text}")]
    Status {
        /// Whose.
        server: ServerId,
        /// Which.
        status: Status,
        /// Its words.
        text: String,
    },
    /// It broke the protocol.
    #[error("server {server} ({addr}) broke the protocol: {cause}")]
    Protocol {
        /// Which.
        server: ServerId,
        /// Its address.
        addr: String,
        /// How.
        cause: FrameError,
    },
    /// It acknowledged what it could not have.
    #[error("server {server} ({addr}): {cause}")]
    Write {
        /// Which.
        server: ServerId,
        /// Its address.
        addr: String,
        /// What.
        cause: crate::core::write::WriteFault,
    },
    /// The master does not let a chunk be changed for now.
    #[error("{text}")]
    NotOpened {
        /// Its status.
        status: Status,
        /// Its words.
        text: String,
    },
    /// The master is there, and could not have a chunk opened in time.
    #[error("the master still waits for chunkservers that {} needs", slot_name(*slot))]
    NotOpenedYet {
        /// Which.
        slot: Slot,
    },
    /// No master could be asked.
    #[error("{cause}")]
    NoMaster {
        /// Why.
        cause: Box<Error>,
    },
    /// Its replica is bad.
    #[error("server {server} ({addr}): {cause}")]
    Read {
        /// Which.
        server: ServerId,
        /// Its address.
        addr: String,
        /// How.
        cause: crate::core::read_stream::ReadFault,
    },
    /// The master has too few servers for another copy, or too few with room.
    #[error("{text}")]
    TooFewServers {
        /// Which of the two.
        status: Status,
        /// Its words.
        text: String,
    },
}

impl Error {
    /// The exit code for a status that ended a request.
    fn exit_of(status: Status) -> Exit {
        match status {
            Status::NotFound => Exit::NotFound,
            Status::AlreadyExists => Exit::AlreadyExists,
            Status::NameInvalid | Status::InvalidArgument => Exit::Usage,
            Status::NoSpace => Exit::NoSpace,
            Status::Corrupt | Status::SealMismatch | Status::DamagedInTransit => Exit::Corrupt,
            Status::ReadOnly => Exit::Unavailable,
            _ if status.retry() != Retry::Never => Exit::Unavailable,
            _ => Exit::Failed,
        }
    }

    /// The exit code for a failure of a local file.
    fn exit_of_local(error: &io::Error) -> Exit {
        match error.kind() {
            io::ErrorKind::NotFound => Exit::NotFound,
            io::ErrorKind::AlreadyExists => Exit::AlreadyExists,
            _ => Exit::of_io(error),
        }
    }

    /// Whether the change of a file that ended so may have been made all the same.
    #[must_use]
    pub const fn leaves_doubt(&self) -> bool {
        matches!(
            self,
            Self::WriteInDoubt { .. } | Self::ChunkGone | Self::OutcomeUnknown { .. }
        )
    }

    /// Whether the reader of what is written here has gone, which is no failure.
    #[must_use]
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Sink { source } if source.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl Explain for Error {
    fn exit(&self) -> Exit {
        match self {
            Self::NoMasterNamed | Self::MasterAddress { .. } | Self::Path(_) => Exit::Usage,
            Self::Key(error) => error.exit(),
            Self::NoSuchFile | Self::NoSuchChunk | Self::FileGone => Exit::NotFound,
            Self::NoMaster { .. }
            | Self::MasterLate { .. }
            | Self::NotWritten { .. }
            | Self::Connect(_)
            | Self::NoReplica { .. }
            | Self::StillWaiting { .. }
            | Self::SessionLost => Exit::Unavailable,
            Self::Refused { status, .. } | Self::NotNow { status, .. } => Self::exit_of(*status),
            Self::Local { source, .. } => Self::exit_of_local(source),
            Self::NotUtf8 => Exit::Usage,
            Self::Source { source } | Self::Sink { source } => Exit::of_io(source),
            Self::ChunkNotStored { cause, .. } => match &**cause {
                StreamError::Status {
                    status: Status::NoSpace,
                    ..
                }
                | StreamError::TooFewServers {
                    status: Status::NoSpace,
                    ..
                } => Exit::NoSpace,
                _ => Exit::Unavailable,
            },
            Self::Corrupt { .. } | Self::FileMismatch { .. } => Exit::Corrupt,
            Self::Hello(_)
            | Self::OutcomeUnknown { .. }
            | Self::ChangeLate { .. }
            | Self::FolderHasNoBytes
            | Self::RecordTooLarge { .. }
            | Self::WriteInDoubt { .. }
            | Self::ChunkGone
            | Self::NotTried
            | Self::WritesFailed { .. }
            | Self::Protocol(_)
            | Self::SourceShrank { .. }
            | Self::SourceChanged
            | Self::Skipped { .. }
            | Self::InTheWay { .. }
            | Self::PartName
            | Self::BadListing
            | Self::LocalFolder { .. }
            | Self::TargetBusy { .. }
            | Self::IsAFolder
            | Self::TooLarge { .. }
            | Self::FileTooLong { .. }
            | Self::Changed { .. }
            | Self::Task(_) => Exit::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoMasterNamed | Self::MasterAddress { .. } => {
                Some("name it with --master HOST:PORT or SARSEN_MASTER".into())
            }
            Self::Key(error) => error.hint(),
            Self::Hello(error) => error.hint(),
            Self::NoMaster { cause, .. } => match cause.as_deref() {
                Some(Self::Key(error)) => error.hint(),
                _ => Some("is the master up, and is its address right? See --master".into()),
            },
            Self::Refused { status, .. } | Self::NotNow { status, .. } => hint_of(*status),
            Self::OutcomeUnknown { .. } | Self::ChangeLate { .. } => {
                Some("look with `sarsen stat` whether it was done, and repeat it if not".into())
            }
            Self::SessionLost => Some("repeat the upload".into()),
            Self::SourceShrank { .. } | Self::SourceChanged => Some(
                "repeat the upload when nobody writes to it; `sarsen put -` takes stdin as it comes"
                    .into(),
            ),
            Self::NoSuchFile => Some("`sarsen touch PATH` makes an empty file".into()),
            Self::NoSuchChunk => {
                Some("`sarsen fsck` and `sarsen locate` tell the handles of chunks".into())
            }
            Self::FolderHasNoBytes => {
                Some("name a file in it; `sarsen touch PATH` makes an empty one".into())
            }
            Self::FileGone => Some("look with `sarsen stat` what is there now".into()),
            Self::RecordTooLarge { .. } => {
                Some("cut it into several records, or use `sarsen write`".into())
            }
            Self::NotWritten { .. } | Self::MasterLate { .. } => Some(
                "`sarsen report` shows which servers are live; give more --timeout to wait for them"
                    .into(),
            ),
            Self::WriteInDoubt { .. } | Self::ChunkGone => {
                Some("read the file to see whether it is there, and repeat it if not".into())
            }
            Self::Path(PathError::NotAbsolute) => {
                Some("write it with a `/` in front, as in /folder/name".into())
            }
            Self::IsAFolder => {
                Some("name a file in it, or take all of it with `sarsen get -r`".into())
            }
            Self::LocalFolder { .. } => Some("-r takes all that is in it".into()),
            Self::InTheWay { .. } => Some("move it away, or give another target".into()),
            Self::PartName => Some("get it by itself, under another name".into()),
            Self::TargetBusy { .. } => Some("wait for it, or give another name".into()),
            Self::NoReplica { .. } | Self::ChunkNotStored { .. } => {
                Some("`sarsen report` shows which servers are live".into())
            }
            Self::Corrupt { .. } | Self::FileMismatch { .. } => {
                Some("`sarsen fsck` lists what is damaged; restore the file from elsewhere".into())
            }
            Self::StillWaiting { .. } => {
                Some("`sarsen report` shows which servers are live".into())
            }
            Self::Changed { .. } => Some("repeat the download".into()),
            _ => None,
        }
    }
}

/// What can be done about a status that ended a request.
fn hint_of(status: Status) -> Option<String> {
    let hint = match status {
        Status::AlreadyExists => "give another name",
        Status::NotEmpty => "-r takes what is in it too",
        Status::SafeMode => "the master still collects reports: wait, or give more --timeout",
        Status::TooFewServers => {
            "start more chunkservers, or ask for fewer --replicas; `sarsen report` shows them"
        }
        Status::ReadOnly => "the master lost a part of its log: see its own log",
        Status::Overloaded | Status::ShuttingDown | Status::NotLeader => "try again later",
        _ => return None,
    };
    Some(hint.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_the_exit_code_of_the_contract() {
        for (status, exit) in [
            (Status::NotFound, Exit::NotFound),
            (Status::AlreadyExists, Exit::AlreadyExists),
            (Status::NameInvalid, Exit::Usage),
            (Status::IsAFolder, Exit::Failed),
            (Status::NotEmpty, Exit::Failed),
            (Status::SafeMode, Exit::Unavailable),
            (Status::TooFewServers, Exit::Unavailable),
            (Status::NotLeader, Exit::Unavailable),
            (Status::ReadOnly, Exit::Unavailable),
            (Status::Corrupt, Exit::Corrupt),
            (Status::NoSpace, Exit::NoSpace),
            (Status::Internal, Exit::Failed),
        ] {
            let text = String::new();
            let refused = Error::Refused { status, text };
            assert_eq!(refused.exit(), exit, "{status}");
        }
    }

    #[test]
    fn how_long_a_file_may_be_is_told_in_bytes() {
        let error = Error::FileTooLong {
            bytes: 99_999_999_999_999,
            chunk_size: 64 << 20,
        };
        let told = "the file would have 99999999999999 bytes, and one has at most 17592186044416 \
                    (262144 chunks of 67108864)";
        assert_eq!(error.to_string(), told);
    }

    #[test]
    fn a_full_disk_there_is_no_space() {
        let cause = StreamError::Status {
            server: ServerId(3),
            status: Status::NoSpace,
            text: "the disk is full".into(),
        };
        let error = Error::ChunkNotStored {
            index: 2,
            cause: Box::new(cause),
        };
        assert_eq!(error.exit(), Exit::NoSpace);
        assert_eq!(
            error.to_string(),
            "chunk 2 can't be stored: server 3: no_space: the disk is full"
        );
    }
}
