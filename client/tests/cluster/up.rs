//! `sarsen up`: what it is told, and its end.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Running, run};

fn command(runtime: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sarsen"));
    command
        .env("XDG_RUNTIME_DIR", runtime)
        .env("TMPDIR", runtime)
        .env_remove("SARSEN_MASTER")
        .stdin(Stdio::null());
    command
}

/// An `up` of one chunkserver, on ports that the system draws.
fn up(runtime: &Path, more: &[&str]) -> Command {
    let mut command = command(runtime);
    let ports = ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    command
        .args(["up", "--chunkservers", "1"])
        .args(ports)
        .args(more);
    command
}

/// The file was taken and not looked at: the cluster had a key of its own. That a setting does nothing only
/// stood in the daemons' logs, which go when it ends.
#[test]
fn a_cluster_has_the_key_that_is_given_and_what_does_nothing_is_told() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let key = folder.path().join("key");
    let key = key.to_str().expect("a plain name");
    let mut keygen = command(folder.path());
    keygen.args(["keygen", key]);
    assert_eq!(run(keygen, b"").code, Some(0));
    let args = ["--key-file", key, "--set", "scrub_cycle=1d"];
    let mut up = up(folder.path(), &args);
    let mut up = Running(
        up.stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs"),
    );
    let mut line = String::new();
    let mut stdout = BufReader::new(up.0.stdout.take().expect("piped"));
    stdout.read_line(&mut line).expect("a line");
    let control = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("control="))
        .unwrap_or_else(|| panic!("no ready line: {line}"))
        .to_owned();
    // No key lies where this user's programs would look.
    let with_key: &[&str] = &["--key-file", key];
    for (args, code) in [(with_key, Some(0)), (&["--timeout", "100ms"], Some(5))] {
        let mut df = command(folder.path());
        df.args(["--master", &control, "df"]).args(args);
        let done = run(df, b"");
        assert_eq!(done.code, code, "{args:?}: {}", done.stderr);
    }
    up.signal("TERM");
    assert_eq!(up.ended(), Some(0));
    let mut told = String::new();
    let mut stderr = up.0.stderr.take().expect("piped");
    stderr.read_to_string(&mut told).expect("text");
    assert_eq!(
        told,
        "sarsen: up: scrub_cycle is set, and has no effect yet\n"
    );
}

#[test]
fn a_key_or_a_setting_that_is_none_is_told_before_anything_starts() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let none = folder.path().join("none");
    let none = none.to_str().expect("a plain name");
    for (args, says) in [
        (["--key-file", none], none),
        (["--set", "heartbeat=never"], "heartbeat"),
    ] {
        let done = run(up(folder.path(), &args), b"");
        assert_ne!(done.code, Some(0), "{args:?}");
        let line = done.stderr.lines().next().expect("a line");
        assert!(
            line.starts_with("sarsen: up: ") && line.contains(says),
            "{line}"
        );
        assert!(!line.contains("ended before it was ready"), "{line}");
        let left = fs::read_dir(folder.path()).expect("a folder").count();
        assert_eq!(left, 0, "{args:?}");
    }
}
