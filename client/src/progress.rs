//! How far a transfer has come, for whoever shows it.

use std::collections::HashMap;

/// Is told how far a transfer has come, from whatever thread.
pub trait Progress: Send + Sync {
    /// How many bytes it will be, once that is known.
    fn total(&self, bytes: u64);

    /// How many bytes are done. May go back, when a chunk has to be sent again.
    fn done(&self, bytes: u64);

    /// How many bytes a whole tree will be, where that is known before its files are.
    fn whole(&self, _bytes: u64) {}

    /// How many files of a tree are done.
    fn files(&self, _files: u64) {}
}

/// Adds up the chunks.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    chunks: HashMap<u32, u32>,
    done: u64,
}

impl Tally {
    /// So much of a chunk is done; how much is done of all.
    pub(crate) fn set(&mut self, index: u32, bytes: u32) -> u64 {
        let before = self.chunks.insert(index, bytes).unwrap_or(0);
        self.done = self.done + u64::from(bytes) - u64::from(before);
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_that_begins_anew_takes_its_bytes_back() {
        let mut tally = Tally::default();
        assert_eq!(tally.set(0, 10), 10);
        assert_eq!(tally.set(1, 5), 15);
        assert_eq!(tally.set(0, 2), 7);
    }
}
