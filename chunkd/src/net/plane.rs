//! The threads of the data plane, and a connection's life on one of them.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use sarsen_edge::daemon::descriptors;
use sarsen_edge::hello::accept_data;
use sarsen_edge::strangers::{Stranger, Strangers};
use sarsen_protocol::error::FrameError;
use sarsen_protocol::handshake::Identity;
use sarsen_protocol::id::StartNonce;
use sarsen_protocol::message::{Kind, Role};
use sarsen_protocol::size::PAYLOAD_LEN_MAX;
use sarsen_protocol::status::Status;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};

use super::bound::Bounds;
use super::chunkserver::Chunkserver;
use super::link::{Head, Link, LinkError};
use super::members::{self, Hosted};
use super::next_hop::NextHops;
use super::turns::{Member, Turns};
use super::write_stream::StreamEnd;
use super::{IDLE_MAX, ids, read, write_stream};
use crate::core::turns::Client;
use crate::io::pool::Pool;
use crate::io::{Mode, Socket};

/// Connections of a process, those in their hello counted too, where descriptors allow it.
const CONNECTIONS_MAX: u64 = 8192;

/// Connections that have not said hello yet.
const STRANGERS_MAX: usize = 256;

/// How long accepting rests when the system has no descriptor to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often idle connections to next hops are looked at.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// How the data plane runs.
#[derive(Clone, Copy, Debug)]
pub struct PlaneConfig {
    /// How bytes are moved.
    pub mode: Mode,
    /// Threads; at least one.
    pub threads: usize,
    /// Buffers of the process, a mebibyte each; at least one. As much may be kept of answers to cut reads,
    /// and of clients' mutations that are on their way in, each thread its share of that.
    pub buffers: usize,
}

impl PlaneConfig {
    /// The share of one thread of what may be kept: room for one frame at least.
    fn bytes_of_a_thread(&self) -> u32 {
        let frames = self.buffers / self.threads.max(1);
        let frames = u32::try_from(frames).unwrap_or(u32::MAX);
        frames.max(1).saturating_mul(PAYLOAD_LEN_MAX)
    }
}

/// The running data plane.
#[derive(Debug)]
pub struct DataPlane {
    address: SocketAddr,
    listener: std::net::TcpListener,
    stop: watch::Sender<Stop>,
    threads: Vec<JoinHandle<()>>,
}

/// How far the data plane is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    No,
    /// Accept nothing; connections end between two streams.
    Drain,
    /// Connections end now.
    Now,
}

/// What the tasks of one thread share.
#[derive(Debug)]
pub(super) struct Thread {
    pub(super) mode: Mode,
    pub(super) chunkserver: Arc<Chunkserver>,
    pub(super) pool: Pool,
    pub(super) next_hops: NextHops,
    /// Of all threads together.
    pub(super) turns: Arc<Turns>,
    /// Its own, which a thread that hangs takes from no other.
    pub(super) bounds: Arc<Bounds>,
    /// For what is read and not sent; borrowed between two waits only.
    pub(super) scratch: RefCell<Vec<u8>>,
    connections: Arc<Semaphore>,
    strangers: Arc<Strangers>,
    stop: watch::Receiver<Stop>,
}

impl DataPlane {
    /// Starts the threads, which accept from `listener`.
    ///
    /// # Errors
    /// When the system has no thread or descriptor to give. A thread that can't make a ring uses
    /// epoll; one that fails otherwise begins anew.
    pub fn start(
        config: PlaneConfig,
        listener: std::net::TcpListener,
        chunkserver: &Arc<Chunkserver>,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(Stop::No);
        let pool = Pool::new(config.buffers);
        let turns = Turns::new();
        let threads_count = config.threads.max(1);
        let bytes_max = config.bytes_of_a_thread();
        let connections = Arc::new(Semaphore::new(connections_max()));
        let strangers = Strangers::new(STRANGERS_MAX.min(connections_max()));
        let mut threads = Vec::new();
        for number in 0..threads_count {
            let listener = listener.try_clone()?;
            let (chunkserver, pool) = (Arc::clone(chunkserver), pool.clone());
            let (connections, stopped) = (Arc::clone(&connections), stopped.clone());
            let (strangers, turns) = (Arc::clone(&strangers), Arc::clone(&turns));
            let bounds = Arc::new(Bounds::new(bytes_max));
            let stop = stopped.clone();
            // Orders that come before the thread runs find it; one that begins anew is another host.
            let first = Cell::new(Some(chunkserver.members.host()));
            let serve = move |mode| {
                let thread = Rc::new(Thread {
                    mode,
                    chunkserver: Arc::clone(&chunkserver),
                    pool: pool.clone(),
                    next_hops: NextHops::default(),
                    turns: Arc::clone(&turns),
                    bounds: Arc::clone(&bounds),
                    scratch: RefCell::default(),
                    connections: Arc::clone(&connections),
                    strangers: Arc::clone(&strangers),
                    stop: stopped.clone(),
                });
                let listener = listener.try_clone()?;
                let hosted = first.take();
                let hosted = hosted.unwrap_or_else(|| chunkserver.members.host());
                crate::io::run(mode, accept(thread, listener, hosted)).and_then(|accepted| accepted)
            };
            let serve = move || keep_serving(number, config.mode, &stop, serve);
            let builder = std::thread::Builder::new().name(format!("data-{number}"));
            threads.push(builder.spawn(serve)?);
        }
        Ok(Self {
            address,
            listener,
            stop,
            threads,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts nothing more and lets streams come to their end, for at most `grace`; then ends.
    /// Blocks.
    pub fn drain(mut self, grace: Duration) {
        // Before anybody is told: whoever hears of it and dials again is to be refused.
        self.close_port();
        self.stop.send_replace(Stop::Drain);
        let deadline = std::time::Instant::now() + grace;
        while std::time::Instant::now() < deadline
            && !self.threads.iter().all(JoinHandle::is_finished)
        {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.end();
    }

    /// All threads have the same socket, to begin anew with.
    fn close_port(&self) {
        if let Err(error) = socket2::SockRef::from(&self.listener).shutdown(Shutdown::Both) {
            tracing::debug!(%error, "the data port was closed already");
        }
    }

    fn end(&mut self) {
        self.close_port();
        self.stop.send_replace(Stop::Now);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the data plane has panicked");
            }
        }
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.end();
    }
}

impl Thread {
    /// Returns when streams are to come to their end.
    pub(super) async fn draining(&self) {
        self.stopped(Stop::Drain).await;
    }

    /// Returns when the data plane is to stop this far.
    async fn stopped(&self, how: Stop) {
        let mut stop = self.stop.clone();
        // The sender goes only with the data plane, and that is a stop too.
        let _ = stop.wait_for(|stop| *stop >= how).await;
    }
}

/// Serves until told to stop: a thread that ends before, while the server goes on to be registered,
/// would leave its peers to a port that nobody accepts from.
fn keep_serving(
    number: usize,
    mut mode: Mode,
    stop: &watch::Receiver<Stop>,
    serve: impl Fn(Mode) -> io::Result<()>,
) {
    loop {
        let ended = catch_unwind(AssertUnwindSafe(|| serve(mode)));
        if *stop.borrow() != Stop::No {
            return;
        }
        match ended {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                tracing::error!(number, ?mode, %error,
                    "a thread of the data plane has failed, and begins anew with epoll");
                // What fails is mostly the ring: each takes memory that may be short by now.
                mode = Mode::Epoll;
            }
            Err(_) => {
                tracing::error!(
                    number,
                    "a thread of the data plane has panicked, and begins anew"
                );
            }
        }
        std::thread::sleep(ACCEPT_PAUSE);
    }
}

/// A quarter of the descriptors at most: peers that only connect must not take those that the
/// store needs.
fn connections_max() -> usize {
    let max = (descriptors() / 4).clamp(1, CONNECTIONS_MAX);
    usize::try_from(max).unwrap_or(usize::MAX)
}

/// Accepts until told to stop, then waits for the connections that are left.
async fn accept(
    thread: Rc<Thread>,
    listener: std::net::TcpListener,
    mut hosted: mpsc::UnboundedReceiver<Hosted>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    let mut working = JoinSet::new();
    let mut sweep = interval(SWEEP_INTERVAL);
    loop {
        tokio::select! {
            () = thread.stopped(Stop::Drain) => break,
            _ = sweep.tick() => thread.next_hops.sweep(),
            Some(_) = connections.join_next() => {}
            Some(_) = working.join_next() => {}
            Some(hosted) = hosted.recv() => {
                take_in(&thread, hosted, &mut working, &mut connections);
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (thread, stranger) = (Rc::clone(&thread), thread.strangers.enter());
                    let serve = async move { connection(&thread, stream, stranger).await };
                    connections.spawn_local(serve);
                }
                Err(error) => {
                    tokio::select! {
                        biased;
                        () = thread.stopped(Stop::Drain) => break,
                        () = sleep(ACCEPT_PAUSE) => {}
                    }
                    tracing::warn!(%error, "a connection could not be accepted");
                }
            },
        }
    }
    drop(listener);
    let ending = async {
        loop {
            tokio::select! {
                ended = connections.join_next() => {
                    if ended.is_none() {
                        break;
                    }
                }
                Some(_) = working.join_next() => {}
                // The master still orders: what it waits for is done, or refused.
                Some(hosted) = hosted.recv() => {
                    take_in(&thread, hosted, &mut working, &mut connections);
                }
            }
        }
    };
    tokio::select! {
        () = thread.stopped(Stop::Now) => {}
        () = ending => {}
    }
    // io_uring waits for every request, so nothing may be left that has one.
    connections.shutdown().await;
    working.shutdown().await;
    Ok(())
}

/// A connection from its first byte to its last.
async fn connection(thread: &Thread, stream: TcpStream, stranger: Stranger) {
    let counters = &thread.chunkserver.counters;
    let _counted = counters.connections.count();
    let said = tokio::select! {
        said = hello(thread, stream) => said,
        () = stranger.ousted() => Err("too many others came".to_owned()),
        () = thread.stopped(Stop::Drain) => return,
    };
    drop(stranger);
    let (mut link, identity) = match said {
        Ok(said) => said,
        Err(text) => {
            counters.hello_failures.add(1);
            return tracing::info!("a data connection failed its hello: {text}");
        }
    };
    let Ok(_permit) = thread.connections.try_acquire() else {
        tracing::warn!("a connection was refused: there are too many already");
        let text = "too many connections; try again later";
        return link.goodbye(Status::Overloaded, text).await;
    };
    let member = thread.turns.enter(client_of(&identity));
    match streams(thread, &mut link, &identity, &member).await {
        Ok(()) => {}
        Err(StreamEnd::HandOver(request_id, open)) => {
            members::stream::hand_over(thread, link, request_id, *open).await;
        }
        Err(end) => ended(thread, link, end).await,
    }
}

/// Ends a connection as the end of its last stream asks for.
pub(super) async fn ended(thread: &Thread, link: Link, end: StreamEnd) {
    let peer = link.socket().peer();
    match end {
        StreamEnd::Told => link.linger().await,
        StreamEnd::Draining => {
            let text = "the chunkserver is told to end";
            link.goodbye(Status::ShuttingDown, text).await;
        }
        StreamEnd::Link(LinkError::Frame(error)) => {
            thread.chunkserver.counters.protocol_errors.add(1);
            tracing::warn!(%peer, %error, "closing a data connection");
            if error != FrameError::BadMagic {
                link.goodbye(Status::ProtocolError, &error.to_string())
                    .await;
            }
        }
        StreamEnd::Link(error) => tracing::debug!(%peer, %error, "a data connection ended"),
        // It has a connection still.
        StreamEnd::HandOver(..) => {}
    }
}

/// Has an actor or a stream that was given to this thread go on as a task of it.
fn take_in(
    thread: &Rc<Thread>,
    hosted: Hosted,
    actors: &mut JoinSet<()>,
    streams: &mut JoinSet<()>,
) {
    let thread = Rc::clone(thread);
    match hosted {
        Hosted::Actor(actor) => actors.spawn_local(actor.run(thread)),
        Hosted::Stream(handed) => {
            streams.spawn_local(async move { members::stream::run(&thread, handed).await })
        }
    };
}

async fn hello(thread: &Thread, mut stream: TcpStream) -> Result<(Link, Identity), String> {
    let (identity, key) = (thread.chunkserver.identity(), thread.chunkserver.key());
    let accepted = accept_data(&mut stream, identity, &key).await;
    let (peer, behind) = accepted.map_err(|error| error.to_string())?;
    let socket = Socket::new(thread.mode, stream).map_err(|error| error.to_string())?;
    Ok((Link::new(socket, behind), peer.identity))
}

/// Whom what a connection reads is counted for (`spec/wire.md` section 12.4).
fn client_of(identity: &Identity) -> Client {
    match (identity.role, identity.start.start_nonce) {
        (Role::Chunkserver, _) => Client::Chunkserver(identity.start.server_id),
        (_, StartNonce::NONE) => Client::Unknown,
        (_, nonce) => Client::Dialer(nonce),
    }
}

/// Serves one stream after the other until the peer closes or the data plane stops.
async fn streams(
    thread: &Thread,
    link: &mut Link,
    dialer: &Identity,
    member: &Arc<Member>,
) -> Result<(), StreamEnd> {
    loop {
        let head = tokio::select! {
            biased;
            // First: a peer that begins one stream behind the other must not keep us from it.
            () = thread.stopped(Stop::Drain) => return Err(StreamEnd::Draining),
            head = link.next_opening(IDLE_MAX) => head?,
        };
        match head {
            Some(head) => stream(thread, link, dialer, member, &head).await?,
            None => return Ok(()),
        }
    }
}

async fn stream(
    thread: &Thread,
    link: &mut Link,
    dialer: &Identity,
    member: &Arc<Member>,
    head: &Head,
) -> Result<(), StreamEnd> {
    match head.header.kind {
        Kind::WriteOpen => write_stream::serve(thread, link, dialer, head).await,
        Kind::Read => Ok(read::serve(thread, link, member, head).await?),
        Kind::ReadCut => Ok(read::serve_cuts(thread, link, member, head).await?),
        Kind::ChunkIds => Ok(ids::serve(thread, link, member, head).await?),
        Kind::Goodbye => {
            let text = head.error()?.text;
            tracing::debug!(peer = %link.socket().peer(), text, "the peer says goodbye");
            Err(io::Error::from(io::ErrorKind::ConnectionAborted).into())
        }
        kind => Err(FrameError::OutOfTurn { kind }.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The threads had one bound together: what one that hung had taken, or was given while it hung, no client
    /// of any other chunk got.
    #[test]
    fn each_thread_has_its_share_of_what_may_be_kept() {
        let bytes = |buffers, threads| {
            let config = PlaneConfig {
                mode: Mode::Epoll,
                threads,
                buffers,
            };
            config.bytes_of_a_thread()
        };
        assert_eq!(bytes(96, 8), 12 * PAYLOAD_LEN_MAX);
        assert_eq!([bytes(1, 8), bytes(1, 0)], [PAYLOAD_LEN_MAX; 2]);
    }

    /// A thread that could make no ring, or panicked, was logged and gone; with all of them gone
    /// the server stayed registered, and took no stream.
    #[test]
    fn a_thread_that_fails_goes_on_and_without_a_ring_with_epoll() {
        let (stop, stopped) = watch::channel(Stop::No);
        let tried = RefCell::new(Vec::new());
        keep_serving(0, Mode::Uring, &stopped, |mode| {
            tried.borrow_mut().push(mode);
            match tried.borrow().len() {
                1 => panic!("as a test wants it"),
                2 => Err(io::ErrorKind::OutOfMemory.into()),
                3 => Err(io::ErrorKind::Other.into()),
                _ => {
                    stop.send_replace(Stop::Drain);
                    Err(io::ErrorKind::Other.into())
                }
            }
        });
        let expected = [Mode::Uring, Mode::Uring, Mode::Epoll, Mode::Epoll];
        assert_eq!(*tried.borrow(), expected);
    }
}
