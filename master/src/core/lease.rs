//! Who may order an open chunk's mutations, and until when (`spec/replication.md` sections 4, 5, 8).
//!
//! ```text
//!            activated ──► running ──► over: the chunk is idle and is sealed
//!                          │  ▲
//!                          └──┘ extended, while its primary says that there is work
//! ```
//!
//! A lease bounds how long a chunk stays open that nobody writes to, how soon one is sealed that
//! is short of members, and when a person may accept a loss. No byte's safety rests on it: that is
//! the members' promise. So all of this is in memory, and a master that has just started takes
//! every version that its log calls active for one whose lease begins now.
//!
//! Whether an extension is asked for by the primary that the log names, in the start that it
//! names, and that no attempt to change the version runs, is for the caller to check.

use std::collections::BTreeMap;
use std::time::Duration;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion};

/// Why a chunk is to be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Its lease is over: there was no work.
    Idle,
    /// It has fewer members than copies are wanted, and is repaired at rest.
    Short,
}

/// How long things last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spans {
    /// A lease.
    pub lease: Duration,
    /// Without work after which a chunk that is short of members is sealed.
    pub suspect_after: Duration,
    /// What a person waits besides the lease before a loss may be accepted.
    pub dead_after: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lease {
    version: ChunkVersion,
    /// When it was granted or extended last.
    last: Duration,
    short_since: Option<Duration>,
}

/// The leases of all open chunks.
#[derive(Clone, Debug)]
pub struct Leases {
    spans: Spans,
    leases: BTreeMap<ChunkHandle, Lease>,
}

impl Leases {
    /// No chunk is open.
    #[must_use]
    pub const fn new(spans: Spans) -> Self {
        Self {
            spans,
            leases: BTreeMap::new(),
        }
    }

    /// A version is active, by an entry that was applied or by the log that a master started on.
    /// `is_short`: it has fewer members than copies are wanted.
    pub fn activate(
        &mut self,
        handle: ChunkHandle,
        version: ChunkVersion,
        is_short: bool,
        now: Duration,
    ) {
        let before = self.leases.get(&handle);
        // A chunk that goes from one short version to another was short all the time.
        let short_since = before.and_then(|lease| lease.short_since).unwrap_or(now);
        let lease = Lease {
            version,
            last: now,
            short_since: is_short.then_some(short_since),
        };
        self.leases.insert(handle, lease);
    }

    /// The lease is granted once more, to a primary that may not have heard of it.
    pub fn grant_again(&mut self, handle: ChunkHandle, version: ChunkVersion, now: Duration) {
        if let Some(lease) = self.of(handle, version) {
            lease.last = now;
        }
    }

    /// A primary has work: its lease begins anew, unless it is over or the version is another.
    #[must_use]
    pub fn extend(
        &mut self,
        handle: ChunkHandle,
        version: ChunkVersion,
        now: Duration,
    ) -> Option<Duration> {
        let length = self.spans.lease;
        let lease = self.of(handle, version)?;
        if now >= lease.last.saturating_add(length) {
            return None;
        }
        lease.last = now;
        Some(length)
    }

    /// The chunk is sealed, or gone.
    pub fn forget(&mut self, handle: ChunkHandle) {
        self.leases.remove(&handle);
    }

    /// Chunks that are to be sealed, and why.
    pub fn due(&self, now: Duration) -> impl Iterator<Item = (ChunkHandle, ChunkVersion, Due)> {
        self.leases.iter().filter_map(move |(&handle, lease)| {
            let (at, why) = self.end_of(lease);
            (now >= at).then_some((handle, lease.version, why))
        })
    }

    /// When each chunk is due.
    pub fn ends(&self) -> impl Iterator<Item = (ChunkHandle, Duration)> {
        let leases = self.leases.iter();
        leases.map(|(&handle, lease)| (handle, self.end_of(lease).0))
    }

    /// Whether a primary with a working clock may still order mutations of the chunk: as long as
    /// that is so a loss can't be accepted (section 8).
    #[must_use]
    pub fn may_run(&self, handle: ChunkHandle, now: Duration) -> bool {
        let wait = self.spans.lease.saturating_add(self.spans.dead_after);
        let lease = self.leases.get(&handle);
        lease.is_some_and(|lease| now < lease.last.saturating_add(wait))
    }

    fn of(&mut self, handle: ChunkHandle, version: ChunkVersion) -> Option<&mut Lease> {
        let lease = self.leases.get_mut(&handle);
        lease.filter(|lease| lease.version == version)
    }

    /// When a chunk is due if nobody says that there is work (section 16).
    fn end_of(&self, lease: &Lease) -> (Duration, Due) {
        let idle = lease.last.saturating_add(self.spans.lease);
        match lease.short_since {
            None => (idle, Due::Idle),
            Some(since) => {
                let quiet = lease.last.saturating_add(self.spans.suspect_after);
                let latest = since.saturating_add(self.spans.lease);
                (quiet.min(latest), Due::Short)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H: ChunkHandle = ChunkHandle(7);
    const V: ChunkVersion = ChunkVersion(20);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn leases() -> Leases {
        Leases::new(Spans {
            lease: seconds(60),
            suspect_after: seconds(3),
            dead_after: seconds(10),
        })
    }

    fn next_due(leases: &Leases) -> Option<Duration> {
        leases.ends().map(|(_, at)| at).min()
    }

    fn due(leases: &Leases, at: u64) -> Vec<Due> {
        leases.due(seconds(at)).map(|(_, _, why)| why).collect()
    }

    #[test]
    fn a_chunk_without_work_is_due_when_its_lease_is_over() {
        let mut leases = leases();
        leases.activate(H, V, false, seconds(0));
        assert_eq!(next_due(&leases), Some(seconds(60)));
        assert_eq!(due(&leases, 59), []);
        assert_eq!(leases.extend(H, V, seconds(50)), Some(seconds(60)));
        assert_eq!(due(&leases, 109), []);
        assert_eq!(due(&leases, 110), [Due::Idle]);
        leases.forget(H);
        assert_eq!((due(&leases, 110), next_due(&leases)), (vec![], None));
    }

    #[test]
    fn an_extension_that_comes_too_late_or_for_another_version_gets_nothing() {
        let mut leases = leases();
        assert_eq!(leases.extend(H, V, seconds(0)), None);
        leases.activate(H, V, false, seconds(0));
        assert_eq!(leases.extend(H, ChunkVersion(19), seconds(1)), None);
        assert_eq!(leases.extend(H, V, seconds(60)), None);
        assert_eq!(next_due(&leases), Some(seconds(60)));
    }

    #[test]
    fn a_short_chunk_is_due_soon_after_its_last_work_and_never_later_than_a_lease() {
        let mut leases = leases();
        leases.activate(H, V, true, seconds(0));
        assert_eq!(due(&leases, 2), []);
        assert_eq!(due(&leases, 3), [Due::Short]);
        for at in 1..60 {
            assert!(leases.extend(H, V, seconds(at)).is_some());
            assert_eq!(due(&leases, at), [], "{at}");
        }
        assert_eq!(due(&leases, 60), [Due::Short]);
    }

    #[test]
    fn a_chunk_stays_short_from_one_version_to_the_next_until_it_is_whole() {
        let mut leases = leases();
        leases.activate(H, V, true, seconds(0));
        leases.activate(H, ChunkVersion(21), true, seconds(59));
        assert_eq!(next_due(&leases), Some(seconds(60)));
        leases.activate(H, ChunkVersion(22), false, seconds(59));
        assert_eq!(next_due(&leases), Some(seconds(119)));
    }

    #[test]
    fn a_loss_waits_for_the_last_grant_or_extension() {
        let mut leases = leases();
        assert!(!leases.may_run(H, seconds(0)));
        leases.activate(H, V, false, seconds(0));
        assert!(leases.may_run(H, seconds(69)));
        assert!(!leases.may_run(H, seconds(70)));
        leases.grant_again(H, V, seconds(70));
        assert!(leases.may_run(H, seconds(139)));
        leases.grant_again(H, ChunkVersion(19), seconds(100));
        assert!(!leases.may_run(H, seconds(140)));
        let _ = leases.extend(H, V, seconds(129));
        assert!(leases.may_run(H, seconds(198)));
    }
}
