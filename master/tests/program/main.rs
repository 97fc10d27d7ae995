//! The program `sarsen-master` as a process: its end.
#![cfg(feature = "edge")]

mod peer;
mod process;

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
    make_folders(&mut peer, session);
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

/// Makes 8,000 folders with long names.
fn make_folders(peer: &mut Peer, session: SessionId) {
    let numbers: Vec<u64> = (1..=8_000).collect();
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
