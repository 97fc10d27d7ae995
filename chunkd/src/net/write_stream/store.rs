//! The loop of a write stream that faces the disk: checks what came, writes it, seals it.
//!
//! Anything that may wait for a disk runs on a blocking thread, or is io_uring's to wait for.

use std::sync::Arc;

use sarsen_protocol::id::Serial;
use sarsen_protocol::message::{Crcs, Level, WriteOpen, WriteSeal};
use sarsen_protocol::status::Status;
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use super::super::DISK_TIME_MAX;
use super::super::chunkserver::{Chunkserver, status_of};
use super::super::health::HANG_MAX;
use super::super::plane::Thread;
use super::{Event, Events, SMALL_LEN, tell};
use crate::core::pieces::first_damaged;
use crate::io::pool::Buffer;
use crate::io::{begin_now, file};
use crate::store::{
    Directory, NewChunk, Operation, PendingChunk, SealClaim, StoreError, data_position,
};

/// Bytes that are written before the kernel is to begin with them, where the seal is to be on disk.
const WRITE_BACK_LEN: u32 = 8 * 1024 * 1024;

/// What is to be done, in this order.
#[derive(Debug)]
pub(super) enum StoreJob {
    /// Make the chunk.
    Prepare,
    /// Compare and write.
    Data(Data),
    /// Seal.
    Seal(WriteSeal),
    /// All of that, of a small chunk.
    Whole { pieces: Vec<Data>, seal: WriteSeal },
}

/// What one frame brought.
#[derive(Debug)]
pub(super) struct Data {
    pub(super) serial: Serial,
    pub(super) offset: u32,
    pub(super) crcs: Crcs,
    pub(super) buffer: Arc<Buffer>,
}

/// Why a job was not done.
enum Fault {
    /// The piece that begins here in the chunk is not what was sent.
    Damaged {
        offset: u32,
    },
    Store(StoreError),
    /// The disk did not answer in time.
    Silent,
    /// Our own doing.
    Internal(String),
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// One stream's way to its chunk.
pub(super) struct Store<'a> {
    thread: &'a Thread,
    new: NewChunk,
    has_next_hop: bool,
    events: Events,
    last: Serial,
    level: Level,
    made: Option<Made>,
}

/// The chunk while it is written; given up on drop, which changes nothing once it is sealed.
struct Made {
    directory: Arc<Directory>,
    pending: Arc<PendingChunk>,
    /// Up to where the kernel was told to write it back.
    written_back: u32,
}

impl Drop for Made {
    fn drop(&mut self) {
        self.directory.abandon(&self.pending);
    }
}

/// Makes a chunk, blocking.
fn make(chunkserver: &Chunkserver, new: &NewChunk) -> Result<Made, StoreError> {
    let (directory, pending) = chunkserver.create(new)?;
    Ok(Made {
        directory,
        pending,
        written_back: 0,
    })
}

impl Made {
    /// Seals it, blocking; `serial` is that of the last piece.
    fn seal(
        self,
        chunkserver: &Chunkserver,
        seal: &WriteSeal,
        serial: Serial,
    ) -> Result<Level, StoreError> {
        let claim = SealClaim {
            length: seal.length,
            crc32: seal.crc32,
            serial,
            level: seal.level,
        };
        let outcome = self.directory.seal(seal.handle, seal.version, &claim);
        // Sealed or poisoned: the inventory has something new to tell.
        chunkserver.changed(&self.directory, seal.handle);
        let level = outcome?.level;
        chunkserver.counters.chunks_sealed.add(1);
        Ok(level)
    }
}

impl Data {
    /// Its payload, if that is what was sent.
    fn check(&self) -> Result<&[u8], Fault> {
        let payload = self.buffer.payload();
        match first_damaged(self.offset, payload, &self.crcs) {
            Some(offset) => Err(Fault::Damaged { offset }),
            None => Ok(payload),
        }
    }
}

/// A small chunk that is here whole as one job, anything else as it is.
fn at_one_go(jobs: Vec<StoreJob>) -> Vec<StoreJob> {
    let len = |job: &StoreJob| match job {
        StoreJob::Data(data) => data.buffer.payload().len(),
        _ => 0,
    };
    let seal = match jobs.last() {
        Some(StoreJob::Seal(seal)) if jobs.iter().map(len).sum::<usize>() <= SMALL_LEN => *seal,
        _ => return jobs,
    };
    let pieces = jobs.into_iter().filter_map(|job| match job {
        StoreJob::Data(data) => Some(data),
        _ => None,
    });
    let pieces = pieces.collect();
    vec![StoreJob::Whole { pieces, seal }]
}

impl<'a> Store<'a> {
    pub(super) fn new(thread: &'a Thread, open: &WriteOpen, events: Events) -> Self {
        let new = NewChunk {
            handle: open.handle,
            version: open.version,
            file_id: open.file_id,
            index: open.index,
            room: open.room,
        };
        let has_next_hop = usize::from(open.position) + 1 < open.chain.len();
        Self {
            thread,
            new,
            has_next_hop,
            events,
            last: open.begin_serial,
            level: open.level,
            made: None,
        }
    }

    /// Does jobs until one fails; then tells that, and does no more.
    pub(super) async fn run(mut self, mut jobs: mpsc::UnboundedReceiver<StoreJob>) {
        // What came together with the opening is looked at first: a small chunk is here whole then.
        yield_now().await;
        let here = std::iter::from_fn(|| jobs.try_recv().ok()).collect();
        let mut here = at_one_go(here).into_iter();
        loop {
            let job = match here.next() {
                Some(job) => job,
                None => match jobs.recv().await {
                    Some(job) => job,
                    None => return,
                },
            };
            match self.in_good_time(job).await {
                Ok(event) => tell(&self.events, event).await,
                Err(fault) => {
                    let (status, text) = self.told(&fault);
                    return tell(&self.events, Event::Failed(status, text)).await;
                }
            }
        }
    }

    /// Does a job, unless that takes very long, or its disk answers nobody any more.
    async fn in_good_time(&mut self, job: StoreJob) -> Result<Event, Fault> {
        let chunkserver = Arc::clone(&self.thread.chunkserver);
        let made = self.made.as_ref();
        let directory = made.map(|made| made.directory.identity().directory_id);
        let hung = async {
            if directory.is_none() {
                // Which one it is to be is not known here, and one that hangs is not chosen.
                sleep(HANG_MAX).await;
            }
            chunkserver.hung(directory).await;
        };
        tokio::select! {
            biased;
            carried_out = timeout(DISK_TIME_MAX, self.carry_out(job)) => {
                carried_out.unwrap_or(Err(Fault::Silent))
            }
            () = hung => Err(Fault::Silent),
        }
    }

    async fn carry_out(&mut self, job: StoreJob) -> Result<Event, Fault> {
        match job {
            StoreJob::Prepare => {
                self.prepare().await?;
                Ok(Event::Prepared)
            }
            StoreJob::Data(data) => {
                let serial = data.serial;
                self.write(data).await?;
                self.last = serial;
                Ok(Event::Stored(serial))
            }
            StoreJob::Seal(seal) => Ok(Event::Sealed(self.seal(seal).await?)),
            StoreJob::Whole { pieces, seal } => self.write_whole(pieces, seal).await,
        }
    }

    async fn prepare(&mut self) -> Result<(), Fault> {
        let chunkserver = Arc::clone(&self.thread.chunkserver);
        let new = self.new;
        // Made there and not here: the stream may end before it has the chunk.
        self.made = Some(blocking(move || make(&chunkserver, &new)).await?);
        Ok(())
    }

    /// Makes, writes and seals a small chunk: each for itself would be handed to another thread, and
    /// back.
    async fn write_whole(&mut self, pieces: Vec<Data>, seal: WriteSeal) -> Result<Event, Fault> {
        let chunkserver = Arc::clone(&self.thread.chunkserver);
        let new = self.new;
        let last = pieces.last().map_or(self.last, |data| data.serial);
        let level = blocking(move || {
            let made = make(&chunkserver, &new)?;
            for data in pieces {
                let payload = data.check()?;
                let len = u32::try_from(payload.len()).map_err(|error| internal(&error))?;
                chunkserver.counters.bytes_in.add(u64::from(len));
                made.pending.write_at(data.offset, payload)?;
                made.pending
                    .commit_pieces(data.offset, len, data.crcs.as_slice())?;
            }
            Ok::<_, Fault>(made.seal(&chunkserver, &seal, last)?)
        });
        Ok(Event::Whole(last, level.await?))
    }

    async fn write(&mut self, data: Data) -> Result<(), Fault> {
        let pending = &self.made()?.pending;
        let mode = self.thread.mode;
        if self.has_next_hop {
            // The kernel sends the frame on while this thread computes.
            begin_now(mode).await;
        }
        let payload = data.check()?;
        let len = u32::try_from(payload.len()).map_err(|error| internal(&error))?;
        let Data {
            offset,
            crcs,
            buffer,
            ..
        } = data;
        self.thread
            .chunkserver
            .counters
            .bytes_in
            .add(u64::from(len));
        if !pending.has_room(offset, len) {
            let pending = Arc::clone(pending);
            blocking(move || pending.reserve(offset, len)).await?;
        }
        let descriptor = pending
            .file()
            .ok_or_else(|| internal(&"the store has no files"))?;
        let written = file::write_at(mode, descriptor, buffer, data_position(offset)).await;
        written.map_err(|source| {
            let path = format!("chunk {}", self.new.handle).into();
            StoreError::io(Operation::Write, path, source)
        })?;
        pending.commit_pieces(offset, len, crcs.as_slice())?;
        self.write_back();
        Ok(())
    }

    /// What is to be on disk at the seal goes there behind the stream, so that the seal does not
    /// wait for all of it, and the disk not for the seal.
    fn write_back(&mut self) {
        let mode = self.thread.mode;
        let Some(made) = self.made.as_mut().filter(|_| self.level == Level::Disk) else {
            return;
        };
        let (from, to) = (made.written_back, made.pending.length());
        if to - from >= WRITE_BACK_LEN
            && let Some(descriptor) = made.pending.file()
        {
            file::begin_write_back(mode, descriptor, data_position(from), to - from);
            made.written_back = to;
        }
    }

    async fn seal(&mut self, seal: WriteSeal) -> Result<Level, Fault> {
        let serial = self.last;
        let made = self
            .made
            .take()
            .ok_or_else(|| internal(&"a seal before its chunk"))?;
        let chunkserver = Arc::clone(&self.thread.chunkserver);
        // All of it there: the stream may end first, and the chunk is sealed all the same.
        blocking(move || made.seal(&chunkserver, &seal, serial)).await
    }

    fn made(&self) -> Result<&Made, Fault> {
        self.made
            .as_ref()
            .ok_or_else(|| internal(&"data before its chunk"))
    }

    /// What the peer is told; counted here, where it is known whose fault it was.
    fn told(&self, fault: &Fault) -> (Status, String) {
        let counters = &self.thread.chunkserver.counters;
        match fault {
            Fault::Damaged { offset } => {
                counters.pieces_damaged.add(1);
                let text = format!("the piece at {offset} does not match the CRC it came with");
                (Status::DamagedInTransit, text)
            }
            Fault::Store(error) => {
                match error {
                    StoreError::Io {
                        operation: Operation::Sync,
                        ..
                    }
                    | StoreError::Poisoned { .. }
                    | StoreError::DirectoryPoisoned => counters.sync_failures.add(1),
                    StoreError::Io { .. } => counters.medium_errors.add(1),
                    _ => {}
                }
                (status_of(error), error.to_string())
            }
            Fault::Silent => {
                counters.medium_errors.add(1);
                (Status::MediumFailed, "the disk does not answer".to_owned())
            }
            Fault::Internal(text) => (Status::Internal, text.clone()),
        }
    }
}

fn internal(what: &dyn std::fmt::Display) -> Fault {
    Fault::Internal(what.to_string())
}

/// Runs what may wait for a disk where it holds nobody up.
async fn blocking<T, E>(act: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, Fault>
where
    T: Send + 'static,
    E: Into<Fault> + Send + 'static,
{
    let done = tokio::task::spawn_blocking(act).await;
    done.map_err(|error| internal(&error))?.map_err(E::into)
}
