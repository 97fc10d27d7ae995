//! Reads `spec/vectors/records.toml`: every accepted case decodes to its fields and encodes to its
//! bytes, every rejected one fails with its error (`spec/records.md` section 6).

use std::collections::BTreeSet;
use std::path::Path;

use sarsen_protocol::id_row::{IdRow, IdRowKind, decode_table, encode_table};
use sarsen_protocol::record::{Record, decode};
use toml::{Table, Value};

fn cases(group: &str) -> Vec<Table> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec/vectors/records.toml");
    let vectors: Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
    let cases = vectors[group].as_array().unwrap();
    cases
        .iter()
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

fn table(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Table {
    let named = fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    named.collect()
}

fn record_fields(record: &Record<'_>) -> Table {
    let payload: String = record.payload.iter().map(|b| format!("{b:02x}")).collect();
    table([
        ("session", wide(record.session.0)),
        ("number", wide(record.number)),
        ("payload", format!("0x{payload}").into()),
    ])
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

/// What a case's bytes decode to: its fields, and its bytes encoded again; or the error's name.
fn decoded(case: &Table) -> Result<(Table, Vec<u8>), String> {
    let bytes = bytes_of(case);
    match text(case, "kind") {
        "record" => {
            let record = decode(&bytes).map_err(|error| error.to_string())?;
            let mut encoded = record.header().unwrap().to_vec();
            encoded.extend_from_slice(record.payload);
            Ok((record_fields(&record), encoded))
        }
        "id_table" => {
            let crc = case["given"]["id_table_crc32"].as_integer().unwrap();
            let rows = decode_table(&bytes, u32::try_from(crc).unwrap())
                .map_err(|error| error.to_string())?;
            let fields = Value::Array(rows.iter().map(row_fields).collect());
            Ok((table([("rows", fields)]), encode_table(&rows)))
        }
        kind => panic!("a kind that the specification doesn't have: {kind}"),
    }
}

#[test]
fn accepted_cases_decode_to_their_fields_and_encode_to_their_bytes() {
    let mut kinds = BTreeSet::new();
    for case in cases("accepted") {
        let name = text(&case, "name");
        let (fields, encoded) = decoded(&case).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(&fields, case["fields"].as_table().unwrap(), "{name}");
        assert!(encoded == bytes_of(&case), "{name}: encodes to other bytes");
        kinds.insert(text(&case, "kind").to_owned());
    }
    assert_eq!(kinds.len(), 2, "{kinds:?}");
}

#[test]
fn rejected_cases_fail_with_their_error() {
    for case in cases("rejected") {
        let name = text(&case, "name");
        let error = decoded(&case).expect_err(name);
        assert_eq!(error, text(&case, "error"), "{name}");
    }
}

/// A flipped bit anywhere in a record is found.
#[test]
fn no_flipped_bit_is_overlooked() {
    for case in cases("accepted") {
        if text(&case, "kind") == "record" {
            let mut bytes = bytes_of(&case);
            for bit in 0..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(
                    decode(&bytes).is_err(),
                    "{}: bit {bit}",
                    text(&case, "name")
                );
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }
}
