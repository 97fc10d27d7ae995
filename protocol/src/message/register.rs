//! `Register`: a chunkserver begins (`spec/messages.md` section 9).

use super::shared::Disk;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder, Field};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, DirectoryId, Epoch, ServerId, StartNonce, StartNumber};
use crate::size::{
    ADDRESS_LEN_MAX, DIRECTORIES_MAX, NAME_LEN_MAX, STARTS_OFFERED_MAX, TICKET_KEYS_MAX,
};

/// Who the chunkserver is and what it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// None at the first time.
    pub server_id: ServerId,
    /// Where its control plane is reached.
    pub control_addr: String,
    /// Where its data plane is reached.
    pub data_addr: String,
    /// Where its HTTP port is reached.
    pub http_addr: String,
    /// Empty for none.
    pub rack: String,
    /// The highest that it ever obeyed.
    pub epoch: Epoch,
    /// Its directories.
    pub directories: Vec<DirectoryReport>,
}

impl Message for Register {
    const KIND: Kind = Kind::Register;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.server_id)
            .string(&self.control_addr)
            .string(&self.data_addr)
            .string(&self.http_addr)
            .string(&self.rack)
            .put(&self.epoch)
            .list(&self.directories);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            server_id: input.take()?,
            control_addr: input.string(ADDRESS_LEN_MAX)?.to_owned(),
            data_addr: input.string(ADDRESS_LEN_MAX)?.to_owned(),
            http_addr: input.string(ADDRESS_LEN_MAX)?.to_owned(),
            rack: input.string(NAME_LEN_MAX)?.to_owned(),
            epoch: input.take()?,
            directories: input.list(DIRECTORIES_MAX)?,
        })
    }
}

/// Who the chunkserver is from now on, and the cluster's values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its id.
    pub server_id: ServerId,
    /// Of this master; every order carries it.
    pub epoch: Epoch,
    /// Bytes of a whole chunk.
    pub chunk_size: u32,
    /// Milliseconds between heartbeats.
    pub heartbeat: u32,
    /// Milliseconds of silence that make a server suspect.
    pub suspect_after: u32,
    /// Milliseconds of silence that make a server dead.
    pub dead_after: u32,
    /// Milliseconds of a lease.
    pub lease: u32,
    /// What tickets are checked with.
    pub ticket_keys: Vec<TicketKey>,
    /// What the master thinks of each directory.
    pub directories: Vec<Verdict>,
    /// Copies of chunks that a chunkserver runs at a time.
    pub repair_streams: u32,
}

impl Message for Registered {
    const KIND: Kind = Kind::Registered;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.server_id)
            .put(&self.epoch)
            .put(&self.chunk_size)
            .put(&self.heartbeat)
            .put(&self.suspect_after)
            .put(&self.dead_after)
            .put(&self.lease)
            .list(&self.ticket_keys)
            .list(&self.directories)
            .put(&self.repair_streams);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            server_id: input.take()?,
            epoch: input.take()?,
            chunk_size: input.take()?,
            heartbeat: input.take()?,
            suspect_after: input.take()?,
            dead_after: input.take()?,
            lease: input.take()?,
            ticket_keys: input.list(TICKET_KEYS_MAX)?,
            directories: input.list(DIRECTORIES_MAX)?,
            repair_streams: input.take()?,
        })
    }
}

/// A directory at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryReport {
    /// Its id.
    pub directory_id: DirectoryId,
    /// Raised at each start.
    pub start_number: StartNumber,
    /// Drawn at each start.
    pub start_nonce: StartNonce,
    /// Its room.
    pub disk: Disk,
    /// Of all chunks in it.
    pub highest_handle: ChunkHandle,
    /// Of all chunks in it.
    pub highest_version: ChunkVersion,
    /// The last start that a master is known to have registered; none if there was none.
    pub registered_number: StartNumber,
    /// Drawn at that start.
    pub registered_nonce: StartNonce,
    /// Nonces of the starts since, this one too: any of them may be in the master's log.
    pub offered: Vec<StartNonce>,
}

impl Field for DirectoryReport {
    const LEN_MIN: usize = DirectoryId::LEN_MIN
        + StartNumber::LEN_MIN
        + StartNonce::LEN_MIN
        + Disk::LEN_MIN
        + ChunkHandle::LEN_MIN
        + ChunkVersion::LEN_MIN
        + StartNumber::LEN_MIN
        + StartNonce::LEN_MIN
        + u32::LEN_MIN;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.directory_id)
            .put(&self.start_number)
            .put(&self.start_nonce)
            .put(&self.disk)
            .put(&self.highest_handle)
            .put(&self.highest_version)
            .put(&self.registered_number)
            .put(&self.registered_nonce)
            .list(&self.offered);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let message = Self {
            directory_id: input.take()?,
            start_number: input.take()?,
            start_nonce: input.take()?,
            disk: input.take()?,
            highest_handle: input.take()?,
            highest_version: input.take()?,
            registered_number: input.take()?,
            registered_nonce: input.take()?,
            offered: input.list(STARTS_OFFERED_MAX)?,
        };
        match message.disk.directory_id == message.directory_id {
            true => Ok(message),
            false => Err(BodyError::OutOfBounds),
        }
    }
}

/// A key that tickets are signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TicketKey {
    /// Named in tickets.
    pub key_id: u32,
    /// The secret.
    pub key: [u8; 32],
}

impl Field for TicketKey {
    const LEN_MIN: usize = u32::LEN_MIN + 32;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.key_id).put(&self.key);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            key_id: input.take()?,
            key: input.take()?,
        })
    }
}

/// Whether a directory's chunks count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Which.
    pub directory_id: DirectoryId,
    /// [`Status`](crate::status::Status) as a number: 0, `stale_start` or `foreign_directory`.
    pub status: u16,
}

impl Field for Verdict {
    const LEN_MIN: usize = DirectoryId::LEN_MIN + u16::LEN_MIN;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.directory_id).put(&self.status);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            directory_id: input.take()?,
            status: input.take()?,
        })
    }
}
