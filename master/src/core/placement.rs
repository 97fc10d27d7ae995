//! Where a new chunk's replicas go.
//!
//! Distinct servers always; distinct racks as long as there are some; of what is left the server
//! that is least filled, where every chunk that went there of late counts as filling. Chance, from
//! a seed, decides between equals, so that two masters with one seed place alike.

use std::collections::BTreeSet;

use sarsen_protocol::id::ServerId;

/// A server that could take a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The server.
    pub server: ServerId,
    /// Where it stands; servers without a rack stand together.
    pub rack: String,
    /// How full its best directory is, in parts of [`FULL`].
    pub filled: u32,
    /// Chunks that were placed there since it last told how full it is.
    pub recent: u32,
}

/// What [`Candidate::filled`] is for a full disk.
pub const FULL: u32 = 1 << 16;

/// How much one recent chunk counts like: a thousandth of a disk, so that some dozens of them
/// outweigh the difference between two disks, and one outweighs chance.
const RECENT_WEIGHT: u64 = FULL as u64 / 1000;

/// How full a server counts as, with the chunks that were placed there of late.
#[must_use]
pub fn weight(filled: u32, recent: u32) -> u64 {
    u64::from(filled) + u64::from(recent) * RECENT_WEIGHT
}

/// Numbers that look random and follow from a seed (splitmix64).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chance(u64);

impl Chance {
    /// A sequence that follows from `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Chooses up to `wanted` servers, in the order of the chain.
///
/// Fewer come back only where there are fewer candidates.
pub fn choose(candidates: &[Candidate], wanted: usize, chance: &mut Chance) -> Vec<ServerId> {
    let mut ranked: Vec<(u64, u64, &Candidate)> = candidates
        .iter()
        .map(|candidate| {
            let weight = weight(candidate.filled, candidate.recent);
            (weight, chance.draw(), candidate)
        })
        .collect();
    ranked.sort_by_key(|&(weight, lot, candidate)| (weight, lot, candidate.server));
    let mut racks: BTreeSet<&str> = BTreeSet::new();
    let (mut first, mut rest) = (Vec::new(), Vec::new());
    for (_, _, candidate) in ranked {
        match racks.insert(&candidate.rack) {
            true => first.push(candidate.server),
            false => rest.push(candidate.server),
        }
    }
    first.extend(rest);
    first.truncate(wanted);
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(server: u64, rack: &str, filled: u32, recent: u32) -> Candidate {
        Candidate {
            server: ServerId(server),
            rack: rack.to_owned(),
            filled,
            recent,
        }
    }

    fn chosen(candidates: &[Candidate], wanted: usize) -> Vec<u64> {
        let servers = choose(candidates, wanted, &mut Chance::new(1));
        servers.into_iter().map(|server| server.0).collect()
    }

    #[test]
    fn racks_come_before_room() {
        let servers = [
            candidate(1, "a", 10, 0),
            candidate(2, "a", 20, 0),
            candidate(3, "b", 60_000, 0),
            candidate(4, "a", 30, 0),
        ];
        assert_eq!(chosen(&servers, 2), [1, 3]);
        assert_eq!(
            chosen(&servers, 3),
            [1, 3, 2],
            "racks are used up, then room decides"
        );
        assert_eq!(chosen(&servers, 9), [1, 3, 2, 4]);
        assert!(chosen(&servers, 0).is_empty());
    }

    #[test]
    fn recent_chunks_count_as_filling() {
        let servers = [candidate(1, "", 100, 10), candidate(2, "", 200, 0)];
        assert_eq!(chosen(&servers, 1), [2]);
    }

    #[test]
    fn equals_share_the_load() {
        let mut servers: Vec<_> = (1..=4).map(|server| candidate(server, "", 0, 0)).collect();
        let mut chance = Chance::new(7);
        for _ in 0..400 {
            for server in choose(&servers, 2, &mut chance) {
                servers
                    .iter_mut()
                    .find(|c| c.server == server)
                    .unwrap()
                    .recent += 1;
            }
        }
        let counts: Vec<u32> = servers.iter().map(|c| c.recent).collect();
        assert!(
            counts.iter().all(|count| (199..=201).contains(count)),
            "{counts:?}"
        );
    }
}
