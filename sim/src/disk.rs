//! A medium that forgets, fails and rots, as `spec/chunk-file.md` section 1 and `spec/oplog.md`
//! allow.
//!
//! What was written is seen by readers at once and is on the medium after a sync. A process's
//! death ([`Disk::restart`]) keeps everything that was written; a power cut ([`Disk::power_cut`])
//! keeps of each file's unsynced writes any of the versions of any of its sectors of 512 bytes,
//! and of the unsynced names a part.
//!
//! [`Disk::die_within`] lets the process die in the middle of what it does next: the change of
//! that number is done by half, and nothing after it at all.
//!
//! A sync that fails does what Linux does: the pages count as clean from then on, though they
//! never reached the medium; the next sync succeeds, and reads through the cache go on to see them.
//!
//! [`tree`] and [`folder`] show it as the store and the operation log want it.
//!
//! The store's own tests have a disk of their own (`chunkd/src/store/tests/faulty.rs`), and that is
//! on purpose: they compile the store as `cfg(test)`, which a disk from outside could not serve, and
//! want it to fail at a counted step and to keep what a case names, where this one draws. Two that
//! were made apart also don't share their mistakes.

pub mod folder;
mod pages;
pub mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::pages::{PAGE, Pages};
use crate::random::Random;

/// What is written whole or not at all.
const SECTOR: usize = 512;

/// Sectors of a page.
const SECTORS: usize = PAGE / SECTOR;

/// Bytes that an empty disk has.
const TOTAL: u64 = 1 << 40;

/// What of the unsynced names a power cut leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamesKept {
    /// The first so many changes.
    Prefix,
    /// Any of them.
    Subset,
}

/// A disk; clones are the same one.
#[derive(Clone, Debug)]
pub struct Disk(Arc<Mutex<Medium>>);

/// What a disk did to those who use it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fired {
    /// Sectors whose last write was lost in a power cut.
    pub sectors_lost: u64,
    /// Names whose change was lost in a power cut.
    pub names_lost: u64,
    /// Syncs that failed.
    pub syncs_failed: u64,
    /// Requests for room that there was not.
    pub full: u64,
    /// Reads of unreadable sectors.
    pub unreadable: u64,
    /// Processes that died inside an operation.
    pub died_inside: u64,
}

#[derive(Clone, Debug)]
struct Medium {
    names_kept: NamesKept,
    inodes: Vec<Inode>,
    names: Names,
    stable_names: Names,
    /// What was done to names since, in order.
    unsynced_names: Vec<NameChange>,
    /// Changes that are done before the process dies.
    dies_within: Option<u64>,
    is_dead: bool,
    syncs_to_fail: u32,
    is_full: bool,
    fired: Fired,
}

#[derive(Clone, Debug, Default)]
struct Names {
    files: BTreeMap<String, usize>,
    folders: BTreeSet<String>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Made { path: String, inode: usize },
    Renamed { from: String, to: String },
    Exchanged { one: String, other: String },
    Removed { path: String },
    FolderMade { path: String },
}

/// A sector's content.
type Sector = [u8; SECTOR];

#[derive(Clone, Debug, Default)]
struct Inode {
    /// What readers see.
    seen: Pages,
    /// What is on the medium.
    stable: Pages,
    /// What was written since the last sync.
    unsynced: Unsynced,
    /// Lengths since the last sync.
    unsynced_lens: Vec<usize>,
    /// What readers see may not be what is on the medium, though nothing is unsynced.
    differs: bool,
    unreadable: BTreeSet<usize>,
}

/// Sectors written since the last sync, with what they held in between, by page.
#[derive(Clone, Debug, Default)]
struct Unsynced(BTreeMap<usize, [Option<Vec<Sector>>; SECTORS]>);

impl Unsynced {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn contains(&self, n: usize) -> bool {
        let page = self.0.get(&(n / SECTORS));
        page.is_some_and(|page| page[n % SECTORS].is_some())
    }

    /// Sectors are written; until then they hold what is in `seen`.
    fn write(&mut self, sectors: Range<usize>, seen: &Pages) {
        let mut n = sectors.start;
        while n < sectors.end {
            let page = self.0.entry(n / SECTORS).or_default();
            let here = sectors.end.min((n / SECTORS + 1) * SECTORS) - n;
            for between in &mut page[n % SECTORS..][..here] {
                match between {
                    Some(between) => between.push(sector(seen, n)),
                    clean @ None => *clean = Some(Vec::new()),
                }
                n += 1;
            }
        }
    }

    /// A sector is cut: what it held is not kept.
    fn cut(&mut self, n: usize) {
        let page = self.0.entry(n / SECTORS).or_default();
        page[n % SECTORS].get_or_insert_default();
    }

    /// Each with its number, rising.
    fn sectors(self) -> impl Iterator<Item = (usize, Vec<Sector>)> {
        let of = |(page, sectors): (usize, [Option<_>; SECTORS])| {
            let numbered = sectors.into_iter().enumerate();
            numbered.filter_map(move |(n, it)| Some((page * SECTORS + n, it?)))
        };
        self.0.into_iter().flat_map(of)
    }
}

impl Disk {
    /// An empty disk.
    #[must_use]
    pub fn new(names_kept: NamesKept) -> Self {
        Self(Arc::new(Mutex::new(Medium {
            names_kept,
            inodes: Vec::new(),
            names: Names::default(),
            stable_names: Names::default(),
            unsynced_names: Vec::new(),
            dies_within: None,
            is_dead: false,
            syncs_to_fail: 0,
            is_full: false,
            fired: Fired::default(),
        })))
    }

    fn medium(&self) -> MutexGuard<'_, Medium> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process dies after so many more changes and syncs.
    pub fn die_within(&self, changes: u64) {
        self.medium().dies_within = Some(changes);
    }

    /// Whether the process has died inside an operation.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.medium().is_dead
    }

    /// A new process on the same machine.
    pub fn restart(&self) {
        let mut medium = self.medium();
        (medium.is_dead, medium.dies_within) = (false, None);
    }

    /// A new process after a power cut.
    pub fn power_cut(&self, random: &mut Random) {
        let mut medium = self.medium();
        (medium.is_dead, medium.dies_within) = (false, None);
        medium.cut_names(random);
        // Now and then nothing was written back, or everything.
        let chances = *random.pick(&[0, 20, 50, 50, 80, 100]).unwrap_or(&50);
        let mut lost = 0;
        for inode in &mut medium.inodes {
            lost += inode.power_cut(chances, random);
        }
        medium.fired.sectors_lost += lost;
    }

    /// The next syncs fail.
    pub fn fail_syncs(&self, count: u32) {
        self.medium().syncs_to_fail = count;
    }

    /// Whether there is no room from now on.
    pub fn set_full(&self, is_full: bool) {
        self.medium().is_full = is_full;
    }

    /// Whether there is no room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.medium().is_full
    }

    /// What this disk has done, since the last call.
    #[must_use]
    pub fn take_fired(&self) -> Fired {
        std::mem::take(&mut self.medium().fired)
    }

    /// The disk as it is, to be put back later.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.medium().clone())))
    }

    /// Puts the content of a copy back.
    pub fn roll_back(&self, copy: &Self) {
        let copied = copy.medium().clone();
        let mut medium = self.medium();
        let fired = medium.fired;
        *medium = copied;
        medium.fired = fired;
        (medium.is_dead, medium.dies_within, medium.syncs_to_fail) = (false, None, 0);
    }

    /// An empty disk in place of this one.
    pub fn wipe(&self) {
        let names_kept = self.medium().names_kept;
        let fresh = Self::new(names_kept);
        self.roll_back(&fresh);
    }

    /// All files below a folder.
    #[must_use]
    pub fn files_below(&self, folder: &str) -> Vec<String> {
        let medium = self.medium();
        let below = medium
            .names
            .files
            .keys()
            .filter(|path| path.starts_with(folder));
        below.cloned().collect()
    }

    /// Bytes of a file, as readers see it.
    #[must_use]
    pub fn file_len(&self, path: &str) -> usize {
        let medium = self.medium();
        let inode = medium.names.files.get(path);
        inode.map_or(0, |&inode| medium.inodes[inode].seen.len())
    }

    /// Flips a bit that is on the medium; whether there was one. A cached page may hide it.
    pub fn rot(&self, path: &str, position: usize, bit: u8, is_cached: bool) -> bool {
        let mut medium = self.medium();
        let Some(&inode) = medium.names.files.get(path) else {
            return false;
        };
        let inode = &mut medium.inodes[inode];
        let is_synced = inode.unsynced.is_empty() && inode.unsynced_lens.is_empty();
        if !is_synced || position >= inode.stable.len() {
            return false;
        }
        let mut byte = [0];
        inode.stable.read(position, &mut byte);
        inode.stable.write(position, &[byte[0] ^ (1 << (bit % 8))]);
        match is_cached {
            true => inode.differs = true,
            false => inode.seen.clone_from(&inode.stable),
        }
        true
    }

    /// Makes a sector unreadable until it is written again; whether there is one.
    pub fn spoil(&self, path: &str, position: usize) -> bool {
        let mut medium = self.medium();
        let Some(&inode) = medium.names.files.get(path) else {
            return false;
        };
        let inode = &mut medium.inodes[inode];
        let is_there = position < inode.stable.len();
        if is_there {
            inode.unreadable.insert(position / SECTOR);
        }
        is_there
    }
}

impl Medium {
    /// Counts a change or a sync; true if it is the one inside which the process dies.
    fn step(&mut self) -> io::Result<bool> {
        if self.is_dead {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        match &mut self.dies_within {
            Some(0) => {
                self.is_dead = true;
                self.fired.died_inside += 1;
                Ok(true)
            }
            Some(left) => {
                *left -= 1;
                Ok(false)
            }
            None => Ok(false),
        }
    }

    /// For what is done whole or not at all.
    fn whole_step(&mut self) -> io::Result<()> {
        match self.step()? {
            true => Err(io::ErrorKind::BrokenPipe.into()),
            false => Ok(()),
        }
    }

    /// A sync; false if it fails.
    fn sync_step(&mut self) -> io::Result<bool> {
        self.whole_step()?;
        if self.syncs_to_fail > 0 {
            self.syncs_to_fail -= 1;
            self.fired.syncs_failed += 1;
            return Ok(false);
        }
        Ok(true)
    }

    fn room(&mut self) -> io::Result<()> {
        if self.is_full {
            self.fired.full += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn find(&self, path: &str) -> io::Result<usize> {
        let inode = self.names.files.get(path).copied();
        inode.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn change_name(&mut self, change: NameChange) {
        self.names.apply(&change);
        self.unsynced_names.push(change);
    }

    fn make(&mut self, path: &str) -> io::Result<usize> {
        self.room()?;
        self.whole_step()?;
        let inode = self.inodes.len();
        self.inodes.push(Inode::default());
        let path = path.to_owned();
        self.change_name(NameChange::Made { path, inode });
        Ok(inode)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.find(from)?;
        self.whole_step()?;
        let (from, to) = (from.to_owned(), to.to_owned());
        self.change_name(NameChange::Renamed { from, to });
        Ok(())
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        self.find(path)?;
        self.whole_step()?;
        let path = path.to_owned();
        self.change_name(NameChange::Removed { path });
        Ok(())
    }

    fn write(&mut self, inode: usize, position: usize, bytes: &[u8]) -> io::Result<()> {
        if position + bytes.len() > self.inodes[inode].seen.len() {
            self.room()?;
        }
        let dies = self.step()?;
        // A process that dies in a write leaves some of it, in whole sectors.
        let half = (position + bytes.len() / 2) / SECTOR * SECTOR;
        let len = match dies {
            true => half.saturating_sub(position),
            false => bytes.len(),
        };
        self.inodes[inode].write(position, &bytes[..len]);
        match dies {
            true => Err(io::ErrorKind::BrokenPipe.into()),
            false => Ok(()),
        }
    }

    fn set_len(&mut self, inode: usize, len: usize) -> io::Result<()> {
        self.whole_step()?;
        self.inodes[inode].set_len(len);
        Ok(())
    }

    fn read(&mut self, inode: usize, position: usize, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_dead {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let content = &self.inodes[inode];
        let from = content.seen.len().min(position);
        let len = buffer.len().min(content.seen.len() - from);
        let sectors = from / SECTOR..(from + len).div_ceil(SECTOR);
        if len > 0 && content.unreadable.range(sectors).next().is_some() {
            self.fired.unreadable += 1;
            return Err(io::Error::other("the sector can't be read"));
        }
        content.seen.read(from, &mut buffer[..len]);
        Ok(len)
    }

    /// Reads past the cache. What was written and not synced is on its way to the medium by then.
    fn read_medium(
        &mut self,
        inode: usize,
        position: usize,
        buffer: &mut [u8],
    ) -> io::Result<usize> {
        let len = self.read(inode, position, buffer)?;
        let content = &self.inodes[inode];
        if content.differs {
            for n in position / SECTOR..(position + len).div_ceil(SECTOR) {
                if content.unsynced.contains(n) {
                    continue;
                }
                let on_medium = sector(&content.stable, n);
                let from = (n * SECTOR).max(position);
                let to = ((n + 1) * SECTOR).min(position + len);
                buffer[from - position..to - position]
                    .copy_from_slice(&on_medium[from - n * SECTOR..to - n * SECTOR]);
            }
        }
        Ok(len)
    }

    fn sync(&mut self, inode: usize) -> io::Result<()> {
        match self.sync_step()? {
            true => {
                self.inodes[inode].sync();
                Ok(())
            }
            false => {
                self.inodes[inode].forget();
                Err(io::Error::other("the sync failed"))
            }
        }
    }

    /// The first `count` changes of names are on the medium.
    fn settle_names(&mut self, count: usize) {
        for change in self.unsynced_names.drain(..count) {
            self.stable_names.apply(&change);
        }
    }

    /// All changes of names are, if the sync does not fail.
    fn sync_all_names(&mut self) -> io::Result<()> {
        if !self.sync_step()? {
            return Err(io::Error::other("the sync of the names failed"));
        }
        self.settle_names(self.unsynced_names.len());
        Ok(())
    }

    fn cut_names(&mut self, random: &mut Random) {
        let changes = std::mem::take(&mut self.unsynced_names);
        let kept = random.index(changes.len() + 1);
        for (n, change) in changes.into_iter().enumerate() {
            let is_kept = match self.names_kept {
                NamesKept::Prefix => n < kept,
                NamesKept::Subset => random.percent(50),
            };
            match is_kept {
                true => self.stable_names.apply(&change),
                false => self.fired.names_lost += 1,
            }
        }
        self.names = self.stable_names.clone();
    }
}

impl Names {
    fn apply(&mut self, change: &NameChange) {
        match change {
            NameChange::Made { path, inode } => {
                self.files.insert(path.clone(), *inode);
            }
            NameChange::Renamed { from, to } => {
                // What it renames may have been lost, if any subset is kept.
                if let Some(inode) = self.files.remove(from) {
                    self.files.insert(to.clone(), inode);
                }
            }
            NameChange::Exchanged { one, other } => {
                if let (Some(first), Some(second)) =
                    (self.files.get(one).copied(), self.files.get(other).copied())
                {
                    self.files.insert(one.clone(), second);
                    self.files.insert(other.clone(), first);
                }
            }
            NameChange::Removed { path } => {
                self.files.remove(path);
            }
            NameChange::FolderMade { path } => {
                self.folders.insert(path.clone());
            }
        }
    }
}

impl NameChange {
    /// The folders whose entries it changes.
    fn folders(&self) -> [&str; 2] {
        let folder = |path: &'_ str| path.rfind('/').unwrap_or(0);
        match self {
            Self::Made { path, .. } | Self::Removed { path } | Self::FolderMade { path } => {
                [&path[..folder(path)]; 2]
            }
            Self::Renamed { from, to }
            | Self::Exchanged {
                one: from,
                other: to,
            } => [&from[..folder(from)], &to[..folder(to)]],
        }
    }
}

impl Inode {
    fn write(&mut self, position: usize, bytes: &[u8]) {
        let end = position + bytes.len();
        let sectors = position / SECTOR..end.div_ceil(SECTOR);
        self.unsynced.write(sectors.clone(), &self.seen);
        if !self.unreadable.is_empty() {
            self.unreadable.retain(|n| !sectors.contains(n));
        }
        if end > self.seen.len() {
            self.seen.resize(end);
            self.unsynced_lens.push(end);
        }
        self.seen.write(position, bytes);
    }

    fn set_len(&mut self, len: usize) {
        if len < self.seen.len() && !len.is_multiple_of(SECTOR) {
            self.unsynced.cut(len / SECTOR);
        }
        self.seen.resize(len);
        self.unsynced_lens.push(len);
    }

    fn sync(&mut self) {
        self.take_lens(self.unsynced_lens.len());
        // A length whose sync has failed is written with the next.
        self.stable.resize(self.seen.len());
        for (n, _) in std::mem::take(&mut self.unsynced).sectors() {
            match self.differs {
                true => put_sector(&mut self.stable, n, &sector(&self.seen, n)),
                // Other sectors of the page are the same already, or among these.
                false => self.stable.share(n * SECTOR, &self.seen),
            }
        }
    }

    /// The first so many changes of the length are on the medium.
    fn take_lens(&mut self, count: usize) {
        for len in self.unsynced_lens.drain(..).take(count) {
            self.stable.resize(len);
        }
    }

    /// What was to be synced never will be, and readers go on seeing it.
    fn forget(&mut self) {
        self.differs |= !self.unsynced.is_empty() || !self.unsynced_lens.is_empty();
        self.unsynced = Unsynced::default();
        self.unsynced_lens.clear();
    }

    /// How many sectors lost what was last written to them, each kept by so many chances of a
    /// hundred.
    fn power_cut(&mut self, chances: u32, random: &mut Random) -> u64 {
        if self.unsynced.is_empty() && self.unsynced_lens.is_empty() && !self.differs {
            return 0;
        }
        let mut lost = 0;
        let lens = self.unsynced_lens.len();
        if lens > 0 {
            let last = random.index(lens);
            let is_kept = random.percent(chances);
            self.take_lens(if is_kept { last + 1 } else { 0 });
        }
        for (n, between) in std::mem::take(&mut self.unsynced).sectors() {
            if random.percent(chances) {
                put_sector(&mut self.stable, n, &sector(&self.seen, n));
                continue;
            }
            lost += 1;
            if let Some(version) = random.pick(&between)
                && random.percent(50)
            {
                put_sector(&mut self.stable, n, version);
            }
        }
        self.seen.clone_from(&self.stable);
        self.differs = false;
        lost
    }
}

fn sector(pages: &Pages, n: usize) -> Sector {
    let mut content = [0; SECTOR];
    pages.read(n * SECTOR, &mut content);
    content
}

fn put_sector(pages: &mut Pages, n: usize, content: &Sector) {
    pages.write(n * SECTOR, content);
}

fn at(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}
