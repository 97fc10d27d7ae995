//! A start makes open chunks of what the journal says (`spec/journal.md` section 9).
//!
//! After the scan, when everything that a killed process wrote is stable. The journal is read to its
//! end before a word of it is believed; then each chunk's mutations are put into their places
//! again, its blocks compared, and what was written made stable. Only then is a chunk told.
//!
//! Invariants: a chunk comes back in a state that it had, not older than what was stable, or it is
//! marked and takes no part. A journal that is damaged is not touched. Nothing is removed but patch
//! files and sealed forms that no entry names. A crash in here leaves what a crash before it left:
//! all writes are those that the journal says, and are done again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Epoch, Serial};
use sarsen_protocol::id_row::decode_table;
use sarsen_protocol::message::ChunkState;
use thiserror::Error;

use super::chunk_file::{ChunkFile, Owner};
use super::directory::io_error;
use super::error::{Operation, StoreError};
use super::journal::body::{Applied, Base, Block, Body, Place, Prepared, Promised};
use super::journal::{
    Author, Damage, EntryReader, FormatError, JournalEnd, JournalError, JournalReader,
    named_chunks, settle,
};
use super::layout::id_table_position;
use super::open_chunk::chunk::{Standing, id_table_len_with};
use super::open_chunk::history::Standing as StandingMutation;
use super::open_chunk::{
    ChunkFiles, ChunkHistory, Content, HistoryError, IdTable, OpenHistory, Origin, Outcome,
    Resting, State, Whose,
};
use super::region::Tree;
use super::scan::Found;
use super::settle::check_prepared;

/// What a journal says, carried out.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    /// Where the journal ends.
    pub(super) end: JournalEnd,
    /// Open chunks in states that they had.
    pub(super) open: Vec<RecoveredChunk>,
    /// What chunks promised that are not open.
    pub(super) promised: BTreeMap<ChunkHandle, ChunkVersion>,
    /// To be written first of all: entries of these handles mean nothing any more.
    pub(super) void: Vec<(ChunkHandle, ChunkVersion, Body)>,
    /// What can't be taken up.
    pub(super) not_recovered: NotRecovered,
}

/// What a start could not take up of a directory's open chunks, and why.
#[derive(Debug, Default)]
pub struct NotRecovered {
    /// Why nothing that the journal says is believed: the directory is poisoned, and every open chunk.
    pub journal: Option<JournalFault>,
    /// Single chunks that take no part in this start.
    pub chunks: Vec<(ChunkHandle, ChunkFault)>,
}

/// Why a journal is not believed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JournalFault {
    /// An entry that was stable is not there, or not what it was.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// Its entries are whole, and can't all be true.
    #[error("what the journal says of chunk {handle} can't be: {error}")]
    Contradictory {
        /// The chunk.
        handle: ChunkHandle,
        /// How they contradict each other.
        error: HistoryError,
    },
    /// This program can't read it.
    #[error("the journal can't be read: {0}")]
    Unreadable(FormatError),
    /// It was written to no more.
    #[error("the journal has failed")]
    Failed,
}

/// Why an open chunk is not taken up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ChunkFault {
    /// It was marked before.
    #[error("it was marked as poisoned or corrupt before this start")]
    Marked,
    /// What lies under its name is not what its mutations were applied to.
    #[error("its file is not the one that its mutations were applied to")]
    OtherFile,
    /// What the journal says of it does not go with what its files hold.
    #[error("its mutations can't be put into their places again")]
    NotReplayed,
    /// There is no word on it in the journal.
    #[error("its header says open, and the journal says nothing of it")]
    Unknown,
    /// Its files, or the medium.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An open chunk as a start found it.
#[derive(Debug)]
pub(super) struct RecoveredChunk {
    pub(super) handle: ChunkHandle,
    pub(super) files: ChunkFiles,
    pub(super) state: State,
    pub(super) standing: Standing,
    /// Begun from a sealed chunk, with nothing applied: it is told and read as that one.
    pub(super) is_still_sealed: bool,
    /// A sealed form that is ready.
    pub(super) prepared: Option<Prepared>,
}

/// Why a chunk's word is not carried out.
enum Failure {
    /// This chunk does not match what was stable: it is corrupt.
    Corrupt(ChunkFault),
    /// The medium refused. The journal's word stays for the next start, this one goes without.
    Refused(ChunkFault),
    /// The start must not go on.
    Start(StoreError),
}

impl Failure {
    const NOT_REPLAYED: Self = Self::Corrupt(ChunkFault::NotReplayed);
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            error if error.is_failed_sync() || error.is_short_of_means() => Self::Start(error),
            StoreError::Io { .. } | StoreError::NoSpace { .. } => Self::Refused(error.into()),
            error => Self::Corrupt(error.into()),
        }
    }
}

/// Reads the journal and carries it out. What chunks are is put into `found`.
///
/// # Errors
/// Those of the medium: the start must not go on.
pub(super) fn recover(
    tree: &Arc<dyn Tree>,
    author: Author,
    chunk_size: u32,
    epoch: Epoch,
    found: &mut Found,
) -> Result<Recovered, StoreError> {
    let (histories, end) = match read_histories(&**tree, &author) {
        Ok(read) => read,
        Err(JournalError::Store(error)) => return Err(error),
        Err(error) => return poison_all(&**tree, &author, found, fault_of(error)),
    };
    // A directory holds a million chunks: each is looked for by halves.
    found.held.sort_unstable_by_key(|held| held.entry.handle);
    let mut recovered = Recovered {
        end,
        ..Recovered::default()
    };
    let mut outcomes = Vec::new();
    for (handle, history) in histories {
        // Before it is asked what the entries say together: of a chunk that is over the oldest may have gone.
        if let Some(body) = void_word(found, handle, &history) {
            recovered.make_void(found, (handle, &history), body, epoch);
            continue;
        }
        match history.finish() {
            Ok(outcome) => outcomes.push((handle, outcome)),
            Err(error) => {
                let fault = JournalFault::Contradictory { handle, error };
                return poison_all(&**tree, &author, found, fault);
            }
        }
    }
    settle(&**tree, &recovered.end).map_err(store_error)?;
    let mut named = BTreeSet::new();
    for (handle, outcome) in outcomes {
        match outcome {
            Outcome::Nothing => {}
            Outcome::Promised(version) => {
                recovered.promised.insert(handle, version);
            }
            Outcome::Open(history) => {
                named.insert(handle);
                let whose = Whose {
                    tree: Arc::clone(tree),
                    author,
                    handle,
                    chunk_size,
                };
                recover_chunk(whose, &history, found, &mut recovered)?;
            }
        }
    }
    mark_unknown(found, &named, &mut recovered.not_recovered);
    remove_unnamed(&**tree, found, &named)?;
    Ok(recovered)
}

type Histories = BTreeMap<ChunkHandle, ChunkHistory>;

fn read_histories(
    tree: &dyn Tree,
    author: &Author,
) -> Result<(Histories, JournalEnd), JournalError> {
    let mut reader = JournalReader::open(tree, author.cluster_id, author.directory_id)?;
    let mut histories = Histories::new();
    while let Some(entry) = reader.next_entry()? {
        histories.entry(entry.handle).or_default().take(&entry);
    }
    Ok((histories, reader.finish()))
}

/// Every chunk that a damaged journal may have spoken of takes no part any more.
fn poison_all(
    tree: &dyn Tree,
    author: &Author,
    found: &mut Found,
    fault: JournalFault,
) -> Result<Recovered, StoreError> {
    let mut named = named_chunks(tree, author.directory_id).map_err(store_error)?;
    named.extend(found.journaled.iter().map(|(handle, _)| *handle));
    for held in &mut found.held {
        // A chunk that was made open has no other word than the journal's.
        let is_open = held.entry.state == ChunkState::Open;
        if is_open || named.contains(&held.entry.handle) {
            held.entry.flags.poisoned = true;
        }
    }
    Ok(Recovered {
        not_recovered: NotRecovered {
            journal: Some(fault),
            chunks: Vec::new(),
        },
        ..Recovered::default()
    })
}

fn fault_of(error: JournalError) -> JournalFault {
    match error {
        JournalError::Damaged(damage) => damage.into(),
        JournalError::Invalid(error) => JournalFault::Unreadable(error),
        JournalError::Failed | JournalError::NoRoom | JournalError::Store(_) => {
            JournalFault::Failed
        }
    }
}

fn store_error(error: JournalError) -> StoreError {
    match error {
        JournalError::Store(error) => error,
        _ => StoreError::DirectoryPoisoned,
    }
}

impl Recovered {
    /// What the journal says of a handle is void. A promise that still binds the chunk is said again.
    fn make_void(
        &mut self,
        found: &Found,
        (handle, history): (ChunkHandle, &ChunkHistory),
        body: Body,
        epoch: Epoch,
    ) {
        let (highest, promised_version) = history.versions();
        let version = match highest.is_some() {
            true => highest,
            false => promised_version,
        };
        self.void.push((handle, version, body));
        let held = place_of(found, handle).and_then(|place| found.held.get(place));
        if highest.is_some() && held.is_some_and(|held| promised_version > held.promised_version) {
            self.promised.insert(handle, promised_version);
            let promised = Promised {
                promised_version,
                epoch,
            };
            self.void.push((handle, version, Body::Promised(promised)));
        }
    }
}

/// The entry that makes the journal's word on a handle void, if what lies under its name does.
fn void_word(found: &Found, handle: ChunkHandle, history: &ChunkHistory) -> Option<Body> {
    let (highest, promised) = history.versions();
    if !promised.is_some() {
        return None;
    }
    let Some(held) = place_of(found, handle).and_then(|place| found.held.get(place)) else {
        let is_there = found.problems.iter().any(|p| p.handle == Some(handle));
        return (!is_there).then_some(Body::Dropped);
    };
    let is_newer = match highest.is_some() {
        // What a version was begun from is older: this is its settling, or a copy, which promises all
        // versions that came to nothing before it was made.
        true => held.promised_version >= highest,
        false => held.entry.version > promised,
    };
    (held.entry.state == ChunkState::Sealed && is_newer).then_some(Body::Settled)
}

/// Where a chunk stands in what was found, which is sorted.
fn place_of(found: &Found, handle: ChunkHandle) -> Option<usize> {
    let handle_of = |held: &super::table::Held| held.entry.handle;
    found.held.binary_search_by_key(&handle, handle_of).ok()
}

/// One chunk, told as what it was found to be.
fn recover_chunk(
    whose: Whose,
    history: &OpenHistory,
    found: &mut Found,
    recovered: &mut Recovered,
) -> Result<(), StoreError> {
    let handle = whose.handle;
    let Some(held) = place_of(found, handle).and_then(|place| found.held.get_mut(place)) else {
        // Its header is damaged: that is what is told of it.
        return Ok(());
    };
    let is_still_sealed = history.is_still_sealed();
    let rebuilt = match held.entry.is_marked() {
        true => Err(Failure::Refused(ChunkFault::Marked)),
        false => rebuild(whose, history),
    };
    if !is_still_sealed {
        held.entry.state = ChunkState::Open;
        held.entry.version = history.version;
        held.entry.serial = history.serial();
        held.entry.needs_read_back = false;
        held.entry.flags.unsynced = false;
        held.entry.crc32 = 0;
    }
    match rebuilt {
        Ok(chunk) => {
            if !is_still_sealed {
                held.entry.length = chunk.state.applied().length();
            }
            recovered.open.push(chunk);
            Ok(())
        }
        Err(Failure::Corrupt(fault)) => {
            held.entry.flags.corrupt = true;
            recovered.not_recovered.chunks.push((handle, fault));
            Ok(())
        }
        Err(Failure::Refused(fault)) => {
            held.entry.flags.poisoned = true;
            recovered.not_recovered.chunks.push((handle, fault));
            Ok(())
        }
        Err(Failure::Start(error)) => Err(error),
    }
}

/// Steps 4 to 6 for one chunk.
fn rebuild(whose: Whose, history: &OpenHistory) -> Result<RecoveredChunk, Failure> {
    let (handle, chunk_size) = (whose.handle, whose.chunk_size);
    let tree = Arc::clone(&whose.tree);
    let owner = Owner {
        cluster_id: whose.author.cluster_id,
        directory_id: whose.author.directory_id,
    };
    let file = ChunkFile::open(&*tree, handle, owner, true)?;
    let (content, ids) = origin_of(&file, history)?;
    let mut files = ChunkFiles::new(whose, Arc::clone(&file.region));
    let resting = Resting {
        begin_serial: history.begin_serial,
        content,
        ids,
    };
    let mut state = State::at_rest(chunk_size, history.version, history.origin_serial, resting);
    replay(&*tree, &mut files, &mut state, &history.standing)?;
    state
        .commit_to(history.commit_mark)
        .map_err(|_| Failure::NOT_REPLAYED)?;
    compare_blocks(&files, &state)?;
    files.sync()?;
    if let Some(prepared) = &history.prepared {
        check_prepared(&*tree, owner, handle, &state, prepared)?;
    } else {
        let ids_len = id_table_len_with(state.ids().len(), 0);
        // What an earlier start reserved is there still, if no power cut took it.
        let _ = files.make_room_to_seal(state.applied().length(), ids_len);
    }
    Ok(RecoveredChunk {
        handle,
        files,
        state,
        standing: Standing {
            promised_version: history.promised_version,
            memory: history.memory,
            base: history.base,
            file_id: history.file_id,
            index: history.index,
        },
        is_still_sealed: history.is_still_sealed(),
        prepared: history.prepared,
    })
}

/// The state that mutations are applied to, as the file and the journal have it.
fn origin_of(file: &ChunkFile, history: &OpenHistory) -> Result<(Content, IdTable), Failure> {
    let header = &file.header;
    let is_base = match history.base {
        Base::Made | Base::Open => header.state == ChunkState::Open && header.length == 0,
        Base::Sealed {
            version,
            length,
            data_crc32,
        } => {
            header.state == ChunkState::Sealed
                && header.version == version
                && (header.length, header.data_crc32) == (length, data_crc32)
        }
    };
    if !is_base {
        return Err(Failure::Corrupt(ChunkFault::OtherFile));
    }
    match &history.origin {
        Origin::Made => Ok((Content::default(), IdTable::default())),
        Origin::Sealed { length, .. } => Ok((sealed_content(file, *length)?, sealed_ids(file)?)),
        Origin::Checkpoint {
            length,
            blocks,
            ids,
        } => {
            let content = Content::new(*length, blocks.clone()).ok_or(Failure::NOT_REPLAYED)?;
            let ids = IdTable::from_rows(ids).map_err(|_| Failure::NOT_REPLAYED)?;
            Ok((content, ids))
        }
    }
}

/// The blocks of the sealed chunk that the file is.
pub(super) fn sealed_content(file: &ChunkFile, length: u32) -> Result<Content, StoreError> {
    let handle = file.header.handle;
    let blocks = file.read_crcs()?.into_vec().into_iter().map(|crc32| Block {
        place: Place::OwnRoom,
        crc32,
    });
    Content::new(length, blocks.collect()).ok_or(StoreError::Corrupt { handle })
}

/// The ids that the sealed chunk's file has.
pub(super) fn sealed_ids(file: &ChunkFile) -> Result<IdTable, StoreError> {
    let header = &file.header;
    let corrupt = StoreError::Corrupt {
        handle: header.handle,
    };
    let mut bytes = vec![0; header.id_table_length as usize];
    let read = file
        .region
        .read_at(&mut bytes, id_table_position(header.chunk_size))
        .map_err(|source| file.error(Operation::Read, source))?;
    bytes.truncate(read);
    if read < header.id_table_length as usize {
        return Err(corrupt);
    }
    let rows = decode_table(&bytes, header.id_table_crc32);
    match rows.ok().and_then(|rows| IdTable::from_rows(&rows).ok()) {
        Some(ids) => Ok(ids),
        None => Err(corrupt),
    }
}

/// Puts the mutations into their places again, in the order of their serials.
fn replay(
    tree: &dyn Tree,
    files: &mut ChunkFiles,
    state: &mut State,
    standing: &[StandingMutation],
) -> Result<(), Failure> {
    if state.applied().is_patched() {
        files.open_patch()?;
    }
    let mut entries = EntryReader::new(tree);
    let mut last: Option<(super::journal::Location, Applied)> = None;
    for mutation in standing {
        let is_here = last
            .as_ref()
            .is_some_and(|(at, _)| *at == mutation.location);
        if !is_here {
            let applied = match entries.read(mutation.location) {
                Ok(Body::Applied(applied)) => applied,
                Err(JournalError::Store(error)) => return Err(error.into()),
                // It was read a moment ago.
                _ => return Err(Failure::Refused(ChunkFault::NotReplayed)),
            };
            last = Some((mutation.location, applied));
        }
        let Some((_, applied)) = &last else { continue };
        replay_one(files, state, applied, mutation.number)?;
    }
    Ok(())
}

fn replay_one(
    files: &mut ChunkFiles,
    state: &mut State,
    applied: &Applied,
    number: usize,
) -> Result<(), Failure> {
    let before = applied.mutations.iter().take(number);
    let from: usize = before
        .filter(|m| m.has_bytes)
        .map(|m| m.length as usize)
        .sum();
    let mutation = applied.mutations.get(number).ok_or(Failure::NOT_REPLAYED)?;
    let serial = Serial(state.serial().0.saturating_add(1));
    if mutation.has_bytes {
        let bytes = applied.bytes.get(from..from + mutation.length as usize);
        let bytes = bytes.ok_or(Failure::NOT_REPLAYED)?;
        let plan = state
            .plan_again(mutation)
            .map_err(|_| Failure::NOT_REPLAYED)?;
        if plan.highest_slot().is_some() && !files.has_patch() {
            files.open_patch()?;
        }
        let crcs = files.carry_out(&plan, bytes)?;
        if plan.mutation(&crcs, true).as_ref() != Some(mutation) {
            return Err(Failure::NOT_REPLAYED);
        }
    } else if mutation.blocks.iter().any(|b| b.place != Place::OwnRoom) && !files.has_patch() {
        files.open_patch()?;
    }
    state
        .apply(serial, mutation)
        .map_err(|_| Failure::NOT_REPLAYED)
}

/// Compares the blocks of every state that may be asked for.
fn compare_blocks(files: &ChunkFiles, state: &State) -> Result<(), Failure> {
    let places = files.places();
    for (index, block, len) in state.blocks_of_all() {
        places.read_block(index, block, len)?;
    }
    Ok(())
}

/// A chunk whose header says open and of which the journal says nothing: its beginning was never
/// answered, or it was deleted by order. It can be no member of anything.
fn mark_unknown(found: &mut Found, named: &BTreeSet<ChunkHandle>, told: &mut NotRecovered) {
    for held in &mut found.held {
        let handle = held.entry.handle;
        if held.entry.state == ChunkState::Open && !named.contains(&handle) {
            held.entry.flags.corrupt = true;
            told.chunks.push((handle, ChunkFault::Unknown));
        }
    }
}

/// Removes patch files and sealed forms that no entry names.
fn remove_unnamed(
    tree: &dyn Tree,
    found: &Found,
    named: &BTreeSet<ChunkHandle>,
) -> Result<(), StoreError> {
    let unnamed = found
        .journaled
        .iter()
        .filter(|(handle, _)| !named.contains(handle));
    for (_, path) in unnamed {
        match tree.remove(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(io_error(tree, Operation::Remove, path, source));
            }
            _ => {}
        }
    }
    Ok(())
}
