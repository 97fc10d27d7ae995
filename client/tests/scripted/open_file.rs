//! An open file: what was located once is used again, and whatever has become of it since, each
//! read brings the right bytes or the right error (`spec/messages.md` section 7).

use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sarsen_client::{Client, Error, OpenFile, PutOptions, PutSource};
use sarsen_protocol::id::ServerId;
use sarsen_protocol::message::{Kind, ReplicaFault};
use sarsen_protocol::status::Status;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::chunkserver::Fault;
use crate::master::Slip;
use crate::{CHUNK_SIZE, Cluster, noise};

/// Places that small reads begin at: in the first block and the last of a chunk, over a block's
/// edge and over a chunk's.
const PLACES: [usize; 5] = [0, 65_530, 70_001, CHUNK_SIZE - 7, 2 * CHUNK_SIZE - 4096];

/// Less than the client's, and far more than what is to be waited for takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A cluster with `/file`, two chunks and a bit, on all of its servers; and the file, open.
struct Opened {
    cluster: Cluster,
    client: Client,
    file: Arc<OpenFile>,
    bytes: Vec<u8>,
}

impl Opened {
    async fn new(servers: usize) -> Self {
        let cluster = Cluster::start(servers).await;
        let client = cluster.client().await;
        let bytes = noise(2 * CHUNK_SIZE + 77, 5);
        put(&client, &bytes, PutOptions::default()).await;
        let file = Arc::new(client.open("/file").await.unwrap());
        Self {
            cluster,
            client,
            file,
            bytes,
        }
    }

    /// Reads everywhere, with every server asked by now and then.
    async fn read_everywhere(&self) {
        for _ in 0..6 {
            for place in PLACES {
                let read = self.file.read_at(place as u64, 4096).await;
                assert!(read.unwrap() == self.bytes[place..place + 4096], "{place}");
            }
        }
    }

    /// Connections that were opened so far, to all servers together.
    fn connections(&self) -> usize {
        let servers = (1..=3).map(|server| self.cluster.server(server));
        servers
            .map(|server| server.connections.load(Ordering::Relaxed))
            .sum()
    }

    /// Reads many places at once, and looks at what comes.
    async fn read_at_once(&self) {
        let mut reads = JoinSet::new();
        for n in 0..64 {
            let (file, place) = (self.file.clone(), n * 1013);
            let expected = self.bytes[place..place + 700].to_vec();
            reads.spawn(async move {
                let read = file.read_at(place as u64, 700).await;
                assert!(read.unwrap() == expected, "{place}");
            });
        }
        while let Some(read) = reads.join_next().await {
            read.unwrap();
        }
    }

    /// How often the master was asked where chunks are.
    fn located(&self) -> usize {
        let kinds = self.cluster.master.asked().kinds;
        kinds.iter().filter(|kind| **kind == Kind::Locate).count()
    }
}

async fn put(client: &Client, bytes: &[u8], options: PutOptions) {
    let source = PutSource::Reader(Box::new(Cursor::new(bytes.to_vec())));
    client.put("/file", source, options).await.unwrap();
}

#[tokio::test]
async fn many_reads_take_one_question_to_the_master() {
    let opened = Opened::new(3).await;
    opened.read_everywhere().await;
    assert_eq!(opened.located(), 1);
    let (file, len) = (&opened.file, opened.bytes.len());
    assert_eq!(file.node().size, len as u64);
    for (offset, length) in [
        (len - 1, 10),
        (len, 10),
        (len + 100, 10),
        (500, 0),
        (5, len),
    ] {
        let read = file.read_at(offset as u64, length as u64).await.unwrap();
        let wanted = &opened.bytes[offset.min(len)..(offset + length).min(len)];
        assert!(read == wanted, "{length} bytes at {offset}");
    }
}

#[tokio::test]
async fn what_was_located_is_not_used_for_longer_than_its_lease() {
    let opened = Opened::new(1).await;
    opened.cluster.master.set_lease(0);
    let file = opened.client.open("/file").await.unwrap();
    for _ in 0..3 {
        assert!(file.read_at(9, 100).await.unwrap() == opened.bytes[9..109]);
    }
    assert_eq!(opened.located(), 5, "twice opened, three times read");
}

#[tokio::test]
async fn a_file_that_was_replaced_stays_what_it_was_and_never_mixes() {
    let opened = Opened::new(3).await;
    let mut options = PutOptions::default();
    options.force = true;
    let other = noise(2 * CHUNK_SIZE + 77, 6);
    put(&opened.client, &other, options).await;
    opened.read_everywhere().await;
    let by_path = opened.client.read_range("/file", 5, 100).await;
    assert!(by_path.unwrap() == other[5..105]);
    // Its chunks are deleted at last, and the master knows nothing of it any more.
    for server in 1..=3 {
        opened.cluster.server(server).chunks.lock().unwrap().clear();
    }
    let gone = opened.file.read_at(5, 100).await.unwrap_err();
    let is_not_found = matches!(
        gone,
        Error::Refused {
            status: Status::NotFound,
            ..
        }
    );
    assert!(is_not_found, "{gone}");
}

#[tokio::test]
async fn a_replica_that_moved_is_found_where_it_is() {
    let cluster = Cluster::start(2).await;
    let client = cluster.client().await;
    let bytes = noise(CHUNK_SIZE, 5);
    put(&client, &bytes, PutOptions::default()).await;
    cluster.master.lose(2);
    let file = client.open("/file").await.unwrap();
    assert!(file.read_at(9, 100).await.unwrap() == bytes[9..109]);
    cluster.server(1).chunks.lock().unwrap().clear();
    cluster.master.find(2);
    cluster.master.lose(1);
    for _ in 0..3 {
        assert!(file.read_at(9, 100).await.unwrap() == bytes[9..109]);
    }
    let kinds = cluster.master.asked().kinds;
    let located = kinds.iter().filter(|kind| **kind == Kind::Locate);
    assert_eq!(located.count(), 2, "once more, and kept again");
}

/// Nothing had failed, so nothing was forgotten: what was kept while no replica was known was looked at
/// again and again for as long as a read has patience, though the server was back at once.
#[tokio::test]
async fn a_chunk_of_which_no_replica_was_known_is_asked_for_again() {
    let opened = Opened::new(1).await;
    opened.cluster.master.slip(Slip::HideReplicas);
    let file = opened.client.open("/file").await.unwrap();
    let read = timeout(PATIENCE, file.read_at(9, 100)).await;
    assert!(read.expect("in time").unwrap() == opened.bytes[9..109]);
    // The server goes while the file is open, and is back after the master said that nobody is there.
    let before = opened.located();
    opened.cluster.master.lose(1);
    let server = opened.cluster.server(1);
    server.fail(Fault::ReadOnce(Status::ChunkUnknown));
    let come_back = async {
        while opened.located() == before {
            sleep(Duration::from_millis(1)).await;
        }
        opened.cluster.master.find(1);
    };
    let reading = async { tokio::join!(file.read_at(9, 100), come_back).0 };
    let read = timeout(PATIENCE, reading).await;
    assert!(read.expect("in time").unwrap() == opened.bytes[9..109]);
}

#[tokio::test]
async fn a_replica_that_was_deleted_is_left_for_another() {
    let opened = Opened::new(3).await;
    opened.cluster.server(1).chunks.lock().unwrap().clear();
    opened.read_everywhere().await;
    assert!(opened.located() > 1);
    assert!(opened.cluster.master.asked().reports.is_empty());
}

#[tokio::test]
async fn a_ticket_that_is_refused_is_fetched_anew() {
    for status in [
        Status::TicketExpired,
        Status::TicketInvalid,
        Status::ChunkOpen,
    ] {
        let opened = Opened::new(1).await;
        opened.cluster.server(1).fail(Fault::ReadOnce(status));
        opened.read_everywhere().await;
        assert_eq!(opened.located(), 2, "{status:?}");
        assert!(opened.cluster.master.asked().reports.is_empty());
    }
}

#[tokio::test]
async fn a_server_that_died_is_left_for_another() {
    let opened = Opened::new(3).await;
    opened.read_everywhere().await;
    opened.cluster.server(2).fail(Fault::Dead);
    opened.read_everywhere().await;
    opened.cluster.master.lose(2);
    // The first that asks it may be answered by another before it has failed, and then it is asked only now
    // and then.
    let is_found_out = async {
        while opened.located() == 1 {
            opened.read_everywhere().await;
        }
    };
    let found_out = timeout(PATIENCE, is_found_out).await;
    found_out.expect("the master is asked again");
}

/// What is kept is of an older version: the read begins anew with the newer one, and a version that
/// changes all the time is an error, not bytes of both.
#[tokio::test]
async fn a_version_that_changed_is_read_anew() {
    for status in [Status::Moved, Status::Behind, Status::ChunkUnknown] {
        let opened = Opened::new(1).await;
        opened.cluster.server(1).fail(Fault::ReadOnce(status));
        opened.cluster.master.raise_versions("/file");
        opened.read_everywhere().await;
        assert_eq!(opened.located(), 2, "{status:?}: asked once more");
    }
}

#[tokio::test]
async fn damaged_bytes_are_taken_from_another_replica_and_reported() {
    let opened = Opened::new(3).await;
    let bad = opened.cluster.server(1);
    bad.fail(Fault::FlippedBit(70_001 + 50));
    opened.read_everywhere().await;
    let reports = opened.cluster.master.asked().reports;
    assert!(!reports.is_empty(), "server 1 was asked by chance");
    for report in reports {
        let told = (report.server, report.fault);
        assert_eq!(told, (ServerId(1), ReplicaFault::CrcMismatch));
    }
}

#[tokio::test]
async fn bytes_that_are_bad_everywhere_are_given_to_nobody() {
    let opened = Opened::new(3).await;
    for server in 1..=3 {
        opened.cluster.server(server).fail(Fault::FlippedBit(5));
    }
    let error = opened.file.read_at(100, 10).await.unwrap_err();
    let Error::Corrupt { index: 0, bad, .. } = &error else {
        panic!("{error}");
    };
    let mut bad = bad.clone();
    bad.sort_unstable();
    assert_eq!(bad, [1, 2, 3].map(ServerId));
}

#[tokio::test]
async fn without_a_replica_a_read_gives_up_in_time() {
    let opened = Opened::new(1).await;
    let client = opened.cluster.impatient_client().await;
    let file = client.open("/file").await.unwrap();
    opened
        .cluster
        .server(1)
        .fail(Fault::Read(Status::Overloaded));
    let error = file.read_at(0, 10).await.unwrap_err();
    assert!(
        matches!(error, Error::NoReplica { cause: Some(_), .. }),
        "{error}"
    );
}

/// Each read that began with a server that hung waited until that was suspected, a third of them
/// all. Only the first may ask it, which another answers in its place, and one now and then.
#[tokio::test]
async fn a_server_that_hangs_is_asked_no_more_and_never_waited_for() {
    let opened = Opened::new(3).await;
    // What is usual is known by then.
    opened.read_everywhere().await;
    let server = opened.cluster.server(1);
    let before = server.reads.load(Ordering::Relaxed);
    assert!(before > 0);
    server.fail(Fault::Hangs);
    for _ in 0..8 {
        opened.read_everywhere().await;
    }
    // Twice as rarely each time, so this counts the time's doublings, and how often the others were late
    // too, as they are on a machine with other work: then it is asked among them. Else it would be 80.
    let asked = server.reads.load(Ordering::Relaxed) - before;
    assert!(asked <= 40, "{asked} of 240");
    let reports = &opened.cluster.master.asked().reports;
    assert!(reports.is_empty(), "being slow is no fault: {reports:?}");
}

#[tokio::test]
async fn reads_that_come_together_share_connections() {
    let opened = Opened::new(3).await;
    let before = opened.connections();
    for _ in 0..20 {
        opened.read_at_once().await;
    }
    let more = opened.connections() - before;
    assert!(more <= 3 * 8, "{more} for 64 reads of three servers");
}

/// A disk of a server hangs: what is read from another does not wait behind it.
#[tokio::test]
async fn what_hangs_on_one_connection_holds_nothing_else_up() {
    let opened = Opened::new(1).await;
    opened.read_everywhere().await;
    let chunks = opened.client.locate("/file").await.unwrap().chunks;
    let server = opened.cluster.server(1);
    server.fail(Fault::HangsAt(chunks[1].handle));
    for _ in 0..20 {
        let hangs = opened.file.read_at(CHUNK_SIZE as u64 + 5, 900);
        assert!(timeout(Duration::from_millis(1), hangs).await.is_err());
        let read = timeout(Duration::from_millis(1500), opened.file.read_at(5, 900));
        assert!(read.await.expect("in time").unwrap() == opened.bytes[5..905]);
    }
    let reports = &opened.cluster.master.asked().reports;
    assert!(reports.is_empty(), "{reports:?}");
}

#[tokio::test]
async fn a_read_that_nobody_waits_for_leaves_its_connection_to_the_others() {
    let opened = Opened::new(1).await;
    opened.read_everywhere().await;
    let server = opened.cluster.server(1);
    let before = server.connections.load(Ordering::Relaxed);
    server.fail(Fault::Slow(Duration::from_millis(5)));
    let mut given_up = 0;
    for _ in 0..10 {
        // The second is over the edge of a block, and so two requests.
        for place in [5, 65_536 - 100, 70_000] {
            let read = opened.file.read_at(place as u64, 4096);
            given_up += usize::from(timeout(Duration::from_millis(1), read).await.is_err());
            let place = place + 1000;
            let read = opened.file.read_at(place as u64, 4096).await;
            assert!(read.unwrap() == opened.bytes[place..place + 4096]);
        }
    }
    assert!(given_up > 0);
    // Some are opened, so that what is asked does not wait for what was given up.
    let opened = server.connections.load(Ordering::Relaxed) - before;
    assert!(opened <= 4, "{opened}");
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_nobodys_fault() {
    let opened = Opened::new(1).await;
    let server = opened.cluster.server(1);
    server.fail(Fault::ClosesAfterStream);
    for n in 0..30 {
        // One request each.
        let place = n * 2011;
        let read = opened.file.read_at(place as u64, 900).await;
        assert!(read.unwrap() == opened.bytes[place..place + 900], "{place}");
    }
    let reports = &opened.cluster.master.asked().reports;
    assert!(reports.is_empty(), "{reports:?}");
}
