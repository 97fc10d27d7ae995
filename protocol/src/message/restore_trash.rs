//! `RestoreTrash` (`spec/messages.md` section 5).

use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::RequestId;
use crate::size::PATH_LEN_MAX;

/// Takes an entry out of the trash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreTrash {
    /// Makes the request be done once.
    pub request: RequestId,
    /// Its number in the trash.
    pub entry: u64,
    /// Where to; empty for where it was.
    pub target: String,
}

impl Message for RestoreTrash {
    const KIND: Kind = Kind::RestoreTrash;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.request).put(&self.entry).string(&self.target);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            request: input.take()?,
            entry: input.take()?,
            target: input.string(PATH_LEN_MAX)?.to_owned(),
        })
    }
}

/// It is back, durably.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrashRestored {
    /// Where it is now.
    pub path: String,
}

impl Message for TrashRestored {
    const KIND: Kind = Kind::TrashRestored;

    fn encode(&self, out: &mut Encoder) {
        out.string(&self.path);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            path: input.string(PATH_LEN_MAX)?.to_owned(),
        })
    }
}
