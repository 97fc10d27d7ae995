//! Three data planes in this process, with directories of their own and tickets signed here.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sarsen_chunkd::core::tickets::TicketKeys;
use sarsen_chunkd::io::{Choice, Mode};
use sarsen_chunkd::net::{Chunkserver, DataPlane, Notice, PlaneConfig};
use sarsen_chunkd::store::{Adoption, Directory, Start, StoreError};
use sarsen_protocol::id::{
    ChunkHandle, ChunkVersion, ClusterId, DirectoryId, FileId, ServerId, SessionId, StartNonce,
};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{Hop, TicketKey};
use sarsen_protocol::ticket::{Claims, Rights, Ticket, chain_crc};
use tempfile::TempDir;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::peer::PATIENCE;

pub(crate) const CLUSTER: ClusterId = ClusterId([7; 16]);
pub(crate) const VERSION: ChunkVersion = ChunkVersion(3);
pub(crate) const FILE: FileId = FileId(11);
pub(crate) const CHUNK_SIZE: u32 = 8 * 1024 * 1024;

const TICKET_KEY: TicketKey = TicketKey {
    key_id: 1,
    key: [5; 32],
};

/// The ways to move bytes that this system allows; each test runs on all of them.
pub(crate) fn modes() -> Vec<Mode> {
    match Choice::Uring.probe() {
        Ok(_) => vec![Mode::Epoll, Mode::Uring],
        Err(error) => {
            eprintln!("WARNING: io_uring is forbidden here ({error}): tested with epoll ONLY");
            vec![Mode::Epoll]
        }
    }
}

/// The key that every hello proves.
pub(crate) fn key() -> SecretKey {
    SecretKey::new([9; 32])
}

/// One chunkserver without a master.
pub(crate) struct Server {
    pub(crate) id: ServerId,
    pub(crate) chunkserver: Arc<Chunkserver>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) notices: UnboundedReceiver<Notice>,
    address: SocketAddr,
    plane: Option<DataPlane>,
    folder: TempDir,
}

impl Server {
    fn start(mode: Mode, number: u64, suspect_after: Duration) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self::start_in(folder, mode, number, number, suspect_after)
    }

    /// Ends it and starts it again on what it has on its disk.
    pub(crate) fn restart(self, mode: Mode, suspect_after: Duration) -> Self {
        let Self {
            id,
            chunkserver,
            directory,
            notices,
            plane,
            folder,
            ..
        } = self;
        drop((plane, notices, chunkserver, directory));
        Self::start_in(folder, mode, id.0, id.0 + 100, suspect_after)
    }

    fn start_in(
        folder: TempDir,
        mode: Mode,
        number: u64,
        nonce: u64,
        suspect_after: Duration,
    ) -> Self {
        let start = Start {
            nonce: StartNonce(nonce),
            new_directory_id: DirectoryId([number as u8; 16]),
            scan_threads: 1,
            open_chunks_max: 16,
        };
        let directory = open_when_free(&folder.path().join("d"), &start);
        let id = ServerId(number);
        let adoption = Adoption {
            cluster_id: CLUSTER,
            server_id: id,
            chunk_size: CHUNK_SIZE,
        };
        directory.adopt(adoption).expect("adopts");
        let directory = Arc::new(directory);
        let (chunkserver, notices) = Chunkserver::new(key(), vec![Arc::clone(&directory)]);
        let served = [directory.identity().directory_id];
        chunkserver.register(TicketKeys::new(&[TICKET_KEY]), &served, suspect_after);
        let chunkserver = Arc::new(chunkserver);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let config = PlaneConfig {
            mode,
            threads: 1,
            buffers: 24,
        };
        let plane = DataPlane::start(config, listener, &chunkserver).expect("starts");
        Self {
            id,
            chunkserver,
            directory,
            notices,
            address: plane.address(),
            plane: Some(plane),
            folder,
        }
    }

    /// Ends its data plane at once, as a crash would: no word to anybody.
    pub(crate) fn kill(&mut self) {
        self.plane = None;
    }

    /// The next notice, which must come.
    pub(crate) fn notice(&mut self) -> Notice {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.notices.try_recv() {
                Ok(notice) => return notice,
                Err(_) => assert!(Instant::now() < deadline, "no notice came"),
            }
            std::thread::yield_now();
        }
    }

    /// The file of a chunk.
    pub(crate) fn path_of(&self, handle: ChunkHandle) -> std::path::PathBuf {
        let name = handle.to_string();
        let folder = &name[14..];
        self.directory
            .root()
            .join("chunks")
            .join(folder)
            .join(format!("{name}.chunk"))
    }
}

/// Opens a directory that threads of an earlier start may be about to let go of.
fn open_when_free(path: &std::path::Path, start: &Start) -> Directory {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Directory::open(path, start) {
            Ok(directory) => return directory,
            Err(StoreError::InUse { .. }) if Instant::now() < deadline => std::thread::yield_now(),
            Err(error) => panic!("the directory does not open: {error}"),
        }
    }
}

/// Servers 1, 2, 3, ….
pub(crate) struct Cluster {
    pub(crate) servers: Vec<Server>,
}

impl Cluster {
    pub(crate) fn start(mode: Mode, servers: u64) -> Self {
        // No test that is about something else is to meet it, however busy the machine is.
        Self::start_with(mode, servers, PATIENCE)
    }

    pub(crate) fn start_with(mode: Mode, servers: u64, suspect_after: Duration) -> Self {
        let servers = (1..=servers).map(|number| Server::start(mode, number, suspect_after));
        Self {
            servers: servers.collect(),
        }
    }

    /// All servers, in order, as the members of a chain.
    pub(crate) fn chain(&self) -> Vec<Hop> {
        let hop = |server: &Server| Hop {
            server: server.id,
            data_addr: server.address.to_string(),
        };
        self.servers.iter().map(hop).collect()
    }

    /// Tells a server's data plane to end, with more time than any test needs.
    pub(crate) fn drain(&mut self, index: usize) -> JoinHandle<()> {
        self.drain_within(index, PATIENCE)
    }

    /// Tells a server's data plane to end.
    pub(crate) fn drain_within(&mut self, index: usize, grace: Duration) -> JoinHandle<()> {
        let plane = self.servers[index].plane.take().expect("it runs");
        std::thread::spawn(move || plane.drain(grace))
    }

    pub(crate) fn address(&self, index: usize) -> SocketAddr {
        self.servers[index].address
    }
}

/// A ticket for one chunk, good for an hour.
pub(crate) fn ticket(rights: Rights, handle: ChunkHandle, chain: &[Hop]) -> Ticket {
    let hour = 3_600_000;
    let expiry = sarsen_chunkd::net::chunkserver::wall_clock() + hour;
    ticket_until(rights, handle, chain, expiry)
}

/// A ticket that expires at a time.
pub(crate) fn ticket_until(
    rights: Rights,
    handle: ChunkHandle,
    chain: &[Hop],
    expiry: u64,
) -> Ticket {
    ticket_of(rights, (handle, VERSION), chain, expiry)
}

/// A ticket for one version of a chunk.
pub(crate) fn ticket_of(
    rights: Rights,
    (handle, version): (ChunkHandle, ChunkVersion),
    chain: &[Hop],
    expiry: u64,
) -> Ticket {
    let claims = Claims {
        rights,
        key_id: TICKET_KEY.key_id,
        handle,
        version,
        expiry,
        file_id: FILE,
        session: SessionId(1),
        epoch: 1,
        chain_crc: chain_crc(chain),
    };
    Ticket::sign(claims, &SecretKey::new(TICKET_KEY.key))
}
