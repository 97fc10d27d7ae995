//! Lost servers, flipped bits.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::harness::{Cluster, noise};

const MIB: usize = 1024 * 1024;

/// Where a chunk file's data begins.
const DATA_AT: u64 = 8192;

fn flip_a_bit(chunk_file: &Path) {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(chunk_file)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, DATA_AT + 70_000).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], DATA_AT + 70_000)
        .unwrap();
}

#[test]
fn a_lost_chunkserver_is_not_noticed_by_readers() {
    let mut cluster = Cluster::start(3);
    let bytes = noise(5 * MIB, 1);
    cluster.put(&bytes, "/file");
    for lost in 0..2 {
        cluster.kill_chunkserver(lost);
        assert!(cluster.bytes("/file") == bytes, "{lost}");
    }
    for back in 0..2 {
        cluster.start_chunkserver(back);
    }
    cluster.wait(3);
    cluster.until_healthy();
}

#[test]
fn a_flipped_bit_is_read_around_and_told() {
    let cluster = Cluster::start(3);
    let bytes = noise(MIB, 2);
    cluster.put(&bytes, "/file");
    // Which replica a reader tries first is its own choice: flip all but one.
    let rotten = [0, 1].map(|number| cluster.chunk_files(number).remove(0));
    rotten.iter().for_each(|file| flip_a_bit(file));
    let done = cluster.sarsen(&["get", "/file", "-"]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stdout == bytes);
    // Once a reader met one, the master has it verified, and then replaced.
    cluster.until("the bad replicas are told and replaced", |cluster| {
        let done = cluster.sarsen(&["get", "/file", "-"]);
        assert!(done.stdout == bytes);
        let is_mended = |file: &PathBuf| {
            let mut byte = [0];
            let file = fs::File::open(file).ok()?;
            file.read_exact_at(&mut byte, DATA_AT + 70_000).ok()?;
            (byte[0] == bytes[70_000]).then_some(())
        };
        rotten.iter().try_for_each(is_mended)
    });
    cluster.until_healthy();
}

#[test]
fn bytes_that_are_bad_everywhere_are_not_delivered() {
    let cluster = Cluster::start(3);
    cluster.put(&noise(MIB, 3), "/file");
    for number in 0..3 {
        flip_a_bit(&cluster.chunk_files(number)[0]);
    }
    let target = cluster.path("target");
    let done = cluster.sarsen(&["get", "/file", target.to_str().unwrap()]);
    assert_eq!(done.code, Some(6), "{}", done.stderr);
    assert!(!target.exists());
    assert!(!cluster.path(".target.sarsen-part").exists());
    assert!(
        done.stderr.starts_with("sarsen: get /file: "),
        "{}",
        done.stderr
    );
}
