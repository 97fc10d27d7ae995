//! Members of a chain that hang, and those that are only slow (`spec/wire.md` section 12.1).

use std::net::TcpListener;
use std::time::Duration;

use sarsen_chunkd::io::Mode;
use sarsen_protocol::deframe::frame;
use sarsen_protocol::id::{ChunkHandle, Serial, ServerId};
use sarsen_protocol::message::{Hop, Kind, Level, WriteAck, WriteOpened, WriteSealed};
use sarsen_protocol::status::Status;

use crate::cluster::{Cluster, modes};
use crate::peer::{Peer, bytes};

const CHUNK: ChunkHandle = ChunkHandle(0xab02);

const SUSPECT_AFTER: Duration = Duration::from_millis(600);

/// As many keep-alives as come in twice the time that a silent member has.
const KEEP_ALIVES: usize = 6;

/// Two servers, and a chain of them with a third member that a test plays.
fn with_a_third(mode: Mode) -> (Cluster, TcpListener, Vec<Hop>) {
    let cluster = Cluster::start_with(mode, 2, SUSPECT_AFTER);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let mut chain = cluster.chain();
    chain.push(Hop {
        server: ServerId(3),
        data_addr: listener.local_addr().expect("bound").to_string(),
    });
    (cluster, listener, chain)
}

fn ack(serial: u64) -> WriteAck {
    WriteAck {
        serial: Serial(serial),
        commit_mark: Serial::NONE,
        level: Level::Memory,
        copies: 1,
    }
}

/// A process that was stopped takes connections, by its kernel, and says nothing. The member
/// before it waited for half a minute, and the one before that was not told apart from it.
#[test]
fn a_member_that_was_stopped_is_blamed_by_the_one_before_it() {
    for mode in modes() {
        let (cluster, _listener, chain) = with_a_third(mode);
        let mut peer = Peer::dial(cluster.address(0));
        peer.open(CHUNK, &chain);
        let failure = peer.expect_failure();
        let expected = (Kind::WriteOpened, Status::ChainBroken, 3);
        assert_eq!(failure, expected, "{mode:?}");
    }
}

#[test]
fn a_member_that_hangs_in_the_middle_is_blamed_by_the_one_before_it() {
    for mode in modes() {
        let (cluster, listener, chain) = with_a_third(mode);
        let mut peer = Peer::dial(cluster.address(0));
        peer.open(CHUNK, &chain);
        let mut third = Peer::accept(&listener, ServerId(3));
        third.request_id = third.recv().expect("an opening").header.request_id;
        third.send(&frame(&WriteOpened, third.request_id));
        peer.expect::<WriteOpened>();
        // Also with nothing on its way: that it works is for it to say.
        let failure = peer.expect_failure();
        assert_eq!(
            failure,
            (Kind::WriteAck, Status::ChainBroken, 3),
            "{mode:?}"
        );
    }
}

#[test]
fn a_slow_sender_and_a_slow_member_are_waited_for() {
    for mode in modes() {
        let (cluster, listener, chain) = with_a_third(mode);
        let mut peer = Peer::dial(cluster.address(0));
        peer.open(CHUNK, &chain);
        let mut third = Peer::accept(&listener, ServerId(3));
        third.request_id = third.recv().expect("an opening").header.request_id;
        let keep_alive = |third: &mut Peer, peer: &mut Peer, serial| {
            for _ in 0..KEEP_ALIVES {
                third.send(&frame(&ack(serial), third.request_id));
                peer.expect_keep_alives(1);
            }
        };
        // Slow to open.
        keep_alive(&mut third, &mut peer, 0);
        third.send(&frame(&WriteOpened, third.request_id));
        peer.expect::<WriteOpened>();
        // The sender has nothing to send.
        keep_alive(&mut third, &mut peer, 0);
        let content = bytes(1000);
        peer.data(CHUNK, 1, 0, &content);
        assert_eq!(
            third.recv().expect("data").header.kind,
            Kind::WriteData,
            "{mode:?}"
        );
        // Slow to write, and to seal.
        keep_alive(&mut third, &mut peer, 0);
        third.send(&frame(&ack(1), third.request_id));
        let acked: WriteAck = peer.expect();
        assert_eq!((acked.serial, acked.copies), (Serial(1), 3));
        peer.seal(CHUNK, &content, Level::Disk);
        let seal = third.recv().expect("the seal");
        assert_eq!(seal.header.kind, Kind::WriteSeal);
        keep_alive(&mut third, &mut peer, 1);
        let sealed = WriteSealed {
            length: 1000,
            crc32: sarsen_protocol::crc::crc32(&content),
            members: vec![sarsen_protocol::message::MemberLevel {
                server: ServerId(3),
                level: Level::Disk,
            }],
        };
        third.send(&frame(&sealed, third.request_id));
        let sealed: WriteSealed = peer.expect();
        assert_eq!(sealed.members.len(), 3, "{mode:?}");
    }
}
