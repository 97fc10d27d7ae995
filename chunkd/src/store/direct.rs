//! Reading a file past the page cache (`spec/chunk-file.md` section 10.6).
//!
//! To have the kernel drop its cached pages and then read as usual is not enough: pages that
//! anybody has mapped stay, and those of every chunk that readers have open are mapped. So the same
//! file is opened a second time with `O_DIRECT`. Whoever has the first opening, or a mapping of it,
//! does not notice.
//!
//! A file system that refuses `O_DIRECT` leaves only the first way. Of those that keep data in
//! memory alone, as tmpfs does, nothing else can be asked.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::sync::Arc;

use memmap2::MmapMut;
use rustix::fs::{Advice, OFlags};
use rustix::io::Errno;

use super::layout::PAGE_LEN;
use super::region::Medium;

/// Bytes that one read takes at most.
const READ_LEN_MAX: usize = 1024 * 1024;

/// A second opening of a file, for reads only.
#[derive(Debug)]
pub(super) struct FileMedium {
    file: Arc<File>,
    /// `None` once the file system refused it.
    direct: Option<File>,
    /// Where direct reads go to: they need memory that begins at a page.
    pages: MmapMut,
}

impl FileMedium {
    /// Opens the file a second time: the file itself, whatever its name is by now.
    ///
    /// # Errors
    /// Those of the kernel. That there is no `/proc` is one: nothing is called read back then.
    pub(super) fn open(file: &Arc<File>) -> io::Result<Self> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = OFlags::DIRECT.bits().cast_signed();
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let direct = match opened {
            Err(error) if is_refused(&error) => None,
            opened => Some(opened?),
        };
        let medium = Self {
            file: Arc::clone(file),
            direct,
            pages: MmapMut::map_anon(READ_LEN_MAX)?,
        };
        if medium.direct.is_none() {
            medium.drop_cached()?;
        }
        Ok(medium)
    }

    fn drop_cached(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed)?)
    }

    /// One read of up to `wanted` bytes into the pages.
    fn read_pages(&mut self, wanted: usize, position: u64) -> io::Result<&[u8]> {
        let (pages, _) = self.pages.split_at_mut(wanted);
        let read = match &self.direct {
            Some(direct) => direct.read_at(pages, position),
            None => self.file.read_at(pages, position),
        };
        match read {
            Ok(read) => Ok(self.pages.split_at(read).0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.read_pages(wanted, position)
            }
            // Some take the flag and then want another alignment than ours.
            Err(error) if is_refused(&error) && self.direct.take().is_some() => {
                self.drop_cached()?;
                self.read_pages(wanted, position)
            }
            Err(error) => Err(error),
        }
    }
}

impl Medium for FileMedium {
    fn read_at(&mut self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let whole_pages = rest.len().next_multiple_of(PAGE_LEN as usize);
            let wanted = whole_pages.min(READ_LEN_MAX);
            let read = self.read_pages(wanted, position + done as u64)?;
            let taken = read.len().min(rest.len());
            rest.split_at_mut(taken)
                .0
                .copy_from_slice(read.split_at(taken).0);
            done += taken;
            // Only the file's end leaves a part of a page.
            if taken == 0 || !read.len().is_multiple_of(PAGE_LEN as usize) {
                break;
            }
        }
        Ok(done)
    }
}

fn is_refused(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::INVAL | Errno::OPNOTSUPP)
    )
}
