//! Where the bytes of a download go.
//!
//! A file is written beside its target as `.NAME.sarsen-part`, at any place in any order, and
//! takes the target's name when it is complete, verified and synced; what ends before that
//! removes it. Two downloads never write the same part: it is locked. What can't be written at
//! any place, as a pipe or a device, is written directly and in order.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use sarsen_protocol::crc::crc32;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use crate::buffer::{BUFFER_LEN, Buffer, Buffers};
use crate::error::Error;
use crate::source::NOT_FOLLOWED;
use crate::tree::LocalType;

/// Payloads of one chunk that may wait for those before them.
const ORDERED_AHEAD: usize = 4;

/// How the names end of files that are not whole.
const PART_SUFFIX: &str = ".sarsen-part";

/// Bytes of a name in a local file system.
const LOCAL_NAME_LEN_MAX: usize = 255;

/// Where a download goes.
#[non_exhaustive]
pub enum GetTarget<'a> {
    /// A file, which appears when it is whole; or a device or pipe by its name, which is written
    /// directly.
    Path(PathBuf),
    /// A file, which appears when it is whole. Only a file is replaced: anything else at its path
    /// is in the way, a symbolic link too.
    Regular(PathBuf),
    /// An open pipe or device, written in order.
    File(File),
    /// Anything else, written in order.
    Writer(&'a mut (dyn AsyncWrite + Send + Unpin)),
}

impl std::fmt::Debug for GetTarget<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Self::Regular(path) => f.debug_tuple("Regular").field(path).finish(),
            Self::File(file) => f.debug_tuple("File").field(file).finish(),
            Self::Writer(_) => f.write_str("Writer"),
        }
    }
}

/// A target after it was opened.
pub(crate) enum Opened<'a> {
    Part(PartFile),
    InOrder(Output<'a>),
}

/// Opens a target for `len` bytes.
pub(crate) async fn open(target: GetTarget<'_>, len: u64) -> Result<Opened<'_>, Error> {
    let (path, only_file) = match target {
        GetTarget::Path(path) => (path, false),
        GetTarget::Regular(path) => (path, true),
        GetTarget::File(file) => return Ok(Opened::InOrder(Output::File(Arc::new(file)))),
        GetTarget::Writer(writer) => return Ok(Opened::InOrder(Output::Writer(writer))),
    };
    let opening = tokio::task::spawn_blocking(move || match only_file {
        true => open_regular(&path, len),
        false => open_path(&path, len),
    });
    opening.await?.map(Into::into)
}

/// What a path turned out to be.
enum OpenedPath {
    Part(PartFile),
    Device(File),
}

impl From<OpenedPath> for Opened<'_> {
    fn from(opened: OpenedPath) -> Self {
        match opened {
            OpenedPath::Part(part) => Self::Part(part),
            OpenedPath::Device(file) => Self::InOrder(Output::File(Arc::new(file))),
        }
    }
}

fn open_path(path: &Path, len: u64) -> Result<OpenedPath, Error> {
    let local = |source| Error::Local {
        doing: "write",
        path: path.to_owned(),
        source,
    };
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            let path = path.to_owned();
            Err(Error::LocalFolder { path })
        }
        Ok(metadata) if !metadata.is_file() => {
            let file = OpenOptions::new().write(true).open(path).map_err(local)?;
            Ok(OpenedPath::Device(file))
        }
        Ok(_) => {
            // Through a symbolic link, so that the link stays and its file is replaced.
            let real = fs::canonicalize(path).map_err(local)?;
            PartFile::create(real, len).map(OpenedPath::Part)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            PartFile::create(path.to_owned(), len).map(OpenedPath::Part)
        }
        Err(error) => Err(local(error)),
    }
}

fn open_regular(path: &Path, len: u64) -> Result<OpenedPath, Error> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_file() => Err(Error::InTheWay {
            found: LocalType::from(metadata.file_type()).words(),
            wanted: "a file",
            path: path.to_owned(),
        }),
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Local {
            doing: "write",
            path: path.to_owned(),
            source,
        }),
        _ => PartFile::create(path.to_owned(), len).map(OpenedPath::Part),
    }
}

/// A file on its way to its name. Dropped before [`PartFile::finish`], it is removed.
#[derive(Debug)]
pub(crate) struct PartFile {
    file: Arc<File>,
    part: PathBuf,
    target: PathBuf,
    finished: bool,
}

impl PartFile {
    fn create(target: PathBuf, len: u64) -> Result<Self, Error> {
        let part = target.with_file_name(part_name(&target));
        let local = |source| Error::Local {
            doing: "write",
            path: part.clone(),
            source,
        };
        let file = loop {
            let file = OpenOptions::new()
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
        let part_file = Self {
            file: Arc::new(file),
            part: part.clone(),
            target,
            finished: false,
        };
        // Holes need no writing: what was there before is cut off, and the rest reads as zeros.
        let sized = part_file.file.set_len(0);
        sized
            .and_then(|()| part_file.file.set_len(len))
            .map_err(local)?;
        Ok(part_file)
    }

    /// Gives the file its name, durably.
    pub(crate) async fn finish(mut self) -> Result<(), Error> {
        let finished = tokio::task::spawn_blocking(move || {
            let done = self.sync_and_rename();
            self.finished = done.is_ok();
            done.map_err(|source| Error::Local {
                doing: "write",
                path: self.target.clone(),
                source,
            })
        });
        finished.await?
    }

    fn sync_and_rename(&self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.part, &self.target)?;
        let folder = match self.target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(folder)?.sync_all()
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.finished {
            // It may have its new name already, or its folder may be gone.
            let _ = fs::remove_file(&self.part);
        }
    }
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

/// Where one chunk's bytes go.
#[derive(Clone, Debug)]
pub(crate) enum Outlet {
    /// At their place in a file.
    Placed {
        file: Arc<File>,
        part: Arc<Path>,
        /// Where the chunk begins in the cluster's file.
        chunk_start: u64,
        /// Which byte of that is the first of the local file.
        range_start: u64,
    },
    /// Behind those that were given before.
    InOrder(mpsc::Sender<Item>),
}

/// What is written in order.
#[derive(Debug)]
pub(crate) enum Item {
    Bytes(Buffer),
    Zeros(u64),
}

impl Outlet {
    /// Takes verified bytes that lie at `offset` in the chunk.
    pub(crate) async fn give(&self, offset: u64, bytes: Buffer) -> Result<(), Error> {
        match self {
            Self::Placed {
                file,
                part,
                chunk_start,
                range_start,
            } => {
                let at = (chunk_start + offset).saturating_sub(*range_start);
                let (file, part) = (file.clone(), part.clone());
                let written = tokio::task::spawn_blocking(move || {
                    file.write_all_at(&bytes, at)
                        .map_err(|source| Error::Local {
                            doing: "write",
                            path: part.to_path_buf(),
                            source,
                        })
                });
                written.await?
            }
            Self::InOrder(items) => send(items, Item::Bytes(bytes)).await,
        }
    }

    /// Takes zeros, which a file has without writing them.
    pub(crate) async fn give_zeros(&self, len: u64) -> Result<(), Error> {
        match self {
            Self::InOrder(items) if len > 0 => send(items, Item::Zeros(len)).await,
            _ => Ok(()),
        }
    }
}

/// Hands an item to the writer. One that has gone has failed, and says so itself.
async fn send(items: &mpsc::Sender<Item>, item: Item) -> Result<(), Error> {
    let gone = |_| Error::Sink {
        source: io::ErrorKind::BrokenPipe.into(),
    };
    items.send(item).await.map_err(gone)
}

/// A channel for the items of one chunk.
pub(crate) fn ordered_outlet() -> (Outlet, mpsc::Receiver<Item>) {
    let (items, receiver) = mpsc::channel(ORDERED_AHEAD);
    (Outlet::InOrder(items), receiver)
}

impl PartFile {
    /// Where the bytes of a chunk go that begins at `chunk_start`, when the local file takes
    /// those from `range_start` on.
    pub(crate) fn outlet(&self, chunk_start: u64, range_start: u64) -> Outlet {
        Outlet::Placed {
            file: self.file.clone(),
            part: self.part.as_path().into(),
            chunk_start,
            range_start,
        }
    }
}

/// Something that is written from its start to its end.
pub(crate) enum Output<'a> {
    File(Arc<File>),
    Writer(&'a mut (dyn AsyncWrite + Send + Unpin)),
}

impl Output<'_> {
    /// Writes the chunks in the order in which they were queued, each to its end.
    pub(crate) async fn write(
        mut self,
        mut queue: mpsc::UnboundedReceiver<mpsc::Receiver<Item>>,
        buffers: &Buffers,
    ) -> Result<(), Error> {
        while let Some(mut items) = queue.recv().await {
            while let Some(item) = items.recv().await {
                match item {
                    Item::Bytes(bytes) => self.write_bytes(bytes).await?,
                    Item::Zeros(len) => self.write_zeros(len, buffers).await?,
                }
            }
        }
        match self {
            Self::File(_) => Ok(()),
            Self::Writer(writer) => writer.flush().await.map_err(sink_error),
        }
    }

    async fn write_bytes(&mut self, bytes: Buffer) -> Result<(), Error> {
        match self {
            Self::File(file) => {
                let file = file.clone();
                let written = tokio::task::spawn_blocking(move || (&*file).write_all(&bytes));
                written.await?.map_err(sink_error)
            }
            Self::Writer(writer) => writer.write_all(&bytes).await.map_err(sink_error),
        }
    }

    async fn write_zeros(&mut self, len: u64, buffers: &Buffers) -> Result<(), Error> {
        let mut left = len;
        while left > 0 {
            let now = usize::try_from(left).map_or(BUFFER_LEN, |left| left.min(BUFFER_LEN));
            let mut zeros = buffers.take();
            zeros.room().fill(0);
            zeros.set_used(0..now);
            self.write_bytes(zeros).await?;
            left -= now as u64;
        }
        Ok(())
    }
}

fn sink_error(source: io::Error) -> Error {
    Error::Sink { source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    async fn part_of(path: &Path, len: u64) -> PartFile {
        match open(GetTarget::Path(path.to_owned()), len).await.unwrap() {
            Opened::Part(part) => part,
            Opened::InOrder(_) => panic!("no file"),
        }
    }

    #[tokio::test]
    async fn a_file_appears_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("film");
        let part = part_of(&target, 10).await;
        assert_eq!(names(folder.path()), [".film.sarsen-part"]);
        let mut bytes = Buffers::default().take();
        bytes.room()[..3].copy_from_slice(b"end");
        bytes.set_used(0..3);
        part.outlet(0, 100).give(107, bytes).await.unwrap();
        part.finish().await.unwrap();
        assert_eq!(names(folder.path()), ["film"]);
        assert_eq!(fs::read(&target).unwrap(), b"\0\0\0\0\0\0\0end");
    }

    #[tokio::test]
    async fn what_is_not_finished_leaves_nothing_and_two_do_not_meet() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("film");
        fs::write(&target, "old").unwrap();
        // Left by a process that was killed.
        fs::write(folder.path().join(".film.sarsen-part"), "a longer rest").unwrap();
        let part = part_of(&target, 3).await;
        let second = open(GetTarget::Path(target.clone()), 3).await;
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
    }

    #[tokio::test]
    async fn a_device_is_written_directly() {
        let opened = open(GetTarget::Path("/dev/null".into()), 3).await.unwrap();
        assert!(matches!(opened, Opened::InOrder(_)));
    }

    #[tokio::test]
    async fn chunks_are_written_in_the_order_of_the_queue() {
        let buffers = Buffers::default();
        let (queue, queued) = mpsc::unbounded_channel();
        let (first, first_items) = ordered_outlet();
        let (second, second_items) = ordered_outlet();
        queue.send(first_items).unwrap();
        queue.send(second_items).unwrap();
        drop(queue);
        let buffer = |text: &[u8]| {
            let mut buffer = buffers.take();
            buffer.room()[..text.len()].copy_from_slice(text);
            buffer.set_used(0..text.len());
            buffer
        };
        second.give(0, buffer(b"second")).await.unwrap();
        first.give(0, buffer(b"first")).await.unwrap();
        first.give_zeros(2).await.unwrap();
        drop((first, second));
        let mut written = Vec::new();
        let output = Output::Writer(&mut written);
        output.write(queued, &buffers).await.unwrap();
        assert_eq!(written, b"first\0\0second");
    }
}
