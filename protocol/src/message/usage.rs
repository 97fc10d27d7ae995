//! `Usage`: what a tree takes (`spec/messages.md` section 7).

use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::size::PATH_LEN_MAX;

/// Asks for the sums over a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Its top.
    pub path: String,
}

impl Message for Usage {
    const KIND: Kind = Kind::Usage;

    fn encode(&self, out: &mut Encoder) {
        out.string(&self.path);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            path: input.string(PATH_LEN_MAX)?.to_owned(),
        })
    }
}

/// The sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageReply {
    /// Files.
    pub files: u64,
    /// Folders, the top among them.
    pub folders: u64,
    /// Sum of the sizes.
    pub bytes: u64,
    /// What the replicas wanted take.
    pub stored: u64,
}

impl Message for UsageReply {
    const KIND: Kind = Kind::UsageReply;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.files)
            .put(&self.folders)
            .put(&self.bytes)
            .put(&self.stored);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            files: input.take()?,
            folders: input.take()?,
            bytes: input.take()?,
            stored: input.take()?,
        })
    }
}
