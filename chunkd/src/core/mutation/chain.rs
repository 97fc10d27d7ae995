//! A member's place in the chain of a version that is active: what it hears, what it says, and how
//! far everything got (`spec/replication.md` sections 6 and 7, `spec/wire.md` section 12.3).

use std::collections::VecDeque;
use std::time::Duration;

use sarsen_protocol::id::{ChunkVersion, Serial, ServerId};
use sarsen_protocol::message::{Hop, Level, Mark, WriteAck, WriteOpen};

use super::assembly::Assembly;
use super::words::StreamId;

/// Up to where everything is, at each level. What is on disk is in memory too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reached {
    pub(super) memory: Serial,
    pub(super) disk: Serial,
}

impl Reached {
    pub(super) const fn all(serial: Serial) -> Self {
        Self {
            memory: serial,
            disk: serial,
        }
    }

    pub(super) const fn at(&self, level: Level) -> Serial {
        match level {
            Level::Memory => self.memory,
            Level::Disk => self.disk,
        }
    }

    /// Everything up to a serial is at a level.
    pub(super) fn raise(&mut self, level: Level, serial: Serial) {
        self.memory = self.memory.max(serial);
        if level == Level::Disk {
            self.disk = self.disk.max(serial);
        }
    }

    pub(super) fn min(self, other: Self) -> Self {
        Self {
            memory: self.memory.min(other.memory),
            disk: self.disk.min(other.disk),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// This is the last member.
    None,
    Opening,
    Open,
}

#[derive(Debug)]
pub(super) struct Chain {
    /// As it was opened: with the own position.
    pub(super) open: WriteOpen,
    /// Acks at `memory` are allowed.
    pub(super) memory: bool,
    /// The hop before; none of the primary, and when it is gone.
    pub(super) up: Option<StreamId>,
    pub(super) up_heard: Duration,
    pub(super) is_opened: bool,
    pub(super) acked: Reached,
    pub(super) up_was_sent: bool,
    pub(super) assembly: Option<Assembly>,

    pub(super) next: Next,
    /// When the next hop was dialled, reached, or said something.
    pub(super) next_heard: Duration,
    pub(super) next_acked: Reached,
    /// The last serial that was sent on.
    pub(super) sent: Serial,
    pub(super) next_was_sent: bool,
    /// The commit mark that the next hop was told, and when it is told a newer one at the latest.
    pub(super) told: Serial,
    pub(super) mark_due: Option<Duration>,
    /// Numbered marks of the hop before that went on.
    pub(super) marks: VecDeque<u64>,

    /// Ends and bytes of what is not yet on all members from here on.
    flight: VecDeque<(Serial, u64)>,
    pub(super) flight_bytes: u64,
    pub(super) beat: Duration,
}

impl Chain {
    pub(super) fn new(
        now: Duration,
        open: WriteOpen,
        memory: bool,
        up: Option<StreamId>,
        beat: Duration,
    ) -> Self {
        let begin = open.begin_serial;
        let is_last = usize::from(open.position) + 1 >= open.chain.len();
        Self {
            memory,
            up,
            up_heard: now,
            is_opened: false,
            acked: Reached::all(begin),
            up_was_sent: false,
            assembly: None,
            next: match is_last {
                true => Next::None,
                false => Next::Opening,
            },
            next_heard: now,
            next_acked: match is_last {
                true => Reached::all(Serial(u64::MAX)),
                false => Reached::all(begin),
            },
            sent: begin,
            next_was_sent: true,
            told: begin,
            mark_due: None,
            marks: VecDeque::new(),
            flight: VecDeque::new(),
            flight_bytes: 0,
            beat: now + beat,
            open,
        }
    }

    pub(super) const fn version(&self) -> ChunkVersion {
        self.open.version
    }

    /// The lowest level that commits.
    pub(super) const fn floor(&self) -> Level {
        match self.memory {
            true => Level::Memory,
            false => Level::Disk,
        }
    }

    /// The level that an answer has to have, of which one was asked for.
    pub(super) fn level_of(&self, asked: Level) -> Level {
        asked.max(self.floor())
    }

    fn member(&self, ahead: usize) -> Option<&Hop> {
        self.open.chain.get(usize::from(self.open.position) + ahead)
    }

    pub(super) fn next_hop(&self) -> Option<&Hop> {
        self.member(1)
    }

    pub(super) fn next_server(&self) -> ServerId {
        self.member(1).map_or(ServerId::NONE, |hop| hop.server)
    }

    pub(super) fn server_before(&self) -> ServerId {
        let before = usize::from(self.open.position).checked_sub(1);
        let hop = before.and_then(|at| self.open.chain.get(at));
        hop.map_or(ServerId::NONE, |hop| hop.server)
    }

    /// How many members an ack of this one speaks of.
    pub(super) fn copies(&self) -> u8 {
        let all = self.open.chain.len();
        u8::try_from(all - usize::from(self.open.position).min(all)).unwrap_or(u8::MAX)
    }

    pub(super) fn ack(&self, level: Level, commit_mark: Serial) -> WriteAck {
        WriteAck {
            serial: self.acked.at(level),
            commit_mark,
            level,
            copies: self.copies(),
        }
    }

    pub(super) const fn mark(&self, commit_mark: Serial, number: u64) -> Mark {
        Mark {
            handle: self.open.handle,
            version: self.open.version,
            commit_mark,
            number,
        }
    }

    /// So many bytes are under way up to a serial.
    pub(super) fn launch(&mut self, last: Serial, bytes: u64) {
        self.flight.push_back((last, bytes));
        self.flight_bytes += bytes;
    }

    /// Everything up to a serial has arrived.
    pub(super) fn land(&mut self, serial: Serial) {
        while let Some((_, bytes)) = self.flight.pop_front_if(|(last, _)| *last <= serial) {
            self.flight_bytes -= bytes;
        }
    }

    /// Whether so many bytes more may be under way. One mutation always may.
    pub(super) const fn has_room(&self, bytes: u64, window: u64) -> bool {
        self.flight_bytes == 0 || self.flight_bytes + bytes <= window
    }
}
