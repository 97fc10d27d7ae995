//! What a directory as a whole does: what it takes for its own, and whom it obeys.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use sarsen_protocol::id::{Epoch, ServerId, StartNonce, StartNumber};
use sarsen_protocol::message::Level;

use super::super::layout::chunk_path;
use super::super::region::Tree;
use super::super::{Adoption, Directory, Start, StoreError};
use super::conformance::over_all_trees;
use super::faulty::FaultyTree;
use super::scenario::{ADOPTION, START, Sample, open};

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

/// `IDENTITY` was replaced by a new file. Once something had filled the disk, that could not be
/// made: the server did not start any more, and took no orders from a master that had restarted,
/// those that would have made room among them.
#[test]
fn a_full_disk_is_started_from_and_obeys() {
    let faulty = Arc::new(FaultyTree::new());
    let tree = || Arc::clone(&faulty) as Arc<dyn Tree>;
    let sample = Sample::new(1, 1000);
    let directory = open(&tree()).unwrap();
    sample.store(&directory, Level::Disk).unwrap();
    faulty.fill();
    for number in 2..5 {
        let epoch = Epoch {
            number,
            incarnation: 9,
        };
        directory.obey_epoch(epoch).unwrap();
        assert_eq!(directory.identity().epoch, epoch);
    }
    drop(directory);
    for start in 2..5 {
        let directory = open(&tree()).unwrap();
        assert_eq!(directory.identity().start_number, StartNumber(start));
        assert_eq!(directory.identity().epoch.number, 4);
        assert!(!directory.is_poisoned());
        let refused = Sample::new(2, 1000).store(&directory, Level::Disk);
        assert!(
            matches!(refused, Err(StoreError::NoSpace { .. })),
            "{refused:?}"
        );
    }
    let directory = open(&tree()).unwrap();
    let deleted = directory.delete(&[(sample.handle, sample.version)]);
    assert!(deleted[0].is_ok(), "{deleted:?}");
}

/// The same on real files, as far as an ordinary user can see: the inode of the one before stays.
#[test]
fn the_room_of_the_identity_before_is_kept_for_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let inodes = || {
        use std::os::unix::fs::MetadataExt as _;
        let inode = |name| std::fs::metadata(folder.path().join(name)).unwrap().ino();
        [inode("IDENTITY"), inode("IDENTITY.new")]
    };
    drop(Directory::open(folder.path(), &START).unwrap());
    let [identity, next] = inodes();
    drop(Directory::open(folder.path(), &START).unwrap());
    assert_eq!(inodes(), [next, identity]);
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

/// `spec/chunk-file.md` section 8: a start that the master may have logged without an answer is
/// remembered, and one that it is known to have logged stands for all before it.
#[test]
fn a_directory_remembers_the_starts_that_its_master_may_know() {
    over_all_trees(|tree| {
        let opened = |nonce| {
            let start = Start {
                nonce: StartNonce(nonce),
                ..START
            };
            Directory::open_tree(Arc::clone(tree), &start).unwrap()
        };
        for nonce in 1..=3 {
            let known = opened(nonce).identity().known_starts;
            assert_eq!(known.registered, None);
            assert_eq!(known.offered, Vec::from_iter((1..=nonce).map(StartNonce)));
        }
        let directory = opened(4);
        directory.start_is_registered().unwrap();
        directory.start_is_registered().unwrap();
        drop(directory);
        for nonce in 5..=30 {
            drop(opened(nonce));
        }
        let known = opened(31).identity().known_starts;
        assert_eq!(known.registered, Some((StartNumber(4), StartNonce(4))));
        assert_eq!(known.offered.len(), 16);
        assert_eq!(known.offered[..2], [5, 17].map(StartNonce));
        assert_eq!(known.offered.last(), Some(&StartNonce(31)));
    });
}

/// A copy of a directory was refused once, and taken at its next start, which was one higher.
#[test]
fn a_directory_that_was_found_stale_is_not_opened_again() {
    over_all_trees(|tree| {
        let directory = open(tree).unwrap();
        directory.mark_stale().unwrap();
        drop(directory);
        for _ in 0..2 {
            let again = Directory::open_tree(Arc::clone(tree), &START);
            assert!(matches!(again, Err(StoreError::Stale { .. })), "{again:?}");
        }
    });
}

/// `IDENTITY` could not be written when a sync of a folder had failed. It was written later, without the
/// mark, and the next start took new chunks in.
#[test]
fn a_mark_that_could_not_be_written_is_written_with_what_comes_next() {
    let tree = Arc::new(FaultyTree::new());
    let directory = open(&(tree.clone() as Arc<dyn Tree>)).unwrap();
    tree.be_short_of_memory_for(Some("IDENTITY"));
    directory.poison();
    tree.be_short_of_memory_for(None);
    assert!(directory.is_poisoned() && !directory.identity().poisoned);
    directory
        .obey_epoch(Epoch {
            number: 9,
            incarnation: 9,
        })
        .unwrap();
    assert!(directory.identity().poisoned);
    drop(directory);
    let directory = open(&(tree as Arc<dyn Tree>)).unwrap();
    assert!(directory.is_poisoned());
}

/// In a poisoned directory, and of a chunk whose file had gone behind our back, a seal at `memory` was tried
/// to be made durable once a second for ever, each time with an error.
#[test]
fn what_can_not_become_durable_is_tried_once() {
    over_all_trees(|tree| {
        let directory = open(tree).unwrap();
        let [gone, stays, late] = [1, 2, 3].map(|number| Sample::new(number, 1000));
        for sample in [&gone, &stays] {
            sample.store(&directory, Level::Memory).unwrap();
        }
        drop(directory);
        let directory = open(tree).unwrap();
        tree.remove(&chunk_path(gone.handle)).unwrap();
        let done = directory.sync_unsynced();
        let done: Vec<_> = done.iter().map(|(it, made)| (*it, made.is_ok())).collect();
        assert_eq!(done, [(gone.handle, false), (stays.handle, true)]);
        assert!(directory.entry(gone.handle).unwrap().flags.corrupt);
        assert_eq!(directory.sync_unsynced().len(), 0);

        late.store(&directory, Level::Memory).unwrap();
        directory.poison();
        assert_eq!(directory.sync_unsynced().len(), 0);
        assert!(directory.entry(late.handle).unwrap().flags.unsynced);
    });
}

/// Who came while another one was writing down what it belongs to from then on was told that it was its.
#[test]
fn who_adopts_second_is_told_whose_it_is() {
    let tree = Arc::new(FaultyTree::new());
    let directory = Directory::open_tree(Arc::clone(&tree) as Arc<dyn Tree>, &START).unwrap();
    let directory = Arc::new(directory);
    let other = Adoption {
        server_id: ServerId(ADOPTION.server_id.0 + 1),
        ..ADOPTION
    };
    let (second, (tell, told)) = (Arc::clone(&directory), mpsc::channel());
    tree.during_next_sync(move || {
        let (begin, begun) = mpsc::channel();
        std::thread::spawn(move || {
            begin.send(()).unwrap();
            tell.send(second.adopt(other)).unwrap();
        });
        begun.recv().unwrap();
        // By then it has seen that nobody has it, as a rule, and waits.
        std::thread::sleep(Duration::from_millis(50));
    });
    directory.adopt(ADOPTION).unwrap();
    let second = told.recv().unwrap();
    assert!(
        matches!(second, Err(StoreError::OtherServer { .. })),
        "{second:?}"
    );
}
