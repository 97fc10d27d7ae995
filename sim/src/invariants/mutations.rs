//! Files that change: every acknowledged record once, where it was told to be, and every cell as if
//! each write and read happened at one moment (`spec/replication.md` section 15).

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Facts, Invariant};
use crate::observation::Observation;
use crate::oracle::cells::Cell;
use crate::oracle::op::{Done, Op, OpId, Outcome};
use crate::oracle::records::Appends;

/// What clients did to files that change.
#[derive(Debug, Default)]
pub struct Mutations {
    appends: BTreeMap<String, Appends>,
    cells: BTreeMap<(String, u32), Cell>,
    under_way: BTreeMap<OpId, (Op, Duration)>,
}

impl Invariant for Mutations {
    fn name(&self) -> &'static str {
        "mutations"
    }

    fn observe(&mut self, observation: &Observation<'_>, facts: &Facts) -> Result<(), String> {
        match observation {
            Observation::Begins { id, op } => self.begins(*id, op, facts.now),
            Observation::Ends { id, outcome } => {
                if let Some((op, began)) = self.under_way.remove(id) {
                    return self.ends(&op, began, outcome, facts.now);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self, _facts: &Facts) -> Result<(), String> {
        for ((path, number), cell) in &self.cells {
            let checked = cell.check();
            checked.map_err(|how| format!("cell {number} of {path}: {how}"))?;
        }
        Ok(())
    }
}

impl Mutations {
    fn begins(&mut self, id: OpId, op: &Op, now: Duration) {
        match op {
            Op::Append { path, number, .. } => {
                let appends = self.appends.entry(path.clone()).or_default();
                appends.begins(*number, now);
            }
            Op::WriteCell { path, cell, value } => self.cell(path, *cell).writes(*value, now),
            Op::ReadRecords { .. } | Op::ReadCell { .. } => {}
            _ => return,
        }
        self.under_way.insert(id, (op.clone(), now));
    }

    fn ends(
        &mut self,
        op: &Op,
        began: Duration,
        outcome: &Outcome,
        now: Duration,
    ) -> Result<(), String> {
        match (op, outcome) {
            (Op::Append { path, number, .. }, Outcome::Done(Done::Appended(offset))) => {
                let appends = self.appends.entry(path.clone()).or_default();
                appends.acked(*number, *offset, now)
            }
            (Op::Append { path, number, .. }, Outcome::Refused(_) | Outcome::NotStored) => {
                self.appends.entry(path.clone()).or_default().not_done(*number);
                Ok(())
            }
            (Op::ReadRecords { path }, Outcome::Done(Done::Records(records))) => {
                let appends = self.appends.entry(path.clone()).or_default();
                let read = appends.read(records, began);
                read.map_err(|how| format!("{path}: {how}"))
            }
            (Op::WriteCell { path, cell, value }, Outcome::Done(_)) => {
                self.cell(path, *cell).acked(*value, now);
                Ok(())
            }
            (Op::WriteCell { path, cell, value }, Outcome::Refused(_) | Outcome::NotStored) => {
                let never = self.cell(path, *cell).not_done(*value);
                never.map_err(|how| format!("cell {cell} of {path}: {how}"))
            }
            (Op::ReadCell { path, cell }, Outcome::Done(Done::Cell(value))) => {
                let of = self.cell(path, *cell);
                let read = of.read(*value, began, now).and_then(|()| of.check());
                read.map_err(|how| format!("cell {cell} of {path}: {how}"))
            }
            _ => Ok(()),
        }
    }

    fn cell(&mut self, path: &str, number: u32) -> &mut Cell {
        self.cells.entry((path.to_owned(), number)).or_default()
    }
}
