//! Stops a workload at every write and sync in turn, lets the power fail or the process die,
//! opens the directory again, and compares it with what had been acknowledged
//! (`spec/chunk-file.md` section 11). Then the same with every sync failing in turn.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Epoch, StartNumber};
use sarsen_protocol::message::{ChunkState, Level};

use super::super::header::HeaderError;
use super::super::region::Tree;
use super::super::{Directory, ProblemKind, ReadFrom, StoreError};
use super::faulty::{Faults, FaultyTree, Survives};
use super::scenario::{ADOPTION, START, Sample};

const EPOCH: Epoch = Epoch {
    number: 4,
    incarnation: 0xabc,
};

/// Power cuts to try at one place, different ones at each.
fn power_cuts(place: usize) -> impl Iterator<Item = Survives> {
    let seeds = (place as u64 * 8..)
        .take(4)
        .map(|seed| Survives::Sectors { seed });
    [Survives::Nothing, Survives::Everything]
        .into_iter()
        .chain(seeds)
}

/// What the workload was told is done.
#[derive(Debug, Default)]
struct Acknowledged {
    adopted: bool,
    obeyed: bool,
    start_number: StartNumber,
    disk: BTreeSet<ChunkHandle>,
    memory: BTreeSet<ChunkHandle>,
    deleted: BTreeSet<ChunkHandle>,
    /// Deletes that were begun: their chunks may be there or not.
    maybe_deleted: BTreeSet<ChunkHandle>,
    /// Whether the copy of the newer version was begun, and whether it was acknowledged.
    newer_begun: bool,
    newer_copied: bool,
}

static SAMPLES: LazyLock<BTreeMap<ChunkHandle, Sample>> = LazyLock::new(|| {
    let lens = [
        5_000, 1, 70_000, 140_000, 0, 9_000, 3_000, 66_000, 4_500, 70_001,
    ];
    let samples = (1..)
        .zip(lens)
        .map(|(number, len)| Sample::new(number, len));
    samples.map(|sample| (sample.handle, sample)).collect()
});

/// What a copy puts into the place of the chunk before the last sample.
static NEWER: LazyLock<Sample> = LazyLock::new(|| Sample {
    version: ChunkVersion(500),
    bytes: Sample::new(99, 67_000).bytes,
    ..SAMPLES[&ChunkHandle(9)].clone()
});

/// Does a little of everything, goes on after errors, and says what was acknowledged.
fn run_workload(tree: &Arc<dyn Tree>) -> Acknowledged {
    let mut done = Acknowledged::default();
    for _ in 0..2 {
        let Ok(directory) = Directory::open_tree(Arc::clone(tree), &START) else {
            return done;
        };
        done.start_number = directory.identity().start_number;
        done.adopted |= directory.adopt(ADOPTION).is_ok();
        done.obeyed |= directory.obey_epoch(EPOCH).is_ok();
        write_and_delete(&directory, &mut done);
    }
    done
}

/// The chunks' lives. In a second start it finds what the first one left.
fn write_and_delete(directory: &Directory, done: &mut Acknowledged) {
    let samples: Vec<&Sample> = SAMPLES.values().collect();
    let [
        whole,
        unsynced,
        settled,
        verified,
        deleted,
        raised,
        pending,
        copies @ ..,
    ] = &samples[..]
    else {
        unreachable!("ten samples")
    };
    for (sample, level) in [
        (whole, Level::Disk),
        (settled, Level::Memory),
        (verified, Level::Disk),
        (deleted, Level::Disk),
        (raised, Level::Memory),
    ] {
        store(directory, done, sample, level);
    }
    // The second time syncs the header of the first, and all of the unsynced chunk with it.
    for now in [500, 600] {
        let _ = directory.verify(raised.handle, ReadFrom::Cache, now);
    }
    for (handle, result) in directory.sync_unsynced() {
        if result.is_ok() {
            done.disk.insert(handle);
        }
    }
    // Verification and marks write headers too; what they say is not promised.
    for now in [1_000, 2_000, 3_000] {
        let _ = directory.verify(verified.handle, ReadFrom::Cache, now);
    }
    done.maybe_deleted.insert(deleted.handle);
    if directory.delete(&[(deleted.handle, deleted.version)])[0].is_ok() {
        done.deleted.insert(deleted.handle);
    }
    let _ = directory.empty_deleted();
    store(directory, done, unsynced, Level::Memory);
    store(directory, done, settled, Level::Disk);
    store(directory, done, raised, Level::Disk);
    let _ = pending.write(directory, 1000);
    copy(directory, done, copies);
}

/// Copies where nothing is, over a newer version's predecessor, and over a replica that rots; and
/// one that is given up.
fn copy(directory: &Directory, done: &mut Acknowledged, samples: &[&Sample]) {
    let [absent, stale, rotten] = samples else {
        unreachable!("three samples")
    };
    if let Ok(Some(given_up)) = directory.begin_copy(&absent.new_copy()) {
        let _ = absent.fill(&given_up);
    }
    if absent.copy(directory).is_ok() {
        done.disk.insert(absent.handle);
    }
    if !done.newer_begun {
        store(directory, done, stale, Level::Disk);
    }
    done.newer_begun = true;
    if NEWER.copy(directory).is_ok() {
        done.newer_copied = true;
        done.disk.insert(stale.handle);
    }
    // Its mark may outlive whatever comes, and so nothing is promised of it until it is replaced.
    done.disk.remove(&rotten.handle);
    let _ = rotten.store(directory, Level::Disk);
    if let Some(held) = directory.table.held(rotten.handle) {
        let _ = directory.mark_corrupt(&held);
    }
    if rotten.copy(directory).is_ok() {
        done.disk.insert(rotten.handle);
    }
}

fn store(directory: &Directory, done: &mut Acknowledged, sample: &Sample, level: Level) {
    if done.maybe_deleted.contains(&sample.handle) {
        return;
    }
    let stored = match sample.store(directory, level) {
        // It is there already: the client asks for the seal again.
        Err(StoreError::AlreadyExists { .. }) => sample.seal(directory, level),
        stored => stored,
    };
    match stored.map(|outcome| outcome.level) {
        Ok(Level::Disk) => done.disk.insert(sample.handle),
        Ok(Level::Memory) => done.memory.insert(sample.handle),
        Err(_) => false,
    };
}

/// What came between the workload and the next start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crash {
    PowerCut,
    /// One on a device that tears sectors: chunks may be in doubt, but not lost.
    TornPowerCut,
    Kill,
    /// Either of them, after a sync that failed: chunks may be marked, but not wrong.
    AfterFailedSync,
}

/// Opens what is left and compares it with what was acknowledged.
fn check(tree: FaultyTree, done: &Acknowledged, crash: Crash, context: &str) {
    let tree: Arc<dyn Tree> = Arc::new(tree);
    let directory = Directory::open_tree(tree, &START).expect(context);
    let identity = directory.identity();
    assert!(identity.start_number > done.start_number, "{context}");
    assert!(
        !done.adopted || identity.adoption == Some(ADOPTION),
        "{context}"
    );
    assert!(!done.obeyed || identity.epoch == EPOCH, "{context}");
    for problem in directory.problems() {
        let is_garbage = match problem.kind {
            // Made, but never sealed at `disk`; or sealed at `memory`, and cut short.
            ProblemKind::Header(HeaderError::Blank) | ProblemKind::TooShort => true,
            ProblemKind::Header(_) => crash == Crash::TornPowerCut,
            _ => false,
        };
        assert!(is_garbage, "{context}: {problem:?}");
    }
    for handle in &done.deleted {
        assert_eq!(
            directory.entry(*handle),
            None,
            "{context}: a delete came undone"
        );
    }
    if crash != Crash::TornPowerCut {
        check_disk(&directory, done, crash, context);
    }
    if crash == Crash::Kill {
        for &handle in done.memory.difference(&done.maybe_deleted) {
            check_whole(&directory, done, handle, context);
        }
    }
    check_claims(&directory, done, context);
    directory.sync_unsynced();
    check_claims(&directory, done, context);
    check_disk(&directory, done, crash, context);
}

/// What was acknowledged at `disk` is whole, and in no doubt.
fn check_disk(directory: &Directory, done: &Acknowledged, crash: Crash, context: &str) {
    for &handle in done.disk.difference(&done.maybe_deleted) {
        let entry = directory.entry(handle);
        let is_marked = entry.is_some_and(|entry| entry.flags.poisoned || entry.flags.corrupt);
        if !(is_marked && crash == Crash::AfterFailedSync) {
            check_whole(directory, done, handle, context);
            let entry = directory.entry(handle).unwrap();
            assert!(
                !entry.flags.unsynced && !entry.needs_read_back,
                "{context}: {entry:?}"
            );
        }
    }
}

fn check_whole(directory: &Directory, done: &Acknowledged, handle: ChunkHandle, context: &str) {
    let entry = directory.entry(handle);
    let entry = entry.unwrap_or_else(|| panic!("{context}: {handle} is gone"));
    let is_newer = (entry.handle, entry.version) == (NEWER.handle, NEWER.version);
    let sample = match is_newer {
        true => &*NEWER,
        false => &SAMPLES[&handle],
    };
    assert!(!is_newer || done.newer_begun, "{context}");
    let must_be_newer = handle == NEWER.handle && done.newer_copied;
    assert!(is_newer || !must_be_newer, "{context}: a copy came undone");
    assert_eq!(entry.state, ChunkState::Sealed, "{context}: {entry:?}");
    assert_eq!(entry.version, sample.version, "{context}");
    assert!(
        !entry.flags.poisoned && !entry.flags.corrupt,
        "{context}: {entry:?}"
    );
    assert_eq!(
        sample.read(directory).expect(context),
        sample.bytes,
        "{context}: {handle}"
    );
}

/// Whatever says that it is sealed, and is in no doubt, is right.
fn check_claims(directory: &Directory, done: &Acknowledged, context: &str) {
    for entry in directory.inventory(None, 100) {
        let doubted = entry.needs_read_back || entry.flags.poisoned || entry.flags.corrupt;
        if entry.state == ChunkState::Sealed && !doubted {
            let found = directory
                .verify(entry.handle, ReadFrom::Medium, 9_000)
                .expect(context);
            assert!(found.is_good(), "{context}: {entry:?} {found:?}");
            check_whole(directory, done, entry.handle, context);
        }
    }
}

/// Runs the workload on a new tree with these faults.
fn run_with(faults: Faults) -> (Arc<FaultyTree>, Acknowledged) {
    let faulty = Arc::new(FaultyTree::with(faults));
    let tree: Arc<dyn Tree> = Arc::clone(&faulty) as _;
    let done = run_workload(&tree);
    (faulty, done)
}

#[test]
fn the_workload_itself_does_everything() {
    let (tree, done) = run_with(Faults::default());
    assert!(done.adopted && done.obeyed);
    assert_eq!(done.disk.len(), 9, "{done:?}");
    assert!(done.newer_copied);
    assert_eq!(done.deleted.len(), 1);
    assert!(tree.counts().syncs > 30, "{:?}", tree.counts());
    check(
        tree.after_power_cut(Survives::Nothing),
        &done,
        Crash::PowerCut,
        "at the end",
    );
}

#[test]
fn no_promise_breaks_when_the_power_fails_at_any_step() {
    let steps = run_with(Faults::default()).0.counts().steps;
    for stop in 0..=steps {
        let (tree, done) = run_with(Faults {
            stop_at: Some(stop),
            ..Faults::default()
        });
        for survives in power_cuts(stop) {
            let context = format!("power cut before step {stop}, {survives:?}");
            check(
                tree.after_power_cut(survives),
                &done,
                Crash::PowerCut,
                &context,
            );
        }
        for seed in (stop as u64 * 8..).take(4) {
            let context = format!("power cut before step {stop}, sectors torn, seed {seed}");
            let left = tree.after_power_cut(Survives::TornSectors { seed });
            check(left, &done, Crash::TornPowerCut, &context);
        }
    }
}

#[test]
fn no_promise_breaks_when_the_process_dies_at_any_step() {
    let steps = run_with(Faults::default()).0.counts().steps;
    for stop in 0..=steps {
        let (tree, done) = run_with(Faults {
            stop_at: Some(stop),
            ..Faults::default()
        });
        let context = format!("killed before step {stop}");
        check(tree.after_kill(), &done, Crash::Kill, &context);

        // What a start after the kill tells the master stands, even if the power fails then.
        let killed = Arc::new(tree.after_kill());
        let directory = Directory::open_tree(Arc::clone(&killed) as _, &START).unwrap();
        let told = directory.inventory(None, 100);
        drop(directory);
        let cut = Arc::new(killed.after_power_cut(Survives::Nothing));
        let directory = Directory::open_tree(cut, &START).unwrap();
        assert_eq!(
            directory.inventory(None, 100),
            told,
            "{context}, then a power cut"
        );
    }
}

#[test]
fn no_promise_breaks_when_any_sync_fails() {
    let syncs = run_with(Faults::default()).0.counts().syncs;
    for fail in 0..syncs {
        let (tree, done) = run_with(Faults {
            fail_sync: Some(fail),
            ..Faults::default()
        });
        for survives in power_cuts(fail) {
            let context = format!("sync {fail} failed, then a power cut, {survives:?}");
            check(
                tree.after_power_cut(survives),
                &done,
                Crash::AfterFailedSync,
                &context,
            );
        }
        check(
            tree.after_kill(),
            &done,
            Crash::AfterFailedSync,
            &format!("sync {fail} failed, then a kill"),
        );
    }
}

#[test]
fn a_full_disk_is_an_error_and_harms_nothing() {
    let reservations = run_with(Faults::default()).0.counts().reservations;
    assert!(reservations > 5);
    for fill in 0..reservations {
        let (tree, done) = run_with(Faults {
            fill_at: Some(fill),
            ..Faults::default()
        });
        // The second start finds room again and stores what was refused, but for the chunk that
        // is to be deleted; its own copy over the replica that rots has no third start.
        let is_expected = done.deleted.is_empty() || !done.disk.contains(&ChunkHandle(10));
        let stored: BTreeSet<_> = done.disk.union(&done.memory).collect();
        assert!(
            stored.len() == 9 || (stored.len() == 8 && is_expected),
            "{done:?}"
        );
        check(
            tree.after_power_cut(Survives::Nothing),
            &done,
            Crash::PowerCut,
            &format!("reservation {fill}"),
        );
    }
    let tree: Arc<dyn Tree> = Arc::new(FaultyTree::with(Faults {
        fill_at: Some(0),
        ..Faults::default()
    }));
    let directory = super::scenario::open(&tree).unwrap();
    let sample = Sample::new(1, 10);
    let full = sample.store(&directory, Level::Disk);
    assert!(matches!(full, Err(StoreError::NoSpace { .. })), "{full:?}");
    sample
        .store(&directory, Level::Disk)
        .expect("nothing of the first try is in the way");
}

#[test]
fn a_failed_sync_poisons_its_chunk_for_good() {
    let healthy: Arc<FaultyTree> = Arc::new(FaultyTree::new());
    let sample = Sample::new(1, 100_000);
    let directory = super::scenario::open(&(Arc::clone(&healthy) as _)).unwrap();
    let before = healthy.counts().syncs;
    sample.store(&directory, Level::Disk).unwrap();
    assert_eq!(healthy.counts().syncs - before, 3, "data, header, folder");

    for fail in [before, before + 1] {
        let faults = Faults {
            fail_sync: Some(fail),
            ..Faults::default()
        };
        let tree: Arc<dyn Tree> = Arc::new(FaultyTree::with(faults));
        let directory = super::scenario::open(&tree).unwrap();
        let failed = sample.store(&directory, Level::Disk);
        assert!(matches!(failed, Err(StoreError::Io { .. })), "{failed:?}");
        for _ in 0..2 {
            let again = sample.seal(&directory, Level::Disk);
            assert!(
                matches!(again, Err(StoreError::Poisoned { .. })),
                "{again:?}"
            );
        }
        assert!(directory.open_for_read(sample.handle).is_err());
        assert!(!directory.is_poisoned());
        drop(directory);
        let directory = super::scenario::open(&tree).unwrap();
        assert!(directory.entry(sample.handle).unwrap().flags.poisoned);
        let again = sample.seal(&directory, Level::Disk);
        assert!(
            matches!(again, Err(StoreError::Poisoned { .. })),
            "{again:?}"
        );
    }

    let faults = Faults {
        fail_sync: Some(before + 2),
        ..Faults::default()
    };
    let tree: Arc<dyn Tree> = Arc::new(FaultyTree::with(faults));
    let directory = super::scenario::open(&tree).unwrap();
    assert!(sample.store(&directory, Level::Disk).is_err());
    assert!(directory.is_poisoned());
    let other = Sample::new(2, 1).store(&directory, Level::Memory);
    assert!(
        matches!(other, Err(StoreError::DirectoryPoisoned)),
        "{other:?}"
    );
    assert_eq!(
        sample.read(&directory).unwrap(),
        sample.bytes,
        "it is still read"
    );
    drop(directory);
    assert!(
        super::scenario::open(&tree).unwrap().is_poisoned(),
        "a restart clears nothing"
    );
}
