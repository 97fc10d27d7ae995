//! `IDENTITY`: whose a data directory is, and how often it was started
//! (`spec/chunk-file.md` section 8).
//!
//! Bytes in, values out, and back. Replacing the file durably is [`super::directory`]'s work.

use sarsen_protocol::crc::crc32;
use sarsen_protocol::id::{ClusterId, DirectoryId, Epoch, ServerId, StartNonce, StartNumber};
use sarsen_protocol::size::STARTS_OFFERED_MAX;
use thiserror::Error;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::header::chunk_size_is_valid;
use super::journal::Author;

/// Bytes of the file.
pub const IDENTITY_LEN: usize = 256;

const MAGIC: [u8; 8] = *b"SARSENID";
const FORMAT_VERSION: u16 = 1;
const FLAG_POISONED: u32 = 2;
const FLAG_STALE: u32 = 4;
const CRC_OFFSET: usize = IDENTITY_LEN - size_of::<u32>();

/// What a directory was given at its first registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adoption {
    /// The cluster that it belongs to.
    pub cluster_id: ClusterId,
    /// The chunkserver that it belongs to.
    pub server_id: ServerId,
    /// The cluster's chunk size in bytes.
    pub chunk_size: u32,
}

/// The starts of a directory that its master may know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownStarts {
    /// The last one that was registered, with the nonce drawn at it; none if there was none.
    pub registered: Option<(StartNumber, StartNonce)>,
    /// Nonces of those since, oldest first: a registration may be logged without its answer ever
    /// having come.
    pub offered: Vec<StartNonce>,
}

impl KnownStarts {
    /// Adds a start that is about to be offered.
    ///
    /// Where there is no room the second goes: the first may have been logged before a long time
    /// without a master, the last ones before a crash.
    pub fn offer(&mut self, nonce: StartNonce) {
        if self.offered.len() >= STARTS_OFFERED_MAX {
            self.offered.remove(1);
        }
        self.offered.push(nonce);
    }
}

/// What `IDENTITY` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// A sync of something that no single chunk owns failed.
    pub poisoned: bool,
    /// A master found it to be a copy, or rolled back.
    pub stale: bool,
    /// Drawn once.
    pub directory_id: DirectoryId,
    /// Of the last start.
    pub start_number: StartNumber,
    /// Drawn at that start.
    pub start_nonce: StartNonce,
    /// Which starts the master may have logged last.
    pub known_starts: KnownStarts,
    /// The highest epoch obeyed.
    pub epoch: Epoch,
    /// Whose it is, once it was registered.
    pub adoption: Option<Adoption>,
}

/// Why bytes are no `IDENTITY`. The names are those of the spec and of the vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Not [`IDENTITY_LEN`] bytes.
    #[error("wrong_length")]
    WrongLength,
    /// Begins with something else.
    #[error("bad_magic")]
    BadMagic,
    /// The CRC doesn't match.
    #[error("bad_crc")]
    BadCrc,
    /// Written by another version of the format.
    #[error("unknown_format_version")]
    UnknownFormatVersion,
    /// A mark that this version doesn't know.
    #[error("unknown_flag")]
    UnknownFlag,
    /// A reserved byte is not zero.
    #[error("reserved_not_zero")]
    ReservedNotZero,
    /// Directory id, start number or start nonce is zero.
    #[error("id_missing")]
    IdMissing,
    /// An incarnation without an epoch.
    #[error("epoch_invalid")]
    EpochInvalid,
    /// The starts that the master may know contradict each other.
    #[error("starts_invalid")]
    StartsInvalid,
    /// Some of cluster, server and chunk size are set, and some are not.
    #[error("half_adopted")]
    HalfAdopted,
    /// The chunk size is not one that a cluster may have.
    #[error("chunk_size_invalid")]
    ChunkSizeInvalid,
}

type Offered = [U64; STARTS_OFFERED_MAX];

/// The file's bytes.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawIdentity {
    magic: [u8; 8],         // 0
    format_version: U16,    // 8
    reserved_a: [u8; 2],    // 10
    flags: U32,             // 12
    cluster_id: [u8; 16],   // 16
    directory_id: [u8; 16], // 32
    server_id: U64,         // 48
    start_number: U64,      // 56
    start_nonce: U64,       // 64
    epoch_number: U64,      // 72
    epoch_incarnation: U64, // 80
    chunk_size: U32,        // 88
    reserved_b: [u8; 4],    // 92
    registered_number: U64, // 96
    registered_nonce: U64,  // 104
    offered: Offered,       // 112
    reserved_c: [u8; 12],   // 240
    identity_crc32: U32,    // 252
}

const _: () = assert!(size_of::<RawIdentity>() == IDENTITY_LEN);
const _: () = assert!(std::mem::offset_of!(RawIdentity, identity_crc32) == CRC_OFFSET);

impl Identity {
    /// Who writes to the journal in this start; none before it was adopted.
    #[must_use]
    pub fn author(&self) -> Option<Author> {
        self.adoption.map(|adoption| Author {
            cluster_id: adoption.cluster_id,
            directory_id: self.directory_id,
            start_number: self.start_number,
            start_nonce: self.start_nonce,
        })
    }

    /// The file's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; IDENTITY_LEN] {
        let adoption = self.adoption.unwrap_or(NOT_ADOPTED);
        let mark = |is_set, flag| if is_set { flag } else { 0 };
        let registered = self.known_starts.registered.unwrap_or_default();
        let mut offered = Offered::default();
        for (place, nonce) in offered.iter_mut().zip(&self.known_starts.offered) {
            place.set(nonce.0);
        }
        let mut raw = RawIdentity {
            magic: MAGIC,
            format_version: FORMAT_VERSION.into(),
            reserved_a: [0; 2],
            flags: (mark(self.poisoned, FLAG_POISONED) | mark(self.stale, FLAG_STALE)).into(),
            cluster_id: adoption.cluster_id.0,
            directory_id: self.directory_id.0,
            server_id: adoption.server_id.0.into(),
            start_number: self.start_number.0.into(),
            start_nonce: self.start_nonce.0.into(),
            epoch_number: self.epoch.number.into(),
            epoch_incarnation: self.epoch.incarnation.into(),
            chunk_size: adoption.chunk_size.into(),
            reserved_b: [0; 4],
            registered_number: registered.0.0.into(),
            registered_nonce: registered.1.0.into(),
            offered,
            reserved_c: [0; 12],
            identity_crc32: 0.into(),
        };
        raw.identity_crc32 = raw.computed_crc().into();
        zerocopy::transmute!(raw)
    }

    /// Reads the file, with the checks of the spec in their order.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn decode(bytes: &[u8]) -> Result<Self, IdentityError> {
        let raw = RawIdentity::read_from_bytes(bytes).map_err(|_| IdentityError::WrongLength)?;
        if raw.magic != MAGIC {
            return Err(IdentityError::BadMagic);
        }
        if raw.identity_crc32.get() != raw.computed_crc() {
            return Err(IdentityError::BadCrc);
        }
        if raw.format_version.get() != FORMAT_VERSION {
            return Err(IdentityError::UnknownFormatVersion);
        }
        if raw.flags.get() & !(FLAG_POISONED | FLAG_STALE) != 0 {
            return Err(IdentityError::UnknownFlag);
        }
        if raw.reserved_a != [0; 2] || raw.reserved_b != [0; 4] || raw.reserved_c != [0; 12] {
            return Err(IdentityError::ReservedNotZero);
        }
        raw.parse()
    }
}

const NOT_ADOPTED: Adoption = Adoption {
    cluster_id: ClusterId::NONE,
    server_id: ServerId::NONE,
    chunk_size: 0,
};

impl RawIdentity {
    fn computed_crc(&self) -> u32 {
        let (covered, _) = self.as_bytes().split_at(CRC_OFFSET);
        crc32(covered)
    }

    /// The checks on values, in the order of the spec.
    fn parse(&self) -> Result<Identity, IdentityError> {
        let identity = Identity {
            poisoned: self.flags.get() & FLAG_POISONED != 0,
            stale: self.flags.get() & FLAG_STALE != 0,
            directory_id: DirectoryId(self.directory_id),
            start_number: StartNumber(self.start_number.get()),
            start_nonce: StartNonce(self.start_nonce.get()),
            known_starts: KnownStarts::default(),
            epoch: Epoch {
                number: self.epoch_number.get(),
                incarnation: self.epoch_incarnation.get(),
            },
            adoption: None,
        };
        if !(identity.directory_id.is_some()
            && identity.start_number.is_some()
            && identity.start_nonce.is_some())
        {
            return Err(IdentityError::IdMissing);
        }
        if identity.epoch.number == 0 && identity.epoch.incarnation != 0 {
            return Err(IdentityError::EpochInvalid);
        }
        let known_starts = self.parse_starts()?;
        Ok(Identity {
            known_starts,
            adoption: self.parse_adoption()?,
            ..identity
        })
    }

    fn parse_starts(&self) -> Result<KnownStarts, IdentityError> {
        let number = StartNumber(self.registered_number.get());
        let nonce = StartNonce(self.registered_nonce.get());
        let nonces = self.offered.iter().map(|nonce| StartNonce(nonce.get()));
        let mut rest = nonces.clone().skip_while(|nonce| nonce.is_some());
        if number.0 > self.start_number.get()
            || number.is_some() != nonce.is_some()
            || rest.any(|nonce| nonce.is_some())
        {
            return Err(IdentityError::StartsInvalid);
        }
        Ok(KnownStarts {
            registered: number.is_some().then_some((number, nonce)),
            offered: nonces.take_while(|nonce| nonce.is_some()).collect(),
        })
    }

    fn parse_adoption(&self) -> Result<Option<Adoption>, IdentityError> {
        let adoption = Adoption {
            cluster_id: ClusterId(self.cluster_id),
            server_id: ServerId(self.server_id.get()),
            chunk_size: self.chunk_size.get(),
        };
        let given = [
            adoption.cluster_id.is_some(),
            adoption.server_id.is_some(),
            adoption.chunk_size != 0,
        ];
        match given {
            [false, false, false] => Ok(None),
            [true, true, true] if chunk_size_is_valid(adoption.chunk_size) => Ok(Some(adoption)),
            [true, true, true] => Err(IdentityError::ChunkSizeInvalid),
            _ => Err(IdentityError::HalfAdopted),
        }
    }
}
