//! A process that uses a cluster through the client library, as `sarsen` does.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use sarsen_client::{
    ClientConfig, GetOptions, GetTarget, OpenFile, PutOptions, PutSource, RecordWriter,
    WriteOptions,
};
use sarsen_edge::key;
use sarsen_protocol::message::Level;
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::replies::{take_one, timed};
use super::{Done, Started};

/// Where the cluster is, and what is to be done there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Client {
    /// The master's control address.
    pub master: String,
    /// The cluster's key.
    pub key_file: PathBuf,
    /// What to do.
    pub errand: Errand,
}

/// What a client does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Errand {
    /// Uploads a file.
    Put {
        /// The local file.
        source: PathBuf,
        /// Where to.
        path: String,
        /// At `disk`, else at `memory`.
        durable: bool,
        /// Copies; the cluster's default if not given.
        replicas: Option<u8>,
        /// Chunks on their way at a time; the library's default if not given.
        streams: Option<usize>,
    },
    /// Downloads a file.
    Get {
        /// Which.
        path: String,
        /// Where to.
        target: PathBuf,
        /// Chunks on their way at a time; the library's default if not given.
        streams: Option<usize>,
    },
    /// Appends records to a file, which is there.
    Append {
        /// Which.
        path: String,
        /// At `disk`, else at `memory`.
        durable: bool,
        /// Clients, each with its own session and connections.
        clients: usize,
        /// Records of each that are on their way at a time.
        in_flight: usize,
        /// Records in all.
        count: u64,
        /// Bytes of a record.
        len: usize,
    },
    /// Does something small many times.
    Many {
        /// What.
        operation: Operation,
        /// At a time.
        in_flight: usize,
        /// In all.
        count: u64,
    },
}

/// Something small.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Operation {
    /// Reads a part of a file, each time another.
    Read {
        /// Which file.
        path: String,
        /// Its length.
        size: u64,
        /// Bytes of a part.
        len: u64,
    },
    /// Makes a folder, each time another.
    MakeFolder {
        /// The folder in which it is made.
        parent: String,
    },
    /// Asks what is at a path.
    Stat {
        /// Which.
        path: String,
    },
    /// Makes an empty file, each time another.
    Touch {
        /// The folder in which it is made.
        parent: String,
    },
}

impl Client {
    pub(super) fn play(&self) -> anyhow::Result<Done> {
        // The runtime that `sarsen` has.
        let runtime = Runtime::new()?;
        let done = runtime.block_on(async {
            let client = connect(&self.master, &self.key_file).await?;
            let done = self.run(&client).await;
            client.close().await;
            done
        });
        runtime.shutdown_background();
        done
    }

    async fn run(&self, client: &sarsen_client::Client) -> anyhow::Result<Done> {
        match &self.errand {
            Errand::Put {
                source,
                path,
                durable,
                replicas,
                streams,
            } => {
                let mut options = PutOptions::default();
                options.level = level(*durable);
                options.replicas = replicas.unwrap_or(options.replicas);
                options.streams_max = streams.unwrap_or(options.streams_max);
                put(client, source, path, options).await
            }
            Errand::Get {
                path,
                target,
                streams,
            } => {
                let mut options = GetOptions::default();
                options.streams_max = streams.unwrap_or(options.streams_max);
                get(client, path, target, options).await
            }
            Errand::Append {
                path,
                durable,
                clients,
                in_flight,
                count,
                len,
            } => {
                let mut options = WriteOptions::default();
                options.level = level(*durable);
                let appending = Appending {
                    in_flight: *in_flight,
                    payload: vec![0xa5; *len],
                    left: AtomicU64::new(*count),
                };
                self.append(path, options, *clients, appending).await
            }
            Errand::Many {
                operation,
                in_flight,
                count,
            } => many(client, operation, *in_flight, *count).await,
        }
    }
}

const fn level(durable: bool) -> Level {
    match durable {
        true => Level::Disk,
        false => Level::Memory,
    }
}

/// What clients append, together.
struct Appending {
    in_flight: usize,
    payload: Vec<u8>,
    left: AtomicU64,
}

impl Appending {
    /// Appends until nothing is left; the time that each record took until it was acknowledged.
    async fn run(&self, writer: &mut RecordWriter) -> anyhow::Result<Vec<Duration>> {
        let mut times = Vec::new();
        let mut receipts = VecDeque::new();
        loop {
            while receipts.len() < self.in_flight && take_one(&self.left) {
                let asked = Instant::now();
                receipts.push_back((asked, writer.append(&self.payload).await?));
            }
            let Some((asked, receipt)) = receipts.pop_front() else {
                return Ok(times);
            };
            receipt.await?;
            times.push(asked.elapsed());
        }
    }
}

impl Client {
    async fn append(
        &self,
        path: &str,
        options: WriteOptions,
        clients: usize,
        appending: Appending,
    ) -> anyhow::Result<Done> {
        let mut writers = Vec::new();
        for _ in 0..clients {
            let client = connect(&self.master, &self.key_file).await?;
            let mut writer = client.record_writer(path, options).await?;
            // Opens the chunk, if it is the first, and the stream to its primary.
            writer.append(&appending.payload).await?.await?;
            writers.push((client, writer));
        }
        let started = Started::go()?;
        let began = Instant::now();
        let appending = Arc::new(appending);
        let mut tasks = JoinSet::new();
        for (client, mut writer) in writers {
            let appending = Arc::clone(&appending);
            tasks.spawn(async move {
                let times = appending.run(&mut writer).await;
                drop(writer);
                (client, times)
            });
        }
        let (mut times, mut ended) = (Vec::new(), Vec::new());
        while let Some(task) = tasks.join_next().await {
            let (client, own) = task?;
            times.extend(own?);
            ended.push(client);
        }
        let done = timed(&started, began.elapsed(), times);
        for client in ended {
            client.close().await;
        }
        Ok(done)
    }
}

/// A client of the library.
///
/// # Errors
/// When the cluster can't be reached.
pub async fn connect(master: &str, key_file: &Path) -> anyhow::Result<sarsen_client::Client> {
    let mut config = ClientConfig::default();
    config.masters = vec![master.to_owned()];
    config.key = Some(key::load(key_file)?);
    Ok(sarsen_client::Client::connect(config).await?)
}

async fn put(
    client: &sarsen_client::Client,
    source: &Path,
    path: &str,
    options: PutOptions,
) -> anyhow::Result<Done> {
    let started = Started::go()?;
    let source = PutSource::Path(source.to_owned());
    let report = client.put(path, source, options).await?;
    let as_asked = report.resent == 0 && report.short.is_empty();
    anyhow::ensure!(as_asked, "the upload met a failure");
    Ok(Done {
        elapsed: Some(report.elapsed),
        ..started.done(report.bytes)
    })
}

async fn get(
    client: &sarsen_client::Client,
    path: &str,
    target: &Path,
    options: GetOptions,
) -> anyhow::Result<Done> {
    let started = Started::go()?;
    let target = GetTarget::Path(target.to_owned());
    let report = client.get(path, target, options).await?;
    anyhow::ensure!(report.bad.is_empty(), "the download met a bad replica");
    Ok(Done {
        elapsed: Some(report.elapsed),
        ..started.done(report.bytes)
    })
}

/// Does `count` operations, `in_flight` at a time.
async fn many(
    client: &sarsen_client::Client,
    operation: &Operation,
    in_flight: usize,
    count: u64,
) -> anyhow::Result<Done> {
    // The first of its kind opens connections and sessions; so many reads as are to be under way
    // at once open as many connections, as those of the loop beside it are open.
    let begun = Arc::new(operation.begin(client).await?);
    begun.once(u64::MAX).await?;
    if matches!(operation, Operation::Read { .. }) {
        do_many(&begun, in_flight, 8 * in_flight as u64).await?;
    }
    let started = Started::go()?;
    let began = Instant::now();
    let times = do_many(&begun, in_flight, count).await?;
    Ok(timed(&started, began.elapsed(), times))
}

/// The time that each took.
async fn do_many(
    begun: &Arc<Begun>,
    in_flight: usize,
    count: u64,
) -> anyhow::Result<Vec<Duration>> {
    let left = Arc::new(AtomicU64::new(count));
    let mut doing = JoinSet::new();
    for first in 0..in_flight as u64 {
        let (begun, left) = (Arc::clone(begun), Arc::clone(&left));
        doing.spawn(async move {
            let mut times = Vec::new();
            // Every task has its own numbers, so that no two make the same.
            let mut number = first;
            while take_one(&left) {
                let asked = Instant::now();
                begun.once(number).await?;
                times.push(asked.elapsed());
                number += in_flight as u64;
            }
            anyhow::Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(done) = doing.join_next().await {
        times.extend(done??);
    }
    Ok(times)
}

impl Operation {
    /// Makes ready for it: a file that is to be read is opened once.
    ///
    /// # Errors
    /// What the library says.
    pub async fn begin(&self, client: &sarsen_client::Client) -> anyhow::Result<Begun> {
        let file = match self {
            Self::Read { path, .. } => Some(client.open(path).await?),
            _ => None,
        };
        Ok(Begun {
            client: client.clone(),
            operation: self.clone(),
            file,
        })
    }
}

/// An operation that can be done again and again.
pub struct Begun {
    client: sarsen_client::Client,
    operation: Operation,
    file: Option<OpenFile>,
}

impl Begun {
    /// Does it, the one with this number.
    ///
    /// # Errors
    /// What the library says.
    pub async fn once(&self, number: u64) -> anyhow::Result<()> {
        let client = &self.client;
        match &self.operation {
            Operation::Read { size, len, .. } => {
                let places = (size / len).max(1);
                let offset = scattered(number) % places * len;
                let file = self.file.as_ref().context("not open")?;
                let bytes = file.read_at(offset, *len).await?;
                anyhow::ensure!(bytes.len() as u64 == *len, "a short read");
            }
            Operation::MakeFolder { parent } => {
                let path = format!("{parent}/{number}");
                client.make_folder(&path, false).await?;
            }
            Operation::Stat { path } => {
                client.stat(path).await?;
            }
            Operation::Touch { parent } => {
                let path = format!("{parent}/{number}");
                let nothing = PutSource::Reader(Box::new(tokio::io::empty()));
                client.put(&path, nothing, PutOptions::default()).await?;
            }
        }
        Ok(())
    }

    /// Does it once for each of these numbers, all at a time.
    ///
    /// # Errors
    /// What the library says of the first that fails.
    pub async fn at_once(self: &Arc<Self>, numbers: Range<u64>) -> anyhow::Result<()> {
        let mut doing = JoinSet::new();
        for number in numbers {
            let begun = Arc::clone(self);
            doing.spawn(async move { begun.once(number).await });
        }
        while let Some(done) = doing.join_next().await {
            done??;
        }
        Ok(())
    }
}

/// A number that looks random, the same for the same `number` each time.
const fn scattered(number: u64) -> u64 {
    let mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ (mixed >> 32)
}
