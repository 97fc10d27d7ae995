//! What a member of an open chunk has said holds, after any death and any power cut
//! (`spec/replication.md` sections 3 and 6): behind a promise it acknowledges nothing older and begins
//! nothing older; what it acknowledged at `disk`, and what it told with a promise, is found again; a
//! version that allows no acks at `memory` gets none.

use std::collections::{BTreeMap, BTreeSet};

use sarsen_chunkd::net::Chunkserver;
use sarsen_chunkd::net::members::lane::found;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, DirectoryId, Serial};
use sarsen_protocol::message::Level;

use super::{Facts, Invariant, is_put_off};
use crate::observation::Observation;

/// What members have said so far.
#[derive(Debug, Default)]
pub struct OpenMembers {
    said: BTreeMap<(u8, ChunkHandle), Said>,
    /// What those had said, if anything, that an order to delete has run on since the machine's start
    /// and did not end well.
    deleting: BTreeMap<(u8, ChunkHandle), Option<Said>>,
    /// What orders to delete have run on since a machine's start, unless it stayed: answers about it
    /// may be on their way still.
    deleted: BTreeSet<(u8, ChunkHandle)>,
}

/// What one member has said of a chunk.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    promised: ChunkVersion,
    /// The version that it has begun, and where.
    version: ChunkVersion,
    directory: DirectoryId,
    memory: bool,
    /// The last mutation that it has told to be stable in that version.
    stable: Serial,
}

impl Invariant for OpenMembers {
    fn name(&self) -> &'static str {
        "open members"
    }

    fn observe(&mut self, observation: &Observation<'_>, facts: &Facts) -> Result<(), String> {
        match *observation {
            Observation::Promised {
                machine, handle, ..
            }
            | Observation::Begun {
                machine, handle, ..
            }
            | Observation::Acked {
                machine, handle, ..
            } if self.deleted.contains(&(machine, handle)) => Ok(()),
            Observation::Promised {
                machine,
                handle,
                promised,
                version,
                serial,
            } => self.promised((machine, handle), promised, (version, serial)),
            Observation::Begun {
                machine,
                directory,
                handle,
                version,
                serial,
                memory,
            } => {
                let said = self.said.entry((machine, handle)).or_default();
                if version < said.promised || version < said.version {
                    return Err(format!(
                        "machine {machine} begins {version} of {handle} behind {said:?}"
                    ));
                }
                *said = Said {
                    promised: said.promised.max(version),
                    version,
                    directory,
                    memory,
                    stable: serial,
                };
                Ok(())
            }
            Observation::Acked {
                machine,
                handle,
                version,
                serial,
                level,
                to_client,
            } => {
                let said = self.said.entry((machine, handle)).or_default();
                let is_older = version < said.promised || version < said.version;
                let is_loose = level == Level::Memory && version == said.version && !said.memory;
                if is_older || is_loose {
                    return Err(format!(
                        "machine {machine} acknowledges {serial} of {handle} in {version} at \
                         {level:?}, to a client: {to_client}, having said {said:?}"
                    ));
                }
                if version == said.version && level == Level::Disk {
                    said.stable = said.stable.max(serial);
                }
                Ok(())
            }
            Observation::DeleteRuns { machine, handle } => {
                let said = self.said.remove(&(machine, handle));
                self.deleting.insert((machine, handle), said);
                self.deleted.insert((machine, handle));
                Ok(())
            }
            Observation::Deleted { machine, handle } => {
                self.said.remove(&(machine, handle));
                self.deleting.remove(&(machine, handle));
                self.deleted.insert((machine, handle));
                Ok(())
            }
            Observation::Stays {
                machine, handle, ..
            } => {
                if let Some(said) = self.deleting.remove(&(machine, handle)) {
                    self.said.extend(said.map(|said| ((machine, handle), said)));
                    self.deleted.remove(&(machine, handle));
                }
                Ok(())
            }
            Observation::Spoiled {
                machine,
                handle: Some(handle),
            } => {
                self.said.remove(&(machine, handle));
                self.deleting.remove(&(machine, handle));
                Ok(())
            }
            // Another chunk than the one that was spoken of, be it that it has the same handle.
            Observation::Copied { machine, order, .. } => {
                self.said.remove(&(machine, order.handle));
                self.deleting.remove(&(machine, order.handle));
                self.deleted.remove(&(machine, order.handle));
                Ok(())
            }
            Observation::Lost { machine }
            | Observation::Spoiled {
                machine,
                handle: None,
            } => {
                self.said.retain(|(of, _), _| *of != machine);
                self.deleting.retain(|(of, _), _| *of != machine);
                Ok(())
            }
            Observation::ChunkserverStarted {
                machine,
                server,
                is_full,
            } => {
                // Of what an order ran on nobody knows whether it is there.
                self.deleting.retain(|(of, _), _| *of != machine);
                self.deleted.retain(|(of, _)| *of != machine);
                self.started(machine, server, is_full, facts)
            }
            _ => Ok(()),
        }
    }
}

impl OpenMembers {
    fn promised(
        &mut self,
        (machine, handle): (u8, ChunkHandle),
        promised: ChunkVersion,
        told: (ChunkVersion, Serial),
    ) -> Result<(), String> {
        let said = self.said.entry((machine, handle)).or_default();
        if told < (said.version, said.stable) {
            return Err(format!(
                "machine {machine} promises {promised} of {handle} and tells {told:?}, having said \
                 {said:?}"
            ));
        }
        said.promised = said.promised.max(promised);
        if told.0 == said.version {
            said.stable = said.stable.max(told.1);
        }
        Ok(())
    }

    fn started(
        &self,
        machine: u8,
        server: &Chunkserver,
        is_full: bool,
        facts: &Facts,
    ) -> Result<(), String> {
        let first = (machine, ChunkHandle(0));
        let last = (machine, ChunkHandle(u64::MAX));
        for (&(_, handle), said) in self.said.range(first..=last) {
            if facts.spoiled_machines.contains(&machine)
                || facts.spoiled.contains(&(machine, handle))
            {
                continue;
            }
            let directory = match said.version.is_some() {
                true => server.directory(said.directory),
                // A promise of a chunk that is not open lies where the chunk does.
                false => server
                    .directories()
                    .find(|directory| directory.entry(handle).is_some()),
            };
            let Some(directory) = directory else {
                return Err(format!(
                    "machine {machine} has nothing of {handle} after a restart, having said {said:?}"
                ));
            };
            if is_put_off(is_full, directory.entry(handle).as_ref()) {
                continue;
            }
            let has = found(directory, handle);
            let promised = has.promised.max(has.version);
            let is_there = promised >= said.promised
                && (has.version, has.serial) >= (said.version, said.stable);
            if !is_there {
                let (entry, problems) = (directory.entry(handle), directory.problems());
                let problem = problems.iter().find(|it| it.handle == Some(handle));
                return Err(format!(
                    "machine {machine} said {said:?} of {handle}, and has after a restart: {has:?}; \
                     told as {entry:?}, {problem:?}"
                ));
            }
        }
        Ok(())
    }
}
