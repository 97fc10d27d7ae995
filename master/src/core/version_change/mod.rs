//! One attempt to change a chunk's version (`spec/replication.md` section 3): ask, decide, begin
//! or prepare, log, and done; or given up.
//!
//! ```text
//! draining ──► asking ──► beginning ───────────────► logging ──► done
//!                │  ▲    └► preparing ─► reading back   │
//!                └──┘            │            │         └─► given up: not applied
//!              too few count     └── given up ┘
//! ```
//!
//! Opening, sealing, truncating, dropping a member, changing the primary and allowing acks from
//! memory are all this, with another [`End`].
//!
//! Invariants: an attempt looks at nothing but what was applied when it began ([`Plan`]) and the
//! answers to its own orders; an answer of another version, of a step that is over, or a second
//! one, changes nothing. Once [`Action::Log`] was returned nothing but the log's word ends it.
//! That there is one attempt a chunk at a time is for whoever drives it to keep.
//!
//! Nothing of an attempt is durable. If the master ends, the log says what it said before or the
//! entry is in it; both are states that the next attempt can start from (section 15, lemma 5).
//!
//! Driven so: [`start`](VersionChange::start) once, then the `handle_*` that apply, and
//! [`handle_timeout`](VersionChange::handle_timeout) when
//! [`poll_timeout`](VersionChange::poll_timeout) says so; what they return is to be done.

mod best_copy;
mod decide;
#[cfg(test)]
mod tests;
mod verdict;
pub mod words;

use std::collections::{BTreeMap, BTreeSet};

use sarsen_protocol::id::{ChunkVersion, ServerId};
use sarsen_protocol::status::Status;

use self::decide::{Answers, Chosen, Lack};
use self::verdict::{Verdict, begun, member_of, prepared, silent};
use self::words::{
    Action, Answer, Base, Begin, Decision, End, Failure, Fault, Order, Outcome, Plan, PrepareSeal,
    Prepared, Step, is_a_mediums_word,
};
use crate::core::chunk_table::Sealed;
use crate::core::command::Member;
use crate::core::command::chunks::Configuration;

/// One attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VersionChange {
    plan: Plan,
    started_ms: u64,
    /// Servers without a connection, each since when.
    lost: BTreeMap<ServerId, u64>,
    phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// The old primary finishes what it has ordered.
    Draining { until_ms: u64 },
    /// Promises are gathered; at `until_ms` it is decided, or the silent ones are asked again.
    Asking {
        answers: Answers,
        is_first_round: bool,
        until_ms: u64,
    },
    /// Those who were chosen begin.
    Beginning {
        chosen: Chosen,
        begun: BTreeSet<ServerId>,
        until_ms: u64,
    },
    /// Those who were chosen prepare a seal, each until its own time.
    Preparing {
        chosen: Chosen,
        prepared: BTreeMap<ServerId, Prepared>,
        until_ms: BTreeMap<ServerId, u64>,
    },
    /// What they prepared differs: who has blocks that don't match?
    ReadingBack {
        chosen: Chosen,
        read: BTreeMap<ServerId, ReadBack>,
        until_ms: u64,
    },
    /// The log has the word.
    Logging { decision: Decision },
    /// Done or given up.
    Over,
}

/// What a member's blocks turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ReadBack {
    Sound,
    Damaged,
    /// It can't tell, as of a chunk that was never sealed.
    Unknown,
}

impl VersionChange {
    /// Begins an attempt.
    #[must_use]
    pub fn start(plan: Plan, now_ms: u64) -> (Self, Vec<Action>) {
        let mut attempt = Self {
            started_ms: now_ms,
            lost: BTreeMap::new(),
            phase: Phase::Over,
            plan,
        };
        let actions = match (&attempt.plan.base, attempt.plan.drain) {
            (Base::Fresh(_), _) => attempt.decide(&Answers::new(), now_ms),
            (Base::Open(active), true) => {
                let (server, version) = (active.primary, active.version);
                let until_ms = attempt.after_suspect(now_ms);
                attempt.phase = Phase::Draining { until_ms };
                vec![order(server, Order::Revoke { version })]
            }
            _ => attempt.ask(now_ms),
        };
        (attempt, actions)
    }

    /// What it was begun with.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Whether it asks the members once more that are silent: too few of the others can go on.
    #[must_use]
    pub const fn is_short(&self) -> bool {
        matches!(
            self.phase,
            Phase::Asking {
                is_first_round: false,
                ..
            }
        )
    }

    /// Whether none of those who were asked has said what it has.
    #[must_use]
    pub fn has_heard_nobody(&self) -> bool {
        match &self.phase {
            Phase::Asking { answers, .. } => answers.values().all(Option::is_none),
            _ => false,
        }
    }

    /// Whether its entry was handed to the log: then it can't be given up.
    #[must_use]
    pub const fn is_logging(&self) -> bool {
        matches!(self.phase, Phase::Logging { .. })
    }

    /// What the log has the word on.
    #[must_use]
    pub const fn decision(&self) -> Option<&Decision> {
        match &self.phase {
            Phase::Logging { decision } => Some(decision),
            _ => None,
        }
    }

    /// Whether it is over.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        match &self.phase {
            Phase::Draining { until_ms } => {
                let primary = self.old_primary();
                Some(primary.map_or(*until_ms, |it| self.awaited_until(it, *until_ms)))
            }
            Phase::Asking {
                answers,
                is_first_round: true,
                until_ms,
            } => Some(self.gathered_by(answers, *until_ms).unwrap_or(*until_ms)),
            Phase::Asking { until_ms, .. } | Phase::ReadingBack { until_ms, .. } => Some(*until_ms),
            Phase::Beginning {
                chosen,
                begun,
                until_ms,
            } => {
                let silent = silent(chosen, |server| begun.contains(&server)).into_iter();
                let until_ms = silent.map(|(server, _)| self.awaited_until(server, *until_ms));
                until_ms.min()
            }
            Phase::Preparing { until_ms, .. } => {
                let until_ms = until_ms.iter();
                until_ms
                    .map(|(&it, &until)| self.awaited_until(it, until))
                    .min()
            }
            Phase::Logging { .. } | Phase::Over => None,
        }
    }

    /// A server answered an order of the attempt for `version`.
    #[must_use]
    pub fn handle_answer(
        &mut self,
        server: ServerId,
        version: ChunkVersion,
        answer: Answer,
        now_ms: u64,
    ) -> Vec<Action> {
        if version != self.plan.version {
            return Vec::new();
        }
        match (&self.phase, answer) {
            (Phase::Draining { .. }, Answer::Revoked | Answer::Refused(Step::Revoke, _))
                if self.old_primary() == Some(server) =>
            {
                self.ask(now_ms)
            }
            (Phase::Asking { .. }, Answer::Promised(promised)) => {
                self.take_promise(server, Some(promised), now_ms)
            }
            // What passes is no answer: it is asked again.
            (Phase::Asking { .. }, Answer::Refused(Step::Promise, status))
                if is_a_members_word(status) =>
            {
                self.take_promise(server, None, now_ms)
            }
            (Phase::Beginning { chosen, .. }, answer) => {
                let verdict = begun(chosen, server, &answer);
                self.take_begun(server, verdict)
            }
            (Phase::Preparing { chosen, .. }, answer) => {
                let verdict = prepared(chosen, server, &answer);
                self.take_prepared(server, verdict, now_ms)
            }
            (Phase::ReadingBack { .. }, answer) => self.take_read_back(server, &answer),
            _ => Vec::new(),
        }
    }

    /// Servers without a connection, each since when: the next attempt goes on from there.
    #[must_use]
    pub const fn lost(&self) -> &BTreeMap<ServerId, u64> {
        &self.lost
    }

    /// A server has had no connection since then: it is waited for once, and not anew in each step.
    pub fn handle_lost(&mut self, server: ServerId, since_ms: u64) {
        self.lost.insert(server, since_ms);
    }

    /// A server's connection is new: what it was ordered and has not answered may be lost.
    #[must_use]
    pub fn handle_connected(&mut self, server: ServerId, now_ms: u64) -> Vec<Action> {
        if !self.is_enough_connected() {
            // It was no single server that was gone: those who come back come one by one.
            self.lost.values_mut().for_each(|since| *since = now_ms);
        }
        self.lost.remove(&server);
        let again = match &self.phase {
            Phase::Draining { .. } => self
                .old_primary()
                .filter(|primary| *primary == server)
                .and_then(|_| self.revoke()),
            Phase::Asking { answers, .. } => {
                let is_awaited = self.asked().contains(&server) && !answers.contains_key(&server);
                is_awaited.then_some(Order::Promise)
            }
            Phase::Beginning { chosen, begun, .. } => {
                let member = member_of(chosen, server).filter(|_| !begun.contains(&server));
                member.map(|member| self.begin(chosen, member))
            }
            Phase::Preparing {
                chosen, prepared, ..
            } => {
                let member = member_of(chosen, server).filter(|_| !prepared.contains_key(&server));
                member.map(|member| self.prepare(chosen, member))
            }
            Phase::ReadingBack { chosen, read, .. } => {
                let member = member_of(chosen, server).filter(|_| !read.contains_key(&server));
                member.map(|_| Order::ReadBack)
            }
            Phase::Logging { .. } | Phase::Over => None,
        };
        again
            .map(|again| order(server, again))
            .into_iter()
            .collect()
    }

    /// A member does not believe its own replica: if nothing is decided yet, that goes with it.
    pub fn handle_doubt(&mut self, server: ServerId) {
        if matches!(self.phase, Phase::Draining { .. } | Phase::Asking { .. }) {
            self.plan.doubtful.push(server);
        }
    }

    /// Members that are awaited to prepare a seal.
    pub fn preparing(&self) -> impl Iterator<Item = ServerId> {
        let awaited = match &self.phase {
            Phase::Preparing { until_ms, .. } => Some(until_ms.keys().copied()),
            _ => None,
        };
        awaited.into_iter().flatten()
    }

    /// A member that prepares a seal said that it is still at it.
    pub fn handle_alive(&mut self, server: ServerId, now_ms: u64) {
        let after = now_ms.saturating_add(self.plan.patience.dead_after_ms);
        if let Phase::Preparing { until_ms, .. } = &mut self.phase
            && let Some(until_ms) = until_ms.get_mut(&server)
        {
            *until_ms = after.max(*until_ms);
        }
    }

    /// Time has passed.
    #[must_use]
    pub fn handle_timeout(&mut self, now_ms: u64) -> Vec<Action> {
        if self.poll_timeout().is_none_or(|due_ms| now_ms < due_ms) {
            return Vec::new();
        }
        match &self.phase {
            Phase::Draining { .. } => self.ask(now_ms),
            Phase::Asking { answers, .. } => {
                let answers = answers.clone();
                let mut actions = self.decide(&answers, now_ms);
                if matches!(self.phase, Phase::Asking { .. }) {
                    actions.extend(self.ask_again(now_ms));
                }
                actions
            }
            Phase::Beginning {
                chosen,
                begun,
                until_ms,
            } => {
                let mut silent = silent(chosen, |server| begun.contains(&server));
                silent.retain(|(server, _)| self.awaited_until(*server, *until_ms) <= now_ms);
                self.give_up(Failure::Members(silent))
            }
            Phase::Preparing { until_ms, .. } => {
                let until_ms = until_ms.iter();
                let late =
                    until_ms.filter(|&(&it, &until)| self.awaited_until(it, until) <= now_ms);
                let silent = late.map(|(&server, _)| (server, Fault::Silent)).collect();
                self.give_up(Failure::Members(silent))
            }
            Phase::ReadingBack { .. } => self.judge_difference(),
            Phase::Logging { .. } | Phase::Over => Vec::new(),
        }
    }

    /// The log's word: whether the entry was applied, or refused when it was.
    #[must_use]
    pub fn handle_log(&mut self, is_applied: bool) -> Vec<Action> {
        let Phase::Logging { decision } = &self.phase else {
            return Vec::new();
        };
        if !is_applied {
            return self.give_up(Failure::NotApplied);
        }
        let mut actions: Vec<Action> = match &decision.outcome {
            Outcome::Active(active) => {
                vec![order(active.primary, Order::Grant(active.clone()))]
            }
            Outcome::Sealed { sealed, members } => {
                let settle = |member: &Member| Order::Settle {
                    directory: member.directory,
                    len: sealed.len,
                    crc: sealed.crc,
                };
                let members = members.iter();
                members.map(|it| order(it.server, settle(it))).collect()
            }
        };
        self.phase = Phase::Over;
        actions.push(Action::Done);
        actions
    }

    // Asking.

    /// Who is asked (section 3.1).
    #[must_use]
    pub fn asked(&self) -> Vec<ServerId> {
        let members: Vec<&Member> = match &self.plan.base {
            Base::Open(active) => active.members.iter().collect(),
            Base::Sealed { holders, .. } => holders.iter().collect(),
            Base::Accepted(accepted) => accepted.copies.iter().map(|it| &it.member).collect(),
            Base::Fresh(_) => Vec::new(),
        };
        members.iter().map(|member| member.server).collect()
    }

    fn old_primary(&self) -> Option<ServerId> {
        match &self.plan.base {
            Base::Open(active) => Some(active.primary),
            _ => None,
        }
    }

    fn revoke(&self) -> Option<Order> {
        match &self.plan.base {
            Base::Open(active) => Some(Order::Revoke {
                version: active.version,
            }),
            _ => None,
        }
    }

    const fn after_suspect(&self, now_ms: u64) -> u64 {
        now_ms.saturating_add(self.plan.patience.suspect_after_ms)
    }

    /// How long a server is waited for that anybody else is waited for until then: without a
    /// connection for `suspect_after` since it was lost, in all steps together, if enough are left to go
    /// on without it (section 3.3).
    fn awaited_until(&self, server: ServerId, until_ms: u64) -> u64 {
        match self.lost.get(&server) {
            Some(&lost_ms) if self.is_enough_connected() => {
                self.after_suspect(lost_ms).min(until_ms)
            }
            _ => until_ms,
        }
    }

    /// Whether as many as are needed have a connection.
    fn is_enough_connected(&self) -> bool {
        let servers = match &self.phase {
            Phase::Beginning { chosen, .. } | Phase::Preparing { chosen, .. } => {
                chosen.members.iter().map(|it| it.server).collect()
            }
            _ => self.asked(),
        };
        let connected = servers.iter().filter(|it| !self.lost.contains_key(it));
        connected.count() >= self.plan.min_replicas.max(1)
    }

    /// By when those who have not answered are waited for in the first round, if there are any.
    fn gathered_by(&self, answers: &Answers, until_ms: u64) -> Option<u64> {
        let asked = self.asked().into_iter();
        let silent = asked.filter(|server| !answers.contains_key(server));
        silent.map(|it| self.awaited_until(it, until_ms)).max()
    }

    const fn last_ms(&self) -> u64 {
        self.started_ms
            .saturating_add(self.plan.patience.dead_after_ms)
    }

    fn ask(&mut self, now_ms: u64) -> Vec<Action> {
        self.phase = Phase::Asking {
            answers: Answers::new(),
            is_first_round: true,
            until_ms: self.after_suspect(now_ms),
        };
        let asked = self.asked();
        if asked.is_empty() {
            return self.decide(&Answers::new(), now_ms);
        }
        let promise = |server| order(server, Order::Promise);
        asked.into_iter().map(promise).collect()
    }

    /// Asks those again who are silent, by the same version: nobody was told to begin yet.
    fn ask_again(&mut self, now_ms: u64) -> Vec<Action> {
        let (asked, again_ms) = (self.asked(), self.after_suspect(now_ms).min(self.last_ms()));
        let Phase::Asking {
            answers,
            is_first_round,
            until_ms,
        } = &mut self.phase
        else {
            return Vec::new();
        };
        *is_first_round = false;
        *until_ms = again_ms;
        let silent = asked.into_iter();
        let silent = silent.filter(|server| !answers.contains_key(server));
        silent.map(|server| order(server, Order::Promise)).collect()
    }

    /// The first answer of a server stands: another is an order that was sent twice.
    fn take_promise(
        &mut self,
        server: ServerId,
        promised: Option<words::Promised>,
        now_ms: u64,
    ) -> Vec<Action> {
        let asked = self.asked();
        let Phase::Asking {
            answers,
            is_first_round,
            until_ms,
        } = &mut self.phase
        else {
            return Vec::new();
        };
        if !asked.contains(&server) || answers.contains_key(&server) {
            return Vec::new();
        }
        answers.insert(server, promised);
        let (answers, is_first_round, until_ms) = (answers.clone(), *is_first_round, *until_ms);
        let gathered_by = self.gathered_by(&answers, until_ms);
        // Of copies only those are waited for that may be better.
        let is_accepted = matches!(self.plan.base, Base::Accepted(_));
        if is_first_round
            && !is_accepted
            && gathered_by.is_some_and(|gathered_by| now_ms < gathered_by)
        {
            return Vec::new();
        }
        self.decide(&answers, now_ms)
    }

    // Deciding, and what follows.

    fn decide(&mut self, answers: &Answers, now_ms: u64) -> Vec<Action> {
        let nobody_is_silent = answers.len() == self.asked().len();
        let is_last = nobody_is_silent || now_ms >= self.last_ms();
        match decide::decide(&self.plan, answers, is_last) {
            Ok(mut chosen) => {
                self.leave_out_lost(&mut chosen, now_ms);
                self.go_on_with(chosen, now_ms)
            }
            Err(Lack::Wait) => Vec::new(),
            Err(Lack::TooFew) => self.give_up(Failure::TooFew),
            Err(Lack::Unavailable) => self.give_up(self.unavailable(answers)),
        }
    }

    /// Nobody can be gone on with; of copies it is told who may have a better one and is silent.
    fn unavailable(&self, answers: &Answers) -> Failure {
        let silent = match &self.plan.base {
            Base::Accepted(accepted) => best_copy::awaited(accepted, answers),
            _ => Vec::new(),
        };
        match silent.is_empty() {
            true => Failure::Unavailable,
            false => Failure::Members(silent.into_iter().map(|it| (it, Fault::Silent)).collect()),
        }
    }

    /// Who promised and was lost behind that, and has been waited for, is left out if enough stay.
    fn leave_out_lost(&self, chosen: &mut Chosen, now_ms: u64) {
        for &server in self.lost.keys() {
            let is_over = self.awaited_until(server, u64::MAX) <= now_ms;
            if is_over && chosen.members.len() > self.plan.min_replicas.max(1) {
                chosen.members.retain(|member| member.server != server);
            }
        }
    }

    /// Has those who were chosen begin, or prepare a seal.
    fn go_on_with(&mut self, chosen: Chosen, now_ms: u64) -> Vec<Action> {
        let is_sealed = chosen.is_short || matches!(self.plan.end, End::Sealed { .. });
        let told = |member: &Member| match is_sealed {
            true => order(member.server, self.prepare(&chosen, member)),
            false => order(member.server, self.begin(&chosen, member)),
        };
        let orders = chosen.members.iter().map(told).collect();
        self.phase = match is_sealed {
            true => {
                let late_ms = now_ms.saturating_add(self.plan.patience.dead_after_ms);
                let servers = chosen.members.iter().map(|member| member.server);
                Phase::Preparing {
                    until_ms: servers.map(|server| (server, late_ms)).collect(),
                    prepared: BTreeMap::new(),
                    chosen,
                }
            }
            false => Phase::Beginning {
                chosen,
                begun: BTreeSet::new(),
                until_ms: self.after_suspect(now_ms),
            },
        };
        orders
    }

    fn begin(&self, chosen: &Chosen, member: &Member) -> Order {
        let create = match &self.plan.base {
            Base::Fresh(fresh) => Some(fresh.create),
            _ => None,
        };
        Order::Begin(Begin {
            serial: chosen.serial,
            member: member.clone(),
            memory_allowed: self.memory_allowed(),
            create,
        })
    }

    fn prepare(&self, chosen: &Chosen, member: &Member) -> Order {
        // What is sealed for want of members is sealed whole.
        let (len, sessions_end) = match self.plan.end {
            End::Sealed { len, sessions_end } => (len, sessions_end),
            End::Active { sessions_end, .. } => (None, sessions_end),
        };
        Order::PrepareSeal(PrepareSeal {
            serial: chosen.serial,
            member: member.clone(),
            len,
            sessions_end,
        })
    }

    const fn memory_allowed(&self) -> bool {
        matches!(
            self.plan.end,
            End::Active {
                memory_allowed: true,
                ..
            }
        )
    }

    fn take_begun(&mut self, server: ServerId, verdict: Verdict<()>) -> Vec<Action> {
        let memory_allowed = self.memory_allowed();
        let Phase::Beginning { chosen, begun, .. } = &mut self.phase else {
            return Vec::new();
        };
        match verdict {
            Verdict::Ignore => return Vec::new(),
            Verdict::Fault(fault) => {
                return self.give_up(Failure::Members(vec![(server, fault)]));
            }
            Verdict::Good(()) => begun.insert(server),
        };
        let Some(primary) = chosen.members.first() else {
            return Vec::new();
        };
        if begun.len() < chosen.members.len() {
            return Vec::new();
        }
        let outcome = Outcome::Active(Configuration {
            version: self.plan.version,
            serial: chosen.serial,
            memory_allowed,
            primary: primary.server,
            members: chosen.members.clone(),
        });
        let loss = chosen.loss;
        self.log(Decision { loss, outcome })
    }

    fn take_prepared(
        &mut self,
        server: ServerId,
        verdict: Verdict<Prepared>,
        now_ms: u64,
    ) -> Vec<Action> {
        let until_read_ms = now_ms.saturating_add(self.plan.patience.dead_after_ms);
        let Phase::Preparing {
            chosen,
            prepared,
            until_ms,
        } = &mut self.phase
        else {
            return Vec::new();
        };
        match verdict {
            Verdict::Ignore => return Vec::new(),
            Verdict::Fault(fault) => {
                return self.give_up(Failure::Members(vec![(server, fault)]));
            }
            // The first answer stands: the same member prepares the same thing twice.
            Verdict::Good(what) => {
                until_ms.remove(&server);
                prepared.entry(server).or_insert(what);
            }
        }
        if prepared.len() < chosen.members.len() {
            return Vec::new();
        }
        let Some(&first) = prepared.values().next() else {
            return Vec::new();
        };
        // It said that its bytes are the log's, and they are not.
        let is_as_logged = |log: Sealed| (first.len, first.crc) == (log.len, log.crc);
        if chosen.as_logged.is_some_and(|log| !is_as_logged(log)) {
            return self.give_up(Failure::Damaged(vec![server]));
        }
        if prepared.values().all(|other| *other == first) {
            let sealed = Sealed {
                version: self.plan.version,
                len: first.len,
                crc: first.crc,
            };
            let (loss, members) = (chosen.loss, chosen.members.clone());
            let outcome = Outcome::Sealed { sealed, members };
            return self.log(Decision { loss, outcome });
        }
        let read_back = |member: &Member| order(member.server, Order::ReadBack);
        let orders = chosen.members.iter().map(read_back).collect();
        self.phase = Phase::ReadingBack {
            chosen: chosen.clone(),
            read: BTreeMap::new(),
            until_ms: until_read_ms,
        };
        orders
    }

    fn take_read_back(&mut self, server: ServerId, answer: &Answer) -> Vec<Action> {
        let Phase::ReadingBack { chosen, read, .. } = &mut self.phase else {
            return Vec::new();
        };
        let found = match answer {
            Answer::ReadBack { is_sound: true } => ReadBack::Sound,
            Answer::ReadBack { is_sound: false } => ReadBack::Damaged,
            Answer::Refused(Step::ReadBack, status) if is_a_mediums_word(*status) => {
                ReadBack::Damaged
            }
            Answer::Refused(Step::ReadBack, _) => ReadBack::Unknown,
            _ => return Vec::new(),
        };
        if member_of(chosen, server).is_none() {
            return Vec::new();
        }
        read.entry(server).or_insert(found);
        match read.len() < chosen.members.len() {
            true => Vec::new(),
            false => self.judge_difference(),
        }
    }

    /// What was prepared differs: who is to blame, or that nobody is.
    fn judge_difference(&mut self) -> Vec<Action> {
        let Phase::ReadingBack { chosen, read, .. } = &self.phase else {
            return Vec::new();
        };
        let damaged = read.iter().filter(|(_, it)| **it == ReadBack::Damaged);
        let damaged: Vec<ServerId> = damaged.map(|(&server, _)| server).collect();
        let silent = silent(chosen, |server| read.contains_key(&server));
        let all = chosen.members.iter().map(|member| member.server);
        let failure = match (damaged.is_empty(), silent.is_empty()) {
            (false, _) => Failure::Damaged(damaged),
            (true, false) => Failure::Members(silent),
            (true, true) => Failure::Corrupt(all.collect()),
        };
        self.give_up(failure)
    }

    fn log(&mut self, decision: Decision) -> Vec<Action> {
        self.phase = Phase::Logging {
            decision: decision.clone(),
        };
        vec![Action::Log(decision)]
    }

    fn give_up(&mut self, failure: Failure) -> Vec<Action> {
        self.phase = Phase::Over;
        vec![Action::GivenUp(failure)]
    }
}

/// Whether a refusal to promise says something of the replica, and not of a bad moment.
const fn is_a_members_word(status: Status) -> bool {
    matches!(
        status,
        Status::PromiseRefused | Status::ChunkUnknown | Status::NotFound
    ) || is_a_mediums_word(status)
}

const fn order(server: ServerId, order: Order) -> Action {
    Action::Order { server, order }
}
