//! What destroys bytes that were stable.

use std::rc::Rc;
use std::time::Duration;

use sarsen_protocol::id::ChunkHandle;
use sarsen_protocol::message::ChunkState;

use super::Cluster;
use crate::disk::Disk;
use crate::faults::FaultEvent;
use crate::invariants::Facts;
use crate::net::Node;
use crate::observation::Observation;
use crate::oracle::op::OpId;
use crate::random::Random;
use crate::workload::changes::{is_changing, read_whole};
use crate::world::Event;

/// How long it takes until a chunk of which all good copies are to rot is looked for again.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(700);

const ALL_COPIES_ROTTEN: &str = "fault: all good copies of a chunk rotten";

/// How many chunks lose all good copies in one run: more, and little else is done in it.
const ALL_COPIES_MAX: u64 = 6;

/// Where data begins in a chunk's file.
const DATA_START: usize = 8192;

impl Cluster {
    /// A sealed chunk of the victim: on which disk, its file, its length and its handle.
    fn sealed_chunk(&mut self) -> Option<(Disk, String, ChunkHandle)> {
        let victim = self.chunkservers.get(usize::from(self.plan.victim))?;
        let mut found = Vec::new();
        for (disk, directory) in victim.disks.iter().zip(victim.server()?.directories()) {
            for entry in directory.inventory(None, usize::MAX) {
                if entry.state == ChunkState::Sealed {
                    found.push((disk.clone(), path_of(entry.handle), entry.handle));
                }
            }
        }
        self.random.pick(&found).cloned()
    }

    fn spoiled(&self, handle: ChunkHandle) {
        self.spoiled_on(self.plan.victim, handle);
    }

    fn spoiled_on(&self, machine: u8, handle: ChunkHandle) {
        self.world.observe(&Observation::Spoiled {
            machine,
            handle: Some(handle),
        });
    }

    pub(super) fn rot(&mut self) {
        let Some((disk, path, handle)) = self.sealed_chunk() else {
            return;
        };
        // Mostly in the data, now and then in the CRC page or the header.
        let len = disk.file_len(&path);
        let from = match self.random.below(10) {
            0 => 0,
            1 => 4096,
            _ => DATA_START,
        };
        if len <= from {
            return;
        }
        let to = match from {
            0 => 512,
            4096 => 4100,
            _ => len,
        };
        let at = from + self.random.index(to - from);
        let bit = u8::try_from(self.random.below(8)).unwrap_or(0);
        let is_cached = self.random.percent(30);
        if disk.rot(&path, at, bit, is_cached) {
            self.world.count("fault: bit rot");
            self.world
                .line(|| format!("---- {handle} rots at {at}, cached: {is_cached}"));
            self.spoiled(handle);
        }
    }

    pub(super) fn spoil_sector(&mut self) {
        let Some((disk, path, handle)) = self.sealed_chunk() else {
            return;
        };
        let len = disk.file_len(&path);
        if len > DATA_START {
            let at = DATA_START + self.random.index(len - DATA_START);
            if disk.spoil(&path, at) {
                self.spoiled(handle);
            }
        }
    }

    /// A sync that fails may leave any chunk of the machine marked.
    pub(super) fn spoil_all_that_is_sealed(&mut self) {
        self.world.observe(&Observation::Spoiled {
            machine: self.plan.victim,
            handle: None,
        });
    }

    pub(super) fn roll_back(&mut self) {
        let number = self.plan.victim;
        let copies = std::mem::take(&mut self.plan.copy);
        let Some(victim) = self.chunkservers.get(usize::from(number)) else {
            return;
        };
        // Only a start that was registered since can show that the copy is older.
        let is_older = victim.is_registered() && victim.boots() > self.plan.copied_boot + 1;
        if !is_older || self.is_rolled_back {
            self.plan.copy = copies;
            return;
        }
        let disks = victim.disks.clone();
        self.end_chunkserver(number, true);
        for (disk, copy) in disks.iter().zip(&copies) {
            disk.roll_back(copy);
            disk.power_cut(&mut self.random);
        }
        self.is_rolled_back = true;
        self.plan.rolls_back = false;
        self.world.count("fault: directory rolled back");
        self.world.observe(&Observation::Lost { machine: number });
    }

    /// All good copies of a chunk rot, and an older one is left.
    pub(super) fn rot_all_copies(&mut self, times: u32) {
        let world = Rc::clone(&self.world);
        if world.counters().value(ALL_COPIES_ROTTEN) >= ALL_COPIES_MAX {
            return;
        }
        let mut left = world.with_checker(|checker| chunks_with_older_copies(&checker.facts));
        // Where there is a choice, it can be the wrong one.
        let most = left.iter().map(|it| it.older).max();
        left.retain(|it| Some(it.older) == most);
        let Some(Left {
            path, handle, good, ..
        }) = self.random.pick(&left).cloned()
        else {
            return self.leave_somebody_behind(times);
        };
        world.line(|| format!("---- {handle} of {path} rots on machines {good:?}"));
        let mut are_all_rotten = true;
        for machine in good {
            let mut is_rotten = false;
            for disk in self.disks_of(Node::Chunkserver(machine)) {
                is_rotten |= rot_somewhere(&disk, &path_of(handle), &mut self.random);
            }
            if is_rotten {
                self.spoiled_on(machine, handle);
            }
            are_all_rotten &= is_rotten;
        }
        if are_all_rotten {
            world.count(ALL_COPIES_ROTTEN);
        }
        // While nobody knows, it counts as well, and the older copy is deleted as one too many.
        for client in &mut self.clients {
            if let (Some(process), Some(read)) = (client.process(), read_whole(&path)) {
                let id = OpId(process.chance(Random::next));
                let reader = Rc::clone(&process);
                process.spawn(async move { _ = reader.carry_out(id, read).await });
                client.run();
            }
        }
    }

    /// Who is cut off while chunks change has older copies of them.
    fn leave_somebody_behind(&mut self, times: u32) {
        let Some(times) = times.checked_sub(1) else {
            return;
        };
        if times % 7 == 6 {
            let machine = self.random.below(self.chunkservers.len() as u64);
            let time = self.random.micros(2_000_000, 6_000_000);
            self.partition(Node::Chunkserver(u8::try_from(machine).unwrap_or(0)), time);
        }
        let again = Event::Fault(FaultEvent::RotAllCopies(times));
        self.world.plan_in(LOOK_AGAIN_AFTER, again);
    }
}

/// A chunk at rest of which somebody has an older copy.
#[derive(Clone, Debug)]
struct Left {
    /// Its file.
    path: String,
    handle: ChunkHandle,
    /// Who has the one that the log names.
    good: Vec<u8>,
    /// How many have an older one.
    older: usize,
}

/// Those of files that change.
fn chunks_with_older_copies(facts: &Facts) -> Vec<Left> {
    let changing = facts.names.files().filter(|(path, _)| is_changing(path));
    let chunks = changing.flat_map(|(path, file)| facts.chunks_of(file).map(move |it| (path, it)));
    let found = chunks.filter_map(|(path, handle)| {
        let sealed = facts.shadow.chunks.record(handle)?.at_rest()?;
        let held = facts.held.iter().filter(|((_, it), _)| *it == handle);
        let (good, older): (Vec<_>, Vec<_>) =
            held.partition(|(_, version)| **version == Some(sealed.version));
        let older = older.iter().filter(|(key, _)| !facts.spoiled.contains(key));
        let older = older.count();
        (older > 0 && !good.is_empty()).then(|| Left {
            path: path.to_owned(),
            handle,
            good: good.iter().map(|((machine, _), _)| *machine).collect(),
            older,
        })
    });
    found.collect()
}

fn path_of(handle: ChunkHandle) -> String {
    let [low, ..] = handle.0.to_le_bytes();
    format!("chunks/{low:02x}/{handle}.chunk")
}

/// A bit flips, or a sector goes; false if the disk has no such file, or one without data.
fn rot_somewhere(disk: &Disk, path: &str, random: &mut Random) -> bool {
    let len = disk.file_len(path);
    if len <= DATA_START {
        return false;
    }
    let in_data = DATA_START + random.index(len - DATA_START);
    let at = match random.below(10) {
        0 => random.index(512),
        1 => 4096 + random.index(4),
        _ => in_data,
    };
    let bit = u8::try_from(random.below(8)).unwrap_or(0);
    // Of what is not synced yet a sector can't be read any more.
    disk.rot(path, at, bit, false) || disk.spoil(path, in_data)
}
