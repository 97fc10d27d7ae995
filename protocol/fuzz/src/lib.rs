//! What is tried with random bytes: whatever comes, nothing panics, and whatever is taken is
//! written again as the same bytes.
//!
//! `cargo test` includes this file and replays the corpus with it, so it knows nothing of the
//! fuzzer. An input is one byte that says how to take the others, then these:
//!
//! - bit 0: the connection is of the data plane, else of the control plane;
//! - bit 1: its hello is done;
//! - bits 2 and 3: 0, the bytes are a stream of frames as they are; 1, each frame's header is made
//!   right first, CRCs too, so that bodies are reached; 2, two bytes name a kind and the others are
//!   its body; 3, they are tried as an error body and as a ticket.

use sarsen_protocol::codec::{Decoder, Encoder};
use sarsen_protocol::deframe::{Deframer, Frame};
use sarsen_protocol::error::FrameError;
use sarsen_protocol::header::Header;
use sarsen_protocol::message::{AnyMessage, ErrorBody, Kind, Plane};
use sarsen_protocol::size::{CONTROL_BODY_LEN_MAX, HEADER_LEN};
use sarsen_protocol::status::Status;
use sarsen_protocol::ticket::Ticket;

/// Bit 0: the data plane.
pub const DATA_PLANE: u8 = 1;
/// Bit 1: the hello is done.
pub const HELLO_DONE: u8 = 2;
/// Bits 2 and 3: frames as they are.
pub const FRAMES: u8 = 0 << 2;
/// Bits 2 and 3: frames whose headers are made right first.
pub const FRAMES_MENDED: u8 = 1 << 2;
/// Bits 2 and 3: a kind and its body.
pub const BODY: u8 = 2 << 2;
/// Bits 2 and 3: an error body and a ticket.
pub const PARTS: u8 = 3 << 2;

/// Tries one input.
///
/// # Panics
/// If something is taken that is not written again as the same bytes.
pub fn run(input: &[u8]) {
    let Some((&how, bytes)) = input.split_first() else {
        return;
    };
    let plane = if how & DATA_PLANE != 0 {
        Plane::Data
    } else {
        Plane::Control
    };
    let hello_done = how & HELLO_DONE != 0;
    match how & PARTS {
        FRAMES => frames(bytes, plane, hello_done),
        FRAMES_MENDED => frames(&mended(bytes), plane, hello_done),
        BODY => {
            if let Some((number, body)) = bytes.split_first_chunk() {
                any_body(some_kind(u16::from_le_bytes(*number)), body, 0);
            }
        }
        _ => {
            error_body(bytes);
            ticket(bytes);
        }
    }
}

/// A stream of frames, whole and in small pieces, which must make no difference.
fn frames(bytes: &[u8], plane: Plane, hello_done: bool) {
    let whole = deframe(bytes, bytes.len().max(1), plane, hello_done);
    let in_pieces = deframe(bytes, 7, plane, hello_done);
    assert_eq!(whole, in_pieces);
    let mut at = 0;
    for frame in &whole.0 {
        let header = &frame.header;
        let len = HEADER_LEN + frame.body.len() + frame.payload.len();
        let bytes = &bytes[at..at + len];
        at += len;
        // A status that isn't listed is read as `internal`, and so not written again.
        let status = u16::from_le_bytes([bytes[14], bytes[15]]);
        if Status::from_number(status).number() == status {
            assert_eq!(header.encode(), bytes[..HEADER_LEN]);
        }
        assert_eq!(frame.body, bytes[HEADER_LEN..HEADER_LEN + frame.body.len()]);
        if header.status.is_ok() {
            any_body(header.kind, &frame.body, header.payload_len);
        } else {
            error_body(&frame.body);
        }
    }
}

/// The frames in a stream that arrives in pieces, and what ended it.
fn deframe(
    bytes: &[u8],
    piece_len: usize,
    plane: Plane,
    hello_done: bool,
) -> (Vec<Frame>, Result<(), FrameError>) {
    let mut deframer = Deframer::new(plane);
    if hello_done {
        deframer.hello_is_done();
    }
    let mut frames = Vec::new();
    for piece in bytes.chunks(piece_len) {
        deframer.buffer().extend_from_slice(piece);
        loop {
            match deframer.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
    }
    (frames, Ok(()))
}

/// A body, and what it says of its payload.
fn any_body(kind: Kind, body: &[u8], payload_len: u32) {
    let Ok(message) = AnyMessage::from_body(kind, body) else {
        return;
    };
    assert_eq!(message.kind(), kind);
    assert_eq!(message.to_body(), body, "{}", kind.name());
    // Either verdict will do: a body says nothing certain of the payload that is behind it.
    let _ = match message {
        AnyMessage::WriteData(data) => data.check_payload(payload_len),
        AnyMessage::ReadData(data) => data.check_payload(payload_len),
        AnyMessage::Append(records) => records.check_payload(payload_len),
        AnyMessage::WriteBatch(batch) => batch.check_payload(payload_len),
        AnyMessage::CutData(data) => data.check_payload(payload_len),
        _ => Ok(()),
    };
}

fn error_body(bytes: &[u8]) {
    if let Ok(error) = ErrorBody::from_body(bytes) {
        assert_eq!(error.to_body(), bytes);
    }
}

fn ticket(bytes: &[u8]) {
    let mut input = Decoder::new(bytes);
    if let Ok(ticket) = input.take::<Ticket>() {
        let mut out = Encoder::new();
        out.put(&ticket);
        assert_eq!(out.into_bytes(), bytes[..bytes.len() - input.remaining()]);
    }
}

/// The kind of this number; of a number that no kind has, another one.
pub fn some_kind(number: u16) -> Kind {
    Kind::from_number(number).unwrap_or_else(|| Kind::ALL[usize::from(number) % Kind::ALL.len()])
}

/// The stream with the header of every frame in it made right. Kind, status, request id and lengths
/// are taken from what stands there, as far as they can be.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut mended = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((header, behind)) = rest.split_first_chunk::<HEADER_LEN>() {
        let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let len_at = |at: usize| usize::from(u16_at(at)) | usize::from(u16_at(at + 2)) << 16;
        let kind = some_kind(u16_at(10));
        let status = match kind.has_status() {
            true => Status::from_number(u16_at(14)),
            false => Status::Ok,
        };
        let body_len = len_at(24).min(CONTROL_BODY_LEN_MAX as usize);
        let (body, behind) = behind.split_at(body_len.min(behind.len()));
        let (payload, behind) = behind.split_at(len_at(32).min(behind.len()));
        let payload_len = u32::try_from(payload.len()).expect("its length was 32 bits");
        let request_id = u64::from(u16_at(16));
        mended.extend(Header::new(kind, status, request_id, body, payload_len).encode());
        mended.extend(body);
        mended.extend(payload);
        rest = behind;
    }
    mended.extend(rest);
    mended
}
