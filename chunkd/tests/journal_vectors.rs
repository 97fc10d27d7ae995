//! Reads `spec/vectors/journal.toml`: every accepted case decodes to its fields and encodes to its
//! bytes, every rejected one fails with its error (`spec/journal.md` section 12).

#![cfg(feature = "edge")]

use std::collections::BTreeSet;
use std::path::Path;

use sarsen_chunkd::store::journal::body::{
    Applied, Base, Block, Body, Mutation, MutationKind, Place, SealForm,
};
use sarsen_chunkd::store::journal::entry::{
    Decoded, Entry, Link, decode_entry, encode_entry, encode_mark,
};
use sarsen_chunkd::store::journal::segment::{Author, SEGMENT_HEADER_LEN, SegmentHeader};
use sarsen_chunkd::store::open_chunk::patch::{PATCH_HEADER_LEN, PatchHeader};
use sarsen_protocol::id::{ClusterId, FileId, RequestId};
use sarsen_protocol::id_row::{IdRow, IdRowKind};
use toml::{Table, Value};

fn vectors() -> Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec/vectors/journal.toml");
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

fn cases(group: &str) -> Vec<Table> {
    let cases = vectors()[group].as_array().unwrap().clone();
    cases
        .into_iter()
        .map(|case| case.as_table().unwrap().clone())
        .collect()
}

fn text<'a>(case: &'a Table, field: &str) -> &'a str {
    case[field].as_str().unwrap()
}

fn bytes_of(case: &Table) -> Vec<u8> {
    let digits: Vec<u8> = text(case, "hex")
        .bytes()
        .filter(|b| !b.is_ascii_whitespace())
        .collect();
    let (pairs, rest) = digits.as_chunks::<2>();
    assert!(rest.is_empty());
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    pairs.iter().map(byte).collect()
}

fn wide(value: u64) -> Value {
    format!("0x{value:016x}").into()
}

fn hex(bytes: &[u8]) -> Value {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("0x{digits}").into()
}

fn table(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Table {
    let named = fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    named.collect()
}

fn segment_fields(header: &SegmentHeader) -> Table {
    let Author {
        cluster_id,
        directory_id,
        start_number,
        start_nonce,
    } = header.author;
    table([
        ("version", 1.into()),
        ("before_crc", header.before.crc.into()),
        ("first_sequence", wide(header.first_sequence())),
        ("cluster_id", hex(&cluster_id.0)),
        ("directory_id", hex(&directory_id.0)),
        ("start_number", wide(start_number.0)),
        ("start_nonce", wide(start_nonce.0)),
    ])
}

fn patch_fields(header: &PatchHeader) -> Table {
    table([
        ("version", 1.into()),
        ("handle", wide(header.handle.0)),
        ("cluster_id", hex(&header.author.cluster_id.0)),
        ("directory_id", hex(&header.author.directory_id.0)),
        ("start_number", wide(header.author.start_number.0)),
        ("start_nonce", wide(header.author.start_nonce.0)),
        ("made_in", wide(header.made_in.0)),
    ])
}

/// What an entry and a mark have in common.
fn link_fields(decoded: &Decoded<'_>) -> Table {
    let header = &decoded.header;
    table([
        ("before_crc", header.link.before_crc.into()),
        ("sequence", wide(header.link.sequence)),
        ("directory_id", hex(&header.directory_id.0)),
        ("start_number", wide(header.start_number.0)),
        ("start_nonce", wide(header.start_nonce.0)),
    ])
}

fn entry_fields(decoded: &Decoded<'_>) -> Table {
    let header = &decoded.header;
    let mut fields = link_fields(decoded);
    fields.extend(table([
        ("kind", i64::from(header.kind.unwrap_or_default()).into()),
        ("stable", wide(header.link.stable)),
        ("handle", wide(header.handle.0)),
        ("version", wide(header.version.0)),
        ("body", hex(decoded.body)),
    ]));
    fields
}

/// The bytes of a decoded header, from its fields alone.
fn encode_again(decoded: &Decoded<'_>) -> Vec<u8> {
    let header = &decoded.header;
    let author = Author {
        cluster_id: ClusterId::NONE,
        directory_id: header.directory_id,
        start_number: header.start_number,
        start_nonce: header.start_nonce,
    };
    let Some(kind) = header.kind else {
        return encode_mark(&header.link, &author).to_vec();
    };
    let entry = Entry {
        kind,
        handle: header.handle,
        version: header.version,
        body: decoded.body.to_vec(),
    };
    let mut bytes = Vec::new();
    let link = Link { ..header.link };
    encode_entry(&mut bytes, &entry, &link, &author);
    bytes
}

fn base_fields(base: Base, file_id: FileId, index: u32) -> Value {
    let from = match base {
        Base::Made => "made",
        Base::Sealed { .. } => "sealed",
        Base::Open => "open",
    };
    let mut fields = table([
        ("from", from.into()),
        ("file_id", wide(file_id.0)),
        ("index", index.into()),
    ]);
    if let Base::Sealed {
        version,
        length,
        data_crc32,
    } = base
    {
        fields.extend(table([
            ("base_version", wide(version.0)),
            ("length", length.into()),
            ("data_crc32", data_crc32.into()),
        ]));
    }
    fields.into()
}

fn block_fields(block: &Block) -> Value {
    let place = match block.place {
        Place::OwnRoom => 0,
        Place::Slot(slot) => slot + 1,
    };
    table([("place", place.into()), ("crc32", block.crc32.into())]).into()
}

fn blocks_fields(blocks: &[Block]) -> Value {
    Value::Array(blocks.iter().map(block_fields).collect())
}

fn row_fields(row: &IdRow) -> Value {
    let kind = match row.kind {
        IdRowKind::Write => "write",
        IdRowKind::Append => "append",
        IdRowKind::Floor => "floor",
        IdRowKind::Ended => "ended",
    };
    table([
        ("session", wide(row.session.0)),
        ("number", wide(row.number)),
        ("kind", kind.into()),
        ("offset", row.offset.into()),
        ("length", row.length.into()),
        ("crc32", row.crc32.into()),
    ])
    .into()
}

fn mutation_fields(mutation: &Mutation) -> Value {
    let RequestId {
        session,
        number,
        lowest_outstanding,
    } = mutation.request.unwrap_or_default();
    let request = table([
        ("session", wide(session.0)),
        ("number", wide(number)),
        ("lowest_outstanding", wide(lowest_outstanding)),
    ]);
    let kind = match mutation.kind {
        MutationKind::Write => "write",
        MutationKind::Append => "append",
    };
    let flags = i64::from(mutation.has_gap) + 2 * i64::from(mutation.has_bytes);
    table([
        ("request", request.into()),
        ("kind", kind.into()),
        ("flags", flags.into()),
        ("offset", mutation.offset.into()),
        ("length", mutation.length.into()),
        ("crc32", mutation.crc32.into()),
        ("blocks", blocks_fields(&mutation.blocks)),
    ])
    .into()
}

fn applied_fields(applied: &Applied) -> Table {
    let mutations = applied.mutations.iter().map(mutation_fields).collect();
    table([
        ("first_serial", wide(applied.first_serial.0)),
        ("commit_mark", wide(applied.commit_mark.0)),
        ("mutations", Value::Array(mutations)),
        ("bytes", hex(&applied.bytes)),
    ])
}

fn body_fields(body: &Body) -> Table {
    match body {
        Body::Promised(promised) => {
            let epoch = table([
                ("number", wide(promised.epoch.number)),
                ("incarnation", wide(promised.epoch.incarnation)),
            ]);
            table([
                ("promised_version", wide(promised.promised_version.0)),
                ("epoch", epoch.into()),
            ])
        }
        Body::Begun(begun) => table([
            ("serial", wide(begun.serial.0)),
            ("memory", begun.memory.into()),
            ("base", base_fields(begun.base, begun.file_id, begun.index)),
        ]),
        Body::Applied(applied) => applied_fields(applied),
        Body::Prepared(prepared) => {
            let form = match prepared.form {
                SealForm::InPlace => "in_place",
                SealForm::Sealing => "sealing",
            };
            table([
                ("serial", wide(prepared.serial.0)),
                ("length", prepared.length.into()),
                ("data_crc32", prepared.data_crc32.into()),
                ("crc_page_crc32", prepared.crc_page_crc32.into()),
                ("id_table_length", prepared.id_table_length.into()),
                ("id_table_crc32", prepared.id_table_crc32.into()),
                ("sessions_end", wide(prepared.sessions_end)),
                ("form", form.into()),
            ])
        }
        Body::Checkpoint(state) => table([
            ("serial", wide(state.serial.0)),
            ("begin_serial", wide(state.begin_serial.0)),
            ("promised_version", wide(state.promised_version.0)),
            ("memory", state.memory.into()),
            ("base", base_fields(state.base, state.file_id, state.index)),
            ("length", state.length.into()),
            ("blocks", blocks_fields(&state.blocks)),
            (
                "ids",
                Value::Array(state.ids.iter().map(row_fields).collect()),
            ),
            ("more", state.more.into()),
        ]),
        Body::Settled | Body::Dropped => Table::new(),
    }
}

fn kind_of_body(name: &str) -> u16 {
    match name {
        "promised" => 1,
        "begun" => 2,
        "applied" => 3,
        "prepared" => 4,
        "checkpoint" => 6,
        other => panic!("a kind that the specification doesn't have: {other}"),
    }
}

/// What a case's bytes decode to: its fields, and its bytes encoded again; or the error's name.
fn decode(case: &Table) -> Result<(Table, Vec<u8>), String> {
    let bytes = bytes_of(case);
    match text(case, "kind") {
        "journal_segment" => {
            let header = SegmentHeader::decode(&bytes).map_err(|error| error.to_string())?;
            assert_eq!(bytes.len(), SEGMENT_HEADER_LEN);
            Ok((segment_fields(&header), header.encode().to_vec()))
        }
        "patch_header" => {
            let header = PatchHeader::decode(&bytes).map_err(|error| error.to_string())?;
            assert_eq!(bytes.len(), PATCH_HEADER_LEN);
            Ok((patch_fields(&header), header.encode().to_vec()))
        }
        kind @ ("journal_entry" | "journal_mark") => {
            let decoded = decode_entry(&bytes).map_err(|error| error.to_string())?;
            if decoded.header.kind.is_some() != (kind == "journal_entry") {
                return Err("kind_wrong".to_owned());
            }
            assert_eq!(decoded.encoded_len, bytes.len());
            let fields = match kind {
                "journal_entry" => entry_fields(&decoded),
                _ => link_fields(&decoded),
            };
            Ok((fields, encode_again(&decoded)))
        }
        name => {
            let body = Body::decode(kind_of_body(name), &bytes).map_err(|e| e.to_string())?;
            assert_eq!(body.kind(), kind_of_body(name));
            Ok((body_fields(&body), body.encode()))
        }
    }
}

#[test]
fn accepted_cases_decode_to_their_fields_and_encode_to_their_bytes() {
    let mut kinds = BTreeSet::new();
    for case in cases("accepted") {
        let name = text(&case, "name");
        let (fields, encoded) = decode(&case).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(&fields, case["fields"].as_table().unwrap(), "{name}");
        assert!(encoded == bytes_of(&case), "{name}: encodes to other bytes");
        kinds.insert(text(&case, "kind").to_owned());
    }
    assert_eq!(kinds.len(), 9, "{kinds:?}");
}

#[test]
fn rejected_cases_fail_with_their_error() {
    for case in cases("rejected") {
        let name = text(&case, "name");
        let error = decode(&case).expect_err(name);
        assert_eq!(error, text(&case, "error"), "{name}");
    }
}

/// Nothing that is cut off or flipped panics, and no flipped bit of an entry or a segment's header
/// is overlooked.
#[test]
fn no_flipped_bit_is_overlooked() {
    for case in cases("accepted") {
        let (kind, mut bytes) = (text(&case, "kind").to_owned(), bytes_of(&case));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let decodes = match kind.as_str() {
                "journal_segment" => SegmentHeader::decode(&bytes).is_ok(),
                "patch_header" => PatchHeader::decode(&bytes).is_ok(),
                "journal_entry" | "journal_mark" => decode_entry(&bytes).is_ok(),
                body => {
                    let _ = Body::decode(kind_of_body(body), &bytes);
                    false
                }
            };
            assert!(!decodes, "{}: bit {bit}", text(&case, "name"));
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        if kind_is_body(&kind) {
            for len in 0..bytes.len() {
                assert!(Body::decode(kind_of_body(&kind), &bytes[..len]).is_err());
            }
        }
    }
}

fn kind_is_body(kind: &str) -> bool {
    !kind.starts_with("journal_") && kind != "patch_header"
}
