//! Replicas that are lost, damaged or too many: the cluster becomes whole again without help.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::{Cluster, QUICK, noise};

const MIB: usize = 1024 * 1024;

/// Where a chunk file's data begins.
const DATA_AT: u64 = 8192;

/// A cluster that does not wait long for servers that are gone.
fn start(chunkservers: usize, more: &[&str]) -> Cluster {
    let settings = [QUICK, &["repair_grace=500ms"], more].concat();
    Cluster::start_with(chunkservers, &settings)
}

fn report(cluster: &Cluster) -> Value {
    cluster.sarsen(&["--json", "report"]).json()
}

/// The files of all chunks on the servers that run.
fn chunk_files(cluster: &Cluster) -> Vec<PathBuf> {
    let running = (0..cluster.chunkservers.len()).filter(|&n| cluster.chunkservers[n].is_some());
    running.flat_map(|n| cluster.chunk_files(n)).collect()
}

/// Waits until the servers that run hold so many replicas, no more and no fewer.
fn until_held(cluster: &Cluster, replicas: usize) {
    cluster.until("as many replicas as there should be", |cluster| {
        (chunk_files(cluster).len() == replicas).then_some(())
    });
}

fn byte_at(chunk_file: &Path, offset: u64) -> Option<u8> {
    let mut byte = [0];
    let file = fs::File::open(chunk_file).ok()?;
    file.read_exact_at(&mut byte, DATA_AT + offset).ok()?;
    Some(byte[0])
}

fn flip(chunk_file: &Path, offset: u64) {
    let file = fs::File::options().write(true).open(chunk_file).unwrap();
    let byte = byte_at(chunk_file, offset).unwrap();
    file.write_all_at(&[byte ^ 0x10], DATA_AT + offset).unwrap();
}

/// One server alone has everything, and it is right.
fn check_alone(cluster: &mut Cluster, alone: usize, files: &[(&str, Vec<u8>)]) {
    for other in (0..cluster.chunkservers.len()).filter(|&other| other != alone) {
        cluster.kill_chunkserver(other);
    }
    for (path, bytes) in files {
        assert!(cluster.bytes(path) == *bytes, "{path} from {alone} alone");
    }
}

#[test]
fn what_a_server_held_that_is_lost_for_good_is_copied_to_the_others() {
    let mut cluster = start(4, &[]);
    let files = [
        ("/a", noise(5 * MIB + 77, 1)),
        ("/b", noise(3 * MIB, 2)),
        ("/c", noise(1, 3)),
    ];
    for (path, bytes) in &files {
        cluster.put(bytes, path);
    }
    let lost = (0..4)
        .max_by_key(|&number| cluster.chunk_files(number).len())
        .unwrap();
    cluster.kill_chunkserver(lost);
    fs::remove_dir_all(cluster.chunkserver_dir(lost)).unwrap();
    // Dead servers count until `dead_after`: healthy at once would say nothing.
    until_held(&cluster, 10 * 3);
    cluster.until_healthy();
    assert!(report(&cluster)["repairs"]["done"].as_u64() > Some(0));
    for (path, bytes) in &files {
        assert!(cluster.bytes(path) == *bytes, "{path}");
    }
    // Whatever was read above: the copies are good too.
    let alone = if lost == 0 { 1 } else { 0 };
    check_alone(&mut cluster, alone, &files);
}

#[test]
fn a_flipped_bit_is_mended_on_the_server_that_has_it() {
    let mut cluster = start(3, &[]);
    let files = [("/file", noise(MIB, 5))];
    cluster.put(&files[0].1, "/file");
    let rotten = cluster.chunk_files(1).remove(0);
    flip(&rotten, 300_000);
    cluster.until("the bad block is found and replaced", |cluster| {
        // It is found when somebody reads it, and which replica that is is the reader's choice.
        assert!(cluster.bytes("/file") == files[0].1);
        (byte_at(&rotten, 300_000) == Some(files[0].1[300_000])).then_some(())
    });
    cluster.until_healthy();
    assert_eq!(cluster.chunk_files(1), [rotten]);
    check_alone(&mut cluster, 1, &files);
}

#[test]
fn chunks_of_which_one_server_has_the_only_good_replica_are_copied_from_it() {
    let mut cluster = start(3, &[]);
    let files = [("/file", noise(4 * MIB, 6))];
    cluster.put(&files[0].1, "/file");
    for lost in [0, 1] {
        cluster.kill_chunkserver(lost);
        fs::remove_dir_all(cluster.chunkserver_dir(lost)).unwrap();
    }
    // Two others come with empty directories.
    for new in [0, 1] {
        cluster.start_chunkserver(new);
    }
    until_held(&cluster, 4 * 3);
    cluster.until_healthy();
    check_alone(&mut cluster, 0, &files);
}

#[test]
fn an_upload_with_too_few_copies_gets_the_others_when_there_is_a_server_for_them() {
    let mut cluster = start(3, &[]);
    cluster.kill_chunkserver(2);
    cluster.until("the third is dead", |cluster| {
        let servers = report(cluster)["servers"].clone();
        let dead = servers
            .as_array()?
            .iter()
            .filter(|it| it["state"] == "dead");
        (dead.count() == 1).then_some(())
    });
    let files = [("/file", noise(3 * MIB, 7))];
    cluster.put(&files[0].1, "/file");
    assert_eq!(cluster.sarsen(&["fsck"]).code, Some(1), "short");
    cluster.start_chunkserver(2);
    cluster.until_healthy();
    until_held(&cluster, 3 * 3);
    check_alone(&mut cluster, 2, &files);
}

#[test]
fn the_extra_replicas_of_a_server_that_returns_go() {
    let mut cluster = start(4, &[]);
    let files = [("/file", noise(6 * MIB, 8))];
    cluster.put(&files[0].1, "/file");
    let lost = (0..4)
        .max_by_key(|&number| cluster.chunk_files(number).len())
        .unwrap();
    cluster.kill_chunkserver(lost);
    until_held(&cluster, 6 * 3);
    cluster.start_chunkserver(lost);
    // What it brings is too much at first, and then no more.
    cluster.wait(4);
    until_held(&cluster, 6 * 3);
    cluster.until_healthy();
    assert!(cluster.bytes("/file") == files[0].1);
}

/// Everything that takes part dies while copies are under way, some of them again and again.
#[test]
fn repair_goes_on_whoever_dies_in_the_middle_of_it() {
    let mut cluster = start(5, &["repair_streams_per_server=1"]);
    let files: Vec<(String, Vec<u8>)> = (0..6)
        .map(|n| (format!("/{n}"), noise(6 * MIB, 20 + n)))
        .collect();
    for (path, bytes) in &files {
        cluster.put(bytes, path);
    }
    cluster.kill_chunkserver(4);
    fs::remove_dir_all(cluster.chunkserver_dir(4)).unwrap();
    let under_way = |cluster: &Cluster| {
        cluster.until("copies are under way, or all are done", |cluster| {
            let report = report(cluster);
            let is_running = report["repairs"]["running"].as_u64() > Some(0);
            (is_running || cluster.sarsen(&["fsck"]).code == Some(0)).then_some(())
        });
    };
    for victim in 0..3 {
        under_way(&cluster);
        cluster.kill_chunkserver(victim);
        cluster.start_chunkserver(victim);
    }
    under_way(&cluster);
    cluster.kill_master();
    cluster.start_master();
    cluster.wait(4);
    under_way(&cluster);
    // A file goes while its chunks may be on their way.
    let done = cluster.sarsen(&["rm", "--purge", "/0"]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    cluster.until_healthy();
    until_held(&cluster, 5 * 6 * 3);
    cluster.until_healthy();
    for (path, bytes) in &files[1..] {
        assert!(cluster.bytes(path) == *bytes, "{path}");
    }
}
