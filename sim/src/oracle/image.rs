//! How files that are written at offsets are cut into cells, and what a cell holds.
//!
//! Cells lie close, each in one chunk, so that a mutation takes every cell whole or not at all.
//! Most are no multiple of a block: neighbours share blocks. In one kind of file a cell is a block
//! that ends in the CRC of what is before: all such blocks have the same CRC, whatever they hold,
//! and who took equal CRCs for equal bytes would be wrong (`spec/records.md` section 1).

use std::ops::Range;

use sarsen_protocol::crc::crc32;
use sarsen_protocol::size::BLOCK_LEN;

use super::cells::Value;
use crate::workload::CHUNK_SIZE;

/// Bytes of a cell, but for the last of a chunk.
const CELL_LEN: u32 = 12_000;

/// How a file is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Across the edges of blocks.
    Uneven,
    /// A block each, all with one CRC.
    OneCrc,
}

impl Layout {
    const fn cell_len(self) -> u32 {
        match self {
            Self::Uneven => CELL_LEN,
            Self::OneCrc => BLOCK_LEN,
        }
    }

    /// How many cells lie in a chunk.
    #[must_use]
    pub const fn cells_in_chunk(self) -> u32 {
        CHUNK_SIZE.div_ceil(self.cell_len())
    }

    /// The index of the chunk that a cell lies in.
    #[must_use]
    pub const fn index(self, cell: u32) -> u32 {
        cell / self.cells_in_chunk()
    }

    /// Where a cell begins in its chunk.
    #[must_use]
    pub const fn offset(self, cell: u32) -> u32 {
        cell % self.cells_in_chunk() * self.cell_len()
    }

    /// Where a cell begins in the file.
    #[must_use]
    pub fn start(self, cell: u32) -> u64 {
        u64::from(self.index(cell)) * u64::from(CHUNK_SIZE) + u64::from(self.offset(cell))
    }

    /// The cell that begins at or behind a place in the file, and those before `to` that end there.
    #[must_use]
    pub fn cells_in(self, from: u64, to: u64) -> Range<u32> {
        let chunk = u64::from(CHUNK_SIZE);
        let first = |at: u64| {
            let in_chunk = (at % chunk).div_ceil(self.cell_len().into());
            let in_chunk = in_chunk.min(self.cells_in_chunk().into());
            u32::try_from(at / chunk * u64::from(self.cells_in_chunk()) + in_chunk)
                .unwrap_or(u32::MAX)
        };
        let (start, mut end) = (first(from), first(to));
        if end > start && self.start(end) > to {
            end -= 1;
        }
        start..end
    }

    /// Bytes of a cell.
    #[must_use]
    pub fn len(self, cell: u32) -> usize {
        let end = (self.offset(cell) + self.cell_len()).min(CHUNK_SIZE);
        (end - self.offset(cell)) as usize
    }

    /// What some cells of one chunk hold, all with the same value.
    #[must_use]
    pub fn bytes(self, cells: Range<u32>, value: Value) -> Vec<u8> {
        let len = cells.clone().map(|cell| self.len(cell)).sum();
        let mut bytes = vec![0; len];
        let mut rest = &mut bytes[..];
        for cell in cells {
            let (now, later) = rest.split_at_mut(self.len(cell));
            self.fill(cell, value, now);
            rest = later;
        }
        bytes
    }

    /// Puts in place what a cell holds that has a value, which begins it.
    fn fill(self, cell: u32, value: Value, bytes: &mut [u8]) {
        if value == 0 {
            return bytes.fill(0);
        }
        let mut word = value ^ u64::from(cell).rotate_left(40);
        let mut next = value;
        for piece in bytes.chunks_mut(8) {
            piece.copy_from_slice(&next.to_le_bytes()[..piece.len()]);
            word = word.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
            next = word;
        }
        if self == Self::OneCrc {
            let (before, end) = bytes.split_at_mut(bytes.len() - 4);
            end.copy_from_slice(&crc32(before).to_le_bytes());
        }
    }

    /// The value that a cell has.
    ///
    /// # Errors
    /// It holds what nobody writes.
    pub fn value(self, cell: u32, bytes: &[u8]) -> Result<Value, String> {
        let value = bytes
            .first_chunk()
            .map_or(0, |it| Value::from_le_bytes(*it));
        let expected = self.bytes(cell..cell + 1, value);
        match expected == bytes {
            true => Ok(value),
            false => {
                let good = expected.iter().zip(bytes).take_while(|(a, b)| a == b);
                Err(format!(
                    "cell {cell} begins with {value:#x}, and is something else from byte {} of {} on",
                    good.count(),
                    bytes.len()
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_fill_every_chunk_and_cross_none_of_their_edges() {
        for layout in [Layout::Uneven, Layout::OneCrc] {
            let mut end = 0;
            for cell in 0..3 * layout.cells_in_chunk() {
                assert_eq!(layout.start(cell), end, "{layout:?} {cell}");
                end += layout.len(cell) as u64;
                let index = (end - 1) / u64::from(CHUNK_SIZE);
                assert_eq!(index, u64::from(layout.index(cell)));
            }
            assert_eq!(end, 3 * u64::from(CHUNK_SIZE));
            let all = 0..3 * layout.cells_in_chunk();
            assert_eq!(layout.cells_in(0, end), all);
            assert_eq!(layout.cells_in(1, end - 1), all.start + 1..all.end - 1);
            for cell in all {
                let (from, len) = (layout.start(cell), layout.len(cell) as u64);
                assert_eq!(layout.cells_in(from, from + len), cell..cell + 1);
                assert!(layout.cells_in(from + 1, from + len).is_empty());
                assert!(layout.cells_in(from, from + len - 1).is_empty());
            }
        }
    }

    #[test]
    fn a_cell_says_what_it_holds_and_a_torn_one_does_not() {
        for layout in [Layout::Uneven, Layout::OneCrc] {
            let cell = layout.cells_in_chunk() + 3;
            let mut bytes = layout.bytes(cell..cell + 1, 77);
            assert_eq!(layout.value(cell, &bytes), Ok(77));
            assert!(layout.value(cell + 1, &bytes).is_err());
            let other = layout.bytes(cell..cell + 1, 78);
            bytes[100..].copy_from_slice(&other[100..]);
            assert!(layout.value(cell, &bytes).is_err());
            assert_eq!(layout.value(cell, &vec![0; bytes.len()]), Ok(0));
        }
    }

    #[test]
    fn blocks_of_one_crc_have_one() {
        let cells = Layout::OneCrc.bytes(2..4, 5);
        let (a, b) = cells.split_at(BLOCK_LEN as usize);
        assert_ne!(a, b);
        assert_eq!(crc32(a), crc32(b));
    }
}
