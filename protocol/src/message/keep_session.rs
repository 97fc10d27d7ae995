//! `KeepSession`: a client lives (`spec/messages.md` section 4).

use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::SessionId;

/// Keeps a session from expiring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepSession {
    /// Which.
    pub session: SessionId,
}

impl Message for KeepSession {
    const KIND: Kind = Kind::KeepSession;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.session);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            session: input.take()?,
        })
    }
}

/// The session lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionKept;

impl Message for SessionKept {
    const KIND: Kind = Kind::SessionKept;

    fn encode(&self, _: &mut Encoder) {}

    fn decode(_: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self)
    }
}
