//! The states of an open chunk, as bookkeeping (`spec/journal.md` sections 3 and 4).
//!
//! Read in this order: [`slots`], which places are free; [`ids`], which mutations are in the chunk;
//! [`plan`], where a mutation's bytes go; [`patch`], the patch file's layout; [`state`], all states from the committed one to the newest;
//! [`history`], what a journal says of them after a crash.
//!
//! Nothing here reads or writes a file, so everything is tested against plain bytes in memory.
//!
//! Left out so far: nothing carries a plan out on files, and no start rebuilds a state from the
//! journal. The data plane opens no chunk.

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

pub use chunk::{OpenChunk, Ordered, Standing, Told};
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
