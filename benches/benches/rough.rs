//! A rough line: 1 GiB up at `memory` with three replicas on tmpfs, and down to /dev/null, beside a
//! bare three-hop relay in the same run.
//!
//! Medians of a few runs, taken in turn; memory is touched by a first run that does not count. The
//! full table with every limit is still to come; this says whether the data plane is in the right
//! region.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use sarsen_benches::{cluster, relay};

const LEN: u64 = 1 << 30;
const RUNS: usize = 3;
const HOPS: usize = 3;

fn main() -> anyhow::Result<()> {
    let program = cluster::program()?;
    let tmpfs = Path::new("/dev/shm");
    let folder = match tmpfs.is_dir() {
        true => tempfile::tempdir_in(tmpfs)?,
        false => tempfile::tempdir()?,
    };
    let source = folder.path().join("source");
    make_file(&source)?;
    let cluster = cluster::Cluster::start(&program, &folder.path().join("cluster"))?;
    let source = source.to_str().context("a plain name")?;
    let (mut relayed, mut up, mut down) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..=RUNS {
        let relay = rate(relay::run(HOPS, LEN)?);
        let put = cluster.json(&["put", "--durability", "memory", source, "/rough"])?;
        let get = cluster.json(&["get", "/rough", "/dev/null"])?;
        cluster.json(&["rm", "--purge", "/rough"])?;
        if run > 0 {
            relayed.push(relay);
            up.push(put["mb_per_s"].as_f64().context("put tells no rate")?);
            down.push(get["mb_per_s"].as_f64().context("get tells no rate")?);
        }
    }
    let (relayed, up, down) = (median(relayed), median(up), median(down));
    println!(
        "1 GiB, three replicas, memory, {}; median of {RUNS} runs, MB/s",
        folder.path().display()
    );
    println!("{:<32} {:>8} {:>8}", "", "MB/s", "of relay");
    for (name, rate) in [
        ("bare three-hop relay", relayed),
        ("upload", up),
        ("download", down),
    ] {
        println!("{name:<32} {rate:>8.0} {:>8.2}", rate / relayed);
    }
    Ok(())
}

fn make_file(path: &Path) -> anyhow::Result<()> {
    let mut file = File::create(path)?;
    let mut part = vec![0_u8; 1 << 20];
    let mut state = 1_u64;
    for _ in 0..LEN >> 20 {
        for byte in part.chunks_exact_mut(8) {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            byte.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&part)?;
    }
    Ok(())
}

/// Megabytes a second, in the millions of bytes that `sarsen` counts in.
fn rate(elapsed: Duration) -> f64 {
    LEN as f64 / elapsed.as_secs_f64() / 1e6
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
