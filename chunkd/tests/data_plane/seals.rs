//! Chunks that mutations changed and that were sealed by order: what all members have then, and what
//! who copies one is told.

use std::os::unix::fs::FileExt;

use sarsen_chunkd::core::member::{self, Refusal};
use sarsen_chunkd::core::mutation::{Answer, Order};
use sarsen_chunkd::io::Mode;
use sarsen_chunkd::net::Notice;
use sarsen_chunkd::server::orders;
use sarsen_chunkd::store::data_position;
use sarsen_chunkd::store::open_chunk::Lookup;
use sarsen_protocol::crc::crc32;
use sarsen_protocol::deframe::frame;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Serial, SessionId};
use sarsen_protocol::id_row::{ID_ROW_LEN, decode_table, encode_table};
use sarsen_protocol::message::{
    ChainTrouble, ChunkIds, ChunkIdsReply, ChunkState, Kind, Level, PrepareSeal, PreparedSeal,
    Settle, Want, WriteAck,
};
use sarsen_protocol::status::Status;
use sarsen_protocol::ticket::Rights;

use crate::cluster::{Cluster, Server, modes, ticket_of};
use crate::mutations::{
    BEGIN, Client, EPOCH, FIRST, HANDLE, ask, begin, grant, hour, opened, promise, read_as,
    records, slices,
};
use crate::peer::{PATIENCE, Peer};

fn prepare(server: &Server, version: ChunkVersion, serial: Serial) -> PreparedSeal {
    let prepare = PrepareSeal {
        epoch: EPOCH,
        handle: HANDLE,
        version,
        serial,
        start_number: server.directory.identity().start_number,
        length: None,
        sessions_end: SessionId::NONE,
    };
    let order = Order::Change(member::Order::PrepareSeal(prepare));
    match ask(server, order).expect("prepared") {
        Answer::Change(member::Answer::Prepared(answer)) => answer.prepared,
        other => panic!("{other:?} to a preparation"),
    }
}

fn settle(server: &Server, prepared: &PreparedSeal, crc32: u32) -> Result<Answer, Refusal> {
    let settle = Settle {
        epoch: EPOCH,
        handle: HANDLE,
        version: prepared.version,
        length: prepared.length,
        crc32,
    };
    ask(server, Order::Change(member::Order::Settle(settle)))
}

/// Sealed by order, one member after a start: all have the same bytes and ids, and it is read as any
/// sealed chunk.
#[test]
fn members_seal_the_same_and_one_that_was_prepared_settles_after_a_start() {
    for mode in modes() {
        let (mut cluster, chain) = opened(mode, 3, PATIENCE);
        let mut client = Client::opened(&cluster, 7, FIRST, BEGIN, &chain);
        let records = records(6, 18);
        client.append(Level::Memory, &slices(&records));
        let results = client.results(18);
        let mut whole = records.concat();
        client.write(1, 19, 10, b"written over");
        let WriteAck { commit_mark, .. } = loop {
            let ack: WriteAck = client.expect();
            if ack.serial == Serial(1) {
                break ack;
            }
        };
        whole[10..22].copy_from_slice(b"written over");
        let next = ChunkVersion(5);
        for server in &cluster.servers {
            assert_eq!(promise(server, next).expect("promised").serial, commit_mark);
        }
        let seals = cluster
            .servers
            .iter()
            .map(|server| prepare(server, next, commit_mark));
        let seals: Vec<PreparedSeal> = seals.collect();
        assert!(seals.iter().all(|seal| *seal == seals[0]), "{seals:?}");
        assert_eq!(
            (seals[0].length as usize, seals[0].crc32),
            (whole.len(), crc32(&whole))
        );
        let last = cluster.servers.pop().expect("three");
        cluster.servers.push(last.restart(mode, PATIENCE));
        for (index, server) in cluster.servers.iter().enumerate() {
            let refused = settle(server, &seals[0], 1).expect_err("another CRC");
            assert_eq!(refused.0, Status::SealMismatch);
            for _ in 0..2 {
                let settled = settle(server, &seals[0], seals[0].crc32);
                assert_eq!(settled, Ok(Answer::Change(member::Answer::Settled)));
            }
            let held = server.directory.told(HANDLE).expect("held");
            assert_eq!((held.state, held.version), (ChunkState::Sealed, next));
            let ids = server.directory.sealed_ids(HANDLE).expect("read");
            for result in &results {
                let Lookup::Row(row) = ids.table.find(SessionId(7), result.number) else {
                    panic!("{result:?} is not in the table");
                };
                assert_eq!((row.offset, row.length), (result.offset, result.length));
            }
            let read = read_as(&cluster, index, (next, Serial::NONE), Want::Sealed);
            let (data, bytes) = read.expect("read");
            assert_eq!(
                (data.state, data.chunk_length),
                (ChunkState::Sealed, seals[0].length)
            );
            assert_eq!(bytes, whole, "member {index}");
            // Who reads on from the open chunk has to ask the master.
            let moved = read_as(&cluster, index, (FIRST, commit_mark), Want::Plain);
            assert_eq!(moved.err(), Some(Status::Moved));
        }
    }
}

/// The version that chunks are sealed in here.
const SEALED: ChunkVersion = ChunkVersion(5);

/// One server with a chunk of so many records, sealed.
fn with_records(mode: Mode, count: usize) -> Cluster {
    let (cluster, chain) = opened(mode, 1, PATIENCE);
    let mut client = Client::opened(&cluster, 7, FIRST, BEGIN, &chain);
    let short: Vec<Vec<u8>> = (0..count).map(|n| format!("record {n}").into()).collect();
    for some in short.chunks(200) {
        client.append(Level::Disk, &slices(some));
    }
    client.results(count);
    let server = &cluster.servers[0];
    let serial = promise(server, SEALED).expect("promised").serial;
    let seal = prepare(server, SEALED, serial);
    settle(server, &seal, seal.crc32).expect("settled");
    cluster
}

fn ids_request(rights: Rights, handle: ChunkHandle, version: ChunkVersion) -> ChunkIds {
    ChunkIds {
        ticket: ticket_of(rights, (handle, version), &[], hour()),
        handle,
        version,
    }
}

/// Who copies a chunk had to ask a control port for its ids, whose address no order to copy names: so
/// nobody asked.
#[test]
fn who_copies_a_chunk_gets_all_its_ids_over_the_connection_of_its_data() {
    for mode in modes() {
        let cluster = with_records(mode, 600);
        let ids = cluster.servers[0].directory.sealed_ids(HANDLE);
        let expected = encode_table(&ids.expect("read").table.rows());
        let mut peer = Peer::dial(cluster.address(0));
        // Two of them and a read, sent ahead.
        let asked = ids_request(Rights::COPY, HANDLE, SEALED);
        for request_id in [1, 2] {
            peer.send(&frame(&asked, request_id));
        }
        for request_id in [1, 2] {
            let (mut table, mut frames) = (Vec::new(), 0);
            loop {
                let frame = peer.recv().expect("a frame");
                assert_eq!(frame.header.request_id, request_id);
                let reply: ChunkIdsReply = frame.message().expect("rows");
                assert_eq!(reply.first_row as usize * ID_ROW_LEN, table.len());
                assert_eq!(
                    (reply.table_length as usize, reply.table_crc32),
                    (expected.len(), crc32(&expected))
                );
                table.extend_from_slice(reply.rows.as_flattened());
                frames += 1;
                if reply.is_last() {
                    break;
                }
            }
            assert_eq!((frames, table.len()), (3, 600 * ID_ROW_LEN), "{mode:?}");
            assert_eq!(table, expected);
            decode_table(&table, crc32(&expected)).expect("a good table");
        }
    }
}

#[test]
fn a_chunk_that_was_uploaded_has_a_table_without_rows() {
    for mode in modes() {
        let cluster = Cluster::start(mode, 1);
        let mut peer = Peer::dial(cluster.address(0));
        peer.open(HANDLE, &cluster.chain());
        peer.seal(HANDLE, &[], Level::Disk);
        while peer.recv().expect("an answer").header.kind != Kind::WriteSealed {}
        let version = crate::cluster::VERSION;
        peer.send(&frame(&ids_request(Rights::COPY, HANDLE, version), 9));
        let reply: ChunkIdsReply = peer.recv().expect("a frame").message().expect("none");
        assert!(reply.is_last() && reply.rows.is_empty());
    }
}

#[test]
fn ids_are_told_of_exactly_the_sealed_version_to_who_may_copy() {
    for mode in modes() {
        let cluster = with_records(mode, 3);
        let mut peer = Peer::dial(cluster.address(0));
        let other = ChunkHandle(HANDLE.0 + 1);
        for (asked, expected) in [
            (
                ids_request(Rights::READ, HANDLE, SEALED),
                Status::TicketInvalid,
            ),
            (ids_request(Rights::COPY, HANDLE, FIRST), Status::Moved),
            (
                ids_request(Rights::COPY, HANDLE, ChunkVersion(6)),
                Status::Moved,
            ),
            (
                ids_request(Rights::COPY, other, SEALED),
                Status::ChunkUnknown,
            ),
        ] {
            peer.send(&frame(&asked, peer.request_id));
            let refused = peer.expect_failure();
            assert_eq!(refused, (Kind::ChunkIdsReply, expected, 1), "{mode:?}");
        }
        // The connection goes on; and what is open is no source.
        let (cluster, _) = opened(mode, 1, PATIENCE);
        let mut peer = Peer::dial(cluster.address(0));
        peer.send(&frame(&ids_request(Rights::COPY, HANDLE, FIRST), 1));
        let refused = peer.expect_failure();
        assert_eq!(refused, (Kind::ChunkIdsReply, Status::ChunkOpen, 1));
    }
}

/// A medium that failed under a read of an open chunk was told to the reader, and to nobody else: the
/// next one met it again, and so did the seal.
#[test]
fn a_medium_that_fails_under_a_read_of_an_open_chunk_is_told_to_the_master() {
    for mode in modes() {
        let (mut cluster, chain) = opened(mode, 1, PATIENCE);
        let mut client = Client::opened(&cluster, 7, FIRST, BEGIN, &chain);
        client.append(Level::Disk, &[&[7; 200_000]]);
        client.results(1);
        let path = cluster.servers[0].path_of(HANDLE);
        let file = std::fs::OpenOptions::new().write(true).open(path);
        let file = file.expect("there");
        file.set_len(data_position(65_536)).expect("cut");
        for _ in 0..2 {
            let read = read_as(&cluster, 0, (FIRST, BEGIN), Want::Plain);
            assert_eq!(read.err(), Some(Status::MediumFailed), "{mode:?}");
        }
        let server = &mut cluster.servers[0];
        let told = loop {
            if let Notice::ChainTrouble(report) = server.notice() {
                break report;
            }
        };
        assert_eq!(
            (told.handle, told.version, told.what),
            (HANDLE, FIRST, ChainTrouble::Corrupt)
        );
    }
}

/// A chunk was opened and not mutated yet when a read back found its sealed bytes rotted: it was marked,
/// and its chain heard of it with the next mutation alone.
#[test]
fn what_is_found_of_a_chunk_that_was_just_opened_is_told_to_the_master() {
    let mode = Mode::Epoll;
    let mut cluster = with_records(mode, 3);
    let chain = cluster.chain();
    let server = &cluster.servers[0];
    let next = ChunkVersion(6);
    let serial = promise(server, next).expect("promised").serial;
    begin(server, next, serial).expect("begun");
    grant(server, next, serial, &chain, 0);
    let _client = Client::opened(&cluster, 7, next, serial, &chain);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(server.path_of(HANDLE));
    let rotten = file.expect("there").write_at(b"X", data_position(0));
    assert_eq!(rotten.expect("written"), 1);
    let (directory, found) = {
        let directory = &server.directory;
        let version = directory.told(HANDLE).expect("held").version;
        let found = orders::verify(&server.chunkserver, directory, HANDLE, version, 1);
        (directory, found.expect("read"))
    };
    assert!(!found.good && directory.told(HANDLE).expect("held").flags.corrupt);
    let told = loop {
        if let Notice::ChainTrouble(report) = cluster.servers[0].notice() {
            break report;
        }
    };
    assert_eq!((told.version, told.what), (next, ChainTrouble::Corrupt));
}
