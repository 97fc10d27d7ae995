//! Changes of files that are there: the driver that joins [`crate::core::mutation`], the master and
//! streams with primaries.
//!
//! A [`Writer`] is the handle of one file's driver, a task of its own. It takes jobs in order,
//! numbers each in the client's session, and keeps its bytes until its outcome is known. A number
//! is outstanding for as long, so no member forgets what may still be asked for. What may be on its
//! way together is bounded in bytes: a job waits for room before it is handed over.
//!
//! A session that is over takes with it what was sent, whose outcome can't be told; what surely was
//! not done goes on in another session under other numbers.
//!
//! - [`record`]: record append, with the header of `spec/records.md`;
//! - [`mod@file`]: writes at an offset;
//! - `drive`: the task.

mod drive;
pub(crate) mod file;
pub(crate) mod record;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use sarsen_protocol::message::{Level, Node, NodeType};
use sarsen_protocol::size::CHUNK_LEN_MAX;
use sarsen_protocol::status::Status;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::client::Shared;
use crate::error::Error;
use crate::path;
use drive::Driver;

/// Bytes that one permit of a writer's room stands for.
const ROOM_UNIT: u32 = 256;

/// Bytes that a writer keeps: twice what a stream may have on its way, and never less than the
/// longest record.
const ROOM: u32 = CHUNK_LEN_MAX / 4 + ROOM_UNIT;

/// How a file is to be written.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct WriteOptions {
    /// What counts as done has reached this on every copy.
    pub level: Level,
    /// Records keep the order in which they were given, over the ends of chunks too, where the
    /// answers of one chunk are then waited for before the next is begun. One that a primary refuses
    /// for now, in the middle of others, may still come to lie behind those.
    pub ordered: bool,
    /// Behind a change that failed none is begun: what was not sent by then ends with
    /// [`Error::NotTried`].
    pub stop_at_failure: bool,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self {
            level: Level::Disk,
            ordered: false,
            stop_at_failure: false,
        }
    }
}

/// A change that is to be made.
#[derive(Debug)]
struct Job {
    change: Change,
    /// As they are sent: of a record with its header in front, which is filled in once it has a number.
    bytes: Bytes,
    reply: oneshot::Sender<Result<Written, Error>>,
    /// Held until its outcome is known.
    _room: OwnedSemaphorePermit,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Record,
    /// At an offset in the chunk with this index.
    Write {
        index: u32,
        offset: u32,
    },
}

/// Where a change's bytes are.
#[derive(Clone, Copy, Debug)]
struct Written {
    /// In the file.
    offset: u64,
    index: u32,
    level: Level,
    copies: u8,
}

enum Command {
    Job(Job),
    /// Answered with how many changes failed since the last one, when none is under way.
    Flush(oneshot::Sender<u64>),
}

/// The handle of one file's driver, which ends with it.
#[derive(Debug)]
struct Writer {
    commands: mpsc::UnboundedSender<Command>,
    room: Arc<Semaphore>,
    chunk_size: u32,
    driver: AbortHandle,
}

impl Writer {
    /// Looks the file up and opens a session if there is none.
    async fn open(shared: &Arc<Shared>, path: &str, options: WriteOptions) -> Result<Self, Error> {
        let node = file_at(shared, path).await?;
        let session = shared.sessions.current().await?;
        let chunk_size = session.chunk_size;
        let (commands, taken) = mpsc::unbounded_channel();
        let driver = Driver::new(shared.clone(), session, node.file_id, options, taken);
        Ok(Self {
            commands,
            room: Arc::new(Semaphore::new((ROOM / ROOM_UNIT) as usize)),
            chunk_size,
            driver: tokio::spawn(driver.run()).abort_handle(),
        })
    }

    /// Hands a change over once there is room for it.
    async fn begin(&self, change: Change, bytes: Bytes) -> Result<Pending, Error> {
        let len = u32::try_from(bytes.len()).unwrap_or(ROOM).min(ROOM);
        let room = self
            .room
            .clone()
            .acquire_many_owned(len.div_ceil(ROOM_UNIT));
        // The semaphore is never closed.
        let room = room.await.map_err(|_| Error::SessionLost)?;
        let (reply, answer) = oneshot::channel();
        let job = Job {
            change,
            bytes,
            reply,
            _room: room,
        };
        self.send(Command::Job(job))?;
        Ok(Pending(answer))
    }

    /// Waits until nothing is under way.
    async fn flush(&self) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Flush(reply))?;
        match answer.await {
            Ok(0) => Ok(()),
            Ok(failed) => Err(Error::WritesFailed { failed }),
            Err(_) => Err(Error::OutcomeUnknown { source: None }),
        }
    }

    fn send(&self, command: Command) -> Result<(), Error> {
        // The driver ends before its handle only if it broke down.
        self.commands.send(command).map_err(|_| Error::SessionLost)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A change whose outcome is not known yet.
#[derive(Debug)]
struct Pending(oneshot::Receiver<Result<Written, Error>>);

impl Pending {
    /// The outcome, if it is known by now.
    fn now(&mut self) -> Option<Result<Written, Error>> {
        match self.0.try_recv() {
            Ok(answer) => Some(answer),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Closed) => Some(Err(Error::OutcomeUnknown { source: None })),
        }
    }
}

impl Future for Pending {
    type Output = Result<Written, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // A driver that is gone left the change wherever it was.
        let answer = Pin::new(&mut self.0).poll(context);
        answer.map(|answer| answer.unwrap_or(Err(Error::OutcomeUnknown { source: None })))
    }
}

/// The file at a path, to be changed.
pub(crate) async fn file_at(shared: &Shared, path: &str) -> Result<Node, Error> {
    path::check(path)?;
    let request = sarsen_protocol::message::Stat {
        path: path.to_owned(),
    };
    let node = shared.master.call(&request).await.map_err(of_a_file)?.node;
    match node.node_type {
        NodeType::File => Ok(node),
        NodeType::Folder => Err(Error::FolderHasNoBytes),
    }
}

/// What a refusal means where a file's bytes were to be changed.
pub(crate) fn of_a_file(error: Error) -> Error {
    match error {
        Error::Refused {
            status: Status::NotFound,
            ..
        } => Error::NoSuchFile,
        Error::Refused {
            status: Status::IsAFolder,
            ..
        } => Error::FolderHasNoBytes,
        error => error,
    }
}
