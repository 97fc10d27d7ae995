//! Where the bytes of a download go.
//!
//! A file is written beside its target as a [`PartFile`], at any place in any order. What can't be
//! written at any place, as a pipe or a device, is written directly and in order.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sarsen_protocol::id::{ChunkHandle, ChunkVersion};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use crate::buffer::{BUFFER_LEN, Buffers};
use crate::core::read_stream::Verified;
use crate::core::resume::encode_mark;
use crate::error::Error;
use crate::local_write::Writes;
use crate::part::{Found, PartFile, Resumable};
use crate::tree::LocalType;

/// Payloads of one chunk that may wait for those before them.
const ORDERED_AHEAD: usize = 4;

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
    /// Memory, which holds the bytes when all are there. Unlike those of a writer they can be read anew until
    /// then, so that those of an open chunk are of one of its states.
    Memory(&'a mut Vec<u8>),
}

impl GetTarget<'_> {
    /// Its path, if a file that is there may stay.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        match self {
            Self::Path(path) => Some(path.clone()),
            // What is no file is in the way, which is told when it is to be replaced.
            Self::Regular(path) => (!path.is_symlink()).then(|| path.clone()),
            Self::File(_) | Self::Writer(_) | Self::Memory(_) => None,
        }
    }

    /// Whether it may be a file, rather than what is written in order.
    pub(crate) const fn is_path(&self) -> bool {
        matches!(self, Self::Path(_) | Self::Regular(_))
    }
}

impl std::fmt::Debug for GetTarget<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Self::Regular(path) => f.debug_tuple("Regular").field(path).finish(),
            Self::File(file) => f.debug_tuple("File").field(file).finish(),
            Self::Writer(_) => f.write_str("Writer"),
            Self::Memory(_) => f.write_str("Memory"),
        }
    }
}

/// A target after it was opened.
pub(crate) enum Opened<'a> {
    Part(PartFile, Found),
    InOrder(Output<'a>),
    Memory(&'a mut Vec<u8>),
}

/// Opens a target for `len` bytes; `resumable` is of a whole file that is worth it.
pub(crate) async fn open<'a>(
    target: GetTarget<'a>,
    len: u64,
    resumable: Option<Resumable>,
    writes: &Writes,
) -> Result<Opened<'a>, Error> {
    let (path, only_file) = match target {
        GetTarget::Path(path) => (path, false),
        GetTarget::Regular(path) => (path, true),
        GetTarget::File(file) => return Ok(Opened::InOrder(Output::File(Arc::new(file)))),
        GetTarget::Writer(writer) => return Ok(Opened::InOrder(Output::Writer(writer))),
        GetTarget::Memory(bytes) => return Ok(Opened::Memory(bytes)),
    };
    let writes = writes.clone();
    let opening = tokio::task::spawn_blocking(move || match only_file {
        true => open_regular(&path, len, resumable, writes),
        false => open_path(&path, len, resumable, writes),
    });
    opening.await?.map(Into::into)
}

/// What a path turned out to be.
enum OpenedPath {
    Part(PartFile, Found),
    Device(File),
}

impl From<OpenedPath> for Opened<'_> {
    fn from(opened: OpenedPath) -> Self {
        match opened {
            OpenedPath::Part(part, found) => Self::Part(part, found),
            OpenedPath::Device(file) => Self::InOrder(Output::File(Arc::new(file))),
        }
    }
}

fn open_path(
    path: &Path,
    len: u64,
    resumable: Option<Resumable>,
    writes: Writes,
) -> Result<OpenedPath, Error> {
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
            create(real, len, resumable, writes)
        }
        // To make what it leads to would be a guess, and to put a file in its place would lose the link.
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_symlink() => {
            Err(Error::InTheWay {
                found: "a symbolic link to what is not there",
                wanted: "a file",
                path: path.to_owned(),
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(path.to_owned(), len, resumable, writes)
        }
        Err(error) => Err(local(error)),
    }
}

fn create(
    target: PathBuf,
    len: u64,
    resumable: Option<Resumable>,
    writes: Writes,
) -> Result<OpenedPath, Error> {
    let (part, found) = PartFile::create(target, len, resumable, writes)?;
    Ok(OpenedPath::Part(part, found))
}

fn open_regular(
    path: &Path,
    len: u64,
    resumable: Option<Resumable>,
    writes: Writes,
) -> Result<OpenedPath, Error> {
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
        _ => create(path.to_owned(), len, resumable, writes),
    }
}

/// Where one chunk's bytes go.
#[derive(Clone, Debug)]
pub(crate) enum Outlet {
    /// At their place in a file.
    Placed {
        file: Arc<File>,
        /// How it is written.
        writes: Writes,
        are_local: bool,
        part: Arc<Path>,
        /// Where the chunk begins in the cluster's file.
        chunk_start: u64,
        /// Which byte of that is the first of the local file.
        range_start: u64,
        /// What is written down of how far the chunk has come.
        mark: Option<Mark>,
    },
    /// Behind those that were given before.
    InOrder(mpsc::Sender<Item>),
    /// Into memory, where this is the place of the chunk in the file.
    Memory(Memory, u64),
}

/// A range of a file in memory; zeros where nothing was put. Clones are the same memory. It grows with
/// what comes, as how long the file is has only been told.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    bytes: Arc<Mutex<Vec<u8>>>,
    range: Range<u64>,
}

impl Memory {
    pub(crate) fn new(range: Range<u64>) -> Self {
        Self {
            bytes: Arc::default(),
            range,
        }
    }

    pub(crate) fn into_bytes(self) -> Result<Vec<u8>, Error> {
        let mut memory = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = std::mem::take(&mut *memory);
        let len = self.place(self.range.end);
        // A hole behind what came may be longer than any memory.
        let reserved = bytes.try_reserve_exact(len.saturating_sub(bytes.len()));
        let too_large = |_| Error::TooLarge {
            bytes: self.range.end,
        };
        reserved.map_err(too_large)?;
        bytes.resize(len, 0);
        Ok(bytes)
    }

    /// Puts bytes at their place; what lies outside of the range is left out.
    fn put(&self, at: u64, bytes: &[u8]) {
        let end = at.saturating_add(bytes.len() as u64).min(self.range.end);
        let (from, to) = (self.place(at), self.place(end));
        let mut memory = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if memory.len() < to {
            memory.resize(to, 0);
        }
        let bytes = bytes.get(..to.saturating_sub(from));
        if let (Some(room), Some(bytes)) = (memory.get_mut(from..to), bytes) {
            room.copy_from_slice(bytes);
        }
    }

    fn place(&self, at: u64) -> usize {
        usize::try_from(at.saturating_sub(self.range.start)).unwrap_or(usize::MAX)
    }
}

/// Where a chunk's mark is kept, for a download that goes on with this one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub(crate) position: u64,
    pub(crate) handle: ChunkHandle,
    pub(crate) version: ChunkVersion,
}

/// Bytes that can be handed on.
pub(crate) trait Payload: AsRef<[u8]> + Send + 'static {}

impl<T: AsRef<[u8]> + Send + 'static> Payload for T {}

/// What is written in order.
pub(crate) enum Item {
    Bytes(Box<dyn Payload>),
    Zeros(u64),
}

impl Outlet {
    /// Takes verified bytes that lie at `offset` in the chunk, after which `verified` of it are
    /// here.
    pub(crate) async fn give(
        &self,
        offset: u64,
        bytes: impl Payload,
        verified: Verified,
    ) -> Result<(), Error> {
        match self {
            Self::Placed {
                file,
                writes,
                are_local,
                part,
                chunk_start,
                range_start,
                mark,
            } => {
                let at = (chunk_start + offset).saturating_sub(*range_start);
                let (file, mark) = (file.clone(), *mark);
                let write = move || {
                    file.write_all_at(bytes.as_ref(), at)?;
                    match mark {
                        Some(mark) => {
                            let bytes = encode_mark(mark.handle, mark.version, verified);
                            file.write_all_at(&bytes, mark.position)
                        }
                        None => Ok(()),
                    }
                };
                let written = writes.run(*are_local, write).await?;
                written.map_err(|source| Error::Local {
                    doing: "write",
                    path: part.to_path_buf(),
                    source,
                })
            }
            Self::InOrder(items) => send(items, Item::Bytes(Box::new(bytes))).await,
            Self::Memory(memory, chunk_start) => {
                memory.put(chunk_start + offset, bytes.as_ref());
                Ok(())
            }
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

    async fn write_bytes(&mut self, bytes: Box<dyn Payload>) -> Result<(), Error> {
        match self {
            Self::File(file) => {
                let file = file.clone();
                let write = move || (&*file).write_all((*bytes).as_ref());
                let written = tokio::task::spawn_blocking(write);
                written.await?.map_err(sink_error)
            }
            Self::Writer(writer) => {
                let written = writer.write_all((*bytes).as_ref()).await;
                written.map_err(sink_error)
            }
        }
    }

    async fn write_zeros(&mut self, len: u64, buffers: &Buffers) -> Result<(), Error> {
        let mut left = len;
        while left > 0 {
            let now = usize::try_from(left).map_or(BUFFER_LEN, |left| left.min(BUFFER_LEN));
            let mut zeros = buffers.take();
            zeros.room().fill(0);
            zeros.set_used(0..now);
            self.write_bytes(Box::new(zeros)).await?;
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
    use crate::clock::Clock;

    #[tokio::test]
    async fn a_device_is_written_directly() {
        let writes = Writes::new(Clock::start());
        let opened = open(GetTarget::Path("/dev/null".into()), 3, None, &writes)
            .await
            .unwrap();
        assert!(matches!(opened, Opened::InOrder(_)));
    }

    /// The link was replaced by the file, and what it should have led to was not there all the same.
    #[tokio::test]
    async fn a_link_to_what_is_not_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path().join("none"), &link).unwrap();
        let writes = Writes::new(Clock::start());
        let opened = open(GetTarget::Path(link.clone()), 3, None, &writes).await;
        assert!(matches!(opened, Err(Error::InTheWay { path, .. }) if path == link));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(link.is_symlink());
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
        second
            .give(0, buffer(b"second"), Verified::default())
            .await
            .unwrap();
        first
            .give(0, buffer(b"first"), Verified::default())
            .await
            .unwrap();
        first.give_zeros(2).await.unwrap();
        drop((first, second));
        let mut written = Vec::new();
        let output = Output::Writer(&mut written);
        output.write(queued, &buffers).await.unwrap();
        assert_eq!(written, b"first\0\0second");
    }
}
