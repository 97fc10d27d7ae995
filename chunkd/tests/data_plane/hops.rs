//! Chains of mutations with a member that a test plays (`spec/wire.md` section 12.3).

use std::net::TcpListener;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use sarsen_chunkd::core::mutation::Order;
use sarsen_protocol::deframe::frame;
use sarsen_protocol::id::{ChunkVersion, ServerId};
use sarsen_protocol::message::{Hop, Kind, Level, RevokeLease, WriteAck, WriteOpen, WriteOpened};
use sarsen_protocol::status::Status;

use crate::cluster::{Cluster, FILE, modes};
use crate::mutations::{BEGIN, Client, EPOCH, FIRST, HANDLE, grant, make, write_ticket};
use crate::peer::{PATIENCE, Peer, chunkserver};

const SUSPECT_AFTER: Duration = Duration::from_secs(1);

/// A thread that was held up went on with what waited for it, and blamed its neighbours for a silence that
/// was its own: what they had sent lay in their sockets.
#[test]
fn a_thread_that_is_late_blames_nobody() {
    for mode in modes() {
        let cluster = Cluster::start_with(mode, 1, SUSPECT_AFTER);
        let server = &cluster.servers[0];
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut chain = cluster.chain();
        chain.push(Hop {
            server: ServerId(2),
            data_addr: listener.local_addr().expect("bound").to_string(),
        });
        make(server, FIRST, true).expect("made");
        grant(server, FIRST, BEGIN, &chain, 0);
        let mut second = Peer::accept(&listener, ServerId(2));
        second.request_id = second.recv().expect("an opening").header.request_id;
        second.send(&frame(&WriteOpened, second.request_id));
        let mut client = Client::opened(&cluster, 1, FIRST, BEGIN, &chain);

        // Of another version: it is answered at once, on the thread of the chunk.
        let revoke = Order::Revoke(RevokeLease {
            epoch: EPOCH,
            handle: HANDLE,
            version: ChunkVersion(1),
        });
        let order = |answer: Box<dyn FnOnce() + Send>| {
            let members = &server.chunkserver.members;
            let ordered = members.order(&server.chunkserver, revoke.clone(), |_| answer());
            ordered.expect("the chunk is known");
        };
        let (go_on, held) = mpsc::channel::<()>();
        order(Box::new(move || {
            let _ = held.recv();
        }));
        let began = Instant::now();
        while began.elapsed() < 2 * SUSPECT_AFTER {
            let keep_alive = WriteAck {
                serial: BEGIN,
                commit_mark: BEGIN,
                level: Level::Memory,
                copies: 1,
            };
            second.send(&frame(&keep_alive, second.request_id));
            std::thread::sleep(SUSPECT_AFTER / 10);
        }
        order(Box::new(|| {}));
        go_on.send(()).expect("it waits");
        client.append(Level::Memory, &[b"goes on"]);
        let batch =
            std::iter::from_fn(|| second.recv()).find(|it| it.header.kind == Kind::WriteBatch);
        assert!(batch.is_some(), "{mode:?}: the chain has ended");
    }
}

/// Whoever had the ticket of a chain, as its clients have, could open the stream that is its primary's, and
/// order mutations of its own.
#[test]
fn a_stream_between_members_is_opened_by_the_one_before() {
    for mode in modes() {
        let cluster = Cluster::start_with(mode, 2, PATIENCE);
        let chain = cluster.chain();
        let second = &cluster.servers[1];
        make(second, FIRST, true).expect("made");
        let open = WriteOpen {
            ticket: write_ticket(FIRST, &chain),
            handle: HANDLE,
            version: FIRST,
            file_id: FILE,
            index: 0,
            room: 0,
            begin_serial: BEGIN,
            lock_token: 0,
            level: Level::Memory,
            position: 1,
            chain: chain.clone(),
        };
        for mut other in [
            Peer::dial(cluster.address(1)),
            Peer::dial_as(cluster.address(1), chunkserver(ServerId(3))),
        ] {
            other.send(&frame(&open, other.request_id));
            let refused = (Kind::WriteOpened, Status::TicketInvalid, 2);
            assert_eq!(other.expect_failure(), refused, "{mode:?}");
            other.expect_closed();
        }
        let mut first = Peer::dial_as(cluster.address(1), chunkserver(ServerId(1)));
        first.send(&frame(&open, first.request_id));
        first.expect::<WriteOpened>();
    }
}
