//! Bytes go up and come down.

use crate::harness::{Cluster, noise, run};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// With chunks of 1 MiB: the edges of blocks and chunks, and several chunks.
#[test]
fn every_size_comes_down_as_it_went_up() {
    let cluster = Cluster::start(3);
    let sizes = [
        0,
        1,
        64 * KIB - 1,
        64 * KIB,
        64 * KIB + 1,
        MIB - 1,
        MIB,
        MIB + 1,
        10 * MIB + 12_345,
    ];
    for (seed, size) in sizes.into_iter().enumerate() {
        let bytes = noise(size, seed as u64);
        let crc = format!("{:08x}", crc32fast::hash(&bytes));
        let put = cluster.put(&bytes, "/file");
        assert_eq!(put["bytes"], size, "{size}");
        assert_eq!(put["crc32"], crc, "{size}");
        assert_eq!(put["chunks"], size.div_ceil(MIB), "{size}");
        assert!(
            cluster.bytes("/file") == bytes,
            "{size} bytes came down otherwise"
        );
        let stat = cluster.sarsen(&["--json", "stat", "/file"]).json();
        assert_eq!(stat["size"], size, "{size}");
        assert_eq!(stat["crc32"], crc, "{size}");
        let checksum = cluster.sarsen(&["checksum", "/file"]).text();
        assert_eq!(checksum, format!("{crc}  /file\n"), "{size}");
    }
    cluster.until_healthy();
}

/// One chunk of the real size, so that nothing is tied to small ones.
#[test]
fn whole_chunks_of_64_mib() {
    let cluster = Cluster::start_with(3, &["heartbeat=100ms"]);
    let bytes = noise(64 * MIB + 1, 1);
    let put = cluster.put(&bytes, "/big");
    assert_eq!(put["chunks"], 2);
    assert!(cluster.bytes("/big") == bytes);
    let locate = cluster.sarsen(&["--json", "locate", "/big"]).json();
    assert_eq!(locate["chunks"][0]["length"], 64 * MIB);
    assert_eq!(locate["chunks"][1]["length"], 1);
    assert_eq!(
        locate["chunks"][0]["replicas"].as_array().map(Vec::len),
        Some(3)
    );
}

#[test]
fn pipes_in_and_out() {
    let cluster = Cluster::start(3);
    let bytes = noise(3 * MIB + 77, 5);
    let put = cluster.sarsen_with_input(&["--json", "put", "-", "/piped"], &bytes);
    assert_eq!(put.json()["bytes"], bytes.len());
    assert!(cluster.bytes("/piped") == bytes);
    let empty = cluster.sarsen_with_input(&["--json", "put", "-", "/nothing"], b"");
    assert_eq!(empty.json()["bytes"], 0);
    assert_eq!(cluster.bytes("/nothing"), b"");
}

#[test]
fn cat_gives_ranges() {
    let cluster = Cluster::start(3);
    let bytes = noise(2 * MIB + 500, 6);
    cluster.put(&bytes, "/file");
    let cat = |args: &[&str]| {
        let done = cluster.sarsen(&[&["cat"], args].concat());
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        done.stdout
    };
    assert!(cat(&["/file"]) == bytes);
    assert!(cat(&["--offset", "70000", "--length", "3", "/file"]) == bytes[70_000..70_003]);
    let over_the_edge = cat(&["--offset", "1048570", "--length", "100", "/file"]);
    assert!(over_the_edge == bytes[1_048_570..1_048_670]);
    assert!(cat(&["--offset", "2097000", "/file"]) == bytes[2_097_000..]);
    assert_eq!(cat(&["--offset", "9999999", "/file"]), b"");
}

#[test]
fn a_download_never_shows_half_a_file() {
    let cluster = Cluster::start(3);
    let bytes = noise(2 * MIB, 7);
    cluster.put(&bytes, "/file");
    let target = cluster.path("target");
    let target_name = target.to_str().unwrap();
    let done = cluster
        .sarsen(&["--json", "get", "/file", target_name])
        .json();
    assert_eq!(done["bytes"], bytes.len());
    assert!(std::fs::read(&target).unwrap() == bytes);
    assert!(!cluster.path(".target.sarsen-part").exists());
    // A device is written directly.
    assert_eq!(cluster.sarsen(&["get", "/file", "/dev/null"]).code, Some(0));
}

#[test]
fn several_clients_at_once() {
    let cluster = Cluster::start(3);
    std::thread::scope(|scope| {
        for client in 0..6_u64 {
            let cluster = &cluster;
            scope.spawn(move || {
                let bytes = noise(2 * MIB + 11, client);
                let source = cluster.local(&format!("source-{client}"), &bytes);
                let target = format!("/clients/{client}");
                let put = cluster.sarsen(&["put", source.to_str().unwrap(), &target]);
                assert_eq!(put.code, Some(0), "{}", put.stderr);
                assert!(cluster.bytes(&target) == bytes);
            });
        }
    });
    let names = cluster.sarsen(&["--json", "ls", "/clients"]).json();
    assert_eq!(names.as_array().map(Vec::len), Some(6));
}

/// The reader of a pipe may close it early, as `head` does.
#[test]
fn a_closed_pipe_ends_quietly() {
    let cluster = Cluster::start(3);
    cluster.put(&noise(4 * MIB, 8), "/file");
    let mut shell = std::process::Command::new("sh");
    shell.env("XDG_RUNTIME_DIR", cluster.path("")).args([
        "-c",
        "\"$0\" --master \"$1\" cat /file | head -c 5 | wc -c",
        env!("CARGO_BIN_EXE_sarsen"),
        &cluster.control,
    ]);
    let done = run(shell, b"");
    assert_eq!(done.text().trim(), "5");
    assert_eq!(done.stderr, "");
}
