//! Structures and enumerations that more than one message has (`spec/messages.md` section 2).

use crate::codec::{Decoder, Encoder, Field};
use crate::error::BodyError;
use crate::id::{ChunkVersion, DirectoryId, FileId, Serial, ServerId, StartNumber};
use crate::id_row::{ID_ROW_LEN, ID_ROWS_MAX};
use crate::size::{ADDRESS_LEN_MAX, CHUNK_LEN_MAX, PATH_LEN_MAX};

macro_rules! enumeration {
    ($(#[$doc:meta])* $name:ident { $($(#[$case_doc:meta])* $case:ident = $value:literal $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$case_doc])* $case = $value,)*
        }

        impl $name {
            /// Every value, in the order of the numbers.
            pub const ALL: &'static [Self] = &[$(Self::$case),*];

            /// The value with this number.
            #[must_use]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($value => Some(Self::$case),)*
                    _ => None,
                }
            }

            /// The number on the wire and on disk.
            #[must_use]
            pub const fn number(self) -> u8 {
                self as u8
            }

            /// The name in the specification.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$case => $text,)*
                }
            }
        }

        impl Field for $name {
            const LEN_MIN: usize = 1;

            fn encode(&self, out: &mut Encoder) {
                out.put(&self.number());
            }

            fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
                Self::from_number(input.take()?).ok_or(BodyError::UnknownValue)
            }
        }
    };
}

pub(super) use enumeration;

enumeration! {
    /// How safe acknowledged bytes are, on every member that is counted.
    Level {
        /// In memory.
        Memory = 1 "memory",
        /// On stable storage.
        Disk = 2 "disk",
    }
}

enumeration! {
    /// What a path names.
    NodeType {
        /// A file.
        File = 1 "file",
        /// A folder.
        Folder = 2 "folder",
    }
}

enumeration! {
    /// Where a chunk is in its life.
    ChunkState {
        /// Under construction for a pending file.
        Pending = 1 "pending",
        /// Takes mutations.
        Open = 2 "open",
        /// Never changes again.
        Sealed = 3 "sealed",
    }
}

enumeration! {
    /// How a directory's disk is.
    DiskState {
        /// Takes chunks.
        Ok = 1 "ok",
        /// Failed a read, a write or a sync.
        Failed = 2 "failed",
        /// Has no room.
        Full = 3 "full",
    }
}

enumeration! {
    /// How a chunkserver stands with the master.
    ServerState {
        /// Heard of lately.
        Live = 1 "live",
        /// Silent for `dead_after`.
        Dead = 2 "dead",
        /// On its way out, still serving.
        Draining = 3 "draining",
        /// On its way out, with nothing left that is needed.
        Drained = 4 "drained",
    }
}

enumeration! {
    /// What `fsck` can find wrong with a chunk.
    Finding {
        /// No good replica.
        Missing = 1 "missing",
        /// Fewer good replicas than wanted.
        UnderReplicated = 2 "under_replicated",
        /// An old replica of a chunk that is short.
        Stale = 3 "stale",
        /// A replica that does not match its CRCs or the log.
        Corrupt = 4 "corrupt",
        /// Open, and no member of its last version lives.
        Unavailable = 5 "unavailable",
        /// Acknowledged bytes may have been lost.
        PossibleLoss = 6 "possible_loss",
    }
}

enumeration! {
    /// What a reader met at a replica.
    ReplicaFault {
        /// A piece did not match its CRC.
        CrcMismatch = 1 "crc_mismatch",
        /// No connection, or it fell silent.
        Unreachable = 2 "unreachable",
        /// The server reported a failed disk.
        MediumFailed = 3 "medium_failed",
        /// The server has another version than the master said.
        WrongVersion = 4 "wrong_version",
    }
}

enumeration! {
    /// Which state of a chunk a reader wants.
    Want {
        /// A sealed chunk of exactly this version.
        Sealed = 1 "sealed",
        /// Any committed state that is new enough.
        Plain = 2 "plain",
        /// What the primary confirms to be the newest.
        Newest = 3 "newest",
    }
}

enumeration! {
    /// What a member of an open chunk tells the master about it.
    ChainTrouble {
        /// A neighbour failed, or fell silent.
        HopFailed = 1 "hop_failed",
        /// A member promised a newer version.
        PromiseRefused = 2 "promise_refused",
        /// A record did not fit: the next chunk is wanted.
        Full = 3 "full",
        /// Acks at `memory` are asked for, and the version allows none.
        WantsMemory = 4 "wants_memory",
        /// Three quarters are used.
        NearlyFull = 5 "nearly_full",
        /// It has to be sealed and opened again.
        WantsSeal = 6 "wants_seal",
        /// Stored bytes don't match their CRC.
        Corrupt = 7 "corrupt",
    }
}

/// Marks of a held chunk, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HeldFlags(u8);

impl HeldFlags {
    /// No mark.
    pub const NONE: Self = Self(0);
    /// Sealed at `memory` and not synced since.
    pub const UNSYNCED: Self = Self(1);
    /// A sync failed; nothing counts as stored.
    pub const POISONED: Self = Self(2);
    /// Did not verify.
    pub const CORRUPT: Self = Self(4);
    /// To be read back before it counts.
    pub const READ_BACK: Self = Self(8);
    /// Open, with a seal prepared, which its version, serial, length and CRC are those of.
    pub const PREPARED: Self = Self(16);

    /// Both sets of marks.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other`'s marks are here.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The marks as a number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl Field for HeldFlags {
    const LEN_MIN: usize = 1;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.0);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        match input.take()? {
            flags @ 0..=31 => Ok(Self(flags)),
            _ => Err(BodyError::UnknownValue),
        }
    }
}

/// One member of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Hop {
    /// Its id.
    pub server: ServerId,
    /// Where its data plane listens, `host:port`.
    pub data_addr: String,
}

impl Field for Hop {
    const LEN_MIN: usize = ServerId::LEN_MIN + 2;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.server).string(&self.data_addr);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            server: input.take()?,
            data_addr: input.string(ADDRESS_LEN_MAX)?.to_owned(),
        })
    }
}

/// What the namespace knows of a file or a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub file_id: FileId,
    /// File or folder.
    pub node_type: NodeType,
    /// Bytes; 0 for a folder.
    pub size: u64,
    /// Last change, in Unix milliseconds.
    pub mtime: u64,
    /// Replicas wanted; 0 for a folder.
    pub replicas: u8,
    /// Chunks, holes not counted.
    pub chunks: u32,
    /// Whether every chunk is sealed.
    pub sealed: bool,
    /// CRC of the whole file when `sealed`; else 0.
    pub crc32: u32,
}

impl Field for Node {
    const LEN_MIN: usize = 8 + 1 + 8 + 8 + 1 + 4 + 1 + 4;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.file_id)
            .put(&self.node_type)
            .put(&self.size)
            .put(&self.mtime);
        out.put(&self.replicas)
            .put(&self.chunks)
            .put(&self.sealed)
            .put(&self.crc32);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            file_id: input.take()?,
            node_type: input.take()?,
            size: input.take()?,
            mtime: input.take()?,
            replicas: input.take()?,
            chunks: input.take()?,
            sealed: input.take()?,
            crc32: input.take()?,
        })
    }
}

/// One directory of a chunkserver, and the room on its disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The directory's id.
    pub directory_id: DirectoryId,
    /// Its path on its server.
    pub path: String,
    /// Bytes of its file system.
    pub total: u64,
    /// Bytes that an ordinary user may still take.
    pub free: u64,
    /// Chunks stored.
    pub chunks: u64,
    /// How it is.
    pub state: DiskState,
}

impl Field for Disk {
    const LEN_MIN: usize = 16 + 2 + 8 + 8 + 8 + 1;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.directory_id)
            .string(&self.path)
            .put(&self.total)
            .put(&self.free);
        out.put(&self.chunks).put(&self.state);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            directory_id: input.take()?,
            path: input.string(PATH_LEN_MAX)?.to_owned(),
            total: input.take()?,
            free: input.take()?,
            chunks: input.take()?,
            state: input.take()?,
        })
    }
}

/// Who answers an order of a version change, and in which start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemberState {
    /// Its id.
    pub server: ServerId,
    /// The directory that the chunk is in.
    pub directory_id: DirectoryId,
    /// That directory's start.
    pub start_number: StartNumber,
}

impl Field for MemberState {
    const LEN_MIN: usize = ServerId::LEN_MIN + DirectoryId::LEN_MIN + StartNumber::LEN_MIN;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.server)
            .put(&self.directory_id)
            .put(&self.start_number);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            server: input.take()?,
            directory_id: input.take()?,
            start_number: input.take()?,
        })
    }
}

/// A sealed form that lies beside an open chunk, as far as members compare it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PreparedSeal {
    /// The version that it was prepared in.
    pub version: ChunkVersion,
    /// The last mutation in it.
    pub serial: Serial,
    /// Bytes of data.
    pub length: u32,
    /// Their CRC.
    pub crc32: u32,
    /// Bytes of the id table.
    pub id_table_length: u32,
    /// Their CRC.
    pub id_table_crc32: u32,
}

impl PreparedSeal {
    /// No preparation; all else is 0 too.
    pub const NONE: Self = Self {
        version: ChunkVersion::NONE,
        serial: Serial::NONE,
        length: 0,
        crc32: 0,
        id_table_length: 0,
        id_table_crc32: 0,
    };

    /// Whether there is one.
    #[must_use]
    pub const fn is_some(&self) -> bool {
        self.version.is_some()
    }
}

impl Field for PreparedSeal {
    const LEN_MIN: usize = 8 + 8 + 4 + 4 + 4 + 4;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.version)
            .put(&self.serial)
            .put(&self.length)
            .put(&self.crc32)
            .put(&self.id_table_length)
            .put(&self.id_table_crc32);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let seal = Self {
            version: input.take()?,
            serial: input.take()?,
            length: input.take()?,
            crc32: input.take()?,
            id_table_length: input.take()?,
            id_table_crc32: input.take()?,
        };
        let fits = seal.length <= CHUNK_LEN_MAX && is_id_table_len(seal.id_table_length);
        match fits && (seal.is_some() || seal == Self::NONE) {
            true => Ok(seal),
            false => Err(BodyError::OutOfBounds),
        }
    }
}

/// Whether an id table can take so many bytes (`spec/records.md` section 5).
pub(super) fn is_id_table_len(len: u32) -> bool {
    let len = len as usize;
    len.is_multiple_of(ID_ROW_LEN) && len <= ID_ROWS_MAX * ID_ROW_LEN
}
