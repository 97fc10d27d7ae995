//! `CloseSession`: a client ends (`spec/messages.md` section 4).

use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::SessionId;

/// Closes a session; its pending files go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseSession {
    /// Which; an unknown one succeeds.
    pub session: SessionId,
}

impl Message for CloseSession {
    const KIND: Kind = Kind::CloseSession;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.session);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            session: input.take()?,
        })
    }
}

/// The session is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionClosed;

impl Message for SessionClosed {
    const KIND: Kind = Kind::SessionClosed;

    fn encode(&self, _: &mut Encoder) {}

    fn decode(_: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self)
    }
}
