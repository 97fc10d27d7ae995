//! No order deletes a replica of a chunk that a file needs unless as many others as are wanted have
//! what the log calls sealed; none is given in safe mode; and none that runs takes the last one.
//!
//! What a machine's disks have lost counts among the others until a master can know of it. It goes by
//! what it was told over a connection that it holds to be open; a loss later on is a loss behind the order.

use sarsen_protocol::message::AnyMessage;

use super::{Facts, Invariant};
use crate::observation::Observation;

/// Nothing to remember.
#[derive(Debug, Default)]
pub struct NoDeleteOfNeeded;

impl Invariant for NoDeleteOfNeeded {
    fn name(&self) -> &'static str {
        "no delete of what is needed"
    }

    fn observe(&mut self, observation: &Observation<'_>, facts: &Facts) -> Result<(), String> {
        match observation {
            Observation::Ordered {
                order: AnyMessage::DeleteChunk(order),
                is_safe_mode,
                server,
                state,
            } => {
                if *is_safe_mode {
                    return Err(format!(
                        "{} is ordered to be deleted in safe mode",
                        order.handle
                    ));
                }
                if !facts.names.is_needed(order.handle) {
                    return Ok(());
                }
                let record = state.chunks.record(order.handle);
                let wanted = record.map_or(0, |it| it.replicas.into());
                let machine = facts.machines.get(server).copied().unwrap_or(u8::MAX);
                let others = match record.and_then(|it| it.at_rest()) {
                    Some(sealed) => facts.sealed_beside(machine, order.handle, sealed.version),
                    None => facts.replicas_beside(machine, order.handle),
                };
                match others >= wanted {
                    true => Ok(()),
                    false => Err(format!(
                        "machine {machine} is ordered to delete {}, which a file names: {wanted} \
                         are wanted, and {others} others are there",
                        order.handle
                    )),
                }
            }
            Observation::DeleteAnnounced {
                machine,
                handle,
                is_there: true,
                ..
            } if facts.names.is_needed(*handle)
                && facts.replicas_beside(*machine, *handle) == 0 =>
            {
                Err(format!(
                    "machine {machine} deletes {handle}, which a file names, and no other has it"
                ))
            }
            _ => Ok(()),
        }
    }
}
