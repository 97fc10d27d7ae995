//! Whole trees go up and come down: names, merges, collisions, and what is in the way.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::harness::{Cluster, Done, noise};

/// Small chunks, and servers that are given their time: thousands of syncs share one disk with all
/// other tests.
const PATIENT: &[&str] = &["chunk_size=1MiB", "heartbeat=100ms", "safe_mode_max=5s"];

/// Writes a file, and the folders above it.
fn write(path: PathBuf, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
    fs::write(path, bytes).expect("a file");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// Every file below a folder with its bytes, and every folder with none.
fn contents(top: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![top.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.strip_prefix(top).expect("below").to_owned();
            if fs::symlink_metadata(&path).expect("there").is_dir() {
                found.insert(name, None);
                folders.push(path);
            } else {
                found.insert(name, Some(fs::read(&path).expect("a file")));
            }
        }
    }
    found
}

fn assert_same(first: &Path, second: &Path) {
    let diff = Command::new("diff")
        .args(["-r", "--no-dereference"])
        .args([first, second])
        .output()
        .expect("diff runs");
    let told = String::from_utf8_lossy(&diff.stdout).into_owned();
    assert!(diff.status.success(), "{told}");
}

/// The result of a command that may have failed in part.
fn sums(done: &Done) -> Value {
    serde_json::from_slice(&done.stdout).unwrap_or_else(|error| panic!("{error}: {}", done.stderr))
}

/// The codes of all errors that were told.
fn codes(done: &Done) -> Vec<String> {
    let code = |line: &str| {
        let error: Value = serde_json::from_str(line).expect(line);
        error["error"]["code"].as_str().expect(line).to_owned()
    };
    let mut codes: Vec<_> = done.stderr.lines().map(code).collect();
    codes.sort();
    codes
}

/// Thousands of small files and a few large ones, with all kinds of names; how many there are, how
/// many of them empty, and how many bytes.
fn odd_tree(top: &Path) -> (u64, u64, u64) {
    let (mut files, mut empty, mut bytes) = (0, 0, 0);
    let mut add = |name: &str, len: usize| {
        write(top.join(name), &noise(len, files));
        files += 1;
        empty += u64::from(len == 0);
        bytes += len as u64;
    };
    for number in 0..2_000_usize {
        add(
            &format!("many/{:02}/file {number}", number % 40),
            number * 7 % 3_000,
        );
    }
    add("large", 2 * 1024 * 1024 + 77);
    add("empty", 0);
    add("with spaces/and  more", 5);
    add("Grüße/日本語/ẞ", 11);
    add(".hidden/.also", 3);
    add("-r", 4);
    add("new\nline", 6);
    add("back\\slash \"quoted\" 'single' $HOME *", 7);
    add(&"n".repeat(255), 9);
    add(&"ü".repeat(127), 10);
    add(&format!("{}leaf", "deep/".repeat(60)), 12);
    for folder in ["nothing", "nothing/at", "nothing/at/all"] {
        fs::create_dir(top.join(folder)).unwrap();
    }
    (files, empty, bytes)
}

#[test]
fn a_tree_comes_down_as_it_went_up() {
    let cluster = Cluster::start_with(3, PATIENT);
    let tree = cluster.path("tree");
    let (files, empty, bytes) = odd_tree(&tree);
    symlink("large", tree.join("link")).unwrap();
    symlink(".", tree.join("many/circle")).unwrap();
    let fifo = tree.join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let not_text = tree.join(std::ffi::OsStr::from_bytes(b"not \xff text"));
    fs::write(&not_text, b"bytes").unwrap();

    let put = cluster.sarsen(&["--json", "put", "-r", text(&tree), "/copy"]);
    assert_eq!(put.code, Some(1), "{}", put.stderr);
    let told = sums(&put);
    for (field, value) in [
        ("files", files),
        ("bytes", bytes),
        ("failed", 1),
        ("skipped", 3),
    ] {
        assert_eq!(told[field], value, "{field}: {told} {}", put.stderr);
    }
    assert_eq!(told["path"], "/copy");
    assert_eq!(told["crc32"], Value::Null);
    // One file has three chunks, and some are empty and have none.
    assert_eq!(told["chunks"], files + 2 - empty);
    for name in ["link", "many/circle", "pipe", "not "] {
        let named = tree.join(name);
        assert!(put.stderr.contains(text(&named)), "{name}: {}", put.stderr);
    }
    assert_eq!(codes(&put), ["failed", "failed", "failed", "usage"]);

    for path in ["link", "many/circle", "pipe"] {
        fs::remove_file(tree.join(path)).unwrap();
    }
    fs::remove_file(not_text).unwrap();
    let down = cluster.path("down");
    let get = cluster.sarsen(&["--json", "get", "-r", "/copy", text(&down)]);
    let told = sums(&get);
    for (field, value) in [("files", files), ("bytes", bytes), ("failed", 0)] {
        assert_eq!(told[field], value, "{field}: {told} {}", put.stderr);
    }
    assert_same(&tree, &down);
    cluster.until_healthy();

    // Up again without --force: everything is there, and each file is told.
    let again = cluster.sarsen(&[
        "--json",
        "put",
        "-r",
        &format!("{}/.", text(&tree)),
        "/copy",
    ]);
    assert_eq!(again.code, Some(4));
    let told = sums(&again);
    assert_eq!(
        (&told["files"], &told["failed"]),
        (&0.into(), &files.into())
    );
    assert!(codes(&again).iter().all(|code| code == "already_exists"));
    // And down over what is there, which get replaces.
    let again = cluster.sarsen(&[
        "--json",
        "get",
        "-r",
        "/copy/",
        &format!("{}/.", text(&down)),
    ]);
    assert_eq!(again.json()["files"], files);
    assert_same(&tree, &down.join("copy"));
}

#[test]
fn copies_are_called_as_cp_calls_them() {
    let cluster = Cluster::start(1);
    let here = |name: &str| cluster.path(name).to_str().unwrap().to_owned();
    write(cluster.path("a/x"), b"ax");
    write(cluster.path("a/sub/y"), b"asuby");
    write(cluster.path("b/a/z"), b"baz");
    write(cluster.path("file"), b"file");
    cluster.sarsen(&["mkdir", "/there"]).text();
    let put = |args: &[&str]| {
        let done = cluster.sarsen(&[&["put", "-r", "--replicas", "1"], args].concat());
        assert_eq!(done.code, Some(0), "{args:?}: {}", done.stderr);
    };
    put(&[&here("a"), "/new"]);
    put(&[&here("a"), "/there"]);
    put(&[&here("a/"), "/made/on/the/way/"]);
    put(&[&here("b/a"), "/there"]);
    put(&[&here("a/."), "/dot"]);
    put(&[&here("a/sub/.."), "/there/dots"]);
    put(&[&here("file"), "/plain"]);
    put(&[&here("file"), &here("a"), "/several/"]);
    for (path, bytes) in [
        ("/new/x", "ax"),
        ("/new/sub/y", "asuby"),
        ("/there/a/x", "ax"),
        ("/there/a/z", "baz"),
        ("/made/on/the/way/a/sub/y", "asuby"),
        ("/dot/sub/y", "asuby"),
        ("/there/dots/x", "ax"),
        ("/plain", "file"),
        ("/several/file", "file"),
        ("/several/a/x", "ax"),
    ] {
        assert_eq!(cluster.bytes(path), bytes.as_bytes(), "{path}");
    }

    let get = |args: &[&str]| {
        let done = cluster.sarsen(&[&["get", "-r"], args].concat());
        assert_eq!(done.code, Some(0), "{args:?}: {}", done.stderr);
    };
    fs::create_dir(cluster.path("in")).unwrap();
    get(&["/new", &here("copy")]);
    get(&["/new", &here("in")]);
    get(&["/new/", &here("made/")]);
    get(&["/there/a", "/several", &here("in/")]);
    get(&["/plain", &here("single")]);
    get(&["/", &here("all")]);
    for (path, bytes) in [
        ("copy/sub/y", "asuby"),
        ("in/new/x", "ax"),
        ("made/new/x", "ax"),
        ("in/a/z", "baz"),
        ("in/several/file", "file"),
        ("single", "file"),
        ("all/there/dots/x", "ax"),
        ("all/plain", "file"),
    ] {
        assert_eq!(
            fs::read(cluster.path(path)).unwrap(),
            bytes.as_bytes(),
            "{path}"
        );
    }

    let table: &[(&[&str], i32)] = &[
        // Several sources need a folder.
        (&["put", "-r", &here("a"), &here("b"), "/nowhere"], 2),
        (&["get", "-r", "/new", "/dot", &here("nowhere")], 2),
        // Two copies of one name.
        (&["put", "-r", &here("a"), &here("b/a"), "/twice/"], 2),
        (&["get", "-r", "/there/a", "/several/a", &here("twice/")], 2),
        // A folder without -r, and to a pipe.
        (&["put", &here("a"), "/x"], 1),
        (
            &[
                "put",
                "--replicas",
                "1",
                &here("a"),
                &here("file"),
                "/some/",
            ],
            1,
        ),
        (&["get", "/new", &here("x")], 1),
        (&["get", "-r", "/new", "-"], 2),
        (&["put", "-r", &here("a"), "relative"], 2),
        (&["get", "-r", "relative", &here("x")], 2),
        // What isn't there.
        (&["put", "-r", &here("no"), "/x"], 3),
        (&["get", "-r", "/no", &here("x")], 3),
        (&["get", "-r", "/new", &here("no/parent")], 3),
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
    assert_eq!(cluster.bytes("/some/file"), b"file", "the rest went on");
    assert_eq!(cluster.sarsen(&["stat", "/twice"]).code, Some(3));
}

#[test]
fn a_file_that_is_there_stays_and_the_rest_goes_on() {
    let cluster = Cluster::start(1);
    let tree = cluster.path("tree");
    for name in ["one", "two", "sub/three", "sub/four", "folder/in/it"] {
        write(tree.join(name), name.as_bytes());
    }
    cluster.put(b"old one", "/to/one");
    cluster.put(b"old three", "/to/sub/three");
    let from = format!("{}/.", text(&tree));
    let put = |more: &[&str]| {
        let args = [
            &["--json", "put", "-r", "--replicas", "1"],
            more,
            &[&from, "/to"],
        ]
        .concat();
        let done = cluster.sarsen(&args);
        (done.code, sums(&done), codes(&done))
    };
    let (code, told, codes) = put(&[]);
    assert_eq!(
        (code, &told["files"], &told["failed"]),
        (Some(4), &3.into(), &2.into())
    );
    assert_eq!(codes, ["already_exists", "already_exists"]);
    assert_eq!(cluster.bytes("/to/one"), b"old one");
    assert_eq!(cluster.bytes("/to/sub/four"), b"sub/four");

    let (code, told, _) = put(&["--force"]);
    assert_eq!((code, &told["files"]), (Some(0), &5.into()));
    assert_eq!(cluster.bytes("/to/one"), b"one");
    let trash = cluster.sarsen(&["--json", "trash", "ls"]).json();
    assert_eq!(trash.as_array().map(Vec::len), Some(5), "{trash}");

    // A folder where a file stands, a file where a folder stands, and a file that exists.
    cluster
        .sarsen(&["rm", "-r", "--purge", "/to/two", "/to/folder"])
        .text();
    cluster.sarsen(&["mkdir", "-p", "/to/two/deep"]).text();
    cluster.put(b"in the way", "/to/folder");
    let (code, told, codes) = put(&["--force"]);
    assert_eq!(
        (code, &told["files"], &told["failed"]),
        (Some(1), &3.into(), &2.into())
    );
    assert_eq!(codes, ["already_exists", "failed"]);
    assert_eq!(cluster.bytes("/to/folder"), b"in the way");
}

#[test]
fn nothing_is_written_through_what_is_in_the_way() {
    let cluster = Cluster::start(1);
    for path in [
        "/t/file",
        "/t/folder/in",
        "/t/piped",
        "/t/linked",
        "/t/.x.sarsen-part",
        "/t/good",
    ] {
        cluster.put(path.as_bytes(), path);
    }
    let outside = cluster.path("outside");
    write(outside.join("victim"), b"precious");
    let down = cluster.path("down");
    fs::create_dir_all(down.join("t/file")).unwrap();
    symlink(&outside, down.join("t/folder")).unwrap();
    symlink(outside.join("victim"), down.join("t/linked")).unwrap();
    symlink(outside.join("victim"), down.join("t/.good.sarsen-part")).unwrap();
    let fifo = down.join("t/piped");
    assert!(Command::new("mkfifo").arg(fifo).status().unwrap().success());

    let done = cluster.sarsen(&["--json", "get", "-r", "/t", text(&down)]);
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    let told = sums(&done);
    assert_eq!(
        (&told["files"], &told["failed"]),
        (&0.into(), &6.into()),
        "{}",
        done.stderr
    );
    for what in [
        "a folder",
        "a symbolic link",
        "a named pipe",
        "unfinished download",
    ] {
        assert!(done.stderr.contains(what), "{what}: {}", done.stderr);
    }
    assert_eq!(fs::read(outside.join("victim")).unwrap(), b"precious");
    assert_eq!(contents(&outside).len(), 1);

    // What an earlier download left is replaced.
    fs::remove_file(down.join("t/.good.sarsen-part")).unwrap();
    fs::write(down.join("t/.good.sarsen-part"), "what a killed one left").unwrap();
    let done = cluster.sarsen(&[
        "--json",
        "get",
        "-r",
        "/t/good",
        &format!("{}/t", text(&down)),
    ]);
    assert_eq!(done.json()["files"], 1);
    assert_eq!(fs::read(down.join("t/good")).unwrap(), b"/t/good");
    assert!(!down.join("t/.good.sarsen-part").exists());
}

/// Each file goes up once, whoever is first, and is whole.
#[test]
fn two_clients_upload_overlapping_trees() {
    let cluster = Cluster::start_with(3, PATIENT);
    let trees: Vec<PathBuf> = (0..2)
        .map(|client| cluster.path(&format!("tree-{client}")))
        .collect();
    for (client, tree) in trees.iter().enumerate() {
        for number in 0..150 {
            let own = format!("own-{client}/{number}");
            write(tree.join(own), format!("{client} {number}").as_bytes());
            write(
                tree.join(format!("shared/{number}")),
                format!("shared {number}").as_bytes(),
            );
        }
    }
    let done: Vec<Done> = std::thread::scope(|scope| {
        let put = |tree: &PathBuf| {
            let from = format!("{}/.", text(tree));
            let cluster = &cluster;
            scope.spawn(move || cluster.sarsen(&["--json", "put", "-r", &from, "/both"]))
        };
        let running: Vec<_> = trees.iter().map(put).collect();
        running.into_iter().map(|it| it.join().unwrap()).collect()
    });
    let mut files = 0;
    for done in &done {
        let told = sums(done);
        let failed = told["failed"].as_u64().unwrap();
        assert_eq!(
            done.code,
            Some(if failed == 0 { 0 } else { 4 }),
            "{}",
            done.stderr
        );
        assert_eq!(told["files"].as_u64().unwrap() + failed, 300);
        files += told["files"].as_u64().unwrap();
    }
    assert_eq!(files, 450);
    let down = cluster.path("down");
    cluster.sarsen(&["get", "-r", "/both", text(&down)]).text();
    let found = contents(&down);
    for tree in &trees {
        for (name, bytes) in contents(tree) {
            assert_eq!(found.get(&name), Some(&bytes), "{}", name.display());
        }
    }
}

/// When nobody serves, the rest of the tree is not waited for file by file.
#[test]
fn a_cluster_that_goes_down_ends_the_whole() {
    let mut cluster = Cluster::start(1);
    let tree = cluster.path("tree");
    for number in 0..500 {
        write(tree.join(format!("{number}")), b"bytes");
    }
    cluster.kill_chunkserver(0);
    cluster.until("the server counts as dead", |cluster| {
        let report = cluster.sarsen(&["--json", "report"]).json();
        (report["servers"][0]["state"] == "dead").then_some(())
    });
    let put = [
        "--json",
        "--timeout",
        "300ms",
        "put",
        "-r",
        text(&tree),
        "/x",
    ];
    let done = cluster.sarsen(&put);
    assert_eq!(done.code, Some(5), "{}", done.stderr);
    let told = sums(&done);
    assert_eq!(told["files"], 0);
    assert!(told["failed"].as_u64().unwrap() <= 32, "{told}");
}
