//! Random reads of 4 KiB through the client library, one at a time and 64 at a time, against a
//! master and three chunkservers that are processes, on tmpfs.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use sarsen_benches::cluster::Cluster;
use sarsen_benches::roles::{Operation, play_if_asked};
use tokio::runtime::Runtime;

/// Bytes of the file.
const LEN: u64 = 128 << 20;

/// Bytes of a read.
const PART_LEN: u64 = 4096;

fn main() -> anyhow::Result<ExitCode> {
    if let Some(code) = play_if_asked() {
        return Ok(code);
    }
    let mut criterion = Criterion::default()
        .without_plots()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    let (_memory, source, cluster) = Cluster::start_beside_file(LEN)?;
    cluster.put(&source, "/source", false)?;
    let runtime = Runtime::new()?;
    let client = runtime.block_on(cluster.connect())?;
    let read = Operation::Read {
        path: "/source".to_owned(),
        size: LEN,
        len: PART_LEN,
    };
    let read = Arc::new(runtime.block_on(read.begin(&client))?);
    let mut group = criterion.benchmark_group("small reads");
    let mut next = 0;
    for in_flight in [1, 64] {
        group.throughput(Throughput::Elements(in_flight));
        group.bench_function(format!("4 KiB, {in_flight} in flight"), |bencher| {
            bencher.iter(|| {
                let numbers = next..next + in_flight;
                next = numbers.end;
                runtime.block_on(read.at_once(numbers)).expect("read");
            });
        });
    }
    group.finish();
    runtime.block_on(client.close());
    criterion.final_summary();
    Ok(ExitCode::SUCCESS)
}
