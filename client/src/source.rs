//! Where the bytes of an upload come from.
//!
//! A file is read at the place that is wanted, and again when a chunk has to be sent again: it
//! is never mapped, since another process may cut it and a mapping would then kill us. What can
//! be read only once, as a pipe, is kept until the chunk that it belongs to is sealed; no more
//! than [`PIPE_CHUNKS_MAX`] chunks are kept, which bounds the client's memory.

use std::collections::HashMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, IoSliceMut, Read as _};
use std::ops::{Deref, Range};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;
use rustix::io::{ReadWriteFlags, preadv2};
use sarsen_protocol::message::Crcs;
use sarsen_protocol::size::PAYLOAD_LEN_MAX;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::buffer::{Buffer, Buffers};
use crate::core::pieces::crcs_of;
use crate::error::Error;

/// Chunks of a pipe that are kept at a time: one comes in, one is on its way, one is sealed.
pub(crate) const PIPE_CHUNKS_MAX: usize = 3;

/// Flags of an open that neither follows a symbolic link nor waits for the other end of a pipe.
pub(crate) const NOT_FOLLOWED: i32 = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).bits() as i32;

/// How long after a change another may leave the same time in a file's metadata: the clock that they are
/// taken from ticks a hundred times a second or more often.
const TICK: Duration = Duration::from_millis(20);

/// How often a file is given another tick: whoever writes on and on is seen in the end.
const TICKS_MAX: u32 = 5;

/// What is to be uploaded.
#[non_exhaustive]
pub enum PutSource {
    /// A file, or a device or pipe by its name.
    Path(PathBuf),
    /// A file; anything else at its path is refused, a symbolic link too.
    Regular(PathBuf),
    /// An open file, pipe or device; it is read from where it stands.
    File(File),
    /// Anything else.
    Reader(Box<dyn AsyncRead + Send + Unpin>),
}

impl std::fmt::Debug for PutSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Self::Regular(path) => f.debug_tuple("Regular").field(path).finish(),
            Self::File(file) => f.debug_tuple("File").field(file).finish(),
            Self::Reader(_) => f.write_str("Reader"),
        }
    }
}

/// Up to a mebibyte of a chunk, with the CRCs of its pieces.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    buffer: Arc<Buffer>,
    /// Which bytes of the buffer it has.
    range: Range<usize>,
    crcs: Crcs,
}

impl Piece {
    /// The bytes in `buffer`, which lie at `offset` in their chunk.
    fn new(offset: u32, buffer: Buffer) -> Self {
        let range = 0..buffer.len();
        Self::of(offset, Arc::new(buffer), range)
    }

    fn of(offset: u32, buffer: Arc<Buffer>, range: Range<usize>) -> Self {
        let bytes = buffer.get(range.clone()).unwrap_or_default();
        // At most a payload, whose pieces always fit.
        let crcs = crcs_of(offset, bytes).unwrap_or_default();
        Self {
            buffer,
            range,
            crcs,
        }
    }

    /// The first `len` bytes of a piece at `offset`, and what is left, whose CRCs are those of the
    /// parts that it is cut into.
    pub(crate) fn cut(self, offset: u32, len: u32) -> (Self, Option<Self>) {
        let Range { start, end } = self.range;
        let cut = end.min(start.saturating_add(len.max(1) as usize));
        if (start, cut) == (0, self.buffer.len()) {
            return (self, None);
        }
        let part = Self::of(offset, self.buffer.clone(), start..cut);
        let rest = (cut < end).then(|| Self {
            buffer: self.buffer,
            range: cut..end,
            crcs: Crcs::default(),
        });
        (part, rest)
    }

    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.range.len()).unwrap_or(PAYLOAD_LEN_MAX)
    }

    pub(crate) const fn crcs(&self) -> &Crcs {
        &self.crcs
    }
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.buffer.get(self.range.clone()).unwrap_or_default()
    }
}

/// A source after it was opened.
pub(crate) enum Opened {
    /// Can be read anywhere.
    File(OpenFile),
    /// Can be read once.
    Pipe(Input),
}

/// A file that is read at any place.
#[derive(Clone, Debug)]
pub(crate) struct OpenFile {
    file: Arc<File>,
    path: Arc<Path>,
    /// Its length when it was opened: what is uploaded.
    pub(crate) len: u64,
    /// When its bytes had been changed last by then.
    mtime: Mtime,
}

/// Seconds and nanoseconds.
type Mtime = (i64, i64);

/// Opens a source.
pub(crate) async fn open(source: PutSource) -> Result<Opened, Error> {
    match source {
        PutSource::Path(path) => tokio::task::spawn_blocking(move || open_path(&path)).await?,
        PutSource::Regular(path) => {
            tokio::task::spawn_blocking(move || open_regular(&path)).await?
        }
        PutSource::File(file) => Ok(Opened::Pipe(Input::File(Arc::new(file)))),
        PutSource::Reader(reader) => Ok(Opened::Pipe(Input::Reader(reader))),
    }
}

fn open_path(path: &Path) -> Result<Opened, Error> {
    let local = |source| Error::Local {
        doing: "read",
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(local)?;
    let metadata = settled(&file).map_err(local)?;
    if metadata.is_dir() {
        let path = path.to_owned();
        return Err(Error::LocalFolder { path });
    }
    if !metadata.is_file() {
        return Ok(Opened::Pipe(Input::File(Arc::new(file))));
    }
    Ok(open_file(file, path, &metadata))
}

/// Opens what was a file when it was looked at: if it is something else by now, that is neither
/// followed nor waited for.
fn open_regular(path: &Path) -> Result<Opened, Error> {
    let local = |source| Error::Local {
        doing: "read",
        path: path.to_owned(),
        source,
    };
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(NOT_FOLLOWED)
        .open(path)
        .map_err(local)?;
    let metadata = settled(&file).map_err(local)?;
    if !metadata.is_file() {
        let what = "no file any more";
        return Err(Error::Skipped { what });
    }
    Ok(open_file(file, path, &metadata))
}

/// A file as its metadata says it is. One that says it is empty may have bytes all the same, as those in
/// `/proc` and of some file systems in user space: how many, only reading to the end tells.
fn open_file(file: File, path: &Path, metadata: &Metadata) -> Opened {
    let file = Arc::new(file);
    // If it can't be read, the pipe says why.
    let is_as_long = metadata.len() > 0 || matches!(file.read_at(&mut [0], 0), Ok(0));
    match is_as_long {
        true => Opened::File(OpenFile {
            file,
            path: path.into(),
            len: metadata.len(),
            mtime: mtime(metadata),
        }),
        false => Opened::Pipe(Input::File(file)),
    }
}

/// A file's metadata, when it was left alone for a tick: whatever is written from now on leaves another
/// time behind. Writes through a mapping don't, before the system comes to write the pages back.
fn settled(file: &File) -> io::Result<Metadata> {
    let mut metadata = file.metadata()?;
    for _ in 0..TICKS_MAX {
        let is_young = |changed| is_young(changed, SystemTime::now());
        if !metadata.is_file() || !metadata.modified().is_ok_and(is_young) {
            break;
        }
        std::thread::sleep(TICK);
        metadata = file.metadata()?;
    }
    Ok(metadata)
}

/// Whether a change by now may leave the time behind that the last one did.
fn is_young(changed: SystemTime, now: SystemTime) -> bool {
    let apart = now.duration_since(changed);
    apart.unwrap_or_else(|ahead| ahead.duration()) < TICK
}

fn mtime(metadata: &Metadata) -> Mtime {
    (metadata.mtime(), metadata.mtime_nsec())
}

/// The bytes of one chunk, as often as they are wanted.
#[derive(Clone, Debug)]
pub(crate) enum ChunkSource {
    File {
        file: OpenFile,
        /// Of the chunk in the file.
        start: u64,
        len: u32,
        buffers: Buffers,
    },
    Pipe(Arc<KeptChunk>),
}

impl ChunkSource {
    /// The bytes from `offset` on; `None` at the chunk's end.
    pub(crate) async fn piece(&self, offset: u32) -> Result<Option<Piece>, Error> {
        match self {
            Self::File {
                file,
                start,
                len,
                buffers,
            } => {
                let left = len.saturating_sub(offset);
                if left == 0 {
                    return Ok(None);
                }
                let (file, mut buffer) = (file.clone(), buffers.take());
                let at = start + u64::from(offset);
                let wanted = left.min(PAYLOAD_LEN_MAX) as usize;
                buffer.set_used(0..wanted);
                // What is in memory is copied here: another thread would have to be woken for it,
                // and would leave it in another processor's cache.
                let here =
                    file.read_cached(at, buffer.room().get_mut(..wanted).unwrap_or_default());
                if here == wanted {
                    return Ok(Some(Piece::new(offset, buffer)));
                }
                let piece = tokio::task::spawn_blocking(move || {
                    let rest = buffer.room().get_mut(here..wanted).unwrap_or_default();
                    file.read(at + here as u64, rest)?;
                    Ok(Some(Piece::new(offset, buffer)))
                });
                piece.await?
            }
            Self::Pipe(kept) => Ok(kept.piece(offset).await),
        }
    }

    /// The chunk's bytes, where that is known before they are all here; else 0.
    pub(crate) fn length_if_known(&self) -> u32 {
        match self {
            Self::File { len, .. } => *len,
            Self::Pipe(kept) => kept.length_if_known(),
        }
    }
}

impl OpenFile {
    /// Reads what takes no waiting for the disk; how much that was.
    fn read_cached(&self, at: u64, bytes: &mut [u8]) -> usize {
        let mut len = 0;
        while let Some(rest) = bytes.get_mut(len..).filter(|rest| !rest.is_empty()) {
            let mut rest = [IoSliceMut::new(rest)];
            let from = at + len as u64;
            match preadv2(&self.file, &mut rest, from, ReadWriteFlags::NOWAIT) {
                // Its end, or an error: whoever reads on, waiting, finds that out again.
                Ok(0) | Err(_) => break,
                Ok(read) => len += read,
            }
        }
        len
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<(), Error> {
        self.file
            .read_exact_at(bytes, at)
            .map_err(|source| match source.kind() {
                io::ErrorKind::UnexpectedEof => Error::SourceShrank { wanted: self.len },
                _ => self.local(source),
            })
    }

    /// Whether it is as it was when it was opened: else what was read of it may be of several states.
    pub(crate) async fn check_unchanged(&self) -> Result<(), Error> {
        let open = self.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let metadata = open.file.metadata().map_err(|source| open.local(source))?;
            match (metadata.len(), mtime(&metadata)) == (open.len, open.mtime) {
                true => Ok(()),
                false => Err(Error::SourceChanged),
            }
        });
        looked.await?
    }

    fn local(&self, source: io::Error) -> Error {
        Error::Local {
            doing: "read",
            path: self.path.to_path_buf(),
            source,
        }
    }
}

/// A chunk that was read from a pipe, or is being read.
#[derive(Debug)]
pub(crate) struct KeptChunk {
    pieces: watch::Sender<Kept>,
    /// Given back when the last who may need the chunk drops it.
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug, Default)]
struct Kept {
    pieces: Vec<Piece>,
    complete: bool,
}

impl KeptChunk {
    /// The bytes from `offset` on, once they are here. A pipe that breaks ends the whole upload,
    /// so no one waits here for what never comes.
    async fn piece(&self, offset: u32) -> Option<Piece> {
        let mut pieces = self.pieces.subscribe();
        // Every piece but the last is of the full length.
        let place = (offset / PAYLOAD_LEN_MAX) as usize;
        let at_end = !offset.is_multiple_of(PAYLOAD_LEN_MAX);
        let kept = pieces.wait_for(|kept| kept.complete || kept.pieces.len() > place);
        // The sender lives in `self`.
        let kept = kept.await.ok()?;
        kept.pieces.get(place).filter(|_| !at_end).cloned()
    }

    fn length_if_known(&self) -> u32 {
        let kept = self.pieces.borrow();
        match kept.complete {
            true => kept.pieces.iter().map(Piece::len).sum(),
            false => 0,
        }
    }
}

/// What a pipe has brought so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrived {
    /// Chunks of which at least the first bytes are here.
    pub(crate) chunks: u32,
    /// Whether that was all.
    pub(crate) ended: bool,
}

/// Something that is read from its start to its end.
pub(crate) enum Input {
    File(Arc<File>),
    Reader(Box<dyn AsyncRead + Send + Unpin>),
}

impl Input {
    /// Fills a buffer's first `wanted` bytes, with fewer only at the end.
    async fn fill(&mut self, mut buffer: Buffer, wanted: usize) -> Result<Buffer, Error> {
        let error = |source| Error::Source { source };
        match self {
            Self::File(file) => {
                let file = file.clone();
                let filled = tokio::task::spawn_blocking(move || {
                    let mut len = 0;
                    while let Some(rest) = buffer.room().get_mut(len..wanted)
                        && !rest.is_empty()
                    {
                        match (&*file).read(rest) {
                            Ok(0) => break,
                            Ok(read) => len += read,
                            Err(source) if source.kind() == io::ErrorKind::Interrupted => {}
                            Err(source) => return Err(error(source)),
                        }
                    }
                    buffer.set_used(0..len);
                    Ok(buffer)
                });
                filled.await?
            }
            Self::Reader(reader) => {
                let mut len = 0;
                while let Some(rest) = buffer.room().get_mut(len..wanted)
                    && !rest.is_empty()
                {
                    match reader.read(rest).await.map_err(error)? {
                        0 => break,
                        read => len += read,
                    }
                }
                buffer.set_used(0..len);
                Ok(buffer)
            }
        }
    }
}

/// A pipe that is read ahead of the streams, a chunk after the other.
#[derive(Debug)]
pub(crate) struct Pipe {
    kept: Mutex<HashMap<u32, Arc<KeptChunk>>>,
    permits: Arc<Semaphore>,
    buffers: Buffers,
}

impl Pipe {
    pub(crate) fn new(buffers: Buffers) -> Self {
        Self {
            kept: Mutex::default(),
            permits: Arc::new(Semaphore::new(PIPE_CHUNKS_MAX)),
            buffers,
        }
    }

    /// The bytes of a chunk that has arrived and is not sealed yet.
    pub(crate) fn chunk(&self, index: u32) -> Option<Arc<KeptChunk>> {
        self.kept().get(&index).cloned()
    }

    /// The chunk is sealed: its bytes are not needed any more.
    pub(crate) fn forget(&self, index: u32) {
        self.kept().remove(&index);
    }

    /// Reads `input` to its end, telling what has arrived, in chunks of `chunk_size`.
    pub(crate) async fn read(
        &self,
        mut input: Input,
        chunk_size: u32,
        arrived: mpsc::UnboundedSender<Arrived>,
    ) -> Result<(), Error> {
        let mut chunks = 0;
        loop {
            // Never closed.
            let Ok(permit) = self.permits.clone().acquire_owned().await else {
                return Ok(());
            };
            let first = self.read_piece(&mut input, 0, chunk_size).await?;
            let Some(first) = first else {
                break;
            };
            let chunk = Arc::new(KeptChunk {
                pieces: watch::Sender::default(),
                _permit: permit,
            });
            let mut offset = first.len();
            let mut complete = keep(&chunk, first, chunk_size);
            self.kept().insert(chunks, chunk.clone());
            chunks += 1;
            // The upload ends before its pipe only when it failed.
            let _ = arrived.send(Arrived {
                chunks,
                ended: false,
            });
            while !complete {
                match self.read_piece(&mut input, offset, chunk_size).await? {
                    Some(piece) => {
                        offset += piece.len();
                        complete = keep(&chunk, piece, chunk_size);
                    }
                    None => {
                        chunk.pieces.send_modify(|kept| kept.complete = true);
                        complete = true;
                    }
                }
            }
        }
        let _ = arrived.send(Arrived {
            chunks,
            ended: true,
        });
        Ok(())
    }

    /// The next piece; `None` at the end of the input.
    async fn read_piece(
        &self,
        input: &mut Input,
        offset: u32,
        chunk_size: u32,
    ) -> Result<Option<Piece>, Error> {
        let wanted = chunk_size.saturating_sub(offset).min(PAYLOAD_LEN_MAX);
        let buffer = input.fill(self.buffers.take(), wanted as usize).await?;
        Ok((!buffer.is_empty()).then(|| Piece::new(offset, buffer)))
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<u32, Arc<KeptChunk>>> {
        // A panic can't leave the map half changed.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds a piece to a chunk; whether that was its last: the chunk is full, or the piece is short,
/// as only the last of the input is.
fn keep(chunk: &KeptChunk, piece: Piece, chunk_size: u32) -> bool {
    let mut complete = false;
    chunk.pieces.send_modify(|kept| {
        let is_short = piece.len() < PAYLOAD_LEN_MAX;
        kept.pieces.push(piece);
        let pieces = u32::try_from(kept.pieces.len()).unwrap_or(u32::MAX);
        kept.complete = is_short || pieces >= chunk_size / PAYLOAD_LEN_MAX;
        complete = kept.complete;
    });
    complete
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u32 = PAYLOAD_LEN_MAX;

    fn pattern(len: usize) -> Vec<u8> {
        (0..=250).cycle().take(len).collect()
    }

    /// Reads `len` bytes through a pipe into chunks of 2 MiB; what was told to have arrived, and
    /// the chunks' bytes.
    async fn chunks_of(len: usize) -> (Vec<Arrived>, Vec<Vec<u8>>) {
        let bytes: Vec<u8> = pattern(len);
        let pipe = Pipe::new(Buffers::default());
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let input = Input::Reader(Box::new(io::Cursor::new(bytes)));
        let reading = pipe.read(input, 2 * MIB, sender);
        let taking = async {
            let (mut told, mut chunks) = (Vec::new(), Vec::new());
            while let Some(arrived) = receiver.recv().await {
                told.push(arrived);
                if arrived.ended {
                    break;
                }
                let source = ChunkSource::Pipe(pipe.chunk(arrived.chunks - 1).unwrap());
                let mut chunk = Vec::new();
                while let Some(piece) = source
                    .piece(u32::try_from(chunk.len()).unwrap())
                    .await
                    .unwrap()
                {
                    assert!(crate::core::pieces::all_match(
                        u32::try_from(chunk.len()).unwrap(),
                        &piece,
                        piece.crcs()
                    ));
                    chunk.extend_from_slice(&piece);
                }
                assert_eq!(source.length_if_known() as usize, chunk.len());
                chunks.push(chunk);
                pipe.forget(arrived.chunks - 1);
            }
            (told, chunks)
        };
        let (read, taken) = tokio::join!(reading, taking);
        read.unwrap();
        taken
    }

    #[test]
    fn a_piece_is_cut_into_parts_with_crcs_of_their_own() {
        let bytes = pattern(200_000);
        for len in [1_000, 65_536, 131_072, 200_000, MIB] {
            let mut buffer = Buffers::default().take();
            buffer.room()[..bytes.len()].copy_from_slice(&bytes);
            buffer.set_used(0..bytes.len());
            let (mut offset, mut came) = (MIB, Vec::new());
            let mut left = Some(Piece::new(offset, buffer));
            while let Some(piece) = left {
                let (part, rest) = piece.cut(offset, len);
                assert!(crate::core::pieces::all_match(offset, &part, part.crcs()));
                assert!(part.len() == len || rest.is_none());
                came.extend_from_slice(&part);
                offset += part.len();
                left = rest;
            }
            assert!(came == bytes);
        }
    }

    #[tokio::test]
    async fn a_pipe_is_cut_into_chunks_and_an_empty_one_into_none() {
        let mib = MIB as usize;
        for (len, lens) in [
            (0, vec![]),
            (1, vec![1]),
            (mib, vec![mib]),
            (2 * mib - 1, vec![2 * mib - 1]),
            (2 * mib, vec![2 * mib]),
            (2 * mib + 1, vec![2 * mib, 1]),
            (9 * mib, vec![2 * mib, 2 * mib, 2 * mib, 2 * mib, mib]),
        ] {
            let (told, chunks) = chunks_of(len).await;
            let whole: Vec<u8> = pattern(len);
            assert_eq!(chunks.concat(), whole, "{len}");
            assert_eq!(chunks.iter().map(Vec::len).collect::<Vec<_>>(), lens);
            let last = Arrived {
                chunks: u32::try_from(lens.len()).unwrap(),
                ended: true,
            };
            assert_eq!(told.last(), Some(&last));
        }
    }

    #[tokio::test]
    async fn no_more_chunks_are_read_than_may_be_kept() {
        let pipe = Pipe::new(Buffers::default());
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let input = Input::Reader(Box::new(tokio::io::repeat(7)));
        let reading = pipe.read(input, MIB, sender);
        let taking = async {
            for _ in 0..PIPE_CHUNKS_MAX {
                receiver.recv().await.unwrap();
            }
            // The reader has no permit left, and tells nothing more until a chunk is forgotten.
            assert!(receiver.try_recv().is_err());
            pipe.forget(0);
            receiver.recv().await.unwrap()
        };
        let arrived = tokio::select! {
            _ = reading => panic!("it never ends"),
            arrived = taking => arrived,
        };
        assert_eq!(arrived.chunks as usize, PIPE_CHUNKS_MAX + 1);
    }

    /// It was written to right before the upload and right after it had begun, within one tick of the clock: the
    /// two left the same time behind, and what was read of both states passed for one.
    #[tokio::test]
    async fn a_file_that_is_changed_twice_within_a_tick_is_told() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for round in 0..20 {
            io::Write::write_all(&mut file, &[round; 100]).unwrap();
            let opened = open(PutSource::Path(file.path().to_owned())).await.unwrap();
            let Opened::File(open) = opened else {
                panic!("no file")
            };
            open.check_unchanged().await.unwrap();
            file.as_file().write_all_at(&[100; 50], 0).unwrap();
            let changed = open.check_unchanged().await;
            assert!(matches!(changed, Err(Error::SourceChanged)), "{round}");
        }
    }

    #[test]
    fn what_was_changed_within_a_tick_is_young() {
        let now = SystemTime::now();
        let old = now - TICK;
        assert!(is_young(now, now) && is_young(now, old + TICK / 2));
        assert!(!is_young(old, now) && !is_young(now, old));
    }

    #[tokio::test]
    async fn a_file_that_becomes_shorter_is_told() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        io::Write::write_all(&mut file, &[1; 100]).unwrap();
        let opened = open(PutSource::Path(file.path().to_owned())).await.unwrap();
        let Opened::File(open) = opened else {
            panic!("no file")
        };
        let source = ChunkSource::File {
            file: open,
            start: 0,
            len: 100,
            buffers: Buffers::default(),
        };
        assert_eq!(&*source.piece(60).await.unwrap().unwrap(), &[1; 40]);
        file.as_file().set_len(50).unwrap();
        let shrank = source.piece(0).await;
        assert!(matches!(shrank, Err(Error::SourceShrank { wanted: 100 })));
    }
}
