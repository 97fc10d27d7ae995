//! `OpenSession`: a client begins (`spec/messages.md` section 4).

use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::SessionId;
use crate::size::NAME_LEN_MAX;

/// Opens a session; the same nonce always gives the same session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenSession {
    /// Random, drawn once a client.
    pub nonce: [u8; 16],
    /// For people: program and host.
    pub name: String,
}

impl Message for OpenSession {
    const KIND: Kind = Kind::OpenSession;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.nonce).string(&self.name);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            nonce: input.take()?,
            name: input.string(NAME_LEN_MAX)?.to_owned(),
        })
    }
}

/// The session, and what the cluster is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOpened {
    /// Its id.
    pub session: SessionId,
    /// Milliseconds that it lives without being kept.
    pub expiry: u32,
    /// Bytes of a whole chunk.
    pub chunk_size: u32,
    /// Copies of a file that asks for none in particular.
    pub replicas: u8,
    /// The fewest copies that the cluster takes.
    pub min_replicas: u8,
    /// Milliseconds that locations may be cached.
    pub lease: u32,
    /// Milliseconds of silence after which a peer in a stream is given up.
    pub suspect_after: u32,
}

impl Message for SessionOpened {
    const KIND: Kind = Kind::SessionOpened;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.session)
            .put(&self.expiry)
            .put(&self.chunk_size)
            .put(&self.replicas)
            .put(&self.min_replicas)
            .put(&self.lease)
            .put(&self.suspect_after);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            session: input.take()?,
            expiry: input.take()?,
            chunk_size: input.take()?,
            replicas: input.take()?,
            min_replicas: input.take()?,
            lease: input.take()?,
            suspect_after: input.take()?,
        })
    }
}
