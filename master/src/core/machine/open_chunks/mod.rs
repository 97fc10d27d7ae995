//! Chunks that change: opened, gone on with by other members, and sealed again
//! (`spec/replication.md` sections 3 to 10).
//!
//! What is to be done for a chunk is a *work*: it makes one attempt after the other
//! ([`VersionChange`]) until one is logged, or it is clear that none can be. A work is for a chunk
//! that the log knows, or for a slot in which there is none yet; there is at most one each, so two
//! attempts never run at a time. Clients that want the chunk wait in it.
//!
//! ```text
//!   OpenChunk, ReportChain, a lease that is over, SealFile, Truncate
//!        │
//!        ▼            given up: again, without who failed
//!      work ──► attempt ◄──┐
//!                 │  └─────┘
//!                 ▼ logged
//!      active: GrantLease, and when it is answered those who wait are told
//!      sealed: Settle; errands that waited go on; those who wait begin anew
//! ```
//!
//! Invariants: an attempt starts from what is applied, and none before this master's epoch is; one
//! whose entry was handed to the log ends by the log's word alone; each attempt of a chunk that does
//! not exist yet draws a handle of its own, since servers may have made the last one.
//!
//! All of this is in memory: a master that starts knows from its log what is active, grants those
//! leases again as their primaries register, and what was under way is asked for again by whoever
//! wanted it. Preparations that the log has the seal of are settled when they are reported.
//!
//! Left out so far: clones of chunks that more than one slot names, and a next chunk that is held
//! ready before the last one is full.

mod again;
mod asked;
mod begin;
mod errands;
mod losses;
mod orders;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, DirectoryId, FileId, RequestId, ServerId};
use sarsen_protocol::message::{OpenChunk, Slot};
use sarsen_protocol::status::Status;

use super::changes::Asked;
use super::{Machine, Waiter, millis};
use crate::core::action::Failure;
use crate::core::command::chunks::{Configuration, Member};
use crate::core::config::Config;
use crate::core::event::Token;
use crate::core::lease::{Leases, Spans};
use crate::core::state::State;
use crate::core::timed::{Due, Timed};
use crate::core::version_change::VersionChange;
use crate::core::version_change::words::{Blamed, Decision, Outcome};

use self::again::Agains;
use self::errands::Errands;
pub(super) use self::orders::ChangeStep;

/// How long a client is held at the most while a chunk is being opened for it, before it is told to
/// ask again: below what it waits for an answer at all.
const HOLD_MAX: Duration = Duration::from_secs(10);

/// The shortest time between two attempts of a work.
const RETRY_MIN: Duration = Duration::from_millis(10);

/// How many versions follow each other for trouble, with nothing committed in any, before the chunk rests
/// in between (`spec/replication.md` section 7).
const PROMPT_CHANGES: u32 = 2;

/// What a work is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    /// A chunk that the log knows.
    Chunk(ChunkHandle),
    /// A slot of a file that names no chunk.
    Slot(FileId, u32),
}

/// What a work is to come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// Open.
    Active {
        memory: bool,
        /// Its primary finishes first what it has ordered.
        drain: bool,
    },
    Sealed(Then),
    /// Sealed with the best replica that anybody has: a person accepted the loss.
    Accepted,
}

/// What the entry that seals a chunk does besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Nothing,
    /// The file goes on in a next chunk.
    Next,
    /// The file ends in this chunk.
    Cut {
        file: FileId,
        size: u64,
        len: u32,
    },
}

/// Which of a work's attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// That of its subject.
    Own,
    /// That of the chunk that comes next.
    Next,
}

/// A client that waits for a chunk.
#[derive(Clone, Debug)]
struct Waiting {
    to: Token,
    asked: OpenChunk,
    /// When it is told to ask again.
    until: Duration,
}

/// The next chunk of a file, begun by its members before the last one is sealed.
#[derive(Clone, Debug)]
struct Next {
    handle: ChunkHandle,
    index: u32,
    /// What the full one is sealed in: drawn with the rest, as long as there was enough to draw from.
    seal_version: ChunkVersion,
    attempt: VersionChange,
    /// Its members have begun it: what is to be logged with the seal.
    begun: Option<Configuration>,
}

#[derive(Clone, Debug)]
struct Work {
    goal: Goal,
    /// Whose chunk or slot it is for.
    file: FileId,
    began: Duration,
    /// The chunk of the attempt; of a slot it is drawn for each.
    handle: ChunkHandle,
    attempt: Option<VersionChange>,
    next: Option<Next>,
    /// Who failed in its attempts, and when, the last first.
    failed: Vec<(ServerId, Duration)>,
    /// Who failed to make a chunk that comes next: that is no word about the one that it holds.
    failed_next: Vec<(ServerId, Duration)>,
    /// Servers without a connection, each since when in milliseconds, or since an attempt first missed
    /// it: they are waited for once, in all attempts together.
    lost: BTreeMap<ServerId, u64>,
    /// Who failed once for want of a connection: that is no word about its disk.
    excused: BTreeSet<ServerId>,
    blamed: Option<Blamed>,
    /// When the next attempt begins, if none runs.
    retry_at: Duration,
    waiting: Vec<Waiting>,
    /// The request that the entry carries out, and whom to tell what of it.
    request: Option<(RequestId, Token, Asked)>,
}

/// What is known of an open chunk beside the log.
#[derive(Clone, Debug, Default)]
struct Open {
    /// Its primary has said that it holds the lease.
    is_granted: bool,
    /// By when it has to say so, while it is asked.
    granted_by: Option<Duration>,
    /// What is known of trouble that its version became active for.
    troubled: Option<Troubled>,
    /// Its primary said that a record did not fit.
    is_full: bool,
    /// Whether its version takes records.
    records: Records,
    /// Members that don't believe their own replica, by their own word: known to this master alone,
    /// and said once in a version.
    doubtful: BTreeSet<ServerId>,
    waiting: Vec<Waiting>,
}

/// Whether the version of an open chunk takes records (`spec/replication.md` section 9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Records {
    /// Another master opened it: it may.
    #[default]
    Unknown,
    /// Somebody asked for it to append since it was sealed or made.
    Taken,
    /// Nobody did.
    None,
}

/// A version that followed another for trouble.
#[derive(Clone, Copy, Debug)]
struct Troubled {
    /// When it became active.
    at: Duration,
    /// Who was held to be the fault, if anybody was.
    blamed: Option<ServerId>,
    /// How many did so in a row, in none of which anything was committed.
    times: u32,
    /// Its primary has said that something was committed in it.
    has_worked: bool,
}

impl Troubled {
    /// Whether trouble in this version, for which a server is blamed, is the same that it became active for:
    /// it comes at once, or is the same server's, in a version in which nothing was done.
    fn is_again(&self, blamed: ServerId, now: Duration, suspect_after: Duration) -> bool {
        let is_same = !self.has_worked && self.blamed == Some(blamed);
        is_same || now < self.at.saturating_add(suspect_after)
    }
}

/// Members that are awaited to say that they have settled a seal.
#[derive(Clone, Debug)]
struct Settling {
    members: BTreeSet<ServerId>,
    until: Duration,
}

/// A chunk that was sealed with fewer members than copies are wanted.
#[derive(Clone, Copy, Debug)]
struct Mending {
    since: Duration,
    until: Duration,
}

/// All that changes.
#[derive(Debug)]
pub(super) struct OpenChunks {
    leases: Leases,
    works: Timed<Subject, Work>,
    /// How many works there are of a file's chunks and slots.
    works_of: BTreeMap<FileId, usize>,
    open: Timed<ChunkHandle, Open>,
    /// Whose work an attempt's handle is.
    attempts: BTreeMap<ChunkHandle, (Subject, Which)>,
    /// No member of the active version answered.
    unavailable: BTreeSet<ChunkHandle>,
    /// Members differ, and none has a block that doesn't match.
    differing: BTreeSet<ChunkHandle>,
    /// Servers whose copy could not be gone on with when a loss was accepted, by their own word or the
    /// log's: another is taken the next time.
    bad_copies: BTreeMap<ChunkHandle, BTreeSet<ServerId>>,
    /// Chunks that were sealed a moment ago: before their members have settled nothing is known of
    /// what has to be repaired.
    settling: Timed<ChunkHandle, Settling>,
    /// Repair has its chance before these are opened again.
    mending: Timed<ChunkHandle, Mending>,
    errands: Errands,
    again: Agains,
    /// Seals that a server could not settle just then, each with where it lies there.
    unsettled: BTreeMap<(ServerId, ChunkHandle), DirectoryId>,
}

impl OpenChunks {
    /// What the log calls active is so with a lease that begins now.
    pub(super) fn new(config: &Config, state: &State, now: Duration) -> Self {
        let mut this = Self {
            leases: Leases::new(Spans {
                lease: config.lease,
                suspect_after: config.suspect_after,
                dead_after: config.dead_after,
            }),
            works: Timed::new(),
            works_of: BTreeMap::new(),
            open: Timed::new(),
            attempts: BTreeMap::new(),
            unavailable: BTreeSet::new(),
            differing: BTreeSet::new(),
            bad_copies: BTreeMap::new(),
            settling: Timed::new(),
            mending: Timed::new(),
            errands: Errands::default(),
            again: Agains::new(),
            unsettled: BTreeMap::new(),
        };
        for (handle, record) in state.chunks.iter() {
            if let Some(active) = &record.active {
                let is_short = active.members.len() < usize::from(record.replicas);
                this.leases.activate(handle, active.version, is_short, now);
                this.open.insert(handle, Open::default());
            }
        }
        this
    }

    /// Whether no member of a chunk's active version can be heard.
    pub(super) fn is_unavailable(&self, handle: ChunkHandle) -> bool {
        self.unavailable.contains(&handle)
    }

    /// Whether a chunk's members differ without one that is wrong by its own word.
    pub(super) fn is_differing(&self, handle: ChunkHandle) -> bool {
        self.differing.contains(&handle)
    }

    /// Whether a chunk's primary holds the lease, as far as is known.
    pub(super) fn is_granted(&self, handle: ChunkHandle) -> bool {
        self.open.get(&handle).is_some_and(|open| open.is_granted)
    }

    /// Whether a member of an open chunk said that its own replica can't be believed, or read.
    pub(super) fn is_doubtful(&self, handle: ChunkHandle, server: ServerId) -> bool {
        let open = self.open.get(&handle);
        open.is_some_and(|open| open.doubtful.contains(&server))
    }

    /// The members of an open chunk that said so.
    fn doubtful(&self, handle: ChunkHandle) -> Vec<ServerId> {
        let open = self.open.get(&handle);
        open.map_or(Vec::new(), |open| open.doubtful.iter().copied().collect())
    }

    /// Whether an attempt under way has servers begin a chunk, and may yet log it.
    pub(super) fn is_begun(&self, handle: ChunkHandle) -> bool {
        self.attempts.contains_key(&handle)
    }

    fn work_of(&mut self, handle: ChunkHandle) -> Option<(Subject, Which, &mut Work)> {
        let &(subject, which) = self.attempts.get(&handle)?;
        Some((subject, which, self.works.get_mut(&subject)?))
    }

    /// Puts a work in, unless there is one.
    fn begin(&mut self, subject: Subject, file: FileId, work: impl FnOnce() -> Work) {
        if !self.works.contains_key(&subject) {
            self.works.insert(subject, work());
            *self.works_of.entry(file).or_default() += 1;
            self.review(subject);
        }
    }

    /// Takes a work away, with the names of its attempts.
    fn end(&mut self, subject: Subject) -> Option<Work> {
        let work = self.works.remove(&subject)?;
        let next = work.next.as_ref().map(|next| next.handle);
        for handle in next.into_iter().chain([work.handle]) {
            self.attempts.remove(&handle);
        }
        if let Some(count) = self.works_of.get_mut(&work.file) {
            *count -= 1;
            if *count == 0 {
                self.works_of.remove(&work.file);
            }
        }
        self.review(subject);
        Some(work)
    }

    /// Notes whether any member of a chunk's active version can be heard.
    fn set_unavailable(&mut self, handle: ChunkHandle, is_unavailable: bool) {
        if put(&mut self.unavailable, handle, is_unavailable) {
            self.review(Subject::Chunk(handle));
        }
    }

    /// Notes whether a chunk's members differ.
    fn set_differing(&mut self, handle: ChunkHandle, is_differing: bool) {
        if put(&mut self.differing, handle, is_differing) {
            self.review(Subject::Chunk(handle));
        }
    }

    /// An open chunk is sealed for lack of work if nothing is done for it now, and something can be.
    fn review(&mut self, subject: Subject) {
        if let Subject::Chunk(handle) = subject {
            let is_held_back = self.works.contains_key(&subject)
                || self.is_unavailable(handle)
                || self.is_differing(handle);
            self.leases.hold_back(handle, is_held_back);
        }
    }
}

impl Open {
    /// Whether no record was taken in its version, as far as is known.
    fn is_closed(&self) -> bool {
        self.records == Records::None
    }
}

impl Due for Open {
    fn due(&self) -> Option<Duration> {
        let waits = self.waiting.iter().map(|waiting| waiting.until);
        waits.chain(self.granted_by).min()
    }
}

impl Due for Settling {
    fn due(&self) -> Option<Duration> {
        Some(self.until)
    }
}

impl Due for Mending {
    fn due(&self) -> Option<Duration> {
        Some(self.until)
    }
}

impl Waiting {
    /// Whether the client wants to append.
    const fn is_for_records(&self) -> bool {
        matches!(self.asked.slot, Slot::Last { .. })
    }
}

impl Work {
    fn is_for_records(&self) -> bool {
        self.waiting.iter().any(Waiting::is_for_records)
    }

    fn attempt(&mut self, which: Which) -> Option<&mut VersionChange> {
        match which {
            Which::Own => self.attempt.as_mut(),
            Which::Next => self.next.as_mut().map(|next| &mut next.attempt),
        }
    }
}

impl Due for Work {
    fn due(&self) -> Option<Duration> {
        let waits = self.waiting.iter().map(|waiting| waiting.until);
        let attempts = [
            self.attempt.as_ref(),
            self.next.as_ref().map(|next| &next.attempt),
        ];
        let attempts = attempts.into_iter().flatten();
        let attempts = attempts.filter_map(|attempt| attempt.poll_timeout());
        let attempts = attempts.map(Duration::from_millis);
        let retry = self.attempt.is_none() && self.next.is_none();
        let retry = retry.then_some(self.retry_at);
        waits.chain(attempts).chain(retry).min()
    }
}

impl Machine {
    /// What has come due of works, leases and clients that wait.
    pub(super) fn look_after_open_chunks(&mut self) {
        if !self.is_serving() {
            return;
        }
        self.seal_what_is_idle();
        let due = self.open_chunks.works.due(self.now.elapsed);
        for subject in due {
            self.release_waiting(subject);
            self.note_beats(subject);
            for which in [Which::Next, Which::Own] {
                let now_ms = self.now_ms();
                let work = self.open_chunks.works.get_mut(&subject);
                if let Some(attempt) = work.and_then(|work| work.attempt(which)) {
                    let actions = attempt.handle_timeout(now_ms);
                    self.act_on(subject, which, actions);
                }
            }
            self.begin_attempt_if_due(subject);
        }
        self.look_after_grants();
        self.try_again();
        self.look_after_errands();
        self.forget_what_was_sealed();
    }

    /// When something comes due.
    pub(super) fn next_of_open_chunks(&mut self) -> Option<Duration> {
        if !self.is_serving() {
            return None;
        }
        // What can't be sealed now has its turn when something comes of it.
        let is_writable = self.check_writable().is_ok();
        let all = &mut self.open_chunks;
        let leases = is_writable.then(|| all.leases.next_due()).flatten();
        let again = is_writable.then(|| all.again.next_due()).flatten();
        let (works, errands) = (all.works.next_due(), all.errands.next_due());
        let next = [leases, again, works, all.open.next_due(), errands];
        next.into_iter().flatten().min()
    }

    /// Chunks without work are sealed, and those short of members.
    fn seal_what_is_idle(&mut self) {
        if self.check_writable().is_err() {
            return;
        }
        for handle in self.open_chunks.leases.due(self.now.elapsed) {
            self.begin_work(Subject::Chunk(handle), Goal::Sealed(Then::Nothing));
        }
    }

    /// Members that prepare a seal and beat are still at it; but who beats and never prepares is not
    /// waited for without an end.
    fn note_beats(&mut self, subject: Subject) {
        let lease = self.config.lease;
        let Some(work) = self.open_chunks.works.get_mut(&subject) else {
            return;
        };
        let last = work.began.saturating_add(lease);
        let Some(attempt) = &mut work.attempt else {
            return;
        };
        let preparing: Vec<ServerId> = attempt.preparing().collect();
        for id in preparing {
            if let Some(server) = self.servers.server(id) {
                let heard = server.last_heard.min(last);
                attempt.handle_alive(id, elapsed_ms(heard));
            }
        }
    }

    /// Nobody asks any more how long ago these were sealed.
    fn forget_what_was_sealed(&mut self) {
        let (now, all) = (self.now.elapsed, &mut self.open_chunks);
        for handle in all.settling.due(now) {
            all.settling.remove(&handle);
        }
        for handle in all.mending.due(now) {
            all.mending.remove(&handle);
        }
    }

    /// Until when repair leaves a chunk alone: its version is being changed, or its members were
    /// told a moment ago to settle its seal.
    pub(super) fn changing_until(&self, handle: ChunkHandle) -> Option<Duration> {
        let now = self.now.elapsed;
        let all = &self.open_chunks;
        let work = all.works.get(&Subject::Chunk(handle));
        // One that waits for repair is not in its way.
        let is_waiting = |work: &Work| work.attempt.is_none() && work.next.is_none();
        let is_mending = all.mending.contains_key(&handle);
        if work.is_some_and(|work| !(is_mending && is_waiting(work))) {
            return Some(now.saturating_add(self.config.suspect_after));
        }
        let settling = all.settling.get(&handle).map(|it| it.until);
        settling.filter(|&at| now < at)
    }

    /// Whether a sealed chunk that is to be opened is left to repair first: it was sealed with too
    /// few members, and somebody can make a copy, or does (`spec/replication.md` sections 13 and 16).
    fn is_repair_awaited(&mut self, subject: Subject) -> bool {
        let Subject::Chunk(handle) = subject else {
            return false;
        };
        let Some(&Mending { since, .. }) = self.open_chunks.mending.get(&handle) else {
            return false;
        };
        let age = self.now.elapsed.saturating_sub(since);
        let is_awaited = match self.repairs.running(handle).is_some() {
            true => age < self.config.dead_after,
            false => age < self.config.suspect_after && self.may_be_copied_now(handle),
        };
        if !is_awaited {
            self.open_chunks.mending.remove(&handle);
        }
        is_awaited
    }

    /// What a work waited for has come.
    fn go_on_with(&mut self, subject: Subject) {
        let now = self.now.elapsed;
        if let Some(work) = self.open_chunks.works.get_mut(&subject) {
            work.retry_at = work.retry_at.min(now);
            self.begin_attempt_if_due(subject);
        }
    }

    /// A full chunk whose seal waited until the work on the slot behind it was over.
    fn go_on_with_chunk_before(&mut self, subject: Subject) {
        if let Subject::Slot(file, index) = subject
            && let Some(file) = self.state.namespace.file(file)
            && let Some(full) = self.full_chunk_before(file, index)
        {
            self.go_on_with(Subject::Chunk(full));
        }
    }

    /// Tells those who have waited for long to ask again.
    fn release_waiting(&mut self, subject: Subject) {
        let now = self.now.elapsed;
        if let Some(work) = self.open_chunks.works.get_mut(&subject) {
            let due: Vec<Waiting> = work.waiting.extract_if(.., |it| it.until <= now).collect();
            let failure = self.not_yet(subject);
            for waiting in due {
                self.refuse(waiting.to, failure.clone());
            }
        }
    }

    /// What is told of a work that takes longer than anybody is held for.
    fn not_yet(&self, subject: Subject) -> Failure {
        let work = self.open_chunks.works.get(&subject);
        let attempt = work.and_then(|work| work.attempt.as_ref());
        match attempt.filter(|attempt| attempt.is_short()) {
            None => self.starting(),
            Some(attempt) => {
                let handle = attempt.plan().handle;
                let text = format!(
                    "too few members of chunk {handle} can go on with it: the others are waited for"
                );
                let wait = millis(self.config.heartbeat);
                Failure::new(Status::TooFewServers, text).retry_after(wait)
            }
        }
    }

    /// Primaries that don't say that they hold their lease are gone on without.
    fn look_after_grants(&mut self) {
        let now = self.now.elapsed;
        let mut late = Vec::new();
        let mut released = Vec::new();
        for handle in self.open_chunks.open.due(now) {
            let Some(open) = self.open_chunks.open.get_mut(&handle) else {
                continue;
            };
            if open.granted_by.is_some_and(|by| by <= now) {
                open.granted_by = None;
                late.push(handle);
            }
            released.extend(open.waiting.extract_if(.., |it| it.until <= now));
        }
        let failure = self.starting();
        for waiting in released {
            self.refuse(waiting.to, failure.clone());
        }
        for handle in late {
            self.go_on_without_primary(handle);
        }
    }

    /// A chunk's primary is dead, hangs, has started anew or holds no lease any more.
    fn go_on_without_primary(&mut self, handle: ChunkHandle) {
        let record = self.state.chunks.record(handle);
        if let Some(active) = record.and_then(|record| record.active.as_ref()) {
            let (version, primary) = (active.version, active.primary);
            self.trouble(handle, version, primary);
        }
    }

    /// A replica was read back and does not match: if it is one of an open chunk's members, that is its
    /// own word.
    pub(super) fn found_corrupt(
        &mut self,
        handle: ChunkHandle,
        version: ChunkVersion,
        server: ServerId,
    ) {
        let active = self.active(handle).filter(|it| it.version == version);
        let mut members = active.map(|it| it.members.iter()).into_iter().flatten();
        match members.any(|member| member.server == server) {
            true => self.doubt(handle, version, server),
            false => self.servers.mark_corrupt(handle, version, server),
        }
    }

    /// A member of an open chunk does not believe its own replica: that is no word of one against
    /// another, so it is left out at once (section 7), and readers are sent to others until then.
    fn doubt(&mut self, handle: ChunkHandle, version: ChunkVersion, server: ServerId) {
        self.servers.mark_corrupt(handle, version, server);
        let open = self
            .open_chunks
            .open
            .get_or_insert_with(handle, Open::default);
        // One that could not be spared says it in each version.
        if !open.doubtful.insert(server) {
            return;
        }
        // A change that runs and has decided nothing takes it along, any other is followed by one.
        let work = self.open_chunks.works.get_mut(&Subject::Chunk(handle));
        if let Some(attempt) = work.and_then(|work| work.attempt.as_mut()) {
            attempt.handle_doubt(server);
        }
        self.trouble(handle, version, server);
    }

    /// Something is wrong with an open chunk's chain: it goes on in another version.
    pub(super) fn trouble(&mut self, handle: ChunkHandle, version: ChunkVersion, blamed: ServerId) {
        let Some(active) = self.active(handle).filter(|it| it.version == version) else {
            return;
        };
        let subject = Subject::Chunk(handle);
        let is_known = self.open_chunks.works.contains_key(&subject);
        // In safe mode the work waits; what was reported isn't forgotten.
        if is_known || self.open_chunks.is_differing(handle) || self.is_read_only {
            return;
        }
        let memory = active.memory_allowed;
        let drain = false;
        self.begin_work(subject, Goal::Active { memory, drain });
        let (now, suspect_after) = (self.now.elapsed, self.config.suspect_after);
        let open = self
            .open_chunks
            .open
            .get_or_insert_with(handle, Open::default);
        let troubled = open.troubled;
        let again = troubled.is_some_and(|it| it.is_again(blamed, now, suspect_after));
        let waiting = std::mem::take(&mut open.waiting);
        let pause = self.pause_in_trouble(troubled);
        if let Some(work) = self.open_chunks.works.get_mut(&subject) {
            // No attempt has failed while it rests.
            (work.began, work.retry_at) = (now.saturating_add(pause), now.saturating_add(pause));
            work.blamed = blamed.is_some().then_some(Blamed {
                server: blamed,
                again,
            });
            work.waiting.extend(waiting);
        }
        self.begin_attempt_if_due(subject);
    }

    /// How long a chunk rests whose versions do not work one after the other: who is to blame may be one
    /// that can't be spared.
    fn pause_in_trouble(&self, troubled: Option<Troubled>) -> Duration {
        let times = troubled
            .filter(|it| !it.has_worked)
            .map_or(0, |it| it.times);
        match times.checked_sub(PROMPT_CHANGES) {
            None => Duration::ZERO,
            Some(doublings) => {
                let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
                let pause = self.pause().saturating_mul(factor);
                pause.min(self.config.dead_after)
            }
        }
    }

    pub(super) fn active(&self, handle: ChunkHandle) -> Option<&Configuration> {
        self.state.chunks.record(handle)?.active.as_ref()
    }

    fn now_ms(&self) -> u64 {
        elapsed_ms(self.now.elapsed)
    }

    /// The log has the word on a work's attempt.
    pub(super) fn change_logged(&mut self, subject: Subject, is_applied: bool) {
        let Some(work) = self.open_chunks.works.get_mut(&subject) else {
            return;
        };
        let decision = work.attempt.as_ref().and_then(VersionChange::decision);
        let decision = decision.cloned();
        let next = work.next.as_mut().and_then(|next| {
            let begun = next.begun.clone()?;
            Some((next.handle, begun, next.attempt.handle_log(is_applied)))
        });
        let actions = work
            .attempt
            .as_mut()
            .map(|attempt| attempt.handle_log(is_applied))
            .unwrap_or_default();
        let handle = work.handle;
        let for_records = work.is_for_records();
        let blamed = work.blamed.map(|blamed| blamed.server);
        if is_applied && let Some(Decision { outcome, .. }) = decision {
            match outcome {
                Outcome::Active(active) => self.activated(handle, &active, blamed, for_records),
                Outcome::Sealed { sealed, members } => {
                    self.open_chunks.leases.forget(handle);
                    self.await_settled(handle, &members);
                    let waiting = self.open_chunks.open.remove(&handle);
                    self.count_sealed(handle, sealed, &members);
                    if let Some(work) = self.open_chunks.works.get_mut(&subject) {
                        work.waiting
                            .extend(waiting.into_iter().flat_map(|it| it.waiting));
                    }
                }
            }
            self.open_chunks.set_unavailable(handle, false);
            self.open_chunks.set_differing(handle, false);
            self.open_chunks.bad_copies.remove(&handle);
        }
        if let Some((handle, begun, _)) = next.as_ref().filter(|_| is_applied) {
            self.activated(*handle, begun, None, true);
        }
        if let Some((.., actions)) = next {
            self.act_on(subject, Which::Next, actions);
        }
        self.act_on(subject, Which::Own, actions);
    }

    fn await_settled(&mut self, handle: ChunkHandle, members: &[Member]) {
        let (now, config) = (self.now.elapsed, &self.config);
        let (suspect_after, dead_after) = (config.suspect_after, config.dead_after);
        let record = self.state.chunks.record(handle);
        let wanted = record.map_or(0, |record| usize::from(record.replicas));
        let awaited = Settling {
            members: members.iter().map(|member| member.server).collect(),
            until: now.saturating_add(suspect_after),
        };
        self.open_chunks.settling.insert(handle, awaited);
        if members.len() < wanted {
            let mending = Mending {
                since: now,
                until: now.saturating_add(dead_after),
            };
            self.open_chunks.mending.insert(handle, mending);
        }
    }

    /// A version is active from now on; for trouble for which somebody was blamed, if anybody was. It
    /// takes records if the one before did, or somebody wants to append.
    fn activated(
        &mut self,
        handle: ChunkHandle,
        active: &Configuration,
        blamed: Option<ServerId>,
        for_records: bool,
    ) {
        let now = self.now.elapsed;
        let record = self.state.chunks.record(handle);
        let wanted = record.map_or(0, |record| usize::from(record.replicas));
        let is_short = active.members.len() < wanted;
        let all = &mut self.open_chunks;
        all.leases.activate(handle, active.version, is_short, now);
        let was_closed = all.open.get(&handle).is_none_or(Open::is_closed);
        let open = all.open.get_or_insert_with(handle, Open::default);
        let before = open.troubled.filter(|it| !it.has_worked);
        let troubled = blamed.is_some().then_some(Troubled {
            at: now,
            blamed,
            times: before.map_or(0, |it| it.times).saturating_add(1),
            has_worked: false,
        });
        let mut doubtful = std::mem::take(&mut open.doubtful);
        doubtful.retain(|server| active.members.iter().any(|it| it.server == *server));
        *open = Open {
            granted_by: Some(now.saturating_add(self.config.suspect_after)),
            troubled,
            records: match was_closed && !for_records {
                true => Records::None,
                false => Records::Taken,
            },
            doubtful,
            waiting: std::mem::take(&mut open.waiting),
            ..Open::default()
        };
    }

    /// A work has come to its end: those who wait for the chunk begin anew, with what it is now.
    fn end_work(&mut self, subject: Subject) {
        let Some(work) = self.open_chunks.end(subject) else {
            return;
        };
        self.go_on_with_chunk_before(subject);
        for waiting in work.waiting {
            self.open_for(waiting);
        }
        if let Subject::Chunk(handle) = subject {
            self.leave_out_doubtful(handle);
        }
        self.go_on_with_errands(subject, work.file);
        if let Subject::Chunk(handle) = subject {
            self.try_again_if_needed(handle);
        }
    }

    /// A member that said so while the version was being changed may be in the new one, too.
    fn leave_out_doubtful(&mut self, handle: ChunkHandle) {
        let Some(record) = self.state.chunks.record(handle) else {
            return;
        };
        let fewest = usize::from(self.config.fewest_replicas(record.replicas));
        let Some(active) = record
            .active
            .as_ref()
            .filter(|it| it.members.len() > fewest)
        else {
            return;
        };
        let mut members = active.members.iter().map(|member| member.server);
        let doubtful = members.find(|&server| self.open_chunks.is_doubtful(handle, server));
        if let Some(server) = doubtful {
            self.trouble(handle, active.version, server);
        }
    }

    /// A work can't come to its end now.
    fn fail_work(&mut self, subject: Subject, failure: &Failure) {
        let Some(work) = self.open_chunks.end(subject) else {
            return;
        };
        self.go_on_with_chunk_before(subject);
        for waiting in work.waiting {
            self.refuse(waiting.to, failure.clone());
        }
        if let Some((request, to, _)) = work.request {
            self.refuse_request(to, request, failure.clone());
        }
        if let Subject::Chunk(handle) = subject
            && !self.open_chunks.is_unavailable(handle)
        {
            self.leave_out_doubtful(handle);
        }
        self.fail_errands(subject, failure);
        self.go_on_with_errands(subject, work.file);
        if let Subject::Chunk(handle) = subject {
            self.try_again_if_needed(handle);
        }
    }

    /// A chunk has left the table.
    pub(super) fn forget_open(&mut self, handle: ChunkHandle) {
        let all = &mut self.open_chunks;
        all.leases.forget(handle);
        all.unavailable.remove(&handle);
        all.differing.remove(&handle);
        all.bad_copies.remove(&handle);
        all.settling.remove(&handle);
        all.mending.remove(&handle);
        all.again.forget(handle);
        let waiting = all.open.remove(&handle).map(|open| open.waiting);
        for waiting in waiting.unwrap_or_default() {
            self.refuse(waiting.to, Status::NotFound.into());
        }
        self.go_on_with_errands(Subject::Chunk(handle), FileId::NONE);
    }

    /// How long a client is held: a primary that hangs is found out, and a version without it begun.
    fn hold(&self) -> Duration {
        self.config.suspect_after.saturating_mul(3).min(HOLD_MAX)
    }

    /// A waiter for the log's word on a work.
    const fn waiter_of(subject: Subject) -> Waiter {
        Waiter::VersionChange(subject)
    }
}

/// Puts a chunk in, or takes it out; whether that changed anything.
fn put(chunks: &mut BTreeSet<ChunkHandle>, handle: ChunkHandle, is_in: bool) -> bool {
    match is_in {
        true => chunks.insert(handle),
        false => chunks.remove(&handle),
    }
}

fn elapsed_ms(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}
