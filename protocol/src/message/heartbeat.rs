//! `Heartbeat`: a chunkserver lives (`spec/messages.md` section 9).

use super::shared::Disk;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder, Field};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, DirectoryId, Epoch, ServerId};
use crate::size::{CORRUPT_MAX, DIRECTORIES_MAX, HEAT_MAX};

/// How a chunkserver and its disks are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Who.
    pub server_id: ServerId,
    /// Counts from 1 at each registration.
    pub sequence: u64,
    /// Its directories.
    pub disks: Vec<DiskBeat>,
    /// Found bad since the last heartbeat that was answered.
    pub corrupt: Vec<CorruptChunk>,
    /// The most read since the last heartbeat.
    pub heat: Vec<Heat>,
    /// Requests and streams in hand.
    pub load: u32,
}

impl Message for Heartbeat {
    const KIND: Kind = Kind::Heartbeat;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.server_id)
            .put(&self.sequence)
            .list(&self.disks)
            .list(&self.corrupt)
            .list(&self.heat)
            .put(&self.load);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            server_id: input.take()?,
            sequence: input.take()?,
            disks: input.list(DIRECTORIES_MAX)?,
            corrupt: input.list(CORRUPT_MAX)?,
            heat: input.list(HEAT_MAX)?,
            load: input.take()?,
        })
    }
}

/// The master lives too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatReply {
    /// Of this master.
    pub epoch: Epoch,
}

impl Message for HeartbeatReply {
    const KIND: Kind = Kind::HeartbeatReply;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.epoch);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            epoch: input.take()?,
        })
    }
}

/// A directory, from its own I/O path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskBeat {
    /// Its room and state.
    pub disk: Disk,
    /// Milliseconds since its I/O path was last seen working.
    pub beat_age: u32,
}

impl Field for DiskBeat {
    const LEN_MIN: usize = Disk::LEN_MIN + u32::LEN_MIN;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.disk).put(&self.beat_age);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            disk: input.take()?,
            beat_age: input.take()?,
        })
    }
}

/// A replica that did not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CorruptChunk {
    /// Which.
    pub handle: ChunkHandle,
    /// Its version.
    pub version: ChunkVersion,
    /// Where it lies.
    pub directory_id: DirectoryId,
}

impl Field for CorruptChunk {
    const LEN_MIN: usize = ChunkHandle::LEN_MIN + ChunkVersion::LEN_MIN + DirectoryId::LEN_MIN;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.handle)
            .put(&self.version)
            .put(&self.directory_id);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            handle: input.take()?,
            version: input.take()?,
            directory_id: input.take()?,
        })
    }
}

/// How much a chunk was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heat {
    /// Which.
    pub handle: ChunkHandle,
    /// Reads since the last heartbeat.
    pub reads: u32,
}

impl Field for Heat {
    const LEN_MIN: usize = ChunkHandle::LEN_MIN + u32::LEN_MIN;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.handle).put(&self.reads);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            handle: input.take()?,
            reads: input.take()?,
        })
    }
}
