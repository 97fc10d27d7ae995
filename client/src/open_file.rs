//! [`OpenFile`]: reads at any place of one file, again and again.
//!
//! A read asks no master as long as what it told before may be used and proves right
//! ([`Locations`]), and goes on connections that are kept. Chunks that are open are looked up with
//! their newest state when they are first met, so that everything is seen that was acknowledged
//! before; later reads see that or something newer. It runs in its caller's task, over the
//! same [`Download`] that decides about whole files: what is verified, what comes next when a
//! replica fails, and what is given up are the same.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sarsen_protocol::id::{FileId, ServerId};
use sarsen_protocol::message::{Locate, LocateReply, LocatedChunk, Node, ReportReplica};
use sarsen_protocol::size::PAYLOAD_LEN_MAX;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::client::Shared;
use crate::clock::Clock;
use crate::core::locations::{Locations, page_start};
use crate::core::read::{Action, Download, Fault, Fetch, PAGE_LEN, Plan};
use crate::core::read_stream::Served;
use crate::error::{Error, StreamError};
use crate::fetch::{self, REPORT_TIME_MAX};
use crate::get::{GetOptions, get_located};
use crate::net::ReadFailure;
use crate::newest::{self, Whole};
use crate::sink::{GetTarget, Memory, Outlet};

/// Longer reads are worth several streams.
pub(crate) const DIRECT_LEN_MAX: u64 = PAYLOAD_LEN_MAX as u64;

/// A file that is open for reading.
///
/// It stays the file that it was when it was opened, whatever is done to its path: one that was
/// replaced or removed is read as it was, until it leaves the trash.
#[derive(Debug)]
pub struct OpenFile {
    shared: Arc<Shared>,
    node: Node,
    chunk_size: u32,
    locations: Mutex<Locations>,
    /// The first indexes of the pages whose open chunks were confirmed since it was opened.
    confirmed: Mutex<BTreeSet<u32>>,
}

impl OpenFile {
    /// Opens what is at `path` by now.
    pub(crate) async fn open(shared: &Arc<Shared>, path: &str) -> Result<Self, Error> {
        Self::open_with_last(shared, path)
            .await
            .map(|(file, _)| file)
    }

    /// Opens what is at `path` by now; its last chunk too.
    pub(crate) async fn open_with_last(
        shared: &Arc<Shared>,
        path: &str,
    ) -> Result<(Self, Option<LocatedChunk>), Error> {
        let which = Locate {
            path: path.to_owned(),
            file_id: FileId::NONE,
            first_index: 0,
            count: PAGE_LEN,
        };
        let asked_at = shared.clock.now();
        let whole = newest::locate_whole(shared, &which, shared.timeout).await?;
        let Whole { first_page, last } = whole;
        let mut locations = Locations::default();
        let lease = Duration::from_millis(first_page.lease.into());
        locations.keep(asked_at, lease, 0, first_page.chunks);
        let file = Self {
            shared: shared.clone(),
            node: first_page.node,
            chunk_size: first_page.chunk_size,
            locations: Mutex::new(locations),
            confirmed: Mutex::new(BTreeSet::from([0])),
        };
        Ok((file, last))
    }

    /// What the file was when it was opened; its size is exact, also where a chunk is open.
    #[must_use]
    pub const fn node(&self) -> &Node {
        &self.node
    }

    /// Reads a part of the file, every byte verified; it is shorter where the file ends. Many may
    /// be under way at once.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::NoReplica`]; [`Error::Refused`] with `not_found` when the file
    /// is gone, out of the trash too.
    pub async fn read_at(&self, offset: u64, length: u64) -> Result<Vec<u8>, Error> {
        let start = offset.min(self.node.size);
        let range = start..start.saturating_add(length).min(self.node.size);
        if range.end - range.start > DIRECT_LEN_MAX {
            return self.read_in_streams(range).await;
        }
        self.read_part(range).await.map(|(bytes, _)| bytes)
    }

    /// Reads a range, which may reach beyond the file: zeros are there. What was served of the
    /// last of its chunks comes along, if that is open.
    pub(crate) async fn read_part(
        &self,
        range: Range<u64>,
    ) -> Result<(Vec<u8>, Option<Served>), Error> {
        match Reading::new(self, range.clone())?.run().await {
            // By what was kept it was another version: nothing was given out, so the new one is
            // as good.
            Err(Error::Changed { .. }) => Reading::new(self, range)?.run().await,
            read => read,
        }
    }

    /// Bytes of a whole chunk.
    pub(crate) const fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    /// The time, and the waits, of its client.
    pub(crate) fn clock(&self) -> Clock {
        self.shared.clock
    }

    /// What is at a place by what was told before, or by the master.
    pub(crate) async fn chunk_at(&self, index: u32) -> Result<Option<LocatedChunk>, Error> {
        let chunks = self.locate(index..index.saturating_add(1)).await?;
        Ok(chunks.into_iter().next().map(Arc::unwrap_or_clone))
    }

    /// Asks the master for the page of a chunk, whatever was told before.
    pub(crate) async fn refresh(&self, index: u32) -> Result<LocateReply, Error> {
        let now = self.shared.clock.now();
        let first_index = page_start(index);
        let located = fetch::locate(&self.shared, &self.page(first_index)).await?;
        self.keep(now, first_index, &located);
        Ok(located)
    }

    async fn read_in_streams(&self, range: Range<u64>) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let options = GetOptions {
            offset: range.start,
            length: Some(range.end - range.start),
            ..GetOptions::default()
        };
        let target = GetTarget::Memory(&mut bytes);
        get_located(&self.shared, self.page(0), target, options).await?;
        Ok(bytes)
    }

    const fn page(&self, first_index: u32) -> Locate {
        newest::page(self.node.file_id, first_index)
    }

    /// Where chunks are, by what was told before, or by the master.
    async fn locate(&self, indexes: Range<u32>) -> Result<Vec<Arc<LocatedChunk>>, Error> {
        let mut chunks = Vec::new();
        for index in indexes {
            let now = self.shared.clock.now();
            let known = self.locations().find(now, index).map(Option::<&_>::cloned);
            let chunk = match known {
                Some(chunk) => chunk,
                None => self.ask(now, index).await?.map(Arc::new),
            };
            chunks.extend(chunk);
        }
        Ok(chunks)
    }

    async fn ask(&self, now: Duration, index: u32) -> Result<Option<LocatedChunk>, Error> {
        let first_index = page_start(index);
        let which = self.page(first_index);
        let is_confirmed = self.confirmed().contains(&first_index);
        let located = match is_confirmed {
            true => fetch::locate(&self.shared, &which).await?,
            false => newest::locate(&self.shared, &which, self.shared.timeout).await?,
        };
        self.confirmed().insert(first_index);
        self.keep(now, first_index, &located);
        let mut chunks = located.chunks.into_iter();
        Ok(chunks.find(|chunk| chunk.index == index))
    }

    fn keep(&self, asked_at: Duration, first_index: u32, located: &LocateReply) {
        let lease = Duration::from_millis(located.lease.into());
        self.locations()
            .keep(asked_at, lease, first_index, located.chunks.clone());
    }

    fn confirmed(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.confirmed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn locations(&self) -> MutexGuard<'_, Locations> {
        self.locations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// One read under way.
struct Reading<'a> {
    file: &'a OpenFile,
    download: Download,
    /// Chunks below were located.
    located_to: u32,
    memory: Memory,
    served: Option<Served>,
    reports: Vec<JoinHandle<()>>,
    bad: Vec<(u32, ServerId)>,
    last_failure: Option<StreamError>,
}

impl<'a> Reading<'a> {
    fn new(file: &'a OpenFile, range: Range<u64>) -> Result<Self, Error> {
        let bytes = range.end;
        let memory = Memory::new(range.clone());
        let plan = Plan {
            range,
            chunk_size: file.chunk_size,
            streams_max: 1,
            // Nothing is given out before all is verified.
            rewindable: true,
            patience: file.shared.timeout,
            seed: file.shared.master.draw_seed(),
        };
        Ok(Self {
            file,
            download: Download::new(plan).ok_or(Error::TooLarge { bytes })?,
            located_to: 0,
            memory,
            served: None,
            reports: Vec::new(),
            bad: Vec::new(),
            last_failure: None,
        })
    }

    async fn run(mut self) -> Result<(Vec<u8>, Option<Served>), Error> {
        let read = self.read().await;
        if !self.reports.is_empty() {
            let all = async {
                for report in self.reports {
                    // One that failed was logged.
                    let _ = report.await;
                }
            };
            let _ = timeout(REPORT_TIME_MAX, all).await;
        }
        let served = self.served;
        read.and_then(|()| Ok((self.memory.into_bytes()?, served)))
    }

    /// Does what the machine says until all was read.
    async fn read(&mut self) -> Result<(), Error> {
        let clock = self.file.shared.clock;
        loop {
            let now = clock.now();
            let slow = self.file.shared.links.small().slow(now);
            self.download.handle_slow(slow);
            let Some(action) = self.download.poll(now) else {
                clock.wait_until(self.download.wake_at()).await;
                continue;
            };
            match action {
                Action::Locate { first_index, count } => {
                    let asked = first_index..first_index.saturating_add(count);
                    let chunks = self.locate(asked.clone()).await?;
                    self.download.handle_located(asked, chunks);
                }
                Action::Fetch(fetch) => self.fetch(&fetch).await?,
                // That is what the memory has where nothing was put.
                Action::Zeros { .. } => {}
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
                    let bad = self.bad.iter().filter(|(index, _)| *index == why.index());
                    let bad = bad.map(|&(_, server)| server).collect();
                    return Err(fetch::given_up(why, bad, self.last_failure.take()));
                }
            }
        }
    }

    /// Where chunks are. One that is located again has no replica that serves, where it is known: only the
    /// master can say more, also where nothing failed that would have had it forgotten.
    async fn locate(&mut self, indexes: Range<u32>) -> Result<Vec<Arc<LocatedChunk>>, Error> {
        if indexes.start < self.located_to {
            let now = self.file.shared.clock.now();
            let chunk = self.file.ask(now, indexes.start).await?;
            return Ok(chunk.map(Arc::new).into_iter().collect());
        }
        self.located_to = indexes.end;
        self.file.locate(indexes).await
    }

    async fn fetch(&mut self, fetch: &Fetch) -> Result<(), Error> {
        let index = fetch.chunk.index;
        let chunk_start = u64::from(index) * u64::from(self.file.chunk_size);
        let outlet = Outlet::Memory(self.memory.clone(), chunk_start);
        let read = fetch::read_hedged(&self.file.shared, fetch, &outlet).await;
        for (server, failure) in read.failed {
            match failure {
                ReadFailure::Sink(error) => return Err(error),
                ReadFailure::Replica {
                    error,
                    fault,
                    verified,
                } => {
                    tracing::info!(index, %error, "another replica is asked");
                    self.note(index, server, fault, error);
                    let now = self.file.shared.clock.now();
                    self.download
                        .handle_failed(now, index, server, verified, fault);
                }
            }
        }
        if read.is_read {
            self.served = read.served;
            self.download.handle_fetched(index);
        }
        Ok(())
    }

    fn note(&mut self, index: u32, server: ServerId, fault: Fault, error: StreamError) {
        self.file.locations().forget(index);
        if fault.shows_a_bad_replica() {
            self.bad.push((index, server));
        }
        self.last_failure = Some(error);
    }

    fn tell_master(&mut self, report: ReportReplica) {
        let shared = self.file.shared.clone();
        self.reports.push(tokio::spawn(async move {
            if let Err(error) = shared.master.call(&report).await {
                tracing::debug!(%error, "the master did not hear of a replica");
            }
        }));
    }
}
