//! What the sealed file of an open chunk says (`spec/journal.md` section 7): header, CRC page and id
//! table of a state. [`super::chunk`] makes it, [`super::files`] writes it beside the chunk or
//! [`super::super::settle`] over what the chunk was.

use std::io;

use sarsen_protocol::crc::{combine_blocks, crc32};
use sarsen_protocol::id::{ChunkVersion, FileId, Serial, SessionId};
use sarsen_protocol::id_row::encode_table;
use sarsen_protocol::message::{ChunkState, PreparedSeal};

use super::super::crc_page;
use super::super::header::{Flags, Header};
use super::super::journal::body::{Prepared, SealForm};
use super::super::layout::{CRC_PAGE_LEN, CRC_PAGE_POSITION, id_table_position};
use super::super::region::Region;
use super::ids::IdTable;
use super::state::State;

/// A state of a chunk as a sealed file holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedForm {
    /// The version that it is sealed in.
    pub version: ChunkVersion,
    /// The last mutation in it.
    pub serial: Serial,
    /// The file that the chunk belongs to.
    pub file_id: FileId,
    /// Its place there.
    pub index: u32,
    /// Bytes of data.
    pub length: u32,
    /// CRC of each block that they take.
    pub block_crcs: Vec<u32>,
    /// The id table's rows, encoded.
    pub id_table: Vec<u8>,
    /// Sessions below have no rows in it.
    pub sessions_end: SessionId,
}

impl SealedForm {
    /// The newest state of a chunk, without the ids of sessions that are over.
    #[must_use]
    pub fn of(state: &State, file_id: FileId, index: u32, sessions_end: SessionId) -> Self {
        let content = state.applied();
        let ids: IdTable = state.ids().sealed(sessions_end);
        Self {
            version: state.version(),
            serial: state.serial(),
            file_id,
            index,
            length: content.length(),
            block_crcs: content.blocks().iter().map(|block| block.crc32).collect(),
            id_table: encode_table(&ids.rows()),
            sessions_end,
        }
    }

    /// The CRC of all the data.
    #[must_use]
    pub fn data_crc32(&self) -> u32 {
        // There are as many as the length takes, so they combine.
        combine_blocks(&self.block_crcs, self.length).unwrap_or_default()
    }

    /// The CRC page.
    #[must_use]
    pub fn crc_page(&self) -> [u8; CRC_PAGE_LEN] {
        crc_page::encode(&self.block_crcs)
    }

    /// The journal's word on it.
    #[must_use]
    pub fn prepared(&self, form: SealForm) -> Prepared {
        Prepared {
            serial: self.serial,
            length: self.length,
            data_crc32: self.data_crc32(),
            crc_page_crc32: crc32(&self.crc_page()),
            id_table_length: self.id_table_length(),
            id_table_crc32: crc32(&self.id_table),
            sessions_end: self.sessions_end.0,
            form,
        }
    }

    /// Puts what it says into a header; whose file it is, and the generation, stay.
    pub fn put_into(&self, header: &mut Header) {
        header.state = ChunkState::Sealed;
        header.flags = Flags::default();
        header.version = self.version;
        header.promised_version = self.version;
        header.begin_serial = self.serial;
        header.serial = self.serial;
        header.file_id = self.file_id;
        header.index = self.index;
        header.length = self.length;
        header.data_crc32 = self.data_crc32();
        header.crc_page_crc32 = crc32(&self.crc_page());
        header.id_table_length = self.id_table_length();
        header.id_table_crc32 = crc32(&self.id_table);
        // Nobody has read all of it back yet.
        header.last_verified = 0;
    }

    /// Writes what the header speaks of beside the data: CRC page and id table. Not synced.
    ///
    /// # Errors
    /// Those of the medium.
    pub fn write_tables(&self, region: &dyn Region, chunk_size: u32) -> io::Result<()> {
        region.write_at(&self.crc_page(), CRC_PAGE_POSITION)?;
        match self.id_table.is_empty() {
            true => Ok(()),
            false => region.write_at(&self.id_table, id_table_position(chunk_size)),
        }
    }

    /// At most 16 MiB: an id table has no more rows.
    fn id_table_length(&self) -> u32 {
        u32::try_from(self.id_table.len()).unwrap_or(u32::MAX)
    }
}

/// What members compare of a preparation of a version.
#[must_use]
pub const fn told_of(version: ChunkVersion, prepared: &Prepared) -> PreparedSeal {
    PreparedSeal {
        version,
        serial: prepared.serial,
        length: prepared.length,
        crc32: prepared.data_crc32,
        id_table_length: prepared.id_table_length,
        id_table_crc32: prepared.id_table_crc32,
    }
}
