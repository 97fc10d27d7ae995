//! What the master is told of one directory's chunks (`spec/messages.md` section 9).
//!
//! ```text
//!  restart ──► slices, each read when the one before was taken ──► changes, as they come
//!                 ▲                                                     │
//!                 └──────────────── the master saw a gap ───────────────┘
//! ```
//!
//! One message is on its way at a time. A full report never holds all chunks in memory: a slice
//! is read when it is to be sent. What changes meanwhile is remembered, one entry a chunk, and
//! told behind the full report; told twice does no harm, since what is told is the state, not the
//! difference.
//!
//! Who drives it: [`InventoryReport::restart`] at each registration, then [`poll`] after every
//! other call. A step is yielded once.
//!
//! [`poll`]: InventoryReport::poll

use std::collections::BTreeMap;

use sarsen_protocol::id::{ChunkHandle, DirectoryId};
use sarsen_protocol::message::{HeldChunk, Inventory};
use sarsen_protocol::size::HELD_MAX;

/// What is to be done for a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read up to [`HELD_MAX`] chunks with higher handles than this; answer with
    /// [`InventoryReport::handle_slice`].
    ReadSlice {
        /// `None` for the directory's first.
        after: Option<ChunkHandle>,
    },
    /// Send this; answer with [`InventoryReport::handle_taken`].
    Send(Inventory),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The full report goes on behind this handle.
    Full { after: Option<ChunkHandle> },
    /// The full report is done.
    Changes,
}

/// The report of one directory.
#[derive(Debug)]
pub struct InventoryReport {
    directory_id: DirectoryId,
    /// Of the last message of this registration.
    sequence: u64,
    phase: Phase,
    /// A slice is being read, or a message is on its way.
    is_busy: bool,
    /// Chunks that changed and were not told yet; `None` for those that are gone.
    changes: BTreeMap<ChunkHandle, Option<HeldChunk>>,
}

impl InventoryReport {
    /// A report that has not begun.
    #[must_use]
    pub const fn new(directory_id: DirectoryId) -> Self {
        Self {
            directory_id,
            sequence: 0,
            phase: Phase::Full { after: None },
            is_busy: false,
            changes: BTreeMap::new(),
        }
    }

    /// Begins anew, for a new registration: what was on its way is lost, or not to be trusted.
    pub fn restart(&mut self) {
        // What changed until now will be in the slices, which are yet to be read.
        *self = Self::new(self.directory_id);
    }

    /// The directory has had its last word for this registration: nothing is on its way.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.phase == Phase::Changes && !self.is_busy && self.changes.is_empty()
    }

    /// A slice was read, behind the handle that was asked for and in the order of handles.
    pub fn handle_slice(&mut self, held: Vec<HeldChunk>) -> Option<Inventory> {
        let Phase::Full { after } = self.phase else {
            return None;
        };
        let is_last = held.len() < HELD_MAX;
        self.phase = match held.last() {
            Some(highest) if !is_last => Phase::Full {
                after: Some(highest.handle),
            },
            _ => Phase::Changes,
        };
        let first = after.is_none();
        Some(self.message(true, first, is_last, held, Vec::new()))
    }

    /// A chunk has changed, or is gone.
    pub fn handle_change(&mut self, handle: ChunkHandle, held: Option<HeldChunk>) {
        self.changes.insert(handle, held);
    }

    /// The master took the last message; `resend` if it wants a full report again.
    pub fn handle_taken(&mut self, resend: bool) {
        self.is_busy = false;
        if resend {
            self.phase = Phase::Full { after: None };
        }
    }

    /// The next thing to do, if the one before is done.
    pub fn poll(&mut self) -> Option<Step> {
        if self.is_busy {
            return None;
        }
        if let Phase::Full { after } = self.phase {
            self.is_busy = true;
            return Some(Step::ReadSlice { after });
        }
        if self.changes.is_empty() {
            return None;
        }
        self.is_busy = true;
        let (mut held, mut gone) = (Vec::new(), Vec::new());
        while held.len() + gone.len() < HELD_MAX
            && let Some((handle, change)) = self.changes.pop_first()
        {
            match change {
                Some(chunk) => held.push(chunk),
                None => gone.push(handle),
            }
        }
        Some(Step::Send(self.message(false, false, false, held, gone)))
    }

    fn message(
        &mut self,
        full: bool,
        first: bool,
        last: bool,
        held: Vec<HeldChunk>,
        gone: Vec<ChunkHandle>,
    ) -> Inventory {
        self.sequence += 1;
        let (directory_id, sequence) = (self.directory_id, self.sequence);
        Inventory {
            directory_id,
            sequence,
            full,
            first,
            last,
            held,
            gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sarsen_protocol::id::{ChunkVersion, FileId, Serial};
    use sarsen_protocol::message::{ChunkState, HeldFlags};

    const DIRECTORY: DirectoryId = DirectoryId([1; 16]);

    fn held(handle: u64) -> HeldChunk {
        HeldChunk {
            handle: ChunkHandle(handle),
            version: ChunkVersion(1),
            serial: Serial(0),
            length: 0,
            crc32: 0,
            state: ChunkState::Sealed,
            flags: HeldFlags::NONE,
            file_id: FileId(1),
            index: 0,
        }
    }

    fn slice(sequence: u64, first: bool, last: bool, held: Vec<HeldChunk>) -> Inventory {
        let directory_id = DIRECTORY;
        Inventory {
            directory_id,
            sequence,
            full: true,
            first,
            last,
            held,
            gone: vec![],
        }
    }

    #[test]
    fn a_full_report_goes_slice_by_slice_and_changes_follow() {
        let mut report = InventoryReport::new(DIRECTORY);
        assert_eq!(report.poll(), Some(Step::ReadSlice { after: None }));
        assert_eq!(report.poll(), None, "one thing at a time");
        let whole: Vec<_> = (1..=HELD_MAX as u64).map(held).collect();
        let sent = report.handle_slice(whole.clone());
        assert_eq!(sent, Some(slice(1, true, false, whole)));
        // A change behind the slice that told of it, and one that is gone.
        report.handle_change(ChunkHandle(2), Some(held(2)));
        report.handle_change(ChunkHandle(3), Some(held(3)));
        report.handle_change(ChunkHandle(3), None);
        assert_eq!(report.poll(), None);
        report.handle_taken(false);
        let after = Some(ChunkHandle(HELD_MAX as u64));
        assert_eq!(report.poll(), Some(Step::ReadSlice { after }));
        let sent = report.handle_slice(vec![held(9999)]);
        assert_eq!(sent, Some(slice(2, false, true, vec![held(9999)])));
        report.handle_taken(false);
        let changes = Inventory {
            directory_id: DIRECTORY,
            sequence: 3,
            full: false,
            first: false,
            last: false,
            held: vec![held(2)],
            gone: vec![ChunkHandle(3)],
        };
        assert_eq!(
            report.poll(),
            Some(Step::Send(changes)),
            "only the last word on each"
        );
        assert!(!report.is_quiet());
        report.handle_taken(false);
        assert_eq!(report.poll(), None);
        assert!(report.is_quiet());
    }

    #[test]
    fn an_empty_directory_is_one_empty_slice() {
        let mut report = InventoryReport::new(DIRECTORY);
        report.poll();
        assert_eq!(
            report.handle_slice(vec![]),
            Some(slice(1, true, true, vec![]))
        );
    }

    #[test]
    fn a_gap_begins_a_full_report_again_in_the_same_count() {
        let mut report = InventoryReport::new(DIRECTORY);
        report.poll();
        report.handle_slice(vec![]);
        report.handle_taken(true);
        assert_eq!(report.poll(), Some(Step::ReadSlice { after: None }));
        assert_eq!(
            report.handle_slice(vec![]),
            Some(slice(2, true, true, vec![]))
        );
        report.restart();
        report.poll();
        assert_eq!(
            report.handle_slice(vec![]),
            Some(slice(1, true, true, vec![]))
        );
    }
}
