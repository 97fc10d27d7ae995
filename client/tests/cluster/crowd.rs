//! Peers that come in a crowd and behave badly, each for as long as the crowd is there: one whose
//! connection was closed comes again.

use std::future::Future;
use std::io;
use std::time::Duration;

use sarsen_edge::connection::Connection;
use sarsen_edge::hello::dial_data;
use sarsen_edge::random;
use sarsen_protocol::deframe::frame;
use sarsen_protocol::handshake::{Dialer, Identity};
use sarsen_protocol::header::Header;
use sarsen_protocol::id::{ClusterId, FileId, RequestId, Serial, SessionId, StartNonce};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{
    AllocateChunks, Allocation, Crcs, CreatePending, Kind, Level, Locate, LocatedChunk,
    Message as _, OpenSession, Plane, Read, Role, Start, Want, WriteData, WriteOpen,
};
use sarsen_protocol::size::READS_UNANSWERED_MAX;
use sarsen_protocol::status::Status;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::harness::Cluster;

const PATIENCE: Duration = Duration::from_secs(30);

/// The pace of those that send a byte at a time: never silent, and never done.
const BYTE_PERIOD: Duration = Duration::from_secs(1);

/// The pace at which one that was closed or refused comes again: these are no storm.
const RETURN_PERIOD: Duration = Duration::from_secs(1);

/// How many of each kind there are for each chunkserver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Half of them without a hello.
    pub(crate) idle: usize,
    pub(crate) never_reading: usize,
    /// A third each in the hello, in a header, in a payload.
    pub(crate) byte_a_second: usize,
}

/// What it takes to get in.
#[derive(Clone)]
pub(crate) struct Pass {
    key: SecretKey,
    identity: Identity,
}

impl Pass {
    /// Of a client that tells this number of its own.
    pub(crate) fn of(cluster: &Cluster, nonce: u64) -> Self {
        let key = sarsen_edge::key::load(&cluster.path("master/cluster.key")).expect("the key");
        let identity = Identity {
            role: Role::Client,
            cluster_id: ClusterId::NONE,
            start: Start {
                start_nonce: StartNonce(nonce),
                ..Start::default()
            },
        };
        Self { key, identity }
    }

    pub(crate) async fn dial(&self, addr: &str) -> io::Result<TcpStream> {
        let dialled = dial_data(addr, self.identity, &self.key, PATIENCE).await;
        dialled.map(|it| it.0).map_err(io::Error::other)
    }
}

/// A crowd on a thread of its own; gone when it is dropped.
pub(crate) struct Crowd {
    _peers: JoinSet<()>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Crowd {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Crowd {
    /// Gathers a crowd at every port of the cluster's servers; `path` is a file there.
    pub(crate) fn gather(cluster: &Cluster, sizes: Sizes, path: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let pass = Pass::of(cluster, 0);
        let mut peers = JoinSet::new();
        let _inside = runtime.enter();
        let servers: Vec<_> = cluster.chunkservers.iter().flatten().collect();
        let third = sizes.byte_a_second / 3;
        let streams = servers.len() * (sizes.byte_a_second - 2 * third);
        let (chunk, allocations) = runtime.block_on(prepare(cluster, &pass, path, streams));
        for server in &servers {
            let data = server.data.clone().expect("a data port");
            for number in 0..sizes.idle {
                let (pass, data) = (pass.clone(), data.clone());
                let with_hello = number % 2 == 0;
                peers.spawn(again(move || idle(pass.clone(), data.clone(), with_hello)));
            }
            for _ in 0..sizes.never_reading {
                let (pass, data, chunk) = (pass.clone(), data.clone(), chunk.clone());
                peers.spawn(again(move || {
                    never_reading(pass.clone(), data.clone(), chunk.clone())
                }));
            }
            for _ in 0..third {
                let (hello_to, header_to) = (data.clone(), data.clone());
                let (hello_pass, header_pass) = (pass.clone(), pass.clone());
                peers.spawn(again(move || {
                    slow_hello(hello_pass.clone(), hello_to.clone())
                }));
                peers.spawn(again(move || {
                    slow_header(header_pass.clone(), header_to.clone())
                }));
            }
            // The other ports, of which none may give out for want of place.
            for addr in [&server.control, &server.http] {
                for _ in 0..sizes.idle / 10 {
                    let (pass, addr) = (pass.clone(), addr.clone());
                    peers.spawn(again(move || idle(pass.clone(), addr.clone(), false)));
                }
            }
        }
        let master = cluster.master.as_ref().expect("a master");
        for addr in [&master.control, &master.http] {
            for _ in 0..sizes.idle {
                let (pass, addr) = (pass.clone(), addr.clone());
                peers.spawn(again(move || idle(pass.clone(), addr.clone(), false)));
            }
        }
        for allocation in allocations {
            let pass = pass.clone();
            peers.spawn(again(move || {
                slow_payload(pass.clone(), allocation.clone())
            }));
        }
        drop(_inside);
        Self {
            _peers: peers,
            runtime: Some(runtime),
        }
    }
}

/// Does it, and once it is over does it again.
async fn again<F: Future<Output = io::Result<()>>>(act: impl Fn() -> F) {
    loop {
        // Refused, or closed.
        let _ = act().await;
        sleep(RETURN_PERIOD).await;
    }
}

/// A ticket to read a chunk, and some to write.
pub(crate) async fn prepare(
    cluster: &Cluster,
    pass: &Pass,
    path: &str,
    streams: usize,
) -> (LocatedChunk, Vec<Allocation>) {
    let dialled = Connection::dial(&cluster.control, pass.identity, &pass.key, PATIENCE).await;
    let (master, _incoming) = dialled.expect("the master");
    let located = Locate {
        path: path.to_owned(),
        file_id: FileId::NONE,
        first_index: 0,
        count: 1,
    };
    let chunk = master
        .call(&located)
        .await
        .expect("located")
        .chunks
        .remove(0);
    let opened = OpenSession {
        nonce: random(),
        name: "a crowd".to_owned(),
    };
    let session = master.call(&opened).await.expect("a session").session;
    let mut allocations = Vec::new();
    while allocations.len() < streams {
        let number = allocations.len() as u64 + 1;
        allocations.extend(allocate(&master, session, number, streams - allocations.len()).await);
    }
    (chunk, allocations)
}

async fn allocate(
    master: &Connection,
    session: SessionId,
    number: u64,
    count: usize,
) -> Vec<Allocation> {
    let pending = CreatePending {
        request: RequestId {
            session,
            number,
            lowest_outstanding: number,
        },
        path: format!("/never-{session}-{number}"),
        replicas: 3,
        level: Level::Memory,
        force: true,
        parents: true,
        count: 0,
    };
    let file_id = master.call(&pending).await.expect("a pending file").file_id;
    let allocated = AllocateChunks {
        session,
        file_id,
        first_index: 0,
        count: u16::try_from(count.min(256)).expect("few"),
        fewest: 0,
        exclude: Vec::new(),
    };
    master.call(&allocated).await.expect("chunks").chunks
}

/// Waits until the other side closes.
async fn until_closed(mut stream: TcpStream) -> io::Result<()> {
    let mut bytes = [0; 256];
    while stream.read(&mut bytes).await? > 0 {}
    Ok(())
}

async fn idle(pass: Pass, addr: String, with_hello: bool) -> io::Result<()> {
    let stream = match with_hello {
        true => pass.dial(&addr).await?,
        false => TcpStream::connect(&addr).await?,
    };
    until_closed(stream).await
}

/// Asks for as much as it may, and reads nothing of it.
async fn never_reading(pass: Pass, addr: String, chunk: LocatedChunk) -> io::Result<()> {
    let mut stream = pass.dial(&addr).await?;
    let read = Read {
        ticket: chunk.ticket,
        handle: chunk.handle,
        version: chunk.version,
        serial: Serial::NONE,
        want: Want::Sealed,
        offset: 0,
        length: chunk.length,
    };
    for request_id in 1..=READS_UNANSWERED_MAX as u64 {
        stream.write_all(&frame(&read, request_id)).await?;
    }
    // It is closed from there some time, which only who reads would see.
    std::future::pending().await
}

/// Sends a byte a second, which is what is bad about it, until they are all sent, and waits for the
/// end.
async fn a_byte_a_second(mut stream: TcpStream, bytes: &[u8]) -> io::Result<()> {
    for byte in bytes {
        stream.write_all(std::slice::from_ref(byte)).await?;
        sleep(BYTE_PERIOD).await;
    }
    until_closed(stream).await
}

async fn slow_hello(pass: Pass, addr: String) -> io::Result<()> {
    let (_, hello) = Dialer::new(pass.identity, Plane::Data, pass.key.clone(), random());
    let stream = TcpStream::connect(&addr).await?;
    a_byte_a_second(stream, &hello).await
}

async fn slow_header(pass: Pass, addr: String) -> io::Result<()> {
    let header = Header::new(Kind::Read, Status::Ok, 1, &[0; 200], 0);
    let stream = pass.dial(&addr).await?;
    a_byte_a_second(stream, &header.encode()).await
}

async fn slow_payload(pass: Pass, allocation: Allocation) -> io::Result<()> {
    let first = allocation.chain.first().expect("a chain");
    let mut stream = pass.dial(&first.data_addr).await?;
    let open = WriteOpen {
        ticket: allocation.ticket,
        handle: allocation.handle,
        version: allocation.version,
        file_id: sarsen_protocol::ticket::Ticket::unverified_claims(&allocation.ticket).file_id,
        index: allocation.index,
        room: 0,
        begin_serial: Serial::NONE,
        lock_token: 0,
        level: Level::Memory,
        position: 0,
        chain: allocation.chain.clone(),
    };
    stream.write_all(&frame(&open, 1)).await?;
    let body = WriteData {
        handle: allocation.handle,
        version: allocation.version,
        serial: Serial(1),
        commit_mark: Serial::NONE,
        request: None,
        offset: 0,
        level: Level::Memory,
        crcs: Crcs::new(&[0; 16]).expect("few"),
    }
    .to_body();
    let header = Header::new(Kind::WriteData, Status::Ok, 1, &body, 1024 * 1024);
    stream.write_all(&header.encode()).await?;
    stream.write_all(&body).await?;
    a_byte_a_second(stream, &[7; 3600]).await
}
