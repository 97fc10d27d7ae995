//! The machine driven as an edge would, with a log that is flushed when the test says so.

mod chunkservers;
mod crashes;
mod fsck;
mod lost_log;
mod open_chunks;
mod repair;
mod requests;
mod upkeep;
mod uploads;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, RequestId, Serial, StartNonce, StartNumber};
use sarsen_protocol::message::*;

use super::*;
use crate::core::scripted::{MIB, crc_of, genesis};

const CLIENT: ConnectionId = ConnectionId(1000);

/// A machine, its clocks, and what it appended.
struct Rig {
    machine: Machine,
    now: Now,
    log: Vec<Entry>,
    requests: u64,
    session: SessionId,
    numbers: u64,
}

fn config() -> Config {
    Config {
        replicas: 2,
        ..Config::default()
    }
}

impl Rig {
    /// A machine on an empty log, just constructed.
    fn unstarted(config: Config) -> Self {
        Self::on_log(config, Vec::new())
    }

    /// A machine on what a log gives when it is replayed.
    fn on_log(config: Config, log: Vec<Entry>) -> Self {
        let mut state = State::default();
        for entry in &log {
            apply(&mut state, entry);
        }
        let elapsed = Duration::ZERO;
        let now = Now {
            elapsed,
            unix_ms: state.time_ms + 1_000_000,
        };
        let start = Startup {
            genesis: genesis(),
            incarnation: 7,
            seed: 1,
            checkpoint_index: 0,
        };
        let machine = Machine::new(config, state, start, now);
        Self {
            machine,
            now,
            log,
            requests: 0,
            session: SessionId::NONE,
            numbers: 0,
        }
    }

    /// A new cluster that serves, with a client's session.
    fn new() -> Self {
        Self::with(config())
    }

    fn with(config: Config) -> Self {
        let mut rig = Self::unstarted(config);
        rig.settle();
        rig.open_session();
        rig
    }

    /// The same cluster after its master was killed and started again.
    fn restarted(&self, config: Config) -> Self {
        let mut rig = Self::on_log(config, self.log.clone());
        rig.machine.handle_connected(CLIENT, Role::Client);
        (rig.session, rig.numbers) = (self.session, self.numbers);
        rig.settle();
        rig
    }

    fn open_session(&mut self) {
        self.machine.handle_connected(CLIENT, Role::Client);
        let opened = self.ask(OpenSession {
            nonce: [3; 16],
            name: "test".to_owned(),
        });
        let Ok(AnyMessage::SessionOpened(opened)) = opened else {
            panic!("{opened:?}")
        };
        self.session = opened.session;
    }

    /// The actions since the last look; entries go to the log.
    fn actions(&mut self) -> Vec<Action> {
        let actions: Vec<Action> = std::iter::from_fn(|| self.machine.poll_action()).collect();
        for action in &actions {
            if let Action::Append(entry) = action {
                assert_eq!(entry.index, self.log.len() as u64 + 1);
                assert_eq!(entry.command.check(), Ok(()), "a start must read the log");
                self.log.push(entry.clone());
            }
        }
        actions
    }

    /// Flushes what was appended, and what that makes appended, until there is nothing; gives all
    /// actions but the appends.
    fn settle(&mut self) -> Vec<Action> {
        let mut all = Vec::new();
        loop {
            let actions = self.actions();
            let is_done = actions.is_empty() && self.machine.state.index == self.log.len() as u64;
            all.extend(
                actions
                    .into_iter()
                    .filter(|one| !matches!(one, Action::Append(_))),
            );
            if is_done {
                return all;
            }
            self.machine.handle_flushed(self.log.len() as u64, self.now);
        }
    }

    fn send(&mut self, connection: ConnectionId, message: impl Into<AnyMessage>) -> Token {
        self.requests += 1;
        let to = Token {
            connection,
            request: self.requests,
        };
        self.machine.handle_request(to, message.into(), self.now);
        to
    }

    /// Asks over a connection and settles: the reply, and everything else that was done.
    fn exchange(
        &mut self,
        connection: ConnectionId,
        message: impl Into<AnyMessage>,
    ) -> (Result<AnyMessage, Failure>, Vec<Action>) {
        let token = self.send(connection, message);
        let mut actions = self.settle();
        let is_reply = |one: &Action| matches!(one, Action::Reply { to, .. } if *to == token);
        let at = actions
            .iter()
            .position(is_reply)
            .expect("every request is answered");
        let Action::Reply { reply, .. } = actions.remove(at) else {
            unreachable!()
        };
        (reply, actions)
    }

    fn ask(&mut self, message: impl Into<AnyMessage>) -> Result<AnyMessage, Failure> {
        let (reply, others) = self.exchange(CLIENT, message);
        assert_eq!(others, []);
        reply
    }

    /// Asks for what must be granted.
    fn get<R: sarsen_protocol::message::Request + Into<AnyMessage>>(
        &mut self,
        request: R,
    ) -> R::Reply {
        let reply = self.ask(request).unwrap();
        R::Reply::from_body(&reply.to_body()).unwrap()
    }

    fn status(&mut self, message: impl Into<AnyMessage>) -> Status {
        self.ask(message)
            .map_or_else(|failure| failure.status, |_| Status::Ok)
    }

    /// A fresh request id; everything before it has been answered.
    fn request(&mut self) -> RequestId {
        self.numbers += 1;
        self.request_id(self.numbers)
    }

    fn request_id(&self, number: u64) -> RequestId {
        RequestId {
            session: self.session,
            number,
            lowest_outstanding: number,
        }
    }

    fn make_folder(&mut self, path: &str) -> MakeFolder {
        MakeFolder {
            request: self.request(),
            path: path.to_owned(),
            parents: false,
        }
    }

    fn remove(&mut self, path: &str, purge: bool) -> Remove {
        let request = self.request();
        Remove {
            request,
            path: path.to_owned(),
            recursive: true,
            purge,
        }
    }

    fn wait(&mut self, time: Duration) -> Vec<Action> {
        self.now.elapsed += time;
        self.now.unix_ms += u64::try_from(time.as_millis()).unwrap();
        self.machine.handle_timeout(self.now);
        self.settle()
    }

    /// Registers server `n` over connection `n`, with directory `n`, and reports it empty.
    fn server(&mut self, n: u8) -> ConnectionId {
        let connection = self.registered(n);
        self.hold(n, 1, &[]);
        connection
    }

    fn servers(&mut self, count: u8) {
        (1..=count).for_each(|n| {
            self.server(n);
        });
    }

    fn registered(&mut self, n: u8) -> ConnectionId {
        let connection = ConnectionId(u64::from(n));
        self.machine.handle_connected(connection, Role::Chunkserver);
        let (reply, _) = self.exchange(connection, register(n));
        let Ok(AnyMessage::Registered(reply)) = reply else {
            panic!("{reply:?}")
        };
        assert_eq!(reply.server_id, ServerId(u64::from(n)));
        connection
    }

    /// Server `n` reports in full what it holds.
    fn hold(&mut self, n: u8, sequence: u64, held: &[HeldChunk]) -> Vec<Action> {
        let (reply, others) =
            self.exchange(ConnectionId(u64::from(n)), inventory(n, sequence, held));
        assert_eq!(reply, Ok(InventoryTaken { resend: false }.into()));
        others
    }

    fn beat(&mut self, n: u8) {
        let (reply, _) = self.exchange(ConnectionId(u64::from(n)), heartbeat(n));
        assert!(
            matches!(reply, Ok(AnyMessage::HeartbeatReply(_))),
            "{reply:?}"
        );
    }

    /// Begins an upload of a file that wants `replicas` copies.
    fn begin(&mut self, path: &str, replicas: u8) -> FileId {
        let create = CreatePending {
            replicas,
            ..create(self.request(), path)
        };
        self.get(create).file_id
    }

    /// Begins an upload below folders that are missing.
    fn begin_below(&mut self, path: &str, replicas: u8) -> FileId {
        let create = CreatePending {
            replicas,
            parents: true,
            ..create(self.request(), path)
        };
        self.get(create).file_id
    }

    fn allocate(&mut self, file: FileId, count: u16) -> Vec<Allocation> {
        self.get(allocate_chunks(self.session, file, count)).chunks
    }

    /// Uploads a file of one chunk of ten bytes; what its servers hold then.
    fn upload(&mut self, path: &str, replicas: u8) -> (FileId, HeldChunk) {
        let file = self.begin(path, replicas);
        let allocation = self.allocate(file, 1).remove(0);
        let publish = publish(self.request(), file, path, &[&allocation]);
        assert_eq!(self.get(publish).node.file_id, file);
        (file, held(file, &allocation))
    }
}

fn disk(n: u8) -> Disk {
    Disk {
        directory_id: DirectoryId([n; 16]),
        path: format!("/disk{n}"),
        total: 1000 * u64::from(MIB),
        free: 900 * u64::from(MIB),
        chunks: 0,
        state: DiskState::Ok,
    }
}

/// The first registration of server `n`, which does not know its id.
fn register(n: u8) -> Register {
    Register {
        server_id: ServerId::NONE,
        control_addr: format!("127.0.0.1:{n}0"),
        data_addr: format!("127.0.0.1:{n}1"),
        http_addr: format!("127.0.0.1:{n}2"),
        rack: String::new(),
        epoch: Epoch::NONE,
        directories: vec![DirectoryReport {
            directory_id: DirectoryId([n; 16]),
            start_number: StartNumber(1),
            start_nonce: StartNonce(u64::from(n)),
            disk: disk(n),
            highest_handle: ChunkHandle::NONE,
            highest_version: ChunkVersion::NONE,
            registered_number: StartNumber::default(),
            registered_nonce: StartNonce::default(),
            offered: vec![StartNonce(u64::from(n))],
        }],
    }
}

fn heartbeat(n: u8) -> Heartbeat {
    Heartbeat {
        server_id: ServerId(u64::from(n)),
        sequence: 1,
        disks: vec![DiskBeat {
            disk: disk(n),
            beat_age: 0,
        }],
        corrupt: Vec::new(),
        heat: Vec::new(),
        load: 0,
    }
}

fn inventory(n: u8, sequence: u64, held: &[HeldChunk]) -> Inventory {
    Inventory {
        directory_id: DirectoryId([n; 16]),
        sequence,
        full: true,
        first: true,
        last: true,
        held: held.to_vec(),
        gone: Vec::new(),
    }
}

fn create(request: RequestId, path: &str) -> CreatePending {
    CreatePending {
        request,
        path: path.to_owned(),
        replicas: 0,
        level: Level::Disk,
        force: false,
        parents: false,
        count: 0,
    }
}

fn allocate_chunks(session: SessionId, file_id: FileId, count: u16) -> AllocateChunks {
    AllocateChunks {
        session,
        file_id,
        first_index: 0,
        count,
        fewest: 0,
        exclude: Vec::new(),
    }
}

/// Publishes chunks of which all but the last are whole, and the last has ten bytes.
fn publish(request: RequestId, file: FileId, path: &str, chunks: &[&Allocation]) -> Publish {
    let last = chunks.len().saturating_sub(1);
    let chunks: Vec<SealedChunk> = chunks
        .iter()
        .enumerate()
        .map(|(at, chunk)| SealedChunk {
            index: chunk.index,
            handle: chunk.handle,
            version: chunk.version,
            length: if at == last { 10 } else { MIB },
            crc32: crc_of(chunk.handle.0),
            servers: chunk.chain.iter().map(|hop| hop.server).collect(),
        })
        .collect();
    Publish {
        request,
        file_id: file,
        path: path.to_owned(),
        force: false,
        purge: false,
        parents: false,
        size: chunks.iter().map(|chunk| u64::from(chunk.length)).sum(),
        chunks,
    }
}

/// The sealed replica of an allocation's last chunk.
fn held(file_id: FileId, allocation: &Allocation) -> HeldChunk {
    HeldChunk {
        handle: allocation.handle,
        version: allocation.version,
        serial: Serial(1),
        length: 10,
        crc32: crc_of(allocation.handle.0),
        state: ChunkState::Sealed,
        flags: HeldFlags::NONE,
        file_id,
        index: allocation.index,
    }
}

fn stat(path: &str) -> Stat {
    Stat {
        path: path.to_owned(),
    }
}

fn fsck() -> Fsck {
    Fsck {
        path: "/".to_owned(),
        after: ChunkHandle::NONE,
        limit: 100,
    }
}

fn locate(path: &str) -> Locate {
    Locate {
        path: path.to_owned(),
        file_id: FileId::NONE,
        first_index: 0,
        count: 10,
    }
}

/// A path as long as they may be.
fn long_path() -> String {
    let folder = format!("/{}", "n".repeat(255));
    folder.repeat(16)
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
