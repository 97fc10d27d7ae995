//! Connections to chunkservers: data connections with the streams on them, and ([`Controls`])
//! control connections.
//!
//! A connection carries one stream after the other (`spec/wire.md` section 12), so the client
//! keeps those whose stream ended well. A server may close one that lies idle: it is looked at
//! before it is used, and what fails on a used connection before any answer is nobody's fault.
//! Cut reads share connections ([`cut`]).

mod control;
mod cut;
mod mutate;
mod read;
mod write;

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sarsen_edge::connection::ConnectError;
use sarsen_edge::hello::dial_data;
use sarsen_protocol::error::FrameError;
use sarsen_protocol::id::ServerId;
use tokio::net::TcpStream;

pub(crate) use control::Controls;
pub(crate) use cut::read_cut;
pub(crate) use mutate::{Ended, Heard, MutationJob, Sending, mutate};
pub(crate) use read::{Outgoing, Pacer, ReadFailure, read_chunk};
pub(crate) use write::{WriteFailure, WriteJob, write_chunk};

use crate::core::pace::Pace;
use crate::error::StreamError;
use crate::master::Master;

/// Silence after which a chunkserver hangs, until a master has told the cluster's own.
const SUSPECT_AFTER_DEFAULT: u32 = 3_000;

/// How long an answer that explains a broken connection is waited for.
const EXPLANATION_TIME: Duration = Duration::from_millis(500);

/// Connections that are kept for each server.
const IDLE_MAX: usize = 64;

/// The connections that lie idle, by address.
#[derive(Debug)]
pub(crate) struct Links {
    master: Arc<Master>,
    idle: Mutex<HashMap<String, Vec<Link>>>,
    /// In milliseconds.
    suspect_after: AtomicU32,
    /// How quick servers are with small reads, and with the frames of long ones.
    small: Mutex<Pace>,
    bulk: Mutex<Pace>,
    /// Servers that failed an upload, each with until when the next ones leave it out.
    suspects: Mutex<HashMap<ServerId, Duration>>,
    pipes: cut::Pipes,
}

/// How many times `suspect_after` a server that failed one upload is left out by those that begin:
/// each of thousands of small files would find out for itself that it hangs, until the master
/// takes it for dead.
const SUSPECT_FOR: u32 = 3;

/// No small read is late before; on an idle machine they take less than a tenth of that.
const SMALL_LATE_MIN: Duration = Duration::from_millis(10);

/// No frame of a mebibyte is late before: 20 MB/s is what may be as it is.
const FRAME_LATE_MIN: Duration = Duration::from_millis(50);

/// When an answer is late as long as nothing is usual: disks may have to begin to turn. At most this
/// part of `suspect_after`.
const LATE_UNKNOWN: Duration = Duration::from_millis(500);
const LATE_UNKNOWN_PART: u32 = 4;

impl Links {
    pub(crate) fn new(master: Arc<Master>) -> Self {
        Self {
            master,
            idle: Mutex::default(),
            suspect_after: AtomicU32::new(SUSPECT_AFTER_DEFAULT),
            small: Mutex::new(Pace::new(SMALL_LATE_MIN)),
            bulk: Mutex::new(Pace::new(FRAME_LATE_MIN)),
            suspects: Mutex::default(),
            pipes: cut::Pipes::default(),
        }
    }

    /// Takes the cluster's `suspect_after` from what a master told.
    pub(crate) fn learn(&self, suspect_after: u32) {
        self.suspect_after
            .store(suspect_after.max(1), Ordering::Relaxed);
    }

    /// Silence after which a chunkserver hangs.
    pub(crate) fn suspect_after(&self) -> Duration {
        Duration::from_millis(self.suspect_after.load(Ordering::Relaxed).into())
    }

    /// How quick servers are with small reads.
    pub(crate) fn small(&self) -> MutexGuard<'_, Pace> {
        self.small.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How quick servers are with the frames of long reads.
    pub(crate) fn bulk(&self) -> MutexGuard<'_, Pace> {
        self.bulk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After how long an answer is late.
    pub(crate) fn late_after(&self, pace: &Pace) -> Duration {
        let unknown = LATE_UNKNOWN.min(self.suspect_after() / LATE_UNKNOWN_PART);
        pace.late_after().unwrap_or(unknown)
    }

    /// An upload blames a server.
    pub(crate) fn suspect(&self, now: Duration, server: ServerId) {
        let until = now.saturating_add(SUSPECT_FOR * self.suspect_after());
        self.suspects().insert(server, until);
    }

    /// The servers that an upload which begins `now` leaves out, each with until when.
    pub(crate) fn suspected(&self, now: Duration) -> Vec<(ServerId, Duration)> {
        let mut suspects = self.suspects();
        suspects.retain(|_, until| *until > now);
        suspects.iter().map(|(&id, &until)| (id, until)).collect()
    }

    fn suspects(&self) -> MutexGuard<'_, HashMap<ServerId, Duration>> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to the server at `addr`, kept or new; connection and hello may take `time_max`.
    pub(crate) async fn take(
        &self,
        server: ServerId,
        addr: &str,
        time_max: Duration,
    ) -> Result<Link, StreamError> {
        while let Some(link) = self.pop(addr) {
            if link.is_alive() {
                return Ok(link);
            }
        }
        let connect = |cause| StreamError::Connect { server, cause };
        let Some(known) = self.master.credentials() else {
            // Addresses of chunkservers come from a master, after a hello.
            let cause = io::ErrorKind::NotConnected.into();
            let addr = addr.to_owned();
            return Err(connect(ConnectError::Io { addr, cause }));
        };
        let dialled = dial_data(addr, known.identity, &known.key, time_max).await;
        let (stream, _) = dialled.map_err(connect)?;
        let addr = addr.to_owned();
        Ok(Link {
            stream,
            peer: Peer { server, addr },
            streams: 0,
        })
    }

    fn pop(&self, addr: &str) -> Option<Link> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.get_mut(addr)?.pop()
    }

    /// Keeps a connection whose stream ended well. With one that is new those go that have ended: nobody
    /// asks any more for the address of a server that has another by now.
    pub(crate) fn give_back(&self, link: Link) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if !link.is_used() {
            idle.retain(|_, links| {
                links.retain(Link::is_alive);
                !links.is_empty()
            });
        }
        let links = idle.entry(link.peer.addr.clone()).or_default();
        if links.len() < IDLE_MAX {
            links.push(link);
        }
    }
}

/// A data connection after its hello.
#[derive(Debug)]
pub(crate) struct Link {
    stream: TcpStream,
    peer: Peer,
    /// Streams begun on it.
    streams: u64,
}

/// Who is at the other end.
#[derive(Clone, Debug)]
struct Peer {
    server: ServerId,
    addr: String,
}

impl Link {
    /// Whether it was used before: its server may have closed it unseen.
    const fn is_used(&self) -> bool {
        self.streams > 1
    }

    /// Begins a stream: the request id of its frames.
    const fn begin(&mut self) -> u64 {
        self.streams += 1;
        self.streams
    }

    /// An idle connection has nothing to say: what can be read from it is its end, or wrong.
    fn is_alive(&self) -> bool {
        let read = self.stream.try_read(&mut [0]);
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Peer {
    fn io_error(&self, cause: io::Error) -> StreamError {
        StreamError::Io {
            server: self.server,
            addr: self.addr.clone(),
            cause,
        }
    }

    fn silent(&self) -> StreamError {
        StreamError::Silent {
            server: self.server,
            addr: self.addr.clone(),
        }
    }

    fn late(&self) -> StreamError {
        StreamError::Late {
            server: self.server,
            addr: self.addr.clone(),
        }
    }

    fn protocol_error(&self, cause: impl Into<FrameError>) -> StreamError {
        StreamError::Protocol {
            server: self.server,
            addr: self.addr.clone(),
            cause: cause.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use tokio::net::TcpListener;
    use tokio::time::{sleep, timeout};

    /// A connection as it is after its first stream, and its other end.
    async fn new_link(addr: &str) -> (Link, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap());
        let (stream, accepted) = tokio::join!(dialled, listener.accept());
        let (server, addr) = (ServerId(1), addr.to_owned());
        let link = Link {
            stream: stream.unwrap(),
            peer: Peer { server, addr },
            streams: 1,
        };
        (link, accepted.unwrap().0)
    }

    /// A chunkserver has another port after each restart: what had been kept to the old ones was kept for
    /// ever, 64 descriptors each time.
    #[tokio::test]
    async fn connections_to_an_address_that_is_gone_are_not_kept() {
        let master = Master::new(Vec::new(), None, Duration::ZERO, Clock::start());
        let links = Links::new(Arc::new(master));
        let kept = |addr: &str| {
            let idle = links.idle.lock().unwrap();
            idle.get(addr).map_or(0, Vec::len)
        };
        let (other, _stays) = new_link("other").await;
        links.give_back(other);
        let (old, goes) = new_link("old").await;
        links.give_back(old);
        assert_eq!((kept("other"), kept("old")), (1, 1));
        drop(goes);
        let until_gone = async {
            // Its end has yet to be heard of here.
            while kept("old") > 0 {
                sleep(Duration::from_millis(1)).await;
                links.give_back(new_link("new").await.0);
            }
        };
        timeout(Duration::from_secs(20), until_gone)
            .await
            .expect("it ended");
        assert_eq!(kept("other"), 1);
        assert!(kept("new") > 0);
    }
}
