//! Kill -9 and power cuts at every step of a workload, compared with a plain list.

use std::io;

use super::super::checkpoint::prune;
use super::super::entry::Entry;
use super::super::error::OplogError;
use super::super::faulty::{Disk, Random};
use super::{entry, start, write_checkpoint};

/// What was appended and what was acknowledged of it.
#[derive(Clone, Default)]
struct Model {
    appended: Vec<Entry>,
    acknowledged: usize,
}

impl Model {
    /// After a start: all that was acknowledged is there, in order and once, and nothing that
    /// nobody appended. What was found is durable from now on.
    fn accept(&mut self, found: Vec<Entry>, story: &str) {
        assert!(
            found.len() >= self.acknowledged,
            "{story}: an acknowledged entry is gone"
        );
        assert_eq!(
            found[..],
            self.appended[..found.len().min(self.appended.len())],
            "{story}"
        );
        self.acknowledged = found.len();
        self.appended = found;
    }
}

/// One process: starts, then appends batches, marks, checkpoints and prunes, until it is through
/// or dies.
fn live(disk: &Disk, model: &mut Model, seed: u64, story: &str) -> Result<(), OplogError> {
    let mut random = Random(seed);
    let mut log = start(disk)?;
    assert!(log.damaged_checkpoints.is_empty(), "{story}");
    model.accept(log.entries, story);
    for round in 0..12 {
        let first = model.appended.len() as u64 + 1;
        let count = 1 + random.below(4) as u64;
        let batch: Vec<_> = (first..first + count)
            .map(|number| entry(number, random.below(900)))
            .collect();
        model.appended.extend_from_slice(&batch);
        let position = log.appender.append(&batch)?;
        model.acknowledged = model.appended.len();
        assert_eq!(position.index, model.acknowledged as u64);
        if random.below(2) == 0 {
            log.appender.mark()?;
        }
        if round % 3 == 2 {
            write_checkpoint(disk, position, &model.appended)?;
            prune(disk)?;
        }
    }
    Ok(())
}

/// Runs the workload once and counts its steps, so that each of them can be the last.
fn steps_of_a_life() -> u64 {
    let (disk, mut model) = (Disk::default(), Model::default());
    live(&disk, &mut model, 1, "undisturbed").unwrap();
    assert!(
        disk.syncs() > 20,
        "the workload must sync often to be worth it"
    );
    disk.steps()
}

/// What happens after a crash, before the power fails.
#[derive(Clone, Copy)]
enum Then {
    /// The start crashes, too.
    CrashInStart,
    /// A start, one acknowledged entry.
    OneEntry,
}

/// Comes back from a crash, with a power cut soon after, and lives on.
fn live_on(disk: &Disk, model: &mut Model, then: Then, random: &mut Random, story: &str) {
    if matches!(then, Then::CrashInStart) {
        disk.die_at(disk.steps() + random.below(6) as u64);
    }
    if let Ok(mut log) = start(disk) {
        model.accept(log.entries, story);
        let next = entry(model.appended.len() as u64 + 1, 30);
        model.appended.push(next.clone());
        match log.appender.append(&[next]) {
            Ok(_) => model.acknowledged += 1,
            Err(error) => assert!(matches!(then, Then::CrashInStart), "{story}: {error}"),
        }
    }
    disk.power_cut(random);
    live(disk, model, 2, story).unwrap_or_else(|error| panic!("{story}: {error}"));
    disk.power_cut(random);
    let log = start(disk).unwrap_or_else(|error| panic!("{story}: {error}"));
    model.accept(log.entries, story);
}

#[test]
fn kill_at_every_step() {
    for step in 0..steps_of_a_life() {
        for then in [Then::CrashInStart, Then::OneEntry] {
            let story = format!("kill {step}");
            let (disk, mut model, mut random) = (Disk::default(), Model::default(), Random(step));
            disk.die_at(step);
            live(&disk, &mut model, 1, &story).unwrap_err();
            disk.restart();
            live_on(&disk, &mut model, then, &mut random, &story);
        }
    }
}

#[test]
fn power_cut_at_every_step() {
    for step in 0..steps_of_a_life() {
        for seed in 0..8 {
            let story = format!("power cut {step}, seed {seed}");
            let (disk, mut model, mut random) = (Disk::default(), Model::default(), Random(seed));
            disk.die_at(step);
            live(&disk, &mut model, 1, &story).unwrap_err();
            disk.power_cut(&mut random);
            let then = if seed < 4 {
                Then::CrashInStart
            } else {
                Then::OneEntry
            };
            live_on(&disk, &mut model, then, &mut random, &story);
        }
    }
}

/// A sync that fails ends the process. The pages stay readable, the kernel calls them clean, the
/// disk never got them: a start that only synced again would acknowledge what a power cut takes.
#[test]
fn failure_at_every_step() {
    for step in 0..steps_of_a_life() {
        let story = format!("fail {step}");
        let (disk, mut model, mut random) = (Disk::default(), Model::default(), Random(step));
        disk.fail_at(step, io::ErrorKind::Other);
        live(&disk, &mut model, 1, &story).unwrap_err();
        live_on(&disk, &mut model, Then::OneEntry, &mut random, &story);
    }
}

#[test]
fn a_full_disk_is_told_apart_and_nothing_is_written_after() {
    let disk = Disk::default();
    let mut log = start(&disk).unwrap();
    log.appender.append(&[entry(1, 10)]).unwrap();
    disk.fail_at(disk.steps(), io::ErrorKind::StorageFull);
    let full = log.appender.append(&[entry(2, 10)]);
    assert!(matches!(full, Err(OplogError::NoSpace { .. })));
    let steps = disk.steps();
    assert!(matches!(
        log.appender.append(&[entry(2, 10)]),
        Err(OplogError::Failed)
    ));
    assert!(matches!(log.appender.mark(), Err(OplogError::Failed)));
    assert_eq!(disk.steps(), steps);
}
