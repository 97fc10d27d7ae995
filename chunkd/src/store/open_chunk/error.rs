//! Why an open chunk does not take a mutation, a beginning or a mark.

use sarsen_protocol::id::{ChunkVersion, Serial};
use thiserror::Error;

use super::super::error::StoreError;
use super::super::journal::AppendError;
use super::ids::IdError;

/// Why a mutation is not applied, or a journal's word on one not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// Serials go one by one.
    #[error("serial {} does not follow {}", given.0, applied.0)]
    OtherSerial {
        /// The last one applied.
        applied: Serial,
        /// The one given.
        given: Serial,
    },
    /// No bytes, or bytes behind the chunk.
    #[error("the mutation has no bytes, or reaches beyond the chunk")]
    OutOfBounds,
    /// An append has another offset than the length.
    #[error("the append is not at the chunk's end")]
    NotAtTheEnd,
    /// There has to be one CRC for each block that the bytes touch.
    #[error("there is not one CRC for each piece")]
    PieceCount,
    /// Every slot of the patch file is in use.
    #[error("no slot of the patch file is free")]
    NoSlot,
    /// The blocks are not those that such a mutation touches, or not where it may put them.
    #[error("the mutation's blocks are not those of this state")]
    OtherBlocks,
    /// The id is not one to be done.
    #[error(transparent)]
    Id(#[from] IdError),
}

/// Why a chunk can't go to a serial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SerialError {
    /// Nothing above the last applied one is there.
    #[error("serial {} is not there yet: {} is the last one applied", asked.0, applied.0)]
    NotApplied {
        /// The last one applied.
        applied: Serial,
        /// The one asked for.
        asked: Serial,
    },
    /// What is committed is never taken back.
    #[error("serial {} is below {}, which is committed", asked.0, committed.0)]
    Committed {
        /// The commit mark.
        committed: Serial,
        /// The one asked for.
        asked: Serial,
    },
    /// A checkpoint is of a committed state.
    #[error("serial {} is not committed: {} is", asked.0, committed.0)]
    NotCommitted {
        /// The commit mark.
        committed: Serial,
        /// The one asked for.
        asked: Serial,
    },
    /// Versions only rise.
    #[error("the version is not above the one that the chunk has")]
    OldVersion,
}

/// Why an open chunk does not do what is asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenChunkError {
    // The caller or the order.
    /// Another version was promised than the one named.
    #[error("version {promised} was promised")]
    Promised {
        /// The highest.
        promised: ChunkVersion,
    },
    /// The version is not the one that was begun in this start.
    #[error("the chunk takes no mutations of that version; it has {held}")]
    NotActive {
        /// The last version begun.
        held: ChunkVersion,
    },
    /// No sealed form of that version is ready.
    #[error("no seal of that version is prepared; the chunk has {held}")]
    NotPrepared {
        /// The last version begun.
        held: ChunkVersion,
    },
    /// It was settled or deleted meanwhile.
    #[error("the chunk is open no more")]
    Closed,
    /// There are not as many bytes as the mutation says.
    #[error("there are not as many bytes as the mutation says")]
    ByteCount,
    /// The mutation is not one of this state.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The serial is not one to go to.
    #[error(transparent)]
    Serial(#[from] SerialError),

    // The medium.
    /// A sync of its files or of the journal failed, or a block rotted: it takes no part any more.
    #[error("the open chunk is poisoned by something that failed, or by a block that rotted")]
    Poisoned,
    /// The files refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal refused.
    #[error(transparent)]
    Journal(#[from] AppendError),
}
