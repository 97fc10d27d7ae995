//! Which stored chunks that the log does not know are to be deleted (GFS section 4.4).
//!
//! A chunk that is stored but not in the chunk table is a *suspect*. It is **condemned** when this
//! master knows why: its last reference went, or its upload ended without it. Then it is deleted
//! at the next sweep. Otherwise it is an **orphan**: held back for `orphan_grace` from when it
//! was first seen, and as long as its file is still under construction, or an attempt may yet log
//! the chunk that it had servers begin. Nothing is deleted in safe mode or while the log is known to
//! be damaged: the machine doesn't sweep then.
//!
//! Nothing here is logged. After a restart what was condemned is an orphan like any other.

use std::collections::BTreeMap;
use std::time::Duration;

use sarsen_protocol::id::ChunkHandle;
use sarsen_protocol::sabotage::{Check, is_in_force};

use super::chunkservers::Chunkservers;
use super::replica::{Replica, Source};
use super::state::State;

/// Why a stored chunk is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Suspect {
    /// Since when nobody is known to want it.
    since: Duration,
    /// Whether it is known that nobody ever will.
    condemned: bool,
}

/// The chunks that are stored, or may be, without being in the chunk table.
#[derive(Clone, Debug, Default)]
pub struct Garbage {
    suspects: BTreeMap<ChunkHandle, Suspect>,
}

impl Garbage {
    /// Nobody will ever want this chunk again.
    pub fn condemn(&mut self, handle: ChunkHandle, now: Duration) {
        self.suspects.insert(
            handle,
            Suspect {
                since: now,
                condemned: true,
            },
        );
    }

    /// A chunk was reported that the table doesn't have.
    pub fn suspect(&mut self, handle: ChunkHandle, now: Duration) {
        self.suspects.entry(handle).or_insert(Suspect {
            since: now,
            condemned: false,
        });
    }

    /// Whether it is known that nobody will ever want this chunk.
    #[must_use]
    pub fn is_condemned(&self, handle: ChunkHandle) -> bool {
        self.suspects
            .get(&handle)
            .is_some_and(|suspect| suspect.condemned)
    }

    /// The replicas to be deleted now.
    ///
    /// A condemned chunk is remembered for `grace` after it was, for replicas that turn up late.
    /// `is_begun` says of a chunk whether an attempt has it made that may yet be logged.
    pub fn sweep(
        &mut self,
        state: &State,
        servers: &Chunkservers,
        now: Duration,
        grace: Duration,
        is_begun: impl Fn(ChunkHandle) -> bool,
    ) -> Vec<(ChunkHandle, Replica)> {
        let mut doomed = Vec::new();
        self.suspects.retain(|&handle, suspect| {
            if state.chunks.record(handle).is_some() && is_in_force(Check::GarbageInUse) {
                return false;
            }
            let replicas = servers.replicas(handle);
            let is_over = now.saturating_sub(suspect.since) >= grace;
            if replicas.is_empty() {
                return suspect.condemned && !is_over;
            }
            let is_wanted = |replica: &Replica| state.pending.contains_key(&replica.file);
            let is_wanted = is_begun(handle) || replicas.iter().any(is_wanted);
            if !suspect.condemned && is_wanted {
                suspect.since = now;
                return true;
            }
            if suspect.condemned || is_over {
                let reported = replicas
                    .iter()
                    .filter(|replica| replica.source == Source::Reported && !replica.deleting);
                doomed.extend(reported.map(|replica| (handle, *replica)));
            }
            true
        });
        doomed
    }
}
