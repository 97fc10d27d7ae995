//! A file goes up: what `client/src/put.rs` and `chunkd/src/net/write_stream` do, without bytes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sarsen_chunkd::core::replica_stream::{Action, ReplicaStream};
use sarsen_chunkd::io::pool::STREAM_BUFFERS_MAX;
use sarsen_client::core::upload::{self, Plan, Upload};
use sarsen_client::core::window::Windows;
use sarsen_client::core::write::WriteStream;
use sarsen_protocol::crc::zeros;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, FileId, Serial, ServerId, SessionId};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{
    Allocation, Crcs, Hop, Level, SealedChunk, WriteAck, WriteData, WriteOpen, WriteSeal,
    WriteSealed,
};
use sarsen_protocol::size::PAYLOAD_LEN_MAX;
use sarsen_protocol::ticket::{Claims, Rights, Ticket};

use super::{
    CHUNK_LEN, CHUNKSERVERS, CLIENT, HEAD_LEN, Net, Outcome, Progress, Step, Ways, time_of,
};
use crate::clock::Agenda;

/// How long nobody here is silent.
const SUSPECT_AFTER: Duration = Duration::from_secs(3);

/// How long a chunk takes to be made.
const PREPARE: Duration = Duration::from_millis(1);

enum Frame {
    Open(WriteOpen),
    Data(WriteData),
    Seal(WriteSeal),
}

/// What goes back along a chain.
enum Answer {
    Opened,
    Ack(WriteAck),
    Sealed(WriteSealed),
}

enum Event {
    Net(Step<(usize, Frame)>),
    /// The master's answer: chunks from this index on, so many.
    Allocated(u32, u16),
    /// To the client, or to the member at this place, of this chunk's stream.
    Answer(usize, Option<usize>, Answer),
    Prepared(usize, usize),
    Stored(usize, usize, Serial),
    Sealed(usize, usize),
}

/// A member's end of a stream.
struct Member {
    server: usize,
    core: Option<ReplicaStream>,
    /// The connection that frames come over, and what of it lies in the socket.
    from: usize,
    socket: VecDeque<(Frame, u64)>,
    to: Option<usize>,
    /// Who still needs the buffer of each frame: the disk, the next connection.
    buffers: BTreeMap<Serial, u8>,
}

/// The client's end of one, with its chain.
struct Stream {
    allocation: Allocation,
    write: WriteStream,
    sent: u32,
    is_sealed: bool,
    is_over: bool,
    members: Vec<Member>,
}

struct Run {
    agenda: Agenda<Event>,
    net: Net<(usize, Frame)>,
    upload: Upload,
    windows: Windows,
    /// By the chunk's index.
    streams: BTreeMap<usize, Stream>,
    /// Which stream and member a connection leads to.
    ends: BTreeMap<usize, (usize, usize)>,
    disks: BTreeMap<usize, Duration>,
    /// What each member has given to its next connection and is not in its socket yet.
    waiting: BTreeMap<(usize, usize), Vec<Serial>>,
    progress: Progress,
    total: u64,
    server_buffers: usize,
}

/// Uploads a file of so many chunks.
///
/// # Panics
/// When a core says that something failed: nothing does here.
#[must_use]
pub fn run(ways: Ways, chunks: u32) -> Outcome {
    let mut upload = Upload::new(Plan {
        streams_max: ways.streams,
        fewest: 2,
        patience: Duration::from_secs(30),
        seed: 1,
    });
    upload.handle_source(chunks, true);
    let mut run = Run {
        agenda: Agenda::default(),
        net: Net::new(ways),
        upload,
        windows: Windows::default(),
        streams: BTreeMap::new(),
        ends: BTreeMap::new(),
        disks: BTreeMap::new(),
        waiting: BTreeMap::new(),
        progress: Progress::default(),
        total: u64::from(chunks) * u64::from(CHUNK_LEN),
        server_buffers: 0,
    };
    while !run.client() {
        for (at, step) in std::mem::take(&mut run.net.planned) {
            run.agenda.plan(at, Event::Net(step));
        }
        let event = run.agenda.next().expect("an upload that comes to its end");
        run.happen(event);
    }
    Outcome {
        share: run.progress.share(ways.rate),
        took: run.agenda.now(),
        // One of each stream is in the sender's hand; the next is read while it goes.
        client_buffers: 2 * ways.streams,
        server_buffers: run.server_buffers,
    }
}

impl Run {
    /// Does what the client can; whether all is published.
    fn client(&mut self) -> bool {
        let now = self.agenda.now();
        while let Some(action) = self.next_action(now) {
            match action {
                upload::Action::Allocate {
                    first_index, count, ..
                } => {
                    let event = Event::Allocated(first_index, count);
                    self.agenda.plan(now + self.net.ways.round_trip, event);
                }
                upload::Action::Begin(allocation) => self.begin(*allocation),
                upload::Action::Publish { .. } => return true,
                upload::Action::GiveUp => panic!("an upload was given up"),
            }
        }
        false
    }

    /// What is to be done next, after every stream has sent what it can: one that has sent all makes
    /// room for another.
    fn next_action(&mut self, now: Duration) -> Option<upload::Action> {
        let open: Vec<usize> = self.streams.keys().copied().collect();
        open.into_iter().for_each(|index| self.send(index));
        self.upload.poll(now)
    }

    fn begin(&mut self, allocation: Allocation) {
        let now = self.agenda.now();
        let index = allocation.index as usize;
        let servers = allocation.chain.iter();
        let servers: Vec<usize> = servers
            .map(|hop| usize::try_from(hop.server.0).unwrap_or(CLIENT))
            .collect();
        let mut from = CLIENT;
        let mut members: Vec<Member> = Vec::new();
        for (place, &server) in servers.iter().enumerate() {
            let pipe = self.net.connect(from, server);
            self.ends.insert(pipe, (index, place));
            if let Some(before) = members.last_mut() {
                before.to = Some(pipe);
            }
            members.push(Member {
                server,
                core: None,
                from: pipe,
                socket: VecDeque::new(),
                to: None,
                buffers: BTreeMap::new(),
            });
            from = server;
        }
        let write = WriteStream::new(
            now,
            Level::Disk,
            SUSPECT_AFTER,
            &allocation.chain,
            &mut self.windows,
        );
        let open = WriteOpen {
            ticket: allocation.ticket,
            handle: allocation.handle,
            version: allocation.version,
            file_id: FileId(2),
            index: allocation.index,
            room: CHUNK_LEN,
            begin_serial: Serial::NONE,
            lock_token: 0,
            level: Level::Disk,
            position: 0,
            chain: allocation.chain.clone(),
        };
        self.net
            .send(now, members[0].from, (index, Frame::Open(open)), HEAD_LEN);
        self.streams.insert(
            index,
            Stream {
                allocation,
                write,
                sent: 0,
                is_sealed: false,
                is_over: false,
                members,
            },
        );
    }

    /// Sends as many frames as window and socket take.
    fn send(&mut self, index: usize) {
        let now = self.agenda.now();
        let Some(stream) = self.streams.get_mut(&index).filter(|it| !it.is_over) else {
            return;
        };
        let pipe = stream.members[0].from;
        while stream.sent < CHUNK_LEN
            && self.net.is_clear(pipe)
            && stream.write.has_room(now, &self.windows)
        {
            let (serial, offset) = stream.write.send(now, PAYLOAD_LEN_MAX);
            stream.sent += PAYLOAD_LEN_MAX;
            let data = WriteData {
                handle: stream.allocation.handle,
                version: stream.allocation.version,
                serial,
                commit_mark: Serial::NONE,
                request: None,
                offset,
                level: Level::Memory,
                crcs: Crcs::default(),
            };
            let len = HEAD_LEN + u64::from(PAYLOAD_LEN_MAX);
            self.net.send(now, pipe, (index, Frame::Data(data)), len);
        }
        if stream.sent == CHUNK_LEN && !stream.is_sealed {
            stream.is_sealed = true;
            let crc32 = zeros(CHUNK_LEN.into());
            stream.write.seal(now, crc32);
            let seal = WriteSeal {
                handle: stream.allocation.handle,
                version: stream.allocation.version,
                length: CHUNK_LEN,
                crc32,
                level: Level::Disk,
            };
            self.upload
                .handle_sent(stream.allocation.index, stream.allocation.handle);
            self.net
                .send(now, pipe, (index, Frame::Seal(seal)), HEAD_LEN);
        }
    }

    fn happen(&mut self, event: Event) {
        let now = self.agenda.now();
        match event {
            Event::Net(step) => {
                let taken = match &step {
                    Step::Taken(pipe, _) => Some(*pipe),
                    _ => None,
                };
                if let Some((pipe, (_, frame), len)) = self.net.step(now, step) {
                    let (index, place) = self.ends[&pipe];
                    self.member(index, place).socket.push_back((frame, len));
                    self.serve(index, place);
                }
                // What waited for the window may have gone, with the buffers that it held.
                if let Some((index, place)) = taken.and_then(|pipe| self.ends.get(&pipe).copied())
                    && place > 0
                {
                    self.forwarded(index, place - 1);
                }
            }
            Event::Allocated(first, count) => {
                let indexes = first..first.saturating_add(count.into());
                self.upload
                    .handle_allocated(indexes.map(allocation).collect());
            }
            Event::Answer(index, place, answer) => self.answered(index, place, answer),
            Event::Prepared(index, place) => {
                self.core(index, place).handle_prepared();
                self.act(index, place);
            }
            Event::Stored(index, place, serial) => {
                self.core(index, place).handle_stored(serial);
                self.act(index, place);
                self.release(index, place, serial);
                self.serve(index, place);
            }
            Event::Sealed(index, place) => {
                self.core(index, place).handle_sealed(Level::Disk);
                self.act(index, place);
            }
        }
    }

    fn member(&mut self, index: usize, place: usize) -> &mut Member {
        let stream = self.streams.get_mut(&index).expect("a stream");
        &mut stream.members[place]
    }

    fn core(&mut self, index: usize, place: usize) -> &mut ReplicaStream {
        let core = self.member(index, place).core.as_mut();
        core.expect("a stream that was opened")
    }

    /// A member takes what is in its socket, as far as it has buffers.
    fn serve(&mut self, index: usize, place: usize) {
        let now = self.agenda.now();
        loop {
            let member = self.member(index, place);
            let is_full = member.buffers.len() >= STREAM_BUFFERS_MAX;
            match member.socket.front() {
                Some((Frame::Data(_), _)) if is_full => return,
                None => return,
                Some(_) => {}
            }
            let Some((frame, len)) = member.socket.pop_front() else {
                return;
            };
            let (from, server, needs) = (
                member.from,
                member.server,
                1 + u8::from(member.to.is_some()),
            );
            match frame {
                Frame::Open(open) => {
                    let me = ServerId(server as u64);
                    member.core = Some(ReplicaStream::new(me, open));
                }
                Frame::Data(data) => {
                    member.buffers.insert(data.serial, needs);
                    self.core(index, place).handle_data(&data, PAYLOAD_LEN_MAX);
                    self.count_buffers(server);
                    self.act_on(index, place, Some(data));
                    self.net.take(now, from, len);
                    continue;
                }
                Frame::Seal(seal) => self.core(index, place).handle_seal(&seal),
            }
            self.act(index, place);
            self.net.take(now, from, len);
        }
    }

    fn count_buffers(&mut self, server: usize) {
        let members = self.streams.values().flat_map(|stream| &stream.members);
        let here = members.filter(|member| member.server == server);
        let used = here.map(|member| member.buffers.len()).sum();
        self.server_buffers = self.server_buffers.max(used);
    }

    /// The disk, or the next connection, needs a frame's buffer no more.
    fn release(&mut self, index: usize, place: usize, serial: Serial) {
        let buffers = &mut self.member(index, place).buffers;
        if let Some(needs) = buffers.get_mut(&serial) {
            *needs -= 1;
            if *needs == 0 {
                buffers.remove(&serial);
            }
        }
    }

    /// All that was given to the next connection is in its socket.
    fn forwarded(&mut self, index: usize, place: usize) {
        self.let_go(index, place);
        self.serve(index, place);
    }

    /// What has gone into the next connection's socket needs no buffer for it any more; all of it
    /// has, or what waits there still is what came last.
    fn let_go(&mut self, index: usize, place: usize) {
        let Some(to) = self.member(index, place).to else {
            return;
        };
        let left = self.net.waiting(to);
        let given = self.waiting.entry((index, place)).or_default();
        let gone: Vec<Serial> = given.drain(..given.len().saturating_sub(left)).collect();
        for serial in gone {
            self.release(index, place, serial);
        }
    }

    fn act(&mut self, index: usize, place: usize) {
        self.act_on(index, place, None);
    }

    /// Carries out what a member's core wants.
    fn act_on(&mut self, index: usize, place: usize, data: Option<WriteData>) {
        let now = self.agenda.now();
        while let Some(action) = self.core(index, place).poll_action() {
            let (server, to) = (
                self.member(index, place).server,
                self.member(index, place).to,
            );
            match action {
                Action::Prepare => self
                    .agenda
                    .plan(now + PREPARE, Event::Prepared(index, place)),
                Action::OpenNext(open) => self.pass_on(now, index, to, Frame::Open(open)),
                Action::ForwardSeal(seal) => self.pass_on(now, index, to, Frame::Seal(seal)),
                Action::Forward(serial) => {
                    let frame = Frame::Data(data.expect("what is passed on just came"));
                    self.pass_on(now, index, to, frame);
                    let waiting = self.waiting.entry((index, place)).or_default();
                    waiting.push(serial);
                    self.let_go(index, place);
                }
                Action::Store { serial, len, .. } => {
                    let time = time_of(len.into(), self.net.ways.disk_rate);
                    let at = self.disk(server, now, time).max(now + PREPARE);
                    self.agenda.plan(at, Event::Stored(index, place, serial));
                }
                Action::Seal(_) => {
                    let at = self.disk(server, now, Duration::ZERO) + self.net.ways.sync;
                    self.agenda.plan(at, Event::Sealed(index, place));
                }
                Action::AnswerOpened => self.answer(index, place, Answer::Opened),
                Action::AnswerAck(ack) => self.answer(index, place, Answer::Ack(ack)),
                Action::AnswerSealed(sealed) => self.answer(index, place, Answer::Sealed(sealed)),
                Action::Fail(failure) => panic!("a stream failed: {failure:?}"),
            }
        }
    }

    fn pass_on(&mut self, now: Duration, index: usize, to: Option<usize>, frame: Frame) {
        let len = match &frame {
            Frame::Data(_) => HEAD_LEN + u64::from(PAYLOAD_LEN_MAX),
            Frame::Open(_) | Frame::Seal(_) => HEAD_LEN,
        };
        let to = to.expect("a member with one behind it");
        self.net.send(now, to, (index, frame), len);
    }

    /// When a disk has done what takes so long, behind all that it has.
    fn disk(&mut self, server: usize, now: Duration, time: Duration) -> Duration {
        let free = self.disks.entry(server).or_default();
        *free = now.max(*free) + time;
        *free
    }

    fn answer(&mut self, index: usize, place: usize, answer: Answer) {
        let server = self.member(index, place).server;
        let before = place.checked_sub(1);
        let to = before.map_or(CLIENT, |before| self.member(index, before).server);
        let at = self.agenda.now() + self.net.delay(server, to);
        self.agenda.plan(at, Event::Answer(index, before, answer));
    }

    fn answered(&mut self, index: usize, place: Option<usize>, answer: Answer) {
        let Some(place) = place else {
            return self.client_answered(index, answer);
        };
        let core = self.core(index, place);
        match answer {
            Answer::Opened => core.handle_next_opened(),
            Answer::Ack(ack) => core.handle_next_ack(&ack),
            Answer::Sealed(sealed) => core.handle_next_sealed(&sealed),
        }
        self.act(index, place);
    }

    fn client_answered(&mut self, index: usize, answer: Answer) {
        let now = self.agenda.now();
        let stream = self.streams.get_mut(&index).expect("a stream");
        let before = stream.write.acked();
        match answer {
            Answer::Opened => stream.write.handle_opened(now).expect("its turn"),
            Answer::Ack(ack) => {
                let taken = stream.write.handle_ack(now, &ack, &mut self.windows);
                taken.expect("its turn");
            }
            Answer::Sealed(sealed) => {
                let chain = &stream.allocation.chain;
                let servers = stream.write.handle_sealed(&sealed, chain);
                stream.write.leave(&mut self.windows);
                stream.is_over = true;
                let sealed = SealedChunk {
                    index: stream.allocation.index,
                    handle: stream.allocation.handle,
                    version: stream.allocation.version,
                    length: sealed.length,
                    crc32: sealed.crc32,
                    servers: servers.expect("sealed as asked"),
                };
                self.upload.handle_sealed(sealed);
            }
        }
        let acked = u64::from(stream.write.acked() - before);
        self.progress.add(now, acked, self.total);
    }
}

/// A chunk, on each of the servers, whose order changes with it.
fn allocation(index: u32) -> Allocation {
    let chain = (0..CHUNKSERVERS).map(|place| Hop {
        server: ServerId(1 + ((index as usize + place) % CHUNKSERVERS) as u64),
        data_addr: String::new(),
    });
    let (handle, version) = (ChunkHandle(100 + u64::from(index)), ChunkVersion(1));
    Allocation {
        index,
        handle,
        version,
        ticket: ticket(handle, version, Rights::WRITE),
        chain: chain.collect(),
    }
}

/// A ticket that nobody looks at.
pub(super) fn ticket(handle: ChunkHandle, version: ChunkVersion, rights: Rights) -> Ticket {
    let claims = Claims {
        rights,
        key_id: 1,
        handle,
        version,
        expiry: u64::MAX,
        file_id: FileId(2),
        session: SessionId::NONE,
        epoch: 1,
        chain_crc: 0,
    };
    Ticket::sign(claims, &SecretKey::new([0; 32]))
}
