//! Reading chunks back, and the marks that come of it (`spec/chunk-file.md` sections 10.4, 10.6).

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use sarsen_protocol::id::ChunkHandle;
use sarsen_protocol::message::ChunkState;

use super::chunk_file::{ChunkFile, ReadBack};
use super::directory::{Directory, io_error};
use super::error::{Operation, StoreError};
use super::identity::IDENTITY_LEN;
use super::journal::body::SealForm;
use super::layout::{BEAT_FILE, IDENTITY_FILE};
use super::open_chunk::OpenChunk;
use super::region::{Region, Space};
use super::settle::is_form_right;
use super::table::{Held, Turn};

/// Where a read back gets the bytes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    /// From the page cache where it has them.
    Cache,
    /// From the medium, past the page cache; also the header, since one that was never written back
    /// is seen only so. What the cache has stays there.
    Medium,
}

/// A file of no content, kept open: whether it can be written says whether others can.
#[derive(Debug)]
pub struct BeatFile {
    region: Arc<dyn Region>,
    path: PathBuf,
    count: u64,
}

impl BeatFile {
    /// Writes to the medium, in place. A disk whose writes hang holds the caller up.
    ///
    /// # Errors
    /// Those of the medium. A failed sync poisons nothing: nothing depends on what was written.
    pub fn write(&mut self) -> Result<(), StoreError> {
        let failed = |operation| {
            let path = self.path.clone();
            move |source| StoreError::io(operation, path, source)
        };
        self.count = self.count.wrapping_add(1);
        self.region
            .write_at(&self.count.to_le_bytes(), 0)
            .map_err(failed(Operation::Write))?;
        self.region.sync().map_err(failed(Operation::Sync))
    }
}

impl Directory {
    /// Reads a chunk back and compares every block. Of a sealed one sets the time of verification to
    /// `now` (ms since 1970) if all match, marks the chunk corrupt if not. Of an open one the committed
    /// state is read, or the one that a seal was prepared of, with its form; if that does not match the
    /// chunk is poisoned.
    ///
    /// Others may read, and order the deletion, meanwhile.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::OtherState`], [`StoreError::OtherVersion`] if an open
    /// chunk has become another meanwhile, [`StoreError::HeaderDamaged`] and
    /// [`StoreError::OtherFile`] (which mark it corrupt), those of the medium on the header, want of
    /// memory.
    pub fn verify(
        &self,
        handle: ChunkHandle,
        from: ReadFrom,
        now: u64,
    ) -> Result<ReadBack, StoreError> {
        let held = self
            .table
            .held(handle)
            .ok_or(StoreError::NotFound { handle })?;
        let opened = self.opened.find(handle);
        if let Some(chunk) = opened.filter(|chunk| chunk.is_read_back_open()) {
            return self.verify_open(&chunk, from);
        }
        if held.entry.state != ChunkState::Sealed {
            return Err(StoreError::OtherState {
                handle,
                state: held.entry.state,
            });
        }
        let file = match ChunkFile::open(&*self.tree, handle, self.owner(), held.header_stable) {
            Ok(file) => file,
            Err(error) => {
                let is_damage = matches!(
                    error,
                    StoreError::HeaderDamaged { .. } | StoreError::OtherFile { .. }
                );
                if is_damage {
                    self.mark_corrupt(&held)?;
                }
                return Err(error);
            }
        };
        let found = file.read_back(from)?;
        let marked = match found.is_good() {
            true => self.mark_verified(&held, now),
            false => self.mark_corrupt(&held),
        };
        match marked {
            // A copy has taken its place: what was found says nothing of what is here now.
            Err(StoreError::NotFound { .. }) if self.table.held(handle).is_some() => {
                self.verify(handle, from, now)
            }
            marked => marked.map(|()| found),
        }
    }

    fn verify_open(&self, chunk: &Arc<OpenChunk>, from: ReadFrom) -> Result<ReadBack, StoreError> {
        let handle = chunk.handle();
        let (snapshot, prepared) = chunk.to_read_back();
        let mut found = snapshot.read_back(from)?;
        if let Some(prepared) = prepared.filter(|it| it.form == SealForm::Sealing) {
            let version = snapshot.version;
            let tree = &*self.tree;
            let is_right = is_form_right(tree, self.owner(), handle, version, &prepared, from);
            found.is_header_lost = match is_right {
                Ok(is_right) => !is_right,
                Err(error) if error.is_short_of_means() => return Err(error),
                // A file that can't be read is none.
                Err(_) => true,
            };
            (found.length, found.crc32) = (prepared.length, prepared.data_crc32);
        }
        if found.is_good() {
            return Ok(found);
        }
        if !chunk.is_still(&snapshot, prepared) {
            let held = chunk.told().version;
            let asked = snapshot.version;
            return Err(StoreError::OtherVersion {
                handle,
                held,
                asked,
            });
        }
        chunk.poison();
        self.open_chunk_failed(handle, &StoreError::Corrupt { handle }.into());
        Ok(found)
    }

    /// Opens the file that [`BeatFile::write`] writes to. It is made if there is none.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], those of the medium.
    pub fn open_beat(&self) -> Result<BeatFile, StoreError> {
        let opened = match self.tree.open(BEAT_FILE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.tree.create(BEAT_FILE),
            opened => opened,
        };
        let failed = |source| io_error(&*self.tree, Operation::Create, BEAT_FILE, source);
        Ok(BeatFile {
            region: opened.map_err(failed)?,
            path: self.root().join(BEAT_FILE),
            count: 0,
        })
    }

    /// Goes to the medium and back: reads `IDENTITY` past the cache, and asks for the free space.
    /// A disk that hangs holds the caller up, which is what it is for.
    ///
    /// # Errors
    /// Those of the medium.
    pub fn beat(&self) -> Result<Space, StoreError> {
        let failed = |source| io_error(&*self.tree, Operation::Read, IDENTITY_FILE, source);
        let region = self.tree.open(IDENTITY_FILE).map_err(failed)?;
        let mut medium = region.medium().map_err(failed)?;
        medium.read_at(&mut [0; IDENTITY_LEN], 0).map_err(failed)?;
        self.space()
    }

    /// Marks a chunk corrupt that was looked at: it is not served any more, now and after a
    /// restart. Another file that has come into its place meanwhile is not what was looked at.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if it is not there any more; those of the medium, and then the
    /// mark holds for this start.
    pub(super) fn mark_corrupt(&self, seen: &Held) -> Result<(), StoreError> {
        let handle = seen.entry.handle;
        let mut turn = self.table.turn(handle);
        let mut held = held_as(&turn, seen)?;
        held.entry.flags.corrupt = true;
        self.put_marked(&mut turn, held.clone());
        match ChunkFile::open(&*self.tree, handle, self.owner(), held.header_stable) {
            Ok(mut file) => self.mark_corrupt_in(&mut turn, &mut file),
            // There is no header to put a mark in, and the next start sees that by itself.
            Err(StoreError::HeaderDamaged { .. } | StoreError::OtherFile { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Marks the chunk of an opened file corrupt.
    pub(super) fn mark_corrupt_in(
        &self,
        turn: &mut Turn<'_>,
        file: &mut ChunkFile,
    ) -> Result<(), StoreError> {
        if !file.header.flags.corrupt {
            let marked = file.put_header(|header| header.flags.corrupt = true);
            let marked = marked.and_then(|()| file.sync());
            let mut held = Held::of(file, false);
            held.entry.flags.corrupt = true;
            self.put_marked(turn, held);
            marked?;
        }
        Ok(())
    }

    /// Puts in what is marked: nobody reads it any more, and if it is open, be it since it was looked at,
    /// it takes no part any more. Its settling would write a header without the mark.
    pub(super) fn put_marked(&self, turn: &mut Turn<'_>, held: Held) {
        turn.put(held);
        if let Some(chunk) = self.opened.find(turn.handle()) {
            chunk.poison();
        }
        self.forget_readable(turn.handle());
    }

    /// Takes note of when a chunk matched. Not synced: a crash takes the time before back.
    fn mark_verified(&self, seen: &Held, now: u64) -> Result<(), StoreError> {
        let handle = seen.entry.handle;
        let mut turn = self.table.turn(handle);
        let mut held = held_as(&turn, seen)?;
        let mut file = ChunkFile::open(&*self.tree, handle, self.owner(), held.header_stable)?;
        let marked = file.put_header(|header| header.last_verified = now);
        if marked.as_ref().is_err_and(StoreError::is_failed_sync) {
            self.poison_chunk(&mut turn, &mut file);
        } else {
            held.header_stable = file.header_stable;
            turn.put(held);
        }
        marked
    }
}

/// The chunk as it is now, if its file is the one that was seen.
fn held_as(turn: &Turn<'_>, seen: &Held) -> Result<Held, StoreError> {
    let handle = turn.handle();
    turn.held()
        .filter(|held| held.incarnation == seen.incarnation)
        .ok_or(StoreError::NotFound { handle })
}
