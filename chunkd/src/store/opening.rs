//! Chunks are promised and begun (`spec/replication.md` sections 3.2 and 3.4, `spec/journal.md`
//! section 3).
//!
//! [`Directory::start_journal`] once, before the first promise; [`Directory::promise`]; when that
//! is stable [`Directory::begin`], which makes an [`OpenChunk`] of a sealed one, or a new chunk;
//! from then on whoever has the mutations talks to [`Directory::open_chunk`]. The journal's thread
//! tells [`Directory::journal_is_stable`].
//!
//! Invariants: what an open chunk is, its journal says; its file's header stays as it was. A chunk
//! that was begun and not changed is told and read as the sealed one that its file still is.
//!
//! Left out so far: clones.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Epoch, FileId, Serial};
use sarsen_protocol::message::ChunkState;

use super::chunk_file::ChunkFile;
use super::directory::{Directory, io_error};
use super::error::{Operation, StoreError};
use super::header::Header;
use super::journal::body::{Base, Body, Promised};
use super::journal::segment::JOURNAL_FOLDER;
use super::journal::{
    AppendError, Appender, Author, Class, Entry, Extent, JournalEnd, JournalError, JournalLimits,
    Log, Refused,
};
use super::layout::{chunk_path, folder_of};
use super::open_chunk::{
    ChunkFiles, IdTable, OpenChunk, OpenChunkError, Resting, Standing, State, Whose,
};
use super::pending::NewChunk;
use super::recover::{Recovered, sealed_content, sealed_ids};
use super::seal::{check_usable, write_first};
use super::table::{Held, Turn, lock};
use super::trim::Trimming;

/// The open chunks of a directory, and its journal.
#[derive(Debug)]
pub(super) struct Opened {
    chunks: Mutex<BTreeMap<ChunkHandle, Arc<OpenChunk>>>,
    /// What chunks promised that are not open, and the journal's sequence of it: 0 if an earlier start
    /// wrote it.
    promised: Mutex<BTreeMap<ChunkHandle, (ChunkVersion, u64)>>,
    log: Arc<DirectoryLog>,
    /// What has to be done before the journal is begun; none when it is.
    before: Mutex<Option<Before>>,
    /// The segment that is being made superfluous.
    pub(super) trimming: Mutex<Option<Trimming>>,
}

#[derive(Debug)]
struct Before {
    end: JournalEnd,
    void: Vec<(ChunkHandle, ChunkVersion, Body)>,
}

/// The directory's journal, which is begun when it is needed first.
#[derive(Debug, Default)]
struct DirectoryLog {
    log: OnceLock<Arc<dyn Log>>,
    /// Bytes of entries that chunks have yet to hand over.
    backlog: AtomicUsize,
    /// The sequence of this start's last `settled` or `dropped` of a chunk, as long as it stands in the
    /// journal.
    ended: Mutex<BTreeMap<ChunkHandle, u64>>,
}

impl Log for DirectoryLog {
    fn offer(&self, entry: Entry, class: Class) -> Result<u64, Refused> {
        let Some(log) = self.log.get() else {
            return Err(Refused {
                error: AppendError::Failed,
                entry,
            });
        };
        let ends = entry.ends_a_chunk().then_some(entry.handle);
        let sequence = log.offer(entry, class)?;
        if let Some(handle) = ends {
            lock(&self.ended).insert(handle, sequence);
        }
        Ok(sequence)
    }

    fn hurry(&self) {
        if let Some(log) = self.log.get() {
            log.hurry();
        }
    }

    fn extent(&self) -> Extent {
        self.log.get().map(|log| log.extent()).unwrap_or_default()
    }

    fn remove_oldest(&self, first_sequence: u64) {
        lock(&self.ended).retain(|_, sequence| *sequence >= first_sequence);
        if let Some(log) = self.log.get() {
            log.remove_oldest(first_sequence);
        }
    }

    fn look_for_room(&self) {
        if let Some(log) = self.log.get() {
            log.look_for_room();
        }
    }

    fn backlog(&self) -> usize {
        self.backlog.load(Ordering::Relaxed)
    }

    fn count_backlog(&self, more: usize, less: usize) {
        self.backlog.fetch_add(more, Ordering::Relaxed);
        // It was counted before.
        self.backlog.fetch_sub(less, Ordering::Relaxed);
    }
}

impl Opened {
    /// What a start found.
    pub(super) fn new(recovered: Recovered) -> Self {
        let log = Arc::new(DirectoryLog::default());
        let chunks = recovered.open.into_iter().map(|chunk| {
            let opened = OpenChunk::new(
                Arc::clone(&log) as Arc<dyn Log>,
                chunk.files,
                chunk.state,
                chunk.standing,
                !chunk.is_still_sealed,
            );
            let opened = opened.with_preparation(chunk.prepared);
            (chunk.handle, Arc::new(opened))
        });
        let promised = recovered.promised.into_iter();
        let promised = promised.map(|(handle, version)| (handle, (version, 0)));
        Self {
            chunks: Mutex::new(chunks.collect()),
            promised: Mutex::new(promised.collect()),
            before: Mutex::new(Some(Before {
                end: recovered.end,
                void: recovered.void,
            })),
            log,
            trimming: Mutex::default(),
        }
    }

    pub(super) fn log(&self) -> &dyn Log {
        &*self.log
    }

    /// The sequence of the last entry of this start that says that a chunk was settled or dropped.
    pub(super) fn ended_at(&self, handle: ChunkHandle) -> Option<u64> {
        lock(&self.log.ended).get(&handle).copied()
    }

    /// What a chunk promised that is not open, and the journal's sequence of it.
    pub(super) fn promise_of(&self, handle: ChunkHandle) -> Option<(ChunkVersion, u64)> {
        lock(&self.promised).get(&handle).copied()
    }

    pub(super) fn find(&self, handle: ChunkHandle) -> Option<Arc<OpenChunk>> {
        lock(&self.chunks).get(&handle).cloned()
    }

    /// All that are open.
    pub(super) fn all(&self) -> Vec<Arc<OpenChunk>> {
        lock(&self.chunks).values().cloned().collect()
    }

    /// The chunk is open no more.
    pub(super) fn forget(&self, handle: ChunkHandle) {
        lock(&self.chunks).remove(&handle);
    }

    /// The file that was the open chunk's is gone, or another has its name: the journal's last word on
    /// what it was. `version` is the one that was told of it. Whoever calls has the chunk's turn, and
    /// has made the names stable; if the journal takes nothing any more the next start sees the same.
    /// A journal that is not begun yet begins with it: this start may open the handle anew, and what
    /// is written then must stand behind.
    pub(super) fn end(&self, handle: ChunkHandle, version: ChunkVersion, last: &Body) {
        lock(&self.promised).remove(&handle);
        let mut before = lock(&self.before);
        if let Some(before) = before.as_mut() {
            before.void.push((handle, version, last.clone()));
        }
        let opened = lock(&self.chunks).remove(&handle);
        // Refused while the journal is not begun.
        let _ = match opened {
            Some(chunk) => chunk.close(version, last).is_ok(),
            None => {
                let entry = Entry::new(handle, version, last);
                self.log.offer(entry, Class::Control).is_ok()
            }
        };
    }

    /// A chunk that is not open has promised this, with this sequence of the journal.
    pub(super) fn keep_promise(&self, handle: ChunkHandle, version: ChunkVersion, sequence: u64) {
        lock(&self.promised).insert(handle, (version, sequence));
    }
}

/// A version to begin.
#[derive(Clone, Copy, Debug)]
pub struct BeginOrder {
    /// The chunk.
    pub handle: ChunkHandle,
    /// The version.
    pub version: ChunkVersion,
    /// Where it begins.
    pub serial: Serial,
    /// Whether it allows acknowledgements from memory.
    pub memory: bool,
    /// Of a chunk that does not exist yet: the file that it is made for, and its place there.
    pub create: Option<(FileId, u32)>,
}

impl Directory {
    /// Begins this start's part of the journal, once. `make` puts whoever writes it around the
    /// appender; if it fails, that is told and may be tried again after another start.
    ///
    /// # Errors
    /// [`StoreError::NotAdopted`], [`StoreError::DirectoryPoisoned`], [`StoreError::NoSpace`], those
    /// of the medium.
    pub fn start_journal(
        &self,
        limits: JournalLimits,
        make: impl FnOnce(Appender) -> std::io::Result<Arc<dyn Log>>,
    ) -> Result<(), StoreError> {
        self.check_not_poisoned()?;
        let author = self.author()?;
        let mut waiting = lock(&self.opened.before);
        let Some(before) = waiting.as_ref() else {
            return Ok(());
        };
        let tree = &self.tree;
        tree.make_folder(JOURNAL_FOLDER)
            .map_err(|source| io_error(&**tree, Operation::Create, JOURNAL_FOLDER, source))?;
        self.sync_folder("")?;
        let begun = Appender::begin(Arc::clone(tree), limits, author, &before.end);
        let mut appender = begun.map_err(|error| match error {
            // No entry was written, and nothing is lost.
            JournalError::Store(error @ StoreError::NoSpace { .. }) => error,
            JournalError::Store(error) if error.is_short_of_means() => error,
            error => self.journal_failed(error),
        })?;
        let void = before.void.iter();
        let void: Vec<Entry> = void
            .map(|(handle, version, body)| Entry::new(*handle, *version, body))
            .collect();
        let first = appender.stable() + 1;
        appender
            .append(&void)
            .map_err(|error| self.journal_failed(error))?;
        let ended = void.iter().filter(|entry| entry.ends_a_chunk());
        lock(&self.opened.log.ended).extend(ended.map(|entry| (entry.handle, first)));
        let log = make(appender)
            .map_err(|source| io_error(&**tree, Operation::Create, JOURNAL_FOLDER, source))?;
        // Nobody else sets it: `before` is locked.
        let _ = self.opened.log.log.set(log);
        *waiting = None;
        Ok(())
    }

    /// The journal is stable up to this sequence.
    pub fn journal_is_stable(&self, sequence: u64) {
        let chunks = self.opened.all();
        chunks.iter().for_each(|chunk| chunk.stable_to(sequence));
    }

    /// The journal has failed: the directory is poisoned, and its open chunks with it.
    pub fn journal_failed(&self, error: JournalError) -> StoreError {
        let error = match error {
            JournalError::Store(error) => error,
            _ => StoreError::DirectoryPoisoned,
        };
        self.poison();
        lock(&self.opened.chunks)
            .values()
            .for_each(|chunk| chunk.poison());
        error
    }

    /// An open chunk has failed so: marks it, durably if that is still possible, if it is poisoned by
    /// that, and the directory if what failed is a folder's. To be called by whoever was told.
    pub fn open_chunk_failed(&self, handle: ChunkHandle, error: &OpenChunkError) {
        let folder = self.root().join(folder_of(handle));
        if let OpenChunkError::Store(StoreError::Io {
            operation: Operation::Sync,
            path,
            ..
        }) = error
            && *path == folder
        {
            self.poison();
        }
        let mut turn = self.table.turn(handle);
        let opened = self.opened.find(handle);
        let is_poisoned = opened.is_some_and(|chunk| chunk.is_poisoned_for_good());
        let is_marked = turn.held().is_none_or(|held| held.entry.flags.poisoned);
        if !is_poisoned || is_marked {
            return;
        }
        let header_stable = turn.held().is_some_and(|held| held.header_stable);
        match ChunkFile::open(&*self.tree, handle, self.owner(), header_stable) {
            Ok(mut file) => self.poison_chunk(&mut turn, &mut file),
            // There is no header to put a mark in, and the next start sees that by itself.
            Err(_) => self.forget_readable(handle),
        }
    }

    /// The highest version that a chunk which is not open has promised since it was sealed.
    #[must_use]
    pub fn promised_version(&self, handle: ChunkHandle) -> Option<ChunkVersion> {
        self.opened.promise_of(handle).map(|(version, _)| version)
    }

    /// Nothing older than this is obeyed of a chunk that is not open: it promised that, or is a copy whose
    /// master said so.
    #[must_use]
    pub fn obeyed_from(&self, handle: ChunkHandle) -> ChunkVersion {
        let in_header = self.table.held(handle).map(|held| held.promised_version);
        in_header
            .max(self.promised_version(handle))
            .unwrap_or_default()
    }

    /// A chunk that was begun, be it still as it was sealed.
    #[must_use]
    pub fn open_chunk(&self, handle: ChunkHandle) -> Option<Arc<OpenChunk>> {
        self.opened.find(handle)
    }

    /// Promises to obey nothing older than `version` of a chunk; the journal's sequence that has to
    /// be stable before that is answered.
    ///
    /// # Errors
    /// [`OpenChunkError::Promised`], [`StoreError::NotFound`], [`StoreError::OtherState`] of a
    /// chunk that is neither sealed nor open, marks that it has, those of [`OpenChunk::promise`].
    pub fn promise(
        &self,
        handle: ChunkHandle,
        version: ChunkVersion,
        epoch: Epoch,
    ) -> Result<u64, OpenChunkError> {
        self.check_writes()?;
        let turn = self.table.turn(handle);
        if let Some(chunk) = self.opened.find(handle) {
            return chunk.promise(version, epoch);
        }
        let held = sealed(&turn)?;
        let promised = self.obeyed_from(handle);
        if promised >= version {
            return Err(OpenChunkError::Promised { promised });
        }
        let body = Body::Promised(Promised {
            promised_version: version,
            epoch,
        });
        let entry = Entry::new(handle, held.entry.version, &body);
        let offered = self.opened.log.offer(entry, Class::Control);
        let sequence = offered.map_err(|refused| refused.error)?;
        self.opened.keep_promise(handle, version, sequence);
        Ok(sequence)
    }

    /// Begins a version that was promised, or makes a chunk; the journal's sequence that has to be
    /// stable before that is answered.
    ///
    /// # Errors
    /// As [`Self::promise`] and [`OpenChunk::begin`]; [`StoreError::AlreadyExists`] for a chunk to
    /// be made.
    pub fn begin(&self, order: &BeginOrder) -> Result<u64, OpenChunkError> {
        self.check_writes()?;
        let handle = order.handle;
        let mut turn = self.table.turn(handle);
        if let Some(chunk) = self.opened.find(handle) {
            return chunk.begin(order.version, order.serial, order.memory);
        }
        let chunk = match order.create {
            Some((file_id, index)) => self.make_open(&mut turn, order, file_id, index)?,
            None => self.open_sealed(&turn, order)?,
        };
        let begun = chunk.begin(order.version, order.serial, order.memory);
        if begun.is_err() && order.create.is_some() {
            self.unmake(&mut turn);
        }
        let sequence = begun?;
        lock(&self.opened.chunks).insert(handle, Arc::new(chunk));
        lock(&self.opened.promised).remove(&handle);
        Ok(sequence)
    }

    /// A chunk that was made a moment ago and could not be begun: nobody was told of it, so the next
    /// order may make it. If its file can't be removed, the next start tells it as nobody's.
    fn unmake(&self, turn: &mut Turn<'_>) {
        if self.tree.remove(&chunk_path(turn.handle())).is_ok() {
            turn.remove();
        }
    }

    /// Whether the chunk is open and no longer what its file was sealed as.
    pub(super) fn was_changed(&self, handle: ChunkHandle) -> bool {
        self.opened
            .find(handle)
            .is_some_and(|chunk| chunk.was_changed())
    }

    /// Whether nobody may replace or remove the chunk's file.
    pub(super) fn check_not_open(&self, handle: ChunkHandle) -> Result<(), StoreError> {
        match self.opened.find(handle) {
            Some(_) => Err(StoreError::OtherState {
                handle,
                state: ChunkState::Open,
            }),
            None => Ok(()),
        }
    }

    /// Whether the journal takes entries.
    pub(super) fn check_writes(&self) -> Result<(), OpenChunkError> {
        self.check_not_poisoned()?;
        match self.opened.log.log.get() {
            Some(_) => Ok(()),
            None => Err(AppendError::Failed.into()),
        }
    }

    /// Who writes in this start.
    pub(super) fn author(&self) -> Result<Author, StoreError> {
        self.identity().author().ok_or(StoreError::NotAdopted)
    }

    fn whose(&self, handle: ChunkHandle, chunk_size: u32) -> Result<Whose, StoreError> {
        Ok(Whose {
            tree: Arc::clone(&self.tree),
            author: self.author()?,
            handle,
            chunk_size,
        })
    }

    /// A sealed chunk, with the promise of the version that it is to begin.
    fn open_sealed(
        &self,
        turn: &Turn<'_>,
        order: &BeginOrder,
    ) -> Result<OpenChunk, OpenChunkError> {
        let handle = order.handle;
        let held = sealed(turn)?;
        let promised_version = self.obeyed_from(handle);
        if promised_version != order.version || order.version <= held.promised_version {
            return Err(OpenChunkError::Promised {
                promised: promised_version,
            });
        }
        let file = ChunkFile::open(&*self.tree, handle, self.owner(), held.header_stable)?;
        let header = &file.header;
        let resting = Resting {
            begin_serial: header.begin_serial,
            content: sealed_content(&file, header.length)?,
            ids: sealed_ids(&file)?,
        };
        let state = State::at_rest(header.chunk_size, header.version, header.serial, resting);
        let standing = Standing {
            promised_version,
            memory: false,
            base: Base::Sealed {
                version: header.version,
                length: header.length,
                data_crc32: header.data_crc32,
            },
            file_id: header.file_id,
            index: header.index,
        };
        let files = ChunkFiles::new(
            self.whose(handle, header.chunk_size)?,
            Arc::clone(&file.region),
        );
        let log = Arc::clone(&self.opened.log) as Arc<dyn Log>;
        Ok(OpenChunk::new(log, files, state, standing, false))
    }

    /// The file of a chunk that is made open, stable with its name.
    fn make_open(
        &self,
        turn: &mut Turn<'_>,
        order: &BeginOrder,
        file_id: FileId,
        index: u32,
    ) -> Result<OpenChunk, OpenChunkError> {
        let handle = order.handle;
        if turn.held().is_some() {
            return Err(StoreError::AlreadyExists { handle }.into());
        }
        let first = self.first_header(&NewChunk {
            handle,
            version: order.version,
            file_id,
            index,
            room: 0,
        })?;
        let header = Header {
            state: ChunkState::Open,
            begin_serial: order.serial,
            serial: order.serial,
            ..first
        };
        let path = chunk_path(handle);
        let region = self.tree.create(&path).map_err(|source| {
            match source.kind() == std::io::ErrorKind::AlreadyExists {
                true => StoreError::AlreadyExists { handle },
                false => io_error(&*self.tree, Operation::Create, &path, source),
            }
        })?;
        let mut file = ChunkFile {
            region,
            path: self.root().join(&path),
            header,
            doubtful: false,
            header_stable: false,
        };
        if let Err(error) = write_first(&file, 0).and_then(|()| file.sync()) {
            // Made a moment ago and told to nobody.
            let _ = self.tree.remove(&path);
            return Err(error.into());
        }
        self.sync_folder(&folder_of(handle))?;
        turn.put_new(Held::of(&file, false));
        let chunk_size = file.header.chunk_size;
        let resting = Resting {
            begin_serial: order.serial,
            ids: IdTable::default(),
            ..Resting::default()
        };
        // Of no version yet: it is begun next.
        let state = State::at_rest(chunk_size, ChunkVersion::NONE, order.serial, resting);
        let standing = Standing {
            promised_version: order.version,
            memory: order.memory,
            base: Base::Made,
            file_id,
            index,
        };
        let files = ChunkFiles::new(self.whose(handle, chunk_size)?, file.region);
        let log = Arc::clone(&self.opened.log) as Arc<dyn Log>;
        Ok(OpenChunk::new(log, files, state, standing, true))
    }
}

/// The chunk, if it is sealed and nothing speaks against it.
fn sealed(turn: &Turn<'_>) -> Result<Held, StoreError> {
    let handle = turn.handle();
    let held = turn.held().ok_or(StoreError::NotFound { handle })?;
    check_usable(&held, None)?;
    match held.entry.state {
        // One that has to be read back first does not count as what it says.
        ChunkState::Sealed if !held.entry.needs_read_back && !held.entry.flags.unsynced => Ok(held),
        state => Err(StoreError::OtherState { handle, state }),
    }
}
