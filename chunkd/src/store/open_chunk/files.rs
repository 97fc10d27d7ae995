//! Carries plans out on the files of one open chunk (`spec/journal.md` sections 3 and 4).
//!
//! The chunk file as it was sealed, with what mutations added behind; the patch file, made for the
//! first block that is patched; `.sealing`, which holds the room that a seal will need, so that a
//! full disk refuses mutations and never a seal.
//!
//! Invariants: a plan's old blocks are compared with their CRCs before its first byte is written;
//! room is reserved before it is written to; the patch file and its name are stable before a slot
//! is written. What was written is stable only when [`ChunkFiles::sync`] has returned.
//!
//! What a crash leaves: bytes behind the length or in slots that nothing names.

mod medium;
mod sealing;

use std::sync::Arc;

use sarsen_protocol::crc::crc32;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion};
use sarsen_protocol::size::BLOCK_LEN;

use super::super::directory::io_error;
use super::super::error::{Operation, StoreError};
use super::super::journal::Author;
use super::super::journal::body::{Block, Place, SLOTS_MAX};
use super::super::layout::{
    chunk_path, folder_of, id_table_position, patch_path, room_for, sealed_file_len, sealing_path,
};
use super::super::pending::data_position;
use super::super::region::{Region, Tree};
use super::patch::{PATCH_HEADER_LEN, PatchHeader, slot_position};
use super::plan::{Plan, PlannedBlock, Way};

/// Slots whose room is reserved at once: 1 MiB.
const SLOTS_PER_STEP: u32 = 16;

/// Bytes of the id table whose room is reserved at once.
const ID_TABLE_STEP: u64 = 64 * 1024;

static ZEROS: [u8; BLOCK_LEN as usize] = [0; BLOCK_LEN as usize];

/// Which chunk of which directory.
#[derive(Clone, Debug)]
pub struct Whose {
    /// The directory's files.
    pub tree: Arc<dyn Tree>,
    /// This start of the directory.
    pub author: Author,
    /// The chunk.
    pub handle: ChunkHandle,
    /// Bytes of a chunk of the cluster.
    pub chunk_size: u32,
}

/// The files of one open chunk.
#[derive(Debug)]
pub struct ChunkFiles {
    whose: Whose,
    chunk: Arc<dyn Region>,
    patch: Option<Arc<dyn Region>>,
    sealing: Option<Arc<dyn Region>>,
    /// Bytes of data that the chunk file has room for.
    reserved: u32,
    /// Slots that the patch file has room for.
    slots_reserved: u32,
    /// Bytes of the id table that the chunk file has room for.
    ids_reserved: u64,
    /// Bytes of data, and of the id table, that `.sealing` has room for.
    sealing_reserved: (u64, u64),
    /// What was written since the last sync.
    unsynced: Unsynced,
}

/// Files that were written to and not synced.
#[derive(Clone, Debug, Default)]
pub(super) struct Unsynced {
    files: Vec<(String, Arc<dyn Region>)>,
}

impl Unsynced {
    fn note(&mut self, path: String, region: &Arc<dyn Region>) {
        if !self.files.iter().any(|(noted, _)| *noted == path) {
            self.files.push((path, Arc::clone(region)));
        }
    }

    /// Makes stable what was written.
    ///
    /// # Errors
    /// Those of the medium: the chunk is poisoned, and this is never tried again.
    pub(super) fn sync(&self, tree: &dyn Tree) -> Result<(), StoreError> {
        self.files.iter().try_for_each(|(path, region)| {
            let error = |source| io_error(tree, Operation::Sync, path, source);
            region.sync().map_err(error)
        })
    }
}

/// The regions that the blocks of a state lie in, for reading.
#[derive(Clone, Debug)]
pub struct Places {
    handle: ChunkHandle,
    chunk: Arc<dyn Region>,
    patch: Option<Arc<dyn Region>>,
}

impl Places {
    /// The chunk.
    #[must_use]
    pub const fn handle(&self) -> ChunkHandle {
        self.handle
    }

    /// The chunk file.
    pub(super) fn chunk(&self) -> &Arc<dyn Region> {
        &self.chunk
    }

    /// Reads bytes of a block from where a state has it; how many there were.
    ///
    /// # Errors
    /// Those of the medium.
    pub fn read(
        &self,
        index: usize,
        place: Place,
        offset: u32,
        buf: &mut [u8],
    ) -> Result<usize, StoreError> {
        let (path, region, position) = match (place, &self.patch) {
            (Place::OwnRoom, _) => (chunk_path(self.handle), &self.chunk, room_of(index)),
            (Place::Slot(slot), Some(patch)) => {
                (patch_path(self.handle), patch, slot_position(slot))
            }
            (Place::Slot(_), None) => return Ok(0),
        };
        region
            .read_at(buf, position + u64::from(offset))
            .map_err(|source| StoreError::io(Operation::Read, path.into(), source))
    }

    /// Reads a block of a state, which has so many bytes, and compares it with its CRC.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], those of the medium.
    pub fn read_block(&self, index: usize, block: Block, len: u32) -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![0; len as usize];
        let read = self.read(index, block.place, 0, &mut bytes)?;
        match read == bytes.len() && crc32(&bytes) == block.crc32 {
            true => Ok(bytes),
            false => Err(StoreError::Corrupt {
                handle: self.handle,
            }),
        }
    }
}

const fn room_of(index: usize) -> u64 {
    data_position(0) + index as u64 * BLOCK_LEN as u64
}

impl ChunkFiles {
    /// The files of a chunk that has no patch file, or none that was looked at.
    #[must_use]
    pub fn new(whose: Whose, chunk: Arc<dyn Region>) -> Self {
        Self {
            whose,
            chunk,
            patch: None,
            sealing: None,
            reserved: 0,
            slots_reserved: 0,
            ids_reserved: 0,
            sealing_reserved: (0, 0),
            unsynced: Unsynced::default(),
        }
    }

    /// Opens the patch file that an earlier start made.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if it is missing or another's, those of the medium.
    pub fn open_patch(&mut self) -> Result<(), StoreError> {
        let handle = self.whose.handle;
        let path = patch_path(handle);
        let region = match self.whose.tree.open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(StoreError::Corrupt { handle });
            }
            opened => opened.map_err(|source| self.error(Operation::Open, &path, source))?,
        };
        let mut head = [0; PATCH_HEADER_LEN];
        let read = region
            .read_at(&mut head, 0)
            .map_err(|source| self.error(Operation::Read, &path, source))?;
        let found = PatchHeader::decode(head.split_at(read).0);
        let is_ours = |header: PatchHeader| header.is_of(handle, &self.whose.author);
        if !found.is_ok_and(is_ours) {
            return Err(StoreError::Corrupt { handle });
        }
        self.patch = Some(region);
        Ok(())
    }

    /// Whether there is a patch file.
    #[must_use]
    pub const fn has_patch(&self) -> bool {
        self.patch.is_some()
    }

    /// Where the blocks of all states are.
    #[must_use]
    pub fn places(&self) -> Places {
        Places {
            handle: self.whose.handle,
            chunk: Arc::clone(&self.chunk),
            patch: self.patch.clone(),
        }
    }

    /// Whose files they are.
    #[must_use]
    pub const fn whose(&self) -> &Whose {
        &self.whose
    }

    /// The chunk's file.
    #[must_use]
    pub fn chunk(&self) -> &Arc<dyn Region> {
        &self.chunk
    }

    /// Makes room in the chunk file for data that ends at `end`.
    ///
    /// # Errors
    /// [`StoreError::BeyondRoom`], [`StoreError::NoSpace`], those of the medium.
    pub fn reserve(&mut self, end: u32) -> Result<(), StoreError> {
        let room = self.whose.chunk_size;
        if end > room {
            return Err(StoreError::BeyondRoom {
                handle: self.whose.handle,
                room,
                end: end.into(),
            });
        }
        if end <= self.reserved {
            return Ok(());
        }
        let wanted = room_for(end, 0, room);
        self.chunk
            .reserve(
                data_position(self.reserved),
                u64::from(wanted - self.reserved),
            )
            .map_err(|source| {
                self.error(Operation::Reserve, &chunk_path(self.whose.handle), source)
            })?;
        self.reserved = wanted;
        Ok(())
    }

    /// Makes all room that a plan and the seal after it need. `length` is the chunk's afterwards,
    /// `id_table_len` what its ids will take, `version` the one that it is in.
    ///
    /// # Errors
    /// As [`Self::reserve`]. Nothing of the plan was written then.
    pub fn make_room(
        &mut self,
        plan: &Plan,
        length: u32,
        id_table_len: usize,
        version: ChunkVersion,
    ) -> Result<(), StoreError> {
        let own_rooms = plan.blocks.iter().filter(|b| b.place == Place::OwnRoom);
        let room_end = own_rooms.map(end_of).max().unwrap_or(0);
        self.reserve(room_end.min(self.whose.chunk_size))?;
        if plan.highest_slot().is_some() || self.patch.is_some() {
            self.reserve_sealing(length, id_table_len as u64)?;
        } else {
            self.reserve_ids(id_table_len)?;
        }
        match plan.highest_slot() {
            Some(slot) => self.reserve_slots(slot, version),
            None => Ok(()),
        }
    }

    /// Reads, builds and writes; the CRCs of the patched blocks in order, as
    /// [`Plan::mutation`] wants them. The room must have been made.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if an old block does not match its CRC, and then nothing was
    /// written; those of the medium: what was written lies where nothing that counts does.
    pub fn carry_out(&mut self, plan: &Plan, bytes: &[u8]) -> Result<Vec<u32>, StoreError> {
        let places = self.places();
        let mut built = Vec::new();
        for block in &plan.blocks {
            if let Way::Patched { old, old_len } = block.way {
                let mut content = places.read_block(block.index, old, old_len)?;
                content.resize(block.len as usize, 0);
                let target = block.bytes.start as usize..block.bytes.end as usize;
                if let Some(target) = content.get_mut(target) {
                    target.copy_from_slice(own_bytes(block, bytes));
                }
                built.push(content);
            }
        }
        let crcs = built.iter().map(|content| crc32(content)).collect();
        let mut built = built.into_iter();
        for block in &plan.blocks {
            match block.way {
                Way::Patched { .. } => {
                    let content = built.next().unwrap_or_default();
                    self.write(block, 0, &content)?;
                }
                Way::Behind { .. } => {
                    let zeros = block.zeros.end - block.zeros.start;
                    let (zeros, _) = ZEROS.split_at(zeros as usize);
                    self.write(block, block.zeros.start, zeros)?;
                    self.write(block, block.bytes.start, own_bytes(block, bytes))?;
                }
            }
        }
        Ok(crcs)
    }

    /// Makes the room that appends need which make the chunk `length` bytes long, all of them in blocks'
    /// own rooms; `id_table_len` is what its ids will take.
    ///
    /// # Errors
    /// As [`Self::make_room`].
    pub(super) fn make_room_behind(
        &mut self,
        length: u32,
        id_table_len: usize,
    ) -> Result<(), StoreError> {
        self.reserve(length)?;
        self.make_room_to_seal(length, id_table_len)
    }

    /// Whether that room is there already, so that nothing has to be asked of the disk.
    pub(super) fn has_room_behind(&self, length: u32, id_table_len: usize) -> bool {
        self.patch.is_none() && length <= self.reserved && id_table_len as u64 <= self.ids_reserved
    }

    /// Writes pieces one behind the other into blocks' own rooms, from a place in the chunk on at which
    /// nothing lies. The room must have been made.
    ///
    /// # Errors
    /// Those of the medium: what was written lies where nothing that counts does.
    pub(super) fn write_behind(&mut self, offset: u32, pieces: &[&[u8]]) -> Result<(), StoreError> {
        let path = chunk_path(self.whose.handle);
        let written = self.chunk.write_pieces_at(pieces, data_position(offset));
        let result = written.map_err(|source| self.error(Operation::Write, &path, source));
        self.unsynced.note(path, &self.chunk);
        result
    }

    /// What was written since this was asked last; whoever asks must sync it.
    pub(super) fn take_unsynced(&mut self) -> Unsynced {
        std::mem::take(&mut self.unsynced)
    }

    /// Makes the room that a seal will need.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], those of the medium.
    pub fn make_room_to_seal(
        &mut self,
        length: u32,
        id_table_len: usize,
    ) -> Result<(), StoreError> {
        match self.patch.is_some() {
            true => self.reserve_sealing(length, id_table_len as u64),
            false => self.reserve_ids(id_table_len),
        }
    }

    /// Makes everything stable that was written.
    ///
    /// # Errors
    /// Those of the medium: the chunk is poisoned.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        self.take_unsynced().sync(&*self.whose.tree)
    }

    fn write(&mut self, block: &PlannedBlock, at: u32, bytes: &[u8]) -> Result<(), StoreError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let handle = self.whose.handle;
        let (path, region, position) = match (block.place, &self.patch) {
            (Place::OwnRoom, _) => (chunk_path(handle), &self.chunk, room_of(block.index)),
            (Place::Slot(slot), Some(patch)) => (patch_path(handle), patch, slot_position(slot)),
            (Place::Slot(_), None) => return Err(StoreError::Corrupt { handle }),
        };
        self.unsynced.note(path.clone(), region);
        region
            .write_at(bytes, position + u64::from(at))
            .map_err(|source| self.error(Operation::Write, &path, source))
    }

    /// Room for the slots up to this one, in a patch file that is made if there is none.
    fn reserve_slots(&mut self, slot: u32, version: ChunkVersion) -> Result<(), StoreError> {
        let wanted = (slot + 1).next_multiple_of(SLOTS_PER_STEP).min(SLOTS_MAX);
        if wanted <= self.slots_reserved && self.patch.is_some() {
            return Ok(());
        }
        let path = patch_path(self.whose.handle);
        let patch = match &self.patch {
            Some(patch) => Arc::clone(patch),
            None => self.create(&path)?,
        };
        patch
            .reserve(0, slot_position(wanted))
            .map_err(|source| self.error(Operation::Reserve, &path, source))?;
        if self.patch.is_none() {
            let header = PatchHeader {
                handle: self.whose.handle,
                author: self.whose.author,
                made_in: version,
            };
            patch
                .write_at(&header.encode(), 0)
                .map_err(|source| self.error(Operation::Write, &path, source))?;
            patch
                .sync()
                .map_err(|source| self.error(Operation::Sync, &path, source))?;
            // With the name of `.sealing`, which was made before.
            let folder = folder_of(self.whose.handle);
            self.whose
                .tree
                .sync_folder(&folder)
                .map_err(|source| self.error(Operation::Sync, &folder, source))?;
            self.patch = Some(patch);
        }
        self.slots_reserved = wanted;
        Ok(())
    }

    /// Room in the chunk file for the id table of a form 1.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], those of the medium.
    pub(super) fn reserve_ids(&mut self, len: usize) -> Result<(), StoreError> {
        let ids = (len as u64).next_multiple_of(ID_TABLE_STEP);
        if ids > self.ids_reserved {
            let path = chunk_path(self.whose.handle);
            self.chunk
                .reserve(id_table_position(self.whose.chunk_size), ids)
                .map_err(|source| self.error(Operation::Reserve, &path, source))?;
            self.ids_reserved = ids;
        }
        Ok(())
    }

    /// Room for the sealed form.
    fn reserve_sealing(&mut self, length: u32, id_table_len: u64) -> Result<(), StoreError> {
        let data = sealed_file_len(length);
        let ids = id_table_len.next_multiple_of(ID_TABLE_STEP);
        let (data_reserved, ids_reserved) = self.sealing_reserved;
        if data <= data_reserved && ids <= ids_reserved {
            return Ok(());
        }
        let path = sealing_path(self.whose.handle);
        let sealing = match &self.sealing {
            Some(sealing) => Arc::clone(sealing),
            // One that is there has room already, and on a full disk there may be no other.
            None => match self.whose.tree.open(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.create(&path)?,
                opened => opened.map_err(|source| self.error(Operation::Open, &path, source))?,
            },
        };
        self.sealing = Some(Arc::clone(&sealing));
        let id_table = id_table_position(self.whose.chunk_size);
        let error = |source| self.error(Operation::Reserve, &path, source);
        if data > data_reserved {
            sealing.reserve(0, data).map_err(error)?;
        }
        if ids > ids_reserved {
            sealing.reserve(id_table, ids).map_err(error)?;
        }
        self.sealing_reserved = (data.max(data_reserved), ids.max(ids_reserved));
        Ok(())
    }

    /// Makes a file of ours anew: what lies under the name is an earlier opening's.
    fn create(&self, path: &str) -> Result<Arc<dyn Region>, StoreError> {
        match self.whose.tree.remove(path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(self.error(Operation::Remove, path, source));
            }
            _ => {}
        }
        self.whose
            .tree
            .create(path)
            .map_err(|source| self.error(Operation::Create, path, source))
    }

    fn error(&self, operation: Operation, path: &str, source: std::io::Error) -> StoreError {
        io_error(&*self.whose.tree, operation, path, source)
    }
}

/// Where in the chunk a planned block's bytes end.
fn end_of(block: &PlannedBlock) -> u32 {
    let start = u32::try_from(block.index).unwrap_or(u32::MAX);
    start.saturating_mul(BLOCK_LEN).saturating_add(block.len)
}

/// The bytes of a mutation that go to a block.
fn own_bytes<'a>(block: &PlannedBlock, bytes: &'a [u8]) -> &'a [u8] {
    let from = block.source as usize;
    bytes
        .get(from..from + block.bytes.len())
        .unwrap_or_default()
}
