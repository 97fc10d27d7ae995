//! kill -9 of each process in turn, at random moments of uploads and downloads.
//!
//! A few kills of small transfers in `cargo test`; for the record, with the chunks and the sizes
//! of daily life:
//!
//! ```text
//! SARSEN_TEST_KILLS=100 SARSEN_TEST_BYTES=1073741824 SARSEN_TEST_FILES=5000 \
//!     cargo test --release -p sarsen-client --test cluster kills:: -- --nocapture
//! ```
//!
//! Everything is held against a model. The loss of a chunkserver or of the master is no error of
//! any command; what was acknowledged reads back; what a killed client leaves is there whole or
//! not at all; in the end `fsck` is healthy without help, and what nobody needs is gone from the
//! disks.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::chance::{Chance, told};
use crate::harness::{Cluster, Done, noise};

/// Chunkservers, and copies of each chunk.
const SERVERS: usize = 3;

/// Kills, unless `SARSEN_TEST_KILLS` says otherwise.
const KILLS: u64 = 8;

/// Bytes of the large file, unless `SARSEN_TEST_BYTES` says otherwise.
const BYTES: u64 = 40 * 1024 * 1024 + 4321;

/// Files of the tree, unless `SARSEN_TEST_FILES` says otherwise.
const FILES: u64 = 60;

/// How long a victim stays away at the most.
const AWAY_MAX_MS: u64 = 3_000;

/// Files, and trees, that are kept; others are removed for good.
const KEPT: usize = 3;

/// Far above what any command takes.
const PATIENCE: Duration = Duration::from_secs(600);

/// Timings as in daily life but short, with what the dead leave cleared away soon.
const SETTINGS: &[&str] = &[
    "heartbeat=200ms",
    "suspect_after=1s",
    "dead_after=3s",
    "gc_interval=500ms",
    "orphan_grace=6s",
    "pending_expiry=6s",
    "safe_mode_max=10s",
    "repair_grace=1s",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Master,
    Chunkserver(usize),
    Client,
}

/// What a client is doing when somebody is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Transfer {
    PutFile,
    PutPipe,
    GetFile,
    GetPipe,
    PutTree,
    GetTree,
}

const TRANSFERS: [Transfer; 6] = [
    Transfer::PutFile,
    Transfer::PutPipe,
    Transfer::GetFile,
    Transfer::GetPipe,
    Transfer::PutTree,
    Transfer::GetTree,
];

/// A `sarsen` that runs.
struct Client {
    child: Child,
    /// What feeds its stdin.
    feeder: Option<Child>,
    stderr: PathBuf,
}

impl Client {
    fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    fn kill(&mut self) {
        self.child.kill().expect("killed");
    }

    fn wait(mut self) -> Done {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            if began.elapsed() > PATIENCE {
                self.kill();
                let text = fs::read_to_string(&self.stderr).unwrap_or_default();
                panic!("a command hangs: {text}");
            }
            thread::sleep(Duration::from_millis(5));
        };
        if let Some(mut feeder) = self.feeder.take() {
            let _ = feeder.kill();
            let _ = feeder.wait();
        }
        Done {
            code: status.code(),
            stdout: Vec::new(),
            stderr: fs::read_to_string(&self.stderr).expect("its errors"),
        }
    }
}

/// A cluster under kills, and what must be in it.
struct Soak {
    cluster: Cluster,
    chance: Chance,
    bytes: u64,
    /// Which of the two sources each path holds.
    model: BTreeMap<String, PathBuf>,
    /// The tree that each of `trees` is a copy of.
    tree: PathBuf,
    trees: Vec<String>,
    sources: Vec<PathBuf>,
    next: usize,
    /// How long a transfer of each kind takes when nobody is killed.
    typical: BTreeMap<Transfer, Duration>,
    kills: BTreeMap<&'static str, [u64; 2]>,
}

impl Soak {
    fn start() -> Self {
        let bytes = told("SARSEN_TEST_BYTES", BYTES);
        let mut settings = SETTINGS.to_vec();
        if bytes <= BYTES {
            settings.push("chunk_size=1MiB");
        }
        let cluster = Cluster::start_with(SERVERS, &settings);
        let sources = (1..=2).map(|seed| {
            let content = noise(usize::try_from(bytes).expect("fits"), seed);
            cluster.local(&format!("source-{seed}"), &content)
        });
        let mut soak = Self {
            sources: sources.collect(),
            tree: make_tree(&cluster.path("tree"), told("SARSEN_TEST_FILES", FILES)),
            trees: Vec::new(),
            cluster,
            chance: Chance::told("kills"),
            bytes,
            model: BTreeMap::new(),
            next: 0,
            typical: BTreeMap::new(),
            kills: BTreeMap::new(),
        };
        // Once without a kill: so there is something to download, and times to draw moments from.
        for transfer in TRANSFERS {
            let began = Instant::now();
            let (client, path) = soak.begin(transfer);
            let done = client.wait();
            assert_eq!(done.code, Some(0), "{transfer:?}: {}", done.stderr);
            soak.typical.insert(transfer, began.elapsed());
            soak.check(transfer, &path, true);
        }
        soak
    }

    fn spawn(&self, args: &[&str], stdin: Stdio, stdout: Stdio) -> Client {
        let stderr = self.cluster.path("client-errors");
        let mut command = self.cluster.command();
        command
            .args(["--master", &self.cluster.control])
            .args(args)
            .stdin(stdin)
            .stdout(stdout)
            .stderr(File::create(&stderr).expect("a file"));
        Client {
            child: command.spawn().expect("the binary runs"),
            feeder: None,
            stderr,
        }
    }

    /// Begins a transfer; the path in the cluster that it is about.
    fn begin(&mut self, transfer: Transfer) -> (Client, String) {
        let target = self.cluster.path("target");
        let _ = fs::remove_file(&target);
        let _ = fs::remove_dir_all(&target);
        let target_name = target.to_str().expect("a plain name");
        match transfer {
            Transfer::PutTree => {
                self.next += 1;
                let path = format!("/tree-{}", self.next);
                self.trees.push(path.clone());
                let source = self.tree.to_str().expect("a plain name");
                let put = ["put", "-r", source, &path];
                (self.spawn(&put, Stdio::null(), Stdio::null()), path)
            }
            Transfer::GetTree => {
                let path = self.trees[self.chance.place(self.trees.len())].clone();
                let get = ["get", "-r", &path, target_name];
                (self.spawn(&get, Stdio::null(), Stdio::null()), path)
            }
            Transfer::PutFile | Transfer::PutPipe => {
                self.next += 1;
                let path = format!("/folder-{}/file-{}", self.next % 3, self.next);
                let source = self.source().to_owned();
                self.model.insert(path.clone(), source.clone());
                (self.begin_put(transfer, &source, &path), path)
            }
            Transfer::GetFile | Transfer::GetPipe => {
                let at = self.chance.place(self.model.len());
                let path = self.model.keys().nth(at).expect("one").clone();
                let client = match transfer {
                    Transfer::GetFile => {
                        let get = ["get", &path, target_name];
                        self.spawn(&get, Stdio::null(), Stdio::null())
                    }
                    _ => {
                        let target = File::create(&target).expect("a file");
                        self.spawn(&["get", &path, "-"], Stdio::null(), target.into())
                    }
                };
                (client, path)
            }
        }
    }

    fn source(&self) -> &Path {
        &self.sources[self.next % self.sources.len()]
    }

    fn begin_put(&self, transfer: Transfer, source: &Path, path: &str) -> Client {
        let name = source.to_str().expect("a plain name");
        if transfer == Transfer::PutFile {
            return self.spawn(&["put", name, path], Stdio::null(), Stdio::null());
        }
        let mut feeder = Command::new("cat")
            .arg(name)
            .stdout(Stdio::piped())
            .spawn()
            .expect("cat");
        let fed = feeder.stdout.take().expect("piped");
        let mut client = self.spawn(&["put", "-", path], fed.into(), Stdio::null());
        client.feeder = Some(feeder);
        client
    }

    /// Begins a transfer, kills somebody in the middle of it, and looks at what became of it.
    fn round(&mut self, victim: Victim) {
        let transfer = TRANSFERS[self.chance.place(TRANSFERS.len())];
        let typical = self.typical[&transfer];
        let micros = u64::try_from(typical.as_micros()).expect("not for ever");
        let moment = Duration::from_micros(self.chance.below(micros));
        let away = Duration::from_millis(self.chance.below(AWAY_MAX_MS));
        let (mut client, path) = self.begin(transfer);
        thread::sleep(moment);
        let is_inside = client.is_running();
        let began = Instant::now();
        self.kill(victim, &mut client, away);
        let done = client.wait();
        let name = match victim {
            Victim::Master => "master",
            Victim::Chunkserver(_) => "chunkserver",
            Victim::Client => "client",
        };
        let counted = self.kills.entry(name).or_default();
        counted[0] += 1;
        counted[1] += u64::from(is_inside);
        println!(
            "{victim:?} killed {moment:.2?} into {transfer:?} of {path} ({}), away {away:.2?}: \
             exit {:?} {:.2?} later {}",
            if is_inside { "inside" } else { "it was over" },
            done.code,
            began.elapsed(),
            summary(&done.stderr),
        );
        let is_done = match victim {
            Victim::Client if is_inside => done.code == Some(0),
            _ => {
                assert_eq!(
                    done.code,
                    Some(0),
                    "{victim:?} {transfer:?}: {}",
                    done.stderr
                );
                true
            }
        };
        self.check(transfer, &path, is_done);
        self.trim();
    }

    fn kill(&mut self, victim: Victim, client: &mut Client, away: Duration) {
        match victim {
            Victim::Master => {
                self.cluster.kill_master();
                thread::sleep(away);
                self.cluster.start_master();
            }
            Victim::Chunkserver(number) => {
                self.cluster.kill_chunkserver(number);
                thread::sleep(away);
                self.cluster.start_chunkserver(number);
            }
            Victim::Client => client.kill(),
        }
    }

    /// Holds what a transfer left against the model; after one that was cut off, all or nothing.
    fn check(&mut self, transfer: Transfer, path: &str, is_done: bool) {
        if matches!(transfer, Transfer::PutTree | Transfer::GetTree) {
            return self.check_tree(transfer, path, is_done);
        }
        let source = self.model[path].clone();
        match transfer {
            Transfer::PutTree | Transfer::GetTree => {}
            Transfer::PutFile | Transfer::PutPipe => {
                let checksum = self.cluster.sarsen(&["checksum", path]);
                if !is_done && checksum.code == Some(3) {
                    self.model.remove(path);
                    return;
                }
                let expected = crc_of(&source);
                let found = checksum.text();
                assert!(found.starts_with(&expected), "{path}: {found} {expected}");
                let stat = self.cluster.sarsen(&["--json", "stat", path]).json();
                assert_eq!(stat["size"], self.bytes);
            }
            Transfer::GetFile => {
                let target = self.cluster.path("target");
                // The name is there with all of it, or is not there.
                if is_done || target.exists() {
                    assert_same(&source, &target);
                }
            }
            Transfer::GetPipe => {
                if is_done {
                    assert_same(&source, &self.cluster.path("target"));
                }
            }
        }
    }

    /// Files of a tree come one by one: each is there whole or not at all. What is missing comes
    /// with the command repeated.
    fn check_tree(&self, transfer: Transfer, path: &str, is_done: bool) {
        let target = self.cluster.path("target");
        if transfer == Transfer::GetTree {
            return self.check_local_tree(&target, is_done);
        }
        if !is_done {
            if self.cluster.sarsen(&["stat", path]).code == Some(0) {
                self.get_tree(path, &target);
                self.check_local_tree(&target, false);
            }
            // What is in it goes into the folder that is there by now, or is made.
            let source = format!("{}/.", self.tree.display());
            let put = self.cluster.sarsen(&[
                "put",
                "-r",
                "--force",
                "--purge",
                &source,
                &format!("{path}/"),
            ]);
            assert_eq!(put.code, Some(0), "{}", put.stderr);
        }
        self.get_tree(path, &target);
        self.check_local_tree(&target, true);
    }

    fn get_tree(&self, path: &str, target: &Path) {
        let _ = fs::remove_dir_all(target);
        let name = target.to_str().expect("a plain name");
        let get = self.cluster.sarsen(&["get", "-r", path, name]);
        assert_eq!(get.code, Some(0), "{path}: {}", get.stderr);
    }

    fn check_local_tree(&self, target: &Path, is_done: bool) {
        if !is_done && !target.exists() {
            return;
        }
        let mut diff = Command::new("diff");
        let diff = diff.arg("-rq").arg(&self.tree).arg(target).output();
        let told = String::from_utf8(diff.expect("diff").stdout).expect("text");
        let missing = format!("Only in {}", self.tree.display());
        let is_allowed = |line: &str| {
            // Parts of files are under other names, and files that did not come are missing.
            !is_done && (line.starts_with(&missing) || line.ends_with(".sarsen-part"))
        };
        let wrong: Vec<_> = told.lines().filter(|line| !is_allowed(line)).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    /// Removes what is more than [`KEPT`], for good.
    fn trim(&mut self) {
        while self.trees.len() > KEPT {
            let path = self.trees.swap_remove(self.chance.place(self.trees.len()));
            let done = self.cluster.sarsen(&["rm", "-r", "--purge", &path]);
            assert_eq!(done.code, Some(0), "rm: {}", done.stderr);
        }
        while self.model.len() > KEPT {
            let at = self.chance.place(self.model.len());
            let path = self.model.keys().nth(at).expect("one").clone();
            let done = self.cluster.sarsen(&["rm", "--purge", &path]);
            assert_eq!(done.code, Some(0), "rm: {}", done.stderr);
            self.model.remove(&path);
        }
    }

    /// Everything that was acknowledged is there and good, and nothing else is.
    fn end(self) {
        let cluster = &self.cluster;
        cluster.wait(SERVERS);
        for (path, source) in &self.model {
            // The last transfer may have left a tree at the usual target, and a file would go into it.
            let target = cluster.path("whole");
            let name = target.to_str().expect("a plain name");
            let got = cluster.sarsen(&["get", path, name]);
            assert_eq!(got.code, Some(0), "{path}: {}", got.stderr);
            assert_same(source, &target);
        }
        for path in &self.trees {
            let target = cluster.path("target");
            let _ = fs::remove_file(&target);
            self.get_tree(path, &target);
            self.check_local_tree(&target, true);
        }
        let listed = cluster.sarsen(&["--json", "ls", "-R", "/"]).json();
        let rows = listed.as_array().expect("a list");
        let files = rows.iter().filter(|row| row["type"] == "file");
        let mut files: Vec<_> = files
            .map(|row| row["path"].as_str().expect("a path"))
            .filter(|path| !path.starts_with("/tree-"))
            .collect();
        files.sort_unstable();
        assert_eq!(files, self.model.keys().collect::<Vec<_>>());
        let began = Instant::now();
        cluster.until("fsck is healthy without help", |cluster| {
            let done = cluster.sarsen(&["fsck"]);
            (done.code == Some(0)).then_some(())
        });
        println!("healthy after {:.1?}", began.elapsed());
        let fsck = cluster.sarsen(&["--json", "fsck"]).json();
        let chunks = usize::try_from(fsck["chunks"].as_u64().expect("a number")).expect("fits");
        cluster.until("what nobody needs is gone from the disks", |cluster| {
            let held = (0..SERVERS).map(|number| cluster.chunk_files(number).len());
            (held.sum::<usize>() == SERVERS * chunks).then_some(())
        });
        println!("clean after {:.1?}", began.elapsed());
        for (victim, [all, inside]) in &self.kills {
            println!("{victim}: {all} kills, {inside} of them inside a transfer");
        }
        let inside: u64 = self.kills.values().map(|[_, inside]| inside).sum();
        println!("inside a transfer: {inside}");
    }
}

/// A tree of small files and a few large ones, some of them empty, as sources of programs are.
fn make_tree(top: &Path, files: u64) -> PathBuf {
    for number in 0..files {
        let folder = top.join(format!("{}/{}", number % 7, number % 31));
        fs::create_dir_all(&folder).expect("folders");
        let len = match usize::try_from(number % 50).expect("small") {
            0 => 0,
            1 => 1_500_000,
            2..=5 => 100_000,
            other => 13 * other * other,
        };
        let name = folder.join(format!("file {number}.rs"));
        fs::write(name, noise(len, number)).expect("a file");
    }
    top.to_owned()
}

/// The first line of what a command said, and how many more there are.
fn summary(stderr: &str) -> String {
    let mut lines = stderr.lines();
    let first = lines.next().unwrap_or_default();
    match lines.count() {
        0 => first.to_owned(),
        more => format!("{first} (and {more} more lines)"),
    }
}

/// CRC-32 in hexadecimal, as `sarsen checksum` prints it.
fn crc_of(path: &Path) -> String {
    let bytes = fs::read(path).expect("a file");
    format!("{:08x}", sarsen_protocol::crc::crc32(&bytes))
}

fn assert_same(source: &Path, target: &Path) {
    let same = Command::new("cmp").arg(source).arg(target).output();
    let same = same.expect("cmp");
    let told = [same.stdout, same.stderr].concat();
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(same.status.success(), "{told}");
}

#[test]
fn transfers_go_on_through_kills_of_each_process() {
    let mut soak = Soak::start();
    let kills = usize::try_from(told("SARSEN_TEST_KILLS", KILLS)).expect("not so many");
    for kill in 0..kills {
        let victims = [
            Victim::Master,
            Victim::Chunkserver(kill / 4 % SERVERS),
            Victim::Client,
            Victim::Chunkserver((kill / 4 + 1) % SERVERS),
        ];
        soak.round(victims[kill % victims.len()]);
    }
    soak.end();
}
