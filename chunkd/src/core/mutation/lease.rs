//! The lease of a primary: granted, extended, revoked, over; and questions about the newest state
//! (`spec/replication.md` sections 5 and 12).

use std::time::Duration;

use sarsen_protocol::id::{ChunkVersion, Serial};
use sarsen_protocol::message::{
    GrantLease, LeaseRevoked, Level, Newest, NewestReply, RevokeLease, WriteOpen,
};
use sarsen_protocol::status::Status;

use super::super::member::{Refusal, RequestId, State};
use super::chain::{Chain, Next};
use super::primary::{Confirming, Phase, Primary};
use super::words::{Action, Answer, Frame, WantedLease};
use super::{Replica, timers};

impl Replica {
    /// The master makes this member the primary of an active version, or says so again.
    pub(super) fn grant(&mut self, now: Duration, to: RequestId, grant: &GrantLease) {
        let granted = self.try_grant(now, grant).map(|()| Answer::Granted);
        self.answer(to, granted);
    }

    fn try_grant(&mut self, now: Duration, grant: &GrantLease) -> Result<(), Refusal> {
        let until = now + Duration::from_millis(u64::from(grant.lease));
        if let Some(primary) = &mut self.primary
            && self.chain.as_ref().map(Chain::version) == Some(grant.version)
        {
            if !primary.is_open() || now >= primary.lease_until {
                return Err(self.refusal(Status::PromiseRefused, "the primary has stopped"));
            }
            primary.lease_until = primary.lease_until.max(until);
            primary.lock_token = primary.lock_token.max(grant.lock_token);
            primary.is_full |= grant.closed;
            return Ok(());
        }
        let me = self.member.me().server;
        if grant.chain.first().map(|hop| hop.server) != Some(me) {
            return Err(self.refusal(Status::InvalidArgument, "another server is the primary"));
        }
        if grant.memory != self.memory {
            let text = "the version was begun with other acknowledgements allowed";
            return Err(self.refusal(Status::InvalidArgument, text));
        }
        let mark = self.member.commit_mark();
        self.member.handle_open(grant.version, grant.begin_serial)?;
        self.heard = Some(now);
        self.note_commit(mark);
        let open = WriteOpen {
            ticket: grant.ticket,
            handle: grant.handle,
            version: grant.version,
            file_id: grant.file_id,
            index: grant.index,
            room: 0,
            begin_serial: grant.begin_serial,
            lock_token: grant.lock_token,
            level: match grant.memory {
                true => Level::Memory,
                false => Level::Disk,
            },
            position: 0,
            chain: grant.chain.clone(),
        };
        let chain = Chain::new(now, open, grant.memory, None, timers::beat(&self.config));
        let (_, length) = self.member.began_at();
        let phase = match chain.next {
            Next::None => Phase::Ordering,
            _ => Phase::Opening,
        };
        let mut primary = Primary::new(phase, until, grant.begin_serial, length);
        primary.lock_token = grant.lock_token;
        primary.is_full = grant.closed;
        self.primary = Some(primary);
        self.begin_chain(chain);
        Ok(())
    }

    /// The chain of a primary is open to its end.
    pub(super) fn chain_is_open(&mut self) {
        if let Some(primary) = &mut self.primary
            && primary.phase == Phase::Opening
        {
            primary.phase = Phase::Ordering;
        }
    }

    /// The lease of a version lasts until then: when the request was sent, and what the master gave.
    /// One that is over is not taken up again.
    pub fn handle_lease_extended(&mut self, now: Duration, version: ChunkVersion, until: Duration) {
        if self.version() == Some(version)
            && let Some(primary) = &mut self.primary
            && primary.is_open()
            && now < primary.lease_until
        {
            primary.lease_until = primary.lease_until.max(until);
            primary.has_worked = false;
        }
    }

    /// What to ask the master to extend, at each heartbeat: a lease, if there was or is work.
    #[must_use]
    pub fn wanted_lease(&self) -> Option<WantedLease> {
        let (chain, primary) = (self.chain.as_ref()?, self.primary.as_ref()?);
        let commit_mark = self.member.commit_mark();
        let waits = primary.last > commit_mark || !primary.turns.is_empty();
        (primary.is_open() && (primary.has_worked || waits)).then(|| WantedLease {
            version: chain.version(),
            length: primary.committed_length,
            serial: commit_mark,
        })
    }

    /// The lease ends before its time: what is ordered is waited for, then it is answered.
    pub(super) fn revoke(&mut self, now: Duration, to: RequestId, revoke: &RevokeLease) {
        let is_it = self.version() == Some(revoke.version);
        match &mut self.primary {
            Some(primary) if is_it && !matches!(primary.phase, Phase::Drained(_)) => {
                primary.revoked.push(to);
                if primary.is_open() {
                    primary.phase = Phase::Draining(now + self.config.suspect_after);
                    // Nobody waits for long.
                    self.flush_wanted = self.flush_wanted.max(self.member.received());
                }
            }
            _ => {
                let revoked = self.revoked_answer();
                self.answer(to, Ok(Answer::Revoked(revoked)));
            }
        }
    }

    fn revoked_answer(&self) -> LeaseRevoked {
        let (_, applied) = self.member.has();
        let last = self
            .primary
            .as_ref()
            .map_or(applied, |primary| primary.last);
        LeaseRevoked {
            serial: last,
            commit_mark: self.member.commit_mark(),
        }
    }

    /// Ends the drain when nothing waits any more.
    pub(super) fn check_drained(&mut self, now: Duration) {
        let Some(primary) = &self.primary else { return };
        let is_draining = matches!(primary.phase, Phase::Draining(_));
        let is_committed = primary.last == self.member.commit_mark();
        let all_answered = self.clients.values().all(|client| client.is_answered());
        if is_draining && is_committed && all_answered && primary.turns.is_empty() {
            self.drained(now);
        }
    }

    /// It orders nothing any more: clients go to the master. The chain stays for a while.
    pub(super) fn drained(&mut self, now: Duration) {
        let (status, error) = self.refusal(Status::PromiseRefused, "the primary has stopped");
        self.end_clients(status, &error);
        let revoked = self.revoked_answer();
        let suspect_after = self.config.suspect_after;
        let Some(primary) = &mut self.primary else {
            return;
        };
        primary.phase = Phase::Drained(primary.lease_until.max(now) + suspect_after);
        for to in std::mem::take(&mut primary.revoked) {
            self.answer(to, Ok(Answer::Revoked(revoked)));
        }
        self.refuse_newest();
    }

    /// There is no primary of the version here any more.
    pub(super) fn stop_primary(&mut self) {
        let revoked = self.revoked_answer();
        self.refuse_newest();
        if let Some(primary) = self.primary.take() {
            for to in primary.revoked {
                self.answer(to, Ok(Answer::Revoked(revoked)));
            }
        }
    }

    /// Which state is the newest: asked of the primary, which asks all members. The ticket was
    /// compared. Answered by [`Action::Answer`].
    pub fn handle_newest(&mut self, _now: Duration, to: RequestId, newest: &Newest) {
        let refusal = match (self.member.state(), &mut self.primary) {
            (State::Sealed, _) => (Status::ChunkSealed, "the chunk is sealed here"),
            (State::Absent, _) => (Status::ChunkUnknown, "there is no such chunk here"),
            _ if self.member.promised() > newest.version => {
                (Status::PromiseRefused, "a newer version was promised")
            }
            _ if self.member.has().0 != newest.version => {
                (Status::Moved, "the version was not begun")
            }
            (_, Some(primary)) if primary.is_open() => {
                primary.has_worked = true;
                primary.newest.push(to);
                return;
            }
            (_, Some(_)) => (Status::PromiseRefused, "the primary has stopped"),
            (_, None) => (
                Status::NotPrimary,
                "another member orders the chunk's mutations",
            ),
        };
        let refusal = self.refusal(refusal.0, refusal.1);
        self.answer(to, Err(refusal));
    }

    /// Has all members confirm the committed state for everybody who asked since the last time.
    pub(super) fn ask_newest(&mut self) {
        let commit_mark = self.member.commit_mark();
        let (Some(chain), Some(primary)) = (&mut self.chain, &mut self.primary) else {
            return;
        };
        let may_ask = primary.phase == Phase::Ordering && primary.confirming.is_none();
        if !may_ask || primary.newest.is_empty() {
            return;
        }
        primary.mark_number += 1;
        let number = primary.mark_number;
        primary.confirming = Some(Confirming {
            number,
            serial: commit_mark,
            length: primary.committed_length,
            to: std::mem::take(&mut primary.newest),
        });
        if chain.next == Next::None {
            self.confirmed(number);
        } else {
            chain.told = commit_mark;
            chain.mark_due = None;
            chain.next_was_sent = true;
            let frame = Frame::Mark(chain.mark(commit_mark, number));
            self.actions.push_back(Action::SendNext(frame));
        }
    }

    /// All members behind have confirmed a mark; this one has promised nothing newer, or it would
    /// have no chain.
    pub(super) fn confirmed(&mut self, number: u64) {
        let Some(primary) = &mut self.primary else {
            return;
        };
        let is_it = |asked: &mut Confirming| asked.number == number;
        let Some(asked) = primary.confirming.take_if(is_it) else {
            return;
        };
        let (version, _) = self.member.has();
        for to in asked.to {
            let newest = NewestReply {
                version,
                serial: asked.serial,
                length: asked.length,
            };
            self.answer(to, Ok(Answer::Newest(newest)));
        }
    }

    fn refuse_newest(&mut self) {
        let Some(primary) = &mut self.primary else {
            return;
        };
        let mut all = std::mem::take(&mut primary.newest);
        if let Some(asked) = primary.confirming.take() {
            all.extend(asked.to);
        }
        for to in all {
            let refusal = self.refusal(Status::PromiseRefused, "the primary has stopped");
            self.answer(to, Err(refusal));
        }
    }

    /// A primary's new commit mark.
    pub(super) fn commit(&mut self, now: Duration, serial: Serial) {
        let before = self.member.commit_mark();
        if serial <= before {
            return;
        }
        let (Some(chain), Some(primary)) = (&mut self.chain, &mut self.primary) else {
            return;
        };
        self.member.handle_commit_mark(chain.version(), serial);
        primary.committed(serial);
        if chain.next != Next::None && chain.mark_due.is_none() {
            chain.mark_due = Some(now + self.config.mark_after);
        }
        self.note_commit(before);
    }
}
