//! Where files lie while something is measured, and what is in them.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::{statfs, statvfs, syncfs};
use tempfile::TempDir;

use crate::measure::MIB;

/// Names the folder on the disk, where none is given otherwise.
pub const DISK_VARIABLE: &str = "SARSEN_BENCH_DIR";

/// `f_type` of a tmpfs, from statfs(2).
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// A folder on tmpfs with `room` bytes; where there is none, the system's folder for temporary
/// files, which [`describe`] then tells of.
///
/// # Errors
/// When no folder can be made.
pub fn in_memory(room: u64) -> anyhow::Result<TempDir> {
    let shm = Path::new("/dev/shm");
    let fits = statvfs(shm).is_ok_and(|it| it.f_bavail * it.f_frsize > room);
    let made = match fits {
        true => tempfile::Builder::new()
            .prefix("sarsen-bench-")
            .tempdir_in(shm),
        false => tempfile::Builder::new().prefix("sarsen-bench-").tempdir(),
    };
    made.context("making a folder in memory")
}

/// A folder on the disk: in the one that is given, else that [`DISK_VARIABLE`] names, else in
/// `default`.
///
/// # Errors
/// When it can't be made.
pub fn on_disk(given: Option<&Path>, default: &Path) -> anyhow::Result<TempDir> {
    let named = || std::env::var_os(DISK_VARIABLE).map(PathBuf::from);
    let parent = given.map(Path::to_owned).or_else(named);
    let parent = parent.unwrap_or_else(|| default.to_owned());
    fs::create_dir_all(&parent).with_context(|| format!("making {}", parent.display()))?;
    let made = tempfile::Builder::new()
        .prefix("sarsen-bench-")
        .tempdir_in(&parent);
    made.with_context(|| format!("making a folder in {}", parent.display()))
}

/// What kind of place a folder is.
#[must_use]
pub fn describe(folder: &Path) -> String {
    let parent = folder.parent().unwrap_or(folder).display();
    match statfs(folder) {
        Ok(it) if u64::try_from(it.f_type) == Ok(TMPFS_MAGIC) => format!("tmpfs ({parent})"),
        Ok(_) => format!("a disk ({parent})"),
        Err(_) => format!("{parent}"),
    }
}

/// Has the file system of a folder do what it still owes: what was written, and freed, before is no
/// part of what is measured next.
///
/// # Errors
/// Those of the file system.
pub fn settle(folder: &Path) -> anyhow::Result<()> {
    let opened = File::open(folder)?;
    syncfs(opened).with_context(|| format!("syncing the file system of {}", folder.display()))
}

/// Makes a file of `len` bytes that don't compress.
///
/// # Errors
/// Those of the file system.
pub fn make_file(path: &Path, len: u64) -> anyhow::Result<()> {
    let mut file = File::create(path).with_context(|| format!("making {}", path.display()))?;
    let mut part = vec![0; usize::try_from(MIB)?];
    let mut state = 1;
    let mut left = len;
    while left > 0 {
        let now = left.min(MIB);
        fill(&mut part, &mut state);
        file.write_all(part.get(..usize::try_from(now)?).unwrap_or_default())?;
        left -= now;
    }
    Ok(())
}

/// Fills `bytes` with the next of a sequence that `state` stands in.
pub fn fill(bytes: &mut [u8], state: &mut u64) {
    for eight in bytes.chunks_mut(8) {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let drawn = state.to_le_bytes();
        eight.copy_from_slice(drawn.get(..eight.len()).unwrap_or_default());
    }
}

/// Writes `len` bytes to `folder` and removes them, so that a virtual machine has the memory that
/// it only promised to have. Less where there is no room.
///
/// # Errors
/// Those of the file system.
pub fn touch_memory(folder: &Path, len: u64) -> anyhow::Result<()> {
    let space = statvfs(folder)?;
    let free = space.f_bavail * space.f_frsize;
    let path = folder.join("touch");
    make_file(&path, len.min(free / 2))?;
    fs::remove_file(&path)?;
    Ok(())
}
