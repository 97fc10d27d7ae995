//! Open chunks as their master and members see them together: one state for all, in which each
//! mutation is applied once, as `spec/replication.md` says, unless the script has it otherwise.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use sarsen_edge::connection::{Connection, Incoming};
use sarsen_protocol::crc::crc32;
use sarsen_protocol::deframe::{Deframer, Frame, error_frame, frame};
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, FileId, RequestId, Serial, ServerId};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{
    AnyMessage, Append, AppendResult, Appended, ChunkOpened, ChunkState, ErrorBody, FindRequests,
    FoundKind, FoundRequest, Hop, Kind, Level, LocatedChunk, OpenChunk, Replica, RequestsFound,
    Role, Slot, WriteAck, WriteData, WriteOpen, WriteOpened,
};
use sarsen_protocol::size::{APPEND_RESULTS_MAX, BLOCK_LEN};
use sarsen_protocol::status::Status;
use sarsen_protocol::ticket::Rights;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::chunkserver::{next, send};
use crate::master::ticket;
use crate::{CHUNK_SIZE, identity};

/// Well below a third of what the scripted master tells as `suspect_after`.
const KEEP_ALIVE: Duration = Duration::from_millis(200);

/// What goes otherwise, once, in the order in which it was scripted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The primary refuses the stream.
    RefuseStream(Status),
    /// A mutation is done, and the connection is lost before its answer.
    LoseAnswer,
    /// The connection is lost before a mutation is done.
    LoseMutation,
    /// As the two, and the chunk is sealed when the client comes back.
    LoseAnswerAndSeal,
    LoseMutationAndSeal,
    /// As the first, and the chunk has left its file.
    LoseAnswerAndCut,
    /// A mutation is answered with this status, and not done.
    Refuse(Status),
    /// Nothing is said any more, not even that it works.
    FallSilent,
}

#[derive(Debug, Default)]
pub(crate) struct OpenChunks {
    state: Mutex<State>,
    control_addr: Mutex<String>,
}

#[derive(Debug, Default)]
struct State {
    last_handle: u64,
    files: HashMap<FileId, Vec<ChunkHandle>>,
    chunks: HashMap<ChunkHandle, Chunk>,
    troubles: VecDeque<Trouble>,
    told: Told,
}

/// What was asked and sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    pub(crate) opens: Vec<OpenChunk>,
    pub(crate) streams: usize,
    pub(crate) finds: Vec<FindRequests>,
    /// Ids of the mutations that came, with each time.
    pub(crate) mutations: Vec<RequestId>,
    /// Records in each frame that came.
    pub(crate) frames: Vec<usize>,
}

#[derive(Clone, Debug, Default)]
struct Chunk {
    index: u32,
    version: u64,
    is_open: bool,
    is_full: bool,
    serial: u64,
    bytes: Vec<u8>,
    ids: BTreeMap<(u64, u64), Row>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    kind: FoundKind,
    offset: u32,
    length: u32,
    crc32: u32,
}

/// What becomes of a mutation.
enum Fate {
    Answered(AppendResult),
    Refused(Status),
    Lost,
    Silent,
}

impl OpenChunks {
    /// Holders answer questions here.
    pub(crate) async fn listen(self: Arc<Self>, key: SecretKey) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        *self.control_addr.lock().unwrap() = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(self.clone().answer(stream, key.clone()));
            }
        });
    }

    async fn answer(self: Arc<Self>, stream: TcpStream, key: SecretKey) {
        let identity = identity(Role::Chunkserver);
        if let Ok((connection, incoming)) = Connection::accept(stream, identity, &key).await {
            self.answer_all(&connection, incoming).await;
        }
    }

    async fn answer_all(&self, connection: &Connection, mut incoming: Incoming) {
        while let Some(request) = incoming.next().await {
            let kind = request.message.kind();
            let AnyMessage::FindRequests(asked) = request.message else {
                panic!("{kind:?} is not asked of a holder");
            };
            let found = self.state().find(asked);
            let refused = |status| (status, ErrorBody::new("not in that version"));
            connection.reply(request.id, kind, found.map(Into::into).map_err(refused));
        }
    }

    pub(crate) fn script(&self, trouble: Trouble) {
        self.state().troubles.push_back(trouble);
    }

    pub(crate) fn told(&self) -> Told {
        self.state().told.clone()
    }

    /// The file's bytes from its chunks, and whether none is missing.
    pub(crate) fn bytes(&self, file_id: FileId) -> Vec<Vec<u8>> {
        let state = self.state();
        let chunks = state.files.get(&file_id).into_iter().flatten();
        chunks.map(|it| state.chunks[it].bytes.clone()).collect()
    }

    /// Somebody has used this id for other bytes.
    pub(crate) fn use_id(&self, file_id: FileId, session: u64, number: u64) {
        let mut state = self.state();
        let last = *state.files[&file_id].last().unwrap();
        let row = Row {
            kind: FoundKind::Append,
            offset: 0,
            length: 1,
            crc32: 0,
        };
        let chunk = state.chunks.get_mut(&last).unwrap();
        chunk.ids.insert((session, number), row);
    }

    /// Every chunk is sealed, as if it had been idle.
    pub(crate) fn seal_all(&self) {
        self.state().chunks.values_mut().for_each(Chunk::seal);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The master's answer to `OpenChunk`.
    pub(crate) fn open(&self, asked: OpenChunk, chain: Vec<Hop>) -> ChunkOpened {
        let mut state = self.state();
        state.told.opens.push(asked);
        let handle = state.slot(asked.file_id, asked.slot);
        let chunk = state.chunks.get_mut(&handle).unwrap();
        if !chunk.is_open || chunk.version == asked.failed.0 {
            chunk.version += 1;
            chunk.is_open = true;
        }
        ChunkOpened {
            index: chunk.index,
            handle,
            version: ChunkVersion(chunk.version),
            begin_serial: Serial(chunk.serial + 1),
            memory: false,
            sealed_version: ChunkVersion::NONE,
            ticket: ticket(Rights::WRITE, handle),
            chain,
            lease: 60_000,
        }
    }

    /// The chunks of a file that were ever opened, as `Locate` tells them.
    pub(crate) fn located(&self, file_id: FileId, server: &Hop) -> Vec<LocatedChunk> {
        let state = self.state();
        let control_addr = self.control_addr.lock().unwrap().clone();
        let handles = state.files.get(&file_id).into_iter().flatten();
        let located = handles.map(|&handle| {
            let chunk = &state.chunks[&handle];
            LocatedChunk {
                index: chunk.index,
                handle,
                version: ChunkVersion(chunk.version),
                length: u32::try_from(chunk.bytes.len()).unwrap(),
                crc32: crc32(&chunk.bytes),
                state: match chunk.is_open {
                    true => ChunkState::Open,
                    false => ChunkState::Sealed,
                },
                primary: ServerId::NONE,
                ticket: ticket(Rights::READ, handle),
                replicas: vec![Replica {
                    server: server.server,
                    control_addr: control_addr.clone(),
                    data_addr: server.data_addr.clone(),
                }],
            }
        });
        located.collect()
    }

    /// A client's stream with the primary.
    pub(crate) async fn serve(
        &self,
        stream: &mut TcpStream,
        deframer: &mut Deframer,
        first: &Frame,
    ) {
        let id = first.header.request_id;
        let open: WriteOpen = first.message().unwrap();
        assert_eq!(open.position, 0, "to the primary");
        let refused = self.state().refuses(&open);
        if let Some(status) = refused {
            let error = ErrorBody::new("as the script says");
            send(stream, &error_frame(Kind::WriteOpened, id, status, &error)).await;
            return;
        }
        send(stream, &frame(&WriteOpened, id)).await;
        let mut acked = 0;
        loop {
            let frame_in = tokio::select! {
                frame = next(stream, deframer) => frame,
                () = sleep(KEEP_ALIVE) => {
                    send(stream, &frame(&ack(acked, 0), id)).await;
                    continue;
                }
            };
            let Some(frame_in) = frame_in else {
                return;
            };
            let end = match frame_in.header.kind {
                Kind::Append => self.append(stream, id, &open, &frame_in).await,
                Kind::WriteData => self.write(stream, id, &open, &frame_in, &mut acked).await,
                kind => panic!("{kind:?} on a mutation stream"),
            };
            match end {
                None => {}
                Some(Fate::Silent) => std::future::pending().await,
                Some(_) => return,
            }
        }
    }

    async fn append(
        &self,
        stream: &mut TcpStream,
        id: u64,
        open: &WriteOpen,
        frame_in: &Frame,
    ) -> Option<Fate> {
        let append: Append = frame_in.message().unwrap();
        append.check_payload(frame_in.header.payload_len).unwrap();
        assert_eq!((append.handle, append.version), (open.handle, open.version));
        assert_eq!(append.part, None, "no record of a small chunk is that long");
        self.state().told.frames.push(append.items.len());
        let (mut rest, mut crcs) = (&frame_in.payload[..], append.crcs.iter());
        let mut results = Vec::new();
        for item in &append.items {
            let (bytes, behind) = rest.split_at(item.length as usize);
            rest = behind;
            for piece in bytes.chunks(BLOCK_LEN as usize) {
                assert_eq!(Some(&crc32(piece)), crcs.next());
            }
            let request = append.request(item);
            let fate = self.state().mutate(open.handle, request, None, bytes);
            match fate {
                Fate::Answered(result) => results.push(result),
                end => return Some(end),
            }
        }
        let version = open.version;
        for results in results.chunks(APPEND_RESULTS_MAX) {
            let results = results.to_vec();
            send(stream, &frame(&Appended { version, results }, id)).await;
        }
        None
    }

    async fn write(
        &self,
        stream: &mut TcpStream,
        id: u64,
        open: &WriteOpen,
        frame_in: &Frame,
        acked: &mut u64,
    ) -> Option<Fate> {
        let data: WriteData = frame_in.message().unwrap();
        data.check_payload(frame_in.header.payload_len).unwrap();
        assert_eq!(data.serial, Serial(*acked + 1), "the stream's own count");
        let request = data.request.expect("a mutation has an id");
        let bytes = &frame_in.payload;
        let fate = self
            .state()
            .mutate(open.handle, request, Some(data.offset), bytes);
        match fate {
            Fate::Answered(result) => {
                *acked += 1;
                send(stream, &frame(&ack(*acked, result.serial.0), id)).await;
                None
            }
            Fate::Refused(status) => {
                let error = ErrorBody::new("as the script says");
                send(stream, &error_frame(Kind::WriteAck, id, status, &error)).await;
                Some(Fate::Lost)
            }
            end => Some(end),
        }
    }
}

fn ack(serial: u64, commit_mark: u64) -> WriteAck {
    WriteAck {
        serial: Serial(serial),
        commit_mark: Serial(commit_mark),
        level: Level::Disk,
        copies: 3,
    }
}

impl Chunk {
    fn seal(&mut self) {
        if self.is_open {
            self.version += 1;
            self.is_open = false;
        }
    }
}

impl State {
    /// The chunk that is meant, made if it isn't there.
    fn slot(&mut self, file_id: FileId, slot: Slot) -> ChunkHandle {
        let count = self.files.get(&file_id).map_or(0, Vec::len);
        let wanted = match slot {
            Slot::At(index) => index as usize,
            Slot::Last { .. } => count.saturating_sub(1),
        };
        while self.files.get(&file_id).map_or(0, Vec::len) <= wanted {
            self.add_chunk(file_id);
        }
        let last = *self.files[&file_id].last().unwrap();
        let is_full = self.chunks[&last].is_full;
        if let Slot::Last { after } = slot
            && after == last
            && is_full
        {
            self.chunks.get_mut(&last).unwrap().seal();
            return self.add_chunk(file_id);
        }
        self.files[&file_id][wanted]
    }

    fn add_chunk(&mut self, file_id: FileId) -> ChunkHandle {
        self.last_handle += 1;
        let handle = ChunkHandle(0x1000 + self.last_handle);
        let handles = self.files.entry(file_id).or_default();
        let chunk = Chunk {
            index: u32::try_from(handles.len()).unwrap(),
            ..Chunk::default()
        };
        handles.push(handle);
        self.chunks.insert(handle, chunk);
        handle
    }

    fn refuses(&mut self, open: &WriteOpen) -> Option<Status> {
        self.told.streams += 1;
        if let Some(&Trouble::RefuseStream(status)) = self.troubles.front() {
            self.troubles.pop_front();
            return Some(status);
        }
        let chunk = &self.chunks[&open.handle];
        let is_it = chunk.is_open && chunk.version == open.version.0;
        (!is_it).then_some(Status::Moved)
    }

    fn mutate(
        &mut self,
        handle: ChunkHandle,
        request: RequestId,
        at: Option<u32>,
        bytes: &[u8],
    ) -> Fate {
        self.told.mutations.push(request);
        let trouble = self.troubles.front().copied();
        if trouble.is_some_and(|it| !matches!(it, Trouble::RefuseStream(_))) {
            self.troubles.pop_front();
        }
        match trouble {
            Some(Trouble::Refuse(status)) => match at {
                Some(_) => Fate::Refused(status),
                None => Fate::Answered(refused(request, status)),
            },
            Some(Trouble::FallSilent) => Fate::Silent,
            Some(Trouble::LoseMutation) => Fate::Lost,
            Some(Trouble::LoseMutationAndSeal) => {
                self.chunks.get_mut(&handle).unwrap().seal();
                Fate::Lost
            }
            Some(Trouble::LoseAnswer) => {
                self.apply(handle, request, at, bytes);
                Fate::Lost
            }
            Some(Trouble::LoseAnswerAndSeal) => {
                self.apply(handle, request, at, bytes);
                self.chunks.get_mut(&handle).unwrap().seal();
                Fate::Lost
            }
            Some(Trouble::LoseAnswerAndCut) => {
                self.apply(handle, request, at, bytes);
                for handles in self.files.values_mut() {
                    handles.retain(|&it| it != handle);
                }
                Fate::Lost
            }
            Some(Trouble::RefuseStream(_)) | None => self.apply(handle, request, at, bytes),
        }
    }

    /// Does a mutation, or tells that it was done.
    fn apply(
        &mut self,
        handle: ChunkHandle,
        request: RequestId,
        at: Option<u32>,
        bytes: &[u8],
    ) -> Fate {
        let chunk = self.chunks.get_mut(&handle).unwrap();
        let id = (request.session.0, request.number);
        let end = u32::try_from(chunk.bytes.len()).unwrap();
        let row = Row {
            kind: match at {
                Some(_) => FoundKind::Write,
                None => FoundKind::Append,
            },
            offset: at.unwrap_or(end),
            length: u32::try_from(bytes.len()).unwrap(),
            crc32: crc32(bytes),
        };
        if let Some(done) = chunk.ids.get(&id) {
            let same = (done.kind, done.length, done.crc32) == (row.kind, row.length, row.crc32);
            return match same {
                true => Fate::Answered(result(request, done, chunk.serial)),
                false if at.is_some() => Fate::Refused(Status::InvalidArgument),
                false => Fate::Answered(refused(request, Status::InvalidArgument)),
            };
        }
        let to = row.offset as usize + bytes.len();
        if at.is_none() && (chunk.is_full || to > CHUNK_SIZE) {
            chunk.is_full = true;
            return Fate::Answered(refused(request, Status::ChunkFull));
        }
        chunk.bytes.resize(chunk.bytes.len().max(to), 0);
        chunk.bytes[row.offset as usize..to].copy_from_slice(bytes);
        chunk.serial += 1;
        chunk.ids.insert(id, row);
        Fate::Answered(result(request, &row, chunk.serial))
    }

    fn find(&mut self, asked: FindRequests) -> Result<RequestsFound, Status> {
        self.told.finds.push(asked.clone());
        let chunk = self.chunks.get(&asked.handle).ok_or(Status::ChunkUnknown)?;
        if chunk.is_open {
            return Err(Status::ChunkOpen);
        }
        if chunk.version != asked.version.0 {
            return Err(Status::Moved);
        }
        let found = asked.numbers.iter().filter_map(|&number| {
            let row = chunk.ids.get(&(asked.session.0, number))?;
            Some(FoundRequest {
                number,
                kind: row.kind,
                offset: row.offset,
                length: row.length,
            })
        });
        Ok(RequestsFound {
            found: found.collect(),
        })
    }
}

fn result(request: RequestId, row: &Row, serial: u64) -> AppendResult {
    AppendResult {
        number: request.number,
        status: 0,
        level: Level::Disk,
        copies: 3,
        offset: row.offset,
        length: row.length,
        serial: Serial(serial),
    }
}

fn refused(request: RequestId, status: Status) -> AppendResult {
    AppendResult {
        number: request.number,
        status: status as u16,
        level: Level::Disk,
        copies: 0,
        offset: 0,
        length: 0,
        serial: Serial::NONE,
    }
}
