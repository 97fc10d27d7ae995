//! `Remove` (`spec/messages.md` section 5).

use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::RequestId;
use crate::size::PATH_LEN_MAX;

/// Moves a file or folder to the trash, or removes it for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remove {
    /// Makes the request be done once.
    pub request: RequestId,
    /// What.
    pub path: String,
    /// A folder that is not empty, too.
    pub recursive: bool,
    /// For good, not into the trash.
    pub purge: bool,
}

impl Message for Remove {
    const KIND: Kind = Kind::Remove;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.request)
            .string(&self.path)
            .put(&self.recursive)
            .put(&self.purge);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            request: input.take()?,
            path: input.string(PATH_LEN_MAX)?.to_owned(),
            recursive: input.take()?,
            purge: input.take()?,
        })
    }
}

/// It is gone, durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Files that went.
    pub files: u64,
    /// The sum of their sizes.
    pub bytes: u64,
}

impl Message for Removed {
    const KIND: Kind = Kind::Removed;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.files).put(&self.bytes);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            files: input.take()?,
            bytes: input.take()?,
        })
    }
}
