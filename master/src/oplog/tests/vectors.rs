//! `spec/vectors/oplog.toml`: accepted bytes decode to their fields and come back from them,
//! rejected ones fail with their error (`spec/oplog.md` section 9).

use sarsen_protocol::id::{ClusterId, RequestId, SessionId};
use serde::Deserialize;
use toml::Table;

use super::super::checkpoint::{CheckpointHeader, decode_piece, encode_piece};
use super::super::entry::{
    Chain, Decoded, Entry, HEADER_LEN, Place, Position, decode_entry, encode_entry, encode_mark,
};
use super::super::error::FormatError;
use super::super::segment::{FORMAT_VERSION, SegmentHeader};

#[derive(Deserialize)]
struct Vectors {
    accepted: Vec<Accepted>,
    rejected: Vec<Rejected>,
}

#[derive(Deserialize)]
struct Accepted {
    name: String,
    kind: String,
    hex: String,
    fields: Table,
}

#[derive(Deserialize)]
struct Rejected {
    name: String,
    kind: String,
    hex: String,
    error: String,
}

fn vectors() -> Vectors {
    toml::from_str(include_str!("../../../../spec/vectors/oplog.toml")).unwrap()
}

#[test]
fn accepted_vectors_decode_and_encode() {
    for vector in vectors().accepted {
        let bytes = unhex(&vector.hex);
        let fields = decode(&vector.kind, &bytes).unwrap_or_else(|error| {
            panic!("{}: {}", vector.name, error.name());
        });
        assert_eq!(fields, vector.fields, "{}", vector.name);
        assert_eq!(
            encode(&vector.kind, &vector.fields),
            bytes,
            "{}",
            vector.name
        );
    }
}

#[test]
fn rejected_vectors_fail_with_their_error() {
    for vector in vectors().rejected {
        let error = decode(&vector.kind, &unhex(&vector.hex)).expect_err(&vector.name);
        assert_eq!(error.name(), vector.error, "{}", vector.name);
    }
}

#[test]
fn every_error_has_a_rejected_vector() {
    let vectors = vectors();
    let all = [
        FormatError::Truncated,
        FormatError::TrailingBytes,
        FormatError::MagicWrong,
        FormatError::HeaderCrcWrong,
        FormatError::VersionUnknown,
        FormatError::FlagsUnknown,
        FormatError::ReservedNotZero,
        FormatError::IndexWrong,
        FormatError::BodyTooLong,
        FormatError::RequestIdInvalid,
        FormatError::MarkInvalid,
        FormatError::BodyCrcWrong,
        FormatError::PaddingNotZero,
        FormatError::KindWrong,
        FormatError::PieceLenWrong,
        FormatError::PieceCrcWrong,
    ];
    for error in all {
        let has_one = vectors
            .rejected
            .iter()
            .any(|vector| vector.error == error.name());
        assert!(has_one, "{}", error.name());
    }
}

fn decode(kind: &str, bytes: &[u8]) -> Result<Table, FormatError> {
    match kind {
        "oplog_entry" => decode_whole_entry(bytes).and_then(entry_fields),
        "oplog_mark" => decode_whole_entry(bytes).and_then(|found| mark_fields(&found)),
        "oplog_segment" => {
            let header = SegmentHeader::decode(bytes)?;
            all_used(bytes, HEADER_LEN)?;
            Ok(segment_fields(&header))
        }
        "checkpoint_header" => {
            let header = CheckpointHeader::decode(bytes)?;
            all_used(bytes, HEADER_LEN)?;
            Ok(checkpoint_fields(&header))
        }
        "checkpoint_piece" => {
            let payload = decode_piece(bytes)?;
            all_used(bytes, 8 + payload.len())?;
            Ok(Table::from_iter([(
                "payload".to_owned(),
                hex(payload).into(),
            )]))
        }
        other => panic!("no such kind: {other}"),
    }
}

fn decode_whole_entry(bytes: &[u8]) -> Result<Decoded<'_>, FormatError> {
    let found = decode_entry(bytes)?;
    all_used(bytes, found.encoded_len)?;
    Ok(found)
}

fn all_used(bytes: &[u8], len: usize) -> Result<(), FormatError> {
    if bytes.len() == len {
        Ok(())
    } else {
        Err(FormatError::TrailingBytes)
    }
}

fn entry_fields(found: Decoded<'_>) -> Result<Table, FormatError> {
    let (header, place) = (found.header, found.header.place);
    let request = header.request.unwrap_or_default();
    Ok(table([
        (
            "kind",
            i64::from(header.kind.ok_or(FormatError::KindWrong)?).into(),
        ),
        ("term", hex_u64(header.term)),
        ("index", hex_u64(place.index)),
        ("synced_index", hex_u64(place.synced_index)),
        ("time", hex_u64(header.time_ms)),
        ("session", hex_u64(request.session.0)),
        ("number", hex_u64(request.number)),
        ("lowest_outstanding", hex_u64(request.lowest_outstanding)),
        ("chain_before", hex(&place.chain_before.0).into()),
        ("cluster", hex(&place.cluster.0).into()),
        ("body", hex(found.body).into()),
        ("chain", hex(&found.chain().0).into()),
    ]))
}

fn mark_fields(found: &Decoded<'_>) -> Result<Table, FormatError> {
    let (header, place) = (found.header, found.header.place);
    match header.kind {
        Some(_) => Err(FormatError::KindWrong),
        None => Ok(table([
            ("term", hex_u64(header.term)),
            ("index", hex_u64(place.index)),
            ("time", hex_u64(header.time_ms)),
            ("chain_before", hex(&place.chain_before.0).into()),
            ("cluster", hex(&place.cluster.0).into()),
        ])),
    }
}

fn segment_fields(header: &SegmentHeader) -> Table {
    table([
        ("version", i64::from(FORMAT_VERSION).into()),
        ("first_index", hex_u64(header.first_index())),
        ("last_term", hex_u64(header.before.term)),
        ("chain_before", hex(&header.before.chain.0).into()),
        ("cluster", hex(&header.cluster.0).into()),
    ])
}

fn checkpoint_fields(header: &CheckpointHeader) -> Table {
    table([
        ("version", i64::from(FORMAT_VERSION).into()),
        ("body_crc", i64::from(header.body_crc).into()),
        ("body_len", hex_u64(header.body_len)),
        ("last_index", hex_u64(header.position.index)),
        ("last_term", hex_u64(header.position.term)),
        ("time", hex_u64(header.time_ms)),
        ("chain", hex(&header.position.chain.0).into()),
        ("cluster", hex(&header.cluster.0).into()),
    ])
}

fn encode(kind: &str, fields: &Table) -> Vec<u8> {
    let fields = Fields(fields);
    let cluster = || ClusterId(fields.array("cluster"));
    let place = |synced_index| Place {
        index: fields.u64("index"),
        synced_index,
        chain_before: Chain(fields.array("chain_before")),
        cluster: cluster(),
    };
    match kind {
        "oplog_entry" => {
            let mut bytes = Vec::new();
            let chain = encode_entry(
                &mut bytes,
                &fields.entry(),
                &place(fields.u64("synced_index")),
            );
            assert_eq!(chain, Chain(fields.array("chain")));
            bytes
        }
        "oplog_mark" => {
            let place = place(fields.u64("index") - 1);
            encode_mark(fields.u64("term"), fields.u64("time"), &place).to_vec()
        }
        "oplog_segment" => {
            let before = Position {
                index: fields.u64("first_index") - 1,
                term: fields.u64("last_term"),
                chain: Chain(fields.array("chain_before")),
            };
            SegmentHeader {
                before,
                cluster: cluster(),
            }
            .encode()
            .to_vec()
        }
        "checkpoint_header" => {
            let position = Position {
                index: fields.u64("last_index"),
                term: fields.u64("last_term"),
                chain: Chain(fields.array("chain")),
            };
            let header = CheckpointHeader {
                position,
                time_ms: fields.u64("time"),
                cluster: cluster(),
                body_len: fields.u64("body_len"),
                body_crc: u32::try_from(fields.0["body_crc"].as_integer().unwrap()).unwrap(),
            };
            header.encode().to_vec()
        }
        "checkpoint_piece" => {
            let mut bytes = Vec::new();
            encode_piece(&mut bytes, &fields.bytes("payload"));
            bytes
        }
        other => panic!("no such kind: {other}"),
    }
}

struct Fields<'a>(&'a Table);

impl Fields<'_> {
    fn bytes(&self, name: &str) -> Vec<u8> {
        unhex(self.0[name].as_str().unwrap().strip_prefix("0x").unwrap())
    }

    fn array<const N: usize>(&self, name: &str) -> [u8; N] {
        self.bytes(name).try_into().unwrap()
    }

    fn u64(&self, name: &str) -> u64 {
        let digits = self.0[name].as_str().unwrap().strip_prefix("0x").unwrap();
        assert_eq!(digits.len(), 16, "{name}");
        u64::from_str_radix(digits, 16).unwrap()
    }

    fn entry(&self) -> Entry {
        let id = RequestId {
            session: SessionId(self.u64("session")),
            number: self.u64("number"),
            lowest_outstanding: self.u64("lowest_outstanding"),
        };
        Entry {
            kind: u16::try_from(self.0["kind"].as_integer().unwrap()).unwrap(),
            term: self.u64("term"),
            time_ms: self.u64("time"),
            request: (id != RequestId::default()).then_some(id),
            body: self.bytes("body"),
        }
    }
}

fn table<const N: usize>(fields: [(&str, toml::Value); N]) -> Table {
    fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold("0x".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

fn hex_u64(value: u64) -> toml::Value {
    format!("0x{value:016x}").into()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&String::from_iter(pair), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}
