//! A chunkserver's directory without its server, for benchmarks of the store alone.

use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::Context as _;
use sarsen_chunkd::store::{
    Adoption, Directory, NewChunk, SealClaim, Start, StoreError, data_position,
};
use sarsen_protocol::crc::{combine_blocks, crc32};
use sarsen_protocol::id::{
    ChunkHandle, ChunkVersion, ClusterId, DirectoryId, FileId, Serial, ServerId, StartNonce,
};
use sarsen_protocol::message::Level;
use sarsen_protocol::size::{BLOCK_LEN, CHUNK_LEN_MAX, PAYLOAD_LEN_MAX};

/// The one version that chunks have here.
const VERSION: ChunkVersion = ChunkVersion(1);

/// Opens a directory in an empty folder.
///
/// # Errors
/// Those of the store.
pub fn open(folder: &Path) -> Result<Directory, StoreError> {
    let start = Start {
        nonce: StartNonce(1),
        new_directory_id: DirectoryId([1; 16]),
        scan_threads: 1,
        open_chunks_max: 64,
    };
    let directory = Directory::open(folder, &start)?;
    directory.adopt(Adoption {
        cluster_id: ClusterId([1; 16]),
        server_id: ServerId(1),
        chunk_size: CHUNK_LEN_MAX,
    })?;
    Ok(directory)
}

/// Writes the chunk `number` in whole payloads of the same bytes, comparing their CRCs as a write
/// stream does, and seals it.
///
/// # Errors
/// Those of the store.
pub fn write_chunk(
    directory: &Directory,
    number: u64,
    payload: &[u8],
    level: Level,
) -> anyhow::Result<()> {
    let handle = ChunkHandle(number);
    let pending = directory.create_pending(&NewChunk {
        handle,
        version: VERSION,
        file_id: FileId(1),
        index: 0,
        room: CHUNK_LEN_MAX,
    })?;
    let file = pending.file().context("a store on files")?;
    let mut all_crcs = Vec::new();
    for offset in (0..CHUNK_LEN_MAX).step_by(PAYLOAD_LEN_MAX as usize) {
        let blocks = payload.chunks(BLOCK_LEN as usize);
        let crcs: Vec<u32> = blocks.map(crc32).collect();
        file.write_all_at(payload, data_position(offset))?;
        pending.commit_pieces(offset, PAYLOAD_LEN_MAX, &crcs)?;
        all_crcs.extend(crcs);
    }
    directory.seal(
        handle,
        VERSION,
        &SealClaim {
            length: CHUNK_LEN_MAX,
            crc32: combine_blocks(&all_crcs, CHUNK_LEN_MAX).context("a CRC a block")?,
            serial: Serial(1),
            level,
        },
    )?;
    Ok(())
}

/// Removes the chunk `number` for good.
///
/// # Errors
/// Those of the store.
pub fn remove_chunk(directory: &Directory, number: u64) -> Result<(), StoreError> {
    directory
        .delete(&[(ChunkHandle(number), VERSION)])
        .into_iter()
        .collect::<Result<(), _>>()?;
    directory.empty_deleted()?;
    Ok(())
}
