//! Write streams (`spec/wire.md` section 12.1).

use std::net::TcpListener;

use sarsen_chunkd::net::Notice;
use sarsen_protocol::crc::crc32;
use sarsen_protocol::deframe::{error_frame, frame};
use sarsen_protocol::id::{ChunkHandle, Serial, ServerId};
use sarsen_protocol::message::{
    ChunkState, ErrorBody, Hop, Kind, Level, WriteAck, WriteOpened, WriteSeal, WriteSealed,
};
use sarsen_protocol::status::Status;
use sarsen_protocol::ticket::Rights;

use crate::cluster::{Cluster, VERSION, modes, ticket, ticket_until};
use crate::peer::{Peer, bytes};

const MIB: usize = 1024 * 1024;
const CHUNK: ChunkHandle = ChunkHandle(0xab01);

/// Sends `content` in frames of `frame_len`; the offset of each frame is not always a block's.
fn send_all(peer: &mut Peer, handle: ChunkHandle, content: &[u8], frame_len: usize) -> u64 {
    let mut serial = 0;
    for (n, part) in content.chunks(frame_len).enumerate() {
        serial += 1;
        peer.data(handle, serial, (n * frame_len) as u32, part);
    }
    serial
}

/// Takes acks up to `serial`, each of which must name all copies.
fn expect_acks(peer: &mut Peer, serial: u64, copies: u8) {
    let mut last = 0;
    while last < serial {
        let ack: WriteAck = peer.expect();
        assert!(ack.serial.0 > last, "acks never go back");
        assert_eq!(ack.copies, copies);
        assert_eq!(
            ack.commit_mark, ack.serial,
            "the first member knows what all have"
        );
        last = ack.serial.0;
    }
}

/// Writes and seals a chunk through the whole chain.
fn write(peer: &mut Peer, cluster: &Cluster, handle: ChunkHandle, content: &[u8], level: Level) {
    let chain = cluster.chain();
    peer.open(handle, &chain);
    let serial = send_all(peer, handle, content, 300_000);
    peer.seal(handle, content, level);
    peer.expect::<WriteOpened>();
    expect_acks(peer, serial, chain.len() as u8);
    let sealed: WriteSealed = peer.expect();
    assert_eq!(sealed.length as usize, content.len());
    assert_eq!(sealed.crc32, crc32(content));
    let members: Vec<_> = sealed.members.iter().map(|member| member.server).collect();
    let expected: Vec<_> = chain.iter().map(|hop| hop.server).collect();
    assert_eq!(members, expected);
    assert!(sealed.members.iter().all(|member| member.level >= level));
}

#[test]
fn a_chunk_goes_down_the_chain_and_comes_back_from_every_member() {
    for mode in modes() {
        let cluster = Cluster::start(mode, 3);
        let content = bytes(3 * MIB + 12_345);
        let mut peer = Peer::dial(cluster.address(0));
        write(&mut peer, &cluster, CHUNK, &content, Level::Disk);
        for (n, server) in cluster.servers.iter().enumerate() {
            let entry = server.directory.entry(CHUNK).expect("held");
            assert_eq!(
                (entry.state, entry.crc32),
                (ChunkState::Sealed, crc32(&content))
            );
            let mut reader = Peer::dial(cluster.address(n));
            reader.read(CHUNK, 0, 4 * MIB as u32);
            assert_eq!(
                reader.read_data(),
                (content.clone(), vec![]),
                "{mode:?} member {n}"
            );
        }
    }
}

#[test]
fn a_connection_carries_one_stream_after_the_other_and_so_does_the_next_hops() {
    for mode in modes() {
        let cluster = Cluster::start(mode, 2);
        let mut peer = Peer::dial(cluster.address(0));
        for n in 0..4_u64 {
            peer.request_id = 10 + n;
            let content = bytes(n as usize * 100_000);
            let level = [Level::Memory, Level::Disk][n as usize % 2];
            write(&mut peer, &cluster, ChunkHandle(n + 1), &content, level);
            peer.read(ChunkHandle(n + 1), 0, MIB as u32);
            assert_eq!(peer.read_data(), (content, vec![]), "{mode:?}");
        }
        let second = &cluster.servers[1].chunkserver.counters;
        assert_eq!(second.connections.value(), 1, "kept for the next stream");
        assert_eq!(second.chunks_sealed.value(), 4);
    }
}

#[test]
fn a_chunk_that_comes_with_its_opening_is_stored_like_any_other() {
    for mode in modes() {
        let cluster = Cluster::start(mode, 3);
        let chain = cluster.chain();
        let mut peer = Peer::dial(cluster.address(0));
        for (n, len) in [0, 1, 4096, 65_536, 65_537, 200_000]
            .into_iter()
            .enumerate()
        {
            peer.request_id = 10 + n as u64;
            let handle = ChunkHandle(n as u64 + 1);
            let content = bytes(len);
            let mut serial = 0;
            peer.at_once(|peer| {
                peer.open(handle, &chain);
                serial = send_all(peer, handle, &content, 30_000);
                peer.seal(handle, &content, Level::Disk);
            });
            peer.expect::<WriteOpened>();
            expect_acks(&mut peer, serial, 3);
            let sealed: WriteSealed = peer.expect();
            assert_eq!(
                (sealed.length as usize, sealed.crc32, sealed.members.len()),
                (len, crc32(&content), 3),
                "{mode:?}"
            );
            for at in 0..3 {
                let mut reader = Peer::dial(cluster.address(at));
                reader.read(handle, 0, MIB as u32);
                assert_eq!(reader.read_data(), (content.clone(), vec![]), "{mode:?}");
            }
        }
        for server in &cluster.servers {
            let counters = &server.chunkserver.counters;
            assert_eq!(counters.chunks_sealed.value(), 6, "{mode:?}");
            assert_eq!(counters.bytes_in.value(), 335_170, "{mode:?}");
        }
    }
}

#[test]
fn a_damaged_chunk_that_comes_with_its_opening_is_sealed_nowhere() {
    for mode in modes() {
        let cluster = Cluster::start(mode, 3);
        let chain = cluster.chain();
        let content = bytes(4096);
        let mut damaged = content.clone();
        damaged[5] ^= 1;
        let good = crate::peer::crcs_of(0, &content);
        let mut peer = Peer::dial(cluster.address(0));
        peer.at_once(|peer| {
            peer.open(CHUNK, &chain);
            peer.data_with(CHUNK, 1, 0, &damaged, |data| {
                data.crcs = sarsen_protocol::message::Crcs::new(&good).expect("few");
            });
            peer.seal(CHUNK, &content, Level::Disk);
        });
        let (_, status, blamed) = peer.expect_failure();
        assert_eq!((status, blamed), (Status::DamagedInTransit, 1), "{mode:?}");
        peer.end_sending();
        peer.expect_closed();
        for server in &cluster.servers {
            let entry = server.directory.entry(CHUNK);
            let state = entry.map(|entry| entry.state);
            assert_ne!(state, Some(ChunkState::Sealed), "{mode:?}");
        }
        let mut peer = Peer::dial(cluster.address(0));
        write(&mut peer, &cluster, ChunkHandle(9), &content, Level::Disk);
    }
}

#[test]
fn many_streams_share_few_buffers() {
    for mode in modes() {
        let cluster = Cluster::start(mode, 3);
        let content = bytes(2 * MIB + 1);
        std::thread::scope(|scope| {
            for n in 1..=16 {
                let (cluster, content) = (&cluster, &content);
                scope.spawn(move || {
                    let mut peer = Peer::dial(cluster.address(0));
                    write(&mut peer, cluster, ChunkHandle(n), content, Level::Memory);
                });
            }
        });
        for server in &cluster.servers {
            assert_eq!(
                server.chunkserver.counters.chunks_sealed.value(),
                16,
                "{mode:?}"
            );
        }
    }
}

#[test]
fn a_stream_without_the_right_ticket_is_not_taken() {
    for mode in modes() {
        let cluster = Cluster::start(mode, 1);
        let chain = cluster.chain();
        for (ticket, expected) in [
            (ticket(Rights::READ, CHUNK, &chain), Status::TicketInvalid),
            (
                ticket(Rights::WRITE, ChunkHandle(1), &chain),
                Status::TicketInvalid,
            ),
            (ticket(Rights::WRITE, CHUNK, &[]), Status::TicketInvalid),
            (
                ticket_until(Rights::WRITE, CHUNK, &chain, 1),
                Status::TicketExpired,
            ),
        ] {
            let mut peer = Peer::dial(cluster.address(0));
            peer.open_with(ticket, CHUNK, &chain);
            assert_eq!(
                peer.expect_failure(),
                (Kind::WriteOpened, expected, 1),
                "{mode:?}"
            );
            peer.end_sending();
            peer.expect_closed();
        }
        assert!(cluster.servers[0].directory.entry(CHUNK).is_none());
    }
}

#[test]
fn a_chunk_that_is_there_is_not_made_again() {
    for mode in modes() {
        let cluster = Cluster::start(mode, 1);
        let mut peer = Peer::dial(cluster.address(0));
        write(&mut peer, &cluster, CHUNK, &bytes(10), Level::Memory);
        peer.open(CHUNK, &cluster.chain());
        assert_eq!(
            peer.expect_failure(),
            (Kind::WriteOpened, Status::ChunkExists, 1)
        );
    }
}

#[test]
fn a_damaged_piece_ends_the_stream_and_blames_who_found_it() {
    for mode in modes() {
        let cluster = Cluster::start(mode, 3);
        let content = bytes(MIB);
        let mut peer = Peer::dial(cluster.address(0));
        peer.open(CHUNK, &cluster.chain());
        peer.data(CHUNK, 1, 0, &content);
        peer.expect::<WriteOpened>();
        let mut damaged = content.clone();
        damaged[5 * 65_536] ^= 1;
        let good = crate::peer::crcs_of(MIB as u32, &content);
        peer.data_with(CHUNK, 2, MIB as u32, &damaged, |data| {
            data.crcs = sarsen_protocol::message::Crcs::new(&good).expect("few");
        });
        let failure = peer.expect_failure();
        assert_eq!(
            failure,
            (Kind::WriteAck, Status::DamagedInTransit, 1),
            "{mode:?}"
        );
        peer.end_sending();
        peer.expect_closed();
        let counters = &cluster.servers[0].chunkserver.counters;
        assert_eq!(counters.pieces_damaged.value(), 1);
        let entry = cluster.servers[0]
            .directory
            .entry(CHUNK)
            .expect("left behind");
        assert_eq!(
            entry.state,
            ChunkState::Pending,
            "garbage, until its deletion is ordered"
        );
    }
}

#[test]
fn a_member_that_dies_is_blamed_by_the_one_before_it() {
    for mode in modes() {
        let mut cluster = Cluster::start(mode, 3);
        let content = bytes(MIB);
        let chain = cluster.chain();
        let mut peer = Peer::dial(cluster.address(0));
        peer.open(CHUNK, &chain);
        peer.data(CHUNK, 1, 0, &content);
        peer.expect::<WriteOpened>();
        expect_acks(&mut peer, 1, 3);
        cluster.servers[2].kill();
        peer.data(CHUNK, 2, MIB as u32, &content);
        assert_eq!(
            peer.expect_failure(),
            (Kind::WriteAck, Status::ChainBroken, 3),
            "{mode:?}"
        );
        peer.end_sending();
        peer.expect_closed();

        // And one that is not there from the beginning.
        let mut peer = Peer::dial(cluster.address(0));
        peer.open(ChunkHandle(2), &chain);
        assert_eq!(
            peer.expect_failure(),
            (Kind::WriteOpened, Status::ChainBroken, 3)
        );
    }
}

/// The stream told the inventory of its seal. When a next hop failed first the stream was gone by
/// the time the chunk was sealed, and the master went on taking it for a pending one.
#[test]
fn the_inventory_hears_of_a_seal_whose_stream_has_failed() {
    for mode in modes() {
        let mut cluster = Cluster::start(mode, 1);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut chain = cluster.chain();
        chain.push(Hop {
            server: ServerId(2),
            data_addr: listener.local_addr().expect("bound").to_string(),
        });
        let mut peer = Peer::dial(cluster.address(0));
        peer.open(CHUNK, &chain);
        let mut next = Peer::accept(&listener, ServerId(2));
        next.request_id = next.recv().expect("an opening").header.request_id;
        next.send(&frame(&WriteOpened, next.request_id));
        peer.expect::<WriteOpened>();
        let content = bytes(8 * MIB);
        for (serial, part) in (1..).zip(content.chunks(MIB)) {
            peer.data(CHUNK, serial, (serial as u32 - 1) * MIB as u32, part);
            next.recv().expect("the data");
            let ack = WriteAck {
                serial: Serial(serial),
                commit_mark: Serial::NONE,
                level: Level::Memory,
                copies: 1,
            };
            next.send(&frame(&ack, next.request_id));
        }
        // Everything is written, so the seal begins before it is sent on.
        expect_acks(&mut peer, 8, 2);
        peer.seal(CHUNK, &content, Level::Disk);
        let seal = next.recv().expect("the seal");
        assert_eq!(seal.header.kind, Kind::WriteSeal);
        let failure = ErrorBody {
            server: ServerId(2),
            ..ErrorBody::new("the disk is gone")
        };
        let id = next.request_id;
        next.send(&error_frame(
            Kind::WriteSealed,
            id,
            Status::Poisoned,
            &failure,
        ));
        let (_, status, blamed) = peer.expect_failure();
        assert_eq!((status, blamed), (Status::Poisoned, 2), "{mode:?}");

        // The seal goes on alone; the notice of it comes when it is done.
        let server = &mut cluster.servers[0];
        let changed = Notice::Changed {
            directory: server.directory.identity().directory_id,
            handle: CHUNK,
        };
        assert_eq!(server.notice(), changed, "{mode:?}: made");
        assert_eq!(server.notice(), changed, "{mode:?}: sealed");
        let entry = server.directory.entry(CHUNK).expect("still there");
        assert_eq!(entry.state, ChunkState::Sealed);
    }
}

#[test]
fn a_seal_has_to_match_what_was_written() {
    for mode in modes() {
        let cluster = Cluster::start(mode, 2);
        let content = bytes(100_000);
        for (n, change) in [
            (|seal: &mut WriteSeal| seal.crc32 ^= 1) as fn(&mut WriteSeal),
            |seal| seal.length -= 1,
        ]
        .into_iter()
        .enumerate()
        {
            let handle = ChunkHandle(n as u64 + 1);
            let mut peer = Peer::dial(cluster.address(0));
            peer.open(handle, &cluster.chain());
            peer.data(handle, 1, 0, &content);
            peer.expect::<WriteOpened>();
            expect_acks(&mut peer, 1, 2);
            let mut seal = WriteSeal {
                handle,
                version: VERSION,
                length: 100_000,
                crc32: crc32(&content),
                level: Level::Disk,
            };
            change(&mut seal);
            peer.send(&frame(&seal, peer.request_id));
            let (_, status, server) = peer.expect_failure();
            assert_eq!(status, Status::SealMismatch, "{mode:?} case {n}");
            assert!([1, 2].contains(&server));
            let entry = cluster.servers[0]
                .directory
                .entry(handle)
                .expect("left behind");
            assert_eq!(entry.state, ChunkState::Pending);
        }
    }
}

#[test]
fn data_that_does_not_follow_is_out_of_order() {
    for mode in modes() {
        let cluster = Cluster::start(mode, 2);
        for (n, (serial, offset)) in [(2, 0), (1, 65_536), (0, 0)].into_iter().enumerate() {
            let handle = ChunkHandle(n as u64 + 1);
            let mut peer = Peer::dial(cluster.address(0));
            peer.open(handle, &cluster.chain());
            peer.expect::<WriteOpened>();
            peer.data(handle, serial, offset, b"bytes");
            let failure = peer.expect_failure();
            assert_eq!(
                failure,
                (Kind::WriteAck, Status::OutOfOrder, 1),
                "{mode:?} case {n}"
            );
        }
    }
}

#[test]
fn data_beyond_the_clusters_chunk_size_is_refused() {
    for mode in modes() {
        let cluster = Cluster::start(mode, 1);
        let mut peer = Peer::dial(cluster.address(0));
        peer.open(CHUNK, &cluster.chain());
        let content = bytes(MIB);
        for n in 0..9_u32 {
            peer.data(CHUNK, u64::from(n) + 1, n * MIB as u32, &content);
        }
        let failure = peer.expect_failure();
        assert_eq!(
            failure,
            (Kind::WriteAck, Status::InvalidArgument, 1),
            "{mode:?}"
        );
    }
}

#[test]
fn a_sender_that_goes_away_leaves_a_pending_chunk_and_a_working_server() {
    for mode in modes() {
        let mut cluster = Cluster::start(mode, 2);
        let mut peer = Peer::dial(cluster.address(0));
        peer.open(CHUNK, &cluster.chain());
        peer.data(CHUNK, 1, 0, &bytes(1000));
        peer.expect::<WriteOpened>();
        drop(peer);
        let mut peer = Peer::dial(cluster.address(0));
        write(
            &mut peer,
            &cluster,
            ChunkHandle(2),
            &bytes(1000),
            Level::Disk,
        );
        for server in &mut cluster.servers {
            let entry = server.directory.entry(CHUNK).expect("left behind");
            assert_eq!(entry.state, ChunkState::Pending);
            let directory = server.directory.identity().directory_id;
            let told = server.notices.try_recv().expect("told to the inventory");
            assert_eq!(
                told,
                Notice::Changed {
                    directory,
                    handle: CHUNK
                }
            );
        }
    }
}
