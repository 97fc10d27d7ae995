//! What to do about a request to the master that failed (`spec/wire.md` section 10).
//!
//! [`RequestRetry`] lives as long as one request and answers each failure with a [`Step`]. It
//! never gives up on what may pass before the request's time is over, and never repeats what
//! can't end otherwise. A request that was sent and not answered may have been done: it may be
//! repeated with its request id, which makes it done once, but not under another session's.

use std::time::Duration;

use sarsen_protocol::status::{Retry, Status};

/// The first wait.
const DELAY_MIN: Duration = Duration::from_millis(25);

/// The longest wait.
const DELAY_MAX: Duration = Duration::from_secs(1);

/// Waits that double, with jitter, so that clients which failed together don't return together.
#[derive(Clone, Debug)]
pub struct Backoff {
    random: u64,
    failures: u32,
}

impl Backoff {
    /// A back-off that has not waited yet.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            random: seed,
            failures: 0,
        }
    }

    /// How long to wait after one more failure: between half of the step and the whole.
    pub fn delay(&mut self) -> Duration {
        let step = DELAY_MIN
            .saturating_mul(1 << self.failures.min(16))
            .min(DELAY_MAX);
        self.failures = self.failures.saturating_add(1);
        self.random = split_mix(self.random);
        let half = step / 2;
        // 1,024 places between a half and the whole are jitter enough.
        half + half * u32::try_from(self.random % 1024).unwrap_or(0) / 1024
    }

    /// Something worked: the next failure waits as the first one did.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// The next state of the generator SplitMix64, which is also its output.
#[must_use]
pub(crate) const fn split_mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection: the request was not sent.
    NotSent,
    /// The request was sent, and the connection ended or stayed silent.
    NotAnswered,
    /// The master answered with a failure.
    Answered {
        /// Which.
        status: Status,
        /// How long it asks us to wait; zero if it doesn't say.
        retry_after: Duration,
    },
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send the same request again.
    Again {
        /// After this time.
        after: Duration,
        /// On a new connection, to the next master if there are several.
        redial: bool,
    },
    /// The session is unknown, and the request was surely not done: send it under another one.
    NewSession,
    /// Tell the caller.
    GiveUp(GiveUp),
}

/// Why a request is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveUp {
    /// The answer is final.
    Refused,
    /// The time is over.
    OutOfTime,
    /// The session ended while the request was unanswered: it may have been done, or not.
    OutcomeUnknown,
}

/// The life of one request, over all its tries.
#[derive(Clone, Debug)]
pub struct RequestRetry {
    deadline: Duration,
    backoff: Backoff,
    unanswered: bool,
    renewed: bool,
}

impl RequestRetry {
    /// A request that begins `now` and may take `timeout`.
    #[must_use]
    pub fn new(now: Duration, timeout: Duration, seed: u64) -> Self {
        Self {
            deadline: now.saturating_add(timeout),
            backoff: Backoff::new(seed),
            unanswered: false,
            renewed: false,
        }
    }

    /// When the request's time is over.
    #[must_use]
    pub const fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Whether a try was sent and never answered: what it asked for may have been done.
    #[must_use]
    pub const fn is_unanswered(&self) -> bool {
        self.unanswered
    }

    /// Says what to do about a try that failed.
    pub fn handle_failure(&mut self, now: Duration, failure: Failure) -> Step {
        let (after, redial) = match failure {
            Failure::NotSent => (Duration::ZERO, true),
            Failure::NotAnswered => {
                self.unanswered = true;
                (Duration::ZERO, true)
            }
            Failure::Answered {
                status: Status::SessionUnknown,
                ..
            } => {
                if self.unanswered {
                    return Step::GiveUp(GiveUp::OutcomeUnknown);
                }
                // A master that forgets a session that it just opened will forget the next.
                return match std::mem::replace(&mut self.renewed, true) {
                    false => Step::NewSession,
                    true => Step::GiveUp(GiveUp::Refused),
                };
            }
            Failure::Answered {
                status,
                retry_after,
            } => match (status, status.retry()) {
                (_, Retry::Wait) => (retry_after, false),
                (_, Retry::Reconnect) | (Status::NotLeader, _) => (retry_after, true),
                // The master has no replicas of itself to try, and no one else to ask.
                (_, Retry::Never | Retry::Elsewhere | Retry::Refresh) => {
                    return Step::GiveUp(GiveUp::Refused);
                }
            },
        };
        let after = after.max(self.backoff.delay());
        match now.saturating_add(after) < self.deadline {
            true => Step::Again { after, redial },
            false => Step::GiveUp(GiveUp::OutOfTime),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn answered(status: Status) -> Failure {
        Failure::Answered {
            status,
            retry_after: Duration::ZERO,
        }
    }

    fn step(status: Status) -> Step {
        RequestRetry::new(Duration::ZERO, TIMEOUT, 1)
            .handle_failure(Duration::ZERO, answered(status))
    }

    #[test]
    fn waits_double_within_their_bounds_and_repeat_for_a_seed() {
        let mut backoff = Backoff::new(7);
        let delays: Vec<_> = (0..9).map(|_| backoff.delay()).collect();
        let mut step = DELAY_MIN;
        for delay in &delays {
            assert!(*delay >= step / 2 && *delay < step, "{delay:?} of {step:?}");
            step = (step * 2).min(DELAY_MAX);
        }
        let mut again = Backoff::new(7);
        assert!(delays.iter().all(|&delay| delay == again.delay()));
        again.reset();
        assert!(again.delay() < DELAY_MIN);
    }

    #[test]
    fn the_class_of_a_status_decides() {
        for (status, redial) in [
            (Status::SafeMode, false),
            (Status::TooFewServers, false),
            (Status::Overloaded, false),
            (Status::ShuttingDown, true),
            (Status::NotLeader, true),
        ] {
            assert!(
                matches!(step(status), Step::Again { redial: r, .. } if r == redial),
                "{status}"
            );
        }
        for status in [
            Status::NotFound,
            Status::ReadOnly,
            Status::Internal,
            Status::NoSpace,
        ] {
            assert_eq!(step(status), Step::GiveUp(GiveUp::Refused), "{status}");
        }
    }

    #[test]
    fn a_master_that_asks_for_time_gets_it() {
        let mut retry = RequestRetry::new(Duration::ZERO, TIMEOUT, 1);
        let failure = Failure::Answered {
            status: Status::SafeMode,
            retry_after: Duration::from_secs(5),
        };
        assert_eq!(
            retry.handle_failure(Duration::ZERO, failure),
            Step::Again {
                after: Duration::from_secs(5),
                redial: false
            }
        );
        assert_eq!(
            retry.handle_failure(Duration::from_secs(26), failure),
            Step::GiveUp(GiveUp::OutOfTime)
        );
    }

    #[test]
    fn another_session_only_while_every_try_was_answered() {
        let unknown = answered(Status::SessionUnknown);
        let mut retry = RequestRetry::new(Duration::ZERO, TIMEOUT, 1);
        retry.handle_failure(Duration::ZERO, Failure::NotSent);
        assert_eq!(
            retry.handle_failure(Duration::ZERO, unknown),
            Step::NewSession
        );
        assert_eq!(
            retry.clone().handle_failure(Duration::ZERO, unknown),
            Step::GiveUp(GiveUp::Refused),
            "once only"
        );
        retry.handle_failure(Duration::ZERO, Failure::NotAnswered);
        assert_eq!(
            retry.handle_failure(Duration::ZERO, unknown),
            Step::GiveUp(GiveUp::OutcomeUnknown)
        );
    }
}
