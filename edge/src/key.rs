//! The cluster's secret key: its file, and where a cluster on loopback leaves it.
//!
//! Every hello proves the key (`spec/wire.md`, the handshake); this module only brings it from
//! disk to memory. A key file is 32 random bytes as 64 lower-case hex digits and a newline, with
//! mode 0600. A file that others than its owner can read is refused, since its key may be known.
//!
//! Invariants: a key file appears under its name whole or not at all, and is never overwritten
//! by [`generate`]; a crash leaves at most a temporary file beside it.
//!
//! - Given by hand: `sarsen keygen FILE` calls [`generate`], `--key-file FILE` calls [`load`].
//! - On loopback: the master calls [`load_or_generate`] in its directory and then
//!   [`KeyFolders::publish`]; `chunkd` and `sarsen` of the same user call [`obtain`].

mod folders;

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use sarsen_protocol::key::SecretKey;
use thiserror::Error;

use crate::exit::{Exit, Explain};

pub use folders::{FolderFault, KeyFolders, PublishedKey};

/// Bytes of a cluster key.
const KEY_LEN: usize = 32;

/// Bytes of a key file: two hex digits a byte, and a newline.
const FILE_LEN: usize = 2 * KEY_LEN + 1;

/// The name of the key file in a master's directory.
pub const FILE_NAME: &str = "cluster.key";

/// Why there is no key.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// No key file has this name.
    #[error("there is no key file {}", path.display())]
    Missing {
        /// The name.
        path: PathBuf,
    },
    /// The key file can't be opened or read.
    #[error("the key file {} can't be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Users other than the owner can read or change the key file.
    #[error("the key file {} is open to other users (mode {mode:04o})", path.display())]
    OpenToOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds something else than a key.
    #[error("{} is not a key file: 64 hex digits and a newline are wanted", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// A key file would have been overwritten.
    #[error("{} exists already and is not overwritten", path.display())]
    AlreadyExists {
        /// The file.
        path: PathBuf,
    },
    /// The key file can't be written.
    #[error("the key file {} can't be written", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder in which keys are left can't be trusted.
    #[error("the folder {} {fault}, so no key in it is used", path.display())]
    FolderUntrusted {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        fault: FolderFault,
    },
    /// The folder in which keys are left can't be made or looked at.
    #[error("the folder {} can't be used", path.display())]
    FolderUnusable {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No key was given, and no master of this user left one for this address.
    #[error("no key was found for the cluster at {}", shown(masters))]
    NotFound {
        /// The control addresses of its masters.
        masters: Vec<SocketAddr>,
    },
}

fn shown(addresses: &[SocketAddr]) -> String {
    addresses
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

impl Explain for KeyError {
    fn exit(&self) -> Exit {
        match self {
            Self::Missing { .. } | Self::OpenToOthers { .. } | Self::Malformed { .. } => {
                Exit::Usage
            }
            Self::AlreadyExists { .. } => Exit::AlreadyExists,
            Self::Unreadable { source, .. }
            | Self::Unwritable { source, .. }
            | Self::FolderUnusable { source, .. } => Exit::of_io(source),
            Self::FolderUntrusted { .. } => Exit::Failed,
            Self::NotFound { .. } => Exit::Unavailable,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { path } => Some(format!(
                "copy the cluster's key there, or make one with `sarsen keygen {}`",
                path.display()
            )),
            Self::Malformed { .. } => Some(
                "copy the cluster's key again, or make a new one with `sarsen keygen FILE`"
                    .to_owned(),
            ),
            Self::OpenToOthers { path, .. } => Some(format!(
                "take it from the others with `chmod 600 {}`",
                path.display()
            )),
            Self::AlreadyExists { .. } => {
                Some("give another name, or remove the file if no cluster uses its key".to_owned())
            }
            Self::FolderUntrusted { .. } | Self::FolderUnusable { .. } => Some(
                "remove it, or point XDG_RUNTIME_DIR at a folder of your own, \
                 or use --key-file FILE"
                    .to_owned(),
            ),
            Self::NotFound { .. } => Some(
                "is the master up? Only a master on loopback, run by this user on this machine, \
                 leaves its key; for any other use --key-file FILE"
                    .to_owned(),
            ),
            Self::Unreadable { .. } | Self::Unwritable { .. } => None,
        }
    }
}

/// Makes a new key and its file, which must not exist. The file is durable on return.
///
/// # Errors
///
/// [`KeyError::AlreadyExists`] when the name is taken, [`KeyError::Unwritable`].
pub fn generate(path: &Path) -> Result<SecretKey, KeyError> {
    let key = SecretKey::new(crate::random());
    let (file, folder) = write_beside(path, &key)?;
    file.persist_noclobber(path)
        .map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => KeyError::AlreadyExists {
                path: path.to_owned(),
            },
            _ => KeyError::Unwritable {
                path: path.to_owned(),
                source: error.error,
            },
        })?;
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|source| KeyError::Unwritable {
        path: path.to_owned(),
        source,
    })?;
    Ok(key)
}

/// The key in the file `path`.
///
/// # Errors
///
/// [`KeyError::Missing`], [`KeyError::Unreadable`], [`KeyError::OpenToOthers`],
/// [`KeyError::Malformed`].
pub fn load(path: &Path) -> Result<SecretKey, KeyError> {
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => KeyError::Missing {
            path: path.to_owned(),
        },
        _ => KeyError::Unreadable {
            path: path.to_owned(),
            source,
        },
    };
    // Without blocking, since opening a pipe by mistake would wait for its writer for ever.
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nonblock)
        .open(path)
        .map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(KeyError::Malformed {
            path: path.to_owned(),
        });
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::OpenToOthers {
            path: path.to_owned(),
            mode,
        });
    }
    // One byte more than a key file has, so that a longer file is seen to be longer.
    let mut text = Vec::with_capacity(FILE_LEN + 1);
    file.take(FILE_LEN as u64 + 1)
        .read_to_end(&mut text)
        .map_err(unreadable)?;
    parse(&text).ok_or_else(|| KeyError::Malformed {
        path: path.to_owned(),
    })
}

/// The key in the file `path`, made when there is no such file.
///
/// For a directory that its owner has locked: two callers at once would both generate.
///
/// # Errors
///
/// As [`load`] and [`generate`].
pub fn load_or_generate(path: &Path) -> Result<SecretKey, KeyError> {
    match load(path) {
        Err(KeyError::Missing { .. }) => generate(path),
        loaded => loaded,
    }
}

/// The key for the cluster whose masters are at `masters`: from `key_file` where one was given,
/// else what one of them left on this machine for this user.
///
/// # Errors
///
/// As [`load`]; [`KeyError::NotFound`] when nothing was left, which may be so only because the
/// master is still starting.
pub fn obtain(key_file: Option<&Path>, masters: &[SocketAddr]) -> Result<SecretKey, KeyError> {
    if let Some(path) = key_file {
        return load(path);
    }
    let folders = KeyFolders::of_this_user();
    for &master in masters {
        if let Some(key) = folders.find(master)? {
            return Ok(key);
        }
    }
    Err(KeyError::NotFound {
        masters: masters.to_owned(),
    })
}

/// Reads a key file's content; `None` for anything but a key.
fn parse(text: &[u8]) -> Option<SecretKey> {
    let (digits, b"\n") = text.split_at_checked(2 * KEY_LEN)? else {
        return None;
    };
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; KEY_LEN];
    for (byte, &[high, low]) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(SecretKey::new(bytes))
}

/// A key file's content.
fn text_of(key: &SecretKey) -> String {
    let mut text = String::with_capacity(FILE_LEN);
    for byte in key.bytes() {
        text.push_str(&format!("{byte:02x}"));
    }
    text.push('\n');
    text
}

/// Writes and syncs `key` into a temporary file in the folder where `path` is to appear.
fn write_beside<'a>(
    path: &'a Path,
    key: &SecretKey,
) -> Result<(tempfile::NamedTempFile, &'a Path), KeyError> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let write = || -> io::Result<tempfile::NamedTempFile> {
        // Only the owner may read the file, whatever the umask: tempfile makes it so.
        let mut file = tempfile::Builder::new()
            .prefix(".cluster-key-")
            // The next start of a master that is killed here removes it (`spec/oplog.md` section 1).
            .suffix(".tmp")
            .tempfile_in(folder)?;
        file.write_all(text_of(key).as_bytes())?;
        file.as_file().sync_all()?;
        Ok(file)
    };
    let file = write().map_err(|source| KeyError::Unwritable {
        path: path.to_owned(),
        source,
    })?;
    Ok((file, folder))
}

#[cfg(test)]
mod tests;
