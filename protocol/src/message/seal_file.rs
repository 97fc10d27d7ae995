//! `SealFile`: what is open under a path is sealed now (`spec/messages.md` section 14.1).

use super::shared::Node;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::size::PATH_LEN_MAX;

/// Seals every open chunk of a file or of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealFile {
    /// Which file, or the top of which tree.
    pub path: String,
}

impl Message for SealFile {
    const KIND: Kind = Kind::SealFile;

    fn encode(&self, out: &mut Encoder) {
        out.string(&self.path);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            path: input.string(PATH_LEN_MAX)?.to_owned(),
        })
    }
}

/// Nothing of it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSealed {
    /// The file; of a tree its top.
    pub node: Node,
}

impl Message for FileSealed {
    const KIND: Kind = Kind::FileSealed;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.node);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            node: input.take()?,
        })
    }
}
