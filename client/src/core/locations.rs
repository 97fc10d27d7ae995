//! What a master told of an open file's chunks, for as long as it may be used
//! (`spec/messages.md` section 7).
//!
//! Chunks are kept by pages of [`PAGE_LEN`], as they are asked for. What is known can be wrong by
//! the time that it is used: whoever meets a failure with it calls [`Locations::forget`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sarsen_protocol::message::LocatedChunk;

use super::read::PAGE_LEN;

/// Pages that are kept of one file: 256 GiB of it, where chunks have 64 MiB.
const PAGES_MAX: usize = 16;

/// The chunks of one file.
#[derive(Clone, Debug, Default)]
pub struct Locations {
    /// By the index of the first.
    pages: BTreeMap<u32, Page>,
}

#[derive(Clone, Debug)]
struct Page {
    until: Duration,
    /// In the order of their places; holes are left out.
    chunks: Vec<Arc<LocatedChunk>>,
}

/// The first index of the page that has `index`.
#[must_use]
pub const fn page_start(index: u32) -> u32 {
    index - index % PAGE_LEN
}

impl Locations {
    /// What is at a place: a chunk, or a hole (the inner `None`). The outer `None` if the master
    /// has to be asked.
    #[must_use]
    pub fn find(&self, now: Duration, index: u32) -> Option<Option<&Arc<LocatedChunk>>> {
        let page = self.pages.get(&page_start(index));
        let chunks = &page.filter(|page| now < page.until)?.chunks;
        let found = chunks.binary_search_by_key(&index, |chunk| chunk.index);
        Some(found.ok().and_then(|at| chunks.get(at)))
    }

    /// The master was asked at `asked_at` for the page that begins at `first_index`.
    pub fn keep(
        &mut self,
        asked_at: Duration,
        lease: Duration,
        first_index: u32,
        chunks: Vec<LocatedChunk>,
    ) {
        let mut chunks: Vec<_> = chunks.into_iter().map(Arc::new).collect();
        chunks.sort_by_key(|chunk| chunk.index);
        let until = asked_at.saturating_add(lease);
        self.pages.insert(first_index, Page { until, chunks });
        if self.pages.len() > PAGES_MAX {
            let others = self
                .pages
                .iter()
                .filter(|(first, _)| **first != first_index);
            let oldest = others.min_by_key(|(_, page)| page.until);
            if let Some(oldest) = oldest.map(|(&first, _)| first) {
                self.pages.remove(&oldest);
            }
        }
    }

    /// What is known of this place has turned out to be wrong.
    pub fn forget(&mut self, index: u32) {
        self.pages.remove(&page_start(index));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sarsen_protocol::id::{ChunkHandle, ChunkVersion, FileId, ServerId, SessionId};
    use sarsen_protocol::key::SecretKey;
    use sarsen_protocol::message::ChunkState;
    use sarsen_protocol::ticket::{Claims, Rights, Ticket};

    const LEASE: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn chunk(index: u32) -> LocatedChunk {
        let (handle, version) = (ChunkHandle(u64::from(index) + 100), ChunkVersion(1));
        let claims = Claims {
            rights: Rights::READ,
            key_id: 1,
            handle,
            version,
            expiry: u64::MAX,
            file_id: FileId(1),
            session: SessionId::NONE,
            epoch: 1,
            chain_crc: 0,
        };
        LocatedChunk {
            index,
            handle,
            version,
            length: 1,
            crc32: 0,
            state: ChunkState::Sealed,
            primary: ServerId::NONE,
            ticket: Ticket::sign(claims, &SecretKey::new([1; 32])),
            replicas: Vec::new(),
        }
    }

    #[test]
    fn a_page_is_known_until_its_lease_is_over() {
        let mut locations = Locations::default();
        assert_eq!(locations.find(at(0), 3), None);
        locations.keep(at(10), LEASE, 0, vec![chunk(3), chunk(1)]);
        assert_eq!(locations.find(at(69), 3), Some(Some(&Arc::new(chunk(3)))));
        assert_eq!(locations.find(at(69), 1), Some(Some(&Arc::new(chunk(1)))));
        assert_eq!(locations.find(at(69), 2), Some(None), "a hole");
        assert_eq!(locations.find(at(69), PAGE_LEN), None, "another page");
        assert_eq!(
            locations.find(at(70), 3),
            None,
            "the lease counts from the question"
        );
        locations.keep(at(80), Duration::ZERO, 0, vec![chunk(3)]);
        assert_eq!(
            locations.find(at(80), 3),
            None,
            "a master that allows nothing"
        );
    }

    #[test]
    fn what_was_wrong_is_asked_for_again() {
        let mut locations = Locations::default();
        locations.keep(at(0), LEASE, 0, vec![chunk(0)]);
        locations.keep(at(0), LEASE, PAGE_LEN, vec![chunk(PAGE_LEN + 1)]);
        locations.forget(PAGE_LEN + 7);
        assert_eq!(locations.find(at(1), PAGE_LEN + 1), None);
        assert!(locations.find(at(1), 0).is_some());
    }

    #[test]
    fn the_oldest_page_makes_room() {
        let mut locations = Locations::default();
        for number in 0..=16 {
            let first = number * PAGE_LEN;
            // The later the page in the file, the older.
            locations.keep(at(100 - u64::from(number)), LEASE, first, Vec::new());
        }
        assert_eq!(locations.pages.len(), PAGES_MAX);
        assert!(
            locations.find(at(50), 16 * PAGE_LEN).is_some(),
            "the newest stays"
        );
        assert!(locations.find(at(50), 15 * PAGE_LEN).is_none());
        assert!(locations.find(at(50), 0).is_some());
    }
}
