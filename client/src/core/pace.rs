//! How quick servers are to answer reads, as one client sees it: which one is to be left for
//! another replica, and when a second one is asked beside it.
//!
//! Nothing here is on the wire (`spec/wire.md` section 12.2 leaves a reader its choice). There is
//! one [`Pace`] for each kind of answer whose times can be compared: small reads, and the frames of
//! long ones.
//!
//! ```text
//! a server is late     when it has not answered for LATE_FACTOR * the 95th percentile of the last
//!                      answers of all servers, at least the floor
//! a server is slow     after it was late, for SLOW_MIN, twice as long each time until it answers
//!                      in time again, up to SLOW_MAX;
//!                      and while its mean, of answers of the last SLOW_MAX, is over the floor and
//!                      over SLOW_FACTOR * that of the quickest other server
//! a read may be hedged when its server is slow, or EARNED_MAX allows it: each read earns a
//!                      twentieth of a hedge
//! ```
//!
//! So hedges can't double the load of a cluster that is busy everywhere, where all are late; and of
//! one server that hangs only the first reads have to find that out.

use std::collections::BTreeMap;
use std::time::Duration;

use sarsen_protocol::id::ServerId;

/// How many times the usual is late.
const LATE_FACTOR: u32 = 4;

/// How many times the quickest other server's mean is slow.
const SLOW_FACTOR: u32 = 4;

/// How long a server counts as slow that was late once.
const SLOW_MIN: Duration = Duration::from_secs(1);

/// How long it does at the most.
const SLOW_MAX: Duration = Duration::from_secs(30);

/// Answers that the usual is taken from.
const RECENT: usize = 64;

/// Answers before which nothing is usual.
const KNOWN_MIN: usize = 8;

/// Answers of one server before which its mean says nothing.
const MEAN_MIN: u32 = 4;

/// Reads that earn one hedge.
const READS_PER_HEDGE: u32 = 20;

/// What may be earned ahead, and what there is at first, in hedges.
const EARNED_MAX: u32 = 8;

/// How quick the servers are.
#[derive(Clone, Debug)]
pub struct Pace {
    /// No answer is late before.
    floor: Duration,
    servers: BTreeMap<ServerId, Server>,
    recent: [Duration; RECENT],
    /// Answers so far.
    answers: usize,
    /// The 95th percentile of the recent ones.
    usual: Duration,
    /// In parts of a hedge that a read earns.
    earned: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Server {
    mean: Duration,
    answers: u32,
    /// When it last answered.
    at: Duration,
    /// How often it was late since it last was in time.
    lates: u32,
    slow_until: Duration,
}

impl Server {
    /// Whether its mean says something still.
    fn has_mean(&self, now: Duration) -> bool {
        self.answers >= MEAN_MIN && now.saturating_sub(self.at) <= SLOW_MAX
    }
}

impl Pace {
    /// Nothing is known yet; whatever will be, no answer is late before `floor`.
    #[must_use]
    pub const fn new(floor: Duration) -> Self {
        Self {
            floor,
            servers: BTreeMap::new(),
            recent: [Duration::ZERO; RECENT],
            answers: 0,
            usual: Duration::ZERO,
            earned: EARNED_MAX * READS_PER_HEDGE,
        }
    }

    /// A read begins.
    pub fn handle_begin(&mut self) {
        self.earned = (self.earned + 1).min(EARNED_MAX * READS_PER_HEDGE);
    }

    /// A server answered after it was waited for so long.
    pub fn handle_answer(&mut self, now: Duration, server: ServerId, waited: Duration) {
        let in_time = self.late_after().is_none_or(|late| waited < late);
        let known = self.servers.entry(server).or_default();
        if now.saturating_sub(known.at) > SLOW_MAX {
            (known.answers, known.mean) = (0, waited);
        }
        known.at = now;
        known.answers = known.answers.saturating_add(1);
        // An eighth of the way to the newest.
        known.mean = known.mean - known.mean / 8 + waited / 8;
        if known.answers == 1 {
            known.mean = waited;
        }
        if in_time {
            (known.lates, known.slow_until) = (0, Duration::ZERO);
        }
        if let Some(place) = self.recent.get_mut(self.answers % RECENT) {
            *place = waited;
        }
        self.answers = self.answers.wrapping_add(1);
        // Sorting them costs as much as a small read's other bookkeeping: now and then will do.
        if self.answers <= RECENT || self.answers.is_multiple_of(16) {
            self.usual = percentile_95(&self.recent, self.answers.min(RECENT));
        }
    }

    /// A server was late and is not waited for any more, or not alone.
    pub fn handle_late(&mut self, now: Duration, server: ServerId) {
        let known = self.servers.entry(server).or_default();
        // Many reads that wait for it at once find it late at once: that is one time.
        if now >= known.slow_until {
            let times = 1_u32 << known.lates.min(16);
            known.slow_until = now + SLOW_MIN.saturating_mul(times).min(SLOW_MAX);
            known.lates = known.lates.saturating_add(1);
        }
    }

    /// After how long an answer is late; `None` as long as nothing is usual.
    #[must_use]
    pub fn late_after(&self) -> Option<Duration> {
        let known = self.answers >= KNOWN_MIN;
        known.then(|| self.floor.max(self.usual.saturating_mul(LATE_FACTOR)))
    }

    /// Whether a server is to be left where another will do.
    #[must_use]
    pub fn is_slow(&self, now: Duration, server: ServerId) -> bool {
        let known = self.servers.get(&server);
        known.is_some_and(|known| self.is_slow_beside(now, server, known, &self.quickest(now)))
    }

    /// The servers that are slow.
    #[must_use]
    pub fn slow(&self, now: Duration) -> Vec<ServerId> {
        // Found once: this is asked before each small read, of as many servers as there are.
        let quickest = self.quickest(now);
        let servers = self.servers.iter();
        let slow =
            servers.filter(|&(&server, known)| self.is_slow_beside(now, server, known, &quickest));
        slow.map(|(&server, _)| server).collect()
    }

    fn is_slow_beside(
        &self,
        now: Duration,
        server: ServerId,
        known: &Server,
        quickest: &[Option<(Duration, ServerId)>; 2],
    ) -> bool {
        let mut others = quickest.iter().flatten().filter(|(_, id)| *id != server);
        let other = others.next();
        now < known.slow_until
            || known.has_mean(now)
                && known.mean > self.floor
                && other.is_some_and(|(mean, _)| known.mean > mean.saturating_mul(SLOW_FACTOR))
    }

    /// The two quickest servers by their means, so that each server has another among them.
    fn quickest(&self, now: Duration) -> [Option<(Duration, ServerId)>; 2] {
        let known = self.servers.iter().filter(|(_, known)| known.has_mean(now));
        known.fold([None, None], |[first, second], (&server, known)| {
            let this = (known.mean, server);
            match (first, second) {
                (Some(best), _) if this >= best => {
                    [first, Some(second.map_or(this, |next| this.min(next)))]
                }
                _ => [Some(this), first],
            }
        })
    }

    /// A server is late: whether another may be asked for the same. Spends what that costs.
    pub fn may_hedge(&mut self, now: Duration, server: ServerId) -> bool {
        if self.is_slow(now, server) {
            return true;
        }
        let left = self.earned.checked_sub(READS_PER_HEDGE);
        self.earned = left.unwrap_or(self.earned);
        left.is_some()
    }
}

fn percentile_95(recent: &[Duration; RECENT], count: usize) -> Duration {
    let mut sorted = *recent;
    let (known, _) = sorted.split_at_mut(count.min(RECENT));
    known.sort_unstable();
    known.get(count * 95 / 100).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ServerId = ServerId(1);
    const B: ServerId = ServerId(2);

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Two servers that have each answered so often, in so long.
    fn pace(answers: u64, a: Duration, b: Duration) -> Pace {
        let mut pace = Pace::new(ms(10));
        for n in 0..answers {
            pace.handle_answer(ms(n), A, a);
            pace.handle_answer(ms(n), B, b);
        }
        pace
    }

    #[test]
    fn late_is_a_multiple_of_the_usual_and_not_below_the_floor() {
        assert_eq!(pace(3, ms(1), ms(1)).late_after(), None, "too few");
        assert_eq!(pace(4, ms(1), ms(1)).late_after(), Some(ms(10)));
        assert_eq!(pace(40, ms(20), ms(20)).late_after(), Some(ms(80)));
        // One answer in forty that is slow is not what is usual.
        let mut pace = pace(40, ms(20), ms(20));
        pace.handle_answer(ms(41), A, ms(5000));
        assert_eq!(pace.late_after(), Some(ms(80)));
    }

    #[test]
    fn a_server_that_is_late_is_slow_for_longer_each_time_until_it_is_in_time() {
        let mut pace = pace(20, ms(1), ms(1));
        let mut now = ms(100);
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            assert!(!pace.is_slow(now, A));
            pace.handle_late(now, A);
            pace.handle_late(now, A);
            let until = now + Duration::from_secs(seconds);
            assert!(pace.is_slow(until - ms(1), A), "{seconds}");
            assert_eq!(pace.slow(now), [A]);
            now = until;
        }
        pace.handle_answer(now, A, ms(1));
        pace.handle_late(now, A);
        assert!(!pace.is_slow(now + SLOW_MIN, A), "it begins anew");
        assert!(!pace.is_slow(now, B));
    }

    #[test]
    fn a_server_whose_mean_is_many_times_anothers_is_slow_while_that_is_news() {
        let pace = pace(10, ms(50), ms(5));
        assert!(pace.is_slow(ms(10), A));
        assert!(!pace.is_slow(ms(10), B));
        assert!(!pace.is_slow(SLOW_MAX + ms(10), A), "forgotten");
        let both = super::tests::pace(10, ms(50), ms(40));
        assert_eq!(both.slow(ms(10)), [], "all of them are as busy");
        let quick = super::tests::pace(10, ms(9), ms(1));
        assert_eq!(quick.slow(ms(10)), [], "under the floor");
        let few = super::tests::pace(3, ms(50), ms(5));
        assert_eq!(few.slow(ms(10)), [], "too few");
    }

    #[test]
    fn hedges_are_a_small_share_of_reads_but_from_a_server_that_is_slow() {
        let mut pace = pace(10, ms(1), ms(1));
        let hedged = |pace: &mut Pace, reads: u32| {
            let may_hedge = (0..reads).map(|_| {
                pace.handle_begin();
                pace.may_hedge(ms(20), A)
            });
            may_hedge.filter(|&may_hedge| may_hedge).count()
        };
        assert_eq!(hedged(&mut pace, 8), 8, "what there is at first");
        assert_eq!(hedged(&mut pace, 400), 20, "then one in twenty");
        pace.handle_late(ms(20), A);
        assert_eq!(hedged(&mut pace, 100), 100, "nobody else waits for it");
    }
}
