//! What the facts say of the chunks of files: which are beyond help, and which losses were accepted.

use sarsen_master::core::chunk_table::Sealed;
use sarsen_master::core::command::{ChunkSealed, Command, Entry, LossCause, Then};
use sarsen_protocol::id::{ChunkHandle, FileId};

use super::{AcceptedLoss, Facts};

impl Facts {
    /// The chunks of a file.
    pub fn chunks_of(&self, file: FileId) -> impl Iterator<Item = ChunkHandle> {
        let file = self.shadow.namespace.file(file).into_iter();
        file.flat_map(|file| file.chunks().map(|(_, handle)| handle))
    }

    /// Whether a chunk is beyond help: everybody's disk has lost it who ever had what the log says, or who is
    /// a member of it. A person may go on with an older copy, if there is one.
    #[must_use]
    pub fn is_chunk_beyond_help(&self, handle: ChunkHandle) -> bool {
        let Some(record) = self.shadow.chunks.record(handle) else {
            return false;
        };
        if let Some(active) = &record.active {
            let mut members = active.members.iter();
            return members.all(|member| {
                let machine = self.machines.get(&member.server);
                machine.is_some_and(|machine| self.is_spoiled(*machine, handle))
            });
        }
        let sealed = record.at_rest();
        let had = sealed.and_then(|sealed| self.had.get(&(handle, sealed.version)));
        had.is_some_and(|had| had.iter().all(|machine| self.is_spoiled(*machine, handle)))
    }

    /// Whether a file has a chunk that is beyond help.
    #[must_use]
    pub fn is_beyond_help(&self, file: FileId) -> bool {
        let mut handles = self.chunks_of(file);
        handles.any(|handle| self.is_chunk_beyond_help(handle))
    }

    /// All chunks that are beyond help, each with its file.
    #[must_use]
    pub fn chunks_beyond_help(&self) -> Vec<(ChunkHandle, FileId)> {
        let files = self.names.files().map(|(_, file)| file);
        let chunks = files.flat_map(|file| self.chunks_of(file).map(move |it| (it, file)));
        let lost = chunks.filter(|(handle, _)| self.is_chunk_beyond_help(*handle));
        lost.collect()
    }

    /// Whether somebody has a copy of a chunk that is not spoiled, be it an old one.
    #[must_use]
    pub fn has_copy(&self, chunk: ChunkHandle) -> bool {
        let mut held = self.held.keys();
        held.any(|&(machine, handle)| handle == chunk && !self.is_spoiled(machine, handle))
    }

    /// Whether a replica may be spoiled.
    #[must_use]
    pub fn is_spoiled(&self, machine: u8, handle: ChunkHandle) -> bool {
        self.spoiled_machines.contains(&machine) || self.spoiled.contains(&(machine, handle))
    }

    /// The first slot of a file of records that nobody has written in, nor is about to.
    #[must_use]
    pub fn next_slot(&self, file: FileId) -> u32 {
        let named = self.shadow.namespace.file(file);
        let named = named.and_then(|it| it.chunks().last().map(|(index, _)| index + 1));
        let far = self.far_slots.get(&file).copied();
        named.max(far).unwrap_or(0)
    }

    /// Whether the loss of a chunk's good copies is being accepted.
    #[must_use]
    pub fn is_being_accepted(&self, chunk: ChunkHandle) -> bool {
        self.accepting.values().any(|handle| *handle == chunk)
    }

    /// What the log says of a chunk that an entry is about to seal, if it is at rest.
    pub(super) fn state_before(&self, entry: &Entry) -> Option<Sealed> {
        match &entry.command {
            Command::ChunkSealed(body) => self.shadow.chunks.record(body.handle)?.at_rest(),
            _ => None,
        }
    }

    /// Notes what an entry that was applied says to be lost.
    pub(super) fn note_losses(&mut self, entry: &Entry, before: Option<Sealed>) {
        match &entry.command {
            Command::PossibleLoss(body) if body.cause == LossCause::Accepted => {
                self.losses.is_to_be_accepted(body.handle, body.version);
            }
            Command::PossibleLoss(body) => {
                if let Some(slot) = self.names.slot_of(body.handle) {
                    let chunk = (body.handle, body.version);
                    self.losses.add_of_memory(chunk, slot, self.now);
                }
            }
            Command::ChunkActivated(body) => {
                self.losses.take_said(body.handle);
                let version = body.configuration.version;
                self.ages.activated(body.handle, version);
            }
            Command::ChunkSealed(body) => {
                self.note_accepted(entry, body, before);
                self.ages.sealed(body.handle, body.version);
                if let Then::Next(next) = &body.then {
                    self.ages.activated(next.handle, next.configuration.version);
                }
            }
            _ => {}
        }
    }

    /// A loss is accepted when its chunk is sealed for the request.
    fn note_accepted(&mut self, entry: &Entry, body: &ChunkSealed, at_rest: Option<Sealed>) {
        let last = self.losses.take_said(body.handle);
        let (Some(last), Some(request), Some((file, index))) =
            (last, entry.request, self.names.slot_of(body.handle))
        else {
            return;
        };
        let by = self.ages.prepared_by(body.handle, body.version);
        let taken = by.and_then(|by| Some((by.machine, by.of?)));
        let is_sound = |machine| !self.is_spoiled(machine, body.handle);
        let kept = taken.filter(|(machine, _)| is_sound(*machine));
        self.losses.add_accepted(AcceptedLoss {
            handle: body.handle,
            file,
            index,
            request: (request.session, request.number),
            last,
            at_rest,
            sealed: Sealed {
                version: body.version,
                len: body.len,
                crc: body.crc,
            },
            taken,
            kept: kept.map(|(_, age)| age),
            at: self.now,
        });
    }
}
