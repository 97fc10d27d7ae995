//! Clients that want a chunk to mutate (`spec/messages.md` section 14.1, `OpenChunk`).
//!
//! Invariant: while a chunk is being made behind a file's last one, that one takes no records, and nobody
//! has it opened for them (`spec/replication.md` section 9). Who appends waits for the one that is made.

use std::ops::RangeInclusive;

use sarsen_protocol::id::{ChunkHandle, FileId};
use sarsen_protocol::message::{ChunkOpened, OpenChunk, Slot};
use sarsen_protocol::status::Status;
use sarsen_protocol::ticket::Rights;

use super::{Goal, Machine, Open, Subject, Then, Waiting, Work};
use crate::core::action::Failure;
use crate::core::command::{Command, SLOTS_MAX};
use crate::core::event::Token;
use crate::core::file::File;
use crate::core::machine::millis;

/// What is to be done for a client that wants a chunk.
enum Aim {
    /// It is open.
    Here(ChunkHandle),
    /// It is open, and its primary is to say that it holds the lease.
    Granted(ChunkHandle),
    /// Something has to be done first.
    After(Subject, Goal),
}

impl Machine {
    /// A client wants a chunk.
    pub(in crate::core::machine) fn open_chunk(&mut self, to: Token, asked: OpenChunk) {
        let until = self.now.elapsed.saturating_add(self.hold());
        self.open_for(Waiting { to, asked, until });
    }

    /// Answers a client, or has it wait for what has to be done first.
    pub(super) fn open_for(&mut self, waiting: Waiting) {
        match self.aim(&waiting.asked) {
            Err(failure) => self.refuse(waiting.to, failure),
            Ok(Aim::Here(handle)) => {
                let opened = self.opened(handle, &waiting.asked);
                self.answer(waiting.to, opened);
            }
            Ok(Aim::Granted(handle)) => {
                let open = self
                    .open_chunks
                    .open
                    .get_or_insert_with(handle, Open::default);
                let is_asked = open.granted_by.is_some();
                open.waiting.push(waiting);
                if !is_asked {
                    self.grant_again(handle);
                }
            }
            Ok(Aim::After(subject, goal)) => {
                if let Subject::Chunk(handle) = subject {
                    self.open_chunks.set_unavailable(handle, false);
                }
                self.begin_work(subject, goal);
                if let Some(work) = self.open_chunks.works.get_mut(&subject) {
                    work.waiting.push(waiting);
                }
                self.begin_attempt_if_due(subject);
            }
        }
    }

    fn aim(&mut self, asked: &OpenChunk) -> Result<Aim, Failure> {
        self.keep_session(asked.session)?;
        self.check_writable()?;
        let id = asked.file_id;
        let node = self.state.namespace.node(id).ok_or(Status::NotFound)?;
        let file = node.as_file().ok_or(Status::IsAFolder)?;
        if self.state.namespace.is_in_trash(id) {
            return Err(Status::NotFound.into());
        }
        if self.is_held_closed(id) {
            return Err(self.starting());
        }
        let (index, after) = match asked.slot {
            Slot::At(index) => (index, ChunkHandle::NONE),
            Slot::Last { after } => (self.last_slot(file), after),
        };
        if index as usize >= SLOTS_MAX {
            let text = format!("a file has at most {SLOTS_MAX} chunks");
            return Err(Failure::new(Status::TooLarge, text));
        }
        let (memory, drain) = (asked.memory, false);
        if matches!(asked.slot, Slot::Last { .. })
            && let Some(behind) = self.last_slot_begun(id, index.saturating_add(1)..=u32::MAX)
        {
            // Records go behind all that there will be in a moment.
            return Ok(Aim::After(behind, Goal::Active { memory, drain }));
        }
        match file.slot(index) {
            Some(handle) => self.aim_at(handle, after, asked),
            None => self.aim_behind(id, file, index, memory),
        }
    }

    /// A slot that names no chunk. If it is behind the last one, that takes no records any more before a
    /// chunk is made for it.
    fn aim_behind(
        &self,
        id: FileId,
        file: &File,
        index: u32,
        memory: bool,
    ) -> Result<Aim, Failure> {
        if let Some(full) = self.full_chunk_before(file, index) {
            return Ok(Aim::After(Subject::Chunk(full), Goal::Sealed(Then::Next)));
        }
        match self.taking_records_before(id, file, index) {
            Some(before) => {
                if let Subject::Chunk(last) = before
                    && let Some(failure) = self.dead_end(last)
                {
                    return Err(failure);
                }
                Ok(Aim::After(before, Goal::Sealed(Then::Nothing)))
            }
            None => {
                let drain = false;
                Ok(Aim::After(
                    Subject::Slot(id, index),
                    Goal::Active { memory, drain },
                ))
            }
        }
    }

    /// The last of a file's slots, of these, that a chunk is being made for.
    fn last_slot_begun(&self, id: FileId, slots: RangeInclusive<u32>) -> Option<Subject> {
        let (first, last) = slots.into_inner();
        let slots = Subject::Slot(id, first)..=Subject::Slot(id, last);
        self.open_chunks.works.last_key_in(slots)
    }

    /// What takes records, or will when it is open, before a slot that is behind a file's last chunk.
    fn taking_records_before(&self, id: FileId, file: &File, index: u32) -> Option<Subject> {
        let all = &self.open_chunks;
        let last = file.last_chunk();
        let behind = last.map_or(0, |(last, _)| last.saturating_add(1));
        if index < behind {
            return None;
        }
        if index > behind
            && let Some(begun) = self.last_slot_begun(id, behind..=index - 1)
            && all.works.get(&begun).is_some_and(Work::is_for_records)
        {
            return Some(begun);
        }
        let (_, last) = last?;
        let subject = Subject::Chunk(last);
        let work = all.works.get(&subject);
        let will_take =
            |work: &Work| work.goal == Goal::Sealed(Then::Next) || work.is_for_records();
        let open = all.open.get(&last);
        // One whose members differ takes nothing.
        let takes = open.is_some_and(|open| !open.is_closed())
            && self.is_last(last)
            && !all.is_differing(last);
        (takes || work.is_some_and(will_take)).then_some(subject)
    }

    /// Whether a full chunk goes on in a next one: it is the last, and no chunk is being made behind it.
    pub(super) fn goes_on_behind(&self, handle: ChunkHandle) -> bool {
        let record = self.state.chunks.record(handle);
        let is_begun = record.is_some_and(|record| {
            let behind = record.index.saturating_add(1)..=u32::MAX;
            self.last_slot_begun(record.file, behind).is_some()
        });
        self.is_last(handle) && !is_begun
    }

    /// The chunk before a slot, if it is being sealed with a next chunk, which is the one for the slot:
    /// two attempts for one slot are not run at a time (section 3.1). The other way round the seal waits
    /// until the work on the slot is over.
    pub(super) fn full_chunk_before(&self, file: &File, index: u32) -> Option<ChunkHandle> {
        let before = file.slot(index.checked_sub(1)?)?;
        let work = self.open_chunks.works.get(&Subject::Chunk(before))?;
        (work.goal == Goal::Sealed(Then::Next)).then_some(before)
    }

    fn aim_at(
        &self,
        handle: ChunkHandle,
        after: ChunkHandle,
        asked: &OpenChunk,
    ) -> Result<Aim, Failure> {
        let (memory, subject) = (asked.memory, Subject::Chunk(handle));
        let record = self.state.chunks.record(handle).ok_or(Status::NotFound)?;
        if record.references > 1 {
            let text = format!("chunk {handle} is shared with a snapshot, and can't be opened yet");
            return Err(Failure::new(Status::Unsupported, text));
        }
        if let Some(failure) = self.dead_end(handle) {
            return Err(failure);
        }
        let Some(active) = &record.active else {
            // Who does not know of the seal may only want to know what became of something.
            let sealed = record.sealed.map(|it| it.version).unwrap_or_default();
            let is_news = asked.failed.is_some() && sealed > asked.failed;
            if is_news && matches!(asked.slot, Slot::At(_)) {
                let text = format!("chunk {handle} was sealed since: ask again");
                return Err(Failure::new(Status::ChunkSealed, text));
            }
            let drain = false;
            return Ok(Aim::After(subject, Goal::Active { memory, drain }));
        };
        // A work that runs comes first, whatever it is for.
        let goal = Goal::Active {
            memory: memory || active.memory_allowed,
            drain: true,
        };
        if self.open_chunks.works.contains_key(&subject) {
            return Ok(Aim::After(subject, goal));
        }
        if self.open_chunks.is_unavailable(handle) {
            let (memory, drain) = (memory || active.memory_allowed, false);
            return Ok(Aim::After(subject, Goal::Active { memory, drain }));
        }
        let open = self.open_chunks.open.get(&handle);
        if after == handle && open.is_some_and(|open| open.is_full) {
            return Ok(Aim::After(subject, Goal::Sealed(Then::Next)));
        }
        let primary = active.primary;
        if !self.is_usable(primary) || !self.is_in_its_start(handle, primary) {
            let (memory, drain) = (memory || active.memory_allowed, false);
            return Ok(Aim::After(subject, Goal::Active { memory, drain }));
        }
        if memory && !active.memory_allowed {
            return Ok(Aim::After(subject, goal));
        }
        let is_for_records = matches!(asked.slot, Slot::Last { .. });
        if is_for_records && open.is_some_and(Open::is_closed) {
            return Ok(Aim::After(subject, goal));
        }
        let is_granted = open.is_some_and(|open| open.is_granted);
        match is_granted && asked.failed != active.version {
            true => Ok(Aim::Here(handle)),
            false => Ok(Aim::Granted(handle)),
        }
    }

    /// The slot that a record goes to: the last one, unless the file's size reaches beyond what its
    /// chunk was sealed with; what is appended goes behind all that there is.
    fn last_slot(&self, file: &File) -> u32 {
        let named = file.slots.len();
        let of_size = usize::try_from(file.slots_of_size()).unwrap_or(usize::MAX);
        let slots = named.max(of_size);
        let Some(last) = slots.checked_sub(1) else {
            return 0;
        };
        let index = u32::try_from(last).unwrap_or(u32::MAX);
        // What an open chunk has gained since the file's size does not tell yet.
        let sealed = file
            .slot(index)
            .and_then(|handle| self.state.chunks.record(handle))
            .and_then(|record| record.sealed);
        let sealed_len = sealed.map_or(0, |sealed| u64::from(sealed.len));
        let ends_at = file.slot_offset(index) + sealed_len;
        match ends_at < file.size {
            true => index.saturating_add(1),
            false => index,
        }
    }

    /// Whether a chunk is the one that records of its file go to.
    pub(super) fn is_last(&self, handle: ChunkHandle) -> bool {
        let record = self.state.chunks.record(handle);
        let file = record.and_then(|record| self.state.namespace.file(record.file));
        let (Some(record), Some(file)) = (record, file) else {
            return false;
        };
        self.last_slot(file) == record.index
    }

    fn opened(&self, handle: ChunkHandle, asked: &OpenChunk) -> Result<ChunkOpened, Failure> {
        let record = self.state.chunks.record(handle).ok_or(Status::NotFound)?;
        let active = record.active.as_ref().ok_or(Status::Internal)?;
        let chain = self.chain_of(active);
        let rights = Rights::READ.with(Rights::WRITE);
        let ticket = self.mutation_ticket(handle, active, &chain, asked.session, rights);
        let leases = &self.open_chunks.leases;
        let left = leases.left(handle, active.version, self.now.elapsed);
        Ok(ChunkOpened {
            index: record.index,
            handle,
            version: active.version,
            begin_serial: active.serial,
            memory: active.memory_allowed,
            sealed_version: record.sealed.map(|it| it.version).unwrap_or_default(),
            ticket,
            chain,
            lease: millis(left),
        })
    }

    /// Whether nothing of a file is opened at the moment: it is being truncated, be it that only the log
    /// is waited for. What is opened before that entry is applied would be opened with what it cuts off.
    pub(super) fn is_held_closed(&self, file: FileId) -> bool {
        let mut logging = self.in_flight.values();
        self.open_chunks.errands.holds_closed(file)
            || logging.any(
                |one| matches!(&one.entry.command, Command::FileResized(it) if it.file == file),
            )
    }
}
