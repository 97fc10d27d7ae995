//! A master's `--dir`: its lock, and the real [`Folder`].

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::error::OplogError;
use super::folder::{File, Folder};
use super::names::{LOCK, Listing};

/// A directory that this process holds the lock of, until it is dropped.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// The directory itself, for syncing names.
    handle: fs::File,
    /// Holds the lock for as long as it is open.
    _lock: fs::File,
}

impl Directory {
    /// Takes `path` into use, making it if it isn't there.
    ///
    /// # Errors
    /// [`OplogError::Foreign`] if it holds something else (nothing is written then),
    /// [`OplogError::Locked`], [`OplogError::Unusable`], [`OplogError::NoSpace`].
    pub fn open(path: &Path) -> Result<Self, OplogError> {
        let unusable = |source: io::Error| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => OplogError::NoSpace {
                name: path.display().to_string(),
                operation: "taking the directory into use",
            },
            _ => OplogError::Unusable {
                path: path.to_owned(),
                source,
            },
        };
        create_durably(path).map_err(unusable)?;
        Listing::of(names(path).map_err(unusable)?).refuse_foreign()?;
        let handle = fs::File::open(path).map_err(unusable)?;
        let lock = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join(LOCK))
            .map_err(unusable)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                handle,
                _lock: lock,
            }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(OplogError::Locked {
                path: path.to_owned(),
            }),
            Err(errno) => Err(unusable(errno.into())),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes `path` and what is missing above it, and syncs the folders that hold the new names.
fn create_durably(path: &Path) -> io::Result<()> {
    let missing: Vec<_> = path
        .ancestors()
        .take_while(|folder| !folder.exists())
        .collect();
    fs::create_dir_all(path)?;
    for folder in missing {
        let parent = folder
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

fn names(path: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(path)?
        .map(|item| Ok(item?.file_name().to_string_lossy().into_owned()))
        .collect()
}

impl Folder for Directory {
    fn names(&self) -> io::Result<Vec<String>> {
        names(&self.path)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        Ok(Box::new(options.open(self.path.join(name))?))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true);
        Ok(Box::new(options.open(self.path.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        self.handle.sync_all()
    }
}

impl File for fs::File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        fs::File::set_len(self, len)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_master_on_a_directory_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("made/on/the/way");
        let first = Directory::open(&path).unwrap();
        assert!(matches!(
            Directory::open(&path),
            Err(OplogError::Locked { .. })
        ));
        drop(first);
        assert!(Directory::open(&path).is_ok());
    }

    #[test]
    fn a_foreign_directory_is_refused_and_left_alone() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("IDENTITY"), "a chunkserver's").unwrap();
        let error = Directory::open(place.path()).unwrap_err();
        assert!(
            matches!(&error, OplogError::Foreign { name } if name == "IDENTITY"),
            "{error}"
        );
        assert_eq!(names(place.path()).unwrap(), ["IDENTITY"]);
    }

    #[test]
    fn a_file_in_its_place_is_a_clear_error() {
        let place = tempfile::NamedTempFile::new().unwrap();
        let error = Directory::open(place.path()).unwrap_err();
        assert!(matches!(error, OplogError::Unusable { .. }), "{error}");
    }
}
