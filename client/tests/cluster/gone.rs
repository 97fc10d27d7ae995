//! A file is removed or replaced while somebody writes to it (`spec/replication.md` section 14).

use std::ffi::OsStr;
use std::time::Instant;

use sarsen_client::{Client, Error, WriteOptions};
use sarsen_edge::exit::{Exit, Explain as _};

use crate::harness::{Cluster, Done, PATIENCE};

/// Chunks of a mebibyte; a lease is over soon, and with it what an open chunk of a file that is gone
/// still takes.
const SETTINGS: &[&str] = &[
    "chunk_size=1MiB",
    "heartbeat=100ms",
    "suspect_after=900ms",
    "dead_after=1s",
    "lease=1s",
    "gc_interval=200ms",
    "safe_mode_max=5s",
];

fn record(number: usize) -> Vec<u8> {
    format!("record {number} {}", "x".repeat(1000)).into_bytes()
}

/// Appends to `/file`, makes it go meanwhile, and goes on until told so; how many were acknowledged.
/// Only if `for_good` one may be in doubt: its chunk was there no more to be asked.
async fn append_until_gone(client: &Client, for_good: bool, go: impl FnOnce() -> Done) -> usize {
    let options = WriteOptions::default();
    let writer = client.record_writer("/file", options).await;
    let mut writer = writer.expect("the file");
    let mut acknowledged = 0;
    let mut append = async || {
        let receipt = writer.append(&record(acknowledged)).await;
        receipt.expect("room for it").await?;
        acknowledged += 1;
        Ok::<_, Error>(acknowledged)
    };
    append().await.expect("the file is there");
    assert_eq!(go().code, Some(0));
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < PATIENCE, "it is never told");
        match append().await {
            Ok(_) => {}
            Err(Error::ChunkGone) if for_good => {}
            Err(error) => {
                assert!(matches!(error, Error::FileGone), "{error}");
                assert_eq!(error.exit(), Exit::NotFound);
                assert!(
                    error
                        .hint()
                        .is_some_and(|hint| hint.contains("sarsen stat"))
                );
                return acknowledged;
            }
        }
    }
}

/// The cluster, with an empty `/file`.
fn start() -> Cluster {
    let cluster = Cluster::start_with(3, SETTINGS);
    assert_eq!(cluster.sarsen(&["touch", "/file"]).code, Some(0));
    cluster
}

#[tokio::test]
async fn what_was_appended_to_a_file_that_went_is_in_the_trash_with_it() {
    let cluster = start();
    let client = cluster.client().await;
    let acknowledged = append_until_gone(&client, false, || cluster.sarsen(&["rm", "/file"])).await;
    let entry = client.trash_list().await.expect("a list")[0].entry;
    client
        .trash_restore(entry, None)
        .await
        .expect("out of the trash");
    let mut records = client.records("/file").await.expect("the file");
    for number in 0..acknowledged {
        let found = records.next().await.expect("readable").expect("a record");
        assert_eq!(found.payload, record(number));
    }
    assert!(records.next().await.expect("readable").is_none());
    cluster.until_healthy();
}

#[tokio::test]
async fn a_file_that_took_the_place_of_another_takes_nothing_of_its_writers() {
    let cluster = start();
    let client = cluster.client().await;
    let other = cluster.local("other", b"the other");
    let replace = ["put", "--force", "--purge"].map(OsStr::new);
    let replace = [&replace[..], &[other.as_os_str(), OsStr::new("/file")]].concat();
    append_until_gone(&client, true, || cluster.sarsen(&replace)).await;
    assert_eq!(cluster.bytes("/file"), b"the other");
    cluster.until_healthy();
}

#[tokio::test]
async fn a_file_that_is_gone_for_good_leaves_nothing() {
    let cluster = start();
    let client = cluster.client().await;
    let purge = ["rm", "--purge", "/file"];
    append_until_gone(&client, true, || cluster.sarsen(&purge)).await;
    assert_eq!(cluster.sarsen(&["stat", "/file"]).code, Some(3));
    cluster.until("no chunk is left", |cluster| {
        (0..3)
            .all(|number| cluster.chunk_files(number).is_empty())
            .then_some(())
    });
}
