//! What happens by time alone: safe mode ends, garbage is swept, trash and sessions expire.

use std::collections::BTreeSet;

use sarsen_protocol::id::{ChunkHandle, FileId, ServerId, SessionId};
use sarsen_protocol::message::HeldFlags;

use super::{Machine, sweep_interval};
use crate::core::chunk_table::ChunkRecord;
use crate::core::chunkservers::Server;
use crate::core::command::{Command, IDS_MAX, SessionsClosed, TrashExpired};
use crate::core::event::Now;
use crate::core::replica::Standing;

/// What a product of a share and a count may be off by.
const ROUNDING: f64 = 1e-6;

impl Machine {
    /// Time has passed; due at [`next_timeout`](Machine::next_timeout), harmless before.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        self.leave_safe_mode_if_due();
        self.look_after_repairs();
        self.look_after_open_chunks();
        if now.elapsed >= self.next_sweep {
            self.next_sweep = now.elapsed.saturating_add(sweep_interval(&self.config));
            self.servers.expire_acknowledged(now.elapsed);
            if self.is_serving() && self.check_writable().is_ok() {
                self.sweep_garbage();
                self.expire_trash();
                self.expire_sessions();
            }
        }
        self.advance_repairs();
    }

    /// Ends safe mode when enough is reported, or it has lasted long enough.
    pub(super) fn leave_safe_mode_if_due(&mut self) {
        let Some(since) = self.safe_mode_since else {
            return;
        };
        let is_over = self.now.elapsed.saturating_sub(since) >= self.config.safe_mode_max;
        if self.is_serving() && (is_over || self.enough_is_reported()) {
            self.safe_mode_since = None;
            // What expired while nobody could keep it gets its whole time again.
            self.kept
                .values_mut()
                .for_each(|kept| *kept = self.now.elapsed);
            if !self.is_read_only && !self.state.pending.is_empty() {
                self.reserve_ranges(0);
            }
        }
    }

    /// Whether replicas are reported of the share of sealed chunks that ends safe mode, or can't be
    /// because all that there is was reported (`spec/replication.md` section 8).
    ///
    /// Gives up at the first chunk too many that is not reported: while much is missing, which is
    /// when most reports come, this looks at few chunks however many there are.
    // Exact for any number of chunks that memory could hold.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a share of chunks, far below 2^52"
    )]
    fn enough_is_reported(&self) -> bool {
        let missing_max = |all: u64| all as f64 * (1.0 - self.config.safe_mode_fraction) + ROUNDING;
        let give_up_above = missing_max(self.state.chunks.len() as u64);
        let all_have_told = self.all_have_told();
        let (mut sealed, mut missing) = (0_u64, 0_u64);
        for (handle, record) in self.state.chunks.iter() {
            if record.at_rest().is_some() {
                sealed += 1;
                let is_awaited = !all_have_told || self.is_coming(handle, record);
                missing += u64::from(is_awaited && !self.is_reported(handle, record));
                if missing as f64 > give_up_above {
                    return false;
                }
            }
        }
        missing as f64 <= missing_max(sealed)
    }

    /// Whether as many good replicas of a chunk were reported as a chunk may have at the least.
    fn is_reported(&self, handle: ChunkHandle, record: &ChunkRecord) -> bool {
        let (now, dead_after) = (self.now.elapsed, self.config.dead_after);
        let live = self.servers.live_replicas(handle, now, dead_after);
        let good = live.filter(|replica| replica.standing(record) == Standing::Good);
        let servers: BTreeSet<ServerId> = good.map(|replica| replica.server).collect();
        servers.len() >= usize::from(self.config.fewest_replicas(record.replicas))
    }

    /// Whether every server that the log knows lives, and every directory has told of everything that
    /// it holds.
    fn all_have_told(&self) -> bool {
        let mut known = self.state.servers.servers.keys();
        let mut directories = self.state.servers.directories.iter();
        known.all(|&id| {
            let server = self.servers.server(id);
            server.is_some_and(Server::is_fully_reported) && self.is_live(id)
        }) && directories.all(|(id, record)| {
            let server = self.servers.server(record.server);
            server.is_some_and(|server| server.directories.contains_key(id))
        })
    }

    /// Whether a replica of a chunk that doesn't count yet will: its server is to read it back, or
    /// to settle its seal.
    fn is_coming(&self, handle: ChunkHandle, record: &ChunkRecord) -> bool {
        self.servers.replicas(handle).iter().any(|replica| {
            let is_prepared = replica.flags.has(HeldFlags::PREPARED);
            replica.standing(record) == Standing::Unproven
                || (is_prepared && replica.version == record.version())
        })
    }

    fn sweep_garbage(&mut self) {
        let (now, grace) = (self.now.elapsed, self.config.orphan_grace);
        let is_begun = |handle| self.open_chunks.is_begun(handle);
        let (state, servers) = (&self.state, &self.servers);
        let doomed = self.garbage.sweep(state, servers, now, grace, is_begun);
        let doomed = doomed.into_iter();
        self.queue_deletions(
            doomed
                .map(|(handle, replica)| (replica.server, handle, replica.version))
                .collect(),
        );
    }

    fn expire_trash(&mut self) {
        let expiry = u64::try_from(self.config.trash_expiry.as_millis()).unwrap_or(u64::MAX);
        let now = self.trusted_unix_ms();
        // An entry that is restored and removed once more has its id again, and its whole time.
        let restored: BTreeSet<FileId> = self.trash_being_restored().collect();
        let expired = self.state.namespace.trash().filter(|(id, trashed)| {
            now.saturating_sub(trashed.deleted_ms) >= expiry
                && !self.expiring_trash.contains(id)
                && !restored.contains(id)
        });
        let entries: Vec<FileId> = expired.map(|(id, _)| id).take(IDS_MAX).collect();
        if !entries.is_empty() {
            self.expiring_trash.extend(&entries);
            self.append(TrashExpired { entries }.into());
        }
    }

    /// The time of day, no further on than the clock that can't be set says: one that is set
    /// forward for a moment must not end what can't be brought back.
    fn trusted_unix_ms(&self) -> u64 {
        let since = self.now.elapsed.saturating_sub(self.started.elapsed);
        let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        self.now
            .unix_ms
            .min(self.started.unix_ms.saturating_add(since))
    }

    fn trash_being_restored(&self) -> impl Iterator<Item = FileId> {
        let in_flight = self.in_flight.values();
        in_flight.filter_map(|one| match &one.entry.command {
            Command::TrashRestored(body) => Some(body.entry),
            _ => None,
        })
    }

    fn expire_sessions(&mut self) {
        let expired = self.kept.iter().filter(|(id, kept)| {
            self.now.elapsed.saturating_sub(**kept) >= self.config.pending_expiry
                && !self.expiring_sessions.contains(id)
        });
        let sessions: Vec<SessionId> = expired.map(|(&id, _)| id).take(IDS_MAX).collect();
        if !sessions.is_empty() {
            self.expiring_sessions.extend(&sessions);
            self.append(SessionsClosed { sessions }.into());
        }
    }
}
