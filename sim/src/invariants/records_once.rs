//! Every acknowledged append is once in what a reader of records is given, at the offset that was
//! told; what is in doubt at most once; what was refused never.

use std::collections::BTreeMap;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, FileId, SessionId};
use sarsen_protocol::message::Level;

use super::{Facts, Invariant, file_offset};
use crate::observation::{ChangeOutcome, FoundRecord, Observation};
use crate::oracle::op::Change;
use crate::oracle::records::{Appends, RecordId};

/// What was appended.
#[derive(Debug, Default)]
pub struct RecordsOnce {
    appends: BTreeMap<FileId, Appends>,
    /// Acknowledged from memory, in which version of which chunk.
    in_memory: Vec<InMemory>,
}

/// In which version of which chunk, of which file, which record.
type InMemory = (ChunkHandle, ChunkVersion, FileId, RecordId);

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
            Observation::Changed { id, outcome, .. } => self.changed(*id, *outcome, facts),
            Observation::RecordsRead {
                file,
                began,
                records,
                leftover,
            } => {
                self.forgive(facts);
                // Who read the beginning of a record that was gone before its end was read.
                let lost_meanwhile = facts.lost_at.get(file).is_some_and(|at| at >= began);
                if *leftover > 0 && !lost_meanwhile {
                    return Err(format!("file {file} has {leftover} bytes of no record"));
                }
                let appends = self.appends.entry(*file).or_default();
                check_payloads(appends, records)?;
                let places: Vec<_> = records.iter().map(|it| (it.offset, it.id)).collect();
                let read = appends.read(&places, *began);
                read.map_err(|how| format!("file {file}: {how}"))
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
        let Some((file, Change::Record { .. })) = facts.changes.get(&id) else {
            return Ok(());
        };
        match outcome {
            ChangeOutcome::Done(done) => {
                self.forgive(facts);
                let appends = self.appends.entry(*file).or_default();
                let acked = appends.acked(named(id), file_offset(&done), facts.now);
                if done.level == Level::Memory {
                    let in_memory = (done.handle, done.version, *file, named(id));
                    self.in_memory.push(in_memory);
                    self.forgive(facts);
                    if is_lost(&in_memory, facts) {
                        // Where it was told to be something else may be.
                        return Ok(());
                    }
                }
                acked.map_err(|how| format!("file {file}: {how}"))
            }
            ChangeOutcome::NotDone => {
                let appends = self.appends.entry(*file).or_default();
                appends.not_done(named(id));
                Ok(())
            }
            ChangeOutcome::InDoubt => Ok(()),
        }
    }

    /// Of what the log says that it may be gone, nothing has to be there.
    fn forgive(&mut self, facts: &Facts) {
        for acked in &self.in_memory {
            let (_, _, file, id) = acked;
            if is_lost(acked, facts)
                && let Some(appends) = self.appends.get_mut(file)
            {
                appends.may_be_lost(*id);
            }
        }
    }
}

/// Whether the log says that what was acknowledged so may be gone.
fn is_lost((handle, version, ..): &InMemory, facts: &Facts) -> bool {
    let loss = facts.losses.get(handle);
    loss.is_some_and(|(lost, ..)| version <= lost)
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
    use std::time::Duration;

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
                records: &[],
                leftover,
            };
            RecordsOnce::default().observe(&observation, facts)
        };
        assert!(read(&facts, at(1), 7).is_err());
        facts.lost_at.insert(file, at(2));
        assert_eq!(read(&facts, at(1), 7), Ok(()));
        assert!(read(&facts, at(3), 7).is_err());
        assert_eq!(read(&facts, at(3), 0), Ok(()));
    }
}
