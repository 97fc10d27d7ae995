//! How an entry changes the state (`spec/oplog-entries.md` sections 4 and 5).
//!
//! [`apply`] is the only thing that does. It looks at nothing but the state and the entry, so
//! that a replay, a second master or a test gets the same state; it is called once an entry is
//! durable, in the order of the indexes. It checks everything anew: whoever appended the entry
//! could not know what the entries before it, still on their way to the disk, would do.

use std::collections::BTreeSet;

use sarsen_protocol::id::{ChunkHandle, FileId, RequestId, ServerId, SessionId};

use super::chunk_table::{LOSSES_MAX, Loss, Sealed};
use super::command::{
    Activation, ChunkSealed, Command, DirectoryStarted, Entry, EpochRaised, FilePublished,
    FolderMade, Genesis, PendingCreated, PossibleLoss, PublishedChunk, RangesReserved, Removed,
    Renamed, ServerRegistered, SessionsClosed, Then, TrashEmptied, TrashExpired, TrashRestored,
};
use super::file::{File, PendingFile};
use super::namespace::{FreeSpot, ROOT, Spot};
use super::path::Path;
use super::refusal::Refusal;
use super::session::{Admission, Answer, PublishedFile};
use super::state::{Cluster, DirectoryRecord, ServerRecord, State};

/// What applying an entry came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The answer to whoever asked.
    pub answer: Answer,
    /// Whether the answer is that of an earlier entry with the same request id.
    pub repeated: bool,
    /// Chunks that left the table: what is stored of them is garbage now.
    pub dropped: Vec<ChunkHandle>,
    /// Pending files that are none any more: published, aborted, or gone with their session.
    pub ended: Vec<FileId>,
}

/// What an entry does beside its answer.
#[derive(Default)]
struct Effects {
    dropped: Vec<ChunkHandle>,
    ended: Vec<FileId>,
}

/// Applies the next entry.
///
/// # Panics
/// If the entry isn't the one that follows: the log hands them out in order, and a state that
/// missed one is worth nothing.
pub fn apply(state: &mut State, entry: &Entry) -> Outcome {
    assert_eq!(entry.index, state.index + 1, "entries are applied in order");
    state.index = entry.index;
    state.term = entry.term;
    state.time_ms = entry.time_ms;

    let mut effects = Effects::default();
    let admitted = match entry.request {
        Some(request) => state.sessions.admit(request),
        None => Admission::New,
    };
    let (answer, repeated) = match admitted {
        Admission::Answered(answer) => (answer, true),
        Admission::New => {
            let done = carry_out(state, entry, &mut effects);
            let answer = done.unwrap_or_else(Answer::Refused);
            if let Some(request) = entry.request {
                state.sessions.keep(request, answer.clone());
            }
            (answer, false)
        }
    };
    Outcome {
        answer,
        repeated,
        dropped: effects.dropped,
        ended: effects.ended,
    }
}

fn carry_out(state: &mut State, entry: &Entry, effects: &mut Effects) -> Result<Answer, Refusal> {
    let is_genesis = matches!(entry.command, Command::Genesis(_));
    let request_fits = entry
        .command
        .wants_request()
        .is_none_or(|wanted| wanted == entry.request.is_some());
    if is_genesis != (entry.index == 1) || !request_fits {
        return Err(Refusal::InvalidArgument);
    }
    let session = entry
        .request
        .map_or(SessionId::NONE, |RequestId { session, .. }| session);
    let time_ms = entry.time_ms;
    match &entry.command {
        Command::Genesis(body) => found_cluster(state, body),
        Command::EpochRaised(body) => raise_epoch(state, body),
        Command::RangesReserved(body) => reserve_ranges(state, body),
        Command::SessionOpened(body) => {
            let id = state
                .sessions
                .open(body.nonce, body.client.clone(), time_ms);
            Ok(Answer::Id(id.0))
        }
        Command::SessionsClosed(body) => close_sessions(state, body, effects),
        Command::ServerRegistered(body) => register_server(state, body),
        Command::DirectoryStarted(body) => start_directory(state, body),
        Command::FolderMade(body) => make_folder(state, body, time_ms),
        Command::PendingCreated(body) => create_pending(state, body, session, time_ms),
        Command::PendingAborted(body) => {
            if state
                .pending
                .get(&body.file)
                .is_some_and(|pending| pending.session == session)
            {
                state.pending.remove(&body.file);
                effects.ended.push(body.file);
            }
            Ok(Answer::Done)
        }
        Command::FilePublished(body) => publish(state, body, session, time_ms, effects),
        Command::Renamed(body) => rename(state, body, time_ms),
        Command::Removed(body) => remove(state, body, time_ms, effects),
        Command::TrashRestored(body) => restore(state, body, time_ms),
        Command::TrashEmptied(body) => empty_trash(state, body, time_ms, effects),
        Command::TrashExpired(body) => expire_trash(state, body, time_ms, effects),
        Command::ChunkActivated(body) => {
            check_activation(state, body)?;
            activate(state, body, effects);
            Ok(Answer::Done)
        }
        Command::ChunkSealed(body) => seal(state, body, effects),
        Command::PossibleLoss(body) => mark_loss(state, body, time_ms),
    }
}

// Cluster, sessions, servers.

fn found_cluster(state: &mut State, body: &Genesis) -> Result<Answer, Refusal> {
    state.cluster = Cluster {
        id: body.cluster,
        chunk_size: body.chunk_size,
        ticket_key: body.ticket_key.clone(),
    };
    state.namespace.touch(ROOT, state.time_ms);
    Ok(Answer::Done)
}

fn raise_epoch(state: &mut State, body: &EpochRaised) -> Result<Answer, Refusal> {
    if body.epoch.number <= state.epoch.number {
        return Err(Refusal::StaleEpoch);
    }
    state.epoch = body.epoch;
    Ok(Answer::Done)
}

fn reserve_ranges(state: &mut State, body: &RangesReserved) -> Result<Answer, Refusal> {
    if body.handles_end < state.handles_end.0 || body.versions_end < state.versions_end.0 {
        return Err(Refusal::InvalidArgument);
    }
    state.handles_end.0 = body.handles_end;
    state.versions_end.0 = body.versions_end;
    Ok(Answer::Done)
}

fn close_sessions(
    state: &mut State,
    body: &SessionsClosed,
    effects: &mut Effects,
) -> Result<Answer, Refusal> {
    let mut closed = BTreeSet::new();
    for &id in &body.sessions {
        if state.sessions.close(id) {
            closed.insert(id);
        }
    }
    state.pending.retain(|&file, pending| {
        let stays = !closed.contains(&pending.session);
        if !stays {
            effects.ended.push(file);
        }
        stays
    });
    Ok(Answer::Done)
}

fn register_server(state: &mut State, body: &ServerRegistered) -> Result<Answer, Refusal> {
    let servers = &mut state.servers;
    let id = match body.server {
        ServerId::NONE => {
            servers.next += 1;
            ServerId(servers.next - 1)
        }
        known if servers.servers.contains_key(&known) => known,
        _ => return Err(Refusal::ForeignDirectory),
    };
    let record = ServerRecord {
        addresses: body.addresses.clone(),
        rack: body.rack.clone(),
    };
    servers.servers.insert(id, record);
    Ok(Answer::Id(id.0))
}

fn start_directory(state: &mut State, body: &DirectoryStarted) -> Result<Answer, Refusal> {
    let servers = &mut state.servers;
    let start = DirectoryRecord {
        server: body.server,
        start_number: body.start_number,
        start_nonce: body.start_nonce,
    };
    if !servers.servers.contains_key(&body.server) {
        return Err(Refusal::ForeignDirectory);
    }
    if let Some(last) = servers.directories.get(&body.directory) {
        if last.server != start.server {
            return Err(Refusal::ForeignDirectory);
        }
        if start.start_number <= last.start_number && start != *last {
            return Err(Refusal::StaleStart);
        }
    }
    servers.directories.insert(body.directory, start);
    Ok(Answer::Done)
}

// Names.

fn make_folder(state: &mut State, body: &FolderMade, time_ms: u64) -> Result<Answer, Refusal> {
    let id = match state.namespace.spot(&body.path, body.parents)? {
        Spot::Free(spot) => state.namespace.make_folder(spot, time_ms),
        Spot::Taken(id) => {
            let is_folder = state
                .namespace
                .node(id)
                .is_some_and(|node| node.as_folder().is_some());
            if !(body.parents && is_folder) {
                return Err(Refusal::AlreadyExists);
            }
            id
        }
    };
    Ok(Answer::Id(id.0))
}

fn rename(state: &mut State, body: &Renamed, time_ms: u64) -> Result<Answer, Refusal> {
    let Renamed { source, target } = body;
    if source.is_root() || target.is_root() || target.is_below(source) {
        return Err(Refusal::InvalidArgument);
    }
    let id = state.namespace.resolve(source)?;
    let Spot::Free(spot) = state.namespace.spot(target, false)? else {
        return Err(Refusal::AlreadyExists);
    };
    state.namespace.check_fit(id, target)?;
    state.namespace.move_node(id, spot, time_ms);
    Ok(Answer::Done)
}

fn remove(
    state: &mut State,
    body: &Removed,
    time_ms: u64,
    effects: &mut Effects,
) -> Result<Answer, Refusal> {
    if body.path.is_root() {
        return Err(Refusal::InvalidArgument);
    }
    let id = state.namespace.resolve(&body.path)?;
    let children = state.namespace.node(id).and_then(|node| node.as_folder());
    if children.is_some_and(|children| !children.is_empty()) && !body.recursive {
        return Err(Refusal::NotEmpty);
    }
    let (files, bytes) = files_below(state, id);
    discard(state, id, &body.path, body.purge, time_ms, effects);
    Ok(Answer::Removed { files, bytes })
}

/// The number and the bytes of a node's files.
fn files_below(state: &State, id: FileId) -> (u64, u64) {
    let files = state
        .namespace
        .walk(id)
        .filter_map(|visit| visit.node.as_file());
    files.fold((0, 0), |(count, bytes), file| {
        (count + 1, bytes.saturating_add(file.size))
    })
}

/// Puts a node into the trash, or with `purge` takes it away for good.
fn discard(
    state: &mut State,
    id: FileId,
    path: &Path,
    purge: bool,
    time_ms: u64,
    effects: &mut Effects,
) {
    match purge {
        true => purge_node(state, id, time_ms, effects),
        false => state.namespace.move_to_trash(id, path.clone(), time_ms),
    }
}

/// Takes a node away for good: its chunks lose a reference a slot.
fn purge_node(state: &mut State, id: FileId, time_ms: u64, effects: &mut Effects) {
    for file in state.namespace.purge(id, time_ms) {
        for (_, handle) in file.chunks() {
            release(state, handle, effects);
        }
    }
}

fn release(state: &mut State, handle: ChunkHandle, effects: &mut Effects) {
    if state.chunks.release(handle) {
        effects.dropped.push(handle);
    }
}

// Uploads.

fn create_pending(
    state: &mut State,
    body: &PendingCreated,
    session: SessionId,
    time_ms: u64,
) -> Result<Answer, Refusal> {
    file_spot(state, &body.path, body.parents, body.force)?;
    if body.chunk_size != state.cluster.chunk_size {
        return Err(Refusal::InvalidArgument);
    }
    let id = state.namespace.draw_id();
    let pending = PendingFile {
        session,
        replicas: body.replicas,
        level: body.level,
        chunk_size: body.chunk_size,
        created_ms: time_ms,
        path: body.path.clone(),
    };
    state.pending.insert(id, pending);
    Ok(Answer::Pending {
        file: id,
        replicas: body.replicas,
    })
}

/// Where a file may be published: free, or with `force` taken by a file.
fn file_spot(state: &State, path: &Path, parents: bool, force: bool) -> Result<Spot, Refusal> {
    let spot = state.namespace.spot(path, parents)?;
    if let Spot::Taken(id) = spot {
        if state.namespace.file(id).is_none() {
            return Err(Refusal::IsAFolder);
        }
        if !force {
            return Err(Refusal::AlreadyExists);
        }
    }
    Ok(spot)
}

fn publish(
    state: &mut State,
    body: &FilePublished,
    session: SessionId,
    time_ms: u64,
    effects: &mut Effects,
) -> Result<Answer, Refusal> {
    if let Some(answer) = published_file(state, body.file) {
        return Ok(Answer::File(answer));
    }
    let pending = state
        .pending
        .get(&body.file)
        .filter(|pending| pending.session == session);
    let pending = pending.ok_or(Refusal::PendingUnknown)?;
    if !chunks_are_sound(state, pending, body.size, &body.chunks) {
        return Err(Refusal::InvalidArgument);
    }
    let mut file = File {
        size: body.size,
        chunk_size: pending.chunk_size,
        replicas: pending.replicas,
        crc: None,
        slots: body.chunks.iter().map(|chunk| chunk.handle).collect(),
    };
    let spot = free_file_spot(state, body, time_ms, effects)?;
    for chunk in &body.chunks {
        state.chunks.publish(chunk, body.file, file.replicas);
    }
    file.crc = file.combined_crc(&state.chunks);
    state.pending.remove(&body.file);
    effects.ended.push(body.file);
    state.namespace.make_file(spot, body.file, file, time_ms);
    let answer = published_file(state, body.file).ok_or(Refusal::NotFound)?;
    Ok(Answer::File(answer))
}

/// Finds where a file is to appear; a file that is there goes, if it may.
fn free_file_spot(
    state: &mut State,
    body: &FilePublished,
    time_ms: u64,
    effects: &mut Effects,
) -> Result<FreeSpot, Refusal> {
    let path = &body.path;
    if let Spot::Taken(old) = file_spot(state, path, body.parents, body.force)? {
        discard(state, old, path, body.purge, time_ms, effects);
    }
    match state.namespace.spot(path, body.parents)? {
        Spot::Free(spot) => Ok(spot),
        Spot::Taken(_) => Err(Refusal::AlreadyExists),
    }
}

/// What a file is like, in the namespace or the trash.
fn published_file(state: &State, id: FileId) -> Option<PublishedFile> {
    let node = state.namespace.node(id)?;
    let file = node.as_file()?;
    Some(PublishedFile {
        file: id,
        size: file.size,
        modified_ms: node.modified_ms,
        replicas: file.replicas,
        chunks: file.chunk_count(),
        crc: file.crc,
    })
}

/// Step 3 of section 4.11: whether the chunks make up the file, and are the cluster's to give.
fn chunks_are_sound(
    state: &State,
    pending: &PendingFile,
    size: u64,
    chunks: &[PublishedChunk],
) -> bool {
    let last = chunks.len().saturating_sub(1);
    let mut handles = BTreeSet::new();
    let each_is_sound = chunks.iter().enumerate().all(|(index, chunk)| {
        let servers: BTreeSet<ServerId> = chunk.servers.iter().copied().collect();
        let len_fits = match index == last {
            true => chunk.len <= pending.chunk_size,
            false => chunk.len == pending.chunk_size,
        };
        chunk.index as usize == index
            && len_fits
            && !servers.is_empty()
            && servers.len() == chunk.servers.len()
            && chunk.handle < state.handles_end
            && chunk.version < state.versions_end
            && handles.insert(chunk.handle)
            && state.chunks.record(chunk.handle).is_none()
    });
    let sum: u64 = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
    each_is_sound && sum == size
}

// The trash.

fn restore(state: &mut State, body: &TrashRestored, time_ms: u64) -> Result<Answer, Refusal> {
    let trashed = state
        .namespace
        .trash_entry(body.entry)
        .ok_or(Refusal::NotFound)?;
    let target = body.target.as_ref().unwrap_or(&trashed.path).clone();
    let Spot::Free(spot) = state.namespace.spot(&target, true)? else {
        return Err(Refusal::AlreadyExists);
    };
    state.namespace.check_fit(body.entry, &target)?;
    state.namespace.move_node(body.entry, spot, time_ms);
    Ok(Answer::Restored(target))
}

fn empty_trash(
    state: &mut State,
    body: &TrashEmptied,
    time_ms: u64,
    effects: &mut Effects,
) -> Result<Answer, Refusal> {
    let entries: Vec<FileId> = match body.entry {
        FileId::NONE => state.namespace.trash().map(|(id, _)| id).collect(),
        entry if state.namespace.trash_entry(entry).is_some() => vec![entry],
        _ => return Err(Refusal::NotFound),
    };
    Ok(purge_trash(state, &entries, time_ms, effects))
}

fn expire_trash(
    state: &mut State,
    body: &TrashExpired,
    time_ms: u64,
    effects: &mut Effects,
) -> Result<Answer, Refusal> {
    Ok(purge_trash(state, &body.entries, time_ms, effects))
}

fn purge_trash(
    state: &mut State,
    entries: &[FileId],
    time_ms: u64,
    effects: &mut Effects,
) -> Answer {
    let (mut count, mut bytes) = (0, 0_u64);
    for &entry in entries {
        if state.namespace.trash_entry(entry).is_some() {
            count += 1;
            bytes = bytes.saturating_add(files_below(state, entry).1);
            purge_node(state, entry, time_ms, effects);
        }
    }
    Answer::Emptied {
        entries: count,
        bytes,
    }
}

// Open chunks.

fn check_activation(state: &State, body: &Activation) -> Result<(), Refusal> {
    let file = state.namespace.file(body.file).ok_or(Refusal::NotFound)?;
    let version = body.configuration.version;
    let is_sound = body.handle < state.handles_end
        && version < state.versions_end
        && state.chunks.record(body.handle).is_none_or(|record| {
            file.slot(body.index) == Some(body.handle)
                && record.references == 1
                && version > record.version()
        });
    is_sound.then_some(()).ok_or(Refusal::InvalidArgument)
}

/// Carries out an activation that was checked.
fn activate(state: &mut State, body: &Activation, effects: &mut Effects) {
    let Some(file) = state.namespace.file_mut(body.file) else {
        return;
    };
    let slot = body.index as usize;
    if file.slots.len() <= slot {
        file.slots.resize(slot + 1, ChunkHandle::NONE);
    }
    let replicas = file.replicas;
    file.crc = None;
    let old = std::mem::replace(&mut file.slots[slot], body.handle);
    if old != body.handle {
        release(state, old, effects);
        state
            .chunks
            .begin(body.handle, body.file, body.index, replicas);
    }
    if let Some(record) = state.chunks.record_mut(body.handle) {
        record.file = body.file;
        record.index = body.index;
        record.active = Some(body.configuration.clone());
    }
}

fn seal(state: &mut State, body: &ChunkSealed, effects: &mut Effects) -> Result<Answer, Refusal> {
    let record = state
        .chunks
        .record(body.handle)
        .ok_or(Refusal::ChunkUnknown)?;
    let (file_id, index) = (record.file, record.index);
    if body.version >= state.versions_end || body.version < record.version() {
        return Err(Refusal::InvalidArgument);
    }
    match &body.then {
        Then::Nothing => {}
        Then::Next(next) => check_activation(state, next)?,
        Then::Cut { file, .. } => {
            let file = state
                .namespace
                .file(*file)
                .ok_or(Refusal::InvalidArgument)?;
            if !file.slots.contains(&body.handle) {
                return Err(Refusal::InvalidArgument);
            }
        }
    }
    if let Some(record) = state.chunks.record_mut(body.handle) {
        record.sealed = Some(Sealed {
            version: body.version,
            len: body.len,
            crc: body.crc,
        });
        record.active = None;
    }
    if let Some(file) = state.namespace.file_mut(file_id)
        && file.slot(index) == Some(body.handle)
    {
        let end = match &body.then {
            Then::Next(_) => file.slot_offset(index) + u64::from(file.chunk_size),
            _ => file.slot_offset(index) + u64::from(body.len),
        };
        file.size = file.size.max(end);
    }
    match &body.then {
        Then::Nothing => {}
        Then::Next(next) => activate(state, next, effects),
        Then::Cut { file, size } => cut(state, *file, *size, effects),
    }
    settle_crc(state, file_id);
    Ok(Answer::Done)
}

/// Sets a file's size and drops the slots that begin at or beyond it.
fn cut(state: &mut State, id: FileId, size: u64, effects: &mut Effects) {
    let Some(file) = state.namespace.file_mut(id) else {
        return;
    };
    file.size = size;
    let kept = usize::try_from(file.slots_of_size()).unwrap_or(usize::MAX);
    let dropped = file.slots.split_off(kept.min(file.slots.len()));
    for handle in dropped.into_iter().filter(|handle| handle.is_some()) {
        release(state, handle, effects);
    }
    settle_crc(state, id);
}

/// Gives a file its CRC if all its chunks are sealed, and takes it away if not.
fn settle_crc(state: &mut State, id: FileId) {
    let crc = state
        .namespace
        .file(id)
        .and_then(|file| file.combined_crc(&state.chunks));
    if let Some(file) = state.namespace.file_mut(id) {
        file.crc = crc;
    }
}

fn mark_loss(state: &mut State, body: &PossibleLoss, time_ms: u64) -> Result<Answer, Refusal> {
    let record = state
        .chunks
        .record_mut(body.handle)
        .ok_or(Refusal::ChunkUnknown)?;
    if record.losses.len() == LOSSES_MAX {
        record.losses.remove(0);
    }
    record.losses.push(Loss {
        version: body.version,
        serial: body.serial,
        cause: body.cause,
        time_ms,
    });
    Ok(Answer::Done)
}

#[cfg(test)]
mod tests;
