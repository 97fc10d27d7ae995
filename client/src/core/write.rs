//! One chunk on its way down a chain: the client's end of a write stream (`spec/wire.md`
//! section 12.1).
//!
//! The client sends `WriteOpen`, any number of `WriteData`, and `WriteSeal`, without waiting for
//! more than room in its window; the chain answers `WriteOpened`, acks, and `WriteSealed`, in
//! this order. [`WriteStream`] counts what was sent and acknowledged, says whether another piece
//! fits into the window, and checks every answer. Acks are cumulative; one that repeats the last
//! is a keep-alive. The first member was heard from within `suspect_after`, or is given up: it says
//! by itself that it works, whatever it waits for, so that a slow disk, a slow source, or a member
//! further down that hangs is never held against it. A stream that failed is never gone on with:
//! its chunk is sent again whole.

use std::collections::VecDeque;
use std::time::Duration;

use sarsen_protocol::id::{Serial, ServerId};
use sarsen_protocol::message::{Hop, Level, WriteAck, WriteSealed};

use sarsen_protocol::status::{Retry, Status};

use super::window::{Acked, Window, Windows};

/// How long nothing may come further that is owed, however often the chain says that it works:
/// beyond what each member grants its own disk and its own link. Of mutations as of uploads.
pub const STALL_MAX: Duration = Duration::from_secs(300);

/// An answer that the chain could not have given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteFault {
    /// An ack of a serial that was not sent, or lower than one before.
    #[error("the chain acknowledged serial {serial}, which was not its turn")]
    AckOutOfTurn {
        /// Which.
        serial: Serial,
    },
    /// `WriteOpened` or `WriteSealed` when it was not awaited.
    #[error("the chain answered what it was not asked")]
    AnswerOutOfTurn,
    /// The chain sealed other bytes than were sent.
    #[error("the chain sealed {length} bytes with CRC {crc32:08x}, which is not what was sent")]
    SealedOtherBytes {
        /// How many.
        length: u32,
        /// Theirs.
        crc32: u32,
    },
    /// A member is missing from the answer, is no member, or reached a lower level than asked.
    #[error("server {server} did not seal as asked")]
    NotSealedAsAsked {
        /// Which.
        server: ServerId,
    },
}

/// A piece that is on its way.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    serial: Serial,
    len: u32,
    /// Of its bytes.
    end: u32,
    sent_at: Duration,
    /// Bytes that were acknowledged then.
    acked_before: u32,
}

/// The client's end of a write stream.
#[derive(Clone, Debug)]
pub struct WriteStream {
    level: Level,
    /// Whether `WriteOpened` came.
    opened: bool,
    /// The CRC that `WriteSeal` told, once it was sent.
    seal_crc: Option<u32>,
    sent: u32,
    acked: u32,
    last_serial: Serial,
    acked_serial: Serial,
    /// The pieces that are not acknowledged.
    in_flight: VecDeque<InFlight>,
    chain: Vec<ServerId>,
    window: Window,
    /// Since when an answer is owed; `None` while none is.
    owed_since: Option<Duration>,
    suspect_after: Duration,
    /// When the first member was last heard from.
    heard: Duration,
}

impl WriteStream {
    /// A stream whose `WriteOpen` is sent `now`, to be sealed at `level`; a member that is silent
    /// for `suspect_after` hangs. [`Self::leave`] is to be called when it is over.
    #[must_use]
    pub fn new(
        now: Duration,
        level: Level,
        suspect_after: Duration,
        chain: &[Hop],
        windows: &mut Windows,
    ) -> Self {
        Self {
            level,
            chain: chain.iter().map(|hop| hop.server).collect(),
            opened: false,
            seal_crc: None,
            sent: 0,
            acked: 0,
            last_serial: Serial::NONE,
            acked_serial: Serial::NONE,
            in_flight: VecDeque::new(),
            window: windows.begin(now),
            owed_since: Some(now),
            suspect_after,
            heard: now,
        }
    }

    /// Bytes acknowledged.
    #[must_use]
    pub const fn acked(&self) -> u32 {
        self.acked
    }

    /// Whether the chain is known to be ready.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.opened
    }

    /// Whether another piece may be sent now: there is room for a part of it in the window.
    #[must_use]
    pub fn has_room(&self, now: Duration, windows: &Windows) -> bool {
        self.sent - self.acked < windows.bytes(now, &self.window)
    }

    /// The stream is over, well or not.
    pub fn leave(&self, windows: &mut Windows) {
        windows.end();
    }

    /// A piece of `len` bytes is sent: its serial, and its offset in the chunk.
    pub fn send(&mut self, now: Duration, len: u32) -> (Serial, u32) {
        let offset = self.sent;
        self.sent += len;
        self.last_serial = Serial(self.last_serial.0 + 1);
        self.in_flight.push_back(InFlight {
            serial: self.last_serial,
            len,
            end: self.sent,
            sent_at: now,
            acked_before: self.acked,
        });
        self.owed_since.get_or_insert(now);
        (self.last_serial, offset)
    }

    /// `WriteSeal` is sent, of all that was sent, with its CRC.
    pub fn seal(&mut self, now: Duration, crc32: u32) {
        self.seal_crc = Some(crc32);
        self.owed_since = Some(now);
    }

    /// `WriteOpened` came.
    ///
    /// # Errors
    /// [`WriteFault::AnswerOutOfTurn`].
    pub fn handle_opened(&mut self, now: Duration) -> Result<(), WriteFault> {
        if self.opened {
            return Err(WriteFault::AnswerOutOfTurn);
        }
        self.heard = now;
        self.opened = true;
        self.answered(now);
        Ok(())
    }

    /// `WriteAck` came: an acknowledgement, or the last one again as a keep-alive.
    ///
    /// # Errors
    /// [`WriteFault::AckOutOfTurn`], [`WriteFault::AnswerOutOfTurn`].
    pub fn handle_ack(
        &mut self,
        now: Duration,
        ack: &WriteAck,
        windows: &mut Windows,
    ) -> Result<(), WriteFault> {
        let serial = ack.serial;
        if serial == self.acked_serial {
            self.heard = now;
            return Ok(());
        }
        if !self.opened {
            return Err(WriteFault::AnswerOutOfTurn);
        }
        let lowest = self.in_flight.front().map(|piece| piece.serial);
        if serial > self.last_serial || lowest.is_none_or(|lowest| serial < lowest) {
            return Err(WriteFault::AckOutOfTurn { serial });
        }
        let mut last = None;
        while let Some(&piece) = self.in_flight.front()
            && piece.serial <= serial
        {
            self.acked = piece.end;
            last = self.in_flight.pop_front();
        }
        if let Some(piece) = last {
            let acked = Acked {
                round_trip: now.saturating_sub(piece.sent_at),
                len: piece.len,
                bytes: self.acked - piece.acked_before,
            };
            windows.handle_ack(now, &mut self.window, &self.chain, acked);
        }
        self.acked_serial = serial;
        self.heard = now;
        self.answered(now);
        Ok(())
    }

    /// `WriteSealed` came: the members that hold the chunk now.
    ///
    /// # Errors
    /// What the chain did not do as asked.
    pub fn handle_sealed(
        &mut self,
        sealed: &WriteSealed,
        chain: &[Hop],
    ) -> Result<Vec<ServerId>, WriteFault> {
        let (true, Some(crc32)) = (self.opened, self.seal_crc) else {
            return Err(WriteFault::AnswerOutOfTurn);
        };
        if (sealed.length, sealed.crc32) != (self.sent, crc32) {
            return Err(WriteFault::SealedOtherBytes {
                length: sealed.length,
                crc32: sealed.crc32,
            });
        }
        let servers: Vec<_> = sealed.members.iter().map(|member| member.server).collect();
        for hop in chain {
            let as_asked = sealed
                .members
                .iter()
                .any(|member| member.server == hop.server && member.level >= self.level);
            if !as_asked {
                return Err(WriteFault::NotSealedAsAsked { server: hop.server });
            }
        }
        let is_member = |server: &&ServerId| chain.iter().any(|hop| hop.server == **server);
        if let Some(&server) = servers.iter().find(|server| !is_member(server)) {
            return Err(WriteFault::NotSealedAsAsked { server });
        }
        self.owed_since = None;
        Ok(servers)
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

    /// Something came; something else may still be owed.
    fn answered(&mut self, now: Duration) {
        let owes = !self.opened || self.seal_crc.is_some() || !self.in_flight.is_empty();
        self.owed_since = owes.then_some(now);
    }
}

/// Whether another server may do what failed with `status`, rather than the same one later or
/// with another ticket.
#[must_use]
pub const fn is_a_servers_fault(status: Status) -> bool {
    match status.retry() {
        Retry::Elsewhere | Retry::Never | Retry::Reconnect => true,
        Retry::Wait | Retry::Refresh => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::limit::Limit;
    use sarsen_protocol::message::MemberLevel;

    const MIB: u32 = 1024 * 1024;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn ack(serial: u64) -> WriteAck {
        WriteAck {
            serial: Serial(serial),
            commit_mark: Serial(serial),
            level: Level::Memory,
            copies: 2,
        }
    }

    fn chain() -> Vec<Hop> {
        [4, 5]
            .map(|id| Hop {
                server: ServerId(id),
                data_addr: String::new(),
            })
            .into()
    }

    fn stream() -> (WriteStream, Windows) {
        let mut windows = Windows::default();
        let stream = WriteStream::new(at(0), Level::Disk, at(3), &chain(), &mut windows);
        (stream, windows)
    }

    fn sealed(length: u32, crc32: u32, levels: [Level; 2]) -> WriteSealed {
        let members = chain().into_iter().zip(levels);
        WriteSealed {
            length,
            crc32,
            members: members
                .map(|(hop, level)| MemberLevel {
                    server: hop.server,
                    level,
                })
                .collect(),
        }
    }

    #[test]
    fn the_window_closes_and_a_cumulative_ack_opens_it() {
        let (mut stream, mut windows) = stream();
        let mut sent = Vec::new();
        while stream.has_room(at(0), &windows) {
            sent.push(stream.send(at(0), MIB));
        }
        assert_eq!(sent, [(Serial(1), 0), (Serial(2), MIB)]);
        stream.handle_opened(at(1)).unwrap();
        stream.handle_ack(at(1), &ack(2), &mut windows).unwrap();
        assert_eq!(stream.acked(), 2 * MIB);
        // What filled the window came back as fast as it can, so more may be on its way.
        for _ in 0..3 {
            assert!(stream.has_room(at(1), &windows));
            stream.send(at(1), MIB);
        }
        assert!(!stream.has_room(at(1), &windows));
        stream.leave(&mut windows);
    }

    #[test]
    fn answers_that_could_not_be_are_refused() {
        let (mut stream, mut windows) = stream();
        let out_of_turn = |serial| {
            Err(WriteFault::AckOutOfTurn {
                serial: Serial(serial),
            })
        };
        let unopened = stream.handle_ack(at(0), &ack(1), &mut windows);
        assert_eq!(unopened, Err(WriteFault::AnswerOutOfTurn));
        stream.handle_opened(at(0)).unwrap();
        let again = stream.handle_opened(at(0));
        assert_eq!(again, Err(WriteFault::AnswerOutOfTurn));
        assert_eq!(
            stream.handle_ack(at(0), &ack(1), &mut windows),
            out_of_turn(1)
        );
        stream.send(at(0), 10);
        assert_eq!(
            stream.handle_ack(at(0), &ack(2), &mut windows),
            out_of_turn(2)
        );
        assert_eq!(stream.handle_ack(at(0), &ack(1), &mut windows), Ok(()));
        assert_eq!(
            stream.handle_ack(at(0), &ack(0), &mut windows),
            out_of_turn(0)
        );
        let early = stream.handle_sealed(&sealed(10, 1, [Level::Disk; 2]), &chain());
        assert_eq!(early, Err(WriteFault::AnswerOutOfTurn));
    }

    #[test]
    fn a_seal_counts_only_as_asked() {
        let (mut stream, mut windows) = stream();
        stream.send(at(0), 10);
        stream.handle_opened(at(0)).unwrap();
        stream.handle_ack(at(0), &ack(1), &mut windows).unwrap();
        stream.seal(at(0), 77);
        let mut handle = |it: WriteSealed| stream.handle_sealed(&it, &chain());
        assert_eq!(
            handle(sealed(9, 77, [Level::Disk; 2])),
            Err(WriteFault::SealedOtherBytes {
                length: 9,
                crc32: 77
            })
        );
        let server = ServerId(5);
        assert_eq!(
            handle(sealed(10, 77, [Level::Disk, Level::Memory])),
            Err(WriteFault::NotSealedAsAsked { server })
        );
        let mut missing = sealed(10, 77, [Level::Disk; 2]);
        missing.members.pop();
        assert_eq!(
            handle(missing),
            Err(WriteFault::NotSealedAsAsked { server })
        );
        assert_eq!(
            handle(sealed(10, 77, [Level::Disk; 2])),
            Ok(vec![ServerId(4), server])
        );
    }

    #[test]
    fn who_says_that_it_works_is_waited_for_and_who_is_silent_is_not() {
        let (mut stream, mut windows) = stream();
        assert_eq!(stream.stalled_at(), at(3));
        stream.handle_ack(at(2), &ack(0), &mut windows).unwrap();
        assert_eq!(stream.stalled_at(), at(5), "a keep-alive before it is open");
        stream.handle_opened(at(3)).unwrap();
        stream.send(at(4), 10);
        stream.handle_ack(at(5), &ack(1), &mut windows).unwrap();
        assert_eq!(stream.stalled_at(), at(8), "with nothing owed too");
        stream.handle_ack(at(7), &ack(1), &mut windows).unwrap();
        assert_eq!((stream.acked(), stream.stalled_at()), (10, at(10)));
        stream.seal(at(8), 1);
        let mut now = at(8);
        while now < at(8) + STALL_MAX {
            assert!(now < stream.stalled_at());
            stream.handle_ack(now, &ack(1), &mut windows).unwrap();
            now += at(1);
        }
        assert_eq!(stream.stalled_at(), at(8) + STALL_MAX, "not for ever");
    }

    /// What share of a limit streams reach that send under it over a way that takes `round_trip`, as
    /// `net/write.rs` does: room in the window, then the limit's leave, then the piece.
    fn share_of_limit(rate: u64, round_trip: Duration) -> f64 {
        const STREAMS: usize = 4;
        let mut limit = Limit::new(rate).unwrap();
        let mut windows = Windows::default();
        let len = limit.write_len();
        let mut streams: Vec<_> = (0..STREAMS)
            .map(|_| WriteStream::new(at(0), Level::Disk, at(3), &chain(), &mut windows))
            .collect();
        // A piece is paid for, or acknowledged.
        let mut events = std::collections::BTreeMap::new();
        let mut waiting: Vec<usize> = (0..STREAMS).collect();
        let (mut now, mut moved, mut number) = (at(0), 0_u64, 0);
        for stream in &mut streams {
            stream.handle_opened(now).unwrap();
        }
        while now < at(9) {
            waiting.retain(|&which| {
                let has_room = streams[which].has_room(now, &windows);
                if has_room {
                    number += 1;
                    events.insert((limit.take(now, len), number), (which, None));
                }
                !has_room
            });
            let ((time, _), (which, acked)) = events.pop_first().unwrap();
            now = time;
            let stream = &mut streams[which];
            match acked {
                None => {
                    let (serial, _) = stream.send(now, len);
                    moved += if now >= at(3) { u64::from(len) } else { 0 };
                    number += 1;
                    events.insert((now + round_trip, number), (which, Some(serial)));
                    waiting.push(which);
                }
                Some(serial) => {
                    let ack = ack(serial.0);
                    stream.handle_ack(now, &ack, &mut windows).unwrap();
                }
            }
        }
        moved as f64 / (rate * 6) as f64
    }

    /// Pieces that are cut for a limit are shorter than what windows are found with: they stay as
    /// they began, which is enough for every rate that cuts them.
    #[test]
    fn a_limit_is_reached_with_windows_that_its_pieces_do_not_train() {
        for rate in [
            1 << 20,
            3_000_000,
            8_000_000,
            8_400_000,
            30_000_000,
            100_000_000,
        ] {
            for round_trip in [1, 50, 200] {
                let share = share_of_limit(rate, Duration::from_millis(round_trip));
                // The pieces at both ends of the time may both be in it.
                assert!(
                    (0.95..=1.03).contains(&share),
                    "{rate}, {round_trip} ms: {share}"
                );
            }
        }
    }
}
