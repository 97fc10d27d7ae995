//! What a download leaves behind its bytes, so that it can be gone on with after its process ended.
//!
//! The record is this client's own and lies in the unfinished file, behind the room of its bytes.
//! It says of which file the bytes are (id, size, and every chunk's handle and version) and has a
//! *mark* for each chunk: up to where its bytes came and were verified, and their CRC. A mark is
//! written after its bytes, and believed only if the bytes that are there have its CRC: neither a
//! crash nor another program can make bytes count that did not come from the cluster. A record of
//! any other file, or of other versions of the chunks, is of no use at all, so that two states of a
//! file are never mixed.
//!
//! ```text
//!  0            size      position          +64        +64+32
//! +------------+----------+----------------+----------+----------+----
//! | the bytes  |          | magic, file,   | mark 0   | mark 1   | …
//! |            |          | CRC            |          |          |
//! +------------+----------+----------------+----------+----------+----
//! ```

use std::collections::BTreeMap;

use sarsen_protocol::crc::crc32;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, FileId};

use super::read_stream::Verified;

/// The record begins at a multiple of this.
const ALIGNMENT: u64 = 4096;

/// Bytes in front of the marks.
const HEAD_LEN: usize = 64;

/// Bytes of a mark.
const MARK_LEN: usize = 32;

const MAGIC: &[u8; 8] = b"SRSNPART";

/// Raised when the layout changes: an older record is then of another file.
const FORMAT: u32 = 1;

/// A file in one of its states: what a download is pinned to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Which.
    pub file_id: FileId,
    /// Its bytes.
    pub size: u64,
    /// Bytes of a whole chunk.
    pub chunk_size: u32,
    /// Its chunks by their index; zeros for a hole.
    pub chunks: Vec<(ChunkHandle, ChunkVersion)>,
}

impl Pin {
    /// Where the record of such a file lies.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.size.next_multiple_of(ALIGNMENT)
    }

    /// How long the record is.
    #[must_use]
    pub fn record_len(&self) -> usize {
        HEAD_LEN + MARK_LEN * self.chunks.len()
    }

    /// Where a chunk's mark lies.
    #[must_use]
    pub fn mark_position(&self, index: u32) -> u64 {
        self.position() + HEAD_LEN as u64 + MARK_LEN as u64 * u64::from(index)
    }

    /// The record of a download of which nothing has come.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.head();
        for (handle, version) in &self.chunks {
            bytes.extend(encode_mark(*handle, *version, Verified::default()));
        }
        bytes
    }

    /// What a record says of this file's chunks, those left out of which nothing has come; `None`
    /// if it is of another file or state.
    #[must_use]
    pub fn decode(&self, record: &[u8]) -> Option<BTreeMap<u32, Verified>> {
        let (head, marks) = record.split_at_checked(HEAD_LEN)?;
        if head != self.head() || record.len() != self.record_len() {
            return None;
        }
        let mut kept = BTreeMap::new();
        for ((index, mark), chunk) in (0..).zip(marks.chunks(MARK_LEN)).zip(&self.chunks) {
            match decode_mark(mark) {
                Some((handle, version, verified)) if (handle, version) == *chunk => {
                    kept.extend((verified.reached > 0).then_some((index, verified)));
                }
                Some(_) => return None,
                // Torn: of this chunk nothing is known.
                None => {}
            }
        }
        Some(kept)
    }

    fn head(&self) -> Vec<u8> {
        let mut head = MAGIC.to_vec();
        head.extend(FORMAT.to_le_bytes());
        head.extend(self.chunk_size.to_le_bytes());
        head.extend(self.file_id.0.to_le_bytes());
        head.extend(self.size.to_le_bytes());
        head.extend((self.chunks.len() as u64).to_le_bytes());
        head.resize(HEAD_LEN - 4, 0);
        let crc = crc32(&head);
        head.extend(crc.to_le_bytes());
        head
    }
}

/// A chunk's mark.
#[must_use]
pub fn encode_mark(handle: ChunkHandle, version: ChunkVersion, verified: Verified) -> Vec<u8> {
    let mut mark = handle.0.to_le_bytes().to_vec();
    mark.extend(version.0.to_le_bytes());
    mark.extend(verified.reached.to_le_bytes());
    mark.extend(verified.crc32.to_le_bytes());
    mark.resize(MARK_LEN - 4, 0);
    let crc = crc32(&mark);
    mark.extend(crc.to_le_bytes());
    mark
}

fn decode_mark(mark: &[u8]) -> Option<(ChunkHandle, ChunkVersion, Verified)> {
    let (rest, crc) = mark.split_last_chunk()?;
    if mark.len() != MARK_LEN || crc32(rest) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (handle, rest) = rest.split_first_chunk()?;
    let (version, rest) = rest.split_first_chunk()?;
    let (reached, rest) = rest.split_first_chunk()?;
    let (crc32, _) = rest.split_first_chunk()?;
    let verified = Verified {
        reached: u32::from_le_bytes(*reached),
        crc32: u32::from_le_bytes(*crc32),
    };
    Some((
        ChunkHandle(u64::from_le_bytes(*handle)),
        ChunkVersion(u64::from_le_bytes(*version)),
        verified,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin() -> Pin {
        let chunk = |number| (ChunkHandle(number), ChunkVersion(number + 10));
        Pin {
            file_id: FileId(7),
            size: 3 << 20,
            chunk_size: 1 << 20,
            chunks: (1..4).map(chunk).collect(),
        }
    }

    fn put(pin: &Pin, record: &mut [u8], index: u32, mark: &[u8]) {
        let at = usize::try_from(pin.mark_position(index) - pin.position()).unwrap();
        record[at..at + mark.len()].copy_from_slice(mark);
    }

    const SOME: Verified = Verified {
        reached: 65_536,
        crc32: 0xabcd,
    };

    #[test]
    fn marks_are_found_again() {
        let pin = pin();
        let mut record = pin.encode();
        assert_eq!(record.len(), pin.record_len());
        assert_eq!(pin.decode(&record), Some(BTreeMap::new()));
        let (handle, version) = pin.chunks[1];
        put(&pin, &mut record, 1, &encode_mark(handle, version, SOME));
        assert_eq!(pin.decode(&record), Some(BTreeMap::from([(1, SOME)])));
    }

    #[test]
    fn a_record_of_anything_else_is_of_no_use() {
        let record = pin().encode();
        let others = [
            Pin {
                file_id: FileId(8),
                ..pin()
            },
            Pin {
                size: pin().size - 1,
                ..pin()
            },
            Pin {
                chunk_size: 2 << 20,
                ..pin()
            },
            Pin {
                chunks: pin().chunks[..2].to_vec(),
                ..pin()
            },
            Pin {
                chunks: pin().chunks.into_iter().rev().collect(),
                ..pin()
            },
        ];
        for other in others {
            assert_eq!(other.decode(&record), None, "{other:?}");
        }
        let mut newer = pin();
        newer.chunks[2].1 = ChunkVersion(99);
        assert_eq!(newer.decode(&record), None, "one chunk has changed");
        assert_eq!(pin().decode(&[]), None);
        assert_eq!(pin().decode(&record[..record.len() - 1]), None);
    }

    #[test]
    fn a_torn_mark_is_none() {
        let pin = pin();
        let (handle, version) = pin.chunks[0];
        let mark = encode_mark(handle, version, SOME);
        let mut record = pin.encode();
        put(&pin, &mut record, 0, &mark[..20]);
        assert_eq!(pin.decode(&record), Some(BTreeMap::new()));
    }
}
