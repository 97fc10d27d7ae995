//! Orders of a version change (`spec/messages.md` section 14.3).

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Serial, SessionId, StartNumber};
use sarsen_protocol::message::{
    Begin, Begun, ChunkState, CloneSource, GrantLease, HeldFlags, LeaseGranted, LeaseRevoked,
    MemberState, NewChunk, PrepareSeal, PreparedSeal, Promise, Promised, RevokeLease, SealPrepared,
    Settle, Settled,
};

use super::{
    CHUNK_SIZE, CRC, EPOCH, FILE_ID, HANDLE, INDEX, LENGTH, SERIAL, SERVER, SESSION, Samples,
    VERSION, chain, directory, put, write_ticket,
};

const BEGIN_SERIAL: Serial = Serial(0xab0);
const COMMIT_MARK: Serial = Serial(0xaba);
const START: StartNumber = StartNumber(0x1c);

const PREPARED: PreparedSeal = PreparedSeal {
    version: ChunkVersion(0x2122_2324_2526_2730),
    serial: Serial(0xabf),
    length: 0x03fe_0000,
    crc32: 0xb5b6_b7b8,
    id_table_length: 1 << 24,
    id_table_crc32: 0xb9ba_bbbc,
};

pub(super) fn add(samples: &mut Samples) {
    promise(samples);
    begin(samples);
    seal(samples);
    lease(samples);
}

fn member() -> MemberState {
    MemberState {
        server: SERVER,
        directory_id: directory(),
        start_number: START,
    }
}

fn promise(samples: &mut Samples) {
    put(
        samples,
        "Promise",
        Promise {
            epoch: EPOCH,
            handle: HANDLE,
            version: VERSION,
        },
    );
    let promised = Promised {
        version: VERSION,
        begin_serial: BEGIN_SERIAL,
        serial: SERIAL,
        commit_mark: COMMIT_MARK,
        length: LENGTH,
        ids: 0x2021,
        state: ChunkState::Open,
        flags: HeldFlags::UNSYNCED.with(HeldFlags::PREPARED),
        member: member(),
        base_version: ChunkVersion(0x2122_2324_2526_2720),
        base_length: 0x0203,
        base_crc32: CRC,
        prepared: PREPARED,
    };
    put(samples, "Promised", promised);
    put(
        samples,
        "Promised: sealed, nothing prepared",
        Promised {
            state: ChunkState::Sealed,
            flags: HeldFlags::NONE,
            prepared: PreparedSeal::NONE,
            ..promised
        },
    );
}

fn begin(samples: &mut Samples) {
    let begin = Begin {
        epoch: EPOCH,
        handle: HANDLE,
        version: VERSION,
        serial: SERIAL,
        start_number: START,
        directory_id: directory(),
        memory: true,
        create: None,
    };
    put(samples, "Begin", begin);
    let new = NewChunk {
        file_id: FILE_ID,
        index: INDEX,
        chunk_size: 1 << 20,
        clone: None,
    };
    put(
        samples,
        "Begin: a new chunk",
        Begin {
            serial: Serial::NONE,
            memory: false,
            create: Some(new),
            ..begin
        },
    );
    put(
        samples,
        "Begin: a clone",
        Begin {
            serial: Serial::NONE,
            memory: false,
            create: Some(NewChunk {
                chunk_size: CHUNK_SIZE,
                clone: Some(CloneSource {
                    handle: ChunkHandle(0x12),
                    version: ChunkVersion(0x13),
                    length: CHUNK_SIZE,
                }),
                ..new
            }),
            ..begin
        },
    );
    put(
        samples,
        "Begun",
        Begun {
            serial: SERIAL,
            length: LENGTH,
            member: member(),
        },
    );
}

fn seal(samples: &mut Samples) {
    let prepare = PrepareSeal {
        epoch: EPOCH,
        handle: HANDLE,
        version: VERSION,
        serial: SERIAL,
        start_number: START,
        length: None,
        sessions_end: SESSION,
    };
    put(samples, "PrepareSeal", prepare);
    put(
        samples,
        "PrepareSeal: cut at 64 MiB",
        PrepareSeal {
            length: Some(CHUNK_SIZE),
            sessions_end: SessionId::NONE,
            ..prepare
        },
    );
    put(
        samples,
        "SealPrepared",
        SealPrepared {
            prepared: PREPARED,
            member: member(),
        },
    );
    put(
        samples,
        "Settle",
        Settle {
            epoch: EPOCH,
            handle: HANDLE,
            version: VERSION,
            length: LENGTH,
            crc32: CRC,
        },
    );
    put(samples, "Settled", Settled);
}

fn lease(samples: &mut Samples) {
    put(
        samples,
        "GrantLease",
        GrantLease {
            epoch: EPOCH,
            handle: HANDLE,
            version: VERSION,
            begin_serial: BEGIN_SERIAL,
            memory: true,
            closed: false,
            lease: 60_004,
            ticket: write_ticket(),
            chain: chain(),
            file_id: FILE_ID,
            index: INDEX,
            lock_token: 0x99,
        },
    );
    put(samples, "LeaseGranted", LeaseGranted);
    put(
        samples,
        "RevokeLease",
        RevokeLease {
            epoch: EPOCH,
            handle: HANDLE,
            version: VERSION,
        },
    );
    put(
        samples,
        "LeaseRevoked",
        LeaseRevoked {
            serial: SERIAL,
            commit_mark: COMMIT_MARK,
        },
    );
}
