//! `EmptyTrash` (`spec/messages.md` section 5).

use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::RequestId;

/// Removes one entry of the trash, or all, for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmptyTrash {
    /// Makes the request be done once.
    pub request: RequestId,
    /// Its number; 0 for all.
    pub entry: u64,
}

impl Message for EmptyTrash {
    const KIND: Kind = Kind::EmptyTrash;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.request).put(&self.entry);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            request: input.take()?,
            entry: input.take()?,
        })
    }
}

/// Gone, durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrashEmptied {
    /// Entries that went.
    pub entries: u64,
    /// The sum of their sizes.
    pub bytes: u64,
}

impl Message for TrashEmptied {
    const KIND: Kind = Kind::TrashEmptied;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.entries).put(&self.bytes);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            entries: input.take()?,
            bytes: input.take()?,
        })
    }
}
