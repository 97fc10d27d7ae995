//! Opening and changing chunks (`spec/messages.md` sections 14.1 and 14.2).

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Serial, ServerId};
use sarsen_protocol::message::{
    AcceptLoss, ChainReported, ChainTrouble, ChunkOpened, ExtendLeases, ExtendedLease, FileSealed,
    HeldLease, LeasesExtended, LossAccepted, OpenChunk, ReportChain, SealFile, Slot, Truncate,
    Truncated,
};

use super::{
    EPOCH, FILE, FILE_ID, HANDLE, INDEX, LENGTH, REQUEST, SERIAL, SERVER, SESSION, Samples,
    VERSION, chain, put, write_ticket,
};

pub(super) fn add(samples: &mut Samples) {
    open_chunk(samples);
    changes(samples);
    leases(samples);
    report_chain(samples);
}

fn open_chunk(samples: &mut Samples) {
    put(
        samples,
        "OpenChunk",
        OpenChunk {
            session: SESSION,
            file_id: FILE_ID,
            slot: Slot::At(INDEX),
            failed: VERSION,
            memory: true,
            lock_token: 0x99,
        },
    );
    put(
        samples,
        "OpenChunk: the last one, after one that was full",
        OpenChunk {
            session: SESSION,
            file_id: FILE_ID,
            slot: Slot::Last { after: HANDLE },
            failed: ChunkVersion::NONE,
            memory: false,
            lock_token: 0,
        },
    );
    put(
        samples,
        "ChunkOpened",
        ChunkOpened {
            index: INDEX,
            handle: HANDLE,
            version: VERSION,
            begin_serial: Serial(0xab0),
            memory: true,
            sealed_version: ChunkVersion(0x2122_2324_2526_2720),
            ticket: write_ticket(),
            chain: chain(),
            lease: 60_004,
        },
    );
}

fn changes(samples: &mut Samples) {
    put(
        samples,
        "Truncate",
        Truncate {
            request: REQUEST,
            path: "/größe/a".into(),
            size: 0x9192_9394_9596_9798,
        },
    );
    put(samples, "Truncated", Truncated { node: FILE });
    put(
        samples,
        "SealFile",
        SealFile {
            path: "/größe".into(),
        },
    );
    put(samples, "FileSealed", FileSealed { node: FILE });
    put(
        samples,
        "AcceptLoss",
        AcceptLoss {
            request: REQUEST,
            handle: HANDLE,
        },
    );
    put(
        samples,
        "LossAccepted",
        LossAccepted {
            version: VERSION,
            length: LENGTH,
            server: SERVER,
        },
    );
}

fn leases(samples: &mut Samples) {
    put(
        samples,
        "ExtendLeases",
        ExtendLeases {
            epoch: EPOCH,
            leases: vec![
                HeldLease {
                    handle: HANDLE,
                    version: VERSION,
                    length: LENGTH,
                    serial: SERIAL,
                },
                HeldLease {
                    handle: ChunkHandle(0x12),
                    version: ChunkVersion(0x13),
                    length: 0,
                    serial: Serial::NONE,
                },
            ],
        },
    );
    put(
        samples,
        "ExtendLeases: none",
        ExtendLeases {
            epoch: EPOCH,
            leases: vec![],
        },
    );
    put(
        samples,
        "LeasesExtended",
        LeasesExtended {
            extended: vec![
                ExtendedLease {
                    handle: HANDLE,
                    version: VERSION,
                    lease: 60_004,
                },
                ExtendedLease {
                    handle: ChunkHandle(0x12),
                    version: ChunkVersion(0x13),
                    lease: 0,
                },
            ],
        },
    );
}

fn report_chain(samples: &mut Samples) {
    let report = ReportChain {
        handle: HANDLE,
        version: VERSION,
        serial: SERIAL,
        what: ChainTrouble::HopFailed,
        blamed: SERVER,
        status: 60,
    };
    put(samples, "ReportChain", report);
    let others = [
        ("ReportChain: promise refused", ChainTrouble::PromiseRefused),
        ("ReportChain: full", ChainTrouble::Full),
        ("ReportChain: wants memory", ChainTrouble::WantsMemory),
        ("ReportChain: nearly full", ChainTrouble::NearlyFull),
        ("ReportChain: wants seal", ChainTrouble::WantsSeal),
        ("ReportChain: corrupt", ChainTrouble::Corrupt),
    ];
    for (status, (name, what)) in (0..).zip(others) {
        put(
            samples,
            name,
            ReportChain {
                what,
                blamed: ServerId::NONE,
                status,
                ..report
            },
        );
    }
    put(samples, "ChainReported", ChainReported);
}
