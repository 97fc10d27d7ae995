//! Writes at an offset from the caller's side (`spec/replication.md` section 10).

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use sarsen_protocol::size::PAYLOAD_LEN_MAX;

use super::{Change, Pending, WriteOptions, Writer};
use crate::client::Shared;
use crate::error::{Error, file_len_max};

/// Writes over the bytes of one file, and beyond its end, as many at a time as there is room for.
///
/// Bytes are cut at the edges of chunks and into mutations of at most a mebibyte, each of which is
/// done as a whole and once, in no order with the others. Where they overlap, flush between. A
/// writer that is dropped leaves what is under way wherever it is.
#[derive(Debug)]
pub struct FileWriter {
    writer: Writer,
    /// What is under way, in order, with its bytes.
    pending: VecDeque<(u64, Pending)>,
    sums: WriteSums,
    /// Whether a write has failed.
    has_failed: bool,
}

/// What became of the bytes that a writer was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriteSums {
    /// Those that were written before the first that were not, in the order in which they were given.
    pub before_failure: u64,
    /// All that were written.
    pub written: u64,
    /// Those that may have been written or not.
    pub in_doubt: u64,
}

impl FileWriter {
    pub(crate) async fn open(
        shared: &Arc<Shared>,
        path: &str,
        options: WriteOptions,
    ) -> Result<Self, Error> {
        Ok(Self {
            writer: Writer::open(shared, path, options).await?,
            pending: VecDeque::new(),
            sums: WriteSums::default(),
            has_failed: false,
        })
    }

    /// Whether so many bytes at an offset lie within the largest file.
    ///
    /// # Errors
    /// [`Error::FileTooLong`].
    pub fn check(&self, offset: u64, len: u64) -> Result<(), Error> {
        let bytes = offset.saturating_add(len);
        let chunk_size = self.writer.chunk_size;
        match bytes <= file_len_max(chunk_size) {
            true => Ok(()),
            false => Err(Error::FileTooLong { bytes, chunk_size }),
        }
    }

    /// How many bytes at an offset best go with one call: up to the next edge of mutations.
    #[must_use]
    pub fn len_at(&self, offset: u64) -> usize {
        let payload = u64::from(PAYLOAD_LEN_MAX);
        // Chunks are whole mebibytes, so an edge of a chunk is one of mutations too.
        usize::try_from(payload - offset % payload).unwrap_or(0)
    }

    /// Takes bytes as soon as there is room for them.
    ///
    /// # Errors
    /// [`Error::FileTooLong`] before anything is sent; how an earlier write failed.
    pub async fn write_at(&mut self, offset: u64, bytes: Bytes) -> Result<(), Error> {
        self.check(offset, bytes.len() as u64)?;
        let (mut offset, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            self.take_answered()?;
            let piece = rest.split_to(rest.len().min(self.len_at(offset)));
            let len = piece.len() as u64;
            let chunk_size = u64::from(self.writer.chunk_size);
            let place = u32::try_from(offset / chunk_size);
            let within = u32::try_from(offset % chunk_size);
            let (Ok(index), Ok(within)) = (place, within) else {
                return Err(Error::TooLarge { bytes: offset });
            };
            let change = Change::Write {
                index,
                offset: within,
            };
            let pending = self.writer.begin(change, piece).await?;
            self.pending.push_back((len, pending));
            offset += len;
        }
        Ok(())
    }

    /// Waits until all was written.
    ///
    /// # Errors
    /// How the first write failed that did, or [`Error::WritesFailed`] if some failed since the last
    /// flush and were told by [`Self::write_at`]; the others may have been done.
    pub async fn flush(&mut self) -> Result<(), Error> {
        let mut first = None;
        while let Some((len, pending)) = self.pending.pop_front() {
            let answer = pending.await.map(|_| ());
            self.note(len, &answer);
            if let Err(error) = answer {
                first.get_or_insert(error);
            }
        }
        let all = self.writer.flush().await;
        first.map_or(all, Err)
    }

    /// What became of all that was given, as far as it is known: after a [`FileWriter::flush`], of every
    /// byte.
    #[must_use]
    pub const fn sums(&self) -> WriteSums {
        self.sums
    }

    /// Takes the answers that are there, so that a failure ends a long write.
    fn take_answered(&mut self) -> Result<(), Error> {
        while let Some((len, first)) = self.pending.front_mut()
            && let Some(answer) = first.now()
        {
            let (len, answer) = (*len, answer.map(|_| ()));
            self.pending.pop_front();
            self.note(len, &answer);
            answer?;
        }
        Ok(())
    }

    fn note(&mut self, len: u64, answer: &Result<(), Error>) {
        match answer {
            Ok(()) => self.sums.written += len,
            Err(error) if error.leaves_doubt() => self.sums.in_doubt += len,
            Err(_) => {}
        }
        self.has_failed |= answer.is_err();
        if !self.has_failed {
            self.sums.before_failure += len;
        }
    }
}
