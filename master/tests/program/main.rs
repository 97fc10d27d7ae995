//! The program `sarsen-master` as a process: its end.
#![cfg(feature = "edge")]

mod peer;
mod process;

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use sarsen_edge::key;
use sarsen_protocol::deframe::frame;
use sarsen_protocol::id::{RequestId, SessionId};
use sarsen_protocol::message::{Kind, List, MakeFolder, OpenSession};
use sarsen_protocol::status::Status;

use self::peer::Peer;
use self::process::Process;

fn open_session(nonce: u8) -> OpenSession {
    OpenSession {
        nonce: [nonce; 16],
        name: "test".to_owned(),
    }
}

/// Replies and the goodbye that were still in a queue ended with the process: a peer that read
/// slowly met a connection that broke in the middle of a frame.
#[test]
fn a_master_that_ends_finishes_what_it_was_saying() {
    let place = tempfile::tempdir().unwrap();
    let key = key::generate(&place.path().join("key")).unwrap();
    let mut master = Process::start(&place.path().join("dir"), &place.path().join("key"));
    let mut other = Peer::dial(&master.control, &key);
    let mut peer = Peer::dial(&master.control, &key);
    let session = peer.ask(1, &open_session(1)).session;
    make_folders(&mut peer, session, 8_000);
    // Several times what sockets hold.
    let list = List {
        path: "/".into(),
        after: String::new(),
        limit: 10_000,
    };
    let lists: Vec<u8> = (20_001..20_017)
        .flat_map(|number| frame(&list, number))
        .collect();
    peer.send(&lists);
    assert_eq!(peer.next().expect("a reply").header.kind, Kind::ListReply);
    master.terminate();
    while other.next().is_some() {}
    let last = std::iter::from_fn(|| peer.next()).last().expect("a frame");
    assert_eq!(
        (last.header.kind, last.header.status),
        (Kind::Goodbye, Status::ShuttingDown)
    );
    assert_eq!(master.wait(), Some(0));
}

/// A line of the log that could not be written was told on stderr, which could not be written to, and
/// whatever thread had logged it panicked: who read the log ended, and with the next line so did the master.
#[test]
fn a_master_whose_log_nobody_reads_goes_on() {
    let place = tempfile::tempdir().unwrap();
    let key = key::generate(&place.path().join("key")).unwrap();
    let (reader, log) = std::io::pipe().unwrap();
    drop(reader);
    let (dir, key_file) = (place.path().join("dir"), place.path().join("key"));
    let mut master = Process::start_logging(&dir, &key_file, log.into());
    let mut peer = Peer::dial(&master.control, &key);
    let _ = peer.ask(1, &open_session(1)).session;
    master.terminate();
    assert_eq!(master.wait(), Some(0));
}

/// A signal killed it before it had taken the signals over, and was put off until the whole log was read.
#[test]
fn a_start_that_is_told_to_end_is_no_failure() {
    let place = tempfile::tempdir().unwrap();
    let config = place.path().join("config");
    let made = Command::new("mkfifo").arg(&config).status();
    assert!(made.expect("mkfifo").success());
    let mut command = process::command(&place.path().join("dir"));
    command.arg("--config").arg(&config);
    let mut child = command.spawn().expect("starts");
    // Opened when the other side is, too; then it waits for what never comes.
    let _config = OpenOptions::new().write(true).open(&config).unwrap();
    kill_process(Pid::from_child(&child), Signal::TERM).expect("runs");
    assert_eq!(child.wait().expect("ends").code(), Some(0));
}

/// The HTTP port told the first 10,000 names of a folder, and not that there were more.
#[test]
fn a_folder_of_several_pages_is_listed_whole() {
    let place = tempfile::tempdir().unwrap();
    let key = key::generate(&place.path().join("key")).unwrap();
    let master = Process::start(&place.path().join("dir"), &place.path().join("key"));
    let mut peer = Peer::dial(&master.control, &key);
    let session = peer.ask(1, &open_session(1)).session;
    make_folders(&mut peer, session, 10_001);
    let mut stream = TcpStream::connect(&master.http).unwrap();
    write!(stream, "GET /api/v1/ls?path=/ HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    let listed: Vec<serde_json::Value> = serde_json::from_str(body).unwrap();
    assert_eq!(listed.len(), 10_001);
}

/// Makes so many folders with long names.
fn make_folders(peer: &mut Peer, session: SessionId, count: u64) {
    let numbers: Vec<u64> = (1..=count).collect();
    for some in numbers.chunks(500) {
        let requests: Vec<u8> = some
            .iter()
            .flat_map(|&number| {
                let request = RequestId {
                    session,
                    number,
                    lowest_outstanding: number,
                };
                let made = MakeFolder {
                    request,
                    path: format!("/{number:0>255}"),
                    parents: false,
                };
                frame(&made, number)
            })
            .collect();
        peer.send(&requests);
        for _ in some {
            assert_eq!(peer.next().expect("a reply").header.status, Status::Ok);
        }
    }
}
