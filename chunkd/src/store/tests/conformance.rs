//! What the store does when nothing crashes, the same over every kind of tree.

use std::path::Path;
use std::sync::Arc;

use sarsen_protocol::crc::crc32;
use sarsen_protocol::id::{ChunkVersion, Epoch, ServerId, StartNonce, StartNumber};
use sarsen_protocol::message::{ChunkState, Level};
use sarsen_protocol::size::BLOCK_LEN;

use super::super::layout::chunk_path;
use super::super::region::{FileTree, Tree};
use super::super::{Adoption, Directory, PendingChunk, ReadFrom, ReadableChunk, Start, StoreError};
use super::faulty::FaultyTree;
use super::heap::HeapTree;
use super::scenario::{ADOPTION, CHUNK_SIZE, START, Sample, open, piece_crcs, put};

/// Runs a test over a heap tree, a faulty tree without faults, and real files.
fn over_all_trees(test: impl Fn(&Arc<dyn Tree>)) {
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

#[test]
fn files_that_do_not_belong_are_told_and_left_alone() {
    over_all_trees(|tree| {
        let directory = open(tree).unwrap();
        let sample = Sample::new(1, 10);
        sample.store(&directory, Level::Disk).unwrap();
        drop(directory);
        for stray in ["chunks/02/stray", "chunks/02/0000000000000003.chunk"] {
            tree.create(stray).unwrap();
        }
        tree.create(&chunk_path(Sample::new(4, 0).handle)).unwrap();
        tree.rename(
            "chunks/01/0000000000000001.chunk",
            "chunks/05/0000000000000005.chunk",
        )
        .unwrap();

        let directory = open(tree).unwrap();
        let mut paths: Vec<_> = directory.problems().into_iter().map(|p| p.path).collect();
        paths.sort();
        assert_eq!(
            paths,
            [
                "chunks/02/0000000000000003.chunk",
                "chunks/02/stray",
                "chunks/04/0000000000000004.chunk",
                "chunks/05/0000000000000005.chunk",
            ]
        );
        assert_eq!(directory.inventory(None, 9), []);
        assert!(tree.open("chunks/05/0000000000000005.chunk").is_ok());
    });
}

#[test]
fn a_directory_belongs_to_one_cluster_and_one_server() {
    over_all_trees(|tree| {
        let directory = Directory::open_tree(Arc::clone(tree), &START).unwrap();
        let early = directory.create_pending(&Sample::new(1, 1).new_chunk());
        assert!(matches!(early, Err(StoreError::NotAdopted)), "{early:?}");
        let odd = directory.adopt(Adoption {
            chunk_size: 1_000_000,
            ..ADOPTION
        });
        assert!(
            matches!(odd, Err(StoreError::ChunkSize { held: 0, .. })),
            "{odd:?}"
        );
        let nobody = directory.adopt(Adoption {
            server_id: ServerId::NONE,
            ..ADOPTION
        });
        assert!(
            matches!(nobody, Err(StoreError::IdentityInvalid { .. })),
            "{nobody:?}"
        );
        directory.adopt(ADOPTION).unwrap();
        directory.adopt(ADOPTION).unwrap();
        let nameless = directory.create_pending(&Sample::new(0, 1).new_chunk());
        assert!(
            matches!(nameless, Err(StoreError::HeaderInvalid { .. })),
            "{nameless:?}"
        );
        let mut other = ADOPTION;
        other.cluster_id.0[0] ^= 1;
        assert!(matches!(
            directory.adopt(other),
            Err(StoreError::OtherCluster { .. })
        ));
        other = ADOPTION;
        other.server_id.0 += 1;
        assert!(matches!(
            directory.adopt(other),
            Err(StoreError::OtherServer { .. })
        ));
        other = ADOPTION;
        other.chunk_size *= 2;
        assert!(matches!(
            directory.adopt(other),
            Err(StoreError::ChunkSize { .. })
        ));
        drop(directory);
        let no_nonce = Start {
            nonce: StartNonce::NONE,
            ..START
        };
        let refused = Directory::open_tree(Arc::clone(tree), &no_nonce);
        assert!(
            matches!(refused, Err(StoreError::IdentityInvalid { .. })),
            "{refused:?}"
        );
        let directory = Directory::open_tree(Arc::clone(tree), &START).unwrap();
        assert_eq!(directory.problems(), []);
        assert_eq!(directory.identity().adoption, Some(ADOPTION));
        assert_eq!(directory.identity().start_number, StartNumber(2));
    });
}

#[test]
fn no_epoch_is_obeyed_after_a_higher_one_or_beside_another() {
    over_all_trees(|tree| {
        let directory = open(tree).unwrap();
        let epoch = |number, incarnation| Epoch {
            number,
            incarnation,
        };
        directory.obey_epoch(epoch(2, 77)).unwrap();
        drop(directory);
        let directory = open(tree).unwrap();
        directory.obey_epoch(epoch(2, 77)).unwrap();
        let lower = directory.obey_epoch(epoch(1, 77));
        assert!(
            matches!(lower, Err(StoreError::StaleEpoch { .. })),
            "{lower:?}"
        );
        let forked = directory.obey_epoch(epoch(2, 78));
        assert!(
            matches!(forked, Err(StoreError::ForkedEpoch { .. })),
            "{forked:?}"
        );
        directory.obey_epoch(epoch(3, 1)).unwrap();
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
fn a_directory_in_use_or_of_somebody_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let held = Directory::open(folder.path(), &START).unwrap();
    let second = Directory::open(folder.path(), &START).unwrap_err();
    assert!(matches!(second, StoreError::InUse { .. }), "{second:?}");
    assert!(second.to_string().contains("in use by another chunkd"));
    drop(held);
    Directory::open(folder.path(), &START).unwrap();

    let foreign = tempfile::tempdir().unwrap();
    std::fs::write(foreign.path().join("thesis.txt"), "x").unwrap();
    let refused = Directory::open(foreign.path(), &START).unwrap_err();
    assert!(matches!(&refused, StoreError::NotOurs { found, .. } if found == "thesis.txt"));
    assert!(
        refused
            .to_string()
            .contains("give --dir an empty or a new folder")
    );

    std::fs::write(folder.path().join("IDENTITY"), [0; 256]).unwrap();
    let damaged = Directory::open(folder.path(), &START).unwrap_err();
    assert!(
        matches!(damaged, StoreError::IdentityDamaged { .. }),
        "{damaged:?}"
    );
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

/// The data plane hands these between its threads.
#[test]
fn what_is_handed_out_goes_between_threads() {
    fn goes_between_threads<T: Send + Sync>() {}
    goes_between_threads::<Directory>();
    goes_between_threads::<PendingChunk>();
    goes_between_threads::<ReadableChunk>();
}

/// Flips a bit of a chunk's file behind the store's back.
fn flip(tree: &dyn Tree, sample: &Sample, position: u64) {
    let region = tree.open(&chunk_path(sample.handle)).unwrap();
    let mut byte = [0];
    region.read_at(&mut byte, position).unwrap();
    region.write_at(&[byte[0] ^ 0x10], position).unwrap();
}
