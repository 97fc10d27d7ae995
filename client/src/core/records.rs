//! Every record of a file once (`spec/records.md` section 3).
//!
//! [`Records`] looks at a file as one row of bytes. [`Records::poll`] says which bytes it needs
//! next, and yields records in the order of their offsets, each id once. Who drives it answers with
//! [`Records::handle_bytes`], or, where the places of the chunks say that nothing is stored, with
//! [`Records::handle_hole`]: holes and padding of any length cost nothing.
//!
//! The bytes were verified before they come here, so what is no record is a *leftover*: it is passed
//! over, and of it the bytes that are not zero are counted.
//!
//! Memory: a record (a quarter of a chunk at the most) or what was handed over at once, and a few
//! ranges of numbers for each session.

use std::collections::BTreeMap;
use std::ops::Range;

use sarsen_protocol::id::SessionId;
use sarsen_protocol::record::{RECORD_HEADER_LEN, RECORD_MAGIC, RecordError, decode};

/// Up to where a candidate's magic reaches.
const MAGIC_END: usize = 2 * RECORD_MAGIC.len();

/// Where the magic begins.
const MAGIC_START: usize = RECORD_MAGIC.len();

/// What is next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The bytes from `at` on are to be handed over: `len` of them are of use for certain, more may
    /// come.
    Need {
        /// Offset in the file.
        at: u64,
        /// At least one; within the file.
        len: u64,
    },
    /// A record.
    Record(Found),
    /// Everything up to the present end was looked at, and the file may go on.
    Wait,
    /// Everything was looked at.
    End,
}

/// A record that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Of its header's first byte in the file.
    pub offset: u64,
    /// Who appended it.
    pub session: SessionId,
    /// In which of the session's requests.
    pub number: u64,
    payload: Range<usize>,
}

/// The records of one file, from an offset on.
#[derive(Clone, Debug)]
pub struct Records {
    /// Where the next record may begin; never below `base`.
    position: u64,
    /// Where the buffer begins in the file.
    base: u64,
    buffer: Vec<u8>,
    /// Bytes of the file, as far as they are known to be there.
    end: u64,
    /// Where the last chunk begins, while it is open.
    open_from: Option<u64>,
    following: bool,
    ids: Ids,
    leftover: u64,
}

impl Records {
    /// The records from `offset` on of a file that is empty as far as is known. One that is
    /// followed waits at its end for more.
    #[must_use]
    pub fn new(offset: u64, following: bool) -> Self {
        Self {
            position: offset,
            base: offset,
            buffer: Vec::new(),
            end: offset,
            open_from: None,
            following,
            ids: Ids::default(),
            leftover: 0,
        }
    }

    /// So many bytes are there; `open_from` is where the last chunk begins, if it is open. A file
    /// does not become shorter while it is read.
    pub fn handle_end(&mut self, end: u64, open_from: Option<u64>) {
        self.end = self.end.max(end);
        self.open_from = open_from;
    }

    /// The bytes that were needed, from exactly there on.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        self.drop_passed();
        let room = self.end.saturating_sub(self.here());
        let len = usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()));
        self.buffer.extend(bytes.iter().take(len));
    }

    /// From where bytes are needed up to `to` nothing is stored: all are zeros.
    pub fn handle_hole(&mut self, to: u64) {
        self.drop_passed();
        let to = to.min(self.end);
        let Some(zeros) = to.checked_sub(self.here()).filter(|&zeros| zeros > 0) else {
            return;
        };
        if self.is_candidate() {
            // Zeros may be a part of it: of its header at first, which says how long it is.
            let needed = match self.buffer.len() < RECORD_HEADER_LEN {
                true => RECORD_HEADER_LEN as u64,
                false => self.needed(),
            };
            let needed = needed.saturating_sub(self.buffer.len() as u64).max(1);
            let len = usize::try_from(zeros.min(needed)).unwrap_or_default();
            self.buffer.resize(self.buffer.len() + len, 0);
            return;
        }
        // No magic lies in zeros, but the CRC in front of it may begin there.
        let crc_len = MAGIC_START as u64;
        if zeros <= crc_len {
            self.buffer.extend((0..zeros).map(|_| 0));
            return;
        }
        let position = self.position.max(to - crc_len);
        self.pass(position);
        self.base = position;
        self.buffer.clear();
        let kept = usize::try_from(to.saturating_sub(position)).unwrap_or_default();
        self.buffer.resize(kept, 0);
    }

    /// The next step. After [`Step::Need`] the same comes until bytes came.
    pub fn poll(&mut self) -> Step {
        loop {
            let left = self.end.saturating_sub(self.position);
            if left < RECORD_HEADER_LEN as u64 {
                match self.end_of_all(left) {
                    Some(step) => return step,
                    None => continue,
                }
            }
            if !self.is_candidate() && self.bytes().len() >= MAGIC_END {
                self.search();
                continue;
            }
            if self.bytes().len() < RECORD_HEADER_LEN {
                return self.need(RECORD_HEADER_LEN as u64);
            }
            match decode(self.bytes()) {
                Ok(record) => {
                    let len = record.encoded_len();
                    let (session, number) = (record.session, record.number);
                    if let Some(found) = self.take(session, number, len) {
                        return Step::Record(found);
                    }
                }
                Err(RecordError::Truncated) => {
                    let needed = self.needed();
                    if needed <= left {
                        return self.need(needed);
                    }
                    let may_grow = self.open_from.is_some_and(|from| self.position >= from);
                    if self.following && may_grow {
                        return Step::Wait;
                    }
                    self.search();
                }
                Err(_) => self.search(),
            }
        }
    }

    /// The payload of the record that was yielded last.
    #[must_use]
    pub fn payload(&self, found: &Found) -> &[u8] {
        self.buffer.get(found.payload.clone()).unwrap_or_default()
    }

    /// Bytes that were passed over and are neither zeros nor a record's.
    #[must_use]
    pub const fn leftover(&self) -> u64 {
        self.leftover
    }

    /// What is here from the position on.
    fn bytes(&self) -> &[u8] {
        let passed = usize::try_from(self.position - self.base).unwrap_or(usize::MAX);
        self.buffer.get(passed..).unwrap_or_default()
    }

    /// Where the bytes go on that are here.
    const fn here(&self) -> u64 {
        self.base + self.buffer.len() as u64
    }

    /// Whether a header seems to begin at the position.
    fn is_candidate(&self) -> bool {
        self.bytes().get(MAGIC_START..MAGIC_END) == Some(&RECORD_MAGIC)
    }

    /// Bytes of the candidate, as far as its header is here.
    fn needed(&self) -> u64 {
        let length = self.bytes().get(MAGIC_END..).and_then(<[u8]>::first_chunk);
        let length = length.map_or(0, |length| u32::from_le_bytes(*length));
        RECORD_HEADER_LEN as u64 + u64::from(length)
    }

    /// Needs bytes until `len` are here from the position on.
    fn need(&self, len: u64) -> Step {
        let len = len.saturating_sub(self.bytes().len() as u64).max(1);
        Step::Need {
            at: self.here(),
            len,
        }
    }

    /// No record fits into the `left` bytes. `None` if they were counted just now.
    fn end_of_all(&mut self, left: u64) -> Option<Step> {
        if self.following {
            return Some(Step::Wait);
        }
        if left == 0 {
            return Some(Step::End);
        }
        if (self.bytes().len() as u64) < left {
            return Some(self.need(left));
        }
        self.pass(self.end);
        None
    }

    /// Goes behind a record; `None` if its id was yielded before.
    fn take(&mut self, session: SessionId, number: u64, len: usize) -> Option<Found> {
        let start = usize::try_from(self.position - self.base).unwrap_or(usize::MAX);
        let offset = self.position;
        self.position += len as u64;
        if !self.ids.insert(session, number) {
            return None;
        }
        Some(Found {
            offset,
            session,
            number,
            payload: start + RECORD_HEADER_LEN..start + len,
        })
    }

    /// Goes to the next place behind the position where a magic says that a record may begin, or as
    /// far as that is known.
    fn search(&mut self) {
        let bytes = self.bytes();
        let behind = bytes.get(MAGIC_START + 1..).unwrap_or_default();
        let next = match find(behind, RECORD_MAGIC) {
            Some(at) => at + 1,
            None => bytes.len().saturating_sub(MAGIC_END - 1).max(1),
        };
        self.pass(self.position + next as u64);
    }

    /// Goes to a place; what lies before it is no record.
    fn pass(&mut self, to: u64) {
        let len = usize::try_from(to.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let passed = self.bytes().iter().take(len);
        self.leftover += passed.filter(|&&byte| byte != 0).count() as u64;
        self.position = to;
    }

    fn drop_passed(&mut self) {
        let passed = usize::try_from(self.position - self.base).unwrap_or(usize::MAX);
        self.buffer.drain(..passed.min(self.buffer.len()));
        self.base = self.position;
    }
}

/// Where `magic` begins first.
fn find(bytes: &[u8], magic: [u8; 4]) -> Option<usize> {
    bytes.windows(magic.len()).position(|it| it == magic)
}

/// The ids that were yielded, as ranges of numbers a session.
#[derive(Clone, Debug, Default)]
struct Ids {
    /// By session, then by the first number: the last.
    sessions: BTreeMap<SessionId, BTreeMap<u64, u64>>,
}

impl Ids {
    /// False if it was there.
    fn insert(&mut self, session: SessionId, number: u64) -> bool {
        let ranges = self.sessions.entry(session).or_default();
        let (mut first, mut last) = (number, number);
        if let Some((&before_first, &before_last)) = ranges.range(..=number).next_back() {
            if before_last >= number {
                return false;
            }
            if before_last + 1 == number {
                first = before_first;
            }
        }
        if let Some(next) = number.checked_add(1)
            && let Some(next_last) = ranges.remove(&next)
        {
            last = next_last;
        }
        ranges.insert(first, last);
        true
    }
}

#[cfg(test)]
mod tests;
