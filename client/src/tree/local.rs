//! What a local folder holds, some names at a time.

use std::ffi::OsString;
use std::fs::{self, FileType, ReadDir};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Names read in one go.
const BATCH: usize = 128;

/// What a local path is, without following it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LocalType {
    File,
    Folder,
    /// What else, in words.
    Other(&'static str),
}

impl From<FileType> for LocalType {
    fn from(found: FileType) -> Self {
        if found.is_file() {
            Self::File
        } else if found.is_dir() {
            Self::Folder
        } else if found.is_symlink() {
            Self::Other("a symbolic link")
        } else if found.is_fifo() {
            Self::Other("a named pipe")
        } else if found.is_socket() {
            Self::Other("a socket")
        } else {
            Self::Other("a device")
        }
    }
}

impl LocalType {
    /// In words.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::File => "a file",
            Self::Folder => "a folder",
            Self::Other(words) => words,
        }
    }
}

/// What is at a path, by itself or, if it is a link and `follow` is set, where that leads.
pub(super) async fn look(path: &Path, follow: bool) -> Result<LocalType, Error> {
    let path = path.to_owned();
    let looking = tokio::task::spawn_blocking(move || {
        let found = match follow {
            true => fs::metadata(&path),
            false => fs::symlink_metadata(&path),
        };
        match found {
            Ok(metadata) => Ok(metadata.file_type().into()),
            Err(source) => Err(Error::Local {
                doing: "read",
                path,
                source,
            }),
        }
    });
    looking.await?
}

/// Makes a folder, or finds that there is one; nothing else will do, nor a link to one.
pub(super) async fn make_folder(path: &Path) -> Result<(), Error> {
    let path = path.to_owned();
    let making = tokio::task::spawn_blocking(move || {
        let local = |source| Error::Local {
            doing: "make the folder",
            path: path.clone(),
            source,
        };
        let Err(error) = fs::create_dir(&path) else {
            return Ok(());
        };
        if error.kind() != std::io::ErrorKind::AlreadyExists {
            return Err(local(error));
        }
        let found = fs::symlink_metadata(&path).map_err(local)?.file_type();
        match LocalType::from(found) {
            LocalType::Folder => Ok(()),
            found => Err(Error::InTheWay {
                found: found.words(),
                wanted: "a folder",
                path,
            }),
        }
    });
    making.await?
}

/// One name in a folder.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: OsString,
    pub(super) found: LocalType,
}

/// A folder that is being read.
#[derive(Debug)]
pub(super) struct Listing {
    path: PathBuf,
    /// `None` while a batch is read, and after the last.
    rest: Option<ReadDir>,
}

impl Listing {
    /// Begins to read a folder.
    pub(super) async fn open(path: PathBuf) -> Result<Self, Error> {
        let opening = tokio::task::spawn_blocking(move || match fs::read_dir(&path) {
            Ok(rest) => Ok(Self {
                path,
                rest: Some(rest),
            }),
            Err(source) => Err(unreadable(path, source)),
        });
        opening.await?
    }

    /// Some more names, in no order; none at the end. What can't be read is an error in the place
    /// of its name.
    pub(super) async fn next_batch(&mut self) -> Result<Vec<Result<Entry, Error>>, Error> {
        let Some(mut rest) = self.rest.take() else {
            return Ok(Vec::new());
        };
        let path = self.path.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let mut batch = Vec::new();
            for entry in rest.by_ref().take(BATCH) {
                batch.push(match entry {
                    Ok(entry) => match entry.file_type() {
                        Ok(found) => Ok(Entry {
                            name: entry.file_name(),
                            found: found.into(),
                        }),
                        Err(source) => Err(unreadable(entry.path(), source)),
                    },
                    Err(source) => Err(unreadable(path.clone(), source)),
                });
            }
            let is_last = batch.len() < BATCH;
            (batch, (!is_last).then_some(rest))
        });
        let (batch, rest) = reading.await?;
        self.rest = rest;
        Ok(batch)
    }
}

fn unreadable(path: PathBuf, source: std::io::Error) -> Error {
    Error::Local {
        doing: "read",
        path,
        source,
    }
}
