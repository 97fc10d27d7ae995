//! One entry of the log, a mark, and the chain that ties entries together
//! (`spec/oplog.md` sections 3 and 4).
//!
//! Bytes only: where entries stand and when they are synced is the business of [`append`] and
//! [`recover`].
//!
//! [`append`]: super::append
//! [`recover`]: super::recover

use sarsen_protocol::crc::crc32;
use sarsen_protocol::id::{ClusterId, RequestId, SessionId};
use sha2::{Digest, Sha256};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::error::FormatError;

/// Bytes of an entry's header, and of a mark.
pub const HEADER_LEN: usize = 128;

/// The longest body that an entry may have.
pub const BODY_LEN_MAX: usize = 16 * 1024 * 1024;

/// Entries begin at multiples of this.
pub(super) const ALIGNMENT: usize = 8;

const MAGIC: [u8; 4] = *b"SENT";

/// A mark begins at a multiple of so many bytes of its segment.
pub const MARK_ALIGNMENT: u64 = 4096;

/// The kind that makes a header a mark.
const KIND_MARK: u16 = 0;

/// Names the history of the log up to and with one entry.
///
/// Before entry 1 it is the cluster id, so histories of two clusters never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Chain(pub [u8; 16]);

impl Chain {
    /// The chain value before entry 1.
    #[must_use]
    pub const fn genesis(cluster: ClusterId) -> Self {
        Self(cluster.0)
    }

    /// The chain value of the entry with this header and body.
    fn of(header: &RawHeader, body: &[u8]) -> Self {
        let digest = Sha256::new()
            .chain_update(header.as_bytes())
            .chain_update(body)
            .finalize();
        let mut value = [0; 16];
        value
            .iter_mut()
            .zip(digest)
            .for_each(|(to, from)| *to = from);
        Self(value)
    }
}

/// A place in the log's history: an entry, and with it everything before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The entry's index; 0 before the first.
    pub index: u64,
    /// The entry's term; 0 before the first.
    pub term: u64,
    /// The entry's chain value.
    pub chain: Chain,
}

impl Position {
    /// Before entry 1.
    #[must_use]
    pub const fn genesis(cluster: ClusterId) -> Self {
        Self {
            index: 0,
            term: 0,
            chain: Chain::genesis(cluster),
        }
    }
}

/// A command on its way into the log or out of it. The body is opaque here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which command; not 0.
    pub kind: u16,
    /// Term in which it was made; never lower than that of the entry before.
    pub term: u64,
    /// When it was made, milliseconds since 1970.
    pub time_ms: u64,
    /// The request that caused it, if one did.
    pub request: Option<RequestId>,
    /// The command's fields, at most [`BODY_LEN_MAX`] bytes.
    pub body: Vec<u8>,
}

impl Entry {
    /// Whether the log can hold the entry.
    ///
    /// # Errors
    /// [`FormatError::KindWrong`], [`FormatError::BodyTooLong`], [`FormatError::RequestIdInvalid`].
    pub fn check(&self) -> Result<(), FormatError> {
        if self.kind == KIND_MARK {
            return Err(FormatError::KindWrong);
        }
        if self.body.len() > BODY_LEN_MAX {
            return Err(FormatError::BodyTooLong);
        }
        match self.request.is_none_or(|id| is_possible(&id)) {
            true => Ok(()),
            false => Err(FormatError::RequestIdInvalid),
        }
    }

    /// Bytes that the entry takes in a segment, padding included.
    pub(super) fn encoded_len(&self) -> usize {
        (HEADER_LEN + self.body.len()).next_multiple_of(ALIGNMENT)
    }
}

/// Where an entry or mark stands in the log: what the writer adds to an [`Entry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the entry, or of the entry that comes next behind what the mark speaks of.
    pub index: u64,
    /// Every entry up to this one was synced before the header was written.
    pub synced_index: u64,
    /// Chain value of the entry before.
    pub chain_before: Chain,
    /// The cluster.
    pub cluster: ClusterId,
}

/// A header that passed every check but those of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which command; `None` for a mark.
    pub kind: Option<u16>,
    /// Term of the entry, or of the one before the mark.
    pub term: u64,
    /// Time of the entry, or of the one before the mark.
    pub time_ms: u64,
    /// The request that caused the entry.
    pub request: Option<RequestId>,
    /// Where it stands.
    pub place: Place,
    /// Bytes of the body.
    pub body_len: usize,
    raw: RawHeader,
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

impl Decoded<'_> {
    /// The entry's own chain value; meaningless for a mark.
    #[must_use]
    pub fn chain(&self) -> Chain {
        Chain::of(&self.header.raw, self.body)
    }
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
struct RawHeader {
    header_crc: U32,
    magic: [u8; 4],
    kind: U16,
    flags: U16,
    body_len: U32,
    body_crc: U32,
    reserved_a: [u8; 4],
    term: U64,
    index: U64,
    synced_index: U64,
    time: U64,
    session: U64,
    number: U64,
    lowest_outstanding: U64,
    chain_before: [u8; 16],
    cluster: [u8; 16],
    reserved_b: [u8; 16],
}

const _: () = assert!(size_of::<RawHeader>() == HEADER_LEN);
const _: () = assert!(HEADER_LEN.is_multiple_of(ALIGNMENT));

/// Appends the entry to `out`, padded, and gives its chain value.
///
/// The entry must have passed [`Entry::check`], and `place.synced_index` be below its index.
pub fn encode_entry(out: &mut Vec<u8>, entry: &Entry, place: &Place) -> Chain {
    let raw = raw_header(
        entry.kind,
        entry.term,
        entry.time_ms,
        entry.request,
        place,
        &entry.body,
    );
    let start = out.len();
    out.extend_from_slice(raw.as_bytes());
    out.extend_from_slice(&entry.body);
    out.resize(start + entry.encoded_len(), 0);
    Chain::of(&raw, &entry.body)
}

/// A mark for `place`, whose `synced_index` must be one below its index; `term` and `time_ms` are
/// those of the entry before.
#[must_use]
pub fn encode_mark(term: u64, time_ms: u64, place: &Place) -> [u8; HEADER_LEN] {
    zerocopy::transmute!(raw_header(KIND_MARK, term, time_ms, None, place, &[]))
}

fn raw_header(
    kind: u16,
    term: u64,
    time_ms: u64,
    request: Option<RequestId>,
    place: &Place,
    body: &[u8],
) -> RawHeader {
    let request = request.unwrap_or_default();
    let body_len = u32::try_from(body.len()).expect("a checked body is at most 16 MiB");
    let mut raw = RawHeader {
        header_crc: U32::ZERO,
        magic: MAGIC,
        kind: U16::new(kind),
        flags: U16::ZERO,
        body_len: U32::new(body_len),
        body_crc: U32::new(crc32(body)),
        reserved_a: [0; 4],
        term: U64::new(term),
        index: U64::new(place.index),
        synced_index: U64::new(place.synced_index),
        time: U64::new(time_ms),
        session: U64::new(request.session.0),
        number: U64::new(request.number),
        lowest_outstanding: U64::new(request.lowest_outstanding),
        chain_before: place.chain_before.0,
        cluster: place.cluster.0,
        reserved_b: [0; 16],
    };
    raw.header_crc = U32::new(own_crc(raw.as_bytes()));
    raw
}

/// Reads the header of an entry or mark off the front of `bytes`, in the order of checks that
/// `spec/oplog.md` section 4 gives; the body is not looked at.
///
/// # Errors
/// The first check that fails.
pub fn decode_header(bytes: &[u8]) -> Result<Header, FormatError> {
    let (raw, _) = RawHeader::read_from_prefix(bytes).map_err(|_| FormatError::Truncated)?;
    if raw.magic != MAGIC {
        return Err(FormatError::MagicWrong);
    }
    if raw.header_crc.get() != own_crc(raw.as_bytes()) {
        return Err(FormatError::HeaderCrcWrong);
    }
    if raw.flags.get() != 0 {
        return Err(FormatError::FlagsUnknown);
    }
    if raw.reserved_a != [0; 4] || raw.reserved_b != [0; 16] {
        return Err(FormatError::ReservedNotZero);
    }
    let (index, synced_index) = (raw.index.get(), raw.synced_index.get());
    if synced_index >= index {
        return Err(FormatError::IndexWrong);
    }
    let body_len = raw.body_len.get() as usize;
    if body_len > BODY_LEN_MAX {
        return Err(FormatError::BodyTooLong);
    }
    let request = raw.request()?;
    let is_mark = raw.kind.get() == KIND_MARK;
    let bare = body_len == 0 && raw.body_crc.get() == 0 && request.is_none();
    if is_mark && !(bare && synced_index == index - 1) {
        return Err(FormatError::MarkInvalid);
    }
    Ok(Header {
        kind: (!is_mark).then_some(raw.kind.get()),
        term: raw.term.get(),
        time_ms: raw.time.get(),
        request,
        place: Place {
            index,
            synced_index,
            chain_before: Chain(raw.chain_before),
            cluster: ClusterId(raw.cluster),
        },
        body_len,
        raw,
    })
}

/// Reads an entry or mark off the front of `bytes`.
///
/// # Errors
/// The first check of `spec/oplog.md` section 4 that fails.
pub fn decode_entry(bytes: &[u8]) -> Result<Decoded<'_>, FormatError> {
    let header = decode_header(bytes)?;
    let encoded_len = (HEADER_LEN + header.body_len).next_multiple_of(ALIGNMENT);
    let encoded = bytes.get(..encoded_len).ok_or(FormatError::Truncated)?;
    let (body, padding) = encoded
        .get(HEADER_LEN..)
        .and_then(|rest| rest.split_at_checked(header.body_len))
        .ok_or(FormatError::Truncated)?;
    if header.raw.body_crc.get() != crc32(body) {
        return Err(FormatError::BodyCrcWrong);
    }
    if padding.iter().any(|&byte| byte != 0) {
        return Err(FormatError::PaddingNotZero);
    }
    Ok(Decoded {
        header,
        body,
        encoded_len,
    })
}

impl RawHeader {
    fn request(&self) -> Result<Option<RequestId>, FormatError> {
        let id = RequestId {
            session: SessionId(self.session.get()),
            number: self.number.get(),
            lowest_outstanding: self.lowest_outstanding.get(),
        };
        if id == RequestId::default() {
            return Ok(None);
        }
        match is_possible(&id) {
            true => Ok(Some(id)),
            false => Err(FormatError::RequestIdInvalid),
        }
    }
}

fn is_possible(id: &RequestId) -> bool {
    id.session.is_some() && (1..=id.number).contains(&id.lowest_outstanding)
}

/// CRC of a header's bytes behind the four that hold it.
pub(super) fn own_crc(header: &[u8]) -> u32 {
    crc32(header.get(4..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        let cluster = ClusterId([7; 16]);
        Place {
            index: 9,
            synced_index: 4,
            chain_before: Chain([3; 16]),
            cluster,
        }
    }

    fn entry(body: &[u8]) -> Entry {
        let request = Some(RequestId {
            session: SessionId(5),
            number: 6,
            lowest_outstanding: 6,
        });
        Entry {
            kind: 2,
            term: 3,
            time_ms: 4,
            request,
            body: body.to_vec(),
        }
    }

    #[test]
    fn an_entry_comes_back() {
        for body_len in [0, 1, 7, 8, 1000] {
            let (entry, mut bytes) = (entry(&vec![0xa5; body_len]), Vec::new());
            let chain = encode_entry(&mut bytes, &entry, &place());
            assert_eq!(bytes.len() % ALIGNMENT, 0);
            let decoded = decode_entry(&bytes).unwrap();
            assert_eq!(decoded.chain(), chain);
            assert_eq!(decoded.encoded_len, bytes.len());
            assert_eq!(
                (decoded.header.kind, decoded.body),
                (Some(2), &entry.body[..])
            );
            assert_eq!(
                (decoded.header.place, decoded.header.request),
                (place(), entry.request)
            );
        }
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let mut bytes = Vec::new();
        encode_entry(&mut bytes, &entry(b"a body of 21 bytes..."), &place());
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_entry(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    /// Two bodies that end in their own CRC-32 have equal CRCs, and so would a chain of CRCs.
    #[test]
    fn the_chain_tells_bodies_apart_whose_crcs_are_equal() {
        let chains = [1_u32, 2].map(|n| {
            let mut body = n.to_le_bytes().to_vec();
            body.extend_from_slice(&crc32(&body).to_le_bytes());
            let mut bytes = Vec::new();
            let chain = encode_entry(&mut bytes, &entry(&body), &place());
            (crc32(&body), chain)
        });
        assert_eq!(chains[0].0, chains[1].0);
        assert_ne!(chains[0].1, chains[1].1);
    }
}
