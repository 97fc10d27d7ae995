//! `Report`: the servers and their disks (`spec/messages.md` section 8).

use super::shared::{Disk, ServerState};
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder, Field};
use crate::error::BodyError;
use crate::id::{Epoch, ServerId};
use crate::size::{ADDRESS_LEN_MAX, DIRECTORIES_MAX, NAME_LEN_MAX, SERVERS_MAX};

/// Asks for the state of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report;

impl Message for Report {
    const KIND: Kind = Kind::Report;

    fn encode(&self, _: &mut Encoder) {}

    fn decode(_: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self)
    }
}

/// The state of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportReply {
    /// Of this master.
    pub epoch: Epoch,
    /// Whether changes still wait for reports.
    pub safe_mode: bool,
    /// Whether the log was lost in part.
    pub read_only: bool,
    /// All that ever registered.
    pub servers: Vec<ServerReport>,
    /// How the repair of chunks goes.
    pub repairs: Repairs,
}

impl Message for ReportReply {
    const KIND: Kind = Kind::ReportReply;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.epoch)
            .put(&self.safe_mode)
            .put(&self.read_only)
            .list(&self.servers)
            .put(&self.repairs);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            epoch: input.take()?,
            safe_mode: input.take()?,
            read_only: input.take()?,
            servers: input.list(SERVERS_MAX)?,
            repairs: input.take()?,
        })
    }
}

/// One chunkserver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerReport {
    /// Its id.
    pub id: ServerId,
    /// Of its control plane.
    pub control_addr: String,
    /// Of its data plane.
    pub data_addr: String,
    /// Of its HTTP port.
    pub http_addr: String,
    /// Empty for none.
    pub rack: String,
    /// How it stands.
    pub state: ServerState,
    /// Milliseconds since; `u32::MAX` if this master heard none.
    pub last_heartbeat: u32,
    /// Its directories.
    pub disks: Vec<Disk>,
}

impl Field for ServerReport {
    const LEN_MIN: usize =
        ServerId::LEN_MIN + 2 + 2 + 2 + 2 + ServerState::LEN_MIN + u32::LEN_MIN + 4;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.id)
            .string(&self.control_addr)
            .string(&self.data_addr)
            .string(&self.http_addr)
            .string(&self.rack)
            .put(&self.state)
            .put(&self.last_heartbeat)
            .list(&self.disks);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            id: input.take()?,
            control_addr: input.string(ADDRESS_LEN_MAX)?.to_owned(),
            data_addr: input.string(ADDRESS_LEN_MAX)?.to_owned(),
            http_addr: input.string(ADDRESS_LEN_MAX)?.to_owned(),
            rack: input.string(NAME_LEN_MAX)?.to_owned(),
            state: input.take()?,
            last_heartbeat: input.take()?,
            disks: input.list(DIRECTORIES_MAX)?,
        })
    }
}

/// How many chunks are to be copied, are being copied, and were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// Chunks that are to be copied and are not yet.
    pub waiting: u64,
    /// Copies under way.
    pub running: u32,
    /// Copies that this master ordered and that counted in the end.
    pub done: u64,
    /// Copies that it ordered and that did not.
    pub failed: u64,
}

impl Field for Repairs {
    const LEN_MIN: usize = 8 + 4 + 8 + 8;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.waiting)
            .put(&self.running)
            .put(&self.done)
            .put(&self.failed);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            waiting: input.take()?,
            running: input.take()?,
            done: input.take()?,
            failed: input.take()?,
        })
    }
}
