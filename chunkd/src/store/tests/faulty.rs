//! A tree that behaves as badly as `spec/chunk-file.md` section 1 allows.
//!
//! It counts every change and sync, stops at a chosen one, and can fail a chosen sync or a chosen
//! reservation. [`FaultyTree::after_power_cut`] gives the tree that a power cut leaves: of each
//! file's unsynced writes any subset of 512-byte sectors, of the unsynced names a prefix.
//! [`FaultyTree::after_kill`] gives the one that the death of the process leaves.
//!
//! A failed sync of a file does what Linux does: the pages count as clean from then on, though
//! they never reached the disk, and reads go on to see them; only reads from the medium do not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use super::super::region::{Medium, Region, Space, Tree};
use super::heap::{HeapMedium, HeapRegion, names_in, split};

const SECTOR: usize = 512;

/// What goes wrong, counted from 0.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    /// This change or sync, and all after it, are not done.
    pub(super) stop_at: Option<usize>,
    /// This sync fails.
    pub(super) fail_sync: Option<usize>,
    /// This reservation finds the disk full.
    pub(super) fill_at: Option<usize>,
    /// Others have filled the disk: no file is made, and none gets longer.
    pub(super) is_full: bool,
    /// There is no memory to open or make files with whose paths have this in them.
    pub(super) no_memory_for: Option<&'static str>,
    /// There is no memory to read from the medium with, from this position of a file on.
    pub(super) no_memory_from: Option<u64>,
}

/// What of the unsynced changes a power cut leaves.
#[derive(Clone, Copy, Debug)]
pub(super) enum Survives {
    /// None.
    Nothing,
    /// All.
    Everything,
    /// Some sectors, some names.
    Sectors { seed: u64 },
    /// The same, and of some sectors only the first half: worse than the page assumes.
    TornSectors { seed: u64 },
}

/// How often what was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Changes and syncs.
    pub(super) steps: usize,
    /// Syncs.
    pub(super) syncs: usize,
    /// Reservations.
    pub(super) reservations: usize,
}

/// A tree that forgets and fails.
#[derive(Debug)]
pub(crate) struct FaultyTree {
    disk: Arc<Mutex<Disk>>,
    during_sync: Arc<DuringSync>,
    during_folder_sync: DuringSync,
}

#[derive(Debug)]
struct FaultyRegion {
    disk: Arc<Mutex<Disk>>,
    during_sync: Arc<DuringSync>,
    inode: usize,
}

/// What others do while a file or a folder is synced.
#[derive(Default)]
struct DuringSync(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl fmt::Debug for DuringSync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DuringSync")
    }
}

impl DuringSync {
    fn happen(&self) {
        let planned = self.0.lock().unwrap().take();
        if let Some(planned) = planned {
            planned();
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Disk {
    faults: Faults,
    counts: Counts,
    inodes: Vec<Inode>,
    names: Names,
    stable_names: Names,
    /// A file, and where in it a sector begins that can't be read.
    unreadable: Option<(usize, usize)>,
    /// What has been done to names since, in order.
    unsynced_names: Vec<NameChange>,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    seen: Vec<u8>,
    stable: Vec<u8>,
    /// What has been done to the content since, in order.
    unsynced: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write { position: usize, bytes: Vec<u8> },
    SetLen(usize),
}

#[derive(Clone, Debug, Default)]
struct Names {
    files: BTreeMap<String, usize>,
    folders: BTreeSet<String>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Create { path: String, inode: usize },
    Rename { from: String, to: String },
    Exchange { one: String, other: String },
    Remove { path: String },
    MakeFolder { path: String },
}

impl FaultyTree {
    /// An empty tree without faults.
    pub(crate) fn new() -> Self {
        Self::with(Faults::default())
    }

    /// An empty tree with these faults.
    pub(super) fn with(faults: Faults) -> Self {
        Self::of(Disk {
            faults,
            ..Disk::default()
        })
    }

    /// The tree as it is now, as one that goes wrong so, counted from now on.
    pub(super) fn going_wrong(&self, faults: Faults) -> Self {
        let disk = self.disk.lock().unwrap().clone();
        Self::of(Disk {
            faults,
            counts: Counts::default(),
            ..disk
        })
    }

    /// Others fill the disk, from now on.
    pub(super) fn fill(&self) {
        self.disk.lock().unwrap().faults.is_full = true;
    }

    /// They have made room.
    pub(super) fn empty(&self) {
        self.disk.lock().unwrap().faults.is_full = false;
    }

    /// There is no memory to read from the medium with, from this position of a file on; or there is.
    pub(super) fn be_short_of_memory(&self, from: Option<u64>) {
        self.disk.lock().unwrap().faults.no_memory_from = from;
    }

    /// There is no memory to open or make files with whose paths have this in them; or there is.
    pub(crate) fn be_short_of_memory_for(&self, part: Option<&'static str>) {
        self.disk.lock().unwrap().faults.no_memory_for = part;
    }

    /// The next reservation finds no room, though the file be long enough.
    pub(super) fn refuse_next_reservation(&self) {
        let mut disk = self.disk.lock().unwrap();
        disk.faults.fill_at = Some(disk.counts.reservations);
    }

    /// The next sync fails.
    pub(crate) fn fail_next_sync(&self) {
        self.fail_sync_in(0);
    }

    /// The sync behind so many others fails.
    pub(crate) fn fail_sync_in(&self, others: usize) {
        let mut disk = self.disk.lock().unwrap();
        disk.faults.fail_sync = Some(disk.counts.syncs + others);
    }

    /// While the next file is synced, this is done: the sync does not cover it.
    pub(super) fn during_next_sync(&self, done: impl FnOnce() + Send + 'static) {
        *self.during_sync.0.lock().unwrap() = Some(Box::new(done));
    }

    /// While the next folder is synced, this is done: the sync does not cover it.
    pub(super) fn during_next_folder_sync(&self, done: impl FnOnce() + Send + 'static) {
        *self.during_folder_sync.0.lock().unwrap() = Some(Box::new(done));
    }

    /// The sector at this place of a file can't be read from now on, and no other that could not before.
    pub(crate) fn lose_sector(&self, path: &str, position: usize) {
        let inode = self.find(path).unwrap();
        self.disk.lock().unwrap().unreadable = Some((inode, position));
    }

    /// All sectors can be read again.
    pub(crate) fn find_sectors(&self) {
        self.disk.lock().unwrap().unreadable = None;
    }

    /// What was asked for so far.
    pub(super) fn counts(&self) -> Counts {
        self.disk.lock().unwrap().counts
    }

    /// The tree that the process's death leaves: everything that was written, synced or not.
    pub(crate) fn after_kill(&self) -> Self {
        let disk = self.disk.lock().unwrap().clone();
        Self::of(Disk {
            faults: Faults::default(),
            counts: Counts::default(),
            ..disk
        })
    }

    /// The tree that a power cut leaves.
    pub(super) fn after_power_cut(&self, survives: Survives) -> Self {
        let mut choice = Choice::new(survives);
        let before = self.disk.lock().unwrap();
        let kept = choice.up_to(before.unsynced_names.len());
        let mut names = before.stable_names.clone();
        before
            .unsynced_names
            .iter()
            .take(kept)
            .for_each(|change| names.apply(change));
        let inodes = before
            .inodes
            .iter()
            .map(|inode| inode.after_power_cut(&mut choice));
        Self::of(Disk {
            inodes: inodes.collect(),
            stable_names: names.clone(),
            names,
            ..Disk::default()
        })
    }

    /// What the kernel failed to write back, and told nobody: the cache has it still.
    pub(super) fn lose_stable(&self, path: &str, range: std::ops::Range<usize>) {
        let inode = self.find(path).unwrap();
        self.disk.lock().unwrap().inodes[inode].stable[range].fill(0);
    }

    fn of(disk: Disk) -> Self {
        Self {
            disk: Arc::new(Mutex::new(disk)),
            during_sync: Arc::default(),
            during_folder_sync: DuringSync::default(),
        }
    }

    fn region(&self, inode: usize) -> Arc<dyn Region> {
        Arc::new(FaultyRegion {
            disk: Arc::clone(&self.disk),
            during_sync: Arc::clone(&self.during_sync),
            inode,
        })
    }

    fn change_name(&self, change: NameChange) -> io::Result<()> {
        let mut disk = step(&self.disk)?;
        disk.names.apply(&change);
        disk.unsynced_names.push(change);
        Ok(())
    }

    fn find(&self, path: &str) -> io::Result<usize> {
        let disk = self.disk.lock().unwrap();
        disk.names
            .files
            .get(path)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Tree for FaultyTree {
    fn root(&self) -> &Path {
        Path::new("faulty")
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn Region>> {
        self.disk.lock().unwrap().check_memory(path)?;
        if self.find(path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = {
            let disk = self.disk.lock().unwrap();
            disk.check_room(true)?;
            disk.inodes.len()
        };
        self.change_name(NameChange::Create {
            path: path.to_owned(),
            inode,
        })?;
        self.disk.lock().unwrap().inodes.push(Inode::default());
        Ok(self.region(inode))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn Region>> {
        self.disk.lock().unwrap().check_memory(path)?;
        Ok(self.region(self.find(path)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.find(from)?;
        self.change_name(NameChange::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
        })
    }

    fn exchange(&self, one: &str, other: &str) -> io::Result<()> {
        self.find(one)?;
        self.find(other)?;
        self.change_name(NameChange::Exchange {
            one: one.to_owned(),
            other: other.to_owned(),
        })
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.find(path)?;
        self.change_name(NameChange::Remove {
            path: path.to_owned(),
        })
    }

    fn make_folder(&self, path: &str) -> io::Result<()> {
        {
            let disk = self.disk.lock().unwrap();
            if disk.names.folders.contains(path) {
                return Ok(());
            }
            disk.check_room(true)?;
        }
        self.change_name(NameChange::MakeFolder {
            path: path.to_owned(),
        })
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let disk = self.disk.lock().unwrap();
        names_in(folder, &disk.names.files, &disk.names.folders)
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        self.during_folder_sync.happen();
        let mut disk = sync_step(&self.disk)?.ok_or(io::ErrorKind::Other)?;
        let is_here = |change: &NameChange| change.folders().contains(&folder);
        let covered = disk
            .unsynced_names
            .iter()
            .rposition(is_here)
            .map_or(0, |last| last + 1);
        disk.sync_names(covered);
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        let mut disk = sync_step(&self.disk)?.ok_or(io::ErrorKind::Other)?;
        let all = disk.unsynced_names.len();
        disk.sync_names(all);
        disk.inodes.iter_mut().for_each(Inode::sync);
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        Ok(Space {
            total: 1 << 40,
            free: 1 << 40,
        })
    }
}

impl FaultyRegion {
    fn change(&self, change: Change) -> io::Result<()> {
        let mut disk = step(&self.disk)?;
        disk.inodes[self.inode].change(change);
        Ok(())
    }
}

impl Region for FaultyRegion {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let disk = self.disk.lock().unwrap();
        let seen = &disk.inodes[self.inode].seen;
        let from = seen.len().min(usize::try_from(position).unwrap());
        let len = buf.len().min(seen.len() - from);
        let is_lost = |(inode, at): (usize, usize)| {
            inode == self.inode && from < at + SECTOR && at < from + len
        };
        if disk.unreadable.is_some_and(is_lost) {
            return Err(rustix::io::Errno::IO.into());
        }
        buf[..len].copy_from_slice(&seen[from..from + len]);
        Ok(len)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        let position = usize::try_from(position).unwrap();
        {
            let disk = self.disk.lock().unwrap();
            disk.check_room(position + bytes.len() > disk.inodes[self.inode].seen.len())?;
        }
        self.change(Change::Write {
            position,
            bytes: bytes.to_owned(),
        })
    }

    fn reserve(&self, position: u64, len: u64) -> io::Result<()> {
        let end = usize::try_from(position + len).unwrap();
        let mut disk = step(&self.disk)?;
        disk.counts.reservations += 1;
        disk.check_room(end > disk.inodes[self.inode].seen.len())?;
        if disk.faults.fill_at == Some(disk.counts.reservations - 1) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = &mut disk.inodes[self.inode];
        if inode.seen.len() < end {
            inode.change(Change::SetLen(end));
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::SetLen(usize::try_from(len).unwrap()))
    }

    fn give_back(&self, position: u64, len: u64) -> io::Result<()> {
        let position = usize::try_from(position).unwrap();
        let end = position + usize::try_from(len).unwrap();
        let seen = self.disk.lock().unwrap().inodes[self.inode].seen.len();
        let bytes = vec![0; end.min(seen).saturating_sub(position)];
        self.change(Change::Write { position, bytes })
    }

    fn file_len(&self) -> io::Result<u64> {
        Ok(self.disk.lock().unwrap().inodes[self.inode].seen.len() as u64)
    }

    fn sync(&self) -> io::Result<()> {
        match sync_step(&self.disk)? {
            Some(mut disk) => {
                disk.inodes[self.inode].sync();
                drop(disk);
                self.during_sync.happen();
                Ok(())
            }
            None => {
                self.disk.lock().unwrap().inodes[self.inode]
                    .unsynced
                    .clear();
                Err(io::ErrorKind::Other.into())
            }
        }
    }

    fn medium(&self) -> io::Result<Box<dyn Medium>> {
        let disk = self.disk.lock().unwrap();
        let inode = &disk.inodes[self.inode];
        // What is not synced is written back before the medium is read.
        let bytes = match inode.unsynced.is_empty() {
            true => &inode.stable,
            false => &inode.seen,
        };
        let bytes = Mutex::new(bytes.clone());
        Ok(Box::new(ShortMedium {
            medium: HeapMedium(HeapRegion { bytes }),
            no_memory_from: disk.faults.no_memory_from,
        }))
    }

    fn file(&self) -> Option<&Arc<File>> {
        None
    }
}

/// A medium that may want more memory than there is.
#[derive(Debug)]
struct ShortMedium {
    medium: HeapMedium,
    no_memory_from: Option<u64>,
}

impl Medium for ShortMedium {
    fn read_at(&mut self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        match self.no_memory_from {
            Some(from) if position >= from => Err(io::ErrorKind::OutOfMemory.into()),
            _ => self.medium.read_at(buf, position),
        }
    }
}

/// Counts a change or a sync; an error once the tree has stopped.
fn step(disk: &Mutex<Disk>) -> io::Result<MutexGuard<'_, Disk>> {
    let mut disk = disk.lock().unwrap();
    if disk
        .faults
        .stop_at
        .is_some_and(|stop| disk.counts.steps >= stop)
    {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    disk.counts.steps += 1;
    Ok(disk)
}

/// Counts a sync; `None` if it is the one to fail.
fn sync_step(disk: &Mutex<Disk>) -> io::Result<Option<MutexGuard<'_, Disk>>> {
    let mut disk = step(disk)?;
    disk.counts.syncs += 1;
    let fails = disk.faults.fail_sync == Some(disk.counts.syncs - 1);
    Ok((!fails).then_some(disk))
}

impl Disk {
    fn check_memory(&self, path: &str) -> io::Result<()> {
        match self.faults.no_memory_for {
            Some(part) if path.contains(part) => Err(io::ErrorKind::OutOfMemory.into()),
            _ => Ok(()),
        }
    }

    /// Whether there is room for what needs some.
    fn check_room(&self, is_needed: bool) -> io::Result<()> {
        match self.faults.is_full && is_needed {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    fn sync_names(&mut self, count: usize) {
        for change in self.unsynced_names.drain(..count) {
            self.stable_names.apply(&change);
        }
    }
}

impl Inode {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.seen, |len| len);
        self.unsynced.push(change);
    }

    fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            change.apply(&mut self.stable, |len| len);
        }
    }

    fn after_power_cut(&self, choice: &mut Choice) -> Self {
        let mut left = self.stable.clone();
        for change in &self.unsynced {
            change.apply(&mut left, |len| choice.kept_of(len));
        }
        Self {
            seen: left.clone(),
            stable: left,
            unsynced: Vec::new(),
        }
    }
}

impl Change {
    /// Does the change sector by sector; of each, `kept_of` its length is how much gets there.
    fn apply(&self, content: &mut Vec<u8>, mut kept_of: impl FnMut(usize) -> usize) {
        match self {
            Self::SetLen(len) if kept_of(1) == 1 => content.resize(*len, 0),
            Self::SetLen(_) => {}
            Self::Write { position, bytes } => {
                let (mut at, mut rest) = (*position, bytes.as_slice());
                while !rest.is_empty() {
                    let len = rest.len().min(SECTOR - at % SECTOR);
                    let (sector, after) = rest.split_at(len);
                    let kept = kept_of(len);
                    if kept > 0 {
                        content.resize(content.len().max(at + len), 0);
                        content[at..at + kept].copy_from_slice(&sector[..kept]);
                    }
                    (at, rest) = (at + len, after);
                }
            }
        }
    }
}

impl Names {
    fn apply(&mut self, change: &NameChange) {
        match change {
            NameChange::Create { path, inode } => {
                self.files.insert(path.clone(), *inode);
            }
            NameChange::Rename { from, to } => {
                let inode = self.files.remove(from).expect("names are changed in order");
                self.files.insert(to.clone(), inode);
            }
            NameChange::Exchange { one, other } => {
                let [first, second] = [one, other].map(|path| self.files[path]);
                self.files.insert(one.clone(), second);
                self.files.insert(other.clone(), first);
            }
            NameChange::Remove { path } => {
                self.files.remove(path);
            }
            NameChange::MakeFolder { path } => {
                self.folders.insert(path.clone());
            }
        }
    }
}

impl NameChange {
    /// The folders whose entries it changes.
    fn folders(&self) -> [&str; 2] {
        match self {
            Self::Create { path, .. } | Self::Remove { path } | Self::MakeFolder { path } => {
                [split(path).0; 2]
            }
            Self::Rename {
                from: one,
                to: other,
            }
            | Self::Exchange { one, other } => [split(one).0, split(other).0],
        }
    }
}

/// Choices of what survives, by SplitMix64.
#[derive(Debug)]
struct Choice {
    survives: Survives,
    state: u64,
}

impl Choice {
    fn new(survives: Survives) -> Self {
        let state = match survives {
            Survives::Nothing | Survives::Everything => 0,
            Survives::Sectors { seed } | Survives::TornSectors { seed } => seed,
        };
        Self { survives, state }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// How many bytes of an unsynced sector of `len` bytes are there.
    fn kept_of(&mut self, len: usize) -> usize {
        match self.survives {
            Survives::Nothing => 0,
            Survives::Everything => len,
            Survives::Sectors { .. } => [0, len][self.up_to(1)],
            Survives::TornSectors { .. } => [0, len, len / 2][self.up_to(2)],
        }
    }

    /// A number from 0 to `most`.
    fn up_to(&mut self, most: usize) -> usize {
        match self.survives {
            Survives::Nothing => 0,
            Survives::Everything => most,
            Survives::Sectors { .. } | Survives::TornSectors { .. } => {
                usize::try_from(self.next() % (most as u64 + 1)).unwrap()
            }
        }
    }
}
