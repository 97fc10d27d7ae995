//! `Truncate`: a file gets another size (`spec/messages.md` section 14.1).

use super::shared::Node;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::RequestId;
use crate::size::PATH_LEN_MAX;

/// Cuts a file, or lets it end in zeros (`spec/replication.md` section 10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truncate {
    /// Makes it be done once.
    pub request: RequestId,
    /// Which file.
    pub path: String,
    /// Bytes from now on.
    pub size: u64,
}

impl Message for Truncate {
    const KIND: Kind = Kind::Truncate;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.request).string(&self.path).put(&self.size);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            request: input.take()?,
            path: input.string(PATH_LEN_MAX)?.to_owned(),
            size: input.take()?,
        })
    }
}

/// It has that size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated {
    /// The file.
    pub node: Node,
}

impl Message for Truncated {
    const KIND: Kind = Kind::Truncated;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.node);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            node: input.take()?,
        })
    }
}
