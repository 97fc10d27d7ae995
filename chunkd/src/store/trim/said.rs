//! What the oldest segment says of one chunk, and what of it has to be written again before it may go
//! (`spec/journal.md` section 8).

use sarsen_protocol::id::{ChunkVersion, Serial};

use super::super::journal::body::{Base, Body, Promised};
use super::super::journal::summary::OfChunk;
use super::super::journal::{Entry, FoundEntry};
use super::super::open_chunk::Told;
use super::Stuck;

/// What the oldest segment says of one chunk, without what it says itself to mean nothing any more.
#[derive(Debug)]
pub(super) enum Said {
    Entries(Vec<FoundEntry>),
    InShort(OfChunk),
}

impl Said {
    fn entries(&self) -> Result<&[FoundEntry], Stuck> {
        match self {
            Self::Entries(entries) => Ok(entries),
            Self::InShort(_) => Err(Stuck::Unread),
        }
    }

    pub(super) fn version(&self) -> ChunkVersion {
        match self {
            Self::Entries(entries) => {
                let versions = entries.iter().map(|entry| entry.version);
                versions.max().unwrap_or_default()
            }
            Self::InShort(of) => of.version,
        }
    }

    /// The highest serial of its mutations.
    pub(super) fn applied(&self) -> Serial {
        match self {
            Self::Entries(entries) => {
                let applied = entries.iter().filter_map(|entry| match &entry.body {
                    Body::Applied(applied) => Some(applied.last_serial()),
                    _ => None,
                });
                applied.max().unwrap_or_default()
            }
            Self::InShort(of) => of.applied,
        }
    }

    /// All of it, unless it ends within a checkpoint: parts that are copied would stand behind the last
    /// one, which alone would pass for a whole.
    pub(super) fn all(&self) -> Result<Option<Vec<Entry>>, Stuck> {
        let entries = self.entries()?;
        let parts = entries.iter().rev().find_map(|entry| match &entry.body {
            Body::Checkpoint(part) => Some(part.more),
            _ => None,
        });
        Ok(match parts {
            Some(true) => None,
            _ => Some(entries.iter().map(again).collect()),
        })
    }

    /// The promise that still counts, if it stands here.
    pub(super) fn promise(&self, highest: ChunkVersion) -> Result<Vec<Entry>, Stuck> {
        let counts = |entry: &&FoundEntry| is_promise_of(&entry.body, highest);
        let promises = self.entries()?.iter().filter(counts);
        Ok(promises.take(1).map(again).collect())
    }

    /// What still counts of a chunk that was begun from `base` and not changed: an older beginning may be
    /// the one that tells so. Of an earlier life of the chunk none does: behind the entry that ended it,
    /// it would come back.
    pub(super) fn beginnings(&self, told: &Told, base: Base) -> Result<Vec<Entry>, Stuck> {
        let counts = |entry: &&FoundEntry| match &entry.body {
            Body::Begun(begun) => entry.version == told.version || begun.base == base,
            Body::Prepared(_) => entry.version == told.version,
            body => is_promise_of(body, told.promised_version),
        };
        Ok(self.entries()?.iter().filter(counts).map(again).collect())
    }

    /// What a checkpoint of the state that was told does not say: the highest promise, the version and
    /// where it began it does. Of an earlier life of the chunk nothing counts, whose serials may be higher
    /// where a loss was accepted.
    pub(super) fn beyond(&self, told: &Told, base: Base) -> Result<Vec<Entry>, Stuck> {
        if let Self::InShort(of) = self
            && of.applied <= told.commit_mark
            && of.prepared < told.version
        {
            return Ok(Vec::new());
        }
        let counts = |entry: &&FoundEntry| match &entry.body {
            Body::Applied(applied) => {
                applied.last_serial() > told.commit_mark
                    && !base.is_of_an_earlier_life(entry.version)
            }
            Body::Prepared(_) => entry.version == told.version,
            _ => false,
        };
        Ok(self.entries()?.iter().filter(counts).map(again).collect())
    }
}

fn is_promise_of(body: &Body, version: ChunkVersion) -> bool {
    matches!(body, Body::Promised(Promised { promised_version, .. }) if *promised_version == version)
}

/// The entry as it is, to be written again.
fn again(found: &FoundEntry) -> Entry {
    Entry::new(found.handle, found.version, &found.body)
}
