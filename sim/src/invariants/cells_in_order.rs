//! What is read of files that are written at offsets can have happened: every cell is whole and holds
//! what somebody wrote, no acknowledged write is lost, and writes, cuts and reads can be put into one
//! order that everybody saw (they are linearizable). A plain read may be old, but what it gives was
//! committed, and no client goes back in time behind what it wrote or read.

use std::collections::BTreeMap;
use std::time::Duration;

use sarsen_client::core::mutation;
use sarsen_protocol::id::{ChunkHandle, FileId, SessionId};
use sarsen_protocol::message::Level;

use super::{Facts, Invariant, Loss};
use crate::observation::{ChangeOutcome, Observation, Reader};
use crate::oracle::cells::{Cell, Value};
use crate::oracle::image::Layout;
use crate::oracle::op::{Change, Done, Op, OpId, Outcome};
use crate::workload::changes;

/// How old a plain read may be: its member's last contact with its chain (`dead_after`), in which a
/// frame may come as late as frames here can.
const AGE_MAX: Duration = Duration::from_secs(40);

/// One read.
struct Seen<'a> {
    reader: Reader,
    file: FileId,
    layout: Layout,
    began: Duration,
    newest: bool,
    offset: u64,
    bytes: &'a [u8],
}

/// What happened to all cells.
#[derive(Debug, Default)]
pub struct CellsInOrder {
    cells: BTreeMap<(FileId, u32), Cell>,
    /// What each client wrote or read of a cell: when it knew, and when the writing of that began.
    known: BTreeMap<(Reader, FileId, u32), Vec<(Duration, Duration)>>,
    /// Cuts under way: of which file, in front of which cell.
    cuts: BTreeMap<OpId, (FileId, u32)>,
    /// Chunks of which acks may be lost, as the log says, and since when.
    lost: BTreeMap<ChunkHandle, (Loss, Duration)>,
}

impl Invariant for CellsInOrder {
    fn name(&self) -> &'static str {
        "cells in order"
    }

    fn observe(&mut self, observation: &Observation<'_>, facts: &Facts) -> Result<(), String> {
        self.look_for_losses(facts);
        match observation {
            Observation::Begins { id, op } => self.begins(*id, op, facts),
            Observation::Ends { id, outcome } => self.ends(*id, outcome, facts.now),
            Observation::Numbered {
                file,
                change:
                    Change::Cells {
                        first,
                        count,
                        value,
                        ..
                    },
                ..
            } => {
                for cell in *first..first + count {
                    self.cell(*file, cell).writes(*value, facts.now);
                }
            }
            Observation::Changed {
                reader,
                id,
                outcome,
            } => return self.changed(*reader, *id, *outcome, facts),
            Observation::CellsRead {
                reader,
                file,
                layout,
                began,
                newest,
                offset,
                bytes,
                ..
            } => {
                let seen = Seen {
                    reader: *reader,
                    file: *file,
                    layout: *layout,
                    began: *began,
                    newest: *newest,
                    offset: *offset,
                    bytes,
                };
                return self.read(&seen, facts.now);
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self, _facts: &Facts) -> Result<(), String> {
        for ((file, number), cell) in &self.cells {
            let checked = cell.check();
            checked.map_err(|how| format!("cell {number} of file {file}: {how}"))?;
        }
        Ok(())
    }
}

impl CellsInOrder {
    fn cell(&mut self, file: FileId, number: u32) -> &mut Cell {
        self.cells.entry((file, number)).or_default()
    }

    /// The history of a chunk's cells begins anew where acks may be lost.
    fn look_for_losses(&mut self, facts: &Facts) {
        for (handle, loss) in facts.losses.iter() {
            let known = self.lost.get(&handle).map(|(known, _)| *known);
            let layout = layout_of(loss.file, facts);
            let Some(layout) = layout.filter(|_| known != Some(loss)) else {
                continue;
            };
            self.lost.insert(handle, (loss, facts.now));
            let is_accepted = loss.accepted > known.map_or(0, |known| known.accepted);
            let mut accepted = facts.losses.accepted().iter();
            let kept = accepted
                .rfind(|it| it.handle == handle)
                .and_then(|it| it.kept);
            let is_in_copy = |done: &mutation::Done| {
                done.handle == handle && kept.is_some_and(|it| it.holds(done.version, done.serial))
            };
            let cells = (loss.file, 0)..=(loss.file, u32::MAX);
            for ((_, number), cell) in self.cells.range_mut(cells) {
                if layout.index(*number) == loss.index {
                    match is_accepted {
                        true => cell.loses_all(facts.now, is_in_copy),
                        false => cell.loses(facts.now),
                    }
                }
            }
        }
    }

    /// When acks of a chunk were lost last.
    fn lost_at(&self, file: FileId, index: u32) -> Option<Duration> {
        let of_it = self
            .lost
            .values()
            .filter(|(loss, _)| (loss.file, loss.index) == (file, index));
        of_it.map(|(_, at)| *at).max()
    }

    fn begins(&mut self, id: OpId, op: &Op, facts: &Facts) {
        let Op::Truncate { path, layout, cell } = op else {
            return;
        };
        let mut files = facts.names.files();
        if let Some((_, file)) = files.find(|(it, _)| it == path) {
            self.cuts.insert(id, (file, *cell));
            // Cells that nobody writes hold zero anyway.
            for number in *cell..4 * layout.cells_in_chunk() {
                self.cell(file, number).cuts(id.0, facts.now);
            }
        }
    }

    fn ends(&mut self, id: OpId, outcome: &Outcome, now: Duration) {
        let Some((file, first)) = self.cuts.remove(&id) else {
            return;
        };
        let behind = self.cells.range_mut((file, first)..=(file, u32::MAX));
        for (_, cell) in behind {
            match outcome {
                Outcome::Done(Done::File(_)) => cell.was_cut(id.0, now),
                Outcome::Refused(_) | Outcome::NotNow => cell.not_cut(id.0),
                _ => {}
            }
        }
    }

    fn changed(
        &mut self,
        reader: Reader,
        id: (SessionId, u64),
        outcome: ChangeOutcome,
        facts: &Facts,
    ) -> Result<(), String> {
        let Some(&(file, change)) = facts.changes.get(&id) else {
            return Ok(());
        };
        let Change::Cells {
            first,
            count,
            value,
            ..
        } = change
        else {
            return Ok(());
        };
        for number in first..first + count {
            let cell = self.cells.entry((file, number)).or_default();
            match outcome {
                ChangeOutcome::Done(done) => {
                    // It may have been acknowledged before, by a version that is over.
                    if !facts.losses.covers(&done) {
                        let kept = (done.level == Level::Disk).then_some(done);
                        cell.acked(value, facts.now, kept);
                        self.knows(reader, file, number, value, facts.now);
                    }
                }
                ChangeOutcome::NotDone => {
                    let never = cell.not_done(value);
                    never.map_err(|how| format!("cell {number} of file {file}: {how}"))?;
                }
                ChangeOutcome::InDoubt => {}
            }
        }
        Ok(())
    }

    fn read(&mut self, seen: &Seen<'_>, now: Duration) -> Result<(), String> {
        let Seen { file, layout, .. } = *seen;
        let end = seen.offset + seen.bytes.len() as u64;
        for number in layout.cells_in(seen.offset, end) {
            let at = usize::try_from(layout.start(number) - seen.offset).unwrap_or(usize::MAX);
            let bytes = seen
                .bytes
                .get(at..at + layout.len(number))
                .unwrap_or_default();
            let value = layout.value(number, bytes);
            let taken = value.and_then(|value| self.take(seen, number, value, now));
            taken.map_err(|how| format!("cell {number} of file {file}: {how}"))?;
        }
        Ok(())
    }

    /// A cell was read.
    fn take(
        &mut self,
        seen: &Seen<'_>,
        number: u32,
        value: Value,
        now: Duration,
    ) -> Result<(), String> {
        let Seen { reader, file, .. } = *seen;
        let from = match seen.newest {
            true => seen.began,
            false => seen.began.saturating_sub(AGE_MAX),
        };
        let lost_at = self.lost_at(file, seen.layout.index(number));
        if lost_at.is_some_and(|lost| from <= lost) {
            // It may be of before, and may be gone.
            return Ok(());
        }
        let cell = self.cell(file, number);
        cell.read(value, from, now)?;
        cell.check()?;
        let known = self.known.get(&(reader, file, number));
        let known = known.into_iter().flatten();
        let known = known.filter(|(at, _)| lost_at.is_none_or(|lost| *at > lost));
        let before = known
            .filter(|(at, _)| *at <= seen.began)
            .map(|(_, began)| *began);
        if let Some(began) = before.max()
            && self.cell(file, number).is_older(value, began)
        {
            return Err(format!(
                "a client goes back in time to {value:#x}, behind what it knew to be written at {began:?}"
            ));
        }
        self.knows(reader, file, number, value, now);
        Ok(())
    }

    /// A client wrote or read a value.
    fn knows(&mut self, reader: Reader, file: FileId, number: u32, value: Value, now: Duration) {
        if let Some(began) = self.cell(file, number).began(value) {
            let known = self.known.entry((reader, file, number)).or_default();
            known.push((now, began));
        }
    }
}

fn layout_of(file: FileId, facts: &Facts) -> Option<Layout> {
    let mut files = facts.names.files();
    let (path, _) = files.find(|(_, it)| *it == file)?;
    changes::layout(path)
}
