//! Bytes from a connection into whole frames, and frames into bytes (`spec/wire.md` section 5).
//!
//! [`Deframer`] takes bytes as they come, in pieces of any size, and yields frames. What it holds
//! is bounded by what arrived: the lengths in a header are compared with the limits of the plane
//! before a byte of the body is awaited, and nothing is reserved from them.

use bytes::{Buf, Bytes, BytesMut};

use crate::error::FrameError;
use crate::header::Header;
use crate::message::{AnyMessage, ErrorBody, Kind, Message, Plane};
use crate::size::{CONTROL_BODY_LEN_MAX, HEADER_LEN};
use crate::status::Status;

/// A whole frame whose header and body CRC are right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The header.
    pub header: Header,
    /// The body, not yet looked into.
    pub body: Bytes,
    /// The payload, not yet compared with its CRCs.
    pub payload: Bytes,
}

impl Frame {
    /// The body as the message that the caller expects.
    ///
    /// # Errors
    /// [`FrameError::OutOfTurn`] for another kind, [`FrameError::Body`] for a malformed one.
    pub fn message<M: Message>(&self) -> Result<M, FrameError> {
        let kind = self.header.kind;
        if kind != M::KIND {
            return Err(FrameError::OutOfTurn { kind });
        }
        M::from_body(&self.body).map_err(|source| FrameError::Body { kind, source })
    }

    /// The body as whatever message the header names.
    ///
    /// # Errors
    /// [`FrameError::Body`] for a malformed one.
    pub fn any_message(&self) -> Result<AnyMessage, FrameError> {
        let kind = self.header.kind;
        AnyMessage::from_body(kind, &self.body).map_err(|source| FrameError::Body { kind, source })
    }

    /// The error body of a frame whose status is not `ok`.
    ///
    /// # Errors
    /// [`FrameError::Body`] for a malformed one.
    pub fn error(&self) -> Result<ErrorBody, FrameError> {
        let kind = self.header.kind;
        ErrorBody::from_body(&self.body).map_err(|source| FrameError::Body { kind, source })
    }
}

/// The bytes of a frame without a payload.
#[must_use]
pub fn frame<M: Message>(message: &M, request_id: u64) -> Vec<u8> {
    join(M::KIND, Status::Ok, request_id, &message.to_body())
}

/// The bytes of a frame of any message without a payload.
///
/// # Errors
/// [`FrameError::BodyTooLong`] for a reply that grew beyond what the control plane carries.
pub fn any_frame(message: &AnyMessage, request_id: u64) -> Result<Vec<u8>, FrameError> {
    let body = message.to_body();
    match u32::try_from(body.len()) {
        Ok(len) if len <= CONTROL_BODY_LEN_MAX => {
            Ok(join(message.kind(), Status::Ok, request_id, &body))
        }
        len => Err(FrameError::BodyTooLong {
            len: len.unwrap_or(u32::MAX),
            len_max: CONTROL_BODY_LEN_MAX,
        }),
    }
}

/// The bytes of a frame that carries a failure: a reply, or a `Goodbye`.
#[must_use]
pub fn error_frame(kind: Kind, request_id: u64, status: Status, error: &ErrorBody) -> Vec<u8> {
    join(kind, status, request_id, &error.to_body())
}

fn join(kind: Kind, status: Status, request_id: u64, body: &[u8]) -> Vec<u8> {
    let header = Header::new(kind, status, request_id, body, 0);
    let mut bytes = Vec::with_capacity(HEADER_LEN + body.len());
    bytes.extend_from_slice(&header.encode());
    bytes.extend_from_slice(body);
    bytes
}

/// Gathers bytes until a frame is whole.
#[derive(Debug)]
pub struct Deframer {
    plane: Plane,
    hello_done: bool,
    bytes: BytesMut,
    header: Option<Header>,
}

impl Deframer {
    /// A deframer for a new connection of `plane`.
    #[must_use]
    pub fn new(plane: Plane) -> Self {
        Self {
            plane,
            hello_done: false,
            bytes: BytesMut::new(),
            header: None,
        }
    }

    /// The peer has proved itself: bodies may take what the plane allows from here on.
    pub fn hello_is_done(&mut self) {
        self.hello_done = true;
    }

    /// Where to append the bytes that arrive.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// Whether bytes of an unfinished frame are here.
    #[must_use]
    pub fn is_mid_frame(&self) -> bool {
        self.header.is_some() || !self.bytes.is_empty()
    }

    /// The next whole frame, or `None` until more bytes have come.
    ///
    /// # Errors
    /// What breaks the rules; the connection is then to be closed, and this not called again.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let header = match self.header {
            Some(header) => header,
            None => {
                let Some(bytes) = self.bytes.first_chunk() else {
                    return Ok(None);
                };
                let header = Header::decode(bytes, self.plane, self.hello_done)?;
                self.bytes.advance(HEADER_LEN);
                self.header = Some(header);
                header
            }
        };
        let (body_len, payload_len) = (header.body_len as usize, header.payload_len as usize);
        // Before the hello is done no kind can come that has a payload, so none is waited for.
        let is_too_early = payload_len > 0 && !self.hello_done;
        let payload_awaited = if is_too_early { 0 } else { payload_len };
        if self.bytes.len() < body_len + payload_awaited {
            return Ok(None);
        }
        self.header = None;
        let body = self.bytes.split_to(body_len).freeze();
        header.check_body(&body)?;
        if is_too_early {
            return Err(FrameError::OutOfTurn { kind: header.kind });
        }
        let payload = self.bytes.split_to(payload_len).freeze();
        Ok(Some(Frame {
            header,
            body,
            payload,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Ping, Stat};

    fn done(plane: Plane) -> Deframer {
        let mut deframer = Deframer::new(plane);
        deframer.hello_is_done();
        deframer
    }

    #[test]
    fn frames_come_whole_however_the_bytes_come() {
        let stat = Stat { path: "/a".into() };
        let mut bytes = frame(&stat, 7);
        bytes.extend(frame(&Ping, 8));
        for step in 1..bytes.len() {
            let mut deframer = done(Plane::Control);
            let mut frames = Vec::new();
            for piece in bytes.chunks(step) {
                deframer.buffer().extend_from_slice(piece);
                while let Some(frame) = deframer.next_frame().unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames.len(), 2, "in steps of {step}");
            assert_eq!(frames[0].message::<Stat>().unwrap(), stat);
            assert_eq!(frames[1].header.request_id, 8);
            assert!(!deframer.is_mid_frame());
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_a_byte_is_awaited() {
        let mut header = Header::new(Kind::Stat, Status::Ok, 1, &[], 0);
        header.body_len = 5000;
        let mut deframer = Deframer::new(Plane::Control);
        deframer.buffer().extend_from_slice(&header.encode());
        assert_eq!(
            deframer.next_frame(),
            Err(FrameError::BodyTooLong {
                len: 5000,
                len_max: 4096
            })
        );
    }

    /// A stranger's header of a mebibyte of data had all of it received before anybody looked whether it
    /// could come now: each connection without a hello could take as much.
    #[test]
    fn no_payload_is_awaited_before_the_hello_is_done() {
        let body = [7; 24];
        let header = Header::new(Kind::WriteData, Status::Ok, 1, &body, 1 << 20);
        let mut deframer = Deframer::new(Plane::Data);
        deframer.buffer().extend_from_slice(&header.encode());
        assert_eq!(
            deframer.next_frame(),
            Ok(None),
            "the body has its turn first"
        );
        deframer.buffer().extend_from_slice(&body);
        let kind = Kind::WriteData;
        assert_eq!(deframer.next_frame(), Err(FrameError::OutOfTurn { kind }));

        let mut deframer = Deframer::new(Plane::Data);
        deframer.buffer().extend_from_slice(&header.encode());
        deframer.buffer().extend_from_slice(&[8; 24]);
        assert_eq!(deframer.next_frame(), Err(FrameError::BadBodyCrc { kind }));
    }

    #[test]
    fn a_flipped_bit_anywhere_is_an_error() {
        let bytes = frame(&Stat { path: "/a".into() }, 7);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let mut deframer = done(Plane::Control);
            deframer.buffer().extend_from_slice(&flipped);
            assert!(deframer.next_frame().is_err(), "bit {bit}");
        }
    }
}
