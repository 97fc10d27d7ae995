//! `MakeFile`: an empty file appears (`spec/messages.md` section 5).

use super::shared::Node;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::RequestId;
use crate::size::{PATH_LEN_MAX, REPLICAS_MAX};

/// Makes a file without bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MakeFile {
    /// Makes the request be done once.
    pub request: RequestId,
    /// Where.
    pub path: String,
    /// Copies wanted of the chunks that it gets; 0 for the cluster's default.
    pub replicas: u8,
    /// Make what is missing above.
    pub parents: bool,
}

impl Message for MakeFile {
    const KIND: Kind = Kind::MakeFile;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.request)
            .string(&self.path)
            .put(&self.replicas)
            .put(&self.parents);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let message = Self {
            request: input.take()?,
            path: input.string(PATH_LEN_MAX)?.to_owned(),
            replicas: input.take()?,
            parents: input.take()?,
        };
        match usize::from(message.replicas) <= REPLICAS_MAX {
            true => Ok(message),
            false => Err(BodyError::OutOfBounds),
        }
    }
}

/// The file is there, durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMade {
    /// What it is.
    pub node: Node,
}

impl Message for FileMade {
    const KIND: Kind = Kind::FileMade;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.node);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            node: input.take()?,
        })
    }
}
