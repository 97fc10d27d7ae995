//! A file that grows while it is read: a master and three members of its chunks inside the test
//! process, which do what a test says.
//!
//! They know `spec/replication.md` section 12 as a reader sees it: who is the primary, up to which
//! serial each member knows the chunk to be committed, and when it is sealed or cut.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use sarsen_client::core::pieces::crcs_of;
use sarsen_client::{Client, ClientConfig};
use sarsen_edge::connection::{Connection, Incoming};
use sarsen_protocol::crc::crc32;
use sarsen_protocol::deframe::{Deframer, Frame, error_frame};
use sarsen_protocol::handshake::Listener;
use sarsen_protocol::header::Header;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, FileId, Serial, ServerId};
use sarsen_protocol::message::{
    AnyMessage, ChunkState, CutData, ErrorBody, FileSealed, Kind, Locate, LocateReply,
    LocatedChunk, Message, Newest, NewestReply, Node, NodeType, Plane, Read, ReadCut, ReadData,
    Replica, ReplicaReported, Role, StatReply, Want,
};
use sarsen_protocol::status::Status;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::chunkserver::next;
use crate::master::{not_found, readable};
use crate::{CHUNK_SIZE, identity, key};

/// Bytes of a `ReadData`'s payload: several frames a chunk.
pub(crate) const FRAME_LEN: usize = CHUNK_SIZE / 4;

const MEMBERS: usize = 3;

type Refused = (Status, ErrorBody);

/// A chunk as its members have it.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) version: u64,
    pub(crate) is_sealed: bool,
    pub(crate) bytes: Vec<u8>,
    /// Bytes after each serial, from serial 0 on.
    ends: Vec<usize>,
    /// The serial up to which each member knows it to be committed.
    known: [usize; MEMBERS],
}

impl Chunk {
    fn new(version: u64) -> Self {
        Self {
            version,
            is_sealed: false,
            bytes: Vec::new(),
            ends: vec![0],
            known: [0; MEMBERS],
        }
    }

    fn state(&self) -> ChunkState {
        match self.is_sealed {
            true => ChunkState::Sealed,
            false => ChunkState::Open,
        }
    }
}

/// What happens to the file before the next answer of a kind.
type Turn = Box<dyn FnOnce(&mut State) + Send>;

#[derive(Default)]
pub(crate) struct State {
    pub(crate) chunks: Vec<Chunk>,
    /// Who has the lease; 0 for nobody.
    pub(crate) primary: u64,
    before_locate: VecDeque<Turn>,
    /// Before the second frame of a read; the connection ends then.
    in_a_read: Option<Turn>,
    /// Of all requests, in their order.
    pub(crate) kinds: Vec<Kind>,
}

impl State {
    /// Appends to the last chunk; these members don't know yet that it is committed.
    pub(crate) fn append(&mut self, bytes: &[u8], behind: &[usize]) {
        self.append_to(self.chunks.len() - 1, bytes, behind);
    }

    /// The same to any chunk.
    pub(crate) fn append_to(&mut self, index: usize, bytes: &[u8], behind: &[usize]) {
        let chunk = &mut self.chunks[index];
        assert!(!chunk.is_sealed);
        chunk.bytes.extend_from_slice(bytes);
        chunk.ends.push(chunk.bytes.len());
        for (member, known) in chunk.known.iter_mut().enumerate() {
            if !behind.contains(&(member + 1)) {
                *known = chunk.ends.len() - 1;
            }
        }
    }

    /// The last chunk is sealed.
    pub(crate) fn seal(&mut self) {
        self.seal_at(self.chunks.len() - 1);
    }

    /// Any chunk is sealed.
    pub(crate) fn seal_at(&mut self, index: usize) {
        let chunk = &mut self.chunks[index];
        chunk.version += 10;
        chunk.is_sealed = true;
    }

    /// The last chunk has other members in the next version.
    pub(crate) fn change_members(&mut self, primary: u64) {
        self.chunks.last_mut().unwrap().version += 10;
        self.primary = primary;
    }

    /// The last chunk is sealed, and another follows.
    pub(crate) fn go_on(&mut self) {
        if !self.chunks.is_empty() {
            self.seal();
        }
        self.chunks.push(Chunk::new(1));
    }

    /// The last chunk's bytes from an offset on are others, by one mutation.
    pub(crate) fn write_over(&mut self, offset: usize, bytes: &[u8]) {
        let chunk = self.chunks.last_mut().unwrap();
        chunk.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.append(b"", &[]);
    }

    /// Somebody writes into a slot behind the last chunk, which stays open.
    pub(crate) fn write_behind(&mut self, bytes: &[u8]) {
        self.chunks.push(Chunk::new(1));
        self.append(bytes, &[]);
    }

    /// The last chunk is cut.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.chunks.last_mut().unwrap().bytes.truncate(len);
        self.seal();
    }

    /// The file is cut to so many bytes in so many chunks, and somebody is about to append to it.
    pub(crate) fn cut(&mut self, chunks: usize, len: usize) {
        self.chunks.truncate(chunks);
        let last = self.chunks.last_mut().unwrap();
        last.bytes.truncate(len);
        last.ends = vec![last.bytes.len()];
        last.known = [0; MEMBERS];
        last.is_sealed = false;
        last.version += 10;
    }

    /// The file's bytes, padding as zeros.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (index, chunk) in self.chunks.iter().enumerate() {
            if !chunk.bytes.is_empty() {
                bytes.resize(index * CHUNK_SIZE, 0);
                bytes.extend_from_slice(&chunk.bytes);
            }
        }
        bytes
    }

    fn node(&self) -> Node {
        let is_sealed = self.chunks.iter().all(|chunk| chunk.is_sealed);
        let logged = self.chunks.iter().enumerate();
        let logged = logged.filter(|(_, it)| it.is_sealed && !it.bytes.is_empty());
        let size = logged.map(|(index, it)| index * CHUNK_SIZE + it.bytes.len());
        Node {
            file_id: FileId(1),
            node_type: NodeType::File,
            size: size.max().unwrap_or(0) as u64,
            mtime: 0,
            replicas: 3,
            chunks: u32::try_from(self.chunks.len()).unwrap(),
            sealed: is_sealed,
            crc32: if is_sealed { crc32(&self.bytes()) } else { 0 },
        }
    }

    fn locate(&self, asked: &Locate, servers: &[Replica]) -> LocateReply {
        let wanted = asked.first_index..asked.first_index + asked.count;
        let chunks = (0..).zip(&self.chunks);
        let chunks = chunks.filter(|(index, _)| wanted.contains(index));
        LocateReply {
            node: self.node(),
            chunk_size: u32::try_from(CHUNK_SIZE).unwrap(),
            slots: u32::try_from(self.chunks.len()).unwrap(),
            suspect_after: 2_000,
            lease: 60_000,
            chunks: chunks
                .map(|(index, chunk)| {
                    let handle = handle(index);
                    LocatedChunk {
                        index,
                        handle,
                        version: ChunkVersion(chunk.version),
                        length: match chunk.is_sealed {
                            true => u32::try_from(chunk.bytes.len()).unwrap(),
                            false => 0,
                        },
                        crc32: crc32(&chunk.bytes),
                        state: chunk.state(),
                        primary: match chunk.is_sealed {
                            true => ServerId::NONE,
                            false => ServerId(self.primary),
                        },
                        ticket: readable(handle),
                        replicas: servers.to_vec(),
                    }
                })
                .collect(),
        }
    }

    fn newest(&self, member: u64, asked: &Newest) -> Result<NewestReply, Refused> {
        let chunk = self.chunk(asked.handle)?;
        let refused = match () {
            () if chunk.is_sealed => Some(Status::ChunkSealed),
            () if member != self.primary => Some(Status::NotPrimary),
            () if chunk.version != asked.version.0 => Some(Status::PromiseRefused),
            () => None,
        };
        match refused {
            Some(status) => Err((status, ErrorBody::new("as the page says"))),
            None => Ok(NewestReply {
                version: asked.version,
                serial: Serial(chunk.ends.len() as u64 - 1),
                length: u32::try_from(chunk.bytes.len()).unwrap(),
            }),
        }
    }

    /// What a member serves: the state's version and serial, and the bytes.
    fn serve(
        &self,
        member: usize,
        handle: ChunkHandle,
        asked: (ChunkVersion, Serial, Want),
    ) -> Result<(ChunkState, ChunkVersion, Serial, Vec<u8>), Refused> {
        let chunk = self.chunk(handle)?;
        let (version, serial, want) = asked;
        let known = chunk.known[member - 1];
        let has = (chunk.version, known as u64);
        let refused = match (chunk.is_sealed, want) {
            (true, _) if chunk.version != version.0 => Some(Status::Moved),
            (true, _) => None,
            (false, Want::Sealed) => Some(Status::ChunkOpen),
            (false, _) if has < (version.0, serial.0) => Some(Status::Behind),
            (false, _) => None,
        };
        if let Some(status) = refused {
            let mut error = ErrorBody::new("as the page says");
            error.version = ChunkVersion(chunk.version);
            return Err((status, error));
        }
        let len = match chunk.is_sealed {
            true => chunk.bytes.len(),
            false => chunk.ends[known],
        };
        let (version, serial) = (ChunkVersion(chunk.version), Serial(known as u64));
        Ok((chunk.state(), version, serial, chunk.bytes[..len].to_vec()))
    }

    fn chunk(&self, handle: ChunkHandle) -> Result<&Chunk, Refused> {
        let chunk = self.chunks.get(usize::try_from(handle.0).unwrap() - 100);
        chunk.ok_or((Status::ChunkUnknown, ErrorBody::new("no such chunk")))
    }
}

fn handle(index: u32) -> ChunkHandle {
    ChunkHandle(100 + u64::from(index))
}

/// A file `/file` in a cluster of its own.
pub(crate) struct Growing {
    state: Mutex<State>,
    /// Where the members listen.
    servers: Mutex<Vec<Replica>>,
    /// Where the master listens.
    pub(crate) address: String,
}

impl Growing {
    /// A file with one open chunk, whose primary is server 1.
    pub(crate) async fn start() -> Arc<Self> {
        let master = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let growing = Arc::new(Self {
            state: Mutex::default(),
            servers: Mutex::default(),
            address: master.local_addr().unwrap().to_string(),
        });
        growing.change(|state| {
            state.primary = 1;
            state.go_on();
        });
        tokio::spawn(growing.clone().serve_control(master, 0));
        for member in 1..=MEMBERS {
            let control = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let data = TcpListener::bind("127.0.0.1:0").await.unwrap();
            growing.servers.lock().unwrap().push(Replica {
                server: ServerId(member as u64),
                control_addr: control.local_addr().unwrap().to_string(),
                data_addr: data.local_addr().unwrap().to_string(),
            });
            tokio::spawn(growing.clone().serve_control(control, member));
            tokio::spawn(growing.clone().serve_data(data, member));
        }
        growing
    }

    pub(crate) async fn client(&self, timeout: std::time::Duration) -> Client {
        let mut config = ClientConfig::default();
        config.masters = vec![self.address.clone()];
        config.key = Some(key());
        config.timeout = timeout;
        Client::connect(config).await.expect("the master is there")
    }

    /// Something happens to the file.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    /// Something happens before the master says again where the file is.
    pub(crate) fn before_locate(&self, turn: impl FnOnce(&mut State) + Send + 'static) {
        self.change(|state| state.before_locate.push_back(Box::new(turn)));
    }

    /// Something happens in the middle of a read, which then breaks off.
    pub(crate) fn in_a_read(&self, turn: impl FnOnce(&mut State) + Send + 'static) {
        self.change(|state| state.in_a_read = Some(Box::new(turn)));
    }

    async fn serve_control(self: Arc<Self>, listener: TcpListener, member: usize) {
        while let Ok((stream, _)) = listener.accept().await {
            let growing = self.clone();
            tokio::spawn(async move {
                let identity = identity(match member {
                    0 => Role::Master,
                    _ => Role::Chunkserver,
                });
                let accepted = Connection::accept(stream, identity, &key()).await;
                if let Ok((connection, incoming)) = accepted {
                    growing.answer_all(&connection, incoming, member).await;
                }
            });
        }
    }

    async fn answer_all(&self, connection: &Connection, mut incoming: Incoming, member: usize) {
        while let Some(request) = incoming.next().await {
            let kind = request.message.kind();
            let answer = match member {
                0 => self.as_master(request.message),
                _ => self.as_member(member, request.message),
            };
            connection.reply(request.id, kind, answer);
        }
    }

    fn as_master(&self, message: AnyMessage) -> Result<AnyMessage, Refused> {
        let mut state = self.state.lock().unwrap();
        state.kinds.push(message.kind());
        match message {
            AnyMessage::Locate(asked) => {
                if let Some(turn) = state.before_locate.pop_front() {
                    turn(&mut state);
                }
                let servers = self.servers.lock().unwrap();
                Ok(state.locate(&asked, &servers).into())
            }
            AnyMessage::Stat(_) => Ok(StatReply { node: state.node() }.into()),
            AnyMessage::SealFile(_) => {
                state.seal();
                Ok(FileSealed { node: state.node() }.into())
            }
            AnyMessage::ReportReplica(_) => Ok(ReplicaReported.into()),
            _ => Err(not_found()),
        }
    }

    fn as_member(&self, member: usize, message: AnyMessage) -> Result<AnyMessage, Refused> {
        let mut state = self.state.lock().unwrap();
        state.kinds.push(message.kind());
        match message {
            AnyMessage::Newest(asked) => Ok(state.newest(member as u64, &asked)?.into()),
            other => panic!("{other:?} is nothing that a reader asks"),
        }
    }

    async fn serve_data(self: Arc<Self>, listener: TcpListener, member: usize) {
        while let Ok((stream, _)) = listener.accept().await {
            let growing = self.clone();
            tokio::spawn(async move { growing.serve_reads(stream, member).await });
        }
    }

    async fn serve_reads(&self, mut stream: TcpStream, member: usize) {
        let mut deframer = Deframer::new(Plane::Data);
        let identity = identity(Role::Chunkserver);
        let mut listener = Listener::new(identity, Plane::Data, key(), [9; 32]);
        let hello = next(&mut stream, &mut deframer).await.unwrap();
        let reply = listener.handle_hello(&hello).unwrap();
        stream.write_all(&reply).await.unwrap();
        let Some(proof) = next(&mut stream, &mut deframer).await else {
            return;
        };
        let (_, done) = listener.handle_proof(&proof).unwrap();
        stream.write_all(&done).await.unwrap();
        deframer.hello_is_done();
        while let Some(frame) = next(&mut stream, &mut deframer).await {
            let went_well = match frame.header.kind {
                Kind::Read => self.read(&mut stream, member, &frame).await,
                Kind::ReadCut => self.read_cut(&mut stream, member, &frame).await,
                kind => panic!("{kind:?} is nothing that a reader asks"),
            };
            if !went_well {
                return;
            }
        }
    }

    fn served(
        &self,
        member: usize,
        kind: Kind,
        handle: ChunkHandle,
        asked: (ChunkVersion, Serial, Want),
    ) -> Result<(ChunkState, ChunkVersion, Serial, Vec<u8>), Refused> {
        self.change(|state| {
            state.kinds.push(kind);
            state.serve(member, handle, asked)
        })
    }

    /// False if the connection is to be closed.
    async fn read(&self, stream: &mut TcpStream, member: usize, frame: &Frame) -> bool {
        let id = frame.header.request_id;
        let read: Read = frame.message().unwrap();
        let asked = (read.version, read.serial, read.want);
        let served = self.served(member, Kind::Read, read.handle, asked);
        let (state, version, serial, bytes) = match served {
            Ok(served) => served,
            Err((status, error)) => {
                let refused = error_frame(Kind::ReadData, id, status, &error);
                return stream.write_all(&refused).await.is_ok();
            }
        };
        let start = read.offset as usize;
        let end = (start + read.length as usize).next_multiple_of(65_536);
        let end = end.min(bytes.len()).max(start);
        let mut offset = start;
        loop {
            let to = (offset + FRAME_LEN).min(end);
            let payload = bytes.get(offset..to).unwrap_or_default();
            let at = u32::try_from(offset).unwrap();
            let data = ReadData {
                handle: read.handle,
                version,
                serial,
                chunk_length: u32::try_from(bytes.len()).unwrap(),
                offset: at,
                state,
                last: to == end,
                crcs: crcs_of(at, payload).unwrap(),
            };
            if !send(stream, Kind::ReadData, id, &data.to_body(), payload).await {
                return false;
            }
            if to == end {
                return true;
            }
            offset = to;
            if let Some(turn) = self.change(|state| state.in_a_read.take()) {
                self.change(turn);
                return false;
            }
        }
    }

    /// False if the connection is to be closed.
    async fn read_cut(&self, stream: &mut TcpStream, member: usize, frame: &Frame) -> bool {
        let id = frame.header.request_id;
        let read: ReadCut = frame.message().unwrap();
        let asked = (read.version, read.serial, read.want);
        let served = self.served(member, Kind::ReadCut, read.handle, asked);
        let (state, version, serial, bytes) = match served {
            Ok(served) => served,
            Err((status, error)) => {
                let refused = error_frame(Kind::CutData, id, status, &error);
                return stream.write_all(&refused).await.is_ok();
            }
        };
        let from = read.offset as usize;
        let to = (from + read.length as usize).min(bytes.len()).max(from);
        let block = from / 65_536 * 65_536;
        let block_end = (block + 65_536).min(bytes.len());
        let part = |range: std::ops::Range<usize>| bytes.get(range).unwrap_or_default();
        let data = CutData {
            handle: read.handle,
            version,
            serial,
            chunk_length: u32::try_from(bytes.len()).unwrap(),
            offset: read.offset,
            block_crc: match to > from {
                true => crc32(part(block..block_end)),
                false => 0,
            },
            before: match to > from {
                true => crc32(part(block..from)),
                false => 0,
            },
            behind: crc32(part(to..block_end.max(to))),
            state,
        };
        send(stream, Kind::CutData, id, &data.to_body(), part(from..to)).await
    }
}

async fn send(stream: &mut TcpStream, kind: Kind, id: u64, body: &[u8], payload: &[u8]) -> bool {
    let payload_len = u32::try_from(payload.len()).unwrap();
    let header = Header::new(kind, Status::Ok, id, body, payload_len);
    let frame = [&header.encode()[..], body, payload].concat();
    stream.write_all(&frame).await.is_ok()
}
