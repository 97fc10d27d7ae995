//! An oldest segment that the medium does not give (`spec/journal.md` section 8).

use std::sync::Arc;

use super::super::super::Trim;
use super::super::super::journal::segment::segment_path;
use super::super::super::journal::{Log as _, SEGMENTS_MAX};
use super::super::super::region::Tree;
use super::super::faulty::FaultyTree;
use super::MADE;
use super::member::{Member, Model, Op};
use super::trimming::fill;

/// A start that finds segments of an earlier one, of which nothing is remembered, and has a chunk changed.
fn started_again() -> (Arc<FaultyTree>, Member, Model) {
    let faulty = Arc::new(FaultyTree::new());
    let tree: Arc<dyn Tree> = faulty.clone();
    let member = Member::start(&tree).unwrap();
    let mut busy = Model::default();
    member.open(MADE, &mut busy, 1000, None).unwrap();
    fill(&member, MADE, &mut busy);
    drop(member);
    let member = Member::start(&tree).unwrap();
    member.run(MADE, &mut busy, &Op::Change(0)).unwrap();
    (faulty, member, busy)
}

/// The oldest segment could not be read: it was read, and complained of, once a second for ever.
#[test]
fn a_segment_that_can_not_be_read_stays_and_is_told_now_and_then() {
    let (faulty, member, mut busy) = started_again();
    let oldest = member.log.extent().segments[0];
    faulty.lose_sector(&segment_path(oldest), 4096);
    for _ in 0..2 {
        let told = member.directory.trim(1);
        assert!(told.is_err(), "{told:?}");
        for _ in 0..3 {
            assert_eq!(member.directory.trim(1).unwrap(), Trim::Nothing);
        }
        fill(&member, MADE, &mut busy);
    }
    assert_eq!(member.log.extent().segments[0], oldest);
    assert!(!member.directory.is_poisoned());
}

/// The oldest segment could not be read while the journal grew to all that it may have. Mutations were refused
/// then, so it grew no more, and that the medium had long given the segment was not found out.
#[test]
fn a_segment_that_could_not_be_read_is_read_again_also_where_the_journal_is_full() {
    let (faulty, member, mut busy) = started_again();
    let oldest = member.log.extent().segments[0];
    while member.log.extent().segments.len() <= SEGMENTS_MAX {
        fill(&member, MADE, &mut busy);
    }
    faulty.lose_sector(&segment_path(oldest), 4096);
    assert!(member.directory.trim(1).is_err());
    faulty.find_sectors();
    let looks = (0..10).map(|_| member.directory.trim(1).unwrap());
    assert!(looks.into_iter().any(|look| look == Trim::GoOn));
}
