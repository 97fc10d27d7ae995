//! Why an entry was refused (`spec/oplog-entries.md` sections 4 and 5).
//!
//! A narrow subset of the status registry: what applying an entry can answer. A refusal is kept
//! with its session and stands in checkpoints under the registry's number.

use std::fmt;

use sarsen_protocol::codec::{Decoder, Encoder, Field};
use sarsen_protocol::error::BodyError;
use sarsen_protocol::status::Status;

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What applying an entry may refuse it with; each is the status of the same name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Refusal {
            $($(#[$doc])* $name,)*
        }

        impl Refusal {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The status that answers the request.
            #[must_use]
            pub const fn status(self) -> Status {
                match self {
                    $(Self::$name => Status::$name,)*
                }
            }
        }
    };
}

refusals! {
    /// A value makes no sense here.
    InvalidArgument,
    /// No such path, file or trash entry.
    NotFound,
    /// The path is taken.
    AlreadyExists,
    /// A part of the path is a file.
    NotAFolder,
    /// A folder is where a file is to be.
    IsAFolder,
    /// The folder holds something and the request is not recursive.
    NotEmpty,
    /// A path would be too long or too deep.
    TooLarge,
    /// The request is below its session's lowest outstanding number.
    RequestForgotten,
    /// The session has expired or never was.
    SessionUnknown,
    /// The pending file has expired, was aborted or never was.
    PendingUnknown,
    /// The handle is not in the chunk table.
    ChunkUnknown,
    /// A chunk has to be sealed before.
    ChunkOpen,
    /// The epoch is not above the last one.
    StaleEpoch,
    /// The directory is a copy or was rolled back.
    StaleStart,
    /// The directory or its server is not one of this cluster's.
    ForeignDirectory,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.status().meaning())
    }
}

impl Field for Refusal {
    const LEN_MIN: usize = 2;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.status().number());
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let number: u16 = input.take()?;
        let known = Self::ALL
            .iter()
            .find(|refusal| refusal.status().number() == number);
        known.copied().ok_or(BodyError::UnknownValue)
    }
}
