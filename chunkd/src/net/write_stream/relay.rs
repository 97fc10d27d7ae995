//! The loops of a write stream that face connections: upstream, and the next hop.

use std::sync::Arc;
use std::time::Duration;

use sarsen_protocol::error::FrameError;
use sarsen_protocol::message::{Hop, Kind, Message as _, WriteData};
use sarsen_protocol::status::Status;
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;

use super::super::IDLE_MAX;
use super::super::link::{Head, Link, LinkError};
use super::super::plane::Thread;
use super::super::turns::Member;
use super::{Event, Events, NextEvent, SMALL_LEN, tell};
use crate::io::pool::{Buffer, StreamBuffers};

/// Takes frames from upstream, up to the seal.
pub(super) struct Receive<'a> {
    pub(super) thread: &'a Thread,
    pub(super) link: &'a mut Link,
    pub(super) member: Arc<Member>,
    pub(super) request_id: u64,
    /// Given back with the seal: from then on the stream waits for disks and needs no memory, and
    /// many may do so at the same time and share their syncs.
    pub(super) buffers: StreamBuffers,
    /// How long others wait for a buffer before this stream has to have brought a whole frame.
    pub(super) patience: Duration,
    pub(super) events: &'a Events,
}

impl Receive<'_> {
    pub(super) async fn run(mut self) {
        loop {
            let event = self.next().await.unwrap_or_else(|idle| match idle {
                Idle::Ended(error) => Event::UpstreamEnded(error),
                Idle::Wanted => {
                    let text = "other streams wait, and this one brings nothing; send it again";
                    Event::Failed(Status::Overloaded, text.to_owned())
                }
            });
            let is_last = !matches!(event, Event::Data(..));
            tell(self.events, event).await;
            if is_last {
                return;
            }
        }
    }

    async fn next(&mut self) -> Result<Event, Idle> {
        let ended = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let (buffers, patience) = (&self.buffers, self.patience);
        let head = tokio::select! {
            biased;
            head = self.link.next_head(IDLE_MAX) => head?.ok_or_else(ended)?,
            () = buffers.wanted_by_others(patience) => return Err(Idle::Wanted),
        };
        let kind = head.header.kind;
        if head.header.request_id != self.request_id {
            return Err(FrameError::OutOfTurn { kind }.into());
        }
        match kind {
            Kind::WriteData => self.data(&head).await,
            Kind::WriteSeal => Ok(Event::Seal(head.message()?)),
            // A sender that has changed its mind.
            Kind::Goodbye => Err(ended().into()),
            _ => Err(FrameError::OutOfTurn { kind }.into()),
        }
    }

    async fn data(&mut self, head: &Head) -> Result<Event, Idle> {
        let data: WriteData = head.message()?;
        data.check_payload(head.header.payload_len)
            .map_err(|source| FrameError::Body {
                kind: WriteData::KIND,
                source,
            })?;
        let payload_len = head.header.payload_len;
        let held = &self.thread.chunkserver.counters.turns_held;
        // Before the buffer, which others can use meanwhile.
        let turn = self.member.turn(payload_len, held).await;
        let mut buffer = self.buffers.next().await?;
        buffer.prepare(&head.bytes, payload_len as usize);
        // Until the frame is stored and sent on.
        buffer.accompany(turn);
        let (buffers, patience) = (&self.buffers, self.patience);
        let buffer = tokio::select! {
            biased;
            buffer = self.link.recv_payload(buffer) => buffer?,
            () = buffers.wanted_by_others(patience) => return Err(Idle::Wanted),
        };
        Ok(Event::Data(data, Arc::new(buffer)))
    }
}

/// Why nothing more comes from upstream.
enum Idle {
    Ended(LinkError),
    /// Others wait for what the stream holds.
    Wanted,
}

impl<E: Into<LinkError>> From<E> for Idle {
    fn from(error: E) -> Self {
        Self::Ended(error.into())
    }
}

/// What is to be sent to the next hop; whole frames, data as it came.
#[derive(Debug)]
pub(super) enum ForwardJob {
    Open(Vec<u8>),
    Data(Arc<Buffer>),
    Seal(Vec<u8>),
}

impl ForwardJob {
    /// Whether it is better copied than sent alone from where it lies.
    fn is_small(&self) -> bool {
        match self {
            Self::Open(_) | Self::Seal(_) => true,
            Self::Data(buffer) => is_small(buffer),
        }
    }

    /// Puts its frame behind others; how many bytes of data that are.
    fn append_to(&self, frames: &mut Vec<u8>) -> u64 {
        match self {
            Self::Open(frame) | Self::Seal(frame) => {
                frames.extend_from_slice(frame);
                0
            }
            Self::Data(buffer) => {
                frames.extend_from_slice(buffer.frame());
                buffer.payload().len() as u64
            }
        }
    }
}

fn is_small(buffer: &Buffer) -> bool {
    buffer.payload().len() <= SMALL_LEN
}

/// Reaches the next hop, hands its connection to [`listen`], and sends it what there is.
///
/// A send that fails is not told: the connection's other direction brings the next hop's own
/// word, or its end.
pub(super) async fn forward(
    thread: &Thread,
    hop: Option<&Hop>,
    request_id: u64,
    mut jobs: mpsc::UnboundedReceiver<ForwardJob>,
    dialled: oneshot::Sender<Link>,
    events: &Events,
) {
    // Without a next hop the core forwards nothing.
    let Some(hop) = hop else { return };
    let connected = thread
        .next_hops
        .connect(hop, thread.mode, &thread.chunkserver)
        .await;
    let link = match connected {
        Ok(link) => link,
        Err(text) => return tell(events, Event::Next(NextEvent::Gone(text))).await,
    };
    let socket = std::sync::Arc::clone(link.socket());
    tracing::debug!(server = %hop.server, request_id, "a chain goes on");
    tell(events, Event::Next(NextEvent::Reached)).await;
    // The stream is over if nobody takes it.
    let _ = dialled.send(link);
    // What came together with the opening goes on together with it.
    yield_now().await;
    let forwarded = &thread.chunkserver.counters.bytes_forwarded;
    let mut next = jobs.recv().await;
    while let Some(job) = next.take() {
        let sent = match job {
            ForwardJob::Data(buffer) if !is_small(&buffer) => {
                forwarded.add(buffer.payload().len() as u64);
                socket.send_frame(buffer).await
            }
            job => {
                let mut frames = Vec::new();
                forwarded.add(job.append_to(&mut frames));
                while let Ok(job) = jobs.try_recv() {
                    if !job.is_small() {
                        next = Some(job);
                        break;
                    }
                    forwarded.add(job.append_to(&mut frames));
                }
                socket.send_at_once(frames).await
            }
        };
        if let Err(error) = sent {
            tracing::debug!(server = %hop.server, %error, "the next hop takes nothing any more");
            return;
        }
        if next.is_none() {
            next = jobs.recv().await;
        }
    }
}

/// Takes the next hop's answers, up to the seal's; its connection comes back if it can be used
/// again.
pub(super) async fn listen(mut link: Link, request_id: u64, events: &Events) -> Option<Link> {
    loop {
        // How long it may take is the conductor's to say, who knows whether an answer is due;
        // with nothing due, this rests for as long as upstream does, and a little more.
        let event = match link.next_head(2 * IDLE_MAX).await {
            Ok(Some(head)) => answer(&head, request_id),
            Ok(None) => Err("the next hop closed its connection".to_owned()),
            Err(error) => Err(format!("the next hop: {error}")),
        };
        let event = event.unwrap_or_else(NextEvent::Gone);
        let (is_sealed, is_over) = match event {
            NextEvent::Reached | NextEvent::Opened | NextEvent::Ack(_) => (false, false),
            NextEvent::Sealed(_) => (true, true),
            NextEvent::Failed(..) | NextEvent::Gone(_) => (false, true),
        };
        tell(events, Event::Next(event)).await;
        if is_over {
            return is_sealed.then_some(link);
        }
    }
}

fn answer(head: &Head, request_id: u64) -> Result<NextEvent, String> {
    let broken = |error: FrameError| format!("the next hop broke the protocol: {error}");
    let (kind, status) = (head.header.kind, head.header.status);
    if kind == Kind::Goodbye {
        let text = head.error().map_err(broken)?.text;
        return Err(format!("the next hop said goodbye: {text}"));
    }
    let is_answer = matches!(kind, Kind::WriteOpened | Kind::WriteAck | Kind::WriteSealed);
    if !is_answer || head.header.request_id != request_id {
        return Err(broken(FrameError::OutOfTurn { kind }));
    }
    if !status.is_ok() {
        return Ok(NextEvent::Failed(status, head.error().map_err(broken)?));
    }
    let event = match kind {
        Kind::WriteOpened => head
            .message()
            .map(|sarsen_protocol::message::WriteOpened| NextEvent::Opened),
        Kind::WriteAck => head.message().map(NextEvent::Ack),
        _ => head.message().map(NextEvent::Sealed),
    };
    event.map_err(broken)
}
