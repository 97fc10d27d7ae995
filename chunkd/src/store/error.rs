//! What a directory can refuse or fail at.
//!
//! The variants stand in three groups, by whose fault it is: of the caller or the order, of
//! whoever runs the server, of the medium. None of them is about a connection: the scope of each
//! is one request, one chunk, or the whole directory, as its text says.

use std::io;
use std::path::PathBuf;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, ClusterId, Epoch, ServerId};
use sarsen_protocol::id_row::IdTableError;
use sarsen_protocol::message::ChunkState;
use thiserror::Error;

use super::crc_page::CrcPageError;
use super::header::{HeaderError, SlotError};
use super::identity::IdentityError;

/// Why the store did not do what was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    // The caller or the order.
    /// No such chunk in this directory.
    #[error("chunk {handle} is not in this directory")]
    NotFound {
        /// The chunk asked for.
        handle: ChunkHandle,
    },
    /// The handle is in use, be it by a damaged file.
    #[error("chunk {handle} is already in this directory")]
    AlreadyExists {
        /// The chunk that was to be made.
        handle: ChunkHandle,
    },
    /// The replica has another version than the one named.
    #[error("chunk {handle} has version {held}, not {asked}")]
    OtherVersion {
        /// The chunk.
        handle: ChunkHandle,
        /// What this replica has.
        held: ChunkVersion,
        /// What was asked for.
        asked: ChunkVersion,
    },
    /// The chunk is not in the state that this needs.
    #[error("chunk {handle} is {state:?}")]
    OtherState {
        /// The chunk.
        handle: ChunkHandle,
        /// The state it is in.
        state: ChunkState,
    },
    /// The pending chunk was sealed, given up or deleted; nothing more can be written to it.
    #[error("chunk {handle} takes no more data")]
    Closed {
        /// The chunk.
        handle: ChunkHandle,
    },
    /// Data has to follow what is there.
    #[error("chunk {handle} holds {length} bytes, so data at {offset} does not follow")]
    NotContiguous {
        /// The chunk.
        handle: ChunkHandle,
        /// Bytes that it holds.
        length: u32,
        /// Where the data was to go.
        offset: u32,
    },
    /// The data would end behind the chunk, or behind the room that was reserved.
    #[error("chunk {handle} has room up to {room}, not up to {end}")]
    BeyondRoom {
        /// The chunk.
        handle: ChunkHandle,
        /// Bytes that there is room for.
        room: u32,
        /// Where the data would end.
        end: u64,
    },
    /// There has to be one CRC for each block that the data touches.
    #[error("{given} CRCs came for data that lies in {needed} blocks")]
    PieceCount {
        /// CRCs that came.
        given: usize,
        /// Blocks touched.
        needed: usize,
    },
    /// Length or CRC at a seal differ from what is stored.
    #[error(
        "chunk {handle} holds {length} bytes with CRC {crc32:08x}, \
         not {claimed_length} with {claimed_crc32:08x}"
    )]
    SealMismatch {
        /// The chunk.
        handle: ChunkHandle,
        /// Bytes stored.
        length: u32,
        /// Their CRC.
        crc32: u32,
        /// Bytes that the seal claims.
        claimed_length: u32,
        /// The CRC that the seal claims.
        claimed_crc32: u32,
    },
    /// The id table that came with a copy is none, or not the one that it was said to be.
    #[error("the id table for chunk {handle} can't be used: {error}")]
    IdTableInvalid {
        /// The chunk.
        handle: ChunkHandle,
        /// The check that it failed.
        error: IdTableError,
    },
    /// A file whose header is in order is only deleted by its version.
    #[error("chunk {handle} is not damaged")]
    NotDamaged {
        /// The chunk.
        handle: ChunkHandle,
    },
    /// The header that the chunk would get is one that could not be read again.
    #[error("chunk {handle} can't be written so: {error}")]
    HeaderInvalid {
        /// The chunk.
        handle: ChunkHandle,
        /// The check that it would fail.
        error: SlotError,
    },
    /// The `IDENTITY` that the directory would get is one that could not be read again.
    #[error("the directory can't be given such ids: {error}")]
    IdentityInvalid {
        /// The check that it would fail.
        error: IdentityError,
    },
    /// An order of an epoch that is over.
    #[error("epoch {} is older than {}, which this directory obeys", asked.number, held.number)]
    StaleEpoch {
        /// The highest epoch obeyed.
        held: Epoch,
        /// The order's.
        asked: Epoch,
    },
    /// Two masters with different pasts claim the same epoch.
    #[error("epoch {} has another incarnation than the one obeyed: the master lost its log", asked.number)]
    ForkedEpoch {
        /// The epoch obeyed.
        held: Epoch,
        /// The order's.
        asked: Epoch,
    },

    // Whoever runs the server.
    /// Another process holds the lock.
    #[error("{} is in use by another chunkd; stop it, or give this one another --dir", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// Not a data directory, and not empty.
    #[error(
        "{} is not a Sarsen data directory and is not empty ({found:?} is in it); \
         give --dir an empty or a new folder",
        path.display()
    )]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// One of the names found there.
        found: String,
    },
    /// The directory belongs to another cluster.
    #[error(
        "{} belongs to cluster {held}, not to {asked}; \
         point --master at its own cluster, or give --dir an empty folder",
        path.display()
    )]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        held: ClusterId,
        /// Whose it was to be.
        asked: ClusterId,
    },
    /// A master found the directory to be a copy, or rolled back.
    #[error("{} was found to be a copy, or rolled back to an older state: its chunks are of another time; give --dir the directory with the newest state, or an empty folder", path.display())]
    Stale {
        /// The directory.
        path: PathBuf,
    },
    /// The directory belongs to another chunkserver.
    #[error("{} belongs to server {held}, not to {asked}; give each server its own directories", path.display())]
    OtherServer {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        held: ServerId,
        /// Whose it was to be.
        asked: ServerId,
    },
    /// The cluster's chunk size is not the one that the directory was made with, or not valid.
    #[error("chunk size {asked} does not fit; this directory has {held}")]
    ChunkSize {
        /// The directory's, 0 if it has none yet.
        held: u32,
        /// The cluster's.
        asked: u32,
    },
    /// `IDENTITY` does not decode.
    #[error(
        "{}/IDENTITY is damaged ({error}); nothing in it can be trusted: \
         move the folder away and start with an empty one, the cluster repairs what it held",
        path.display()
    )]
    IdentityDamaged {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        error: IdentityError,
    },
    /// The directory has not been registered yet.
    #[error("the directory belongs to no cluster yet")]
    NotAdopted,

    // The medium.
    /// The disk, or the user's quota, is full.
    #[error("no space left for {}", path.display())]
    NoSpace {
        /// What was to grow.
        path: PathBuf,
    },
    /// The medium or the kernel refused.
    #[error("{operation} {} failed: {source}", path.display())]
    Io {
        /// What was tried.
        operation: Operation,
        /// On what.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// A sync of the chunk failed, now or earlier: nothing in it counts as stored.
    #[error("chunk {handle} is poisoned by a failed write or sync")]
    Poisoned {
        /// The chunk.
        handle: ChunkHandle,
    },
    /// A sync of the directory failed, now or earlier: it takes no more data.
    #[error("the directory is poisoned by a failed sync; it only serves reads")]
    DirectoryPoisoned,
    /// The chunk was read back and did not match.
    #[error("chunk {handle} is corrupt")]
    Corrupt {
        /// The chunk.
        handle: ChunkHandle,
    },
    /// The chunk's header does not decode.
    #[error("the header of chunk {handle} is damaged: {error}")]
    HeaderDamaged {
        /// The chunk.
        handle: ChunkHandle,
        /// What is wrong with it.
        error: HeaderError,
    },
    /// The chunk's CRC page does not match its header.
    #[error("the CRC page of chunk {handle} is damaged: {error}")]
    CrcPageDamaged {
        /// The chunk.
        handle: ChunkHandle,
        /// What is wrong with it.
        error: CrcPageError,
    },
    /// The chunk's file ends before its data.
    #[error("the file of chunk {handle} ends before its data")]
    FileTooShort {
        /// The chunk.
        handle: ChunkHandle,
    },
    /// The file holds another chunk than its name says.
    #[error("the file of chunk {handle} is not of that chunk, or of another directory")]
    OtherFile {
        /// The chunk that the name says.
        handle: ChunkHandle,
    },
}

/// What was being done when the medium refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Making a file or folder.
    Create,
    /// Opening a file, or listing a folder.
    Open,
    /// Locking the directory.
    Lock,
    /// Reading.
    Read,
    /// Mapping into memory.
    Map,
    /// Writing, or cutting off.
    Write,
    /// Reserving room.
    Reserve,
    /// Making stable.
    Sync,
    /// Renaming.
    Rename,
    /// Removing.
    Remove,
    /// Asking for free space.
    Space,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Create => "creating",
            Self::Open => "opening",
            Self::Lock => "locking",
            Self::Read => "reading",
            Self::Map => "mapping",
            Self::Write => "writing",
            Self::Reserve => "reserving room for",
            Self::Sync => "syncing",
            Self::Rename => "renaming",
            Self::Remove => "removing",
            Self::Space => "asking for the free space of",
        })
    }
}

impl StoreError {
    /// Whether a sync failed: what it covered may be lost, and asking again proves nothing.
    pub(super) fn is_failed_sync(&self) -> bool {
        matches!(
            self,
            Self::Io {
                operation: Operation::Sync,
                ..
            }
        )
    }

    /// Whether memory or descriptors were short: nothing failed on the disk. A sync that failed so has
    /// failed all the same.
    #[must_use]
    pub fn is_short_of_means(&self) -> bool {
        !self.is_failed_sync()
            && matches!(self, Self::Io { source, .. } if is_short_of_means(source))
    }

    /// An error of the medium. A full disk has a variant of its own, but not for a sync: what
    /// counts there is that it failed.
    pub(crate) fn io(operation: Operation, path: PathBuf, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                if operation != Operation::Sync =>
            {
                Self::NoSpace { path }
            }
            _ => Self::Io {
                operation,
                path,
                source,
            },
        }
    }
}

/// Whether an error says only that memory or descriptors were short.
pub(super) fn is_short_of_means(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::OutOfMemory || is_out_of_descriptors(error)
}

/// Whether a call failed for want of a descriptor.
pub(super) fn is_out_of_descriptors(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE)
    )
}
