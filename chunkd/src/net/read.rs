//! Reads: stored CRCs, and bytes straight from the chunk (`spec/wire.md` section 12.2).
//!
//! The bytes are not looked at here: the reader verifies. Pages that are not in memory are brought
//! in on a blocking thread first, so that a cold read holds up no other stream, and a bad sector is
//! met before the frame's head is out. If the medium fails all the same in the middle of a frame,
//! the rest of its payload is sent as zeros, which don't match their CRCs, and what was still to
//! come is answered with `medium_failed`: the connection goes on, and the chunk is read back.
//!
//! A cut read is small and read into memory: what is in the page cache on this thread, by a call
//! that doesn't wait, and what is not on a blocking one. Where the file system can't tell (tmpfs, but
//! network file systems too), all is read on this thread. Its frame goes out with one send.

use std::io;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use sarsen_protocol::deframe::error_frame;
use sarsen_protocol::header::Header;
use sarsen_protocol::id::ChunkHandle;
use sarsen_protocol::message::{
    CUT_DATA_LEN, ChunkState, Crcs, CutData, ErrorBody, Kind, Message as _, READ_DATA_LEN, Read,
    ReadCut, ReadData,
};
use sarsen_protocol::size::{BLOCK_LEN, HEADER_LEN, pieces_in};
use sarsen_protocol::status::Status;
use sarsen_protocol::ticket::Ticket;
use tokio::time::timeout;

use super::IDLE_MAX;
use super::chunkserver::{status_of, wall_clock};
use super::link::{Head, Link, LinkError};
use super::members::reading;
use super::plane::Thread;
use super::turns::Member;
use crate::core::read_stream::{self, Part, ReadStream, Refusal, ReplicaFacts};
use crate::core::tickets;
use crate::io::socket::SendChunkError;
use crate::store::{Around, Directory, InventoryEntry, ReadableChunk, StoreError, Wait};

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

/// Answers one `ReadCut`.
///
/// # Errors
/// As [`serve`].
pub(super) async fn serve_cut(
    thread: &Thread,
    link: &Link,
    member: &Arc<Member>,
    head: &Head,
) -> Result<(), LinkError> {
    let read: ReadCut = head.message()?;
    let request_id = head.header.request_id;
    let counters = &thread.chunkserver.counters;
    let _counted = counters.read_streams.count();
    match reading::serve_cut(thread, link, member, request_id, &read).await? {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        Err(refusal) => return refuse(thread, link, Kind::CutData, request_id, refusal).await,
    }
    let decide = |facts: &ReplicaFacts| read_stream::cut(&read, facts);
    let _turn = member.turn(read.length, &counters.turns_held).await;
    let answer = match open(thread, &read.ticket, read.handle, decide).await {
        Ok((directory, chunk, part)) => {
            thread.chunkserver.count_read(read.handle);
            let answer = cut_frame(thread, request_id, &chunk, part).await;
            answer.map_err(|error| medium_failed(thread, &directory, &chunk, part.offset, &error))
        }
        Err(refusal) => Err(refusal),
    };
    match answer {
        Ok((frame, len)) => {
            link.send(frame).await?;
            counters.bytes_out.add(u64::from(len));
            Ok(())
        }
        Err(refusal) => refuse(thread, link, Kind::CutData, request_id, refusal).await,
    }
}

/// The whole frame that answers a cut read, and how long its payload is.
async fn cut_frame(
    thread: &Thread,
    request_id: u64,
    chunk: &Arc<ReadableChunk>,
    part: Part,
) -> io::Result<(Vec<u8>, u32)> {
    let mut frame = vec![0; HEADER_LEN + CUT_DATA_LEN + part.len as usize];
    let around = match part.len {
        0 => Around {
            block_crc: 0,
            before: 0,
            behind: 0,
        },
        _ => {
            let payload = frame.get_mut(HEADER_LEN + CUT_DATA_LEN..);
            let payload = payload.unwrap_or_default();
            let read = {
                let mut scratch = thread.scratch.borrow_mut();
                chunk.read_cut(part.offset, payload, &mut scratch, Wait::No)?
            };
            match read {
                Some(around) => around,
                None => {
                    let chunk = Arc::clone(chunk);
                    let read = move || wait_for_cut(&chunk, part.offset, frame);
                    let read = tokio::task::spawn_blocking(read).await;
                    let (read, around) = read.map_err(io::Error::other)??;
                    frame = read;
                    around
                }
            }
        }
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
    let header = Header::new(Kind::CutData, Status::Ok, request_id, &body, part.len);
    let mut head = frame.as_mut_slice();
    head.put_slice(&header.encode());
    head.put_slice(&body);
    Ok((frame, part.len))
}

/// Reads a cut frame's payload, blocking.
fn wait_for_cut(
    chunk: &ReadableChunk,
    offset: u32,
    mut frame: Vec<u8>,
) -> io::Result<(Vec<u8>, Around)> {
    let payload = frame.get_mut(HEADER_LEN + CUT_DATA_LEN..);
    let payload = payload.unwrap_or_default();
    let around = chunk.read_cut(offset, payload, &mut Vec::new(), Wait::Yes)?;
    // Who waits gets it or an error.
    let around = around.ok_or(io::ErrorKind::WouldBlock)?;
    Ok((frame, around))
}

/// Tells the peer that it can't be answered.
pub(super) async fn refuse(
    thread: &Thread,
    link: &Link,
    kind: Kind,
    request_id: u64,
    (status, mut error): Refusal,
) -> Result<(), LinkError> {
    thread.chunkserver.counters.read_failures.add(1);
    error.server = thread.chunkserver.me();
    link.send(error_frame(kind, request_id, status, &error))
        .await
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
    let keys = thread.chunkserver.ticket_keys();
    // An older ticket opens a newer version too, where the read allows one.
    let version = ticket.unverified_claims().version;
    keys.check_read(ticket, handle, version, wall_clock())
        .map_err(|error| (tickets::status_of(error), ErrorBody::new(error.to_string())))?;
    find(thread, handle, decide).await
}

/// Finds the chunk, and decides what is sent of it.
pub(super) async fn find<T>(
    thread: &Thread,
    handle: ChunkHandle,
    decide: impl Fn(&ReplicaFacts) -> Result<T, Refusal>,
) -> Result<(Arc<Directory>, Arc<ReadableChunk>, T), Refusal> {
    let refuse = |status: Status, text: String| (status, ErrorBody::new(text));
    let unknown = || refuse(Status::ChunkUnknown, format!("no chunk {handle} is here"));
    let directory = thread.chunkserver.directory_of(handle);
    let directory = directory.ok_or_else(unknown)?;
    let entry = directory.entry(handle).ok_or_else(unknown)?;
    decide(&facts_of(&entry))?;
    let chunk = match directory.find_readable(handle) {
        Some(chunk) => chunk,
        None => {
            let directory = Arc::clone(directory);
            let opening = tokio::task::spawn_blocking(move || directory.open_for_read(handle));
            let opened = opening
                .await
                .map_err(|error| refuse(Status::Internal, error.to_string()));
            opened?.map_err(|error| refused_by_store(thread, handle, &error))?
        }
    };
    // By what was opened: a copy may have taken the place of what the entry told of.
    let decided = decide(&facts_of_opened(&chunk))?;
    Ok((Arc::clone(directory), chunk, decided))
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
            if let Err(error) = self.bring_in(part).await {
                let (thread, offset) = (self.thread, part.offset);
                let refusal = medium_failed(thread, self.directory, self.chunk, offset, &error);
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
    async fn bring_in(&self, part: Part) -> io::Result<()> {
        if self.chunk.is_cached(part.offset, part.len) {
            return Ok(());
        }
        let chunk = Arc::clone(self.chunk);
        let bringing = move || chunk.bring_in(part.offset, part.len);
        tokio::task::spawn_blocking(bringing)
            .await
            .map_err(io::Error::other)?
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
