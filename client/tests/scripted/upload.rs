//! Uploads: what is asked of the servers, and what is done when they fail.

use std::fs::{File, OpenOptions};
use std::io::Cursor;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sarsen_client::{Error, GetOptions, GetTarget, Progress, PutOptions, PutSource, StreamError};
use sarsen_edge::exit::{Exit, Explain as _};
use sarsen_protocol::crc::crc32;
use sarsen_protocol::id::ServerId;
use sarsen_protocol::message::Kind;
use sarsen_protocol::status::Status;
use tokio::io::AsyncWriteExt as _;
use tokio::time::sleep;

use crate::chunkserver::Fault;
use crate::master::Slip;
use crate::{CHUNK_SIZE, Cluster, noise};

fn reader(bytes: &[u8]) -> PutSource {
    PutSource::Reader(Box::new(Cursor::new(bytes.to_vec())))
}

#[tokio::test]
async fn every_size_goes_up_and_comes_down_from_files_and_pipes() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let folder = tempfile::tempdir().unwrap();
    for (seed, size) in [
        0,
        1,
        65_535,
        65_536,
        65_537,
        CHUNK_SIZE - 1,
        CHUNK_SIZE,
        CHUNK_SIZE + 1,
        9 * CHUNK_SIZE + 12_345,
    ]
    .into_iter()
    .enumerate()
    {
        let bytes = noise(size, seed as u64);
        let local = folder.path().join("source");
        std::fs::write(&local, &bytes).unwrap();
        let named = PutSource::Path(local);
        for (path, source) in [("/file", named), ("/pipe", reader(&bytes))] {
            let put = client.put(path, source, PutOptions::default()).await;
            let put = put.unwrap();
            assert_eq!(put.bytes, size as u64, "{path} of {size}");
            assert_eq!(put.crc32, crc32(&bytes), "{path} of {size}");
            assert_eq!(put.node.chunks as usize, size.div_ceil(CHUNK_SIZE));
            assert_eq!((put.resent, put.short.len()), (0, 0));
            let target = folder.path().join("target");
            let get = client
                .get(path, GetTarget::Path(target.clone()), GetOptions::default())
                .await;
            assert_eq!(get.unwrap().crc32, Some(crc32(&bytes)));
            assert!(std::fs::read(&target).unwrap() == bytes, "{path} of {size}");
        }
    }
}

/// A file in `/proc` says that it has no bytes, and went up as it says.
#[tokio::test]
async fn a_file_that_says_it_is_empty_goes_up_with_the_bytes_that_it_has() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client().await;
    let local = PathBuf::from("/proc/self/cmdline");
    let bytes = std::fs::read(&local).unwrap();
    assert_eq!(std::fs::metadata(&local).unwrap().len(), 0);
    let sources = [PutSource::Path(local.clone()), PutSource::Regular(local)];
    for (path, source) in ["/path", "/regular"].into_iter().zip(sources) {
        let put = client.put(path, source, PutOptions::default()).await;
        assert_eq!(put.unwrap().bytes, bytes.len() as u64);
        let read = client.read_range(path, 0, u64::MAX).await.unwrap();
        assert_eq!(read, bytes);
    }
}

/// Writes over a file when some of it has gone up.
struct Rewriting {
    local: PathBuf,
    bytes: Vec<u8>,
}

impl Progress for Rewriting {
    fn total(&self, _bytes: u64) {}

    fn done(&self, _bytes: u64) {
        let file = OpenOptions::new().write(true).open(&self.local);
        file.unwrap().write_all_at(&self.bytes, 0).unwrap();
    }
}

/// A file was written over while it was on its way: some of what went up was of before, some of after,
/// and that was told to nobody. One that grew went up as far as it had been, which nobody was told either.
#[tokio::test]
async fn a_file_that_is_written_to_meanwhile_is_not_published() {
    for len in [1, 3 * CHUNK_SIZE, 3 * CHUNK_SIZE + 1] {
        let cluster = Cluster::start(3).await;
        let client = cluster.client().await;
        let folder = tempfile::tempdir().unwrap();
        let local = folder.path().join("source");
        std::fs::write(&local, noise(3 * CHUNK_SIZE, 1)).unwrap();
        // Clocks of file systems are coarse: what is written now is written later than that.
        let long_ago = SystemTime::now() - Duration::from_secs(60);
        File::open(&local).unwrap().set_modified(long_ago).unwrap();
        let mut options = PutOptions::default();
        options.progress = Some(Arc::new(Rewriting {
            local: local.clone(),
            bytes: noise(len, 2),
        }));
        let put = client.put("/file", PutSource::Path(local), options).await;
        let error = put.unwrap_err();
        assert!(matches!(error, Error::SourceChanged), "{len}: {error}");
        assert_eq!(error.exit(), Exit::Failed);
        assert!(error.hint().is_some());
        let asked = cluster.master.asked();
        assert_eq!((asked.publications.len(), asked.aborted), (0, 1), "{len}");
    }
}

/// Thousands of small files are thousands of times this.
#[tokio::test]
async fn a_small_file_takes_two_requests_and_a_stream() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let folder = tempfile::tempdir().unwrap();
    let local = folder.path().join("source");
    let mut told = 0;
    for (size, streams, requests) in [
        (
            0,
            0,
            &[Kind::OpenSession, Kind::CreatePending, Kind::Publish][..],
        ),
        (1, 1, &[Kind::CreatePending, Kind::Publish]),
        (3 * CHUNK_SIZE, 4, &[Kind::CreatePending, Kind::Publish]),
    ] {
        std::fs::write(&local, noise(size, 1)).unwrap();
        let source = PutSource::Regular(local.clone());
        let put = client.put("/file", source, PutOptions::default());
        put.await.unwrap();
        let kinds = cluster.master.asked().kinds;
        assert_eq!(kinds[told..], *requests, "{size}");
        told = kinds.len();
        let opened: usize = (1..=3)
            .map(|server| cluster.server(server).opened.lock().unwrap().len())
            .sum();
        assert_eq!(opened, streams, "{size}");
    }
}

/// It took two, and two entries of the master's log.
#[tokio::test]
async fn an_empty_file_takes_one_request() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let make = Kind::MakeFile;
    cluster.master.slip(Slip::LoseAnswer(make));
    let made = client.touch("/file").await.unwrap();
    let asked = cluster.master.asked();
    assert_eq!(asked.kinds, [Kind::OpenSession, make, make]);
    assert_eq!(
        asked.repeated.len(),
        1,
        "the same, since its answer was lost"
    );
    cluster
        .master
        .slip(Slip::Refuse(make, Status::AlreadyExists));
    assert_eq!(client.touch("/file").await.unwrap(), made);
    assert_eq!(cluster.master.asked().kinds[3..], [make, Kind::Stat]);
}

#[tokio::test]
async fn the_room_that_is_coming_is_told_where_it_is_known() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client().await;
    let folder = tempfile::tempdir().unwrap();
    let local = folder.path().join("source");
    std::fs::write(&local, noise(CHUNK_SIZE + 5, 1)).unwrap();
    let file = client.put("/f", PutSource::Path(local), PutOptions::default());
    file.await.unwrap();
    let pipe = client.put("/p", reader(b"small"), PutOptions::default());
    pipe.await.unwrap();
    let opened = cluster.server(1).opened.lock().unwrap();
    let mut rooms: Vec<_> = opened.iter().map(|open| open.room).collect();
    rooms.sort_unstable();
    assert_eq!(rooms, [5, 5, 1024 * 1024]);
}

/// A chain breaks: the chunk goes up again under a new handle, without the server to blame.
#[tokio::test]
async fn a_server_that_is_blamed_is_left_out() {
    let cluster = Cluster::start(4).await;
    let client = cluster.client().await;
    cluster
        .server(1)
        .fail(Fault::WriteOnce(Status::ChainBroken, 3));
    let bytes = noise(5 * CHUNK_SIZE, 2);
    let put = client.put("/file", reader(&bytes), PutOptions::default());
    let put = put.await.unwrap();
    assert_eq!((put.crc32, put.resent), (crc32(&bytes), 1));
    assert_eq!(put.short, [], "a fourth server was there");
    let asked = cluster.master.asked();
    let excluded = asked.allocations.iter().filter(|it| !it.exclude.is_empty());
    let excluded: Vec<_> = excluded.map(|it| it.exclude.clone()).collect();
    assert!(!excluded.is_empty());
    assert!(
        excluded.iter().all(|it| *it == [ServerId(3)]),
        "{excluded:?}"
    );
    // What was published is what was sealed last.
    let read = client.read_range("/file", 0, u64::MAX).await.unwrap();
    assert!(read == bytes);
}

#[tokio::test]
async fn with_too_few_servers_a_chunk_has_fewer_copies_and_that_is_told() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let server = cluster.server(1);
    server.fail(Fault::WriteOnce(Status::MediumFailed, 1));
    let put = client.put("/file", reader(b"bytes"), PutOptions::default());
    let put = put.await.unwrap();
    let short: Vec<_> = put.short.iter().map(|it| (it.copies, it.wanted)).collect();
    assert_eq!((put.resent, short), (1, vec![(2, 3)]));
    let asked = cluster.master.asked().allocations;
    let demands: Vec<_> = asked
        .iter()
        .map(|it| (it.fewest, it.exclude.len()))
        .collect();
    assert_eq!(demands, [(0, 1), (2, 1)], "the first came unasked");
}

/// One of three disks is full: the master says so of whole chunks on three servers, and the upload
/// ended where two copies would have done.
#[tokio::test]
async fn with_too_little_room_on_some_a_chunk_has_fewer_copies() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let no_space = Slip::Refuse(Kind::AllocateChunks, Status::NoSpace);
    cluster.master.slip(no_space);
    let bytes = noise(12 * CHUNK_SIZE, 5);
    let put = client.put("/file", reader(&bytes), PutOptions::default());
    assert_eq!(put.await.unwrap().crc32, crc32(&bytes));
    let asked = cluster.master.asked().allocations;
    assert_eq!(asked.first().map(|it| it.fewest), Some(2), "asked for less");
}

#[tokio::test]
async fn disks_that_stay_full_end_the_upload_and_leave_nothing() {
    let cluster = Cluster::start(3).await;
    let client = cluster.impatient_client().await;
    for server in 1..=3 {
        cluster.server(server).fail(Fault::Write(Status::NoSpace));
    }
    let put = client.put("/file", reader(b"bytes"), PutOptions::default());
    let error = put.await.unwrap_err();
    let Error::ChunkNotStored { index: 0, cause } = &error else {
        panic!("{error}");
    };
    let no_space = Status::NoSpace;
    assert!(matches!(**cause, StreamError::Status { status, .. } if status == no_space));
    assert_eq!(error.exit(), Exit::NoSpace);
    let asked = cluster.master.asked();
    assert_eq!((asked.publications.len(), asked.aborted), (0, 1));
}

/// A stream broke once, and its chunk went up by another. When the disks were full later, what was told
/// was the stream that had broken, with the exit code of a cluster that can't be reached.
#[tokio::test]
async fn a_failure_that_was_got_over_is_not_why_a_later_chunk_fails() {
    let cluster = Cluster::start(4).await;
    let client = cluster.client_that_waits(Duration::from_secs(1)).await;
    let broken = Fault::WriteOnce(Status::ChainBroken, 3);
    cluster.server(1).fail(broken);
    let (mut pipe, source) = tokio::io::duplex(CHUNK_SIZE);
    let source = PutSource::Reader(Box::new(source));
    let put = client.put("/file", source, PutOptions::default());
    let feed = async {
        pipe.write_all(&noise(CHUNK_SIZE, 1)).await.unwrap();
        // The first chunk came with the file, and is asked for when its stream has failed.
        while cluster.master.asked().allocations.is_empty() {
            sleep(Duration::from_millis(1)).await;
        }
        let no_space = (Kind::AllocateChunks, Status::NoSpace);
        cluster.master.always_refuse(Some(no_space));
        pipe.write_all(b"more").await.unwrap();
        drop(pipe);
    };
    let (put, ()) = tokio::join!(put, feed);
    let error = put.unwrap_err();
    assert_eq!(error.exit(), Exit::NoSpace, "{error}");
    assert!(matches!(error, Error::ChunkNotStored { index: 1, .. }));
}

/// The answer to a change is lost: it is repeated under its own id, and done once.
#[tokio::test]
async fn a_lost_answer_is_asked_for_again_under_the_same_id() {
    for kind in [Kind::CreatePending, Kind::Publish] {
        let cluster = Cluster::start(3).await;
        let client = cluster.client().await;
        cluster.master.slip(Slip::LoseAnswer(kind));
        let put = client.put("/file", reader(b"bytes"), PutOptions::default());
        put.await.unwrap();
        let asked = cluster.master.asked();
        assert_eq!(asked.publications.len(), 1, "{kind:?}");
        assert_eq!(asked.repeated.len(), 1, "{kind:?}");
        assert_eq!(asked.sessions, 1);
    }
}

#[tokio::test]
async fn a_session_that_has_expired_is_opened_anew_if_nothing_was_done() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let unknown = Slip::Refuse(Kind::CreatePending, Status::SessionUnknown);
    cluster.master.slip(unknown);
    let put = client.put("/file", reader(b"bytes"), PutOptions::default());
    put.await.unwrap();
    assert_eq!(cluster.master.asked().sessions, 2);
    // A pending file went with its session: that upload is over.
    let unknown = Slip::Refuse(Kind::Publish, Status::SessionUnknown);
    cluster.master.slip(unknown);
    let put = client.put("/other", reader(b"bytes"), PutOptions::default());
    assert!(matches!(put.await, Err(Error::SessionLost)));
}

#[tokio::test]
async fn a_change_whose_fate_is_unknown_is_not_repeated_under_another_session() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    // The answer is lost, and the repetition meets a master that has forgotten the session.
    let create = Kind::CreatePending;
    cluster.master.slip(Slip::LoseAnswer(create));
    let unknown = Slip::Refuse(create, Status::SessionUnknown);
    cluster.master.slip(unknown);
    let put = client.put("/file", reader(b"bytes"), PutOptions::default());
    assert!(matches!(put.await, Err(Error::OutcomeUnknown { .. })));
    assert_eq!(cluster.master.asked().sessions, 1);
}

#[tokio::test]
async fn a_connection_that_its_server_closed_is_nobodys_fault() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    for server in 1..=3 {
        cluster.server(server).fail(Fault::ClosesAfterStream);
    }
    let bytes = noise(6 * CHUNK_SIZE, 3);
    let put = client.put("/file", reader(&bytes), PutOptions::default());
    put.await.unwrap();
    let read = client.read_range("/file", 0, u64::MAX).await.unwrap();
    assert!(read == bytes);
    let asked = cluster.master.asked();
    assert!(asked.allocations.iter().all(|it| it.exclude.is_empty()));
    assert!(asked.reports.is_empty(), "{:?}", asked.reports);
}

#[tokio::test]
async fn a_master_in_safe_mode_is_waited_for() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    for _ in 0..2 {
        let safe_mode = Slip::Refuse(Kind::CreatePending, Status::SafeMode);
        cluster.master.slip(safe_mode);
    }
    let put = client.put("/file", reader(b"bytes"), PutOptions::default());
    put.await.unwrap();
    let asked = cluster.master.asked();
    assert_eq!((asked.publications.len(), asked.repeated.len()), (1, 0));
}
