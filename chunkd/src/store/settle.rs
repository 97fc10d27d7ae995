//! A preparation becomes the chunk (`spec/journal.md` section 7, steps 6 to 9).
//!
//! In place: CRC page and id table, then the header's next generation, each stable before the next.
//! By rename: the sealed form takes the chunk's name. In both the journal goes first until its
//! `settled` is written, so what a crash leaves on the way is the open chunk with its preparation,
//! settled again when that is ordered; or the sealed file, and the start writes `settled`.
//!
//! Reads that were begun keep the files' descriptors, so a rename or a removal takes nothing from
//! them.

use std::io;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, SessionId};
use sarsen_protocol::message::ChunkState;

use super::chunk_file::{ChunkFile, Owner};
use super::directory::{Directory, io_error};
use super::error::{Operation, StoreError};
use super::journal::body::{Body, Prepared, SealForm};
use super::layout::{
    chunk_path, folder_of, id_table_position, patch_path, sealed_file_len, sealing_path,
};
use super::open_chunk::{OpenChunkError, SealedForm, State};
use super::recover::sealed_ids;
use super::region::Tree;
use super::seal::check_usable;
use super::table::{Held, Turn};
use super::upkeep::ReadFrom;

impl Directory {
    /// Makes the preparation of `version` the chunk, which is sealed from then on. The journal's
    /// sequence that has to be stable before that is told: 0 if the chunk is sealed so already.
    ///
    /// # Errors
    /// [`OpenChunkError::NotPrepared`], [`StoreError::OtherVersion`], [`StoreError::SealMismatch`] for
    /// another length or CRC, and nothing is changed; those of the medium, which poison the chunk, or
    /// the directory if its folder could not be synced. Whoever is told calls
    /// [`Self::open_chunk_failed`].
    pub fn settle(
        &self,
        handle: ChunkHandle,
        version: ChunkVersion,
        length: u32,
        crc32: u32,
    ) -> Result<u64, OpenChunkError> {
        self.check_writes()?;
        let mut turn = self.table.turn(handle);
        let Some(chunk) = self.opened.find(handle) else {
            return Ok(check_settled(&turn, version, length, crc32).map(|()| 0)?);
        };
        let (prepared, form) = chunk.to_settle(version, length, crc32)?;
        let settled = match prepared.form {
            SealForm::InPlace => self.settle_in_place(&turn, &form),
            SealForm::Sealing => self.settle_by_rename(handle),
        };
        let file = settled.inspect_err(|error| {
            if error.is_failed_sync() {
                chunk.poison();
            }
        })?;
        let promised_version = chunk.told().promised_version;
        turn.put_new(Held::of(&file, false));
        let closed = chunk.close(version, &Body::Settled);
        if promised_version > version {
            // Of no meaning if the journal has failed: it is trimmed no more.
            let sequence = *closed.as_ref().unwrap_or(&0);
            self.opened.keep_promise(handle, promised_version, sequence);
        }
        self.opened.forget(handle);
        self.forget_readable(handle);
        let sequence = closed?;
        self.remove_journaled(handle);
        // Only room is lost if that is refused.
        let _ = give_back_room(&file);
        Ok(sequence)
    }

    /// Steps 6 and 7 of form 1.
    fn settle_in_place(&self, turn: &Turn<'_>, form: &SealedForm) -> Result<ChunkFile, StoreError> {
        let handle = turn.handle();
        let header_stable = turn.held().is_some_and(|held| held.header_stable);
        let mut file = ChunkFile::open(&*self.tree, handle, self.owner(), header_stable)?;
        form.write_tables(&*file.region, file.header.chunk_size)
            .map_err(|source| file.error(Operation::Write, source))?;
        file.sync()?;
        file.put_header(|header| form.put_into(header))?;
        file.sync()?;
        Ok(file)
    }

    /// Step 6 of form 2.
    fn settle_by_rename(&self, handle: ChunkHandle) -> Result<ChunkFile, StoreError> {
        let from = sealing_path(handle);
        // Read first: behind the rename nothing may fail that could not be asked for again.
        let region = self
            .tree
            .open(&from)
            .map_err(|source| io_error(&*self.tree, Operation::Open, &from, source))?;
        let file = ChunkFile::read(region, &*self.tree, handle, self.owner(), true)?;
        self.tree
            .rename(&from, &chunk_path(handle))
            .map_err(|source| io_error(&*self.tree, Operation::Rename, &from, source))?;
        self.sync_folder(&folder_of(handle))?;
        Ok(file)
    }

    /// Removes the patch file and the sealed form of a chunk that is open no more. What stays, a start
    /// removes: no entry names it.
    pub(super) fn remove_journaled(&self, handle: ChunkHandle) {
        for path in [patch_path(handle), sealing_path(handle)] {
            let _ = self.tree.remove(&path);
        }
    }
}

/// Gives back the room that a sealed chunk's data and id table don't take.
fn give_back_room(file: &ChunkFile) -> io::Result<()> {
    let header = &file.header;
    let data_end = sealed_file_len(header.length);
    if header.id_table_length == 0 {
        return file.region.set_len(data_end);
    }
    let id_table = id_table_position(header.chunk_size);
    if data_end < id_table {
        file.region.give_back(data_end, id_table - data_end)?;
    }
    file.region
        .set_len(id_table + u64::from(header.id_table_length))
}

/// Whether a chunk that is not open is sealed as a settling would leave it.
fn check_settled(
    turn: &Turn<'_>,
    version: ChunkVersion,
    length: u32,
    crc32: u32,
) -> Result<(), StoreError> {
    let handle = turn.handle();
    let held = turn.held().ok_or(StoreError::NotFound { handle })?;
    check_usable(&held, Some(version))?;
    let entry = &held.entry;
    if entry.state != ChunkState::Sealed {
        let state = entry.state;
        return Err(StoreError::OtherState { handle, state });
    }
    match (entry.length, entry.crc32) == (length, crc32) {
        true => Ok(()),
        false => Err(StoreError::SealMismatch {
            handle,
            length: entry.length,
            crc32: entry.crc32,
            claimed_length: length,
            claimed_crc32: crc32,
        }),
    }
}

/// Whether a preparation is what its entry says: the state that a start has rebuilt in form 1, the file
/// beside it, read back, in form 2.
///
/// # Errors
/// [`StoreError::Corrupt`] and what is wrong with the file; those of the medium.
pub(super) fn check_prepared(
    tree: &dyn Tree,
    owner: Owner,
    handle: ChunkHandle,
    state: &State,
    prepared: &Prepared,
) -> Result<(), StoreError> {
    let is_right = match prepared.form {
        SealForm::InPlace => {
            let sessions_end = SessionId(prepared.sessions_end);
            let form = SealedForm::of(state, Default::default(), 0, sessions_end);
            !state.applied().is_patched() && form.prepared(SealForm::InPlace) == *prepared
        }
        SealForm::Sealing => {
            let version = state.version();
            is_form_right(tree, owner, handle, version, prepared, ReadFrom::Cache)?
        }
    };
    match is_right {
        true => Ok(()),
        false => Err(StoreError::Corrupt { handle }),
    }
}

/// Whether the file of form 2, read back, is what its entry says.
///
/// # Errors
/// [`StoreError::Corrupt`] if there is none, what is wrong with its header, those of the medium.
pub(super) fn is_form_right(
    tree: &dyn Tree,
    owner: Owner,
    handle: ChunkHandle,
    version: ChunkVersion,
    prepared: &Prepared,
    from: ReadFrom,
) -> Result<bool, StoreError> {
    let path = sealing_path(handle);
    let region = match tree.open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(StoreError::Corrupt { handle });
        }
        opened => opened.map_err(|source| io_error(tree, Operation::Open, &path, source))?,
    };
    let file = ChunkFile::read(region, tree, handle, owner, true)?;
    Ok(is_prepared(&file, version, prepared)
        && file.read_back(from)?.is_good()
        && sealed_ids(&file).is_ok())
}

/// Whether a sealed form's header says what the journal does.
fn is_prepared(file: &ChunkFile, version: ChunkVersion, prepared: &Prepared) -> bool {
    let header = &file.header;
    header.state == ChunkState::Sealed
        && (header.version, header.serial) == (version, prepared.serial)
        && (header.length, header.data_crc32) == (prepared.length, prepared.data_crc32)
        && header.crc_page_crc32 == prepared.crc_page_crc32
        && header.id_table_length == prepared.id_table_length
        && header.id_table_crc32 == prepared.id_table_crc32
}
