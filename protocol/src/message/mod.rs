//! Every message, a file each, and the one table of all of them (`spec/messages.md` section 1).

mod abort_pending;
mod accept_loss;
mod allocate_chunks;
mod append;
mod begin;
mod capacity;
mod chunk_crcs;
mod chunk_ids;
mod chunk_status;
mod close_session;
mod copy_chunk;
mod create_pending;
mod cut_data;
mod delete_chunk;
mod empty_trash;
mod extend_leases;
mod find_requests;
mod fsck;
mod goodbye;
mod grant_lease;
mod heartbeat;
mod hello;
mod inventory;
mod keep_session;
mod list;
mod list_trash;
mod locate;
mod make_file;
mod make_folder;
mod mark;
mod newest;
mod open_chunk;
mod open_session;
mod part;
mod ping;
mod prepare_seal;
mod promise;
mod publish;
mod read;
mod read_cut;
mod read_data;
mod register;
mod remove;
mod rename;
mod report;
mod report_chain;
mod report_replica;
mod restore_trash;
mod revoke_lease;
mod seal_file;
mod settle;
mod shared;
mod stat;
mod truncate;
mod usage;
mod verify_chunk;
mod write_batch;
mod write_data;
mod write_open;
mod write_seal;

pub use abort_pending::{AbortPending, PendingAborted};
pub use accept_loss::{AcceptLoss, LossAccepted};
pub use allocate_chunks::{AllocateChunks, Allocation, ChunksAllocated};
pub use append::{Append, AppendItem, AppendResult, Appended};
pub use begin::{Begin, Begun, CloneSource, NewChunk};
pub use capacity::{Capacity, CapacityReply};
pub use chunk_crcs::{ChunkCrcs, ChunkCrcsReply};
pub use chunk_ids::{ChunkIds, ChunkIdsReply};
pub use chunk_status::{ChunkStatus, ChunkStatusReply};
pub use close_session::{CloseSession, SessionClosed};
pub use copy_chunk::{ChunkCopied, CopyChunk};
pub use create_pending::{CreatePending, PendingCreated};
pub use cut_data::{CUT_DATA_LEN, CutData};
pub use delete_chunk::{ChunkDeleted, DeleteChunk};
pub use empty_trash::{EmptyTrash, TrashEmptied};
pub use extend_leases::{ExtendLeases, ExtendedLease, HeldLease, LeasesExtended};
pub use find_requests::{FindRequests, FoundKind, FoundRequest, RequestsFound};
pub use fsck::{Fsck, FsckFinding, FsckReply};
pub use goodbye::{ErrorBody, Goodbye};
pub use grant_lease::{GrantLease, LeaseGranted};
pub use heartbeat::{CorruptChunk, DiskBeat, Heartbeat, HeartbeatReply, Heat};
pub(crate) use hello::HELLO_REPLY_PROOF_AT;
pub use hello::{
    HELLO_LEN, HELLO_REPLY_LEN, Hello, HelloDone, HelloProof, HelloReply, Role, Start,
};
pub use inventory::{HeldChunk, Inventory, InventoryTaken};
pub use keep_session::{KeepSession, SessionKept};
pub use list::{List, ListEntry, ListReply};
pub use list_trash::{ListTrash, TrashEntry, TrashListed};
pub use locate::{Locate, LocateReply, LocatedChunk, Replica};
pub use make_file::{FileMade, MakeFile};
pub use make_folder::{FolderMade, MakeFolder};
pub use mark::{Mark, Marked};
pub use newest::{Newest, NewestReply};
pub use open_chunk::{ChunkOpened, OpenChunk, Slot};
pub use open_session::{OpenSession, SessionOpened};
pub use part::Part;
pub use ping::{Ping, Pong};
pub use prepare_seal::{PrepareSeal, SealPrepared};
pub use promise::{Promise, Promised};
pub use publish::{Publish, Published, SealedChunk};
pub use read::Read;
pub use read_cut::ReadCut;
pub use read_data::{READ_DATA_LEN, ReadData};
pub use register::{DirectoryReport, Register, Registered, TicketKey, Verdict};
pub use remove::{Remove, Removed};
pub use rename::{Rename, Renamed};
pub use report::{Repairs, Report, ReportReply, ServerReport};
pub use report_chain::{ChainReported, ReportChain};
pub use report_replica::{ReplicaReported, ReportReplica};
pub use restore_trash::{RestoreTrash, TrashRestored};
pub use revoke_lease::{LeaseRevoked, RevokeLease};
pub use seal_file::{FileSealed, SealFile};
pub use settle::{Settle, Settled};
pub use shared::{
    ChainTrouble, ChunkState, Disk, DiskState, Finding, HeldFlags, Hop, Level, MemberState, Node,
    NodeType, PreparedSeal, ReplicaFault, ServerState, Want,
};
pub use stat::{Stat, StatReply};
pub use truncate::{Truncate, Truncated};
pub use usage::{Usage, UsageReply};
pub use verify_chunk::{ChunkVerified, VerifyChunk};
pub use write_batch::{BatchRow, MutationKind, WriteBatch};
pub use write_data::{Crcs, WRITE_DATA_LEN, WriteAck, WriteData};
pub use write_open::{WriteOpen, WriteOpened};
pub use write_seal::{MemberLevel, WriteSeal, WriteSealed};

use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;

/// The two kinds of connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Plane {
    /// Small frames, requests in both directions.
    Control,
    /// Streams of bulk bytes.
    Data,
}

/// A message's fields, laid out by hand.
pub trait Message: Sized {
    /// Which message this is.
    const KIND: Kind;

    /// Appends the fields.
    fn encode(&self, out: &mut Encoder);

    /// Takes the fields off the front.
    ///
    /// # Errors
    /// What the bytes break.
    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError>;

    /// The whole body.
    fn to_body(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        self.encode(&mut out);
        out.into_bytes()
    }

    /// Reads a whole body.
    ///
    /// # Errors
    /// What the bytes break; [`BodyError::TrailingBytes`] if some are left.
    fn from_body(body: &[u8]) -> Result<Self, BodyError> {
        let mut input = Decoder::new(body);
        let message = Self::decode(&mut input)?;
        input.finish()?;
        Ok(message)
    }
}

/// A request and the reply that answers it.
pub trait Request: Message {
    /// The answer.
    type Reply: Message;
}

macro_rules! table {
    (
        pairs { $($number:literal $request:ident $reply:ident $plane:ident;)* }
        single { $($single_number:literal $single:ident $single_plane:ident;)* }
    ) => {
        /// Which message a frame carries.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Kind {
            $(
                #[doc = concat!("[`struct@", stringify!($request), "`]")]
                $request = $number,
                #[doc = concat!("[`struct@", stringify!($reply), "`]")]
                $reply = $number + 1,
            )*
            $(
                #[doc = concat!("[`struct@", stringify!($single), "`]")]
                $single = $single_number,
            )*
        }

        impl Kind {
            /// Every message.
            pub const ALL: &'static [Self] =
                &[$(Self::$request, Self::$reply,)* $(Self::$single,)*];

            /// The message with this number.
            #[must_use]
            pub const fn from_number(number: u16) -> Option<Self> {
                $(
                    if number == $number {
                        return Some(Self::$request);
                    }
                    if number == $number + 1 {
                        return Some(Self::$reply);
                    }
                )*
                $(
                    if number == $single_number {
                        return Some(Self::$single);
                    }
                )*
                None
            }

            /// The name in the specification.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(
                        Self::$request => stringify!($request),
                        Self::$reply => stringify!($reply),
                    )*
                    $(Self::$single => stringify!($single),)*
                }
            }

            /// Whether connections of this plane carry it.
            #[must_use]
            pub const fn is_on(self, plane: Plane) -> bool {
                match self {
                    $(Self::$request | Self::$reply => On::$plane.includes(plane),)*
                    $(Self::$single => On::$single_plane.includes(plane),)*
                }
            }
        }

        $(impl Request for $request {
            type Reply = $reply;
        })*

        /// Any message, for whoever takes what comes.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each case is the message of its name")]
        pub enum AnyMessage {
            $($request($request), $reply($reply),)*
            $($single($single),)*
        }

        impl AnyMessage {
            /// Reads the body of a frame whose status is `ok`.
            ///
            /// # Errors
            /// What the bytes break.
            pub fn from_body(kind: Kind, body: &[u8]) -> Result<Self, BodyError> {
                Ok(match kind {
                    $(
                        Kind::$request => Self::$request($request::from_body(body)?),
                        Kind::$reply => Self::$reply($reply::from_body(body)?),
                    )*
                    $(Kind::$single => Self::$single($single::from_body(body)?),)*
                })
            }

            /// Which message this is.
            #[must_use]
            pub const fn kind(&self) -> Kind {
                match self {
                    $(
                        Self::$request(_) => Kind::$request,
                        Self::$reply(_) => Kind::$reply,
                    )*
                    $(Self::$single(_) => Kind::$single,)*
                }
            }

            /// The whole body.
            #[must_use]
            pub fn to_body(&self) -> Vec<u8> {
                match self {
                    $(
                        Self::$request(message) => message.to_body(),
                        Self::$reply(message) => message.to_body(),
                    )*
                    $(Self::$single(message) => message.to_body(),)*
                }
            }
        }

        $(
            impl From<$request> for AnyMessage {
                fn from(message: $request) -> Self {
                    Self::$request(message)
                }
            }

            impl From<$reply> for AnyMessage {
                fn from(message: $reply) -> Self {
                    Self::$reply(message)
                }
            }

            impl TryFrom<AnyMessage> for $reply {
                type Error = AnyMessage;

                fn try_from(message: AnyMessage) -> Result<Self, AnyMessage> {
                    match message {
                        AnyMessage::$reply(reply) => Ok(reply),
                        other => Err(other),
                    }
                }
            }
        )*
    };
}

/// The planes of a row of the table.
enum On {
    Both,
    Control,
    Data,
}

impl On {
    const fn includes(self, plane: Plane) -> bool {
        matches!(
            (self, plane),
            (Self::Both, _) | (Self::Control, Plane::Control) | (Self::Data, Plane::Data)
        )
    }
}

table! {
    pairs {
        0x0002 Hello HelloReply Both;
        0x0004 HelloProof HelloDone Both;
        0x0008 Ping Pong Control;
        0x0100 OpenSession SessionOpened Control;
        0x0102 KeepSession SessionKept Control;
        0x0104 CloseSession SessionClosed Control;
        0x0110 MakeFolder FolderMade Control;
        0x0112 CreatePending PendingCreated Control;
        0x0114 AllocateChunks ChunksAllocated Control;
        0x0116 Publish Published Control;
        0x0118 AbortPending PendingAborted Control;
        0x011a Rename Renamed Control;
        0x011c Remove Removed Control;
        0x011e RestoreTrash TrashRestored Control;
        0x0120 EmptyTrash TrashEmptied Control;
        0x0122 MakeFile FileMade Control;
        0x0130 Stat StatReply Control;
        0x0132 List ListReply Control;
        0x0134 Locate LocateReply Control;
        0x0136 Usage UsageReply Control;
        0x0138 Capacity CapacityReply Control;
        0x013a ListTrash TrashListed Control;
        0x013c Fsck FsckReply Control;
        0x013e Report ReportReply Control;
        0x0140 ReportReplica ReplicaReported Control;
        0x0142 OpenChunk ChunkOpened Control;
        0x0144 Truncate Truncated Control;
        0x0146 SealFile FileSealed Control;
        0x0148 AcceptLoss LossAccepted Control;
        0x0200 Register Registered Control;
        0x0202 Heartbeat HeartbeatReply Control;
        0x0204 Inventory InventoryTaken Control;
        0x0206 ExtendLeases LeasesExtended Control;
        0x0208 ReportChain ChainReported Control;
        0x0210 DeleteChunk ChunkDeleted Control;
        0x0212 VerifyChunk ChunkVerified Control;
        0x0214 CopyChunk ChunkCopied Control;
        0x0220 Promise Promised Control;
        0x0222 Begin Begun Control;
        0x0224 PrepareSeal SealPrepared Control;
        0x0226 Settle Settled Control;
        0x0228 GrantLease LeaseGranted Control;
        0x022a RevokeLease LeaseRevoked Control;
        0x0300 ChunkStatus ChunkStatusReply Control;
        0x0302 ChunkCrcs ChunkCrcsReply Control;
        0x0304 Newest NewestReply Control;
        0x0306 FindRequests RequestsFound Control;
        0x0400 WriteOpen WriteOpened Data;
        0x0402 WriteData WriteAck Data;
        0x0404 WriteSeal WriteSealed Data;
        0x0406 Read ReadData Data;
        0x0408 Append Appended Data;
        0x040a Mark Marked Data;
        0x0410 ReadCut CutData Data;
        0x0412 ChunkIds ChunkIdsReply Data;
    }
    single {
        0x0006 Goodbye Both;
        0x040c WriteBatch Data;
    }
}

impl Kind {
    /// The number in the header.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// Whether it answers a request.
    #[must_use]
    pub const fn is_reply(self) -> bool {
        self.number() % 2 == 1
    }

    /// Whether its header may carry a status: replies, and the last word on a connection.
    #[must_use]
    pub const fn has_status(self) -> bool {
        self.is_reply() || matches!(self, Self::Goodbye)
    }

    /// Whether a payload may follow its body.
    #[must_use]
    pub const fn has_payload(self) -> bool {
        matches!(
            self,
            Self::WriteData | Self::ReadData | Self::CutData | Self::Append | Self::WriteBatch
        )
    }

    /// Whether it belongs to the hello.
    #[must_use]
    pub const fn is_hello(self) -> bool {
        matches!(
            self,
            Self::Hello | Self::HelloReply | Self::HelloProof | Self::HelloDone
        )
    }
}
