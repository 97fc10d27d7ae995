//! What an open chunk is, compared with its medium (`spec/messages.md` section 10, `VerifyChunk`).

use std::sync::Arc;

use super::super::super::chunk_file::ReadBack;
use super::super::super::error::StoreError;
use super::super::super::journal::body::Prepared;
use super::super::super::table::lock;
use super::super::super::upkeep::ReadFrom;
use super::super::snapshot::Snapshot;
use super::OpenChunk;

impl OpenChunk {
    /// Whether it is read back as what it is, and not as the sealed chunk that its file still is.
    pub(in super::super::super) fn is_read_back_open(&self) -> bool {
        let books = lock(&self.books);
        books.was_changed || books.prepared.is_some() || !books.is_still_sealed()
    }

    /// The state that a seal was prepared of, with the preparation; or the committed one. Its places are
    /// not used anew while the snapshot lives, unless a version begins that forgets it: see
    /// [`Self::is_still`].
    pub(in super::super::super) fn to_read_back(self: &Arc<Self>) -> (Snapshot, Option<Prepared>) {
        let mut books = lock(&self.books);
        let prepared = books.prepared.map(|ready| ready.prepared);
        let state = &books.state;
        let (content, serial) = match prepared {
            Some(_) => (state.applied().clone(), state.serial()),
            None => (state.committed().clone(), state.commit_mark()),
        };
        books.state.begin_read(&content);
        let snapshot = Snapshot {
            version: books.state.version(),
            serial,
            content,
            places: books.places.clone(),
            chunk: Arc::clone(self),
        };
        (snapshot, prepared)
    }

    /// Whether what was read back may still be asked for.
    pub(in super::super::super) fn is_still(
        &self,
        snapshot: &Snapshot,
        prepared: Option<Prepared>,
    ) -> bool {
        let books = lock(&self.books);
        let now = books.prepared.map(|ready| ready.prepared);
        books.state.version() == snapshot.version && (prepared.is_none() || now == prepared)
    }
}

impl Snapshot {
    /// Reads all blocks and compares each. What the medium doesn't give is bad, not an error.
    ///
    /// # Errors
    /// Those of opening the files past the cache.
    pub(in super::super::super) fn read_back(
        &self,
        from: ReadFrom,
    ) -> Result<ReadBack, StoreError> {
        Ok(ReadBack {
            length: self.length(),
            crc32: self.content.data_crc32(),
            bad_blocks: self.places.bad_blocks(&self.content, from)?,
            crc_page_error: None,
            is_id_table_bad: false,
            is_header_lost: false,
        })
    }
}
