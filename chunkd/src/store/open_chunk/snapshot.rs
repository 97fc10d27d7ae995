//! A committed state that is read (`spec/replication.md` section 12, `spec/journal.md` section 4).

use std::fs::File;
use std::sync::Arc;

use sarsen_protocol::id::{ChunkVersion, Serial};
use sarsen_protocol::size::BLOCK_LEN;

use super::super::error::StoreError;
use super::super::journal::body::Place;
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

    /// Bytes of data.
    #[must_use]
    pub const fn length(&self) -> u32 {
        self.content.length()
    }

    /// CRC of a block, over the bytes that it has.
    #[must_use]
    pub fn block_crc(&self, index: usize) -> Option<u32> {
        self.content.block(index).map(|block| block.crc32)
    }

    /// Whether a block lies in its own room of the chunk file, at
    /// [`data_position`](super::super::data_position) of its offset. Such a block's bytes don't change
    /// any more, so they may go by reference; those of a slot must be copied.
    #[must_use]
    pub fn is_in_chunk_file(&self, index: usize) -> bool {
        let block = self.content.block(index);
        block.is_some_and(|block| block.place == Place::OwnRoom)
    }

    /// The chunk file's descriptor; `None` if the store is not on real files (tests).
    #[must_use]
    pub fn file(&self) -> Option<&Arc<File>> {
        self.places.chunk().file()
    }

    /// Copies data at `offset` from where it is, blocking, and compares nothing; how much there was.
    ///
    /// # Errors
    /// Those of the medium.
    pub fn read_at(&self, buf: &mut [u8], offset: u32) -> Result<usize, StoreError> {
        let left = self.length().saturating_sub(offset) as usize;
        let wanted = buf.len().min(left);
        let (mut rest, _) = buf.split_at_mut(wanted);
        let (mut at, mut done) = (offset, 0);
        while !rest.is_empty() {
            let index = (at / BLOCK_LEN) as usize;
            let in_block = at % BLOCK_LEN;
            let len = rest.len().min((BLOCK_LEN - in_block) as usize);
            let (piece, behind) = rest.split_at_mut(len);
            let Some(block) = self.content.block(index) else {
                break;
            };
            let read = self.places.read(index, block.place, in_block, piece)?;
            done += read;
            if read < len {
                break;
            }
            at = at.saturating_add(u32::try_from(len).unwrap_or(u32::MAX));
            rest = behind;
        }
        Ok(done)
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
