//! `WriteBatch`: mutations in their order, from member to member (`spec/messages.md` section 14.4).

use super::part::Part;
use super::shared::{Level, enumeration};
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder, Field};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, RequestId, Serial};
use crate::size::{BATCH_CRCS_MAX, BATCH_ROWS_MAX, CHUNK_LEN_MAX, pieces_in};

/// Mutations whose serials follow one another: the payload that follows, row by row.
///
/// It is acknowledged by [`WriteAck`](super::WriteAck).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteBatch {
    /// Which chunk.
    pub handle: ChunkHandle,
    /// Which version.
    pub version: ChunkVersion,
    /// Of the first row; of a part that of the whole mutation.
    pub first_serial: Serial,
    /// Every serial up to here is on all members; below `first_serial`.
    pub commit_mark: Serial,
    /// Which part of one mutation these bytes are; `None` for whole ones.
    pub part: Option<Part>,
    /// The highest that was asked for.
    pub level: Level,
    /// The mutations, at least one; of a part exactly one.
    pub rows: Vec<BatchRow>,
    /// CRCs of each row in turn, cut at the chunk's block edges.
    pub crcs: Vec<u32>,
}

enumeration! {
    /// What a mutation does.
    MutationKind {
        /// Writes at an offset.
        Write = 1 "write",
        /// Appends a record.
        Append = 2 "append",
    }
}

/// One mutation of a [`WriteBatch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchRow {
    /// Makes it be done once.
    pub request: RequestId,
    /// What it does.
    pub kind: MutationKind,
    /// Where it begins in the chunk; a part of it lies behind that.
    pub offset: u32,
    /// Its bytes here, at least one.
    pub length: u32,
}

impl WriteBatch {
    /// The serial of the last row.
    #[must_use]
    pub const fn last_serial(&self) -> Serial {
        let behind_the_first = self.rows.len().saturating_sub(1) as u64;
        Serial(self.first_serial.0.saturating_add(behind_the_first))
    }

    /// Compares the lengths with the payload that the header announces.
    ///
    /// # Errors
    /// [`BodyError::OutOfBounds`].
    pub fn check_payload(&self, payload_len: u32) -> Result<(), BodyError> {
        let lengths = self.rows.iter().map(|row| u64::from(row.length));
        match lengths.sum::<u64>() == u64::from(payload_len) {
            true => Ok(()),
            false => Err(BodyError::OutOfBounds),
        }
    }

    fn is_in_bounds(&self) -> bool {
        let part_fits = match (self.part, self.rows.as_slice()) {
            (None, rows) => !rows.is_empty(),
            (Some(part), [row]) => row.kind == MutationKind::Append && part.takes(row.length),
            (Some(_), _) => false,
        };
        let behind_the_first = self.rows.len().saturating_sub(1) as u64;
        part_fits
            && self.commit_mark < self.first_serial
            && self.first_serial.0.checked_add(behind_the_first).is_some()
            && self.pieces() == Some(self.crcs.len() as u64)
    }

    /// How many pieces the rows have, if each has bytes and lies in a chunk.
    fn pieces(&self) -> Option<u64> {
        self.rows.iter().try_fold(0_u64, |sum, row| {
            let (part_offset, whole_length) = match self.part {
                Some(part) => (part.offset, part.whole_length),
                None => (0, row.length),
            };
            let end = u64::from(row.offset) + u64::from(whole_length);
            if row.length == 0 || end > u64::from(CHUNK_LEN_MAX) {
                return None;
            }
            let offset = row.offset.checked_add(part_offset)?;
            Some(sum + u64::from(pieces_in(offset, row.length)))
        })
    }
}

impl Message for WriteBatch {
    const KIND: Kind = Kind::WriteBatch;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.handle)
            .put(&self.version)
            .put(&self.first_serial)
            .put(&self.commit_mark);
        Part::encode(self.part, out);
        out.put(&self.level).list(&self.rows).list(&self.crcs);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let message = Self {
            handle: input.take()?,
            version: input.take()?,
            first_serial: input.take()?,
            commit_mark: input.take()?,
            part: Part::decode(input)?,
            level: input.take()?,
            rows: input.list(BATCH_ROWS_MAX)?,
            crcs: input.list(BATCH_CRCS_MAX)?,
        };
        match message.is_in_bounds() {
            true => Ok(message),
            false => Err(BodyError::OutOfBounds),
        }
    }
}

impl Field for BatchRow {
    const LEN_MIN: usize = RequestId::LEN_MIN + MutationKind::LEN_MIN + 3 + 4 + 4;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.request)
            .put(&self.kind)
            .reserved(3)
            .put(&self.offset)
            .put(&self.length);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let request = input.take()?;
        let kind = input.take()?;
        input.reserved(3)?;
        Ok(Self {
            request,
            kind,
            offset: input.take()?,
            length: input.take()?,
        })
    }
}
