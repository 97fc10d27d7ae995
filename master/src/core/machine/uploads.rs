//! Chunks for uploads: handles and versions, servers, tickets; and what a publication must name.
//!
//! Giving out a chunk is not logged: the range that its handle and version come from is. What an
//! answer that was lost, or a restart, leaves behind is a skipped number and perhaps an orphan.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, FileId, ServerId, SessionId};
use sarsen_protocol::message::{AllocateChunks, Allocation, ChunksAllocated, Hop, Publish};
use sarsen_protocol::sabotage::{Check, is_in_force};
use sarsen_protocol::size::{ALLOCATED_CHUNKS_MAX, PUBLISH_CHUNKS_MAX};
use sarsen_protocol::status::Status;
use sarsen_protocol::ticket::{Claims, Rights, Ticket, chain_crc};

use super::{Machine, millis};
use crate::core::action::Failure;
use crate::core::chunk_table::Sealed;
use crate::core::command::{FilePublished, PublishedChunk, RangesReserved};
use crate::core::file::PendingFile;
use crate::core::placement::{Candidate, choose};
use crate::core::replica::Replica;
use crate::core::state::State;

/// Handles, and versions, that one entry reserves: few, since a lost log can be noticed only by
/// what lies beyond (`spec/oplog.md` section 7).
const RANGE_LEN: u64 = 1_024;

/// How long a chunk that was given out may wait for its first byte.
const WRITE_TICKET_LIFE: Duration = Duration::from_secs(600);

/// Handles and versions: what was given out, and to which pending file.
#[derive(Clone, Debug)]
pub(super) struct Allocations {
    /// The first handle that this master could give out: older ones are another's.
    first_handle: u64,
    /// The first file id that was not drawn when this master started.
    first_file: FileId,
    next_handle: u64,
    next_version: u64,
    handles_end: u64,
    versions_end: u64,
    by_file: BTreeMap<FileId, BTreeSet<ChunkHandle>>,
}

impl Allocations {
    /// Nothing to give out: the rest of an older range is skipped.
    pub(super) fn new(state: &State) -> Self {
        let (handles_end, versions_end) = (state.handles_end.0, state.versions_end.0);
        let given_before = match is_in_force(Check::HandleRange) {
            true => 0,
            false => RANGE_LEN,
        };
        Self {
            first_handle: handles_end,
            first_file: state.namespace.next_file(),
            next_handle: handles_end.saturating_sub(given_before).max(1),
            next_version: versions_end.saturating_sub(given_before).max(1),
            handles_end,
            versions_end,
            by_file: BTreeMap::new(),
        }
    }

    /// A range is durable.
    pub(super) fn extend(&mut self, state: &State) {
        self.handles_end = state.handles_end.0;
        self.versions_end = state.versions_end.0;
    }

    /// A pending file is none any more: what was given out for it.
    pub(super) fn end(&mut self, file: FileId) -> BTreeSet<ChunkHandle> {
        self.by_file.remove(&file).unwrap_or_default()
    }

    /// Whether this log can have given a chunk out: an older master up to the end that was found
    /// at the start, or this one. That a range was reserved proves nothing, since a master whose
    /// log lost its tail reserves the same one anew.
    pub(super) fn covers(&self, handle: ChunkHandle, version: ChunkVersion) -> bool {
        handle.0 < self.next_handle && version.0 < self.next_version
    }

    /// Whether a file id was drawn before this master started.
    ///
    /// A chunk that was given out by then was given out for such a file.
    pub(super) fn covers_file(&self, handle: ChunkHandle, file: FileId) -> bool {
        handle.0 >= self.first_handle || file < self.first_file
    }

    /// Draws a handle for a chunk that is made open.
    pub(super) fn draw_handle(&mut self) -> ChunkHandle {
        self.next_handle += 1;
        ChunkHandle(self.next_handle - 1)
    }

    /// Draws a version for an attempt to change a chunk.
    pub(super) fn draw_version(&mut self) -> ChunkVersion {
        self.next_version += 1;
        ChunkVersion(self.next_version - 1)
    }

    /// The highest version that was drawn, by this master or any before it.
    pub(super) const fn last_version(&self) -> ChunkVersion {
        ChunkVersion(self.next_version.saturating_sub(1))
    }

    /// Whether so many handles and versions are there to be drawn.
    pub(super) fn has(&self, count: u64) -> bool {
        self.left() >= count
    }

    fn left(&self) -> u64 {
        let handles = self.handles_end.saturating_sub(self.next_handle);
        let versions = self.versions_end.saturating_sub(self.next_version);
        handles.min(versions)
    }

    /// Chunks that this master gave out for a pending file.
    fn given(&self, file: FileId) -> usize {
        self.by_file.get(&file).map_or(0, BTreeSet::len)
    }

    /// Draws a chunk for a pending file.
    pub(super) fn draw(&mut self, file: FileId) -> (ChunkHandle, ChunkVersion) {
        let drawn = (
            ChunkHandle(self.next_handle),
            ChunkVersion(self.next_version),
        );
        self.next_handle += 1;
        self.next_version += 1;
        self.by_file.entry(file).or_default().insert(drawn.0);
        drawn
    }

    /// Whether a handle may have been given out for a pending file.
    fn could_be_of(&self, file: FileId, handle: ChunkHandle) -> bool {
        handle.0 < self.first_handle
            || self
                .by_file
                .get(&file)
                .is_some_and(|handles| handles.contains(&handle))
    }
}

impl Machine {
    /// Reserves a range before the last one runs out, unless one is on its way.
    ///
    /// Not at the start: what chunkservers report is compared with the end that the log had, and a
    /// master that gave nothing out leaves that where it was, however often it starts.
    pub(super) fn reserve_ranges(&mut self, count: u64) {
        if self.allocations.left() >= count.max(RANGE_LEN / 2) {
            return;
        }
        let is_on_its_way = |in_flight: &super::InFlight| {
            matches!(
                in_flight.entry.command,
                crate::core::command::Command::RangesReserved(_)
            )
        };
        if !self.in_flight.values().any(is_on_its_way) {
            let handles_end = self.state.handles_end.0 + RANGE_LEN;
            let versions_end = self.state.versions_end.0 + RANGE_LEN;
            self.append(
                RangesReserved {
                    handles_end,
                    versions_end,
                }
                .into(),
            );
        }
    }

    /// Gives out chunks of a pending file.
    pub(super) fn allocate(
        &mut self,
        request: &AllocateChunks,
    ) -> Result<ChunksAllocated, Failure> {
        self.keep_session(request.session)?;
        self.check_writable()?;
        let pending = self.state.pending.get(&request.file_id);
        let pending = pending.filter(|pending| pending.session == request.session);
        let pending = pending.ok_or(Status::PendingUnknown)?.clone();
        let end = u64::from(request.first_index) + u64::from(request.count);
        if end > PUBLISH_CHUNKS_MAX as u64 {
            let text = format!("a file has at most {PUBLISH_CHUNKS_MAX} chunks");
            return Err(Failure::new(Status::TooLarge, text));
        }
        let given = self.allocations.given(request.file_id);
        if given + usize::from(request.count) > ALLOCATED_CHUNKS_MAX {
            let text = format!(
                "{given} chunks were given out for this upload, and there are at most \
                 {ALLOCATED_CHUNKS_MAX}: begin it anew"
            );
            return Err(Failure::new(Status::TooLarge, text));
        }
        let count = u64::from(request.count);
        self.reserve_ranges(count);
        if self.allocations.left() < count {
            return Err(self.starting());
        }
        let mut chunks = Vec::with_capacity(usize::from(request.count));
        for index in (request.first_index..).take(usize::from(request.count)) {
            chunks.push(self.allocate_one(request, &pending, index)?);
        }
        Ok(ChunksAllocated { chunks })
    }

    /// The chunks that are given out with a pending file; none if they can't be now, and then the
    /// client asks for them and hears why.
    pub(super) fn first_chunks(
        &mut self,
        session: SessionId,
        file_id: FileId,
        count: u16,
    ) -> Vec<Allocation> {
        if count == 0 {
            return Vec::new();
        }
        let request = AllocateChunks {
            session,
            file_id,
            first_index: 0,
            count,
            fewest: 0,
            exclude: Vec::new(),
        };
        self.allocate(&request)
            .map_or_else(|_| Vec::new(), |allocated| allocated.chunks)
    }

    fn allocate_one(
        &mut self,
        request: &AllocateChunks,
        pending: &PendingFile,
        index: u32,
    ) -> Result<Allocation, Failure> {
        let wanted = pending.replicas;
        let fewest = match request.fewest {
            0 => wanted,
            fewest => fewest.max(self.config.fewest_replicas(wanted)).min(wanted),
        };
        let candidates = self.candidates(&request.exclude);
        if candidates.len() < usize::from(fewest) {
            return Err(self.too_few_servers(fewest, candidates.len(), &request.exclude));
        }
        let candidates = self.without_suspects(candidates, wanted);
        let servers = choose(&candidates, usize::from(wanted), &mut self.chance);
        let chain: Vec<Hop> = servers
            .iter()
            .filter_map(|&server| self.hop(server))
            .collect();
        for &server in &servers {
            self.servers.count_placement(server);
        }
        let (handle, version) = self.allocations.draw(request.file_id);
        let expiry = self
            .now
            .unix_ms
            .saturating_add(u64::from(millis(WRITE_TICKET_LIFE)));
        let claims = Claims {
            rights: Rights::WRITE,
            key_id: self.state.cluster.ticket_key.id,
            handle,
            version,
            expiry,
            file_id: request.file_id,
            session: request.session,
            epoch: self.epoch.number,
            chain_crc: chain_crc(&chain),
        };
        let ticket = Ticket::sign(claims, &self.state.cluster.ticket_key.key);
        Ok(Allocation {
            index,
            handle,
            version,
            ticket,
            chain,
        })
    }

    /// The live servers that have room for a chunk.
    pub(super) fn candidates(&self, exclude: &[ServerId]) -> Vec<Candidate> {
        let room = u64::from(self.state.cluster.chunk_size);
        let (now, dead_after) = (self.now.elapsed, self.config.dead_after);
        let able = self.servers.servers().filter_map(|(id, server)| {
            let usable = self.is_usable(id) && !exclude.contains(&id);
            let filled = usable
                .then(|| self.servers.filled(id, room, now, dead_after))
                .flatten()?;
            let rack = self.state.servers.servers.get(&id)?.rack.clone();
            Some(Candidate {
                server: id,
                rack,
                filled,
                recent: server.recent,
            })
        });
        able.collect()
    }

    /// Leaves out those that fell silent, if `wanted` are left: one may hang, and whoever writes to
    /// it waits until that is sure.
    pub(super) fn without_suspects(
        &self,
        mut candidates: Vec<Candidate>,
        wanted: u8,
    ) -> Vec<Candidate> {
        let (now, suspect_after) = (self.now.elapsed, self.config.suspect_after);
        let is_lively = |it: &Candidate| self.servers.is_live(it.server, now, suspect_after);
        if candidates.iter().filter(|it| is_lively(it)).count() >= usize::from(wanted) {
            candidates.retain(is_lively);
        }
        candidates
    }

    pub(super) fn hop(&self, server: ServerId) -> Option<Hop> {
        let record = self.state.servers.servers.get(&server)?;
        Some(Hop {
            server,
            data_addr: record.addresses.data.clone(),
        })
    }

    /// Whether a file that wants so many copies can be begun: now with the fewest that will do,
    /// and with all of them when those servers are back that were ever here.
    pub(super) fn check_servers_for(&self, replicas: u8) -> Result<(), Failure> {
        let able = self.candidates(&[]).len();
        if able < usize::from(replicas) && self.state.servers.servers.len() < usize::from(replicas)
        {
            return Err(self.too_few_servers(replicas, able, &[]));
        }
        let fewest = self.config.fewest_replicas(replicas);
        match able < usize::from(fewest) {
            true => Err(self.too_few_servers(fewest, able, &[])),
            false => Ok(()),
        }
    }

    /// Says whether servers are missing, or room on them. A server whose disks don't answer is
    /// missing for now: a disk that is only busy is no full one.
    pub(super) fn too_few_servers(&self, wanted: u8, able: usize, exclude: &[ServerId]) -> Failure {
        let (now, dead_after) = (self.now.elapsed, self.config.dead_after);
        let is_live = |&id: &ServerId| {
            self.is_usable(id)
                && !exclude.contains(&id)
                && self.servers.has_disk(id, now, dead_after)
        };
        let all = self.servers.servers().map(|(id, _)| id);
        let live = all.filter(is_live).count();
        if live >= usize::from(wanted) {
            let text = format!(
                "{wanted} servers with room are needed, {able} of {live} live ones have any: \
                 free space or add a disk"
            );
            return Failure::new(Status::NoSpace, text);
        }
        let text = format!(
            "{wanted} live servers are needed, there are {live}: start more chunkservers or \
             ask for fewer replicas"
        );
        Failure::new(Status::TooFewServers, text).retry_after(millis(self.config.heartbeat))
    }

    /// A publication without the chunks of a file that is there already: they change nothing, and nobody
    /// would check them. Numbers of a client's choice in the log could look like anything, also like the
    /// header of an entry, which behind a torn one is proof of damage (`spec/oplog.md` section 7).
    pub(super) fn without_idle_chunks(&self, mut publish: Publish) -> Publish {
        if self.state.namespace.file(publish.file_id).is_some() {
            publish.chunks.clear();
        }
        publish
    }

    /// What applying a publication can't check: that its chunks were given out for it, and how
    /// many copies this cluster wants at the least.
    pub(super) fn check_publication(&self, body: &FilePublished) -> Result<(), Failure> {
        let Some(pending) = self.state.pending.get(&body.file) else {
            // Published already, which the entry answers; or nothing that this client could know.
            return match self.state.namespace.file(body.file) {
                Some(_) => Ok(()),
                None => Err(Status::PendingUnknown.into()),
            };
        };
        let fewest = usize::from(self.config.fewest_replicas(pending.replicas));
        let wrong = |chunk: &&PublishedChunk| {
            !self.allocations.could_be_of(body.file, chunk.handle)
                || self.garbage.is_condemned(chunk.handle)
        };
        if let Some(chunk) = body.chunks.iter().find(wrong) {
            let text = format!("chunk {} was not given out for this file", chunk.handle);
            return Err(Failure::new(Status::InvalidArgument, text));
        }
        // Only what this cluster has: free numbers in the log could look like anything.
        let known = &self.state.servers.servers;
        let strangers = body.chunks.iter().flat_map(|chunk| &chunk.servers);
        if let Some(server) = strangers.into_iter().find(|id| !known.contains_key(id)) {
            let text = format!("there is no server {server} that could have acknowledged a chunk");
            return Err(Failure::new(Status::InvalidArgument, text));
        }
        if let Some(chunk) = body
            .chunks
            .iter()
            .find(|chunk| chunk.servers.len() < fewest)
        {
            let text = format!("chunk {} has fewer than {fewest} copies", chunk.handle);
            return Err(Failure::new(Status::InvalidArgument, text));
        }
        Ok(())
    }

    /// Lets the servers that a publication names count for readers until they tell themselves.
    pub(super) fn acknowledge(&mut self, body: &FilePublished) {
        let until = self.now.elapsed.saturating_add(self.config.dead_after);
        for chunk in &body.chunks {
            let record = self.state.chunks.record(chunk.handle);
            if record.is_none_or(|record| record.file != body.file) {
                continue;
            }
            let sealed = Sealed {
                version: chunk.version,
                len: chunk.len,
                crc: chunk.crc,
            };
            for &server in &chunk.servers {
                if self.servers.server(server).is_some() {
                    let replica = Replica::acknowledged(server, sealed, body.file, until);
                    self.servers.acknowledge(chunk.handle, replica);
                }
            }
        }
    }
}
