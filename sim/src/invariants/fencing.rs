//! A chunkserver obeys no epoch below one that it obeyed, nor a second incarnation of one; an
//! order runs only in the session and the epoch in which it was given; and a directory counts
//! only with its newest start.

use std::collections::{BTreeMap, BTreeSet};

use sarsen_protocol::id::{DirectoryId, Epoch, StartNonce, StartNumber};
use sarsen_protocol::message::{Register, Registered};
use sarsen_protocol::status::Status;

use super::{Facts, Invariant};
use crate::observation::Observation;

/// What was obeyed and counted so far.
#[derive(Debug, Default)]
pub struct Fencing {
    obeyed: BTreeMap<u8, Epoch>,
    /// The directories that each machine last started with.
    directories: BTreeMap<u8, Vec<DirectoryId>>,
    /// Directories that were put back from an older copy.
    rolled_back: BTreeSet<DirectoryId>,
    /// The start with which each directory counted last.
    counted: BTreeMap<DirectoryId, (StartNumber, StartNonce)>,
}

impl Invariant for Fencing {
    fn name(&self) -> &'static str {
        "fencing"
    }

    fn observe(&mut self, observation: &Observation<'_>, _facts: &Facts) -> Result<(), String> {
        match observation {
            Observation::Obeys { machine, epoch } => {
                let before = self.obeyed.insert(*machine, *epoch).unwrap_or_default();
                let is_newer = epoch.number > before.number || *epoch == before;
                match is_newer {
                    true => Ok(()),
                    false => Err(format!(
                        "machine {machine} obeyed {before:?} and now obeys {epoch:?}"
                    )),
                }
            }
            // What is put back from an older copy has obeyed less.
            Observation::Lost { machine } => {
                self.obeyed.remove(machine);
                let directories = self.directories.remove(machine).unwrap_or_default();
                self.rolled_back.extend(directories);
                Ok(())
            }
            Observation::ChunkserverStarted {
                machine, server, ..
            } => {
                let ids = server.directories().map(|it| it.identity().directory_id);
                self.directories.insert(*machine, ids.collect());
                Ok(())
            }
            Observation::DeleteAnnounced {
                machine,
                handle,
                ordered_in,
                obeys,
                is_of_this_session,
                ..
            } => match *is_of_this_session && *ordered_in == Some(*obeys) {
                true => Ok(()),
                false => Err(format!(
                    "machine {machine} obeys {obeys:?} and deletes {handle}, ordered in {ordered_in:?}, \
                     in this session: {is_of_this_session}"
                )),
            },
            Observation::Registered {
                register,
                registered,
            } => self.registered(register, registered),
            _ => Ok(()),
        }
    }
}

impl Fencing {
    fn registered(&mut self, register: &Register, registered: &Registered) -> Result<(), String> {
        for report in &register.directories {
            let id = report.directory_id;
            let verdict = registered
                .directories
                .iter()
                .find(|it| it.directory_id == id);
            if verdict.is_none_or(|it| it.status != Status::Ok.number()) {
                continue;
            }
            if self.rolled_back.contains(&id) {
                return Err(format!(
                    "directory {id} was put back from a copy and counts"
                ));
            }
            let counted = self.counted.get(&id).copied().unwrap_or_default();
            let start = (report.start_number, report.start_nonce);
            if start.0 < counted.0 || (start.0 == counted.0 && start.1 != counted.1) {
                return Err(format!(
                    "directory {id} counts with start {}, after start {}",
                    start.0, counted.0
                ));
            }
            self.counted.insert(id, start);
        }
        Ok(())
    }
}
