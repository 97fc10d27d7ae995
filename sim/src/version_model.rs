//! The rule of version changes, tried in every order (`spec/replication.md` sections 3, 5, 6, 15).
//!
//! A breadth-first search over all histories of one chunk within small bounds. The master's side is
//! the shipped [`VersionChange`]; members, the log and a client are a few lines each, written from
//! the page. Orders are delivered at any time or never, also those of attempts that were given up;
//! members are killed, or lose their power and with it what they had not synced; what a timeout
//! does it may do at once.
//!
//! It is the oracle when somebody wants to bend the rule: [`explore`] says in which steps a mutation
//! that was acknowledged is lost, or one is done twice. That it can is shown by taking parts of the
//! rule out: [`Fault`] are those of members and of whoever drives the attempts; two more are
//! checks of the shipped machine (`LowestSerial` and `RestartedMember` of
//! `sarsen_protocol::sabotage`).
//!
//! Left out, since nothing here rests on it: bytes, seals (they change no state before the log
//! does), reads, the order of the chain (an ack needs all members, however it comes), leases.

mod member;

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use sarsen_master::core::command::chunks::Configuration;
use sarsen_master::core::version_change::VersionChange;
use sarsen_master::core::version_change::words::{
    Action, Base, Decision, End, Order, Outcome, Patience, Plan,
};
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Serial, ServerId, SessionId};

use self::member::Member;

/// A mutation by its request id; what it writes doesn't matter.
pub type Mutation = u8;

/// How far the search goes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Members that the chunk has at first.
    pub members: u8,
    /// Mutations that a client asks for, each as often as it likes.
    pub mutations: u8,
    /// Attempts to change the version.
    pub attempts: u8,
    /// Times that a member ends and starts again.
    pub restarts: u8,
    /// Whether the first version allows acks from memory; later ones may or may not.
    pub memory_allowed: bool,
}

/// A part of the rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An attempt begins while another one runs, from the same applied state.
    TwoAttempts,
    /// A promise refuses nothing.
    NoPromise,
    /// A promise is answered before what was applied is stable.
    NoSyncAtPromise,
    /// A member begins above what it has: the second guard of the lowest serial.
    BeginAbove,
}

/// What a search came to.
#[derive(Debug)]
pub struct Report {
    /// Different states that were reached.
    pub states: usize,
    /// What is broken, and by which steps.
    pub broken: Option<(&'static str, Vec<Step>)>,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Step {
    Ordered { version: u64, mutation: Mutation },
    Applied { member: usize, ordered: usize },
    Synced { member: usize },
    Acknowledged { ordered: usize },
    Found { version: u64, mutation: Mutation },
    Delivered { order: usize },
    TimedOut { attempt: usize },
    Logged { attempt: usize },
    Attempted { memory_allowed: bool },
    Killed { member: usize },
    PowerLost { member: usize },
}

/// A mutation that a primary gave its serial.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Ordered {
    version: ChunkVersion,
    serial: usize,
    mutation: Mutation,
    primary: usize,
    /// A primary that restarted acknowledges nothing that it ordered before.
    start: u64,
}

/// A version that the log made active, and what its members held when it did.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Active {
    configuration: Configuration,
    base: Vec<Mutation>,
    /// Acks from memory of this version were given up, and that is in the log.
    is_lost: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    members: Vec<Member>,
    log: Vec<Active>,
    attempts: Vec<VersionChange>,
    ordered: Vec<Ordered>,
    /// Who said that it has what, at the level of the version.
    acks: BTreeSet<(usize, ChunkVersion, usize)>,
    acknowledged: BTreeSet<(Mutation, ChunkVersion)>,
    orders: Vec<(usize, ChunkVersion, Order)>,
    attempts_left: u8,
    restarts_left: u8,
}

/// Searches all histories within the bounds.
#[must_use]
pub fn explore(bounds: Bounds, fault: Option<Fault>) -> Report {
    let model = Model { bounds, fault };
    let mut seen = HashSet::new();
    let mut came_from: Vec<(usize, Option<Step>)> = vec![(0, None)];
    let mut open = VecDeque::from([(0, model.first())]);
    while let Some((at, state)) = open.pop_front() {
        for step in model.steps(&state) {
            let mut next = state.clone();
            model.take(&mut next, step);
            if !seen.insert(fingerprint(&next)) {
                continue;
            }
            came_from.push((at, Some(step)));
            let differ = (fault.is_none() && next.members_differ())
                .then_some("members of a version begin with different histories");
            if let Some(broken) = next.broken().or(differ) {
                return Report {
                    states: seen.len(),
                    broken: Some((broken, way_to(&came_from))),
                };
            }
            open.push_back((came_from.len() - 1, next));
        }
    }
    Report {
        states: seen.len(),
        broken: None,
    }
}

fn fingerprint(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// The steps to the last state that was reached.
fn way_to(came_from: &[(usize, Option<Step>)]) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut at = came_from.len() - 1;
    while let (before, Some(step)) = came_from[at] {
        steps.push(step);
        at = before;
    }
    steps.reverse();
    steps
}

impl State {
    /// What is broken of the promises.
    fn broken(&self) -> Option<&'static str> {
        let now = self.log.last()?;
        let version = now.configuration.version;
        let is_kept = |&(mutation, acked_in): &(Mutation, ChunkVersion)| {
            acked_in >= version || now.base.contains(&mutation)
        };
        if !self.acknowledged.iter().all(is_kept) {
            return Some("an acknowledged mutation is not in a later version");
        }
        let is_twice = |data: &[Mutation]| {
            let once: BTreeSet<&Mutation> = data.iter().collect();
            once.len() < data.len()
        };
        if self.members.iter().any(|member| is_twice(&member.data)) || is_twice(&now.base) {
            return Some("a mutation is done twice");
        }
        None
    }

    /// Lemma 2: members of a version hold the same history up to where it began. What breaks it
    /// alone loses nothing yet.
    fn members_differ(&self) -> bool {
        let Some(now) = self.log.last() else {
            return false;
        };
        let mut members = self.members.iter();
        members.any(|member| {
            member.version == now.configuration.version && !member.data.starts_with(&now.base)
        })
    }

    /// Whether member `index` may order mutations of a version that is or was active.
    fn is_primary_of(&self, active: &Active, index: usize) -> bool {
        let configuration = &active.configuration;
        let member = &self.members[index];
        let logged = &configuration.members[0];
        server(index) == configuration.primary
            && logged.start_number.0 == member.start
            && member.is_in(configuration.version)
    }
}

struct Model {
    bounds: Bounds,
    fault: Option<Fault>,
}

impl Model {
    fn first(&self) -> State {
        let version = ChunkVersion(1);
        let members: Vec<Member> = (0..self.bounds.members)
            .map(|index| Member::begun(usize::from(index), version))
            .collect();
        let configuration = Configuration {
            version,
            serial: Serial(0),
            memory_allowed: self.bounds.memory_allowed,
            primary: server(0),
            members: members.iter().map(Member::as_logged).collect(),
        };
        let active = Active {
            configuration,
            base: Vec::new(),
            is_lost: false,
        };
        State {
            members,
            log: vec![active],
            attempts: Vec::new(),
            ordered: Vec::new(),
            acks: BTreeSet::new(),
            acknowledged: BTreeSet::new(),
            orders: Vec::new(),
            attempts_left: self.bounds.attempts,
            restarts_left: self.bounds.restarts,
        }
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// Everything that may happen next.
    fn steps(&self, state: &State) -> Vec<Step> {
        let mut steps = Vec::new();
        self.client_steps(state, &mut steps);
        for (ordered, frame) in state.ordered.iter().enumerate() {
            for (member, has) in state.members.iter().enumerate() {
                if has.takes(frame.version, frame.serial, self.is(Fault::NoPromise)) {
                    steps.push(Step::Applied { member, ordered });
                }
            }
        }
        let delivered = (0..state.orders.len()).map(|order| Step::Delivered { order });
        steps.extend(delivered);
        for (attempt, running) in state.attempts.iter().enumerate() {
            if running.is_logging() {
                steps.push(Step::Logged { attempt });
            } else if running.poll_timeout().is_some() {
                steps.push(Step::TimedOut { attempt });
            }
        }
        let is_free = state.attempts.iter().all(VersionChange::is_over);
        if state.attempts_left > 0 && (is_free || self.is(Fault::TwoAttempts)) {
            let memory = [false, true];
            let allowed = memory
                .into_iter()
                .filter(|memory| self.bounds.memory_allowed || !memory);
            steps.extend(allowed.map(|memory_allowed| Step::Attempted { memory_allowed }));
        }
        for (member, has) in state.members.iter().enumerate() {
            if has.stable < has.data.len() {
                steps.push(Step::Synced { member });
            }
            if state.restarts_left > 0 {
                steps.push(Step::Killed { member });
                if has.stable < has.data.len() {
                    steps.push(Step::PowerLost { member });
                }
            }
        }
        steps
    }

    /// What primaries may order and answer: of every version that ever was active, since an old
    /// primary doesn't know that it is one.
    fn client_steps(&self, state: &State, steps: &mut Vec<Step>) {
        for active in &state.log {
            let version = active.configuration.version;
            let mut members = 0..state.members.len();
            let Some(primary) = members.find(|&index| state.is_primary_of(active, index)) else {
                continue;
            };
            let primary = &state.members[primary];
            for mutation in 1..=self.bounds.mutations {
                let at = primary.data.iter().position(|known| *known == mutation);
                let version = version.0;
                let is_acknowledged = state.acknowledged.iter().any(|acked| acked.0 == mutation);
                match at {
                    None => steps.push(Step::Ordered { version, mutation }),
                    Some(at) if at < primary.begin_serial && !is_acknowledged => {
                        steps.push(Step::Found { version, mutation });
                    }
                    Some(_) => {}
                }
            }
        }
        for (index, ordered) in state.ordered.iter().enumerate() {
            let acked = (ordered.mutation, ordered.version);
            let all = state.log.iter().find(|active| {
                let configuration = &active.configuration;
                configuration.version == ordered.version
                    && configuration.members.iter().all(|member| {
                        let who = index_of(member.server);
                        let ack = (who, ordered.version, ordered.serial);
                        state.acks.contains(&ack)
                    })
            });
            let remembers = state.members[ordered.primary].start == ordered.start;
            if remembers
                && !state.acknowledged.contains(&acked)
                && all.is_some_and(|active| !active.is_lost)
            {
                steps.push(Step::Acknowledged { ordered: index });
            }
        }
    }

    fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Ordered { version, mutation } => order(state, ChunkVersion(version), mutation),
            Step::Applied { member, ordered } => {
                let Ordered {
                    version, mutation, ..
                } = state.ordered[ordered];
                state.members[member].data.push(mutation);
                acknowledge_what_it_has(state, member, version);
            }
            Step::Synced { member } => sync(state, member),
            Step::Acknowledged { ordered } => {
                let ordered = &state.ordered[ordered];
                let acked = (ordered.mutation, ordered.version);
                state.acknowledged.insert(acked);
            }
            Step::Found { version, mutation } => {
                let found = (mutation, ChunkVersion(version));
                state.acknowledged.insert(found);
            }
            Step::Delivered { order } => self.deliver(state, order),
            Step::TimedOut { attempt } => {
                let running = &mut state.attempts[attempt];
                let due_ms = running.poll_timeout().unwrap_or_default();
                let actions = running.handle_timeout(due_ms);
                carry_out(state, attempt, actions);
            }
            Step::Logged { attempt } => {
                let actions = log(state, attempt);
                carry_out(state, attempt, actions);
            }
            Step::Attempted { memory_allowed } => {
                state.attempts_left -= 1;
                let version = 1 + u64::from(self.bounds.attempts - state.attempts_left);
                let now = state.log.last().map(|active| active.configuration.clone());
                let Some(now) = now else { return };
                let plan = plan(ChunkVersion(version), now, memory_allowed);
                let (attempt, actions) = VersionChange::start(plan, 0);
                state.attempts.push(attempt);
                carry_out(state, state.attempts.len() - 1, actions);
            }
            Step::Killed { member } => {
                state.restarts_left -= 1;
                state.members[member].start += 1;
            }
            Step::PowerLost { member } => {
                state.restarts_left -= 1;
                let member = &mut state.members[member];
                member.start += 1;
                member.data.truncate(member.stable);
            }
        }
    }

    /// A member carries an order out, and whoever still wants to know it is told.
    fn deliver(&self, state: &mut State, at: usize) {
        let (index, version, order) = state.orders.remove(at);
        let commit_mark = committed(state, index);
        let member = &mut state.members[index];
        let is_fenced = !self.is(Fault::NoPromise);
        let answer = match order {
            Order::Promise => {
                let answer = member.promise(version, commit_mark, is_fenced);
                if !self.is(Fault::NoSyncAtPromise) {
                    sync(state, index);
                }
                answer
            }
            Order::Begin(begin) => {
                member.begin(version, &begin, is_fenced, self.is(Fault::BeginAbove))
            }
            _ => return,
        };
        for attempt in 0..state.attempts.len() {
            let running = &mut state.attempts[attempt];
            let actions = running.handle_answer(server(index), version, answer.clone(), 0);
            carry_out(state, attempt, actions);
        }
    }
}

/// The highest commit mark that a member could have been told: what every member acknowledged.
fn committed(state: &State, index: usize) -> usize {
    let member = &state.members[index];
    let mut log = state.log.iter();
    let active = log.find(|active| active.configuration.version == member.version);
    let Some(active) = active.filter(|_| member.is_still_in(member.version)) else {
        return 0;
    };
    let is_on_all = |serial: &usize| {
        let mut members = active.configuration.members.iter();
        members.all(|member| {
            let ack = (
                index_of(member.server),
                active.configuration.version,
                *serial,
            );
            state.acks.contains(&ack)
        })
    };
    let mut serials = (member.begin_serial + 1..=member.data.len()).rev();
    serials.find(is_on_all).unwrap_or(member.begin_serial)
}

fn plan(version: ChunkVersion, now: Configuration, memory_allowed: bool) -> Plan {
    Plan {
        handle: ChunkHandle(1),
        version,
        base: Base::Open(now),
        end: End::Active {
            memory_allowed,
            sessions_end: SessionId(0),
        },
        drain: false,
        blamed: None,
        doubtful: Vec::new(),
        failed: Vec::new(),
        hopeless: Vec::new(),
        min_replicas: 1,
        // How long anybody is waited for is nothing that safety rests on: not at all.
        patience: Patience {
            suspect_after_ms: 1,
            dead_after_ms: 1,
        },
    }
}

const fn server(index: usize) -> ServerId {
    ServerId(index as u64 + 1)
}

fn index_of(server: ServerId) -> usize {
    usize::try_from(server.0 - 1).unwrap_or(usize::MAX)
}

/// A primary gives a mutation the next serial, and has it.
fn order(state: &mut State, version: ChunkVersion, mutation: Mutation) {
    let active = state.log.iter();
    let mut active = active.filter(|active| active.configuration.version == version);
    let Some(active) = active.next() else { return };
    let mut members = 0..state.members.len();
    let Some(primary) = members.find(|&index| state.is_primary_of(active, index)) else {
        return;
    };
    let member = &mut state.members[primary];
    member.data.push(mutation);
    let ordered = Ordered {
        version,
        serial: member.data.len(),
        mutation,
        primary,
        start: member.start,
    };
    state.ordered.push(ordered);
    acknowledge_what_it_has(state, primary, version);
}

fn sync(state: &mut State, index: usize) {
    let member = &mut state.members[index];
    member.stable = member.data.len();
    let version = member.version;
    acknowledge_what_it_has(state, index, version);
}

/// A member says what it has of a version that it is in: in memory where that is allowed.
fn acknowledge_what_it_has(state: &mut State, index: usize, version: ChunkVersion) {
    let mut log = state.log.iter();
    let Some(active) = log.find(|active| active.configuration.version == version) else {
        return;
    };
    let member = &state.members[index];
    if !member.is_still_in(version) {
        return;
    }
    let has = match active.configuration.memory_allowed {
        true => member.data.len(),
        false => member.stable,
    };
    let new = member.begin_serial + 1..=has;
    state
        .acks
        .extend(new.map(|serial| (index, version, serial)));
}

/// Sends the orders of an attempt; leases are left out, since a primary begins when it likes.
fn carry_out(state: &mut State, attempt: usize, actions: Vec<Action>) {
    let version = state.attempts[attempt].plan().version;
    for action in actions {
        if let Action::Order { server, order } = action
            && matches!(order, Order::Promise | Order::Begin(_))
        {
            let order = (index_of(server), version, order);
            if !state.orders.contains(&order) {
                state.orders.push(order);
            }
        }
    }
    // The order in which they were sent is no part of the state.
    state.orders.sort_by_cached_key(fingerprint);
}

/// The log takes an attempt's entry, unless a version that is not lower is active already.
fn log(state: &mut State, attempt: usize) -> Vec<Action> {
    let decision = state.attempts[attempt].decision().cloned();
    let Some(Decision {
        loss,
        outcome: Outcome::Active(configuration),
    }) = decision
    else {
        return Vec::new();
    };
    let now = state.log.last().map(|active| active.configuration.version);
    let is_applied = now.is_some_and(|now| now < configuration.version);
    if is_applied {
        let first = index_of(configuration.primary);
        let begin = usize::try_from(configuration.serial.0).unwrap_or(usize::MAX);
        let data = &state.members[first].data;
        let base = data[..begin.min(data.len())].to_vec();
        if let Some(loss) = loss {
            forgive(state, loss.version, &base);
        }
        state.log.push(Active {
            configuration,
            base,
            is_lost: false,
        });
    }
    state.attempts[attempt].handle_log(is_applied)
}

/// What was acknowledged from memory may be gone, and the log says so.
fn forgive(state: &mut State, version: ChunkVersion, base: &[Mutation]) {
    let log = state.log.iter_mut();
    let lost = log.filter(|active| active.configuration.memory_allowed);
    let mut from_memory = BTreeSet::new();
    for active in lost.filter(|active| active.configuration.version <= version) {
        active.is_lost = true;
        from_memory.insert(active.configuration.version);
    }
    state
        .acknowledged
        .retain(|(mutation, acked_in)| base.contains(mutation) || !from_memory.contains(acked_in));
}
