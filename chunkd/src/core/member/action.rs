//! What a member is ordered, what it wants done for that, and how it answers.

use sarsen_protocol::id::{ChunkVersion, Epoch, Serial, SessionId};
use sarsen_protocol::message::{
    Begin, Begun, ErrorBody, NewChunk, PrepareSeal, PreparedSeal, Promise, Promised, SealPrepared,
    Settle,
};
use sarsen_protocol::status::Status;

#[cfg(doc)]
use super::Member;

/// The number that the answer to an order must carry.
pub type RequestId = u64;

/// An order of a version change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Refuse everything older.
    Promise(Promise),
    /// Step into a version.
    Begin(Begin),
    /// Step into a version and make a sealed form beside the chunk.
    PrepareSeal(PrepareSeal),
    /// Make the preparation the chunk.
    Settle(Settle),
}

/// What an order is answered with when it was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The promise, and all that is applied, are stable.
    Promised(Promised),
    /// The version is begun.
    Begun(Begun),
    /// The preparation is stable.
    Prepared(SealPrepared),
    /// The chunk is sealed.
    Settled,
}

/// Why something is not done.
pub type Refusal = (Status, ErrorBody);

/// What is to be done. Those that change the disk are answered by [`Member::handle_done`] or
/// [`Member::handle_failed`], and no two of them are under way at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Apply the mutations of these serials, behind those before them; answer with
    /// [`Member::handle_applied`] or [`Member::handle_not_applied`].
    Apply {
        /// The first.
        first: Serial,
        /// The last.
        last: Serial,
    },
    /// End the stream that mutations come from.
    EndStream,
    /// Make this promise and everything that is applied stable.
    KeepPromise {
        /// The version.
        version: ChunkVersion,
        /// Of the master that asked.
        epoch: Epoch,
    },
    /// Make the chunk, or a clone of another, and begin with it.
    Make {
        /// The version.
        version: ChunkVersion,
        /// Where it begins.
        serial: Serial,
        /// Whether acks at `memory` are allowed.
        memory: bool,
        /// What is made.
        chunk: NewChunk,
    },
    /// Forget what lies above the serial, void what an older version prepared, begin the version.
    Begin {
        /// The version.
        version: ChunkVersion,
        /// Where it begins.
        serial: Serial,
        /// Whether acks at `memory` are allowed.
        memory: bool,
    },
    /// Make the sealed form of the version that was begun.
    Prepare {
        /// The version.
        version: ChunkVersion,
        /// The length to cut at; `None` for all bytes.
        length: Option<u32>,
        /// Sessions below have no ids in it.
        sessions_end: SessionId,
    },
    /// Make the preparation of this version the chunk.
    Settle(ChunkVersion),
    /// Answer an order.
    Answer {
        /// Which.
        to: RequestId,
        /// With what.
        answer: Box<Result<Answer, Refusal>>,
    },
}

/// How a step that changed the disk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// The promise is kept; the chunk has so many bytes and rows of ids.
    PromiseKept {
        /// Bytes.
        length: u32,
        /// Rows.
        ids: u32,
    },
    /// The version is begun; the chunk has so many bytes there.
    Begun {
        /// Bytes.
        length: u32,
    },
    /// The sealed form is stable.
    Prepared(PreparedSeal),
    /// The chunk is sealed.
    Settled,
}
