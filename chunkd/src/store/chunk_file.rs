//! One chunk's file and its header: reading it, and writing the next generation
//! (`spec/chunk-file.md` sections 4, 5, 10.4, 10.6).
//!
//! Invariant: a slot is overwritten only when the other one is valid and stable. It is kept in
//! one place, [`ChunkFile::put_header`]. Whoever calls it holds the chunk's turn.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use sarsen_protocol::crc::{combine, crc32};
use sarsen_protocol::id::{ChunkHandle, ClusterId, DirectoryId};
use sarsen_protocol::message::ChunkState;
use sarsen_protocol::size::BLOCK_LEN;

use super::crc_page::{self, CrcPageError};
use super::directory::io_error;
use super::error::{Operation, StoreError, is_short_of_means};
use super::header::{FoundHeader, Header, decode_page};
use super::layout::{
    CRC_PAGE_LEN, CRC_PAGE_POSITION, DATA_POSITION, HEADER_PAGE_LEN, chunk_path, id_table_position,
    slot_position,
};
use super::region::{Medium, Region, Tree};
use super::upkeep::ReadFrom;

/// Blocks that reading back takes in one read: 1 MiB.
const BLOCKS_PER_READ: u32 = 16;

/// Reads until the buffer is full or the file ends; how much was read, or nothing if the medium doesn't
/// give it.
type ReadGiven<'a> = dyn FnMut(&mut [u8], u64) -> io::Result<Option<usize>> + 'a;

/// What a read back takes a read for: one that failed for want of memory is none.
pub(super) fn given(read: io::Result<usize>) -> io::Result<Option<usize>> {
    match read {
        Err(error) if is_short_of_means(&error) => Err(error),
        read => Ok(read.ok()),
    }
}

/// Whose a chunk file has to be to belong to a directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    pub(super) cluster_id: ClusterId,
    pub(super) directory_id: DirectoryId,
}

/// An open chunk file, with the header that counts.
#[derive(Debug)]
pub(super) struct ChunkFile {
    pub(super) region: Arc<dyn Region>,
    pub(super) path: PathBuf,
    pub(super) header: Header,
    /// The other slot was damaged when the file was opened.
    pub(super) doubtful: bool,
    /// The slot that counts is on stable storage.
    pub(super) header_stable: bool,
}

/// What reading a chunk back showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadBack {
    /// Bytes of data that there ought to be.
    pub length: u32,
    /// CRC of the data that was read; of no meaning if some of it could not be read.
    pub crc32: u32,
    /// Blocks that don't match their CRC, or that the medium didn't give.
    pub bad_blocks: Vec<u32>,
    /// What is wrong with the CRC page, if it doesn't match the header. No blocks are looked at
    /// then: there is nothing to compare them with.
    pub crc_page_error: Option<CrcPageError>,
    /// The id table does not match its CRC, or the medium didn't give it.
    pub is_id_table_bad: bool,
    /// The medium has no header, or that of another state than the one that counts.
    pub is_header_lost: bool,
}

impl ReadBack {
    /// Whether everything matched.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let is_data_good = self.bad_blocks.is_empty() && self.crc_page_error.is_none();
        is_data_good && !self.is_id_table_bad && !self.is_header_lost
    }
}

impl ChunkFile {
    /// Opens a chunk's file and reads its header page.
    ///
    /// # Errors
    /// No such file, no header that counts, another chunk's or another directory's file.
    pub(super) fn open(
        tree: &dyn Tree,
        handle: ChunkHandle,
        owner: Owner,
        header_stable: bool,
    ) -> Result<Self, StoreError> {
        let region = tree
            .open(&chunk_path(handle))
            .map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => StoreError::NotFound { handle },
                _ => io_error(tree, Operation::Open, &chunk_path(handle), source),
            })?;
        Self::read(region, tree, handle, owner, header_stable)
    }

    /// Reads the header page of a chunk's file that is open already.
    ///
    /// # Errors
    /// As [`Self::open`], but for a missing file.
    pub(super) fn read(
        region: Arc<dyn Region>,
        tree: &dyn Tree,
        handle: ChunkHandle,
        owner: Owner,
        header_stable: bool,
    ) -> Result<Self, StoreError> {
        let path = tree.root().join(chunk_path(handle));
        let mut page = [0; HEADER_PAGE_LEN];
        region
            .read_at(&mut page, 0)
            .map_err(|source| StoreError::io(Operation::Read, path.clone(), source))?;
        // A file that ends early reads as blank from there on, which is what it is.
        let FoundHeader { header, doubtful } =
            decode_page(&page).map_err(|error| StoreError::HeaderDamaged { handle, error })?;
        if header.handle != handle
            || header.cluster_id != owner.cluster_id
            || header.directory_id != owner.directory_id
        {
            return Err(StoreError::OtherFile { handle });
        }
        Ok(Self {
            region,
            path,
            header,
            doubtful,
            header_stable,
        })
    }

    /// Writes the next generation of the header; it is stable only after [`Self::sync`].
    ///
    /// # Errors
    /// Those of the medium; `self` then still has the header from before.
    pub(super) fn put_header(
        &mut self,
        change: impl FnOnce(&mut Header),
    ) -> Result<(), StoreError> {
        // The slot to be overwritten holds the generation before this one, if there was one.
        if self.header.generation > 1 && !self.header_stable {
            self.sync()?;
        }
        let mut next = self.header.clone();
        change(&mut next);
        next.generation = next.generation.saturating_add(1);
        self.write_slot(&next)?;
        self.header = next;
        self.header_stable = false;
        Ok(())
    }

    /// Writes a header to its slot, unless it is one that could not be read again.
    ///
    /// # Errors
    /// [`StoreError::HeaderInvalid`], those of the medium.
    pub(super) fn write_slot(&self, header: &Header) -> Result<(), StoreError> {
        let slot = header.encode();
        let handle = header.handle;
        Header::decode(&slot).map_err(|error| StoreError::HeaderInvalid { handle, error })?;
        self.region
            .write_at(&slot, slot_position(header.generation))
            .map_err(|source| self.error(Operation::Write, source))
    }

    /// Makes the file's content stable, its header included.
    ///
    /// # Errors
    /// Those of the medium. The caller must not call again as if nothing had happened.
    pub(super) fn sync(&mut self) -> Result<(), StoreError> {
        self.region
            .sync()
            .map_err(|source| self.error(Operation::Sync, source))?;
        self.header_stable = true;
        Ok(())
    }

    /// Whether a sealed chunk's file ends before its data.
    ///
    /// # Errors
    /// Those of the medium.
    pub(super) fn is_too_short(&self) -> Result<bool, StoreError> {
        let len = self.region.file_len();
        let len = len.map_err(|source| self.error(Operation::Read, source))?;
        let is_sealed = self.header.state == ChunkState::Sealed;
        Ok(is_sealed && len < DATA_POSITION + u64::from(self.header.length))
    }

    /// Reads the CRCs of the blocks, and checks that the file is as long as its header says.
    ///
    /// # Errors
    /// Those of the medium, or what is wrong with page or file.
    pub(super) fn read_crcs(&self) -> Result<Box<[u32]>, StoreError> {
        let handle = self.header.handle;
        let len = self
            .region
            .file_len()
            .map_err(|source| self.error(Operation::Read, source))?;
        if len < DATA_POSITION + u64::from(self.header.length) {
            return Err(StoreError::FileTooShort { handle });
        }
        let mut page = [0; CRC_PAGE_LEN];
        self.region
            .read_at(&mut page, CRC_PAGE_POSITION)
            .map_err(|source| self.error(Operation::Read, source))?;
        self.decode_crcs(&page)
            .map_err(|error| StoreError::CrcPageDamaged { handle, error })
    }

    fn decode_crcs(&self, page: &[u8]) -> Result<Box<[u32]>, CrcPageError> {
        let Header {
            length,
            data_crc32,
            crc_page_crc32,
            ..
        } = self.header;
        crc_page::decode(page, length, data_crc32, crc_page_crc32)
    }

    /// Reads all data and compares each block. What the medium doesn't give is bad, not an error.
    ///
    /// # Errors
    /// Those of opening the file past the cache; want of memory, which says nothing of the medium.
    pub(super) fn read_back(&self, from: ReadFrom) -> Result<ReadBack, StoreError> {
        match from {
            ReadFrom::Cache => {
                self.compare(&mut |buf, position| given(self.region.read_at(buf, position)))
            }
            ReadFrom::Medium => {
                let opened = self.region.medium();
                let mut medium = opened.map_err(|source| self.error(Operation::Open, source))?;
                let is_header_on = self.is_header_on(&mut *medium);
                let is_header_on =
                    is_header_on.map_err(|source| self.error(Operation::Read, source))?;
                Ok(ReadBack {
                    is_header_lost: !is_header_on,
                    ..self.compare(&mut |buf, position| given(medium.read_at(buf, position)))?
                })
            }
        }
    }

    /// Whether the medium's header says of the data what the one that counts does. Its marks, and
    /// the time when it was verified, others may change meanwhile.
    fn is_header_on(&self, medium: &mut dyn Medium) -> io::Result<bool> {
        let mut page = [0; HEADER_PAGE_LEN];
        let read = given(medium.read_at(&mut page, 0))?;
        Ok(read.is_some()
            && decode_page(&page).is_ok_and(|found| {
                found.header
                    == Header {
                        generation: found.header.generation,
                        flags: found.header.flags,
                        last_verified: found.header.last_verified,
                        ..self.header.clone()
                    }
            }))
    }

    fn compare(&self, read_at: &mut ReadGiven<'_>) -> Result<ReadBack, StoreError> {
        let compared = self.compare_all(read_at);
        compared.map_err(|source| self.error(Operation::Read, source))
    }

    fn compare_all(&self, read_at: &mut ReadGiven<'_>) -> io::Result<ReadBack> {
        let mut found = ReadBack {
            length: self.header.length,
            crc32: 0,
            bad_blocks: Vec::new(),
            crc_page_error: None,
            is_id_table_bad: false,
            is_header_lost: false,
        };
        let mut page = [0; CRC_PAGE_LEN];
        let read = read_at(&mut page, CRC_PAGE_POSITION)?.unwrap_or(0);
        let crcs = match self.decode_crcs(page.split_at(read).0) {
            Ok(crcs) => crcs,
            Err(error) => {
                return Ok(ReadBack {
                    crc_page_error: Some(error),
                    ..found
                });
            }
        };
        let mut buf = vec![0; (BLOCKS_PER_READ * BLOCK_LEN) as usize];
        let mut left = self.header.length as usize;
        let mut block: u32 = 0;
        for expected in crcs.chunks(BLOCKS_PER_READ as usize) {
            let wanted = left.min(buf.len());
            left -= wanted;
            let bytes = buf.split_at_mut(wanted).0;
            Self::compare_blocks(read_at, bytes, block, expected, &mut found)?;
            block += BLOCKS_PER_READ;
        }
        found.is_id_table_bad = !self.is_id_table_whole(read_at, &mut buf)?;
        Ok(found)
    }

    /// Reads the id table, as much at a time as `buf` takes, and compares it with its CRC.
    fn is_id_table_whole(&self, read_at: &mut ReadGiven<'_>, buf: &mut [u8]) -> io::Result<bool> {
        let mut position = id_table_position(self.header.chunk_size);
        let mut left = self.header.id_table_length as usize;
        let mut computed = 0;
        while left > 0 {
            let bytes = buf.split_at_mut(left.min(buf.len())).0;
            if read_at(bytes, position)? != Some(bytes.len()) {
                return Ok(false);
            }
            let len = bytes.len() as u64;
            computed = combine(computed, crc32(bytes), len);
            position += len;
            left -= bytes.len();
        }
        Ok(computed == self.header.id_table_crc32)
    }

    /// Reads `buf.len()` bytes from `first_block` on and compares them with their blocks' CRCs.
    fn compare_blocks(
        read_at: &mut ReadGiven<'_>,
        buf: &mut [u8],
        first_block: u32,
        expected: &[u32],
        found: &mut ReadBack,
    ) -> io::Result<()> {
        let position = DATA_POSITION + u64::from(first_block) * u64::from(BLOCK_LEN);
        let read = match read_at(buf, position)? {
            Some(read) => read,
            // One bad sector fails the whole read: take the blocks one by one to name it.
            None if expected.len() > 1 => {
                let blocks = buf.chunks_mut(BLOCK_LEN as usize).zip(expected);
                for (block, (bytes, crc)) in (first_block..).zip(blocks) {
                    let crc = std::slice::from_ref(crc);
                    Self::compare_blocks(read_at, bytes, block, crc, found)?;
                }
                return Ok(());
            }
            None => 0,
        };
        let mut rest = read;
        let blocks = buf.chunks(BLOCK_LEN as usize).zip(expected);
        for (block, (bytes, &crc)) in (first_block..).zip(blocks) {
            let is_there = bytes.len() <= rest;
            rest = rest.saturating_sub(bytes.len());
            let computed = crc32(bytes);
            found.crc32 = combine(found.crc32, computed, bytes.len() as u64);
            if !is_there || computed != crc {
                found.bad_blocks.push(block);
            }
        }
        Ok(())
    }

    /// An error of the medium on this file.
    pub(super) fn error(&self, operation: Operation, source: io::Error) -> StoreError {
        StoreError::io(operation, self.path.clone(), source)
    }
}
