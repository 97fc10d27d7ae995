//! An open chunk gets a sealed form, and is open no more (`spec/journal.md` section 7).
//!
//! [`OpenChunk::prepare_seal`] is steps 1 to 4. Steps 6 to 9 are [`super::super::super::Directory`]'s,
//! which asks [`OpenChunk::to_settle`] and ends with [`OpenChunk::close`].
//!
//! Invariant: before a `prepared` of form 1 there is a whole checkpoint in the journal, so a start
//! needs neither CRC page nor id table of the file, which settling writes over. A chunk that is
//! still as it was sealed gets form 2: nothing touches its file before the rename.

use sarsen_protocol::id::{ChunkVersion, SessionId};
use sarsen_protocol::message::PreparedSeal;

use super::super::super::error::StoreError;
use super::super::super::journal::body::{Body, Prepared, Promised, SealForm};
use super::super::super::journal::{Class, Entry};
use super::super::super::table::lock;
use super::super::error::OpenChunkError;
use super::super::sealed_form::{SealedForm, told_of};
use super::super::state::Content;
use super::{Books, OpenChunk};

/// A sealed form that is ready, of the version that was begun last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    pub(super) prepared: Prepared,
    /// Of its entry; 0 if an earlier start wrote it.
    sequence: u64,
}

impl OpenChunk {
    /// The same chunk, with the preparation that a start found and compared.
    #[must_use]
    pub(in super::super::super) fn with_preparation(mut self, prepared: Option<Prepared>) -> Self {
        let books = self.books.get_mut();
        let books = books.unwrap_or_else(std::sync::PoisonError::into_inner);
        books.prepared = prepared.map(|prepared| Ready {
            prepared,
            sequence: 0,
        });
        self
    }

    /// Makes a sealed form of the version that was begun, of all its bytes or the first `length`,
    /// beside the open chunk: what it is, and the journal's sequence that has to be stable before that
    /// is told. Asked again it answers as before. From then on the version takes no mutations.
    ///
    /// # Errors
    /// [`OpenChunkError::Promised`], [`OpenChunkError::NotActive`] of another version than the last one
    /// begun; [`StoreError::NoSpace`] and [`StoreError::Corrupt`] of a block; those of the medium. The
    /// chunk is open as before.
    pub fn prepare_seal(
        &self,
        version: ChunkVersion,
        length: Option<u32>,
        sessions_end: SessionId,
    ) -> Result<(PreparedSeal, u64), OpenChunkError> {
        let (content, mut form, is_still_sealed) = {
            let mut books = lock(&self.books);
            books.check_prepares(version)?;
            if let Some(ready) = &books.prepared {
                return Ok((told_of(version, &ready.prepared), ready.sequence));
            }
            books.takes_mutations = false;
            let content: Content = books.state.applied().clone();
            (content, books.form(sessions_end), books.is_still_sealed())
        };
        form.length = length.unwrap_or(u32::MAX).min(form.length);
        let is_cut = form.length < content.length();
        let kind = match is_cut || is_still_sealed || content.is_patched() {
            true => SealForm::Sealing,
            false => SealForm::InPlace,
        };
        let mut writer = lock(&self.writer);
        // Closed meanwhile, it has given up its files.
        lock(&self.books).check_prepares(version)?;
        let made = match kind {
            SealForm::Sealing => writer.files.write_sealed_form(&content, &mut form),
            SealForm::InPlace => writer.files.reserve_ids(form.id_table.len()),
        };
        drop(writer);
        made.map_err(|error| self.failed(error))?;
        if kind == SealForm::InPlace {
            self.checkpoint()?;
        }
        let prepared = form.prepared(kind);
        let writer = lock(&self.writer);
        let mut books = lock(&self.books);
        books.check_prepares(version)?;
        let entry = Entry::new(
            writer.files.whose().handle,
            version,
            &Body::Prepared(prepared),
        );
        let sequence = self.offer_in(&mut books, entry)?;
        books.prepared = Some(Ready { prepared, sequence });
        Ok((told_of(version, &prepared), sequence))
    }

    /// The preparation of this version, and in form 1 what its file is to say, if they have that length
    /// and CRC.
    ///
    /// # Errors
    /// [`OpenChunkError::NotPrepared`], [`StoreError::SealMismatch`], [`OpenChunkError::Poisoned`].
    pub(in super::super::super) fn to_settle(
        &self,
        version: ChunkVersion,
        length: u32,
        crc32: u32,
    ) -> Result<(Prepared, SealedForm), OpenChunkError> {
        let books = lock(&self.books);
        books.check_usable()?;
        let held = books.state.version();
        let Some(Ready { prepared, .. }) = books.prepared.filter(|_| held == version) else {
            return Err(OpenChunkError::NotPrepared { held });
        };
        if (prepared.length, prepared.data_crc32) != (length, crc32) {
            return Err(StoreError::SealMismatch {
                handle: books.places.handle(),
                length: prepared.length,
                crc32: prepared.data_crc32,
                claimed_length: length,
                claimed_crc32: crc32,
            }
            .into());
        }
        Ok((prepared, books.form(SessionId(prepared.sessions_end))))
    }

    /// The chunk is open no more: gives the journal its last word on it, behind everything else. A
    /// promise of a higher version than `version` is said again behind it, since it still binds; the
    /// sequence that has to be stable.
    ///
    /// # Errors
    /// The journal has failed; the chunk is closed all the same.
    pub(in super::super::super) fn close(
        &self,
        version: ChunkVersion,
        last: &Body,
    ) -> Result<u64, OpenChunkError> {
        let _syncing = lock(&self.syncing);
        let writer = lock(&self.writer);
        let mut books = lock(&self.books);
        let handle = writer.files.whose().handle;
        let promised_version = books.standing.promised_version;
        if books.is_closed {
            return Err(OpenChunkError::Closed);
        }
        books.is_closed = true;
        let promise = Body::Promised(Promised {
            promised_version,
            epoch: books.promise_epoch,
        });
        let keeps_promise = matches!(last, Body::Settled) && promised_version > version;
        let mut sequence = 0;
        for body in [Some(last), keeps_promise.then_some(&promise)] {
            let Some(body) = body else { continue };
            // Of a poisoned chunk too: it is the word that makes all others void.
            let entry = Entry::new(handle, version, body);
            let offered = self.log.offer(entry, Class::Control);
            sequence = offered.map_err(|refused| refused.error)?;
        }
        Ok(sequence)
    }
}

impl Books {
    fn check_prepares(&self, version: ChunkVersion) -> Result<(), OpenChunkError> {
        self.check_usable()?;
        let (held, promised) = (self.state.version(), self.standing.promised_version);
        match (held == version, promised == version) {
            (true, true) => Ok(()),
            (_, false) => Err(OpenChunkError::Promised { promised }),
            (false, true) => Err(OpenChunkError::NotActive { held }),
        }
    }

    /// What a sealed file of the newest state says.
    fn form(&self, sessions_end: SessionId) -> SealedForm {
        let Self {
            state, standing, ..
        } = self;
        SealedForm::of(state, standing.file_id, standing.index, sessions_end)
    }
}
