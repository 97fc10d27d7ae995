//! `Goodbye`, and the error body that it shares with every failed reply (`spec/wire.md`
//! sections 9 and 10).

use super::{Kind, Message};
use crate::codec::{Decoder, Encoder};
use crate::error::BodyError;
use crate::id::{ChunkVersion, Serial, ServerId};
use crate::size::ERROR_TEXT_LEN_MAX;

/// The body of every frame whose status is not `ok`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorBody {
    /// For a person: what is wrong, and what to do.
    pub text: String,
    /// The server that is to blame.
    pub server: ServerId,
    /// What the replica has, where that matters.
    pub version: ChunkVersion,
    /// What the replica has, where that matters.
    pub serial: Serial,
    /// Milliseconds to wait; 0 if it is not known.
    pub retry_after: u32,
}

impl ErrorBody {
    /// An error that is told by its text alone; a text over the limit is cut.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        let mut text = text.into();
        text.truncate(text.floor_char_boundary(ERROR_TEXT_LEN_MAX));
        Self {
            text,
            ..Self::default()
        }
    }

    /// The whole body.
    #[must_use]
    pub fn to_body(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.string(&self.text)
            .put(&self.server)
            .put(&self.version)
            .put(&self.serial);
        out.put(&self.retry_after);
        out.into_bytes()
    }

    /// Reads a whole body.
    ///
    /// # Errors
    /// What the bytes break.
    pub fn from_body(body: &[u8]) -> Result<Self, BodyError> {
        let mut input = Decoder::new(body);
        let error = Self::take(&mut input)?;
        input.finish()?;
        Ok(error)
    }

    fn take(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            text: input.string(ERROR_TEXT_LEN_MAX)?.to_owned(),
            server: input.take()?,
            version: input.take()?,
            serial: input.take()?,
            retry_after: input.take()?,
        })
    }
}

/// The last frame on a connection; why stands in the header's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goodbye(pub ErrorBody);

impl Message for Goodbye {
    const KIND: Kind = Kind::Goodbye;

    fn encode(&self, out: &mut Encoder) {
        out.raw(&self.0.to_body());
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self(ErrorBody::take(input)?))
    }
}
