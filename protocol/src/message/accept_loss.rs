//! `AcceptLoss`: a person gives up what nobody may have any more (`spec/messages.md` section 14.1).

use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, RequestId, ServerId};

/// Makes the newest copy that is left of an unavailable chunk the chunk (`spec/replication.md`
/// section 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptLoss {
    /// Makes it be done once.
    pub request: RequestId,
    /// Which chunk.
    pub handle: ChunkHandle,
}

impl Message for AcceptLoss {
    const KIND: Kind = Kind::AcceptLoss;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.request).put(&self.handle);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            request: input.take()?,
            handle: input.take()?,
        })
    }
}

/// The chunk is sealed as that copy has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LossAccepted {
    /// The version that it is sealed in.
    pub version: ChunkVersion,
    /// Its bytes.
    pub length: u32,
    /// Whose copy it is.
    pub server: ServerId,
}

impl Message for LossAccepted {
    const KIND: Kind = Kind::LossAccepted;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.version).put(&self.length).put(&self.server);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            version: input.take()?,
            length: input.take()?,
            server: input.take()?,
        })
    }
}
