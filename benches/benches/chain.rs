//! Uploads and downloads of 256 MiB through the client library, against a master and three
//! chunkservers that are processes, on tmpfs.

use std::process::ExitCode;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use sarsen_benches::cluster::Cluster;
use sarsen_benches::roles::play_if_asked;
use sarsen_client::{Client, GetOptions, GetTarget, PutOptions, PutSource};
use sarsen_protocol::message::Level;
use tokio::runtime::Runtime;

/// Bytes of the file.
const LEN: u64 = 256 << 20;

fn main() -> anyhow::Result<ExitCode> {
    if let Some(code) = play_if_asked() {
        return Ok(code);
    }
    let mut criterion = Criterion::default()
        .without_plots()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(5))
        .configure_from_args();
    let (memory, source, cluster) = Cluster::start_beside_file(LEN)?;
    let runtime = Runtime::new()?;
    let client = runtime.block_on(cluster.connect())?;
    let mut group = criterion.benchmark_group("chain");
    group.throughput(Throughput::Bytes(LEN));
    for (name, level) in [
        ("upload, memory", Level::Memory),
        ("upload, disk", Level::Disk),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|count| {
                let mut total = Duration::ZERO;
                for _ in 0..count {
                    let source = PutSource::Path(source.clone());
                    total += runtime
                        .block_on(put(&client, source, level))
                        .expect("uploaded");
                    runtime
                        .block_on(client.remove("/up", false, true))
                        .expect("removed");
                    cluster.wait_for_space(0).expect("cleared away");
                }
                total
            });
        });
    }
    let down = PutSource::Path(source.clone());
    runtime.block_on(put(&client, down, Level::Memory))?;
    for (name, target) in [
        ("download, /dev/null", "/dev/null".into()),
        ("download, file", memory.path().join("target")),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let target = GetTarget::Path(target.clone());
                let got = client.get("/up", target, GetOptions::default());
                runtime.block_on(got).expect("downloaded")
            });
        });
    }
    group.finish();
    runtime.block_on(client.close());
    criterion.final_summary();
    Ok(ExitCode::SUCCESS)
}

/// Uploads as `/up`; how long that took.
async fn put(client: &Client, source: PutSource, level: Level) -> anyhow::Result<Duration> {
    let mut options = PutOptions::default();
    options.level = level;
    Ok(client.put("/up", source, options).await?.elapsed)
}
