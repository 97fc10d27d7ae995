//! Read streams: what `chunkd/src/net/read.rs` does around `ReadStream`.

use std::sync::Arc;

use bytes::Bytes;
use sarsen_chunkd::core::read_stream::{Part, ReadStream, ReplicaFacts};
use sarsen_chunkd::core::tickets;
use sarsen_chunkd::net::chunkserver::status_of;
use sarsen_chunkd::store::{Directory, InventoryEntry, ReadableChunk};
use sarsen_protocol::deframe::{Frame, error_frame};
use sarsen_protocol::header::Header;
use sarsen_protocol::message::{ChunkState, Crcs, ErrorBody, Kind, Message, Read, ReadData};
use sarsen_protocol::size::{BLOCK_LEN, pieces_in};
use sarsen_protocol::status::Status;

use super::{ChunkserverEvent, Process};
use crate::net::ConnId;
use crate::world::World;

/// A read on its way out.
#[derive(Debug)]
pub(super) struct Reading {
    turn: u64,
    request_id: u64,
    directory: Arc<Directory>,
    chunk: Arc<ReadableChunk>,
    parts: ReadStream,
}

type Refusal = (Status, ErrorBody);

impl Process {
    /// A peer asks for a range of a chunk.
    pub(super) fn open_reading(&mut self, world: &World, conn: ConnId, frame: &Frame) {
        let request_id = frame.header.request_id;
        let Ok(read) = frame.message::<Read>() else {
            return self.drop_accepted(world, conn);
        };
        let opened = self.open(world, &read);
        if self.is_dead() {
            return;
        }
        match opened {
            Ok((directory, chunk, parts)) => {
                self.server.count_read(read.handle);
                self.last_stream += 1;
                let turn = self.last_stream;
                let reading = Reading {
                    turn,
                    request_id,
                    directory,
                    chunk,
                    parts,
                };
                self.readings.insert(conn, reading);
                self.plan_disk(world, ChunkserverEvent::Part(conn, turn), 30, 900);
            }
            Err(refusal) => self.refuse_reading(world, conn, request_id, refusal),
        }
    }

    fn open(
        &self,
        world: &World,
        read: &Read,
    ) -> Result<(Arc<Directory>, Arc<ReadableChunk>, ReadStream), Refusal> {
        let refuse = |status: Status, text: String| (status, ErrorBody::new(text));
        let keys = self.server.ticket_keys();
        let version = read.ticket.unverified_claims().version;
        keys.check_read(&read.ticket, read.handle, version, world.unix_ms())
            .map_err(|error| refuse(tickets::status_of(error), error.to_string()))?;
        let unknown = || refuse(Status::ChunkUnknown, "no such chunk is here".to_owned());
        let directory = self.server.directory_of(read.handle).ok_or_else(unknown)?;
        let entry = directory.entry(read.handle).ok_or_else(unknown)?;
        let parts = ReadStream::new(read, &facts_of(&entry))?;
        let chunk = directory
            .open_for_read(read.handle)
            .map_err(|error| refuse(status_of(&error), error.to_string()))?;
        Ok((Arc::clone(directory), chunk, parts))
    }

    fn refuse_reading(&mut self, world: &World, conn: ConnId, request_id: u64, refusal: Refusal) {
        let (status, mut error) = refusal;
        error.server = self.server.me();
        world.line(|| format!("{:?} refuses a read: {status} {}", self.node, error.text));
        world.send(
            self.node,
            conn,
            error_frame(Kind::ReadData, request_id, status, &error),
        );
    }

    /// The medium has given the next part of a read.
    pub(super) fn part_due(&mut self, world: &World, conn: ConnId, turn: u64) {
        let Some(reading) = self.readings.get_mut(&conn).filter(|it| it.turn == turn) else {
            return;
        };
        let Some(part) = reading.parts.next_part() else {
            self.readings.remove(&conn);
            return;
        };
        let sent = reading.frame(part);
        let (directory, chunk) = (Arc::clone(&reading.directory), Arc::clone(&reading.chunk));
        let request_id = reading.request_id;
        if part.last || sent.is_err() {
            self.readings.remove(&conn);
        }
        if self.is_dead() {
            return;
        }
        match sent {
            Ok((head, payload)) => {
                world.send_with(self.node, conn, head, payload);
                if !part.last {
                    self.plan_disk(world, ChunkserverEvent::Part(conn, turn), 30, 900);
                }
            }
            Err(text) => {
                self.server.doubt(&directory, chunk.handle, chunk.version);
                let refusal = (Status::MediumFailed, ErrorBody::new(text));
                self.refuse_reading(world, conn, request_id, refusal);
            }
        }
    }
}

impl Reading {
    /// A part's frame, or that the medium failed.
    fn frame(&self, part: Part) -> Result<(Bytes, Bytes), String> {
        let chunk = &self.chunk;
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
        let header = Header::new(Kind::ReadData, Status::Ok, self.request_id, &body, part.len);
        let mut head = header.encode().to_vec();
        head.extend_from_slice(&body);
        Ok((head.into(), payload.into()))
    }
}

fn facts_of(entry: &InventoryEntry) -> ReplicaFacts {
    ReplicaFacts {
        version: entry.version,
        serial: entry.serial,
        length: entry.length,
        state: entry.state,
    }
}
