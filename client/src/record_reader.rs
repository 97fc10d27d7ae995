//! [`RecordReader`]: every record of a file once. Drives [`Records`] over a [`LiveFile`].

use std::sync::Arc;

use sarsen_protocol::id::SessionId;

use crate::client::Shared;
use crate::core::records::{Found, Records, Step};
use crate::error::Error;
use crate::live_file::LiveFile;
use crate::open_file::DIRECT_LEN_MAX;

/// A record of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadRecord<'a> {
    /// Of its header's first byte in the file: what `append` told.
    pub offset: u64,
    /// The session that appended it.
    pub session: SessionId,
    /// The number of its request in the session; with the session it is the record's id.
    pub number: u64,
    /// What was appended.
    pub payload: &'a [u8],
}

/// Reads the records of a file in the order of their offsets, each id once.
///
/// All records are there that were acknowledged before it was made, and none that is not committed.
/// Bytes are verified as those of any read. What is no record is passed over and counted.
#[derive(Debug)]
pub struct RecordReader {
    live: LiveFile,
    records: Records,
}

impl RecordReader {
    pub(crate) async fn open(
        shared: &Arc<Shared>,
        path: &str,
        following: bool,
    ) -> Result<Self, Error> {
        let live = LiveFile::open(shared, path).await?;
        let mut records = Records::new(0, following);
        records.handle_end(live.end(), live.open_from());
        Ok(Self { live, records })
    }

    /// The next record; `None` at the end of what was there when the reader was made, or, of one
    /// that follows the file, when [`RecordReader::wait`] looked last.
    ///
    /// # Errors
    /// As [`crate::OpenFile::read_at`].
    pub async fn next(&mut self) -> Result<Option<ReadRecord<'_>>, Error> {
        let Some(found) = self.find().await? else {
            return Ok(None);
        };
        Ok(Some(ReadRecord {
            offset: found.offset,
            session: found.session,
            number: found.number,
            payload: self.records.payload(&found),
        }))
    }

    /// Waits until there is more of a file that is followed.
    ///
    /// # Errors
    /// As [`RecordReader::next`]; [`Error::Changed`] as of [`crate::Follower::look`].
    pub async fn wait(&mut self) -> Result<(), Error> {
        while !self.live.advance().await? {}
        self.records
            .handle_end(self.live.end(), self.live.open_from());
        Ok(())
    }

    /// Bytes that were passed over and are neither zeros nor a record's.
    #[must_use]
    pub const fn leftover(&self) -> u64 {
        self.records.leftover()
    }

    async fn find(&mut self) -> Result<Option<Found>, Error> {
        loop {
            match self.records.poll() {
                Step::Need { at, len } => match self.live.hole_end(at).await? {
                    Some(to) => self.records.handle_hole(to),
                    None => {
                        let len = len.max(DIRECT_LEN_MAX);
                        let bytes = self.live.read(at, len).await?;
                        self.records.handle_bytes(&bytes);
                    }
                },
                Step::Record(found) => return Ok(Some(found)),
                Step::Wait | Step::End => return Ok(None),
            }
        }
    }
}
