//! Chunks that are tried again without anybody asking (`spec/replication.md` sections 3.7, 8 and 16):
//! unavailable ones with a member that can be heard, and sealed ones of which something is left
//! prepared by a seal that was given up.
//!
//! Each has a pause of its own that doubles, and few begin at a time: however many there are after a
//! start, or when a server comes back, they have their turn one after the other. Whether a chunk is
//! one of them is found out whenever a work for it ends and a server reports what it has prepared,
//! and once more when its time has come.

use std::time::Duration;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, ServerId};
use sarsen_protocol::message::HeldFlags;

use super::begin::unavailable;
use super::{Goal, Machine, Subject, Then, VersionChange};
use crate::core::chunk_table::ChunkRecord;
use crate::core::diagnosis::{Need, NoPlan};
use crate::core::replica::{Replica, Source};
use crate::core::timed::{Due, Timed};

/// How many chunks begin in a heartbeat at the most.
const BEGUN_MAX: usize = 16;

/// The longest pause, in `dead_after`.
const PAUSE_MAX: u32 = 16;

/// Why a chunk is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Unavailable,
    LeftPrepared,
}

#[derive(Clone, Copy, Debug)]
struct Again {
    since: Duration,
    /// When; none while a work for it runs, whose end sets it.
    at: Option<Duration>,
    /// How long was waited last.
    pause: Duration,
    /// One holder would have been enough the last time, and none counted.
    is_in_vain: bool,
    /// A person waits for the word whether it can be sealed again.
    is_for_a_person: bool,
}

impl Due for Again {
    fn due(&self) -> Option<Duration> {
        self.at
    }
}

/// All of them, and how many have begun lately.
#[derive(Debug)]
pub(super) struct Agains {
    chunks: Timed<ChunkHandle, Again>,
    begun: usize,
    /// From when on as many may begin once more.
    renewed_at: Duration,
}

impl Agains {
    pub(super) const fn new() -> Self {
        Self {
            chunks: Timed::new(),
            begun: 0,
            renewed_at: Duration::ZERO,
        }
    }

    pub(super) fn next_due(&mut self) -> Option<Duration> {
        let at = self.chunks.next_due()?;
        Some(match self.begun < BEGUN_MAX {
            true => at,
            false => at.max(self.renewed_at),
        })
    }

    pub(super) fn forget(&mut self, handle: ChunkHandle) {
        if self.chunks.contains_key(&handle) {
            self.chunks.remove(&handle);
        }
    }

    /// None of the holders of a chunk counts, where one would have been enough.
    pub(super) fn note_in_vain(&mut self, handle: ChunkHandle) {
        if let Some(again) = self.chunks.get_mut(&handle) {
            again.is_in_vain = true;
        }
    }

    const fn may_begin(&self) -> bool {
        self.begun < BEGUN_MAX
    }

    fn renew(&mut self, now: Duration, heartbeat: Duration) {
        if now >= self.renewed_at {
            self.begun = 0;
            self.renewed_at = now.saturating_add(heartbeat);
        }
    }
}

impl Machine {
    /// A work for a chunk has ended.
    pub(super) fn try_again_if_needed(&mut self, handle: ChunkHandle) {
        let (now, dead_after) = (self.now.elapsed, self.config.dead_after);
        let (at, pause) = match self.cause_to_try(handle) {
            None => return self.open_chunks.again.forget(handle),
            Some(Cause::Unavailable) => (now.saturating_add(dead_after), dead_after),
            Some(Cause::LeftPrepared) => (now, dead_after / 2),
        };
        let new = || Again {
            since: now,
            at: Some(at),
            pause,
            is_in_vain: false,
            is_for_a_person: false,
        };
        let chunks = &mut self.open_chunks.again.chunks;
        let again = chunks.get_or_insert_with(handle, new);
        again.at.get_or_insert(now);
        self.try_again();
    }

    /// A server has reported that it has a seal prepared that the log does not know.
    pub(super) fn left_prepared(&mut self, handle: ChunkHandle) {
        // What a work's own members report is no news.
        let is_changing = self.open_chunks.works.contains_key(&Subject::Chunk(handle));
        if !is_changing {
            self.hasten(handle);
        }
        self.try_again_if_needed(handle);
    }

    /// A server is back.
    pub(super) fn hasten_what_is_left_on(&mut self, server: ServerId) {
        let handles = self.open_chunks.again.chunks.keys().copied();
        let is_its = |handle: &ChunkHandle| {
            let mut left = self.left_of(*handle);
            left.any(|replica| replica.server == server)
        };
        let its: Vec<ChunkHandle> = handles.filter(is_its).collect();
        its.into_iter().for_each(|handle| self.hasten(handle));
        self.try_again();
    }

    /// A person is refused until it is known whether a chunk can be sealed again from what is left prepared:
    /// that is tried as soon as one holder is enough.
    pub(super) fn try_for_a_person(&mut self, handle: ChunkHandle) {
        if let Some(again) = self.open_chunks.again.chunks.get_mut(&handle) {
            again.is_for_a_person = true;
        }
        if self.may_be_sealed_again(handle) && self.is_only_prepared(handle) {
            self.hasten(handle);
            self.try_again();
        }
    }

    fn hasten(&mut self, handle: ChunkHandle) {
        let now = self.now.elapsed;
        if let Some(again) = self.open_chunks.again.chunks.get_mut(&handle) {
            again.at = again.at.map(|at| at.min(now));
            again.is_in_vain = false;
        }
    }

    /// Begins what has come due, as much as may begin at a time.
    pub(super) fn try_again(&mut self) {
        let (now, heartbeat) = (self.now.elapsed, self.config.heartbeat);
        if !self.is_serving() || self.check_writable().is_err() {
            return;
        }
        self.open_chunks.again.renew(now, heartbeat);
        if !self.open_chunks.again.may_begin() {
            return;
        }
        for handle in self.open_chunks.again.chunks.due(now) {
            let Some(cause) = self.cause_to_try(handle) else {
                self.open_chunks.again.forget(handle);
                continue;
            };
            let is_tried = self.open_chunks.works.contains_key(&Subject::Chunk(handle));
            let can_be_tried = self.can_be_tried(handle, cause);
            if can_be_tried && !is_tried && !self.open_chunks.again.may_begin() {
                break;
            }
            self.put_off(handle, is_tried);
            if can_be_tried && !is_tried {
                self.open_chunks.again.begun += 1;
                match cause {
                    Cause::Unavailable => self.go_on_without_primary(handle),
                    Cause::LeftPrepared => {
                        self.begin_change(Subject::Chunk(handle), Goal::Sealed(Then::Nothing));
                    }
                }
            }
        }
    }

    fn put_off(&mut self, handle: ChunkHandle, is_tried: bool) {
        let (now, longest) = (self.now.elapsed, self.config.dead_after * PAUSE_MAX);
        let Some(again) = self.open_chunks.again.chunks.get_mut(&handle) else {
            return;
        };
        again.at = None;
        if !is_tried {
            again.pause = again.pause.saturating_mul(2).min(longest);
            again.at = Some(now.saturating_add(again.pause));
        }
    }

    fn cause_to_try(&self, handle: ChunkHandle) -> Option<Cause> {
        let all = &self.open_chunks;
        match self.active(handle) {
            Some(_) => all.is_unavailable(handle).then_some(Cause::Unavailable),
            None => self.left_of(handle).next().map(|_| Cause::LeftPrepared),
        }
    }

    /// Replicas with a seal prepared above the one that the log has.
    pub(in crate::core::machine) fn left_of(
        &self,
        handle: ChunkHandle,
    ) -> impl Iterator<Item = &Replica> {
        let record = self.state.chunks.record(handle);
        let sealed = record.and_then(|record| record.at_rest());
        let version = sealed.map_or(ChunkVersion(u64::MAX), |sealed| sealed.version);
        let replicas = self.servers.replicas(handle).iter();
        replicas.filter(move |replica| {
            replica.source == Source::Reported
                && replica.flags.has(HeldFlags::PREPARED)
                && replica.version > version
        })
    }

    /// Whether somebody can be heard who may make it better.
    fn can_be_tried(&self, handle: ChunkHandle, cause: Cause) -> bool {
        match cause {
            // That takes a person.
            _ if self.open_chunks.is_differing(handle) => false,
            Cause::Unavailable => {
                let members = self.active(handle).map(|active| active.members.iter());
                let mut members = members.into_iter().flatten();
                members.any(|member| self.is_usable(member.server))
            }
            Cause::LeftPrepared => self.is_left_prepared(handle),
        }
    }

    /// Whether a server that can be heard has a seal prepared above the one that the log has.
    pub(super) fn is_left_prepared(&self, handle: ChunkHandle) -> bool {
        let mut left = self.left_of(handle);
        left.any(|replica| self.is_usable(replica.server))
    }

    /// Whether a chunk may yet be sealed again from what is left prepared of it: that was not tried, or
    /// could not be with one holder alone. Who prepared the best copy that there was for a person, and
    /// has an older seal under it, never counts.
    pub(super) fn may_be_sealed_again(&self, handle: ChunkHandle) -> bool {
        let all = &self.open_chunks;
        let again = all.again.chunks.get(&handle);
        let is_in_vain = again.is_some_and(|it| it.is_in_vain) || all.is_differing(handle);
        !is_in_vain && self.is_left_prepared(handle)
    }

    /// Whether what is left prepared is all that there is of a sealed chunk: it is known since
    /// `dead_after`, nobody can give a copy or nobody can take one, and nobody is waited for who may tell of
    /// one (section 3.7), for a person not as long as repair does.
    pub(super) fn is_only_prepared(&self, handle: ChunkHandle) -> bool {
        let (now, dead_after) = (self.now.elapsed, self.config.dead_after);
        let again = self.open_chunks.again.chunks.get(&handle);
        let is_old = again.is_some_and(|it| now >= it.since.saturating_add(dead_after));
        let record = self.state.chunks.record(handle);
        let record = record.filter(|record| record.at_rest().is_some());
        is_old
            && record.is_some_and(|record| {
                let sources = self.servers.sources(handle, record, now, dead_after);
                let is_beyond = sources.is_empty() || self.can_nobody_take_a_copy(handle, record);
                let is_for_a_person = again.is_some_and(|it| it.is_for_a_person);
                let sooner = match is_for_a_person {
                    true => self.config.repair_grace,
                    false => Duration::ZERO,
                };
                let mut in_doubt = self.examiner().in_doubt().into_values();
                is_beyond && in_doubt.all(|until| now >= until.saturating_sub(sooner))
            })
    }

    /// Whether a chunk is short of replicas, nobody is waited for who has one, and there is no server to
    /// make another: one that was left prepared is replaced only when the log's version is above that.
    fn can_nobody_take_a_copy(&self, handle: ChunkHandle, record: &ChunkRecord) -> bool {
        let examiner = self.examiner();
        let need = examiner.need(handle, record, &examiner.in_doubt());
        let (streams, tried) = (self.repairs.streams(), self.repairs.tried(handle));
        matches!(need, Need::Copy { .. })
            && examiner.plan(handle, record, streams, &tried) == Err(NoPlan::Nobody)
    }

    /// Whether all that is done for a chunk is to ask whether anybody is there, and nobody was heard of
    /// yet: once more for one that is unavailable, or to open one at rest.
    pub(super) fn is_only_tried(&self, handle: ChunkHandle) -> bool {
        let work = self.open_chunks.works.get(&Subject::Chunk(handle));
        let is_open = self.active(handle).is_some();
        (!is_open || self.open_chunks.is_unavailable(handle))
            && work.is_some_and(|work| {
                let attempt = work.attempt.as_ref();
                work.request.is_none()
                    && work.next.is_none()
                    && attempt.is_none_or(VersionChange::has_heard_nobody)
            })
    }

    /// Gives up such a try.
    pub(super) fn give_up_try(&mut self, handle: ChunkHandle) {
        if self.is_only_tried(handle)
            && let Some(work) = self.open_chunks.end(Subject::Chunk(handle))
        {
            let failure = match self.active(handle) {
                Some(_) => unavailable(handle),
                None => self.starting(),
            };
            for waiting in work.waiting {
                self.refuse(waiting.to, failure.clone());
            }
        }
    }
}
