//! The table: every figure beside its limit, taken in turn in one run.
//!
//!     cargo bench -p sarsen-benches --bench table [-- --quick] [--only WORD] [--runs N] [--disk DIR]
//!
//! `--against PROGRAM` leaves the limits out and takes uploads and downloads in turn with those of
//! another build of this program: whether a change is worth it.
//!
//! `--quick` moves less and runs less often: it proves that everything works, not how fast.

mod against;
mod append;
mod bulk;
mod references;
mod small;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use anyhow::Context as _;
use sarsen_benches::measure::{GIB, MIB, Series};
use sarsen_benches::place;
use sarsen_benches::roles::play_if_asked;
use sarsen_benches::table::{Reference, Row, Table, Unit};
use tempfile::TempDir;

/// Exit code of a run whose reference loops are too low for its figures to count.
const INVALID: u8 = 3;

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
    run.appends()?;
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
