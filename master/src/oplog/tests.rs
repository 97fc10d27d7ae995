//! Tests of the log as a whole, on the disk in memory and on a real one.
//!
//! - [`crash`]: dies at every step of a workload, by kill and by power cut;
//! - [`damage`]: what a start refuses, and what it takes for a torn tail;
//! - [`group_commit`]: the writer's thread;
//! - [`vectors`]: the shared test vectors.

mod crash;
mod damage;
mod group_commit;
mod vectors;

use std::io::{Read, Write};
use std::sync::Arc;

use sarsen_protocol::id::{ClusterId, RequestId, SessionId};

use super::append::{Appender, LogOptions};
use super::checkpoint::{CheckpointHeader, CheckpointWriter};
use super::entry::{Chain, Entry, Position};
use super::error::{DamagedCheckpoint, OplogError};
use super::faulty::Disk;
use super::folder::Folder;
use super::recover::{Recovery, TornTail};

const CLUSTER: ClusterId = ClusterId(*b"the test cluster");

/// Small enough that a handful of entries fill a segment and batches cross steps and sectors.
const OPTIONS: LogOptions = LogOptions {
    segment_len: 4096 + 2048,
    grow_step: 1024,
};

/// The entry of this number, with a body of this length.
fn entry(number: u64, body_len: usize) -> Entry {
    let request = RequestId {
        session: SessionId(7),
        number,
        lowest_outstanding: number,
    };
    Entry {
        kind: 1 + u16::try_from(number % 9).unwrap(),
        term: 1 + number / 10,
        time_ms: 1_000_000 + number,
        request: (!number.is_multiple_of(3)).then_some(request),
        body: (0..body_len)
            .map(|n| (n as u64 + number).to_le_bytes()[0])
            .collect(),
    }
}

/// A started log and everything that it holds, as a plain list.
struct Started {
    entries: Vec<Entry>,
    appender: Appender,
    torn_tail: Option<TornTail>,
    damaged_checkpoints: Vec<DamagedCheckpoint>,
}

/// Starts from what is on the disk. The state is the plain list of all entries.
fn start(disk: &Disk) -> Result<Started, OplogError> {
    let mut recovery = Recovery::begin(Arc::new(disk.clone()), OPTIONS, CLUSTER)?;
    assert_eq!(recovery.cluster(), CLUSTER);
    let mut entries = match recovery.checkpoint()? {
        Some(mut reader) => decode_state(&mut reader),
        None => Vec::new(),
    };
    while let Some(found) = recovery.next_entry()? {
        entries.push(found.entry);
        assert_eq!(found.index, entries.len() as u64);
    }
    let damaged_checkpoints = recovery.damaged_checkpoints().to_vec();
    let recovered = recovery.finish()?;
    assert_eq!(recovered.appender.position().index, entries.len() as u64);
    let (appender, torn_tail) = (recovered.appender, recovered.torn_tail);
    Ok(Started {
        entries,
        appender,
        torn_tail,
        damaged_checkpoints,
    })
}

/// Makes the checkpoint of a state that holds `entries`.
fn write_checkpoint(
    disk: &Disk,
    position: Position,
    entries: &[Entry],
) -> Result<CheckpointHeader, OplogError> {
    let folder = Arc::new(disk.clone());
    let mut writer = CheckpointWriter::begin(folder, CLUSTER, position, 5_000_000)?;
    for entry in entries {
        let len = u32::try_from(entry.body.len()).unwrap();
        writer.write_all(&entry.time_ms.to_le_bytes()).unwrap();
        writer.write_all(&len.to_le_bytes()).unwrap();
    }
    writer.finish()
}

/// Reads what [`write_checkpoint`] wrote: the number and length that each entry is built from.
fn decode_state(reader: &mut impl Read) -> Vec<Entry> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    let entries = bytes.chunks_exact(12).map(|record| {
        let time_ms = u64::from_le_bytes(record[..8].try_into().unwrap());
        let body_len = u32::from_le_bytes(record[8..].try_into().unwrap());
        entry(time_ms - 1_000_000, body_len as usize)
    });
    entries.collect()
}

/// A checkpoint that met a full disk left its temporary file, which held the last room of that disk:
/// the next flush of the log failed, and the master ended.
#[test]
fn an_unfinished_checkpoint_gives_its_room_back() {
    let disk = Disk::default();
    let folder: Arc<dyn Folder> = Arc::new(disk.clone());
    let position = Position {
        index: 7,
        term: 1,
        chain: Chain::genesis(CLUSTER),
    };
    let begin = || CheckpointWriter::begin(folder.clone(), CLUSTER, position, 1).unwrap();
    let mut writer = begin();
    disk.fail_at(disk.steps() + 1, std::io::ErrorKind::StorageFull);
    assert!(writer.write_all(&[0; 3 << 20]).is_err());
    drop(writer);
    drop(begin());
    assert_eq!(folder.names().unwrap(), [] as [String; 0]);
}
