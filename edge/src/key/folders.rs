//! Where a master on loopback leaves its key for programs of the same user.
//!
//! Two folders may hold it: `$XDG_RUNTIME_DIR/sarsen`, where that variable names a folder that
//! belongs to this user, and `sarsen-<uid>` in the system's folder for temporary files. A master
//! writes into the first that it can use; the others look into both, since a service and a shell
//! of one user may differ in having the variable. The variable is passed over when the folder is
//! somebody else's, as after `sudo`: root would otherwise write into it.
//!
//! A key is named after the control address, as `127.0.0.1:7400.key`.
//!
//! The folder must be a folder (not a symbolic link), ours, and closed to others, or no key in it
//! is used: in a shared folder for temporary files anybody could have made it, to have us write
//! our key there or take theirs. Nobody can exchange it after the check, since such folders are
//! sticky and it is ours.

use std::env;
use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use sarsen_protocol::key::SecretKey;

use super::{KeyError, load, write_beside};

/// What makes a folder unfit for keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FolderFault {
    /// It is a symbolic link, or no folder at all.
    NotAFolder,
    /// It belongs to another user.
    NotOurs,
    /// Users other than its owner may enter it.
    OpenToOthers,
}

impl fmt::Display for FolderFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAFolder => "is a symbolic link or not a folder",
            Self::NotOurs => "belongs to another user",
            Self::OpenToOthers => "is open to other users",
        })
    }
}

/// The folders in which this user's masters leave their keys.
#[derive(Clone, Debug)]
pub struct KeyFolders {
    uid: u32,
    /// The better one, where the session has it.
    runtime: Option<PathBuf>,
    temporary: PathBuf,
}

impl KeyFolders {
    /// Those of the user who runs this process, by its environment.
    #[must_use]
    pub fn of_this_user() -> Self {
        let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        Self::new(
            rustix::process::geteuid().as_raw(),
            runtime.as_deref(),
            &env::temp_dir(),
        )
    }

    fn new(uid: u32, runtime: Option<&Path>, temporary: &Path) -> Self {
        let is_ours = |folder: &&Path| {
            folder.is_absolute()
                && fs::metadata(folder).is_ok_and(|it| it.is_dir() && it.uid() == uid)
        };
        let runtime = runtime.filter(is_ours).map(|folder| folder.join("sarsen"));
        Self {
            uid,
            runtime,
            temporary: temporary.join(format!("sarsen-{uid}")),
        }
    }

    /// Leaves `key` for the cluster whose master listens at `control`, in place of what a master
    /// before it left there. It stays until the returned guard is dropped.
    ///
    /// # Errors
    ///
    /// [`KeyError::FolderUntrusted`], [`KeyError::FolderUnusable`], [`KeyError::Unwritable`]:
    /// those of the folder for temporary files, when the other could not be used either.
    pub fn publish(&self, control: SocketAddr, key: &SecretKey) -> Result<PublishedKey, KeyError> {
        if let Some(runtime) = &self.runtime
            && let Ok(published) = self.publish_in(runtime, control, key)
        {
            return Ok(published);
        }
        self.publish_in(&self.temporary, control, key)
    }

    fn publish_in(
        &self,
        folder: &Path,
        control: SocketAddr,
        key: &SecretKey,
    ) -> Result<PublishedKey, KeyError> {
        let unusable = |source| KeyError::FolderUnusable {
            path: folder.to_owned(),
            source,
        };
        if let Err(error) = DirBuilder::new().mode(0o700).create(folder)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(unusable(error));
        }
        self.trust(folder)?;
        let path = folder.join(file_name(control));
        let unwritable = |source| KeyError::Unwritable {
            path: path.clone(),
            source,
        };
        let (file, _) = write_beside(&path, key)?;
        let file = file
            .persist(&path)
            .map_err(|error| unwritable(error.error))?;
        let metadata = file.metadata().map_err(unwritable)?;
        Ok(PublishedKey {
            path,
            identity: (metadata.dev(), metadata.ino()),
        })
    }

    /// The key that a master at `control` left, if it left one.
    ///
    /// # Errors
    ///
    /// [`KeyError::FolderUntrusted`], [`KeyError::FolderUnusable`], and those of [`load`].
    pub fn find(&self, control: SocketAddr) -> Result<Option<SecretKey>, KeyError> {
        for folder in self.runtime.iter().chain([&self.temporary]) {
            if !self.trust(folder)? {
                continue;
            }
            match load(&folder.join(file_name(control))) {
                Err(KeyError::Missing { .. }) => {}
                loaded => return loaded.map(Some),
            }
        }
        Ok(None)
    }

    /// Whether `folder` exists; an error when it does and can't be trusted.
    fn trust(&self, folder: &Path) -> Result<bool, KeyError> {
        let metadata = match fs::symlink_metadata(folder) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => {
                return Err(KeyError::FolderUnusable {
                    path: folder.to_owned(),
                    source,
                });
            }
        };
        let fault = if !metadata.is_dir() {
            FolderFault::NotAFolder
        } else if metadata.uid() != self.uid {
            FolderFault::NotOurs
        } else if metadata.mode() & 0o077 != 0 {
            FolderFault::OpenToOthers
        } else {
            return Ok(true);
        };
        Err(KeyError::FolderUntrusted {
            path: folder.to_owned(),
            fault,
        })
    }
}

fn file_name(control: SocketAddr) -> String {
    format!(
        "{}.key",
        SocketAddr::new(control.ip().to_canonical(), control.port())
    )
}

/// A key that lies in a folder of [`KeyFolders`] until this is dropped.
///
/// A master that served drops it before it closes its control port, so that it never takes away the key of
/// a master that follows it at the same address; that the file is still ours is looked at too.
/// A killed master leaves its key behind, and the next one at that address replaces it.
#[derive(Debug)]
pub struct PublishedKey {
    path: PathBuf,
    /// Device and inode of the file that we wrote.
    identity: (u64, u64),
}

impl PublishedKey {
    /// The file that holds the key.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PublishedKey {
    fn drop(&mut self) {
        let current = fs::symlink_metadata(&self.path).map(|it| (it.dev(), it.ino()));
        if current.is_ok_and(|identity| identity == self.identity) {
            // What can't be removed is replaced by the next master at this address.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests;
