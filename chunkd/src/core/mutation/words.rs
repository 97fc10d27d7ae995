//! What one open chunk on one member is told, and what it wants done.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use sarsen_protocol::id::{ChunkVersion, Epoch, Serial, SessionId};
use sarsen_protocol::id_row::IdRow;
use sarsen_protocol::message::{
    Appended, BatchRow, ErrorBody, GrantLease, Hop, Kind, LeaseRevoked, Mark, Marked, NewChunk,
    NewestReply, ReportChain, RevokeLease, WriteAck, WriteBatch, WriteOpen,
};
use sarsen_protocol::size::pieces_in;
use sarsen_protocol::status::Status;

use super::super::member::{self, Refusal, RequestId};

#[cfg(doc)]
use super::Replica;

/// The edge's number for a stream of the data plane that came in: from the hop before, or from a
/// client. Never used twice for one [`Replica`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// Times and bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// A neighbour that is silent for so long has failed.
    pub suspect_after: Duration,
    /// A member that hears nothing of its chain for so long serves no reads.
    pub dead_after: Duration,
    /// The own disk has failed if what it was asked for did not move for so long.
    pub disk_patience: Duration,
    /// A commit mark that no frame takes along follows in a mark of its own after so long.
    pub mark_after: Duration,
    /// Bytes that a chunk of the cluster holds.
    pub chunk_size: u32,
    /// Bytes that are ordered and not yet on all members. One mutation may always be under way.
    pub window_bytes: u64,
    /// Bytes of clients that wait to be ordered, beside one record in parts.
    pub client_bytes: u64,
}

impl Config {
    /// What fits a chunkserver: only times and the chunk's size are the cluster's.
    #[must_use]
    pub const fn new(suspect_after: Duration, dead_after: Duration, chunk_size: u32) -> Self {
        Self {
            suspect_after,
            dead_after,
            disk_patience: Duration::from_secs(60),
            mark_after: Duration::from_millis(5),
            chunk_size,
            window_bytes: 8 << 20,
            client_bytes: 32 << 20,
        }
    }
}

/// The id table of the applied state, as the store has it at the moment of the question. It may be
/// ahead of what the machine was told to be applied, and never behind.
pub trait Ids {
    /// What it says of a request.
    fn find(&self, session: SessionId, number: u64) -> Known;

    /// How many rows it has.
    fn rows(&self) -> usize;
}

/// What an id table says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Rows of its session were dropped: it can't be told whether it was done.
    SessionEnded,
    /// It is below its session's floor.
    Forgotten,
    /// It was done, or something else was under its number.
    Row(IdRow),
    /// It was never done.
    Unknown,
}

/// The table of a chunk that isn't there, or has no ids.
impl Ids for () {
    fn find(&self, _: SessionId, _: u64) -> Known {
        Known::Unknown
    }

    fn rows(&self) -> usize {
        0
    }
}

/// An order of the master, whose epoch and connection are right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// `Promise`, `Begin`, `PrepareSeal`, `Settle`.
    Change(member::Order),
    /// `GrantLease`.
    Grant(Box<GrantLease>),
    /// `RevokeLease`.
    Revoke(RevokeLease),
}

/// What an order or a question of the control plane is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// `Promised`, `Begun`, `SealPrepared`, `Settled`.
    Change(member::Answer),
    /// `LeaseGranted`.
    Granted,
    /// `LeaseRevoked`.
    Revoked(LeaseRevoked),
    /// `NewestReply`.
    Newest(NewestReply),
}

/// Mutations that follow each other, with their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutations {
    /// In which version.
    pub version: ChunkVersion,
    /// The serial of the first.
    pub first: Serial,
    /// What they are. A length may be that of a long record, above what one frame carries.
    pub rows: Vec<BatchRow>,
    /// The CRCs of each row in turn, cut at the chunk's block edges; compared with the bytes.
    pub crcs: Vec<u32>,
    /// The bytes of each row in turn, cut anywhere.
    pub payload: Vec<Bytes>,
}

/// One of [`Mutations`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneMutation<'a> {
    /// Its place in the chunk's order.
    pub serial: Serial,
    /// What it is.
    pub row: &'a BatchRow,
    /// A CRC a block that it touches.
    pub crcs: &'a [u32],
    /// All its bytes; borrowed unless it is a record that came in parts.
    pub bytes: Cow<'a, [u8]>,
}

impl Mutations {
    /// The serial of the last.
    #[must_use]
    pub fn last(&self) -> Serial {
        Serial(
            self.first
                .0
                .saturating_add(self.rows.len() as u64)
                .saturating_sub(1),
        )
    }

    /// One by one, in order.
    pub fn each(&self) -> impl Iterator<Item = OneMutation<'_>> {
        let mut crcs = self.crcs.as_slice();
        let mut bytes = Slices::new(&self.payload);
        let serials = self.first.0..;
        self.rows.iter().zip(serials).map(move |(row, serial)| {
            let pieces = pieces_in(row.offset, row.length) as usize;
            let (own, rest) = crcs.split_at_checked(pieces).unwrap_or((crcs, &[]));
            crcs = rest;
            OneMutation {
                serial: Serial(serial),
                row,
                crcs: own,
                bytes: bytes.take(row.length as usize),
            }
        })
    }
}

/// Goes through bytes that are cut anywhere.
struct Slices<'a> {
    parts: std::slice::Iter<'a, Bytes>,
    rest: &'a [u8],
}

impl<'a> Slices<'a> {
    fn new(parts: &'a [Bytes]) -> Self {
        Self {
            parts: parts.iter(),
            rest: &[],
        }
    }

    /// The next so many bytes, or those that are left.
    fn take(&mut self, length: usize) -> Cow<'a, [u8]> {
        while self.rest.is_empty() {
            match self.parts.next() {
                Some(part) => self.rest = part,
                None => return Cow::Borrowed(&[]),
            }
        }
        if let Some((own, rest)) = self.rest.split_at_checked(length) {
            self.rest = rest;
            return Cow::Borrowed(own);
        }
        let mut own = Vec::with_capacity(length);
        own.extend_from_slice(std::mem::take(&mut self.rest));
        for part in self.parts.by_ref() {
            let missing = length - own.len();
            match part.split_at_checked(missing) {
                Some((last, rest)) => {
                    own.extend_from_slice(last);
                    self.rest = rest;
                    break;
                }
                None => own.extend_from_slice(part),
            }
        }
        Cow::Owned(own)
    }
}

/// What goes to the next hop behind its `WriteOpen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Mutations; the payload is these slices one behind the other.
    Batch(WriteBatch, Vec<Bytes>),
    /// A commit mark.
    Mark(Mark),
}

/// What goes back over a stream that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `WriteOpened`.
    Opened,
    /// `WriteAck`. One that says nothing new is a keep-alive.
    Ack(WriteAck),
    /// `Appended`, to a client.
    Appended(Appended),
    /// `Marked`, to the hop before.
    Marked(Marked),
    /// A frame of this kind with a status and this error body. Nothing follows it.
    Failed {
        /// The one that is due: `WriteOpened` before it was sent, then `WriteAck`.
        kind: Kind,
        /// What went wrong.
        status: Status,
        /// Whose fault it is.
        error: ErrorBody,
    },
}

/// What is to be done.
///
/// There are three lanes. What is for the **store** ([`Action::is_for_store`]) is carried out one
/// after the other in the order of its yielding, and so is what goes to the **next hop**, and what
/// goes back over each **stream** that came in. Lanes don't wait for each other. Dialling, files and
/// syncs never hold up the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    // For the store.
    /// Make room for the chunk's bytes up to here; answered by [`Replica::handle_reserved`] or
    /// [`Replica::handle_failed`].
    Reserve {
        /// Bytes of the chunk.
        end: u32,
    },
    /// Apply these behind those before; answered by [`Replica::handle_applied`], which may be said
    /// once for many, or [`Replica::handle_not_applied`]. CRCs were compared with the bytes.
    Apply(Mutations),
    /// Somebody waits until everything that was applied is stable: sync now. What becomes stable,
    /// be it asked for or not, is told by [`Replica::handle_stable`].
    Flush,
    /// Everything up to here is committed: readers see it. Answered by nothing.
    Commit(Serial),
    /// Make this promise and everything that is applied stable;
    /// [`Done::PromiseKept`](member::Done::PromiseKept).
    KeepPromise {
        /// The version.
        version: ChunkVersion,
        /// Of the master that asked.
        epoch: Epoch,
    },
    /// Make the chunk, or a clone of another, and begin with it; [`Done::Begun`](member::Done::Begun).
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
    /// Forget what lies above the serial, void what an older version prepared, begin the version;
    /// [`Done::Begun`](member::Done::Begun).
    Begin {
        /// The version.
        version: ChunkVersion,
        /// Where it begins.
        serial: Serial,
        /// Whether acks at `memory` are allowed.
        memory: bool,
    },
    /// Make the sealed form of the version that was begun; [`Done::Prepared`](member::Done::Prepared).
    Prepare {
        /// The version.
        version: ChunkVersion,
        /// The length to cut at; `None` for all bytes.
        length: Option<u32>,
        /// Sessions below have no ids in it.
        sessions_end: SessionId,
    },
    /// Make the preparation of this version the chunk; [`Done::Settled`](member::Done::Settled).
    Settle(ChunkVersion),

    // For the next hop.
    /// Dial the hop and open the stream with this body. What follows is sent when it is there, the
    /// answer need not be awaited. What comes back is told with this version.
    DialNext {
        /// Whom.
        hop: Hop,
        /// With what.
        open: Box<WriteOpen>,
    },
    /// Send a frame.
    SendNext(Frame),
    /// Close the connection, also one that is being dialled. What still comes of it is ignored.
    CloseNext(ChunkVersion),

    // For streams that came in.
    /// Send a frame back.
    Send {
        /// Over which.
        stream: StreamId,
        /// What.
        reply: Reply,
    },
    /// Take frames from a stream, or leave them in the socket: at first all are taken. Frames that
    /// were read already may still be handed over.
    Take {
        /// Which.
        stream: StreamId,
        /// Whether.
        is_wanted: bool,
    },
    /// Nothing comes from or goes to this stream any more: close it behind what was sent.
    EndStream(StreamId),

    // For the master.
    /// Answer an order or a question.
    Answer {
        /// Which.
        to: RequestId,
        /// With what.
        answer: Box<Result<Answer, Refusal>>,
    },
    /// Tell the master.
    Report(ReportChain),
}

impl Action {
    /// Whether the store carries it out.
    #[must_use]
    pub const fn is_for_store(&self) -> bool {
        matches!(
            self,
            Self::Reserve { .. }
                | Self::Apply(_)
                | Self::Flush
                | Self::Commit(_)
                | Self::KeepPromise { .. }
                | Self::Make { .. }
                | Self::Begin { .. }
                | Self::Prepare { .. }
                | Self::Settle(_)
        )
    }
}

/// What a primary tells of a lease that it wants to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedLease {
    /// The version that it orders.
    pub version: ChunkVersion,
    /// Bytes of the committed state.
    pub length: u32,
    /// Its last mutation.
    pub serial: Serial,
}
