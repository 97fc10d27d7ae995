//! A payload against the CRCs that came with it (`spec/wire.md` section 7).
//!
//! Every member of a chain compares for itself, before a piece counts.

use sarsen_protocol::crc::crc32;
use sarsen_protocol::message::Crcs;
use sarsen_protocol::sabotage::{Check, is_in_force};
use sarsen_protocol::size::piece_lens;

/// Where in the chunk the first piece begins that does not match, of a payload at `offset`.
///
/// There is a CRC for each piece: the frame was checked for that when it came.
#[must_use]
pub fn first_damaged(offset: u32, payload: &[u8], crcs: &Crcs) -> Option<u32> {
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut rest = payload;
    let mut piece_offset = offset;
    for (piece_len, &expected) in piece_lens(offset, len).zip(crcs.as_slice()) {
        let Some((piece, behind)) = rest.split_at_checked(piece_len as usize) else {
            return Some(piece_offset);
        };
        if crc32(piece) != expected && is_in_force(Check::PieceCrc) {
            return Some(piece_offset);
        }
        piece_offset += piece_len;
        rest = behind;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use sarsen_protocol::size::BLOCK_LEN;

    #[test]
    fn the_first_piece_that_differs_is_named() {
        let mut payload = vec![7; 2 * BLOCK_LEN as usize];
        let (offset, edge) = (BLOCK_LEN + 10, BLOCK_LEN as usize - 10);
        let (first, rest) = payload.split_at(edge);
        let (second, third) = rest.split_at(BLOCK_LEN as usize);
        let crcs = Crcs::new(&[crc32(first), crc32(second), crc32(third)]).expect("three pieces");
        assert_eq!(first_damaged(offset, &payload, &crcs), None);
        payload[edge] ^= 1;
        assert_eq!(first_damaged(offset, &payload, &crcs), Some(2 * BLOCK_LEN));
        payload[0] ^= 1;
        assert_eq!(first_damaged(offset, &payload, &crcs), Some(offset));
    }
}
