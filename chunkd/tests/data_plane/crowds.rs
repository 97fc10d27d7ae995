//! Peers that come in crowds and bring nothing, and a server that is told to end.

use std::net::TcpListener;
use std::time::Duration;

use sarsen_protocol::crc::crc32;
use sarsen_protocol::header::Header;
use sarsen_protocol::id::{ChunkHandle, Serial, ServerId};
use sarsen_protocol::message::{Hop, Kind, Level, WriteAck, WriteOpened, WriteSealed};
use sarsen_protocol::status::Status;

use crate::cluster::{Cluster, modes};
use crate::mutations::{BEGIN, Client, FIRST, opened};
use crate::peer::{Peer, bytes};

const CHUNK: ChunkHandle = ChunkHandle(0xef05);

/// As many streams as the test servers have buffers.
const STREAMS: u64 = 24;

/// Writes and seals a small chunk, as often as it takes: a busy server may say `overloaded`.
fn write_patiently(cluster: &Cluster, first_handle: u64) {
    let content = bytes(100_000);
    for handle in first_handle.. {
        let handle = ChunkHandle(handle);
        let mut peer = Peer::dial(cluster.address(0));
        peer.open(handle, &cluster.chain());
        peer.data(handle, 1, 0, &content);
        peer.seal(handle, &content, Level::Memory);
        loop {
            let frame = peer.recv().expect("an answer");
            match (frame.header.status, frame.header.kind) {
                (Status::Ok, Kind::WriteSealed) => {
                    let sealed: WriteSealed = frame.message().expect("a seal");
                    assert_eq!(sealed.crc32, crc32(&content));
                    return;
                }
                (Status::Ok, _) => {}
                (Status::Overloaded, _) => break,
                (status, _) => panic!("{status}: {:?}", frame.error()),
            }
        }
    }
}

/// A stream had its buffer for itself for five minutes, whether or not it brought anything: as
/// many senders that stopped as there are buffers kept every other writer out.
#[test]
fn streams_that_bring_nothing_make_room_for_those_that_wait() {
    for mode in modes() {
        let cluster = Cluster::start_with(mode, 1, Duration::from_millis(300));
        let idle: Vec<Peer> = (1..=STREAMS)
            .map(|handle| {
                let mut peer = Peer::dial(cluster.address(0));
                peer.open(ChunkHandle(handle), &cluster.chain());
                peer.expect::<WriteOpened>();
                match handle % 3 {
                    // Between two frames, in a header, in a payload.
                    0 => {}
                    1 => peer.send(&[0x53; 7]),
                    _ => peer.begin_data(ChunkHandle(handle), 1, 0, &bytes(300_000), 1000),
                }
                peer
            })
            .collect();
        write_patiently(&cluster, 1000);
        let mut told = 0;
        for mut peer in idle {
            // Some may still be in: one had to go for one that waited.
            while let Some(frame) = peer.try_recv() {
                if frame.header.status == Status::Overloaded {
                    assert_eq!(frame.error().expect("a body").server, ServerId(1));
                    told += 1;
                }
            }
        }
        assert!(told > 0, "{mode:?}: they were told why");
    }
}

/// A stream kept its buffer while it was being sealed, which takes it none and most of its time where
/// chunks are small: no more files than there are buffers could wait for the disk together.
#[test]
fn streams_that_are_being_sealed_keep_nobody_out() {
    for mode in modes() {
        let cluster = Cluster::start_with(mode, 1, Duration::from_secs(60));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut chain = cluster.chain();
        chain.push(Hop {
            server: ServerId(2),
            data_addr: listener.local_addr().expect("bound").to_string(),
        });
        let content = bytes(1000);
        let _sealing: Vec<(Peer, Peer)> = (1..=STREAMS)
            .map(|handle| {
                let handle = ChunkHandle(handle);
                let mut peer = Peer::dial(cluster.address(0));
                peer.open(handle, &chain);
                peer.data(handle, 1, 0, &content);
                peer.seal(handle, &content, Level::Memory);
                // The other member has the seal, and takes its time.
                let mut next = Peer::accept(&listener, ServerId(2));
                while next.recv().expect("a frame").header.kind != Kind::WriteSeal {}
                (peer, next)
            })
            .collect();
        let mut peer = Peer::dial(cluster.address(0));
        peer.open(CHUNK, &cluster.chain());
        peer.expect::<WriteOpened>();
    }
}

/// Each client's mutation was received into memory of its own, for as long as it took: as many mebibytes as
/// there were clients, whatever their number.
#[test]
fn clients_that_bring_half_a_mutation_make_room_for_those_that_wait() {
    for mode in modes() {
        let (cluster, chain) = opened(mode, 1, Duration::from_secs(1));
        let content = bytes(1 << 20);
        // As many as there is room for, and more.
        let mut slow: Vec<Client> = (1..=STREAMS + 1)
            .map(|session| {
                let mut client = Client::opened(&cluster, session, FIRST, BEGIN, &chain);
                client.begin_write(&content, 200_000);
                client
            })
            .collect();
        assert!(slow[0].is_closed_soon(), "{mode:?}");
        let mut quick = Client::opened(&cluster, 99, FIRST, BEGIN, &chain);
        quick.write(1, 1, 0, &content);
        while quick.expect::<WriteAck>().serial < Serial(1) {}
    }
}

#[test]
fn a_crowd_that_says_no_hello_keeps_nobody_out() {
    for mode in modes() {
        let cluster = Cluster::start(mode, 1);
        let mut crowd: Vec<Peer> = (0..400)
            .map(|_| Peer::dial_silently(cluster.address(0)))
            .collect();
        write_patiently(&cluster, 1);
        // The first of them made room for the last, long before their time was over.
        crowd[0].expect_closed();
    }
}

#[test]
fn a_server_that_is_told_to_end_finishes_what_it_has_and_takes_no_more() {
    for mode in modes() {
        let mut cluster = Cluster::start(mode, 2);
        let content = bytes(500_000);
        let mut busy = Peer::dial(cluster.address(0));
        busy.open(CHUNK, &cluster.chain());
        busy.expect::<WriteOpened>();
        busy.data(CHUNK, 1, 0, &content[..300_000]);
        busy.expect::<WriteAck>();
        let mut idle = Peer::dial(cluster.address(0));
        let address = cluster.address(0);
        let drained = cluster.drain(0);

        let expected = (Kind::Goodbye, Status::ShuttingDown, 0);
        assert_eq!(idle.expect_failure(), expected, "{mode:?}");
        idle.expect_closed();
        // The port is closed before anybody is told.
        assert!(std::net::TcpStream::connect(address).is_err());

        busy.data(CHUNK, 2, 300_000, &content[300_000..]);
        busy.expect::<WriteAck>();
        busy.seal(CHUNK, &content, Level::Disk);
        let sealed: WriteSealed = busy.expect();
        assert_eq!((sealed.crc32, sealed.members.len()), (crc32(&content), 2));
        // Another stream behind it is not taken.
        busy.open(ChunkHandle(1), &cluster.chain());
        assert_eq!(busy.expect_failure(), expected, "{mode:?}");
        drop(busy);
        drained.join().expect("drained");
    }
}

/// A frame in a drain's way: a peer that never stops must not keep the server from its end.
#[test]
fn a_server_that_is_told_to_end_waits_for_nobody_for_ever() {
    for mode in modes() {
        let mut cluster = Cluster::start(mode, 1);
        let mut peer = Peer::dial(cluster.address(0));
        peer.open(CHUNK, &cluster.chain());
        peer.expect::<WriteOpened>();
        let header = Header::new(Kind::WriteData, Status::Ok, peer.request_id, &[], 0);
        peer.send(&header.encode()[..20]);
        cluster
            .drain_within(0, Duration::from_millis(100))
            .join()
            .expect("drained");
        peer.expect_closed();
    }
}
