//! Cut reads (`spec/wire.md` section 12.2) over connections that they share.
//!
//! A cut read is little, and most of its cost is that of calls and wake-ups. So it does not have a
//! connection to itself, as a stream has: several requests may be on their way on one, and the answers
//! come in their order. What is asked while nothing is on its way to a server is sent at once; what is asked
//! meanwhile goes together, when the task of the connection has its next turn. The chunkserver does the same with
//! its answers. So the more there is to do at a time, the more each call does.
//!
//! - [`Pipes`]: the connections, and which one a read takes;
//! - [`Pipe`]: one connection, and what is unanswered on it;
//! - [`run`]: its task, which receives, and sends what could not be sent at once.
//!
//! An answer waits for those before it. So nothing more is asked on a connection that is quiet though
//! something is due, or whose next answer nobody waits for any more: the disk that one is about may hang.
//! It goes on when the answer comes. Who is silent is told by what has come on the connection since,
//! and only who waits for the next answer blames the server for it.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sarsen_protocol::deframe::{Deframer, Frame, frame};
use sarsen_protocol::error::FrameError;
use sarsen_protocol::message::{CutData, ErrorBody, Kind, Plane, ReadCut};
use tokio::io::AsyncReadExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::read::{End, message_in};
use super::{Link, Links, Peer, ReadFailure};
use crate::core::cut_read::CutRead;
use crate::core::read::{Fault, Fetch};
use crate::core::read_stream::Served;
use crate::error::{Error, StreamError};
use crate::sink::Outlet;

/// Connections to one server that share nothing as long as one of them has nothing to do.
const SPREAD: usize = 4;

/// Requests that may be unanswered on a connection (`spec/wire.md` section 2).
const UNANSWERED_MAX: usize = 16;

/// Requests of one read at the most: one for each block that its range touches.
const PIECES_MAX: usize = 2;

/// Requests on one connection before another is opened.
const DEPTH: usize = UNANSWERED_MAX - PIECES_MAX + 1;

/// A connection on which nothing has come for so long, and something is due, is not asked more; and so
/// long who finds no connection waits for those that others open.
const QUIET_MAX: Duration = Duration::from_millis(50);

/// Bytes that a connection is received into, together with the frames that are cut from them.
const ROOM: usize = 32 * 1024;

/// Less than this is too little to receive into.
const ROOM_MIN: usize = 8 * 1024;

/// Bytes that were read and verified.
pub(crate) struct Cuts {
    /// Each with its offset in the chunk.
    payloads: Vec<(u32, Bytes)>,
    /// What was served, of a chunk of which that was not known before.
    pub(crate) served: Option<Served>,
}

impl Cuts {
    /// Hands them on.
    pub(crate) async fn give(self, fetch: &Fetch, outlet: &Outlet) -> Result<(), Error> {
        for (offset, payload) in self.payloads {
            outlet.give(offset.into(), payload, fetch.verified).await?;
        }
        Ok(())
    }
}

/// Reads a few bytes of one or two blocks and verifies them; the replica may be silent for
/// `silence_max`.
pub(crate) async fn read_cut(
    links: &Links,
    fetch: &Fetch,
    mut cut: CutRead,
    silence_max: Duration,
) -> Result<Cuts, ReadFailure> {
    let wanted = cut.wanted();
    let asked = ask(links, fetch, &cut, silence_max).await;
    let (pipe, asked) = asked.map_err(|error| ReadFailure::Replica {
        error,
        fault: Fault::Unreachable,
        verified: fetch.verified,
    })?;
    let received = receive(&pipe, asked, &mut cut, silence_max).await;
    let payloads = received.map_err(|end| {
        // It was good once, and its server may have closed it before it saw the request.
        let is_stale = pipe.lock().answers > 0;
        end.into_failure(&pipe.peer, &wanted, fetch.verified, is_stale)
    })?;
    Ok(Cuts {
        payloads,
        served: cut.served(),
    })
}

/// Asks for all that the read wants, on a connection that there is or on a new one.
async fn ask(
    links: &Links,
    fetch: &Fetch,
    cut: &CutRead,
    time_max: Duration,
) -> Result<(Arc<Pipe>, Asked), StreamError> {
    let (chunk, replica) = (&fetch.chunk, &fetch.replica);
    let (version, serial, want) = cut.wanted().asked();
    let requests = || {
        cut.requests().map(|(offset, length)| ReadCut {
            ticket: chunk.ticket,
            handle: chunk.handle,
            version,
            serial,
            want,
            offset,
            length,
        })
    };
    let pipes = &links.pipes;
    let mut may_wait = true;
    let opening = loop {
        let mut opened = pin!(pipes.opened.notified());
        opened.as_mut().enable();
        match pipes.find(&replica.data_addr, links.suspect_after(), may_wait) {
            // It may have ended, or be full, before it is asked.
            Found::Pipe(pipe, at_once) => {
                if let Some(asked) = pipe.ask(requests(), at_once) {
                    return Ok((pipe, asked));
                }
            }
            // One that can't be opened for long holds up only who opens it.
            Found::Wait => may_wait = timeout(QUIET_MAX, opened).await.is_ok(),
            Found::Open(opening) => break opening,
        }
    };
    let link = links.take(replica.server, &replica.data_addr, time_max);
    let pipe = pipes.add(link.await?);
    let asked = pipe.ask(requests(), true);
    drop(opening);
    match asked {
        Some(asked) => Ok((pipe, asked)),
        None => Err(pipe.peer.io_error(io::ErrorKind::NotConnected.into())),
    }
}

/// The payloads of all answers, verified, each with its offset in the chunk.
async fn receive(
    pipe: &Pipe,
    asked: Asked,
    cut: &mut CutRead,
    silence_max: Duration,
) -> Result<Vec<(u32, Bytes)>, End> {
    let mut payloads = Vec::with_capacity(asked.len());
    for (request_id, mut answer) in asked {
        let mut patient_until = Instant::now() + silence_max;
        let answered = loop {
            match timeout_at(patient_until, &mut answer).await {
                Ok(answered) => break answered,
                Err(_) => patient_until = pipe.more_patience(request_id, silence_max)?,
            }
        };
        // Without a word its task has gone, and the runtime with it.
        let frame = answered.unwrap_or(Err(Lost::Io(io::ErrorKind::NotConnected)))?;
        let header = frame.header;
        let data: CutData = message_in(&header, &frame.body, request_id)?;
        let kind = header.kind;
        data.check_payload(header.payload_len)
            .map_err(|source| FrameError::Body { kind, source })?;
        cut.handle_data(&data, &frame.payload)?;
        payloads.push((data.offset, frame.payload));
    }
    Ok(payloads)
}

/// The connections of a client for its cut reads.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    inner: Mutex<Inner>,
    /// One was opened, or could not be.
    opened: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    by_addr: HashMap<String, Vec<Arc<Pipe>>>,
    /// How many are being opened.
    opening: HashMap<String, usize>,
    /// Ended with the client.
    tasks: JoinSet<()>,
}

/// Where a read goes.
enum Found<'a> {
    /// On this connection, on which it may be sent at once if nothing is on its way to the server.
    Pipe(Arc<Pipe>, bool),
    /// On one that others are opening.
    Wait,
    /// On one that it opens itself.
    Open(Opening<'a>),
}

/// A connection that is being opened.
struct Opening<'a> {
    pipes: &'a Pipes,
    addr: String,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let mut inner = self.pipes.lock();
        if let Some(count) = inner.opening.get_mut(&self.addr) {
            *count -= 1;
            if *count == 0 {
                inner.opening.remove(&self.addr);
            }
        }
        drop(inner);
        self.pipes.opened.notify_waiters();
    }
}

impl Pipes {
    /// Where the next read from `addr` goes.
    fn find(&self, addr: &str, suspect_after: Duration, may_wait: bool) -> Found<'_> {
        let now = Instant::now();
        let mut inner = self.lock();
        let inner = &mut *inner;
        let opening = inner.opening.get(addr).copied().unwrap_or_default();
        let pipes = match inner.by_addr.get_mut(addr) {
            Some(pipes) => {
                pipes.retain(|pipe| !pipe.is_given_up(now, suspect_after));
                pipes.as_slice()
            }
            None => &[],
        };
        let usable = || {
            pipes
                .iter()
                .filter_map(|pipe| Some((pipe, pipe.load(now)?)))
        };
        if let Some((least, load)) = usable().take(SPREAD).min_by_key(|(_, load)| *load) {
            if load == 0 {
                let is_alone = pipes.iter().all(|pipe| pipe.load(now) == Some(0));
                return Found::Pipe(Arc::clone(least), is_alone);
            }
            let is_spread = usable().count() + opening >= SPREAD;
            let mut all = std::iter::once((least, load)).chain(usable().skip(SPREAD));
            if let Some((pipe, _)) = all.find(|(_, load)| is_spread && *load < DEPTH) {
                return Found::Pipe(Arc::clone(pipe), false);
            }
        }
        if may_wait && opening >= SPREAD {
            return Found::Wait;
        }
        *inner.opening.entry(addr.to_owned()).or_default() += 1;
        Found::Open(Opening {
            pipes: self,
            addr: addr.to_owned(),
        })
    }

    /// Takes a new connection in.
    fn add(&self, link: Link) -> Arc<Pipe> {
        let (receiving, sending) = link.stream.into_split();
        let pipe = Arc::new(Pipe {
            peer: link.peer,
            sending,
            state: Mutex::new(State {
                requests: link.streams,
                answers: link.streams,
                unsent: Vec::new(),
                waiting: VecDeque::new(),
                due_since: Instant::now(),
                end: None,
            }),
            wake: Notify::new(),
        });
        let mut inner = self.lock();
        while inner.tasks.try_join_next().is_some() {}
        let all = inner.by_addr.values_mut();
        all.for_each(|pipes| pipes.retain(|pipe| pipe.lock().end.is_none()));
        inner.by_addr.retain(|_, pipes| !pipes.is_empty());
        inner.tasks.spawn(run(Ending(Arc::clone(&pipe)), receiving));
        let pipes = inner.by_addr.entry(pipe.peer.addr.clone()).or_default();
        pipes.push(Arc::clone(&pipe));
        pipe
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection.
#[derive(Debug)]
struct Pipe {
    peer: Peer,
    sending: OwnedWriteHalf,
    state: Mutex<State>,
    /// There is something for its task to do.
    wake: Notify,
}

#[derive(Debug)]
struct State {
    /// What is to be sent still.
    unsent: Vec<u8>,
    /// Who waits, in the order of their requests.
    waiting: VecDeque<Waiting>,
    /// Requests so far.
    requests: u64,
    /// Answers so far.
    answers: u64,
    /// Since when the next answer is due: since the one before it, or since its request.
    due_since: Instant,
    /// Why nothing more comes.
    end: Option<Lost>,
}

#[derive(Debug)]
struct Waiting {
    request_id: u64,
    answer: oneshot::Sender<Result<Frame, Lost>>,
}

/// Why an answer does not come.
#[derive(Clone, Debug)]
enum Lost {
    Io(io::ErrorKind),
    Frame(FrameError),
    /// The server says goodbye.
    Goodbye(Box<Frame>),
}

impl From<Lost> for End {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Io(kind) => Self::Io(kind.into()),
            Lost::Frame(error) => Self::Frame(error),
            Lost::Goodbye(frame) => goodbye(&frame),
        }
    }
}

fn goodbye(frame: &Frame) -> End {
    let status = frame.header.status;
    match ErrorBody::from_body(&frame.body) {
        Ok(ErrorBody { text, version, .. }) => End::Status {
            status,
            text,
            version,
        },
        Err(source) => {
            let kind = frame.header.kind;
            FrameError::Body { kind, source }.into()
        }
    }
}

/// Answers that are on their way, in their order, each with the id of its request.
type Asked = Vec<(u64, oneshot::Receiver<Result<Frame, Lost>>)>;

impl Pipe {
    /// How many requests are unanswered on it; `None` if no more are to be asked.
    fn load(&self, now: Instant) -> Option<usize> {
        let state = self.lock();
        let is_quiet = now.saturating_duration_since(state.due_since) > QUIET_MAX;
        match state.waiting.front() {
            _ if state.end.is_some() => None,
            None => Some(0),
            Some(next) if next.answer.is_closed() || is_quiet => None,
            Some(_) => Some(state.waiting.len()),
        }
    }

    /// Whether it has ended, or nobody waits for what is due for longer than the server may be silent.
    fn is_given_up(&self, now: Instant, suspect_after: Duration) -> bool {
        let state = self.lock();
        let is_silent = now.saturating_duration_since(state.due_since) > suspect_after;
        let is_left = || state.waiting.iter().all(|it| it.answer.is_closed());
        state.end.is_some() || !state.waiting.is_empty() && is_silent && is_left()
    }

    /// Until when the answer to `request_id` is to be waited for, which was for `silence_max`: answers to
    /// others may have come meanwhile.
    ///
    /// # Errors
    /// [`End::Silent`]; [`End::Late`] if the next answer is another's: whose fault that is can't be told.
    fn more_patience(&self, request_id: u64, silence_max: Duration) -> Result<Instant, End> {
        let state = self.lock();
        let until = state.due_since + silence_max;
        let next = state.waiting.front();
        match next.is_none_or(|next| next.request_id == request_id) {
            _ if until > Instant::now() => Ok(until),
            true => Err(End::Silent),
            false => Err(End::Late),
        }
    }

    /// Sends requests `at_once`, or has them sent; `None` if the connection has ended.
    fn ask(&self, requests: impl Iterator<Item = ReadCut>, at_once: bool) -> Option<Asked> {
        let mut state = self.lock();
        if state.end.is_some() || state.waiting.len() + PIECES_MAX > UNANSWERED_MAX {
            return None;
        }
        if state.waiting.is_empty() {
            state.due_since = Instant::now();
        }
        let mut answers = Vec::with_capacity(1);
        for request in requests {
            state.requests += 1;
            let request_id = state.requests;
            let (sender, answer) = oneshot::channel();
            state.waiting.push_back(Waiting {
                request_id,
                answer: sender,
            });
            state.unsent.extend(frame(&request, request_id));
            answers.push((request_id, answer));
        }
        if at_once {
            self.send(&mut state);
        }
        if !state.unsent.is_empty() {
            self.wake.notify_one();
        }
        Some(answers)
    }

    /// Sends as much as the connection takes now.
    fn send(&self, state: &mut State) {
        while !state.unsent.is_empty() && state.end.is_none() {
            match self.sending.try_write(&state.unsent) {
                Ok(len) => drop(state.unsent.drain(..len)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => self.end(state, &Lost::Io(error.kind())),
            }
        }
    }

    /// Gives a frame to who waits for it.
    fn take(&self, frame: Frame) -> Result<(), Lost> {
        let (kind, request_id) = (frame.header.kind, frame.header.request_id);
        if kind == Kind::Goodbye {
            return Err(Lost::Goodbye(Box::new(frame)));
        }
        let mut state = self.lock();
        let is_due = |next: &mut Waiting| next.request_id == request_id && kind == Kind::CutData;
        let waiting = state.waiting.pop_front_if(is_due);
        let waiting = waiting.ok_or(Lost::Frame(FrameError::OutOfTurn { kind }))?;
        state.answers += 1;
        state.due_since = Instant::now();
        drop(state);
        // Who asked may have gone.
        let _ = waiting.answer.send(Ok(frame));
        Ok(())
    }

    /// Nothing more is asked on it, and who waits is told.
    fn end(&self, state: &mut State, why: &Lost) {
        state.end.get_or_insert_with(|| why.clone());
        for waiting in state.waiting.drain(..) {
            let _ = waiting.answer.send(Err(why.clone()));
        }
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a connection with its task, whatever ended that.
struct Ending(Arc<Pipe>);

impl Drop for Ending {
    fn drop(&mut self) {
        let why = Lost::Io(io::ErrorKind::NotConnected);
        self.0.end(&mut self.0.lock(), &why);
    }
}

/// Receives until the connection ends.
async fn run(ending: Ending, mut receiving: OwnedReadHalf) {
    let pipe = &ending.0;
    let mut deframer = Deframer::new(Plane::Data);
    deframer.hello_is_done();
    let why = loop {
        let has_unsent = {
            let mut state = pipe.lock();
            pipe.send(&mut state);
            if state.end.is_some() {
                return;
            }
            !state.unsent.is_empty()
        };
        let buffer = deframer.buffer();
        if buffer.capacity() - buffer.len() < ROOM_MIN {
            buffer.reserve(ROOM);
        }
        let received = tokio::select! {
            received = receiving.read_buf(deframer.buffer()) => received,
            () = pipe.wake.notified() => {
                // Who else has something to ask just now, does so first.
                tokio::task::yield_now().await;
                continue;
            }
            writable = pipe.sending.writable(), if has_unsent => match writable {
                Ok(()) => continue,
                Err(error) => Err(error),
            },
        };
        match received {
            Ok(0) => break Lost::Io(io::ErrorKind::UnexpectedEof),
            Ok(_) => {}
            Err(error) => break Lost::Io(error.kind()),
        }
        if let Err(why) = take_all(pipe, &mut deframer) {
            break why;
        }
    };
    pipe.end(&mut pipe.lock(), &why);
}

/// Gives away the frames that are here.
fn take_all(pipe: &Pipe, deframer: &mut Deframer) -> Result<(), Lost> {
    while let Some(frame) = deframer.next_frame().map_err(Lost::Frame)? {
        pipe.take(frame)?;
    }
    Ok(())
}
