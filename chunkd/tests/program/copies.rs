//! Orders to copy, with a scripted master and scripted sources (`spec/messages.md` section 10).

use std::path::PathBuf;

use sarsen_protocol::crc::crc32;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Epoch, FileId, SessionId};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{
    ChunkCopied, ChunkState, CopyChunk, DeleteChunk, HeldChunk, HeldFlags, Hop, VerifyChunk, Want,
};
use sarsen_protocol::status::Status;
use sarsen_protocol::ticket::{Claims, Rights, Ticket};

use crate::master::{EPOCH, Master, TICKET_KEY};
use crate::process::{Process, command};
use crate::source::{SERIAL, Source, Way, ids, nobody};

const CHUNK: ChunkHandle = ChunkHandle(0xbeef);
const VERSION: ChunkVersion = ChunkVersion(3);

/// Where the id table lies in a file of the scripted master's cluster (`spec/chunk-file.md` section 7).
const ID_TABLE_AT: usize = 8192 + (1 << 20);

/// Some frames, and a last block that is cut.
fn content() -> Vec<u8> {
    (0..500_003_u32)
        .map(|n| (n / 7).to_le_bytes()[0] ^ n.to_le_bytes()[1])
        .collect()
}

fn order(sources: Vec<Hop>) -> CopyChunk {
    let claims = Claims {
        rights: Rights::COPY,
        key_id: TICKET_KEY.key_id,
        handle: CHUNK,
        version: VERSION,
        expiry: u64::MAX,
        file_id: FileId(1),
        session: SessionId::NONE,
        epoch: EPOCH.number,
        chain_crc: 0,
    };
    CopyChunk {
        epoch: EPOCH,
        handle: CHUNK,
        version: VERSION,
        void_up_to: VERSION,
        file_id: FileId(1),
        index: 4,
        length: content().len() as u32,
        crc32: crc32(&content()),
        ticket: Ticket::sign(claims, &SecretKey::new(TICKET_KEY.key)),
        sources,
    }
}

fn started() -> (Master, Process) {
    let mut master = Master::start();
    let mut process = Process::spawn(command(
        &master.address(),
        &master.key_file(),
        &master.dir(),
    ));
    master.register();
    process.ready();
    (master, process)
}

fn file(master: &Master, suffix: &str) -> PathBuf {
    let path = format!("chunks/ef/000000000000beef.{suffix}");
    master.dir().join(path)
}

fn is_sealed(version: ChunkVersion) -> impl Fn(&Master) -> Option<HeldChunk> {
    move |master| {
        let held = master.held(CHUNK)?;
        let is_good = held.state == ChunkState::Sealed
            && held.flags == HeldFlags::NONE
            && held.version == version;
        is_good.then_some(held)
    }
}

/// The copy was answered, is told in the inventory, and reads back.
fn check_copied(master: &mut Master, copied: Result<ChunkCopied, Status>, suspects: &[u64]) {
    let copied = copied.expect("copied");
    assert_eq!(
        (copied.length, copied.crc32),
        (content().len() as u32, crc32(&content()))
    );
    let told: Vec<u64> = copied.suspects.iter().map(|server| server.0).collect();
    assert_eq!(told, suspects);
    let held = master.until(is_sealed(VERSION));
    assert_eq!(
        (
            held.length,
            held.crc32,
            held.serial,
            held.file_id,
            held.index
        ),
        (copied.length, copied.crc32, SERIAL, FileId(1), 4)
    );
    let verified = master
        .call(&VerifyChunk {
            epoch: EPOCH,
            handle: CHUNK,
            version: VERSION,
        })
        .expect("runs");
    assert!(verified.good);
    assert!(!file(master, "copy").exists());
    let stored = std::fs::read(file(master, "chunk")).expect("there");
    assert_eq!(stored[ID_TABLE_AT..], ids());
}

#[test]
fn a_chunk_is_copied_whole_and_told() {
    let (mut master, _process) = started();
    let source = Source::start(7, &master.key, &[Way::Serve(content())]);
    let copied = master.call(&order(vec![source.hop.clone()]));
    check_copied(&mut master, copied, &[]);
    let read = source.reads.lock().expect("whole").remove(0);
    assert_eq!((read.offset, read.length), (0, content().len() as u32));
    assert_eq!((read.want, read.version), (Want::Sealed, VERSION));

    // Asked for again it is read back, and nobody is asked for bytes.
    let again = master.call(&order(vec![nobody(7)]));
    check_copied(&mut master, again, &[]);
}

#[test]
fn epoch_and_version_are_compared_when_it_runs() {
    let (mut master, _process) = started();
    let source = Source::start(7, &master.key, &[Way::Serve(content())]);
    let old = CopyChunk {
        epoch: Epoch {
            number: 4,
            incarnation: 40,
        },
        ..order(vec![source.hop.clone()])
    };
    assert_eq!(master.call(&old), Err(Status::StaleEpoch));
    let copied = master.call(&order(vec![source.hop.clone()]));
    check_copied(&mut master, copied, &[]);
    let older = CopyChunk {
        version: ChunkVersion(VERSION.0 - 1),
        ..order(vec![nobody(7)])
    };
    assert_eq!(master.call(&older), Err(Status::Moved));
    let copied = Ok(copied_as_ordered(&master));
    check_copied(&mut master, copied, &[]);
}

fn copied_as_ordered(master: &Master) -> ChunkCopied {
    let held = master.held(CHUNK).expect("held");
    ChunkCopied {
        directory_id: Default::default(),
        length: held.length,
        crc32: held.crc32,
        suspects: Vec::new(),
    }
}

/// Each of the sources that is no good is given up, and the next one tried.
#[test]
fn bad_sources_are_given_up_one_after_the_other() {
    let (mut master, _process) = started();
    let other: Vec<u8> = content().iter().map(|byte| !byte).collect();
    let ways = [
        Way::Flip(content(), 200_000),
        Way::Serve(other),
        Way::Serve(content()[..400_000].to_vec()),
        Way::Close(content(), 2),
        Way::Hang(content(), 1),
        Way::Refuse(Status::Corrupt),
        Way::NoIds(content()),
        Way::FlipIds(content()),
        Way::RefuseIds(content(), Status::Moved),
    ];
    let sources: Vec<Source> = (10..)
        .zip(&ways)
        .map(|(id, way)| Source::start(id, &master.key, std::slice::from_ref(way)))
        .collect();
    let good = Source::start(20, &master.key, &[Way::Serve(content())]);
    let impostor = Hop {
        server: good.hop.server,
        ..Source::start(21, &master.key, &[Way::Serve(content())]).hop
    };
    let mut hops: Vec<Hop> = sources.iter().map(|source| source.hop.clone()).collect();
    hops.extend([nobody(19), impostor, good.hop.clone()]);
    let copied = master.call(&order(hops));
    // Whose bytes did not match is told: on the way, or as a whole.
    check_copied(&mut master, copied, &[10, 11, 17]);
}

#[test]
fn an_order_that_finds_no_good_source_says_why_and_leaves_nothing() {
    let (mut master, _process) = started();
    for (way, expected) in [
        (Way::Flip(content(), 1), Status::DamagedInTransit),
        (Way::Close(content(), 1), Status::ChainBroken),
        (Way::Refuse(Status::Moved), Status::Moved),
        (Way::Refuse(Status::ChunkUnknown), Status::ChunkUnknown),
        (Way::NoIds(content()), Status::ChainBroken),
        (Way::FlipIds(content()), Status::DamagedInTransit),
        (Way::RefuseIds(content(), Status::Moved), Status::Moved),
    ] {
        let source = Source::start(7, &master.key, &[way]);
        assert_eq!(master.call(&order(vec![source.hop])), Err(expected));
        assert!(!file(&master, "copy").exists());
        assert!(!file(&master, "chunk").exists());
    }
    let unreachable = master.call(&order(vec![nobody(7)]));
    assert_eq!(unreachable, Err(Status::ChainBroken));
    assert_eq!(master.held(CHUNK), None);
}

#[test]
fn a_rotten_replica_is_replaced_where_it_lies_and_only_by_a_good_one() {
    use std::os::unix::fs::FileExt as _;
    let (mut master, _process) = started();
    let source = Source::start(7, &master.key, &[Way::Serve(content())]);
    let copied = master.call(&order(vec![source.hop]));
    check_copied(&mut master, copied, &[]);
    let chunk = file(&master, "chunk");
    let rotten = std::fs::OpenOptions::new()
        .write(true)
        .open(&chunk)
        .expect("there");
    let position = sarsen_chunkd::store::data_position(300_000);
    rotten
        .write_all_at(&[!content()[300_000]], position)
        .expect("written");

    // It is found out when the order is given, and stays while nothing better is to be had.
    let failed = master.call(&order(vec![nobody(7)]));
    assert_eq!(failed, Err(Status::ChainBroken));
    assert!(chunk.exists());
    master.until(|master| {
        let flags = master.held(CHUNK)?.flags;
        flags.has(HeldFlags::CORRUPT).then_some(())
    });
    let source = Source::start(8, &master.key, &[Way::Serve(content())]);
    let copied = master.call(&order(vec![source.hop]));
    check_copied(&mut master, copied, &[]);
}

#[test]
fn a_copy_outlives_a_restart_and_what_was_left_of_one_does_not_count() {
    let (mut master, mut process) = started();
    let source = Source::start(7, &master.key, &[Way::Serve(content())]);
    let copied = master.call(&order(vec![source.hop]));
    check_copied(&mut master, copied, &[]);
    process.terminate();
    let left = file(&master, "copy");
    std::fs::copy(file(&master, "chunk"), &left).expect("copied");
    let mut process = Process::spawn(command(
        &master.address(),
        &master.key_file(),
        &master.dir(),
    ));
    master.register();
    process.ready();
    assert_eq!(master.held.len(), 1);
    master.until(is_sealed(VERSION));
    assert!(left.exists(), "a start changes nothing");
    let delete = DeleteChunk {
        epoch: EPOCH,
        handle: CHUNK,
        version: VERSION,
    };
    master.call(&delete).expect("deleted");
    assert!(left.exists(), "it is no replica");
    let source = Source::start(8, &master.key, &[Way::Serve(content())]);
    let copied = master.call(&order(vec![source.hop]));
    check_copied(&mut master, copied, &[]);
}

/// Over connections that come and go, an order that runs is not answered to anybody else; the
/// inventory tells what came of it.
#[test]
fn a_copy_whose_master_is_gone_is_told_by_the_next_inventory() {
    let (mut master, _process) = started();
    let source = Source::start(7, &master.key, &[Way::Serve(content())]);
    master.send(&order(vec![source.hop.clone()]));
    let begun = |_: &Master| (!source.reads.lock().expect("whole").is_empty()).then_some(());
    master.until(begun);
    master.hang_up();
    master.register();
    let held = master.until(is_sealed(VERSION));
    assert_eq!(held.crc32, crc32(&content()));
}
