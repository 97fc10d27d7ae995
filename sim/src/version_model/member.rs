//! A member of one chunk by `spec/replication.md` sections 3.2, 3.4 and 6, without its bytes.

use sarsen_master::core::command;
use sarsen_master::core::version_change::words::{Answer, Begin, Promised, Step};
use sarsen_protocol::id::{ChunkVersion, DirectoryId, Serial, StartNumber};
use sarsen_protocol::status::Status;

use super::{Mutation, server};

/// What a member has, on its disk and in its memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Member {
    index: usize,
    pub(super) promised: ChunkVersion,
    pub(super) version: ChunkVersion,
    pub(super) begin_serial: usize,
    /// The mutations that it has applied, by serial.
    pub(super) data: Vec<Mutation>,
    /// How many of them survive a power cut.
    pub(super) stable: usize,
    pub(super) start: u64,
    /// The start in which it began its version: in another one it takes part in it no more.
    begun_in: u64,
}

impl Member {
    pub(super) const fn begun(index: usize, version: ChunkVersion) -> Self {
        Self {
            index,
            promised: version,
            version,
            begin_serial: 0,
            data: Vec::new(),
            stable: 0,
            start: 1,
            begun_in: 1,
        }
    }

    /// As the log names it.
    pub(super) fn as_logged(&self) -> command::Member {
        let directory = u8::try_from(self.index).unwrap_or_default();
        command::Member {
            server: server(self.index),
            directory: DirectoryId([directory + 1; 16]),
            start_number: StartNumber(self.start),
        }
    }

    /// Whether it takes part in a version: it began exactly that, in this start, and has promised
    /// nothing newer.
    pub(super) fn is_in(&self, version: ChunkVersion) -> bool {
        self.version == version && self.promised <= version && self.begun_in == self.start
    }

    /// Whether it may still say what it has of a version, promise or not: it began exactly that, in
    /// this start.
    pub(super) fn is_still_in(&self, version: ChunkVersion) -> bool {
        self.version == version && self.begun_in == self.start
    }

    /// Whether it applies a frame: the next serial of the version that it is in.
    pub(super) fn takes(
        &self,
        version: ChunkVersion,
        serial: usize,
        promises_refuse_nothing: bool,
    ) -> bool {
        let is_in = match promises_refuse_nothing {
            true => self.is_still_in(version),
            false => self.is_in(version),
        };
        is_in && serial == self.data.len() + 1
    }

    /// Section 3.2; making what it has stable is the caller's.
    pub(super) fn promise(
        &mut self,
        version: ChunkVersion,
        commit_mark: usize,
        is_fenced: bool,
    ) -> Answer {
        let is_answered_again = self.promised == version && self.version < version;
        if is_fenced && self.promised >= version && !is_answered_again {
            return Answer::Refused(Step::Promise, Status::PromiseRefused);
        }
        if is_fenced {
            self.promised = version;
        }
        // Where it began is what it says it has, also if it was let to begin above what it had.
        let serial = Serial(self.data.len().max(self.begin_serial) as u64);
        Answer::Promised(Promised {
            member: self.as_logged(),
            version: self.version,
            begin_serial: Serial(self.begin_serial as u64),
            serial,
            commit_mark: Serial(commit_mark as u64),
            sealed: None,
            is_poisoned: false,
            is_corrupt: false,
        })
    }

    /// Section 3.4.
    pub(super) fn begin(
        &mut self,
        version: ChunkVersion,
        order: &Begin,
        is_fenced: bool,
        begins_above: bool,
    ) -> Answer {
        let refused = |status| Answer::Refused(Step::Begin, status);
        let serial = usize::try_from(order.serial.0).unwrap_or(usize::MAX);
        if is_fenced && self.promised != version {
            return refused(Status::PromiseRefused);
        }
        if order.member != self.as_logged() {
            return refused(Status::StaleStart);
        }
        if self.version != version {
            if serial > self.data.len() && !begins_above {
                return refused(Status::Behind);
            }
            self.data.truncate(serial);
            self.stable = self.stable.min(serial);
            self.version = version;
            self.begin_serial = serial;
            self.begun_in = self.start;
        }
        Answer::Begun {
            serial: Serial(self.begin_serial as u64),
            member: self.as_logged(),
        }
    }
}
