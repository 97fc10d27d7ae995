//! What a person accepts as lost is lost, and no more of it than has to be (`spec/replication.md` section 8):
//! a chunk of which a good copy is there keeps its state, and of old copies the newest is gone on with.
//!
//! It is held to the copies that a master knew of when the request came to it, and that truly were as it was
//! told, on servers that could be reached. Whoever was troubled since does not count, or could not promise; nor
//! does one that was asked for an earlier acceptance in vain.

use std::collections::{BTreeMap, BTreeSet};

use sarsen_master::core::chunk_table::Sealed;
use sarsen_protocol::id::{ChunkHandle, DirectoryId, RequestId, SessionId};
use sarsen_protocol::message::{AnyMessage, ChunkState, HeldChunk, HeldFlags};

use super::ages::Age;
use super::losses::AcceptedLoss;
use super::{Facts, Invariant};
use crate::observation::{KnownCopy, Observation};

/// What was known when acceptances were asked for.
#[derive(Debug, Default)]
pub struct AcceptedLosses {
    asked: Vec<Asked>,
    /// Who promised something while an acceptance of a chunk was under way.
    tried: BTreeMap<ChunkHandle, BTreeSet<u8>>,
    /// Who has not answered an order to promise that.
    owing: BTreeSet<(u8, ChunkHandle)>,
    /// How many acceptances were looked at.
    looked_at: usize,
}

/// A request came to the master.
#[derive(Debug)]
struct Asked {
    request: (SessionId, u64),
    handle: ChunkHandle,
    copies: Vec<Copy>,
}

/// What could be gone on with.
#[derive(Clone, Copy, Debug)]
struct Copy {
    machine: u8,
    directory: DirectoryId,
    age: Age,
    /// It is what the log says.
    is_good: bool,
}

impl Invariant for AcceptedLosses {
    fn name(&self) -> &'static str {
        "accepted losses"
    }

    fn observe(&mut self, observation: &Observation<'_>, facts: &Facts) -> Result<(), String> {
        // A master that starts may be the first to show what the one before has logged.
        let accepted = facts.losses.accepted();
        let looked_at = std::mem::replace(&mut self.looked_at, accepted.len());
        for loss in accepted.iter().skip(looked_at) {
            self.check(loss)?;
        }
        match observation {
            Observation::MasterStarted { .. } => {
                self.asked.clear();
                self.tried.clear();
                self.owing.clear();
            }
            Observation::LossAsked {
                request,
                handle,
                copies,
            } => self.asked(*request, *handle, copies, facts),
            Observation::LossAnswered {
                request,
                is_accepted: false,
            } => self.asked.retain(|it| it.request != key(*request)),
            Observation::Ordered { server, order, .. } => {
                let machine = facts.machines.get(server).copied();
                self.ordered(machine, order);
            }
            Observation::MemberAnswered {
                server,
                handle,
                is_done,
            } => {
                if let Some(&machine) = facts.machines.get(server) {
                    self.owing.remove(&(machine, *handle));
                    if !is_done {
                        self.without(|of, copy| (of, copy.machine) == (*handle, machine));
                    }
                }
            }
            Observation::ChunkserverLeft { server } => {
                if let Some(machine) = facts.machines.get(server) {
                    self.without(|_, copy| copy.machine == *machine);
                }
            }
            Observation::Registered { registered, .. } => {
                if let Some(machine) = facts.machines.get(&registered.server_id) {
                    self.without(|_, copy| copy.machine == *machine);
                }
            }
            Observation::Troubled => self.without(|_, _| true),
            _ => {}
        }
        Ok(())
    }
}

impl AcceptedLosses {
    fn asked(
        &mut self,
        request: RequestId,
        handle: ChunkHandle,
        copies: &[KnownCopy],
        facts: &Facts,
    ) {
        let record = facts.shadow.chunks.record(handle);
        let at_rest = record.and_then(|record| record.at_rest());
        let tried = self.tried.get(&handle);
        let copies = copies.iter().filter(|copy| {
            !facts.is_spoiled(copy.machine, handle)
                && !tried.is_some_and(|tried| tried.contains(&copy.machine))
        });
        let copies = copies.filter_map(|copy| {
            Some(Copy {
                machine: copy.machine,
                directory: copy.directory,
                age: facts.ages.of(copy.directory, &copy.held)?,
                is_good: at_rest.is_some_and(|sealed| is_good(&copy.held, sealed)),
            })
        });
        self.asked.push(Asked {
            request: key(request),
            handle,
            copies: copies.collect(),
        });
    }

    fn ordered(&mut self, machine: Option<u8>, order: &AnyMessage) {
        let Some(machine) = machine else { return };
        match order {
            AnyMessage::Promise(order) if self.asked.iter().any(|it| it.handle == order.handle) => {
                self.tried.entry(order.handle).or_default().insert(machine);
                self.owing.insert((machine, order.handle));
            }
            AnyMessage::DeleteChunk(order) => {
                self.without(|of, copy| (of, copy.machine) == (order.handle, machine));
            }
            _ => {}
        }
    }

    fn without(&mut self, is_gone: impl Fn(ChunkHandle, &Copy) -> bool) {
        for asked in &mut self.asked {
            asked.copies.retain(|copy| !is_gone(asked.handle, copy));
        }
    }

    /// A loss was accepted. It was let in when it was asked for first, or when it was asked for again.
    fn check(&mut self, loss: &AcceptedLoss) -> Result<(), String> {
        let asked = self.asked.iter().filter(|it| it.request == loss.request);
        let asked: Vec<&Asked> = asked.collect();
        let is_always_there = |copy: &&Copy| {
            let has = |asked: &&Asked| {
                let mut copies = asked.copies.iter();
                copies.any(|it| (it.directory, it.age) == (copy.directory, copy.age))
            };
            asked.iter().all(has)
        };
        let first = asked.first().map(|asked| asked.copies.as_slice());
        let handle = loss.handle;
        let has_answered = |copy: &&Copy| !self.owing.contains(&(copy.machine, handle));
        let copies = first.into_iter().flatten().filter(is_always_there);
        let copies: Vec<&Copy> = copies.filter(has_answered).collect();
        let is_what_it_was = loss
            .at_rest
            .is_some_and(|before| (before.len, before.crc) == (loss.sealed.len, loss.sealed.crc));
        if !is_what_it_was && let Some(copy) = copies.iter().find(|copy| copy.is_good) {
            return Err(format!(
                "{handle} is sealed for an accepted loss as {:?}, and machine {} had what the log said: {:?}",
                loss.sealed, copy.machine, loss.at_rest
            ));
        }
        if !is_what_it_was
            && let Some((machine, age)) = loss.taken
            && let Some(copy) = copies.iter().find(|copy| age.is_behind(&copy.age))
        {
            return Err(format!(
                "{handle} goes on with the copy of machine {machine}, {age:?}, for an accepted loss, and machine \
                 {} had a newer one, {:?}",
                copy.machine, copy.age
            ));
        }
        self.asked.retain(|it| it.handle != handle);
        self.tried.remove(&handle);
        Ok(())
    }
}

const fn key(request: RequestId) -> (SessionId, u64) {
    (request.session, request.number)
}

/// Whether a replica is what the log says.
fn is_good(held: &HeldChunk, sealed: Sealed) -> bool {
    held.state == ChunkState::Sealed
        && held.flags == HeldFlags::NONE
        && (held.version, held.length, held.crc32) == (sealed.version, sealed.len, sealed.crc)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sarsen_protocol::id::{ChunkVersion, FileId, Serial, ServerId};

    use super::*;

    const HANDLE: ChunkHandle = ChunkHandle(5);

    /// What the log said, until a loss was accepted.
    const LOGGED: Sealed = sealed(7, 70);

    const fn sealed(version: u64, crc: u32) -> Sealed {
        Sealed {
            version: ChunkVersion(version),
            len: 100,
            crc,
        }
    }

    const fn request(number: u64) -> RequestId {
        RequestId {
            session: SessionId(1),
            number,
            lowest_outstanding: 1,
        }
    }

    fn directory(machine: u8) -> DirectoryId {
        DirectoryId([machine; 16])
    }

    /// Sealed in a version.
    fn copy(machine: u8, version: u64) -> KnownCopy {
        let held = HeldChunk {
            handle: HANDLE,
            version: ChunkVersion(version),
            serial: Serial(1),
            length: 100,
            crc32: u32::try_from(version).expect("small") * 10,
            state: ChunkState::Sealed,
            flags: HeldFlags::NONE,
            file_id: FileId(1),
            index: 0,
        };
        KnownCopy {
            machine,
            directory: directory(machine),
            held,
        }
    }

    /// Prepared in a version.
    fn prepared(machine: u8, version: u64) -> KnownCopy {
        let mut copy = copy(machine, version);
        copy.held.state = ChunkState::Open;
        copy.held.flags = HeldFlags::PREPARED;
        copy
    }

    fn observe(promise: &mut AcceptedLosses, facts: &mut Facts, observation: &Observation<'_>) {
        facts.ages.observe(observation);
        assert_eq!(promise.observe(observation, facts), Ok(()));
    }

    fn settled(machine: u8, version: u64) -> Observation<'static> {
        Observation::Settled {
            machine,
            directory: directory(machine),
            handle: HANDLE,
            version: ChunkVersion(version),
            length: 100,
            crc32: 1,
        }
    }

    fn asks(promise: &mut AcceptedLosses, facts: &mut Facts, number: u64, copies: &[KnownCopy]) {
        let asked = Observation::LossAsked {
            request: request(number),
            handle: HANDLE,
            copies,
        };
        observe(promise, facts, &asked);
        // No log is applied here.
        for asked in &mut promise.asked {
            for it in &mut asked.copies {
                it.is_good = copies
                    .iter()
                    .any(|copy| copy.machine == it.machine && is_good(&copy.held, LOGGED));
            }
        }
    }

    /// Sealed as that with the copy of a machine, which goes so far.
    fn accepts(
        promise: &mut AcceptedLosses,
        facts: &mut Facts,
        number: u64,
        (machine, version): (u8, u64),
        sealed: Sealed,
    ) -> Result<(), String> {
        let age = Age::whole(ChunkVersion(version));
        facts.losses.add_accepted(AcceptedLoss {
            handle: HANDLE,
            file: FileId(1),
            index: 0,
            request: (SessionId(1), number),
            last: LOGGED.version,
            at_rest: Some(LOGGED),
            sealed,
            taken: Some((machine, age)),
            kept: Some(age),
            at: Duration::ZERO,
        });
        promise.observe(&Observation::Healed, facts)
    }

    /// A loss was accepted, and the master ended when machine 2 had prepared its copy of version 3. When it
    /// was accepted again that seal was taken for newer than what machine 3 had, of version 5.
    #[test]
    fn a_prepared_seal_of_an_old_copy_is_not_taken_before_a_newer_one() {
        let (mut promise, mut facts) = (AcceptedLosses::default(), Facts::default());
        observe(&mut promise, &mut facts, &settled(2, 3));
        let copies = [prepared(2, 9), copy(3, 5)];
        asks(&mut promise, &mut facts, 1, &copies);
        let broken = accepts(&mut promise, &mut facts, 1, (2, 3), sealed(10, 30));
        assert!(broken.is_err_and(|how| how.contains("machine 3 had a newer one")));
        asks(&mut promise, &mut facts, 2, &copies);
        let right = accepts(&mut promise, &mut facts, 2, (3, 5), sealed(11, 50));
        assert_eq!(right, Ok(()));
    }

    /// Holders of a chunk at rest differed, and one that was right was there still.
    #[test]
    fn what_the_log_says_stays_if_somebody_has_it() {
        let (mut promise, mut facts) = (AcceptedLosses::default(), Facts::default());
        observe(&mut promise, &mut facts, &settled(1, 7));
        let copies = [prepared(1, 9), copy(3, 7)];
        asks(&mut promise, &mut facts, 1, &copies);
        let broken = accepts(&mut promise, &mut facts, 1, (1, 7), sealed(10, 71));
        assert!(broken.is_err_and(|how| how.contains("machine 3 had what the log said")));
        asks(&mut promise, &mut facts, 2, &copies);
        let right = accepts(&mut promise, &mut facts, 2, (1, 7), sealed(11, 70));
        assert_eq!(right, Ok(()), "the same bytes");
    }

    #[test]
    fn who_was_troubled_or_tried_or_was_not_there_the_first_time_is_no_better_choice() {
        let (mut promise, mut facts) = (AcceptedLosses::default(), Facts::default());
        facts.machines.insert(ServerId(4), 3);
        let copies = [copy(2, 3), copy(3, 5)];
        let mut number = 0;
        let mut goes_on_with_the_older = |between: &[&[KnownCopy]], then: &Observation<'_>| {
            number += 1;
            for copies in between {
                asks(&mut promise, &mut facts, number, copies);
            }
            _ = promise.observe(then, &facts);
            accepts(
                &mut promise,
                &mut facts,
                number,
                (2, 3),
                sealed(number + 9, 30),
            )
        };
        assert!(goes_on_with_the_older(&[&copies], &Observation::Healed).is_err());
        let is_right = |result: Result<(), String>| assert_eq!(result, Ok(()));
        is_right(goes_on_with_the_older(&[&copies], &Observation::Troubled));
        let server = ServerId(4);
        let left = Observation::ChunkserverLeft { server };
        is_right(goes_on_with_the_older(&[&copies], &left));
        let refuses = Observation::MemberAnswered {
            server,
            handle: HANDLE,
            is_done: false,
        };
        is_right(goes_on_with_the_older(&[&copies], &refuses));
        let later: [&[KnownCopy]; 2] = [&copies[..1], &copies];
        is_right(goes_on_with_the_older(&later, &Observation::Healed));
        // An attempt with it came to nothing.
        promise.tried.entry(HANDLE).or_default().insert(3);
        asks(&mut promise, &mut facts, 99, &copies);
        let right = accepts(&mut promise, &mut facts, 99, (2, 3), sealed(99, 30));
        assert_eq!(right, Ok(()));
    }

    #[test]
    fn a_request_that_was_refused_says_nothing_of_when_it_comes_again() {
        let (mut promise, mut facts) = (AcceptedLosses::default(), Facts::default());
        asks(&mut promise, &mut facts, 1, &[copy(2, 3)]);
        let refused = Observation::LossAnswered {
            request: request(1),
            is_accepted: false,
        };
        observe(&mut promise, &mut facts, &refused);
        asks(&mut promise, &mut facts, 1, &[copy(2, 3), copy(3, 5)]);
        let broken = accepts(&mut promise, &mut facts, 1, (2, 3), sealed(10, 30));
        assert!(broken.is_err());
    }
}
