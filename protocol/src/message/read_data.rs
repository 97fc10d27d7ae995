//! `ReadData`: stored CRCs and bytes on their way to a reader (`spec/messages.md` section 13).

use super::shared::ChunkState;
use super::write_data::Crcs;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, Serial};
use crate::size::{BLOCK_LEN, CHUNK_LEN_MAX, pieces_in};

/// Bytes of a [`ReadData`]'s body.
pub const READ_DATA_LEN: usize = 128;

/// A part of the range that a `Read` asked for: the payload that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadData {
    /// Which chunk.
    pub handle: ChunkHandle,
    /// Which version the bytes belong to.
    pub version: ChunkVersion,
    /// Which committed state the bytes belong to.
    pub serial: Serial,
    /// The chunk's length in that state.
    pub chunk_length: u32,
    /// Where the payload begins in the chunk.
    pub offset: u32,
    /// The chunk's state.
    pub state: ChunkState,
    /// Whether the stream ends here.
    pub last: bool,
    /// The pieces' CRCs, as stored.
    pub crcs: Crcs,
}

impl ReadData {
    /// Compares offset, length and pieces with the payload that the header announces.
    ///
    /// # Errors
    /// [`BodyError::OutOfBounds`].
    pub fn check_payload(&self, payload_len: u32) -> Result<(), BodyError> {
        let end = u64::from(self.offset) + u64::from(payload_len);
        let at_an_edge = end % u64::from(BLOCK_LEN) == 0 || end == u64::from(self.chunk_length);
        let fits = match payload_len {
            0 => self.offset >= self.chunk_length && self.crcs.count() == 0,
            _ => {
                end <= u64::from(self.chunk_length.min(CHUNK_LEN_MAX))
                    && at_an_edge
                    && pieces_in(self.offset, payload_len) == u32::from(self.crcs.count())
            }
        };
        if fits {
            Ok(())
        } else {
            Err(BodyError::OutOfBounds)
        }
    }
}

impl Message for ReadData {
    const KIND: Kind = Kind::ReadData;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.handle).put(&self.version).put(&self.serial);
        out.put(&self.chunk_length)
            .put(&self.offset)
            .put(&self.state)
            .put(&self.last);
        out.put(&self.crcs.count()).reserved(1);
        self.crcs.encode_places(out);
        out.reserved(24);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let handle = input.take()?;
        let version = input.take()?;
        let serial = input.take()?;
        let chunk_length = input.take()?;
        let offset: u32 = input.take()?;
        let state = input.take()?;
        let last = input.take()?;
        let piece_count = input.take()?;
        input.reserved(1)?;
        let crcs = Crcs::decode_places(piece_count, input)?;
        input.reserved(24)?;
        if !offset.is_multiple_of(BLOCK_LEN) {
            return Err(BodyError::OutOfBounds);
        }
        Ok(Self {
            handle,
            version,
            serial,
            chunk_length,
            offset,
            state,
            last,
            crcs,
        })
    }
}
