//! Uploads: what `client/src/put.rs` and `client/src/net/write.rs` do.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use sarsen_client::core::pieces::{crcs_of, extend_crc};
use sarsen_client::core::upload::{Action, Plan, Upload};
use sarsen_client::core::write::{WriteFault, WriteStream, is_a_servers_fault};
use sarsen_protocol::deframe::{Frame, frame};
use sarsen_protocol::header::Header;
use sarsen_protocol::id::{ChunkHandle, FileId, Serial, ServerId};
use sarsen_protocol::message::{
    AbortPending, AllocateChunks, Allocation, ChunksAllocated, CreatePending, Kind, Level, Message,
    PendingCreated, Publish, SealedChunk, WriteAck, WriteData, WriteOpen, WriteOpened, WriteSeal,
    WriteSealed,
};
use sarsen_protocol::status::Status;

use super::Client;
use super::links::Link;
use super::master::{Session, Unanswered};
use super::tasks::{Channel, Received};
use crate::net::Node;
use crate::observation::Observation;
use crate::oracle::content::Content;
use crate::oracle::op::{Done, OpId, Outcome};

/// Streams at a time.
const STREAMS_MAX: usize = 2;

/// How long an upload that failed waits for the master to drop what is pending.
const ABORT_TIME_MAX: Duration = Duration::from_secs(2);

/// What is to be uploaded.
#[derive(Clone, Debug)]
pub struct Job {
    /// For which doing.
    pub op: OpId,
    /// Where to.
    pub path: String,
    /// What.
    pub content: Content,
    /// Also over another.
    pub force: bool,
    /// What is replaced goes for good.
    pub purge: bool,
    /// Copies; 0 for the cluster's default.
    pub replicas: u8,
    /// Bytes of a frame's payload.
    pub piece_len: u32,
}

/// What a task of an upload did.
enum Told {
    Allocated(Result<ChunksAllocated, Unanswered>),
    Acked(u32, u32),
    Sent(u32, ChunkHandle),
    Written(u32, Result<SealedChunk, Option<ServerId>>),
}

/// A file that is on its way up.
struct Run {
    client: Rc<Client>,
    job: Job,
    session: Rc<Session>,
    pending: PendingCreated,
    told: Rc<Channel<Told>>,
}

/// Uploads a file.
pub async fn put(client: &Rc<Client>, job: Job) -> Outcome {
    let made = client
        .mutate(job.op, |request| CreatePending {
            request,
            path: job.path.clone(),
            replicas: job.replicas,
            level: Level::Disk,
            force: job.force,
            parents: true,
            count: u16::try_from(STREAMS_MAX).unwrap_or(1),
        })
        .await;
    let (pending, session) = match made {
        Ok(made) => made,
        Err(Unanswered::Refused(status)) => return Outcome::Refused(status),
        // A pending file that nobody knows of is no effect.
        Err(_) => return Outcome::NotStored,
    };
    let run = Rc::new(Run {
        told: Channel::new(client),
        client: Rc::clone(client),
        job,
        session,
        pending,
    });
    let outcome = match run.upload().await {
        Some(chunks) => run.publish(&chunks).await,
        None => Outcome::NotStored,
    };
    if !matches!(outcome, Outcome::Done(_)) {
        run.abort();
    }
    outcome
}

impl Run {
    /// Does what the machine says until all is sealed.
    async fn upload(self: &Rc<Self>) -> Option<Vec<SealedChunk>> {
        let client = &self.client;
        let chunk_size = u64::from(self.pending.chunk_size);
        let chunks = self.job.content.len().div_ceil(chunk_size);
        let mut upload = Upload::new(Plan {
            streams_max: STREAMS_MAX,
            fewest: self.session.min_replicas.min(self.pending.replicas),
            patience: client.timeout,
            seed: client.chance(|random| random.next()),
        });
        upload.handle_source(u32::try_from(chunks).unwrap_or(u32::MAX), true);
        upload.handle_given(self.pending.chunks.clone());
        loop {
            while let Some(action) = upload.poll(client.now()) {
                match action {
                    Action::Allocate {
                        first_index,
                        count,
                        fewest,
                        exclude,
                    } => self.allocate(AllocateChunks {
                        session: self.session.id,
                        file_id: self.pending.file_id,
                        first_index,
                        count,
                        fewest,
                        exclude,
                    }),
                    Action::Begin(allocation) => self.begin(*allocation),
                    Action::Publish { chunks } => return Some(chunks),
                    Action::GiveUp => return None,
                }
            }
            let wake_at = upload.wake_at(client.now());
            match self.told.receive(wake_at).await {
                Some(Told::Allocated(Ok(allocated))) => upload.handle_allocated(allocated.chunks),
                Some(Told::Allocated(Err(Unanswered::HandedBack(_, retry_after)))) => {
                    upload.handle_too_few_servers(client.now(), retry_after);
                }
                Some(Told::Allocated(Err(_))) => return None,
                Some(Told::Acked(index, bytes)) => upload.handle_acked(index, bytes),
                Some(Told::Sent(index, handle)) => upload.handle_sent(index, handle),
                Some(Told::Written(_, Ok(sealed))) => {
                    if sealed.servers.len() < usize::from(self.pending.replicas) {
                        client.world.count("path: fewer copies taken");
                    }
                    upload.handle_sealed(sealed);
                }
                Some(Told::Written(index, Err(blame))) => {
                    client.world.count("path: chunk sent again");
                    upload.handle_failed(client.now(), index, blame);
                }
                None => {}
            }
        }
    }

    fn allocate(self: &Rc<Self>, request: AllocateChunks) {
        let run = Rc::clone(self);
        self.client.spawn(async move {
            let mut retry = run.client.begin();
            let handed_back = [Status::TooFewServers, Status::NoSpace];
            let allocated = run.client.run(&request, &mut retry, &handed_back).await;
            run.told.send(Told::Allocated(allocated));
        });
    }

    fn begin(self: &Rc<Self>, allocation: Allocation) {
        let run = Rc::clone(self);
        self.client.spawn(async move {
            let index = allocation.index;
            let written = run.write(&allocation).await;
            run.told.send(Told::Written(index, written));
        });
    }

    async fn publish(&self, chunks: &[SealedChunk]) -> Outcome {
        let size = chunks.iter().map(|chunk| u64::from(chunk.length)).sum();
        self.client.world.observe(&Observation::Publishes {
            id: self.job.op,
            file: self.pending.file_id,
            chunks,
        });
        let published = self
            .client
            .mutate_in(self.job.op, &self.session, |request| Publish {
                request,
                file_id: self.pending.file_id,
                path: self.job.path.clone(),
                force: self.job.force,
                purge: self.job.purge,
                parents: true,
                size,
                chunks: chunks.to_vec(),
            })
            .await;
        match published {
            Ok(published) => Outcome::Done(Done::File(published.node.file_id)),
            Err(Unanswered::Refused(status)) => Outcome::Refused(status),
            Err(Unanswered::NotNow) => Outcome::NotNow,
            Err(Unanswered::SessionUnknown) => Outcome::NotStored,
            Err(_) => Outcome::Unknown,
        }
    }

    /// Has the master drop what is pending, if it can be told at once.
    fn abort(self: &Rc<Self>) {
        let run = Rc::clone(self);
        self.client.spawn(async move {
            let deadline = Some(run.client.now() + ABORT_TIME_MAX);
            let file_id: FileId = run.pending.file_id;
            let aborting = run
                .client
                .mutate_in(run.job.op, &run.session, |request| AbortPending {
                    request,
                    file_id,
                });
            let mut aborting = Box::pin(aborting);
            // Dropped when its time is over, as the library does.
            std::future::poll_fn(|context| {
                use std::future::Future as _;
                let is_done = aborting.as_mut().poll(context).is_ready();
                match is_done || deadline.is_some_and(|at| run.client.now() >= at) {
                    true => std::task::Poll::Ready(()),
                    false => std::task::Poll::Pending,
                }
            })
            .await;
        });
    }

    // One chunk.

    /// Sends a chunk down its chain and has it sealed; whom to blame if that failed.
    async fn write(&self, allocation: &Allocation) -> Result<SealedChunk, Option<ServerId>> {
        let first = allocation.chain.first();
        let (server, address) =
            first.map_or((ServerId::NONE, ""), |hop| (hop.server, &hop.data_addr));
        let Some(mut link) = self
            .client
            .take_link(server, address, self.client.suspect_after())
            .await
        else {
            return Err(Some(server));
        };
        let mut stream = WriteStream::new(
            self.client.now(),
            Level::Disk,
            self.client.suspect_after(),
            &allocation.chain,
            &mut self.client.windows.borrow_mut(),
        );
        let written = self.write_over(&mut link, &mut stream, allocation).await;
        stream.leave(&mut self.client.windows.borrow_mut());
        match written {
            Ok(sealed) => {
                self.client.give_back(link);
                Ok(sealed)
            }
            Err(blame) => {
                self.client.hang_up(link.conn);
                Err(blame)
            }
        }
    }

    async fn write_over(
        &self,
        link: &mut Link,
        stream: &mut WriteStream,
        allocation: &Allocation,
    ) -> Result<SealedChunk, Option<ServerId>> {
        let client = &self.client;
        let request_id = link.begin();
        let chunk = self.chunk(allocation.index);
        self.send(
            link,
            frame(&self.open_message(allocation, &chunk), request_id),
            Bytes::new(),
        );
        let (mut at, mut crc, mut is_sealed) = (0_usize, 0, false);
        loop {
            while at < chunk.len() {
                let piece = piece_at(&chunk, at, self.job.piece_len);
                let len = u32::try_from(piece.len()).unwrap_or(u32::MAX);
                if !stream.has_room(client.now(), &client.windows.borrow()) {
                    break;
                }
                let (serial, offset) = stream.send(client.now(), len);
                let (head, more) = data_head(allocation, request_id, serial, offset, &piece);
                crc = extend_crc(crc, offset, len, &more);
                at += piece.len();
                self.send(link, head, piece);
            }
            if at == chunk.len() && !is_sealed {
                is_sealed = true;
                let seal = WriteSeal {
                    handle: allocation.handle,
                    version: allocation.version,
                    length: u32::try_from(chunk.len()).unwrap_or(u32::MAX),
                    crc32: crc,
                    level: Level::Disk,
                };
                stream.seal(client.now(), crc);
                self.send(link, frame(&seal, request_id), Bytes::new());
                self.told
                    .send(Told::Sent(allocation.index, allocation.handle));
            }
            let heard = stream.is_open();
            match client.receive(link.conn, Some(stream.stalled_at())).await {
                Received::Frame(frame) => {
                    let taken = self.take(stream, link, request_id, allocation, &frame)?;
                    if let Some(servers) = taken {
                        return Ok(SealedChunk {
                            index: allocation.index,
                            handle: allocation.handle,
                            version: allocation.version,
                            length: u32::try_from(chunk.len()).unwrap_or(u32::MAX),
                            crc32: crc,
                            servers,
                        });
                    }
                }
                Received::Ended => {
                    let unseen_close = link.is_used() && !heard;
                    return Err(Some(link.server).filter(|_| !unseen_close));
                }
                Received::Nothing => return Err(Some(link.server)),
            }
        }
    }

    /// Takes an answer; the members, if it is the last.
    fn take(
        &self,
        stream: &mut WriteStream,
        link: &Link,
        request_id: u64,
        allocation: &Allocation,
        frame: &Frame,
    ) -> Result<Option<Vec<ServerId>>, Option<ServerId>> {
        let first = Some(link.server);
        let broken = |_| first;
        let status = frame.header.status;
        if !status.is_ok() {
            let error = frame.error().map_err(broken)?;
            self.client
                .world
                .line(|| format!("a stream fails: {status} {}", error.text));
            let named = Some(error.server).filter(|server| server.is_some());
            return Err(named.or(first).filter(|_| is_a_servers_fault(status)));
        }
        if frame.header.request_id != request_id {
            return Err(first);
        }
        let now = self.client.now();
        let fault = |fault: WriteFault| match fault {
            WriteFault::NotSealedAsAsked { server } => Some(server),
            _ => first,
        };
        match frame.header.kind {
            Kind::WriteOpened => {
                let WriteOpened = frame.message().map_err(broken)?;
                stream.handle_opened(now).map_err(fault)?;
            }
            Kind::WriteAck => {
                let ack: WriteAck = frame.message().map_err(broken)?;
                let mut windows = self.client.windows.borrow_mut();
                stream.handle_ack(now, &ack, &mut windows).map_err(fault)?;
                self.told
                    .send(Told::Acked(allocation.index, stream.acked()));
            }
            Kind::WriteSealed => {
                let sealed: WriteSealed = frame.message().map_err(broken)?;
                return stream
                    .handle_sealed(&sealed, &allocation.chain)
                    .map(Some)
                    .map_err(fault);
            }
            _ => return Err(first),
        }
        Ok(None)
    }

    fn send(&self, link: &Link, head: Vec<u8>, payload: Bytes) {
        let node: Node = self.client.node;
        self.client
            .world
            .send_with(node, link.conn, head.into(), payload);
    }

    /// The bytes of a chunk.
    fn chunk(&self, index: u32) -> Bytes {
        let bytes = self.job.content.bytes();
        let size = self.pending.chunk_size as usize;
        let from = (index as usize * size).min(bytes.len());
        bytes.slice(from..(from + size).min(bytes.len()))
    }

    fn open_message(&self, allocation: &Allocation, chunk: &Bytes) -> WriteOpen {
        WriteOpen {
            ticket: allocation.ticket,
            handle: allocation.handle,
            version: allocation.version,
            file_id: self.pending.file_id,
            index: allocation.index,
            room: u32::try_from(chunk.len()).unwrap_or(u32::MAX),
            begin_serial: Serial::NONE,
            lock_token: 0,
            level: Level::Disk,
            position: 0,
            chain: allocation.chain.clone(),
        }
    }
}

fn piece_at(chunk: &Bytes, at: usize, piece_len: u32) -> Bytes {
    let len = piece_len as usize;
    // Cut at multiples, so that every piece ends at a block's edge.
    let end = (at - at % len + len).min(chunk.len());
    chunk.slice(at..end)
}

/// Header and body of a `WriteData`, with the CRCs in it.
fn data_head(
    allocation: &Allocation,
    request_id: u64,
    serial: Serial,
    offset: u32,
    piece: &Bytes,
) -> (Vec<u8>, sarsen_protocol::message::Crcs) {
    let crcs = crcs_of(offset, piece).unwrap_or_default();
    let body = WriteData {
        handle: allocation.handle,
        version: allocation.version,
        serial,
        commit_mark: Serial::NONE,
        request: None,
        offset,
        level: Level::Memory,
        crcs,
    }
    .to_body();
    let len = u32::try_from(piece.len()).unwrap_or(u32::MAX);
    let header = Header::new(Kind::WriteData, Status::Ok, request_id, &body, len);
    let mut head = header.encode().to_vec();
    head.extend_from_slice(&body);
    (head, crcs)
}
