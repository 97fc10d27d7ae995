//! Puts batches of entries behind the log's end and syncs them (`spec/oplog.md` section 6).
//!
//! [`Appender`] does one thing after the other on the caller's thread; [`LogWriter`] drives it from
//! a thread of its own. Invariants:
//!
//! - a header's `synced_index` is what a sync that *returned* has covered, never what one will;
//! - a segment is begun only when everything before it is synced;
//! - nothing is written after a failure: the kernel may call pages clean that it couldn't write.
//!
//! [`LogWriter`]: super::writer::LogWriter

use std::sync::Arc;

use sarsen_protocol::id::ClusterId;

use super::entry::{Entry, HEADER_LEN, MARK_ALIGNMENT, Place, Position, encode_entry, encode_mark};
use super::error::OplogError;
use super::folder::{File, Folder, settle};
use super::names::{TEMPORARY, segment_name};
use super::segment::{SEGMENT_START, SegmentHeader};

/// What may be chosen about the files. The defaults are right outside of tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// An entry that would reach beyond this begins the next segment; 64 KiB to 1 GiB.
    pub segment_len: u64,
    /// A segment's file grows to multiples of this; not 0.
    ///
    /// Zeros are written ahead together with a batch, so that most syncs find the file's length
    /// unchanged and write no metadata. Measured on ext4, syncs a second of 256 bytes and of
    /// 16 KiB: growing with each write 4,500 and 4,400; `fallocate` of the whole segment 7,500 and
    /// 4,400; zeros of the whole segment 7,000 and 6,500, but a stop of 50 to 190 ms to write
    /// them; zeros 256 KiB ahead 7,300 and 6,200.
    pub grow_step: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_len: 64 * 1024 * 1024,
            grow_step: 256 * 1024,
        }
    }
}

/// The end of the log, open for appending.
pub struct Appender {
    folder: Arc<dyn Folder>,
    options: LogOptions,
    cluster: ClusterId,
    segment: Segment,
    /// The last entry that was written.
    written: Position,
    /// Time of the last entry that was written, for marks.
    written_time_ms: u64,
    /// The last entry that is known to be on stable storage.
    synced_index: u64,
    /// Entries that were encoded and not written yet.
    buffer: Vec<u8>,
    failed: bool,
}

/// The last segment.
pub(super) struct Segment {
    pub(super) name: String,
    pub(super) file: Box<dyn File>,
    /// Where the next entry goes.
    pub(super) end: u64,
    /// Length of the file; zeros and marks from `end` to here.
    pub(super) file_len: u64,
}

impl Appender {
    /// Goes on behind `written`, which with all before it is synced.
    pub(super) fn new(
        folder: Arc<dyn Folder>,
        options: LogOptions,
        cluster: ClusterId,
        segment: Segment,
        written: Position,
        written_time_ms: u64,
    ) -> Self {
        Self {
            folder,
            options,
            cluster,
            segment,
            written,
            written_time_ms,
            synced_index: written.index,
            buffer: Vec::new(),
            failed: false,
        }
    }

    /// The last entry of the log.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.written
    }

    /// Writes `entries` as one batch and syncs them; they may be acknowledged when this returns.
    ///
    /// Each must have passed [`Entry::check`], terms must not fall.
    ///
    /// # Errors
    /// [`OplogError::Io`] or [`OplogError::NoSpace`]: it isn't known which of the entries are on
    /// stable storage, and the master must end. [`OplogError::Failed`] ever after.
    pub fn append(&mut self, entries: &[Entry]) -> Result<Position, OplogError> {
        self.guarded(|log| {
            for entry in entries {
                log.make_room(entry.encoded_len() as u64)?;
                log.encode(entry);
            }
            log.flush()?;
            Ok(log.written)
        })
    }

    /// Writes a mark behind the last entry, without a sync: should the medium spoil the last batch,
    /// the mark is proof that it was complete. It stands in a page of its own, so that a page which
    /// rots never takes both. To be called when nothing waits to be written.
    ///
    /// # Errors
    /// As [`Appender::append`].
    pub fn mark(&mut self) -> Result<(), OplogError> {
        self.guarded(|log| {
            let mark = encode_mark(log.written.term, log.written_time_ms, &log.next_place());
            log.segment.write(mark_at(log.segment.end), &mark)
        })
    }

    fn guarded<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, OplogError>,
    ) -> Result<T, OplogError> {
        if self.failed {
            return Err(OplogError::Failed);
        }
        let result = work(self);
        self.failed = result.is_err();
        result
    }

    fn next_place(&self) -> Place {
        Place {
            index: self.written.index + 1,
            synced_index: self.synced_index,
            chain_before: self.written.chain,
            cluster: self.cluster,
        }
    }

    fn encode(&mut self, entry: &Entry) {
        assert!(entry.term >= self.written.term, "terms never fall");
        let place = self.next_place();
        let chain = encode_entry(&mut self.buffer, entry, &place);
        self.written = Position {
            index: place.index,
            term: entry.term,
            chain,
        };
        self.written_time_ms = entry.time_ms;
    }

    /// Begins a new segment if `len` more bytes don't fit; one that holds nothing always fits.
    fn make_room(&mut self, len: u64) -> Result<(), OplogError> {
        let end = self.segment.end + self.buffer.len() as u64;
        if end == SEGMENT_START as u64 || end + len <= self.options.segment_len {
            return Ok(());
        }
        self.flush()?;
        self.segment = create_segment(&*self.folder, self.written, self.cluster)?;
        Ok(())
    }

    /// Writes and syncs what is encoded, with zeros behind it if the file has to grow.
    fn flush(&mut self) -> Result<(), OplogError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let segment = &mut self.segment;
        let end = segment.end + self.buffer.len() as u64;
        let mark_end = mark_at(end) + HEADER_LEN as u64;
        // Behind the last entry are zeros, and marks, but no half of one.
        let zeros_to = match mark_end > segment.file_len {
            true => mark_end.next_multiple_of(self.options.grow_step),
            false => behind_a_cut_mark(end),
        };
        let zeros =
            usize::try_from(zeros_to - end).expect("zeros are fewer than a step and a page");
        self.buffer.resize(self.buffer.len() + zeros, 0);
        segment.write(segment.end, &self.buffer)?;
        segment
            .file
            .sync()
            .map_err(OplogError::io("syncing", &segment.name))?;
        segment.end = end;
        self.synced_index = self.written.index;
        self.buffer.clear();
        // One huge batch shall not hold its memory for ever.
        self.buffer.shrink_to(BUFFER_KEPT);
        Ok(())
    }
}

/// Where the mark stands if the next entry begins at `end` (`spec/oplog.md` section 4).
const fn mark_at(end: u64) -> u64 {
    end.next_multiple_of(MARK_ALIGNMENT)
}

/// Where an earlier mark ends that entries up to `end` may have overwritten in part; else `end`.
const fn behind_a_cut_mark(end: u64) -> u64 {
    let mark_end = end - end % MARK_ALIGNMENT + HEADER_LEN as u64;
    match end.is_multiple_of(MARK_ALIGNMENT) || mark_end < end {
        true => end,
        false => mark_end,
    }
}

/// Bytes of the write buffer that are kept for the next batch.
const BUFFER_KEPT: usize = 1024 * 1024;

impl Segment {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), OplogError> {
        self.file
            .write_at(offset, bytes)
            .map_err(OplogError::io("writing", &self.name))?;
        self.file_len = self.file_len.max(offset + bytes.len() as u64);
        Ok(())
    }
}

/// Makes the segment that follows `before`, durably and with nothing in it.
///
/// Everything up to `before` must be synced.
pub(super) fn create_segment(
    folder: &dyn Folder,
    before: Position,
    cluster: ClusterId,
) -> Result<Segment, OplogError> {
    let header = SegmentHeader { before, cluster };
    let name = segment_name(header.first_index());
    let temporary = format!("{name}{TEMPORARY}");
    let mut page = header.encode().to_vec();
    page.resize(SEGMENT_START, 0);
    let mut file = folder
        .create(&temporary)
        .map_err(OplogError::io("creating", &temporary))?;
    file.write_at(0, &page)
        .map_err(OplogError::io("writing", &temporary))?;
    file.sync().map_err(OplogError::io("syncing", &temporary))?;
    settle(folder, &temporary, &name)?;
    Ok(Segment {
        name,
        file,
        end: SEGMENT_START as u64,
        file_len: SEGMENT_START as u64,
    })
}
