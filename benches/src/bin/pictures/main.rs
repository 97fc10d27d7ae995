//! Draws `benches/pictures/`: throughput and processor time for a GiB against the size of a file, the
//! number of clients, of replicas, and of chunks on their way at a time, each beside the machine's
//! limits, all measured in turn in one run.
//!
//!     cargo run --release -p sarsen-benches --bin pictures [-- --quick] [--only WORD] [--runs N]
//!                                                             [--out DIR]
//!
//! `--quick` moves less, once, into a folder that it removes again: it proves that all works. Bytes of
//! a frame are no setting, so there is no picture of them.

mod sweeps;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use sarsen_benches::machine;
use sarsen_benches::measure::{GIB, MIB};
use sarsen_benches::picture::Picture;
use sarsen_benches::place;
use sarsen_benches::roles::play_if_asked;

use sweeps::Sweeps;

/// What a picture is measured by.
type Sweep = fn(&Sweeps) -> anyhow::Result<Picture>;

/// The pictures, by the names of their files.
const PICTURES: [(&str, Sweep); 4] = [
    ("file-size", Sweeps::file_size),
    ("clients", Sweeps::clients),
    ("replicas", Sweeps::replicas),
    ("streams", Sweeps::streams),
];

fn main() -> anyhow::Result<ExitCode> {
    if let Some(code) = play_if_asked() {
        return Ok(code);
    }
    let options = Options::parse(std::env::args().skip(1))?;
    let len = if options.quick { 64 * MIB } else { GIB };
    let memory = place::in_memory(7 * len)?;
    let out = match (&options.out, options.quick) {
        (Some(out), _) => out.clone(),
        (None, true) => memory.path().join("pictures"),
        (None, false) => Path::new(env!("CARGO_MANIFEST_DIR")).join("pictures"),
    };
    fs::create_dir_all(&out).with_context(|| format!("making {}", out.display()))?;
    eprintln!("touching memory");
    place::touch_memory(memory.path(), if options.quick { 0 } else { 8 * GIB })?;
    let where_from = format!(
        "{}; loopback, {}, medians of {}",
        machine::describe(),
        place::describe(memory.path()),
        options.runs
    );
    let sweeps = Sweeps::new(memory.path(), len, options.runs, where_from)?;
    for (name, sweep) in PICTURES {
        if options.only.as_ref().is_none_or(|only| name.contains(only)) {
            eprintln!("{name}");
            let picture = sweep(&sweeps).with_context(|| format!("measuring for {name}"))?;
            let path = out.join(name).with_extension("svg");
            fs::write(&path, picture.svg()?)
                .with_context(|| format!("writing {}", path.display()))?;
            println!("{}", path.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

struct Options {
    quick: bool,
    only: Option<String>,
    runs: usize,
    out: Option<PathBuf>,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let (mut quick, mut only, mut runs, mut out) = (false, None, None, None);
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} takes a value"));
            match arg.as_str() {
                "--quick" => quick = true,
                "--only" => only = Some(value()?),
                "--runs" => runs = Some(value()?.parse().context("--runs")?),
                "--out" => out = Some(value()?.into()),
                _ => anyhow::bail!("unknown option {arg}"),
            }
        }
        let runs = runs.unwrap_or(if quick { 1 } else { 5 });
        Ok(Self {
            quick,
            only,
            runs,
            out,
        })
    }
}
