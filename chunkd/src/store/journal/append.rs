//! Puts batches of entries behind the journal's end and syncs them (`spec/journal.md` sections
//! 5.1 and 5.3).
//!
//! [`Appender`] does one thing after the other on the caller's thread; [`JournalWriter`] drives it
//! from a thread of its own. Invariants:
//!
//! - a header's `stable` is what a sync that *returned* has covered, never what one will;
//! - a segment is made only when everything before it is stable;
//! - nothing is written after a failure: the kernel may call pages clean that it couldn't write. That
//!   there is no room for another segment is found before anything is written, and is none.
//!
//! [`JournalWriter`]: super::writer::JournalWriter

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::directory::io_error;
use super::super::error::{Operation, StoreError};
use super::super::region::{Region, Tree};
use super::entry::{Entry, HEADER_LEN, Link, encode_entry, encode_mark};
use super::error::JournalError;
use super::reader::JournalEnd;
use super::segment::{
    Author, JOURNAL_FOLDER, Position, SEGMENT_END_PAGE, SEGMENT_START, SegmentHeader, make_segment,
    reserve_next, segment_path, take_over_next,
};
use super::summary::Summary;

/// A mark stands at a multiple of this, so that no page holds both the last entry and its proof.
const MARK_ALIGNMENT: u64 = 4096;

/// Bytes of the write buffer that are kept for the next batch: what is gathered, and zeros behind it.
const BUFFER_KEPT: usize = 4 * 1024 * 1024;

/// What may be chosen about the files. The defaults are those of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalLimits {
    /// Bytes of a segment. An entry that doesn't fit begins the next one.
    pub segment_len: u64,
    /// Zeros are written ahead up to multiples of this; not 0.
    pub grow_step: u64,
}

impl Default for JournalLimits {
    fn default() -> Self {
        Self {
            segment_len: 64 * 1024 * 1024,
            grow_step: 256 * 1024,
        }
    }
}

/// The end of the journal, open for appending.
#[derive(Debug)]
pub struct Appender {
    tree: Arc<dyn Tree>,
    limits: JournalLimits,
    author: Author,
    /// First sequences of all segments, the last one being written; never empty.
    segments: VecDeque<u64>,
    /// What the full ones that this start wrote say, in order.
    summaries: VecDeque<(u64, Arc<Summary>)>,
    segment: OpenSegment,
    /// Room for the next segment; `None` if the disk is full.
    next: Option<Arc<dyn Region>>,
    /// The last entry that was encoded.
    encoded: Position,
    /// The last entry that is known to be stable.
    stable: u64,
    buffer: Vec<u8>,
    failed: bool,
}

/// The last segment.
#[derive(Debug)]
struct OpenSegment {
    first_sequence: u64,
    /// What it says; `None` if that can't be told without its bodies.
    summary: Option<Summary>,
    path: String,
    region: Arc<dyn Region>,
    /// Where the next entry goes.
    end: u64,
    /// From `end` up to here zeros (or marks) were written.
    grown_to: u64,
}

impl Appender {
    /// Begins this start's first segment behind what an earlier start left.
    ///
    /// # Errors
    /// [`JournalError::Store`], with [`StoreError::NoSpace`] if there is no room for this segment. None
    /// for the next one only holds back mutations.
    pub fn begin(
        tree: Arc<dyn Tree>,
        limits: JournalLimits,
        author: Author,
        end: &JournalEnd,
    ) -> Result<Self, JournalError> {
        let header = SegmentHeader {
            before: end.last,
            author,
        };
        let first = header.first_sequence();
        let room = match take_over_next(&*tree, limits.segment_len)? {
            Some(room) => room,
            None => reserve_next(&*tree, limits.segment_len)?,
        };
        make_segment(&*tree, &*room, &header)?;
        let next = match reserve_next(&*tree, limits.segment_len) {
            Err(StoreError::NoSpace { .. }) => None,
            reserved => Some(reserved?),
        };
        // One that held no entry had the same name, and is gone.
        let mut segments: VecDeque<u64> = end.segments.iter().copied().collect();
        segments.retain(|&segment| segment != first);
        segments.push_back(first);
        Ok(Self {
            tree,
            limits,
            author,
            segments,
            summaries: VecDeque::new(),
            segment: OpenSegment::new(first, room),
            next,
            encoded: end.last,
            stable: end.last.sequence,
            buffer: Vec::new(),
            failed: false,
        })
    }

    /// The last entry that is known to be stable; 0 before the first.
    #[must_use]
    pub const fn stable(&self) -> u64 {
        self.stable
    }

    /// First sequences of the segments, rising; the last one is being written.
    pub fn segments(&self) -> impl Iterator<Item = u64> + '_ {
        self.segments.iter().copied()
    }

    /// What the oldest segment says, if this start wrote it, and another one follows.
    #[must_use]
    pub fn oldest_summary(&self) -> Option<Arc<Summary>> {
        let oldest = self.segments.front()?;
        let (segment, summary) = self.summaries.front()?;
        (segment == oldest).then(|| Arc::clone(summary))
    }

    /// Whether room for another segment is set apart. Without it nothing should be taken but what
    /// ends other entries' use (`spec/journal.md` section 8).
    #[must_use]
    pub const fn has_reserve(&self) -> bool {
        self.next.is_some()
    }

    /// Bytes of a segment.
    #[must_use]
    pub const fn segment_len(&self) -> u64 {
        self.limits.segment_len
    }

    /// Writes `entries` as one batch and syncs them: when this returns they are stable. Gives the
    /// sequence of the last entry.
    ///
    /// # Errors
    /// [`JournalError::Invalid`] for an entry that fails [`Entry::check`]: nothing was written.
    /// [`JournalError::NoRoom`]: those up to [`Self::stable`] were written.
    /// [`JournalError::Store`]: it isn't known which of the entries are stable, and the directory
    /// is poisoned. [`JournalError::Failed`] ever after.
    pub fn append(&mut self, entries: &[Entry]) -> Result<u64, JournalError> {
        entries.iter().try_for_each(Entry::check)?;
        self.guarded(|journal| {
            for entry in entries {
                journal.make_room(entry.encoded_len() as u64)?;
                journal.encode(entry);
            }
            journal.flush()?;
            Ok(journal.stable)
        })
    }

    /// Sets room for another segment apart, if there is none and the disk has it.
    ///
    /// # Errors
    /// As [`Self::append`], but for [`JournalError::NoRoom`].
    pub fn reserve(&mut self) -> Result<(), JournalError> {
        self.guarded(Self::reserve_if_none)
    }

    /// Writes a mark, without a sync: should the medium spoil the last batch, the mark is proof
    /// that it was complete. To be called when nothing waits to be written.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn mark(&mut self) -> Result<(), JournalError> {
        self.guarded(|journal| {
            let mark = encode_mark(&journal.next_link(), &journal.author);
            let position = mark_position(journal.segment.end);
            Ok(journal.segment.write(&*journal.tree, position, &mark)?)
        })
    }

    /// Removes the oldest segment, whose entries nobody needs any more. The last one stays.
    ///
    /// Made stable before another one can go: one that came back without its successor would look
    /// like a journal with a hole.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn remove_oldest(&mut self) -> Result<(), JournalError> {
        self.guarded(|journal| {
            if journal.segments.len() < 2 {
                return Ok(());
            }
            let Some(&oldest) = journal.segments.front() else {
                return Ok(());
            };
            let path = segment_path(oldest);
            journal
                .tree
                .remove(&path)
                .map_err(|source| io_error(&*journal.tree, Operation::Remove, &path, source))?;
            journal.tree.sync_folder(JOURNAL_FOLDER).map_err(|source| {
                io_error(&*journal.tree, Operation::Sync, JOURNAL_FOLDER, source)
            })?;
            journal.segments.pop_front();
            journal.summaries.pop_front_if(|(it, _)| *it == oldest);
            Ok(())
        })
    }

    fn guarded<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        if self.failed {
            return Err(JournalError::Failed);
        }
        let result = work(self);
        self.failed = !matches!(result, Ok(_) | Err(JournalError::NoRoom));
        result
    }

    fn reserve_if_none(&mut self) -> Result<(), JournalError> {
        if self.next.is_none() {
            self.next = match reserve_next(&*self.tree, self.limits.segment_len) {
                Ok(room) => Some(room),
                // Nothing that counts was touched, and there may be one later.
                Err(StoreError::NoSpace { .. }) => None,
                Err(error) if error.is_short_of_means() => None,
                Err(error) => return Err(error.into()),
            };
        }
        Ok(())
    }

    const fn next_link(&self) -> Link {
        Link {
            sequence: self.encoded.sequence + 1,
            stable: self.stable,
            before_crc: self.encoded.crc,
        }
    }

    fn encode(&mut self, entry: &Entry) {
        let link = self.next_link();
        let crc = encode_entry(&mut self.buffer, entry, &link, &self.author);
        self.segment.note(entry);
        self.encoded = Position {
            sequence: link.sequence,
            crc,
        };
    }

    /// Begins a new segment if `len` more bytes don't fit; one that holds nothing always fits.
    fn make_room(&mut self, len: u64) -> Result<(), JournalError> {
        let end = self.segment.end + self.buffer.len() as u64;
        if end == SEGMENT_START || end + len + SEGMENT_END_PAGE <= self.limits.segment_len {
            return Ok(());
        }
        self.flush()?;
        self.reserve_if_none()?;
        let room = self.next.take().ok_or(JournalError::NoRoom)?;
        let header = SegmentHeader {
            before: self.encoded,
            author: self.author,
        };
        make_segment(&*self.tree, &*room, &header)?;
        self.segments.push_back(header.first_sequence());
        let next = OpenSegment::new(header.first_sequence(), room);
        let full = std::mem::replace(&mut self.segment, next);
        if let Some(summary) = full.summary {
            self.summaries
                .push_back((full.first_sequence, Arc::new(summary)));
        }
        self.reserve_if_none()
    }

    /// Writes and syncs what is encoded, with zeros behind it if they are not there yet.
    fn flush(&mut self) -> Result<(), JournalError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let (tree, segment) = (&*self.tree, &mut self.segment);
        let end = segment.end + self.buffer.len() as u64;
        // The mark's place too, so that it changes no length.
        let wanted = mark_position(end) + HEADER_LEN as u64;
        if wanted > segment.grown_to {
            let zeros = wanted.next_multiple_of(self.limits.grow_step) - end;
            // Growing is for speed only: without zeros the write itself makes the file longer.
            let zeros = usize::try_from(zeros).unwrap_or(0);
            self.buffer.resize(self.buffer.len() + zeros, 0);
        }
        segment.write(tree, segment.end, &self.buffer)?;
        segment
            .region
            .sync()
            .map_err(|source| io_error(tree, Operation::Sync, &segment.path, source))?;
        segment.end = end;
        self.stable = self.encoded.sequence;
        self.buffer.clear();
        // One huge batch shall not hold its memory for ever.
        self.buffer.shrink_to(BUFFER_KEPT);
        Ok(())
    }
}

const fn mark_position(end: u64) -> u64 {
    end.next_multiple_of(MARK_ALIGNMENT)
}

impl OpenSegment {
    fn new(first_sequence: u64, region: Arc<dyn Region>) -> Self {
        Self {
            first_sequence,
            summary: Some(Summary::default()),
            path: segment_path(first_sequence),
            region,
            end: SEGMENT_START,
            grown_to: SEGMENT_START,
        }
    }

    fn note(&mut self, entry: &Entry) {
        if let Some(summary) = &mut self.summary
            && summary.note(entry).is_err()
        {
            self.summary = None;
        }
    }

    fn write(&mut self, tree: &dyn Tree, position: u64, bytes: &[u8]) -> Result<(), StoreError> {
        self.region
            .write_at(bytes, position)
            .map_err(|source| io_error(tree, Operation::Write, &self.path, source))?;
        self.grown_to = self.grown_to.max(position + bytes.len() as u64);
        Ok(())
    }
}
