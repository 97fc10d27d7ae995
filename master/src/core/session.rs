//! Sessions and the answers that they keep, so that a request is done once
//! (`spec/oplog-entries.md` section 5).
//!
//! An answer is kept from the entry that carried the request out until the client says, by the
//! lowest outstanding number of a later request, that it has it. Nothing of this is in memory
//! only: a request sent again after a restart of the master gets its first answer. Refusals of
//! which nothing was logged are the machine's to keep.

use std::collections::BTreeMap;

use sarsen_protocol::id::{FileId, RequestId, SessionId};
use sarsen_protocol::sabotage::{Check, is_in_force};

use super::path::Path;
use super::refusal::Refusal;

/// What a request was answered with, without what can be looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done, and there is nothing to tell.
    Done,
    /// Done; the id of what was made: a folder, a session, a server, as the command says.
    Id(u64),
    /// Refused.
    Refused(Refusal),
    /// An upload begins.
    Pending {
        /// The pending file.
        file: FileId,
        /// Copies wanted of each chunk.
        replicas: u8,
    },
    /// A file was published.
    File(PublishedFile),
    /// A file or tree was removed.
    Removed {
        /// How many files went.
        files: u64,
        /// The sum of their sizes.
        bytes: u64,
    },
    /// A trash entry came back.
    Restored(Path),
    /// Trash entries went for good.
    Emptied {
        /// How many.
        entries: u64,
        /// The sum of their files' sizes.
        bytes: u64,
    },
}

/// A file as its publication left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedFile {
    /// Its id.
    pub file: FileId,
    /// Its bytes.
    pub size: u64,
    /// When it was published.
    pub modified_ms: u64,
    /// Copies wanted of each chunk.
    pub replicas: u8,
    /// How many chunks it has.
    pub chunks: u32,
    /// Of all bytes; `None` while a chunk is open.
    pub crc: Option<u32>,
}

/// A client's standing with the master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Drawn by the client.
    pub nonce: [u8; 16],
    /// What the client calls itself.
    pub client: String,
    /// When it was opened.
    pub opened_ms: u64,
    /// The lowest request number that the client may still ask about.
    pub lowest: u64,
    /// The answers to requests from `lowest` on.
    pub answers: BTreeMap<u64, Answer>,
}

/// What is to be done about a request id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The request is new: carry it out, and [`Sessions::keep`] its answer.
    New,
    /// It was carried out already, with this answer; or it can't be.
    Answered(Answer),
}

/// All sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sessions {
    sessions: BTreeMap<SessionId, Session>,
    by_nonce: BTreeMap<[u8; 16], SessionId>,
    /// The next id to be drawn.
    pub(super) next: u64,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            sessions: BTreeMap::new(),
            by_nonce: BTreeMap::new(),
            next: 1,
        }
    }
}

impl Sessions {
    /// One session.
    #[must_use]
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(&id)
    }

    /// What a request can be answered with at once: its first answer, or why it has none.
    #[must_use]
    pub fn answer(&self, request: RequestId) -> Option<Answer> {
        let Some(session) = self.session(request.session) else {
            return Some(Answer::Refused(Refusal::SessionUnknown));
        };
        if request.number < session.lowest {
            return Some(Answer::Refused(Refusal::RequestForgotten));
        }
        let kept = session.answers.get(&request.number).cloned();
        kept.filter(|_| is_in_force(Check::RequestOnce))
    }

    /// The id that the next session gets.
    #[must_use]
    pub const fn next_id(&self) -> SessionId {
        SessionId(self.next)
    }

    /// All of them, by id.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (SessionId, &Session)> {
        self.sessions.iter().map(|(&id, session)| (id, session))
    }

    /// Opens a session, or finds the one that this nonce opened.
    pub(super) fn open(&mut self, nonce: [u8; 16], client: String, opened_ms: u64) -> SessionId {
        if let Some(&id) = self.by_nonce.get(&nonce) {
            return id;
        }
        let id = SessionId(self.next);
        self.next += 1;
        let session = Session {
            nonce,
            client,
            opened_ms,
            lowest: 1,
            answers: BTreeMap::new(),
        };
        self.restore(id, session);
        id
    }

    /// Takes a row of a checkpoint; `false` if its id or nonce is there already.
    pub(super) fn restore(&mut self, id: SessionId, session: Session) -> bool {
        let nonce_is_new = self.by_nonce.insert(session.nonce, id).is_none();
        self.sessions.insert(id, session).is_none() && nonce_is_new
    }

    /// Ends a session: whether it was there.
    pub(super) fn close(&mut self, id: SessionId) -> bool {
        let Some(session) = self.sessions.remove(&id) else {
            return false;
        };
        self.by_nonce.remove(&session.nonce);
        true
    }

    /// What to do about a request: steps 1 to 4 of section 5.
    pub(super) fn admit(&mut self, request: RequestId) -> Admission {
        let Some(session) = self.sessions.get_mut(&request.session) else {
            return Admission::Answered(Answer::Refused(Refusal::SessionUnknown));
        };
        if request.number < session.lowest {
            return Admission::Answered(Answer::Refused(Refusal::RequestForgotten));
        }
        if request.lowest_outstanding > session.lowest {
            session.lowest = request.lowest_outstanding;
            session.answers = session.answers.split_off(&session.lowest);
        }
        match session.answers.get(&request.number) {
            Some(answer) if is_in_force(Check::RequestOnce) => Admission::Answered(answer.clone()),
            _ => Admission::New,
        }
    }

    /// Keeps the answer to a request that was admitted: step 5 of section 5.
    pub(super) fn keep(&mut self, request: RequestId, answer: Answer) {
        // A command closes no session that it came from, so the session is there.
        if let Some(session) = self.sessions.get_mut(&request.session) {
            session.answers.insert(request.number, answer);
        }
    }
}
