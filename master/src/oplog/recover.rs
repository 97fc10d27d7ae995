//! A start: the newest whole checkpoint, the entries behind it, and the judgement of where the log
//! ends (`spec/oplog.md` section 7).
//!
//! Call [`Recovery::begin`]; read [`Recovery::checkpoint`] if there is one; call
//! [`Recovery::next_entry`] until it gives `None`; then [`Recovery::finish`] for the [`Appender`]. Nothing in
//! the directory changes before `finish`, so a refused log stays as it was found. (A fresh directory gets its
//! first segment in `begin`.)
//!
//! What a crash leaves is told from damage by one rule: a missing entry is damage when something
//! that is still there was written only after the entry had been synced, see [`Proof`].

use std::collections::VecDeque;
use std::sync::Arc;

use sarsen_protocol::id::ClusterId;

use super::append::{Appender, LogOptions, Segment, create_segment};
use super::checkpoint::{CheckpointHeader, CheckpointReader, verify};
use super::entry::{
    ALIGNMENT, BODY_LEN_MAX, Entry, HEADER_LEN, MARK_ALIGNMENT, Position, decode_entry,
    decode_header,
};
use super::error::{Damage, DamagedCheckpoint, EntryFault, FormatError, OplogError, Proof};
use super::folder::{Folder, read_whole};
use super::names::{DAMAGED, Listing, checkpoint_name, segment_name};
use super::segment::{SEGMENT_START, SegmentHeader};

/// The longest file that a start reads as a segment: the highest limit, and an entry beyond it.
const SEGMENT_READ_MAX: usize = 1024 * 1024 * 1024 + 2 * BODY_LEN_MAX;

/// An entry that a start found behind the checkpoint, to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredEntry {
    /// Its index.
    pub index: u64,
    /// What was logged.
    pub entry: Entry,
}

/// What was cut off behind the last good entry. Nothing of it had been acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub file: String,
    /// Where it began.
    pub offset: u64,
    /// The index that the next entry takes.
    pub index: u64,
    /// What was found instead of an entry.
    pub fault: EntryFault,
}

/// A log that is open for appending.
pub struct Recovered {
    /// The end of the log.
    pub appender: Appender,
    /// What was cut off, if a crash left something.
    pub torn_tail: Option<TornTail>,
}

/// The reading of a log, from its checkpoint to its end.
pub struct Recovery {
    folder: Arc<dyn Folder>,
    options: LogOptions,
    cluster: ClusterId,
    fresh: bool,
    /// Last index of every checkpoint, whole or not, rising.
    checkpoints: Vec<u64>,
    damaged_checkpoints: Vec<DamagedCheckpoint>,
    temporary: Vec<String>,
    /// What the checkpoint covers; before the first entry if there is none.
    base: Position,
    /// First indexes of the segments behind the one that is read.
    later_segments: VecDeque<u64>,
    segment: OpenSegment,
    reached: Position,
    reached_time_ms: u64,
    end: Option<LogEnd>,
}

struct OpenSegment {
    name: String,
    bytes: Vec<u8>,
    /// Where the next entry should begin.
    offset: usize,
    /// Entries that no header yet proves to be synced: index and where they begin.
    unproven: VecDeque<(u64, usize)>,
}

struct LogEnd {
    /// What isn't zeros or marks behind the last entry.
    torn: Option<EntryFault>,
}

impl Recovery {
    /// Finds the checkpoint and the segment to begin with. In a fresh directory the log of cluster
    /// `fresh_cluster` is begun.
    ///
    /// # Errors
    /// [`OplogError::Foreign`], [`OplogError::Damaged`], [`OplogError::Io`], [`OplogError::NoSpace`].
    pub fn begin(
        folder: Arc<dyn Folder>,
        options: LogOptions,
        fresh_cluster: ClusterId,
    ) -> Result<Self, OplogError> {
        let mut listing = list(&*folder)?;
        listing.refuse_foreign()?;
        let fresh = listing.is_fresh();
        if fresh {
            create_segment(&*folder, Position::genesis(fresh_cluster), fresh_cluster)?;
            listing = list(&*folder)?;
        }
        let mut damaged_checkpoints = Vec::new();
        let checkpoint = newest_whole(&*folder, &listing, &mut damaged_checkpoints)?;
        let base_index = checkpoint.map_or(0, |header| header.position.index);

        let wanted = base_index.saturating_add(1);
        let begun = listing
            .segments
            .partition_point(|&first_index| first_index <= wanted);
        let later_segments = VecDeque::from(listing.segments.split_off(begun));
        let Some(first_index) = listing.segments.pop() else {
            let passed_over = damaged_checkpoints.into_iter().next();
            return Err(Damage::SegmentMissing {
                index: wanted,
                passed_over,
            }
            .into());
        };
        let (segment, header) = OpenSegment::load(&*folder, first_index)?;
        let cluster = checkpoint.map_or(header.cluster, |checkpoint| checkpoint.cluster);
        let base = checkpoint.map_or(Position::genesis(cluster), |header| header.position);
        let recovery = Self {
            folder,
            options,
            cluster,
            fresh,
            checkpoints: listing.checkpoints,
            damaged_checkpoints,
            temporary: listing.temporary,
            base,
            later_segments,
            segment,
            reached: header.before,
            reached_time_ms: 0,
            end: None,
        };
        recovery.check_header(&header)?;
        recovery.check_joint()?;
        Ok(recovery)
    }

    /// The cluster whose log this is.
    #[must_use]
    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Whether the log was begun just now.
    #[must_use]
    pub const fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Checkpoints that were passed over, the newest first.
    #[must_use]
    pub fn damaged_checkpoints(&self) -> &[DamagedCheckpoint] {
        &self.damaged_checkpoints
    }

    /// The state to begin with; `None` for that of an empty cluster. It was verified just now, and
    /// is verified again while it is read.
    ///
    /// # Errors
    /// [`OplogError::Io`].
    pub fn checkpoint(&self) -> Result<Option<CheckpointReader>, OplogError> {
        if self.base.index == 0 {
            return Ok(None);
        }
        let reader = CheckpointReader::open(&*self.folder, self.base.index);
        let name = checkpoint_name(self.base.index);
        reader.map(Some).map_err(OplogError::io("reading", &name))
    }

    /// The next entry behind the checkpoint, or `None` at the end of the log.
    ///
    /// # Errors
    /// [`OplogError::Damaged`]: what was given before must not be used. [`OplogError::Io`].
    pub fn next_entry(&mut self) -> Result<Option<RecoveredEntry>, OplogError> {
        while self.end.is_none() {
            let index = self.reached.index.saturating_add(1);
            if self.later_segments.front() == Some(&index) {
                self.enter_next_segment(index)?;
                continue;
            }
            match self.segment.take_entry(&self.reached, self.cluster) {
                Ok((position, entry)) => {
                    self.reached = position;
                    self.reached_time_ms = entry.time_ms;
                    self.check_joint()?;
                    if index > self.base.index {
                        return Ok(Some(RecoveredEntry { index, entry }));
                    }
                }
                Err(fault) => self.end_at(index, fault)?,
            }
        }
        Ok(None)
    }

    /// Cuts off a torn tail, brings the rest to stable storage, and opens the log for appending.
    ///
    /// # Panics
    /// If [`Recovery::next_entry`] has not given `None` yet.
    ///
    /// # Errors
    /// [`OplogError::Io`], [`OplogError::NoSpace`].
    pub fn finish(mut self) -> Result<Recovered, OplogError> {
        let end = self.end.take().expect("next_entry has given None");
        self.tidy()?;
        let segment = self.segment.settle(&*self.folder, end.torn.is_some())?;
        self.folder
            .sync()
            .map_err(OplogError::io("syncing", "directory"))?;
        let torn_tail = end.torn.map(|fault| TornTail {
            file: segment.name.clone(),
            offset: segment.end,
            index: self.reached.index.saturating_add(1),
            fault,
        });
        let (reached, time_ms) = (self.reached, self.reached_time_ms);
        let appender = Appender::new(
            self.folder,
            self.options,
            self.cluster,
            segment,
            reached,
            time_ms,
        );
        Ok(Recovered {
            appender,
            torn_tail,
        })
    }

    fn enter_next_segment(&mut self, first_index: u64) -> Result<(), OplogError> {
        let (segment, header) = OpenSegment::load(&*self.folder, first_index)?;
        self.later_segments.pop_front();
        self.segment = segment;
        self.check_header(&header)?;
        Ok(())
    }

    /// Refuses a segment of another cluster or another history.
    fn check_header(&self, header: &SegmentHeader) -> Result<(), Damage> {
        let fault = if header.cluster != self.cluster {
            EntryFault::OtherCluster
        } else if header.before != self.reached {
            EntryFault::ChainBroken
        } else {
            return Ok(());
        };
        Err(self.segment.header_damage(header.first_index(), fault))
    }

    /// Refuses a log that comes to the checkpoint's last index by another history.
    fn check_joint(&self) -> Result<(), Damage> {
        if self.reached.index == self.base.index && self.reached != self.base {
            let file = self.segment.name.clone();
            return Err(Damage::CheckpointForeign {
                file,
                index: self.base.index,
            });
        }
        Ok(())
    }

    /// There is no good entry `index`: the log's end, or damage.
    fn end_at(&mut self, index: u64, fault: EntryFault) -> Result<(), Damage> {
        if let Some(proof) = self.proof_of(index) {
            let (file, offset) = (self.segment.name.clone(), self.segment.offset as u64);
            return Err(Damage::Entry {
                file,
                offset,
                index,
                fault,
                proof,
            });
        }
        let torn = (!self.segment.ends_blank(&self.reached, self.cluster)).then_some(fault);
        self.end = Some(LogEnd { torn });
        Ok(())
    }

    /// Looks for something that was written only after entry `index` had been synced.
    fn proof_of(&self, index: u64) -> Option<Proof> {
        if let Some(&first_index) = self.later_segments.front() {
            return Some(Proof::LaterSegment { first_index });
        }
        match self.checkpoints.last() {
            Some(&last_index) if last_index >= index => Some(Proof::Checkpoint { last_index }),
            _ => self.segment.later_header(index, self.cluster),
        }
    }

    /// Removes what was under construction, and takes damaged checkpoints out of the count.
    fn tidy(&self) -> Result<(), OplogError> {
        for name in &self.temporary {
            self.folder
                .remove(name)
                .map_err(OplogError::io("removing", name))?;
        }
        for DamagedCheckpoint { file, .. } in &self.damaged_checkpoints {
            let aside = format!("{file}{DAMAGED}");
            self.folder
                .rename(file, &aside)
                .map_err(OplogError::io("renaming", file))?;
        }
        Ok(())
    }
}

impl OpenSegment {
    fn load(folder: &dyn Folder, first_index: u64) -> Result<(Self, SegmentHeader), OplogError> {
        let name = segment_name(first_index);
        let bytes = read_whole(folder, &name, SEGMENT_READ_MAX)?;
        let (offset, unproven) = (SEGMENT_START, VecDeque::new());
        let segment = Self {
            name,
            bytes,
            offset,
            unproven,
        };
        let header = match SegmentHeader::decode(&segment.bytes) {
            Ok(header) if header.first_index() != first_index => Err(FormatError::IndexWrong),
            Ok(_) if segment.bytes.len() < SEGMENT_START => Err(FormatError::Truncated),
            other => other,
        };
        match header {
            Ok(header) => Ok((segment, header)),
            Err(error) => Err(segment.header_damage(first_index, error.into()).into()),
        }
    }

    fn header_damage(&self, first_index: u64, fault: EntryFault) -> Damage {
        Damage::SegmentHeader {
            file: self.name.clone(),
            first_index,
            fault,
        }
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.offset..).unwrap_or_default()
    }

    /// Takes the entry that follows `before`, or says why there is none.
    fn take_entry(
        &mut self,
        before: &Position,
        cluster: ClusterId,
    ) -> Result<(Position, Entry), EntryFault> {
        if self.rest().iter().take(HEADER_LEN).all(|&byte| byte == 0) {
            return Err(EntryFault::Absent);
        }
        let found = decode_entry(self.rest())?;
        let (header, place) = (found.header, found.header.place);
        let kind = header.kind.ok_or(EntryFault::Absent)?;
        if place.index != before.index.saturating_add(1) {
            return Err(EntryFault::OtherIndex { found: place.index });
        }
        if place.cluster != cluster {
            return Err(EntryFault::OtherCluster);
        }
        if place.chain_before != before.chain {
            return Err(EntryFault::ChainBroken);
        }
        if header.term < before.term {
            return Err(EntryFault::TermLower);
        }
        let (term, time_ms, request) = (header.term, header.time_ms, header.request);
        let entry = Entry {
            kind,
            term,
            time_ms,
            request,
            body: found.body.to_vec(),
        };
        let position = Position {
            index: place.index,
            term,
            chain: found.chain(),
        };
        let encoded_len = found.encoded_len;
        self.prove(place.synced_index);
        self.unproven.push_back((place.index, self.offset));
        self.offset += encoded_len;
        Ok((position, entry))
    }

    /// Whether nothing but zeros and marks stand behind the last entry: the newest mark, older ones
    /// at later pages, or, of an earlier writer, one right behind the entry.
    fn ends_blank(&self, last: &Position, cluster: ClusterId) -> bool {
        let page_len = usize::try_from(MARK_ALIGNMENT).unwrap_or(usize::MAX);
        let first_page = self.offset.next_multiple_of(page_len);
        let head = self.bytes.get(self.offset..first_page);
        let head = head.unwrap_or(self.rest());
        let pages = self.bytes.get(first_page..).unwrap_or_default();
        let is_blank = |bytes: &[u8]| {
            let is_mark = decode_header(bytes).is_ok_and(|header| {
                header.kind.is_none()
                    && header.place.cluster == cluster
                    && header.place.index <= last.index.saturating_add(1)
            });
            let zeros_from = if is_mark { HEADER_LEN } else { 0 };
            bytes.iter().skip(zeros_from).all(|&byte| byte == 0)
        };
        is_blank(head) && pages.chunks(page_len).all(is_blank)
    }

    /// Entries up to `synced_index` are on stable storage.
    fn prove(&mut self, synced_index: u64) {
        while self
            .unproven
            .front()
            .is_some_and(|&(index, _)| index <= synced_index)
        {
            self.unproven.pop_front();
        }
    }

    /// A header here or further on that was written when entry `index` had been synced.
    fn later_header(&self, index: u64, cluster: ClusterId) -> Option<Proof> {
        (self.offset..self.bytes.len())
            .step_by(ALIGNMENT)
            .find_map(|offset| {
                let place = decode_header(self.bytes.get(offset..)?).ok()?.place;
                let synced_index = place.synced_index;
                (place.cluster == cluster && synced_index >= index).then_some(Proof::LaterHeader {
                    offset: offset as u64,
                    synced_index,
                })
            })
    }

    /// Makes what was read durable and opens it for appending.
    ///
    /// Unproven entries are written again: after a failed sync their pages may be there for us to
    /// read, called clean, without being on disk, and a sync alone would not bring them there.
    fn settle(self, folder: &dyn Folder, torn: bool) -> Result<Segment, OplogError> {
        let Self {
            name,
            bytes,
            offset,
            unproven,
        } = self;
        let mut file = folder
            .open(&name)
            .map_err(OplogError::io("opening", &name))?;
        let end = offset as u64;
        if torn {
            file.set_len(end)
                .map_err(OplogError::io("cutting off the torn tail", &name))?;
        }
        if let Some(&(_, from)) = unproven.front() {
            let again = bytes.get(from..offset).unwrap_or_default();
            file.write_at(from as u64, again)
                .map_err(OplogError::io("writing", &name))?;
        }
        file.sync().map_err(OplogError::io("syncing", &name))?;
        let file_len = if torn { end } else { bytes.len() as u64 };
        Ok(Segment {
            name,
            file,
            end,
            file_len,
        })
    }
}

fn list(folder: &dyn Folder) -> Result<Listing, OplogError> {
    Ok(Listing::of(
        folder
            .names()
            .map_err(OplogError::io("listing", "directory"))?,
    ))
}

/// The newest whole checkpoint; damaged ones before it are added to `damaged`.
fn newest_whole(
    folder: &dyn Folder,
    listing: &Listing,
    damaged: &mut Vec<DamagedCheckpoint>,
) -> Result<Option<CheckpointHeader>, OplogError> {
    for &last_index in listing.checkpoints.iter().rev() {
        match verify(folder, last_index)? {
            Ok(header) => return Ok(Some(header)),
            Err(error) => {
                damaged.push(DamagedCheckpoint {
                    file: checkpoint_name(last_index),
                    error,
                });
            }
        }
    }
    Ok(None)
}
