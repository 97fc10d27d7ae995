//! Reads: stored CRCs, and bytes straight from the chunk (`spec/wire.md` section 12.2).
//!
//! The bytes are not looked at here: the reader verifies. Pages that are not in memory are brought
//! in on a blocking thread first, so that a cold read holds up no other stream, and a bad sector is
//! met before the frame's head is out. Of a disk that is known to hang nothing is sent, be it in
//! memory. If the medium fails all the same in the middle of a frame,
//! the rest of its payload is sent as zeros, which don't match their CRCs, and what was still to
//! come is answered with `medium_failed`: the connection goes on, and the chunk is read back.
//!
//! A cut read is small and read into memory: what is in the page cache on this thread, by a call
//! that doesn't wait, and what is not on a blocking one. Where the file system can't tell (tmpfs, but
//! network file systems too), all is read on this thread. Cut reads that have come together are answered
//! together: with one send, as far as none has to be waited for.

use std::io;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use sarsen_protocol::deframe::error_frame;
use sarsen_protocol::error::FrameError;
use sarsen_protocol::header::Header;
use sarsen_protocol::id::ChunkHandle;
use sarsen_protocol::message::{
    CUT_DATA_LEN, ChunkState, Crcs, CutData, ErrorBody, Kind, Message as _, READ_DATA_LEN, Read,
    ReadCut, ReadData,
};
use sarsen_protocol::size::{BLOCK_LEN, HEADER_LEN, pieces_in};
use sarsen_protocol::status::Status;
use sarsen_protocol::ticket::Ticket;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::IDLE_MAX;
use super::chunkserver::{Chunkserver, disk_hangs, status_of, wall_clock};
use super::link::{Head, Link, LinkError};
use super::members::reading;
use super::plane::Thread;
use super::turns::Member;
use crate::core::read_stream::{self, Part, ReadStream, Refusal, ReplicaFacts};
use crate::core::tickets;
use crate::core::turns::COST_MIN;
use crate::io::socket::SendChunkError;
use crate::store::{Around, Directory, InventoryEntry, ReadableChunk, StoreError, Wait};

/// What cut reads that are answered together may cost, in bytes: half of what one frame of a long read
/// does.
const TURN_MAX: u64 = 512 * 1024;

/// Header and body of a `CutData`.
const CUT_HEAD_LEN: usize = HEADER_LEN + CUT_DATA_LEN;

/// Cut reads of one connection that wait for disks at a time.
const WAITED_MAX: usize = 4;

/// What is sent in place of bytes that the medium doesn't give.
const ZEROS: &[u8] = &[0; 64 * 1024];

/// Answers one `Read`.
///
/// # Errors
/// When the connection is of no use any more; a read that can't be answered is told to the peer.
pub(super) async fn serve(
    thread: &Thread,
    link: &Link,
    member: &Arc<Member>,
    head: &Head,
) -> Result<(), LinkError> {
    let read: Read = head.message()?;
    let request_id = head.header.request_id;
    let counters = &thread.chunkserver.counters;
    let _counted = counters.read_streams.count();
    match reading::serve(thread, link, member, request_id, &read).await? {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        Err(refusal) => return refuse(thread, link, Kind::ReadData, request_id, refusal).await,
    }
    let decide = |facts: &ReplicaFacts| ReadStream::new(&read, facts);
    let result = match open(thread, &read.ticket, read.handle, decide).await {
        Ok((directory, chunk, parts)) => {
            thread.chunkserver.count_read(read.handle);
            let sending = Sending {
                thread,
                link,
                member,
                request_id,
                directory: &directory,
                chunk: &chunk,
            };
            sending.run(parts).await?
        }
        Err(refusal) => Err(refusal),
    };
    if let Err(refusal) = result {
        refuse(thread, link, Kind::ReadData, request_id, refusal).await?;
    }
    Ok(())
}

/// One `ReadCut` that is to be answered.
struct Cut {
    request_id: u64,
    read: ReadCut,
}

impl Cut {
    fn of(head: &Head) -> Result<Self, FrameError> {
        Ok(Self {
            request_id: head.header.request_id,
            read: head.message()?,
        })
    }

    /// What of the chunk it brings.
    fn part(&self, facts: &ReplicaFacts) -> Result<Part, Refusal> {
        read_stream::cut(&self.read, facts)
    }

    /// What it counts for, where turns are taken for several together.
    fn cost(&self) -> u64 {
        // As much as a turn of its own would.
        COST_MIN.max(self.read.length.into())
    }
}

/// Answers a `ReadCut`, and those that have come behind it by now: as far as they are of sealed
/// chunks, together.
///
/// # Errors
/// As [`serve`].
pub(super) async fn serve_cuts(
    thread: &Thread,
    link: &mut Link,
    member: &Arc<Member>,
    head: &Head,
) -> Result<(), LinkError> {
    let chunkserver = &thread.chunkserver;
    link.expect_small()?;
    let mut next = Cut::of(head).map(Some);
    while let Ok(Some(_)) = next {
        let mut cuts = Vec::new();
        let mut cost = 0;
        let of_open = loop {
            let cut = match next {
                Ok(Some(cut)) => cut,
                _ => break None,
            };
            next = Ok(None);
            if chunkserver.members.is_open(chunkserver, cut.read.handle) {
                break Some(cut);
            }
            cost += cut.cost();
            cuts.push(cut);
            if cost < TURN_MAX {
                next = next_cut(link);
            }
        };
        answer_cuts(thread, link, member, cuts).await?;
        if let Some(cut) = of_open {
            answer_open_cut(thread, link, member, cut).await?;
        }
        if let Ok(None) = next {
            next = next_cut(link);
        }
    }
    // What came before it was answered.
    next?;
    Ok(())
}

/// The next `ReadCut`, if it is here.
fn next_cut(link: &mut Link) -> Result<Option<Cut>, FrameError> {
    let head = link.head_here(Kind::ReadCut)?;
    head.as_ref().map(Cut::of).transpose()
}

/// Answers a `ReadCut` of a chunk that was open a moment ago.
async fn answer_open_cut(
    thread: &Thread,
    link: &Link,
    member: &Arc<Member>,
    cut: Cut,
) -> Result<(), LinkError> {
    let counted = thread.chunkserver.counters.read_streams.count();
    match reading::serve_cut(thread, link, member, cut.request_id, &cut.read).await? {
        Ok(true) => Ok(()),
        Ok(false) => {
            drop(counted);
            answer_cuts(thread, link, member, vec![cut]).await
        }
        Err(refusal) => refuse(thread, link, Kind::CutData, cut.request_id, refusal).await,
    }
}

/// Answers `ReadCut`s of sealed chunks in their order. Their answers have room of their thread until they are
/// sent; who does not take them, or waits for a slow disk, is left when others wait for some.
async fn answer_cuts(
    thread: &Thread,
    link: &Link,
    member: &Arc<Member>,
    cuts: Vec<Cut>,
) -> Result<(), LinkError> {
    if cuts.is_empty() {
        return Ok(());
    }
    let counters = &thread.chunkserver.counters;
    let _counted: Vec<_> = cuts.iter().map(|_| counters.read_streams.count()).collect();
    let cost: u64 = cuts.iter().map(Cut::cost).sum();
    let _turn = member.turn(cost, &counters.turns_held).await;
    let bound = &thread.bounds.cut_answers;
    let lens = cuts
        .iter()
        .map(|cut| CUT_HEAD_LEN + cut.read.length as usize);
    let len = u32::try_from(lens.sum::<usize>()).unwrap_or(u32::MAX);
    let _room = bound.take(len).await;
    tokio::select! {
        biased;
        answered = answer_each(thread, link, cuts) => answered,
        () = bound.has_to_go(thread.chunkserver.suspect_after()) => Err(LinkError::Silent),
    }
}

/// Answers with as few sends as the order allows: what is in the page cache is sent before what has to be
/// waited for, and up to [`WAITED_MAX`] are waited for at a time.
async fn answer_each(thread: &Thread, link: &Link, cuts: Vec<Cut>) -> Result<(), LinkError> {
    let mut cuts = cuts.into_iter().peekable();
    while cuts.peek().is_some() {
        let mut ready = Answers::default();
        // Each with the answers that come behind it.
        let mut waited_for: Vec<(Waited, Answers)> = Vec::new();
        while waited_for.len() < WAITED_MAX
            && let Some(cut) = cuts.next()
        {
            let behind = match waited_for.last_mut() {
                Some((_, behind)) => behind,
                None => &mut ready,
            };
            if let Some(waited) = begin_cut(thread, cut, behind) {
                waited_for.push((waited, Answers::default()));
            }
        }
        ready.send(thread, link).await?;
        for (waited, behind) in waited_for {
            let mut answers = waited.answer(thread).await;
            answers.append(behind);
            answers.send(thread, link).await?;
        }
    }
    Ok(())
}

/// Whole frames that are sent together.
#[derive(Default)]
struct Answers {
    frames: Vec<u8>,
    /// Bytes of chunks in them.
    payload_len: u64,
}

impl Answers {
    fn refuse(&mut self, thread: &Thread, request_id: u64, refusal: Refusal) {
        let frame = refused(thread, Kind::CutData, request_id, refusal);
        self.frames.extend(frame);
    }

    fn append(&mut self, behind: Self) {
        self.frames.extend(behind.frames);
        self.payload_len += behind.payload_len;
    }

    async fn send(self, thread: &Thread, link: &Link) -> Result<(), LinkError> {
        if !self.frames.is_empty() {
            link.send_at_once(self.frames).await?;
        }
        thread.chunkserver.counters.bytes_out.add(self.payload_len);
        Ok(())
    }
}

/// A cut read on a blocking thread.
struct Waited {
    request_id: u64,
    directory: Arc<Directory>,
    handle: ChunkHandle,
    reading: JoinHandle<Result<Result<Answers, Failed>, Refusal>>,
}

/// Why a cut read has no bytes.
enum Failed {
    Refused(Refusal),
    Store(StoreError),
    Medium(Arc<ReadableChunk>, u32, io::Error),
}

impl Failed {
    /// What its reader is told.
    fn told(self, thread: &Thread, directory: &Directory, handle: ChunkHandle) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            Self::Store(error) => refused_by_store(thread, handle, &error),
            Self::Medium(chunk, offset, error) => {
                medium_failed(thread, directory, &chunk, offset, &error)
            }
        }
    }
}

impl Waited {
    /// The frame that answers it, also if it failed.
    async fn answer(self, thread: &Thread) -> Answers {
        let refusal = match self.reading.await {
            Ok(Ok(Ok(answers))) => return answers,
            Ok(Ok(Err(failed))) => failed.told(thread, &self.directory, self.handle),
            Ok(Err(refusal)) => refusal,
            Err(error) => (Status::Internal, ErrorBody::new(error.to_string())),
        };
        let mut answers = Answers::default();
        answers.refuse(thread, self.request_id, refusal);
        answers
    }
}

/// Puts the answer to a cut read behind `answers`, if nothing has to be waited for.
fn begin_cut(thread: &Thread, cut: Cut, answers: &mut Answers) -> Option<Waited> {
    let (request_id, handle) = (cut.request_id, cut.read.handle);
    let admitted = admit(thread, &cut.read.ticket, handle);
    let directory = match admitted.and_then(|()| look_up(thread, handle, |it| cut.part(it))) {
        Ok(directory) => directory,
        Err(refusal) => {
            answers.refuse(thread, request_id, refusal);
            return None;
        }
    };
    thread.chunkserver.count_read(handle);
    if thread.chunkserver.hangs(&directory) {
        // Where it can't be told what is in memory, this thread would wait.
        answers.refuse(thread, request_id, disk_hangs());
        return None;
    }
    let here = directory.find_readable(handle).map(|chunk| {
        let mut scratch = thread.scratch.borrow_mut();
        put_cut(answers, &mut scratch, &chunk, &cut, Wait::No)
    });
    match here {
        Some(Ok(true)) => None,
        Some(Err(failed)) => {
            answers.refuse(thread, request_id, failed.told(thread, &directory, handle));
            None
        }
        Some(Ok(false)) | None => Some(Waited {
            request_id,
            directory: Arc::clone(&directory),
            handle,
            reading: tokio::task::spawn_local(wait_for_cut(
                Arc::clone(&thread.chunkserver),
                directory,
                cut,
            )),
        }),
    }
}

/// Reads what a cut brings into a frame behind `answers`; whether it could be read, else they stay as
/// they are.
fn put_cut(
    answers: &mut Answers,
    scratch: &mut Vec<u8>,
    chunk: &Arc<ReadableChunk>,
    cut: &Cut,
    wait: Wait,
) -> Result<bool, Failed> {
    // By what was opened: a copy may have taken the place of what the table told of.
    let part = cut.part(&facts_of_opened(chunk)).map_err(Failed::Refused)?;
    let frames = &mut answers.frames;
    let before = frames.len();
    frames.resize(before + CUT_HEAD_LEN + part.len as usize, 0);
    let (_, frame) = frames.split_at_mut(before);
    let (mut head, payload) = frame.split_at_mut(CUT_HEAD_LEN);
    let around = match part.len {
        0 => Ok(Some(Around {
            block_crc: 0,
            before: 0,
            behind: 0,
        })),
        _ => chunk.read_cut(part.offset, payload, scratch, wait),
    };
    let Ok(Some(around)) = around else {
        frames.truncate(before);
        let failed = |error| Failed::Medium(Arc::clone(chunk), part.offset, error);
        return around.map(|_| false).map_err(failed);
    };
    let body = CutData {
        handle: chunk.handle,
        version: chunk.version,
        serial: chunk.serial,
        chunk_length: chunk.length,
        offset: part.offset,
        block_crc: around.block_crc,
        before: around.before,
        behind: around.behind,
        state: ChunkState::Sealed,
    }
    .to_body();
    let header = Header::new(Kind::CutData, Status::Ok, cut.request_id, &body, part.len);
    head.put_slice(&header.encode());
    head.put_slice(&body);
    answers.payload_len += u64::from(part.len);
    Ok(true)
}

/// The frame that answers a cut read, once the disk has given what it brings.
async fn wait_for_cut(
    chunkserver: Arc<Chunkserver>,
    directory: Arc<Directory>,
    cut: Cut,
) -> Result<Result<Answers, Failed>, Refusal> {
    let opened = Arc::clone(&directory);
    let read = move || {
        let chunk = opened.open_for_read(cut.read.handle);
        let chunk = chunk.map_err(Failed::Store)?;
        let mut answers = Answers::default();
        // Who waits gets it or an error.
        put_cut(&mut answers, &mut Vec::new(), &chunk, &cut, Wait::Yes)?;
        Ok(answers)
    };
    chunkserver.at_disk(&directory, read).await
}

/// Tells the peer that it can't be answered.
pub(super) async fn refuse(
    thread: &Thread,
    link: &Link,
    kind: Kind,
    request_id: u64,
    refusal: Refusal,
) -> Result<(), LinkError> {
    link.send(refused(thread, kind, request_id, refusal)).await
}

/// The frame that tells so.
fn refused(thread: &Thread, kind: Kind, request_id: u64, (status, mut error): Refusal) -> Vec<u8> {
    thread.chunkserver.counters.read_failures.add(1);
    error.server = thread.chunkserver.me();
    error_frame(kind, request_id, status, &error)
}

/// The medium failed under a read: the chunk is read back.
fn medium_failed(
    thread: &Thread,
    directory: &Directory,
    chunk: &ReadableChunk,
    offset: u32,
    error: &io::Error,
) -> Refusal {
    let handle = chunk.handle;
    tracing::error!(%handle, offset, %error, "the medium failed under a read");
    thread.chunkserver.doubt(directory, handle, chunk.version);
    let text = format!("the medium failed: {error}");
    (Status::MediumFailed, ErrorBody::new(text))
}

/// Checks the ticket, finds the chunk, and decides what is sent of it.
async fn open<T>(
    thread: &Thread,
    ticket: &Ticket,
    handle: ChunkHandle,
    decide: impl Fn(&ReplicaFacts) -> Result<T, Refusal>,
) -> Result<(Arc<Directory>, Arc<ReadableChunk>, T), Refusal> {
    admit(thread, ticket, handle)?;
    find(thread, handle, decide).await
}

/// Checks the ticket.
fn admit(thread: &Thread, ticket: &Ticket, handle: ChunkHandle) -> Result<(), Refusal> {
    let keys = thread.chunkserver.ticket_keys();
    // An older ticket opens a newer version too, where the read allows one.
    let version = ticket.unverified_claims().version;
    keys.check_read(ticket, handle, version, wall_clock())
        .map_err(|error| (tickets::status_of(error), ErrorBody::new(error.to_string())))
}

/// Where the chunk is, if by what is known of it it may be read.
fn look_up<T>(
    thread: &Thread,
    handle: ChunkHandle,
    decide: impl Fn(&ReplicaFacts) -> Result<T, Refusal>,
) -> Result<Arc<Directory>, Refusal> {
    let unknown = || {
        let text = format!("no chunk {handle} is here");
        (Status::ChunkUnknown, ErrorBody::new(text))
    };
    let directory = thread.chunkserver.directory_of(handle);
    let directory = directory.ok_or_else(unknown)?;
    let entry = directory.entry(handle).ok_or_else(unknown)?;
    decide(&facts_of(&entry))?;
    Ok(Arc::clone(directory))
}

/// Finds the chunk, and decides what is sent of it.
pub(super) async fn find<T>(
    thread: &Thread,
    handle: ChunkHandle,
    decide: impl Fn(&ReplicaFacts) -> Result<T, Refusal>,
) -> Result<(Arc<Directory>, Arc<ReadableChunk>, T), Refusal> {
    let directory = look_up(thread, handle, &decide)?;
    let chunk = match directory.find_readable(handle) {
        Some(chunk) => chunk,
        None => {
            let its = Arc::clone(&directory);
            let opening = move || its.open_for_read(handle);
            let opened = thread.chunkserver.at_disk(&directory, opening).await?;
            opened.map_err(|error| refused_by_store(thread, handle, &error))?
        }
    };
    // By what was opened: a copy may have taken the place of what the entry told of.
    let decided = decide(&facts_of_opened(&chunk))?;
    Ok((directory, chunk, decided))
}

pub(super) fn refused_by_store(
    thread: &Thread,
    handle: ChunkHandle,
    error: &StoreError,
) -> Refusal {
    tracing::warn!(%handle, %error, "a chunk can't be read");
    if matches!(error, StoreError::Io { .. }) {
        thread.chunkserver.counters.medium_errors.add(1);
    }
    (status_of(error), ErrorBody::new(error.to_string()))
}

fn facts_of(entry: &InventoryEntry) -> ReplicaFacts {
    ReplicaFacts {
        version: entry.version,
        serial: entry.serial,
        length: entry.length,
        state: entry.state,
    }
}

fn facts_of_opened(chunk: &ReadableChunk) -> ReplicaFacts {
    ReplicaFacts {
        version: chunk.version,
        serial: chunk.serial,
        length: chunk.length,
        state: chunk.state,
    }
}

/// One read on its way out.
struct Sending<'a> {
    thread: &'a Thread,
    link: &'a Link,
    member: &'a Arc<Member>,
    request_id: u64,
    directory: &'a Directory,
    chunk: &'a Arc<ReadableChunk>,
}

impl Sending<'_> {
    /// Sends the parts; a refusal is what ends them early, and is still to be sent.
    async fn run(&self, mut parts: ReadStream) -> Result<Result<(), Refusal>, LinkError> {
        let held = &self.thread.chunkserver.counters.turns_held;
        while let Some(part) = parts.next_part() {
            let _turn = self.member.turn(part.len, held).await;
            if let Err(refusal) = self.bring_in(part).await {
                return Ok(Err(refusal));
            }
            let head = self.head(part)?;
            let socket = self.link.socket();
            let sending = socket.send_chunk(head, self.chunk, part.offset, part.len);
            match timeout(IDLE_MAX, sending)
                .await
                .map_err(|_| LinkError::Silent)?
            {
                Ok(()) => self
                    .thread
                    .chunkserver
                    .counters
                    .bytes_out
                    .add(u64::from(part.len)),
                Err(SendChunkError::Peer(error)) => return Err(error.into()),
                Err(SendChunkError::Medium { sent, source }) => {
                    let handle = self.chunk.handle;
                    tracing::error!(%handle, offset = part.offset + sent, error = %source,
                        "the medium failed under a read");
                    self.thread
                        .chunkserver
                        .doubt(self.directory, handle, self.chunk.version);
                    self.send_zeros(part.len - sent).await?;
                    if !part.last {
                        let error = ErrorBody::new(format!("the medium failed: {source}"));
                        return Ok(Err((Status::MediumFailed, error)));
                    }
                }
            }
        }
        Ok(Ok(()))
    }

    /// Waits for the medium, where it has to be waited for, on a thread that serves nobody.
    async fn bring_in(&self, part: Part) -> Result<(), Refusal> {
        let (thread, directory, offset) = (self.thread, self.directory, part.offset);
        // What is in memory may be gone again before all of it is sent, and this thread waits then: nothing
        // is begun on a disk that hangs.
        let hangs = thread.chunkserver.hangs(directory);
        if !hangs && self.chunk.is_cached(offset, part.len) {
            return Ok(());
        }
        let chunk = Arc::clone(self.chunk);
        let bringing = move || chunk.bring_in(offset, part.len);
        let brought = thread.chunkserver.at_disk(directory, bringing).await?;
        brought.map_err(|error| medium_failed(thread, directory, self.chunk, offset, &error))
    }

    /// Header and body of a part's frame.
    fn head(&self, part: Part) -> Result<Bytes, LinkError> {
        let first = (part.offset / BLOCK_LEN) as usize;
        let count = pieces_in(part.offset, part.len) as usize;
        // A part without bytes may begin anywhere behind the last block.
        let from_first = self.chunk.block_crcs.get(first..).unwrap_or_default();
        let stored = from_first.get(..count).and_then(Crcs::new);
        let body = ReadData {
            handle: self.chunk.handle,
            version: self.chunk.version,
            serial: self.chunk.serial,
            chunk_length: self.chunk.length,
            offset: part.offset,
            state: ChunkState::Sealed,
            last: part.last,
            // The table was checked against the chunk's length when it was opened.
            crcs: stored.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?,
        }
        .to_body();
        let header = Header::new(Kind::ReadData, Status::Ok, self.request_id, &body, part.len);
        let mut head = BytesMut::with_capacity(HEADER_LEN + READ_DATA_LEN);
        head.put_slice(&header.encode());
        head.put_slice(&body);
        Ok(head.freeze())
    }

    async fn send_zeros(&self, len: u32) -> Result<(), LinkError> {
        let mut left = len as usize;
        while left > 0 {
            let some = ZEROS.get(..left).unwrap_or(ZEROS);
            let sending = self.link.socket().send(Bytes::from_static(some));
            timeout(IDLE_MAX, sending)
                .await
                .map_err(|_| LinkError::Silent)??;
            left -= some.len();
        }
        Ok(())
    }
}
