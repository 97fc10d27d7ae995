//! What clients set out to do: files up and down, folders, renames, removals, the trash; and a few
//! files that are changed where they are, and never replaced ([`changes`]).
//!
//! Paths are few, so that clients meet each other: they replace, move and remove each other's
//! files.

pub mod changes;

use sarsen_protocol::id::{ChunkHandle, FileId};

use self::changes::is_changing;
use crate::invariants::Facts;
use crate::oracle::content::Content;
use crate::oracle::op::Op;
use crate::random::Random;

/// Top folders.
const FOLDERS: &[&str] = &["/a", "/b", "/c", "/a/x", "/b/y/z"];

/// Names of files.
const NAMES: &[&str] = &[
    "one", "two", "three", "four", "five", "six", "seven", "eight",
];

/// The length of a chunk.
pub const CHUNK_SIZE: u32 = 1024 * 1024;

/// How many of a client's doings are with files that change, beside a hundred of others.
const CHANGES: u64 = 80;

/// Bytes of a block.
const BLOCK: u64 = 64 * 1024;

/// The next thing to do; `number` makes contents differ.
pub fn next(random: &mut Random, facts: &Facts, number: u64) -> Op {
    if let Some(op) = accept_loss(random, facts) {
        return op;
    }
    match random.below(100 + CHANGES) {
        100.. => changes::next(random, facts, number),
        0..38 => put(random, number),
        38..62 => get(random, facts),
        62..68 => Op::MakeFolder {
            path: match random.percent(50) {
                true => folder(random),
                false => format!("{}/{}", folder(random), random.below(4)),
            },
            parents: random.percent(70),
        },
        68..78 => Op::Rename {
            source: any_path(random, facts),
            target: path(random),
        },
        78..91 => Op::Remove {
            path: any_path(random, facts),
            recursive: random.percent(30),
            purge: random.percent(50),
        },
        91..95 => restore(random, facts),
        95..97 => Op::Empty {
            entry: match random.percent(50) {
                true => 0,
                false => trash_entry(random, facts),
            },
        },
        _ => Op::List {
            path: match random.percent(30) {
                true => "/".to_owned(),
                false => folder(random),
            },
        },
    }
}

fn put(random: &mut Random, number: u64) -> Op {
    let len = match random.below(100) {
        0..6 => 0,
        6..60 => random.between(1, 6_000),
        60..80 => random.between(1, 3 * BLOCK),
        80..90 => BLOCK * random.between(1, 4),
        90..97 => random.between(BLOCK, 8 * BLOCK),
        // More than one chunk.
        _ => u64::from(CHUNK_SIZE) + random.between(1, 2 * BLOCK),
    };
    Op::Put {
        path: path(random),
        content: Content::new(number, usize::try_from(len).unwrap_or(0)),
        force: random.percent(60),
        purge: random.percent(50),
        replicas: match random.below(10) {
            0..2 => 2,
            _ => 0,
        },
    }
}

fn get(random: &mut Random, facts: &Facts) -> Op {
    let is_at_rest = |(path, _): &(&str, _)| !is_changing(path);
    let files: Vec<(&str, _)> = facts.names.files().filter(is_at_rest).collect();
    let (path, size) = match random.pick(&files) {
        Some((path, file)) if random.percent(95) => {
            let size = facts.contents.get(file).map_or(0, Content::len);
            ((*path).to_owned(), size)
        }
        _ => (path(random), 1000),
    };
    let range = random.percent(40).then(|| {
        let offset = random.below(size + 2);
        (offset, random.below(size + 2))
    });
    Op::Get { path, range }
}

fn restore(random: &mut Random, facts: &Facts) -> Op {
    Op::Restore {
        entry: trash_entry(random, facts),
        target: match random.percent(50) {
            true => String::new(),
            false => path(random),
        },
    }
}

/// A person goes on with what is left of a chunk of which all good copies are gone; now and then of
/// one that only seems to be so.
fn accept_loss(random: &mut Random, facts: &Facts) -> Option<Op> {
    let mut lost = facts.chunks_beyond_help();
    // Of what nobody has, the master refuses it for ever, and clients would wait for that.
    lost.retain(|(handle, _)| facts.has_copy(*handle));
    let (handle, file) = match random.below(100) {
        0..8 => *random.pick(&lost)?,
        8 => {
            let changing = facts.names.files().filter(|(path, _)| is_changing(path));
            let files: Vec<FileId> = changing.map(|(_, file)| file).collect();
            let file = *random.pick(&files)?;
            let handles: Vec<ChunkHandle> = facts.chunks_of(file).collect();
            (*random.pick(&handles)?, file)
        }
        _ => return None,
    };
    Some(Op::AcceptLoss { handle, file })
}

fn trash_entry(random: &mut Random, facts: &Facts) -> u64 {
    let entries: Vec<u64> = facts.names.trash().keys().copied().collect();
    random.pick(&entries).copied().unwrap_or(77_777)
}

fn folder(random: &mut Random) -> String {
    random.pick(FOLDERS).copied().unwrap_or("/a").to_owned()
}

fn path(random: &mut Random) -> String {
    let name = random.pick(NAMES).copied().unwrap_or("one");
    format!("{}/{name}", folder(random))
}

/// Mostly a path where something is.
fn any_path(random: &mut Random, facts: &Facts) -> String {
    let files = facts.names.files().map(|(path, _)| path);
    let files: Vec<&str> = files.filter(|path| !is_changing(path)).collect();
    let folders = facts.names.folders();
    let folders: Vec<&str> = folders.filter(|path| !is_changing(path)).collect();
    let picked = match random.below(10) {
        0..7 => random.pick(&files),
        7..9 => random.pick(&folders),
        _ => None,
    };
    picked.map_or_else(|| path(random), |path| (*path).to_owned())
}
