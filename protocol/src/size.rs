//! Fixed sizes and limits (`spec/wire.md` section 2, `spec/chunk-file.md` section 2).
//!
//! Every other size in the workspace is one of these or is computed from them.

/// Bytes in a checksum block: the unit that one stored CRC covers.
pub const BLOCK_LEN: u32 = 64 * 1024;

/// The longest chunk that any cluster may use; also the default.
pub const CHUNK_LEN_MAX: u32 = 64 * 1024 * 1024;

/// The shortest `chunk_size` that a cluster may be started with.
pub const CHUNK_LEN_MIN: u32 = 1024 * 1024;

/// Checksum blocks in a chunk of [`CHUNK_LEN_MAX`] bytes.
pub const BLOCKS_PER_CHUNK_MAX: u32 = CHUNK_LEN_MAX / BLOCK_LEN;

/// Bytes of payload that one data frame may carry.
pub const PAYLOAD_LEN_MAX: u32 = 1024 * 1024;

/// Pieces of one payload: sixteen whole blocks, or seventeen when the first and last are cut.
pub const PIECES_MAX: usize = 17;

/// Bytes of a frame's header.
pub const HEADER_LEN: usize = 64;

/// Bytes of a body before the peer has proved that it holds the cluster key.
pub const HELLO_BODY_LEN_MAX: u32 = 4 * 1024;

/// Bytes of a body on the control plane.
pub const CONTROL_BODY_LEN_MAX: u32 = 16 * 1024 * 1024;

/// Bytes of a body on the data plane, the payload not counted.
pub const DATA_BODY_LEN_MAX: u32 = 8 * 1024;

/// Bytes of a path in the cluster, its separators included.
pub const PATH_LEN_MAX: usize = 4096;

/// Bytes of one name in a path.
pub const NAME_LEN_MAX: usize = 255;

/// Replicas that a file may ask for.
pub const REPLICAS_MAX: usize = 16;

const _: () = assert!(CHUNK_LEN_MAX.is_multiple_of(BLOCK_LEN));
const _: () = assert!(CHUNK_LEN_MIN.is_multiple_of(BLOCK_LEN));
const _: () = assert!(PAYLOAD_LEN_MAX.is_multiple_of(BLOCK_LEN));
const _: () = assert!(PIECES_MAX as u32 == PAYLOAD_LEN_MAX / BLOCK_LEN + 1);
// The table of a whole chunk's CRCs is exactly one page of the chunk file.
const _: () = assert!(BLOCKS_PER_CHUNK_MAX * 4 == 4096);

/// Number of blocks that `len` bytes from the start of a chunk reach into.
#[must_use]
pub const fn blocks_in(len: u32) -> u32 {
    len.div_ceil(BLOCK_LEN)
}

/// Number of pieces that `len` bytes at `offset` are cut into: one a block that they touch.
///
/// Zero for an empty range. The sum is taken in 64 bits, so no range overflows.
#[must_use]
pub const fn pieces_in(offset: u32, len: u32) -> u32 {
    if len == 0 {
        return 0;
    }
    let first = offset as u64 / BLOCK_LEN as u64;
    let last = (offset as u64 + len as u64 - 1) / BLOCK_LEN as u64;
    (last - first + 1) as u32
}

/// The pieces of `len` bytes at `offset`, as lengths in order.
///
/// The first ends at the first block edge after `offset`; the others are whole blocks but for
/// the last (`spec/wire.md` section 7).
pub fn piece_lens(offset: u32, len: u32) -> impl Iterator<Item = u32> {
    let mut at = u64::from(offset);
    let end = at + u64::from(len);
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let edge = (at / u64::from(BLOCK_LEN) + 1) * u64::from(BLOCK_LEN);
        let stop = edge.min(end);
        let piece = u32::try_from(stop - at).ok();
        at = stop;
        piece
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_cut_at_block_edges() {
        assert_eq!(piece_lens(0, 0).count(), 0);
        assert_eq!(piece_lens(0, 1).collect::<Vec<_>>(), [1]);
        assert_eq!(piece_lens(BLOCK_LEN - 1, 3).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(piece_lens(1, PAYLOAD_LEN_MAX).count(), PIECES_MAX);
        for (offset, len) in [(0, 0), (0, 1), (65_535, 3), (1, PAYLOAD_LEN_MAX), (65_536, 65_536)] {
            assert_eq!(piece_lens(offset, len).count(), pieces_in(offset, len) as usize);
        }
    }
}
