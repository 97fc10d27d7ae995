//! No handle and no version is given out twice, by whichever master.

use std::collections::BTreeSet;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion};
use sarsen_protocol::message::AnyMessage;

use super::{Facts, Invariant};
use crate::observation::Observation;

/// Everything that was given out.
#[derive(Debug, Default)]
pub struct HandlesUnique {
    handles: BTreeSet<ChunkHandle>,
    versions: BTreeSet<ChunkVersion>,
}

impl Invariant for HandlesUnique {
    fn name(&self) -> &'static str {
        "handles unique"
    }

    fn observe(&mut self, observation: &Observation<'_>, facts: &Facts) -> Result<(), String> {
        let chunks = match observation {
            Observation::Allocated {
                answer: AnyMessage::ChunksAllocated(it),
            } => &it.chunks,
            Observation::Allocated {
                answer: AnyMessage::PendingCreated(it),
            } => &it.chunks,
            _ => return Ok(()),
        };
        for chunk in chunks {
            if !self.handles.insert(chunk.handle) || !self.versions.insert(chunk.version) {
                return Err(format!(
                    "handle {} or version {} is given out twice",
                    chunk.handle, chunk.version
                ));
            }
            let is_logged = chunk.handle < facts.shadow.handles_end
                && chunk.version < facts.shadow.versions_end;
            if !is_logged {
                return Err(format!(
                    "handle {} is given out from no logged range",
                    chunk.handle
                ));
            }
        }
        Ok(())
    }
}
