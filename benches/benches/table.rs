//! The table: every figure beside its limit, taken in turn in one run.
//!
//!     cargo bench -p sarsen-benches --bench table [-- --quick] [--only WORD] [--runs N] [--disk DIR]
//!
//! `--against PROGRAM` leaves the limits out and takes uploads and downloads in turn with those of
//! another build of this program: whether a change is worth it.
//!
//! `--quick` moves less and runs less often: it proves that everything works, not how fast.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use anyhow::Context as _;
use sarsen_benches::cluster::{self, Cluster};
use sarsen_benches::limits::{self, Download, HOPS, Relay, RoundTrips};
use sarsen_benches::measure::{GIB, MIB, Sample, Series, alternate};
use sarsen_benches::place;
use sarsen_benches::roles::{Operation, play_if_asked};
use sarsen_benches::table::{Reference, Row, Table, Unit};
use sarsen_client::STREAMS_DEFAULT as STREAMS;
use tempfile::TempDir;

/// Exit code of a run whose reference loops are too low for its figures to count.
const INVALID: u8 = 3;

/// Clients that use a cluster at once.
const CLIENTS: u64 = 4;

fn main() -> anyhow::Result<ExitCode> {
    if let Some(code) = play_if_asked() {
        return Ok(code);
    }
    let options = Options::parse(std::env::args().skip(1))?;
    let mut run = Run::begin(options)?;
    if let Some(other) = run.options.against.clone() {
        run.against(&other)?;
        println!("\n{}", run.table);
        return Ok(ExitCode::SUCCESS);
    }
    run.references()?;
    run.uploads_in_memory()?;
    run.uploads_on_disk()?;
    run.downloads()?;
    run.many_clients()?;
    run.small_reads()?;
    run.metadata()?;
    println!("\n{}", run.table);
    Ok(run.verdict())
}

struct Options {
    quick: bool,
    only: Option<String>,
    runs: usize,
    disk: Option<PathBuf>,
    against: Option<PathBuf>,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut options = Self {
            quick: false,
            only: None,
            runs: 0,
            disk: None,
            against: None,
        };
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} takes a value"));
            match arg.as_str() {
                // What cargo says to every benchmark; and what it says to those that are tests.
                "--bench" => {}
                "--quick" | "--test" => options.quick = true,
                "--only" => options.only = Some(value()?),
                "--runs" => options.runs = value()?.parse().context("--runs")?,
                "--disk" => options.disk = Some(value()?.into()),
                "--against" => options.against = Some(value()?.into()),
                _ => anyhow::bail!("unknown option {arg}"),
            }
        }
        if options.runs == 0 {
            options.runs = if options.quick { 1 } else { 5 };
        }
        Ok(options)
    }
}

/// A run of the table.
struct Run {
    options: Options,
    /// Bytes of the file that goes up and down.
    len: u64,
    memory: TempDir,
    disk: TempDir,
    table: Table,
}

impl Run {
    fn begin(options: Options) -> anyhow::Result<Self> {
        let len = if options.quick { GIB / 4 } else { GIB };
        // The file, three copies, and one that came down or is on its way out.
        let memory = place::in_memory(6 * len)?;
        let default = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let disk = place::on_disk(options.disk.as_deref(), default)?;
        let cores = thread::available_parallelism().map_or(0, usize::from);
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        println!(
            "{cores} cores, Linux {}, load {}; memory: {}, disk: {}; {} MiB, medians of {}",
            kernel.trim(),
            load.split_whitespace().next().unwrap_or("?"),
            place::describe(memory.path()),
            place::describe(disk.path()),
            len / MIB,
            options.runs,
        );
        eprintln!("touching memory");
        place::touch_memory(memory.path(), if options.quick { 0 } else { 8 * GIB })?;
        place::make_file(&memory.path().join("source"), len)?;
        Ok(Self {
            options,
            len,
            memory,
            disk,
            table: Table::default(),
        })
    }

    /// Whether a group of figures is wanted.
    fn wants(&self, group: &str) -> bool {
        let wanted = self
            .options
            .only
            .as_ref()
            .is_none_or(|only| group.contains(only));
        if wanted {
            eprintln!("{group}");
        }
        wanted
    }

    fn source(&self) -> PathBuf {
        self.memory.path().join("source")
    }

    fn refer(&mut self, name: &str, unit: Unit, known: Option<f64>, series: &Series) {
        self.table.references.push(Reference {
            name: name.to_owned(),
            unit,
            series: series.clone(),
            known,
        });
    }

    fn row(&mut self, name: &str, unit: Unit, ours: &Series, limit: (&str, &Series), goal: &str) {
        self.table.rows.push(Row {
            name: name.to_owned(),
            unit,
            ours: ours.clone(),
            limit_name: limit.0.to_owned(),
            limit: limit.1.clone(),
            goal: goal.to_owned(),
        });
    }

    /// Uploads and downloads, those of another build in place of their limits.
    fn against(&mut self, other: &Path) -> anyhow::Result<()> {
        let (runs, source, null) = (self.options.runs, self.source(), Path::new("/dev/null"));
        let (memory, disk) = (self.memory.path().to_owned(), self.disk.path().to_owned());
        let target = memory.join("target");
        let path = "/source";
        for (name, folder, durable) in [
            ("upload at memory, tmpfs", &memory, false),
            ("upload at disk, disk", &disk, true),
        ] {
            if !self.wants(name) {
                continue;
            }
            let (ours, theirs) = (Cluster::start(folder)?, Cluster::start_from(other, folder)?);
            let all = alternate(
                runs,
                &mut [
                    ("the other", &mut || put(&theirs, &source, durable)),
                    ("this", &mut || put(&ours, &source, durable)),
                ],
            )?;
            self.compare(name, Unit::Megabytes, &all);
        }
        for (name, target) in [
            ("download to /dev/null, tmpfs", null),
            ("download to a file, tmpfs", &target),
        ] {
            if !self.wants(name) {
                continue;
            }
            let (ours, theirs) = (
                Cluster::start(&memory)?,
                Cluster::start_from(other, &memory)?,
            );
            ours.put(&source, path, false)?;
            theirs.put(&source, path, false)?;
            let get = |cluster: &Cluster| {
                let sample = cluster.get(path, target);
                if target != null {
                    std::fs::remove_file(target)?;
                }
                sample
            };
            let all = alternate(
                runs,
                &mut [
                    ("the other", &mut || get(&theirs)),
                    ("this", &mut || get(&ours)),
                ],
            )?;
            self.compare(name, Unit::Megabytes, &all);
        }
        self.small_reads_against(other)
    }

    fn small_reads_against(&mut self, other: &Path) -> anyhow::Result<()> {
        if !self.wants("small reads") {
            return Ok(());
        }
        let memory = self.memory.path();
        let (ours, theirs) = (Cluster::start(memory)?, Cluster::start_from(other, memory)?);
        for cluster in [&ours, &theirs] {
            cluster.put(&self.source(), "/source", false)?;
        }
        let read = Operation::Read {
            path: "/source".to_owned(),
            size: self.len,
            len: 4096,
        };
        for (name, in_flight, unit) in [
            (
                "4 KiB random reads, 1 in flight, p50",
                1,
                Unit::Microseconds,
            ),
            ("4 KiB random reads, 64 in flight", 64, Unit::Operations),
        ] {
            let many = |cluster: &Cluster| cluster.many(&read, in_flight, 20_000);
            let all = alternate(
                self.options.runs,
                &mut [
                    ("the other", &mut || many(&theirs)),
                    ("this", &mut || many(&ours)),
                ],
            )?;
            self.compare(name, unit, &all);
        }
        Ok(())
    }

    fn compare(&mut self, name: &str, unit: Unit, all: &[Series]) {
        if let [theirs, ours] = all {
            self.row(name, unit, ours, ("the other build", theirs), "");
        }
    }

    /// The loops that no single figure is held against.
    fn references(&mut self) -> anyhow::Result<()> {
        if !self.wants("reference loops") {
            return Ok(());
        }
        let (runs, len) = (self.options.runs, self.len);
        let (memory, disk) = (self.memory.path().to_owned(), self.disk.path().to_owned());
        let bytes = [
            ("copy", Some(8400.0)),
            ("CRC", Some(8800.0)),
            ("loopback, one stream", Some(2400.0)),
            ("64 MiB write + fdatasync, 1 party", Some(440.0)),
            ("64 MiB write + fdatasync, 3 parties", Some(440.0)),
        ];
        let all = alternate(
            runs,
            &mut [
                (bytes[0].0, &mut || Ok(limits::copy(4 * len))),
                (bytes[1].0, &mut || Ok(limits::crc(4 * len))),
                (bytes[2].0, &mut || {
                    limits::relay(Relay::Bare, 1, 1, len, &memory)
                }),
                (bytes[3].0, &mut || limits::sync_large(1, 6, &disk)),
                (bytes[4].0, &mut || limits::sync_large(3, 2, &disk)),
            ],
        )?;
        for ((name, known), series) in bytes.into_iter().zip(&all) {
            self.refer(name, Unit::Megabytes, known, series);
        }
        let operations = [
            ("4 KiB write + fdatasync, 1 party", Some(7800.0)),
            ("4 KiB write + fdatasync, 3 parties", None),
            ("round trip of 64 bytes", None),
        ];
        let count = if self.options.quick { 500 } else { 5000 };
        let plain = RoundTrips {
            reply_len: 64,
            crc: false,
            on_tokio: false,
            in_flight: 1,
            count: 4 * count,
        };
        let all = alternate(
            runs,
            &mut [
                (operations[0].0, &mut || limits::sync_small(1, count, &disk)),
                (operations[1].0, &mut || limits::sync_small(3, count, &disk)),
                (operations[2].0, &mut || limits::round_trips(plain)),
            ],
        )?;
        for ((name, known), series) in operations.into_iter().zip(&all) {
            self.refer(name, Unit::Operations, known, series);
        }
        Ok(())
    }

    fn uploads_in_memory(&mut self) -> anyhow::Result<()> {
        if !self.wants("upload at memory") {
            return Ok(());
        }
        let (runs, len, source) = (self.options.runs, self.len, self.source());
        let memory = self.memory.path().to_owned();
        let cluster = Cluster::start(&memory)?;
        let relay = |kind, streams| limits::relay(kind, HOPS, streams, len, &memory);
        let all = alternate(
            runs,
            &mut [
                ("three-hop relay, 1 stream", &mut || relay(Relay::Bare, 1)),
                ("three-hop relay", &mut || relay(Relay::Bare, STREAMS)),
                ("relay + write", &mut || relay(Relay::Write, STREAMS)),
                ("relay + write + CRC, 1 stream", &mut || {
                    relay(Relay::WriteCrc, 1)
                }),
                ("relay + write + CRC", &mut || {
                    relay(Relay::WriteCrc, STREAMS)
                }),
                ("upload at memory, tmpfs", &mut || {
                    put(&cluster, &source, false)
                }),
            ],
        )?;
        let [bare_1, bare, write, crc_1, crc, ours] = all.as_slice() else {
            anyhow::bail!("a figure is missing");
        };
        let unit = Unit::Megabytes;
        self.refer("three-hop relay, 1 stream", unit, Some(1200.0), bare_1);
        self.refer("three-hop relay", unit, Some(1200.0), bare);
        self.refer("relay + write, tmpfs", unit, None, write);
        self.refer(
            "relay + write + CRC, tmpfs, 1 stream",
            unit,
            Some(600.0),
            crc_1,
        );
        self.refer("relay + write + CRC, tmpfs", unit, Some(600.0), crc);
        let name = "upload at memory, tmpfs";
        self.row(name, unit, ours, ("relay + write", write), ">= 0.60, 0.85");
        self.row(
            name,
            unit,
            ours,
            ("relay + write + CRC", crc),
            ">= 0.95 later",
        );
        Ok(())
    }

    fn uploads_on_disk(&mut self) -> anyhow::Result<()> {
        if !self.wants("upload at disk") {
            return Ok(());
        }
        let (runs, len, source) = (self.options.runs, self.len, self.source());
        let disk = self.disk.path().to_owned();
        let cluster = Cluster::start(&disk)?;
        let all = alternate(
            runs,
            &mut [
                ("written and synced three times", &mut || {
                    limits::write_synced(len, &disk)
                }),
                ("upload at disk", &mut || put(&cluster, &source, true)),
            ],
        )?;
        let [limit, ours] = all.as_slice() else {
            anyhow::bail!("a figure is missing");
        };
        let limit = ("written and synced three times by one program", limit);
        self.row(
            "upload at disk, disk",
            Unit::Megabytes,
            ours,
            limit,
            ">= 0.90 later",
        );
        Ok(())
    }

    fn downloads(&mut self) -> anyhow::Result<()> {
        if !self.wants("download") {
            return Ok(());
        }
        let (runs, len, source) = (self.options.runs, self.len, self.source());
        let memory = self.memory.path().to_owned();
        let cluster = Cluster::start(&memory)?;
        cluster.put(&source, "/source", false)?;
        let target = memory.join("target");
        let file = |kind, streams| limits::download(kind, streams, len, &source, &memory);
        let null = Path::new("/dev/null");
        let all = alternate(
            runs,
            &mut [
                ("sendfile + discard, 1 stream", &mut || {
                    file(Download::Discard, 1)
                }),
                ("sendfile + discard", &mut || {
                    file(Download::Discard, STREAMS)
                }),
                ("sendfile + CRC, 1 stream", &mut || file(Download::Crc, 1)),
                ("sendfile + CRC", &mut || file(Download::Crc, STREAMS)),
                ("download to /dev/null", &mut || {
                    cluster.get("/source", null)
                }),
                ("sendfile + CRC + write, 1 stream", &mut || {
                    file(Download::CrcWrite, 1)
                }),
                ("sendfile + CRC + write", &mut || {
                    file(Download::CrcWrite, STREAMS)
                }),
                ("download to a file", &mut || {
                    let sample = cluster.get("/source", &target);
                    std::fs::remove_file(&target)?;
                    sample
                }),
            ],
        )?;
        let [
            discard_1,
            discard,
            crc_1,
            crc,
            to_null,
            write_1,
            write,
            to_file,
        ] = all.as_slice()
        else {
            anyhow::bail!("a figure is missing");
        };
        let unit = Unit::Megabytes;
        self.refer(
            "sendfile + discard, 1 stream",
            unit,
            Some(4000.0),
            discard_1,
        );
        self.refer("sendfile + discard", unit, Some(4000.0), discard);
        self.refer("sendfile + CRC, 1 stream", unit, Some(3000.0), crc_1);
        self.refer("sendfile + CRC", unit, Some(3000.0), crc);
        self.refer(
            "sendfile + CRC + write, tmpfs, 1 stream",
            unit,
            Some(1200.0),
            write_1,
        );
        self.refer("sendfile + CRC + write, tmpfs", unit, Some(1200.0), write);
        let limit = ("sendfile + CRC", crc);
        self.row(
            "download to /dev/null, tmpfs",
            unit,
            to_null,
            limit,
            ">= 0.60, 0.90",
        );
        let limit = ("sendfile + CRC + write", write);
        self.row(
            "download to a file, tmpfs",
            unit,
            to_file,
            limit,
            ">= 0.90 later",
        );
        Ok(())
    }

    /// Several clients at once against one, each with its share of the bytes.
    fn many_clients(&mut self) -> anyhow::Result<()> {
        if !self.wants("clients at once") {
            return Ok(());
        }
        let (runs, len, source) = (self.options.runs, self.len, self.source());
        let memory = self.memory.path().to_owned();
        let part = memory.join("part");
        place::make_file(&part, len / CLIENTS)?;
        let cluster = Cluster::start(&memory)?;
        let paths: Vec<String> = (0..CLIENTS)
            .map(|number| format!("/part-{number}"))
            .collect();
        for path in &paths {
            cluster.put(&part, &format!("{path}-down"), false)?;
        }
        cluster.put(&source, "/source-down", false)?;
        let stay = HOPS * usize::try_from(2 * len.div_ceil(CHUNK_LEN))?;
        let mut up = || {
            let puts: Vec<_> = paths
                .iter()
                .map(|it| cluster::put(&part, it, false))
                .collect();
            let sample = cluster.bulk(&puts)?;
            paths.iter().try_for_each(|path| purge(&cluster, path))?;
            cluster.wait_for_space(stay)?;
            Ok(sample)
        };
        let null = Path::new("/dev/null");
        let mut down = || {
            let gets = paths
                .iter()
                .map(|it| cluster::get(&format!("{it}-down"), null));
            cluster.bulk(&gets.collect::<Vec<_>>())
        };
        let mut up_alone = || {
            let sample = cluster.put(&source, "/source", false)?;
            purge(&cluster, "/source")?;
            cluster.wait_for_space(stay)?;
            Ok(sample)
        };
        let all = alternate(
            runs,
            &mut [
                ("1 client up", &mut up_alone),
                ("4 clients up", &mut up),
                ("1 client down", &mut || cluster.get("/source-down", null)),
                ("4 clients down", &mut down),
            ],
        )?;
        let [up_alone, up, down_alone, down] = all.as_slice() else {
            anyhow::bail!("a figure is missing");
        };
        let (unit, goal) = (Unit::Megabytes, ">= 0.95 later");
        self.row(
            "4 clients up, memory, tmpfs",
            unit,
            up,
            ("1 client", up_alone),
            goal,
        );
        self.row(
            "4 clients down, tmpfs",
            unit,
            down,
            ("1 client", down_alone),
            goal,
        );
        Ok(())
    }

    fn small_reads(&mut self) -> anyhow::Result<()> {
        if !self.wants("small reads") {
            return Ok(());
        }
        let (runs, source) = (self.options.runs, self.source());
        let cluster = Cluster::start(self.memory.path())?;
        cluster.put(&source, "/source", false)?;
        let read = Operation::Read {
            path: "/source".to_owned(),
            size: self.len,
            len: 4096,
        };
        let count = if self.options.quick { 500 } else { 5000 };
        let ask = |reply_len, crc, in_flight, count| {
            limits::round_trips(RoundTrips {
                reply_len,
                crc,
                on_tokio: true,
                in_flight,
                count,
            })
        };
        let bare = |in_flight, count| ask(4096, false, in_flight, count);
        let block = |in_flight, count| ask(BLOCK_LEN, true, in_flight, count);
        let all = alternate(
            runs,
            &mut [
                ("replies of 4 KiB, 1 in flight", &mut || bare(1, 4 * count)),
                ("replies of a block + CRC, 1 in flight", &mut || {
                    block(1, 2 * count)
                }),
                ("4 KiB reads, 1 in flight", &mut || {
                    cluster.many(&read, 1, 2 * count)
                }),
                ("replies of 4 KiB, 64 in flight", &mut || {
                    bare(64, 8 * count)
                }),
                ("replies of a block + CRC, 64 in flight", &mut || {
                    block(64, 4 * count)
                }),
                ("4 KiB reads, 64 in flight", &mut || {
                    cluster.many(&read, 64, 4 * count)
                }),
            ],
        )?;
        let [bare_1, block_1, read_1, bare_64, block_64, read_64] = all.as_slice() else {
            anyhow::bail!("a figure is missing");
        };
        let (bare, block) = ("request and reply on tokio", "replies of a block + CRC");
        let name = "4 KiB random reads, 1 in flight, p50";
        let unit = Unit::Microseconds;
        self.row(name, unit, read_1, (bare, bare_1), "<= 1.50 later");
        self.row(name, unit, read_1, (block, block_1), "");
        let name = "4 KiB random reads, 64 in flight";
        let unit = Unit::Operations;
        self.row(name, unit, read_64, (bare, bare_64), ">= 0.60 later");
        self.row(name, unit, read_64, (block, block_64), "");
        Ok(())
    }

    fn metadata(&mut self) -> anyhow::Result<()> {
        if !self.wants("metadata") {
            return Ok(());
        }
        let (runs, disk) = (self.options.runs, self.disk.path().to_owned());
        let cluster = Cluster::start(&disk)?;
        let count = if self.options.quick { 200 } else { 3000 };
        let mut made = 0;
        // Every run makes its own folder, to make others in.
        let mut make = |cluster: &Cluster, in_flight, file: bool| {
            made += 1;
            let folder = Operation::MakeFolder {
                parent: format!("/{made}"),
            };
            let runtime = tokio::runtime::Runtime::new()?;
            runtime.block_on(async {
                let client = cluster.connect().await?;
                client.make_folder(&format!("/{made}"), false).await?;
                client.close().await;
                anyhow::Ok(())
            })?;
            let operation = match file {
                true => Operation::Touch {
                    parent: format!("/{made}"),
                },
                false => folder,
            };
            cluster.many(&operation, in_flight, count)
        };
        let make = std::cell::RefCell::new(&mut make);
        let stat = Operation::Stat {
            path: "/1".to_owned(),
        };
        let trip = |in_flight| {
            limits::round_trips(RoundTrips {
                reply_len: 64,
                crc: false,
                on_tokio: true,
                in_flight,
                count: 4 * count,
            })
        };
        let all = alternate(
            runs,
            &mut [
                ("4 KiB write + fdatasync", &mut || {
                    limits::sync_small(1, count, &disk)
                }),
                ("mkdir, 1 in flight", &mut || {
                    (make.borrow_mut())(&cluster, 1, false)
                }),
                ("mkdir, 64 in flight", &mut || {
                    (make.borrow_mut())(&cluster, 64, false)
                }),
                ("empty file, 1 in flight", &mut || {
                    (make.borrow_mut())(&cluster, 1, true)
                }),
                ("empty file, 64 in flight", &mut || {
                    (make.borrow_mut())(&cluster, 64, true)
                }),
                ("replies of 64 bytes, 1 in flight", &mut || trip(1)),
                ("stat, 1 in flight", &mut || {
                    cluster.many(&stat, 1, 4 * count)
                }),
                ("replies of 64 bytes, 64 in flight", &mut || trip(64)),
                ("stat, 64 in flight", &mut || {
                    cluster.many(&stat, 64, 4 * count)
                }),
            ],
        )?;
        let [
            sync,
            folder_1,
            folder_64,
            file_1,
            file_64,
            trip_1,
            stat_1,
            trip_64,
            stat_64,
        ] = all.as_slice()
        else {
            anyhow::bail!("a figure is missing");
        };
        let unit = Unit::Operations;
        let limit = ("4 KiB write + fdatasync, 1 party", sync);
        self.row("mkdir, 1 in flight, disk", unit, folder_1, limit, "");
        self.row("mkdir, 64 in flight, disk", unit, folder_64, limit, "");
        self.row("empty file, 1 in flight, disk", unit, file_1, limit, "");
        self.row("empty file, 64 in flight, disk", unit, file_64, limit, "");
        let limit = "request and reply on tokio";
        self.row("stat, 1 in flight", unit, stat_1, (limit, trip_1), "");
        self.row("stat, 64 in flight", unit, stat_64, (limit, trip_64), "");
        Ok(())
    }

    /// Says loudly whether the figures count. A quick run is too short to.
    fn verdict(&self) -> ExitCode {
        let low = self.table.low();
        if low.is_empty() {
            return ExitCode::SUCCESS;
        }
        let names: Vec<&str> = low.iter().map(|it| it.name.as_str()).collect();
        println!(
            "*** INVALID: {} fell a third below what is known of the machine that Sarsen is\n\
             *** measured on. Something else has this machine, or it is another one: ratios of\n\
             *** this run may be compared with each other, its figures with nothing.",
            names.join(", ")
        );
        match self.options.quick {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(INVALID),
        }
    }
}

/// Bytes of a checksum block, which is what a read of less brings.
const BLOCK_LEN: usize = sarsen_protocol::size::BLOCK_LEN as usize;

/// Bytes of a chunk.
const CHUNK_LEN: u64 = sarsen_protocol::size::CHUNK_LEN_MAX as u64;

/// Uploads a file, and clears it away when the time was taken.
fn put(cluster: &Cluster, source: &Path, durable: bool) -> anyhow::Result<Sample> {
    let sample = cluster.put(source, "/upload", durable)?;
    purge(cluster, "/upload")?;
    cluster.wait_for_space(0)?;
    Ok(sample)
}

fn purge(cluster: &Cluster, path: &str) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let client = cluster.connect().await?;
        client.remove(path, false, true).await?;
        client.close().await;
        Ok(())
    })
}
