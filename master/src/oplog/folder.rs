//! The seam between the log and a file system.
//!
//! [`Folder`] and [`File`] are what the log asks of the medium, no more: whole-file names, writes at
//! offsets, syncs. [`Directory`](super::directory::Directory) is the real one; the crash tests put
//! one in memory in its place that loses what was not synced.
//!
//! A write is in place for readers at once, on stable storage only after [`File::sync`]; a name
//! that was made, changed or removed only after [`Folder::sync`].

use std::io;

use super::error::OplogError;

/// A flat set of named files.
pub trait Folder: Send + Sync {
    /// All names, in any order.
    ///
    /// # Errors
    /// What the system said.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Makes an empty file, in place of one of the same name.
    ///
    /// # Errors
    /// What the system said.
    fn create(&self, name: &str) -> io::Result<Box<dyn File>>;

    /// Opens a file that is there.
    ///
    /// # Errors
    /// What the system said.
    fn open(&self, name: &str) -> io::Result<Box<dyn File>>;

    /// Gives a file another name, in place of a file that had it.
    ///
    /// # Errors
    /// What the system said.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name.
    ///
    /// # Errors
    /// What the system said.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Brings names to stable storage.
    ///
    /// # Errors
    /// What the system said; the state of the names is not known then.
    fn sync(&self) -> io::Result<()>;
}

/// An open file.
pub trait File: Send {
    /// Length in bytes.
    ///
    /// # Errors
    /// What the system said.
    fn size(&self) -> io::Result<u64>;

    /// Reads exactly `buffer.len()` bytes at `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before, or what the system said.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`; the file grows as needed.
    ///
    /// # Errors
    /// What the system said; some of the bytes may be written then.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts the file off at `len`, or lengthens it with zeros.
    ///
    /// # Errors
    /// What the system said.
    fn set_len(&mut self, len: u64) -> io::Result<()>;

    /// Brings bytes and length to stable storage.
    ///
    /// # Errors
    /// What the system said; what was not synced before must be taken as lost then.
    fn sync(&mut self) -> io::Result<()>;
}

/// Reads a whole file of at most `len_max` bytes; a longer one is read up to there.
pub(super) fn read_whole(
    folder: &dyn Folder,
    name: &str,
    len_max: usize,
) -> Result<Vec<u8>, OplogError> {
    let file = folder.open(name).map_err(OplogError::io("opening", name))?;
    let len = file
        .size()
        .map_err(OplogError::io("asking the length", name))?;
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(len_max);
    let mut bytes = vec![0; len];
    file.read_at(0, &mut bytes)
        .map_err(OplogError::io("reading", name))?;
    Ok(bytes)
}

/// Gives a file that was written and synced under a temporary name its own name, durably.
pub(super) fn settle(folder: &dyn Folder, temporary: &str, name: &str) -> Result<(), OplogError> {
    folder
        .rename(temporary, name)
        .map_err(OplogError::io("renaming", temporary))?;
    folder
        .sync()
        .map_err(OplogError::io("syncing the directory for", name))
}
