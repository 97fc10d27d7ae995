//! What entries do to chunks that are open, or were
//! (`spec/oplog-entries.md` sections 4.17 to 4.20).

use sarsen_protocol::id::{ChunkHandle, FileId};

use super::Effects;
use super::uploads::published_file;
use crate::core::chunk_table::{LOSSES_MAX, Loss, Sealed};
use crate::core::command::{Activation, ChunkSealed, FileResized, PossibleLoss, SLOTS_MAX, Then};
use crate::core::file::File;
use crate::core::refusal::Refusal;
use crate::core::session::Answer;
use crate::core::state::State;

/// Opens a chunk, or lets it go on with other members.
pub(super) fn activate_if_sound(
    state: &mut State,
    body: &Activation,
    effects: &mut Effects,
) -> Result<Answer, Refusal> {
    check_activation(state, body)?;
    activate(state, body, effects);
    Ok(Answer::Done)
}

fn check_activation(state: &State, body: &Activation) -> Result<(), Refusal> {
    let file = state.namespace.file(body.file).ok_or(Refusal::NotFound)?;
    let version = body.configuration.version;
    // What a slot names alone would be gone. Only a shared chunk gives its slot to a clone.
    let is_the_last = |named| {
        let record = state.chunks.record(named);
        named != body.handle && record.is_some_and(|record| record.references < 2)
    };
    let is_sound = body.handle < state.handles_end
        && version < state.versions_end
        && !file.slot(body.index).is_some_and(is_the_last)
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
        effects.release(state, old);
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

/// Seals a chunk; its file grows, goes on in a next chunk, or is cut. Whoever asked is told of
/// the file.
pub(super) fn seal(
    state: &mut State,
    body: &ChunkSealed,
    is_request: bool,
    time_ms: u64,
    effects: &mut Effects,
) -> Result<Answer, Refusal> {
    let record = state
        .chunks
        .record(body.handle)
        .ok_or(Refusal::ChunkUnknown)?;
    let (file_id, index, before) = (record.file, record.index, record.sealed);
    if body.len > state.cluster.chunk_size
        || body.version >= state.versions_end
        || body.version < record.version()
    {
        return Err(Refusal::InvalidArgument);
    }
    check_continuation(state, body)?;
    if let Some(record) = state.chunks.record_mut(body.handle) {
        record.sealed = Some(Sealed {
            version: body.version,
            len: body.len,
            crc: body.crc,
        });
        record.active = None;
    }
    let shape = shape_of(state, file_id);
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
    let bytes_differ = before.is_none_or(|was| (was.len, was.crc) != (body.len, body.crc));
    if bytes_differ || shape != shape_of(state, file_id) {
        state.namespace.touch(file_id, time_ms);
    }
    let answer = published_file(state, file_id).filter(|_| is_request);
    Ok(answer.map_or(Answer::Done, Answer::File))
}

/// Whether what a seal does to its file besides can be done.
fn check_continuation(state: &State, body: &ChunkSealed) -> Result<(), Refusal> {
    match &body.then {
        Then::Nothing => Ok(()),
        Then::Next(next) => check_activation(state, next),
        Then::Cut { file, .. } => state
            .namespace
            .file(*file)
            .filter(|file| file.slots.contains(&body.handle))
            .map(drop)
            .ok_or(Refusal::InvalidArgument),
    }
}

/// Size and slots of a file: what a seal may change of it beside a chunk's bytes.
fn shape_of(state: &State, file: FileId) -> Option<(u64, usize)> {
    let file = state.namespace.file(file)?;
    Some((file.size, file.slots.len()))
}

/// Cuts a file where no chunk has to be cut for it, or extends it.
pub(super) fn resize(
    state: &mut State,
    body: &FileResized,
    time_ms: u64,
    effects: &mut Effects,
) -> Result<Answer, Refusal> {
    let FileResized { file: id, size } = *body;
    let file = state.namespace.file(id);
    let file = file.filter(|_| !state.namespace.is_in_trash(id));
    let file = file.ok_or(Refusal::NotFound)?;
    if size.div_ceil(u64::from(file.chunk_size)) > SLOTS_MAX as u64 {
        return Err(Refusal::TooLarge);
    }
    check_slots(state, file, size)?;
    cut(state, id, size, effects);
    state.namespace.touch(id, time_ms);
    let answer = published_file(state, id).ok_or(Refusal::NotFound)?;
    Ok(Answer::File(answer))
}

/// Whether every chunk of a file that a new size concerns is sealed, and none reaches beyond it.
fn check_slots(state: &State, file: &File, size: u64) -> Result<(), Refusal> {
    let last = file.slots.len().saturating_sub(1);
    for (index, handle) in file.chunks() {
        let end = file.slot_offset(index) + u64::from(file.chunk_size);
        if end <= size && index as usize != last {
            continue;
        }
        let record = state
            .chunks
            .record(handle)
            .ok_or(Refusal::InvalidArgument)?;
        let Some(sealed) = record.at_rest() else {
            return Err(Refusal::ChunkOpen);
        };
        let begin = file.slot_offset(index);
        if begin < size && begin + u64::from(sealed.len) > size {
            return Err(Refusal::InvalidArgument);
        }
    }
    Ok(())
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
        effects.release(state, handle);
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

/// Keeps a mark of what may be gone beside its chunk.
pub(super) fn mark_loss(
    state: &mut State,
    body: &PossibleLoss,
    time_ms: u64,
) -> Result<Answer, Refusal> {
    let record = state
        .chunks
        .record_mut(body.handle)
        .ok_or(Refusal::ChunkUnknown)?;
    // What follows it may have come to nothing, and the next attempt says it again.
    let is_known = record.losses.iter().any(|loss| {
        (loss.version, loss.serial, loss.cause) == (body.version, body.serial, body.cause)
    });
    if is_known {
        return Ok(Answer::Done);
    }
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
