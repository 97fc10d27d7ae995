//! The id table of an open chunk: a function of its history (`spec/replication.md` section 11.1,
//! `spec/records.md` section 5).
//!
//! Each mutation removes the rows that its session no longer waits for, and adds its own. Each
//! change can be undone, latest first, until its mutation is committed.

use std::collections::BTreeMap;

use sarsen_protocol::id::{RequestId, SessionId};
use sarsen_protocol::id_row::{ID_ROWS_MAX, IdRow, IdRowKind};
use thiserror::Error;

/// Which mutations are in the chunk, as far as somebody may ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdTable {
    /// By session and number.
    rows: BTreeMap<(SessionId, u64), IdRow>,
    /// Of a session the number below which rows were removed; above 1.
    floors: BTreeMap<SessionId, u64>,
    /// Rows of sessions below this one were dropped.
    ended: SessionId,
}

/// What the table says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Rows of its session were dropped: it can't be told whether it was done.
    SessionEnded,
    /// It is below its session's floor: its client has said that it no longer waits for it.
    Forgotten,
    /// It was done, or something else was under its number.
    Row(IdRow),
    /// It was never done.
    Unknown,
}

/// What one mutation changed, to be undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdChange {
    added: (SessionId, u64),
    removed: Vec<IdRow>,
    floor_before: Option<u64>,
}

/// Why a mutation's id is not taken. A primary looks ids up before it orders, so this is its fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IdError {
    /// The request was done, or forgotten, or its session has ended.
    #[error("the mutation's id is not a new one")]
    NotNew,
    /// The table has all the rows that it may have.
    #[error("the id table is full")]
    Full,
    /// A number stands twice.
    #[error("an id stands twice in the table")]
    Twice,
}

impl IdTable {
    /// The table that a sealed file or a checkpoint holds.
    ///
    /// # Errors
    /// [`IdError::Twice`], [`IdError::Full`].
    pub fn from_rows(rows: &[IdRow]) -> Result<Self, IdError> {
        let mut table = Self::default();
        for row in rows {
            let stood = match row.kind {
                IdRowKind::Ended => std::mem::replace(&mut table.ended, row.session).is_some(),
                IdRowKind::Floor => table.floors.insert(row.session, row.number).is_some(),
                IdRowKind::Write | IdRowKind::Append => {
                    table.rows.insert((row.session, row.number), *row).is_some()
                }
            };
            if stood {
                return Err(IdError::Twice);
            }
        }
        match table.len() <= ID_ROWS_MAX {
            true => Ok(table),
            false => Err(IdError::Full),
        }
    }

    /// All rows, in the table's order.
    #[must_use]
    pub fn rows(&self) -> Vec<IdRow> {
        let bare = |session, number, kind| IdRow {
            session,
            number,
            kind,
            offset: 0,
            length: 0,
            crc32: 0,
        };
        let floors = self
            .floors
            .iter()
            .map(|(&session, &floor)| bare(session, floor, IdRowKind::Floor));
        let ended = self.ended.is_some().then_some(self.ended);
        let ended = ended.map(|session| bare(session, 1, IdRowKind::Ended));
        let mut rows: Vec<IdRow> = self.rows.values().copied().collect();
        rows.extend(floors);
        rows.extend(ended);
        rows.sort_unstable_by_key(|row| (row.session, row.number, row.kind));
        rows
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len() + self.floors.len() + usize::from(self.ended.is_some())
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether another mutation's row and floor have a place, and the row that a seal adds behind them.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let ended = usize::from(!self.ended.is_some());
        self.len() + 2 + ended <= ID_ROWS_MAX
    }

    /// What is known of a request.
    #[must_use]
    pub fn find(&self, session: SessionId, number: u64) -> Lookup {
        if session < self.ended {
            return Lookup::SessionEnded;
        }
        if let Some(row) = self.rows.get(&(session, number)) {
            return Lookup::Row(*row);
        }
        match self.floors.get(&session) {
            Some(&floor) if number < floor => Lookup::Forgotten,
            _ => Lookup::Unknown,
        }
    }

    /// A mutation is applied: `row` is its place and bytes under the request's id.
    ///
    /// # Errors
    /// [`IdError::NotNew`], [`IdError::Full`]; nothing is changed then.
    pub fn apply(&mut self, request: &RequestId, row: IdRow) -> Result<IdChange, IdError> {
        let session = request.session;
        if self.find(session, request.number) != Lookup::Unknown {
            return Err(IdError::NotNew);
        }
        if !self.has_room() {
            return Err(IdError::Full);
        }
        let floor_before = self.floors.get(&session).copied();
        let floor = floor_before.unwrap_or(1).max(request.lowest_outstanding);
        let below: Vec<u64> = self
            .rows
            .range((session, 0)..(session, floor))
            .map(|(&(_, number), _)| number)
            .collect();
        let removed = below
            .iter()
            .filter_map(|&number| self.rows.remove(&(session, number)))
            .collect();
        if floor > 1 {
            self.floors.insert(session, floor);
        }
        let added = (session, request.number);
        self.rows.insert(added, row);
        Ok(IdChange {
            added,
            removed,
            floor_before,
        })
    }

    /// Takes the latest change back that was not taken back yet.
    pub fn undo(&mut self, change: &IdChange) {
        let (session, _) = change.added;
        self.rows.remove(&change.added);
        let again = change.removed.iter();
        self.rows
            .extend(again.map(|row| ((row.session, row.number), *row)));
        match change.floor_before {
            Some(floor) => self.floors.insert(session, floor),
            None => self.floors.remove(&session),
        };
    }

    /// The table as a seal leaves it: without the sessions below `sessions_end`, which are over.
    #[must_use]
    pub fn sealed(&self, sessions_end: SessionId) -> Self {
        let ended = self.ended.max(sessions_end);
        Self {
            rows: self
                .rows
                .range((ended, 0)..)
                .map(|(&id, &row)| (id, row))
                .collect(),
            floors: self
                .floors
                .range(ended..)
                .map(|(&session, &floor)| (session, floor))
                .collect(),
            ended,
        }
    }
}
