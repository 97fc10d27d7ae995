//! Chunks on disk (`spec/chunk-file.md`).
//!
//! A [`Directory`] is one `--dir`: locked, with an `IDENTITY`, a table of the chunks in it, and a
//! bounded cache of those that are open for reading. The store separates bookkeeping from bulk
//! I/O: it says where bytes go and whether they count, and the data plane moves them with the
//! descriptor that it is given.
//!
//! Read in this order:
//!
//! - [`layout`], [`header`], [`crc_page`], [`identity`]: where things lie, and the bytes;
//! - [`region`]: the seam to the disk; [`direct`]: reads past the page cache;
//! - [`chunk_file`]: one file and its two header slots; [`table`]: all of them in memory;
//! - [`directory`], [`scan`]: opening a directory;
//! - [`pending`], [`seal`]: a chunk comes into being; [`readable`], [`cut`], [`cache`], [`map`]: it is read;
//!   [`id_table`]: what it says of mutations; [`upkeep`]: it is verified; [`copy`]: it is made anew from another server's; [`delete`]: it
//!   goes;
//! - [`journal`], [`open_chunk`]: what makes mutations of open chunks stable, and where the bytes of
//!   their states are; [`opening`]: chunks are promised and begun; [`recover`]: a start finds them
//!   again; [`settle`]: they are sealed.
//!
//! Invariants: sealed data never changes. A header slot is overwritten only when the other is
//! valid and stable. A failed sync is never tried again: it poisons what it covered. Nothing is
//! deleted without an order. No lock is held over data I/O.
//!
//! Left out so far:
//! clones. Their fields are in the format. What a crash leaves at each step stands in the spec, section 10.

#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)
)]

mod cache;
mod chunk_file;
mod copy;
pub mod crc_page;
mod cut;
mod delete;
mod direct;
mod directory;
mod error;
pub mod header;
mod id_table;
pub mod identity;
pub mod journal;
pub mod layout;
mod map;
pub mod open_chunk;
mod opening;
mod pending;
mod readable;
mod recover;
pub mod region;
mod scan;
mod seal;
mod settle;
mod table;
mod trim;
mod upkeep;

pub use chunk_file::ReadBack;
pub use copy::{ChunkCopy, NewCopy};
pub use cut::{Around, Wait};
pub use directory::{Directory, Start};
pub use error::{Operation, StoreError};
pub use header::Flags;
pub use id_table::SealedIds;
pub use identity::{Adoption, Identity};
pub use map::{Mapping, View};
pub use opening::BeginOrder;
pub use pending::{NewChunk, PendingChunk, data_position};
pub use readable::ReadableChunk;
pub use recover::{ChunkFault, JournalFault, NotRecovered};
pub use region::Space;
pub use scan::{Problem, ProblemKind};
pub use seal::{SealClaim, SealOutcome};
pub use table::InventoryEntry;
pub use trim::Trim;
pub use upkeep::{BeatFile, ReadFrom};

#[cfg(test)]
pub(crate) mod tests;
