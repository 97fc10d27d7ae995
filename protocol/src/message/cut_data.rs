//! `CutData`: bytes of one block on their way to a reader, with what it takes to verify them
//! (`spec/messages.md` section 13).

use super::shared::ChunkState;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, Serial};
use crate::size::{CHUNK_LEN_MAX, pieces_in};

/// Bytes of a [`CutData`]'s body.
pub const CUT_DATA_LEN: usize = 64;

/// What a `ReadCut` asked for: the payload that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutData {
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
    /// CRC of the whole block, as stored.
    pub block_crc: u32,
    /// CRC of the block's bytes before the payload.
    pub before: u32,
    /// CRC of the block's bytes behind the payload.
    pub behind: u32,
    /// The chunk's state.
    pub state: ChunkState,
}

impl CutData {
    /// Compares offset and CRCs with the payload that the header announces.
    ///
    /// # Errors
    /// [`BodyError::OutOfBounds`].
    pub fn check_payload(&self, payload_len: u32) -> Result<(), BodyError> {
        let end = u64::from(self.offset) + u64::from(payload_len);
        let fits = match payload_len {
            0 => {
                let crcs = (self.block_crc, self.before, self.behind);
                self.offset >= self.chunk_length && crcs == (0, 0, 0)
            }
            _ => {
                end <= u64::from(self.chunk_length.min(CHUNK_LEN_MAX))
                    && pieces_in(self.offset, payload_len) == 1
            }
        };
        if fits {
            Ok(())
        } else {
            Err(BodyError::OutOfBounds)
        }
    }
}

impl Message for CutData {
    const KIND: Kind = Kind::CutData;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.handle).put(&self.version).put(&self.serial);
        out.put(&self.chunk_length).put(&self.offset);
        out.put(&self.block_crc)
            .put(&self.before)
            .put(&self.behind)
            .put(&self.state);
        out.reserved(19);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let message = Self {
            handle: input.take()?,
            version: input.take()?,
            serial: input.take()?,
            chunk_length: input.take()?,
            offset: input.take()?,
            block_crc: input.take()?,
            before: input.take()?,
            behind: input.take()?,
            state: input.take()?,
        };
        input.reserved(19)?;
        Ok(message)
    }
}
