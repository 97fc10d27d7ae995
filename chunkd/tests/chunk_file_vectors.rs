//! Reads `spec/vectors/chunk-file.toml`: every accepted case decodes to its fields and encodes to
//! its bytes, every rejected one fails with its error (`spec/chunk-file.md` section 13).

#![cfg(feature = "edge")]

use std::collections::BTreeSet;
use std::path::Path;

use sarsen_chunkd::store::crc_page;
use sarsen_chunkd::store::header::{FoundHeader, Header, decode_page};
use sarsen_chunkd::store::identity::Identity;
use sarsen_chunkd::store::layout::slot_index;
use toml::{Table, Value};

fn vectors() -> Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec/vectors/chunk-file.toml");
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

fn cases(group: &str) -> Vec<Table> {
    let vectors = vectors();
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

/// A number of the header that a CRC page is compared with.
fn given(case: &Table, field: &str) -> u32 {
    u32::try_from(case["given"][field].as_integer().unwrap()).unwrap()
}

fn wide(value: u64) -> Value {
    format!("0x{value:016x}").into()
}

fn id(bytes: [u8; 16]) -> Value {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("0x{digits}").into()
}

fn header_fields(header: &Header) -> Table {
    let Header {
        state,
        flags,
        generation,
        cluster_id,
        directory_id,
        handle,
        version,
        promised_version,
        begin_serial,
        serial,
        file_id,
        index,
        chunk_size,
        length,
        data_crc32,
        crc_page_crc32,
        id_table_length,
        id_table_crc32,
        clone_handle,
        clone_version,
        last_verified,
    } = header;
    [
        ("state", state.name().into()),
        ("flags", i64::from(flags.bits()).into()),
        ("generation", wide(*generation)),
        ("cluster_id", id(cluster_id.0)),
        ("directory_id", id(directory_id.0)),
        ("handle", wide(handle.0)),
        ("version", wide(version.0)),
        ("promised_version", wide(promised_version.0)),
        ("begin_serial", wide(begin_serial.0)),
        ("serial", wide(serial.0)),
        ("file_id", wide(file_id.0)),
        ("index", (*index).into()),
        ("chunk_size", (*chunk_size).into()),
        ("length", (*length).into()),
        ("data_crc32", (*data_crc32).into()),
        ("crc_page_crc32", (*crc_page_crc32).into()),
        ("id_table_length", (*id_table_length).into()),
        ("id_table_crc32", (*id_table_crc32).into()),
        ("clone_handle", wide(clone_handle.0)),
        ("clone_version", wide(clone_version.0)),
        ("last_verified", wide(*last_verified)),
    ]
    .map(|(name, value): (&str, Value)| (name.to_owned(), value))
    .into_iter()
    .collect()
}

fn page_fields(found: &FoundHeader) -> Table {
    let mut fields = header_fields(&found.header);
    let slot = i64::try_from(slot_index(found.header.generation)).unwrap();
    fields.insert("slot".into(), slot.into());
    fields.insert("doubtful".into(), found.doubtful.into());
    fields
}

fn identity_fields(identity: &Identity) -> Table {
    let adoption = identity.adoption;
    let registered = identity.known_starts.registered.unwrap_or_default();
    let offered = identity.known_starts.offered.iter().map(|nonce| nonce.0);
    let offered = offered.chain(std::iter::repeat(0)).take(16).map(wide);
    [
        (
            "flags",
            (2 * i64::from(identity.poisoned) + 4 * i64::from(identity.stale)).into(),
        ),
        (
            "cluster_id",
            id(adoption.map_or([0; 16], |a| a.cluster_id.0)),
        ),
        ("directory_id", id(identity.directory_id.0)),
        ("server_id", wide(adoption.map_or(0, |a| a.server_id.0))),
        ("start_number", wide(identity.start_number.0)),
        ("start_nonce", wide(identity.start_nonce.0)),
        ("epoch_number", wide(identity.epoch.number)),
        ("epoch_incarnation", wide(identity.epoch.incarnation)),
        ("chunk_size", adoption.map_or(0, |a| a.chunk_size).into()),
        ("registered_number", wide(registered.0.0)),
        ("registered_nonce", wide(registered.1.0)),
        ("offered", Value::Array(offered.collect())),
    ]
    .map(|(name, value): (&str, Value)| (name.to_owned(), value))
    .into_iter()
    .collect()
}

/// What a case's bytes decode to: its fields, and its bytes encoded again; or the error's name.
fn decode(case: &Table) -> Result<(Table, Vec<u8>), String> {
    let bytes = bytes_of(case);
    match text(case, "kind") {
        "chunk_header_slot" => {
            let header = Header::decode(&bytes).map_err(|error| error.to_string())?;
            Ok((header_fields(&header), header.encode().to_vec()))
        }
        "chunk_header_page" => {
            let found = decode_page(&bytes).map_err(|error| error.name().to_owned())?;
            Ok((page_fields(&found), bytes))
        }
        "crc_page" => {
            let [length, data_crc32, page_crc32] =
                ["length", "data_crc32", "crc_page_crc32"].map(|field| given(case, field));
            let crcs = crc_page::decode(&bytes, length, data_crc32, page_crc32)
                .map_err(|error| error.to_string())?;
            let list = crcs.iter().map(|&crc| Value::from(crc)).collect::<Vec<_>>();
            let fields = [("block_crcs".to_owned(), list.into())]
                .into_iter()
                .collect();
            Ok((fields, crc_page::encode(&crcs).to_vec()))
        }
        "identity" => {
            let identity = Identity::decode(&bytes).map_err(|error| error.to_string())?;
            Ok((identity_fields(&identity), identity.encode().to_vec()))
        }
        kind => panic!("a kind that the specification doesn't have: {kind}"),
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
    assert_eq!(kinds.len(), 4, "{kinds:?}");
}

#[test]
fn rejected_cases_fail_with_their_error() {
    for case in cases("rejected") {
        let name = text(&case, "name");
        let error = decode(&case).expect_err(name);
        assert_eq!(error, text(&case, "error"), "{name}");
    }
}

/// Every check that the specification lists is shown by a case.
#[test]
fn every_error_of_the_specification_has_a_case() {
    let spec = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec/chunk-file.md");
    let spec = std::fs::read_to_string(spec).unwrap();
    let rejected = cases("rejected");
    let listed = |heading: &str, kind: &str| {
        let section = spec
            .split(heading)
            .nth(1)
            .unwrap()
            .split("\n## ")
            .next()
            .unwrap();
        let names = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
        // Field tables begin with an offset, error tables with the name.
        let names: BTreeSet<&str> = names.map(|(name, _)| name).collect();
        let shown = rejected.iter().filter(|case| text(case, "kind") == kind);
        let shown: BTreeSet<&str> = shown.map(|case| text(case, "error")).collect();
        assert!(!names.is_empty());
        assert_eq!(shown, names, "{kind}");
    };
    listed("### 4.2 Decoding a slot", "chunk_header_slot");
    listed("## 6. The CRC page", "crc_page");
    listed("## 8. `IDENTITY`", "identity");
}

/// A flipped bit anywhere in a slot or in `IDENTITY` is found.
#[test]
fn no_flipped_bit_is_overlooked() {
    for case in cases("accepted") {
        let bytes = bytes_of(&case);
        let decodes = |bytes: &[u8]| match text(&case, "kind") {
            "chunk_header_slot" => Header::decode(bytes).is_ok(),
            "identity" => Identity::decode(bytes).is_ok(),
            _ => false,
        };
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!decodes(&flipped), "{}: bit {bit}", text(&case, "name"));
        }
    }
}
