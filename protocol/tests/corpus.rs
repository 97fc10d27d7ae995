//! Replays the fuzz target's corpus, and mutates it, without a fuzzer (`protocol/fuzz`).
//!
//! What is tried stands in the included file. Random bytes alone never get past a CRC: here
//! headers are made right after bits were flipped behind them, and every kind gets bodies of its
//! own.

#[path = "../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "a library's root, included as a module")]
mod fuzz;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use sarsen_protocol::header::Header;
use sarsen_protocol::message::{Kind, Plane};
use sarsen_protocol::status::Status;

/// Every input of the corpus by its file's name.
static CORPUS: LazyLock<Vec<(String, Vec<u8>)>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/frames");
    let mut inputs: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read(path).unwrap())
        })
        .collect();
    inputs.sort();
    inputs
});

#[test]
fn the_corpus_is_taken_without_a_panic() {
    for (name, input) in CORPUS.iter() {
        // Names the input of a panic, which `cargo test` then shows.
        println!("{name}");
        fuzz::run(input);
    }
}

#[test]
fn the_corpus_has_a_body_of_every_kind() {
    let bodies: BTreeSet<Kind> = CORPUS
        .iter()
        .filter(|(_, input)| input[0] & fuzz::PARTS == fuzz::BODY)
        .map(|(_, input)| fuzz::some_kind(u16::from_le_bytes([input[1], input[2]])))
        .collect();
    assert_eq!(bodies, Kind::ALL.iter().copied().collect());
}

/// An input of the corpus with a few bits flipped, and sometimes cut or made longer.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let flips = vec((any::<Index>(), 0..8_u32), 0..4);
    let tail = prop_oneof![
        4 => Just((0, vec![])),
        1 => (0..4_usize, vec(any::<u8>(), 0..4)),
    ];
    (any::<Index>(), flips, tail).prop_map(|(which, flips, (cut, added))| {
        let mut bytes = CORPUS[which.index(CORPUS.len())].1.clone();
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        bytes.truncate(bytes.len().saturating_sub(cut).max(1));
        bytes.extend(added);
        bytes
    })
}

/// The same input as a stream of frames whose headers are made right: what was a body of a kind
/// gets a header of that kind.
fn as_frames(input: &[u8]) -> Vec<u8> {
    let Some((&how, bytes)) = input.split_first() else {
        return vec![];
    };
    let (how, header, bytes) = match bytes.split_first_chunk() {
        Some((number, body)) if how & fuzz::PARTS == fuzz::BODY => {
            let kind = fuzz::some_kind(u16::from_le_bytes(*number));
            let header = Header::new(kind, Status::Ok, 1, body, 0).encode();
            let on_data = kind.is_on(Plane::Data);
            (u8::from(on_data) * fuzz::DATA_PLANE, header.to_vec(), body)
        }
        _ => (how & fuzz::DATA_PLANE, vec![], bytes),
    };
    let how = fuzz::FRAMES_MENDED | fuzz::HELLO_DONE | how;
    [&[how], header.as_slice(), bytes].concat()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_mutated_input_is_taken_or_refused(input in mutated()) {
        fuzz::run(&input);
    }

    #[test]
    fn a_mutated_frame_is_taken_or_refused(input in mutated()) {
        fuzz::run(&as_frames(&input));
    }

    /// Small numbers are likely, so that counts and lengths are often ones that fit; and every
    /// beginning of the body is tried, so that one of them ends where the last field does.
    #[test]
    fn a_random_body_is_taken_or_refused(
        kind in select(Kind::ALL),
        body in vec(prop_oneof![3 => select(&[0_u8, 1, 2][..]), 1 => any::<u8>()], 200),
    ) {
        let [low, high] = kind.number().to_le_bytes();
        let mut input = vec![fuzz::BODY, low, high];
        fuzz::run(&input);
        for byte in body {
            input.push(byte);
            fuzz::run(&input);
        }
    }

    #[test]
    fn random_bytes_are_taken_or_refused(input in vec(any::<u8>(), 0..400)) {
        fuzz::run(&input);
    }
}
