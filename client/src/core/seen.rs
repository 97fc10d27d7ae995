//! How new the states are that this client has seen of open chunks (`spec/replication.md`
//! section 12).
//!
//! A client's reads ask for at least the highest (version, serial) that it met in an ack or in a
//! read, whichever member answers: it reads what it wrote, and never goes back in time. One
//! [`Seen`] is shared by all that a client does.
//!
//! Chunks that were never open while this client looked have no entry: a sealed one is pinned to
//! its version anyway. An entry takes some tens of bytes and stays: a location that was kept since
//! before a mutation names an older version, and only the entry shows that it does.

use std::collections::HashMap;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Serial};
use sarsen_protocol::message::{ChunkState, LocatedChunk};

use super::read_stream::{Sealed, Wanted};

/// A state of a chunk; the version is compared first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct State {
    /// The version that it belongs to.
    pub version: ChunkVersion,
    /// The last mutation in it.
    pub serial: Serial,
}

/// The highest states seen, by chunk.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    highest: HashMap<ChunkHandle, State>,
}

impl Seen {
    /// This state of an open chunk was read, or what it has was acknowledged.
    pub fn note(&mut self, handle: ChunkHandle, state: State) {
        let highest = self.highest.entry(handle).or_default();
        *highest = state.max(*highest);
    }

    /// A chunk was read as it is sealed: that is noted only where it is above something.
    pub fn note_sealed(&mut self, handle: ChunkHandle, version: ChunkVersion) {
        if let Some(highest) = self.highest.get_mut(&handle) {
            let serial = Serial::NONE;
            *highest = State { version, serial }.max(*highest);
        }
    }

    /// What a read of a chunk that was located asks for; `None` if this client has seen a newer
    /// version than the location names, which is out of date then.
    #[must_use]
    pub fn wanted(&self, chunk: &LocatedChunk) -> Option<Wanted> {
        let (handle, version) = (chunk.handle, chunk.version);
        let seen = self.highest.get(&handle).copied().unwrap_or_default();
        if seen.version > version {
            return None;
        }
        Some(match chunk.state {
            ChunkState::Open => {
                let serial = Serial::NONE;
                let at_least = State { version, serial }.max(seen);
                Wanted::Plain {
                    handle,
                    at_least,
                    length: chunk.length,
                }
            }
            ChunkState::Sealed | ChunkState::Pending => Wanted::Sealed(Sealed {
                handle,
                version,
                length: chunk.length,
                crc32: chunk.crc32,
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::locate::tests::located;

    const HANDLE: ChunkHandle = ChunkHandle(9);

    fn state(version: u64, serial: u64) -> State {
        State {
            version: ChunkVersion(version),
            serial: Serial(serial),
        }
    }

    fn chunk(version: u64, chunk_state: ChunkState) -> LocatedChunk {
        LocatedChunk {
            version: ChunkVersion(version),
            state: chunk_state,
            ..located(0, HANDLE)
        }
    }

    fn at_least(seen: &Seen, chunk: &LocatedChunk) -> Option<State> {
        match seen.wanted(chunk) {
            Some(Wanted::Plain { at_least, .. }) => Some(at_least),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_read_asks_for_what_was_seen_of_the_version_or_for_its_beginning() {
        let mut seen = Seen::default();
        let open = chunk(4, ChunkState::Open);
        assert_eq!(at_least(&seen, &open), Some(state(4, 0)));
        seen.note(HANDLE, state(4, 7));
        seen.note(HANDLE, state(4, 5));
        assert_eq!(at_least(&seen, &open), Some(state(4, 7)), "never back");
        seen.note(HANDLE, state(3, 900));
        assert_eq!(at_least(&seen, &open), Some(state(4, 7)));
        let next = chunk(5, ChunkState::Open);
        assert_eq!(at_least(&seen, &next), Some(state(5, 0)));
    }

    /// Its location was kept since before the client wrote to the chunk: a holder that was left out
    /// would serve the old sealed bytes.
    #[test]
    fn a_location_that_is_older_than_what_was_seen_is_out_of_date() {
        let mut seen = Seen::default();
        let sealed = chunk(4, ChunkState::Sealed);
        assert!(matches!(seen.wanted(&sealed), Some(Wanted::Sealed(_))));
        seen.note(HANDLE, state(5, 1));
        assert_eq!(seen.wanted(&sealed), None);
        assert_eq!(seen.wanted(&chunk(4, ChunkState::Open)), None);
        let sealed = chunk(6, ChunkState::Sealed);
        assert!(matches!(seen.wanted(&sealed), Some(Wanted::Sealed(_))));
        seen.note_sealed(HANDLE, ChunkVersion(6));
        assert_eq!(seen.wanted(&chunk(5, ChunkState::Open)), None);
        seen.note_sealed(ChunkHandle(1), ChunkVersion(6));
        assert_eq!(seen.highest.len(), 1, "what was never open takes no room");
    }
}
