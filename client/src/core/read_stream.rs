//! The client's end of one `Read` of a sealed chunk (`spec/wire.md` section 12.2).
//!
//! [`ReadStream`] checks that each [`ReadData`] is of the wanted chunk and version, follows the
//! one before, and that every piece of its payload matches its CRC. What passed is good however
//! the stream ends: the next replica is asked for the rest.

use sarsen_protocol::id::{ChunkHandle, ChunkVersion};
use sarsen_protocol::message::{ChunkState, ReadData};
use sarsen_protocol::sabotage::{Check, is_in_force};
use sarsen_protocol::size::BLOCK_LEN;

use super::pieces::{all_match, extend_crc};

/// What is wrong with a replica's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadFault {
    /// A piece does not match the CRC that was stored with it.
    #[error("the bytes at {offset} do not match their CRC")]
    PieceMismatch {
        /// Where the payload begins in the chunk.
        offset: u32,
    },
    /// The pieces are good, and the chunk is not the one that was sealed.
    #[error("the chunk has CRC {found:08x}, and was sealed with {sealed:08x}")]
    ChunkMismatch {
        /// What its bytes have.
        found: u32,
        /// What the master's log has.
        sealed: u32,
    },
    /// Another chunk, version, length or state than the master's log has.
    #[error("the replica is not of the version that was sealed")]
    OtherVersion,
    /// The frame does not follow the one before.
    #[error("the replica sent bytes of {offset} where those of {wanted} were due")]
    OutOfOrder {
        /// Where its payload begins.
        offset: u32,
        /// Where it was to begin.
        wanted: u32,
    },
    /// The stream ended before the range did.
    #[error("the replica sent only up to {reached}")]
    EndedEarly {
        /// How far it came.
        reached: u32,
    },
}

/// A sealed chunk as the master's log has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Its name.
    pub handle: ChunkHandle,
    /// Its version.
    pub version: ChunkVersion,
    /// Its bytes.
    pub length: u32,
    /// Of its bytes.
    pub crc32: u32,
}

/// What has come of a chunk, and has been verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Up to where; always a block edge, or the chunk's end.
    pub reached: u32,
    /// CRC of what came.
    pub crc32: u32,
}

/// One `Read` and its answers.
#[derive(Clone, Copy, Debug)]
pub struct ReadStream {
    chunk: Sealed,
    /// Whether the range began at the chunk's start, so that its CRC is known in the end.
    from_start: bool,
    end: u32,
    verified: Verified,
}

impl ReadStream {
    /// Goes on at `verified`, which is a block edge, and reads up to `end` or the chunk's end.
    ///
    /// `start` is where the first of the replicas began.
    #[must_use]
    pub fn new(chunk: Sealed, start: u32, end: u32, verified: Verified) -> Self {
        Self {
            chunk,
            from_start: start == 0,
            end: end.min(chunk.length),
            verified,
        }
    }

    /// The first byte to ask for.
    #[must_use]
    pub const fn offset(&self) -> u32 {
        self.verified.reached
    }

    /// How many bytes to ask for; zero when nothing is left to read.
    #[must_use]
    pub const fn length(&self) -> u32 {
        self.end.saturating_sub(self.verified.reached)
    }

    /// What has come so far.
    #[must_use]
    pub const fn verified(&self) -> Verified {
        self.verified
    }

    /// A frame's body came, whose form fits its payload: whether the payload is worth taking.
    ///
    /// # Errors
    /// [`ReadFault::OtherVersion`], [`ReadFault::OutOfOrder`].
    pub fn handle_data(&self, data: &ReadData) -> Result<(), ReadFault> {
        let chunk = &self.chunk;
        let as_sealed = data.handle == chunk.handle
            && data.version == chunk.version
            && data.chunk_length == chunk.length
            && data.state == ChunkState::Sealed;
        if !as_sealed {
            return Err(ReadFault::OtherVersion);
        }
        // Behind the end nothing is due, so that a stream can't go on for ever.
        if data.offset != self.verified.reached || self.length() == 0 {
            return Err(ReadFault::OutOfOrder {
                offset: data.offset,
                wanted: self.verified.reached,
            });
        }
        Ok(())
    }

    /// The payload came.
    ///
    /// # Errors
    /// [`ReadFault::PieceMismatch`]; nothing of the payload may be used.
    pub fn handle_payload(&mut self, data: &ReadData, payload: &[u8]) -> Result<(), ReadFault> {
        let mismatch = ReadFault::PieceMismatch {
            offset: data.offset,
        };
        let len = u32::try_from(payload.len()).map_err(|_| mismatch)?;
        if !all_match(data.offset, payload, &data.crcs) && is_in_force(Check::ReadCrc) {
            return Err(mismatch);
        }
        self.verified.crc32 = extend_crc(self.verified.crc32, data.offset, len, &data.crcs);
        self.verified.reached = data.offset.saturating_add(len);
        Ok(())
    }

    /// The last frame was taken.
    ///
    /// # Errors
    /// [`ReadFault::EndedEarly`], [`ReadFault::ChunkMismatch`].
    pub fn handle_end(&self) -> Result<(), ReadFault> {
        let Verified { reached, crc32 } = self.verified;
        if reached < self.end {
            return Err(ReadFault::EndedEarly { reached });
        }
        let whole = self.from_start && reached == self.chunk.length;
        if whole && crc32 != self.chunk.crc32 && is_in_force(Check::ReadCrc) {
            return Err(ReadFault::ChunkMismatch {
                found: crc32,
                sealed: self.chunk.crc32,
            });
        }
        Ok(())
    }
}

/// The block edge at or below `offset`: where a read that wants `offset` begins.
#[must_use]
pub const fn block_start(offset: u32) -> u32 {
    offset - offset % BLOCK_LEN
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::pieces::crcs_of;
    use sarsen_protocol::crc::crc32;
    use sarsen_protocol::id::Serial;

    const LEN: u32 = 2 * BLOCK_LEN + 100;

    fn bytes() -> Vec<u8> {
        (0..LEN).map(|n| (n % 251) as u8).collect()
    }

    fn chunk() -> Sealed {
        Sealed {
            handle: ChunkHandle(3),
            version: ChunkVersion(4),
            length: LEN,
            crc32: crc32(&bytes()),
        }
    }

    fn data(offset: u32, payload: &[u8]) -> ReadData {
        ReadData {
            handle: ChunkHandle(3),
            version: ChunkVersion(4),
            serial: Serial(1),
            chunk_length: LEN,
            offset,
            state: ChunkState::Sealed,
            last: false,
            crcs: crcs_of(offset, payload).unwrap(),
        }
    }

    fn feed(stream: &mut ReadStream, offset: u32, payload: &[u8]) -> Result<(), ReadFault> {
        let data = data(offset, payload);
        stream.handle_data(&data)?;
        stream.handle_payload(&data, payload)
    }

    #[test]
    fn a_chunk_may_come_from_two_replicas() {
        let bytes = bytes();
        let (first, rest) = bytes.split_at(BLOCK_LEN as usize);
        let mut stream = ReadStream::new(chunk(), 0, u32::MAX, Verified::default());
        assert_eq!((stream.offset(), stream.length()), (0, LEN));
        feed(&mut stream, 0, first).unwrap();
        let reached = BLOCK_LEN;
        assert_eq!(stream.handle_end(), Err(ReadFault::EndedEarly { reached }));
        let mut other = ReadStream::new(chunk(), 0, u32::MAX, stream.verified());
        assert_eq!(other.offset(), BLOCK_LEN);
        feed(&mut other, BLOCK_LEN, rest).unwrap();
        assert_eq!(other.handle_end(), Ok(()));
        let more = feed(&mut other, LEN, &[]);
        let (offset, wanted) = (LEN, LEN);
        assert_eq!(more, Err(ReadFault::OutOfOrder { offset, wanted }));
    }

    #[test]
    fn nothing_wrong_passes() {
        let mut bytes = bytes();
        let mut stream = ReadStream::new(chunk(), 0, LEN, Verified::default());
        let mut other = data(0, &bytes);
        other.version = ChunkVersion(5);
        assert_eq!(stream.handle_data(&other), Err(ReadFault::OtherVersion));
        let offset = BLOCK_LEN;
        assert_eq!(
            feed(&mut stream, offset, &bytes[offset as usize..]),
            Err(ReadFault::OutOfOrder { offset, wanted: 0 })
        );
        let good = data(0, &bytes);
        bytes[70_000] ^= 1;
        let mismatch = Err(ReadFault::PieceMismatch { offset: 0 });
        assert_eq!(stream.handle_payload(&good, &bytes), mismatch);
        assert_eq!(stream.verified(), Verified::default());
    }

    #[test]
    fn a_replica_that_is_consistent_and_not_what_was_sealed_is_found_out() {
        let mut bytes = bytes();
        bytes[5] ^= 1;
        let mut stream = ReadStream::new(chunk(), 0, LEN, Verified::default());
        feed(&mut stream, 0, &bytes).unwrap();
        assert_eq!(
            stream.handle_end(),
            Err(ReadFault::ChunkMismatch {
                found: crc32(&bytes),
                sealed: chunk().crc32
            })
        );
    }

    #[test]
    fn a_part_is_verified_by_its_pieces_alone() {
        let bytes = bytes();
        let start = block_start(BLOCK_LEN + 9);
        let verified = Verified {
            reached: start,
            crc32: 0,
        };
        let mut stream = ReadStream::new(chunk(), start, BLOCK_LEN + 20, verified);
        assert_eq!((stream.offset(), stream.length()), (BLOCK_LEN, 20));
        feed(
            &mut stream,
            BLOCK_LEN,
            &bytes[BLOCK_LEN as usize..2 * BLOCK_LEN as usize],
        )
        .unwrap();
        assert_eq!(stream.handle_end(), Ok(()));
    }
}
