//! Downloads that are gone on with: after a kill, and never with bytes of another file.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use crate::harness::{Cluster, noise};

const MIB: usize = 1024 * 1024;

/// Slow enough to be stopped in the middle: the bytes go through one stream.
fn start_get(cluster: &Cluster, target: &Path) -> Child {
    let mut command = cluster.command();
    command
        .args(["--master", &cluster.control, "get", "--jobs", "1", "/file"])
        .arg(target)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().expect("the binary runs")
}

/// Bytes of a file that are on disk: what was written of a sparse one.
fn written(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512)
}

/// Kills a download with SIGKILL when at least `bytes` of it are there, and not all.
fn leave_part(cluster: &Cluster, target: &Path, part: &Path, bytes: u64) {
    loop {
        let mut child = start_get(cluster, target);
        while written(part) < bytes && child.try_wait().expect("a child").is_none() {
            std::thread::yield_now();
        }
        child.kill().expect("a child");
        let status = child.wait().expect("a child");
        if !status.success() {
            assert!(part.exists() && !target.exists());
            return;
        }
        // It was faster than we are: once more.
        fs::remove_file(target).expect("the whole file");
    }
}

fn names(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder");
    entries
        .map(|entry| entry.expect("an entry").path())
        .collect()
}

#[test]
fn a_killed_download_is_gone_on_with() {
    let cluster = Cluster::start(3);
    let bytes = noise(60 * MIB + 77, 1);
    cluster.put(&bytes, "/file");
    let folder = cluster.path("down");
    fs::create_dir(&folder).unwrap();
    let (target, part) = (folder.join("file"), folder.join(".file.sarsen-part"));
    leave_part(&cluster, &target, &part, 10 * MIB as u64);

    let target_name = target.to_str().unwrap();
    let resume = ["--json", "get", "--resume", "/file", target_name];
    let told = cluster.sarsen(&resume).json();
    assert_eq!(told["bytes"], bytes.len());
    let resumed = told["resumed"].as_u64().unwrap();
    assert!(resumed >= 9 * MIB as u64, "{resumed}");
    assert!(resumed < bytes.len() as u64, "{resumed}");
    assert!(fs::read(&target).unwrap() == bytes);
    assert_eq!(names(&folder), std::slice::from_ref(&target));

    // It is whole: nothing comes again.
    let there = fs::metadata(&target).unwrap().ino();
    let told = cluster.sarsen(&resume).json();
    assert_eq!(told["resumed"], bytes.len());
    assert_eq!(fs::metadata(&target).unwrap().ino(), there);
    // Of the same length, and not the same.
    let file = fs::OpenOptions::new().write(true).open(&target).unwrap();
    file.write_all_at(&[!bytes[40 * MIB]], 40 * MIB as u64)
        .unwrap();
    let told = cluster.sarsen(&resume).json();
    assert_eq!(told["resumed"], 0);
    assert!(fs::read(&target).unwrap() == bytes);
}

/// Of a folder what is whole is left alone, and the rest comes.
#[test]
fn a_folder_is_gone_on_with() {
    let cluster = Cluster::start(1);
    for (path, bytes) in [
        ("/d/a", "one"),
        ("/d/b", "two"),
        ("/d/c/e", ""),
        ("/d/f", "3"),
    ] {
        cluster.put(bytes.as_bytes(), path);
    }
    let down = cluster.path("down");
    fs::create_dir(&down).unwrap();
    let get = |more: &[&str]| {
        let args = ["get", "-r", "/d", down.to_str().unwrap()];
        let done = cluster.sarsen(&[&args[..], more].concat());
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        assert_eq!(done.stderr, "");
    };
    get(&[]);
    let files = ["d/a", "d/b", "d/c/e", "d/f"].map(|name| down.join(name));
    let inodes = || files.clone().map(|file| fs::metadata(file).unwrap().ino());
    let whole = inodes();
    fs::write(&files[0], "eno").unwrap();
    fs::remove_file(&files[3]).unwrap();
    get(&["--resume"]);
    let contents = files.clone().map(|file| fs::read_to_string(file).unwrap());
    assert_eq!(contents, ["one", "two", "", "3"]);
    assert_ne!(inodes()[0], whole[0]);
    assert_eq!(inodes()[1..3], whole[1..3]);
    get(&[]);
    assert_ne!(inodes()[1], whole[1], "all, unless asked for");
}

#[test]
fn bytes_of_another_file_never_mix_in() {
    let cluster = Cluster::start(3);
    let (old, new) = (noise(60 * MIB, 2), noise(60 * MIB, 3));
    cluster.put(&old, "/file");
    let folder = cluster.path("down");
    fs::create_dir(&folder).unwrap();
    let (target, part) = (folder.join("file"), folder.join(".file.sarsen-part"));
    leave_part(&cluster, &target, &part, 10 * MIB as u64);
    // The same path, the same size, other bytes.
    cluster.put(&new, "/file");
    let get = ["get", "--resume", "/file", target.to_str().unwrap()];
    let done = cluster.sarsen(&get);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stderr.contains("begun anew"), "{}", done.stderr);
    assert!(fs::read(&target).unwrap() == new);
    assert_eq!(names(&folder), [target]);
}

#[test]
fn what_was_damaged_here_comes_again() {
    let cluster = Cluster::start(3);
    let bytes = noise(60 * MIB, 4);
    cluster.put(&bytes, "/file");
    let folder = cluster.path("down");
    fs::create_dir(&folder).unwrap();
    let (target, part) = (folder.join("file"), folder.join(".file.sarsen-part"));
    leave_part(&cluster, &target, &part, 10 * MIB as u64);
    let file = fs::OpenOptions::new().write(true).open(&part).unwrap();
    file.write_all_at(b"not what came", 2 * MIB as u64 + 5)
        .unwrap();
    let get = [
        "--json",
        "get",
        "--resume",
        "/file",
        target.to_str().unwrap(),
    ];
    let told = cluster.sarsen(&get).json();
    assert!(told["resumed"].as_u64().unwrap() >= 8 * MIB as u64);
    assert_eq!(told["bad_replicas"].as_array().map(Vec::len), Some(0));
    assert!(fs::read(&target).unwrap() == bytes);
}

/// Without `--resume` what an earlier download left is replaced, and a failure leaves nothing;
/// with it, a failure leaves what there is.
#[test]
fn a_failure_leaves_a_part_only_where_it_is_asked_for() {
    let mut cluster = Cluster::start(1);
    let bytes = noise(3 * MIB, 5);
    cluster.put(&bytes, "/file");
    let folder = cluster.path("down");
    fs::create_dir(&folder).unwrap();
    let (target, part) = (folder.join("file"), folder.join(".file.sarsen-part"));
    fs::write(&part, "what an earlier one left").unwrap();
    cluster.kill_chunkserver(0);
    let target_name = target.to_str().unwrap();
    let get = |more: &[&str]| {
        let args = ["--timeout", "300ms", "get", "/file", target_name];
        let done = cluster.sarsen(&[&args[..], more].concat());
        assert_eq!(done.code, Some(5), "{}", done.stderr);
    };
    get(&["--resume"]);
    assert_eq!(names(&folder), [part]);
    get(&[]);
    assert_eq!(names(&folder), [] as [PathBuf; 0]);
    cluster.start_chunkserver(0);
    cluster.wait(1);
    let done = cluster.sarsen(&["get", "--resume", "/file", target_name]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(fs::read(&target).unwrap() == bytes);
}
