//! A master that keeps files in memory and writes down what it was asked.
//!
//! Each file's chunks lie on every chunkserver of their chain, which it sees to itself: only the
//! first of a chain is written to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use sarsen_edge::connection::{Connection, Incoming};
use sarsen_protocol::crc::combine;
use sarsen_protocol::id::{
    ChunkHandle, ChunkVersion, Epoch, FileId, RequestId, ServerId, SessionId,
};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{
    AllocateChunks, Allocation, AnyMessage, ChunkState, ChunksAllocated, CreatePending, ErrorBody,
    FileMade, Hop, Kind, Locate, LocateReply, LocatedChunk, Node, NodeType, PendingAborted,
    PendingCreated, Publish, Published, Repairs, Replica, ReplicaReported, ReportReplica,
    ReportReply, Role, SealedChunk, ServerReport, ServerState, SessionClosed, SessionKept,
    SessionOpened, StatReply,
};
use sarsen_protocol::status::Status;
use sarsen_protocol::ticket::{Claims, Rights, Ticket};
use tokio::net::{TcpListener, TcpStream};

use crate::chunkserver::Chunkserver;
use crate::open_chunks::OpenChunks;
use crate::{CHUNK_SIZE, identity};

/// What the master does otherwise than it should, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slip {
    /// Answers a request of this kind with a status.
    Refuse(Kind, Status),
    /// Does a request of this kind, and loses the connection instead of answering.
    LoseAnswer(Kind),
    /// Does a request of this kind, and never answers it.
    KeepAnswer(Kind),
    /// Says that the first chunk located is none, as of a hole.
    ForgetChunk,
    /// Knows no replica of the first chunk located.
    HideReplicas,
}

/// In milliseconds: long enough for a busy machine, and short enough to be waited for.
const SUSPECT_AFTER: u32 = 2_000;

/// How long locations may be kept, in milliseconds.
const LEASE: u32 = 60_000;

type Answer = Result<AnyMessage, (Status, ErrorBody)>;

#[derive(Debug)]
pub(crate) struct Master {
    servers: Vec<Arc<Chunkserver>>,
    open: Arc<OpenChunks>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    slips: Vec<Slip>,
    /// What is refused whenever it is asked.
    always: Option<(Kind, Status)>,
    last_id: u64,
    /// Servers that hold no chunk from now on.
    down: Vec<ServerId>,
    files: HashMap<String, (Node, Vec<SealedChunk>)>,
    /// Milliseconds since each of the live servers was heard, as reports tell them.
    silences: Vec<u32>,
    /// Unless it is [`LEASE`].
    lease: Option<u32>,
    /// What sessions are told, unless it is [`CHUNK_SIZE`].
    chunk_size: Option<u32>,
    /// Answers by request id, as a real master keeps them.
    answers: HashMap<(SessionId, u64), AnyMessage>,
    asked: Asked,
}

/// What the master was asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// Of all requests, in their order.
    pub(crate) kinds: Vec<Kind>,
    pub(crate) sessions: usize,
    pub(crate) allocations: Vec<AllocateChunks>,
    pub(crate) publications: Vec<Publish>,
    /// Of the requests that were repeated.
    pub(crate) repeated: Vec<RequestId>,
    pub(crate) reports: Vec<ReportReplica>,
    pub(crate) aborted: usize,
}

impl Master {
    pub(crate) fn new(servers: &[Arc<Chunkserver>], open: Arc<OpenChunks>) -> Self {
        Self {
            servers: servers.to_vec(),
            open,
            state: Mutex::default(),
        }
    }

    /// Listens; the address.
    pub(crate) async fn listen(self: Arc<Self>, key: SecretKey) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(self.clone().serve(stream, key.clone()));
            }
        });
        address
    }

    pub(crate) fn slip(&self, slip: Slip) {
        self.state.lock().unwrap().slips.push(slip);
    }

    /// From now on every request of this kind is refused.
    pub(crate) fn always_refuse(&self, refused: Option<(Kind, Status)>) {
        self.state.lock().unwrap().always = refused;
    }

    /// A server is gone: no chain has it, and no location names it.
    pub(crate) fn lose(&self, server: u64) {
        self.state.lock().unwrap().down.push(ServerId(server));
    }

    /// It is back, with what it held.
    pub(crate) fn find(&self, server: u64) {
        let mut state = self.state.lock().unwrap();
        state.down.retain(|down| *down != ServerId(server));
    }

    /// A file's chunks have a newer version from now on.
    pub(crate) fn raise_versions(&self, path: &str) {
        let mut state = self.state.lock().unwrap();
        let (_, chunks) = state.files.get_mut(path).unwrap();
        for chunk in chunks {
            chunk.version.0 += 1;
        }
    }

    /// The live servers from now on: milliseconds since each was heard.
    pub(crate) fn set_silences(&self, silences: &[u32]) {
        self.state.lock().unwrap().silences = silences.to_vec();
    }

    /// How long locations may be kept, in milliseconds.
    pub(crate) fn set_lease(&self, lease: u32) {
        self.state.lock().unwrap().lease = Some(lease);
    }

    /// Of how many bytes a chunk is, by what sessions that are opened from now on are told.
    pub(crate) fn set_chunk_size(&self, chunk_size: u32) {
        self.state.lock().unwrap().chunk_size = Some(chunk_size);
    }

    pub(crate) fn asked(&self) -> Asked {
        self.state.lock().unwrap().asked.clone()
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, key: SecretKey) {
        // A client with another key is refused, and that is all.
        let identity = identity(Role::Master);
        if let Ok((connection, incoming)) = Connection::accept(stream, identity, &key).await {
            self.answer_all(&connection, incoming).await;
        }
    }

    async fn answer_all(&self, connection: &Connection, mut incoming: Incoming) {
        while let Some(request) = incoming.next().await {
            let kind = request.message.kind();
            self.state.lock().unwrap().asked.kinds.push(kind);
            let slip = self.take_slip(kind);
            if let Some(Slip::Refuse(_, status)) = slip {
                let refusal = Err((status, ErrorBody::new("as the script says")));
                connection.reply(request.id, kind, refusal);
                continue;
            }
            let mut answer = self.handle(request.message);
            if let (Some(Slip::HideReplicas), Ok(AnyMessage::LocateReply(reply))) =
                (slip, &mut answer)
            {
                reply.chunks[0].replicas.clear();
            }
            if let (Some(Slip::ForgetChunk), Ok(AnyMessage::LocateReply(reply))) =
                (slip, &mut answer)
            {
                reply.chunks.remove(0);
            }
            match slip {
                Some(Slip::LoseAnswer(_)) => connection.close(),
                Some(Slip::KeepAnswer(_)) => {}
                _ => connection.reply(request.id, kind, answer),
            }
        }
    }

    fn take_slip(&self, kind: Kind) -> Option<Slip> {
        let mut state = self.state.lock().unwrap();
        if let Some((refused, status)) = state.always.filter(|it| it.0 == kind) {
            return Some(Slip::Refuse(refused, status));
        }
        let is_due = |slip: &Slip| match slip {
            Slip::Refuse(due, _) | Slip::LoseAnswer(due) | Slip::KeepAnswer(due) => *due == kind,
            Slip::ForgetChunk | Slip::HideReplicas => kind == Kind::Locate,
        };
        let place = state.slips.iter().position(is_due)?;
        Some(state.slips.remove(place))
    }

    fn handle(&self, message: AnyMessage) -> Answer {
        let mut state = self.state.lock().unwrap();
        Ok(match message {
            AnyMessage::OpenSession(_) => {
                state.asked.sessions += 1;
                let chunk_size = u32::try_from(CHUNK_SIZE).unwrap();
                SessionOpened {
                    session: SessionId(state.draw()),
                    expiry: 60_000,
                    chunk_size: state.chunk_size.unwrap_or(chunk_size),
                    replicas: 3,
                    min_replicas: 2,
                    lease: LEASE,
                    suspect_after: SUSPECT_AFTER,
                }
                .into()
            }
            AnyMessage::KeepSession(_) => SessionKept.into(),
            AnyMessage::MakeFile(asked) => state.once(asked.request, |state| {
                let node = file_node(FileId(state.draw()), 0, 0, 0);
                state.files.insert(asked.path, (node, Vec::new()));
                FileMade { node }.into()
            }),
            AnyMessage::CloseSession(_) => SessionClosed.into(),
            AnyMessage::CreatePending(asked) => state.once(asked.request, |state| {
                let file_id = FileId(state.draw());
                let chunks = self.first_chunks(state, &asked, file_id);
                PendingCreated {
                    file_id,
                    chunk_size: u32::try_from(CHUNK_SIZE).unwrap(),
                    replicas: if asked.replicas == 0 {
                        3
                    } else {
                        asked.replicas
                    },
                    chunks,
                }
                .into()
            }),
            AnyMessage::AllocateChunks(asked) => {
                state.asked.allocations.push(asked.clone());
                self.allocate(&mut state, &asked)?.into()
            }
            AnyMessage::Publish(asked) => state.once(asked.request, |state| {
                state.asked.publications.push(asked.clone());
                self.publish(state, &asked).into()
            }),
            AnyMessage::AbortPending(asked) => state.once(asked.request, |state| {
                state.asked.aborted += 1;
                PendingAborted.into()
            }),
            AnyMessage::ReportReplica(report) => {
                state.asked.reports.push(report);
                ReplicaReported.into()
            }
            AnyMessage::Report(_) => state.report().into(),
            AnyMessage::Stat(asked) => {
                let file = state.files.get(&asked.path);
                let (node, _) = file.ok_or_else(not_found)?;
                StatReply { node: *node }.into()
            }
            AnyMessage::OpenChunk(asked) => {
                let chain = self.hops(&state);
                self.open.open(asked, chain).into()
            }
            AnyMessage::Locate(asked) => self.locate(&state, &asked)?.into(),
            // Enough for what the verbs say of a path that isn't there.
            _ => return Err(not_found()),
        })
    }

    fn first_chunks(
        &self,
        state: &mut State,
        asked: &CreatePending,
        file_id: FileId,
    ) -> Vec<Allocation> {
        let request = AllocateChunks {
            session: asked.request.session,
            file_id,
            first_index: 0,
            count: asked.count,
            fewest: 0,
            exclude: Vec::new(),
        };
        let given = self.allocate(state, &request);
        given.map_or_else(|_| Vec::new(), |given| given.chunks)
    }

    fn allocate(
        &self,
        state: &mut State,
        asked: &AllocateChunks,
    ) -> Result<ChunksAllocated, (Status, ErrorBody)> {
        let mut chain: Vec<Hop> = self.hops(state);
        chain.retain(|hop| !asked.exclude.contains(&hop.server));
        let wanted = if asked.fewest == 0 {
            3
        } else {
            usize::from(asked.fewest)
        };
        if chain.len() < wanted.min(self.servers.len()) {
            let error = ErrorBody::new("too few chunkservers are live");
            return Err((Status::TooFewServers, error));
        }
        let chunks = (0..u32::from(asked.count)).map(|place| {
            let handle = ChunkHandle(state.draw());
            // Chunk by chunk another server is the first.
            let mut chain = chain.clone();
            let index = asked.first_index + place;
            let turn = index as usize % chain.len();
            chain.rotate_left(turn);
            Allocation {
                index,
                handle,
                version: ChunkVersion(1),
                ticket: ticket(Rights::WRITE, handle),
                chain,
            }
        });
        Ok(ChunksAllocated {
            chunks: chunks.collect(),
        })
    }

    fn hops(&self, state: &State) -> Vec<Hop> {
        let hops = self.servers.iter().zip(1..).map(|(server, id)| Hop {
            server: ServerId(id),
            data_addr: server.address.clone(),
        });
        hops.filter(|hop| !state.down.contains(&hop.server))
            .collect()
    }

    fn publish(&self, state: &mut State, asked: &Publish) -> Published {
        let crc32 = asked.chunks.iter().fold(0, |crc, chunk| {
            combine(crc, chunk.crc32, chunk.length.into())
        });
        let chunks = u32::try_from(asked.chunks.len()).unwrap();
        let node = file_node(asked.file_id, asked.size, chunks, crc32);
        let file = (node, asked.chunks.clone());
        state.files.insert(asked.path.clone(), file);
        self.copy_to_members(&asked.chunks);
        Published { node }
    }

    /// What a chain would have done: the first server's bytes are on every member.
    fn copy_to_members(&self, chunks: &[SealedChunk]) {
        for chunk in chunks {
            let stored = self.servers.iter().find_map(|server| {
                let chunks = server.chunks.lock().unwrap();
                chunks.get(&chunk.handle).cloned()
            });
            let bytes = stored.expect("what is published was written");
            for id in &chunk.servers {
                let server = &self.servers[usize::try_from(id.0).unwrap() - 1];
                let mut chunks = server.chunks.lock().unwrap();
                chunks.insert(chunk.handle, bytes.clone());
            }
        }
    }

    fn locate(&self, state: &State, asked: &Locate) -> Result<LocateReply, (Status, ErrorBody)> {
        let by_id = |(_, (node, _)): &(&String, &(Node, _))| node.file_id == asked.file_id;
        let file = match asked.file_id {
            FileId::NONE => state.files.get(&asked.path),
            _ => state.files.iter().find(by_id).map(|(_, file)| file),
        };
        let (node, chunks) = file.ok_or_else(not_found)?;
        let wanted = asked.first_index..asked.first_index + asked.count;
        let hops = self.hops(state);
        let located = chunks.iter().filter(|it| wanted.contains(&it.index));
        let located = located.map(|chunk| located_chunk(chunk, &hops));
        let open = hops.first().map(|hop| self.open.located(node.file_id, hop));
        let open = open.into_iter().flatten();
        let open = open.filter(|it| wanted.contains(&it.index));
        Ok(LocateReply {
            node: *node,
            chunk_size: u32::try_from(CHUNK_SIZE).unwrap(),
            slots: node.chunks,
            suspect_after: SUSPECT_AFTER,
            lease: state.lease.unwrap_or(LEASE),
            chunks: located.chain(open).collect(),
        })
    }
}

impl State {
    fn report(&self) -> ReportReply {
        let servers = self.silences.iter().zip(1..).map(|(&silence, id)| {
            let address = || "127.0.0.1:1".to_owned();
            ServerReport {
                id: ServerId(id),
                control_addr: address(),
                data_addr: address(),
                http_addr: address(),
                rack: String::new(),
                state: ServerState::Live,
                last_heartbeat: silence,
                disks: Vec::new(),
            }
        });
        ReportReply {
            epoch: Epoch::NONE,
            safe_mode: false,
            read_only: false,
            servers: servers.collect(),
            repairs: Repairs::default(),
        }
    }

    fn draw(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Does a change, or gives the answer that it had.
    fn once(
        &mut self,
        request: RequestId,
        make: impl FnOnce(&mut Self) -> AnyMessage,
    ) -> AnyMessage {
        let id = (request.session, request.number);
        if let Some(answer) = self.answers.get(&id) {
            self.asked.repeated.push(request);
            return answer.clone();
        }
        let answer = make(self);
        self.answers.insert(id, answer.clone());
        answer
    }
}

fn located_chunk(chunk: &SealedChunk, hops: &[Hop]) -> LocatedChunk {
    let holders = hops
        .iter()
        .filter(|hop| chunk.servers.contains(&hop.server));
    LocatedChunk {
        index: chunk.index,
        handle: chunk.handle,
        version: chunk.version,
        length: chunk.length,
        crc32: chunk.crc32,
        state: ChunkState::Sealed,
        primary: ServerId::NONE,
        ticket: ticket(Rights::READ, chunk.handle),
        replicas: holders
            .map(|hop| Replica {
                server: hop.server,
                control_addr: String::new(),
                data_addr: hop.data_addr.clone(),
            })
            .collect(),
    }
}

/// A ticket to read a chunk.
pub(crate) fn readable(handle: ChunkHandle) -> Ticket {
    ticket(Rights::READ, handle)
}

pub(crate) fn ticket(rights: Rights, handle: ChunkHandle) -> Ticket {
    let claims = Claims {
        rights,
        key_id: 1,
        handle,
        version: ChunkVersion(1),
        expiry: u64::MAX,
        file_id: FileId(1),
        session: SessionId::NONE,
        epoch: 1,
        chain_crc: 0,
    };
    Ticket::sign(claims, &SecretKey::new([1; 32]))
}

fn file_node(file_id: FileId, size: u64, chunks: u32, crc32: u32) -> Node {
    Node {
        file_id,
        node_type: NodeType::File,
        size,
        mtime: 0,
        replicas: 3,
        chunks,
        sealed: true,
        crc32,
    }
}

pub(crate) fn not_found() -> (Status, ErrorBody) {
    (Status::NotFound, ErrorBody::new("no such path"))
}
