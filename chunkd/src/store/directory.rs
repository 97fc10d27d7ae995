//! A data directory: opening it, whose it is, what it holds (`spec/chunk-file.md` sections 8, 9).
//!
//! Invariants: the directory is locked while a [`Directory`] lives; `IDENTITY` on disk is never
//! behind what was acted on; everything that the scan told is stable. What can be done with the
//! chunks stands in the modules beside: [`super::pending`], [`super::seal`], [`super::readable`],
//! [`super::upkeep`], [`super::copy`], [`super::delete`]. All calls block on the disk; none is for an event loop,
//! but for [`Directory::find_readable`] and the inventory.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use sarsen_protocol::id::{
    ChunkHandle, ChunkVersion, ClusterId, DirectoryId, Epoch, StartNonce, StartNumber,
};
use sarsen_protocol::message::ChunkState;

use super::cache::Cache;
use super::chunk_file::Owner;
use super::copy::Copies;
use super::delete::Leaving;
use super::error::{Operation, StoreError};
use super::header::chunk_size_is_valid;
use super::identity::{Adoption, IDENTITY_LEN, Identity, KnownStarts};
use super::layout::{
    CHUNKS_FOLDER, DELETED_FOLDER, IDENTITY_FILE, IDENTITY_NEXT_FILE, chunk_folder,
};
use super::opening::Opened;
use super::readable::ReadableChunk;
use super::recover::{NotRecovered, Recovered, recover};
use super::region::{FileTree, Region, Space, Tree};
use super::scan::{Problem, scan};
use super::table::{InventoryEntry, Table, lock};

/// What a start brings along; the store draws no random numbers and asks no clock.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Random, not zero.
    pub nonce: StartNonce,
    /// Random, not zero; becomes the directory's id if it is new.
    pub new_directory_id: DirectoryId,
    /// Threads that read headers.
    pub scan_threads: usize,
    /// Chunks kept open and mapped for readers at once: each takes a descriptor and a mapping. As
    /// many that were sealed at `memory` stay open until they are synced.
    pub open_chunks_max: usize,
}

/// A locked data directory and what it holds.
#[derive(Debug)]
pub struct Directory {
    pub(super) tree: Arc<dyn Tree>,
    pub(super) table: Table,
    pub(super) readable: Mutex<Cache<ReadableChunk>>,
    pub(super) problems: Mutex<Vec<Problem>>,
    pub(super) copies: Copies,
    pub(super) leaving: Leaving,
    pub(super) opened: Opened,
    identity: Mutex<Identity>,
    /// Held while `IDENTITY` is replaced, so that replacements don't overtake each other.
    replacing: Mutex<()>,
    poisoned: AtomicBool,
    not_recovered: NotRecovered,
}

impl Directory {
    /// Opens, and if need be makes, a data directory, and reads all headers in it.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::NotOurs`], [`StoreError::IdentityDamaged`],
    /// [`StoreError::Stale`], those of the medium.
    pub fn open(root: &Path, start: &Start) -> Result<Self, StoreError> {
        Self::open_tree(Arc::new(FileTree::lock(root)?), start)
    }

    /// As [`Self::open`], on a tree that the caller has locked.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_tree(tree: Arc<dyn Tree>, start: &Start) -> Result<Self, StoreError> {
        let previous = read_identity(&*tree)?;
        let is_new = previous.is_none();
        let identity = match previous {
            Some(previous) if previous.stale => {
                let path = tree.root().to_owned();
                return Err(StoreError::Stale { path });
            }
            Some(previous) => next_start(previous, start),
            None => first_start(&*tree, start)?,
        };
        if !is_new {
            // What `IDENTITY.new` names must not be what a power cut would leave as `IDENTITY`.
            tree.sync_folder("")
                .map_err(|source| io_error(&*tree, Operation::Sync, "", source))?;
        }
        replace_identity(&*tree, &identity)?;
        make_folders(&*tree)?;
        if !is_new {
            tree.sync_all()
                .map_err(|source| io_error(&*tree, Operation::Sync, "", source))?;
        }
        let mut found = scan(&*tree, owner_of(&identity), start.scan_threads)?;
        let mut recovered = match (identity.author(), identity.adoption) {
            (Some(author), Some(adoption)) => recover(
                &tree,
                author,
                adoption.chunk_size,
                identity.epoch,
                &mut found,
            )?,
            _ => Recovered::default(),
        };
        let mut identity = identity;
        if recovered.not_recovered.journal.is_some() && !identity.poisoned {
            identity.poisoned = true;
            replace_identity(&*tree, &identity)?;
        }
        let not_recovered = std::mem::take(&mut recovered.not_recovered);
        Ok(Self {
            not_recovered,
            table: Table::new(found.held, start.open_chunks_max),
            readable: Mutex::new(Cache::new(start.open_chunks_max)),
            problems: Mutex::new(found.problems),
            copies: Copies::new(found.unfinished_copies),
            leaving: Leaving::default(),
            opened: Opened::new(recovered),
            poisoned: AtomicBool::new(identity.poisoned),
            identity: Mutex::new(identity),
            replacing: Mutex::new(()),
            tree,
        })
    }

    /// Where the directory is.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.tree.root()
    }

    /// What `IDENTITY` says now.
    #[must_use]
    pub fn identity(&self) -> Identity {
        lock(&self.identity).clone()
    }

    /// Whether a sync failed that no single chunk owns; then it only serves reads.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    /// Gives the directory to a cluster and a server; once done, only the same can be given again.
    ///
    /// # Errors
    /// [`StoreError::OtherCluster`], [`StoreError::OtherServer`], [`StoreError::ChunkSize`],
    /// [`StoreError::IdentityInvalid`] for an id of 0, those of the medium.
    pub fn adopt(&self, asked: Adoption) -> Result<(), StoreError> {
        let adopted = self.identity().adoption;
        let held = match adopted {
            Some(held) => held,
            None => {
                if !chunk_size_is_valid(asked.chunk_size) {
                    return Err(StoreError::ChunkSize {
                        held: 0,
                        asked: asked.chunk_size,
                    });
                }
                let mut held = asked;
                self.replace_identity(|identity| {
                    // Somebody may have been quicker: who comes second is compared too.
                    held = *identity.adoption.get_or_insert(asked);
                    Ok(())
                })?;
                held
            }
        };
        self.check_cluster(asked.cluster_id)?;
        if held.server_id != asked.server_id {
            let path = self.root().to_owned();
            return Err(StoreError::OtherServer {
                path,
                held: held.server_id,
                asked: asked.server_id,
            });
        }
        match held.chunk_size == asked.chunk_size {
            true => Ok(()),
            false => Err(StoreError::ChunkSize {
                held: held.chunk_size,
                asked: asked.chunk_size,
            }),
        }
    }

    /// Whether this cluster may use the directory: its own, or any if it has none yet.
    ///
    /// # Errors
    /// [`StoreError::OtherCluster`].
    pub fn check_cluster(&self, asked: ClusterId) -> Result<(), StoreError> {
        match self.identity().adoption {
            Some(held) if held.cluster_id != asked => Err(StoreError::OtherCluster {
                path: self.root().to_owned(),
                held: held.cluster_id,
                asked,
            }),
            _ => Ok(()),
        }
    }

    /// Takes note of a master's epoch before one of its orders is obeyed.
    ///
    /// # Errors
    /// [`StoreError::StaleEpoch`], [`StoreError::ForkedEpoch`], those of the medium. The order must
    /// not be obeyed then.
    pub fn obey_epoch(&self, asked: Epoch) -> Result<(), StoreError> {
        if self.identity().epoch == asked {
            return Ok(());
        }
        self.replace_identity(|identity| {
            let held = identity.epoch;
            if asked.number < held.number {
                return Err(StoreError::StaleEpoch { held, asked });
            }
            if asked.number == held.number && asked.incarnation != held.incarnation {
                return Err(StoreError::ForkedEpoch { held, asked });
            }
            identity.epoch = asked;
            Ok(())
        })
    }

    /// The master has registered this start.
    ///
    /// # Errors
    /// Those of the medium. Then the next start still offers what the master may know.
    pub fn start_is_registered(&self) -> Result<(), StoreError> {
        let registered = |identity: &Identity| KnownStarts {
            registered: Some((identity.start_number, identity.start_nonce)),
            offered: Vec::new(),
        };
        let now = self.identity();
        if now.known_starts == registered(&now) {
            return Ok(());
        }
        self.replace_identity(|identity| {
            identity.known_starts = registered(identity);
            Ok(())
        })
    }

    /// The master has found the directory to be a copy, or rolled back: it is never opened again.
    ///
    /// # Errors
    /// Those of the medium.
    pub fn mark_stale(&self) -> Result<(), StoreError> {
        self.replace_identity(|identity| {
            identity.stale = true;
            Ok(())
        })
    }

    /// Up to `max` chunks with higher handles than `after`, in the order of their handles; without
    /// those that are being deleted.
    #[must_use]
    pub fn inventory(&self, after: Option<ChunkHandle>, max: usize) -> Vec<InventoryEntry> {
        let stays = |handle| !self.leaving.contains(handle);
        let mut entries = self.table.inventory(after, max, stays);
        entries.iter_mut().for_each(|entry| self.tell_open(entry));
        entries
    }

    /// What the inventory says of one chunk; none of one that is being deleted.
    #[must_use]
    pub fn told(&self, handle: ChunkHandle) -> Option<InventoryEntry> {
        self.entry(handle)
            .filter(|_| !self.leaving.contains(handle))
    }

    /// What is known of one chunk that is here, also if it is being deleted.
    #[must_use]
    pub fn entry(&self, handle: ChunkHandle) -> Option<InventoryEntry> {
        self.table.held(handle).map(|held| {
            let mut entry = held.entry;
            self.tell_open(&mut entry);
            entry
        })
    }

    /// What the header says of a chunk that mutations changed is not what it is.
    fn tell_open(&self, entry: &mut InventoryEntry) {
        let Some(chunk) = self.opened.find(entry.handle) else {
            return;
        };
        let told = chunk.told();
        entry.flags.poisoned |= told.poisoned;
        if told.prepared.is_some() {
            entry.state = ChunkState::Open;
            entry.is_prepared = true;
            entry.version = told.prepared.version;
            entry.serial = told.prepared.serial;
            entry.length = told.prepared.length;
            entry.crc32 = told.prepared.crc32;
            return;
        }
        if chunk.was_changed() {
            entry.state = ChunkState::Open;
            entry.version = told.version;
            entry.serial = told.serial;
            entry.length = told.length;
            entry.crc32 = 0;
        }
    }

    /// How many chunks there are; unlike [`Self::extent`] without looking at each.
    #[must_use]
    pub fn chunk_count(&self) -> usize {
        self.table.len()
    }

    /// How many chunks there are, and the highest handle and version among them.
    #[must_use]
    pub fn extent(&self) -> (usize, ChunkHandle, ChunkVersion) {
        self.table.extent()
    }

    /// Files that the start found not to be in order, and that were not deleted since.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        lock(&self.problems).clone()
    }

    /// What the start could not take up of the open chunks, and why.
    #[must_use]
    pub const fn not_recovered(&self) -> &NotRecovered {
        &self.not_recovered
    }

    /// How full the disk is.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn space(&self) -> Result<Space, StoreError> {
        self.tree
            .space()
            .map_err(|source| io_error(&*self.tree, Operation::Space, "", source))
    }

    /// Whose a chunk file here has to be.
    pub(super) fn owner(&self) -> Owner {
        owner_of(&lock(&self.identity))
    }

    /// Makes a folder's names stable; if that fails the directory is poisoned.
    pub(super) fn sync_folder(&self, folder: &str) -> Result<(), StoreError> {
        self.tree.sync_folder(folder).map_err(|source| {
            self.poison();
            io_error(&*self.tree, Operation::Sync, folder, source)
        })
    }

    /// From now on, and after a restart if that can still be written, nothing new is taken.
    pub(super) fn poison(&self) {
        if !self.poisoned.swap(true, Ordering::AcqRel) {
            let _replacing = lock(&self.replacing);
            let mut identity = self.identity();
            identity.poisoned = true;
            // The mark holds in memory whatever comes of this.
            if replace_identity(&*self.tree, &identity).is_ok() {
                *lock(&self.identity) = identity;
            }
        }
    }

    fn replace_identity(
        &self,
        change: impl FnOnce(&mut Identity) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let replaced = {
            let _replacing = lock(&self.replacing);
            let mut identity = self.identity();
            change(&mut identity)?;
            // A mark that could not be written when it was set.
            identity.poisoned |= self.is_poisoned();
            replace_identity(&*self.tree, &identity).map(|()| *lock(&self.identity) = identity)
        };
        if replaced.as_ref().is_err_and(StoreError::is_failed_sync) {
            self.poison();
        }
        replaced
    }
}

fn owner_of(identity: &Identity) -> Owner {
    let cluster_id = identity
        .adoption
        .map(|adoption| adoption.cluster_id)
        .unwrap_or_default();
    Owner {
        cluster_id,
        directory_id: identity.directory_id,
    }
}

fn next_start(mut previous: Identity, start: &Start) -> Identity {
    previous.known_starts.offer(start.nonce);
    Identity {
        start_number: StartNumber(previous.start_number.0.saturating_add(1)),
        start_nonce: start.nonce,
        ..previous
    }
}

/// A new directory's identity, if the folder is empty.
fn first_start(tree: &dyn Tree, start: &Start) -> Result<Identity, StoreError> {
    let names = tree
        .list("")
        .map_err(|source| io_error(tree, Operation::Open, "", source))?;
    let is_expected = |name: &String| name == IDENTITY_NEXT_FILE || name == "lost+found";
    if let Some(found) = names.into_iter().find(|name| !is_expected(name)) {
        return Err(StoreError::NotOurs {
            path: tree.root().to_owned(),
            found,
        });
    }
    Ok(Identity {
        poisoned: false,
        stale: false,
        directory_id: start.new_directory_id,
        start_number: StartNumber(1),
        start_nonce: start.nonce,
        known_starts: KnownStarts {
            registered: None,
            offered: vec![start.nonce],
        },
        epoch: Epoch::NONE,
        adoption: None,
    })
}

fn read_identity(tree: &dyn Tree) -> Result<Option<Identity>, StoreError> {
    let region = match tree.open(IDENTITY_FILE) {
        Ok(region) => region,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error(tree, Operation::Open, IDENTITY_FILE, source)),
    };
    // One byte more than there should be, so that a longer file is seen to be one.
    let mut bytes = [0; IDENTITY_LEN + 1];
    let read = region
        .read_at(&mut bytes, 0)
        .map_err(|source| io_error(tree, Operation::Read, IDENTITY_FILE, source))?;
    Identity::decode(bytes.split_at(read).0)
        .map(Some)
        .map_err(|error| StoreError::IdentityDamaged {
            path: tree.root().to_owned(),
            error,
        })
}

/// Replaces the file durably, unless the new one could not be read again. Takes no room on the
/// disk, if the one before left its own.
fn replace_identity(tree: &dyn Tree, identity: &Identity) -> Result<(), StoreError> {
    let next = |operation| move |source| io_error(tree, operation, IDENTITY_NEXT_FILE, source);
    let bytes = identity.encode();
    Identity::decode(&bytes).map_err(|error| StoreError::IdentityInvalid { error })?;
    let opened = match tree.open(IDENTITY_NEXT_FILE) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => tree.create(IDENTITY_NEXT_FILE),
        opened => opened,
    };
    let region = opened.map_err(next(Operation::Create))?;
    write_identity(&*region, &bytes).map_err(next(Operation::Write))?;
    region.sync().map_err(next(Operation::Sync))?;
    let has_spare = match tree.exchange(IDENTITY_NEXT_FILE, IDENTITY_FILE) {
        // There is no other yet, or the file system can't.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::Unsupported
            ) =>
        {
            tree.rename(IDENTITY_NEXT_FILE, IDENTITY_FILE)
                .map_err(next(Operation::Rename))?;
            false
        }
        exchanged => exchanged.map(|()| true).map_err(next(Operation::Rename))?,
    };
    tree.sync_folder("")
        .map_err(|source| io_error(tree, Operation::Sync, "", source))?;
    if !has_spare {
        // Without it the next one needs room, and that is all.
        let _ = make_spare(tree, &bytes);
    }
    Ok(())
}

/// Sets room apart for the next `IDENTITY`.
fn make_spare(tree: &dyn Tree, bytes: &[u8]) -> io::Result<()> {
    let region = tree.create(IDENTITY_NEXT_FILE)?;
    write_identity(&*region, bytes)?;
    region.sync()
}

/// Writes in place, into the room that is there.
fn write_identity(region: &dyn Region, bytes: &[u8]) -> io::Result<()> {
    region.write_at(bytes, 0)?;
    match region.file_len()? == bytes.len() as u64 {
        true => Ok(()),
        false => region.set_len(bytes.len() as u64),
    }
}

fn make_folders(tree: &dyn Tree) -> Result<(), StoreError> {
    let make = |folder: &str| {
        tree.make_folder(folder)
            .map_err(|source| io_error(tree, Operation::Create, folder, source))
    };
    make(CHUNKS_FOLDER)?;
    make(DELETED_FOLDER)?;
    for low_byte in 0..=u8::MAX {
        make(&chunk_folder(low_byte))?;
    }
    for folder in [CHUNKS_FOLDER, ""] {
        tree.sync_folder(folder)
            .map_err(|source| io_error(tree, Operation::Sync, folder, source))?;
    }
    Ok(())
}

/// An error of the medium on a path below the directory.
pub(super) fn io_error(
    tree: &dyn Tree,
    operation: Operation,
    path: &str,
    source: io::Error,
) -> StoreError {
    StoreError::io(operation, tree.root().join(path), source)
}
