//! The journal's words on what an open chunk does: as few entries as hold them (`spec/journal.md`
//! sections 2 and 6).

use sarsen_protocol::id::Serial;

use super::super::journal::body::{
    Applied, Checkpoint, ENTRY_ID_ROWS_MAX, MUTATIONS_MAX, Mutation,
};

/// Bytes of mutations that are put into one entry.
const ENTRY_BYTES_MAX: usize = 1024 * 1024;

/// Blocks that one entry tells of: with that, whatever else is in it, its body is within bounds.
const ENTRY_BLOCKS_MAX: usize = 4096;

/// The journal's words on mutations that follow each other.
pub(super) struct Batch {
    next: Serial,
    commit_mark: Serial,
    entries: Vec<Applied>,
    /// Blocks that the last entry tells of.
    blocks: usize,
    /// Bytes of mutations that may still come.
    rest: usize,
}

impl Batch {
    /// Of mutations from `first` on, which have `len` bytes together.
    pub(super) const fn new(first: Serial, commit_mark: Serial, len: usize) -> Self {
        Self {
            rest: len,
            next: first,
            commit_mark,
            entries: Vec::new(),
            blocks: 0,
        }
    }

    pub(super) fn push(&mut self, mutation: Mutation, bytes: &[u8]) {
        let blocks = mutation.blocks.len();
        let own = if mutation.has_bytes { bytes } else { &[] };
        let fits = |last: &&mut Applied| {
            let is_alike = last
                .mutations
                .last()
                .is_some_and(|before| before.has_bytes == mutation.has_bytes);
            is_alike
                && last.mutations.len() < MUTATIONS_MAX
                && last.bytes.len() + own.len() <= ENTRY_BYTES_MAX
                && self.blocks + blocks <= ENTRY_BLOCKS_MAX
        };
        match self.entries.last_mut().filter(fits) {
            Some(last) => {
                last.mutations.push(mutation);
                last.bytes.extend_from_slice(own);
                self.blocks += blocks;
            }
            None => {
                let mut kept = Vec::with_capacity(match own {
                    [] => 0,
                    _ => self.rest.min(ENTRY_BYTES_MAX),
                });
                kept.extend_from_slice(own);
                self.entries.push(Applied {
                    first_serial: self.next,
                    commit_mark: self.commit_mark,
                    mutations: vec![mutation],
                    bytes: kept,
                });
                self.blocks = blocks;
            }
        }
        self.rest = self.rest.saturating_sub(bytes.len());
        self.next.0 = self.next.0.saturating_add(1);
    }

    /// Each entry, and whether it waits for a sync.
    pub(super) fn finish(self) -> impl Iterator<Item = (Applied, bool)> {
        self.entries.into_iter().map(|applied| {
            let needs_sync = applied.mutations.iter().any(|m| !m.has_bytes);
            (applied, needs_sync)
        })
    }
}

/// A checkpoint in as many entries as its rows need.
pub(super) fn parts_of(mut whole: Checkpoint) -> Vec<Checkpoint> {
    let mut parts = Vec::new();
    while whole.ids.len() > ENTRY_ID_ROWS_MAX {
        let rest = whole.ids.split_off(ENTRY_ID_ROWS_MAX);
        let ids = std::mem::replace(&mut whole.ids, rest);
        parts.push(Checkpoint {
            ids,
            more: true,
            ..whole.clone()
        });
    }
    parts.push(whole);
    parts
}
