//! The control port: what clients and other chunkservers ask about chunks
//! (`spec/messages.md` sections 11 and 14.4).

use std::sync::Arc;

use sarsen_edge::connection::{Connection, Request};
use sarsen_edge::strangers::{Stranger, Strangers};
use sarsen_protocol::id::{ChunkHandle, ChunkVersion};
use sarsen_protocol::id_row::IdRowKind;
use sarsen_protocol::message::{
    AnyMessage, ChunkCrcs, ChunkCrcsReply, ChunkState, ChunkStatus, ChunkStatusReply, ErrorBody,
    FindRequests, FoundKind, FoundRequest, Kind, Newest, RequestsFound,
};
use sarsen_protocol::status::Status;
use sarsen_protocol::ticket::{Ticket, TicketError};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Duration, sleep};

use super::leases;
use super::orders::refusal;
use crate::core::event::Refusal;
use crate::core::tickets;
use crate::net::Chunkserver;
use crate::net::chunkserver::wall_clock;
use crate::net::members::Untold;
use crate::store::open_chunk::Lookup;
use crate::store::{Directory, SealedIds};

/// Connections to the control port.
const CONNECTIONS_MAX: usize = 4096;

/// Connections that have not said hello yet.
const STRANGERS_MAX: usize = 256;

/// How long accepting rests when the system has no descriptor to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the control port for as long as the program runs.
pub(super) async fn serve(listener: TcpListener, chunkserver: Arc<Chunkserver>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let strangers = Strangers::new(STRANGERS_MAX);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (permits, stranger) = (Arc::clone(&permits), strangers.enter());
                let chunkserver = Arc::clone(&chunkserver);
                tokio::spawn(async move {
                    connection(stream, stranger, &permits, &chunkserver).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a control connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    stranger: Stranger,
    permits: &Semaphore,
    chunkserver: &Arc<Chunkserver>,
) {
    let (identity, key) = (chunkserver.identity(), chunkserver.key());
    let accepted = tokio::select! {
        accepted = Connection::accept(stream, identity, &key) => accepted,
        () = stranger.ousted() => {
            chunkserver.counters.hello_failures.add(1);
            return tracing::info!("a control connection had to go before its hello");
        }
    };
    drop(stranger);
    let (connection, mut incoming) = match accepted {
        Ok(accepted) => accepted,
        Err(error) => {
            chunkserver.counters.hello_failures.add(1);
            return tracing::info!(%error, "a control connection failed its hello");
        }
    };
    let Ok(_permit) = permits.try_acquire() else {
        return connection.goodbye(Status::Overloaded, "too many connections; try again later");
    };
    while let Some(request) = incoming.next().await {
        answer(&connection, request, chunkserver).await;
    }
}

/// Has one question answered.
pub(super) async fn answer(
    connection: &Connection,
    request: Request,
    chunkserver: &Arc<Chunkserver>,
) {
    let kind = request.message.kind();
    let answer = match request.message {
        AnyMessage::Newest(asked) => match newest(chunkserver, asked, connection, request.id) {
            // It is answered when the chain has said so; other questions don't wait for that.
            Ok(()) => return,
            Err(refusal) => Err(refusal),
        },
        message => {
            let directory = handle_of(&message).and_then(|it| chunkserver.directory_of(it));
            let server = Arc::clone(chunkserver);
            let answering = move || {
                let is_open = |handle| server.members.is_open(&server, handle);
                answer_from_store(&server, &message, is_open, wall_clock())
            };
            match directory {
                Some(directory) => {
                    let answered = chunkserver.at_disk(directory, answering).await;
                    answered.and_then(|answer| answer)
                }
                // It has no disk to ask.
                None => answering(),
            }
        }
    };
    connection.reply(request.id, kind, answer);
}

/// What the store says to a question; `is_open` tells of a chunk whether it is read as an open one, and
/// `now` is the wall clock in milliseconds since 1970. Blocks on the disk.
///
/// # Errors
/// Why it is not answered: the ticket, the chunk, the medium; `unsupported` for what no store knows.
pub fn answer_from_store(
    chunkserver: &Chunkserver,
    question: &AnyMessage,
    is_open: impl Fn(ChunkHandle) -> bool,
    now: u64,
) -> Result<AnyMessage, Refusal> {
    let asked = Asked {
        chunkserver,
        now,
        is_open: &is_open,
    };
    match question {
        AnyMessage::ChunkStatus(question) => asked.chunk_status(question).map(Into::into),
        AnyMessage::ChunkCrcs(question) => asked.chunk_crcs(question).map(Into::into),
        AnyMessage::FindRequests(question) => asked.find_requests(question).map(Into::into),
        other => {
            let text = format!("a chunkserver does not answer {}", other.kind().name());
            Err((Status::Unsupported, ErrorBody::new(text)))
        }
    }
}

/// The chunk that a question is about.
fn handle_of(question: &AnyMessage) -> Option<ChunkHandle> {
    match question {
        AnyMessage::ChunkStatus(question) => Some(question.handle),
        AnyMessage::ChunkCrcs(question) => Some(question.handle),
        AnyMessage::FindRequests(question) => Some(question.handle),
        _ => None,
    }
}

fn unknown(handle: ChunkHandle) -> Refusal {
    (
        Status::ChunkUnknown,
        ErrorBody::new(format!("no chunk {handle} is here")),
    )
}

/// Whether a question for the newest state may be asked; `now` is the wall clock in milliseconds since
/// 1970.
///
/// # Errors
/// What is wrong with its ticket.
pub fn admit_newest(chunkserver: &Chunkserver, asked: &Newest, now: u64) -> Result<(), Refusal> {
    // An older ticket opens a newer version too.
    let version = asked.ticket.unverified_claims().version;
    let keys = chunkserver.ticket_keys();
    keys.check_question(&asked.ticket, asked.handle, version, now)
        .map_err(of_ticket)
}

/// Asks a chunk's machine, which answers over the connection.
fn newest(
    chunkserver: &Chunkserver,
    asked: Newest,
    connection: &Connection,
    request_id: u64,
) -> Result<(), Refusal> {
    let handle = asked.handle;
    admit_newest(chunkserver, &asked, wall_clock())?;
    let connection = connection.clone();
    let answer = move |answer: Result<_, Refusal>| {
        connection.reply(request_id, Kind::Newest, answer.map(leases::message_of));
    };
    let told = chunkserver.members.newest(chunkserver, asked, answer);
    told.map_err(|error| match error {
        Untold::Unknown(_) => unknown(handle),
        error => (error.status(), ErrorBody::new(error.to_string())),
    })
}

/// Who is asked, and when.
struct Asked<'a> {
    chunkserver: &'a Chunkserver,
    now: u64,
    is_open: &'a dyn Fn(ChunkHandle) -> bool,
}

impl<'a> Asked<'a> {
    /// Checks a ticket, and finds the directory of its chunk.
    fn admit(
        &self,
        ticket: &Ticket,
        handle: ChunkHandle,
        version: ChunkVersion,
    ) -> Result<&'a Arc<Directory>, Refusal> {
        let keys = self.chunkserver.ticket_keys();
        keys.check_read(ticket, handle, version, self.now)
            .map_err(of_ticket)?;
        let directory = self.chunkserver.directory_of(handle);
        directory.ok_or_else(|| unknown(handle))
    }

    fn find_requests(&self, asked: &FindRequests) -> Result<RequestsFound, Refusal> {
        let keys = self.chunkserver.ticket_keys();
        keys.check_question(&asked.ticket, asked.handle, asked.version, self.now)
            .map_err(of_ticket)?;
        let ids = self.sealed_ids(asked.handle, asked.version)?;
        let mut found = Vec::new();
        for &number in &asked.numbers {
            let (kind, offset, length) = match ids.table.find(asked.session, number) {
                Lookup::SessionEnded => {
                    let text = "ids of that session were dropped: it is over";
                    return Err((Status::SessionUnknown, ErrorBody::new(text)));
                }
                Lookup::Unknown => continue,
                Lookup::Forgotten => (FoundKind::Floor, 0, 0),
                Lookup::Row(row) if row.kind == IdRowKind::Append => {
                    (FoundKind::Append, row.offset, row.length)
                }
                Lookup::Row(row) => (FoundKind::Write, row.offset, row.length),
            };
            found.push(FoundRequest {
                number,
                kind,
                offset,
                length,
            });
        }
        Ok(RequestsFound { found })
    }

    /// The ids of a chunk that is sealed in exactly this version.
    fn sealed_ids(&self, handle: ChunkHandle, version: ChunkVersion) -> Result<SealedIds, Refusal> {
        if (self.is_open)(handle) {
            return Err((Status::ChunkOpen, ErrorBody::new("the chunk is open")));
        }
        let directory = self.chunkserver.directory_of(handle);
        let directory = directory.ok_or_else(|| unknown(handle))?;
        let ids = directory
            .sealed_ids(handle)
            .map_err(|error| refusal(&error))?;
        match ids.version == version {
            true => Ok(ids),
            false => Err(other_version(ids.version)),
        }
    }

    fn chunk_status(&self, asked: &ChunkStatus) -> Result<ChunkStatusReply, Refusal> {
        let version = asked.ticket.unverified_claims().version;
        let directory = self.admit(&asked.ticket, asked.handle, version)?;
        let entry = directory
            .entry(asked.handle)
            .ok_or_else(|| unknown(asked.handle))?;
        Ok(ChunkStatusReply {
            version: entry.version,
            serial: entry.serial,
            length: entry.length,
            crc32: if entry.state == ChunkState::Sealed {
                entry.crc32
            } else {
                0
            },
            state: entry.state,
        })
    }

    fn chunk_crcs(&self, asked: &ChunkCrcs) -> Result<ChunkCrcsReply, Refusal> {
        let directory = self.admit(&asked.ticket, asked.handle, asked.version)?;
        let opened = directory.open_for_read(asked.handle);
        let chunk = opened.map_err(|error| refusal(&error))?;
        if chunk.version != asked.version {
            return Err(other_version(chunk.version));
        }
        let first = asked.first_block as usize;
        let crcs = chunk
            .block_crcs
            .iter()
            .skip(first)
            .take(asked.count as usize);
        Ok(ChunkCrcsReply {
            length: chunk.length,
            crcs: crcs.copied().collect(),
        })
    }
}

fn of_ticket(error: TicketError) -> Refusal {
    (tickets::status_of(error), ErrorBody::new(error.to_string()))
}

fn other_version(version: ChunkVersion) -> Refusal {
    let error = ErrorBody {
        version,
        ..ErrorBody::new("another version")
    };
    (Status::Moved, error)
}
