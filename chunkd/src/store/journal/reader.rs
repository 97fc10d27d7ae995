//! Reading a journal: its entries in order, and the judgement of where it ends
//! (`spec/journal.md` section 9, steps 1, 2 and 6).
//!
//! [`JournalReader::open`]; [`JournalReader::next_entry`] until it gives `None`, which is the word
//! that nothing is damaged and must be awaited before an entry is believed;
//! [`JournalReader::finish`]; then [`settle`] makes what was read stable. Only that changes
//! anything, so a journal that is damaged stays as it was found.
//!
//! What a crash leaves is told from damage by one rule: a missing entry is damage when something
//! that is still there was written only after the entry had been synced.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, ClusterId, DirectoryId};

use super::super::directory::io_error;
use super::super::error::{Operation, StoreError, is_short_of_means};
use super::super::region::{Region, Tree};
use super::body::Body;
use super::entry::{ALIGNMENT, HEADER_LEN, decode_entry, decode_header};
use super::error::{Damage, EntryFault, FormatError, JournalError};
use super::segment::{Author, Position, SEGMENT_START, SegmentHeader, list_segments, segment_path};

/// The longest file that is read as a segment: what stands behind that is not ours.
const SEGMENT_READ_MAX: u64 = 80 * 1024 * 1024;

/// Bytes that are read at a time where a read of a whole segment has failed, and where that fails too.
const PIECES: [usize; 2] = [1024 * 1024, 4096];

/// Where an entry begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// First sequence of the segment that it lies in.
    pub segment: u64,
    /// Where in the file.
    pub position: u64,
}

/// An entry that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundEntry {
    /// Its sequence.
    pub sequence: u64,
    /// Where it lies.
    pub location: Location,
    /// The chunk.
    pub handle: ChunkHandle,
    /// The version that it is about.
    pub version: ChunkVersion,
    /// What it says.
    pub body: Body,
}

/// What is cut off behind the last good entry. Nothing of it was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// Where it begins.
    pub location: Location,
    /// What was found instead of an entry.
    pub fault: EntryFault,
}

/// Where a journal ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalEnd {
    /// The last entry.
    pub last: Position,
    /// First sequences of the segments, rising; none if there is no journal.
    pub segments: Vec<u64>,
    /// What a crash left, if it did.
    pub torn_tail: Option<TornTail>,
    /// What [`settle`] has to write, into the last segment.
    unsettled: Option<Unsettled>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Unsettled {
    /// Where the first entry begins that nothing proves to be stable.
    position: u64,
    /// From there to the end of the last entry.
    bytes: Vec<u8>,
    is_torn: bool,
}

/// The reading of a journal.
#[derive(Debug)]
pub struct JournalReader<'t> {
    tree: &'t dyn Tree,
    cluster_id: ClusterId,
    directory_id: DirectoryId,
    segments: Vec<u64>,
    /// How many of them are behind, the one that is read included.
    begun: usize,
    segment: Option<ReadSegment>,
    reached: Position,
    /// Every entry up to this one was stable, as a header said.
    proven: u64,
    fault: Option<EntryFault>,
}

/// The segment that is read.
#[derive(Debug)]
struct ReadSegment {
    first_sequence: u64,
    author: Author,
    bytes: Vec<u8>,
    /// Where the next entry should begin.
    offset: usize,
    /// Where each entry begins, from the first on.
    starts: Vec<usize>,
}

impl<'t> JournalReader<'t> {
    /// Lists the segments.
    ///
    /// # Errors
    /// [`JournalError::Store`].
    pub fn open(
        tree: &'t dyn Tree,
        cluster_id: ClusterId,
        directory_id: DirectoryId,
    ) -> Result<Self, JournalError> {
        Ok(Self {
            tree,
            cluster_id,
            directory_id,
            segments: list_segments(tree)?,
            begun: 0,
            segment: None,
            reached: Position::default(),
            proven: 0,
            fault: None,
        })
    }

    /// Reads one segment alone, the first of a journal that is being written. It has to be whole: what
    /// follows it begins with `successor`.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] if an entry is missing, [`JournalError::Store`].
    pub fn segment(
        tree: &'t dyn Tree,
        author: &Author,
        first_sequence: u64,
        successor: u64,
    ) -> Result<Vec<FoundEntry>, JournalError> {
        let mut reader = Self::open(tree, author.cluster_id, author.directory_id)?;
        reader.segments = vec![first_sequence];
        let mut entries = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            entries.push(entry);
        }
        match reader.reached.sequence.checked_add(1) == Some(successor) {
            true => Ok(entries),
            false => Err(Damage {
                file: segment_path(first_sequence),
                position: 0,
                sequence: reader.reached.sequence.saturating_add(1),
                fault: EntryFault::OtherSequence,
            }
            .into()),
        }
    }

    /// The next entry; `None` at the end, when nothing is damaged.
    ///
    /// # Errors
    /// [`JournalError::Damaged`], [`JournalError::Store`]. There is nothing to go on with then.
    pub fn next_entry(&mut self) -> Result<Option<FoundEntry>, JournalError> {
        loop {
            let Some(segment) = &mut self.segment else {
                if !self.begin_next()? {
                    return Ok(None);
                }
                continue;
            };
            match segment.take_entry(self.reached) {
                Ok((found, position, stable)) => {
                    self.reached = position;
                    self.proven = self.proven.max(stable);
                    return Ok(Some(found));
                }
                Err(fault) if self.begun < self.segments.len() => {
                    // The next one follows, or an entry is missing here.
                    let damage = segment.damage(self.reached, fault);
                    if !self.begin_next()? {
                        return Err(damage.into());
                    }
                }
                Err(fault) => {
                    self.end_here(fault)?;
                    return Ok(None);
                }
            }
        }
    }

    /// Where the journal ends. To be called when [`Self::next_entry`] has given `None`.
    #[must_use]
    pub fn finish(self) -> JournalEnd {
        let is_blank = self.segment.as_ref().is_none_or(ReadSegment::ends_blank);
        let torn_tail = match (&self.segment, self.fault) {
            (Some(segment), Some(fault)) if !is_blank => Some(TornTail {
                location: segment.location(segment.offset),
                fault,
            }),
            _ => None,
        };
        let unsettled = self.segment.map(|segment| {
            let (from, bytes) = segment.unproven(self.proven);
            Unsettled {
                position: from as u64,
                bytes,
                is_torn: torn_tail.is_some(),
            }
        });
        JournalEnd {
            last: self.reached,
            segments: self.segments,
            torn_tail,
            unsettled,
        }
    }

    /// Reads the next segment, and compares its header with what came before; false if there is
    /// none, or if entries are missing between.
    fn begin_next(&mut self) -> Result<bool, JournalError> {
        let Some(&first_sequence) = self.segments.get(self.begun) else {
            return Ok(false);
        };
        let bytes = match read_segment(self.tree, first_sequence) {
            Err(error) if is_of_the_medium(&error) => {
                let damage = Damage {
                    file: segment_path(first_sequence),
                    position: 0,
                    sequence: self.reached.sequence.saturating_add(1),
                    fault: EntryFault::NotGiven,
                };
                return Err(damage.into());
            }
            read => read?,
        };
        let expected = (self.begun > 0).then_some(self.reached);
        let header = self
            .check_header(&bytes, first_sequence, expected)
            .map_err(|fault| Damage {
                file: segment_path(first_sequence),
                position: 0,
                sequence: first_sequence,
                fault,
            });
        let header = match header {
            // The hole is in the segment before: that is where to look.
            Err(damage) if damage.fault == EntryFault::OtherSequence => return Ok(false),
            header => header?,
        };
        self.reached = header.before;
        self.proven = header.before.sequence;
        self.begun += 1;
        self.segment = Some(ReadSegment {
            first_sequence,
            author: header.author,
            bytes,
            offset: usize::try_from(SEGMENT_START).unwrap_or(usize::MAX),
            starts: Vec::new(),
        });
        Ok(true)
    }

    fn check_header(
        &self,
        bytes: &[u8],
        first_sequence: u64,
        expected: Option<Position>,
    ) -> Result<SegmentHeader, EntryFault> {
        let header = SegmentHeader::decode(bytes)?;
        if header.first_sequence() != first_sequence {
            return Err(FormatError::SequenceWrong.into());
        }
        let author = &header.author;
        if author.cluster_id != self.cluster_id || author.directory_id != self.directory_id {
            return Err(EntryFault::OtherAuthor);
        }
        match expected {
            Some(reached) if reached.sequence != header.before.sequence => {
                Err(EntryFault::OtherSequence)
            }
            Some(reached) if reached != header.before => Err(EntryFault::ChainBroken),
            _ => Ok(header),
        }
    }

    /// There is no good entry behind the last: the journal's end, or damage.
    fn end_here(&mut self, fault: EntryFault) -> Result<(), Damage> {
        let Some(segment) = &self.segment else {
            return Ok(());
        };
        let proven = segment.proven_behind();
        if fault.is_of_a_whole_entry() || proven > self.reached.sequence {
            return Err(segment.damage(self.reached, fault));
        }
        self.proven = self.proven.max(proven);
        self.fault = Some(fault);
        Ok(())
    }
}

impl ReadSegment {
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.offset..).unwrap_or_default()
    }

    const fn location(&self, offset: usize) -> Location {
        Location {
            segment: self.first_sequence,
            position: offset as u64,
        }
    }

    fn damage(&self, reached: Position, fault: EntryFault) -> Damage {
        Damage {
            file: segment_path(self.first_sequence),
            position: self.offset as u64,
            sequence: reached.sequence.saturating_add(1),
            fault,
        }
    }

    /// Takes the entry that follows `before`, or says why there is none. Also what it proves to be
    /// stable.
    fn take_entry(&mut self, before: Position) -> Result<(FoundEntry, Position, u64), EntryFault> {
        let decoded = decode_entry(self.rest())?;
        let header = decoded.header;
        let (Some(kind), true) = (
            header.kind,
            header.link.sequence == before.sequence.saturating_add(1),
        ) else {
            return Err(EntryFault::OtherSequence);
        };
        if header.link.before_crc != before.crc {
            return Err(EntryFault::ChainBroken);
        }
        if !header.is_of(&self.author) {
            return Err(EntryFault::OtherAuthor);
        }
        let found = FoundEntry {
            sequence: header.link.sequence,
            location: self.location(self.offset),
            handle: header.handle,
            version: header.version,
            body: Body::decode(kind, decoded.body)?,
        };
        let position = Position {
            sequence: header.link.sequence,
            crc: header.crc,
        };
        let (stable, encoded_len) = (header.link.stable, decoded.encoded_len);
        self.starts.push(self.offset);
        self.offset += encoded_len;
        Ok((found, position, stable))
    }

    /// The highest `stable` of this start's headers behind the last good entry; 0 if there is none.
    /// The body of such a header may be spoiled: its own CRC is what makes it one.
    fn proven_behind(&self) -> u64 {
        let rest = self.rest();
        (0..rest.len())
            .step_by(ALIGNMENT)
            .filter_map(|at| decode_header(rest.get(at..)?).ok())
            .filter(|header| header.is_of(&self.author))
            .map(|header| header.link.stable)
            .max()
            .unwrap_or(0)
    }

    /// Whether nothing but zeros and marks stand behind the last entry.
    fn ends_blank(&self) -> bool {
        let mut rest = self.rest();
        loop {
            let Some(at) = rest.iter().position(|&byte| byte != 0) else {
                return true;
            };
            // The first bytes are the CRC, which may begin with zeros.
            let from = at - at % ALIGNMENT;
            let is_mark = rest
                .get(from..)
                .and_then(|bytes| decode_header(bytes).ok())
                .is_some_and(|header| header.kind.is_none() && header.is_of(&self.author));
            if !is_mark {
                return false;
            }
            rest = rest.get(from + HEADER_LEN..).unwrap_or_default();
        }
    }

    /// The entries that nothing proves to be stable: where the first begins, and all their bytes.
    fn unproven(&self, proven: u64) -> (usize, Vec<u8>) {
        let count = proven.saturating_add(1).saturating_sub(self.first_sequence);
        let from = usize::try_from(count)
            .ok()
            .and_then(|count| self.starts.get(count).copied())
            .unwrap_or(self.offset);
        let bytes = self.bytes.get(from..self.offset).unwrap_or_default();
        (from, bytes.to_vec())
    }
}

/// Reads entries again by where they lie, after the whole journal was found in order.
#[derive(Debug)]
pub struct EntryReader<'t> {
    tree: &'t dyn Tree,
    /// The segment that was read last.
    segment: Option<(u64, Arc<dyn Region>)>,
}

impl<'t> EntryReader<'t> {
    /// Reads entries of this tree's journal.
    #[must_use]
    pub const fn new(tree: &'t dyn Tree) -> Self {
        Self {
            tree,
            segment: None,
        }
    }

    /// What the entry says that lies there.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] if it is not what it was any more, [`JournalError::Store`].
    pub fn read(&mut self, location: Location) -> Result<Body, JournalError> {
        let path = segment_path(location.segment);
        let tree = self.tree;
        let error = |operation| {
            let path = path.clone();
            move |source| io_error(tree, operation, &path, source)
        };
        let region = match &self.segment {
            Some((first, region)) if *first == location.segment => Arc::clone(region),
            _ => tree.open(&path).map_err(error(Operation::Open))?,
        };
        let mut bytes = vec![0; HEADER_LEN];
        let mut read = region
            .read_at(&mut bytes, location.position)
            .map_err(error(Operation::Read))?;
        let damaged = |fault: FormatError| Damage {
            file: path.clone(),
            position: location.position,
            sequence: 0,
            fault: fault.into(),
        };
        if let Ok(header) = decode_header(&bytes) {
            let len = (HEADER_LEN + header.body_len).next_multiple_of(ALIGNMENT);
            bytes.resize(len, 0);
            read = region
                .read_at(&mut bytes, location.position)
                .map_err(error(Operation::Read))?;
        }
        self.segment = Some((location.segment, region));
        bytes.truncate(read);
        let decoded = decode_entry(&bytes).map_err(damaged)?;
        let kind = decoded.header.kind.unwrap_or_default();
        Ok(Body::decode(kind, decoded.body).map_err(damaged)?)
    }
}

/// Makes what was read stable, and cuts a torn tail off.
///
/// Entries that nothing proves are written again: after a failed sync of an earlier start the
/// kernel may show pages, and call them clean, that never reached the disk.
///
/// # Errors
/// [`JournalError::Store`]. The start must not go on.
pub fn settle(tree: &dyn Tree, end: &JournalEnd) -> Result<(), JournalError> {
    let (Some(&last), Some(unsettled)) = (end.segments.last(), &end.unsettled) else {
        return Ok(());
    };
    let path = segment_path(last);
    let error = |operation| {
        let path = path.clone();
        move |source| io_error(tree, operation, &path, source)
    };
    let region = tree.open(&path).map_err(error(Operation::Open))?;
    if unsettled.is_torn {
        let len = unsettled.position + unsettled.bytes.len() as u64;
        region.set_len(len).map_err(error(Operation::Write))?;
    }
    if !unsettled.bytes.is_empty() {
        region
            .write_at(&unsettled.bytes, unsettled.position)
            .map_err(error(Operation::Write))?;
    }
    region.sync().map_err(error(Operation::Sync))?;
    Ok(())
}

/// The chunks that any readable header of a damaged journal names: they are poisoned with it. What the
/// medium does not give is left out.
///
/// # Errors
/// [`JournalError::Store`].
pub fn named_chunks(
    tree: &dyn Tree,
    directory_id: DirectoryId,
) -> Result<BTreeSet<ChunkHandle>, JournalError> {
    let mut named = BTreeSet::new();
    for first_sequence in list_segments(tree)? {
        let bytes = match read_segment(tree, first_sequence) {
            Err(error) if is_of_the_medium(&error) => read_pieces(tree, first_sequence)?,
            read => read?,
        };
        let headers = (0..bytes.len())
            .step_by(ALIGNMENT)
            .filter_map(|at| decode_header(bytes.get(at..)?).ok());
        // Of a spoiled segment the nonce is not known; one chunk too many does no harm here.
        let ours = headers.filter(|header| header.directory_id == directory_id);
        named.extend(
            ours.map(|header| header.handle)
                .filter(|handle| handle.is_some()),
        );
    }
    Ok(named)
}

/// A segment's bytes.
fn read_segment(tree: &dyn Tree, first_sequence: u64) -> Result<Vec<u8>, StoreError> {
    let (region, mut bytes) = open_segment(tree, first_sequence)?;
    let read = region
        .read_at(&mut bytes, 0)
        .map_err(|source| read_error(tree, first_sequence, source))?;
    bytes.truncate(read);
    Ok(bytes)
}

/// What the medium gives of a segment, with zeros where it gives nothing.
fn read_pieces(tree: &dyn Tree, first_sequence: u64) -> Result<Vec<u8>, StoreError> {
    let (region, mut bytes) = open_segment(tree, first_sequence)?;
    let read = read_given(&*region, &mut bytes, 0, &PIECES);
    read.map_err(|source| read_error(tree, first_sequence, source))?;
    Ok(bytes)
}

/// Reads in pieces of the first of these sizes, and where that fails in pieces of the next one.
fn read_given(
    region: &dyn Region,
    bytes: &mut [u8],
    position: u64,
    sizes: &[usize],
) -> io::Result<()> {
    let Some((&size, smaller)) = sizes.split_first() else {
        return Ok(());
    };
    for (piece, at) in bytes.chunks_mut(size).zip((position..).step_by(size)) {
        match region.read_at(piece, at) {
            Err(error) if is_short_of_means(&error) => return Err(error),
            Err(_) => read_given(region, piece, at, smaller)?,
            Ok(_) => {}
        }
    }
    Ok(())
}

/// The file of a segment, and room for all its bytes.
fn open_segment(
    tree: &dyn Tree,
    first_sequence: u64,
) -> Result<(Arc<dyn Region>, Vec<u8>), StoreError> {
    let path = segment_path(first_sequence);
    let region = tree
        .open(&path)
        .map_err(|source| io_error(tree, Operation::Open, &path, source))?;
    let len = region.file_len();
    let len = len.map_err(|source| read_error(tree, first_sequence, source))?;
    let len = usize::try_from(len.min(SEGMENT_READ_MAX)).unwrap_or(0);
    Ok((region, vec![0; len]))
}

fn read_error(tree: &dyn Tree, first_sequence: u64, source: io::Error) -> StoreError {
    io_error(tree, Operation::Read, &segment_path(first_sequence), source)
}

/// Whether the medium does not give what it holds: who may not open it, or has no memory to read it, has
/// lost nothing.
fn is_of_the_medium(error: &StoreError) -> bool {
    let is_read = matches!(
        error,
        StoreError::Io {
            operation: Operation::Read,
            ..
        }
    );
    is_read && !error.is_short_of_means()
}
