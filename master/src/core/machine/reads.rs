//! Questions about names and places, answered from what is applied (`spec/messages.md` section 7).

use std::ops::Bound;
use std::time::Duration;

use sarsen_protocol::codec::Field as _;
use sarsen_protocol::id::{ChunkHandle, FileId, ServerId, SessionId};
use sarsen_protocol::message::{
    ChunkState, List, ListEntry, ListReply, ListTrash, Locate, LocateReply, LocatedChunk,
    Node as NodeMessage, NodeType, Replica as ReplicaMessage, Stat, StatReply, TrashEntry,
    TrashListed, Usage, UsageReply,
};
use sarsen_protocol::size::REPLICAS_LISTED_MAX;
use sarsen_protocol::status::Status;
use sarsen_protocol::ticket::{Claims, Rights, Ticket};

use super::changes::parse;
use super::{Machine, PAGE_BYTES_MAX, millis};
use crate::core::action::Failure;
use crate::core::chunk_table::ChunkRecord;
use crate::core::chunkservers::Worth;
use crate::core::command::chunks::Configuration;
use crate::core::file::File;
use crate::core::namespace::Node;

/// The shortest life of a ticket to read: enough to use it, however short leases are.
const READ_TICKET_LIFE_MIN: Duration = Duration::from_secs(10);

impl Machine {
    pub(super) fn stat(&self, request: &Stat) -> Result<StatReply, Failure> {
        let (id, node) = self.find(&request.path)?;
        Ok(StatReply {
            node: node_message(id, node),
        })
    }

    pub(super) fn list(&self, request: &List) -> Result<ListReply, Failure> {
        let (id, node) = self.find(&request.path)?;
        let Some(children) = node.as_folder() else {
            let entry = ListEntry {
                name: node.name.to_string(),
                node: node_message(id, node),
            };
            let is_asked = *entry.name > *request.after;
            return Ok(ListReply {
                entries: is_asked.then_some(entry).into_iter().collect(),
                more: false,
            });
        };
        let after = match request.after.as_str() {
            "" => Bound::Unbounded,
            name => Bound::Excluded(name),
        };
        let mut children = children.range::<str, _>((after, Bound::Unbounded));
        let page = children.by_ref().take(request.limit as usize);
        let entries = page.filter_map(|(name, &id)| {
            let node = self.state.namespace.node(id)?;
            Some(ListEntry {
                name: name.to_string(),
                node: node_message(id, node),
            })
        });
        let entries = entries.collect();
        Ok(ListReply {
            entries,
            more: children.next().is_some(),
        })
    }

    pub(super) fn list_trash(&self, request: &ListTrash) -> TrashListed {
        let mut trash = self
            .state
            .namespace
            .trash_after(FileId(request.after))
            .filter_map(|(&id, trashed)| Some((id, trashed, self.state.namespace.node(id)?)))
            .peekable();
        let (mut entries, mut len) = (Vec::new(), 0);
        while entries.len() < request.limit as usize
            && len < PAGE_BYTES_MAX
            && let Some((id, trashed, node)) = trash.next()
        {
            len += TrashEntry::LEN_MIN + trashed.path.as_str().len();
            entries.push(TrashEntry {
                entry: id.0,
                path: trashed.path.to_string(),
                deleted: trashed.deleted_ms,
                node: node_message(id, node),
            });
        }
        TrashListed {
            entries,
            more: trash.peek().is_some(),
        }
    }

    pub(super) fn usage(&self, request: &Usage) -> Result<UsageReply, Failure> {
        let (id, _) = self.find(&request.path)?;
        let mut sums = UsageReply {
            files: 0,
            folders: 0,
            bytes: 0,
            stored: 0,
        };
        for visit in self.state.namespace.walk(id) {
            match visit.node.as_file() {
                None => sums.folders += 1,
                Some(file) => {
                    sums.files += 1;
                    sums.bytes = sums.bytes.saturating_add(file.size);
                    sums.stored = sums.stored.saturating_add(self.stored(file));
                }
            }
        }
        Ok(sums)
    }

    /// Bytes that a file's chunks take when every replica wanted is there.
    pub(super) fn stored(&self, file: &File) -> u64 {
        let chunks = file
            .chunks()
            .filter_map(|(_, handle)| self.state.chunks.record(handle));
        let taken = chunks.map(|record| {
            let len = record.sealed.map_or(0, |sealed| sealed.len);
            u64::from(len) * u64::from(record.replicas)
        });
        taken.fold(0, u64::saturating_add)
    }

    pub(super) fn locate(&self, request: &Locate) -> Result<LocateReply, Failure> {
        let (id, node) = match request.file_id {
            FileId::NONE => self.find(&request.path)?,
            id => (id, self.state.namespace.node(id).ok_or(Status::NotFound)?),
        };
        let file = node.as_file().ok_or(Status::IsAFolder)?;
        let first = request.first_index as usize;
        // Slots lead: counting on behind the last index that there can be would overflow.
        let asked = file.slots.iter().skip(first).zip(request.first_index..);
        let chunks = asked
            .take(request.count as usize)
            .filter_map(|(&handle, index)| {
                Some(self.located(id, index, handle, self.state.chunks.record(handle)?))
            });
        Ok(LocateReply {
            node: node_message(id, node),
            chunk_size: file.chunk_size,
            // An open chunk may lie beyond the size that was logged.
            slots: u32::try_from(file.slots_of_size().max(file.slots.len() as u64))
                .unwrap_or(u32::MAX),
            suspect_after: millis(self.config.suspect_after),
            lease: millis(self.config.lease),
            chunks: chunks.collect(),
        })
    }

    fn located(
        &self,
        file_id: FileId,
        index: u32,
        handle: ChunkHandle,
        record: &ChunkRecord,
    ) -> LocatedChunk {
        let life = millis(
            self.config
                .lease
                .saturating_mul(2)
                .max(READ_TICKET_LIFE_MIN),
        );
        let claims = Claims {
            rights: Rights::READ,
            key_id: self.state.cluster.ticket_key.id,
            handle,
            version: record.version(),
            expiry: self.now.unix_ms.saturating_add(u64::from(life)),
            file_id,
            session: SessionId::NONE,
            epoch: self.epoch.number,
            chain_crc: 0,
        };
        let is_open = record.active.is_some();
        LocatedChunk {
            index,
            handle,
            version: record.version(),
            length: record.sealed.map_or(0, |sealed| sealed.len),
            crc32: record.sealed.map_or(0, |sealed| sealed.crc),
            state: if is_open {
                ChunkState::Open
            } else {
                ChunkState::Sealed
            },
            primary: self.primary_of(handle, record),
            ticket: Ticket::sign(claims, &self.state.cluster.ticket_key.key),
            replicas: match &record.active {
                Some(active) => self.readable_members(handle, active),
                None => self.readable_replicas(handle, record),
            },
        }
    }

    /// Who orders an open chunk's mutations, while a lease is out.
    fn primary_of(&self, handle: ChunkHandle, record: &ChunkRecord) -> ServerId {
        let active = record.active.as_ref();
        let is_out = self.open_chunks.is_granted(handle);
        active
            .filter(|_| is_out)
            .map(|it| it.primary)
            .unwrap_or_default()
    }

    /// The members of an open chunk that can be heard, in the order of its chain. One that does not
    /// believe its own replica comes last, and only as the primary, which is asked what is newest.
    fn readable_members(&self, handle: ChunkHandle, active: &Configuration) -> Vec<ReplicaMessage> {
        let members = active.members.iter().map(|member| member.server);
        let mut heard: Vec<ServerId> = members.filter(|&server| self.is_live(server)).collect();
        let turn = handle.0 % (heard.len() as u64).max(1);
        heard.rotate_left(usize::try_from(turn).unwrap_or(0));
        let is_doubtful = |server: &ServerId| self.open_chunks.is_doubtful(handle, *server);
        if !heard.iter().all(is_doubtful) {
            heard.retain(|server| !is_doubtful(server) || *server == active.primary);
            heard.sort_by_key(is_doubtful);
        }
        let replicas = heard.into_iter();
        replicas
            .filter_map(|server| self.replica_message(server))
            .collect()
    }

    fn replica_message(&self, server: ServerId) -> Option<ReplicaMessage> {
        let addresses = &self.state.servers.servers.get(&server)?.addresses;
        Some(ReplicaMessage {
            server,
            control_addr: addresses.control.clone(),
            data_addr: addresses.data.clone(),
        })
    }

    /// The replicas that a reader may be sent to: first those that count, of these those whose
    /// servers are connected, and of these not the same one first for every chunk.
    fn readable_replicas(&self, handle: ChunkHandle, record: &ChunkRecord) -> Vec<ReplicaMessage> {
        let (now, dead_after) = (self.now.elapsed, self.config.dead_after);
        let sources = self.servers.sources(handle, record, now, dead_after);
        let mut servers: Vec<(ServerId, Worth)> = sources.into_iter().collect();
        let turn = handle.0 % (servers.len() as u64).max(1);
        servers.rotate_left(usize::try_from(turn).unwrap_or(0));
        servers.sort_by_key(|&(server, worth)| (worth, !self.is_usable(server)));
        let replicas = servers
            .into_iter()
            .filter_map(|(server, _)| self.replica_message(server));
        replicas.take(REPLICAS_LISTED_MAX).collect()
    }

    /// What is at a path.
    pub(super) fn find(&self, path: &str) -> Result<(FileId, &Node), Failure> {
        let path = parse(path)?;
        let id = self
            .state
            .namespace
            .resolve(&path)
            .map_err(|refusal| refusal.status())?;
        let node = self.state.namespace.node(id).ok_or(Status::NotFound)?;
        Ok((id, node))
    }
}

/// What the namespace knows of a node, as messages tell it.
pub(super) fn node_message(id: FileId, node: &Node) -> NodeMessage {
    let file = node.as_file();
    let crc = file.and_then(|file| file.crc);
    NodeMessage {
        file_id: id,
        node_type: if file.is_some() {
            NodeType::File
        } else {
            NodeType::Folder
        },
        size: file.map_or(0, |file| file.size),
        mtime: node.modified_ms,
        replicas: file.map_or(0, |file| file.replicas),
        chunks: file.map_or(0, File::chunk_count),
        sealed: crc.is_some(),
        crc32: crc.unwrap_or(0),
    }
}
