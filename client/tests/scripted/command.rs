//! The program: exit codes and error lines, in text and JSON, as people script against them.

use std::process::{Output, Stdio};
use std::time::Duration;

use sarsen_client::{Client, ClientConfig, Error, PutOptions, PutSource};
use sarsen_edge::exit::{Exit, Explain as _};
use sarsen_edge::key;
use sarsen_protocol::key::SecretKey;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::chunkserver::Fault;
use crate::{CHUNK_SIZE, Cluster, key, noise};

/// Each verb on a path that is not there.
const ON_A_PATH: &[&[&str]] = &[
    &["get", "/no", "-"],
    &["cat", "/no"],
    &["tail", "/no"],
    &["tail", "-f", "-c", "5", "/no"],
    &["records", "/no"],
    &["write", "--offset", "0", "/no"],
    &["append", "/no"],
    &["append", "--lines", "/no"],
    &["truncate", "--size", "0", "/no"],
    &["ls", "/no"],
    &["tree", "/no"],
    &["stat", "/no"],
    &["du", "/no"],
    &["mkdir", "/no/below"],
    &["mv", "/no", "/other"],
    &["rm", "/no"],
    &["trash", "restore", "7"],
    &["checksum", "/no"],
    &["locate", "/no"],
    &["fsck", "/no"],
];

/// Each verb that needs a cluster and no path.
const ON_NO_PATH: &[&[&str]] = &[
    &["put", "/dev/null", "/x"],
    &["touch", "/x"],
    &["df"],
    &["report"],
    &["trash", "ls"],
    &["trash", "empty"],
    &["wait", "--chunkservers", "1"],
];

/// A key file that the program can be given.
pub(crate) fn key_file(key: &SecretKey) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let digits: String = key.bytes().iter().map(|it| format!("{it:02x}")).collect();
    std::fs::write(&path, digits + "\n").unwrap();
    let only_ours = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&path, only_ours).unwrap();
    assert_eq!(key::load(&path).unwrap().bytes(), key.bytes());
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

pub(crate) fn command(address: &str, key_file: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sarsen"));
    command
        .args(["--master", address, "--key-file", key_file])
        .env_remove("SARSEN_MASTER")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn run(address: &str, key_file: &str, args: &[&str]) -> Output {
    let output = command(address, key_file).args(args).output();
    output.await.unwrap()
}

/// Runs a verb as text and as JSON; both fail with `code`, and say it as they should.
async fn fails(address: &str, key_file: &str, args: &[&str], code: i32, name: &str) {
    let text = run(address, key_file, args).await;
    let stderr = String::from_utf8(text.stderr).unwrap();
    assert_eq!(text.status.code(), Some(code), "{args:?}: {stderr}");
    let lines: Vec<_> = stderr.lines().collect();
    let begins = format!("sarsen: {}", args[0]);
    assert!(lines[0].starts_with(&begins), "{args:?}: {stderr}");
    assert!(lines[0].contains(": "), "{args:?}: {stderr}");
    assert!(lines.len() <= 2, "{args:?}: {stderr}");
    assert!(text.stdout.is_empty(), "{args:?}");
    let json = run(address, key_file, &[args, &["--json"]].concat()).await;
    let stderr = String::from_utf8(json.stderr).unwrap();
    assert_eq!(json.status.code(), Some(code), "{args:?}: {stderr}");
    let told: Value = serde_json::from_str(&stderr).expect(&stderr);
    assert_eq!(told["error"]["code"], name, "{args:?}");
    let message = told["error"]["message"].as_str().unwrap();
    assert!(lines[0].ends_with(message), "{args:?}: {message}");
    assert!(json.stdout.is_empty(), "{args:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there() {
    let cluster = Cluster::start(1).await;
    let (_folder, key_file) = key_file(&key());
    for args in ON_A_PATH {
        fails(&cluster.address, &key_file, args, 3, "not_found").await;
    }
    let no_local_file = ["put", "/no/such/file", "/x"];
    fails(&cluster.address, &key_file, &no_local_file, 3, "not_found").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_down() {
    let (_folder, key_file) = key_file(&key());
    // Nobody listens on a port that was just given back.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    for args in ON_A_PATH.iter().chain(ON_NO_PATH) {
        let args = [args, &["--timeout", "50ms"][..]].concat();
        fails(&address, &key_file, &args, 5, "unavailable").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_needs_no_cluster() {
    let (_folder, key_file) = key_file(&key());
    let nowhere = "127.0.0.1:1";
    for args in [
        &["ls", "relative"][..],
        &["stat", "/a/../b"],
        &["mkdir", "/a//b"],
        &["get", "relative", "-"],
        &["put", "a", "b", "relative"],
        &["mv", "/a", "b"],
        &["trash", "restore", "0"],
    ] {
        fails(nowhere, &key_file, args, 2, "usage").await;
    }
    for args in [
        &["put", "a"][..],
        &["no-such-verb"],
        &["put", "--purge", "a", "/b"],
    ] {
        let output = run(nowhere, &key_file, args).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 2, "{args:?}: {stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_clusters_key() {
    let cluster = Cluster::start(1).await;
    let (_folder, key_file) = key_file(&SecretKey::new([8; 32]));
    fails(&cluster.address, &key_file, &["ls", "/"], 1, "failed").await;
    let mut config = ClientConfig::default();
    config.masters = vec![cluster.address.clone()];
    config.key = Some(SecretKey::new([8; 32]));
    let error = Client::connect(config).await.unwrap_err();
    assert!(matches!(error, Error::Hello(_)), "{error}");
    assert_eq!(error.exit(), Exit::Failed);
    assert!(error.hint().unwrap().contains("--key-file"));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_up_and_down_and_tell_what_they_are() {
    let cluster = Cluster::start(3).await;
    let (folder, key_file) = key_file(&key());
    let bytes = noise(2 * CHUNK_SIZE + 5, 7);
    let source = folder.path().join("a b");
    std::fs::write(&source, &bytes).unwrap();
    let source = source.to_str().unwrap();
    let address = &cluster.address;
    let put = run(address, &key_file, &["--json", "put", source, "/to/"]).await;
    assert_eq!(put.status.code(), Some(0), "{put:?}");
    let told: Value = serde_json::from_slice(&put.stdout).unwrap();
    assert_eq!(told["path"], "/to/a b");
    assert_eq!(told["bytes"], bytes.len());
    assert_eq!(told["chunks"], 3);
    let crc = format!("{:08x}", crc32fast::hash(&bytes));
    assert_eq!(told["crc32"], crc.as_str());
    assert!(told["seconds"].is_f64() && told["mb_per_s"].is_f64());
    let to_stdout = run(address, &key_file, &["get", "/to/a b", "-"]).await;
    assert!(to_stdout.stdout == bytes);
    let range = ["cat", "--offset", "70000", "--length", "3", "/to/a b"];
    let range = run(address, &key_file, &range).await;
    assert_eq!(range.stdout, bytes[70_000..70_003]);
    let checksum = run(address, &key_file, &["checksum", "/to/a b"]).await;
    let line = String::from_utf8(checksum.stdout).unwrap();
    assert_eq!(line, format!("{crc}  /to/a b\n"));
    let down = folder.path().join("down");
    std::fs::create_dir(&down).unwrap();
    let down_name = down.to_str().unwrap();
    let get = run(address, &key_file, &["get", "/to/a b", down_name]).await;
    assert_eq!(get.status.code(), Some(0));
    assert!(std::fs::read(down.join("a b")).unwrap() == bytes);
}

/// The last line about a bad replica names its server; scripts find it in the result.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_replica_is_named() {
    let cluster = Cluster::start(2).await;
    let (_folder, key_file) = key_file(&key());
    let bytes = noise(CHUNK_SIZE, 8);
    let reader = std::io::Cursor::new(bytes.clone());
    let source = PutSource::Reader(Box::new(reader));
    let client = cluster.client().await;
    let put = client.put("/file", source, PutOptions::default());
    put.await.unwrap();
    cluster.server(1).fail(Fault::FlippedBit(9));
    let named = format!("server 1 ({})", cluster.server(1).address);
    // The first choice of a replica is by chance.
    loop {
        let got = run(&cluster.address, &key_file, &["get", "/file", "-"]).await;
        assert_eq!(got.status.code(), Some(0));
        assert!(got.stdout == bytes);
        let stderr = String::from_utf8(got.stderr).unwrap();
        if !stderr.is_empty() {
            assert!(stderr.starts_with("sarsen: get /file: "), "{stderr}");
            assert!(stderr.contains(&named), "{stderr}");
            break;
        }
    }
}

/// Ctrl-C in the middle of a download: the code for it, and no part of the file is left.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_download_leaves_nothing() {
    let cluster = Cluster::start(1).await;
    let (_key_folder, key_file) = key_file(&key());
    let client = cluster.client().await;
    let bytes = std::io::Cursor::new(noise(CHUNK_SIZE, 9));
    let source = PutSource::Reader(Box::new(bytes));
    let put = client.put("/file", source, PutOptions::default());
    put.await.unwrap();
    cluster.server(1).fail(Fault::StopsSending);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("target");
    let mut getting = command(&cluster.address, &key_file);
    getting.args(["get", "/file"]).arg(&target);
    let mut child = getting.spawn().unwrap();
    let part = folder.path().join(".target.sarsen-part");
    while !part.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let pid = child.id().unwrap().to_string();
    let kill = Command::new("kill").args(["-INT", &pid]).status().await;
    assert!(kill.unwrap().success());
    assert_eq!(child.wait().await.unwrap().code(), Some(130));
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none());
}
