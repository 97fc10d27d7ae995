//! What a directory holds, in memory: an entry a chunk, and who may change a chunk's file.
//!
//! A directory holds a million chunks, so an entry keeps only what the inventory tells; the rest
//! of a header is read from the file when it is needed. The one lock is held for lookups alone,
//! never over I/O. Whoever changes a chunk's header, or moves its file, first takes the chunk's
//! [`Turn`]: others who want the same chunk wait, other chunks go on.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, FileId, Serial};
use sarsen_protocol::message::ChunkState;

use super::chunk_file::ChunkFile;
use super::header::Flags;
use super::pending::PendingChunk;
use super::region::Region;

/// Takes a lock, also after a panic elsewhere: what is under our locks is whole between calls.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the inventory tells of one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InventoryEntry {
    /// Its name.
    pub handle: ChunkHandle,
    /// Its version.
    pub version: ChunkVersion,
    /// The last mutation in it.
    pub serial: Serial,
    /// Bytes of data; 0 while it is pending.
    pub length: u32,
    /// CRC of the data; 0 while it is pending.
    pub crc32: u32,
    /// Pending, open or sealed.
    pub state: ChunkState,
    /// Its marks.
    pub flags: Flags,
    /// The file that it was made for.
    pub file_id: FileId,
    /// Its place in that file.
    pub index: u32,
    /// Found sealed by this start, but unsynced or doubtful: it must not be counted before
    /// [`super::Directory::sync_unsynced`] has read it back.
    pub needs_read_back: bool,
    /// Open, with a seal prepared, whose version, serial, length and CRC are told.
    pub is_prepared: bool,
}

impl InventoryEntry {
    /// Whether it does not count as what it says.
    #[must_use]
    pub const fn is_marked(&self) -> bool {
        self.flags.poisoned || self.flags.corrupt
    }
}

/// An entry, and what only the store needs to know.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) entry: InventoryEntry,
    /// What the header says that was promised: of a copy more than its version.
    pub(super) promised_version: ChunkVersion,
    /// The slot that counts is on stable storage.
    pub(super) header_stable: bool,
    /// Sealed before this start, and not read back and synced since.
    pub(super) from_earlier_start: bool,
    /// The file, open since it was written, if it is unsynced.
    pub(super) kept_open: Option<KeptOpen>,
    /// Which of the files that the chunk had in this start: whoever looked at one of them must not
    /// mark the next. The table's to fill in.
    pub(super) incarnation: u32,
}

/// A file that stays open from its writing to its sync.
///
/// If the kernel fails to write pages back, it tells that to the next sync of whoever had the file
/// open then, and may tell nobody else.
#[derive(Clone, Debug)]
pub(super) struct KeptOpen {
    pub(super) region: Arc<dyn Region>,
    /// Its clones count how many files are kept open.
    _token: Arc<()>,
}

impl Held {
    /// What a file's header says of the chunk.
    pub(super) fn of(file: &ChunkFile, from_earlier_start: bool) -> Self {
        let header = &file.header;
        let needs_read_back = header.state == ChunkState::Sealed
            && (file.doubtful || (from_earlier_start && header.flags.unsynced));
        Self {
            entry: InventoryEntry {
                handle: header.handle,
                version: header.version,
                serial: header.serial,
                length: header.length,
                crc32: header.data_crc32,
                state: header.state,
                flags: header.flags,
                file_id: header.file_id,
                index: header.index,
                needs_read_back,
                is_prepared: false,
            },
            promised_version: header.promised_version,
            header_stable: file.header_stable,
            from_earlier_start,
            kept_open: None,
            incarnation: 0,
        }
    }
}

/// All chunks of a directory.
#[derive(Debug)]
pub(super) struct Table {
    chunks: Mutex<Chunks>,
    given_back: Condvar,
    kept_open_token: Arc<()>,
    kept_open_max: usize,
}

#[derive(Debug, Default)]
struct Chunks {
    held: BTreeMap<ChunkHandle, Held>,
    pending: HashMap<ChunkHandle, Arc<PendingChunk>>,
    turns: HashSet<ChunkHandle>,
    /// The last that was given out; those of the start's scan have 0.
    last_incarnation: u32,
}

impl Chunks {
    /// Puts an entry in for a file that came under the chunk's name in this start.
    fn insert_new(&mut self, handle: ChunkHandle, mut held: Held) {
        self.last_incarnation = self.last_incarnation.wrapping_add(1);
        held.incarnation = self.last_incarnation;
        self.held.insert(handle, held);
    }
}

impl Table {
    /// A table of what a start found. About `kept_open_max` unsynced files are kept open.
    pub(super) fn new(held: impl IntoIterator<Item = Held>, kept_open_max: usize) -> Self {
        let held = held
            .into_iter()
            .map(|held| (held.entry.handle, held))
            .collect();
        Self {
            chunks: Mutex::new(Chunks {
                held,
                ..Chunks::default()
            }),
            given_back: Condvar::new(),
            kept_open_token: Arc::new(()),
            kept_open_max,
        }
    }

    /// Keeps a file open, unless too many are.
    pub(super) fn keep_open(&self, region: &Arc<dyn Region>) -> Option<KeptOpen> {
        (Arc::strong_count(&self.kept_open_token) <= self.kept_open_max).then(|| KeptOpen {
            region: Arc::clone(region),
            _token: Arc::clone(&self.kept_open_token),
        })
    }

    /// Waits until nobody else changes the chunk, and keeps others from it until dropped.
    ///
    /// Nobody may take a second turn while holding one.
    pub(super) fn turn(&self, handle: ChunkHandle) -> Turn<'_> {
        let mut chunks = lock(&self.chunks);
        while !chunks.turns.insert(handle) {
            chunks = self
                .given_back
                .wait(chunks)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Turn {
            table: self,
            handle,
        }
    }

    /// Lets go of a chunk that is no longer being written. Without its turn, and so without
    /// waiting: nothing on disk changes, and the entry stays.
    pub(super) fn forget_pending(&self, pending: &Arc<PendingChunk>) {
        let mut chunks = lock(&self.chunks);
        let handle = pending.handle();
        if chunks
            .pending
            .get(&handle)
            .is_some_and(|it| Arc::ptr_eq(it, pending))
        {
            chunks.pending.remove(&handle);
        }
    }

    /// The chunk, as it is now.
    pub(super) fn held(&self, handle: ChunkHandle) -> Option<Held> {
        lock(&self.chunks).held.get(&handle).cloned()
    }

    /// Up to `max` entries that fit, with higher handles than `after`, in order.
    pub(super) fn inventory(
        &self,
        after: Option<ChunkHandle>,
        max: usize,
        fits: impl Fn(ChunkHandle) -> bool,
    ) -> Vec<InventoryEntry> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        lock(&self.chunks)
            .held
            .range((from, Bound::Unbounded))
            .filter(|(handle, _)| fits(**handle))
            .take(max)
            .map(|(_, held)| held.entry.clone())
            .collect()
    }

    /// The handles of the chunks that fit.
    pub(super) fn handles(&self, fits: impl Fn(&InventoryEntry) -> bool) -> Vec<ChunkHandle> {
        let chunks = lock(&self.chunks);
        chunks
            .held
            .values()
            .map(|held| &held.entry)
            .filter(|e| fits(e))
            .map(|e| e.handle)
            .collect()
    }

    /// How many chunks there are.
    pub(super) fn len(&self) -> usize {
        lock(&self.chunks).held.len()
    }

    /// How many chunks there are, and the highest handle and version among them.
    pub(super) fn extent(&self) -> (usize, ChunkHandle, ChunkVersion) {
        let chunks = lock(&self.chunks);
        let handle = chunks
            .held
            .last_key_value()
            .map(|(&handle, _)| handle)
            .unwrap_or_default();
        let versions = chunks.held.values().map(|held| held.entry.version);
        (
            chunks.held.len(),
            handle,
            versions.max().unwrap_or_default(),
        )
    }
}

/// The right to change one chunk's header, place and entry; given back on drop.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    table: &'a Table,
    handle: ChunkHandle,
}

impl Turn<'_> {
    /// Whose turn it is.
    pub(super) fn handle(&self) -> ChunkHandle {
        self.handle
    }

    /// The chunk's entry.
    pub(super) fn held(&self) -> Option<Held> {
        self.table.held(self.handle)
    }

    /// The chunk as it is being written, if this start began it and it was not sealed yet.
    pub(super) fn pending(&self) -> Option<Arc<PendingChunk>> {
        lock(&self.table.chunks).pending.get(&self.handle).cloned()
    }

    /// Puts the chunk's entry in place of the old one: the same file, in another state.
    pub(super) fn put(&mut self, mut held: Held) {
        let mut chunks = lock(&self.table.chunks);
        if let Some(old) = chunks.held.get(&self.handle) {
            held.incarnation = old.incarnation;
        }
        chunks.held.insert(self.handle, held);
    }

    /// Puts the entry of another file in, in place of the old one if there is one.
    pub(super) fn put_new(&mut self, held: Held) {
        lock(&self.table.chunks).insert_new(self.handle, held);
    }

    /// Puts a chunk in that begins to be written.
    pub(super) fn put_pending(&mut self, pending: Arc<PendingChunk>, held: Held) {
        let mut chunks = lock(&self.table.chunks);
        chunks.pending.insert(self.handle, pending);
        chunks.insert_new(self.handle, held);
    }

    /// The chunk is no longer being written.
    pub(super) fn close_pending(&mut self) {
        if let Some(pending) = lock(&self.table.chunks).pending.remove(&self.handle) {
            pending.close();
        }
    }

    /// Takes the chunk out.
    pub(super) fn remove(&mut self) {
        self.close_pending();
        lock(&self.table.chunks).held.remove(&self.handle);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.table.chunks).turns.remove(&self.handle);
        self.table.given_back.notify_all();
    }
}
