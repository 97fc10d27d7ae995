//! What the master's log says may be lost: acks from memory of a version that all members of were
//! restarted, and whatever a person accepts (`spec/replication.md` section 15, point 12).

use std::collections::BTreeMap;
use std::time::Duration;

use sarsen_master::core::command::LossCause;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, FileId};
use sarsen_protocol::message::Level;

use crate::workload::CHUNK_SIZE;

/// What may be lost of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Whose chunk.
    pub file: FileId,
    /// In which slot.
    pub index: u32,
    /// Acks from memory, up to this version.
    pub memory: ChunkVersion,
    /// All acks, up to this version: a person accepted that.
    pub accepted: ChunkVersion,
}

/// All that may be lost.
#[derive(Debug, Default)]
pub struct Losses {
    chunks: BTreeMap<ChunkHandle, Loss>,
    at: BTreeMap<FileId, Duration>,
    /// How many there were so far.
    pub count: u64,
}

impl Losses {
    /// The log has said so, of a version of the chunk in a slot.
    pub fn add(
        &mut self,
        (handle, version): (ChunkHandle, ChunkVersion),
        (file, index): (FileId, u32),
        cause: LossCause,
        now: Duration,
    ) {
        let loss = self.chunks.entry(handle).or_insert(Loss {
            file,
            index,
            memory: ChunkVersion::NONE,
            accepted: ChunkVersion::NONE,
        });
        match cause {
            LossCause::Accepted => loss.accepted = loss.accepted.max(version),
            _ => loss.memory = loss.memory.max(version),
        }
        self.at.insert(file, now);
        self.count += 1;
    }

    /// Whether what was acknowledged in a version, and is so safe, may be gone.
    #[must_use]
    pub fn covers(&self, handle: ChunkHandle, version: ChunkVersion, level: Level) -> bool {
        self.chunks.get(&handle).is_some_and(|loss| {
            version <= loss.accepted || level == Level::Memory && version <= loss.memory
        })
    }

    /// When the log last said so of a chunk of a file.
    #[must_use]
    pub fn last_at(&self, file: FileId) -> Option<Duration> {
        self.at.get(&file).copied()
    }

    /// Whether a place is in a chunk of which a loss was accepted. What had been taken back, and was
    /// done again elsewhere since, may lie there once more: it was in the copy that was taken.
    #[must_use]
    pub fn is_accepted_at(&self, file: FileId, offset: u64) -> bool {
        let mut chunks = self.chunks.values();
        chunks.any(|loss| {
            let index = offset / u64::from(CHUNK_SIZE);
            loss.file == file && u64::from(loss.index) == index && loss.accepted.is_some()
        })
    }

    /// Each chunk with what may be lost of it.
    pub fn iter(&self) -> impl Iterator<Item = (ChunkHandle, Loss)> {
        self.chunks.iter().map(|(&handle, &loss)| (handle, loss))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accepted_loss_covers_all_acks_and_another_those_from_memory() {
        let (handle, file) = (ChunkHandle(5), FileId(9));
        let mut losses = Losses::default();
        let mut lose = |version, cause| {
            let chunk = (handle, ChunkVersion(version));
            losses.add(chunk, (file, 2), cause, Duration::from_secs(version));
        };
        lose(3, LossCause::Accepted);
        lose(6, LossCause::NoMember);
        let covers = |version, level| losses.covers(handle, ChunkVersion(version), level);
        assert!(covers(3, Level::Disk) && covers(6, Level::Memory));
        assert!(!covers(4, Level::Disk) && !covers(7, Level::Memory));
        assert_eq!(losses.last_at(file), Some(Duration::from_secs(6)));
        let chunk = u64::from(CHUNK_SIZE);
        assert!(losses.is_accepted_at(file, 2 * chunk));
        assert!(!losses.is_accepted_at(file, 3 * chunk));
    }
}
