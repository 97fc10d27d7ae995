//! An open file outlives what happens to its path, to servers and to the master's life.

use sarsen_client::Error;
use sarsen_protocol::status::Status;

use crate::harness::{Cluster, noise};

const LEN: usize = 3 << 20;

/// Places all over the file.
fn places() -> impl Iterator<Item = usize> {
    (0..LEN - 5000).step_by(77_777)
}

/// Its locations and tickets are of a master that is no more, and then of one of an older epoch.
#[test]
fn it_is_read_without_a_master_and_with_the_next_one() {
    let mut cluster = Cluster::start(3);
    let bytes = noise(LEN, 3);
    cluster.put(&bytes, "/file");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let client = runtime.block_on(cluster.client());
    let file = runtime.block_on(client.open("/file")).expect("open");
    let read_everywhere = || {
        for place in places() {
            let read = runtime.block_on(file.read_at(place as u64, 5000));
            assert!(read.expect("read") == bytes[place..place + 5000], "{place}");
        }
    };
    read_everywhere();
    cluster.kill_master();
    read_everywhere();
    cluster.start_master();
    cluster.wait(3);
    read_everywhere();
    // What is kept names a server that is gone: the next master is asked.
    cluster.kill_chunkserver(0);
    read_everywhere();
    cluster.start_chunkserver(0);
    cluster.wait(3);
    read_everywhere();
}

#[test]
fn it_stays_the_file_that_it_was_until_that_is_purged() {
    let cluster = Cluster::start(3);
    let (bytes, other) = (noise(LEN, 4), noise(LEN, 5));
    cluster.put(&bytes, "/file");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let client = runtime.block_on(cluster.client());
    let file = runtime.block_on(client.open("/file")).expect("open");
    let replaced = cluster.sarsen_with_input(&["put", "--force", "-", "/file"], &other);
    assert_eq!(replaced.code, Some(0), "{}", replaced.stderr);
    for place in places() {
        let read = runtime.block_on(file.read_at(place as u64, 5000));
        assert!(read.expect("read") == bytes[place..place + 5000], "{place}");
        let read = runtime.block_on(client.read_range("/file", place as u64, 5000));
        assert!(read.expect("read") == other[place..place + 5000], "{place}");
    }
    runtime.block_on(client.trash_empty(None)).expect("emptied");
    // Until its chunks are deleted it may still be read, and never another's bytes.
    let gone = cluster.until("the old file is gone", |_| {
        match runtime.block_on(file.read_at(0, 5000)) {
            Ok(read) => {
                assert!(read == bytes[..5000]);
                None
            }
            Err(error) => Some(error),
        }
    });
    let is_not_found = matches!(
        gone,
        Error::Refused {
            status: Status::NotFound,
            ..
        }
    );
    assert!(is_not_found, "{gone}");
}
