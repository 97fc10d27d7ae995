//! A cluster of real processes for one test: a master and chunkservers, killed at its end.
//!
//! All that they leave lies in one temporary folder, the key that they find each other by too.
//! Ports are drawn by the system, so tests run side by side.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use sarsen_client::{Client, ClientConfig};
use sarsen_edge::key;
use serde_json::Value;
use tempfile::TempDir;

/// Far above what anything takes: whoever reaches it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

const SARSEN: &str = env!("CARGO_BIN_EXE_sarsen");

/// Settings under which failures are noticed quickly, with chunks that are small to move.
pub(crate) const QUICK: &[&str] = &[
    "chunk_size=1MiB",
    "heartbeat=100ms",
    "suspect_after=900ms",
    "dead_after=1s",
    "gc_interval=200ms",
    "safe_mode_max=5s",
];

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Done {
    /// The JSON document on stdout, of a command that succeeded.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.stdout)))
    }

    /// The text on stdout, of a command that succeeded.
    pub(crate) fn text(&self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        String::from_utf8(self.stdout.clone()).expect("text")
    }
}

/// A daemon, killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    pub(crate) control: String,
    pub(crate) data: Option<String>,
    pub(crate) http: String,
}

impl Daemon {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, as `TERM` or `STOP`.
    pub(crate) fn signal(&self, signal: &str) {
        send(self.pid(), signal);
    }

    /// Sends SIGTERM and returns the exit code.
    pub(crate) fn terminate(self) -> Option<i32> {
        self.signal("TERM");
        self.ended()
    }

    /// Waits for its end, and returns the exit code.
    pub(crate) fn ended(mut self) -> Option<i32> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code();
            }
            assert!(began.elapsed() < PATIENCE, "the daemon does not drain");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Any other process, killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Running(pub(crate) Child);

impl Running {
    /// Sends a signal, as `TERM` or `INT`.
    pub(crate) fn signal(&self, signal: &str) {
        send(self.0.id(), signal);
    }

    /// Waits for its end, and returns the exit code.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().expect("a child") {
                return status.code();
            }
            assert!(began.elapsed() < PATIENCE, "the process does not end");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn send(pid: u32, signal: &str) {
    let status = Command::new("kill")
        .args(["-s", signal, &pid.to_string()])
        .status();
    assert!(status.expect("kill").success());
}

/// A cluster of one master and some chunkservers.
pub(crate) struct Cluster {
    pub(crate) chunkservers: Vec<Option<Daemon>>,
    pub(crate) master: Option<Daemon>,
    /// Where the master listens, also over its restarts.
    pub(crate) control: String,
    settings: Vec<String>,
    /// Removed when all daemons have ended: one that still writes would leave something behind.
    folder: TempDir,
}

impl Cluster {
    /// Starts a cluster under [`QUICK`] settings, and waits until it serves.
    pub(crate) fn start(chunkservers: usize) -> Self {
        Self::start_with(chunkservers, QUICK)
    }

    pub(crate) fn start_with(chunkservers: usize, settings: &[&str]) -> Self {
        let mut cluster = Self {
            chunkservers: Vec::new(),
            master: None,
            control: "127.0.0.1:0".to_owned(),
            settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
            folder: tempfile::tempdir().expect("a temporary folder"),
        };
        cluster.start_master();
        for number in 0..chunkservers {
            cluster.chunkservers.push(None);
            cluster.start_chunkserver(number);
        }
        cluster.wait(chunkservers);
        cluster
    }

    /// A folder for the test's own files.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a local file.
    pub(crate) fn local(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).expect("a local file");
        path
    }

    pub(crate) fn start_master(&mut self) {
        let args = ["--listen", &self.control, "--http", "127.0.0.1:0"].map(OsString::from);
        let dir = self.path("master");
        let daemon = self
            .daemon("daemon:sarsen-master", &dir, &args)
            .expect("the master starts");
        self.control.clone_from(&daemon.control);
        self.master = Some(daemon);
    }

    /// Kills the master as a power cut of its process would.
    pub(crate) fn kill_master(&mut self) {
        self.master = None;
    }

    pub(crate) fn start_chunkserver(&mut self, number: usize) {
        self.start_chunkserver_with(number, &[]);
    }

    pub(crate) fn start_chunkserver_with(&mut self, number: usize, more: &[&str]) {
        let args = [&["--master", &self.control], more].concat();
        let args: Vec<_> = args.into_iter().map(OsString::from).collect();
        let dir = self.chunkserver_dir(number);
        let daemon = self
            .daemon("daemon:chunkd", &dir, &args)
            .expect("a chunkserver starts");
        self.chunkservers[number] = Some(daemon);
    }

    pub(crate) fn kill_chunkserver(&mut self, number: usize) {
        self.chunkservers[number] = None;
    }

    pub(crate) fn chunkserver_dir(&self, number: usize) -> PathBuf {
        self.path(&format!("chunkserver-{number}"))
    }

    /// The files of all chunks that a chunkserver holds.
    pub(crate) fn chunk_files(&self, number: usize) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.chunkserver_dir(number)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() && path.file_name() != Some(OsStr::new("deleted")) {
                    folders.push(path);
                } else if path.extension() == Some(OsStr::new("chunk")) {
                    files.push(path);
                }
            }
        }
        files
    }

    /// Starts a daemon, and returns when it is ready; else how it ended.
    pub(crate) fn daemon(
        &self,
        daemon: &str,
        dir: &Path,
        args: &[OsString],
    ) -> Result<Daemon, Done> {
        let mut command = self.command();
        command.arg(daemon).arg("--dir").arg(dir).args(args);
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        start_daemon(command)
    }

    /// A client in this process.
    pub(crate) async fn client(&self) -> Client {
        let mut config = ClientConfig::default();
        config.masters = vec![self.control.clone()];
        config.key = Some(key::load(&self.path("master/cluster.key")).expect("the key"));
        Client::connect(config).await.expect("connects")
    }

    /// A `sarsen` process that finds this cluster's key.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(SARSEN);
        command
            .env("XDG_RUNTIME_DIR", self.folder.path())
            .env_remove("SARSEN_MASTER")
            .stdin(Stdio::null());
        command
    }

    /// Runs a verb.
    pub(crate) fn sarsen<S: AsRef<OsStr>>(&self, args: &[S]) -> Done {
        self.sarsen_with_input(args, b"")
    }

    /// Runs a verb with bytes on stdin.
    pub(crate) fn sarsen_with_input<S: AsRef<OsStr>>(&self, args: &[S], input: &[u8]) -> Done {
        let mut command = self.command();
        command.args(["--master", &self.control]).args(args);
        run(command, input)
    }

    /// Waits until so many chunkservers are live and safe mode is left.
    pub(crate) fn wait(&self, chunkservers: usize) {
        let count = chunkservers.to_string();
        let done = self.sarsen(&["wait", "--chunkservers", &count, "--timeout", "60s"]);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
    }

    /// Uploads bytes, with as many replicas as there are chunkservers unless said otherwise.
    pub(crate) fn put(&self, bytes: &[u8], target: &str) -> Value {
        let source = self.local("source", bytes);
        let source = source.to_str().expect("a plain name");
        let replicas = self.chunkservers.len().min(3).to_string();
        let put = [
            "--json",
            "put",
            "--force",
            "--replicas",
            &replicas,
            source,
            target,
        ];
        self.sarsen(&put).json()
    }

    /// Downloads a file's bytes.
    pub(crate) fn bytes(&self, path: &str) -> Vec<u8> {
        let done = self.sarsen(&["get", path, "-"]);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        done.stdout
    }

    /// Waits until `fsck` finds nothing.
    ///
    /// On a busy machine a server may fall silent for longer than the short times of a test, and
    /// an upload goes on with a copy less, which is made later: healthy at once is not promised.
    pub(crate) fn until_healthy(&self) {
        let began = Instant::now();
        loop {
            let found = self.sarsen(&["fsck"]);
            if found.code == Some(0) {
                return;
            }
            let told = String::from_utf8_lossy(&found.stdout);
            let why = &found.stderr;
            assert!(began.elapsed() < PATIENCE, "fsck finds: {told}{why}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks again and again until the answer will do.
    pub(crate) fn until<T>(&self, what: &str, mut ask: impl FnMut(&Self) -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(answer) = ask(self) {
                return answer;
            }
            assert!(began.elapsed() < PATIENCE, "{what}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn start_daemon(mut command: Command) -> Result<Daemon, Done> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    let stdout = child.stdout.take().expect("piped");
    let stderr = child.stderr.take().expect("piped");
    let pid = child.id();
    let (told, line) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        let _ = BufReader::new(stdout).read_line(&mut line);
        let _ = told.send(line);
    });
    let log = thread::spawn(move || {
        let mut log = String::new();
        // `SARSEN_TEST_LOGS=1` shows what daemons log, and `RUST_LOG` how much that is.
        let is_shown = std::env::var_os("SARSEN_TEST_LOGS").is_some();
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if is_shown {
                eprintln!("{pid} {line}");
            }
            log.push_str(&line);
            log.push('\n');
        }
        log
    });
    let line = line
        .recv_timeout(PATIENCE)
        .expect("the daemon says something or ends");
    let field = |name: &str| {
        line.split_whitespace()
            .find_map(|word| word.strip_prefix(name))
            .map(str::to_owned)
    };
    match (field("control="), field("http=")) {
        (Some(control), Some(http)) => {
            assert!(line.starts_with("ready "), "{line}");
            Ok(Daemon {
                child,
                control,
                data: field("data="),
                http,
            })
        }
        _ => {
            let status = child.wait().expect("a child");
            let stderr = log.join().expect("the log's reader");
            Err(Done {
                code: status.code(),
                stdout: line.into_bytes(),
                stderr,
            })
        }
    }
}

/// Runs a command to its end.
pub(crate) fn run(mut command: Command, input: &[u8]) -> Done {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    let mut stdin = child.stdin.take().expect("piped");
    let mut stderr = child.stderr.take().expect("piped");
    let input = input.to_vec();
    // A command may end without having read all of it.
    let feeder = thread::spawn(move || drop(stdin.write_all(&input)));
    let errors = thread::spawn(move || {
        let mut text = String::new();
        let _ = stderr.read_to_string(&mut text);
        text
    });
    let output = child.wait_with_output().expect("a child");
    feeder.join().expect("the feeder");
    let stderr = errors.join().expect("the reader");
    Done {
        code: output.status.code(),
        stdout: output.stdout,
        stderr,
    }
}

/// Bytes that differ from seed to seed and that nothing can squeeze.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
