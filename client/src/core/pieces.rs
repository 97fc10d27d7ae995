//! The CRCs of a payload's pieces (`spec/wire.md` section 7).
//!
//! On the way up the client is the origin of the bytes and computes the CRCs; on the way down it
//! compares. Either way the CRC of a chunk comes out by combining those of its pieces, so each
//! byte is looked at once.

use sarsen_protocol::crc::{combine, crc32};
use sarsen_protocol::message::Crcs;
use sarsen_protocol::size::piece_lens;

/// Yields the pieces of `payload`, which begins at `offset` in its chunk.
fn pieces(offset: u32, payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut rest = payload;
    piece_lens(offset, len).map_while(move |piece_len| {
        let (piece, behind) = rest.split_at_checked(piece_len as usize)?;
        rest = behind;
        Some(piece)
    })
}

/// Computes the CRCs of the pieces of `payload` at `offset`; `None` beyond what a frame may carry.
#[must_use]
pub fn crcs_of(offset: u32, payload: &[u8]) -> Option<Crcs> {
    let crcs: Vec<u32> = pieces(offset, payload).map(crc32).collect();
    Crcs::new(&crcs)
}

/// Extends the CRC of what lies before by the pieces of a payload, from their CRCs.
#[must_use]
pub fn extend_crc(crc: u32, offset: u32, payload_len: u32, crcs: &Crcs) -> u32 {
    piece_lens(offset, payload_len)
        .zip(crcs.as_slice())
        .fold(crc, |crc, (len, piece)| {
            combine(crc, *piece, u64::from(len))
        })
}

/// Whether every piece of `payload` matches its CRC, and none lacks one.
#[must_use]
pub fn all_match(offset: u32, payload: &[u8], crcs: &Crcs) -> bool {
    let mut expected = crcs.as_slice().iter();
    pieces(offset, payload).all(|piece| expected.next() == Some(&crc32(piece)))
        && expected.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sarsen_protocol::size::BLOCK_LEN;

    fn bytes(len: u32) -> Vec<u8> {
        (0..len).map(|n| (n % 251) as u8).collect()
    }

    #[test]
    fn the_pieces_combine_to_the_whole() {
        let payload = bytes(3 * BLOCK_LEN);
        let (first, second) = payload.split_at(BLOCK_LEN as usize + 7);
        let second_offset = BLOCK_LEN + 7;
        let crcs = crcs_of(0, first).unwrap();
        assert_eq!(crcs.count(), 2);
        let crc = extend_crc(0, 0, BLOCK_LEN + 7, &crcs);
        let crcs = crcs_of(second_offset, second).unwrap();
        assert_eq!(crcs.count(), 2);
        let crc = extend_crc(crc, second_offset, 2 * BLOCK_LEN - 7, &crcs);
        assert_eq!(crc, crc32(&payload));
    }

    #[test]
    fn a_flipped_bit_or_a_missing_crc_is_seen() {
        let mut payload = bytes(2 * BLOCK_LEN);
        let crcs = crcs_of(0, &payload).unwrap();
        assert!(all_match(0, &payload, &crcs));
        let short = Crcs::new(&crcs.as_slice()[..1]).unwrap();
        assert!(!all_match(0, &payload, &short));
        assert!(!all_match(0, &payload[..BLOCK_LEN as usize], &crcs));
        payload[BLOCK_LEN as usize + 1] ^= 4;
        assert!(!all_match(0, &payload, &crcs));
    }
}
