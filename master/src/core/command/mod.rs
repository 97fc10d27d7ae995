//! What the entries of the operation log say (`spec/oplog-entries.md` sections 2 and 4).
//!
//! A [`Command`] is the only thing that changes durable state, by [`apply`](super::apply::apply).
//! Each has a kind number and a body laid out by hand; the log (`oplog`) frames, chains and
//! stores them without looking inside. A layout never changes: a new one takes a new kind.
//!
//! The bodies are in three files: [`cluster`] (epochs, ranges, sessions, servers), [`names`]
//! (folders, uploads, the trash) and [`chunks`] (open chunks, which no request of protocol
//! version 1 makes).

pub mod chunks;
pub mod cluster;
pub mod names;

use sarsen_protocol::codec::{Decoder, Encoder, Field};
use sarsen_protocol::error::BodyError;
use sarsen_protocol::id::RequestId;
use sarsen_protocol::size::PUBLISH_CHUNKS_MAX;
use thiserror::Error;

pub use chunks::{Activation, ChunkSealed, FileResized, LossCause, Member, PossibleLoss, Then};
pub use cluster::{
    DirectoryStarted, EpochRaised, Genesis, RangesReserved, ServerRegistered, SessionOpened,
    SessionsClosed,
};
pub use names::{
    FileMade, FilePublished, FolderMade, PendingAborted, PendingCreated, PublishedChunk, Removed,
    Renamed, TrashEmptied, TrashExpired, TrashRestored,
};

/// Ids in one entry's list, at most.
pub const IDS_MAX: usize = 65_536;

/// Slots of a file, at most.
pub const SLOTS_MAX: usize = PUBLISH_CHUNKS_MAX;

/// Bytes of a rack's or a client's name, at most.
pub const LABEL_LEN_MAX: usize = 255;

/// One entry of the operation log, without its chaining.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The term of the leader that wrote it.
    pub term: u64,
    /// Counts entries from one, without gaps.
    pub index: u64,
    /// When it was written, in ms since 1970; every time in the state is an entry's.
    pub time_ms: u64,
    /// The client's request that it carries out, if any.
    pub request: Option<RequestId>,
    /// What it does.
    pub command: Command,
}

/// Why a kind and a body are no command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CommandError {
    /// A newer master wrote this: what the entry did can't be known.
    #[error("entries of kind {0} are not known to this version")]
    KindUnknown(u16),
    /// The body breaks its layout.
    #[error("the body of an entry of kind {kind} is damaged: {source}")]
    Body {
        /// The entry's kind.
        kind: u16,
        /// What it breaks.
        source: BodyError,
    },
}

impl CommandError {
    /// The name in the vectors.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::KindUnknown(_) => "unknown_kind",
            Self::Body { source, .. } => source.name(),
        }
    }
}

macro_rules! commands {
    ($($(#[$doc:meta])* $kind:literal $name:literal $variant:ident($body:ty),)*) => {
        /// A change of the durable state.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Command {
            $($(#[$doc])* $variant($body),)*
        }

        impl Command {
            /// Every kind's number and name, ascending.
            pub const KINDS: &[(u16, &str)] = &[$(($kind, $name)),*];

            /// The number of its kind.
            #[must_use]
            pub const fn kind(&self) -> u16 {
                match self {
                    $(Self::$variant(_) => $kind,)*
                }
            }

            /// The bytes of its body.
            #[must_use]
            pub fn encode_body(&self) -> Vec<u8> {
                let mut out = Encoder::new();
                match self {
                    $(Self::$variant(body) => body.encode(&mut out),)*
                }
                out.into_bytes()
            }

            /// Reads a body of the given kind.
            ///
            /// # Errors
            /// [`CommandError`], for a kind that isn't known or a body that breaks its layout.
            pub fn decode(kind: u16, body: &[u8]) -> Result<Self, CommandError> {
                let decoded = match kind {
                    $($kind => decode_whole(body).map(Self::$variant),)*
                    _ => return Err(CommandError::KindUnknown(kind)),
                };
                decoded.map_err(|source| CommandError::Body { kind, source })
            }
        }

        $(impl From<$body> for Command {
            fn from(body: $body) -> Self {
                Self::$variant(body)
            }
        })*
    };
}

commands! {
    /// Names the cluster; the first entry.
    1 "genesis" Genesis(Genesis),
    /// A master has started.
    2 "epoch_raised" EpochRaised(EpochRaised),
    /// Handles and versions below new ends may be given out.
    3 "ranges_reserved" RangesReserved(RangesReserved),
    /// A client has a session.
    4 "session_opened" SessionOpened(SessionOpened),
    /// Sessions are over.
    5 "sessions_closed" SessionsClosed(SessionsClosed),
    /// A chunkserver is new, or its addresses or rack are.
    6 "server_registered" ServerRegistered(ServerRegistered),
    /// A data directory has started.
    7 "directory_started" DirectoryStarted(DirectoryStarted),
    /// A folder is made.
    8 "folder_made" FolderMade(FolderMade),
    /// An upload begins.
    9 "pending_created" PendingCreated(PendingCreated),
    /// An upload is given up.
    10 "pending_aborted" PendingAborted(PendingAborted),
    /// An upload is done.
    11 "file_published" FilePublished(FilePublished),
    /// A file or folder gets another path.
    12 "renamed" Renamed(Renamed),
    /// A file or tree goes to the trash, or for good.
    13 "removed" Removed(Removed),
    /// A trash entry comes back.
    14 "trash_restored" TrashRestored(TrashRestored),
    /// Trash entries go for good, by request.
    15 "trash_emptied" TrashEmptied(TrashEmptied),
    /// Trash entries go for good, by age.
    16 "trash_expired" TrashExpired(TrashExpired),
    /// A chunk is opened, or goes on with other members.
    17 "chunk_activated" ChunkActivated(Activation),
    /// A chunk is sealed.
    18 "chunk_sealed" ChunkSealed(ChunkSealed),
    /// Acknowledged bytes of a chunk may be gone.
    19 "possible_loss" PossibleLoss(PossibleLoss),
    /// A file is cut where no chunk is, or extended.
    20 "file_resized" FileResized(FileResized),
    /// An empty file is made.
    21 "file_made" FileMade(FileMade),
}

impl Command {
    /// The name of its kind.
    #[must_use]
    pub fn name(&self) -> &'static str {
        let kind = self.kind();
        Self::KINDS
            .iter()
            .find(|(number, _)| *number == kind)
            .map_or("", |(_, name)| name)
    }

    /// Whether a start could read this command from the log again: what came from outside may
    /// break the bounds of a field, and one such entry would make the whole log unreadable.
    ///
    /// # Errors
    /// What [`decode`](Self::decode) would say.
    pub fn check(&self) -> Result<(), CommandError> {
        Self::decode(self.kind(), &self.encode_body()).map(drop)
    }

    /// Whether an entry of this kind carries a request id: `None` if it may or may not.
    pub(super) const fn wants_request(&self) -> Option<bool> {
        match self.kind() {
            1..=7 | 16 => Some(false),
            8..=15 | 20 | 21 => Some(true),
            _ => None,
        }
    }
}

fn decode_whole<F: Field>(body: &[u8]) -> Result<F, BodyError> {
    let mut input = Decoder::new(body);
    let value = input.take()?;
    input.finish()?;
    Ok(value)
}

/// Takes a number that may not be zero.
fn take_some<F: Field + Default + PartialEq>(input: &mut Decoder<'_>) -> Result<F, BodyError> {
    let value: F = input.take()?;
    (value != F::default())
        .then_some(value)
        .ok_or(BodyError::OutOfBounds)
}

/// Takes a byte of flags, of which only those in `known` may be set.
fn take_flags(input: &mut Decoder<'_>, known: u8) -> Result<u8, BodyError> {
    let flags: u8 = input.take()?;
    (flags & !known == 0)
        .then_some(flags)
        .ok_or(BodyError::UnknownValue)
}

/// A byte of flags in which bit `n` is the `n`th value.
fn flags<const N: usize>(values: [bool; N]) -> u8 {
    values
        .iter()
        .rev()
        .fold(0, |flags, &set| flags << 1 | u8::from(set))
}

#[cfg(test)]
pub(super) mod tests;
