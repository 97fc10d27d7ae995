//! Identities: handles, versions, servers, sessions, epochs (`spec/wire.md` section 3).
//!
//! Each is a newtype, so that a handle can't be passed for a version. None of them gives out
//! new values: drawing ids is the master's work, from logged ranges.

use std::fmt;

macro_rules! id_u64 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// The value that names nothing.
            pub const NONE: Self = Self(0);

            /// Whether this names something.
            #[must_use]
            pub const fn is_some(self) -> bool {
                self.0 != 0
            }
        }
    };
}

macro_rules! id_bytes16 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// The value that names nothing.
            pub const NONE: Self = Self([0; 16]);

            /// Whether this names something.
            #[must_use]
            pub fn is_some(self) -> bool {
                self != Self::NONE
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

macro_rules! shown_in_decimal {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    )*};
}

id_u64! {
    /// Names a chunk. Drawn by the master from a logged range and never used twice.
    ChunkHandle
}
id_u64! {
    /// Names a configuration of a chunk. Drawn from a logged range; higher is newer.
    ChunkVersion
}
id_u64! {
    /// The place of a mutation in a chunk's order; state is compared as (version, serial).
    Serial
}
id_u64! {
    /// Names a chunkserver for as long as the cluster lives.
    ServerId
}
id_u64! {
    /// Names a file or folder, pending files included; never used twice.
    FileId
}
id_u64! {
    /// Names a client's session at the master.
    SessionId
}
id_u64! {
    /// Raised durably at each start of a data directory.
    StartNumber
}
id_u64! {
    /// Random, drawn beside each start number, so that two copies of a directory differ.
    StartNonce
}

shown_in_decimal!(
    ChunkVersion,
    Serial,
    ServerId,
    FileId,
    SessionId,
    StartNumber
);

impl fmt::Display for ChunkHandle {
    /// Sixteen hex digits, as in the name of the chunk's file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for StartNonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl ChunkHandle {
    /// Reads the sixteen hex digits that [`fmt::Display`] writes; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        hex.then(|| u64::from_str_radix(text, 16).ok().map(Self))
            .flatten()
    }
}

id_bytes16! {
    /// Names a cluster: random, drawn when its first master starts for the first time.
    ClusterId
}
id_bytes16! {
    /// Names a data directory: random, drawn when the directory is first used.
    DirectoryId
}

/// The master's term of office: a number raised through the log, and a random incarnation.
///
/// Two epochs of the same number with different incarnations are two histories; a chunkserver
/// obeys only the first that it met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Epoch {
    /// Raised by one at each start of a master, through the log.
    pub number: u64,
    /// Random, drawn beside the number.
    pub incarnation: u64,
}

impl Epoch {
    /// No epoch seen yet.
    pub const NONE: Self = Self {
        number: 0,
        incarnation: 0,
    };
}

/// Names one mutating request of a session, so that it is done once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId {
    /// The session that asks.
    pub session: SessionId,
    /// Counts the session's mutating requests from one.
    pub number: u64,
    /// The lowest number whose reply the client still waits for; replies below are forgotten.
    pub lowest_outstanding: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handle_text_is_sixteen_lower_case_digits() {
        let handle = ChunkHandle(0x00ab_cdef);
        assert_eq!(handle.to_string(), "0000000000abcdef");
        assert_eq!(ChunkHandle::parse("0000000000abcdef"), Some(handle));
        for bad in [
            "",
            "abcdef",
            "0000000000ABCDEF",
            "+000000000abcdef",
            "0000000000abcdef0",
        ] {
            assert_eq!(ChunkHandle::parse(bad), None, "{bad}");
        }
    }
}
