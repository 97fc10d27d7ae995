//! Every file that a client was told is stored can be read, byte for byte, once all that went
//! wrong is made good: where it was put, where it was moved, or not at all if it was removed.

use std::collections::BTreeSet;

use sarsen_protocol::id::FileId;

use super::{Facts, Invariant};
use crate::observation::Observation;

/// Files that were read whole since everything was made good.
#[derive(Debug, Default)]
pub struct AcknowledgedFiles {
    read: BTreeSet<FileId>,
}

impl Invariant for AcknowledgedFiles {
    fn name(&self) -> &'static str {
        "acknowledged files"
    }

    fn observe(&mut self, observation: &Observation<'_>, facts: &Facts) -> Result<(), String> {
        // What those hold that change is compared by invariants of their own.
        if let Observation::RecordsRead { file, .. }
        | Observation::CellsRead {
            file,
            is_whole: true,
            ..
        } = observation
            && facts.is_healed
        {
            self.read.insert(*file);
        }
        if let Observation::Downloaded {
            file,
            offset: 0,
            bytes,
            ..
        } = observation
            && facts.is_healed
            && facts
                .contents
                .get(file)
                .is_some_and(|content| content.bytes() == *bytes)
        {
            self.read.insert(*file);
        }
        Ok(())
    }

    fn finish(&mut self, facts: &Facts) -> Result<(), String> {
        for (path, file) in facts.names.files() {
            if !self.read.contains(&file) && !facts.is_beyond_help(file) {
                return Err(format!("{path} (file {file}) can't be read"));
            }
        }
        Ok(())
    }
}
