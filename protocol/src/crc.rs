//! CRC-32 (IEEE, as in gzip and zlib), and the combination of CRCs of neighbouring ranges.
//!
//! One polynomial everywhere: frame headers, blocks, chunks, files, log entries. A chunk's CRC is
//! the combination of its blocks' and a file's that of its chunks', so `checksum` moves no data.

use crate::size::BLOCK_LEN;

/// CRC-32 of `bytes`.
#[must_use]
pub fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// Extends the CRC of some bytes by `bytes` that follow them.
#[must_use]
pub fn extend(crc: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(crc);
    hasher.update(bytes);
    hasher.finalize()
}

/// CRC-32 of two ranges one after the other, from the CRC of each and the length of the second.
#[must_use]
pub fn combine(first: u32, second: u32, second_len: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(first);
    hasher.combine(&crc32fast::Hasher::new_with_initial_len(second, second_len));
    hasher.finalize()
}

/// CRC-32 of a chunk of `len` bytes from the CRCs of its blocks, the last of which may be short.
///
/// Blocks that `crcs` names beyond `len` are not looked at; `None` if it names too few.
#[must_use]
pub fn combine_blocks(crcs: &[u32], len: u32) -> Option<u32> {
    let mut whole = 0;
    let mut left = len;
    let mut blocks = crcs.iter();
    while left > 0 {
        let block_len = left.min(BLOCK_LEN);
        whole = combine(whole, *blocks.next()?, u64::from(block_len));
        left -= block_len;
    }
    Some(whole)
}

/// CRC-32 of `len` zero bytes, in time logarithmic in `len`.
#[must_use]
pub fn zeros(len: u64) -> u32 {
    // CRC of a doubled range is the combination of the range with itself; the bits of `len`
    // say which powers of two make it up.
    let (mut crc, mut done) = (0, 0_u64);
    let (mut power_crc, mut power_len) = (crc32(&[0]), 1_u64);
    while done < len {
        if len & power_len != 0 {
            crc = combine(crc, power_crc, power_len);
            done += power_len;
        }
        power_crc = combine(power_crc, power_crc, power_len);
        power_len = power_len.wrapping_mul(2);
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_value_of_the_polynomial() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(extend(crc32(b"1234"), b"56789"), 0xcbf4_3926);
        assert_eq!(combine(crc32(b"1234"), crc32(b"56789"), 5), 0xcbf4_3926);
    }

    #[test]
    fn blocks_combine_to_the_whole() {
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| (n * 31 % 251) as u8).collect();
        let crcs: Vec<u32> = bytes.chunks(BLOCK_LEN as usize).map(crc32).collect();
        assert_eq!(combine_blocks(&crcs, 200_000), Some(crc32(&bytes)));
        assert_eq!(combine_blocks(&crcs[..3], 200_000), None);
        assert_eq!(combine_blocks(&[], 0), Some(0));
    }

    #[test]
    fn zeros_equal_the_long_way() {
        for len in [0, 1, 2, 3, 255, 65_536, 100_003] {
            assert_eq!(
                zeros(len),
                crc32(&vec![0; usize::try_from(len).unwrap()]),
                "{len}"
            );
        }
    }
}
