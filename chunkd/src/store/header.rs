//! The header of a chunk file: one slot's bytes, and which of two slots counts
//! (`spec/chunk-file.md` sections 4 and 5).
//!
//! Bytes in, values out, and back: no I/O here. A slot that decodes keeps every rule of the spec;
//! a slot that doesn't is told by the first check that failed, with the spec's name for it.

use sarsen_protocol::crc::crc32;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, ClusterId, DirectoryId, FileId, Serial};
use sarsen_protocol::message::ChunkState;
use sarsen_protocol::size::{CHUNK_LEN_MAX, CHUNK_LEN_MIN};
use thiserror::Error;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::layout::{HEADER_PAGE_LEN, ID_TABLE_LEN_MAX, SLOT_LEN, SLOT_STRIDE, slot_index};

const MAGIC: [u8; 8] = *b"SARSENCK";
const FORMAT_VERSION: u16 = 1;
const CRC_OFFSET: usize = SLOT_LEN - size_of::<u32>();

/// The marks that a header carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags {
    /// Sealed at `memory` and not yet synced as a whole.
    pub unsynced: bool,
    /// A sync of this file failed; nothing in it counts as stored.
    pub poisoned: bool,
    /// The data was read back and did not match.
    pub corrupt: bool,
}

impl Flags {
    /// The marks added up, as in the slot and in the inventory: 1 unsynced, 2 poisoned, 4 corrupt.
    #[must_use]
    pub fn bits(self) -> u8 {
        u8::from(self.unsynced) | u8::from(self.poisoned) << 1 | u8::from(self.corrupt) << 2
    }

    fn from_bits(bits: u32) -> Option<Self> {
        (bits <= 7).then_some(Self {
            unsynced: bits & 1 != 0,
            poisoned: bits & 2 != 0,
            corrupt: bits & 4 != 0,
        })
    }
}

/// What a header says. The fields are those of the spec's table, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Pending, open or sealed.
    pub state: ChunkState,
    /// The marks.
    pub flags: Flags,
    /// Counts the header's writes from 1.
    pub generation: u64,
    /// The cluster that the chunk belongs to.
    pub cluster_id: ClusterId,
    /// The directory that the file was made in.
    pub directory_id: DirectoryId,
    /// The chunk's name.
    pub handle: ChunkHandle,
    /// The version that this replica last took part in.
    pub version: ChunkVersion,
    /// Nothing older than this is obeyed.
    pub promised_version: ChunkVersion,
    /// Where [`Self::version`] began.
    pub begin_serial: Serial,
    /// Of the last mutation in the file.
    pub serial: Serial,
    /// The file that the chunk was made for.
    pub file_id: FileId,
    /// The chunk's place in that file.
    pub index: u32,
    /// Of the cluster, in bytes.
    pub chunk_size: u32,
    /// Bytes of data.
    pub length: u32,
    /// CRC of the data.
    pub data_crc32: u32,
    /// CRC of the CRC page.
    pub crc_page_crc32: u32,
    /// Bytes of the id table.
    pub id_table_length: u32,
    /// CRC of the id table.
    pub id_table_crc32: u32,
    /// The chunk that this one was cloned from.
    pub clone_handle: ChunkHandle,
    /// The version that it was cloned from.
    pub clone_version: ChunkVersion,
    /// When the data was last read back and matched, in ms since 1970; 0 for never.
    pub last_verified: u64,
}

/// Why 512 bytes are no header slot. The names are those of the spec and of the vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SlotError {
    /// Not [`SLOT_LEN`] bytes.
    #[error("wrong_length")]
    WrongLength,
    /// All zero: never written.
    #[error("blank")]
    Blank,
    /// Begins with something else.
    #[error("bad_magic")]
    BadMagic,
    /// The slot's CRC doesn't match.
    #[error("bad_crc")]
    BadCrc,
    /// Written by another version of the format.
    #[error("unknown_format_version")]
    UnknownFormatVersion,
    /// A state that this version doesn't know.
    #[error("unknown_state")]
    UnknownState,
    /// A mark that this version doesn't know.
    #[error("unknown_flag")]
    UnknownFlag,
    /// A reserved byte is not zero.
    #[error("reserved_not_zero")]
    ReservedNotZero,
    /// Generation, cluster, directory, handle or version is zero.
    #[error("id_missing")]
    IdMissing,
    /// The chunk size is not one that a cluster may have.
    #[error("chunk_size_invalid")]
    ChunkSizeInvalid,
    /// Longer than a chunk.
    #[error("length_out_of_bounds")]
    LengthOutOfBounds,
    /// Too long, or a CRC without a table.
    #[error("id_table_invalid")]
    IdTableInvalid,
    /// Promised less than it took part in.
    #[error("promise_below_version")]
    PromiseBelowVersion,
    /// The version ends before it began.
    #[error("serial_below_begin")]
    SerialBelowBegin,
    /// A clone's handle without its version, or the other way round.
    #[error("clone_incomplete")]
    CloneIncomplete,
    /// A pending chunk's header already describes content.
    #[error("pending_not_empty")]
    PendingNotEmpty,
    /// Unsynced, but not sealed.
    #[error("flag_unexpected")]
    FlagUnexpected,
    /// A whole slot in the other slot's place.
    #[error("slot_misplaced")]
    SlotMisplaced,
}

/// A slot's bytes. Every field is unaligned, so the offsets are the sums of what stands before.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawSlot {
    magic: [u8; 8],         // 0
    format_version: U16,    // 8
    state: U16,             // 10
    flags: U32,             // 12
    generation: U64,        // 16
    cluster_id: [u8; 16],   // 24
    directory_id: [u8; 16], // 40
    handle: U64,            // 56
    version: U64,           // 64
    promised_version: U64,  // 72
    begin_serial: U64,      // 80
    serial: U64,            // 88
    file_id: U64,           // 96
    index: U32,             // 104
    chunk_size: U32,        // 108
    length: U32,            // 112
    data_crc32: U32,        // 116
    crc_page_crc32: U32,    // 120
    id_table_length: U32,   // 124
    id_table_crc32: U32,    // 128
    reserved_a: [u8; 4],    // 132
    clone_handle: U64,      // 136
    clone_version: U64,     // 144
    last_verified: U64,     // 152
    reserved_b: [u8; 348],  // 160
    slot_crc32: U32,        // 508
}

const _: () = assert!(size_of::<RawSlot>() == SLOT_LEN);
const _: () = assert!(std::mem::offset_of!(RawSlot, index) == 104);
const _: () = assert!(std::mem::offset_of!(RawSlot, last_verified) == 152);
const _: () = assert!(std::mem::offset_of!(RawSlot, slot_crc32) == CRC_OFFSET);

impl Header {
    /// The bytes of the slot that this header is written to.
    #[must_use]
    pub fn encode(&self) -> [u8; SLOT_LEN] {
        let mut raw = RawSlot {
            magic: MAGIC,
            format_version: FORMAT_VERSION.into(),
            state: u16::from(self.state.number()).into(),
            flags: u32::from(self.flags.bits()).into(),
            generation: self.generation.into(),
            cluster_id: self.cluster_id.0,
            directory_id: self.directory_id.0,
            handle: self.handle.0.into(),
            version: self.version.0.into(),
            promised_version: self.promised_version.0.into(),
            begin_serial: self.begin_serial.0.into(),
            serial: self.serial.0.into(),
            file_id: self.file_id.0.into(),
            index: self.index.into(),
            chunk_size: self.chunk_size.into(),
            length: self.length.into(),
            data_crc32: self.data_crc32.into(),
            crc_page_crc32: self.crc_page_crc32.into(),
            id_table_length: self.id_table_length.into(),
            id_table_crc32: self.id_table_crc32.into(),
            reserved_a: [0; 4],
            clone_handle: self.clone_handle.0.into(),
            clone_version: self.clone_version.0.into(),
            last_verified: self.last_verified.into(),
            reserved_b: [0; 348],
            slot_crc32: 0.into(),
        };
        raw.slot_crc32 = raw.computed_crc().into();
        zerocopy::transmute!(raw)
    }

    /// Reads a slot, with the checks of the spec's section 4.2 in their order.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn decode(bytes: &[u8]) -> Result<Self, SlotError> {
        let raw = RawSlot::read_from_bytes(bytes).map_err(|_| SlotError::WrongLength)?;
        if bytes.iter().all(|&byte| byte == 0) {
            return Err(SlotError::Blank);
        }
        let header = raw.parse()?;
        header.check()?;
        Ok(header)
    }

    /// The checks on values, in the order of the spec.
    fn check(&self) -> Result<(), SlotError> {
        let ids = self.generation != 0
            && self.cluster_id.is_some()
            && self.directory_id.is_some()
            && self.handle.is_some()
            && self.version.is_some();
        let content = [
            self.length,
            self.data_crc32,
            self.crc_page_crc32,
            self.id_table_length,
            self.id_table_crc32,
        ];
        let checks = [
            (ids, SlotError::IdMissing),
            (
                chunk_size_is_valid(self.chunk_size),
                SlotError::ChunkSizeInvalid,
            ),
            (self.length <= self.chunk_size, SlotError::LengthOutOfBounds),
            (
                self.id_table_length <= ID_TABLE_LEN_MAX
                    && (self.id_table_length != 0 || self.id_table_crc32 == 0),
                SlotError::IdTableInvalid,
            ),
            (
                self.promised_version >= self.version,
                SlotError::PromiseBelowVersion,
            ),
            (
                self.serial >= self.begin_serial,
                SlotError::SerialBelowBegin,
            ),
            (
                self.clone_handle.is_some() == self.clone_version.is_some(),
                SlotError::CloneIncomplete,
            ),
            (
                self.state != ChunkState::Pending || content == [0; 5],
                SlotError::PendingNotEmpty,
            ),
            (
                self.state == ChunkState::Sealed || !self.flags.unsynced,
                SlotError::FlagUnexpected,
            ),
        ];
        checks
            .into_iter()
            .try_for_each(|(holds, error)| if holds { Ok(()) } else { Err(error) })
    }
}

impl RawSlot {
    fn computed_crc(&self) -> u32 {
        let (covered, _) = self.as_bytes().split_at(CRC_OFFSET);
        crc32(covered)
    }

    fn parse(&self) -> Result<Header, SlotError> {
        if self.magic != MAGIC {
            return Err(SlotError::BadMagic);
        }
        if self.slot_crc32.get() != self.computed_crc() {
            return Err(SlotError::BadCrc);
        }
        if self.format_version.get() != FORMAT_VERSION {
            return Err(SlotError::UnknownFormatVersion);
        }
        let state = u8::try_from(self.state.get())
            .ok()
            .and_then(ChunkState::from_number)
            .ok_or(SlotError::UnknownState)?;
        let flags = Flags::from_bits(self.flags.get()).ok_or(SlotError::UnknownFlag)?;
        if self.reserved_a != [0; 4] || self.reserved_b != [0; 348] {
            return Err(SlotError::ReservedNotZero);
        }
        Ok(Header {
            state,
            flags,
            generation: self.generation.get(),
            cluster_id: ClusterId(self.cluster_id),
            directory_id: DirectoryId(self.directory_id),
            handle: ChunkHandle(self.handle.get()),
            version: ChunkVersion(self.version.get()),
            promised_version: ChunkVersion(self.promised_version.get()),
            begin_serial: Serial(self.begin_serial.get()),
            serial: Serial(self.serial.get()),
            file_id: FileId(self.file_id.get()),
            index: self.index.get(),
            chunk_size: self.chunk_size.get(),
            length: self.length.get(),
            data_crc32: self.data_crc32.get(),
            crc_page_crc32: self.crc_page_crc32.get(),
            id_table_length: self.id_table_length.get(),
            id_table_crc32: self.id_table_crc32.get(),
            clone_handle: ChunkHandle(self.clone_handle.get()),
            clone_version: ChunkVersion(self.clone_version.get()),
            last_verified: self.last_verified.get(),
        })
    }
}

/// Whether a cluster may have this chunk size.
#[must_use]
pub(super) fn chunk_size_is_valid(chunk_size: u32) -> bool {
    (CHUNK_LEN_MIN..=CHUNK_LEN_MAX).contains(&chunk_size) && chunk_size.is_power_of_two()
}

/// The header that counts, of the two in a header page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundHeader {
    /// What it says.
    pub header: Header,
    /// The other slot is damaged: a sealed chunk, but it must be read back before it counts.
    pub doubtful: bool,
}

/// Why no header of a page counts. The names are those of the spec and of the vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Not [`HEADER_PAGE_LEN`] bytes.
    #[error("wrong_length")]
    WrongLength,
    /// Neither slot was ever written, or neither reached the disk.
    #[error("blank")]
    Blank,
    /// Neither slot is whole.
    #[error("no_valid_slot (slot 0: {first}, slot 1: {second})")]
    NoValidSlot {
        /// What is wrong with slot 0.
        first: SlotError,
        /// What is wrong with slot 1.
        second: SlotError,
    },
    /// The slots tell of different chunks.
    #[error("slots_disagree")]
    SlotsDisagree,
    /// The slot that is left is not of a sealed chunk, and the other might have been newer.
    #[error("newest_slot_lost (the other slot: {other})")]
    NewestSlotLost {
        /// What is wrong with the slot that doesn't decode.
        other: SlotError,
    },
}

impl HeaderError {
    /// The name in the spec and in the vectors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::WrongLength => "wrong_length",
            Self::Blank => "blank",
            Self::NoValidSlot { .. } => "no_valid_slot",
            Self::SlotsDisagree => "slots_disagree",
            Self::NewestSlotLost { .. } => "newest_slot_lost",
        }
    }
}

/// Reads a header page and says which slot counts (spec section 5).
///
/// # Errors
/// [`HeaderError`]: the file's state can't be told.
pub fn decode_page(page: &[u8]) -> Result<FoundHeader, HeaderError> {
    if page.len() != HEADER_PAGE_LEN {
        return Err(HeaderError::WrongLength);
    }
    match (decode_slot(page, 1), decode_slot(page, 2)) {
        (Ok(first), Ok(second)) => newer(first, second),
        (Ok(header), Err(other)) | (Err(other), Ok(header)) => only(header, other),
        (Err(SlotError::Blank), Err(SlotError::Blank)) => Err(HeaderError::Blank),
        (Err(first), Err(second)) => Err(HeaderError::NoValidSlot { first, second }),
    }
}

/// Decodes the slot in which the given generation would lie.
fn decode_slot(page: &[u8], generation: u64) -> Result<Header, SlotError> {
    let bytes = page
        .get(slot_index(generation) * SLOT_STRIDE..)
        .and_then(|from_slot| from_slot.get(..SLOT_LEN))
        .ok_or(SlotError::WrongLength)?;
    let header = Header::decode(bytes)?;
    match slot_index(header.generation) == slot_index(generation) {
        true => Ok(header),
        false => Err(SlotError::SlotMisplaced),
    }
}

fn newer(first: Header, second: Header) -> Result<FoundHeader, HeaderError> {
    let of_one_file = |header: &Header| {
        (
            header.cluster_id,
            header.directory_id,
            header.handle,
            header.chunk_size,
        )
    };
    if of_one_file(&first) != of_one_file(&second) {
        return Err(HeaderError::SlotsDisagree);
    }
    let header = if first.generation > second.generation {
        first
    } else {
        second
    };
    Ok(FoundHeader {
        header,
        doubtful: false,
    })
}

fn only(header: Header, other: SlotError) -> Result<FoundHeader, HeaderError> {
    let never_had_another = other == SlotError::Blank && header.generation <= 2;
    if never_had_another || header.state == ChunkState::Sealed {
        Ok(FoundHeader {
            header,
            doubtful: !never_had_another,
        })
    } else {
        Err(HeaderError::NewestSlotLost { other })
    }
}
