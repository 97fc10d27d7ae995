//! Requests that change the state: from message to command, from answer to reply.
//!
//! A request is looked up first: answered before, on its way, or new. What can be refused
//! without knowing the state (a malformed path, a field that no entry can hold, safe mode) is
//! refused here; everything else is decided when the entry is applied.

use std::mem::discriminant;

use sarsen_protocol::id::{ChunkHandle, FileId, RequestId, ServerId, SessionId};
use sarsen_protocol::message::{
    AbortPending, AnyMessage, CreatePending, EmptyTrash, FileMade, FolderMade, MakeFile,
    MakeFolder, Node, NodeType, PendingAborted, PendingCreated, Publish, Published, Remove,
    Removed, Rename, Renamed, RestoreTrash, SessionClosed, SessionOpened, TrashEmptied,
    TrashRestored, Truncated,
};
use sarsen_protocol::sabotage::{Check, is_in_force};
use sarsen_protocol::status::Status;

use super::{Machine, Waiter, millis};
use crate::core::action::{Action, Failure};
use crate::core::command::{self, Command, FilePublished, PublishedChunk};
use crate::core::event::Token;
use crate::core::path::Path;
use crate::core::session::{Answer, PublishedFile};

/// Requests that a session may have outstanding between its lowest and its highest.
pub(super) const OUTSTANDING_MAX: u64 = 65_536;

/// Which request an entry carries out: decides what its answer looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    OpenSession,
    CloseSession,
    MakeFolder,
    MakeFile,
    /// And whose chunks come with the answer, as many as this.
    CreatePending {
        session: SessionId,
        count: u16,
    },
    Publish,
    AbortPending,
    Rename,
    Remove,
    RestoreTrash,
    EmptyTrash,
    Truncate,
    /// Of which chunk, and whose copy is taken if that is known yet.
    AcceptLoss(ChunkHandle, ServerId),
}

impl Asked {
    /// Whether it is of the same kind: then one may have the other's answer.
    pub(super) fn is_like(self, other: Self) -> bool {
        discriminant(&self) == discriminant(&other)
    }
}

/// A change on its way into the log.
struct Change {
    asked: Asked,
    request: Option<RequestId>,
    command: Command,
}

impl Machine {
    /// Takes a request that changes the state.
    pub(super) fn change(&mut self, to: Token, message: AnyMessage) {
        let done = self
            .translate(message)
            .and_then(|change| self.submit(to, change));
        if let Err(failure) = done {
            self.refuse(to, failure);
        }
    }

    fn submit(&mut self, to: Token, change: Change) -> Result<(), Failure> {
        let Change {
            asked,
            request,
            command,
        } = change;
        command.check().map_err(|error| {
            let text = format!("a field is out of its bounds: {error}");
            Failure::new(Status::InvalidArgument, text)
        })?;
        if let Some(request) = request {
            self.keep_session(request.session)?;
            if self.is_answered(to, request, asked) {
                return Ok(());
            }
            if self.is_in_flight(to, request, asked) {
                return Ok(());
            }
            let checked = self.check_admissible(request);
            if let Err(failure) = checked.and_then(|()| self.check_command(&command)) {
                self.refusals.keep(request, failure.status);
                return Err(failure);
            }
        }
        if let Command::PendingCreated(_) = command {
            // Logged first, so that whoever is answered finds chunks to be given out.
            self.reserve_ranges(0);
        }
        self.append_for(command, request, vec![Waiter::Request(to, asked)]);
        Ok(())
    }

    /// Whether a request is on its way to the log: then whoever asked is told with the first. Nobody takes
    /// the answer of another kind of request.
    pub(super) fn is_in_flight(&mut self, to: Token, request: RequestId, asked: Asked) -> bool {
        let key = (request.session, request.number);
        let index = self.requests_in_flight.get(&key);
        let Some(in_flight) = index.and_then(|index| self.in_flight.get_mut(index)) else {
            return false;
        };
        let is_another = |waiter: &Waiter| match waiter {
            Waiter::Request(_, first) => !first.is_like(asked),
            _ => false,
        };
        match in_flight.waiters.iter().any(is_another) {
            true => self.refuse(to, another_kind()),
            false => in_flight.waiters.push(Waiter::Request(to, asked)),
        }
        true
    }

    /// Gives a request the answer that it got before, if it got one that is kept, or says that it
    /// can't have any.
    pub(super) fn is_answered(&mut self, to: Token, request: RequestId, asked: Asked) -> bool {
        let reply = match self.state.sessions.answer(request) {
            Some(answer) => self.reply_to(asked, &answer),
            None => match self.refusals.status(request) {
                Some(status) => Err(status.into()),
                None => return false,
            },
        };
        self.actions.push_back(Action::Reply { to, reply });
        true
    }

    /// Refuses a request of which nothing was logged.
    pub(super) fn refuse_request(&mut self, to: Token, request: RequestId, failure: Failure) {
        // Of a session that ended meanwhile nobody would take it away again.
        if self.kept.contains_key(&request.session) {
            self.refusals.keep(request, failure.status);
        }
        self.refuse(to, failure);
    }

    /// Whether changes are taken at all.
    pub(super) fn check_writable(&self) -> Result<(), Failure> {
        if self.is_read_only {
            return Err(Status::ReadOnly.into());
        }
        if self.is_safe_mode() && is_in_force(Check::SafeMode) {
            let retry_after = millis(self.config.heartbeat);
            return Err(Failure::from(Status::SafeMode).retry_after(retry_after));
        }
        Ok(())
    }

    pub(super) fn check_admissible(&self, request: RequestId) -> Result<(), Failure> {
        self.check_writable()?;
        if request.number - request.lowest_outstanding >= OUTSTANDING_MAX {
            let text = "too many requests of this session are outstanding";
            return Err(Failure::new(Status::TooLarge, text));
        }
        Ok(())
    }

    /// What only this master knows and applying can't check.
    fn check_command(&self, command: &Command) -> Result<(), Failure> {
        match command {
            Command::PendingCreated(body) => self.check_servers_for(body.replicas),
            Command::FileMade(body) => self.check_servers_for(body.replicas),
            Command::FilePublished(body) => self.check_publication(body),
            _ => Ok(()),
        }
    }

    /// Notes that a session is alive.
    ///
    /// One whose end is on its way to the disk can't be kept any more.
    pub(super) fn keep_session(&mut self, session: SessionId) -> Result<(), Failure> {
        if self.expiring_sessions.contains(&session) {
            return Err(Status::SessionUnknown.into());
        }
        let kept = self.kept.get_mut(&session).ok_or(Status::SessionUnknown)?;
        *kept = self.now.elapsed;
        Ok(())
    }

    fn translate(&self, message: AnyMessage) -> Result<Change, Failure> {
        let (asked, request, command) = match message {
            AnyMessage::OpenSession(open) => {
                let body = command::SessionOpened {
                    nonce: open.nonce,
                    client: open.name,
                };
                (Asked::OpenSession, None, body.into())
            }
            AnyMessage::CloseSession(close) => {
                let body = command::SessionsClosed {
                    sessions: vec![close.session],
                };
                (Asked::CloseSession, None, body.into())
            }
            AnyMessage::MakeFolder(MakeFolder {
                request,
                path,
                parents,
            }) => {
                let body = command::FolderMade {
                    parents,
                    path: parse(&path)?,
                };
                (Asked::MakeFolder, Some(request), body.into())
            }
            AnyMessage::MakeFile(MakeFile {
                request,
                path,
                replicas,
                parents,
            }) => {
                let body = command::FileMade {
                    parents,
                    replicas: self.replicas_of(replicas),
                    chunk_size: self.state.cluster.chunk_size,
                    path: parse(&path)?,
                };
                (Asked::MakeFile, Some(request), body.into())
            }
            AnyMessage::CreatePending(create) => (
                Asked::CreatePending {
                    session: create.request.session,
                    count: create.count,
                },
                Some(create.request),
                self.pending_created(&create)?,
            ),
            AnyMessage::Publish(publish) => (
                Asked::Publish,
                Some(publish.request),
                file_published(self.without_idle_chunks(publish))?,
            ),
            AnyMessage::AbortPending(AbortPending { request, file_id }) => {
                check_named(file_id)?;
                let body = command::PendingAborted { file: file_id };
                (Asked::AbortPending, Some(request), body.into())
            }
            AnyMessage::Rename(Rename {
                request,
                source,
                target,
            }) => {
                let (source, target) = (parse(&source)?, parse(&target)?);
                let body = command::Renamed { source, target };
                (Asked::Rename, Some(request), body.into())
            }
            AnyMessage::Remove(Remove {
                request,
                path,
                recursive,
                purge,
            }) => {
                let body = command::Removed {
                    recursive,
                    purge,
                    path: parse(&path)?,
                };
                (Asked::Remove, Some(request), body.into())
            }
            AnyMessage::RestoreTrash(RestoreTrash {
                request,
                entry,
                target,
            }) => {
                check_named(FileId(entry))?;
                let target = (!target.is_empty()).then(|| parse(&target)).transpose()?;
                let body = command::TrashRestored {
                    entry: FileId(entry),
                    target,
                };
                (Asked::RestoreTrash, Some(request), body.into())
            }
            AnyMessage::EmptyTrash(EmptyTrash { request, entry }) => {
                let body = command::TrashEmptied {
                    entry: FileId(entry),
                };
                (Asked::EmptyTrash, Some(request), body.into())
            }
            other => {
                let text = format!("{} changes nothing", other.kind().name());
                return Err(Failure::new(Status::Internal, text));
            }
        };
        Ok(Change {
            asked,
            request,
            command,
        })
    }

    fn pending_created(&self, create: &CreatePending) -> Result<Command, Failure> {
        let body = command::PendingCreated {
            parents: create.parents,
            force: create.force,
            replicas: self.replicas_of(create.replicas),
            level: create.level,
            chunk_size: self.state.cluster.chunk_size,
            path: parse(&create.path)?,
        };
        Ok(body.into())
    }

    /// The copies that a new file wants, of which 0 were asked for where the cluster decides.
    const fn replicas_of(&self, asked: u8) -> u8 {
        match asked {
            0 => self.config.replicas,
            asked => asked,
        }
    }

    /// What an answer looks like to whoever asked. Chunks that come with it are drawn anew each
    /// time, since nothing of them is logged.
    pub(super) fn reply_to(
        &mut self,
        asked: Asked,
        answer: &Answer,
    ) -> Result<AnyMessage, Failure> {
        let reply = match (asked, answer) {
            (_, Answer::Refused(refusal)) => return Err(refusal.status().into()),
            (Asked::OpenSession, Answer::Id(id)) => self.session_opened(SessionId(*id)).into(),
            (Asked::CloseSession, Answer::Done) => SessionClosed.into(),
            (Asked::MakeFolder, Answer::Id(id)) => FolderMade {
                file_id: FileId(*id),
            }
            .into(),
            (Asked::CreatePending { session, count }, &Answer::Pending { file, replicas }) => {
                PendingCreated {
                    file_id: file,
                    chunk_size: self.state.cluster.chunk_size,
                    replicas,
                    chunks: self.first_chunks(session, file, count),
                }
                .into()
            }
            (Asked::MakeFile, Answer::File(file)) => FileMade {
                node: published_node(file),
            }
            .into(),
            (Asked::Truncate, Answer::File(file)) => Truncated {
                node: published_node(file),
            }
            .into(),
            (Asked::AcceptLoss(handle, holder), Answer::File(_)) => {
                self.loss_accepted(handle, holder)?.into()
            }
            (Asked::Publish, Answer::File(file)) => Published {
                node: published_node(file),
            }
            .into(),
            (Asked::AbortPending, Answer::Done) => PendingAborted.into(),
            (Asked::Rename, Answer::Done) => Renamed.into(),
            (Asked::Remove, &Answer::Removed { files, bytes }) => Removed { files, bytes }.into(),
            (Asked::RestoreTrash, Answer::Restored(path)) => TrashRestored {
                path: path.to_string(),
            }
            .into(),
            (Asked::EmptyTrash, &Answer::Emptied { entries, bytes }) => {
                TrashEmptied { entries, bytes }.into()
            }
            _ => return Err(another_kind()),
        };
        Ok(reply)
    }

    fn session_opened(&self, session: SessionId) -> SessionOpened {
        SessionOpened {
            session,
            expiry: millis(self.config.pending_expiry),
            chunk_size: self.state.cluster.chunk_size,
            replicas: self.config.replicas,
            min_replicas: self.config.min_replicas,
            lease: millis(self.config.lease),
            suspect_after: millis(self.config.suspect_after),
        }
    }
}

/// Takes a text from a request for a path.
pub(super) fn parse(text: &str) -> Result<Path, Failure> {
    Path::parse(text).map_err(|error| Failure::new(Status::NameInvalid, error.to_string()))
}

/// What is told to a request whose number another one has (`spec/wire.md` section 3).
pub(super) fn another_kind() -> Failure {
    let text = "this request id was used for another kind of request";
    Failure::new(Status::InvalidArgument, text)
}

fn check_named(file: FileId) -> Result<(), Failure> {
    match file.is_some() {
        true => Ok(()),
        false => Err(Failure::new(Status::InvalidArgument, "0 names nothing")),
    }
}

fn file_published(publish: Publish) -> Result<Command, Failure> {
    check_named(publish.file_id)?;
    let chunks = publish.chunks.into_iter().map(|chunk| PublishedChunk {
        index: chunk.index,
        handle: chunk.handle,
        version: chunk.version,
        len: chunk.length,
        crc: chunk.crc32,
        servers: chunk.servers,
    });
    let body = FilePublished {
        parents: publish.parents,
        force: publish.force,
        purge: publish.purge,
        file: publish.file_id,
        size: publish.size,
        path: parse(&publish.path)?,
        chunks: chunks.collect(),
    };
    Ok(body.into())
}

fn published_node(file: &PublishedFile) -> Node {
    Node {
        file_id: file.file,
        node_type: NodeType::File,
        size: file.size,
        mtime: file.modified_ms,
        replicas: file.replicas,
        chunks: file.chunks,
        sealed: file.crc.is_some(),
        crc32: file.crc.unwrap_or(0),
    }
}
