//! A read of a few bytes of one or two blocks (`spec/wire.md` section 12.2, "Cut reads").
//!
//! [`CutRead`] says what to ask for, at once, and looks at the answers in their order. Nothing is
//! to be used before all of them have passed, and of what failed nothing is kept: it is little.

use std::ops::Range;

use sarsen_protocol::crc::{combine, extend};
use sarsen_protocol::message::CutData;
use sarsen_protocol::sabotage::{Check, is_in_force};
use sarsen_protocol::size::{BLOCK_LEN, piece_lens, pieces_in};

use super::read_stream::{ReadFault, Served, Wanted, block_start};
use super::seen::State;

/// Blocks that a cut read touches at the most: what is longer wants all of one.
const BLOCKS_MAX: u32 = 2;

/// The same of a chunk that is not sealed: two answers could be of two states.
const BLOCKS_MAX_PLAIN: u32 = 1;

/// A range of a chunk that is asked for without the rest of its blocks.
#[derive(Clone, Copy, Debug)]
pub struct CutRead {
    wanted: Wanted,
    /// Of the next answer.
    reached: u32,
    end: u32,
    served: Option<Served>,
}

impl CutRead {
    /// The read of a range, if it pays: if no more than half of its blocks is wanted.
    #[must_use]
    pub fn new(wanted: Wanted, range: Range<u32>) -> Option<Self> {
        let (chunk_end, blocks_max) = match wanted {
            Wanted::Sealed(chunk) => (chunk.length, BLOCKS_MAX),
            Wanted::Plain { .. } => (u32::MAX, BLOCKS_MAX_PLAIN),
        };
        let end = range.end.min(chunk_end);
        let len = end.checked_sub(range.start).filter(|&len| len > 0)?;
        let block_end = end.checked_next_multiple_of(BLOCK_LEN).unwrap_or(u32::MAX);
        let whole = block_end.min(chunk_end) - block_start(range.start);
        let pays = pieces_in(range.start, len) <= blocks_max && len <= whole / 2;
        pays.then_some(Self {
            wanted,
            reached: range.start,
            end,
            served: None,
        })
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

    /// Offset and length of what is to be asked for still, a request each.
    pub fn requests(&self) -> impl Iterator<Item = (u32, u32)> + use<> {
        let mut offset = self.reached;
        piece_lens(self.reached, self.end - self.reached).map(move |len| {
            let request = (offset, len);
            offset += len;
            request
        })
    }

    /// An answer came, whose form fits its payload.
    ///
    /// # Errors
    /// [`ReadFault::OtherVersion`], [`ReadFault::OtherState`], [`ReadFault::Shrank`],
    /// [`ReadFault::OutOfOrder`], [`ReadFault::EndedEarly`], [`ReadFault::PieceMismatch`]; nothing
    /// of the payload may be used.
    pub fn handle_data(&mut self, data: &CutData, payload: &[u8]) -> Result<(), ReadFault> {
        let served = Served {
            state: State {
                version: data.version,
                serial: data.serial,
            },
            length: data.chunk_length,
        };
        self.wanted
            .check(data.handle, served, data.state, self.served)?;
        let (offset, wanted) = (data.offset, self.reached);
        let due = self.requests().next();
        let Some((_, len)) = due.filter(|_| offset == wanted) else {
            return Err(ReadFault::OutOfOrder { offset, wanted });
        };
        let reached = wanted;
        // Of an open chunk nothing may be there yet.
        let end = (offset + len).min(served.length).max(offset);
        if payload.len() != (end - offset) as usize {
            return Err(ReadFault::EndedEarly { reached });
        }
        let block_end = block_start(offset).saturating_add(BLOCK_LEN);
        let behind = block_end.min(served.length).saturating_sub(end);
        let to_the_end = extend(data.before, payload);
        let block = combine(to_the_end, data.behind, behind.into());
        if block != data.block_crc && is_in_force(Check::ReadCrc) {
            return Err(ReadFault::PieceMismatch { offset });
        }
        self.reached = end;
        self.served = Some(served);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::read_stream::Sealed;
    use sarsen_protocol::crc::crc32;
    use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Serial};
    use sarsen_protocol::message::ChunkState;

    const LEN: u32 = 2 * BLOCK_LEN + 30_000;

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

    fn open(length: u32) -> Wanted {
        Wanted::Plain {
            handle: ChunkHandle(3),
            at_least: State {
                version: ChunkVersion(4),
                serial: Serial(1),
            },
            length,
        }
    }

    /// What a chunkserver answers.
    fn answer(offset: u32, len: u32) -> (CutData, Vec<u8>) {
        let bytes = bytes();
        let block = block_start(offset)..(block_start(offset) + BLOCK_LEN).min(LEN);
        let part = |range: Range<u32>| &bytes[range.start as usize..range.end as usize];
        let end = offset + len;
        let data = CutData {
            handle: ChunkHandle(3),
            version: ChunkVersion(4),
            serial: Serial(1),
            chunk_length: LEN,
            offset,
            block_crc: crc32(part(block.clone())),
            before: crc32(part(block.start..offset)),
            behind: crc32(part(end..block.end)),
            state: ChunkState::Sealed,
        };
        (data, part(offset..end).to_vec())
    }

    fn requests(range: Range<u32>) -> Option<Vec<(u32, u32)>> {
        CutRead::new(chunk(), range).map(|read| read.requests().collect())
    }

    #[test]
    fn it_pays_up_to_half_of_the_blocks() {
        assert_eq!(requests(7..4103), Some(vec![(7, 4096)]));
        assert_eq!(requests(0..32_768), Some(vec![(0, 32_768)]));
        assert_eq!(requests(0..32_769), None, "more than half");
        let edge = BLOCK_LEN;
        let two = vec![(edge - 10, 10), (edge, 4086)];
        assert_eq!(requests(edge - 10..edge + 4086), Some(two));
        assert_eq!(requests(edge - 32_768..edge + 32_769), None);
        assert_eq!(requests(edge - 1..2 * edge + 1), None, "three blocks");
        // The last block is a short one, and a range may end behind the chunk.
        assert_eq!(
            requests(LEN - 15_000..u32::MAX),
            Some(vec![(LEN - 15_000, 15_000)])
        );
        assert_eq!(requests(LEN - 15_001..LEN), None);
        assert_eq!(requests(LEN..LEN + 5), None, "nothing is there");
        assert_eq!(requests(9..9), None);
    }

    #[test]
    fn answers_are_taken_in_their_order_and_verified() {
        let mut read = CutRead::new(chunk(), BLOCK_LEN - 10..BLOCK_LEN + 90).unwrap();
        let (first, first_bytes) = answer(BLOCK_LEN - 10, 10);
        let (second, second_bytes) = answer(BLOCK_LEN, 90);
        let (offset, wanted) = (BLOCK_LEN, BLOCK_LEN - 10);
        let out_of_order = Err(ReadFault::OutOfOrder { offset, wanted });
        assert_eq!(read.handle_data(&second, &second_bytes), out_of_order);
        assert_eq!(read.handle_data(&first, &first_bytes), Ok(()));
        assert_eq!(read.handle_data(&second, &second_bytes), Ok(()));
        assert_eq!(read.requests().next(), None);
        let (offset, wanted) = (BLOCK_LEN, BLOCK_LEN + 90);
        let out_of_order = Err(ReadFault::OutOfOrder { offset, wanted });
        assert_eq!(read.handle_data(&second, &second_bytes), out_of_order);
        let mut read = CutRead::new(chunk(), LEN - 100..LEN).unwrap();
        let (last, last_bytes) = answer(LEN - 100, 100);
        assert_eq!(read.handle_data(&last, &last_bytes), Ok(()));
    }

    #[test]
    fn nothing_wrong_passes() {
        let read = CutRead::new(chunk(), 5000..9096).unwrap();
        let (good, bytes) = answer(5000, 4096);
        let take = |data: &CutData, bytes: &[u8]| read.clone().handle_data(data, bytes);
        let mismatch = Err(ReadFault::PieceMismatch { offset: 5000 });
        let mut rotten = bytes.clone();
        rotten[17] ^= 1;
        assert_eq!(take(&good, &rotten), mismatch);
        let wrong: [fn(&mut CutData); 3] = [
            |data| data.before ^= 1,
            |data| data.behind ^= 1,
            |data| data.block_crc ^= 1,
        ];
        for spoil in wrong {
            let mut data = good;
            spoil(&mut data);
            assert_eq!(take(&data, &bytes), mismatch);
        }
        let others: [fn(&mut CutData); 3] = [
            |data| data.version = ChunkVersion(5),
            |data| data.handle = ChunkHandle(4),
            |data| data.chunk_length -= 1,
        ];
        for spoil in others {
            let mut data = good;
            spoil(&mut data);
            assert_eq!(take(&data, &bytes), Err(ReadFault::OtherVersion));
        }
        let reached = 5000;
        let short = Err(ReadFault::EndedEarly { reached });
        assert_eq!(take(&good, &bytes[..4095]), short);
        assert_eq!(take(&good, &[]), short);
    }

    /// How long an open chunk is, and whether there are new bytes at its end, one answer tells.
    #[test]
    fn of_an_open_chunk_comes_what_there_is() {
        let end = 2 * BLOCK_LEN;
        let over_an_edge = end - 10..end + 10;
        assert!(
            CutRead::new(open(end), over_an_edge.clone()).is_none(),
            "two states"
        );
        assert!(CutRead::new(chunk(), over_an_edge).is_some());
        let mut read = CutRead::new(open(end), LEN - 10..LEN + 20).unwrap();
        assert_eq!(read.requests().next(), Some((LEN - 10, 30)));
        let (mut data, bytes) = answer(LEN - 10, 10);
        data.state = ChunkState::Open;
        assert_eq!(read.handle_data(&data, &bytes), Ok(()));
        assert_eq!(read.served().unwrap().length, LEN);
        let mut read = CutRead::new(open(LEN), LEN..LEN + 1).unwrap();
        (data.offset, data.block_crc) = (LEN, 0);
        (data.before, data.behind) = (0, 0);
        assert_eq!(read.handle_data(&data, &[]), Ok(()));
        let mut old = CutRead::new(open(LEN), LEN..LEN + 1).unwrap();
        data.serial = Serial(0);
        assert_eq!(old.handle_data(&data, &[]), Err(ReadFault::OtherState));
    }
}
