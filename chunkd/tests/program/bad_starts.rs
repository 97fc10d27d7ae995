//! What it says, and what code it ends with, when it can't start.

use std::net::TcpListener;
use std::process::Command;

use sarsen_protocol::status::Status;

use crate::master::{EPOCH, Master};
use crate::process::{Process, command, run};

/// The exit code, and that there are one or two lines, of which the first says this.
fn expect(command: Command, code: i32, says: &str) {
    let (exit, lines) = run(command);
    assert_eq!(exit, Some(code), "{lines:?}");
    assert!(lines.len() <= 2, "{lines:?}");
    assert!(
        lines[0].starts_with("chunkd: ") && lines[0].contains(says),
        "{lines:?}"
    );
    assert!(
        lines.get(1).is_none_or(|hint| hint.starts_with("hint: ")),
        "{lines:?}"
    );
}

fn good(master: &Master) -> Command {
    command(&master.address(), &master.key_file(), &master.dir())
}

#[test]
fn wrong_usage_is_2() {
    let master = Master::start();
    expect(Command::new(env!("CARGO_BIN_EXE_chunkd")), 2, "--master");
    for (words, says) in [
        (&["--io", "fast"][..], "fast"),
        (&["--set", "heartbeat=never"], "heartbeat"),
        (&["--listen", "0.0.0.0:0"], "--advertise"),
        (&["--key-file"], "--key-file"),
    ] {
        let mut command = good(&master);
        command.args(words);
        expect(command, 2, says);
    }
    assert!(
        !master.dir().exists(),
        "a wrong command line touches no disk"
    );
}

#[test]
fn a_taken_port_is_1() {
    let master = Master::start();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    for flag in ["--listen", "--data-listen", "--http"] {
        let mut command = good(&master);
        command.args([flag, &address]);
        expect(command, 1, "is taken by another process");
    }
    assert!(
        !master.dir().exists(),
        "a taken port raises no start number"
    );
}

#[test]
fn a_directory_that_is_not_its_own_is_1() {
    let mut master = Master::start();
    // Somebody's files.
    std::fs::create_dir(master.dir()).expect("made");
    std::fs::write(master.dir().join("thesis.txt"), "words").expect("written");
    expect(good(&master), 1, "is not a Sarsen data directory");
    std::fs::remove_file(master.dir().join("thesis.txt")).expect("removed");
    // Another chunkd's.
    let mut process = Process::spawn(good(&master));
    master.register();
    process.ready();
    expect(good(&master), 1, "is in use by another chunkd");
    process.terminate();
    // A file.
    let mut command = good(&master);
    command.arg("--dir").arg(master.key_file());
    expect(command, 1, "key");
    // One whose identity has rotted.
    std::fs::write(master.dir().join("IDENTITY"), [1; 256]).expect("written");
    expect(good(&master), 1, "IDENTITY is damaged");
}

#[test]
fn a_wrong_key_is_1() {
    let mut master = Master::start();
    let other = Master::start();
    let command = command(&master.address(), &other.key_file(), &master.dir());
    let refused = std::thread::spawn(move || expect(command, 1, "cluster key"));
    master.refuse_hello();
    refused.join().expect("as expected");
}

#[test]
fn directories_that_are_copies_or_foreign_are_1() {
    for (status, says) in [
        (Status::StaleStart, "the master lets no directory count"),
        (
            Status::ForeignDirectory,
            "belongs to another cluster or server",
        ),
    ] {
        let mut master = Master::start();
        let command = good(&master);
        let refused = std::thread::spawn(move || expect(command, 1, says));
        let (id, register) = master.expect_register();
        master.welcome(id, &register, EPOCH, status);
        master.expect_closed();
        refused.join().expect("as expected");
    }
}
