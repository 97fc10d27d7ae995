//! Bad input: a clear line, what to do about it, the right code; and the others are served on.

use std::ffi::OsString;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Cluster, noise};

/// Each verb on something that isn't there: text and JSON.
#[test]
fn what_does_not_exist() {
    let cluster = Cluster::start(1);
    let verbs: &[&[&str]] = &[
        &["get", "/no", "-"],
        &["cat", "/no"],
        &["ls", "/no"],
        &["tree", "/no"],
        &["stat", "/no"],
        &["du", "/no"],
        &["mv", "/no", "/other"],
        &["rm", "/no"],
        &["trash", "restore", "/no"],
        &["checksum", "/no"],
        &["locate", "/no"],
        &["fsck", "/no"],
        &["fsck", "--accept-loss", "00000000deadbeef"],
        &["put", "/no/such/local/file", "/x"],
        &["mkdir", "/no/parent"],
    ];
    for args in verbs {
        let done = cluster.sarsen(args);
        assert_eq!(done.code, Some(3), "{args:?}: {}", done.stderr);
        let first = done.stderr.lines().next().unwrap_or_default();
        assert!(
            first.starts_with(&format!("sarsen: {} ", args[0])),
            "{args:?}: {first}"
        );
        assert!(!done.stderr.contains("this server"), "{}", done.stderr);
        let done = cluster.sarsen(&[&["--json"], *args].concat());
        assert_eq!(done.code, Some(3), "{args:?}");
        let error: Value = serde_json::from_str(&done.stderr).expect(&done.stderr);
        assert_eq!(error["error"]["code"], "not_found", "{args:?}");
        assert!(error["error"]["message"].is_string());
    }
}

/// Each verb with nobody there: text and JSON.
#[test]
fn a_cluster_that_is_down() {
    let mut cluster = Cluster::start(1);
    let source = cluster.local("source", b"bytes");
    let source = source.to_str().unwrap().to_owned();
    cluster.kill_master();
    let verbs: &[&[&str]] = &[
        &["put", &source, "/x"],
        &["get", "/x", "-"],
        &["cat", "/x"],
        &["ls", "/"],
        &["tree", "/"],
        &["stat", "/"],
        &["du", "/"],
        &["df"],
        &["mkdir", "/x"],
        &["mv", "/x", "/y"],
        &["rm", "/x"],
        &["trash", "ls"],
        &["checksum", "/x"],
        &["locate", "/x"],
        &["fsck"],
        &["report"],
        &["wait", "--chunkservers", "1", "--timeout", "100ms"],
    ];
    for args in verbs {
        let done = cluster.sarsen(&[&["--timeout", "100ms"], *args].concat());
        assert_eq!(done.code, Some(5), "{args:?}: {}", done.stderr);
        assert!(
            done.stderr.starts_with(&format!("sarsen: {}", args[0])),
            "{}",
            done.stderr
        );
        assert!(done.stderr.lines().count() <= 2, "{}", done.stderr);
        let done = cluster.sarsen(&[&["--json", "--timeout", "100ms"], *args].concat());
        assert_eq!(done.code, Some(5), "{args:?}: {}", done.stderr);
        let error: Value = serde_json::from_str(&done.stderr).expect(&done.stderr);
        assert!(error["error"]["code"].is_string(), "{args:?}");
    }
}

#[test]
fn wrong_usage_and_wrong_names() {
    let cluster = Cluster::start(1);
    let source = cluster.local("source", b"bytes");
    let source = source.to_str().unwrap();
    let table: &[(&[&str], i32)] = &[
        (&["no-such-verb"], 2),
        (&["put"], 2),
        (&["ls", "relative"], 2),
        (&["stat", "/a/../b"], 2),
        (&["stat", "/a/./b"], 2),
        (&["stat", "/a//b"], 2),
        (&["put", source, "relative"], 2),
        (&["put", "--replicas", "0", source, "/x"], 2),
        (&["put", "--replicas", "99", source, "/x"], 2),
        (&["mkdir", "/"], 4),
        (&["get", "/", "-"], 1),
    ];
    for (args, code) in table {
        let done = cluster.sarsen(args);
        assert_eq!(done.code, Some(*code), "{args:?}: {}", done.stderr);
        assert!(
            done.stderr.starts_with("sarsen: "),
            "{args:?}: {}",
            done.stderr
        );
    }
    let too_long = format!("/{}", "n".repeat(256));
    assert_eq!(cluster.sarsen(&["mkdir", &too_long]).code, Some(2));
}

#[test]
fn what_exists_already() {
    let cluster = Cluster::start(1);
    cluster.put(b"old", "/file");
    assert_eq!(cluster.sarsen(&["mkdir", "/folder"]).code, Some(0));
    let source = cluster.local("new", b"new");
    let source = source.to_str().unwrap();
    let put = ["put", "--replicas", "1", source, "/file"];
    assert_eq!(cluster.sarsen(&put).code, Some(4));
    assert_eq!(cluster.sarsen(&["mkdir", "/folder"]).code, Some(4));
    assert_eq!(cluster.sarsen(&["mkdir", "-p", "/folder"]).code, Some(0));
    cluster.put(b"other", "/other");
    assert_eq!(cluster.sarsen(&["mv", "/other", "/file"]).code, Some(4));
    assert_eq!(cluster.bytes("/file"), b"old");
}

#[test]
fn fewer_servers_than_replicas() {
    let cluster = Cluster::start(2);
    let source = cluster.local("source", b"bytes");
    let args = [
        "--timeout",
        "300ms",
        "put",
        "--replicas",
        "3",
        source.to_str().unwrap(),
        "/x",
    ];
    let done = cluster.sarsen(&args);
    assert_eq!(done.code, Some(5), "{}", done.stderr);
    assert!(
        done.stderr.lines().count() == 2,
        "says what to do: {}",
        done.stderr
    );
    assert_eq!(cluster.sarsen(&["stat", "/x"]).code, Some(3));
}

#[test]
fn a_wrong_key_or_cluster() {
    let cluster = Cluster::start(1);
    let key = cluster.path("other.key");
    let key = key.to_str().unwrap();
    assert_eq!(cluster.sarsen(&["keygen", key]).code, Some(0));
    assert_eq!(
        cluster.sarsen(&["keygen", key]).code,
        Some(4),
        "a key is never overwritten"
    );
    let done = cluster.sarsen(&["--key-file", key, "ls", "/"]);
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    assert!(done.stderr.contains("key"), "{}", done.stderr);

    // A chunkserver with another key.
    let args = ["--master", &cluster.control, "--key-file", key].map(OsString::from);
    let ended = cluster
        .daemon("daemon:chunkd", &cluster.path("stranger"), &args)
        .unwrap_err();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    // A chunkserver whose directory belongs to another cluster.
    let mut other = Cluster::start(1);
    other.kill_chunkserver(0);
    let args = ["--master", &cluster.control].map(OsString::from);
    let ended = cluster
        .daemon("daemon:chunkd", &other.chunkserver_dir(0), &args)
        .unwrap_err();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert_eq!(cluster.sarsen(&["ls", "/"]).code, Some(0));
}

#[test]
fn directories_and_ports_that_can_not_be_used() {
    let cluster = Cluster::start(1);
    let chunkd = |dir: &std::path::Path, more: &[&str]| {
        let mut args = vec!["--master", &cluster.control];
        args.extend(more);
        let args: Vec<OsString> = args.into_iter().map(OsString::from).collect();
        let ended = cluster.daemon("daemon:chunkd", dir, &args).unwrap_err();
        let lines: Vec<&str> = ended
            .stderr
            .lines()
            .filter(|l| l.starts_with("chunkd: "))
            .collect();
        assert_eq!(lines.len(), 1, "one line says it: {}", ended.stderr);
        ended.code
    };
    assert_eq!(
        chunkd(&cluster.chunkserver_dir(0), &[]),
        Some(1),
        "in use by another"
    );
    let foreign = cluster.path("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("thesis.tex"), "precious").unwrap();
    assert_eq!(chunkd(&foreign, &[]), Some(1), "somebody else's folder");
    assert_eq!(
        fs::read_to_string(foreign.join("thesis.tex")).unwrap(),
        "precious"
    );
    let file = cluster.local("a-file", b"");
    assert_eq!(chunkd(&file, &[]), Some(1), "not a folder");
    let fresh = cluster.path("fresh");
    assert_eq!(
        chunkd(&fresh, &["--listen", &cluster.control]),
        Some(1),
        "a taken port"
    );
    assert_eq!(
        chunkd(&fresh, &["--set", "heartbeat=soon"]),
        Some(2),
        "a bad setting"
    );
    assert_eq!(
        chunkd(&fresh, &["--listen", "0.0.0.0:0"]),
        Some(2),
        "beyond loopback, no key"
    );

    let args = ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"].map(OsString::from);
    let ended = cluster.daemon("daemon:sarsen-master", &cluster.path("master"), &args);
    let ended = ended.unwrap_err();
    assert_eq!(
        ended.code,
        Some(1),
        "a second master on one folder: {}",
        ended.stderr
    );
}

/// Whatever comes in on a port, the others are served on.
#[test]
fn strangers_on_every_port() {
    let cluster = Cluster::start(3);
    let bytes = noise(2 << 20, 9);
    cluster.put(&bytes, "/file");
    let mut tls = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    tls.resize(517, 0);
    let junk = noise(100_000, 10);
    let mut half_a_header = vec![0; 30];
    half_a_header[4..8].copy_from_slice(b"SRSN");
    let mut ports = vec![cluster.control.clone()];
    for chunkserver in cluster.chunkservers.iter().flatten() {
        ports.push(chunkserver.control.clone());
        ports.push(chunkserver.data.clone().unwrap());
    }
    let mut held = Vec::new();
    for port in &ports {
        for bytes in [&tls, &junk, &half_a_header] {
            let mut stream = TcpStream::connect(port).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(60)))
                .unwrap();
            // The other side may close before it has read all.
            let _ = stream.write_all(bytes);
            held.push(stream);
        }
    }
    assert!(cluster.bytes("/file") == bytes);
    cluster.put(&bytes, "/other");
    for mut stream in held {
        // Closed or reset, and nothing of use said; at the latest when the hello's time is over.
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.len() < 4096);
    }
    assert!(cluster.bytes("/other") == bytes);
}
