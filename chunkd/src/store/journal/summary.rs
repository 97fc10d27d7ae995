//! What a segment says of each chunk, in a few numbers: so that the one who wrote it mostly need not
//! read it again to see that nobody needs it any more.
//!
//! Invariant: whatever is in the segment of a chunk that is not ended there is covered by the numbers
//! of that chunk.

use std::collections::BTreeMap;

use sarsen_protocol::codec::Decoder;
use sarsen_protocol::error::BodyError;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Serial};

use super::body::{APPLIED, PREPARED};
use super::entry::Entry;

/// What a segment says, by chunk. Those that it says itself to have ended are not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary(BTreeMap<ChunkHandle, OfChunk>);

/// What a segment says of one chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OfChunk {
    /// The highest version of its entries.
    pub version: ChunkVersion,
    /// The highest serial of its mutations; 0 if there are none.
    pub applied: Serial,
    /// The highest version of its prepared seals, or none.
    pub prepared: ChunkVersion,
}

impl Summary {
    /// Each chunk, and what is said of it.
    pub fn iter(&self) -> impl Iterator<Item = (ChunkHandle, OfChunk)> + '_ {
        self.0.iter().map(|(&handle, &of)| (handle, of))
    }

    /// An entry is written behind all others.
    ///
    /// # Errors
    /// Of a body that begins as none does. The entry is in the segment all the same.
    pub fn note(&mut self, entry: &Entry) -> Result<(), BodyError> {
        if entry.ends_a_chunk() {
            self.0.remove(&entry.handle);
            return Ok(());
        }
        let of = self.0.entry(entry.handle).or_default();
        of.version = of.version.max(entry.version);
        match entry.kind {
            APPLIED => of.applied = of.applied.max(last_applied(&entry.body)?),
            PREPARED => of.prepared = of.prepared.max(entry.version),
            _ => {}
        }
        Ok(())
    }
}

/// The last serial that the body of an `applied` tells of.
fn last_applied(body: &[u8]) -> Result<Serial, BodyError> {
    let mut input = Decoder::new(body);
    let first: Serial = input.take()?;
    let _commit_mark: Serial = input.take()?;
    let mutations: u32 = input.take()?;
    Ok(Serial(
        first
            .0
            .saturating_add(u64::from(mutations).saturating_sub(1)),
    ))
}

#[cfg(test)]
mod tests {
    use sarsen_protocol::id::Epoch;

    use super::super::body::{
        Applied, Block, Body, Mutation, MutationKind, Place, Prepared, Promised, SealForm,
    };
    use super::*;

    const H: ChunkHandle = ChunkHandle(9);

    fn noted(entries: &[(u64, Body)]) -> Vec<(ChunkHandle, OfChunk)> {
        let mut summary = Summary::default();
        for (version, body) in entries {
            let entry = Entry::new(H, ChunkVersion(*version), body);
            summary.note(&entry).unwrap();
        }
        summary.iter().collect()
    }

    fn applied(first: u64, count: usize) -> Body {
        let mutation = Mutation {
            request: None,
            kind: MutationKind::Append,
            has_gap: false,
            has_bytes: true,
            offset: 0,
            length: 1,
            crc32: 7,
            blocks: vec![Block {
                place: Place::OwnRoom,
                crc32: 7,
            }],
        };
        Body::Applied(Applied {
            first_serial: Serial(first),
            commit_mark: Serial(90),
            mutations: vec![mutation; count],
            bytes: vec![b'a'; count],
        })
    }

    fn promised(version: u64) -> Body {
        Body::Promised(Promised {
            promised_version: ChunkVersion(version),
            epoch: Epoch::NONE,
        })
    }

    fn prepared() -> Body {
        Body::Prepared(Prepared {
            serial: Serial(12),
            length: 1,
            data_crc32: 7,
            crc_page_crc32: 7,
            id_table_length: 0,
            id_table_crc32: 0,
            sessions_end: 0,
            form: SealForm::InPlace,
        })
    }

    #[test]
    fn the_highest_of_each_kind_is_noted_in_whatever_order_they_stand() {
        let entries = [
            (4, prepared()),
            (5, applied(10, 3)),
            (5, applied(4, 2)),
            (3, promised(8)),
        ];
        let of = OfChunk {
            version: ChunkVersion(5),
            applied: Serial(12),
            prepared: ChunkVersion(4),
        };
        assert_eq!(noted(&entries), [(H, of)]);
    }

    #[test]
    fn what_has_ended_is_not_there_but_for_what_follows() {
        for end in [Body::Settled, Body::Dropped] {
            let mut entries = vec![(4, applied(10, 3)), (4, prepared()), (4, end)];
            assert_eq!(noted(&entries), []);
            entries.push((5, promised(6)));
            let of = OfChunk {
                version: ChunkVersion(5),
                ..OfChunk::default()
            };
            assert_eq!(noted(&entries), [(H, of)]);
        }
    }
}
