//! Copies of chunks that mutations changed: what repair made knows what was done, as the others do
//! (`spec/replication.md` sections 11 and 13).

use std::fs;
use std::time::Duration;

use sarsen_client::core::mutation::frames::{Names, record, write_open};
use sarsen_edge::connection::Connection;
use sarsen_edge::hello::dial_data;
use sarsen_edge::key;
use sarsen_protocol::deframe::{Deframer, Frame, frame};
use sarsen_protocol::handshake::Identity;
use sarsen_protocol::header::Header;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, ClusterId, FileId, RequestId, SessionId};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{
    AppendResult, Appended, ChunkOpened, FindRequests, FoundKind, FoundRequest, Kind, Level,
    Locate, LocatedChunk, Message as _, OpenChunk, OpenSession, Plane, Replica, Role, Slot, Start,
};
use sarsen_protocol::status::Status;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::appender::records;
use crate::harness::{Cluster, PATIENCE};

const SERVERS: usize = 3;

/// Idle chunks stay open until they are sealed by order.
const SETTINGS: &[&str] = &[
    "chunk_size=1MiB",
    "heartbeat=200ms",
    "suspect_after=1s",
    "dead_after=3s",
    "lease=30s",
    "gc_interval=500ms",
    "safe_mode_max=10s",
    "repair_grace=500ms",
];

const DIAL_MAX: Duration = Duration::from_secs(5);

fn identity() -> Identity {
    Identity {
        role: Role::Client,
        cluster_id: ClusterId::NONE,
        start: Start::default(),
    }
}

/// A client of one session that keeps what it did to itself, so that a test may take any answer for
/// lost.
struct Scripted {
    key: SecretKey,
    master: Connection,
    session: SessionId,
    file_id: FileId,
}

impl Scripted {
    async fn start(cluster: &Cluster, path: &str) -> Self {
        let folder = fs::read_dir(cluster.path("sarsen")).expect("the keys that masters left");
        let mut keys = folder.filter_map(|entry| key::load(&entry.ok()?.path()).ok());
        let key = keys.next().expect("a key");
        let dialled = Connection::dial(&cluster.control, identity(), &key, DIAL_MAX).await;
        let (master, _incoming) = dialled.expect("the master answers");
        let open = OpenSession {
            nonce: [3; 16],
            name: "a test".into(),
        };
        let session = master.call(&open).await.expect("a session").session;
        let mut client = Self {
            key,
            master,
            session,
            file_id: FileId::NONE,
        };
        client.file_id = client.locate(path).await.0;
        client
    }

    async fn locate(&self, path: &str) -> (FileId, Option<LocatedChunk>) {
        let locate = Locate {
            path: path.into(),
            file_id: FileId::NONE,
            first_index: 0,
            count: 1,
        };
        let reply = self.master.call(&locate).await.expect("located");
        (reply.node.file_id, reply.chunks.into_iter().next())
    }

    /// The chunk to append to, opened if it is not.
    async fn open(&self) -> ChunkOpened {
        let open = OpenChunk {
            session: self.session,
            file_id: self.file_id,
            slot: Slot::Last {
                after: ChunkHandle::NONE,
            },
            failed: ChunkVersion::NONE,
            memory: false,
            lock_token: 0,
        };
        let began = std::time::Instant::now();
        loop {
            match self.master.call(&open).await {
                Ok(opened) => return opened,
                Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
            }
        }
    }

    /// Appends a record under a number, over a connection of its own.
    async fn append(&self, opened: &ChunkOpened, number: u64, payload: &[u8]) -> AppendResult {
        let mut primary = self.dial(&opened.chain[0].data_addr).await;
        let open = write_open(self.file_id, opened, Level::Disk);
        primary.send(&frame(&open, 1)).await;
        let request = RequestId {
            session: self.session,
            number,
            // What came before is in doubt still.
            lowest_outstanding: 1,
        };
        let bytes = record(request, payload);
        let names = Names {
            handle: opened.handle,
            version: opened.version,
            level: Level::Disk,
        };
        let records = std::iter::once((number, bytes.as_slice()));
        let body = names.append(self.session, 1, records).to_body();
        let len = u32::try_from(bytes.len()).expect("short");
        let header = Header::new(Kind::Append, Status::Ok, 1, &body, len);
        primary
            .send(&[&header.encode()[..], &body, &bytes].concat())
            .await;
        loop {
            let frame = primary.next().await;
            if frame.header.kind == Kind::Appended {
                let appended: Appended = frame.message().expect("an answer");
                return appended.results[0];
            }
        }
    }

    async fn dial(&self, addr: &str) -> DataPeer {
        let dialled = dial_data(addr, identity(), &self.key, DIAL_MAX).await;
        let mut deframer = Deframer::new(Plane::Data);
        deframer.hello_is_done();
        DataPeer {
            stream: dialled.expect("the chunkserver answers").0,
            deframer,
        }
    }

    /// What a holder of a sealed chunk says of the session's first numbers.
    async fn find(&self, chunk: &LocatedChunk, holder: &Replica) -> Vec<FoundRequest> {
        let dialled = Connection::dial(&holder.control_addr, identity(), &self.key, DIAL_MAX).await;
        let (holder, _incoming) = dialled.expect("the holder answers");
        let asked = FindRequests {
            ticket: chunk.ticket,
            handle: chunk.handle,
            version: chunk.version,
            session: self.session,
            numbers: vec![1, 2, 3],
        };
        holder.call(&asked).await.expect("looked up").found
    }
}

struct DataPeer {
    stream: TcpStream,
    deframer: Deframer,
}

impl DataPeer {
    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("sent");
    }

    async fn next(&mut self) -> Frame {
        loop {
            if let Some(frame) = self.deframer.next_frame().expect("a good frame") {
                let status = frame.header.status;
                assert!(status.is_ok(), "{status}: {:?}", frame.error());
                return frame;
            }
            let read = self.stream.read_buf(self.deframer.buffer()).await;
            assert_ne!(read.expect("bytes"), 0, "it closed");
        }
    }
}

fn seal(cluster: &Cluster, path: &str) {
    cluster.until("the chunk is sealed", |cluster| {
        (cluster.sarsen(&["checksum", path]).code == Some(0)).then_some(())
    });
    cluster.until_healthy();
}

/// Takes a server's only replica away while it is down, and waits until repair has made another.
fn lose_and_repair(cluster: &mut Cluster, number: usize) {
    let [lost] = &cluster.chunk_files(number)[..] else {
        panic!("one chunk was made");
    };
    let lost = lost.clone();
    cluster.kill_chunkserver(number);
    fs::remove_file(&lost).expect("removed");
    cluster.start_chunkserver(number);
    cluster.wait(SERVERS);
    cluster.until("the replica is there again", |_| {
        lost.exists().then_some(())
    });
    cluster.until_healthy();
}

/// Copies had no ids. A chunk with one among its members could not be sealed again, since their tables
/// differed, and was listed as corrupt; and who asked the copy whether an append was done was told *never
/// seen*, and did it once more.
#[test]
fn a_copy_knows_what_was_done_and_its_chunk_goes_on() {
    let mut cluster = Cluster::start_with(SERVERS, SETTINGS);
    cluster.sarsen(&["touch", "/log"]).text();
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().expect("a runtime");
    let client = runtime.block_on(Scripted::start(&cluster, "/log"));

    // Two appends whose answers nobody heard.
    let opened = runtime.block_on(client.open());
    let first = runtime.block_on(client.append(&opened, 1, b"one"));
    let second = runtime.block_on(client.append(&opened, 2, b"two"));
    seal(&cluster, "/log");
    lose_and_repair(&mut cluster, 1);
    lose_and_repair(&mut cluster, 2);

    // Every holder finds them.
    let (_, chunk) = runtime.block_on(client.locate("/log"));
    let chunk = chunk.expect("a chunk");
    assert!(chunk.version > opened.version);
    assert_eq!(chunk.replicas.len(), SERVERS);
    for holder in &chunk.replicas {
        let found = runtime.block_on(client.find(&chunk, holder));
        let expected = [(1, first), (2, second)].map(|(number, result)| FoundRequest {
            number,
            kind: FoundKind::Append,
            offset: result.offset,
            length: result.length,
        });
        assert_eq!(found, expected, "{:?}", holder.server);
    }

    // Sent again to the chunk opened again, whoever is its primary, they are not done again.
    let again = runtime.block_on(client.open());
    assert_eq!(again.handle, opened.handle);
    for (number, payload, before) in [(1, b"one", first), (2, b"two", second)] {
        let result = runtime.block_on(client.append(&again, number, payload));
        assert_eq!(
            (result.status, result.offset, result.length),
            (Status::Ok.number(), before.offset, before.length)
        );
    }
    runtime.block_on(client.append(&again, 3, b"three"));
    seal(&cluster, "/log");
    let found = records(&cluster, "/log");
    assert_eq!(found.keys().collect::<Vec<_>>(), ["one", "three", "two"]);
}
