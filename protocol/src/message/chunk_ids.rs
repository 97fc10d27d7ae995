//! `ChunkIds`: the id table of a sealed chunk, for a copy (`spec/messages.md` section 14.4).

use super::shared::is_id_table_len;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion};
use crate::id_row::ID_ROW_LEN;
use crate::size::ID_ROWS_ASKED_MAX;
use crate::ticket::Ticket;

/// Asks for rows of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkIds {
    /// The right to copy.
    pub ticket: Ticket,
    /// Which chunk.
    pub handle: ChunkHandle,
    /// Exactly the version that it is sealed in.
    pub version: ChunkVersion,
    /// The first row wanted.
    pub first_row: u32,
    /// How many, at least 1.
    pub count: u32,
}

impl Message for ChunkIds {
    const KIND: Kind = Kind::ChunkIds;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.ticket)
            .put(&self.handle)
            .put(&self.version)
            .put(&self.first_row)
            .put(&self.count);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let message = Self {
            ticket: input.take()?,
            handle: input.take()?,
            version: input.take()?,
            first_row: input.take()?,
            count: input.take()?,
        };
        match (1..=ID_ROWS_ASKED_MAX).contains(&message.count) {
            true => Ok(message),
            false => Err(BodyError::OutOfBounds),
        }
    }
}

/// The rows, as far as the table goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkIdsReply {
    /// Bytes of the whole table.
    pub table_length: u32,
    /// Their CRC, by which the receiver checks all rows together.
    pub table_crc32: u32,
    /// Rows of `spec/records.md` section 5, in order.
    pub rows: Vec<[u8; ID_ROW_LEN]>,
}

impl Message for ChunkIdsReply {
    const KIND: Kind = Kind::ChunkIdsReply;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.table_length)
            .put(&self.table_crc32)
            .list(&self.rows);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let message = Self {
            table_length: input.take()?,
            table_crc32: input.take()?,
            rows: input.list(ID_ROWS_ASKED_MAX as usize)?,
        };
        match is_id_table_len(message.table_length) {
            true => Ok(message),
            false => Err(BodyError::OutOfBounds),
        }
    }
}
