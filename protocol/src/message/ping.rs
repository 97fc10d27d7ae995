//! `Ping` and `Pong`: whether the peer is still there (`spec/messages.md` section 3).

use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;

/// Asks for a [`Pong`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping;

impl Message for Ping {
    const KIND: Kind = Kind::Ping;

    fn encode(&self, _: &mut Encoder) {}

    fn decode(_: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self)
    }
}

/// Answers a [`Ping`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pong;

impl Message for Pong {
    const KIND: Kind = Kind::Pong;

    fn encode(&self, _: &mut Encoder) {}

    fn decode(_: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self)
    }
}
