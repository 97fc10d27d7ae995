//! The header of an entry, and a mark (`spec/journal.md` section 5.2). Bytes only; what a body
//! says is in [`super::body`].

use sarsen_protocol::crc::crc32;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, DirectoryId, StartNonce, StartNumber};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::body::{DROPPED, SETTLED};
use super::error::FormatError;
use super::segment::Author;

/// Bytes of an entry's header, and of a mark.
pub const HEADER_LEN: usize = 96;

/// The longest body that an entry may have.
pub const BODY_LEN_MAX: usize = 1024 * 1024 + 64 * 1024;

/// Entries begin at multiples of this.
pub(super) const ALIGNMENT: usize = 8;

const MAGIC: [u8; 4] = *b"SJNL";

/// The kind that makes a header a mark.
const KIND_MARK: u16 = 0;

/// What an entry is about, with its fields encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which kind (`spec/journal.md` section 6); not 0.
    pub kind: u16,
    /// The chunk; not 0.
    pub handle: ChunkHandle,
    /// The version that the entry is about, of a promise the one that the replica had; not 0.
    pub version: ChunkVersion,
    /// The fields, at most [`BODY_LEN_MAX`] bytes.
    pub body: Vec<u8>,
}

impl Entry {
    /// Whether the journal can hold the entry.
    ///
    /// # Errors
    /// [`FormatError::UnknownKind`], [`FormatError::IdMissing`], [`FormatError::BodyTooLong`].
    pub fn check(&self) -> Result<(), FormatError> {
        if self.kind == KIND_MARK {
            return Err(FormatError::UnknownKind);
        }
        if !self.handle.is_some() || !self.version.is_some() {
            return Err(FormatError::IdMissing);
        }
        match self.body.len() <= BODY_LEN_MAX {
            true => Ok(()),
            false => Err(FormatError::BodyTooLong),
        }
    }

    /// Whether it says that what the chunk was is over: that it was settled or dropped.
    pub const fn ends_a_chunk(&self) -> bool {
        matches!(self.kind, SETTLED | DROPPED)
    }

    /// Bytes that the entry takes in a segment, padding included.
    pub fn encoded_len(&self) -> usize {
        encoded_len(self.body.len())
    }
}

const fn encoded_len(body_len: usize) -> usize {
    (HEADER_LEN + body_len).next_multiple_of(ALIGNMENT)
}

/// Where an entry or mark stands in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Sequence of the entry, or of the entry that will come after the mark; not 0.
    pub sequence: u64,
    /// Every entry up to this one was stable before the header was written; lower than `sequence`.
    pub stable: u64,
    /// The CRC in the header of the entry before; 0 before entry 1.
    pub before_crc: u32,
}

/// A header that passed every check but those of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which entry; `None` for a mark.
    pub kind: Option<u16>,
    /// The chunk; 0 in a mark.
    pub handle: ChunkHandle,
    /// The version; 0 in a mark.
    pub version: ChunkVersion,
    /// Where it stands.
    pub link: Link,
    /// The directory that it was written into.
    pub directory_id: DirectoryId,
    /// The start that wrote it.
    pub start_number: StartNumber,
    /// That start's nonce.
    pub start_nonce: StartNonce,
    /// Bytes of the body.
    pub body_len: usize,
    /// The header's own CRC, which the next entry names.
    pub crc: u32,
    body_crc: u32,
}

impl Header {
    /// Whether that start wrote it into that directory.
    #[must_use]
    pub fn is_of(&self, author: &Author) -> bool {
        self.directory_id == author.directory_id
            && self.start_number == author.start_number
            && self.start_nonce == author.start_nonce
    }
}

/// An entry or mark as it was found in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// Its header.
    pub header: Header,
    /// Its body; empty for a mark.
    pub body: &'a [u8],
    /// Bytes up to the next entry.
    pub encoded_len: usize,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    header_crc: U32,
    magic: [u8; 4],
    kind: U16,
    reserved_a: [u8; 2],
    body_len: U32,
    body_crc: U32,
    before_crc: U32,
    sequence: U64,
    stable: U64,
    directory_id: [u8; 16],
    start_number: U64,
    handle: U64,
    version: U64,
    start_nonce: U64,
    reserved_b: [u8; 8],
}

const _: () = assert!(size_of::<RawHeader>() == HEADER_LEN);
const _: () = assert!(HEADER_LEN.is_multiple_of(ALIGNMENT));

/// Appends the entry to `out`, padded, and gives its header's CRC.
///
/// The entry must have passed [`Entry::check`], and `link.stable` be below its sequence.
pub fn encode_entry(out: &mut Vec<u8>, entry: &Entry, link: &Link, author: &Author) -> u32 {
    // One that is too long to be told does not decode again.
    let body_len = u32::try_from(entry.body.len()).unwrap_or(u32::MAX);
    let mut raw = raw_header(link, author);
    raw.kind = U16::new(entry.kind);
    raw.body_len = U32::new(body_len);
    raw.body_crc = U32::new(crc32(&entry.body));
    raw.handle = U64::new(entry.handle.0);
    raw.version = U64::new(entry.version.0);
    let crc = own_crc(raw.as_bytes());
    raw.header_crc = U32::new(crc);
    let start = out.len();
    out.extend_from_slice(raw.as_bytes());
    out.extend_from_slice(&entry.body);
    out.resize(start + entry.encoded_len(), 0);
    crc
}

/// A mark, which says that everything before `link` is stable: `link.stable` must be one below its
/// sequence.
#[must_use]
pub fn encode_mark(link: &Link, author: &Author) -> [u8; HEADER_LEN] {
    let mut raw = raw_header(link, author);
    raw.header_crc = U32::new(own_crc(raw.as_bytes()));
    zerocopy::transmute!(raw)
}

/// The header of a mark, without its CRC.
fn raw_header(link: &Link, author: &Author) -> RawHeader {
    RawHeader {
        header_crc: U32::ZERO,
        magic: MAGIC,
        kind: U16::new(KIND_MARK),
        reserved_a: [0; 2],
        body_len: U32::ZERO,
        body_crc: U32::ZERO,
        before_crc: U32::new(link.before_crc),
        sequence: U64::new(link.sequence),
        stable: U64::new(link.stable),
        directory_id: author.directory_id.0,
        start_number: U64::new(author.start_number.0),
        handle: U64::ZERO,
        version: U64::ZERO,
        start_nonce: U64::new(author.start_nonce.0),
        reserved_b: [0; 8],
    }
}

/// Reads the header of an entry or mark off the front of `bytes`; the body is not looked at.
///
/// # Errors
/// The first check of the page that fails.
pub fn decode_header(bytes: &[u8]) -> Result<Header, FormatError> {
    let (raw, _) = RawHeader::read_from_prefix(bytes).map_err(|_| FormatError::Truncated)?;
    if raw.magic != MAGIC {
        return Err(FormatError::MagicWrong);
    }
    let crc = raw.header_crc.get();
    if crc != own_crc(raw.as_bytes()) {
        return Err(FormatError::HeaderCrcWrong);
    }
    if raw.reserved_a != [0; 2] || raw.reserved_b != [0; 8] {
        return Err(FormatError::ReservedNotZero);
    }
    let header = Header {
        kind: Some(raw.kind.get()).filter(|&kind| kind != KIND_MARK),
        handle: ChunkHandle(raw.handle.get()),
        version: ChunkVersion(raw.version.get()),
        link: Link {
            sequence: raw.sequence.get(),
            stable: raw.stable.get(),
            before_crc: raw.before_crc.get(),
        },
        directory_id: DirectoryId(raw.directory_id),
        start_number: StartNumber(raw.start_number.get()),
        start_nonce: StartNonce(raw.start_nonce.get()),
        body_len: raw.body_len.get() as usize,
        crc,
        body_crc: raw.body_crc.get(),
    };
    check(&header).map(|()| header)
}

/// The checks of a header whose CRC is right.
fn check(header: &Header) -> Result<(), FormatError> {
    let Link {
        sequence, stable, ..
    } = header.link;
    if stable >= sequence {
        return Err(FormatError::SequenceWrong);
    }
    let is_about_a_chunk = header.handle.is_some() && header.version.is_some();
    if !header.directory_id.is_some()
        || !header.start_number.is_some()
        || !header.start_nonce.is_some()
        || header.kind.is_some() && !is_about_a_chunk
    {
        return Err(FormatError::IdMissing);
    }
    if header.body_len > BODY_LEN_MAX {
        return Err(FormatError::BodyTooLong);
    }
    let is_bare = header.body_len == 0
        && header.body_crc == 0
        && !header.handle.is_some()
        && !header.version.is_some()
        && stable == sequence - 1;
    match header.kind.is_some() || is_bare {
        true => Ok(()),
        false => Err(FormatError::MarkInvalid),
    }
}

/// Reads an entry or mark off the front of `bytes`.
///
/// # Errors
/// The first check of the page that fails.
pub fn decode_entry(bytes: &[u8]) -> Result<Decoded<'_>, FormatError> {
    let header = decode_header(bytes)?;
    let encoded_len = encoded_len(header.body_len);
    let rest = bytes
        .get(HEADER_LEN..encoded_len)
        .ok_or(FormatError::Truncated)?;
    let (body, padding) = rest
        .split_at_checked(header.body_len)
        .ok_or(FormatError::Truncated)?;
    if crc32(body) != header.body_crc {
        return Err(FormatError::BodyCrcWrong);
    }
    match padding.iter().all(|&byte| byte == 0) {
        true => Ok(Decoded {
            header,
            body,
            encoded_len,
        }),
        false => Err(FormatError::PaddingNotZero),
    }
}

/// CRC of a header's bytes behind the four that hold it.
pub(super) fn own_crc(header: &[u8]) -> u32 {
    crc32(header.get(size_of::<u32>()..).unwrap_or_default())
}
