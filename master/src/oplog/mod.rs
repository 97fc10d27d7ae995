//! The operation log and its checkpoints as files (`spec/oplog.md`).
//!
//! The master's every change is an entry here before it is applied and acknowledged. This module
//! knows entries as opaque bodies with a kind; what they say is `spec/oplog-entries.md` and the
//! master's core. Read it in this order:
//!
//! - [`entry`], [`segment`]: the bytes of entries, marks and headers, and the chain that ties
//!   them together; [`error`]: all that can be wrong;
//! - [`folder`], [`directory`]: what is asked of a file system; the master's locked `--dir`;
//! - [`append`]: batches, syncs, segments; [`writer`]: the thread that gathers batches;
//! - [`checkpoint`]: the state in a file, and what it makes needless;
//! - [`recover`]: a start, which tells a crash's torn tail from damage.
//!
//! A master calls [`Directory::open`], [`Recovery::begin`], reads the checkpoint and the entries,
//! calls [`Recovery::finish`], and hands the [`Appender`] to [`LogWriter::start`]. From then on it
//! appends, applies what [`LogEvent::Flushed`] covers, and now and then writes a checkpoint at
//! the flushed position ([`CheckpointWriter`]) and calls [`prune`].
//!
//! Left out on purpose: replication. Entries carry terms and the chain so that a replicated log
//! can be kept in these files, but cutting off entries that another master overruled is not here,
//! and neither are votes.

pub mod append;
pub mod checkpoint;
pub mod directory;
pub mod entry;
pub mod error;
#[cfg(test)]
mod faulty;
pub mod folder;
mod names;
pub mod recover;
pub mod segment;
#[cfg(test)]
mod tests;
pub mod writer;

pub use append::{Appender, LogOptions};
pub use checkpoint::{CheckpointReader, CheckpointWriter, prune};
pub use directory::Directory;
pub use entry::{Chain, Entry, Position};
pub use error::{Damage, DamagedCheckpoint, OplogError};
pub use folder::Folder;
pub use names::{checkpoint_name, segment_name};
pub use recover::{Recovered, RecoveredEntry, Recovery, TornTail};
pub use writer::{AppendError, LogEvent, LogWriter};
