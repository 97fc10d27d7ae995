//! A record, as the library writes it by record append (`spec/records.md` section 1).
//!
//! The CRC stands in front of what it covers: bytes that end in their own CRC all have the same one,
//! and a block full of them would have a stored CRC that proves nothing.

use thiserror::Error;

use crate::crc::{crc32, extend};
use crate::id::SessionId;
use crate::size::CHUNK_LEN_MAX;

/// Bytes of a record in front of its payload.
pub const RECORD_HEADER_LEN: usize = 32;

/// Bytes of a record at most, header included: a quarter of the longest chunk.
pub const RECORD_LEN_MAX: usize = (CHUNK_LEN_MAX / 4) as usize;

/// What a record has at its bytes 4 to 7.
pub const RECORD_MAGIC: [u8; 4] = *b"SREC";

/// A record that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The session that appended it; not 0.
    pub session: SessionId,
    /// The number of its request in the session; not 0.
    pub number: u64,
    /// What was appended.
    pub payload: &'a [u8],
}

/// Why bytes are no record. The names are those of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The bytes end before the header or the payload does.
    #[error("truncated")]
    Truncated,
    /// No record begins here.
    #[error("bad_magic")]
    BadMagic,
    /// A reserved byte is not zero.
    #[error("reserved_not_zero")]
    ReservedNotZero,
    /// Longer than a record may be.
    #[error("too_long")]
    TooLong,
    /// Partly written over, or no record at all.
    #[error("bad_crc")]
    BadCrc,
    /// Session or number is 0.
    #[error("id_missing")]
    IdMissing,
}

impl Record<'_> {
    /// Bytes that the record takes.
    #[must_use]
    pub const fn encoded_len(&self) -> usize {
        RECORD_HEADER_LEN + self.payload.len()
    }

    /// The header that goes in front of the payload.
    ///
    /// # Errors
    /// [`RecordError::TooLong`], [`RecordError::IdMissing`]: nobody could read the record.
    pub fn header(&self) -> Result<[u8; RECORD_HEADER_LEN], RecordError> {
        let length = u32::try_from(self.payload.len()).map_err(|_| RecordError::TooLong)?;
        if self.encoded_len() > RECORD_LEN_MAX {
            return Err(RecordError::TooLong);
        }
        self.check_id()?;
        let mut header = [0; RECORD_HEADER_LEN];
        let (_, behind_crc) = header.split_at_mut(size_of::<u32>());
        let fields = RECORD_MAGIC
            .into_iter()
            .chain(length.to_le_bytes())
            .chain([0; 4])
            .chain(self.session.0.to_le_bytes())
            .chain(self.number.to_le_bytes());
        behind_crc
            .iter_mut()
            .zip(fields)
            .for_each(|(to, from)| *to = from);
        let crc = extend(crc32(behind_crc), self.payload);
        header
            .iter_mut()
            .zip(crc.to_le_bytes())
            .for_each(|(to, from)| *to = from);
        Ok(header)
    }

    fn check_id(&self) -> Result<(), RecordError> {
        match self.session.is_some() && self.number != 0 {
            true => Ok(()),
            false => Err(RecordError::IdMissing),
        }
    }
}

/// Reads a record off the front of `bytes`; more may follow it.
///
/// # Errors
/// The first check of the page that fails.
pub fn decode(bytes: &[u8]) -> Result<Record<'_>, RecordError> {
    let (header, rest) = bytes
        .split_first_chunk::<RECORD_HEADER_LEN>()
        .ok_or(RecordError::Truncated)?;
    let [crc, magic, length, reserved] = words(header);
    if magic != u32::from_le_bytes(RECORD_MAGIC) {
        return Err(RecordError::BadMagic);
    }
    if reserved != 0 {
        return Err(RecordError::ReservedNotZero);
    }
    let length = length as usize;
    if length > RECORD_LEN_MAX - RECORD_HEADER_LEN {
        return Err(RecordError::TooLong);
    }
    let payload = rest.get(..length).ok_or(RecordError::Truncated)?;
    let (_, behind_crc) = header.split_at(size_of::<u32>());
    if crc != extend(crc32(behind_crc), payload) {
        return Err(RecordError::BadCrc);
    }
    let wide = |at: usize| {
        let bytes = header.get(at..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    let record = Record {
        session: SessionId(wide(16)),
        number: wide(24),
        payload,
    };
    record.check_id().map(|()| record)
}

/// The first four words of a header.
fn words(header: &[u8; RECORD_HEADER_LEN]) -> [u32; 4] {
    let mut words = [0; 4];
    let (chunks, _) = header.as_chunks();
    words
        .iter_mut()
        .zip(chunks)
        .for_each(|(word, bytes)| *word = u32::from_le_bytes(*bytes));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All records whose CRC trails have one CRC; with it in front they differ.
    #[test]
    fn records_have_crcs_of_their_own() {
        let whole = |payload: &[u8]| {
            let record = Record {
                session: SessionId(7),
                number: 1,
                payload,
            };
            let mut bytes = record.header().unwrap().to_vec();
            bytes.extend_from_slice(payload);
            assert_eq!(decode(&bytes), Ok(record));
            bytes
        };
        assert_ne!(crc32(&whole(b"one")), crc32(&whole(b"two")));
    }

    #[test]
    fn what_nobody_could_read_is_not_written() {
        let record = |session, number, payload| Record {
            session: SessionId(session),
            number,
            payload,
        };
        let longest = vec![1; RECORD_LEN_MAX - RECORD_HEADER_LEN];
        assert!(record(1, 1, &longest).header().is_ok());
        let longer = vec![1; longest.len() + 1];
        let too_long = record(1, 1, &longer).header();
        assert_eq!(too_long, Err(RecordError::TooLong));
        for (session, number) in [(0, 1), (1, 0)] {
            let nameless = record(session, number, b"").header();
            assert_eq!(nameless, Err(RecordError::IdMissing));
        }
    }
}
