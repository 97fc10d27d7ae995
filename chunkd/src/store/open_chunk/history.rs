//! What a journal says of one chunk, when all its entries are read (`spec/journal.md` sections 6, 8
//! and 9 step 3): from which state on which mutations stand.
//!
//! [`ChunkHistory::take`] for each entry of the chunk, in the journal's order; then
//! [`ChunkHistory::finish`]. It is bookkeeping of entries; whoever replays them reads the mutations
//! from where they lie.
//!
//! A journal that was trimmed may begin in the middle of a chunk's life, and entries that count may
//! have been copied forward, behind entries that were written after them. So nothing is judged
//! before the end is known, and versions, not the order of entries, say what a beginning forgets:
//! it forgets what lower versions did above it, and never what its own did, although that may stand
//! in front of it. An entry may be copied for the sake of some of its mutations; the others are
//! those of a lower version and stay forgotten.

use std::collections::BTreeMap;

use sarsen_protocol::id::{ChunkVersion, FileId, Serial};
use sarsen_protocol::id_row::IdRow;
use thiserror::Error;

use super::super::journal::body::{Applied, Base, Begun, Block, Body, Checkpoint, Prepared};
use super::super::journal::{FoundEntry, Location};

/// A mutation that stands, and where it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The version that it was applied in.
    pub version: ChunkVersion,
    /// The `applied` entry.
    pub location: Location,
    /// Which of its mutations it is.
    pub number: usize,
}

/// The state that the mutations which stand are applied to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A chunk of no bytes, made open.
    Made,
    /// The sealed chunk that the file still is.
    Sealed {
        /// Its version.
        version: ChunkVersion,
        /// Its bytes.
        length: u32,
        /// Their CRC.
        data_crc32: u32,
    },
    /// A checkpoint.
    Checkpoint {
        /// Bytes of data.
        length: u32,
        /// Their blocks.
        blocks: Vec<Block>,
        /// The id table.
        ids: Vec<IdRow>,
    },
}

/// An open chunk, as a journal tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenHistory {
    /// The last version that was begun.
    pub version: ChunkVersion,
    /// Where it began.
    pub begin_serial: Serial,
    /// Whether it allows acknowledgements from memory.
    pub memory: bool,
    /// The highest version promised, or begun.
    pub promised_version: ChunkVersion,
    /// The file that the chunk belongs to.
    pub file_id: FileId,
    /// Its place there.
    pub index: u32,
    /// What the chunk was before its first version that the journal tells of: what its file still is.
    pub base: Base,
    /// What the mutations are applied to.
    pub origin: Origin,
    /// The serial of that.
    pub origin_serial: Serial,
    /// The mutations behind it, with serials that follow each other.
    pub standing: Vec<Standing>,
    /// As far as the member knew that mutations are committed.
    pub commit_mark: Serial,
    /// A sealed form of this version that is ready.
    pub prepared: Option<Prepared>,
}

impl OpenHistory {
    /// The last mutation.
    #[must_use]
    pub const fn serial(&self) -> Serial {
        Serial(
            self.origin_serial
                .0
                .saturating_add(self.standing.len() as u64),
        )
    }

    /// Whether the states that its entries speak of are among its own.
    fn check(&self) -> Result<(), HistoryError> {
        let last = self.serial();
        let is_prepared_here = self.prepared.is_none_or(|prepared| prepared.serial == last);
        match self.commit_mark <= last && self.begin_serial <= last && is_prepared_here {
            true => Ok(()),
            false => Err(HistoryError::OtherState {
                version: self.version,
            }),
        }
    }

    /// Whether it was begun from a sealed chunk and nothing was applied: if no seal is prepared it is
    /// reported as that, and it is read as that.
    #[must_use]
    pub const fn is_still_sealed(&self) -> bool {
        matches!(self.origin, Origin::Sealed { .. }) && self.standing.is_empty()
    }
}

/// What a journal says of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing that still counts.
    Nothing,
    /// It promised; what it is, its file tells.
    Promised(ChunkVersion),
    /// It is open.
    Open(Box<OpenHistory>),
}

/// Entries that no member writes: the journal is damaged, or a program was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// The version begins, is prepared, or is committed up to a serial that the chunk doesn't have.
    #[error("an entry of version {version} speaks of a state that the chunk doesn't have")]
    OtherState {
        /// The version.
        version: ChunkVersion,
    },
    /// Mutations are missing in between, or what the first one is applied to.
    #[error("what serial {} is applied to is missing", serial.0)]
    Missing {
        /// The first serial behind what is missing.
        serial: Serial,
    },
}

/// What is known of the last version that was begun.
#[derive(Clone, Copy, Debug)]
struct Version {
    version: ChunkVersion,
    begin_serial: Serial,
    memory: bool,
    file_id: FileId,
    index: u32,
}

/// The reading of one chunk's entries.
#[derive(Clone, Debug, Default)]
pub struct ChunkHistory {
    promised: ChunkVersion,
    version: Option<Version>,
    /// What the chunk's file still is.
    base: Base,
    origin: Option<(Serial, Origin)>,
    /// The version whose beginning told the origin, if a later version had begun before that.
    copied_origin: Option<ChunkVersion>,
    /// Mutations that no beginning forgot, by serial. Those up to the origin are done with.
    standing: BTreeMap<u64, Standing>,
    commit_mark: Serial,
    /// The preparation of the highest version.
    prepared: Option<(ChunkVersion, Prepared)>,
    /// A checkpoint of which the last part has not come.
    begun_checkpoint: Option<Checkpoint>,
    /// The highest version that anything but a promise is of; none if there is nothing else.
    highest: ChunkVersion,
}

impl ChunkHistory {
    /// The highest version that anything but a promise is of, and the highest that it promised, or began.
    #[must_use]
    pub fn versions(&self) -> (ChunkVersion, ChunkVersion) {
        (self.highest, self.promised.max(self.highest))
    }

    /// Takes the chunk's next entry.
    pub fn take(&mut self, found: &FoundEntry) {
        let version = found.version;
        if !matches!(found.body, Body::Promised(_)) {
            self.highest = self.highest.max(version);
        }
        match &found.body {
            Body::Promised(promised) => {
                self.promised = self.promised.max(promised.promised_version);
            }
            Body::Begun(begun) => self.begin(version, begun),
            Body::Applied(applied) => self.apply(version, found.location, applied),
            Body::Prepared(prepared) => {
                let is_newest = self.prepared.is_none_or(|(held, _)| held <= version);
                if is_newest {
                    self.prepared = Some((version, *prepared));
                }
            }
            Body::Checkpoint(part) => self.take_part(version, part),
            Body::Settled | Body::Dropped => *self = Self::default(),
        }
    }

    /// What the entries say together.
    ///
    /// # Errors
    /// [`HistoryError`]: nothing that the journal says of the chunk can be believed.
    pub fn finish(self) -> Result<Outcome, HistoryError> {
        let Some(last) = self.version else {
            return match (self.standing.first_key_value(), self.prepared) {
                (Some((&serial, _)), _) => Err(HistoryError::Missing {
                    serial: Serial(serial),
                }),
                (None, Some((version, _))) => Err(HistoryError::OtherState { version }),
                (None, None) if self.promised.is_some() => Ok(Outcome::Promised(self.promised)),
                (None, None) => Ok(Outcome::Nothing),
            };
        };
        let (origin_serial, origin) = self.origin.ok_or(HistoryError::Missing {
            serial: last.begin_serial,
        })?;
        let serials = origin_serial.0.saturating_add(1)..;
        let missing = serials
            .zip(self.standing.keys())
            .find(|(expected, serial)| expected != *serial);
        if let Some((_, &serial)) = missing {
            let serial = Serial(serial);
            return Err(HistoryError::Missing { serial });
        }
        let of_this_version = |(version, _): &(ChunkVersion, Prepared)| *version == last.version;
        let open = OpenHistory {
            version: last.version,
            begin_serial: last.begin_serial,
            memory: last.memory,
            promised_version: self.promised.max(last.version),
            file_id: last.file_id,
            index: last.index,
            base: self.base,
            origin,
            origin_serial,
            standing: self.standing.into_values().collect(),
            commit_mark: self.commit_mark.max(origin_serial),
            prepared: self
                .prepared
                .filter(of_this_version)
                .map(|(_, prepared)| prepared),
        };
        open.check().map(|()| Outcome::Open(Box::new(open)))
    }

    fn begin(&mut self, version: ChunkVersion, begun: &Begun) {
        let origin = match begun.base {
            Base::Made => Some(Origin::Made),
            Base::Sealed {
                version,
                length,
                data_crc32,
            } => Some(Origin::Sealed {
                version,
                length,
                data_crc32,
            }),
            Base::Open => None,
        };
        // Copied forward behind a later version's, it may still tell what that one began from; and of
        // several the newest does, others are of a life of the chunk that is over.
        let is_older = self.version.is_some_and(|last| version <= last.version);
        let is_newest = match self.copied_origin {
            Some(other) => version > other,
            None => self.origin.is_none(),
        };
        if origin.is_some() && !is_older {
            self.forget_older(version);
        }
        if origin.is_some() && (!is_older || is_newest) {
            self.origin = origin.map(|origin| (begun.serial, origin));
            self.base = begun.base;
            self.copied_origin = is_older.then_some(version);
        }
        if !is_older {
            self.start_version(Version {
                version,
                begin_serial: begun.serial,
                memory: begun.memory,
                file_id: begun.file_id,
                index: begun.index,
            });
        }
    }

    /// A version begins from a file that is sealed, or new: what the handle was before is over, also if
    /// the entry is missing that says so.
    fn forget_older(&mut self, version: ChunkVersion) {
        self.standing.retain(|_, held| held.version >= version);
        self.commit_mark = Serial::NONE;
        self.begun_checkpoint = None;
    }

    /// The version is the last one: what older ones did above its beginning is forgotten.
    ///
    /// What it did itself is not, though it may stand in front: its beginning was copied forward.
    fn start_version(&mut self, last: Version) {
        self.standing
            .retain(|&serial, held| serial <= last.begin_serial.0 || held.version >= last.version);
        self.version = Some(last);
    }

    fn apply(&mut self, version: ChunkVersion, location: Location, applied: &Applied) {
        // Copied forward behind the beginning of this one.
        if self.base.is_of_an_earlier_life(version) {
            return;
        }
        let serials = applied.first_serial.0..=applied.last_serial().0;
        for (number, serial) in serials.enumerate() {
            // An entry that was copied forward for the sake of its first mutations.
            let is_forgotten = self
                .version
                .is_some_and(|last| version < last.version && serial > last.begin_serial.0);
            let is_in_place = self
                .origin
                .as_ref()
                .is_some_and(|(origin, _)| serial <= origin.0);
            let is_replaced = self
                .standing
                .get(&serial)
                .is_some_and(|held| held.version > version);
            if !is_forgotten && !is_in_place && !is_replaced {
                let standing = Standing {
                    version,
                    location,
                    number,
                };
                self.standing.insert(serial, standing);
            }
        }
        self.commit_mark = self.commit_mark.max(applied.commit_mark);
    }

    /// One part of a checkpoint. It counts when the last one is there.
    fn take_part(&mut self, version: ChunkVersion, part: &Checkpoint) {
        let goes_on = |begun: &Checkpoint| {
            let (last, first) = (begun.ids.last(), part.ids.first());
            // A crash left parts, and the checkpoint was taken anew: its rows begin again.
            begun.serial == part.serial && (first.is_none() || last < first)
        };
        let whole = match self.begun_checkpoint.take().filter(goes_on) {
            Some(mut begun) => {
                begun.ids.extend_from_slice(&part.ids);
                begun.more = part.more;
                begun
            }
            None => part.clone(),
        };
        match whole.more {
            true => self.begun_checkpoint = Some(whole),
            false => self.rest_on(version, whole),
        }
    }

    /// The checkpoint is the state that what is above it is applied to.
    fn rest_on(&mut self, version: ChunkVersion, checkpoint: Checkpoint) {
        let serial = checkpoint.serial;
        // One that was copied forward, or came back with a removed segment, is older.
        let is_older = self
            .origin
            .as_ref()
            .is_some_and(|(origin, _)| *origin > serial);
        if is_older || self.base.is_of_an_earlier_life(version) {
            return;
        }
        self.promised = self.promised.max(checkpoint.promised_version);
        self.base = checkpoint.base;
        if self.version.is_none_or(|last| last.version < version) {
            self.start_version(Version {
                version,
                begin_serial: checkpoint.begin_serial,
                memory: checkpoint.memory,
                file_id: checkpoint.file_id,
                index: checkpoint.index,
            });
        }
        self.commit_mark = self.commit_mark.max(serial);
        self.standing = match serial.0.checked_add(1) {
            Some(above) => self.standing.split_off(&above),
            None => BTreeMap::new(),
        };
        let origin = Origin::Checkpoint {
            length: checkpoint.length,
            blocks: checkpoint.blocks,
            ids: checkpoint.ids,
        };
        self.origin = Some((serial, origin));
        self.copied_origin = None;
    }
}
