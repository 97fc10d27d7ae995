//! A write stream over a data connection (`spec/wire.md` section 12.1).
//!
//! Two halves run side by side: one reads pieces from the source and sends them while the window
//! has room, the other takes the answers. Both know the stream by one [`WriteStream`].

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Buf;
use sarsen_protocol::deframe::{Deframer, Frame, frame};
use sarsen_protocol::error::FrameError;
use sarsen_protocol::header::Header;
use sarsen_protocol::id::{FileId, Serial, ServerId};
use sarsen_protocol::message::{
    Allocation, Kind, Level, Message, Plane, SealedChunk, WriteAck, WriteData, WriteOpen,
    WriteOpened, WriteSeal, WriteSealed,
};
use sarsen_protocol::size::HEADER_LEN;
use sarsen_protocol::status::Status;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::{EXPLANATION_TIME, Link};
use crate::clock::Clock;
use crate::core::pieces::extend_crc;
use crate::core::window::Windows;
use crate::core::write::{WriteFault, WriteStream, is_a_servers_fault};
use crate::error::{Error, StreamError};
use crate::limit::RateLimit;
use crate::source::{ChunkSource, Piece};

/// One chunk to write.
pub(crate) struct WriteJob<'a> {
    pub(crate) allocation: &'a Allocation,
    pub(crate) file_id: FileId,
    pub(crate) level: Level,
    pub(crate) clock: Clock,
    /// Silence after which the first of the chain is given up.
    pub(crate) suspect_after: Duration,
    /// How fast bytes may go.
    pub(crate) limit: Option<&'a RateLimit>,
    /// Shared with the client's other streams.
    pub(crate) windows: &'a Mutex<Windows>,
    /// Is told how many bytes are on all members.
    pub(crate) on_acked: &'a (dyn Fn(u32) + Send + Sync),
    /// Is told when all was sent, and the seal is awaited.
    pub(crate) on_sent: &'a (dyn Fn() + Send + Sync),
}

/// Why a chunk was not written.
#[derive(Debug)]
pub(crate) enum WriteFailure {
    /// Its bytes can't be read: no other server changes that.
    Source(Error),
    /// The stream failed, by the fault of `blame` if anybody's.
    Stream {
        error: StreamError,
        blame: Option<ServerId>,
    },
}

/// Sends a chunk down its chain and has it sealed.
pub(crate) async fn write_chunk(
    link: &mut Link,
    job: &WriteJob<'_>,
    source: &ChunkSource,
) -> Result<SealedChunk, WriteFailure> {
    let first = source.piece(0).await.map_err(WriteFailure::Source)?;
    let request_id = link.begin();
    let shared = Shared {
        job,
        request_id,
        stream: Mutex::new(WriteStream::new(
            job.clock.now(),
            job.level,
            job.suspect_after,
            &job.allocation.chain,
            &mut lock(job.windows),
        )),
        acked: Notify::new(),
    };
    let mut deframer = Deframer::new(Plane::Data);
    deframer.hello_is_done();
    let (read, write) = link.stream.split();
    let sending = shared.send(write, source, first);
    let receiving = shared.receive(read, &mut deframer);
    match tokio::try_join!(sending, receiving) {
        Ok((sent, servers)) => Ok(SealedChunk {
            index: job.allocation.index,
            handle: job.allocation.handle,
            version: job.allocation.version,
            length: sent.length,
            crc32: sent.crc32,
            servers,
        }),
        Err(end) => {
            let heard = shared.stream().is_open();
            Err(end.into_failure(link, heard))
        }
    }
}

/// What both halves of a stream know.
struct Shared<'a> {
    job: &'a WriteJob<'a>,
    request_id: u64,
    stream: Mutex<WriteStream>,
    acked: Notify,
}

/// Length and CRC of all that was sent.
struct Sent {
    length: u32,
    crc32: u32,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic can't leave the counters half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Also a stream that is dropped is over.
impl Drop for Shared<'_> {
    fn drop(&mut self) {
        let mut windows = lock(self.job.windows);
        self.stream().leave(&mut windows);
    }
}

impl Shared<'_> {
    fn stream(&self) -> MutexGuard<'_, WriteStream> {
        lock(&self.stream)
    }

    async fn send(
        &self,
        mut write: WriteHalf<'_>,
        source: &ChunkSource,
        first: Option<Piece>,
    ) -> Result<Sent, End> {
        let sent = self.send_all(&mut write, source, first).await;
        if sent.is_ok() {
            (self.job.on_sent)();
        }
        if matches!(sent, Err(End::Io(_))) {
            // The other half may be about to learn why.
            sleep(EXPLANATION_TIME).await;
        }
        sent
    }

    async fn send_all(
        &self,
        write: &mut WriteHalf<'_>,
        source: &ChunkSource,
        first: Option<Piece>,
    ) -> Result<Sent, End> {
        let open = self.open_message(source.length_if_known());
        // What goes in front of a piece goes with it: a small chunk is one write.
        let mut head = frame(&open, self.request_id);
        let mut sent = Sent {
            length: 0,
            crc32: 0,
        };
        let mut next = first;
        while let Some(piece) = next {
            let (piece, rest) = self.cut(piece, sent.length);
            let len = piece.len();
            self.wait_for_room().await;
            if let Some(limit) = self.job.limit {
                limit.take(self.job.clock, len).await;
            }
            let (serial, offset) = self.stream().send(self.job.clock.now(), len);
            head.extend_from_slice(&self.data_head(&piece, serial, offset));
            sent.crc32 = extend_crc(sent.crc32, offset, len, piece.crcs());
            sent.length = offset + len;
            if sent.length == source.length_if_known() {
                let seal = self.seal(&sent);
                let mut bytes = Buf::chain(&head[..], &piece[..]).chain(&seal[..]);
                write.write_all_buf(&mut bytes).await?;
                return Ok(sent);
            }
            let mut bytes = Buf::chain(&head[..], &piece[..]);
            // The next piece is read while this one is on its way.
            let following = async {
                match rest {
                    None => source.piece(sent.length).await,
                    rest => Ok(rest),
                }
            };
            let (written, read) = tokio::join!(write.write_all_buf(&mut bytes), following);
            written?;
            head.clear();
            next = read.map_err(End::Source)?;
        }
        head.extend_from_slice(&self.seal(&sent));
        write.write_all(&head).await?;
        Ok(sent)
    }

    /// What of a piece at `offset` goes with one frame, and the rest: under a limit every stream is
    /// to have its turn soon.
    fn cut(&self, piece: Piece, offset: u32) -> (Piece, Option<Piece>) {
        match self.job.limit.map(|limit| limit.limit().write_len()) {
            Some(len) => piece.cut(offset, len),
            None => (piece, None),
        }
    }

    /// The frame that has the chain seal all that was sent; what is due from now on is its answer.
    fn seal(&self, sent: &Sent) -> Vec<u8> {
        let seal = WriteSeal {
            handle: self.job.allocation.handle,
            version: self.job.allocation.version,
            length: sent.length,
            crc32: sent.crc32,
            level: self.job.level,
        };
        self.stream().seal(self.job.clock.now(), sent.crc32);
        frame(&seal, self.request_id)
    }

    fn open_message(&self, room: u32) -> WriteOpen {
        let allocation = self.job.allocation;
        WriteOpen {
            ticket: allocation.ticket,
            handle: allocation.handle,
            version: allocation.version,
            file_id: self.job.file_id,
            index: allocation.index,
            room,
            begin_serial: Serial::NONE,
            lock_token: 0,
            level: self.job.level,
            position: 0,
            chain: allocation.chain.clone(),
        }
    }

    /// Header and body of a `WriteData`. Pieces are acknowledged from memory: what makes a chunk
    /// durable is its seal, once.
    fn data_head(&self, piece: &Piece, serial: Serial, offset: u32) -> Vec<u8> {
        let body = WriteData {
            handle: self.job.allocation.handle,
            version: self.job.allocation.version,
            serial,
            commit_mark: Serial::NONE,
            request: None,
            offset,
            level: Level::Memory,
            crcs: *piece.crcs(),
        }
        .to_body();
        let header = Header::new(
            Kind::WriteData,
            Status::Ok,
            self.request_id,
            &body,
            piece.len(),
        );
        let mut head = Vec::with_capacity(HEADER_LEN + body.len());
        head.extend_from_slice(&header.encode());
        head.extend_from_slice(&body);
        head
    }

    async fn wait_for_room(&self) {
        while !self.has_room() {
            self.acked.notified().await;
        }
    }

    fn has_room(&self) -> bool {
        let windows = lock(self.job.windows);
        self.stream().has_room(self.job.clock.now(), &windows)
    }

    async fn receive(
        &self,
        mut read: ReadHalf<'_>,
        deframer: &mut Deframer,
    ) -> Result<Vec<ServerId>, End> {
        loop {
            while let Some(frame) = deframer.next_frame()? {
                if let Some(servers) = self.handle_frame(&frame)? {
                    return Ok(servers);
                }
            }
            let stalled_at = self.stream().stalled_at();
            tokio::select! {
                // What came counts before what is late: this task may have been late itself.
                biased;
                read = read.read_buf(deframer.buffer()) => if read? == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                },
                () = self.job.clock.wait_until(Some(stalled_at)) => {
                    // What is owed began to be owed meanwhile, or is late.
                    if self.job.clock.now() >= self.stream().stalled_at() {
                        return Err(End::Silent);
                    }
                }
            }
        }
    }

    /// Takes an answer; the members, if it is the last.
    fn handle_frame(&self, frame: &Frame) -> Result<Option<Vec<ServerId>>, End> {
        let header = &frame.header;
        if !header.status.is_ok() {
            let error = frame.error()?;
            return Err(End::Status {
                status: header.status,
                text: error.text,
                server: error.server,
            });
        }
        if header.request_id != self.request_id {
            return Err(FrameError::OutOfTurn { kind: header.kind }.into());
        }
        let now = self.job.clock.now();
        match header.kind {
            Kind::WriteOpened => {
                let WriteOpened = frame.message()?;
                self.stream().handle_opened(now)?;
            }
            Kind::WriteAck => {
                let ack: WriteAck = frame.message()?;
                let mut windows = lock(self.job.windows);
                let mut stream = self.stream();
                let before = stream.acked();
                stream.handle_ack(now, &ack, &mut windows)?;
                let acked = stream.acked();
                drop((stream, windows));
                // A keep-alive brings nothing further.
                if acked > before {
                    (self.job.on_acked)(acked);
                    self.acked.notify_one();
                }
            }
            Kind::WriteSealed => {
                let sealed: WriteSealed = frame.message()?;
                let chain = &self.job.allocation.chain;
                return Ok(Some(self.stream().handle_sealed(&sealed, chain)?));
            }
            kind => return Err(FrameError::OutOfTurn { kind }.into()),
        }
        Ok(None)
    }
}

/// How a stream ended that should not have.
enum End {
    Source(Error),
    Io(io::Error),
    Silent,
    Frame(FrameError),
    Fault(WriteFault),
    Status {
        status: Status,
        text: String,
        server: ServerId,
    },
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<FrameError> for End {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

impl From<WriteFault> for End {
    fn from(fault: WriteFault) -> Self {
        Self::Fault(fault)
    }
}

impl End {
    /// Says who is to blame: whom the answer names, else the first of the chain, who is whom we
    /// talk to and who would have named another.
    fn into_failure(self, link: &Link, heard: bool) -> WriteFailure {
        let first = Some(link.peer.server);
        let (error, blame) = match self {
            Self::Source(error) => return WriteFailure::Source(error),
            Self::Io(cause) => {
                let unseen_close = link.is_used() && !heard;
                (link.peer.io_error(cause), first.filter(|_| !unseen_close))
            }
            Self::Silent => (link.peer.silent(), first),
            Self::Frame(cause) => (link.peer.protocol_error(cause), first),
            Self::Fault(cause) => {
                let blame = match cause {
                    WriteFault::NotSealedAsAsked { server } => Some(server),
                    _ => first,
                };
                let (server, addr) = (link.peer.server, link.peer.addr.clone());
                (
                    StreamError::Write {
                        server,
                        addr,
                        cause,
                    },
                    blame,
                )
            }
            Self::Status {
                status,
                text,
                server,
            } => {
                let named = Some(server).filter(|server| server.is_some());
                let blame = named.or(first).filter(|_| is_a_servers_fault(status));
                let server = named.unwrap_or(link.peer.server);
                (
                    StreamError::Status {
                        server,
                        status,
                        text,
                    },
                    blame,
                )
            }
        };
        WriteFailure::Stream { error, blame }
    }
}
