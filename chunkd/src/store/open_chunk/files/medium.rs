//! The blocks of a state read back and compared with their CRCs (`spec/replication.md` section 3.5).

use std::io;

use sarsen_protocol::crc::crc32;
use sarsen_protocol::size::BLOCK_LEN;

use super::super::super::chunk_file::given;
use super::super::super::error::{Operation, StoreError};
use super::super::super::journal::body::Place;
use super::super::super::layout::{chunk_path, patch_path};
use super::super::super::region::{Medium, Region};
use super::super::super::upkeep::ReadFrom;
use super::super::patch::slot_position;
use super::super::state::Content;
use super::{Places, room_of};

/// One file, read from where the caller said.
enum Source<'a> {
    Cache(&'a dyn Region),
    Medium(Box<dyn Medium>),
}

impl<'a> Source<'a> {
    fn open(region: &'a dyn Region, from: ReadFrom, path: String) -> Result<Self, StoreError> {
        Ok(match from {
            ReadFrom::Cache => Self::Cache(region),
            ReadFrom::Medium => Self::Medium(
                region
                    .medium()
                    .map_err(|source| StoreError::io(Operation::Open, path.into(), source))?,
            ),
        })
    }

    /// What there is; what the medium doesn't give is not there.
    fn read(&mut self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let read = match self {
            Self::Cache(region) => region.read_at(buf, position),
            Self::Medium(medium) => medium.read_at(buf, position),
        };
        Ok(given(read)?.unwrap_or(0))
    }
}

impl Places {
    /// The blocks of a state that don't match their CRC, or that the medium doesn't give. The state has
    /// to be one whose places are not used anew meanwhile.
    ///
    /// # Errors
    /// Those of opening the files past the cache; want of memory, which says nothing of the medium.
    pub(in super::super) fn bad_blocks(
        &self,
        content: &Content,
        from: ReadFrom,
    ) -> Result<Vec<u32>, StoreError> {
        let mut chunk = Source::open(&*self.chunk, from, chunk_path(self.handle))?;
        let patch = self.patch.as_ref();
        let patch = patch.map(|patch| Source::open(&**patch, from, patch_path(self.handle)));
        let mut patch = patch.transpose()?;
        let mut bad = Vec::new();
        let mut buf = vec![0; BLOCK_LEN as usize];
        let mut left = content.length();
        for (index, block) in (0..).zip(content.blocks()) {
            let len = left.min(BLOCK_LEN);
            left -= len;
            let bytes = buf.split_at_mut(len as usize).0;
            let read = match (block.place, &mut patch) {
                (Place::OwnRoom, _) => chunk.read(bytes, room_of(index as usize)),
                (Place::Slot(slot), Some(patch)) => patch.read(bytes, slot_position(slot)),
                (Place::Slot(_), None) => Ok(0),
            };
            let path = || match block.place {
                Place::OwnRoom => chunk_path(self.handle),
                Place::Slot(_) => patch_path(self.handle),
            };
            let error = |source| StoreError::io(Operation::Read, path().into(), source);
            let read = read.map_err(error)?;
            if read < bytes.len() || crc32(bytes) != block.crc32 {
                bad.push(index);
            }
        }
        Ok(bad)
    }
}
