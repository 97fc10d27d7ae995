//! What comes from the hop before, compared and put together (`spec/messages.md` section 14.4).
//!
//! A frame is compared with its CRCs **before** it goes on or is applied, so damage never comes
//! further than one hop. A record in parts is applied when it is whole; each part goes on as it comes.

use bytes::Bytes;
use sarsen_protocol::id::{ChunkVersion, Serial};
use sarsen_protocol::message::{BatchRow, Part, WriteBatch};
use sarsen_protocol::size::pieces_in;

use super::recut::{join_parts, matches_at};
use super::words::Mutations;

/// A frame that doesn't follow what came before; it ends its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutOfOrder;

/// A record that comes in parts.
#[derive(Debug)]
pub(super) struct Assembly {
    whole_length: u32,
    /// Up to where it is here.
    has: u32,
    so_far: Mutations,
}

/// Whether the bytes of every row match their CRCs.
pub(super) fn is_undamaged(batch: &WriteBatch, payload: &[u8]) -> bool {
    let part_offset = batch.part.map_or(0, |part| part.offset);
    let (mut bytes, mut crcs) = (payload, batch.crcs.as_slice());
    batch.rows.iter().all(|row| {
        let offset = row.offset.saturating_add(part_offset);
        let pieces = pieces_in(offset, row.length) as usize;
        let split = bytes.split_at_checked(row.length as usize);
        let (Some((own, behind)), Some((own_crcs, crcs_behind))) =
            (split, crcs.split_at_checked(pieces))
        else {
            return false;
        };
        (bytes, crcs) = (behind, crcs_behind);
        matches_at(own, own_crcs, offset)
    })
}

/// Takes the next frame of the stream: mutations that are whole by now, if there are any.
///
/// `after` is the last serial that is whole.
pub(super) fn take(
    assembly: &mut Option<Assembly>,
    after: Serial,
    batch: WriteBatch,
    payload: Bytes,
) -> Result<Option<Mutations>, OutOfOrder> {
    if after.0.checked_add(1) != Some(batch.first_serial.0) {
        return Err(OutOfOrder);
    }
    let version = batch.version;
    match (batch.part, batch.rows.first(), assembly.take()) {
        (None, Some(_), None) => Ok(Some(Mutations {
            version,
            first: batch.first_serial,
            rows: batch.rows,
            crcs: batch.crcs,
            payload: vec![payload],
        })),
        (Some(part), Some(row), before) => {
            let mut whole = match before {
                None if part.offset == 0 => {
                    Assembly::new(version, batch.first_serial, *row, part.whole_length)
                }
                Some(before) if before.is_followed_by(part, row) => before,
                _ => return Err(OutOfOrder),
            };
            whole.push(row, &batch.crcs, payload);
            if whole.has == whole.whole_length {
                return Ok(Some(whole.so_far));
            }
            *assembly = Some(whole);
            Ok(None)
        }
        _ => Err(OutOfOrder),
    }
}

impl Assembly {
    fn new(version: ChunkVersion, first: Serial, row: BatchRow, whole_length: u32) -> Self {
        Self {
            whole_length,
            has: 0,
            so_far: Mutations {
                version,
                first,
                rows: vec![BatchRow {
                    length: whole_length,
                    ..row
                }],
                crcs: Vec::new(),
                payload: Vec::new(),
            },
        }
    }

    /// The next part of the same record.
    fn is_followed_by(&self, part: Part, row: &BatchRow) -> bool {
        let whole = BatchRow {
            length: self.whole_length,
            ..*row
        };
        part.offset == self.has
            && part.whole_length == self.whole_length
            && self.so_far.rows.first() == Some(&whole)
    }

    fn push(&mut self, row: &BatchRow, crcs: &[u32], payload: Bytes) {
        let offset = row.offset.saturating_add(self.has);
        join_parts(&mut self.so_far.crcs, crcs, offset, row.length);
        self.so_far.payload.push(payload);
        self.has = self.has.saturating_add(row.length);
    }
}
