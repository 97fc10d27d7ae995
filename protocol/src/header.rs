//! A frame's header (`spec/wire.md` section 5).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::crc::crc32;
use crate::error::FrameError;
use crate::message::{Kind, Plane};
use crate::size::{
    CONTROL_BODY_LEN_MAX, DATA_BODY_LEN_MAX, HEADER_LEN, HELLO_BODY_LEN_MAX, PAYLOAD_LEN_MAX,
};
use crate::status::Status;
use crate::version::VERSION;

/// What every header has at byte 4.
pub const MAGIC: [u8; 4] = *b"SRSN";

/// The header as it lies on the wire.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Wire {
    header_crc: U32,
    magic: [u8; 4],
    version: U16,
    kind: U16,
    flags: U16,
    status: U16,
    request_id: U64,
    body_len: U32,
    body_crc: U32,
    payload_len: U32,
    reserved: [u8; 28],
}

const _: () = assert!(size_of::<Wire>() == HEADER_LEN);

/// A header whose form is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The message that the body holds.
    pub kind: Kind,
    /// The outcome, in a reply; [`Status::Ok`] elsewhere.
    pub status: Status,
    /// The sender's number for its request, repeated in the reply and throughout a stream.
    pub request_id: u64,
    /// Bytes of body that follow.
    pub body_len: u32,
    /// CRC of the body.
    pub body_crc: u32,
    /// Bytes of payload that follow the body.
    pub payload_len: u32,
}

impl Header {
    /// The header of a frame of `body` and `payload_len` bytes of payload.
    ///
    /// # Panics
    /// If the body is longer than any plane allows: ours are bounded where they are made.
    #[must_use]
    pub fn new(kind: Kind, status: Status, request_id: u64, body: &[u8], payload_len: u32) -> Self {
        let body_len = u32::try_from(body.len()).expect("a body is bounded where it is made");
        assert!(
            body_len <= CONTROL_BODY_LEN_MAX,
            "a {} body of {body_len} bytes",
            kind.name()
        );
        Self {
            kind,
            status,
            request_id,
            body_len,
            body_crc: crc32(body),
            payload_len,
        }
    }

    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut wire = Wire {
            header_crc: U32::ZERO,
            magic: MAGIC,
            version: U16::new(VERSION),
            kind: U16::new(self.kind.number()),
            flags: U16::ZERO,
            status: U16::new(self.status.number()),
            request_id: U64::new(self.request_id),
            body_len: U32::new(self.body_len),
            body_crc: U32::new(self.body_crc),
            payload_len: U32::new(self.payload_len),
            reserved: [0; 28],
        };
        wire.header_crc = U32::new(crc32(&wire.as_bytes()[4..]));
        zerocopy::transmute!(wire)
    }

    /// Reads a header on a connection of `plane`, in the order of checks of the specification.
    ///
    /// `hello_done` is false until the peer has proved itself: bodies are kept small till then.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn decode(
        bytes: &[u8; HEADER_LEN],
        plane: Plane,
        hello_done: bool,
    ) -> Result<Self, FrameError> {
        let wire: Wire = zerocopy::transmute!(*bytes);
        if wire.magic != MAGIC {
            return Err(FrameError::BadMagic);
        }
        if wire.header_crc.get() != crc32(&bytes[4..]) {
            return Err(FrameError::BadHeaderCrc);
        }
        if wire.version.get() != VERSION {
            return Err(FrameError::UnsupportedVersion {
                version: wire.version.get(),
            });
        }
        if wire.flags.get() != 0 || wire.reserved != [0; 28] {
            return Err(FrameError::ReservedNotZero);
        }
        let number = wire.kind.get();
        let kind = Kind::from_number(number).ok_or(FrameError::UnknownKind { number })?;
        if !kind.is_on(plane) {
            return Err(FrameError::WrongPlane { kind });
        }
        if wire.status.get() != 0 && !kind.has_status() {
            return Err(FrameError::UnexpectedStatus { kind });
        }
        let header = Self {
            kind,
            status: Status::from_number(wire.status.get()),
            request_id: wire.request_id.get(),
            body_len: wire.body_len.get(),
            body_crc: wire.body_crc.get(),
            payload_len: wire.payload_len.get(),
        };
        header.check_lens(plane, hello_done)?;
        Ok(header)
    }

    /// The lengths against the limits of the plane and of the hello.
    fn check_lens(&self, plane: Plane, hello_done: bool) -> Result<(), FrameError> {
        let body_len_max = match (hello_done, plane) {
            (false, _) => HELLO_BODY_LEN_MAX,
            (true, Plane::Control) => CONTROL_BODY_LEN_MAX,
            (true, Plane::Data) => DATA_BODY_LEN_MAX,
        };
        if self.body_len > body_len_max {
            return Err(FrameError::BodyTooLong {
                len: self.body_len,
                len_max: body_len_max,
            });
        }
        if self.payload_len > PAYLOAD_LEN_MAX {
            return Err(FrameError::PayloadTooLong {
                len: self.payload_len,
            });
        }
        if self.payload_len > 0 && !(self.kind.has_payload() && self.status.is_ok()) {
            return Err(FrameError::UnexpectedPayload { kind: self.kind });
        }
        Ok(())
    }

    /// Compares the body that came with what the header says of it.
    ///
    /// # Errors
    /// [`FrameError::BadBodyCrc`].
    pub fn check_body(&self, body: &[u8]) -> Result<(), FrameError> {
        match crc32(body) == self.body_crc {
            true => Ok(()),
            false => Err(FrameError::BadBodyCrc { kind: self.kind }),
        }
    }
}
