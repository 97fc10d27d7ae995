//! A `/` at the end of a path says that it is a folder's.

use crate::harness::Cluster;

/// `append /file/` appended to the file, and `put x /file/` was refused: each verb had a mind of its own.
#[test]
fn a_slash_at_the_end_is_a_folders_with_every_verb() {
    let cluster = Cluster::start(1);
    cluster.put(b"bytes", "/file");
    let local = cluster.local("local", b"local");
    let local = local.to_str().expect("a plain name");
    let to = cluster.path("copy");
    let to = to.to_str().expect("a plain name");
    let on_files: &[&[&str]] = &[
        &["append", "/file/", local],
        &["cat", "/file/"],
        &["checksum", "/file/"],
        &["get", "/file/", to],
        &["get", "-r", "/file/", to],
        &["locate", "/file/"],
        &["records", "/file/"],
        &["tail", "/file/"],
        &["touch", "/file/"],
        &["truncate", "--size", "0", "/file/"],
        &["write", "--offset", "0", "/file/"],
        &["du", "/file/"],
        &["fsck", "/file/"],
        &["ls", "/file/"],
        &["mv", "/file", "/file/"],
        &["mv", "/file/", "/other"],
        &["put", local, "/file/"],
        &["rm", "/file//"],
        &["stat", "/file/"],
        &["tree", "/file/"],
    ];
    for args in on_files {
        let done = cluster.sarsen(args);
        assert_eq!(done.code, Some(1), "{args:?}: {}", done.stderr);
        assert!(
            done.stderr.contains("it is a file"),
            "{args:?}: {}",
            done.stderr
        );
    }
    assert_eq!(cluster.bytes("/file"), b"bytes");
    assert_eq!(cluster.sarsen(&["mkdir", "/file/"]).code, Some(4));
    // A file is no folder that is missing.
    for args in [&["touch", "/new/"][..], &["append", "/new/", local]] {
        let done = cluster.sarsen(args);
        assert_eq!(done.code, Some(3), "{args:?}: {}", done.stderr);
    }
    let ok = |args: &[&str]| {
        let done = cluster.sarsen(args);
        assert_eq!(done.code, Some(0), "{args:?}: {}", done.stderr);
    };
    ok(&["mkdir", "/folder/"]);
    ok(&["put", "--replicas", "1", local, "/folder/"]);
    assert_eq!(cluster.bytes("/folder/local"), b"local");
    ok(&["mv", "/file", "/folder/"]);
    for args in [
        &["ls", "/folder/"][..],
        &["stat", "/folder/"],
        &["du", "/folder/"],
        &["tree", "/folder/"],
        &["fsck", "/folder/"],
        &["ls", "/"],
        &["get", "-r", "/folder/", to],
    ] {
        ok(args);
    }
    ok(&["rm", "/folder/file"]);
    assert_eq!(
        cluster.sarsen(&["trash", "restore", "/folder/file/"]).code,
        Some(3)
    );
    ok(&["mkdir", "/back"]);
    ok(&["trash", "restore", "/folder/file", "/back/"]);
    assert_eq!(cluster.bytes("/back/file"), b"bytes");
    ok(&["rm", "-r", "/folder/"]);
    ok(&["trash", "restore", "/folder/", "/back"]);
    assert_eq!(cluster.bytes("/back/folder/local"), b"local");
}
