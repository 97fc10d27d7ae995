//! Operations that only the master takes part in, through the client library, one at a time and 64
//! at a time: folders, empty files, and questions. The master's log lies on the disk (see
//! `SARSEN_BENCH_DIR`), so every change waits for a sync that those beside it share.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use sarsen_benches::cluster::Cluster;
use sarsen_benches::place;
use sarsen_benches::roles::{Operation, play_if_asked};
use tokio::runtime::Runtime;

fn main() -> anyhow::Result<ExitCode> {
    if let Some(code) = play_if_asked() {
        return Ok(code);
    }
    let mut criterion = Criterion::default()
        .without_plots()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let disk = place::on_disk(None, Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    let cluster = Cluster::start(disk.path())?;
    let runtime = Runtime::new()?;
    let client = runtime.block_on(cluster.connect())?;
    for folder in ["/folders", "/files"] {
        runtime.block_on(client.make_folder(folder, false))?;
    }
    let operations = [
        (
            "mkdir",
            Operation::MakeFolder {
                parent: "/folders".to_owned(),
            },
        ),
        (
            "empty file",
            Operation::Touch {
                parent: "/files".to_owned(),
            },
        ),
        (
            "stat",
            Operation::Stat {
                path: "/folders".to_owned(),
            },
        ),
    ];
    let mut group = criterion.benchmark_group("metadata");
    let mut next = 0;
    for (name, operation) in &operations {
        let operation = Arc::new(runtime.block_on(operation.begin(&client))?);
        for in_flight in [1, 64] {
            group.throughput(Throughput::Elements(in_flight));
            group.bench_function(format!("{name}, {in_flight} in flight"), |bencher| {
                bencher.iter(|| {
                    let numbers = next..next + in_flight;
                    next = numbers.end;
                    runtime.block_on(operation.at_once(numbers)).expect("done");
                });
            });
        }
    }
    group.finish();
    runtime.block_on(client.close());
    criterion.final_summary();
    Ok(ExitCode::SUCCESS)
}
