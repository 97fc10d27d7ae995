//! What an order to copy does on the disks (`spec/messages.md` section 10, `spec/chunk-file.md`
//! section 10.8). All of it blocks; where the bytes come from is for [`super::pull`] to say.
//!
//! The machine has compared epoch and connection; handle and version are compared here, with what
//! is on disk when the copy begins and again when it takes its place.

use std::sync::Arc;

use sarsen_protocol::deframe::{Frame, frame};
use sarsen_protocol::error::FrameError;
use sarsen_protocol::id::ServerId;
use sarsen_protocol::message::{
    ChunkCopied, ChunkIdsReply, CopyChunk, ErrorBody, Message, ReadData,
};
use sarsen_protocol::status::Status;

use crate::core::copy_stream::{CopyFault, CopyStream};
use crate::core::event::Refusal;
use crate::net::Chunkserver;
use crate::net::chunkserver::{Claim, status_of};
use crate::store::{ChunkCopy, Directory, NewCopy, StoreError};

/// The number of the question for the data on the connection to a source.
const DATA_REQUEST: u64 = 1;

/// And of that for the ids.
const IDS_REQUEST: u64 = 2;

/// How an order to copy begins.
pub enum Begun {
    /// With its end: the replica is here, and was read back.
    Held(ChunkCopied),
    /// With a copy to be made.
    Making(Box<Making>),
}

/// A copy that takes the bytes of one source. Dropped before its end, nothing is left of it.
pub struct Making {
    chunkserver: Arc<Chunkserver>,
    directory: Arc<Directory>,
    copy: ChunkCopy,
    stream: CopyStream,
    /// Whether what is due was asked for.
    has_asked: bool,
    /// Keeps whoever would make a chunk of the same handle out, in the other directories too.
    _claim: Claim,
}

/// Why a copy came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyFailure {
    /// The source is to blame, and another one may do.
    Source {
        /// What the master is told.
        status: Status,
        /// In words.
        text: String,
        /// Its bytes did not match: the master is to have it verified.
        is_suspect: bool,
    },
    /// It failed here, whoever the source is.
    Here(Refusal),
}

impl From<CopyFault> for CopyFailure {
    fn from(fault: CopyFault) -> Self {
        Self::Source {
            status: fault.status(),
            text: fault.to_string(),
            is_suspect: matches!(fault, CopyFault::Damaged { .. }),
        }
    }
}

impl CopyFailure {
    /// The source, or the way to it, is of no use.
    pub fn broken(why: impl std::fmt::Display) -> Self {
        Self::Source {
            status: Status::ChainBroken,
            text: why.to_string(),
            is_suspect: false,
        }
    }
}

/// Looks at what is here, and begins a copy unless it is the chunk already. `now` is the wall
/// clock in milliseconds since 1970.
///
/// # Errors
/// Why none can be made here.
pub fn begin(
    chunkserver: &Arc<Chunkserver>,
    order: &CopyChunk,
    now: u64,
) -> Result<Begun, Refusal> {
    let new = NewCopy {
        handle: order.handle,
        version: order.version,
        void_up_to: order.void_up_to,
        file_id: order.file_id,
        index: order.index,
        length: order.length,
        crc32: order.crc32,
    };
    let here = |error: StoreError| refused_here(chunkserver.me(), &error);
    let handle = order.handle;
    let claim = chunkserver
        .claim(handle)
        .ok_or_else(|| here(StoreError::AlreadyExists { handle }))?;
    let directory = chunkserver.directory_for_copy(handle).map_err(here)?;
    if let Some(copy) = directory.begin_copy(&new).map_err(here)? {
        return Ok(making(chunkserver, directory, copy, order, claim));
    }
    let is_good = directory.confirm_held(&new, now).map_err(here)?;
    chunkserver.changed(directory, handle);
    if is_good {
        return Ok(Begun::Held(copied(directory, order)));
    }
    chunkserver.counters.chunks_corrupt.add(1);
    tracing::error!(%handle, "a chunk was read back and does not match; it is to be replaced");
    match directory.begin_copy(&new).map_err(here)? {
        Some(copy) => Ok(making(chunkserver, directory, copy, order, claim)),
        None => Err(here(StoreError::AlreadyExists { handle })),
    }
}

fn making(
    chunkserver: &Arc<Chunkserver>,
    directory: &Arc<Directory>,
    copy: ChunkCopy,
    order: &CopyChunk,
    claim: Claim,
) -> Begun {
    Begun::Making(Box::new(Making {
        chunkserver: Arc::clone(chunkserver),
        directory: Arc::clone(directory),
        copy,
        stream: CopyStream::new(order),
        has_asked: false,
        _claim: claim,
    }))
}

fn copied(directory: &Directory, order: &CopyChunk) -> ChunkCopied {
    ChunkCopied {
        directory_id: directory.identity().directory_id,
        length: order.length,
        crc32: order.crc32,
        suspects: Vec::new(),
    }
}

impl Making {
    /// The frame that is to be sent to the source now; none while answers are due.
    pub fn next_request(&mut self) -> Option<Vec<u8>> {
        if self.has_asked {
            return None;
        }
        self.has_asked = true;
        Some(match self.stream.has_data() {
            false => frame(&self.stream.request(), DATA_REQUEST),
            true => frame(&self.stream.ids_request(), IDS_REQUEST),
        })
    }

    /// Whether all that the source has to tell has come: the copy is to be finished.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stream.is_over()
    }

    /// Takes a frame that came whole.
    ///
    /// # Errors
    /// Whose fault it is that the copy can't go on.
    pub fn take(&mut self, frame: &Frame) -> Result<(), CopyFailure> {
        if self.stream.has_data() {
            return self.take_ids(&message_of(frame, IDS_REQUEST)?);
        }
        let data: ReadData = message_of(frame, DATA_REQUEST)?;
        let (kind, fits) = (
            frame.header.kind,
            data.check_payload(frame.header.payload_len),
        );
        fits.map_err(|source| CopyFailure::broken(FrameError::Body { kind, source }))?;
        self.take_data(&data, &frame.payload)?;
        self.has_asked = !self.stream.has_data();
        Ok(())
    }

    fn take_ids(&mut self, reply: &ChunkIdsReply) -> Result<(), CopyFailure> {
        let Some(table) = self.stream.handle_ids(reply)? else {
            return Ok(());
        };
        let taken = self.copy.put_ids(table.bytes, table.crc32);
        // It has to have it read back: the table is on its disk, or was spoiled on the way.
        taken.map_err(|error| CopyFailure::Source {
            status: Status::DamagedInTransit,
            text: error.to_string(),
            is_suspect: true,
        })
    }

    fn take_data(&mut self, data: &ReadData, payload: &[u8]) -> Result<(), CopyFailure> {
        let handled = self.stream.handle_data(data, payload);
        if matches!(handled, Err(CopyFault::Damaged { .. })) {
            self.chunkserver.counters.pieces_damaged.add(1);
        }
        handled?;
        let pending = self.copy.pending();
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let stored = pending
            .write_at(data.offset, payload)
            .and_then(|()| pending.commit_pieces(data.offset, len, data.crcs.as_slice()));
        stored.map_err(|error| self.failed_here(&error))?;
        self.chunkserver.counters.bytes_copied.add(u64::from(len));
        Ok(())
    }

    /// Seals the copy, reads it back, and puts it in its place. `now` is the wall clock in
    /// milliseconds since 1970.
    ///
    /// # Errors
    /// As [`Self::take`]. What was here before is here still.
    pub fn finish(self, now: u64) -> Result<ChunkCopied, CopyFailure> {
        let Self {
            chunkserver,
            directory,
            copy,
            stream,
            _claim,
            ..
        } = self;
        let new = *copy.new_copy();
        let finished = directory.finish_copy(copy, stream.serial(), now);
        // If the last sync failed, the copy is in its place all the same.
        chunkserver.changed(&directory, new.handle);
        match finished {
            Ok(outcome) => {
                chunkserver.counters.chunks_copied.add(1);
                Ok(ChunkCopied {
                    directory_id: directory.identity().directory_id,
                    length: outcome.length,
                    crc32: outcome.crc32,
                    suspects: Vec::new(),
                })
            }
            // Each piece matched its CRC, and the whole is another chunk than the log has.
            Err(error @ StoreError::SealMismatch { .. }) => Err(CopyFailure::Source {
                status: Status::DamagedInTransit,
                text: error.to_string(),
                is_suspect: true,
            }),
            Err(error) => {
                if matches!(error, StoreError::Io { .. }) {
                    chunkserver.counters.medium_errors.add(1);
                }
                Err(CopyFailure::Here(refused_here(chunkserver.me(), &error)))
            }
        }
    }

    fn failed_here(&self, error: &StoreError) -> CopyFailure {
        if matches!(error, StoreError::Io { .. }) {
            self.chunkserver.counters.medium_errors.add(1);
        }
        CopyFailure::Here(refused_here(self.chunkserver.me(), error))
    }
}

/// A source's frame as the answer that is due.
fn message_of<M: Message>(frame: &Frame, request_id: u64) -> Result<M, CopyFailure> {
    let header = &frame.header;
    let kind = header.kind;
    if !header.status.is_ok() {
        let error = frame.error().map_err(CopyFailure::broken)?;
        return Err(CopyFailure::Source {
            // A goodbye says why the connection ends, not what is wrong with the chunk.
            status: match kind == M::KIND {
                true => header.status,
                false => Status::ChainBroken,
            },
            text: error.text,
            // What it says of itself, it tells the master too.
            is_suspect: false,
        });
    }
    if header.request_id != request_id {
        return Err(CopyFailure::broken(FrameError::OutOfTurn { kind }));
    }
    frame.message().map_err(CopyFailure::broken)
}

/// What is said of an error of our own store, with the version that is here if that is why.
fn refused_here(me: ServerId, error: &StoreError) -> Refusal {
    let version = match error {
        StoreError::OtherVersion { held, .. } => *held,
        _ => Default::default(),
    };
    let body = ErrorBody {
        server: me,
        version,
        ..ErrorBody::new(error.to_string())
    };
    (status_of(error), body)
}
