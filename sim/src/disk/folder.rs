//! A disk as the operation log wants it.

use std::io;

use sarsen_master::oplog::Folder;
use sarsen_master::oplog::folder::File;

use super::{Disk, at};

/// The log's directory on a disk.
#[derive(Debug)]
pub struct SimFolder(pub Disk);

/// An open file.
struct SimFile {
    disk: Disk,
    inode: usize,
}

impl Folder for SimFolder {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.0.medium().names.files.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        let inode = self.0.medium().make(name)?;
        let disk = self.0.clone();
        Ok(Box::new(SimFile { disk, inode }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let inode = self.0.medium().find(name)?;
        let disk = self.0.clone();
        Ok(Box::new(SimFile { disk, inode }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.medium().rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.medium().remove(name)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.medium().sync_all_names()
    }
}

impl File for SimFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.medium().inodes[self.inode].seen.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let wanted = buffer.len();
        let read = self.disk.medium().read(self.inode, at(offset), buffer)?;
        match read == wanted {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.medium().write(self.inode, at(offset), bytes)
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.disk.medium().set_len(self.inode, at(len))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.disk.medium().sync(self.inode)
    }
}
