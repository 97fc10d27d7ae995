//! The parties of a bare record append: records go down three hops, and a few bytes come back up.
//!
//! Each client has connections of its own all the way, and each connection two threads a hop: one
//! passes on what comes down, the other what comes up. Nothing is stored, ordered or compared.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use sarsen_edge::listen::tune;
use serde::{Deserialize, Serialize};

use super::chain::{accept, connect, in_threads};
use super::replies::timed;
use super::{Done, Started, listener_on_stdin};

/// Bytes of an answer: about those that one to a single record takes.
const ANSWER_LEN: usize = 96;

/// Bytes that are taken with one call at the most.
const TAKEN_MAX: usize = 64 * 1024;

/// Passes records on, or answers them if it is the last hop.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordHop {
    /// Connections to be accepted.
    pub clients: usize,
    /// The next hop.
    pub next: Option<SocketAddr>,
    /// Bytes of a record.
    pub record_len: usize,
}

impl RecordHop {
    pub(super) fn play(&self) -> anyhow::Result<Done> {
        let listener = listener_on_stdin()?;
        let started = Started::serving()?;
        let streams = accept(&listener, self.clients)?;
        let bytes = in_threads(streams, |_, stream| match self.next {
            Some(next) => relay(stream, connect(next)?),
            None => self.answer(stream),
        })?;
        Ok(started.done(bytes / self.record_len as u64))
    }

    fn answer(&self, mut stream: TcpStream) -> anyhow::Result<u64> {
        let mut taken = vec![0; TAKEN_MAX];
        let (mut total, mut answered) = (0, 0);
        loop {
            let received = stream.read(&mut taken)?;
            if received == 0 {
                return Ok(total);
            }
            total += received as u64;
            let whole = usize::try_from(total / self.record_len as u64)?;
            stream.write_all(&vec![1; (whole - answered) * ANSWER_LEN])?;
            answered = whole;
        }
    }
}

/// Passes bytes on in both directions until the one who sends them ends; how many went down.
fn relay(up: TcpStream, down: TcpStream) -> anyhow::Result<u64> {
    let (answers, to) = (down.try_clone()?, up.try_clone()?);
    let back = thread::spawn(move || pass(answers, to));
    let bytes = pass(up, down)?;
    back.join()
        .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
    Ok(bytes)
}

fn pass(mut from: TcpStream, mut to: TcpStream) -> anyhow::Result<u64> {
    let mut taken = vec![0; TAKEN_MAX];
    let mut total = 0;
    loop {
        let received = from.read(&mut taken)?;
        let bytes = taken.get(..received).unwrap_or_default();
        if bytes.is_empty() {
            // Who sent the records may be gone already.
            let _ = to.shutdown(std::net::Shutdown::Write);
            return Ok(total);
        }
        to.write_all(bytes)?;
        total += received as u64;
    }
}

/// Sends records down the chain and times their answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordSender {
    /// The first hop.
    pub to: SocketAddr,
    /// Clients, with a connection and a thread each.
    pub clients: usize,
    /// Records of each client that are on their way at a time.
    pub in_flight: usize,
    /// Records in all.
    pub count: u64,
    /// Bytes of a record.
    pub record_len: usize,
}

impl RecordSender {
    pub(super) fn play(&self) -> anyhow::Result<Done> {
        let connected = (0..self.clients).map(|_| {
            let stream = connect(self.to)?;
            tune(&stream)?;
            Ok(stream)
        });
        let streams = connected.collect::<anyhow::Result<Vec<_>>>()?;
        let started = Started::go()?;
        let began = Instant::now();
        let times = std::sync::Mutex::new(Vec::new());
        let each = self.count.div_ceil(self.clients as u64);
        in_threads(streams, |_, stream| {
            let own = self.send(stream, each)?;
            times
                .lock()
                .map_err(|_| anyhow::anyhow!("a thread panicked"))?
                .extend(own);
            Ok(each)
        })?;
        let times = times.into_inner()?;
        Ok(timed(&started, began.elapsed(), times))
    }

    /// The time of each record, from when it was sent until its answer came.
    fn send(&self, mut stream: TcpStream, count: u64) -> anyhow::Result<Vec<Duration>> {
        let count = usize::try_from(count)?;
        let records = vec![0xa5; self.record_len * self.in_flight];
        let mut answers = vec![0; ANSWER_LEN * self.in_flight];
        let (mut asked, mut times) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut wanted = self.in_flight;
        let mut received = 0;
        while times.len() < count {
            let more = wanted.min(count - asked.len());
            asked.extend(std::iter::repeat_n(Instant::now(), more));
            let bytes = records.get(..more * self.record_len).unwrap_or_default();
            stream.write_all(bytes)?;
            let came = stream.read(&mut answers)?;
            anyhow::ensure!(came > 0, "a hop has ended");
            received += came;
            wanted = received / ANSWER_LEN - times.len();
            let answered = asked.iter().skip(times.len()).take(wanted);
            let answered: Vec<Duration> = answered.map(Instant::elapsed).collect();
            times.extend(answered);
        }
        Ok(times)
    }
}
