//! What passes on the streams of an open chunk (`spec/messages.md` section 14.4).

use sarsen_protocol::id::{RequestId, Serial, SessionId};
use sarsen_protocol::message::{
    AnyMessage, Append, AppendItem, AppendResult, Appended, BatchRow, Level, Mark, Marked,
    MutationKind, Part, WriteBatch,
};

use super::{CRC, HANDLE, REQUEST, SERIAL, SESSION, Samples, VERSION, put};

const MIB: u32 = 1024 * 1024;

pub(super) fn add(samples: &mut Samples) {
    append(samples);
    appended(samples);
    marks(samples);
    write_batch(samples);
}

const fn item(number: u64, length: u32) -> AppendItem {
    AppendItem { number, length }
}

fn append(samples: &mut Samples) {
    let append = |level, part, items: Vec<AppendItem>, crcs: Vec<u32>| Append {
        handle: HANDLE,
        version: VERSION,
        session: SESSION,
        lowest_outstanding: 0x27,
        level,
        part,
        items,
        crcs,
    };
    put(
        samples,
        "Append",
        append(
            Level::Disk,
            None,
            vec![item(0x27, 100), item(0x29, 65_537), item(0x2a, 65_536)],
            vec![CRC, 0xb5b6_b7b8, 0xb9ba_bbbc, 0xbdbe_bfc0],
        ),
    );
    let last_part = Part {
        offset: MIB,
        whole_length: MIB + 1,
    };
    put(
        samples,
        "Append: the last byte of a record of 1 MiB and one byte",
        append(
            Level::Memory,
            Some(last_part),
            vec![item(0x29, 1)],
            vec![CRC],
        ),
    );
    let first_part = Part {
        offset: 0,
        whole_length: 16 * MIB,
    };
    put(
        samples,
        "Append: the first part of the longest record",
        append(
            Level::Memory,
            Some(first_part),
            vec![item(0x29, MIB)],
            (CRC..).take(16).collect(),
        ),
    );
    let lengths = [1, 2, 3].into_iter().cycle();
    put(
        samples,
        "Append: 240 records",
        append(
            Level::Disk,
            None,
            (0x27..)
                .zip(lengths.take(240))
                .map(|(number, length)| item(number, length))
                .collect(),
            (CRC..).take(240).collect(),
        ),
    );
}

fn appended(samples: &mut Samples) {
    let done = AppendResult {
        number: 0x29,
        status: 0,
        level: Level::Disk,
        copies: 3,
        offset: 0x2_0001,
        length: 100,
        serial: SERIAL,
    };
    let refused = AppendResult {
        number: 0x27,
        status: 63,
        level: Level::Memory,
        copies: 0,
        offset: 0,
        length: 0,
        serial: Serial::NONE,
    };
    for (name, results) in [
        ("Appended", vec![done, refused]),
        ("Appended: none", vec![]),
    ] {
        put(
            samples,
            name,
            Appended {
                version: VERSION,
                results,
            },
        );
    }
}

fn marks(samples: &mut Samples) {
    put(
        samples,
        "Mark",
        Mark {
            handle: HANDLE,
            version: VERSION,
            commit_mark: SERIAL,
            number: 0x29,
        },
    );
    put(
        samples,
        "Mark: without an answer",
        Mark {
            handle: HANDLE,
            version: VERSION,
            commit_mark: Serial::NONE,
            number: 0,
        },
    );
    put(
        samples,
        "Marked",
        Marked {
            handle: HANDLE,
            version: VERSION,
            number: 0x29,
        },
    );
}

fn write_batch(samples: &mut Samples) {
    let write = BatchRow {
        request: REQUEST,
        kind: MutationKind::Write,
        offset: 0x1_ffff,
        length: 2,
    };
    let append = BatchRow {
        request: RequestId {
            session: SessionId(0x42),
            number: 1,
            lowest_outstanding: 1,
        },
        kind: MutationKind::Append,
        offset: 0x4_0000,
        length: 65_536,
    };
    let batch = WriteBatch {
        handle: HANDLE,
        version: VERSION,
        first_serial: SERIAL,
        commit_mark: Serial(0xabb),
        part: None,
        level: Level::Disk,
        rows: vec![write, append],
        crcs: vec![CRC, 0xb5b6_b7b8, 0xb9ba_bbbc],
    };
    put(samples, "WriteBatch", AnyMessage::WriteBatch(batch.clone()));
    put(
        samples,
        "WriteBatch: the last serial there is",
        AnyMessage::WriteBatch(WriteBatch {
            first_serial: Serial(u64::MAX - 1),
            ..batch.clone()
        }),
    );
    put(
        samples,
        "WriteBatch: the last part of a record",
        AnyMessage::WriteBatch(WriteBatch {
            part: Some(Part {
                offset: MIB,
                whole_length: MIB + 65_537,
            }),
            level: Level::Memory,
            rows: vec![BatchRow {
                offset: 0x1_0001,
                length: 65_537,
                ..append
            }],
            crcs: vec![CRC, 0xb5b6_b7b8],
            ..batch.clone()
        }),
    );
    let over_an_edge = (0..160).map(|block| BatchRow {
        offset: 65_535 + 65_536 * block,
        ..write
    });
    put(
        samples,
        "WriteBatch: 160 mutations",
        AnyMessage::WriteBatch(WriteBatch {
            rows: over_an_edge.collect(),
            crcs: (CRC..).take(320).collect(),
            ..batch
        }),
    );
}
