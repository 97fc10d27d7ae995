//! What the store does when nothing crashes, the same over every kind of tree.

use std::path::Path;
use std::sync::Arc;

use sarsen_protocol::crc::crc32;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion};
use sarsen_protocol::message::{ChunkState, Level};
use sarsen_protocol::size::BLOCK_LEN;

use super::super::layout::chunk_path;
use super::super::region::{FileTree, Tree};
use super::super::{Directory, PendingChunk, ProblemKind, ReadFrom, ReadableChunk, StoreError};
use super::faulty::FaultyTree;
use super::heap::HeapTree;
use super::scenario::{CHUNK_SIZE, Sample, open, piece_crcs, put};

/// Runs a test over a heap tree, a faulty tree without faults, and real files.
pub(super) fn over_all_trees(test: impl Fn(&Arc<dyn Tree>)) {
    test(&(Arc::new(HeapTree::new()) as Arc<dyn Tree>));
    test(&(Arc::new(FaultyTree::new()) as Arc<dyn Tree>));
    let folder = tempfile::tempdir().unwrap();
    let files = FileTree::lock(&folder.path().join("new/directory")).unwrap();
    test(&(Arc::new(files) as Arc<dyn Tree>));
}

#[test]
fn what_was_sealed_is_read_again_now_and_after_a_start() {
    over_all_trees(|tree| {
        let lens = [
            0,
            1,
            1024,
            BLOCK_LEN - 1,
            BLOCK_LEN,
            BLOCK_LEN + 1,
            CHUNK_SIZE,
        ];
        let samples: Vec<_> = (1..)
            .zip(lens)
            .map(|(number, len)| Sample::new(number, len))
            .collect();
        let directory = open(tree).unwrap();
        for (sample, level) in samples
            .iter()
            .zip([Level::Disk, Level::Memory].iter().cycle())
        {
            let outcome = sample.store(&directory, *level).unwrap();
            assert_eq!(outcome.level, *level);
            assert_eq!(outcome.crc32, crc32(&sample.bytes));
            assert_eq!(sample.read(&directory).unwrap(), sample.bytes);
        }
        let before = directory.inventory(None, 100);
        drop(directory);

        let directory = open(tree).unwrap();
        assert_eq!(directory.problems(), []);
        for (sample, entry) in samples.iter().zip(directory.inventory(None, 100)) {
            assert_eq!(entry.state, ChunkState::Sealed);
            assert_eq!(entry.needs_read_back, entry.flags.unsynced);
            assert_eq!(sample.read(&directory).unwrap(), sample.bytes);
        }
        let settled = directory.sync_unsynced();
        assert_eq!(settled.len(), samples.len() / 2);
        assert!(
            settled.iter().all(|(_, result)| result.is_ok()),
            "{settled:?}"
        );
        let after = directory.inventory(None, 100);
        assert!(
            after
                .iter()
                .all(|entry| !entry.flags.unsynced && !entry.needs_read_back)
        );
        assert_eq!(after.len(), before.len());
        assert_eq!(directory.extent().0, samples.len());
    });
}

#[test]
fn data_counts_only_in_order_in_room_and_with_its_crcs() {
    over_all_trees(|tree| {
        let directory = open(tree).unwrap();
        let sample = Sample::new(1, 100_000);
        let pending = directory.create_pending(&sample.new_chunk()).unwrap();
        put(&pending, 0, &sample.bytes[..70_000]).unwrap();

        let gap = pending.commit_pieces(70_001, 1, &[0]);
        assert!(
            matches!(gap, Err(StoreError::NotContiguous { length: 70_000, .. })),
            "{gap:?}"
        );
        let again = pending.write_at(69_999, &[0]);
        assert!(
            matches!(again, Err(StoreError::NotContiguous { .. })),
            "{again:?}"
        );
        let crcs = pending.commit_pieces(70_000, 70_000, &[0]);
        assert!(
            matches!(
                crcs,
                Err(StoreError::PieceCount {
                    given: 1,
                    needed: 2
                })
            ),
            "{crcs:?}"
        );
        let unreserved = pending.commit_pieces(70_000, 500_000, &[0; 8]);
        assert!(
            matches!(unreserved, Err(StoreError::BeyondRoom { .. })),
            "{unreserved:?}"
        );
        let beyond = pending.reserve(70_000, CHUNK_SIZE);
        assert!(
            matches!(beyond, Err(StoreError::BeyondRoom { .. })),
            "{beyond:?}"
        );
        let overflow = pending.reserve(u32::MAX, u32::MAX);
        assert!(
            matches!(overflow, Err(StoreError::BeyondRoom { .. })),
            "{overflow:?}"
        );

        let early = sample.seal(&directory, Level::Disk);
        assert!(
            matches!(early, Err(StoreError::SealMismatch { length: 70_000, .. })),
            "{early:?}"
        );
        put(&pending, 70_000, &sample.bytes[70_000..]).unwrap();
        let mut claim = sample.claim(Level::Disk);
        claim.crc32 ^= 1;
        let wrong = directory.seal(sample.handle, sample.version, &claim);
        assert!(
            matches!(wrong, Err(StoreError::SealMismatch { .. })),
            "{wrong:?}"
        );
        let version = ChunkVersion(99);
        let other = directory.seal(sample.handle, version, &sample.claim(Level::Disk));
        assert!(
            matches!(other, Err(StoreError::OtherVersion { .. })),
            "{other:?}"
        );

        sample.seal(&directory, Level::Disk).unwrap();
        assert_eq!(sample.read(&directory).unwrap(), sample.bytes);
        let late = pending.commit_pieces(100_000, 1, &[0]);
        assert!(matches!(late, Err(StoreError::Closed { .. })), "{late:?}");
    });
}

/// An upload that was broken off kept its descriptor until the master ordered the deletion, which
/// can be long after: clients that come and go could use all descriptors up.
#[test]
fn an_abandoned_upload_keeps_nothing_open() {
    over_all_trees(|tree| {
        let directory = open(tree).unwrap();
        let sample = Sample::new(1, 1000);
        let pending = sample.write(&directory, 1000).unwrap();
        directory.abandon(&pending);
        let late = pending.commit_pieces(1000, 1, &[0]);
        assert!(matches!(late, Err(StoreError::Closed { .. })), "{late:?}");
        let open_elsewhere = Arc::downgrade(&pending);
        drop(pending);
        assert!(open_elsewhere.upgrade().is_none());
        let sealed = sample.seal(&directory, Level::Disk);
        assert!(
            matches!(sealed, Err(StoreError::OtherState { .. })),
            "{sealed:?}"
        );
        assert_eq!(directory.inventory(None, 10)[0].state, ChunkState::Pending);

        let other = Sample::new(2, 1000);
        let pending = other.write(&directory, 1000).unwrap();
        other.seal(&directory, Level::Disk).unwrap();
        directory.abandon(&pending);
        assert_eq!(other.read(&directory).unwrap(), other.bytes);
    });
}

#[test]
fn blocks_grow_by_combination_however_the_data_is_cut() {
    over_all_trees(|tree| {
        let directory = open(tree).unwrap();
        let expected = piece_crcs(0, &Sample::new(1, 200_000).bytes);
        for (number, step) in [(1, 1777), (257, BLOCK_LEN), (513, 65_537), (769, 200_000)] {
            let sample = Sample {
                bytes: Sample::new(1, 200_000).bytes,
                ..Sample::new(number, 0)
            };
            sample.write(&directory, step).unwrap();
            sample.seal(&directory, Level::Memory).unwrap();
            let opened = directory.open_for_read(sample.handle).unwrap();
            assert_eq!(*opened.block_crcs, *expected, "in steps of {step}");
        }
    });
}

#[test]
fn a_seal_asked_for_again_answers_the_same() {
    over_all_trees(|tree| {
        let directory = open(tree).unwrap();
        let sample = Sample::new(1, 1000);
        let first = sample.store(&directory, Level::Memory).unwrap();
        assert_eq!(sample.seal(&directory, Level::Memory).unwrap(), first);
        assert_eq!(
            sample.seal(&directory, Level::Disk).unwrap().level,
            Level::Disk
        );
        let other = directory.seal(
            sample.handle,
            sample.version,
            &Sample::new(1, 999).claim(Level::Disk),
        );
        assert!(
            matches!(other, Err(StoreError::SealMismatch { .. })),
            "{other:?}"
        );
        drop(directory);

        let directory = open(tree).unwrap();
        let again = sample.seal(&directory, Level::Memory).unwrap();
        assert_eq!((again.length, again.crc32), (first.length, first.crc32));
        assert_eq!(again.level, Level::Disk);
    });
}

#[test]
fn a_pending_chunk_of_an_earlier_start_is_told_and_kept() {
    over_all_trees(|tree| {
        let directory = open(tree).unwrap();
        let sample = Sample::new(1, 1000);
        sample.write(&directory, 100).unwrap();
        drop(directory);

        let directory = open(tree).unwrap();
        let entry = directory.entry(sample.handle).unwrap();
        assert_eq!((entry.state, entry.length), (ChunkState::Pending, 0));
        let seal = sample.seal(&directory, Level::Disk);
        assert!(
            matches!(seal, Err(StoreError::OtherState { .. })),
            "{seal:?}"
        );
        let read = directory.open_for_read(sample.handle);
        assert!(
            matches!(read, Err(StoreError::OtherState { .. })),
            "{read:?}"
        );
        let again = directory.create_pending(&sample.new_chunk());
        assert!(
            matches!(again, Err(StoreError::AlreadyExists { .. })),
            "{again:?}"
        );
        assert!(directory.delete(&[(sample.handle, sample.version)])[0].is_ok());
        sample.store(&directory, Level::Disk).unwrap();
    });
}

#[test]
fn deletes_are_checked_and_put_aside() {
    over_all_trees(|tree| {
        let directory = open(tree).unwrap();
        let samples: Vec<_> = (1..=4).map(|number| Sample::new(number, 5000)).collect();
        for sample in &samples {
            sample.store(&directory, Level::Disk).unwrap();
        }
        let opened = directory.open_for_read(samples[0].handle).unwrap();
        let pending = Sample::new(9, 10).write(&directory, 10).unwrap();
        let results = directory.delete(&[
            (samples[0].handle, samples[0].version),
            (samples[1].handle, ChunkVersion(99)),
            (Sample::new(8, 0).handle, ChunkVersion(1)),
            (pending.handle(), pending.version()),
        ]);
        assert!(results[0].is_ok() && results[3].is_ok(), "{results:?}");
        assert!(
            matches!(results[1], Err(StoreError::OtherVersion { .. })),
            "{results:?}"
        );
        assert!(
            matches!(results[2], Err(StoreError::NotFound { .. })),
            "{results:?}"
        );

        let mut bytes = vec![0; 5000];
        assert_eq!(opened.read_at(&mut bytes, 0).unwrap(), 5000);
        assert_eq!(bytes, samples[0].bytes, "who has it open keeps it");
        let gone = directory.open_for_read(samples[0].handle);
        assert!(matches!(gone, Err(StoreError::NotFound { .. })), "{gone:?}");
        let closed = pending.commit_pieces(10, 1, &[0]);
        assert!(
            matches!(closed, Err(StoreError::Closed { .. })),
            "{closed:?}"
        );
        assert_eq!(directory.inventory(None, 100).len(), 3);
        assert!(matches!(
            directory.delete_damaged(samples[1].handle),
            Err(StoreError::NotDamaged { .. })
        ));
        drop(directory);

        let directory = open(tree).unwrap();
        assert_eq!(directory.inventory(None, 100).len(), 3);
        assert_eq!(directory.empty_deleted().unwrap(), 2);
        assert_eq!(directory.empty_deleted().unwrap(), 0);
    });
}

/// A report told of a chunk whose delete waited for a slow disk: it counted, and the master had
/// another one deleted as one too many.
#[test]
fn what_is_being_deleted_is_told_as_gone() {
    over_all_trees(|tree| {
        let directory = open(tree).unwrap();
        let samples: Vec<_> = (1..=3).map(|number| Sample::new(number, 500)).collect();
        for sample in &samples {
            sample.store(&directory, Level::Disk).unwrap();
        }
        let told = |directory: &Directory, max| -> Vec<ChunkHandle> {
            let entries = directory.inventory(None, max);
            entries.iter().map(|entry| entry.handle).collect()
        };
        let [first, second, third] = [0, 1, 2].map(|n| samples[n].handle);
        directory.begin_delete(second);
        assert_eq!(told(&directory, 2), [first, third], "a whole slice");
        assert!(directory.told(second).is_none());
        assert!(directory.entry(second).is_some());
        assert_eq!(samples[1].read(&directory).unwrap(), samples[1].bytes);
        let copied = samples[1].copy(&directory);
        assert!(
            matches!(copied, Err(StoreError::AlreadyExists { .. })),
            "nor confirmed as a copy: {copied:?}"
        );
        directory.begin_delete(second);
        directory.end_delete(second);
        assert!(directory.told(second).is_none(), "until the last has ended");
        directory.end_delete(second);
        assert_eq!(told(&directory, 9), [first, second, third]);
        assert!(directory.told(second).is_some());
    });
}

#[test]
fn a_flipped_bit_is_found_named_and_remembered() {
    over_all_trees(|tree| {
        let directory = open(tree).unwrap();
        let sample = Sample::new(1, 200_000);
        sample.store(&directory, Level::Disk).unwrap();
        let good = directory
            .verify(sample.handle, ReadFrom::Medium, 1_000)
            .unwrap();
        assert!(good.is_good());
        assert_eq!(good.crc32, crc32(&sample.bytes));

        flip(&**tree, &sample, 8192 + 150_000);
        let found = directory
            .verify(sample.handle, ReadFrom::Cache, 2_000)
            .unwrap();
        assert_eq!(found.bad_blocks, [2]);
        for _ in 0..2 {
            let entry = directory.entry(sample.handle).unwrap();
            assert!(entry.flags.corrupt);
            let read = directory.open_for_read(sample.handle);
            assert!(matches!(read, Err(StoreError::Corrupt { .. })), "{read:?}");
        }
        drop(directory);
        let directory = open(tree).unwrap();
        assert!(directory.entry(sample.handle).unwrap().flags.corrupt);
        let seal = sample.seal(&directory, Level::Disk);
        assert!(matches!(seal, Err(StoreError::Corrupt { .. })), "{seal:?}");
    });
}

#[test]
fn a_damaged_crc_page_or_header_is_never_served() {
    over_all_trees(|tree| {
        let directory = open(tree).unwrap();
        let [page, header, short] = [1, 2, 3].map(|number| Sample::new(number, 70_000));
        for sample in [&page, &header, &short] {
            sample.store(&directory, Level::Disk).unwrap();
        }
        flip(&**tree, &page, 4096);
        flip(&**tree, &header, 100);
        flip(&**tree, &header, 2048 + 100);
        tree.open(&chunk_path(short.handle))
            .unwrap()
            .set_len(8192 + 69_999)
            .unwrap();

        let read = directory.open_for_read(page.handle);
        assert!(
            matches!(read, Err(StoreError::CrcPageDamaged { .. })),
            "{read:?}"
        );
        let read = directory.open_for_read(header.handle);
        assert!(
            matches!(read, Err(StoreError::HeaderDamaged { .. })),
            "{read:?}"
        );
        let read = directory.open_for_read(short.handle);
        assert!(
            matches!(read, Err(StoreError::FileTooShort { .. })),
            "{read:?}"
        );
        assert!(
            directory
                .inventory(None, 9)
                .iter()
                .all(|entry| entry.flags.corrupt)
        );
        drop(directory);

        let directory = open(tree).unwrap();
        assert_eq!(directory.problems().len(), 2, "{:?}", directory.problems());
        let refused = directory.delete_damaged(page.handle);
        assert!(
            matches!(refused, Err(StoreError::NotDamaged { .. })),
            "{refused:?}"
        );
        directory.delete_damaged(header.handle).unwrap();
        assert_eq!(directory.problems().len(), 1);
        header.store(&directory, Level::Disk).unwrap();
        directory.delete_damaged(short.handle).unwrap();
        assert_eq!(directory.problems(), []);
        short.store(&directory, Level::Disk).unwrap();
    });
}

/// A header that rotted while its chunk was in use had no version to compare any more, and the
/// chunk could not be deleted before the next start.
#[test]
fn a_chunk_whose_header_has_rotted_since_is_deleted_in_the_version_that_it_had() {
    over_all_trees(|tree| {
        let directory = open(tree).unwrap();
        let sample = Sample::new(1, 1000);
        sample.store(&directory, Level::Disk).unwrap();
        flip(&**tree, &sample, 100);
        flip(&**tree, &sample, 2048 + 100);
        let other = directory.delete(&[(sample.handle, ChunkVersion(99))]);
        assert!(
            matches!(other[0], Err(StoreError::OtherVersion { .. })),
            "{other:?}"
        );
        assert!(directory.delete(&[(sample.handle, sample.version)])[0].is_ok());
        assert_eq!(directory.entry(sample.handle), None);
        sample.store(&directory, Level::Disk).unwrap();
    });
}

#[test]
fn a_sealed_chunk_that_lost_one_slot_is_read_back_first() {
    over_all_trees(|tree| {
        let directory = open(tree).unwrap();
        let [sealed, pending] = [1, 2].map(|number| Sample::new(number, 1000));
        sealed.store(&directory, Level::Disk).unwrap();
        pending.store(&directory, Level::Disk).unwrap();
        drop(directory);
        flip(&**tree, &sealed, 100);
        flip(&**tree, &pending, 2048 + 100);

        let directory = open(tree).unwrap();
        assert!(directory.entry(sealed.handle).unwrap().needs_read_back);
        assert_eq!(
            directory.entry(pending.handle),
            None,
            "it was sealed, and must not go back"
        );
        assert_eq!(directory.problems().len(), 1);
        assert!(directory.sync_unsynced()[0].1.is_ok());
        drop(directory);

        let directory = open(tree).unwrap();
        assert!(
            !directory.entry(sealed.handle).unwrap().needs_read_back,
            "the slot is healed"
        );
    });
}

/// What a power cut leaves of a seal at `memory` can end before its data. Such a file was told to
/// nobody, and no order to delete it was obeyed: as damaged it was refused, its header being good,
/// and by its version it was not found. It took its handle's place for ever.
#[test]
fn a_file_that_ends_before_its_data_is_told_and_goes_by_order() {
    over_all_trees(|tree| {
        let directory = open(tree).unwrap();
        let sample = Sample::new(1, 70_000);
        sample.store(&directory, Level::Memory).unwrap();
        drop(directory);
        let region = tree.open(&chunk_path(sample.handle)).unwrap();
        region.set_len(8192 + 100).unwrap();

        let directory = open(tree).unwrap();
        assert_eq!(directory.problems()[0].kind, ProblemKind::TooShort);
        let [entry] = &*directory.inventory(None, 9) else {
            panic!("it is not told");
        };
        assert_eq!(
            (entry.handle, entry.version),
            (sample.handle, sample.version)
        );
        assert!(entry.flags.corrupt);
        assert!(sample.read(&directory).is_err());
        assert_eq!(directory.sync_unsynced().len(), 0);
        assert!(directory.delete(&[(sample.handle, sample.version)])[0].is_ok());
        assert_eq!(
            (directory.problems(), directory.inventory(None, 9)),
            (vec![], vec![])
        );
        sample.store(&directory, Level::Disk).unwrap();
    });
}

#[test]
fn the_inventory_comes_in_slices() {
    over_all_trees(|tree| {
        let directory = open(tree).unwrap();
        for number in 1..=5 {
            Sample::new(number, 1)
                .store(&directory, Level::Memory)
                .unwrap();
        }
        let mut after = None;
        let mut seen = Vec::new();
        loop {
            let slice = directory.inventory(after, 2);
            let Some(last) = slice.last() else { break };
            after = Some(last.handle);
            seen.extend(slice.into_iter().map(|entry| entry.handle.0));
        }
        assert_eq!(seen, [1, 2, 3, 4, 5]);
    });
}

#[test]
fn a_small_chunk_takes_three_pages_and_its_data_is_mapped() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let tree: Arc<dyn Tree> = Arc::new(FileTree::lock(folder.path()).unwrap());
    let directory = open(&tree).unwrap();
    let sample = Sample::new(1, 1024);
    let mut new_chunk = sample.new_chunk();
    // A hint that is far too high costs nothing once the chunk is sealed.
    new_chunk.room = CHUNK_SIZE;
    let pending = directory.create_pending(&new_chunk).unwrap();
    put(&pending, 0, &sample.bytes).unwrap();
    assert!(blocks_of(folder.path(), &sample) >= u64::from(CHUNK_SIZE) / 512);
    sample.seal(&directory, Level::Disk).unwrap();
    assert_eq!(blocks_of(folder.path(), &sample), 3 * 4096 / 512);

    let opened = directory.open_for_read(sample.handle).unwrap();
    assert!(opened.file().is_some());
    let mapping = opened.mapping().unwrap();
    assert_eq!(mapping.view(1000, 24).unwrap().len(), 24);
    assert!(mapping.view(1000, 25).is_none());

    fn blocks_of(root: &Path, sample: &Sample) -> u64 {
        std::fs::metadata(root.join(chunk_path(sample.handle)))
            .unwrap()
            .blocks()
    }
}

/// More of them than one call of the kernel takes, an empty one and a lone one among them.
#[test]
fn pieces_are_written_one_behind_the_other_however_many_they_are() {
    over_all_trees(|tree| {
        let region = tree.create("pieces").unwrap();
        for count in [0, 1, 2, 1024, 1025, 3000] {
            let pieces: Vec<Vec<u8>> = (0..count)
                .map(|number: usize| vec![number.to_le_bytes()[0]; number % 5])
                .collect();
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let expected = pieces.concat();
            region.set_len(0).unwrap();
            region.write_at(b"before", 0).unwrap();
            region.write_pieces_at(&pieces, 6).unwrap();
            assert_eq!(region.file_len().unwrap(), 6 + expected.len() as u64);
            let mut found = vec![0; expected.len()];
            assert_eq!(region.read_at(&mut found, 6).unwrap(), found.len());
            assert_eq!(found, expected, "{count} pieces");
        }
    });
}

/// The data plane hands these between its threads.
#[test]
fn what_is_handed_out_goes_between_threads() {
    fn goes_between_threads<T: Send + Sync>() {}
    goes_between_threads::<Directory>();
    goes_between_threads::<PendingChunk>();
    goes_between_threads::<ReadableChunk>();
}

/// Flips a bit of a chunk's file behind the store's back.
pub(super) fn flip(tree: &dyn Tree, sample: &Sample, position: u64) {
    let region = tree.open(&chunk_path(sample.handle)).unwrap();
    let mut byte = [0];
    region.read_at(&mut byte, position).unwrap();
    region.write_at(&[byte[0] ^ 0x10], position).unwrap();
}
