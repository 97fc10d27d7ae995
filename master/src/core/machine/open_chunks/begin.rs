//! Attempts begin, act, and are given up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sarsen_protocol::id::{ChunkHandle, FileId, ServerId, SessionId};
use sarsen_protocol::message::HeldFlags;
use sarsen_protocol::status::Status;

use super::{Goal, Machine, Next, RETRY_MIN, Subject, Then, Which, Work};
use crate::core::action::Failure;
use crate::core::chunk_table::Sealed;
use crate::core::command::chunks::{Activation, ChunkSealed, Configuration, Member, PossibleLoss};
use crate::core::command::{self, Command};
use crate::core::machine::changes::Asked;
use crate::core::machine::{Waiter, millis};
use crate::core::placement::choose;
use crate::core::replica::{Replica, Source, Standing};
use crate::core::version_change::VersionChange;
use crate::core::version_change::words::{
    Accepted, Action, Base, Create, Decision, End, Failure as Why, Fresh, Outcome, Patience, Plan,
};

impl Machine {
    /// Begins a work, unless there is one.
    pub(super) fn begin_work(&mut self, subject: Subject, goal: Goal) {
        let now = self.now.elapsed;
        let handle = match subject {
            Subject::Chunk(handle) => handle,
            Subject::Slot(..) => ChunkHandle::NONE,
        };
        let file = match subject {
            Subject::Chunk(handle) => self.state.chunks.record(handle).map(|record| record.file),
            Subject::Slot(file, _) => Some(file),
        };
        let file = file.unwrap_or_default();
        self.open_chunks.begin(subject, file, || Work {
            goal,
            file,
            began: now,
            handle,
            attempt: None,
            next: None,
            failed: Vec::new(),
            failed_next: Vec::new(),
            lost: BTreeMap::new(),
            excused: BTreeSet::new(),
            blamed: None,
            retry_at: now,
            waiting: Vec::new(),
            request: None,
        });
    }

    /// Makes a work's next attempt, if none runs and it is time.
    pub(super) fn begin_attempt_if_due(&mut self, subject: Subject) {
        let now = self.now.elapsed;
        let Some(work) = self.open_chunks.works.get(&subject) else {
            return;
        };
        let goal = work.goal;
        if work.attempt.is_some() || work.next.is_some() || now < work.retry_at {
            return;
        }
        if self.is_wanted_by_nobody(subject) {
            return self.end_work(subject);
        }
        if self.is_read_only {
            return self.fail_work(subject, &Status::ReadOnly.into());
        }
        if !self.is_serving() {
            return self.retry_later(subject);
        }
        if matches!(goal, Goal::Active { .. }) && self.is_repair_awaited(subject) {
            return self.retry_later(subject);
        }
        // Two versions, and two handles: a seal may bring a next chunk along.
        self.reserve_ranges(2);
        if self.check_writable().is_err() || !self.allocations.has(2) {
            return self.retry_later(subject);
        }
        let begun = match goal {
            Goal::Sealed(Then::Next) => self.begin_next(subject),
            _ => self.begin_own(subject),
        };
        if let Err(failure) = begun {
            self.fail_work(subject, &failure);
        }
    }

    /// Whether a work is to open what no client waits for any more: what is open has to go on, but
    /// what is at rest may stay so.
    fn is_wanted_by_nobody(&self, subject: Subject) -> bool {
        let is_open = match subject {
            Subject::Chunk(handle) => self.active(handle).is_some(),
            Subject::Slot(..) => false,
        };
        let work = self.open_chunks.works.get(&subject);
        !is_open
            && work.is_some_and(|work| {
                matches!(work.goal, Goal::Active { .. }) && work.waiting.is_empty()
            })
    }

    /// How long a work rests between attempts.
    pub(super) fn pause(&self) -> Duration {
        (self.config.heartbeat / 4).max(RETRY_MIN)
    }

    fn retry_later(&mut self, subject: Subject) {
        let at = self.now.elapsed.saturating_add(self.pause());
        if let Some(work) = self.open_chunks.works.get_mut(&subject) {
            work.retry_at = at;
        }
    }

    /// The attempt of a work's own subject.
    fn begin_own(&mut self, subject: Subject) -> Result<(), Failure> {
        let Some(work) = self.open_chunks.works.get(&subject) else {
            return Ok(());
        };
        let (goal, failed, blamed) = (work.goal, servers_of(&work.failed), work.blamed);
        let (now, dead_after) = (self.now.elapsed, self.config.dead_after);
        let mut hopeless = work.failed.clone();
        hopeless.retain(|(_, at)| {
            let is_old = now >= work.began.saturating_add(dead_after);
            is_old && now < at.saturating_add(dead_after)
        });
        let is_early = self.now.elapsed < work.began.saturating_add(self.config.suspect_after);
        let (handle, base, replicas) = match subject {
            Subject::Chunk(handle) => {
                let record = self.state.chunks.record(handle);
                let record = record.ok_or(Status::NotFound)?;
                let base = self.base_of(handle, goal, &failed)?;
                (handle, base, record.replicas)
            }
            Subject::Slot(file, index) => {
                let fresh = self.fresh(file, index, &failed)?;
                let handle = self.allocations.draw_handle();
                let replicas = self.state.namespace.file(file).map_or(1, |it| it.replicas);
                (handle, Base::Fresh(fresh), replicas)
            }
        };
        // Of a chunk that was sealed a moment ago its holders have not told yet.
        let mut fewest = usize::from(self.config.fewest_replicas(replicas));
        if let Base::Sealed { holders, .. } = &base
            && is_early
            && (holders.len() < fewest || self.is_any_awaited(handle, holders))
        {
            self.retry_later(subject);
            return Ok(());
        }
        if goal == Goal::Sealed(Then::Nothing) && self.is_only_prepared(handle) {
            fewest = 1;
        }
        let sessions_end = self.sessions_end();
        let (end, drain) = match goal {
            Goal::Active { memory, drain } => {
                let end = End::Active {
                    memory_allowed: memory,
                    sessions_end,
                };
                (end, drain)
            }
            Goal::Sealed(then) => {
                let len = match then {
                    Then::Cut { len, .. } => Some(len),
                    Then::Nothing | Then::Next => None,
                };
                (End::Sealed { len, sessions_end }, true)
            }
            Goal::Accepted => {
                let len = None;
                (End::Sealed { len, sessions_end }, false)
            }
        };
        // That of a seal with a next chunk was drawn with the next one's.
        let next = self.open_chunks.works.get(&subject);
        let next = next.and_then(|work| work.next.as_ref());
        let version = match next.map(|next| next.seal_version) {
            Some(version) => version,
            None => self.allocations.draw_version(),
        };
        let plan = Plan {
            handle,
            version,
            base,
            end,
            drain,
            blamed,
            doubtful: self.open_chunks.doubtful(handle),
            failed,
            hopeless: servers_of(&hopeless),
            min_replicas: fewest,
            patience: self.patience_of_changes(),
        };
        let now_ms = self.now_ms();
        let (mut attempt, actions) = VersionChange::start(plan, now_ms);
        let mut missed = attempt.asked();
        missed.retain(|server| !self.is_connected(*server));
        let all = &mut self.open_chunks;
        all.attempts.insert(handle, (subject, Which::Own));
        if let Some(work) = all.works.get_mut(&subject) {
            for server in missed {
                attempt.handle_lost(server, *work.lost.entry(server).or_insert(now_ms));
            }
            work.handle = handle;
            work.attempt = Some(attempt);
        }
        self.act_on(subject, Which::Own, actions);
        Ok(())
    }

    /// Has servers make the chunk behind a full one; the seal follows when they have.
    fn begin_next(&mut self, subject: Subject) -> Result<(), Failure> {
        let Subject::Chunk(full) = subject else {
            return Err(Status::Internal.into());
        };
        let record = self.state.chunks.record(full).ok_or(Status::NotFound)?;
        let (file, index, replicas) = (record.file, record.index + 1, record.replicas);
        let next = self.state.namespace.file(file);
        if next.is_some_and(|file| file.slot(index).is_some()) {
            // It was told to be full before, and is not the last one any more.
            if let Some(work) = self.open_chunks.works.get_mut(&subject) {
                work.goal = Goal::Sealed(Then::Nothing);
            }
            return self.begin_own(subject);
        }
        if self
            .open_chunks
            .works
            .contains_key(&Subject::Slot(file, index))
        {
            // A chunk is being made for that slot already, for who writes there.
            self.retry_later(subject);
            return Ok(());
        }
        if index as usize >= command::SLOTS_MAX {
            return Err(Failure::new(
                Status::TooLarge,
                "the file has all the chunks it may have",
            ));
        }
        let memory = record.active.as_ref().is_some_and(|it| it.memory_allowed);
        let work = self.open_chunks.works.get(&subject);
        let failed = work.map(|work| [servers_of(&work.failed_next), servers_of(&work.failed)]);
        let failed = failed.unwrap_or_default().concat();
        let fresh = self.fresh(file, index, &failed)?;
        let handle = self.allocations.draw_handle();
        let plan = Plan {
            handle,
            version: self.allocations.draw_version(),
            base: Base::Fresh(fresh),
            end: End::Active {
                memory_allowed: memory,
                sessions_end: self.sessions_end(),
            },
            drain: false,
            blamed: None,
            doubtful: Vec::new(),
            failed,
            hopeless: Vec::new(),
            min_replicas: usize::from(self.config.fewest_replicas(replicas)),
            patience: self.patience_of_changes(),
        };
        let (attempt, actions) = VersionChange::start(plan, self.now_ms());
        let seal_version = self.allocations.draw_version();
        let all = &mut self.open_chunks;
        all.attempts.insert(handle, (subject, Which::Next));
        if let Some(work) = all.works.get_mut(&subject) {
            work.next = Some(Next {
                handle,
                index,
                seal_version,
                attempt,
                begun: None,
            });
        }
        self.act_on(subject, Which::Next, actions);
        Ok(())
    }

    fn patience_of_changes(&self) -> Patience {
        Patience {
            suspect_after_ms: u64::from(millis(self.config.suspect_after)),
            dead_after_ms: u64::from(millis(self.config.dead_after)),
        }
    }

    /// No session below this one is open.
    fn sessions_end(&self) -> SessionId {
        let first = self.state.sessions.iter().next();
        first.map_or(self.state.sessions.next_id(), |(id, _)| id)
    }

    /// Where an attempt for a chunk that the log knows starts from.
    fn base_of(
        &self,
        handle: ChunkHandle,
        goal: Goal,
        failed: &[ServerId],
    ) -> Result<Base, Failure> {
        let record = self.state.chunks.record(handle).ok_or(Status::NotFound)?;
        if goal == Goal::Accepted {
            return Ok(Base::Accepted(Accepted {
                version: record.version(),
                sealed: record.at_rest(),
                copies: self.old_copies(handle, record)?,
            }));
        }
        if let Some(active) = &record.active {
            return Ok(Base::Open(active.clone()));
        }
        let sealed = record.sealed.ok_or(Status::NotFound)?;
        let (now, dead_after) = (self.now.elapsed, self.config.dead_after);
        // A seal that was given up lies beside the sealed file, which is there still.
        let is_good = |replica: &Replica| match replica.standing(record) {
            Standing::Good => !replica.flags.has(HeldFlags::UNSYNCED),
            Standing::Ahead => replica.flags.has(HeldFlags::PREPARED),
            _ => false,
        };
        let good = self.servers.live_replicas(handle, now, dead_after);
        let good = good.filter(|replica| {
            replica.source == Source::Reported && is_good(replica) && self.is_usable(replica.server)
        });
        let mut holders: Vec<(bool, Member)> = good
            .filter_map(|replica| {
                let is_ahead = replica.standing(record) == Standing::Ahead;
                Some((is_ahead, self.member(replica)?))
            })
            .collect();
        holders.sort_by_key(|(is_ahead, holder)| (holder.server, *is_ahead));
        holders.dedup_by_key(|(_, holder)| holder.server);
        let turn = usize::try_from(handle.0).unwrap_or(0) % holders.len().max(1);
        holders.rotate_left(turn);
        // Who failed before is asked last: it may be more than are needed. So is who was left prepared:
        // that may be of an older copy, for a loss that was accepted and not logged.
        holders.sort_by_key(|(is_ahead, holder)| (failed.contains(&holder.server), *is_ahead));
        holders.truncate(usize::from(record.replicas));
        let holders = holders.into_iter().map(|(_, holder)| holder).collect();
        Ok(Base::Sealed { sealed, holders })
    }

    fn replica_on(&self, handle: ChunkHandle, server: ServerId) -> Option<&Replica> {
        let mut replicas = self.servers.replicas(handle).iter();
        replicas.find(|replica| replica.server == server && replica.source == Source::Reported)
    }

    /// Whose a replica is, in the start that its directory is in.
    pub(super) fn member(&self, replica: &Replica) -> Option<Member> {
        let directory = self.state.servers.directories.get(&replica.directory)?;
        Some(Member {
            server: replica.server,
            directory: replica.directory,
            start_number: directory.start_number,
        })
    }

    /// Servers for a chunk that is made.
    fn fresh(&mut self, file: FileId, index: u32, failed: &[ServerId]) -> Result<Fresh, Failure> {
        let record = self.state.namespace.file(file).ok_or(Status::NotFound)?;
        let (wanted, chunk_size) = (record.replicas, record.chunk_size);
        let fewest = self.config.fewest_replicas(wanted);
        let mut candidates = self.candidates(failed);
        if candidates.len() < usize::from(fewest) {
            candidates = self.candidates(&[]);
        }
        if candidates.len() < usize::from(fewest) {
            return Err(self.too_few_servers(fewest, candidates.len(), &[]));
        }
        let candidates = self.without_suspects(candidates, wanted);
        let servers = choose(&candidates, usize::from(wanted), &mut self.chance);
        let members: Vec<Member> = servers
            .iter()
            .filter_map(|&server| self.emptiest_directory(server))
            .collect();
        if members.len() < usize::from(fewest) {
            return Err(self.starting());
        }
        for member in &members {
            self.servers.count_placement(member.server);
        }
        Ok(Fresh {
            members,
            create: Create {
                file,
                index,
                chunk_size,
            },
        })
    }

    fn emptiest_directory(&self, server: ServerId) -> Option<Member> {
        let room = u64::from(self.state.cluster.chunk_size);
        let (now, dead_after) = (self.now.elapsed, self.config.dead_after);
        let directory = self
            .servers
            .emptiest_directory(server, room, now, dead_after)?;
        let start = self.state.servers.directories.get(&directory)?;
        Some(Member {
            server,
            directory,
            start_number: start.start_number,
        })
    }

    // What attempts want.

    pub(super) fn act_on(&mut self, subject: Subject, which: Which, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Order { server, order } => {
                    self.order_change(subject, which, server, &order);
                }
                Action::Log(decision) => self.log_change(subject, which, &decision),
                Action::Done if which == Which::Own => self.end_work(subject),
                Action::Done => {}
                Action::GivenUp(why) => self.given_up(subject, which, why),
            }
        }
    }

    fn log_change(&mut self, subject: Subject, which: Which, decision: &Decision) {
        // The log may have turned out to be lost in part since the attempt began.
        if let Err(failure) = self.check_writable() {
            return self.fail_work(subject, &failure);
        }
        let Some(work) = self.open_chunks.works.get_mut(&subject) else {
            return;
        };
        if which == Which::Next {
            if let (Some(next), Outcome::Active(active)) = (&mut work.next, &decision.outcome) {
                next.begun = Some(active.clone());
            }
            // The full one is sealed now; both are one entry.
            if let Err(failure) = self.begin_own(subject) {
                self.fail_work(subject, &failure);
            }
            return;
        }
        let (handle, request) = (work.handle, work.request);
        let then = match (&work.goal, &work.next) {
            (Goal::Sealed(Then::Cut { file, size, .. }), _) => command::Then::Cut {
                file: *file,
                size: *size,
            },
            (Goal::Sealed(Then::Next), Some(next)) => {
                let file = self.state.chunks.record(handle).map(|record| record.file);
                match (&next.begun, file) {
                    (Some(begun), Some(file)) => command::Then::Next(Activation {
                        handle: next.handle,
                        file,
                        index: next.index,
                        configuration: begun.clone(),
                    }),
                    _ => command::Then::Nothing,
                }
            }
            _ => command::Then::Nothing,
        };
        if let Some(loss) = decision.loss {
            let loss = PossibleLoss {
                handle,
                version: loss.version,
                serial: loss.serial,
                cause: loss.cause,
            };
            self.append(loss.into());
        }
        let mut waiters = vec![Self::waiter_of(subject)];
        let command: Command = match &decision.outcome {
            Outcome::Active(active) => match self.activation(subject, handle, active) {
                Some(activation) => activation.into(),
                None => return self.fail_work(subject, &Status::NotFound.into()),
            },
            Outcome::Sealed { sealed, .. } => ChunkSealed {
                handle,
                version: sealed.version,
                len: sealed.len,
                crc: sealed.crc,
                then,
            }
            .into(),
        };
        let request = request.map(|(request, to, asked)| {
            let asked = match (asked, &decision.outcome) {
                (Asked::AcceptLoss(handle, _), Outcome::Sealed { members, .. }) => {
                    let holder = members.first().map(|it| it.server);
                    Asked::AcceptLoss(handle, holder.unwrap_or_default())
                }
                (asked, _) => asked,
            };
            waiters.push(Waiter::Request(to, asked));
            request
        });
        if let Some(work) = self.open_chunks.works.get_mut(&subject) {
            work.request = None;
        }
        self.append_for(command, request, waiters);
    }

    fn activation(
        &self,
        subject: Subject,
        handle: ChunkHandle,
        active: &Configuration,
    ) -> Option<Activation> {
        let (file, index) = match subject {
            Subject::Slot(file, index) => (file, index),
            Subject::Chunk(handle) => {
                let record = self.state.chunks.record(handle)?;
                (record.file, record.index)
            }
        };
        Some(Activation {
            handle,
            file,
            index,
            configuration: active.clone(),
        })
    }

    /// An attempt came to nothing: the log says what it said before.
    fn given_up(&mut self, subject: Subject, which: Which, why: Why) {
        let Some(work) = self.open_chunks.works.get_mut(&subject) else {
            return;
        };
        let (own, next) = (work.attempt.take(), work.next.take());
        let fewest = own.as_ref().map(|own| own.plan().min_replicas);
        if let Some(own) = own {
            work.lost.extend(own.lost());
        }
        let (goal, handle) = (work.goal, work.handle);
        self.open_chunks.attempts.remove(&handle);
        if let Some(next) = next {
            self.open_chunks.attempts.remove(&next.handle);
        }
        if goal == Goal::Accepted {
            return self.acceptance_given_up(subject, handle, &why);
        }
        match why {
            Why::Members(faults) => {
                let mut servers: Vec<ServerId> = faults.iter().map(|it| it.0).collect();
                // The first time it is excused.
                servers.retain(|it| !(work.lost.contains_key(it) && work.excused.insert(*it)));
                self.open_chunks.set_unavailable(handle, false);
                self.note_failed(subject, which, servers.into_iter());
            }
            Why::Damaged(servers) => {
                for &server in &servers {
                    let version = self.replica_on(handle, server).map(|it| it.version);
                    if let Some(version) = version {
                        self.servers.mark_corrupt(handle, version, server);
                    }
                }
                self.note_failed(subject, which, servers.into_iter());
            }
            Why::Corrupt(_) => {
                self.open_chunks.set_differing(handle, true);
                let text = format!(
                    "the members of chunk {handle} differ, and none has a block that does not \
                     match: it stays as it is, see `sarsen fsck`"
                );
                return self.fail_work(subject, &Failure::new(Status::Corrupt, text));
            }
            Why::TooFew => {
                if fewest.is_some_and(|fewest| fewest <= 1) {
                    self.open_chunks.again.note_in_vain(handle);
                }
                let text = format!(
                    "chunk {handle} has too few good replicas on live servers to be changed: it \
                     is opened when it is repaired"
                );
                let wait = millis(self.config.heartbeat);
                let failure = Failure::new(Status::TooFewServers, text).retry_after(wait);
                return self.fail_work(subject, &failure);
            }
            // What passes may pass, and a member that has restarted takes another version only.
            Why::Unavailable if self.may_become_available(subject) => {}
            Why::Unavailable => {
                self.open_chunks.set_unavailable(handle, true);
                return self.fail_work(subject, &unavailable(handle));
            }
            Why::NotApplied => {
                let failure = self.starting();
                return self.fail_work(subject, &failure);
            }
        }
        match goal {
            // Its request holds the file closed.
            Goal::Sealed(Then::Cut { .. }) if !self.may_take_longer(subject) => {
                let text = format!("the copies of chunk {handle} could not be cut for now");
                self.fail_work(subject, &Failure::new(Status::TooFewServers, text));
            }
            _ => self.retry_later(subject),
        }
    }

    /// Whether a work is younger than `dead_after`.
    fn may_take_longer(&self, subject: Subject) -> bool {
        let work = self.open_chunks.works.get(&subject);
        work.is_some_and(|work| {
            self.now.elapsed < work.began.saturating_add(self.config.dead_after)
        })
    }

    /// Whether a chunk of which nobody counts may be tried again: a member is there, and it has not
    /// been tried for long (section 8).
    fn may_become_available(&self, subject: Subject) -> bool {
        let Subject::Chunk(handle) = subject else {
            return false;
        };
        let is_one_there = self.active(handle).is_some_and(|active| {
            let mut members = active.members.iter();
            members.any(|member| self.is_usable(member.server))
        });
        // One that is tried again is not tried for long.
        let is_tried_again = self.open_chunks.is_unavailable(handle);
        is_one_there && !is_tried_again && self.may_take_longer(subject)
    }

    /// Whether a holder of a sealed chunk is to settle, or to sync, and may be asked in a moment.
    fn is_any_awaited(&self, handle: ChunkHandle, holders: &[Member]) -> bool {
        let settling = self.open_chunks.settling.get(&handle);
        let is_settling =
            settling.is_some_and(|it| it.members.iter().any(|&server| self.is_usable(server)));
        let Some(record) = self.state.chunks.record(handle) else {
            return false;
        };
        let is_full = holders.len() >= usize::from(record.replicas);
        let mut replicas = self.servers.replicas(handle).iter();
        let is_unsynced = |replica: &Replica| {
            replica.standing(record) == Standing::Good
                && replica.flags.has(HeldFlags::UNSYNCED)
                && self.is_usable(replica.server)
        };
        is_settling || !is_full && replicas.any(is_unsynced)
    }

    fn note_failed(
        &mut self,
        subject: Subject,
        which: Which,
        servers: impl Iterator<Item = ServerId>,
    ) {
        let now = self.now.elapsed;
        if let Some(work) = self.open_chunks.works.get_mut(&subject) {
            let failed = match which {
                Which::Own => &mut work.failed,
                Which::Next => &mut work.failed_next,
            };
            // Who failed last comes first: if not all can be left out, it is somebody else's turn.
            for server in servers {
                failed.retain(|&(it, _)| it != server);
                failed.insert(0, (server, now));
            }
        }
    }

    /// Why nothing can be done now with a chunk, if that is known.
    pub(super) fn dead_end(&self, handle: ChunkHandle) -> Option<Failure> {
        if self.open_chunks.is_differing(handle) {
            let text = format!("the members of chunk {handle} differ: see `sarsen fsck`");
            return Some(Failure::new(Status::Corrupt, text));
        }
        let is_tried = self.open_chunks.works.contains_key(&Subject::Chunk(handle));
        let members = self.active(handle).map(|active| active.members.iter());
        let is_member_back = members
            .into_iter()
            .flatten()
            .any(|member| self.is_usable(member.server));
        let is_lost = self.open_chunks.is_unavailable(handle) && !is_tried && !is_member_back;
        is_lost.then(|| unavailable(handle))
    }

    /// Members that prepared a seal count for readers until they tell of it themselves.
    pub(super) fn count_sealed(&mut self, handle: ChunkHandle, sealed: Sealed, members: &[Member]) {
        let until = self.now.elapsed.saturating_add(self.config.dead_after);
        let Some(file) = self.state.chunks.record(handle).map(|record| record.file) else {
            return;
        };
        for member in members {
            let replica = Replica::acknowledged(member.server, sealed, file, until);
            self.servers.acknowledge(handle, replica);
        }
    }
}

fn servers_of(failed: &[(ServerId, Duration)]) -> Vec<ServerId> {
    failed.iter().map(|&(server, _)| server).collect()
}

/// What is said of a chunk none of whose members answers.
pub(super) fn unavailable(handle: ChunkHandle) -> Failure {
    let text = format!(
        "no member of chunk {handle} can be heard: start its chunkservers again; if they are lost, \
         `sarsen fsck --accept-loss {handle}` takes the best other copy"
    );
    Failure::new(Status::Unavailable, text)
}
