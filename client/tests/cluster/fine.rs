//! Each verb where all is fine, as text and as JSON: the fields that scripts are promised, each of
//! its type. (What does not exist and a cluster that is down stand in `bad_input`.)

use serde_json::Value;

use crate::harness::{Cluster, Done, QUICK};

/// A field that is promised, and what it has to be.
type Field = (&'static str, fn(&Value) -> bool);

fn string(value: &Value) -> bool {
    value.is_string()
}

fn count(value: &Value) -> bool {
    value.is_u64()
}

fn number(value: &Value) -> bool {
    value.as_f64().is_some_and(|number| number >= 0.0)
}

fn boolean(value: &Value) -> bool {
    value.is_boolean()
}

fn list(value: &Value) -> bool {
    value.is_array()
}

fn null(value: &Value) -> bool {
    value.is_null()
}

fn hex(value: &Value, len: usize) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    value
        .as_str()
        .is_some_and(|text| text.len() == len && text.bytes().all(is_digit))
}

fn crc32(value: &Value) -> bool {
    hex(value, 8)
}

fn handle(value: &Value) -> bool {
    hex(value, 16)
}

/// Server ids are strings, since not every reader of JSON takes 64 bits.
fn decimal(value: &Value) -> bool {
    value
        .as_str()
        .is_some_and(|text| text.parse::<u64>().is_ok())
}

/// As in 2026-11-24T12:34:56.789Z.
fn time(value: &Value) -> bool {
    value.as_str().is_some_and(|text| {
        text.len() == 24 && text.ends_with('Z') && text.as_bytes().get(10) == Some(&b'T')
    })
}

fn address(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.contains(':'))
}

const TRANSFER: &[Field] = &[
    ("path", string),
    ("bytes", count),
    ("seconds", number),
    ("mb_per_s", number),
    ("crc32", crc32),
    ("chunks", count),
];

const SUMS: &[Field] = &[
    ("path", string),
    ("bytes", count),
    ("seconds", number),
    ("mb_per_s", number),
    ("crc32", null),
    ("chunks", count),
    ("files", count),
    ("failed", count),
];

const STAT: &[Field] = &[
    ("path", string),
    ("type", string),
    ("size", count),
    ("replicas", count),
    ("chunks", count),
    ("mtime", time),
    ("crc32", crc32),
];

const FOLDER_STAT: &[Field] = &[("path", string), ("type", string), ("crc32", null)];

const LS: &[Field] = &[
    ("name", string),
    ("path", string),
    ("type", string),
    ("size", count),
    ("mtime", time),
];

const LOCATE: &[Field] = &[
    ("path", string),
    ("size", count),
    ("chunks/0/index", count),
    ("chunks/0/handle", handle),
    ("chunks/0/version", count),
    ("chunks/0/length", count),
    ("chunks/0/state", string),
    ("chunks/0/replicas/0/server", decimal),
    ("chunks/0/replicas/0/data_addr", address),
    ("chunks/0/replicas/0/primary", boolean),
];

const REPORT: &[Field] = &[
    ("epoch", count),
    ("safe_mode", boolean),
    ("servers/0/id", decimal),
    ("servers/0/control_addr", address),
    ("servers/0/data_addr", address),
    ("servers/0/rack", string),
    ("servers/0/state", string),
    ("servers/0/disks/0/dir", string),
    ("servers/0/disks/0/total", count),
    ("servers/0/disks/0/free", count),
    ("servers/0/disks/0/chunks", count),
    ("servers/0/disks/0/state", string),
    ("servers/0/last_heartbeat_ms", count),
];

const FSCK: &[Field] = &[
    ("healthy", boolean),
    ("files", count),
    ("chunks", count),
    ("missing", list),
    ("under_replicated", list),
    ("stale", list),
    ("corrupt", list),
    ("unavailable", list),
    ("possible_loss", list),
];

const BENCH: &[Field] = &[
    ("op", string),
    ("bytes", count),
    ("seconds", number),
    ("mb_per_s", number),
    ("ops_per_s", number),
    ("p50_us", number),
    ("p99_us", number),
    ("p999_us", number),
    ("cpu_s_per_gib/client", number),
    ("cpu_s_per_gib/servers", number),
];

const CHECKSUM: &[Field] = &[("path", string), ("crc32", crc32)];

const DF: &[Field] = &[
    ("total", count),
    ("free", count),
    ("used", count),
    ("trash", count),
];

/// What a verb without fields of its own gives is JSON all the same.
const ANY: &[Field] = &[];

/// The verb's words, with `MODE` in names that each of its runs has for itself; what stands in its
/// text; and the fields of its document, or of each element of it.
const TABLE: &[(&[&str], &str, &[Field])] = &[
    (&["put", "FILE", "/put-MODE"], "4 B", TRANSFER),
    (&["put", "FILE", "FILE2", "/several-MODE/"], "crc32", SUMS),
    (&["put", "-r", "TREE", "/tree-MODE"], "2 files", SUMS),
    (&["get", "/file", "DOWN/MODE"], "4 B", TRANSFER),
    (&["get", "--resume", "/file", "DOWN/MODE"], "4 B", TRANSFER),
    (&["get", "-r", "/tree", "DOWN/tree-MODE"], "2 files", SUMS),
    (&["stat", "/file"], "file", STAT),
    (&["stat", "/tree"], "dir", FOLDER_STAT),
    (&["ls", "/"], "tree", LS),
    (&["ls", "-l", "/file"], "file", LS),
    (&["ls", "-R", "/tree"], "deep", LS),
    (&["tree", "/tree"], "deep", ANY),
    (&["du", "/"], "files", ANY),
    (&["df"], "TRASH", DF),
    (&["mkdir", "/made-MODE"], "", ANY),
    (&["mkdir", "-p", "/made-MODE/and/more"], "", ANY),
    (&["mv", "/put-MODE", "/moved-MODE"], "", ANY),
    (&["rm", "/moved-MODE"], "", ANY),
    (&["rm", "-r", "--purge", "/made-MODE"], "", ANY),
    (&["trash", "ls"], "moved", ANY),
    (&["trash", "restore", "/moved-MODE"], "moved", ANY),
    (&["checksum", "/file"], "  /file", CHECKSUM),
    (&["locate", "/file"], "sealed", LOCATE),
    (&["bench", "put", "--size", "1M"], "operations", BENCH),
    (&["bench", "get", "--size", "1M"], "operations", BENCH),
    (&["bench", "append", "--size", "1K"], "operations", BENCH),
    (&["bench", "read", "--size", "4K"], "operations", BENCH),
    (&["bench", "meta", "--size", "1K"], "operations", BENCH),
    (&["fsck"], "healthy", FSCK),
    (&["fsck", "/tree"], "healthy", FSCK),
    (&["report"], "live", REPORT),
    (&["wait", "--chunkservers", "1"], "", REPORT),
    (&["trash", "empty"], "", ANY),
    (&["keygen", "DOWN/key-MODE"], "", ANY),
    (&["completions", "bash"], "sarsen", ANY),
];

#[test]
fn every_verb_where_all_is_fine() {
    // Nobody falls silent on a busy machine: what is asked for here is that all is well.
    let settings = [QUICK, &["suspect_after=30s", "dead_after=1m"]].concat();
    let cluster = Cluster::start_with(1, &settings);
    let folder = |name: &str| {
        let path = cluster.path(name);
        std::fs::create_dir_all(&path).expect("a folder");
        path.to_str().expect("a plain name").to_owned()
    };
    let (tree, down) = (folder("tree-here"), folder("down"));
    folder("tree-here/deep");
    let file = |name: &str| {
        let path = cluster.local(name, b"fine");
        path.to_str().expect("a plain name").to_owned()
    };
    file("tree-here/one");
    file("tree-here/deep/two");
    let (first, second) = (file("first"), file("second"));
    cluster.put(b"fine", "/file");
    let put = ["put", "-r", "--replicas", "1", &tree, "/tree"];
    assert_eq!(cluster.sarsen(&put).code, Some(0));

    let run = |words: &[&str], mode: &str, more: &[&str]| -> Done {
        let mut args: Vec<String> = more.iter().map(|&word| word.to_owned()).collect();
        for word in words {
            args.push(match *word {
                "FILE" => first.clone(),
                "FILE2" => second.clone(),
                "TREE" => tree.clone(),
                word => word.replace("DOWN", &down).replace("MODE", mode),
            });
        }
        // There is one chunkserver, and no need to measure for long.
        let more: &[&str] = match words[0] {
            "put" => &["--replicas=1"],
            "bench" => &["--replicas=1", "--duration=100ms"],
            _ => &[],
        };
        args.extend(more.iter().map(|&word| word.to_owned()));
        let done = cluster.sarsen(&args);
        assert_eq!(done.code, Some(0), "{args:?}: {}", done.stderr);
        assert_eq!(done.stderr, "", "{args:?}");
        done
    };
    for (words, text, fields) in TABLE {
        let shown = run(words, "text", &[]).text();
        assert!(shown.contains(text), "{words:?}: {shown}");
        assert!(serde_json::from_str::<Value>(&shown).is_err(), "{words:?}");

        let told = run(words, "json", &["--json"]).json();
        let documents = match &told {
            Value::Array(documents) => documents.as_slice(),
            document => std::slice::from_ref(document),
        };
        assert!(!documents.is_empty(), "{words:?}");
        for document in documents {
            for (field, fits) in *fields {
                let value = document.pointer(&format!("/{field}"));
                assert!(value.is_some_and(fits), "{words:?}, {field}: {document}");
            }
        }
    }
    // What is written to stdout is the file, whatever else is asked.
    for mode in [&[][..], &["--json"]] {
        for words in [&["cat", "/file"][..], &["get", "/file", "-"]] {
            assert_eq!(run(words, "", mode).stdout, b"fine", "{words:?}");
        }
        let put = [mode, &["put", "--replicas", "1", "--force", "-", "/piped"]].concat();
        let done = cluster.sarsen_with_input(&put, b"piped");
        assert_eq!(done.code, Some(0), "{}", done.stderr);
    }
    assert_eq!(cluster.bytes("/piped"), b"piped");
}
