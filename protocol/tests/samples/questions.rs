//! What clients ask the master (`spec/messages.md` sections 7 and 8).

use sarsen_protocol::id::{ChunkHandle, FileId, ServerId};
use sarsen_protocol::message::{
    Capacity, CapacityReply, ChunkState, Finding, Fsck, FsckFinding, FsckReply, List, ListEntry,
    ListReply, ListTrash, Locate, LocateReply, LocatedChunk, Repairs, Replica, ReplicaFault,
    ReplicaReported, Report, ReportReplica, ReportReply, ServerReport, ServerState, Stat,
    StatReply, TrashEntry, TrashListed, Usage, UsageReply,
};

use super::{
    CHUNK_SIZE, CONTROL_ADDR, CRC, DATA_ADDR, EPOCH, FILE, FILE_ID, HANDLE, HTTP_ADDR, INDEX,
    LENGTH, OTHER_DATA_ADDR, ROOT, SERVER, Samples, VERSION, disk, other_disk, put, read_ticket,
};

pub(super) fn add(samples: &mut Samples) {
    stat_and_list(samples);
    locate(samples);
    sums(samples);
    fsck(samples);
    report(samples);
}

fn stat_and_list(samples: &mut Samples) {
    let stat = |path: &str| Stat { path: path.into() };
    put(samples, "Stat", stat("/"));
    put(
        samples,
        "Stat: a path that is ill-formed is no matter of form",
        stat("../not a path"),
    );
    put(samples, "StatReply", StatReply { node: FILE });
    put(samples, "StatReply: the root", StatReply { node: ROOT });
    let list = |after: &str, limit| List {
        path: "/a".into(),
        after: after.into(),
        limit,
    };
    put(samples, "List", list("m", 10_000));
    put(samples, "List: the first page, of one", list("", 1));
    put(
        samples,
        "ListReply",
        ListReply {
            entries: vec![
                ListEntry {
                    name: "b".into(),
                    node: FILE,
                },
                ListEntry {
                    name: "ü".into(),
                    node: ROOT,
                },
            ],
            more: true,
        },
    );
    put(
        samples,
        "ListReply: nothing",
        ListReply {
            entries: vec![],
            more: false,
        },
    );
}

fn locate(samples: &mut Samples) {
    put(
        samples,
        "Locate",
        Locate {
            path: "/a/b".into(),
            file_id: FileId::NONE,
            first_index: INDEX,
            count: 4096,
        },
    );
    put(
        samples,
        "Locate: by id",
        Locate {
            path: String::new(),
            file_id: FILE_ID,
            first_index: 0,
            count: 1,
        },
    );
    let open = LocatedChunk {
        index: INDEX,
        handle: HANDLE,
        version: VERSION,
        length: LENGTH,
        crc32: CRC,
        state: ChunkState::Open,
        primary: SERVER,
        ticket: read_ticket(),
        replicas: vec![
            Replica {
                server: SERVER,
                control_addr: CONTROL_ADDR.into(),
                data_addr: DATA_ADDR.into(),
            },
            Replica {
                server: ServerId(0x62),
                control_addr: "[fd00::2]:7002".into(),
                data_addr: OTHER_DATA_ADDR.into(),
            },
        ],
    };
    let sealed = LocatedChunk {
        index: INDEX + 1,
        state: ChunkState::Sealed,
        primary: ServerId::NONE,
        replicas: vec![],
        ..open.clone()
    };
    let reply = |slots, chunks| LocateReply {
        node: FILE,
        chunk_size: CHUNK_SIZE,
        slots,
        suspect_after: 60_003,
        lease: 60_004,
        chunks,
    };
    put(
        samples,
        "LocateReply",
        reply(0x0203_0405, vec![open, sealed]),
    );
    put(samples, "LocateReply: holes only", reply(0, vec![]));
}

fn sums(samples: &mut Samples) {
    put(samples, "Usage", Usage { path: "/a".into() });
    put(
        samples,
        "UsageReply",
        UsageReply {
            files: 0x101,
            folders: 0x202,
            bytes: 0x303,
            stored: 0x404,
        },
    );
    put(samples, "Capacity", Capacity);
    put(
        samples,
        "CapacityReply",
        CapacityReply {
            total: 0x101,
            free: 0x202,
            used: 0x303,
            trash: 0x404,
        },
    );
    put(
        samples,
        "ListTrash",
        ListTrash {
            after: 0x303,
            limit: 10_000,
        },
    );
    put(
        samples,
        "TrashListed",
        TrashListed {
            entries: vec![TrashEntry {
                entry: 0x304,
                path: "/gone".into(),
                deleted: 0x019a_3132_3334,
                node: FILE,
            }],
            more: true,
        },
    );
}

fn fsck(samples: &mut Samples) {
    put(
        samples,
        "Fsck",
        Fsck {
            path: "/".into(),
            after: HANDLE,
            limit: 9999,
        },
    );
    let finding = |have: u8, finding, server| FsckFinding {
        finding,
        handle: ChunkHandle(0x100 + u64::from(have)),
        path: format!("/f{have}"),
        want: 3,
        have,
        server,
    };
    let reply = |findings, next, more| FsckReply {
        files: 0x101,
        chunks: 0x202,
        findings,
        next: ChunkHandle(next),
        more,
    };
    let findings = vec![
        finding(0, Finding::Missing, ServerId::NONE),
        finding(1, Finding::UnderReplicated, ServerId::NONE),
        finding(2, Finding::Stale, SERVER),
        finding(3, Finding::Corrupt, SERVER),
        finding(4, Finding::Unavailable, ServerId::NONE),
        finding(5, Finding::PossibleLoss, ServerId::NONE),
    ];
    put(samples, "FsckReply", reply(findings, 0x105, true));
    put(samples, "FsckReply: healthy", reply(vec![], 0, false));
}

fn report(samples: &mut Samples) {
    put(samples, "Report", Report);
    let draining = ServerReport {
        id: SERVER,
        control_addr: CONTROL_ADDR.into(),
        data_addr: DATA_ADDR.into(),
        http_addr: HTTP_ADDR.into(),
        rack: "r 1".into(),
        state: ServerState::Draining,
        last_heartbeat: 0x0102_0304,
        disks: vec![disk(), other_disk()],
    };
    let dead = ServerReport {
        id: ServerId(0x62),
        rack: String::new(),
        state: ServerState::Dead,
        last_heartbeat: u32::MAX,
        disks: vec![],
        ..draining.clone()
    };
    let reply = |safe_mode, read_only, servers| ReportReply {
        epoch: EPOCH,
        safe_mode,
        read_only,
        servers,
        repairs: Repairs {
            waiting: 0x11,
            running: 0x0102_0304,
            done: 0x12,
            failed: 0x13,
        },
    };
    put(
        samples,
        "ReportReply",
        reply(true, false, vec![draining, dead]),
    );
    put(
        samples,
        "ReportReply: no servers",
        reply(false, true, vec![]),
    );
    put(
        samples,
        "ReportReplica",
        ReportReplica {
            handle: HANDLE,
            version: VERSION,
            server: SERVER,
            fault: ReplicaFault::WrongVersion,
        },
    );
    put(samples, "ReplicaReported", ReplicaReported);
}
