//! What could be gone on with when a client asks the master to accept a loss.

use sarsen_protocol::deframe::Frame;
use sarsen_protocol::id::{ChunkHandle, DirectoryId};
use sarsen_protocol::message::{AnyMessage, HeldChunk, Kind};

use super::Cluster;
use crate::net::Node;
use crate::observation::{KnownCopy, Observation};

impl Cluster {
    /// A frame is about to come to the master.
    pub(super) fn observe_acceptance(&self, frame: &Frame) {
        if frame.header.kind != Kind::AcceptLoss || !self.master.is_running() {
            return;
        }
        let Ok(AnyMessage::AcceptLoss(asked)) = frame.any_message() else {
            return;
        };
        let copies = self.known_copies(asked.handle);
        if copies.len() > 1 {
            self.world
                .count("path: several copies known when a loss is to be accepted");
        }
        self.world
            .line(|| format!("known of {}: {copies:?}", asked.handle));
        self.world.observe(&Observation::LossAsked {
            request: asked.request,
            handle: asked.handle,
            copies: &copies,
        });
    }

    /// Copies that the master was told of, as they are, on servers that nothing keeps from answering.
    fn known_copies(&self, handle: ChunkHandle) -> Vec<KnownCopy> {
        let known = self.master.told(handle, self.world.now()).into_iter();
        let known = known.filter_map(|(server, directory, held)| {
            let machines = |machine: &u8| self.is_copy_there(*machine, directory, &held);
            let machine = self
                .world
                .with_checker(|checker| checker.facts.machines.get(&server).copied());
            Some(KnownCopy {
                machine: machine.filter(machines)?,
                directory,
                held,
            })
        });
        known.collect()
    }

    fn is_copy_there(&self, machine: u8, directory: DirectoryId, held: &HeldChunk) -> bool {
        let Some(node) = self.chunkservers.get(usize::from(machine)) else {
            return false;
        };
        let is_cut = self.world.with_net(|net, now| {
            net.is_cut(node.node(), Node::Master, now) || net.is_cut(Node::Master, node.node(), now)
        });
        let directories = node.server().into_iter().flat_map(|it| it.directories());
        let its_own = directories.filter(|it| it.identity().directory_id == directory);
        let is_as_told = its_own.filter(|it| !it.is_poisoned()).any(|it| {
            let told = it.told(held.handle);
            told.is_some_and(|entry| sarsen_chunkd::server::inventory::held_chunk(&entry) == *held)
        });
        node.is_registered() && node.slowness == 1 && !is_cut && is_as_told
    }
}
