//! A committed state that is read (`spec/replication.md` section 12, `spec/journal.md` section 4).

use std::sync::Arc;

use sarsen_protocol::id::{ChunkVersion, Serial};
use sarsen_protocol::size::BLOCK_LEN;

use super::super::error::StoreError;
use super::chunk::OpenChunk;
use super::files::Places;
use super::state::Content;

/// A committed state that is being read: its slots are not used again before this is dropped, which
/// must be when nothing of it is on its way any more.
#[derive(Debug)]
pub struct Snapshot {
    /// The chunk's version.
    pub version: ChunkVersion,
    /// The last mutation in it.
    pub serial: Serial,
    pub(super) content: Content,
    pub(super) places: Places,
    pub(super) chunk: Arc<OpenChunk>,
}

impl Snapshot {
    /// Its bytes: how many, and of each block the place and the CRC.
    #[must_use]
    pub const fn content(&self) -> &Content {
        &self.content
    }

    /// Where its blocks are.
    #[must_use]
    pub const fn places(&self) -> &Places {
        &self.places
    }

    /// A block as it is in this state, compared with its CRC.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], those of the medium.
    pub fn read_block(&self, index: usize) -> Result<Vec<u8>, StoreError> {
        let start = u32::try_from(index)
            .unwrap_or(u32::MAX)
            .saturating_mul(BLOCK_LEN);
        let len = self.content.length().saturating_sub(start).min(BLOCK_LEN);
        match self.content.block(index) {
            Some(block) => self.places.read_block(index, block, len),
            None => Ok(Vec::new()),
        }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.chunk.end_read(&self.content);
    }
}
