//! A slot of a file that names a chunk goes on with that chunk: no entry puts another one there, whose
//! bytes would take the place of those that were acknowledged. (Only a snapshot's clone may; there
//! are none here.)

use super::{Facts, Invariant};
use crate::observation::Observation;

/// Nothing to remember.
#[derive(Debug, Default)]
pub struct SlotsKept;

impl Invariant for SlotsKept {
    fn name(&self) -> &'static str {
        "slots kept"
    }

    fn observe(&mut self, _observation: &Observation<'_>, facts: &Facts) -> Result<(), String> {
        match facts.names.taken() {
            None => Ok(()),
            Some((before, handle)) => Err(format!("{handle} takes the slot that {before} has")),
        }
    }
}
