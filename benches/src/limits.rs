//! The reference loops: what the machine can do when only the inevitable is done.
//!
//! Each runs over the same sockets, with the same buffers, the same reserved files and, per
//! party, the same number of processes as the path of Sarsen that it is held against.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::cpu;
use crate::measure::{MIB, Sample, median_time};
use crate::roles::{
    Asker, Done, FRAME_LEN, FileServer, Hop, Party, Reader, RecordHop, RecordSender, Replies, Role,
    Sender,
};
use crate::store::ChunkFiles;

/// Hops of a chain, and replicas of a chunk.
pub const HOPS: usize = 3;

/// Bytes of a checksum block.
const BLOCK_LEN: usize = sarsen_protocol::size::BLOCK_LEN as usize;

/// What the hops of a chain do with what they pass on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relay {
    /// Nothing.
    Bare,
    /// Write it.
    Write,
    /// Compute its CRCs, as the sender does too, and write it.
    WriteCrc,
}

/// What the reader of a file does with what it receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Download {
    /// Nothing.
    Discard,
    /// Compute its CRCs.
    Crc,
    /// Compute its CRCs, and write it to a file.
    CrcWrite,
}

/// Copies `len` bytes from a mebibyte that lies in the cache.
#[must_use]
pub fn copy(len: u64) -> Sample {
    let source = vec![0xa5_u8; FRAME_LEN];
    let mut target = vec![0_u8; FRAME_LEN];
    timed_here(len, || {
        target.copy_from_slice(std::hint::black_box(&source));
        std::hint::black_box(&mut target);
        MIB
    })
}

/// Computes the CRC of `len` bytes, a block of 64 KiB at a time.
#[must_use]
pub fn crc(len: u64) -> Sample {
    let block = vec![0xa5_u8; BLOCK_LEN];
    timed_here(len, || {
        std::hint::black_box(crc32fast::hash(std::hint::black_box(&block)));
        BLOCK_LEN as u64
    })
}

/// Does steps in this thread until `len` bytes are done.
fn timed_here(len: u64, mut step: impl FnMut() -> u64) -> Sample {
    let (cpu_before, began) = (cpu::own(), Instant::now());
    let mut amount = 0;
    while amount < len {
        amount += step();
    }
    Sample {
        amount,
        elapsed: began.elapsed(),
        cpu: vec![("one thread".to_owned(), cpu::own() - cpu_before)],
        p50: None,
    }
}

/// Sends `len` bytes over one hop, or down a chain of [`HOPS`].
///
/// # Errors
/// When loopback or `folder` can't be used.
pub fn relay(
    relay: Relay,
    hops: usize,
    streams: usize,
    len: u64,
    folder: &Path,
) -> anyhow::Result<Sample> {
    let crc = relay == Relay::WriteCrc;
    let work = tempfile::tempdir_in(folder)?;
    let mut parties = Vec::new();
    let mut next = None;
    // From the last to the first, so that each knows its next.
    for number in (1..=hops).rev() {
        let store = work.path().join(format!("hop-{number}"));
        fs::create_dir(&store)?;
        let hop = Hop {
            streams,
            next,
            crc,
            store: (relay != Relay::Bare).then_some(store),
        };
        let (listener, address) = listen()?;
        next = Some(address);
        parties.push((
            format!("hop {number}"),
            Party::serve(&Role::Hop(hop), listener)?,
        ));
    }
    let sender = Sender {
        to: next.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0))),
        streams,
        stream_len: len / streams as u64,
        crc,
    };
    parties.push(("sender".to_owned(), Party::start(&Role::Sender(sender))?));
    parties.reverse();
    together(len, parties)
}

/// Sends `len` bytes of a file to a reader.
///
/// # Errors
/// When loopback, `file` or `folder` can't be used.
pub fn download(
    download: Download,
    streams: usize,
    len: u64,
    file: &Path,
    folder: &Path,
) -> anyhow::Result<Sample> {
    let work = tempfile::tempdir_in(folder)?;
    let stream_len = len / streams as u64;
    let (listener, from) = listen()?;
    let server = FileServer {
        file: file.to_owned(),
        streams,
        stream_len,
    };
    let server = Party::serve(&Role::FileServer(server), listener)?;
    let reader = Reader {
        from,
        streams,
        stream_len,
        crc: download != Download::Discard,
        target: (download == Download::CrcWrite).then(|| work.path().join("target")),
    };
    let reader = Party::start(&Role::Reader(reader))?;
    let parties = vec![("reader".to_owned(), reader), ("server".to_owned(), server)];
    together(len, parties)
}

/// Has the first of `parties` begin, and waits for all.
fn together(amount: u64, mut parties: Vec<(String, Party)>) -> anyhow::Result<Sample> {
    let began = Instant::now();
    if let Some((_, first)) = parties.first_mut() {
        first.go()?;
    }
    let mut cpu = Vec::new();
    for (name, party) in &mut parties {
        let done = party.done()?;
        anyhow::ensure!(
            done.amount == amount,
            "{name} had {} of {amount} bytes",
            done.amount
        );
        cpu.push((name.clone(), done.cpu));
    }
    Ok(Sample {
        amount,
        elapsed: began.elapsed(),
        cpu,
        p50: None,
    })
}

/// Writes `len` bytes [`HOPS`] times, once a thread, in files as those of chunks, each of which is
/// synced when it is full. The rate is that of `len`.
///
/// # Errors
/// Those of the file system.
pub fn write_synced(len: u64, folder: &Path) -> anyhow::Result<Sample> {
    let work = tempfile::tempdir_in(folder)?;
    let (cpu_before, began) = (cpu::own(), Instant::now());
    at_once(HOPS, |number| {
        let mut files = ChunkFiles::new(work.path(), format!("copy-{number}"), true);
        let buffer = vec![0xa5; FRAME_LEN];
        for _ in 0..len / MIB {
            files.write(&buffer)?;
        }
        Ok(Vec::new())
    })?;
    Ok(Sample {
        amount: len,
        elapsed: began.elapsed(),
        cpu: vec![("program".to_owned(), cpu::own() - cpu_before)],
        p50: None,
    })
}

/// Has `parties` threads each append 4 KiB to a file and sync it, `count` times. Counts syncs.
///
/// # Errors
/// Those of the file system.
pub fn sync_small(parties: usize, count: u64, folder: &Path) -> anyhow::Result<Sample> {
    let work = tempfile::tempdir_in(folder)?;
    let began = Instant::now();
    let times = at_once(parties, |number| {
        let mut file = File::create(work.path().join(number.to_string()))?;
        let mut times = Vec::new();
        for _ in 0..count {
            let asked = Instant::now();
            file.write_all(&[1; 4096])?;
            file.sync_data()?;
            times.push(asked.elapsed());
        }
        Ok(times)
    })?;
    Ok(Sample {
        amount: count * parties as u64,
        elapsed: began.elapsed(),
        cpu: Vec::new(),
        p50: median_time(times),
    })
}

/// Has `parties` threads each write 64 MiB to a file and sync it, `count` times. Counts bytes.
///
/// # Errors
/// Those of the file system.
pub fn sync_large(parties: usize, count: u64, folder: &Path) -> anyhow::Result<Sample> {
    let work = tempfile::tempdir_in(folder)?;
    let began = Instant::now();
    at_once(parties, |number| {
        let buffer = vec![1; FRAME_LEN];
        for round in 0..count {
            let file = File::create(work.path().join(format!("{number}-{round}")))?;
            for part in 0..64 {
                file.write_all_at(&buffer, part * MIB)?;
            }
            file.sync_data()?;
        }
        Ok(Vec::new())
    })?;
    Ok(Sample {
        amount: count * parties as u64 * 64 * MIB,
        elapsed: began.elapsed(),
        cpu: Vec::new(),
        p50: None,
    })
}

/// Does `act` in so many threads at once; all the times that they took.
fn at_once(
    threads: usize,
    act: impl Fn(usize) -> anyhow::Result<Vec<Duration>> + Sync,
) -> anyhow::Result<Vec<Duration>> {
    let act = &act;
    thread::scope(|scope| {
        let begin = |number| scope.spawn(move || act(number));
        let begun: Vec<_> = (0..threads).map(begin).collect();
        let mut all = Vec::new();
        for thread in begun {
            all.extend(
                thread
                    .join()
                    .map_err(|_| anyhow::anyhow!("a thread panicked"))??,
            );
        }
        Ok(all)
    })
}

/// A bare server and who asks it.
#[derive(Clone, Copy, Debug)]
pub struct RoundTrips {
    /// Bytes of a reply.
    pub reply_len: usize,
    /// Whether the one who asks computes the CRC of each reply.
    pub crc: bool,
    /// On tokio on both sides, or with a thread a connection.
    pub on_tokio: bool,
    /// Requests at a time; one without tokio.
    pub in_flight: usize,
    /// Requests in all.
    pub count: u64,
}

/// Asks a bare server for replies.
///
/// # Errors
/// When loopback can't be used.
pub fn round_trips(asked: RoundTrips) -> anyhow::Result<Sample> {
    let (listener, of) = listen()?;
    let replies = Replies {
        reply_len: asked.reply_len,
        on_tokio: asked.on_tokio,
    };
    let _server = Party::serve(&Role::Replies(replies), listener)?;
    let mut asker = Party::start(&Role::Asker(Asker {
        of,
        reply_len: asked.reply_len,
        in_flight: asked.in_flight,
        count: asked.count,
        on_tokio: asked.on_tokio,
        crc: asked.crc,
    }))?;
    asker.go()?;
    Ok(operations(&asker.done()?))
}

/// Records that clients send, each with so many on their way.
#[derive(Clone, Copy, Debug)]
pub struct Records {
    /// Clients of one process.
    pub clients: usize,
    /// Records of each that are on their way at a time.
    pub in_flight: usize,
    /// Records in all.
    pub count: u64,
    /// Bytes of a record.
    pub len: usize,
}

/// Sends records down a chain of [`HOPS`], the last of which answers.
///
/// # Errors
/// When loopback can't be used.
pub fn records(sent: Records) -> anyhow::Result<Sample> {
    let mut hops = Vec::new();
    let mut next = None;
    // From the last to the first, so that each knows its next.
    for _ in 0..HOPS {
        let (listener, address) = listen()?;
        let hop = RecordHop {
            clients: sent.clients,
            next,
            record_len: sent.len,
        };
        next = Some(address);
        hops.push(Party::serve(&Role::RecordHop(hop), listener)?);
    }
    let mut sender = Party::start(&Role::RecordSender(RecordSender {
        to: next.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0))),
        clients: sent.clients,
        in_flight: sent.in_flight,
        count: sent.count,
        record_len: sent.len,
    }))?;
    sender.go()?;
    let sample = operations(&sender.done()?);
    for hop in &mut hops {
        let passed = hop.done()?.amount;
        anyhow::ensure!(passed == sample.amount, "a hop had {passed} records");
    }
    Ok(sample)
}

/// A sample of operations that a party has timed.
#[must_use]
pub fn operations(done: &Done) -> Sample {
    Sample {
        amount: done.amount,
        elapsed: done.elapsed.unwrap_or_default(),
        cpu: Vec::new(),
        p50: done.p50,
    }
}

fn listen() -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}
