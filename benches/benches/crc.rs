//! CRCs: of a block, of a mebibyte block by block, and a chunk's from those of its blocks.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use sarsen_protocol::crc::{combine, combine_blocks, crc32};
use sarsen_protocol::size::{BLOCK_LEN, BLOCKS_PER_CHUNK_MAX, CHUNK_LEN_MAX};

fn main() {
    let mut criterion = Criterion::default()
        .without_plots()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    bench(&mut criterion);
    criterion.final_summary();
}

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("crc");
    let mebibyte = vec![0xa5_u8; 1024 * 1024];
    let blocks = || mebibyte.chunks(BLOCK_LEN as usize);
    group.throughput(Throughput::Bytes(u64::from(BLOCK_LEN)));
    group.bench_function("a block of 64 KiB", |bencher| {
        bencher.iter(|| blocks().next().map(|block| crc32(black_box(block))));
    });
    group.throughput(Throughput::Bytes(mebibyte.len() as u64));
    group.bench_function("a mebibyte in blocks", |bencher| {
        bencher.iter(|| blocks().fold(0, |sum, block| sum ^ crc32(black_box(block))));
    });
    let crcs: Vec<u32> = (0..BLOCKS_PER_CHUNK_MAX).collect();
    group.throughput(Throughput::Elements(u64::from(BLOCKS_PER_CHUNK_MAX)));
    group.bench_function("combine 1024 blocks to a chunk", |bencher| {
        bencher.iter(|| combine_blocks(black_box(&crcs), CHUNK_LEN_MAX));
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("combine two", |bencher| {
        bencher.iter(|| combine(black_box(1), black_box(2), u64::from(BLOCK_LEN)));
    });
    group.finish();
}
