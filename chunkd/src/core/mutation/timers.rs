//! What happens because nothing did: silence, beats, leases, patience
//! (`spec/replication.md` sections 5, 7 and 16).

use std::time::Duration;

use sarsen_protocol::id::Serial;
use sarsen_protocol::message::WriteAck;
use sarsen_protocol::status::Status;

use super::Replica;
use super::chain::{Chain, Next};
use super::primary::Phase;
use super::words::{Action, Config, Frame, Reply};

/// How often it is looked whether somebody was told nothing: twice in the time in which everybody has
/// to be told something.
pub(super) fn beat(config: &Config) -> Duration {
    (config.suspect_after / 6).max(Duration::from_millis(1))
}

impl Replica {
    /// When [`Replica::handle_timeout`] is to be called at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let chain = self.chain.as_ref()?;
        let suspect_after = self.config.suspect_after;
        let next = (chain.next != Next::None).then_some(chain.next_heard + suspect_after);
        let up = chain.up.map(|_| chain.up_heard + suspect_after);
        let primary = self.primary.as_ref().map(|primary| match primary.phase {
            Phase::Opening | Phase::Ordering => primary.lease_until,
            Phase::Draining(until) => until.min(primary.lease_until),
            Phase::Drained(until) => until,
        });
        let store = self
            .store_since
            .map(|since| since + self.config.disk_patience);
        [
            Some(chain.beat),
            chain.mark_due,
            next,
            up,
            primary,
            store,
            self.flush_due,
            self.stalled_at(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Some time has passed. Calling it too early or too late does no harm.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.check_lease(now);
        self.check_silence(now);
        if self
            .store_since
            .is_some_and(|since| now.saturating_sub(since) >= self.config.disk_patience)
        {
            self.store_since = None;
            self.fail_here(Status::MediumFailed, "the disk does not answer", false);
        }
        if self.flush_due.is_some_and(|due| now >= due) {
            self.flush_due = None;
            self.flush_wanted = self.flush_wanted.max(self.member.received());
        }
        self.end_stalled(now);
        self.send_due_mark(now);
        self.send_keep_alives(now);
    }

    /// A lease that is over ends the primary, and so does a drain that takes too long.
    pub(super) fn check_lease(&mut self, now: Duration) {
        let Some(primary) = &self.primary else { return };
        match primary.phase {
            Phase::Drained(until) if now >= until => {
                let (status, error) = self.refusal(Status::PromiseRefused, "the lease is over");
                self.end_chain(status, error);
            }
            Phase::Drained(_) => {}
            Phase::Draining(until) if now >= until => self.drained(now),
            _ if now >= primary.lease_until => self.drained(now),
            _ => {}
        }
    }

    fn check_silence(&mut self, now: Duration) {
        let suspect_after = self.config.suspect_after;
        let is_silent = |heard| now.saturating_sub(heard) >= suspect_after;
        let Some(chain) = &self.chain else { return };
        if chain.next != Next::None && is_silent(chain.next_heard) {
            self.lose_next(Status::ChainBroken, "the next hop is silent");
        } else if chain.up.is_some() && is_silent(chain.up_heard) {
            let before = chain.server_before();
            self.lose_before(before);
        }
    }

    /// Tells the next hop a commit mark that nothing took along.
    fn send_due_mark(&mut self, now: Duration) {
        let commit_mark = self.member.commit_mark();
        let Some(chain) = &mut self.chain else { return };
        if chain.mark_due.is_some_and(|due| now >= due) {
            chain.mark_due = None;
            if commit_mark > chain.told {
                tell_next(chain, commit_mark, &mut self.actions);
            }
        }
    }

    /// Says something to everybody who was told nothing since the last beat.
    fn send_keep_alives(&mut self, now: Duration) {
        let commit_mark = self.member.commit_mark();
        let Some(chain) = &mut self.chain else { return };
        if now < chain.beat {
            return;
        }
        chain.beat = now + beat(&self.config);
        if chain.next != Next::None && !std::mem::take(&mut chain.next_was_sent) {
            tell_next(chain, commit_mark, &mut self.actions);
            chain.next_was_sent = false;
        }
        let floor = chain.floor();
        if let Some(stream) = chain.up
            && !std::mem::take(&mut chain.up_was_sent)
        {
            let reply = Reply::Ack(chain.ack(floor, commit_mark));
            self.actions.push_back(Action::Send { stream, reply });
        }
        let copies = chain.copies();
        for (&stream, client) in &mut self.clients {
            if !std::mem::take(&mut client.was_sent) {
                let reply = Reply::Ack(WriteAck {
                    serial: client.acked_writes,
                    commit_mark: client.acked_serial,
                    level: client.acked_level,
                    copies,
                });
                self.actions.push_back(Action::Send { stream, reply });
            }
        }
    }

    /// The store did something.
    pub(super) fn store_moved(&mut self, now: Duration) {
        self.store_since = None;
        self.watch_store(now);
    }

    /// Whether something is asked of the store, from now on if it was not before.
    pub(super) fn watch_store(&mut self, now: Duration) {
        let (_, applied) = self.member.has();
        let is_asked = self.chain.is_some()
            && (applied < self.member.received()
                || self.stable < self.flush_asked
                || self
                    .primary
                    .as_ref()
                    .is_some_and(|primary| primary.is_reserving));
        match (is_asked, self.store_since) {
            (true, None) => self.store_since = Some(now),
            (false, Some(_)) => self.store_since = None,
            _ => {}
        }
    }
}

/// Sends a mark that asks for no answer.
fn tell_next(
    chain: &mut Chain,
    commit_mark: Serial,
    actions: &mut std::collections::VecDeque<Action>,
) {
    chain.told = chain.told.max(commit_mark);
    chain.mark_due = None;
    chain.next_was_sent = true;
    let frame = Frame::Mark(chain.mark(commit_mark, 0));
    actions.push_back(Action::SendNext(frame));
}
