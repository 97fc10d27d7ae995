//! Entries about the cluster itself: its birth, epochs, ranges, sessions, servers
//! (`spec/oplog-entries.md` sections 4.1 to 4.7).

use sarsen_protocol::codec::{Decoder, Encoder, Field};
use sarsen_protocol::error::BodyError;
use sarsen_protocol::id::{
    ClusterId, DirectoryId, Epoch, ServerId, SessionId, StartNonce, StartNumber,
};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::size::{ADDRESS_LEN_MAX, CHUNK_LEN_MAX, CHUNK_LEN_MIN};

use super::{IDS_MAX, LABEL_LEN_MAX, take_some};

/// The key that signs tickets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketKey {
    /// Names the key in tickets.
    pub id: u32,
    /// The secret.
    pub key: SecretKey,
}

impl Field for TicketKey {
    const LEN_MIN: usize = 36;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.id).put(self.key.bytes());
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            id: input.take()?,
            key: SecretKey::new(input.take()?),
        })
    }
}

/// The first entry: names the cluster (section 4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genesis {
    /// Random.
    pub cluster: ClusterId,
    /// Bytes of a whole chunk.
    pub chunk_size: u32,
    /// Signs tickets.
    pub ticket_key: TicketKey,
}

impl Field for Genesis {
    const LEN_MIN: usize = 56;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.cluster)
            .put(&self.chunk_size)
            .put(&self.ticket_key);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            cluster: take_some(input)?,
            chunk_size: take_chunk_size(input)?,
            ticket_key: input.take()?,
        })
    }
}

/// Takes the bytes of a whole chunk: a power of two within the cluster's limits.
pub(in crate::core) fn take_chunk_size(input: &mut Decoder<'_>) -> Result<u32, BodyError> {
    let size: u32 = input.take()?;
    match size.is_power_of_two() && (CHUNK_LEN_MIN..=CHUNK_LEN_MAX).contains(&size) {
        true => Ok(size),
        false => Err(BodyError::OutOfBounds),
    }
}

/// A master has started (section 4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochRaised {
    /// Higher than every epoch before.
    pub epoch: Epoch,
}

impl Field for EpochRaised {
    const LEN_MIN: usize = 16;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.epoch);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let epoch: Epoch = input.take()?;
        (epoch.number != 0)
            .then_some(Self { epoch })
            .ok_or(BodyError::OutOfBounds)
    }
}

/// Handles and versions below new ends may be given out (section 4.3).
///
/// A master gives out none before the entry that covers it is durable, and after a restart begins
/// at the ends: what was not given out of an older range is skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangesReserved {
    /// Every handle given out is below.
    pub handles_end: u64,
    /// Every version given out is below.
    pub versions_end: u64,
}

impl Field for RangesReserved {
    const LEN_MIN: usize = 16;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.handles_end).put(&self.versions_end);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            handles_end: input.take()?,
            versions_end: input.take()?,
        })
    }
}

/// A client has a session (section 4.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionOpened {
    /// Drawn by the client, so that asking again gives the same session.
    pub nonce: [u8; 16],
    /// What the client calls itself.
    pub client: String,
}

impl Field for SessionOpened {
    const LEN_MIN: usize = 18;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.nonce).string(&self.client);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            nonce: input.take()?,
            client: input.string(LABEL_LEN_MAX)?.to_owned(),
        })
    }
}

/// Sessions are over (section 4.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionsClosed {
    /// Which; those that are not there are passed over.
    pub sessions: Vec<SessionId>,
}

impl Field for SessionsClosed {
    const LEN_MIN: usize = 4;

    fn encode(&self, out: &mut Encoder) {
        out.list(&self.sessions);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            sessions: input.list(IDS_MAX)?,
        })
    }
}

/// A chunkserver is new, or its addresses or rack are (section 4.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRegistered {
    /// The server, or none for a new one.
    pub server: ServerId,
    /// Where it is reached.
    pub addresses: Addresses,
    /// Where it stands.
    pub rack: String,
}

/// Where a chunkserver is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Its control plane.
    pub control: String,
    /// Its data plane.
    pub data: String,
    /// Its HTTP port.
    pub http: String,
}

impl Field for Addresses {
    const LEN_MIN: usize = 6;

    fn encode(&self, out: &mut Encoder) {
        out.string(&self.control)
            .string(&self.data)
            .string(&self.http);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            control: input.string(ADDRESS_LEN_MAX)?.to_owned(),
            data: input.string(ADDRESS_LEN_MAX)?.to_owned(),
            http: input.string(ADDRESS_LEN_MAX)?.to_owned(),
        })
    }
}

impl Field for ServerRegistered {
    const LEN_MIN: usize = 16;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.server)
            .put(&self.addresses)
            .string(&self.rack);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            server: input.take()?,
            addresses: input.take()?,
            rack: input.string(LABEL_LEN_MAX)?.to_owned(),
        })
    }
}

/// A data directory has started (section 4.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryStarted {
    /// The directory.
    pub directory: DirectoryId,
    /// The server that has it.
    pub server: ServerId,
    /// Raised at each start.
    pub start_number: StartNumber,
    /// Drawn at each start.
    pub start_nonce: StartNonce,
}

impl Field for DirectoryStarted {
    const LEN_MIN: usize = 40;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.directory)
            .put(&self.server)
            .put(&self.start_number)
            .put(&self.start_nonce);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            directory: take_some(input)?,
            server: take_some(input)?,
            start_number: take_some(input)?,
            start_nonce: input.take()?,
        })
    }
}
