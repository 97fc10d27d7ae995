//! Making chunks, and sealing them in an order that no crash can cheat
//! (`spec/chunk-file.md` sections 10.1 to 10.3 and 10.5).
//!
//! At `disk`: data and CRC page are stable before the sealed header is written, and the header and
//! the file's name before the answer. At `memory` the header says *unsynced*, and
//! [`Directory::sync_unsynced`] makes good for it later. A write or sync that fails on the way
//! poisons the chunk: what the kernel reports once, it forgets.

use std::io;
use std::sync::Arc;

use sarsen_protocol::crc::crc32;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Serial};
use sarsen_protocol::message::{ChunkState, Level};
use sarsen_protocol::sabotage::{Check, is_in_force};

use super::chunk_file::ChunkFile;
use super::crc_page;
use super::directory::{Directory, io_error};
use super::error::{Operation, StoreError};
use super::header::{Flags, Header};
use super::layout::{
    CRC_PAGE_POSITION, DATA_POSITION, chunk_path, folder_of, room_for, sealed_file_len,
};
use super::pending::{NewChunk, PendingChunk};
use super::table::{Held, Turn};
use super::upkeep::ReadFrom;

/// What a client says that it wrote, to be compared with what is stored.
#[derive(Clone, Copy, Debug)]
pub struct SealClaim {
    /// Bytes.
    pub length: u32,
    /// Their CRC.
    pub crc32: u32,
    /// Of the last mutation.
    pub serial: Serial,
    /// What the answer has to mean.
    pub level: Level,
}

/// A sealed chunk, and how far that is safe; at least as far as was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealOutcome {
    /// The chunk's version.
    pub version: ChunkVersion,
    /// Of the last mutation.
    pub serial: Serial,
    /// Bytes.
    pub length: u32,
    /// Their CRC.
    pub crc32: u32,
    /// What the seal survives.
    pub level: Level,
}

impl Directory {
    /// Makes a chunk to be uploaded.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`], [`StoreError::NoSpace`], [`StoreError::NotAdopted`],
    /// [`StoreError::HeaderInvalid`] for a handle or version of 0,
    /// [`StoreError::DirectoryPoisoned`], those of the medium. Nothing is left behind then.
    pub fn create_pending(&self, new: &NewChunk) -> Result<Arc<PendingChunk>, StoreError> {
        self.check_not_poisoned()?;
        let header = self.first_header(new)?;
        let handle = new.handle;
        let mut turn = self.table.turn(handle);
        if turn.held().is_some() {
            return Err(StoreError::AlreadyExists { handle });
        }
        let path = chunk_path(handle);
        let region = self
            .tree
            .create(&path)
            .map_err(|source| match source.kind() {
                io::ErrorKind::AlreadyExists => StoreError::AlreadyExists { handle },
                _ => io_error(&*self.tree, Operation::Create, &path, source),
            })?;
        let reserved = room_for(0, new.room, header.chunk_size);
        let file = ChunkFile {
            region,
            path: self.root().join(&path),
            header,
            doubtful: false,
            header_stable: false,
        };
        if let Err(error) = write_first(&file, reserved) {
            // Made a moment ago and told to nobody. If this fails too, the next start reports it.
            let _ = self.tree.remove(&path);
            return Err(error);
        }
        let pending = Arc::new(PendingChunk::new(&file, new.room, reserved));
        turn.put_pending(Arc::clone(&pending), Held::of(&file, false));
        Ok(pending)
    }

    /// Gives a chunk up that is being uploaded: nothing more is taken, and its descriptor goes
    /// with whoever else has `pending`. The file stays until its deletion is ordered. Never waits
    /// for the disk; changes nothing once the chunk is sealed.
    pub fn abandon(&self, pending: &Arc<PendingChunk>) {
        pending.close();
        self.table.forget_pending(pending);
    }

    /// Seals a chunk, or answers for one that is sealed already.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::OtherVersion`], [`StoreError::SealMismatch`];
    /// [`StoreError::OtherState`] for a chunk that was abandoned or that an earlier start left
    /// pending;
    /// [`StoreError::Poisoned`] and those of the medium, which poison it.
    pub fn seal(
        &self,
        handle: ChunkHandle,
        version: ChunkVersion,
        claim: &SealClaim,
    ) -> Result<SealOutcome, StoreError> {
        self.check_not_poisoned()?;
        let mut turn = self.table.turn(handle);
        let held = turn.held().ok_or(StoreError::NotFound { handle })?;
        check_usable(&held, Some(version))?;
        match (held.entry.state, turn.pending()) {
            (ChunkState::Pending, Some(pending)) => {
                self.seal_pending(&mut turn, &pending, claim)?;
            }
            (ChunkState::Sealed, _) => self.seal_again(&mut turn, &held, claim)?,
            (state, _) => return Err(StoreError::OtherState { handle, state }),
        }
        turn.held()
            .map(|held| outcome_of(&held))
            .ok_or(StoreError::NotFound { handle })
    }

    /// Makes every seal durable that was acknowledged at `memory`, and reads back what an earlier
    /// start left in doubt; a result for each chunk that needed it. Does nothing in a poisoned directory,
    /// where nothing becomes durable any more. For a background thread.
    pub fn sync_unsynced(&self) -> Vec<(ChunkHandle, Result<(), StoreError>)> {
        if self.is_poisoned() {
            return Vec::new();
        }
        let unsettled = self.table.handles(|entry| {
            entry.state == ChunkState::Sealed
                && (entry.flags.unsynced || entry.needs_read_back)
                && !entry.flags.poisoned
                && !entry.flags.corrupt
        });
        let make_durable = |handle| {
            self.check_not_poisoned()?;
            let mut turn = self.table.turn(handle);
            // Another call may have settled or deleted it since.
            match turn.held() {
                Some(held) if held.entry.flags.unsynced || held.entry.needs_read_back => {
                    check_usable(&held, None)?;
                    self.make_durable(&mut turn, &held)
                }
                _ => Ok(()),
            }
        };
        unsettled
            .into_iter()
            .map(|handle| (handle, make_durable(handle)))
            .collect()
    }

    /// Marks the chunk poisoned, in memory for sure and on disk if that is still possible.
    pub(super) fn poison_chunk(&self, turn: &mut Turn<'_>, file: &mut ChunkFile) {
        let marked = file.put_header(|header| header.flags.poisoned = true);
        let _ = marked.and_then(|()| file.sync());
        let mut held = Held::of(file, false);
        held.entry.flags.poisoned = true;
        self.put_marked(turn, held);
        turn.close_pending();
    }

    pub(super) fn check_not_poisoned(&self) -> Result<(), StoreError> {
        match self.is_poisoned() {
            true => Err(StoreError::DirectoryPoisoned),
            false => Ok(()),
        }
    }

    pub(super) fn first_header(&self, new: &NewChunk) -> Result<Header, StoreError> {
        let identity = self.identity();
        let adoption = identity.adoption.ok_or(StoreError::NotAdopted)?;
        Ok(Header {
            state: ChunkState::Pending,
            flags: Flags::default(),
            generation: 1,
            cluster_id: adoption.cluster_id,
            directory_id: identity.directory_id,
            handle: new.handle,
            version: new.version,
            promised_version: new.version,
            begin_serial: Serial::NONE,
            serial: Serial::NONE,
            file_id: new.file_id,
            index: new.index,
            chunk_size: adoption.chunk_size,
            length: 0,
            data_crc32: 0,
            crc_page_crc32: 0,
            id_table_length: 0,
            id_table_crc32: 0,
            clone_handle: ChunkHandle::NONE,
            clone_version: ChunkVersion::NONE,
            last_verified: 0,
        })
    }

    fn seal_pending(
        &self,
        turn: &mut Turn<'_>,
        pending: &PendingChunk,
        claim: &SealClaim,
    ) -> Result<(), StoreError> {
        let block_crcs = pending.begin_seal(claim.length, claim.crc32)?;
        let mut file = pending.chunk_file();
        if let Err(source) = file.region.set_len(sealed_file_len(claim.length)) {
            pending.resume();
            return Err(file.error(Operation::Write, source));
        }
        if let Err(error) = write_sealed(&mut file, &block_crcs, claim) {
            self.poison_chunk(turn, &mut file);
            return Err(error);
        }
        // First: what the inventory tells of it has to stay so.
        let named = match claim.level {
            Level::Disk if !is_in_force(Check::SealName) => Ok(()),
            Level::Disk => self.sync_folder(&folder_of(turn.handle())),
            Level::Memory => Ok(()),
        };
        let mut held = Held::of(&file, false);
        if claim.level == Level::Memory {
            held.kept_open = self.table.keep_open(&file.region);
        }
        turn.put(held);
        turn.close_pending();
        named
    }

    fn seal_again(
        &self,
        turn: &mut Turn<'_>,
        held: &Held,
        claim: &SealClaim,
    ) -> Result<(), StoreError> {
        let entry = &held.entry;
        if (entry.length, entry.crc32) != (claim.length, claim.crc32) {
            return Err(StoreError::SealMismatch {
                handle: entry.handle,
                length: entry.length,
                crc32: entry.crc32,
                claimed_length: claim.length,
                claimed_crc32: claim.crc32,
            });
        }
        let is_short_of_it = claim.level == Level::Disk && entry.flags.unsynced;
        if held.from_earlier_start || is_short_of_it {
            self.make_durable(turn, held)?;
        }
        Ok(())
    }

    /// Makes a sealed chunk as durable as any. Reads it back from the medium first, unless the file
    /// was kept open since it was written.
    fn make_durable(&self, turn: &mut Turn<'_>, held: &Held) -> Result<(), StoreError> {
        let handle = turn.handle();
        let (tree, owner) = (&*self.tree, self.owner());
        let opened = match &held.kept_open {
            Some(kept) => {
                let region = Arc::clone(&kept.region);
                ChunkFile::read(region, tree, handle, owner, held.header_stable)
            }
            None => ChunkFile::open(tree, handle, owner, held.header_stable),
        };
        let mut file = match opened {
            // It is not there, or not as it was, and will not be when that is looked for again.
            Err(error) if !error.is_short_of_means() => {
                let mut held = Held {
                    kept_open: None,
                    ..held.clone()
                };
                held.entry.flags.corrupt = true;
                self.put_marked(turn, held);
                return Err(error);
            }
            opened => opened?,
        };
        if let Err(error) = file.sync() {
            self.poison_chunk(turn, &mut file);
            return Err(error);
        }
        if held.kept_open.is_none() && !file.read_back(ReadFrom::Medium)?.is_good() {
            self.mark_corrupt_in(turn, &mut file)?;
            return Err(StoreError::Corrupt { handle });
        }
        if file.header.flags.unsynced || file.doubtful {
            let marked = file.put_header(|header| header.flags.unsynced = false);
            if let Err(error) = marked.and_then(|()| file.sync()) {
                self.poison_chunk(turn, &mut file);
                return Err(error);
            }
            // The next generation has taken the damaged slot's place.
            file.doubtful = false;
        }
        self.sync_folder(&folder_of(handle))?;
        turn.put(Held::of(&file, false));
        Ok(())
    }
}

/// Whether a chunk's marks and version allow it to be sealed, settled or read.
pub(super) fn check_usable(held: &Held, version: Option<ChunkVersion>) -> Result<(), StoreError> {
    let entry = &held.entry;
    let handle = entry.handle;
    if let Some(asked) = version.filter(|&asked| asked != entry.version) {
        return Err(StoreError::OtherVersion {
            handle,
            held: entry.version,
            asked,
        });
    }
    if entry.flags.poisoned {
        return Err(StoreError::Poisoned { handle });
    }
    if entry.flags.corrupt {
        return Err(StoreError::Corrupt { handle });
    }
    Ok(())
}

pub(super) fn outcome_of(held: &Held) -> SealOutcome {
    let entry = &held.entry;
    SealOutcome {
        version: entry.version,
        serial: entry.serial,
        length: entry.length,
        crc32: entry.crc32,
        level: match entry.flags.unsynced {
            true => Level::Memory,
            false => Level::Disk,
        },
    }
}

/// Reserves room for header, CRC page and data, and writes the first header.
pub(super) fn write_first(file: &ChunkFile, reserved: u32) -> Result<(), StoreError> {
    file.region
        .reserve(0, DATA_POSITION + u64::from(reserved))
        .map_err(|source| file.error(Operation::Reserve, source))?;
    file.write_slot(&file.header)
}

/// Steps 2 to 5 of the spec's table in section 10.2.
pub(super) fn write_sealed(
    file: &mut ChunkFile,
    block_crcs: &[u32],
    claim: &SealClaim,
) -> Result<(), StoreError> {
    let page = crc_page::encode(block_crcs);
    file.region
        .write_at(&page, CRC_PAGE_POSITION)
        .map_err(|source| file.error(Operation::Write, source))?;
    if claim.level == Level::Disk && is_in_force(Check::SealSync) {
        file.sync()?;
    }
    file.put_header(|header| {
        header.state = ChunkState::Sealed;
        header.flags.unsynced = claim.level == Level::Memory;
        header.serial = claim.serial;
        header.length = claim.length;
        header.data_crc32 = claim.crc32;
        header.crc_page_crc32 = crc32(&page);
    })?;
    match claim.level {
        Level::Disk if !is_in_force(Check::SealSync) => Ok(()),
        Level::Disk => file.sync(),
        Level::Memory => Ok(()),
    }
}
