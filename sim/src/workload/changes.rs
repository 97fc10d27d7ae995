//! What clients do to files that are changed where they are.
//!
//! *Logs* get records: small ones, many at a time, long ones, and ones that just fit into their
//! chunk, or just don't; now and then zeros are written far behind all of them, and records go on there. *Images* are cells that are written over and over, one or many, beyond the
//! end and over the edges of chunks, and read beside that; one of them is cut again and again. All
//! clients work on all of them. A *brief* file comes and goes, and is cut whether or not it is there.

use std::time::Duration;

use sarsen_client::core::read::PAGE_LEN;
use sarsen_protocol::message::Level;
use sarsen_protocol::record::RECORD_HEADER_LEN;

use super::{BLOCK, CHUNK_SIZE};
use crate::invariants::Facts;
use crate::oracle::content::Content;
use crate::oracle::image::Layout;
use crate::oracle::op::{Change, Changes, Op};
use crate::random::Random;

/// The folder of files that change.
const FOLDER: &str = "/m";

/// Files that records are appended to.
const LOGS: &[&str] = &["/m/log", "/m/log-2"];

/// A file that is cut, among those of cells.
const CUT: &str = "/m/image-cut";

/// A file of cells that nobody writes: it is made, cut and removed again and again, and cut also when
/// it isn't there.
const BRIEF: &str = "/m/image-brief";

/// Files of cells.
const IMAGES: &[(&str, Layout)] = &[
    ("/m/image", Layout::Uneven),
    (CUT, Layout::Uneven),
    ("/m/image-crc", Layout::OneCrc),
];

/// Slots of a file that a reader of records asks for at once.
const SLOTS_MAX: u32 = PAGE_LEN - 8;

/// The longest payload of a record: with its header a quarter of a chunk.
const PAYLOAD_MAX: u64 = CHUNK_SIZE as u64 / 4 - RECORD_HEADER_LEN as u64;

/// Whether a path is that of a file that changes, or of their folder.
#[must_use]
pub fn is_changing(path: &str) -> bool {
    path == FOLDER || layout(path).is_some() || LOGS.contains(&path)
}

/// How a file of cells is cut; none of other files.
#[must_use]
pub fn layout(path: &str) -> Option<Layout> {
    if path == BRIEF {
        return Some(Layout::Uneven);
    }
    let image = IMAGES.iter().find(|(image, _)| *image == path);
    image.map(|(_, layout)| *layout)
}

/// Reads all of a file that changes, with all that was acknowledged before; none if it is another.
#[must_use]
pub fn read_whole(path: &str) -> Option<Op> {
    let path = path.to_owned();
    if LOGS.contains(&&*path) {
        return Some(Op::ReadRecords { path });
    }
    layout(&path).map(|layout| Op::ReadCells {
        path,
        layout,
        cells: None,
        newest: true,
    })
}

/// Writes into each of these chunks of a file that changes, or appends a record to it; none if it is
/// another. `number` is never used again.
#[must_use]
pub fn write_everywhere(path: &str, indexes: &[u32], number: u64) -> Option<Op> {
    let changes: Vec<Change> = match layout(path) {
        _ if LOGS.contains(&path) => vec![Change::Record { len: 100 }],
        layout => {
            let layout = layout?;
            let written = indexes.iter().map(|index| Change::Cells {
                layout,
                first: index * layout.cells_in_chunk(),
                count: 1,
                value: number ^ u64::from(*index) << 32 | 1 << 63,
            });
            written.collect()
        }
    };
    Some(Op::Change(Changes {
        path: path.to_owned(),
        level: Level::Disk,
        ordered: false,
        changes: changes.into_iter().map(|it| (Duration::ZERO, it)).collect(),
    }))
}

/// The next thing to do with a file that changes; `number` makes values differ.
pub fn next(random: &mut Random, facts: &Facts, number: u64) -> Op {
    let log = random.pick(LOGS).copied().unwrap_or(FOLDER);
    let image = random.pick(IMAGES).copied();
    let (image, layout) = image.unwrap_or((CUT, Layout::Uneven));
    let (path, op) = match random.below(122) {
        100.. => return brief(random, facts, number),
        0..34 => (log, append(random, facts, log)),
        34..40 => (log, read_records(random, log)),
        40..66 => (image, write(random, image, layout, number)),
        66..90 => (image, read(random, image, layout)),
        90..95 => (CUT, truncate(random, CUT)),
        _ => {
            let path = if random.percent(50) { log } else { image };
            (
                path,
                Op::Seal {
                    path: path.to_owned(),
                },
            )
        }
    };
    if facts.names.files().any(|(it, _)| it == path) {
        return op;
    }
    make(random, path, number)
}

fn make(random: &mut Random, path: &str, number: u64) -> Op {
    Op::Put {
        path: path.to_owned(),
        content: Content::new(number, 0),
        force: false,
        purge: false,
        replicas: if random.percent(15) { 2 } else { 0 },
    }
}

/// The next thing to do with the file that comes and goes.
fn brief(random: &mut Random, facts: &Facts, number: u64) -> Op {
    let is_there = facts.names.files().any(|(it, _)| it == BRIEF);
    match (random.below(2), is_there) {
        (0, _) => truncate(random, BRIEF),
        (_, false) => make(random, BRIEF, number),
        // Out of the trash it would come back elsewhere.
        (_, true) => Op::Remove {
            path: BRIEF.to_owned(),
            recursive: false,
            purge: true,
        },
    }
}

fn read_records(random: &mut Random, path: &str) -> Op {
    let path = path.to_owned();
    match random.percent(50) {
        true => Op::ReadRecords { path },
        false => Op::FollowRecords {
            path,
            time: random.micros(200_000, 8_000_000),
        },
    }
}

/// Zeros in a chunk far behind the last one, near its end: no record is there yet. One may be before they
/// are, if what makes the chunk for them comes long before they do.
fn write_far(random: &mut Random, facts: &Facts, path: &str) -> Option<Op> {
    let (_, file) = facts.names.files().find(|(it, _)| *it == path)?;
    let index = facts.next_slot(file) + 4 + u32::try_from(random.below(3)).ok()?;
    let changes = vec![(
        Duration::ZERO,
        Change::Zeros {
            index,
            offset: CHUNK_SIZE - u32::try_from(random.between(BLOCK, 4 * BLOCK)).ok()?,
            len: u32::try_from(random.between(1, BLOCK / 2)).ok()?,
        },
    )];
    (index < SLOTS_MAX).then(|| {
        Op::Change(Changes {
            path: path.to_owned(),
            level: level(random),
            ordered: false,
            changes,
        })
    })
}

fn append(random: &mut Random, facts: &Facts, path: &str) -> Op {
    if random.percent(8)
        && let Some(op) = write_far(random, facts, path)
    {
        return op;
    }
    let count = match random.below(10) {
        0..5 => 1,
        5..9 => random.between(2, 6),
        _ => random.between(6, 20),
    };
    let changes = (0..count).map(|_| {
        let len = match random.below(100) {
            0..60 => random.between(0, 3_000),
            60..84 => random.between(100, BLOCK),
            84..92 => random.between(BLOCK, PAYLOAD_MAX + 1),
            _ => filling(random, facts, path),
        };
        let len = u32::try_from(len).unwrap_or(0);
        (pause(random), Change::Record { len })
    });
    Op::Change(Changes {
        changes: changes.collect(),
        path: path.to_owned(),
        level: level(random),
        ordered: random.percent(30),
    })
}

/// About what is left of the chunk that the last record is in, as far as anybody was told.
fn filling(random: &mut Random, facts: &Facts, path: &str) -> u64 {
    let file = facts.names.files().find(|(it, _)| *it == path);
    let end = file.and_then(|(_, file)| facts.record_ends.get(&file));
    let left = u64::from(CHUNK_SIZE) - end.copied().unwrap_or(0) % u64::from(CHUNK_SIZE);
    let fits = left.saturating_sub(RECORD_HEADER_LEN as u64);
    (fits + 3).saturating_sub(random.below(6)).min(PAYLOAD_MAX)
}

fn write(random: &mut Random, path: &str, layout: Layout, number: u64) -> Op {
    let count = if random.percent(60) {
        1
    } else {
        random.between(2, 8)
    };
    let mut changes = Vec::new();
    for nth in 0..count {
        let cells = cells(random, layout);
        let behind = pause(random);
        // A client cuts at the edges of chunks; each piece is a mutation of its own.
        let mut first = cells.start;
        while first < cells.end {
            let edge = (layout.index(first) + 1) * layout.cells_in_chunk();
            let end = edge.min(cells.end);
            let piece = nth << 8 | u64::from(layout.index(first));
            let change = Change::Cells {
                layout,
                first,
                count: end - first,
                // Never zero, and never the same again.
                value: number.wrapping_add(piece) | 1 << 63,
            };
            changes.push((behind, change));
            first = end;
        }
    }
    Op::Change(Changes {
        path: path.to_owned(),
        level: level(random),
        ordered: false,
        changes,
    })
}

fn read(random: &mut Random, path: &str, layout: Layout) -> Op {
    let newest = random.percent(50);
    Op::ReadCells {
        path: path.to_owned(),
        layout,
        cells: (!newest || random.percent(85)).then(|| cells(random, layout)),
        newest,
    }
}

fn truncate(random: &mut Random, path: &str) -> Op {
    let layout = layout(path).unwrap_or(Layout::Uneven);
    let per_chunk = u64::from(layout.cells_in_chunk());
    let cell = match random.below(10) {
        0..2 => 0,
        // At a chunk's edge.
        2..4 => per_chunk * random.between(1, 3),
        _ => random.below(2 * per_chunk),
    };
    Op::Truncate {
        path: path.to_owned(),
        layout,
        cell: u32::try_from(cell).unwrap_or(0),
    }
}

/// Some cells: mostly few, near each other, of the first chunk; sometimes many, over an edge.
fn cells(random: &mut Random, layout: Layout) -> std::ops::Range<u32> {
    let per_chunk = u64::from(layout.cells_in_chunk());
    let first = match random.below(20) {
        0..12 => random.below(12),
        12..15 => per_chunk - 1 - random.below(4),
        15..18 => random.below(2 * per_chunk),
        _ => per_chunk + random.below(8),
    };
    let count = match random.below(20) {
        0..13 => random.between(1, 4),
        13..19 => random.between(3, 10),
        _ => random.between(1, per_chunk),
    };
    let cell = |at| u32::try_from(at).unwrap_or(0);
    cell(first)..cell(first + count)
}

fn level(random: &mut Random) -> Level {
    match random.percent(50) {
        true => Level::Memory,
        false => Level::Disk,
    }
}

fn pause(random: &mut Random) -> Duration {
    match random.below(10) {
        0..6 => Duration::ZERO,
        6..9 => random.micros(0, 50_000),
        _ => random.micros(0, 1_500_000),
    }
}
