//! What entries do to pending files, and how a file comes to be: out of one, or empty
//! (`spec/oplog-entries.md` sections 4.9 to 4.11 and 4.21).

use std::collections::BTreeSet;

use sarsen_protocol::id::{FileId, ServerId, SessionId};

use super::Effects;
use super::names::discard;
use crate::core::command::{
    FileMade, FilePublished, PendingAborted, PendingCreated, PublishedChunk,
};
use crate::core::file::{File, PendingFile};
use crate::core::namespace::{FreeSpot, Spot};
use crate::core::path::Path;
use crate::core::refusal::Refusal;
use crate::core::session::{Answer, PublishedFile};
use crate::core::state::State;

pub(super) fn create_pending(
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

pub(super) fn make_file(
    state: &mut State,
    body: &FileMade,
    time_ms: u64,
) -> Result<Answer, Refusal> {
    let Spot::Free(spot) = file_spot(state, &body.path, body.parents, false)? else {
        return Err(Refusal::AlreadyExists);
    };
    if body.chunk_size != state.cluster.chunk_size {
        return Err(Refusal::InvalidArgument);
    }
    let mut file = File {
        size: 0,
        chunk_size: body.chunk_size,
        replicas: body.replicas,
        crc: None,
        slots: Vec::new(),
    };
    file.crc = file.combined_crc(&state.chunks);
    let id = state.namespace.make_new_file(spot, file, time_ms);
    let answer = published_file(state, id).ok_or(Refusal::NotFound)?;
    Ok(Answer::File(answer))
}

/// Where a file may appear: free, or with `force` taken by a file.
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

pub(super) fn abort_pending(
    state: &mut State,
    body: &PendingAborted,
    session: SessionId,
    effects: &mut Effects,
) -> Result<Answer, Refusal> {
    let pending = state.pending.get(&body.file);
    if pending.is_some_and(|pending| pending.session == session) {
        state.pending.remove(&body.file);
        effects.ended.push(body.file);
    }
    Ok(Answer::Done)
}

pub(super) fn publish(
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
pub(super) fn published_file(state: &State, id: FileId) -> Option<PublishedFile> {
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
