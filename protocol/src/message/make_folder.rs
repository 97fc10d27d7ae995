//! `MakeFolder` (`spec/messages.md` section 5).

use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::{FileId, RequestId};
use crate::size::PATH_LEN_MAX;

/// Makes a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MakeFolder {
    /// Makes the request be done once.
    pub request: RequestId,
    /// Where.
    pub path: String,
    /// Make what is missing above, and take a folder that exists for done.
    pub parents: bool,
}

impl Message for MakeFolder {
    const KIND: Kind = Kind::MakeFolder;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.request).string(&self.path).put(&self.parents);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            request: input.take()?,
            path: input.string(PATH_LEN_MAX)?.to_owned(),
            parents: input.take()?,
        })
    }
}

/// The folder is there, durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FolderMade {
    /// Its id.
    pub file_id: FileId,
}

impl Message for FolderMade {
    const KIND: Kind = Kind::FolderMade;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.file_id);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            file_id: input.take()?,
        })
    }
}
