//! `sarsen demo`: the main job, with a chunkserver killed in the middle of it.
//!
//! A master and three chunkservers as processes on loopback, in a temporary folder; a file goes up
//! with three replicas; one chunkserver is killed as by a power cut; the file comes down and is
//! compared byte by byte; the chunkserver comes back; the cluster is healthy. The commands are
//! those that a person would type, run by this same program. Ctrl-C ends it between two steps or in the
//! middle of one, and leaves nothing behind.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use sarsen_edge::daemon::Drain;
use sarsen_edge::exit::{self, Exit, Explain};
use sarsen_protocol::crc;
use serde_json::Value;
use thiserror::Error;

use crate::cluster::{ClusterError, Daemon, file, go_on, sarsen, take_signals};

const CHUNKSERVERS: usize = 3;
const MIB: u64 = 1024 * 1024;

/// Bytes of the file that is made when none is given.
const MADE_LEN: u64 = 256 * MIB;

/// What the made file's bytes are drawn from.
const SEED: u64 = 2003;

/// How long the cluster may take to be healthy again.
const HEAL_TIME_MAX: Duration = Duration::from_secs(60);

/// Time between two questions whether it is.
const HEAL_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// What `sarsen demo` is told.
#[derive(Args, Clone, Debug)]
pub(crate) struct DemoArgs {
    /// The file to send up and down; without it 256 MiB made from a seed
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

/// What did not hold.
#[derive(Debug, Error)]
#[non_exhaustive]
enum DemoError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A command printed something that its contract does not have.
    #[error("`sarsen {command}` printed no {field}: {text}")]
    Output {
        command: String,
        field: &'static str,
        text: String,
    },
    /// What came down differs from what went up.
    #[error("the file that came down differs from the one that went up at byte {offset}")]
    Differs { offset: u64 },
    /// The stored CRC differs from that of the local file.
    #[error("the cluster says that the CRC-32 is {stored}, the local file has {local}")]
    Checksum { stored: String, local: String },
    /// The cluster did not heal.
    #[error("not healthy {HEAL_TIME_MAX:?} after the chunkserver came back: {report}")]
    Unhealthy { report: String },
}

impl Explain for DemoError {
    fn exit(&self) -> Exit {
        match self {
            Self::Cluster(error) => error.exit(),
            Self::Differs { .. } | Self::Checksum { .. } => Exit::Corrupt,
            Self::Output { .. } | Self::Unhealthy { .. } => Exit::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Cluster(error) => error.hint(),
            _ => Some("this is a bug in Sarsen".into()),
        }
    }
}

/// Runs the verb to its end.
pub(crate) fn run(args: &DemoArgs) -> ExitCode {
    match demo(args) {
        Ok(()) => Exit::Done.into(),
        // Who ended it knows why.
        Err(DemoError::Cluster(ClusterError::Interrupted)) => Exit::Interrupted.into(),
        Err(error) => exit::report("sarsen: demo", &error),
    }
}

fn demo(args: &DemoArgs) -> Result<(), DemoError> {
    let drain = take_signals("sarsen demo")?;
    let place = tempfile::Builder::new()
        .prefix("sarsen-demo-")
        .tempdir()
        .map_err(file("making a folder in", &std::env::temp_dir()))?;
    let source = match &args.file {
        Some(path) => path.clone(),
        None => {
            let path = place.path().join("made-from-a-seed");
            make_file(&path, &drain)?;
            path
        }
    };
    let (len, local_crc) = checksum(&source, &drain)?;
    say(&format!(
        "file      {} ({} MiB, CRC-32 {local_crc})",
        source.display(),
        len / MIB
    ));

    let started = Instant::now();
    let free_port = OsStr::new("127.0.0.1:0");
    let ports = [
        OsStr::new("--listen"),
        free_port,
        OsStr::new("--http"),
        free_port,
    ];
    let master = Daemon::master(&place.path().join("master"), &ports, &drain)?;
    let control = master.ready.control.clone();
    let dir = |number: usize| place.path().join(format!("chunkserver-{number}"));
    let mut chunkservers = Vec::new();
    for number in 1..=CHUNKSERVERS {
        let chunkserver = Daemon::chunkserver(number, &control, &dir(number), &[], &drain)?;
        chunkservers.push(chunkserver);
    }
    wait_for_all(&control, &drain)?;
    let took = started.elapsed().as_secs_f64();
    say(&format!(
        "cluster   a master and {CHUNKSERVERS} chunkservers, up in {took:.1} s"
    ));

    let target = OsStr::new("/demo");
    let put = ["--json", "put", "--replicas", "3"].map(OsStr::new);
    tell_transfer(
        &control,
        "upload",
        &[&put[..], &[source.as_os_str(), target]].concat(),
        &drain,
    )?;

    let victim = chunkservers.remove(1);
    let (name, pid) = (victim.name().to_owned(), victim.pid());
    victim.kill()?;
    say(&format!("killed    {name} (process {pid}) with SIGKILL"));

    let copy = place.path().join("came-down");
    let get = ["--json", "get"].map(OsStr::new);
    tell_transfer(
        &control,
        "download",
        &[&get[..], &[target, copy.as_os_str()]].concat(),
        &drain,
    )?;
    compare(&source, &copy, &drain)?;
    say("compared  every byte equals");

    let returning = Daemon::chunkserver(2, &control, &dir(2), &[], &drain)?;
    chunkservers.push(returning);
    wait_for_all(&control, &drain)?;
    say(&format!("restarted {name}, and it is back"));

    let stored = json_text(&control, &["--json", "checksum", "/demo"], "crc32", &drain)?;
    if stored != local_crc {
        return Err(DemoError::Checksum {
            stored,
            local: local_crc,
        });
    }
    say(&format!(
        "checksum  {stored}, from stored CRCs, without moving a byte"
    ));
    wait_until_healthy(&control, &drain)?;
    say("fsck      healthy");
    chunkservers.into_iter().for_each(Daemon::stop);
    master.stop();
    Ok(())
}

fn wait_for_all(control: &str, drain: &Drain) -> Result<(), DemoError> {
    let count = CHUNKSERVERS.to_string();
    let wait = ["wait", "--chunkservers", &count, "--timeout", "60s"].map(OsStr::new);
    sarsen(control, &wait, drain)?;
    Ok(())
}

/// Asks `fsck` until it finds nothing wrong.
fn wait_until_healthy(control: &str, drain: &Drain) -> Result<(), DemoError> {
    let began = Instant::now();
    let fsck = ["--json", "fsck"].map(OsStr::new);
    loop {
        match sarsen(control, &fsck, drain) {
            Ok(_) => return Ok(()),
            Err(ClusterError::Command { status, .. })
                if status.code() == Some(1) && began.elapsed() < HEAL_TIME_MAX =>
            {
                thread::sleep(HEAL_POLL_INTERVAL);
            }
            Err(ClusterError::Command { text, .. }) => {
                return Err(DemoError::Unhealthy { report: text });
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Runs a `put` or `get` with `--json`, and tells how fast it was.
fn tell_transfer(
    control: &str,
    what: &str,
    args: &[&OsStr],
    drain: &Drain,
) -> Result<(), DemoError> {
    let text = sarsen(control, args, drain)?;
    let line = (|| {
        let report: Value = serde_json::from_str(&text).ok()?;
        let (seconds, rate) = (report["seconds"].as_f64()?, report["mb_per_s"].as_f64()?);
        let crc32 = report["crc32"].as_str()?;
        Some(format!(
            "{what:<9} {seconds:.2} s, {rate:.0} MB/s, CRC-32 {crc32}"
        ))
    })();
    let command = || args.join(OsStr::new(" ")).to_string_lossy().into_owned();
    match line {
        Some(line) => say(&line),
        None => {
            return Err(DemoError::Output {
                command: command(),
                field: "rate",
                text,
            });
        }
    }
    Ok(())
}

/// Runs a command with `--json`, and returns one field of what it prints.
fn json_text(
    control: &str,
    args: &[&str],
    field: &'static str,
    drain: &Drain,
) -> Result<String, DemoError> {
    let line: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
    let text = sarsen(control, &line, drain)?;
    let report: Option<Value> = serde_json::from_str(&text).ok();
    match report.as_ref().and_then(|report| report[field].as_str()) {
        Some(value) => Ok(value.to_owned()),
        None => Err(DemoError::Output {
            command: args.join(" "),
            field,
            text,
        }),
    }
}

/// Writes the file that is used when none was given.
fn make_file(path: &Path, drain: &Drain) -> Result<(), DemoError> {
    let mut made = File::create(path).map_err(file("making the file", path))?;
    let mut state = SEED;
    let mut bytes = Vec::with_capacity(1 << 20);
    for _ in 0..MADE_LEN / MIB {
        go_on(drain)?;
        bytes.clear();
        for _ in 0..MIB / 8 {
            bytes.extend_from_slice(&next_random(&mut state).to_le_bytes());
        }
        let written = made.write_all(&bytes);
        written.map_err(file("making the file", path))?;
    }
    Ok(())
}

/// SplitMix64 (Steele, Lea and Flood, 2014): bytes that no disk or network can squeeze.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// A file's length, and its CRC-32 as `sarsen checksum` writes it.
fn checksum(path: &Path, drain: &Drain) -> Result<(u64, String), DemoError> {
    let mut source = File::open(path).map_err(file("reading", path))?;
    let (mut len, mut sum) = (0, crc::crc32(&[]));
    let mut buffer = vec![0; 1 << 20];
    loop {
        go_on(drain)?;
        let read = source.read(&mut buffer).map_err(file("reading", path))?;
        if read == 0 {
            return Ok((len, format!("{sum:08x}")));
        }
        sum = crc::extend(sum, &buffer[..read]);
        len += read as u64;
    }
}

/// Compares two files byte by byte.
fn compare(left_path: &Path, right_path: &Path, drain: &Drain) -> Result<(), DemoError> {
    let mut left = File::open(left_path).map_err(file("opening", left_path))?;
    let mut right = File::open(right_path).map_err(file("opening", right_path))?;
    let (mut left_buffer, mut right_buffer) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut offset = 0;
    loop {
        go_on(drain)?;
        let left_len = fill(&mut left, &mut left_buffer).map_err(file("reading", left_path))?;
        let right_len = fill(&mut right, &mut right_buffer).map_err(file("reading", right_path))?;
        let (left_bytes, right_bytes) = (&left_buffer[..left_len], &right_buffer[..right_len]);
        if left_bytes != right_bytes {
            let equal = left_bytes
                .iter()
                .zip(right_bytes)
                .take_while(|(a, b)| a == b)
                .count();
            return Err(DemoError::Differs {
                offset: offset + equal as u64,
            });
        }
        if left_len == 0 {
            return Ok(());
        }
        offset += left_len as u64;
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read(&mut buffer[len..])? {
            0 => break,
            read => len += read,
        }
    }
    Ok(len)
}

/// One line on stdout; who started us may not listen any more.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
