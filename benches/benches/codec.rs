//! The messages that are sent most, to bytes and back; and frames out of a stream of bytes.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use sarsen_protocol::deframe::{Deframer, frame};
use sarsen_protocol::header::Header;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, FileId, Serial, ServerId, SessionId};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{
    ChunkState, Crcs, Kind, Level, LocateReply, LocatedChunk, Message, Node, NodeType, Plane,
    ReadData, Replica, Stat, StatReply, WriteAck, WriteData,
};
use sarsen_protocol::size::{BLOCK_LEN, CHUNK_LEN_MAX, PAYLOAD_LEN_MAX};
use sarsen_protocol::status::Status;
use sarsen_protocol::ticket::{Claims, Rights, Ticket};

const HANDLE: ChunkHandle = ChunkHandle(0x1112_1314_1516_1718);
const VERSION: ChunkVersion = ChunkVersion(0x2122_2324_2526_2728);

fn main() {
    let mut criterion = Criterion::default()
        .without_plots()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    messages(&mut criterion);
    deframer(&mut criterion);
    criterion.final_summary();
}

fn messages(criterion: &mut Criterion) {
    both_ways(criterion, "WriteData", &write_data());
    let ack = WriteAck {
        serial: Serial(9),
        commit_mark: Serial(8),
        level: Level::Memory,
        copies: 3,
    };
    both_ways(criterion, "WriteAck", &ack);
    both_ways(criterion, "ReadData", &read_data());
    let path = "/a/folder/and/a/file".to_owned();
    both_ways(criterion, "Stat", &Stat { path });
    both_ways(criterion, "StatReply", &StatReply { node: NODE });
    let chunks = (0..16).map(located).collect();
    let reply = LocateReply {
        node: NODE,
        chunk_size: CHUNK_LEN_MAX,
        slots: 16,
        suspect_after: 3000,
        lease: 60_000,
        chunks,
    };
    both_ways(criterion, "LocateReply of 16 chunks", &reply);
}

fn both_ways<M: Message>(criterion: &mut Criterion, name: &str, message: &M) {
    let bytes = frame(message, 7);
    let mut group = criterion.benchmark_group("codec");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function(BenchmarkId::new("encode", name), |bencher| {
        bencher.iter(|| frame(black_box(message), 7));
    });
    let plane = match M::KIND {
        Kind::WriteData | Kind::WriteAck | Kind::ReadData => Plane::Data,
        _ => Plane::Control,
    };
    group.bench_function(BenchmarkId::new("decode", name), |bencher| {
        bencher.iter(|| {
            let (head, body) = black_box(&bytes).split_first_chunk().expect("a header");
            let header = Header::decode(head, plane, true).expect("well-formed");
            header.check_body(body).expect("well-formed");
            M::from_body(body).expect("well-formed")
        });
    });
    group.finish();
}

/// Frames with and without a payload, in pieces as they come from a connection.
fn deframer(criterion: &mut Criterion) {
    let body = write_data().to_body();
    let header = Header::new(Kind::WriteData, Status::Ok, 7, &body, PAYLOAD_LEN_MAX);
    let payload = vec![0xa5; PAYLOAD_LEN_MAX as usize];
    let with_payload = [&header.encode()[..], &body, &payload].concat();
    let path = "/a/folder/and/a/file".to_owned();
    let small = frame(&Stat { path }, 7);
    let mut group = criterion.benchmark_group("deframer");
    for (name, plane, bytes, frames) in [
        ("64 small frames", Plane::Control, small.repeat(64), 64),
        ("a frame of a mebibyte", Plane::Data, with_payload, 1),
    ] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut deframer = Deframer::new(plane);
                deframer.hello_is_done();
                let mut found = 0;
                for piece in black_box(&bytes).chunks(64 * 1024) {
                    deframer.buffer().extend_from_slice(piece);
                    while let Some(frame) = deframer.next_frame().expect("well-formed") {
                        black_box(frame);
                        found += 1;
                    }
                }
                assert_eq!(found, frames);
            });
        });
    }
    group.finish();
}

const NODE: Node = Node {
    file_id: FileId(3),
    node_type: NodeType::File,
    size: 1 << 30,
    mtime: 0x019a_1112_1314,
    replicas: 3,
    chunks: 16,
    sealed: true,
    crc32: 0xb1b2_b3b4,
};

fn crcs() -> Crcs {
    Crcs::new(&[0x0101_0101; (PAYLOAD_LEN_MAX / BLOCK_LEN) as usize]).expect("one a block")
}

fn write_data() -> WriteData {
    WriteData {
        handle: HANDLE,
        version: VERSION,
        serial: Serial(9),
        commit_mark: Serial::NONE,
        request: None,
        offset: PAYLOAD_LEN_MAX,
        level: Level::Memory,
        crcs: crcs(),
    }
}

fn read_data() -> ReadData {
    ReadData {
        handle: HANDLE,
        version: VERSION,
        serial: Serial(9),
        chunk_length: CHUNK_LEN_MAX,
        offset: PAYLOAD_LEN_MAX,
        state: ChunkState::Sealed,
        last: false,
        crcs: crcs(),
    }
}

fn located(index: u32) -> LocatedChunk {
    let claims = Claims {
        rights: Rights::READ,
        key_id: 1,
        handle: HANDLE,
        version: VERSION,
        expiry: 0x019a_0b0c_0d0e,
        file_id: FileId(3),
        session: SessionId(4),
        epoch: 5,
        chain_crc: 0,
    };
    let replica = |number| Replica {
        server: ServerId(number),
        control_addr: "127.0.0.1:7410".to_owned(),
        data_addr: "127.0.0.1:7411".to_owned(),
    };
    LocatedChunk {
        index,
        handle: HANDLE,
        version: VERSION,
        length: CHUNK_LEN_MAX,
        crc32: 0xb1b2_b3b4,
        state: ChunkState::Sealed,
        primary: ServerId(0),
        ticket: Ticket::sign(claims, &SecretKey::new([7; 32])),
        replicas: (1..=3).map(replica).collect(),
    }
}
