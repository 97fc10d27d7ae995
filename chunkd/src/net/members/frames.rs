//! Frames of mutation streams and what a chunk's machine is told of them, both ways
//! (`spec/wire.md` section 12.3, `spec/messages.md` section 14.4).
//!
//! What a client may send and what a member may is told apart by who opened the stream. Payloads are
//! not looked at here; they stay where they were received, in pieces that many frames share.

use std::time::Duration;

use bytes::Bytes;
use sarsen_protocol::deframe::{self, error_frame, frame};
use sarsen_protocol::error::{BodyError, FrameError};
use sarsen_protocol::header::Header;
use sarsen_protocol::id::ChunkVersion;
use sarsen_protocol::message::{
    Append, ErrorBody, Kind, Mark, Marked, Message, WriteAck, WriteBatch, WriteData, WriteOpened,
};
use sarsen_protocol::status::Status;

use crate::core::mutation::{Frame, Replica, Reply, StreamId};

/// A frame of a stream that came in, behind its `WriteOpen`.
#[derive(Debug)]
pub enum Came {
    /// Of a client.
    Write(WriteData, Bytes),
    /// Of a client.
    Append(Append, Bytes),
    /// Of the hop before.
    Batch(WriteBatch, Bytes),
    /// Of the hop before.
    Mark(Mark),
}

impl Came {
    /// A frame as what it is, of the stream of this number.
    ///
    /// # Errors
    /// The peer breaks the protocol: its connection is of no use any more.
    pub fn decode(
        frame: &deframe::Frame,
        request_id: u64,
        from_client: bool,
    ) -> Result<Self, FrameError> {
        let kind = frame.header.kind;
        let is_of_stream = frame.header.request_id == request_id && frame.header.status.is_ok();
        let payload_len = frame.header.payload_len;
        let payload = frame.payload.clone();
        match kind {
            _ if !is_of_stream => Err(FrameError::OutOfTurn { kind }),
            Kind::WriteData if from_client => {
                let write: WriteData = frame.message()?;
                checked::<WriteData>(write.check_payload(payload_len))?;
                Ok(Self::Write(write, payload))
            }
            Kind::Append if from_client => {
                let append: Append = frame.message()?;
                checked::<Append>(append.check_payload(payload_len))?;
                Ok(Self::Append(append, payload))
            }
            Kind::WriteBatch if !from_client => {
                let batch: WriteBatch = frame.message()?;
                checked::<WriteBatch>(batch.check_payload(payload_len))?;
                Ok(Self::Batch(batch, payload))
            }
            Kind::Mark if !from_client => Ok(Self::Mark(frame.message()?)),
            _ => Err(FrameError::OutOfTurn { kind }),
        }
    }

    /// Bytes of its payload.
    #[must_use]
    pub const fn payload_len(&self) -> usize {
        match self {
            Self::Write(_, payload) | Self::Append(_, payload) | Self::Batch(_, payload) => {
                payload.len()
            }
            Self::Mark(_) => 0,
        }
    }

    /// Tells the machine.
    pub fn tell(self, replica: &mut Replica, now: Duration, stream: StreamId) {
        match self {
            Self::Write(write, payload) => replica.handle_write(now, stream, write, payload),
            Self::Append(append, payload) => replica.handle_append(now, stream, append, payload),
            Self::Batch(batch, payload) => replica.handle_batch(now, stream, batch, payload),
            Self::Mark(mark) => replica.handle_mark(now, stream, &mark),
        }
    }
}

/// What a next hop says.
#[derive(Debug)]
pub enum FromNext {
    /// It said hello.
    Reached,
    /// It and all behind it are open.
    Opened,
    /// It and all behind it have something.
    Ack(WriteAck),
    /// It and all behind it have promised nothing newer.
    Marked(Marked),
    /// Something failed there; nothing follows.
    Failed(Status, ErrorBody),
    /// It is not reached any more; why, in words.
    Gone(String),
}

impl FromNext {
    /// A frame as what it is, of the stream of this number.
    ///
    /// # Errors
    /// The next hop breaks the protocol.
    pub fn decode(frame: &deframe::Frame, request_id: u64) -> Result<Self, FrameError> {
        let (kind, status) = (frame.header.kind, frame.header.status);
        let is_answer = matches!(kind, Kind::WriteOpened | Kind::WriteAck | Kind::Marked);
        if kind == Kind::Goodbye {
            return Ok(Self::Gone(frame.error()?.text));
        }
        if !is_answer || frame.header.request_id != request_id {
            return Err(FrameError::OutOfTurn { kind });
        }
        if !status.is_ok() {
            return Ok(Self::Failed(status, frame.error()?));
        }
        Ok(match kind {
            Kind::WriteOpened => {
                let WriteOpened = frame.message()?;
                Self::Opened
            }
            Kind::WriteAck => Self::Ack(frame.message()?),
            _ => Self::Marked(frame.message()?),
        })
    }

    /// Tells the machine, of the next hop of this version.
    pub fn tell(self, replica: &mut Replica, now: Duration, version: ChunkVersion) {
        match self {
            Self::Reached => replica.handle_next_reached(now, version),
            Self::Opened => replica.handle_next_opened(now, version),
            Self::Ack(ack) => replica.handle_next_ack(now, version, &ack),
            Self::Marked(marked) => replica.handle_next_marked(now, version, &marked),
            Self::Failed(status, error) => {
                replica.handle_next_failed(now, version, status, error);
            }
            Self::Gone(text) => {
                tracing::debug!(handle = %replica.member().handle(), text, "the next hop is gone");
                replica.handle_next_gone(now, version);
            }
        }
    }
}

/// The frame that goes back over a stream that came in.
#[must_use]
pub fn reply_frame(reply: &Reply, request_id: u64) -> Vec<u8> {
    match reply {
        Reply::Opened => frame(&WriteOpened, request_id),
        Reply::Ack(ack) => frame(ack, request_id),
        Reply::Appended(appended) => frame(appended, request_id),
        Reply::Marked(marked) => frame(marked, request_id),
        Reply::Failed {
            kind,
            status,
            error,
        } => error_frame(*kind, request_id, *status, error),
    }
}

/// The frame that goes on to the next hop: its head, and its payload in pieces.
#[must_use]
pub fn onward_frame(frame: &Frame, request_id: u64) -> (Vec<u8>, &[Bytes]) {
    let (kind, body, payload) = match frame {
        Frame::Batch(batch, payload) => (Kind::WriteBatch, batch.to_body(), payload.as_slice()),
        Frame::Mark(mark) => (Kind::Mark, mark.to_body(), &[][..]),
    };
    let len: usize = payload.iter().map(Bytes::len).sum();
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    let header = Header::new(kind, Status::Ok, request_id, &body, len);
    ([&header.encode()[..], &body].concat(), payload)
}

fn checked<M: Message>(result: Result<(), BodyError>) -> Result<(), FrameError> {
    result.map_err(|source| FrameError::Body {
        kind: M::KIND,
        source,
    })
}
