//! `GrantLease`: a primary gets the right to order mutations (`spec/messages.md` section 14.3).

use super::shared::Hop;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, Epoch, FileId, Serial};
use crate::size::REPLICAS_MAX;
use crate::ticket::Ticket;

/// Makes its receiver the primary of a version that the log has (`spec/replication.md` section 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantLease {
    /// Of the master that orders.
    pub epoch: Epoch,
    /// Which chunk.
    pub handle: ChunkHandle,
    /// The active version.
    pub version: ChunkVersion,
    /// Where it begins.
    pub begin_serial: Serial,
    /// Whether acks at `memory` are allowed.
    pub memory: bool,
    /// The file has another last chunk: this one takes no records.
    pub closed: bool,
    /// Milliseconds, counted from the arrival of this order.
    pub lease: u32,
    /// The right to write, bound to the chain.
    pub ticket: Ticket,
    /// All members in order, the receiver first.
    pub chain: Vec<Hop>,
    /// The file that the chunk belongs to.
    pub file_id: FileId,
    /// Its place in that file.
    pub index: u32,
    /// Lower fencing tokens are refused; 0 for none.
    pub lock_token: u64,
}

impl Message for GrantLease {
    const KIND: Kind = Kind::GrantLease;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.epoch)
            .put(&self.handle)
            .put(&self.version)
            .put(&self.begin_serial)
            .put(&self.memory)
            .put(&self.closed)
            .put(&self.lease)
            .put(&self.ticket)
            .list(&self.chain)
            .put(&self.file_id)
            .put(&self.index)
            .put(&self.lock_token);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let message = Self {
            epoch: input.take()?,
            handle: input.take()?,
            version: input.take()?,
            begin_serial: input.take()?,
            memory: input.take()?,
            closed: input.take()?,
            lease: input.take()?,
            ticket: input.take()?,
            chain: input.list(REPLICAS_MAX)?,
            file_id: input.take()?,
            index: input.take()?,
            lock_token: input.take()?,
        };
        match !message.chain.is_empty() {
            true => Ok(message),
            false => Err(BodyError::OutOfBounds),
        }
    }
}

/// The lease is taken, or goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseGranted;

impl Message for LeaseGranted {
    const KIND: Kind = Kind::LeaseGranted;

    fn encode(&self, _: &mut Encoder) {}

    fn decode(_: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self)
    }
}
