//! What a start refuses and where it says that it is, and what it takes for a torn tail.

use std::sync::Arc;

use rustix::io::Errno;

use super::super::checkpoint::{prune, verify};
use super::super::entry::{ALIGNMENT, HEADER_LEN};
use super::super::error::{Damage, EntryFault, FormatError, OplogError, Proof};
use super::super::faulty::Disk;
use super::super::names::{checkpoint_name, segment_name};
use super::super::recover::Recovery;
use super::super::segment::{SEGMENT_HEADER_LEN, SEGMENT_START};
use super::{CLUSTER, OPTIONS, Started, decode_state, entry, start, write_checkpoint};

const BODY_LEN: usize = 35;
const ENTRY_LEN: usize = (HEADER_LEN + BODY_LEN).next_multiple_of(ALIGNMENT);
const FIRST: &str = "oplog-0000000000000001.log";

/// Three batches of two entries in the first segment.
fn three_batches() -> (Disk, Started) {
    let disk = Disk::default();
    let mut log = start(&disk).unwrap();
    for first in [1, 3, 5] {
        let batch = [entry(first, BODY_LEN), entry(first + 1, BODY_LEN)];
        log.appender.append(&batch).unwrap();
    }
    (disk, log)
}

/// Several segments: a batch of one long entry each, until `last`.
fn many_segments(last: u64) -> (Disk, Started) {
    let disk = Disk::default();
    let mut log = start(&disk).unwrap();
    for number in 1..=last {
        log.appender.append(&[entry(number, 1500)]).unwrap();
    }
    (disk, log)
}

fn offset_of(index: u64) -> usize {
    SEGMENT_START + (usize::try_from(index).unwrap() - 1) * ENTRY_LEN
}

fn damage(disk: &Disk) -> Damage {
    match start(disk) {
        Err(OplogError::Damaged(damage)) => damage,
        Err(other) => panic!("refused for another reason: {other}"),
        Ok(log) => panic!("started with {} entries", log.entries.len()),
    }
}

fn change(disk: &Disk, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = disk.read(name);
    change(&mut bytes);
    disk.tamper(name, Some(bytes));
}

#[test]
fn every_flipped_byte_is_refused_or_in_the_last_batch() {
    let (disk, _) = three_batches();
    for at in SEGMENT_START..offset_of(7) {
        let disk = disk.copy();
        change(&disk, FIRST, |bytes| bytes[at] ^= 1 << (at % 8));
        let index = ((at - SEGMENT_START) / ENTRY_LEN) as u64 + 1;
        if index <= 4 {
            let Damage::Entry {
                file,
                offset,
                index: found,
                proof,
                ..
            } = damage(&disk)
            else {
                panic!("byte {at}: another damage");
            };
            assert_eq!(
                (file.as_str(), offset),
                (FIRST, offset_of(index) as u64),
                "byte {at}"
            );
            assert_eq!(found, index, "byte {at}");
            assert!(matches!(proof, Proof::LaterHeader { .. }), "byte {at}");
        } else {
            let log = start(&disk).unwrap();
            assert_eq!(log.entries.len() as u64, index - 1, "byte {at}");
            let torn = log.torn_tail.unwrap();
            assert_eq!((torn.index, torn.offset), (index, offset_of(index) as u64));
        }
    }
}

#[test]
fn a_refused_log_is_left_as_it_was() {
    let (disk, _) = three_batches();
    change(&disk, FIRST, |bytes| bytes[offset_of(2)] ^= 1);
    disk.tamper("oplog-0000000000000007.log.tmp", Some(vec![1]));
    let (before, steps) = (disk.read(FIRST), disk.steps());
    damage(&disk);
    assert_eq!((disk.read(FIRST), disk.steps()), (before, steps));
}

/// Where the mark behind six entries stands.
fn mark_offset() -> usize {
    offset_of(7).next_multiple_of(4096)
}

#[test]
fn with_a_mark_the_last_batch_is_proved_too() {
    let (disk, mut log) = three_batches();
    log.appender.mark().unwrap();
    for at in offset_of(5)..offset_of(7) {
        let disk = disk.copy();
        change(&disk, FIRST, |bytes| bytes[at] ^= 0x80);
        assert!(
            matches!(damage(&disk), Damage::Entry { index: 5 | 6, .. }),
            "byte {at}"
        );
    }
    for at in mark_offset()..mark_offset() + HEADER_LEN {
        let disk = disk.copy();
        change(&disk, FIRST, |bytes| bytes[at] ^= 0x80);
        assert_eq!(
            start(&disk).unwrap().entries.len(),
            6,
            "byte {at} of the mark"
        );
    }
    assert_eq!(start(&disk).unwrap().torn_tail, None);
}

/// The mark stood right behind the last entry: one page that read as zeros took both, and a start
/// called what was left, without a word, the whole log.
#[test]
fn a_page_that_rots_takes_not_the_last_entry_and_its_proof() {
    let (disk, mut log) = three_batches();
    log.appender.mark().unwrap();
    let page = offset_of(6) / 4096 * 4096;
    change(&disk, FIRST, |bytes| bytes[page..page + 4096].fill(0));
    let damage = damage(&disk);
    assert!(matches!(damage, Damage::Entry { .. }), "{damage:?}");
}

/// A mark that stays behind later entries, or that they overwrite in part, is no torn tail.
#[test]
fn older_marks_are_no_torn_tail() {
    for body_len in (1..4_400).step_by(8) {
        let (disk, mut log) = three_batches();
        log.appender.mark().unwrap();
        log.appender.append(&[entry(7, body_len)]).unwrap();
        let log = start(&disk).unwrap();
        assert_eq!((log.entries.len(), log.torn_tail), (7, None), "{body_len}");
    }
}

/// Earlier writers put the mark right behind the last entry.
#[test]
fn a_mark_right_behind_the_last_entry_is_one_too() {
    let (disk, mut log) = three_batches();
    log.appender.mark().unwrap();
    change(&disk, FIRST, |bytes| {
        let mark = bytes[mark_offset()..][..HEADER_LEN].to_vec();
        bytes[mark_offset()..][..HEADER_LEN].fill(0);
        bytes[offset_of(7)..][..HEADER_LEN].copy_from_slice(&mark);
    });
    assert_eq!(start(&disk).unwrap().torn_tail, None);
}

/// The sectors of an unsynced batch reach the disk in any order: a good entry behind a bad one
/// of the same batch proves nothing.
#[test]
fn a_hole_in_an_unsynced_batch_is_a_torn_tail() {
    let (disk, mut log) = three_batches();
    let batch = [7, 8, 9].map(|number| entry(number, BODY_LEN));
    log.appender.append(&batch).unwrap();
    change(&disk, FIRST, |bytes| {
        bytes[offset_of(8)..offset_of(9)].fill(0)
    });
    let log = start(&disk).unwrap();
    assert_eq!(log.entries.len(), 7);
    assert_eq!(log.torn_tail.unwrap().fault, EntryFault::Absent);
    let mut log = start(&disk).unwrap();
    assert_eq!(log.torn_tail, None, "it was cut off");
    // What goes on there is found, and nothing of the old entry 9 behind it.
    log.appender.append(&[entry(8, BODY_LEN)]).unwrap();
    let log = start(&disk).unwrap();
    assert_eq!((log.entries.len(), log.torn_tail), (8, None));
}

#[test]
fn a_segment_cut_short_is_refused_unless_it_is_the_last() {
    let (disk, _) = many_segments(4);
    let (middle, last) = (segment_name(2), segment_name(4));
    let whole = disk.copy();
    change(&whole, &last, |bytes| bytes.truncate(SEGMENT_START + 100));
    assert_eq!(start(&whole).unwrap().entries.len(), 3);
    change(&disk, &middle, |bytes| bytes.truncate(SEGMENT_START + 100));
    let found = damage(&disk);
    let proof = Proof::LaterSegment { first_index: 3 };
    let fault = EntryFault::Format(FormatError::Truncated);
    let offset = SEGMENT_START as u64;
    assert_eq!(
        found,
        Damage::Entry {
            file: middle,
            offset,
            index: 2,
            fault,
            proof
        }
    );
}

#[test]
fn a_missing_segment_is_refused() {
    let (disk, _) = many_segments(4);
    for (missing, index) in [(1, 1), (3, 3)] {
        let disk = disk.copy();
        disk.tamper(&segment_name(missing), None);
        match damage(&disk) {
            Damage::SegmentMissing { index: found, .. } => assert_eq!(found, index),
            Damage::Entry {
                index: found,
                fault: EntryFault::Absent,
                ..
            } => {
                assert_eq!(found, index);
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_spoiled_segment_header_is_refused() {
    let (disk, _) = many_segments(3);
    for at in 0..SEGMENT_HEADER_LEN {
        let disk = disk.copy();
        change(&disk, &segment_name(2), |bytes| bytes[at] ^= 4);
        assert!(
            matches!(damage(&disk), Damage::SegmentHeader { first_index: 2, .. }),
            "{at}"
        );
    }
    change(&disk, &segment_name(3), |bytes| bytes.truncate(200));
    assert!(matches!(
        damage(&disk),
        Damage::SegmentHeader { first_index: 3, .. }
    ));
}

#[test]
fn a_segment_of_another_history_is_refused() {
    let (disk, _) = many_segments(3);
    let other = Disk::default();
    let mut log = start(&other).unwrap();
    for number in [1, 2, 3] {
        log.appender.append(&[entry(number, 1501)]).unwrap();
    }
    disk.tamper(&segment_name(2), Some(other.read(&segment_name(2))));
    let fault = EntryFault::ChainBroken;
    let file = segment_name(2);
    assert_eq!(
        damage(&disk),
        Damage::SegmentHeader {
            file,
            first_index: 2,
            fault
        }
    );
}

#[test]
fn entries_in_the_wrong_order_are_refused() {
    let (disk, _) = three_batches();
    change(&disk, FIRST, |bytes| {
        let (second, third) = bytes[offset_of(2)..offset_of(4)].split_at_mut(ENTRY_LEN);
        second.swap_with_slice(third);
    });
    let fault = EntryFault::OtherIndex { found: 3 };
    let Damage::Entry {
        index: 2,
        fault: found,
        ..
    } = damage(&disk)
    else {
        panic!("another damage");
    };
    assert_eq!(found, fault);
}

#[test]
fn an_entry_of_another_history_is_refused() {
    let (disk, _) = three_batches();
    let other = Disk::default();
    let batch = [2, 2, 3, 4].map(|number| entry(number, BODY_LEN));
    start(&other).unwrap().appender.append(&batch).unwrap();
    let foreign = other.read(FIRST)[offset_of(2)..offset_of(3)].to_vec();
    change(&disk, FIRST, |bytes| {
        bytes[offset_of(2)..offset_of(3)].copy_from_slice(&foreign)
    });
    let Damage::Entry {
        index: 2,
        fault: EntryFault::ChainBroken,
        ..
    } = damage(&disk)
    else {
        panic!("another damage");
    };
}

#[test]
fn a_log_that_ends_before_its_checkpoint_is_refused() {
    let (disk, log) = three_batches();
    let entries: Vec<_> = (1..=6).map(|number| entry(number, BODY_LEN)).collect();
    write_checkpoint(&disk, log.appender.position(), &entries).unwrap();
    assert_eq!(start(&disk).unwrap().entries, entries);
    change(&disk, FIRST, |bytes| bytes[offset_of(6)..].fill(0));
    let proof = Proof::Checkpoint { last_index: 6 };
    let Damage::Entry {
        index: 6,
        proof: found,
        ..
    } = damage(&disk)
    else {
        panic!("another damage");
    };
    assert_eq!(found, proof);
}

#[test]
fn a_checkpoint_of_another_history_is_refused() {
    let (disk, mut log) = many_segments(1);
    let other = Disk::default();
    let mut other_log = start(&other).unwrap();
    let position = other_log.appender.append(&[entry(1, 1501)]).unwrap();
    write_checkpoint(&disk, position, &[entry(1, 1501)]).unwrap();
    log.appender.append(&[entry(2, 10)]).unwrap();
    assert_eq!(
        damage(&disk),
        Damage::CheckpointForeign {
            file: FIRST.to_owned(),
            index: 1
        }
    );
}

/// Checkpoints after entries 3, 6 and 9 of a log of ten segments.
fn checkpointed() -> Disk {
    let disk = Disk::default();
    let mut log = start(&disk).unwrap();
    for number in 1..=10 {
        let position = log.appender.append(&[entry(number, 1500)]).unwrap();
        log.entries.push(entry(number, 1500));
        if number % 3 == 0 {
            write_checkpoint(&disk, position, &log.entries).unwrap();
        }
    }
    disk
}

#[test]
fn two_checkpoints_and_the_log_since_the_older_are_kept() {
    let disk = checkpointed();
    // The checkpoint of entry 3, and segments 1 to 6, all of which the one of entry 6 covers.
    assert_eq!(prune(&disk).unwrap(), 1 + 6);
    assert_eq!(prune(&disk).unwrap(), 0);
    let log = start(&disk).unwrap();
    assert_eq!((log.entries.len(), log.damaged_checkpoints.len()), (10, 0));
}

#[test]
fn a_damaged_checkpoint_is_told_and_the_older_one_serves() {
    let disk = checkpointed();
    prune(&disk).unwrap();
    let newest = checkpoint_name(9);
    for at in 0..disk.read(&newest).len() {
        let disk = disk.copy();
        change(&disk, &newest, |bytes| bytes[at] ^= 1);
        let log = start(&disk).unwrap();
        assert_eq!(log.entries.len(), 10);
        assert_eq!(log.damaged_checkpoints[0].file, newest);
        // Out of the count from now on: the next checkpoint doesn't push out the good one.
        let log = start(&disk).unwrap();
        assert!(log.damaged_checkpoints.is_empty());
        write_checkpoint(&disk, log.appender.position(), &log.entries).unwrap();
        assert_eq!(prune(&disk).unwrap(), 0);
    }
    for name in [&newest, &checkpoint_name(6)] {
        change(&disk, name, |bytes| bytes[200] ^= 1);
    }
    let Damage::SegmentMissing {
        index: 1,
        passed_over: Some(passed_over),
    } = damage(&disk)
    else {
        panic!("another damage");
    };
    assert_eq!(passed_over.file, newest);
}

/// A bad sector shows as an error of the read: a master whose newest checkpoint had one did not start any
/// more, with all that it needed beside it.
#[test]
fn a_checkpoint_that_the_disk_cannot_read_is_damaged() {
    let disk = checkpointed();
    prune(&disk).unwrap();
    let newest = checkpoint_name(9);
    disk.make_unreadable(&newest, Errno::IO.raw_os_error());
    let log = start(&disk).unwrap();
    assert_eq!(log.entries.len(), 10);
    let told = &log.damaged_checkpoints[0];
    assert_eq!((&told.file, told.error), (&newest, FormatError::Unreadable));
    // For want of a descriptor it is as good as before.
    let disk = checkpointed();
    disk.make_unreadable(&newest, Errno::MFILE.raw_os_error());
    assert!(matches!(start(&disk), Err(OplogError::Io { .. })));
}

#[test]
fn a_checkpoint_of_several_pieces_comes_back() {
    let (disk, log) = many_segments(1);
    // 12 bytes an entry: a bit over two pieces.
    let entries: Vec<_> = (1..=200_000).map(|number| entry(number, 0)).collect();
    let header = write_checkpoint(&disk, log.appender.position(), &entries).unwrap();
    assert_eq!(header.body_len, 2_400_000);
    assert_eq!(verify(&disk, 1).unwrap(), Ok(header));
    let recovery = Recovery::begin(Arc::new(disk.clone()), OPTIONS, CLUSTER).unwrap();
    assert_eq!(
        decode_state(&mut recovery.checkpoint().unwrap().unwrap()),
        entries
    );
    let name = checkpoint_name(1);
    type Spoil = fn(&mut Vec<u8>);
    let cases: [(Spoil, FormatError); 4] = [
        (|bytes| bytes.truncate(2_000_000), FormatError::Truncated),
        (|bytes| bytes.push(0), FormatError::TrailingBytes),
        (|bytes| bytes[1_500_000] ^= 1, FormatError::PieceCrcWrong),
        (|bytes| swap_first_pieces(bytes), FormatError::BodyCrcWrong),
    ];
    for (spoil, error) in cases {
        let disk = disk.copy();
        change(&disk, &name, spoil);
        assert_eq!(verify(&disk, 1).unwrap(), Err(error));
    }
}

fn swap_first_pieces(bytes: &mut [u8]) {
    let piece = 8 + 1024 * 1024;
    let (first, second) = bytes[128..128 + 2 * piece].split_at_mut(piece);
    first.swap_with_slice(second);
}
