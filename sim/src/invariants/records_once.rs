//! Every acknowledged append is once in what a reader of records is given, at the offset that was
//! told; what is in doubt at most once; what was refused never. And nothing comes where a reader has
//! passed: only the last chunk of a file takes records (`spec/replication.md` section 9).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use sarsen_client::core::mutation::Done;
use sarsen_protocol::id::{FileId, SessionId};

use super::{Facts, Invariant, file_offset};
use crate::observation::{ChangeOutcome, FoundRecord, Observation};
use crate::oracle::op::Change;
use crate::oracle::records::{Appends, RecordId};
use crate::workload::CHUNK_SIZE;

/// What was appended.
#[derive(Debug, Default)]
pub struct RecordsOnce {
    appends: BTreeMap<FileId, Appends>,
    acked: Vec<(Done, FileId, RecordId)>,
    /// Far writes of each file.
    far_writes: BTreeMap<FileId, Vec<FarWrite>>,
    /// How many losses were looked at.
    losses: u64,
    /// Where readers have passed, since something of the file was lost.
    passed: BTreeMap<FileId, Vec<Passed>>,
}

/// A reader has passed a place.
#[derive(Debug)]
struct Passed {
    end: u64,
    /// What it was given.
    given: BTreeSet<RecordId>,
    /// When it began to read.
    began: Duration,
}

/// Zeros that lie over a record where that came to their place before they were done: what mixes writes at
/// offsets with appends can't be told to keep what it wrote over.
#[derive(Debug)]
struct FarWrite {
    id: (SessionId, u64),
    /// From where to the end of its chunk: a reader finds no record by going on in the middle of one.
    range: Range<u64>,
    /// When it was acknowledged.
    acked: Option<Duration>,
}

impl Invariant for RecordsOnce {
    fn name(&self) -> &'static str {
        "records once"
    }

    fn observe(&mut self, observation: &Observation<'_>, facts: &Facts) -> Result<(), String> {
        match observation {
            Observation::Numbered {
                file,
                id,
                change: Change::Record { len },
                ..
            } => {
                let appends = self.appends.entry(*file).or_default();
                appends.begins(named(*id), *len, facts.now);
                Ok(())
            }
            Observation::Numbered {
                file,
                id,
                change: Change::Zeros { index, offset, .. },
                ..
            } => {
                let chunk = u64::from(*index) * u64::from(CHUNK_SIZE);
                self.far_writes.entry(*file).or_default().push(FarWrite {
                    id: *id,
                    range: chunk + u64::from(*offset)..chunk + u64::from(CHUNK_SIZE),
                    acked: None,
                });
                Ok(())
            }
            Observation::Changed { id, outcome, .. } => self.changed(*id, *outcome, facts),
            Observation::RecordsRead {
                file,
                began,
                followed,
                end,
                records,
                leftover,
            } => {
                self.forgive(facts);
                // Who read the beginning of a record that was gone before its end was read.
                let lost_meanwhile = facts.losses.last_at(*file).is_some_and(|at| at >= *began);
                let may_be_zeros = self.write_over(*file);
                if *leftover > 0 && !lost_meanwhile && !may_be_zeros {
                    return Err(format!("file {file} has {leftover} bytes of no record"));
                }
                if *followed && lost_meanwhile {
                    // What it was given may have been lost, and be elsewhere by now.
                    return Ok(());
                }
                let appends = self.appends.entry(*file).or_default();
                check_payloads(appends, records)?;
                let places: Vec<_> = records.iter().map(|it| (it.offset, it.id)).collect();
                let may_be_back = |at, began| facts.losses.may_be_back(*file, at, began);
                // Who follows waits in front of what is open still, whatever lies behind it.
                let since = if *followed { Duration::ZERO } else { *began };
                let read = appends.read(&places, since, may_be_back);
                read.map_err(|how| format!("file {file}: {how}"))?;
                if !lost_meanwhile {
                    let given: BTreeSet<RecordId> = records.iter().map(|it| it.id).collect();
                    let passed = appends.passed(*end, &given);
                    passed.map_err(|how| format!("file {file}: {how}"))?;
                    self.passed.entry(*file).or_default().push(Passed {
                        end: *end,
                        given,
                        began: *began,
                    });
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl RecordsOnce {
    fn changed(
        &mut self,
        id: (SessionId, u64),
        outcome: ChangeOutcome,
        facts: &Facts,
    ) -> Result<(), String> {
        let file = match facts.changes.get(&id) {
            Some((file, Change::Record { .. })) => file,
            Some((file, Change::Zeros { .. })) => {
                self.far_write_ends(*file, id, outcome, facts.now);
                return Ok(());
            }
            _ => return Ok(()),
        };
        match outcome {
            ChangeOutcome::Done(done) => {
                self.forgive(facts);
                let appends = self.appends.entry(*file).or_default();
                let acked = appends.acked(named(id), file_offset(&done), facts.now);
                self.acked.push((done, *file, named(id)));
                if facts.losses.covers(&done) {
                    appends.may_be_lost(named(id));
                }
                self.write_over(*file);
                if self.appends[file].is_lost(named(id)) {
                    // Where it was told to be something else may be.
                    return Ok(());
                }
                acked.map_err(|how| format!("file {file}: {how}"))?;
                let offset = file_offset(&done);
                let is_behind = |it: &&Passed| offset < it.end && !it.given.contains(&named(id));
                let mut passed = self.passed.get(file).into_iter().flatten();
                passed.find(is_behind).map_or(Ok(()), |passed| {
                    Err(format!(
                        "file {file}: {id:?} was appended at {offset}, and a reader has passed {}",
                        passed.end
                    ))
                })
            }
            ChangeOutcome::NotDone => {
                let appends = self.appends.entry(*file).or_default();
                appends.not_done(named(id));
                Ok(())
            }
            ChangeOutcome::InDoubt => Ok(()),
        }
    }

    fn far_write_ends(
        &mut self,
        file: FileId,
        id: (SessionId, u64),
        outcome: ChangeOutcome,
        now: Duration,
    ) {
        let writes = self.far_writes.entry(file).or_default();
        match outcome {
            ChangeOutcome::Done(_) => {
                let mine = writes.iter_mut().find(|it| it.id == id);
                mine.expect("it was numbered").acked = Some(now);
            }
            ChangeOutcome::NotDone => writes.retain(|it| it.id != id),
            ChangeOutcome::InDoubt => {}
        }
    }

    /// Records that far writes may lie over may be gone; whether there may be such.
    fn write_over(&mut self, file: FileId) -> bool {
        let Some(appends) = self.appends.get_mut(&file) else {
            return false;
        };
        let writes = self.far_writes.get(&file).into_iter().flatten();
        let over = writes.map(|it| appends.may_be_written_over(&it.range, it.acked));
        over.fold(false, |any, it| any | it)
    }

    /// Of what the log says that it may be gone, nothing has to be there.
    fn forgive(&mut self, facts: &Facts) {
        if std::mem::replace(&mut self.losses, facts.losses.count) == facts.losses.count {
            return;
        }
        for (file, passed) in &mut self.passed {
            let lost_at = facts.losses.last_at(*file);
            passed.retain(|it| lost_at.is_none_or(|at| it.began > at));
        }
        for (done, file, id) in &self.acked {
            if facts.losses.covers(done)
                && let Some(appends) = self.appends.get_mut(file)
            {
                appends.may_be_lost(*id);
            }
        }
    }
}

fn check_payloads(appends: &Appends, records: &[FoundRecord]) -> Result<(), String> {
    let is_other = |it: &&FoundRecord| !appends.is_payload(it.id, &it.payload);
    match records.iter().find(is_other) {
        None => Ok(()),
        Some(it) => Err(format!(
            "{:?} at {} does not hold what was appended",
            it.id, it.offset
        )),
    }
}

const fn named((session, number): (SessionId, u64)) -> RecordId {
    RecordId { session, number }
}

#[cfg(test)]
mod tests {
    use sarsen_protocol::id::{ChunkHandle, ChunkVersion};

    use super::*;

    /// A record that was acknowledged from memory was read half when it was lost, and others lay
    /// there when the rest was read.
    #[test]
    fn what_was_lost_under_a_reading_leaves_bytes_of_no_record() {
        let file = FileId(1);
        let at = Duration::from_secs;
        let mut facts = Facts::default();
        let read = |facts: &Facts, began: Duration, leftover: u64| {
            let observation = Observation::RecordsRead {
                file,
                began,
                followed: false,
                end: 0,
                records: &[],
                leftover,
            };
            RecordsOnce::default().observe(&observation, facts)
        };
        assert!(read(&facts, at(1), 7).is_err());
        let chunk = (ChunkHandle(1), ChunkVersion(1));
        facts.losses.add_of_memory(chunk, (file, 0), at(2));
        assert_eq!(read(&facts, at(1), 7), Ok(()));
        assert!(read(&facts, at(3), 7).is_err());
        assert_eq!(read(&facts, at(3), 0), Ok(()));
    }
}
