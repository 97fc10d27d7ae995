//! What the log knows of chunks (`spec/oplog-entries.md` section 3.3).
//!
//! For each handle that a file names: what it was sealed as, who may mutate it if it is open, how
//! often it is named. Where its replicas lie is not logged: chunkservers report it
//! ([`chunkservers`](super::chunkservers)). A chunk that nothing names any more leaves the table;
//! what is stored of it then is garbage.

use std::collections::BTreeMap;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, FileId, Serial};

use super::command::chunks::Configuration;
use super::command::{LossCause, PublishedChunk};

/// Possible losses kept beside one chunk, at most.
pub const LOSSES_MAX: usize = 1024;

/// The state that a chunk was last sealed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sealed {
    /// The version that sealed it.
    pub version: ChunkVersion,
    /// Its bytes.
    pub len: u32,
    /// Their CRC.
    pub crc: u32,
}

/// Acknowledged bytes may be gone: what was kept, and when that was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The last version that may have acknowledged what is gone.
    pub version: ChunkVersion,
    /// What was kept; serials above it may be gone.
    pub serial: Serial,
    /// Why.
    pub cause: LossCause,
    /// When.
    pub time_ms: u64,
}

/// What the log knows of one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkRecord {
    /// Slots of files, in the namespace and the trash, that name it.
    pub references: u32,
    /// The file that it was made for, or that opened it last.
    pub file: FileId,
    /// Its slot there.
    pub index: u32,
    /// Copies wanted.
    pub replicas: u8,
    /// What it was last sealed as.
    pub sealed: Option<Sealed>,
    /// Who may mutate it, if it is open.
    pub active: Option<Configuration>,
    /// Marks of what may be gone, oldest first.
    pub losses: Vec<Loss>,
}

impl ChunkRecord {
    /// What it is sealed as, if it isn't open.
    #[must_use]
    pub fn at_rest(&self) -> Option<Sealed> {
        self.sealed.filter(|_| self.active.is_none())
    }

    /// The highest version that the log knows of it.
    #[must_use]
    pub fn version(&self) -> ChunkVersion {
        let sealed = self
            .sealed
            .map_or(ChunkVersion::NONE, |sealed| sealed.version);
        self.active
            .as_ref()
            .map_or(sealed, |active| active.version.max(sealed))
    }
}

/// All chunks that are named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChunkTable {
    records: BTreeMap<ChunkHandle, ChunkRecord>,
}

impl ChunkTable {
    /// What is known of a chunk.
    #[must_use]
    pub fn record(&self, handle: ChunkHandle) -> Option<&ChunkRecord> {
        self.records.get(&handle)
    }

    /// All chunks, by handle.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (ChunkHandle, &ChunkRecord)> {
        self.records
            .iter()
            .map(|(&handle, record)| (handle, record))
    }

    /// The chunks with handles above `handle`.
    pub fn iter_after(
        &self,
        handle: ChunkHandle,
    ) -> impl Iterator<Item = (ChunkHandle, &ChunkRecord)> {
        let above = (
            std::ops::Bound::Excluded(handle),
            std::ops::Bound::Unbounded,
        );
        self.records
            .range(above)
            .map(|(&handle, record)| (handle, record))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Takes a row of a checkpoint; `false` if the handle is there already.
    pub(super) fn restore(&mut self, handle: ChunkHandle, record: ChunkRecord) -> bool {
        self.records.insert(handle, record).is_none()
    }

    /// A published chunk enters with its first reference.
    pub(super) fn publish(&mut self, chunk: &PublishedChunk, file: FileId, replicas: u8) {
        let sealed = Sealed {
            version: chunk.version,
            len: chunk.len,
            crc: chunk.crc,
        };
        let record = ChunkRecord {
            references: 1,
            file,
            index: chunk.index,
            replicas,
            sealed: Some(sealed),
            active: None,
            losses: Vec::new(),
        };
        self.records.insert(chunk.handle, record);
    }

    /// A chunk enters that nobody has written yet, with its first reference.
    pub(super) fn begin(&mut self, handle: ChunkHandle, file: FileId, index: u32, replicas: u8) {
        let record = ChunkRecord {
            references: 1,
            file,
            index,
            replicas,
            sealed: None,
            active: None,
            losses: Vec::new(),
        };
        self.records.insert(handle, record);
    }

    /// The record of a chunk, to change it; its references are changed by the other methods only.
    pub(super) fn record_mut(&mut self, handle: ChunkHandle) -> Option<&mut ChunkRecord> {
        self.records.get_mut(&handle)
    }

    /// A slot no longer names the chunk: whether it was the last and the chunk is gone.
    pub(super) fn release(&mut self, handle: ChunkHandle) -> bool {
        let Some(record) = self.records.get_mut(&handle) else {
            return false;
        };
        record.references = record.references.saturating_sub(1);
        let gone = record.references == 0;
        if gone {
            self.records.remove(&handle);
        }
        gone
    }
}
