//! A mutation stream with a primary over a data connection (`spec/wire.md` section 12.3).
//!
//! Two halves run side by side until either ends: one sends what it is given, the other tells what
//! comes. What is on its way and what an answer means is known to
//! [`crate::core::mutation`] alone. The connection ends with the stream.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use sarsen_protocol::deframe::{Deframer, Frame, frame};
use sarsen_protocol::error::FrameError;
use sarsen_protocol::header::Header;
use sarsen_protocol::id::{FileId, ServerId};
use sarsen_protocol::message::{
    Append, Appended, ChunkOpened, Kind, Level, Message, Plane, WriteAck, WriteData, WriteOpened,
};
use sarsen_protocol::size::HEADER_LEN;
use sarsen_protocol::status::Status;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::{EXPLANATION_TIME, Link};
use crate::core::mutation::frames::write_open;
use crate::error::StreamError;

/// How long a primary may take nothing of what is sent to it.
const TAKES_NOTHING_MAX: Duration = Duration::from_secs(60);

/// Frames that are put together before they are written: a wake-up serves all that waits.
const GATHERED_MAX: usize = 64;

/// Bytes up to which payloads are copied behind their heads, so that many frames are one write.
const COPIED_MAX: usize = 64 * 1024;

/// A frame to be sent.
#[derive(Debug)]
pub(crate) enum Sending {
    /// A mutation at an offset.
    Write(WriteData, Bytes),
    /// Records, or a part of one.
    Append(Append, Vec<Bytes>),
}

/// What comes on a stream.
#[derive(Debug)]
pub(crate) enum Heard {
    Opened,
    Ack(WriteAck),
    Appended(Appended),
}

/// How a stream ended that was not closed.
#[derive(Debug)]
pub(crate) struct Ended {
    /// What the primary said.
    pub(crate) status: Option<Status>,
    pub(crate) retry_after: Duration,
    pub(crate) error: StreamError,
}

/// What a stream is for.
#[derive(Debug)]
pub(crate) struct MutationJob {
    pub(crate) file_id: FileId,
    pub(crate) opened: ChunkOpened,
    pub(crate) level: Level,
}

/// Opens a stream, sends what comes from `outgoing` and tells what is answered, until the stream
/// ends, or `outgoing` does.
pub(crate) async fn mutate(
    mut link: Link,
    job: &MutationJob,
    outgoing: mpsc::UnboundedReceiver<Sending>,
    heard: &(impl Fn(Heard) + Sync),
) -> Result<(), Ended> {
    let id = link.begin();
    let names = Names {
        server: link.peer.server,
        addr: link.peer.addr,
        id,
    };
    let (read, write) = link.stream.into_split();
    let receiving = names.receive(read, heard);
    let sending = names.send(write, job, outgoing);
    tokio::select! {
        ended = receiving => Err(ended.into_ended(&names)),
        sent = sending => sent.map_err(|error| End::Io(error).into_ended(&names)),
    }
}

struct Names {
    server: ServerId,
    addr: String,
    id: u64,
}

impl Names {
    async fn send(
        &self,
        mut write: OwnedWriteHalf,
        job: &MutationJob,
        mut outgoing: mpsc::UnboundedReceiver<Sending>,
    ) -> io::Result<()> {
        let sent = self.send_all(&mut write, job, &mut outgoing).await;
        if sent.is_err() {
            // The other half may be about to learn why.
            sleep(EXPLANATION_TIME).await;
        }
        sent
    }

    async fn send_all(
        &self,
        write: &mut OwnedWriteHalf,
        job: &MutationJob,
        outgoing: &mut mpsc::UnboundedReceiver<Sending>,
    ) -> io::Result<()> {
        let open = write_open(job.file_id, &job.opened, job.level);
        put(write, &frame(&open, self.id)).await?;
        let mut frames = Vec::with_capacity(GATHERED_MAX);
        let mut bytes = Vec::new();
        while outgoing.recv_many(&mut frames, GATHERED_MAX).await > 0 {
            for frame in frames.drain(..) {
                let payload = self.put_head(&frame, &mut bytes);
                for part in payload {
                    if bytes.len() + part.len() <= COPIED_MAX {
                        bytes.extend_from_slice(part);
                        continue;
                    }
                    put(write, &bytes).await?;
                    bytes.clear();
                    put(write, part).await?;
                }
            }
            put(write, &bytes).await?;
            bytes.clear();
        }
        Ok(())
    }

    /// Puts header and body of a frame behind `bytes`; its payload follows.
    fn put_head<'a>(&self, frame: &'a Sending, bytes: &mut Vec<u8>) -> &'a [Bytes] {
        let (kind, body, payload) = match frame {
            Sending::Write(write, payload) => {
                let payload = std::slice::from_ref(payload);
                (Kind::WriteData, write.to_body(), payload)
            }
            Sending::Append(append, payload) => {
                (Kind::Append, append.to_body(), payload.as_slice())
            }
        };
        let len: usize = payload.iter().map(Bytes::len).sum();
        // No frame is made of more than a payload.
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let header = Header::new(kind, Status::Ok, self.id, &body, len);
        bytes.reserve(HEADER_LEN + body.len());
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(&body);
        payload
    }

    async fn receive(&self, mut read: OwnedReadHalf, heard: &(impl Fn(Heard) + Sync)) -> End {
        let mut deframer = Deframer::new(Plane::Data);
        deframer.hello_is_done();
        loop {
            loop {
                let told = match deframer.next_frame() {
                    Ok(Some(frame)) => self.take(&frame),
                    Ok(None) => break,
                    Err(error) => Err(error.into()),
                };
                match told {
                    Ok(told) => heard(told),
                    Err(end) => return end,
                }
            }
            match read.read_buf(deframer.buffer()).await {
                Ok(0) => return End::Io(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) => return End::Io(error),
            }
        }
    }

    fn take(&self, frame: &Frame) -> Result<Heard, End> {
        let header = &frame.header;
        if !header.status.is_ok() {
            let error = frame.error()?;
            return Err(End::Status {
                status: header.status,
                text: error.text,
                server: error.server,
                retry_after: Duration::from_millis(error.retry_after.into()),
            });
        }
        let kind = header.kind;
        if header.request_id != self.id {
            return Err(FrameError::OutOfTurn { kind }.into());
        }
        Ok(match kind {
            Kind::WriteOpened => {
                let WriteOpened = frame.message()?;
                Heard::Opened
            }
            Kind::WriteAck => Heard::Ack(frame.message()?),
            Kind::Appended => Heard::Appended(frame.message()?),
            kind => return Err(FrameError::OutOfTurn { kind }.into()),
        })
    }
}

/// Writes; a peer that takes nothing for too long is gone.
async fn put(write: &mut OwnedWriteHalf, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = timeout(TAKES_NOTHING_MAX, write.write(bytes)).await;
        let len = written.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        match bytes.get(len..) {
            Some(rest) if len > 0 => bytes = rest,
            _ => return Err(io::ErrorKind::WriteZero.into()),
        }
    }
    Ok(())
}

/// How a stream ended that was not closed.
enum End {
    Io(io::Error),
    Frame(FrameError),
    Status {
        status: Status,
        text: String,
        server: ServerId,
        retry_after: Duration,
    },
}

impl From<FrameError> for End {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

impl End {
    fn into_ended(self, names: &Names) -> Ended {
        let (server, addr) = (names.server, names.addr.clone());
        let (status, retry_after, error) = match self {
            Self::Io(cause) => {
                let error = StreamError::Io {
                    server,
                    addr,
                    cause,
                };
                (None, Duration::ZERO, error)
            }
            Self::Frame(cause) => {
                let error = StreamError::Protocol {
                    server,
                    addr,
                    cause,
                };
                (None, Duration::ZERO, error)
            }
            Self::Status {
                status,
                text,
                server: named,
                retry_after,
            } => {
                let server = if named.is_some() { named } else { server };
                let error = StreamError::Status {
                    server,
                    status,
                    text,
                };
                (Some(status), retry_after, error)
            }
        };
        Ended {
            status,
            retry_after,
            error,
        }
    }
}
