//! Deleting by order: a rename into the holding folder, which is emptied later
//! (`spec/chunk-file.md` section 10.7).
//!
//! The store deletes nothing by itself. An order is checked against the file's own header, not
//! against what memory says of it. Orders come in batches, so that one sync of a folder serves
//! all chunks that left it.
//!
//! Of an open chunk, and of a sealed one with a promise, the journal says `dropped` when its file can't
//! come back, and the patch file and sealed form go (`spec/journal.md` section 6).
//!
//! A delete may wait for its disk for long, and nobody may count on the chunk meanwhile: it is told as
//! gone from [`Directory::begin_delete`] to [`Directory::end_delete`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion};
use sarsen_protocol::message::ChunkState;

use super::chunk_file::ChunkFile;
use super::directory::{Directory, io_error};
use super::error::{Operation, StoreError};
use super::journal::body::Body;
use super::layout::{DELETED_FOLDER, chunk_path, deleted_path, folder_of};
use super::table::{Turn, lock};

/// The chunks that are being deleted, with how many orders name them.
#[derive(Debug, Default)]
pub(super) struct Leaving(Mutex<BTreeMap<ChunkHandle, usize>>);

/// How a file was put aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aside {
    /// By a rename that is stable, with the journal's last word on the chunk behind it.
    Synced,
    /// By a rename that is not stable yet.
    Unsynced,
}

impl Leaving {
    pub(super) fn contains(&self, handle: ChunkHandle) -> bool {
        lock(&self.0).contains_key(&handle)
    }
}

impl Directory {
    /// A delete of a chunk is about to run: it is not told as held until that has ended.
    pub fn begin_delete(&self, handle: ChunkHandle) {
        *lock(&self.leaving.0).entry(handle).or_default() += 1;
    }

    /// A delete of a chunk has ended, or will not run.
    pub fn end_delete(&self, handle: ChunkHandle) {
        let mut leaving = lock(&self.leaving.0);
        if let Some(count) = leaving.get_mut(&handle) {
            *count -= 1;
            if *count == 0 {
                leaving.remove(&handle);
            }
        }
    }

    /// Deletes chunks of these versions, durably; a result for each, in order.
    ///
    /// Readers that have a chunk open keep it.
    ///
    /// # Errors
    /// One by one: [`StoreError::NotFound`], [`StoreError::OtherVersion`] than the one that is told, what
    /// is wrong with the header, those of the medium. After [`StoreError::Io`] of a sync the chunk is
    /// gone, but might come back after a power cut.
    pub fn delete(&self, orders: &[(ChunkHandle, ChunkVersion)]) -> Vec<Result<(), StoreError>> {
        let moved: Vec<_> = orders
            .iter()
            .map(|&(handle, version)| self.put_aside(handle, version))
            .collect();
        let folders: BTreeSet<String> = orders
            .iter()
            .zip(&moved)
            .filter(|(_, moved)| matches!(moved, Ok(Aside::Unsynced)))
            .map(|(&(handle, _), _)| folder_of(handle))
            .collect();
        let unsynced: BTreeSet<String> = self.sync_left(folders);
        let result =
            |(&(handle, _), moved): (&(ChunkHandle, _), Result<Aside, StoreError>)| match moved? {
                Aside::Unsynced if unsynced.contains(&folder_of(handle)) => {
                    Err(StoreError::DirectoryPoisoned)
                }
                Aside::Unsynced | Aside::Synced => Ok(()),
            };
        orders.iter().zip(moved).map(result).collect()
    }

    /// Deletes a file that a start found to be damaged: without a header that counts, and so without
    /// a version to compare, or ending before its data.
    ///
    /// # Errors
    /// [`StoreError::NotDamaged`], [`StoreError::NotFound`], [`StoreError::OtherState`] if it is open,
    /// those of the medium.
    pub fn delete_damaged(&self, handle: ChunkHandle) -> Result<(), StoreError> {
        let mut turn = self.table.turn(handle);
        self.check_not_open(handle)?;
        match ChunkFile::open(&*self.tree, handle, self.owner(), true) {
            Ok(file) if !file.is_too_short()? => return Err(StoreError::NotDamaged { handle }),
            Ok(_) | Err(StoreError::HeaderDamaged { .. }) => {}
            Err(error) => return Err(error),
        }
        self.rename_away(handle, ChunkVersion::NONE)?;
        turn.remove();
        self.forget_readable(handle);
        lock(&self.problems).retain(|problem| problem.handle != Some(handle));
        self.sync_folder(DELETED_FOLDER)?;
        self.sync_folder(&folder_of(handle))
    }

    /// Removes what deletes put aside, and what earlier starts left of copies; how many files that
    /// were.
    ///
    /// # Errors
    /// Those of the medium; what was removed until then is gone.
    pub fn empty_deleted(&self) -> Result<usize, StoreError> {
        let names = self
            .tree
            .list(DELETED_FOLDER)
            .map_err(|source| io_error(&*self.tree, Operation::Open, DELETED_FOLDER, source))?;
        for name in &names {
            let path = format!("{DELETED_FOLDER}/{name}");
            self.tree
                .remove(&path)
                .map_err(|source| io_error(&*self.tree, Operation::Remove, &path, source))?;
        }
        Ok(names.len() + self.remove_unfinished_copies()?)
    }

    /// Checks one order and renames the file.
    fn put_aside(&self, handle: ChunkHandle, asked: ChunkVersion) -> Result<Aside, StoreError> {
        let mut turn = self.table.turn(handle);
        let is_open = self.is_in_journal(&turn);
        let held = match self.entry(handle).filter(|_| is_open) {
            Some(entry) => entry.version,
            None => self.version_of(&turn)?,
        };
        if held != asked {
            return Err(StoreError::OtherVersion {
                handle,
                held,
                asked,
            });
        }
        self.rename_away(handle, held)?;
        turn.remove();
        self.forget_readable(handle);
        lock(&self.problems).retain(|problem| problem.handle != Some(handle));
        if !is_open && self.promised_version(handle).is_none() {
            return Ok(Aside::Unsynced);
        }
        // Only a file that can't come back is called dropped: one that does, with no word on it in
        // the journal, would be nobody's, or would have forgotten what it promised.
        self.sync_folder(DELETED_FOLDER)?;
        self.sync_folder(&folder_of(handle))?;
        self.opened.end(handle, held, &Body::Dropped);
        self.remove_journaled(handle);
        Ok(Aside::Synced)
    }

    /// Whether the journal has a word on the chunk that says what it is.
    pub(super) fn is_in_journal(&self, turn: &Turn<'_>) -> bool {
        let handle = turn.handle();
        let is_told_open = |held: super::table::Held| held.entry.state == ChunkState::Open;
        self.opened.find(handle).is_some() || turn.held().is_some_and(is_told_open)
    }

    /// The version that a chunk's file says; that which it said before, if its header has rotted
    /// since this start read it.
    fn version_of(&self, turn: &Turn<'_>) -> Result<ChunkVersion, StoreError> {
        match ChunkFile::open(&*self.tree, turn.handle(), self.owner(), true) {
            Ok(file) => Ok(file.header.version),
            Err(error @ StoreError::HeaderDamaged { .. }) => {
                turn.held().map(|held| held.entry.version).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    fn rename_away(&self, handle: ChunkHandle, version: ChunkVersion) -> Result<(), StoreError> {
        let from = chunk_path(handle);
        self.tree
            .rename(&from, &deleted_path(handle, version))
            .map_err(|source| io_error(&*self.tree, Operation::Rename, &from, source))
    }

    /// Makes the renames stable; the folders for which that failed.
    fn sync_left(&self, folders: BTreeSet<String>) -> BTreeSet<String> {
        if !folders.is_empty() && self.sync_folder(DELETED_FOLDER).is_err() {
            return folders;
        }
        folders
            .into_iter()
            .filter(|folder| self.sync_folder(folder).is_err())
            .collect()
    }
}
