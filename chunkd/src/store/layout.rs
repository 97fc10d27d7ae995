//! Where things lie in a directory and in a chunk file (`spec/chunk-file.md` sections 2 to 4, 12).

use sarsen_protocol::id::{ChunkHandle, ChunkVersion};
use sarsen_protocol::size::CHUNK_LEN_MAX;

/// The unit of alignment of a chunk file.
pub const PAGE_LEN: u32 = 4096;

/// Bytes of one copy of the header; what one header write puts down.
pub const SLOT_LEN: usize = 512;

/// Bytes from the beginning of slot 0 to that of slot 1.
pub const SLOT_STRIDE: usize = 2048;

/// Bytes of the header page, which holds both slots.
pub const HEADER_PAGE_LEN: usize = 2 * SLOT_STRIDE;

/// Where in the file the CRC page begins.
pub const CRC_PAGE_POSITION: u64 = 4096;

/// Bytes of the CRC page.
pub const CRC_PAGE_LEN: usize = 4096;

/// Where in the file the data begins.
pub const DATA_POSITION: u64 = CRC_PAGE_POSITION + CRC_PAGE_LEN as u64;

/// Bytes of an id table at most.
pub const ID_TABLE_LEN_MAX: u32 = 16 * 1024 * 1024;

/// From here on a chunk whose length is not known gets the room of a whole one.
const WHOLE_CHUNK_FROM: u32 = 1024 * 1024;

const _: () = assert!(HEADER_PAGE_LEN as u64 == CRC_PAGE_POSITION);
const _: () = assert!(DATA_POSITION.is_multiple_of(PAGE_LEN as u64));
const _: () = assert!(CHUNK_LEN_MAX.is_multiple_of(PAGE_LEN));

/// The file that says whose the directory is.
pub const IDENTITY_FILE: &str = "IDENTITY";

/// Where the next [`IDENTITY_FILE`] is written before their names are exchanged.
pub const IDENTITY_NEXT_FILE: &str = "IDENTITY.new";

/// What is written over and over, to see whether writes still get through.
pub const BEAT_FILE: &str = "BEAT";

/// The folder of all chunks' folders.
pub const CHUNKS_FOLDER: &str = "chunks";

/// The folder that deletes move chunks to.
pub const DELETED_FOLDER: &str = "deleted";

const CHUNK_SUFFIX: &str = ".chunk";

const COPY_SUFFIX: &str = ".copy";

const PATCH_SUFFIX: &str = ".patch";

const SEALING_SUFFIX: &str = ".sealing";

/// Where in the file the slot begins that a generation is written to.
#[must_use]
pub const fn slot_position(generation: u64) -> u64 {
    (slot_index(generation) * SLOT_STRIDE) as u64
}

/// The slot that a generation is written to: odd ones to slot 0, even ones to slot 1.
#[must_use]
pub const fn slot_index(generation: u64) -> usize {
    if generation % 2 == 1 { 0 } else { 1 }
}

/// Path, below the directory, of the folder of the chunks whose handle ends in `low_byte`.
#[must_use]
pub fn chunk_folder(low_byte: u8) -> String {
    format!("{CHUNKS_FOLDER}/{low_byte:02x}")
}

/// Path, below the directory, of the folder that `handle`'s file is in.
#[must_use]
pub fn folder_of(handle: ChunkHandle) -> String {
    let [low_byte, ..] = handle.0.to_le_bytes();
    chunk_folder(low_byte)
}

/// Path, below the directory, of `handle`'s file.
#[must_use]
pub fn chunk_path(handle: ChunkHandle) -> String {
    format!("{}/{handle}{CHUNK_SUFFIX}", folder_of(handle))
}

/// Path, below the directory, of `handle`'s copy while it is being made.
#[must_use]
pub fn copy_path(handle: ChunkHandle) -> String {
    format!("{}/{handle}{COPY_SUFFIX}", folder_of(handle))
}

/// Path, below the directory, of the patch file of `handle` while it is open.
#[must_use]
pub fn patch_path(handle: ChunkHandle) -> String {
    format!("{}/{handle}{PATCH_SUFFIX}", folder_of(handle))
}

/// Path, below the directory, of the sealed form that is made beside `handle` while it is open.
#[must_use]
pub fn sealing_path(handle: ChunkHandle) -> String {
    format!("{}/{handle}{SEALING_SUFFIX}", folder_of(handle))
}

/// The handle that the name of a patch file or of a sealed form in the making says.
#[must_use]
pub fn journaled_handle_of(file_name: &str) -> Option<ChunkHandle> {
    let name = file_name.strip_suffix(PATCH_SUFFIX);
    name.or_else(|| file_name.strip_suffix(SEALING_SUFFIX))
        .and_then(ChunkHandle::parse)
}

/// The handle that the name of a copy in the making says; `None` if it is no such name.
#[must_use]
pub fn copied_handle_of(file_name: &str) -> Option<ChunkHandle> {
    file_name
        .strip_suffix(COPY_SUFFIX)
        .and_then(ChunkHandle::parse)
}

/// The handle that a chunk file's name says; `None` if it is no such name.
#[must_use]
pub fn handle_of(file_name: &str) -> Option<ChunkHandle> {
    file_name
        .strip_suffix(CHUNK_SUFFIX)
        .and_then(ChunkHandle::parse)
}

/// Path, below the directory, that a deleted chunk gets.
#[must_use]
pub fn deleted_path(handle: ChunkHandle, version: ChunkVersion) -> String {
    format!("{DELETED_FOLDER}/{handle}.{:016x}.deleted", version.0)
}

/// Bytes of data to reserve room for, for a write that ends at `end` (spec section 12).
///
/// `room` is the length that was announced, 0 if it isn't known. At least `end` if that is at
/// most `chunk_size`, and never more than `chunk_size`.
#[must_use]
pub fn room_for(end: u32, room: u32, chunk_size: u32) -> u32 {
    let wanted = if end <= room {
        // No overflow: a page divides the longest chunk, and more than that is cut off below.
        room.min(CHUNK_LEN_MAX).next_multiple_of(PAGE_LEN)
    } else if end <= WHOLE_CHUNK_FROM {
        end.next_power_of_two().max(PAGE_LEN)
    } else {
        chunk_size
    };
    wanted.min(chunk_size)
}

/// Where in a chunk's file its id table begins (`spec/chunk-file.md` section 7).
#[must_use]
pub const fn id_table_position(chunk_size: u32) -> u64 {
    DATA_POSITION + chunk_size as u64
}

/// Length of the file of a sealed chunk of `length` bytes: up to its last page with data.
#[must_use]
pub fn sealed_file_len(length: u32) -> u64 {
    DATA_POSITION + u64::from(length).next_multiple_of(u64::from(PAGE_LEN))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u32 = 1024 * 1024;

    #[test]
    fn names_say_handle_and_version() {
        let handle = ChunkHandle(0x0123_4567_89ab_cdef);
        assert_eq!(chunk_path(handle), "chunks/ef/0123456789abcdef.chunk");
        assert_eq!(handle_of("0123456789abcdef.chunk"), Some(handle));
        for bad in [
            "0123456789abcdef",
            "0123456789ABCDEF.chunk",
            "x.chunk",
            ".chunk",
        ] {
            assert_eq!(handle_of(bad), None, "{bad}");
        }
        assert_eq!(copy_path(handle), "chunks/ef/0123456789abcdef.copy");
        assert_eq!(copied_handle_of("0123456789abcdef.copy"), Some(handle));
        assert_eq!(copied_handle_of("0123456789abcdef.chunk"), None);
        assert_eq!(
            deleted_path(handle, ChunkVersion(3)),
            "deleted/0123456789abcdef.0000000000000003.deleted"
        );
    }

    #[test]
    fn small_chunks_take_little_room_and_big_ones_all_of_it() {
        for (end, room, expected) in [
            (0, 0, 0),
            (1, 0, 4096),
            (4097, 0, 8192),
            (MIB, 0, MIB),
            (MIB + 1, 0, 64 * MIB),
            (1, 1024, 4096),
            (1, 5000, 8192),
            (1, 40 * MIB, 40 * MIB),
            (40 * MIB + 1, 40 * MIB, 64 * MIB),
            (64 * MIB, 64 * MIB, 64 * MIB),
            (1, u32::MAX, 64 * MIB),
        ] {
            assert_eq!(room_for(end, room, 64 * MIB), expected, "{end} {room}");
        }
        assert_eq!(sealed_file_len(1024), 3 * 4096);
        assert_eq!(sealed_file_len(0), 2 * 4096);
    }
}
