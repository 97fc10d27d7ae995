//! A client that appends one record after the other, for as long as a test wants, and what it was
//! told.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::Cluster;

/// How often a record is sent.
const PERIOD: Duration = Duration::from_millis(5);

/// A `sarsen append --lines` that is fed, killed when it is dropped.
pub(crate) struct Appender {
    child: Child,
    path: String,
    is_over: Arc<AtomicBool>,
    told: Arc<Mutex<Vec<(u64, Instant)>>>,
    feeder: Option<JoinHandle<u64>>,
    reader: Option<JoinHandle<()>>,
}

impl Appender {
    /// Begins to append short records to a file that is there, one a period.
    pub(crate) fn start(cluster: &Cluster, path: &str, options: &[&str]) -> Self {
        let records = (0..).map(|n| {
            thread::sleep(PERIOD);
            record(n).into_bytes()
        });
        Self::start_with(cluster, path, options, records)
    }

    /// Begins to append lines to a file that is there, each when it comes.
    pub(crate) fn start_with(
        cluster: &Cluster,
        path: &str,
        options: &[&str],
        lines: impl Iterator<Item = Vec<u8>> + Send + 'static,
    ) -> Self {
        let mut command = cluster.command();
        command
            .args(["--master", &cluster.control, "--timeout", "120s"])
            .args(["append", "--lines"])
            .args(options)
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut child = command.spawn().expect("the binary runs");
        let mut stdin = child.stdin.take().expect("piped");
        let stdout = child.stdout.take().expect("piped");
        let is_over = Arc::new(AtomicBool::new(false));
        let told = Arc::new(Mutex::new(Vec::new()));
        let (stop, sink) = (Arc::clone(&is_over), Arc::clone(&told));
        let feeder = thread::spawn(move || {
            let mut sent = 0;
            for mut line in lines {
                line.push(b'\n');
                if stop.load(Ordering::Relaxed) || stdin.write_all(&line).is_err() {
                    break;
                }
                sent += 1;
            }
            sent
        });
        let reader = thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let offset = line.parse().expect("an offset a line");
                lock(&sink).push((offset, Instant::now()));
            }
        });
        Self {
            child,
            path: path.to_owned(),
            is_over,
            told,
            feeder: Some(feeder),
            reader: Some(reader),
        }
    }

    /// How many records were acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        lock(&self.told).len()
    }

    /// Waits until so many more are.
    pub(crate) fn until_more(&self, cluster: &Cluster, records: usize) {
        self.until(cluster, self.acknowledged() + records);
    }

    /// Waits until so many are acknowledged.
    pub(crate) fn until(&self, cluster: &Cluster, wanted: usize) {
        cluster.until("records are acknowledged", |_| {
            (self.acknowledged() >= wanted).then_some(())
        });
    }

    /// Sends no more, waits for what is under way, and compares all of it with what a reader finds:
    /// each record once, where it was told to be, and no other. The longest time from one
    /// acknowledgement to the next.
    pub(crate) fn finish(mut self, cluster: &Cluster) -> Duration {
        self.is_over.store(true, Ordering::Relaxed);
        self.end();
        let told = lock(&self.told).clone();
        let found = records(cluster, &self.path);
        for (n, (offset, _)) in (0..).zip(&told) {
            assert_eq!(found.get(&record(n)), Some(offset), "{}", record(n));
        }
        assert_eq!(found.len(), told.len(), "records that nobody appended");
        let gaps = told.windows(2).map(|pair| match pair {
            [(_, one), (_, next)] => next.duration_since(*one),
            _ => Duration::ZERO,
        });
        gaps.max().unwrap_or_default()
    }

    /// Waits until all lines were sent and answered; the offset of each.
    pub(crate) fn offsets(mut self) -> Vec<u64> {
        self.end();
        lock(&self.told).iter().map(|(offset, _)| *offset).collect()
    }

    fn end(&mut self) {
        let feeder = self.feeder.take().expect("once");
        let sent: u64 = feeder.join().expect("the feeder");
        let status = self.child.wait().expect("a child");
        assert!(status.success(), "the appender ended with {status}");
        let reader = self.reader.take().expect("once");
        reader.join().expect("the reader");
        assert_eq!(
            lock(&self.told).len() as u64,
            sent,
            "lines without an answer"
        );
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn record(n: u64) -> String {
    format!("record {n}")
}

/// Where the records of a file are, each of which is there once.
pub(crate) fn records(cluster: &Cluster, path: &str) -> BTreeMap<String, u64> {
    // Nothing is appended any more: both say the same.
    let told = cluster.sarsen(&["--json", "records", path]).text();
    let payloads = cluster.sarsen(&["records", path]).text();
    assert_eq!(told.lines().count(), payloads.lines().count());
    let mut found = BTreeMap::new();
    for (told, payload) in told.lines().zip(payloads.lines()) {
        let told: Value = serde_json::from_str(told).expect("JSON");
        let offset = told["offset"].as_u64().expect("an offset");
        let twice = found.insert(payload.to_owned(), offset);
        assert_eq!(twice, None, "{payload} is there twice");
    }
    found
}

/// The server that holds the lease of a file's last chunk, once that has all its members: its number
/// among the chunkservers. With one member less than it should have, the next death would leave less
/// than `min_replicas`, and who is silent is waited for until `dead_after` then.
pub(crate) fn primary(cluster: &Cluster, path: &str) -> usize {
    cluster.until("a lease is out, and the chunk is whole", |cluster| {
        let located = cluster.sarsen(&["--json", "locate", path]).json();
        let chunks = located["chunks"].as_array()?.clone();
        let replicas = chunks.last()?["replicas"].as_array()?.clone();
        if replicas.len() < 3 {
            return None;
        }
        let primary = replicas.iter().find(|replica| replica["primary"] == true)?;
        let addr = primary["data_addr"]
            .as_str()
            .expect("an address")
            .to_owned();
        cluster.chunkservers.iter().position(|server| {
            server
                .as_ref()
                .is_some_and(|server| server.data.as_deref() == Some(&addr))
        })
    })
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
