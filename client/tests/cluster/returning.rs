//! A replica that was away while some chunks of a file changed (`spec/replication.md` section 13):
//! when it comes back, these are copied to it, and no others.
//!
//! For the record, 1 GiB of a 4 GiB file:
//!
//! ```text
//! SARSEN_TEST_BYTES=4294967296 \
//!     cargo test --release -p sarsen-client --test cluster returning:: -- --nocapture
//! ```

use std::fs::{File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::chance::told;
use crate::harness::{Cluster, noise};
use crate::http::ask;

/// Bytes of the file, unless `SARSEN_TEST_BYTES` says otherwise: of small chunks then.
const BYTES: u64 = 16 * 1024 * 1024;

/// Who is away.
const AWAY: usize = 2;

/// What is made at a time.
const STEP: usize = 1024 * 1024;

/// Times as of a cluster that waits for who is away.
pub(crate) const SETTINGS: &[&str] = &[
    "heartbeat=200ms",
    "suspect_after=1s",
    "dead_after=2s",
    "lease=3s",
    "repair_grace=1h",
    "gc_interval=500ms",
    "safe_mode_max=5s",
];

#[test]
fn only_chunks_that_changed_are_copied_to_who_was_away() {
    let bytes = told("SARSEN_TEST_BYTES", BYTES);
    let chunk_size: u64 = if bytes > BYTES { 64 << 20 } else { 1 << 20 };
    let setting = format!("chunk_size={}MiB", chunk_size >> 20);
    let settings = [SETTINGS, &[&setting]].concat();
    let mut cluster = Cluster::start_with(3, &settings);
    let local = cluster.path("local");
    write_noise(&local, 0, bytes, 1);
    let source = local.to_str().expect("a plain name").to_owned();
    let put = cluster.sarsen(&["put", &source, "/file"]);
    assert_eq!(put.code, Some(0), "{}", put.stderr);
    cluster.until_healthy();

    cluster.kill_chunkserver(AWAY);
    // A quarter of it, from the middle of a chunk to the middle of another.
    let (from, len) = (bytes / 4 + chunk_size / 2, bytes / 4);
    write_noise(&local, from, len, 2);
    overwrite(&cluster, &local, from, len);
    cluster.until("all is sealed", |cluster| {
        let located = cluster.sarsen(&["--json", "locate", "/file"]).json();
        let chunks = located["chunks"].as_array().expect("chunks");
        let is_sealed = |chunk: &serde_json::Value| chunk["state"] == "sealed";
        chunks.iter().all(is_sealed).then_some(())
    });

    cluster.start_chunkserver(AWAY);
    cluster.wait(3);
    cluster.until_healthy();
    let changed = (from + len - 1) / chunk_size - from / chunk_size + 1;
    let copied: Vec<u64> = (0..3)
        .map(|server| chunks_copied(&cluster, server))
        .collect();
    println!("{changed} chunks changed, copied to each server: {copied:?}");
    assert_eq!(copied, [0, 0, changed]);

    let back = cluster.path("back");
    let get = cluster.sarsen(&["get", "/file", back.to_str().expect("a plain name")]);
    assert_eq!(get.code, Some(0), "{}", get.stderr);
    let same = Command::new("cmp").arg(&local).arg(&back).status();
    assert!(same.expect("cmp").success(), "the file is another");
}

/// Writes noise over a part of a local file.
fn write_noise(path: &Path, from: u64, len: u64, seed: u64) {
    let open = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path);
    let mut file = open.expect("a local file");
    file.seek(SeekFrom::Start(from)).expect("seek");
    let mut left = len;
    while left > 0 {
        let step = usize::try_from(left).unwrap_or(STEP).min(STEP);
        let bytes = noise(step, seed.wrapping_mul(1 << 40).wrapping_add(left));
        file.write_all(&bytes).expect("room");
        left -= step as u64;
    }
}

/// Writes a part of a local file over the same part of the stored one.
fn overwrite(cluster: &Cluster, local: &Path, from: u64, len: u64) {
    let mut part = File::open(local).expect("a local file");
    part.seek(SeekFrom::Start(from)).expect("seek");
    let mut command = cluster.command();
    command
        .args(["--master", &cluster.control, "write", "--offset"])
        .args([&from.to_string(), "/file"])
        .stdin(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    let mut stdin = child.stdin.take().expect("piped");
    std::io::copy(&mut std::io::Read::take(&mut part, len), &mut stdin).expect("it takes all");
    drop(stdin);
    assert!(child.wait().expect("a child").success());
}

/// Chunks that a chunkserver has copied from others since its last start.
fn chunks_copied(cluster: &Cluster, server: usize) -> u64 {
    let daemon = cluster.chunkservers[server].as_ref().expect("it runs");
    let (_, text) = ask(&daemon.http, "/metrics");
    let line = text
        .lines()
        .find(|line| line.contains("chunks_copied") && !line.starts_with('#'))
        .expect("the counter");
    let value = line.split_whitespace().last().expect("a value");
    value.parse().expect("a number")
}
