//! What `fsck`, `report` and `df` tell of servers that are silent and of replicas that are short, stale
//! or corrupt.

use sarsen_protocol::message::{Finding, ServerState};

use super::*;

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

/// Each page counted all files anew: a check of many findings looked at every name as often as it had
/// pages.
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
        let looked_at = if after == ChunkHandle::NONE { 3 } else { 0 };
        assert_eq!((reply.files, reply.chunks), (looked_at, looked_at));
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
    let behind = rig.get(Fsck {
        path: "/b".to_owned(),
        after: ChunkHandle(2),
        ..fsck()
    });
    let told = (behind.files, behind.chunks, behind.findings.len());
    assert_eq!(told, (0, 0, 0));
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
