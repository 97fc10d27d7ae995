//! [`LiveFile`]: a file that others append to while it is read (`spec/replication.md` section 12,
//! `spec/records.md` section 3, "Following").
//!
//! It knows up to where the file's bytes are committed: at first what is newest, later what a member
//! of the last chunk serves. [`LiveFile::advance`] asks again: the member, for one byte behind the
//! end, which tells the chunk's length; and the master now and then, since the chunk may be sealed
//! and another may follow. No newest-read is made for that: it would keep the chunk's lease, and so
//! keep the chunk from being sealed.
//!
//! The last chunk is here the first behind the end that is open, if there is one: somebody may write
//! far behind it, and it gets bytes yet. So nothing is passed by that comes later, but for what is written
//! over bytes, padding and holes that were given out.
//!
//! A file that was cut is no longer this file, and reading it fails, as far as that is seen. It is if the last
//! chunk is gone or another by now, or the slots end before what is known, however long the file has
//! become since. A cut inside the last chunk keeps the chunk: it is seen if the master is asked while
//! the file is sealed and shorter than it was. If it has grown past that before, reading goes on where
//! it was, in what is new.

use std::sync::Arc;
use std::time::Duration;

use sarsen_protocol::id::ChunkHandle;
use sarsen_protocol::message::{ChunkState, LocatedChunk};

use crate::client::Shared;
use crate::core::locations::page_start;
use crate::core::newest::size;
use crate::core::read::PAGE_LEN;
use crate::error::Error;
use crate::open_file::{DIRECT_LEN_MAX, OpenFile};

/// How long a follower waits before it asks again; twice as long each time that nothing was new.
const WAIT_MIN: Duration = Duration::from_millis(10);

/// The longest wait.
const WAIT_MAX: Duration = Duration::from_millis(200);

/// How often a follower asks the master whether other chunks follow.
const ASK_MASTER_AFTER: Duration = Duration::from_secs(1);

/// A file that is open for reading, and may become longer.
#[derive(Debug)]
pub(crate) struct LiveFile {
    file: OpenFile,
    /// Committed bytes.
    end: u64,
    last: Option<Last>,
    /// When the master was asked last.
    asked_at: Duration,
    wait: Duration,
}

/// The last chunk of a file, as far as it is followed by now.
#[derive(Clone, Copy, Debug)]
struct Last {
    index: u32,
    handle: ChunkHandle,
    is_open: bool,
}

impl Last {
    fn of(chunk: &LocatedChunk) -> Self {
        Self {
            index: chunk.index,
            handle: chunk.handle,
            is_open: chunk.state == ChunkState::Open,
        }
    }
}

impl LiveFile {
    /// Opens what is at `path` by now; everything is seen that was acknowledged before.
    pub(crate) async fn open(shared: &Arc<Shared>, path: &str) -> Result<Self, Error> {
        let asked_at = shared.clock.now();
        let (file, last) = OpenFile::open_with_last(shared, path).await?;
        Ok(Self {
            end: file.node().size,
            file,
            last: last.as_ref().map(Last::of),
            asked_at,
            wait: WAIT_MIN,
        })
    }

    /// Bytes of the file that are committed, as far as is known.
    pub(crate) const fn end(&self) -> u64 {
        self.end
    }

    /// Where the last chunk begins, if it is open.
    pub(crate) fn open_from(&self) -> Option<u64> {
        let last = self.last.filter(|last| last.is_open)?;
        Some(self.start_of(last.index))
    }

    /// Reads at most `len` bytes from `at` on; fewer where the file ends, or where one read does.
    pub(crate) async fn read(&self, at: u64, len: u64) -> Result<Vec<u8>, Error> {
        let end = at.saturating_add(len.min(DIRECT_LEN_MAX)).min(self.end);
        let (bytes, _) = self.file.read_part(at.min(end)..end).await?;
        Ok(bytes)
    }

    /// Up to where nothing is stored from `at` on, within the file; `None` where something is, or
    /// may be.
    pub(crate) async fn hole_end(&self, at: u64) -> Result<Option<u64>, Error> {
        let mut to = at;
        while to < self.end {
            let index = self.index_of(to)?;
            let start = self.start_of(index);
            let is_stored = match self.file.chunk_at(index).await? {
                None => false,
                Some(chunk) => {
                    chunk.state == ChunkState::Open || to - start < u64::from(chunk.length)
                }
            };
            if is_stored {
                break;
            }
            to = self.start_of(index.saturating_add(1));
        }
        Ok((to > at).then_some(to.min(self.end)))
    }

    /// Waits a little, and asks up to where the file is committed by now: whether that is further
    /// than before.
    pub(crate) async fn advance(&mut self) -> Result<bool, Error> {
        let clock = self.file.clock();
        clock.wait_until(Some(clock.now() + self.wait)).await;
        let before = (self.end, self.open_from());
        let is_due = clock.now() >= self.asked_at + ASK_MASTER_AFTER;
        let is_sealed = match self.last {
            Some(last) if last.is_open => !self.ask_member(last.index).await?,
            _ => true,
        };
        // The length of a chunk that was sealed just now, and what follows, the master knows.
        if is_due || (is_sealed && before.1.is_some()) {
            self.ask_master().await?;
        }
        let is_further = (self.end, self.open_from()) != before;
        self.wait = match is_further {
            true => WAIT_MIN,
            false => (self.wait * 2).min(WAIT_MAX),
        };
        Ok(is_further)
    }

    /// Asks for one byte behind the end of the last chunk, which is open; false if it is sealed.
    async fn ask_member(&mut self, index: u32) -> Result<bool, Error> {
        let start = self.start_of(index);
        let from = self.end.max(start);
        let slot_end = self.start_of(index.saturating_add(1));
        if from >= slot_end {
            // It is full; that it is sealed, the master will say.
            return Ok(true);
        }
        let (_, served) = self.file.read_part(from..from + 1).await?;
        let Some(served) = served else {
            return Ok(false);
        };
        if served.length > 0 {
            self.end = self.end.max(start + u64::from(served.length));
        }
        Ok(true)
    }

    async fn ask_master(&mut self) -> Result<(), Error> {
        self.asked_at = self.file.clock().now();
        let known = self.last.map_or(0, |last| last.index);
        let mut page = self.file.refresh(known).await?;
        // Only a cut takes a chunk out of its slot, which this page covers: the file was cut, however long
        // it has become since. If the cut was inside the chunk, it is there.
        let is_gone = |last: Last| {
            let mut chunks = page.chunks.iter();
            !chunks.any(|it| it.index == last.index && it.handle == last.handle)
        };
        if self.last.is_some_and(is_gone) {
            return Err(Error::Changed { index: known });
        }
        // What lies before the end is passed by: a chunk that is open there is not waited for.
        let at = self.index_of(self.end)?.max(known);
        let mut first = page_start(known);
        let open = loop {
            let open = |chunk: &&LocatedChunk| chunk.index >= at && chunk.state == ChunkState::Open;
            let found = page.chunks.iter().find(open);
            let last_first = page_start(page.slots.saturating_sub(1));
            if found.is_some() || first >= last_first {
                break found;
            }
            first = page_start(at).max(first + PAGE_LEN).min(last_first);
            page = self.file.refresh(first).await?;
        };
        let last = open.or(page.chunks.last());
        // An open chunk gets bytes yet: what lies behind it is not shown before it is sealed.
        let end = match open {
            Some(chunk) if page.slots > chunk.index.saturating_add(1) => {
                self.start_of(chunk.index) + u64::from(chunk.length)
            }
            _ => size(&page),
        };
        // How long an open chunk is, its members say; all that is known here is that it ends within its
        // slot.
        let end_max = match last.is_some_and(|chunk| chunk.state == ChunkState::Open) {
            true => end.max(self.start_of(page.slots)),
            false => end,
        };
        if end_max < self.end {
            let index = self.index_of(end_max)?;
            return Err(Error::Changed { index });
        }
        self.end = self.end.max(end);
        self.last = last.map(Last::of);
        Ok(())
    }

    fn index_of(&self, at: u64) -> Result<u32, Error> {
        let index = at / u64::from(self.file.chunk_size());
        u32::try_from(index).map_err(|_| Error::TooLarge { bytes: at })
    }

    fn start_of(&self, index: u32) -> u64 {
        u64::from(index) * u64::from(self.file.chunk_size())
    }
}
