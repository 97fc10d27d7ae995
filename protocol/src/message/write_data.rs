//! `WriteData`: bytes down the chain, and `WriteAck`: how far they got (`spec/messages.md`
//! section 12).

use super::shared::Level;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder, Field};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, RequestId, Serial};
use crate::size::{CHUNK_LEN_MAX, PIECES_MAX, pieces_in};

/// Bytes of a [`WriteData`]'s body.
pub const WRITE_DATA_LEN: usize = 160;

/// The CRCs of a payload's pieces; always seventeen places on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crcs {
    count: u8,
    places: [u32; PIECES_MAX],
}

impl Crcs {
    /// The CRCs of up to seventeen pieces; `None` for more.
    #[must_use]
    pub fn new(crcs: &[u32]) -> Option<Self> {
        let mut places = [0; PIECES_MAX];
        places.get_mut(..crcs.len())?.copy_from_slice(crcs);
        Some(Self {
            count: u8::try_from(crcs.len()).ok()?,
            places,
        })
    }

    /// One CRC a piece.
    #[must_use]
    pub fn as_slice(&self) -> &[u32] {
        self.places
            .get(..usize::from(self.count))
            .unwrap_or_default()
    }

    /// How many pieces there are.
    #[must_use]
    pub const fn count(&self) -> u8 {
        self.count
    }

    pub(super) fn encode_places(&self, out: &mut Encoder) {
        for crc in &self.places {
            out.put(crc);
        }
    }

    pub(super) fn decode_places(count: u8, input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let mut places = [0; PIECES_MAX];
        for place in &mut places {
            *place = input.take()?;
        }
        let unused = places
            .get(usize::from(count)..)
            .ok_or(BodyError::OutOfBounds)?;
        match unused.iter().all(|&crc| crc == 0) {
            true => Ok(Self { count, places }),
            false => Err(BodyError::ReservedNotZero),
        }
    }
}

/// One mutation: the payload that follows, at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteData {
    /// Which chunk.
    pub handle: ChunkHandle,
    /// Which version.
    pub version: ChunkVersion,
    /// Its place in the chunk's order.
    pub serial: Serial,
    /// Every serial up to here is on all members.
    pub commit_mark: Serial,
    /// Makes the mutation be done once; `None` for a pending chunk, which is whole or garbage.
    pub request: Option<RequestId>,
    /// Where the payload begins in the chunk.
    pub offset: u32,
    /// How safe it is to be before it is acknowledged.
    pub level: Level,
    /// The pieces' CRCs.
    pub crcs: Crcs,
}

impl WriteData {
    /// Compares offset and pieces with the payload that the header announces.
    ///
    /// # Errors
    /// [`BodyError::OutOfBounds`].
    pub fn check_payload(&self, payload_len: u32) -> Result<(), BodyError> {
        let end = u64::from(self.offset) + u64::from(payload_len);
        let fits = payload_len > 0
            && end <= u64::from(CHUNK_LEN_MAX)
            && pieces_in(self.offset, payload_len) == u32::from(self.crcs.count());
        if fits {
            Ok(())
        } else {
            Err(BodyError::OutOfBounds)
        }
    }
}

impl Message for WriteData {
    const KIND: Kind = Kind::WriteData;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.handle)
            .put(&self.version)
            .put(&self.serial)
            .put(&self.commit_mark);
        match &self.request {
            Some(request) => out.put(request),
            None => out.reserved(RequestId::LEN_MIN),
        };
        out.put(&self.offset)
            .put(&self.level)
            .put(&self.crcs.count())
            .reserved(2);
        self.crcs.encode_places(out);
        out.reserved(28);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let handle = input.take()?;
        let version = input.take()?;
        let serial = input.take()?;
        let commit_mark = input.take()?;
        let request = match input.array::<{ RequestId::LEN_MIN }>()? {
            bytes if bytes == [0; RequestId::LEN_MIN] => None,
            bytes => Some(Decoder::new(&bytes).take()?),
        };
        let offset = input.take()?;
        let level = input.take()?;
        let piece_count = input.take()?;
        input.reserved(2)?;
        let crcs = Crcs::decode_places(piece_count, input)?;
        input.reserved(28)?;
        if piece_count == 0 {
            return Err(BodyError::OutOfBounds);
        }
        Ok(Self {
            handle,
            version,
            serial,
            commit_mark,
            request,
            offset,
            level,
            crcs,
        })
    }
}

/// Everything up to a serial is on so many members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteAck {
    /// The highest serial that this covers, and with it all below.
    pub serial: Serial,
    /// Every serial up to here is on all members.
    pub commit_mark: Serial,
    /// How safe.
    pub level: Level,
    /// On how many members.
    pub copies: u8,
}

impl Message for WriteAck {
    const KIND: Kind = Kind::WriteAck;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.serial)
            .put(&self.commit_mark)
            .put(&self.level)
            .put(&self.copies);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            serial: input.take()?,
            commit_mark: input.take()?,
            level: input.take()?,
            copies: input.take()?,
        })
    }
}
