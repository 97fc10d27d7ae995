//! Records appended and bytes written over, while chunkservers are killed (-9) and come back.
//!
//! A few in `cargo test`; for the record:
//!
//! ```text
//! SARSEN_TEST_APPENDERS=8 SARSEN_TEST_RECORDS=1000 SARSEN_TEST_KILLS=50 SARSEN_TEST_SECONDS=120 \
//!     cargo test --release -p sarsen-client --test cluster mutations:: -- --nocapture
//! ```
//!
//! No command fails for a loss. Every acknowledged record is read back once, at its offset; a file
//! that was written over is what a local model is; each replica alone holds all of it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use sarsen_protocol::crc::{crc32, extend};
use sarsen_protocol::record;

use crate::appender::Appender;
use crate::chance::{Chance, told};
use crate::harness::{Cluster, noise};

/// Chunkservers, and copies of each chunk.
const SERVERS: usize = 3;

/// Processes that append at a time, unless `SARSEN_TEST_APPENDERS` says otherwise.
const APPENDERS: u64 = 3;

/// Records of each, unless `SARSEN_TEST_RECORDS` says otherwise.
const RECORDS: u64 = 40;

/// Kills while records, or writes, are on their way, unless `SARSEN_TEST_KILLS` says otherwise.
const KILLS: u64 = 0;

/// How long after a share of the records was given somebody is killed at the most, in milliseconds.
const KILL_AFTER_MAX: u64 = 20;

/// How long is written over, unless `SARSEN_TEST_SECONDS` says otherwise.
const SECONDS: u64 = 3;

/// Bytes of a record's payload.
const PAYLOAD_MIN: f64 = 100.0;
const PAYLOAD_MAX: f64 = 1_048_576.0;

/// Bytes of the file that is written over: several chunks.
const FILE_LEN: u64 = 20 * 1024 * 1024;

/// As in the settings.
const CHUNK_SIZE: u64 = 8 * 1024 * 1024;

/// How long a victim stays away at the most, in milliseconds.
const AWAY_MAX: u64 = 1_500;

/// Records of a mebibyte fit into a quarter of a chunk; idle chunks are sealed soon.
const SETTINGS: &[&str] = &[
    "chunk_size=8MiB",
    "heartbeat=200ms",
    "suspect_after=1s",
    "dead_after=3s",
    "lease=2s",
    "gc_interval=500ms",
    "safe_mode_max=10s",
    "repair_grace=1s",
];

/// A line of printable bytes that no other record has, of a length drawn evenly on a log scale.
fn line(chance: &mut Chance, name: &str) -> Vec<u8> {
    let share = chance.below(1_000_001) as f64 / 1_000_000.0;
    let len = PAYLOAD_MIN * (PAYLOAD_MAX / PAYLOAD_MIN).powf(share);
    let mut line = format!("{name} ").into_bytes();
    let mut digits = Chance::of(chance.next());
    while (line.len() as f64) < len {
        line.extend_from_slice(format!("{:016x}", digits.next()).as_bytes());
    }
    line.truncate(1 << 20);
    line
}

/// What is kept of a record, of which there may be gigabytes: its length and its CRC.
type Digest = (usize, u32);

fn digest(payload: &[u8]) -> Digest {
    (payload.len(), crc32(payload))
}

/// A process that appends the lines that it is given, share by share.
struct Appending {
    appender: Appender,
    name: String,
    feed: Sender<Vec<u8>>,
    lines: Vec<Digest>,
}

impl Appending {
    fn start(cluster: &Cluster, name: String) -> Self {
        let (feed, lines) = mpsc::channel();
        Self {
            appender: Appender::start_with(cluster, "/log", &[], lines.into_iter()),
            name,
            feed,
            lines: Vec::new(),
        }
    }

    fn give(&mut self, chance: &mut Chance, count: u64) {
        for _ in 0..count {
            let line = line(chance, &format!("{}-{}", self.name, self.lines.len()));
            self.lines.push(digest(&line));
            self.feed.send(line).expect("it is fed");
        }
    }

    /// Lines that it was given, and that are not acknowledged.
    fn under_way(&self) -> usize {
        self.lines.len() - self.appender.acknowledged()
    }

    /// Waits until no more than so many are under way.
    fn until_left(&self, cluster: &Cluster, left: usize) {
        let wanted = self.lines.len().saturating_sub(left);
        self.appender.until(cluster, wanted);
    }

    /// What it appended, by offset.
    fn finish(self) -> impl Iterator<Item = (u64, Digest)> {
        drop(self.feed);
        let offsets = self.appender.offsets();
        assert_eq!(offsets.len(), self.lines.len(), "{}", self.name);
        offsets.into_iter().zip(self.lines)
    }
}

/// Kills a chunkserver and starts it again a while later.
fn kill_one(cluster: &mut Cluster, chance: &mut Chance) {
    let victim = chance.place(SERVERS);
    cluster.kill_chunkserver(victim);
    thread::sleep(Duration::from_millis(chance.below(AWAY_MAX)));
    cluster.start_chunkserver(victim);
}

/// Every record of a file, as `spec/records.md` section 3 finds them, and its id. None lies in two
/// chunks.
fn records(file: &Path) -> Vec<(u64, Digest, (u64, u64))> {
    let mut file = File::open(file).expect("a local file");
    let mut records = Vec::new();
    for chunk in 0.. {
        let mut bytes = Vec::new();
        let taken = (&mut file).take(CHUNK_SIZE).read_to_end(&mut bytes);
        if taken.expect("a local file") == 0 {
            break;
        }
        let mut at = 0;
        while at < bytes.len() {
            match record::decode(&bytes[at..]) {
                Ok(found) => {
                    let id = (found.session.0, found.number);
                    let offset = chunk * CHUNK_SIZE + at as u64;
                    records.push((offset, digest(found.payload), id));
                    at += found.encoded_len();
                }
                Err(_) => at += 1,
            }
        }
    }
    records
}

/// A file once its chunks are at rest, as a local one; it is the same from each server alone.
fn settled(cluster: &mut Cluster, path: &str) -> PathBuf {
    cluster.until("the chunks are sealed", |cluster| {
        (cluster.sarsen(&["checksum", path]).code == Some(0)).then_some(())
    });
    cluster.until_healthy();
    let local = cluster.path("settled");
    let target = local.to_str().expect("a plain name").to_owned();
    let got = |cluster: &Cluster| {
        let done = cluster.sarsen(&["get", path, &target]);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        crc_of(Path::new(&target))
    };
    let all = got(cluster);
    for alone in 0..SERVERS {
        for other in (0..SERVERS).filter(|&it| it != alone) {
            cluster.kill_chunkserver(other);
        }
        assert!(got(cluster) == all, "server {alone} has other bytes");
        for other in (0..SERVERS).filter(|&it| it != alone) {
            cluster.start_chunkserver(other);
        }
        cluster.wait(SERVERS);
    }
    local
}

fn bytes_of(file: &Path) -> Vec<u8> {
    fs::read(file).expect("a local file")
}

/// A local file's length and CRC.
fn crc_of(file: &Path) -> (u64, u32) {
    let mut file = File::open(file).expect("a local file");
    let (mut len, mut crc) = (0, crc32(&[]));
    let mut bytes = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut bytes).expect("a local file");
        if read == 0 {
            return (len, crc);
        }
        let more = &bytes[..read];
        crc = extend(crc, more);
        len += read as u64;
    }
}

#[test]
fn what_was_appended_under_kills_is_there_once_at_its_offset() {
    let mut cluster = Cluster::start_with(SERVERS, SETTINGS);
    let mut chance = Chance::told("appends under kills");
    cluster.sarsen(&["touch", "/log"]).text();
    let wanted = usize::try_from(told("SARSEN_TEST_KILLS", KILLS)).expect("fits");
    let records_each = told("SARSEN_TEST_RECORDS", RECORDS);
    let names = (0..told("SARSEN_TEST_APPENDERS", APPENDERS)).map(|it| format!("a{it}"));
    let mut all: Vec<_> = names.map(|name| Appending::start(&cluster, name)).collect();
    // A share before each kill: they are spread over the records, however quick either is.
    let share = (records_each / (wanted as u64 + 1)).max(1);
    let (mut given, mut away) = (0, Vec::new());
    while given < records_each || away.len() < wanted {
        for appending in &mut all {
            appending.give(&mut chance, share);
        }
        given += share;
        thread::sleep(Duration::from_millis(chance.below(KILL_AFTER_MAX)));
        let is_under_way = all.iter().any(|it| it.under_way() > 0);
        if is_under_way && away.len() < wanted {
            let began = Instant::now();
            kill_one(&mut cluster, &mut chance);
            away.push(began.elapsed());
        }
        // The next kill may come before all is well again, but not before any goes on.
        for appending in &all {
            let left = chance.below(share + 1);
            appending.until_left(&cluster, usize::try_from(left).expect("fits"));
        }
    }
    let acknowledged: BTreeMap<_, _> = all.into_iter().flat_map(Appending::finish).collect();
    let (records_len, kills) = (acknowledged.len(), away.len());
    println!("{records_len} records, {kills} kills; away: {away:.1?}");
    let all = records(&settled(&mut cluster, "/log"));
    let mut ids: Vec<_> = all.iter().map(|(_, _, id)| *id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all.len(), "a record is there twice");
    let found: BTreeMap<_, _> = all.into_iter().map(|(at, bytes, _)| (at, bytes)).collect();
    let place_of = |record: &Digest, of: &BTreeMap<u64, Digest>| {
        of.iter().find(|(_, it)| *it == record).map(|(at, _)| *at)
    };
    for (at, record) in &acknowledged {
        assert!(
            found.get(at) == Some(record),
            "a record of {} bytes was told to be at {at}, it is at {:?}; {} told, {} found",
            record.0,
            place_of(record, &found),
            acknowledged.len(),
            found.len()
        );
    }
    assert_eq!(
        found.len(),
        acknowledged.len(),
        "records that nobody was told of"
    );
}

/// It was told with the next one, which may come much later.
#[test]
fn a_record_is_told_while_the_next_line_is_waited_for() {
    let cluster = Cluster::start_with(SERVERS, SETTINGS);
    cluster.sarsen(&["touch", "/log"]).text();
    let mut appending = Appending::start(&cluster, "a".to_owned());
    for _ in 0..3 {
        appending.give(&mut Chance::of(1), 1);
        appending.until_left(&cluster, 0);
    }
    assert_eq!(appending.finish().count(), 3);
}

#[test]
fn what_was_written_over_under_kills_is_what_a_model_says() {
    let mut cluster = Cluster::start_with(SERVERS, SETTINGS);
    let mut chance = Chance::told("writes under kills");
    let mut model = noise(usize::try_from(FILE_LEN).expect("fits"), 1);
    cluster.put(&model, "/disk");
    let began = Instant::now();
    let lasts = Duration::from_secs(told("SARSEN_TEST_SECONDS", SECONDS));
    let (mut writes, mut kills) = (0, 0);
    let wanted = told("SARSEN_TEST_KILLS", KILLS);
    while began.elapsed() < lasts {
        let offset = chance.below(FILE_LEN + 1_000_000);
        let shift = 8 + chance.below(14);
        let len = 1 + chance.below(1 << shift);
        let bytes = noise(usize::try_from(len).expect("fits"), chance.next());
        let from = usize::try_from(offset).expect("fits");
        let to = from + bytes.len();
        model.resize(model.len().max(to), 0);
        model[from..to].copy_from_slice(&bytes);
        let mut command = cluster.command();
        command.args(["--master", &cluster.control, "--timeout", "120s"]);
        command.args(["write", "--offset", &offset.to_string(), "/disk"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        command.stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        let mut stdin = child.stdin.take().expect("piped");
        let feeder = thread::spawn(move || stdin.write_all(&bytes));
        if kills < wanted && chance.below(3) == 0 {
            thread::sleep(Duration::from_millis(chance.below(100)));
            kill_one(&mut cluster, &mut chance);
            kills += 1;
        }
        let done = child.wait_with_output().expect("a child");
        let told = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{told}");
        feeder.join().expect("the feeder").expect("all was read");
        writes += 1;
    }
    println!("{writes} writes, {kills} kills");
    cluster.wait(SERVERS);
    assert!(bytes_of(&settled(&mut cluster, "/disk")) == model);
}

#[test]
fn a_file_is_cut_and_lengthened() {
    let mut cluster = Cluster::start(SERVERS);
    let bytes = noise(3_000_000, 1);
    cluster.put(&bytes, "/file");
    let mut model = bytes;
    for size in [2_500_000, 2_097_152, 2_600_000, 0, 5] {
        let size_text = size.to_string();
        let cut = ["--json", "truncate", "--size", &size_text, "/file"];
        assert_eq!(cluster.sarsen(&cut).json()["size"], size);
        model.resize(size, 0);
        assert!(cluster.bytes("/file") == model, "{size}");
        let write = ["write", "--offset", "1", "/file"];
        let done = cluster.sarsen_with_input(&write, b"over");
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        model.resize(model.len().max(5), 0);
        model[1..5].copy_from_slice(b"over");
    }
    assert!(bytes_of(&settled(&mut cluster, "/file")) == model);
}

#[test]
fn what_can_not_be_changed_is_told_and_stays() {
    let cluster = Cluster::start(SERVERS);
    cluster.sarsen(&["mkdir", "/folder"]).text();
    let touched = cluster.sarsen(&["--json", "touch", "/file"]).json();
    assert_eq!(touched["size"], 0);
    let beyond = (262_144_u64 << 20).to_string();
    let long = cluster.local("long", &vec![b'x'; 300_000]);
    let long = long.to_str().expect("a plain name");
    for (args, code) in [
        (&["append", "/no"][..], 3),
        (&["write", "--offset", "0", "/no"], 3),
        (&["truncate", "--size", "0", "/no"], 3),
        (&["append", "/folder"], 1),
        (&["write", "--offset", "0", "/folder"], 1),
        (&["truncate", "--size", "0", "/folder"], 1),
        (&["append", "/file", long], 1),
        (&["append", "/file", "/no/such/file"], 3),
        (&["write", "--offset", &beyond, "/file"], 1),
        (&["append", "no-slash"], 2),
        (&["write", "/file"], 2),
    ] {
        let done = cluster.sarsen_with_input(args, b"bytes");
        assert_eq!(done.code, Some(code), "{args:?}: {}", done.stderr);
        let lines: Vec<_> = done.stderr.lines().collect();
        assert!(code == 2 || lines.len() <= 2, "{args:?}: {}", done.stderr);
    }
    assert_eq!(cluster.bytes("/file"), b"");
}

#[test]
fn a_limit_is_told_in_bytes_and_a_local_path_by_its_name() {
    let cluster = Cluster::start(1);
    cluster.put(b"", "/file");
    cluster.sarsen(&["mkdir", "/folder"]).text();
    let long = cluster.local("long", &vec![b'x'; 300_000]);
    let long = long.to_str().expect("a plain name");
    let folder = cluster.path("");
    let folder = folder.to_str().expect("a plain name");
    let beyond = ((262_144_u64 << 20) + 1).to_string();
    for (args, told) in [
        (
            &["append", "/file", long][..],
            "a record of 300000 bytes, where at most 262112",
        ),
        (&["append", "/file"], "more than the 262112 bytes"),
        (
            &["append", "--lines", "/file", long],
            "line 1 was not appended: it has more than the 262112",
        ),
        (&["append", "/file", folder], folder),
        (
            &["write", "--offset", &beyond, "/file"],
            "at most 274877906944 (262144 chunks of 1048576)",
        ),
        (
            &["truncate", "--size", &beyond, "/file"],
            "at most 274877906944 (262144 chunks of 1048576)",
        ),
        (
            &["mv", "/folder", "/folder/below"],
            "can't be moved into itself",
        ),
        (&["mv", "/folder", "/folder/"], "can't be moved into itself"),
    ] {
        let done = cluster.sarsen_with_input(args, &vec![b'x'; 300_000]);
        assert_ne!(done.code, Some(0), "{args:?}");
        assert!(done.stderr.contains(told), "{args:?}: {}", done.stderr);
    }
}
