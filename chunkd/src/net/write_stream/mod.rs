//! The edge of a write stream: moves frames and bytes for [`ReplicaStream`], which decides.
//!
//! Five loops run side by side on the connection's thread, and meet in one queue of events:
//!
//! ```text
//!                        answers ◄─┐
//!  upstream ───► receive ──► conduct (core) ──► forward ───► next hop
//!                              ▲   │    ▲                       │
//!                              └ store  └────── listen ◄────────┘
//! ```
//!
//! A frame is received once, into one buffer, which [`store`] and [`relay`]'s `forward` then
//! share: the next hop has it while it is still being checked and written here. (A small one is copied, to
//! go on with its neighbours in one send.) Nothing counts before its CRCs were compared; every member
//! compares for itself.
//!
//! The queue of events is short. Buffers bound the queues of jobs: `receive` waits for one before
//! it takes a payload. When the stream
//! ends, well or not, the loops that are left are dropped; requests that io_uring still has keep
//! what they need (see [`crate::uring`]), and the connections of a failed stream are shut down.

mod relay;
mod store;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use sarsen_protocol::deframe::{error_frame, frame};
use sarsen_protocol::handshake::Identity;
use sarsen_protocol::id::Serial;
use sarsen_protocol::message::{
    ErrorBody, Kind, Level, WriteAck, WriteData, WriteOpen, WriteOpened, WriteSeal, WriteSealed,
};
use sarsen_protocol::size::BLOCK_LEN;
use sarsen_protocol::status::Status;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use self::relay::{ForwardJob, Receive};
use self::store::{Data, Store, StoreJob};
use super::STALL_MAX;
use super::chunkserver::wall_clock;
use super::link::{Head, Link, LinkError};
use super::members;
use super::plane::Thread;
use crate::core::replica_stream::{Action, Due, ReplicaStream};
use crate::core::tickets;
use crate::core::turns::Client;
use crate::io::Socket;
use crate::io::pool::{Buffer, StreamBuffers};

/// A payload of so many bytes is sent on together with what is before and behind it; a chunk of as many that
/// is here whole is made, written and sealed by one thread at one go.
const SMALL_LEN: usize = BLOCK_LEN as usize;

/// Events that wait for the conductor at a time.
const EVENTS_MAX: usize = 16;

/// How long a stream that begins waits for a buffer of its own, beyond the time in which those
/// that bring nothing have to make room.
const JOIN_MAX: Duration = Duration::from_secs(5);

/// How a stream ended that was not sealed.
#[derive(Debug)]
pub(super) enum StreamEnd {
    /// The peer was told why; its connection is to be closed with care.
    Told,
    /// The server is told to end; the peer is still to hear of it.
    Draining,
    /// The peer's connection is of no use any more.
    Link(LinkError),
    /// It is one of mutations, and goes on on the thread of its chunk.
    HandOver(u64, Box<WriteOpen>),
}

impl<E: Into<LinkError>> From<E> for StreamEnd {
    fn from(error: E) -> Self {
        Self::Link(error.into())
    }
}

/// What happened to a stream.
#[derive(Debug)]
enum Event {
    /// From upstream.
    Data(WriteData, Arc<Buffer>),
    Seal(WriteSeal),
    UpstreamEnded(LinkError),
    /// From the store.
    Prepared,
    Stored(Serial),
    Sealed(Level),
    /// All three at once, of a small chunk.
    Whole(Serial, Level),
    Failed(Status, String),
    /// From the next hop.
    Next(NextEvent),
}

/// What the next hop said, or that it said nothing.
#[derive(Debug)]
enum NextEvent {
    /// It said hello.
    Reached,
    Opened,
    Ack(WriteAck),
    Sealed(WriteSealed),
    Failed(Status, ErrorBody),
    Gone(String),
}

type Events = mpsc::Sender<Event>;

/// Tells what happened, once there is room for it: while the conductor waits for a peer to take
/// an answer, the other peer must not fill the memory with its own.
async fn tell(events: &Events, event: Event) {
    // After its end a stream hears nothing any more.
    let _ = events.send(event).await;
}

/// Carries out one write stream, which `head` opens.
///
/// # Errors
/// How it ended, if the chunk was not sealed.
pub(super) async fn serve(
    thread: &Thread,
    link: &mut Link,
    dialer: &Identity,
    head: &Head,
) -> Result<(), StreamEnd> {
    let open: WriteOpen = head.message()?;
    let request_id = head.header.request_id;
    if thread.chunkserver.members.takes(&thread.chunkserver, &open) {
        return members::stream::let_in(thread, link, dialer, request_id, open).await;
    }
    let counters = &thread.chunkserver.counters;
    let result = match admit(thread, link, request_id, &open).await? {
        Ok(buffers) => {
            let _counted = counters.write_streams.count();
            run(thread, link, request_id, buffers, open).await
        }
        Err((status, text)) => {
            let error = ErrorBody {
                server: thread.chunkserver.me(),
                ..ErrorBody::new(text)
            };
            let told = link
                .send(error_frame(Kind::WriteOpened, request_id, status, &error))
                .await;
            told.map_err(StreamEnd::Link).and(Err(StreamEnd::Told))
        }
    };
    if result.is_err() {
        counters.write_failures.add(1);
    }
    result
}

/// Why a stream is not taken in.
type Refusal = (Status, String);

/// Takes the stream in, or says why not.
async fn admit(
    thread: &Thread,
    link: &Link,
    request_id: u64,
    open: &WriteOpen,
) -> Result<Result<StreamBuffers, Refusal>, LinkError> {
    let keys = thread.chunkserver.ticket_keys();
    if let Err(error) = keys.check_write(open, thread.chunkserver.me(), wall_clock()) {
        return Ok(Err((tickets::status_of(error), error.to_string())));
    }
    let early = ReplicaStream::new(thread.chunkserver.me(), open.clone());
    let joining = timeout(
        thread.chunkserver.suspect_after() + JOIN_MAX,
        thread.pool.join(),
    );
    tokio::pin!(joining);
    loop {
        tokio::select! {
            biased;
            joined = &mut joining => return Ok(joined.map_err(|_| {
                let text = "too many streams at once; repeat later".to_owned();
                (Status::Overloaded, text)
            })),
            () = sleep(keep_alive_every(thread)) => {
                if let Some(ack) = early.keep_alive() {
                    link.send(frame(&ack, request_id)).await?;
                }
            }
        }
    }
}

/// How often a member says that it works, if it has nothing else to say.
fn keep_alive_every(thread: &Thread) -> Duration {
    thread.chunkserver.suspect_after() / 3
}

async fn run(
    thread: &Thread,
    link: &mut Link,
    request_id: u64,
    buffers: StreamBuffers,
    open: WriteOpen,
) -> Result<(), StreamEnd> {
    let (events, happened) = mpsc::channel(EVENTS_MAX);
    let (to_store, store_jobs) = mpsc::unbounded_channel();
    let (to_forward, forward_jobs) = mpsc::unbounded_channel();
    let (dialled, next_link) = oneshot::channel();

    let store = Store::new(thread, &open, events.clone());
    // Whoever relays it, it is the client's that writes (`spec/wire.md` section 12.4).
    let writer = Client::Session(open.ticket.unverified_claims().session);
    let core = ReplicaStream::new(thread.chunkserver.me(), open);
    let next_hop = core.next_hop().cloned();
    let upstream = Arc::clone(link.socket());
    let conduct = Conduct {
        core,
        upstream,
        request_id,
        happened,
        to_store,
        to_forward,
        suspect_after: thread.chunkserver.suspect_after(),
        keep_alive_every: keep_alive_every(thread),
        answered: Instant::now(),
        answers: Vec::new(),
    };
    let member = thread.turns.enter(writer);
    let receive = Receive {
        thread,
        link,
        member,
        request_id,
        buffers,
        patience: thread.chunkserver.suspect_after(),
        events: &events,
    };
    let forward = relay::forward(
        thread,
        next_hop.as_ref(),
        request_id,
        forward_jobs,
        dialled,
        &events,
    );
    // Where the connection to the next hop is put when it has done its part.
    let spent = RefCell::new(None);
    let listen = async {
        if let Ok(link) = next_link.await {
            let link = relay::listen(link, request_id, &events).await;
            *spent.borrow_mut() = link;
        }
    };
    let helpers = async {
        tokio::join!(receive.run(), store.run(store_jobs), forward, listen);
        // The conductor alone ends the stream.
        std::future::pending().await
    };
    let result = tokio::select! {
        // First: the others then know all that it made of what has happened.
        biased;
        result = conduct.run() => result,
        never = helpers => never,
    };
    if let (Ok(()), Some(hop), Some(link)) = (&result, &next_hop, spent.take()) {
        thread.next_hops.keep(hop, link);
    }
    result
}

/// Feeds the core, carries out what it wants, and answers upstream.
struct Conduct {
    core: ReplicaStream,
    upstream: Arc<Socket>,
    request_id: u64,
    happened: mpsc::Receiver<Event>,
    to_store: mpsc::UnboundedSender<StoreJob>,
    to_forward: mpsc::UnboundedSender<ForwardJob>,
    suspect_after: Duration,
    keep_alive_every: Duration,
    /// When upstream was last sent something.
    answered: Instant,
    /// Answers that are still to be sent.
    answers: Vec<u8>,
}

impl Conduct {
    async fn run(mut self) -> Result<(), StreamEnd> {
        // Until it is reached, the next hop has the time that dialling has.
        let mut heard = None;
        let mut end = self.act(None);
        while end.is_none() {
            // What has happened meanwhile is answered together.
            if self.happened.is_empty() {
                self.send_answers().await?;
            }
            let event = self.next_event(heard).await?;
            if matches!(event, Event::Next(_)) {
                heard = Some(Instant::now());
            }
            let buffer = self.feed(event)?;
            end = self.act(buffer);
        }
        self.send_answers().await?;
        end.unwrap_or(Ok(()))
    }

    /// Waits for what happens, and says upstream that it does. `heard` is when the next hop was
    /// last heard from.
    async fn next_event(&mut self, heard: Option<Instant>) -> Result<Event, StreamEnd> {
        let silent = heard
            .filter(|_| self.core.due() == Due::NextHop)
            .map(|heard| heard + self.suspect_after);
        loop {
            let speak = self.answered + self.keep_alive_every;
            let until = silent.map_or(speak, |silent| silent.min(speak));
            // What happened counts before what is late: this thread may have been late itself.
            if let Ok(event) = timeout_at(until, self.happened.recv()).await {
                return Ok(event.expect("the stream holds a sender until its conductor ends"));
            }
            if silent.is_some_and(|silent| Instant::now() >= silent) {
                let text = "the next hop fell silent".to_owned();
                return Ok(Event::Next(NextEvent::Gone(text)));
            }
            if let Some(ack) = self.core.keep_alive() {
                self.answers.extend(frame(&ack, self.request_id));
                self.send_answers().await?;
            }
        }
    }

    /// Tells the core what happened; the buffer is of the data frame that came, if one did.
    fn feed(&mut self, event: Event) -> Result<Option<Arc<Buffer>>, StreamEnd> {
        match event {
            Event::Data(data, buffer) => {
                let payload_len = u32::try_from(buffer.payload().len()).unwrap_or(u32::MAX);
                self.core.handle_data(&data, payload_len);
                return Ok(Some(buffer));
            }
            Event::Seal(seal) => self.core.handle_seal(&seal),
            Event::UpstreamEnded(error) => return Err(error.into()),
            Event::Prepared => self.core.handle_prepared(),
            Event::Stored(serial) => self.core.handle_stored(serial),
            Event::Sealed(level) => self.core.handle_sealed(level),
            Event::Whole(serial, level) => {
                self.core.handle_prepared();
                self.core.handle_stored(serial);
                self.core.handle_sealed(level);
            }
            Event::Failed(status, text) => self.core.handle_own_failure(status, &text),
            Event::Next(NextEvent::Reached) => {}
            Event::Next(NextEvent::Opened) => self.core.handle_next_opened(),
            Event::Next(NextEvent::Ack(ack)) => self.core.handle_next_ack(&ack),
            Event::Next(NextEvent::Sealed(sealed)) => self.core.handle_next_sealed(&sealed),
            Event::Next(NextEvent::Failed(status, error)) => {
                self.core.handle_next_failure(status, error);
            }
            Event::Next(NextEvent::Gone(text)) => self.core.handle_next_gone(&text),
        }
        Ok(None)
    }

    /// Carries out what the core wants; how the stream ended, if it has.
    fn act(&mut self, buffer: Option<Arc<Buffer>>) -> Option<Result<(), StreamEnd>> {
        let id = self.request_id;
        // What the core wants done with data it wants when the data comes.
        let data = || {
            buffer
                .clone()
                .expect("the core stores and forwards what just came")
        };
        while let Some(action) = self.core.poll_action() {
            match action {
                Action::Prepare => self.store(StoreJob::Prepare),
                Action::Store {
                    serial,
                    offset,
                    crcs,
                    ..
                } => {
                    self.store(StoreJob::Data(Data {
                        serial,
                        offset,
                        crcs,
                        buffer: data(),
                    }));
                }
                Action::Seal(seal) => self.store(StoreJob::Seal(seal)),
                Action::OpenNext(open) => self.forward(ForwardJob::Open(frame(&open, id))),
                Action::Forward(_) => self.forward(ForwardJob::Data(data())),
                Action::ForwardSeal(seal) => self.forward(ForwardJob::Seal(frame(&seal, id))),
                Action::AnswerOpened => self.answers.extend(frame(&WriteOpened, id)),
                Action::AnswerAck(ack) => self.answers.extend(frame(&ack, id)),
                Action::AnswerSealed(sealed) => {
                    self.answers.extend(frame(&sealed, id));
                    return Some(Ok(()));
                }
                Action::Fail(failure) => {
                    let error = &failure.error;
                    tracing::warn!(
                        peer = %self.upstream.peer(),
                        status = %failure.status,
                        blamed = %error.server,
                        text = error.text,
                        "a write stream failed"
                    );
                    let frame = error_frame(failure.kind, id, failure.status, error);
                    self.answers.extend(frame);
                    return Some(Err(StreamEnd::Told));
                }
            }
        }
        None
    }

    fn store(&self, job: StoreJob) {
        // The loop behind it ends before only after a failure, which it has told.
        let _ = self.to_store.send(job);
    }

    fn forward(&self, job: ForwardJob) {
        // As above.
        let _ = self.to_forward.send(job);
    }

    async fn send_answers(&mut self) -> Result<(), LinkError> {
        if self.answers.is_empty() {
            return Ok(());
        }
        let answers = std::mem::take(&mut self.answers);
        let sent = timeout(STALL_MAX, self.upstream.send_at_once(answers)).await;
        self.answered = Instant::now();
        Ok(sent.map_err(|_| LinkError::Silent)??)
    }
}
