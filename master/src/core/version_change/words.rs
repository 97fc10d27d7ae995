//! What a version change is told and what it tells, in the words of `spec/replication.md`.

use sarsen_protocol::id::{
    ChunkHandle, ChunkVersion, DirectoryId, FileId, Serial, ServerId, SessionId,
};
use sarsen_protocol::status::Status;

use crate::core::chunk_table::Sealed;
use crate::core::command::chunks::Configuration;
use crate::core::command::{LossCause, Member};

/// One attempt to change a chunk's version: all that it ever looks at, beside its own answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// The chunk.
    pub handle: ChunkHandle,
    /// Drawn for this attempt and for no other.
    pub version: ChunkVersion,
    /// What the applied state says of the chunk.
    pub base: Base,
    /// What is to be logged in the end.
    pub end: End,
    /// Whether the old primary is told to finish what it has ordered, before anybody promises.
    pub drain: bool,
    /// Whom a member holds to be the fault.
    pub blamed: Option<Blamed>,
    /// Who does not believe its own replica: left out at once, if enough stay, and else last in the
    /// chain.
    pub doubtful: Vec<ServerId>,
    /// Who failed in the attempts before: left out if enough stay without them.
    pub failed: Vec<ServerId>,
    /// Who of these is left out also if too few stay then, as long as somebody stays who is not one of
    /// them: the attempts before have lasted for long, and it failed in the last of them. One that always
    /// promises and never does its part must not hold up the chunk for ever.
    pub hopeless: Vec<ServerId>,
    /// The fewest members that an open chunk goes on with.
    pub min_replicas: usize,
    /// How long whoever is silent is awaited.
    pub patience: Patience,
}

/// How long whoever is silent is awaited (section 16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Patience {
    /// Silence after which a server is suspect, in ms.
    pub suspect_after_ms: u64,
    /// Silence after which it is dead, in ms.
    pub dead_after_ms: u64,
}

/// What the applied state says of the chunk: where the attempt starts from (section 3.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Base {
    /// It is open; its members are asked, heard or not.
    Open(Configuration),
    /// It is sealed; at most as many holders as replicas are wanted are asked.
    Sealed {
        /// As what.
        sealed: Sealed,
        /// Who reported exactly that, in this epoch.
        holders: Vec<Member>,
    },
    /// It doesn't exist yet: there is nothing to promise.
    Fresh(Fresh),
    /// Nobody can give what the log says, and a person accepted the loss (section 8).
    Accepted(Accepted),
}

/// A loss that a person accepted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Accepted {
    /// The version that is given up.
    pub version: ChunkVersion,
    /// What it is sealed as, if it is at rest.
    pub sealed: Option<Sealed>,
    /// The copies that may be gone on with, one a server.
    pub copies: Vec<OldCopy>,
}

/// A copy as its server reported it: what it is, it says when it promises.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OldCopy {
    /// Whose.
    pub member: Member,
    /// Its version.
    pub version: ChunkVersion,
    /// What it has.
    pub serial: Serial,
    /// Whether it is a member of the version that is given up.
    pub is_member: bool,
}

/// A chunk that is made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fresh {
    /// Who is chosen for it, in the order of the chain.
    pub members: Vec<Member>,
    /// What they make.
    pub create: Create,
}

/// What a member needs to know to make a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Create {
    /// The file.
    pub file: FileId,
    /// The slot.
    pub index: u32,
    /// Bytes of a slot.
    pub chunk_size: u32,
}

/// What is to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// The chunk is open, in the new version.
    Active {
        /// Whether it allows acks from memory.
        memory_allowed: bool,
        /// What a seal for want of members drops ids by, as in [`End::Sealed`].
        sessions_end: SessionId,
    },
    /// The chunk is sealed.
    Sealed {
        /// Where it is cut; none for all bytes.
        len: Option<u32>,
        /// No session below it is open.
        sessions_end: SessionId,
    },
}

/// Whom a member holds to be the fault (section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Blamed {
    /// The server.
    pub server: ServerId,
    /// Whether this follows another trouble within `suspect_after` of the activation.
    pub again: bool,
}

/// What a member is told to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// The old primary: finish what you have ordered, and stop.
    Revoke {
        /// The version whose lease ends.
        version: ChunkVersion,
    },
    /// Obey nothing older any more, and say what you have.
    Promise,
    /// Begin the version.
    Begin(Begin),
    /// Make a sealed form beside the open chunk.
    PrepareSeal(PrepareSeal),
    /// Compare your blocks with their CRCs.
    ReadBack,
    /// The new primary: order mutations.
    Grant(Configuration),
    /// What you prepared is the chunk now.
    Settle {
        /// Where it lies there.
        directory: DirectoryId,
        /// Its bytes.
        len: u32,
        /// Their CRC.
        crc: u32,
    },
}

/// The order to begin.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Begin {
    /// Where.
    pub serial: Serial,
    /// The member as it answered: another start of it has to refuse.
    pub member: Member,
    /// Whether the version allows acks from memory.
    pub memory_allowed: bool,
    /// With a chunk that is to be made.
    pub create: Option<Create>,
}

/// The order to prepare a seal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PrepareSeal {
    /// Where the version begins.
    pub serial: Serial,
    /// The member as it answered.
    pub member: Member,
    /// Where the chunk is cut; none for all bytes.
    pub len: Option<u32>,
    /// No session below it is open.
    pub sessions_end: SessionId,
}

/// Which order an answer answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// [`Order::Revoke`].
    Revoke,
    /// [`Order::Promise`].
    Promise,
    /// [`Order::Begin`].
    Begin,
    /// [`Order::PrepareSeal`].
    PrepareSeal,
    /// [`Order::ReadBack`].
    ReadBack,
}

/// What a member says to an order of this attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The old primary has finished, or held no lease.
    Revoked,
    /// It promised, and this is what it has.
    Promised(Promised),
    /// It has begun.
    Begun {
        /// Where.
        serial: Serial,
        /// The member as it is.
        member: Member,
    },
    /// It has a sealed form.
    SealPrepared {
        /// Where the version begins.
        serial: Serial,
        /// What the sealed form is.
        prepared: Prepared,
        /// The member as it is.
        member: Member,
    },
    /// It has compared its blocks.
    ReadBack {
        /// Whether all match.
        is_sound: bool,
    },
    /// It doesn't do it.
    Refused(Step, Status),
}

/// What a member that promised has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Promised {
    /// The member as it is.
    pub member: Member,
    /// The version that it last began, or was sealed in.
    pub version: ChunkVersion,
    /// Where that began.
    pub begin_serial: Serial,
    /// What it has.
    pub serial: Serial,
    /// What it knows to be on every member.
    pub commit_mark: Serial,
    /// The sealed state that it is in, or was opened from.
    pub sealed: Option<Sealed>,
    /// Whether a sync failed, of the replica or its directory.
    pub is_poisoned: bool,
    /// Whether a block is known not to match.
    pub is_corrupt: bool,
}

/// What a prepared seal is: all members have to agree on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prepared {
    /// Bytes.
    pub len: u32,
    /// Their CRC.
    pub crc: u32,
    /// Bytes of the id table.
    pub id_table_len: u32,
    /// Their CRC.
    pub id_table_crc: u32,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A member is ordered something.
    Order {
        /// Which.
        server: ServerId,
        /// What.
        order: Order,
    },
    /// To be handed to the log; its word is awaited ([`handle_log`](super::VersionChange::handle_log)).
    Log(Decision),
    /// The attempt is over: the entry is applied.
    Done,
    /// The attempt is over, and what the log says is what it said before.
    GivenUp(Failure),
}

/// What is to be logged: in one batch, the loss first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Decision {
    /// What may be gone.
    pub loss: Option<Loss>,
    /// What becomes of the chunk.
    pub outcome: Outcome,
}

/// What may be gone of what was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Loss {
    /// The version that acknowledged it.
    pub version: ChunkVersion,
    /// What was kept.
    pub serial: Serial,
    /// Why.
    pub cause: LossCause,
}

/// What becomes of the chunk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It is open.
    Active(Configuration),
    /// It is sealed.
    Sealed {
        /// As what.
        sealed: Sealed,
        /// By whom.
        members: Vec<Member>,
    },
}

/// Why an attempt was given up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// Fewer than `min_replicas` holders of a sealed chunk came together.
    TooFew,
    /// Of an open chunk nobody came who could go on with it.
    Unavailable,
    /// Members that were chosen did not do their part.
    Members(Vec<(ServerId, Fault)>),
    /// What members prepared differs, and these have blocks that don't match.
    Damaged(Vec<ServerId>),
    /// What members prepared differs, and none has a block that doesn't match.
    Corrupt(Vec<ServerId>),
    /// The entry was refused when it was applied.
    NotApplied,
}

/// How a member failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// It was not heard in time.
    Silent,
    /// It refused.
    Refused(Status),
    /// Its answer is not what it was asked for.
    WrongAnswer,
}

impl Fault {
    /// Whether it says that the replica is damaged, and nothing of the moment.
    #[must_use]
    pub const fn is_of_the_replica(self) -> bool {
        match self {
            Self::Refused(status) => is_a_mediums_word(status),
            Self::Silent | Self::WrongAnswer => false,
        }
    }
}

/// Whether a refusal says that the replica is damaged.
pub(super) const fn is_a_mediums_word(status: Status) -> bool {
    matches!(
        status,
        Status::Corrupt | Status::MediumFailed | Status::Poisoned
    )
}
