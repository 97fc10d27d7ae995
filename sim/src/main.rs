//! Runs seeds: one to look at it, or many to see that none fails.

use std::ops::Range;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use sarsen_sim::cluster::{Options, Report, run};
use sarsen_sim::counters::{Counters, FAULTS, PATHS};
use sarsen_sim::invariants::determinism;

/// So many seeds must have seen every fault and gone every path.
const SEEDS_FOR_ALL: u64 = 500;

/// Simulates whole Sarsen clusters from seeds.
#[derive(Debug, Parser)]
#[command(name = "sarsen-sim")]
struct Args {
    /// Runs this seed
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Runs these seeds, as 0..1000
    #[arg(long, value_parser = range)]
    seeds: Option<Range<u64>>,
    /// Prints what happens in the run of one seed
    #[arg(short, long)]
    verbose: bool,
    /// Runs every seed twice and compares the traces
    #[arg(long)]
    twice: bool,
    /// Seeds at a time [default: the number of cores]
    #[arg(long)]
    jobs: Option<usize>,
    /// How many doings are acknowledged at least in a run
    #[arg(long, default_value_t = 200)]
    acknowledged: u64,
    /// How many faults fire at least in a run
    #[arg(long, default_value_t = 5)]
    faults: u64,
    /// Goes on after a failure
    #[arg(long)]
    keep_going: bool,
    /// Takes a check out, by its name; only in builds with debug assertions
    #[arg(long)]
    remove: Option<String>,
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("seeds are given as FROM..TO")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| error.to_string());
    Ok(number(from)?..number(to)?)
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(text) = remove(args.remove.as_deref()) {
        eprintln!("sarsen-sim: {text}");
        return ExitCode::from(2);
    }
    match (args.seed, args.seeds.clone()) {
        (Some(seed), _) => one(seed, &args),
        (None, Some(seeds)) => many(seeds, &args),
        (None, None) => many(0..100, &args),
    }
}

/// Takes a check out of what this thread does.
fn remove(name: Option<&str>) -> Result<(), String> {
    let Some(name) = name else {
        return Ok(());
    };
    #[cfg(debug_assertions)]
    {
        use sarsen_protocol::sabotage::{Check, remove};
        let mut all = Check::ALL.iter();
        let check = all.find(|check| format!("{check:?}") == name);
        let check = check.ok_or(format!("there is no check {name}: {:?}", Check::ALL))?;
        remove(Some(*check));
        Ok(())
    }
    #[cfg(not(debug_assertions))]
    Err(format!(
        "{name} can't be taken out of a release build: run an unoptimised one"
    ))
}

impl Args {
    /// The run of a seed.
    fn options(&self, seed: u64) -> Options {
        Options {
            acknowledged_min: self.acknowledged,
            faults_min: self.faults,
            ..Options::new(seed)
        }
    }
}

fn one(seed: u64, args: &Args) -> ExitCode {
    let options = Options {
        is_verbose: args.verbose,
        ..args.options(seed)
    };
    let began = Instant::now();
    let report = run(&options);
    print!("{}", report.counters);
    println!(
        "seed {seed}: {} acknowledged, {} faults fired, {} events in {:.1} s, {:.0} ms, trace {:016x}",
        report.acknowledged,
        report.counters.faults(),
        report.events,
        report.took.as_secs_f64(),
        began.elapsed().as_secs_f64() * 1000.0,
        report.trace_hash
    );
    if args.twice
        && let Err(text) = determinism::check(&args.options(seed))
    {
        println!("FAILED: not the same twice: {text}");
        return ExitCode::FAILURE;
    }
    match report.failure {
        Some(failure) => {
            println!("FAILED {failure}");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

/// What many runs came to.
#[derive(Default)]
struct Sum {
    counters: Counters,
    runs: u64,
    acknowledged_min: Option<(u64, u64)>,
    faults_min: Option<(u64, u64)>,
    failures: Vec<(u64, String)>,
}

impl Sum {
    fn add(&mut self, report: Report, options: &Options) {
        self.runs += 1;
        self.counters.merge(&report.counters);
        let lower = |least: &mut Option<(u64, u64)>, value| {
            let found = (value, report.seed);
            *least = Some(least.map_or(found, |least| least.min(found)));
        };
        lower(&mut self.acknowledged_min, report.acknowledged);
        lower(&mut self.faults_min, report.counters.faults());
        if let Some(failure) = report.failure {
            self.failures.push((report.seed, failure));
        } else if report.acknowledged < options.acknowledged_min
            || report.counters.faults() < options.faults_min
        {
            let few = format!(
                "only {} acknowledged and {} faults fired",
                report.acknowledged,
                report.counters.faults()
            );
            self.failures.push((report.seed, few));
        }
    }
}

fn many(seeds: Range<u64>, args: &Args) -> ExitCode {
    let began = Instant::now();
    let sum = Mutex::new(Sum::default());
    let next = AtomicU64::new(seeds.start);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.unwrap_or(cores).max(1) {
            scope.spawn(|| {
                // What is taken out is taken out for a thread.
                let _ = remove(args.remove.as_deref());
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let options = args.options(seed);
                    let mut report = run(&options);
                    if args.twice
                        && report.failure.is_none()
                        && run(&options).trace_hash != report.trace_hash
                    {
                        report.failure = Some("not the same twice".to_owned());
                    }
                    let failed = report.failure.is_some();
                    if let Ok(mut sum) = sum.lock() {
                        sum.add(report, &options);
                    }
                    if failed && !args.keep_going {
                        next.store(seeds.end, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let sum = sum
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    tell(&sum, began, args)
}

fn tell(sum: &Sum, began: Instant, args: &Args) -> ExitCode {
    print!("{}", sum.counters);
    let of = |least: Option<(u64, u64)>| least.unwrap_or_default();
    let ((acknowledged, its_seed), (faults, other_seed)) =
        (of(sum.acknowledged_min), of(sum.faults_min));
    println!(
        "{} seeds in {:.1} s; at least {acknowledged} acknowledged (seed {its_seed}) and {faults} faults \
         fired (seed {other_seed}) in each",
        sum.runs,
        began.elapsed().as_secs_f64()
    );
    let mut is_well = true;
    for (seed, failure) in &sum.failures {
        is_well = false;
        println!("seed {seed} FAILED {failure}");
        let removed = args
            .remove
            .as_ref()
            .map_or(String::new(), |name| format!(" --remove {name}"));
        let profile = if cfg!(debug_assertions) {
            ""
        } else {
            "--release "
        };
        let (its, usual) = (args.options(*seed), Options::new(*seed));
        let is_usual =
            (its.acknowledged_min, its.faults_min) == (usual.acknowledged_min, usual.faults_min);
        let length = match is_usual {
            true => String::new(),
            false => format!(
                " --acknowledged {} --faults {}",
                its.acknowledged_min, its.faults_min
            ),
        };
        println!(
            "    again: cargo run {profile}-p sarsen-sim -- --seed {seed} -v{length}{removed}"
        );
    }
    if sum.runs >= SEEDS_FOR_ALL {
        for name in sum
            .counters
            .missing(FAULTS)
            .into_iter()
            .chain(sum.counters.missing(PATHS))
        {
            is_well = false;
            println!("never in {} seeds: {name}", sum.runs);
        }
    }
    match is_well {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
