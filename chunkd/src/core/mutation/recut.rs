//! CRCs from one kind of edges to another (`spec/messages.md` section 14.4).
//!
//! A client cuts a record every 65,536 bytes from its own start, since it doesn't know its place. A
//! chunk has its CRCs at block edges. The bytes between both kinds of edges are computed **once**,
//! and combined one way to compare with the client's, the other way for the chunk. So no byte goes
//! on under a CRC that was not tied to the client's.

use sarsen_protocol::crc::{combine, crc32};
use sarsen_protocol::sabotage::{Check, is_in_force};
use sarsen_protocol::size::{BLOCK_LEN, piece_lens};

/// The CRC of a range that is put together piece by piece.
#[derive(Clone, Copy, Debug, Default)]
struct Joined {
    crc: u32,
    length: u32,
}

impl Joined {
    fn join(&mut self, crc: u32, length: u32) {
        self.crc = match self.length {
            0 => crc,
            _ => combine(self.crc, crc, u64::from(length)),
        };
        self.length += length;
    }
}

/// Compares `bytes` with `own`, their CRCs cut every block's length from their start, and puts their
/// CRCs cut at the chunk's block edges, from `offset` on, behind those of `out`. Whether they match;
/// if not, `out` is as it was.
pub(super) fn recut(bytes: &[u8], own: &[u32], offset: u32, out: &mut Vec<u32>) -> bool {
    let before = out.len();
    let mut expected = own.iter();
    let (mut piece, mut block) = (Joined::default(), Joined::default());
    let mut block_left = BLOCK_LEN - offset % BLOCK_LEN;
    let mut rest = bytes;
    while !rest.is_empty() {
        let wanted = block_left.min(BLOCK_LEN - piece.length) as usize;
        let (part, behind) = rest.split_at_checked(wanted).unwrap_or((rest, &[]));
        rest = behind;
        let length = u32::try_from(part.len()).unwrap_or(BLOCK_LEN);
        let crc = crc32(part);
        piece.join(crc, length);
        block.join(crc, length);
        block_left -= length;
        if piece.length == BLOCK_LEN || rest.is_empty() {
            let is_it = expected.next() == Some(&piece.crc) || !is_in_force(Check::PieceCrc);
            if !is_it {
                out.truncate(before);
                return false;
            }
            piece = Joined::default();
        }
        if block_left == 0 || rest.is_empty() {
            out.push(block.crc);
            block = Joined::default();
            block_left = BLOCK_LEN;
        }
    }
    true
}

/// Whether `bytes` at `offset` match their CRCs, cut at the chunk's block edges. There are as many as
/// the edges ask for: whoever decoded the frame has counted them.
pub(super) fn matches_at(bytes: &[u8], crcs: &[u32], offset: u32) -> bool {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut rest = bytes;
    let mut expected = crcs.iter();
    piece_lens(offset, length).all(|length| {
        let (piece, behind) = rest
            .split_at_checked(length as usize)
            .unwrap_or((rest, &[]));
        rest = behind;
        expected.next() == Some(&crc32(piece)) || !is_in_force(Check::PieceCrc)
    })
}

/// The CRC of `length` bytes from those of their pieces, the first of which has `first` bytes at
/// most, and the others a block's length but for the last.
pub(super) fn whole(crcs: &[u32], first: u32, length: u32) -> u32 {
    let mut joined = Joined::default();
    let mut room = first;
    for &crc in crcs {
        let piece = room.min(length - joined.length);
        joined.join(crc, piece);
        room = BLOCK_LEN;
    }
    joined.crc
}

/// Puts the CRCs of a part behind those of the parts before it: the piece that a part's edge cuts is
/// made whole again. The part lies at `offset` in the chunk and has `length` bytes.
pub(super) fn join_parts(crcs: &mut Vec<u32>, part: &[u32], offset: u32, length: u32) {
    let is_cut = !offset.is_multiple_of(BLOCK_LEN);
    match (crcs.last_mut(), part.split_first()) {
        (Some(last), Some((&first, rest))) if is_cut => {
            let first_len = (BLOCK_LEN - offset % BLOCK_LEN).min(length);
            *last = combine(*last, first, u64::from(first_len));
            crcs.extend_from_slice(rest);
        }
        _ => crcs.extend_from_slice(part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = BLOCK_LEN as usize;

    fn bytes(length: usize) -> Vec<u8> {
        (0..length)
            .map(|n| u8::try_from(n * 31 % 251).unwrap())
            .collect()
    }

    fn from_start(bytes: &[u8]) -> Vec<u32> {
        bytes.chunks(BLOCK).map(crc32).collect()
    }

    fn at_edges(bytes: &[u8], offset: u32) -> Vec<u32> {
        let (mut rest, mut crcs) = (bytes, Vec::new());
        for length in piece_lens(offset, u32::try_from(bytes.len()).unwrap()) {
            let (piece, behind) = rest.split_at(length as usize);
            crcs.push(crc32(piece));
            rest = behind;
        }
        crcs
    }

    #[test]
    fn every_place_of_every_length_has_the_crcs_of_its_blocks() {
        for length in [
            1,
            2,
            100,
            BLOCK - 1,
            BLOCK,
            BLOCK + 1,
            3 * BLOCK,
            3 * BLOCK + 77,
        ] {
            let bytes = bytes(length);
            let own = from_start(&bytes);
            for offset in [
                0,
                1,
                50,
                BLOCK_LEN - 1,
                BLOCK_LEN,
                BLOCK_LEN + 3,
                7 * BLOCK_LEN - 90,
            ] {
                let mut out = vec![7];
                assert!(
                    recut(&bytes, &own, offset, &mut out),
                    "{length} at {offset}"
                );
                assert_eq!(out[1..], at_edges(&bytes, offset), "{length} at {offset}");
                assert!(matches_at(&bytes, &out[1..], offset));
                let room = BLOCK_LEN - offset % BLOCK_LEN;
                let length = u32::try_from(length).unwrap();
                assert_eq!(whole(&out[1..], room, length), crc32(&bytes));
                assert_eq!(whole(&own, BLOCK_LEN, length), crc32(&bytes));
            }
        }
    }

    #[test]
    fn a_damaged_byte_anywhere_is_found_and_nothing_is_put_out() {
        let good = bytes(2 * BLOCK + 100);
        let own = from_start(&good);
        for at in [0, BLOCK - 1, BLOCK, 2 * BLOCK + 99] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            let mut out = vec![7];
            assert!(!recut(&bad, &own, 30, &mut out), "{at}");
            assert_eq!(out, [7]);
            assert!(!matches_at(&bad, &at_edges(&good, 30), 30), "{at}");
        }
    }

    #[test]
    fn parts_join_to_the_whole_wherever_they_lie() {
        let bytes = bytes(5 * BLOCK + 10);
        for offset in [0, 9, BLOCK_LEN - 5] {
            let mut joined = Vec::new();
            for (index, part) in bytes.chunks(2 * BLOCK).enumerate() {
                let at = offset + u32::try_from(index).unwrap() * 2 * BLOCK_LEN;
                let length = u32::try_from(part.len()).unwrap();
                join_parts(&mut joined, &at_edges(part, at), at, length);
            }
            assert_eq!(joined, at_edges(&bytes, offset), "{offset}");
        }
        // A last part of so few bytes that it ends in the block that the one before began.
        let mut joined = Vec::new();
        let (first, last) = bytes.split_at(BLOCK);
        join_parts(&mut joined, &at_edges(first, 9), 9, BLOCK_LEN);
        let last = &last[..20];
        join_parts(
            &mut joined,
            &at_edges(last, 9 + BLOCK_LEN),
            9 + BLOCK_LEN,
            20,
        );
        assert_eq!(joined, at_edges(&bytes[..BLOCK + 20], 9));
    }
}
