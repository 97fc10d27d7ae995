//! What entries do to folders, names and the trash
//! (`spec/oplog-entries.md` sections 4.8 and 4.12 to 4.16).

use sarsen_protocol::id::FileId;

use super::Effects;
use crate::core::command::{
    FolderMade, Removed, Renamed, TrashEmptied, TrashExpired, TrashRestored,
};
use crate::core::namespace::Spot;
use crate::core::path::Path;
use crate::core::refusal::Refusal;
use crate::core::session::Answer;
use crate::core::state::State;

pub(super) fn make_folder(
    state: &mut State,
    body: &FolderMade,
    time_ms: u64,
) -> Result<Answer, Refusal> {
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

pub(super) fn rename(state: &mut State, body: &Renamed, time_ms: u64) -> Result<Answer, Refusal> {
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

pub(super) fn remove(
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
pub(super) fn discard(
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
            effects.release(state, handle);
        }
    }
}

pub(super) fn restore(
    state: &mut State,
    body: &TrashRestored,
    time_ms: u64,
) -> Result<Answer, Refusal> {
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

pub(super) fn empty_trash(
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

pub(super) fn expire_trash(
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
