//! The download of a file or a part of one: drives [`Download`] over the master and the data
//! connections.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sarsen_protocol::crc::{combine, zeros};
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, FileId, ServerId};
use sarsen_protocol::message::{Locate, LocateReply, LocatedChunk, Node, ReportReplica};
use sarsen_protocol::size::PUBLISH_CHUNKS_MAX;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client::Shared;
use crate::core::locate::part;
use crate::core::newest::size;
use crate::core::read::{Action, Download, Fault, Fetch, GiveUp, Kept, PAGE_LEN, Plan};
use crate::core::read_stream::Served;
use crate::core::resume::Pin;
use crate::error::{Error, StreamError};
use crate::fetch::{self, REPORT_TIME_MAX};
use crate::limit::RateLimit;
use crate::net::ReadFailure;
use crate::newest;
use crate::part::{self, Found, PartFile, Resumable};
use crate::path;
use crate::progress::{Progress, Tally};
use crate::put::{STREAMS_DEFAULT, permit};
use crate::sink::{GetTarget, Item, Memory, Opened, Outlet, open, ordered_outlet};
use crate::tree::Each as _;

/// Bytes from which on a file is worth to be gone on with.
const RESUMABLE_MIN: u64 = 1024 * 1024;

/// How a file is to be downloaded.
#[derive(Clone)]
#[non_exhaustive]
pub struct GetOptions {
    /// The first byte that is wanted.
    pub offset: u64,
    /// How many are wanted at most; `None` for all.
    pub length: Option<u64>,
    /// Goes on with what an earlier download of the same file, in the same state, left beside the
    /// target; and leaves what it has when it fails itself. Nothing comes of a file that is there
    /// with the length and the CRC-32 of the one that is wanted.
    pub resume: bool,
    /// Chunks on their way at a time.
    pub streams_max: usize,
    /// Bytes a second, with all other transfers that were given the same limit.
    pub limit: Option<RateLimit>,
    /// Is told how far it has come.
    pub progress: Option<Arc<dyn Progress>>,
    /// Streams that are shared with other transfers, of which `streams_max` may be this one's.
    pub(crate) streams: Option<Arc<Semaphore>>,
}

impl Default for GetOptions {
    fn default() -> Self {
        Self {
            offset: 0,
            length: None,
            resume: false,
            streams_max: STREAMS_DEFAULT,
            limit: None,
            progress: None,
            streams: None,
        }
    }
}

impl GetOptions {
    /// The bytes that are wanted of a file of `size`.
    fn range(&self, size: u64) -> Range<u64> {
        let start = self.offset.min(size);
        let end = self
            .length
            .map_or(size, |length| start.saturating_add(length).min(size));
        start..end
    }
}

/// What was downloaded.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GetReport {
    /// The path in the cluster.
    pub path: String,
    /// What is there.
    pub node: Node,
    /// Bytes that were given out, each of them verified.
    pub bytes: u64,
    /// CRC-32 of the file; `None` where only a part of it was read.
    pub crc32: Option<u32>,
    /// From the first request to the last byte.
    pub elapsed: Duration,
    /// Replicas that were bad; good bytes came from others.
    pub bad: Vec<BadReplica>,
    /// Bytes that an earlier download had brought; all of them, if the target was there already.
    pub resumed: u64,
    /// What an earlier download had left was of another file or of another state of it.
    pub begun_anew: bool,
}

/// A replica that was bad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadReplica {
    /// The chunk's place in the file.
    pub index: u32,
    /// The chunk.
    pub handle: ChunkHandle,
    /// Who holds the replica.
    pub server: ServerId,
    /// What was wrong, with the server's address.
    pub what: String,
}

/// Downloads `path` into `target`.
pub(crate) async fn get(
    shared: &Arc<Shared>,
    path: &str,
    target: GetTarget<'_>,
    options: GetOptions,
) -> Result<GetReport, Error> {
    path::check(path)?;
    let which = Locate {
        path: path.to_owned(),
        file_id: FileId::NONE,
        first_index: 0,
        count: PAGE_LEN,
    };
    get_located(shared, which, target, options).await
}

/// Downloads the file that `which` asks for, from its first chunk on.
pub(crate) async fn get_located(
    shared: &Arc<Shared>,
    which: Locate,
    target: GetTarget<'_>,
    options: GetOptions,
) -> Result<GetReport, Error> {
    let began = shared.clock.now();
    let whole = newest::locate_whole(shared, &which, shared.timeout).await?;
    let first_page = whole.first_page;
    let node = first_page.node;
    let range = options.range(node.size);
    if let Some(progress) = &options.progress {
        progress.total(range.end - range.start);
    }
    let is_whole = node.sealed && range == (0..node.size);
    let bytes = range.end - range.start;
    let mut report = GetReport {
        path: which.path,
        node,
        bytes,
        crc32: is_whole.then_some(node.crc32),
        elapsed: Duration::ZERO,
        bad: Vec::new(),
        resumed: 0,
        begun_anew: false,
    };
    if options.resume
        && is_whole
        && let Some(path) = target.file()
        && is_there(path, node).await?
    {
        if let Some(progress) = &options.progress {
            progress.done(bytes);
        }
        report.resumed = bytes;
        report.elapsed = shared.clock.now().saturating_sub(began);
        return Ok(report);
    }
    let resumable = match is_whole && bytes >= RESUMABLE_MIN && target.is_path() {
        true => Some(Resumable {
            pin: Arc::new(pin(shared, &first_page).await?),
            resume: options.resume,
        }),
        false => None,
    };
    let read = match open(target, bytes, resumable, &shared.writes).await? {
        Opened::Part(part, found) => {
            let to = To::Part(part);
            let mut run = Run::new(shared, &first_page, range, options, to)?;
            match found {
                Found::Some(kept) => report.resumed = run.keep(kept),
                Found::Other => report.begun_anew = true,
                Found::Nothing => {}
            }
            run.complete().await?
        }
        Opened::InOrder(output) => {
            let (queue, queued) = mpsc::unbounded_channel();
            let to = To::InOrder {
                queue,
                next: first_index(&range, &first_page),
                outlets: HashMap::new(),
            };
            let run = Run::new(shared, &first_page, range, options, to)?;
            let writing = output.write(queued, &shared.buffers);
            tokio::try_join!(run.complete(), writing)?.0
        }
        Opened::Memory(bytes) => {
            let memory = Memory::new(range.clone());
            let to = To::Memory(memory.clone());
            let run = Run::new(shared, &first_page, range, options, to)?;
            let read = run.complete().await?;
            *bytes = memory.into_bytes()?;
            read
        }
    };
    report.bad = read.bad;
    report.crc32 = report.crc32.filter(|_| read.is_one_state);
    report.elapsed = shared.clock.now().saturating_sub(began);
    Ok(report)
}

/// How a download ended well.
struct Completed {
    /// The replicas that were bad.
    bad: Vec<BadReplica>,
    /// Whether nobody changed the file meanwhile.
    is_one_state: bool,
}

/// Whether the target is there already, whole.
async fn is_there(target: PathBuf, node: Node) -> Result<bool, Error> {
    let look = move || part::is_there(&target, node.size, node.crc32);
    let looking = tokio::task::spawn_blocking(look);
    // What can't be read may still be replaced.
    Ok(looking.await?.unwrap_or(false))
}

/// How many slots a file has that the master says is so long: a number of a peer's, of which memory
/// is taken.
fn slot_count(size: u64, chunk_size: u32) -> Result<u32, Error> {
    let slots = size.div_ceil(u64::from(chunk_size));
    match u32::try_from(slots) {
        Ok(slots) if slots as usize <= PUBLISH_CHUNKS_MAX => Ok(slots),
        _ => Err(Error::TooLarge { bytes: size }),
    }
}

/// The state that a file is in, of which the first chunks are known.
async fn pin(shared: &Shared, first_page: &LocateReply) -> Result<Pin, Error> {
    let node = &first_page.node;
    let slots = slot_count(node.size, first_page.chunk_size)?;
    let mut chunks = vec![(ChunkHandle::NONE, ChunkVersion::NONE); slots as usize];
    let mut put = |located: &[LocatedChunk]| {
        for chunk in located {
            if let Some(slot) = chunks.get_mut(chunk.index as usize) {
                *slot = (chunk.handle, chunk.version);
            }
        }
    };
    put(&first_page.chunks);
    let mut first_index = PAGE_LEN;
    while first_index < slots {
        let request = Locate {
            path: String::new(),
            file_id: node.file_id,
            first_index,
            count: PAGE_LEN,
        };
        put(&shared.master.call(&request).await?.chunks);
        first_index += PAGE_LEN;
    }
    Ok(Pin {
        file_id: node.file_id,
        size: node.size,
        chunk_size: first_page.chunk_size,
        chunks,
    })
}

/// A page of chunks up to `asked_end`, if its file has as many bytes as are `wanted` still: a place that
/// went away would be taken for a hole, and read as zeros.
fn unless_shorter(page: LocateReply, asked_end: u32, wanted: u64) -> Result<LocateReply, Error> {
    let is_cut = u64::from(page.slots) < wanted.div_ceil(page.chunk_size.into());
    // How far the last chunk reaches is known where it is located.
    let is_short = page.slots == asked_end && size(&page) < wanted;
    match (is_cut, is_short) {
        (true, _) => Err(Error::Changed { index: page.slots }),
        (_, true) => Err(Error::Changed {
            index: page.slots.saturating_sub(1),
        }),
        (false, false) => Ok(page),
    }
}

/// What a task of a download did.
enum Event {
    Located(Range<u32>, Result<LocateReply, Error>),
    Read(Box<Fetch>, Result<Option<Served>, ReadFailure>),
    Reported,
}

/// Where the chunks go.
enum To {
    Part(PartFile),
    Memory(Memory),
    InOrder {
        queue: mpsc::UnboundedSender<mpsc::Receiver<Item>>,
        /// The first chunk that has no place in the queue yet.
        next: u32,
        /// Of the chunks that are being read, or that a later one went before.
        outlets: HashMap<u32, Outlet>,
    },
}

/// How far a chunk has come.
struct Reached {
    index: u32,
    to: u32,
}

/// The chunk that a range of a file begins in.
fn first_index(range: &Range<u64>, first_page: &LocateReply) -> u32 {
    let index = range.start / u64::from(first_page.chunk_size.max(1));
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// A download under way.
struct Run {
    shared: Arc<Shared>,
    node: Node,
    chunk_size: u32,
    range: Range<u64>,
    options: GetOptions,
    download: Download,
    /// Pages of chunks below were asked for.
    paged_to: u32,
    /// Whether all that was told of the file is of the state that it had at first.
    is_one_state: bool,
    to: To,
    tasks: JoinSet<Event>,
    reached: mpsc::UnboundedSender<Reached>,
    reachings: mpsc::UnboundedReceiver<Reached>,
    tally: Tally,
    /// CRC and length of what was read of each chunk.
    parts: BTreeMap<u32, (u32, u64)>,
    bad: Vec<BadReplica>,
    last_failure: HashMap<u32, StreamError>,
}

impl Run {
    fn new(
        shared: &Arc<Shared>,
        first_page: &LocateReply,
        range: Range<u64>,
        options: GetOptions,
        to: To,
    ) -> Result<Self, Error> {
        let bytes = range.end;
        let turns = options.turns();
        let plan = Plan {
            range: range.clone(),
            chunk_size: first_page.chunk_size,
            streams_max: options.streams_max.clamp(1, turns),
            rewindable: !matches!(to, To::InOrder { .. }),
            patience: shared.timeout,
            seed: shared.master.draw_seed(),
        };
        let mut download = Download::new(plan).ok_or(Error::TooLarge { bytes })?;
        download.handle_located(0..PAGE_LEN, first_page.chunks.clone());
        let (reached, reachings) = mpsc::unbounded_channel();
        Ok(Self {
            shared: shared.clone(),
            node: first_page.node,
            chunk_size: first_page.chunk_size,
            range,
            options,
            download,
            paged_to: PAGE_LEN,
            is_one_state: true,
            to,
            tasks: JoinSet::new(),
            reached,
            reachings,
            tally: Tally::default(),
            parts: BTreeMap::new(),
            bad: Vec::new(),
            last_failure: HashMap::new(),
        })
    }

    /// Takes what an earlier download brought for read; how many bytes that are.
    fn keep(&mut self, kept: BTreeMap<u32, Kept>) -> u64 {
        let mut bytes = 0;
        for (&index, kept) in &kept {
            let to = kept.verified.reached;
            bytes += u64::from(to);
            self.hear(Reached { index, to });
        }
        self.download.handle_kept(kept);
        bytes
    }

    /// Reads all of it.
    async fn complete(mut self) -> Result<Completed, Error> {
        self.run().await?;
        self.finish().await
    }

    /// Does what the machine says until all was read.
    async fn run(&mut self) -> Result<(), Error> {
        let clock = self.shared.clock;
        loop {
            let slow = self.shared.links.bulk().slow(clock.now());
            self.download.handle_slow(slow);
            while let Some(action) = self.download.poll(clock.now()) {
                match action {
                    Action::Locate { first_index, count } => self.locate(first_index, count),
                    Action::Fetch(fetch) => self.fetch(fetch),
                    Action::Zeros { index, from, to } => self.zeros(index, from, to).await?,
                    Action::Report {
                        handle,
                        version,
                        server,
                        fault,
                    } => self.tell_master(ReportReplica {
                        handle,
                        version,
                        server,
                        fault,
                    }),
                    Action::Done => return Ok(()),
                    Action::GiveUp(why) => {
                        self.wait_for_reports().await;
                        return Err(self.given_up(why));
                    }
                }
            }
            tokio::select! {
                Some(ended) = self.tasks.join_next() => self.handle(ended?)?,
                Some(reached) = self.reachings.recv() => self.hear(reached),
                () = clock.wait_until(self.download.wake_at()) => {}
            }
        }
    }

    /// Compares the whole file with its checksum, gives the target its name, and the master the
    /// time to hear of bad replicas.
    async fn finish(mut self) -> Result<Completed, Error> {
        self.wait_for_reports().await;
        if let Err(error) = self.check_file() {
            if let To::Part(part) = &mut self.to {
                part.discard();
            }
            return Err(error);
        }
        if let To::Part(part) = self.to {
            part.finish().await?;
        }
        Ok(Completed {
            bad: self.bad,
            is_one_state: self.is_one_state,
        })
    }

    /// The chunks were verified one by one: this finds one that is missing or in another's place.
    fn check_file(&self) -> Result<(), Error> {
        let is_whole = self.is_whole();
        let parts = self.parts.values();
        let found = parts.fold(0, |crc, (part, len)| combine(crc, *part, *len));
        let uploaded = self.node.crc32;
        match is_whole && found != uploaded {
            true => Err(Error::FileMismatch { found, uploaded }),
            false => Ok(()),
        }
    }

    /// Whether what was read is the file in the one state whose CRC is known.
    const fn is_whole(&self) -> bool {
        let is_all = self.range.start == 0 && self.range.end == self.node.size;
        self.node.sealed && is_all && self.is_one_state
    }

    fn handle(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Located(asked, reply) => {
                let reply = reply?;
                let (told, node) = (reply.node, &self.node);
                self.is_one_state &= (told.sealed, told.crc32) == (node.sealed, node.crc32);
                self.download.handle_located(asked, reply.chunks);
            }
            Event::Read(fetch, Ok(served)) => {
                let index = fetch.chunk.index;
                self.hear(Reached {
                    index,
                    to: fetch.to,
                });
                if let To::InOrder { outlets, .. } = &mut self.to {
                    outlets.remove(&index);
                }
                self.last_failure.remove(&index);
                let length = served.map_or(fetch.chunk.length, |served| served.length);
                let behind = fetch.to.saturating_sub(length).into();
                let crc = combine(fetch.chunk.crc32, zeros(behind), behind);
                self.parts.insert(index, (crc, fetch.to.into()));
                self.download.handle_fetched(index);
            }
            Event::Read(_, Err(ReadFailure::Sink(error))) => return Err(error),
            Event::Read(
                fetch,
                Err(ReadFailure::Replica {
                    error,
                    fault,
                    verified,
                }),
            ) => {
                let (index, server) = (fetch.chunk.index, fetch.replica.server);
                tracing::info!(index, %error, "another replica is asked");
                self.note_bad(&fetch, &error, fault);
                self.last_failure.insert(index, error);
                let now = self.shared.clock.now();
                self.download
                    .handle_failed(now, index, server, verified, fault);
            }
            Event::Reported => {}
        }
        Ok(())
    }

    fn hear(&mut self, Reached { index, to }: Reached) {
        self.download.handle_progress(index);
        let from = part(&self.range, self.chunk_size, index).from;
        let done = self.tally.set(index, to.saturating_sub(from));
        if let Some(progress) = &self.options.progress {
            progress.done(done);
        }
    }

    /// Keeps what the user is to know of a replica.
    fn note_bad(&mut self, fetch: &Fetch, error: &StreamError, fault: Fault) {
        if fault.shows_a_bad_replica() {
            self.bad.push(BadReplica {
                index: fetch.chunk.index,
                handle: fetch.chunk.handle,
                server: fetch.replica.server,
                what: error.to_string(),
            });
        }
    }

    fn locate(&mut self, first_index: u32, count: u32) {
        let request = Locate {
            path: String::new(),
            file_id: self.node.file_id,
            first_index,
            count,
        };
        // A chunk that is located again has been seen: it only must not be older.
        let is_page = first_index >= self.paged_to;
        if is_page {
            self.paged_to = first_index.saturating_add(count);
        }
        let (shared, wanted) = (self.shared.clone(), self.range.end);
        self.tasks.spawn(async move {
            let asked = first_index..first_index.saturating_add(count);
            let located = match is_page {
                true => newest::locate(&shared, &request, shared.timeout)
                    .await
                    .and_then(|page| unless_shorter(page, asked.end, wanted)),
                false => shared.master.call(&request).await,
            };
            Event::Located(asked, located)
        });
    }

    fn fetch(&mut self, fetch: Box<Fetch>) {
        let outlet = self.outlet(fetch.chunk.index, Some(&fetch.chunk));
        let (shared, reached) = (self.shared.clone(), self.reached.clone());
        let (streams, limit) = (self.options.streams.clone(), self.options.limit.clone());
        self.tasks.spawn(async move {
            let _permit = permit(streams.as_ref()).await;
            let index = fetch.chunk.index;
            let on_reached = |to| {
                // The download may have ended.
                let _ = reached.send(Reached { index, to });
            };
            let read = fetch::read(&shared, &fetch, &outlet, limit.as_ref(), &on_reached).await;
            Event::Read(fetch, read)
        });
    }

    async fn zeros(&mut self, index: u32, from: u32, to: u32) -> Result<(), Error> {
        self.hear(Reached { index, to });
        let len = u64::from(to.saturating_sub(from));
        self.parts.insert(index, (zeros(len), len));
        let outlet = self.outlet(index, None);
        if let To::InOrder { outlets, .. } = &mut self.to {
            outlets.remove(&index);
        }
        outlet.give_zeros(len).await
    }

    /// Where a chunk goes. Those before it get their places first, whichever is read first: one of
    /// which no replica is known for a while is overtaken by those behind it.
    fn outlet(&mut self, index: u32, chunk: Option<&LocatedChunk>) -> Outlet {
        match &mut self.to {
            To::Part(part) => {
                let chunk_start = u64::from(index) * u64::from(self.chunk_size);
                part.outlet(index, chunk_start, self.range.start, chunk)
            }
            To::Memory(memory) => {
                let chunk_start = u64::from(index) * u64::from(self.chunk_size);
                Outlet::Memory(memory.clone(), chunk_start)
            }
            To::InOrder {
                queue,
                next,
                outlets,
            } => {
                while *next <= index {
                    let (outlet, items) = ordered_outlet();
                    // A writer that has gone says itself why.
                    let _ = queue.send(items);
                    outlets.insert(*next, outlet);
                    *next += 1;
                }
                outlets
                    .entry(index)
                    .or_insert_with(|| ordered_outlet().0)
                    .clone()
            }
        }
    }

    fn tell_master(&mut self, report: ReportReplica) {
        let shared = self.shared.clone();
        self.tasks.spawn(async move {
            if let Err(error) = shared.master.call(&report).await {
                tracing::debug!(%error, "the master did not hear of a replica");
            }
            Event::Reported
        });
    }

    /// Waits a while for what the master was told last; other tasks are of no use any more.
    async fn wait_for_reports(&mut self) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(REPORT_TIME_MAX, all).await.is_err() {
            tracing::debug!("the master did not hear of every bad replica");
        }
    }

    fn given_up(&mut self, why: GiveUp) -> Error {
        let index = why.index();
        let bad = self.bad.iter().filter(|bad| bad.index == index);
        let bad = bad.map(|bad| bad.server).collect();
        fetch::given_up(why, bad, self.last_failure.remove(&index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reply that told the size of four billion chunks had 64 GiB of memory taken for their names,
    /// and a million more requests sent.
    #[test]
    fn a_file_of_more_slots_than_there_can_be_is_too_large() {
        assert_eq!(slot_count(0, 1 << 20).ok(), Some(0));
        assert_eq!(slot_count((262_144 << 20) - 1, 1 << 20).ok(), Some(262_144));
        for size in [(262_144 << 20) + 1, u64::from(u32::MAX) << 20, u64::MAX] {
            let error = slot_count(size, 1 << 20);
            assert!(matches!(error, Err(Error::TooLarge { bytes }) if bytes == size));
        }
    }
}
