//! What a primary keeps of the version that it orders (`spec/replication.md` sections 5, 6, 9, 12).

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Serial};
use sarsen_protocol::message::{BatchRow, Level, WriteBatch};
use sarsen_protocol::size::{BATCH_ROWS_MAX, PAYLOAD_LEN_MAX};

use super::super::member::RequestId;
use super::flight::Flight;
use super::words::{Mutations, StreamId};

/// Where a primary is (`spec/replication.md` section 2). *Stopped* is no phase: the primary is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its chain is not open yet.
    Opening,
    Ordering,
    /// Takes no more, until then at most.
    Draining(Duration),
    /// Orders nothing any more, and keeps its chain until then: members that still hear it serve
    /// reads and report nothing while the master changes the version.
    Drained(Duration),
}

/// A question about the newest state that all members are asked to confirm.
#[derive(Debug)]
pub(super) struct Confirming {
    pub(super) number: u64,
    pub(super) serial: Serial,
    pub(super) length: u32,
    pub(super) to: Vec<RequestId>,
}

#[derive(Debug)]
pub(super) struct Primary {
    pub(super) phase: Phase,
    pub(super) lease_until: Duration,
    /// Lower tokens are refused.
    pub(super) lock_token: u64,
    /// A mutation or a newest-read came since the lease was extended.
    pub(super) has_worked: bool,

    /// The last serial given, and the chunk's length behind it.
    pub(super) last: Serial,
    pub(super) length: u32,
    /// Of states that are not committed: where the length grew.
    lengths: VecDeque<(Serial, u32)>,
    pub(super) committed_length: u32,
    pub(super) reserved: u32,
    pub(super) is_reserving: bool,
    pub(super) flight: Flight,
    /// Streams with something to order, in the order of their turns.
    pub(super) turns: VecDeque<StreamId>,
    /// A record did not fit, or the chunk has a next one: there are no appends in this version.
    pub(super) is_full: bool,
    pub(super) is_nearly_full_told: bool,

    pub(super) newest: Vec<RequestId>,
    pub(super) confirming: Option<Confirming>,
    pub(super) mark_number: u64,
    /// Revocations that wait for the drain.
    pub(super) revoked: Vec<RequestId>,
}

impl Primary {
    pub(super) fn new(phase: Phase, lease_until: Duration, begin: Serial, length: u32) -> Self {
        Self {
            phase,
            lease_until,
            lock_token: 0,
            has_worked: false,
            last: begin,
            length,
            lengths: VecDeque::new(),
            committed_length: length,
            reserved: length,
            is_reserving: false,
            flight: Flight::default(),
            turns: VecDeque::new(),
            is_full: false,
            is_nearly_full_told: false,
            newest: Vec::new(),
            confirming: None,
            mark_number: 0,
            revoked: Vec::new(),
        }
    }

    /// Whether it takes mutations.
    pub(super) const fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Opening | Phase::Ordering)
    }

    /// The next serial is given to a mutation that ends here.
    pub(super) fn give_serial(&mut self, end: u32) -> Serial {
        self.last.0 += 1;
        self.has_worked = true;
        if end > self.length {
            self.length = end;
            self.lengths.push_back((self.last, end));
        }
        self.last
    }

    /// Everything up to here is committed.
    pub(super) fn committed(&mut self, serial: Serial) {
        while let Some((_, length)) = self.lengths.pop_front_if(|(at, _)| *at <= serial) {
            self.committed_length = length;
        }
    }
}

/// A batch under construction: mutations of many clients, one behind the other.
#[derive(Debug)]
pub(super) struct Building {
    first: Serial,
    level: Level,
    rows: Vec<BatchRow>,
    pub(super) crcs: Vec<u32>,
    payload: Vec<Bytes>,
    /// Bytes that lie behind each other in one frame of a client: they stay one slice.
    run: Option<(Bytes, usize)>,
    bytes: u32,
}

impl Building {
    pub(super) const fn new() -> Self {
        Self {
            first: Serial::NONE,
            level: Level::Memory,
            rows: Vec::new(),
            crcs: Vec::new(),
            payload: Vec::new(),
            run: None,
            bytes: 0,
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) const fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Whether so many bytes more still go into one frame. CRCs always do: that is what the limits of
    /// a frame are chosen for.
    pub(super) const fn fits(&self, length: u32) -> bool {
        self.rows.len() < BATCH_ROWS_MAX && self.bytes + length <= PAYLOAD_LEN_MAX
    }

    /// Puts a mutation behind the others. Its CRCs are there already, its bytes are the first of
    /// `bytes`.
    pub(super) fn push(&mut self, serial: Serial, level: Level, row: BatchRow, bytes: &Bytes) {
        if self.rows.is_empty() {
            (self.first, self.level) = (serial, level);
        }
        self.level = self.level.max(level);
        let length = row.length as usize;
        match &mut self.run {
            Some((base, run)) if follows(base, *run, bytes, length) => *run += length,
            _ => {
                self.end_run();
                self.run = Some((bytes.clone(), length));
            }
        }
        self.bytes += row.length;
        self.rows.push(row);
    }

    fn end_run(&mut self) {
        if let Some((base, length)) = self.run.take() {
            self.payload.push(base.slice(..base.len().min(length)));
        }
    }

    /// What was built, and the highest level that was asked for.
    pub(super) fn finish(&mut self, version: ChunkVersion) -> (Mutations, Level) {
        self.end_run();
        let built = std::mem::replace(self, Self::new());
        let mutations = Mutations {
            version,
            first: built.first,
            rows: built.rows,
            crcs: built.crcs,
            payload: built.payload,
        };
        (mutations, built.level)
    }
}

/// Whether the first `length` of `bytes` are those of `base` behind its first `run`.
fn follows(base: &Bytes, run: usize, bytes: &Bytes, length: usize) -> bool {
    let behind = base.get(run..).unwrap_or_default();
    behind.len() >= length && behind.as_ptr() == bytes.as_ptr() && length > 0
}

/// The frame that carries mutations which one frame can carry.
pub(super) fn frame_of(
    handle: ChunkHandle,
    mutations: &Mutations,
    commit_mark: Serial,
    level: Level,
) -> WriteBatch {
    WriteBatch {
        handle,
        version: mutations.version,
        first_serial: mutations.first,
        commit_mark,
        part: None,
        level,
        rows: mutations.rows.clone(),
        crcs: mutations.crcs.clone(),
    }
}
