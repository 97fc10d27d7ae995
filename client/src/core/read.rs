//! A file's chunks on their way down (`spec/messages.md` sections 7 and 13).
//!
//! [`Download`] asks the master where chunks are, a page at a time and ahead of need, reads
//! several chunks at once from different replicas, and says which replica comes next when one
//! fails. Chunks are begun in their order; [`Action::Fetch`] is yielded again for a chunk until
//! [`Download::handle_fetched`], and goes on where the replica before ended.
//!
//! A chunk whose replicas all failed is located again, after a wait. It is given up
//!
//! - as corrupt, when every replica that is left to ask is known to be corrupt;
//! - as unreachable, when none served for as long as the download's patience.
//!
//! Reads of a sealed chunk are pinned to handle and version, those of an open one to at least the
//! state that was seen (`spec/replication.md` section 12). A chunk that has a newer version by now
//! is begun with anew; only where its bytes can't be taken back, as those of a pipe, the rest comes
//! from the newer version, which has below it what was seen. One that was replaced, or became
//! shorter, is given up.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, ServerId};
use sarsen_protocol::message::{ChunkState, LocatedChunk, Replica, ReplicaFault};
use sarsen_protocol::status::Status;

use super::locate::{Part, choose, indexes, part};
use super::read_stream::{ReadFault, Verified, Wanted, block_start};
use super::retry::Backoff;

/// Chunks located by one request.
pub const PAGE_LEN: u32 = 256;

/// What is known when a download begins.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Bytes of the file that are wanted; within its size.
    pub range: Range<u64>,
    /// Bytes of a whole chunk.
    pub chunk_size: u32,
    /// Streams at a time, at least one.
    pub streams_max: usize,
    /// Whether bytes that were given out may be given out once more, as those of a file may and
    /// those of a pipe may not.
    pub rewindable: bool,
    /// How long a chunk may come no further after a failure.
    pub patience: Duration,
    /// For the jitter of waits and the choice of replicas.
    pub seed: u64,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the master where chunks are.
    Locate {
        /// Index of the first.
        first_index: u32,
        /// How many.
        count: u32,
    },
    /// Read a chunk from a replica. What the chunk's length leaves of the range is zeros.
    Fetch(Box<Fetch>),
    /// Give out zeros: no chunk is there.
    Zeros {
        /// Place in the file.
        index: u32,
        /// First byte in the place.
        from: u32,
        /// The byte after the last.
        to: u32,
    },
    /// Tell the master of a replica that failed.
    Report {
        /// The chunk.
        handle: ChunkHandle,
        /// Its version.
        version: ChunkVersion,
        /// Who holds the replica.
        server: ServerId,
        /// What it did.
        fault: ReplicaFault,
    },
    /// All was read.
    Done,
    /// It can't be read.
    GiveUp(GiveUp),
}

/// A range of a chunk to read from a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The chunk as it was located, with the ticket. Of an open one `length` is what was seen.
    pub chunk: Arc<LocatedChunk>,
    /// Whom to ask.
    pub replica: Replica,
    /// The first byte that is wanted; bytes of its block that lie before are only verified.
    pub from: u32,
    /// The byte after the last; may lie beyond the chunk's length.
    pub to: u32,
    /// What replicas before this one brought.
    pub verified: Verified,
    /// How often all replicas have failed before: what is slow deserves more patience then.
    pub round: u32,
    /// Whom else to ask if this one is late; `None` if it is the last.
    pub other: Option<Replica>,
}

/// Why a chunk can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveUp {
    /// Every replica is corrupt.
    Corrupt {
        /// Its place in the file.
        index: u32,
        /// Its name.
        handle: ChunkHandle,
    },
    /// No replica served in time.
    Unreachable {
        /// Its place in the file.
        index: u32,
        /// Its name.
        handle: ChunkHandle,
    },
    /// It is not the chunk any more that was begun with.
    Changed {
        /// Its place in the file.
        index: u32,
    },
}

impl GiveUp {
    /// The place of the chunk in the file.
    #[must_use]
    pub const fn index(&self) -> u32 {
        match *self {
            Self::Corrupt { index, .. }
            | Self::Unreachable { index, .. }
            | Self::Changed { index } => index,
        }
    }
}

/// How a replica failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Its bytes do not match their CRCs.
    Corrupt,
    /// All its pieces were good, and together they are not what was sealed.
    OtherBytes,
    /// No connection, or one that broke or fell silent.
    Unreachable,
    /// Its disk failed.
    MediumFailed,
    /// It holds another version.
    WrongVersion,
    /// It refuses for now, or does not hold the chunk.
    Refused,
    /// It has not heard yet of all that was seen of the open chunk.
    Behind,
    /// The file was truncated.
    Shrank,
    /// The ticket or the location is out of date: the master knows better.
    OutOfDate,
    /// It is late, or slower than others: it was left for another, and is not to blame.
    Slow,
}

impl Fault {
    /// What an answer shows that breaks what was asked for.
    #[must_use]
    pub const fn of_answer(fault: ReadFault) -> Self {
        match fault {
            ReadFault::PieceMismatch { .. } => Self::Corrupt,
            ReadFault::ChunkMismatch { .. } => Self::OtherBytes,
            ReadFault::OtherVersion => Self::WrongVersion,
            ReadFault::SeenNewer => Self::OutOfDate,
            ReadFault::Shrank { .. } => Self::Shrank,
            ReadFault::OtherState | ReadFault::OutOfOrder { .. } | ReadFault::EndedEarly { .. } => {
                Self::Refused
            }
        }
    }

    /// What a status says of the replica that answered with it, and has `version`, to what was
    /// `wanted`.
    #[must_use]
    pub fn of_status(status: Status, version: ChunkVersion, wanted: &Wanted) -> Self {
        match (status, wanted) {
            (Status::Corrupt, _) => Self::Corrupt,
            (Status::MediumFailed, _) => Self::MediumFailed,
            (Status::Behind, _) => Self::Behind,
            // An old replica is bad. One that is newer shows that what is asked for is old.
            (Status::Moved | Status::PromiseRefused, Wanted::Sealed(chunk))
                if version <= chunk.version =>
            {
                Self::WrongVersion
            }
            (
                Status::Moved
                | Status::PromiseRefused
                | Status::ChunkSealed
                | Status::ChunkOpen
                | Status::TicketInvalid
                | Status::TicketExpired,
                _,
            ) => Self::OutOfDate,
            _ => Self::Refused,
        }
    }

    /// Whether the replica is worth telling the user of: it is bad, not only out of reach for now.
    #[must_use]
    pub const fn shows_a_bad_replica(self) -> bool {
        match self {
            Self::Corrupt | Self::OtherBytes | Self::MediumFailed | Self::WrongVersion => true,
            Self::Unreachable
            | Self::Refused
            | Self::Behind
            | Self::Shrank
            | Self::OutOfDate
            | Self::Slow => false,
        }
    }

    /// What to tell the master; `None` for what is no fault of the replica.
    const fn report(self) -> Option<ReplicaFault> {
        match self {
            Self::Corrupt | Self::OtherBytes => Some(ReplicaFault::CrcMismatch),
            Self::Unreachable => Some(ReplicaFault::Unreachable),
            Self::MediumFailed => Some(ReplicaFault::MediumFailed),
            Self::WrongVersion => Some(ReplicaFault::WrongVersion),
            Self::Refused | Self::Behind | Self::Shrank | Self::OutOfDate | Self::Slow => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// A replica is to be chosen.
    Ready,
    /// A replica was asked.
    Fetching,
    /// To be located again.
    Stale,
    /// The master was asked where it is by now.
    Locating,
}

/// The beginning of a chunk that came before, and its CRC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Of this chunk.
    pub handle: ChunkHandle,
    /// In this version.
    pub version: ChunkVersion,
    /// Up to where.
    pub verified: Verified,
}

impl Kept {
    fn is_of(&self, chunk: &LocatedChunk) -> bool {
        let reached = self.verified.reached;
        (self.handle, self.version) == (chunk.handle, chunk.version)
            && (reached == chunk.length
                || reached < chunk.length && reached == block_start(reached))
    }
}

/// A chunk that is being read.
#[derive(Clone, Debug)]
struct Slot {
    chunk: Arc<LocatedChunk>,
    from: u32,
    to: u32,
    verified: Verified,
    state: State,
    /// Asked since the chunk was last located.
    tried: Vec<ServerId>,
    /// Said that what is known of the chunk is old, and the master says the same still: others come
    /// first, and then who said it the longest ago.
    doubting: Vec<ServerId>,
    /// Never to be asked again.
    corrupt: Vec<ServerId>,
    /// Told to the master.
    reported: Vec<ServerId>,
    /// Whether a replica failed that may serve later.
    may_recover: bool,
    /// Whether each replica is to bring all of it: what several brought was not what was sealed.
    whole: bool,
    failing_since: Option<Duration>,
    not_before: Duration,
    backoff: Backoff,
    /// How often all replicas failed since verified bytes came.
    round: u32,
}

/// The download of a range of one file.
#[derive(Clone, Debug)]
pub struct Download {
    plan: Plan,
    /// Next chunk to begin, up to the range's end.
    next: Range<u32>,
    /// Chunks that were located and not begun; holes are left out.
    located: BTreeMap<u32, Arc<LocatedChunk>>,
    /// Everything below was located.
    located_to: u32,
    locating: bool,
    /// Boxed, since the map has room for many, and a small read has one.
    slots: BTreeMap<u32, Box<Slot>>,
    /// What an earlier download brought, of the chunks that were not begun.
    kept: BTreeMap<u32, Kept>,
    reports: VecDeque<Action>,
    /// Asked only where no other is left.
    slow: Vec<ServerId>,
    given_up: Option<GiveUp>,
    ended: bool,
}

impl Download {
    /// A download of which no chunk is located yet; `None` for a range that no file can have.
    #[must_use]
    pub fn new(plan: Plan) -> Option<Self> {
        let next = indexes(&plan.range, plan.chunk_size)?;
        Some(Self {
            located_to: next.start,
            next,
            plan,
            located: BTreeMap::new(),
            locating: false,
            slots: BTreeMap::new(),
            kept: BTreeMap::new(),
            reports: VecDeque::new(),
            slow: Vec::new(),
            given_up: None,
            ended: false,
        })
    }

    /// An earlier download of the whole file brought the beginnings of these chunks, and they are
    /// where they belong.
    pub fn handle_kept(&mut self, kept: BTreeMap<u32, Kept>) {
        self.kept = kept;
    }

    /// These servers are slow by now ([`super::pace`]): what begins is asked of others, if there are
    /// any.
    pub fn handle_slow(&mut self, slow: Vec<ServerId>) {
        self.slow = slow;
    }

    /// The master said where `asked` are.
    pub fn handle_located<C: Into<Arc<LocatedChunk>>>(
        &mut self,
        asked: Range<u32>,
        chunks: impl IntoIterator<Item = C>,
    ) {
        let chunks = chunks.into_iter().map(Into::into);
        if self.slots.get(&asked.start).map(|slot| &slot.state) == Some(&State::Locating) {
            self.handle_relocated(asked.start, chunks);
            return;
        }
        self.locating = false;
        if asked.start <= self.located_to && asked.end > self.located_to {
            let is_new = |chunk: &LocatedChunk| {
                chunk.index >= self.located_to && asked.contains(&chunk.index)
            };
            let new = chunks.filter(|chunk| is_new(chunk));
            self.located.extend(new.map(|chunk| (chunk.index, chunk)));
            self.located_to = asked.end;
        }
    }

    /// Verified bytes of a chunk came.
    pub fn handle_progress(&mut self, index: u32) {
        if let Some(slot) = self.slots.get_mut(&index) {
            slot.failing_since = None;
            slot.backoff.reset();
            slot.round = 0;
        }
    }

    /// All that was wanted of a chunk came and was verified.
    pub fn handle_fetched(&mut self, index: u32) {
        self.slots.remove(&index);
    }

    /// A replica failed after it had brought `verified`.
    pub fn handle_failed(
        &mut self,
        now: Duration,
        index: u32,
        server: ServerId,
        verified: Verified,
        fault: Fault,
    ) {
        let Some(slot) = self.slots.get_mut(&index) else {
            return;
        };
        // What came before this replica was asked came from others, or from an earlier download.
        let is_mixed = slot.verified != begin_at(slot.from);
        if slot.is_open() {
            // Another replica, or the same at another time, serves another state.
            slot.begin_anew(verified, self.plan.rewindable);
        } else {
            slot.verified = match slot.whole {
                true => begin_at(slot.from),
                false => verified,
            };
        }
        slot.state = State::Ready;
        slot.tried.push(server);
        slot.failing_since.get_or_insert(now);
        match fault {
            Fault::Corrupt => slot.corrupt.push(server),
            Fault::OtherBytes => {
                slot.verified = begin_at(slot.from);
                if !self.plan.rewindable {
                    self.given_up = Some(slot.corrupt_as(index));
                }
                if is_mixed {
                    // Any of them may have brought the wrong part.
                    slot.whole = true;
                    slot.tried.clear();
                } else {
                    slot.corrupt.push(server);
                }
            }
            Fault::Unreachable
            | Fault::MediumFailed
            | Fault::Refused
            | Fault::Behind
            | Fault::Slow => {
                slot.may_recover = true;
            }
            Fault::Shrank => {
                self.given_up = Some(GiveUp::Changed { index });
            }
            Fault::OutOfDate => {
                slot.doubting.retain(|it| *it != server);
                slot.doubting.push(server);
            }
            Fault::WrongVersion => {}
        }
        let is_blamed = fault != Fault::OtherBytes || !is_mixed;
        if is_blamed
            && let Some(fault) = fault.report()
            && !slot.reported.contains(&server)
        {
            slot.reported.push(server);
            self.reports.push_back(Action::Report {
                handle: slot.chunk.handle,
                version: slot.chunk.version,
                server,
                fault,
            });
        }
        if fault == Fault::OutOfDate || slot.choose(self.plan.seed, &[], None).is_none() {
            slot.locate_after_a_wait(now);
        }
    }

    /// When to poll again though nothing happened.
    #[must_use]
    pub fn wake_at(&self) -> Option<Duration> {
        self.slots
            .values()
            .filter(|slot| slot.state == State::Stale)
            .map(|slot| slot.not_before)
            .min()
    }

    /// The next thing to do, until there is none for now.
    pub fn poll(&mut self, now: Duration) -> Option<Action> {
        if self.ended {
            return None;
        }
        if let Some(report) = self.reports.pop_front() {
            return Some(report);
        }
        self.give_up_what_failed_for_long(now);
        if let Some(why) = self.given_up.take() {
            self.ended = true;
            return Some(Action::GiveUp(why));
        }
        if self.next.is_empty() && self.slots.is_empty() {
            self.ended = true;
            return Some(Action::Done);
        }
        self.go_on(now)
            .or_else(|| self.begin(now))
            .or_else(|| self.locate())
    }

    /// Goes on with a chunk whose replica failed.
    fn go_on(&mut self, now: Duration) -> Option<Action> {
        for (&index, slot) in &mut self.slots {
            match slot.state {
                State::Ready => {
                    let replica = slot.choose(self.plan.seed, &self.slow, None).cloned();
                    let Some(replica) = replica else {
                        slot.locate_after_a_wait(now);
                        continue;
                    };
                    slot.state = State::Fetching;
                    let beside = Some(replica.server);
                    let other = slot.choose(self.plan.seed, &self.slow, beside).cloned();
                    // Two at once could serve two states of an open chunk.
                    let other = other.filter(|_| !slot.is_open());
                    return Some(slot.fetch(replica, other));
                }
                State::Stale if now >= slot.not_before => {
                    slot.state = State::Locating;
                    return Some(Action::Locate {
                        first_index: index,
                        count: 1,
                    });
                }
                State::Fetching | State::Stale | State::Locating => {}
            }
        }
        None
    }

    /// Begins the next chunk.
    fn begin(&mut self, now: Duration) -> Option<Action> {
        while self.slots.len() < self.plan.streams_max
            && !self.next.is_empty()
            && self.next.start < self.located_to
        {
            let index = self.next.start;
            self.next.start += 1;
            let part = part(&self.plan.range, self.plan.chunk_size, index);
            let chunk = self.located.remove(&index);
            // How long an open chunk is by now, only its members know.
            let may_have =
                |chunk: &LocatedChunk| chunk.state == ChunkState::Open || chunk.length > part.from;
            let Some(chunk) = chunk.filter(|chunk| may_have(chunk)) else {
                return Some(Action::Zeros {
                    index,
                    from: part.from,
                    to: part.to,
                });
            };
            let backoff = Backoff::new(self.plan.seed ^ u64::from(index));
            let kept = self.kept.remove(&index).filter(|kept| kept.is_of(&chunk));
            let mut slot = Slot::new(chunk, part, backoff);
            if let Some(kept) = kept {
                slot.verified = kept.verified;
            }
            self.slots.insert(index, Box::new(slot));
            // None if no replica is known: the next chunk may have one.
            if let Some(fetch) = self.go_on(now) {
                return Some(fetch);
            }
        }
        None
    }

    /// Locates the next page before the chunks of this one have all begun.
    fn locate(&mut self) -> Option<Action> {
        let ahead = u32::try_from(self.plan.streams_max).unwrap_or(u32::MAX);
        let is_due = self.located_to < self.next.end
            && self.next.start.saturating_add(ahead) >= self.located_to;
        if self.locating || !is_due {
            return None;
        }
        self.locating = true;
        Some(Action::Locate {
            first_index: self.located_to,
            count: PAGE_LEN.min(self.next.end - self.located_to),
        })
    }

    fn handle_relocated(
        &mut self,
        index: u32,
        mut chunks: impl Iterator<Item = Arc<LocatedChunk>>,
    ) {
        let Some(slot) = self.slots.get_mut(&index) else {
            return;
        };
        let same = |it: &LocatedChunk| it.index == index && slot.is_continued_by(it);
        let Some(mut chunk) = chunks.find(|it| same(it)) else {
            self.given_up = Some(GiveUp::Changed { index });
            return;
        };
        if chunk.version != slot.chunk.version {
            let verified = slot.verified;
            slot.begin_anew(verified, self.plan.rewindable);
            slot.corrupt.clear();
            slot.reported.clear();
        }
        if (chunk.version, chunk.state) != (slot.chunk.version, slot.chunk.state) {
            slot.doubting.clear();
        }
        if chunk.state == ChunkState::Open {
            let length = chunk.length.max(slot.chunk.length);
            Arc::make_mut(&mut chunk).length = length;
        }
        slot.chunk = chunk;
        slot.tried.clear();
        slot.state = State::Ready;
        let can_be_asked = slot.choose(self.plan.seed, &[], None).is_some();
        if !can_be_asked && !slot.corrupt.is_empty() && !slot.may_recover {
            self.given_up = Some(slot.corrupt_as(index));
        }
    }

    fn give_up_what_failed_for_long(&mut self, now: Duration) {
        let patience = self.plan.patience;
        let failed = |slot: &Slot| {
            slot.state != State::Fetching
                && slot
                    .failing_since
                    .is_some_and(|since| now >= since.saturating_add(patience))
        };
        if let Some((&index, slot)) = self.slots.iter().find(|(_, slot)| failed(slot)) {
            self.given_up.get_or_insert(GiveUp::Unreachable {
                index,
                handle: slot.chunk.handle,
            });
        }
    }
}

impl Slot {
    const fn new(chunk: Arc<LocatedChunk>, part: Part, backoff: Backoff) -> Self {
        Self {
            chunk,
            from: part.from,
            to: part.to,
            verified: begin_at(part.from),
            state: State::Ready,
            tried: Vec::new(),
            doubting: Vec::new(),
            corrupt: Vec::new(),
            reported: Vec::new(),
            may_recover: false,
            whole: false,
            failing_since: None,
            not_before: Duration::ZERO,
            backoff,
            round: 0,
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.chunk.state, ChunkState::Open)
    }

    /// Whether what the master says by now is the same chunk: in the same version, or in a newer one
    /// that has what was seen.
    fn is_continued_by(&self, chunk: &LocatedChunk) -> bool {
        if chunk.handle != self.chunk.handle || chunk.version < self.chunk.version {
            return false;
        }
        let is_newer = chunk.version > self.chunk.version;
        match (chunk.state, is_newer) {
            // Until it is sealed the log doesn't know how long it is.
            (ChunkState::Open, _) => is_newer || self.is_open(),
            (_, true) => chunk.length >= self.chunk.length,
            (_, false) => chunk.length == self.chunk.length && !self.is_open(),
        }
    }

    /// What comes from now on may be of another state than what came up to `verified`: all of it
    /// comes once more, or, if that can't be taken back, what is behind it.
    fn begin_anew(&mut self, verified: Verified, rewindable: bool) {
        if !rewindable {
            self.from = self.from.max(verified.reached).min(self.to);
        }
        self.verified = begin_at(self.from);
        self.whole = false;
    }

    /// No replica is left to ask.
    fn locate_after_a_wait(&mut self, now: Duration) {
        self.state = State::Stale;
        self.round = self.round.saturating_add(1);
        self.failing_since.get_or_insert(now);
        self.not_before = now.saturating_add(self.backoff.delay());
    }

    /// The replica to ask, one that is not slow if there is one; not the one `beside` which it is
    /// asked.
    fn choose(&self, seed: u64, slow: &[ServerId], beside: Option<ServerId>) -> Option<&Replica> {
        let (replicas, index) = (&self.chunk.replicas, self.chunk.index);
        let may_ask = |replica: &Replica| {
            let server = replica.server;
            !self.tried.contains(&server)
                && !self.corrupt.contains(&server)
                && beside != Some(server)
        };
        let is_sure = |it: &Replica| may_ask(it) && !self.doubting.contains(&it.server);
        let is_quick = |it: &Replica| is_sure(it) && !slow.contains(&it.server);
        choose(replicas, index, seed, is_quick)
            .or_else(|| choose(replicas, index, seed, is_sure))
            .or_else(|| {
                let of = |server| {
                    replicas
                        .iter()
                        .find(|it| it.server == server && may_ask(it))
                };
                self.doubting.iter().find_map(|&server| of(server))
            })
    }

    fn fetch(&self, replica: Replica, other: Option<Replica>) -> Action {
        Action::Fetch(Box::new(Fetch {
            chunk: Arc::clone(&self.chunk),
            replica,
            from: self.from,
            to: self.to,
            verified: self.verified,
            round: self.round,
            other,
        }))
    }

    fn corrupt_as(&self, index: u32) -> GiveUp {
        GiveUp::Corrupt {
            index,
            handle: self.chunk.handle,
        }
    }
}

/// Nothing verified yet of a read that wants `from` on.
const fn begin_at(from: u32) -> Verified {
    Verified {
        reached: block_start(from),
        crc32: 0,
    }
}

#[cfg(test)]
mod tests;
