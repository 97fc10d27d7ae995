//! The header of a segment (`spec/oplog.md` section 5).

use sarsen_protocol::id::ClusterId;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::entry::{Chain, Position, own_crc};
use super::error::FormatError;

/// Version of the container's format, in the headers of segments and checkpoints.
pub const FORMAT_VERSION: u16 = 1;

/// Bytes of a segment's header.
pub const SEGMENT_HEADER_LEN: usize = 128;

/// Where the entries begin: the header has a page of its own that later writes don't touch.
pub const SEGMENT_START: usize = 4096;

const MAGIC: [u8; 4] = *b"SSEG";

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The entry before the segment's first.
    pub before: Position,
    /// The cluster.
    pub cluster: ClusterId,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    header_crc: U32,
    magic: [u8; 4],
    version: U16,
    flags: U16,
    reserved_a: [u8; 4],
    first_index: U64,
    last_term: U64,
    chain_before: [u8; 16],
    cluster: [u8; 16],
    reserved_b: [u8; 64],
}

const _: () = assert!(size_of::<RawHeader>() == SEGMENT_HEADER_LEN);

impl SegmentHeader {
    /// Index of the segment's first entry.
    #[must_use]
    pub const fn first_index(&self) -> u64 {
        self.before.index + 1
    }

    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut raw = RawHeader {
            header_crc: U32::ZERO,
            magic: MAGIC,
            version: U16::new(FORMAT_VERSION),
            flags: U16::ZERO,
            reserved_a: [0; 4],
            first_index: U64::new(self.first_index()),
            last_term: U64::new(self.before.term),
            chain_before: self.before.chain.0,
            cluster: self.cluster.0,
            reserved_b: [0; 64],
        };
        raw.header_crc = U32::new(own_crc(raw.as_bytes()));
        zerocopy::transmute!(raw)
    }

    /// Reads a header off the front of `bytes`.
    ///
    /// # Errors
    /// The first check of `spec/oplog.md` section 5 that fails.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let (raw, _) = RawHeader::read_from_prefix(bytes).map_err(|_| FormatError::Truncated)?;
        if raw.magic != MAGIC {
            return Err(FormatError::MagicWrong);
        }
        if raw.header_crc.get() != own_crc(raw.as_bytes()) {
            return Err(FormatError::HeaderCrcWrong);
        }
        if raw.version.get() != FORMAT_VERSION {
            return Err(FormatError::VersionUnknown);
        }
        if raw.flags.get() != 0 {
            return Err(FormatError::FlagsUnknown);
        }
        if raw.reserved_a != [0; 4] || raw.reserved_b != [0; 64] {
            return Err(FormatError::ReservedNotZero);
        }
        let index = raw
            .first_index
            .get()
            .checked_sub(1)
            .ok_or(FormatError::IndexWrong)?;
        let before = Position {
            index,
            term: raw.last_term.get(),
            chain: Chain(raw.chain_before),
        };
        Ok(Self {
            before,
            cluster: ClusterId(raw.cluster),
        })
    }
}
