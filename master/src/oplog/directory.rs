//! A master's `--dir`: its lock, and the real [`Folder`] (`spec/oplog.md` section 1).
//!
//! The log holds the ticket key, with which whoever has it can write to every chunk. So its files are
//! for their owner alone, also those that were made otherwise before.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::error::OplogError;
use super::folder::{File, Folder};
use super::names::{LOCK, Listing, is_of_a_log};

/// The mode of every file.
const FILE_MODE: u32 = 0o600;

/// The mode of a directory that is made.
const DIRECTORY_MODE: u32 = 0o700;

/// What others than its owner may do with a file.
const OTHERS: u32 = 0o077;

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
    /// Takes `path` into use, making it if it isn't there. The log's files that others may read are
    /// taken from them; a file of which that fails is told.
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
            .mode(FILE_MODE)
            .open(path.join(LOCK))
            .map_err(unusable)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                close_to_others(path).map_err(unusable)?;
                Ok(Self {
                    path: path.to_owned(),
                    handle,
                    _lock: lock,
                })
            }
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
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(path)?;
    for folder in missing {
        let parent = folder
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

/// Takes from others what they may do with the log's files.
fn close_to_others(path: &Path) -> io::Result<()> {
    for name in names(path)?.iter().filter(|name| is_of_a_log(name)) {
        let file = path.join(name);
        let closed = fs::metadata(&file).and_then(|metadata| {
            let mode = metadata.permissions().mode();
            match mode & OTHERS {
                0 => Ok(()),
                _ => fs::set_permissions(&file, fs::Permissions::from_mode(mode & !OTHERS)),
            }
        });
        if let Err(error) = closed {
            tracing::warn!(
                file = %file.display(), %error,
                "other users may read this file, and with it the key that signs tickets: take it \
                 from them with `chmod 600`"
            );
        }
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
        options.mode(FILE_MODE);
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

    /// The log and its checkpoints, which hold the ticket key, could be read by every user of the
    /// machine.
    #[test]
    fn the_log_is_for_its_owner_alone() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("dir");
        let mode = |name: &str| {
            let metadata = fs::metadata(path.join(name)).unwrap();
            metadata.permissions().mode() & 0o777
        };
        let directory = Directory::open(&path).unwrap();
        directory.create("oplog-0000000000000001.log").unwrap();
        assert_eq!((mode("."), mode(LOCK)), (0o700, 0o600));
        assert_eq!(mode("oplog-0000000000000001.log"), 0o600);
        drop(directory);

        // As they were made before, beside something that is nobody's business here.
        let made = [
            LOCK,
            "oplog-0000000000000001.log",
            "checkpoint-0000000000000007.ckpt",
            "checkpoint-0000000000000009.ckpt.damaged",
            "checkpoint-000000000000000b.ckpt.tmp",
            "notes.txt",
        ];
        for name in made {
            fs::write(path.join(name), "").unwrap();
            fs::set_permissions(path.join(name), fs::Permissions::from_mode(0o644)).unwrap();
        }
        let _directory = Directory::open(&path).unwrap();
        let modes = made.map(mode);
        assert_eq!(modes, [0o600, 0o600, 0o600, 0o600, 0o600, 0o644]);
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
