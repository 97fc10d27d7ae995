//! What a master was told of replicas: what its machine goes by, kept beside it.

use std::collections::BTreeMap;
use std::time::Duration;

use sarsen_protocol::id::{ChunkHandle, DirectoryId, ServerId};
use sarsen_protocol::message::{AnyMessage, DiskState, HeldChunk, Inventory};

use crate::net::ConnId;

/// How long ago a server and a disk may have been heard of that count as there: less than any time in
/// which the master gives them up.
const AGE_MAX: Duration = Duration::from_millis(900);

/// By connection.
#[derive(Debug, Default)]
pub(super) struct Told(BTreeMap<ConnId, OfServer>);

/// What one server told since it registered.
#[derive(Debug)]
struct OfServer {
    server: ServerId,
    held: BTreeMap<(ChunkHandle, DirectoryId), HeldChunk>,
    /// When the server was last heard of.
    heard: Duration,
    /// When each directory whose disk does its work last did some.
    worked: BTreeMap<DirectoryId, Duration>,
}

impl Told {
    /// A server has registered; what it told over another connection counts no more.
    pub(super) fn registered(&mut self, conn: ConnId, server: ServerId, now: Duration) {
        self.0.retain(|_, it| it.server != server);
        let registered = OfServer {
            server,
            held: BTreeMap::new(),
            heard: now,
            worked: BTreeMap::new(),
        };
        self.0.insert(conn, registered);
    }

    /// A connection is no more; whose it was.
    pub(super) fn forget(&mut self, conn: ConnId) -> Option<ServerId> {
        self.0.remove(&conn).map(|it| it.server)
    }

    /// A message came.
    pub(super) fn heard(&mut self, conn: ConnId, message: &AnyMessage, now: Duration) {
        let Some(of_server) = self.0.get_mut(&conn) else {
            return;
        };
        match message {
            AnyMessage::Inventory(inventory) => of_server.tells(inventory),
            AnyMessage::Heartbeat(heartbeat) => {
                let works = heartbeat.disks.iter();
                let works = works.filter(|it| it.disk.state != DiskState::Failed);
                let works = works.map(|it| {
                    let age = Duration::from_millis(it.beat_age.into());
                    (it.disk.directory_id, now.saturating_sub(age))
                });
                of_server.worked = works.collect();
            }
            _ => {}
        }
        of_server.heard = now;
    }

    /// The replicas of a chunk on servers and disks that were heard of just now.
    pub(super) fn copies(
        &self,
        handle: ChunkHandle,
        now: Duration,
    ) -> Vec<(ServerId, DirectoryId, HeldChunk)> {
        let is_new = |at: Duration| now.saturating_sub(at) < AGE_MAX;
        let servers = self.0.values().filter(|it| is_new(it.heard));
        let copies = servers.flat_map(|it| {
            let of_it = it.held.iter().filter(move |((of, _), _)| *of == handle);
            let works = move |directory| it.worked.get(directory).copied().is_some_and(is_new);
            let of_it = of_it.filter(move |((_, directory), _)| works(directory));
            of_it.map(|((_, directory), held)| (it.server, *directory, *held))
        });
        copies.collect()
    }
}

impl OfServer {
    fn tells(&mut self, inventory: &Inventory) {
        let directory = inventory.directory_id;
        if inventory.full && inventory.first {
            self.held.retain(|(_, of), _| *of != directory);
        }
        for held in &inventory.held {
            self.held.insert((held.handle, directory), *held);
        }
        for handle in &inventory.gone {
            self.held.remove(&(*handle, directory));
        }
    }
}
