//! What can go wrong with the operation log: bytes that break the format, damage that a start
//! found, and a medium or a caller that fails (`spec/oplog.md` sections 4 to 8).

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why bytes are not an entry, a segment's header or a part of a checkpoint.
///
/// The names are those of `spec/oplog.md` and of the rejected vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The bytes end early.
    #[error("the bytes end early")]
    Truncated,
    /// Bytes are left over.
    #[error("bytes are left over")]
    TrailingBytes,
    /// The magic is another one.
    #[error("the magic is wrong")]
    MagicWrong,
    /// The header's CRC differs.
    #[error("the header's CRC is wrong")]
    HeaderCrcWrong,
    /// A version of the format that this program doesn't know.
    #[error("the format's version is not known")]
    VersionUnknown,
    /// A flag that this program doesn't know.
    #[error("a flag is not known")]
    FlagsUnknown,
    /// A reserved byte is not zero.
    #[error("a reserved byte is not zero")]
    ReservedNotZero,
    /// An index is zero, not the one of the file's name, or not above the synced one.
    #[error("the index can't be")]
    IndexWrong,
    /// The body is longer than an entry's may be.
    #[error("the body is too long")]
    BodyTooLong,
    /// The request id is none that a session could have sent.
    #[error("the request id can't be")]
    RequestIdInvalid,
    /// A mark that says more than a mark may.
    #[error("the mark can't be")]
    MarkInvalid,
    /// The body's CRC differs.
    #[error("the body's CRC is wrong")]
    BodyCrcWrong,
    /// A padding byte is not zero.
    #[error("a padding byte is not zero")]
    PaddingNotZero,
    /// A mark where an entry is wanted, or the other way round.
    #[error("a mark and an entry are confused")]
    KindWrong,
    /// A piece of a checkpoint has a length that a piece can't have here.
    #[error("the piece's length is wrong")]
    PieceLenWrong,
    /// A piece's CRC differs.
    #[error("the piece's CRC is wrong")]
    PieceCrcWrong,
    /// The medium does not give the bytes.
    #[error("the disk can't read it")]
    Unreadable,
}

impl FormatError {
    /// The name in the spec and in the vectors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Unreadable => "unreadable",
            Self::TrailingBytes => "trailing_bytes",
            Self::MagicWrong => "magic_wrong",
            Self::HeaderCrcWrong => "header_crc_wrong",
            Self::VersionUnknown => "version_unknown",
            Self::FlagsUnknown => "flags_unknown",
            Self::ReservedNotZero => "reserved_not_zero",
            Self::IndexWrong => "index_wrong",
            Self::BodyTooLong => "body_too_long",
            Self::RequestIdInvalid => "request_id_invalid",
            Self::MarkInvalid => "mark_invalid",
            Self::BodyCrcWrong => "body_crc_wrong",
            Self::PaddingNotZero => "padding_not_zero",
            Self::KindWrong => "kind_wrong",
            Self::PieceLenWrong => "piece_len_wrong",
            Self::PieceCrcWrong => "piece_crc_wrong",
        }
    }
}

/// Why there is no good entry at a place in a segment (`spec/oplog.md` section 7, point 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EntryFault {
    /// Zeros, a mark, or the end of the file.
    #[error("there is no entry")]
    Absent,
    /// The bytes are no entry.
    #[error("{0}")]
    Format(#[from] FormatError),
    /// A whole entry, but of another index.
    #[error("entry {found} stands in its place")]
    OtherIndex {
        /// The index found.
        found: u64,
    },
    /// A whole entry of another cluster.
    #[error("an entry of another cluster stands in its place")]
    OtherCluster,
    /// A whole entry that doesn't follow the one before it.
    #[error("it doesn't follow the entry before it")]
    ChainBroken,
    /// A whole entry of a lower term than the one before it.
    #[error("its term is lower than that of the entry before it")]
    TermLower,
}

/// How a start knows that a bad entry had been on stable storage.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Proof {
    /// A later segment, which is begun only when everything before it was synced.
    #[error("the next segment begins with entry {first_index}")]
    LaterSegment {
        /// First index of the next segment.
        first_index: u64,
    },
    /// A checkpoint that covers the entry.
    #[error("a checkpoint covers entries up to {last_index}")]
    Checkpoint {
        /// Last index of the checkpoint.
        last_index: u64,
    },
    /// A later header that was written when the entry was synced already.
    #[error(
        "the header at byte {offset} was written when entries up to {synced_index} were synced"
    )]
    LaterHeader {
        /// Where the header stands in the same file.
        offset: u64,
        /// What it says was synced.
        synced_index: u64,
    },
}

/// A checkpoint that a start passed over. To be told loudly: the medium spoiled it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{file} is damaged: {error}")]
pub struct DamagedCheckpoint {
    /// Its file; renamed with `.damaged` behind it when the start is done.
    pub file: String,
    /// What is wrong with it.
    pub error: FormatError,
}

fn and_damaged(passed_over: Option<&DamagedCheckpoint>) -> String {
    passed_over.map_or_else(String::new, |checkpoint| format!(", and {checkpoint}"))
}

/// What is damaged in a log that a start refuses.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Damage {
    /// An entry that had been synced is not good any more.
    #[error("{file}: byte {offset}: entry {index}: {fault}; it had been synced, for {proof}")]
    Entry {
        /// The segment.
        file: String,
        /// Where the entry should begin.
        offset: u64,
        /// The entry's index.
        index: u64,
        /// What is there instead.
        fault: EntryFault,
        /// How we know that it had been there.
        proof: Proof,
    },
    /// A segment's header is spoiled or belongs elsewhere.
    #[error("{file}: byte 0: entry {first_index}: the segment's header: {fault}")]
    SegmentHeader {
        /// The segment.
        file: String,
        /// The first index that its name tells.
        first_index: u64,
        /// What is wrong.
        fault: EntryFault,
    },
    /// No segment holds an entry that must be there.
    #[error("no segment holds entry {index}{}", and_damaged(passed_over.as_ref()))]
    SegmentMissing {
        /// The first entry that is not to be found.
        index: u64,
        /// The checkpoint that would have made the segment needless, but is damaged itself.
        passed_over: Option<DamagedCheckpoint>,
    },
    /// The log's entry at the checkpoint's last index is not the one that the checkpoint knows.
    #[error("{file}: entry {index} is not the one that the checkpoint was made after")]
    CheckpointForeign {
        /// The segment.
        file: String,
        /// The checkpoint's last index.
        index: u64,
    },
}

/// Why the operation log can't be opened, read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OplogError {
    /// Another master runs on the directory.
    #[error("{}: another master is using this directory", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The directory holds what no master wrote, and no operation log.
    #[error("{name}: not a file of a master, in a directory without an operation log")]
    Foreign {
        /// The first such name.
        name: String,
    },
    /// The directory can't be made, read or written.
    #[error("{}: can't be used: {source}", path.display())]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The medium is full.
    #[error("{name}: no space left ({operation})")]
    NoSpace {
        /// The file.
        name: String,
        /// What was tried.
        operation: &'static str,
    },
    /// The medium failed.
    #[error("{name}: {operation} failed: {source}")]
    Io {
        /// The file.
        name: String,
        /// What was tried.
        operation: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The log is damaged in the middle.
    #[error("the operation log is damaged: {0}")]
    Damaged(#[from] Damage),
    /// An earlier write or sync failed; nothing is written any more.
    #[error("the operation log has failed before and takes nothing more")]
    Failed,
}

impl OplogError {
    /// What to do about it, one line for the person who started the master.
    #[must_use]
    pub const fn advice(&self) -> &'static str {
        match self {
            Self::Locked { .. } => "stop the other master, or give this one a directory of its own",
            Self::Foreign { .. } => "give --dir an empty directory or that of a master",
            Self::Unusable { .. } => "check that --dir exists and that this user may write there",
            Self::NoSpace { .. } => "free some space on the disk of --dir and start again",
            Self::Io { .. } | Self::Failed => {
                "check the disk of --dir (kernel log); copy the directory before starting again"
            }
            Self::Damaged(_) => {
                "nothing was changed; put the named file back from a copy of --dir, or start from \
                 a whole copy of the directory"
            }
        }
    }

    /// Wraps what the system said about `name`; for use in `map_err`.
    pub(super) fn io<'a>(
        operation: &'static str,
        name: &'a str,
    ) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace {
                name: name.to_owned(),
                operation,
            },
            _ => Self::Io {
                name: name.to_owned(),
                operation,
                source,
            },
        }
    }
}
