//! A chunk of 64 MiB into a chunkserver's store: checked, written, sealed; at `memory` on tmpfs, and
//! at both levels on the disk (see `SARSEN_BENCH_DIR`).

use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use sarsen_benches::{directory, place};
use sarsen_chunkd::store::Directory;
use sarsen_protocol::message::Level;
use sarsen_protocol::size::{CHUNK_LEN_MAX, PAYLOAD_LEN_MAX};

fn main() -> anyhow::Result<()> {
    let mut criterion = Criterion::default()
        .without_plots()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    let memory = place::in_memory(8 * u64::from(CHUNK_LEN_MAX))?;
    let disk = place::on_disk(None, Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    let in_memory = directory::open(&memory.path().join("chunks"))?;
    let on_disk = directory::open(&disk.path().join("chunks"))?;
    let mut group = criterion.benchmark_group("chunk write");
    group.throughput(Throughput::Bytes(u64::from(CHUNK_LEN_MAX)));
    for (name, directory, level) in [
        ("memory, tmpfs", &in_memory, Level::Memory),
        ("memory, disk", &on_disk, Level::Memory),
        ("disk, disk", &on_disk, Level::Disk),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|count| write(directory, level, count));
        });
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}

/// Writes a chunk `count` times; removing it again is not timed.
fn write(directory: &Directory, level: Level, count: u64) -> Duration {
    let payload = vec![0xa5; PAYLOAD_LEN_MAX as usize];
    let mut total = Duration::ZERO;
    for number in 1..=count {
        let began = Instant::now();
        directory::write_chunk(directory, number, &payload, level).expect("written");
        total += began.elapsed();
        directory::remove_chunk(directory, number).expect("removed");
    }
    total
}
