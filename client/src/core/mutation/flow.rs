//! The client's end of a mutation stream to a primary (`spec/wire.md` section 12.3).
//!
//! The client sends `WriteOpen`, waits for `WriteOpened`, and then sends `WriteData` and `Append`
//! as far as its window allows; the primary answers the first with cumulative acks that count the
//! `WriteData` of this stream, the second record by record. [`Flow`] knows what is on its way and
//! checks every answer. Nothing is sent before `WriteOpened`, so a primary that refuses the stream
//! leaves nothing in doubt. The primary was heard from within `suspect_after`, or is given up: it
//! says by itself that it works.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sarsen_protocol::id::{ChunkVersion, Serial};
use sarsen_protocol::message::{AppendResult, Appended, Level, WriteAck};
use sarsen_protocol::size::PAYLOAD_LEN_MAX;

use crate::core::write::STALL_MAX;

/// Bytes that a stream may have on their way: more than a chain of three takes at once on a local
/// network. One mutation always may.
pub const FLIGHT_BYTES_MAX: u64 = 8 * PAYLOAD_LEN_MAX as u64;

/// Mutations that a stream may have on their way: small ones cost their primary a row each.
pub const FLIGHT_COUNT_MAX: usize = 2_048;

/// An answer that the primary could not have given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FlowFault {
    /// An answer before the stream was open, or `WriteOpened` a second time.
    #[error("the primary answered what it was not asked")]
    AnswerOutOfTurn,
    /// An ack of a `WriteData` that was not sent, or lower than one before.
    #[error("the primary acknowledged serial {serial}, which was not its turn")]
    AckOutOfTurn {
        /// Which.
        serial: Serial,
    },
    /// An answer to a record that is not on its way here.
    #[error("the primary answered record {number}, which it was not sent")]
    UnknownRecord {
        /// Which.
        number: u64,
    },
    /// A record of another length than was sent, or in another version.
    #[error("the primary appended something else than record {number}")]
    OtherRecord {
        /// Which.
        number: u64,
    },
    /// An ack of a lower level than was asked for.
    #[error("the primary acknowledged what is not as safe as was asked")]
    LowerLevel,
}

/// A stream with one primary.
#[derive(Clone, Debug)]
pub struct Flow {
    level: Level,
    version: ChunkVersion,
    suspect_after: Duration,
    opened: bool,
    /// Whether a mutation was answered on it.
    answered: bool,
    /// The last `WriteData`, and the last that was acknowledged.
    serial: Serial,
    acked: Serial,
    /// What is not answered: serial, number, length.
    writes: VecDeque<(Serial, u64, u32)>,
    /// Number and length.
    appends: BTreeMap<u64, u32>,
    bytes: u64,
    /// When the primary was last heard from.
    heard: Duration,
    /// Since when an answer is owed; `None` while none is.
    owed_since: Option<Duration>,
}

impl Flow {
    /// A stream to the primary of `version` that is dialled `now`, which may take `suspect_after`
    /// before the `WriteOpen` does.
    #[must_use]
    pub fn new(
        now: Duration,
        level: Level,
        version: ChunkVersion,
        suspect_after: Duration,
    ) -> Self {
        Self {
            level,
            version,
            suspect_after,
            opened: false,
            answered: false,
            serial: Serial::NONE,
            acked: Serial::NONE,
            writes: VecDeque::new(),
            appends: BTreeMap::new(),
            bytes: 0,
            heard: now.saturating_add(suspect_after),
            owed_since: Some(now),
        }
    }

    /// Whether mutations may be sent.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.opened
    }

    /// Whether a mutation was answered on this stream.
    #[must_use]
    pub const fn has_answered(&self) -> bool {
        self.answered
    }

    /// Mutations on their way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.writes.len() + self.appends.len()
    }

    /// Records on their way.
    #[must_use]
    pub fn appends_in_flight(&self) -> usize {
        self.appends.len()
    }

    /// The numbers of all that is on its way: nobody knows what becomes of it when the stream ends.
    pub fn numbers(&self) -> impl Iterator<Item = u64> {
        let writes = self.writes.iter().map(|(_, number, _)| *number);
        writes.chain(self.appends.keys().copied())
    }

    /// Whether mutations of so many bytes may be sent now.
    #[must_use]
    pub fn has_room(&self, bytes: u64) -> bool {
        let count = self.in_flight();
        count == 0 || (count < FLIGHT_COUNT_MAX && self.bytes + bytes <= FLIGHT_BYTES_MAX)
    }

    /// A mutation at an offset is sent: its serial in this stream's count.
    pub fn send_write(&mut self, now: Duration, number: u64, len: u32) -> Serial {
        self.serial = Serial(self.serial.0 + 1);
        self.writes.push_back((self.serial, number, len));
        self.sent(now, len);
        self.serial
    }

    /// A record is sent.
    pub fn send_append(&mut self, now: Duration, number: u64, len: u32) {
        self.appends.insert(number, len);
        self.sent(now, len);
    }

    /// `WriteOpened` came.
    ///
    /// # Errors
    /// [`FlowFault::AnswerOutOfTurn`].
    pub fn handle_opened(&mut self, now: Duration) -> Result<(), FlowFault> {
        if self.opened {
            return Err(FlowFault::AnswerOutOfTurn);
        }
        self.opened = true;
        self.hear(now);
        Ok(())
    }

    /// `WriteAck` came: the numbers that it answers, none if it is a keep-alive.
    ///
    /// # Errors
    /// [`FlowFault::AckOutOfTurn`], [`FlowFault::LowerLevel`].
    pub fn handle_ack(&mut self, now: Duration, ack: &WriteAck) -> Result<Vec<u64>, FlowFault> {
        let serial = ack.serial;
        if serial > self.serial || serial < self.acked {
            return Err(FlowFault::AckOutOfTurn { serial });
        }
        if serial > self.acked && ack.level < self.level {
            return Err(FlowFault::LowerLevel);
        }
        let mut answered = Vec::new();
        while let Some(&(first, number, len)) = self.writes.front()
            && first <= serial
        {
            self.writes.pop_front();
            self.bytes -= u64::from(len);
            answered.push(number);
        }
        self.acked = serial;
        match answered.is_empty() {
            // It works, and owes what it owed.
            true => self.heard = self.heard.max(now),
            false => {
                self.answered = true;
                self.hear(now);
            }
        }
        Ok(answered)
    }

    /// `Appended` came: checks it, and takes what it answers off.
    ///
    /// # Errors
    /// What the primary could not have said.
    pub fn handle_appended(&mut self, now: Duration, appended: &Appended) -> Result<(), FlowFault> {
        // Of a frame that breaks the protocol nothing is taken: what was left of it would be lost.
        for result in &appended.results {
            let number = result.number;
            let Some(len) = self.appends.get(&number).copied() else {
                return Err(FlowFault::UnknownRecord { number });
            };
            self.check(appended.version, len, result)?;
        }
        for result in &appended.results {
            if let Some(len) = self.appends.remove(&result.number) {
                self.bytes -= u64::from(len);
            }
        }
        self.answered = true;
        self.hear(now);
        Ok(())
    }

    /// When the stream is given up unless something comes.
    #[must_use]
    pub fn stalled_at(&self) -> Duration {
        let silent_at = self.heard.saturating_add(self.suspect_after);
        match self.owed_since {
            Some(since) => silent_at.min(since.saturating_add(STALL_MAX)),
            None => silent_at,
        }
    }

    fn check(
        &self,
        version: ChunkVersion,
        len: u32,
        result: &AppendResult,
    ) -> Result<(), FlowFault> {
        let number = result.number;
        match result.status {
            0 if result.length != len || version != self.version => {
                Err(FlowFault::OtherRecord { number })
            }
            0 if result.level < self.level => Err(FlowFault::LowerLevel),
            _ => Ok(()),
        }
    }

    fn sent(&mut self, now: Duration, len: u32) {
        self.bytes += u64::from(len);
        self.owed_since.get_or_insert(now);
    }

    /// Something came that was owed; something else may still be.
    fn hear(&mut self, now: Duration) {
        self.heard = now;
        self.owed_since = (self.in_flight() > 0).then_some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: ChunkVersion = ChunkVersion(7);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn flow() -> Flow {
        Flow::new(at(0), Level::Disk, VERSION, at(3))
    }

    fn open_flow() -> Flow {
        let mut flow = flow();
        flow.handle_opened(at(0)).unwrap();
        flow
    }

    fn ack(serial: u64, level: Level) -> WriteAck {
        WriteAck {
            serial: Serial(serial),
            commit_mark: Serial(100 + serial),
            level,
            copies: 3,
        }
    }

    fn appended(number: u64, length: u32) -> Appended {
        Appended {
            version: VERSION,
            results: vec![AppendResult {
                number,
                status: 0,
                level: Level::Disk,
                copies: 3,
                offset: 64,
                length,
                serial: Serial(9),
            }],
        }
    }

    #[test]
    fn acks_are_cumulative_and_repeat_as_keep_alives() {
        let mut flow = open_flow();
        assert_eq!(flow.send_write(at(1), 11, 10), Serial(1));
        flow.send_append(at(1), 12, 20);
        assert_eq!(flow.send_write(at(1), 13, 30), Serial(2));
        assert_eq!(flow.numbers().collect::<Vec<_>>(), [11, 13, 12]);
        assert_eq!(flow.handle_ack(at(1), &ack(0, Level::Disk)), Ok(vec![]));
        let both = flow.handle_ack(at(2), &ack(2, Level::Disk));
        assert_eq!(both, Ok(vec![11, 13]));
        assert_eq!(flow.handle_ack(at(3), &ack(2, Level::Memory)), Ok(vec![]));
        assert_eq!(flow.handle_appended(at(3), &appended(12, 20)), Ok(()));
        assert_eq!((flow.in_flight(), flow.bytes), (0, 0));
    }

    #[test]
    fn answers_that_could_not_be_are_refused() {
        let mut flow = open_flow();
        assert_eq!(
            flow.handle_opened(at(0)),
            Err(FlowFault::AnswerOutOfTurn),
            "once"
        );
        flow.send_write(at(0), 1, 10);
        flow.send_append(at(0), 2, 10);
        let serial = Serial(2);
        assert_eq!(
            flow.handle_ack(at(0), &ack(2, Level::Disk)),
            Err(FlowFault::AckOutOfTurn { serial })
        );
        assert_eq!(
            flow.handle_ack(at(0), &ack(1, Level::Memory)),
            Err(FlowFault::LowerLevel)
        );
        assert_eq!(
            flow.handle_appended(at(0), &appended(1, 10)),
            Err(FlowFault::UnknownRecord { number: 1 }),
            "it is a write"
        );
        assert_eq!(
            flow.handle_appended(at(0), &appended(2, 9)),
            Err(FlowFault::OtherRecord { number: 2 })
        );
        let mut other = appended(2, 10);
        other.version = ChunkVersion(6);
        assert_eq!(
            flow.handle_appended(at(0), &other),
            Err(FlowFault::OtherRecord { number: 2 })
        );
        let mut memory = appended(2, 10);
        memory.results[0].level = Level::Memory;
        assert_eq!(
            flow.handle_appended(at(0), &memory),
            Err(FlowFault::LowerLevel)
        );
        assert_eq!(flow.in_flight(), 2);
    }

    #[test]
    fn one_mutation_always_fits_and_more_within_the_window() {
        let mut flow = open_flow();
        assert!(flow.has_room(2 * FLIGHT_BYTES_MAX));
        flow.send_append(at(0), 1, 16);
        assert!(flow.has_room(FLIGHT_BYTES_MAX - 16));
        assert!(!flow.has_room(FLIGHT_BYTES_MAX - 15));
        for number in 2..=FLIGHT_COUNT_MAX as u64 {
            flow.send_append(at(0), number, 1);
        }
        assert!(!flow.has_room(1), "too many");
    }

    #[test]
    fn who_says_that_it_works_is_waited_for_and_who_is_silent_is_not() {
        let mut flow = flow();
        assert_eq!(flow.stalled_at(), at(6), "for the dial and for the answer");
        flow.handle_opened(at(1)).unwrap();
        assert_eq!(flow.stalled_at(), at(4), "with nothing owed too");
        flow.handle_ack(at(3), &ack(0, Level::Disk)).unwrap();
        assert_eq!(flow.stalled_at(), at(6));
        flow.send_write(at(4), 1, 10);
        let mut now = at(4);
        while now < at(4) + STALL_MAX {
            assert!(now < flow.stalled_at());
            flow.handle_ack(now, &ack(0, Level::Disk)).unwrap();
            now += at(1);
        }
        assert_eq!(flow.stalled_at(), at(4) + STALL_MAX, "not for ever");
    }
}
