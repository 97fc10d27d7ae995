//! Orders of the master, and what the inventory tells, with chunks that were written for real.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use sarsen_protocol::crc::crc32;
use sarsen_protocol::deframe::{Deframer, Frame, frame};
use sarsen_protocol::handshake::{Dialer, Identity};
use sarsen_protocol::header::Header;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, ClusterId, Epoch, FileId, Serial, SessionId};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{
    Begin, ChunkCrcs, ChunkState, ChunkStatus, Crcs, DeleteChunk, HeldFlags, Hop, Kind, Level,
    Message, Plane, Promise, Role, SealFile, Start, VerifyChunk, WriteData, WriteOpen, WriteSeal,
};
use sarsen_protocol::status::Status;
use sarsen_protocol::ticket::{Claims, Rights, Ticket, chain_crc};

use crate::master::{EPOCH, Master, SERVER, TICKET_KEY};
use crate::process::{Process, command};

const CHUNK: ChunkHandle = ChunkHandle(0xbeef);
const VERSION: ChunkVersion = ChunkVersion(3);
const CONTENT: &[u8] = b"a chunk of few bytes";

fn ticket(rights: Rights, chain: &[Hop]) -> Ticket {
    let claims = Claims {
        rights,
        key_id: TICKET_KEY.key_id,
        handle: CHUNK,
        version: VERSION,
        expiry: u64::MAX,
        file_id: FileId(1),
        session: SessionId(1),
        epoch: EPOCH.number,
        chain_crc: chain_crc(chain),
    };
    Ticket::sign(claims, &SecretKey::new(TICKET_KEY.key))
}

fn next(stream: &mut TcpStream, deframer: &mut Deframer) -> Frame {
    loop {
        if let Some(frame) = deframer.next_frame().expect("a good frame") {
            assert!(frame.header.status.is_ok(), "{:?}", frame.error());
            return frame;
        }
        let mut bytes = [0; 4096];
        let read = stream.read(&mut bytes).expect("bytes");
        assert_ne!(read, 0, "closed");
        deframer.buffer().extend_from_slice(&bytes[..read]);
    }
}

/// Writes and seals [`CHUNK`].
fn write_chunk(data_addr: &str, key: &SecretKey, level: Level) {
    let mut stream = TcpStream::connect(data_addr).expect("connects");
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("set");
    let mut deframer = Deframer::new(Plane::Data);
    let identity = Identity {
        role: Role::Client,
        cluster_id: ClusterId::NONE,
        start: Start::default(),
    };
    let (mut dialer, hello) = Dialer::new(identity, Plane::Data, key.clone(), [1; 32]);
    stream.write_all(&hello).expect("sent");
    let proof = dialer
        .handle_reply(&next(&mut stream, &mut deframer))
        .expect("a good proof");
    stream.write_all(&proof).expect("sent");
    dialer
        .handle_done(&next(&mut stream, &mut deframer))
        .expect("welcome");
    deframer.hello_is_done();

    let chain = vec![Hop {
        server: SERVER,
        data_addr: data_addr.to_owned(),
    }];
    let open = WriteOpen {
        ticket: ticket(Rights::WRITE, &chain),
        handle: CHUNK,
        version: VERSION,
        file_id: FileId(1),
        index: 0,
        room: CONTENT.len() as u32,
        begin_serial: Serial::NONE,
        lock_token: 0,
        level: Level::Disk,
        position: 0,
        chain,
    };
    stream.write_all(&frame(&open, 1)).expect("sent");
    let data = WriteData {
        handle: CHUNK,
        version: VERSION,
        serial: Serial(1),
        commit_mark: Serial::NONE,
        request: None,
        offset: 0,
        level,
        crcs: Crcs::new(&[crc32(CONTENT)]).expect("one"),
    };
    let body = data.to_body();
    let header = Header::new(Kind::WriteData, Status::Ok, 1, &body, CONTENT.len() as u32);
    for bytes in [&header.encode()[..], &body, CONTENT] {
        stream.write_all(bytes).expect("sent");
    }
    let seal = WriteSeal {
        handle: CHUNK,
        version: VERSION,
        length: CONTENT.len() as u32,
        crc32: crc32(CONTENT),
        level,
    };
    stream.write_all(&frame(&seal, 1)).expect("sent");
    while next(&mut stream, &mut deframer).header.kind != Kind::WriteSealed {}
}

/// A master and a chunkserver that holds [`CHUNK`].
fn with_chunk(level: Level) -> (Master, Process) {
    let mut master = Master::start();
    let mut process = Process::spawn(command(
        &master.address(),
        &master.key_file(),
        &master.dir(),
    ));
    let register = master.register();
    process.ready();
    write_chunk(&register.data_addr, &master.key, level);
    let is_sealed = |master: &Master| {
        let held = master.held(CHUNK)?;
        (held.state == ChunkState::Sealed).then_some(held)
    };
    let held = master.until(is_sealed);
    assert_eq!((held.version, held.length), (VERSION, CONTENT.len() as u32));
    assert_eq!((held.crc32, held.file_id), (crc32(CONTENT), FileId(1)));
    (master, process)
}

fn verify(epoch: Epoch, version: u64) -> VerifyChunk {
    VerifyChunk {
        epoch,
        handle: CHUNK,
        version: ChunkVersion(version),
    }
}

fn delete(epoch: Epoch, version: u64) -> DeleteChunk {
    DeleteChunk {
        epoch,
        handle: CHUNK,
        version: ChunkVersion(version),
    }
}

const OLD: Epoch = Epoch {
    number: 4,
    incarnation: 40,
};

#[test]
fn a_chunk_is_deleted_only_in_its_version_and_in_the_epoch() {
    let (mut master, _process) = with_chunk(Level::Disk);
    assert_eq!(
        master.call(&delete(OLD, VERSION.0)),
        Err(Status::StaleEpoch)
    );
    assert_eq!(
        master.call(&delete(EPOCH, VERSION.0 + 1)),
        Err(Status::Moved)
    );
    assert!(master.call(&delete(EPOCH, VERSION.0)).is_ok());
    master.until(|master| master.held(CHUNK).is_none().then_some(()));
    assert_eq!(
        master.call(&delete(EPOCH, VERSION.0)),
        Err(Status::ChunkUnknown)
    );
    let file = master.dir().join("chunks/ef/000000000000beef.chunk");
    assert!(!file.exists());
}

#[test]
fn an_order_that_it_does_not_know_is_unsupported_and_others_go_on() {
    let (mut master, _process) = with_chunk(Level::Disk);
    let of_clients = SealFile {
        path: "/f".to_owned(),
    };
    assert_eq!(master.call(&of_clients), Err(Status::Unsupported));
    assert!(master.call(&verify(EPOCH, VERSION.0)).is_ok());
}

#[test]
fn a_sealed_chunk_promises_and_begins_by_order_and_is_read_as_before() {
    let (mut master, process) = with_chunk(Level::Disk);
    let promise = |epoch, version| Promise {
        epoch,
        handle: CHUNK,
        version: ChunkVersion(version),
    };
    let refused = master.call(&promise(OLD, 9));
    assert_eq!(refused, Err(Status::StaleEpoch));
    let refused = master.call(&promise(EPOCH, VERSION.0));
    assert_eq!(refused, Err(Status::PromiseRefused));
    let unknown = Promise {
        handle: ChunkHandle(1),
        ..promise(EPOCH, 9)
    };
    assert_eq!(master.call(&unknown), Err(Status::ChunkUnknown));
    let promised = master.call(&promise(EPOCH, 9)).expect("promised");
    let told = (promised.version, promised.length, promised.state);
    assert_eq!(told, (VERSION, CONTENT.len() as u32, ChunkState::Sealed));
    assert_eq!(promised.base_crc32, crc32(CONTENT));
    let begin = |version| Begin {
        epoch: EPOCH,
        handle: CHUNK,
        version: ChunkVersion(version),
        serial: promised.serial,
        start_number: promised.member.start_number,
        directory_id: promised.member.directory_id,
        memory: false,
        create: None,
    };
    assert_eq!(master.call(&begin(8)), Err(Status::PromiseRefused));
    let begun = master.call(&begin(9)).expect("begun");
    assert_eq!(
        (begun.serial, begun.length),
        (promised.serial, CONTENT.len() as u32)
    );
    assert_eq!(master.call(&begin(9)), Ok(begun), "asked again");
    // Nobody has told that the version is active.
    let held = master.held(CHUNK).expect("held");
    assert_eq!((held.version, held.state), (VERSION, ChunkState::Sealed));
    assert!(master.call(&verify(EPOCH, VERSION.0)).is_ok());
    drop(process);
}

#[test]
fn verifying_finds_a_flipped_bit_and_the_heartbeat_tells_it() {
    let (mut master, _process) = with_chunk(Level::Disk);
    let good = master.call(&verify(EPOCH, VERSION.0)).expect("runs");
    assert!(good.good);
    assert_eq!(
        (good.length, good.crc32),
        (CONTENT.len() as u32, crc32(CONTENT))
    );
    assert_eq!(
        master.call(&verify(OLD, VERSION.0)),
        Err(Status::StaleEpoch)
    );
    assert_eq!(master.call(&verify(EPOCH, 1)), Err(Status::Moved));

    let path = master.dir().join("chunks/ef/000000000000beef.chunk");
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .expect("there");
    file.write_all_at(&[CONTENT[3] ^ 1], sarsen_chunkd::store::data_position(3))
        .expect("flips");
    let bad = master.call(&verify(EPOCH, VERSION.0)).expect("runs");
    assert!(!bad.good);
    assert_ne!(bad.crc32, crc32(CONTENT));
    let told = master.until(|master| {
        let corrupt = &master.heartbeat.as_ref()?.corrupt;
        corrupt.first().copied()
    });
    assert_eq!((told.handle, told.version), (CHUNK, VERSION));
    master.until(|master| {
        master
            .held(CHUNK)?
            .flags
            .has(HeldFlags::CORRUPT)
            .then_some(())
    });
}

#[test]
fn a_seal_at_memory_is_made_durable_soon_after() {
    let (mut master, _process) = with_chunk(Level::Memory);
    master.until(|master| (master.held(CHUNK)?.flags == HeldFlags::NONE).then_some(()));
}

#[test]
fn questions_are_answered_with_a_ticket_for_the_chunk() {
    let (mut master, _process) = with_chunk(Level::Disk);
    let read = ticket(Rights::READ, &[]);
    let status = master
        .call(&ChunkStatus {
            ticket: read,
            handle: CHUNK,
        })
        .expect("known");
    assert_eq!(
        (status.version, status.state),
        (VERSION, ChunkState::Sealed)
    );
    assert_eq!(
        (status.length, status.crc32),
        (CONTENT.len() as u32, crc32(CONTENT))
    );
    let crcs = |ticket, version, first_block| ChunkCrcs {
        ticket,
        handle: CHUNK,
        version: ChunkVersion(version),
        first_block,
        count: 1024,
    };
    let found = master.call(&crcs(read, VERSION.0, 0)).expect("known");
    assert_eq!(
        (found.length, found.crcs),
        (CONTENT.len() as u32, vec![crc32(CONTENT)])
    );
    let beyond = master.call(&crcs(read, VERSION.0, 1)).expect("known");
    assert!(beyond.crcs.is_empty());
    let write = ticket(Rights::WRITE, &[]);
    for asked in [crcs(write, VERSION.0, 0), crcs(read, VERSION.0 + 1, 0)] {
        assert_eq!(master.call(&asked).map(|_| ()), Err(Status::TicketInvalid));
    }
}
