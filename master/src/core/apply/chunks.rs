//! What entries do to chunks that are open, or were
//! (`spec/oplog-entries.md` sections 4.17 to 4.19).

use sarsen_protocol::id::{ChunkHandle, FileId};

use super::Effects;
use crate::core::chunk_table::{LOSSES_MAX, Loss, Sealed};
use crate::core::command::{Activation, ChunkSealed, PossibleLoss, Then};
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

/// Seals a chunk; its file grows, goes on in a next chunk, or is cut.
pub(super) fn seal(
    state: &mut State,
    body: &ChunkSealed,
    effects: &mut Effects,
) -> Result<Answer, Refusal> {
    let record = state
        .chunks
        .record(body.handle)
        .ok_or(Refusal::ChunkUnknown)?;
    let (file_id, index) = (record.file, record.index);
    if body.len > state.cluster.chunk_size
        || body.version >= state.versions_end
        || body.version < record.version()
    {
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
