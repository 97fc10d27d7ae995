//! Read streams: what `chunkd/src/net/read.rs` and `chunkd/src/net/members/reading.rs` do around
//! `ReadStream`.

use std::sync::Arc;

use bytes::Bytes;
use sarsen_chunkd::core::mutation::Answer;
use sarsen_chunkd::core::read_stream::{self, Part, ReadStream, ReplicaFacts};
use sarsen_chunkd::core::tickets;
use sarsen_chunkd::net::chunkserver::status_of;
use sarsen_chunkd::net::members::reading::{self, Asked};
use sarsen_chunkd::net::members::worker::Readable;
use sarsen_chunkd::store::open_chunk::Snapshot;
use sarsen_chunkd::store::{Around, Directory, InventoryEntry, ReadableChunk, Wait};
use sarsen_protocol::deframe::{Frame, error_frame};
use sarsen_protocol::header::Header;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Serial};
use sarsen_protocol::message::{
    ChunkState, Crcs, CutData, ErrorBody, Kind, Message, Read, ReadCut, ReadData,
};
use sarsen_protocol::size::{BLOCK_LEN, pieces_in};
use sarsen_protocol::status::Status;

use super::open_chunks::{Answerer, unknown};
use super::{ChunkserverEvent, Process};
use crate::net::ConnId;
use crate::observation::Observation;
use crate::world::World;

/// A read on its way out.
#[derive(Debug)]
pub(super) struct Reading {
    turn: u64,
    request_id: u64,
    asked: AskedFor,
    /// None until it was let in.
    serving: Option<Serving>,
}

/// Which kind of read it is.
#[derive(Debug)]
enum AskedFor {
    Whole(Box<Read>),
    Cut(Box<ReadCut>),
}

#[derive(Debug)]
struct Serving {
    from: From,
    parts: Parts,
}

/// What it is served from.
#[derive(Debug)]
enum From {
    Sealed(Arc<Directory>, Arc<ReadableChunk>),
    Open(Snapshot),
}

/// What is still to be sent.
#[derive(Debug)]
enum Parts {
    Whole(ReadStream),
    Cut(Option<Part>),
}

type Refusal = (Status, ErrorBody);

fn refuse(status: Status, text: &str) -> Refusal {
    (status, ErrorBody::new(text))
}

impl AskedFor {
    fn of(frame: &Frame) -> Option<Self> {
        match frame.header.kind {
            Kind::ReadCut => Some(Self::Cut(Box::new(frame.message().ok()?))),
            _ => Some(Self::Whole(Box::new(frame.message().ok()?))),
        }
    }

    fn asked(&self) -> Asked<'_> {
        match self {
            Self::Whole(read) => Asked::of(read),
            Self::Cut(read) => Asked::of_cut(read),
        }
    }

    fn parts(&self, facts: &ReplicaFacts) -> Result<Parts, Refusal> {
        Ok(match self {
            Self::Whole(read) => Parts::Whole(ReadStream::new(read, facts)?),
            Self::Cut(read) => Parts::Cut(Some(read_stream::cut(read, facts)?)),
        })
    }

    const fn answered_with(&self) -> Kind {
        match self {
            Self::Whole(_) => Kind::ReadData,
            Self::Cut(_) => Kind::CutData,
        }
    }
}

impl Process {
    /// A peer asks for a range of a chunk.
    pub(super) fn open_reading(&mut self, world: &World, conn: ConnId, frame: &Frame) {
        let request_id = frame.header.request_id;
        let Some(asked) = AskedFor::of(frame) else {
            return self.drop_accepted(world, conn);
        };
        self.last_stream += 1;
        let turn = self.last_stream;
        let reading = Reading {
            turn,
            request_id,
            asked,
            serving: None,
        };
        let handle = reading.asked.asked().handle;
        let is_open = self.is_open(handle);
        let admitted = match is_open {
            true => reading.asked.asked().admit(&self.server, world.unix_ms()),
            false => Ok(None),
        };
        self.readings.insert(conn, reading);
        match admitted {
            Ok(Some(newest)) => {
                let who = Answerer::Reading(conn, turn);
                if self.ask_newest(world, &newest, who).is_err() {
                    self.newest_confirmed(world, conn, turn, Err(unknown()));
                }
            }
            Ok(None) if is_open => {
                let Some(reading) = self.readings.get(&conn) else {
                    return;
                };
                let asked = reading.asked.asked();
                let (version, serial) = (asked.version, asked.serial);
                let let_in = self.let_in(world, handle, version, serial);
                self.begin_serving(world, conn, let_in);
            }
            Ok(None) => self.begin_serving(world, conn, Ok(Readable::Sealed)),
            Err(refusal) => self.begin_serving(world, conn, Err(refusal)),
        }
    }

    /// The primary has said which state is the newest.
    pub(super) fn newest_confirmed(
        &mut self,
        world: &World,
        conn: ConnId,
        turn: u64,
        confirmed: Result<Answer, Refusal>,
    ) {
        let Some(reading) = self.readings.get(&conn).filter(|it| it.turn == turn) else {
            return;
        };
        let asked = reading.asked.asked();
        let handle = asked.handle;
        let at_least = confirmed.and_then(|answer| asked.at_least(&answer));
        let let_in =
            at_least.and_then(|(version, serial)| self.let_in(world, handle, version, serial));
        world.count("path: newest state read");
        self.begin_serving(world, conn, let_in);
    }

    fn let_in(
        &mut self,
        world: &World,
        handle: ChunkHandle,
        version: ChunkVersion,
        serial: Serial,
    ) -> Result<Readable, Refusal> {
        let now = self.elapsed(world);
        let one = self.open_one(handle, None).map_err(|_| unknown())?;
        let let_in = one.worker.read(now, version, serial)?;
        if let Readable::Open(snapshot) = &let_in {
            let (begin, _) = one.worker.replica().member().began_at();
            let least = match version < snapshot.version {
                true => serial.min(begin),
                false => serial.max(begin),
            };
            let served = (snapshot.version, snapshot.serial);
            if snapshot.version < version || snapshot.serial < least {
                world.fail(format!(
                    "{:?} lets a reader of {handle} in that asked for {:?}, and serves {served:?}, which \
                     begins at {begin}",
                    self.node,
                    (version, serial)
                ));
            }
        }
        Ok(let_in)
    }

    /// A read is let in, or not.
    fn begin_serving(&mut self, world: &World, conn: ConnId, let_in: Result<Readable, Refusal>) {
        let Some(mut reading) = self.readings.remove(&conn) else {
            return;
        };
        let serving = let_in.and_then(|readable| match readable {
            Readable::Open(snapshot) => {
                let parts = reading.asked.parts(&reading::facts_of(&snapshot))?;
                world.count("path: open chunk read");
                world.observe(&Observation::StateRead {
                    machine: self.number,
                    handle: reading.asked.asked().handle,
                    snapshot: &snapshot,
                });
                let from = From::Open(snapshot);
                Ok(Serving { from, parts })
            }
            Readable::Sealed => self.serve_sealed(world, &reading.asked),
        });
        if self.is_dead() {
            return;
        }
        match serving {
            Ok(serving) => {
                self.server.count_read(reading.asked.asked().handle);
                let turn = reading.turn;
                reading.serving = Some(serving);
                self.readings.insert(conn, reading);
                self.plan_disk(world, ChunkserverEvent::Part(conn, turn), 30, 900);
            }
            Err(refusal) => {
                let kind = reading.asked.answered_with();
                self.refuse_reading(world, conn, (kind, reading.request_id), refusal);
            }
        }
    }

    fn serve_sealed(&self, world: &World, asked_for: &AskedFor) -> Result<Serving, Refusal> {
        let asked = asked_for.asked();
        let keys = self.server.ticket_keys();
        let version = asked.ticket.unverified_claims().version;
        keys.check_read(asked.ticket, asked.handle, version, world.unix_ms())
            .map_err(|error| refuse(tickets::status_of(error), &error.to_string()))?;
        let unknown = || refuse(Status::ChunkUnknown, "no such chunk is here");
        let directory = self.server.directory_of(asked.handle).ok_or_else(unknown)?;
        let entry = directory.entry(asked.handle).ok_or_else(unknown)?;
        let parts = asked_for.parts(&facts_of(&entry))?;
        let chunk = directory
            .open_for_read(asked.handle)
            .map_err(|error| refuse(status_of(&error), &error.to_string()))?;
        let from = From::Sealed(Arc::clone(directory), chunk);
        Ok(Serving { from, parts })
    }

    fn refuse_reading(
        &mut self,
        world: &World,
        conn: ConnId,
        (kind, request_id): (Kind, u64),
        refusal: Refusal,
    ) {
        let (status, mut error) = refusal;
        error.server = self.server.me();
        world.line(|| format!("{:?} refuses a read: {status} {}", self.node, error.text));
        world.send(
            self.node,
            conn,
            error_frame(kind, request_id, status, &error),
        );
    }

    /// The medium has given the next part of a read.
    pub(super) fn part_due(&mut self, world: &World, conn: ConnId, turn: u64) {
        let Some(mut reading) = self.readings.remove(&conn) else {
            return;
        };
        let request_id = reading.request_id;
        let Some(serving) = reading.serving.as_mut().filter(|_| reading.turn == turn) else {
            self.readings.insert(conn, reading);
            return;
        };
        let (sent, is_last) = match &mut serving.parts {
            Parts::Whole(parts) => match parts.next_part() {
                Some(part) => (serving.from.frame(request_id, part), part.last),
                None => return,
            },
            Parts::Cut(part) => match part.take() {
                Some(part) => (serving.from.cut_frame(request_id, part), true),
                None => return,
            },
        };
        if self.is_dead() {
            return;
        }
        match sent {
            Ok((head, payload)) => {
                world.send_with(self.node, conn, head, payload);
                if !is_last {
                    self.readings.insert(conn, reading);
                    self.plan_disk(world, ChunkserverEvent::Part(conn, turn), 30, 900);
                }
            }
            Err(refusal) => {
                if let From::Sealed(directory, chunk) = &serving.from {
                    self.server.doubt(directory, chunk.handle, chunk.version);
                }
                let kind = reading.asked.answered_with();
                self.refuse_reading(world, conn, (kind, request_id), refusal);
            }
        }
    }
}

impl From {
    /// A part's frame, or that the medium failed.
    fn frame(&self, request_id: u64, part: Part) -> Result<(Bytes, Bytes), Refusal> {
        match self {
            Self::Sealed(_, chunk) => sealed_frame(chunk, request_id, part)
                .map_err(|text| refuse(Status::MediumFailed, &text)),
            Self::Open(snapshot) => {
                let frame = reading::frame_of(snapshot, request_id, part)?;
                Ok(split(frame, part))
            }
        }
    }

    /// The frame of a cut read, or that the medium failed.
    fn cut_frame(&self, request_id: u64, part: Part) -> Result<(Bytes, Bytes), Refusal> {
        match self {
            Self::Sealed(_, chunk) => sealed_cut_frame(chunk, request_id, part)
                .map_err(|text| refuse(Status::MediumFailed, &text)),
            Self::Open(snapshot) => {
                let frame = reading::cut_frame_of(snapshot, request_id, part)?;
                Ok(split(frame, part))
            }
        }
    }
}

/// A frame's head and its payload.
fn split(frame: Vec<u8>, part: Part) -> (Bytes, Bytes) {
    let mut head = Bytes::from(frame);
    let payload = head.split_off(head.len() - part.len as usize);
    (head, payload)
}

fn sealed_frame(
    chunk: &ReadableChunk,
    request_id: u64,
    part: Part,
) -> Result<(Bytes, Bytes), String> {
    let mut payload = vec![0; part.len as usize];
    let read = chunk
        .read_at(&mut payload, part.offset)
        .map_err(|error| format!("the medium failed: {error}"))?;
    if read < payload.len() {
        return Err("the medium failed: the file is short".to_owned());
    }
    let first = (part.offset / BLOCK_LEN) as usize;
    let count = pieces_in(part.offset, part.len) as usize;
    let from_first = chunk.block_crcs.get(first..).unwrap_or_default();
    let stored = from_first.get(..count).and_then(Crcs::new);
    let body = ReadData {
        handle: chunk.handle,
        version: chunk.version,
        serial: chunk.serial,
        chunk_length: chunk.length,
        offset: part.offset,
        state: ChunkState::Sealed,
        last: part.last,
        crcs: stored.ok_or("the table of CRCs is short")?,
    }
    .to_body();
    Ok((
        head_of(Kind::ReadData, request_id, &body, part),
        payload.into(),
    ))
}

fn sealed_cut_frame(
    chunk: &ReadableChunk,
    request_id: u64,
    part: Part,
) -> Result<(Bytes, Bytes), String> {
    let mut payload = vec![0; part.len as usize];
    let around = match part.len {
        0 => Some(Around {
            block_crc: 0,
            before: 0,
            behind: 0,
        }),
        _ => chunk
            .read_cut(part.offset, &mut payload, &mut Vec::new(), Wait::Yes)
            .map_err(|error| format!("the medium failed: {error}"))?,
    };
    let around = around.ok_or("the medium failed: nothing was read")?;
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
    Ok((
        head_of(Kind::CutData, request_id, &body, part),
        payload.into(),
    ))
}

fn head_of(kind: Kind, request_id: u64, body: &[u8], part: Part) -> Bytes {
    let header = Header::new(kind, Status::Ok, request_id, body, part.len);
    let mut head = header.encode().to_vec();
    head.extend_from_slice(body);
    head.into()
}

fn facts_of(entry: &InventoryEntry) -> ReplicaFacts {
    ReplicaFacts {
        version: entry.version,
        serial: entry.serial,
        length: entry.length,
        state: entry.state,
    }
}
