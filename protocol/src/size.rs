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

/// Replicas that a file may ask for, and members that a chain may have.
pub const REPLICAS_MAX: usize = 16;

/// Bytes of an address.
pub const ADDRESS_LEN_MAX: usize = 300;

/// Bytes of the text in an error body.
pub const ERROR_TEXT_LEN_MAX: usize = 1024;

/// Folders that a path may lead through.
pub const PATH_DEPTH_MAX: usize = 255;

/// Chunks that one `AllocateChunks` may ask for.
pub const ALLOCATE_COUNT_MAX: u16 = 256;

/// Servers that one `AllocateChunks` may exclude.
pub const EXCLUDE_MAX: usize = 64;

/// Chunks that one `Publish` may name.
pub const PUBLISH_CHUNKS_MAX: usize = 262_144;

/// Chunks that are given out for one pending file: for each that it can have four, of which three may fail.
pub const ALLOCATED_CHUNKS_MAX: usize = 4 * PUBLISH_CHUNKS_MAX;

/// Entries in a page of `List`, `ListTrash` or `Fsck`.
pub const PAGE_LEN_MAX: usize = 10_000;

/// Chunks in one `LocateReply`.
pub const LOCATE_COUNT_MAX: usize = 4096;

/// Replicas that a `LocateReply` lists for one chunk.
pub const REPLICAS_LISTED_MAX: usize = 64;

/// Chunkservers that a `ReportReply` can hold.
pub const SERVERS_MAX: usize = 65_536;

/// Directories of one chunkserver.
pub const DIRECTORIES_MAX: usize = 256;

/// Starts of a directory whose registration may be in the log without its knowing.
pub const STARTS_OFFERED_MAX: usize = 16;

/// Ticket keys in force at a time.
pub const TICKET_KEYS_MAX: usize = 16;

/// Corrupt chunks told in one heartbeat.
pub const CORRUPT_MAX: usize = 1024;

/// Much-read chunks told in one heartbeat.
pub const HEAT_MAX: usize = 1024;

/// Chunks in one slice of an inventory.
pub const HELD_MAX: usize = 4096;

/// Leases in one `ExtendLeases`.
pub const LEASES_MAX: usize = 4096;

/// Records in one `Append`.
pub const APPEND_ITEMS_MAX: usize = 240;

/// CRCs in one `Append`.
pub const APPEND_CRCS_MAX: usize = 256;

/// Records answered in one `Appended`.
pub const APPEND_RESULTS_MAX: usize = 120;

/// Mutations in one `WriteBatch`.
pub const BATCH_ROWS_MAX: usize = 160;

/// CRCs in one `WriteBatch`.
pub const BATCH_CRCS_MAX: usize = 352;

/// Requests that one `FindRequests` asks for.
pub const FIND_MAX: usize = 4096;

/// Rows of an id table in one `ChunkIdsReply`.
pub const ID_ROWS_TOLD_MAX: usize = 255;

/// Unanswered requests on one control connection.
pub const REQUESTS_UNANSWERED_MAX: usize = 1024;

/// Unanswered `Read` requests on one data connection.
pub const READS_UNANSWERED_MAX: usize = 16;

// Each record may begin a block of its own, each mutation may touch two that it shares.
const _: () = assert!(APPEND_CRCS_MAX >= APPEND_ITEMS_MAX + PIECES_MAX - 1);
const _: () = assert!(BATCH_CRCS_MAX >= 2 * BATCH_ROWS_MAX + PIECES_MAX - 1);
// A `ChunkIdsReply` is a body of the data plane.
const _: () = assert!(16 + 32 * ID_ROWS_TOLD_MAX <= DATA_BODY_LEN_MAX as usize);
const _: () = assert!(CHUNK_LEN_MAX.is_multiple_of(BLOCK_LEN));
const _: () = assert!(CHUNK_LEN_MIN.is_multiple_of(BLOCK_LEN));
const _: () = assert!(PAYLOAD_LEN_MAX.is_multiple_of(BLOCK_LEN));
const _: () = assert!(PIECES_MAX == (PAYLOAD_LEN_MAX / BLOCK_LEN) as usize + 1);
// The table of a whole chunk's CRCs is exactly one page of the chunk file.
const _: () = assert!(BLOCKS_PER_CHUNK_MAX * 4 == 4096);

/// Number of blocks that `len` bytes from the start of a chunk reach into.
#[must_use]
pub const fn blocks_in(len: u32) -> u32 {
    len.div_ceil(BLOCK_LEN)
}

/// Number of pieces that `len` bytes at `offset` are cut into: one a block that they touch.
///
/// Zero for an empty range. Nothing is added to the offset, so no range overflows.
#[must_use]
pub const fn pieces_in(offset: u32, len: u32) -> u32 {
    if len == 0 {
        return 0;
    }
    // What lies before the first block edge, and the blocks that the rest reaches into.
    let head = BLOCK_LEN - offset % BLOCK_LEN;
    match len.checked_sub(head) {
        None | Some(0) => 1,
        Some(rest) => 1 + rest.div_ceil(BLOCK_LEN),
    }
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
        for (offset, len) in [
            (0, 0),
            (0, 1),
            (65_535, 3),
            (1, PAYLOAD_LEN_MAX),
            (65_536, 65_536),
        ] {
            assert_eq!(
                piece_lens(offset, len).count(),
                pieces_in(offset, len) as usize
            );
        }
    }
}
