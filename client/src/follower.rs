//! [`Follower`]: the bytes of a file as they are committed, as `tail -f` shows them.

use std::sync::Arc;

use crate::client::Shared;
use crate::error::Error;
use crate::live_file::LiveFile;
use crate::open_file::DIRECT_LEN_MAX;

/// Reads a file from a place on, and what is appended to it.
///
/// Only committed bytes come, each place once; unless somebody cuts the file, what was given out stays
/// where it is. Holes and padding come as the zeros that they read as.
#[derive(Debug)]
pub struct Follower {
    live: LiveFile,
    at: u64,
}

impl Follower {
    pub(crate) async fn open(shared: &Arc<Shared>, path: &str) -> Result<Self, Error> {
        let live = LiveFile::open(shared, path).await?;
        Ok(Self { live, at: 0 })
    }

    /// Bytes of the file, as far as is known: at first all that were acknowledged before.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.live.end()
    }

    /// Where the next read begins.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.at
    }

    /// The next read begins at `offset`, or at the end if that lies before.
    pub fn seek(&mut self, offset: u64) {
        self.at = offset.min(self.end());
    }

    /// The next bytes, up to a mebibyte; none at the end.
    ///
    /// # Errors
    /// As [`crate::OpenFile::read_at`].
    pub async fn read(&mut self) -> Result<Vec<u8>, Error> {
        let bytes = self.live.read(self.at, DIRECT_LEN_MAX).await?;
        self.at += bytes.len() as u64;
        Ok(bytes)
    }

    /// Waits a moment, at most a quarter of a second, and looks whether there is more.
    ///
    /// # Errors
    /// As [`Follower::read`]; [`Error::Changed`] when the file was seen to have been cut. A cut inside the last
    /// chunk is not, if the file has soon grown past its old end.
    pub async fn look(&mut self) -> Result<bool, Error> {
        self.live.advance().await?;
        Ok(self.at < self.end())
    }
}
