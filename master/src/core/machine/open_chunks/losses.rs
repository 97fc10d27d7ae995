//! A person goes on without what nobody can give any more (`spec/replication.md` section 8).
//!
//! Here it is decided whether a loss may be accepted, and which copies come into question; which of
//! them is taken their servers' answers say (`version_change/best_copy.rs`).

use std::cmp::Reverse;
use std::time::Duration;

use sarsen_protocol::id::{ChunkHandle, ServerId};
use sarsen_protocol::message::{AcceptLoss, HeldFlags, LossAccepted};
use sarsen_protocol::status::Status;

use super::{Goal, Machine, Subject};
use crate::core::action::Failure;
use crate::core::chunk_table::ChunkRecord;
use crate::core::command::Member;
use crate::core::event::Token;
use crate::core::machine::changes::Asked;
use crate::core::machine::millis;
use crate::core::replica::Source;
use crate::core::version_change::words::{Failure as Why, OldCopy};

impl Machine {
    /// A person goes on without what nobody can be heard of.
    pub(in crate::core::machine) fn accept_loss(&mut self, to: Token, asked: &AcceptLoss) {
        let (request, handle) = (asked.request, asked.handle);
        if self.is_taken(to, request, Asked::AcceptLoss(handle, ServerId::NONE)) {
            return;
        }
        match self.check_acceptance(asked) {
            Err(failure) => self.refuse_request(to, request, failure),
            Ok(()) => {
                let subject = Subject::Chunk(handle);
                self.give_up_try(handle);
                self.begin_work(subject, Goal::Accepted);
                if let Some(work) = self.open_chunks.works.get_mut(&subject) {
                    // Whose copy is taken is known when the servers have answered.
                    let asked = Asked::AcceptLoss(handle, ServerId::NONE);
                    work.request = Some((request, to, asked));
                }
                self.begin_attempt_if_due(subject);
            }
        }
    }

    fn check_acceptance(&mut self, asked: &AcceptLoss) -> Result<(), Failure> {
        self.keep_session(asked.request.session)?;
        self.check_admissible(asked.request)?;
        let handle = asked.handle;
        let record = self.state.chunks.record(handle);
        let record = record.ok_or(Status::ChunkUnknown)?;
        if !self.is_stuck(handle, record) {
            let text =
                format!("chunk {handle} has a copy to go on with: there is no loss to accept");
            return Err(Failure::new(Status::InvalidArgument, text));
        }
        if let Some(text) = self.hope_for(handle) {
            self.try_for_a_person(handle);
            let wait = millis(self.config.heartbeat);
            return Err(Failure::new(Status::Overloaded, text).retry_after(wait));
        }
        self.old_copies(handle, record).map(|_| ())
    }

    /// The copies that may be gone on with when a loss was accepted, the highest of each server. Also of
    /// servers that lost their connection a moment ago: that is no reason to take another.
    pub(super) fn old_copies(
        &self,
        handle: ChunkHandle,
        record: &ChunkRecord,
    ) -> Result<Vec<OldCopy>, Failure> {
        let (now, dead_after) = (self.now.elapsed, self.config.dead_after);
        let is_readable =
            |flags: HeldFlags| !flags.has(HeldFlags::CORRUPT) && !flags.has(HeldFlags::POISONED);
        let bad = self.open_chunks.bad_copies.get(&handle);
        let is_bad = |server| bad.is_some_and(|servers| servers.contains(server));
        let replicas = self.servers.live_replicas(handle, now, dead_after);
        let readable = replicas.filter(|replica| {
            replica.source == Source::Reported
                && is_readable(replica.flags)
                && !is_bad(&replica.server)
        });
        let members = record.active.as_ref().map(|active| &active.members);
        let mut copies: Vec<OldCopy> = readable
            .filter_map(|replica| {
                let member = self.member(replica)?;
                let is_it =
                    |it: &Member| (it.server, it.directory) == (replica.server, replica.directory);
                Some(OldCopy {
                    member,
                    version: replica.version,
                    serial: replica.serial,
                    is_member: members.is_some_and(|members| members.iter().any(is_it)),
                })
            })
            .collect();
        copies.sort_by_key(|copy| (copy.member.server, Reverse((copy.version, copy.serial))));
        copies.dedup_by_key(|copy| copy.member.server);
        if copies.is_empty() {
            let text = format!(
                "no server that can be heard has a readable copy of chunk {handle} on a disk that \
                 takes changes"
            );
            return Err(Failure::new(Status::Unavailable, text));
        }
        Ok(copies)
    }

    /// Whether a chunk comes right by a person's word only (`spec/replication.md` section 8).
    fn is_stuck(&self, handle: ChunkHandle, record: &ChunkRecord) -> bool {
        let all = &self.open_chunks;
        if record.at_rest().is_none() {
            return all.is_unavailable(handle) || all.is_differing(handle);
        }
        let (now, dead_after) = (self.now.elapsed, self.config.dead_after);
        let sources = self.servers.sources(handle, record, now, dead_after);
        sources.is_empty() || all.is_differing(handle)
    }

    /// Why a chunk may yet come right by itself, if it may.
    fn hope_for(&self, handle: ChunkHandle) -> Option<String> {
        let is_tried = self.open_chunks.works.contains_key(&Subject::Chunk(handle));
        if is_tried && !self.is_only_tried(handle) {
            return Some(format!("chunk {handle} is being changed"));
        }
        if self.may_be_sealed_again(handle) {
            return Some(format!(
                "chunk {handle} may yet be sealed again from what a server has prepared"
            ));
        }
        if self.open_chunks.leases.may_run(handle, self.now.elapsed) {
            return Some(format!(
                "the last lease of chunk {handle} may still be running"
            ));
        }
        // Whoever is silent is not waited for as long as repair does: a person has looked.
        let in_doubt = self.examiner().in_doubt().into_iter();
        let until = |until: Duration| until.saturating_sub(self.config.repair_grace);
        let mut in_doubt = in_doubt.filter(|(_, latest)| self.now.elapsed < until(*latest));
        let (server, _) = in_doubt.next()?;
        Some(format!(
            "server {server} has not told yet all that it holds"
        ))
    }

    /// No copy was sealed of a chunk whose loss was accepted: the person decides again, with what is known
    /// then. It was no attempt with the members, which are what they were. A copy that is bad by its
    /// server's word, or by the log's, is none until its server registers anew.
    pub(super) fn acceptance_given_up(&mut self, subject: Subject, handle: ChunkHandle, why: &Why) {
        let text = match why {
            Why::NotApplied => {
                let failure = self.starting();
                return self.fail_work(subject, &failure);
            }
            Why::Damaged(servers) => self.copies_are_bad(handle, servers),
            Why::Members(faults) => {
                let servers: Vec<ServerId> = faults.iter().map(|(server, _)| *server).collect();
                match faults.iter().all(|(_, fault)| fault.is_of_the_replica()) {
                    true => self.copies_are_bad(handle, &servers),
                    false => format!(
                        "server {}, which may have the best copy of chunk {handle}, does not answer, or \
                         can't seal it now: ask again, or stop it to go on without",
                        list(&servers)
                    ),
                }
            }
            Why::TooFew | Why::Unavailable | Why::Corrupt(_) => {
                format!("no server that can be heard has a copy of chunk {handle} to go on with")
            }
        };
        self.fail_work(subject, &Failure::new(Status::Unavailable, text));
    }

    /// Whatever these servers have of a chunk is bad: for which of two replicas a server answers is its own
    /// choice.
    fn copies_are_bad(&mut self, handle: ChunkHandle, servers: &[ServerId]) -> String {
        let bad = self.open_chunks.bad_copies.entry(handle).or_default();
        bad.extend(servers);
        format!(
            "the copy of chunk {handle} on server {} can't be sealed: ask again, and the next best is taken",
            list(servers)
        )
    }

    /// What is told of a loss that was accepted, with `holder`'s copy if that is remembered.
    pub(in crate::core::machine) fn loss_accepted(
        &self,
        handle: ChunkHandle,
        holder: ServerId,
    ) -> Result<LossAccepted, Failure> {
        let record = self.state.chunks.record(handle);
        let sealed = record.and_then(|record| record.sealed);
        let sealed = sealed.ok_or(Status::ChunkUnknown)?;
        let mut replicas = self.servers.replicas(handle).iter();
        let server = replicas.find(|replica| replica.version == sealed.version);
        let server = server.map(|replica| replica.server).unwrap_or_default();
        Ok(LossAccepted {
            version: sealed.version,
            length: sealed.len,
            server: if holder.is_some() { holder } else { server },
        })
    }
}

fn list(servers: &[ServerId]) -> String {
    let servers: Vec<String> = servers.iter().map(ServerId::to_string).collect();
    servers.join(", ")
}
