//! A change is done once however often it is asked for, and what a client was told of it is what
//! the log did: after it was asked for, before it was answered.

use std::collections::BTreeMap;

use sarsen_master::core::command::Command;

use super::{Facts, Invariant};
use crate::observation::Observation;
use crate::oracle::op::{Done, Op, OpId, Outcome};

/// Which doing had which effect, and by which entry.
#[derive(Debug, Default)]
pub struct ExactlyOnce {
    effects: BTreeMap<(OpId, u16), u64>,
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
            Observation::EntryApplied { .. } | Observation::MasterStarted { .. } => {
                self.look_for_second_effects(facts)
            }
            Observation::Ends { id, outcome } => ends(*id, outcome, facts),
            _ => Ok(()),
        }
    }
}

impl ExactlyOnce {
    fn look_for_second_effects(&mut self, facts: &Facts) -> Result<(), String> {
        for key in &facts.recent {
            let Some(applied) = facts.applied.get(key).filter(|it| it.answer.is_ok()) else {
                continue;
            };
            let Some(op) = facts.requests.get(key) else {
                return Err(format!("entry {} is nobody's request", applied.index));
            };
            // A pending file that is made anew, after a session that ended, is seen by nobody.
            let is_seen = applied.kind != Command::from(pending()).kind();
            if is_seen && let Some(first) = self.effects.insert((*op, applied.kind), applied.index)
            {
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
        (_, Op::ReadRecords { .. } | Op::ReadCells { .. }) => return Ok(()),
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

fn pending() -> sarsen_master::core::command::PendingCreated {
    sarsen_master::core::command::PendingCreated {
        parents: false,
        force: false,
        replicas: 1,
        level: sarsen_protocol::message::Level::Disk,
        chunk_size: 0,
        path: sarsen_master::core::path::Path::root(),
    }
}
