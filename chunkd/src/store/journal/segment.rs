//! A segment's name and header, and how it is made (`spec/journal.md` sections 1 and 5.1).

use std::io;
use std::sync::Arc;

use sarsen_protocol::id::{ClusterId, DirectoryId, StartNonce, StartNumber};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::super::directory::io_error;
use super::super::error::{Operation, StoreError};
use super::super::region::{Region, Tree};
use super::entry::own_crc;
use super::error::FormatError;

/// The folder of the segments.
pub const JOURNAL_FOLDER: &str = "journal";

/// The room that is set apart for the next segment.
pub const NEXT_SEGMENT_FILE: &str = "journal/next.tmp";

/// Bytes of a segment's header.
pub const SEGMENT_HEADER_LEN: usize = 128;

/// Where a segment's entries begin.
pub const SEGMENT_START: u64 = 4096;

/// The last bytes of a segment, in which no entry lies: a mark's.
pub(super) const SEGMENT_END_PAGE: u64 = 4096;

const SUFFIX: &str = ".journal";
const MAGIC: [u8; 4] = *b"SJSG";
const FORMAT_VERSION: u16 = 1;

/// Who writes: all entries of a segment are one start's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Author {
    /// The cluster that the directory belongs to.
    pub cluster_id: ClusterId,
    /// The directory.
    pub directory_id: DirectoryId,
    /// Number of the start.
    pub start_number: StartNumber,
    /// The nonce that was drawn at it. Nobody outside learns it, so what a client writes is never
    /// taken for a header.
    pub start_nonce: StartNonce,
}

impl Author {
    /// Whether none of its ids is missing.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.cluster_id.is_some()
            && self.directory_id.is_some()
            && self.start_number.is_some()
            && self.start_nonce.is_some()
    }
}

/// The last entry before a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Its sequence; 0 before the first entry.
    pub sequence: u64,
    /// The CRC in its header.
    pub crc: u32,
}

/// A segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The entry before its first one.
    pub before: Position,
    /// Who made it.
    pub author: Author,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    header_crc: U32,
    magic: [u8; 4],
    version: U16,
    reserved_a: [u8; 2],
    before_crc: U32,
    first_sequence: U64,
    cluster_id: [u8; 16],
    directory_id: [u8; 16],
    start_number: U64,
    start_nonce: U64,
    reserved_b: [u8; 56],
}

const _: () = assert!(size_of::<RawHeader>() == SEGMENT_HEADER_LEN);

impl SegmentHeader {
    /// The sequence of its first entry.
    #[must_use]
    pub const fn first_sequence(&self) -> u64 {
        self.before.sequence + 1
    }

    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut raw = RawHeader {
            header_crc: U32::ZERO,
            magic: MAGIC,
            version: U16::new(FORMAT_VERSION),
            reserved_a: [0; 2],
            before_crc: U32::new(self.before.crc),
            first_sequence: U64::new(self.first_sequence()),
            cluster_id: self.author.cluster_id.0,
            directory_id: self.author.directory_id.0,
            start_number: U64::new(self.author.start_number.0),
            start_nonce: U64::new(self.author.start_nonce.0),
            reserved_b: [0; 56],
        };
        raw.header_crc = U32::new(own_crc(raw.as_bytes()));
        zerocopy::transmute!(raw)
    }

    /// Reads a header off the front of a segment.
    ///
    /// # Errors
    /// The first check of the page that fails.
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
        if raw.reserved_a != [0; 2] || raw.reserved_b != [0; 56] {
            return Err(FormatError::ReservedNotZero);
        }
        let (first_sequence, crc) = (raw.first_sequence.get(), raw.before_crc.get());
        let before = match first_sequence.checked_sub(1) {
            Some(0) if crc != 0 => return Err(FormatError::SequenceWrong),
            Some(sequence) => Position { sequence, crc },
            None => return Err(FormatError::SequenceWrong),
        };
        let author = Author {
            cluster_id: ClusterId(raw.cluster_id),
            directory_id: DirectoryId(raw.directory_id),
            start_number: StartNumber(raw.start_number.get()),
            start_nonce: StartNonce(raw.start_nonce.get()),
        };
        match author.is_whole() {
            true => Ok(Self { before, author }),
            false => Err(FormatError::IdMissing),
        }
    }
}

/// Path, below the directory, of the segment that begins with an entry.
#[must_use]
pub fn segment_path(first_sequence: u64) -> String {
    format!("{JOURNAL_FOLDER}/{first_sequence:016x}{SUFFIX}")
}

/// The first sequence that a segment's name says; `None` if it is no such name.
#[must_use]
pub fn first_sequence_of(file_name: &str) -> Option<u64> {
    let digits = file_name.strip_suffix(SUFFIX)?;
    let first = u64::from_str_radix(digits, 16).ok()?;
    // Other spellings of the number are other names.
    (format!("{first:016x}") == digits).then_some(first)
}

/// The first sequences of all segments, rising; none if there is no journal.
pub(super) fn list_segments(tree: &dyn Tree) -> Result<Vec<u64>, StoreError> {
    let names = match tree.list(JOURNAL_FOLDER) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => {
            listed.map_err(|source| io_error(tree, Operation::Open, JOURNAL_FOLDER, source))?
        }
    };
    let mut found: Vec<u64> = names
        .iter()
        .filter_map(|name| first_sequence_of(name))
        .collect();
    found.sort_unstable();
    Ok(found)
}

/// The room that an earlier start has set apart and not used, if it is all there: on a disk that is full
/// it is all the room that there is. It never was a segment, so nothing in it counts.
pub(super) fn take_over_next(
    tree: &dyn Tree,
    len: u64,
) -> Result<Option<Arc<dyn Region>>, StoreError> {
    let error = |source| io_error(tree, Operation::Open, NEXT_SEGMENT_FILE, source);
    let region = match tree.open(NEXT_SEGMENT_FILE) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(error)?,
    };
    // Its length is what was found so far, and what was found in part is shorter. It is not asked for once
    // more: a file system may want room for what has it.
    let is_whole = region.file_len().map_err(error)? >= len;
    Ok(is_whole.then_some(region))
}

/// Sets the room of the next segment apart, as an empty file. What a crash left there goes.
pub(super) fn reserve_next(tree: &dyn Tree, len: u64) -> Result<Arc<dyn Region>, StoreError> {
    let error = |operation| move |source| io_error(tree, operation, NEXT_SEGMENT_FILE, source);
    // A reservation that fails has taken all the room that there was until it is undone, from others too.
    if tree.space().is_ok_and(|space| space.free < len) {
        return Err(error(Operation::Reserve)(io::ErrorKind::StorageFull.into()));
    }
    match tree.remove(NEXT_SEGMENT_FILE) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(error(Operation::Remove)(source));
        }
        _ => {}
    }
    let region = tree
        .create(NEXT_SEGMENT_FILE)
        .map_err(error(Operation::Create))?;
    if let Err(source) = region.reserve(0, len) {
        // A part of the room may have been found, which is of no use here.
        let _ = tree.remove(NEXT_SEGMENT_FILE);
        return Err(error(Operation::Reserve)(source));
    }
    Ok(region)
}

/// Makes the reserved room the segment behind `header.before`, durably. Every entry up to there
/// must be stable.
pub(super) fn make_segment(
    tree: &dyn Tree,
    next: &dyn Region,
    header: &SegmentHeader,
) -> Result<(), StoreError> {
    let path = segment_path(header.first_sequence());
    let error = |operation| move |source| io_error(tree, operation, NEXT_SEGMENT_FILE, source);
    next.write_at(&header.encode(), 0)
        .map_err(error(Operation::Write))?;
    next.sync().map_err(error(Operation::Sync))?;
    tree.rename(NEXT_SEGMENT_FILE, &path)
        .map_err(error(Operation::Rename))?;
    tree.sync_folder(JOURNAL_FOLDER)
        .map_err(|source| io_error(tree, Operation::Sync, JOURNAL_FOLDER, source))
}
