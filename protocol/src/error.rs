//! What can be wrong with bytes from a peer (`spec/wire.md` section 9).
//!
//! Names are those of the spec and of the rejected vectors: a test compares them.

use thiserror::Error;

use crate::message::Kind;

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

/// Why a frame was not taken. Ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Not Sarsen's protocol at all.
    #[error("the peer does not speak Sarsen's protocol")]
    BadMagic,
    /// The header was damaged.
    #[error("a frame's header does not match its CRC")]
    BadHeaderCrc,
    /// A version that this build does not speak.
    #[error(
        "a frame of protocol version {version}; this side speaks {}",
        crate::version::VERSION
    )]
    UnsupportedVersion {
        /// The frame's version.
        version: u16,
    },
    /// A flag or a reserved byte of the header is set.
    #[error("a reserved byte of a header is not zero")]
    ReservedNotZero,
    /// No such message.
    #[error("unknown message kind {number:#06x}")]
    UnknownKind {
        /// The kind's number.
        number: u16,
    },
    /// A message of the other plane.
    #[error("{} does not belong on this port", kind.name())]
    WrongPlane {
        /// The message.
        kind: Kind,
    },
    /// A status in a frame that isn't a reply.
    #[error("{} carries a status", kind.name())]
    UnexpectedStatus {
        /// The message.
        kind: Kind,
    },
    /// The body is over the limit.
    #[error("a body of {len} bytes, where at most {len_max} are allowed")]
    BodyTooLong {
        /// What the header says.
        len: u32,
        /// What the plane allows.
        len_max: u32,
    },
    /// The payload is over the limit.
    #[error("a payload of {len} bytes, where at most 1 MiB is allowed")]
    PayloadTooLong {
        /// What the header says.
        len: u32,
    },
    /// A payload behind a message that has none.
    #[error("{} carries a payload", kind.name())]
    UnexpectedPayload {
        /// The message.
        kind: Kind,
    },
    /// The body was damaged.
    #[error("the body of a {} does not match its CRC", kind.name())]
    BadBodyCrc {
        /// The message.
        kind: Kind,
    },
    /// The body's fields break their rules.
    #[error("a {} is malformed: {source}", kind.name())]
    Body {
        /// The message.
        kind: Kind,
        /// What is wrong.
        source: BodyError,
    },
    /// A message that can't come now.
    #[error("a {} out of turn", kind.name())]
    OutOfTurn {
        /// The message.
        kind: Kind,
    },
}

impl FrameError {
    /// The name in the spec and in the vectors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadMagic => "bad_magic",
            Self::BadHeaderCrc => "bad_header_crc",
            Self::UnsupportedVersion { .. } => "unsupported_version",
            Self::ReservedNotZero => "reserved_not_zero",
            Self::UnknownKind { .. } => "unknown_kind",
            Self::WrongPlane { .. } => "wrong_plane",
            Self::UnexpectedStatus { .. } => "unexpected_status",
            Self::BodyTooLong { .. } => "body_too_long",
            Self::PayloadTooLong { .. } => "payload_too_long",
            Self::UnexpectedPayload { .. } => "unexpected_payload",
            Self::BadBodyCrc { .. } => "bad_body_crc",
            Self::Body { source, .. } => source.name(),
            Self::OutOfTurn { .. } => "out_of_turn",
        }
    }
}
