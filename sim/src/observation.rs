//! What is told to the invariants: each thing that a promise can be about, when it happens.

use std::time::Duration;

use bytes::Bytes;
use sarsen_chunkd::net::Chunkserver;
use sarsen_chunkd::store::open_chunk::Snapshot;
use sarsen_chunkd::store::{Directory, InventoryEntry};
use sarsen_client::core::mutation::Done;
use sarsen_master::core::command::Entry;
use sarsen_master::core::state::State;
use sarsen_protocol::id::{
    ChunkHandle, ChunkVersion, DirectoryId, Epoch, FileId, RequestId, Serial, ServerId, SessionId,
};
use sarsen_protocol::message::{
    AnyMessage, ChunkState, CopyChunk, HeldChunk, Level, Register, Registered, SealedChunk,
};
use sarsen_protocol::status::Status;

use crate::oracle::image::Layout;
use crate::oracle::op::{Change, Op, OpId, Outcome};
use crate::oracle::records::RecordId;

/// A client's process: which client, and its start. All its reads share what it has seen.
pub type Reader = (u8, u64);

/// What became of a mutation.
#[derive(Clone, Copy, Debug)]
pub enum ChangeOutcome {
    /// It was done, once.
    Done(Done),
    /// It surely was not.
    NotDone,
    /// Nobody can tell.
    InDoubt,
}

/// A record that was read.
#[derive(Clone, Debug)]
pub struct FoundRecord {
    /// Where its header begins in the file.
    pub offset: u64,
    /// Its id.
    pub id: RecordId,
    /// What it holds.
    pub payload: Bytes,
}

/// A copy that the master was told of, as it is.
#[derive(Clone, Copy, Debug)]
pub struct KnownCopy {
    /// On which machine.
    pub machine: u8,
    /// In which directory.
    pub directory: DirectoryId,
    /// What was told of it.
    pub held: HeldChunk,
}

/// One thing that happened.
#[derive(Debug)]
pub enum Observation<'a> {
    // The master.
    /// A master has read its log.
    MasterStarted {
        /// What the log comes to.
        state: &'a State,
    },
    /// A master hands an entry to its log.
    Appended {
        /// The entry.
        entry: &'a Entry,
    },
    /// An entry is on stable storage and applied.
    EntryApplied {
        /// The entry.
        entry: &'a Entry,
        /// The master's state behind it.
        state: &'a State,
    },
    /// A master answers a question about names.
    Answered {
        /// The question.
        question: &'a AnyMessage,
        /// The answer, or why there is none.
        answer: Result<&'a AnyMessage, Status>,
    },
    /// A master gives out chunks.
    Allocated {
        /// The answer.
        answer: &'a AnyMessage,
    },
    /// A master takes a registration in, or refuses directories of it.
    Registered {
        /// What the chunkserver told.
        register: &'a Register,
        /// What it was answered.
        registered: &'a Registered,
    },
    /// A master orders.
    Ordered {
        /// Whom; none if the connection is not registered.
        server: ServerId,
        /// What.
        order: &'a AnyMessage,
        /// What the log says at this moment.
        state: &'a State,
        /// Whether changes wait at this moment.
        is_safe_mode: bool,
    },
    /// A connection of a chunkserver has ended for the master.
    ChunkserverLeft {
        /// Whose.
        server: ServerId,
    },
    /// A member's answer to a promise or a preparation comes to the master.
    MemberAnswered {
        /// Whose.
        server: ServerId,
        /// Of which chunk.
        handle: ChunkHandle,
        /// Whether it did what was ordered.
        is_done: bool,
    },
    /// A master is about to be asked to accept the loss of a chunk's good copies.
    LossAsked {
        /// As which request.
        request: RequestId,
        /// The chunk.
        handle: ChunkHandle,
        /// What it could go on with, on servers that nothing keeps from answering.
        copies: &'a [KnownCopy],
    },
    /// It answers.
    LossAnswered {
        /// Which request.
        request: RequestId,
        /// Whether the loss is accepted.
        is_accepted: bool,
    },

    // Chunkservers.
    /// A chunkserver has opened its directories.
    ChunkserverStarted {
        /// Which machine.
        machine: u8,
        /// Its directories.
        server: &'a Chunkserver,
        /// Whether there was no room on its disks.
        is_full: bool,
    },
    /// A chunk is sealed and its stream will be told so.
    Sealed {
        /// Which machine.
        machine: u8,
        /// In which directory.
        directory: DirectoryId,
        /// The chunk.
        handle: ChunkHandle,
        /// Its version.
        version: ChunkVersion,
        /// Its bytes.
        length: u32,
        /// Their CRC.
        crc32: u32,
        /// What the answer promises.
        level: Level,
    },
    /// A chunk was copied to a chunkserver, which will tell the master so.
    Copied {
        /// Which machine.
        machine: u8,
        /// What was ordered.
        order: &'a CopyChunk,
        /// In which directory it lies.
        directory: DirectoryId,
    },
    /// A chunkserver obeys a master from now on.
    Obeys {
        /// Which machine.
        machine: u8,
        /// Whom.
        epoch: Epoch,
    },
    /// An order to delete was found to be obeyed. What it names is told as gone from now on, and stays
    /// until the order runs.
    DeleteAnnounced {
        /// Which machine.
        machine: u8,
        /// The chunk.
        handle: ChunkHandle,
        /// The epoch in which it was ordered; none if nobody knows of the order.
        ordered_in: Option<Epoch>,
        /// The epoch that the chunkserver obeys.
        obeys: Epoch,
        /// Whether it came over the connection of the registration that holds.
        is_of_this_session: bool,
        /// Whether the version that it names is there: another one stays.
        is_there: bool,
    },
    /// An order to delete runs, and the version that it names is there, be it since it was announced. A
    /// process that dies from now on leaves it or not.
    DeleteRuns {
        /// Which machine.
        machine: u8,
        /// The chunk.
        handle: ChunkHandle,
    },
    /// An order to delete was done.
    Deleted {
        /// Which machine.
        machine: u8,
        /// The chunk.
        handle: ChunkHandle,
    },
    /// An order to delete has ended, and a replica is there: it was refused, or failed.
    Stays {
        /// Which machine.
        machine: u8,
        /// The chunk.
        handle: ChunkHandle,
        /// The version that the replica is sealed in, or prepared to be; none if it is open.
        sealed: Option<ChunkVersion>,
    },
    /// A replica was found not to be what was sealed.
    FoundCorrupt {
        /// Which machine.
        machine: u8,
        /// The chunk.
        handle: ChunkHandle,
    },

    // Members of open chunks; each when the answer is sent.
    /// A member obeys nothing older than a version, and tells what it has.
    Promised {
        /// Which machine.
        machine: u8,
        /// The chunk.
        handle: ChunkHandle,
        /// What it promised.
        promised: ChunkVersion,
        /// The version that it was in.
        version: ChunkVersion,
        /// The last mutation that it has.
        serial: Serial,
    },
    /// A member has begun a version.
    Begun {
        /// Which machine.
        machine: u8,
        /// In which directory.
        directory: DirectoryId,
        /// The chunk.
        handle: ChunkHandle,
        /// The version.
        version: ChunkVersion,
        /// Where it begins.
        serial: Serial,
        /// Whether it allows acks at `memory`.
        memory: bool,
    },
    /// A member tells that it and all behind it have everything of a version up to a serial.
    Acked {
        /// Which machine.
        machine: u8,
        /// The chunk.
        handle: ChunkHandle,
        /// The version.
        version: ChunkVersion,
        /// The last mutation.
        serial: Serial,
        /// How safe it is on each of them.
        level: Level,
        /// A client is told, by the primary; else the hop before.
        to_client: bool,
    },
    /// A read of a committed state of an open chunk begins.
    StateRead {
        /// Which machine.
        machine: u8,
        /// The chunk.
        handle: ChunkHandle,
        /// The state.
        snapshot: &'a Snapshot,
    },
    /// A member has the sealed form of an open chunk beside it.
    SealPrepared {
        /// Which machine.
        machine: u8,
        /// In which directory.
        directory: DirectoryId,
        /// The chunk.
        handle: ChunkHandle,
        /// The version.
        version: ChunkVersion,
        /// The last mutation.
        serial: Serial,
        /// Its bytes.
        length: u32,
        /// Their CRC.
        crc32: u32,
    },
    /// A member has made of an open chunk a sealed one.
    Settled {
        /// Which machine.
        machine: u8,
        /// In which directory.
        directory: DirectoryId,
        /// The chunk.
        handle: ChunkHandle,
        /// Its version.
        version: ChunkVersion,
        /// Its bytes.
        length: u32,
        /// Their CRC.
        crc32: u32,
    },

    // Clients.
    /// A client begins something.
    Begins {
        /// Its number.
        id: OpId,
        /// What.
        op: &'a Op,
    },
    /// A request that changes something is sent for the first time.
    Requests {
        /// For which of the clients' doings.
        id: OpId,
        /// As which request.
        request: RequestId,
    },
    /// Chunks are named in a publication.
    Publishes {
        /// For which doing.
        id: OpId,
        /// The file.
        file: FileId,
        /// Its chunks.
        chunks: &'a [SealedChunk],
    },
    /// A client has got, or given up.
    Ends {
        /// Its number.
        id: OpId,
        /// How it ended, as the client was told.
        outcome: &'a Outcome,
    },
    /// A mutation has got its id, and may be sent from now on.
    Numbered {
        /// Whose.
        reader: Reader,
        /// Of which file.
        file: FileId,
        /// Its id: of which session, and the number.
        id: (SessionId, u64),
        /// What.
        change: &'a Change,
    },
    /// What a client was told of a mutation.
    Changed {
        /// Whose.
        reader: Reader,
        /// Its id.
        id: (SessionId, u64),
        /// What became of it.
        outcome: ChangeOutcome,
    },
    /// A client was given all records of a file, up to a place.
    RecordsRead {
        /// Which file.
        file: FileId,
        /// When it began to read.
        began: Duration,
        /// Whether it read what came meanwhile, too.
        followed: bool,
        /// Up to where it has passed.
        end: u64,
        /// In the order in which they came.
        records: &'a [FoundRecord],
        /// Bytes between them that are neither zero nor a record's.
        leftover: u64,
    },
    /// A client was given bytes of a file of cells.
    CellsRead {
        /// Who.
        reader: Reader,
        /// Which file.
        file: FileId,
        /// How it is cut.
        layout: Layout,
        /// When it began to read.
        began: Duration,
        /// Whether everything that was acknowledged before is to be seen.
        newest: bool,
        /// Whether all of the file was read.
        is_whole: bool,
        /// Where the bytes begin in it.
        offset: u64,
        /// The bytes.
        bytes: &'a Bytes,
    },
    /// A client was given bytes of a file.
    Downloaded {
        /// For which doing.
        id: OpId,
        /// The file.
        file: FileId,
        /// Where the bytes begin in it.
        offset: u64,
        /// The bytes.
        bytes: &'a Bytes,
    },

    // The driver.
    /// A fault befalls the master or chunkservers.
    Troubled,
    /// All that went wrong is made good.
    Healed,
    /// A machine's disks are empty, or older than they were.
    Lost {
        /// Which machine.
        machine: u8,
    },
    /// Bytes on a machine's disks were spoiled on purpose.
    Spoiled {
        /// Which machine.
        machine: u8,
        /// The chunk; none if any of them may be.
        handle: Option<ChunkHandle>,
    },
}

/// The version that a replica is sealed in, or prepared to be; none if it is open. Nothing if it is
/// neither.
#[must_use]
pub fn whole(directory: &Directory, entry: &InventoryEntry) -> Option<Option<ChunkVersion>> {
    match entry.state == ChunkState::Sealed || entry.is_prepared {
        true => Some(Some(entry.version)),
        false => directory.open_chunk(entry.handle).map(|_| None),
    }
}

impl Observation<'_> {
    /// Who has which version of a chunk whole from now on, be it only prepared.
    #[must_use]
    pub const fn has_whole(&self) -> Option<(u8, ChunkHandle, ChunkVersion)> {
        match *self {
            Self::Sealed {
                machine,
                handle,
                version,
                ..
            }
            | Self::SealPrepared {
                machine,
                handle,
                version,
                ..
            }
            | Self::Settled {
                machine,
                handle,
                version,
                ..
            } => Some((machine, handle, version)),
            Self::Copied { machine, order, .. } => Some((machine, order.handle, order.version)),
            _ => None,
        }
    }

    /// Whether it is a step of a member of an open chunk.
    #[must_use]
    pub const fn is_of_a_member(&self) -> bool {
        matches!(
            self,
            Self::Promised { .. }
                | Self::Begun { .. }
                | Self::SealPrepared { .. }
                | Self::Settled { .. }
                | Self::Copied { .. }
        )
    }
}
