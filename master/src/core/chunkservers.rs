//! What this master has heard of chunkservers: who lives, what they hold.
//!
//! Nothing here is logged; all of it is gathered anew after a start, from registrations,
//! heartbeats and inventories (`spec/messages.md` section 9). Whether a replica is any good is
//! for [`Replica::standing`] to say, by what the log has.
//!
//! Invariants:
//! - a replica is listed under its handle exactly if its directory lists the handle, but for those
//!   that only a client acknowledged, which no directory lists;
//! - a server has at most one connection; what comes over another one doesn't count.
//!
//! A server that falls silent keeps its replicas here: they stop counting when it is dead, and
//! count again when it is heard. A new registration makes each directory send a full report,
//! at whose end what was not in it is forgotten.
//!
//! Left out on purpose: load and heat, which heartbeats carry and nothing needs yet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, DirectoryId, ServerId};
use sarsen_protocol::message::{ChunkState, Disk, DiskBeat, DiskState, HeldFlags, Inventory};

use super::chunk_table::ChunkRecord;
use super::event::ConnectionId;
use super::placement::FULL;
use super::replica::{Replica, Source, Standing};

/// A directory of a chunkserver that counts.
#[derive(Clone, Debug)]
pub struct Directory {
    /// Its room and state, as last told.
    pub disk: Disk,
    /// When its I/O path was last seen working.
    pub last_beat: Duration,
    /// The last inventory number taken; none until a full report begins.
    sequence: Option<u64>,
    /// While a full report is on its way: what was held before and has not come up in it.
    unseen: Option<BTreeSet<ChunkHandle>>,
    /// The chunks here.
    held: BTreeSet<ChunkHandle>,
}

impl Directory {
    /// Whether its disk has answered its server lately.
    fn answers(&self, now: Duration, dead: Duration) -> bool {
        now.saturating_sub(self.last_beat) < dead
    }

    /// Whether all that it holds has been told since its server registered.
    #[must_use]
    pub fn is_fully_reported(&self) -> bool {
        self.sequence.is_some() && self.unseen.is_none()
    }

    /// The chunks here, by handle.
    pub fn held(&self) -> impl Iterator<Item = ChunkHandle> {
        self.held.iter().copied()
    }
}

/// A chunkserver that registered with this master.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its connection, while there is one.
    pub connection: Option<ConnectionId>,
    /// When it registered over its last connection.
    pub registered: Duration,
    /// When it was last heard of.
    pub last_heard: Duration,
    /// Chunks placed here since the last heartbeat.
    pub recent: u32,
    /// Its directories that count.
    pub directories: BTreeMap<DirectoryId, Directory>,
}

impl Server {
    /// Its disks, as last told.
    pub fn disks(&self) -> impl Iterator<Item = &Disk> {
        self.directories.values().map(|directory| &directory.disk)
    }

    /// Whether it has told of everything that it holds.
    #[must_use]
    pub fn is_fully_reported(&self) -> bool {
        let mut directories = self.directories.values();
        directories.all(Directory::is_fully_reported)
    }
}

/// What a server's replica is worth to whoever wants its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Worth {
    /// It counts.
    Good,
    /// It is yet to be read back.
    Unproven,
    /// Its disk fails, or has not answered lately.
    OnFailedDisk,
}

/// What taking an inventory came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// A gap was seen.
    pub resend: bool,
    /// A full report has ended.
    pub completed: bool,
}

/// All that this master has heard of chunkservers.
#[derive(Clone, Debug, Default)]
pub struct Chunkservers {
    servers: BTreeMap<ServerId, Server>,
    by_connection: BTreeMap<ConnectionId, ServerId>,
    replicas: BTreeMap<ChunkHandle, Vec<Replica>>,
    /// Replicas that only a client acknowledged, with when they stop counting, oldest first.
    acknowledged: VecDeque<(Duration, ChunkHandle, ServerId)>,
    /// Chunks of which another thing is known than when [`Chunkservers::take_changed`] last asked.
    changed: BTreeSet<ChunkHandle>,
}

impl Chunkservers {
    /// One server.
    #[must_use]
    pub fn server(&self, id: ServerId) -> Option<&Server> {
        self.servers.get(&id)
    }

    /// Every server that registered, by id.
    pub fn servers(&self) -> impl Iterator<Item = (ServerId, &Server)> {
        self.servers.iter().map(|(&id, server)| (id, server))
    }

    /// The server whose current connection this is.
    #[must_use]
    pub fn server_of(&self, connection: ConnectionId) -> Option<ServerId> {
        self.by_connection.get(&connection).copied()
    }

    /// The chunks whose replicas are others than when this was last asked, or in another state.
    /// What time alone brings about is not among them.
    #[must_use]
    pub fn take_changed(&mut self) -> BTreeSet<ChunkHandle> {
        std::mem::take(&mut self.changed)
    }

    /// Whether a server was heard of lately enough for its replicas to count.
    #[must_use]
    pub fn is_live(&self, id: ServerId, now: Duration, dead_after: Duration) -> bool {
        self.server(id)
            .is_some_and(|server| now.saturating_sub(server.last_heard) < dead_after)
    }

    /// What is held of a chunk, by whomever, live or not.
    #[must_use]
    pub fn replicas(&self, handle: ChunkHandle) -> &[Replica] {
        self.replicas.get(&handle).map_or(&[], Vec::as_slice)
    }

    /// The replicas of a chunk that count now: of live servers, on disks that work, not on their
    /// way out.
    pub fn live_replicas(
        &self,
        handle: ChunkHandle,
        now: Duration,
        dead_after: Duration,
    ) -> impl Iterator<Item = &Replica> {
        self.replicas(handle)
            .iter()
            .filter(move |replica| self.counts(replica, now, dead_after))
    }

    /// Whether a replica counts now, see [`Self::live_replicas`].
    #[must_use]
    pub fn counts(&self, replica: &Replica, now: Duration, dead_after: Duration) -> bool {
        self.may_serve(replica, now, dead_after) && self.disk_works(replica, now, dead_after)
    }

    /// Whether a replica may be read: what a disk that fails or hangs holds does not count, and may
    /// be all that there is (`spec/chunk-file.md` section 10.5).
    #[must_use]
    pub fn may_serve(&self, replica: &Replica, now: Duration, dead_after: Duration) -> bool {
        let in_time = match replica.source {
            Source::Reported => true,
            Source::Acknowledged { until } => now < until,
        };
        in_time && !replica.deleting && self.is_live(replica.server, now, dead_after)
    }

    /// The servers that may have a chunk's bytes, best first: those whose replicas count, then those
    /// whose replicas are yet to be read back, then those whose disks fail or hang.
    #[must_use]
    pub fn sources(
        &self,
        handle: ChunkHandle,
        record: &ChunkRecord,
        now: Duration,
        dead_after: Duration,
    ) -> BTreeMap<ServerId, Worth> {
        let mut sources = BTreeMap::new();
        for replica in self.replicas(handle) {
            let worth = match replica.standing(record) {
                _ if !self.may_serve(replica, now, dead_after) => continue,
                Standing::Good | Standing::Unproven
                    if !self.disk_works(replica, now, dead_after) =>
                {
                    Worth::OnFailedDisk
                }
                Standing::Good => Worth::Good,
                Standing::Unproven => Worth::Unproven,
                Standing::Stale | Standing::Corrupt | Standing::Ahead => continue,
            };
            let best = sources.entry(replica.server).or_insert(worth);
            *best = worth.min(*best);
        }
        sources
    }

    /// The directory that a server has told of a replica in.
    #[must_use]
    pub fn directory_of(&self, replica: &Replica) -> Option<&Directory> {
        self.server(replica.server)?
            .directories
            .get(&replica.directory)
    }

    fn disk_works(&self, replica: &Replica, now: Duration, dead_after: Duration) -> bool {
        if replica.source != Source::Reported {
            return true;
        }
        self.directory_of(replica).is_some_and(|directory| {
            directory.disk.state != DiskState::Failed
                && now.saturating_sub(directory.last_beat) < dead_after
        })
    }

    /// A server has registered: `accepted` are its directories that count.
    ///
    /// Gives the connection that it had before, whose word no longer counts.
    pub fn register(
        &mut self,
        id: ServerId,
        connection: ConnectionId,
        accepted: Vec<Disk>,
        now: Duration,
    ) -> Option<ConnectionId> {
        let server = self.servers.entry(id).or_insert_with(|| Server {
            connection: None,
            registered: now,
            last_heard: now,
            recent: 0,
            directories: BTreeMap::new(),
        });
        let before = server.connection.replace(connection);
        server.registered = now;
        server.last_heard = now;
        let mut old = std::mem::take(&mut server.directories);
        for disk in accepted {
            let held = old
                .remove(&disk.directory_id)
                .map(|directory| directory.held);
            let directory = Directory {
                last_beat: now,
                sequence: None,
                unseen: None,
                held: held.unwrap_or_default(),
                disk,
            };
            server
                .directories
                .insert(directory.disk.directory_id, directory);
        }
        for (gone, directory) in old {
            for handle in directory.held {
                self.drop_replica(handle, id, gone);
            }
        }
        self.by_connection.insert(connection, id);
        if let Some(before) = before {
            self.by_connection.remove(&before);
        }
        before
    }

    /// A connection has closed: the server whose current one it was.
    pub fn disconnect(&mut self, connection: ConnectionId) -> Option<ServerId> {
        let id = self.by_connection.remove(&connection)?;
        if let Some(server) = self.servers.get_mut(&id) {
            server.connection = None;
        }
        Some(id)
    }

    /// A server tells how it and its disks are.
    pub fn beat(&mut self, id: ServerId, disks: Vec<DiskBeat>, now: Duration) {
        let Some(server) = self.servers.get_mut(&id) else {
            return;
        };
        server.last_heard = now;
        // What was placed since shows in the room that is left, or soon will.
        server.recent /= 2;
        for beat in disks {
            if let Some(directory) = server.directories.get_mut(&beat.disk.directory_id) {
                let age = Duration::from_millis(u64::from(beat.beat_age));
                directory.last_beat = now.saturating_sub(age);
                directory.disk = beat.disk;
            }
        }
    }

    /// A chunk was placed on a server.
    pub fn count_placement(&mut self, id: ServerId) {
        if let Some(server) = self.servers.get_mut(&id) {
            server.recent = server.recent.saturating_add(1);
        }
    }

    /// How full the emptiest of a server's directories is that takes chunks of `room` bytes; none
    /// if none does.
    #[must_use]
    pub fn filled(&self, id: ServerId, room: u64, now: Duration, dead: Duration) -> Option<u32> {
        let takes_chunks = |directory: &&Directory| {
            directory.disk.state == DiskState::Ok
                && directory.disk.free >= room
                && directory.answers(now, dead)
        };
        let directories = self.server(id)?.directories.values();
        directories
            .filter(takes_chunks)
            .map(|directory| filled(&directory.disk))
            .min()
    }

    /// The emptiest of a server's directories that take chunks of `room` bytes.
    #[must_use]
    pub fn emptiest_directory(
        &self,
        id: ServerId,
        room: u64,
        now: Duration,
        dead: Duration,
    ) -> Option<DirectoryId> {
        let takes_chunks = |directory: &Directory| {
            directory.disk.state == DiskState::Ok
                && directory.disk.free >= room
                && directory.answers(now, dead)
        };
        let directories = self.server(id)?.directories.iter();
        directories
            .filter(|(_, directory)| takes_chunks(directory))
            .min_by_key(|(_, directory)| filled(&directory.disk))
            .map(|(&id, _)| id)
    }

    /// Whether any of a server's disks answers, full or not: if none does, they may yet.
    #[must_use]
    pub fn has_disk(&self, id: ServerId, now: Duration, dead: Duration) -> bool {
        self.server(id).is_some_and(|server| {
            let mut directories = server.directories.values();
            directories.any(|directory| directory.answers(now, dead))
        })
    }

    /// A server tells what a directory holds.
    ///
    /// Of a directory that doesn't count nothing is taken.
    pub fn take_inventory(&mut self, id: ServerId, inventory: &Inventory) -> Taken {
        let directory_id = inventory.directory_id;
        let Some(directory) = self.directory_mut(id, directory_id) else {
            return Taken::default();
        };
        let begins = inventory.full && inventory.first;
        let follows = directory.sequence.is_some_and(|last| {
            last.checked_add(1) == Some(inventory.sequence)
                && (!inventory.full || directory.unseen.is_some())
        });
        if !begins && !follows {
            directory.sequence = None;
            directory.unseen = None;
            return Taken {
                resend: true,
                completed: false,
            };
        }
        directory.sequence = Some(inventory.sequence);
        if begins {
            directory.unseen = Some(directory.held.clone());
        }
        for held in &inventory.held {
            self.put_replica(held.handle, Replica::reported(id, directory_id, held));
        }
        for &handle in &inventory.gone {
            self.drop_replica(handle, id, directory_id);
        }
        let completed = inventory.full && inventory.last;
        if completed {
            self.end_full_report(id, directory_id);
        }
        Taken {
            resend: false,
            completed,
        }
    }

    fn end_full_report(&mut self, id: ServerId, directory_id: DirectoryId) {
        let Some(directory) = self.directory_mut(id, directory_id) else {
            return;
        };
        for handle in directory.unseen.take().unwrap_or_default() {
            self.drop_replica(handle, id, directory_id);
        }
    }

    /// A client has named a server that sealed its chunk.
    pub fn acknowledge(&mut self, handle: ChunkHandle, replica: Replica) {
        let Source::Acknowledged { until } = replica.source else {
            return;
        };
        let replicas = self.replicas.entry(handle).or_default();
        // The server's own word is the better one, unless it is from before the seal.
        let is_known = |known: &Replica| {
            known.server == replica.server
                && (known.state == ChunkState::Sealed || known.source != Source::Reported)
        };
        if !replicas.iter().any(is_known) {
            replicas.push(replica);
            self.changed.insert(handle);
            self.acknowledged.push_back((until, handle, replica.server));
        }
    }

    /// Forgets what clients acknowledged and servers have not told of in time.
    pub fn expire_acknowledged(&mut self, now: Duration) {
        while let Some(&(until, handle, server)) = self.acknowledged.front() {
            if until > now {
                break;
            }
            self.acknowledged.pop_front();
            self.retain(handle, |replica| {
                replica.server != server || replica.source == Source::Reported
            });
        }
    }

    /// A server has made a replica by order. False if the directory that it says is not known.
    pub fn copied(&mut self, handle: ChunkHandle, replica: Replica) -> bool {
        let is_known = self.directory_of(&replica).is_some();
        if is_known {
            self.put_replica(handle, replica);
        }
        is_known
    }

    /// A replica was found bad.
    pub fn mark_corrupt(&mut self, handle: ChunkHandle, version: ChunkVersion, server: ServerId) {
        for replica in self.replicas.get_mut(&handle).into_iter().flatten() {
            if replica.server == server && replica.version == version {
                replica.flags = replica.flags.with(HeldFlags::CORRUPT);
                self.changed.insert(handle);
            }
        }
    }

    /// Notes whether a replica is under a delete order.
    pub fn set_deleting(&mut self, handle: ChunkHandle, server: ServerId, deleting: bool) {
        for replica in self.replicas.get_mut(&handle).into_iter().flatten() {
            if replica.server == server {
                replica.deleting = deleting;
                self.changed.insert(handle);
            }
        }
    }

    /// A server no longer has a chunk.
    pub fn forget(&mut self, handle: ChunkHandle, server: ServerId) {
        let directories: Vec<DirectoryId> = self
            .replicas(handle)
            .iter()
            .filter(|replica| replica.server == server)
            .map(|replica| replica.directory)
            .collect();
        for directory in directories {
            self.drop_replica(handle, server, directory);
        }
    }

    fn directory_mut(&mut self, id: ServerId, directory: DirectoryId) -> Option<&mut Directory> {
        self.servers.get_mut(&id)?.directories.get_mut(&directory)
    }

    fn put_replica(&mut self, handle: ChunkHandle, replica: Replica) {
        if let Some(directory) = self.directory_mut(replica.server, replica.directory) {
            directory.held.insert(handle);
            if let Some(unseen) = &mut directory.unseen {
                unseen.remove(&handle);
            }
        }
        let replicas = self.replicas.entry(handle).or_default();
        let replaces = |known: &Replica| {
            known.server == replica.server
                && match known.source {
                    Source::Reported => known.directory == replica.directory,
                    // A report from before the seal may come after the publication.
                    Source::Acknowledged { .. } => replica.state == ChunkState::Sealed,
                }
        };
        let deleting = replicas
            .iter()
            .any(|known| replaces(known) && known.deleting);
        let replica = Replica {
            deleting,
            ..replica
        };
        if replicas
            .iter()
            .filter(|known| replaces(known))
            .eq([&replica])
        {
            return;
        }
        replicas.retain(|known| !replaces(known));
        replicas.push(replica);
        self.changed.insert(handle);
    }

    fn drop_replica(&mut self, handle: ChunkHandle, server: ServerId, directory: DirectoryId) {
        if let Some(directory) = self.directory_mut(server, directory) {
            directory.held.remove(&handle);
        }
        self.retain(handle, |known| {
            known.server != server || known.directory != directory
        });
    }

    fn retain(&mut self, handle: ChunkHandle, keep: impl Fn(&Replica) -> bool) {
        if let Some(replicas) = self.replicas.get_mut(&handle) {
            let before = replicas.len();
            replicas.retain(keep);
            if replicas.len() < before {
                self.changed.insert(handle);
            }
            if replicas.is_empty() {
                self.replicas.remove(&handle);
            }
        }
    }
}

/// The part of a disk that is taken, in parts of [`FULL`].
fn filled(disk: &Disk) -> u32 {
    let used = u128::from(disk.total.saturating_sub(disk.free)) * u128::from(FULL);
    u32::try_from(used / u128::from(disk.total.max(1))).unwrap_or(FULL)
}

#[cfg(test)]
mod tests;
