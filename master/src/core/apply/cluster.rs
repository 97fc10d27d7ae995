//! What entries do to the cluster, its sessions and servers
//! (`spec/oplog-entries.md` sections 4.1 to 4.7).

use std::collections::BTreeSet;

use sarsen_protocol::id::ServerId;

use super::Effects;
use crate::core::command::{
    DirectoryStarted, EpochRaised, Genesis, RangesReserved, ServerRegistered, SessionOpened,
    SessionsClosed,
};
use crate::core::namespace::ROOT;
use crate::core::refusal::Refusal;
use crate::core::session::Answer;
use crate::core::state::{Cluster, DirectoryRecord, ServerRecord, State};

pub(super) fn found(state: &mut State, body: &Genesis) -> Result<Answer, Refusal> {
    state.cluster = Cluster {
        id: body.cluster,
        chunk_size: body.chunk_size,
        ticket_key: body.ticket_key.clone(),
    };
    state.namespace.touch(ROOT, state.time_ms);
    Ok(Answer::Done)
}

pub(super) fn raise_epoch(state: &mut State, body: &EpochRaised) -> Result<Answer, Refusal> {
    if body.epoch.number <= state.epoch.number {
        return Err(Refusal::StaleEpoch);
    }
    state.epoch = body.epoch;
    Ok(Answer::Done)
}

pub(super) fn reserve_ranges(state: &mut State, body: &RangesReserved) -> Result<Answer, Refusal> {
    if body.handles_end < state.handles_end.0 || body.versions_end < state.versions_end.0 {
        return Err(Refusal::InvalidArgument);
    }
    state.handles_end.0 = body.handles_end;
    state.versions_end.0 = body.versions_end;
    Ok(Answer::Done)
}

pub(super) fn open_session(
    state: &mut State,
    body: &SessionOpened,
    time_ms: u64,
) -> Result<Answer, Refusal> {
    let id = state
        .sessions
        .open(body.nonce, body.client.clone(), time_ms);
    Ok(Answer::Id(id.0))
}

pub(super) fn close_sessions(
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

pub(super) fn register_server(
    state: &mut State,
    body: &ServerRegistered,
) -> Result<Answer, Refusal> {
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

pub(super) fn start_directory(
    state: &mut State,
    body: &DirectoryStarted,
) -> Result<Answer, Refusal> {
    let servers = &mut state.servers;
    let start = DirectoryRecord {
        server: body.server,
        start_number: body.start_number,
        start_nonce: body.start_nonce,
    };
    servers.admit_start(body.directory, &start)?;
    servers.directories.insert(body.directory, start);
    Ok(Answer::Done)
}
