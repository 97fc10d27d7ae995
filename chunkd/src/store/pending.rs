//! A chunk that is being uploaded (`spec/chunk-file.md` sections 10.1 and 12).
//!
//! The store keeps the books; the bytes are written by whoever has the descriptor:
//!
//! 1. [`PendingChunk::reserve`] the room, so that a full disk is an error here;
//! 2. write to [`PendingChunk::file`] at [`data_position`] (or [`PendingChunk::write_at`]);
//! 3. when that is done and the bytes' CRCs were compared, [`PendingChunk::commit_pieces`];
//! 4. after the last, [`super::Directory::seal`].
//!
//! Data comes in order, each range where the one before ended; steps 1 and 2 may run ahead of
//! step 3. Nothing that was committed is written again. What a crash leaves is garbage: length
//! and CRCs are only here, in memory, until the seal.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use sarsen_protocol::crc::{combine, combine_blocks};
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, FileId};
use sarsen_protocol::size::{BLOCK_LEN, piece_lens, pieces_in};

use super::chunk_file::ChunkFile;
use super::error::{Operation, StoreError};
use super::header::Header;
use super::layout::{DATA_POSITION, room_for};
use super::region::Region;
use super::table::lock;

/// Where in a chunk's file the byte at `offset` of its data lies.
#[must_use]
pub const fn data_position(offset: u32) -> u64 {
    DATA_POSITION + offset as u64
}

/// A chunk to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewChunk {
    /// Its name.
    pub handle: ChunkHandle,
    /// Its version.
    pub version: ChunkVersion,
    /// The file that it is made for.
    pub file_id: FileId,
    /// Its place in that file.
    pub index: u32,
    /// Bytes that are coming, if that is known; else 0. Only a hint: more may come.
    pub room: u32,
}

/// A chunk that is being uploaded.
#[derive(Debug)]
pub struct PendingChunk {
    region: Arc<dyn Region>,
    path: PathBuf,
    /// As it was written when the file was made.
    header: Header,
    /// Bytes that were announced.
    room: u32,
    progress: Mutex<Progress>,
}

#[derive(Debug)]
struct Progress {
    phase: Phase,
    /// Bytes of data that there is room for on disk.
    reserved: u32,
    /// Bytes written and verified.
    length: u32,
    /// CRCs of the blocks of these bytes.
    block_crcs: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Writing,
    Sealing,
    Closed,
}

impl PendingChunk {
    /// A chunk whose file was just made, with `reserved` bytes of room for data.
    pub(super) fn new(file: &ChunkFile, room: u32, reserved: u32) -> Self {
        Self {
            region: Arc::clone(&file.region),
            path: file.path.clone(),
            header: file.header.clone(),
            room,
            progress: Mutex::new(Progress {
                phase: Phase::Writing,
                reserved,
                length: 0,
                block_crcs: Vec::new(),
            }),
        }
    }

    /// The chunk's name.
    #[must_use]
    pub fn handle(&self) -> ChunkHandle {
        self.header.handle
    }

    /// The chunk's version.
    #[must_use]
    pub fn version(&self) -> ChunkVersion {
        self.header.version
    }

    /// Bytes committed so far.
    #[must_use]
    pub fn length(&self) -> u32 {
        lock(&self.progress).length
    }

    /// The descriptor to write data to; `None` if the store is not on real files (tests).
    #[must_use]
    pub fn file(&self) -> Option<&Arc<File>> {
        self.region.file()
    }

    /// Whether there is room for `len` bytes at `offset` already; never blocks on the disk.
    #[must_use]
    pub fn has_room(&self, offset: u32, len: u32) -> bool {
        u64::from(offset) + u64::from(len) <= u64::from(lock(&self.progress).reserved)
    }

    /// Makes room for `len` bytes at `offset`. Blocks for as long as `fallocate` takes.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], after which the chunk is as it was; [`StoreError::BeyondRoom`]
    /// if the range ends behind the chunk; [`StoreError::Closed`]; those of the medium.
    pub fn reserve(&self, offset: u32, len: u32) -> Result<(), StoreError> {
        let end = self.end_within(offset, len, self.header.chunk_size)?;
        let reserved = self.writing(|progress| Ok(progress.reserved))?;
        if end <= reserved {
            return Ok(());
        }
        let wanted = room_for(end, self.room, self.header.chunk_size);
        self.region
            .reserve(
                data_position(reserved),
                u64::from(wanted.saturating_sub(reserved)),
            )
            .map_err(|source| StoreError::io(Operation::Reserve, self.path.clone(), source))?;
        self.writing(|progress| {
            progress.reserved = progress.reserved.max(wanted);
            Ok(())
        })
    }

    /// Reserves room and writes, blocking; the bytes don't count before they are committed.
    ///
    /// # Errors
    /// Those of [`Self::reserve`]; [`StoreError::NotContiguous`] for bytes that were committed.
    pub fn write_at(&self, offset: u32, bytes: &[u8]) -> Result<(), StoreError> {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let length = self.length();
        if offset < length {
            return Err(StoreError::NotContiguous {
                handle: self.handle(),
                length,
                offset,
            });
        }
        self.reserve(offset, len)?;
        self.region
            .write_at(bytes, data_position(offset))
            .map_err(|source| StoreError::io(Operation::Write, self.path.clone(), source))
    }

    /// Counts `len` bytes at `offset`, which are written and match these CRCs, one a block that
    /// they touch.
    ///
    /// # Errors
    /// [`StoreError::NotContiguous`] if `offset` isn't where the committed bytes end,
    /// [`StoreError::PieceCount`], [`StoreError::BeyondRoom`] if there is no room reserved for
    /// them, [`StoreError::Closed`]. Nothing is counted then.
    pub fn commit_pieces(&self, offset: u32, len: u32, crcs: &[u32]) -> Result<(), StoreError> {
        let handle = self.handle();
        let needed = pieces_in(offset, len) as usize;
        if crcs.len() != needed {
            return Err(StoreError::PieceCount {
                given: crcs.len(),
                needed,
            });
        }
        self.writing(|progress| {
            let Progress {
                length, reserved, ..
            } = *progress;
            if offset != length {
                return Err(StoreError::NotContiguous {
                    handle,
                    length,
                    offset,
                });
            }
            let end = self.end_within(offset, len, reserved)?;
            for (piece_len, &crc) in piece_lens(offset, len).zip(crcs) {
                progress.add_piece(piece_len, crc);
            }
            debug_assert_eq!(progress.length, end);
            Ok(())
        })
    }

    /// Takes nothing more.
    pub(super) fn close(&self) {
        lock(&self.progress).phase = Phase::Closed;
    }

    /// Stops the writing for a seal; the blocks' CRCs, if length and CRC are those claimed.
    ///
    /// # Errors
    /// [`StoreError::SealMismatch`], and the chunk can still be written to; [`StoreError::Closed`].
    pub(super) fn begin_seal(&self, length: u32, crc32: u32) -> Result<Vec<u32>, StoreError> {
        self.writing(|progress| {
            let held_crc = combine_blocks(&progress.block_crcs, progress.length).unwrap_or(0);
            if (length, crc32) != (progress.length, held_crc) {
                return Err(StoreError::SealMismatch {
                    handle: self.handle(),
                    length: progress.length,
                    crc32: held_crc,
                    claimed_length: length,
                    claimed_crc32: crc32,
                });
            }
            progress.phase = Phase::Sealing;
            Ok(progress.block_crcs.clone())
        })
    }

    /// A seal that failed before it changed anything leaves the chunk as it was.
    pub(super) fn resume(&self) {
        let mut progress = lock(&self.progress);
        if progress.phase == Phase::Sealing {
            progress.phase = Phase::Writing;
        }
    }

    /// The file with its header, for the seal.
    pub(super) fn chunk_file(&self) -> ChunkFile {
        ChunkFile {
            region: Arc::clone(&self.region),
            path: self.path.clone(),
            header: self.header.clone(),
            doubtful: false,
            header_stable: false,
        }
    }

    fn writing<T>(
        &self,
        act: impl FnOnce(&mut Progress) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut progress = lock(&self.progress);
        match progress.phase {
            Phase::Writing => act(&mut progress),
            Phase::Sealing | Phase::Closed => Err(StoreError::Closed {
                handle: self.handle(),
            }),
        }
    }

    fn end_within(&self, offset: u32, len: u32, room: u32) -> Result<u32, StoreError> {
        let end = u64::from(offset) + u64::from(len);
        match u32::try_from(end) {
            Ok(end) if end <= room => Ok(end),
            _ => Err(StoreError::BeyondRoom {
                handle: self.handle(),
                room,
                end,
            }),
        }
    }
}

impl Progress {
    /// Adds a piece that lies in one block: a new one, or the one that has begun.
    fn add_piece(&mut self, len: u32, crc: u32) {
        match self.block_crcs.last_mut() {
            Some(last) if !self.length.is_multiple_of(BLOCK_LEN) => {
                *last = combine(*last, crc, u64::from(len));
            }
            _ => self.block_crcs.push(crc),
        }
        self.length += len;
    }
}
