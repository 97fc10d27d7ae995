//! Questions about a chunk's mutations (`spec/messages.md` section 14.4).

use sarsen_protocol::id::SessionId;
use sarsen_protocol::message::{
    ChunkIds, ChunkIdsReply, FindRequests, FoundKind, FoundRequest, Newest, NewestReply,
    RequestsFound,
};

use super::{
    CHUNK_SIZE, CRC, HANDLE, LENGTH, SERIAL, SESSION, Samples, VERSION, copy_ticket, counting, put,
    read_ticket,
};

pub(super) fn add(samples: &mut Samples) {
    newest(samples);
    find_requests(samples);
    chunk_ids(samples);
}

fn newest(samples: &mut Samples) {
    put(
        samples,
        "Newest",
        Newest {
            ticket: read_ticket(),
            handle: HANDLE,
            version: VERSION,
        },
    );
    put(
        samples,
        "NewestReply",
        NewestReply {
            version: VERSION,
            serial: SERIAL,
            length: LENGTH,
        },
    );
}

fn find_requests(samples: &mut Samples) {
    let find = |session, numbers: &[u64]| FindRequests {
        ticket: read_ticket(),
        handle: HANDLE,
        version: VERSION,
        session,
        numbers: numbers.to_vec(),
    };
    put(samples, "FindRequests", find(SESSION, &[0x27, 0x29]));
    put(samples, "FindRequests: none", find(SessionId(0x42), &[]));
    let found = |number, kind, offset, length| FoundRequest {
        number,
        kind,
        offset,
        length,
    };
    put(
        samples,
        "RequestsFound",
        RequestsFound {
            found: vec![
                found(0x27, FoundKind::Write, LENGTH - 3, 3),
                found(0x29, FoundKind::Append, CHUNK_SIZE - 1, 1),
                found(0x2a, FoundKind::Floor, 0, 0),
            ],
        },
    );
    put(
        samples,
        "RequestsFound: none",
        RequestsFound { found: vec![] },
    );
}

fn chunk_ids(samples: &mut Samples) {
    put(
        samples,
        "ChunkIds",
        ChunkIds {
            ticket: copy_ticket(),
            handle: HANDLE,
            version: VERSION,
        },
    );
    put(
        samples,
        "ChunkIdsReply",
        ChunkIdsReply {
            table_length: 1 << 24,
            table_crc32: CRC,
            first_row: 0x7_fffe,
            rows: vec![counting(0x40), counting(0xa0)],
        },
    );
    put(
        samples,
        "ChunkIdsReply: rows in the middle",
        ChunkIdsReply {
            table_length: 3 * 32,
            table_crc32: CRC,
            first_row: 1,
            rows: vec![counting(0x40)],
        },
    );
    put(
        samples,
        "ChunkIdsReply: an empty table",
        ChunkIdsReply {
            table_length: 0,
            table_crc32: 0,
            first_row: 0,
            rows: vec![],
        },
    );
}
