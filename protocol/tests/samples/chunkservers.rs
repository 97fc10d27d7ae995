//! Between chunkservers and the master, and questions to a chunkserver (`spec/messages.md`
//! sections 9 to 11).

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Epoch, ServerId, StartNonce, StartNumber};
use sarsen_protocol::message::{
    ChunkCopied, ChunkCrcs, ChunkCrcsReply, ChunkDeleted, ChunkState, ChunkStatus,
    ChunkStatusReply, ChunkVerified, CopyChunk, CorruptChunk, DeleteChunk, DirectoryReport,
    DiskBeat, Heartbeat, HeartbeatReply, Heat, HeldChunk, HeldFlags, Inventory, InventoryTaken,
    Register, Registered, TicketKey, Verdict, VerifyChunk,
};
use sarsen_protocol::status::Status;

use super::{
    CHUNK_SIZE, CONTROL_ADDR, CRC, DATA_ADDR, EPOCH, FILE_ID, HANDLE, HTTP_ADDR, INDEX, LENGTH,
    SERIAL, SERVER, Samples, VERSION, chain, copy_ticket, counting, directory, disk,
    other_directory, put, read_ticket,
};

pub(super) fn add(samples: &mut Samples) {
    register(samples);
    heartbeat(samples);
    inventory(samples);
    orders(samples);
    questions(samples);
}

fn register(samples: &mut Samples) {
    put(
        samples,
        "Register",
        Register {
            server_id: SERVER,
            control_addr: CONTROL_ADDR.into(),
            data_addr: DATA_ADDR.into(),
            http_addr: HTTP_ADDR.into(),
            rack: "r 1".into(),
            epoch: EPOCH,
            directories: vec![DirectoryReport {
                directory_id: directory(),
                start_number: StartNumber(0x1c),
                start_nonce: StartNonce(0xf1f2_f3f4_f5f6_f7f8),
                disk: disk(),
                highest_handle: HANDLE,
                highest_version: VERSION,
                registered_number: StartNumber(0x1a),
                registered_nonce: StartNonce(0xe1e2_e3e4_e5e6_e7e8),
                offered: vec![StartNonce(0x5152), StartNonce(0xf1f2_f3f4_f5f6_f7f8)],
            }],
        },
    );
    put(
        samples,
        "Register: the least there can be",
        Register {
            server_id: ServerId::NONE,
            control_addr: String::new(),
            data_addr: String::new(),
            http_addr: String::new(),
            rack: String::new(),
            epoch: Epoch::NONE,
            directories: vec![],
        },
    );
    put(
        samples,
        "Registered",
        Registered {
            server_id: SERVER,
            epoch: EPOCH,
            chunk_size: CHUNK_SIZE,
            heartbeat: 1001,
            suspect_after: 5002,
            dead_after: 30_003,
            lease: 60_004,
            ticket_keys: vec![TicketKey {
                key_id: 0x0b0c_0d0e,
                key: counting(0x40),
            }],
            directories: vec![
                Verdict {
                    directory_id: directory(),
                    status: Status::Ok.number(),
                },
                Verdict {
                    directory_id: other_directory(),
                    status: Status::StaleStart.number(),
                },
            ],
            repair_streams: 0x0102_0304,
        },
    );
}

fn heartbeat(samples: &mut Samples) {
    put(
        samples,
        "Heartbeat",
        Heartbeat {
            server_id: SERVER,
            sequence: 0x11,
            disks: vec![DiskBeat {
                disk: disk(),
                beat_age: 0x0102_0304,
            }],
            corrupt: vec![CorruptChunk {
                handle: HANDLE,
                version: VERSION,
                directory_id: other_directory(),
            }],
            heat: vec![
                Heat {
                    handle: ChunkHandle(0x12),
                    reads: 0x0506_0708,
                },
                Heat {
                    handle: ChunkHandle(0x13),
                    reads: 1,
                },
            ],
            load: 0x090a_0b0c,
        },
    );
    put(
        samples,
        "Heartbeat: with nothing to tell",
        Heartbeat {
            server_id: SERVER,
            sequence: 1,
            disks: vec![],
            corrupt: vec![],
            heat: vec![],
            load: 0,
        },
    );
    put(samples, "HeartbeatReply", HeartbeatReply { epoch: EPOCH });
}

fn inventory(samples: &mut Samples) {
    let sealed = HeldChunk {
        handle: HANDLE,
        version: VERSION,
        serial: SERIAL,
        length: LENGTH,
        crc32: CRC,
        state: ChunkState::Sealed,
        flags: HeldFlags::UNSYNCED
            .with(HeldFlags::CORRUPT)
            .with(HeldFlags::READ_BACK),
        file_id: FILE_ID,
        index: INDEX,
    };
    let pending = HeldChunk {
        handle: ChunkHandle(0x12),
        state: ChunkState::Pending,
        flags: HeldFlags::POISONED,
        ..sealed
    };
    put(
        samples,
        "Inventory",
        Inventory {
            directory_id: directory(),
            sequence: 0x11,
            full: true,
            first: false,
            last: true,
            held: vec![sealed, pending],
            gone: vec![],
        },
    );
    put(
        samples,
        "Inventory: a change",
        Inventory {
            directory_id: directory(),
            sequence: 0x12,
            full: false,
            first: true,
            last: false,
            held: vec![],
            gone: vec![HANDLE, ChunkHandle(0x12)],
        },
    );
    put(
        samples,
        "Inventory: a prepared seal",
        Inventory {
            directory_id: directory(),
            sequence: 0x11,
            full: true,
            first: false,
            last: true,
            held: vec![HeldChunk {
                state: ChunkState::Open,
                flags: HeldFlags::PREPARED,
                ..sealed
            }],
            gone: vec![],
        },
    );
    put(samples, "InventoryTaken", InventoryTaken { resend: true });
}

fn orders(samples: &mut Samples) {
    put(
        samples,
        "DeleteChunk",
        DeleteChunk {
            epoch: EPOCH,
            handle: HANDLE,
            version: VERSION,
        },
    );
    put(samples, "ChunkDeleted", ChunkDeleted);
    put(
        samples,
        "VerifyChunk",
        VerifyChunk {
            epoch: EPOCH,
            handle: HANDLE,
            version: VERSION,
        },
    );
    put(
        samples,
        "ChunkVerified",
        ChunkVerified {
            good: true,
            length: LENGTH,
            crc32: CRC,
        },
    );
    put(
        samples,
        "CopyChunk",
        CopyChunk {
            epoch: EPOCH,
            handle: HANDLE,
            version: VERSION,
            void_up_to: ChunkVersion(VERSION.0 + 1),
            file_id: FILE_ID,
            index: INDEX,
            length: LENGTH,
            crc32: CRC,
            ticket: copy_ticket(),
            sources: chain(),
        },
    );
    put(
        samples,
        "ChunkCopied",
        ChunkCopied {
            directory_id: directory(),
            length: LENGTH,
            crc32: CRC,
            suspects: vec![SERVER, ServerId(0x62)],
        },
    );
    put(
        samples,
        "ChunkCopied: from the first source",
        ChunkCopied {
            directory_id: other_directory(),
            length: 0,
            crc32: 0,
            suspects: vec![],
        },
    );
}

fn questions(samples: &mut Samples) {
    put(
        samples,
        "ChunkStatus",
        ChunkStatus {
            ticket: read_ticket(),
            handle: HANDLE,
        },
    );
    put(
        samples,
        "ChunkStatusReply",
        ChunkStatusReply {
            version: VERSION,
            serial: SERIAL,
            length: LENGTH,
            crc32: CRC,
            state: ChunkState::Sealed,
        },
    );
    put(
        samples,
        "ChunkCrcs",
        ChunkCrcs {
            ticket: read_ticket(),
            handle: HANDLE,
            version: VERSION,
            first_block: 0x3ff,
            count: 1024,
        },
    );
    put(
        samples,
        "ChunkCrcsReply",
        ChunkCrcsReply {
            length: LENGTH,
            crcs: vec![CRC, 0xb5b6_b7b8],
        },
    );
}
