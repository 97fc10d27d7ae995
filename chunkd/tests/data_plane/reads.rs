//! Read streams (`spec/wire.md` section 12.2).

use std::os::unix::fs::FileExt as _;
use std::time::Instant;

use rustix::fs::Advice;
use sarsen_chunkd::io::Mode;
use sarsen_chunkd::net::Notice;
use sarsen_chunkd::net::health::HANG_MAX;
use sarsen_chunkd::store::{ReadFrom, data_position};
use sarsen_protocol::crc::{combine, crc32};
use sarsen_protocol::deframe::frame;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Serial};
use sarsen_protocol::message::{
    CutData, Kind, Level, Read, ReadCut, Want, WriteOpened, WriteSealed,
};
use sarsen_protocol::status::Status;
use sarsen_protocol::ticket::{Rights, Ticket};

use crate::cluster::{Cluster, VERSION, modes, ticket, ticket_until};
use crate::peer::{Peer, bytes};

const MIB: u32 = 1024 * 1024;
const CHUNK: ChunkHandle = ChunkHandle(0xcd02);

/// Of statfs(2): what is on tmpfs stays in memory.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// One server with one sealed chunk.
fn with_chunk(mode: Mode, content: &[u8]) -> (Cluster, Peer) {
    let cluster = Cluster::start(mode, 1);
    let mut peer = Peer::dial(cluster.address(0));
    peer.open(CHUNK, &cluster.chain());
    for (n, part) in content.chunks(MIB as usize).enumerate() {
        peer.data(CHUNK, n as u64 + 1, n as u32 * MIB, part);
    }
    peer.seal(CHUNK, content, Level::Disk);
    while peer.recv().expect("an answer").header.kind != Kind::WriteSealed {}
    (cluster, peer)
}

#[test]
fn ranges_come_in_whole_blocks_as_far_as_the_chunk_goes() {
    for mode in modes() {
        let content = bytes(3 * MIB as usize + 777);
        let (cluster, mut peer) = with_chunk(mode, &content);
        let len = content.len();
        for (offset, length, expected) in [
            (0, 1, 0..65_536),
            (65_536, 65_536, 65_536..131_072),
            (2 * MIB, 64 * 1_000_000 - 2 * MIB, 2 * MIB as usize..len),
            (3 * MIB, 1, 3 * MIB as usize..len),
            (3 * MIB + 65_536, 9, 0..0),
            // Beyond the block behind the last too: that once closed the connection.
            (3 * MIB + 131_072, 9, 0..0),
            (63 * MIB, MIB, 0..0),
        ] {
            peer.read(CHUNK, offset, length);
            let (found, bad) = peer.read_data();
            assert!(found == content[expected], "{mode:?} {offset} {length}");
            assert!(bad.is_empty());
        }
        let heat = cluster.servers[0].chunkserver.take_heat(10);
        assert_eq!((heat[0].handle, heat[0].reads), (CHUNK, 7));
    }
}

#[test]
fn reads_sent_ahead_are_answered_in_order_also_past_a_refusal() {
    for mode in modes() {
        let content = bytes(MIB as usize);
        let (_cluster, mut peer) = with_chunk(mode, &content);
        for n in 0..15_u32 {
            peer.request_id = u64::from(n) + 100;
            let handle = if n == 7 { ChunkHandle(1) } else { CHUNK };
            peer.read(handle, n * 65_536, 65_536);
        }
        for n in 0..15_usize {
            peer.request_id = n as u64 + 100;
            if n == 7 {
                assert_eq!(
                    peer.expect_failure(),
                    (Kind::ReadData, Status::ChunkUnknown, 1)
                );
            } else {
                let expected = content[n * 65_536..(n + 1) * 65_536].to_vec();
                assert_eq!(peer.read_data(), (expected, vec![]), "{mode:?} {n}");
            }
        }
    }
}

/// The frame that asks for a cut.
fn cut((handle, rights): (ChunkHandle, Rights), request_id: u64, offset: u32, len: u32) -> Vec<u8> {
    let asked = ReadCut {
        ticket: ticket(rights, handle, &[]),
        handle,
        version: VERSION,
        serial: Serial::NONE,
        want: Want::Sealed,
        offset,
        length: len,
    };
    frame(&asked, request_id)
}

/// Asks for a cut, and verifies what comes as a reader does; `None` if it does not match.
fn read_cut(peer: &mut Peer, offset: u32, length: u32) -> Option<Vec<u8>> {
    peer.send(&cut((CHUNK, Rights::READ), peer.request_id, offset, length));
    take_cut(peer, offset)
}

/// Takes a cut that was asked for, as [`read_cut`] does.
fn take_cut(peer: &mut Peer, offset: u32) -> Option<Vec<u8>> {
    let frame = peer.recv().expect("an answer");
    assert_eq!(frame.header.request_id, peer.request_id);
    let data: CutData = frame.message().expect("a cut");
    let len = frame.header.payload_len;
    data.check_payload(len).expect("as the spec has it");
    assert_eq!(data.offset, offset);
    let block_end = (offset / 65_536 * 65_536 + 65_536).min(data.chunk_length);
    let behind_len = block_end.saturating_sub(offset + len);
    let with_payload = combine(data.before, crc32(&frame.payload), len.into());
    let whole = combine(with_payload, data.behind, behind_len.into());
    (whole == data.block_crc).then(|| frame.payload.to_vec())
}

#[test]
fn a_cut_brings_the_bytes_asked_for_and_what_verifies_them() {
    for mode in modes() {
        let content = bytes(MIB as usize + 9_777);
        let (cluster, mut peer) = with_chunk(mode, &content);
        let end = content.len() as u32;
        // Twice: the first read of a block computes what later ones are answered with.
        for _ in 0..2 {
            for (offset, length) in [
                (0, 1),
                (0, 65_536),
                (4096, 4096),
                (65_536 + 4095, 4098),
                (131_071, 1),
                (3 * 65_536 + 7, 40_000),
                (MIB + 8191, 1000),
                (end - 1, 1),
                (MIB, 65_536),
                (end, 9),
                (MIB + 65_536, 9),
            ] {
                let from = offset.min(end) as usize;
                let expected = &content[from..(offset + length).min(end).max(from as u32) as usize];
                let found = read_cut(&mut peer, offset, length);
                assert_eq!(
                    found.as_deref(),
                    Some(expected),
                    "{mode:?} {offset} {length}"
                );
            }
        }
        let sent = cluster.servers[0].chunkserver.counters.bytes_out.value();
        assert_eq!(
            sent,
            2 * (1 + 65_536 + 4096 + 4098 + 1 + 40_000 + 1000 + 1 + 9_777)
        );
    }
}

/// They are answered together as far as they can be: what waits for the disk, what is refused, and
/// another kind of read among them change neither the order nor each other.
#[test]
fn cuts_sent_ahead_are_answered_in_order_whatever_is_among_them() {
    for mode in modes() {
        let content = bytes(MIB as usize);
        let (cluster, mut peer) = with_chunk(mode, &content);
        assert!(read_cut(&mut peer, 0, 1).is_some());
        let directory = cluster.servers[0].chunkserver.directory_of(CHUNK).unwrap();
        let chunk = directory.find_readable(CHUNK).unwrap();
        let file = chunk.file().unwrap();
        for length in [1, 4096, 40_000] {
            // Out of the page cache, where there is a disk below, and some of it in again.
            rustix::fs::fadvise(file, 0, None, Advice::DontNeed).unwrap();
            let mut asked = Vec::new();
            for n in 0..16_u32 {
                let (id, offset) = (u64::from(n) + 100, n * 65_536 + 10 * n);
                if n % 3 == 0 {
                    let mut some = vec![0; length as usize];
                    file.read_exact_at(&mut some, data_position(offset))
                        .unwrap();
                }
                asked.extend(match n {
                    5 => cut((ChunkHandle(1), Rights::READ), id, offset, length),
                    9 => cut((CHUNK, Rights::WRITE), id, offset, length),
                    12 => frame(&read_of(n * 65_536, 1), id),
                    _ => cut((CHUNK, Rights::READ), id, offset, length),
                });
            }
            let waits = (0..16).any(|n| !chunk.is_cached(n * 65_536, 65_536));
            assert!(waits || rustix::fs::fstatfs(file).unwrap().f_type == TMPFS_MAGIC);
            peer.send(&asked);
            for n in 0..16_u32 {
                peer.request_id = u64::from(n) + 100;
                let offset = n * 65_536 + 10 * n;
                let from = offset as usize;
                let refused = |status| Some((status, u64::from(n) + 100));
                match n {
                    5 => assert_eq!(take_refusal(&mut peer), refused(Status::ChunkUnknown)),
                    9 => assert_eq!(take_refusal(&mut peer), refused(Status::TicketInvalid)),
                    12 => assert!(peer.read_data().0 == content[12 * 65_536..13 * 65_536]),
                    _ => {
                        let found = take_cut(&mut peer, offset).expect("verified");
                        let expected = &content[from..from + length as usize];
                        assert!(found == expected, "{mode:?} {n}");
                    }
                }
            }
        }
    }
}

fn take_refusal(peer: &mut Peer) -> Option<(Status, u64)> {
    let header = peer.recv()?.header;
    (!header.status.is_ok()).then_some((header.status, header.request_id))
}

/// What is kept of a block must not vouch for bytes that have changed since.
#[test]
fn a_cut_of_a_block_that_rots_does_not_verify() {
    for mode in modes() {
        let content = bytes(3 * 65_536);
        let (cluster, mut peer) = with_chunk(mode, &content);
        assert!(read_cut(&mut peer, 65_536, 4096).is_some());
        let directory = cluster.servers[0].chunkserver.directory_of(CHUNK).unwrap();
        let chunk = directory.find_readable(CHUNK).unwrap();
        let file = chunk.file().unwrap();
        for at in [65_536 + 5000, 2 * 65_536 + 5000] {
            file.write_all_at(&[!content[at as usize]], data_position(at))
                .unwrap();
            assert_eq!(
                read_cut(&mut peer, at - 100, 1000),
                None,
                "{mode:?} in the payload"
            );
            assert_eq!(
                read_cut(&mut peer, at + 1, 1000),
                None,
                "{mode:?} beside it"
            );
        }
        // Once computed, far from the rot, the rest of the block is as good as it was.
        let good = read_cut(&mut peer, 65_536, 4096);
        assert_eq!(good.as_deref(), Some(&content[65_536..65_536 + 4096]));
    }
}

/// What was in memory was sent from a disk that was known to hang: what had left it by then had the data
/// plane's thread wait for that disk, and all its connections with it.
#[test]
fn nothing_is_sent_from_a_disk_that_hangs() {
    for mode in modes() {
        let content = bytes(3 * 65_536);
        let (cluster, mut peer) = with_chunk(mode, &content);
        peer.send(&frame(&read_of(0, 65_536), 7));
        assert!(peer.recv().expect("an answer").header.status.is_ok());
        let server = &cluster.servers[0];
        let id = server.directory.identity().directory_id;
        let Some(long_ago) = Instant::now().checked_sub(HANG_MAX) else {
            return eprintln!("not tested: the machine has only just started");
        };
        server.chunkserver.health(id).unwrap().written(long_ago);
        peer.send(&frame(&read_of(0, 65_536), 8));
        let refused = take_refusal(&mut peer);
        assert_eq!(refused, Some((Status::MediumFailed, 8)), "{mode:?}");
        peer.send(&cut((CHUNK, Rights::READ), 9, 100, 50));
        let refused = take_refusal(&mut peer);
        assert_eq!(refused, Some((Status::MediumFailed, 9)), "{mode:?}");
    }
}

fn read_of(offset: u32, length: u32) -> Read {
    let good = ticket(Rights::READ, CHUNK, &[]);
    Read {
        offset,
        length,
        ..read(good, VERSION.0, Want::Sealed)
    }
}

fn read(ticket: Ticket, version: u64, want: Want) -> Read {
    Read {
        ticket,
        handle: CHUNK,
        version: ChunkVersion(version),
        serial: Serial::NONE,
        want,
        offset: 0,
        length: 1,
    }
}

#[test]
fn a_read_without_the_right_ticket_or_version_is_refused_and_the_connection_goes_on() {
    for mode in modes() {
        let content = bytes(100);
        let (cluster, mut peer) = with_chunk(mode, &content);
        let good = ticket(Rights::READ, CHUNK, &[]);
        for (asked, expected) in [
            (
                read(ticket(Rights::WRITE, CHUNK, &[]), VERSION.0, Want::Sealed),
                Status::TicketInvalid,
            ),
            (
                read(
                    ticket(Rights::READ, ChunkHandle(1), &[]),
                    VERSION.0,
                    Want::Sealed,
                ),
                Status::TicketInvalid,
            ),
            (
                read(
                    ticket_until(Rights::READ, CHUNK, &[], 1),
                    VERSION.0,
                    Want::Sealed,
                ),
                Status::TicketExpired,
            ),
            (read(good, VERSION.0 - 1, Want::Sealed), Status::Moved),
            (read(good, VERSION.0 + 1, Want::Plain), Status::Behind),
        ] {
            peer.send(&frame(&asked, peer.request_id));
            assert_eq!(
                peer.expect_failure(),
                (Kind::ReadData, expected, 1),
                "{mode:?}"
            );
        }
        peer.read(CHUNK, 0, 1);
        assert_eq!(peer.read_data(), (content, vec![]));
        assert_eq!(
            cluster.servers[0]
                .chunkserver
                .counters
                .read_failures
                .value(),
            5
        );
    }
}

#[test]
fn a_pending_chunk_is_not_read() {
    for mode in modes() {
        let cluster = Cluster::start(mode, 1);
        let mut writer = Peer::dial(cluster.address(0));
        writer.open(CHUNK, &cluster.chain());
        writer.expect::<WriteOpened>();
        let mut reader = Peer::dial(cluster.address(0));
        reader.read(CHUNK, 0, 1);
        assert_eq!(
            reader.expect_failure(),
            (Kind::ReadData, Status::ChunkUnknown, 1)
        );
        writer.seal(CHUNK, &[], Level::Memory);
        writer.expect::<WriteSealed>();
        reader.read(CHUNK, 0, 1);
        assert_eq!(
            reader.read_data(),
            (vec![], vec![]),
            "{mode:?} sealed, and empty"
        );
    }
}

#[test]
fn a_flipped_bit_reaches_the_reader_as_a_mismatch_and_is_found_by_reading_back() {
    for mode in modes() {
        let content = bytes(MIB as usize);
        let (cluster, mut peer) = with_chunk(mode, &content);
        let server = &cluster.servers[0];
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(server.path_of(CHUNK))
            .expect("there");
        let at = 3 * 65_536 + 17;
        let position = data_position(at);
        file.write_all_at(&[content[at as usize] ^ 4], position)
            .expect("flips");
        peer.read(CHUNK, 0, MIB);
        let (found, bad) = peer.read_data();
        assert_eq!(bad, [3 * 65_536], "{mode:?}");
        assert_ne!(found, content);
        let back = server
            .directory
            .verify(CHUNK, ReadFrom::Medium, 1)
            .expect("reads");
        assert_eq!(back.bad_blocks, [3]);
        peer.read(CHUNK, 0, MIB);
        assert_eq!(peer.expect_failure(), (Kind::ReadData, Status::Corrupt, 1));
    }
}

/// The medium fails in the middle of a read: here because the file was cut off behind the
/// server's back, which the kernel answers on the way out as it does a bad sector.
#[test]
fn a_failing_medium_costs_the_read_and_not_the_connection() {
    for mode in modes() {
        let content = bytes(3 * MIB as usize);
        let (mut cluster, mut peer) = with_chunk(mode, &content);
        let server = &mut cluster.servers[0];
        peer.read(CHUNK, 0, 1);
        peer.read_data();
        while server.notices.try_recv().is_ok() {}
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(server.path_of(CHUNK))
            .expect("there");
        file.set_len(data_position(MIB + 65_536)).expect("cut");
        peer.read(CHUNK, 0, 3 * MIB);
        assert_eq!(
            peer.expect_failure(),
            (Kind::ReadData, Status::MediumFailed, 1),
            "{mode:?}"
        );
        let doubtful = Notice::Doubtful {
            directory: server.directory.identity().directory_id,
            handle: CHUNK,
            version: VERSION,
        };
        assert_eq!(server.notices.try_recv(), Ok(doubtful));
        // What there still is can still be read, on the same connection.
        peer.read(CHUNK, 0, MIB);
        assert_eq!(peer.read_data(), (content[..MIB as usize].to_vec(), vec![]));
    }
}
