//! Who is served next, so that many clients are fair to each other (`spec/wire.md` section 12.4).
//!
//! Whatever a data plane is short of, processors, a disk or its network, is shared out by
//! connection: a client with 64 of them gets 64 shares. So a frame takes a *turn* before it is sent
//! or received, and gives it back when it is through. While only one client takes turns, each is
//! granted at once. While several do, the bytes of each are counted, and one that is more than
//! [`LEAD`] ahead of the least served has one turn at a time: as many as somebody with a single
//! connection has. Nobody ever has none, so nothing is starved by this, and two that stay one to one
//! are served alike by whatever it is that both wait for.
//!
//! A client counts for others only while it makes use of what it gets. One whose turn takes longer
//! than [`PATIENCE`] for each turn that all have in hand waits for a peer or a network of its own,
//! and holds nobody back; nor does one that wants nothing for as long. One that comes to count again
//! begins where the least served is: nobody saves up, and debts are forgotten beyond [`DEBT_MAX`].
//!
//! The driver: [`Turns::enter`] for each connection or stream, [`Turns::begin`] before a frame,
//! [`Turns::end`] behind it, [`Turns::leave`]. After each of these [`Turns::poll_granted`] tells who
//! waits no longer. Who waits looks again every [`PATIENCE`] ([`Turns::handle_timeout`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use sarsen_protocol::id::{ServerId, SessionId, StartNonce};

/// Bytes that a client may be ahead of the least served before it has one turn at a time.
pub const LEAD: u64 = 4 * 1024 * 1024;

/// Bytes that a client is ahead at the most, by what is remembered.
pub const DEBT_MAX: u64 = 2 * LEAD;

/// What a turn counts for at least: a small frame costs more than its bytes.
pub const COST_MIN: u64 = 32 * 1024;

/// What a turn may take for each turn in hand: those of a server that moves 40 MB/s in all.
pub const PATIENCE: Duration = Duration::from_millis(25);

/// Who is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// All who don't say.
    Unknown,
    /// A client that its hello names.
    Dialer(StartNonce),
    /// The session that writes, on each member of its chain.
    Session(SessionId),
    /// A chunkserver that copies.
    Chunkserver(ServerId),
}

/// The number of a turn that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaitId(u64);

/// Whether a turn has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It has.
    Now,
    /// It will have when this number is granted.
    Later(WaitId),
}

/// Everybody who is served.
#[derive(Debug, Default)]
pub struct Turns {
    shares: BTreeMap<Client, Share>,
    /// Those that count, the least served first. One that is idle leaves when it is come across.
    active: BTreeSet<(u64, Client)>,
    /// Those of which a turn waits, the least served first.
    held: BTreeSet<(u64, Client)>,
    /// The most that the least served ever had: where one begins that comes to count.
    level: u64,
    /// Turns of all that have begun and not ended.
    in_hand: u32,
    granted: VecDeque<WaitId>,
    next_wait: u64,
}

/// One client.
#[derive(Debug, Default)]
struct Share {
    /// Connections and streams that have entered.
    entered: usize,
    /// Bytes of its turns; raised to the level when it comes to count.
    served: u64,
    /// Turns that have begun and not ended.
    in_hand: u32,
    /// When a turn last began or ended.
    progressed: Duration,
    /// From when on it does not count, if it makes no progress.
    idle_from: Duration,
    /// Turns that wait, and their bytes, in the order in which they came.
    waiting: VecDeque<(WaitId, u64)>,
}

impl Share {
    /// Whether another turn may begin; `least` is how much the least served other has.
    fn may_begin(&self, now: Duration, least: Option<u64>) -> bool {
        self.in_hand == 0
            || least.is_none_or(|least| self.served <= least + LEAD)
            // All that it has in hand waits for peers, and none of these for us.
            || now >= self.progressed + PATIENCE
    }
}

impl Turns {
    /// A connection or a stream of this client is there.
    pub fn enter(&mut self, client: Client) {
        self.shares.entry(client).or_default().entered += 1;
    }

    /// One of them is gone; its turns have ended, and none of its own waits.
    pub fn leave(&mut self, now: Duration, client: Client) {
        let Some(share) = self.shares.get_mut(&client) else {
            return;
        };
        share.entered -= 1;
        if share.entered == 0 {
            self.active.remove(&(share.served, client));
            self.shares.remove(&client);
            self.look_again(now);
        }
    }

    /// A frame of so many bytes wants its turn.
    pub fn begin(&mut self, now: Duration, client: Client, bytes: u64) -> Begun {
        self.come_to_count(client);
        let least = self.least_of_others(now, client);
        let share = self.shares.entry(client).or_default();
        if share.waiting.is_empty() && share.may_begin(now, least) {
            self.take(now, client, bytes, least);
            self.look_again(now);
            return Begun::Now;
        }
        let wait = WaitId(self.next_wait);
        self.next_wait += 1;
        share.waiting.push_back((wait, bytes));
        self.held.insert((share.served, client));
        Begun::Later(wait)
    }

    /// A turn that had begun is over.
    pub fn end(&mut self, now: Duration, client: Client) {
        self.come_to_count(client);
        let Some(share) = self.shares.get_mut(&client) else {
            return;
        };
        share.in_hand -= 1;
        self.in_hand -= 1;
        share.progressed = now;
        share.idle_from = match share.in_hand {
            0 => now + PATIENCE,
            _ => share.idle_from.max(now + PATIENCE * self.in_hand),
        };
        self.grant(now, client);
        self.look_again(now);
    }

    /// A turn that waits is not wanted any more.
    pub fn give_up(&mut self, client: Client, wait: WaitId) {
        let Some(share) = self.shares.get_mut(&client) else {
            return;
        };
        share.waiting.retain(|(waiting, _)| *waiting != wait);
        if share.waiting.is_empty() {
            self.held.remove(&(share.served, client));
        }
    }

    /// Time has passed while a turn of this client waits.
    pub fn handle_timeout(&mut self, now: Duration, client: Client) {
        self.grant(now, client);
        self.look_again(now);
    }

    /// A turn that waited and has begun.
    pub fn poll_granted(&mut self) -> Option<WaitId> {
        self.granted.pop_front()
    }

    /// One that was idle begins, if it is behind, where the least served is.
    fn come_to_count(&mut self, client: Client) {
        let share = self.shares.entry(client).or_default();
        if self.active.insert((share.served, client)) && share.served < self.level {
            self.active.remove(&(share.served, client));
            let is_held = self.held.remove(&(share.served, client));
            share.served = self.level;
            self.active.insert((share.served, client));
            if is_held {
                self.held.insert((share.served, client));
            }
        }
    }

    /// How much the least served has of those that count beside `client`.
    fn least_of_others(&mut self, now: Duration, client: Client) -> Option<u64> {
        loop {
            let mut others = self.active.iter().filter(|(_, other)| *other != client);
            let &(served, other) = others.next()?;
            let share = self.shares.get(&other);
            if share.is_some_and(|share| now < share.idle_from) {
                return Some(served);
            }
            self.active.remove(&(served, other));
        }
    }

    /// A turn begins.
    fn take(&mut self, now: Duration, client: Client, bytes: u64, least: Option<u64>) {
        let Some(share) = self.shares.get_mut(&client) else {
            return;
        };
        self.active.remove(&(share.served, client));
        self.held.remove(&(share.served, client));
        let most = least.map_or(u64::MAX, |least| share.served.max(least + DEBT_MAX));
        share.served = (share.served + bytes.max(COST_MIN)).min(most);
        share.in_hand += 1;
        self.in_hand += 1;
        share.progressed = now;
        share.idle_from = share.idle_from.max(now + PATIENCE * self.in_hand);
        self.level = self.level.max(least.unwrap_or(u64::MAX).min(share.served));
        self.active.insert((share.served, client));
        if !share.waiting.is_empty() {
            self.held.insert((share.served, client));
        }
    }

    /// Begins those of a client's turns that wait and may.
    fn grant(&mut self, now: Duration, client: Client) {
        loop {
            let least = self.least_of_others(now, client);
            let Some(share) = self.shares.get_mut(&client) else {
                return;
            };
            if share.waiting.is_empty() || !share.may_begin(now, least) {
                return;
            }
            if let Some((wait, bytes)) = share.waiting.pop_front() {
                self.take(now, client, bytes, least);
                self.granted.push_back(wait);
            }
        }
    }

    /// The least served has more now, or is gone: some that were too far ahead of it may not be any
    /// more, the least served of them first.
    fn look_again(&mut self, now: Duration) {
        while let Some(&(served, client)) = self.held.first() {
            self.grant(now, client);
            if self.held.first() == Some(&(served, client)) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
