//! `ChunkIds`: the id table of a sealed chunk, for a copy (`spec/messages.md` section 14.4).

use super::shared::is_id_table_len;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion};
use crate::id_row::ID_ROW_LEN;
use crate::size::ID_ROWS_TOLD_MAX;
use crate::ticket::Ticket;

/// Asks for the whole table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkIds {
    /// The right to copy.
    pub ticket: Ticket,
    /// Which chunk.
    pub handle: ChunkHandle,
    /// Exactly the version that it is sealed in.
    pub version: ChunkVersion,
}

impl Message for ChunkIds {
    const KIND: Kind = Kind::ChunkIds;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.ticket).put(&self.handle).put(&self.version);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            ticket: input.take()?,
            handle: input.take()?,
            version: input.take()?,
        })
    }
}

/// Rows of the table, in as many frames as it takes: the last one ends with the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkIdsReply {
    /// Bytes of the whole table.
    pub table_length: u32,
    /// Their CRC, by which the receiver checks all rows together.
    pub table_crc32: u32,
    /// The first of these rows in the table.
    pub first_row: u32,
    /// Rows of `spec/records.md` section 5, in order; none exactly if the table has none.
    pub rows: Vec<[u8; ID_ROW_LEN]>,
}

impl ChunkIdsReply {
    /// Whether the table ends with these rows.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.end() == u64::from(self.table_length)
    }

    /// Where these rows end in the table, in bytes.
    fn end(&self) -> u64 {
        (u64::from(self.first_row) + self.rows.len() as u64) * ID_ROW_LEN as u64
    }
}

impl Message for ChunkIdsReply {
    const KIND: Kind = Kind::ChunkIdsReply;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.table_length)
            .put(&self.table_crc32)
            .put(&self.first_row)
            .list(&self.rows);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let message = Self {
            table_length: input.take()?,
            table_crc32: input.take()?,
            first_row: input.take()?,
            rows: input.list(ID_ROWS_TOLD_MAX)?,
        };
        let fits = is_id_table_len(message.table_length)
            && message.end() <= u64::from(message.table_length)
            && message.rows.is_empty() == (message.table_length == 0);
        match fits {
            true => Ok(message),
            false => Err(BodyError::OutOfBounds),
        }
    }
}
