//! How the cluster and its chunks are, from metadata and reports; no data is read
//! (`spec/messages.md` section 8).

use std::collections::BTreeSet;

use sarsen_protocol::codec::Field as _;
use sarsen_protocol::id::{ChunkHandle, ServerId};
use sarsen_protocol::message::{
    CapacityReply, Disk, Finding, Fsck, FsckFinding, FsckReply, ReportReply, ServerReport,
    ServerState,
};

use super::{Machine, PAGE_BYTES_MAX, millis};
use crate::core::action::Failure;
use crate::core::chunk_table::ChunkRecord;
use crate::core::namespace::ROOT;
use crate::core::replica::Standing;

/// What a page of a check covers.
struct Scope {
    /// How much the whole check looks at; told, and counted, for its first page alone.
    files: u64,
    chunks: u64,
    /// The chunks that are left for this page, if they are not all there are.
    only: Option<BTreeSet<ChunkHandle>>,
}

impl Machine {
    pub(super) fn fsck(&self, request: &Fsck) -> Result<FsckReply, Failure> {
        let scope = self.scope(&request.path, request.after)?;
        let limit = request.limit as usize;
        let mut reply = FsckReply {
            files: scope.files,
            chunks: scope.chunks,
            findings: Vec::new(),
            next: request.after,
            more: false,
        };
        let mut len = 0;
        for (handle, record) in self.chunks_in(&scope, request.after) {
            let found = self.examine(handle, record);
            // All findings of one chunk come together; a page has those of one chunk at least.
            let is_full = reply.findings.len() + found.len() > limit || len >= PAGE_BYTES_MAX;
            if !reply.findings.is_empty() && !found.is_empty() && is_full {
                reply.more = true;
                break;
            }
            let lens = found
                .iter()
                .map(|row| FsckFinding::LEN_MIN + row.path.len());
            len += lens.sum::<usize>();
            reply.findings.extend(found);
            reply.next = handle;
        }
        Ok(reply)
    }

    /// The chunks of a page's scope, which has handles above `after`, by handle.
    fn chunks_in<'a>(
        &'a self,
        scope: &'a Scope,
        after: ChunkHandle,
    ) -> Box<dyn Iterator<Item = (ChunkHandle, &'a ChunkRecord)> + 'a> {
        let Some(only) = &scope.only else {
            return Box::new(self.state.chunks.iter_after(after));
        };
        let chunks = only.iter();
        Box::new(chunks.filter_map(|&handle| Some((handle, self.state.chunks.record(handle)?))))
    }

    fn scope(&self, path: &str, after: ChunkHandle) -> Result<Scope, Failure> {
        let (id, _) = self.find(path)?;
        let is_first = after == ChunkHandle::NONE;
        let (mut files, mut chunks) = (0, 0);
        let mut only = None;
        if id == ROOT && is_first {
            let nodes = self.state.namespace.nodes();
            files = nodes.filter(|(_, node)| node.as_file().is_some()).count() as u64;
            chunks = self.state.chunks.len() as u64;
        } else if id != ROOT {
            let mut left = BTreeSet::new();
            let visits = self.state.namespace.walk(id);
            for file in visits.filter_map(|visit| visit.node.as_file()) {
                files += u64::from(is_first);
                let handles = file.chunks().map(|(_, handle)| handle);
                left.extend(handles.filter(|&handle| handle > after));
            }
            if is_first {
                chunks = left.len() as u64;
            }
            only = Some(left);
        }
        Ok(Scope {
            files,
            chunks,
            only,
        })
    }

    /// What is wrong with a chunk: each class once, but for stale and corrupt, which name the
    /// server.
    fn examine(&self, handle: ChunkHandle, record: &ChunkRecord) -> Vec<FsckFinding> {
        let (now, dead_after) = (self.now.elapsed, self.config.dead_after);
        let live = self.servers.live_replicas(handle, now, dead_after);
        let standings: Vec<(ServerId, Standing)> = live
            .map(|replica| (replica.server, replica.standing(record)))
            .collect();
        let good: BTreeSet<ServerId> = match &record.active {
            // Members are so by the log's word; what they hold they tell a moment later.
            Some(active) => {
                let members = active.members.iter().map(|member| member.server);
                let is_bad = |server| {
                    standings.contains(&(server, Standing::Corrupt)) || !self.is_live(server)
                };
                members.filter(|server| !is_bad(*server)).collect()
            }
            None => standings
                .iter()
                .filter(|(_, standing)| *standing == Standing::Good)
                .map(|&(server, _)| server)
                .collect(),
        };
        let have = u8::try_from(good.len()).unwrap_or(u8::MAX);
        let is_short = have < record.replicas;
        let mut found = Vec::new();
        let mut find = |finding, server| {
            found.push(FsckFinding {
                finding,
                handle,
                path: self
                    .state
                    .namespace
                    .path_of(record.file)
                    .unwrap_or_default(),
                want: record.replicas,
                have,
                server,
            });
        };
        match (&record.active, have) {
            (Some(_), _) if have == 0 || self.open_chunks.is_unavailable(handle) => {
                find(Finding::Unavailable, ServerId::NONE);
            }
            (_, 0) => find(Finding::Missing, ServerId::NONE),
            _ if is_short => find(Finding::UnderReplicated, ServerId::NONE),
            _ => {}
        }
        for (server, standing) in standings {
            match standing {
                Standing::Corrupt => find(Finding::Corrupt, server),
                Standing::Stale if is_short => find(Finding::Stale, server),
                Standing::Good | Standing::Unproven | Standing::Stale | Standing::Ahead => {}
            }
        }
        if self.open_chunks.is_differing(handle) {
            let differing: Vec<ServerId> = match &record.active {
                Some(active) => active.members.iter().map(|member| member.server).collect(),
                // Of one at rest those who have prepared what was not logged.
                None => self.left_of(handle).map(|replica| replica.server).collect(),
            };
            for server in differing {
                find(Finding::Corrupt, server);
            }
        }
        if !record.losses.is_empty() {
            find(Finding::PossibleLoss, ServerId::NONE);
        }
        found
    }

    pub(super) fn report(&self) -> ReportReply {
        let servers = self.state.servers.servers.iter().map(|(&id, record)| {
            let heard = self.servers.server(id);
            let silence = heard.map(|server| self.now.elapsed.saturating_sub(server.last_heard));
            ServerReport {
                id,
                control_addr: record.addresses.control.clone(),
                data_addr: record.addresses.data.clone(),
                http_addr: record.addresses.http.clone(),
                rack: record.rack.clone(),
                state: if self.is_live(id) {
                    ServerState::Live
                } else {
                    ServerState::Dead
                },
                last_heartbeat: silence.map_or(u32::MAX, millis),
                disks: heard
                    .into_iter()
                    .flat_map(|server| server.disks())
                    .cloned()
                    .collect(),
            }
        });
        ReportReply {
            epoch: self.epoch,
            safe_mode: self.is_safe_mode(),
            read_only: self.is_read_only(),
            servers: servers.collect(),
            repairs: self.repairs_report(),
        }
    }

    pub(super) fn capacity(&self) -> CapacityReply {
        let live = self.servers.servers().filter(|&(id, _)| self.is_live(id));
        let disks: Vec<&Disk> = live.flat_map(|(_, server)| server.disks()).collect();
        let sum = |part: fn(&Disk) -> u64| {
            disks
                .iter()
                .map(|disk| part(disk))
                .fold(0, u64::saturating_add)
        };
        let stored_below = |top| {
            let files = self
                .state
                .namespace
                .walk(top)
                .filter_map(|visit| visit.node.as_file());
            files
                .map(|file| self.stored(file))
                .fold(0, u64::saturating_add)
        };
        let trash = self
            .state
            .namespace
            .trash()
            .map(|(top, _)| stored_below(top));
        CapacityReply {
            total: sum(|disk| disk.total),
            free: sum(|disk| disk.free),
            used: stored_below(ROOT),
            trash: trash.fold(0, u64::saturating_add),
        }
    }
}
