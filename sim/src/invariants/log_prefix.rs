//! A master that starts has what its log acknowledged, all of it and nothing else: the state is
//! that of a second application of the same entries.

use super::{Facts, Invariant};
use crate::observation::Observation;

/// The last entry that anybody was told of.
#[derive(Debug, Default)]
pub struct LogPrefix {
    acknowledged: u64,
}

impl Invariant for LogPrefix {
    fn name(&self) -> &'static str {
        "log prefix"
    }

    fn observe(&mut self, observation: &Observation<'_>, facts: &Facts) -> Result<(), String> {
        match observation {
            Observation::EntryApplied { entry, state } => {
                self.acknowledged = entry.index;
                // A comparison of everything, so not at every entry.
                let is_looked_at = state.index == entry.index && entry.index % 16 == 0;
                match !is_looked_at || **state == facts.shadow {
                    true => Ok(()),
                    false => Err(format!("the state behind entry {} differs", entry.index)),
                }
            }
            Observation::MasterStarted { state } => {
                if state.index < self.acknowledged {
                    return Err(format!(
                        "entry {} was acknowledged, and the log ends with {}",
                        self.acknowledged, state.index
                    ));
                }
                match **state == facts.shadow {
                    true => Ok(()),
                    false => Err(format!(
                        "the state that the log gives at {} differs",
                        state.index
                    )),
                }
            }
            _ => Ok(()),
        }
    }
}
