//! Faults, carried out.

use std::rc::Rc;
use std::time::Duration;

use super::{Cluster, Phase};
use crate::disk::Disk;
use crate::faults::{FaultEvent, STRUCK};
use crate::net::Node;
use crate::node_chunkserver::ChunkserverNode;
use crate::node_client::ClientNode;
use crate::observation::Observation;
use crate::world::Event;

impl Cluster {
    pub(super) fn fault(&mut self, event: FaultEvent) {
        // What is to be well again is, whatever the phase.
        match event {
            FaultEvent::DiskEmptied(node) => self
                .disks_of(node)
                .iter()
                .for_each(|disk| disk.set_full(false)),
            FaultEvent::DiskFast(node) => self.set_slowness(node, 1),
            event if self.phase == Phase::Trouble => self.trouble(event),
            _ => {}
        }
    }

    fn trouble(&mut self, event: FaultEvent) {
        let world = Rc::clone(&self.world);
        if matches!(event, FaultEvent::Next) {
            let fault = self.plan.draw(&mut self.random);
            let spent = world.now().saturating_sub(self.phase_began);
            let next = self.plan.next_in(&mut self.random, spent);
            world.plan_in(next, Event::Fault(FaultEvent::Next));
            return self.trouble(fault);
        }
        world.line(|| format!("---- fault: {event:?}"));
        world.observe(&Observation::Troubled);
        match event {
            FaultEvent::Kill(node) => self.end(node, true),
            FaultEvent::Strike(node) => {
                if self.is_running(node) {
                    world.count(STRUCK);
                }
                self.end(node, true);
            }
            FaultEvent::PowerCut(node) => self.end(node, false),
            FaultEvent::PowerCutOfAll => {
                world.count("fault: power cut of every machine");
                self.end(Node::Master, false);
                for number in 0..self.chunkservers.len() {
                    let number = u8::try_from(number).unwrap_or(u8::MAX);
                    self.end(Node::Chunkserver(number), false);
                }
            }
            FaultEvent::DieWithin(node, changes) => {
                if let Some(disk) = self.disks_of(node).first() {
                    disk.die_within(changes);
                }
            }
            FaultEvent::OneWayCut(from, to, time) if from != to => {
                world.count("fault: one-way cut");
                world.with_net(|net, now| net.cut(from, to, now + time));
            }
            FaultEvent::Partition(node, time) => self.partition(node, time),
            FaultEvent::Resets(node, count) => {
                for _ in 0..count {
                    world.with_net(|net, now| net.reset_one_of(node, now));
                }
            }
            FaultEvent::SyncErrors(node, count) => {
                // A chunkserver's failed sync spoils what was stable: only the victim's may.
                let node = match node {
                    Node::Chunkserver(_) => Node::Chunkserver(self.plan.victim),
                    node => node,
                };
                self.disks_of(node)
                    .iter()
                    .for_each(|disk| disk.fail_syncs(count));
                if node != Node::Master {
                    self.spoil_all_that_is_sealed();
                }
            }
            FaultEvent::DiskFull(node, time) => {
                self.disks_of(node)
                    .iter()
                    .for_each(|disk| disk.set_full(true));
                world.plan_in(time, Event::Fault(FaultEvent::DiskEmptied(node)));
            }
            FaultEvent::DisksFull(time) => {
                world.count("fault: disks of all chunkservers full");
                for number in 0..self.chunkservers.len() {
                    let node = Node::Chunkserver(u8::try_from(number).unwrap_or(u8::MAX));
                    self.trouble(FaultEvent::DiskFull(node, time));
                }
            }
            FaultEvent::SlowDisk(node, times, time) => {
                world.count("fault: slow disk");
                self.set_slowness(node, times);
                world.plan_in(time, Event::Fault(FaultEvent::DiskFast(node)));
            }
            FaultEvent::Rot => self.rot(),
            FaultEvent::BadSector => self.spoil_sector(),
            FaultEvent::CopyDisks => {
                if let Some(victim) = self.chunkservers.get(usize::from(self.plan.victim)) {
                    self.plan.copy = victim.disks.iter().map(Disk::copy).collect();
                    self.plan.copied_boot = victim.boots();
                }
            }
            FaultEvent::RollBack => self.roll_back(),
            FaultEvent::RotAllCopies(times) => self.rot_all_copies(times),
            FaultEvent::Next
            | FaultEvent::OneWayCut(..)
            | FaultEvent::DiskEmptied(_)
            | FaultEvent::DiskFast(_) => {}
        }
    }

    pub(super) fn disks_of(&self, node: Node) -> Vec<Disk> {
        match node {
            Node::Master => vec![self.master.disk.clone()],
            Node::Chunkserver(number) => {
                let node = self.chunkservers.get(usize::from(number));
                node.map(|node| node.disks.clone()).unwrap_or_default()
            }
            Node::Client(_) => Vec::new(),
        }
    }

    fn set_slowness(&mut self, node: Node, times: u32) {
        match node {
            Node::Master => self.master.slowness = times.min(400),
            Node::Chunkserver(number) => {
                if let Some(node) = self.chunkservers.get_mut(usize::from(number)) {
                    node.slowness = times;
                }
            }
            Node::Client(_) => {}
        }
    }

    fn is_running(&self, node: Node) -> bool {
        match node {
            Node::Master => self.master.is_running(),
            Node::Chunkserver(number) => {
                let node = self.chunkservers.get(usize::from(number));
                node.is_some_and(ChunkserverNode::is_running)
            }
            Node::Client(number) => {
                let client = self.clients.get(usize::from(number));
                client.is_some_and(ClientNode::is_running)
            }
        }
    }

    /// Ends a process, with its machine's power or without.
    fn end(&mut self, node: Node, has_power: bool) {
        let world = Rc::clone(&self.world);
        match node {
            Node::Master if self.master.is_running() => {
                world.count(match has_power {
                    true => "fault: master killed",
                    false => "fault: master power cut",
                });
                self.end_master(has_power);
            }
            Node::Chunkserver(number) => {
                if self.is_running(node) {
                    world.count(match has_power {
                        true => "fault: chunkserver killed",
                        false => "fault: chunkserver power cut",
                    });
                    self.end_chunkserver(number, has_power);
                }
            }
            Node::Client(number) => {
                let client = self.clients.get_mut(usize::from(number));
                if let Some(client) = client.filter(|client| client.is_running()) {
                    world.count("fault: client killed");
                    client.stop();
                    world.with_net(|net, now| net.stop(node, now, true));
                    let after = self.random.micros(10_000, 2_000_000);
                    world.plan_in(after, Event::Starts(node));
                }
            }
            Node::Master => {}
        }
    }

    pub(super) fn partition(&mut self, node: Node, time: Duration) {
        self.world.count("fault: partition");
        let mut all = vec![Node::Master];
        let chunkservers = (0..self.chunkservers.len()).filter_map(|n| u8::try_from(n).ok());
        all.extend(chunkservers.map(Node::Chunkserver));
        let clients = (0..self.clients.len()).filter_map(|n| u8::try_from(n).ok());
        all.extend(clients.map(Node::Client));
        self.world.with_net(|net, now| {
            for other in all.into_iter().filter(|&other| other != node) {
                net.cut(node, other, now + time);
                net.cut(other, node, now + time);
            }
        });
    }
}
