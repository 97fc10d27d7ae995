//! The oldest segment of the journal is made superfluous, and removed (`spec/journal.md` section 8).
//!
//! [`Directory::trim`], again and again, from the directory's own thread. One call looks at the oldest
//! segment and writes what has to stand elsewhere before it may go: a checkpoint of each chunk that is
//! open, and forward copies of what a checkpoint does not cover. When all of that is stable a later
//! call has the segment removed. Nothing is remembered of segments but which one is under way: what
//! is in one is read from it.
//!
//! Invariants: a segment goes only when whatever a start would need of it is stable in a later one.
//! What is written for a chunk is written with its turn, so nothing is copied behind the `settled` or
//! `dropped` that ends it. A crash on the way leaves entries twice, or a segment that nobody needs.
//!
//! Left out: promises are copied forward, where the page allows to put them into the header.

use std::collections::BTreeMap;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion};
use sarsen_protocol::message::ChunkState;

use super::directory::Directory;
use super::error::StoreError;
use super::journal::body::{Base, Body, Promised};
use super::journal::{Class, Entry, FoundEntry, JournalError, JournalReader};
use super::open_chunk::{OpenChunk, OpenChunkError};
use super::table::lock;

/// Bytes of entries that are copied forward for one segment. A chunk that needs more is stuck, and
/// copies of it would fill the journal as fast as they empty it.
const FORWARD_MAX: usize = 16 * 1024 * 1024;

/// What has come of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trim {
    /// Nothing is to be trimmed, or nothing can be.
    Nothing,
    /// Entries were written that have to become stable first; or a segment was removed.
    GoOn,
    /// What was written is not stable yet.
    Waits,
}

/// A segment that may go when the journal is stable up to a sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trimming {
    segment: u64,
    wait_for: u64,
}

/// What the oldest segment says of one chunk, without what it says itself to mean nothing any more.
#[derive(Debug, Default)]
struct Said(Vec<FoundEntry>);

/// Why a segment can't go now.
enum Stuck {
    /// A chunk needs too much of it, or is just changing.
    NotNow,
    /// An open chunk has failed just now.
    Failed(OpenChunkError),
    Store(StoreError),
}

impl From<StoreError> for Stuck {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Directory {
    /// Goes a step towards a journal of at most `keep` segments, of which the one that is written to
    /// is the last. Blocks on the disk.
    ///
    /// # Errors
    /// Those of the medium; the segment stays then. A segment that does not read as it was written is
    /// left as it is: the next start says what comes of it.
    pub fn trim(&self, keep: usize) -> Result<Trim, StoreError> {
        let log = self.opened.log();
        let extent = log.extent();
        let (Some(&oldest), Some(&successor)) = (extent.segments.first(), extent.segments.get(1))
        else {
            return Ok(Trim::Nothing);
        };
        if extent.segments.len() <= keep.max(1) || self.is_poisoned() {
            return Ok(Trim::Nothing);
        }
        let mut trimming = lock(&self.opened.trimming);
        if let Some(under_way) = trimming.filter(|it| it.segment == oldest) {
            if extent.stable < under_way.wait_for {
                return Ok(Trim::Waits);
            }
            // Its place is kept until it is gone: what was written for it is not written again.
            log.remove_oldest(oldest);
            return Ok(Trim::Waits);
        }
        let said = match self.read_segment(oldest, successor) {
            Err(JournalError::Store(error)) => return Err(error),
            Err(_) => return Ok(Trim::Nothing),
            Ok(said) => said,
        };
        match self.make_superfluous(said, &extent.segments) {
            Ok(wait_for) => {
                *trimming = Some(Trimming {
                    segment: oldest,
                    wait_for,
                });
                Ok(Trim::GoOn)
            }
            Err(Stuck::Store(error)) => Err(error),
            Err(Stuck::NotNow | Stuck::Failed(_)) => Ok(Trim::Nothing),
        }
    }

    fn read_segment(
        &self,
        first: u64,
        successor: u64,
    ) -> Result<BTreeMap<ChunkHandle, Said>, JournalError> {
        let author = self.author()?;
        let mut said: BTreeMap<ChunkHandle, Said> = BTreeMap::new();
        for entry in JournalReader::segment(&*self.tree, &author, first, successor)? {
            let of_chunk = said.entry(entry.handle).or_default();
            match entry.body {
                Body::Settled | Body::Dropped => of_chunk.0.clear(),
                _ => of_chunk.0.push(entry),
            }
        }
        said.retain(|_, said| !said.0.is_empty());
        Ok(said)
    }

    /// Writes what is needed of the segment into later ones; the sequence that has to be stable
    /// before it may go.
    fn make_superfluous(
        &self,
        said: BTreeMap<ChunkHandle, Said>,
        segments: &[u64],
    ) -> Result<u64, Stuck> {
        let mut wait_for = 0;
        let mut room = FORWARD_MAX;
        for (handle, said) in said {
            let turn = self.table.turn(handle);
            let forward = match self.opened.find(handle) {
                Some(chunk) => match needed_of_open(&chunk, said) {
                    Ok((forward, checkpoint)) => {
                        wait_for = wait_for.max(checkpoint);
                        forward
                    }
                    Err(Stuck::Failed(error)) => {
                        drop(turn);
                        self.open_chunk_failed(handle, &error);
                        return Err(Stuck::NotNow);
                    }
                    Err(stuck) => return Err(stuck),
                },
                None => self.needed_of_closed(handle, turn.held().as_ref(), said, segments)?,
            };
            let bytes = forward.iter().map(|entry| entry.body.len()).sum();
            room = room.checked_sub(bytes).ok_or(Stuck::NotNow)?;
            for entry in forward {
                let offered = self.opened.log().offer(entry, Class::Control);
                // The journal's failure is told by its thread.
                wait_for = wait_for.max(offered.map_err(|_| Stuck::NotNow)?);
            }
        }
        Ok(wait_for)
    }

    /// What is written for a chunk that is not open.
    fn needed_of_closed(
        &self,
        handle: ChunkHandle,
        held: Option<&super::table::Held>,
        said: Said,
        segments: &[u64],
    ) -> Result<Vec<Entry>, Stuck> {
        if let Some(promised) = self.opened.promised(handle) {
            return Ok(said.promise(promised));
        }
        let is_told_otherwise = self.problem_of(handle).is_some();
        let end = match held.map(|held| &held.entry) {
            None if !is_told_otherwise => Some((said.version(), Body::Dropped)),
            Some(entry) if entry.state == ChunkState::Sealed && !is_marked(entry) => {
                Some((entry.version, Body::Settled))
            }
            _ => None,
        };
        match end {
            // Again: what ended it may stand further on, or nowhere but in the header.
            Some((version, body)) => Ok(vec![Entry::new(handle, version, &body)]),
            None if self.ends_later(handle, segments)? => Ok(Vec::new()),
            // A start could make nothing of it; the next one may.
            None => said.all(),
        }
    }

    /// Whether a later segment says that the chunk was settled or dropped.
    fn ends_later(&self, handle: ChunkHandle, segments: &[u64]) -> Result<bool, Stuck> {
        let author = self.author()?;
        for pair in segments.windows(2).skip(1) {
            let [first, successor] = pair else { continue };
            let entries = JournalReader::segment(&*self.tree, &author, *first, *successor);
            let entries = entries.map_err(|_| Stuck::NotNow)?;
            let ends = |it: &FoundEntry| matches!(it.body, Body::Settled | Body::Dropped);
            if entries.iter().any(|it| it.handle == handle && ends(it)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn is_marked(entry: &super::table::InventoryEntry) -> bool {
    entry.flags.poisoned || entry.flags.corrupt
}

/// What has to be copied forward of an open chunk, and the sequence of a checkpoint that makes the rest
/// superfluous.
fn needed_of_open(chunk: &OpenChunk, said: Said) -> Result<(Vec<Entry>, u64), Stuck> {
    let told = chunk.told();
    if told.poisoned {
        return Ok((said.all()?, 0));
    }
    if !chunk.was_changed() && !said.has_checkpoint() {
        // It is told and read as the sealed chunk that it is, and a checkpoint would end that.
        return Ok((said.beginnings(told.version, told.promised_version), 0));
    }
    let sequence = match chunk.checkpoint() {
        Ok(sequence) => sequence,
        Err(error) => return Err(Stuck::Failed(error)),
    };
    // It may have covered more than what was known before.
    match sequence > 0 && chunk.told().version == told.version {
        true => Ok((said.beyond(&told), sequence)),
        false => Err(Stuck::NotNow),
    }
}

impl Said {
    fn version(&self) -> ChunkVersion {
        let versions = self.0.iter().map(|entry| entry.version);
        versions.max().unwrap_or_default()
    }

    fn has_checkpoint(&self) -> bool {
        let is_one = |entry: &FoundEntry| matches!(entry.body, Body::Checkpoint(_));
        self.0.iter().any(is_one)
    }

    /// All of it, unless it ends within a checkpoint: parts that are copied would stand behind the last
    /// one, which alone would pass for a whole.
    fn all(self) -> Result<Vec<Entry>, Stuck> {
        let parts = self.0.iter().rev().find_map(|entry| match &entry.body {
            Body::Checkpoint(part) => Some(part.more),
            _ => None,
        });
        match parts {
            Some(true) => Err(Stuck::NotNow),
            _ => Ok(self.0.iter().map(again).collect()),
        }
    }

    /// The promise that still counts, if it stands here.
    fn promise(self, highest: ChunkVersion) -> Vec<Entry> {
        let counts = |entry: &&FoundEntry| is_promise_of(&entry.body, highest);
        self.0.iter().filter(counts).take(1).map(again).collect()
    }

    /// What still counts of a chunk that was begun and not changed: an older beginning may be the one
    /// that tells what it was begun from.
    fn beginnings(self, version: ChunkVersion, promised: ChunkVersion) -> Vec<Entry> {
        let counts = |entry: &&FoundEntry| match &entry.body {
            Body::Begun(begun) => entry.version == version || begun.base != Base::Open,
            Body::Prepared(_) => entry.version == version,
            body => is_promise_of(body, promised),
        };
        self.0.iter().filter(counts).map(again).collect()
    }

    /// What a checkpoint of the state that was told does not say.
    fn beyond(self, told: &super::open_chunk::Told) -> Vec<Entry> {
        let counts = |entry: &&FoundEntry| match &entry.body {
            Body::Applied(applied) => applied.last_serial() > told.commit_mark,
            Body::Prepared(_) => entry.version == told.version,
            // The checkpoint tells the highest promise, the version and where it began.
            _ => false,
        };
        self.0.iter().filter(counts).map(again).collect()
    }
}

fn is_promise_of(body: &Body, version: ChunkVersion) -> bool {
    matches!(body, Body::Promised(Promised { promised_version, .. }) if *promised_version == version)
}

/// The entry as it is, to be written again.
fn again(found: &FoundEntry) -> Entry {
    Entry::new(found.handle, found.version, &found.body)
}
