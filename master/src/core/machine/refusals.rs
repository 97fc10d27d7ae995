//! Refusals of which nothing is logged, kept so that whoever was told of one can rely on it
//! (`spec/wire.md` section 3).
//!
//! A request that was sent over two connections may come twice, the second time after the first
//! was refused and its reason has passed: it must not be done then. Both connections end with this
//! master, so memory is enough, and a restart forgets everything here.
//!
//! A session keeps one status for each of its numbers at the most, and these lie as near to each
//! other as those whose answers are in the log: [`OUTSTANDING_MAX`].

use std::collections::BTreeMap;

use sarsen_protocol::id::{RequestId, SessionId};
use sarsen_protocol::sabotage::{Check, is_in_force};
use sarsen_protocol::status::{Retry, Status};

use super::changes::OUTSTANDING_MAX;

/// Of all sessions.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    by_session: BTreeMap<SessionId, Kept>,
}

/// Of one session.
#[derive(Debug, Default)]
struct Kept {
    /// The highest of the lowest outstanding numbers that came with the refused requests.
    lowest: u64,
    /// Of the numbers from there on.
    statuses: BTreeMap<u64, Status>,
}

impl Refusals {
    /// Keeps what a request was refused with, unless it may be sent again.
    pub(super) fn keep(&mut self, request: RequestId, status: Status) {
        let is_near = request.number - request.lowest_outstanding < OUTSTANDING_MAX;
        if !is_final(status) || !is_near {
            return;
        }
        let kept = self.by_session.entry(request.session).or_default();
        if request.lowest_outstanding > kept.lowest {
            kept.lowest = request.lowest_outstanding;
            // One by one, as they come: the others need not be moved.
            while let Some(first) = kept.statuses.first_entry()
                && *first.key() < kept.lowest
            {
                first.remove();
            }
        }
        if request.number >= kept.lowest {
            kept.statuses.insert(request.number, status);
        }
    }

    /// What a request was refused with.
    pub(super) fn status(&self, request: RequestId) -> Option<Status> {
        let kept = self.by_session.get(&request.session);
        let kept = kept.filter(|_| is_in_force(Check::RefusalKept))?;
        match request.number < kept.lowest {
            true => Some(Status::RequestForgotten),
            false => kept.statuses.get(&request.number).copied(),
        }
    }

    /// A session is over.
    pub(super) fn end(&mut self, session: SessionId) {
        self.by_session.remove(&session);
    }
}

/// Whether whoever was refused so may not send the same request again. A session that is unknown, or
/// a number that is forgotten, stays so and need not be kept.
fn is_final(status: Status) -> bool {
    let is_of_id = matches!(status, Status::SessionUnknown | Status::RequestForgotten);
    let may_pass = matches!(status.retry(), Retry::Wait | Retry::Reconnect);
    !is_of_id && !may_pass && status != Status::NotLeader
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionId = SessionId(3);

    fn id(number: u64, lowest_outstanding: u64) -> RequestId {
        RequestId {
            session: SESSION,
            number,
            lowest_outstanding,
        }
    }

    #[test]
    fn what_may_be_sent_again_is_not_kept() {
        let mut refusals = Refusals::default();
        for status in [
            Status::SafeMode,
            Status::TooFewServers,
            Status::Overloaded,
            Status::Unavailable,
            Status::ShuttingDown,
            Status::NotLeader,
            Status::SessionUnknown,
        ] {
            refusals.keep(id(1, 1), status);
            assert!(refusals.by_session.is_empty(), "{status}");
        }
    }

    #[test]
    fn a_session_keeps_no_more_than_may_be_outstanding() {
        let mut refusals = Refusals::default();
        refusals.keep(id(1 + OUTSTANDING_MAX, 1), Status::TooLarge);
        assert_eq!(refusals.status(id(1 + OUTSTANDING_MAX, 1)), None);
        (1..=OUTSTANDING_MAX).for_each(|number| refusals.keep(id(number, 1), Status::NotFound));
        refusals.keep(id(1 + OUTSTANDING_MAX, 2), Status::NotFound);
        let kept = &refusals.by_session[&SESSION].statuses;
        assert_eq!(kept.len() as u64, OUTSTANDING_MAX);
        assert_eq!(refusals.status(id(1, 1)), Some(Status::RequestForgotten));
        refusals.keep(id(1, 1), Status::NotFound);
        assert_eq!(refusals.status(id(1, 1)), Some(Status::RequestForgotten));
        refusals.end(SESSION);
        assert_eq!(refusals.status(id(2, 1)), None);
    }
}
