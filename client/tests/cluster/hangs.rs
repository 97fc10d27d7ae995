//! A chunkserver that is stopped (SIGSTOP) in the middle of a chunk: its connections stand, its
//! kernel takes bytes, and it says nothing.
//!
//! For the record, with the chunks and timings of daily life:
//!
//! ```text
//! SARSEN_TEST_STOPS=5 cargo test --release -p sarsen-client --test cluster hangs:: -- --nocapture
//! ```
//!
//! prints the longest time in which an upload brought nothing further, which must be less than
//! twice `suspect_after`, for a stop of 30 s.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use sarsen_client::{Client, GetOptions, GetTarget, Progress, PutOptions, PutSource};
use sarsen_protocol::crc::crc32;
use tokio::sync::mpsc;

use crate::chance::{Chance, told};
use crate::harness::{Cluster, QUICK, noise};

const MIB: usize = 1024 * 1024;

/// How long a server stays stopped, for the record: longer than `dead_after`.
const STOP_LEN: Duration = Duration::from_secs(30);

/// When bytes were brought, and what is to happen at some of them.
struct Watch {
    state: Mutex<Watched>,
    /// After so many bytes the server is stopped.
    stop_at: u64,
    stop: Box<dyn Fn() + Send + Sync>,
}

struct Watched {
    last: u64,
    last_moved: Instant,
    stopped: Option<Instant>,
    /// Since the stop.
    longest_gap: Duration,
}

impl Watch {
    fn new(stop_at: u64, stop: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(Watched {
                last: 0,
                last_moved: Instant::now(),
                stopped: None,
                longest_gap: Duration::ZERO,
            }),
            stop_at,
            stop: Box::new(stop),
        })
    }

    fn stopped(&self) -> Option<Instant> {
        self.state.lock().unwrap().stopped
    }

    fn longest_gap(&self) -> Duration {
        self.state.lock().unwrap().longest_gap
    }
}

impl Progress for Watch {
    fn total(&self, _: u64) {}

    fn done(&self, bytes: u64) {
        let mut state = self.state.lock().unwrap();
        let now = Instant::now();
        // Less than before is a chunk that begins anew: its first bytes count, its reset does not.
        if bytes > state.last {
            if state.stopped.is_some() {
                let gap = now - state.last_moved;
                state.longest_gap = state.longest_gap.max(gap);
            }
            state.last_moved = now;
        }
        state.last = bytes;
        if bytes >= self.stop_at && state.stopped.is_none() {
            (self.stop)();
            state.stopped = Some(now);
        }
    }
}

fn source(cluster: &Cluster, bytes: &[u8]) -> PathBuf {
    cluster.local("source", bytes)
}

fn stopper(cluster: &Cluster, number: usize) -> impl Fn() + Send + Sync + 'static {
    let pid = cluster.chunkservers[number].as_ref().expect("runs").pid();
    move || signal(pid, "STOP")
}

fn signal(pid: u32, signal: &str) {
    let status = std::process::Command::new("kill")
        .args(["-s", signal, &pid.to_string()])
        .status();
    assert!(status.expect("kill").success());
}

/// What a download of `/file` brings, in whose course the watch has done its part.
async fn download(
    cluster: &Cluster,
    client: &Client,
    watch: Arc<Watch>,
    streams_max: usize,
) -> Vec<u8> {
    let mut options = GetOptions::default();
    options.progress = Some(watch.clone());
    options.streams_max = streams_max;
    let path = cluster.path("target");
    let target = GetTarget::Path(path.clone());
    let got = client.get("/file", target, options).await;
    let got = got.expect("a download that is slower, and no error");
    assert!(watch.stopped().is_some());
    let bytes = fs::read(path).expect("complete");
    assert_eq!(got.crc32, Some(crc32(&bytes)));
    bytes
}

/// One of three servers stops while chunks are on their way over all of them, in every place of
/// a chain: the upload ends while it is still stopped.
#[tokio::test]
async fn an_upload_goes_on_while_a_chunkserver_is_stopped() {
    let cluster = Cluster::start_with(3, QUICK);
    let bytes = noise(12 * MIB, 1);
    let source = source(&cluster, &bytes);
    let client = cluster.client().await;
    let watch = Watch::new(3 * MIB as u64 / 2, stopper(&cluster, 1));
    let mut options = PutOptions::default();
    options.progress = Some(watch.clone());
    let put = client.put("/file", PutSource::Path(source), options).await;
    let put = put.expect("an upload that is slower, and no error");
    assert_eq!(put.crc32, crc32(&bytes));
    println!(
        "the longest gap was {:.2?}; {} chunks are short, {} were sent again",
        watch.longest_gap(),
        put.short.len(),
        put.resent
    );
    assert!(watch.stopped().is_some());
    assert!(put.short.iter().all(|chunk| chunk.copies == 2));
    assert!(!put.short.is_empty());
    assert!(cluster.bytes("/file") == bytes);
}

#[tokio::test]
async fn a_download_leaves_a_chunkserver_that_is_stopped() {
    let cluster = Cluster::start_with(3, QUICK);
    let bytes = noise(12 * MIB, 2);
    cluster.put(&bytes, "/file");
    let client = cluster.client().await;
    let watch = Watch::new(MIB as u64, stopper(&cluster, 2));
    // Bytes that wait in sockets would hide the hang.
    let got = download(&cluster, &client, watch, 2).await;
    assert!(got == bytes);
}

/// Whoever hangs is suspected after an hour here, so each read that waited for that would not end.
const PATIENT: &[&str] = &[
    "chunk_size=1MiB",
    "heartbeat=100ms",
    "suspect_after=1h",
    "dead_after=2h",
    "safe_mode_max=5s",
];

#[tokio::test]
async fn reads_do_not_wait_for_a_chunkserver_that_is_stopped() {
    let cluster = Cluster::start_with(3, PATIENT);
    let bytes = noise(24 * MIB, 6);
    cluster.put(&bytes, "/file");
    let client = cluster.client().await;
    let watch = Watch::new(12 * MIB as u64, stopper(&cluster, 1));
    let got = download(&cluster, &client, watch, 2).await;
    assert!(got == bytes);
    let file = client.open("/file").await.expect("open");
    for place in (0..bytes.len() - 5000).step_by(177_777) {
        let read = file.read_at(place as u64, 5000).await;
        assert!(read.expect("read") == bytes[place..place + 5000], "{place}");
    }
}

/// What is read is the file that was there when the download began, whatever takes its place and
/// whoever dies meanwhile.
#[tokio::test]
async fn a_file_that_is_replaced_while_it_is_read_does_not_mix() {
    let cluster = Cluster::start_with(3, QUICK);
    let bytes = noise(12 * MIB, 4);
    cluster.put(&bytes, "/file");
    let other = cluster.local("other", &noise(12 * MIB, 5));
    let client = cluster.client().await;
    let mut replace = cluster.command();
    replace.args(["--master", &cluster.control, "put", "--force"]);
    replace.arg(other).arg("/file");
    let replace = Mutex::new(replace);
    // Whom the locations at hand name first is drawn: with two of them gone most chunks must be
    // located again, when their file is in the trash.
    let pids: Vec<_> = cluster.chunkservers.iter().flatten().collect();
    let pids: Vec<_> = pids.iter().map(|server| server.pid()).take(2).collect();
    let watch = Watch::new(MIB as u64, move || {
        let replaced = replace.lock().unwrap().output().expect("the binary runs");
        assert!(replaced.status.success());
        pids.iter().for_each(|&pid| signal(pid, "KILL"));
    });
    let got = download(&cluster, &client, watch, 1).await;
    assert!(got == bytes);
}

/// For the record: nothing is done unless `SARSEN_TEST_STOPS` says how often.
#[tokio::test]
async fn an_upload_goes_on_within_twice_suspect_after() {
    let stops = told("SARSEN_TEST_STOPS", 0);
    if stops == 0 {
        return;
    }
    let suspect_after = Duration::from_secs(3);
    let mut chance = Chance::told("stops");
    let cluster = Cluster::start_with(3, &["repair_grace=1s"]);
    let bytes = noise(1024 * MIB, 3);
    let source = source(&cluster, &bytes);
    let client = cluster.client().await;
    let mut longest = Duration::ZERO;
    for stop in 0..stops {
        let number = chance.place(3);
        let pid = cluster.chunkservers[number].as_ref().expect("runs").pid();
        let (going_on, mut goes_on) = mpsc::unbounded_channel();
        let watch = Watch::new(chance.below(bytes.len() as u64 * 3 / 4), move || {
            signal(pid, "STOP");
            let going_on = going_on.clone();
            // On a thread, since the upload may not wait for the end of the stop.
            thread::spawn(move || {
                thread::sleep(STOP_LEN);
                signal(pid, "CONT");
                let _ = going_on.send(());
            });
        });
        let mut options = PutOptions::default();
        options.progress = Some(watch.clone());
        options.force = true;
        let put = client.put("/file", PutSource::Path(source.clone()), options);
        let put = put.await.expect("an upload that is slower, and no error");
        assert_eq!(put.crc32, crc32(&bytes));
        let gap = watch.longest_gap();
        println!(
            "stop {stop} of server {number} after {} MiB: the longest gap was {gap:.2?}; {} of {} \
             chunks are short, {} were sent again; {:.1?} in all",
            watch.stop_at >> 20,
            put.short.len(),
            put.node.chunks,
            put.resent,
            put.elapsed,
        );
        longest = longest.max(gap);
        assert!(watch.stopped().is_some());
        goes_on
            .recv()
            .await
            .expect("it goes on when its stop is over");
        cluster.wait(3);
    }
    println!("the longest gap of {stops} uploads was {longest:.2?}");
    assert!(longest < 2 * suspect_after);
}
