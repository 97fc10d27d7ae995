//! The cluster's values as the core needs them, with the defaults that people script against.
//!
//! Reading them from flags, variables and files is the edge's work; here they are plain values.

use std::time::Duration;

/// What a master can be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// How often chunkservers tell how they are.
    pub heartbeat: Duration,
    /// Silence after which a server is suspect.
    pub suspect_after: Duration,
    /// Silence after which a server is dead and its replicas don't count.
    pub dead_after: Duration,
    /// How long locations may be cached.
    pub lease: Duration,
    /// Copies of a file that asks for none in particular.
    pub replicas: u8,
    /// The fewest copies that are taken, of files that want as many.
    pub min_replicas: u8,
    /// How long trash is kept.
    pub trash_expiry: Duration,
    /// The longest time until purged space is asked back.
    pub gc_interval: Duration,
    /// How long an unknown chunk is held back from deletion.
    pub orphan_grace: Duration,
    /// How long a session that nobody keeps lives, and its pending files with it.
    pub pending_expiry: Duration,
    /// Share of the sealed chunks whose replicas must be reported before changes are taken, as long
    /// as a server has not told of all that it holds.
    pub safe_mode_fraction: f64,
    /// Time after which changes are taken in any case.
    pub safe_mode_max: Duration,
    /// Time between a server's death and the repair of what it held.
    pub repair_grace: Duration,
    /// Copies for repair that one server takes part in at a time, as source or as target.
    pub repair_streams_per_server: u32,
    /// Entries between two checkpoints.
    pub checkpoint_entries: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(1),
            suspect_after: Duration::from_secs(3),
            dead_after: Duration::from_secs(10),
            lease: Duration::from_secs(60),
            replicas: 3,
            min_replicas: 2,
            trash_expiry: Duration::from_secs(3 * 24 * 3600),
            gc_interval: Duration::from_secs(10),
            orphan_grace: Duration::from_secs(3600),
            pending_expiry: Duration::from_secs(3600),
            safe_mode_fraction: 0.999,
            safe_mode_max: Duration::from_secs(60),
            repair_grace: Duration::from_secs(30),
            repair_streams_per_server: 4,
            checkpoint_entries: 1_000_000,
        }
    }
}

impl Config {
    /// The fewest replicas that a chunk may have whose file wants this many.
    #[must_use]
    pub fn fewest_replicas(&self, wanted: u8) -> u8 {
        self.min_replicas.min(wanted).max(1)
    }
}
