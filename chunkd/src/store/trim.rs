//! The oldest segment of the journal is made superfluous, and removed (`spec/journal.md` section 8).
//!
//! [`Directory::trim`], again and again, from the directory's own thread. One call looks at the oldest
//! segment and writes what has to stand elsewhere before it may go: a checkpoint of each chunk that is
//! open, and forward copies of what a checkpoint does not cover. When all of that is stable a later
//! call has the segment removed. What this start wrote into a segment is remembered in short
//! ([`Summary`]), which says for most of them that nothing of it has to be copied. Else it is read, as are
//! those of earlier starts.
//!
//! The checkpoints of all open chunks may be longer than the segments that are to be kept: then more are,
//! so that a segment that goes is worth more than what is written for it.
//!
//! It is found out first whether the segment can go at all, and nothing is written for one that can't:
//! what was would have to be written again at the next try, without an end.
//!
//! Invariants: a segment goes only when whatever a start would need of it is stable in a later one.
//! What is written for a chunk is written with its turn, so nothing is copied behind the `settled` or
//! `dropped` that ends it. A crash on the way leaves entries twice, or a segment that nobody needs.

mod said;

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Serial};
use sarsen_protocol::message::ChunkState;

use super::directory::{Directory, io_error};
use super::error::{Operation, StoreError};
use super::journal::body::Body;
use super::journal::summary::Summary;
use super::journal::{
    Class, Damage, Entry, Extent, FoundEntry, JournalError, JournalReader, SEGMENTS_MAX,
};
use super::open_chunk::{LastCheckpoint, OpenChunk, Told};
use super::table::{Held, Turn, lock};
use said::Said;

/// Bytes of entries that are copied forward for one segment, half of what it has: copies of more would
/// fill the journal as fast as they empty it. What several chunks have that their chains don't commit, since
/// this member was left out of them for a moment, is to find place.
const FORWARD_MAX: usize = 32 * 1024 * 1024;

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

/// The oldest segment, at which something is done or can't be.
#[derive(Debug)]
pub(super) struct Trimming {
    segment: u64,
    how: How,
}

impl Trimming {
    /// Whether nothing is done at it in this call, since it could not be read not long ago.
    fn passes_by(&mut self, extent: &Extent) -> bool {
        let (Some(&oldest), count) = (extent.segments.first(), extent.segments.len()) else {
            return false;
        };
        let is_full = count > SEGMENTS_MAX || !extent.has_reserve;
        let most = match is_full {
            true => PASSED_BY_MAX_IF_FULL,
            false => PASSED_BY_MAX,
        };
        match &mut self.how {
            How::Damaged {
                segments,
                passed_by,
            } if self.segment == oldest && *segments == count && *passed_by < most => {
                *passed_by += 1;
                true
            }
            _ => false,
        }
    }
}

#[derive(Debug)]
enum How {
    /// It may go when the journal is stable up to this sequence.
    WaitsFor(u64),
    /// It can't go, as long as these are as they were.
    HeldUp(BTreeMap<ChunkHandle, Standing>),
    /// What had to be read did not read as it was written, when there were so many segments; it was not
    /// looked at in so many calls since.
    Damaged { segments: usize, passed_by: u32 },
}

/// Calls after which a segment is read again that could not be read: a minute, mostly. A medium may give the
/// second time what it did not the first.
const PASSED_BY_MAX: u32 = 60;

/// The same while no mutation is taken, for all room for segments is taken.
const PASSED_BY_MAX_IF_FULL: u32 = 5;

/// What decides of a chunk whether a segment needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    /// Of an open chunk: its version, commit mark, whether it was changed and whether it is poisoned.
    open: Option<(ChunkVersion, Serial, bool, bool)>,
    promised: Option<ChunkVersion>,
    /// What is told of it at rest: its version, whether it is sealed and whether it is marked.
    held: Option<(ChunkVersion, bool, bool)>,
    has_problem: bool,
}

/// What later segments than the oldest say.
struct Later<'a> {
    segments: &'a [u64],
    /// The journal is stable up to here.
    stable: u64,
    /// The chunks of which they say that they were settled or dropped; read when that is asked for first.
    ended: Option<BTreeSet<ChunkHandle>>,
}

impl Later<'_> {
    /// Whether a checkpoint stands in them, all of it, and is stable.
    fn has(&self, checkpoint: &LastCheckpoint) -> bool {
        let (first, last) = checkpoint.sequences;
        let successor = self.segments.get(1);
        successor.is_some_and(|&successor| first >= successor && last <= self.stable)
    }
}

/// What has to be written of one chunk before a segment may go.
#[derive(Default)]
struct Needed {
    /// Copied forward.
    copied: Vec<Entry>,
    /// Whether a checkpoint is taken beside that, which says the rest.
    checkpoint: bool,
    /// The sequence of what the rest means nothing beside, and which may not be stable yet: 0 if an earlier
    /// start wrote it.
    superseded_by: u64,
}

impl Needed {
    const fn only(copied: Vec<Entry>) -> Self {
        Self {
            copied,
            checkpoint: false,
            superseded_by: 0,
        }
    }
}

/// Why a segment can't go now.
enum Stuck {
    /// These chunks need too much of it.
    HeldUp(BTreeSet<ChunkHandle>),
    /// The segment has to be read first.
    Unread,
    /// A chunk is just changing, or has just failed.
    NotNow,
    /// What has to be read does not read as it was written.
    Damaged(Damage),
    Store(StoreError),
}

impl From<StoreError> for Stuck {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<JournalError> for Stuck {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Store(error) => Self::Store(error),
            JournalError::Damaged(damage) => Self::Damaged(damage),
            // None that a reader has.
            _ => Self::NotNow,
        }
    }
}

impl Directory {
    /// Goes a step towards a journal of at most `keep` segments, of which the one that is written to
    /// is the last. Blocks on the disk.
    ///
    /// # Errors
    /// Those of the medium; the segment stays then. That what had to be read does not read as it was written
    /// is told now and then: it is looked at again when the journal has got longer, and after some calls. What
    /// comes of it in the end the next start says.
    pub fn trim(&self, keep: usize) -> Result<Trim, StoreError> {
        self.trim_within(keep, FORWARD_MAX)
    }

    /// Has it seen, if the disk had no room for another segment of the journal, whether it has by now. To
    /// be called every few seconds.
    pub fn look_for_journal_room(&self) {
        self.opened.log().look_for_room();
    }

    /// As [`Self::trim`], with so many bytes copied forward for a segment.
    pub(super) fn trim_within(&self, keep: usize, room: usize) -> Result<Trim, StoreError> {
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
        match trimming.as_ref().filter(|it| it.segment == oldest) {
            Some(Trimming {
                how: How::WaitsFor(sequence),
                ..
            }) => {
                if extent.stable >= *sequence {
                    // It is kept in mind until it is gone: what was written for it is not written again.
                    log.remove_oldest(oldest);
                }
                return Ok(Trim::Waits);
            }
            Some(Trimming {
                how: How::HeldUp(by),
                ..
            }) if by
                .iter()
                .all(|(&handle, &was)| self.standing(handle) == was) =>
            {
                return Ok(Trim::Nothing);
            }
            _ => {}
        }
        if trimming.as_mut().is_some_and(|it| it.passes_by(&extent)) {
            return Ok(Trim::Nothing);
        }
        // Where the disk is full nothing more would come without what trimming frees.
        if extent.has_reserve && extent.segments.len() <= self.segments_of_checkpoints(&extent) {
            return Ok(Trim::Nothing);
        }
        let how = match self.make_way(&extent, (oldest, successor), room) {
            Ok(how) => how,
            Err(Stuck::NotNow | Stuck::Unread | Stuck::HeldUp(_)) => return Ok(Trim::Nothing),
            Err(Stuck::Store(error)) => return Err(error),
            Err(Stuck::Damaged(damage)) => {
                let how = How::Damaged {
                    segments: extent.segments.len(),
                    passed_by: 0,
                };
                *trimming = Some(Trimming {
                    segment: oldest,
                    how,
                });
                let file = damage.file.clone();
                let source = io::Error::new(io::ErrorKind::InvalidData, damage);
                return Err(io_error(&*self.tree, Operation::Read, &file, source));
            }
        };
        let trim = match how {
            How::WaitsFor(_) => Trim::GoOn,
            How::HeldUp(_) | How::Damaged { .. } => Trim::Nothing,
        };
        *trimming = Some(Trimming {
            segment: oldest,
            how,
        });
        Ok(trim)
    }

    /// Has what is needed of the oldest segment written elsewhere; what it then waits for, or who holds it
    /// up.
    fn make_way(
        &self,
        extent: &Extent,
        (oldest, successor): (u64, u64),
        room: usize,
    ) -> Result<How, Stuck> {
        let in_short = extent.oldest.as_deref().map(in_short);
        let mut said = match in_short {
            Some(said) => said,
            None => self.read_segment(oldest, successor)?,
        };
        // Before it is looked at: what changes meanwhile is another thing than this.
        let standing: BTreeMap<_, _> = said.keys().map(|&it| (it, self.standing(it))).collect();
        let mut made = self.make_superfluous(&said, extent, room);
        if matches!(made, Err(Stuck::Unread)) {
            said = self.read_segment(oldest, successor)?;
            made = self.make_superfluous(&said, extent, room);
        }
        match made {
            Ok(wait_for) => Ok(How::WaitsFor(wait_for)),
            Err(Stuck::HeldUp(by)) => {
                let of = standing.into_iter().filter(|(it, _)| by.contains(it));
                Ok(How::HeldUp(of.collect()))
            }
            Err(stuck) => Err(stuck),
        }
    }

    /// Segments below which trimming would write more than it frees: twice what the last checkpoints of open
    /// chunks take, so that half of what the oldest has is superseded.
    fn segments_of_checkpoints(&self, extent: &Extent) -> usize {
        let chunks = self.opened.all();
        let last = chunks.iter().filter_map(|chunk| chunk.last_checkpoint());
        let live: u64 = last.map(|last| last.len).sum();
        let segments = (2 * live).div_ceil(extent.segment_len.max(1));
        let segments = usize::try_from(segments).unwrap_or(usize::MAX);
        segments.saturating_add(1).min(SEGMENTS_MAX)
    }

    fn standing(&self, handle: ChunkHandle) -> Standing {
        let open = self.opened.find(handle).map(|chunk| {
            let told = chunk.told();
            let was_changed = chunk.was_changed();
            (told.version, told.commit_mark, was_changed, told.poisoned)
        });
        let held = self.table.held(handle).map(|held| {
            let entry = &held.entry;
            let is_sealed = entry.state == ChunkState::Sealed;
            (entry.version, is_sealed, entry.is_marked())
        });
        Standing {
            open,
            promised: self.opened.promise_of(handle).map(|(version, _)| version),
            held,
            has_problem: self.problem_of(handle).is_some(),
        }
    }

    fn read_segment(
        &self,
        first: u64,
        successor: u64,
    ) -> Result<BTreeMap<ChunkHandle, Said>, Stuck> {
        let author = self.author()?;
        let entries = JournalReader::segment(&*self.tree, &author, first, successor)?;
        let mut said: BTreeMap<ChunkHandle, Vec<FoundEntry>> = BTreeMap::new();
        for entry in entries {
            match entry.body {
                Body::Settled | Body::Dropped => {
                    said.remove(&entry.handle);
                }
                _ => said.entry(entry.handle).or_default().push(entry),
            }
        }
        let said = said.into_iter();
        Ok(said.map(|(it, said)| (it, Said::Entries(said))).collect())
    }

    /// Writes what is needed of the segment into later ones; the sequence that has to be stable
    /// before it may go.
    fn make_superfluous(
        &self,
        said: &BTreeMap<ChunkHandle, Said>,
        extent: &Extent,
        room: usize,
    ) -> Result<u64, Stuck> {
        let mut later = Later {
            segments: &extent.segments,
            stable: extent.stable,
            ended: None,
        };
        self.check_room(said, &mut later, room)?;
        let mut wait_for = 0;
        for (&handle, said) in said {
            let turn = self.table.turn(handle);
            // Found out before the checkpoint, which may cover more than what is known now, not less.
            let needed = self.needed(&turn, said, &mut later)?;
            wait_for = wait_for.max(needed.superseded_by);
            if needed.checkpoint
                && let Some(chunk) = self.opened.find(handle)
            {
                let version = chunk.told().version;
                match chunk.checkpoint() {
                    Ok(sequence) if sequence > 0 && chunk.told().version == version => {
                        wait_for = wait_for.max(sequence);
                    }
                    Ok(_) => return Err(Stuck::NotNow),
                    Err(error) => {
                        drop(turn);
                        self.open_chunk_failed(handle, &error);
                        return Err(Stuck::NotNow);
                    }
                }
            }
            for entry in needed.copied {
                let offered = self.opened.log().offer(entry, Class::Control);
                // The journal's failure is told by its thread.
                wait_for = wait_for.max(offered.map_err(|_| Stuck::NotNow)?);
            }
        }
        Ok(wait_for)
    }

    /// Whether the segment can go: what would be copied forward is looked at, and not written.
    fn check_room(
        &self,
        said: &BTreeMap<ChunkHandle, Said>,
        later: &mut Later<'_>,
        room: usize,
    ) -> Result<(), Stuck> {
        let (mut room, mut holders) = (Some(room), BTreeSet::new());
        for (&handle, said) in said {
            let needed = self.needed(&self.table.turn(handle), said, later)?;
            let bytes: usize = needed.copied.iter().map(|entry| entry.body.len()).sum();
            if bytes > 0 {
                holders.insert(handle);
            }
            room = room.and_then(|room| room.checked_sub(bytes));
        }
        match room {
            Some(_) => Ok(()),
            None => Err(Stuck::HeldUp(holders)),
        }
    }

    /// What is needed of a chunk.
    fn needed(&self, turn: &Turn<'_>, said: &Said, later: &mut Later<'_>) -> Result<Needed, Stuck> {
        let handle = turn.handle();
        if let Some((promised, sequence)) = self.opened.promise_of(handle) {
            return Ok(Needed {
                superseded_by: sequence,
                ..Needed::only(said.promise(promised)?)
            });
        }
        match self.opened.find(handle) {
            Some(chunk) => {
                // Once: it may fail at any time.
                let told = chunk.told();
                match told.poisoned {
                    true => self.needed_by_the_next_start(handle, said, later),
                    false => needed_of_open(&chunk, &told, said, later),
                }
            }
            None => self.needed_of_closed(handle, turn.held().as_ref(), said, later),
        }
    }

    /// What is written for a chunk that is not open.
    fn needed_of_closed(
        &self,
        handle: ChunkHandle,
        held: Option<&Held>,
        said: &Said,
        later: &mut Later<'_>,
    ) -> Result<Needed, Stuck> {
        let is_told_otherwise = self.problem_of(handle).is_some();
        let end = match held.map(|held| &held.entry) {
            None if !is_told_otherwise => Some((said.version(), Body::Dropped)),
            Some(entry) if entry.state == ChunkState::Sealed && !entry.is_marked() => {
                Some((entry.version, Body::Settled))
            }
            _ => None,
        };
        match end {
            // Again: what ended it may stand further on, or nowhere but in the header.
            Some((version, body)) => Ok(Needed::only(vec![Entry::new(handle, version, &body)])),
            None => self.needed_by_the_next_start(handle, said, later),
        }
    }

    /// What is written for a chunk that this start can make nothing of; the next one may. Behind an entry
    /// that ended what it was, the copies would come back as what it is.
    fn needed_by_the_next_start(
        &self,
        handle: ChunkHandle,
        said: &Said,
        later: &mut Later<'_>,
    ) -> Result<Needed, Stuck> {
        let successor = later.segments.get(1).copied().unwrap_or_default();
        if let Some(sequence) = self.opened.ended_at(handle)
            && sequence >= successor
        {
            return Ok(Needed {
                superseded_by: sequence,
                ..Needed::default()
            });
        }
        if self.ends_later(handle, later)? {
            return Ok(Needed::default());
        }
        let all = said.all()?.map(Needed::only);
        all.ok_or_else(|| Stuck::HeldUp([handle].into()))
    }

    /// Whether an earlier start's segment that is later says that the chunk was settled or dropped.
    fn ends_later(&self, handle: ChunkHandle, later: &mut Later<'_>) -> Result<bool, Stuck> {
        let ended = match later.ended.take() {
            Some(ended) => ended,
            None => self.read_ends(later.segments)?,
        };
        Ok(later.ended.insert(ended).contains(&handle))
    }

    fn read_ends(&self, segments: &[u64]) -> Result<BTreeSet<ChunkHandle>, Stuck> {
        let author = self.author()?;
        let mut found = BTreeSet::new();
        for pair in segments.windows(2).skip(1) {
            let [first, successor] = pair else { continue };
            let entries = JournalReader::segment(&*self.tree, &author, *first, *successor)?;
            let ends = |it: &&FoundEntry| matches!(it.body, Body::Settled | Body::Dropped);
            found.extend(entries.iter().filter(ends).map(|it| it.handle));
        }
        Ok(found)
    }
}

fn in_short(summary: &Summary) -> BTreeMap<ChunkHandle, Said> {
    let chunks = summary.iter();
    chunks.map(|(it, of)| (it, Said::InShort(of))).collect()
}

/// What is needed of an open chunk that takes part. Of one that is told and read as the sealed chunk that
/// it is no checkpoint is taken, whatever an earlier life of it left in the segment: it would not be that any
/// more.
fn needed_of_open(
    chunk: &OpenChunk,
    told: &Told,
    said: &Said,
    later: &Later<'_>,
) -> Result<Needed, Stuck> {
    let says_all = |last: LastCheckpoint| {
        (last.version, last.promised) == (told.version, told.promised_version)
            && said.applied() <= last.serial
            && later.has(&last)
    };
    Ok(match chunk.was_changed() {
        true => Needed {
            copied: said.beyond(told, chunk.standing().base)?,
            checkpoint: !chunk.last_checkpoint().is_some_and(says_all),
            superseded_by: 0,
        },
        false => Needed {
            superseded_by: chunk.last_word(),
            ..Needed::only(said.beginnings(told, chunk.standing().base)?)
        },
    })
}
