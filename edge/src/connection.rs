//! A control connection: requests in both directions at once (`spec/wire.md` section 4).
//!
//! [`Connection`] is the handle that sends: [`Connection::call`] asks and waits for the reply,
//! [`Connection::reply`] answers what came in. [`Incoming`] yields the peer's requests in order.
//! Two tasks carry a connection, one a direction; they end with it.
//!
//! There is one queue of what is to be sent, and what is put into it is sent in that order. Replies,
//! and what [`Connection::begin_now`] asks, are put there at once. Whoever has to take the peer's
//! replies in order with its requests, too, asks by [`Connection::order`]: [`Incoming`] yields both.
//!
//! Everything is bounded. A peer that asks without reading the answers is not read from: at most
//! [`REQUESTS_UNANSWERED_MAX`] of its requests are in hand, and none is taken while more than
//! [`QUEUED_BYTES_MAX`] wait to be sent to it. A call waits in line while as many are unanswered,
//! unless it was begun by [`Connection::begin_now`], whose callers bound themselves. What was
//! taken before is answered `overloaded` in the place of a large reply, once as much is queued for
//! the peer, or [`QUEUED_ALL_MAX`] for all peers together. The queue itself is never full. A peer that
//! takes nothing for [`CLOSE_AFTER`] is closed, and so is one that begins a frame and brings it to no end.
//!
//! A call has no deadline of its own, and dropping it does not close the connection: the reply
//! is then thrown away when it comes.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sarsen_protocol::deframe::{Deframer, Frame, any_frame, error_frame, frame};
use sarsen_protocol::error::FrameError;
use sarsen_protocol::handshake::{Identity, Peer};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{self, AnyMessage, ErrorBody, Kind, Message, Plane};
use sarsen_protocol::size::REQUESTS_UNANSWERED_MAX;
use sarsen_protocol::status::Status;
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

pub use crate::hello::ConnectError;
use crate::{hello, listen};

mod read;

use read::read_frames;

/// Silence after which the peer counts as gone.
const CLOSE_AFTER: Duration = Duration::from_secs(30);

/// How long a connection that ends may take to send what is still queued.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(2);

/// Bytes waiting to be sent above which nothing more is taken from the peer.
const QUEUED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes that wait to be sent to all peers above which only peers that read get large replies.
const QUEUED_ALL_MAX: usize = 64 * 1024 * 1024;

/// Replies up to this length are always queued: of them there are few, as requests in hand are.
const SMALL_REPLY_LEN: usize = 4 * 1024;

/// Bytes that wait in this process.
static QUEUED_ALL: AtomicUsize = AtomicUsize::new(0);

/// Why a call has no answer.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum CallError {
    /// The connection ended first; whether the request was done is not known.
    #[error("the connection was lost")]
    Closed,
    /// The peer answered with a failure.
    #[error("{status}: {}", error.text)]
    Status {
        /// What kind of failure.
        status: Status,
        /// Its particulars.
        error: ErrorBody,
    },
    /// The answer breaks the protocol.
    #[error(transparent)]
    Protocol(#[from] FrameError),
}

/// A request that the peer sent.
#[derive(Debug)]
pub struct Request {
    /// The number that its reply must carry.
    pub id: u64,
    /// What it asks.
    pub message: AnyMessage,
}

/// What the peer says to an [order](Connection::order).
#[derive(Debug)]
pub struct Answer {
    /// The number that the order was given.
    pub order: u64,
    /// What it says.
    pub answer: Result<AnyMessage, (Status, ErrorBody)>,
}

/// Something that came from the peer.
#[derive(Debug)]
pub enum Arrival {
    /// It asks.
    Request(Request),
    /// It answers an order.
    Answer(Answer),
}

/// The peer's requests, and its answers to orders, in the order in which they came.
#[derive(Debug)]
pub struct Incoming {
    arrivals: mpsc::Receiver<Arrival>,
}

impl Incoming {
    /// The next request; `None` when the connection has ended. It is for those who give no orders:
    /// answers to these are passed over.
    pub async fn next(&mut self) -> Option<Request> {
        loop {
            if let Arrival::Request(request) = self.next_arrival().await? {
                return Some(request);
            }
        }
    }

    /// The next request or answer to an order; `None` when the connection has ended.
    pub async fn next_arrival(&mut self) -> Option<Arrival> {
        self.arrivals.recv().await
    }
}

/// A control connection after its hello. Clones are the same connection.
#[derive(Clone, Debug)]
pub struct Connection {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    id: u64,
    peer: Peer,
    last_call: AtomicU64,
    calls: Mutex<Calls>,
    /// A permit an unanswered request of the peer's.
    request_permits: Semaphore,
    queue: mpsc::UnboundedSender<Bytes>,
    queued_bytes: AtomicUsize,
    queue_shrank: Notify,
    closed: watch::Sender<bool>,
}

/// Our requests that are not answered.
#[derive(Debug, Default)]
struct Calls {
    waiting: HashMap<u64, Waiting>,
    /// How many of them were sent, pings aside; also those whose reply nobody waits for any more.
    sent: usize,
    /// Those that are yet to be sent, by their numbers: as many as may be are unanswered.
    line: BTreeMap<u64, Bytes>,
}

#[derive(Debug)]
struct Waiting {
    reply_kind: Kind,
    to: ReplyTo,
}

/// Where a reply goes.
#[derive(Debug)]
enum ReplyTo {
    Call(oneshot::Sender<Frame>),
    /// To whoever takes what comes in, with this number.
    Order(u64),
    /// Nowhere: that it came is enough.
    Ping,
}

/// When a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Now,
    /// Now, if fewer are unanswered than may be; else behind those that wait already.
    InLine,
}

/// A request that is on its way or in line. Dropped in line, it is not sent any more.
#[derive(Debug)]
#[must_use]
pub struct Call<R> {
    shared: Arc<Shared>,
    id: u64,
    reply: oneshot::Receiver<Frame>,
    request: PhantomData<fn() -> R>,
}

impl<R: message::Request> Call<R> {
    /// Waits for the reply.
    ///
    /// # Errors
    /// Why there is no answer, see [`CallError`].
    pub async fn answer(mut self) -> Result<R::Reply, CallError> {
        // The sender goes when the connection ends.
        let reply = (&mut self.reply).await.map_err(|_| CallError::Closed)?;
        match reply.header.status {
            Status::Ok => Ok(reply.message()?),
            status => Err(CallError::Status {
                status,
                error: reply.error()?,
            }),
        }
    }
}

impl<R> Drop for Call<R> {
    fn drop(&mut self) {
        let mut calls = self.shared.calls();
        if calls.line.remove(&self.id).is_some() {
            calls.waiting.remove(&self.id);
        }
    }
}

impl Connection {
    /// Opens a connection and says hello.
    ///
    /// # Errors
    /// Why there is none, see [`ConnectError`].
    pub async fn dial(
        addr: &str,
        identity: Identity,
        key: &SecretKey,
        deadline: Duration,
    ) -> Result<(Self, Incoming), ConnectError> {
        let (stream, peer, deframer) =
            hello::dial(addr, identity, Plane::Control, key, deadline).await?;
        Ok(Self::start(stream, peer, deframer))
    }

    /// Takes the hello of a connection that was accepted.
    ///
    /// # Errors
    /// Why the peer is not to be trusted; it was told, as far as it can understand.
    pub async fn accept(
        mut stream: TcpStream,
        identity: Identity,
        key: &SecretKey,
    ) -> Result<(Self, Incoming), ConnectError> {
        let addr = stream
            .peer_addr()
            .map_or_else(|_| "a peer".into(), |addr| addr.to_string());
        listen::tune(&stream).map_err(|cause| ConnectError::Io {
            addr: addr.clone(),
            cause,
        })?;
        let (peer, deframer) =
            hello::accept(&mut stream, &addr, identity, Plane::Control, key).await?;
        Ok(Self::start(stream, peer, deframer))
    }

    fn start(stream: TcpStream, peer: Peer, deframer: Deframer) -> (Self, Incoming) {
        let (queue, queued) = mpsc::unbounded_channel();
        let (arrived, arrivals) = mpsc::channel(REQUESTS_UNANSWERED_MAX);
        let shared = Arc::new(Shared::new(peer, queue));
        let (read, write) = stream.into_split();
        tokio::spawn(write_queue(shared.clone(), queued, write));
        tokio::spawn(read_frames(shared.clone(), arrived, read, deframer));
        (Self { shared }, Incoming { arrivals })
    }

    /// A number that tells this connection from every other of this process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.shared.id
    }

    /// Who the other side is.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.shared.peer
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        *self.shared.closed.borrow()
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) {
        self.shared.wait_closed().await;
    }

    /// Ends the connection once what is queued was sent, or could not be for a while.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Says why, then ends the connection.
    pub fn goodbye(&self, status: Status, text: &str) {
        self.shared
            .send(error_frame(Kind::Goodbye, 0, status, &ErrorBody::new(text)).into());
        self.close();
    }

    /// Waits until nothing more will be sent: after [`close`](Self::close) or
    /// [`goodbye`](Self::goodbye), until what was queued is, or could not be for a while.
    pub async fn sent(&self) {
        self.shared.queue.closed().await;
    }

    /// Asks, and waits for the reply.
    ///
    /// # Errors
    /// Why there is no answer, see [`CallError`].
    pub async fn call<R: message::Request>(&self, request: &R) -> Result<R::Reply, CallError> {
        self.begin(request).answer().await
    }

    /// Asks: the request is sent before those that are begun later, as soon as fewer than
    /// [`REQUESTS_UNANSWERED_MAX`] are unanswered. Replies may go ahead of one that is in line.
    pub fn begin<R: message::Request>(&self, request: &R) -> Call<R> {
        self.begin_call(request, Place::InLine)
    }

    /// Asks: when this returns the request is in the queue, behind all that was sent before and
    /// ahead of all that is sent later, replies too. It counts among the unanswered ones and waits
    /// for none, so callers see to it that they are few. A peer that has too many of them in hand
    /// reads on when it has answered some.
    pub fn begin_now<R: message::Request>(&self, request: &R) -> Call<R> {
        self.begin_call(request, Place::Now)
    }

    fn begin_call<R: message::Request>(&self, request: &R, place: Place) -> Call<R> {
        let id = self.shared.next_call();
        let (to, reply) = oneshot::channel();
        let waiting = Waiting {
            reply_kind: <R::Reply as Message>::KIND,
            to: ReplyTo::Call(to),
        };
        self.shared.ask(id, waiting, frame(request, id), place);
        Call {
            shared: Arc::clone(&self.shared),
            id,
            reply,
            request: PhantomData,
        }
    }

    /// Asks, and has the answer come through [`Incoming`] with this number, in order with the peer's
    /// requests. None comes if the connection ends first. The request is sent as by
    /// [`begin`](Self::begin).
    ///
    /// # Panics
    /// If the message is not a request, or too long for a frame, which is our bug.
    pub fn order(&self, order: u64, message: &AnyMessage) {
        let id = self.shared.next_call();
        let waiting = Waiting {
            reply_kind: reply_kind(message.kind()),
            to: ReplyTo::Order(order),
        };
        let bytes = any_frame(message, id)
            .unwrap_or_else(|error| panic!("{}: {error}", message.kind().name()));
        self.shared.ask(id, waiting, bytes, Place::InLine);
    }

    /// Answers a request that came in as number `id`, of kind `asked`. An answer of a kind that the
    /// request doesn't want is our bug, and the peer's word may have brought it about: it ends that
    /// request, as `internal`, and nothing else.
    ///
    /// # Panics
    /// If `asked` is no request.
    pub fn reply(&self, id: u64, asked: Kind, answer: Result<AnyMessage, (Status, ErrorBody)>) {
        let kind = reply_kind(asked);
        let failed = |status, error| error_frame(kind, id, status, &error);
        let bytes = match answer {
            Ok(message) if message.kind() != kind => {
                let (asked, answer) = (asked.name(), message.kind().name());
                tracing::error!(asked, answer, "a bug: this is no answer to that");
                let text = format!("a bug: a {answer} is no answer to a {asked}");
                failed(Status::Internal, ErrorBody::new(text))
            }
            Ok(message) => any_frame(&message, id).unwrap_or_else(|error| {
                failed(
                    Status::TooLarge,
                    ErrorBody::new(format!("{error}; ask for less")),
                )
            }),
            Err((status, error)) => failed(status, error),
        };
        let bytes = match bytes.len() > SMALL_REPLY_LEN && self.shared.has_too_much_queued() {
            true => failed(
                Status::Overloaded,
                ErrorBody::new("earlier answers were not read yet; read them, and ask again"),
            ),
            false => bytes,
        };
        self.shared.send(bytes.into());
        self.shared.request_permits.add_permits(1);
    }
}

impl Shared {
    fn new(peer: Peer, queue: mpsc::UnboundedSender<Bytes>) -> Self {
        static LAST_ID: AtomicU64 = AtomicU64::new(0);
        Self {
            id: LAST_ID.fetch_add(1, Ordering::Relaxed) + 1,
            peer,
            last_call: AtomicU64::new(0),
            calls: Mutex::default(),
            request_permits: Semaphore::new(REQUESTS_UNANSWERED_MAX),
            queue,
            queued_bytes: AtomicUsize::new(0),
            queue_shrank: Notify::new(),
            closed: watch::Sender::new(false),
        }
    }

    fn calls(&self) -> std::sync::MutexGuard<'_, Calls> {
        // A panic can't leave the map half changed, so what is there is good.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_call(&self) -> u64 {
        self.last_call.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Sends a request, or puts it in line. If the connection has ended the reply's way is dropped.
    fn ask(&self, id: u64, waiting: Waiting, frame: Vec<u8>, place: Place) {
        let mut calls = self.calls();
        // Looked at under the lock: whoever closes takes the lock afterwards to end all calls.
        if *self.closed.borrow() {
            return;
        }
        calls.waiting.insert(id, waiting);
        if place == Place::InLine && calls.sent >= REQUESTS_UNANSWERED_MAX {
            calls.line.insert(id, frame.into());
        } else {
            calls.sent += 1;
            self.send(frame.into());
        }
    }

    /// Hands a reply to the call that waits for it; an order's is handed back.
    fn end_call(&self, reply: Frame) -> Result<Option<Answer>, FrameError> {
        let (kind, id) = (reply.header.kind, reply.header.request_id);
        let mut calls = self.calls();
        let is_sent = !calls.line.contains_key(&id);
        let to = match calls.waiting.entry(id) {
            Entry::Occupied(it) if is_sent && it.get().reply_kind == kind => it.remove().to,
            _ => return Err(FrameError::OutOfTurn { kind }),
        };
        if !matches!(to, ReplyTo::Ping) {
            calls.sent -= 1;
        }
        while calls.sent < REQUESTS_UNANSWERED_MAX
            && let Some((_, frame)) = calls.line.pop_first()
        {
            calls.sent += 1;
            self.send(frame);
        }
        drop(calls);
        match to {
            ReplyTo::Call(to) => {
                // Nobody may be waiting any more, which is theirs to decide.
                let _ = to.send(reply);
                Ok(None)
            }
            ReplyTo::Order(order) => {
                let answer = match reply.header.status {
                    Status::Ok => Ok(reply.any_message()?),
                    status => Err((status, reply.error()?)),
                };
                Ok(Some(Answer { order, answer }))
            }
            ReplyTo::Ping => Ok(None),
        }
    }

    fn send(&self, bytes: Bytes) {
        let len = bytes.len();
        self.queued_bytes.fetch_add(len, Ordering::Relaxed);
        QUEUED_ALL.fetch_add(len, Ordering::Relaxed);
        if self.queue.send(bytes).is_err() {
            // The connection has ended, and nothing is to be sent.
            self.unqueued(len);
        }
    }

    /// So many bytes wait no longer.
    fn unqueued(&self, len: usize) {
        self.queued_bytes.fetch_sub(len, Ordering::Relaxed);
        QUEUED_ALL.fetch_sub(len, Ordering::Relaxed);
    }

    /// Whether another large reply has to wait until the peer has read. One that reads has
    /// nothing queued, and gets its reply whatever others do.
    fn has_too_much_queued(&self) -> bool {
        let own = self.queued_bytes.load(Ordering::Relaxed);
        let all = QUEUED_ALL.load(Ordering::Relaxed);
        own > 0 && (own > QUEUED_BYTES_MAX || all > QUEUED_ALL_MAX)
    }

    fn ping(&self) {
        let id = self.next_call();
        let waiting = Waiting {
            reply_kind: Kind::Pong,
            to: ReplyTo::Ping,
        };
        self.calls().waiting.insert(id, waiting);
        self.send(frame(&message::Ping, id).into());
    }

    fn close(&self) {
        self.closed.send_replace(true);
        self.request_permits.close();
        let mut calls = self.calls();
        calls.waiting.clear();
        calls.line.clear();
    }

    async fn wait_closed(&self) {
        let mut closed = self.closed.subscribe();
        // The sender lives in `self`.
        let _ = closed.wait_for(|&closed| closed).await;
    }
}

/// The kind that answers a request.
fn reply_kind(asked: Kind) -> Kind {
    match Kind::from_number(asked.number() + 1) {
        Some(kind) if !asked.is_reply() => kind,
        _ => panic!("{} is not a request", asked.name()),
    }
}

/// Sends what is queued, several frames at a time, until the connection ends.
async fn write_queue(
    shared: Arc<Shared>,
    mut queued: mpsc::UnboundedReceiver<Bytes>,
    mut write: OwnedWriteHalf,
) {
    const BATCH_MAX: usize = 64;
    let mut batch = Vec::with_capacity(BATCH_MAX);
    loop {
        let count = tokio::select! {
            biased;
            count = queued.recv_many(&mut batch, BATCH_MAX) => count,
            () = shared.wait_closed() => 0,
        };
        if count == 0 {
            break;
        }
        let sent = tokio::select! {
            sent = write_all(&mut write, &batch) => sent.is_ok(),
            () = after_close(&shared) => false,
        };
        shared.unqueued(batch.drain(..).map(|bytes| bytes.len()).sum());
        shared.queue_shrank.notify_one();
        if !sent {
            break;
        }
    }
    shared.close();
    queued.close();
    while let Ok(bytes) = queued.try_recv() {
        shared.unqueued(bytes.len());
    }
    // The peer may be gone already.
    let _ = timeout(FLUSH_TIME_MAX, write.shutdown()).await;
}

/// Ends a while after the connection was closed: what is queued has until then.
async fn after_close(shared: &Shared) {
    shared.wait_closed().await;
    tokio::time::sleep(FLUSH_TIME_MAX).await;
}

async fn write_all(write: &mut OwnedWriteHalf, batch: &[Bytes]) -> std::io::Result<()> {
    match batch {
        [one] => write_moving(write, one).await,
        many if many.iter().map(Bytes::len).sum::<usize>() <= QUEUED_BYTES_MAX / 64 => {
            write_moving(write, &many.concat()).await
        }
        many => {
            for bytes in many {
                write_moving(write, bytes).await?;
            }
            Ok(())
        }
    }
}

/// Writes all of it as long as the peer goes on taking some.
async fn write_moving(write: &mut OwnedWriteHalf, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match timeout(CLOSE_AFTER, write.write(bytes)).await?? {
            0 => return Err(std::io::ErrorKind::WriteZero.into()),
            len => bytes = bytes.get(len..).unwrap_or_default(),
        }
    }
    Ok(())
}
