//! Many clients are fair to each other (`spec/wire.md` section 12.4): one with one connection gets
//! about as much as one with many, while both want more.
//!
//! What is compared are the bytes that both got in the same time; how long that was is no matter. Half
//! is what the core's tests show, on their own clock. Here, where a reader may have to wait for a
//! processor and so does not always want more, a fifth is asked for: a client that had one share among
//! 65 got a sixty-fifth.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use sarsen_protocol::crc::crc32;
use sarsen_protocol::deframe::{Deframer, frame};
use sarsen_protocol::header::Header;
use sarsen_protocol::id::Serial;
use sarsen_protocol::message::{
    Allocation, Crcs, Kind, Level, LocatedChunk, Message as _, Plane, Read, Want, WriteAck,
    WriteData, WriteOpen,
};
use sarsen_protocol::status::Status;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::crowd::{Pass, prepare};
use crate::harness::{Cluster, noise};

const MIB: u64 = 1024 * 1024;

/// Reads that a connection has asked for at a time.
const READS_AHEAD: u64 = 8;

/// Mebibytes that a writer has on their way on each connection.
const WRITES_AHEAD: u64 = 4;

/// How often it is looked how far both are.
const LOOK: Duration = Duration::from_millis(5);

/// What a client with some connections got, and goes on getting until this is dropped.
struct Greedy {
    got: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Greedy {
    /// A client on a thread of its own.
    fn begin() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        Self {
            got: Arc::default(),
            tasks: Vec::new(),
            runtime: Some(runtime.expect("a runtime")),
        }
    }

    fn runtime(&self) -> &tokio::runtime::Runtime {
        self.runtime.as_ref().expect("there until the end")
    }

    /// One that reads a chunk from a server, again and again on each connection.
    fn reader(pass: &Pass, addr: &str, chunk: &LocatedChunk, connections: usize) -> Self {
        let mut greedy = Self::begin();
        for _ in 0..connections {
            let (pass, addr, chunk) = (pass.clone(), addr.to_owned(), chunk.clone());
            let got = Arc::clone(&greedy.got);
            let task = greedy.runtime().spawn(async move {
                let stream = pass.dial(&addr).await.expect("a connection");
                read_on(stream, &chunk, &got).await
            });
            greedy.tasks.push(task);
        }
        greedy
    }

    /// One that writes each of these chunks, down its chain.
    fn writer(pass: &Pass, allocations: Vec<Allocation>) -> Self {
        let mut greedy = Self::begin();
        for allocation in allocations {
            let (pass, got) = (pass.clone(), Arc::clone(&greedy.got));
            let task = greedy.runtime().spawn(async move {
                let first = allocation.chain.first().expect("a chain");
                let stream = pass.dial(&first.data_addr).await.expect("a connection");
                write_on(stream, &allocation, &got).await
            });
            greedy.tasks.push(task);
        }
        greedy
    }

    /// # Panics
    /// When one of its connections has come to an end.
    fn got(&self) -> u64 {
        assert!(!self.tasks.iter().any(JoinHandle::is_finished));
        self.got.load(Ordering::Relaxed)
    }
}

impl Drop for Greedy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn read_on(mut stream: TcpStream, chunk: &LocatedChunk, got: &AtomicU64) {
    let read = Read {
        ticket: chunk.ticket,
        handle: chunk.handle,
        version: chunk.version,
        serial: Serial::NONE,
        want: Want::Sealed,
        offset: 0,
        length: chunk.length,
    };
    let mut asked = 0;
    let mut here: u64 = 0;
    let mut bytes = vec![0; 256 * 1024];
    loop {
        while asked < here / u64::from(chunk.length) + READS_AHEAD {
            asked += 1;
            let read = frame(&read, asked);
            stream
                .write_all(&read)
                .await
                .expect("a server that takes it");
        }
        match stream
            .read(&mut bytes)
            .await
            .expect("a server that goes on")
        {
            0 => panic!("the server closed"),
            some => {
                here += some as u64;
                got.fetch_add(some as u64, Ordering::Relaxed);
            }
        }
    }
}

/// Writes the whole chunk, and then keeps the connection.
async fn write_on(mut stream: TcpStream, allocation: &Allocation, got: &AtomicU64) {
    let open = WriteOpen {
        ticket: allocation.ticket,
        handle: allocation.handle,
        version: allocation.version,
        file_id: allocation.ticket.unverified_claims().file_id,
        index: allocation.index,
        room: 0,
        begin_serial: Serial::NONE,
        lock_token: 0,
        level: Level::Memory,
        position: 0,
        chain: allocation.chain.clone(),
    };
    stream.write_all(&frame(&open, 1)).await.expect("a server");
    let block = crc32(&[7; 64 * 1024]);
    let payload = vec![7; 1024 * 1024];
    let mut deframer = Deframer::new(Plane::Data);
    deframer.hello_is_done();
    let mut acked = 0;
    for serial in 1..=64 {
        let data = WriteData {
            handle: allocation.handle,
            version: allocation.version,
            serial: Serial(serial),
            commit_mark: Serial::NONE,
            request: None,
            offset: u32::try_from((serial - 1) * MIB).expect("inside of a chunk"),
            level: Level::Memory,
            crcs: Crcs::new(&[block; 16]).expect("few"),
        }
        .to_body();
        let header = Header::new(Kind::WriteData, Status::Ok, 1, &data, 1024 * 1024);
        for part in [&header.encode()[..], &data, &payload] {
            stream
                .write_all(part)
                .await
                .expect("a server that takes it");
        }
        while serial - acked >= WRITES_AHEAD {
            let answer = match deframer.next_frame().expect("frames") {
                Some(answer) => answer,
                None => {
                    let read = stream.read_buf(deframer.buffer()).await;
                    assert!(read.expect("a server that goes on") > 0);
                    continue;
                }
            };
            if answer.header.kind == Kind::WriteAck {
                let ack: WriteAck = answer.message().expect("an ack");
                got.fetch_add((ack.serial.0 - acked) * MIB, Ordering::Relaxed);
                acked = ack.serial.0;
            }
        }
    }
    std::future::pending().await
}

/// The share of `one`, in percent, of what both got, from when both have got something until it has
/// got so much, or the other far more.
fn share(one: &Greedy, many: &Greedy, bytes: u64) -> u64 {
    let wait_until = |is_so: &dyn Fn() -> bool| {
        while !is_so() {
            thread::sleep(LOOK);
        }
    };
    wait_until(&|| one.got() > bytes / 8 && many.got() > bytes / 8);
    let (one_had, many_had) = (one.got(), many.got());
    wait_until(&|| one.got() - one_had > bytes || many.got() - many_had > 8 * bytes);
    let (one_got, many_got) = (one.got() - one_had, many.got() - many_had);
    println!("{} MiB beside {} MiB", one_got / MIB, many_got / MIB);
    one_got * 100 / (one_got + many_got)
}

/// A data-plane thread served connections in turn, so a client with 64 of them got 64 shares.
#[test]
fn who_reads_on_one_connection_gets_its_share_beside_sixty_four() {
    let cluster = Cluster::start(3);
    cluster.put(&noise(16 << 20, 1), "/read");
    let addr = cluster.chunkservers[0]
        .as_ref()
        .and_then(|it| it.data.clone());
    let addr = addr.expect("a data port");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (one, many) = (Pass::of(&cluster, 1), Pass::of(&cluster, 2));
    let (chunk, _) = runtime.block_on(prepare(&cluster, &one, "/read", 0));
    let many = Greedy::reader(&many, &addr, &chunk, 64);
    let one = Greedy::reader(&one, &addr, &chunk, 1);
    let share = share(&one, &many, 512 * MIB);
    assert!((20..=80).contains(&share), "{share} %");
}

/// The same of writers, on each member of the chains.
#[test]
fn who_writes_one_chunk_gets_its_share_beside_sixteen() {
    // Chunks of 64 MiB, and so streams that last.
    let cluster = Cluster::start_with(3, &["heartbeat=100ms"]);
    cluster.put(b"anything", "/there");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let pass = Pass::of(&cluster, 1);
    let prepare = |streams| {
        runtime
            .block_on(prepare(&cluster, &pass, "/there", streams))
            .1
    };
    let (sixteen, alone) = (prepare(16), prepare(1));
    let many = Greedy::writer(&pass, sixteen);
    let one = Greedy::writer(&pass, alone);
    // Far less than a chunk: the one may be done before it was looked at again.
    let share = share(&one, &many, 16 * MIB);
    assert!((20..=80).contains(&share), "{share} %");
}
