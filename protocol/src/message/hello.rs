//! The four frames of the hello (`spec/wire.md` section 8).

use super::shared::enumeration;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder, Field};
use crate::error::BodyError;
use crate::id::{ClusterId, DirectoryId, ServerId, StartNonce, StartNumber};

/// Bytes of a [`Hello`]'s body.
pub const HELLO_LEN: usize = 112;

/// Bytes of a [`HelloReply`]'s body.
pub const HELLO_REPLY_LEN: usize = 144;

/// Where the proof begins in a [`HelloReply`]'s body.
pub(crate) const HELLO_REPLY_PROOF_AT: usize = 104;

enumeration! {
    /// What a side of a connection is.
    Role {
        /// A client.
        Client = 1 "client",
        /// A chunkserver.
        Chunkserver = 2 "chunkserver",
        /// A master.
        Master = 3 "master",
    }
}

/// Which start of which directory a chunkserver speaks for; all zero for other roles, but for the
/// number by which a client is told from others (`spec/wire.md` section 12.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// The chunkserver's id, once it has one.
    pub server_id: ServerId,
    /// Its first directory.
    pub directory_id: DirectoryId,
    /// That directory's start number.
    pub start_number: StartNumber,
    /// That directory's start nonce; a client's own number.
    pub start_nonce: StartNonce,
}

impl Field for Start {
    const LEN_MIN: usize = 40;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.server_id).put(&self.directory_id);
        out.put(&self.start_number).put(&self.start_nonce);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            server_id: input.take()?,
            directory_id: input.take()?,
            start_number: input.take()?,
            start_nonce: input.take()?,
        })
    }
}

/// The dialer's first frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The lowest version that the dialer speaks.
    pub version_min: u16,
    /// The highest version that the dialer speaks.
    pub version_max: u16,
    /// What the dialer is.
    pub role: Role,
    /// What the connection is for: 1 control, 2 data.
    pub plane: super::Plane,
    /// What the dialer can do.
    pub features: u64,
    /// The dialer's cluster, if it knows.
    pub cluster_id: ClusterId,
    /// The chunkserver's identity.
    pub start: Start,
    /// Fresh for each connection.
    pub nonce: [u8; 32],
}

/// The listener's answer, with its proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloReply {
    /// The version that both will use.
    pub version: u16,
    /// What the listener is.
    pub role: Role,
    /// What its port is for.
    pub plane: super::Plane,
    /// What both can do.
    pub features: u64,
    /// The listener's cluster.
    pub cluster_id: ClusterId,
    /// The chunkserver's identity.
    pub start: Start,
    /// Fresh for each connection.
    pub nonce: [u8; 32],
    /// That the listener holds the cluster key.
    pub proof: [u8; 32],
}

/// That the dialer holds the cluster key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloProof {
    /// See `spec/wire.md` section 8.
    pub proof: [u8; 32],
}

/// The hello is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloDone;

impl Field for super::Plane {
    const LEN_MIN: usize = 1;

    fn encode(&self, out: &mut Encoder) {
        out.put(&match self {
            Self::Control => 1_u8,
            Self::Data => 2,
        });
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        match input.take::<u8>()? {
            1 => Ok(Self::Control),
            2 => Ok(Self::Data),
            _ => Err(BodyError::UnknownValue),
        }
    }
}

impl Message for Hello {
    const KIND: Kind = Kind::Hello;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.version_min)
            .put(&self.version_max)
            .put(&self.role)
            .put(&self.plane);
        out.reserved(2)
            .put(&self.features)
            .put(&self.cluster_id)
            .put(&self.start);
        out.put(&self.nonce).reserved(8);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let version_min = input.take()?;
        let version_max = input.take()?;
        let role = input.take()?;
        let plane = input.take()?;
        input.reserved(2)?;
        let features = input.take()?;
        let cluster_id = input.take()?;
        let start = input.take()?;
        let nonce = input.take()?;
        input.reserved(8)?;
        if version_min == 0 || version_min > version_max {
            return Err(BodyError::OutOfBounds);
        }
        Ok(Self {
            version_min,
            version_max,
            role,
            plane,
            features,
            cluster_id,
            start,
            nonce,
        })
    }
}

impl Message for HelloReply {
    const KIND: Kind = Kind::HelloReply;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.version)
            .put(&self.role)
            .put(&self.plane)
            .reserved(4);
        out.put(&self.features)
            .put(&self.cluster_id)
            .put(&self.start);
        out.put(&self.nonce).put(&self.proof).reserved(8);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let version = input.take()?;
        let role = input.take()?;
        let plane = input.take()?;
        input.reserved(4)?;
        let reply = Self {
            version,
            role,
            plane,
            features: input.take()?,
            cluster_id: input.take()?,
            start: input.take()?,
            nonce: input.take()?,
            proof: input.take()?,
        };
        input.reserved(8)?;
        Ok(reply)
    }
}

impl Message for HelloProof {
    const KIND: Kind = Kind::HelloProof;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.proof);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            proof: input.take()?,
        })
    }
}

impl Message for HelloDone {
    const KIND: Kind = Kind::HelloDone;

    fn encode(&self, _: &mut Encoder) {}

    fn decode(_: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self)
    }
}
