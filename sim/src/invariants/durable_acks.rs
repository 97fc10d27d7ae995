//! A seal that was acknowledged at `disk`, or a copy, is found sealed after any death and any power
//! cut, unless an order to delete it has run, and a client names in a publication only servers that
//! sealed what it says.

use sarsen_protocol::id::ChunkHandle;

use super::{Facts, Invariant, is_put_off};
use crate::observation::Observation;

/// Nothing to remember: what was acknowledged is among the facts.
#[derive(Debug, Default)]
pub struct DurableAcks;

impl Invariant for DurableAcks {
    fn name(&self) -> &'static str {
        "durable acks"
    }

    fn observe(&mut self, observation: &Observation<'_>, facts: &Facts) -> Result<(), String> {
        match observation {
            Observation::ChunkserverStarted {
                machine,
                server,
                is_full,
            } => started(*machine, server, *is_full, facts),
            Observation::Publishes { chunks, .. } => {
                for chunk in *chunks {
                    for server in &chunk.servers {
                        let machine = facts.machines.get(server).copied().unwrap_or(u8::MAX);
                        let sealed = facts.sealed.get(&(machine, chunk.handle));
                        let is_so = sealed.is_some_and(|it| {
                            (it.version, it.length, it.crc32)
                                == (chunk.version, chunk.length, chunk.crc32)
                        });
                        if !is_so && !facts.spoiled_machines.contains(&machine) {
                            return Err(format!(
                                "chunk {} is published as sealed on server {server}, which has \
                                 {sealed:?}",
                                chunk.handle
                            ));
                        }
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn started(
    machine: u8,
    server: &sarsen_chunkd::net::Chunkserver,
    is_full: bool,
    facts: &Facts,
) -> Result<(), String> {
    let its_own = facts
        .sealed
        .range((machine, ChunkHandle(0))..=(machine, ChunkHandle(u64::MAX)));
    for ((_, handle), replica) in its_own {
        if facts.spoiled.contains(&(machine, *handle)) || facts.spoiled_machines.contains(&machine)
        {
            continue;
        }
        let directory = server.directory(replica.directory);
        let entry = directory.and_then(|directory| directory.entry(*handle));
        if is_put_off(is_full, entry.as_ref()) {
            continue;
        }
        let is_so = entry.as_ref().is_some_and(|entry| {
            // What it began since was told to nobody yet.
            let is_opened = entry.version > replica.version;
            (replica.is_told_as(entry) || is_opened) && !entry.flags.poisoned
        });
        if !is_so {
            let problems = directory
                .map(|directory| directory.problems())
                .unwrap_or_default();
            let mut problems = problems.iter();
            let problem = problems.find(|problem| problem.handle == Some(*handle));
            let not_recovered = directory.map(|directory| directory.not_recovered());
            return Err(format!(
                "machine {machine} acknowledged the seal of {handle} ({replica:?}), and has after a \
                 restart: {entry:?}, {problem:?}, {not_recovered:?}"
            ));
        }
    }
    Ok(())
}
