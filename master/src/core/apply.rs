//! How an entry changes the state (`spec/oplog-entries.md` sections 4 and 5).
//!
//! [`apply`] is the only thing that does. It looks at nothing but the state and the entry, so
//! that a replay, a second master or a test gets the same state; it is called once an entry is
//! durable, in the order of the indexes. It checks everything anew: whoever appended the entry
//! could not know what the entries before it, still on their way to the disk, would do.

mod chunks;
mod cluster;
mod names;
#[cfg(test)]
mod tests;
mod uploads;

use sarsen_protocol::id::{ChunkHandle, FileId, SessionId};

use super::command::{Command, Entry};
use super::refusal::Refusal;
use super::session::{Admission, Answer};
use super::state::State;

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

impl Effects {
    /// A slot no longer names a chunk.
    fn release(&mut self, state: &mut State, handle: ChunkHandle) {
        if state.chunks.release(handle) {
            self.dropped.push(handle);
        }
    }
}

fn carry_out(state: &mut State, entry: &Entry, effects: &mut Effects) -> Result<Answer, Refusal> {
    let Entry {
        time_ms,
        request,
        ref command,
        ..
    } = *entry;
    let is_genesis = matches!(command, Command::Genesis(_));
    let request_fits = command
        .wants_request()
        .is_none_or(|wanted| wanted == request.is_some());
    if is_genesis != (entry.index == 1) || !request_fits {
        return Err(Refusal::InvalidArgument);
    }
    let session = request.map_or(SessionId::NONE, |request| request.session);
    match command {
        Command::Genesis(body) => cluster::found(state, body),
        Command::EpochRaised(body) => cluster::raise_epoch(state, body),
        Command::RangesReserved(body) => cluster::reserve_ranges(state, body),
        Command::SessionOpened(body) => cluster::open_session(state, body, time_ms),
        Command::SessionsClosed(body) => cluster::close_sessions(state, body, effects),
        Command::ServerRegistered(body) => cluster::register_server(state, body),
        Command::DirectoryStarted(body) => cluster::start_directory(state, body),
        Command::FolderMade(body) => names::make_folder(state, body, time_ms),
        Command::FileMade(body) => uploads::make_file(state, body, time_ms),
        Command::PendingCreated(body) => uploads::create_pending(state, body, session, time_ms),
        Command::PendingAborted(body) => uploads::abort_pending(state, body, session, effects),
        Command::FilePublished(body) => uploads::publish(state, body, session, time_ms, effects),
        Command::Renamed(body) => names::rename(state, body, time_ms),
        Command::Removed(body) => names::remove(state, body, time_ms, effects),
        Command::TrashRestored(body) => names::restore(state, body, time_ms),
        Command::TrashEmptied(body) => names::empty_trash(state, body, time_ms, effects),
        Command::TrashExpired(body) => names::expire_trash(state, body, time_ms, effects),
        Command::ChunkActivated(body) => chunks::activate_if_sound(state, body, effects),
        Command::ChunkSealed(body) => {
            chunks::seal(state, body, request.is_some(), time_ms, effects)
        }
        Command::PossibleLoss(body) => chunks::mark_loss(state, body, time_ms),
        Command::FileResized(body) => chunks::resize(state, body, time_ms, effects),
    }
}
