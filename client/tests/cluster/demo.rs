//! `sarsen demo` that is interrupted.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use crate::harness::{PATIENCE, Running};

/// Large enough to be on its way for a while.
const FILE_LEN: u64 = 256 * 1024 * 1024;

/// Whether a process has `folder` in its command line, as those that the demo starts have.
fn is_used(folder: &Path) -> bool {
    let folder = folder.to_str().expect("a plain name");
    let processes = fs::read_dir("/proc").expect("the processes");
    processes.flatten().any(|process| {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(folder)
    })
}

/// Interrupts the demo when it tells of `step`.
fn interrupt_at(step: &str) {
    let runtime = tempfile::tempdir().expect("a temporary folder");
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let source = runtime.path().join("source");
    let file = fs::File::create(&source).expect("a local file");
    file.set_len(FILE_LEN).expect("a length");
    let mut command = Command::new(env!("CARGO_BIN_EXE_sarsen"));
    command
        .arg("demo")
        .arg(source)
        .env("TMPDIR", temporary.path())
        .env("XDG_RUNTIME_DIR", runtime.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut demo = Running(command.spawn().expect("the binary runs"));
    let stdout = BufReader::new(demo.0.stdout.take().expect("piped"));
    let (told, steps) = mpsc::channel();
    thread::spawn(move || {
        stdout
            .lines()
            .map_while(Result::ok)
            .try_for_each(|line| told.send(line))
    });
    while !steps
        .recv_timeout(PATIENCE)
        .expect("the demo goes on")
        .starts_with(step)
    {}
    demo.signal("INT");
    let code = demo.ended();
    let left = fs::read_dir(temporary.path()).expect("a folder").count();
    assert_eq!(left, 0, "{step}");
    assert!(!is_used(temporary.path()), "{step}");
    assert_eq!(code, Some(130), "{step}");
}

/// It took no signal, so that its folder stayed in /tmp: a gigabyte each time.
#[test]
fn a_demo_that_is_interrupted_leaves_nothing_behind() {
    // When its cluster starts, and when the file is on its way up.
    for step in ["file", "cluster"] {
        interrupt_at(step);
    }
}
