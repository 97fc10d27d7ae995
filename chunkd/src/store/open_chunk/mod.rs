//! An open chunk: its states, their files, and the journal's word (`spec/journal.md` sections 3, 4
//! and 7).
//!
//! Read in this order: [`slots`], which places are free; [`ids`], which mutations are in the chunk;
//! [`plan`], where a mutation's bytes go; [`patch`], the patch file's layout; [`state`], all states from the committed one to the newest;
//! [`history`], what a journal says of them after a crash; [`sealed_form`], what a sealed file of a state
//! says. None of these reads or writes a file, so they are tested against plain bytes in memory.
//! Then [`files`], which carries plans out; [`chunk`], all of it together; [`snapshot`], reads.

mod batch;
pub mod chunk;
pub mod error;
pub mod files;
pub mod history;
pub mod ids;
pub mod patch;
pub mod plan;
pub mod sealed_form;
pub mod slots;
pub mod snapshot;
pub mod state;

pub use chunk::{LastCheckpoint, OpenChunk, Ordered, Standing, Told};
pub use error::{ApplyError, OpenChunkError, SerialError};
pub use files::{ChunkFiles, Places, Whose};
pub use history::{ChunkHistory, HistoryError, OpenHistory, Origin, Outcome};
pub use ids::{IdError, IdTable, Lookup};
pub use patch::PatchHeader;
pub use plan::{Incoming, Plan, PlannedBlock, Way};
pub use sealed_form::SealedForm;
pub use slots::Slots;
pub use snapshot::Snapshot;
pub use state::{Content, Resting, State};

#[cfg(test)]
mod tests;
