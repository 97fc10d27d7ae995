//! All that is durable: what the entries applied so far add up to
//! (`spec/oplog-entries.md` section 3).
//!
//! Changed by [`apply`](super::apply::apply) alone, read by everybody. What is only observed
//! (who is alive, where replicas lie) is not here but in
//! [`chunkservers`](super::chunkservers), and is gathered anew after each start.

use std::collections::BTreeMap;

use sarsen_protocol::id::{
    ChunkHandle, ChunkVersion, ClusterId, DirectoryId, Epoch, FileId, ServerId, StartNonce,
    StartNumber,
};

use sarsen_protocol::key::SecretKey;
use sarsen_protocol::sabotage::{Check, is_in_force};
use sarsen_protocol::size::CHUNK_LEN_MAX;

use super::chunk_table::ChunkTable;
use super::command::cluster::{Addresses, TicketKey};
use super::file::PendingFile;
use super::namespace::Namespace;
use super::refusal::Refusal;
use super::session::Sessions;

/// What the log knows of a chunkserver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRecord {
    /// Where it was last reached.
    pub addresses: Addresses,
    /// Where it stands.
    pub rack: String,
}

/// What the log knows of a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryRecord {
    /// The server that has it.
    pub server: ServerId,
    /// Its last start.
    pub start_number: StartNumber,
    /// Drawn at that start.
    pub start_nonce: StartNonce,
}

/// Chunkservers and their directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Servers {
    /// Servers by id.
    pub servers: BTreeMap<ServerId, ServerRecord>,
    /// Directories by id.
    pub directories: BTreeMap<DirectoryId, DirectoryRecord>,
    /// The next server id to be drawn.
    pub next: u64,
}

/// What a directory's start is, by what the log has of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartKind {
    /// The log is to have it.
    New,
    /// The log has it: the same start over another connection.
    Reconnect,
}

impl Servers {
    /// Whether a directory's start is sound (`spec/oplog-entries.md` section 4.7).
    ///
    /// # Errors
    /// [`Refusal::ForeignDirectory`], [`Refusal::StaleStart`].
    pub fn admit_start(
        &self,
        directory: DirectoryId,
        start: &DirectoryRecord,
    ) -> Result<StartKind, Refusal> {
        if !self.servers.contains_key(&start.server) {
            return Err(Refusal::ForeignDirectory);
        }
        match self.directories.get(&directory) {
            None => Ok(StartKind::New),
            Some(last) if last.server != start.server => Err(Refusal::ForeignDirectory),
            Some(last) if last == start => Ok(StartKind::Reconnect),
            Some(last)
                if start.start_number > last.start_number || !is_in_force(Check::StartNumber) =>
            {
                Ok(StartKind::New)
            }
            Some(_) => Err(Refusal::StaleStart),
        }
    }
}

/// What the cluster is, from its first entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its id; none before the first entry.
    pub id: ClusterId,
    /// Bytes of a whole chunk.
    pub chunk_size: u32,
    /// Signs tickets.
    pub ticket_key: TicketKey,
}

/// The durable state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Index of the last entry applied.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Its time.
    pub time_ms: u64,
    /// What the cluster is.
    pub cluster: Cluster,
    /// The last epoch.
    pub epoch: Epoch,
    /// Every handle ever given out is below.
    pub handles_end: ChunkHandle,
    /// Every version ever given out is below.
    pub versions_end: ChunkVersion,
    /// Chunkservers.
    pub servers: Servers,
    /// Clients' sessions.
    pub sessions: Sessions,
    /// Files under construction.
    pub pending: BTreeMap<FileId, PendingFile>,
    /// Files, folders and trash.
    pub namespace: Namespace,
    /// Chunks that files name.
    pub chunks: ChunkTable,
}

impl Default for State {
    /// The state before the first entry.
    fn default() -> Self {
        Self {
            index: 0,
            term: 0,
            time_ms: 0,
            cluster: Cluster {
                id: ClusterId::NONE,
                chunk_size: CHUNK_LEN_MAX,
                ticket_key: TicketKey {
                    id: 0,
                    key: SecretKey::new([0; 32]),
                },
            },
            epoch: Epoch::NONE,
            handles_end: ChunkHandle(1),
            versions_end: ChunkVersion(1),
            servers: Servers {
                servers: BTreeMap::new(),
                directories: BTreeMap::new(),
                next: 1,
            },
            sessions: Sessions::default(),
            pending: BTreeMap::new(),
            namespace: Namespace::default(),
            chunks: ChunkTable::default(),
        }
    }
}
