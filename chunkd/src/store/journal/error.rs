//! What can be wrong with a journal (`spec/journal.md` sections 5 and 9).
//!
//! [`FormatError`] is about bytes, [`Damage`] about what a start found, [`JournalError`] about
//! what the journal could not do. A torn tail is none of them: a crash leaves it.

use sarsen_protocol::error::BodyError;
use thiserror::Error;

use super::super::error::StoreError;

/// Why a header, an entry or a mark was not taken. The names are those of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The bytes end before the header, the body or its padding does.
    #[error("truncated")]
    Truncated,
    /// Not a header of this kind.
    #[error("magic_wrong")]
    MagicWrong,
    /// The header was damaged.
    #[error("header_crc_wrong")]
    HeaderCrcWrong,
    /// A segment of a version that this build doesn't know.
    #[error("version_unknown")]
    VersionUnknown,
    /// A reserved byte is not zero.
    #[error("reserved_not_zero")]
    ReservedNotZero,
    /// A sequence of 0, or one that can't be.
    #[error("sequence_wrong")]
    SequenceWrong,
    /// An id that must be there is zero.
    #[error("id_missing")]
    IdMissing,
    /// The body is over the limit.
    #[error("body_too_long")]
    BodyTooLong,
    /// A mark that has what only an entry has.
    #[error("mark_invalid")]
    MarkInvalid,
    /// The body was damaged.
    #[error("body_crc_wrong")]
    BodyCrcWrong,
    /// A byte behind the body is not zero.
    #[error("padding_not_zero")]
    PaddingNotZero,
    /// A kind of entry that this version doesn't know.
    #[error("unknown_kind")]
    UnknownKind,
    /// The body's fields are not in order.
    #[error("{}", .0.name())]
    Body(#[from] BodyError),
}

/// Why the entry that should stand at a place is not one of this journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EntryFault {
    /// It does not decode.
    #[error("it does not decode: {0}")]
    Format(#[from] FormatError),
    /// A mark stands there, or an entry with another sequence.
    #[error("it has another sequence")]
    OtherSequence,
    /// It does not follow the one before.
    #[error("it does not follow the entry before it")]
    ChainBroken,
    /// It was written by another start, or into another directory or cluster.
    #[error("it is of another start or directory")]
    OtherAuthor,
    /// A read of the segment failed.
    #[error("the medium does not give it")]
    NotGiven,
}

impl EntryFault {
    /// Whether all CRCs of the entry were right: no crash tore it.
    pub(super) const fn is_of_a_whole_entry(self) -> bool {
        matches!(
            self,
            Self::Format(FormatError::UnknownKind | FormatError::Body(_))
        )
    }
}

/// A hole in what was stable: nothing of the journal can be believed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{file} is damaged at byte {position}, where entry {sequence} should begin: {fault}")]
pub struct Damage {
    /// The segment.
    pub file: String,
    /// Where in it; 0 if its header is not in order.
    pub position: u64,
    /// The entry that is missing.
    pub sequence: u64,
    /// What stands there instead.
    pub fault: EntryFault,
}

/// Why the journal did not do what was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JournalError {
    /// What was stable is not there any more. The directory is poisoned by it.
    #[error("the journal is damaged: {0}")]
    Damaged(#[from] Damage),
    /// The medium or the kernel refused, or the disk is full.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Our caller made an entry that the journal can't hold.
    #[error("the journal can't hold this entry: {0}")]
    Invalid(#[from] FormatError),
    /// The disk has no room for another segment. What was written before is stable, the rest may be
    /// written when there is room.
    #[error("the disk has no room for another segment of the journal")]
    NoRoom,
    /// A write or sync failed before; nothing is written any more.
    #[error("the journal has failed")]
    Failed,
}
