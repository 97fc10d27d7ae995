//! A scripted master: it takes one registration at a time and says what a test tells it to.

use std::path::PathBuf;
use std::time::Duration;

use sarsen_edge::connection::{CallError, ConnectError, Connection, Incoming, Request};
use sarsen_edge::key;
use sarsen_protocol::handshake::Identity;
use sarsen_protocol::id::{ChunkHandle, ClusterId, DirectoryId, Epoch, ServerId};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{
    self, AnyMessage, ErrorBody, Heartbeat, HeartbeatReply, HeldChunk, InventoryTaken, Register,
    Registered, Role, Start, TicketKey, Verdict,
};
use sarsen_protocol::status::Status;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::time::timeout;

pub(crate) const CLUSTER: ClusterId = ClusterId([7; 16]);
pub(crate) const SERVER: ServerId = ServerId(42);
pub(crate) const EPOCH: Epoch = Epoch {
    number: 5,
    incarnation: 50,
};
pub(crate) const TICKET_KEY: TicketKey = TicketKey {
    key_id: 1,
    key: [5; 32],
};

/// What a test waits for longer than this will not come.
const PATIENCE: Duration = Duration::from_secs(30);

/// A master with one chunkserver.
pub(crate) struct Master {
    pub(crate) runtime: Runtime,
    pub(crate) key: SecretKey,
    folder: TempDir,
    listener: TcpListener,
    connection: Option<(Connection, Incoming)>,
    /// What the inventories told: the chunks that are held, after all changes.
    pub(crate) held: Vec<HeldChunk>,
    /// The last heartbeat.
    pub(crate) heartbeat: Option<Heartbeat>,
    full_report_ended: bool,
}

impl Master {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.expect("a runtime");
        let folder = tempfile::tempdir().expect("a folder");
        let key = key::generate(&folder.path().join("key")).expect("a key");
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("a port");
        Self {
            runtime,
            key,
            folder,
            listener,
            connection: None,
            held: Vec::new(),
            heartbeat: None,
            full_report_ended: false,
        }
    }

    pub(crate) fn address(&self) -> String {
        self.listener.local_addr().expect("bound").to_string()
    }

    pub(crate) fn key_file(&self) -> PathBuf {
        self.folder.path().join("key")
    }

    /// A folder for a chunkserver.
    pub(crate) fn dir(&self) -> PathBuf {
        self.folder.path().join("d")
    }

    /// Waits for a chunkserver and its registration, which is not answered yet.
    pub(crate) fn expect_register(&mut self) -> (u64, Register) {
        let connection = self.accept().expect("a good hello");
        self.connection = Some(connection);
        (self.held, self.heartbeat, self.full_report_ended) = (Vec::new(), None, false);
        let request = self.next();
        match request.message {
            AnyMessage::Register(register) => (request.id, register),
            other => panic!("not a registration: {other:?}"),
        }
    }

    /// Waits for a chunkserver whose hello fails.
    pub(crate) fn refuse_hello(&mut self) {
        assert!(self.accept().is_err());
    }

    fn accept(&mut self) -> Result<(Connection, Incoming), ConnectError> {
        let identity = Identity {
            role: Role::Master,
            cluster_id: CLUSTER,
            start: Start::default(),
        };
        let (stream, _) = wait(&self.runtime, self.listener.accept()).expect("dialled");
        self.runtime
            .block_on(Connection::accept(stream, identity, &self.key))
    }

    /// Answers a registration.
    pub(crate) fn welcome(&self, id: u64, register: &Register, epoch: Epoch, status: Status) {
        let verdict = |directory_id: DirectoryId| Verdict {
            directory_id,
            status: status.number(),
        };
        let registered = Registered {
            server_id: SERVER,
            epoch,
            chunk_size: 1 << 20,
            heartbeat: 50,
            suspect_after: 1000,
            dead_after: 3000,
            lease: 60_000,
            ticket_keys: vec![TICKET_KEY],
            directories: register
                .directories
                .iter()
                .map(|it| verdict(it.directory_id))
                .collect(),
            repair_streams: 4,
        };
        self.reply(id, message::Kind::Register, Ok(registered.into()));
    }

    /// Takes a chunkserver in, and its full report.
    pub(crate) fn register(&mut self) -> Register {
        let (id, register) = self.expect_register();
        self.welcome(id, &register, EPOCH, Status::Ok);
        self.until(|master| master.full_report_ended.then_some(()));
        register
    }

    /// Serves heartbeats and inventories until `found` finds something.
    pub(crate) fn until<T>(&mut self, mut found: impl FnMut(&Self) -> Option<T>) -> T {
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            let request = self.next();
            self.serve(request);
        }
    }

    /// Orders or asks something, and serves until the answer is here.
    pub(crate) fn call<R: message::Request>(&mut self, request: &R) -> Result<R::Reply, Status> {
        let (connection, _) = self.connection.as_ref().expect("registered");
        let connection = connection.clone();
        let mut asking = Box::pin(async move { connection.call(request).await });
        loop {
            let (_, incoming) = self.connection.as_mut().expect("registered");
            let next = wait(&self.runtime, async {
                tokio::select! {
                    answer = &mut asking => Ok(answer),
                    request = incoming.next() => Err(request.expect("stays connected")),
                }
            });
            match next {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(CallError::Status { status, .. })) => return Err(status),
                Ok(Err(error)) => panic!("{error}"),
                Err(request) => self.serve(request),
            }
        }
    }

    /// Orders something and does not wait for the answer. It goes out while something else is
    /// waited for.
    pub(crate) fn send<R: message::Request + Clone + Send + Sync + 'static>(
        &mut self,
        request: &R,
    ) {
        let (connection, _) = self.connection.as_ref().expect("registered");
        let (connection, request) = (connection.clone(), request.clone());
        self.runtime.spawn(async move {
            // The connection may be gone before there is an answer.
            let _ = connection.call(&request).await;
        });
    }

    /// What the inventories told of a chunk.
    pub(crate) fn held(&self, handle: ChunkHandle) -> Option<HeldChunk> {
        self.held
            .iter()
            .find(|chunk| chunk.handle == handle)
            .copied()
    }

    /// Closes the connection.
    pub(crate) fn hang_up(&mut self) {
        if let Some((connection, _)) = self.connection.take() {
            connection.close();
        }
    }

    /// Waits until the chunkserver has closed its connection.
    pub(crate) fn expect_closed(&mut self) {
        let (_, mut incoming) = self.connection.take().expect("registered");
        let closed = async { while incoming.next().await.is_some() {} };
        wait(&self.runtime, closed);
    }

    fn next(&mut self) -> Request {
        let (_, incoming) = self.connection.as_mut().expect("connected");
        wait(&self.runtime, incoming.next()).expect("stays connected")
    }

    fn serve(&mut self, request: Request) {
        let kind = request.message.kind();
        match request.message {
            AnyMessage::Heartbeat(heartbeat) => {
                let last = self.heartbeat.as_ref().map_or(0, |last| last.sequence);
                assert_eq!(heartbeat.sequence, last + 1, "counted without gaps");
                self.heartbeat = Some(heartbeat);
                self.reply(request.id, kind, Ok(HeartbeatReply { epoch: EPOCH }.into()));
            }
            AnyMessage::Inventory(inventory) => {
                let replaces =
                    |old: &HeldChunk| inventory.held.iter().any(|new| new.handle == old.handle);
                self.held
                    .retain(|old| !replaces(old) && !inventory.gone.contains(&old.handle));
                self.held.extend(&inventory.held);
                self.full_report_ended |= inventory.full && inventory.last;
                self.reply(
                    request.id,
                    kind,
                    Ok(InventoryTaken { resend: false }.into()),
                );
            }
            other => panic!("a master does not expect {other:?}"),
        }
    }

    fn reply(
        &self,
        id: u64,
        asked: message::Kind,
        answer: Result<AnyMessage, (Status, ErrorBody)>,
    ) {
        let (connection, _) = self.connection.as_ref().expect("connected");
        connection.reply(id, asked, answer);
    }
}

fn wait<F: Future>(runtime: &Runtime, future: F) -> F::Output {
    let waited = runtime.block_on(async { timeout(PATIENCE, future).await });
    waited.expect("what is waited for comes in time")
}
