//! What fired and what ran, counted: a fault that never fires shows nothing.

use std::collections::BTreeMap;
use std::fmt;

/// Every fault that a long run must have seen fire.
pub const FAULTS: &[&str] = &[
    "fault: connection reset",
    "fault: connection lost behind a request",
    "fault: frame damaged",
    "fault: one-way cut",
    "fault: partition",
    "fault: slow path",
    "fault: master killed",
    "fault: master power cut",
    "fault: master died inside a disk operation",
    "fault: chunkserver killed",
    "fault: chunkserver power cut",
    "fault: chunkserver died inside a disk operation",
    "fault: power cut of every machine",
    "fault: client killed",
    "fault: unsynced sectors lost",
    "fault: unsynced names lost",
    "fault: sync failed",
    "fault: disk full",
    "fault: disks of all chunkservers full",
    "fault: slow disk",
    "fault: bit rot",
    "fault: sector unreadable",
    "fault: directory rolled back",
    "fault: all good copies of a chunk rotten",
    "fault: request came late, over a connection its client had given up",
];

/// Every path that a long run must have gone.
pub const PATHS: &[&str] = &[
    "path: file published",
    "path: file replaced",
    "path: file of several chunks published",
    "path: file of no bytes published",
    "path: file of no bytes made at once",
    "path: file of no bytes refused for want of room",
    "path: folder made",
    "path: renamed",
    "path: moved to the trash",
    "path: purged",
    "path: restored from the trash",
    "path: trash emptied",
    "path: trash expired",
    "path: session expired",
    "path: file downloaded",
    "path: range downloaded",
    "path: chunk sent again",
    "path: fewer copies taken",
    "path: another replica asked",
    "path: bad replica reported",
    "path: replica verified by order",
    "path: replica found corrupt",
    "path: answer given again",
    "path: refused request came again",
    "path: outcome unknown to the client",
    "path: master replayed a log",
    "path: torn tail cut off",
    "path: checkpoint written",
    "path: state from a checkpoint",
    "path: segments pruned",
    "path: safe mode left",
    "path: request refused in safe mode",
    "path: replica deleted by order",
    "path: chunk copied",
    "path: replica deleted that was bad or too many",
    "path: stale start refused",
    "path: chunk poisoned",
    "path: damage found by a member",
    "path: loss accepted",
    "path: loss not accepted",
    "path: several copies known when a loss is to be accepted",
    "path: killed while a loss was being accepted",
    "path: number of a request used twice",
    "path: turn of a chunk delayed",
    "path: records followed",
    "path: far slot of a file of records written",
];

/// Counts by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<&'static str, u64>);

impl Counters {
    /// Counts one more.
    pub fn count(&mut self, name: &'static str) {
        self.add(name, 1);
    }

    /// Counts more.
    pub fn add(&mut self, name: &'static str, more: u64) {
        if more > 0 {
            *self.0.entry(name).or_default() += more;
        }
    }

    /// How often it was counted.
    #[must_use]
    pub fn value(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// How often any fault fired; what a power cut does to sectors and names is not counted
    /// beside it, nor is a frame that is slow, nor a request that its connection is lost behind.
    #[must_use]
    pub fn faults(&self) -> u64 {
        const BESIDE: &[&str] = &["unsynced", "slow path", "behind a request"];
        let is_counted = |name: &&&str| !BESIDE.iter().any(|it| name.contains(it));
        FAULTS
            .iter()
            .filter(is_counted)
            .map(|name| self.value(name))
            .sum()
    }

    /// Adds those of another run.
    pub fn merge(&mut self, other: &Self) {
        for (name, count) in &other.0 {
            self.add(name, *count);
        }
    }

    /// Which of these never were.
    #[must_use]
    pub fn missing(&self, names: &[&'static str]) -> Vec<&'static str> {
        let never = |name: &&&str| self.value(name) == 0;
        names.iter().filter(never).copied().collect()
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<&str> = FAULTS.iter().chain(PATHS).copied().collect();
        names.extend(
            self.0
                .keys()
                .filter(|name| !FAULTS.contains(name) && !PATHS.contains(name)),
        );
        for name in names {
            writeln!(f, "{:>12}  {name}", self.value(name))?;
        }
        Ok(())
    }
}
