//! `RevokeLease`: a lease ends before its time (`spec/messages.md` section 14.3).

use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, Epoch, Serial};

/// Has the primary drain and stop, for good in this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevokeLease {
    /// Of the master that orders.
    pub epoch: Epoch,
    /// Which chunk.
    pub handle: ChunkHandle,
    /// Whose lease ends.
    pub version: ChunkVersion,
}

impl Message for RevokeLease {
    const KIND: Kind = Kind::RevokeLease;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.epoch).put(&self.handle).put(&self.version);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            epoch: input.take()?,
            handle: input.take()?,
            version: input.take()?,
        })
    }
}

/// It has drained, or held none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRevoked {
    /// The last that it ordered.
    pub serial: Serial,
    /// The last that every member has.
    pub commit_mark: Serial,
}

impl Message for LeaseRevoked {
    const KIND: Kind = Kind::LeaseRevoked;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.serial).put(&self.commit_mark);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            serial: input.take()?,
            commit_mark: input.take()?,
        })
    }
}
