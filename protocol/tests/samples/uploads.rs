//! Uploads (`spec/messages.md` section 6).

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, RequestId, ServerId};
use sarsen_protocol::message::{
    AbortPending, AllocateChunks, Allocation, ChunksAllocated, CreatePending, Level,
    PendingAborted, PendingCreated, Publish, Published, SealedChunk,
};

use super::{
    CHUNK_SIZE, CRC, FILE, FILE_ID, HANDLE, INDEX, REQUEST, SERVER, SESSION, Samples, VERSION,
    chain, put, write_ticket,
};

pub(super) fn add(samples: &mut Samples) {
    pending(samples);
    allocation(samples);
    publication(samples);
}

fn pending(samples: &mut Samples) {
    put(
        samples,
        "CreatePending",
        CreatePending {
            request: REQUEST,
            path: "/a/b".into(),
            replicas: 16,
            level: Level::Memory,
            force: true,
            parents: false,
            count: 256,
        },
    );
    put(
        samples,
        "CreatePending: the cluster's default, and a session's first request",
        CreatePending {
            request: RequestId {
                session: SESSION,
                number: 1,
                lowest_outstanding: 1,
            },
            path: "/a/b".into(),
            replicas: 0,
            level: Level::Disk,
            force: false,
            parents: true,
            count: 0,
        },
    );
    put(
        samples,
        "PendingCreated",
        PendingCreated {
            file_id: FILE_ID,
            chunk_size: 1024 * 1024,
            replicas: 2,
            chunks: vec![allocated()],
        },
    );
    put(
        samples,
        "PendingCreated: no chunks",
        PendingCreated {
            file_id: FILE_ID,
            chunk_size: 1024 * 1024,
            replicas: 2,
            chunks: vec![],
        },
    );
    put(
        samples,
        "AbortPending",
        AbortPending {
            request: REQUEST,
            file_id: FILE_ID,
        },
    );
    put(samples, "PendingAborted", PendingAborted);
}

fn allocation(samples: &mut Samples) {
    put(
        samples,
        "AllocateChunks",
        AllocateChunks {
            session: SESSION,
            file_id: FILE_ID,
            first_index: INDEX,
            count: 256,
            fewest: 2,
            exclude: vec![ServerId(0x63), ServerId(0x64)],
        },
    );
    put(
        samples,
        "AllocateChunks: one, nobody excluded",
        AllocateChunks {
            session: SESSION,
            file_id: FILE_ID,
            first_index: 0,
            count: 1,
            fewest: 0,
            exclude: vec![],
        },
    );
    put(
        samples,
        "ChunksAllocated",
        ChunksAllocated {
            chunks: vec![allocated()],
        },
    );
    put(
        samples,
        "ChunksAllocated: none",
        ChunksAllocated { chunks: vec![] },
    );
}

fn allocated() -> Allocation {
    Allocation {
        index: INDEX,
        handle: HANDLE,
        version: VERSION,
        ticket: write_ticket(),
        chain: chain(),
    }
}

fn publication(samples: &mut Samples) {
    put(
        samples,
        "Publish",
        Publish {
            request: REQUEST,
            file_id: FILE_ID,
            path: "/a/b".into(),
            force: true,
            purge: false,
            parents: true,
            size: 0x0400_0007,
            chunks: vec![
                SealedChunk {
                    index: 0,
                    handle: ChunkHandle(0x11),
                    version: ChunkVersion(0x21),
                    length: CHUNK_SIZE,
                    crc32: CRC,
                    servers: vec![SERVER, ServerId(0x62)],
                },
                SealedChunk {
                    index: 1,
                    handle: ChunkHandle(0x12),
                    version: ChunkVersion(0x22),
                    length: 7,
                    crc32: 0xb5b6_b7b8,
                    servers: vec![ServerId(0x63)],
                },
            ],
        },
    );
    put(
        samples,
        "Publish: an empty file",
        Publish {
            request: REQUEST,
            file_id: FILE_ID,
            path: "/empty".into(),
            force: false,
            purge: true,
            parents: false,
            size: 0,
            chunks: vec![],
        },
    );
    put(samples, "Published", Published { node: FILE });
}
