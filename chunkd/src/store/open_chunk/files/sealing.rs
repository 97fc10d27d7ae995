//! Makes the sealed form of a chunk beside it (`spec/journal.md` section 7, steps 1 to 3).
//!
//! What a crash leaves on the way: a file that no entry names.

use sarsen_protocol::crc::crc32;
use sarsen_protocol::id::ChunkHandle;
use sarsen_protocol::message::ChunkState;
use sarsen_protocol::size::{BLOCK_LEN, blocks_in};

use super::super::super::error::{Operation, StoreError};
use super::super::super::header::{Flags, Header};
use super::super::super::layout::{HEADER_PAGE_LEN, folder_of, sealing_path, slot_position};
use super::super::super::region::Region;
use super::super::sealed_form::SealedForm;
use super::super::state::Content;
use super::{ChunkFiles, room_of};

impl ChunkFiles {
    /// Writes the sealed form of a state, or of its first bytes if `form.length` is lower: the CRC of
    /// the block that is cut is put into `form`. When this returns it is stable, with its name.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for a block that does not match its CRC, [`StoreError::NoSpace`], those
    /// of the medium.
    pub(in super::super) fn write_sealed_form(
        &mut self,
        content: &Content,
        form: &mut SealedForm,
    ) -> Result<(), StoreError> {
        let handle = self.whose.handle;
        self.reserve_sealing(form.length, form.id_table.len() as u64)?;
        let Some(region) = self.sealing.clone() else {
            return Err(StoreError::Corrupt { handle });
        };
        let path = sealing_path(handle);
        let failed = |operation| move |source| (operation, source);
        let written = region
            .write_at(&[0; HEADER_PAGE_LEN], 0)
            .map_err(failed(Operation::Write));
        written.map_err(|(operation, source)| self.error(operation, &path, source))?;
        self.copy_blocks(content, form, &*region)?;
        let header = self.sealed_header(form);
        let slot = header.encode();
        Header::decode(&slot).map_err(|error| StoreError::HeaderInvalid { handle, error })?;
        form.write_tables(&*region, self.whose.chunk_size)
            .map_err(failed(Operation::Write))
            .and_then(|()| region.sync().map_err(failed(Operation::Sync)))
            .and_then(|()| {
                region
                    .write_at(&slot, slot_position(header.generation))
                    .map_err(failed(Operation::Write))
            })
            .and_then(|()| region.sync().map_err(failed(Operation::Sync)))
            .map_err(|(operation, source)| self.error(operation, &path, source))?;
        let folder = folder_of(handle);
        self.whose
            .tree
            .sync_folder(&folder)
            .map_err(|source| self.error(Operation::Sync, &folder, source))
    }

    fn copy_blocks(
        &self,
        content: &Content,
        form: &mut SealedForm,
        to: &dyn Region,
    ) -> Result<(), StoreError> {
        let places = self.places();
        let path = sealing_path(self.whose.handle);
        form.block_crcs.truncate(blocks_in(form.length) as usize);
        let blocks = content.blocks().iter().zip(&mut form.block_crcs);
        for ((index, start), (&block, crc)) in
            (0..).zip((0..).step_by(BLOCK_LEN as usize)).zip(blocks)
        {
            let len = (content.length() - start).min(BLOCK_LEN);
            let mut bytes = places.read_block(index, block, len)?;
            let kept = (form.length - start).min(len);
            if kept < len {
                bytes.truncate(kept as usize);
                *crc = crc32(&bytes);
            }
            to.write_at(&bytes, room_of(index))
                .map_err(|source| self.error(Operation::Write, &path, source))?;
        }
        Ok(())
    }

    fn sealed_header(&self, form: &SealedForm) -> Header {
        let author = &self.whose.author;
        let mut header = Header {
            state: ChunkState::Sealed,
            flags: Flags::default(),
            generation: 1,
            cluster_id: author.cluster_id,
            directory_id: author.directory_id,
            handle: self.whose.handle,
            version: form.version,
            promised_version: form.version,
            begin_serial: form.serial,
            serial: form.serial,
            file_id: form.file_id,
            index: form.index,
            chunk_size: self.whose.chunk_size,
            length: form.length,
            data_crc32: 0,
            crc_page_crc32: 0,
            id_table_length: 0,
            id_table_crc32: 0,
            clone_handle: ChunkHandle::NONE,
            clone_version: sarsen_protocol::id::ChunkVersion::NONE,
            last_verified: 0,
        };
        form.put_into(&mut header);
        header
    }
}
