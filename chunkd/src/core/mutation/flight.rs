//! What a primary ordered and its own store has not applied yet: which ids, and from where on their
//! sessions have forgotten (`spec/replication.md` section 11.2).
//!
//! The store's table has what is applied, this has what comes behind it, so together they are the
//! table of all that was ordered. An id is here until it is known to be applied, and is looked for
//! here first.

use std::collections::{BTreeMap, VecDeque};

use sarsen_protocol::id::{RequestId, Serial, SessionId};
use sarsen_protocol::id_row::IdRowKind;
use sarsen_protocol::sabotage::{Check, is_in_force};

use super::words::{Ids, Known};

/// What a mutation is, as its id has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct What {
    pub(super) kind: IdRowKind,
    pub(super) length: u32,
    pub(super) crc32: u32,
}

/// What is known of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is to be done.
    New,
    /// It was done, or is ordered: at this place, in all states from this serial on at the latest.
    Done {
        offset: u32,
        serial: Serial,
    },
    /// Something else has its number.
    Other,
    Forgotten,
    SessionEnded,
}

#[derive(Debug)]
struct Ordered {
    what: What,
    offset: u32,
    serial: Serial,
}

#[derive(Debug, Default)]
struct Session {
    floor: u64,
    in_flight: usize,
}

#[derive(Debug, Default)]
pub(super) struct Flight {
    ids: BTreeMap<(SessionId, u64), Ordered>,
    sessions: BTreeMap<SessionId, Session>,
    by_serial: VecDeque<(Serial, SessionId, u64)>,
}

impl Flight {
    /// Rows and floors that the table may have beside those of the store.
    pub(super) fn rows(&self) -> usize {
        2 * self.by_serial.len()
    }

    /// What is known of an id, `applied` being the last serial known to be applied.
    pub(super) fn find(
        &self,
        request: &RequestId,
        what: What,
        applied: Serial,
        ids: &dyn Ids,
    ) -> Standing {
        let (session, number) = (request.session, request.number);
        if let Some(of_session) = self.sessions.get(&session)
            && number < of_session.floor
        {
            return Standing::Forgotten;
        }
        if let Some(ordered) = self.ids.get(&(session, number)) {
            return match ordered.what == what {
                true => Standing::Done {
                    offset: ordered.offset,
                    serial: ordered.serial,
                },
                false => Standing::Other,
            };
        }
        match ids.find(session, number) {
            _ if !is_in_force(Check::IdsKept) => Standing::New,
            Known::Unknown => Standing::New,
            Known::Forgotten => Standing::Forgotten,
            Known::SessionEnded => Standing::SessionEnded,
            Known::Row(row) => {
                let of_row = What {
                    kind: row.kind,
                    length: row.length,
                    crc32: row.crc32,
                };
                match of_row == what {
                    true => Standing::Done {
                        offset: row.offset,
                        serial: applied,
                    },
                    false => Standing::Other,
                }
            }
        }
    }

    /// A mutation has its serial, above all before.
    pub(super) fn order(&mut self, request: &RequestId, what: What, offset: u32, serial: Serial) {
        let (session, number) = (request.session, request.number);
        let ordered = Ordered {
            what,
            offset,
            serial,
        };
        self.ids.insert((session, number), ordered);
        let of_session = self.sessions.entry(session).or_default();
        of_session.floor = of_session.floor.max(request.lowest_outstanding);
        of_session.in_flight += 1;
        self.by_serial.push_back((serial, session, number));
    }

    /// Everything up to here is applied: the store's table has it.
    pub(super) fn applied(&mut self, serial: Serial) {
        while let Some((_, session, number)) = self.by_serial.pop_front_if(|(at, ..)| *at <= serial)
        {
            self.ids.remove(&(session, number));
            if let Some(of_session) = self.sessions.get_mut(&session) {
                of_session.in_flight -= 1;
                if of_session.in_flight == 0 {
                    self.sessions.remove(&session);
                }
            }
        }
    }
}
