//! The upload of one file: drives [`Upload`] over the master and the data connections.
//!
//! A pending file is made, its chunks are written and sealed side by side, and one request
//! publishes it. Whatever ends before that leaves nothing that a reader could see; the master is
//! told to drop what is pending, and drops it with the session if it can't be told.

use std::sync::Arc;
use std::time::Duration;

use sarsen_protocol::crc::combine;
use sarsen_protocol::id::{ChunkHandle, FileId, ServerId};
use sarsen_protocol::message::{
    AbortPending, AllocateChunks, Allocation, ChunksAllocated, CreatePending, Kind, Level, Node,
    PendingCreated, Publish, Published, SealedChunk,
};
use sarsen_protocol::size::{CONTROL_BODY_LEN_MAX, PATH_LEN_MAX, PUBLISH_CHUNKS_MAX};
use sarsen_protocol::status::Status;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client::{Shared, check_chunk_size};
use crate::core::upload::{Action, Plan, Upload};
use crate::error::{Error, StreamError};
use crate::limit::RateLimit;
use crate::master::Unanswered;
use crate::net::{WriteFailure, WriteJob, write_chunk};
use crate::path;
use crate::progress::{Progress, Tally};
use crate::session::Session;
use crate::source::{
    Arrived, ChunkSource, Input, OpenFile, Opened, PIPE_CHUNKS_MAX, Pipe, PutSource, open,
};
use crate::tree::Each as _;

/// Streams at a time, unless asked otherwise.
pub const STREAMS_DEFAULT: usize = 4;

/// Chunks that come with the pending file: as many as a large file sends at once by default.
const FIRST_CHUNKS: u16 = 4;

/// How long a failed upload waits for the master to drop what is pending.
const ABORT_TIME_MAX: Duration = Duration::from_secs(2);

/// How a file is to be uploaded.
#[derive(Clone)]
#[non_exhaustive]
pub struct PutOptions {
    /// Copies of each chunk; 0 for the cluster's default.
    pub replicas: u8,
    /// What an acknowledged upload has reached on every copy.
    pub level: Level,
    /// Replace a file that is there.
    pub force: bool,
    /// The replaced file goes for good, not into the trash.
    pub purge: bool,
    /// Chunks that are sent at a time, beside as many that wait for their seals; of a pipe no more
    /// than three in all.
    pub streams_max: usize,
    /// Bytes a second, with all other transfers that were given the same limit.
    pub limit: Option<RateLimit>,
    /// Is told how far it has come.
    pub progress: Option<Arc<dyn Progress>>,
    /// Streams that are shared with other transfers, of which `streams_max` may be this one's.
    pub(crate) streams: Option<Arc<Semaphore>>,
}

impl Default for PutOptions {
    fn default() -> Self {
        Self {
            replicas: 0,
            level: Level::Disk,
            force: false,
            purge: false,
            streams_max: STREAMS_DEFAULT,
            limit: None,
            progress: None,
            streams: None,
        }
    }
}

/// What was uploaded.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PutReport {
    /// The path in the cluster.
    pub path: String,
    /// What is there now.
    pub node: Node,
    /// Bytes.
    pub bytes: u64,
    /// CRC-32 of the bytes as they were sent.
    pub crc32: u32,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Chunks that were sent again, counted once a time.
    pub resent: u32,
    /// Chunks with fewer copies than wanted.
    pub short: Vec<ShortChunk>,
}

/// A chunk with fewer copies than wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortChunk {
    /// Its place in the file.
    pub index: u32,
    /// Copies that it has.
    pub copies: usize,
    /// Copies that it is to have.
    pub wanted: u8,
}

/// Uploads `source` as `path`.
pub(crate) async fn put(
    shared: &Arc<Shared>,
    path: &str,
    source: PutSource,
    options: PutOptions,
) -> Result<PutReport, Error> {
    path::check(path)?;
    let began = shared.clock.now();
    // The source is looked at first: what is wrong with it needs no cluster.
    let opened = open(source).await?;
    let chunk_size = shared.sessions.chunk_size().await?;
    let count = first_count(&opened, chunk_size);
    let (pending, session) = shared
        .sessions
        .mutate_first(|request| CreatePending {
            request,
            path: path.to_owned(),
            replicas: options.replicas,
            level: options.level,
            force: options.force,
            parents: true,
            count,
        })
        .await?;
    check_chunk_size(Kind::PendingCreated, pending.chunk_size)?;
    shared.links.learn(session.suspect_after);
    let file = PendingFile {
        shared: shared.clone(),
        session,
        pending,
        options: Arc::new(options),
    };
    let done = match file.upload(opened).await {
        Ok(sent) => file.publish(path, &sent.chunks).await.map(|it| (it, sent)),
        Err(error) => Err(error),
    };
    match done {
        Ok((published, sent)) => Ok(file.report(path, published, sent, began)),
        Err(error) => {
            file.abort().await;
            Err(error)
        }
    }
}

/// How many chunks are to come with the pending file: all of a small file, so that it takes no
/// request of its own, and of a large one those that are sent first.
fn first_count(opened: &Opened, chunk_size: u32) -> u16 {
    match opened {
        Opened::File(file) => {
            let chunks = file.len.div_ceil(u64::from(chunk_size).max(1));
            u16::try_from(chunks).map_or(FIRST_CHUNKS, |chunks| chunks.min(FIRST_CHUNKS))
        }
        Opened::Pipe(_) => 1,
    }
}

/// A file that is on its way up.
#[derive(Clone)]
struct PendingFile {
    shared: Arc<Shared>,
    session: Arc<Session>,
    pending: PendingCreated,
    options: Arc<PutOptions>,
}

/// What was sent and sealed.
struct Sent {
    chunks: Vec<SealedChunk>,
    resent: u32,
}

impl PendingFile {
    async fn upload(&self, opened: Opened) -> Result<Sent, Error> {
        let turns = self.options.turns();
        let streams_max = self.options.streams_max.clamp(1, turns);
        let wanted = self.pending.replicas;
        let plan = Plan {
            streams_max: match &opened {
                Opened::File(_) => streams_max,
                Opened::Pipe(_) => streams_max.min(PIPE_CHUNKS_MAX),
            },
            fewest: self.session.min_replicas.min(wanted),
            patience: self.shared.timeout,
            seed: self.shared.master.draw_seed(),
        };
        let (told, tellings) = mpsc::unbounded_channel();
        let mut run = Run {
            file: self.clone(),
            upload: Upload::new(plan),
            source: Source::Pipe(Arc::new(Pipe::new(self.shared.buffers.clone()))),
            tasks: JoinSet::new(),
            told,
            tally: Tally::default(),
            resent: 0,
            last_failure: None,
        };
        for (server, until) in self.shared.links.suspected(self.shared.clock.now()) {
            run.upload.handle_suspect(server, until);
        }
        run.upload.handle_given(self.pending.chunks.clone());
        match opened {
            Opened::File(file) => run.begin_file(file)?,
            Opened::Pipe(input) => run.begin_pipe(input),
        }
        run.run(tellings).await
    }

    async fn publish(&self, path: &str, chunks: &[SealedChunk]) -> Result<Published, Error> {
        let size = chunks.iter().map(|chunk| u64::from(chunk.length)).sum();
        check_fits(size, chunks.len(), self.pending.replicas)?;
        self.shared
            .sessions
            .mutate_in(&self.session, |request| Publish {
                request,
                file_id: self.pending.file_id,
                path: path.to_owned(),
                force: self.options.force,
                purge: self.options.purge,
                parents: true,
                size,
                chunks: chunks.to_vec(),
            })
            .await
    }

    /// Has the master drop what is pending, if it can be told at once.
    async fn abort(&self) {
        let aborting = self
            .shared
            .sessions
            .mutate_in(&self.session, |request| AbortPending {
                request,
                file_id: self.pending.file_id,
            });
        if !matches!(timeout(ABORT_TIME_MAX, aborting).await, Ok(Ok(_))) {
            tracing::debug!("the pending file was not dropped, and will expire");
        }
    }

    fn report(&self, path: &str, published: Published, sent: Sent, began: Duration) -> PutReport {
        let wanted = self.pending.replicas;
        let add = |crc, chunk: &SealedChunk| combine(crc, chunk.crc32, u64::from(chunk.length));
        let short = |chunk: &SealedChunk| {
            let copies = chunk.servers.len();
            (copies < usize::from(wanted)).then_some(ShortChunk {
                index: chunk.index,
                copies,
                wanted,
            })
        };
        PutReport {
            path: path.to_owned(),
            node: published.node,
            bytes: sent.chunks.iter().map(|it| u64::from(it.length)).sum(),
            crc32: sent.chunks.iter().fold(0, add),
            elapsed: self.shared.clock.now().saturating_sub(began),
            resent: sent.resent,
            short: sent.chunks.iter().filter_map(short).collect(),
        }
    }
}

/// Whether one `Publish` can name so many chunks.
fn check_fits(bytes: u64, chunks: usize, replicas: u8) -> Result<(), Error> {
    /// Bytes of a `sealed_chunk` without its servers, and of the request without its chunks.
    const CHUNK_LEN: usize = 4 + 8 + 8 + 4 + 4 + 4;
    const REST_LEN: usize = 64 + PATH_LEN_MAX;
    let body_len = REST_LEN + chunks.saturating_mul(CHUNK_LEN + 8 * usize::from(replicas));
    match chunks <= PUBLISH_CHUNKS_MAX && body_len <= CONTROL_BODY_LEN_MAX as usize {
        true => Ok(()),
        false => Err(Error::TooLarge { bytes }),
    }
}

/// Where the chunks' bytes are.
enum Source {
    File(OpenFile),
    Pipe(Arc<Pipe>),
}

/// What a task of an upload did.
enum Event {
    /// From this index on.
    Allocated(u32, Result<ChunksAllocated, Unanswered>),
    Written(u32, Result<SealedChunk, WriteFailure>),
    PipeRead(Result<(), Error>),
}

/// What a task tells while it goes on.
enum Telling {
    Arrived(Arrived),
    Acked {
        index: u32,
        bytes: u32,
    },
    /// All of a chunk was sent under this handle.
    Sent {
        index: u32,
        handle: ChunkHandle,
    },
}

/// An upload under way.
struct Run {
    file: PendingFile,
    upload: Upload,
    source: Source,
    tasks: JoinSet<Event>,
    told: mpsc::UnboundedSender<Telling>,
    tally: Tally,
    resent: u32,
    last_failure: Option<(u32, StreamError)>,
}

impl Run {
    fn begin_file(&mut self, open: OpenFile) -> Result<(), Error> {
        let chunk_size = u64::from(self.file.pending.chunk_size);
        let too_large = Error::TooLarge { bytes: open.len };
        let chunks = u32::try_from(open.len.div_ceil(chunk_size)).map_err(|_| too_large)?;
        check_fits(open.len, chunks as usize, self.file.pending.replicas)?;
        if let Some(progress) = &self.file.options.progress {
            progress.total(open.len);
        }
        self.upload.handle_source(chunks, true);
        self.source = Source::File(open);
        Ok(())
    }

    fn begin_pipe(&mut self, input: Input) {
        let Source::Pipe(pipe) = &self.source else {
            return;
        };
        let (pipe, told) = (pipe.clone(), self.told.clone());
        let chunk_size = self.file.pending.chunk_size;
        let (arrived, mut arrivals) = mpsc::unbounded_channel();
        self.tasks.spawn(async move {
            let pass_on = async {
                while let Some(arrived) = arrivals.recv().await {
                    // The upload ends before its pipe only when it failed.
                    let _ = told.send(Telling::Arrived(arrived));
                }
            };
            let (read, ()) = tokio::join!(pipe.read(input, chunk_size, arrived), pass_on);
            Event::PipeRead(read)
        });
    }

    /// Does what the machine says until all is sealed.
    async fn run(mut self, mut tellings: mpsc::UnboundedReceiver<Telling>) -> Result<Sent, Error> {
        let clock = self.file.shared.clock;
        loop {
            while let Some(action) = self.upload.poll(clock.now()) {
                match action {
                    Action::Allocate {
                        first_index,
                        count,
                        fewest,
                        exclude,
                    } => self.allocate(first_index, count, fewest, exclude),
                    Action::Begin(allocation) => self.begin(*allocation),
                    Action::Publish { chunks } => {
                        if let Source::File(open) = &self.source {
                            open.check_unchanged().await?;
                        }
                        let resent = self.resent;
                        return Ok(Sent { chunks, resent });
                    }
                    Action::GiveUp => return Err(self.given_up()),
                }
            }
            tokio::select! {
                Some(ended) = self.tasks.join_next() => self.handle(ended?)?,
                Some(telling) = tellings.recv() => self.hear(telling),
                () = clock.wait_until(self.upload.wake_at(clock.now())) => {}
            }
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), Error> {
        let now = self.file.shared.clock.now();
        match event {
            Event::Allocated(_, Ok(allocated)) => self.upload.handle_allocated(allocated.chunks),
            Event::Allocated(
                first_index,
                Err(Unanswered::HandedBack {
                    status,
                    text,
                    retry_after,
                }),
            ) => {
                // Why servers were left out says more than that too few are left.
                let too_few = StreamError::TooFewServers { status, text };
                self.last_failure.get_or_insert((first_index, too_few));
                self.upload.handle_too_few_servers(now, retry_after);
            }
            Event::Allocated(_, Err(Unanswered::Failed(error))) => return Err(error),
            Event::Allocated(_, Err(Unanswered::SessionUnknown)) => return Err(Error::SessionLost),
            Event::Written(index, Ok(sealed)) => {
                self.hear(Telling::Acked {
                    index,
                    bytes: sealed.length,
                });
                if let Source::Pipe(pipe) = &self.source {
                    pipe.forget(index);
                }
                // It was got over, and is not why another chunk fails.
                self.last_failure.take_if(|(failed, _)| *failed == index);
                self.upload.handle_sealed(sealed);
            }
            Event::Written(index, Err(WriteFailure::Stream { error, blame })) => {
                tracing::info!(index, %error, "a chunk is sent again");
                self.resent += 1;
                self.last_failure = Some((index, error));
                if let Some(server) = blame {
                    self.file.shared.links.suspect(now, server);
                }
                self.upload.handle_failed(now, index, blame);
            }
            Event::Written(_, Err(WriteFailure::Source(error))) => return Err(error),
            Event::PipeRead(read) => read?,
        }
        Ok(())
    }

    fn hear(&mut self, telling: Telling) {
        match telling {
            Telling::Arrived(Arrived { chunks, ended }) => {
                self.upload.handle_source(chunks, ended);
            }
            Telling::Sent { index, handle } => self.upload.handle_sent(index, handle),
            Telling::Acked { index, bytes } => {
                self.upload.handle_acked(index, bytes);
                let done = self.tally.set(index, bytes);
                if let Some(progress) = &self.file.options.progress {
                    progress.done(done);
                }
            }
        }
    }

    fn allocate(&mut self, first_index: u32, count: u16, fewest: u8, exclude: Vec<ServerId>) {
        let request = AllocateChunks {
            session: self.file.session.id,
            file_id: self.file.pending.file_id,
            first_index,
            count,
            fewest,
            exclude,
        };
        let shared = self.file.shared.clone();
        self.tasks.spawn(async move {
            let mut retry = shared.master.begin();
            let handed_back = [Status::TooFewServers, Status::NoSpace];
            let allocated = shared.master.run(&request, &mut retry, &handed_back).await;
            Event::Allocated(first_index, allocated)
        });
    }

    fn begin(&mut self, allocation: Allocation) {
        let index = allocation.index;
        let chunk_size = self.file.pending.chunk_size;
        let source = match &self.source {
            Source::File(open) => {
                let start = u64::from(index) * u64::from(chunk_size);
                let left = u32::try_from(open.len.saturating_sub(start)).unwrap_or(u32::MAX);
                Some(ChunkSource::File {
                    file: open.clone(),
                    start,
                    len: left.min(chunk_size),
                    buffers: self.file.shared.buffers.clone(),
                })
            }
            Source::Pipe(pipe) => pipe.chunk(index).map(ChunkSource::Pipe),
        };
        // A chunk of a pipe is begun only between its arrival and its seal.
        let Some(source) = source else {
            return;
        };
        let task = WriteTask {
            shared: self.file.shared.clone(),
            file_id: self.file.pending.file_id,
            level: self.file.options.level,
            streams: self.file.options.streams.clone(),
            limit: self.file.options.limit.clone(),
            told: self.told.clone(),
        };
        self.tasks
            .spawn(async move { Event::Written(index, task.write(&allocation, &source).await) });
    }

    fn given_up(&mut self) -> Error {
        match self.last_failure.take() {
            Some((index, cause)) => Error::ChunkNotStored {
                index,
                cause: Box::new(cause),
            },
            // Nothing is given up that never failed.
            None => Error::SessionLost,
        }
    }
}

/// What it takes to write one chunk.
struct WriteTask {
    shared: Arc<Shared>,
    file_id: FileId,
    level: Level,
    streams: Option<Arc<Semaphore>>,
    limit: Option<RateLimit>,
    told: mpsc::UnboundedSender<Telling>,
}

impl WriteTask {
    async fn write(
        &self,
        allocation: &Allocation,
        source: &ChunkSource,
    ) -> Result<SealedChunk, WriteFailure> {
        let index = allocation.index;
        let on_acked = |bytes| {
            // The upload may have ended.
            let _ = self.told.send(Telling::Acked { index, bytes });
        };
        let handle = allocation.handle;
        let on_sent = || {
            let _ = self.told.send(Telling::Sent { index, handle });
        };
        let (server, addr) = match allocation.chain.first() {
            Some(hop) => (hop.server, hop.data_addr.as_str()),
            None => (ServerId::NONE, ""),
        };
        let _permit = permit(self.streams.as_ref()).await;
        let suspect_after = self.shared.links.suspect_after();
        let taken = self.shared.links.take(server, addr, suspect_after).await;
        let mut link = taken.map_err(|error| WriteFailure::Stream {
            error,
            blame: Some(server),
        })?;
        let job = WriteJob {
            allocation,
            file_id: self.file_id,
            level: self.level,
            clock: self.shared.clock,
            suspect_after,
            limit: self.limit.as_ref(),
            windows: &self.shared.windows,
            on_acked: &on_acked,
            on_sent: &on_sent,
        };
        let sealed = write_chunk(&mut link, &job, source).await?;
        self.shared.links.give_back(link);
        Ok(sealed)
    }
}

/// The right to a stream, where streams are shared; held until it is over.
pub(crate) async fn permit(streams: Option<&Arc<Semaphore>>) -> Option<OwnedSemaphorePermit> {
    // Never closed.
    streams?.clone().acquire_owned().await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_file_fits_into_one_publish() {
        assert!(check_fits(0, 0, 16).is_ok());
        assert!(check_fits(0, PUBLISH_CHUNKS_MAX, 3).is_ok());
        for (chunks, replicas) in [(PUBLISH_CHUNKS_MAX + 1, 1), (PUBLISH_CHUNKS_MAX, 16)] {
            let error = check_fits(7, chunks, replicas);
            assert!(matches!(error, Err(Error::TooLarge { bytes: 7 })));
        }
    }
}
