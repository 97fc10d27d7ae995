//! A chunk that is open by the master's log is no source of a copy and gets none, and no replica of it
//! is deleted: which of them has what was acknowledged is known when it is sealed
//! (`spec/replication.md` section 13).

use sarsen_protocol::message::AnyMessage;

use super::{Facts, Invariant};
use crate::observation::Observation;

/// Nothing to remember.
#[derive(Debug, Default)]
pub struct OpenLeftAlone;

impl Invariant for OpenLeftAlone {
    fn name(&self) -> &'static str {
        "open left alone"
    }

    fn observe(&mut self, observation: &Observation<'_>, _facts: &Facts) -> Result<(), String> {
        let Observation::Ordered {
            server,
            order,
            state,
            ..
        } = observation
        else {
            return Ok(());
        };
        let (handle, what) = match order {
            AnyMessage::CopyChunk(order) => (order.handle, "copied to"),
            AnyMessage::DeleteChunk(order) => (order.handle, "deleted from"),
            _ => return Ok(()),
        };
        let record = state.chunks.record(handle);
        match record.is_some_and(|record| record.active.is_some()) {
            false => Ok(()),
            true => Err(format!("{handle} is to be {what} {server}, and is open")),
        }
    }
}
