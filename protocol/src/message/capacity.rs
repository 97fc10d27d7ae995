//! `Capacity`: what the cluster can hold (`spec/messages.md` section 7).

use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;

/// Asks for the sums over all disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity;

impl Message for Capacity {
    const KIND: Kind = Kind::Capacity;

    fn encode(&self, _: &mut Encoder) {}

    fn decode(_: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self)
    }
}

/// The sums, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapacityReply {
    /// Of the live servers' disks.
    pub total: u64,
    /// What ordinary users may still take.
    pub free: u64,
    /// What the chunks of files take, copies counted.
    pub used: u64,
    /// What the chunks of files in the trash take.
    pub trash: u64,
}

impl Message for CapacityReply {
    const KIND: Kind = Kind::CapacityReply;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.total)
            .put(&self.free)
            .put(&self.used)
            .put(&self.trash);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            total: input.take()?,
            free: input.take()?,
            used: input.take()?,
            trash: input.take()?,
        })
    }
}
