//! Reading back from the medium (`spec/chunk-file.md` section 10.6), beside readers.

use std::path::PathBuf;

use rustix::fs::Advice;
use sarsen_protocol::message::Level;

use super::super::layout::{CRC_PAGE_POSITION, DATA_POSITION};
use super::super::region::Tree;
use super::super::{Directory, ReadFrom};
use super::faulty::{Faults, FaultyTree};
use super::scenario::{ADOPTION, START, Sample, open};
use std::sync::Arc;

/// Bytes that this thread had the disk read so far.
fn read_from_disk() -> u64 {
    let counts = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let line = counts
        .lines()
        .find_map(|line| line.strip_prefix("read_bytes: "));
    line.unwrap().parse().unwrap()
}

/// Where the tests were built: a disk, where the folder for temporary files may be memory.
fn on_disk() -> PathBuf {
    std::env::current_exe()
        .unwrap()
        .parent()
        .unwrap()
        .to_owned()
}

/// The kernel was told to drop its cached pages, and the data was read as usual then. But pages
/// that are mapped stay, and those of every chunk that a reader had open were: a seal at `memory`
/// whose bytes had never reached the disk was read back from the cache, and called durable.
#[test]
fn reading_back_reaches_the_medium_beside_readers() {
    let folder = tempfile::tempdir_in(on_disk()).unwrap();
    let directory = Directory::open(folder.path(), &START).unwrap();
    directory.adopt(ADOPTION).unwrap();
    if rustix::fs::statfs(folder.path()).unwrap().f_type == 0x0102_1994 {
        eprintln!("not tested: built on a tmpfs, whose medium is the cache");
        return;
    }
    let sample = Sample::new(1, 300_000);
    sample.store(&directory, Level::Disk).unwrap();
    let reader = directory.open_for_read(sample.handle).unwrap();
    reader.bring_in(0, sample.length()).unwrap();

    let before = read_from_disk();
    let found = directory.verify(sample.handle, ReadFrom::Cache, 1).unwrap();
    assert!(found.is_good());
    let between = read_from_disk();
    let found = directory
        .verify(sample.handle, ReadFrom::Medium, 2)
        .unwrap();
    assert!(found.is_good());
    let after = read_from_disk();
    assert_eq!(between, before, "a reader has it in memory");
    assert!(after - between >= u64::from(sample.length()));
    drop(reader);
}

/// Only the first and the last byte of a range were looked at: of a mebibyte that had left the page cache but
/// for these two a data-plane thread waited for the disk.
#[test]
fn a_range_with_a_hole_in_the_page_cache_is_not_taken_for_cached() {
    let folder = tempfile::tempdir_in(on_disk()).unwrap();
    let directory = Directory::open(folder.path(), &START).unwrap();
    directory.adopt(ADOPTION).unwrap();
    if rustix::fs::statfs(folder.path()).unwrap().f_type == 0x0102_1994 {
        return; // Built on a tmpfs, whose medium is the cache.
    }
    let sample = Sample::new(1, 300_000);
    sample.store(&directory, Level::Disk).unwrap();
    let chunk = directory.open_for_read(sample.handle).unwrap();
    let file = chunk.file().unwrap();
    rustix::fs::fadvise(file, 0, None, Advice::DontNeed).unwrap();
    // Nothing comes along with what is read.
    rustix::fs::fadvise(file, 0, None, Advice::Random).unwrap();
    for offset in [0, 299_999] {
        chunk.read_at(&mut [0], offset).unwrap();
    }
    // Once: what is looked for the kernel may begin to read.
    assert!(!chunk.is_cached(0, 300_000));
    let mut all = vec![0; 300_000];
    chunk.read_at(&mut all, 0).unwrap();
    assert!(chunk.is_cached(0, 300_000));
}

/// Only data and CRC page were looked at. A seal whose header alone never reached the disk (the
/// kernel's write failed, told to nobody, and the process died before its sync) was found whole
/// by the next start, which sees the cached header, and answered as durable.
#[test]
fn a_header_that_is_only_cached_is_found_out() {
    let tree = Arc::new(FaultyTree::with(Faults::default()));
    let directory = open(&(Arc::clone(&tree) as Arc<dyn Tree>)).unwrap();
    let sample = Sample::new(1, 1000);
    sample.store(&directory, Level::Disk).unwrap();
    drop(directory);
    tree.lose_stable("chunks/01/0000000000000001.chunk", 0..4096);

    let directory = open(&(Arc::clone(&tree) as Arc<dyn Tree>)).unwrap();
    assert_eq!(
        sample.read(&directory).unwrap(),
        sample.bytes,
        "the cache has it"
    );
    let again = sample.seal(&directory, Level::Disk);
    assert!(again.is_err(), "{again:?}");
    assert!(directory.entry(sample.handle).unwrap().flags.corrupt);
}

/// A machine without memory for the moment had its good replicas marked corrupt, for good.
#[test]
fn want_of_memory_says_nothing_of_the_medium() {
    let tree = Arc::new(FaultyTree::new());
    let directory = open(&(Arc::clone(&tree) as Arc<dyn Tree>)).unwrap();
    let sample = Sample::new(1, 300_000);
    sample.store(&directory, Level::Disk).unwrap();
    for from in [0, CRC_PAGE_POSITION, DATA_POSITION, DATA_POSITION + 1] {
        tree.be_short_of_memory(Some(from));
        let found = directory.verify(sample.handle, ReadFrom::Medium, 1);
        // What is read in one go is read from its beginning.
        assert_eq!(found.is_err(), from <= DATA_POSITION, "{from}: {found:?}");
        let marks = directory.entry(sample.handle).unwrap().flags;
        assert!(!marks.corrupt && !marks.poisoned, "{from}");
    }
    tree.be_short_of_memory(None);
    let found = directory.verify(sample.handle, ReadFrom::Medium, 2);
    assert!(found.unwrap().is_good());
}
