//! The seam between the store and the disk: what it needs of a file, and of a folder tree.
//!
//! [`Region`] is a file, [`Tree`] a data directory. [`FileTree`] is the real one; the tests have
//! one on the heap, and one that forgets unsynced writes and fails on purpose. Bulk data doesn't
//! pass here: the data plane takes [`Region::file`] and gives its descriptor to the kernel.
//!
//! Paths are relative to the directory, with `/` between names; the empty path is the directory.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, FallocateFlags, FlockOperation, RenameFlags};
use rustix::io::retry_on_intr;

use super::direct::FileMedium;
use super::error::{Operation, StoreError, is_out_of_descriptors};

/// Pieces that are written with one call: what the kernel takes.
const PIECES_MAX: usize = 1024;

/// A file.
pub trait Region: Send + Sync + fmt::Debug {
    /// Reads until `buf` is full or the file ends; how much was read.
    ///
    /// # Errors
    /// Those of the medium.
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize>;

    /// Writes all of `bytes`, in one call if the kernel takes them so.
    ///
    /// # Errors
    /// Those of the medium; how much was written is then not known.
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()>;

    /// Writes all of `pieces`, one behind the other, in one call if the kernel takes them so.
    ///
    /// # Errors
    /// As [`Self::write_at`].
    fn write_pieces_at(&self, pieces: &[&[u8]], position: u64) -> io::Result<()> {
        self.write_at(&pieces.concat(), position)
    }

    /// Reserves room, zeros where nothing was written, and makes the file at least that long.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] if there is none.
    fn reserve(&self, position: u64, len: u64) -> io::Result<()>;

    /// Cuts the file off, or makes it longer without reserving room.
    ///
    /// # Errors
    /// Those of the medium.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Gives room back that lies within the file: it reads as zeros then, and the file stays as long.
    /// Where that can't be done the room is kept, which is no error.
    ///
    /// # Errors
    /// Those of the medium.
    fn give_back(&self, position: u64, len: u64) -> io::Result<()>;

    /// Bytes in the file.
    ///
    /// # Errors
    /// Those of the medium.
    fn file_len(&self) -> io::Result<u64>;

    /// Makes the content and length stable. Not the file's name: that is its folder's.
    ///
    /// # Errors
    /// What was to become stable is lost, for all that is known.
    fn sync(&self) -> io::Result<()>;

    /// Opens the same file for reads that the page cache has no part in.
    ///
    /// # Errors
    /// Those of the kernel.
    fn medium(&self) -> io::Result<Box<dyn Medium>>;

    /// The descriptor, for bulk data and mappings; `None` if there is no such thing below.
    fn file(&self) -> Option<&Arc<File>>;
}

/// A file's bytes as the medium has them. What was written and not synced is written back first.
pub trait Medium: fmt::Debug {
    /// Reads until `buf` is full or the file ends, from a page's begin on; how much was read.
    ///
    /// # Errors
    /// Those of the medium.
    fn read_at(&mut self, buf: &mut [u8], position: u64) -> io::Result<usize>;
}

/// A data directory's folders and files.
pub trait Tree: Send + Sync + fmt::Debug {
    /// Where it is, for messages.
    fn root(&self) -> &Path;

    /// Makes a file that does not exist.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`], or those of the medium.
    fn create(&self, path: &str) -> io::Result<Arc<dyn Region>>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], or those of the medium.
    fn open(&self, path: &str) -> io::Result<Arc<dyn Region>>;

    /// Renames a file, over another if there is one.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], or those of the medium.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Exchanges the names of two files. No room on the disk is needed.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], [`io::ErrorKind::Unsupported`], or those of the medium.
    fn exchange(&self, one: &str, other: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], or those of the medium.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Makes a folder; that it exists is no error.
    ///
    /// # Errors
    /// Those of the medium.
    fn make_folder(&self, path: &str) -> io::Result<()>;

    /// The names in a folder, in no order. Names that are not UTF-8 come mangled.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], or those of the medium.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;

    /// Makes a folder's names stable.
    ///
    /// # Errors
    /// What was to become stable is lost, for all that is known.
    fn sync_folder(&self, folder: &str) -> io::Result<()>;

    /// Makes everything in the tree stable.
    ///
    /// # Errors
    /// What was to become stable is lost, for all that is known.
    fn sync_all(&self) -> io::Result<()>;

    /// How full the disk is.
    ///
    /// # Errors
    /// Those of the kernel.
    fn space(&self) -> io::Result<Space>;
}

/// How full a disk is, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Of the whole file system.
    pub total: u64,
    /// What an ordinary user may still use.
    pub free: u64,
}

/// A real data directory, locked for as long as this lives.
#[derive(Debug)]
pub struct FileTree {
    root: PathBuf,
    folder: File,
}

impl FileTree {
    /// Makes the directory if it is missing, and locks it.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process has it, or those of the medium.
    pub fn lock(root: &Path) -> Result<Self, StoreError> {
        let io_error = |operation| move |source| StoreError::io(operation, root.to_owned(), source);
        make_root(root).map_err(io_error(Operation::Create))?;
        let folder = File::open(root).map_err(io_error(Operation::Open))?;
        match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                root: root.to_owned(),
                folder,
            }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::InUse {
                path: root.to_owned(),
            }),
            Err(errno) => Err(io_error(Operation::Lock)(errno.into())),
        }
    }

    fn open_with(&self, path: &str, create: bool) -> io::Result<Arc<dyn Region>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(create)
            .mode(0o600)
            .open(self.root.join(path))?;
        Ok(Arc::new(FileRegion {
            file: Arc::new(file),
        }))
    }
}

impl Tree for FileTree {
    fn root(&self) -> &Path {
        &self.root
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn Region>> {
        self.open_with(path, true)
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn Region>> {
        self.open_with(path, false)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.root.join(from), self.root.join(to))
    }

    fn exchange(&self, one: &str, other: &str) -> io::Result<()> {
        use rustix::io::Errno;
        let (one, other) = (self.root.join(one), self.root.join(other));
        match rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
            Err(Errno::INVAL | Errno::NOSYS) => Err(io::ErrorKind::Unsupported.into()),
            exchanged => Ok(exchanged?),
        }
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        std::fs::remove_file(self.root.join(path))
    }

    fn make_folder(&self, path: &str) -> io::Result<()> {
        match std::fs::create_dir(self.root.join(path)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        }
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        std::fs::read_dir(self.root.join(folder))?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        match File::open(self.root.join(folder)) {
            Ok(folder) => folder.sync_all(),
            // Nothing failed on the disk, so this must not count as a failed sync. The descriptor
            // that holds the lock will do, for more than was asked.
            Err(error) if is_out_of_descriptors(&error) => self.sync_all(),
            Err(error) => Err(error),
        }
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.folder)?)
    }

    fn space(&self) -> io::Result<Space> {
        let numbers = rustix::fs::fstatvfs(&self.folder)?;
        Ok(Space {
            total: numbers.f_blocks.saturating_mul(numbers.f_frsize),
            free: numbers.f_bavail.saturating_mul(numbers.f_frsize),
        })
    }
}

/// Makes the folder if it is missing, with those above it, and their names stable.
fn make_root(root: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = root
        .ancestors()
        .take_while(|folder| !folder.exists())
        .collect();
    std::fs::create_dir_all(root)?;
    for made in missing {
        match made.parent() {
            Some(parent) if parent != Path::new("") => File::open(parent)?.sync_all()?,
            Some(_) => File::open(".")?.sync_all()?,
            None => {}
        }
    }
    Ok(())
}

/// A file of a [`FileTree`].
#[derive(Debug)]
struct FileRegion {
    file: Arc<File>,
}

impl Region for FileRegion {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, position + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, position)
    }

    fn write_pieces_at(&self, pieces: &[&[u8]], mut position: u64) -> io::Result<()> {
        for some in pieces.chunks(PIECES_MAX) {
            let slices: Vec<IoSlice<'_>> = some.iter().map(|it| IoSlice::new(it)).collect();
            let mut written = match rustix::io::pwritev(&self.file, &slices, position) {
                Err(rustix::io::Errno::INTR) => 0,
                written => written?,
            };
            for piece in some {
                let done = written.min(piece.len());
                if let Some(rest) = piece.get(done..).filter(|rest| !rest.is_empty()) {
                    self.file.write_all_at(rest, position + done as u64)?;
                }
                written -= done;
                position += piece.len() as u64;
            }
        }
        Ok(())
    }

    fn reserve(&self, position: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::empty();
        // A signal that some other thread might have taken is no failure of the disk.
        let reserve = || rustix::fs::fallocate(&self.file, flags, position, len);
        Ok(retry_on_intr(reserve)?)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn give_back(&self, position: u64, len: u64) -> io::Result<()> {
        use rustix::io::Errno;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match retry_on_intr(|| rustix::fs::fallocate(&self.file, flags, position, len)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            given => Ok(given?),
        }
    }

    fn file_len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn medium(&self) -> io::Result<Box<dyn Medium>> {
        Ok(Box::new(FileMedium::open(&self.file)?))
    }

    fn file(&self) -> Option<&Arc<File>> {
        Some(&self.file)
    }
}
