//! `Rename` (`spec/messages.md` section 5).

use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::RequestId;
use crate::size::PATH_LEN_MAX;

/// Moves a file or a folder; never over something that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    /// Makes the request be done once.
    pub request: RequestId,
    /// What.
    pub source: String,
    /// Its new path.
    pub target: String,
}

impl Message for Rename {
    const KIND: Kind = Kind::Rename;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.request)
            .string(&self.source)
            .string(&self.target);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            request: input.take()?,
            source: input.string(PATH_LEN_MAX)?.to_owned(),
            target: input.string(PATH_LEN_MAX)?.to_owned(),
        })
    }
}

/// It has moved, durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renamed;

impl Message for Renamed {
    const KIND: Kind = Kind::Renamed;

    fn encode(&self, _: &mut Encoder) {}

    fn decode(_: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self)
    }
}
