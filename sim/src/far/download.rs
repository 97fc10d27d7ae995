//! A file comes down: what `client/src/get.rs` and `chunkd/src/net/read.rs` do.

use std::collections::BTreeMap;
use std::time::Duration;

use sarsen_chunkd::core::read_stream::{self, Part, ReplicaFacts};
use sarsen_client::core::pieces::crcs_of;
use sarsen_client::core::read::{Action, Download, Fetch, PAGE_LEN, Plan};
use sarsen_client::core::read_stream::{ReadStream, block_start};
use sarsen_client::core::seen::Seen;
use sarsen_protocol::crc::zeros;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Serial, ServerId};
use sarsen_protocol::message::{ChunkState, Crcs, LocatedChunk, Read, ReadData, Replica, Want};
use sarsen_protocol::size::PAYLOAD_LEN_MAX;
use sarsen_protocol::ticket::Rights;

use super::upload::ticket;
use super::{CHUNK_LEN, CHUNKSERVERS, CLIENT, HEAD_LEN, Net, Outcome, Progress, Step, Ways};
use crate::clock::Agenda;

enum Event {
    Net(Step<Part>),
    /// The master's answer.
    Located(u32, u32),
    /// A `Read` of this chunk is at its server.
    Asked(u32, Read),
}

/// A chunk on its way.
struct Reading {
    fetch: Box<Fetch>,
    stream: ReadStream,
    parts: Option<read_stream::ReadStream>,
    pipe: usize,
}

struct Run {
    agenda: Agenda<Event>,
    net: Net<Part>,
    download: Download,
    /// By the chunk's index.
    readings: BTreeMap<u32, Reading>,
    /// Which chunk comes over a connection.
    ends: BTreeMap<usize, u32>,
    payload: Vec<u8>,
    crcs: Crcs,
    chunk_crc: u32,
    progress: Progress,
    chunks: u32,
}

/// Downloads a file of so many chunks, all of it zeros.
///
/// # Panics
/// When a core says that something failed: nothing does here.
#[must_use]
pub fn run(ways: Ways, chunks: u32) -> Outcome {
    let payload = vec![0; PAYLOAD_LEN_MAX as usize];
    let plan = Plan {
        range: 0..u64::from(chunks) * u64::from(CHUNK_LEN),
        chunk_size: CHUNK_LEN,
        streams_max: ways.streams,
        rewindable: true,
        patience: Duration::from_secs(30),
        seed: 1,
    };
    let mut run = Run {
        agenda: Agenda::default(),
        net: Net::new(ways),
        download: Download::new(plan).expect("a range that files can have"),
        readings: BTreeMap::new(),
        ends: BTreeMap::new(),
        crcs: crcs_of(0, &payload).expect("one payload"),
        payload,
        chunk_crc: zeros(CHUNK_LEN.into()),
        progress: Progress::default(),
        chunks,
    };
    run.agenda
        .plan(ways.round_trip, Event::Located(0, PAGE_LEN));
    let mut streams_max = 0;
    while !run.client() {
        streams_max = streams_max.max(run.readings.len());
        for (at, step) in std::mem::take(&mut run.net.planned) {
            run.agenda.plan(at, Event::Net(step));
        }
        let event = run.agenda.next().expect("a download that comes to its end");
        run.happen(event);
    }
    Outcome {
        share: run.progress.share(ways.rate),
        took: run.agenda.now(),
        // A payload is received into one, verified and written from there.
        client_buffers: streams_max,
        // Sent from the page cache.
        server_buffers: 0,
    }
}

impl Run {
    /// Does what the client can; whether all is there.
    fn client(&mut self) -> bool {
        let now = self.agenda.now();
        while let Some(action) = self.download.poll(now) {
            match action {
                Action::Locate { first_index, count } => {
                    let event = Event::Located(first_index, count);
                    self.agenda.plan(now + self.net.ways.round_trip, event);
                }
                Action::Fetch(fetch) => self.fetch(fetch),
                Action::Done => return true,
                other => panic!("nothing fails here: {other:?}"),
            }
        }
        false
    }

    fn fetch(&mut self, fetch: Box<Fetch>) {
        let now = self.agenda.now();
        let (start, index) = (block_start(fetch.from), fetch.chunk.index);
        let wanted = Seen::default().wanted(&fetch.chunk);
        let wanted = wanted.expect("a fresh client has seen nothing");
        let stream = ReadStream::new(wanted, start, fetch.to, fetch.verified);
        let server = usize::try_from(fetch.replica.server.0).unwrap_or(CLIENT);
        let pipe = self.net.connect(server, CLIENT);
        self.ends.insert(pipe, index);
        let read = Read {
            ticket: fetch.chunk.ticket,
            handle: fetch.chunk.handle,
            version: fetch.chunk.version,
            serial: Serial::NONE,
            want: Want::Sealed,
            offset: stream.offset(),
            length: stream.length(),
        };
        let at = now + self.net.delay(CLIENT, server);
        self.agenda.plan(at, Event::Asked(index, read));
        let reading = Reading {
            fetch,
            stream,
            parts: None,
            pipe,
        };
        self.readings.insert(index, reading);
    }

    fn happen(&mut self, event: Event) {
        let now = self.agenda.now();
        match event {
            Event::Net(step) => {
                let pipe = match &step {
                    Step::Taken(pipe, _) => Some(*pipe),
                    _ => None,
                };
                if let Some((pipe, part, len)) = self.net.step(now, step) {
                    self.net.take(now, pipe, len);
                    self.came(self.ends[&pipe], part);
                }
                if let Some(pipe) = pipe {
                    self.serve(self.ends[&pipe]);
                }
            }
            Event::Located(first, count) => {
                let asked = first..first.saturating_add(count);
                let there = asked.start..asked.end.min(self.chunks);
                let located = there.map(|index| located(index, self.chunk_crc));
                self.download.handle_located(asked, located);
            }
            Event::Asked(index, read) => {
                let facts = ReplicaFacts {
                    version: read.version,
                    serial: Serial(1),
                    length: CHUNK_LEN,
                    state: ChunkState::Sealed,
                };
                let parts = read_stream::ReadStream::new(&read, &facts).expect("a good read");
                let reading = self.readings.get_mut(&index).expect("a reading");
                reading.parts = Some(parts);
                self.serve(index);
            }
        }
    }

    /// A chunkserver sends what its socket takes.
    fn serve(&mut self, index: u32) {
        let now = self.agenda.now();
        let Some(reading) = self.readings.get_mut(&index) else {
            return;
        };
        let pipe = reading.pipe;
        while self.net.is_clear(pipe)
            && let Some(part) = reading.parts.as_mut().and_then(|it| it.next_part())
        {
            let len = HEAD_LEN + u64::from(part.len);
            self.net.send(now, pipe, part, len);
        }
    }

    /// A part is here: it is verified as any other.
    fn came(&mut self, index: u32, part: Part) {
        let now = self.agenda.now();
        let reading = self.readings.get_mut(&index).expect("a reading");
        let data = ReadData {
            handle: reading.fetch.chunk.handle,
            version: reading.fetch.chunk.version,
            serial: Serial(1),
            chunk_length: CHUNK_LEN,
            offset: part.offset,
            state: ChunkState::Sealed,
            last: part.last,
            crcs: self.crcs,
        };
        let stream = &mut reading.stream;
        stream.handle_data(&data).expect("in its turn");
        let payload = self.payload.get(..part.len as usize).unwrap_or_default();
        stream.handle_payload(&data, payload).expect("good bytes");
        self.download.handle_progress(index);
        let total = u64::from(self.chunks) * u64::from(CHUNK_LEN);
        self.progress.add(now, part.len.into(), total);
        if part.last {
            stream.handle_end().expect("the whole chunk");
            self.readings.remove(&index);
            self.download.handle_fetched(index);
        }
    }
}

/// A chunk that all servers have.
fn located(index: u32, crc32: u32) -> LocatedChunk {
    let (handle, version) = (ChunkHandle(100 + u64::from(index)), ChunkVersion(1));
    let replicas = (1..=CHUNKSERVERS as u64).map(|server| Replica {
        server: ServerId(server),
        control_addr: String::new(),
        data_addr: String::new(),
    });
    LocatedChunk {
        index,
        handle,
        version,
        length: CHUNK_LEN,
        crc32,
        state: ChunkState::Sealed,
        primary: ServerId::NONE,
        ticket: ticket(handle, version, Rights::READ),
        replicas: replicas.collect(),
    }
}
