//! Status codes of replies, and what an asker can do about each (`spec/wire.md` section 10).

use std::fmt;

/// What the asker can do after a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// The same request will fail again.
    Never,
    /// The same request, in the same place, later.
    Wait,
    /// Another replica, server or chain may serve it.
    Elsewhere,
    /// Ask the master again, then repeat.
    Refresh,
    /// Repeat on a new connection.
    Reconnect,
}

impl Retry {
    /// The name in the specification.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Wait => "wait",
            Self::Elsewhere => "elsewhere",
            Self::Refresh => "refresh",
            Self::Reconnect => "reconnect",
        }
    }
}

macro_rules! registry {
    ($($case:ident = $number:literal $name:literal $retry:ident $text:literal;)*) => {
        /// The outcome of a request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Status {
            $(#[doc = $text] $case = $number,)*
        }

        impl Status {
            /// Every status, in the order of the numbers.
            pub const ALL: &'static [Self] = &[$(Self::$case),*];

            /// The status with this number; one that isn't registered counts as `internal`.
            #[must_use]
            pub const fn from_number(number: u16) -> Self {
                match number {
                    $($number => Self::$case,)*
                    _ => Self::Internal,
                }
            }

            /// The name in the specification.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$case => $name,)*
                }
            }

            /// What the asker can do.
            #[must_use]
            pub const fn retry(self) -> Retry {
                match self {
                    $(Self::$case => Retry::$retry,)*
                }
            }

            /// What it means, for a person.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$case => $text,)*
                }
            }
        }
    };
}

registry! {
    Ok = 0 "ok" Never "done";
    ProtocolError = 1 "protocol_error" Never "the peer broke this specification";
    UnsupportedVersion = 2 "unsupported_version" Never "no protocol version in common";
    WrongKey = 3 "wrong_key" Never "the peer does not hold this cluster's key";
    WrongCluster = 4 "wrong_cluster" Never "the peer belongs to another cluster";
    WrongPlane = 5 "wrong_plane" Never "this port serves the other plane";
    ShuttingDown = 6 "shutting_down" Reconnect "the server is going away";
    Overloaded = 7 "overloaded" Wait "too much is waiting here";
    Unsupported = 8 "unsupported" Never "this server can't do that";
    Internal = 9 "internal" Never "a bug or an unforeseen failure on this side";
    InvalidArgument = 16 "invalid_argument" Never "a value makes no sense here";
    NotFound = 17 "not_found" Never "no such path, file or trash entry";
    AlreadyExists = 18 "already_exists" Never "the path is taken";
    NotAFolder = 19 "not_a_folder" Never "a part of the path is a file, or a folder is needed";
    IsAFolder = 20 "is_a_folder" Never "a file is needed";
    NotEmpty = 21 "not_empty" Never "the folder holds something and the request is not recursive";
    NameInvalid = 22 "name_invalid" Never "an empty name, `.`, `..`, NUL, a path without `/` in front, or too long";
    TooLarge = 23 "too_large" Never "beyond a limit of section 2";
    RequestForgotten = 24 "request_forgotten" Never "the request id is below the lowest outstanding number";
    SessionUnknown = 25 "session_unknown" Refresh "the session has expired; open another one";
    PendingUnknown = 26 "pending_unknown" Never "the pending file has expired, was aborted or never was";
    NotLeader = 27 "not_leader" Refresh "another master leads";
    SafeMode = 28 "safe_mode" Wait "the master still collects reports; changes wait";
    TooFewServers = 29 "too_few_servers" Wait "fewer live chunkservers with room than asked for";
    ReadOnly = 30 "read_only" Never "the master's log was lost in part; only reading is allowed";
    LockNotGot = 31 "lock_not_got" Wait "another session holds the file lock";
    LockTokenStale = 32 "lock_token_stale" Never "the fencing token is older than the lock's";
    ChunkUnknown = 48 "chunk_unknown" Elsewhere "no such chunk on this server";
    Behind = 49 "behind" Elsewhere "this replica's (version, serial) is lower than wanted";
    Moved = 50 "moved" Refresh "the chunk has another version than the request names";
    PromiseRefused = 51 "promise_refused" Refresh "a newer version was promised";
    Corrupt = 52 "corrupt" Elsewhere "the stored bytes do not match their CRC";
    TicketInvalid = 53 "ticket_invalid" Refresh "the ticket is not signed, or for something else";
    TicketExpired = 54 "ticket_expired" Refresh "the ticket's time is over";
    OutOfOrder = 55 "out_of_order" Never "a mutation that does not follow the one before it";
    DamagedInTransit = 56 "damaged_in_transit" Elsewhere "a piece does not match the CRC that came with it";
    SealMismatch = 57 "seal_mismatch" Elsewhere "length or CRC at the seal differ from what is stored";
    ChunkSealed = 58 "chunk_sealed" Refresh "the chunk takes no more mutations";
    ChunkOpen = 59 "chunk_open" Refresh "the chunk is not sealed";
    ChainBroken = 60 "chain_broken" Elsewhere "a hop further down failed; `server` names it";
    ChunkExists = 61 "chunk_exists" Refresh "the handle is in use on this server";
    RecordTooLarge = 62 "record_too_large" Never "a record is at most a quarter of a chunk";
    ChunkFull = 63 "chunk_full" Refresh "the record goes to the next chunk";
    Unavailable = 64 "unavailable" Wait "no member of the chunk's last version is heard";
    NotPrimary = 65 "not_primary" Refresh "another member orders this chunk's mutations";
    ChunkGone = 66 "chunk_gone" Never "the chunk left its file; whether the mutation was done can't be told";
    NoSpace = 80 "no_space" Elsewhere "the disk is full";
    MediumFailed = 81 "medium_failed" Elsewhere "the disk reported an error";
    Poisoned = 82 "poisoned" Elsewhere "an earlier sync failed; nothing here counts as stored";
    StaleEpoch = 83 "stale_epoch" Reconnect "the order is of an older epoch or of an older session";
    StaleStart = 84 "stale_start" Never "the directory is a copy, or was rolled back";
    ForeignDirectory = 85 "foreign_directory" Never "the directory belongs to another cluster or server";
}

impl Status {
    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// Whether the request was done.
    #[must_use]
    pub const fn is_ok(self) -> bool {
        matches!(self, Self::Ok)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
