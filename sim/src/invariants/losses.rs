//! What the master's log says may be lost: acks from memory of a version that all members of were
//! restarted, and whatever a person accepts (`spec/replication.md` section 15, point 12). A loss is accepted
//! when the chunk is sealed for it: what is said before may come to nothing. What the copy has that is gone on
//! with is not lost.

use std::collections::BTreeMap;
use std::time::Duration;

use sarsen_client::core::mutation::Done;
use sarsen_master::core::chunk_table::Sealed;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, FileId, SessionId};
use sarsen_protocol::message::Level;

use super::ages::Age;
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
    /// How often a person accepted that more may be gone.
    pub accepted: usize,
}

/// A loss that a person accepted: the chunk was sealed for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedLoss {
    /// The chunk.
    pub handle: ChunkHandle,
    /// Whose.
    pub file: FileId,
    /// In which slot.
    pub index: u32,
    /// As which request.
    pub request: (SessionId, u64),
    /// The version that the log had.
    pub last: ChunkVersion,
    /// What the log said of the chunk, if it was at rest.
    pub at_rest: Option<Sealed>,
    /// What it is sealed as.
    pub sealed: Sealed,
    /// Whose copy is gone on with, and how far that goes; none if it can't be told.
    pub taken: Option<(u8, Age)>,
    /// What is there still; none if that can't be told.
    pub kept: Option<Age>,
    /// When.
    pub at: Duration,
}

impl AcceptedLoss {
    fn covers(&self, done: &Done) -> bool {
        let is_kept = |kept: Age| kept.holds(done.version, done.serial);
        self.handle == done.handle
            && done.version <= self.last
            && (done.level == Level::Memory || !self.kept.is_some_and(is_kept))
    }

    /// Whether a place is in the bytes that were gone on with.
    fn has(&self, file: FileId, offset: u64) -> bool {
        let begin = u64::from(self.index) * u64::from(CHUNK_SIZE);
        self.file == file && (begin..begin + u64::from(self.sealed.len)).contains(&offset)
    }
}

/// All that may be lost.
#[derive(Debug, Default)]
pub struct Losses {
    chunks: BTreeMap<ChunkHandle, Loss>,
    /// Of which chunks the log says that a person accepted it, and no seal was behind that yet.
    said: BTreeMap<ChunkHandle, ChunkVersion>,
    accepted: Vec<AcceptedLoss>,
    at: BTreeMap<FileId, Duration>,
    /// How many there were so far.
    pub count: u64,
}

impl Losses {
    /// The log has said that all members of a version of the chunk in a slot were restarted.
    pub fn add_of_memory(
        &mut self,
        (handle, version): (ChunkHandle, ChunkVersion),
        slot: (FileId, u32),
        now: Duration,
    ) {
        let loss = self.of_chunk(handle, slot, now);
        loss.memory = loss.memory.max(version);
    }

    /// The log has said that a person accepts what is lost of a chunk, up to a version.
    pub fn is_to_be_accepted(&mut self, handle: ChunkHandle, last: ChunkVersion) {
        self.said.insert(handle, last);
    }

    /// Another state of a chunk is logged: the version up to which a loss was accepted before, if one was.
    pub fn take_said(&mut self, handle: ChunkHandle) -> Option<ChunkVersion> {
        self.said.remove(&handle)
    }

    /// A chunk was sealed for a loss.
    pub fn add_accepted(&mut self, accepted: AcceptedLoss) {
        let slot = (accepted.file, accepted.index);
        self.of_chunk(accepted.handle, slot, accepted.at).accepted += 1;
        self.accepted.push(accepted);
    }

    fn of_chunk(&mut self, handle: ChunkHandle, slot: (FileId, u32), now: Duration) -> &mut Loss {
        let (file, index) = slot;
        self.at.insert(file, now);
        self.count += 1;
        self.chunks.entry(handle).or_insert(Loss {
            file,
            index,
            memory: ChunkVersion::NONE,
            accepted: 0,
        })
    }

    /// Whether what was acknowledged may be gone.
    #[must_use]
    pub fn covers(&self, done: &Done) -> bool {
        let loss = self.chunks.get(&done.handle);
        loss.is_some_and(|loss| done.level == Level::Memory && done.version <= loss.memory)
            || self.accepted.iter().any(|it| it.covers(done))
    }

    /// When the log last said so of a chunk of a file.
    #[must_use]
    pub fn last_at(&self, file: FileId) -> Option<Duration> {
        self.at.get(&file).copied()
    }

    /// Whether what began then may lie at a place because a loss was accepted: what had been taken back, and
    /// was done again elsewhere since, was in the copy that is gone on with.
    #[must_use]
    pub fn may_be_back(&self, file: FileId, offset: u64, began: Duration) -> bool {
        let mut accepted = self.accepted.iter();
        accepted.any(|it| it.has(file, offset) && began < it.at)
    }

    /// Each chunk with what may be lost of it.
    pub fn iter(&self) -> impl Iterator<Item = (ChunkHandle, Loss)> {
        self.chunks.iter().map(|(&handle, &loss)| (handle, loss))
    }

    /// All that were accepted, in the order in which they were.
    #[must_use]
    pub fn accepted(&self) -> &[AcceptedLoss] {
        &self.accepted
    }
}

#[cfg(test)]
mod tests {
    use sarsen_protocol::id::Serial;

    use super::*;

    const HANDLE: ChunkHandle = ChunkHandle(5);
    const FILE: FileId = FileId(9);

    fn done(version: u64, serial: u64, level: Level) -> Done {
        Done {
            index: 2,
            handle: HANDLE,
            version: ChunkVersion(version),
            serial: Serial(serial),
            offset: 0,
            level,
            copies: 2,
        }
    }

    fn accepted(last: u64, kept: Option<Age>) -> AcceptedLoss {
        let sealed = Sealed {
            version: ChunkVersion(last + 2),
            len: 100,
            crc: 1,
        };
        AcceptedLoss {
            handle: HANDLE,
            file: FILE,
            index: 2,
            request: (SessionId(1), 1),
            last: ChunkVersion(last),
            at_rest: None,
            sealed,
            taken: kept.map(|age| (3, age)),
            kept,
            at: Duration::from_secs(last),
        }
    }

    #[test]
    fn an_accepted_loss_covers_what_its_copy_lacks_and_another_acks_from_memory() {
        let mut losses = Losses::default();
        let kept = Age {
            version: ChunkVersion(3),
            serial: Some(Serial(7)),
        };
        losses.add_accepted(accepted(5, Some(kept)));
        losses.add_of_memory((HANDLE, ChunkVersion(9)), (FILE, 2), Duration::from_secs(9));
        let covers = |version, serial, level| losses.covers(&done(version, serial, level));
        assert!(covers(4, 1, Level::Disk) && covers(3, 8, Level::Disk));
        assert!(!covers(3, 7, Level::Disk) && !covers(2, 9, Level::Disk));
        assert!(covers(3, 7, Level::Memory), "as if all were restarted");
        assert!(!covers(6, 1, Level::Disk) && covers(9, 1, Level::Memory));
        assert_eq!(losses.last_at(FILE), Some(Duration::from_secs(9)));
    }

    #[test]
    fn of_a_copy_of_which_nothing_is_known_all_may_be_gone() {
        let mut losses = Losses::default();
        losses.add_accepted(accepted(5, None));
        assert!(losses.covers(&done(1, 1, Level::Disk)));
        assert!(!losses.covers(&done(6, 1, Level::Disk)));
    }

    #[test]
    fn what_was_taken_back_may_lie_in_what_was_gone_on_with() {
        let mut losses = Losses::default();
        losses.add_accepted(accepted(5, None));
        let begin = 2 * u64::from(CHUNK_SIZE);
        let (before, later) = (Duration::from_secs(4), Duration::from_secs(5));
        assert!(losses.may_be_back(FILE, begin + 99, before));
        assert!(!losses.may_be_back(FILE, begin + 100, before), "behind it");
        assert!(!losses.may_be_back(FILE, begin - 1, before), "another slot");
        assert!(!losses.may_be_back(FILE, begin, later), "sent since");
    }

    /// The master ended between the two entries, and the chunk came right by itself.
    #[test]
    fn what_was_only_said_is_no_loss() {
        let mut losses = Losses::default();
        losses.is_to_be_accepted(HANDLE, ChunkVersion(5));
        assert!(!losses.covers(&done(5, 1, Level::Disk)));
        assert_eq!(losses.last_at(FILE), None);
        assert_eq!(losses.take_said(HANDLE), Some(ChunkVersion(5)));
        assert_eq!(losses.take_said(HANDLE), None);
    }
}
