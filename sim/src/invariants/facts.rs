//! What is known of a run, from what was observed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sarsen_chunkd::store::InventoryEntry;
use sarsen_master::core::apply::apply;
use sarsen_master::core::command::{Command, Entry};
use sarsen_master::core::state::State;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, DirectoryId, FileId, ServerId, SessionId};
use sarsen_protocol::message::{ChunkState, Level, Verdict};
use sarsen_protocol::record::RECORD_HEADER_LEN;
use sarsen_protocol::status::Status;

use super::{Ages, Losses};
use crate::observation::{ChangeOutcome, Observation, whole};
use crate::oracle::content::Content;
use crate::oracle::names::Names;
use crate::oracle::op::{Change, Done, Op, OpId, Outcome};
use crate::workload::CHUNK_SIZE;

/// One of the clients' doings.
#[derive(Clone, Debug)]
pub struct OpRecord {
    /// What.
    pub op: Op,
    /// The last entry that was applied when it began.
    pub began_at: u64,
    /// How it ended, once it has.
    pub outcome: Option<Outcome>,
}

/// A request that the log carries out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// By which entry.
    pub index: u64,
    /// What it was to be answered with.
    pub answer: Result<Done, Status>,
    /// The kind of the entry.
    pub kind: u16,
}

/// A replica as it was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedReplica {
    /// Where it lies.
    pub directory: DirectoryId,
    /// Its version.
    pub version: ChunkVersion,
    /// Its bytes.
    pub length: u32,
    /// Their CRC.
    pub crc32: u32,
}

impl SealedReplica {
    /// Whether that is what a directory tells.
    #[must_use]
    pub fn is_told_as(&self, entry: &InventoryEntry) -> bool {
        entry.state == ChunkState::Sealed
            && (entry.version, entry.length, entry.crc32) == (self.version, self.length, self.crc32)
    }
}

/// What is known.
#[derive(Debug, Default)]
pub struct Facts {
    /// When the last observation was made.
    pub now: Duration,
    /// The clients' doings.
    pub ops: BTreeMap<OpId, OpRecord>,
    /// Which request is for which doing.
    pub requests: BTreeMap<(SessionId, u64), OpId>,
    /// Requests that were carried out.
    pub applied: BTreeMap<(SessionId, u64), Applied>,
    /// The plain model, at the last applied entry.
    pub names: Names,
    /// What every file holds, pending ones too.
    pub contents: BTreeMap<FileId, Content>,
    /// What the log comes to, applied beside the master.
    pub shadow: State,
    /// Entries that were handed to the log and are not known to be stable, by index.
    pub appended: BTreeMap<u64, Entry>,
    /// Machines of servers.
    pub machines: BTreeMap<ServerId, u8>,
    /// Replicas that were sealed at `disk` or copied, and that no order to delete has run on since.
    pub sealed: BTreeMap<(u8, ChunkHandle), SealedReplica>,
    /// Those that an order to delete runs on, or that one ran on and did not end well: they are there
    /// or not.
    pub deleting: BTreeMap<(u8, ChunkHandle), SealedReplica>,
    /// Replicas that are sealed or open, whether anybody was told or not, with the version that they
    /// were last sealed in. What begins on that is still it, until the log says otherwise.
    pub held: BTreeMap<(u8, ChunkHandle), Option<ChunkVersion>>,
    /// What was held on machines that have lost their disks since, until a master can know: it takes
    /// their registration, not all of whose directories are refused, or has begun after that. Their
    /// connections' end may come late.
    pub lost: BTreeMap<(u8, ChunkHandle), Option<ChunkVersion>>,
    /// Replicas that were spoiled on purpose.
    pub spoiled: BTreeSet<(u8, ChunkHandle)>,
    /// Machines any of whose replicas may be spoiled.
    pub spoiled_machines: BTreeSet<u8>,
    /// Who ever had a version of a chunk whole: sealed, copied or prepared.
    pub had: BTreeMap<(ChunkHandle, ChunkVersion), BTreeSet<u8>>,
    /// Whether all that went wrong was made good.
    pub is_healed: bool,
    /// How many doings were acknowledged.
    pub acknowledged: u64,
    /// Requests that the last observation shows to be carried out.
    pub recent: Vec<(SessionId, u64)>,
    /// A request that was carried out twice.
    pub repeated: Option<(SessionId, u64)>,
    /// Mutations that got an id, of which files.
    pub changes: BTreeMap<(SessionId, u64), (FileId, Change)>,
    /// Slots of files of records that somebody is about to write in, far behind the others.
    pub far_slots: BTreeMap<FileId, u32>,
    /// Up to where files that records are appended to are known to reach.
    pub record_ends: BTreeMap<FileId, u64>,
    /// What the log says may be gone.
    pub losses: Losses,
    /// Acceptances of losses that a master was asked for and did not answer.
    pub accepting: BTreeMap<(SessionId, u64), ChunkHandle>,
    /// How far the bytes of replicas go.
    pub ages: Ages,
}

impl Facts {
    /// Takes an observation in.
    ///
    /// # Errors
    /// Where the master and the plain model differ.
    pub fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        self.recent.clear();
        match observation {
            Observation::Begins { id, op } => {
                self.note_far_slots(op);
                let record = OpRecord {
                    op: (*op).clone(),
                    began_at: self.shadow.index,
                    outcome: None,
                };
                self.ops.insert(*id, record);
            }
            Observation::Requests { id, request } => {
                self.requests.insert((request.session, request.number), *id);
            }
            Observation::Ends { id, outcome } => {
                if matches!(outcome, Outcome::Done(_)) {
                    self.acknowledged += 1;
                }
                if let Some(record) = self.ops.get_mut(id) {
                    record.outcome = Some((*outcome).clone());
                }
            }
            Observation::Appended { entry } => {
                self.appended.insert(entry.index, (*entry).clone());
            }
            Observation::EntryApplied { entry, .. } => {
                self.appended.remove(&entry.index);
                self.apply(entry)?;
            }
            Observation::MasterStarted { state } => {
                self.lost.clear();
                self.accepting.clear();
                self.recovered(state)?;
            }
            Observation::Registered {
                register,
                registered,
            } => {
                if let Some(machine) = machine_of(&register.data_addr) {
                    self.machines.insert(registered.server_id, machine);
                    // A registration all of whose directories are refused may be a copy's: it tells a
                    // master nothing of the server that is connected.
                    let verdicts = &registered.directories;
                    let is_served = |verdict: &Verdict| verdict.status == Status::Ok.number();
                    if verdicts.is_empty() || verdicts.iter().any(is_served) {
                        self.lost.retain(|(of, _), _| *of != machine);
                    }
                }
            }
            Observation::Numbered {
                file, id, change, ..
            } => _ = self.changes.insert(*id, (*file, **change)),
            Observation::Changed {
                id,
                outcome: ChangeOutcome::Done(done),
                ..
            } => {
                if let Some((file, Change::Record { len })) = self.changes.get(id) {
                    let header = u32::try_from(RECORD_HEADER_LEN).unwrap_or(0);
                    let end = file_offset(done) + u64::from(header + len);
                    let known = self.record_ends.entry(*file).or_default();
                    *known = end.max(*known);
                }
            }
            Observation::LossAsked {
                request, handle, ..
            } => {
                let key = (request.session, request.number);
                self.accepting.insert(key, *handle);
            }
            Observation::LossAnswered { request, .. } => {
                self.accepting.remove(&(request.session, request.number));
            }
            Observation::Healed => self.is_healed = true,
            _ => self.observe_replica(observation),
        }
        Ok(())
    }

    /// What becomes of replicas.
    fn observe_replica(&mut self, observation: &Observation<'_>) {
        self.ages.observe(observation);
        if let Some((machine, handle, version)) = observation.has_whole() {
            let had = self.had.entry((handle, version)).or_default();
            had.insert(machine);
        }
        match observation {
            Observation::Spoiled { machine, handle } => match handle {
                Some(handle) => _ = self.spoiled.insert((*machine, *handle)),
                None => _ = self.spoiled_machines.insert(*machine),
            },
            Observation::Sealed {
                machine,
                directory,
                handle,
                version,
                length,
                crc32,
                level: Level::Disk,
            } => {
                let replica = SealedReplica {
                    directory: *directory,
                    version: *version,
                    length: *length,
                    crc32: *crc32,
                };
                self.sealed.insert((*machine, *handle), replica);
                self.held.insert((*machine, *handle), Some(*version));
            }
            Observation::Settled {
                machine,
                directory,
                handle,
                version,
                length,
                crc32,
            } => {
                let replica = SealedReplica {
                    directory: *directory,
                    version: *version,
                    length: *length,
                    crc32: *crc32,
                };
                self.sealed.insert((*machine, *handle), replica);
                self.held.insert((*machine, *handle), Some(*version));
            }
            // From here on mutations may change it.
            Observation::Begun {
                machine, handle, ..
            } => {
                self.sealed.remove(&(*machine, *handle));
                self.held.entry((*machine, *handle)).or_default();
            }
            Observation::Copied {
                machine,
                order,
                directory,
            } => {
                let replica = SealedReplica {
                    directory: *directory,
                    version: order.version,
                    length: order.length,
                    crc32: order.crc32,
                };
                self.spoiled.remove(&(*machine, order.handle));
                self.sealed.insert((*machine, order.handle), replica);
                let key = (*machine, order.handle);
                self.held.insert(key, Some(order.version));
            }
            // It counts no more, but it is there until the order runs.
            Observation::DeleteAnnounced {
                machine,
                handle,
                is_there: true,
                ..
            } => _ = self.held.remove(&(*machine, *handle)),
            Observation::DeleteRuns { machine, handle } => {
                let key = (*machine, *handle);
                self.held.remove(&key);
                if let Some(replica) = self.sealed.remove(&key) {
                    self.deleting.insert(key, replica);
                }
            }
            Observation::Deleted { machine, handle } => {
                self.sealed.remove(&(*machine, *handle));
                self.held.remove(&(*machine, *handle));
                self.deleting.remove(&(*machine, *handle));
            }
            Observation::Stays {
                machine,
                handle,
                sealed,
            } => {
                self.held.insert((*machine, *handle), *sealed);
                if let Some(replica) = self.deleting.remove(&(*machine, *handle))
                    && *sealed == Some(replica.version)
                {
                    let sealed = self.sealed.entry((*machine, *handle));
                    sealed.or_insert(replica);
                }
            }
            // What was sealed or copied when the process died, and told to nobody, is there too.
            Observation::ChunkserverStarted {
                machine, server, ..
            } => {
                self.end_deletes(*machine, |handle, replica| {
                    let directory = server.directory(replica.directory);
                    let entry = directory.and_then(|directory| directory.entry(handle));
                    entry.is_some_and(|entry| replica.is_told_as(&entry))
                });
                self.held.retain(|(of, _), _| of != machine);
                for directory in server.directories() {
                    for entry in directory.inventory(None, usize::MAX) {
                        if let Some(sealed) = whole(directory, &entry) {
                            let held = self.held.entry((*machine, entry.handle)).or_default();
                            *held = sealed.max(*held);
                        }
                    }
                }
            }
            Observation::Lost { machine } => {
                self.sealed.retain(|(of, _), _| of != machine);
                self.deleting.retain(|(of, _), _| of != machine);
                let its_own = (*machine, ChunkHandle(0))..=(*machine, ChunkHandle(u64::MAX));
                self.lost.extend(self.held.extract_if(its_own, |_, _| true));
                self.spoiled_machines.insert(*machine);
            }
            _ => {}
        }
    }

    /// A start shows what became of what was being deleted: a replica that is found again is held to
    /// what it was.
    fn end_deletes(&mut self, machine: u8, is_found: impl Fn(ChunkHandle, &SealedReplica) -> bool) {
        let its_own = (machine, ChunkHandle(0))..=(machine, ChunkHandle(u64::MAX));
        for (key, replica) in self.deleting.extract_if(its_own, |_, _| true) {
            if is_found(key.1, &replica) {
                self.sealed.entry(key).or_insert(replica);
            }
        }
    }

    /// How many machines but one hold a replica of a chunk that is no pending one.
    #[must_use]
    pub fn replicas_beside(&self, machine: u8, handle: ChunkHandle) -> usize {
        self.beside(machine, handle).count()
    }

    /// How many machines but one hold a replica, and have had the chunk whole in a version, as far as a
    /// master can know: a member that settled tells so before it answers the order.
    #[must_use]
    pub fn sealed_beside(&self, machine: u8, handle: ChunkHandle, version: ChunkVersion) -> usize {
        let had = self.had.get(&(handle, version));
        let has_whole = |&(of, sealed): &(u8, Option<ChunkVersion>)| {
            sealed == Some(version) || had.is_some_and(|had| had.contains(&of))
        };
        let lost = beside(&self.lost, machine, handle);
        let known = self.beside(machine, handle).chain(lost);
        let machines: BTreeSet<u8> = known.filter(has_whole).map(|(of, _)| of).collect();
        machines.len()
    }

    fn beside(
        &self,
        machine: u8,
        handle: ChunkHandle,
    ) -> impl Iterator<Item = (u8, Option<ChunkVersion>)> {
        beside(&self.held, machine, handle)
    }

    fn note_far_slots(&mut self, op: &Op) {
        let Op::Change(changes) = op else { return };
        let mut files = self.names.files();
        let Some((_, file)) = files.find(|(it, _)| *it == changes.path) else {
            return;
        };
        drop(files);
        for (_, change) in &changes.changes {
            if let Change::Zeros { index, .. } = change {
                let slot = self.far_slots.entry(file).or_default();
                *slot = index.saturating_add(1).max(*slot);
            }
        }
    }

    /// A master has read the log: what it found of what nobody was told happened all the same.
    fn recovered(&mut self, state: &State) -> Result<(), String> {
        while self.shadow.index < state.index {
            let next = self.shadow.index + 1;
            let Some(entry) = self.appended.remove(&next) else {
                return Err(format!(
                    "the log has an entry {next} that no master appended"
                ));
            };
            self.apply(&entry)?;
        }
        self.appended.clear();
        Ok(())
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), String> {
        let key = entry
            .request
            .map(|request| (request.session, request.number));
        if let Some(key) = key
            && self.applied.contains_key(&key)
        {
            self.repeated = Some(key);
        }
        let is_admitted = entry
            .request
            .is_none_or(|request| self.shadow.sessions.answer(request).is_none());
        let before = self.state_before(entry);
        let outcome = apply(&mut self.shadow, entry);
        if !is_admitted {
            // The session has ended, or the request is below its lowest: nothing is carried out.
            return Ok(());
        }
        let is_change = matches!(
            entry.command,
            Command::ChunkActivated(_) | Command::ChunkSealed(_)
        );
        if is_change && is_refused(&outcome.answer) {
            // Two of them crossed: the log itself says which counts.
            return Ok(());
        }
        self.note_losses(entry, before);
        let Some(answer) = self.names.apply(entry) else {
            return Ok(());
        };
        let theirs = told(&outcome.answer);
        if entry.request.is_some() && theirs != answer {
            return Err(format!(
                "the model: entry {} {:?} is to be answered with {answer:?}, and was with {theirs:?}",
                entry.index, entry.command
            ));
        }
        if let Some(key) = key {
            self.keep_content(entry, key, &answer);
            let applied = Applied {
                index: entry.index,
                answer,
                kind: entry.command.kind(),
            };
            self.applied.insert(key, applied);
            self.recent.push(key);
        }
        Ok(())
    }

    fn keep_content(
        &mut self,
        entry: &Entry,
        key: (SessionId, u64),
        answer: &Result<Done, Status>,
    ) {
        let op = self.requests.get(&key).and_then(|id| self.ops.get(id));
        if let Command::PendingCreated(_) | Command::FileMade(_) = entry.command
            && let Ok(Done::File(id)) = answer
            && let Some(OpRecord {
                op: Op::Put { content, .. },
                ..
            }) = op
        {
            self.contents.insert(*id, content.clone());
        }
    }
}

const fn is_refused(answer: &sarsen_master::core::session::Answer) -> bool {
    matches!(answer, sarsen_master::core::session::Answer::Refused(_))
}

/// An answer of the master in the words of the model.
fn told(answer: &sarsen_master::core::session::Answer) -> Result<Done, Status> {
    use sarsen_master::core::session::Answer;
    Ok(match answer {
        Answer::Done => Done::Nothing,
        Answer::Id(id) => Done::Folder(FileId(*id)),
        Answer::Refused(refusal) => return Err(refusal.status()),
        Answer::Pending { file, .. } => Done::File(*file),
        Answer::File(file) => Done::File(file.file),
        Answer::Removed { files, .. } => Done::Removed(*files),
        Answer::Restored(path) => Done::Restored(path.as_str().to_owned()),
        Answer::Emptied { entries, .. } => Done::Emptied(*entries),
    })
}

/// Where a mutation's bytes begin in its file.
#[must_use]
pub fn file_offset(done: &sarsen_client::core::mutation::Done) -> u64 {
    u64::from(done.index) * u64::from(CHUNK_SIZE) + u64::from(done.offset)
}

/// The replicas of a chunk on all machines but one.
fn beside(
    replicas: &BTreeMap<(u8, ChunkHandle), Option<ChunkVersion>>,
    machine: u8,
    handle: ChunkHandle,
) -> impl Iterator<Item = (u8, Option<ChunkVersion>)> {
    let others = replicas
        .iter()
        .filter(move |&(&(of, held), _)| held == handle && of != machine);
    others.map(|(&(of, _), &sealed)| (of, sealed))
}

/// The machine that an address of a chunkserver is on.
fn machine_of(address: &str) -> Option<u8> {
    let host = address.split(':').next()?;
    host.strip_prefix('c')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use sarsen_protocol::message::{Register, Registered};

    use super::*;

    const HANDLE: ChunkHandle = ChunkHandle(5);
    const VERSION: ChunkVersion = ChunkVersion(7);

    fn observe(facts: &mut Facts, observation: &Observation<'_>) {
        assert_eq!(facts.observe(observation), Ok(()));
    }

    fn settle(facts: &mut Facts, machine: u8, version: ChunkVersion) {
        let settled = Observation::Settled {
            machine,
            directory: DirectoryId::NONE,
            handle: HANDLE,
            version,
            length: 1,
            crc32: 1,
        };
        observe(facts, &settled);
    }

    fn announce_delete(facts: &mut Facts, machine: u8, is_there: bool) {
        let announced = Observation::DeleteAnnounced {
            machine,
            handle: HANDLE,
            ordered_in: None,
            obeys: sarsen_protocol::id::Epoch::default(),
            is_of_this_session: true,
            is_there,
        };
        observe(facts, &announced);
    }

    fn run_delete(facts: &mut Facts, machine: u8) {
        let runs = Observation::DeleteRuns {
            machine,
            handle: HANDLE,
        };
        observe(facts, &runs);
    }

    fn stay(facts: &mut Facts, machine: u8) {
        let stays = Observation::Stays {
            machine,
            handle: HANDLE,
            sealed: Some(VERSION),
        };
        observe(facts, &stays);
    }

    /// A copy ended that the master had not heard of yet. It ordered the deletion of the old replica,
    /// which was refused, and the copy no longer counted here.
    #[test]
    fn an_order_that_names_another_version_takes_no_replica() {
        let mut facts = Facts::default();
        (0..4).for_each(|machine| settle(&mut facts, machine, VERSION));
        announce_delete(&mut facts, 3, false);
        assert_eq!(facts.sealed_beside(1, HANDLE, VERSION), 3);
        assert!(facts.sealed.contains_key(&(3, HANDLE)));
    }

    #[test]
    fn what_is_being_deleted_counts_again_only_if_it_stays() {
        let mut facts = Facts::default();
        (0..4).for_each(|machine| settle(&mut facts, machine, VERSION));
        announce_delete(&mut facts, 3, true);
        assert_eq!(facts.sealed_beside(1, HANDLE, VERSION), 2);
        run_delete(&mut facts, 3);
        stay(&mut facts, 3);
        assert_eq!(facts.sealed_beside(1, HANDLE, VERSION), 3);
        let deleted = Observation::Deleted {
            machine: 3,
            handle: HANDLE,
        };
        observe(&mut facts, &deleted);
        assert_eq!(facts.sealed_beside(1, HANDLE, VERSION), 2);
    }

    /// An order waited for a slow disk, and the chunk, which was still being uploaded, was sealed
    /// meanwhile. The process died when the order had run, before that was told, and the seal was missed.
    #[test]
    fn what_was_sealed_while_an_order_waited_goes_when_it_runs() {
        let mut facts = Facts::default();
        announce_delete(&mut facts, 3, true);
        settle(&mut facts, 3, VERSION);
        run_delete(&mut facts, 3);
        assert!(!facts.sealed.contains_key(&(3, HANDLE)));
        facts.end_deletes(3, |_, _| false);
        assert_eq!((facts.sealed.len(), facts.deleting.len()), (0, 0));
    }

    /// The process may die while an order waits: nothing is lost by that.
    #[test]
    fn an_order_that_waits_takes_no_promise_back() {
        let mut facts = Facts::default();
        settle(&mut facts, 3, VERSION);
        announce_delete(&mut facts, 3, true);
        facts.end_deletes(3, |_, _| false);
        assert!(facts.sealed.contains_key(&(3, HANDLE)));
    }

    #[test]
    fn what_an_order_left_is_held_to_what_it_was() {
        let mut facts = Facts::default();
        settle(&mut facts, 2, VERSION);
        settle(&mut facts, 3, VERSION);
        run_delete(&mut facts, 2);
        run_delete(&mut facts, 3);
        stay(&mut facts, 2);
        assert!(facts.sealed.contains_key(&(2, HANDLE)));
        // It died inside the order.
        facts.end_deletes(3, |handle, it| (handle, it.version) == (HANDLE, VERSION));
        assert!(facts.sealed.contains_key(&(3, HANDLE)));
        assert!(facts.deleting.is_empty());
    }

    fn register(facts: &mut Facts, machine: u8, verdict: Status) {
        let register = Register {
            server_id: ServerId(1),
            control_addr: String::new(),
            data_addr: format!("c{machine}:8000"),
            http_addr: String::new(),
            rack: String::new(),
            epoch: sarsen_protocol::id::Epoch::default(),
            directories: Vec::new(),
        };
        let registered = Registered {
            server_id: ServerId(1),
            epoch: sarsen_protocol::id::Epoch::default(),
            chunk_size: CHUNK_SIZE,
            heartbeat: 0,
            suspect_after: 0,
            dead_after: 0,
            lease: 0,
            ticket_keys: Vec::new(),
            directories: vec![Verdict {
                directory_id: DirectoryId([machine; 16]),
                status: verdict.number(),
            }],
            repair_streams: 0,
        };
        let registers = Observation::Registered {
            register: &register,
            registered: &registered,
        };
        observe(facts, &registers);
    }

    /// A directory was put back from an older copy, and the end of the connection was on its way to the
    /// master when the order for another replica was given.
    #[test]
    fn what_a_machine_lost_counts_until_a_master_can_know() {
        let mut facts = Facts::default();
        (0..4).for_each(|machine| settle(&mut facts, machine, VERSION));
        observe(&mut facts, &Observation::Lost { machine: 3 });
        assert_eq!(facts.sealed_beside(0, HANDLE, VERSION), 3);
        assert_eq!(facts.replicas_beside(0, HANDLE), 2);
        register(&mut facts, 2, Status::Ok);
        assert_eq!(facts.sealed_beside(0, HANDLE, VERSION), 3);
        // It may be a copy of a server that is well.
        register(&mut facts, 3, Status::StaleStart);
        assert_eq!(facts.sealed_beside(0, HANDLE, VERSION), 3);
        register(&mut facts, 3, Status::Ok);
        assert_eq!(facts.sealed_beside(0, HANDLE, VERSION), 2);
        observe(&mut facts, &Observation::Lost { machine: 2 });
        let state = State::default();
        observe(&mut facts, &Observation::MasterStarted { state: &state });
        assert_eq!(facts.sealed_beside(0, HANDLE, VERSION), 1);
    }

    #[test]
    fn a_stale_replica_is_none_of_those_that_are_wanted() {
        let mut facts = Facts::default();
        (0..3).for_each(|machine| settle(&mut facts, machine, VERSION));
        settle(&mut facts, 3, ChunkVersion(6));
        assert_eq!(facts.replicas_beside(0, HANDLE), 3);
        assert_eq!(facts.sealed_beside(0, HANDLE, VERSION), 2);
    }
}
