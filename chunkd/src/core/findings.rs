//! Which chunks the heartbeats tell to be corrupt (`spec/messages.md` section 9).
//!
//! The inventory has the last word on a chunk, and what a heartbeat tells of it must not come
//! behind: a master that heard in this order that a replica was found bad, that it was made anew,
//! and that it was found bad, would take the new one for the old. So
//!
//! - a chunk is told only while it is marked;
//! - one that changes while a heartbeat that names it is on its way is told by an inventory once
//!   more when the heartbeat was answered, whichever of the two came first.

use std::collections::BTreeMap;

use sarsen_protocol::id::{ChunkHandle, DirectoryId};
use sarsen_protocol::message::{CorruptChunk, HeldChunk, HeldFlags};
use sarsen_protocol::size::CORRUPT_MAX;

type Place = (DirectoryId, ChunkHandle);

/// The chunks that are marked corrupt, and were not told to be so.
#[derive(Debug, Default)]
pub struct Findings {
    marked: BTreeMap<Place, CorruptChunk>,
    out: Option<Out>,
}

/// A heartbeat that named some, and was not answered yet.
#[derive(Debug)]
struct Out {
    sequence: u64,
    /// What it named, and what became of it since, if it changed.
    told: BTreeMap<Place, Option<Change>>,
}

/// A chunk as it is now; `chunk` is none if it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where.
    pub directory_id: DirectoryId,
    /// Which.
    pub handle: ChunkHandle,
    /// As it is held.
    pub chunk: Option<HeldChunk>,
}

impl Findings {
    /// Begins anew with a registration: nobody knows whether the one before heard what it was told.
    pub fn restart(&mut self) {
        self.out = None;
    }

    /// A chunk has changed.
    pub fn handle_change(&mut self, change: Change) {
        let Change {
            directory_id,
            handle,
            chunk,
        } = change;
        let place = (directory_id, handle);
        match chunk.filter(|chunk| chunk.flags.has(HeldFlags::CORRUPT)) {
            Some(HeldChunk { version, .. }) => {
                let found = CorruptChunk {
                    handle,
                    version,
                    directory_id,
                };
                self.marked.insert(place, found);
            }
            None => _ = self.marked.remove(&place),
        }
        let told = self.out.as_mut().and_then(|out| out.told.get_mut(&place));
        if let Some(since) = told {
            *since = Some(change);
        }
    }

    /// What the heartbeat with this number tells. While one that named chunks is not answered, the
    /// others name none.
    pub fn tell(&mut self, sequence: u64) -> Vec<CorruptChunk> {
        if self.out.is_some() {
            return Vec::new();
        }
        let told: Vec<CorruptChunk> = self.marked.values().take(CORRUPT_MAX).copied().collect();
        if !told.is_empty() {
            let told = self.marked.keys().take(CORRUPT_MAX);
            let told = told.map(|&place| (place, None)).collect();
            self.out = Some(Out { sequence, told });
        }
        told
    }

    /// The heartbeat with this number was answered: what is to be told of once more.
    pub fn heard(&mut self, sequence: u64) -> Vec<Change> {
        let Some(out) = self.out.take_if(|out| out.sequence == sequence) else {
            return Vec::new();
        };
        for (place, since) in &out.told {
            if since.is_none() {
                self.marked.remove(place);
            }
        }
        out.told.into_values().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sarsen_protocol::id::{ChunkVersion, FileId, Serial};
    use sarsen_protocol::message::ChunkState;

    const DIRECTORY: DirectoryId = DirectoryId([1; 16]);

    fn change(handle: u64, flags: HeldFlags) -> Change {
        let chunk = HeldChunk {
            handle: ChunkHandle(handle),
            version: ChunkVersion(3),
            serial: Serial(0),
            length: 0,
            crc32: 0,
            state: ChunkState::Sealed,
            flags,
            file_id: FileId(1),
            index: 0,
        };
        Change {
            directory_id: DIRECTORY,
            handle: chunk.handle,
            chunk: Some(chunk),
        }
    }

    fn found(handle: u64) -> CorruptChunk {
        CorruptChunk {
            handle: ChunkHandle(handle),
            version: ChunkVersion(3),
            directory_id: DIRECTORY,
        }
    }

    #[test]
    fn what_is_marked_is_told_until_it_is_heard() {
        let mut findings = Findings::default();
        findings.handle_change(change(1, HeldFlags::CORRUPT));
        assert_eq!(findings.tell(1), [found(1)]);
        findings.handle_change(change(2, HeldFlags::CORRUPT));
        assert_eq!(findings.tell(2), [], "one at a time");
        assert_eq!(findings.heard(2), [], "of another");
        assert_eq!(findings.heard(1), []);
        assert_eq!(findings.tell(3), [found(2)]);
        findings.restart();
        assert_eq!(findings.tell(1), [found(2)], "nobody may have heard it");
    }

    /// A copy had taken the place of a corrupt chunk before the heartbeat told of it: the master
    /// took the copy for corrupt, and with the other servers gone there was nothing to read.
    #[test]
    fn what_was_mended_before_it_was_told_is_not_told() {
        let mut findings = Findings::default();
        findings.handle_change(change(1, HeldFlags::CORRUPT));
        findings.handle_change(change(1, HeldFlags::NONE));
        assert_eq!(findings.tell(1), []);
        let gone = Change {
            chunk: None,
            ..change(1, HeldFlags::NONE)
        };
        findings.handle_change(change(1, HeldFlags::CORRUPT));
        findings.handle_change(gone);
        assert_eq!(findings.tell(2), []);
    }

    #[test]
    fn what_changes_while_it_is_told_is_told_of_once_more() {
        let mut findings = Findings::default();
        findings.handle_change(change(1, HeldFlags::CORRUPT));
        findings.handle_change(change(2, HeldFlags::CORRUPT));
        assert_eq!(findings.tell(1), [found(1), found(2)]);
        findings.handle_change(change(1, HeldFlags::NONE));
        assert_eq!(findings.heard(1), [change(1, HeldFlags::NONE)]);
        assert_eq!(findings.tell(2), []);
    }

    #[test]
    fn what_is_marked_again_while_it_is_told_is_told_again() {
        let mut findings = Findings::default();
        findings.handle_change(change(1, HeldFlags::CORRUPT));
        assert_eq!(findings.tell(1), [found(1)]);
        findings.handle_change(change(1, HeldFlags::NONE));
        findings.handle_change(change(1, HeldFlags::CORRUPT));
        assert_eq!(findings.heard(1), [change(1, HeldFlags::CORRUPT)]);
        assert_eq!(findings.tell(2), [found(1)]);
    }
}
