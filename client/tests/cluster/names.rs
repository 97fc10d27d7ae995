//! Names: folders, moves, the trash.

use crate::harness::Cluster;

/// The kinds of the entries in the master's log that carry out a request (`spec/oplog.md` section 4).
fn requested(cluster: &Cluster) -> Vec<u16> {
    let log = std::fs::read(cluster.path("master/oplog-0000000000000001.log")).unwrap();
    let magics = (4..log.len()).filter(|&at| log[at..].starts_with(b"SENT"));
    let headers = magics.map(|at| &log[at - 4..at + 124]);
    headers
        .filter(|header| header[56..64] != [0; 8])
        .map(|header| u16::from_le_bytes([header[8], header[9]]))
        .collect()
}

/// It was an upload of nothing: an entry that began it, and one that ended it.
#[test]
fn touch_makes_one_entry_of_the_log() {
    const FILE_MADE: u16 = 21;
    let cluster = Cluster::start(3);
    let touch = ["--json", "touch", "/a/file"];
    let made = cluster.sarsen(&touch).json();
    assert_eq!(requested(&cluster), [FILE_MADE]);
    assert_eq!(cluster.sarsen(&touch).json(), made);
    // It was refused, which is an entry too: whether the path is taken is seen when it is applied.
    assert_eq!(requested(&cluster), [FILE_MADE; 2]);
    let folder = cluster.sarsen(&["touch", "/a"]);
    assert_eq!(folder.code, Some(0), "{}", folder.stderr);
}

#[test]
fn names_of_every_kind() {
    let cluster = Cluster::start(3);
    let longest = "n".repeat(255);
    let names = [
        "with space",
        "größe 大きさ 🗿",
        "-dash",
        "quote'\"",
        "new\nline",
        &longest,
    ];
    for name in names {
        let path = format!("/names/{name}");
        cluster.put(name.as_bytes(), &path);
        assert_eq!(cluster.bytes(&path), name.as_bytes(), "{name}");
        assert_eq!(
            cluster.sarsen(&["--json", "stat", &path]).json()["path"],
            path.as_str()
        );
    }
    let list = cluster.sarsen(&["--json", "ls", "/names"]).json();
    let mut listed: Vec<&str> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["name"].as_str().unwrap())
        .collect();
    let mut wanted = names.to_vec();
    wanted.sort_unstable();
    listed.sort_unstable();
    assert_eq!(listed, wanted);
}

#[test]
fn folders_moves_and_the_trash() {
    let cluster = Cluster::start(3);
    let ok = |args: &[&str]| {
        let done = cluster.sarsen(args);
        assert_eq!(done.code, Some(0), "{args:?}: {}", done.stderr);
        done
    };
    ok(&["mkdir", "-p", "/a/b/c"]);
    cluster.put(b"one", "/a/b/one");
    cluster.put(b"two", "/a/two");
    ok(&["mv", "/a/b", "/moved"]);
    assert_eq!(cluster.bytes("/moved/one"), b"one");
    assert_eq!(cluster.sarsen(&["stat", "/a/b"]).code, Some(3));
    // A move into a folder that exists goes below it.
    ok(&["mv", "/a/two", "/moved"]);
    assert_eq!(cluster.bytes("/moved/two"), b"two");

    assert_eq!(
        cluster.sarsen(&["rm", "/moved"]).code,
        Some(1),
        "a folder that is not empty"
    );
    ok(&["rm", "-r", "/moved"]);
    assert_eq!(cluster.sarsen(&["stat", "/moved"]).code, Some(3));
    let trash = ok(&["trash", "ls"]).text();
    assert!(trash.contains("/moved"), "{trash}");
    ok(&["trash", "restore", "/moved"]);
    assert_eq!(cluster.bytes("/moved/one"), b"one");

    ok(&["rm", "-r", "--purge", "/moved"]);
    assert_eq!(
        ok(&["trash", "ls"])
            .text()
            .lines()
            .filter(|l| l.contains("/moved"))
            .count(),
        0
    );
}

/// Purged bytes leave the disks of the chunkservers.
#[test]
fn purged_space_comes_back() {
    let cluster = Cluster::start(3);
    cluster.put(&vec![7; 3 << 20], "/big");
    cluster.until_healthy();
    assert_eq!(cluster.chunk_files(0).len(), 3);
    assert_eq!(cluster.sarsen(&["rm", "--purge", "/big"]).code, Some(0));
    cluster.until("every replica is deleted", |cluster| {
        (0..3)
            .all(|number| cluster.chunk_files(number).is_empty())
            .then_some(())
    });
}

#[test]
fn a_replaced_file_goes_to_the_trash() {
    let cluster = Cluster::start(3);
    cluster.put(b"old", "/file");
    let source = cluster.local("new", b"new");
    let source = source.to_str().unwrap();
    assert_eq!(cluster.sarsen(&["put", source, "/file"]).code, Some(4));
    assert_eq!(cluster.bytes("/file"), b"old");
    assert_eq!(
        cluster.sarsen(&["put", "--force", source, "/file"]).code,
        Some(0)
    );
    assert_eq!(cluster.bytes("/file"), b"new");
    assert_eq!(
        cluster.sarsen(&["trash", "restore", "/file"]).code,
        Some(4),
        "the place is taken"
    );
    assert_eq!(cluster.sarsen(&["trash", "empty"]).code, Some(0));
    assert_eq!(cluster.sarsen(&["trash", "restore", "/file"]).code, Some(3));
}
