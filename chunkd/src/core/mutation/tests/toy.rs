//! A store in memory: what an open chunk on disk would keep, and what a power cut leaves of it.

use std::collections::BTreeMap;

use sarsen_protocol::crc::crc32;
use sarsen_protocol::id::{ChunkVersion, RequestId, Serial, SessionId};
use sarsen_protocol::id_row::{IdRow, IdRowKind};
use sarsen_protocol::message::MutationKind;

use super::super::super::member::{Done, Found, Sealed};
use super::super::{Action, Ids, Known};

/// The serial that the chunk was sealed with, without bytes.
pub(super) const BASE: u64 = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) request: RequestId,
    pub(super) kind: MutationKind,
    pub(super) offset: u32,
    pub(super) bytes: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(super) struct Toy {
    pub(super) promised: u64,
    pub(super) version: u64,
    pub(super) begin: u64,
    pub(super) history: Vec<Applied>,
    /// How many of them are stable.
    pub(super) stable: usize,
    pub(super) commit_mark: u64,
    was_changed: bool,
}

/// What the store tells.
pub(super) enum Told {
    Applied(ChunkVersion, Serial),
    Reserved(u32),
    Flush,
    Done(Done),
    Nothing,
}

impl Toy {
    pub(super) const fn new() -> Self {
        Self {
            promised: 1,
            version: 1,
            begin: BASE,
            history: Vec::new(),
            stable: 0,
            commit_mark: BASE,
            was_changed: false,
        }
    }

    pub(super) fn serial(&self) -> u64 {
        BASE + self.history.len() as u64
    }

    pub(super) fn length(&self) -> u32 {
        let end = |one: &Applied| one.offset + u32::try_from(one.bytes.len()).unwrap();
        self.history.iter().map(end).max().unwrap_or(0)
    }

    pub(super) fn content(&self) -> Vec<u8> {
        let mut content = vec![0; self.length() as usize];
        for one in &self.history {
            let at = one.offset as usize;
            content[at..at + one.bytes.len()].copy_from_slice(&one.bytes);
        }
        content
    }

    pub(super) fn found(&self) -> Found {
        Found {
            promised: ChunkVersion(self.promised),
            version: ChunkVersion(self.version),
            begin_serial: Serial(self.begin),
            serial: Serial(self.serial()),
            commit_mark: Serial(self.commit_mark.min(self.begin)),
            base: Sealed {
                version: ChunkVersion(1),
                length: 0,
                crc32: 0,
            },
            is_open: self.was_changed,
            prepared: Default::default(),
        }
    }

    pub(super) fn lose_power(&mut self) {
        self.history.truncate(self.stable);
        self.commit_mark = BASE;
    }

    pub(super) fn carry_out(&mut self, action: Action) -> Told {
        match action {
            Action::Reserve { end } => Told::Reserved(end),
            Action::Apply(mutations) => {
                assert_eq!(mutations.version.0, self.version);
                assert!(
                    self.promised <= self.version,
                    "a promise ends what is older"
                );
                for one in mutations.each() {
                    assert_eq!(one.serial.0, self.serial() + 1, "serials without a gap");
                    assert_eq!(one.bytes.len(), one.row.length as usize);
                    assert_eq!(
                        super::super::recut::whole(
                            one.crcs,
                            65_536 - one.row.offset % 65_536,
                            one.row.length
                        ),
                        crc32(&one.bytes)
                    );
                    if one.row.kind == MutationKind::Append {
                        assert_eq!(one.row.offset, self.length());
                    }
                    let known = self.find(one.row.request.session, one.row.request.number);
                    assert_eq!(known, Known::Unknown, "none is done twice");
                    self.history.push(Applied {
                        request: one.row.request,
                        kind: one.row.kind,
                        offset: one.row.offset,
                        bytes: one.bytes.to_vec(),
                    });
                }
                self.was_changed = true;
                Told::Applied(mutations.version, mutations.last())
            }
            Action::Flush => Told::Flush,
            Action::Commit(mark) => {
                assert!(
                    mark.0 <= self.serial(),
                    "what is not here can't be committed"
                );
                assert!(mark.0 >= self.commit_mark, "commit marks rise");
                self.commit_mark = mark.0;
                Told::Nothing
            }
            Action::KeepPromise { version, .. } => {
                self.promised = version.0;
                self.stable = self.history.len();
                Told::Done(Done::PromiseKept {
                    length: self.length(),
                    ids: 0,
                })
            }
            Action::Begin {
                version, serial, ..
            } => {
                assert!(self.serial() >= serial.0 && serial.0 >= self.commit_mark);
                self.history
                    .truncate(usize::try_from(serial.0 - BASE).unwrap());
                self.stable = self.history.len();
                (self.version, self.begin) = (version.0, serial.0);
                Told::Done(Done::Begun {
                    length: self.length(),
                })
            }
            other => panic!("{other:?} is not for this store"),
        }
    }
}

impl Ids for Toy {
    fn find(&self, session: SessionId, number: u64) -> Known {
        let mut floors: BTreeMap<SessionId, u64> = BTreeMap::new();
        for one in &self.history {
            let floor = floors.entry(one.request.session).or_default();
            *floor = one.request.lowest_outstanding.max(*floor);
        }
        let is_it = |one: &&Applied| (one.request.session, one.request.number) == (session, number);
        match self.history.iter().find(is_it) {
            _ if number < floors.get(&session).copied().unwrap_or(0) => Known::Forgotten,
            None => Known::Unknown,
            Some(one) => Known::Row(IdRow {
                session,
                number,
                kind: match one.kind {
                    MutationKind::Write => IdRowKind::Write,
                    MutationKind::Append => IdRowKind::Append,
                },
                offset: one.offset,
                length: u32::try_from(one.bytes.len()).unwrap(),
                crc32: crc32(&one.bytes),
            }),
        }
    }

    fn rows(&self) -> usize {
        2 * self.history.len()
    }
}
