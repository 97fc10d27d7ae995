//! How far the bytes of each replica go. A seal that was prepared has the version that it would be logged in,
//! and nothing in it that is newer than what it was made from; so has one that was begun and never became active.

use std::collections::{BTreeMap, BTreeSet};

use sarsen_chunkd::store::InventoryEntry;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, DirectoryId, Serial};
use sarsen_protocol::message::{ChunkState, HeldChunk, HeldFlags};

use crate::observation::Observation;

/// How far the bytes of a replica go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    /// The version that they were sealed in, or whose mutations were done on them last.
    pub version: ChunkVersion,
    /// The last of those mutations that is there; none if it was sealed, and is whole.
    pub serial: Option<Serial>,
}

impl Age {
    /// Sealed in a version.
    #[must_use]
    pub const fn whole(version: ChunkVersion) -> Self {
        let serial = None;
        Self { version, serial }
    }

    /// Whether what a version acknowledged, up to a serial, is in it.
    #[must_use]
    pub fn holds(&self, version: ChunkVersion, serial: Serial) -> bool {
        let has_serial = || self.serial.is_none_or(|mine| serial <= mine);
        version < self.version || version == self.version && has_serial()
    }

    /// Whether another one surely goes further.
    #[must_use]
    pub fn is_behind(&self, other: &Self) -> bool {
        let has_fewer =
            || matches!((self.serial, other.serial), (Some(it), Some(more)) if it < more);
        self.version < other.version || self.version == other.version && has_fewer()
    }
}

/// A seal that was prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// By which machine.
    pub machine: u8,
    /// In which directory.
    pub directory: DirectoryId,
    /// Of what; none if that is not known.
    pub of: Option<Age>,
}

/// Those of all replicas.
#[derive(Debug, Default)]
pub struct Ages {
    /// Without what is only prepared.
    replicas: BTreeMap<(ChunkHandle, DirectoryId), Age>,
    /// Versions in which something may have been done.
    active: BTreeSet<(ChunkHandle, ChunkVersion)>,
    /// The last version that a replica began, and at which serial.
    begun: BTreeMap<(ChunkHandle, DirectoryId), (ChunkVersion, Serial)>,
    prepared: BTreeMap<(ChunkHandle, ChunkVersion), Vec<Prepared>>,
}

impl Ages {
    /// What a master is told of a replica, in these words; none if it is not known what its seal was made of.
    #[must_use]
    pub fn of(&self, directory: DirectoryId, held: &HeldChunk) -> Option<Age> {
        match held.flags.has(HeldFlags::PREPARED) {
            true => self.replicas.get(&(held.handle, directory)).copied(),
            false => {
                let told = told(held.version, held.serial, held.state);
                self.believed((held.handle, directory), told)
            }
        }
    }

    /// How far a replica goes that says this of itself; none if that is not known.
    fn believed(&self, key: (ChunkHandle, DirectoryId), told: Age) -> Option<Age> {
        let is_active = told.serial.is_none() || self.active.contains(&(key.0, told.version));
        match is_active {
            true => Some(told),
            // It is what it was before, perhaps without its last mutations.
            false => self.replicas.get(&key).map(|before| Age {
                serial: before.serial.and(told.serial).min(before.serial),
                ..*before
            }),
        }
    }

    /// The log says that a version of a chunk is active.
    pub fn activated(&mut self, handle: ChunkHandle, active: ChunkVersion) {
        self.active.insert((handle, active));
        let begun = self.begun.iter();
        let begun = begun.filter(|((of, _), (version, _))| (*of, *version) == (handle, active));
        for (&key, &(version, serial)) in begun {
            let serial = Some(serial);
            self.replicas.insert(key, Age { version, serial });
        }
    }

    /// Who prepared a version of a chunk, if that was one alone.
    #[must_use]
    pub fn prepared_by(&self, handle: ChunkHandle, version: ChunkVersion) -> Option<Prepared> {
        match self.prepared.get(&(handle, version)).map(Vec::as_slice) {
            Some([one]) => Some(*one),
            _ => None,
        }
    }

    /// The log says that a chunk is sealed in a version: whoever prepared that has it.
    pub fn sealed(&mut self, handle: ChunkHandle, version: ChunkVersion) {
        for it in self.prepared.get(&(handle, version)).into_iter().flatten() {
            let age = self.replicas.entry((handle, it.directory));
            *age.or_insert(Age::whole(version)) = Age::whole(version);
        }
    }

    /// What becomes of replicas.
    pub fn observe(&mut self, observation: &Observation<'_>) {
        match *observation {
            Observation::Sealed {
                directory,
                handle,
                version,
                ..
            }
            | Observation::Settled {
                directory,
                handle,
                version,
                ..
            } => _ = (self.replicas).insert((handle, directory), Age::whole(version)),
            Observation::Copied {
                directory, order, ..
            } => {
                let age = Age::whole(order.version);
                self.replicas.insert((order.handle, directory), age);
            }
            Observation::Begun {
                directory,
                handle,
                version,
                serial,
                ..
            } => {
                let key = (handle, directory);
                self.begun.insert(key, (version, serial));
                let serial = Some(serial);
                if let Some(age) = self.believed(key, Age { version, serial }) {
                    self.replicas.insert(key, age);
                }
            }
            Observation::SealPrepared {
                machine,
                directory,
                handle,
                version,
                serial,
                ..
            } => {
                let of = self.replicas.get(&(handle, directory)).copied();
                // Of what is open, it is what was there by then.
                let of = of.map(|age| Age {
                    serial: age.serial.and(Some(serial)),
                    ..age
                });
                self.prepares(
                    handle,
                    version,
                    Prepared {
                        machine,
                        directory,
                        of,
                    },
                );
            }
            Observation::ChunkserverStarted {
                machine, server, ..
            } => {
                for directory in server.directories() {
                    let id = directory.identity().directory_id;
                    for entry in directory.inventory(None, usize::MAX) {
                        self.found(machine, id, &entry);
                    }
                }
            }
            _ => {}
        }
    }

    /// A start has found a replica.
    fn found(&mut self, machine: u8, directory: DirectoryId, entry: &InventoryEntry) {
        let key = (entry.handle, directory);
        if !entry.is_prepared {
            let age = told(entry.version, entry.serial, entry.state);
            if age.serial.is_some() {
                self.begun.insert(key, (entry.version, entry.serial));
            }
            if let Some(age) = self.believed(key, age) {
                self.replicas.insert(key, age);
            }
            return;
        }
        let of = self.replicas.get(&key).copied();
        self.prepares(
            entry.handle,
            entry.version,
            Prepared {
                machine,
                directory,
                of,
            },
        );
    }

    fn prepares(&mut self, handle: ChunkHandle, version: ChunkVersion, prepared: Prepared) {
        let all = self.prepared.entry((handle, version)).or_default();
        all.retain(|it| it.directory != prepared.directory);
        all.push(prepared);
    }
}

fn told(version: ChunkVersion, serial: Serial, state: ChunkState) -> Age {
    let serial = (state == ChunkState::Open).then_some(serial);
    Age { version, serial }
}

#[cfg(test)]
mod tests {
    use sarsen_protocol::id::FileId;

    use super::*;

    const HANDLE: ChunkHandle = ChunkHandle(5);
    const DIRECTORY: DirectoryId = DirectoryId([1; 16]);

    fn age(version: u64, serial: Option<u64>) -> Age {
        Age {
            version: ChunkVersion(version),
            serial: serial.map(Serial),
        }
    }

    #[test]
    fn a_newer_version_goes_further_and_of_one_that_is_open_a_higher_serial() {
        assert!(age(4, None).is_behind(&age(5, Some(1))));
        assert!(age(5, Some(1)).is_behind(&age(5, Some(2))));
        assert!(!age(5, None).is_behind(&age(5, Some(2))));
        assert!(!age(5, Some(2)).is_behind(&age(4, None)));
        let holds = |version, serial| age(5, Some(7)).holds(ChunkVersion(version), Serial(serial));
        assert!(holds(4, 99) && holds(5, 7));
        assert!(!holds(5, 8) && !holds(6, 0));
        assert!(age(5, None).holds(ChunkVersion(5), Serial(99)));
    }

    #[test]
    fn a_prepared_seal_is_no_newer_than_what_it_was_made_from_until_it_is_logged() {
        let mut ages = Ages::default();
        let begun = Observation::Begun {
            machine: 2,
            directory: DIRECTORY,
            handle: HANDLE,
            version: ChunkVersion(3),
            serial: Serial(4),
            memory: false,
        };
        ages.observe(&begun);
        ages.activated(HANDLE, ChunkVersion(3));
        let prepared = Observation::SealPrepared {
            machine: 2,
            directory: DIRECTORY,
            handle: HANDLE,
            version: ChunkVersion(9),
            serial: Serial(6),
            length: 1,
            crc32: 1,
        };
        ages.observe(&prepared);
        let by = ages.prepared_by(HANDLE, ChunkVersion(9));
        assert_eq!(by.and_then(|it| it.of), Some(age(3, Some(6))));
        let held = HeldChunk {
            handle: HANDLE,
            version: ChunkVersion(9),
            serial: Serial(6),
            length: 1,
            crc32: 1,
            state: ChunkState::Open,
            flags: HeldFlags::PREPARED,
            file_id: FileId(1),
            index: 0,
        };
        let version = |ages: &Ages| ages.of(DIRECTORY, &held).map(|age| age.version);
        assert_eq!(version(&ages), Some(ChunkVersion(3)));
        ages.sealed(HANDLE, ChunkVersion(9));
        assert_eq!(version(&ages), Some(ChunkVersion(9)));
    }

    /// An attempt was given up behind its beginning: what had been done in the version before, by others, was
    /// taken to be in the replica (seed 938).
    #[test]
    fn a_version_that_was_only_begun_adds_nothing() {
        let mut ages = Ages::default();
        let begun = |version, serial| Observation::Begun {
            machine: 2,
            directory: DIRECTORY,
            handle: HANDLE,
            version: ChunkVersion(version),
            serial: Serial(serial),
            memory: false,
        };
        let of = |ages: &Ages| ages.replicas.get(&(HANDLE, DIRECTORY)).copied();
        ages.observe(&begun(3, 7));
        assert_eq!(of(&ages), None, "it is not known what it was before");
        ages.activated(HANDLE, ChunkVersion(3));
        assert_eq!(of(&ages), Some(age(3, Some(7))));
        ages.observe(&begun(9, 6));
        assert_eq!(of(&ages), Some(age(3, Some(6))));
        ages.activated(HANDLE, ChunkVersion(8));
        assert_eq!(of(&ages), Some(age(3, Some(6))));
        ages.activated(HANDLE, ChunkVersion(9));
        assert_eq!(of(&ages), Some(age(9, Some(6))));
    }
}
