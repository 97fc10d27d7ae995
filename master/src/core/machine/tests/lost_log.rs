//! What proves that the end of the log was lost (`spec/oplog.md` section 7), and what does not.

use super::chunkservers::start;
use super::*;

/// Some chunk of another cluster of the same making.
fn a_chunk() -> Allocation {
    let mut rig = Rig::new();
    rig.servers(2);
    let file = rig.begin("/f", 2);
    rig.allocate(file, 1).remove(0)
}

#[test]
fn proof_of_a_lost_log_stops_all_changes() {
    let above = |change: fn(&mut Register)| {
        let mut rig = Rig::new();
        let mut register = register(1);
        change(&mut register);
        let connection = ConnectionId(1);
        rig.machine.handle_connected(connection, Role::Chunkserver);
        let (_, others) = rig.exchange(connection, register);
        let request = rig.make_folder("/a");
        assert_eq!(rig.status(request), Status::ReadOnly);
        assert_eq!(rig.status(stat("/")), Status::Ok);
        assert!(rig.get(Report).read_only);
        others
    };
    let server = ServerId::NONE;
    let epoch = Epoch {
        number: 2,
        incarnation: 1,
    };
    let alarms = above(|register| {
        register.epoch = Epoch {
            number: 2,
            incarnation: 1,
        }
    });
    assert_eq!(
        alarms,
        [Action::Alarm(Alarm::EpochAboveLog { server, epoch })]
    );
    let epoch = Epoch {
        number: 1,
        incarnation: 8,
    };
    let alarms = above(|register| {
        register.epoch = Epoch {
            number: 1,
            incarnation: 8,
        }
    });
    assert_eq!(
        alarms,
        [Action::Alarm(Alarm::EpochAboveLog { server, epoch })]
    );
    let alarms = above(|register| register.server_id = ServerId(9));
    assert_eq!(
        alarms,
        [Action::Alarm(Alarm::ServerAboveLog {
            server: ServerId(9)
        })]
    );
    let (handle, version) = (ChunkHandle(65_537), ChunkVersion::NONE);
    let alarms = above(|register| register.directories[0].highest_handle = ChunkHandle(65_537));
    assert_eq!(
        alarms,
        [Action::Alarm(Alarm::ChunkAboveLog {
            server,
            handle,
            version
        })]
    );
}

#[test]
fn a_reported_chunk_that_was_never_given_out_is_never_deleted() {
    let mut rig = Rig::with(Config {
        orphan_grace: Duration::ZERO,
        ..config()
    });
    rig.servers(1);
    let allocation = Allocation {
        index: 0,
        handle: ChunkHandle(70_000),
        version: ChunkVersion(1),
        ..a_chunk()
    };
    let alarms = rig.hold(1, 2, &[held(FileId(50), &allocation)]);
    let (handle, version) = (ChunkHandle(70_000), ChunkVersion(1));
    let alarm = Alarm::ChunkAboveLog {
        server: ServerId(1),
        handle,
        version,
    };
    assert_eq!(alarms, [Action::Alarm(alarm)]);
    assert_eq!(rig.wait(seconds(3600)), []);
}

/// `spec/oplog.md` section 7. A master whose log was put back from an older copy reserved, at its
/// start, the very range that the lost entries had reserved, and took what was reported from it for
/// its own: no alarm, and it gave the same handles and versions out again. Every further start hid
/// 65,536 more.
#[test]
fn a_handle_that_no_one_gave_out_yet_proves_a_lost_log() {
    let mut rig = Rig::new();
    rig.servers(2);
    rig.upload("/f", 2);
    let copy = rig.log.clone();
    let end = rig.machine.state.handles_end.0;
    let lost = Allocation {
        handle: ChunkHandle(end + 4),
        version: ChunkVersion(end + 4),
        ..a_chunk()
    };
    let lost = held(FileId(2), &lost);
    let alarm = Alarm::ChunkAboveLog {
        server: ServerId(1),
        handle: lost.handle,
        version: lost.version,
    };
    // However often it starts.
    let once = Rig::on_log(config(), copy).restarted(config());
    let mut rig = once.restarted(config()).restarted(config());
    rig.registered(1);
    assert_eq!(rig.hold(1, 1, &[lost]), [Action::Alarm(alarm)]);
}

/// `spec/messages.md` section 9. The lost end of a log was within a range that the rest of it had
/// reserved: chunks of files that it did not know any more were orphans, and deleted after
/// `orphan_grace`. File ids are logged one by one.
#[test]
fn a_chunk_of_a_file_above_the_log_proves_a_lost_log() {
    let mut rig = Rig::new();
    rig.servers(2);
    rig.upload("/known", 2);
    let copy = rig.log.clone();
    let (file, chunk) = rig.upload("/lost", 2);
    let mut rig = Rig::on_log(config(), copy);
    rig.machine.handle_connected(CLIENT, Role::Client);
    rig.settle();
    rig.registered(1);
    let alarm = Alarm::FileAboveLog {
        server: ServerId(1),
        handle: chunk.handle,
        file,
    };
    assert_eq!(rig.hold(1, 1, &[chunk]), [Action::Alarm(alarm)]);
    assert_eq!(rig.wait(seconds(2 * 3600)), [], "nothing is deleted");
}

/// The same, but new files have drawn the ids of the lost ones before their chunks are reported.
#[test]
fn a_file_id_that_was_drawn_again_hides_no_lost_log() {
    let mut rig = Rig::new();
    rig.servers(2);
    let copy = rig.log.clone();
    let (file, chunk) = rig.upload("/lost", 2);
    let (_, other) = rig.upload("/other", 2);
    let known = rig.log.len() - 1;
    // The log ends with the range that both were given from.
    let cut = rig.log[..known]
        .iter()
        .position(|entry| matches!(entry.command, Command::RangesReserved(_)));
    let log = rig.log[..=cut.unwrap()].to_vec();
    assert!(log.len() > copy.len());
    let mut rig = Rig::on_log(
        Config {
            safe_mode_max: Duration::ZERO,
            ..config()
        },
        log,
    );
    rig.settle();
    rig.open_session();
    rig.servers(2);
    for path in ["/1", "/2"] {
        rig.upload(path, 2);
    }
    assert!(rig.machine.state.namespace.next_file() > file);
    rig.hold(1, 2, &[chunk, other]);
    assert!(rig.machine.is_read_only());
}

/// An older copy of the log, started twice: the second time the epoch that the server obeyed was
/// below the master's own.
#[test]
fn an_epoch_of_another_incarnation_proves_a_lost_log_one_start_later() {
    let rig = Rig::new().restarted(config());
    let mut rig = rig.restarted(config());
    let mut register = register(1);
    register.epoch = Epoch {
        number: 2,
        incarnation: 8,
    };
    rig.machine
        .handle_connected(ConnectionId(1), Role::Chunkserver);
    let (reply, alarms) = rig.exchange(ConnectionId(1), register.clone());
    assert_eq!(reply.unwrap_err().status, Status::StaleEpoch);
    let alarm = Alarm::EpochAboveLog {
        server: ServerId::NONE,
        epoch: register.epoch,
    };
    assert_eq!(alarms, [Action::Alarm(alarm)]);
}

/// A file whose header is blank is no proof of anything, but its name alone, `ffffffffffffffff`,
/// made the whole cluster read-only.
#[test]
fn a_damaged_files_name_is_no_proof_of_a_lost_log() {
    let mut rig = Rig::new();
    rig.servers(2);
    let stray = HeldChunk {
        handle: ChunkHandle(u64::MAX),
        version: ChunkVersion::NONE,
        serial: Serial::NONE,
        length: 0,
        crc32: 0,
        state: ChunkState::Pending,
        flags: HeldFlags::CORRUPT,
        file_id: FileId::NONE,
        index: 0,
    };
    assert_eq!(rig.hold(1, 2, &[stray]), []);
    assert!(!rig.machine.is_read_only());
}

/// A master on an older copy of its log took servers that had started since for its own.
#[test]
fn a_start_that_was_registered_after_the_log_ends_proves_a_lost_log() {
    let mut rig = Rig::new();
    rig.servers(1);
    rig.hang_up(1);
    let mut register = start(3, 78, &[]);
    register.directories[0].registered_number = StartNumber(2);
    register.directories[0].registered_nonce = StartNonce(77);
    let connection = ConnectionId(2);
    rig.machine.handle_connected(connection, Role::Chunkserver);
    let (reply, alarms) = rig.exchange(connection, register);
    assert_eq!(reply.unwrap_err().status, Status::StaleEpoch);
    let alarm = Alarm::StartAboveLog {
        server: ServerId(1),
        directory: DirectoryId([1; 16]),
        start_number: StartNumber(2),
    };
    assert_eq!(alarms, [Action::Alarm(alarm)]);
}
