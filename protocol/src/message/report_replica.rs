//! `ReportReplica`: a reader met a bad replica (`spec/messages.md` section 8).

use super::shared::ReplicaFault;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, ServerId};

/// Tells the master, which has the chunkserver verify for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportReplica {
    /// The chunk.
    pub handle: ChunkHandle,
    /// Its version.
    pub version: ChunkVersion,
    /// Who holds the replica.
    pub server: ServerId,
    /// What the reader met.
    pub fault: ReplicaFault,
}

impl Message for ReportReplica {
    const KIND: Kind = Kind::ReportReplica;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.handle)
            .put(&self.version)
            .put(&self.server)
            .put(&self.fault);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            handle: input.take()?,
            version: input.take()?,
            server: input.take()?,
            fault: input.take()?,
        })
    }
}

/// Taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaReported;

impl Message for ReplicaReported {
    const KIND: Kind = Kind::ReplicaReported;

    fn encode(&self, _: &mut Encoder) {}

    fn decode(_: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self)
    }
}
