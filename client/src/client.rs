//! [`Client`]: what can be asked of a cluster.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sarsen_edge::address::HostPort;
use sarsen_protocol::error::{BodyError, FrameError};
use sarsen_protocol::id::{ChunkHandle, FileId};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{
    AcceptLoss, Capacity, CapacityReply, EmptyTrash, Fsck, FsckFinding, Kind, List, ListEntry,
    ListReply, ListTrash, Locate, LocateReply, LossAccepted, MakeFile, MakeFolder, Node, NodeType,
    Remove, Removed, Rename, Report, ReportReply, RestoreTrash, SealFile, ServerState, Stat,
    TrashEmptied, TrashEntry, Truncate, Usage, UsageReply,
};
use sarsen_protocol::size::{CHUNK_LEN_MAX, CHUNK_LEN_MIN, LOCATE_COUNT_MAX, PAGE_LEN_MAX};
use sarsen_protocol::status::Status;
use tokio::time::sleep;

use crate::buffer::Buffers;
use crate::clock::Clock;
use crate::core::read::PAGE_LEN;
use crate::core::read_stream::{Served, Wanted};
use crate::core::seen::{Seen, State};
use crate::core::window::Windows;
use crate::error::Error;
use crate::follower::Follower;
use crate::get::{GetOptions, GetReport, get};
use crate::local_write::Writes;
use crate::master::Master;
use crate::net::{Controls, Links};
use crate::newest::locate_whole;
use crate::open_file::{DIRECT_LEN_MAX, OpenFile};
use crate::path;
use crate::put::{PutOptions, PutReport, put};
use crate::record_reader::RecordReader;
use crate::session::Sessions;
use crate::sink::GetTarget;
use crate::source::PutSource;
use crate::tree::{GetItem, PutItem, TreeEvent, TreeOptions, TreeSums, get_tree, put_tree};
use crate::writer::file::FileWriter;
use crate::writer::record::{Appended, RecordWriter};
use crate::writer::{WriteOptions, of_a_file};

/// How long a request may take, unless asked otherwise.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// Where a master listens unless it was started otherwise.
pub const MASTER_DEFAULT: &str = "127.0.0.1:7400";

/// How many times `suspect_after` the exact size of a file is waited for: members change in twice.
const EXACT_SIZE_WAIT: u32 = 3;

/// How often the state of the cluster is asked for while it is waited for.
const WAIT_PERIOD: Duration = Duration::from_millis(50);

/// Silence, in milliseconds, after which a chunkserver that is waited for may have fallen silent: between
/// two heartbeats is as much, where nobody set another time.
const SURELY_HEARD_MS: u32 = 1000;

/// Which cluster, and how patient to be with it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientConfig {
    /// `HOST:PORT` of each master's control port.
    pub masters: Vec<String>,
    /// The cluster's key; without one, what a master on this machine left for this user.
    pub key: Option<SecretKey>,
    /// How long a request, or a transfer that comes no further, is tried again.
    pub timeout: Duration,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            masters: vec![MASTER_DEFAULT.into()],
            key: None,
            timeout: TIMEOUT_DEFAULT,
        }
    }
}

/// What all parts of a client share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) timeout: Duration,
    pub(crate) master: Arc<Master>,
    pub(crate) sessions: Sessions,
    pub(crate) links: Links,
    pub(crate) controls: Controls,
    pub(crate) buffers: Buffers,
    /// To local files.
    pub(crate) writes: Writes,
    /// Of all write streams.
    pub(crate) windows: Mutex<Windows>,
    /// The newest states of open chunks that acks and reads have shown.
    pub(crate) seen: Mutex<Seen>,
}

impl Shared {
    /// The newest states of open chunks that were seen.
    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This state of an open chunk was acknowledged or confirmed.
    pub(crate) fn note_seen(&self, handle: ChunkHandle, state: State) {
        self.seen().note(handle, state);
    }

    /// A read of a chunk ended well; what was served, if the chunk is not sealed.
    pub(crate) fn note_read(&self, wanted: &Wanted, served: Option<Served>) -> Option<Served> {
        match *wanted {
            Wanted::Sealed(chunk) => {
                self.seen().note_sealed(chunk.handle, chunk.version);
                None
            }
            Wanted::Plain { handle, .. } => {
                if let Some(served) = served {
                    self.seen().note(handle, served.state);
                }
                served
            }
        }
    }
}

/// A cluster, as one of its users sees it. Clones are the same client.
///
/// Every call tries again what may pass until [`ClientConfig::timeout`] is over. A change is done
/// once however often it is sent. A call that is dropped may or may not have had its effect.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

/// All findings of an `fsck`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsckReport {
    /// Files looked at.
    pub files: u64,
    /// Chunks looked at.
    pub chunks: u64,
    /// What is wrong; empty if the cluster is healthy.
    pub findings: Vec<FsckFinding>,
}

impl Client {
    /// Connects to a master, trying again until the time is over.
    ///
    /// # Errors
    /// [`Error::NoMaster`], [`Error::Key`], [`Error::Hello`], [`Error::MasterAddress`].
    pub async fn connect(config: ClientConfig) -> Result<Self, Error> {
        let parse = |text: &String| text.parse::<HostPort>();
        let masters = config.masters.iter().map(parse).collect::<Result<_, _>>();
        let masters: Vec<HostPort> = masters.map_err(|source| Error::MasterAddress { source })?;
        let clock = Clock::start();
        let master = Arc::new(Master::new(masters, config.key, config.timeout, clock));
        master.connect().await?;
        Ok(Self {
            shared: Arc::new(Shared {
                clock,
                timeout: config.timeout,
                sessions: Sessions::new(master.clone()),
                links: Links::new(master.clone()),
                controls: Controls::new(master.clone()),
                master,
                buffers: Buffers::default(),
                writes: Writes::new(clock),
                windows: Mutex::default(),
                seen: Mutex::default(),
            }),
        })
    }

    /// Ends the client's session and its connection. One that is dropped instead keeps its
    /// session, and what is pending in it, until that expires.
    pub async fn close(self) {
        self.shared.sessions.close().await;
        self.shared.master.close().await;
    }

    /// Uploads a file, which appears when it is whole.
    ///
    /// # Errors
    /// [`Error::Refused`] with `already_exists` unless [`PutOptions::force`] is set, and with
    /// `is_a_folder`; [`Error::ChunkNotStored`]; what the source says.
    pub async fn put(
        &self,
        path: &str,
        source: PutSource,
        options: PutOptions,
    ) -> Result<PutReport, Error> {
        put(&self.shared, path, source, options).await
    }

    /// Downloads a file, or the part of it that the options name; every byte is verified.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::NoReplica`], [`Error::IsAFolder`]; what the target says.
    pub async fn get(
        &self,
        path: &str,
        target: GetTarget<'_>,
        options: GetOptions,
    ) -> Result<GetReport, Error> {
        get(&self.shared, path, target, options).await
    }

    /// Uploads many files, and folders with all that is in them, several at a time. A folder that
    /// is there already is merged with; a file that is there fails unless
    /// [`PutOptions::force`] is set. What becomes of each file is told to `on_event`, and what
    /// fails keeps the others from nothing, unless it shows that the cluster serves nobody.
    ///
    /// Items whose copies would lie in each other are the caller's to keep apart.
    pub async fn put_tree(
        &self,
        items: Vec<PutItem>,
        options: TreeOptions<PutOptions>,
        on_event: &mut (dyn FnMut(TreeEvent<PutReport>) + Send),
    ) -> TreeSums {
        put_tree(&self.shared, items, options, on_event).await
    }

    /// Downloads many files, and folders with all that is in them, several at a time. A local
    /// folder that is there already is merged with, a local file replaced; anything else in the
    /// way fails. Nothing is written outside of the items' targets. What becomes of each file is
    /// told as by [`Client::put_tree`].
    pub async fn get_tree(
        &self,
        items: Vec<GetItem>,
        options: TreeOptions<GetOptions>,
        on_event: &mut (dyn FnMut(TreeEvent<GetReport>) + Send),
    ) -> TreeSums {
        get_tree(&self.shared, items, options, on_event).await
    }

    /// Opens a file for many reads, which then go to chunkservers alone.
    ///
    /// # Errors
    /// [`Error::IsAFolder`]; [`Error::Refused`] with `not_found`.
    pub async fn open(&self, path: &str) -> Result<OpenFile, Error> {
        path::check(path)?;
        OpenFile::open(&self.shared, path).await
    }

    /// Reads a part of what is at a path by now into memory; it is shorter where the file ends.
    /// Whoever reads a file more than once better [opens](Client::open) it.
    ///
    /// # Errors
    /// As [`Client::open`] and [`OpenFile::read_at`].
    pub async fn read_range(&self, path: &str, offset: u64, length: u64) -> Result<Vec<u8>, Error> {
        if length <= DIRECT_LEN_MAX {
            return self.open(path).await?.read_at(offset, length).await;
        }
        let mut bytes = Vec::new();
        let options = GetOptions {
            offset,
            length: Some(length),
            ..GetOptions::default()
        };
        self.get(path, GetTarget::Memory(&mut bytes), options)
            .await?;
        Ok(bytes)
    }

    /// What is at a path.
    ///
    /// # Errors
    /// [`Error::Refused`] with `not_found`.
    pub async fn stat(&self, path: &str) -> Result<Node, Error> {
        path::check(path)?;
        let path = path.to_owned();
        Ok(self.shared.master.call(&Stat { path }).await?.node)
    }

    /// How long a file is, as its newest state has it; `None` if a chunk is open and none of its
    /// members has confirmed one within three times `suspect_after`.
    ///
    /// # Errors
    /// [`Error::Refused`] with `not_found`, [`Error::IsAFolder`].
    pub async fn exact_size(&self, path: &str) -> Result<Option<u64>, Error> {
        path::check(path)?;
        let which = Locate {
            path: path.to_owned(),
            file_id: FileId::NONE,
            first_index: 0,
            count: PAGE_LEN,
        };
        let patience =
            (EXACT_SIZE_WAIT * self.shared.links.suspect_after()).min(self.shared.timeout);
        match locate_whole(&self.shared, &which, patience).await {
            Ok(whole) => Ok(Some(whole.first_page.node.size)),
            Err(Error::NoReplica { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The records of a file, each once; all that were acknowledged before.
    ///
    /// # Errors
    /// As [`Client::open`]; [`Error::NoReplica`] if no member of an open chunk confirms what is
    /// newest.
    pub async fn records(&self, path: &str) -> Result<RecordReader, Error> {
        path::check(path)?;
        RecordReader::open(&self.shared, path, false).await
    }

    /// The same of a file that is followed: [`RecordReader::wait`] waits for more.
    ///
    /// # Errors
    /// As [`Client::records`].
    pub async fn follow_records(&self, path: &str) -> Result<RecordReader, Error> {
        path::check(path)?;
        RecordReader::open(&self.shared, path, true).await
    }

    /// The bytes of a file from any place on, and what is appended to it.
    ///
    /// # Errors
    /// As [`Client::records`].
    pub async fn follow(&self, path: &str) -> Result<Follower, Error> {
        path::check(path)?;
        Follower::open(&self.shared, path).await
    }

    /// Seals what is open at a path or below it: what is there by now.
    ///
    /// # Errors
    /// [`Error::Refused`] with `not_found`, and with what keeps a chunk from being sealed.
    pub async fn seal(&self, path: &str) -> Result<Node, Error> {
        path::check(path)?;
        let path = path.to_owned();
        Ok(self.shared.master.call(&SealFile { path }).await?.node)
    }

    /// Takes the best copy that there is of a chunk without a good one, and gives up what others may
    /// have beyond it (`spec/replication.md` section 8).
    ///
    /// # Errors
    /// [`Error::NoSuchChunk`]; [`Error::Refused`] with `invalid_argument` for a chunk that has a copy to go
    /// on with, and with `unavailable` if nobody has a readable one.
    pub async fn accept_loss(&self, handle: ChunkHandle) -> Result<LossAccepted, Error> {
        let accepted = self
            .shared
            .sessions
            .mutate(|request| AcceptLoss { request, handle });
        match accepted.await {
            Err(Error::Refused {
                status: Status::ChunkUnknown,
                ..
            }) => Err(Error::NoSuchChunk),
            accepted => accepted,
        }
    }

    /// CRC-32 of a file, from what the master knows; `None` while one of its chunks is open.
    ///
    /// # Errors
    /// [`Error::Refused`] with `not_found`, [`Error::IsAFolder`].
    pub async fn checksum(&self, path: &str) -> Result<Option<u32>, Error> {
        let node = self.stat(path).await?;
        match node.node_type {
            NodeType::Folder => Err(Error::IsAFolder),
            NodeType::File => Ok(node.sealed.then_some(node.crc32)),
        }
    }

    /// A page of a folder: at most `limit` names above `after`, in the order of their bytes. A
    /// file is listed as itself.
    ///
    /// # Errors
    /// [`Error::Refused`] with `not_found`.
    pub async fn list_page(&self, path: &str, after: &str, limit: u32) -> Result<ListReply, Error> {
        path::check(path)?;
        let request = List {
            path: path.to_owned(),
            after: after.to_owned(),
            limit: limit.clamp(1, PAGE_LIMIT),
        };
        self.shared.master.call(&request).await
    }

    /// A whole folder.
    ///
    /// # Errors
    /// As [`Client::list_page`].
    pub async fn list(&self, path: &str) -> Result<Vec<ListEntry>, Error> {
        let mut entries: Vec<ListEntry> = Vec::new();
        loop {
            let after = entries.last().map_or("", |entry| &entry.name);
            let page = self.list_page(path, after, PAGE_LIMIT).await?;
            check_ascends(after, page.entries.iter().map(|entry| &*entry.name))?;
            let more = page.more && !page.entries.is_empty();
            entries.extend(page.entries);
            if !more {
                return Ok(entries);
            }
        }
    }

    /// Makes a folder; with `parents` also those above it, and one that exists is no error.
    ///
    /// # Errors
    /// [`Error::Refused`] with `already_exists`, `not_found`, `not_a_folder`.
    pub async fn make_folder(&self, path: &str, parents: bool) -> Result<FileId, Error> {
        path::check(path)?;
        let made = self.shared.sessions.mutate(|request| MakeFolder {
            request,
            path: path.to_owned(),
            parents,
        });
        Ok(made.await?.file_id)
    }

    /// Moves a file or folder to a path that is free.
    ///
    /// # Errors
    /// [`Error::Refused`] with `already_exists`, `not_found`, `invalid_argument`.
    pub async fn rename(&self, source: &str, target: &str) -> Result<(), Error> {
        path::check(source)?;
        path::check(target)?;
        let renamed = self.shared.sessions.mutate(|request| Rename {
            request,
            source: source.to_owned(),
            target: target.to_owned(),
        });
        renamed.await.map(|_| ())
    }

    /// Makes an empty file, and the folders above it; what is there already stays what it is.
    ///
    /// # Errors
    /// As every call.
    pub async fn touch(&self, path: &str) -> Result<Node, Error> {
        path::check(path)?;
        let made = self.shared.sessions.mutate(|request| MakeFile {
            request,
            path: path.to_owned(),
            replicas: 0,
            parents: true,
        });
        match made.await {
            Ok(made) => Ok(made.node),
            Err(Error::Refused {
                status: Status::AlreadyExists | Status::IsAFolder,
                ..
            }) => self.stat(path).await,
            Err(error) => Err(error),
        }
    }

    /// Appends records to a file, many at a time.
    ///
    /// # Errors
    /// [`Error::NoSuchFile`], [`Error::FolderHasNoBytes`].
    pub async fn record_writer(
        &self,
        path: &str,
        options: WriteOptions,
    ) -> Result<RecordWriter, Error> {
        RecordWriter::open(&self.shared, path, options).await
    }

    /// Appends one record. Whoever appends more than one better keeps a
    /// [writer](Client::record_writer).
    ///
    /// # Errors
    /// As [`Client::record_writer`], [`RecordWriter::append`] and [`Receipt`](crate::Receipt).
    pub async fn append(
        &self,
        path: &str,
        payload: &[u8],
        options: WriteOptions,
    ) -> Result<Appended, Error> {
        let mut writer = self.record_writer(path, options).await?;
        writer.append(payload).await?.await
    }

    /// Writes over a file's bytes, in many places.
    ///
    /// # Errors
    /// [`Error::NoSuchFile`], [`Error::FolderHasNoBytes`].
    pub async fn file_writer(
        &self,
        path: &str,
        options: WriteOptions,
    ) -> Result<FileWriter, Error> {
        FileWriter::open(&self.shared, path, options).await
    }

    /// Writes bytes over those of a file from `offset` on, and beyond its end. What lies between
    /// its end and `offset` becomes zeros. Whoever writes more than once better keeps a
    /// [writer](Client::file_writer).
    ///
    /// # Errors
    /// As [`Client::file_writer`], [`FileWriter::write_at`] and [`FileWriter::flush`].
    pub async fn write_at(
        &self,
        path: &str,
        offset: u64,
        bytes: &[u8],
        options: WriteOptions,
    ) -> Result<(), Error> {
        let mut writer = self.file_writer(path, options).await?;
        writer
            .write_at(offset, Bytes::copy_from_slice(bytes))
            .await?;
        writer.flush().await
    }

    /// Gives a file another size: what lies beyond is cut off, what it lacks reads as zeros.
    ///
    /// # Errors
    /// [`Error::NoSuchFile`], [`Error::FolderHasNoBytes`], [`Error::FileTooLong`].
    pub async fn truncate(&self, path: &str, size: u64) -> Result<Node, Error> {
        path::check(path)?;
        let truncated = self.shared.sessions.mutate(|request| Truncate {
            request,
            path: path.to_owned(),
            size,
        });
        match truncated.await.map_err(of_a_file) {
            Err(Error::Refused {
                status: Status::TooLarge,
                ..
            }) => Err(Error::FileTooLong {
                bytes: size,
                chunk_size: self.shared.sessions.chunk_size().await?,
            }),
            truncated => Ok(truncated?.node),
        }
    }

    /// Removes a file or folder: into the trash, or for good with `purge`.
    ///
    /// # Errors
    /// [`Error::Refused`] with `not_found`, and with `not_empty` unless `recursive`.
    pub async fn remove(&self, path: &str, recursive: bool, purge: bool) -> Result<Removed, Error> {
        path::check(path)?;
        let removed = self.shared.sessions.mutate(|request| Remove {
            request,
            path: path.to_owned(),
            recursive,
            purge,
        });
        removed.await
    }

    /// What is in the trash, by number.
    ///
    /// # Errors
    /// As every call.
    pub async fn trash_list(&self) -> Result<Vec<TrashEntry>, Error> {
        let mut entries: Vec<TrashEntry> = Vec::new();
        loop {
            let request = ListTrash {
                after: entries.last().map_or(0, |entry| entry.entry),
                limit: PAGE_LIMIT,
            };
            let page = self.shared.master.call(&request).await?;
            check_ascends(&request.after, page.entries.iter().map(|it| &it.entry))?;
            let more = page.more && !page.entries.is_empty();
            entries.extend(page.entries);
            if !more {
                return Ok(entries);
            }
        }
    }

    /// Takes an entry out of the trash, to `target` or to where it was; where it is now.
    ///
    /// # Errors
    /// [`Error::Refused`] with `not_found`, `already_exists`.
    pub async fn trash_restore(&self, entry: u64, target: Option<&str>) -> Result<String, Error> {
        target.map_or(Ok(()), path::check)?;
        let restored = self.shared.sessions.mutate(|request| RestoreTrash {
            request,
            entry,
            target: target.unwrap_or_default().to_owned(),
        });
        Ok(restored.await?.path)
    }

    /// Empties the trash of one entry, or of all.
    ///
    /// # Errors
    /// [`Error::Refused`] with `not_found`.
    pub async fn trash_empty(&self, entry: Option<u64>) -> Result<TrashEmptied, Error> {
        let emptied = self.shared.sessions.mutate(|request| EmptyTrash {
            request,
            entry: entry.unwrap_or(0),
        });
        emptied.await
    }

    /// Where the chunks of a file are: all of them, holes left out.
    ///
    /// # Errors
    /// [`Error::Refused`] with `not_found`, [`Error::IsAFolder`].
    pub async fn locate(&self, path: &str) -> Result<LocateReply, Error> {
        path::check(path)?;
        let mut request = Locate {
            path: path.to_owned(),
            file_id: FileId::NONE,
            first_index: 0,
            count: LOCATE_LIMIT,
        };
        let mut located = self.shared.master.call(&request).await?;
        if located.node.node_type == NodeType::Folder {
            return Err(Error::IsAFolder);
        }
        // The pages behind are those of the same file, whatever its path is by now.
        request.path.clear();
        request.file_id = located.node.file_id;
        while request.first_index.saturating_add(LOCATE_LIMIT) < located.slots {
            request.first_index += LOCATE_LIMIT;
            let page = self.shared.master.call(&request).await?;
            located.chunks.extend(page.chunks);
        }
        Ok(located)
    }

    /// Checks a tree from metadata and reports; `/` takes in the trash.
    ///
    /// # Errors
    /// [`Error::Refused`] with `not_found`.
    pub async fn fsck(&self, path: &str) -> Result<FsckReport, Error> {
        path::check(path)?;
        let mut request = Fsck {
            path: path.to_owned(),
            after: ChunkHandle::NONE,
            limit: PAGE_LIMIT,
        };
        let mut report = FsckReport::default();
        loop {
            let page = self.shared.master.call(&request).await?;
            // Told by the first page alone.
            report.files = report.files.max(page.files);
            report.chunks = report.chunks.max(page.chunks);
            report.findings.extend(page.findings);
            if !page.more || page.next <= request.after {
                return Ok(report);
            }
            request.after = page.next;
        }
    }

    /// The servers and their disks.
    ///
    /// # Errors
    /// As every call.
    pub async fn report(&self) -> Result<ReportReply, Error> {
        self.shared.master.call(&Report).await
    }

    /// The bytes of the live servers' disks.
    ///
    /// # Errors
    /// As every call.
    pub async fn capacity(&self) -> Result<CapacityReply, Error> {
        self.shared.master.call(&Capacity).await
    }

    /// What a tree takes.
    ///
    /// # Errors
    /// [`Error::Refused`] with `not_found`.
    pub async fn usage(&self, path: &str) -> Result<UsageReply, Error> {
        path::check(path)?;
        let path = path.to_owned();
        self.shared.master.call(&Usage { path }).await
    }

    /// Waits until so many chunkservers are live and safe mode is left. One that fell silent is not counted:
    /// it was not heard for a second, and for as long as the cluster calls suspect.
    ///
    /// # Errors
    /// [`Error::StillWaiting`] after [`ClientConfig::timeout`].
    pub async fn wait(&self, chunkservers: u32) -> Result<ReportReply, Error> {
        let deadline = self.shared.clock.now().saturating_add(self.shared.timeout);
        loop {
            let report = self.report().await?;
            let (mut live, mut silent) = live_and_silent(&report, u32::MAX);
            let heard = live_and_silent(&report, SURELY_HEARD_MS);
            // How long a silence is suspect, only a session tells: it costs entries in the log, and none is
            // to be had before the master takes changes.
            let is_in_doubt = live >= chunkservers && heard.0 < chunkservers;
            if is_in_doubt && !report.safe_mode && !report.read_only {
                let left = deadline.saturating_sub(self.shared.clock.now());
                let session = self.shared.sessions.current_within(left).await?;
                (live, silent) = session.map_or(heard, |session| {
                    live_and_silent(&report, session.suspect_after.max(SURELY_HEARD_MS))
                });
            }
            if live >= chunkservers && !report.safe_mode {
                return Ok(report);
            }
            if self.shared.clock.now() >= deadline {
                return Err(Error::StillWaiting {
                    wanted: chunkservers,
                    live,
                    silent,
                    safe_mode: report.safe_mode,
                    waited: self.shared.timeout,
                });
            }
            sleep(WAIT_PERIOD).await;
        }
    }
}

/// How many chunkservers are live, and how many more the master has not given up yet but not heard of
/// for `silence_max` milliseconds.
fn live_and_silent(report: &ReportReply, silence_max: u32) -> (u32, u32) {
    let (mut live, mut silent) = (0, 0);
    for server in &report.servers {
        match server.state {
            ServerState::Live | ServerState::Draining if server.last_heartbeat < silence_max => {
                live += 1;
            }
            ServerState::Live | ServerState::Draining => silent += 1,
            _ => {}
        }
    }
    (live, silent)
}

/// Refuses a page whose rows don't ascend from what it was asked to come behind: its last row is asked behind
/// next, and a page that came again would have us list for ever.
pub(crate) fn check_ascends<'a, K: Ord + ?Sized>(
    after: &'a K,
    rows: impl IntoIterator<Item = &'a K>,
) -> Result<(), Error> {
    let mut rows = rows.into_iter();
    let ascends = rows.try_fold(after, |last, row| (row > last).then_some(row));
    ascends.map(|_| ()).ok_or(Error::BadListing)
}

/// Refuses a chunk size that no cluster can have: everything is cut by it.
pub(crate) fn check_chunk_size(kind: Kind, chunk_size: u32) -> Result<(), Error> {
    let in_bounds = (CHUNK_LEN_MIN..=CHUNK_LEN_MAX).contains(&chunk_size);
    match in_bounds && chunk_size.is_power_of_two() {
        true => Ok(()),
        false => Err(Error::Protocol(FrameError::Body {
            kind,
            source: BodyError::OutOfBounds,
        })),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "both limits are far below 2^32"
)]
const PAGE_LIMIT: u32 = PAGE_LEN_MAX as u32;

#[expect(
    clippy::cast_possible_truncation,
    reason = "both limits are far below 2^32"
)]
const LOCATE_LIMIT: u32 = LOCATE_COUNT_MAX as u32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_can_move_between_threads() {
        fn is_send<T: Send>(_: T) {}
        // Compiled, and never run.
        let _ = |mut writer: RecordWriter| is_send(writer.append(b""));
        let _ = |client: Client| {
            let source = PutSource::Path("/a".into());
            is_send(client.put("/a", source, PutOptions::default()));
            let target = GetTarget::Path("/a".into());
            is_send(client.get("/a", target, GetOptions::default()));
            is_send(client.put_tree(Vec::new(), TreeOptions::default(), &mut |_| {}));
            is_send(client.get_tree(Vec::new(), TreeOptions::default(), &mut |_| {}));
            is_send(client.read_range("/a", 0, 1));
            is_send(client.rename("/a", "/b"));
            is_send(client.fsck("/"));
            is_send(client.append("/a", b"", WriteOptions::default()));
            is_send(client.write_at("/a", 0, b"", WriteOptions::default()));
            is_send(client.truncate("/a", 0));
            is_send(client.follow("/a"));
            is_send(async move { client.follow_records("/a").await?.wait().await });
        };
    }

    /// A listing whose master gave the same page again and again, and said that there was more, grew until
    /// memory ended.
    #[test]
    fn a_page_that_comes_again_is_refused() {
        assert!(check_ascends("", ["a", "ab", "b"]).is_ok());
        assert!(check_ascends("b", []).is_ok());
        assert!(check_ascends(&3, &[4, 9]).is_ok());
        for again in [["a", "b"], ["b", "c"], ["d", "c"], ["c", "c"]] {
            let refused = check_ascends("b", again);
            assert!(matches!(refused, Err(Error::BadListing)), "{again:?}");
        }
    }

    #[test]
    fn a_chunk_size_that_no_cluster_has_is_refused() {
        for good in [1 << 20, 4 << 20, 64 << 20] {
            assert!(check_chunk_size(Kind::LocateReply, good).is_ok());
        }
        for bad in [0, 1, 1 << 19, 3 << 20, 1 << 27, u32::MAX] {
            let refused = check_chunk_size(Kind::LocateReply, bad);
            assert!(matches!(refused, Err(Error::Protocol(_))), "{bad}");
        }
    }
}
