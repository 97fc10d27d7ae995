//! `ExtendLeases`: primaries with work keep their leases (`spec/messages.md` section 14.2).

use super::{Kind, Message};
use crate::codec::{Decoder, Encoder, Field};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, Epoch, Serial};
use crate::size::LEASES_MAX;

/// Asks for the leases of the chunks that a chunkserver orders mutations of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtendLeases {
    /// Of the master that it obeys.
    pub epoch: Epoch,
    /// The chunks with work.
    pub leases: Vec<HeldLease>,
}

impl Message for ExtendLeases {
    const KIND: Kind = Kind::ExtendLeases;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.epoch).list(&self.leases);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            epoch: input.take()?,
            leases: input.list(LEASES_MAX)?,
        })
    }
}

/// A lease, and how far its chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldLease {
    /// Which chunk.
    pub handle: ChunkHandle,
    /// The version that the lease is of.
    pub version: ChunkVersion,
    /// Bytes committed.
    pub length: u32,
    /// The last mutation that is committed.
    pub serial: Serial,
}

impl Field for HeldLease {
    const LEN_MIN: usize =
        ChunkHandle::LEN_MIN + ChunkVersion::LEN_MIN + u32::LEN_MIN + Serial::LEN_MIN;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.handle)
            .put(&self.version)
            .put(&self.length)
            .put(&self.serial);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            handle: input.take()?,
            version: input.take()?,
            length: input.take()?,
            serial: input.take()?,
        })
    }
}

/// The leases that go on. What isn't in it does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeasesExtended {
    /// One a chunk.
    pub extended: Vec<ExtendedLease>,
}

impl Message for LeasesExtended {
    const KIND: Kind = Kind::LeasesExtended;

    fn encode(&self, out: &mut Encoder) {
        out.list(&self.extended);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            extended: input.list(LEASES_MAX)?,
        })
    }
}

/// A lease that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtendedLease {
    /// Which chunk.
    pub handle: ChunkHandle,
    /// The version that the lease is of.
    pub version: ChunkVersion,
    /// Milliseconds from the sending of the request.
    pub lease: u32,
}

impl Field for ExtendedLease {
    const LEN_MIN: usize = ChunkHandle::LEN_MIN + ChunkVersion::LEN_MIN + u32::LEN_MIN;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.handle).put(&self.version).put(&self.lease);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            handle: input.take()?,
            version: input.take()?,
            lease: input.take()?,
        })
    }
}
