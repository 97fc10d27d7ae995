//! A sealed chunk as readers use it: its CRCs in memory, its data by descriptor or mapping.
//!
//! What is read is not looked at here: whoever asked verifies it with [`ReadableChunk::block_crcs`].
//! Opened chunks are cached, as many as the directory was told; one in use outlives its place in
//! the cache, and its file's deletion.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::sync::Arc;

use rustix::io::{Errno, ReadWriteFlags};
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Serial};
use sarsen_protocol::id_row::ID_ROW_LEN;
use sarsen_protocol::message::ChunkState;
use sarsen_protocol::size::BLOCK_LEN;

use super::chunk_file::ChunkFile;
use super::cut::KeptCrcs;
use super::directory::Directory;
use super::error::{Operation, StoreError};
use super::layout::{chunk_path, id_table_position};
use super::map::Mapping;
use super::pending::data_position;
use super::region::Region;
use super::seal::check_usable;
use super::table::{Held, lock};

/// A sealed chunk, opened.
#[derive(Debug)]
pub struct ReadableChunk {
    /// The chunk's name.
    pub handle: ChunkHandle,
    /// Its version.
    pub version: ChunkVersion,
    /// The last mutation in it.
    pub serial: Serial,
    /// Sealed, today.
    pub state: ChunkState,
    /// Bytes of data.
    pub length: u32,
    /// CRC of the data.
    pub crc32: u32,
    /// CRC of each block; of the last one, over the bytes that are there.
    pub block_crcs: Box<[u32]>,
    /// Bytes of the id table.
    pub id_table_length: u32,
    /// Their CRC.
    pub id_table_crc32: u32,
    id_table_position: u64,
    region: Arc<dyn Region>,
    mapping: Option<Mapping>,
    pub(super) kept_crcs: KeptCrcs,
}

impl ReadableChunk {
    /// The descriptor to read from, at [`data_position`]; `None` if the store is not on real
    /// files (tests).
    #[must_use]
    pub fn file(&self) -> Option<&Arc<File>> {
        self.region.file()
    }

    /// The mapped data; `None` if there is none, or if the store is not on real files.
    #[must_use]
    pub fn mapping(&self) -> Option<&Mapping> {
        self.mapping.as_ref()
    }

    /// Whether a range can probably be read without waiting for the medium: its last byte can, and one of
    /// every block's length before it. Never blocks; where the file system can't tell, the answer is yes.
    #[must_use]
    pub fn is_cached(&self, offset: u32, len: u32) -> bool {
        let Some(file) = self.file() else { return true };
        let is_here = |offset: u32| {
            let mut byte = [0];
            let mut bytes = [IoSliceMut::new(&mut byte)];
            let read = rustix::io::preadv2(
                file,
                &mut bytes,
                data_position(offset),
                ReadWriteFlags::NOWAIT,
            );
            !matches!(read, Err(Errno::AGAIN))
        };
        let end = offset.saturating_add(len);
        let mut looked_at = (offset..end).step_by(BLOCK_LEN as usize);
        // The last first: it is the least likely to have come along with what somebody else has read.
        len == 0 || (is_here(end - 1) && looked_at.all(is_here))
    }

    /// Has the medium give a range to the page cache, blocking.
    ///
    /// # Errors
    /// Those of the medium.
    pub fn bring_in(&self, offset: u32, len: u32) -> io::Result<()> {
        match &self.mapping {
            Some(mapping) => mapping.bring_in(offset, len),
            None => Ok(()),
        }
    }

    /// Reads the file at `position`, blocking; how much there was.
    pub(super) fn read_region(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.region.read_at(buf, position)
    }

    /// Reads data at `offset`, blocking; how much there was.
    ///
    /// # Errors
    /// Those of the medium.
    pub fn read_at(&self, buf: &mut [u8], offset: u32) -> Result<usize, StoreError> {
        let left = self.length.saturating_sub(offset) as usize;
        let wanted = buf.len().min(left);
        let (wanted, _) = buf.split_at_mut(wanted);
        self.region
            .read_at(wanted, data_position(offset))
            .map_err(|source| self.read_error(source))
    }

    /// Up to `count` rows of the id table from `first` on, blocking. They are not looked at.
    ///
    /// # Errors
    /// Those of the medium.
    fn read_ids(&self, first: u32, count: usize) -> Result<Vec<[u8; ID_ROW_LEN]>, StoreError> {
        let left = (self.id_table_length as usize / ID_ROW_LEN).saturating_sub(first as usize);
        let mut rows = vec![[0; ID_ROW_LEN]; count.min(left)];
        let position = self.id_table_position + u64::from(first) * ID_ROW_LEN as u64;
        let bytes = rows.as_flattened_mut();
        let read = self.region.read_at(bytes, position);
        match read.map_err(|source| self.read_error(source))? == bytes.len() {
            true => Ok(rows),
            false => Err(self.read_error(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    fn read_error(&self, source: io::Error) -> StoreError {
        StoreError::io(Operation::Read, chunk_path(self.handle).into(), source)
    }
}

impl Directory {
    /// A chunk that is open already; never blocks on the disk.
    #[must_use]
    pub fn find_readable(&self, handle: ChunkHandle) -> Option<Arc<ReadableChunk>> {
        lock(&self.readable).find(handle)
    }

    /// Opens a sealed chunk for reading, or finds it open.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::OtherState`] if it isn't sealed;
    /// [`StoreError::Corrupt`] and [`StoreError::Poisoned`] for marks it has; what is wrong with
    /// its header or CRC page, which marks it corrupt; those of the medium.
    pub fn open_for_read(&self, handle: ChunkHandle) -> Result<Arc<ReadableChunk>, StoreError> {
        if let Some(found) = self.find_readable(handle) {
            return Ok(found);
        }
        let held = self.check_readable(handle)?;
        let opened = match self.load_readable(handle) {
            Ok(loaded) => Arc::new(loaded),
            Err(error) => {
                if is_damage(&error) {
                    self.mark_corrupt(&held)?;
                }
                return Err(error);
            }
        };
        let displaced = lock(&self.readable).put(handle, Arc::clone(&opened));
        drop(displaced);
        // A mark, a deletion or a copy that takes the chunk's place changes the table first and
        // then the cache: whichever came while the chunk was being opened is seen here, or has
        // taken it out again.
        match self.check_readable(handle) {
            Ok(now) if now.incarnation == held.incarnation => Ok(opened),
            Ok(_) => {
                self.forget_readable(handle);
                self.open_for_read(handle)
            }
            Err(error) => {
                self.forget_readable(handle);
                Err(error)
            }
        }
    }

    /// Up to `count` rows of a chunk's id table from `first` on, as the file has them: whoever gets
    /// them compares the whole table with its CRC. Blocks.
    ///
    /// # Errors
    /// As [`Self::open_for_read`]; [`StoreError::OtherVersion`] if the chunk is not what was opened
    /// any more: the table of its next version may be written over this one (`spec/journal.md`
    /// section 7). Those of the medium.
    pub fn read_ids(
        &self,
        chunk: &ReadableChunk,
        first: u32,
        count: usize,
    ) -> Result<Vec<[u8; ID_ROW_LEN]>, StoreError> {
        let rows = chunk.read_ids(first, count)?;
        // Looked at behind the read: it is open from before its file is written to until it has
        // its next version.
        let now = self.check_readable(chunk.handle)?;
        match now.entry.version == chunk.version {
            true => Ok(rows),
            false => Err(StoreError::OtherVersion {
                handle: chunk.handle,
                held: now.entry.version,
                asked: chunk.version,
            }),
        }
    }

    /// Takes a chunk out of the cache; who reads it keeps it.
    pub(super) fn forget_readable(&self, handle: ChunkHandle) {
        let removed = lock(&self.readable).remove(handle);
        drop(removed);
    }

    fn check_readable(&self, handle: ChunkHandle) -> Result<Held, StoreError> {
        let held = self
            .table
            .held(handle)
            .ok_or(StoreError::NotFound { handle })?;
        check_usable(&held, None)?;
        if self.was_changed(handle) {
            let state = ChunkState::Open;
            return Err(StoreError::OtherState { handle, state });
        }
        match held.entry.state {
            ChunkState::Sealed => Ok(held),
            state => Err(StoreError::OtherState { handle, state }),
        }
    }

    fn load_readable(&self, handle: ChunkHandle) -> Result<ReadableChunk, StoreError> {
        // Nothing is written through this opening, so whether the header is stable is no matter.
        let file = ChunkFile::open(&*self.tree, handle, self.owner(), false)?;
        let block_crcs = file.read_crcs()?;
        let mapping = match file.region.file() {
            Some(descriptor) if file.header.length > 0 => {
                let mapped = Mapping::new(descriptor, file.header.length);
                Some(mapped.map_err(|source| file.error(Operation::Map, source))?)
            }
            _ => None,
        };
        Ok(ReadableChunk {
            handle,
            version: file.header.version,
            serial: file.header.serial,
            state: file.header.state,
            length: file.header.length,
            crc32: file.header.data_crc32,
            block_crcs,
            id_table_length: file.header.id_table_length,
            id_table_crc32: file.header.id_table_crc32,
            id_table_position: id_table_position(file.header.chunk_size),
            region: file.region,
            mapping,
            kept_crcs: KeptCrcs::default(),
        })
    }
}

/// Whether the medium gave something else than what was written.
fn is_damage(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::HeaderDamaged { .. }
            | StoreError::CrcPageDamaged { .. }
            | StoreError::FileTooShort { .. }
            | StoreError::OtherFile { .. }
    )
}
