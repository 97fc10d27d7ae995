//! The values of every accepted message vector, built by hand.
//!
//! No two fields of a message have the same value where that can be, so that two fields in the
//! wrong order are found out.

mod chunkservers;
mod connection;
mod mutation_questions;
mod mutation_streams;
mod mutations;
mod names;
mod questions;
mod streams;
mod uploads;
mod version_change;

use std::collections::BTreeMap;

use sarsen_protocol::id::{
    ChunkHandle, ChunkVersion, ClusterId, DirectoryId, Epoch, FileId, RequestId, Serial, ServerId,
    SessionId,
};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{AnyMessage, Disk, DiskState, Hop, Node, NodeType};
use sarsen_protocol::ticket::{Claims, Rights, Ticket, chain_crc};

/// Values by the name of their vector.
pub(crate) type Samples = BTreeMap<&'static str, AnyMessage>;

/// A value for every accepted vector of `messages.toml` and of the bodies in `hello.toml`.
pub(crate) fn all() -> Samples {
    let mut samples = Samples::new();
    connection::add(&mut samples);
    names::add(&mut samples);
    uploads::add(&mut samples);
    questions::add(&mut samples);
    chunkservers::add(&mut samples);
    streams::add(&mut samples);
    version_change::add(&mut samples);
    mutations::add(&mut samples);
    mutation_questions::add(&mut samples);
    mutation_streams::add(&mut samples);
    samples
}

fn put(samples: &mut Samples, name: &'static str, message: impl Into<AnyMessage>) {
    let before = samples.insert(name, message.into());
    assert!(before.is_none(), "{name} stands twice");
}

const HANDLE: ChunkHandle = ChunkHandle(0x1112_1314_1516_1718);
const VERSION: ChunkVersion = ChunkVersion(0x2122_2324_2526_2728);
const SERIAL: Serial = Serial(0xabc);
const FILE_ID: FileId = FileId(0x3132_3334_3536_3738);
const SESSION: SessionId = SessionId(0x7172_7374_7576_7778);
const SERVER: ServerId = ServerId(0x61);
const CRC: u32 = 0xb1b2_b3b4;
const LENGTH: u32 = 0x0304_0506;
const INDEX: u32 = 0x0102_0304;
const CHUNK_SIZE: u32 = 64 * 1024 * 1024;

const REQUEST: RequestId = RequestId {
    session: SESSION,
    number: 0x29,
    lowest_outstanding: 0x27,
};

const EPOCH: Epoch = Epoch {
    number: 0x1d,
    incarnation: 0xc1c2_c3c4_c5c6_c7c8,
};

const FILE: Node = Node {
    file_id: FileId(0x8182_8384_8586_8788),
    node_type: NodeType::File,
    size: 0x9192_9394_9596_9798,
    mtime: 0x019a_1112_1314,
    replicas: 3,
    chunks: 0xa1a2_a3a4,
    sealed: true,
    crc32: CRC,
};

const ROOT: Node = Node {
    file_id: FileId(1),
    node_type: NodeType::Folder,
    size: 0,
    mtime: 0x019a_2122_2324,
    replicas: 0,
    chunks: 0,
    sealed: false,
    crc32: 0,
};

const CONTROL_ADDR: &str = "10.0.0.1:7002";
const DATA_ADDR: &str = "10.0.0.1:7003";
const HTTP_ADDR: &str = "host.example:7004";
const OTHER_DATA_ADDR: &str = "[fd00::2]:7003";

/// `N` bytes that count up from `first`.
fn counting<const N: usize>(first: u8) -> [u8; N] {
    let mut next = first;
    [(); N].map(|()| {
        let byte = next;
        next = next.wrapping_add(1);
        byte
    })
}

fn directory() -> DirectoryId {
    DirectoryId(counting(0xd0))
}

fn other_directory() -> DirectoryId {
    DirectoryId(counting(0xe0))
}

fn cluster(first: u8) -> ClusterId {
    ClusterId(counting(first))
}

fn disk() -> Disk {
    Disk {
        directory_id: directory(),
        path: "/srv/größe 1".into(),
        total: 0x1000_0000_0001,
        free: 0x0800_0000_0002,
        chunks: 0x3003,
        state: DiskState::Full,
    }
}

fn other_disk() -> Disk {
    Disk {
        directory_id: other_directory(),
        path: "/srv/two".into(),
        total: 0x2000_0000_0004,
        free: 5,
        chunks: 0,
        state: DiskState::Failed,
    }
}

fn chain() -> Vec<Hop> {
    vec![
        Hop {
            server: SERVER,
            data_addr: DATA_ADDR.into(),
        },
        Hop {
            server: ServerId(0x62),
            data_addr: OTHER_DATA_ADDR.into(),
        },
    ]
}

fn ticket(rights: Rights, chain_crc: u32) -> Ticket {
    let claims = Claims {
        rights,
        key_id: 0x0b0c_0d0e,
        handle: HANDLE,
        version: VERSION,
        expiry: 0x019a_0b0c_0d0e,
        file_id: FILE_ID,
        session: SessionId(0x4142_4344_4546_4748),
        epoch: 0x5152_5354_5556_5758,
        chain_crc,
    };
    Ticket::sign(claims, &SecretKey::new(counting(0x40)))
}

fn read_ticket() -> Ticket {
    ticket(Rights::READ, 0)
}

fn write_ticket() -> Ticket {
    ticket(Rights::WRITE, chain_crc(&chain()))
}

fn copy_ticket() -> Ticket {
    ticket(Rights::COPY, 0)
}
