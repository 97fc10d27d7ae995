//! Bytes that break the protocol: their own connection ends, nobody else's (`spec/wire.md`
//! section 9).

use sarsen_protocol::deframe::frame;
use sarsen_protocol::header::Header;
use sarsen_protocol::id::ChunkHandle;
use sarsen_protocol::message::{Kind, Level, Ping, Stat, WriteAck, WriteOpened, WriteSealed};
use sarsen_protocol::status::Status;

use crate::cluster::{Cluster, modes};
use crate::peer::{Peer, bytes};

const CHUNK: ChunkHandle = ChunkHandle(0xef03);

/// Begins a stream that other connections must not disturb.
fn begin(cluster: &Cluster) -> Peer {
    let mut peer = Peer::dial(cluster.address(0));
    peer.open(CHUNK, &cluster.chain());
    peer.expect::<WriteOpened>();
    peer
}

fn finish(mut peer: Peer) {
    let content = bytes(100_000);
    peer.data(CHUNK, 1, 0, &content);
    peer.seal(CHUNK, &content, Level::Memory);
    peer.expect::<WriteAck>();
    peer.expect::<WriteSealed>();
}

#[test]
fn what_is_not_a_hello_gets_nothing_and_disturbs_nobody() {
    let tls_hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    let oversized = {
        let mut header = Header::new(Kind::Hello, Status::Ok, 0, &[], 0);
        header.body_len = 8192;
        header.encode().to_vec()
    };
    for mode in modes() {
        let cluster = Cluster::start(mode, 2);
        let others = begin(&cluster);
        let mut cases: Vec<(&str, Vec<u8>)> = vec![
            ("random bytes", bytes(100_000)),
            ("a TLS hello", [&tls_hello[..], &[0; 200]].concat()),
            ("a header over the limit", oversized.clone()),
            ("half a header", oversized[..30].to_vec()),
            ("nothing", vec![]),
        ];
        cases.push((
            "a request before the hello",
            frame(&Stat { path: "/".into() }, 1),
        ));
        for (name, bytes) in cases {
            let mut peer = Peer::dial_silently(cluster.address(0));
            peer.send(&bytes);
            peer.end_sending();
            peer.expect_closed();
            assert!(!name.is_empty());
        }
        finish(others);
    }
}

#[test]
fn a_frame_that_breaks_the_protocol_gets_a_goodbye_that_names_the_error() {
    let header = |change: fn(&mut Header)| {
        let mut header = Header::new(Kind::Read, Status::Ok, 1, &[], 0);
        change(&mut header);
        header.encode().to_vec()
    };
    let flipped = {
        let mut bytes = header(|_| {});
        bytes[20] ^= 1;
        bytes
    };
    for mode in modes() {
        let cluster = Cluster::start(mode, 2);
        let others = begin(&cluster);
        for (name, bytes) in [
            ("a damaged header", flipped.clone()),
            (
                "a body over the limit",
                header(|header| header.body_len = 100_000),
            ),
            (
                "a payload where none may be",
                header(|header| header.payload_len = 1),
            ),
            ("a control message", frame(&Ping, 1)),
            ("a body that does not decode", header(|_| {})),
            ("data outside of a stream", {
                let data = Header::new(Kind::WriteData, Status::Ok, 1, &[], 0);
                data.encode().to_vec()
            }),
            ("a kind that no chunkserver serves yet", {
                let batch = Header::new(Kind::WriteBatch, Status::Ok, 1, &[], 0);
                batch.encode().to_vec()
            }),
        ] {
            let mut peer = Peer::dial(cluster.address(0));
            peer.send(&bytes);
            let (kind, status, _) = peer.expect_failure();
            assert_eq!(
                (kind, status),
                (Kind::Goodbye, Status::ProtocolError),
                "{mode:?} {name}"
            );
            peer.end_sending();
            peer.expect_closed();
        }
        let counters = &cluster.servers[0].chunkserver.counters;
        assert_eq!(counters.protocol_errors.value(), 7);
        finish(others);
    }
}

#[test]
fn inside_of_a_stream_too() {
    for mode in modes() {
        let cluster = Cluster::start(mode, 2);
        let others = begin(&cluster);
        for (n, case) in [
            // Another stream's frame.
            (|peer: &mut Peer| {
                peer.request_id += 1;
                peer.data(ChunkHandle(1), 1, 0, b"bytes");
            }) as fn(&mut Peer),
            // A second opening inside of the first.
            |peer| peer.open(ChunkHandle(1), &[]),
            // Fewer CRCs than pieces.
            |peer| {
                peer.data_with(ChunkHandle(1), 1, 0, &bytes(100_000), |data| {
                    data.crcs = sarsen_protocol::message::Crcs::new(&[1]).expect("one");
                });
            },
        ]
        .into_iter()
        .enumerate()
        {
            let handle = ChunkHandle(n as u64 + 1);
            let mut peer = Peer::dial(cluster.address(0));
            peer.open(handle, &cluster.chain());
            peer.expect::<WriteOpened>();
            case(&mut peer);
            let (kind, status, _) = peer.expect_failure();
            assert_eq!(
                (kind, status),
                (Kind::Goodbye, Status::ProtocolError),
                "{mode:?} {n}"
            );
        }
        // A frame cut off in the middle of its payload.
        let mut peer = Peer::dial(cluster.address(0));
        peer.open(ChunkHandle(9), &cluster.chain());
        peer.expect::<WriteOpened>();
        let body = [0; 160];
        let header = Header::new(Kind::WriteData, Status::Ok, 1, &body, 1000);
        peer.send(&header.encode());
        peer.send(&body[..80]);
        peer.end_sending();
        peer.expect_closed();
        finish(others);
    }
}
