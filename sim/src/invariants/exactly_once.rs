//! A change is done once however often it is asked for, and what a client was told of it is what
//! the log did: after it was asked for, before it was answered. What was refused for good is not done
//! later, by what comes late over a connection that its client gave up (`spec/wire.md` section 3).

use std::collections::{BTreeMap, BTreeSet};

use sarsen_master::core::command::{Command, PendingAborted, PendingCreated};
use sarsen_protocol::id::FileId;

use super::{Facts, Invariant};
use crate::observation::Observation;
use crate::oracle::op::{Done, Op, OpId, Outcome};

/// What each doing came to.
#[derive(Debug, Default)]
pub struct ExactlyOnce {
    /// Which doing had which effect, and by which entry.
    effects: BTreeMap<(OpId, u16), u64>,
    /// What ended refused for good since the last master started: that one alone knows of it.
    refused: BTreeSet<OpId>,
}

impl Invariant for ExactlyOnce {
    fn name(&self) -> &'static str {
        "exactly once"
    }

    fn observe(&mut self, observation: &Observation<'_>, facts: &Facts) -> Result<(), String> {
        if let Some((session, number)) = facts.repeated {
            return Err(format!(
                "request {number} of session {session} is carried out twice"
            ));
        }
        match observation {
            Observation::EntryApplied { .. } => self.look_for_effects(facts),
            Observation::MasterStarted { .. } => {
                // What it found in the log, the one before it did.
                self.look_for_effects(facts)?;
                self.refused.clear();
                Ok(())
            }
            Observation::Ends { id, outcome } => {
                if let Outcome::Refused(_) = outcome {
                    self.refused.insert(*id);
                }
                ends(*id, outcome, facts)
            }
            _ => Ok(()),
        }
    }
}

impl ExactlyOnce {
    /// Looks for second effects, and for those of what was refused.
    fn look_for_effects(&mut self, facts: &Facts) -> Result<(), String> {
        for key in &facts.recent {
            let Some(applied) = facts.applied.get(key).filter(|it| it.answer.is_ok()) else {
                continue;
            };
            let Some(op) = facts.requests.get(key) else {
                return Err(format!("entry {} is nobody's request", applied.index));
            };
            // A pending file that is made anew, after a session that ended, is seen by nobody.
            if is_pending(applied.kind) {
                continue;
            }
            // An upload that was refused has dropped what is pending of it.
            if self.refused.contains(op) && applied.kind != Command::from(ABORTED).kind() {
                return Err(format!(
                    "{op:?} was refused for good, and done by entry {} all the same",
                    applied.index
                ));
            }
            if let Some(first) = self.effects.insert((*op, applied.kind), applied.index) {
                return Err(format!(
                    "{op:?} had its effect by entry {first} and again by {}",
                    applied.index
                ));
            }
        }
        Ok(())
    }
}

/// A client was told how something ended: the log says the same.
fn ends(id: OpId, outcome: &Outcome, facts: &Facts) -> Result<(), String> {
    let Some(record) = facts.ops.get(&id) else {
        return Err(format!("{id:?} ends, and never began"));
    };
    let wanted = match (outcome, &record.op) {
        (_, Op::Get { .. } | Op::List { .. } | Op::Change(_) | Op::Seal { .. }) => return Ok(()),
        (_, Op::ReadRecords { .. } | Op::FollowRecords { .. } | Op::ReadCells { .. }) => {
            return Ok(());
        }
        (Outcome::Done(done), _) => Ok(done),
        (Outcome::Refused(status), _) => Err(*status),
        _ => return Ok(()),
    };
    let mine = facts.requests.iter().filter(|(_, op)| **op == id);
    let applied: Vec<_> = mine.filter_map(|(key, _)| facts.applied.get(key)).collect();
    let fits = |answer: &Result<Done, _>| match (&wanted, answer) {
        (Ok(done), Ok(answer)) => *done == answer,
        (Err(status), Err(answer)) => status == answer,
        _ => false,
    };
    let found = applied.iter().find(|applied| fits(&applied.answer));
    match (wanted, found) {
        (_, Some(applied)) if applied.index > record.began_at => Ok(()),
        (_, Some(applied)) => Err(format!(
            "{id:?} was answered with entry {}, from before it began",
            applied.index
        )),
        // What is refused for what only a running master knows never reaches the log.
        (Err(_), None)
            if applied
                .iter()
                .all(|applied| applied.answer.is_err() || is_pending(applied.kind)) =>
        {
            Ok(())
        }
        (wanted, None) => Err(format!(
            "{id:?} {:?} was answered with {wanted:?}, and the log says {applied:?}",
            record.op
        )),
    }
}

fn is_pending(kind: u16) -> bool {
    kind == Command::from(pending()).kind()
}

const ABORTED: PendingAborted = PendingAborted { file: FileId::NONE };

fn pending() -> PendingCreated {
    PendingCreated {
        parents: false,
        force: false,
        replicas: 1,
        level: sarsen_protocol::message::Level::Disk,
        chunk_size: 0,
        path: sarsen_master::core::path::Path::root(),
    }
}

#[cfg(test)]
mod tests {
    use sarsen_master::core::command::{Entry, FileResized};
    use sarsen_master::core::state::State;
    use sarsen_protocol::id::SessionId;
    use sarsen_protocol::status::Status;

    use super::*;
    use crate::invariants::{Applied, OpRecord};

    const OP: OpId = OpId(9);
    const SESSION: SessionId = SessionId(3);

    /// A doing that has ended, refused for good.
    fn refused(invariant: &mut ExactlyOnce) -> Facts {
        let mut facts = Facts::default();
        let record = OpRecord {
            op: Op::Remove {
                path: "/a/one".to_owned(),
                recursive: false,
                purge: true,
            },
            began_at: 0,
            outcome: None,
        };
        facts.ops.insert(OP, record);
        facts.requests.insert((SESSION, 1), OP);
        facts.requests.insert((SESSION, 2), OP);
        let ends = Observation::Ends {
            id: OP,
            outcome: &Outcome::Refused(Status::NotFound),
        };
        assert_eq!(invariant.observe(&ends, &facts), Ok(()));
        facts
    }

    /// A request of it is carried out by an entry.
    fn apply(facts: &mut Facts, number: u64, command: &Command, answer: Result<Done, Status>) {
        let applied = Applied {
            index: 10 + number,
            answer,
            kind: command.kind(),
        };
        facts.applied.insert((SESSION, number), applied);
        facts.recent = vec![(SESSION, number)];
    }

    fn observe_entry(
        invariant: &mut ExactlyOnce,
        facts: &Facts,
        command: Command,
    ) -> Result<(), String> {
        let entry = Entry {
            term: 1,
            index: 11,
            time_ms: 0,
            request: None,
            command,
        };
        let state = &State::default();
        let entry = &entry;
        invariant.observe(&Observation::EntryApplied { entry, state }, facts)
    }

    fn resized() -> Command {
        let file = FileId(7);
        FileResized { file, size: 5 }.into()
    }

    #[test]
    fn what_was_refused_for_good_is_not_done_later() {
        let mut invariant = ExactlyOnce::default();
        let mut facts = refused(&mut invariant);
        apply(&mut facts, 1, &resized(), Err(Status::NotFound));
        assert_eq!(
            observe_entry(&mut invariant, &facts, resized()),
            Ok(()),
            "refused again"
        );
        apply(&mut facts, 2, &resized(), Ok(Done::Nothing));
        let done = observe_entry(&mut invariant, &facts, resized());
        assert!(done.is_err_and(|how| how.contains("refused for good")));
    }

    /// A master knows nothing of what another one refused; what it finds in the log, that one did.
    #[test]
    fn a_master_that_started_since_may_do_it() {
        let mut invariant = ExactlyOnce::default();
        let mut facts = refused(&mut invariant);
        let state = &State::default();
        let started = Observation::MasterStarted { state };
        assert_eq!(invariant.observe(&started, &facts), Ok(()));
        apply(&mut facts, 1, &resized(), Ok(Done::Nothing));
        assert_eq!(observe_entry(&mut invariant, &facts, resized()), Ok(()));

        let mut invariant = ExactlyOnce::default();
        let mut facts = refused(&mut invariant);
        apply(&mut facts, 1, &resized(), Ok(Done::Nothing));
        assert!(invariant.observe(&started, &facts).is_err());
    }

    #[test]
    fn an_upload_that_was_refused_makes_and_drops_what_is_pending() {
        let mut invariant = ExactlyOnce::default();
        let mut facts = refused(&mut invariant);
        let made = Command::from(pending());
        apply(&mut facts, 1, &made, Ok(Done::File(FileId(7))));
        assert_eq!(observe_entry(&mut invariant, &facts, made), Ok(()));
        let dropped = Command::from(ABORTED);
        apply(&mut facts, 2, &dropped, Ok(Done::Nothing));
        assert_eq!(observe_entry(&mut invariant, &facts, dropped), Ok(()));
    }
}
