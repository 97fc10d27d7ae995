//! Writing and reading (`spec/messages.md` sections 12 and 13).

use sarsen_protocol::id::{Serial, ServerId};
use sarsen_protocol::message::{
    ChunkState, Crcs, CutData, Hop, Level, MemberLevel, Read, ReadCut, ReadData, Want, WriteAck,
    WriteData, WriteOpen, WriteOpened, WriteSeal, WriteSealed,
};
use sarsen_protocol::size::BLOCK_LEN;

use super::{
    CHUNK_SIZE, CRC, FILE_ID, HANDLE, INDEX, LENGTH, REQUEST, SERIAL, SERVER, Samples, VERSION,
    chain, copy_ticket, put, read_ticket, write_ticket,
};

pub(super) fn add(samples: &mut Samples) {
    write_open(samples);
    write_data(samples);
    write_seal(samples);
    read(samples);
    read_data(samples);
    cut(samples);
}

/// The CRCs of `count` pieces: 0x01010101, 0x02020202, …
fn crcs(count: u32) -> Crcs {
    let crcs: Vec<u32> = (1..=count).map(|piece| 0x0101_0101 * piece).collect();
    Crcs::new(&crcs).unwrap()
}

fn write_open(samples: &mut Samples) {
    let open = WriteOpen {
        ticket: write_ticket(),
        handle: HANDLE,
        version: VERSION,
        file_id: FILE_ID,
        index: INDEX,
        room: CHUNK_SIZE,
        begin_serial: SERIAL,
        lock_token: 0xdef,
        level: Level::Disk,
        position: 1,
        chain: chain(),
    };
    let last_of_sixteen = WriteOpen {
        room: 0,
        begin_serial: Serial::NONE,
        lock_token: 0,
        level: Level::Memory,
        position: 15,
        chain: (0..16)
            .map(|place| Hop {
                server: ServerId(0x60 + place),
                data_addr: format!("s{place}:1"),
            })
            .collect(),
        ..open.clone()
    };
    put(samples, "WriteOpen", open);
    put(samples, "WriteOpen: the last of sixteen", last_of_sixteen);
    put(samples, "WriteOpened", WriteOpened);
}

fn write_data(samples: &mut Samples) {
    put(
        samples,
        "WriteData",
        WriteData {
            handle: HANDLE,
            version: VERSION,
            serial: SERIAL,
            commit_mark: Serial(0xabb),
            request: Some(REQUEST),
            offset: 0x2_0001,
            level: Level::Disk,
            crcs: crcs(17),
        },
    );
    let last_block = WriteData {
        handle: HANDLE,
        version: VERSION,
        serial: Serial(1),
        commit_mark: Serial::NONE,
        request: None,
        offset: CHUNK_SIZE - BLOCK_LEN,
        level: Level::Memory,
        crcs: crcs(1),
    };
    let around_an_edge = WriteData {
        offset: BLOCK_LEN - 1,
        crcs: crcs(2),
        ..last_block
    };
    put(
        samples,
        "WriteData: the last block of a pending chunk",
        last_block,
    );
    put(
        samples,
        "WriteData: two bytes around a block edge",
        around_an_edge,
    );
    put(
        samples,
        "WriteAck",
        WriteAck {
            serial: SERIAL,
            commit_mark: Serial(0xabb),
            level: Level::Disk,
            copies: 3,
        },
    );
}

fn write_seal(samples: &mut Samples) {
    put(
        samples,
        "WriteSeal",
        WriteSeal {
            handle: HANDLE,
            version: VERSION,
            length: CHUNK_SIZE,
            crc32: CRC,
            level: Level::Memory,
        },
    );
    put(
        samples,
        "WriteSealed",
        WriteSealed {
            length: LENGTH,
            crc32: CRC,
            members: vec![
                MemberLevel {
                    server: SERVER,
                    level: Level::Disk,
                },
                MemberLevel {
                    server: ServerId(0x62),
                    level: Level::Memory,
                },
            ],
        },
    );
}

fn read(samples: &mut Samples) {
    let newest = Read {
        ticket: copy_ticket(),
        handle: HANDLE,
        version: VERSION,
        serial: SERIAL,
        want: Want::Newest,
        offset: 0x2_0000,
        length: LENGTH,
    };
    let whole_chunk = Read {
        ticket: read_ticket(),
        want: Want::Sealed,
        offset: 0,
        length: CHUNK_SIZE,
        ..newest
    };
    let last_block = Read {
        want: Want::Plain,
        offset: CHUNK_SIZE - BLOCK_LEN,
        length: BLOCK_LEN,
        ..whole_chunk
    };
    put(samples, "Read", newest);
    put(samples, "Read: a whole chunk", whole_chunk);
    put(samples, "Read: the last block", last_block);
}

fn read_data(samples: &mut Samples) {
    let middle = ReadData {
        handle: HANDLE,
        version: VERSION,
        serial: SERIAL,
        chunk_length: 0x12_3456,
        offset: 0x2_0000,
        state: ChunkState::Sealed,
        last: false,
        crcs: crcs(16),
    };
    let last = ReadData {
        state: ChunkState::Open,
        offset: 0x12_0000,
        last: true,
        crcs: crcs(1),
        ..middle
    };
    let beyond = ReadData {
        offset: 0x13_0000,
        last: true,
        crcs: crcs(0),
        ..middle
    };
    put(samples, "ReadData", middle);
    put(
        samples,
        "ReadData: the last, up to the chunk's length",
        last,
    );
    put(
        samples,
        "ReadData: nothing beyond the chunk's length",
        beyond,
    );
}

fn cut(samples: &mut Samples) {
    let inside = ReadCut {
        ticket: read_ticket(),
        handle: HANDLE,
        version: VERSION,
        serial: SERIAL,
        want: Want::Sealed,
        offset: 0x2_0107,
        length: 4096,
    };
    let last_byte = ReadCut {
        want: Want::Plain,
        offset: CHUNK_SIZE - 1,
        length: 1,
        ..inside
    };
    put(samples, "ReadCut", inside);
    put(
        samples,
        "ReadCut: the last byte of the largest chunk",
        last_byte,
    );
    let data = CutData {
        handle: HANDLE,
        version: VERSION,
        serial: SERIAL,
        chunk_length: 0x12_3456,
        offset: 0x2_0107,
        block_crc: 0x0101_0101,
        before: 0x0202_0202,
        behind: 0x0303_0303,
        state: ChunkState::Sealed,
    };
    let to_the_end = CutData {
        offset: 0x12_3000,
        behind: 0,
        state: ChunkState::Open,
        ..data
    };
    let beyond = CutData {
        offset: 0x12_3456,
        block_crc: 0,
        before: 0,
        behind: 0,
        ..data
    };
    put(samples, "CutData", data);
    put(samples, "CutData: up to the chunk's length", to_the_end);
    put(
        samples,
        "CutData: nothing beyond the chunk's length",
        beyond,
    );
}
