//! `ReportChain`: an open chunk needs the master (`spec/messages.md` section 14.2).

use super::shared::ChainTrouble;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, Serial, ServerId};

/// Something that the master should act on. Saying it twice does no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportChain {
    /// Which chunk.
    pub handle: ChunkHandle,
    /// The version that the reporter is in.
    pub version: ChunkVersion,
    /// The last mutation that it has.
    pub serial: Serial,
    /// What is the matter.
    pub what: ChainTrouble,
    /// The server whose fault it is, or none.
    pub blamed: ServerId,
    /// Why, as a number of a [`Status`](crate::status::Status), or 0.
    pub status: u16,
}

impl Message for ReportChain {
    const KIND: Kind = Kind::ReportChain;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.handle)
            .put(&self.version)
            .put(&self.serial)
            .put(&self.what)
            .put(&self.blamed)
            .put(&self.status);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            handle: input.take()?,
            version: input.take()?,
            serial: input.take()?,
            what: input.take()?,
            blamed: input.take()?,
            status: input.take()?,
        })
    }
}

/// Taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainReported;

impl Message for ChainReported {
    const KIND: Kind = Kind::ChainReported;

    fn encode(&self, _: &mut Encoder) {}

    fn decode(_: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self)
    }
}
