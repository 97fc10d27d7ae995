//! The CRC page of a chunk file: a CRC for each 64 KiB block (`spec/chunk-file.md` section 6).

use sarsen_protocol::crc::{combine_blocks, crc32};
use sarsen_protocol::size::blocks_in;
use thiserror::Error;

use super::layout::CRC_PAGE_LEN;

/// Why a CRC page is not the one that its header describes. Names as in the spec and the vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CrcPageError {
    /// Not [`CRC_PAGE_LEN`] bytes.
    #[error("wrong_length")]
    WrongLength,
    /// The page's own CRC doesn't match the header's.
    #[error("bad_crc")]
    BadCrc,
    /// An entry beyond the chunk's length is not zero.
    #[error("entry_beyond_length")]
    EntryBeyondLength,
    /// The entries don't combine to the chunk's CRC.
    #[error("data_crc_mismatch")]
    DataCrcMismatch,
}

/// The page that holds these CRCs, one a block from the first on; at most 1,024 are taken.
#[must_use]
pub fn encode(block_crcs: &[u32]) -> [u8; CRC_PAGE_LEN] {
    let mut page = [0; CRC_PAGE_LEN];
    for (entry, crc) in page.chunks_exact_mut(size_of::<u32>()).zip(block_crcs) {
        entry.copy_from_slice(&crc.to_le_bytes());
    }
    page
}

/// Reads the CRCs of the blocks of a chunk of `length` bytes.
///
/// `data_crc32` and `crc_page_crc32` are the header's.
///
/// # Errors
/// The first check of the spec's section 6 that fails.
pub fn decode(
    page: &[u8],
    length: u32,
    data_crc32: u32,
    crc_page_crc32: u32,
) -> Result<Box<[u32]>, CrcPageError> {
    if page.len() != CRC_PAGE_LEN {
        return Err(CrcPageError::WrongLength);
    }
    if crc32(page) != crc_page_crc32 {
        return Err(CrcPageError::BadCrc);
    }
    let (entries, _) = page.as_chunks::<4>();
    let mut entries = entries.iter().map(|bytes| u32::from_le_bytes(*bytes));
    let block_crcs: Box<[u32]> = entries.by_ref().take(blocks_in(length) as usize).collect();
    if entries.any(|beyond| beyond != 0) {
        return Err(CrcPageError::EntryBeyondLength);
    }
    match combine_blocks(&block_crcs, length) == Some(data_crc32) {
        true => Ok(block_crcs),
        false => Err(CrcPageError::DataCrcMismatch),
    }
}
