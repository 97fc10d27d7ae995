//! The journal of a data directory (`spec/journal.md` sections 5, 6 and 9): what makes mutations
//! of open chunks, and what was said about them, stable with one sync for many.
//!
//! Read in this order: [`segment`] and [`entry`], the bytes; [`body`], what entries say;
//! [`reader`], a start; [`append`], batches; [`summary`], what is remembered of them; [`writer`], the
//! thread.
//!
//! Invariants: an entry is told to be stable only when a sync that covered it has returned; what
//! was stable is found again by a start, or the start finds the journal damaged: it never takes
//! an older state for the newest. What is cut off was never told to be stable.
//!
//! Which segments may go (section 8) is for whoever knows the chunks, see [`super::trim`];
//! [`Appender::remove_oldest`] only removes.

pub mod append;
pub mod body;
pub mod entry;
pub mod error;
pub mod reader;
pub mod segment;
pub mod summary;
pub mod writer;

pub use append::{Appender, JournalLimits};
pub use body::Body;
pub use entry::Entry;
pub use error::{Damage, EntryFault, FormatError, JournalError};
pub use reader::{
    EntryReader, FoundEntry, JournalEnd, JournalReader, Location, named_chunks, settle,
};
pub use segment::{Author, Position};
pub use summary::Summary;
pub use writer::{
    AppendError, Class, Extent, GATHERED_MAX, JournalEvent, JournalQueue, JournalWriter, Log,
    QUEUE_LEN_MAX, Refused, SEGMENTS_MAX,
};

impl Entry {
    /// The entry that says this about a chunk.
    #[must_use]
    pub fn new(
        handle: sarsen_protocol::id::ChunkHandle,
        version: sarsen_protocol::id::ChunkVersion,
        body: &Body,
    ) -> Self {
        Self {
            kind: body.kind(),
            handle,
            version,
            body: body.encode(),
        }
    }
}
