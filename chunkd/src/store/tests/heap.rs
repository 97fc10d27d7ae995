//! A tree on the heap: what a file system does when nothing ever goes wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::super::region::{Medium, Region, Space, Tree};

/// Files and folders in memory.
#[derive(Debug, Default)]
pub(super) struct HeapTree {
    files: Mutex<BTreeMap<String, Arc<HeapRegion>>>,
    folders: Mutex<BTreeSet<String>>,
}

/// A file's bytes.
#[derive(Debug, Default)]
pub(super) struct HeapRegion {
    pub(super) bytes: Mutex<Vec<u8>>,
}

/// A file's bytes, as they were at one moment.
#[derive(Debug)]
pub(super) struct HeapMedium(pub(super) HeapRegion);

impl Medium for HeapMedium {
    fn read_at(&mut self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.0.read_at(buf, position)
    }
}

impl HeapTree {
    /// An empty tree.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// The file at a path.
    pub(super) fn find(&self, path: &str) -> io::Result<Arc<HeapRegion>> {
        let files = self.files.lock().unwrap();
        files
            .get(path)
            .cloned()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Makes an empty file.
    pub(super) fn make(&self, path: &str) -> io::Result<Arc<HeapRegion>> {
        let mut files = self.files.lock().unwrap();
        if files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let region = Arc::new(HeapRegion::default());
        files.insert(path.to_owned(), Arc::clone(&region));
        Ok(region)
    }
}

/// The folder that a path lies in, and the name there.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// The names in a folder, of all files and folders there are.
pub(super) fn names_in<V>(
    folder: &str,
    files: &BTreeMap<String, V>,
    folders: &BTreeSet<String>,
) -> io::Result<Vec<String>> {
    if !folder.is_empty() && !folders.contains(folder) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let prefix = if folder.is_empty() {
        String::new()
    } else {
        format!("{folder}/")
    };
    let name_of = |path: &String| {
        let name = path.strip_prefix(&prefix)?;
        (!name.contains('/')).then(|| name.to_owned())
    };
    let is_below = |path: &&String| path.starts_with(&prefix);
    let files = files
        .range(prefix.clone()..)
        .map(|(path, _)| path)
        .take_while(is_below);
    let folders = folders.range(prefix.clone()..).take_while(is_below);
    Ok(files.chain(folders).filter_map(name_of).collect())
}

impl Tree for HeapTree {
    fn root(&self) -> &Path {
        Path::new("heap")
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn Region>> {
        Ok(self.make(path)?)
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn Region>> {
        Ok(self.find(path)?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files.lock().unwrap();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn exchange(&self, one: &str, other: &str) -> io::Result<()> {
        let (first, second) = (self.find(one)?, self.find(other)?);
        let mut files = self.files.lock().unwrap();
        files.insert(one.to_owned(), second);
        files.insert(other.to_owned(), first);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let removed = self.files.lock().unwrap().remove(path);
        removed
            .map(|_| ())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn make_folder(&self, path: &str) -> io::Result<()> {
        self.folders.lock().unwrap().insert(path.to_owned());
        Ok(())
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let (files, folders) = (self.files.lock().unwrap(), self.folders.lock().unwrap());
        names_in(folder, &files, &folders)
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        self.list(folder).map(|_| ())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        Ok(Space {
            total: 1 << 40,
            free: 1 << 40,
        })
    }
}

impl Region for HeapRegion {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let bytes = self.bytes.lock().unwrap();
        let from = bytes.len().min(usize::try_from(position).unwrap());
        let len = buf.len().min(bytes.len() - from);
        buf[..len].copy_from_slice(&bytes[from..from + len]);
        Ok(len)
    }

    fn write_at(&self, written: &[u8], position: u64) -> io::Result<()> {
        let mut bytes = self.bytes.lock().unwrap();
        let from = usize::try_from(position).unwrap();
        let end = from + written.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[from..end].copy_from_slice(written);
        Ok(())
    }

    fn reserve(&self, position: u64, len: u64) -> io::Result<()> {
        let end = usize::try_from(position + len).unwrap();
        let mut bytes = self.bytes.lock().unwrap();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes
            .lock()
            .unwrap()
            .resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn give_back(&self, position: u64, len: u64) -> io::Result<()> {
        let mut bytes = self.bytes.lock().unwrap();
        let from = bytes.len().min(usize::try_from(position).unwrap());
        let to = bytes.len().min(usize::try_from(position + len).unwrap());
        bytes[from..to].fill(0);
        Ok(())
    }

    fn file_len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn medium(&self) -> io::Result<Box<dyn Medium>> {
        let bytes = self.bytes.lock().unwrap().clone();
        let bytes = Mutex::new(bytes);
        Ok(Box::new(HeapMedium(HeapRegion { bytes })))
    }

    fn file(&self) -> Option<&Arc<File>> {
        None
    }
}
