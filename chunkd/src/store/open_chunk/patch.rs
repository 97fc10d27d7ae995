//! The header of a patch file, and where its slots lie (`spec/journal.md` section 3.1). Bytes only.

use sarsen_protocol::crc::crc32;
use sarsen_protocol::id::{
    ChunkHandle, ChunkVersion, ClusterId, DirectoryId, StartNonce, StartNumber,
};
use sarsen_protocol::size::BLOCK_LEN;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::super::journal::{Author, FormatError};

/// Bytes of the header.
pub const PATCH_HEADER_LEN: usize = 128;

/// Where slot 0 begins.
pub const SLOTS_POSITION: u64 = 4096;

const MAGIC: [u8; 4] = *b"SJPF";
const FORMAT_VERSION: u16 = 1;

/// Where in the file a slot begins.
#[must_use]
pub const fn slot_position(slot: u32) -> u64 {
    SLOTS_POSITION + slot as u64 * BLOCK_LEN as u64
}

/// Whose patch file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchHeader {
    /// The chunk.
    pub handle: ChunkHandle,
    /// The start that made it, in its directory.
    pub author: Author,
    /// The version whose mutation needed it first.
    pub made_in: ChunkVersion,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    header_crc: U32,
    magic: [u8; 4],
    version: U16,
    reserved_a: [u8; 6],
    handle: U64,
    cluster_id: [u8; 16],
    directory_id: [u8; 16],
    start_number: U64,
    start_nonce: U64,
    made_in: U64,
    reserved_b: [u8; 48],
}

const _: () = assert!(size_of::<RawHeader>() == PATCH_HEADER_LEN);

impl PatchHeader {
    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; PATCH_HEADER_LEN] {
        let mut raw = RawHeader {
            header_crc: U32::ZERO,
            magic: MAGIC,
            version: U16::new(FORMAT_VERSION),
            reserved_a: [0; 6],
            handle: U64::new(self.handle.0),
            cluster_id: self.author.cluster_id.0,
            directory_id: self.author.directory_id.0,
            start_number: U64::new(self.author.start_number.0),
            start_nonce: U64::new(self.author.start_nonce.0),
            made_in: U64::new(self.made_in.0),
            reserved_b: [0; 48],
        };
        raw.header_crc = U32::new(raw.computed_crc());
        zerocopy::transmute!(raw)
    }

    /// Reads a header off the front of a patch file.
    ///
    /// # Errors
    /// The first check of the page that fails.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let (raw, _) = RawHeader::read_from_prefix(bytes).map_err(|_| FormatError::Truncated)?;
        if raw.magic != MAGIC {
            return Err(FormatError::MagicWrong);
        }
        if raw.header_crc.get() != raw.computed_crc() {
            return Err(FormatError::HeaderCrcWrong);
        }
        if raw.version.get() != FORMAT_VERSION {
            return Err(FormatError::VersionUnknown);
        }
        if raw.reserved_a != [0; 6] || raw.reserved_b != [0; 48] {
            return Err(FormatError::ReservedNotZero);
        }
        let author = Author {
            cluster_id: ClusterId(raw.cluster_id),
            directory_id: DirectoryId(raw.directory_id),
            start_number: StartNumber(raw.start_number.get()),
            start_nonce: StartNonce(raw.start_nonce.get()),
        };
        let header = Self {
            handle: ChunkHandle(raw.handle.get()),
            author,
            made_in: ChunkVersion(raw.made_in.get()),
        };
        let is_whole = header.handle.is_some() && author.is_whole() && header.made_in.is_some();
        match is_whole {
            true => Ok(header),
            false => Err(FormatError::IdMissing),
        }
    }

    /// Whether it is this chunk's, in this directory.
    #[must_use]
    pub fn is_of(&self, handle: ChunkHandle, author: &Author) -> bool {
        self.handle == handle
            && self.author.cluster_id == author.cluster_id
            && self.author.directory_id == author.directory_id
    }
}

impl RawHeader {
    fn computed_crc(&self) -> u32 {
        let (_, covered) = self.as_bytes().split_at(size_of::<u32>());
        crc32(covered)
    }
}
