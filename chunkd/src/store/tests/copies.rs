//! Copies over every kind of tree: what they replace, what they leave alone, what is left of them
//! (`spec/chunk-file.md` section 10.8).

use std::sync::{Arc, mpsc};

use sarsen_protocol::id::{ChunkVersion, Serial};
use sarsen_protocol::message::{ChunkState, Level};

use super::super::layout::{chunk_path, copy_path, deleted_path};
use super::super::region::Tree;
use super::super::{ChunkCopy, Directory, ReadFrom, StoreError};
use super::conformance::{flip, over_all_trees};
use super::faulty::FaultyTree;
use super::scenario::{Sample, open};

fn begin(directory: &Directory, sample: &Sample) -> ChunkCopy {
    match directory.begin_copy(&sample.new_copy()) {
        Ok(Some(copy)) => copy,
        other => panic!("{other:?}"),
    }
}

fn finish(directory: &Directory, copy: ChunkCopy) -> Result<(), StoreError> {
    directory.finish_copy(copy, Serial(9), 5_000).map(|_| ())
}

fn is_there(tree: &dyn Tree, path: &str) -> bool {
    tree.open(path).is_ok()
}

/// What every copy that was made comes to.
fn check_copied(directory: &Directory, sample: &Sample) {
    let entry = directory.entry(sample.handle).expect("there");
    assert_eq!(
        (entry.version, entry.state, entry.length),
        (sample.version, ChunkState::Sealed, sample.length())
    );
    assert_eq!(entry.flags, Default::default());
    assert!(!entry.needs_read_back);
    assert_eq!(sample.read(directory).expect("reads"), sample.bytes);
}

#[test]
fn a_copy_appears_when_it_is_whole() {
    over_all_trees(|tree| {
        let directory = open(tree).unwrap();
        for (number, len) in [(1, 150_000), (2, 0), (3, 1), (4, 65_536)] {
            let sample = Sample::new(number, len);
            let copy = begin(&directory, &sample);
            sample.fill(&copy).unwrap();
            assert_eq!(
                directory.entry(sample.handle),
                None,
                "not before it is whole"
            );
            let twice = directory.begin_copy(&sample.new_copy());
            assert!(
                matches!(twice, Err(StoreError::AlreadyExists { .. })),
                "{twice:?}"
            );
            finish(&directory, copy).unwrap();
            check_copied(&directory, &sample);
            assert!(!is_there(&**tree, &copy_path(sample.handle)));
            let held = directory.begin_copy(&sample.new_copy());
            assert!(matches!(held, Ok(None)), "{held:?}");
            assert!(directory.confirm_held(&sample.new_copy(), 6_000).unwrap());
        }
        drop(directory);
        let directory = open(tree).unwrap();
        check_copied(&directory, &Sample::new(1, 150_000));
    });
}

#[test]
fn a_bad_replica_stays_until_its_successor_is_whole() {
    over_all_trees(|tree| {
        let directory = open(tree).unwrap();
        // Stale; marked corrupt; pending since an earlier start.
        let [stale, rotten, left] = [1, 2, 3].map(|number| Sample::new(number, 70_000));
        stale.store(&directory, Level::Disk).unwrap();
        rotten.store(&directory, Level::Disk).unwrap();
        left.write(&directory, 1_000).unwrap();
        drop(directory);
        flip(&**tree, &rotten, 8192 + 3);
        let directory = open(tree).unwrap();
        let found = directory
            .verify(rotten.handle, ReadFrom::Medium, 1)
            .unwrap();
        assert!(!found.is_good());
        let newer = Sample {
            version: ChunkVersion(stale.version.0 + 1),
            bytes: Sample::new(77, 80_000).bytes,
            ..stale.clone()
        };
        let opened = directory.open_for_read(stale.handle).unwrap();

        for sample in [&newer, &rotten, &left] {
            let copy = begin(&directory, sample);
            sample.fill(&copy).unwrap();
            drop(copy);
            assert!(!is_there(&**tree, &copy_path(sample.handle)), "given up");
        }
        assert_eq!(stale.read(&directory).unwrap(), stale.bytes);
        assert!(directory.entry(rotten.handle).unwrap().flags.corrupt);
        let entry = directory.entry(left.handle).unwrap();
        assert_eq!(entry.state, ChunkState::Pending);

        for sample in [&newer, &rotten, &left] {
            sample.copy(&directory).unwrap();
            check_copied(&directory, sample);
        }
        let mut bytes = vec![0; 70_000];
        assert_eq!(opened.read_at(&mut bytes, 0).unwrap(), 70_000);
        assert_eq!(bytes, stale.bytes, "who reads the old one keeps it");
        assert!(!is_there(
            &**tree,
            &deleted_path(stale.handle, stale.version)
        ));
        drop(directory);
        let directory = open(tree).unwrap();
        for sample in [&newer, &rotten, &left] {
            check_copied(&directory, sample);
        }
    });
}

#[test]
fn what_is_good_newer_or_being_written_is_never_replaced() {
    over_all_trees(|tree| {
        let directory = open(tree).unwrap();
        let [good, written] = [1, 2].map(|number| Sample::new(number, 1_000));
        good.store(&directory, Level::Disk).unwrap();
        let held = directory.begin_copy(&good.new_copy());
        assert!(matches!(held, Ok(None)), "{held:?}");
        let older = Sample {
            version: ChunkVersion(good.version.0 - 1),
            ..good.clone()
        };
        let refused = directory.begin_copy(&older.new_copy());
        assert!(
            matches!(refused, Err(StoreError::OtherVersion { held, .. }) if held == good.version),
            "{refused:?}"
        );
        written.write(&directory, 100).unwrap();
        let refused = directory.begin_copy(&written.new_copy());
        assert!(
            matches!(refused, Err(StoreError::AlreadyExists { .. })),
            "{refused:?}"
        );

        // What comes while the copy is being made is met at its end.
        let [sealed, begun] = [3, 4].map(|number| Sample::new(number, 1_000));
        for sample in [&sealed, &begun] {
            let copy = begin(&directory, sample);
            sample.fill(&copy).unwrap();
            let upload = sample.write(&directory, 1_000).unwrap();
            if sample.handle == sealed.handle {
                sample.seal(&directory, Level::Disk).unwrap();
            }
            let late = finish(&directory, copy);
            assert!(
                matches!(late, Err(StoreError::AlreadyExists { .. })),
                "{late:?}"
            );
            assert!(!is_there(&**tree, &copy_path(sample.handle)));
            drop(upload);
        }
        check_copied(&directory, &sealed);
        begun.seal(&directory, Level::Disk).unwrap();
    });
}

#[test]
fn a_replica_that_only_looks_good_is_found_out_and_replaced() {
    over_all_trees(|tree| {
        let directory = open(tree).unwrap();
        let [rotten, headless] = [1, 2].map(|number| Sample::new(number, 70_000));
        for sample in [&rotten, &headless] {
            sample.store(&directory, Level::Disk).unwrap();
        }
        flip(&**tree, &rotten, 8192 + 69_000);
        flip(&**tree, &headless, 100);
        flip(&**tree, &headless, 2048 + 100);
        for sample in [&rotten, &headless] {
            let held = directory.begin_copy(&sample.new_copy());
            assert!(matches!(held, Ok(None)), "{held:?}");
            assert!(!directory.confirm_held(&sample.new_copy(), 1).unwrap());
            sample.copy(&directory).unwrap();
            check_copied(&directory, sample);
        }
    });
}

/// Files that a start could make nothing of, and which the master is told of as damaged.
#[test]
fn damaged_files_are_replaced_too() {
    over_all_trees(|tree| {
        let directory = open(tree).unwrap();
        let [headless, short] = [1, 2].map(|number| Sample::new(number, 70_000));
        for sample in [&headless, &short] {
            sample.store(&directory, Level::Disk).unwrap();
        }
        drop(directory);
        flip(&**tree, &headless, 100);
        flip(&**tree, &headless, 2048 + 100);
        let region = tree.open(&chunk_path(short.handle)).unwrap();
        region.set_len(8192 + 100).unwrap();
        let directory = open(tree).unwrap();
        assert_eq!(directory.problems().len(), 2);
        for sample in [&headless, &short] {
            sample.copy(&directory).unwrap();
            check_copied(&directory, sample);
        }
        assert_eq!(directory.problems(), []);
    });
}

#[test]
fn bytes_that_are_not_the_chunks_never_take_its_place() {
    over_all_trees(|tree| {
        let directory = open(tree).unwrap();
        let sample = Sample::new(1, 70_000);
        // Too few, and others, each with the right CRC of itself.
        for bytes in [&sample.bytes[..60_000], &Sample::new(5, 70_000).bytes[..]] {
            let copy = begin(&directory, &sample);
            let other = Sample {
                bytes: bytes.to_vec(),
                ..sample.clone()
            };
            other.fill(&copy).unwrap();
            let refused = finish(&directory, copy);
            assert!(
                matches!(refused, Err(StoreError::SealMismatch { .. })),
                "{refused:?}"
            );
            assert_eq!(directory.entry(sample.handle), None);
        }
        let too_long = super::super::NewCopy {
            length: 1024 * 1024 + 1,
            ..sample.new_copy()
        };
        let refused = directory.begin_copy(&too_long);
        assert!(
            matches!(refused, Err(StoreError::BeyondRoom { .. })),
            "{refused:?}"
        );
        // What reaches the medium is not what was written: it is read back before it counts.
        let copy = begin(&directory, &sample);
        sample.fill(&copy).unwrap();
        let region = tree.open(&copy_path(sample.handle)).unwrap();
        region.write_at(&[!sample.bytes[300]], 8192 + 300).unwrap();
        let refused = finish(&directory, copy);
        assert!(
            matches!(refused, Err(StoreError::Corrupt { .. })),
            "{refused:?}"
        );
        assert_eq!(directory.entry(sample.handle), None);
        assert!(!is_there(&**tree, &copy_path(sample.handle)));
    });
}

#[test]
fn what_a_crash_left_of_copies_is_neither_told_nor_served_and_goes_with_the_deleted() {
    over_all_trees(|tree| {
        let directory = open(tree).unwrap();
        let [again, left] = [1, 2].map(|number| Sample::new(number, 2_000));
        for sample in [&again, &left] {
            let copy = begin(&directory, sample);
            sample.fill(&copy).unwrap();
            // As the end of the process does.
            std::mem::forget(copy);
        }
        drop(directory);
        let directory = open(tree).unwrap();
        assert_eq!(directory.inventory(None, 10), []);
        assert_eq!(directory.problems(), []);
        let unread = directory.open_for_read(left.handle);
        assert!(matches!(unread, Err(StoreError::NotFound { .. })));
        again.copy(&directory).unwrap();
        check_copied(&directory, &again);
        let under_way = Sample::new(3, 10);
        let copy = begin(&directory, &under_way);
        under_way.fill(&copy).unwrap();
        assert_eq!(directory.empty_deleted().unwrap(), 1);
        assert!(!is_there(&**tree, &copy_path(left.handle)));
        finish(&directory, copy).unwrap();
        check_copied(&directory, &under_way);
        assert_eq!(directory.empty_deleted().unwrap(), 0);
    });
}

/// A chunk was in the inventory before its name was stable: who was told of it, by a report that was made at
/// this moment, found it gone after a power cut.
#[test]
fn nobody_is_told_of_a_sealed_chunk_before_its_name_is_stable() {
    let tree = Arc::new(FaultyTree::new());
    let directory = Arc::new(open(&(tree.clone() as Arc<dyn Tree>)).unwrap());
    for is_copied in [false, true] {
        let sample = Sample::new(u64::from(is_copied) + 1, 1000);
        let (tell, told) = mpsc::channel();
        let (seen, handle) = (Arc::clone(&directory), sample.handle);
        tree.during_next_folder_sync(move || tell.send(seen.told(handle)).unwrap());
        match is_copied {
            true => sample.copy(&directory).unwrap(),
            false => drop(sample.store(&directory, Level::Disk).unwrap()),
        }
        let before = told.try_recv().expect("a folder was synced");
        let is_told = before.is_some_and(|entry| entry.state == ChunkState::Sealed);
        assert!(!is_told, "copied: {is_copied}");
        check_copied(&directory, &sample);
    }
}

/// A replica was being read back when a copy took its place: the mark for what was found went to
/// the copy, and a reader that had opened the old file left it behind as the chunk's.
#[test]
fn what_was_found_of_the_old_replica_is_not_said_of_the_new_one() {
    over_all_trees(|tree: &Arc<dyn Tree>| {
        let directory = open(tree).unwrap();
        let sample = Sample::new(1, 70_000);
        sample.store(&directory, Level::Disk).unwrap();
        let seen = directory.table.held(sample.handle).unwrap();
        directory.mark_corrupt(&seen).unwrap();
        sample.copy(&directory).unwrap();
        let late = directory.mark_corrupt(&seen);
        assert!(matches!(late, Err(StoreError::NotFound { .. })), "{late:?}");
        check_copied(&directory, &sample);
    });
}
