//! Frames from a data-plane connection: heads here, payloads into whatever buffer is given.
//!
//! A write stream is mostly `WriteData`, whose header and body have a fixed length. So a head is
//! received with one request of just that many bytes: a shorter frame leaves a rest that belongs
//! to the next head, and no payload byte is received here and copied, but for the few that come
//! with the hello, and with the first frame of a stream ([`Link::next_opening`]): a small chunk is
//! received whole.
//!
//! Where whole frames are wanted, as many as are there are received into one buffer, and cut from it;
//! and so are heads, on a connection that brought one which has no payload behind it and may have
//! others ([`Link::expect_small`]).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sarsen_protocol::deframe::{Frame, error_frame};
use sarsen_protocol::error::FrameError;
use sarsen_protocol::header::Header;
use sarsen_protocol::message::{ErrorBody, Kind, Message, Plane, WRITE_DATA_LEN};
use sarsen_protocol::size::HEADER_LEN;
use sarsen_protocol::status::Status;
use thiserror::Error;
use tokio::time::{Instant, timeout, timeout_at};

use super::{PAYLOAD_TIME_MAX, STALL_MAX};
use crate::io::Socket;
use crate::io::pool::Buffer;

/// Header and body of a `WriteData`.
const HEAD_LEN: usize = HEADER_LEN + WRITE_DATA_LEN;

/// Bytes that are received with one request where heads come one behind the other: sixteen of a
/// `ReadCut`, as many as may be unanswered.
const HEADS_LEN: usize = 4 * 1024;

/// Bytes that are received with one request where a stream may begin: that of a chunk of 4 KiB, whole.
const OPENING_LEN: usize = 8 * 1024;

/// Bytes that are received with one request where only answers to a stream come.
const ANSWERS_LEN: usize = 1024;

/// Bytes that are received with one request where whole frames are wanted.
pub(super) const READ_AHEAD_LEN: usize = 64 * 1024;

/// Less than this is too little to receive into.
const ROOM_MIN: usize = 4 * 1024;

/// How long the rest of what a peer sends is taken and thrown away before its connection closes.
const LINGER_MAX: Duration = Duration::from_secs(5);

/// Why there is no next frame.
#[derive(Debug, Error)]
pub(super) enum LinkError {
    /// The connection broke, or ended inside a frame.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The peer broke the protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The peer fell silent.
    #[error("the peer fell silent")]
    Silent,
}

/// A frame without its payload.
#[derive(Debug)]
pub(super) struct Head {
    /// The header.
    pub(super) header: Header,
    /// Header and body as they came.
    pub(super) bytes: Bytes,
}

impl Head {
    /// The body as the message that the caller expects.
    pub(super) fn message<M: Message>(&self) -> Result<M, FrameError> {
        let kind = self.header.kind;
        if kind != M::KIND {
            return Err(FrameError::OutOfTurn { kind });
        }
        M::from_body(self.body()).map_err(|source| FrameError::Body { kind, source })
    }

    /// The error body of a frame whose status is not `ok`.
    pub(super) fn error(&self) -> Result<ErrorBody, FrameError> {
        let kind = self.header.kind;
        ErrorBody::from_body(self.body()).map_err(|source| FrameError::Body { kind, source })
    }

    fn body(&self) -> &[u8] {
        self.bytes.get(HEADER_LEN..).unwrap_or_default()
    }
}

/// A connection after its hello, and what was received of it but not looked at.
#[derive(Debug)]
pub(super) struct Link {
    socket: Arc<Socket>,
    stash: BytesMut,
    /// Bytes that are received with one request where a head is wanted.
    head_room: usize,
}

/// A connection on its way to a thread, or to another use, for which it carries small frames only.
#[derive(Debug)]
pub(super) struct HandedOver {
    stream: std::net::TcpStream,
    stash: BytesMut,
}

impl HandedOver {
    /// The connection, on the thread that this is called on.
    ///
    /// # Errors
    /// When it is gone already.
    pub(super) fn take_over(self) -> io::Result<Link> {
        let socket = Socket::of_small_frames(self.stream)?;
        Ok(Link::new(socket, self.stash))
    }
}

impl Link {
    /// A connection, with the bytes that came behind its hello.
    pub(super) fn new(socket: Socket, stash: BytesMut) -> Self {
        Self {
            socket: Arc::new(socket),
            stash,
            head_room: HEAD_LEN,
        }
    }

    /// Expects one head behind the other, and small answers. Bytes of a payload that comes all the
    /// same are copied.
    ///
    /// # Errors
    /// When there is no descriptor to be had.
    pub(super) fn expect_small(&mut self) -> io::Result<()> {
        if self.head_room < HEADS_LEN {
            self.head_room = HEADS_LEN;
            self.socket = Arc::new(Socket::of_small_frames(self.socket.release()?)?);
        }
        Ok(())
    }

    /// Expects answers, which bring no payload.
    pub(super) const fn expect_answers(&mut self) {
        self.head_room = ANSWERS_LEN;
    }

    /// Lets the connection go on elsewhere. Nothing may be under way on it.
    ///
    /// # Errors
    /// When there is no descriptor to be had; the connection ends then.
    pub(super) fn hand_over(self) -> io::Result<HandedOver> {
        Ok(HandedOver {
            stream: self.socket.release()?,
            stash: self.stash,
        })
    }

    /// The connection, to send on.
    pub(super) fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    /// Whether the connection is idle and can begin another stream.
    pub(super) fn is_quiet(&self) -> bool {
        self.stash.is_empty() && self.socket.is_quiet()
    }

    /// The next frame's header and body; `None` if the peer closed between two frames.
    ///
    /// Waits up to `rest_max` for the frame to begin, and [`STALL_MAX`] for it to go on.
    pub(super) async fn next_head(
        &mut self,
        rest_max: Duration,
    ) -> Result<Option<Head>, LinkError> {
        self.next_head_within(rest_max, self.head_room).await
    }

    /// As [`Self::next_head`], where a stream is to begin; some of what follows may come with it.
    pub(super) async fn next_opening(
        &mut self,
        rest_max: Duration,
    ) -> Result<Option<Head>, LinkError> {
        let at_most = self.head_room.max(OPENING_LEN);
        self.next_head_within(rest_max, at_most).await
    }

    async fn next_head_within(
        &mut self,
        rest_max: Duration,
        at_most: usize,
    ) -> Result<Option<Head>, LinkError> {
        let rest_max = match self.stash.is_empty() {
            true => rest_max,
            false => STALL_MAX,
        };
        let begin = Instant::now() + rest_max;
        if !self.fill(HEADER_LEN, at_most, begin).await? {
            return Ok(None);
        }
        let header = self.peek()?.ok_or(io::ErrorKind::UnexpectedEof);
        let header = header.map_err(io::Error::from)?;
        let head_len = HEADER_LEN + header.body_len as usize;
        let deadline = Instant::now() + STALL_MAX;
        self.fill(head_len, head_len, deadline).await?;
        Ok(Some(self.split_head(header)?))
    }

    /// The next frame's header and body, if they are here and of this kind.
    ///
    /// # Errors
    /// What is here breaks the rules.
    pub(super) fn head_here(&mut self, kind: Kind) -> Result<Option<Head>, FrameError> {
        match self.peek()? {
            Some(header)
                if header.kind == kind
                    && self.stash.len() >= HEADER_LEN + header.body_len as usize =>
            {
                self.split_head(header).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The header at the front of what is here.
    fn peek(&self) -> Result<Option<Header>, FrameError> {
        let bytes = self.stash.first_chunk();
        bytes
            .map(|bytes| Header::decode(bytes, Plane::Data, true))
            .transpose()
    }

    /// Takes a head off what is here, which is at least that much.
    fn split_head(&mut self, header: Header) -> Result<Head, FrameError> {
        let head_len = HEADER_LEN + header.body_len as usize;
        let bytes = self.stash.split_to(head_len).freeze();
        let head = Head { header, bytes };
        header.check_body(head.body())?;
        Ok(head)
    }

    /// Bytes of the next frame, whose payload is still to come; `None` if the peer closed between two frames.
    ///
    /// Waits up to `rest_max` for the frame to begin.
    pub(super) async fn next_len(
        &mut self,
        rest_max: Duration,
    ) -> Result<Option<usize>, LinkError> {
        let begin = Instant::now() + rest_max;
        if !self.fill(HEADER_LEN, READ_AHEAD_LEN, begin).await? {
            return Ok(None);
        }
        let header = self.peek()?.ok_or(io::ErrorKind::UnexpectedEof);
        let header = header.map_err(io::Error::from)?;
        // Both lengths were compared with their limits.
        let len = HEADER_LEN + header.body_len as usize + header.payload_len as usize;
        Ok(Some(len))
    }

    /// The next frame with its payload; `None` if the peer closed between two frames. What came of
    /// the following ones is kept, so the connection is of no use for anything else afterwards.
    ///
    /// Waits up to `rest_max` for the frame to begin.
    pub(super) async fn next_frame(
        &mut self,
        rest_max: Duration,
    ) -> Result<Option<Frame>, LinkError> {
        let Some(len) = self.next_len(rest_max).await? else {
            return Ok(None);
        };
        let header = self.peek()?.ok_or(io::ErrorKind::UnexpectedEof);
        let header = header.map_err(io::Error::from)?;
        let head_len = HEADER_LEN + header.body_len as usize;
        let deadline = Instant::now() + PAYLOAD_TIME_MAX;
        self.fill(len, len.max(READ_AHEAD_LEN), deadline).await?;
        let mut bytes = self.stash.split_to(len).freeze();
        let payload = bytes.split_off(head_len);
        let body = bytes.split_off(HEADER_LEN);
        header.check_body(&body)?;
        Ok(Some(Frame {
            header,
            body,
            payload,
        }))
    }

    /// Receives until `wanted` bytes are here, taking at most `at_most`. False if the peer closed
    /// before the first of them.
    async fn fill(
        &mut self,
        wanted: usize,
        at_most: usize,
        mut deadline: Instant,
    ) -> Result<bool, LinkError> {
        while self.stash.len() < wanted {
            let room = self.room(wanted, at_most);
            let receive = self.socket.recv_some(room, at_most - self.stash.len());
            let received = timeout_at(deadline, receive)
                .await
                .map_err(|_| LinkError::Silent)??;
            if received.is_empty() {
                return match self.stash.is_empty() {
                    true => Ok(false),
                    false => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                };
            }
            if self.stash.is_empty() {
                // Once, so that a byte now and then does not keep an unfinished frame going.
                deadline = Instant::now() + STALL_MAX;
            }
            // It lies where it was cut off, so nothing is copied.
            self.stash.unsplit(received);
        }
        Ok(true)
    }

    /// Room for what is received next, right behind the stash. What is left of a buffer is used as
    /// long as it is not too little: frames that were cut from it keep all of it.
    fn room(&mut self, wanted: usize, at_most: usize) -> BytesMut {
        let len = self.stash.len();
        let enough = (wanted - len).max(ROOM_MIN.min(at_most - len));
        if self.stash.capacity() - len < enough {
            self.stash.reserve(at_most - len);
        }
        self.stash.split_off(len)
    }

    /// Receives the payload that a prepared buffer is for.
    pub(super) async fn recv_payload(&mut self, mut buffer: Buffer) -> Result<Buffer, LinkError> {
        let here = self.stash.len().min(buffer.payload().len());
        let stashed = self.stash.split_to(here);
        buffer.payload_mut()[..here].copy_from_slice(&stashed);
        let receive = self.socket.recv_payload(buffer, here);
        Ok(timeout(PAYLOAD_TIME_MAX, receive)
            .await
            .map_err(|_| LinkError::Silent)??)
    }

    /// Sends a small frame, unless the peer takes nothing any more.
    pub(super) async fn send(&self, frame: impl Into<Bytes>) -> Result<(), LinkError> {
        let sent = timeout(STALL_MAX, self.socket.send(frame)).await;
        Ok(sent.map_err(|_| LinkError::Silent)??)
    }

    /// Sends small frames at once, unless the peer takes nothing any more.
    pub(super) async fn send_at_once(&self, frames: Vec<u8>) -> Result<(), LinkError> {
        let sent = timeout(STALL_MAX, self.socket.send_at_once(frames)).await;
        Ok(sent.map_err(|_| LinkError::Silent)??)
    }

    /// Says why the connection ends, and ends it.
    pub(super) async fn goodbye(self, status: Status, text: &str) {
        let frame = error_frame(Kind::Goodbye, 0, status, &ErrorBody::new(text));
        let has_said_nothing = self.is_quiet();
        // A peer that has sent nothing has nothing to lose: an idle one would not close by itself.
        if self.send(frame).await.is_ok() && !has_said_nothing {
            self.linger().await;
        }
    }

    /// Ends a connection whose peer was told why and may still be sending: closing at once would
    /// reset it, and the peer could lose what it was told.
    pub(super) async fn linger(self) {
        self.socket.end_sending();
        let throw_away = async {
            let mut thrown = BytesMut::with_capacity(READ_AHEAD_LEN);
            loop {
                match self.socket.recv_some(thrown, READ_AHEAD_LEN).await {
                    Ok(bytes) if !bytes.is_empty() => thrown = bytes,
                    _ => break,
                }
                thrown.clear();
            }
        };
        // A peer that goes on sending regardless is cut off.
        let _ = timeout(LINGER_MAX, throw_away).await;
    }
}
