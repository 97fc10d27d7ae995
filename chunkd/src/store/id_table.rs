//! The id table of a sealed chunk, for who asks what became of a mutation (`spec/records.md` section 5,
//! `spec/replication.md` section 11.3). Copies get it as it stands ([`Directory::read_ids`]).

use sarsen_protocol::id::{ChunkHandle, ChunkVersion};
use sarsen_protocol::message::ChunkState;

use super::chunk_file::ChunkFile;
use super::directory::Directory;
use super::error::StoreError;
use super::open_chunk::IdTable;
use super::recover::sealed_ids;
use super::seal::check_usable;

/// What a sealed chunk's file says of the mutations in it.
#[derive(Clone, Debug)]
pub struct SealedIds {
    /// The version that it is sealed in.
    pub version: ChunkVersion,
    /// The table, compared with its CRC.
    pub table: IdTable,
}

impl Directory {
    /// The ids that a sealed chunk has, read from its file. Blocks.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::OtherState`] if the chunk is open or pending;
    /// [`StoreError::Corrupt`] and [`StoreError::Poisoned`] for marks it has, and for a table that
    /// is not the one that was sealed; those of the medium.
    pub fn sealed_ids(&self, handle: ChunkHandle) -> Result<SealedIds, StoreError> {
        let held = self.table.held(handle);
        let held = held.ok_or(StoreError::NotFound { handle })?;
        check_usable(&held, None)?;
        if self.was_changed(handle) {
            let state = ChunkState::Open;
            return Err(StoreError::OtherState { handle, state });
        }
        if held.entry.state != ChunkState::Sealed {
            let state = held.entry.state;
            return Err(StoreError::OtherState { handle, state });
        }
        // Nothing is written through this opening.
        let file = ChunkFile::open(&*self.tree, handle, self.owner(), false)?;
        Ok(SealedIds {
            version: file.header.version,
            table: sealed_ids(&file)?,
        })
    }
}
