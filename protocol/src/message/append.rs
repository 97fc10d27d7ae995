//! `Append`: records of a client on their way to the primary, and `Appended`: what became of them
//! (`spec/messages.md` section 14.4).

use super::part::Part;
use super::shared::Level;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder, Field};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, RequestId, Serial, SessionId};
use crate::size::{
    APPEND_CRCS_MAX, APPEND_ITEMS_MAX, APPEND_RESULTS_MAX, CHUNK_LEN_MAX, blocks_in,
};

/// Whole records, one behind the other, or a part of one: the payload that follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// Which chunk.
    pub handle: ChunkHandle,
    /// Which version.
    pub version: ChunkVersion,
    /// Whose records they are.
    pub session: SessionId,
    /// The lowest number whose answer the session still waits for.
    pub lowest_outstanding: u64,
    /// How safe they are to be before they are acknowledged.
    pub level: Level,
    /// Which part of one record these bytes are; `None` for whole records.
    pub part: Option<Part>,
    /// The records, at least one; of a part exactly one. Their numbers ascend.
    pub items: Vec<AppendItem>,
    /// CRCs of each item in turn, cut every 65,536 bytes from its own start.
    pub crcs: Vec<u32>,
}

/// One record of an [`Append`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendItem {
    /// Its request's number.
    pub number: u64,
    /// Its bytes here, at least one.
    pub length: u32,
}

impl Append {
    /// The request id of an item.
    #[must_use]
    pub const fn request(&self, item: &AppendItem) -> RequestId {
        RequestId {
            session: self.session,
            number: item.number,
            lowest_outstanding: self.lowest_outstanding,
        }
    }

    /// Compares the lengths with the payload that the header announces.
    ///
    /// # Errors
    /// [`BodyError::OutOfBounds`].
    pub fn check_payload(&self, payload_len: u32) -> Result<(), BodyError> {
        let lengths = self.items.iter().map(|item| u64::from(item.length));
        match lengths.sum::<u64>() == u64::from(payload_len) {
            true => Ok(()),
            false => Err(BodyError::OutOfBounds),
        }
    }

    /// Whether every id is one: of a session, outstanding.
    fn has_request_ids(&self) -> bool {
        let lowest = self.lowest_outstanding;
        self.session.is_some() && lowest > 0 && self.items.iter().all(|item| item.number >= lowest)
    }

    fn is_in_bounds(&self) -> bool {
        let numbers_ascend = self
            .items
            .is_sorted_by(|one, next| one.number < next.number);
        let has_bytes = self.items.iter().all(|item| item.length > 0);
        let pieces = self
            .items
            .iter()
            .map(|item| u64::from(blocks_in(item.length)));
        let one_crc_a_piece = pieces.sum::<u64>() == self.crcs.len() as u64;
        let part_fits = match (self.part, self.items.as_slice()) {
            (None, items) => !items.is_empty(),
            (Some(part), [item]) => part.takes(item.length),
            (Some(_), _) => false,
        };
        numbers_ascend && has_bytes && one_crc_a_piece && part_fits
    }
}

impl Message for Append {
    const KIND: Kind = Kind::Append;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.handle)
            .put(&self.version)
            .put(&self.session)
            .put(&self.lowest_outstanding)
            .put(&self.level);
        Part::encode(self.part, out);
        out.list(&self.items).list(&self.crcs);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let message = Self {
            handle: input.take()?,
            version: input.take()?,
            session: input.take()?,
            lowest_outstanding: input.take()?,
            level: input.take()?,
            part: Part::decode(input)?,
            items: input.list(APPEND_ITEMS_MAX)?,
            crcs: input.list(APPEND_CRCS_MAX)?,
        };
        if !message.has_request_ids() {
            return Err(BodyError::RequestIdInvalid);
        }
        match message.is_in_bounds() {
            true => Ok(message),
            false => Err(BodyError::OutOfBounds),
        }
    }
}

impl Field for AppendItem {
    const LEN_MIN: usize = 8 + 4;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.number).put(&self.length);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            number: input.take()?,
            length: input.take()?,
        })
    }
}

/// What became of records, in any order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The version that they are in.
    pub version: ChunkVersion,
    /// One a record that is answered.
    pub results: Vec<AppendResult>,
}

/// What became of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendResult {
    /// Its request's number.
    pub number: u64,
    /// [`Status`](crate::status::Status) as a number. With any other than 0 all below `level` is 0.
    pub status: u16,
    /// How safe it is; with a status what was asked for.
    pub level: Level,
    /// On how many members.
    pub copies: u8,
    /// Where it begins in the chunk.
    pub offset: u32,
    /// Its bytes.
    pub length: u32,
    /// A serial that covers it.
    pub serial: Serial,
}

impl AppendResult {
    fn is_in_bounds(&self) -> bool {
        let end = u64::from(self.offset) + u64::from(self.length);
        match self.status {
            0 => end <= u64::from(CHUNK_LEN_MAX),
            _ => self.copies == 0 && end == 0 && !self.serial.is_some(),
        }
    }
}

impl Message for Appended {
    const KIND: Kind = Kind::Appended;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.version).list(&self.results);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            version: input.take()?,
            results: input.list(APPEND_RESULTS_MAX)?,
        })
    }
}

impl Field for AppendResult {
    const LEN_MIN: usize = 8 + 2 + Level::LEN_MIN + 1 + 4 + 4 + 8;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.number)
            .put(&self.status)
            .put(&self.level)
            .put(&self.copies)
            .put(&self.offset)
            .put(&self.length)
            .put(&self.serial);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let result = Self {
            number: input.take()?,
            status: input.take()?,
            level: input.take()?,
            copies: input.take()?,
            offset: input.take()?,
            length: input.take()?,
            serial: input.take()?,
        };
        match result.is_in_bounds() {
            true => Ok(result),
            false => Err(BodyError::OutOfBounds),
        }
    }
}
