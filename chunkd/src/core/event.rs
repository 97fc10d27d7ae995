//! What the chunkserver's machine is told.

use sarsen_protocol::id::{ChunkHandle, ClusterId, DirectoryId, Epoch};
use sarsen_protocol::message::{
    AnyMessage, ChunkCopied, ChunkVerified, DiskBeat, ErrorBody, HeldChunk, Kind, Registered,
    ReportChain,
};
use sarsen_protocol::status::Status;

use super::action::Order;

/// Tells a connection from every other of this process.
pub type ConnectionId = u64;

/// A status with its particulars.
pub type Refusal = (Status, ErrorBody);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time has passed; nothing else did.
    Tick,
    /// A master was reached, and the hello is done.
    Dialled {
        /// The connection to it.
        connection: ConnectionId,
        /// Its cluster.
        cluster_id: ClusterId,
    },
    /// No master was reached.
    DialFailed {
        /// Why, in words.
        text: String,
        /// Another try can end otherwise.
        is_passing: bool,
    },
    /// A connection has ended.
    Disconnected {
        /// Which.
        connection: ConnectionId,
    },
    /// The master answered the registration.
    Registered {
        /// Over which connection.
        connection: ConnectionId,
        /// What it said.
        answer: Result<Registered, Refusal>,
    },
    /// A directory's disk could not keep, in good time, what was to be kept. Told before
    /// [`Self::Kept`]: the server goes on without this directory.
    LeftOut {
        /// For which connection.
        connection: ConnectionId,
        /// Which.
        directory_id: DirectoryId,
    },
    /// The disk of a directory that was left out has kept it at last.
    KeptLate {
        /// For which connection.
        connection: ConnectionId,
        /// Which.
        directory_id: DirectoryId,
    },
    /// What was to be kept durably is, in every directory that was not left out.
    Kept {
        /// For which connection.
        connection: ConnectionId,
    },
    /// It could not be kept, and the master can't be obeyed.
    KeepFailed {
        /// For which connection.
        connection: ConnectionId,
        /// Why, in words.
        text: String,
        /// A directory belongs to somebody else, which stays so.
        is_foreign: bool,
    },
    /// The master answered a heartbeat.
    HeartbeatAnswered {
        /// Over which connection.
        connection: ConnectionId,
        /// The heartbeat's number.
        sequence: u64,
        /// The master's epoch, or that it refused.
        answer: Result<Epoch, Status>,
    },
    /// A slice of an inventory was read.
    SliceRead {
        /// For which registration: one that was read for an older one says nothing of what
        /// changed since.
        connection: ConnectionId,
        /// Of which directory.
        directory_id: DirectoryId,
        /// In the order of handles.
        held: Vec<HeldChunk>,
    },
    /// The master took a message of an inventory, or refused it.
    InventoryAnswered {
        /// Over which connection.
        connection: ConnectionId,
        /// Of which directory.
        directory_id: DirectoryId,
        /// Whether it wants a full report.
        answer: Result<bool, Status>,
    },
    /// A chunk has changed, or is gone.
    ChunkChanged {
        /// Where.
        directory_id: DirectoryId,
        /// Which.
        handle: ChunkHandle,
        /// As it is now.
        held: Option<HeldChunk>,
    },
    /// How a directory is, from its own I/O path.
    DiskBeat(DiskBeat),
    /// The master orders.
    Ordered {
        /// Over which connection.
        connection: ConnectionId,
        /// The number that the answer must carry.
        request_id: u64,
        /// The epoch that the order carries.
        epoch: Epoch,
        /// What.
        order: Order,
    },
    /// Orders to delete ran.
    Deleted(Vec<(ConnectionId, u64, Result<(), Refusal>)>),
    /// An order to verify ran.
    Verified {
        /// Over which connection it came.
        connection: ConnectionId,
        /// The number that the answer must carry.
        request_id: u64,
        /// What was found.
        answer: Result<ChunkVerified, Refusal>,
    },
    /// A member of an open chunk has carried out an order, or refused it.
    ChunkOrderAnswered {
        /// Over which connection it came.
        connection: ConnectionId,
        /// The number that the answer must carry.
        request_id: u64,
        /// The request that it came as.
        asked: Kind,
        /// What came of it.
        answer: Box<Result<AnyMessage, Refusal>>,
    },
    /// A member of an open chunk has something for the master to act on.
    ChainTrouble(ReportChain),
    /// The master has answered such a report.
    ChainReported {
        /// Over which connection.
        connection: ConnectionId,
        /// Which.
        report: ReportChain,
    },
    /// An order to copy ran.
    Copied {
        /// Over which connection it came.
        connection: ConnectionId,
        /// The number that the answer must carry.
        request_id: u64,
        /// Which chunk.
        handle: ChunkHandle,
        /// What came of it.
        answer: Result<ChunkCopied, Refusal>,
    },
}
