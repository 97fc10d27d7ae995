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

use std::time::Duration;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion};

use super::timed::{Due, Timed};

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
    /// When the chunk is due if nobody says that there is work (section 16).
    end: Duration,
    /// Something else is done for it, or nothing can be.
    is_held_back: bool,
}

impl Due for Lease {
    fn due(&self) -> Option<Duration> {
        (!self.is_held_back).then_some(self.end)
    }
}

/// The leases of all open chunks.
#[derive(Clone, Debug)]
pub struct Leases {
    spans: Spans,
    leases: Timed<ChunkHandle, Lease>,
}

impl Leases {
    /// No chunk is open.
    #[must_use]
    pub const fn new(spans: Spans) -> Self {
        Self {
            spans,
            leases: Timed::new(),
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
            end: now,
            is_held_back: before.is_some_and(|lease| lease.is_held_back),
        };
        let end = self.spans.end_of(&lease);
        self.leases.insert(handle, Lease { end, ..lease });
    }

    /// The lease is granted once more, to a primary that may not have heard of it.
    pub fn grant_again(&mut self, handle: ChunkHandle, version: ChunkVersion, now: Duration) {
        let spans = self.spans;
        if let Some(lease) = self.of(handle, version) {
            lease.last = now;
            lease.end = spans.end_of(lease);
        }
    }

    /// Whether a chunk is not to be sealed for want of work, because something else is done for it,
    /// or nothing can be.
    pub fn hold_back(&mut self, handle: ChunkHandle, is_held_back: bool) {
        if let Some(lease) = self.leases.get_mut(&handle) {
            lease.is_held_back = is_held_back;
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
        let spans = self.spans;
        let lease = self.of(handle, version)?;
        if now >= lease.last.saturating_add(spans.lease) {
            return None;
        }
        lease.last = now;
        lease.end = spans.end_of(lease);
        Some(spans.lease)
    }

    /// What is left of a version's lease.
    #[must_use]
    pub fn left(&self, handle: ChunkHandle, version: ChunkVersion, now: Duration) -> Duration {
        let lease = self.leases.get(&handle);
        let lease = lease.filter(|lease| lease.version == version);
        let end = lease.map(|lease| lease.last.saturating_add(self.spans.lease));
        end.unwrap_or_default().saturating_sub(now)
    }

    /// The chunk is sealed, or gone.
    pub fn forget(&mut self, handle: ChunkHandle) {
        self.leases.remove(&handle);
    }

    /// Chunks that are to be sealed, since there was no work or they are short of members.
    pub fn due(&mut self, now: Duration) -> Vec<ChunkHandle> {
        self.leases.due(now)
    }

    /// When the first chunk is due.
    pub fn next_due(&mut self) -> Option<Duration> {
        self.leases.next_due()
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
}

impl Spans {
    fn end_of(&self, lease: &Lease) -> Duration {
        let idle = lease.last.saturating_add(self.lease);
        match lease.short_since {
            None => idle,
            Some(since) => {
                let quiet = lease.last.saturating_add(self.suspect_after);
                let latest = since.saturating_add(self.lease);
                quiet.min(latest)
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

    fn is_due(leases: &mut Leases, at: u64) -> bool {
        let due = leases.due(seconds(at));
        assert!(due.is_empty() || due == [H]);
        !due.is_empty()
    }

    #[test]
    fn a_chunk_without_work_is_due_when_its_lease_is_over() {
        let mut leases = leases();
        leases.activate(H, V, false, seconds(0));
        assert_eq!(leases.next_due(), Some(seconds(60)));
        assert!(!is_due(&mut leases, 59));
        assert_eq!(leases.left(H, V, seconds(50)), seconds(10));
        assert_eq!(leases.left(H, ChunkVersion(19), seconds(50)), seconds(0));
        assert_eq!(leases.extend(H, V, seconds(50)), Some(seconds(60)));
        assert_eq!(leases.left(H, V, seconds(50)), seconds(60));
        assert!(!is_due(&mut leases, 109));
        assert!(is_due(&mut leases, 110));
        leases.forget(H);
        assert_eq!((is_due(&mut leases, 110), leases.next_due()), (false, None));
        assert_eq!(leases.left(H, V, seconds(60)), seconds(0));
    }

    #[test]
    fn an_extension_that_comes_too_late_or_for_another_version_gets_nothing() {
        let mut leases = leases();
        assert_eq!(leases.extend(H, V, seconds(0)), None);
        leases.activate(H, V, false, seconds(0));
        assert_eq!(leases.extend(H, ChunkVersion(19), seconds(1)), None);
        assert_eq!(leases.extend(H, V, seconds(60)), None);
        assert_eq!(leases.next_due(), Some(seconds(60)));
    }

    #[test]
    fn a_short_chunk_is_due_soon_after_its_last_work_and_never_later_than_a_lease() {
        let mut leases = leases();
        leases.activate(H, V, true, seconds(0));
        assert!(!is_due(&mut leases, 2));
        assert!(is_due(&mut leases, 3));
        for at in 1..60 {
            assert!(leases.extend(H, V, seconds(at)).is_some());
            assert!(!is_due(&mut leases, at), "{at}");
        }
        assert!(is_due(&mut leases, 60));
    }

    #[test]
    fn a_chunk_stays_short_from_one_version_to_the_next_until_it_is_whole() {
        let mut leases = leases();
        leases.activate(H, V, true, seconds(0));
        leases.activate(H, ChunkVersion(21), true, seconds(59));
        assert_eq!(leases.next_due(), Some(seconds(60)));
        leases.activate(H, ChunkVersion(22), false, seconds(59));
        assert_eq!(leases.next_due(), Some(seconds(119)));
    }

    #[test]
    fn a_chunk_that_is_held_back_is_not_due() {
        let mut leases = leases();
        leases.activate(H, V, false, seconds(0));
        leases.hold_back(H, true);
        assert_eq!((is_due(&mut leases, 60), leases.next_due()), (false, None));
        // Its next version is activated before its change is over.
        leases.activate(H, ChunkVersion(21), false, seconds(59));
        assert_eq!(leases.next_due(), None);
        leases.hold_back(H, false);
        assert_eq!(leases.next_due(), Some(seconds(119)));
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
