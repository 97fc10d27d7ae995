//! Registration, reports, liveness, and what `fsck` and `report` make of them.

use sarsen_protocol::message::{Finding, ServerState};

use super::*;

fn kinds(log: &[Entry]) -> Vec<&'static str> {
    log.iter().map(|entry| entry.command.name()).collect()
}

fn verdicts(reply: Result<AnyMessage, Failure>) -> Vec<u16> {
    let Ok(AnyMessage::Registered(reply)) = reply else {
        panic!("{reply:?}")
    };
    reply
        .directories
        .iter()
        .map(|verdict| verdict.status)
        .collect()
}

#[test]
fn a_new_server_and_its_directories_are_logged_before_it_counts() {
    let mut rig = Rig::new();
    let connection = ConnectionId(1);
    rig.machine.handle_connected(connection, Role::Chunkserver);
    let to = rig.send(connection, register(1));
    assert_eq!(kinds(&rig.log[3..]), [] as [&str; 0]);
    rig.actions();
    assert_eq!(kinds(&rig.log[3..]), ["server_registered"]);
    rig.machine.handle_flushed(4, rig.now);
    rig.actions();
    assert_eq!(kinds(&rig.log[4..]), ["directory_started"]);
    rig.machine.handle_flushed(5, rig.now);
    let reply = Registered {
        server_id: ServerId(1),
        epoch: Epoch {
            number: 1,
            incarnation: 7,
        },
        chunk_size: MIB,
        heartbeat: 1000,
        suspect_after: 3000,
        dead_after: 10_000,
        lease: 60_000,
        ticket_keys: vec![TicketKey {
            key_id: 5,
            key: [6; 32],
        }],
        directories: vec![Verdict {
            directory_id: DirectoryId([1; 16]),
            status: 0,
        }],
        repair_streams: 4,
    };
    assert_eq!(
        rig.actions(),
        [Action::Reply {
            to,
            reply: Ok(reply.into())
        }]
    );
}

#[test]
fn a_reconnect_logs_nothing_and_takes_over() {
    let mut rig = Rig::new();
    rig.server(1);
    let entries = rig.log.len();
    let second = ConnectionId(50);
    rig.machine.handle_connected(second, Role::Chunkserver);
    let (reply, others) = rig.exchange(
        second,
        Register {
            server_id: ServerId(1),
            ..register(1)
        },
    );
    assert_eq!(verdicts(reply), [0]);
    assert_eq!(rig.log.len(), entries);
    assert!(
        matches!(&others[..], [Action::Close { connection, .. }] if *connection == ConnectionId(1))
    );
    let (late, _) = rig.exchange(ConnectionId(1), heartbeat(1));
    assert_eq!(
        late.unwrap_err().status,
        Status::StaleEpoch,
        "the old one's word is void"
    );
    let (again, _) = rig.exchange(second, register(1));
    assert_eq!(again.unwrap_err().status, Status::InvalidArgument);
}

/// The answer to a first registration is lost with the connection; the server asks without an id.
#[test]
fn a_server_whose_first_answer_was_lost_gets_the_same_id() {
    let mut rig = Rig::new();
    rig.server(1);
    rig.machine.handle_disconnected(ConnectionId(1), rig.now);
    assert_eq!(rig.registered(1), ConnectionId(1));
    assert_eq!(rig.machine.state().servers.servers.len(), 1);
}

#[test]
fn a_copied_directory_changes_nothing() {
    let mut rig = Rig::new();
    rig.server(1);
    let mut copy = Register {
        server_id: ServerId(1),
        ..register(1)
    };
    copy.control_addr = "127.0.0.1:9".to_owned();
    copy.directories[0].start_nonce = StartNonce(99);
    let second = ConnectionId(50);
    rig.machine.handle_connected(second, Role::Chunkserver);
    let entries = rig.log.len();
    let (reply, others) = rig.exchange(second, copy);
    assert_eq!(verdicts(reply), [Status::StaleStart.number()]);
    assert_eq!((others, rig.log.len()), (vec![], entries));
    rig.beat(1);
    let (refused, _) = rig.exchange(second, heartbeat(1));
    assert_eq!(refused.unwrap_err().status, Status::StaleEpoch);
}

#[test]
fn one_stale_directory_does_not_spoil_the_others() {
    let mut rig = Rig::new();
    rig.server(1);
    let mut both = Register {
        server_id: ServerId(1),
        ..register(1)
    };
    both.directories[0].start_nonce = StartNonce(99);
    both.directories.push(register(2).directories.remove(0));
    let second = ConnectionId(50);
    rig.machine.handle_connected(second, Role::Chunkserver);
    let (reply, _) = rig.exchange(second, both);
    assert_eq!(verdicts(reply), [Status::StaleStart.number(), 0]);
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

/// The registration of server 1 at a start of its directory that knows of the starts `offered`.
fn start(number: u64, nonce: u64, offered: &[u64]) -> Register {
    let mut register = register(1);
    register.server_id = ServerId(1);
    let report = &mut register.directories[0];
    (report.start_number, report.start_nonce) = (StartNumber(number), StartNonce(nonce));
    report.offered = offered.iter().copied().map(StartNonce).collect();
    report.offered.push(StartNonce(nonce));
    register
}

impl Rig {
    /// Registers over a connection: the verdict on the directory, or why there is none.
    fn verdict(&mut self, connection: u64, register: Register) -> Status {
        let connection = ConnectionId(connection);
        self.machine.handle_connected(connection, Role::Chunkserver);
        match self.exchange(connection, register).0 {
            Ok(AnyMessage::Registered(reply)) => Status::from_number(reply.directories[0].status),
            Ok(other) => panic!("{other:?}"),
            Err(failure) => failure.status,
        }
    }

    fn hang_up(&mut self, connection: u64) {
        self.machine
            .handle_disconnected(ConnectionId(connection), self.now);
    }
}

/// `spec/messages.md` section 9. A copy of a directory was found out at its first start. The second
/// had a higher number than the log and was admitted, and the original was the stale one then.
#[test]
fn a_copy_is_found_out_however_often_it_starts() {
    let mut rig = Rig::new();
    rig.servers(1);
    rig.hang_up(1);
    for number in 1..9 {
        // Copied before the start that the log has; it remembers its own starts only.
        let offered = Vec::from_iter((1..number).map(|number| 100 + number));
        let copy = start(number, 100 + number, &offered);
        assert_eq!(rig.verdict(50, copy), Status::StaleStart, "start {number}");
        rig.hang_up(50);
    }
    assert_eq!(rig.verdict(51, start(1, 1, &[])), Status::Ok);
}

/// A start whose registration was logged without an answer is not a stranger's.
#[test]
fn a_start_knows_the_one_before_by_its_registration_or_by_its_offer() {
    let mut rig = Rig::new();
    rig.servers(1);
    rig.hang_up(1);
    assert_eq!(rig.verdict(2, start(2, 77, &[1])), Status::Ok);
    rig.hang_up(2);
    let mut next = start(3, 78, &[]);
    next.directories[0].registered_number = StartNumber(2);
    next.directories[0].registered_nonce = StartNonce(77);
    assert_eq!(rig.verdict(3, next), Status::Ok);
}

/// A copy made while the original runs knows all that the original knows. It was let in, and the
/// original was turned away for good.
#[test]
fn a_copy_waits_while_the_original_lives() {
    let mut rig = Rig::new();
    rig.servers(1);
    let copy = start(2, 77, &[1]);
    assert_eq!(rig.verdict(50, copy.clone()), Status::Overloaded);
    rig.beat(1);
    assert_eq!(rig.verdict(50, copy.clone()), Status::Overloaded);
    // The server's machine is gone without a word, and this is its next start.
    rig.now.elapsed += config().dead_after;
    assert_eq!(rig.verdict(50, copy), Status::Ok);
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

/// A connection was lost while the entry of its new server was on its way to the disk. The next one
/// got a second id, and its directories could be logged under the first.
#[test]
fn a_registration_waits_for_the_one_before_it() {
    let mut rig = Rig::new();
    for connection in [1, 2] {
        rig.machine
            .handle_connected(ConnectionId(connection), Role::Chunkserver);
    }
    rig.send(ConnectionId(1), register(1));
    rig.hang_up(1);
    assert_eq!(rig.verdict(2, register(1)), Status::Overloaded);
    assert_eq!(rig.verdict(2, register(1)), Status::Ok);
    assert_eq!(rig.get(Report).servers.len(), 1);
}

/// Some chunk of another cluster of the same making.
fn a_chunk() -> Allocation {
    let mut rig = Rig::new();
    rig.servers(2);
    let file = rig.begin("/f", 2);
    rig.allocate(file, 1).remove(0)
}

#[test]
fn a_silent_server_is_dead_and_its_replicas_are_missed() {
    let mut rig = Rig::new();
    rig.servers(2);
    let (_, chunk) = rig.upload("/f", 2);
    rig.hold(1, 2, &[chunk]);
    rig.hold(2, 2, &[chunk]);
    assert_eq!(rig.get(fsck()).findings, []);
    rig.wait(seconds(9));
    rig.beat(1);
    rig.wait(seconds(1));
    let report = rig.get(Report);
    let states: Vec<_> = report
        .servers
        .iter()
        .map(|one| (one.state, one.last_heartbeat))
        .collect();
    assert_eq!(
        states,
        [(ServerState::Live, 1000), (ServerState::Dead, 10_000)]
    );
    let finding = FsckFinding {
        finding: Finding::UnderReplicated,
        handle: chunk.handle,
        path: "/f".to_owned(),
        want: 2,
        have: 1,
        server: ServerId::NONE,
    };
    assert_eq!(rig.get(fsck()).findings, std::slice::from_ref(&finding));
    rig.wait(seconds(9));
    let missing = FsckFinding {
        finding: Finding::Missing,
        have: 0,
        ..finding
    };
    assert_eq!(rig.get(fsck()).findings, [missing]);
    rig.beat(1);
    rig.beat(2);
    assert_eq!(rig.get(fsck()).findings, [], "heard again, all is well");
}

#[test]
fn corrupt_and_stale_replicas_are_listed_and_not_given_out() {
    let mut rig = Rig::new();
    rig.servers(3);
    let (_, chunk) = rig.upload("/f", 3);
    let old = HeldChunk {
        state: ChunkState::Pending,
        ..chunk
    };
    rig.hold(1, 2, &[chunk]);
    rig.hold(2, 2, &[old]);
    rig.hold(3, 2, &[chunk]);
    rig.wait(seconds(9));
    (1..=3).for_each(|n| rig.beat(n));
    rig.wait(seconds(1));
    let mut beat = heartbeat(3);
    beat.corrupt = vec![CorruptChunk {
        handle: chunk.handle,
        version: chunk.version,
        directory_id: DirectoryId([3; 16]),
    }];
    let (reply, _) = rig.exchange(ConnectionId(3), beat);
    assert!(reply.is_ok());
    let findings: Vec<(Finding, u8, u64)> = rig
        .get(fsck())
        .findings
        .iter()
        .map(|one| (one.finding, one.have, one.server.0))
        .collect();
    let expected = [
        (Finding::UnderReplicated, 1, 0),
        (Finding::Stale, 1, 2),
        (Finding::Corrupt, 1, 3),
    ];
    assert_eq!(findings, expected);
    let replicas = rig.get(locate("/f")).chunks.remove(0).replicas;
    assert_eq!(
        replicas.iter().map(|one| one.server.0).collect::<Vec<_>>(),
        [1]
    );
}

#[test]
fn a_readers_complaint_makes_the_server_look_for_itself() {
    let mut rig = Rig::new();
    rig.servers(2);
    let (_, chunk) = rig.upload("/f", 2);
    rig.hold(1, 2, &[chunk]);
    rig.hold(2, 2, &[chunk]);
    let (handle, version) = (chunk.handle, chunk.version);
    let complaint = |fault| ReportReplica {
        handle,
        version,
        server: ServerId(1),
        fault,
    };
    assert_eq!(
        rig.ask(complaint(ReplicaFault::Unreachable)),
        Ok(ReplicaReported.into())
    );
    let (_, orders) = rig.exchange(CLIENT, complaint(ReplicaFault::CrcMismatch));
    let epoch = Epoch {
        number: 1,
        incarnation: 7,
    };
    let order = Action::Order {
        connection: ConnectionId(1),
        order: crate::core::event::OrderId(1),
        message: VerifyChunk {
            epoch,
            handle,
            version,
        }
        .into(),
    };
    assert_eq!(orders, [order]);
    assert_eq!(
        rig.ask(complaint(ReplicaFault::CrcMismatch)),
        Ok(ReplicaReported.into())
    );
    assert_eq!(
        rig.get(fsck()).findings,
        [],
        "nothing is dropped on a client's word"
    );

    let answer = |rig: &mut Rig, connection, good| {
        let verified = ChunkVerified {
            good,
            length: 10,
            crc32: chunk.crc32,
        };
        let order = crate::core::event::OrderId(1);
        rig.machine
            .handle_order_reply(connection, order, Ok(verified.into()), rig.now);
    };
    answer(&mut rig, ConnectionId(2), false);
    assert_eq!(rig.get(fsck()).findings, [], "not that server's order");
    answer(&mut rig, ConnectionId(1), false);
    let copies = rig.settle();
    assert!(
        matches!(
            &copies[..],
            [Action::Order {
                connection: ConnectionId(1),
                message: AnyMessage::CopyChunk(_),
                ..
            }]
        ),
        "{copies:?}"
    );
    let findings = rig.get(fsck()).findings;
    assert!(
        findings
            .iter()
            .any(|one| one.finding == Finding::Corrupt && one.server.0 == 1)
    );
}

#[test]
fn findings_come_in_pages_of_whole_chunks() {
    let mut rig = Rig::new();
    rig.servers(2);
    for name in ["/a", "/b", "/c"] {
        rig.upload(name, 2);
    }
    rig.wait(seconds(20));
    let page = |rig: &mut Rig, after, limit| {
        let reply = rig.get(Fsck {
            after,
            limit,
            ..fsck()
        });
        assert_eq!((reply.files, reply.chunks), (3, 3));
        let handles: Vec<u64> = reply.findings.iter().map(|one| one.handle.0).collect();
        (handles, reply.next, reply.more)
    };
    assert_eq!(
        page(&mut rig, ChunkHandle(0), 2),
        (vec![1, 2], ChunkHandle(2), true)
    );
    assert_eq!(
        page(&mut rig, ChunkHandle(2), 2),
        (vec![3], ChunkHandle(3), false)
    );
    let one = rig.get(Fsck {
        path: "/b".to_owned(),
        ..fsck()
    });
    assert_eq!((one.files, one.chunks, one.findings.len()), (1, 1, 1));
}

#[test]
fn capacity_tells_files_and_trash_apart() {
    let mut rig = Rig::new();
    rig.servers(2);
    rig.upload("/a", 2);
    rig.upload("/b", 2);
    let request = rig.remove("/b", false);
    assert_eq!(
        rig.get(request),
        Removed {
            files: 1,
            bytes: 10
        }
    );
    let mib = u64::from(MIB);
    let expected = CapacityReply {
        total: 2000 * mib,
        free: 1800 * mib,
        used: 20,
        trash: 20,
    };
    assert_eq!(rig.get(Capacity), expected);
    let usage = rig.get(Usage {
        path: "/".to_owned(),
    });
    assert_eq!(
        usage,
        UsageReply {
            files: 1,
            folders: 1,
            bytes: 10,
            stored: 20
        }
    );
}

/// A start without a number, or of a directory without an id, can't be read back from the log:
/// one such entry, and the master never started again.
#[test]
fn a_directory_without_id_or_start_is_refused() {
    let mut rig = Rig::new();
    let spoil: [fn(&mut DirectoryReport); 2] = [
        |report| report.start_number = StartNumber(0),
        |report| {
            report.directory_id = DirectoryId::NONE;
            report.disk.directory_id = DirectoryId::NONE;
        },
    ];
    for (connection, spoil) in (50..).map(ConnectionId).zip(spoil) {
        rig.machine.handle_connected(connection, Role::Chunkserver);
        let mut request = register(1);
        spoil(&mut request.directories[0]);
        let (reply, _) = rig.exchange(connection, request);
        assert_eq!(reply.unwrap_err().status, Status::InvalidArgument);
    }
    assert!(!kinds(&rig.log).contains(&"server_registered"));
}

/// Long paths: a page of as many rows as were asked for would not fit a frame.
#[test]
fn findings_end_a_page_before_it_is_too_long() {
    let mut rig = Rig::new();
    rig.servers(2);
    let path = long_path();
    let file = rig.begin_below(&path, 2);
    let chunks: Vec<Allocation> = (0..10).flat_map(|_| rig.allocate(file, 256)).collect();
    let mut request = publish(
        rig.request(),
        file,
        &path,
        &chunks.iter().collect::<Vec<_>>(),
    );
    (0..)
        .zip(&mut request.chunks)
        .for_each(|(at, chunk)| chunk.index = at);
    request.parents = true;
    rig.get(request);
    rig.wait(seconds(20));
    let (mut after, mut pages) = (ChunkHandle::NONE, Vec::new());
    loop {
        let page = rig.get(Fsck {
            after,
            limit: 10_000,
            ..fsck()
        });
        assert!(page.to_body().len() < 9 * MIB as usize);
        pages.push(page.findings.len());
        after = page.next;
        if !page.more {
            break;
        }
    }
    assert_eq!((pages.len(), pages.iter().sum()), (2, 2560));
}
