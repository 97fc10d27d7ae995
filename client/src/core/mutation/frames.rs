//! What goes over a mutation stream: the messages of `spec/wire.md` section 12.3 from a client's
//! side, and records as they are appended (`spec/records.md` section 1).
//!
//! Bytes stay with whoever sends them; here are the heads that go in front.

use std::ops::Range;

use sarsen_protocol::crc::crc32;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, FileId, RequestId, Serial, SessionId};
use sarsen_protocol::message::{
    Append, AppendItem, ChunkOpened, Level, Part, WriteData, WriteOpen,
};
use sarsen_protocol::record::{RECORD_HEADER_LEN, Record};
use sarsen_protocol::size::{BLOCK_LEN, PAYLOAD_LEN_MAX};

use crate::core::pieces::crcs_of;

/// The first frame of a stream to the primary of a chunk.
#[must_use]
pub fn write_open(file_id: FileId, opened: &ChunkOpened, level: Level) -> WriteOpen {
    WriteOpen {
        ticket: opened.ticket,
        handle: opened.handle,
        version: opened.version,
        file_id,
        index: opened.index,
        room: 0,
        begin_serial: opened.begin_serial,
        lock_token: 0,
        level,
        position: 0,
        chain: opened.chain.clone(),
    }
}

/// What every frame of a stream names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    /// The chunk.
    pub handle: ChunkHandle,
    /// The version that the stream was opened in.
    pub version: ChunkVersion,
    /// How safe what it carries is to be.
    pub level: Level,
}

impl Names {
    /// A mutation at an offset in the chunk; `None` if it is longer than a payload.
    #[must_use]
    pub fn write(
        &self,
        request: RequestId,
        serial: Serial,
        offset: u32,
        bytes: &[u8],
    ) -> Option<WriteData> {
        Some(WriteData {
            handle: self.handle,
            version: self.version,
            serial,
            commit_mark: Serial::NONE,
            request: Some(request),
            offset,
            level: self.level,
            crcs: crcs_of(offset, bytes)?,
        })
    }

    /// Records, by number, that fit one payload together.
    #[must_use]
    pub fn append<'a>(
        &self,
        session: SessionId,
        lowest_outstanding: u64,
        records: impl Iterator<Item = (u64, &'a [u8])> + Clone,
    ) -> Append {
        let items = records.clone().map(|(number, bytes)| item(number, bytes));
        let pieces = records.flat_map(|(_, bytes)| crcs(bytes));
        Append {
            handle: self.handle,
            version: self.version,
            session,
            lowest_outstanding,
            level: self.level,
            part: None,
            items: items.collect(),
            crcs: pieces.collect(),
        }
    }

    /// One part of a record that is longer than a payload.
    #[must_use]
    pub fn append_part(&self, request: RequestId, part: Part, bytes: &[u8]) -> Append {
        let records = std::iter::once((request.number, bytes));
        Append {
            part: Some(part),
            ..self.append(request.session, request.lowest_outstanding, records)
        }
    }
}

/// A record as it is sent: its header, and the payload behind it.
#[must_use]
pub fn record(id: RequestId, payload: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(RECORD_HEADER_LEN + payload.len());
    whole.resize(RECORD_HEADER_LEN, 0);
    whole.extend_from_slice(payload);
    put_header(id, &mut whole);
    whole
}

/// Fills in the header of a record, which is in front of its payload.
pub fn put_header(id: RequestId, record: &mut [u8]) {
    let Some((room, payload)) = record.split_at_mut_checked(RECORD_HEADER_LEN) else {
        return;
    };
    let record = Record {
        session: id.session,
        number: id.number,
        payload,
    };
    // Its length was compared before it was handed over, so there is a header.
    room.copy_from_slice(&record.header().unwrap_or([0; RECORD_HEADER_LEN]));
}

/// A record of `len` bytes, a payload at a time: where each part lies in it. One that fits a payload
/// goes whole.
pub fn parts(len: usize) -> impl Iterator<Item = (Part, Range<usize>)> {
    let payload = PAYLOAD_LEN_MAX as usize;
    // A record is at most a quarter of a chunk.
    let whole_length = u32::try_from(len).unwrap_or(u32::MAX);
    (0..len).step_by(payload).map(move |start| {
        let part = Part {
            offset: u32::try_from(start).unwrap_or(u32::MAX),
            whole_length,
        };
        (part, start..len.min(start + payload))
    })
}

fn item(number: u64, bytes: &[u8]) -> AppendItem {
    // No longer than a payload.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    AppendItem { number, length }
}

/// CRCs of an item, cut from its own start.
fn crcs(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks(BLOCK_LEN as usize).map(crc32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sarsen_protocol::message::Message as _;
    use sarsen_protocol::record::RECORD_LEN_MAX;

    /// Every part is one that a primary takes, and together they are the record.
    #[test]
    fn a_long_record_goes_in_parts() {
        let payload = PAYLOAD_LEN_MAX as usize;
        let names = Names {
            handle: ChunkHandle(1),
            version: ChunkVersion(1),
            level: Level::Disk,
        };
        let request = RequestId {
            session: SessionId(1),
            number: 1,
            lowest_outstanding: 1,
        };
        for (len, count) in [
            (payload + 1, 2),
            (2 * payload, 2),
            (2 * payload + 70_000, 3),
            (RECORD_LEN_MAX, 16),
        ] {
            let bytes = vec![7; len];
            let mut reached = 0;
            assert_eq!(parts(len).count(), count);
            for (part, range) in parts(len) {
                assert_eq!(part.offset as usize, reached);
                reached = range.end;
                let message = names.append_part(request, part, &bytes[range]);
                assert_eq!(Append::from_body(&message.to_body()), Ok(message));
            }
            assert_eq!(reached, len);
        }
    }
}
