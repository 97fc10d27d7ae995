//! A read stream over a data connection (`spec/wire.md` section 12.2).
//!
//! Payloads are received straight into pooled buffers, verified there, and handed on.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::time::Duration;

use sarsen_protocol::deframe::frame;
use sarsen_protocol::error::FrameError;
use sarsen_protocol::header::Header;
use sarsen_protocol::id::{ChunkVersion, ServerId};
use sarsen_protocol::message::{ErrorBody, Message, Plane, READ_DATA_LEN, Read, ReadData};
use sarsen_protocol::size::{BLOCK_LEN, HEADER_LEN};
use sarsen_protocol::status::Status;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::{Link, Links, Peer};
use crate::buffer::{Buffer, Buffers};
use crate::clock::Clock;
use crate::core::read::{Fault, Fetch};
use crate::core::read_stream::{ReadFault, ReadStream, Served, Verified, Wanted, block_start};
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
    /// Says when the replica is to be left; `None` if somebody else does.
    pub(crate) pacer: Option<Pacer<'a>>,
}

/// Measures the frames of a long read, and leaves a replica that is slow, if there is another.
pub(crate) struct Pacer<'a> {
    pub(crate) links: &'a Links,
    pub(crate) clock: Clock,
    pub(crate) server: ServerId,
    pub(crate) has_other: bool,
}

impl Pacer<'_> {
    /// Waits for the next frame, or for a connection, as long as it is worth while; `None` if the
    /// replica is late and to be left.
    pub(crate) async fn wait<T>(&self, coming: impl Future<Output = T>) -> Option<T> {
        if !self.has_other {
            return Some(coming.await);
        }
        let late_after = self.links.late_after(&self.links.bulk());
        tokio::pin!(coming);
        if let Ok(came) = timeout(late_after, &mut coming).await {
            return Some(came);
        }
        let now = self.clock.now();
        let may_leave = {
            let mut pace = self.links.bulk();
            let may_leave = pace.may_hedge(now, self.server);
            pace.handle_late(now, self.server);
            may_leave
        };
        match may_leave {
            true => None,
            false => Some(coming.await),
        }
    }

    /// A frame came that was waited for since `since`: whether to go on with this replica.
    pub(crate) fn handle_frame(&self, since: Duration) -> bool {
        let now = self.clock.now();
        let mut pace = self.links.bulk();
        pace.handle_answer(now, self.server, now.saturating_sub(since));
        !(self.has_other && pace.is_slow(now, self.server))
    }
}

/// Reads what is left of a chunk from a replica, verifies it and hands it on; the replica may be
/// silent for `silence_max` while something is due. What was served, of a chunk of which that was
/// not known before.
pub(crate) async fn read_chunk(
    link: &mut Link,
    fetch: &Fetch,
    wanted: Wanted,
    silence_max: Duration,
    to: &Outgoing<'_>,
) -> Result<Option<Served>, ReadFailure> {
    let start = block_start(fetch.from);
    let mut stream = ReadStream::new(wanted, start, fetch.to, fetch.verified);
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
        let len = length_to_ask(&stream, to).await;
        stream.begin();
        ended = read_frames(&mut patient, fetch, len, &mut stream, to).await;
        if stream.offset() < before.reached.saturating_add(len) {
            break;
        }
    }
    let ended = ended.and_then(|()| Ok(stream.handle_end()?));
    match ended {
        Ok(()) => Ok(stream.served()),
        Err(end) => {
            let verified = stream.verified();
            let is_stale = link.is_used() && verified == before;
            Err(end.into_failure(&link.peer, &wanted, verified, is_stale))
        }
    }
}

/// How many bytes the next `Read` asks for; under a limit, when they are paid for. So a server never
/// has to hold back what was asked for.
async fn length_to_ask(stream: &ReadStream, to: &Outgoing<'_>) -> u32 {
    let left = stream.length();
    let Some(limit) = to.limit else {
        return left;
    };
    let len = left.min(limit.limit().read_len());
    // The block that the range ends in comes whole.
    let end = (stream.offset() + len).next_multiple_of(BLOCK_LEN);
    let chunk_end = match stream.wanted() {
        Wanted::Sealed(chunk) => chunk.length,
        Wanted::Plain { .. } => u32::MAX,
    };
    let comes = end.min(chunk_end).saturating_sub(stream.offset());
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
    let (version, serial, want) = stream.wanted().asked();
    let request = Read {
        ticket: fetch.chunk.ticket,
        handle: fetch.chunk.handle,
        version,
        serial,
        want,
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
        let since = to.pacer.as_ref().map(|pacer| pacer.clock.now());
        let coming = async {
            patient.wait().await?;
            let mut buffer = to.buffers.take();
            let next = patient.next_data(request_id, stream, buffer.room());
            next.await.map(|(data, len)| (data, len, buffer))
        };
        let came = match &to.pacer {
            Some(pacer) => pacer.wait(coming).await.ok_or(End::Late)?,
            None => coming.await,
        };
        let (data, payload_len, mut buffer) = came?;
        let paced = to.pacer.as_ref().zip(since);
        let is_quick = paced.is_none_or(|(pacer, since)| pacer.handle_frame(since));
        if payload_len > 0 {
            buffer.set_used(0..payload_len);
            stream.handle_payload(&data, &buffer)?;
            give(fetch, data.offset, buffer, stream.verified(), to.outlet).await?;
            (to.on_reached)(stream.offset().min(fetch.to));
        }
        if data.last {
            return Ok(());
        }
        if !is_quick {
            return Err(End::Late);
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
        stream: &mut ReadStream,
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
        let data: ReadData = message_in(&header, &body, request_id)?;
        let kind = header.kind;
        data.check_payload(header.payload_len)
            .map_err(|source| FrameError::Body { kind, source })?;
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
pub(super) fn message_in<M: Message>(
    header: &Header,
    body: &[u8],
    request_id: u64,
) -> Result<M, End> {
    let kind = header.kind;
    let in_body = |source| FrameError::Body { kind, source };
    if !header.status.is_ok() {
        let error = ErrorBody::from_body(body).map_err(in_body)?;
        return Err(End::Status {
            status: header.status,
            text: error.text,
            version: error.version,
        });
    }
    if kind != M::KIND || header.request_id != request_id {
        return Err(FrameError::OutOfTurn { kind }.into());
    }
    Ok(M::from_body(body).map_err(in_body)?)
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
pub(super) enum End {
    Sink(Error),
    Io(io::Error),
    Silent,
    /// It is slow, and another replica is asked.
    Late,
    Frame(FrameError),
    Fault(ReadFault),
    Status {
        status: Status,
        text: String,
        /// What the replica has, if it told.
        version: ChunkVersion,
    },
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
    /// What to do about it. A connection that `is_stale` was used before, and its server may have
    /// closed it unseen.
    pub(super) fn into_failure(
        self,
        peer: &Peer,
        wanted: &Wanted,
        verified: Verified,
        is_stale: bool,
    ) -> ReadFailure {
        let (error, fault) = match self {
            Self::Sink(error) => return ReadFailure::Sink(error),
            Self::Io(cause) => {
                let fault = match is_stale {
                    true => Fault::Refused,
                    false => Fault::Unreachable,
                };
                (peer.io_error(cause), fault)
            }
            Self::Silent => (peer.silent(), Fault::Unreachable),
            Self::Late => (peer.late(), Fault::Slow),
            Self::Frame(cause) => (peer.protocol_error(cause), Fault::Unreachable),
            Self::Fault(cause) => {
                let (server, addr) = (peer.server, peer.addr.clone());
                let error = StreamError::Read {
                    server,
                    addr,
                    cause,
                };
                (error, Fault::of_answer(cause))
            }
            Self::Status {
                status,
                text,
                version,
            } => {
                let server = peer.server;
                let error = StreamError::Status {
                    server,
                    status,
                    text,
                };
                (error, Fault::of_status(status, version, wanted))
            }
        };
        ReadFailure::Replica {
            error,
            fault,
            verified,
        }
    }
}
