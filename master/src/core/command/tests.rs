//! Every kind of entry against `spec/vectors/oplog-entries.toml`.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::*;
use crate::core::vectors::{Vectors, bytes, hex, list, table, text, u32s, u64s};

fn vectors() -> Vectors {
    Vectors::read("oplog-entries")
}

fn kind_number(name: &str) -> u16 {
    let known = Command::KINDS.iter().find(|(_, known)| *known == name);
    known.map_or_else(|| name.parse().unwrap(), |(number, _)| *number)
}

#[test]
fn accepted_vectors_mean_what_they_say() {
    for vector in vectors().accepted {
        let body = bytes(&vector.hex);
        let command = Command::decode(kind_number(&vector.kind), &body).unwrap();
        assert_eq!(command.name(), vector.kind, "{}", vector.name);
        assert_eq!(fields(&command), vector.fields, "{}", vector.name);
        assert_eq!(command.encode_body(), body, "{}", vector.name);
    }
}

#[test]
fn rejected_vectors_are_rejected_for_their_reason() {
    for vector in vectors().rejected {
        let error = Command::decode(kind_number(&vector.kind), &bytes(&vector.hex)).unwrap_err();
        assert_eq!(error.name(), vector.error, "{}", vector.name);
    }
}

#[test]
fn every_kind_has_accepted_and_rejected_vectors() {
    let vectors = vectors();
    let accepted: BTreeSet<&str> = vectors.accepted.iter().map(|v| v.kind.as_str()).collect();
    let rejected: BTreeSet<&str> = vectors.rejected.iter().map(|v| v.kind.as_str()).collect();
    for (_, name) in Command::KINDS {
        assert!(accepted.contains(name) && rejected.contains(name), "{name}");
    }
}

#[test]
fn every_cut_of_a_body_is_truncated_and_every_longer_one_trails() {
    for vector in vectors().accepted {
        let (kind, mut body) = (kind_number(&vector.kind), bytes(&vector.hex));
        for len in 0..body.len() {
            let error = Command::decode(kind, &body[..len]).unwrap_err();
            assert_eq!(error.name(), "truncated", "{} cut to {len}", vector.name);
        }
        body.push(0);
        let error = Command::decode(kind, &body).unwrap_err();
        assert_eq!(error.name(), "trailing_bytes", "{}", vector.name);
    }
}

#[test]
fn kinds_are_those_of_the_specification() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../spec/oplog-entries.md");
    let spec = std::fs::read_to_string(path).unwrap();
    for (number, name) in Command::KINDS {
        assert!(
            spec.contains(&format!("\n| {number} | `{name}` |")),
            "{number} {name}"
        );
        assert!(
            spec.contains(&format!(" `{name}` ({number})\n")),
            "{number} {name}"
        );
    }
}

// A command's fields as the vectors spell them.

fn fields(command: &Command) -> Table {
    match command {
        Command::Genesis(body) => table([
            ("cluster_id", hex(&body.cluster.0)),
            ("chunk_size", u32s(body.chunk_size)),
            ("ticket_key_id", u32s(body.ticket_key.id)),
            ("ticket_key", hex(body.ticket_key.key.bytes())),
        ]),
        Command::EpochRaised(EpochRaised { epoch }) => {
            let fields = [
                ("number", u64s(epoch.number)),
                ("incarnation", u64s(epoch.incarnation)),
            ];
            table([("epoch", Value::Table(table(fields)))])
        }
        Command::RangesReserved(body) => table([
            ("handles_end", u64s(body.handles_end)),
            ("versions_end", u64s(body.versions_end)),
        ]),
        Command::SessionOpened(body) => {
            table([("nonce", hex(&body.nonce)), ("client", text(&body.client))])
        }
        Command::SessionsClosed(body) => {
            table([("sessions", list(&body.sessions, |id| u64s(id.0)))])
        }
        Command::ServerRegistered(body) => table([
            ("server", u64s(body.server.0)),
            ("control_addr", text(&body.addresses.control)),
            ("data_addr", text(&body.addresses.data)),
            ("http_addr", text(&body.addresses.http)),
            ("rack", text(&body.rack)),
        ]),
        Command::DirectoryStarted(body) => table([
            ("directory", hex(&body.directory.0)),
            ("server", u64s(body.server.0)),
            ("start_number", u64s(body.start_number.0)),
            ("start_nonce", u64s(body.start_nonce.0)),
        ]),
        Command::ChunkActivated(body) => activation_fields(body),
        Command::ChunkSealed(body) => sealed_fields(body),
        Command::PossibleLoss(body) => table([
            ("handle", u64s(body.handle.0)),
            ("version", u64s(body.version.0)),
            ("serial", u64s(body.serial.0)),
            ("cause", cause(body.cause)),
        ]),
        Command::FileResized(body) => {
            table([("file", u64s(body.file.0)), ("size", u64s(body.size))])
        }
        names => name_fields(names),
    }
}

fn name_fields(command: &Command) -> Table {
    match command {
        Command::FolderMade(body) => {
            table([("flags", u32s(body.parents)), ("path", text(&body.path))])
        }
        Command::FileMade(body) => table([
            ("flags", u32s(body.parents)),
            ("replicas", u32s(body.replicas)),
            ("chunk_size", u32s(body.chunk_size)),
            ("path", text(&body.path)),
        ]),
        Command::PendingCreated(body) => table([
            (
                "flags",
                u32s(u8::from(body.parents) + 2 * u8::from(body.force)),
            ),
            ("replicas", u32s(body.replicas)),
            ("level", text(body.level.name())),
            ("chunk_size", u32s(body.chunk_size)),
            ("path", text(&body.path)),
        ]),
        Command::PendingAborted(body) => table([("file", u64s(body.file.0))]),
        Command::FilePublished(body) => {
            let flags =
                u8::from(body.parents) + 2 * u8::from(body.force) + 4 * u8::from(body.purge);
            table([
                ("flags", u32s(flags)),
                ("file", u64s(body.file.0)),
                ("size", u64s(body.size)),
                ("path", text(&body.path)),
                ("chunks", list(&body.chunks, published_chunk)),
            ])
        }
        Command::Renamed(body) => table([
            ("source", text(&body.source)),
            ("target", text(&body.target)),
        ]),
        Command::Removed(body) => table([
            (
                "flags",
                u32s(u8::from(body.recursive) + 2 * u8::from(body.purge)),
            ),
            ("path", text(&body.path)),
        ]),
        Command::TrashRestored(body) => {
            let target = body.target.as_ref().map_or(text(""), text);
            table([("entry", u64s(body.entry.0)), ("target", target)])
        }
        Command::TrashEmptied(body) => table([("entry", u64s(body.entry.0))]),
        Command::TrashExpired(body) => table([("entries", list(&body.entries, |id| u64s(id.0)))]),
        other => panic!("{} has no fields here", other.name()),
    }
}

fn published_chunk(chunk: &PublishedChunk) -> Value {
    Value::Table(table([
        ("index", u32s(chunk.index)),
        ("handle", u64s(chunk.handle.0)),
        ("version", u64s(chunk.version.0)),
        ("length", u32s(chunk.len)),
        ("crc", u32s(chunk.crc)),
        ("servers", list(&chunk.servers, |id| u64s(id.0))),
    ]))
}

pub(in crate::core) fn member(member: &Member) -> Value {
    Value::Table(table([
        ("server", u64s(member.server.0)),
        ("directory", hex(&member.directory.0)),
        ("start_number", u64s(member.start_number.0)),
    ]))
}

pub(in crate::core) fn cause(cause: LossCause) -> Value {
    text(match cause {
        LossCause::NoMember => "no_member",
        LossCause::Accepted => "accepted",
    })
}

fn activation_fields(body: &Activation) -> Table {
    let active = &body.configuration;
    table([
        ("handle", u64s(body.handle.0)),
        ("version", u64s(active.version.0)),
        ("serial", u64s(active.serial.0)),
        ("flags", u32s(active.memory_allowed)),
        ("file", u64s(body.file.0)),
        ("index", u32s(body.index)),
        ("primary", u64s(active.primary.0)),
        ("members", list(&active.members, member)),
    ])
}

fn sealed_fields(body: &ChunkSealed) -> Table {
    let mut fields = table([
        ("handle", u64s(body.handle.0)),
        ("version", u64s(body.version.0)),
        ("length", u32s(body.len)),
        ("crc", u32s(body.crc)),
    ]);
    let then = match &body.then {
        Then::Nothing => "nothing",
        Then::Next(next) => {
            fields.insert("next".to_owned(), Value::Table(activation_fields(next)));
            "next"
        }
        Then::Cut { file, size } => {
            fields.insert("cut_file".to_owned(), u64s(file.0));
            fields.insert("cut_size".to_owned(), u64s(*size));
            "cut"
        }
    };
    fields.insert("then".to_owned(), text(then));
    fields
}
