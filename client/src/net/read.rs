//! A read stream over a data connection (`spec/wire.md` section 12.2).
//!
//! Payloads are received straight into pooled buffers, verified there, and handed on.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::time::Duration;

use sarsen_protocol::deframe::frame;
use sarsen_protocol::error::FrameError;
use sarsen_protocol::header::Header;
use sarsen_protocol::id::Serial;
use sarsen_protocol::message::{
    ErrorBody, Kind, Message, Plane, READ_DATA_LEN, Read, ReadData, Want,
};
use sarsen_protocol::size::{BLOCK_LEN, HEADER_LEN};
use sarsen_protocol::status::Status;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::Link;
use crate::buffer::{Buffer, Buffers};
use crate::clock::Clock;
use crate::core::read::{Fault, Fetch};
use crate::core::read_stream::{ReadFault, ReadStream, Verified, block_start};
use crate::error::{Error, StreamError};
use crate::limit::RateLimit;
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
    pub(crate) clock: Clock,
    /// How fast bytes may come; they are asked for as they may.
    pub(crate) limit: Option<&'a RateLimit>,
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
    let mut patient = Patient {
        link,
        silence_max,
        ahead: VecDeque::new(),
    };
    let mut ended = Ok(());
    let mut before = stream.verified();
    // Without a limit one `Read` brings all of it.
    while ended.is_ok() && stream.length() > 0 {
        before = stream.verified();
        let len = length_to_ask(fetch, &stream, to).await;
        ended = read_frames(&mut patient, fetch, len, &mut stream, to).await;
        if stream.offset() < before.reached.saturating_add(len) {
            break;
        }
    }
    let ended = ended.and_then(|()| Ok(stream.handle_end()?));
    ended.map_err(|end| {
        let verified = stream.verified();
        end.into_failure(link, verified, verified != before)
    })
}

/// How many bytes the next `Read` asks for; under a limit, when they are paid for. So a server never
/// has to hold back what was asked for.
async fn length_to_ask(fetch: &Fetch, stream: &ReadStream, to: &Outgoing<'_>) -> u32 {
    let left = stream.length();
    let Some(limit) = to.limit else {
        return left;
    };
    let len = left.min(limit.limit().read_len());
    // The block that the range ends in comes whole.
    let end = (stream.offset() + len).next_multiple_of(BLOCK_LEN);
    let comes = end.min(fetch.chunk.length).saturating_sub(stream.offset());
    limit.take(to.clock, comes).await;
    len
}

/// A connection that must not fall silent while something is due.
struct Patient<'a> {
    link: &'a mut Link,
    silence_max: Duration,
    /// What came behind the frame before.
    ahead: VecDeque<u8>,
}

async fn read_frames(
    patient: &mut Patient<'_>,
    fetch: &Fetch,
    len: u32,
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
        length: len,
    };
    let asked = frame(&request, request_id);
    let sent = patient.link.stream.write_all(&asked);
    timeout(patient.silence_max, sent)
        .await
        .map_err(|_| End::Silent)??;
    loop {
        // A buffer is taken when there is something for it: the fewer are in use, the more likely
        // is each to be in the cache.
        patient.wait().await?;
        let mut buffer = to.buffers.take();
        let (data, payload_len) = patient.next_data(request_id, stream, buffer.room()).await?;
        if payload_len > 0 {
            buffer.set_used(0..payload_len);
            stream.handle_payload(&data, &buffer)?;
            give(fetch, data.offset, buffer, stream.verified(), to.outlet).await?;
            (to.on_reached)(stream.offset().min(fetch.to));
        }
        if data.last {
            return Ok(());
        }
    }
}

impl Patient<'_> {
    /// The next `ReadData` of the stream, with its payload in `room`; how long that is.
    ///
    /// Header, body and payload are received together. A frame that fills the room, or is the last
    /// one, as all are from our chunkservers, so takes one call of the kernel, or few.
    async fn next_data(
        &mut self,
        request_id: u64,
        stream: &ReadStream,
        room: &mut [u8],
    ) -> Result<(ReadData, usize), End> {
        let mut head = [0; HEADER_LEN + READ_DATA_LEN];
        let mut here = 0;
        while here < HEADER_LEN {
            let rest = head.get_mut(here..).unwrap_or_default();
            here += self.receive_some(rest, room).await?;
        }
        let (header, in_head) = head
            .split_first_chunk()
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        let header = Header::decode(header, Plane::Data, true)?;
        // At most 8 KiB, as the header was checked against the plane.
        let mut body = vec![0; header.body_len as usize];
        let came = in_head.iter().chain(&*room).take(here - HEADER_LEN);
        let body_here = body.iter_mut().zip(came).map(|(to, from)| *to = *from);
        let body_here = body_here.count();
        self.receive(body.get_mut(body_here..).unwrap_or_default())
            .await?;
        header.check_body(&body)?;
        let data = data_in(&header, &body, request_id)?;
        stream.handle_data(&data)?;
        // The body of a ReadData has one length, so what came behind the head is payload, and what
        // of the next frame came with it.
        let behind_head = here.saturating_sub(head.len());
        let payload_len = header.payload_len as usize;
        let ahead = room.get(payload_len..behind_head).unwrap_or_default();
        self.ahead.extend(ahead);
        // No payload is longer than a buffer, as the header was checked against the plane.
        let payload = room.get_mut(..payload_len).unwrap_or_default();
        self.receive(payload.get_mut(behind_head..).unwrap_or_default())
            .await?;
        Ok((data, payload_len))
    }

    /// Fills `bytes`; silence in between is bounded, the whole is not.
    async fn receive(&mut self, mut bytes: &mut [u8]) -> Result<(), End> {
        while !bytes.is_empty() {
            let len = self.receive_some(bytes, &mut []).await?;
            bytes = bytes.get_mut(len..).unwrap_or_default();
        }
        Ok(())
    }

    /// Receives into `first`, and what more there is into `second`; at least one byte.
    async fn receive_some(&mut self, first: &mut [u8], second: &mut [u8]) -> Result<usize, End> {
        if !self.ahead.is_empty() {
            let len = first.len().min(self.ahead.len());
            let taken = first.iter_mut().zip(self.ahead.drain(..len));
            return Ok(taken.map(|(to, from)| *to = from).count());
        }
        loop {
            self.wait().await?;
            let mut parts = [IoSliceMut::new(first), IoSliceMut::new(second)];
            match self.link.stream.try_read_vectored(&mut parts) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(len) => return Ok(len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until there may be something to receive.
    async fn wait(&self) -> Result<(), End> {
        if self.ahead.is_empty() {
            let waiting = timeout(self.silence_max, self.link.stream.readable());
            waiting.await.map_err(|_| End::Silent)??;
        }
        Ok(())
    }
}

/// The message of a good frame.
fn data_in(header: &Header, body: &[u8], request_id: u64) -> Result<ReadData, End> {
    let kind = header.kind;
    let in_body = |source| FrameError::Body { kind, source };
    if !header.status.is_ok() {
        let error = ErrorBody::from_body(body).map_err(in_body)?;
        return Err(End::Status {
            status: header.status,
            text: error.text,
        });
    }
    if kind != Kind::ReadData || header.request_id != request_id {
        return Err(FrameError::OutOfTurn { kind }.into());
    }
    let data = ReadData::from_body(body).map_err(in_body)?;
    data.check_payload(header.payload_len).map_err(in_body)?;
    Ok(data)
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
