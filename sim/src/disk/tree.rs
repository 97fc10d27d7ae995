//! A disk as the chunk store wants it.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use sarsen_chunkd::store::Space;
use sarsen_chunkd::store::region::{Medium as StoreMedium, Region, Tree};

use super::{Disk, Inode, NameChange, TOTAL, at};

/// Free bytes of a disk that is full: some, but less than chunkservers call room.
const FREE_WHEN_FULL: u64 = 1024 * 1024;

/// A data directory on a disk.
#[derive(Debug)]
pub struct SimTree(pub Disk);

/// An open file.
#[derive(Debug)]
struct SimRegion {
    disk: Disk,
    inode: usize,
}

impl SimTree {
    fn region(&self, inode: usize) -> Arc<dyn Region> {
        let disk = self.0.clone();
        Arc::new(SimRegion { disk, inode })
    }
}

impl Tree for SimTree {
    fn root(&self) -> &Path {
        Path::new("sim")
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn Region>> {
        let mut medium = self.0.medium();
        if medium.find(path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = medium.make(path)?;
        drop(medium);
        Ok(self.region(inode))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn Region>> {
        let inode = self.0.medium().find(path)?;
        Ok(self.region(inode))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.medium().rename(from, to)
    }

    fn exchange(&self, one: &str, other: &str) -> io::Result<()> {
        let mut medium = self.0.medium();
        medium.find(one)?;
        medium.find(other)?;
        medium.whole_step()?;
        let (one, other) = (one.to_owned(), other.to_owned());
        medium.change_name(NameChange::Exchanged { one, other });
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.0.medium().remove(path)
    }

    fn make_folder(&self, path: &str) -> io::Result<()> {
        let mut medium = self.0.medium();
        if medium.names.folders.contains(path) {
            return Ok(());
        }
        medium.room()?;
        medium.whole_step()?;
        let path = path.to_owned();
        medium.change_name(NameChange::FolderMade { path });
        Ok(())
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let medium = self.0.medium();
        if !folder.is_empty() && !medium.names.folders.contains(folder) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let prefix = match folder {
            "" => String::new(),
            folder => format!("{folder}/"),
        };
        let name_of = |path: &String| {
            let name = path.strip_prefix(&prefix)?;
            (!name.contains('/')).then(|| name.to_owned())
        };
        let is_below = |path: &&String| path.starts_with(&prefix);
        let files = medium
            .names
            .files
            .range(prefix.clone()..)
            .map(|(path, _)| path);
        let folders = medium.names.folders.range(prefix.clone()..);
        let all = files
            .take_while(is_below)
            .chain(folders.take_while(is_below));
        Ok(all.filter_map(name_of).collect())
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        let mut medium = self.0.medium();
        if !medium.sync_step()? {
            return Err(io::Error::other("the sync of the folder failed"));
        }
        let is_here = |change: &NameChange| change.folders().contains(&folder);
        let last = medium.unsynced_names.iter().rposition(is_here);
        medium.settle_names(last.map_or(0, |last| last + 1));
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        let mut medium = self.0.medium();
        medium.sync_all_names()?;
        medium.inodes.iter_mut().for_each(Inode::sync);
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        let medium = self.0.medium();
        let free = match medium.is_full {
            true => FREE_WHEN_FULL,
            false => TOTAL,
        };
        Ok(Space { total: TOTAL, free })
    }
}

impl Region for SimRegion {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.disk.medium().read(self.inode, at(position), buf)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.disk.medium().write(self.inode, at(position), bytes)
    }

    fn reserve(&self, position: u64, len: u64) -> io::Result<()> {
        let end = at(position + len);
        let mut medium = self.disk.medium();
        // What is there takes no room.
        if medium.inodes[self.inode].seen.len() < end {
            medium.room()?;
        }
        medium.whole_step()?;
        let inode = &mut medium.inodes[self.inode];
        if inode.seen.len() < end {
            inode.set_len(end);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.medium().set_len(self.inode, at(len))
    }

    fn give_back(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn file_len(&self) -> io::Result<u64> {
        Ok(self.disk.medium().inodes[self.inode].seen.len() as u64)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.medium().sync(self.inode)
    }

    fn medium(&self) -> io::Result<Box<dyn StoreMedium>> {
        let disk = self.disk.clone();
        let inode = self.inode;
        Ok(Box::new(SimMedium { disk, inode }))
    }

    fn file(&self) -> Option<&Arc<File>> {
        None
    }
}

/// An open file, past the page cache.
#[derive(Debug)]
struct SimMedium {
    disk: Disk,
    inode: usize,
}

impl StoreMedium for SimMedium {
    fn read_at(&mut self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.disk
            .medium()
            .read_medium(self.inode, at(position), buf)
    }
}
