//! A sealed chunk made anew from another chunkserver's replica (`spec/chunk-file.md` section 10.8).
//!
//! 1. [`Directory::begin_copy`] looks at what is there. If it is the chunk already,
//!    [`Directory::confirm_held`] says whether it is as good as its header tells;
//! 2. else the bytes are written through [`ChunkCopy::pending`], as those of an upload;
//!    [`ChunkCopy::put_ids`] takes the id table;
//! 3. [`Directory::finish_copy`] seals, reads back, and puts the copy in its place.
//!
//! Until the last step what was under the chunk's name stays, served or not as before: it may be
//! the last replica there is. The copy comes into being under a name of its own, and one rename
//! takes it over whatever is there, so that no crash leaves neither. A copy that is dropped before
//! is removed; what a crash leaves of one is removed by the next copy of its handle, or together
//! with what deletes put aside.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, FileId, Serial};
use sarsen_protocol::id_row::decode_table;
use sarsen_protocol::message::{ChunkState, Level};

use super::chunk_file::ChunkFile;
use super::directory::{Directory, io_error};
use super::error::{Operation, StoreError};
use super::journal::body::Body;
use super::layout::{
    chunk_path, copy_path, folder_of, id_table_position, room_for, sealed_file_len,
};
use super::pending::{NewChunk, PendingChunk};
use super::region::Tree;
use super::scan::ProblemKind;
use super::seal::{SealClaim, SealOutcome, outcome_of, write_first, write_sealed};
use super::table::{Held, Turn, lock};
use super::upkeep::ReadFrom;

/// A replica to be made of a chunk that is sealed elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewCopy {
    /// Its name.
    pub handle: ChunkHandle,
    /// The version that it is sealed in.
    pub version: ChunkVersion,
    /// What a replica here has promised or begun up to this version, that one excepted, came to nothing; at
    /// least the version.
    pub void_up_to: ChunkVersion,
    /// The file that it was made for.
    pub file_id: FileId,
    /// Its place in that file.
    pub index: u32,
    /// Its bytes.
    pub length: u32,
    /// Their CRC.
    pub crc32: u32,
}

impl NewCopy {
    /// Whether a replica that began this version has nothing of it that could still count.
    fn is_past(&self, begun: ChunkVersion) -> bool {
        begun != self.version && begun <= self.void_up_to
    }
}

/// A copy in the making. Dropped before it is finished, it is removed, which may wait for the disk.
#[derive(Debug)]
pub struct ChunkCopy {
    pending: PendingChunk,
    new: NewCopy,
    /// Rows of the id table, encoded.
    id_table: Vec<u8>,
    id_table_crc32: u32,
    tree: Arc<dyn Tree>,
    making: Arc<Mutex<BTreeSet<ChunkHandle>>>,
    is_in_place: bool,
}

/// The copies of a directory.
#[derive(Debug)]
pub(super) struct Copies {
    /// Handles that a copy is being made of: one at a time each.
    making: Arc<Mutex<BTreeSet<ChunkHandle>>>,
    /// Handles whose copies an earlier start did not finish, and nobody removed since.
    unfinished: Mutex<BTreeSet<ChunkHandle>>,
}

impl Copies {
    /// None yet, but for what earlier starts left.
    pub(super) fn new(unfinished: impl IntoIterator<Item = ChunkHandle>) -> Self {
        Self {
            making: Arc::default(),
            unfinished: Mutex::new(unfinished.into_iter().collect()),
        }
    }
}

impl ChunkCopy {
    /// Takes the bytes.
    #[must_use]
    pub fn pending(&self) -> &PendingChunk {
        &self.pending
    }

    /// Takes the id table of the replica that is copied, whole; without this it has no rows. It is
    /// written when the copy is sealed (`spec/records.md` section 5).
    ///
    /// # Errors
    /// [`StoreError::IdTableInvalid`], and nothing is changed.
    pub fn put_ids(&mut self, table: Vec<u8>, crc32: u32) -> Result<(), StoreError> {
        let handle = self.new.handle;
        decode_table(&table, crc32)
            .map_err(|error| StoreError::IdTableInvalid { handle, error })?;
        self.id_table = table;
        self.id_table_crc32 = crc32;
        Ok(())
    }

    /// What it is to become.
    #[must_use]
    pub fn new_copy(&self) -> &NewCopy {
        &self.new
    }
}

impl Drop for ChunkCopy {
    fn drop(&mut self) {
        let handle = self.new.handle;
        if !self.is_in_place {
            // If this fails, the next copy or the next start finds it.
            let _ = self.tree.remove(&copy_path(handle));
        }
        lock(&self.making).remove(&handle);
    }
}

impl Directory {
    /// Looks at what is here of a chunk, and begins a copy. None if the chunk itself is here,
    /// sealed and without a mark: [`Self::confirm_held`] has to say whether it is whole.
    ///
    /// # Errors
    /// [`StoreError::OtherVersion`] if a newer version is here; [`StoreError::AlreadyExists`] if
    /// the chunk is being written, copied or deleted, or its name is taken by a file that is nobody's to
    /// replace; [`StoreError::OtherState`] if it is open in the copy's version, or has promised or begun more
    /// than is void; [`StoreError::NoSpace`],
    /// [`StoreError::NotAdopted`], [`StoreError::DirectoryPoisoned`], [`StoreError::HeaderInvalid`]
    /// for a handle or version of 0, those of the medium. Nothing is left behind then.
    pub fn begin_copy(&self, new: &NewCopy) -> Result<Option<ChunkCopy>, StoreError> {
        self.check_not_poisoned()?;
        let mut header = self.first_header(&NewChunk {
            handle: new.handle,
            version: new.version,
            file_id: new.file_id,
            index: new.index,
            room: new.length,
        })?;
        // A start that finds the copy knows by this that what the journal says of a higher version is void.
        header.promised_version = new.void_up_to;
        if new.length > header.chunk_size {
            return Err(StoreError::BeyondRoom {
                handle: new.handle,
                room: header.chunk_size,
                end: new.length.into(),
            });
        }
        if self.leaving.contains(new.handle) {
            return Err(StoreError::AlreadyExists { handle: new.handle });
        }
        let turn = self.table.turn(new.handle);
        if self.is_held(&turn, new)? {
            return Ok(None);
        }
        if !lock(&self.copies.making).insert(new.handle) {
            return Err(StoreError::AlreadyExists { handle: new.handle });
        }
        let reserved = room_for(0, new.length, header.chunk_size);
        let made = self.make_copy_file(new.handle).and_then(|region| {
            let file = ChunkFile {
                region,
                path: self.root().join(copy_path(new.handle)),
                header,
                doubtful: false,
                header_stable: false,
            };
            write_first(&file, reserved).map(|()| file)
        });
        match made {
            Ok(file) => Ok(Some(ChunkCopy {
                pending: PendingChunk::new(&file, new.length, reserved),
                new: *new,
                id_table: Vec::new(),
                id_table_crc32: 0,
                tree: Arc::clone(&self.tree),
                making: Arc::clone(&self.copies.making),
                is_in_place: false,
            })),
            Err(error) => {
                let _ = self.tree.remove(&copy_path(new.handle));
                lock(&self.copies.making).remove(&new.handle);
                Err(error)
            }
        }
    }

    /// Makes durable, and reads back from the medium, a chunk that [`Self::begin_copy`] found to be
    /// here; false if it is not what its header says. Then it is marked, and a copy can take its
    /// place.
    ///
    /// # Errors
    /// [`StoreError::DirectoryPoisoned`], those of the medium that mark nothing.
    pub fn confirm_held(&self, new: &NewCopy, now: u64) -> Result<bool, StoreError> {
        let claim = SealClaim {
            length: new.length,
            crc32: new.crc32,
            serial: Serial::NONE,
            level: Level::Disk,
        };
        let confirmed = self
            .seal(new.handle, new.version, &claim)
            .and_then(|_| self.verify(new.handle, ReadFrom::Medium, now))
            .map(|found| found.is_good() && found.crc32 == new.crc32);
        match confirmed {
            Err(
                StoreError::Corrupt { .. }
                | StoreError::Poisoned { .. }
                | StoreError::HeaderDamaged { .. }
                | StoreError::OtherFile { .. },
            ) => Ok(false),
            // Its file has gone behind our back.
            Err(StoreError::NotFound { .. }) => {
                let held = self.table.held(new.handle);
                let _ = held.map(|held| self.mark_corrupt(&held));
                Ok(false)
            }
            confirmed => confirmed,
        }
    }

    /// Seals a copy of which all bytes were written, reads it back from the medium, and puts it in
    /// the chunk's place. `serial` is that of the replica that it was copied from, `now` the wall
    /// clock in milliseconds since 1970.
    ///
    /// # Errors
    /// [`StoreError::SealMismatch`] if the bytes are not those of the chunk,
    /// [`StoreError::Corrupt`] if they were read back otherwise; those of [`Self::begin_copy`] if
    /// the place was taken meanwhile; [`StoreError::DirectoryPoisoned`], those of the medium. What
    /// was there before is there still, unless the last sync failed, which poisons the directory.
    pub fn finish_copy(
        &self,
        mut copy: ChunkCopy,
        serial: Serial,
        now: u64,
    ) -> Result<SealOutcome, StoreError> {
        self.check_not_poisoned()?;
        let new = copy.new;
        let handle = new.handle;
        let mut file = seal_copy(&copy, serial)?;
        read_back(&mut file, &new, now)?;
        let mut turn = self.table.turn(handle);
        if self.is_held(&turn, &new)? {
            return Err(StoreError::AlreadyExists { handle });
        }
        // Of a file that no start could read, or that was marked, the journal may speak too. What a marked one has
        // promised since the order was given is to stay.
        let is_bound = self.obeyed_from(handle) > new.void_up_to;
        let was_marked = turn.held().is_some_and(|held| held.entry.is_marked());
        let was_open = (was_marked && !is_bound)
            || self.is_in_journal(&turn)
            || self.problem_of(handle).is_some();
        let from = copy_path(handle);
        self.tree
            .rename(&from, &chunk_path(handle))
            .map_err(|source| io_error(&*self.tree, Operation::Rename, &from, source))?;
        copy.is_in_place = true;
        // First: what the inventory tells of it has to stay so. If that fails it is told all the same, for it
        // is what is here, and the directory is poisoned.
        let named = self.sync_folder(&folder_of(handle));
        let held = Held::of(&file, false);
        turn.put_new(held.clone());
        self.forget_readable(handle);
        lock(&self.problems).retain(|problem| problem.handle != Some(handle));
        if named.is_err() {
            // The journal takes nothing any more: the file's promise tells a start what it would have said.
            if let Some(chunk) = self.opened.find(handle) {
                chunk.poison();
            }
            self.opened.forget(handle);
        }
        named?;
        if was_open {
            // Until this is stable, the file's promise tells a start the same: what was promised up to there is
            // not said again.
            self.opened.end(handle, new.void_up_to, &Body::Settled);
            self.remove_journaled(handle);
        }
        Ok(outcome_of(&held))
    }

    /// Removes what earlier starts left of copies; how many files that were.
    pub(super) fn remove_unfinished_copies(&self) -> Result<usize, StoreError> {
        let left: Vec<ChunkHandle> = lock(&self.copies.unfinished).iter().copied().collect();
        for &handle in &left {
            // With the turn, so that a copy that begins now does not lose its file.
            let _turn = self.table.turn(handle);
            if lock(&self.copies.unfinished).contains(&handle) {
                self.remove_copy_file(handle)?;
                lock(&self.copies.unfinished).remove(&handle);
            }
        }
        Ok(left.len())
    }

    /// Whether the chunk is here as it is wanted, by its header; an error if something is here that
    /// must stay.
    fn is_held(&self, turn: &Turn<'_>, new: &NewCopy) -> Result<bool, StoreError> {
        let handle = new.handle;
        if turn.pending().is_some() {
            return Err(StoreError::AlreadyExists { handle });
        }
        let opened = self.opened.find(handle);
        let opened = opened.map(|chunk| (chunk.told(), chunk.was_changed()));
        let open = StoreError::OtherState {
            handle,
            state: ChunkState::Open,
        };
        // Then it can't be a member of anything as new. That it promised the version says only that it
        // was asked for its state before others sealed that, and missed the rest.
        let may_replace = opened.as_ref().is_none_or(|(told, _)| {
            new.is_past(told.version) && told.promised_version <= new.void_up_to
        });
        if !may_replace && opened.as_ref().is_some_and(|(_, was_changed)| *was_changed) {
            return Err(open);
        }
        // Of one that was begun and can't go on the sealed chunk that it still is does not count either.
        let is_stuck = opened.is_some_and(|(told, _)| told.poisoned);
        let Some(held) = turn.held() else {
            return match self.problem_of(handle) {
                None | Some(ProblemKind::Header(_)) => Ok(false),
                Some(_) => Err(StoreError::AlreadyExists { handle }),
            };
        };
        let entry = held.entry;
        let is_void = entry.state == ChunkState::Open && new.is_past(entry.version);
        if entry.version > new.version && !is_void {
            return Err(StoreError::OtherVersion {
                handle,
                held: entry.version,
                asked: new.version,
            });
        }
        if entry.state == ChunkState::Open && entry.version == new.version {
            return Err(open);
        }
        let is_wanted = entry.state == ChunkState::Sealed
            && entry.version == new.version
            && (entry.length, entry.crc32) == (new.length, new.crc32)
            && !entry.is_marked()
            && !is_stuck;
        match is_wanted || may_replace {
            true => Ok(is_wanted),
            false => Err(open),
        }
    }

    pub(super) fn problem_of(&self, handle: ChunkHandle) -> Option<ProblemKind> {
        let problems = lock(&self.problems);
        let problem = problems
            .iter()
            .find(|problem| problem.handle == Some(handle));
        problem.map(|problem| problem.kind)
    }

    fn make_copy_file(
        &self,
        handle: ChunkHandle,
    ) -> Result<Arc<dyn super::region::Region>, StoreError> {
        self.remove_copy_file(handle)?;
        lock(&self.copies.unfinished).remove(&handle);
        let path = copy_path(handle);
        self.tree
            .create(&path)
            .map_err(|source| io_error(&*self.tree, Operation::Create, &path, source))
    }

    fn remove_copy_file(&self, handle: ChunkHandle) -> Result<(), StoreError> {
        let path = copy_path(handle);
        match self.tree.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error(&*self.tree, Operation::Remove, &path, error))
            }
            _ => Ok(()),
        }
    }
}

/// Step 3 of the spec's table.
fn seal_copy(copy: &ChunkCopy, serial: Serial) -> Result<ChunkFile, StoreError> {
    let NewCopy { length, crc32, .. } = copy.new;
    let block_crcs = copy.pending.begin_seal(length, crc32)?;
    let mut file = copy.pending.chunk_file();
    file.region
        .set_len(sealed_file_len(length))
        .map_err(|source| file.error(Operation::Write, source))?;
    if !copy.id_table.is_empty() {
        let position = id_table_position(file.header.chunk_size);
        file.region
            .reserve(position, copy.id_table.len() as u64)
            .map_err(|source| file.error(Operation::Reserve, source))?;
        file.region
            .write_at(&copy.id_table, position)
            .map_err(|source| file.error(Operation::Write, source))?;
        // Said by the header that is written next, behind the sync of what it speaks of.
        file.header.id_table_length = u32::try_from(copy.id_table.len()).unwrap_or(u32::MAX);
        file.header.id_table_crc32 = copy.id_table_crc32;
    }
    let claim = SealClaim {
        length,
        crc32,
        serial,
        level: Level::Disk,
    };
    write_sealed(&mut file, &block_crcs, &claim)?;
    Ok(file)
}

/// Step 4 of the spec's table.
fn read_back(file: &mut ChunkFile, new: &NewCopy, now: u64) -> Result<(), StoreError> {
    let found = file.read_back(ReadFrom::Medium)?;
    if !found.is_good() || found.crc32 != new.crc32 {
        return Err(StoreError::Corrupt { handle: new.handle });
    }
    file.put_header(|header| header.last_verified = now)
}
