//! What chunkservers tell of open chunks: leases to extend, trouble, seals that are prepared
//! (`spec/messages.md` section 14.2, `spec/replication.md` sections 3.5, 4 and 5).

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, DirectoryId, Serial, ServerId};
use sarsen_protocol::message::{
    ChainReported, ChainTrouble, ChunkState, ExtendLeases, ExtendedLease, HeldChunk, HeldFlags,
    LeasesExtended, ReportChain, Settle,
};

use super::orders::ChangeStep;
use super::{Goal, Machine, Records, Subject, Then};
use crate::core::action::Failure;
use crate::core::event::ConnectionId;
use crate::core::machine::millis;
use crate::core::replica::Replica;

impl Machine {
    /// A chunkserver wants to go on as the primary of chunks. Those of its leases that are over,
    /// or given to another version, are left out.
    pub(in crate::core::machine) fn extend_leases(
        &mut self,
        connection: ConnectionId,
        request: &ExtendLeases,
    ) -> Result<LeasesExtended, Failure> {
        let server = self.registered_server(connection)?;
        let now = self.now.elapsed;
        let mut extended = Vec::new();
        for held in &request.leases {
            let (handle, version) = (held.handle, held.version);
            let is_primary = self
                .active(handle)
                .is_some_and(|it| it.version == version && it.primary == server);
            let is_changing = self
                .open_chunks
                .works
                .get(&Subject::Chunk(handle))
                .is_some_and(|work| work.attempt.is_some());
            if request.epoch != self.epoch
                || !is_primary
                || is_changing
                || !self.is_in_its_start(handle, server)
            {
                continue;
            }
            if let Some(lease) = self.open_chunks.leases.extend(handle, version, now) {
                let lease = millis(lease);
                extended.push(ExtendedLease {
                    handle,
                    version,
                    lease,
                });
                let begin = self.active(handle).map(|active| active.serial);
                if let Some(open) = self.open_chunks.open.get_mut(&handle) {
                    open.is_granted = true;
                    open.granted_by = None;
                    if let Some(troubled) = &mut open.troubled {
                        troubled.has_worked |= begin.is_some_and(|begin| held.serial > begin);
                    }
                }
            }
        }
        Ok(LeasesExtended { extended })
    }

    /// A member says that something is the matter with a chunk.
    pub(in crate::core::machine) fn chain_reported(
        &mut self,
        connection: ConnectionId,
        report: &ReportChain,
    ) -> Result<ChainReported, Failure> {
        let server = self.registered_server(connection)?;
        let (handle, version) = (report.handle, report.version);
        let Some(active) = self.active(handle).filter(|it| it.version == version) else {
            return Ok(ChainReported);
        };
        if !active.members.iter().any(|member| member.server == server) {
            return Ok(ChainReported);
        }
        let (is_primary, memory) = (active.primary == server, active.memory_allowed);
        let subject = Subject::Chunk(handle);
        match report.what {
            ChainTrouble::HopFailed | ChainTrouble::PromiseRefused => {
                self.trouble(handle, version, report.blamed);
            }
            ChainTrouble::Corrupt => self.doubt(handle, version, server),
            ChainTrouble::Full if is_primary && self.goes_on_behind(handle) => {
                self.full(handle, memory);
            }
            ChainTrouble::WantsMemory if is_primary && !memory => {
                let (memory, drain) = (true, true);
                self.begin_change(subject, Goal::Active { memory, drain });
            }
            // A member's places run out on its own disk: each says so for itself.
            ChainTrouble::WantsSeal => {
                self.begin_change(subject, Goal::Sealed(Then::Nothing));
            }
            // Nothing is held ready yet; what is no business of a secondary is not heard; behind a full
            // chunk that is not the last there is one already, or will be in a moment.
            ChainTrouble::NearlyFull | ChainTrouble::Full | ChainTrouble::WantsMemory => {}
        }
        Ok(ChainReported)
    }

    /// The primary of a file's last chunk takes no more records in its version.
    fn full(&mut self, handle: ChunkHandle, memory: bool) {
        let subject = Subject::Chunk(handle);
        let Some(open) = self.open_chunks.open.get_mut(&handle) else {
            return;
        };
        match open.records {
            // It never took any: who appends has it opened for them.
            Records::None => {}
            // It may be so since it never took any: if it is full, it says so again.
            Records::Unknown => {
                let drain = true;
                self.begin_change(subject, Goal::Active { memory, drain });
            }
            Records::Taken => {
                open.is_full = true;
                self.begin_change(subject, Goal::Sealed(Then::Next));
            }
        }
    }

    /// Begins a work if the chunk can be changed at all, and its first attempt if changes are taken;
    /// in safe mode that waits.
    pub(super) fn begin_change(&mut self, subject: Subject, goal: Goal) {
        let is_differing = match subject {
            Subject::Chunk(handle) => self.open_chunks.is_differing(handle),
            Subject::Slot(..) => false,
        };
        if !self.is_read_only && !is_differing {
            self.begin_work(subject, goal);
            self.begin_attempt_if_due(subject);
        }
    }

    /// A primary has said whether it holds a lease.
    pub(super) fn grant_answered(
        &mut self,
        server: ServerId,
        handle: ChunkHandle,
        version: ChunkVersion,
        is_granted: bool,
    ) {
        let is_of_now = self
            .active(handle)
            .is_some_and(|it| it.version == version && it.primary == server);
        if !is_of_now {
            return;
        }
        if !is_granted {
            return self.go_on_without_primary(handle);
        }
        let Some(open) = self.open_chunks.open.get_mut(&handle) else {
            return;
        };
        open.is_granted = true;
        open.granted_by = None;
        for mut waiting in std::mem::take(&mut open.waiting) {
            // It has said that it holds the lease: what failed for the client was on the way there.
            waiting.asked.failed = ChunkVersion::NONE;
            self.open_for(waiting);
        }
    }

    /// A report names a replica with a seal prepared: if the log has that seal, it is settled.
    pub(in crate::core::machine) fn settle_if_logged(
        &mut self,
        server: ServerId,
        directory: DirectoryId,
        held: &HeldChunk,
    ) {
        if !held.flags.has(HeldFlags::PREPARED) {
            return;
        }
        let (handle, version) = (held.handle, held.version);
        let record = self.state.chunks.record(handle);
        let Some(sealed) = record.and_then(|record| record.at_rest()) else {
            return;
        };
        if sealed.version < version {
            // A seal that was given up. Only a higher version makes it void, and until then the
            // replica counts for nothing (section 3.7).
            return self.left_prepared(handle);
        }
        if sealed.version == version {
            self.order_settle(server, directory, handle);
        }
    }

    /// Has a server settle the seal that the log has of a chunk, if it has one.
    pub(super) fn order_settle(
        &mut self,
        server: ServerId,
        directory: DirectoryId,
        handle: ChunkHandle,
    ) {
        let record = self.state.chunks.record(handle);
        if let Some(sealed) = record.and_then(|record| record.at_rest()) {
            let settle = Settle {
                epoch: self.epoch,
                handle,
                version: sealed.version,
                length: sealed.len,
                crc32: sealed.crc,
            };
            let step = ChangeStep::Settle(directory);
            self.send_change(server, handle, sealed.version, step, settle.into());
        }
    }

    /// A server has settled a seal: that is its report of the replica.
    pub(super) fn settled(
        &mut self,
        server: ServerId,
        directory: DirectoryId,
        handle: ChunkHandle,
        version: ChunkVersion,
    ) {
        let Some(record) = self.state.chunks.record(handle) else {
            return;
        };
        let sealed = record.at_rest().filter(|it| it.version == version);
        let Some(sealed) = sealed else {
            return;
        };
        let held = HeldChunk {
            handle,
            version,
            serial: Serial::NONE,
            length: sealed.len,
            crc32: sealed.crc,
            state: ChunkState::Sealed,
            flags: HeldFlags::NONE,
            file_id: record.file,
            index: record.index,
        };
        // Of one that is being deleted the inventory has the last word: it may be gone again.
        if !self.orders.is_deleting(server, handle) {
            let replica = Replica::reported(server, directory, &held);
            self.servers.copied(handle, replica);
        }
        let settling = &mut self.open_chunks.settling;
        if let Some(it) = settling.get_mut(&handle) {
            it.members.remove(&server);
            if it.members.is_empty() {
                settling.remove(&handle);
                self.repairs.touch(handle);
                self.go_on_with(Subject::Chunk(handle));
            }
        }
    }
}
