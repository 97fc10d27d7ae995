//! Reads of an open chunk's committed state (`spec/replication.md` section 12, `spec/messages.md`
//! section 13).
//!
//! A read is let in by the chunk's machine and then served from one snapshot: all its frames are of
//! the same version, serial and length. Bytes are copied, on blocking threads: what `sendfile` has queued
//! of a place in the patch file may leave the machine when that place holds something else
//! (`spec/journal.md` section 4). They are not looked at, the reader verifies.
//!
//! A disk that hangs is waited for until that is known: the reader is told and goes elsewhere, and the master
//! is told as of any medium that fails under a read. A chunk whose thread hangs, with whatever disk, lets nobody
//! in: it is waited for no longer than a chain may take to answer.
//!
//! Memory is bounded ([`super::room`]); clients are fair to each other as in reads of sealed chunks. Who takes
//! nothing of its frame for [`STALL_MAX`] is left, and for `suspect_after` if others wait for room.

use std::io;
use std::sync::Arc;

use sarsen_protocol::crc::crc32;
use sarsen_protocol::header::Header;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Serial};
use sarsen_protocol::message::{
    ChunkState, Crcs, CutData, ErrorBody, Kind, Message as _, Newest, Read, ReadCut, ReadData, Want,
};
use sarsen_protocol::size::{BLOCK_LEN, HEADER_LEN, pieces_in};
use sarsen_protocol::status::Status;
use sarsen_protocol::ticket::Ticket;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::timeout;

use super::super::STALL_MAX;
use super::super::chunkserver::{Chunkserver, disk_hangs, status_of, wall_clock};
use super::super::link::{Link, LinkError};
use super::super::plane::Thread;
use super::super::turns::Member;
use super::worker::Readable;
use crate::core::mutation::Answer;
use crate::core::read_stream::{self, Part, ReadStream, Refusal, ReplicaFacts};
use crate::core::tickets;
use crate::store::open_chunk::Snapshot;
use crate::store::{Operation, StoreError};

/// What a read asks for, whichever way.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// What opens the chunk.
    pub ticket: &'a Ticket,
    /// The chunk.
    pub handle: ChunkHandle,
    /// The oldest state that will do.
    pub version: ChunkVersion,
    /// The oldest state that will do.
    pub serial: Serial,
    /// Which state.
    pub want: Want,
}

impl<'a> Asked<'a> {
    /// Of a `Read`.
    #[must_use]
    pub const fn of(read: &'a Read) -> Self {
        Self {
            ticket: &read.ticket,
            handle: read.handle,
            version: read.version,
            serial: read.serial,
            want: read.want,
        }
    }

    /// Of a `ReadCut`.
    #[must_use]
    pub const fn of_cut(read: &'a ReadCut) -> Self {
        Self {
            ticket: &read.ticket,
            handle: read.handle,
            version: read.version,
            serial: read.serial,
            want: read.want,
        }
    }

    /// Whether a chunk that is open may be read so, and which question is to be asked of its primary
    /// first, if one is; `now` is the wall clock in milliseconds since 1970.
    ///
    /// # Errors
    /// What is wrong with the ticket; `chunk_open` for a read of a sealed state.
    pub fn admit(&self, chunkserver: &Chunkserver, now: u64) -> Result<Option<Newest>, Refusal> {
        // An older ticket opens a newer version too.
        let version = self.ticket.unverified_claims().version;
        chunkserver
            .ticket_keys()
            .check_read(self.ticket, self.handle, version, now)
            .map_err(|error| refuse(tickets::status_of(error), &error.to_string()))?;
        match self.want {
            Want::Sealed => Err(refuse(Status::ChunkOpen, "the chunk is not sealed")),
            Want::Plain => Ok(None),
            Want::Newest => Ok(Some(Newest {
                ticket: *self.ticket,
                handle: self.handle,
                version,
            })),
        }
    }

    /// The oldest state that will do when the primary has confirmed this one.
    ///
    /// # Errors
    /// `internal`, if another question was answered.
    pub fn at_least(&self, confirmed: &Answer) -> Result<(ChunkVersion, Serial), Refusal> {
        match confirmed {
            Answer::Newest(it) => Ok((it.version.max(self.version), it.serial.max(self.serial))),
            _ => Err(refuse(Status::Internal, "another question was answered")),
        }
    }
}

/// Answers a `Read`, if the chunk is open; false if it is to be read as a sealed one.
///
/// # Errors
/// When the connection is of no use any more.
pub(in super::super) async fn serve(
    thread: &Thread,
    link: &Link,
    member: &Arc<Member>,
    request_id: u64,
    read: &Read,
) -> Result<Result<bool, Refusal>, LinkError> {
    let snapshot = match open(&thread.chunkserver, &Asked::of(read)).await {
        Ok(Some(snapshot)) => Arc::new(snapshot),
        Ok(None) => return Ok(Ok(false)),
        Err(refusal) => return Ok(Err(refusal)),
    };
    let mut parts = match ReadStream::new(read, &facts_of(&snapshot)) {
        Ok(parts) => parts,
        Err(refusal) => return Ok(Err(refusal)),
    };
    thread.chunkserver.count_read(read.handle);
    let sending = Sending {
        thread,
        link,
        member,
        handle: read.handle,
    };
    while let Some(part) = parts.next_part() {
        let snapshot = Arc::clone(&snapshot);
        let make = move || frame_of(&snapshot, request_id, part);
        if let Err(refusal) = sending.send(part.len, make).await? {
            return Ok(Err(refusal));
        }
    }
    Ok(Ok(true))
}

/// Answers a `ReadCut`, as [`serve`].
///
/// # Errors
/// As [`serve`].
pub(in super::super) async fn serve_cut(
    thread: &Thread,
    link: &Link,
    member: &Arc<Member>,
    request_id: u64,
    read: &ReadCut,
) -> Result<Result<bool, Refusal>, LinkError> {
    let snapshot = match open(&thread.chunkserver, &Asked::of_cut(read)).await {
        Ok(Some(snapshot)) => snapshot,
        Ok(None) => return Ok(Ok(false)),
        Err(refusal) => return Ok(Err(refusal)),
    };
    let part = match read_stream::cut(read, &facts_of(&snapshot)) {
        Ok(part) => part,
        Err(refusal) => return Ok(Err(refusal)),
    };
    thread.chunkserver.count_read(read.handle);
    let sending = Sending {
        thread,
        link,
        member,
        handle: read.handle,
    };
    let make = move || cut_frame_of(&snapshot, request_id, part);
    let sent = sending.send(part.len, make).await?;
    Ok(sent.map(|()| true))
}

/// Lets a read in; `None` if the chunk is sealed, or none is here.
async fn open(chunkserver: &Chunkserver, asked: &Asked<'_>) -> Result<Option<Snapshot>, Refusal> {
    if !chunkserver.members.is_open(chunkserver, asked.handle) {
        return Ok(None);
    }
    // A primary that is asked for the newest state knows by then that its chain does not answer.
    let patience = 2 * chunkserver.suspect_after();
    let let_in = timeout(patience, let_in(chunkserver, asked)).await;
    let late = |_| refuse(Status::Overloaded, "the chunk does not get to it");
    let_in.map_err(late)?
}

/// As [`open`], of a chunk that is open, however long it takes.
async fn let_in(chunkserver: &Chunkserver, asked: &Asked<'_>) -> Result<Option<Snapshot>, Refusal> {
    let (members, handle) = (&chunkserver.members, asked.handle);
    let (mut version, mut serial) = (asked.version, asked.serial);
    if let Some(newest) = asked.admit(chunkserver, wall_clock())? {
        (version, serial) = asked.at_least(&confirm(chunkserver, newest).await?)?;
    }
    let let_in = members.read(chunkserver, handle, version, serial).await;
    let let_in = let_in.map_err(|error| refuse(error.status(), &error.to_string()))?;
    match let_in? {
        Readable::Open(snapshot) => Ok(Some(snapshot)),
        Readable::Sealed => Ok(None),
    }
}

/// Asks the primary, which has to be here, for the newest state.
async fn confirm(chunkserver: &Chunkserver, newest: Newest) -> Result<Answer, Refusal> {
    let (answer, answered) = oneshot::channel();
    let told = move |confirmed| {
        // Who asked may have gone.
        let _ = answer.send(confirmed);
    };
    let asked = chunkserver.members.newest(chunkserver, newest, told);
    asked.map_err(|error| refuse(error.status(), &error.to_string()))?;
    let gone = |_| refuse(Status::ChunkUnknown, "no such chunk is here");
    answered.await.map_err(gone)?
}

/// One read on its way out.
struct Sending<'a> {
    thread: &'a Thread,
    link: &'a Link,
    member: &'a Arc<Member>,
    handle: ChunkHandle,
}

impl Sending<'_> {
    /// Makes a frame on a blocking thread and sends it.
    async fn send(
        &self,
        len: u32,
        make: impl FnOnce() -> Result<Vec<u8>, Refusal> + Send + 'static,
    ) -> Result<Result<(), Refusal>, LinkError> {
        let chunkserver = &self.thread.chunkserver;
        let room = &chunkserver.members.room;
        let _turn = self
            .member
            .turn(len, &chunkserver.counters.turns_held)
            .await;
        let (frame, _room) = match made(chunkserver, self.handle, make).await {
            Ok(made) => made,
            Err(refusal) => {
                if refusal.0 == Status::MediumFailed {
                    chunkserver.counters.medium_errors.add(1);
                    chunkserver.members.read_failed(self.handle, refusal.0);
                }
                return Ok(Err(refusal));
            }
        };
        tokio::select! {
            sent = timeout(STALL_MAX, self.link.socket().send(frame)) => {
                sent.map_err(|_| LinkError::Silent)??;
            }
            () = room.has_to_go(chunkserver.suspect_after()) => return Err(LinkError::Silent),
        }
        chunkserver.counters.bytes_out.add(u64::from(len));
        Ok(Ok(()))
    }
}

/// A frame, made on a blocking thread for which its chunk's disk has a turn, and the room that it takes.
///
/// # Errors
/// Those of `make`; `medium_failed` if the disk answers nobody any more, `chunk_unknown` if the chunk is gone.
async fn made(
    chunkserver: &Chunkserver,
    handle: ChunkHandle,
    make: impl FnOnce() -> Result<Vec<u8>, Refusal> + Send + 'static,
) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), Refusal> {
    let directory = chunkserver.directory_of(handle);
    let directory = directory.ok_or_else(|| refuse(Status::ChunkUnknown, "the chunk is gone"))?;
    let id = directory.identity().directory_id;
    if chunkserver.hangs(directory) {
        return Err(disk_hangs());
    }
    let room = &chunkserver.members.room;
    let making = async {
        let turn = room.at_disk(id).await;
        let frame = room.for_frame().await;
        // Both are held until the disk has answered, also when nobody waits for that any more.
        let work = move || {
            let _turn = turn;
            make().map(|made| (made, frame))
        };
        chunkserver.at_disk(directory, work).await?
    };
    tokio::select! {
        biased;
        made = making => made,
        () = chunkserver.hung(Some(id)) => Err(disk_hangs()),
    }
}

/// What a read of a committed state is compared with.
#[must_use]
pub fn facts_of(snapshot: &Snapshot) -> ReplicaFacts {
    ReplicaFacts {
        version: snapshot.version,
        serial: snapshot.serial,
        length: snapshot.content().length(),
        state: ChunkState::Open,
    }
}

fn refuse(status: Status, text: &str) -> Refusal {
    (status, ErrorBody::new(text))
}

/// Puts bytes of a state behind `frame`.
fn put_bytes(
    snapshot: &Snapshot,
    frame: &mut Vec<u8>,
    offset: u32,
    len: u32,
) -> Result<(), Refusal> {
    let from = frame.len();
    frame.resize(from + len as usize, 0);
    let place = frame.get_mut(from..).unwrap_or_default();
    let read = snapshot.read_at(place, offset);
    let read = read.and_then(|read| match read == len as usize {
        true => Ok(()),
        false => Err(StoreError::io(
            Operation::Read,
            format!("chunk {}", snapshot.places().handle()).into(),
            io::ErrorKind::UnexpectedEof.into(),
        )),
    });
    read.map_err(|error| {
        tracing::error!(%error, "the medium failed under a read of an open chunk");
        refuse(status_of(&error), &error.to_string())
    })
}

/// The frame of one part of a read. Blocks on the disk.
///
/// # Errors
/// Those of the medium.
pub fn frame_of(snapshot: &Snapshot, request_id: u64, part: Part) -> Result<Vec<u8>, Refusal> {
    let content = snapshot.content();
    let first = part.offset / BLOCK_LEN;
    let blocks = first..first + pieces_in(part.offset, part.len);
    let crcs: Option<Vec<u32>> = blocks
        .map(|index| snapshot.block_crc(index as usize))
        .collect();
    let crcs = crcs.and_then(|crcs| Crcs::new(&crcs));
    let body = ReadData {
        handle: snapshot.places().handle(),
        version: snapshot.version,
        serial: snapshot.serial,
        chunk_length: content.length(),
        offset: part.offset,
        state: ChunkState::Open,
        last: part.last,
        crcs: crcs.ok_or_else(|| refuse(Status::Internal, "a block is missing"))?,
    }
    .to_body();
    let mut frame = head_of(Kind::ReadData, request_id, &body, part.len);
    put_bytes(snapshot, &mut frame, part.offset, part.len)?;
    Ok(frame)
}

/// The frame that answers a cut read. Blocks on the disk.
///
/// # Errors
/// Those of the medium.
pub fn cut_frame_of(snapshot: &Snapshot, request_id: u64, part: Part) -> Result<Vec<u8>, Refusal> {
    let content = snapshot.content();
    let (block_crc, block, from, to) = match part.len {
        0 => (0, Vec::new(), 0, 0),
        len => {
            let index = (part.offset / BLOCK_LEN) as usize;
            let start = part.offset - part.offset % BLOCK_LEN;
            let block_len = (content.length() - start).min(BLOCK_LEN);
            let mut block = Vec::with_capacity(block_len as usize);
            put_bytes(snapshot, &mut block, start, block_len)?;
            let crc = snapshot.block_crc(index).unwrap_or_default();
            let from = (part.offset - start) as usize;
            (crc, block, from, from + len as usize)
        }
    };
    let of = |range: std::ops::Range<usize>| crc32(block.get(range).unwrap_or_default());
    let body = CutData {
        handle: snapshot.places().handle(),
        version: snapshot.version,
        serial: snapshot.serial,
        chunk_length: content.length(),
        offset: part.offset,
        block_crc,
        before: of(0..from),
        behind: of(to..block.len()),
        state: ChunkState::Open,
    }
    .to_body();
    let mut frame = head_of(Kind::CutData, request_id, &body, part.len);
    frame.extend_from_slice(block.get(from..to).unwrap_or_default());
    Ok(frame)
}

fn head_of(kind: Kind, request_id: u64, body: &[u8], payload_len: u32) -> Vec<u8> {
    let header = Header::new(kind, Status::Ok, request_id, body, payload_len);
    let mut frame = Vec::with_capacity(HEADER_LEN + body.len() + payload_len as usize);
    frame.extend_from_slice(&header.encode());
    frame.extend_from_slice(body);
    frame
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use sarsen_protocol::id::{FileId, SessionId};
    use sarsen_protocol::key::SecretKey;
    use sarsen_protocol::message::{Level, TicketKey};
    use sarsen_protocol::ticket::{Claims, Rights};

    use super::*;
    use crate::core::tickets::TicketKeys;
    use crate::net::health::HANG_MAX;
    use crate::store::journal::writer::JournalWriter;
    use crate::store::journal::{JournalLimits, Log};
    use crate::store::tests::scenario::{ADOPTION, START, Sample};
    use crate::store::{BeginOrder, Directory};

    /// A read of an open chunk waited for its disk without an end. Each kept its connection, until the data
    /// plane took no other.
    #[test]
    fn a_disk_that_hangs_is_not_waited_for_without_an_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = Directory::open(&folder.path().join("d"), &START).expect("opens");
        directory.adopt(ADOPTION).expect("adopts");
        let sample = Sample::new(1, 100);
        sample.store(&directory, Level::Disk).expect("sealed");
        let id = directory.identity().directory_id;
        let (server, _notices) =
            Chunkserver::new(SecretKey::new([0; 32]), vec![Arc::new(directory)]);
        server.register(TicketKeys::new(&[]), &[id], Duration::from_secs(3));
        let Some(long_ago) = Instant::now().checked_sub(HANG_MAX) else {
            return eprintln!("not tested: the machine has only just started");
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let (answers, hangs) = mpsc::channel::<()>();
            let read = move || {
                let _ = hangs.recv();
                Ok(Vec::new())
            };
            let becomes_known = async {
                tokio::task::yield_now().await;
                server.health(id).expect("known").written(long_ago);
            };
            let reading = made(&server, sample.handle, read);
            let reading = timeout(Duration::from_secs(60), reading);
            let (read, ()) = tokio::join!(reading, becomes_known);
            let refusal = read.expect("it ends").err();
            assert_eq!(refusal, Some(disk_hangs()));
            // From then on it is not begun.
            let never = || panic!("it is begun");
            assert_eq!(
                made(&server, sample.handle, never).await.err(),
                Some(disk_hangs())
            );
            drop(answers);
        });
    }

    /// A thread that hangs in an append answered no reader of any of its chunks, on whatever disk: each waited
    /// without an end, and kept its connection.
    #[test]
    fn a_chunk_whose_thread_hangs_is_not_waited_for_without_an_end() {
        const KEY: [u8; 32] = [7; 32];
        let folder = tempfile::tempdir().expect("a folder");
        let directory = Directory::open(&folder.path().join("d"), &START).expect("opens");
        directory.adopt(ADOPTION).expect("adopts");
        let begun = directory.start_journal(JournalLimits::default(), |appender| {
            Ok(Arc::new(JournalWriter::start(appender, |_| {})?) as Arc<dyn Log>)
        });
        begun.expect("begun");
        let (handle, version) = (ChunkHandle(5), ChunkVersion(1));
        let made = directory.begin(&BeginOrder {
            handle,
            version,
            serial: Serial(1),
            memory: false,
            create: Some((FileId(1), 0)),
        });
        made.expect("made");
        let id = directory.identity().directory_id;
        let (server, _notices) =
            Chunkserver::new(SecretKey::new([0; 32]), vec![Arc::new(directory)]);
        let keys = TicketKeys::new(&[TicketKey {
            key_id: 1,
            key: KEY,
        }]);
        server.register(keys, &[id], Duration::from_millis(20));
        // It takes nothing of what it is given.
        let _hangs = server.members.host();
        let claims = Claims {
            rights: Rights::READ,
            key_id: 1,
            handle,
            version,
            expiry: u64::MAX,
            file_id: FileId(1),
            session: SessionId::NONE,
            epoch: 1,
            chain_crc: 0,
        };
        let ticket = Ticket::sign(claims, &SecretKey::new(KEY));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        for want in [Want::Plain, Want::Newest] {
            let asked = Asked {
                ticket: &ticket,
                handle,
                version,
                serial: Serial::NONE,
                want,
            };
            let opened = async { timeout(Duration::from_secs(60), open(&server, &asked)).await };
            let refused = runtime.block_on(opened).expect("it ends");
            let status = refused.map(drop).map_err(|(status, _)| status);
            assert_eq!(status, Err(Status::Overloaded), "{want:?}");
        }
    }
}
