//! What the machine wants done.

use sarsen_protocol::id::{
    ChunkHandle, ChunkVersion, DirectoryId, Epoch, FileId, Serial, ServerId, StartNumber,
};
use sarsen_protocol::message::{AnyMessage, ErrorBody};
use sarsen_protocol::status::Status;

use super::command::Entry;
use super::event::{ConnectionId, OrderId, Token};

/// What the machine wants done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Append to the operation log; tell by `handle_flushed` when it is stable.
    Append(Entry),
    /// Answer a request.
    Reply {
        /// Which.
        to: Token,
        /// With what.
        reply: Result<AnyMessage, Failure>,
    },
    /// Send a request to a chunkserver; its reply comes back by `handle_order_reply`.
    Order {
        /// The chunkserver's connection.
        connection: ConnectionId,
        /// The request's number.
        order: OrderId,
        /// The request.
        message: AnyMessage,
    },
    /// Say goodbye and close.
    Close {
        /// Which connection.
        connection: ConnectionId,
        /// Why.
        failure: Failure,
    },
    /// Save the state as of the entry that `handle_flushed` named.
    TakeCheckpoint {
        /// That entry.
        index: u64,
        /// The checkpoint's body.
        body: Vec<u8>,
    },
    /// Tell whoever watches.
    Alarm(Alarm),
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// For programs.
    pub status: Status,
    /// For people: what is wrong, and what to do.
    pub text: String,
    /// How long to wait, or 0.
    pub retry_after_ms: u32,
}

impl Failure {
    /// A failure that time does not heal by itself.
    #[must_use]
    pub fn new(status: Status, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
            retry_after_ms: 0,
        }
    }

    /// The same, to be tried again after a while.
    #[must_use]
    pub fn retry_after(self, retry_after_ms: u32) -> Self {
        Self {
            retry_after_ms,
            ..self
        }
    }

    /// The body of the frame that carries it.
    #[must_use]
    pub fn to_body(&self) -> ErrorBody {
        ErrorBody {
            text: self.text.clone(),
            server: ServerId::NONE,
            version: ChunkVersion::NONE,
            serial: Serial::NONE,
            retry_after: self.retry_after_ms,
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::new(status, status.meaning())
    }
}

/// Proof that this master's log is not the whole story: it was lost in part, or put back from an
/// older copy. Nothing is deleted or changed from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// A server has a chunk that this log never gave out.
    ChunkAboveLog {
        /// The server.
        server: ServerId,
        /// The chunk, or the highest handle in a directory.
        handle: ChunkHandle,
        /// Its version, or the highest.
        version: ChunkVersion,
    },
    /// A server has a chunk of a file that this log never began.
    FileAboveLog {
        /// The server.
        server: ServerId,
        /// The chunk.
        handle: ChunkHandle,
        /// The file that it was made for.
        file: FileId,
    },
    /// A server has obeyed a higher epoch, or this one or the one before of another incarnation.
    EpochAboveLog {
        /// The server.
        server: ServerId,
        /// What it obeyed.
        epoch: Epoch,
    },
    /// A directory was registered at a later start than the log has.
    StartAboveLog {
        /// The server.
        server: ServerId,
        /// The directory.
        directory: DirectoryId,
        /// The start that was registered.
        start_number: StartNumber,
    },
    /// A server has an id that this log never gave out.
    ServerAboveLog {
        /// The server.
        server: ServerId,
    },
}
