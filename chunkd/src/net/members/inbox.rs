//! What goes to a chunk's actor and what comes back: queues that wake their reader once for all
//! that waits in them.
//!
//! Nothing here waits for a disk or a peer. Memory is bounded by those who fill the queues: a
//! client's stream stops reading its connection while [`Port::may_read`] says no, and while clients of all
//! chunks of its thread have sent as much as that takes ([`super::super::bound`]); the hop before has its
//! own window, and the control plane sends one order of a kind at a time.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sarsen_protocol::id::{ChunkVersion, Serial};
use sarsen_protocol::message::{Newest, WriteOpen};
use sarsen_protocol::status::Status;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};

use super::frames::{Came, FromNext};
use super::lane::Outcome;
use super::worker::{LaneDone, Readable};
use crate::core::member::Refusal;
use crate::core::mutation::{Answer, Order, StreamId};
use crate::io::Socket;

/// Bytes of one stream that may wait to be taken by the actor.
const PORT_BYTES_MAX: usize = 4 << 20;

/// Bytes of answers that may wait for a peer before no more is read from it.
const OUTBOX_BYTES_MAX: usize = 1 << 20;

/// Pieces of at least so many bytes are sent from where they lie.
const OWN_PIECE_MIN: usize = 16 * 1024;

/// Takes an answer of the machine.
pub(super) type Answerer = Box<dyn FnOnce(Result<Answer, Refusal>) + Send>;

/// What is told to a chunk's actor.
pub(super) enum Input {
    // Control plane.
    Order(Order, Answerer),
    Newest(Newest, Answerer),
    LeaseExtended(ChunkVersion, Duration),
    Read(Box<ReadAsked>),
    // Streams that came in.
    Open(StreamId, Box<WriteOpen>, Arc<Port>),
    /// A frame, its bytes, and the room that it has of the thread until it is taken.
    Came(StreamId, Came, usize, Option<OwnedSemaphorePermit>),
    /// A client's frame is here and not read, for want of room; or it has room by now.
    WaitsForRoom(StreamId, bool),
    Gone(StreamId),
    // The next hop.
    Next(ChunkVersion, FromNext),
    // The store.
    LaneDone(LaneDone),
    Flushed(Outcome),
    JournalFailed,
    /// The medium failed under a read.
    ReadFailed(Status),
    /// Something of the chunk has changed in its directory, perhaps by another hand.
    LookAgain,
}

/// A plain read that waits to be let in.
pub(super) struct ReadAsked {
    pub(super) version: ChunkVersion,
    pub(super) serial: Serial,
    pub(super) answer: oneshot::Sender<Result<Readable, Refusal>>,
}

/// The queue of one actor.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    waiting: Mutex<Waiting>,
    notify: Notify,
    /// The journal's progress is waited for.
    wants_journal: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    inputs: Vec<Input>,
    is_closed: bool,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting")
            .field("inputs", &self.inputs.len())
            .field("is_closed", &self.is_closed)
            .finish()
    }
}

impl Inbox {
    /// Hands something over; gives it back if the actor has ended.
    #[expect(
        clippy::result_large_err,
        reason = "it is given back once in a chunk's life, and moved once a frame"
    )]
    pub(super) fn push(&self, input: Input) -> Result<(), Input> {
        let was_empty = {
            let mut waiting = lock(&self.waiting);
            if waiting.is_closed {
                return Err(input);
            }
            let was_empty = waiting.inputs.is_empty();
            waiting.inputs.push(input);
            was_empty
        };
        if was_empty {
            self.notify.notify_one();
        }
        Ok(())
    }

    /// Takes all that waits into `into`, which is empty.
    pub(super) fn take(&self, into: &mut Vec<Input>) {
        std::mem::swap(&mut lock(&self.waiting).inputs, into);
    }

    /// Returns when something may wait.
    pub(super) async fn ready(&self) {
        self.notify.notified().await;
    }

    /// Takes nothing more, if nothing waits.
    pub(super) fn close_if_empty(&self) -> bool {
        let mut waiting = lock(&self.waiting);
        waiting.is_closed |= waiting.inputs.is_empty();
        waiting.is_closed
    }

    /// Takes nothing more; what waits.
    pub(super) fn close(&self) -> Vec<Input> {
        let mut waiting = lock(&self.waiting);
        waiting.is_closed = true;
        std::mem::take(&mut waiting.inputs)
    }

    /// Whether the actor wants to hear that the journal has come further.
    pub(super) fn want_journal(&self, wants: bool) {
        self.wants_journal.store(wants, Ordering::SeqCst);
    }

    /// The journal has come further.
    pub(super) fn journal_moved(&self) {
        if self.wants_journal.load(Ordering::SeqCst) {
            self.notify.notify_one();
        }
    }
}

/// One stream that came in, between its connection and the actor.
#[derive(Debug)]
pub(super) struct Port {
    /// The stream's number on its connection.
    pub(super) request_id: u64,
    pub(super) outbox: Outbox,
    /// The actor wants nothing at the moment.
    is_held: AtomicBool,
    /// Bytes that were handed over and not taken.
    handed: AtomicUsize,
    resumed: Notify,
}

impl Port {
    pub(super) fn new(request_id: u64) -> Self {
        Self {
            request_id,
            outbox: Outbox::default(),
            is_held: AtomicBool::new(false),
            handed: AtomicUsize::new(0),
            resumed: Notify::new(),
        }
    }

    /// So many bytes go to the actor.
    pub(super) fn hand_over(&self, len: usize) {
        self.handed.fetch_add(len, Ordering::Relaxed);
    }

    /// The actor has taken them.
    pub(super) fn taken(&self, len: usize) {
        let before = self.handed.fetch_sub(len, Ordering::Relaxed);
        if before > PORT_BYTES_MAX {
            self.resumed.notify_one();
        }
    }

    /// Whether more is wanted.
    pub(super) fn want(&self, is_wanted: bool) {
        self.is_held.store(!is_wanted, Ordering::Relaxed);
        if is_wanted {
            self.resumed.notify_one();
        }
    }

    /// Returns when the next frame may be read.
    pub(super) async fn may_read(&self) {
        let is_full = || {
            self.is_held.load(Ordering::Relaxed)
                || self.handed.load(Ordering::Relaxed) > PORT_BYTES_MAX
                || self.outbox.is_full()
        };
        while is_full() {
            tokio::select! {
                () = self.resumed.notified() => {}
                () = self.outbox.sent.notified() => {}
            }
        }
    }
}

/// Frames that wait to be sent over a connection.
///
/// Whoever puts frames in sends them himself, at the end of his turn, as far as the socket takes
/// them at once. What is left is for the connection's own task, which waits for the socket.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    frames: Mutex<Frames>,
    filled: Notify,
    sent: Notify,
}

#[derive(Debug, Default)]
struct Frames {
    pieces: Vec<Bytes>,
    tail: BytesMut,
    len: usize,
    is_ended: bool,
    /// Where to, once it is known.
    socket: Option<Arc<Socket>>,
    /// The connection's task is at what came before.
    is_sending: bool,
}

impl Frames {
    fn put(&mut self, piece: &[u8]) {
        self.tail.extend_from_slice(piece);
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push(self.tail.split().freeze());
        }
    }

    /// Sends what the socket takes at once. A failure is for the connection's task to meet.
    fn send(&mut self) {
        let Some(socket) = self.socket.as_ref().filter(|_| !self.is_sending) else {
            return;
        };
        while let Ok(mut sent @ 1..) = socket.try_send(&self.pieces) {
            self.len -= sent;
            let mut whole = 0;
            for piece in &mut self.pieces {
                if sent < piece.len() {
                    drop(piece.split_to(sent));
                    break;
                }
                sent -= piece.len();
                whole += 1;
            }
            self.pieces.drain(..whole);
            if self.pieces.is_empty() {
                return;
            }
        }
    }
}

impl Outbox {
    /// The connection is there.
    pub(super) fn connect(&self, socket: &Arc<Socket>) {
        lock(&self.frames).socket = Some(Arc::clone(socket));
    }

    /// Puts a frame behind those that wait: its head, and its payload in pieces.
    pub(super) fn put(&self, head: &[u8], payload: &[Bytes]) {
        let mut frames = lock(&self.frames);
        frames.put(head);
        frames.len += head.len();
        for piece in payload {
            frames.len += piece.len();
            match piece.len() >= OWN_PIECE_MIN {
                true => {
                    frames.close_tail();
                    frames.pieces.push(piece.clone());
                }
                false => frames.put(piece),
            }
        }
    }

    /// Has what was put in sent.
    pub(super) fn flush(&self) {
        let mut frames = lock(&self.frames);
        frames.close_tail();
        if frames.pieces.is_empty() {
            return;
        }
        frames.send();
        let is_empty = frames.pieces.is_empty();
        drop(frames);
        match is_empty {
            true => self.sent.notify_one(),
            false => self.filled.notify_one(),
        }
    }

    /// Nothing follows.
    pub(super) fn end(&self) {
        lock(&self.frames).is_ended = true;
        self.filled.notify_one();
    }

    /// What the connection's task is to send next, all of which was sent when it asks again; none when
    /// nothing follows any more.
    pub(super) async fn next(&self) -> Option<Vec<Bytes>> {
        lock(&self.frames).is_sending = false;
        loop {
            {
                let mut frames = lock(&self.frames);
                frames.close_tail();
                if !frames.pieces.is_empty() {
                    frames.len = 0;
                    frames.is_sending = true;
                    let pieces = std::mem::take(&mut frames.pieces);
                    drop(frames);
                    self.sent.notify_one();
                    return Some(pieces);
                }
                if frames.is_ended {
                    return None;
                }
            }
            self.filled.notified().await;
        }
    }

    fn is_full(&self) -> bool {
        lock(&self.frames).len > OUTBOX_BYTES_MAX
    }
}

/// How far a directory's journal is stable, for the actors of its chunks.
#[derive(Debug, Default)]
pub(super) struct Progress {
    stable: AtomicU64,
}

impl Progress {
    pub(super) fn stable(&self) -> u64 {
        self.stable.load(Ordering::SeqCst)
    }

    pub(super) fn raise(&self, sequence: u64) {
        self.stable.fetch_max(sequence, Ordering::SeqCst);
    }
}

/// Takes a lock, also after a panic elsewhere: what is under these is whole between calls.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    /// What a turn has to say is sent by itself as far as the socket takes it, and the rest by the
    /// connection's task: whole, once and in order, also while more is put in.
    #[test]
    fn what_a_socket_does_not_take_at_once_follows_in_order() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        let outbox = Outbox::default();
        let frames: Vec<Vec<u8>> = (0..200_u8).map(|it| vec![it; 40_000]).collect();
        let small = [201_u8; 100];
        let expected = [frames.concat(), small.to_vec()].concat();
        let reading = std::thread::spawn({
            let len = expected.len();
            move || {
                let mut read = vec![0; len];
                peer.read_exact(&mut read).unwrap();
                read
            }
        });
        runtime.block_on(async {
            let socket = Arc::new(Socket::of_small_frames(ours).unwrap());
            outbox.put(&frames[0], &[]);
            // Nothing is lost that was put in before the connection was there.
            outbox.flush();
            outbox.connect(&socket);
            let sending = async {
                while let Some(pieces) = outbox.next().await {
                    for piece in pieces {
                        socket.send(piece).await.unwrap();
                    }
                }
            };
            let putting = async {
                for (number, frame) in frames.iter().enumerate().skip(1) {
                    let (head, payload) = frame.split_at(number);
                    outbox.put(head, &[Bytes::copy_from_slice(payload)]);
                    if number % 3 == 0 {
                        outbox.flush();
                    }
                    if number % 20 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                outbox.put(&small, &[]);
                outbox.flush();
                outbox.end();
            };
            tokio::join!(sending, putting);
        });
        assert!(reading.join().unwrap() == expected);
    }
}
