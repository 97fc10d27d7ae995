//! A primary's turn: what clients asked for gets its serials (`spec/replication.md` sections 6, 9,
//! 10 and 11.2, `spec/wire.md` section 12.3).
//!
//! Streams take turns by bytes: one that sends small records is not held up by one that sends large
//! ones. What several ask for goes into one batch. Nothing has a serial before its bytes were
//! compared with the client's CRCs, its id looked up, its room reserved, and the window had a place.

use std::collections::VecDeque;

use sarsen_protocol::id::{RequestId, Serial};
use sarsen_protocol::id_row::{ID_ROWS_MAX, IdRowKind};
use sarsen_protocol::message::{
    AppendItem, BatchRow, ChainTrouble, Level, MutationKind, Part, WriteBatch, WriteData,
};
use sarsen_protocol::size::BLOCK_LEN;
use sarsen_protocol::status::Status;

use super::super::member::Member;
use super::chain::{Chain, Next};
use super::client_stream::{AppendDone, Asked, ClientStream, LongRecord, WriteDone};
use super::flight::{Standing, What};
use super::primary::{Building, Phase, Primary, frame_of};
use super::recut::{join_parts, matches_at, recut, whole};
use super::words::{Action, Config, Frame, Ids, Mutations};

/// Bytes that a stream has ordered before it is the next one's turn.
pub(super) const TURN_BYTES: u64 = 64 << 10;

/// Room is made so far ahead of the chunk's end that orders seldom wait for it, and so little that a
/// small chunk takes little.
fn reserve_ahead(end: u32) -> u32 {
    (end / 8).clamp(256 << 10, 4 << 20)
}

/// What became of a client's next mutation.
#[derive(Debug)]
pub(super) enum Went {
    /// It has its serial, or is answered, or will be.
    On,
    /// It waits for acks, or for room.
    Waits,
    /// It ends its stream.
    Fails(Status, &'static str),
}

/// Why a mutation has no serial.
enum Not {
    Waits,
    Refused(Status),
    Damaged,
}

/// All that a turn changes.
pub(super) struct Orderer<'a> {
    pub(super) config: &'a Config,
    pub(super) member: &'a mut Member,
    pub(super) chain: &'a mut Chain,
    pub(super) primary: &'a mut Primary,
    pub(super) ids: &'a dyn Ids,
    pub(super) actions: &'a mut VecDeque<Action>,
    pub(super) building: Building,
    /// Up to here somebody waits for the disk.
    pub(super) flush_wanted: Serial,
    /// What the master should know, each once a turn.
    pub(super) reports: Vec<ChainTrouble>,
}

/// A mutation that looks for its place.
struct Candidate<'a> {
    request: RequestId,
    kind: MutationKind,
    /// Where a write goes; an append goes to the end.
    offset: Option<u32>,
    length: u32,
    /// Cut at block edges for a write, from its own start for an append.
    crcs: &'a [u32],
    /// What its row in the table of ids says.
    what: What,
}

impl Orderer<'_> {
    /// The next mutation of a stream.
    pub(super) fn order_next(&mut self, client: &mut ClientStream) -> Went {
        let went = match client.asked.front() {
            None => return Went::On,
            Some(Asked::Write(write, _)) => {
                let write = *write;
                self.order_write(client, &write)
            }
            Some(Asked::Append(_)) => self.order_append(client),
            Some(Asked::Long(_)) => self.order_long(client),
        };
        if matches!(went, Went::On) {
            client.pass_next();
        }
        went
    }

    fn order_write(&mut self, client: &mut ClientStream, write: &WriteData) -> Went {
        let Some(Asked::Write(_, payload)) = client.asked.front() else {
            return Went::On;
        };
        let Some(request) = write.request else {
            return Went::Fails(
                Status::InvalidArgument,
                "a write to an open chunk has an id",
            );
        };
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        if write.offset.saturating_add(length) > self.config.chunk_size {
            return Went::Fails(
                Status::InvalidArgument,
                "the write reaches beyond the chunk",
            );
        }
        let crcs = write.crcs.as_slice();
        let candidate = Candidate::new(request, Some(write.offset), length, crcs);
        let level = self.chain.level_of(write.level);
        let serial = match self.place(&candidate) {
            Ok(Standing::Done { serial, .. }) => serial,
            Ok(_) => {
                self.make_place(length);
                if !matches_at(payload, candidate.crcs, write.offset) {
                    return Went::Fails(Status::DamagedInTransit, "a piece is not as it was sent");
                }
                self.building.crcs.extend_from_slice(candidate.crcs);
                self.put(&candidate, write.offset, level, payload)
            }
            Err(Not::Waits) => return Went::Waits,
            Err(Not::Refused(status)) => return Went::Fails(status, "the write is not taken"),
            Err(Not::Damaged) => return Went::Fails(Status::DamagedInTransit, "damaged"),
        };
        self.want(serial, level);
        client.writes_done.push_back(WriteDone {
            serial,
            level,
            count: write.serial.0,
        });
        Went::On
    }

    fn order_append(&mut self, client: &mut ClientStream) -> Went {
        let Some(Asked::Append(records)) = client.asked.front() else {
            return Went::On;
        };
        let Some((item, crcs)) = records.next() else {
            return Went::On;
        };
        let asked = records.head.level;
        let level = self.chain.level_of(asked);
        let candidate = append_of(records.head.request(&item), item, crcs);
        let outcome = match self.place(&candidate) {
            Ok(Standing::Done { offset, serial }) => Ok((offset, serial)),
            Ok(_) => {
                self.make_place(item.length);
                let offset = self.primary.length;
                let bytes = records.bytes(item.length);
                match recut(&bytes, crcs, offset, &mut self.building.crcs) {
                    true => Ok((
                        offset,
                        self.put(&candidate, offset, level, &records.payload),
                    )),
                    false => Err(Not::Damaged),
                }
            }
            Err(not) => Err(not),
        };
        self.appended(client, item, asked, outcome)
    }

    fn order_long(&mut self, client: &mut ClientStream) -> Went {
        let Some(Asked::Long(record)) = client.asked.front() else {
            return Went::On;
        };
        let (item, asked) = (record.item, record.head.level);
        let crcs = record.crcs();
        let candidate = append_of(record.head.request(&item), item, &crcs);
        let outcome = match self.place(&candidate) {
            Ok(Standing::Done { offset, serial }) => Ok((offset, serial)),
            Ok(_) => self.put_long(record, &candidate),
            Err(not) => Err(not),
        };
        self.appended(client, item, asked, outcome)
    }

    /// Notes what became of an append.
    fn appended(
        &mut self,
        client: &mut ClientStream,
        item: AppendItem,
        asked: Level,
        outcome: Result<(u32, Serial), Not>,
    ) -> Went {
        match outcome {
            Ok((offset, serial)) => {
                let level = self.chain.level_of(asked);
                self.want(serial, level);
                let done = AppendDone {
                    serial,
                    number: item.number,
                    offset,
                    length: item.length,
                };
                client.wait_for(done, level);
                Went::On
            }
            Err(Not::Waits) => Went::Waits,
            Err(Not::Refused(status)) => {
                client.refuse(item.number, status, asked);
                Went::On
            }
            Err(Not::Damaged) => {
                Went::Fails(Status::DamagedInTransit, "a record is not as it was sent")
            }
        }
    }

    /// Whether a mutation can have the next serial now, or was done before.
    fn place(&mut self, candidate: &Candidate<'_>) -> Result<Standing, Not> {
        let is_append = candidate.kind == MutationKind::Append;
        if is_append && candidate.length > self.config.chunk_size / 4 {
            return Err(Not::Refused(Status::RecordTooLarge));
        }
        let (_, applied) = self.member.has();
        let found = self
            .primary
            .flight
            .find(&candidate.request, candidate.what, applied, self.ids);
        match found {
            Standing::New => {}
            Standing::Done { .. } => {
                self.primary.has_worked = true;
                return Ok(found);
            }
            Standing::Other => return Err(Not::Refused(Status::InvalidArgument)),
            Standing::Forgotten => return Err(Not::Refused(Status::RequestForgotten)),
            Standing::SessionEnded => return Err(Not::Refused(Status::SessionUnknown)),
        }
        if self.primary.phase != Phase::Ordering {
            // Who asks goes to the next chunk, and need not wait for another version of this one.
            return Err(Not::Refused(match is_append && self.primary.is_full {
                true => Status::ChunkFull,
                false => Status::PromiseRefused,
            }));
        }
        self.check_room(candidate)?;
        let under_way = u64::from(self.building.bytes()) + u64::from(candidate.length);
        if !self.chain.has_room(under_way, self.config.window_bytes) {
            return Err(Not::Waits);
        }
        let end = candidate.end(self.primary.length).max(self.primary.length);
        match self.is_reserved(end) {
            true => Ok(Standing::New),
            false => Err(Not::Waits),
        }
    }

    /// Whether the chunk has bytes and the table rows for it.
    fn check_room(&mut self, candidate: &Candidate<'_>) -> Result<(), Not> {
        // Its row and its floor, and the row that a seal adds.
        let rows = self.ids.rows() + self.primary.flight.rows() + 3;
        let has_rows = rows <= ID_ROWS_MAX;
        if candidate.kind == MutationKind::Write {
            if !has_rows {
                self.report(ChainTrouble::WantsSeal);
                return Err(Not::Refused(Status::Overloaded));
            }
            return Ok(());
        }
        let room = self.config.chunk_size.saturating_sub(self.primary.length);
        self.primary.is_full |= candidate.length > room || !has_rows;
        match self.primary.is_full {
            true => {
                self.report(ChainTrouble::Full);
                Err(Not::Refused(Status::ChunkFull))
            }
            false => Ok(()),
        }
    }

    /// Whether there is room on this disk up to `end`; more is asked for before it runs out.
    fn is_reserved(&mut self, end: u32) -> bool {
        let ahead = end.saturating_add(reserve_ahead(end) / 2);
        let ahead = ahead.min(self.config.chunk_size);
        if ahead > self.primary.reserved && !self.primary.is_reserving {
            let end = end
                .saturating_add(reserve_ahead(end))
                .min(self.config.chunk_size);
            self.primary.is_reserving = true;
            self.actions.push_back(Action::Reserve { end });
        }
        end <= self.primary.reserved
    }

    /// Gives a mutation its serial. Its CRCs are in the batch already.
    fn put(
        &mut self,
        candidate: &Candidate<'_>,
        offset: u32,
        level: Level,
        bytes: &bytes::Bytes,
    ) -> Serial {
        let row = candidate.row(offset);
        let serial = self.number(candidate, offset);
        self.building.push(serial, level, row, bytes);
        serial
    }

    fn number(&mut self, candidate: &Candidate<'_>, offset: u32) -> Serial {
        let serial = self
            .primary
            .give_serial(offset.saturating_add(candidate.length));
        self.primary
            .flight
            .order(&candidate.request, candidate.what, offset, serial);
        let three_quarters = self.config.chunk_size / 4 * 3;
        if self.primary.length >= three_quarters && !self.primary.is_nearly_full_told {
            self.primary.is_nearly_full_told = true;
            self.report(ChainTrouble::NearlyFull);
        }
        serial
    }

    /// A record in parts has batches of its own: one a part, and one application.
    fn put_long(
        &mut self,
        record: &LongRecord,
        candidate: &Candidate<'_>,
    ) -> Result<(u32, Serial), Not> {
        self.launch();
        let offset = self.primary.length;
        let mut cut: Vec<Vec<u32>> = Vec::with_capacity(record.parts.len());
        let mut at = offset;
        for (own, bytes) in &record.parts {
            let mut crcs = Vec::new();
            if !recut(bytes, own, at, &mut crcs) {
                return Err(Not::Damaged);
            }
            cut.push(crcs);
            at = at.saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        }
        let level = self.chain.level_of(record.head.level);
        let serial = self.number(candidate, offset);
        let mut mutations = Mutations {
            version: self.chain.version(),
            first: serial,
            rows: vec![candidate.row(offset)],
            crcs: Vec::new(),
            payload: Vec::with_capacity(record.parts.len()),
        };
        let mut part_offset = 0;
        for ((_, bytes), crcs) in record.parts.iter().zip(cut) {
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            join_parts(&mut mutations.crcs, &crcs, offset + part_offset, length);
            mutations.payload.push(bytes.clone());
            let frame = WriteBatch {
                part: Some(Part {
                    offset: part_offset,
                    whole_length: candidate.length,
                }),
                rows: vec![BatchRow {
                    length,
                    ..candidate.row(offset)
                }],
                crcs,
                ..frame_of(
                    self.chain.open.handle,
                    &mutations,
                    self.member.commit_mark(),
                    level,
                )
            };
            self.send_next(Frame::Batch(frame, vec![bytes.clone()]));
            part_offset += length;
        }
        self.apply(mutations, u64::from(candidate.length));
        Ok((offset, serial))
    }

    /// Sends off what was built if so many bytes don't go into the same frame.
    fn make_place(&mut self, length: u32) {
        if !self.building.fits(length) {
            self.launch();
        }
    }

    /// Sends off what was built.
    pub(super) fn launch(&mut self) {
        if self.building.is_empty() {
            return;
        }
        let bytes = u64::from(self.building.bytes());
        let (mutations, level) = self.building.finish(self.chain.version());
        if self.chain.next != Next::None {
            let commit_mark = self.member.commit_mark();
            let frame = frame_of(self.chain.open.handle, &mutations, commit_mark, level);
            self.send_next(Frame::Batch(frame, mutations.payload.clone()));
        }
        self.apply(mutations, bytes);
    }

    fn send_next(&mut self, frame: Frame) {
        if self.chain.next != Next::None {
            self.chain.told = self.member.commit_mark();
            self.chain.mark_due = None;
            self.chain.next_was_sent = true;
            self.actions.push_back(Action::SendNext(frame));
        }
    }

    fn apply(&mut self, mutations: Mutations, bytes: u64) {
        let last = mutations.last();
        self.member
            .handle_mutations(mutations.version, mutations.first, last)
            .expect("a primary whose chain is open takes part, and its serials follow");
        self.chain.sent = last;
        self.chain.launch(last, bytes);
        self.actions.push_back(Action::Apply(mutations));
    }

    /// Somebody waits for a serial at a level.
    fn want(&mut self, serial: Serial, level: Level) {
        if level == Level::Disk {
            self.flush_wanted = self.flush_wanted.max(serial);
        }
    }

    fn report(&mut self, what: ChainTrouble) {
        if !self.reports.contains(&what) {
            self.reports.push(what);
        }
    }
}

fn append_of(request: RequestId, item: AppendItem, crcs: &[u32]) -> Candidate<'_> {
    Candidate::new(request, None, item.length, crcs)
}

impl<'a> Candidate<'a> {
    fn new(request: RequestId, offset: Option<u32>, length: u32, crcs: &'a [u32]) -> Self {
        let (kind, row_kind, first) = match offset {
            Some(offset) => {
                let first = BLOCK_LEN - offset % BLOCK_LEN;
                (MutationKind::Write, IdRowKind::Write, first)
            }
            None => (MutationKind::Append, IdRowKind::Append, BLOCK_LEN),
        };
        Self {
            request,
            kind,
            offset,
            length,
            crcs,
            what: What {
                kind: row_kind,
                length,
                crc32: whole(crcs, first, length),
            },
        }
    }

    fn end(&self, length: u32) -> u32 {
        self.offset.unwrap_or(length).saturating_add(self.length)
    }

    const fn row(&self, offset: u32) -> BatchRow {
        BatchRow {
            request: self.request,
            kind: self.kind,
            offset,
            length: self.length,
        }
    }
}
