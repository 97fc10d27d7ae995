//! What the chunkserver's machine wants done.

use std::time::Duration;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, ClusterId, DirectoryId, Epoch, ServerId};
use sarsen_protocol::message::{
    AnyMessage, CopyChunk, Heartbeat, Inventory, Kind, Register, ReportChain, TicketKey,
};
use sarsen_protocol::status::Status;

use super::event::{ConnectionId, Refusal};
use super::{member, mutation};

/// What a master may order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Move a replica to the holding folder.
    Delete {
        /// Which chunk.
        handle: ChunkHandle,
        /// Which version of it.
        version: ChunkVersion,
    },
    /// Read a replica back from the medium.
    Verify {
        /// Which chunk.
        handle: ChunkHandle,
        /// Which version of it.
        version: ChunkVersion,
    },
    /// Make a replica by pull from another chunkserver.
    Copy(Box<CopyChunk>),
    /// Something for a member of an open chunk, or one that is to be opened.
    Chunk(Box<mutation::Order>),
}

impl Order {
    /// The request that it came as.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Delete { .. } => Kind::DeleteChunk,
            Self::Verify { .. } => Kind::VerifyChunk,
            Self::Copy(_) => Kind::CopyChunk,
            Self::Chunk(order) => kind_of(order),
        }
    }
}

/// The request that an order to a member of an open chunk came as.
#[must_use]
pub const fn kind_of(order: &mutation::Order) -> Kind {
    match order {
        mutation::Order::Change(member::Order::Promise(_)) => Kind::Promise,
        mutation::Order::Change(member::Order::Begin(_)) => Kind::Begin,
        mutation::Order::Change(member::Order::PrepareSeal(_)) => Kind::PrepareSeal,
        mutation::Order::Change(member::Order::Settle(_)) => Kind::Settle,
        mutation::Order::Grant(_) => Kind::GrantLease,
        mutation::Order::Revoke(_) => Kind::RevokeLease,
    }
}

/// An order to delete whose epoch and connection were found to be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeleteOrder {
    /// Over which connection it came.
    pub connection: ConnectionId,
    /// The number that its answer must carry.
    pub request_id: u64,
    /// Which chunk.
    pub handle: ChunkHandle,
    /// Which version of it.
    pub version: ChunkVersion,
}

/// What is to be kept durably before a master is obeyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToKeep {
    /// The cluster that the directories belong to.
    pub cluster_id: ClusterId,
    /// The chunkserver that they belong to.
    pub server_id: ServerId,
    /// The cluster's chunk size.
    pub chunk_size: u32,
    /// The master's epoch.
    pub epoch: Epoch,
    /// The directories that the master lets count; the others are left as they are.
    pub directories: Vec<DirectoryId>,
}

/// Why the chunkserver can't go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// No master will take this chunkserver: another key, cluster or protocol version.
    NotWelcome(String),
    /// A directory belongs to another cluster or server.
    Foreign(String),
    /// The master lets none of the directories count.
    NothingToServe,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Reach this one of the masters, counted from 0 in the order of the command line.
    Dial {
        /// Which.
        master: usize,
    },
    /// End a connection.
    Close {
        /// Which.
        connection: ConnectionId,
    },
    /// Ask to be registered.
    Register {
        /// Over which connection.
        connection: ConnectionId,
        /// As whom.
        register: Register,
    },
    /// Adopt the directories and take note of the epoch, durably; then say so.
    Keep {
        /// For which connection.
        connection: ConnectionId,
        /// What.
        keep: ToKeep,
    },
    /// Serve, or go on serving: the chunkserver is registered.
    Serve {
        /// What tickets are checked with.
        ticket_keys: Vec<TicketKey>,
        /// The directories that count.
        directories: Vec<DirectoryId>,
        /// How often the directories' own I/O paths are to be looked at.
        heartbeat: Duration,
        /// Silence after which a next hop is given up.
        suspect_after: Duration,
        /// Silence after which a member of a chain serves no reads.
        dead_after: Duration,
    },
    /// Send a heartbeat; its heat and load are the sender's to fill in, who counts them.
    SendHeartbeat {
        /// Over which connection.
        connection: ConnectionId,
        /// What.
        heartbeat: Heartbeat,
    },
    /// Read a slice of an inventory.
    ReadSlice {
        /// For which registration.
        connection: ConnectionId,
        /// Of which directory.
        directory_id: DirectoryId,
        /// Behind this handle.
        after: Option<ChunkHandle>,
    },
    /// Send a message of an inventory.
    SendInventory {
        /// Over which connection.
        connection: ConnectionId,
        /// What.
        inventory: Inventory,
    },
    /// Delete these replicas now; the version of each is compared with what is on disk.
    Delete(Vec<DeleteOrder>),
    /// Verify this replica now; the version is compared with what is on disk.
    Verify {
        /// Over which connection it was ordered.
        connection: ConnectionId,
        /// The number that its answer must carry.
        request_id: u64,
        /// Which chunk.
        handle: ChunkHandle,
        /// Which version of it.
        version: ChunkVersion,
    },
    /// Copy this chunk now; handle and version are compared with what is on disk.
    Copy {
        /// Over which connection it was ordered.
        connection: ConnectionId,
        /// The number that its answer must carry.
        request_id: u64,
        /// What, and from whom.
        order: Box<CopyChunk>,
        /// How long a source may take for a frame.
        silence_max: Duration,
    },
    /// Hand an order to its chunk.
    OrderChunk {
        /// Over which connection it came.
        connection: ConnectionId,
        /// The number that its answer must carry.
        request_id: u64,
        /// What.
        order: Box<mutation::Order>,
    },
    /// Tell the master of an open chunk.
    ReportChain {
        /// Over which connection.
        connection: ConnectionId,
        /// What.
        report: ReportChain,
    },
    /// Answer an order.
    Answer {
        /// Over which connection.
        connection: ConnectionId,
        /// Which request.
        request_id: u64,
        /// Of which kind.
        asked: Kind,
        /// What.
        answer: Result<AnyMessage, Refusal>,
    },
    /// A directory is not served any more, or never was: the master says what is wrong with it.
    Unserved {
        /// Which.
        directory_id: DirectoryId,
        /// `stale_start`, or what else the master said.
        status: Status,
    },
    /// A try to be registered failed, and another follows.
    Warn(String),
    /// End the program.
    Stop(StopReason),
}
