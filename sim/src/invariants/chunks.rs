//! What the facts say of the chunks of files: which are beyond help, and which are being worked on.

use sarsen_protocol::id::{ChunkHandle, FileId};

use super::Facts;
use crate::oracle::op::Op;

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

    /// Whether a client is about to accept the loss of a chunk's good copies.
    #[must_use]
    pub fn is_being_accepted(&self, chunk: ChunkHandle) -> bool {
        let mut running = self.ops.values().filter(|it| it.outcome.is_none());
        running.any(|it| matches!(it.op, Op::AcceptLoss { handle, .. } if handle == chunk))
    }
}
