//! The store's lane of an open chunk: what its machine wants done on the disk, one after the other
//! (`spec/replication.md` sections 3.2 to 3.5 and 6, `spec/journal.md`).
//!
//! [`Lane::carry_out`] does one [`Action`] that [`Action::is_for_store`] and says what the machine is
//! to be told. It blocks on the disk and knows no runtime, so the simulator calls it too. Whoever
//! drives it keeps the order of the actions, waits for the journal where [`Outcome::WhenStable`] says
//! so, and asks again where [`Outcome::Again`] does.
//!
//! [`found`] is what the machine of a chunk begins from, in a start that has not met it yet.
//!
//! Invariants: an action is done once or told to have failed; a mutation that was applied is not
//! applied again when its batch is.

use std::sync::Arc;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Serial, SessionId};
use sarsen_protocol::id_row::ID_ROWS_MAX;
use sarsen_protocol::message::{self, ChunkState, PreparedSeal};
use sarsen_protocol::status::Status;

use super::super::chunkserver::status_of;
use crate::core::member::{Done, Found, Sealed};
use crate::core::mutation::{Action, Ids, Known, Mutations, OneMutation};
use crate::store::journal::AppendError;
use crate::store::journal::body::{Base, MutationKind};
use crate::store::open_chunk::{
    ApplyError, Incoming, Lookup, OpenChunk, OpenChunkError, Ordered, SerialError,
};
use crate::store::{BeginOrder, Directory, StoreError};

/// What the machine is to be told of an action.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing.
    Nothing,
    /// There is room up to here.
    Reserved(u32),
    /// There is none.
    NotReserved(Failure),
    /// Everything of the version up to the serial is applied.
    Applied {
        /// The version.
        version: ChunkVersion,
        /// The last serial.
        serial: Serial,
        /// Whether a flush is needed before all of it can become stable.
        needs_flush: bool,
    },
    /// The mutations before this serial are applied, it and those behind it are not.
    NotApplied {
        /// The version.
        version: ChunkVersion,
        /// The first that is not.
        serial: Serial,
        /// Why.
        failure: Failure,
    },
    /// The step is done when the journal is stable up to this sequence.
    WhenStable {
        /// The journal's.
        sequence: u64,
        /// What is done then.
        done: Done,
    },
    /// A flush is over.
    Flushed {
        /// Whether entries wait all the same: another one is needed.
        needs_flush: bool,
    },
    /// A mutation can't be applied just now: the same action again, when what it wants may have come. Those
    /// before the mutation are applied.
    Again {
        /// What is left.
        action: Action,
        /// What it waits for.
        wants: Wants,
        /// The version, and the last serial that is applied.
        applied: (ChunkVersion, Serial),
    },
    /// It failed.
    Failed(Failure),
}

/// What a mutation waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// A free place: the journal is to be stable up to a checkpoint that may free some, or more to be
    /// committed.
    Place {
        /// The checkpoint's.
        sequence: u64,
    },
    /// A journal that is not behind.
    Journal,
}

/// Why an action was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the peer or the master is told.
    pub status: Status,
    /// The same in words.
    pub text: String,
    /// What is on the disk is not known: nothing of the chunk is believed from here on.
    pub is_in_doubt: bool,
}

impl Failure {
    /// One of our own making.
    #[must_use]
    pub fn internal(text: &str) -> Self {
        Self {
            status: Status::Internal,
            text: text.to_owned(),
            is_in_doubt: true,
        }
    }
}

impl From<&OpenChunkError> for Failure {
    fn from(error: &OpenChunkError) -> Self {
        let is_in_doubt = match error {
            OpenChunkError::Poisoned | OpenChunkError::Journal(AppendError::Failed) => true,
            // Nothing was written that counts, and the same can be asked again.
            OpenChunkError::Store(error) if error.is_short_of_means() => false,
            OpenChunkError::Store(error) => matches!(
                error,
                StoreError::Io { .. }
                    | StoreError::Corrupt { .. }
                    | StoreError::Poisoned { .. }
                    | StoreError::DirectoryPoisoned
            ),
            _ => false,
        };
        Self {
            status: status_of_open(error),
            text: error.to_string(),
            is_in_doubt,
        }
    }
}

/// What a peer is told of an error of an open chunk.
#[must_use]
pub fn status_of_open(error: &OpenChunkError) -> Status {
    match error {
        OpenChunkError::Promised { .. } => Status::PromiseRefused,
        OpenChunkError::NotActive { .. } | OpenChunkError::NotPrepared { .. } => Status::Moved,
        OpenChunkError::Closed => Status::ChunkSealed,
        OpenChunkError::Serial(SerialError::NotApplied { .. }) => Status::Behind,
        OpenChunkError::Poisoned | OpenChunkError::Journal(AppendError::Failed) => Status::Poisoned,
        OpenChunkError::Journal(AppendError::Full) => Status::Overloaded,
        OpenChunkError::Store(error) => status_of(error),
        _ => Status::Internal,
    }
}

impl Ids for OpenChunk {
    fn find(&self, session: SessionId, number: u64) -> Known {
        match Self::find(self, session, number) {
            Lookup::SessionEnded => Known::SessionEnded,
            Lookup::Forgotten => Known::Forgotten,
            Lookup::Row(row) => Known::Row(row),
            Lookup::Unknown => Known::Unknown,
        }
    }

    fn rows(&self) -> usize {
        self.id_rows()
    }
}

/// What a start finds of a chunk, for its machine to begin from; nothing of one that is not here.
#[must_use]
pub fn found(directory: &Directory, handle: ChunkHandle) -> Found {
    let Some(entry) = directory.entry(handle) else {
        return Found::default();
    };
    let of_entry = Sealed {
        version: entry.version,
        length: entry.length,
        crc32: entry.crc32,
    };
    let Some(chunk) = directory.open_chunk(handle) else {
        if entry.state != ChunkState::Sealed {
            // Nobody's member: an upload, or one that says open and of which the journal says nothing.
            return Found::default();
        }
        return Found {
            promised: directory.obeyed_from(handle),
            version: entry.version,
            begin_serial: entry.serial,
            serial: entry.serial,
            commit_mark: entry.serial,
            base: of_entry,
            is_open: false,
            prepared: PreparedSeal::NONE,
        };
    };
    let (told, standing) = (chunk.told(), chunk.standing());
    let base = match standing.base {
        Base::Sealed {
            version,
            length,
            data_crc32,
        } => Sealed {
            version,
            length,
            crc32: data_crc32,
        },
        Base::Made | Base::Open => Sealed::default(),
    };
    Found {
        promised: told.promised_version,
        version: told.version,
        begin_serial: told.begin_serial,
        serial: told.serial,
        commit_mark: told.commit_mark,
        base,
        is_open: chunk.was_changed(),
        prepared: told.prepared,
    }
}

/// Whether an action is in vain before the directory's journal was begun in this start.
#[must_use]
pub const fn needs_journal(action: &Action) -> bool {
    matches!(
        action,
        // A settle needs a version that was begun or promised in this start, or one that is prepared.
        Action::KeepPromise { .. } | Action::Make { .. } | Action::Begin { .. } | Action::Settle(_)
    )
}

/// One chunk's way to its directory.
#[derive(Debug)]
pub struct Lane {
    directory: Arc<Directory>,
    handle: ChunkHandle,
    /// Failures are marked on the disk later, by [`mark_failed`].
    marks_later: bool,
}

impl Lane {
    /// The way of a chunk, which need not be there, to the directory that it is in or will be.
    #[must_use]
    pub const fn new(directory: Arc<Directory>, handle: ChunkHandle) -> Self {
        Self {
            directory,
            handle,
            marks_later: false,
        }
    }

    /// Whether failures are marked on the disk by whoever drives it, with [`mark_failed`], and not by the
    /// action that fails.
    pub const fn mark_later(&mut self, later: bool) {
        self.marks_later = later;
    }

    /// Whether so many appends of so many bytes need nothing of the disk but a write to the page cache.
    #[must_use]
    pub fn is_ready_for(&self, bytes: usize, count: usize) -> bool {
        let chunk = self.directory.open_chunk(self.handle);
        chunk.is_some_and(|chunk| chunk.is_ready_for(bytes, count))
    }

    /// Does what the machine wants done. Blocks.
    pub fn carry_out(&self, action: Action) -> Outcome {
        let outcome = match action {
            Action::Apply(mutations) => return self.apply(mutations),
            Action::Reserve { end } => return self.reserve(end),
            Action::Flush => return flush(&self.directory, self.handle),
            Action::Commit(mark) => self.chunk().and_then(|chunk| {
                chunk.commit_to(mark)?;
                Ok(Outcome::Nothing)
            }),
            Action::KeepPromise { version, epoch } => self
                .directory
                .promise(self.handle, version, epoch)
                .map(|sequence| self.promised(sequence)),
            Action::Make {
                version,
                serial,
                memory,
                chunk,
            } => self.make(version, serial, memory, &chunk),
            Action::Begin {
                version,
                serial,
                memory,
            } => self.begin(version, serial, memory, None),
            Action::Prepare {
                version,
                length,
                sessions_end,
            } => self.prepare(version, length, sessions_end),
            Action::Settle(version) => self.settle(version),
            _ => Ok(Outcome::Nothing),
        };
        outcome.unwrap_or_else(|error| Outcome::Failed(self.failed(&error)))
    }

    fn chunk(&self) -> Result<Arc<OpenChunk>, OpenChunkError> {
        let handle = self.handle;
        let opened = self.directory.open_chunk(handle);
        opened.ok_or_else(|| StoreError::NotFound { handle }.into())
    }

    fn failed(&self, error: &OpenChunkError) -> Failure {
        if !self.marks_later {
            self.directory.open_chunk_failed(self.handle, error);
        }
        Failure::from(error)
    }

    fn reserve(&self, end: u32) -> Outcome {
        match self.chunk().and_then(|chunk| chunk.reserve(end)) {
            Ok(()) => Outcome::Reserved(end),
            Err(error) => Outcome::NotReserved(self.failed(&error)),
        }
    }

    /// Applies those mutations of a batch that are not applied yet.
    fn apply(&self, mutations: Mutations) -> Outcome {
        let version = mutations.version;
        let chunk = match self.chunk() {
            Ok(chunk) => chunk,
            Err(error) => {
                return Outcome::NotApplied {
                    version,
                    serial: mutations.first,
                    failure: self.failed(&error),
                };
            }
        };
        let applied = match chunk.is_backed_up() {
            Ok(true) => {
                return Outcome::Again {
                    action: Action::Apply(mutations),
                    wants: Wants::Journal,
                    applied: (version, chunk.told().serial),
                };
            }
            Ok(false) => apply_rest(&chunk, &mutations),
            Err(error) => Err(error),
        };
        let error = match applied {
            Ok(needs_flush) => {
                return Outcome::Applied {
                    version,
                    serial: mutations.last(),
                    needs_flush,
                };
            }
            Err(error) => error,
        };
        let applied = chunk.told().serial;
        if !matches!(error, OpenChunkError::Apply(ApplyError::NoSlot)) {
            return Outcome::NotApplied {
                version,
                serial: Serial(applied.0.saturating_add(1)),
                failure: self.failed(&error),
            };
        }
        // What is committed and stable in its places sets free the places that it replaced.
        match chunk.checkpoint_if_more() {
            Ok(sequence) => Outcome::Again {
                action: Action::Apply(mutations),
                wants: Wants::Place { sequence },
                applied: (version, applied),
            },
            Err(error) => Outcome::NotApplied {
                version,
                serial: Serial(applied.0.saturating_add(1)),
                failure: self.failed(&error),
            },
        }
    }

    fn promised(&self, sequence: u64) -> Outcome {
        let (length, ids) = match self.directory.open_chunk(self.handle) {
            Some(chunk) => {
                let told = chunk.told();
                (told.length, told.ids)
            }
            None => {
                let entry = self.directory.entry(self.handle);
                (entry.map_or(0, |entry| entry.length), 0)
            }
        };
        let ids = u32::try_from(ids.min(ID_ROWS_MAX)).unwrap_or(u32::MAX);
        Outcome::WhenStable {
            sequence,
            done: Done::PromiseKept { length, ids },
        }
    }

    fn make(
        &self,
        version: ChunkVersion,
        serial: Serial,
        memory: bool,
        new: &message::NewChunk,
    ) -> Result<Outcome, OpenChunkError> {
        let held = self.directory.identity().adoption;
        let held = held.map_or(0, |adoption| adoption.chunk_size);
        if held != new.chunk_size {
            return Err(StoreError::ChunkSize {
                held,
                asked: new.chunk_size,
            }
            .into());
        }
        if new.clone.is_some() {
            return Ok(unsupported("makes no clones of chunks"));
        }
        self.begin(version, serial, memory, Some(new))
    }

    fn begin(
        &self,
        version: ChunkVersion,
        serial: Serial,
        memory: bool,
        new: Option<&message::NewChunk>,
    ) -> Result<Outcome, OpenChunkError> {
        let sequence = self.directory.begin(&BeginOrder {
            handle: self.handle,
            version,
            serial,
            memory,
            create: new.map(|new| (new.file_id, new.index)),
        })?;
        let length = self.chunk()?.told().length;
        Ok(Outcome::WhenStable {
            sequence,
            done: Done::Begun { length },
        })
    }

    fn prepare(
        &self,
        version: ChunkVersion,
        length: Option<u32>,
        sessions_end: SessionId,
    ) -> Result<Outcome, OpenChunkError> {
        let (prepared, sequence) = self.chunk()?.prepare_seal(version, length, sessions_end)?;
        Ok(Outcome::WhenStable {
            sequence,
            done: Done::Prepared(prepared),
        })
    }

    /// The machine has compared length and CRC with what is prepared.
    fn settle(&self, version: ChunkVersion) -> Result<Outcome, OpenChunkError> {
        let PreparedSeal { length, crc32, .. } = self.chunk()?.told().prepared;
        let sequence = self.directory.settle(self.handle, version, length, crc32)?;
        Ok(Outcome::WhenStable {
            sequence,
            done: Done::Settled,
        })
    }
}

/// Marks a chunk on the disk that has failed, if it has. Blocks.
pub fn mark_failed(directory: &Directory, handle: ChunkHandle) {
    // Appends make no folder's name, so it was none that failed.
    directory.open_chunk_failed(handle, &OpenChunkError::Poisoned);
}

/// Makes everything that is applied stable, as far as that needs a sync before the journal may have it.
/// Need not be in order with what the lane does. Blocks.
#[must_use]
pub fn flush(directory: &Directory, handle: ChunkHandle) -> Outcome {
    let flushed = match directory.open_chunk(handle) {
        Some(chunk) => match chunk.flush() {
            // It was settled a moment ago.
            Err(OpenChunkError::Closed) => Ok(false),
            flushed => flushed,
        },
        // It was settled, which made all of it stable.
        None => Ok(false),
    };
    match flushed {
        Ok(needs_flush) => Outcome::Flushed { needs_flush },
        Err(error) => {
            directory.open_chunk_failed(handle, &error);
            Outcome::Failed(Failure::from(&error))
        }
    }
}

fn unsupported(what: &str) -> Outcome {
    Outcome::Failed(Failure {
        status: Status::Unsupported,
        text: format!("this server {what}"),
        is_in_doubt: false,
    })
}

/// Applies the mutations that are not applied yet; whether they wait for a flush.
fn apply_rest(chunk: &OpenChunk, mutations: &Mutations) -> Result<bool, OpenChunkError> {
    let applied = chunk.told().serial;
    let each = mutations.each().filter(|one| one.serial > applied);
    let each: Vec<OneMutation<'_>> = each.collect();
    let first = each.first().map_or(mutations.first, |one| one.serial);
    let ordered: Vec<Ordered<'_>> = each.iter().map(ordered).collect();
    chunk.apply(mutations.version, first, &ordered)
}

fn ordered<'a>(one: &'a OneMutation<'_>) -> Ordered<'a> {
    Ordered {
        incoming: Incoming {
            request: Some(one.row.request),
            kind: match one.row.kind {
                message::MutationKind::Write => MutationKind::Write,
                message::MutationKind::Append => MutationKind::Append,
            },
            offset: one.row.offset,
            length: one.row.length,
            pieces: one.crcs,
        },
        bytes: &one.bytes,
    }
}
