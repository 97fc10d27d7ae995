//! Which chunks a range of a file touches, and in what order to ask their replicas.

use std::ops::Range;

use sarsen_protocol::message::Replica;

use super::retry::split_mix;

/// The part of one chunk that belongs to a range of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The chunk's place in the file.
    pub index: u32,
    /// First byte in the chunk.
    pub from: u32,
    /// The byte after the last.
    pub to: u32,
}

/// The indexes of the chunks that `range` touches; `None` if a file can't reach so far.
///
/// Empty for an empty range.
#[must_use]
pub fn indexes(range: &Range<u64>, chunk_size: u32) -> Option<Range<u32>> {
    let size = u64::from(chunk_size.max(1));
    let first = u32::try_from(range.start / size).ok()?;
    if range.is_empty() {
        return Some(first..first);
    }
    let end = u32::try_from(range.end.div_ceil(size)).ok()?;
    Some(first..end)
}

/// What `range` takes of chunk `index`, which it must touch.
#[must_use]
pub fn part(range: &Range<u64>, chunk_size: u32, index: u32) -> Part {
    let start = u64::from(index) * u64::from(chunk_size);
    let in_chunk = |at: u64| {
        let at = at.saturating_sub(start).min(u64::from(chunk_size));
        u32::try_from(at).unwrap_or(chunk_size)
    };
    Part {
        index,
        from: in_chunk(range.start),
        to: in_chunk(range.end),
    }
}

/// The replica to ask, of those that `may_ask` allows; `None` if it allows none.
///
/// Neighbouring chunks begin with different replicas, and different clients (by `seed`) with
/// different ones for the same chunk: a download is served by all servers that hold the file.
pub fn choose(
    replicas: &[Replica],
    index: u32,
    seed: u64,
    may_ask: impl Fn(&Replica) -> bool,
) -> Option<&Replica> {
    let allowed: Vec<_> = replicas.iter().filter(|replica| may_ask(replica)).collect();
    let count = u64::try_from(allowed.len()).ok()?;
    let turn = split_mix(seed)
        .wrapping_add(u64::from(index))
        .checked_rem(count)?;
    allowed.get(usize::try_from(turn).ok()?).copied()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use sarsen_protocol::id::{ChunkHandle, ChunkVersion, FileId, ServerId, SessionId};
    use sarsen_protocol::key::SecretKey;
    use sarsen_protocol::message::{ChunkState, LocatedChunk};
    use sarsen_protocol::ticket::{Claims, Rights, Ticket};

    /// A sealed chunk of version 1 without bytes or replicas.
    pub(in crate::core) fn located(index: u32, handle: ChunkHandle) -> LocatedChunk {
        let version = ChunkVersion(1);
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
            length: 0,
            crc32: 0,
            state: ChunkState::Sealed,
            primary: ServerId::NONE,
            ticket: Ticket::sign(claims, &SecretKey::new([1; 32])),
            replicas: Vec::new(),
        }
    }

    const MIB: u32 = 1024 * 1024;

    #[test]
    fn a_range_is_cut_at_chunk_edges() {
        let range = u64::from(MIB) - 1..2 * u64::from(MIB) + 5;
        assert_eq!(indexes(&range, MIB), Some(0..3));
        let parts: Vec<_> = (0..3).map(|index| part(&range, MIB, index)).collect();
        let ranges: Vec<_> = parts.iter().map(|part| (part.from, part.to)).collect();
        assert_eq!(ranges, [(MIB - 1, MIB), (0, MIB), (0, 5)]);
    }

    #[test]
    fn edges_of_files() {
        let mib = u64::from(MIB);
        assert_eq!(indexes(&(0..0), MIB), Some(0..0));
        assert_eq!(indexes(&(5..5), MIB), Some(0..0));
        assert_eq!(indexes(&(0..1), MIB), Some(0..1));
        assert_eq!(indexes(&(0..mib), MIB), Some(0..1));
        assert_eq!(indexes(&(0..mib + 1), MIB), Some(0..2));
        assert_eq!(indexes(&(0..u64::MAX), MIB), None);
    }

    #[test]
    fn neighbours_begin_with_different_replicas() {
        let replicas: Vec<_> = (1..=3)
            .map(|id| Replica {
                server: ServerId(id),
                control_addr: String::new(),
                data_addr: String::new(),
            })
            .collect();
        let first = |index| choose(&replicas, index, 9, |_| true).map(|it| it.server);
        assert_ne!(first(0), first(1));
        assert_ne!(first(1), first(2));
        assert_eq!(first(0), first(3));
        let second = |it: &Replica| it.server == ServerId(2);
        assert_eq!(choose(&replicas, 0, 9, second), Some(&replicas[1]));
        assert_eq!(choose(&replicas, 0, 9, |_| false), None);
    }
}
