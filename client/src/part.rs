//! A file on its way to its name.
//!
//! It is written beside its target as `.NAME.sarsen-part` and takes the target's name when it is
//! complete, verified and synced; what ends before that removes it, unless it is to be gone on
//! with. Two downloads never write the same part: it is locked.
//!
//! Behind its bytes lies the record of [`crate::core::resume`] until the end. What a process leaves
//! that is killed has it too. Of what the record says only that counts whose bytes are still here
//! and have its CRC.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use sarsen_protocol::crc::{crc32, extend};
use sarsen_protocol::message::LocatedChunk;

use crate::core::read::Kept;
use crate::core::resume::Pin;
use crate::error::Error;
use crate::local_write::Writes;
use crate::sink::{Mark, Outlet};
use crate::source::NOT_FOLLOWED;

/// How the names end of files that are not whole.
const PART_SUFFIX: &str = ".sarsen-part";

/// Bytes of a name in a local file system.
const LOCAL_NAME_LEN_MAX: usize = 255;

/// Bytes that are read at once where those of an earlier download are looked at.
const LOOK_LEN: usize = 1024 * 1024;

/// Its owner may read and write a file: while it is written, be it for a later try.
const OWNER: u32 = 0o600;

/// A download that another can go on with.
#[derive(Clone, Debug)]
pub(crate) struct Resumable {
    pub(crate) pin: Arc<Pin>,
    /// Goes on with what an earlier one left, and leaves what it has when it fails itself.
    pub(crate) resume: bool,
}

/// What an earlier download left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing, or nothing was asked for.
    #[default]
    Nothing,
    /// The beginnings of chunks.
    Some(BTreeMap<u32, Kept>),
    /// Bytes of another file, or of the same in another state.
    Other,
}

/// A file on its way to its name. Dropped before [`PartFile::finish`], it is removed, unless it is
/// to be gone on with.
#[derive(Debug)]
pub(crate) struct PartFile {
    file: Arc<File>,
    writes: Writes,
    are_local: bool,
    part: PathBuf,
    target: PathBuf,
    len: u64,
    resumable: Option<Resumable>,
    stays: bool,
    /// Who may read and write the file whose place it takes.
    replaced_mode: Option<u32>,
}

impl PartFile {
    /// Makes the file that will be `target`, or finds what is left of it.
    pub(crate) fn create(
        target: PathBuf,
        len: u64,
        resumable: Option<Resumable>,
        writes: Writes,
    ) -> Result<(Self, Found), Error> {
        let part = target.with_file_name(part_name(&target));
        let local = |source| Error::Local {
            doing: "write",
            path: part.clone(),
            source,
        };
        let file = loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .custom_flags(NOT_FOLLOWED)
                .open(&part)
                .map_err(local)?;
            if !file.metadata().map_err(local)?.is_file() {
                return Err(Error::InTheWay {
                    found: "no file",
                    wanted: "a file",
                    path: part,
                });
            }
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                return Err(Error::TargetBusy { path: target });
            }
            // Who had the lock before may have given the file its name, or removed it.
            let ours = file.metadata().map_err(local)?;
            let there = fs::metadata(&part);
            if there.is_ok_and(|it| (it.dev(), it.ino()) == (ours.dev(), ours.ino())) {
                break file;
            }
        };
        // From before its first byte on it is readable by no more people than what it replaces.
        let replaced_mode = mode_of(&target);
        if let Some(mode) = replaced_mode {
            set_mode(&file, mode | OWNER);
        }
        let part_file = Self {
            are_local: Writes::are_local(&file),
            file: Arc::new(file),
            writes,
            part: part.clone(),
            target,
            len,
            stays: resumable.as_ref().is_some_and(|it| it.resume),
            resumable,
            replaced_mode,
        };
        let found = part_file.begin().map_err(local)?;
        Ok((part_file, found))
    }

    /// Looks at what is there, and makes the file as long as it has to be.
    fn begin(&self) -> io::Result<Found> {
        let mut found = Found::Nothing;
        if let Some(Resumable { pin, resume: true }) = &self.resumable
            && self.file.metadata()?.len() > 0
        {
            match self.kept(pin)? {
                Some(kept) => return Ok(Found::Some(kept)),
                None => found = Found::Other,
            }
        }
        // Holes need no writing: what was there before is cut off, and the rest reads as zeros.
        self.file.set_len(0)?;
        self.file.set_len(self.len)?;
        if let Some(Resumable { pin, .. }) = &self.resumable {
            self.file.write_all_at(&pin.encode(), pin.position())?;
        }
        Ok(found)
    }

    /// What is there of the file in this very state; `None` if it is of another.
    fn kept(&self, pin: &Pin) -> io::Result<Option<BTreeMap<u32, Kept>>> {
        if self.file.metadata()?.len() != pin.position() + pin.record_len() as u64 {
            return Ok(None);
        }
        let mut record = vec![0; pin.record_len()];
        self.file.read_exact_at(&mut record, pin.position())?;
        let Some(marks) = pin.decode(&record) else {
            return Ok(None);
        };
        let mut kept = BTreeMap::new();
        for (index, verified) in marks {
            let start = u64::from(index) * u64::from(pin.chunk_size);
            let chunk = pin.chunks.get(index as usize);
            if let Some(&(handle, version)) = chunk
                && crc_of(&self.file, start, verified.reached.into())? == verified.crc32
            {
                let chunk = Kept {
                    handle,
                    version,
                    verified,
                };
                kept.insert(index, chunk);
            }
        }
        Ok(Some(kept))
    }

    /// Where the bytes of chunk `index` go, in a file that takes those of the cluster's file from
    /// `range_start` on.
    pub(crate) fn outlet(
        &self,
        index: u32,
        chunk_start: u64,
        range_start: u64,
        chunk: Option<&LocatedChunk>,
    ) -> Outlet {
        let mark = self.resumable.as_ref().zip(chunk);
        Outlet::Placed {
            file: self.file.clone(),
            writes: self.writes.clone(),
            are_local: self.are_local,
            part: self.part.as_path().into(),
            chunk_start,
            range_start,
            mark: mark.map(|(resumable, chunk)| Mark {
                position: resumable.pin.mark_position(index),
                handle: chunk.handle,
                version: chunk.version,
            }),
        }
    }

    /// What is here is not what it was to be: nothing goes on with it.
    pub(crate) const fn discard(&mut self) {
        self.stays = false;
    }

    /// Gives the file its name, durably.
    pub(crate) async fn finish(mut self) -> Result<(), Error> {
        let finished = tokio::task::spawn_blocking(move || {
            let done = self.sync_and_rename();
            done.map_err(|source| Error::Local {
                doing: "write",
                path: self.target.clone(),
                source,
            })
        });
        finished.await?
    }

    fn sync_and_rename(&mut self) -> io::Result<()> {
        if self.resumable.is_some() {
            self.file.set_len(self.len)?;
        }
        if let Some(mode) = self.replaced_mode {
            set_mode(&self.file, mode);
        }
        self.file.sync_all()?;
        fs::rename(&self.part, &self.target)?;
        // What has its old name from now on is another one's.
        self.stays = true;
        sync_folder_of(&self.target)
    }
}

/// Who may read and write a file, if there is one.
fn mode_of(path: &Path) -> Option<u32> {
    let metadata = fs::metadata(path).ok().filter(Metadata::is_file)?;
    Some(metadata.permissions().mode() & 0o777)
}

/// Not everywhere has a file such a mode.
fn set_mode(file: &File, mode: u32) {
    let _ = file.set_permissions(Permissions::from_mode(mode));
}

/// Makes durable what a file is called.
fn sync_folder_of(target: &Path) -> io::Result<()> {
    let folder = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.stays {
            // Its folder may be gone.
            let _ = fs::remove_file(&self.part);
        }
    }
}

/// Whether the target is there already, durably, as a file of this length and CRC: an earlier
/// download of many brought it whole. Not if one of it alone was begun since.
pub(crate) fn is_there(target: &Path, len: u64, crc32: u32) -> io::Result<bool> {
    // Looked at before it is opened: to open a pipe may wait for ever.
    if !fs::metadata(target)?.is_file() || target.with_file_name(part_name(target)).exists() {
        return Ok(false);
    }
    let file = File::open(target)?;
    let is_same = file.metadata()?.len() == len && crc_of(&file, 0, len)? == crc32;
    if is_same {
        file.sync_all()?;
        sync_folder_of(target)?;
    }
    Ok(is_same)
}

fn crc_of(file: &File, start: u64, len: u64) -> io::Result<u32> {
    let mut crc = 0;
    let mut buffer = vec![0; LOOK_LEN];
    let (mut at, end) = (start, start + len);
    while at < end {
        let left = usize::try_from(end - at).map_or(LOOK_LEN, |left| left.min(LOOK_LEN));
        let bytes = buffer.get_mut(..left).unwrap_or_default();
        file.read_exact_at(bytes, at)?;
        crc = extend(crc, bytes);
        at += left as u64;
    }
    Ok(crc)
}

/// Whether a file of this name would be taken for one that is on its way.
pub(crate) fn is_part_name(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(PART_SUFFIX)
}

/// `.NAME.sarsen-part`; of a name that would become too long its beginning, and its CRC in place
/// of the rest.
fn part_name(target: &Path) -> PathBuf {
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    let name = target.file_name().unwrap_or_default().as_bytes();
    let mut part = b".".to_vec();
    let suffix = PART_SUFFIX.as_bytes();
    if 1 + name.len() + suffix.len() <= LOCAL_NAME_LEN_MAX {
        part.extend_from_slice(name);
    } else {
        let crc = format!("~{:08x}", crc32(name));
        let kept = LOCAL_NAME_LEN_MAX - 1 - crc.len() - suffix.len();
        part.extend_from_slice(name.get(..kept).unwrap_or(name));
        part.extend_from_slice(crc.as_bytes());
    }
    part.extend_from_slice(suffix);
    std::ffi::OsString::from_vec(part).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Buffers;
    use crate::clock::Clock;
    use crate::core::read_stream::Verified;
    use crate::core::resume::encode_mark;
    use sarsen_protocol::id::{ChunkHandle, ChunkVersion, FileId};

    fn writes() -> Writes {
        Writes::new(Clock::start())
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// A file that only its owner could read was readable by all when it had been downloaded again.
    #[tokio::test]
    async fn what_takes_a_files_place_is_readable_by_no_more_people() {
        for mode in [0o600, 0o444, 0o755] {
            let folder = tempfile::tempdir().unwrap();
            let target = folder.path().join("film");
            fs::write(&target, b"old").unwrap();
            fs::set_permissions(&target, Permissions::from_mode(mode)).unwrap();
            let (part, _) = PartFile::create(target.clone(), 0, None, writes()).unwrap();
            let while_written = mode_of(&folder.path().join(".film.sarsen-part"));
            assert_eq!(while_written, Some(mode | OWNER));
            part.finish().await.unwrap();
            assert_eq!(mode_of(&target), Some(mode));
            assert_eq!(fs::read(&target).unwrap(), b"");
        }
    }

    #[tokio::test]
    async fn a_file_appears_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("film");
        let (part, _) = PartFile::create(target.clone(), 10, None, writes()).unwrap();
        assert_eq!(names(folder.path()), [".film.sarsen-part"]);
        let mut bytes = Buffers::default().take();
        bytes.room()[..3].copy_from_slice(b"end");
        bytes.set_used(0..3);
        let outlet = part.outlet(0, 0, 100, None);
        outlet.give(107, bytes, Verified::default()).await.unwrap();
        part.finish().await.unwrap();
        assert_eq!(names(folder.path()), ["film"]);
        assert_eq!(fs::read(&target).unwrap(), b"\0\0\0\0\0\0\0end");
    }

    #[test]
    fn what_is_not_finished_leaves_nothing_and_two_do_not_meet() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("film");
        fs::write(&target, "old").unwrap();
        // Left by a process that was killed.
        fs::write(folder.path().join(".film.sarsen-part"), "a longer rest").unwrap();
        let (part, _) = PartFile::create(target.clone(), 3, None, writes()).unwrap();
        let second = PartFile::create(target.clone(), 3, None, writes());
        assert!(matches!(second, Err(Error::TargetBusy { .. })));
        assert_eq!(part.file.metadata().unwrap().len(), 3);
        drop(part);
        assert_eq!(names(folder.path()), ["film"]);
        assert_eq!(fs::read(&target).unwrap(), b"old");
    }

    #[test]
    fn the_longest_names_have_a_part_too() {
        let part = |name: &str| part_name(&Path::new("/d").join(name));
        assert_eq!(part("a b"), Path::new(".a b.sarsen-part"));
        let first = part(&format!("{}a", "n".repeat(254)));
        let second = part(&format!("{}b", "n".repeat(254)));
        assert_eq!(first.as_os_str().len(), 255);
        assert_ne!(first, second);
        assert!(is_part_name(first.to_str().unwrap()));
    }

    const CHUNK: u64 = 1 << 20;

    fn pin(file_id: u64) -> Arc<Pin> {
        Arc::new(Pin {
            file_id: FileId(file_id),
            size: 2 * CHUNK + 5,
            chunk_size: 1 << 20,
            chunks: (1..4)
                .map(|it| (ChunkHandle(it), ChunkVersion(1)))
                .collect(),
        })
    }

    fn begin(target: &Path, pin: &Arc<Pin>) -> (PartFile, Found) {
        let resumable = Resumable {
            pin: pin.clone(),
            resume: true,
        };
        PartFile::create(target.to_owned(), pin.size, Some(resumable), writes()).unwrap()
    }

    /// Only what has the CRC of its mark counts, and only of the file in the same state.
    #[tokio::test]
    async fn what_is_left_counts_if_it_is_whole_and_of_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("film");
        let pin = pin(7);
        let (part, found) = begin(&target, &pin);
        assert_eq!(found, Found::Nothing);
        let bytes = vec![7; 65_536];
        let verified = Verified {
            reached: 65_536,
            crc32: crc32(&bytes),
        };
        for index in [0, 1] {
            let (handle, version) = pin.chunks[index as usize];
            let at = u64::from(index) * CHUNK;
            part.file.write_all_at(&bytes, at).unwrap();
            let mark = encode_mark(handle, version, verified);
            part.file
                .write_all_at(&mark, pin.mark_position(index))
                .unwrap();
        }
        // A bit of the second chunk is lost.
        part.file.write_all_at(&[6], CHUNK + 99).unwrap();
        drop(part);
        assert_eq!(names(folder.path()), [".film.sarsen-part"], "it stays");

        let (part, found) = begin(&target, &pin);
        let kept = Kept {
            handle: ChunkHandle(1),
            version: ChunkVersion(1),
            verified,
        };
        assert_eq!(found, Found::Some(BTreeMap::from([(0, kept)])));
        drop(part);

        let (part, found) = begin(&target, &self::pin(8));
        assert_eq!(found, Found::Other);
        let mut start = [1; 9];
        part.file.read_exact_at(&mut start, 0).unwrap();
        assert_eq!(start, [0; 9], "nothing of the other is left");
        part.finish().await.unwrap();
        assert_eq!(fs::metadata(&target).unwrap().len(), pin.size);
        assert_eq!(names(folder.path()), ["film"]);
    }
}
