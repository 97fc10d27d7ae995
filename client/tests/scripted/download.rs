//! Downloads: what is verified, and what is done about replicas that are bad.

use std::io::Cursor;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sarsen_client::{Client, Error, GetOptions, GetReport, GetTarget, PutOptions, PutSource};
use sarsen_edge::exit::{Exit, Explain as _};
use sarsen_protocol::id::ServerId;
use sarsen_protocol::message::ReplicaFault;
use sarsen_protocol::status::Status;

use crate::chunkserver::Fault;
use crate::master::Slip;
use crate::{CHUNK_SIZE, Cluster, noise};

/// A cluster with `/file` on all of its servers, and the file's bytes.
async fn cluster_with_file(servers: usize, size: usize) -> (Cluster, Client, Vec<u8>) {
    let cluster = Cluster::start(servers).await;
    let client = cluster.client().await;
    let bytes = noise(size, 5);
    let source = PutSource::Reader(Box::new(Cursor::new(bytes.clone())));
    let put = client.put("/file", source, PutOptions::default()).await;
    put.unwrap();
    (cluster, client, bytes)
}

async fn get(client: &Client, target: &Path) -> Result<GetReport, Error> {
    let target = GetTarget::Path(target.to_owned());
    client.get("/file", target, GetOptions::default()).await
}

/// Whether a folder is empty.
fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

#[tokio::test]
async fn ranges_are_trimmed_to_the_byte() {
    let (_cluster, client, bytes) = cluster_with_file(3, 3 * CHUNK_SIZE + 77).await;
    let len = bytes.len();
    for (offset, length) in [
        (0, 1),
        (65_535, 2),
        (70_000, 3),
        (CHUNK_SIZE - 1, 2),
        (CHUNK_SIZE + 9, CHUNK_SIZE),
        (0, len),
        (len - 1, 10),
        (len, 10),
        (len + 100, 10),
        (500, 0),
    ] {
        let read = client
            .read_range("/file", offset as u64, length as u64)
            .await;
        let wanted = &bytes[offset.min(len)..(offset + length).min(len)];
        assert!(read.unwrap() == wanted, "{length} bytes at {offset}");
    }
}

/// No replica of the first chunk was known at first, and those behind it overtook it: what came out
/// of a pipe were whole chunks in the wrong order, each of them verified.
#[tokio::test]
async fn what_is_written_in_order_stays_in_order_when_a_chunk_has_to_wait() {
    let (cluster, client, bytes) = cluster_with_file(3, 3 * CHUNK_SIZE + 77).await;
    for offset in [0, CHUNK_SIZE + 9] {
        cluster.master.slip(Slip::HideReplicas);
        let read = client
            .read_range("/file", offset as u64, bytes.len() as u64)
            .await;
        assert!(read.unwrap() == bytes[offset..], "from {offset}");
    }
}

/// All but one server flip a bit: good bytes come, the bad replicas are told to us and the master.
#[tokio::test]
async fn damaged_bytes_are_taken_from_another_replica() {
    let (cluster, client, bytes) = cluster_with_file(3, 2 * CHUNK_SIZE).await;
    for server in 1..=2 {
        let place = CHUNK_SIZE / 2 + 9;
        cluster.server(server).fail(Fault::FlippedBit(place));
    }
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("target");
    // Which replica is asked first is the client's choice: in the end each was asked.
    let mut met = Vec::new();
    while met.len() < 2 {
        let report = get(&client, &target).await.unwrap();
        assert!(std::fs::read(&target).unwrap() == bytes);
        met.extend(report.bad.iter().map(|bad| bad.server));
        met.sort_unstable();
        met.dedup();
    }
    assert_eq!(met, [ServerId(1), ServerId(2)]);
    let reports = cluster.master.asked().reports;
    let told = |server| {
        let is_told = |it: &&sarsen_protocol::message::ReportReplica| it.server == ServerId(server);
        reports.iter().find(is_told).map(|it| it.fault)
    };
    assert_eq!(told(1), Some(ReplicaFault::CrcMismatch));
    assert_eq!(told(2), Some(ReplicaFault::CrcMismatch));
    assert_eq!(told(3), None);
}

#[tokio::test]
async fn bytes_that_are_bad_everywhere_leave_no_file() {
    for fault in [Fault::FlippedBit(5), Fault::OtherBytes] {
        let (cluster, client, _) = cluster_with_file(3, CHUNK_SIZE).await;
        for server in 1..=3 {
            cluster.server(server).fail(fault);
        }
        let folder = tempfile::tempdir().unwrap();
        let error = get(&client, &folder.path().join("target")).await;
        let error = error.unwrap_err();
        let Error::Corrupt { index: 0, bad, .. } = &error else {
            panic!("{error}");
        };
        let mut bad = bad.clone();
        bad.sort_unstable();
        assert_eq!(bad, [1, 2, 3].map(ServerId), "{fault:?}");
        assert_eq!(error.exit(), Exit::Corrupt);
        assert!(is_empty(folder.path()), "{fault:?}");
    }
}

/// A hole reads as zeros, unless the file's checksum says that none was there.
#[tokio::test]
async fn a_chunk_that_the_master_leaves_out_is_noticed() {
    let (cluster, client, _) = cluster_with_file(3, 2 * CHUNK_SIZE).await;
    cluster.master.slip(Slip::ForgetChunk);
    let folder = tempfile::tempdir().unwrap();
    let error = get(&client, &folder.path().join("target")).await;
    let error = error.unwrap_err();
    assert!(matches!(error, Error::FileMismatch { .. }), "{error}");
    assert_eq!(error.exit(), Exit::Corrupt);
    assert!(is_empty(folder.path()));
    cluster.master.slip(Slip::ForgetChunk);
    let hole = client.read_range("/file", 7, 100).await;
    assert_eq!(hole.unwrap(), [0; 100]);
}

#[tokio::test]
async fn without_a_replica_the_download_waits_and_gives_up() {
    let (cluster, _, _) = cluster_with_file(3, CHUNK_SIZE).await;
    let client = cluster.impatient_client().await;
    for server in 1..=3 {
        cluster.server(server).fail(Fault::Read(Status::Overloaded));
    }
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("target");
    let error = get(&client, &target).await.unwrap_err();
    assert!(matches!(error, Error::NoReplica { cause: Some(_), .. }));
    assert_eq!(error.exit(), Exit::Unavailable);
    (1..=3).for_each(|server| cluster.master.lose(server));
    let error = get(&client, &target).await.unwrap_err();
    assert!(matches!(error, Error::NoReplica { cause: None, .. }));
    assert!(is_empty(folder.path()));
}

#[tokio::test]
async fn a_ticket_that_has_expired_is_fetched_anew() {
    let (cluster, client, bytes) = cluster_with_file(1, CHUNK_SIZE).await;
    let server = cluster.server(1);
    server.fail(Fault::ReadOnce(Status::TicketExpired));
    let read = client.read_range("/file", 0, u64::MAX).await;
    assert!(read.unwrap() == bytes);
    assert!(cluster.master.asked().reports.is_empty());
}

#[tokio::test]
async fn a_file_that_is_not_there_touches_nothing_local() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client().await;
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("target");
    std::fs::write(&target, "precious").unwrap();
    let error = get(&client, &target).await.unwrap_err();
    assert_eq!(error.exit(), Exit::NotFound);
    assert_eq!(std::fs::read(&target).unwrap(), b"precious");
}

/// One of three replicas takes as long for a frame as the others for all of it.
#[tokio::test]
async fn a_server_that_is_slow_does_not_set_the_pace() {
    let (cluster, client, bytes) = cluster_with_file(3, 24 * CHUNK_SIZE).await;
    cluster
        .server(2)
        .fail(Fault::Slow(Duration::from_millis(400)));
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("target");
    let got = get(&client, &target).await.unwrap();
    assert!(got.bad.is_empty());
    assert!(std::fs::read(&target).unwrap() == bytes);
    let frames = [1, 2, 3].map(|id| cluster.server(id).frames.load(Ordering::Relaxed));
    // It had a third of them, 32, before.
    assert!(frames[1] <= 10, "{frames:?}");
    assert!(frames.iter().sum::<usize>() >= 96, "{frames:?}");
    assert!(cluster.master.asked().reports.is_empty());
}
