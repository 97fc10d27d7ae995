//! Record append from the caller's side (`spec/records.md` sections 1 and 4).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use sarsen_protocol::message::Level;
use sarsen_protocol::record::RECORD_HEADER_LEN;

use super::{Change, Pending, WriteOptions, Writer, Written};
use crate::client::Shared;
use crate::error::Error;

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Appended {
    /// Of the first byte of its header, in the file.
    pub offset: u64,
    /// Bytes of its payload.
    pub length: u32,
    /// The index of its chunk.
    pub chunk: u32,
    /// What it has reached on every copy.
    pub level: Level,
    /// How many copies there were.
    pub copies: u8,
}

/// Appends records to one file, as many at a time as there is room for.
///
/// Each record is appended once, whatever fails on the way, at an offset that the cluster chooses
/// and [`Receipt`] tells. Records of one writer are appended in the order in which they were given
/// as long as nothing fails and no chunk ends; with [`WriteOptions::ordered`] then too. A writer
/// that is dropped leaves what is under way wherever it is: [`RecordWriter::flush`] first.
#[derive(Debug)]
pub struct RecordWriter {
    writer: Writer,
}

impl RecordWriter {
    pub(crate) async fn open(
        shared: &Arc<Shared>,
        path: &str,
        options: WriteOptions,
    ) -> Result<Self, Error> {
        let writer = Writer::open(shared, path, options).await?;
        Ok(Self { writer })
    }

    /// Bytes that a record may have.
    #[must_use]
    pub fn payload_len_max(&self) -> usize {
        (self.writer.chunk_size / 4) as usize - RECORD_HEADER_LEN
    }

    /// Takes a record as soon as there is room for it. What becomes of it the receipt tells.
    ///
    /// # Errors
    /// [`Error::RecordTooLarge`], before anything is sent.
    pub async fn append(&mut self, payload: &[u8]) -> Result<Receipt, Error> {
        let bytes_max = self.payload_len_max();
        if payload.len() > bytes_max {
            return Err(Error::RecordTooLarge {
                bytes: payload.len() as u64,
                bytes_max: bytes_max as u64,
            });
        }
        let mut record = Vec::with_capacity(RECORD_HEADER_LEN + payload.len());
        record.resize(RECORD_HEADER_LEN, 0);
        record.extend_from_slice(payload);
        let pending = self
            .writer
            .begin(Change::Record, Bytes::from(record))
            .await?;
        Ok(Receipt {
            pending,
            // Less than a chunk.
            length: u32::try_from(payload.len()).unwrap_or(u32::MAX),
        })
    }

    /// Waits until it is known of every record what became of it.
    ///
    /// # Errors
    /// [`Error::WritesFailed`] if some failed since the last flush: the receipts say why.
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.writer.flush().await
    }
}

/// What becomes of a record. One that is dropped changes nothing.
///
/// # Errors
/// [`Error::NotWritten`], [`Error::NotTried`] and [`Error::Refused`] if it surely was not appended;
/// [`Error::WriteInDoubt`], [`Error::ChunkGone`] and [`Error::OutcomeUnknown`] if nobody can tell.
#[derive(Debug)]
#[must_use = "it says what became of the record"]
pub struct Receipt {
    pending: Pending,
    length: u32,
}

impl Receipt {
    /// What became of the record, if that is known by now; only once.
    pub fn now(&mut self) -> Option<Result<Appended, Error>> {
        let written = self.pending.now()?;
        Some(written.map(|written| self.appended(written)))
    }

    const fn appended(&self, written: Written) -> Appended {
        Appended {
            offset: written.offset,
            length: self.length,
            chunk: written.index,
            level: written.level,
            copies: written.copies,
        }
    }
}

impl Future for Receipt {
    type Output = Result<Appended, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let written = Pin::new(&mut self.pending).poll(context);
        written.map_ok(|written| self.appended(written))
    }
}
