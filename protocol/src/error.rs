//! What can be wrong with bytes from a peer (`spec/wire.md` section 9).
//!
//! Names are those of the spec and of the rejected vectors: a test compares them.

use thiserror::Error;

/// Why a body was not taken. Ends the connection: peers of one version agree on every layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BodyError {
    /// A field reaches beyond the end of the body.
    #[error("the body ends inside a field")]
    Truncated,
    /// Bytes are left after the last field.
    #[error("bytes are left after the last field")]
    TrailingBytes,
    /// A reserved byte is not zero.
    #[error("a reserved byte is not zero")]
    ReservedNotZero,
    /// A string or byte field is longer than its bound.
    #[error("a string is longer than its bound")]
    TooLong,
    /// A list has more items than its bound.
    #[error("a list has more items than its bound")]
    TooMany,
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    NotUtf8,
    /// An enumeration, a flag or a boolean has a value that this version doesn't know.
    #[error("a field has a value that this version does not know")]
    UnknownValue,
    /// A request id has no session, or waits for a number that is not outstanding.
    #[error("the request id is not one that a session could send")]
    RequestIdInvalid,
    /// A number lies outside of the bounds that its field has.
    #[error("a number lies outside of its bounds")]
    OutOfBounds,
}

impl BodyError {
    /// The name in the spec and in the vectors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::TrailingBytes => "trailing_bytes",
            Self::ReservedNotZero => "reserved_not_zero",
            Self::TooLong => "too_long",
            Self::TooMany => "too_many",
            Self::NotUtf8 => "not_utf8",
            Self::UnknownValue => "unknown_value",
            Self::RequestIdInvalid => "request_id_invalid",
            Self::OutOfBounds => "out_of_bounds",
        }
    }
}
