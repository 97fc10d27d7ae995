//! What goes wrong on purpose, and when.
//!
//! Faults of the network and of processes come in any number. What destroys bytes that were
//! stable (rot, unreadable sectors, a directory put back from an older copy) comes to one machine
//! of a run, the *victim*: the promise is to survive the loss of all but one of the copies that
//! acknowledged, and two is the fewest that a cluster takes. Now and then all good copies of one chunk of
//! a file that changes rot, and an older one is left: a person may accept that loss.

use std::time::Duration;

use crate::disk::Disk;
use crate::net::{Node, Rates};
use crate::random::Random;

/// What a kill is counted as while a loss is being accepted.
pub const STRUCK: &str = "path: killed while a loss was being accepted";

/// Each time that so much time has passed the pauses between faults grow by what they were at first. A chunk
/// that nobody has any more holds every start of a master in safe mode for as long as some server is away:
/// where masters live no longer than that, clients get next to nothing done.
const CALMER_AFTER: Duration = Duration::from_secs(240);

/// Something that is to go wrong now, or to be well again.
#[derive(Clone, Debug)]
pub enum FaultEvent {
    /// Draw the next fault.
    Next,
    /// A process is killed.
    Kill(Node),
    /// One is while a loss is being accepted with it.
    Strike(Node),
    /// A machine's power goes.
    PowerCut(Node),
    /// The next change on this machine's disk but so many is the process's last.
    DieWithin(Node, u64),
    /// The power of all machines goes.
    PowerCutOfAll,
    /// Nothing passes from one machine to another for a while.
    OneWayCut(Node, Node, Duration),
    /// A machine is cut off from all others for a while.
    Partition(Node, Duration),
    /// A machine's connections are reset.
    Resets(Node, u32),
    /// The next syncs of a machine's disks fail.
    SyncErrors(Node, u32),
    /// A machine's disks are full for a while.
    DiskFull(Node, Duration),
    /// The disks of all chunkservers are full for a while.
    DisksFull(Duration),
    /// There is room again.
    DiskEmptied(Node),
    /// A machine's disks are slow for a while.
    SlowDisk(Node, u32, Duration),
    /// They are as fast as ever.
    DiskFast(Node),
    /// A bit of a sealed chunk flips on the victim.
    Rot,
    /// A sector of a sealed chunk can't be read on the victim.
    BadSector,
    /// The victim's disks are copied, to be put back later.
    CopyDisks,
    /// They are put back.
    RollBack,
    /// All good copies of a chunk rot of which somebody has an older one. If nobody has, one is cut off for
    /// a while, and it is looked for so many times more.
    RotAllCopies(u32),
}

/// How a run is troubled.
#[derive(Debug)]
pub struct Plan {
    /// Mean time between two faults.
    pub pause: Duration,
    /// What happens by itself to connections.
    pub rates: Rates,
    /// Whose bytes may be destroyed.
    pub victim: u8,
    /// Whether the victim's directories are put back from an older copy.
    pub rolls_back: bool,
    /// The copy, once it is made.
    pub copy: Vec<Disk>,
    /// Which start of the victim it was made of.
    pub copied_boot: u64,
    chunkservers: u8,
    clients: u8,
}

impl Plan {
    /// Draws one.
    pub fn new(random: &mut Random, chunkservers: u8, clients: u8) -> Self {
        let is_calm = random.percent(10);
        Self {
            pause: Duration::from_millis(random.between(800, 4_000)),
            rates: Rates {
                reset: if is_calm {
                    0
                } else {
                    *random.pick(&[0, 500, 3_000]).unwrap_or(&0)
                },
                damage: if is_calm {
                    0
                } else {
                    *random.pick(&[0, 1_000, 6_000]).unwrap_or(&0)
                },
                slow: *random.pick(&[0, 2_000, 20_000]).unwrap_or(&0),
                strand: if is_calm {
                    0
                } else {
                    *random.pick(&[0, 10_000, 60_000]).unwrap_or(&0)
                },
            },
            victim: u8::try_from(random.below(chunkservers.into())).unwrap_or(0),
            rolls_back: random.percent(12),
            copy: Vec::new(),
            copied_boot: 0,
            chunkservers,
            clients,
        }
    }

    /// When the next fault comes, from now, after so much time of trouble.
    pub fn next_in(&self, random: &mut Random, spent: Duration) -> Duration {
        let micros = u64::try_from(self.pause.as_micros()).unwrap_or(u64::MAX);
        let pause = Duration::from_micros(random.between(micros / 8, micros * 2));
        let times = 1 + spent.as_secs() / CALMER_AFTER.as_secs();
        pause * u32::try_from(times).unwrap_or(u32::MAX)
    }

    /// Draws the next fault.
    pub fn draw(&self, random: &mut Random) -> FaultEvent {
        let some_time = |random: &mut Random| match random.percent(25) {
            true => random.micros(5_000_000, 25_000_000),
            false => random.micros(50_000, 4_000_000),
        };
        match random.below(100) {
            0..8 => FaultEvent::Kill(Node::Master),
            8..14 => FaultEvent::PowerCut(Node::Master),
            14..20 => FaultEvent::DieWithin(Node::Master, random.below(12)),
            20..30 => FaultEvent::Kill(self.chunkserver(random)),
            30..38 => FaultEvent::PowerCut(self.chunkserver(random)),
            38..48 => FaultEvent::DieWithin(self.chunkserver(random), random.below(40)),
            48..51 => FaultEvent::PowerCutOfAll,
            51..56 => FaultEvent::Kill(self.client(random)),
            56..64 => {
                let (from, to) = (self.anyone(random), self.anyone(random));
                FaultEvent::OneWayCut(from, to, some_time(random))
            }
            64..69 => FaultEvent::Partition(self.anyone(random), some_time(random)),
            69..76 => {
                let count = u32::try_from(random.between(1, 6)).unwrap_or(1);
                FaultEvent::Resets(self.anyone(random), count)
            }
            76..82 => {
                let count = u32::try_from(random.between(1, 3)).unwrap_or(1);
                match random.percent(30) {
                    true => FaultEvent::SyncErrors(Node::Master, count),
                    false => FaultEvent::SyncErrors(self.chunkserver(random), count),
                }
            }
            82..84 if random.percent(50) => FaultEvent::DisksFull(some_time(random)),
            82..86 => {
                let node = match random.percent(20) {
                    true => Node::Master,
                    false => self.chunkserver(random),
                };
                FaultEvent::DiskFull(node, some_time(random))
            }
            86..91 => {
                let node = match random.percent(30) {
                    true => Node::Master,
                    false => self.chunkserver(random),
                };
                let times = *random.pick(&[5, 40, 400, 3_000]).unwrap_or(&5);
                FaultEvent::SlowDisk(node, times, some_time(random))
            }
            91..94 => FaultEvent::Rot,
            94..96 => FaultEvent::BadSector,
            96..98 => FaultEvent::RotAllCopies(14),
            _ if self.rolls_back && self.copy.is_empty() => FaultEvent::CopyDisks,
            _ if self.rolls_back => FaultEvent::RollBack,
            _ => FaultEvent::Rot,
        }
    }

    fn chunkserver(&self, random: &mut Random) -> Node {
        Node::Chunkserver(u8::try_from(random.below(self.chunkservers.into())).unwrap_or(0))
    }

    fn client(&self, random: &mut Random) -> Node {
        Node::Client(u8::try_from(random.below(self.clients.into())).unwrap_or(0))
    }

    fn anyone(&self, random: &mut Random) -> Node {
        match random.below(10) {
            0..3 => Node::Master,
            3..8 => self.chunkserver(random),
            _ => self.client(random),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chunk was hopeless in the first minute, and a master's life as long as its safe mode: of 500 doings
    /// no more than 350 were done in 1,500 s.
    #[test]
    fn faults_become_rarer() {
        let plan = Plan::new(&mut Random::new(1), 4, 2);
        let pause = |seconds| {
            let spent = Duration::from_secs(seconds);
            plan.next_in(&mut Random::new(2), spent)
        };
        assert_eq!(pause(239), pause(0));
        assert_eq!(pause(240), 2 * pause(0));
        assert_eq!(pause(1_500), 7 * pause(0));
    }
}
