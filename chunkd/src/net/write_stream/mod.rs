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
//! share: the next hop has it while it is still being checked and written here. Nothing counts
//! before its CRCs were compared; every member compares for itself.
//!
//! The queue of events is short. Buffers bound the queues of jobs: `receive` waits for one before
//! it takes a payload. When the stream
//! ends, well or not, the loops that are left are dropped; requests that io_uring still has keep
//! what they need (see [`crate::uring`]), and the connections of a failed stream are shut down.

mod relay;
mod store;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sarsen_protocol::deframe::{error_frame, frame};
use sarsen_protocol::id::Serial;
use sarsen_protocol::message::{
    ErrorBody, Kind, Level, WriteAck, WriteData, WriteOpen, WriteOpened, WriteSeal, WriteSealed,
};
use sarsen_protocol::status::Status;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use self::relay::{ForwardJob, Receive};
use self::store::{Store, StoreJob};
use super::chunkserver::wall_clock;
use super::link::{Head, Link, LinkError};
use super::plane::Thread;
use super::{STALL_MAX, STALL_MORE_PER_HOP};
use crate::core::replica_stream::{Action, Due, ReplicaStream};
use crate::core::tickets;
use crate::io::Socket;
use crate::io::pool::{Buffer, StreamBuffers};

/// Events that wait for the conductor at a time.
const EVENTS_MAX: usize = 16;

/// How long a stream that begins waits for a buffer of its own.
const JOIN_MAX: Duration = Duration::from_secs(5);

/// How a stream ended that was not sealed.
#[derive(Debug)]
pub(super) enum StreamEnd {
    /// The peer was told why; its connection is to be closed with care.
    Told,
    /// The peer's connection is of no use any more.
    Link(LinkError),
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
    Failed(Status, String),
    /// From the next hop.
    Next(NextEvent),
}

/// What the next hop said, or that it said nothing.
#[derive(Debug)]
enum NextEvent {
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
pub(super) async fn serve(thread: &Thread, link: &mut Link, head: &Head) -> Result<(), StreamEnd> {
    let open: WriteOpen = head.message()?;
    let request_id = head.header.request_id;
    let counters = &thread.chunkserver.counters;
    let result = match admit(thread, &open).await {
        Ok(buffers) => {
            let _counted = counters.write_streams.count();
            run(thread, link, request_id, &buffers, open).await
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

/// Takes the stream in, or says why not.
async fn admit(thread: &Thread, open: &WriteOpen) -> Result<StreamBuffers, (Status, String)> {
    let keys = thread.chunkserver.ticket_keys();
    keys.check_write(open, thread.chunkserver.me(), wall_clock())
        .map_err(|error| (tickets::status_of(error), error.to_string()))?;
    if open.begin_serial != Serial::NONE || open.lock_token != 0 {
        return Err((
            Status::Unsupported,
            "this server writes pending chunks only".to_owned(),
        ));
    }
    timeout(JOIN_MAX, thread.pool.join()).await.map_err(|_| {
        (
            Status::Overloaded,
            "too many streams at once; repeat later".to_owned(),
        )
    })
}

async fn run(
    thread: &Thread,
    link: &mut Link,
    request_id: u64,
    buffers: &StreamBuffers,
    open: WriteOpen,
) -> Result<(), StreamEnd> {
    let (events, happened) = mpsc::channel(EVENTS_MAX);
    let (to_store, store_jobs) = mpsc::unbounded_channel();
    let (to_forward, forward_jobs) = mpsc::unbounded_channel();
    let (dialled, next_link) = oneshot::channel();

    let store = Store::new(thread, &open, events.clone());
    let core = ReplicaStream::new(thread.chunkserver.me(), open);
    let next_hop = core.next_hop().cloned();
    let upstream = Rc::clone(link.socket());
    let conduct = Conduct {
        core,
        upstream,
        request_id,
        happened,
        to_store,
        to_forward,
    };
    let receive = Receive {
        link,
        request_id,
        buffers,
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
    upstream: Rc<Socket>,
    request_id: u64,
    happened: mpsc::Receiver<Event>,
    to_store: mpsc::UnboundedSender<StoreJob>,
    to_forward: mpsc::UnboundedSender<ForwardJob>,
}

impl Conduct {
    async fn run(mut self) -> Result<(), StreamEnd> {
        let behind = u32::try_from(self.core.members_behind()).unwrap_or(u32::MAX);
        let patience = STALL_MAX + STALL_MORE_PER_HOP * behind;
        let mut deadline = Instant::now() + patience;
        self.act(None).await?;
        loop {
            let due = self.core.due();
            let event = self.next_event(due, deadline).await;
            let is_answer = matches!(event, Event::Next(_));
            let buffer = self.feed(event)?;
            if self.act(buffer).await? {
                return Ok(());
            }
            // The next hop has its time from when it begins to owe, and anew after each answer.
            if is_answer || due == Due::Nothing {
                deadline = Instant::now() + patience;
            }
        }
    }

    async fn next_event(&mut self, due: Due, deadline: Instant) -> Event {
        let silent = || Event::Next(NextEvent::Gone("the next hop fell silent".to_owned()));
        let event = match due {
            Due::Nothing => self.happened.recv().await,
            Due::NextHop => match timeout_at(deadline, self.happened.recv()).await {
                Ok(event) => event,
                Err(_) => Some(silent()),
            },
        };
        event.expect("the stream holds a sender until its conductor ends")
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
            Event::Failed(status, text) => self.core.handle_own_failure(status, &text),
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

    /// Carries out what the core wants; true when the chunk is sealed and the stream over.
    async fn act(&mut self, buffer: Option<Arc<Buffer>>) -> Result<bool, StreamEnd> {
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
                    self.store(StoreJob::Data {
                        serial,
                        offset,
                        crcs,
                        buffer: data(),
                    });
                }
                Action::Seal(seal) => self.store(StoreJob::Seal(seal)),
                Action::OpenNext(open) => self.forward(ForwardJob::Open(frame(&open, id))),
                Action::Forward(_) => self.forward(ForwardJob::Data(data())),
                Action::ForwardSeal(seal) => self.forward(ForwardJob::Seal(frame(&seal, id))),
                Action::AnswerOpened => self.answer(frame(&WriteOpened, id)).await?,
                Action::AnswerAck(ack) => self.answer(frame(&ack, id)).await?,
                Action::AnswerSealed(sealed) => {
                    self.answer(frame(&sealed, id)).await?;
                    return Ok(true);
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
                    self.answer(error_frame(failure.kind, id, failure.status, error))
                        .await?;
                    return Err(StreamEnd::Told);
                }
            }
        }
        Ok(false)
    }

    fn store(&self, job: StoreJob) {
        // The loop behind it ends before only after a failure, which it has told.
        let _ = self.to_store.send(job);
    }

    fn forward(&self, job: ForwardJob) {
        // As above.
        let _ = self.to_forward.send(job);
    }

    async fn answer(&self, frame: Vec<u8>) -> Result<(), LinkError> {
        let sent = timeout(STALL_MAX, self.upstream.send(frame)).await;
        Ok(sent.map_err(|_| LinkError::Silent)??)
    }
}
