//! One open chunk on one member: all that is decided about it, in one machine
//! (`spec/replication.md`, `spec/wire.md` section 12.3).
//!
//! ```text
//!   orders, questions ──►┌──────────────────────────────────────────┐──► answers, reports
//!                        │ member: promised, begun, active, …       │
//!   clients' streams ───►│ primary: lease, serials, ids, who waits  │──► acks to clients
//!   hop before ─────────►│ chain: what was heard, acked, told       │──► next hop
//!   what the store did ─►└──────────────────────────────────────────┘──► apply, flush, commit, …
//! ```
//!
//! Read in this order: [`words`], what goes in and out; [`chain`], a member's place; [`links`], what
//! its neighbours say; [`primary`] and [`ordering`], how mutations get their serials; [`lease`] and
//! [`clients`]; [`turn`], what is done for many at once; [`timers`].
//!
//! Who drives it, in this order: any number of `handle_*`, then once [`Replica::take_turn`], then
//! [`Replica::poll_action`] until it has nothing, then [`Replica::poll_timeout`]. What came is taken
//! by `handle_*`; what is best done for many at once (ordering, acks, answers, marks) is done by the
//! turn. So whoever drives it empties its queue first and takes one turn for all.
//!
//! Invariants. Serials are given and applied without a gap. Nothing is acknowledged, to a client or
//! up the chain, that this member and all behind it don't have at the level that the ack names; at
//! `disk` that is everything below too. A version that allows no `memory` acks sends none. What is
//! told to be committed is on all members at the version's floor. A version that ended here, by a
//! promise, a failure or silence, never goes on here. A primary that stopped gives no serial any more.
//!
//! Left out on purpose: tickets, epochs and connections, which are compared before; bytes on disk and
//! the id table, which are the store's ([`Ids`]); what a store does when it has no free slot.
//!
//! A crash leaves what the store has: a member is recovered with [`Member::recovered`], and the
//! primary's and the chain's state are gone, for good in that version.

mod assembly;
mod chain;
mod client_stream;
mod clients;
mod flight;
mod lease;
mod links;
mod ordering;
mod primary;
mod recut;
mod timers;
mod turn;
pub mod words;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sarsen_protocol::id::{ChunkVersion, Serial, ServerId};
use sarsen_protocol::message::{ChainTrouble, ErrorBody, Kind, ReportChain};
use sarsen_protocol::status::Status;

use self::chain::{Chain, Next};
use self::client_stream::ClientStream;
use self::primary::Primary;
pub use self::words::{
    Action, Answer, Config, Frame, Ids, Known, Mutations, OneMutation, Order, Reply, StreamId,
    WantedLease,
};
use super::member::{self, Done, Member, Refusal, RequestId, State};

/// One open or opening chunk on one member.
#[derive(Debug)]
pub struct Replica {
    member: Member,
    config: Config,
    actions: VecDeque<Action>,
    /// Whether the version that was begun last, or is being begun, allows acks at `memory`.
    memory: bool,
    /// Up to where the version's mutations are stable here; up to where somebody waits for that;
    /// and up to where the store was asked.
    stable: Serial,
    flush_wanted: Serial,
    flush_asked: Serial,
    /// When what nobody waits for is made stable at the latest.
    flush_due: Option<Duration>,
    /// Since when the store has not moved though something is asked of it.
    store_since: Option<Duration>,
    /// When something was heard of the chain; or, if it had been lately, when the master asked for a new
    /// version.
    heard: Option<Duration>,
    /// There is one exactly while the member is active.
    chain: Option<Chain>,
    /// There is one only beside a chain.
    primary: Option<Primary>,
    clients: BTreeMap<StreamId, ClientStream>,
    /// Clients whose record comes in parts; only the first few may go on.
    long: VecDeque<StreamId>,
    /// The version in which the master was told that a read failed here.
    told_corrupt: ChunkVersion,
}

impl Replica {
    /// A chunk that nothing is under way for.
    #[must_use]
    pub fn new(member: Member, config: Config) -> Self {
        let (begin, _) = member.began_at();
        Self {
            member,
            config,
            actions: VecDeque::new(),
            memory: false,
            stable: begin,
            flush_wanted: begin,
            flush_asked: begin,
            flush_due: None,
            store_since: None,
            heard: None,
            chain: None,
            primary: None,
            clients: BTreeMap::new(),
            long: VecDeque::new(),
            told_corrupt: ChunkVersion::NONE,
        }
    }

    /// What it promised and began: what inventories tell.
    #[must_use]
    pub const fn member(&self) -> &Member {
        &self.member
    }

    /// Whether it has nothing that a start of the chunkserver would not find again: no stream, no
    /// step, nothing that waits.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.chain.is_none() && !self.member.has_step() && self.actions.is_empty()
    }

    /// Whether somebody waits until what this member has is stable.
    #[must_use]
    pub fn awaits_disk(&self) -> bool {
        self.flush_wanted > self.stable
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// An order of the master. It is answered with [`Action::Answer`], at once or later.
    pub fn handle_order(&mut self, now: Duration, to: RequestId, order: Order) {
        match order {
            Order::Change(order) => {
                let is_known = self.is_known(&order);
                self.member.handle_order(to, order);
                // It may have been on its way for long: who serves no more has missed what it can't tell.
                if !is_known && self.is_fresh(now) {
                    self.heard = Some(now);
                }
                self.follow_member(now);
            }
            Order::Grant(grant) => self.grant(now, to, &grant),
            Order::Revoke(revoke) => self.revoke(now, to, &revoke),
        }
    }

    /// Whether something was heard of the chain lately.
    fn is_fresh(&self, now: Duration) -> bool {
        let heard = self.heard.map(|heard| now.saturating_sub(heard));
        heard.is_some_and(|silence| silence < self.config.dead_after)
    }

    /// Whether an order says nothing new: it doesn't show that the master still counts this member.
    fn is_known(&self, order: &member::Order) -> bool {
        match order {
            member::Order::Promise(promise) => promise.version <= self.member.promised(),
            member::Order::Begin(begin) => begin.version <= self.member.has().0,
            member::Order::PrepareSeal(prepare) => prepare.version <= self.member.has().0,
            member::Order::Settle(_) => true,
        }
    }

    /// Everything of the version up to `serial` is applied.
    pub fn handle_applied(&mut self, now: Duration, version: ChunkVersion, serial: Serial) {
        if self.member.has().0 == version {
            self.member
                .handle_applied(serial.min(self.member.received()));
            self.store_moved(now);
            self.follow_member(now);
        }
    }

    /// The mutation of this serial is not applied, nor is any behind it; those before it are told by
    /// [`Self::handle_applied`], and a promise waits for them. If it is in doubt what it left, nothing of
    /// the chunk is believed any more.
    pub fn handle_not_applied(
        &mut self,
        now: Duration,
        version: ChunkVersion,
        serial: Serial,
        status: Status,
        text: &str,
        is_in_doubt: bool,
    ) {
        if self.member.has().0 != version {
            return;
        }
        self.fail_here(status, text, is_in_doubt);
        self.member.handle_not_applied(serial);
        if is_in_doubt {
            self.member.handle_failed(status, text, true);
        }
        self.follow_member(now);
    }

    /// Everything of the version up to `serial` is stable.
    pub fn handle_stable(&mut self, now: Duration, version: ChunkVersion, serial: Serial) {
        if self.member.has().0 == version && serial > self.stable {
            self.stable = serial;
            self.store_moved(now);
        }
    }

    /// There is room for the chunk's bytes up to here.
    pub fn handle_reserved(&mut self, now: Duration, end: u32) {
        if let Some(primary) = &mut self.primary {
            primary.reserved = primary.reserved.max(end);
            primary.is_reserving = false;
        }
        self.store_moved(now);
    }

    /// There is none. What could not be stored here has no serial yet: others may have room.
    pub fn handle_not_reserved(&mut self, status: Status, text: &str) {
        self.fail_here(status, text, false);
    }

    /// Mutations have found no place for `suspect_after`, though checkpoints were taken: a seal sets all
    /// places free (`spec/journal.md` section 4). Whose readers hold them is a member's own lot, so any asks
    /// for it. A primary that takes no more is being changed already.
    pub fn handle_no_place(&mut self) {
        let is_over = self.primary.as_ref().is_some_and(|it| !it.is_open());
        if self.chain.is_some() && !is_over {
            let me = self.member.me().server;
            self.report(ChainTrouble::WantsSeal, me, Status::Overloaded);
        }
    }

    /// The medium failed under a read of the committed state: the master makes the next version without
    /// this member, if enough stay. Until then it goes on with what it has.
    pub fn handle_read_failed(&mut self, status: Status) {
        let version = self.member.has().0;
        if self.chain.is_some() && self.told_corrupt != version {
            self.told_corrupt = version;
            let me = self.member.me().server;
            self.report(ChainTrouble::Corrupt, me, status);
        }
    }

    /// A step of a version change is done.
    pub fn handle_done(&mut self, now: Duration, done: Done) {
        // A failure of the journal may have ended it first.
        if !self.member.has_step() {
            return;
        }
        self.member.handle_done(done);
        if matches!(done, Done::Begun { .. }) {
            let (begin, _) = self.member.began_at();
            self.stable = begin;
            self.flush_wanted = begin;
            self.flush_asked = begin;
            self.flush_due = None;
        }
        self.follow_member(now);
    }

    /// A step, a flush or the journal failed. If it is in doubt what that left, nothing of the chunk
    /// is believed any more.
    pub fn handle_failed(&mut self, now: Duration, status: Status, text: &str, is_in_doubt: bool) {
        if is_in_doubt || !self.member.has_step() {
            self.fail_here(status, text, is_in_doubt);
        }
        self.member.handle_failed(status, text, is_in_doubt);
        self.follow_member(now);
    }

    /// Whether a plain read of at least (version, serial) may be served now; the committed state that
    /// it gets is at least the one told. A chunk of which [`Member::sealed`] tells a state is read as
    /// that one instead.
    ///
    /// # Errors
    /// `behind`, `chunk_unknown`, `poisoned`.
    pub fn check_read(
        &self,
        now: Duration,
        version: ChunkVersion,
        serial: Serial,
    ) -> Result<(ChunkVersion, Serial), Refusal> {
        let refuse = |status, text| Err(self.refusal(status, text));
        match self.member.state() {
            State::Absent => return refuse(Status::ChunkUnknown, "there is no such chunk here"),
            State::Poisoned => return refuse(Status::Poisoned, "an earlier write failed"),
            _ => {}
        }
        // Nobody can leave out the only member of a version without its own promise.
        let is_alone = self
            .chain
            .as_ref()
            .is_some_and(|chain| chain.open.chain.len() == 1);
        if !is_alone && !self.is_fresh(now) {
            return refuse(
                Status::Behind,
                "nothing was heard of the chain for too long",
            );
        }
        let (held, mark) = (self.member.has().0, self.member.commit_mark());
        let (begin, _) = self.member.began_at();
        // Of a version that it began and doesn't know to be active it has what was committed before,
        // which may be less than what the version begins with: that is a state of the last one that was
        // active here. Another may have been active elsewhere since, of which it knows nothing.
        let has = match mark >= begin {
            true => (held, mark),
            false => (self.member.opened(), mark),
        };
        match has >= (version, serial) {
            true => Ok((held, mark)),
            false => refuse(Status::Behind, "the committed state is older"),
        }
    }

    /// Carries over what the member wants done.
    fn follow_member(&mut self, now: Duration) {
        while let Some(action) = self.member.poll_action() {
            let action = match action {
                // Bytes go along where mutations came; nobody else makes any.
                member::Action::Apply { .. } => continue,
                member::Action::EndStream => {
                    let (status, text) = match self.member.state() {
                        State::Poisoned => (Status::Poisoned, "an earlier write failed"),
                        _ => (Status::PromiseRefused, "a newer version was promised"),
                    };
                    let (_, error) = self.refusal(status, text);
                    self.end_chain(status, error);
                    continue;
                }
                member::Action::KeepPromise { version, epoch } => {
                    Action::KeepPromise { version, epoch }
                }
                member::Action::Make {
                    version,
                    serial,
                    memory,
                    chunk,
                } => {
                    self.memory = memory;
                    Action::Make {
                        version,
                        serial,
                        memory,
                        chunk,
                    }
                }
                member::Action::Begin {
                    version,
                    serial,
                    memory,
                } => {
                    self.memory = memory;
                    Action::Begin {
                        version,
                        serial,
                        memory,
                    }
                }
                member::Action::Prepare {
                    version,
                    length,
                    sessions_end,
                } => Action::Prepare {
                    version,
                    length,
                    sessions_end,
                },
                member::Action::Settle(version) => Action::Settle(version),
                member::Action::Answer { to, answer } => {
                    self.answer(to, (*answer).map(Answer::Change));
                    continue;
                }
            };
            self.actions.push_back(action);
        }
        self.watch_store(now);
    }

    /// This member can't go on in the version: its own medium, or what came to it. If it is in doubt
    /// what it has, it is no member of the next one.
    fn fail_here(&mut self, status: Status, text: &str, is_in_doubt: bool) {
        if self.chain.is_some() {
            let me = self.member.me().server;
            let what = match is_in_doubt {
                true => ChainTrouble::Corrupt,
                false => ChainTrouble::HopFailed,
            };
            self.report(what, me, status);
            let (_, error) = self.refusal(status, text);
            self.end_chain(status, error);
        }
    }

    /// The version is over here: neighbours and clients are told, nothing of it goes on.
    fn end_chain(&mut self, status: Status, error: ErrorBody) {
        let Some(chain) = self.chain.take() else {
            return;
        };
        self.member.handle_stream_ended(chain.version());
        if chain.next != Next::None {
            self.actions.push_back(Action::CloseNext(chain.version()));
        }
        if let Some(stream) = chain.up {
            let kind = match chain.is_opened {
                true => Kind::WriteAck,
                false => Kind::WriteOpened,
            };
            self.fail_stream(stream, kind, status, error.clone());
        }
        if self.primary.is_some() {
            // What ails a member is no client's business: it asks the master for the chunk again.
            let status = match status {
                Status::PromiseRefused => status,
                _ => Status::ChainBroken,
            };
            self.end_clients(status, &error);
            self.stop_primary();
        }
    }

    fn fail_stream(&mut self, stream: StreamId, kind: Kind, status: Status, error: ErrorBody) {
        let reply = Reply::Failed {
            kind,
            status,
            error,
        };
        self.actions.push_back(Action::Send { stream, reply });
        self.actions.push_back(Action::EndStream(stream));
    }

    fn report(&mut self, what: ChainTrouble, blamed: ServerId, status: Status) {
        let (version, serial) = self.member.has();
        self.actions.push_back(Action::Report(ReportChain {
            handle: self.member.handle(),
            version,
            serial,
            what,
            blamed,
            status: status.number(),
        }));
    }

    fn answer(&mut self, to: RequestId, answer: Result<Answer, Refusal>) {
        let answer = Box::new(answer);
        self.actions.push_back(Action::Answer { to, answer });
    }

    /// A refusal that tells what the replica has, and where.
    fn refusal(&self, status: Status, text: &str) -> Refusal {
        let mut error = ErrorBody::new(format!("chunk {}: {text}", self.member.handle()));
        error.server = self.member.me().server;
        (error.version, error.serial) = self.member.has();
        (status, error)
    }
}

#[cfg(test)]
mod tests;
