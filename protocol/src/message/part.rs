//! A part of a record that is longer than one frame's payload (`spec/messages.md` section 14.4).

use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::record::RECORD_LEN_MAX;
use crate::size::{BLOCK_LEN, PAYLOAD_LEN_MAX};

/// Where a frame's bytes lie in the record that they are a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Part {
    /// Where they begin: a multiple of 65,536.
    pub offset: u32,
    /// Bytes of the whole record: more than a frame carries, at most what a record may have.
    pub whole_length: u32,
}

impl Part {
    /// Whether so many bytes can be this part: it ends where the next one can begin, or with the
    /// record.
    pub(super) fn takes(self, length: u32) -> bool {
        let end = u64::from(self.offset) + u64::from(length);
        let whole = u64::from(self.whole_length);
        let is_longer_than_a_frame =
            self.whole_length > PAYLOAD_LEN_MAX && self.whole_length as usize <= RECORD_LEN_MAX;
        let block = u64::from(BLOCK_LEN);
        is_longer_than_a_frame
            && self.offset.is_multiple_of(BLOCK_LEN)
            && (end == whole || (end < whole && end.is_multiple_of(block)))
    }

    pub(super) fn encode(part: Option<Self>, out: &mut Encoder) {
        let part = part.unwrap_or(Self {
            offset: 0,
            whole_length: 0,
        });
        out.put(&part.offset).put(&part.whole_length);
    }

    pub(super) fn decode(input: &mut Decoder<'_>) -> Result<Option<Self>, BodyError> {
        let part = Self {
            offset: input.take()?,
            whole_length: input.take()?,
        };
        match part.whole_length {
            0 if part.offset > 0 => Err(BodyError::OutOfBounds),
            0 => Ok(None),
            _ => Ok(Some(part)),
        }
    }
}
