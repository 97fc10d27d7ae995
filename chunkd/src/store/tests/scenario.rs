//! What the tests of the store and of those who use it share: starts, chunks with content, short ways
//! to write and check them.

use std::sync::Arc;

use sarsen_protocol::crc::crc32;
use sarsen_protocol::id::{
    ChunkHandle, ChunkVersion, ClusterId, DirectoryId, FileId, Serial, ServerId, StartNonce,
};
use sarsen_protocol::message::Level;
use sarsen_protocol::size::{BLOCK_LEN, piece_lens};

use super::super::region::Tree;
use super::super::{
    Adoption, ChunkCopy, Directory, NewChunk, NewCopy, PendingChunk, SealClaim, SealOutcome, Start,
    StoreError,
};

pub(super) const CHUNK_SIZE: u32 = 1024 * 1024;

pub(crate) const ADOPTION: Adoption = Adoption {
    cluster_id: ClusterId([7; 16]),
    server_id: ServerId(3),
    chunk_size: CHUNK_SIZE,
};

pub(crate) const START: Start = Start {
    nonce: StartNonce(0x1234),
    new_directory_id: DirectoryId([9; 16]),
    scan_threads: 2,
    open_chunks_max: 4,
};

/// Opens the tree's directory and gives it to the test cluster.
pub(super) fn open(tree: &Arc<dyn Tree>) -> Result<Directory, StoreError> {
    let directory = Directory::open_tree(Arc::clone(tree), &START)?;
    directory.adopt(ADOPTION)?;
    Ok(directory)
}

/// A chunk's name and content, all made from one number.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) handle: ChunkHandle,
    pub(crate) version: ChunkVersion,
    pub(super) bytes: Vec<u8>,
}

impl Sample {
    pub(crate) fn new(number: u64, len: u32) -> Self {
        let bytes = (0..u64::from(len))
            .map(|n| (n * 31 + n / 251 + number).to_le_bytes()[0])
            .collect();
        Self {
            handle: ChunkHandle(number),
            version: ChunkVersion(number * 10 + 1),
            bytes,
        }
    }

    pub(super) fn length(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap()
    }

    pub(super) fn new_chunk(&self) -> NewChunk {
        NewChunk {
            handle: self.handle,
            version: self.version,
            file_id: FileId(5),
            index: 2,
            room: self.length(),
        }
    }

    pub(super) fn claim(&self, level: Level) -> SealClaim {
        SealClaim {
            length: self.length(),
            crc32: crc32(&self.bytes),
            serial: Serial(self.bytes.len() as u64),
            level,
        }
    }

    /// Makes the chunk and writes its content in ranges of `step` bytes.
    pub(super) fn write(
        &self,
        directory: &Directory,
        step: u32,
    ) -> Result<Arc<PendingChunk>, StoreError> {
        let pending = directory.create_pending(&self.new_chunk())?;
        let mut offset = 0;
        for range in self.bytes.chunks(step as usize) {
            put(&pending, offset, range)?;
            offset += u32::try_from(range.len()).unwrap();
        }
        Ok(pending)
    }

    pub(super) fn seal(
        &self,
        directory: &Directory,
        level: Level,
    ) -> Result<SealOutcome, StoreError> {
        directory.seal(self.handle, self.version, &self.claim(level))
    }

    /// Writes and seals.
    pub(crate) fn store(
        &self,
        directory: &Directory,
        level: Level,
    ) -> Result<SealOutcome, StoreError> {
        self.write(directory, 3 * BLOCK_LEN / 2)?;
        self.seal(directory, level)
    }

    pub(super) fn new_copy(&self) -> NewCopy {
        NewCopy {
            handle: self.handle,
            version: self.version,
            void_up_to: self.version,
            file_id: FileId(5),
            index: 2,
            length: self.length(),
            crc32: crc32(&self.bytes),
        }
    }

    /// Makes a copy of the chunk, or confirms the one that is there.
    pub(crate) fn copy(&self, directory: &Directory) -> Result<(), StoreError> {
        let new = self.new_copy();
        match directory.begin_copy(&new)? {
            None => match directory.confirm_held(&new, 7_000)? {
                true => Ok(()),
                false => self.copy(directory),
            },
            Some(copy) => {
                self.fill(&copy)?;
                let serial = self.claim(Level::Disk).serial;
                let outcome = directory.finish_copy(copy, serial, 7_000)?;
                assert_eq!(outcome.level, Level::Disk);
                Ok(())
            }
        }
    }

    /// Writes all bytes into a copy.
    pub(super) fn fill(&self, copy: &ChunkCopy) -> Result<(), StoreError> {
        let mut offset = 0;
        for range in self.bytes.chunks(BLOCK_LEN as usize) {
            put(copy.pending(), offset, range)?;
            offset += u32::try_from(range.len()).unwrap();
        }
        Ok(())
    }

    /// The chunk's data as a reader gets it.
    pub(super) fn read(&self, directory: &Directory) -> Result<Vec<u8>, StoreError> {
        let opened = directory.open_for_read(self.handle)?;
        let mut bytes = vec![0; opened.length as usize];
        let read = opened.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        Ok(bytes)
    }
}

/// Writes bytes and counts them.
pub(super) fn put(pending: &PendingChunk, offset: u32, bytes: &[u8]) -> Result<(), StoreError> {
    pending.write_at(offset, bytes)?;
    let crcs = piece_crcs(offset, bytes);
    pending.commit_pieces(offset, u32::try_from(bytes.len()).unwrap(), &crcs)
}

/// The CRCs of the pieces of `bytes` at `offset`.
pub(super) fn piece_crcs(offset: u32, bytes: &[u8]) -> Vec<u32> {
    let mut rest = bytes;
    piece_lens(offset, u32::try_from(bytes.len()).unwrap())
        .map(|len| {
            let (piece, after) = rest.split_at(len as usize);
            rest = after;
            crc32(piece)
        })
        .collect()
}
