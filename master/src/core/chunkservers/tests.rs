use sarsen_protocol::id::{FileId, Serial};
use sarsen_protocol::message::{ChunkState, HeldChunk};

use super::*;
use crate::core::chunk_table::Sealed;

const SERVER: ServerId = ServerId(1);
const DIRECTORY: DirectoryId = DirectoryId([1; 16]);
const DEAD_AFTER: Duration = Duration::from_secs(10);

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn disk(id: DirectoryId) -> Disk {
    Disk {
        directory_id: id,
        path: "/d".to_owned(),
        total: 1000,
        free: 600,
        chunks: 0,
        state: DiskState::Ok,
    }
}

fn held(handle: u64) -> HeldChunk {
    HeldChunk {
        handle: ChunkHandle(handle),
        version: ChunkVersion(handle),
        serial: Serial(0),
        length: 1,
        crc32: 1,
        state: ChunkState::Sealed,
        flags: HeldFlags::NONE,
        file_id: FileId(9),
        index: 0,
    }
}

fn full(sequence: u64, first: bool, last: bool, handles: &[u64]) -> Inventory {
    Inventory {
        directory_id: DIRECTORY,
        sequence,
        full: true,
        first,
        last,
        held: handles.iter().map(|&handle| held(handle)).collect(),
        gone: Vec::new(),
    }
}

fn change(sequence: u64, handles: &[u64], gone: &[u64]) -> Inventory {
    Inventory {
        full: false,
        gone: gone.iter().map(|&handle| ChunkHandle(handle)).collect(),
        ..full(sequence, false, false, handles)
    }
}

fn registered() -> Chunkservers {
    let mut all = Chunkservers::default();
    assert_eq!(
        all.register(SERVER, ConnectionId(1), vec![disk(DIRECTORY)], seconds(0)),
        None
    );
    all
}

fn handles(all: &Chunkservers) -> Vec<u64> {
    all.replicas.keys().map(|handle| handle.0).collect()
}

#[test]
fn a_full_report_in_slices_replaces_what_was_held() {
    let mut all = registered();
    let done = Taken {
        resend: false,
        completed: true,
    };
    assert_eq!(
        all.take_inventory(SERVER, &full(1, true, true, &[1, 2, 3])),
        done
    );
    assert_eq!(
        all.take_inventory(SERVER, &full(2, true, false, &[2])),
        Taken::default()
    );
    assert_eq!(
        all.take_inventory(SERVER, &change(3, &[7], &[])),
        Taken::default()
    );
    assert_eq!(
        handles(&all),
        [1, 2, 3, 7],
        "nothing is forgotten before the end"
    );
    assert_eq!(
        all.take_inventory(SERVER, &full(4, false, true, &[3])),
        done
    );
    assert_eq!(handles(&all), [2, 3, 7]);
}

#[test]
fn changes_follow_without_gaps_or_all_is_sent_again() {
    let mut all = registered();
    let resend = Taken {
        resend: true,
        completed: false,
    };
    assert_eq!(
        all.take_inventory(SERVER, &change(1, &[1], &[])),
        resend,
        "no full report yet"
    );
    all.take_inventory(SERVER, &full(2, true, true, &[1]));
    assert_eq!(
        all.take_inventory(SERVER, &change(3, &[2], &[1])),
        Taken::default()
    );
    assert_eq!(handles(&all), [2]);
    assert_eq!(all.take_inventory(SERVER, &change(5, &[5], &[])), resend);
    assert_eq!(
        all.take_inventory(SERVER, &change(6, &[6], &[])),
        resend,
        "until a full report"
    );
    assert_eq!(
        all.take_inventory(SERVER, &full(7, false, true, &[7])),
        resend
    );
    assert_eq!(handles(&all), [2]);
    assert!(
        all.take_inventory(SERVER, &full(8, true, true, &[8]))
            .completed
    );
    assert_eq!(handles(&all), [8]);
}

#[test]
fn a_directory_that_is_no_longer_told_of_takes_its_chunks_along() {
    let mut all = registered();
    all.take_inventory(SERVER, &full(1, true, true, &[1]));
    let other = DirectoryId([2; 16]);
    let before = all.register(SERVER, ConnectionId(2), vec![disk(other)], seconds(1));
    assert_eq!(before, Some(ConnectionId(1)));
    assert!(handles(&all).is_empty());
    assert_eq!(
        all.server_of(ConnectionId(1)),
        None,
        "the old connection's word is void"
    );
    assert_eq!(all.disconnect(ConnectionId(1)), None);
    assert_eq!(all.disconnect(ConnectionId(2)), Some(SERVER));
}

#[test]
fn replicas_count_while_their_server_and_disk_are_heard_of() {
    let mut all = registered();
    all.take_inventory(SERVER, &full(1, true, true, &[1]));
    let count = |all: &Chunkservers, now| {
        all.live_replicas(ChunkHandle(1), seconds(now), DEAD_AFTER)
            .count()
    };
    assert_eq!((count(&all, 9), count(&all, 10)), (1, 0));
    let beat = |disk, beat_age| vec![DiskBeat { disk, beat_age }];
    all.beat(SERVER, beat(disk(DIRECTORY), 4000), seconds(20));
    assert_eq!(
        (count(&all, 25), count(&all, 26)),
        (1, 0),
        "the disk hangs, the server beats"
    );
    all.beat(SERVER, beat(disk(DIRECTORY), 0), seconds(30));
    assert_eq!(count(&all, 30), 1);
    let failed = Disk {
        state: DiskState::Failed,
        ..disk(DIRECTORY)
    };
    all.beat(SERVER, beat(failed, 0), seconds(31));
    assert_eq!(count(&all, 31), 0);
}

#[test]
fn an_acknowledged_replica_counts_until_the_server_has_had_time_to_tell() {
    let mut all = registered();
    let sealed = Sealed {
        version: ChunkVersion(1),
        len: 1,
        crc: 1,
    };
    let count = |all: &Chunkservers, now| {
        all.live_replicas(ChunkHandle(1), seconds(now), DEAD_AFTER)
            .count()
    };
    let acknowledged = Replica::acknowledged(SERVER, sealed, FileId(9), seconds(5));
    all.acknowledge(ChunkHandle(1), acknowledged);
    assert_eq!((count(&all, 4), count(&all, 5)), (1, 0));
    all.take_inventory(SERVER, &full(1, true, true, &[1]));
    assert_eq!(
        all.replicas(ChunkHandle(1)).len(),
        1,
        "one replica, told of twice"
    );
    all.acknowledge(ChunkHandle(1), acknowledged);
    all.expire_acknowledged(seconds(6));
    assert_eq!(count(&all, 6), 1);
    all.acknowledge(ChunkHandle(2), acknowledged);
    all.expire_acknowledged(seconds(6));
    assert_eq!(handles(&all), [1]);
}

/// The chunk's creation was told of before it was sealed, or on the way: the file can be read at
/// once all the same.
#[test]
fn a_report_from_before_the_seal_does_not_outweigh_the_client() {
    let mut all = registered();
    let sealed = Sealed {
        version: ChunkVersion(1),
        len: 1,
        crc: 1,
    };
    let pending = |sequence| {
        let mut inventory = full(sequence, true, true, &[1]);
        inventory.held[0].state = ChunkState::Pending;
        inventory
    };
    let states = |all: &Chunkservers| -> Vec<ChunkState> {
        all.replicas(ChunkHandle(1))
            .iter()
            .map(|replica| replica.state)
            .collect()
    };
    all.take_inventory(SERVER, &pending(1));
    all.acknowledge(
        ChunkHandle(1),
        Replica::acknowledged(SERVER, sealed, FileId(9), seconds(5)),
    );
    assert!(states(&all).contains(&ChunkState::Sealed));
    all.take_inventory(SERVER, &pending(2));
    assert!(states(&all).contains(&ChunkState::Sealed));
    all.take_inventory(SERVER, &full(3, true, true, &[1]));
    assert_eq!(
        states(&all),
        [ChunkState::Sealed],
        "told of by the server itself now"
    );
}

#[test]
fn full_and_silent_directories_take_no_chunks() {
    let mut all = registered();
    let filled = |all: &Chunkservers, room| all.filled(SERVER, room, seconds(1), DEAD_AFTER);
    assert_eq!(filled(&all, 600), Some(FULL * 2 / 5));
    assert_eq!(filled(&all, 601), None);
    let full_disk = Disk {
        state: DiskState::Full,
        ..disk(DIRECTORY)
    };
    all.beat(
        SERVER,
        vec![DiskBeat {
            disk: full_disk,
            beat_age: 0,
        }],
        seconds(1),
    );
    assert_eq!(filled(&all, 1), None);
}
