//! A cluster of real processes on loopback: a master and three chunkservers, and clients that are
//! processes too.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use sarsen_edge::key;
use tempfile::TempDir;

use crate::cpu;
use crate::limits::{HOPS, Records, operations};
use crate::measure::Sample;
use crate::place;
use crate::roles::{CHUNKD, Client, Done, Errand, MASTER, Operation, Party, Role, connect};

/// How long anything may take that is no measurement.
const PATIENCE: Duration = Duration::from_secs(120);

/// Time between two looks at what is waited for.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Names the way in which chunkservers move bytes, where it is not to be theirs to choose.
pub const IO_VARIABLE: &str = "SARSEN_BENCH_IO";

/// A running cluster; ended when dropped.
#[derive(Debug)]
pub struct Cluster {
    /// Dropped before the folder is removed, the master last.
    chunkservers: Vec<Daemon>,
    master: Daemon,
    folder: TempDir,
    program: PathBuf,
}

/// A daemon as a child process.
#[derive(Debug)]
struct Daemon {
    name: String,
    child: Child,
    control: String,
}

impl Cluster {
    /// Starts a master and [`HOPS`] chunkservers that keep everything in a folder of their own
    /// below `parent`.
    ///
    /// # Errors
    /// When they don't start.
    pub fn start(parent: &Path) -> anyhow::Result<Self> {
        Self::start_from(&std::env::current_exe()?, parent)
    }

    /// Starts one in memory beside a local file of `len` bytes, with room for what is done with it.
    /// The folder of both has to outlive the cluster.
    ///
    /// # Errors
    /// When it does not start, or there is no room.
    pub fn start_beside_file(len: u64) -> anyhow::Result<(TempDir, PathBuf, Self)> {
        let memory = place::in_memory(6 * len)?;
        let source = memory.path().join("source");
        place::make_file(&source, len)?;
        let cluster = Self::start(memory.path())?;
        Ok((memory, source, cluster))
    }

    /// The same as [`Self::start`], of another build of the benchmark's program.
    ///
    /// # Errors
    /// When they don't start.
    pub fn start_from(program: &Path, parent: &Path) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("cluster-")
            .tempdir_in(parent)?;
        let root = folder.path();
        // Purged space is wanted back between two runs, not in ten seconds.
        let listen = ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"];
        let settings = ["--set", "gc_interval=200ms"];
        let master_args = [&listen[..], &settings[..]].concat();
        let master = Daemon::start(program, "master", MASTER, root, &master_args)?;
        let key_file = key_file(root);
        let key_file = key_file.to_str().context("a folder whose name is text")?;
        let io = std::env::var(IO_VARIABLE).unwrap_or_else(|_| "auto".to_owned());
        let args = [
            "--master",
            &master.control,
            "--key-file",
            key_file,
            "--io",
            &io,
        ];
        let name = |number| format!("chunkd {number}");
        let start = |number| Daemon::start(program, &name(number), CHUNKD, root, &args);
        let chunkservers = (1..=HOPS).map(start).collect::<anyhow::Result<_>>()?;
        let cluster = Self {
            chunkservers,
            master,
            folder,
            program: program.to_owned(),
        };
        let serving = async {
            let client = cluster.connect().await?;
            client.wait(u32::try_from(HOPS)?).await?;
            client.close().await;
            anyhow::Ok(())
        };
        tokio::runtime::Runtime::new()?.block_on(serving)?;
        Ok(cluster)
    }

    /// A client of the library in this process.
    ///
    /// # Errors
    /// When the cluster can't be reached.
    pub async fn connect(&self) -> anyhow::Result<sarsen_client::Client> {
        connect(&self.master.control, &self.key_file()).await
    }

    /// Uploads a file in a process of its own.
    ///
    /// # Errors
    /// When that fails.
    pub fn put(&self, source: &Path, path: &str, durable: bool) -> anyhow::Result<Sample> {
        self.bulk(&[put(source, path, durable)])
    }

    /// Downloads a file in a process of its own.
    ///
    /// # Errors
    /// When that fails.
    pub fn get(&self, path: &str, target: &Path) -> anyhow::Result<Sample> {
        self.bulk(&[get(path, target)])
    }

    /// Does small operations in a process of its own.
    ///
    /// # Errors
    /// When that fails.
    pub fn many(
        &self,
        operation: &Operation,
        in_flight: usize,
        count: u64,
    ) -> anyhow::Result<Sample> {
        let mut client = self.client(Errand::Many {
            operation: operation.clone(),
            in_flight,
            count,
        })?;
        client.go()?;
        Ok(operations(&client.done()?))
    }

    /// Has clients of one process append to a file, which is made and removed again for it.
    ///
    /// # Errors
    /// When that fails.
    pub fn append(&self, records: Records, durable: bool) -> anyhow::Result<Sample> {
        let path = "/appended";
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(async {
            let client = self.connect().await?;
            client.touch(path).await?;
            client.close().await;
            anyhow::Ok(())
        })?;
        let sample = self.bulk(&[Errand::Append {
            path: path.to_owned(),
            durable,
            clients: records.clients,
            in_flight: records.in_flight,
            count: records.count,
            len: records.len,
        }])?;
        runtime.block_on(async {
            let client = self.connect().await?;
            client.remove(path, false, true).await?;
            client.close().await;
            anyhow::Ok(())
        })?;
        self.wait_for_space(0)?;
        Ok(sample)
    }

    /// Has a process for each errand, all at once, and tells the processor time of everybody.
    ///
    /// # Errors
    /// When one of them fails.
    pub fn bulk(&self, errands: &[Errand]) -> anyhow::Result<Sample> {
        let clients = errands.iter().map(|errand| self.client(errand.clone()));
        let mut clients = clients.collect::<anyhow::Result<Vec<_>>>()?;
        let before = self
            .daemons()
            .map(Daemon::cpu)
            .collect::<anyhow::Result<Vec<_>>>()?;
        let began = Instant::now();
        clients.iter_mut().try_for_each(Party::go)?;
        let done = clients
            .iter_mut()
            .map(Party::done)
            .collect::<anyhow::Result<Vec<Done>>>()?;
        // A single client knows better, to whom its own start and end don't count.
        let (elapsed, p50) = match done.as_slice() {
            [only] => (only.elapsed.unwrap_or_else(|| began.elapsed()), only.p50),
            _ => (began.elapsed(), None),
        };
        let mut cpu = vec![("client".to_owned(), done.iter().map(|done| done.cpu).sum())];
        for (daemon, before) in self.daemons().zip(before) {
            cpu.push((daemon.name.clone(), daemon.cpu()?.saturating_sub(before)));
        }
        Ok(Sample {
            amount: done.iter().map(|done| done.amount).sum(),
            elapsed,
            cpu,
            p50,
        })
    }

    /// Waits until chunkservers hold no more chunks than `chunks` in all, those on their way out
    /// counted too, so that clearing away is no part of what is measured next.
    ///
    /// # Errors
    /// When it takes too long.
    pub fn wait_for_space(&self, chunks: usize) -> anyhow::Result<()> {
        let began = Instant::now();
        while count_chunks(self.folder.path())? > chunks {
            anyhow::ensure!(began.elapsed() < PATIENCE, "purged chunks are not deleted");
            thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    fn client(&self, errand: Errand) -> anyhow::Result<Party> {
        let client = Client {
            master: self.master.control.clone(),
            key_file: self.key_file(),
            errand,
        };
        Party::start_from(&self.program, &Role::Client(client))
    }

    fn key_file(&self) -> PathBuf {
        key_file(self.folder.path())
    }

    fn daemons(&self) -> impl Iterator<Item = &Daemon> {
        std::iter::once(&self.master).chain(&self.chunkservers)
    }
}

/// To upload a file.
#[must_use]
pub fn put(source: &Path, path: &str, durable: bool) -> Errand {
    Errand::Put {
        source: source.to_owned(),
        path: path.to_owned(),
        durable,
        replicas: None,
        streams: None,
    }
}

/// To download a file.
#[must_use]
pub fn get(path: &str, target: &Path) -> Errand {
    Errand::Get {
        path: path.to_owned(),
        target: target.to_owned(),
        streams: None,
    }
}

fn key_file(root: &Path) -> PathBuf {
    root.join("master").join(key::FILE_NAME)
}

/// Files of chunks in a folder and those below.
fn count_chunks(folder: &Path) -> anyhow::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(folder)? {
        let Ok(entry) = entry else { continue };
        let (path, name) = (entry.path(), entry.file_name());
        let is_folder = entry.file_type().is_ok_and(|it| it.is_dir());
        count += match is_folder {
            // Some may go while they are counted.
            true => count_chunks(&path).unwrap_or_default(),
            false => usize::from(is_chunk(&name.to_string_lossy())),
        };
    }
    Ok(count)
}

/// Whether a file is a chunk's, or that of one that waits to be deleted.
fn is_chunk(name: &str) -> bool {
    name.ends_with(".chunk") || name.ends_with(".deleted")
}

impl Daemon {
    fn start(
        program: &Path,
        name: &str,
        role: &str,
        root: &Path,
        args: &[&str],
    ) -> anyhow::Result<Self> {
        let dir = root.join(name.replace(' ', "-"));
        fs::create_dir(&dir)?;
        let log = dir.with_extension("log");
        let mut child = Command::new(program)
            .arg(role)
            .arg("--dir")
            .arg(&dir)
            .args(args)
            .env("XDG_RUNTIME_DIR", root)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let stdout = child.stdout.take().context("no stdout")?;
        // From here on, dropping ends the child.
        let mut daemon = Self {
            name: name.to_owned(),
            child,
            control: String::new(),
        };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let mut words = line.split_whitespace();
        match words.find_map(|word| word.strip_prefix("control=")) {
            Some(control) => control.clone_into(&mut daemon.control),
            None => anyhow::bail!(
                "{name} does not start: {}",
                fs::read_to_string(&log).unwrap_or_default()
            ),
        }
        Ok(daemon)
    }

    fn cpu(&self) -> anyhow::Result<Duration> {
        cpu::of_process(self.child.id())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(id) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself.
            let _ = kill_process(id, Signal::TERM);
        }
        let began = Instant::now();
        while began.elapsed() < PATIENCE && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(LOOK_INTERVAL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
