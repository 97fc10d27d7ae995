//! Entries about chunks that are open, or were, and about sizes.

use sarsen_protocol::crc;
use sarsen_protocol::id::{ChunkVersion, DirectoryId, Serial, ServerId, StartNumber};

use super::*;
use crate::core::command::chunks::Configuration;
use crate::core::command::{
    Activation, ChunkSealed, FileResized, LossCause, Member, PossibleLoss, SLOTS_MAX, Then,
};

fn activation(handle: u64, version: u64, file: FileId, index: u32) -> Activation {
    let member = Member {
        server: ServerId(1),
        directory: DirectoryId([1; 16]),
        start_number: StartNumber(1),
    };
    let configuration = Configuration {
        version: ChunkVersion(version),
        serial: Serial(0),
        memory_allowed: false,
        primary: ServerId(1),
        members: vec![member],
    };
    Activation {
        handle: ChunkHandle(handle),
        file,
        index,
        configuration,
    }
}

fn sealed(handle: u64, version: u64, len: u32, then: Then) -> ChunkSealed {
    let (handle, version) = (ChunkHandle(handle), ChunkVersion(version));
    ChunkSealed {
        handle,
        version,
        len,
        crc: crc_of(handle.0),
        then,
    }
}

/// A file's chunk is opened, closed short with a next one, sealed; then the file is cut.
#[test]
fn the_life_of_an_open_chunk() {
    let mut script = Script::new();
    let file = script.upload("/f", &[(1, 10)]);
    let file_now = |script: &Script| script.state.namespace.file(file).unwrap().clone();

    let not_newer = script.internal(activation(1, 501, file, 0)).answer;
    assert_eq!(not_newer, refused(Refusal::InvalidArgument));
    assert_eq!(
        script.internal(activation(1, 600, file, 0)).answer,
        Answer::Done
    );
    assert_eq!(file_now(&script).crc, None);

    let next = Then::Next(activation(2, 601, file, 1));
    assert_eq!(
        script.internal(sealed(1, 600, 20, next)).answer,
        Answer::Done
    );
    let padded = file_now(&script);
    assert_eq!((padded.size, padded.crc), (u64::from(MIB), None));
    assert_eq!(padded.slots, [ChunkHandle(1), ChunkHandle(2)]);

    let too_long = script
        .internal(sealed(2, 601, MIB + 1, Then::Nothing))
        .answer;
    assert_eq!(too_long, refused(Refusal::InvalidArgument));
    script.internal(sealed(2, 601, 30, Then::Nothing));
    let zeros = u64::from(MIB) - 20;
    let first = crc::combine(crc_of(1), crc::zeros(zeros), zeros);
    let whole = file_now(&script);
    assert_eq!(whole.size, u64::from(MIB) + 30);
    assert_eq!(whole.crc, Some(crc::combine(first, crc_of(2), 30)));

    script.internal(activation(1, 700, file, 0));
    let cut = script.internal(sealed(1, 701, 15, Then::Cut { file, size: 15 }));
    assert_eq!(cut.dropped, [ChunkHandle(2)]);
    let short = file_now(&script);
    assert_eq!(
        (short.size, short.crc, short.slots.len()),
        (15, Some(crc_of(1)), 1)
    );
}

/// A chunk was told to be full a second time when another had followed it, and the seal gave the slot
/// of that one to a fresh chunk: what was acknowledged there was gone.
#[test]
fn a_slot_is_never_taken_from_the_only_chunk_that_has_its_bytes() {
    let mut script = Script::new();
    let file = script.upload("/f", &[(1, MIB), (2, 20)]);
    script.internal(activation(1, 600, file, 0));
    let refused = refused(Refusal::InvalidArgument);
    let next = Then::Next(activation(3, 602, file, 1));
    assert_eq!(script.internal(sealed(1, 601, MIB, next)).answer, refused);
    assert_eq!(script.internal(activation(3, 602, file, 1)).answer, refused);
    let slots = &script.state.namespace.file(file).unwrap().slots;
    assert_eq!(slots[..], [ChunkHandle(1), ChunkHandle(2)]);
    assert!(script.state.chunks.record(ChunkHandle(2)).is_some());
}

#[test]
fn a_write_beyond_the_end_leaves_holes() {
    let mut script = Script::new();
    let file = script.upload("/f", &[(1, 10)]);
    script.internal(activation(9, 600, file, 3));
    script.internal(sealed(9, 600, 7, Then::Nothing));
    let sparse = script.state.namespace.file(file).unwrap();
    let hole = ChunkHandle::NONE;
    assert_eq!(sparse.slots, [ChunkHandle(1), hole, hole, ChunkHandle(9)]);
    let zeros = 3 * u64::from(MIB) - 10;
    let before = crc::combine(crc_of(1), crc::zeros(zeros), zeros);
    assert_eq!(sparse.crc, Some(crc::combine(before, crc_of(9), 7)));
    assert_eq!(sparse.chunk_count(), 2);
}

#[test]
fn a_possible_loss_stays_beside_its_chunk() {
    let mut script = Script::new();
    script.upload("/f", &[(1, 10)]);
    let loss = |handle| PossibleLoss {
        handle: ChunkHandle(handle),
        version: ChunkVersion(501),
        serial: Serial(4),
        cause: LossCause::NoMember,
    };
    assert_eq!(script.internal(loss(1)).answer, Answer::Done);
    assert_eq!(
        script.internal(loss(2)).answer,
        refused(Refusal::ChunkUnknown)
    );
    let losses = &script.state.chunks.record(ChunkHandle(1)).unwrap().losses;
    assert_eq!((losses.len(), losses[0].serial), (1, Serial(4)));
    // What was to follow it came to nothing, and the next attempt said it again: `fsck` listed it twice.
    let time_ms = losses[0].time_ms;
    assert_eq!(script.internal(loss(1)).answer, Answer::Done);
    let other = PossibleLoss {
        serial: Serial(3),
        ..loss(1)
    };
    assert_eq!(script.internal(other).answer, Answer::Done);
    let losses = &script.state.chunks.record(ChunkHandle(1)).unwrap().losses;
    let serials: Vec<Serial> = losses.iter().map(|loss| loss.serial).collect();
    assert_eq!(serials, [Serial(4), Serial(3)]);
    assert_eq!(losses[0].time_ms, time_ms);
}

/// What the answer and the namespace say of a file: size, modification time, slots.
fn file_told(script: &Script, answer: &Answer) -> (u64, u64, usize) {
    let Answer::File(told) = answer else {
        panic!("{answer:?} is no file");
    };
    let node = script.state.namespace.node(told.file).unwrap();
    let file = node.as_file().unwrap();
    assert_eq!(
        (told.size, told.modified_ms, told.crc),
        (file.size, node.modified_ms, file.crc)
    );
    (told.size, told.modified_ms, file.slots.len())
}

fn modified(script: &Script, file: FileId) -> u64 {
    script.state.namespace.node(file).unwrap().modified_ms
}

/// Idle sealing of a chunk that nobody wrote to is no modification of its file.
#[test]
fn a_seal_is_a_modification_only_if_something_changed() {
    let mut script = Script::new();
    let file = script.upload("/f", &[(1, 10)]);
    let at_first = modified(&script, file);

    script.internal(activation(1, 600, file, 0));
    script.internal(sealed(1, 601, 10, Then::Nothing));
    assert_eq!(modified(&script, file), at_first);

    script.internal(activation(1, 700, file, 0));
    script.internal(sealed(1, 701, 11, Then::Nothing));
    assert_eq!(modified(&script, file), 1000 * script.state.index);

    script.internal(activation(1, 800, file, 0));
    let padded = Then::Next(activation(2, 801, file, 1));
    script.internal(sealed(1, 801, 11, padded));
    assert_eq!(modified(&script, file), 1000 * script.state.index);
}

#[test]
fn a_cut_by_request_is_answered_with_the_file() {
    let mut script = Script::new();
    let file = script.upload("/f", &[(1, MIB), (2, 7)]);
    script.internal(activation(1, 600, file, 0));
    let cut = script.request(sealed(1, 601, 15, Then::Cut { file, size: 15 }));
    assert_eq!(cut.dropped, [ChunkHandle(2)]);
    let now = 1000 * script.state.index;
    assert_eq!(file_told(&script, &cut.answer), (15, now, 1));
}

#[test]
fn a_file_is_resized_where_no_chunk_has_to_be_cut() {
    let mut script = Script::new();
    let file = script.upload("/f", &[(1, MIB), (2, 7)]);
    let mut resize = |size| {
        let outcome = script.request(FileResized { file, size });
        let told = file_told(&script, &outcome.answer);
        (told.0, told.2, outcome.dropped)
    };
    let mib = u64::from(MIB);
    assert_eq!(resize(5 * mib), (5 * mib, 2, vec![]));
    assert_eq!(resize(mib + 7), (mib + 7, 2, vec![]));
    assert_eq!(resize(mib), (mib, 1, vec![ChunkHandle(2)]));
    assert_eq!(resize(0), (0, 0, vec![ChunkHandle(1)]));
    assert_eq!(resize(3), (3, 0, vec![]));
    assert_eq!(modified(&script, file), 1000 * script.state.index);
    let zeros = script.state.namespace.file(file).unwrap().crc;
    assert_eq!(zeros, Some(crc::zeros(3)));
}

#[test]
fn what_a_resize_refuses() {
    let mut script = Script::new();
    let file = script.upload("/f", &[(1, MIB), (2, MIB), (3, 7)]);
    let mib = u64::from(MIB);
    let refusal = |script: &mut Script, file, size| {
        let before = script.state.namespace.clone();
        let answer = script.request(FileResized { file, size }).answer;
        let refused = matches!(answer, Answer::Refused(_));
        assert!(!refused || before == script.state.namespace, "{answer:?}");
        answer
    };
    let beyond = SLOTS_MAX as u64 * mib + 1;
    for (id, size, why) in [
        (FileId(999), 0, Refusal::NotFound),
        (file, beyond, Refusal::TooLarge),
        (file, 2 * mib + 6, Refusal::InvalidArgument),
        (file, 5, Refusal::InvalidArgument),
    ] {
        assert_eq!(refusal(&mut script, id, size), refused(why), "{size}");
    }
    script.internal(activation(2, 600, file, 1));
    for size in [0, mib, mib + 5] {
        assert_eq!(
            refusal(&mut script, file, size),
            refused(Refusal::ChunkOpen),
            "{size}"
        );
    }
    // An open chunk that is neither at the cut nor behind it is nobody's business.
    let outside = refusal(&mut script, file, 2 * mib);
    assert_eq!(file_told(&script, &outside).0, 2 * mib);
    // It is the last one now, so how long the file is depends on it.
    assert_eq!(
        refusal(&mut script, file, 9 * mib),
        refused(Refusal::ChunkOpen)
    );
    script.request(removed("/f", false, false));
    assert_eq!(refusal(&mut script, file, 0), refused(Refusal::NotFound));
}
