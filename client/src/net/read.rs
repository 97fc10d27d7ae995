//! A read stream over a data connection (`spec/wire.md` section 12.2).
//!
//! Payloads are received straight into pooled buffers, verified there, and handed on.

use std::io;
use std::time::Duration;

use sarsen_protocol::deframe::frame;
use sarsen_protocol::error::FrameError;
use sarsen_protocol::header::Header;
use sarsen_protocol::id::Serial;
use sarsen_protocol::message::{ErrorBody, Kind, Message, Plane, Read, ReadData, Want};
use sarsen_protocol::size::HEADER_LEN;
use sarsen_protocol::status::Status;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::Link;
use crate::buffer::{Buffer, Buffers};
use crate::core::read::{Fault, Fetch};
use crate::core::read_stream::{ReadFault, ReadStream, Verified, block_start};
use crate::error::{Error, StreamError};
use crate::sink::Outlet;

/// Why a chunk was not read to its end.
#[derive(Debug)]
pub(crate) enum ReadFailure {
    /// What came can't be written: no other replica changes that.
    Sink(Error),
    /// The replica failed after it had brought `verified`.
    Replica {
        error: StreamError,
        fault: Fault,
        verified: Verified,
    },
}

/// The way of verified bytes from a connection to where they belong.
pub(crate) struct Outgoing<'a> {
    pub(crate) buffers: &'a Buffers,
    pub(crate) outlet: &'a Outlet,
    /// Is told how far the chunk has come.
    pub(crate) on_reached: &'a (dyn Fn(u32) + Send + Sync),
}

/// Reads what is left of a chunk from a replica, verifies it and hands it on; the replica may be
/// silent for `silence_max` while something is due.
pub(crate) async fn read_chunk(
    link: &mut Link,
    fetch: &Fetch,
    silence_max: Duration,
    to: &Outgoing<'_>,
) -> Result<(), ReadFailure> {
    let start = block_start(fetch.from);
    let mut stream = ReadStream::new(fetch.sealed(), start, fetch.to, fetch.verified);
    let ended = match stream.length() {
        0 => Ok(()),
        _ => {
            let mut patient = Patient { link, silence_max };
            read_frames(&mut patient, fetch, &mut stream, to).await
        }
    };
    let ended = ended.and_then(|()| Ok(stream.handle_end()?));
    ended.map_err(|end| {
        let verified = stream.verified();
        end.into_failure(link, verified, verified != fetch.verified)
    })
}

/// A connection that must not fall silent while something is due.
struct Patient<'a> {
    link: &'a mut Link,
    silence_max: Duration,
}

async fn read_frames(
    patient: &mut Patient<'_>,
    fetch: &Fetch,
    stream: &mut ReadStream,
    to: &Outgoing<'_>,
) -> Result<(), End> {
    let request_id = patient.link.begin();
    let request = Read {
        ticket: fetch.chunk.ticket,
        handle: fetch.chunk.handle,
        version: fetch.chunk.version,
        serial: Serial::NONE,
        want: Want::Sealed,
        offset: stream.offset(),
        length: stream.length(),
    };
    let asked = frame(&request, request_id);
    let sent = patient.link.stream.write_all(&asked);
    timeout(patient.silence_max, sent)
        .await
        .map_err(|_| End::Silent)??;
    loop {
        let (data, payload_len) = next_data(patient, request_id).await?;
        stream.handle_data(&data)?;
        if payload_len > 0 {
            let mut buffer = to.buffers.take();
            let payload = buffer.room().get_mut(..payload_len as usize);
            patient.receive(payload.unwrap_or_default()).await?;
            buffer.set_used(0..payload_len as usize);
            stream.handle_payload(&data, &buffer)?;
            give(fetch, data.offset, buffer, stream.verified(), to.outlet).await?;
            (to.on_reached)(stream.offset().min(fetch.to));
        }
        if data.last {
            return Ok(());
        }
    }
}

/// The next `ReadData` of the stream; its payload is still to be received.
async fn next_data(patient: &mut Patient<'_>, request_id: u64) -> Result<(ReadData, u32), End> {
    let mut bytes = [0; HEADER_LEN];
    patient.receive(&mut bytes).await?;
    let header = Header::decode(&bytes, Plane::Data, true)?;
    // At most 8 KiB, as the header was checked against the plane.
    let mut body = vec![0; header.body_len as usize];
    patient.receive(&mut body).await?;
    header.check_body(&body)?;
    let kind = header.kind;
    let in_body = |source| FrameError::Body { kind, source };
    if !header.status.is_ok() {
        let error = ErrorBody::from_body(&body).map_err(in_body)?;
        return Err(End::Status {
            status: header.status,
            text: error.text,
        });
    }
    if kind != Kind::ReadData || header.request_id != request_id {
        return Err(FrameError::OutOfTurn { kind }.into());
    }
    let data = ReadData::from_body(&body).map_err(in_body)?;
    data.check_payload(header.payload_len).map_err(in_body)?;
    Ok((data, header.payload_len))
}

impl Patient<'_> {
    /// Fills `bytes`; silence in between is bounded, the whole is not.
    async fn receive(&mut self, mut bytes: &mut [u8]) -> Result<(), End> {
        while !bytes.is_empty() {
            let read = timeout(self.silence_max, self.link.stream.read(bytes)).await;
            match read.map_err(|_| End::Silent)?? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                len => bytes = bytes.get_mut(len..).unwrap_or_default(),
            }
        }
        Ok(())
    }
}

/// Hands on what of the payload is wanted: its first block may begin before that, its last block
/// may end behind.
async fn give(
    fetch: &Fetch,
    offset: u32,
    mut buffer: Buffer,
    verified: Verified,
    outlet: &Outlet,
) -> Result<(), End> {
    let len = buffer.len();
    let skipped = (fetch.from.saturating_sub(offset) as usize).min(len);
    let end = (fetch.to.saturating_sub(offset) as usize).min(len);
    if skipped < end {
        buffer.set_used(skipped..end);
        let at = u64::from(offset) + skipped as u64;
        outlet.give(at, buffer, verified).await.map_err(End::Sink)?;
    }
    Ok(())
}

/// How a stream ended that should not have.
enum End {
    Sink(Error),
    Io(io::Error),
    Silent,
    Frame(FrameError),
    Fault(ReadFault),
    Status { status: Status, text: String },
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<FrameError> for End {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

impl From<ReadFault> for End {
    fn from(fault: ReadFault) -> Self {
        Self::Fault(fault)
    }
}

impl End {
    fn into_failure(self, link: &Link, verified: Verified, heard: bool) -> ReadFailure {
        let (error, fault) = match self {
            Self::Sink(error) => return ReadFailure::Sink(error),
            Self::Io(cause) => {
                let unseen_close = link.is_used() && !heard;
                let fault = match unseen_close {
                    true => Fault::Refused,
                    false => Fault::Unreachable,
                };
                (link.io_error(cause), fault)
            }
            Self::Silent => (link.silent(), Fault::Unreachable),
            Self::Frame(cause) => (link.protocol_error(cause), Fault::Unreachable),
            Self::Fault(cause) => {
                let (server, addr) = (link.server, link.addr.clone());
                let error = StreamError::Read {
                    server,
                    addr,
                    cause,
                };
                (error, Fault::of_answer(cause))
            }
            Self::Status { status, text } => {
                let server = link.server;
                let error = StreamError::Status {
                    server,
                    status,
                    text,
                };
                (error, Fault::of_status(status))
            }
        };
        ReadFailure::Replica {
            error,
            fault,
            verified,
        }
    }
}
