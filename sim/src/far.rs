//! One client and three chunkservers over links with a rate and a delay: what share of its link's
//! rate a transfer reaches.
//!
//! The shipped cores of both sides run here ([`upload`], [`download`]); bytes are only counted.
//! Everything is on a virtual clock and nothing is drawn, so a run is exact. Modelled are
//!
//! - each machine's link, a rate each way, on which frames queue in the order in which they come;
//! - the delay between two machines;
//! - TCP's window: so many bytes of a connection are sent and not yet taken by its receiver;
//! - a chunkserver's buffers of a stream: it takes no frame from its socket without one;
//! - its disk: a rate, and a time for a sync.
//!
//! Left out: how TCP finds its rate (slow start, losses), the time of processors, and what goes
//! wrong; the clusters of [`crate::cluster`] have that.

pub mod download;
pub mod upload;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sarsen_protocol::size::PAYLOAD_LEN_MAX;

/// The client; chunkservers are 1 to 3.
pub(crate) const CLIENT: usize = 0;

/// Chunkservers, of which each has every chunk.
pub(crate) const CHUNKSERVERS: usize = 3;

/// Header and body of a frame with a payload, about.
pub(crate) const HEAD_LEN: u64 = 200;

/// What the machines and the ways between them are like.
#[derive(Clone, Copy, Debug)]
pub struct Ways {
    /// Of every machine's link, each way, in bytes a second.
    pub rate: u64,
    /// There and back between the client and a chunkserver.
    pub round_trip: Duration,
    /// There and back between chunkservers.
    pub round_trip_between: Duration,
    /// What TCP lets a connection have on its way, in bytes.
    pub tcp_window: u64,
    /// What a disk takes, in bytes a second.
    pub disk_rate: u64,
    /// And how long its syncs take.
    pub sync: Duration,
    /// Streams of the file at a time: `--jobs`.
    pub streams: usize,
}

impl Default for Ways {
    /// 10 Gbit/s at 50 ms to a cluster in one place, with the socket buffers that the README asks
    /// for there.
    fn default() -> Self {
        Self {
            rate: 1_250_000_000,
            round_trip: Duration::from_millis(50),
            round_trip_between: Duration::from_micros(200),
            tcp_window: 64 * 1024 * 1024,
            disk_rate: 2_500_000_000,
            sync: Duration::from_millis(20),
            streams: 4,
        }
    }
}

/// How a transfer went.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Bytes of files, of the link's rate, from the end of the start-up to when nine tenths were
    /// there: 1 is all that the link can do.
    pub share: f64,
    /// From the first request to the last answer.
    pub took: Duration,
    /// The most payloads at a time in buffers of the client.
    pub client_buffers: usize,
    /// And in those of any chunkserver.
    pub server_buffers: usize,
}

/// How long a transfer may take to find its pace.
const START_UP: Duration = Duration::from_secs(1);

/// When how many bytes had come.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    bytes: u64,
    at_start: Option<(Duration, u64)>,
    at_last: Option<(Duration, u64)>,
}

impl Progress {
    /// So many more of `total` are there.
    pub(crate) fn add(&mut self, now: Duration, bytes: u64, total: u64) {
        self.bytes += bytes;
        if now >= START_UP && self.at_start.is_none() {
            self.at_start = Some((now, self.bytes));
        }
        if self.bytes <= total / 10 * 9 {
            self.at_last = Some((now, self.bytes));
        }
    }

    /// What share of `rate` that was; 0 of a transfer that was over before it had started up.
    pub(crate) fn share(&self, rate: u64) -> f64 {
        let (Some((from, before)), Some((to, after))) = (self.at_start, self.at_last) else {
            return 0.0;
        };
        let time = to.saturating_sub(from).as_micros();
        let possible = u128::from(rate) * time / 1_000_000;
        let moved = u128::from(after.saturating_sub(before));
        // In hundredths of a percent, which is exact enough and needs no rounding of floats.
        let share = u32::try_from(moved * 10_000 / possible.max(1)).unwrap_or(u32::MAX);
        f64::from(share) / 10_000.0
    }
}

/// One direction of a connection.
#[derive(Debug)]
struct Pipe<F> {
    from: usize,
    to: usize,
    /// Sent, and not known to be taken.
    used: u64,
    /// Waits for the window, each with its bytes.
    waiting: VecDeque<(F, u64)>,
}

/// The directions of connections that carry bulk, by number.
#[derive(Debug)]
pub(crate) struct Net<F> {
    pub(crate) ways: Ways,
    pipes: Vec<Pipe<F>>,
    /// Until when each machine's link sends, and receives, what it has.
    sends: BTreeMap<usize, Duration>,
    receives: BTreeMap<usize, Duration>,
    /// What follows: when, and what.
    pub(crate) planned: Vec<(Duration, Step<F>)>,
}

/// What happens to a frame on its way.
#[derive(Debug)]
pub(crate) enum Step<F> {
    /// Its first bit is at the receiver's link.
    AtLink(usize, F, u64),
    /// Its last bit is in the receiver's socket.
    Arrives(usize, F, u64),
    /// The sender hears that so many bytes were taken.
    Taken(usize, u64),
}

impl<F> Net<F> {
    pub(crate) fn new(ways: Ways) -> Self {
        Self {
            ways,
            pipes: Vec::new(),
            sends: BTreeMap::new(),
            receives: BTreeMap::new(),
            planned: Vec::new(),
        }
    }

    /// A new connection's direction.
    pub(crate) fn connect(&mut self, from: usize, to: usize) -> usize {
        self.pipes.push(Pipe {
            from,
            to,
            used: 0,
            waiting: VecDeque::new(),
        });
        self.pipes.len() - 1
    }

    /// The way from one machine to another, once.
    pub(crate) fn delay(&self, from: usize, to: usize) -> Duration {
        match from == CLIENT || to == CLIENT {
            true => self.ways.round_trip / 2,
            false => self.ways.round_trip_between / 2,
        }
    }

    /// Whether a sender may give more: all that it gave is in its socket.
    pub(crate) fn is_clear(&self, pipe: usize) -> bool {
        self.pipes[pipe].waiting.is_empty()
    }

    /// How many frames of a sender are not in its socket.
    pub(crate) fn waiting(&self, pipe: usize) -> usize {
        self.pipes[pipe].waiting.len()
    }

    /// A sender gives a frame.
    pub(crate) fn send(&mut self, now: Duration, pipe: usize, frame: F, len: u64) {
        self.pipes[pipe].waiting.push_back((frame, len));
        self.go_on(now, pipe);
    }

    /// The receiver takes bytes out of its socket.
    pub(crate) fn take(&mut self, now: Duration, pipe: usize, len: u64) {
        let Pipe { from, to, .. } = self.pipes[pipe];
        let at = now + self.delay(to, from);
        self.planned.push((at, Step::Taken(pipe, len)));
    }

    /// The next step of what is on its way; what has arrived, and where, with its bytes.
    pub(crate) fn step(&mut self, now: Duration, step: Step<F>) -> Option<(usize, F, u64)> {
        match step {
            Step::AtLink(pipe, frame, len) => {
                let receives = self.receives.entry(self.pipes[pipe].to).or_default();
                *receives = now.max(*receives) + time_of(len, self.ways.rate);
                self.planned
                    .push((*receives, Step::Arrives(pipe, frame, len)));
                None
            }
            Step::Arrives(pipe, frame, len) => Some((pipe, frame, len)),
            Step::Taken(pipe, len) => {
                self.pipes[pipe].used -= len;
                self.go_on(now, pipe);
                None
            }
        }
    }

    fn go_on(&mut self, now: Duration, number: usize) {
        let pipe = &mut self.pipes[number];
        let mut going = Vec::new();
        while let Some((_, len)) = pipe.waiting.front()
            && (pipe.used == 0 || pipe.used + len <= self.ways.tcp_window)
            && let Some((frame, len)) = pipe.waiting.pop_front()
        {
            pipe.used += len;
            going.push((frame, len));
        }
        let (from, to) = (pipe.from, pipe.to);
        let delay = self.delay(from, to);
        for (frame, len) in going {
            let sends = self.sends.entry(from).or_default();
            let begins = now.max(*sends);
            *sends = begins + time_of(len, self.ways.rate);
            self.planned
                .push((begins + delay, Step::AtLink(number, frame, len)));
        }
    }
}

/// How long so many bytes take.
pub(crate) fn time_of(bytes: u64, rate: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Bytes of a chunk.
pub(crate) const CHUNK_LEN: u32 = 64 * PAYLOAD_LEN_MAX;
