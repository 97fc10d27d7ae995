//! `AbortPending`: an upload is given up (`spec/messages.md` section 6).

use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::{FileId, RequestId};

/// Gives a pending file up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortPending {
    /// Makes the request be done once.
    pub request: RequestId,
    /// Which; an unknown one succeeds.
    pub file_id: FileId,
}

impl Message for AbortPending {
    const KIND: Kind = Kind::AbortPending;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.request).put(&self.file_id);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            request: input.take()?,
            file_id: input.take()?,
        })
    }
}

/// It is gone, durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingAborted;

impl Message for PendingAborted {
    const KIND: Kind = Kind::PendingAborted;

    fn encode(&self, _: &mut Encoder) {}

    fn decode(_: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self)
    }
}
