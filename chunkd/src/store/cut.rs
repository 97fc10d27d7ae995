//! Some bytes of a block, with what it takes to verify them without the others (`spec/wire.md`
//! section 12.2, "Cut reads").
//!
//! The reader wants the CRCs of what lies before and behind its bytes in their block. A sealed
//! chunk's bytes never change, so what was computed of a block once is kept, a page at a time, as
//! long as the chunk is open: from then on no more is read than the payload and the rest of the
//! pages that it begins and ends in. Nothing of that is trusted by anybody: if it is wrong, or the
//! medium has changed, the reader's comparison with the stored CRC fails.
//!
//! Bytes are read by system calls, never through the mapping, where a bad sector is a signal.

use std::io::{self, IoSliceMut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::{Errno, ReadWriteFlags};
use sarsen_protocol::crc::{combine, crc32, extend};
use sarsen_protocol::size::BLOCK_LEN;

use super::pending::data_position;
use super::readable::ReadableChunk;

/// Bytes of a page.
const PAGE_LEN: usize = 4096;

/// Pages of a block.
const PAGES: usize = BLOCK_LEN as usize / PAGE_LEN;

/// Blocks of the process of which CRCs are kept, 128 bytes each: those of 16 GiB.
const KEPT_MAX: usize = 262_144;

/// How many there are.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// The CRCs around some bytes of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Around {
    /// Of the whole block, as stored.
    pub block_crc: u32,
    /// Of what lies before.
    pub before: u32,
    /// Of what lies behind.
    pub behind: u32,
}

/// The CRCs around each page of a block.
#[derive(Clone, Debug)]
struct PageCrcs {
    /// Of the pages before this one.
    before: [u32; PAGES],
    /// Of the pages behind this one.
    behind: [u32; PAGES],
    /// Of all of them.
    whole: u32,
}

impl PageCrcs {
    fn of(block: &[u8]) -> Self {
        let mut all = Self {
            before: [0; PAGES],
            behind: [0; PAGES],
            whole: 0,
        };
        let mut of_page = [(0, 0_u64); PAGES];
        for ((page, before), of_page) in block
            .chunks(PAGE_LEN)
            .zip(&mut all.before)
            .zip(&mut of_page)
        {
            *of_page = (crc32(page), page.len() as u64);
            *before = all.whole;
            all.whole = combine(all.whole, of_page.0, of_page.1);
        }
        let (mut behind, mut len) = (0, 0);
        for (place, (crc, page_len)) in all.behind.iter_mut().zip(of_page).rev() {
            *place = behind;
            behind = combine(crc, behind, len);
            len += page_len;
        }
        all
    }
}

/// What is kept of a chunk's blocks.
#[derive(Debug, Default)]
pub(super) struct KeptCrcs {
    /// Made with the first; one place a block.
    blocks: OnceLock<Box<[OnceLock<Box<PageCrcs>>]>>,
}

impl KeptCrcs {
    fn find(&self, block: usize) -> Option<&PageCrcs> {
        Some(self.blocks.get()?.get(block)?.get()?)
    }

    fn keep(&self, count: usize, block: usize, crcs: &PageCrcs) {
        if KEPT.fetch_add(1, Ordering::Relaxed) >= KEPT_MAX {
            KEPT.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let blocks = self
            .blocks
            .get_or_init(|| (0..count).map(|_| OnceLock::new()).collect());
        let kept = blocks
            .get(block)
            .is_some_and(|place| place.set(Box::new(crcs.clone())).is_ok());
        if !kept {
            // Another thread was faster.
            KEPT.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for KeptCrcs {
    fn drop(&mut self) {
        let blocks = self.blocks.get().into_iter().flatten();
        let kept = blocks.filter(|place| place.get().is_some()).count();
        KEPT.fetch_sub(kept, Ordering::Relaxed);
    }
}

/// Whether to wait for the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Only what is in the page cache, where the file system can tell.
    No,
    /// As long as it takes, blocking.
    Yes,
}

impl ReadableChunk {
    /// Reads `payload` from `offset` on, which is within one block and the chunk, and computes what
    /// verifies it; `None` if the medium would have to be waited for and is not to be.
    ///
    /// `scratch` takes what else has to be read; what it holds before and after is no matter.
    ///
    /// # Errors
    /// Those of the medium; [`io::ErrorKind::InvalidInput`] for a range that is not within one
    /// block and the chunk.
    pub fn read_cut(
        &self,
        offset: u32,
        payload: &mut [u8],
        scratch: &mut Vec<u8>,
        wait: Wait,
    ) -> io::Result<Option<Around>> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let block = (offset / BLOCK_LEN) as usize;
        let block_start = offset - offset % BLOCK_LEN;
        let left = self.length.checked_sub(block_start).ok_or_else(invalid)?;
        let block_len = left.min(BLOCK_LEN) as usize;
        let &block_crc = self.block_crcs.get(block).ok_or_else(invalid)?;
        let from = (offset - block_start) as usize;
        let to = from + payload.len();
        if payload.is_empty() || to > block_len {
            return Err(invalid());
        }
        let (first, last) = (from / PAGE_LEN, (to - 1) / PAGE_LEN);
        let (pages_from, pages_to) = (first * PAGE_LEN, ((last + 1) * PAGE_LEN).min(block_len));
        scratch.resize(BLOCK_LEN as usize, 0);
        let crcs;
        let (crcs, lead, trail) = if let Some(crcs) = self.kept_crcs.find(block) {
            let (lead, rest) = scratch.split_at_mut(from - pages_from);
            let (trail, _) = rest.split_at_mut(pages_to - to);
            let start = block_start + u32::try_from(pages_from).map_err(|_| invalid())?;
            if !self.read_parts(start, [&mut *lead, payload, &mut *trail], wait)? {
                return Ok(None);
            }
            (crcs, &*lead, &*trail)
        } else {
            let (bytes, _) = scratch.split_at_mut(block_len);
            if !self.read_parts(block_start, [&mut *bytes, &mut [], &mut []], wait)? {
                return Ok(None);
            }
            crcs = PageCrcs::of(bytes);
            // Of a block that is damaged nothing is kept: it may be mended.
            if crcs.whole == block_crc {
                self.kept_crcs.keep(self.block_crcs.len(), block, &crcs);
            }
            let wanted = bytes.get(from..to).unwrap_or_default();
            payload.copy_from_slice(wanted);
            let part = |range| {
                bytes
                    .get::<std::ops::Range<usize>>(range)
                    .unwrap_or_default()
            };
            (&crcs, part(pages_from..from), part(to..pages_to))
        };
        let before = crcs.before.get(first).copied().unwrap_or_default();
        let behind = crcs.behind.get(last).copied().unwrap_or_default();
        Ok(Some(Around {
            block_crc,
            before: extend(before, lead),
            behind: combine(crc32(trail), behind, (block_len - pages_to) as u64),
        }))
    }

    /// Fills the parts, one behind the other, from `offset` on; false if that would have to wait.
    fn read_parts(&self, offset: u32, parts: [&mut [u8]; 3], wait: Wait) -> io::Result<bool> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if let (Wait::No, Some(file)) = (wait, self.file()) {
            let mut parts = parts.map(IoSliceMut::new);
            let position = data_position(offset);
            let mut read = |flags| rustix::io::preadv2(file, &mut parts, position, flags);
            // Where the file system can't tell, it has no medium (tmpfs), or it has to be tried.
            let read = match read(ReadWriteFlags::NOWAIT) {
                Err(Errno::OPNOTSUPP) => read(ReadWriteFlags::empty()),
                told => told,
            };
            return match read {
                Ok(read) => Ok(read == len),
                Err(Errno::AGAIN) => Ok(false),
                Err(error) => Err(error.into()),
            };
        }
        let mut at = data_position(offset);
        for part in parts {
            if self.read_region(part, at)? < part.len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            at += part.len() as u64;
        }
        Ok(true)
    }
}
