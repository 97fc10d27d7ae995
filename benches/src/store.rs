//! The files that reference loops write: as a chunkserver's, without what is in their headers.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::{FallocateFlags, fallocate};
use sarsen_protocol::size::CHUNK_LEN_MAX;

/// Where data begins in a chunk's file.
const DATA_POSITION: u64 = 8192;

/// A stream of bytes on its way into one file a chunk, each with its room reserved before.
#[derive(Debug)]
pub struct ChunkFiles {
    folder: PathBuf,
    prefix: String,
    synced: bool,
    made: u32,
    /// The file that is written, and how much of it was.
    current: Option<(File, u64)>,
}

impl ChunkFiles {
    /// Files in `folder` whose names begin with `prefix`; each is synced when it is full if
    /// `synced`.
    #[must_use]
    pub fn new(folder: &Path, prefix: String, synced: bool) -> Self {
        Self {
            folder: folder.to_owned(),
            prefix,
            synced,
            made: 0,
            current: None,
        }
    }

    /// Writes what follows; chunks are a multiple of it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let (file, len) = match self.current.take() {
            Some(current) => current,
            None => (self.next_file()?, 0),
        };
        file.write_all_at(bytes, DATA_POSITION + len)?;
        let len = len + bytes.len() as u64;
        if len < u64::from(CHUNK_LEN_MAX) {
            self.current = Some((file, len));
        } else if self.synced {
            file.sync_data()?;
        }
        Ok(())
    }

    fn next_file(&mut self) -> anyhow::Result<File> {
        let path = self.folder.join(format!("{}-{}", self.prefix, self.made));
        self.made += 1;
        let file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
        let len = DATA_POSITION + u64::from(CHUNK_LEN_MAX);
        fallocate(&file, FallocateFlags::empty(), 0, len).context("reserving a chunk's room")?;
        Ok(file)
    }
}
