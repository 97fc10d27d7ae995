//! A mutation stream that comes in: from a client to the primary, or from the hop before
//! (`spec/wire.md` section 12.3).
//!
//! It moves frames and decides nothing but whether the ticket opens the door, and to whom. What a client
//! may send and what a member may is told apart by the position in the `WriteOpen`.
//!
//! When the actor ends the stream, what it has said before is sent, and the connection closes with
//! care. When the peer ends it, the actor is told.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sarsen_protocol::deframe::{Frame, error_frame};
use sarsen_protocol::handshake::Identity;
use sarsen_protocol::message::{ErrorBody, Kind, WriteOpen};
use sarsen_protocol::size::HEADER_LEN;
use sarsen_protocol::status::Status;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::coop::consume_budget;
use tokio::time::{sleep, timeout};

use super::super::chunkserver::{Chunkserver, wall_clock};
use super::super::link::{HandedOver, Link, LinkError, READ_AHEAD_LEN};
use super::super::plane::{Thread, ended};
use super::super::write_stream::StreamEnd;
use super::super::{IDLE_MAX, STALL_MAX};
use super::Hosted;
use super::frames::Came;
use super::inbox::{Inbox, Input, Port, lock};
use crate::core::mutation::StreamId;
use crate::core::tickets;
use crate::io::Socket;

/// How long a client may have nothing to write before it has to open its stream again. Of the hop
/// before the machine knows better.
const REST_MAX: Duration = IDLE_MAX;

/// A mutation stream on its way to the thread of its chunk, until somebody takes it: that thread, or the one
/// that offers it and waits for it in vain.
#[derive(Clone)]
pub(in super::super) struct Handed(Arc<Mutex<Option<Offered>>>);

struct Offered {
    link: HandedOver,
    request_id: u64,
    open: WriteOpen,
    /// Dropped when the stream is over.
    over: oneshot::Sender<Infallible>,
}

impl Handed {
    /// None if somebody has taken it.
    fn take(&self) -> Option<Offered> {
        lock(&self.0).take()
    }
}

/// Lets a mutation stream in, which `open` begins, if its ticket opens the door and it comes from where its
/// chain says.
///
/// # Errors
/// What is to become of the connection: it is to be [handed over](hand_over), or it ends.
pub(in super::super) async fn let_in(
    thread: &Thread,
    link: &Link,
    dialer: &Identity,
    request_id: u64,
    open: WriteOpen,
) -> Result<(), StreamEnd> {
    let chunkserver = &thread.chunkserver;
    let keys = chunkserver.ticket_keys();
    if let Err(error) = keys.check_write(&open, chunkserver.me(), wall_clock()) {
        let refusal = (tickets::status_of(error), error.to_string());
        return refuse(thread, link, request_id, refusal).await;
    }
    if !tickets::is_from_before(&open, dialer) {
        let text = "the stream is for the member before this one to open".to_owned();
        return refuse(thread, link, request_id, (Status::TicketInvalid, text)).await;
    }
    Err(StreamEnd::HandOver(request_id, Box::new(open)))
}

/// Has the thread of the chunk serve a mutation stream to its end, with which its connection ends: what
/// comes over many of them is one turn of the chunk, and nobody has to be woken on another thread for it. A
/// thread that does not get to it, since it hangs, is not waited for without an end.
pub(in super::super) async fn hand_over(
    thread: &Thread,
    link: Link,
    request_id: u64,
    open: WriteOpen,
) {
    let chunkserver = &thread.chunkserver;
    let link = match link.hand_over() {
        Ok(link) => link,
        Err(error) => return tracing::warn!(%error, "a stream of mutations can't be served"),
    };
    if let Some(offered) = offer(chunkserver, link, request_id, open).await
        && let Ok(link) = offered.link.take_over()
    {
        let text = "the thread of the chunk does not get to it".to_owned();
        let refused = refuse(thread, &link, request_id, (Status::Overloaded, text)).await;
        if let Err(end) = refused {
            ended(thread, link, end).await;
        }
    }
}

/// Waits until the stream is over; gives it back if nobody takes it.
async fn offer(
    chunkserver: &Chunkserver,
    link: HandedOver,
    request_id: u64,
    open: WriteOpen,
) -> Option<Offered> {
    let (over, is_over) = oneshot::channel();
    let handle = open.handle;
    let handed = Handed(Arc::new(Mutex::new(Some(Offered {
        link,
        request_id,
        open,
        over,
    }))));
    let given = Hosted::Stream(handed.clone());
    if chunkserver.members.give_to_host(handle, given).is_err() {
        // The data plane comes to its end, or every thread of it begins anew.
        return handed.take();
    }
    let mut is_over = pin!(is_over);
    tokio::select! {
        biased;
        // Nobody ever sends.
        _ = &mut is_over => return None,
        () = sleep(chunkserver.suspect_after()) => {}
    }
    let given_back = handed.take();
    if given_back.is_none() {
        let _ = is_over.await;
    }
    given_back
}

/// Serves a stream that was handed over, to the end of its connection.
pub(in super::super) async fn run(thread: &Thread, handed: Handed) {
    let Some(offered) = handed.take() else {
        return;
    };
    let _over = offered.over;
    let mut link = match offered.link.take_over() {
        Ok(link) => link,
        Err(error) => return tracing::debug!(%error, "a stream of mutations ended"),
    };
    if let Err(end) = serve_here(thread, &mut link, offered.request_id, offered.open).await {
        ended(thread, link, end).await;
    }
}

async fn serve_here(
    thread: &Thread,
    link: &mut Link,
    request_id: u64,
    open: WriteOpen,
) -> Result<(), StreamEnd> {
    let chunkserver = &thread.chunkserver;
    let _counted = chunkserver.counters.write_streams.count();
    let from_client = open.position == 0;
    let port = Arc::new(Port::new(request_id));
    let stream = chunkserver.members.next_stream();
    let handle = open.handle;
    let begun = Input::Open(stream, Box::new(open), Arc::clone(&port));
    let inbox = match chunkserver.members.tell(chunkserver, handle, None, begun) {
        Ok(inbox) => inbox,
        Err(error) => {
            let text = format!("chunk {handle}: {error}");
            return refuse(thread, link, request_id, (error.status(), text)).await;
        }
    };
    let socket = Arc::clone(link.socket());
    port.outbox.connect(&socket);
    let receiving = Receiving {
        link,
        stream,
        from_client,
        port: &port,
        inbox: &inbox,
        thread,
    };
    let end = tokio::select! {
        biased;
        end = send(&socket, &port) => end,
        end = receiving.run() => end,
        () = thread.draining() => StreamEnd::Draining,
    };
    // Which it knows if it was the actor who ended it.
    let _ = inbox.push(Input::Gone(stream));
    Err(end)
}

async fn refuse(
    thread: &Thread,
    link: &Link,
    request_id: u64,
    (status, text): (Status, String),
) -> Result<(), StreamEnd> {
    thread.chunkserver.counters.write_failures.add(1);
    let error = ErrorBody {
        server: thread.chunkserver.me(),
        ..ErrorBody::new(text)
    };
    let frame = error_frame(Kind::WriteOpened, request_id, status, &error);
    link.send(frame).await?;
    Err(StreamEnd::Told)
}

/// Sends what the actor says, until it has said all.
async fn send(socket: &Socket, port: &Port) -> StreamEnd {
    while let Some(pieces) = port.outbox.next().await {
        for piece in pieces {
            match timeout(STALL_MAX, socket.send(piece)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error.into(),
                Err(_) => return LinkError::Silent.into(),
            }
        }
    }
    StreamEnd::Told
}

/// The half that faces the peer's frames.
struct Receiving<'a> {
    link: &'a mut Link,
    stream: StreamId,
    from_client: bool,
    port: &'a Port,
    inbox: &'a Inbox,
    thread: &'a Thread,
}

impl Receiving<'_> {
    async fn run(mut self) -> StreamEnd {
        loop {
            self.port.may_read().await;
            let (frame, room) = match self.next_frame().await {
                Ok(Some(received)) => received,
                Ok(None) => {
                    let closed = std::io::Error::from(std::io::ErrorKind::ConnectionAborted);
                    return closed.into();
                }
                Err(error) => return error.into(),
            };
            let came = match Came::decode(&frame, self.port.request_id, self.from_client) {
                Ok(came) => came,
                Err(error) => return error.into(),
            };
            let len = came.payload_len();
            self.thread.chunkserver.counters.bytes_in.add(len as u64);
            let len = HEADER_LEN + frame.body.len() + len;
            self.port.hand_over(len);
            let came = Input::Came(self.stream, came, len, room);
            if self.inbox.push(came).is_err() {
                return StreamEnd::Told;
            }
            // A peer that is quick keeps nobody else on this thread waiting.
            consume_budget().await;
        }
    }

    fn tell_wait(&self, waits: bool) {
        // An actor that has ended fails nobody.
        let _ = self.inbox.push(Input::WaitsForRoom(self.stream, waits));
    }

    /// The next frame, and the room that a long one of a client has. A member's never waits for what clients
    /// have to give back: its chain would.
    async fn next_frame(
        &mut self,
    ) -> Result<Option<(Frame, Option<OwnedSemaphorePermit>)>, LinkError> {
        let Some(len) = self.link.next_len(REST_MAX).await? else {
            return Ok(None);
        };
        if !self.from_client || len <= READ_AHEAD_LEN {
            let frame = self.link.next_frame(REST_MAX).await?;
            return Ok(frame.map(|frame| (frame, None)));
        }
        let bound = &self.thread.bounds.client_frames;
        let amount = u32::try_from(len).unwrap_or(u32::MAX);
        let room = match bound.try_take(amount) {
            Some(room) => Some(room),
            None => {
                // That nothing of it is read meanwhile is not its client's silence.
                self.tell_wait(true);
                let room = bound.take(amount).await;
                self.tell_wait(false);
                room
            }
        };
        tokio::select! {
            biased;
            frame = self.link.next_frame(REST_MAX) => Ok(frame?.map(|frame| (frame, room))),
            () = bound.has_to_go(self.thread.chunkserver.suspect_after()) => Err(LinkError::Silent),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use sarsen_protocol::id::{ChunkHandle, ChunkVersion, FileId, Serial, SessionId};
    use sarsen_protocol::key::SecretKey;
    use sarsen_protocol::message::Level;
    use sarsen_protocol::ticket::{Claims, Rights, Ticket};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::core::tickets::TicketKeys;
    use crate::io::Mode;

    fn open() -> WriteOpen {
        let (handle, version) = (ChunkHandle(5), ChunkVersion(1));
        let claims = Claims {
            rights: Rights::WRITE,
            key_id: 1,
            handle,
            version,
            expiry: u64::MAX,
            file_id: FileId(1),
            session: SessionId(1),
            epoch: 1,
            chain_crc: 0,
        };
        WriteOpen {
            ticket: Ticket::sign(claims, &SecretKey::new([0; 32])),
            handle,
            version,
            file_id: FileId(1),
            index: 0,
            room: 0,
            begin_serial: Serial(1),
            lock_token: 0,
            level: Level::Disk,
            position: 0,
            chain: Vec::new(),
        }
    }

    /// A stream that was given to a thread that hung was waited for without an end, though its client had gone,
    /// and kept its connection.
    #[test]
    fn a_stream_that_its_thread_does_not_take_is_given_back() {
        let (server, _notices) = Chunkserver::new(SecretKey::new([0; 32]), Vec::new());
        server.register(TicketKeys::default(), &[], Duration::from_millis(20));
        let mut host = server.members.host();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("one");
            let stream = TcpStream::connect(address).await.expect("connects");
            let socket = Socket::new(Mode::Epoll, stream).expect("a socket");
            let link = Link::new(socket, BytesMut::new());
            let link = link.hand_over().expect("handed over");
            let offered = offer(&server, link, 9, open());
            let offered = timeout(Duration::from_secs(60), offered).await;
            assert!(
                offered
                    .expect("it ends")
                    .is_some_and(|it| it.request_id == 9)
            );
            let Ok(Hosted::Stream(late)) = host.try_recv() else {
                panic!("it was given to the thread");
            };
            assert!(late.take().is_none(), "it comes too late");
        });
    }
}
