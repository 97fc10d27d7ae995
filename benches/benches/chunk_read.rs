//! A sealed chunk out of a chunkserver's store, from the page cache: whole and in parts of 4 KiB,
//! through its mapping's file, and verified.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use sarsen_benches::{directory, place};
use sarsen_protocol::crc::crc32;
use sarsen_protocol::id::ChunkHandle;
use sarsen_protocol::message::Level;
use sarsen_protocol::size::{BLOCK_LEN, CHUNK_LEN_MAX, PAYLOAD_LEN_MAX};

/// Bytes of a small read.
const PART_LEN: u32 = 4096;

fn main() -> anyhow::Result<()> {
    let mut criterion = Criterion::default()
        .without_plots()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let memory = place::in_memory(2 * u64::from(CHUNK_LEN_MAX))?;
    let store = directory::open(&memory.path().join("chunks"))?;
    directory::write_chunk(
        &store,
        1,
        &vec![0xa5; PAYLOAD_LEN_MAX as usize],
        Level::Memory,
    )?;
    let chunk = store.open_for_read(ChunkHandle(1))?;
    let mut buffer = vec![0; PAYLOAD_LEN_MAX as usize];
    let mut group = criterion.benchmark_group("chunk read");

    group.throughput(Throughput::Bytes(u64::from(CHUNK_LEN_MAX)));
    for (name, verified) in [("whole", false), ("whole, verified", true)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for offset in (0..CHUNK_LEN_MAX).step_by(buffer.len()) {
                    chunk.read_at(&mut buffer, offset).expect("read");
                    let blocks = buffer.chunks(BLOCK_LEN as usize);
                    let first = offset / BLOCK_LEN;
                    let stored = chunk.block_crcs.iter().skip(first as usize);
                    if verified {
                        assert!(
                            blocks
                                .map(crc32)
                                .zip(stored)
                                .all(|(found, crc)| found == *crc)
                        );
                    }
                }
            });
        });
    }
    group.throughput(Throughput::Bytes(u64::from(PART_LEN)));
    let mut part = vec![0; PART_LEN as usize];
    let mut offset = 0;
    group.bench_function("4 KiB", |bencher| {
        bencher.iter(|| {
            // A stride that comes by everywhere.
            offset = (offset + 17 * BLOCK_LEN + PART_LEN) % CHUNK_LEN_MAX;
            chunk.read_at(black_box(&mut part), offset).expect("read")
        });
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("open a chunk that is open", |bencher| {
        bencher.iter(|| store.find_readable(black_box(ChunkHandle(1))));
    });
    group.finish();
    criterion.final_summary();
    Ok(())
}
