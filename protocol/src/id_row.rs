//! The id table of a chunk (`spec/records.md` section 5): which mutations are in it, and where.
//!
//! Bytes in, rows out, and back. What brings a row in and out of a table is the store's work.

use thiserror::Error;

use crate::codec::{Decoder, Encoder, Field};
use crate::crc::crc32;
use crate::error::BodyError;
use crate::id::SessionId;
use crate::size::CHUNK_LEN_MAX;

/// Bytes of a row.
pub const ID_ROW_LEN: usize = 32;

/// Rows of a table at most.
pub const ID_ROWS_MAX: usize = 524_288;

const RESERVED_LEN: usize = 3;

/// What a row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IdRowKind {
    /// A write at an offset was done.
    Write,
    /// A record append was done.
    Append,
    /// Numbers of the session below the row's were forgotten: nobody waits for them any more.
    Floor,
    /// Rows of sessions below the row's were dropped: those sessions are over.
    Ended,
}

/// A row. The order is that of the table: by session, number and kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdRow {
    /// The session that asked; not 0.
    pub session: SessionId,
    /// The request's number, the session's floor, or 1; not 0.
    pub number: u64,
    /// What the row says.
    pub kind: IdRowKind,
    /// Where the mutation's bytes lie in the chunk.
    pub offset: u32,
    /// How many there are.
    pub length: u32,
    /// Their CRC.
    pub crc32: u32,
}

/// Why a table was not taken. The names are those of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IdTableError {
    /// Not a whole number of rows, or too many.
    #[error("wrong_length")]
    WrongLength,
    /// The table is not the one that the header speaks of.
    #[error("bad_crc")]
    BadCrc,
    /// A kind that this version doesn't know.
    #[error("unknown_value")]
    UnknownValue,
    /// A reserved byte, or a field that the kind doesn't use, is not zero.
    #[error("reserved_not_zero")]
    ReservedNotZero,
    /// Session or number is 0.
    #[error("id_missing")]
    IdMissing,
    /// Rows that don't ascend, or that lie below a floor or an ended session.
    #[error("out_of_order")]
    OutOfOrder,
    /// Bytes behind the longest chunk, or another number than 1 in an `ended` row.
    #[error("out_of_bounds")]
    OutOfBounds,
}

impl IdRowKind {
    const fn number(self) -> u8 {
        match self {
            Self::Write => 1,
            Self::Append => 2,
            Self::Floor => 3,
            Self::Ended => 4,
        }
    }

    /// Whether a mutation's bytes belong to the row.
    const fn has_bytes(self) -> bool {
        matches!(self, Self::Write | Self::Append)
    }
}

impl IdRow {
    fn check(&self) -> Result<(), IdTableError> {
        let is_bare = (self.offset, self.length, self.crc32) == (0, 0, 0);
        if !self.kind.has_bytes() && !is_bare {
            return Err(IdTableError::ReservedNotZero);
        }
        if !self.session.is_some() || self.number == 0 {
            return Err(IdTableError::IdMissing);
        }
        let end = u64::from(self.offset) + u64::from(self.length);
        let is_one = self.kind != IdRowKind::Ended || self.number == 1;
        match end <= u64::from(CHUNK_LEN_MAX) && is_one {
            true => Ok(()),
            false => Err(IdTableError::OutOfBounds),
        }
    }
}

impl From<BodyError> for IdTableError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::UnknownValue => Self::UnknownValue,
            BodyError::ReservedNotZero => Self::ReservedNotZero,
            _ => Self::WrongLength,
        }
    }
}

impl Field for IdRow {
    const LEN_MIN: usize = ID_ROW_LEN;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.session)
            .put(&self.number)
            .put(&self.kind.number())
            .reserved(RESERVED_LEN)
            .put(&self.offset)
            .put(&self.length)
            .put(&self.crc32);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let row = take_row(input)?;
        match row.check() {
            Ok(()) => Ok(row),
            Err(IdTableError::ReservedNotZero) => Err(BodyError::ReservedNotZero),
            Err(_) => Err(BodyError::OutOfBounds),
        }
    }
}

/// A row whose numbers were not looked at yet.
fn take_row(input: &mut Decoder<'_>) -> Result<IdRow, BodyError> {
    let (session, number) = (input.take()?, input.take()?);
    let kind = match input.take::<u8>()? {
        1 => IdRowKind::Write,
        2 => IdRowKind::Append,
        3 => IdRowKind::Floor,
        4 => IdRowKind::Ended,
        _ => return Err(BodyError::UnknownValue),
    };
    input.reserved(RESERVED_LEN)?;
    Ok(IdRow {
        session,
        number,
        kind,
        offset: input.take()?,
        length: input.take()?,
        crc32: input.take()?,
    })
}

/// The bytes of a table; the rows must be in order.
#[must_use]
pub fn encode_table(rows: &[IdRow]) -> Vec<u8> {
    let mut out = Encoder::new();
    rows.iter().for_each(|row| row.encode(&mut out));
    out.into_bytes()
}

/// Reads a whole table, whose CRC the chunk's header tells.
///
/// # Errors
/// The first check of the page that fails, of the first row that fails one.
pub fn decode_table(bytes: &[u8], table_crc32: u32) -> Result<Vec<IdRow>, IdTableError> {
    if !bytes.len().is_multiple_of(ID_ROW_LEN) || bytes.len() > ID_ROW_LEN * ID_ROWS_MAX {
        return Err(IdTableError::WrongLength);
    }
    if crc32(bytes) != table_crc32 {
        return Err(IdTableError::BadCrc);
    }
    let mut input = Decoder::new(bytes);
    let mut rows = Vec::with_capacity(bytes.len() / ID_ROW_LEN);
    while input.remaining() > 0 {
        let row = take_row(&mut input)?;
        row.check()?;
        rows.push(row);
    }
    check_order(&rows)?;
    Ok(rows)
}

/// Rows ascend, none lies below its session's floor or below a session that has ended.
fn check_order(rows: &[IdRow]) -> Result<(), IdTableError> {
    let key = |row: &IdRow| (row.session, row.number, row.kind);
    let ascends = rows.is_sorted_by(|before, row| key(before) < key(row));
    let is_twice = rows.array_windows().any(|[one, other]| {
        let are_both = one.kind.has_bytes() && other.kind.has_bytes();
        are_both && (one.session, one.number) == (other.session, other.number)
    });
    let is_ended = |row: &IdRow| row.kind == IdRowKind::Ended;
    // A second one, or one behind lower sessions, is not in the first session.
    let first_session = rows.first().map(|row| row.session);
    let ended_first = rows
        .iter()
        .filter(|row| is_ended(row))
        .all(|row| Some(row.session) == first_session);
    let floors_hold = rows
        .chunk_by(|one, other| one.session == other.session)
        .all(|of_session| {
            let mut floors = of_session.iter().filter(|row| row.kind == IdRowKind::Floor);
            let floor = floors.next().map_or(0, |row| row.number);
            let is_above = |row: &IdRow| !row.kind.has_bytes() || row.number >= floor;
            floors.next().is_none() && of_session.iter().all(is_above)
        });
    match ascends && !is_twice && ended_first && floors_hold {
        true => Ok(()),
        false => Err(IdTableError::OutOfOrder),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(session: u64, number: u64, kind: IdRowKind) -> IdRow {
        let (offset, length, crc32) = if kind.has_bytes() {
            (7, 5, 9)
        } else {
            (0, 0, 0)
        };
        IdRow {
            session: SessionId(session),
            number,
            kind,
            offset,
            length,
            crc32,
        }
    }

    fn decode(rows: &[IdRow]) -> Result<Vec<IdRow>, IdTableError> {
        let bytes = encode_table(rows);
        decode_table(&bytes, crc32(&bytes))
    }

    #[test]
    fn a_table_comes_back() {
        use IdRowKind::{Append, Ended, Floor, Write};
        let rows = [
            row(3, 1, Ended),
            row(3, 4, Append),
            row(3, 4, Floor),
            row(3, 9, Write),
            row(8, 2, Floor),
            row(8, 2, Write),
        ];
        assert_eq!(decode(&rows), Err(IdTableError::OutOfOrder));
        let mut sorted = rows;
        sorted.sort();
        assert_eq!(decode(&sorted), Ok(sorted.to_vec()));
        assert_eq!(decode(&[]), Ok(Vec::new()));
    }

    #[test]
    fn order_floors_and_ended_sessions_are_checked() {
        use IdRowKind::{Append, Ended, Floor, Write};
        for rows in [
            &[row(1, 2, Write), row(1, 2, Write)][..],
            &[row(2, 1, Write), row(1, 1, Write)],
            // One number, two mutations.
            &[row(1, 2, Write), row(1, 2, Append)],
            // Below its floor, also with an `ended` row between them.
            &[row(1, 1, Write), row(1, 2, Floor)],
            &[row(1, 1, Append), row(1, 1, Ended), row(1, 5, Floor)],
            &[row(1, 1, Floor), row(1, 2, Floor)],
            // A session below the one that the ended ones lie below.
            &[row(1, 1, Write), row(2, 1, Ended)],
        ] {
            assert_eq!(decode(rows), Err(IdTableError::OutOfOrder), "{rows:?}");
        }
    }

    #[test]
    fn rows_are_checked_one_by_one() {
        let bare = IdRow {
            crc32: 1,
            ..row(1, 1, IdRowKind::Floor)
        };
        let long = IdRow {
            offset: CHUNK_LEN_MAX,
            ..row(1, 1, IdRowKind::Append)
        };
        for (rows, error) in [
            (bare, IdTableError::ReservedNotZero),
            (row(0, 1, IdRowKind::Write), IdTableError::IdMissing),
            (row(1, 0, IdRowKind::Floor), IdTableError::IdMissing),
            (long, IdTableError::OutOfBounds),
            (row(1, 2, IdRowKind::Ended), IdTableError::OutOfBounds),
        ] {
            assert_eq!(decode(&[rows]), Err(error), "{rows:?}");
        }
        let mut bytes = encode_table(&[row(1, 1, IdRowKind::Write)]);
        assert_eq!(
            decode_table(&bytes, !crc32(&bytes)),
            Err(IdTableError::BadCrc)
        );
        bytes[16] = 5;
        let crc = crc32(&bytes);
        assert_eq!(decode_table(&bytes, crc), Err(IdTableError::UnknownValue));
        bytes[16] = 1;
        bytes[18] = 1;
        let crc = crc32(&bytes);
        assert_eq!(
            decode_table(&bytes, crc),
            Err(IdTableError::ReservedNotZero)
        );
        bytes.pop();
        let crc = crc32(&bytes);
        assert_eq!(decode_table(&bytes, crc), Err(IdTableError::WrongLength));
    }
}
