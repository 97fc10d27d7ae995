//! One open chunk as its chunkserver keeps it: states, files and the journal's word together
//! (`spec/journal.md` sections 4, 5.3 and 8, `spec/replication.md` sections 3.2, 3.4 and 6).
//!
//! The order of calls in a version: [`OpenChunk::apply`] for mutations in the order of their serials;
//! [`OpenChunk::flush`] soon after, which syncs what was not put into the journal;
//! [`OpenChunk::stable_to`] when the journal tells how far it reaches; [`OpenChunk::commit_to`] as
//! the chain tells; [`OpenChunk::checkpoint`] now and then. A change of versions:
//! [`OpenChunk::promise`], and when that is stable [`OpenChunk::begin`].
//!
//! Invariants: an entry whose bytes are not in it goes to the journal when they are stable and not
//! before, and holds up those behind it. Mutations of a version are refused, where they would be
//! applied, as soon as a higher one is promised. After a failed sync nothing is taken any more and
//! nothing synced again. The states' lock is never held over I/O, so reads don't wait for writes.
//!
//! What a crash leaves is what the journal says (section 9), never anything else.

mod read_back;
mod sealing;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Epoch, FileId, Serial, SessionId};
use sarsen_protocol::id_row::ID_ROW_LEN;
use sarsen_protocol::message::PreparedSeal;
use sarsen_protocol::sabotage::{Check, is_in_force};
use sarsen_protocol::size::BLOCK_LEN;

use super::super::error::StoreError;
use super::super::journal::body::{
    Base, Begun, Body, Checkpoint, Mutation, MutationKind, Place, Promised,
};
use super::super::journal::{AppendError, Class, Entry, Log, QUEUE_LEN_MAX};
use super::super::table::lock;
use super::batch::{Batch, parts_of};
use super::error::OpenChunkError;
use super::files::{ChunkFiles, Places, Unsynced};
use super::ids::Lookup;
use super::plan::Incoming;
use super::sealed_form::told_of;
use super::snapshot::Snapshot;
use super::state::{Content, Resting, State};
use sealing::Ready;

/// Mutations of up to so many bytes have them in the journal.
pub const JOURNAL_BYTES_MAX: usize = 32 * 1024;

/// A mutation with its bytes, whose pieces were compared with their CRCs.
#[derive(Clone, Debug)]
pub struct Ordered<'a> {
    /// What it is.
    pub incoming: Incoming<'a>,
    /// As many as it says.
    pub bytes: &'a [u8],
}

/// What an open chunk is, beside its states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The highest version promised, or begun.
    pub promised_version: ChunkVersion,
    /// Whether the version allows acknowledgements from memory.
    pub memory: bool,
    /// What the chunk's file still is.
    pub base: Base,
    /// The file that the chunk belongs to.
    pub file_id: FileId,
    /// Its place there.
    pub index: u32,
}

/// Bytes of the entries of a directory's chunks that may wait for the journal before mutations of all do
/// that have any: a promise needs all of its chunk's.
const BACKLOG_MAX: usize = 256 * 1024 * 1024;

/// Bytes of a chunk's entries that may wait for the journal before mutations do: as much as the journal
/// itself lets wait.
const WAITING_LEN_MAX: usize = match cfg!(test) {
    // A test's chunk is smaller than what may wait.
    true => QUEUE_LEN_MAX / 32,
    false => QUEUE_LEN_MAX,
};

/// What a member tells of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The last version begun.
    pub version: ChunkVersion,
    /// Where it began.
    pub begin_serial: Serial,
    /// The last mutation applied.
    pub serial: Serial,
    /// The last one known to be committed.
    pub commit_mark: Serial,
    /// Bytes of the applied state.
    pub length: u32,
    /// Rows of its id table.
    pub ids: usize,
    /// The highest version promised.
    pub promised_version: ChunkVersion,
    /// The seal that is prepared, or [`PreparedSeal::NONE`].
    pub prepared: PreparedSeal,
    /// Whether a sync failed, or something else that leaves it in doubt: it takes no part any more.
    pub poisoned: bool,
}

/// An open chunk.
#[derive(Debug)]
pub struct OpenChunk {
    log: Arc<dyn Log>,
    /// Who has it changes the files; taken before `books`.
    writer: Mutex<Writer>,
    /// One sync after the other: an entry goes out only when all bytes before it are stable.
    syncing: Mutex<()>,
    /// Never held over I/O.
    books: Mutex<Books>,
}

#[derive(Debug)]
struct Writer {
    files: ChunkFiles,
    /// Entries that the journal does not have yet, in the order of their serials.
    waiting: VecDeque<Waiting>,
    /// How many have left the front of `waiting`.
    gone: u64,
    /// Bytes of all that are in `waiting`.
    waiting_len: usize,
}

#[derive(Debug)]
struct Waiting {
    entry: Entry,
    last: Serial,
    /// Its bytes are not in it, and not known to be stable.
    needs_sync: bool,
}

#[derive(Debug)]
struct Books {
    state: State,
    standing: Standing,
    places: Places,
    /// The version was begun in this start: mutations of it are taken.
    takes_mutations: bool,
    /// A mutation was applied since the chunk was opened, be it forgotten since.
    was_changed: bool,
    /// For good: a start that finds it marked so goes without it.
    poisoned: bool,
    /// In this start nothing of it is believed. The next one goes by the journal.
    is_doubted: bool,
    /// It was settled or deleted: whoever still has it gets nothing done.
    is_closed: bool,
    /// A sealed form of the last version.
    prepared: Option<Ready>,
    /// Up to where mutations are stable.
    stable_serial: Serial,
    /// What becomes so when the journal reaches a sequence, in order.
    on_stable: VecDeque<(u64, OnStable)>,
    /// Of the last promise and the last beginning.
    promise_sequence: u64,
    promise_epoch: Epoch,
    begun_sequence: u64,
    last_checkpoint: Option<LastCheckpoint>,
}

/// The last checkpoint of an open chunk.
#[derive(Clone, Copy, Debug)]
pub struct LastCheckpoint {
    /// The version that it was taken of.
    pub version: ChunkVersion,
    /// The serial that it says everything up to.
    pub serial: Serial,
    /// The highest promise that it says. A later one may stand before it in the journal.
    pub promised: ChunkVersion,
    /// The journal's sequences of its first part and its last.
    pub sequences: (u64, u64),
    /// Bytes of all its parts.
    pub len: u64,
}

#[derive(Clone, Copy, Debug)]
enum OnStable {
    Applied(Serial),
    Begun(ChunkVersion),
    Checkpoint(Serial),
}

impl OpenChunk {
    /// A chunk that an earlier start left in a state, with its files: it takes no mutation before
    /// another version has begun. `was_changed` unless it is still the sealed chunk.
    pub(in super::super) fn new(
        log: Arc<dyn Log>,
        files: ChunkFiles,
        state: State,
        standing: Standing,
        was_changed: bool,
    ) -> Self {
        let books = Books {
            stable_serial: state.serial(),
            places: files.places(),
            state,
            standing,
            takes_mutations: false,
            was_changed,
            poisoned: false,
            is_doubted: false,
            is_closed: false,
            prepared: None,
            on_stable: VecDeque::new(),
            promise_sequence: 0,
            promise_epoch: Epoch::NONE,
            begun_sequence: 0,
            last_checkpoint: None,
        };
        Self {
            log,
            writer: Mutex::new(Writer {
                files,
                waiting: VecDeque::new(),
                waiting_len: 0,
                gone: 0,
            }),
            syncing: Mutex::new(()),
            books: Mutex::new(books),
        }
    }

    /// Its name.
    #[must_use]
    pub fn handle(&self) -> ChunkHandle {
        lock(&self.books).places.handle()
    }

    /// What a member tells of it.
    #[must_use]
    pub fn told(&self) -> Told {
        let books = lock(&self.books);
        let state = &books.state;
        Told {
            version: state.version(),
            begin_serial: state.begin_serial(),
            serial: state.serial(),
            commit_mark: state.commit_mark(),
            length: state.applied().length(),
            ids: state.ids().len(),
            promised_version: books.standing.promised_version,
            prepared: match &books.prepared {
                Some(ready) => told_of(state.version(), &ready.prepared),
                None => PreparedSeal::NONE,
            },
            poisoned: books.poisoned || books.is_doubted,
        }
    }

    /// Whether a mutation was applied since it was opened, be it forgotten since. If not, a chunk that
    /// was sealed is still that.
    #[must_use]
    pub fn was_changed(&self) -> bool {
        lock(&self.books).was_changed
    }

    /// What it is beside its states.
    #[must_use]
    pub fn standing(&self) -> Standing {
        lock(&self.books).standing
    }

    /// What the applied state's id table says of a request.
    #[must_use]
    pub fn find(&self, session: SessionId, number: u64) -> Lookup {
        lock(&self.books).state.ids().find(session, number)
    }

    /// Rows of the applied state's id table.
    #[must_use]
    pub fn id_rows(&self) -> usize {
        lock(&self.books).state.ids().len()
    }

    /// Up to where mutations are stable here, and of which version that is.
    #[must_use]
    pub fn stable(&self) -> (ChunkVersion, Serial) {
        let books = lock(&self.books);
        (books.state.version(), books.stable_serial)
    }

    /// Up to where mutations are stable here.
    #[must_use]
    pub fn stable_serial(&self) -> Serial {
        lock(&self.books).stable_serial
    }

    /// Makes room for bytes that end at `end`, before they are there.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], [`StoreError::BeyondRoom`], those of the medium.
    pub fn reserve(&self, end: u32) -> Result<(), OpenChunkError> {
        self.check_usable()?;
        Ok(lock(&self.writer).files.reserve(end)?)
    }

    /// Whether so many appends of so many bytes together need nothing of the disk but one write to the page
    /// cache: there is room for them and their ids, nothing is patched, and nobody is at the files.
    #[must_use]
    pub fn is_ready_for(&self, bytes: usize, count: usize) -> bool {
        let Ok(writer) = self.writer.try_lock() else {
            return false;
        };
        let (length, id_rows) = {
            let books = lock(&self.books);
            (books.state.applied().length(), books.state.ids().len())
        };
        let end = u32::try_from(bytes).ok();
        let end = end.and_then(|bytes| length.checked_add(bytes));
        let id_table_len = id_table_len_with(id_rows, count);
        end.is_some_and(|end| writer.files.has_room_behind(end, id_table_len))
    }

    /// Applies mutations of `version` with serials from `first` on: when this returns they are in
    /// memory. They are on disk when [`Self::stable_serial`] has reached them. Whether they wait
    /// for a [`Self::flush`] is the answer.
    ///
    /// # Errors
    /// [`OpenChunkError`]. The mutations before the one that failed are applied, that one and those
    /// behind it are not.
    pub fn apply(
        &self,
        version: ChunkVersion,
        first: Serial,
        mutations: &[Ordered<'_>],
    ) -> Result<bool, OpenChunkError> {
        let mut writer = lock(&self.writer);
        self.check_takes(version)?;
        let commit_mark = lock(&self.books).state.commit_mark();
        let len = mutations.iter().map(|ordered| ordered.bytes.len()).sum();
        let mut batch = Batch::new(first, commit_mark, len);
        let mut serial = first;
        let mut result = Ok(());
        let written = self.write_ahead(&mut writer, mutations)?;
        for (number, ordered) in mutations.iter().enumerate() {
            match self.apply_one(&mut writer, serial, ordered, number < written) {
                Ok(mutation) => batch.push(mutation, ordered.bytes),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
            serial.0 = serial.0.saturating_add(1);
        }
        let handle = writer.files.whose().handle;
        for (applied, needs_sync) in batch.finish() {
            let last = applied.last_serial();
            let entry = Entry::new(handle, version, &Body::Applied(applied));
            writer.waiting_len += entry.encoded_len();
            self.log.count_backlog(entry.encoded_len(), 0);
            writer.waiting.push_back(Waiting {
                entry,
                last,
                needs_sync,
            });
        }
        self.hand_over(&mut writer, Class::Mutation)?;
        result.map(|()| !writer.waiting.is_empty())
    }

    /// Syncs what has to be stable before its entries are written, and hands those over. Whether
    /// some wait all the same, since they came later or the journal is full, is the answer.
    ///
    /// # Errors
    /// A failed sync poisons the chunk.
    pub fn flush(&self) -> Result<bool, OpenChunkError> {
        self.flush_as(Class::Mutation)?;
        self.log.hurry();
        Ok(!lock(&self.writer).waiting.is_empty())
    }

    /// Whether so much waits for the journal, though it is handed what it takes, that no more mutations are
    /// to be applied before some of it went. Where acks at `memory` do, nothing else slows down who sends
    /// faster than the journal writes.
    ///
    /// # Errors
    /// The journal has failed.
    pub fn is_backed_up(&self) -> Result<bool, OpenChunkError> {
        let mut writer = lock(&self.writer);
        if self.has_room_for_more(&writer) {
            return Ok(false);
        }
        self.hand_over(&mut writer, Class::Mutation)?;
        Ok(!self.has_room_for_more(&writer))
    }

    fn has_room_for_more(&self, writer: &Writer) -> bool {
        let own = writer.waiting_len;
        own < WAITING_LEN_MAX && (own == 0 || self.log.backlog() < BACKLOG_MAX)
    }

    /// Has the journal write at once what was handed over to it.
    pub fn hurry(&self) {
        self.log.hurry();
    }

    /// Everything up to `mark` is committed: readers see it.
    ///
    /// # Errors
    /// [`OpenChunkError::Serial`] for a mark above what is applied.
    pub fn commit_to(&self, mark: Serial) -> Result<(), OpenChunkError> {
        Ok(lock(&self.books).state.commit_to(mark)?)
    }

    /// The journal is stable up to this sequence.
    pub fn stable_to(&self, sequence: u64) {
        let mut books = lock(&self.books);
        while let Some((_, event)) = books.on_stable.pop_front_if(|(at, _)| *at <= sequence) {
            match event {
                OnStable::Applied(serial) => {
                    books.stable_serial = books.stable_serial.max(serial);
                }
                OnStable::Begun(version) => books.state.begun_is_stable(version),
                // A checkpoint is taken of what is committed, and that is never taken back.
                OnStable::Checkpoint(serial) => {
                    let _ = books.state.checkpoint_is_stable(serial);
                }
            }
        }
    }

    /// Promises to apply nothing older than `version`, and makes everything applied stable. The
    /// sequence that has to be stable before the promise is answered.
    ///
    /// # Errors
    /// [`OpenChunkError::Promised`] if that or a higher version was promised, to another epoch or
    /// with that version begun; those of [`Self::flush`].
    pub fn promise(&self, version: ChunkVersion, epoch: Epoch) -> Result<u64, OpenChunkError> {
        self.check_usable()?;
        {
            let mut books = lock(&self.books);
            let promised = books.standing.promised_version;
            if promised >= version {
                let is_again = promised == version && books.promise_epoch == epoch;
                return match is_again && books.state.version() < version {
                    true if books.promise_sequence > 0 => Ok(books.promise_sequence),
                    _ => Err(OpenChunkError::Promised { promised }),
                };
            }
            // Refused from now on, wherever this gets to.
            books.standing.promised_version = version;
            books.promise_epoch = epoch;
            books.promise_sequence = 0;
        }
        // Nothing older is being written once the files are free.
        drop(lock(&self.writer));
        self.flush_as(Class::Control)?;
        let writer = lock(&self.writer);
        let held = lock(&self.books).state.version();
        let body = Body::Promised(Promised {
            promised_version: version,
            epoch,
        });
        let sequence = self.offer(Entry::new(writer.files.whose().handle, held, &body))?;
        let mut books = lock(&self.books);
        if books.standing.promised_version == version {
            books.promise_sequence = sequence;
        }
        Ok(sequence)
    }

    /// Begins a version that was promised at `serial`: what is above is forgotten. The sequence
    /// that has to be stable before that is answered. A version that was begun already is answered
    /// for, whatever it has applied since.
    ///
    /// # Errors
    /// [`OpenChunkError::Promised`] if another version was promised, [`OpenChunkError::Serial`].
    pub fn begin(
        &self,
        version: ChunkVersion,
        serial: Serial,
        memory: bool,
    ) -> Result<u64, OpenChunkError> {
        self.check_usable()?;
        let writer = lock(&self.writer);
        let handle = writer.files.whose().handle;
        let mut books = lock(&self.books);
        let promised = books.standing.promised_version;
        if promised != version {
            return Err(OpenChunkError::Promised { promised });
        }
        if books.state.version() == version {
            return Ok(books.begun_sequence);
        }
        // The promise has handed all over, and nothing was applied since.
        if !writer.waiting.is_empty() {
            return Err(AppendError::Full.into());
        }
        let is_still_sealed = books.is_still_sealed();
        let mut state = books.state.clone();
        if is_still_sealed {
            let resting = Resting {
                begin_serial: serial,
                content: state.committed().clone(),
                ids: state.ids().clone(),
            };
            state = State::at_rest(writer.files.whose().chunk_size, version, serial, resting);
        } else {
            state.begin(version, serial)?;
        }
        let body = Body::Begun(Begun {
            serial,
            memory,
            base: match is_still_sealed || !books.state.version().is_some() {
                true => books.standing.base,
                false => Base::Open,
            },
            file_id: books.standing.file_id,
            index: books.standing.index,
        });
        let sequence = self.offer_in(&mut books, Entry::new(handle, version, &body))?;
        books.state = state;
        // The journal's order makes all up to here stable before the beginning is.
        books
            .on_stable
            .retain(|(_, event)| !matches!(event, OnStable::Applied(_)));
        books.stable_serial = serial;
        books.standing.memory = memory;
        books.takes_mutations = true;
        books.prepared = None;
        books.begun_sequence = sequence;
        books
            .on_stable
            .push_back((sequence, OnStable::Begun(version)));
        Ok(sequence)
    }

    /// Writes down the committed state, when all of it is in its places and stable there: slots
    /// that only older states name are free when the entry is stable.
    ///
    /// # Errors
    /// Those of [`Self::flush`].
    pub fn checkpoint(&self) -> Result<u64, OpenChunkError> {
        self.check_usable()?;
        let _syncing = lock(&self.syncing);
        let (body, serial, version) = {
            let books = lock(&self.books);
            books.checkpoint()
        };
        self.sync_and_hand_over(Class::Control)?;
        let writer = lock(&self.writer);
        let handle = writer.files.whose().handle;
        let mut books = lock(&self.books);
        if books.state.version() != version {
            // The state is of a version that is over: the next one is taken of the new version.
            return Ok(0);
        }
        let promised = body.promised_version;
        let (mut sequences, mut len) = (None, 0);
        for part in parts_of(body) {
            let entry = Entry::new(handle, version, &Body::Checkpoint(part));
            len += entry.encoded_len() as u64;
            let sequence = self.offer_in(&mut books, entry)?;
            let (first, _) = sequences.unwrap_or((sequence, sequence));
            sequences = Some((first, sequence));
        }
        // There is at least one part.
        let sequences = sequences.unwrap_or_default();
        let last = sequences.1;
        books
            .on_stable
            .push_back((last, OnStable::Checkpoint(serial)));
        books.last_checkpoint = Some(LastCheckpoint {
            version,
            serial,
            promised,
            sequences,
            len,
        });
        Ok(last)
    }

    /// As [`Self::checkpoint`], if more is committed than the last one says; else that one's sequence:
    /// another would set no more slots free.
    ///
    /// # Errors
    /// As [`Self::checkpoint`].
    pub fn checkpoint_if_more(&self) -> Result<u64, OpenChunkError> {
        let last = {
            let books = lock(&self.books);
            let now = (books.state.version(), books.state.commit_mark());
            books
                .last_checkpoint
                .filter(|last| (last.version, last.serial) == now)
        };
        match last {
            Some(last) => Ok(last.sequences.1),
            None => self.checkpoint(),
        }
    }

    /// The last checkpoint that was taken of it in this start.
    #[must_use]
    pub fn last_checkpoint(&self) -> Option<LastCheckpoint> {
        lock(&self.books).last_checkpoint
    }

    /// The journal's sequence of its last promise or beginning in this start; 0 if there was none.
    #[must_use]
    pub fn last_word(&self) -> u64 {
        let books = lock(&self.books);
        books.promise_sequence.max(books.begun_sequence)
    }

    /// The committed state, which stays readable while this lives.
    #[must_use]
    pub fn snapshot(self: &Arc<Self>) -> Snapshot {
        let mut books = lock(&self.books);
        let content = match is_in_force(Check::CommittedReads) {
            true => books.state.committed().clone(),
            false => books.state.applied().clone(),
        };
        books.state.begin_read(&content);
        Snapshot {
            version: books.state.version(),
            serial: books.state.commit_mark(),
            content,
            places: books.places.clone(),
            chunk: Arc::clone(self),
        }
    }

    /// A read that [`Self::snapshot`] began has ended.
    pub(super) fn end_read(&self, content: &Content) {
        lock(&self.books).state.end_read(content);
    }

    /// A state from the commit mark to the last one applied, and where its blocks are.
    #[cfg(test)]
    pub(in super::super) fn state_at(&self, serial: Serial) -> Option<(Content, Places)> {
        let books = lock(&self.books);
        Some((books.state.content_at(serial)?, books.places.clone()))
    }

    /// The ids of the newest state.
    #[cfg(test)]
    pub(in super::super) fn ids(&self) -> super::ids::IdTable {
        lock(&self.books).state.ids().clone()
    }

    /// A sync failed, or it was marked: it takes no part any more.
    pub fn poison(&self) {
        lock(&self.books).poisoned = true;
    }

    /// Something failed that leaves in doubt what is on the disk: it takes no part any more in this start,
    /// and is told as poisoned. The medium may be better at the next, and the journal says what counts.
    pub fn doubt(&self) {
        lock(&self.books).is_doubted = true;
    }

    /// Whether it is to be marked so that no start takes it up.
    pub(in super::super) fn is_poisoned_for_good(&self) -> bool {
        lock(&self.books).poisoned
    }

    fn check_usable(&self) -> Result<(), OpenChunkError> {
        lock(&self.books).check_usable()
    }

    fn check_takes(&self, version: ChunkVersion) -> Result<(), OpenChunkError> {
        self.check_usable()?;
        let books = lock(&self.books);
        let promised = books.standing.promised_version;
        if promised > version {
            return Err(OpenChunkError::Promised { promised });
        }
        let held = books.state.version();
        match books.takes_mutations && held == version {
            true => Ok(()),
            false => Err(OpenChunkError::NotActive { held }),
        }
    }

    /// Writes the bytes of the first of `mutations` with one call, as many as are appends that follow
    /// each other into blocks' own rooms; how many that are. Nothing that counts lies there, so nothing
    /// but time is lost if they are not applied in the end.
    fn write_ahead(
        &self,
        writer: &mut Writer,
        mutations: &[Ordered<'_>],
    ) -> Result<usize, OpenChunkError> {
        let (from, id_rows) = {
            let books = lock(&self.books);
            let applied = books.state.applied();
            let tail = applied.block((applied.length() / BLOCK_LEN) as usize);
            if tail.is_some_and(|tail| tail.place != Place::OwnRoom) {
                return Ok(0);
            }
            (applied.length(), books.state.ids().len())
        };
        let (mut end, mut pieces) = (from, Vec::with_capacity(mutations.len()));
        for Ordered { incoming, bytes } in mutations {
            let is_next = incoming.kind == MutationKind::Append && incoming.offset == end;
            let next = end.checked_add(incoming.length);
            match next.filter(|&next| next <= writer.files.whose().chunk_size) {
                Some(next) if is_next && bytes.len() == incoming.length as usize => end = next,
                _ => break,
            }
            pieces.push(*bytes);
        }
        let id_table_len = id_table_len_with(id_rows, pieces.len());
        if pieces.len() < 2 {
            return Ok(0);
        }
        match writer.files.make_room_behind(end, id_table_len) {
            Ok(()) => {}
            // One by one it shows for which there is none.
            Err(StoreError::NoSpace { .. } | StoreError::BeyondRoom { .. }) => return Ok(0),
            Err(error) => return Err(self.failed(error)),
        }
        let written = writer.files.write_behind(from, &pieces);
        written.map_err(|error| self.failed(error))?;
        Ok(pieces.len())
    }

    /// Applies one mutation, whose bytes may be in their places already.
    fn apply_one(
        &self,
        writer: &mut Writer,
        serial: Serial,
        ordered: &Ordered<'_>,
        is_written: bool,
    ) -> Result<Mutation, OpenChunkError> {
        let (plan, length, id_rows, version) = {
            let books = lock(&self.books);
            let state = &books.state;
            state.follows(serial)?;
            let plan = state.plan(&ordered.incoming)?;
            let length = state.applied().length().max(plan.end());
            (plan, length, state.ids().len(), state.version())
        };
        if ordered.bytes.len() != plan.length() as usize {
            return Err(OpenChunkError::ByteCount);
        }
        let crcs = match is_written {
            // What only goes behind the end patches nothing.
            true => Vec::new(),
            false => {
                let done = writer
                    .files
                    .make_room(&plan, length, id_table_len_with(id_rows, 1), version)
                    .and_then(|()| writer.files.carry_out(&plan, ordered.bytes));
                done.map_err(|error| self.failed(error))?
            }
        };
        let has_bytes = ordered.bytes.len() <= JOURNAL_BYTES_MAX;
        let mutation = plan
            .mutation(&crcs, has_bytes)
            .ok_or(OpenChunkError::ByteCount)?;
        let mut books = lock(&self.books);
        books.state.apply(serial, &mutation)?;
        books.was_changed = true;
        if !is_written {
            // The patch file may have come.
            books.places = writer.files.places();
        }
        Ok(mutation)
    }

    /// A failed sync is the end of the chunk here, and so is a block that rotted.
    fn failed(&self, error: StoreError) -> OpenChunkError {
        if error.is_failed_sync() || matches!(error, StoreError::Corrupt { .. }) {
            self.poison();
        }
        error.into()
    }

    fn flush_as(&self, class: Class) -> Result<(), OpenChunkError> {
        let _syncing = lock(&self.syncing);
        self.sync_and_hand_over(class)
    }

    /// Who calls holds `syncing`.
    fn sync_and_hand_over(&self, class: Class) -> Result<(), OpenChunkError> {
        self.check_usable()?;
        let (unsynced, tree, upto): (Unsynced, _, u64) = {
            let mut writer = lock(&self.writer);
            let upto = writer.gone + writer.waiting.len() as u64;
            let tree = Arc::clone(&writer.files.whose().tree);
            (writer.files.take_unsynced(), tree, upto)
        };
        unsynced.sync(&*tree).map_err(|error| self.failed(error))?;
        let mut writer = lock(&self.writer);
        // More may have gone meanwhile than waited then, if they had to wait for no sync.
        let left = upto.saturating_sub(writer.gone);
        let count = usize::try_from(left).unwrap_or(usize::MAX);
        for waiting in writer.waiting.iter_mut().take(count) {
            waiting.needs_sync = false;
        }
        self.hand_over(&mut writer, class)
    }

    /// Gives the journal what it may have.
    fn hand_over(&self, writer: &mut Writer, class: Class) -> Result<(), OpenChunkError> {
        self.check_usable()?;
        while let Some(waiting) = writer.waiting.pop_front_if(|front| !front.needs_sync) {
            let Waiting { entry, last, .. } = waiting;
            let len = entry.encoded_len();
            let mut books = lock(&self.books);
            match self.log.offer(entry, class) {
                Ok(sequence) => {
                    writer.gone += 1;
                    writer.waiting_len -= len;
                    self.log.count_backlog(0, len);
                    books
                        .on_stable
                        .push_back((sequence, OnStable::Applied(last)));
                }
                Err(refused) => {
                    writer.waiting.push_front(Waiting {
                        entry: refused.entry,
                        last,
                        needs_sync: false,
                    });
                    return match refused.error {
                        AppendError::Full => Ok(()),
                        error => {
                            books.poisoned = true;
                            Err(error.into())
                        }
                    };
                }
            }
        }
        Ok(())
    }

    fn offer(&self, entry: Entry) -> Result<u64, OpenChunkError> {
        self.offer_in(&mut lock(&self.books), entry)
    }

    /// Hands over what is never held back.
    fn offer_in(&self, books: &mut Books, entry: Entry) -> Result<u64, OpenChunkError> {
        books.check_usable()?;
        self.log.offer(entry, Class::Control).map_err(|refused| {
            books.poisoned = true;
            refused.error.into()
        })
    }
}

/// Bytes that the id table of a sealed form takes when so many mutations are behind so many rows: a row
/// and a floor more for each, and the row that a seal adds.
#[must_use]
pub const fn id_table_len_with(id_rows: usize, mutations: usize) -> usize {
    (id_rows + 2 * mutations + 1) * ID_ROW_LEN
}

impl Drop for OpenChunk {
    fn drop(&mut self) {
        let writer = self.writer.get_mut();
        let writer = writer.unwrap_or_else(PoisonError::into_inner);
        self.log.count_backlog(0, writer.waiting_len);
    }
}

impl Books {
    fn check_usable(&self) -> Result<(), OpenChunkError> {
        match (self.is_closed, self.poisoned || self.is_doubted) {
            (true, _) => Err(OpenChunkError::Closed),
            (_, true) => Err(OpenChunkError::Poisoned),
            _ => Ok(()),
        }
    }

    /// Begun from a sealed chunk, and nothing applied.
    fn is_still_sealed(&self) -> bool {
        matches!(self.standing.base, Base::Sealed { .. }) && !self.was_changed
    }

    fn checkpoint(&self) -> (Checkpoint, Serial, ChunkVersion) {
        let (state, standing) = (&self.state, &self.standing);
        let serial = state.commit_mark();
        let content = state.committed();
        let ids = state.ids_at(serial).unwrap_or_default();
        let body = Checkpoint {
            serial,
            // It may be above: what is committed is told to a member after it has begun.
            begin_serial: state.begin_serial(),
            promised_version: standing.promised_version,
            memory: standing.memory,
            base: standing.base,
            file_id: standing.file_id,
            index: standing.index,
            length: content.length(),
            blocks: content.blocks().to_vec(),
            ids: ids.rows(),
            more: false,
        };
        (body, serial, state.version())
    }
}
