//! One client's stream at the primary: what it sent and is not ordered yet, what is ordered and not
//! answered yet (`spec/wire.md` section 12.3).

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use sarsen_protocol::id::Serial;
use sarsen_protocol::message::{Append, AppendItem, AppendResult, Level, WriteData};
use sarsen_protocol::size::blocks_in;
use sarsen_protocol::status::Status;

use super::assembly::OutOfOrder;

/// What a client asks for next.
#[derive(Debug)]
pub(super) enum Asked {
    Write(WriteData, Bytes),
    /// Records, the first of which are done with.
    Append(Records),
    /// A record in parts, whole.
    Long(LongRecord),
}

#[derive(Debug)]
pub(super) struct Records {
    pub(super) head: Append,
    /// Bytes of those that are left.
    pub(super) payload: Bytes,
    item: usize,
    crc: usize,
}

/// A record of more than one frame.
#[derive(Debug)]
pub(super) struct LongRecord {
    /// That of the first part, its item as long as the whole.
    pub(super) head: Append,
    pub(super) item: AppendItem,
    pub(super) parts: Vec<(Vec<u32>, Bytes)>,
    has: u32,
}

/// An append that is ordered, or was done before.
#[derive(Clone, Copy, Debug)]
pub(super) struct AppendDone {
    /// What has to be reached.
    pub(super) serial: Serial,
    pub(super) number: u64,
    pub(super) offset: u32,
    pub(super) length: u32,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct WriteDone {
    pub(super) serial: Serial,
    pub(super) level: Level,
    /// In the stream's count.
    pub(super) count: u64,
}

#[derive(Debug)]
pub(super) struct ClientStream {
    pub(super) asked: VecDeque<Asked>,
    /// Bytes of `asked` and of the record that comes in parts.
    pub(super) held: u64,
    /// Bytes that it may have ordered in this turn.
    pub(super) credit: u64,
    pub(super) has_turn: bool,
    /// Whether the edge was told to take its frames.
    pub(super) is_taken: bool,
    coming: Option<LongRecord>,
    /// When a part came last, or it was this record's turn to come.
    pub(super) part_came: Duration,
    /// Its next frame is here, and is not read for want of room.
    pub(super) waits_for_room: bool,
    /// The highest that it may ask for, as its opening said.
    pub(super) level_max: Level,
    /// `WriteData` that came, and that were acknowledged.
    writes: u64,
    pub(super) acked_writes: Serial,
    pub(super) acked_serial: Serial,
    pub(super) acked_level: Level,
    pub(super) writes_done: VecDeque<WriteDone>,
    /// By the level that was asked for.
    pub(super) appends_at_memory: VecDeque<AppendDone>,
    pub(super) appends_at_disk: VecDeque<AppendDone>,
    pub(super) results: Vec<AppendResult>,
    /// Whether something was sent since the last beat.
    pub(super) was_sent: bool,
}

impl ClientStream {
    /// One that may ask for levels up to `level_max`, in a version whose lowest is `floor`.
    pub(super) fn new(begin: Serial, floor: Level, level_max: Level, now: Duration) -> Self {
        Self {
            asked: VecDeque::new(),
            held: 0,
            credit: 0,
            has_turn: false,
            is_taken: true,
            coming: None,
            part_came: now,
            waits_for_room: false,
            level_max,
            writes: 0,
            acked_writes: Serial::NONE,
            acked_serial: begin,
            acked_level: floor,
            writes_done: VecDeque::new(),
            appends_at_memory: VecDeque::new(),
            appends_at_disk: VecDeque::new(),
            results: Vec::new(),
            was_sent: true,
        }
    }

    /// Whether a record of it is under way in parts.
    pub(super) const fn is_coming(&self) -> bool {
        self.coming.is_some()
    }

    /// Whether it is its client who is waited for.
    pub(super) const fn is_awaited(&self) -> bool {
        self.is_taken && !self.waits_for_room
    }

    /// Whether all that it asked for was answered, but for results that wait to be sent.
    pub(super) fn is_answered(&self) -> bool {
        self.writes_done.is_empty()
            && self.appends_at_memory.is_empty()
            && self.appends_at_disk.is_empty()
    }

    pub(super) fn take_write(
        &mut self,
        write: WriteData,
        payload: Bytes,
    ) -> Result<(), OutOfOrder> {
        let count = self.writes + 1;
        if self.coming.is_some() || write.serial.0 != count {
            return Err(OutOfOrder);
        }
        self.writes = count;
        self.held += payload.len() as u64;
        self.asked.push_back(Asked::Write(write, payload));
        Ok(())
    }

    pub(super) fn take_append(
        &mut self,
        now: Duration,
        append: Append,
        payload: Bytes,
    ) -> Result<(), OutOfOrder> {
        let length = payload.len() as u64;
        match (append.part, append.items.first(), self.coming.take()) {
            (None, _, None) => self.asked.push_back(Asked::Append(Records {
                head: append,
                payload,
                item: 0,
                crc: 0,
            })),
            (Some(part), Some(&item), before) => {
                let mut record = match before {
                    None if part.offset == 0 => LongRecord {
                        item: AppendItem {
                            length: part.whole_length,
                            ..item
                        },
                        head: append.clone(),
                        parts: Vec::new(),
                        has: 0,
                    },
                    Some(record) if record.is_followed_by(&append) => record,
                    _ => return Err(OutOfOrder),
                };
                record.has = record.has.saturating_add(item.length);
                record.parts.push((append.crcs, payload));
                self.part_came = now;
                if record.has == record.item.length {
                    self.asked.push_back(Asked::Long(record));
                } else {
                    self.coming = Some(record);
                }
            }
            _ => return Err(OutOfOrder),
        }
        self.held += length;
        Ok(())
    }

    /// Bytes of the mutation that is next.
    pub(super) fn next_length(&self) -> Option<u32> {
        match self.asked.front()? {
            Asked::Write(_, payload) => u32::try_from(payload.len()).ok(),
            Asked::Append(records) => records.next().map(|(item, _)| item.length),
            Asked::Long(record) => Some(record.item.length),
        }
    }

    /// The next mutation is done with: ordered, or answered.
    pub(super) fn pass_next(&mut self) {
        let Some(length) = self.next_length() else {
            return;
        };
        self.held = self.held.saturating_sub(u64::from(length));
        let is_over = match self.asked.front_mut() {
            Some(Asked::Append(records)) => records.pass(),
            _ => true,
        };
        if is_over {
            self.asked.pop_front();
        }
    }

    /// Answers an append that is not done.
    pub(super) fn refuse(&mut self, number: u64, status: Status, level: Level) {
        self.results.push(AppendResult {
            number,
            status: status.number(),
            level,
            copies: 0,
            offset: 0,
            length: 0,
            serial: Serial::NONE,
        });
    }

    /// An append will be answered when this serial has reached its level.
    pub(super) fn wait_for(&mut self, done: AppendDone, level: Level) {
        match level {
            Level::Memory => self.appends_at_memory.push_back(done),
            Level::Disk => self.appends_at_disk.push_back(done),
        }
    }
}

impl Records {
    /// The next record and its CRCs.
    pub(super) fn next(&self) -> Option<(AppendItem, &[u32])> {
        let item = *self.head.items.get(self.item)?;
        let crcs = self.head.crcs.get(self.crc..)?;
        let own = crcs.get(..blocks_in(item.length) as usize)?;
        Some((item, own))
    }

    /// Its bytes.
    pub(super) fn bytes(&self, length: u32) -> Bytes {
        self.payload
            .slice(..self.payload.len().min(length as usize))
    }

    /// Goes behind the next record; whether there is none left.
    fn pass(&mut self) -> bool {
        if let Some((item, _)) = self.next() {
            let length = self.payload.len().min(item.length as usize);
            let _ = self.payload.split_to(length);
            self.item += 1;
            self.crc += blocks_in(item.length) as usize;
        }
        self.item >= self.head.items.len()
    }
}

impl LongRecord {
    /// The next part of the same record.
    fn is_followed_by(&self, append: &Append) -> bool {
        let is_same = |part: sarsen_protocol::message::Part| {
            part.offset == self.has && part.whole_length == self.item.length
        };
        let number = append.items.first().map(|item| item.number);
        append.part.is_some_and(is_same)
            && number == Some(self.item.number)
            && append.session == self.head.session
            && append.level == self.head.level
    }

    /// All its CRCs, cut from its own start: parts end where pieces do.
    pub(super) fn crcs(&self) -> Vec<u32> {
        self.parts
            .iter()
            .flat_map(|(crcs, _)| crcs)
            .copied()
            .collect()
    }
}
