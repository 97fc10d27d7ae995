//! One chunkserver's copy of a chunk as reported, and whether it is worth anything.

use std::time::Duration;

use sarsen_protocol::id::{ChunkVersion, DirectoryId, FileId, Serial, ServerId};
use sarsen_protocol::message::{ChunkState, HeldChunk, HeldFlags};

use super::chunk_table::{ChunkRecord, Sealed};

/// A copy of a chunk on a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Whose.
    pub server: ServerId,
    /// Where on that server; none for one that only a client has told of.
    pub directory: DirectoryId,
    /// Its version.
    pub version: ChunkVersion,
    /// The last mutation that it had when it was told of.
    pub serial: Serial,
    /// Its bytes.
    pub len: u32,
    /// Their CRC, if it is sealed.
    pub crc: u32,
    /// Where it is in its life.
    pub state: ChunkState,
    /// Marks of its server.
    pub flags: HeldFlags,
    /// The file that it was made for.
    pub file: FileId,
    /// Whether the server itself has told of it.
    pub source: Source,
    /// Whether an order to delete it is under way.
    pub deleting: bool,
}

/// Who has told of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Its server.
    Reported,
    /// The client that wrote it, which named its server in the publication. Counts for readers
    /// until the server's own report can be expected, never for deletion. In safe mode, which
    /// takes no publications, there is none.
    Acknowledged {
        /// When it stops counting.
        until: Duration,
    },
}

/// What a replica is, by what the log says of its chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// As the log has it.
    Good,
    /// As the log has it by its header, but its bytes are yet to be read back: it may be read, and
    /// counts for nothing.
    Unproven,
    /// Of an older version, or never sealed.
    Stale,
    /// Not what was sealed, or marked bad by its server.
    Corrupt,
    /// Of a version that the log doesn't know to be in force: neither given out nor deleted.
    Ahead,
}

impl Replica {
    /// A replica that its server tells of.
    #[must_use]
    pub fn reported(server: ServerId, directory: DirectoryId, held: &HeldChunk) -> Self {
        Self {
            server,
            directory,
            version: held.version,
            serial: held.serial,
            len: held.length,
            crc: held.crc32,
            state: held.state,
            flags: held.flags,
            file: held.file_id,
            source: Source::Reported,
            deleting: false,
        }
    }

    /// A replica that a client tells of when it publishes its chunk.
    #[must_use]
    pub fn acknowledged(server: ServerId, sealed: Sealed, file: FileId, until: Duration) -> Self {
        Self {
            server,
            directory: DirectoryId::NONE,
            version: sealed.version,
            serial: Serial::NONE,
            len: sealed.len,
            crc: sealed.crc,
            state: ChunkState::Sealed,
            flags: HeldFlags::NONE,
            file,
            source: Source::Acknowledged { until },
            deleting: false,
        }
    }

    /// What it is worth.
    #[must_use]
    pub fn standing(&self, record: &ChunkRecord) -> Standing {
        if self.flags.has(HeldFlags::CORRUPT) || self.flags.has(HeldFlags::POISONED) {
            return Standing::Corrupt;
        }
        if let Some(active) = &record.active {
            return match self.version.cmp(&active.version) {
                std::cmp::Ordering::Less => Standing::Stale,
                std::cmp::Ordering::Equal => Standing::Good,
                std::cmp::Ordering::Greater => Standing::Ahead,
            };
        }
        let Some(sealed) = record.sealed else {
            return Standing::Stale;
        };
        match self.version.cmp(&sealed.version) {
            std::cmp::Ordering::Less => Standing::Stale,
            std::cmp::Ordering::Greater => Standing::Ahead,
            std::cmp::Ordering::Equal if self.state != ChunkState::Sealed => Standing::Stale,
            std::cmp::Ordering::Equal => match (self.len, self.crc) == (sealed.len, sealed.crc) {
                true if self.flags.has(HeldFlags::READ_BACK) => Standing::Unproven,
                true => Standing::Good,
                false => Standing::Corrupt,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_worth_what_the_log_says() {
        let sealed = Sealed {
            version: ChunkVersion(5),
            len: 10,
            crc: 77,
        };
        let record = ChunkRecord {
            references: 1,
            file: FileId(2),
            index: 0,
            replicas: 3,
            sealed: Some(sealed),
            active: None,
            losses: Vec::new(),
        };
        let held = HeldChunk {
            handle: sarsen_protocol::id::ChunkHandle(1),
            version: ChunkVersion(5),
            serial: Serial(0),
            length: 10,
            crc32: 77,
            state: ChunkState::Sealed,
            flags: HeldFlags::NONE,
            file_id: FileId(2),
            index: 0,
        };
        let standing = |held: HeldChunk| {
            Replica::reported(ServerId(1), DirectoryId([1; 16]), &held).standing(&record)
        };
        assert_eq!(standing(held), Standing::Good);
        assert_eq!(
            standing(HeldChunk {
                flags: HeldFlags::UNSYNCED,
                ..held
            }),
            Standing::Good
        );
        assert_eq!(
            standing(HeldChunk {
                flags: HeldFlags::UNSYNCED.with(HeldFlags::READ_BACK),
                ..held
            }),
            Standing::Unproven
        );
        assert_eq!(
            standing(HeldChunk {
                version: ChunkVersion(4),
                ..held
            }),
            Standing::Stale
        );
        assert_eq!(
            standing(HeldChunk {
                state: ChunkState::Pending,
                ..held
            }),
            Standing::Stale
        );
        assert_eq!(
            standing(HeldChunk {
                version: ChunkVersion(6),
                ..held
            }),
            Standing::Ahead
        );
        assert_eq!(standing(HeldChunk { crc32: 78, ..held }), Standing::Corrupt);
        assert_eq!(standing(HeldChunk { length: 9, ..held }), Standing::Corrupt);
        assert_eq!(
            standing(HeldChunk {
                flags: HeldFlags::CORRUPT,
                ..held
            }),
            Standing::Corrupt
        );
        assert_eq!(
            standing(HeldChunk {
                flags: HeldFlags::POISONED,
                ..held
            }),
            Standing::Corrupt
        );
    }
}
