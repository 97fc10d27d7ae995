//! Some seeds hold, a seed is the same run twice, and each check that is removed is missed.
//!
//! Many more seeds run in `.ci/run simulation`.

use sarsen_sim::cluster::{Options, run};
use sarsen_sim::invariants::determinism;

/// Shorter than the runs that count: these are run unoptimised.
fn short(seed: u64) -> Options {
    Options {
        acknowledged_min: 80,
        ..Options::new(seed)
    }
}

#[test]
fn some_seeds_hold() {
    for seed in 0..12 {
        let report = run(&short(seed));
        assert_eq!(report.failure, None, "seed {seed}");
        assert!(report.acknowledged >= 80, "seed {seed}");
        assert!(report.counters.faults() >= 5, "seed {seed}");
    }
}

#[test]
fn a_seed_is_the_same_run_twice() {
    for seed in [3, 4] {
        assert_eq!(determinism::check(&short(seed)), Ok(()));
    }
}

/// The table of `sim/README.md`: each check, the promise that breaks without it, and a seed that
/// shows it. With the check in its place the same seed holds.
#[cfg(debug_assertions)]
#[test]
fn a_check_that_is_removed_is_missed() {
    use sarsen_protocol::sabotage::{Check, remove};
    const MISSED: &[(Check, &str, u64)] = &[
        (Check::SealSync, "durable acks", 0),
        (Check::SealName, "durable acks", 2),
        (Check::OrderSession, "fencing", 9),
        (Check::RequestOnce, "exactly once", 2),
        (Check::RefusalKept, "exactly once", 445),
        (Check::ReplyAfterFlush, "log prefix", 0),
        (Check::PieceCrc, "records once", 19),
        (Check::StartNumber, "fencing", 64),
        (Check::ReadCrc, "never wrong bytes", 16),
        (Check::GarbageInUse, "no delete of what is needed", 0),
        (Check::HandleRange, "takes its log for damaged", 0),
        (Check::SafeMode, "no delete of what is needed", 0),
        (Check::LowestSerial, "records once", 30),
        (Check::RestartedMember, "records once", 122),
        (Check::PromiseRefuses, "open members", 0),
        (Check::LastMember, "records once", 70),
        (Check::DiskPrefix, "open members", 5),
        (Check::IdsKept, "records once", 23),
        (Check::CommittedReads, "states alike", 6),
        (Check::CopyAtRest, "open left alone", 0),
        (Check::DeleteAtRest, "open left alone", 1),
    ];
    for &(check, promise, seed) in MISSED {
        remove(Some(check));
        let report = run(&Options::new(seed));
        remove(None);
        let broken = report.failure.unwrap_or_default();
        assert!(
            broken.contains(promise),
            "{check:?}, seed {seed}: {broken:?}"
        );
    }
}
