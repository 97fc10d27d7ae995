//! What the store does when the process has no descriptor left. One test, since the limit is the
//! process's.

#![cfg(feature = "edge")]

use rustix::process::{Resource, getrlimit, setrlimit};
use sarsen_chunkd::store::{Adoption, Directory, NewChunk, SealClaim, Start};
use sarsen_protocol::crc::crc32;
use sarsen_protocol::id::{
    ChunkHandle, ChunkVersion, ClusterId, DirectoryId, FileId, Serial, ServerId, StartNonce,
};
use sarsen_protocol::message::Level;

/// A seal opens its folder to sync it. When that found no descriptor it was taken for a failed
/// sync, and the directory took no chunk any more: whoever opened enough connections could stop
/// all writing.
#[test]
fn a_seal_without_a_descriptor_to_spare_poisons_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let start = Start {
        nonce: StartNonce(1),
        new_directory_id: DirectoryId([2; 16]),
        scan_threads: 1,
        open_chunks_max: 4,
    };
    let directory = Directory::open(&folder.path().join("d"), &start).expect("opens");
    let adoption = Adoption {
        cluster_id: ClusterId([7; 16]),
        server_id: ServerId(1),
        chunk_size: 1024 * 1024,
    };
    directory.adopt(adoption).expect("adopts");
    let new = NewChunk {
        handle: ChunkHandle(5),
        version: ChunkVersion(6),
        file_id: FileId(1),
        index: 0,
        room: 0,
    };
    let pending = directory.create_pending(&new).expect("made");
    pending.write_at(0, b"bytes").expect("written");
    let crc = crc32(b"bytes");
    pending.commit_pieces(0, 5, &[crc]).expect("counted");

    let before = getrlimit(Resource::Nofile);
    let mut none = before;
    // Those that are open stay open.
    none.current = Some(0);
    setrlimit(Resource::Nofile, none).expect("lowered");
    let opened = std::fs::File::open(folder.path());
    let claim = SealClaim {
        length: 5,
        crc32: crc,
        serial: Serial(1),
        level: Level::Disk,
    };
    let sealed = directory.seal(new.handle, new.version, &claim);
    setrlimit(Resource::Nofile, before).expect("raised");

    assert!(opened.is_err(), "there was a descriptor to spare");
    assert_eq!(sealed.expect("sealed").level, Level::Disk);
    assert!(!directory.is_poisoned());
}
