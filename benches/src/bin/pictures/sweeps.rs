//! What is measured for each picture: Sarsen and the loops beside it, at each step in turn.

use std::path::{Path, PathBuf};

use sarsen_benches::cluster::Cluster;
use sarsen_benches::limits::{self, Download, HOPS, Relay};
use sarsen_benches::measure::{MIB, Sample, Series, Way, alternate};
use sarsen_benches::picture::{Curve, Picture};
use sarsen_benches::place;
use sarsen_benches::roles::Errand;
use sarsen_client::STREAMS_DEFAULT as STREAMS;
use tokio::runtime::Runtime;

/// Bytes of a chunk.
const CHUNK_LEN: u64 = sarsen_protocol::size::CHUNK_LEN_MAX as u64;

/// Bytes that a run moves at least, file after file: processor time is told in steps of 10 ms.
const RUN_LEN_MIN: u64 = 256 * MIB;

/// And files at most, each of which is moved by processes that are started for it.
const RUN_FILES_MAX: u64 = 16;

/// Bytes of the smallest file that the loops are limits of. With fewer they have fewer connections than
/// Sarsen has parties at work, and reserve room for a whole chunk where Sarsen takes what a file needs.
const LIMITED_MIN: u64 = STREAMS as u64 * CHUNK_LEN;

/// Where steps of all pictures are measured.
pub(crate) struct Sweeps {
    memory: PathBuf,
    /// Bytes of the largest file.
    len: u64,
    runs: usize,
    /// What the pictures say of the machine.
    where_from: String,
    cluster: Cluster,
}

/// One step: who moves how much in how many streams.
#[derive(Clone, Copy)]
struct Step {
    /// Bytes of all clients.
    len: u64,
    clients: u64,
    replicas: usize,
    /// Streams of a client.
    streams: usize,
    /// Whether the loops are limits of it.
    is_limited: bool,
}

impl Step {
    fn client_len(self) -> u64 {
        self.len / self.clients
    }

    /// Connections of the loops: as many as the clients together have streams.
    fn connections(self) -> usize {
        let chunks = usize::try_from(self.client_len().div_ceil(CHUNK_LEN)).unwrap_or(usize::MAX);
        let clients = usize::try_from(self.clients).unwrap_or(usize::MAX);
        clients * self.streams.min(chunks)
    }
}

impl Sweeps {
    pub(crate) fn new(
        memory: &Path,
        len: u64,
        runs: usize,
        where_from: String,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            memory: memory.to_owned(),
            len,
            runs,
            where_from,
            cluster: Cluster::start(memory)?,
        })
    }

    fn whole(&self) -> Step {
        Step {
            len: self.len,
            clients: 1,
            replicas: HOPS,
            streams: STREAMS,
            is_limited: true,
        }
    }

    pub(crate) fn file_size(&self) -> anyhow::Result<Picture> {
        let sizes = [4, 16, 64, 256, 1024].map(|mib| mib * MIB);
        let sizes = sizes.into_iter().filter(|&len| len <= self.len);
        let steps = sizes.map(|len| {
            let name = match len / MIB {
                1024 => "1 GiB".to_owned(),
                mib => format!("{mib} MiB"),
            };
            (
                name,
                Step {
                    len,
                    is_limited: len >= LIMITED_MIN,
                    ..self.whole()
                },
            )
        });
        self.up_and_down(
            "Sarsen beside the machine's limits",
            "size of the file (1 client, 3 replicas, durability `memory`)",
            steps.collect(),
        )
    }

    pub(crate) fn clients(&self) -> anyhow::Result<Picture> {
        let steps = [1, 2, 4, 8].map(|clients| {
            let whole = self.whole();
            (clients.to_string(), Step { clients, ..whole })
        });
        let moved = format!(
            "clients at once, {} MiB together (3 replicas, durability `memory`)",
            self.len / MIB
        );
        self.up_and_down("Clients at once", &moved, steps.into())
    }

    pub(crate) fn streams(&self) -> anyhow::Result<Picture> {
        let steps = [1, 2, 4, 8].map(|streams| {
            let whole = self.whole();
            (streams.to_string(), Step { streams, ..whole })
        });
        let moved = format!(
            "chunks on their way at a time (--jobs; {} MiB, 3 replicas, durability `memory`)",
            self.len / MIB
        );
        self.up_and_down("Streams of one client", &moved, steps.into())
    }

    pub(crate) fn replicas(&self) -> anyhow::Result<Picture> {
        let steps = (1..=HOPS).map(|replicas| {
            let whole = self.whole();
            (replicas.to_string(), Step { replicas, ..whole })
        });
        let mut curves = [
            Curve::new("upload", 0, false),
            Curve::new("limit: relay + write + CRC", 0, true),
        ];
        let mut names = Vec::new();
        for (name, step) in steps {
            let source = self.source(step)?;
            let all = alternate(
                self.runs,
                &mut [
                    ("upload", &mut || self.up(step, &source)),
                    ("relay + write + CRC", &mut || self.relay(step)),
                ],
            )?;
            push_all(&mut curves, &all);
            names.push(name);
        }
        let moved = format!("replicas ({} MiB, durability `memory`)", self.len / MIB);
        Ok(self.picture("Uploads and replicas", &moved, names, curves.into()))
    }

    /// Uploads, downloads and the loops beside them, at each step.
    fn up_and_down(
        &self,
        title: &str,
        steps_name: &str,
        steps: Vec<(String, Step)>,
    ) -> anyhow::Result<Picture> {
        let mut curves = [
            Curve::new("download, verified, to /dev/null", 1, false),
            Curve::new("limit: sendfile + CRC", 1, true),
            Curve::new("upload", 0, false),
            Curve::new("limit: relay + write + CRC", 0, true),
        ];
        let mut names = Vec::new();
        for (name, step) in steps {
            eprintln!(" {name}");
            let source = self.source(step)?;
            self.cluster.put(&source, "/down", false)?;
            // Of the clients' files together.
            let whole = self.memory.join("whole");
            place::make_file(&whole, step.len)?;
            let mut down = || self.down(step);
            let mut sendfile = || self.sendfile(step, &whole);
            let mut up = || self.up(step, &source);
            let mut relay = || self.relay(step);
            let [down_curve, sendfile_curve, up_curve, relay_curve] = &mut curves;
            if step.is_limited {
                let ways: &mut [Way<'_>] = &mut [
                    ("download", &mut down),
                    ("sendfile + CRC", &mut sendfile),
                    ("upload", &mut up),
                    ("relay + write + CRC", &mut relay),
                ];
                let all = alternate(self.runs, ways)?;
                push_all([down_curve, sendfile_curve, up_curve, relay_curve], &all);
            } else {
                let ways: &mut [Way<'_>] = &mut [("download", &mut down), ("upload", &mut up)];
                let all = alternate(self.runs, ways)?;
                push_all([down_curve, up_curve], &all);
                sendfile_curve.skip();
                relay_curve.skip();
            }
            self.purge(&["/down".to_owned()])?;
            names.push(name);
        }
        Ok(self.picture(title, steps_name, names, curves.into()))
    }

    fn picture(
        &self,
        title: &str,
        steps_name: &str,
        steps: Vec<String>,
        curves: Vec<Curve>,
    ) -> Picture {
        Picture {
            title: title.to_owned(),
            subtitle: self.where_from.clone(),
            steps_name: steps_name.to_owned(),
            steps,
            curves,
        }
    }

    /// The file that each client uploads.
    fn source(&self, step: Step) -> anyhow::Result<PathBuf> {
        let path = self.memory.join("source");
        place::make_file(&path, step.client_len())?;
        Ok(path)
    }

    fn up(&self, step: Step, source: &Path) -> anyhow::Result<Sample> {
        let mut paths = Vec::new();
        let sum = repeated(step.len, || {
            let first = paths.len();
            let names = (0..step.clients).map(|client| format!("/up-{first}-{client}"));
            paths.extend(names);
            let put = |path: &String| Errand::Put {
                source: source.to_owned(),
                path: path.clone(),
                durable: false,
                replicas: u8::try_from(step.replicas).ok(),
                streams: Some(step.streams),
            };
            let puts: Vec<Errand> = paths.iter().skip(first).map(put).collect();
            self.cluster.bulk(&puts)
        })?;
        self.purge(&paths)?;
        Ok(sum)
    }

    /// All clients read the same file, which lies in the page cache.
    fn down(&self, step: Step) -> anyhow::Result<Sample> {
        let get = Errand::Get {
            path: "/down".to_owned(),
            target: PathBuf::from("/dev/null"),
            streams: Some(step.streams),
        };
        let gets = vec![get; usize::try_from(step.clients)?];
        repeated(step.len, || self.cluster.bulk(&gets))
    }

    fn relay(&self, step: Step) -> anyhow::Result<Sample> {
        let (hops, connections) = (step.replicas, step.connections());
        repeated(step.len, || {
            limits::relay(Relay::WriteCrc, hops, connections, step.len, &self.memory)
        })
    }

    fn sendfile(&self, step: Step, file: &Path) -> anyhow::Result<Sample> {
        let connections = step.connections();
        repeated(step.len, || {
            limits::download(Download::Crc, connections, step.len, file, &self.memory)
        })
    }

    /// Removes files, and waits until their chunks are gone; those of the file that is read stay.
    fn purge(&self, paths: &[String]) -> anyhow::Result<()> {
        Runtime::new()?.block_on(async {
            let client = self.cluster.connect().await?;
            for path in paths {
                client.remove(path, false, true).await?;
            }
            client.close().await;
            anyhow::Ok(())
        })?;
        let stay = HOPS * usize::try_from(self.len.div_ceil(CHUNK_LEN))?;
        self.cluster.wait_for_space(stay)
    }
}

/// The medians of a step, each to its curve.
fn push_all<'a>(curves: impl IntoIterator<Item = &'a mut Curve>, all: &[Series]) {
    let pairs = curves.into_iter().zip(all);
    pairs.for_each(|(curve, series)| curve.push(series));
}

/// Does `once` until enough is moved to be timed; the sum of it.
fn repeated(len: u64, mut once: impl FnMut() -> anyhow::Result<Sample>) -> anyhow::Result<Sample> {
    let mut sum = once()?;
    for _ in 1..(RUN_LEN_MIN / len).clamp(1, RUN_FILES_MAX) {
        let next = once()?;
        sum.amount += next.amount;
        sum.elapsed += next.elapsed;
        let times = sum.cpu.iter_mut().zip(next.cpu);
        times.for_each(|((_, time), (_, next))| *time += next);
    }
    Ok(sum)
}
