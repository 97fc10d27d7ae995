//! The client's end of one `Read` of a chunk (`spec/wire.md` section 12.2).
//!
//! [`ReadStream`] checks that each [`ReadData`] is of the wanted chunk and state, follows the
//! one before, and that every piece of its payload matches its CRC. What passed is good however
//! the stream ends: the next replica is asked for the rest.
//!
//! Of a sealed chunk version and length are known before, and its CRC where all of it is read. Of
//! one that is not sealed (`spec/replication.md` section 12) a state is wanted that is at least as
//! new as what was seen; which one is served, and how long it is, the first frame says, and all
//! frames of a `Read` are of that one.

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Serial};
use sarsen_protocol::message::{ChunkState, ReadData, Want};
use sarsen_protocol::sabotage::{Check, is_in_force};
use sarsen_protocol::size::BLOCK_LEN;

use super::pieces::{all_match, extend_crc};
use super::seen::State;

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
    /// A state that is older than what was seen of the open chunk, or another than that of the
    /// frame before.
    #[error("the replica is not in the state that was asked for")]
    OtherState,
    /// The open chunk has become shorter than it was: the file was truncated.
    #[error("the chunk has {length} bytes, and had {seen}")]
    Shrank {
        /// Its bytes now.
        length: u32,
        /// Its bytes before.
        seen: u32,
    },
    /// The master was asked before this client saw a newer version.
    #[error("a newer version of the chunk was seen before")]
    SeenNewer,
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

/// Which state of a chunk will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Exactly the one that was sealed.
    Sealed(Sealed),
    /// Any committed state that is new enough.
    Plain {
        /// Of this chunk.
        handle: ChunkHandle,
        /// Not older than this.
        at_least: State,
        /// Not shorter than this.
        length: u32,
    },
}

impl Wanted {
    /// Version, serial and kind of state, as requests carry them.
    #[must_use]
    pub const fn asked(&self) -> (ChunkVersion, Serial, Want) {
        match self {
            Self::Sealed(sealed) => (sealed.version, Serial::NONE, Want::Sealed),
            Self::Plain { at_least, .. } => (at_least.version, at_least.serial, Want::Plain),
        }
    }

    /// Whether what an answer tells of its chunk is what was asked for; `before` is what the answer
    /// before it told.
    ///
    /// # Errors
    /// [`ReadFault::OtherVersion`], [`ReadFault::OtherState`], [`ReadFault::Shrank`].
    pub(super) fn check(
        &self,
        handle: ChunkHandle,
        served: Served,
        state: ChunkState,
        before: Option<Served>,
    ) -> Result<(), ReadFault> {
        match *self {
            Self::Sealed(chunk) => {
                let as_sealed = handle == chunk.handle
                    && served.state.version == chunk.version
                    && served.length == chunk.length
                    && state == ChunkState::Sealed;
                as_sealed.then_some(()).ok_or(ReadFault::OtherVersion)
            }
            Self::Plain {
                handle: wanted,
                at_least,
                length: seen,
            } => {
                let is_new_enough = handle == wanted && served.state >= at_least;
                let is_same = before.is_none_or(|before| before == served);
                if !is_new_enough || !is_same || state == ChunkState::Pending {
                    return Err(ReadFault::OtherState);
                }
                let length = served.length;
                match length < seen {
                    true => Err(ReadFault::Shrank { length, seen }),
                    false => Ok(()),
                }
            }
        }
    }
}

/// What a replica says of the chunk that it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// The state that the bytes belong to.
    pub state: State,
    /// The chunk's bytes in it.
    pub length: u32,
}

/// What has come of a chunk, and has been verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Up to where; always a block edge, or the chunk's end.
    pub reached: u32,
    /// CRC of what came.
    pub crc32: u32,
}

/// One `Read` and its answers; or several behind each other, of a range that is asked for in parts.
#[derive(Clone, Copy, Debug)]
pub struct ReadStream {
    wanted: Wanted,
    /// Whether the range began at the chunk's start, so that its CRC is known in the end.
    from_start: bool,
    end: u32,
    /// What is served, once a frame has come.
    served: Option<Served>,
    verified: Verified,
}

impl ReadStream {
    /// Goes on at `verified`, which is a block edge, and reads up to `end` or the chunk's end.
    ///
    /// `start` is where the first of the replicas began.
    #[must_use]
    pub fn new(wanted: Wanted, start: u32, end: u32, verified: Verified) -> Self {
        Self {
            wanted,
            from_start: start == 0,
            end: match wanted {
                Wanted::Sealed(chunk) => end.min(chunk.length),
                Wanted::Plain { .. } => end,
            },
            served: None,
            verified,
        }
    }

    /// Another `Read` goes out, which may be served in a newer state.
    pub fn begin(&mut self) {
        if let (Wanted::Plain { at_least, .. }, Some(served)) = (&mut self.wanted, self.served) {
            *at_least = served.state;
            self.served = None;
        }
    }

    /// Which state will do.
    #[must_use]
    pub const fn wanted(&self) -> Wanted {
        self.wanted
    }

    /// What was served last.
    #[must_use]
    pub const fn served(&self) -> Option<Served> {
        self.served
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
    /// [`ReadFault::OtherVersion`], [`ReadFault::OtherState`], [`ReadFault::Shrank`],
    /// [`ReadFault::OutOfOrder`].
    pub fn handle_data(&mut self, data: &ReadData) -> Result<(), ReadFault> {
        let served = Served {
            state: State {
                version: data.version,
                serial: data.serial,
            },
            length: data.chunk_length,
        };
        self.wanted
            .check(data.handle, served, data.state, self.served)?;
        // Behind the end nothing is due, so that a stream can't go on for ever.
        if data.offset != self.verified.reached || self.length() == 0 {
            return Err(ReadFault::OutOfOrder {
                offset: data.offset,
                wanted: self.verified.reached,
            });
        }
        self.served = Some(served);
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
        let chunk_end = self.served.map_or(self.end, |served| served.length);
        if reached < self.end.min(chunk_end) {
            return Err(ReadFault::EndedEarly { reached });
        }
        let Wanted::Sealed(chunk) = self.wanted else {
            return Ok(());
        };
        let whole = self.from_start && reached == chunk.length;
        if whole && crc32 != chunk.crc32 && is_in_force(Check::ReadCrc) {
            return Err(ReadFault::ChunkMismatch {
                found: crc32,
                sealed: chunk.crc32,
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

    fn chunk() -> Wanted {
        Wanted::Sealed(Sealed {
            handle: ChunkHandle(3),
            version: ChunkVersion(4),
            length: LEN,
            crc32: crc32(&bytes()),
        })
    }

    /// An open chunk of which this much was seen, in version 4 at this serial.
    fn open(serial: u64, length: u32) -> Wanted {
        Wanted::Plain {
            handle: ChunkHandle(3),
            at_least: state(4, serial),
            length,
        }
    }

    fn state(version: u64, serial: u64) -> State {
        State {
            version: ChunkVersion(version),
            serial: Serial(serial),
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
                sealed: crc32(&self::bytes())
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

    #[test]
    fn an_open_chunk_is_served_in_one_state_that_is_new_enough() {
        let bytes = bytes();
        let half = BLOCK_LEN as usize;
        let frame = |offset: usize, serial: u64| ReadData {
            serial: Serial(serial),
            state: ChunkState::Open,
            ..data(u32::try_from(offset).unwrap(), &bytes[offset..])
        };
        let mut stream = ReadStream::new(open(7, 100), 0, u32::MAX, Verified::default());
        let behind = stream.handle_data(&frame(0, 6));
        assert_eq!(behind, Err(ReadFault::OtherState));
        let mut newer = frame(0, 0);
        newer.version = ChunkVersion(5);
        assert_eq!(
            stream.handle_data(&newer),
            Ok(()),
            "the version counts first"
        );
        let other = stream.handle_data(&frame(0, 8));
        assert_eq!(other, Err(ReadFault::OtherState), "of the frame before");
        stream.handle_payload(&newer, &bytes).unwrap();
        assert_eq!(stream.handle_end(), Ok(()), "it ends where the chunk does");
        // The rest is asked for anew, and may have gone on meanwhile, but not back.
        let first = data(0, &bytes[..half]);
        let mut stream = ReadStream::new(open(7, 100), 0, LEN, Verified::default());
        let first = ReadData {
            serial: Serial(7),
            state: ChunkState::Open,
            ..first
        };
        stream.handle_data(&first).unwrap();
        stream.handle_payload(&first, &bytes[..half]).unwrap();
        stream.begin();
        assert_eq!(stream.wanted(), open(7, 100));
        stream.handle_data(&frame(half, 9)).unwrap();
        assert_eq!(stream.served().unwrap().state, state(4, 9));
        stream.begin();
        assert_eq!(stream.wanted(), open(9, 100));
    }

    #[test]
    fn an_open_chunk_that_was_cut_is_noticed() {
        let bytes = bytes();
        let mut stream = ReadStream::new(open(7, LEN + 1), 0, LEN + 1, Verified::default());
        let mut cut = data(0, &bytes);
        (cut.serial, cut.state) = (Serial(8), ChunkState::Open);
        let (length, seen) = (LEN, LEN + 1);
        assert_eq!(
            stream.handle_data(&cut),
            Err(ReadFault::Shrank { length, seen })
        );
    }

    #[test]
    fn nothing_of_an_open_chunk_may_be_there() {
        let mut stream = ReadStream::new(open(0, 0), 0, LEN, Verified::default());
        let mut empty = data(0, &[]);
        (empty.chunk_length, empty.state, empty.last) = (0, ChunkState::Open, true);
        stream.handle_data(&empty).unwrap();
        stream.handle_payload(&empty, &[]).unwrap();
        assert_eq!(stream.handle_end(), Ok(()));
        assert_eq!(stream.served().unwrap().length, 0);
    }
}
