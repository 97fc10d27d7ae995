//! A sealed chunk's data, mapped read-only.
//!
//! The mapping is for handing pages to system calls: [`Mapping::view`] gives a pointer and a
//! length, never a `&[u8]`. Two reasons: the kernel may change the pages below us if the medium
//! or another process does, and a plain load from a page whose sector is bad is a SIGBUS that
//! kills the process, where a system call answers EFAULT. Our own code reads chunk bytes by
//! `pread` ([`super::readable::ReadableChunk::read_at`]).
//!
//! Invariants: the file was at least as long as the mapping when it was made, and files of sealed
//! chunks are never cut off, so no page of it lies behind the file's end.

use std::fs::File;
use std::io;

use memmap2::{Advice, MmapOptions, MmapRaw};

use super::layout::DATA_POSITION;

/// The data of a sealed chunk.
#[derive(Debug)]
pub struct Mapping {
    pages: MmapRaw,
}

/// Some bytes of a [`Mapping`], valid for as long as the mapping lives.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    start: *const u8,
    len: usize,
    mapping: std::marker::PhantomData<&'a Mapping>,
}

impl Mapping {
    /// Maps the `length` bytes of data of a chunk's file; at least one, since none can't be mapped.
    ///
    /// The caller has checked that the file is long enough.
    ///
    /// # Errors
    /// Those of the kernel: too many mappings, no memory.
    pub(super) fn new(file: &File, length: u32) -> io::Result<Self> {
        let pages = MmapOptions::new()
            .offset(DATA_POSITION)
            .len(length as usize)
            .map_raw_read_only(file)?;
        Ok(Self { pages })
    }

    /// The bytes at `offset`; `None` if they are not all within the chunk.
    #[must_use]
    pub fn view(&self, offset: u32, len: u32) -> Option<View<'_>> {
        let end = u64::from(offset) + u64::from(len);
        (end <= self.pages.len() as u64).then(|| View {
            start: self.pages.as_ptr().wrapping_add(offset as usize),
            len: len as usize,
            mapping: std::marker::PhantomData,
        })
    }

    /// Reads the pages of a range into memory, blocking, without looking at them.
    ///
    /// # Errors
    /// What the medium said, where a load from the page would have been a signal.
    pub(super) fn bring_in(&self, offset: u32, len: u32) -> io::Result<()> {
        match self
            .pages
            .advise_range(Advice::PopulateRead, offset as usize, len as usize)
        {
            // A kernel that can't is left to bring the pages in one by one.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            result => result,
        }
    }
}

impl View<'_> {
    /// Where the bytes begin, to be handed to a system call and not to be read through.
    #[must_use]
    pub const fn as_ptr(self) -> *const u8 {
        self.start
    }

    /// How many there are.
    #[must_use]
    pub const fn len(self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }
}
