//! A file system in memory that dies where it is told to and then keeps what a real one might.
//!
//! Every change (write, cut, sync, making, renaming and removing of names) is a *step*.
//! [`Disk::die_at`] lets the process die at a step: it and all later ones fail. Then either the
//! machine lives on ([`Disk::restart`], what kill -9 does: everything written is there, unsynced or not), or
//! the power fails ([`Disk::power_cut`]): of what was not synced any subset of the sectors of 512 bytes, in any
//! of the versions that they had, any of the lengths, any of the names; what was never written may be garbage.
//!
//! [`Disk::fail_at`] lets a step fail with the process living on. A sync that fails does what Linux
//! does: readers go on seeing what was written, the next sync returns success, and the disk
//! never gets it.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::folder::{File, Folder};

const SECTOR: usize = 512;

/// A small generator of random numbers (splitmix64): tests name their seed.
#[derive(Clone, Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    /// A number below `bound`.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// The disk; clones are the same one.
#[derive(Clone, Default)]
pub(super) struct Disk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Changes of names since the folder was synced.
    name_changes: Vec<NameChange>,
    steps: u64,
    syncs: u64,
    die_at: Option<u64>,
    fail_at: Option<(u64, io::ErrorKind)>,
    /// What can't be read, with what the kernel says then.
    unreadable: Option<(usize, i32)>,
}

#[derive(Clone)]
enum NameChange {
    Made(String, usize),
    Renamed {
        from: String,
        to: String,
        inode: usize,
    },
    Removed(String),
}

#[derive(Clone, Default)]
struct Inode {
    /// What readers see.
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// Changes since the last sync.
    changes: Vec<Change>,
}

/// The file's length and the touched sectors after a write or a cut.
#[derive(Clone)]
struct Change {
    len: usize,
    sectors: Vec<(usize, [u8; SECTOR])>,
}

impl Disk {
    /// Steps so far.
    pub(super) fn steps(&self) -> u64 {
        self.state().steps
    }

    /// Syncs so far, of files and of the folder.
    pub(super) fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// The process dies at this step, counted from the first ever.
    pub(super) fn die_at(&self, step: u64) {
        self.state().die_at = Some(step);
    }

    /// This step fails.
    pub(super) fn fail_at(&self, step: u64, kind: io::ErrorKind) {
        self.state().fail_at = Some((step, kind));
    }

    /// A new process on the same machine.
    pub(super) fn restart(&self) {
        self.state().die_at = None;
    }

    /// A new process after a power cut.
    pub(super) fn power_cut(&self, random: &mut Random) {
        let mut state = self.state();
        state.die_at = None;
        let mut names = state.durable_names.clone();
        for change in std::mem::take(&mut state.name_changes) {
            if random.below(2) == 0 {
                change.apply(&mut names);
            }
        }
        state.durable_names.clone_from(&names);
        state.names = names;
        state
            .inodes
            .iter_mut()
            .for_each(|inode| inode.power_cut(random));
    }

    /// What readers of a file see.
    pub(super) fn read(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        state.inodes[state.names[name]].bytes.clone()
    }

    /// Reads of a file fail with this number of an error from now on.
    pub(super) fn make_unreadable(&self, name: &str, errno: i32) {
        let mut state = self.state();
        state.unreadable = Some((state.names[name], errno));
    }

    /// Puts a whole file on stable storage, or takes one away, as no log would.
    pub(super) fn tamper(&self, name: &str, bytes: Option<Vec<u8>>) {
        let mut state = self.state();
        match bytes {
            Some(bytes) => {
                let durable = bytes.clone();
                state.inodes.push(Inode {
                    bytes,
                    durable,
                    changes: Vec::new(),
                });
                let inode = state.inodes.len() - 1;
                state.names.insert(name.to_owned(), inode);
                state.durable_names.insert(name.to_owned(), inode);
            }
            None => {
                state.names.remove(name);
                state.durable_names.remove(name);
            }
        }
    }

    /// A disk with the same content and a history of its own.
    pub(super) fn copy(&self) -> Self {
        let state = self.state();
        Self(Arc::new(Mutex::new(State {
            inodes: state.inodes.clone(),
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            name_changes: state.name_changes.clone(),
            ..State::default()
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

/// What becomes of a step.
enum Fate {
    Done,
    /// The process dies in the middle of it.
    Dies,
    Fails(io::ErrorKind),
}

impl State {
    fn step(&mut self) -> io::Result<Fate> {
        let step = self.steps;
        if self.die_at.is_some_and(|at| step > at) {
            return Err(io::Error::other("the process is dead"));
        }
        self.steps += 1;
        match self.fail_at {
            Some((at, kind)) if at == step => Ok(Fate::Fails(kind)),
            _ if self.die_at == Some(step) => Ok(Fate::Dies),
            _ => Ok(Fate::Done),
        }
    }

    /// For steps that are done whole or not at all.
    fn whole_step(&mut self) -> io::Result<()> {
        match self.step()? {
            Fate::Done => Ok(()),
            Fate::Dies => Err(io::Error::other("the process dies")),
            Fate::Fails(kind) => Err(kind.into()),
        }
    }

    fn change_names(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.name_changes.push(change);
    }

    fn find(&self, name: &str) -> io::Result<usize> {
        self.names
            .get(name)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Made(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            Self::Renamed { from, to, inode } => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
            Self::Removed(name) => {
                names.remove(name);
            }
        }
    }
}

impl Inode {
    /// Notes that the bytes of a range were changed.
    fn changed(&mut self, from: usize, to: usize) {
        let sectors = from / SECTOR..to.div_ceil(SECTOR);
        let sectors = sectors.map(|n| (n, sector(&self.bytes, n))).collect();
        self.changes.push(Change {
            len: self.bytes.len(),
            sectors,
        });
    }

    fn sync(&mut self) {
        for change in std::mem::take(&mut self.changes) {
            self.durable.resize(change.len, 0);
            for (n, content) in change.sectors {
                put_sector(&mut self.durable, n, &content);
            }
        }
    }

    fn power_cut(&mut self, random: &mut Random) {
        let mut versions: BTreeMap<usize, Vec<[u8; SECTOR]>> = BTreeMap::new();
        let mut lens = vec![self.durable.len()];
        for change in std::mem::take(&mut self.changes) {
            lens.push(change.len);
            for (n, content) in change.sectors {
                versions
                    .entry(n)
                    .or_insert_with(|| vec![self.unwritten(n, random)])
                    .push(content);
            }
        }
        self.durable.resize(lens[random.below(lens.len())], 0);
        for (n, versions) in versions {
            put_sector(
                &mut self.durable,
                n,
                &versions[random.below(versions.len())],
            );
        }
        self.bytes.clone_from(&self.durable);
    }

    /// What a sector holds that no change reached: the old bytes, or, where there were none,
    /// zeros or what the disk held before.
    fn unwritten(&self, n: usize, random: &mut Random) -> [u8; SECTOR] {
        let is_new = n * SECTOR >= self.durable.len();
        if is_new && random.below(4) == 0 {
            return std::array::from_fn(|_| random.next().to_le_bytes()[0]);
        }
        sector(&self.durable, n)
    }
}

fn sector(bytes: &[u8], n: usize) -> [u8; SECTOR] {
    let mut content = [0; SECTOR];
    let there = bytes.get(n * SECTOR..).unwrap_or_default();
    let len = there.len().min(SECTOR);
    content[..len].copy_from_slice(&there[..len]);
    content
}

fn put_sector(bytes: &mut [u8], n: usize, content: &[u8; SECTOR]) {
    let there = bytes.get_mut(n * SECTOR..).unwrap_or_default();
    let len = there.len().min(SECTOR);
    there[..len].copy_from_slice(&content[..len]);
}

impl Folder for Disk {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        let mut state = self.state();
        state.whole_step()?;
        state.inodes.push(Inode::default());
        let inode = state.inodes.len() - 1;
        state.change_names(NameChange::Made(name.to_owned(), inode));
        Ok(Box::new(OpenFile {
            disk: self.clone(),
            inode,
        }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let inode = self.state().find(name)?;
        Ok(Box::new(OpenFile {
            disk: self.clone(),
            inode,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.whole_step()?;
        let inode = state.find(from)?;
        let (from, to) = (from.to_owned(), to.to_owned());
        state.change_names(NameChange::Renamed { from, to, inode });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.whole_step()?;
        state.find(name)?;
        state.change_names(NameChange::Removed(name.to_owned()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        state.whole_step()?;
        state.syncs += 1;
        state.name_changes.clear();
        state.durable_names = state.names.clone();
        Ok(())
    }
}

struct OpenFile {
    disk: Disk,
    inode: usize,
}

impl File for OpenFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.state().inodes[self.inode].bytes.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let (state, offset) = (self.disk.state(), usize::try_from(offset).unwrap());
        if let Some((inode, errno)) = state.unreadable
            && inode == self.inode
        {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let there = state.inodes[self.inode]
            .bytes
            .get(offset..offset + buffer.len());
        buffer.copy_from_slice(there.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        // A process that dies, or a disk that fills up, in a write leaves some of it.
        let (len, result) = match state.step()? {
            Fate::Done => (bytes.len(), Ok(())),
            Fate::Dies => (bytes.len() / 2, Err(io::Error::other("the process dies"))),
            Fate::Fails(kind) => (bytes.len() / 2, Err(kind.into())),
        };
        let (from, inode) = (
            usize::try_from(offset).unwrap(),
            &mut state.inodes[self.inode],
        );
        let to = from + len;
        inode.bytes.resize(inode.bytes.len().max(to), 0);
        inode.bytes[from..to].copy_from_slice(&bytes[..len]);
        inode.changed(from, to);
        result
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.whole_step()?;
        let (len, inode) = (usize::try_from(len).unwrap(), &mut state.inodes[self.inode]);
        let old_len = inode.bytes.len();
        inode.bytes.resize(len, 0);
        inode.changed(len.min(old_len), len.max(old_len));
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.state();
        match state.step()? {
            Fate::Done => {
                state.syncs += 1;
                state.inodes[self.inode].sync();
                Ok(())
            }
            Fate::Dies => Err(io::Error::other("the process dies")),
            Fate::Fails(kind) => {
                state.inodes[self.inode].changes.clear();
                Err(kind.into())
            }
        }
    }
}
