//! What goes to a chunk's actor and what comes back: queues that wake their reader once for all
//! that waits in them.
//!
//! Nothing here waits for a disk or a peer. Memory is bounded by those who fill the queues: a
//! client's stream stops reading its connection while [`Port::may_read`] says no, the hop before has
//! its own window, and the control plane sends one order of a kind at a time.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sarsen_protocol::id::{ChunkVersion, Serial};
use sarsen_protocol::message::{Newest, WriteOpen};
use sarsen_protocol::status::Status;
use tokio::sync::{Notify, oneshot};

use super::frames::{Came, FromNext};
use super::lane::Outcome;
use super::worker::{LaneDone, Readable};
use crate::core::member::Refusal;
use crate::core::mutation::{Answer, Order, StreamId};

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
    Open(StreamId, Box<WriteOpen>, std::sync::Arc<Port>),
    Came(StreamId, Came),
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

    /// Takes nothing more, and drops what waits.
    pub(super) fn close(&self) {
        let dropped = {
            let mut waiting = lock(&self.waiting);
            waiting.is_closed = true;
            std::mem::take(&mut waiting.inputs)
        };
        drop(dropped);
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
}

impl Outbox {
    /// Puts a frame behind those that wait: its head, and its payload in pieces.
    pub(super) fn put(&self, head: &[u8], payload: &[Bytes]) {
        let was_empty = {
            let mut frames = lock(&self.frames);
            let was_empty = frames.len == 0;
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
            was_empty
        };
        if was_empty {
            self.filled.notify_one();
        }
    }

    /// Nothing follows.
    pub(super) fn end(&self) {
        lock(&self.frames).is_ended = true;
        self.filled.notify_one();
    }

    /// What is to be sent next; none when nothing follows any more.
    pub(super) async fn next(&self) -> Option<Vec<Bytes>> {
        loop {
            {
                let mut frames = lock(&self.frames);
                frames.close_tail();
                if !frames.pieces.is_empty() {
                    frames.len = 0;
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
