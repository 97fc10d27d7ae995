//! Which slots of a patch file are free (`spec/journal.md` section 4).
//!
//! A slot is free when no state names it that may be asked for, rolled back to, or rebuilt from the
//! journal after a crash, **and** no read that was begun on it is under way. Committed and stable
//! alone is not enough: the bytes of the mutation that replaced it may be stable in the journal
//! while the block made of it is only in the page cache.

use std::collections::{BTreeMap, BTreeSet};

use sarsen_protocol::id::{ChunkVersion, Serial};

use super::super::journal::body::SLOTS_MAX;

/// The slots of one patch file.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    /// Slots from here on were never used.
    made: u32,
    /// Those below that nothing names.
    free: BTreeSet<u32>,
    /// The mutation that replaced a slot's block: the state before may still be needed.
    replaced: BTreeMap<u32, Serial>,
    /// The version whose beginning forgot the mutation that wrote a slot.
    forgotten: BTreeMap<u32, ChunkVersion>,
    /// Reads under way.
    reads: BTreeMap<u32, usize>,
}

impl Slots {
    /// Slots of which a state names those.
    #[must_use]
    pub fn naming(named: impl IntoIterator<Item = u32>) -> Self {
        let mut slots = Self::default();
        for slot in named {
            slots.claim(slot);
        }
        slots
    }

    /// A free slot that is none of `picked`; `None` if there is none.
    #[must_use]
    pub fn pick(&self, picked: &[u32]) -> Option<u32> {
        let is_free = |slot: &u32| !self.reads.contains_key(slot) && !picked.contains(slot);
        let fresh = || (self.made..SLOTS_MAX).find(is_free);
        self.free.iter().copied().find(is_free).or_else(fresh)
    }

    /// Whether nothing names the slot and nobody reads it.
    #[must_use]
    pub fn is_free(&self, slot: u32) -> bool {
        let is_unused = self.free.contains(&slot) || (self.made..SLOTS_MAX).contains(&slot);
        is_unused && !self.reads.contains_key(&slot)
    }

    /// A state names the slot from now on; false if it was not free.
    pub fn claim(&mut self, slot: u32) -> bool {
        if !self.is_free(slot) {
            return false;
        }
        if !self.free.remove(&slot) {
            self.free.extend(self.made..slot);
            self.made = slot + 1;
        }
        true
    }

    /// A mutation put the slot's block elsewhere.
    pub fn replace(&mut self, slot: u32, by: Serial) {
        self.replaced.insert(slot, by);
    }

    /// The mutation that replaced the slot was forgotten: the block is there again.
    pub fn restore(&mut self, slot: u32) {
        self.replaced.remove(&slot);
    }

    /// The mutation that wrote the slot was forgotten by the beginning of this version.
    pub fn forget(&mut self, slot: u32, by: ChunkVersion) {
        self.forgotten.insert(slot, by);
    }

    /// A checkpoint at this serial is stable: states before it are needed no more.
    pub fn checkpoint_is_stable(&mut self, at: Serial) {
        let freed = self.replaced.extract_if(.., |_, by| *by <= at);
        self.free.extend(freed.map(|(slot, _)| slot));
    }

    /// The `begun` of this version is stable, and with it those of all versions before.
    pub fn begun_is_stable(&mut self, version: ChunkVersion) {
        let freed = self.forgotten.extract_if(.., |_, by| *by <= version);
        self.free.extend(freed.map(|(slot, _)| slot));
    }

    /// A read of the slot begins.
    pub fn begin_read(&mut self, slot: u32) {
        *self.reads.entry(slot).or_default() += 1;
    }

    /// A read of the slot has ended: nothing of it is on its way any more.
    pub fn end_read(&mut self, slot: u32) {
        if let Some(count) = self.reads.get_mut(&slot) {
            *count -= 1;
            if *count == 0 {
                self.reads.remove(&slot);
            }
        }
    }

    /// How many slots the patch file has room for so far.
    #[must_use]
    pub const fn made(&self) -> u32 {
        self.made
    }
}
