//! `Stat` (`spec/messages.md` section 7).

use super::shared::Node;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::size::PATH_LEN_MAX;

/// Asks what is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Where.
    pub path: String,
}

impl Message for Stat {
    const KIND: Kind = Kind::Stat;

    fn encode(&self, out: &mut Encoder) {
        out.string(&self.path);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            path: input.string(PATH_LEN_MAX)?.to_owned(),
        })
    }
}

/// What is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatReply {
    /// The file or folder.
    pub node: Node,
}

impl Message for StatReply {
    const KIND: Kind = Kind::StatReply;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.node);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            node: input.take()?,
        })
    }
}
